"""What the system refuses is a Shipway error at the face; what belongs to the caller passes as it is."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from support.caches import write

from shipway import (
    Cache,
    CachePolicy,
    LocalImmutableRef,
    Progress,
    ShipwayError,
    SizeMismatch,
    Truncated,
    Unavailable,
)


def committed(cache: Cache) -> LocalImmutableRef:
    with cache.new(policy=CachePolicy.RETAIN) as work:
        write(work, file="text")
        return work.commit()


def test_what_the_system_refuses_far_below_is_unavailable_and_names_what(cache: Cache) -> None:
    difference = cache.diff(committed(cache), committed(cache))
    assert isinstance(difference, LocalImmutableRef)
    shutil.rmtree(cache.root / "locks")
    with pytest.raises(Unavailable, match=r"l-diff-.*No such file") as caught:
        difference.extract("out")
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    with pytest.raises(Unavailable, match="No such file"), difference.mounted():
        pass
    (cache.root / "locks").mkdir()


def test_what_the_body_of_a_block_raises_passes(cache: Cache) -> None:
    error = OSError(errno.EIO, "mine")
    with pytest.raises(OSError, match="mine") as caught, committed(cache) as ref, ref.mounted(readonly=True):
        raise error
    assert caught.value is error


def test_what_a_progress_callback_raises_passes(cache: Cache, tmp_path: Path) -> None:
    error = OSError(errno.ENOSPC, "mine")

    def stop(_moment: Progress) -> None:
        raise error

    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/file").write_text("text")
    with pytest.raises(OSError, match="mine") as caught:
        cache.import_tree(tmp_path / "tree", progress=stop)
    assert caught.value is error
    assert list(cache.disk_usage()) == []


@pytest.mark.parametrize(("size", "error", "how"), [(1, SizeMismatch, "grew"), (-1, Truncated, "shrank")])
def test_a_file_that_changes_while_it_is_imported_is_named(
    cache: Cache, tmp_path: Path, size: int, error: type[ShipwayError], how: str
) -> None:
    (tmp_path / "tree/below").mkdir(parents=True)
    changing = tmp_path / "tree/below/changing"
    changing.write_bytes(bytes(10))

    def change(progress: Progress) -> None:
        if not progress.done:
            os.truncate(changing, 10 + size)

    with pytest.raises(error) as failed:
        cache.import_tree(tmp_path / "tree", progress=change)
    assert str(failed.value).startswith(f"{changing}: the file {how} while it was read; try again")
    assert list(cache.disk_usage()) == []
