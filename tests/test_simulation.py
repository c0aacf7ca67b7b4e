"""A simulated day: see :mod:`simulation`, which prints the counts of many seeds."""

from __future__ import annotations

import pytest
from simulation import HOUR, Simulation


@pytest.mark.parametrize("seed", range(3))
def test_a_quarter_of_a_day(seed: int) -> None:
    """With valid credentials no signature fails or waits, except once for each set after a freeze. None mixes roles."""
    counts = Simulation(seed, seconds=6 * HOUR).run()

    assert counts["signatures"] > 1000
    assert counts["freezes"] > 3
    assert counts["STS faults"] > 50
    assert {
        name: counts[name]
        for name in (
            "failed although valid",
            "waits although valid",
            "second waits for one set",
            "expired sets used",
            "identities mixed",
        )
        if counts[name]
    } == {}
