"""The credential cache's entry for one role: its key, its credentials, its latest attempt, and its failures.

Each change is one assignment, or one operation on a dict or a list that the interpreter doesn't divide.
"""

from __future__ import annotations

import threading
import weakref
from typing import Final, NamedTuple

import boto3

from xacct_lambda._attempts import Attempt, no_attempt, take
from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda._sts import IssuedCredentials
from xacct_lambda.exceptions import AssumeRoleError

_SETTLING_TIME: Final = 5
"""Seconds for which a service may not know new credentials yet."""
_MAX_SETTLING_TIME: Final = 900
MAX_STUCK: Final = 2
"""Number of attempts for one role that may have passed their time limit without an end."""


class CredentialKey:
    """The key of a role's credentials: the source session (by identity) and the request (by value).

    The key has a weak reference to the source session, which may contain megabytes of service models.
    """

    __slots__ = ("_hash", "_source", "request")

    def __init__(self, source: boto3.Session, request: AssumeRoleRequest) -> None:
        self._source = weakref.ref(source)
        self.request = request
        self._hash = hash((id(source), request))

    @property
    def source(self) -> boto3.Session | None:
        """The source session, or None if it was garbage-collected."""
        return self._source()

    def __eq__(self, other: object) -> bool:
        # By identity: Session subclasses may define their own equality. A garbage-collected session equals nothing.
        source = self.source
        return (
            isinstance(other, CredentialKey)
            and source is not None
            and source is other.source
            and self.request == other.request
        )

    def __hash__(self) -> int:
        return self._hash

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.request!r})"


class CachedSet:
    """One set of credentials, and when to refresh it."""

    __slots__ = ("_rejection_token", "_wait_token", "expires_at", "frozen", "issued_at", "refresh_at", "retry_failed")

    def __init__(self, issued: IssuedCredentials, issued_at: float, refresh_at: float) -> None:
        self.frozen = issued.frozen
        self.expires_at = issued.expires_at
        self.issued_at = issued_at
        self.refresh_at = refresh_at
        """Start of the advisory window, with jitter."""
        self.retry_failed = False
        """Whether a service rejected the set again when a request was sent a second time."""
        self._rejection_token = [None]
        self._wait_token = [None]

    @property
    def is_rejected(self) -> bool:
        """Whether a service rejected the set."""
        return not self._rejection_token

    def claim_rejection(self) -> bool:
        """Mark the set as rejected. Tell whether it is up to the caller to record that."""
        return take(self._rejection_token)

    def claim_wait(self) -> bool:
        """Tell whether the caller is the one request that waits because a freeze cut the refresh of this set."""
        return take(self._wait_token)

    def is_valid(self, now: float, min_ttl_seconds: float = 0) -> bool:
        return self.expires_at - now > min_ttl_seconds and not self.is_rejected


class CachedError(NamedTuple):
    expires_at: float
    error: AssumeRoleError


class Entry:
    """The state of one role in the cache: credentials, the latest attempt, failures."""

    def __init__(self) -> None:
        self.last_used = 0
        self.cached: CachedSet | None = None
        self.error: CachedError | None = None
        self.failures = 0
        """Number of refreshes that failed in a row."""
        self.retry_at = 0.0
        """End of the back-off."""
        self.settling_time: float = _SETTLING_TIME
        """Minimum age in seconds of a set that is replaced if a service rejects it."""
        self.replaced_rejected_set = False
        self.forget_attempts()

    def forget_attempts(self) -> None:
        """Forget attempts in flight, whose threads a forked child doesn't have."""
        self.attempt = no_attempt()
        self.stuck: dict[Attempt, None] = {}
        self._claims: dict[int, Attempt] = {}
        # Only threads of attempts acquire this lock, to store a result. Signal handlers don't run in these threads.
        self.store_lock = threading.RLock()

    def successor(self, previous: Attempt, attempt: Attempt) -> Attempt:
        """Return the attempt that follows the previous one: this one, or one that another request claimed first.

        ``dict.setdefault`` makes the claim atomic. If a request is interrupted between claim and launch, the next
        request that gets the attempt launches it.
        """
        latest = self.attempt
        if latest.number > previous.number:
            # Others were faster, and the claim of their first attempt may be gone.
            return latest
        claimed = self._claims.setdefault(attempt.number, attempt)
        self.attempt = claimed
        self._claims.pop(previous.number, None)
        return claimed

    def cache(self, new: CachedSet) -> bool:
        """Cache a set of credentials, unless a set that expires later is cached. Return whether it is cached."""
        with self.store_lock:
            cached = self.cached
            if cached is not None and not cached.is_rejected:
                if cached.expires_at >= new.expires_at:
                    return False
                # The set before this one lasted, so services know this role's credentials.
                self.settling_time, self.replaced_rejected_set = _SETTLING_TIME, False
            self.cached = new
            self.failures, self.retry_at, self.error = 0, 0.0, None
            return True

    def reject(self, cached: CachedSet, now: float, *, may_be_unknown: bool) -> bool:
        """Drop a set that a service rejected, unless it is too new for that. Return whether it is dropped.

        A service may not know a new set yet, and would reject a younger one for the same reason. After each replacement
        that didn't help, the next set is kept for twice as long.
        """
        is_new = now - cached.issued_at < self.settling_time
        if is_new and (may_be_unknown or self.replaced_rejected_set):
            return False
        if cached.claim_rejection():
            if self.replaced_rejected_set:
                self.settling_time = min(2 * self.settling_time, _MAX_SETTLING_TIME)
            self.replaced_rejected_set = True
        return True

    def rank(self, now: float) -> tuple[bool, int]:
        """Return a sort key for eviction: first entries without valid credentials, then the least recently used.

        An entry whose first attempt has not ended counts as one with credentials. Otherwise many roles that are assumed
        at the same time would evict each other.
        """
        is_valid = self.cached is not None and self.cached.is_valid(now)
        return is_valid or self.attempt.number == 0 or not self.attempt.done.is_set, self.last_used

    def has_too_many_stuck(self) -> bool:
        """Tell whether so many attempts have not ended that no further one may start, and abort those once more."""
        for attempt in list(self.stuck):
            if attempt.done.is_set:
                self.stuck.pop(attempt, None)
            else:
                # It may have connected since the last abort.
                attempt.calls.abort()
        return len(self.stuck) >= MAX_STUCK
