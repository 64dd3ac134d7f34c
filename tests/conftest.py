"""What all tests share: the `support` package on the path, no configuration, and the markers `root` and `long`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How long an example takes says nothing about whether it is right.
settings.register_profile("shipway", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shipway")

sys.path.insert(0, str(Path(__file__).parent))

# Whoever runs the tests may have a configuration; neither the tests nor the processes they start look at it.
for name in [name for name in os.environ if name.startswith("SHIPWAY_")]:
    del os.environ[name]
os.environ["SHIPWAY_CONFIG"] = os.devnull


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what takes minutes unless it is asked for; skip what needs root, and say so, without it."""
    if "long" not in config.getoption("markexpr"):
        long = [item for item in items if item.get_closest_marker("long")]
        items[:] = [item for item in items if not item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
