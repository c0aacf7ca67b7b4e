"""What is done in a fresh process: ``python -m tests.benchmarks.scenarios NAME CONTESTANT …`` prints what it found."""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

from .contestants import CONTESTANTS, Clock, Contestant, CountingSTS

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEGABYTE = 2**20
ROLES_TO_GROW = (1, 10, 50, 200)
MEMORY_LIMITS = (128, 256, 512)
FURTHER_ROLES = 20
ROLES_AT_ONCE = 50
SIGNED_HOURS = 12


def _role(number: int) -> str:
    return f"arn:aws:iam::222222222222:role/tenant-{number:05}"


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
    """Import a handler, wait for a line on standard input as Lambda waits for an event, answer one event."""
    started = time.perf_counter()
    handler = contestant.handler(lambda s3: s3.list_buckets()["Buckets"][0]["Name"])
    init = time.perf_counter() - started
    sys.stdout.write("initialised\n")
    sys.stdout.flush()
    sys.stdin.readline()
    started = time.perf_counter()
    answer = handler({}, None)
    event = time.perf_counter() - started
    if answer != "orders":
        raise ValueError(answer)
    return {"init_ms": init * 1e3, "event_ms": event * 1e3}


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


def warm_call(contestant: Contestant, rounds: str, calls: str) -> dict[str, Any]:
    """Call a warm handler and the bare one in turn."""
    bare = CONTESTANTS["bare"].handler(lambda s3: s3)
    handler = contestant.handler(lambda s3: s3)
    event: dict[str, Any] = {}

    def seconds(function: Any) -> float:
        started = time.perf_counter()
        for _ in range(int(calls)):
            function(event, None)
        return (time.perf_counter() - started) / int(calls)

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


def further_roles(contestant: Contestant) -> dict[str, Any]:
    """Make sessions with an s3 client for more and more roles; in turn, one more client on one plain session."""
    shared = CONTESTANTS["global"].session("")
    kept = [shared.client("s3"), contestant.session(_role(0)).client("s3")]
    session_ms, role_ms, client_ms = [], [], []
    for number in range(1, FURTHER_ROLES):
        started = time.perf_counter()
        session = contestant.session(_role(number))
        made = time.perf_counter()
        kept.append(session.client("s3"))
        ended = time.perf_counter()
        session_ms.append((made - started) * 1e3)
        role_ms.append((ended - started) * 1e3)
        started = time.perf_counter()
        kept.append(shared.client("s3"))
        client_ms.append((time.perf_counter() - started) * 1e3)
    return {
        "role_ms": median(role_ms),
        "session_ms": median(session_ms),
        "client_ms": median(client_ms),
        "over_client": median(role / client for role, client in zip(role_ms, client_ms, strict=True)),
    }


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
    """Get credentials for many roles, ``at-once`` or ``in-turn``, in a process that has none yet."""
    role_arns = [_role(number) for number in range(ROLES_AT_ONCE)]
    contestant.session(role_arns[0])
    if manner == "at-once":
        from xacct_lambda import assumed_sessions

        started = time.perf_counter()
        assumed_sessions(role_arns)
    else:
        started = time.perf_counter()
        for role_arn in role_arns:
            contestant.session(role_arn).get_credentials().get_frozen_credentials()
    return {"ms": (time.perf_counter() - started) * 1e3}


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
