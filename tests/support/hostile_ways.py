"""Every way an archive gets in: pulled, extracted from where it is, pushed to a server over the store."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipway import Cache, Corrupt, Invalid, NotFound, ShipwayError, oci
from shipway.server import serving
from shipway.server.store_backend import StoreBackend
from support.hostile import Packaged
from support.http import Answer, Client
from support.trees import Seen, describe

Shown = dict[str, Seen]


@dataclass(frozen=True)
class Outcome:
    """What became of an archive: the tree, or the error that refused it."""

    tree: Shown | None = None
    error: ShipwayError | None = None

    def check(self, wanted: type[ShipwayError] | None, named: str) -> None:
        """Check that it ended as it should, and that an error is one line which names the layer or the entry."""
        if wanted is None:
            assert self.error is None
            return
        assert isinstance(self.error, wanted), self
        line = str(self.error)
        assert line.isprintable(), line
        assert len(line) < 1500, line
        assert self.error.where or named in line, line


class Registry:
    """A served directory into which any image can be put."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._count = 0

    def put(self, image: Packaged) -> str:
        """Take in an image and return its reference."""
        self._count += 1
        repository = f"hostile/{self._count}"
        answer = send(self._client, image, repository)
        assert answer.status == 201, answer.body
        return f"oci://{self._client.host}/{repository}:tag"


def send(client: Client, image: Packaged, repository: str) -> Answer:
    """Push an image as any client would and return the answer to its manifest."""
    for blob in (image.config, *image.blobs):
        client.put_blob(blob, repository)
    kind = "application/vnd.oci.image.manifest.v1+json"
    return client.ask("PUT", f"/v2/{repository}/manifests/tag", image.manifest, Content_Type=kind)


class World:
    """A store, with things beside it and in it that no archive may touch."""

    def __init__(self, root: Path, driver: str, **options: Any) -> None:
        self.root = root
        self.cache = Cache.open(root / "store", driver=driver, **options)
        self._stack = ExitStack()
        url = self._stack.enter_context(serving(StoreBackend(self.cache)))
        self._client = self._stack.enter_context(Client(url))
        self._kept = self.cache.new()
        self.canary = root / "canary"
        (self.canary / "below").mkdir(parents=True)
        (self.canary / "secret").write_text("secret")
        (self.canary / "below/file").write_text("file")
        (root / "x").write_text("named as many entries are")
        os.link(self.canary / "secret", self.canary / "linked")
        with self._kept.mounted() as path:
            (path / "kept").write_text("kept")
        self.kept = self._kept.commit()
        self.kept.finalize()

    def close(self) -> None:
        """Close the store, and the server over it."""
        self._stack.close()
        self.cache.close()

    def outside(self) -> object:
        """Return all there is to see of what is not the store's, and of a tree that the store keeps."""
        beside = sorted(os.listdir(self.root)), describe(self.canary), (self.root / "x").read_text()
        store = self.cache.root
        with self.kept.mounted(readonly=True) as path:
            kept = describe(path, dir_times=False)
        return beside, kept, sorted(set(os.listdir(store)) - {"shipway.db-wal", "shipway.db-shm"})

    def inside(self) -> object:
        """Return what there is of trees in the store."""
        records = sorted((record.id, record.in_use) for record in self.cache.disk_usage())
        return records, sorted(os.listdir(self.cache.root / "snapshots")), os.listdir(self.cache.root / "ingest")

    def sweep(self) -> None:
        """Remove what nobody holds."""
        list(self.cache.prune())

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Check that the block changes nothing outside, and leaves nothing in the store that cannot be swept."""
        outside, inside = self.outside(), self.inside()
        yield
        assert os.listdir(self.cache.root / "ingest") == []
        assert self.outside() == outside
        self.sweep()
        assert self.inside() == inside

    # The ways in

    def pull(self, reference: str) -> Outcome:
        """Pull, and look at what is then mounted."""
        with self.cache.remote(reference) as remote:
            before = self.inside()
            try:
                ref = remote.pull()
            except ShipwayError as error:
                if len(getattr(remote, "layers", ())) == 1:
                    assert self.inside() == before
                return Outcome(error=error)
        with ref, ref.mounted(readonly=True) as path:
            return Outcome(describe(path))

    def extract(self, reference: str, out: Path) -> Outcome:
        """Extract all of it without pulling."""
        before = describe(out.parent, dir_times=False)
        with self.cache.remote(reference) as remote:
            try:
                remote.extract(out)
            except ShipwayError as error:
                assert describe(out.parent, dir_times=False) == before
                return Outcome(error=error)
        return Outcome(describe(out))

    def push(self, image: Packaged) -> Outcome:
        """Push it to a server over the store, and look at what the tag then is."""
        before = self.inside()
        answer = send(self._client, image, "pushed/image")
        if answer.status != 201:
            assert self.inside() == before
            message = answer.json["errors"][0]["message"]
            kind = {400: Corrupt, 404: Invalid}.get(answer.status, NotFound)
            return Outcome(error=kind(message))
        self._client.ask("DELETE", "/v2/pushed/image/manifests/tag")
        with self.cache.get(self._newest()) as ref, ref.mounted(readonly=True) as path:
            return Outcome(describe(path))

    def try_to(self, way: Callable[[], Outcome]) -> Outcome:
        """Return how a way in ends, also where the reference itself cannot be had."""
        try:
            return way()
        except ShipwayError as error:
            return Outcome(error=error)

    def every_way(self, registry: Registry, packaged: Packaged, beside: Path) -> tuple[Outcome, Outcome, Outcome]:
        """Return what pulling it, extracting it below `beside` and pushing it come to; nothing else may change."""
        reference = registry.put(packaged)
        with self.untouched():
            pulled = self.pull(reference)
            beside.mkdir()
            extracted = self.extract(reference, beside / "out")
            shutil.rmtree(beside)
            pushed = self.push(packaged)
        return pulled, extracted, pushed

    def push_document(
        self, document: bytes, media_type: str, blobs: Iterable[bytes], manifests: Mapping[str, bytes]
    ) -> int:
        """Push blobs, manifests by digest, and a tagged document, which is taken away again; return its status."""
        for blob in blobs:
            self._client.put_blob(blob, "pushed/image")
        for digest, data in manifests.items():
            kind = oci.INDEX if b'"manifests"' in data else oci.MANIFEST
            self._client.ask("PUT", f"/v2/pushed/image/manifests/{digest}", data, Content_Type=kind)
        answer = self._client.ask("PUT", "/v2/pushed/image/manifests/tag", document, Content_Type=media_type)
        self._client.ask("DELETE", "/v2/pushed/image/manifests/tag")
        return answer.status

    def _newest(self) -> str:
        return [record.id for record in self.cache.disk_usage()][-1]
