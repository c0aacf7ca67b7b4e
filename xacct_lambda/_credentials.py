"""The credential cache, and the credentials object that asks it whenever botocore signs a request.

This module alone decides how long credentials are good for. botocore's refresh windows are not used: they are fixed at
15 and 10 minutes, so that a 900-second session renews on every signature and is refused with minutes left to live.

Time is the wall clock, since STS's expiry is an instant and a monotonic clock may stand still while Lambda keeps the
execution environment frozen.
"""

from __future__ import annotations

import copy
import logging
import re
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol, TypeGuard, TypeVar

import boto3
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.hooks import BaseEventHooks
from cachetools import TLRUCache

from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda._sts import FrozenCredentials, IssuedCredentials, seconds_left, uniform
from xacct_lambda.exceptions import AssumeRoleError, STSUnavailableError, XacctLambdaError

_logger = logging.getLogger(__name__)
_Error = TypeVar("_Error", bound=XacctLambdaError)

_MINUTE: Final = 60
MANDATORY_SECONDS: Final = 60
_JITTER: Final = 1 / 3
"""The part of the advisory window over which a fleet's renewals spread."""

_BACK_OFF_SECONDS: Final = 5
_LONGEST_BACK_OFF_SECONDS: Final = 60
_MEMORY_SECONDS: Final = 5
"""How long a refusal is remembered, and that credentials were replaced because a service rejected them."""
_CLOCK_STEP_SECONDS: Final = 1

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

    def prepare(self, source: boto3.Session, config: Config | None) -> None: ...

    def forget_clients(self) -> None: ...


class CredentialKey(NamedTuple):
    """What decides whether two sessions share credentials: who asks (by identity), and for what (by value)."""

    source: boto3.Session
    request: AssumeRoleRequest


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

    def __init__(self) -> None:
        self.done = threading.Event()
        self.outcome: IssuedCredentials | XacctLambdaError | None = None
        """None when it is over: it yielded neither, and those who waited start over."""


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
        max_roles: int = 1000,
    ) -> None:
        self._sts = sts
        self.clock = clock
        self._jitter = jitter
        self.max_roles = max_roles
        self._latest = float("-inf")
        self._lock = threading.Lock()
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
        share_failure: bool = True,
    ) -> FrozenCredentials:
        """Return credentials that live longer than ``min_ttl_seconds``, from memory or by one AssumeRole call.

        Raises:
            AssumeRoleError: STS refused; for a few seconds the refusal is remembered.
            ConfigurationError: The call cannot be made.
            STSUnavailableError: STS gave no usable answer, and nothing that lives long enough is held.
        """
        while True:
            with self._lock:
                now = self._advance()
                held = self._held_for(key, min_ttl_seconds)
                flight = self._flights.get(key)
                if held and (now < held.renew_at or (flight and held.expires_at - now > MANDATORY_SECONDS)):
                    self._hits += 1
                    return held.frozen
                if refused := self._refused.get(key):
                    raise _fresh(refused.error)
                self._misses += 1
                leads = flight is None
                if flight is None:
                    flight = self._flights[key] = _Flight()
            if leads:
                self._fly(key, flight, config, share_failure=share_failure)
            elif not flight.done.wait(seconds_left()):
                late = _unavailable(
                    key, "NoAnswerInTime", "STS has not answered, and the invocation's time is nearly over"
                )
                return self._despite(late, key, min_ttl_seconds)
            if isinstance(flight.outcome, IssuedCredentials):
                if flight.outcome.expires_at - self._latest > min_ttl_seconds:
                    return flight.outcome.frozen
                raise _unavailable(
                    key,
                    "CredentialsTooShort",
                    f"STS issued credentials for less than the {min_ttl_seconds:g} s needed: is the clock right?",
                )
            if flight.outcome is not None:
                return self._despite(flight.outcome, key, min_ttl_seconds)

    def _held_for(self, key: CredentialKey, min_ttl_seconds: float) -> _Held | None:
        held = self._held.get(key)
        return held if held and held.expires_at - self._latest > min_ttl_seconds else None

    def _fly(self, key: CredentialKey, flight: _Flight, config: Config | None, *, share_failure: bool) -> None:
        """Make the one call, record what came of it, wake those who wait; without an outcome they start over."""
        outcome: IssuedCredentials | XacctLambdaError | None = None
        try:
            outcome = self._sts.assume_role(key.source, key.request, config)
        except XacctLambdaError as error:
            if not share_failure:
                raise
            outcome = error
        finally:
            with self._lock:
                # After forget() a late result goes to those who waited for it, and is not kept.
                is_current = self._flights.get(key) is flight
                if is_current:
                    del self._flights[key]
                spared = self._record(key, outcome) if is_current else None
            flight.outcome = outcome
            flight.done.set()
        if spared:
            # Not under the lock: a log handler may be the user's, and may itself sign requests as the role.
            _logger.log(
                logging.DEBUG if spared.failed_renewals else logging.WARNING,
                "Renewing the credentials of %s failed; those at hand serve for another %.0f s. %s",
                key.request.role_arn,
                spared.expires_at - self._latest,
                outcome,
            )

    def _record(self, key: CredentialKey, outcome: IssuedCredentials | XacctLambdaError | None) -> _Held | None:
        """Keep what an attempt yielded; return the credentials that go on serving though it failed."""
        now = self._advance()
        if isinstance(outcome, IssuedCredentials):
            # Half a life at most: where this machine's clock is ahead of STS's, a whole window may leave nothing.
            window = min(advisory_seconds(key.request.duration_seconds), (outcome.expires_at - now) / 2)
            renew_at = outcome.expires_at - window * (1 - self._jitter(0, _JITTER))
            self._held[key] = _Held(outcome.frozen, outcome.expires_at, renew_at)
            return None
        self._failures += 1
        if _refuses(outcome):
            self._refused[key] = _Refused(now + _MEMORY_SECONDS, _fresh(outcome))
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

    def _despite(self, error: XacctLambdaError, key: CredentialKey, min_ttl_seconds: float) -> FrozenCredentials:
        with self._lock:
            self._advance()
            held = self._held_for(key, min_ttl_seconds)
        if held and not _refuses(error):
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

    def after_fork(self) -> None:
        """Make the copy in a forked child usable: new locks, no attempt under way, no shared connection."""
        if self._lock.locked():
            # Another thread was at the entries when the process was copied, and is not there to finish.
            self._forget_all()
        self._lock = threading.Lock()
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


def _refuses(outcome: XacctLambdaError | None) -> TypeGuard[AssumeRoleError]:
    if not isinstance(outcome, AssumeRoleError):
        return False
    # Imported here, as a cold start without errors does not need it.
    from xacct_lambda._diagnosis import CALLERS_FAULTS  # noqa: PLC0415

    return outcome.code not in CALLERS_FAULTS


def _unavailable(key: CredentialKey, code: str, message: str) -> STSUnavailableError:
    role_arn = key.request.role_arn
    return STSUnavailableError(
        f"{role_arn}: {message}", role_arn=role_arn, response={"Error": {"Code": code, "Message": message}}
    )


def _fresh(error: _Error) -> _Error:
    """Return the error as before it was raised: a traceback grows with every raise, and keeps its frames alive."""
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
        self, cache: CredentialCache, key: CredentialKey, *, min_ttl_seconds: float = 0, config: Config | None = None
    ) -> None:
        # Not super().__init__(), which would store a set of credentials that never changes.
        self._cache = cache
        self._key = key
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
        """Fetch credentials for later; others that wait for this attempt repeat it if it fails."""
        self._cache.get(self._key, config=self._config, share_failure=False)

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
