"""What is done in a fresh process: ``python -m tests.benchmarks.scenarios NAME CONTESTANT …`` prints what it found."""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from .contestants import CONTESTANTS, Clock, Contestant, CountingSTS

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEGABYTE = 2**20
ROLES_TO_GROW = (1, 10, 50, 200)
MEMORY_LIMITS = (128, 256, 512)
FURTHER_CLIENTS = 20
FURTHER_ACCOUNTS = 40
WARM_ROLES = 3
ROLES_AT_ONCE = 50
STARVED_ROLES = 100
WINDOW = 15 * 60
"""Seconds before the expiry of credentials for an hour from which on they may be refreshed."""
_HOUR = 3600
_LONGEST_REFRESH = 30
_WAIT_SECONDS = 0.05
"""A signature that takes longer has waited for STS."""
SIGNED_HOURS = 12


def _role(number: int) -> str:
    return f"arn:aws:iam::{200_000_000_000 + number}:role/Auditor"


class _Meter:
    """Wall time, and CPU time of all threads of the process, from its creation on."""

    ms = cpu_ms = 0.0

    def __init__(self) -> None:
        self._cpu = time.process_time()
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Keep the time that has passed."""
        self.ms = (time.perf_counter() - self._started) * 1e3
        self.cpu_ms = (time.process_time() - self._cpu) * 1e3


def _wait_for_event() -> None:
    """Tell the runner that the init phase is over, and wait until it has limited the processor and sends an event."""
    sys.stdout.write("initialised\n")
    sys.stdout.flush()
    sys.stdin.readline()


def _open_files() -> int:
    return len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - pathlib is not imported by all


def _control(**settings: object) -> dict[str, int]:
    """Set what the local STS does, and return its counts."""
    from urllib.parse import urlencode
    from urllib.request import urlopen

    with urlopen(f"{os.environ['BENCHMARK_CONTROL']}?{urlencode(settings)}") as answer:  # noqa: S310 - on loopback
        return json.load(answer)


def _resident_megabytes(*, collect: bool = True) -> float:
    if collect:
        gc.collect()
    with open("/proc/self/statm", encoding="ascii") as statm:  # noqa: PTH123 - pathlib is not imported by all
        return int(statm.read().split()[1]) * _PAGE / _MEGABYTE


def imported(contestant: Contestant) -> dict[str, Any]:
    """Import what a handler's module imports, after boto3."""
    import boto3  # noqa: F401

    before = set(sys.modules)
    started = time.perf_counter()
    module = __import__(contestant.module)
    # The package's front is free: what costs is the name that a handler takes from it.
    getattr(module, "assume_role", None)
    seconds = time.perf_counter() - started
    return {"ms": seconds * 1e3, "modules": sorted(set(sys.modules) - before)}


def used_by_boto3(_contestant: Contestant) -> dict[str, Any]:
    """List the modules that a client of plain boto3 needs to send one request."""
    import boto3

    boto3.client("s3").list_buckets()
    return {"modules": sorted(sys.modules)}


def cold_start(contestant: Contestant) -> dict[str, Any]:
    """Import a handler, wait for a line on standard input as Lambda waits for an event, answer one event.

    CPU time between the two phases, which a thread of the init phase may use, counts as the event's.
    """
    init = _Meter()
    handler = contestant.handler(lambda s3: s3.list_buckets()["Buckets"][0]["Name"])
    init.stop()
    between = _Meter()
    _wait_for_event()
    event = _Meter()
    answer = handler({}, None)
    event.stop()
    between.stop()
    if answer != "orders":
        raise ValueError(answer)
    return {
        "init_ms": init.ms,
        "init_cpu_ms": init.cpu_ms,
        "event_ms": event.ms,
        "event_cpu_ms": between.cpu_ms,
    }


def cold_steps(contestant: Contestant) -> dict[str, Any]:
    """Take the steps of a cold start one after the other, with the default session of boto3 or of the library."""
    steps: dict[str, float] = {}

    def step(name: str, do: Callable[[], Any]) -> Any:
        started = time.perf_counter()
        result = do()
        steps[name] = (time.perf_counter() - started) * 1e3
        return result

    boto3 = step("import boto3", lambda: __import__("boto3"))
    setup = boto3.setup_default_session
    if contestant.module == "xacct_lambda":
        step("import of the library", lambda: __import__("xacct_lambda").assume_role)
        from xacct_lambda._service_models import setup_default_session as setup
    step("boto3's default session", setup)
    session = boto3.DEFAULT_SESSION
    sts = step("STS client", lambda: session.client("sts"))
    step("AssumeRole", lambda: sts.assume_role(RoleArn=_role(0), RoleSessionName="orders"))
    s3 = step("S3 client", lambda: session.client("s3"))
    step("first request to S3", s3.list_buckets)
    return steps


def warm_call(contestant: Contestant, rounds: str, calls: str, manner: str = "position") -> dict[str, Any]:
    """Call a warm handler and the bare one in turn, with the arguments by position or by keyword."""
    bare = CONTESTANTS["bare"].handler(lambda s3: s3)
    handler = contestant.handler(lambda s3: s3)
    event: dict[str, Any] = {}

    def by_position(function: Any) -> float:
        started = time.perf_counter()
        for _ in range(int(calls)):
            function(event, None)
        return (time.perf_counter() - started) / int(calls)

    def by_keyword(function: Any) -> float:
        started = time.perf_counter()
        for _ in range(int(calls)):
            function(event=event, context=None)
        return (time.perf_counter() - started) / int(calls)

    seconds = {"position": by_position, "keyword": by_keyword}[manner]
    seconds(handler)
    over = [seconds(handler) - seconds(bare) for _ in range(int(rounds))]
    return {"us": median(over) * 1e6}


def surviving_blocks(contestant: Contestant, calls: str) -> dict[str, Any]:
    """Count the blocks of memory that are left behind by warm calls."""
    handler = contestant.handler(lambda s3: s3)
    counts = []
    for _ in range(3):
        for _ in range(int(calls)):
            handler({}, None)
        gc.collect()
        counts.append(sys.getallocatedblocks())
    return {"blocks": counts[2] - counts[1]}


def warm_signature(contestant: Contestant, rounds: str, calls: str) -> dict[str, Any]:
    """Ask for the credentials that a request is signed with, as botocore does for each."""
    credentials = contestant.session(_role(0)).get_credentials()
    credentials.get_frozen_credentials()
    figures = []
    for _ in range(int(rounds)):
        started = time.perf_counter()
        for _ in range(int(calls)):
            credentials.get_frozen_credentials()
        figures.append((time.perf_counter() - started) / int(calls))
    return {"us": median(figures) * 1e6}


def further_clients(contestant: Contestant) -> dict[str, Any]:
    """Make sessions with an s3 client for more and more roles; in turn, one more client on one plain session."""
    shared = CONTESTANTS["global"].session("")
    kept = [shared.client("s3"), contestant.session(_role(0)).client("s3")]
    session_ms, role_ms, client_ms, megabytes = [], [], [], []
    for number in range(1, FURTHER_CLIENTS):
        before = _resident_megabytes()
        started = time.perf_counter()
        session = contestant.session(_role(number))
        made = time.perf_counter()
        kept.append(session.client("s3"))
        ended = time.perf_counter()
        session_ms.append((made - started) * 1e3)
        role_ms.append((ended - started) * 1e3)
        megabytes.append(_resident_megabytes() - before)
        started = time.perf_counter()
        kept.append(shared.client("s3"))
        client_ms.append((time.perf_counter() - started) * 1e3)
    return {
        "role_ms": median(role_ms),
        "session_ms": median(session_ms),
        "client_ms": median(client_ms),
        "over_client": sum(role_ms) / sum(client_ms),
        "mb": sum(megabytes) / len(megabytes),
    }


def further_roles(contestant: Contestant, roles: str, service: str = "s3") -> dict[str, Any]:
    """For more and more roles, make a client and send its first request."""
    if service == "dynamodb":
        from .aws import lead_all_hosts_here

        # Its hosts have the account's number in their names, so there is no one endpoint to configure.
        lead_all_hosts_here(int(os.environ["BENCHMARK_SERVICES"]))
    operation = {"s3": "list_buckets", "dynamodb": "list_tables"}[service]
    kept = []

    def use(number: int) -> None:
        client = contestant.client_of(_role(number), service)
        getattr(client, operation)()
        kept.append(client)

    for number in range(WARM_ROLES):
        use(number)
    before, files, connections = _resident_megabytes(), _open_files(), _control()["connections"]
    meter = _Meter()
    for number in range(WARM_ROLES, WARM_ROLES + int(roles)):
        use(number)
    meter.stop()
    more = _open_files() - files, _control()["connections"] - connections - 1
    return {
        "ms": meter.ms / int(roles),
        "cpu_ms": meter.cpu_ms / int(roles),
        "mb": (_resident_megabytes() - before) / int(roles),
        "files": more[0],
        "connections": more[1],
    }


def trust_stores(contestant: Contestant) -> dict[str, Any]:
    """Count how often a trust store is loaded: in the init phase, for the first event, for further accounts."""
    import ssl

    loads = 0
    load = ssl.SSLContext.load_verify_locations

    def counted(self: Any, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
        nonlocal loads
        loads += 1
        load(self, cafile, capath, cadata)

    ssl.SSLContext.load_verify_locations = counted
    handler = contestant.handler(lambda s3: s3.list_buckets())
    # A prefetch may be on its way. What its thread does, the init phase has begun.
    for thread in threading.enumerate():
        if thread is not threading.current_thread():
            thread.join()
    init, loads = loads, 0
    handler({}, None)
    event, loads = loads, 0
    kept = []
    for number in range(FURTHER_ACCOUNTS):
        kept.append(contestant.client_of(_role(number), "s3"))
        kept[-1].list_buckets()
    return {"init": init, "event": event, "accounts": loads}


def grown(contestant: Contestant, most: str) -> dict[str, Any]:
    """Make sessions with an s3 client and keep them, until there are enough roles and the memory limits are passed."""
    if contestant.module == "xacct_lambda":
        from xacct_lambda import cache_resize

        cache_resize(max_sessions=int(most))
    contestant.session(_role(0))
    kept: list[Any] = []
    steps, fits = [], {}
    limits = list(MEMORY_LIMITS)
    spent = 0.0
    enough = min(ROLES_TO_GROW[-1], int(most))
    while len(kept) < enough or (limits and len(kept) < int(most)):
        started = time.perf_counter()
        session = contestant.session(_role(len(kept)))
        kept.append((session, session.client("s3")))
        spent += time.perf_counter() - started
        if len(kept) in ROLES_TO_GROW:
            steps.append({"roles": len(kept), "mb": _resident_megabytes(), "ms": spent * 1e3})
        while limits and _resident_megabytes(collect=False) > limits[0] and _resident_megabytes() > limits[0]:
            fits[limits.pop(0)] = len(kept) - 1
    return {"steps": steps, "fits": fits, "most": len(kept)}


def many_roles(contestant: Contestant, manner: str) -> dict[str, Any]:
    """Get credentials for many roles, in turn or at once with so many workers, in a process that has none yet."""
    role_arns = [_role(number) for number in range(ROLES_AT_ONCE)]
    contestant.session(role_arns[0])
    if manner == "in-turn":
        meter = _Meter()
        for role_arn in role_arns:
            contestant.session(role_arn).get_credentials().get_frozen_credentials()
    else:
        from xacct_lambda import assumed_sessions

        # The init phase of a function that has such a handler has made the STS client.
        contestant.session(role_arns[0]).get_credentials().prepare()
        meter = _Meter()
        assumed_sessions(role_arns, max_workers=int(manner))
    meter.stop()
    return {"ms": meter.ms, "cpu_ms": meter.cpu_ms}


def starved(_contestant: Contestant, workers: str) -> dict[str, Any]:
    """With a small part of a core, get credentials for many roles at once and send a request as each."""
    from xacct_lambda import for_each_account

    _wait_for_event()
    meter = _Meter()
    outcomes = for_each_account(
        lambda session, _account_id: session.client("s3").list_buckets()["Buckets"][0]["Name"],
        [_role(number) for number in range(STARVED_ROLES)],
        return_exceptions=True,
        **({} if workers == "default" else {"max_workers": int(workers)}),
    )
    meter.stop()
    failures = [outcome for outcome in outcomes.values() if isinstance(outcome, Exception)]
    codes = sorted(getattr(failure, "code", type(failure).__name__) for failure in failures)
    return {"ms": meter.ms, "cpu_ms": meter.cpu_ms, "failures": len(failures), "codes": codes}


class _Context:
    """Lambda's context of one event that has a minute left."""

    @staticmethod
    def get_remaining_time_in_millis() -> int:
        """Do what Lambda's does."""
        return 60_000


class _MovedClock:
    """Moves this process's wall clock ahead of the machine's. To be made before anything is imported that keeps it."""

    def __init__(self) -> None:
        self.ahead = 0.0
        real = time.time
        time.time = lambda: real() + self.ahead
        # What an earlier scenario has set.
        _control(mode="serve", ahead=0)

    def move(self, seconds: float) -> None:
        """Move it, and the expiry of what STS issues from now on."""
        self.ahead += seconds
        _control(ahead=self.ahead)


def waits(contestant: Contestant, mode: str) -> dict[str, Any]:
    """Sign from the start of the refresh window until 65 s are left, while STS is away; count who waits."""
    clock = _MovedClock()
    credentials = contestant.session(_role(0)).get_credentials()
    credentials.get_frozen_credentials()
    before = _control(mode=mode)["sts_requests"]
    clock.move(_HOUR - WINDOW)
    durations = []
    for _ in range((WINDOW - 65) // 10):
        started = time.perf_counter()
        credentials.get_frozen_credentials()
        durations.append(time.perf_counter() - started)
        # The attempts of the window's 14 minutes take a few seconds of real time.
        time.sleep(0.05)
        clock.move(10)
    requests = _control(mode="serve")["sts_requests"] - before
    return _waits(durations) | {"requests": requests}


def freezes(contestant: Contestant) -> dict[str, Any]:
    """Sign three times in each event, and freeze the environment for a minute after each, while STS hangs."""
    clock = _MovedClock()
    from xacct_lambda import assume_role

    durations = []

    @assume_role(_role(0), session="session", prefetch=False)
    def handler(_event: Any, _context: Any, *, session: Any) -> None:
        for _ in range(3):
            started = time.perf_counter()
            session.get_credentials().get_frozen_credentials()
            durations.append(time.perf_counter() - started)

    handler({}, _Context())
    durations.clear()
    before = _control(mode="hang")["sts_requests"]
    clock.move(_HOUR - WINDOW)
    for _ in range((WINDOW - 65) // 60):
        handler({}, _Context())
        clock.move(60)
    requests = _control(mode="serve")["sts_requests"] - before
    return _waits(durations) | {"requests": requests}


def _waits(durations: list[float]) -> dict[str, Any]:
    return {
        "signatures": len(durations),
        "waits": sum(duration > _WAIT_SECONDS for duration in durations),
        "longest_ms": max(durations) * 1e3,
    }


def dead_connection(contestant: Contestant) -> dict[str, Any]:
    """Compare a refresh over a connection that is silently dead with a call over a new one."""
    clock = _MovedClock()
    credentials = contestant.session(_role(0)).get_credentials()
    credentials.get_frozen_credentials()
    expires_at = credentials.expires_at
    _control(mode="deaf")
    clock.move(_HOUR - 120)
    before = _control()["sts_requests"]
    refresh = _Meter()
    credentials.get_frozen_credentials()
    while credentials.expires_at == expires_at:
        time.sleep(0.001)
        refresh.stop()
        if refresh.ms > _LONGEST_REFRESH * 1e3:
            raise TimeoutError
    refresh.stop()
    requests = _control()["sts_requests"] - before
    clock.move(_HOUR)
    fresh = _Meter()
    contestant.session(_role(1)).get_credentials().get_frozen_credentials()
    fresh.stop()
    return {"refresh_ms": refresh.ms, "fresh_ms": fresh.ms, "requests": requests}


def life(contestant: Contestant, seconds: str) -> dict[str, Any]:
    """Sign once a second for twelve hours, by a clock that is set by hand."""
    clock = Clock()
    sts = CountingSTS(clock)
    sign = contestant.signer(sts, clock, int(seconds))
    expired = 0
    for _ in range(SIGNED_HOURS * 60 * 60):
        expired += float(sign()) <= clock.now
        clock.now += 1
    return {"calls": sts.calls, "expired": expired}


if __name__ == "__main__":
    _name, _contestant, *_rest = sys.argv[1:]
    print(json.dumps(globals()[_name](CONTESTANTS[_contestant], *_rest)))
