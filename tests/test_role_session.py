"""What a role's clients have of the source session: every setting, each hook once, and none of its credentials."""

from __future__ import annotations

import copy
import dataclasses
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import boto3
import botocore
import botocore.session
import pytest
from boto3.utils import lazy_call
from botocore import UNSIGNED, handlers
from botocore.config import Config
from botocore.configprovider import ConstantProvider
from botocore.credentials import Credentials
from conftest import OTHER_ROLE, ROLE, FakeSTS

from xacct_lambda import _sessions, assume_role, assumed_session
from xacct_lambda._role_session import _BOTOCORES_CHOICE
from xacct_lambda._sts import DEFAULT_CONFIG, new_client
from xacct_lambda.exceptions import ConfigurationError, XacctLambdaError

pytestmark = pytest.mark.usefixtures("_sts_is_fake")

Core = botocore.session.Session


def settings_of(client: Any) -> dict[str, Any]:
    """Return what a client would do with a request, apart from its signature."""
    config = client._client_config
    # botocore notes in the user agent how it found the credentials (m/…). The source's are not the role's.
    options = {"user_agent": re.sub(r" m/\S+", "", config.user_agent)}
    return (
        {name: value for name, value in vars(config).items() if not name.startswith("_user")}
        | options
        | {
            "endpoint": client.meta.endpoint_url,
            "region": client.meta.region_name,
            "verify": client._endpoint.http_session._verify,
        }
    )


# --- Settings ---------------------------------------------------------------------------------------------------------


def default_client_config(core: Core) -> None:
    core.set_default_client_config(
        Config(
            use_fips_endpoint=True,
            read_timeout=7,
            proxies={"https": "http://proxy.internal:3128"},
            s3={"addressing_style": "path"},
        )
    )


def region_in_the_client_config(core: Core) -> None:
    core.set_default_client_config(Config(region_name="eu-central-1"))


def configuration_variables(core: Core) -> None:
    for name, value in {"ca_bundle": "/opt/ca.pem", "retry_mode": "adaptive", "max_attempts": 7}.items():
        core.set_config_variable(name, value)


def configuration_store(core: Core) -> None:
    store = core.get_component("config_store")
    store.set_config_variable("use_dualstack_endpoint", True)
    store.set_config_provider("retry_mode", ConstantProvider("adaptive"))


def session_variables(core: Core) -> None:
    core.session_var_map["retry_mode"] = (None, None, "adaptive", None)


def s3_section(core: Core) -> None:
    core.get_component("config_store").set_config_variable("s3", {"use_accelerate_endpoint": True})


def smart_defaults(core: Core) -> None:
    core.set_config_variable("defaults_mode", "in-region")


def user_agent_extra(core: Core) -> None:
    core.user_agent_extra = "team/orders"


def user_agent_name(core: Core) -> None:
    core.user_agent_name, core.user_agent_version = "Orders", "7.0"


@pytest.mark.parametrize(
    "setting",
    [
        default_client_config,
        region_in_the_client_config,
        configuration_variables,
        configuration_store,
        session_variables,
        s3_section,
        smart_defaults,
        user_agent_extra,
        user_agent_name,
    ],
    ids=lambda setting: setting.__name__,
)
@pytest.mark.parametrize("roles", [1, 2], ids=["role", "chain"])
def test_a_setting_in_code_applies_to_the_roles_clients(setting: Callable[[Core], None], roles: int) -> None:
    """A setting that code makes on the source session applies to its clients and to those of its roles alike."""
    core = botocore.session.get_session()
    setting(core)
    source = session = boto3.Session(botocore_session=core)
    for role_arn in (ROLE, OTHER_ROLE)[:roles]:
        session = assumed_session(role_arn, source_session=session)

    assert settings_of(session.client("s3")) == settings_of(source.client("s3"))
    assert settings_of(session.client("s3")) != settings_of(boto3.Session().client("s3"))


def test_the_user_agent_set_on_the_boto3_session() -> None:
    """``session._session.user_agent_extra``, as many libraries set it, is in the requests of the role's clients."""
    source = boto3.Session()
    source._session.user_agent_extra += " acme/1.2"  # type: ignore[attr-defined, unused-ignore]

    client: Any = assumed_session(ROLE, source_session=source).client("s3")

    assert client._client_config.user_agent.endswith(f"Botocore/{botocore.__version__} acme/1.2")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_USE_FIPS_ENDPOINT", "true"),
        ("AWS_RETRY_MODE", "adaptive"),
        ("AWS_MAX_ATTEMPTS", "9"),
        ("AWS_CA_BUNDLE", "/opt/ca.pem"),
        ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:4566"),
        ("AWS_DEFAULTS_MODE", "cross-region"),
    ],
)
def test_a_setting_in_the_environment_applies(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A setting of the environment applies to the role's clients as it does to the source's."""
    source = boto3.Session()
    plain = settings_of(source.client("s3"))
    monkeypatch.setenv(name, value)

    clients = [session.client("s3") for session in (boto3.Session(), assumed_session(ROLE, source_session=source))]

    assert settings_of(clients[0]) == settings_of(clients[1])
    assert settings_of(clients[1]) != plain


def test_a_setting_of_the_environment_that_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number that is none raises when a client is created, as in boto3, and not when the session is."""
    session = assumed_session(ROLE, source_session=boto3.Session())
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "many")

    assumed_session(OTHER_ROLE)

    with pytest.raises(ValueError, match="many"):
        session.client("s3")


PROFILES = """
[default]
region = eu-west-1
[profile dev]
region = us-west-2
endpoint_url = http://127.0.0.1:4566
retry_mode = adaptive
[profile orders]
region = sa-east-1
use_fips_endpoint = true
s3 =
    addressing_style = path
"""


@pytest.mark.parametrize("variable", [None, "default", "dev", "orders"])
@pytest.mark.parametrize("argument", [None, "default", "dev", "orders"])
def test_the_profile_is_the_sources(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, argument: str | None
) -> None:
    """The source's profile is the role's, whether it is named in code or in the environment, or is ``default``."""
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(PROFILES, encoding="utf-8")
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    if variable is not None:
        monkeypatch.setenv("AWS_PROFILE", variable)
    source = boto3.Session(profile_name=argument)

    session = assumed_session(ROLE, source_session=source)

    assert session.profile_name == source.profile_name
    assert settings_of(session.client("s3")) == settings_of(source.client("s3"))


# --- Region -----------------------------------------------------------------------------------------------------------


def test_the_region_of_the_source_at_the_time_of_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A call without ``region_name`` gives the session of the Region that the source has by then."""
    sessions = {}
    for region in ("us-east-1", "ap-south-1", "us-east-1"):
        monkeypatch.setenv("AWS_DEFAULT_REGION", region)
        session = assumed_session(ROLE)
        assert sessions.setdefault(region, session) is session
        assert session.client("sqs").meta.region_name == session.region_name == region
    assert assumed_session(ROLE, region_name="ap-south-1") is sessions["ap-south-1"]


def test_a_region_that_is_given_wins() -> None:
    """``region_name`` is stronger than a Region in the source's default client configuration."""
    core = botocore.session.get_session()
    core.set_default_client_config(Config(region_name="eu-central-1", read_timeout=7))
    source = boto3.Session(botocore_session=core)

    client = assumed_session(ROLE, source_session=source, region_name="us-west-2").client("sqs")

    assert client.meta.region_name == "us-west-2"
    assert client.meta.config.read_timeout == 7  # type: ignore[attr-defined]
    assert source.client("sqs").meta.region_name == "eu-central-1"


def test_without_any_region(monkeypatch: pytest.MonkeyPatch) -> None:
    """A source without a Region gives a session without one, whose clients need one, as in boto3."""
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    session = assumed_session(ROLE)

    assert session.region_name is None
    assert session.client("sqs", region_name="eu-west-1").meta.region_name == "eu-west-1"


def test_a_region_in_a_clients_configuration() -> None:
    """A Region in the configuration of one client is stronger than the session's, as in boto3."""
    client = assumed_session(ROLE).client("sqs", config=Config(region_name="us-west-2"))

    assert client.meta.region_name == "us-west-2"


@pytest.mark.parametrize("region", ["aws-global", "fips-us-east-1", "us-gov-west-1", "cn-north-1"])
@pytest.mark.parametrize("service", ["s3", "iam", "sts"])
def test_pseudo_regions_and_partitions(region: str, service: str) -> None:
    """A Region that is none, such as ``aws-global``, leads to the endpoints that boto3 takes it to."""
    source = boto3.Session(region_name=region)

    client = assumed_session(ROLE, source_session=source).client(service)

    assert settings_of(client) == settings_of(source.client(service))


def test_sts_of_the_pseudo_region() -> None:
    """With ``aws-global``, STS is called at its global endpoint. There is no ``sts.aws-global.amazonaws.com``."""
    client = new_client(boto3.Session(region_name="aws-global"), DEFAULT_CONFIG)

    assert client.meta.endpoint_url == "https://sts.amazonaws.com"


# --- Hooks ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def initializer() -> Iterator[Callable[[Callable[[Any], None]], None]]:
    """Register an initializer of botocore for one test."""
    registered: list[Callable[[Any], None]] = []

    def register(function: Callable[[Any], None]) -> None:
        registered.append(function)
        botocore.register_initializer(function)

    yield register
    for function in registered:
        botocore.unregister_initializer(function)


EVENT = "provide-client-params.sqs.SendMessage"


def emit(session: boto3.Session) -> None:
    session.client("sqs").meta.events.emit(EVENT, params={}, model=None, context={})


@pytest.mark.parametrize(
    "register",
    [
        lambda session, hook: session.register(EVENT, hook),
        lambda session, hook: session.get_component("event_emitter").register_last(EVENT, hook),
    ],
    ids=["session", "emitter"],
)
def test_an_initializers_hook_runs_once_per_request(initializer: Any, register: Callable[[Any, Any], None]) -> None:
    """A hook of ``botocore.register_initializer`` runs once per request: of a session, of a role, of a chain."""
    calls: list[int] = []
    initializer(lambda session: register(session, lambda **_: calls.append(1)))
    source = boto3.Session()
    role = assumed_session(ROLE, source_session=source)
    counts = []
    for session in (source, role, assumed_session(OTHER_ROLE, source_session=role)):
        calls.clear()
        emit(session)
        counts.append(len(calls))

    assert counts == [1, 1, 1]


def test_hooks_of_the_source_at_the_time_of_creation() -> None:
    """A session has the hooks that its source has when it is created; later ones reach sessions created later."""
    source = boto3.Session()
    calls: list[str] = []
    source.events.register(EVENT, lambda **_: calls.append("early"))
    session = assumed_session(ROLE, source_session=source)
    source.events.register(EVENT, lambda **_: calls.append("late"))

    emit(session)
    assert calls == ["early"]
    calls.clear()
    emit(assumed_session(OTHER_ROLE, source_session=source))
    assert calls == ["early", "late"]


def test_hooks_on_the_botocore_session() -> None:
    """What is registered on the botocore session itself reaches its clients, and can be unregistered."""
    session = assumed_session(ROLE)
    core: Any = session._session  # type: ignore[attr-defined, unused-ignore]
    calls: list[str] = []

    def hook(**_: Any) -> None:
        calls.append("hook")

    core.register(EVENT, hook)
    emit(session)
    core.unregister(EVENT, hook)
    emit(session)

    assert calls == ["hook"]


def test_the_botocore_session_can_be_handed_to_another_library() -> None:
    """Another boto3 session over the role's botocore session breaks neither its own clients nor the role's."""
    session = assumed_session(ROLE)
    core: Any = session._session  # type: ignore[attr-defined, unused-ignore]

    others = [boto3.Session(botocore_session=core, region_name="us-west-2") for _ in range(2)]

    # aws-encryption-sdk creates one for each Region of its keys.
    assert {other.client("kms").meta.region_name for other in others} == {"us-west-2"}
    assert session.client("kms").meta.region_name == session.region_name == "eu-west-1"

    for each in (*others, session):
        assert each.client("s3").upload_file
        assert each.resource("dynamodb").Table("orders").batch_writer
        assert each.resource("ec2").Instance("i-1").delete_tags
        assert each.get_credentials() is session.get_credentials()
    assert assume_role(ROLE, clients=["s3"])(lambda event, context, *, s3: s3.upload_file)({}, None)


def test_class_hooks_of_others_are_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A class hook of the user's own is registered on the botocore session, in whatever form it comes."""
    module = SimpleNamespace(lazy=lambda base_classes, **_: base_classes.insert(0, Lazy))

    class Lazy:
        lazy = "lazy"

    class Plain:
        plain = "plain"

    monkeypatch.setitem(sys.modules, "orders_hooks", module)  # type: ignore[arg-type]
    core: Any = assumed_session(ROLE)._session  # type: ignore[attr-defined, unused-ignore]

    core.register("creating-client-class.sqs", lazy_call("orders_hooks.lazy"))
    core.register("creating-client-class.sqs", lambda base_classes, **_: base_classes.insert(0, Plain))

    client: Any = assumed_session(ROLE).client("sqs")
    assert (client.lazy, client.plain) == ("lazy", "plain")


# --- Credentials ------------------------------------------------------------------------------------------------------


def test_a_botocore_that_ignores_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """If botocore doesn't take the credentials from where they are put, no session is created to act as the caller."""
    monkeypatch.setattr(botocore.session.Session, "get_credentials", lambda _: Credentials("AKIACALLER", "secret"))

    with pytest.raises(XacctLambdaError, match=r"doesn't use the role's credentials"):
        assumed_session(ROLE)


def test_a_botocore_that_finds_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """If botocore found a bearer token of the caller's, its clients would send it. No session is created then."""
    monkeypatch.setattr(botocore.session.Session, "get_auth_token", lambda _: "callers-token")

    with pytest.raises(XacctLambdaError, match=r"doesn't use the role's credentials"):
        assumed_session(ROLE)


def test_an_initializer_that_sets_credentials(initializer: Any) -> None:
    """If an initializer gives each botocore session credentials of its own, no session is created to act with them."""
    source = boto3.Session()
    initializer(lambda session: session.set_credentials("AKIAOTHER", "other"))

    with pytest.raises(XacctLambdaError, match=r"another library has set credentials"):
        assumed_session(ROLE, source_session=source)


BEARER_TOKENS = pytest.mark.skipif(
    not hasattr(handlers, "get_bearer_auth_supported_services"), reason="this botocore knows no bearer tokens"
)


@BEARER_TOKENS
@pytest.mark.parametrize(
    ("config", "scheme"),
    [
        ({}, "AWS4-HMAC-SHA256"),
        ({"auth_scheme_preference": "sigv4"}, "AWS4-HMAC-SHA256"),
        ({"auth_scheme_preference": "httpBearerAuth,sigv4"}, "AWS4-HMAC-SHA256"),
        ({"signature_version": "v4"}, "AWS4-HMAC-SHA256"),
        ({"signature_version": UNSIGNED}, "None"),
    ],
    ids=["default", "sigv4", "bearer", "v4", "unsigned"],
)
def test_a_role_signs_with_sigv4(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], scheme: str) -> None:
    """With the caller's AWS_BEARER_TOKEN_BEDROCK in the environment, a role signs, and never sends the token."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "callers-bearer-token")
    client: Any = assumed_session(ROLE).client("bedrock-runtime", config=Config(**config))
    sent: list[Any] = []

    class Sent(Exception):  # noqa: N818 - it ends the request
        pass

    def record(request: Any, **_: Any) -> None:
        sent.append(request.headers)
        raise Sent

    client.meta.events.register("before-send", record)
    with pytest.raises(Sent):
        client.converse(modelId="m", messages=[])

    authorization = sent[0].get("Authorization")
    assert str(authorization if authorization is None else authorization.decode()).startswith(scheme)
    assert "callers-bearer-token" not in str(sent[0].items())


@BEARER_TOKENS
def test_the_source_goes_on_using_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """The caller's own clients send the caller's bearer token as before."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "callers-bearer-token")
    source = boto3.Session()
    assumed_session(ROLE, source_session=source)
    client: Any = source.client("bedrock-runtime")
    signer = client._request_signer
    context = {"client_config": client.meta.config, "auth_options": ["aws.auth#sigv4", "smithy.api#httpBearerAuth"]}

    assert signer._choose_signer("Converse", None, context) == "bearer"


@BEARER_TOKENS
def test_botocores_choice_is_where_it_was() -> None:
    """botocore's function that chooses the bearer token has the name that the library looks up."""
    assert hasattr(handlers, _BOTOCORES_CHOICE)


# --- Copies -----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Settings:
    session: boto3.Session


@pytest.mark.parametrize(
    "copied",
    [
        copy.copy,
        copy.deepcopy,
        lambda value: copy.deepcopy({"boto3_session": value})["boto3_session"],
        lambda value: dataclasses.asdict(Settings(value))["session"],
        lambda value: dataclasses.replace(Settings(value)).session,
    ],
    ids=["copy", "deepcopy", "in a dict", "asdict", "replace"],
)
def test_a_copy_is_the_session_itself(copied: Callable[[Any], Any]) -> None:
    """A copy of a session, or of its credentials, is the same object, so that settings with a session can be copied."""
    session = assumed_session(ROLE)

    assert copied(session) is session
    assert copied(session.get_credentials()) is session.get_credentials()


# --- Tests that replace boto3.Session, or the time --------------------------------------------------------------------


class Traced(boto3.Session):
    """A subclass of a tool, in the place of boto3's."""


@pytest.mark.parametrize(
    "replacement", [mock.MagicMock(), Traced, lambda **_: None], ids=["mock", "subclass", "function"]
)
def test_a_source_while_boto3s_class_is_replaced(replacement: Any) -> None:
    """With ``mock.patch("boto3.Session")``, a session that was created before is a session still."""
    source = boto3.Session()

    with mock.patch("boto3.Session", replacement):
        assert assumed_session(ROLE, source_session=source).region_name == "eu-west-1"
        assert assume_role(ROLE, clients=["s3"], source_session=source)(lambda event, context, *, s3: s3)({}, None)


def test_a_source_that_is_a_mock() -> None:
    """A mock for a source session is named as what it is."""
    with mock.patch("boto3.Session") as replacement, pytest.raises(ConfigurationError, match=r"MagicMock"):
        assumed_session(ROLE, source_session=replacement())


def test_a_default_session_that_is_a_mock(sts: FakeSTS) -> None:
    """A default session that is created of a mock is refused with what to do, and isn't left behind for other tests."""
    with mock.patch("boto3.Session"), pytest.raises(ConfigurationError, match=r"a test has replaced boto3\.Session"):
        assumed_session(ROLE)

    assert boto3.DEFAULT_SESSION is None
    assert assumed_session(ROLE).region_name == "eu-west-1"
    assert sts.calls == 0


def test_importing_while_boto3s_class_is_replaced() -> None:
    """A test may import the handler's module while ``boto3.Session`` is patched."""
    program = """
from unittest.mock import patch
with patch("boto3.Session"):
    from xacct_lambda import assume_role, assumed_sessions
    @assume_role("arn:aws:iam::222222222222:role/Reader", clients=["s3"], session="session")
    def handler(event, context, *, s3, session):
        return s3
    print(handler({}, None, s3="stub", session=None))
"""
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert finished.stdout == "stub\n"


def test_the_clock_is_looked_up_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """What replaces ``time.time``, as freezegun does, moves the library's clock too."""
    cache = _sessions.new_cache()
    monkeypatch.setattr(time, "time", lambda: 5.0)

    assert cache.credentials.clock() == 5.0
