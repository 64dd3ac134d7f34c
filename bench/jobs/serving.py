"""Blobs served over HTTP: whole, and by ranges."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from bench import images, services
from bench.measure import PROJECT, cpu_of, memory_of, quietly
from bench.model import Job, Kind, Missing, Sample, Side, Target, WrongResult
from bench.scene import Scene
from bench.services import Service
from bench.store import commit, push

OURS = "shipway serve"
NGINX = "nginx"
BLOB = 64
"""MB: what is served whole, and ranges of which."""
RANGE = 65536
SECONDS = 2
QUICK_SECONDS = 1
_REPOSITORY = "bench"
_SCRIPT = PROJECT / "bench" / "load.lua"


@contextmanager
def _serving(scene: Scene, work: int, *, ranged: bool) -> Iterator[Sequence[Side]]:
    tree = scene.tree("large", BLOB)
    with scene.room("serve") as room, ExitStack() as stack:
        root, files = scene.renew(room / "root"), scene.renew(room / "files")
        registry = stack.enter_context(services.docker_registry(scene.renew(room / "registry")))
        push(root, commit(root, tree.path), f"oci://{registry.host}/{_REPOSITORY}:blob")
        (layer,) = images.layers(registry.host, _REPOSITORY, "blob")
        images.download(registry.host, _REPOSITORY, layer, files / "blob")
        ours = stack.enter_context(services.shipway_serve(root, room / "log"))
        size = (files / "blob").stat().st_size
        load = _Load(work, size if ranged else None, QUICK_SECONDS if scene.quick else SECONDS)
        sides = [
            load.side(OURS, "shipway", ours, images.blob_url(ours.host, "shipway", layer["digest"]), files / "blob"),
            load.side(
                "docker-registry",
                "peer",
                registry,
                images.blob_url(registry.host, _REPOSITORY, layer["digest"]),
                files / "blob",
            ),
        ]
        try:
            nginx = stack.enter_context(services.nginx(scene.renew(room / "nginx"), files))
            sides.append(load.side(NGINX, "floor", nginx, f"http://{nginx.host}/blob", files / "blob"))
        except Missing as why:
            sides.append(Side(NGINX, "floor", partial(_missing, why)))
        yield sides


def _missing(why: Missing) -> Sample:
    raise why


@dataclass(frozen=True, slots=True)
class _Load:
    """How many clients ask, and for ranges of a file of which size; None is the whole file. And for how long."""

    clients: int
    size: int | None
    seconds: int

    def side(self, name: str, kind: Kind, server: Service, url: str, blob: Path) -> Side:
        """Return the side in which `server` gives `blob`, which has to be what is at `url`."""
        return Side(name, kind, partial(self._run, server, url), check=partial(self._check, url, blob), needs=("wrk",))

    def _run(self, server: Service, url: str) -> Sample:
        options = ["-t1", f"-c{self.clients}", f"-d{self.seconds}s", "--timeout", "30s", "-s", str(_SCRIPT)]
        asked = [str(self.size)] if self.size else []
        used = cpu_of(server.pid)
        said = quietly(["wrk", *options, url, "--", *asked])
        spent = cpu_of(server.pid) - used
        answer = json.loads(said.splitlines()[-1])
        count = answer["requests"]
        if answer["errors"] or not count:
            raise WrongResult(f"{url}: {answer['errors']} errors, {count} answers")
        return Sample(answer["microseconds"] / 1e6 / count, spent / count, memory_of(server.pid))

    def _check(self, url: str, blob: Path) -> None:
        """Compare one answer with the file."""
        first = RANGE // 3
        headers = {"Range": f"bytes={first}-{first + RANGE - 1}"} if self.size else {}
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer, blob.open("rb") as file:
            file.seek(first if self.size else 0)
            expected = file.read(RANGE if self.size else -1)
            if answer.read() != expected:
                raise WrongResult(f"{url} answers with other bytes than asked for")


JOBS = (
    Job(
        "serve-whole",
        f"Seconds for each blob of {BLOB} MB, fetched whole by so many clients of wrk on the same machine; CPU and "
        "memory are those of the server",
        "clients",
        (1, 64),
        (),
        partial(_serving, ranged=False),
        ("docker-registry", "wrk"),
        (Target(OURS, 1 / 0.9, NGINX),),
    ),
    Job(
        "serve-ranges",
        f"Seconds for each request of {RANGE // 1024} KiB of such a blob",
        "clients",
        (1, 64),
        (64,),
        partial(_serving, ranged=True),
        ("docker-registry", "wrk"),
        (Target(OURS, 2.0, NGINX),),
    ),
)
