"""Runs a job's sides in turns, so that what the machine does to one it does to all."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.model import Job, Missing, Sample, Series, Side, Skipped, WrongResult
from bench.scene import Scene

_EVERYTHING = ""


@dataclass(slots=True)
class Results:
    """What was measured and what was not."""

    series: list[Series] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)

    def skip(self, job: Job, work: int, side: str, why: str, *, failed: bool = False) -> None:
        """Remember that something was not measured."""
        self.skipped.append(Skipped(job.name, work, side, " ".join(why.split()), failed))
        _say(f"    {side or 'all'}: {'FAILED' if failed else 'skipped'}: {why}")


def run(job: Job, scene: Scene, *, rounds: int) -> Results:
    """Run a job, each amount of work after the other; a side that fails is named and the others go on."""
    results = Results()
    for work in job.quick if scene.quick else job.works:
        _say(f"{job.name} {work} {job.unit}")
        try:
            scene.need(*job.needs)
            with job.sides(scene, work) as sides:
                turns = _Turns(job, work, scene, results)
                turns.take(sides, min(rounds, job.rounds or rounds))
        except Missing as why:
            results.skip(job, work, _EVERYTHING, str(why))
        except WrongResult as why:
            results.skip(job, work, _EVERYTHING, str(why), failed=True)
    return results


@dataclass(slots=True)
class _Turns:
    """One amount of work of one job."""

    job: Job
    work: int
    scene: Scene
    results: Results
    samples: dict[str, list[Sample]] = field(default_factory=dict)

    def take(self, sides: Sequence[Side], rounds: int) -> None:
        """Do one unmeasured turn, in which what is not there or goes wrong drops out, then `rounds` measured ones."""
        going = list(sides)
        for turn in range(rounds + 1):
            # There and back again: who comes after whom changes, so no side always inherits the same state.
            going = [side for side in reversed(going) if self._once(side, measured=turn > 0)]
        for side in sides:
            if side in going and self.samples.get(side.name):
                samples = tuple(self.samples[side.name])
                series = Series(self.job.name, self.work, self.job.unit, side.name, side.kind, samples)
                self.results.series.append(series)

    def _once(self, side: Side, *, measured: bool) -> bool:
        """Let a side have its turn; return whether it goes on."""
        try:
            self.scene.need(*side.needs)
            side.before()
            self.scene.before_a_run()
            sample = side.run()
            side.check()
        except Missing as why:
            self.results.skip(self.job, self.work, side.name, str(why))
            return False
        except WrongResult as why:
            self.results.skip(self.job, self.work, side.name, str(why), failed=side.kind == "shipway")
            return False
        if measured:
            _say(f"    {side.name:32} {sample.seconds:10.4f} s")
            self.samples.setdefault(side.name, []).append(sample)
        return True


def _say(text: str) -> None:
    sys.stderr.write(text + "\n")
