"""docs/scaling.md: its figures are those of its command, and the command's formula is what the library does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import fleet
from benchmarks.page import filled

PROJECT = Path(__file__).parent.parent
PAGE = (PROJECT / "docs" / "scaling.md").read_text()


def test_the_command_runs() -> None:
    """The command prints the three tables, for a small fleet in a second."""
    command = [sys.executable, "-m", "tests.benchmarks.fleet", "--environments", "100", "--print"]
    printed = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=True)

    assert printed.stdout.count("| --- |") == 3
    assert printed.stderr == ""


def test_the_page_has_the_commands_figures() -> None:
    """The page's table of the mean is what the command writes; so is the row of the fleet in its chart."""
    assert filled(PAGE, fleet.COMMAND, {"steady": fleet.steady_table()}) == PAGE
    row = fleet.wave_row(fleet.RAMP, fleet.ramp(fleet.ENVIRONMENTS), jitter=True)
    assert " | ".join(row) in PAGE


def test_the_tables_have_their_places_in_the_page() -> None:
    """Every table of the command has a place in the page."""
    assert filled(PAGE, fleet.COMMAND, {"steady": "new 1", "waves": "new 2", "throttling": "new 3"}).count("new ") == 3


@pytest.mark.parametrize("seconds", [900, 1201, 1800, 3600])
def test_the_formula_is_what_caches_do(seconds: int) -> None:
    """The mean of the formula is the mean of credential caches that refresh by the library's rules, within 2 %."""
    starts = [seconds * number / 300 for number in range(300)]

    calls = fleet.simulate(starts, seconds=seconds, hours=6)

    steady = sum(count for second, count in calls.sent.items() if second >= 2 * 3600) / (4 * 3600)
    assert steady == pytest.approx(fleet.calls_per_second(300, 1, seconds), rel=0.02)


def test_jitter_spreads_a_burst() -> None:
    """Without jitter, the burst of a start repeats with every refresh. With jitter, less than a tenth of it repeats."""
    starts = [0.0] * 500

    peaks = [
        max(count for second, count in fleet.simulate(starts, jitter=jitter).sent.items() if second)
        for jitter in (False, True)
    ]

    assert peaks[0] == 500
    assert peaks[1] < 50


def test_a_quota_that_is_short_costs_no_event_after_the_start() -> None:
    """Environments whose refresh is throttled use valid credentials until STS accepts their calls."""
    calls = fleet.simulate([0.0] * 500, quota=1, short_from=1800)

    assert calls.sent.total() > calls.granted.total()
    assert calls.failed_events == 0
