"""A pytest plugin that runs the test suite of another project with assumed sessions in place of plain ones.

Put this folder on ``PYTHONPATH`` and run the suite in its own checkout, once with and once without the plugin:

    PYTHONPATH=…/xacct_lambda/tests python -m pytest -p assumed_session_plugin tests/unit tests/functional

Each ``boto3.Session(…)`` then returns a session that assumes a role, with the requested session as its source.
``boto3.client()`` and ``boto3.resource()`` follow, because they create a session. If a suite uses botocore without
boto3, add ``--assumed-sessions=botocore``. Each ``botocore.session.Session(…)`` then returns the botocore session of an
assumed session, and so does ``botocore.session.get_session()``.

STS is a function of this module, so that no request leaves the process. It issues the caller's own keys with a session
token, so that only the token tells the two kinds of credentials apart.

Add ``-p no:xacct_lambda`` to run the tests without the isolation that the library's own pytest plugin gives each test.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs

import boto3
import boto3.session
import botocore.session
import pytest
from botocore.awsrequest import AWSResponse

from xacct_lambda import assumed_session

ROLE = "arn:aws:iam::222222222222:role/InPlaceOfThePlainSession"
SESSION_TOKEN = "token-of-the-assumed-role"

counts: Counter[str] = Counter()
"""The number of sessions that were replaced, and of AssumeRole calls."""

_PlainSession: Any = boto3.Session
_PlainBotocoreSession: Any = botocore.session.Session
_construction = threading.local()


class _RawBody:
    """The part of a urllib3 response that botocore reads."""

    def __init__(self, body: bytes) -> None:
        self._chunks = [body]

    def stream(self, **_: Any) -> Iterator[bytes]:
        while self._chunks:
            yield self._chunks.pop()


def answer_assume_role(request: Any, session: Any) -> AWSResponse:
    """Answer an AssumeRole request as STS does, with the keys of the caller."""
    counts["AssumeRole calls"] += 1
    caller = session.get_credentials().get_frozen_credentials()
    [name] = parse_qs(request.body if isinstance(request.body, str) else request.body.decode())["RoleSessionName"]
    expiration = datetime.now(UTC) + timedelta(hours=1)
    body = (
        f'<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><AssumedRoleUser>'
        f"<AssumedRoleId>AROA:session</AssumedRoleId>"
        f"<Arn>{ROLE.replace(':iam:', ':sts:').replace(':role/', ':assumed-role/')}/{name}</Arn></AssumedRoleUser>"
        f"<Credentials><AccessKeyId>{caller.access_key}</AccessKeyId>"
        f"<SecretAccessKey>{caller.secret_key}</SecretAccessKey><SessionToken>{SESSION_TOKEN}</SessionToken>"
        f"<Expiration>{expiration:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials></AssumeRoleResult>"
        f"<ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata></AssumeRoleResponse>"
    )
    return AWSResponse(request.url, 200, {}, _RawBody(body.encode()))


@contextlib.contextmanager
def plain_sessions() -> Iterator[None]:
    """Have this thread create plain sessions: the source, and what the library itself builds."""
    outer = getattr(_construction, "is_plain", False)
    _construction.is_plain = True
    try:
        yield
    finally:
        _construction.is_plain = outer


def assume(source: boto3.Session) -> boto3.Session:
    """Return the assumed session that stands in for a plain one."""
    botocore_session = source._session

    def answer(request: Any, **_: Any) -> AWSResponse:
        return answer_assume_role(request, botocore_session)

    botocore_session.register("before-send.sts.AssumeRole", answer)
    counts["sessions"] += 1
    if "AWS_ACCESS_KEY_ID" in os.environ and botocore_session._credentials is None:
        # A plain session's client has its credentials from the start. An assumed session loads the caller's at the
        # first signature, when the suite may have restored the environment.
        keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
        botocore_session.set_credentials(*map(os.environ.get, keys))
    return assumed_session(ROLE, source_session=source)


class _StandIn(type):
    """The type of a class in place of another: a call returns an assumed session, ``isinstance`` accepts both kinds."""

    def __instancecheck__(cls, instance: Any) -> bool:
        return isinstance(instance, cls.__base__) if cls.is_stand_in() else super().__instancecheck__(instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return issubclass(subclass, cls.__base__) if cls.is_stand_in() else super().__subclasscheck__(subclass)

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        # A suite's own subclass stays what it is.
        if getattr(_construction, "is_plain", False) or not cls.is_stand_in():
            return super().__call__(*args, **kwargs)
        with plain_sessions():
            return cls.assumed(cls.__base__(*args, **kwargs))

    def is_stand_in(cls) -> bool:
        return "assumed" in vars(cls)


class Session(_PlainSession, metaclass=_StandIn):
    """Takes the place of ``boto3.Session``."""

    @staticmethod
    def assumed(source: Any) -> Any:
        # A mock in place of botocore's session can't call STS.
        return assume(source) if isinstance(source._session, _PlainBotocoreSession) else source


class BotocoreSession(_PlainBotocoreSession, metaclass=_StandIn):
    """Takes the place of ``botocore.session.Session``."""

    @staticmethod
    def assumed(source: Any) -> Any:
        return assume(_PlainSession(botocore_session=source))._session


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the option that says which sessions are replaced."""
    parser.addoption("--assumed-sessions", choices=["boto3", "botocore"], default="boto3")


def pytest_configure(config: pytest.Config) -> None:
    """Replace the sessions before the suite is imported."""
    if config.getoption("assumed_sessions") == "boto3":
        boto3.Session = boto3.session.Session = Session
    else:
        botocore.session.Session = BotocoreSession


def pytest_unconfigure() -> None:
    """Put the plain sessions back."""
    boto3.Session = boto3.session.Session = _PlainSession
    botocore.session.Session = _PlainBotocoreSession


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Send the numbers of a worker process of pytest-xdist to the process that reports."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["assumed sessions"] = dict(counts)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add the numbers of a worker process of pytest-xdist."""
    counts.update(getattr(node, "workeroutput", {}).get("assumed sessions", {}))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Show that the suite did use assumed sessions."""
    numbers = ", ".join(f"{number} {name}" for name, number in sorted(counts.items())) or "none"
    terminalreporter.write_line(f"in place of plain sessions: {numbers}")
