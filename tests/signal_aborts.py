"""Requests in whose midst a signal handler raises. A program of its own: coverage's lock isn't safe against this.

The argument is the path of a folder for certificates. Prints ``usable`` if the clients work afterwards.
"""

from __future__ import annotations

import contextlib
import os
import queue
import random
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from botocore.config import Config
from conftest import OTHER_ROLE, ROLE, Clock, FakeSTS
from tls_server import CA, https_server

from xacct_lambda import _sessions, _urllib3_pools, assumed_session
from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda._sessions import SessionCache


class _Abort(BaseException):
    """What the signal handler raises."""


def _abort(_signal: int, _frame: Any) -> None:
    raise _Abort


def call_and_abort(function: Callable[[], Any], times: int) -> None:
    """Call a function again and again, and abort it at random points."""
    aborted = 0
    while aborted < times:
        try:
            # Once more after a second, in case that somebody caught the first.
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0001, 0.004), 1)  # noqa: S311 - no secret
            while True:
                function()
        except _Abort:
            aborted += 1
    signal.setitimer(signal.ITIMER_REAL, 0)


def stack_is_usable() -> bool:
    """Abort the methods of the stack of idle connections."""
    stack = _urllib3_pools._Stack(2)

    def use() -> None:
        with contextlib.suppress(queue.Full, queue.Empty):
            stack.put(1)
            stack.get()

    call_and_abort(use, 200)
    while stack.qsize():
        stack.get()
    stack.put(1)
    return stack.get() == 1


def clients_are_usable(folder: Path) -> bool:
    """Abort the requests of one role, and make a request of another."""
    ca = CA(folder)
    clock = Clock()
    _sessions.default_cache = SessionCache(CredentialCache(FakeSTS(clock), clock=clock))
    with https_server(ca.issue("server")) as server:
        made, other = (
            assumed_session(arn).client(
                "s3", endpoint_url=server.url, verify=ca.bundle, config=Config(retries={"total_max_attempts": 1})
            )
            for arn in (ROLE, OTHER_ROLE)
        )
        made.list_buckets()
        call_and_abort(made.list_buckets, 40)
        answers: list[Any] = []
        thread = threading.Thread(target=lambda: answers.append(other.list_buckets()), daemon=True)
        thread.start()
        thread.join(60)
    return bool(answers)


if __name__ == "__main__":
    signal.signal(signal.SIGALRM, _abort)
    sys.unraisablehook = lambda _: None  # the exception in a finalizer
    if stack_is_usable() and clients_are_usable(Path(sys.argv[1])):
        print("usable", flush=True)  # noqa: T201
    os._exit(0)
