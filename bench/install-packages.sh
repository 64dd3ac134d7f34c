#!/bin/sh
# Installs what the benchmarks compare Shipway with, from Debian; needs root. No service is started.
set -eu
if [ "$(id -u)" != 0 ]; then
    echo "bench-packages: needs root" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive RUNLEVEL=1
apt-get update -qq
apt-get install -y -qq --no-install-recommends \
    borgbackup buildah casync containerd debootstrap docker-registry e2fsprogs fuse-overlayfs gcc libc6-dev \
    libssl-dev libzstd-dev nginx-light ostree podman restic rsync skopeo tar umoci wrk zstd >/dev/null
