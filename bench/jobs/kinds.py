"""The trees that several jobs work on: a kind, the unit of its size, sizes, and those for a quick run."""

KINDS = (
    ("small", "files", (3_000, 10_000, 30_000), (1_000,)),
    ("large", "MB", (100, 300, 1_000), ()),
    ("debian", "root", (1,), ()),
)
