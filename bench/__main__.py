"""The program: `python -m bench`."""

from __future__ import annotations

import argparse
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

import shipway
from bench.compare import FORMAT, TOLERANCE, compare, read
from bench.jobs import JOBS
from bench.markdown import markdown
from bench.measure import quietly
from bench.model import Job, Missing, Report, WrongResult
from bench.plot import plots
from bench.runner import run
from bench.scene import open_scene, which

_PEERS = {
    "tar": "--version",
    "zstd": "--version",
    "casync": "--version",
    "restic": "version",
    "borg": "--version",
    "ostree": "--version",
    "umoci": "--version",
    "skopeo": "--version",
    "docker-registry": "--version",
    "containerd": "--version",
    "podman": "--version",
    "buildah": "--version",
    "rsync": "--version",
    "fuse-overlayfs": "--version",
    "nginx": "-v",
    "wrk": "-v",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the command line says; return 0, 1 for a regression or a failed job, 2 for a wrong command."""
    options = _options().parse_args(argv)
    if options.list:
        for job in JOBS:
            print(f"{job.name:20} {job.about} ({', '.join(map(str, job.works))} {job.unit})")
        return 0
    try:
        return _check(options.check[0], options.check[1], options.tolerance) if options.check else _measure(options)
    except (Missing, OSError, ValueError) as error:
        sys.stderr.write(f"bench: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write("bench: interrupted; with --resume it goes on after the last job in the JSON file\n")
        return 130


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Benchmarks; see docs/performance.md.")
    parser.add_argument("--list", action="store_true", help="list the jobs")
    parser.add_argument("--job", nargs="+", metavar="NAME", help="run only these; default: all")
    parser.add_argument("--quick", action="store_true", help="small amounts of work: two to three minutes in all")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="measured turns; default: %(default)s")
    parser.add_argument("--where", type=Path, default=Path("/dev/shm"), help="scratch directory, on a tmpfs by default")
    parser.add_argument("--ext4", type=int, default=0, metavar="GB", help="in a loop-mounted ext4 of this size there")
    parser.add_argument("--cold", action="store_true", help="empty the page cache before each run; needs root")
    parser.add_argument(
        "--cache", type=Path, default=_cache(), help="where the Debian tree is kept; default: %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="OUT", help="write all that was measured, after each job")
    parser.add_argument("--resume", action="store_true", help="do not run again what the JSON file has")
    parser.add_argument("--markdown", type=Path, metavar="OUT", help="write the tables there instead of printing them")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw time and memory against work, as SVG")
    parser.add_argument("--check", type=Path, nargs=2, metavar=("OLD", "NEW"), help="compare two such JSON files")
    parser.add_argument(
        "--tolerance", type=float, default=TOLERANCE, help="how much a ratio may rise; default: %(default)s"
    )
    return parser


def _cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "shipway-bench"


def _measure(options: argparse.Namespace) -> int:
    jobs = _chosen(options.job)
    where = f"ext4 of {options.ext4} GB" if options.ext4 else str(options.where)
    report = _begun(
        Report(
            format=FORMAT,
            machine={"kernel": platform.release(), "cpus": str(os.cpu_count()), "python": platform.python_version()},
            settings={
                "rounds": str(options.rounds),
                "where": where,
                "page cache": "emptied" if options.cold else "warm",
                "amounts": "small" if options.quick else "all",
            },
            versions={"shipway": shipway.__version__, **_versions()},
        ),
        options.json if options.resume else None,
    )
    done = {one.job for one in report.series} | {one.job for one in report.skipped}
    with open_scene(options.where, options.cache, ext4=options.ext4, cold=options.cold, quick=options.quick) as scene:
        for job in jobs:
            if job.name not in done:
                results = run(job, scene, rounds=options.rounds)
                report.series += tuple(results.series)
                report.skipped += tuple(results.skipped)
                if options.json:
                    _write(options.json, report)
    text = markdown(report, JOBS)
    if options.markdown:
        options.markdown.write_text(text)
    else:
        print(text)
    if options.plots:
        options.plots.mkdir(parents=True, exist_ok=True)
        for name, svg in plots(report):
            (options.plots / f"{name}.svg").write_text(svg)
    return int(any(one.failed for one in report.skipped))


def _begun(report: Report, path: Path | None) -> Report:
    """Return the report that an earlier run left in a file, or a new one where there is none."""
    if path is None or not path.exists():
        return report
    begun = read(path)
    if (begun.machine, begun.settings, begun.versions) != (report.machine, report.settings, report.versions):
        raise ValueError(f"{path}: measured with other settings or programs; leave out --resume, or name another file")
    return begun


def _write(path: Path, report: Report) -> None:
    whole = path.with_name(path.name + ".part")
    whole.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
    whole.replace(path)


def _chosen(names: Sequence[str] | None) -> list[Job]:
    known = {job.name: job for job in JOBS}
    unknown = [name for name in names or () if name not in known]
    if unknown:
        raise ValueError(f"no such job: {', '.join(unknown)}; --list names them")
    return [known[name] for name in names or known]


def _versions() -> dict[str, str]:
    found = {}
    for name, option in _PEERS.items():
        program = which(name)
        if program is None:
            continue
        try:
            said = quietly(["sh", "-c", '"$1" "$2" 2>&1 || true', "sh", program, option])
        except WrongResult:
            continue
        found[name] = next((line.strip() for line in said.splitlines() if re.search(r"\d", line)), "unknown")
    return found


def _check(old: Path, new: Path, tolerance: float) -> int:
    before, after = read(old), read(new)
    changes = compare(before, after, tolerance)
    if not changes:
        raise ValueError("the two files have no job in common")
    for one in changes:
        verdict = "WORSE" if one.worse else "ok"
        print(f"{verdict:6} {one.job} {one.work}, {one.side}: {one.factor:.2f} of what its ratios were")
    failed = [skipped for skipped in after.skipped if skipped.failed]
    for skipped in failed:
        print(f"FAILED {skipped.job} {skipped.work}, {skipped.side}: {skipped.why}")
    return int(bool(failed) or any(one.worse for one in changes))


if __name__ == "__main__":
    sys.exit(main())
