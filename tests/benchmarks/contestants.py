"""Who is compared: one table, the same questions to each.

Nothing is imported before a contestant is asked: what its import costs is part of what is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Self

ROLE = "arn:aws:iam::222222222222:role/role-on-source-account"

Answer = Callable[[Any], Any]
Handler = Callable[[Any, Any], Any]


class Clock:
    """A wall clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def as_datetime(self) -> datetime:
        """Return the time as botocore's credentials ask for it."""
        return datetime.fromtimestamp(self.now, UTC)


class CountingSTS:
    """An STS client that issues credentials by a clock; the access key says when they expire."""

    def __init__(self, clock: Clock) -> None:
        self.calls = 0
        self._clock = clock

    def assume_role(self, *, DurationSeconds: int, **_: Any) -> dict[str, Any]:  # noqa: N803 - as AWS spells it
        """Do what boto3's method of this name does."""
        self.calls += 1
        expires_at = self._clock() + DurationSeconds
        return {
            "Credentials": {
                "AccessKeyId": str(expires_at),
                "SecretAccessKey": "secret",
                "SessionToken": "token",
                "Expiration": datetime.fromtimestamp(expires_at, UTC),
            },
            "AssumedRoleUser": {"Arn": ROLE},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass


Signer = Callable[[], str]
"""What a request is signed with at this moment: the access key."""


@dataclass(frozen=True)
class Contestant:
    """One way to work in another account."""

    title: str
    handler: Callable[[Answer], Handler]
    """Does what importing a handler's module does; the handler answers an event with an s3 client."""
    signer: Callable[[CountingSTS, Clock, int], Signer] | None = None
    """Makes a signer that takes its credentials, for so many seconds each, from this STS by this clock."""
    session: Callable[[str], Any] | None = None
    """Makes the session for a role; None if there is none to keep."""
    module: str | None = None
    """What a handler's module imports."""
    distribution: str | None = None
    client: Callable[[str, str], Any] | None = None
    """Makes the client of a service for a role; None if the session does."""

    def client_of(self, role_arn: str, service: str) -> Any:
        """Return a client that acts as the role."""
        return self.client(role_arn, service) if self.client else self.session(role_arn).client(service)


def _bare_handler(answer: Answer) -> Handler:
    def lambda_handler(event: Any, context: Any, *, s3: Any = None) -> Any:
        return answer(s3)

    return lambda_handler


def _client_by_hand(session: Any, sts: Any, role_arn: str, service: str) -> Any:
    acct_b = sts.assume_role(RoleArn=role_arn, RoleSessionName="cross_acct_lambda")
    return session.client(
        service,
        aws_access_key_id=acct_b["Credentials"]["AccessKeyId"],
        aws_secret_access_key=acct_b["Credentials"]["SecretAccessKey"],
        aws_session_token=acct_b["Credentials"]["SessionToken"],
    )


def _article_client(role_arn: str, service: str) -> Any:
    import boto3

    return _client_by_hand(boto3, boto3.client("sts"), role_arn, service)


def _article_handler(answer: Answer) -> Handler:
    import boto3  # noqa: F401 - a part of the init phase

    def lambda_handler(event: Any, context: Any) -> Any:
        return answer(_article_client(ROLE, "s3"))

    return lambda_handler


_sts_client = None


def _plain_client(role_arn: str, service: str) -> Any:
    """Make one more client of one session, with one STS client: the least that plain boto3 takes for each role."""
    global _sts_client  # noqa: PLW0603 - as a module of a function does it
    session = _default_session(role_arn)
    _sts_client = _sts_client or session.client("sts")
    return _client_by_hand(session, _sts_client, role_arn, service)


def _article_signer(sts: CountingSTS, _clock: Clock, seconds: int) -> Signer:
    return lambda: sts.assume_role(DurationSeconds=seconds)["Credentials"]["AccessKeyId"]


def _global_handler(answer: Answer) -> Handler:
    client = _article_client(ROLE, "s3")

    def lambda_handler(event: Any, context: Any) -> Any:
        return answer(client)

    return lambda_handler


def _global_signer(sts: CountingSTS, clock: Clock, seconds: int) -> Signer:
    access_key = _article_signer(sts, clock, seconds)()
    return lambda: access_key


def _default_session(_role_arn: str) -> Any:
    import boto3

    if boto3.DEFAULT_SESSION is None:
        boto3.setup_default_session()
    return boto3.DEFAULT_SESSION


def _xacct_handler(answer: Answer, *, prefetch: bool | None = None) -> Handler:
    from xacct_lambda import assume_role

    @assume_role(ROLE, clients=["s3"], prefetch=prefetch)
    def lambda_handler(event: Any, context: Any, *, s3: Any) -> Any:
        return answer(s3)

    return lambda_handler


def _xacct_session(role_arn: str) -> Any:
    from xacct_lambda import assumed_session

    return assumed_session(role_arn)


def _xacct_signer(sts: CountingSTS, clock: Clock, seconds: int) -> Signer:
    import boto3

    from xacct_lambda import _assumed_credentials, _credential_cache, _request, _sts

    class Issuing:
        """CountingSTS in the place of the library's own ``_sts.STS``."""

        def max_wait_seconds(self, _config: Any) -> float:
            return 60.0

        def load_caller_credentials(self, *_: Any) -> None: ...

        def drop_connections(self, *_: Any) -> None: ...

        def assume_role(self, _source: Any, request: Any, _config: Any, **_: Any) -> _sts.IssuedCredentials:
            issued = sts.assume_role(DurationSeconds=request.duration_seconds)["Credentials"]
            fields = {
                "access_key": issued["AccessKeyId"],
                "secret_key": issued["SecretAccessKey"],
                "token": issued["SessionToken"],
                "account_id": request.account_id,
            }
            frozen = _sts.FrozenCredentials(**{name: fields[name] for name in _sts.FrozenCredentials._fields})
            return _sts.IssuedCredentials(frozen, issued["Expiration"].timestamp())

    cache = _credential_cache.CredentialCache(Issuing(), clock=clock, start_background_thread=lambda task: task())
    request = _request.assume_role_request(ROLE, duration_seconds=seconds)
    credentials = _assumed_credentials.AssumedRoleCredentials(cache, boto3.Session(), request)
    return lambda: credentials.get_frozen_credentials().access_key


def _on_clock(credentials: Any, clock: Clock) -> Signer:
    """Make botocore's refreshable credentials, on which the peers stand, tell the time by this clock."""
    import botocore.credentials

    credentials._time_fetcher = clock.as_datetime
    botocore.credentials._local_now = clock.as_datetime
    return lambda: credentials.get_frozen_credentials().access_key


def _library_session(role_arn: str, **options: Any) -> Any:
    import aws_assume_role_lib

    return aws_assume_role_lib.assume_role(_default_session(role_arn), role_arn, **options)


def _session_handler(session: Callable[[str], Any], answer: Answer) -> Handler:
    s3 = session(ROLE).client("s3")

    def lambda_handler(event: Any, context: Any) -> Any:
        return answer(s3)

    return lambda_handler


def _library_signer(sts: CountingSTS, clock: Clock, seconds: int) -> Signer:
    _default_session(ROLE)._session.create_client = lambda *_, **__: sts
    session = _library_session(ROLE, DurationSeconds=seconds, validate=False)
    return _on_clock(session.get_credentials(), clock)


def _refresh_session(role_arn: str, **options: Any) -> Any:
    from boto3_refresh_session import RefreshableSession

    return RefreshableSession(assume_role_kwargs={"RoleArn": role_arn, **options})


def _refresh_signer(sts: CountingSTS, clock: Clock, seconds: int) -> Signer:
    session = _refresh_session(ROLE, DurationSeconds=seconds)
    session._sts_client = sts
    return _on_clock(session.get_credentials(), clock)


CONTESTANTS = {
    "xacct": Contestant("xacct_lambda", _xacct_handler, _xacct_signer, _xacct_session, "xacct_lambda", "xacct-lambda"),
    "xacct-lazy": Contestant("xacct_lambda, prefetch=False", partial(_xacct_handler, prefetch=False)),
    "article": Contestant("the article's handler", _article_handler, _article_signer, client=_article_client),
    "library": Contestant(
        "aws-assume-role-lib",
        partial(_session_handler, _library_session),
        _library_signer,
        _library_session,
        "aws_assume_role_lib",
        "aws-assume-role-lib",
    ),
    "refresh": Contestant(
        "boto3-refresh-session",
        partial(_session_handler, _refresh_session),
        _refresh_signer,
        _refresh_session,
        "boto3_refresh_session",
        "boto3-refresh-session",
    ),
    "global": Contestant("a module global, by hand", _global_handler, _global_signer, _default_session),
    "plain": Contestant("one plain client per role, by hand", _global_handler, client=_plain_client),
    "bare": Contestant("the bare handler", _bare_handler),
}
