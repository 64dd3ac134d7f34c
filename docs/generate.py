"""Writes docs/reference/api.md from the docstrings of everything in `shipway.__all__`.

`python docs/generate.py` writes the file; with `--check` it only says whether it is up to date.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import FunctionType
from typing import Any

import shipway

TARGET = Path(__file__).parent / "reference" / "api.md"

HEAD = """# Python reference

Made from docstrings by `docs/generate.py`; do not edit.
Everything below is in the package `shipway`. Other modules may change without notice.
"""

GROUPS: dict[str, tuple[str, ...]] = {
    "The cache": ("Cache", "Limits", "KeyRecord", "UsageRecord", "PruneDecision", "Verdict", "Finding"),
    "Explanations": ("Explanation", "Asked", "Answer", "Pulled", "LayerPulled", "Way"),
    "Refs": (
        "Ref",
        "ImmutableRef",
        "LocalImmutableRef",
        "RemoteImmutableRef",
        "MutableRef",
        "Mountable",
        "Extractable",
    ),
    "Values": ("Metadata", "CachePolicy", "RecordType", "Mount", "FileStat", "Extracted", "Pushed", "Traffic"),
    "Configuration": ("Config", "PrunePolicy", "LimitSettings", "RegistrySettings"),
    "Progress": ("Progress", "ProgressCallback", "Tally", "Overall"),
    "Errors": (),
}


def page() -> str:
    """Return the whole page."""
    errors = sorted(
        (name for name in shipway.__all__ if _is_error(getattr(shipway, name))),
        key=lambda name: [one.__name__ for one in reversed(getattr(shipway, name).__mro__)],
    )
    groups = GROUPS | {"Errors": tuple(errors)}
    missing = set(shipway.__all__) - {"__version__"} - {name for names in groups.values() for name in names}
    if missing:
        raise SystemExit(f"docs/generate.py: no group for {', '.join(sorted(missing))}")
    parts = [HEAD]
    for title, names in groups.items():
        parts.append(f"## {title}\n")
        parts += [_entry(name, getattr(shipway, name)) for name in names]
    return "\n".join(parts)


def _is_error(thing: object) -> bool:
    return isinstance(thing, type) and issubclass(thing, Exception)


def _entry(name: str, thing: Any) -> str:
    if not isinstance(thing, type):
        return f"### `{name}`\n\n`{_plain(str(thing))}`\n"
    bases = [
        base.__name__ for base in thing.__bases__ if base.__name__ not in ("object", "Protocol", "Generic", "Table")
    ]
    heading = f"### `{name}`" + (f" ({', '.join(f'`{base}`' for base in bases)})" if bases else "")
    lines = [heading, "", _prose(thing.__doc__), ""]
    if _is_error(thing):
        if name == "ShipwayError":
            lines += ["Exit code of the command line: 1.", ""]
        elif "exit_code" in vars(thing):
            lines += [f"Exit code of the command line: {vars(thing)['exit_code']}.", ""]
        return "\n".join(lines)
    lines += _values(thing)
    lines += [line for member in _members(thing) for line in member]
    return "\n".join(lines)


def _values(thing: type) -> list[str]:
    """Return a list of the fields of a dataclass, the members of an enumeration, the attributes of a protocol."""
    notes = _attribute_docs(thing)
    lines = []
    if issubclass(thing, Enum):
        lines += [_item(f"{member.name} = {member.value!r}", notes.get(member.name, "")) for member in thing]
    elif is_dataclass(thing):
        lines += [_item(f"{one.name}: {one.type}{_default(one)}", notes.get(one.name, "")) for one in fields(thing)]
    else:
        own = inspect.get_annotations(thing)
        lines += [_item(f"{name}: {kind}", notes.get(name, "")) for name, kind in own.items() if name[0] != "_"]
    return [*lines, ""] if lines else []


def _default(field: Field[Any]) -> str:
    if field.default is not MISSING:
        return f" = {field.default!r}"
    return ""


def _item(what: str, note: str) -> str:
    return f"- `{what}`" + (f": {' '.join(note.split())}" if note else "")


def _attribute_docs(thing: type) -> dict[str, str]:
    """Return the strings that stand below attributes in the source of a class."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing))).body[0]
    assert isinstance(tree, ast.ClassDef)
    docs: dict[str, str] = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        name = _assigned(before)
        if name and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            docs[name] = str(after.value.value)
    return docs


def _assigned(node: ast.stmt) -> str:
    if isinstance(node, ast.AnnAssign | ast.Assign):
        target = node.target if isinstance(node, ast.AnnAssign) else node.targets[0]
        return target.id if isinstance(target, ast.Name) else ""
    return ""


def _members(thing: type) -> Iterator[list[str]]:
    for name, member in vars(thing).items():
        if name.startswith("_") or issubclass(thing, Enum):
            continue
        if isinstance(member, property):
            returns = inspect.signature(member.fget).return_annotation if member.fget else ""
            yield [f"#### `{name}: {returns}`", "", _prose(member.__doc__), ""]
        elif isinstance(member, FunctionType | classmethod):
            function = member.__func__ if isinstance(member, classmethod) else member
            yield [_signature(name, function), "", _prose(function.__doc__), ""]


class _Raw:
    """An annotation that shows itself as it is written in the source."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def _signature(name: str, function: Any) -> str:
    signature = inspect.signature(function)
    parameters = [
        parameter.replace(annotation=_Raw(parameter.annotation))
        for parameter in signature.parameters.values()
        if parameter.name not in ("self", "cls")
    ]
    text = str(signature.replace(parameters=parameters, return_annotation=_Raw(signature.return_annotation)))
    return f"#### `{name}{_plain(text)}`"


def _plain(text: str) -> str:
    """Return a signature or type without module names, and enumeration members as they are written."""
    text = re.sub(r"\b(?:shipway|collections|typing|pathlib|datetime)\.(?:\w+\.)*", "", text)
    return re.sub(r"<(\w+)\.(\w+): [^>]*>", r"\1.\2", text)


def _prose(docstring: str | None) -> str:
    """Return a docstring as Markdown: sections as bold words, their items as lists."""
    lines = inspect.cleandoc(docstring or "").splitlines()
    result: list[str] = []
    in_section = False
    for line in lines:
        if re.fullmatch(r"(Args|Returns|Raises|Yields):", line):
            in_section = True
            result += [f"**{line[:-1]}**", ""]
        elif in_section and re.match(r" {4}\S", line):
            name, colon, rest = line.strip().partition(": ")
            result.append(f"- `{name}`: {rest}" if colon else f"- {line.strip()}")
        elif in_section and line.startswith("     "):
            result.append(f"  {line.strip()}")
        else:
            in_section = in_section and not line.strip()
            result.append(line)
    return "\n".join(result)


def main() -> int:
    """Write the page, or with `--check` compare it; return the exit code."""
    text = page().rstrip() + "\n"
    if "--check" in sys.argv[1:]:
        if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
            return 0
        sys.stderr.write("docs/reference/api.md is out of date: run python docs/generate.py\n")
        return 1
    TARGET.parent.mkdir(exist_ok=True)
    TARGET.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
