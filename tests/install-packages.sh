#!/bin/sh
# Installs the Debian packages that the tests talk to. Says what is missing when it may not.
set -eu
missing=""
for pair in docker-registry:docker-registry skopeo:skopeo umoci:umoci podman:podman containerd:containerd \
    ctr-remote:stargz-snapshotter zstd:zstd tar:tar openssl:openssl nginx:nginx-light mkfs.btrfs:btrfs-progs strace:strace; do
    command -v "${pair%%:*}" >/dev/null 2>&1 || missing="$missing ${pair##*:}"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    echo "installing$missing"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "not installed, tests that need them will be skipped:$missing"
fi
