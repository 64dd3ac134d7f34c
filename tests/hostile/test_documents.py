"""Hostile manifests, configurations and indexes, served by a registry and pushed by a client."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.hostile_manifests import DOCUMENTS, Served
from support.hostile_ways import World
from support.misbehaving import Exchange, misbehaving

from shipway import ShipwayError, oci

CASES = [pytest.param(case, id=name) for name, case in DOCUMENTS.items()]
Case = tuple[type[ShipwayError] | None, Callable[[], Served]]


def registry(served: Served) -> Callable[[Exchange], None]:
    """Return a registry that serves this, and nothing else."""
    blobs = {oci.sha256(blob): blob for blob in served.blobs}

    def answer(exchange: Exchange) -> None:
        _, _, target = exchange.path.rpartition("/")
        if "/blobs/" in exchange.path:
            if target in blobs:
                exchange.answer(200, blobs[target])
            else:
                exchange.answer(404)
        elif target == "tag" or target in served.manifests:
            data = served.document if target == "tag" else served.manifests[target]
            kind = served.media_type if target == "tag" else oci.INDEX if b'"manifests"' in data else oci.MANIFEST
            exchange.answer(200, data, content_type=kind)
        else:
            exchange.answer(404)

    return answer


@pytest.mark.parametrize("world", ["native"], indirect=True)
@pytest.mark.parametrize("case", CASES)
def test_a_document_that_makes_no_sense_is_refused(world: World, tmp_path: Path, case: Case) -> None:
    wanted, make = case
    with misbehaving(registry(make())) as server, world.untouched():
        reference = f"oci://{server.host}/some/where:tag"
        pulled = world.try_to(lambda: world.pull(reference))
        pulled.check(wanted, "sha256:")
        (tmp_path / "beside").mkdir()
        extracted = world.try_to(lambda: world.extract(reference, tmp_path / "beside/out"))
        shutil.rmtree(tmp_path / "beside")
    if wanted is None:
        assert pulled.tree == extracted.tree


@pytest.mark.parametrize("world", ["native"], indirect=True)
@pytest.mark.parametrize("case", CASES)
def test_pushing_a_document_that_makes_no_sense_is_answered_and_changes_nothing(world: World, case: Case) -> None:
    served = case[1]()
    with world.untouched():
        status = world.push_document(served.document, served.media_type, served.blobs, served.manifests)
    assert status == 201 or 400 <= status < 500
