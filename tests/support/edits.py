"""Random layers for property tests, and trees seen through our own readers."""

from __future__ import annotations

from hypothesis import strategies as st

from shipway.trees.entry import Entry, Kind

NAMES = ("a", "b")
PATHS = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3).map("/".join)
KINDS: tuple[Kind, ...] = (
    *("dir", "dir", "reg", "reg", "reg"),
    *("symlink", "hardlink", "hardlink", "fifo", "whiteout", "whiteout", "opaque"),
)


@st.composite
def layer_entries(draw: st.DrawFn) -> tuple[Entry, bytes]:
    """One entry of a layer, any kind anywhere, with its content."""
    kind = draw(st.sampled_from(KINDS))
    path = draw(PATHS)
    if kind in ("whiteout", "opaque"):
        return Entry(path=path, kind=kind), b""
    content = draw(st.sampled_from((b"", b"one", b"two", b"three"))) if kind == "reg" else b""
    return (
        Entry(
            path=path,
            kind=kind,
            mode=0o777 if kind == "symlink" else draw(st.sampled_from((0o644, 0o755, 0o700))) | 0o700 * (kind == "dir"),
            size=len(content),
            mtime_ns=draw(st.sampled_from((1_000_000_000, 2_000_000_001))),
            link=draw(PATHS) if kind in ("symlink", "hardlink") else "",
            xattrs=draw(st.sampled_from(({}, {}, {"user.x": b"1"}))) if kind in ("reg", "dir") else {},
        ),
        content,
    )


LAYERS = st.lists(st.lists(layer_entries(), max_size=14), min_size=2, max_size=4)
