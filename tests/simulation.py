"""A day in the life of the credential cache: a scripted clock, a scripted STS, and threads that take turns.

24 hours, 50 roles, 20 threads that sign, sessions of 15 minutes to 12 hours. 30 % of STS's answers are faults, among
them attempts that never end, and the environment freezes at random points. Everything is drawn from one seed, and
exactly one thread runs at a time, so a run can be repeated.

    python -m tests.simulation --seeds 20
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import logging
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import boto3

if __package__:
    sys.path.insert(0, str(Path(__file__).parent))

from conftest import outage, refusal

from xacct_lambda._attempts import Latch
from xacct_lambda._cache_entry import CredentialKey
from xacct_lambda._credential_cache import MANDATORY_WINDOW, CredentialCache
from xacct_lambda._invocation import current_context
from xacct_lambda._request import AssumeRoleRequest, assume_role_request
from xacct_lambda._sts import Calls, FrozenCredentials, IssuedCredentials

HOUR = 3600
DAY = 24 * HOUR
START = 1_800_000_000.0
THREADS = 20
ROLES = 50
DURATIONS = (900, 1800, 3600, 7200, 43200)
MAX_WAIT = 2.5
FAULTS = 0.3
NEVER = float("inf")
FAULT_KINDS = ("throttle", "hang", "slow", "stall", "trickle", "refusal", "short", "hook") * 4 + ("never",)
"""``trickle``: an answer that never ends. ``never``: a hook that never ends, which nothing can end."""


class SimulationOver(BaseException):
    """Ends a thread whose attempt never ends."""


class Invocation:
    """A Lambda context with half a minute left."""

    def get_remaining_time_in_millis(self) -> int:
        return 30_000


class Worker:
    """A thread that runs only when it has the baton."""

    def __init__(self, simulation: Simulation, task: Callable[[], None]) -> None:
        self.baton = threading.Semaphore(0)
        self.latch: Latch | None = None
        self.is_over = False
        self.pauses = 0
        self._simulation = simulation
        self._task = task
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        self.baton.acquire()
        try:
            self._simulation.checkpoint()
            self._task()
        except SimulationOver:
            pass
        finally:
            self.is_over = True
            self._simulation.scheduler.release()


class Simulation:
    """One day. After :meth:`run`, ``counts`` has what happened."""

    def __init__(self, seed: int, *, seconds: float = DAY) -> None:
        self.random = random.Random(seed)
        self.now = START
        self.end = START + seconds
        self.counts: Counter[str] = Counter()
        self.scheduler = threading.Semaphore(0)
        self.invocation = Invocation()
        self._events: list[tuple[float, int, Worker, int]] = []
        self._numbers = itertools.count()
        self._running: Worker | None = None
        self._waiting: list[Worker] = []
        self._workers: list[Worker] = []
        self._is_over = False
        self._frozen_seconds = 0.0
        self.cache = CredentialCache(
            self,
            clock=lambda: self.now,
            jitter=self.random.uniform,
            start_thread=self._start,
            start_background_thread=self._start,
            wait=self._wait,
            cpu_time=lambda: 0.0,
        )
        source = boto3.Session()
        self._source = source
        self.keys = [
            CredentialKey(
                source,
                assume_role_request(
                    f"arn:aws:iam::{100_000_000_000 + number}:role/R",
                    duration_seconds=DURATIONS[number % len(DURATIONS)],
                ),
            )
            for number in range(ROLES)
        ]
        self._expiry: dict[str, float] = {}
        self._cut_waits: Counter[str] = Counter()

    # --- The scheduler ------------------------------------------------------------------------------------------------

    def run(self) -> Counter[str]:
        """Run the day; return its counts."""
        for _ in range(THREADS):
            self._start(self._sign)
        self._start(self._freeze)
        while self._events and self._events[0][0] < self.end:
            at, _, worker, pause = heapq.heappop(self._events)
            if worker.is_over or worker.pauses != pause:
                continue
            self.now = max(self.now, at)
            self._resume(worker)
            for waiter in [waiter for waiter in self._waiting if waiter.latch is not None and waiter.latch.is_set]:
                self._waiting.remove(waiter)
                waiter.latch = None
                self._at(self.now, waiter)
        self._is_over = True
        for worker in self._workers:
            if not worker.is_over:
                self._resume(worker)
            worker.thread.join()
        return self.counts

    def _resume(self, worker: Worker) -> None:
        if worker in self._waiting:
            self._waiting.remove(worker)
        worker.latch = None
        worker.pauses += 1
        self._running = worker
        worker.baton.release()
        self.scheduler.acquire()

    def checkpoint(self) -> None:
        """End the thread if the day is over."""
        if self._is_over:
            raise SimulationOver

    def _at(self, when: float, worker: Worker) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), worker, worker.pauses))

    def _start(self, task: Callable[[], None]) -> None:
        worker = Worker(self, task)
        self._workers = [worker for worker in self._workers if not worker.is_over]
        self._workers.append(worker)
        self._at(self.now, worker)

    def _pause(self, until: float) -> None:
        worker = self._running
        assert worker is not None
        if until < NEVER:
            self._at(until, worker)
        self.scheduler.release()
        worker.baton.acquire()
        self.checkpoint()

    def _sleep(self, seconds: float) -> None:
        self._pause(self.now + seconds)

    def _wait(self, latch: Latch, limit: float | None, left: float | None) -> bool:
        if not latch.is_set:
            worker = self._running
            assert worker is not None
            worker.latch = latch
            self._waiting.append(worker)
            limits = [seconds for seconds in (limit, left) if seconds is not None]
            self._pause(self.now + min(limits, default=NEVER))
        return latch.is_set

    # --- What happens -------------------------------------------------------------------------------------------------

    def _freeze(self) -> None:
        """Freeze the environment now and then. Time goes on, and so do answers on their way, but no thread does."""
        while True:
            self._sleep(self.random.expovariate(1 / 400))
            seconds = self.random.choice((1, 10, 60, 60, 600, 600, 3600))
            self._frozen_seconds += seconds
            self.now += seconds
            self.invocation = Invocation()
            self.counts["freezes"] += 1

    def _sign(self) -> None:
        while True:
            self._sleep(self.random.expovariate(1 / 20))
            current_context.set(self.invocation)
            key = self.random.choice(self.keys)
            self._sign_as(key)

    def _sign_as(self, key: CredentialKey) -> None:
        entry = self.cache._entries.get(key)
        before = entry.cached if entry else None
        left = before.expires_at - self.now if before else 0
        was_cut = before is not None and bool(before._wait_token)
        started, frozen = self.now, self._frozen_seconds
        self.counts["signatures"] += 1
        try:
            credentials = self.cache.get(key)
        except Exception:  # noqa: BLE001 - whatever it is, the signature failed
            self.counts["failed"] += 1
            self.counts["failed although valid"] += left - (self.now - started) > 0
            return
        waited = self.now - started - (self._frozen_seconds - frozen)
        self.counts["expired sets used"] += self._expiry[credentials.access_key] <= self.now
        self.counts["identities mixed"] += not credentials.access_key.startswith(key.request.account_id)
        self.counts["waits over 50 ms"] += waited > 0.05
        if left > MANDATORY_WINDOW and waited > 0 and before is not None:
            if was_cut and not before._wait_token:
                self.counts["waits after a freeze"] += 1
                self._cut_waits[before.frozen.access_key] += 1
                self.counts["second waits for one set"] += self._cut_waits[before.frozen.access_key] > 1
            else:
                self.counts["waits although valid"] += 1
        self.counts["longest wait, ms"] = max(self.counts["longest wait, ms"], round(waited * 1000))

    # --- STS ----------------------------------------------------------------------------------------------------------

    @property
    def calls(self) -> int:
        return self.counts["STS requests"]

    def load_caller_credentials(self, source: boto3.Session, request: AssumeRoleRequest) -> None:
        if self.random.random() < 0.01:
            self._sleep(5)

    def max_wait_seconds(self, config: Any) -> float:
        return MAX_WAIT

    def prepare(self, source: boto3.Session, config: Any) -> None: ...

    def drop_connections(self, source: boto3.Session, config: Any) -> None: ...

    def clear_clients(self) -> None: ...

    def assume_role(
        self,
        source: boto3.Session,
        request: AssumeRoleRequest,
        config: Any,
        *,
        max_requests: int,
        calls: Calls,
    ) -> IssuedCredentials:
        while True:
            max_requests -= 1
            try:
                return self._answer(request, calls)
            except Exception:
                if not max_requests or calls.is_aborted:
                    raise

    def _answer(self, request: AssumeRoleRequest, calls: Calls) -> IssuedCredentials:  # noqa: C901, PLR0912 - one case for each fault
        self.counts["STS requests"] += 1
        sent = self.now
        lifetime: float = request.duration_seconds
        if self.random.random() < FAULTS:
            self.counts["STS faults"] += 1
            fault = self.random.choice(FAULT_KINDS)
            match fault:
                case "throttle":
                    self._sleep(0.01)
                    raise outage(request.role_arn)
                case "hang":
                    self._sleep(1)
                    raise outage(request.role_arn)
                case "slow":
                    self._sleep(self.random.uniform(0.5, 2.4))
                case "stall":
                    self._sleep(self.random.uniform(3, HOUR))
                case "trickle":
                    # Byte by byte, until the cache aborts the call.
                    while not calls.is_aborted:
                        self._sleep(0.5)
                        if self.now - sent > 6 * HOUR:
                            break
                    raise outage(request.role_arn)
                case "never":
                    self._pause(NEVER)
                case "refusal":
                    self._sleep(0.08)
                    raise refusal(role_arn=request.role_arn)
                case "hook":
                    raise LookupError("a hook's own")
                case "short":
                    lifetime = self.random.choice((-60, 30, 120))
        self._sleep(0.08)
        if self.now - sent > 300 and self.random.random() < 0.5:
            raise refusal("SignatureDoesNotMatch", request.role_arn)
        self.counts["credentials issued"] += 1
        access_key = f"{request.account_id}-{self.counts['credentials issued']}"
        self._expiry[access_key] = self.now + lifetime
        fields = {"access_key": access_key, "secret_key": "s", "token": "t", "account_id": request.account_id}
        frozen = FrozenCredentials(**{name: fields[name] for name in FrozenCredentials._fields})
        return IssuedCredentials(frozen, self._expiry[access_key])


COLUMNS = (
    "signatures",
    "failed",
    "failed although valid",
    "waits although valid",
    "waits after a freeze",
    "second waits for one set",
    "expired sets used",
    "identities mixed",
    "STS requests",
    "STS faults",
    "freezes",
    "longest wait, ms",
)


def main(arguments: Iterable[str] | None = None) -> None:
    """Print the counts of each seed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=20, help="how many days to simulate (default: %(default)s)")
    seeds = parser.parse_args(arguments).seeds
    logging.disable()
    print("seed | " + " | ".join(COLUMNS) + " | s")
    totals: Counter[str] = Counter()
    for seed in range(seeds):
        started = time.perf_counter()
        counts = Simulation(seed).run()
        longest = max(totals["longest wait, ms"], counts["longest wait, ms"])
        totals += counts
        totals["longest wait, ms"] = longest
        print(f"{seed} | " + " | ".join(f"{counts[name]:,}" for name in COLUMNS), end="")
        print(f" | {time.perf_counter() - started:.1f}", flush=True)
    print("all | " + " | ".join(f"{totals[name]:,}" for name in COLUMNS))


if __name__ == "__main__":
    main()
