"""Faults of STS and of the credentials that it issues, on demand."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from xacct_lambda import _sessions
from xacct_lambda._request import role_arn_parts
from xacct_lambda.exceptions import ConfigurationError
from xacct_lambda.testing._isolation import clock, track_cache

if TYPE_CHECKING:
    from xacct_lambda.testing._moto import Accounts


@dataclass(slots=True)
class FaultState:
    """The faults that are on."""

    is_unavailable: bool = False
    throttled: int = 0
    """How many more requests get ``Throttling``."""
    ahead: timedelta = timedelta(0)
    """How far STS's clock is ahead."""

    def reset(self) -> None:
        """Turn all faults off."""
        self.is_unavailable, self.throttled, self.ahead = False, 0, timedelta(0)


class STSFaults:
    """Faults of STS and of the credentials that it issues, on demand: ``aws.sts``.

    A fault of credentials applies to all credentials that AssumeRole issued so far. The function's own stay valid.
    """

    def __init__(self, state: FaultState, accounts: Callable[[], Accounts]) -> None:
        self._state = state
        self._accounts = accounts

    def unavailable(self) -> AbstractContextManager[None]:
        """Have AssumeRole give no answer from now on, to the end of a ``with`` block or of the test.

        The caller gets botocore's ``EndpointConnectionError``, or the status 503 through moto's server.
        """
        self._state.is_unavailable = True
        return _Outage(self._state)

    def throttle(self, times: int = 1) -> None:
        """Have the next AssumeRole requests answered with ``Throttling``. Retries, botocore's own too, are requests.

        Args:
            times: How many requests. 0 ends the fault.

        Raises:
            ConfigurationError: Not a number of requests.
        """
        if isinstance(times, bool) or not isinstance(times, int) or times < 0:
            raise ConfigurationError("times", f"{times!r} is not a number of requests")
        self._state.throttled = times

    def expire_now(self) -> None:
        """Have services reject the credentials issued so far as expired, although they look valid.

        Each service rejects them in its own way: most with ``ExpiredToken`` or ``ExpiredTokenException``, EC2 with
        ``RequestExpired``, S3 a HEAD request with the bare status 400.

        Raises:
            ConfigurationError: The ``CrossAccountAWS`` isn't entered.
        """
        self._accounts().expire()

    def revoke(self, role_arn: str) -> None:
        """Have services no longer know the role's credentials, as if the role was deleted and created again.

        (The console's "Revoke active sessions" adds a policy with an explicit deny instead.)

        Raises:
            ConfigurationError: Not the ARN of a role, or the ``CrossAccountAWS`` isn't entered.
        """
        role_arn_parts(role_arn)
        self._accounts().revoke(role_arn)

    def advance(self, seconds: float | timedelta) -> None:
        """Move the time of STS and of the library forward, as between events: no context runs out.

        ``time.time()`` stays. Where all of a process's time is to move, use time-machine or freezegun: STS and the
        library go along.

        Args:
            seconds: How far.

        Raises:
            ConfigurationError: Backward.
        """
        step = seconds if isinstance(seconds, timedelta) else timedelta(seconds=seconds)
        if step < timedelta(0):
            raise ConfigurationError("seconds", f"{seconds!r}: time goes forward")
        track_cache(_sessions.default_cache)
        clock.ahead += step.total_seconds()
        self._state.ahead += step


class _Outage(AbstractContextManager[None]):
    def __init__(self, state: FaultState) -> None:
        self._state = state

    def __exit__(self, *_: object) -> None:
        self._state.is_unavailable = False
