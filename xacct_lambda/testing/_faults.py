"""Faults of STS and of the credentials that it issues, on demand."""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import timedelta
from typing import TYPE_CHECKING

from xacct_lambda import _sessions
from xacct_lambda._request import role_arn_parts
from xacct_lambda.exceptions import ConfigurationError
from xacct_lambda.testing._isolation import clock, track_cache

if TYPE_CHECKING:
    from xacct_lambda.testing._moto import Accounts


class STSFaults:
    """How STS and the credentials it issues go wrong on demand: ``aws.sts``.

    What is done to credentials is done to all that AssumeRole issued so far; the function's own stay good.
    """

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def unavailable(self) -> AbstractContextManager[None]:
        """Have AssumeRole give no answer from now on, to the end of a ``with`` block or of the test.

        The caller sees botocore's ``EndpointConnectionError``; through moto's server, the status 503.
        """
        self._accounts.unavailable = True
        return _Outage(self._accounts)

    def throttle(self, times: int = 1) -> None:
        """Have the next AssumeRole requests answered with ``Throttling``. Retries, botocore's own too, are requests.

        Args:
            times: How many; 0 ends it.

        Raises:
            ConfigurationError: Not a number of requests.
        """
        if isinstance(times, bool) or not isinstance(times, int) or times < 0:
            raise ConfigurationError("times", f"{times!r} is not a number of requests")
        self._accounts.throttled = times

    def expire_now(self) -> None:
        """Have services answer ``ExpiredToken`` to the credentials issued so far, which look good to their holder."""
        self._accounts.expire()

    def revoke(self, role_arn: str) -> None:
        """Have services no longer know the role's credentials, as when it was deleted and created again.

        (The console's "Revoke active sessions" is another thing, a policy with an explicit deny: no fault of STS.)

        Raises:
            ConfigurationError: Not the ARN of a role.
        """
        role_arn_parts(role_arn)
        self._accounts.revoke(role_arn)

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
        self._accounts.ahead += step


class _Outage(AbstractContextManager[None]):
    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def __exit__(self, *_: object) -> None:
        self._accounts.unavailable = False
