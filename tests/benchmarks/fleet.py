"""The AssumeRole calls of a fleet: ``python -m tests.benchmarks.fleet`` writes the tables and the chart of scaling.md.

Each execution environment is one of the library's own credential caches with a clock that is set by hand. So the
library itself decides when a refresh starts, how long a back-off is, and which credentials it uses meanwhile.
Environments are in steady use: the next signature comes as soon as a refresh may start.
"""

from __future__ import annotations

import argparse
import heapq
import logging
import random
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from xacct_lambda._cache_entry import CredentialKey
from xacct_lambda._credential_cache import _JITTER, CredentialCache, advisory_window
from xacct_lambda._request import AssumeRoleRequest, assume_role_request
from xacct_lambda._sts import _RETRY_DELAY, Calls, FrozenCredentials, IssuedCredentials
from xacct_lambda.exceptions import STSUnavailableError

from .page import DOCS, fill, new_chart, save, table

COMMAND = "python -m tests.benchmarks.fleet"
ENVIRONMENTS = 10_000
STARTS_PER_SECOND = 100
"""Lambda adds up to 1,000 environments every 10 seconds to a function: docs.aws.amazon.com/lambda, "scaling rate"."""
RAMP = f"{STARTS_PER_SECOND} starts a second"
EVENT_SECONDS = 10
"""An environment that has no credentials tries again at its next event."""
QUOTAS = (25, 50, 100)
"""Calls that STS accepts in a second. Examples, and not AWS's figures."""
HOURS = 4
SEED = 20

_ROLE = "arn:aws:iam::222222222222:role/orders"
_CREDENTIALS = FrozenCredentials(*("x" for _ in FrozenCredentials._fields))


def calls_per_second(environments: int, roles: int, seconds: int) -> float:
    """Return the mean of a fleet in steady use: each set of credentials is replaced some time before it expires."""
    window = min(advisory_window(seconds), seconds / 2)
    return environments * roles / (seconds - window * (1 - _JITTER / 2))


class STS:
    """Accepts so many calls in each second and throttles further ones. It replaces the library's own ``_sts.STS``."""

    calls = 0

    def __init__(self, quota: float, short_from: float, draw: random.Random) -> None:
        self.now = 0.0
        self.sent: Counter[int] = Counter()
        self.granted: Counter[int] = Counter()
        self._quota = quota
        self._short_from = short_from
        self._draw = draw

    def load_caller_credentials(self, *_: Any) -> None: ...

    def assume_role(
        self, _source: Any, request: AssumeRoleRequest, _config: Any, *, max_requests: int, calls: Calls
    ) -> IssuedCredentials:
        """Try as often as the library does, with its pauses."""
        at = self.now
        for _ in range(max_requests):
            second = int(at)
            self.sent[second] += 1
            if at < self._short_from or self.granted[second] < self._quota:
                self.granted[second] += 1
                return IssuedCredentials(_CREDENTIALS, at + request.duration_seconds)
            at += self._draw.uniform(*_RETRY_DELAY)
        response = {"Error": {"Code": "Throttling", "Message": "Rate exceeded"}}
        raise STSUnavailableError("Rate exceeded", role_arn=request.role_arn, response=response)

    def max_wait_seconds(self, *_: Any) -> float:
        """Return any limit: time does not pass during a call."""
        return 60.0

    def prepare(self, *_: Any) -> None:
        """Do nothing: there is no client."""

    def drop_connections(self, *_: Any) -> None: ...

    def clear_clients(self) -> None:
        """Do nothing: there is no client."""


class Fleet(NamedTuple):
    """What became of a fleet."""

    sent: Counter[int]
    """AssumeRole calls by the second in which they were sent."""
    granted: Counter[int]
    failed_events: int
    """Events of environments that had no credentials and got none."""
    ready_at: list[float]
    """When each environment got its first credentials."""


def _at_once(task: Callable[[], None]) -> None:
    task()


def simulate(
    starts: Iterable[float],
    *,
    seconds: int = 3600,
    hours: float = HOURS,
    jitter: bool = True,
    quota: float = float("inf"),
    short_from: float = 0,
    seed: int = SEED,
) -> Fleet:
    """Run environments that begin at these instants, each with one role; the quota holds from ``short_from`` on."""
    draw = random.Random(seed)
    sts = STS(quota, short_from, draw)
    key = CredentialKey(sts, assume_role_request(_ROLE, duration_seconds=seconds))  # any object may ask
    jitters: Callable[[float, float], float] = draw.uniform if jitter else lambda low, _high: low
    # The number orders those that come at one instant: caches have no order.
    due = [
        (
            start,
            number,
            CredentialCache(
                sts,
                clock=lambda: sts.now,
                jitter=jitters,
                start_thread=_at_once,
                start_background_thread=_at_once,
                max_roles=1,
            ),
        )
        for number, start in enumerate(starts)
    ]
    heapq.heapify(due)
    failed_events, ready_at = 0, {}
    while due and due[0][0] < hours * 3600:
        sts.now, number, cache = due[0]
        try:
            cache.get(key)
        except STSUnavailableError:
            failed_events += 1
            heapq.heapreplace(due, (sts.now + EVENT_SECONDS, number, cache))
        else:
            ready_at.setdefault(number, sts.now)
            entry = cache._entries[key]
            heapq.heapreplace(due, (max(entry.cached.refresh_at, entry.retry_at), number, cache))
    return Fleet(sts.sent, sts.granted, failed_events, list(ready_at.values()))


def ramp(environments: int) -> list[float]:
    """Return the starts of environments that Lambda adds as fast as it does."""
    return [number / STARTS_PER_SECOND for number in range(environments)]


def steady_table() -> str:
    """Return the calls per second of fleets in steady use."""
    head = ["environments", "roles in each", *(f"{seconds:,} s" for seconds in (900, 1800, 3600))]
    rows = [
        [
            f"{environments:,}",
            str(roles),
            *(f"{calls_per_second(environments, roles, s):.2f}" for s in (900, 1800, 3600)),
        ]
        for environments in (100, 1000, 10_000)
        for roles in (1, 10, 100)
    ]
    return table(head, rows)


def wave_row(title: str, starts: list[float], *, jitter: bool) -> list[str]:
    """Return the busiest second of a fleet's start, and of each round of refreshes after it."""
    spans = ((0, 0.6), (0.6, 1.3), (1.3, 2.0), (2.0, 2.75), (2.75, HOURS))
    sent = simulate(starts, jitter=jitter).sent
    peaks = (
        max((count for second, count in sent.items() if begin * 3600 <= second < end * 3600), default=0)
        for begin, end in spans
    )
    return [f"{title}, {'with' if jitter else 'without'} jitter", *(f"{peak:,}" for peak in peaks)]


def waves_table(environments: int) -> str:
    """Return the busiest seconds of fleets that start as fast as Lambda lets them, and of one that starts at once."""
    at_once = [number / environments for number in range(environments)]
    rows = [
        wave_row(title, starts, jitter=jitter)
        for title, starts in ((RAMP, ramp(environments)), ("all in one second", at_once))
        for jitter in (False, True)
    ]
    return table(["busiest second", "start", "1st refresh", "2nd", "3rd", "4th and later"], rows)


def throttling_table(environments: int) -> str:
    """Return what a quota does to a fleet that starts, and to the refreshes of one that started before it was short."""
    rows = []
    for quota in QUOTAS:
        start = simulate(ramp(environments), quota=quota, hours=0.6)
        renewing = [
            simulate(ramp(environments), quota=quota, short_from=0.6 * 3600, jitter=jitter) for jitter in (False, True)
        ]
        rows.append(
            [
                f"{quota:,}",
                f"{max(start.ready_at):,.0f}",
                f"{start.failed_events:,}",
                *(f"{fleet.sent.total() - fleet.granted.total():,}" for fleet in renewing),
                f"{sum(fleet.failed_events for fleet in renewing):,}",
            ]
        )
    head = [
        "calls a second that STS accepts",
        "start: seconds until all have credentials",
        "start: failed events",
        "refresh: throttled calls without jitter",
        "refresh: throttled calls with jitter",
        "refresh: failed events",
    ]
    return table(head, rows)


def draw_chart(environments: int, path: Path) -> None:
    """Write the chart: the calls of four hours, and the start under quotas."""
    chart = new_chart(10, 4)
    calls, start = chart.subplots(1, 2, width_ratios=(2, 1))
    step = 20
    for jitter in (False, True):
        sent = simulate(ramp(environments), jitter=jitter).sent
        rates = [sum(sent[second] for second in range(at, at + step)) / step for at in range(0, HOURS * 3600, step)]
        calls.plot(
            [at / 3600 for at in range(0, HOURS * 3600, step)],
            rates,
            color="C0" if jitter else "0.7",
            zorder=2 if jitter else 1,
            label=f"{'with' if jitter else 'without'} jitter",
        )
    calls.axhline(calls_per_second(environments, 1, 3600), color="C1", linewidth=1, linestyle="--", label="mean")
    calls.set(title=f"AssumeRole calls a second, {environments:,} environments", xlabel="hours", ylim=(0, None))
    for quota in QUOTAS:
        ready = sorted(simulate(ramp(environments), quota=quota, hours=0.5).ready_at)
        start.plot([0, *ready], range(len(ready) + 1), label=f"{quota} calls a second accepted")
    start.set(title="environments with credentials", xlabel="seconds from the first start", ylim=(0, None))
    for axes in (calls, start):
        axes.legend()
    save(chart, path)


def tables(environments: int) -> dict[str, str]:
    """Return the tables of the page by the names of their places."""
    return {
        "steady": steady_table(),
        "waves": waves_table(environments),
        "throttling": throttling_table(environments),
    }


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Simulate the AssumeRole calls of a fleet.")
    parser.add_argument("--environments", type=int, default=ENVIRONMENTS)
    parser.add_argument("--print", action="store_true", help="print the tables, and write nothing")
    arguments = parser.parse_args()
    # A fleet logs a warning for each environment whose refresh is throttled.
    logging.getLogger("xacct_lambda").setLevel(logging.ERROR)
    found = tables(arguments.environments)
    if arguments.print:
        print(*found.values(), sep="\n\n")
        return
    fill("scaling.md", COMMAND, found)
    draw_chart(arguments.environments, DOCS / "scaling.svg")


if __name__ == "__main__":
    main()
