"""An image comes from a registry on the loopback interface and becomes a tree."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import images, services
from bench.fingerprint import ALL, NO_TIMES, Keeps, fingerprint, same
from bench.jobs.changed import CHANGES, WORKS, Change, copied
from bench.measure import command, pipeline, quietly, shipway
from bench.model import Job, Sample, Side, Target
from bench.scene import Scene, unmount_below
from bench.services import Service
from bench.store import check_ref, commit, prune, push

IMAGE = "bench"
OURS = "shipway"
_FORMS = ("zstd:chunked", "gzip", "zstd", "uncompressed")
SKOPEO = "skopeo copy, umoci unpack"
CTR = "ctr image pull"
FLOOR = "floor: C, the slower of copy and unpack"


@dataclass(frozen=True, slots=True)
class _Pull:
    """One amount of work. In the registry are `bench:base` and `bench:now`, the same with gzip as `umoci`."""

    scene: Scene
    change: Change
    base: Path
    now: Path
    room: Path
    registry: Service

    def same(self, target: Path, keeps: Keeps = ALL) -> None:
        """Compare what came with what was pushed."""
        same(fingerprint(self.now, keeps), target, keeps)


@contextmanager
def _pulls(change: Change, scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    tree = scene.tree("small", work)
    with scene.room("pull") as room, ExitStack() as stack:
        registry = stack.enter_context(services.docker_registry(scene.renew(room / "registry")))
        now = copied(scene, tree.path, room / "now")
        change.apply(now, tree.files, 1)
        root = scene.renew(room / "origin")
        base = commit(root, tree.path)
        latest = commit(root, now, base) if change.files or change.one_in else base
        for ref, tag in ((base, "base"), (latest, "now")):
            push(root, ref, f"oci://{registry.host}/{IMAGE}:{tag}")
        worker = stack.enter_context(services.shipway_serve(scene.renew(room / "worker"), room / "worker.log"))
        for ref, tag in ((base, "base"), (latest, "now")):
            push(root, ref, f"oci://{worker.host}/{IMAGE}:{tag}")
        job = _Pull(scene, change, tree.path, now, room, registry)
        sides = [
            _ours(OURS, job, registry),
            _ours("shipway, from shipway serve", job, worker),
            _skopeo(job),
            _ctr(job, stack),
            _podman(job),
            _rsync(job, stack),
        ]
        yield [*sides, _floor(job)] if change.cold else sides


@contextmanager
def _plain_pulls(scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    """An image in each form: of those without a table of contents a pull makes an index."""
    tree = scene.tree("small", work)
    with scene.room("pull") as room, ExitStack() as stack:
        registry = stack.enter_context(services.docker_registry(scene.renew(room / "registry")))
        root = scene.renew(room / "origin")
        ref = commit(root, tree.path)
        for form in _FORMS:
            push(root, ref, f"oci://{registry.host}/{IMAGE}:{_tag(form)}", form)
        job = _Pull(scene, CHANGES[0], tree.path, tree.path, room, registry)
        yield [_ours(f"shipway, {form}", job, registry, _tag(form)) for form in _FORMS]


def _tag(form: str) -> str:
    return form.replace(":", "-")


def _ours(name: str, job: _Pull, server: Service, tag: str = "now") -> Side:
    root = job.room / f"ours-{server.pid}-{tag}"
    pulled: list[str] = []
    call = shipway(root, "--json", "pull", f"oci://{server.host}/{IMAGE}:{tag}")

    def before() -> None:
        if job.change.cold or not root.exists():
            job.scene.renew(root)
        elif pulled and (job.change.files or job.change.one_in):
            prune(root, pulled.pop())
        if not job.change.cold:
            quietly(shipway(root, "pull", f"oci://{server.host}/{IMAGE}:base"))

    def check() -> None:
        # Asked once more, it is here, and says its id.
        pulled[:] = [str(json.loads(quietly(call))["id"])]
        check_ref(job.scene, root, pulled[0], fingerprint(job.now), ALL)

    return Side(name, "shipway", lambda: command(call), before, check)


def _skopeo(job: _Pull) -> Side:
    """An image with gzip layers, which umoci wants; what is unpacked is always the whole of it."""
    made, layout, bundle = job.room / "umoci", job.room / "layout", job.room / "bundle"
    source = f"docker://{job.registry.host}/umoci"

    def before() -> None:
        if not made.exists():
            _make_gzip_image(job, made)
        job.scene.renew(layout)
        if not job.change.cold:
            quietly(["skopeo", "copy", "--src-tls-verify=false", f"{source}:base", f"oci:{layout}:base"])
        job.scene.renew(bundle)
        bundle.rmdir()

    def run() -> Sample:
        script = (
            f"skopeo copy --quiet --src-tls-verify=false {source}:now oci:{layout}:now; "
            f"umoci unpack --image {layout}:now {bundle}"
        )
        return pipeline(script)

    def check() -> None:
        job.same(bundle / "rootfs", NO_TIMES)

    return Side(SKOPEO, "peer", run, before, check, ("skopeo", "umoci", "rsync"))


def _make_gzip_image(job: _Pull, layout: Path) -> None:
    bundle = job.room / "umoci-bundle"
    target = f"docker://{job.registry.host}/umoci"
    quietly(["umoci", "init", "--layout", layout])
    quietly(["umoci", "new", "--image", f"{layout}:base"])
    quietly(["umoci", "insert", "--image", f"{layout}:base", job.base, "/"])
    if job.change.files or job.change.one_in:
        quietly(["umoci", "unpack", "--image", f"{layout}:base", bundle])
        quietly(["rsync", "-aHX", "--checksum", f"{job.now}/", f"{bundle}/rootfs/"])
        quietly(["umoci", "repack", "--image", f"{layout}:now", bundle])
    else:
        quietly(["umoci", "tag", "--image", f"{layout}:base", "now"])
    for tag in ("base", "now"):
        quietly(["skopeo", "copy", "--dest-tls-verify=false", f"oci:{layout}:{tag}", f"{target}:{tag}"])


def _ctr(job: _Pull, stack: ExitStack) -> Side:
    """Containerd with a daemon of our own, whose CPU and memory count."""
    known = job.room / "containerd"
    daemon: list[Service] = []
    names = {tag: f"{job.registry.host}/{IMAGE}:{tag}" for tag in ("base", "now")}

    def ctr(*words: str | Path) -> list[str | Path]:
        return ["ctr", "--address", daemon[0].host, "-n", "bench", *words]

    def before() -> None:
        if not daemon:
            daemon.append(stack.enter_context(services.containerd(job.scene.renew(known))))
        quietly(["sh", "-c", '"$@" 2>/dev/null || true', "sh", *ctr("images", "rm", "--sync", names["now"])])
        if not job.change.cold:
            quietly(ctr("images", "pull", "--plain-http", names["base"]))

    def run() -> Sample:
        return command(ctr("images", "pull", "--plain-http", names["now"]), services=[daemon[0].pid])

    def check() -> None:
        with job.scene.room("check") as target:
            quietly(ctr("images", "mount", names["now"], target))
            try:
                job.same(target)
            finally:
                quietly(ctr("images", "unmount", "--rm", target))

    return Side(CTR, "peer", run, before, check, ("ctr", "containerd", "root"))


def _podman(job: _Pull) -> Side:
    store = job.room / "podman"
    call: list[str | Path] = [
        "podman",
        "--root",
        store / "root",
        "--runroot",
        job.scene.root / "run",  # podman takes no path of more than 50 characters
        "--storage-driver",
        "overlay",
    ]
    names = {tag: f"{job.registry.host}/{IMAGE}:{tag}" for tag in ("base", "now")}

    def pull(tag: str) -> list[str | Path]:
        return [*call, "pull", "-q", "--tls-verify=false", names[tag]]

    def before() -> None:
        if job.change.cold or not store.exists():
            unmount_below(store)
            job.scene.renew(store)
        else:
            quietly([*call, "rmi", "-f", names["now"]])
        if not job.change.cold:
            quietly(pull("base"))

    def check() -> None:
        job.same(Path(quietly([*call, "image", "mount", names["now"]]).strip()))
        quietly([*call, "image", "unmount", names["now"]])

    def run() -> Sample:
        return command(pull("now"))

    return Side("podman pull", "peer", run, before, check, ("podman", "root"))


def _rsync(job: _Pull, stack: ExitStack) -> Side:
    target, known = job.room / "rsync-target", job.scene.renew(job.room / "rsyncd")
    server: list[Service] = []

    def before() -> None:
        if not server:
            server.append(stack.enter_context(services.rsyncd(known, {"now": job.now})))
        job.scene.renew(target)
        if not job.change.cold:
            copied(job.scene, job.base, target)

    def run() -> Sample:
        source = f"rsync://{server[0].host}/now/"
        return command(["rsync", "-aHX", "--delete", source, f"{target}/"])

    return Side("rsync", "peer", run, before, lambda: job.same(target), ("rsync",))


def _floor(job: _Pull) -> Side:
    """What a pull cannot avoid, if it does both at the same time: moving the blob, and unpacking it."""
    blob, copy, target = job.room / "blob", job.room / "blob-copy", job.room / "floor-target"

    def before() -> None:
        if not blob.exists():
            (layer,) = images.layers(job.registry.host, IMAGE, "now")
            images.download(job.registry.host, IMAGE, layer, blob)
        job.scene.renew(target)

    def run() -> Sample:
        one = command([job.scene.floor("copy"), copy, blob])
        other = command([job.scene.floor("unpack"), blob, target])
        return max(one, other, key=lambda sample: sample.seconds)

    return Side(FLOOR, "floor", run, before, lambda: job.same(target), ("floor:copy", "floor:unpack"))


_TARGETS = (
    Target(OURS, 0.5, SKOPEO),
    Target(OURS, 0.5, CTR),
    Target(OURS, 1.3, FLOOR),
    Target(OURS, 150e6, what="memory"),
)

_PLAIN = Job(
    "pull-plain",
    "An image that the other side has not, in forms with and without a table of contents, becomes a tree",
    "files",
    WORKS,
    (1_000,),
    _plain_pulls,
    ("docker-registry",),
    rounds=3,
)

JOBS = (
    *(
        Job(
            f"pull-{change.name}",
            f"An image {change.about} comes from docker-registry and becomes a tree",
            "files",
            WORKS,
            change.quick,
            partial(_pulls, change),
            ("docker-registry",),
            _TARGETS if change.cold else (),
            rounds=3,
        )
        for change in CHANGES
    ),
    _PLAIN,
)
