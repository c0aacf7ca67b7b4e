"""The credential cache, and the credentials object that asks it whenever botocore signs a request.

This module alone decides how long credentials are good for. botocore's refresh windows are not used: they are fixed at
15 and 10 minutes, so that a 900-second session renews on every signature and is refused with minutes left to live.

Time is the wall clock, since STS's expiry is an instant and a monotonic clock may stand still while Lambda keeps the
execution environment frozen.

Each attempt has a thread of its own. So it ends whatever becomes of those who wait for it, who for their part wait no
longer than they can: time-outs of sockets hold for each address and each read, and for finding an address not at all.
"""

from __future__ import annotations

import logging
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import boto3
from botocore.config import Config
from cachetools import TLRUCache

from xacct_lambda._errors import copy_for_raising, deadline_error, is_non_recoverable, no_answer_in_time, unavailable
from xacct_lambda._invocation import remaining_seconds, start_thread
from xacct_lambda._redaction import loggable
from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda._sts import FrozenCredentials, IssuedCredentials, system_uniform
from xacct_lambda.exceptions import AssumeRoleError, STSUnavailableError, XacctLambdaError

_logger = logging.getLogger(__name__)

_MINUTE: Final = 60
MANDATORY_WINDOW: Final = 60
MAX_ROLES: Final = 1000
_JITTER: Final = 1 / 3
"""The part of the advisory window over which a fleet's renewals spread."""

_FIRST_BACK_OFF: Final = 5
_MAX_BACK_OFF: Final = 60
_ERROR_TTL: Final = 5
"""How long a refusal is remembered, and that credentials were replaced because a service rejected them."""
_CLOCK_STEP_SECONDS: Final = 1
_MIN_ATTEMPT_TIME: Final = 0.05
"""With less than this left of an invocation, no attempt is begun."""


def advisory_window(lifetime: float) -> int:
    """Return how long before expiry renewal may start, for credentials that live so many seconds."""
    if lifetime <= 20 * _MINUTE:
        return 5 * _MINUTE
    return 15 * _MINUTE if lifetime < 90 * _MINUTE else 60 * _MINUTE


class _AssumesRoles(Protocol):
    calls: int

    def assume_role(
        self, source: boto3.Session, request: AssumeRoleRequest, config: Config | None
    ) -> IssuedCredentials: ...

    def max_wait_seconds(self, config: Config | None) -> float | None: ...

    def prepare(self, source: boto3.Session, config: Config | None) -> None: ...

    def clear_clients(self) -> None: ...


class CredentialKey:
    """What decides whether two sessions share credentials: who asks (by identity), and for what (by value).

    It does not keep the source session alive, which may hold megabytes of service models.
    """

    __slots__ = ("_hash", "_source", "request")

    def __init__(self, source: boto3.Session, request: AssumeRoleRequest) -> None:
        self._source = weakref.ref(source)
        self.request = request
        self._hash = hash((id(source), request))

    @property
    def source(self) -> Any:
        """The session that asks: there as long as its :class:`AssumedRoleCredentials` are."""
        return self._source()

    def __eq__(self, other: object) -> bool:
        # Not the sessions' own equality: they may be of a class for which all sessions in a Region are equal.
        is_same = isinstance(other, CredentialKey) and self.source is other.source and self.request == other.request
        # Two that are gone were not the same for that.
        return is_same and self.source is not None

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.request!r})"


class _Entry(NamedTuple):
    frozen: FrozenCredentials
    expires_at: float
    refresh_at: float
    """When the next renewal may start: in the advisory window, and after a failed attempt when the back-off is over."""
    failed_refreshes: int = 0


class _CachedError(NamedTuple):
    expires_at: float
    error: AssumeRoleError


class _Replaced(NamedTuple):
    expires_at: float


class _Refresh:
    """One attempt under way, for all who need its result."""

    outcome: IssuedCredentials | BaseException
    completed_at: float

    def __init__(self, *, is_prefetch: bool) -> None:
        self.is_prefetch = is_prefetch
        """Whether it was begun for later, so that nobody takes its failure for theirs."""
        self.done = threading.Event()
        self.thread: int | None = None
        self.error_is_shared = True
        """Whether all who waited take the outcome for theirs; the one who began the attempt always does."""


class CredentialCounts(NamedTuple):
    """What the cache has done and holds."""

    hits: int
    misses: int
    sts_calls: int
    failures: int
    roles: int


class CredentialCache:
    """Credentials of many roles: one AssumeRole call at a time for each, renewed ahead of expiry, not served after."""

    def __init__(
        self,
        sts: _AssumesRoles,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[float, float], float] = system_uniform,
        spawn: Callable[[Callable[[], None]], None] = start_thread,
        max_roles: int = MAX_ROLES,
    ) -> None:
        self._sts = sts
        self.clock = clock
        self._jitter = jitter
        self._spawn = spawn
        self.max_roles = max_roles
        self._latest = clock()
        # Reentrant, as a handler of a signal may sign requests in the midst of a look-up.
        self._lock = threading.RLock()
        self._hits = self._misses = self._failures = 0
        self._reset()

    def _reset(self) -> None:
        self._entries: TLRUCache[CredentialKey, _Entry] = self._timed_cache()
        self._refused: TLRUCache[CredentialKey, _CachedError] = self._timed_cache()
        self._replaced: TLRUCache[CredentialKey, _Replaced] = self._timed_cache()
        self._in_flight: dict[CredentialKey, _Refresh] = {}

    def _timed_cache(self) -> TLRUCache[CredentialKey, Any]:
        return TLRUCache(self.max_roles, ttu=lambda _key, value, _now: value.expires_at, timer=lambda: self._latest)

    def get(
        self,
        key: CredentialKey,
        *,
        min_ttl_seconds: float = 0,
        config: Config | None = None,
    ) -> FrozenCredentials:
        """Return credentials that live longer than ``min_ttl_seconds``, from memory or by one AssumeRole call.

        Raises:
            AssumeRoleError: STS refused; for a few seconds the refusal is remembered.
            ConfigurationError: The call cannot be made.
            STSUnavailableError: STS gave no usable answer in time, and nothing that lives long enough is cached.
        """
        while True:
            with self._lock:
                frozen = self._get_if_fresh(key, min_ttl_seconds)
                if frozen is not None:
                    self._hits += 1
                    return frozen
                if refused := self._refused.get(key):
                    raise copy_for_raising(refused.error)
                self._misses += 1
                is_leader = key not in self._in_flight
                refresh = self._in_flight.get(key) or self._start(key, config)
            outcome = self._wait_for(refresh, key, min_ttl_seconds, config)
            if isinstance(outcome, FrozenCredentials):
                return outcome
            if outcome is not None and (is_leader or refresh.error_is_shared):
                return self._cached_or_raise(outcome, key, min_ttl_seconds)

    def _get_if_fresh(self, key: CredentialKey, min_ttl_seconds: float) -> FrozenCredentials | None:
        """Return what is cached, unless it is for this caller to wait for newer ones."""
        now = self._advance()
        entry = self._entry_with_ttl(key, min_ttl_seconds)
        if entry is None:
            return None
        is_renewed_meanwhile = key in self._in_flight and entry.expires_at - now > MANDATORY_WINDOW
        return entry.frozen if now < entry.refresh_at or is_renewed_meanwhile else None

    def _entry_with_ttl(self, key: CredentialKey, min_ttl_seconds: float) -> _Entry | None:
        entry = self._entries.get(key)
        return entry if entry and entry.expires_at - self._latest > min_ttl_seconds else None

    def prefetch(self, key: CredentialKey, config: Config | None) -> None:
        """Begin an attempt for later, unless it is not needed. Who waits for it when it fails makes another."""
        with self._lock:
            if self._get_if_fresh(key, 0) is None and key not in self._in_flight:
                self._start(key, config, is_prefetch=True)

    def _start(self, key: CredentialKey, config: Config | None, *, is_prefetch: bool = False) -> _Refresh:
        """Begin an attempt, and return it; where no time is left for one, one that has failed for that."""
        refresh = _Refresh(is_prefetch=is_prefetch)
        left = remaining_seconds()
        if left is not None and left < _MIN_ATTEMPT_TIME:
            refresh.outcome = deadline_error(key.request.role_arn)
            refresh.done.set()
            return refresh
        try:
            self._in_flight[key] = refresh
            self._spawn(partial(self._run_refresh, key.source, key, refresh, config))
        except BaseException:
            if refresh.thread is None:
                # No thread was to be had, or an interrupt came first. Nobody waits yet, as this thread has the lock.
                self._in_flight.pop(key, None)
            raise
        return refresh

    def _wait_for(
        self, refresh: _Refresh, key: CredentialKey, min_ttl_seconds: float, config: Config | None
    ) -> FrozenCredentials | BaseException | None:
        """Wait for an attempt; return credentials, what went wrong, or None where there is nothing left of either."""
        if refresh.thread == threading.get_ident() and not refresh.done.is_set():
            return _waits_for_itself(key)
        limits = [
            seconds for seconds in (remaining_seconds(), self._sts.max_wait_seconds(config)) if seconds is not None
        ]
        if not refresh.done.wait(min(limits, default=None)):
            return _timeout_error(key, min(limits))
        if not isinstance(refresh.outcome, IssuedCredentials):
            return refresh.outcome
        with self._lock:
            now = self._advance()
        if refresh.outcome.expires_at - now > min_ttl_seconds:
            return refresh.outcome.frozen
        # They may have been good when they came: the environment was frozen before this thread got to them.
        was_short_lived = refresh.outcome.expires_at - refresh.completed_at <= min_ttl_seconds
        return _short_lived_error(key, min_ttl_seconds) if was_short_lived else None

    def _run_refresh(
        self,
        source: boto3.Session,
        key: CredentialKey,
        refresh: _Refresh,
        config: Config | None,
    ) -> None:
        """Make the one call, record what came of it, wake those who wait."""
        refresh.thread = threading.get_ident()
        outcome: IssuedCredentials | BaseException
        try:
            outcome = self._sts.assume_role(source, key.request, config)
        except BaseException as error:  # noqa: BLE001 - those who wait raise it, one of a user's hook too
            outcome = copy_for_raising(error)
            refresh.error_is_shared = isinstance(error, Exception) and not refresh.is_prefetch
        try:
            still_valid = None
            with self._lock:
                now = refresh.completed_at = self._advance()
                # After clear() a late result goes to those who waited for it, and is not kept.
                if self._in_flight.get(key) is refresh:
                    del self._in_flight[key]
                    still_valid = self._record(key, outcome, now, remember=refresh.error_is_shared)
            # Not under the lock: a log handler may be the user's, and may itself sign requests as the role. But before
            # anybody goes on: Lambda may freeze the environment as soon as the event is answered.
            if still_valid:
                _logger.log(
                    logging.DEBUG if still_valid.failed_refreshes else logging.WARNING,
                    "Renewing the credentials of %s failed; those at hand serve for another %.0f s. %s",
                    key.request.role_arn,
                    still_valid.expires_at - now,
                    loggable(outcome),
                )
            elif refresh.is_prefetch and isinstance(outcome, BaseException):
                _logger.warning(
                    "Credentials could not be fetched ahead; the first event tries again. %s", loggable(outcome)
                )
        finally:
            refresh.outcome = outcome
            refresh.done.set()

    def _record(
        self, key: CredentialKey, outcome: IssuedCredentials | BaseException, now: float, *, remember: bool
    ) -> _Entry | None:
        """Keep what an attempt yielded; return the credentials that go on serving though it failed."""
        if isinstance(outcome, IssuedCredentials):
            # Half a life at most: where this machine's clock is ahead of STS's, a whole window may leave nothing.
            window = min(advisory_window(key.request.duration_seconds), (outcome.expires_at - now) / 2)
            refresh_at = outcome.expires_at - window * (1 - self._jitter(0, _JITTER))
            self._entries[key] = _Entry(outcome.frozen, outcome.expires_at, refresh_at)
            return None
        self._failures += 1
        if remember and is_non_recoverable(outcome):
            self._refused[key] = _CachedError(now + _ERROR_TTL, outcome)
            return None
        entry = self._entries.get(key)
        if entry:
            pause = min(_FIRST_BACK_OFF * 2**entry.failed_refreshes, _MAX_BACK_OFF) * self._jitter(0.5, 1)
            self._entries[key] = entry._replace(
                # Not sooner than was due: the attempt may have been for a caller who needs a longer life.
                refresh_at=max(entry.refresh_at, now + pause),
                failed_refreshes=entry.failed_refreshes + 1,
            )
        return entry

    def _cached_or_raise(self, error: BaseException, key: CredentialKey, min_ttl_seconds: float) -> FrozenCredentials:
        """Return cached credentials that live long enough if the error is transient; otherwise raise the error."""
        if isinstance(error, XacctLambdaError) and not is_non_recoverable(error):
            with self._lock:
                self._advance()
                entry = self._entry_with_ttl(key, min_ttl_seconds)
            if entry:
                return entry.frozen
        raise copy_for_raising(error)

    def prepare(self, key: CredentialKey, config: Config | None) -> None:
        """Make what the first call will need, short of making it."""
        self._sts.prepare(key.source, config)

    def invalidate(self, key: CredentialKey, access_key: str) -> bool:
        """Drop the credentials with this access key, which a service did not accept; say whether to sign once more.

        Others than those rejected are never dropped. Nor are those that replaced rejected ones seconds ago: a service
        that accepts none (a Region that is not enabled) would else cost an AssumeRole call for each request.
        """
        with self._lock:
            now = self._advance()
            entry = self._entries.get(key)
            if entry is None or entry.frozen.access_key != access_key:
                return True
            if key in self._replaced:
                return False
            self._replaced[key] = _Replaced(now + _ERROR_TTL)
            del self._entries[key]
            return True

    def clear(self) -> None:
        """Drop every credential, every remembered refusal and every connection to STS."""
        with self._lock:
            self._reset()
        self._sts.clear_clients()

    def clear_errors(self) -> None:
        """Have the next signature of a role that was refused ask STS again."""
        with self._lock:
            self._refused.clear()

    def after_fork(self) -> None:
        """Make the copy in a forked child usable: new locks, no attempt under way, no shared connection."""
        if not self._lock.acquire(blocking=False):
            # Another thread was at the entries when the process was copied, and is not there to finish.
            self._reset()
        self._lock = threading.RLock()
        self._in_flight = {}
        self._sts.clear_clients()

    def counts(self) -> CredentialCounts:
        """Return the figures of ``cache_info()`` that this cache knows."""
        with self._lock:
            self._advance()
            self._entries.expire()
            return CredentialCounts(self._hits, self._misses, self._sts.calls, self._failures, len(self._entries))

    def _advance(self) -> float:
        """Bring the caches to the present, and return it; a clock that was set back empties them."""
        now = self.clock()
        if now < self._latest - _CLOCK_STEP_SECONDS:
            # How long the credentials that are cached will live can no longer be told.
            self._latest = now
            self._reset()
        self._latest = max(self._latest, now)
        return self._latest


def _timeout_error(key: CredentialKey, seconds: float) -> STSUnavailableError:
    return no_answer_in_time(key.request, key.source, seconds)


def _waits_for_itself(key: CredentialKey) -> STSUnavailableError:
    problem = "a hook or a log handler asks for its credentials within the very call that fetches them"
    return unavailable(key.request.role_arn, "WaitsForItself", problem)


def _short_lived_error(key: CredentialKey, min_ttl_seconds: float) -> STSUnavailableError:
    problem = f"STS issued credentials for less than the {min_ttl_seconds:g} s needed: is the clock right?"
    return unavailable(key.request.role_arn, "CredentialsTooShort", problem)
