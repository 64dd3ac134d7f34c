"""Some files of a remote tree come here, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from bench import services
from bench.fingerprint import fingerprint, same
from bench.measure import command, inner, pipeline, quietly, worker
from bench.model import Job, Sample, Side
from bench.scene import Scene
from bench.store import commit, push
from bench.trees import Tree

IMAGE = "bench"
FILES = 30_000
QUICK_FILES = 1_000


@contextmanager
def _extracts(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    tree = scene.tree("small", QUICK_FILES if scene.quick else FILES)
    with scene.room("extract") as room, ExitStack() as stack:
        registry = stack.enter_context(services.docker_registry(scene.renew(room / "registry")))
        served = stack.enter_context(services.shipway_serve(scene.renew(room / "worker"), room / "worker.log"))
        origin = scene.renew(room / "origin")
        ref = commit(origin, tree.path)
        for host in (registry.host, served.host):
            push(origin, ref, f"oci://{host}/{IMAGE}:now")
        names, expected = _chosen(scene, tree, room, work)
        target, root, image = room / "target", room / "root", room / "image"

        def ours(host: str) -> Sample:
            reference = f"oci://{host}/{IMAGE}:now"
            return inner(worker("extract", root=root, reference=reference, names=names, target=target))[0]

        def skopeo() -> Sample:
            copy = 'skopeo copy --quiet --src-tls-verify=false "$1" "dir:$2"; cd "$2"; layer=$(ls -S | head -n 1)'
            take = 'tar -x --zstd -f "$layer" -C "$3" --no-recursion --files-from="$4"'
            return pipeline(f"{copy}; {take}", f"docker://{registry.host}/{IMAGE}:now", image, target, names)

        def before() -> None:
            for path in (target, root, image):
                scene.renew(path)

        def check() -> None:
            same(expected, target)

        sides = [
            Side("shipway", "shipway", partial(ours, registry.host), before, check),
            Side("shipway, from shipway serve", "shipway", partial(ours, served.host), before, check),
            Side("skopeo copy, tar -x", "peer", skopeo, before, check, ("skopeo", "tar")),
            _rsync(scene, stack, tree, room, expected),
            _floor(scene, tree, names, target),
        ]
        yield sides


def _chosen(scene: Scene, tree: Tree, room: Path, count: int) -> tuple[Path, str]:
    """Return a file that lists so many files of a tree, spread over it, and the fingerprint of a tree of just these."""
    every = tree.names()
    names = every[:: max(1, len(every) // count)][:count]
    listed = room / "names"
    listed.write_text("".join(f"{name}\n" for name in names))
    only = scene.renew(room / "only")
    quietly(["sh", "-c", 'xargs -d "\\n" cp -a --parents -t "$1" < "$2"', "sh", only, listed], cwd=tree.path)
    return listed, fingerprint(only)


def _rsync(scene: Scene, stack: ExitStack, tree: Tree, room: Path, expected: str) -> Side:
    server: list[services.Service] = []
    target, known = room / "rsync-target", scene.renew(room / "rsyncd")

    def before() -> None:
        if not server:
            server.append(stack.enter_context(services.rsyncd(known, {"tree": tree.path})))
        scene.renew(target)

    def run() -> Sample:
        source = f"rsync://{server[0].host}/tree/"
        return command(["rsync", "-aHX", f"--files-from={room / 'names'}", source, f"{target}/"])

    return Side("rsync --files-from", "peer", run, before, lambda: same(expected, target), ("rsync",))


def _floor(scene: Scene, tree: Tree, names: Path, target: Path) -> Side:
    """The files' bytes sent over one loopback connection."""
    script = 'cd "$1"; xargs -d "\\n" -n 100000 -s 2000000 -x "$2" "$3/all" < "$4"'

    def run() -> Sample:
        return pipeline(script, tree.path, scene.floor("copy"), target, names)

    return Side("floor: C, send", "floor", run, lambda: scene.renew(target), needs=("floor:copy",))


JOBS = (
    Job(
        "remote-extract",
        f"Files of an image of {FILES:,} small ones ({QUICK_FILES:,} in a quick run) come here from docker-registry",
        "files",
        (1, 100, 10_000),
        (1, 100),
        _extracts,
        ("docker-registry",),
        rounds=3,
    ),
)
