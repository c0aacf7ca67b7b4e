"""One attempt to get credentials, the requests that wait for it, and its time limit.

Nothing here has a lock that an interrupted thread could leave locked: see :mod:`xacct_lambda._credential_cache`.
"""

from __future__ import annotations

import threading
import time
from enum import Enum, auto
from typing import Final

from xacct_lambda._invocation import current_context
from xacct_lambda._processor import IdleTime
from xacct_lambda._sts import Calls, IssuedCredentials

_CALLER_LOAD_LIMIT: Final = 10
"""Seconds for which other requests join an attempt that still loads the caller's own credentials."""


class Latch:
    """An event that happens once. Unlike ``threading.Event``, an interrupted wait can't leave it locked."""

    def __init__(self) -> None:
        self.is_set = False
        self._waiters: list[threading.Lock] = []

    def set(self) -> None:
        """Wake all waiters."""
        self.is_set = True
        while True:
            try:
                waiter = self._waiters.pop()
            except IndexError:
                # Also if another thread sets the latch at the same time, and was faster.
                return
            waiter.release()

    def wait(self, seconds: float | None) -> bool:
        """Wait until the latch is set, or until the seconds are over. Return whether it is set."""
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        # set() may have emptied the list before this waiter was in it.
        if not self.is_set:
            waiter.acquire(timeout=-1 if seconds is None else min(max(seconds, 0), threading.TIMEOUT_MAX))
        return self.is_set


def wait_for(latch: Latch, limit: float | None, left: float | None) -> bool:
    """Wait for a latch. Return whether it is set.

    Args:
        latch: The latch.
        limit: Seconds to wait, not counting time in which the process lacked CPU: an answer may be there already.
        left: Seconds that the invocation has left.
    """
    if latch.is_set:
        return True
    idle = IdleTime(clock=time.monotonic)
    deadline = None if left is None else time.monotonic() + left
    # Read the idle time only after the wait timed out: the first reading looks up the CPU quota in files.
    idle_left = limit
    while True:
        until_deadline = None if deadline is None else deadline - time.monotonic()
        if latch.wait(min((seconds for seconds in (idle_left, until_deadline) if seconds is not None), default=None)):
            return True
        idle_left = None if limit is None else limit - idle.seconds()
        if (deadline is not None and time.monotonic() >= deadline) or (idle_left is not None and idle_left <= 0):
            return False


class Purpose(Enum):
    """The reason for an attempt: a request that needs its result, or none yet."""

    PREFETCH = auto()
    """Lambda's init phase, before the first request."""
    BACKGROUND = auto()
    """A refresh for later requests. Valid credentials are cached."""
    AWAITED = auto()
    """A request that waits, although it can use valid cached credentials if the attempt fails."""
    REQUIRED = auto()
    """A request for which no valid credentials are cached."""


class State(Enum):
    """The state of the latest attempt for a role, for a request that has valid credentials."""

    IDLE = auto()
    """No attempt is in flight."""
    IN_FLIGHT = auto()
    OVERDUE = auto()
    """The attempt is past its time limit."""
    CUT = auto()
    """The attempt is past its time limit because a freeze of the environment interrupted it."""


class Attempt:
    """One attempt to get credentials, shared by all requests that wait for it."""

    def __init__(self, number: int, purpose: Purpose, now: float, limit: float) -> None:
        self.number = number
        self.purpose = purpose
        self.context = current_context.get()
        """The invocation in which the attempt started."""
        self.started_at = now
        self.called_at: float | None = None
        """When the caller's own credentials were loaded, and the time limit started."""
        self.limit = limit
        self._idle: IdleTime | None = None
        self.caller_loaded = Latch()
        self.done = Latch()
        self.awaited_since: float | None = None
        """When the first request began to wait for this attempt."""
        self.outcome: IssuedCredentials | BaseException | None = None
        self.completed_at = now
        self.error_is_shared = purpose is Purpose.REQUIRED
        """Whether all requests that waited raise the error. An interrupt concerns only the thread that it hit, and an
        attempt that nobody needed made only one call."""
        self.thread: int | None = None
        self.leader = threading.get_ident() if purpose is Purpose.REQUIRED else None
        """The thread that needs this attempt and raises its error in any case."""
        self.calls = Calls()
        self._launcher: dict[None, int] = {}
        self.is_launched = False
        self._wait_token = [None]
        self._run_token = [None]
        self._failure_token = [None]

    @property
    def is_background(self) -> bool:
        return self.purpose in {Purpose.PREFETCH, Purpose.BACKGROUND}

    def claim_wait(self, now: float) -> bool:
        """Record that a request waits for this attempt. Return whether it is the first one."""
        if not take(self._wait_token):
            return False
        self.awaited_since = now
        return True

    def claim_launch(self) -> bool:
        """Return whether this thread must start the attempt's thread.

        The first thread that claims the launch must start it. The same thread may claim it again: a signal handler may
        have interrupted it between claim and start, and may itself wait for this attempt.
        """
        thread = threading.get_ident()
        return self._launcher.setdefault(None, thread) == thread and not self.is_launched

    def claim_run(self) -> bool:
        """Return whether the caller must make the call. True once."""
        return take(self._run_token)

    def claim_failure(self) -> bool:
        """Return whether the caller must record this attempt's failure. True once."""
        return take(self._failure_token)

    @property
    def has_failed(self) -> bool:
        """Whether the failure of this attempt is recorded."""
        return not self._failure_token

    def start_limit(self, now: float, idle: IdleTime | None = None) -> None:
        """Start the time limit, or start it again in another invocation."""
        self.called_at = now
        self._idle = idle
        self.context = current_context.get() if idle is None else self.context

    def state(self, now: float) -> State:
        """Return what this attempt means at this time, to the current invocation."""
        if self.has_failed or isinstance(self.outcome, IssuedCredentials):
            return State.IDLE
        # Read before the limit, because start_limit() changes it after the limit.
        context = self.context
        if not self.done.is_set and not self._is_past_limit(now):
            return State.IN_FLIGHT
        # A thread that the handler started may not know its invocation. It must not wait, because it doesn't know the
        # remaining time either, and its own attempt may be one of the current invocation.
        current = current_context.get()
        was_frozen = context is not None and current is not None and context is not current
        return State.CUT if was_frozen else State.OVERDUE

    def _is_past_limit(self, now: float) -> bool:
        # A process that lacked CPU may not have read an answer that is there.
        return now > self._deadline and (self._idle is None or self._idle.seconds() >= self.limit)

    def lacked_cpu(self, now: float) -> bool:
        """Tell whether the process used all its CPU for most of the time since the call of STS."""
        return (
            self.called_at is not None and self._idle is not None and self._idle.seconds() < (now - self.called_at) / 2
        )

    @property
    def _deadline(self) -> float:
        return self.started_at + _CALLER_LOAD_LIMIT if self.called_at is None else self.called_at + self.limit

    def outlasted_limit(self) -> bool:
        """Tell whether the attempt took longer than its time limit, as if the environment was frozen meanwhile."""
        return self.completed_at > self._deadline


def take(tokens: list[None]) -> bool:
    """Take the only token of a list. Return whether it was there. Other threads and signal handlers can't interfere."""
    try:
        tokens.pop()
    except IndexError:
        return False
    return True


def no_attempt() -> Attempt:
    attempt = Attempt(0, Purpose.BACKGROUND, 0, 0)
    attempt.is_launched = True
    attempt.claim_failure()
    attempt.done.set()
    return attempt
