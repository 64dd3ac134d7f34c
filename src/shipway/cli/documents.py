"""The JSON that commands print; the shapes are described in docs/reference/cli.md."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from shipway.cli.text import iso
from shipway.errors import ShipwayError
from shipway.explanations import Explanation
from shipway.refs import FileStat, PruneDecision, UsageRecord

Document = dict[str, Any]


def usage(record: UsageRecord) -> Document:
    """Return a record as `ls`, `du`, `prune` and `show` print it."""
    return {field.name: getattr(record, field.name) for field in fields(record)} | {
        "parents": list(record.parents),
        "created": iso(record.created),
        "last_used": iso(record.last_used),
        "record_type": record.record_type.value,
    }


def decision(one: PruneDecision) -> Document:
    """Return what `prune` does with a record, as it prints it."""
    return usage(one) | {"verdict": one.verdict.value}


def file(item: FileStat) -> Document:
    """Return what is known of an object of a tree as `files` prints it."""
    document: Document = {
        "path": item.path,
        "kind": item.kind,
        "mode": item.mode,
        "uid": item.uid,
        "gid": item.gid,
        "size": item.size,
        "mtime_ns": item.mtime_ns,
    }
    if item.link:
        document["link"] = item.link
    if item.kind in ("char", "block"):
        document["dev"] = list(item.dev)
    if item.xattrs:
        document["xattrs"] = {name: value.hex() for name, value in sorted(item.xattrs.items())}
    return document


def explanation(found: Explanation) -> Document:
    """Return why a key hit or missed, and how a ref was pulled, as `explain` prints it."""
    document: Document = asdict(found)
    if found.pulled is not None:
        document["pulled"] |= {"at": iso(found.pulled.at), "fetched": found.pulled.fetched}
    return document


def error(problem: ShipwayError) -> Document:
    """Return an error as it is printed on standard error."""
    return {
        "error": {
            "type": type(problem).__name__,
            "message": str(problem),
            "where": problem.where,
            "what": problem.what,
            "todo": problem.todo,
            "exit_code": problem.exit_code,
        }
    }
