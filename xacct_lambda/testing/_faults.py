"""Faults of STS and of the credentials that it issues, on demand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from xacct_lambda import _sessions
from xacct_lambda._request import role_arn_parts
from xacct_lambda.exceptions import ConfigurationError
from xacct_lambda.testing._isolation import clock, track_cache


@dataclass(slots=True)
class FaultState:
    """The faults that are active."""

    is_unavailable: bool = False
    throttled: int = 0
    """Number of further requests that get ``Throttling``."""
    ahead: timedelta = timedelta(0)
    """Time by which STS's clock is ahead."""

    def reset(self) -> None:
        """Deactivate all faults."""
        self.is_unavailable, self.throttled, self.ahead = False, 0, timedelta(0)


class _IssuedCredentials(Protocol):
    """The credentials that AssumeRole issued so far."""

    def expire(self) -> None: ...

    def revoke(self, role_arn: str) -> None: ...


class STSFaults:
    """Faults of STS and of the credentials that it issues, on demand: ``aws.sts``.

    A fault of credentials applies to all credentials that AssumeRole issued so far. The function's own credentials stay
    valid.

    Example:
        >>> from xacct_lambda import assumed_session
        >>> from xacct_lambda.policy import permissions_policy
        >>> from xacct_lambda.testing import CrossAccountAWS
        >>> with CrossAccountAWS() as aws:
        ...     reader = aws.role("arn:aws:iam::222222222222:role/Reader")
        ...     aws.grant(permissions_policy(reader))
        ...     s3 = assumed_session(reader).client("s3")
        ...     _ = s3.list_buckets()
        ...     aws.sts.expire_now()
        ...     _ = s3.list_buckets()
        ...     print(len(aws.assumed))
        2
    """

    def __init__(self, state: FaultState, issued: Callable[[], _IssuedCredentials]) -> None:
        self._state = state
        self._issued = issued

    def unavailable(self) -> AbstractContextManager[None]:
        """Make STS unreachable for AssumeRole until the end of a ``with`` block, or of the test.

        The caller gets botocore's ``EndpointConnectionError``, or the status 503 through moto's server.
        """
        self._state.is_unavailable = True
        return _Outage(self._state)

    def throttle(self, times: int = 1) -> None:
        """Answer the next AssumeRole requests with ``Throttling``. Each retry counts as a request, botocore's too.

        Args:
            times: Number of requests. 0 ends the fault.

        Raises:
            ConfigurationError: ``times`` is not a whole number, or negative.
        """
        if isinstance(times, bool) or not isinstance(times, int) or times < 0:
            raise ConfigurationError("times", f"{times!r} is not a number of requests")
        self._state.throttled = times

    def expire_now(self) -> None:
        """Make services reject the credentials that STS issued so far as expired, although they look valid.

        Each service rejects them in its own way: most with ``ExpiredToken`` or ``ExpiredTokenException``, EC2 with
        ``RequestExpired``, and S3 HEAD requests with status 400 only.

        Raises:
            ConfigurationError: The ``CrossAccountAWS`` isn't entered.
        """
        self._issued().expire()

    def revoke(self, role_arn: str) -> None:
        """Make services reject the role's credentials as unknown, as if the role was deleted and created again.

        The console's "Revoke active sessions" does something else: it adds a policy with an explicit deny.

        Args:
            role_arn: ARN of the role.

        Raises:
            ConfigurationError: ``role_arn`` isn't the ARN of a role, or the ``CrossAccountAWS`` isn't entered.
        """
        role_arn_parts(role_arn)
        self._issued().revoke(role_arn)

    def advance(self, seconds: float | timedelta) -> None:
        """Move the time of STS and of the library forward, as between two events. The time of a context stays.

        ``time.time()`` stays too. To move all time of the process, use time-machine or freezegun: STS and the library
        follow them.

        Args:
            seconds: Seconds, or a ``timedelta``.

        Raises:
            ConfigurationError: ``seconds`` is negative.
        """
        step = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
        if step < timedelta(0):
            raise ConfigurationError("seconds", f"must not be negative, but is {seconds!r}")
        track_cache(_sessions.default_cache)
        clock.ahead += step.total_seconds()
        self._state.ahead += step


class _Outage(AbstractContextManager[None]):
    def __init__(self, state: FaultState) -> None:
        self._state = state

    def __exit__(self, *_: object) -> None:
        self._state.is_unavailable = False
