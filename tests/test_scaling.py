"""docs/scaling.md: its figures are those of its script, and the script's formula is what the library does."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parent.parent / "docs"
PAGE = (DOCS / "scaling.md").read_text()


@pytest.fixture(scope="module")
def simulation() -> ModuleType:
    spec = importlib.util.spec_from_file_location("scaling_simulation", DOCS / "scaling_simulation.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_runs() -> None:
    """The command prints the three tables, for a small fleet in a second."""
    command = [sys.executable, DOCS / "scaling_simulation.py", "--environments", "100", "--print"]
    printed = subprocess.run(command, capture_output=True, text=True, check=True)

    assert printed.stdout.count("| --- |") == 3
    assert printed.stderr == ""


def test_the_page_has_the_scripts_figures(simulation: ModuleType) -> None:
    """The page's table of the mean is what the script writes; so is the row of the fleet in its chart."""
    assert simulation.fill(PAGE, {"steady": simulation.steady_table()}) == PAGE
    row = simulation.wave_row(simulation.RAMP, simulation.ramp(simulation.ENVIRONMENTS), jitter=True)
    assert " | ".join(row) in PAGE


def test_the_tables_have_their_places_in_the_page(simulation: ModuleType) -> None:
    """Every table of the script has a place in the page."""
    assert simulation.fill(PAGE, {"steady": "new 1", "waves": "new 2", "throttling": "new 3"}).count("new ") == 3


@pytest.mark.parametrize("seconds", [900, 1201, 1800, 3600])
def test_the_formula_is_what_caches_do(simulation: ModuleType, seconds: int) -> None:
    """The mean of the formula is that of credential caches which renew by the library's rules, within 2 %."""
    starts = [seconds * number / 300 for number in range(300)]

    fleet = simulation.simulate(starts, seconds=seconds, hours=6)

    steady = sum(count for second, count in fleet.sent.items() if second >= 2 * 3600) / (4 * 3600)
    assert steady == pytest.approx(simulation.calls_per_second(300, 1, seconds), rel=0.02)


def test_jitter_spreads_a_burst(simulation: ModuleType) -> None:
    """Without jitter the burst of a start comes back with every renewal; with it, less than a tenth of it does."""
    starts = [0.0] * 500

    peaks = [
        max(count for second, count in simulation.simulate(starts, jitter=jitter).sent.items() if second)
        for jitter in (False, True)
    ]

    assert peaks[0] == 500
    assert peaks[1] < 50


def test_a_quota_that_is_short_costs_no_event_after_the_start(simulation: ModuleType) -> None:
    """Renewals that are throttled go on serving valid credentials until STS takes their calls."""
    fleet = simulation.simulate([0.0] * 500, quota=1, short_from=1800)

    assert fleet.sent.total() > fleet.granted.total()
    assert fleet.failed_events == 0
