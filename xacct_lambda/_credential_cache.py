"""The credential cache: when to refresh, which requests wait for STS and how long, and the handling of failures.

A request waits for STS only if it can't use valid cached credentials. Only the cache decides how long credentials are
valid. botocore's refresh windows don't apply: they are fixed at 15 and 10 minutes, so a 900-second session would
refresh on every signature.

Time is the wall clock, because STS's expiry is an instant, and a monotonic clock may stop while Lambda freezes the
execution environment.

The cache has no lock that a request takes. A signal handler, a finalizer, or a log handler may sign requests at any
point of a look-up, and an exception that a signal handler raises may end a look-up at any point. So each change is one
assignment, or one operation on a dict that the interpreter doesn't divide.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

import boto3
from botocore.config import Config

from xacct_lambda._attempts import Attempt, Latch, Purpose, State, wait_for
from xacct_lambda._cache_entry import MAX_STUCK, CachedError, CachedSet, CredentialKey, Entry
from xacct_lambda._errors import (
    caller_timeout_error,
    copy_for_raising,
    deadline_error,
    is_non_recoverable,
    no_answer_in_time,
    unavailable,
    without_frames,
)
from xacct_lambda._invocation import remaining_seconds, start_background_thread, start_thread
from xacct_lambda._processor import IdleTime
from xacct_lambda._redaction import loggable
from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda._sts import Calls, Counter, FrozenCredentials, IssuedCredentials, system_uniform
from xacct_lambda.exceptions import STSUnavailableError, XacctLambdaError

if TYPE_CHECKING:
    from xacct_lambda.instrumentation import CredentialEventKind

_logger = logging.getLogger(__name__)

_MINUTE: Final = 60
MANDATORY_WINDOW: Final = 60
"""Seconds before expiry in which a signature waits for a refresh, once for each attempt."""
MAX_ROLES: Final = 1000
_JITTER: Final = 1 / 3
"""The part of the advisory window over which the refreshes of a fleet spread."""
_FIRST_BACK_OFF: Final = 5
_MAX_BACK_OFF: Final = 60
_ERROR_TTL: Final = 5
"""Seconds for which a refusal is cached."""
_IDLE_LIMIT: Final = 60
"""Seconds after which connections to STS are not used again. A NAT gateway drops idle connections after 350 s, without
a reset that the client sees before its next request, and a freeze ends them too."""
_CLOCK_STEP: Final = 1
_MIN_ATTEMPT_TIME: Final = 0.05
"""Seconds that an invocation must have left for an attempt to start."""
_SETTLING_DELAY: Final = 1.0
"""Seconds after which a request that was signed with new credentials is sent again."""


def _report(kind: CredentialEventKind, key: CredentialKey, **fields: Any) -> None:
    """Call the hooks that the user set. Nobody has set any if nobody has imported the module, which takes 1 ms."""
    instrumentation = sys.modules.get("xacct_lambda.instrumentation")
    # While another thread imports it, the module lacks its functions.
    publish = getattr(instrumentation, "publish", None)
    if publish is not None:
        publish(kind, key.request.role_arn, **fields)


def advisory_window(lifetime: float) -> int:
    """Return how many seconds before expiry a refresh may start, for credentials of this lifetime in seconds."""
    if lifetime <= 20 * _MINUTE:
        return 5 * _MINUTE
    return 15 * _MINUTE if lifetime < 90 * _MINUTE else 60 * _MINUTE


class _AssumesRoles(Protocol):
    @property
    def calls(self) -> int: ...

    def load_caller_credentials(self, source: boto3.Session, request: AssumeRoleRequest) -> None: ...

    def assume_role(
        self,
        source: boto3.Session,
        request: AssumeRoleRequest,
        config: Config | None,
        *,
        max_requests: int,
        calls: Calls,
    ) -> IssuedCredentials: ...

    def max_wait_seconds(self, config: Config | None) -> float: ...

    def prepare(self, source: boto3.Session, config: Config | None) -> None: ...

    def drop_connections(self, source: boto3.Session, config: Config | None) -> None: ...

    def clear_clients(self) -> None: ...


class CredentialCounts(NamedTuple):
    """Counters of the cache, and the number of roles with cached credentials."""

    hits: int
    misses: int
    sts_calls: int
    failures: int
    roles: int


class CredentialCache:
    """Credentials of many roles: one AssumeRole call at a time for each, refreshed ahead of expiry, never used after.

    Args:
        sts: Makes the AssumeRole call.
        clock: Returns the wall clock time in seconds since the epoch.
        jitter: Returns a random number between two numbers.
        start_thread: Runs an attempt for which a request waits.
        start_background_thread: Runs an attempt for which no request waits.
        wait: Waits for a latch, as :func:`wait_for` does.
        cpu_time: Returns the CPU time of the process in seconds.
        max_roles: Number of roles to cache.
    """

    def __init__(  # noqa: PLR0913 - the clock, the network, the randomness, and the threads
        self,
        sts: _AssumesRoles,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[float, float], float] = system_uniform,
        start_thread: Callable[[Callable[[], None]], None] = start_thread,
        start_background_thread: Callable[[Callable[[], None]], None] = start_background_thread,
        wait: Callable[[Latch, float | None, float | None], bool] = wait_for,
        cpu_time: Callable[[], float] = time.process_time,
        max_roles: int = MAX_ROLES,
    ) -> None:
        self._sts = sts
        self.clock = clock
        self._jitter = jitter
        self._start_thread = start_thread
        self._start_background_thread = start_background_thread
        self._wait = wait
        self._cpu_time = cpu_time
        self.max_roles = max_roles
        self._latest = self._last_call_at = clock()
        self._uses = count(1)
        self._hits, self._misses, self._failures = Counter(), Counter(), Counter()
        self._entries: dict[CredentialKey, Entry] = {}

    # --- What requests call -------------------------------------------------------------------------------------------

    def get(self, key: CredentialKey, *, min_ttl_seconds: float = 0, config: Config | None = None) -> FrozenCredentials:
        """Return credentials that last longer than ``min_ttl_seconds``, from the cache or by one AssumeRole call.

        Raises:
            AssumeRoleError: STS refused. The refusal is cached for a few seconds.
            CallerCredentialsError: The caller's own credentials can't be loaded.
            ConfigurationError: The call cannot be made.
            STSUnavailableError: STS gave no usable answer in time, and nothing that lasts long enough is cached.
        """
        now = self._advance()
        entry = self._entry(key)
        cached = entry.cached
        if cached is not None and cached.is_valid(now, min_ttl_seconds):
            if now < cached.refresh_at or not self._must_wait(key, entry, cached, now, config):
                self._hits.increase()
                return cached.frozen
            self._misses.increase()
            self._await_refresh(key, entry, config)
            # The newest set, or what was cached if the refresh failed.
            cached = entry.cached
            if cached is not None and cached.is_valid(self._advance(), min_ttl_seconds):
                return cached.frozen
        return self._assume_role(key, entry, min_ttl_seconds, config)

    def prefetch(self, key: CredentialKey, config: Config | None) -> Latch:
        """Start an attempt in the background, unless fresh credentials are cached. Return the latch of its end.

        If the prefetch fails, callers that waited for it start their own attempt.
        """
        now = self._advance()
        entry = self._entry(key)
        attempt = entry.attempt
        is_fresh = entry.cached is not None and entry.cached.is_valid(now) and now < entry.cached.refresh_at
        if not is_fresh and attempt.state(now) is State.IDLE and not entry.has_too_many_stuck():
            return self._start(key, entry, attempt, config, Purpose.PREFETCH).done
        return entry.attempt.done

    def prepare(self, key: CredentialKey, config: Config | None) -> None:
        """Create the STS client ahead of the first call."""
        source = key.source
        if source is not None:
            self._sts.prepare(source, config)

    def expires_at(self, key: CredentialKey) -> float | None:
        """Return the expiry of the cached credentials in seconds since the epoch, or None without valid ones."""
        now = self._advance()
        entry = self._entries.get(key)
        cached = entry.cached if entry else None
        return cached.expires_at if cached is not None and cached.is_valid(now) else None

    def invalidate(
        self, key: CredentialKey, access_key: str, error_code: str = "", *, may_be_unknown: bool, is_retry: bool
    ) -> float | None:
        """Drop the credentials with this access key, which a service rejected. Return when to sign the request again.

        Credentials with another access key stay in the cache.

        Args:
            key: The key of the role's credentials.
            access_key: The access key that signed the rejected request.
            error_code: The service's error code.
            may_be_unknown: Whether the service may not know the credentials yet. If so, a set that is only seconds old
                is not dropped.
            is_retry: Whether the request was sent a second time with the same set.

        Returns:
            Seconds to wait before the request is signed again: 0 with other credentials, more with the same ones, None
            if that would not help.
        """
        now = self._advance()
        entry = self._entries.get(key)
        cached = entry.cached if entry else None
        if entry is None or cached is None or cached.frozen.access_key != access_key or cached.is_rejected:
            return 0
        if not entry.reject(cached, now, may_be_unknown=may_be_unknown):
            # The retry of one request tells all requests that the service still rejects the set.
            cached.retry_failed = cached.retry_failed or is_retry
            return None if cached.retry_failed else _SETTLING_DELAY
        _report("rejection", key, error_code=error_code or None, expires_at=cached.expires_at)
        return 0

    # --- The advisory and the mandatory window ------------------------------------------------------------------------

    def _must_wait(
        self, key: CredentialKey, entry: Entry, cached: CachedSet, now: float, config: Config | None
    ) -> bool:
        """Start a refresh if one is due. Return whether this request has to wait for it."""
        attempt = entry.attempt
        if attempt.thread == threading.get_ident() and not attempt.done.is_set:
            return False  # A hook or a log handler signs a request during this attempt.
        is_mandatory = cached.expires_at - now <= MANDATORY_WINDOW
        state = attempt.state(now)
        if state is State.CUT and cached.claim_wait():
            return True
        if state is State.CUT and not attempt.done.is_set:
            attempt.start_limit(now)
        elif state is State.CUT:
            # Nobody waited for the attempt that the freeze cut, so its failure means nothing. Start another one.
            attempt.claim_failure()
        elif state is State.OVERDUE:
            self._give_up(key, entry, attempt, now)
        elif state is State.IN_FLIGHT and not attempt.is_launched:
            # The request that claimed the attempt may have been interrupted before it launched it.
            self._launch(key, entry, attempt, config)
        if attempt.state(now) is State.IDLE:
            left = remaining_seconds()
            if now < entry.retry_at or entry.has_too_many_stuck() or (left is not None and left < _MIN_ATTEMPT_TIME):
                return False
            if entry.cached is not cached:
                return False  # The attempt has refreshed them since this request looked.
            purpose = Purpose.AWAITED if is_mandatory else Purpose.BACKGROUND
            attempt = self._start(key, entry, attempt, config, purpose)
        return is_mandatory and attempt.claim_wait(now)

    def _await_refresh(self, key: CredentialKey, entry: Entry, config: Config | None) -> None:
        """Wait for the refresh in flight, at most one time limit. If a freeze cut it and it fails, make one more."""
        now = self._advance()
        attempt = entry.attempt
        was_cut = attempt.state(now) is State.CUT
        left = remaining_seconds()
        if was_cut and left is not None:
            # The credentials are valid for minutes, so half of the invocation is left to the handler.
            left /= 2
        deadline = now + self._sts.max_wait_seconds(config)
        attempt.claim_wait(now)
        # An interrupt may have come between the start of the attempt and that of its thread.
        self._launch(key, entry, attempt, config)
        # Join a cut attempt first: its answer is usually in the kernel's buffer.
        is_done = self._wait(attempt.done, deadline - now, left)
        if was_cut and is_done and not isinstance(attempt.outcome, IssuedCredentials):
            # The freeze is the likely cause of the failure, so it counts only if the next attempt fails too.
            attempt.claim_failure()
            attempt = self._start(key, entry, attempt, config, Purpose.AWAITED)
            attempt.claim_wait(now)
            self._wait(
                attempt.done, deadline - self._advance(), None if left is None else (remaining_seconds() or 0) / 2
            )
        now = self._advance()
        if attempt.state(now) in {State.OVERDUE, State.CUT}:
            self._give_up(key, entry, attempt, now)

    # --- No valid credentials -----------------------------------------------------------------------------------------

    def _assume_role(
        self, key: CredentialKey, entry: Entry, min_ttl_seconds: float, config: Config | None
    ) -> FrozenCredentials:
        """Wait for an attempt of this or another request. Return its credentials, or raise its error."""
        self._misses.increase()
        was_retried = False
        while True:
            now = self._advance()
            if (error := entry.error) and now < error.expires_at:
                _report("refusal", key, error_code=error.error.code)
                raise copy_for_raising(error.error)
            previous = entry.attempt
            state = previous.state(now)
            # Read after the state. If the attempt has ended since get() looked, its credentials are cached already.
            cached = entry.cached
            if cached is not None and cached.is_valid(now, min_ttl_seconds):
                return cached.frozen
            attempt = self._join_or_start(key, entry, previous, state, config)
            self._wait_for_result(key, attempt)
            outcome = attempt.outcome
            was_frozen = attempt.outlasted_limit() and not was_retried
            if isinstance(outcome, IssuedCredentials):
                if outcome.expires_at - self._advance() > min_ttl_seconds:
                    return outcome.frozen
                if not was_frozen and outcome.expires_at - attempt.completed_at <= min_ttl_seconds:
                    raise _short_lived_error(key, min_ttl_seconds)
                # Otherwise they lasted long enough when STS issued them, and the environment was frozen since.
            elif not was_frozen and (attempt.leader == threading.get_ident() or attempt.error_is_shared):
                # An error that isn't shared belongs to the thread that started the attempt. An error after a freeze
                # says nothing about the role: STS rejects a signature that is too old.
                return self._cached_or_raise(outcome, entry, min_ttl_seconds)
            was_retried = was_retried or was_frozen

    def _join_or_start(
        self, key: CredentialKey, entry: Entry, attempt: Attempt, state: State, config: Config | None
    ) -> Attempt:
        """Return this attempt if it is in flight, otherwise a new one."""
        if state is State.IN_FLIGHT:
            # The request that claimed the attempt may have been interrupted before it launched it.
            self._launch(key, entry, attempt, config)
            return attempt
        if state is not State.IDLE:
            self._give_up(key, entry, attempt, self._advance())
        left = remaining_seconds()
        if left is not None and left < _MIN_ATTEMPT_TIME:
            raise deadline_error(key.request.role_arn)
        if entry.has_too_many_stuck():
            raise _stuck_error(key)
        return self._start(key, entry, attempt, config, Purpose.REQUIRED)

    def _wait_for_result(self, key: CredentialKey, attempt: Attempt) -> None:
        if attempt.thread == threading.get_ident() and not attempt.done.is_set:
            raise _waits_for_itself(key)
        attempt.claim_wait(self._advance())
        # The time limit is STS's. The caller's own log-in may take as long as its provider or the invocation allows.
        left = remaining_seconds()
        is_loaded = self._wait(attempt.caller_loaded, attempt.limit, left)
        if not is_loaded and attempt.thread is not None:
            is_loaded = self._wait(attempt.caller_loaded, None, remaining_seconds())
        if not is_loaded and left is not None and left < attempt.limit:
            # The wait was too short to blame anybody.
            raise deadline_error(key.request.role_arn)
        if not is_loaded:
            raise caller_timeout_error(key.source, key.request, attempt.limit if left is None else left)
        left = remaining_seconds()
        if not self._wait(attempt.done, attempt.limit, left):
            seconds = attempt.limit if left is None else min(attempt.limit, left)
            raise no_answer_in_time(key.request, key.source, seconds, is_busy=attempt.lacked_cpu(self._advance()))

    def _cached_or_raise(self, error: BaseException | None, entry: Entry, min_ttl_seconds: float) -> FrozenCredentials:
        """Return credentials that were cached meanwhile, for example by a late answer. Otherwise raise the error."""
        cached = entry.cached
        if (
            cached is not None
            and isinstance(error, XacctLambdaError)
            and cached.is_valid(self._advance(), min_ttl_seconds)
        ):
            return cached.frozen
        raise copy_for_raising(error or RuntimeError("the attempt ended without an outcome"))

    # --- Attempts -----------------------------------------------------------------------------------------------------

    def _start(
        self, key: CredentialKey, entry: Entry, previous: Attempt, config: Config | None, purpose: Purpose
    ) -> Attempt:
        """Start the attempt after the previous one, or return the one that another request started first."""
        attempt = Attempt(previous.number + 1, purpose, self._advance(), self._sts.max_wait_seconds(config))
        attempt = entry.successor(previous, attempt)
        self._launch(key, entry, attempt, config)
        return attempt

    def _launch(self, key: CredentialKey, entry: Entry, attempt: Attempt, config: Config | None) -> None:
        """Start the thread of an attempt, unless another request has done so."""
        start = self._start_background_thread if attempt.is_background else self._start_thread
        task = partial(self._run, key, _source_of(key), entry, attempt, config)
        try:
            if not attempt.claim_launch():
                return
            has_thread = True
            try:
                start(task)
                attempt.is_launched = True
            except RuntimeError:
                # No thread is available: the process has too many, or the interpreter shuts down.
                has_thread = False
            # Outside the except block. Otherwise that error would be the context of the attempt's own error.
            if not has_thread and attempt.purpose is Purpose.REQUIRED:
                task()
            elif not has_thread:
                problem = "no thread could be started"
                self._finish(key, entry, attempt, unavailable(key.request.role_arn, "NoThread", problem))
        except BaseException as error:
            # A signal handler raised. If no other thread runs the attempt, this thread must end it.
            # The first test also keeps a thread that has not begun from making the call.
            is_own = attempt.claim_run() or attempt.thread in {None, threading.get_ident()}
            if is_own and not attempt.done.is_set:
                attempt.error_is_shared = False
                self._finish(key, entry, attempt, error)
            raise

    def _run(
        self,
        key: CredentialKey,
        source: boto3.Session,
        entry: Entry,
        attempt: Attempt,
        config: Config | None,
    ) -> None:
        """Make one attempt in this thread, record its result, and wake the requests that wait for it."""
        if not attempt.claim_run():
            return
        attempt.thread = threading.get_ident()
        outcome: IssuedCredentials | BaseException
        try:
            self._sts.load_caller_credentials(source, key.request)
            now, last_call_at = self._advance(), self._last_call_at
            self._last_call_at = now
            attempt.start_limit(now, IdleTime(clock=self.clock, cpu_time=self._cpu_time))
            attempt.caller_loaded.set()
            if now - last_call_at > _IDLE_LIMIT:
                self._sts.drop_connections(source, config)
            outcome = self._sts.assume_role(
                source,
                key.request,
                config,
                # If valid credentials are cached, the back-off replaces the second request.
                max_requests=2 if attempt.purpose in {Purpose.REQUIRED, Purpose.PREFETCH} else 1,
                calls=attempt.calls,
            )
        except BaseException as error:  # noqa: BLE001 - the requests that wait raise it, also an error of a user's hook
            outcome = without_frames(error)
            attempt.error_is_shared = attempt.error_is_shared and isinstance(error, Exception)
        try:
            self._finish(key, entry, attempt, outcome)
        finally:
            self._publish(key, entry, attempt)

    def _finish(
        self, key: CredentialKey, entry: Entry, attempt: Attempt, outcome: IssuedCredentials | BaseException
    ) -> None:
        """Record the result of an attempt, and wake the requests that wait for it."""
        try:
            now = attempt.completed_at = self._advance()
            if isinstance(outcome, IssuedCredentials):
                self._store(key, entry, attempt, outcome, now)
            elif attempt.awaited_since is not None or not attempt.outlasted_limit():
                self._record_failure(key, entry, attempt, outcome, now)
            # Otherwise a freeze may have cut the attempt. The next request finds out, and records the failure.
        finally:
            attempt.outcome = outcome
            attempt.caller_loaded.set()
            attempt.done.set()

    def _store(self, key: CredentialKey, entry: Entry, attempt: Attempt, issued: IssuedCredentials, now: float) -> None:
        """Cache credentials, unless a set that expires later is cached already."""
        # At most half of the lifetime: if this machine's clock is ahead of STS's, a whole window may leave nothing.
        window = min(advisory_window(key.request.duration_seconds), (issued.expires_at - now) / 2)
        refresh_at = issued.expires_at - window * (1 - self._jitter(0, _JITTER))
        cached = entry.cached
        if not entry.cache(CachedSet(issued, now, refresh_at)) and cached is not None and now >= cached.refresh_at:
            self._record_failure(key, entry, attempt, _short_lived_error(key, cached.expires_at - now), now)

    def _give_up(self, key: CredentialKey, entry: Entry, attempt: Attempt, now: float) -> None:
        """Count an attempt that passed its time limit as failed. A late answer is still cached."""
        # An attempt that was never launched, because of an interrupt, has no thread that could be stuck.
        if not attempt.done.is_set and (attempt.is_launched or attempt.thread is not None):
            entry.stuck[attempt] = None
            attempt.calls.abort()
        if attempt.purpose is Purpose.PREFETCH:
            # The request that gives the prefetch up makes its own attempt, and reports its own failure.
            attempt.claim_failure()
            return
        error = attempt.outcome
        if not isinstance(error, BaseException):
            problem = f"STS did not answer in {attempt.limit:.3g} s"
            error = unavailable(key.request.role_arn, "NoAnswerInTime", problem)
        self._record_failure(key, entry, attempt, error, now)

    def _record_failure(
        self, key: CredentialKey, entry: Entry, attempt: Attempt, error: BaseException, now: float
    ) -> None:
        """Count a failed attempt, once: back off, cache a refusal, and log an error that no request raises."""
        cached = entry.cached
        is_valid = cached is not None and cached.is_valid(now)
        failures = entry.failures
        if is_valid and not attempt.has_failed:
            # Before the attempt counts as failed. Otherwise other requests would start attempts in between.
            back_off = min(_FIRST_BACK_OFF * 2**failures, _MAX_BACK_OFF) * self._jitter(1, 1.5)
            entry.retry_at = now + back_off
        if not attempt.claim_failure():
            return
        self._failures.increase()
        if cached is not None and is_valid:
            entry.failures = failures + 1
            self._log_failed_refresh(key, attempt, error, cached.expires_at - now, is_first=not failures)
        elif attempt.purpose is Purpose.PREFETCH:
            _logger.warning(
                "Prefetching the credentials of %s failed. The first event tries again. %s",
                key.request.role_arn,
                loggable(error),
            )
        elif is_non_recoverable(error) and not attempt.outlasted_limit():
            entry.error = CachedError(now + _ERROR_TTL, error)

    @staticmethod
    def _log_failed_refresh(
        key: CredentialKey, attempt: Attempt, error: BaseException, seconds_left: float, *, is_first: bool
    ) -> None:
        # Lambda stamps a record with the ID of the event that is current when the record is written, which may be a
        # later one. So the record says itself when the attempt started.
        _logger.log(
            logging.WARNING if is_first else logging.DEBUG,
            "%s the credentials of %s (started at %s UTC). The cached credentials are valid for another %.0f s. %s",
            "STS refused to refresh" if is_non_recoverable(error) else "Could not refresh",
            key.request.role_arn,
            time.strftime("%H:%M:%S", time.gmtime(attempt.started_at)),
            seconds_left,
            loggable(error),
        )

    def _publish(self, key: CredentialKey, entry: Entry, attempt: Attempt) -> None:
        """Report an attempt to hooks, after the requests that waited for it go on."""
        since = attempt.awaited_since
        waited = 0.0 if since is None else max(0.0, attempt.completed_at - since)
        for report in attempt.calls.reports:
            _report(
                "assume_role",
                key,
                duration_seconds=report.duration_seconds,
                waited_seconds=waited,
                error_code=report.error_code,
                expires_at=report.expires_at,
                session_token_utilization=report.session_token_utilization,
            )
        if entry.error is not None and entry.error.error is attempt.outcome:
            _report("refusal", key, error_code=entry.error.error.code)

    # --- State --------------------------------------------------------------------------------------------------------

    def _entry(self, key: CredentialKey) -> Entry:
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries.setdefault(key, Entry())
            entry.last_used = next(self._uses)
            self._evict()
        else:
            entry.last_used = next(self._uses)
        return entry

    def _evict(self) -> None:
        """Drop the roles that were unused for the longest time, first those without credentials."""
        while len(entries := self._entries.copy()) > self.max_roles:
            now = self._latest

            # Not the newest entry, which belongs to the request that is being served.
            oldest = min(list(entries)[:-1], key=lambda key: entries[key].rank(now))
            cached = entries[oldest].cached
            self._entries.pop(oldest, None)
            if cached is not None and cached.is_valid(now):
                _report("eviction", oldest, expires_at=cached.expires_at)

    def clear(self) -> None:
        """Drop all credentials, cached refusals, and connections to STS. Late answers to earlier calls are not kept."""
        self._entries = {}
        self._sts.clear_clients()

    def clear_errors(self) -> None:
        """Drop cached refusals, so that the next request asks STS again."""
        for entry in self._entries.copy().values():
            entry.error = None

    def after_fork(self) -> None:
        """Make the copy in a forked child usable: it keeps credentials, but no attempt in flight and no connection."""
        for entry in self._entries.copy().values():
            entry.forget_attempts()
        self._sts.clear_clients()

    def counts(self) -> CredentialCounts:
        """Return the figures of ``cache_info()`` that this cache knows."""
        now = self._advance()
        sets = [entry.cached for entry in self._entries.copy().values()]
        valid = sum(cached is not None and cached.is_valid(now) for cached in sets)
        return CredentialCounts(self._hits.value, self._misses.value, self._sts.calls, self._failures.value, valid)

    def _advance(self) -> float:
        """Return the time. If the clock was set back, drop everything: the expiry of credentials is uncertain."""
        # Read in this order. Otherwise a thread that is suspended between the two could see a step back of the clock.
        latest = self._latest
        now = self.clock()
        if now < latest - _CLOCK_STEP:
            self._entries = {}
            self._latest = now
        elif now > latest:
            self._latest = now
        return max(now, self._latest)


def _source_of(key: CredentialKey) -> boto3.Session:
    source = key.source
    if source is None:
        # AssumedRoleCredentials keeps its source session alive, so the key is from other code.
        raise ReferenceError("the source session of the key was garbage-collected")
    return source


def _stuck_error(key: CredentialKey) -> STSUnavailableError:
    problem = f"{MAX_STUCK} attempts to assume the role have not ended, so no further attempt was made"
    return unavailable(key.request.role_arn, "AttemptsStuck", problem)


def _waits_for_itself(key: CredentialKey) -> STSUnavailableError:
    problem = "a hook or a log handler needs the role's credentials within the very call that fetches them"
    return unavailable(key.request.role_arn, "WaitsForItself", problem)


def _short_lived_error(key: CredentialKey, min_ttl_seconds: float) -> STSUnavailableError:
    problem = f"STS issued credentials for less than the {min_ttl_seconds:g} s needed. Check the clock of this machine"
    return unavailable(key.request.role_arn, "CredentialsTooShort", problem)
