from __future__ import annotations

import pytest

from bench.model import Kind, Sample, Series
from bench.stats import Spread, cpu, growth, memory, ratio, seconds, spread


def series(*values: float, kind: Kind = "shipway", used: float | None = None, taken: int | None = None) -> Series:
    return Series("job", 1, "files", kind, kind, tuple(Sample(value, used, taken) for value in values))


def test_a_spread_is_the_middle_and_both_ends() -> None:
    assert spread([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert seconds(series(4.0, 1.0)) == Spread(2.5, 1.0, 4.0)


def test_ratios_are_of_each_turn_so_what_slows_a_turn_does_not_show() -> None:
    ours, theirs = series(1.0, 10.0, 2.0), series(2.0, 20.0, 4.0, kind="peer")
    assert ratio(ours, theirs) == Spread(0.5, 0.5, 0.5)


def test_the_ratio_of_unequal_numbers_of_turns_is_refused() -> None:
    with pytest.raises(ValueError, match=r"longer|shorter"):
        ratio(series(1.0, 2.0), series(1.0))


def test_cpu_is_a_median_and_memory_the_most() -> None:
    assert cpu(series(1.0, 2.0, used=0.5)) == 0.5
    assert memory(series(1.0, taken=7)) == 7
    assert cpu(series(1.0)) is None
    assert memory(series(1.0)) is None


def test_growth_is_the_exponent_between_the_two_largest_amounts() -> None:
    assert growth({10: 0.5, 100: 1.0, 1000: 10.0}) == pytest.approx(1.0)
    assert growth({1000: 100.0, 10: 0.5, 100: 1.0}) == pytest.approx(2.0)
    assert growth({1000: 1.0}) is None
