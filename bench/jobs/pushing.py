"""A ref goes to a registry on the loopback interface."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from bench import images, services
from bench.fingerprint import ALL, NO_TIMES, WHOLE_SECONDS, Keeps, fingerprint, same
from bench.jobs.changed import CHANGES, WORKS, Change, copied
from bench.measure import command, pipeline, quietly, shipway
from bench.model import Job, Sample, Side
from bench.scene import Scene
from bench.services import Service
from bench.store import commit, push
from bench.trees import Tree

REPOSITORY = "bench"


@dataclass(slots=True)
class _Push:
    """One amount of work: `tree` is what the other side may have, `now` what is pushed."""

    scene: Scene
    change: Change
    tree: Tree
    now: Path
    room: Path
    registry: Service
    salts: Iterator[int] = field(default_factory=lambda: count(1))

    def alter(self) -> None:
        """Change what is pushed: to something that nobody has seen."""
        self.change.apply(self.now, self.tree.files, next(self.salts))

    def same(self, target: Path, keeps: Keeps = ALL) -> None:
        """Compare what arrived with what was pushed."""
        same(fingerprint(self.now, keeps), target, keeps)

    def check_image(self, host: str, repository: str, tag: str, keeps: Keeps) -> None:
        """Compare an image in a registry with what was pushed."""
        with self.scene.room("check") as target:
            images.unpack(host, repository, tag, self.scene.renew(target / "tree"))
            self.same(target / "tree", keeps)


@contextmanager
def _pushes(change: Change, scene: Scene, work: int) -> Iterator[Sequence[Side]]:
    tree = scene.tree("small", work)
    with scene.room("push") as room, ExitStack() as stack:
        registry = stack.enter_context(services.docker_registry(scene.renew(room / "registry")))
        worker = stack.enter_context(services.shipway_serve(scene.renew(room / "worker"), room / "worker.log"))
        job = _Push(scene, change, tree, copied(scene, tree.path, room / "now"), room, registry)
        sides = [_ours("shipway", job, registry), _ours("shipway, to shipway serve", job, worker), _umoci(job)]
        if change.cold:
            sides += [_buildah(job), _floor(job)]
        yield [*sides, _rsync(job, stack)]


def _ours(name: str, job: _Push, server: Service) -> Side:
    """The command line pushes a ref that has just been committed; cold, from a store that is new."""
    root, number = job.room / f"ours-{server.pid}", count(1)
    state = {"ref": "", "base": "", "repository": REPOSITORY}

    def before() -> None:
        if job.change.cold:
            job.scene.renew(root)
            state["ref"] = commit(root, job.now)
            state["repository"] = f"{REPOSITORY}{next(number)}"
            return
        if not state["base"]:
            job.scene.renew(root)
            state["ref"] = state["base"] = commit(root, job.tree.path)
            push(root, state["base"], f"oci://{server.host}/{REPOSITORY}:base")
        job.alter()
        if job.change.files or job.change.one_in:
            state["ref"] = commit(root, job.now, state["base"])

    def run() -> Sample:
        reference = f"oci://{server.host}/{state['repository']}:now"
        return command(shipway(root, "push", state["ref"], reference))

    def check() -> None:
        job.check_image(server.host, state["repository"], "now", ALL)

    return Side(name, "shipway", run, before, check)


def _umoci(job: _Push) -> Side:
    """Umoci makes a layer of what changed, skopeo copies the image."""
    layout, bundle, number = job.room / "layout", job.room / "bundle", count(1)
    state = {"tag": ""}
    copy = "skopeo copy --quiet --dest-tls-verify=false oci:{0}:now docker://{1}/umoci/{2}:now"

    def before() -> None:
        state["tag"] = str(next(number)) if job.change.cold else "kept"
        if job.change.cold:
            _new_layout(layout, job)
            return
        if not layout.exists():
            _new_layout(layout, job)
            quietly(["umoci", "insert", "--image", f"{layout}:now", job.tree.path, "/"])
            quietly(["sh", "-c", copy.format(layout, job.registry.host, "kept")])
            quietly(["umoci", "tag", "--image", f"{layout}:now", "base"])
        job.alter()
        if job.change.files or job.change.one_in:
            job.scene.renew(bundle)
            bundle.rmdir()
            quietly(["umoci", "unpack", "--image", f"{layout}:base", bundle])
            quietly(["rsync", "-aHX", "--checksum", "--delete", f"{job.now}/", f"{bundle}/rootfs/"])

    def run() -> Sample:
        make = "true"
        if job.change.cold:
            make = f"umoci insert --image {layout}:now {job.now} /"
        elif job.change.files or job.change.one_in:
            make = f"umoci repack --image {layout}:now {bundle}"
        script = f"{make}; {copy.format(layout, job.registry.host, state['tag'])}"
        return pipeline(script)

    def check() -> None:
        # Its archives lack an end, so that tar complains of them: it unpacks them itself.
        with job.scene.room("check") as target:
            source = f"docker://{job.registry.host}/umoci/{state['tag']}:now"
            quietly(["skopeo", "copy", "--src-tls-verify=false", source, f"oci:{target}/layout:now"])
            quietly(["umoci", "unpack", "--image", f"{target}/layout:now", target / "bundle"])
            job.same(target / "bundle/rootfs", NO_TIMES)

    return Side("umoci, skopeo copy", "peer", run, before, check, ("umoci", "skopeo", "rsync"))


def _new_layout(layout: Path, job: _Push) -> None:
    job.scene.renew(layout)
    layout.rmdir()
    quietly(["umoci", "init", "--layout", layout])
    quietly(["umoci", "new", "--image", f"{layout}:now"])


def _buildah(job: _Push) -> Side:
    """Buildah makes an image of a directory and pushes it."""
    store, number = job.room / "buildah", count(1)
    call = f"buildah --root {store}/root --runroot {store}/run --storage-driver overlay"
    state = {"tag": ""}

    def before() -> None:
        job.scene.renew(store)
        state["tag"] = str(next(number))

    def run() -> Sample:
        target = f"docker://{job.registry.host}/buildah/{state['tag']}:now"
        return pipeline(
            f"c=$({call} from scratch); {call} add -q $c {job.now} / > /dev/null; "
            f"{call} commit -q $c made > /dev/null; {call} push -q --tls-verify=false made {target}"
        )

    def check() -> None:
        job.check_image(job.registry.host, f"buildah/{state['tag']}", "now", NO_TIMES)  # it rounds them

    return Side("buildah", "peer", run, before, check, ("buildah", "root"))


def _rsync(job: _Push, stack: ExitStack) -> Side:
    """Rsync sends a tree to its daemon; there is no digest of anything."""
    target, known = job.room / "rsync-target", job.scene.renew(job.room / "rsyncd")
    server: list[Service] = []

    def before() -> None:
        if not server:
            server.append(stack.enter_context(services.rsyncd(known, {"target": target})))
        if job.change.cold or not target.exists():
            job.scene.renew(target)
        if not job.change.cold:
            quietly(["rsync", "-aHX", "--delete", f"{job.tree.path}/", f"{target}/"])
            job.alter()

    def run() -> Sample:
        return command(
            ["rsync", "-aHX", "--delete", f"{job.now}/", f"rsync://{server[0].host}/target/"],
        )

    return Side("rsync", "peer", run, before, partial(job.same, target), ("rsync",))


def _floor(job: _Push) -> Side:
    """Two C programs: one packs, one sends the blob over a loopback connection."""
    packed, sent = job.room / "packed", job.room / "sent"

    def run() -> Sample:
        script = '"$1" "$3" "$4" > /dev/null; "$2" "$5" "$4"'
        return pipeline(script, job.scene.floor("pack"), job.scene.floor("copy"), job.now, packed, sent)

    def check() -> None:
        with job.scene.room("check") as target:
            quietly(["tar", "-x", "--zstd", "-f", sent, "-C", target])
            job.same(target, WHOLE_SECONDS)

    return Side("floor: C, pack and send", "floor", run, check=check, needs=("floor:pack", "floor:copy"))


JOBS = tuple(
    Job(
        f"push-{change.name}",
        f"A committed tree {change.about} goes to docker-registry",
        "files",
        WORKS,
        change.quick,
        partial(_pushes, change),
        ("docker-registry",),
        rounds=3,
    )
    for change in CHANGES
)
