"""The one AssumeRole call, against an STS on loopback that answers as scripted."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import pickle
import re
import socket
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, Mock, call

import boto3
import pytest
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import (
    ClientError,
    NoCredentialsError,
    NoRegionError,
    ParamValidationError,
    UnknownEndpointError,
)
from conftest import OTHER_ROLE, ROLE, until
from scripted_sts import (
    SERVER_FAULT,
    THROTTLE,
    ScriptedSTS,
    black_hole,
    drop,
    garble,
    hang,
    issue,
    refuse,
    trickle,
)

from xacct_lambda import _sessions, assumed_session, cache_info
from xacct_lambda._attempts import Latch
from xacct_lambda._errors import translate_error, without_frames
from xacct_lambda._invocation import current_context, remaining_seconds, start_thread
from xacct_lambda._request import assume_role_request
from xacct_lambda._sts import _RETRY_DELAY, DEFAULT_CONFIG, STS, Calls, config_key, new_client
from xacct_lambda.exceptions import (
    AssumeRoleError,
    CallerCredentialsError,
    ConfigurationError,
    STSUnavailableError,
    XacctLambdaError,
)

REFUSAL = (
    "User: arn:aws:sts::111111111111:assumed-role/orders-fn/orders-fn is not authorized to perform: "
    f"sts:AssumeRole on resource: {ROLE}"
)
REQUEST = assume_role_request(ROLE)


@pytest.fixture
def sts() -> STS:
    return STS(sleep=lambda _seconds: None)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """The configurations with which clients are made from now on."""
    configs: list[Config] = []
    client = boto3.Session.client

    def recorded(session: boto3.Session, *args: Any, **options: Any) -> Any:
        configs.append(options["config"])
        return client(session, *args, **options)

    monkeypatch.setattr(boto3.Session, "client", recorded)
    return configs


ISSUED = "<AssumeRoleResponse><AssumeRoleResult><Credentials>{}</Credentials></AssumeRoleResult></AssumeRoleResponse>"


def assume(sts: STS, config: Config | None = None, **arguments: Any) -> Any:
    return sts.assume_role(boto3.Session(), assume_role_request(ROLE, **arguments), config)


def sign(session: boto3.Session) -> Any:
    credentials: Any = session.get_credentials()
    return credentials.get_frozen_credentials()


# --- What STS answers -------------------------------------------------------------------------------------------------


def test_credentials_of_a_good_answer(server: ScriptedSTS, sts: STS) -> None:
    """The credentials are STS's, with its instant of expiry and the account of the role."""
    issued = assume(sts, duration_seconds=900)

    assert issued.frozen.access_key == "ASIA1"
    assert issued.frozen.secret_key == "issued-secret-key"
    assert issued.frozen.token == "issued-session-token"
    assert getattr(issued.frozen, "account_id", "222222222222") == "222222222222"
    assert server.calls[0]["DurationSeconds"] == "900"
    assert server.calls[0]["RoleArn"] == ROLE


@pytest.mark.parametrize(
    "trouble",
    [THROTTLE, SERVER_FAULT, drop, garble("<html>")],
    ids=["throttle", "5xx", "drop", "garbage"],
)
def test_one_bad_answer_is_forgiven(server: ScriptedSTS, sts: STS, trouble: Any) -> None:
    """A single throttle, fault, or dropped connection costs a second try and nothing else."""
    server.script = [trouble]

    assert assume(sts).frozen.token == "issued-session-token"
    assert server.count() == sts.calls == 2


def test_one_late_answer_is_forgiven(server: ScriptedSTS, sts: STS) -> None:
    """If the first answer is late, there is a second request, and no error."""
    server.script = [hang]

    assert assume(sts, Config(read_timeout=3)).frozen.token == "issued-session-token"
    assert server.count() == sts.calls == 2


@pytest.mark.parametrize(
    ("trouble", "code", "status"),
    [
        (THROTTLE, "Throttling", 400),
        (SERVER_FAULT, "InternalFailure", 500),
        (drop, "ConnectionClosedError", 0),
        (garble("<"), "ResponseParserError", 0),
    ],
)
def test_trouble_that_stays(server: ScriptedSTS, sts: STS, trouble: Any, code: str, status: int) -> None:
    """Two bad answers are an STSUnavailableError with code, role, cause, and status (0: none); also a ClientError."""
    server.always = trouble

    with pytest.raises(STSUnavailableError) as caught:
        assume(sts)

    assert server.count() == 2
    assert isinstance(caught.value, ClientError)
    assert caught.value.code == caught.value.response["Error"]["Code"] == code
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == status
    assert caught.value.role_arn == ROLE
    assert caught.value.operation_name == "AssumeRole"
    assert caught.value.__cause__ is not None


def test_an_answer_that_is_not_stss_is_not_quoted(server: ScriptedSTS, sts: STS) -> None:
    """What answers in STS's place may have quoted secrets, so its text is not shown."""
    server.always = garble("<")

    with pytest.raises(STSUnavailableError) as caught:
        assume(sts)

    assert caught.value.response["Error"]["Message"] == "its text is not shown, because it may contain secrets"
    assert str(caught.value) == (
        f"The answer for {ROLE} is not one of STS: its text is not shown, because it may contain secrets. Check what "
        "answers at its address (AWS_ENDPOINT_URL_STS, or a proxy)."
    )


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, "<html/>"),
        (200, "<AssumeRoleResponse><AssumeRoleResult/></AssumeRoleResponse>"),
        (200, ISSUED.format("<AccessKeyId>ASIA1</AccessKeyId>")),
        (200, ISSUED.format("<Expiration>never</Expiration>")),
        (403, "<html>Sign in to the network</html>"),
    ],
    ids=["page", "nothing", "half", "no date", "refusal"],
)
def test_xml_that_is_not_of_sts(server: ScriptedSTS, sts: STS, status: int, body: str) -> None:
    """A proxy's page, or credentials with something missing, is no answer of STS, and its text is not shown."""
    server.always = lambda _handler, _call: (status, body)

    with pytest.raises(STSUnavailableError, match="its text is not shown") as caught:
        assume(sts)

    assert caught.value.code == "ResponseParserError"
    assert "its text is not shown" in str(caught.value.__cause__)


def test_a_hooks_own_error_stays_its_own(server: ScriptedSTS, sts: STS) -> None:
    """A KeyError of the caller's hook on STS's requests is not taken for an answer of somebody else."""
    source = boto3.Session()
    source.events.register("before-call.sts", lambda **_: {}["of the hook"])

    with pytest.raises(KeyError, match="of the hook"):
        sts.assume_role(source, assume_role_request(ROLE), None)

    assert server.calls == []


@pytest.mark.parametrize("variable", ["AWS_SESSION_TOKEN", "AWS_ACCESS_KEY_ID"])
def test_keys_with_a_line_break(
    server: ScriptedSTS,
    sts: STS,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    variable: str,
) -> None:
    """A token or a key with a line break is an error of the caller's; neither message, records nor cause repeats it."""
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv(variable, "callers\nsecret")

    with pytest.raises(CallerCredentialsError, match="can't be loaded: an access key or a session token") as caught:
        assume(sts)

    assert str(caught.value.__cause__) == "an access key or a session token contains a line break"

    traceback_text = "".join(traceback.format_exception(caught.value))
    assert "secret" not in f"{traceback_text} {caplog.text} {caught.value.__context__!r}"
    assert server.calls == []


def test_a_refusal_is_not_tried_again(server: ScriptedSTS, sts: STS) -> None:
    """AccessDenied is an AssumeRoleError after one call, and what the article's ``except ClientError`` caught."""
    server.always = refuse("AccessDenied", REFUSAL)

    with pytest.raises(AssumeRoleError, match="not authorized") as caught:
        assume(sts)

    assert server.count() == 1
    assert isinstance(caught.value, ClientError)
    assert caught.value.response["Error"]["Code"] == "AccessDenied"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert caught.value.role_arn == ROLE
    assert isinstance(caught.value.__cause__, ClientError)
    assert caught.value.__cause__.operation_name == "AssumeRole"


def test_errors_survive_pickling(server: ScriptedSTS, sts: STS) -> None:
    """An error crosses a process boundary with its message and its evidence."""
    server.always = refuse("AccessDenied", REFUSAL)
    with pytest.raises(AssumeRoleError) as caught:
        assume(sts)

    copy = pickle.loads(pickle.dumps(caught.value))

    assert (str(copy), copy.role_arn, copy.code, copy.response) == (
        str(caught.value),
        ROLE,
        "AccessDenied",
        caught.value.response,
    )
    configuration = pickle.loads(pickle.dumps(ConfigurationError("tags", "too many")))
    assert (configuration.argument, str(configuration)) == ("tags", "tags: too many")


@pytest.mark.parametrize(
    "assumed_arn",
    [
        "arn:aws:sts::222222222222:assumed-role/another-role/xacct-lambda",
        "arn:aws:sts::333333333333:assumed-role/role-on-source-account/xacct-lambda",
        "arn:aws-cn:sts::222222222222:assumed-role/role-on-source-account/xacct-lambda",
        "arn:aws:sts::222222222222:assumed-role/role-on-source-account/somebody",
    ],
)
def test_an_answer_for_another_role_is_not_used(server: ScriptedSTS, assumed_arn: str) -> None:
    """Where STS names another role, account, partition or session than asked for, nothing is handed out or kept."""
    server.script = [lambda _handler, call: issue(call, assumed_arn=assumed_arn)]
    credentials = assumed_session(ROLE).get_credentials()

    with pytest.raises(AssumeRoleError) as caught:
        credentials.get_frozen_credentials()

    assert str(caught.value) == (
        f"STS answered for {assumed_arn}, and {REQUEST.assumed_role_arn} was asked for. Its credentials are not used: "
        "check what answers instead of STS (endpoint_url, AWS_ENDPOINT_URL, a proxy)"
    )
    assert caught.value.response["Error"] == {"Code": "AssumedRoleMismatch", "Message": f"assumed {assumed_arn}"}
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 200
    assert caught.value.role_arn == ROLE
    assert cache_info().roles == 0


def test_an_answer_for_no_role_is_not_used(server: ScriptedSTS, sts: STS) -> None:
    """An answer that does not say which role was assumed is used as little as one that names another."""

    def unnamed(_handler: Any, call: dict[str, str]) -> tuple[int, str]:
        status, text = issue(call)
        return status, re.sub("<AssumedRoleUser>.*</AssumedRoleUser>", "", text)

    server.always = unnamed

    with pytest.raises(AssumeRoleError, match="STS answered for None"):
        assume(sts)


# --- Time -------------------------------------------------------------------------------------------------------------


def test_the_time_limits_add_up_to_less_than_three_seconds() -> None:
    """Two requests with a socket timeout of a second each, and the longest pause, fit into Lambda's default timeout."""
    assert DEFAULT_CONFIG.connect_timeout == DEFAULT_CONFIG.read_timeout == 1
    assert 2 * 1 + _RETRY_DELAY[1] <= STS().max_wait_seconds(None) < 3 - 0.25


@pytest.mark.usefixtures("_real_time_limits")
def test_a_hung_sts_is_given_two_seconds(server: ScriptedSTS) -> None:
    """An STS that accepts the connection and never answers gets two requests, each with its socket timeout."""
    server.always = hang
    pauses: list[float] = []

    with pytest.raises(STSUnavailableError, match="The address of STS is set by") as caught:
        assume(STS(sleep=pauses.append))

    assert caught.value.code == "ReadTimeoutError"
    assert len(pauses) == 1
    until(lambda: server.count() == 2)


def test_a_black_hole_ends_with_the_connect_timeout(monkeypatch: pytest.MonkeyPatch, sts: STS) -> None:
    """An address that drops packets, as a VPC without a route does, gives a clear error."""
    with contextlib.ExitStack() as stack:
        host, port = black_hole(stack)
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://{host}:{port}")

        with pytest.raises(STSUnavailableError) as caught:
            assume(sts)

    assert caught.value.code == "ConnectTimeoutError"
    assert sts.calls == 2


def test_several_black_holes_cost_one_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """An interface endpoint has an address in each of three zones. The wait ends before all their timeouts are over."""
    limits: list[tuple[float | None, float | None]] = []

    def wait(latch: Latch, limit: float | None, left: float | None) -> bool:
        limits.append((limit, left))
        return latch.wait(60) if len(limits) == 1 else False

    monkeypatch.setattr(_sessions.default_cache.credentials, "_wait", wait)
    with contextlib.ExitStack() as stack:
        address = black_hole(stack)
        found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)] * 3
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found)

        with pytest.raises(STSUnavailableError, match=r"none in 2\.5 s") as caught:
            sign(assumed_session(ROLE))

    assert caught.value.code == "NoAnswerInTime"
    assert limits == [(2.5, None), (2.5, None)]


def test_a_trickled_answer_is_aborted(server: ScriptedSTS) -> None:
    """An answer that comes byte by byte ends when the attempt is given up: its connection is shut down."""
    server.always = trickle(0.01)
    sts, calls = STS(), Calls()
    outcome: list[Exception] = []

    def assume_role() -> None:
        try:
            sts.assume_role(boto3.Session(), REQUEST, None, calls=calls)
        except STSUnavailableError as error:
            outcome.append(error)

    thread = threading.Thread(target=assume_role)
    thread.start()
    until(lambda: server.count() == 1 and bool(calls.connections))
    calls.abort()
    thread.join()

    assert len(outcome) == 1
    assert sts.calls == 1, "no second request after an abort"
    assert [report.error_code for report in calls.reports] == ["ResponseParserError"] or calls.reports


def test_an_abort_before_there_is_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attempt that is given up while it waits for DNS has no socket to shut down. That fails no request."""
    release = threading.Event()

    def resolve(*_args: Any, **_options: Any) -> Any:
        release.wait(60)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    sts, calls = STS(), Calls()

    def assume_role() -> None:
        with pytest.raises(STSUnavailableError):
            sts.assume_role(boto3.Session(), REQUEST, None, calls=calls)

    thread = threading.Thread(target=assume_role)
    thread.start()
    until(lambda: bool(calls.connections))
    calls.abort()
    release.set()
    thread.join()

    assert sts.calls == 1


def test_an_abort_ends_no_other_request(server: ScriptedSTS) -> None:
    """When the answer is read, the connection is free for other roles, and an abort doesn't shut it down."""
    source, sts, calls = boto3.Session(), STS(), Calls()
    connections: list[int] = []

    def abort(**_: Any) -> None:
        connections.append(len(calls.connections))
        calls.abort()

    source.events.register("request-created.sts.AssumeRole", lambda **_: connections.append(len(calls.connections)))
    source.events.register("after-call.sts.AssumeRole", abort)
    for _ in range(2):
        assert sts.assume_role(source, REQUEST, None, calls=calls).frozen

    assert connections == [0, 0] * 2
    assert server.connections == 1


class SlowSession(boto3.Session):
    """Counts log-ins, and how many are made at the same time."""

    def __init__(self) -> None:
        super().__init__()
        self.log_ins = 0
        self.most = 0
        self.current = 0

    def get_credentials(self) -> Any:
        self.current += 1
        self.most = max(self.most, self.current)
        time.sleep(0.002)
        self.log_ins += 1
        self.current -= 1
        return super().get_credentials()


def test_one_log_in_at_a_time(sts: STS) -> None:
    """Many roles of one source session load its credentials one after the other: one prompt, not one for each role."""
    source = SlowSession()
    threads = [threading.Thread(target=sts.load_caller_credentials, args=(source, REQUEST)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (source.log_ins, source.most) == (8, 1)


def test_a_log_in_that_hangs_does_not_block_other_roles(sts: STS, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while another role of the same source session logs in by itself."""
    monkeypatch.setattr("xacct_lambda._sts._LOGIN_LIMIT", 0.01)
    source = SlowSession()
    sts._logins[id(source)] = threading.Lock()
    sts._logins[id(source)].acquire()

    sts.load_caller_credentials(source, REQUEST)

    assert source.log_ins == 1


def test_connections_that_were_idle_for_a_minute_are_not_used_again(server: ScriptedSTS) -> None:
    """By the wall clock: after a freeze or behind a NAT gateway, the connection may be dead without a sign of it."""
    credentials: Any = assumed_session(ROLE).get_credentials()
    cache = _sessions.default_cache.credentials
    now = [cache.clock()]
    cache.clock = lambda: now[0]
    for seconds in (0, 60, 61):
        now[0] += seconds
        credentials.get_frozen_credentials()
        cache._entries.clear()

    assert server.count() == 3
    assert server.connections == 2


def test_a_name_that_is_not_found_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up STS's name has no time-out of its own, and is waited for no longer than for the rest."""
    release = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: release.wait(60) and [])
    hurried = Config(connect_timeout=0.1, read_timeout=0.1)

    with pytest.raises(STSUnavailableError, match=r"none in 0\.7 s"):
        sign(assumed_session(ROLE, sts_config=hurried))
    release.set()


def test_no_route_is_told_at_once(monkeypatch: pytest.MonkeyPatch, sts: STS) -> None:
    """A refused connection is an STSUnavailableError that says what a function in a VPC needs."""
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9")

    with pytest.raises(STSUnavailableError, match="The address of STS is set by AWS_ENDPOINT_URL_STS") as caught:
        assume(sts)

    assert caught.value.code == "EndpointConnectionError"


@pytest.mark.parametrize(
    ("config", "seconds"),
    [
        (None, 2.5),
        (Config(user_agent_extra="orders/1.0"), 2.5),
        (Config(connect_timeout=0.5), 2.5),
        (Config(read_timeout=10), 20.5),
        (Config(connect_timeout=3, read_timeout=2), 6.5),
        (Config(read_timeout=None), 600),
        (Config(connect_timeout=None), 600),
        (Config(retries={"total_max_attempts": 1}), 2),
        (Config(retries={"max_attempts": 1}, read_timeout=3), 28),
        (Config(retries={"mode": "standard"}), 90),
    ],
)
def test_how_long_an_answer_is_waited_for(sts: STS, config: Config | None, seconds: float | None) -> None:
    """The time limit is two requests of a second and a pause by default, or what the caller's options take."""
    assert sts.max_wait_seconds(config) == seconds


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        (None, None),
        (object(), None),
        (type("Context", (), {"get_remaining_time_in_millis": lambda _self: 1250})(), 1.0),
        (type("Context", (), {"get_remaining_time_in_millis": lambda _self: 100})(), 0),
        (Mock(), None),
        (MagicMock(), None),
    ],
)
def test_seconds_left(context: Any, expected: float | None) -> None:
    """The invocation's time is read off its context, less a reserve; where there is none, nothing is known."""
    token = current_context.set(context)
    try:
        assert remaining_seconds() == expected
        current_context.set(type("DurableContext", (), {"lambda_context": context})())
        assert remaining_seconds() == expected
    finally:
        current_context.reset(token)


# --- The client -------------------------------------------------------------------------------------------------------


def test_one_client_for_a_source_session(server: ScriptedSTS, sts: STS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many roles of one source session share one STS client; another configuration has another."""
    source = boto3.Session()
    made = []
    monkeypatch.setattr(
        source, "client", lambda *args, **kwargs: made.append(1) or boto3.Session.client(source, *args, **kwargs)
    )

    for role_arn in (ROLE, OTHER_ROLE):
        sts.assume_role(source, assume_role_request(role_arn), None)
    assert len(made) == 1
    for _ in range(2):
        sts.assume_role(source, REQUEST, Config(user_agent_extra="me"))
    assert len(made) == 2
    sts.clear_clients()
    sts.assume_role(source, REQUEST, None)
    assert len(made) == 3


def test_a_client_keeps_its_source(sts: STS) -> None:
    """Clients are held by the identity of their source session, which no other can come to have while they are."""
    source = boto3.Session()
    sts.prepare(source, None)
    alive = weakref.ref(source)
    del source
    gc.collect()

    assert alive() is not None


def test_where_botocore_goes_to_the_global_endpoint() -> None:
    """The client of the Region's endpoint that takes its place has the same configuration."""
    made = [Mock(meta=Mock(endpoint_url="https://sts.amazonaws.com")), Mock()]
    source: Any = Mock(region_name="eu-west-1", client=Mock(side_effect=made))

    assert new_client(source, DEFAULT_CONFIG) is made[1]
    regional = "https://sts.eu-west-1.amazonaws.com"
    assert source.client.mock_calls == [
        call("sts", config=DEFAULT_CONFIG),
        call("sts", config=DEFAULT_CONFIG, endpoint_url=regional),
    ]


def test_an_error_that_nobody_raised_gets_no_note() -> None:
    """The note on an attempt's error names the place that raised it, and is left out if there is none."""
    error = ValueError("from elsewhere")

    assert without_frames(error) is error
    assert not hasattr(error, "__notes__")


@pytest.mark.usefixtures("_real_time_limits")
def test_sts_config_is_merged_over_the_librarys(server: ScriptedSTS, sts: STS, made: list[Config]) -> None:
    """A caller's options for the STS client take effect, and the library's own stay where it gives none."""
    server.always = hang

    with pytest.raises(STSUnavailableError):
        assume(sts, Config(read_timeout=0.2, user_agent_extra="orders/1.0"))

    assert (made[0].connect_timeout, made[0].read_timeout) == (1, 0.2)
    # The server may read a request after its client has given it up.
    until(lambda: server.count() == 2)
    assert "orders/1.0" in server.user_agents[0]


def test_a_callers_retries_replace_the_librarys(server: ScriptedSTS, sts: STS) -> None:
    """Retries in ``sts_config`` are botocore's to make; the library adds none of its own."""
    server.always = SERVER_FAULT

    with pytest.raises(STSUnavailableError):
        assume(sts, Config(retries={"total_max_attempts": 1}))

    assert server.count() == 1


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("us-east-1", "sts.us-east-1.amazonaws.com"),
        ("eu-west-1", "sts.eu-west-1.amazonaws.com"),
        ("eu-south-2", "sts.eu-south-2.amazonaws.com"),
        ("cn-north-1", "sts.cn-north-1.amazonaws.com.cn"),
        ("us-gov-west-1", "sts.us-gov-west-1.amazonaws.com"),
    ],
)
def test_the_regional_endpoint_is_used(sts: STS, region: str, host: str) -> None:
    """STS is called in the source session's own Region and partition, whatever botocore's default is."""
    client = sts._client(boto3.Session(region_name=region), Config())

    assert client.meta.endpoint_url == f"https://{host}"
    assert client.meta.region_name == region


def test_a_legacy_setting_does_not_change_the_endpoint(sts: STS, monkeypatch: pytest.MonkeyPatch) -> None:
    """``AWS_STS_REGIONAL_ENDPOINTS=legacy``, the default of botocore before 1.40, changes nothing."""
    monkeypatch.setenv("AWS_STS_REGIONAL_ENDPOINTS", "legacy")

    assert sts._client(boto3.Session(), Config()).meta.endpoint_url == "https://sts.eu-west-1.amazonaws.com"


def test_without_a_region_botocore_decides(sts: STS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no Region is configured at all, as outside Lambda, the endpoint is botocore's choice."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")

    assert sts._client(boto3.Session(), Config()).meta.endpoint_url == "https://sts.amazonaws.com"


@pytest.mark.parametrize("name", ["retries", "proxies_config", "s3"])
def test_equal_configurations_are_one_key(name: str) -> None:
    """Two Config objects with equal options are one cache key, those with different options two."""
    value = {
        "retries": {"max_attempts": 1},
        "proxies_config": {"proxy_client_cert": ("a", "b")},
        "s3": {"addressing_style": "path"},
    }[name]
    config = Config(**{name: dict(value)})

    assert config_key(config) == config_key(Config(**{name: dict(value)}))
    assert hash(config_key(config)) == hash(config_key(Config(**{name: dict(value)})))
    assert config_key(config) != config_key(Config())


def test_true_and_one_are_two_keys() -> None:
    """Options that Python takes for equal and botocore does not (it compares with ``is True``) are two cache keys."""
    assert config_key(Config(endpoint_discovery_enabled=1)) != config_key(Config(endpoint_discovery_enabled=True))


# --- Calls that cannot be made ----------------------------------------------------------------------------------------


def test_no_credentials_to_call_with(monkeypatch: pytest.MonkeyPatch, server: ScriptedSTS, sts: STS) -> None:
    """A source session without credentials is named as such, before any network call."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(CallerCredentialsError, match="Unable to locate credentials"):
        assume(sts)

    assert server.calls == []


def test_credentials_that_come_later(monkeypatch: pytest.MonkeyPatch, server: ScriptedSTS) -> None:
    """What failed for want of credentials works as soon as the source session finds some: nothing is kept of it."""
    keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
    for name in keys:
        monkeypatch.delenv(name)
    client = assumed_session(ROLE).client("sts")
    with pytest.raises(CallerCredentialsError, match="boto3 searches the environment") as caught:
        client.get_caller_identity()
    assert isinstance(caught.value.__cause__, NoCredentialsError)

    for name, value in keys.items():
        monkeypatch.setenv(name, value)

    assert client.get_caller_identity()["Account"] == "222222222222"


@pytest.mark.parametrize("url", ["127.0.0.1:9", "https://"])
def test_an_endpoint_that_is_none(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """An address of STS that is no URL is named as the source session's setting."""
    source = boto3.Session()
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)

    with pytest.raises(ConfigurationError, match=f"no STS client can be made of it: .*{url}") as caught:
        sign(assumed_session(ROLE, source_session=source))

    assert caught.value.argument == "source_session"


def test_settings_that_make_no_client(monkeypatch: pytest.MonkeyPatch, sts: STS) -> None:
    """Settings that botocore makes no STS client of are named as the source session's."""
    monkeypatch.setenv("AWS_RETRY_MODE", "nonsense")

    with pytest.raises(ConfigurationError, match=r"no STS client can be made of it.*nonsense") as caught:
        assume(sts, Config(retries={}))

    assert caught.value.argument == "source_session"


def test_a_client_made_ahead_is_the_calls_own(server: ScriptedSTS, sts: STS) -> None:
    """``prepare`` makes the client that the first call then uses, and sends nothing."""
    source = boto3.Session()
    config = Config(read_timeout=2)
    sts.prepare(source, config)
    assert server.calls == []
    source.client = None

    assert sts.assume_role(source, REQUEST, config)


def test_a_log_in_during_the_preparation_delays_no_other_session(sts: STS) -> None:
    """While ``prepare`` waits for a source session's own credentials, other source sessions get their clients."""
    has_begun, may_end = threading.Event(), threading.Event()

    class SlowSession(boto3.Session):
        def get_credentials(self) -> Any:
            has_begun.set()
            may_end.wait()
            return super().get_credentials()

    slow = threading.Thread(target=sts.prepare, args=(SlowSession(), None))
    slow.start()
    has_begun.wait()
    other = threading.Thread(target=sts.prepare, args=(boto3.Session(), None), daemon=True)
    other.start()
    try:
        until(lambda: not other.is_alive())
    finally:
        may_end.set()
        slow.join()


def test_a_parameter_that_botocore_does_not_know(server: ScriptedSTS, sts: STS) -> None:
    """An extra parameter that this botocore does not know is a ConfigurationError, before any network call."""
    with pytest.raises(ConfigurationError, match="Novelty") as caught:
        assume(sts, extra={"Novelty": 1})

    assert caught.value.argument == "extra"
    assert server.calls == []


def test_other_trouble_with_the_source_session() -> None:
    """What else keeps botocore from calling STS is told in its words, as the source session's."""
    error, cause = translate_error(UnknownEndpointError(service_name="sts", region_name="x"), REQUEST)

    assert str(error).startswith(f"source_session: STS can't be called for {ROLE}: Unable to construct an endpoint")
    assert isinstance(cause, UnknownEndpointError)


def test_a_source_session_without_a_region() -> None:
    """If botocore needs a Region and finds none, the message tells you where to set it."""
    error, cause = translate_error(NoRegionError(), REQUEST)

    assert str(error) == (
        f"source_session: STS can't be called for {ROLE}: You must specify a region. Set AWS_DEFAULT_REGION, or the "
        "Region of source_session."
    )
    assert isinstance(cause, NoRegionError)


def test_what_is_told_of_further_parameters() -> None:
    """Of botocore's report on parameters all is told but the values, which may run over several lines."""
    report = (
        'Missing required parameter in ProvidedContexts[0]: "ProviderArn"\n'
        "Invalid length for parameter Novelty, value: hush\nhush, hush, valid min length: 4\n"
        'Unknown parameter in input: "Novelties", must be one of: RoleArn'
    )
    error, cause = translate_error(ParamValidationError(report=report), REQUEST)

    assert str(error) == (
        "extra: botocore rejects these AssumeRole parameters: "
        'Missing required parameter in ProvidedContexts[0]: "ProviderArn"; Invalid length for parameter Novelty; '
        'Unknown parameter in input: "Novelties", must be one of: RoleArn'
    )
    assert str(cause) == "Parameter validation failed (the values are not shown)"


def test_values_of_further_parameters_are_not_repeated(server: ScriptedSTS, sts: STS) -> None:
    """Where botocore does not take a further parameter, the message names it and its type, and not its value."""
    contexts = [
        {"ProviderArn": "arn:aws:iam::aws:contextProvider/IdentityCenter", "ContextAssertion": {"hush": "hush"}}
    ]

    with pytest.raises(ConfigurationError) as caught:
        assume(sts, extra={"ProvidedContexts": contexts, "Novelty": "hush"})

    assert "Invalid type for parameter ProvidedContexts[0].ContextAssertion" in str(caught.value)
    assert 'Unknown parameter in input: "Novelty"' in str(caught.value)
    assert "hush" not in f"{caught.value} {caught.value.__cause__}"
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    "trouble", [drop, garble("<html>issued-secret-key</html>"), refuse("AccessDenied", "no"), THROTTLE]
)
def test_what_is_chained_holds_no_request(
    server: ScriptedSTS, monkeypatch: pytest.MonkeyPatch, sts: STS, trouble: Any
) -> None:
    """From no error can one get to the request that was sent, whose headers have the caller's token in them."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "callers-token")
    server.always = trouble

    with pytest.raises(XacctLambdaError) as caught:
        assume(sts, external_id="hush-hush")

    assert trouble is not drop or str(caught.value.__cause__).endswith(f'endpoint URL: "{server.url}/".')
    found, reached = [caught.value], ""
    for error in found:
        found += [one for one in (error.__cause__, error.__context__) if one is not None and one not in found]
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__) if error is not caught.value]
        reached += f"{vars(error)} {error.args} {[frame.f_locals for frame in frames]}"
        reached += str(getattr(error, "request", None) and error.request.headers)
    assert len(found) > 1
    assert [secret for secret in (*SECRETS, "hush-hush") if secret in reached] == []


def test_a_chained_role_fails_with_the_first_roles_error(server: ScriptedSTS) -> None:
    """Where the source session's own role is refused, the error is about that role."""
    server.always = refuse("AccessDenied", REFUSAL)
    session = assumed_session(OTHER_ROLE, source_session=assumed_session(ROLE))

    with pytest.raises(AssumeRoleError) as caught:
        session.get_credentials().get_frozen_credentials()

    assert caught.value.role_arn == ROLE


# --- Credentials that a service rejects -------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "calls"), [("ExpiredToken", 2), ("InvalidClientTokenId", 1)])
def test_a_rejected_request_is_sent_again(server: ScriptedSTS, code: str, calls: int) -> None:
    """A request whose new credentials a service rejects is sent again: with others, or if they are unknown, later."""
    client = assumed_session(ROLE).client("sts")
    client.get_caller_identity()
    server.script = [refuse(code, "The security token included in the request is invalid", 403)]

    assert client.get_caller_identity()["Arn"]
    assert server.count("AssumeRole") == calls
    assert server.count("GetCallerIdentity") == 3


def test_a_service_that_goes_on_rejecting_is_not_asked_for_ever(server: ScriptedSTS) -> None:
    """A request is sent again once: rejected twice, the service's own error reaches the caller."""
    client = assumed_session(ROLE).client("sts")
    client.get_caller_identity()
    server.script = [refuse("ExpiredToken", "expired", 403)] + [
        lambda handler, call: (
            refuse("ExpiredToken", "expired", 403)(handler, call) if call["Action"] != "AssumeRole" else issue(call)
        )
    ] * 3

    with pytest.raises(ClientError, match="ExpiredToken"):
        client.get_caller_identity()

    assert server.count("AssumeRole") == 2
    assert server.count("GetCallerIdentity") == 3


def test_an_unsigned_request_is_its_callers(server: ScriptedSTS) -> None:
    """A request that bears no credentials cannot have been rejected for them: it is not sent again."""
    server.script = [refuse("ExpiredToken", "expired", 403)]

    with pytest.raises(ClientError, match="ExpiredToken"):
        assumed_session(ROLE).client("sts", config=Config(signature_version=UNSIGNED)).get_caller_identity()

    assert server.count("AssumeRole") == 0


def test_other_errors_of_a_service_are_its_own(server: ScriptedSTS) -> None:
    """AccessDenied from a service says nothing about the credentials: they stay, and the error is the caller's."""
    client = assumed_session(ROLE).client("sts")
    client.get_caller_identity()
    server.script = [refuse("AccessDenied", "not authorized")]

    with pytest.raises(ClientError, match="AccessDenied"):
        client.get_caller_identity()

    assert server.count("AssumeRole") == 1


def test_a_chained_session_renews_its_own_role_alone(server: ScriptedSTS) -> None:
    """A rejected request of a chained session costs a call for its own role and none for the role before it."""
    client = assumed_session(OTHER_ROLE, source_session=assumed_session(ROLE)).client("sts")
    client.get_caller_identity()
    server.script = [refuse("ExpiredToken", "expired", 403)]

    client.get_caller_identity()

    assert [call.get("RoleArn") for call in server.calls if call["Action"] == "AssumeRole"] == [
        ROLE,
        OTHER_ROLE,
        OTHER_ROLE,
    ]


# --- Secrets ----------------------------------------------------------------------------------------------------------

SECRETS = ("issued-secret-key", "issued-session-token", "callers-secret", "callers-token", "hush-hush")


@pytest.mark.parametrize(
    "trouble",
    [
        None,
        THROTTLE,
        garble("<AssumeRoleResponse><SecretAccessKey>issued-secret-key</SecretAccessKey>"),
        refuse("ValidationError", "Value 'hush-hush' at 'externalId' failed to satisfy constraint", 400),
        refuse("SignatureDoesNotMatch", "should have been 'POST\n/\n\nx-amz-security-token:callers-token\n'"),
        lambda _handler, call: issue(call, assumed_arn="arn:aws:sts::222222222222:assumed-role/x/y"),
    ],
    ids=["good", "throttle", "half an answer", "external ID", "signature", "mismatch"],
)
def test_no_secret_is_logged_or_told(
    server: ScriptedSTS, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, trouble: Any
) -> None:
    """With every logger at DEBUG, no key, token or external ID is in any record, message, traceback, repr or pickle."""
    monkeypatch.setenv("AWS_SESSION_TOKEN", "callers-token")
    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.DEBUG, logger="botocore")
    server.always = trouble
    traceback_text = ""
    session = assumed_session(ROLE, external_id="hush-hush")
    try:
        session.client("sts").get_caller_identity()
    except XacctLambdaError as error:
        traceback_text = "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format())
        traceback_text += f"{error!r} {error} {error.response} {pickle.dumps(error)!r} {error.__context__!r}"

    records = " ".join(f"{record.getMessage()} {record.args} {record.exc_text}" for record in caplog.records)
    everything = caplog.text + records + traceback_text + repr(session) + repr(session.get_credentials())
    assert "botocore" in caplog.text
    assert [secret for secret in SECRETS if secret in everything] == []


def test_a_token_in_a_query_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Signature version 2 puts the token into the query, which botocore logs: three asterisks stand for it."""
    caplog.set_level(logging.DEBUG, logger="botocore.auth")

    logging.getLogger("botocore.auth").debug("String to sign: %s", "SecurityToken=issued%2Ftoken&Signature=x")

    assert caplog.messages == ["String to sign: SecurityToken=***&Signature=x"]


def test_records_whose_arguments_do_not_fit() -> None:
    """What others log wrongly on a logger that is looked into is left for logging to report."""
    record = logging.LogRecord("botocore.endpoint", logging.DEBUG, __file__, 1, "%d", ("x",), None)

    assert logging.getLogger("botocore.endpoint").filter(record)
    assert record.args == ("x",)


def test_debug_records_of_other_requests_stay(server: ScriptedSTS, caplog: pytest.LogCaptureFixture) -> None:
    """botocore's DEBUG records of ordinary requests remain, with the session token taken out."""
    caplog.set_level(logging.DEBUG)
    client = assumed_session(ROLE).client("sts")
    client.get_caller_identity()

    canonical = [record.getMessage() for record in caplog.records if record.getMessage().startswith("CanonicalRequest")]
    assert "x-amz-security-token:***" in canonical[-1].splitlines()


def test_what_is_taken_out_leaves_the_rest(server: ScriptedSTS, sts: STS) -> None:
    """Where STS quotes the external ID or a session token, three asterisks stand in its place, and all else stays."""
    server.always = refuse("SignatureDoesNotMatch", "é'hush'é: 'x-amz-security-token:callers-token' of hush-hush")

    with pytest.raises(CallerCredentialsError) as caught:
        assume(sts, external_id="hush")

    assert caught.value.response["Error"]["Message"] == "é'***'é: 'x-amz-security-token:***' of hush-hush"


@pytest.mark.parametrize("text", ["sts:ExternalId={}", "the external ID {}.", "{}", "a:{}/b", "({})"])
def test_an_external_id_is_taken_out_wherever_it_stands(server: ScriptedSTS, sts: STS, text: str) -> None:
    """Marks on either side do not hide an external ID; in an ARN the same letters are something else, and stay."""
    server.always = refuse("AccessDenied", f"{text.format('222222222222')} {ROLE}")

    with pytest.raises(AssumeRoleError) as caught:
        assume(sts, external_id="222222222222")

    assert caught.value.response["Error"]["Message"] == f"{text.format('***')} {ROLE}"


def test_an_external_id_beside_letters_that_none_has(server: ScriptedSTS, sts: STS) -> None:
    """A letter that no external ID may hold does not hide one that it touches."""
    server.always = refuse("ValidationError", "éhushé")

    with pytest.raises(AssumeRoleError) as caught:
        assume(sts, external_id="hush")

    assert caught.value.response["Error"]["Message"] == "é***é"


def done_in_thread(task: Callable[[], Any]) -> Any:
    """Return what a task returns in a thread of its own."""
    returned: list[Any] = []
    start_thread(lambda: returned.append(task()))
    until(lambda: bool(returned))
    return returned[0]


def test_the_thread_of_an_attempt() -> None:
    """It says whose it is, holds up no end of the process, and sees the invocation."""
    token = current_context.set("context")
    try:
        thread = done_in_thread(threading.current_thread)
        assert (thread.name, thread.daemon) == ("xacct_lambda-assume-role", True)
        assert done_in_thread(current_context.get) == "context"
    finally:
        current_context.reset(token)


@pytest.mark.parametrize(("entity", "set_in_thread"), [("segment", [call("segment")]), (None, [])])
def test_the_trace_of_x_ray_goes_along(
    monkeypatch: pytest.MonkeyPatch, entity: str | None, set_in_thread: list[Any]
) -> None:
    """Where the X-Ray SDK is in use and there is a trace, the thread is at the caller's place in it."""
    recorder = Mock(get_trace_entity=Mock(return_value=entity))
    monkeypatch.setitem(sys.modules, "aws_xray_sdk.core", SimpleNamespace(xray_recorder=recorder))

    done_in_thread(lambda: True)

    assert recorder.set_trace_entity.mock_calls == set_in_thread


def test_without_a_segment_x_ray_may_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the X-Ray SDK raises because there is no segment, the thread starts without one."""
    recorder = Mock(get_trace_entity=Mock(side_effect=RuntimeError("cannot find the current segment")))
    monkeypatch.setitem(sys.modules, "aws_xray_sdk.core", SimpleNamespace(xray_recorder=recorder))

    assert done_in_thread(lambda: "done") == "done"
    assert recorder.set_trace_entity.mock_calls == []
