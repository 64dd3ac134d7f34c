"""verify: whether the store is what it says."""

from __future__ import annotations

from dataclasses import asdict

from shipway.cli import text
from shipway.cli.session import InSession
from shipway.errors import Corrupt


def verify(*, repair: bool = False, session: InSession) -> None:
    """Read every byte of the store against its digest; exit code 5 if something is wrong and stays so.

    Args:
        repair: Repair what can be: damaged blobs are dropped, snapshots made again of their blobs, or else
            their refs dropped with all that stands on them, leftovers removed.
    """
    with session.open(repair=False) as cache:
        findings = cache.verify(repair=repair)
        root = str(cache.root)
    left = sum(not finding.repaired for finding in findings)
    lines = [text.visible(f"{one.kind} {one.where}: {one.what}; {one.repaired or 'not repaired'}") for one in findings]
    repaired = len(findings) - left
    summary = f"{text.plural(len(findings), 'finding')}, {repaired} repaired" if findings else "nothing is wrong"
    session.show({"findings": list(map(asdict, findings)), "repaired": repaired, "left": left}, [*lines, summary])
    if left:
        todo = "run it with --repair" if not repair else "see what could not be repaired above"
        raise Corrupt(f"{text.plural(left, 'finding')} not repaired", where=root, todo=todo)
