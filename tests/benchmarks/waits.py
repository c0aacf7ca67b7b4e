"""How many signatures wait for STS, and how many requests reach it, while valid credentials are cached.

    python -m tests.benchmarks.waits [BEHAVIOR ...]

One and 64 threads sign every quarter of a second, in the advisory window (10 minutes left) and in the last minute (50
seconds left), while STS is slow, throttles, fails, hangs, or can't be found. Times are real.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from scripted_sts import SERVER_FAULT, THROTTLE, ScriptedSTS, black_hole, hang, scripted_sts, slowly, trickle

from xacct_lambda import _sessions, assumed_session, cache_info

ROLE = "arn:aws:iam::222222222222:role/Reader"
SECONDS = 6.0
PAUSE = 0.25
WAIT = 0.05


def answers(answer: Any) -> Callable[[ScriptedSTS], contextlib.AbstractContextManager[None]]:
    @contextlib.contextmanager
    def behave(sts: ScriptedSTS) -> Iterator[None]:
        sts.always = answer
        yield

    return behave


@contextlib.contextmanager
def packets_dropped(_sts: ScriptedSTS) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        address = black_hole(stack)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)]
        with resolved(lambda *_args, **_options: found):
            yield


@contextlib.contextmanager
def name_not_found(sts: ScriptedSTS) -> Iterator[None]:
    over = threading.Event()
    with resolved(lambda *_args, **_options: over.wait(20) and []):
        yield
        over.set()


@contextlib.contextmanager
def resolved(getaddrinfo: Callable[..., Any]) -> Iterator[None]:
    """Resolve all names in this way, over new connections."""
    real = socket.getaddrinfo
    socket.getaddrinfo = getaddrinfo
    default_cache().credentials._sts.clear_clients() if hasattr(
        default_cache().credentials._sts, "clear_clients"
    ) else default_cache().credentials._sts.forget_clients()
    try:
        yield
    finally:
        socket.getaddrinfo = real


BEHAVIORS = {
    "healthy, 80 ms away": answers(slowly(0.08)),
    "throttling": answers(THROTTLE),
    "500": answers(SERVER_FAULT),
    "hung": answers(hang),
    "black hole": packets_dropped,
    "hung DNS": name_not_found,
    "trickling": answers(trickle(0.5)),
}


def default_cache() -> Any:
    return getattr(_sessions, "default_cache", None) or _sessions.state


def measure(behave: Any, seconds_left: int, threads: int) -> tuple[int, int, float, int]:
    """Return the number of signatures, of those that waited, the longest wait, and the requests to STS."""
    with scripted_sts() as sts:
        os.environ["AWS_ENDPOINT_URL_STS"] = sts.url
        ahead = 0.0
        default_cache().clear()
        default_cache().credentials.clock = lambda: time.time() + ahead
        credentials: Any = assumed_session(ROLE).get_credentials()
        credentials.get_frozen_credentials()
        ahead = 3600.0 - seconds_left
        sts.ahead_seconds = ahead
        calls = cache_info().sts_calls
        waits: list[float] = []
        with behave(sts):
            deadline = time.monotonic() + SECONDS

            def sign() -> None:
                while time.monotonic() < deadline:
                    started = time.perf_counter()
                    credentials.get_frozen_credentials()
                    waits.append(time.perf_counter() - started)
                    time.sleep(PAUSE)

            signers = [threading.Thread(target=sign) for _ in range(threads)]
            for signer in signers:
                signer.start()
            for signer in signers:
                signer.join()
        return len(waits), sum(wait > WAIT for wait in waits), max(waits), cache_info().sts_calls - calls


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("behaviors", nargs="*", metavar="BEHAVIOR", help=", ".join(BEHAVIORS))
    chosen = parser.parse_args().behaviors or list(BEHAVIORS)
    os.environ |= {
        "AWS_ACCESS_KEY_ID": "AKIACALLER",
        "AWS_SECRET_ACCESS_KEY": "callers-secret",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    print("| STS | left | threads | signatures | waits over 50 ms | longest, ms | requests |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name in chosen:
        for seconds_left in (600, 50):
            for threads in (1, 64):
                signatures, waits, longest, requests = measure(BEHAVIORS[name], seconds_left, threads)
                cells = name, f"{seconds_left} s", threads, signatures, waits, f"{longest * 1000:.0f}", requests
                print("|", " | ".join(map(str, cells)), "|", flush=True)


if __name__ == "__main__":
    main()
