"""The credential cache, and the credentials object that asks it whenever botocore signs a request.

This module alone decides how long credentials are good for. botocore's refresh windows are not used: they are fixed at
15 and 10 minutes, so that a 900-second session renews on every signature and is refused with minutes left to live.

Time is the wall clock, since STS's expiry is an instant and a monotonic clock may stand still while Lambda keeps the
execution environment frozen.

Each attempt has a thread of its own. So it ends whatever becomes of those who wait for it, who for their part wait no
longer than they can: time-outs of sockets hold for each address and each read, and for finding an address not at all.
"""

from __future__ import annotations

import copy
import logging
import re
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple, Protocol, TypeGuard, TypeVar

import boto3
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.hooks import BaseEventHooks
from cachetools import TLRUCache

from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda._sts import FrozenCredentials, IssuedCredentials, in_thread, no_time_left, seconds_left, uniform
from xacct_lambda.exceptions import AssumeRoleError, STSUnavailableError, XacctLambdaError

_logger = logging.getLogger(__name__)
_Error = TypeVar("_Error", bound=BaseException)

_MINUTE: Final = 60
MANDATORY_SECONDS: Final = 60
MAX_ROLES: Final = 1000
_JITTER: Final = 1 / 3
"""The part of the advisory window over which a fleet's renewals spread."""

_BACK_OFF_SECONDS: Final = 5
_LONGEST_BACK_OFF_SECONDS: Final = 60
_MEMORY_SECONDS: Final = 5
"""How long a refusal is remembered, and that credentials were replaced because a service rejected them."""
_CLOCK_STEP_SECONDS: Final = 1
_SHORTEST_SECONDS: Final = 0.05
"""With less than this left of an invocation, no attempt is begun."""

# By these services reject credentials that have not expired: the session was revoked, the role created anew.
_REJECTION_CODES: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)


def advisory_seconds(lifetime: float) -> int:
    """Return how long before expiry renewal may start, for credentials that live so many seconds."""
    if lifetime <= 20 * _MINUTE:
        return 5 * _MINUTE
    return 15 * _MINUTE if lifetime < 90 * _MINUTE else 60 * _MINUTE


class _AssumesRoles(Protocol):
    calls: int

    def assume_role(
        self, source: boto3.Session, request: AssumeRoleRequest, config: Config | None
    ) -> IssuedCredentials: ...

    def patience(self, config: Config | None) -> float | None: ...

    def prepare(self, source: boto3.Session, config: Config | None) -> None: ...

    def forget_clients(self) -> None: ...


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


class _Held(NamedTuple):
    frozen: FrozenCredentials
    expires_at: float
    renew_at: float
    """When the next renewal may start: in the advisory window, and after a failed attempt when the back-off is over."""
    failed_renewals: int = 0


class _Refused(NamedTuple):
    expires_at: float
    error: AssumeRoleError


class _Replaced(NamedTuple):
    expires_at: float


class _Flight:
    """One attempt under way, for all who need its result."""

    outcome: IssuedCredentials | BaseException
    landed_at: float

    def __init__(self, *, is_ahead: bool) -> None:
        self.is_ahead = is_ahead
        """Whether it was begun for later, so that nobody takes its failure for theirs."""
        self.done = threading.Event()
        self.thread: int | None = None
        self.is_shared = True
        """Whether all who waited take the outcome for theirs; the one who began the attempt always does."""


class CredentialCounts(NamedTuple):
    """What the cache has done and holds."""

    hits: int
    misses: int
    sts_calls: int
    failures: int
    held: int


class CredentialCache:
    """Credentials of many roles: one AssumeRole call at a time for each, renewed ahead of expiry, not served after."""

    def __init__(
        self,
        sts: _AssumesRoles,
        *,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[float, float], float] = uniform,
        spawn: Callable[[Callable[[], None]], None] = in_thread,
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
        self._forget_all()

    def _forget_all(self) -> None:
        self._held: TLRUCache[CredentialKey, _Held] = self._timed_cache()
        self._refused: TLRUCache[CredentialKey, _Refused] = self._timed_cache()
        self._replaced: TLRUCache[CredentialKey, _Replaced] = self._timed_cache()
        self._flights: dict[CredentialKey, _Flight] = {}

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
            STSUnavailableError: STS gave no usable answer, or none in time, and nothing that lives long enough is held.
        """
        while True:
            with self._lock:
                frozen = self._at_hand(key, min_ttl_seconds)
                if frozen is not None:
                    self._hits += 1
                    return frozen
                if refused := self._refused.get(key):
                    raise _fresh(refused.error)
                self._misses += 1
                leads = key not in self._flights
                flight = self._flights.get(key) or self._start(key, config)
            outcome = self._landed(flight, key, min_ttl_seconds, config)
            if isinstance(outcome, FrozenCredentials):
                return outcome
            if outcome is not None and (leads or flight.is_shared):
                return self._despite(outcome, key, min_ttl_seconds)

    def _at_hand(self, key: CredentialKey, min_ttl_seconds: float) -> FrozenCredentials | None:
        """Return what is held, unless it is for this caller to wait for newer ones."""
        now = self._advance()
        held = self._held_for(key, min_ttl_seconds)
        if held is None:
            return None
        is_renewed_meanwhile = key in self._flights and held.expires_at - now > MANDATORY_SECONDS
        return held.frozen if now < held.renew_at or is_renewed_meanwhile else None

    def _held_for(self, key: CredentialKey, min_ttl_seconds: float) -> _Held | None:
        held = self._held.get(key)
        return held if held and held.expires_at - self._latest > min_ttl_seconds else None

    def prefetch(self, key: CredentialKey, config: Config | None) -> None:
        """Begin an attempt for later, unless it is not needed. Who waits for it when it fails makes another."""
        with self._lock:
            if self._at_hand(key, 0) is None and key not in self._flights:
                self._start(key, config, is_ahead=True)

    def _start(self, key: CredentialKey, config: Config | None, *, is_ahead: bool = False) -> _Flight:
        """Begin an attempt, and return it; where no time is left for one, one that has failed for that."""
        flight = _Flight(is_ahead=is_ahead)
        left = seconds_left()
        if left is not None and left < _SHORTEST_SECONDS:
            flight.outcome = no_time_left(key.request.role_arn)
            flight.done.set()
            return flight
        try:
            self._flights[key] = flight
            self._spawn(partial(self._fly, key.source, key, flight, config))
        except BaseException:
            if flight.thread is None:
                # No thread was to be had, or an interrupt came first. Nobody waits yet, as the lock is held.
                self._flights.pop(key, None)
            raise
        return flight

    def _landed(
        self, flight: _Flight, key: CredentialKey, min_ttl_seconds: float, config: Config | None
    ) -> FrozenCredentials | BaseException | None:
        """Wait for an attempt; return credentials, what went wrong, or None where there is nothing left of either."""
        if flight.thread == threading.get_ident() and not flight.done.is_set():
            return _waits_for_itself(key)
        limits = [seconds for seconds in (seconds_left(), self._sts.patience(config)) if seconds is not None]
        if not flight.done.wait(min(limits, default=None)):
            return _late(key, min(limits))
        if not isinstance(flight.outcome, IssuedCredentials):
            return flight.outcome
        with self._lock:
            now = self._advance()
        if flight.outcome.expires_at - now > min_ttl_seconds:
            return flight.outcome.frozen
        # They may have been good when they came: the environment was frozen before this thread got to them.
        came_too_short = flight.outcome.expires_at - flight.landed_at <= min_ttl_seconds
        return _too_short(key, min_ttl_seconds) if came_too_short else None

    def _fly(
        self,
        source: boto3.Session,
        key: CredentialKey,
        flight: _Flight,
        config: Config | None,
    ) -> None:
        """Make the one call, record what came of it, wake those who wait."""
        flight.thread = threading.get_ident()
        outcome: IssuedCredentials | BaseException
        try:
            outcome = self._sts.assume_role(source, key.request, config)
        except BaseException as error:  # noqa: BLE001 - those who wait raise it, one of a user's hook too
            outcome = _fresh(error)
            flight.is_shared = isinstance(error, Exception) and not flight.is_ahead
        try:
            spared = None
            with self._lock:
                now = flight.landed_at = self._advance()
                # After forget() a late result goes to those who waited for it, and is not kept.
                if self._flights.get(key) is flight:
                    del self._flights[key]
                    spared = self._record(key, outcome, now, remember=flight.is_shared)
            # Not under the lock: a log handler may be the user's, and may itself sign requests as the role. But before
            # anybody goes on: Lambda may freeze the environment as soon as the event is answered.
            if spared:
                _logger.log(
                    logging.DEBUG if spared.failed_renewals else logging.WARNING,
                    "Renewing the credentials of %s failed; those at hand serve for another %.0f s. %s",
                    key.request.role_arn,
                    spared.expires_at - now,
                    _told(outcome),
                )
            elif flight.is_ahead and isinstance(outcome, BaseException):
                _logger.warning(
                    "Credentials could not be fetched ahead; the first event tries again. %s", _told(outcome)
                )
        finally:
            flight.outcome = outcome
            flight.done.set()

    def _record(
        self, key: CredentialKey, outcome: IssuedCredentials | BaseException, now: float, *, remember: bool
    ) -> _Held | None:
        """Keep what an attempt yielded; return the credentials that go on serving though it failed."""
        if isinstance(outcome, IssuedCredentials):
            # Half a life at most: where this machine's clock is ahead of STS's, a whole window may leave nothing.
            window = min(advisory_seconds(key.request.duration_seconds), (outcome.expires_at - now) / 2)
            renew_at = outcome.expires_at - window * (1 - self._jitter(0, _JITTER))
            self._held[key] = _Held(outcome.frozen, outcome.expires_at, renew_at)
            return None
        self._failures += 1
        if remember and _refuses(outcome):
            self._refused[key] = _Refused(now + _MEMORY_SECONDS, outcome)
            return None
        held = self._held.get(key)
        if held:
            pause = min(_BACK_OFF_SECONDS * 2**held.failed_renewals, _LONGEST_BACK_OFF_SECONDS) * self._jitter(0.5, 1)
            self._held[key] = held._replace(
                # Not sooner than was due: the attempt may have been for a caller who needs a longer life.
                renew_at=max(held.renew_at, now + pause),
                failed_renewals=held.failed_renewals + 1,
            )
        return held

    def _despite(self, error: BaseException, key: CredentialKey, min_ttl_seconds: float) -> FrozenCredentials:
        """Return what is held and lives long enough if an attempt failed for a passing reason; else raise the error."""
        if isinstance(error, XacctLambdaError) and not _refuses(error):
            with self._lock:
                self._advance()
                held = self._held_for(key, min_ttl_seconds)
            if held:
                return held.frozen
        raise _fresh(error)

    def prepare(self, key: CredentialKey, config: Config | None) -> None:
        """Make what the first call will need, short of making it."""
        self._sts.prepare(key.source, config)

    def reject(self, key: CredentialKey, access_key: str) -> bool:
        """Drop the credentials with this access key, which a service did not accept; say whether to sign once more.

        Others than those rejected are never dropped. Nor are those that replaced rejected ones seconds ago: a service
        that accepts none (a Region that is not enabled) would else cost an AssumeRole call for each request.
        """
        with self._lock:
            now = self._advance()
            held = self._held.get(key)
            if held is None or held.frozen.access_key != access_key:
                return True
            if key in self._replaced:
                return False
            self._replaced[key] = _Replaced(now + _MEMORY_SECONDS)
            del self._held[key]
            return True

    def forget(self) -> None:
        """Drop every credential, every remembered refusal and every connection to STS."""
        with self._lock:
            self._forget_all()
        self._sts.forget_clients()

    def forget_refusals(self) -> None:
        """Have the next signature of a role that was refused ask STS again."""
        with self._lock:
            self._refused.clear()

    def after_fork(self) -> None:
        """Make the copy in a forked child usable: new locks, no attempt under way, no shared connection."""
        if not self._lock.acquire(blocking=False):
            # Another thread was at the entries when the process was copied, and is not there to finish.
            self._forget_all()
        self._lock = threading.RLock()
        self._flights = {}
        self._sts.forget_clients()

    def counts(self) -> CredentialCounts:
        """Return the figures of ``cache_info()`` that this cache knows."""
        with self._lock:
            self._advance()
            self._held.expire()
            return CredentialCounts(self._hits, self._misses, self._sts.calls, self._failures, len(self._held))

    def _advance(self) -> float:
        """Bring the caches to the present, and return it; a clock that was set back empties them."""
        now = self.clock()
        if now < self._latest - _CLOCK_STEP_SECONDS:
            # How long the credentials that are held will live can no longer be told.
            self._latest = now
            self._forget_all()
        self._latest = max(self._latest, now)
        return self._latest


def _told(outcome: object) -> object:
    """Return an outcome for the log, where what a user's hook has raised is told by its class alone."""
    return outcome if isinstance(outcome, XacctLambdaError) else type(outcome).__name__


def _refuses(outcome: BaseException) -> TypeGuard[AssumeRoleError]:
    if not isinstance(outcome, AssumeRoleError):
        return False
    # Imported here, as a cold start without errors does not need it.
    from xacct_lambda._diagnosis import CALLERS_FAULTS  # noqa: PLC0415

    return outcome.code not in CALLERS_FAULTS


def _late(key: CredentialKey, seconds: float) -> STSUnavailableError:
    from xacct_lambda import _diagnosis  # noqa: PLC0415 - see above

    code, text = "NoAnswerInTime", f"none in {seconds:.3g} s"
    message = _diagnosis.no_answer(code, text, key.request, region_name=key.source.region_name)
    return _unavailable(key, code, text, message)


def _waits_for_itself(key: CredentialKey) -> STSUnavailableError:
    problem = "a hook or a log handler asks for its credentials within the very call that fetches them"
    return _unavailable(key, "WaitsForItself", problem)


def _too_short(key: CredentialKey, min_ttl_seconds: float) -> STSUnavailableError:
    return _unavailable(
        key,
        "CredentialsTooShort",
        f"STS issued credentials for less than the {min_ttl_seconds:g} s needed: is the clock right?",
    )


def _unavailable(key: CredentialKey, code: str, problem: str, message: str | None = None) -> STSUnavailableError:
    role_arn = key.request.role_arn
    return STSUnavailableError(
        message or f"{role_arn}: {problem}", role_arn=role_arn, response={"Error": {"Code": code, "Message": problem}}
    )


def _fresh(error: _Error) -> _Error:
    """Return the library's error as before it was raised: a traceback grows with each raise, and keeps frames alive."""
    if not isinstance(error, XacctLambdaError):
        return error
    fresh = copy.copy(error)
    fresh.__cause__ = error.__cause__
    return fresh


class AssumedRoleCredentials(Credentials):
    """What botocore signs with: it holds no credentials itself and asks the cache at every signature.

    The attributes are those of :class:`botocore.credentials.Credentials`. ``account_id`` is read off the role's ARN, so
    that botocore can build account-based endpoints without a call.
    """

    method = "assume-role"

    def __init__(
        self,
        cache: CredentialCache,
        source: boto3.Session,
        request: AssumeRoleRequest,
        *,
        min_ttl_seconds: float = 0,
        config: Config | None = None,
    ) -> None:
        # Not super().__init__(), which would store a set of credentials that never changes.
        self._cache = cache
        self._source = source
        self._key = CredentialKey(source, request)
        self._min_ttl_seconds = min_ttl_seconds
        self._config = config

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._key.request.role_arn!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("credentials do not pickle: send the role's ARN and assume the role on the other side")

    def get_frozen_credentials(self) -> FrozenCredentials:
        """Return one immutable set of credentials, fetched or renewed if need be."""
        return self._cache.get(self._key, min_ttl_seconds=self._min_ttl_seconds, config=self._config)

    def prepare(self) -> None:
        """Make the STS client ahead of time."""
        self._cache.prepare(self._key, self._config)

    def prefetch(self) -> None:
        """Begin to fetch credentials for later, in a thread; a failure is logged, and costs nobody anything."""
        self._cache.prefetch(self._key, self._config)

    access_key = property(lambda self: self.get_frozen_credentials().access_key)
    secret_key = property(lambda self: self.get_frozen_credentials().secret_key)
    token = property(lambda self: self.get_frozen_credentials().token)
    account_id = property(lambda self: self._key.request.account_id)

    def watch(self, events: BaseEventHooks) -> None:
        """Have requests that a service rejects for their credentials signed and sent once more, with new ones."""
        handlers: dict[str, Any] = {"request-created": self._note_signer, "needs-retry": self._renew_rejected}
        for event, handler in handlers.items():
            # Where the source session is an assumed one, its hooks were copied with its own watch among them.
            unique_id = f"xacct-lambda-{event}"
            events.unregister(event, unique_id=unique_id)
            events.register_last(event, handler, unique_id=unique_id)

    @staticmethod
    def _note_signer(request: Any, **_: Any) -> None:
        # Last of its event, so after botocore has signed. The header tells which of several sets this request bears.
        if signer := _SIGNER.search(str(request.headers.get("Authorization"))):
            request.context["xacct_lambda_signer"] = signer[1]

    def _renew_rejected(self, response: Any, request_dict: dict[str, Any], **_: Any) -> int | None:
        """Answer botocore's ``needs-retry`` event: 0 for a retry without delay, None for no opinion."""
        context = request_dict["context"]
        signer = context.pop("xacct_lambda_signer", None)
        if response is None or signer is None or context.get("xacct_lambda_renewed"):
            return None
        if response[1].get("Error", {}).get("Code") not in _REJECTION_CODES or not self._cache.reject(
            self._key, signer
        ):
            return None
        context["xacct_lambda_renewed"] = True
        return 0


_SIGNER: Final = re.compile(r"(?:Credential=|^AWS )([^/:,\s]+)")
