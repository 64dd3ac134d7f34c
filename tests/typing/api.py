"""How the public names are used, for the type checker alone: it is never run.

Each `assert_type` is a promise to those who type their own code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, assert_type

import shipway


def a_cache() -> None:
    with shipway.Cache.open() as cache:
        assert_type(cache, shipway.Cache)
        assert_type(cache.root, Path)
        assert_type(cache.driver.name, str)
        assert_type(cache.driver.can_mount, bool)
    shipway.Cache.open(Path("root"), driver="native", remotes=["oci://127.0.0.1:5000"]).close()
    limits = shipway.Limits(size=1 << 30, entries=1000, ratio=10)
    assert_type(limits.size, int)
    shipway.Cache.open(limits=limits).close()


def configuration() -> None:
    policy = shipway.PrunePolicy(max_used_space="10GB", keep_duration="48h")
    registry = {"ghcr.io": shipway.RegistrySettings(mirrors=("mirror.example:5000",))}
    config = shipway.Config(root=Path("root"), remotes=("oci://host",), prune=(policy,), registry=registry)
    with shipway.Cache.open(config=config) as cache:
        assert_type(cache.config, shipway.Config)
    shipway.Cache.open("root", config="config.toml").close()


def local_refs(cache: shipway.Cache, progress: shipway.ProgressCallback) -> None:
    base = cache.import_tree("tree", description="first", progress=progress)
    assert_type(base, shipway.LocalImmutableRef)
    assert_type(base.id, str)
    assert_type(base.size(), int)
    assert_type(base.parent, shipway.LocalImmutableRef | None)
    base.finalize()
    work = cache.new(
        base,
        policy=shipway.CachePolicy.RETAIN,
        description="second",
        record_type=shipway.RecordType.CACHE_MOUNT,
        labels={"a": "b"},
    )
    assert_type(work, shipway.MutableRef)
    assert_type(work.mount(readonly=True), list[shipway.Mount])
    assert_type(work.mounted(), AbstractContextManager[Path])
    assert_type(work.commit(), shipway.LocalImmutableRef)
    assert_type(cache.get(cache.find("ab")), shipway.LocalImmutableRef)
    assert_type(cache.get_mutable("id"), shipway.MutableRef)


def refs_are_context_managers(cache: shipway.Cache, stack: ExitStack) -> None:
    with cache.new() as work:
        assert_type(work, shipway.MutableRef)
    assert_type(stack.enter_context(cache.get("id")), shipway.LocalImmutableRef)
    assert_type(stack.enter_context(cache.remote("oci://host/x")), shipway.RemoteImmutableRef)


def remote_refs(cache: shipway.Cache) -> None:
    with cache.remote("oci://host/repository:tag", platform="linux/arm64") as remote:
        done = remote.extract("out", "/bin/*", parents=True, wildcard=True)
        assert_type(done, shipway.Extracted)
        assert_type(done.traffic, shipway.Traffic)
        assert_type(done.traffic.received, int)
        assert_type(remote.pull(), shipway.LocalImmutableRef)
        assert_type(remote.checksum("/bin", exclude=["*.md"]), str)


def looking(thing: shipway.Extractable, local: shipway.LocalImmutableRef, remote: shipway.RemoteImmutableRef) -> None:
    assert_type(thing.stat("/bin", follow=False), shipway.FileStat)
    assert_type(local.walk(), Iterator[shipway.FileStat])
    for one in remote.walk("/bin", depth=1):
        assert_type(one.path, str)
        assert_type(one.xattrs, Mapping[str, bytes])
    with remote.open("/etc/passwd") as file:
        assert_type(file, BinaryIO)


def checksums(ref: shipway.ImmutableRef, cache: shipway.Cache) -> None:
    assert_type(ref.checksum(), str)
    assert_type(ref.checksum("/*", follow=False, wildcard=True, include=("a",), exclude=["b"]), str)
    assert_type(cache.get("id").checksum("/"), str)


def keys(cache: shipway.Cache, ref: shipway.LocalImmutableRef) -> None:
    cache.put("key", ref)
    cache.put(b"key", ref, push_to="oci://host/repository")
    cache.put("key", ref, push_to="s3://bucket/prefix", only_if_absent=True)
    assert_type(cache.lookup("key"), shipway.LocalImmutableRef | shipway.RemoteImmutableRef | None)
    found = cache.lookup(b"key")
    if isinstance(found, shipway.RemoteImmutableRef):
        found = found.pull()
    if found is not None:
        assert_type(found.mounted(), AbstractContextManager[Path])
    for key in cache.keys():  # noqa: SIM118  a cache is no dict
        assert_type(key, shipway.KeyRecord)
        assert_type(key.updated, datetime)
    assert_type(cache.keys(ref.id), Iterator[shipway.KeyRecord])


def indexes(ref: shipway.RemoteImmutableRef) -> None:
    digest = ref.publish_indexes()
    assert_type(digest, str)
    assert_type(ref.take_indexes(digest), int)


def pushes(cache: shipway.Cache, ref: shipway.LocalImmutableRef) -> None:
    assert_type(cache.push(ref, "oci://host/repository"), shipway.Pushed)
    assert_type(cache.push(ref, "oci://host/repository", compression="estargz", level=3, force=True), shipway.Pushed)
    pushed = ref.push("oci://host/repository", compression="gzip", level=1, force=True)
    assert_type(pushed.digest, str)
    assert_type(pushed.traffic.sent, int)


def metadata(ref: shipway.Ref) -> None:
    ref.metadata.description = "a line"
    ref.metadata.labels = {"a": "b"}
    ref.metadata.policy = shipway.CachePolicy.DEFAULT


def metadata_read(ref: shipway.Ref) -> None:
    assert_type(ref.metadata.labels, Mapping[str, str])
    assert_type(ref.metadata.record_type, shipway.RecordType)
    assert_type(ref.metadata.last_used, datetime | None)


def space(cache: shipway.Cache) -> None:
    assert_type(cache.disk_usage(), Iterator[shipway.UsageRecord])
    assert_type(cache.prune(), Iterator[shipway.PruneDecision])
    for record in cache.prune(ids=["id"]):
        assert_type(record.parents, tuple[str, ...])
        assert_type(record.in_use, bool)


def mounts(cache: shipway.Cache) -> None:
    assert_type(cache.mount_at("id", "/mnt", writable=True), str)
    assert_type(cache.unmount_at(Path("/mnt"), commit=True), str | None)
    assert_type(cache.mounts(), list[tuple[str, str]])


def progress(moment: shipway.Progress) -> None:
    assert_type(moment.task, str)
    assert_type(moment.total, int | None)


def errors() -> None:
    try:
        shipway.Cache.open()
    except shipway.ShipwayError as error:
        assert_type(error.exit_code, int)
        assert_type((error.what, error.where, error.todo), tuple[str, str, str])


def extractables(thing: shipway.Extractable, cache: shipway.Cache) -> None:
    assert_type(thing.extract(Path("out")), shipway.Extracted)
    extractables(cache.get("id"), cache)
    extractables(cache.remote("oci://host/x"), cache)


def mountables(thing: shipway.Mountable, cache: shipway.Cache) -> None:
    assert_type(thing.mount(), list[shipway.Mount])
    mountables(cache.get("id"), cache)
    mountables(cache.new(), cache)


def a_ref_of_any_kind(ref: shipway.Ref, immutable: shipway.ImmutableRef, cache: shipway.Cache) -> None:
    immutable.finalize()
    a_ref_of_any_kind(cache.new(), cache.get("id"), cache)
    a_ref_of_any_kind(cache.remote("oci://host/x"), cache.remote("oci://host/x"), cache)
    ref.release()


def explanations(cache: shipway.Cache) -> None:
    found = cache.explain("key")
    assert_type(cache.explain_ref("id"), shipway.Explanation)
    assert_type(found.asked, tuple[shipway.Asked, ...])
    assert_type(found.asked[0].answer, shipway.Answer)
    assert_type(found.pulled, shipway.Pulled | None)
    if found.pulled is not None:
        assert_type(found.pulled.layers, tuple[shipway.LayerPulled, ...])
        assert_type(found.pulled.layers[0].way, shipway.Way)
        assert_type(found.pulled.fetched, int)
