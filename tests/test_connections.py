"""Connections and trust stores: which clients share them, which don't, and what happens to them in between."""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.awsrequest
import certifi
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, SSLError
from botocore.httpsession import URLLib3Session
from conftest import OTHER_ROLE, ROLE, holds_in_a_fork, until
from moto import mock_aws
from tls_server import CA, HTTPSServer, answering_twice, https_server, proxy_server

from xacct_lambda import (
    _connections,
    _sessions,
    _urllib3_pools,
    assume_role,
    assumed_session,
    cache_clear,
    cache_resize,
    exceptions,
)
from xacct_lambda._connections import ConnectionPools
from xacct_lambda._sts import STS
from xacct_lambda.testing import isolated_cache

pytestmark = pytest.mark.usefixtures("_sts_is_fake")

SWITCH = "XACCT_LAMBDA_SHARE_CONNECTIONS"


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> CA:
    return CA(tmp_path_factory.mktemp("ca"))


@pytest.fixture(scope="module")
def _running(ca: CA) -> Iterator[HTTPSServer]:
    with https_server(ca.issue("server")) as server:
        yield server


@pytest.fixture
def server(_running: HTTPSServer) -> HTTPSServer:
    """An HTTPS server that hasn't answered anything in this test."""
    _running.requests.clear()
    _running.bodies.clear()
    return _running


@pytest.fixture(autouse=True)
def _no_bundle_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds the developer's bundle, proxy, or switch."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", SWITCH):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def plain_server() -> Iterator[HTTPSServer]:
    """A server that speaks HTTP, also to the hosts below ``s3.test``."""
    with https_server(None) as server:
        yield server


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Files that Python has loaded into TLS contexts as trust stores."""
    files: list[Any] = []
    load = ssl.SSLContext.load_verify_locations

    def counted(self: ssl.SSLContext, *args: Any, **kwargs: Any) -> None:
        files.append(args[0] if args else kwargs["cafile"])
        load(self, *args, **kwargs)

    monkeypatch.setattr(ssl.SSLContext, "load_verify_locations", counted)
    return files


@pytest.fixture
def debug_log(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    caplog.set_level(logging.DEBUG, "xacct_lambda._connections")
    return lambda: [record.getMessage() for record in caplog.records if record.name == "xacct_lambda._connections"]


def client(role: str = ROLE, service: str = "s3", **arguments: Any) -> Any:
    """Return a client of the role that doesn't retry."""
    config = Config(retries={"total_max_attempts": 1}).merge(arguments.pop("config", Config()))
    return assumed_session(role).client(service, config=config, **arguments)


def role(number: int) -> str:
    return f"arn:aws:iam::222222222222:role/role-{number}"


# Which clients share.


def test_roles_share_a_connection(server: HTTPSServer, ca: CA) -> None:
    """Requests of two roles travel on one connection, each signed with its role's credentials."""
    for arn in (ROLE, OTHER_ROLE, ROLE):
        client(arn, endpoint_url=server.url, verify=ca.bundle).list_buckets()

    assert server.connections == 1
    assert [request.signer for request in server.requests] == ["ASIA1", "ASIA2", "ASIA1"]


def test_services_share_a_connection(server: HTTPSServer, ca: CA) -> None:
    """Clients of two services share a connection if both call the same host."""
    server.bodies["/"] = b"{}"
    client(endpoint_url=server.url, verify=ca.bundle).head_bucket(Bucket="b")
    client(OTHER_ROLE, "dynamodb", endpoint_url=server.url, verify=ca.bundle).list_tables()

    assert server.connections == 1


def test_resources_share_a_connection(server: HTTPSServer, ca: CA) -> None:
    """The client of a resource shares connections too."""
    client(endpoint_url=server.url, verify=ca.bundle).list_buckets()
    resource = assumed_session(OTHER_ROLE).resource(
        "s3", endpoint_url=server.url, verify=ca.bundle, config=Config(retries={"total_max_attempts": 1})
    )
    assert list(resource.buckets.all()) == []

    assert server.connections == 1


def test_the_sts_client_shares_connections() -> None:
    """The STS clients of two source sessions share connections."""
    sts = STS()
    source = boto3.Session(), boto3.Session()
    for session in source:
        sts.prepare(session, None)
    first, second = (entry.client._endpoint.http_session for entry in sts._clients.values())

    assert first.pools is second.pools


DIFFERENT_SETTINGS: dict[str, Callable[[str], dict[str, Any]]] = {
    "verify": lambda bundle: {"verify": False},
    "bundle": lambda bundle: {"verify": True},
    "connect timeout": lambda bundle: {"config": Config(connect_timeout=7)},
    "read timeout": lambda bundle: {"config": Config(read_timeout=7)},
    "socket options": lambda bundle: {"config": Config(tcp_keepalive=True)},
    "proxies": lambda bundle: {"config": Config(proxies={"https": "http://proxy.test:1"})},
    "proxy's password": lambda bundle: {"config": Config(proxies={"https": "http://a:b@proxy.test:1"})},
    "proxies' config": lambda bundle: {"config": Config(proxies_config={"proxy_ca_bundle": bundle})},
    "client certificate": lambda bundle: {"config": Config(client_cert=bundle)},
    "client key": lambda bundle: {"config": Config(client_cert=(bundle, bundle))},
    "pool size": lambda bundle: {"config": Config(max_pool_connections=51)},
}


@pytest.mark.parametrize("setting", DIFFERENT_SETTINGS)
def test_different_settings_are_not_shared(setting: str, ca: CA) -> None:
    """Clients share connections only if everything is equal that shapes a connection."""
    common: dict[str, Any] = {"verify": ca.bundle}
    first = client(**common)
    other = client(OTHER_ROLE, **(common | DIFFERENT_SETTINGS[setting](ca.bundle)))
    same = client(role(1), **(common | DIFFERENT_SETTINGS[setting](ca.bundle)))

    assert first._endpoint.http_session.pools is not other._endpoint.http_session.pools
    assert other._endpoint.http_session.pools is same._endpoint.http_session.pools


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "HTTPS_PROXY"])
def test_settings_of_the_environment_are_not_shared(variable: str, ca: CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle or a proxy of the environment counts as one of the client's settings."""
    first = client()
    monkeypatch.setenv(variable, ca.bundle if "BUNDLE" in variable else "http://proxy.test:1")
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    other = client()

    assert first._endpoint.http_session.pools is not other._endpoint.http_session.pools


def test_the_bundle_of_a_profile(
    server: HTTPSServer, ca: CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loads: list[Any]
) -> None:
    """``ca_bundle`` of the source session's profile is the trust store of the role's clients, and of no others."""
    (tmp_path / "config").write_text(f"[profile own-ca]\nca_bundle = {ca.bundle}\n")
    source = boto3.Session("AKIA", "secret", profile_name="own-ca")
    trusting = assumed_session(ROLE, source_session=source).client("s3", endpoint_url=server.url)
    trusting.list_buckets()
    with pytest.raises(SSLError):
        client(endpoint_url=server.url).list_buckets()

    assert loads == [ca.bundle, certifi.where()]


@pytest.mark.parametrize("option", [{"use_fips_endpoint": True}, {"use_dualstack_endpoint": True}])
@pytest.mark.parametrize("service", ["s3", "dynamodb"])
def test_endpoints_are_the_clients_own(service: str, option: dict[str, bool]) -> None:
    """FIPS and dual-stack endpoints are other hosts, which share nothing but the trust store with the usual ones."""
    usual, other = client(service=service), client(OTHER_ROLE, service, config=Config(**option))
    plain = boto3.client(service, config=Config(**option))

    assert other.meta.endpoint_url == plain.meta.endpoint_url != usual.meta.endpoint_url
    managers = other._endpoint.http_session._manager, usual._endpoint.http_session._manager
    hosts = [managers[0].connection_from_url(one.meta.endpoint_url) for one in (usual, other)]
    assert managers[0] is managers[1]
    assert hosts[0] is not hosts[1]


def test_equal_values_of_other_types_are_not_shared() -> None:
    """1 and True are equal in Python, but they may mean different settings."""
    assert _connections._hashable({"a": True}) != _connections._hashable({"a": 1})
    assert _connections._hashable({"a": [1.0]}) != _connections._hashable({"a": [1]})
    assert _connections._hashable({"a": [1]}) == _connections._hashable({"a": (1,)})


def test_small_pools_are_shared() -> None:
    """Pools of up to 50 connections are one pool for 50 threads."""
    small, default = client(config=Config(max_pool_connections=1)), client(OTHER_ROLE)

    assert small._endpoint.http_session.pools is default._endpoint.http_session.pools
    assert default._endpoint.http_session._manager.connection_pool_kw["maxsize"] == 50
    large = client(config=Config(max_pool_connections=99))
    assert large._endpoint.http_session._manager.connection_pool_kw["maxsize"] == 99


def test_shared_settings_are_bounded() -> None:
    """Connections of 16 settings are kept. A client whose settings are evicted keeps its connections."""
    first = client(config=Config(connect_timeout=1))
    for seconds in range(2, 18):
        client(config=Config(connect_timeout=seconds))
    again = client(OTHER_ROLE, config=Config(connect_timeout=1))

    assert len(_sessions.default_cache.connections._recent) == 16
    assert again._endpoint.http_session.pools is not first._endpoint.http_session.pools
    managers = first._endpoint.http_session._manager
    assert first._endpoint.http_session._manager is managers
    _sessions.default_cache.connections.drop()
    assert first._endpoint.http_session._manager is not managers


# The switch, and what isn't as expected.


@pytest.mark.parametrize("value", ["0", "false", "False"])
def test_sharing_can_be_turned_off(
    value: str, server: HTTPSServer, ca: CA, monkeypatch: pytest.MonkeyPatch, debug_log: Callable[[], list[str]]
) -> None:
    """With XACCT_LAMBDA_SHARE_CONNECTIONS=0, each client has its own connections, as in boto3."""
    monkeypatch.setenv(SWITCH, value)
    for arn in (ROLE, OTHER_ROLE):
        made = client(arn, endpoint_url=server.url, verify=ca.bundle)
        made.list_buckets()
        assert type(made._endpoint.http_session) is URLLib3Session

    assert server.connections == 2
    assert debug_log() == []


@pytest.mark.parametrize("value", ["", "1", "true", "TRUE"])
def test_sharing_is_on(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other values of the variable leave sharing on."""
    monkeypatch.setenv(SWITCH, value)

    assert isinstance(client()._endpoint.http_session, _connections._SharedSession)


def test_an_unknown_value_of_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value that the library doesn't know raises, because you may have meant to turn sharing off."""
    monkeypatch.setenv(SWITCH, "never")

    with pytest.raises(exceptions.ConfigurationError, match="'never' is not 1, true, 0, or false"):
        client()


class _OtherSession(URLLib3Session):
    """A session of somebody else's."""


def _replaced_class(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made._endpoint.http_session = _OtherSession()


def _renamed_session(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made._endpoint = SimpleNamespace(session=made._endpoint.http_session)


def _renamed_endpoint(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made._sender = made.__dict__.pop("_endpoint")


def _renamed_manager(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = made._endpoint.http_session
    session._pool_manager = vars(session).pop("_manager")


def _unknown_setting(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made._endpoint.http_session._tls_policy = object()


def _other_pool_classes(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made._endpoint.http_session._pool_classes_by_scheme = {"https": object}


def _pool_size_of_another_type(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made._endpoint.http_session._max_pool_connections = None


def _host_in_proxy_headers(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOTO_EXPERIMENTAL__ADD_PROXY_HOST_HEADER", "true")


def _https_proxy(made: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    made._endpoint.http_session = URLLib3Session(proxies={"http": "HTTPS://proxy.test:1"})


@pytest.mark.parametrize(
    "change",
    [
        _replaced_class,
        _renamed_session,
        _renamed_endpoint,
        _renamed_manager,
        _unknown_setting,
        _other_pool_classes,
        _pool_size_of_another_type,
        _host_in_proxy_headers,
        _https_proxy,
    ],
)
def test_an_unexpected_client_is_left_alone(
    change: Callable[[Any, pytest.MonkeyPatch], None],
    monkeypatch: pytest.MonkeyPatch,
    debug_log: Callable[[], list[str]],
) -> None:
    """If a client isn't what the library expects, it keeps its connections, and one line at DEBUG says why."""
    made = boto3.client("s3")
    change(made, monkeypatch)
    endpoint = getattr(made, "_endpoint", None)
    session = getattr(endpoint, "http_session", None)
    settings = dict(vars(session)) if session else None

    assert ConnectionPools().share(made) is made
    assert getattr(made, "_endpoint", None) is endpoint
    assert getattr(endpoint, "http_session", None) is session
    assert settings is None or vars(session) == settings
    assert len(debug_log()) == 1
    assert debug_log()[0].startswith("S3 keeps its own connections: ")


def test_another_tls_context_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, server: HTTPSServer, ca: CA, debug_log: Callable[[], list[str]]
) -> None:
    """If a library such as truststore replaces Python's TLS context, clients keep their own connections."""

    class OtherContext(ssl.SSLContext):
        pass

    monkeypatch.setattr("botocore.httpsession.SSLContext", OtherContext)
    for arn in (ROLE, OTHER_ROLE):
        client(arn, endpoint_url=server.url, verify=ca.bundle).list_buckets()

    assert server.connections == 2
    assert len(debug_log()) == 2


def test_botocore_has_what_sharing_needs() -> None:
    """A plain client can share connections; if botocore renames something, this test fails first."""
    made = boto3.client("s3")
    session = made._endpoint.http_session
    assert type(session) is URLLib3Session
    assert set(vars(session)) == {
        "_verify",
        "_proxy_config",
        "_pool_classes_by_scheme",
        "_cert_file",
        "_key_file",
        "_timeout",
        "_max_pool_connections",
        "_socket_options",
        "_proxy_managers",
        "_manager",
    }
    assert session._pool_classes_by_scheme == {
        "http": botocore.awsrequest.AWSHTTPConnectionPool,
        "https": botocore.awsrequest.AWSHTTPSConnectionPool,
    }

    ConnectionPools().share(made)

    assert isinstance(made._endpoint.http_session, _connections._SharedSession)


def test_sharing_twice(debug_log: Callable[[], list[str]]) -> None:
    """The STS client of an assumed source session shares connections already, and stays as it is."""
    made = client("arn:aws:iam::222222222222:role/First", "sts")
    session = made._endpoint.http_session

    assert ConnectionPools().share(made)._endpoint.http_session is session
    assert debug_log() == []


def test_moto_answers_before_a_connection_is_used(server: HTTPSServer, ca: CA) -> None:
    """Under moto, clients from before and from inside get moto's answers. Afterwards, the server is asked again."""
    common = {"endpoint_url": server.url, "verify": ca.bundle}
    client(**common).list_buckets()
    before = client()
    with mock_aws():
        before.create_bucket(Bucket="bucket", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        names = [bucket["Name"] for bucket in client(OTHER_ROLE).list_buckets()["Buckets"]]
        before.head_bucket(Bucket="bucket")
    client(OTHER_ROLE, **common).list_buckets()

    assert names == ["bucket"]
    assert [request.path for request in server.requests] == ["/", "/"]
    assert server.connections == 1


def test_patching_one_client_leaves_the_others(server: HTTPSServer, ca: CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that replaces ``send`` of one client's HTTP session doesn't change other clients."""
    patched, other = (client(arn, endpoint_url=server.url, verify=ca.bundle) for arn in (ROLE, OTHER_ROLE))
    monkeypatch.setattr(patched._endpoint.http_session, "send", lambda request: pytest.fail("the other client's"))
    other.list_buckets()

    assert server.connections == 1


# Trust.


def test_the_trust_store_is_loaded_once(server: HTTPSServer, ca: CA, loads: list[Any]) -> None:
    """Roles, services, and new connections share one load of the trust store."""
    server.bodies["/"] = b"{}"
    for number in range(5):
        client(role(number), endpoint_url=server.url, verify=ca.bundle).head_bucket(Bucket="b")
        client(
            role(number), "dynamodb", endpoint_url=server.url, verify=ca.bundle, config=Config(read_timeout=9)
        ).list_tables()
        _sessions.default_cache.connections.drop()

    assert loads == [ca.bundle]
    assert server.connections == 10


def test_threads_load_the_trust_store_once(server: HTTPSServer, ca: CA, loads: list[Any]) -> None:
    """16 clients whose first requests run at the same time load the trust store once."""
    clients = [client(role(number), endpoint_url=server.url, verify=ca.bundle) for number in range(16)]
    with ThreadPoolExecutor(16) as threads:
        list(threads.map(lambda one: one.list_buckets(), clients))

    assert loads == [ca.bundle]


def test_the_init_phase_loads_the_trust_store(
    server: HTTPSServer, ca: CA, loads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On Lambda, the init phase loads the trust store, and no event loads it again."""
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "provisioned-concurrency")
    arguments = {"service_name": "s3", "endpoint_url": server.url, "verify": ca.bundle}

    @assume_role(ROLE, clients={"s3": arguments})
    def handler(event: Any, context: Any, *, s3: Any) -> None:
        s3.list_buckets()

    assert loads == [ca.bundle]
    handler({}, None)
    client(OTHER_ROLE, endpoint_url=server.url, verify=ca.bundle).list_buckets()
    assert loads == [ca.bundle]


@pytest.mark.parametrize("variable", ["AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", None])
def test_the_init_phase_loads_the_trust_store_while_it_creates_clients(
    loads: list[Any], ca: CA, monkeypatch: pytest.MonkeyPatch, variable: str | None
) -> None:
    """If init calls STS, a thread loads the trust store before the clients exist, and nobody loads it again."""
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, ca.bundle)
    threads: list[str] = []
    create = _sessions.AssumedSession.client

    def client_after_loading(*args: Any, **kwargs: Any) -> Any:
        until(lambda: len(loads) == 1)
        threads.append(threading.current_thread().name)
        return create(*args, **kwargs)

    monkeypatch.setattr(_sessions.AssumedSession, "client", client_after_loading)
    assume_role(ROLE, clients=["s3"])(lambda event, context, *, s3: None)

    assert threads == ["MainThread"]
    assert loads == [certifi.where() if variable is None else ca.bundle]


@pytest.mark.parametrize(
    "variables",
    [
        {"AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1", "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1"},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1"},
    ],
)
def test_the_init_phase_loads_no_trust_store_without_tls(
    loads: list[Any], monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    """If STS and all clients are configured without TLS, the init phase loads nothing."""
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")
    for name, url in variables.items():
        monkeypatch.setenv(name, url)
    assume_role(ROLE, clients={"s3": {"service_name": "s3", "endpoint_url": "http://127.0.0.1:1"}})(
        lambda event, context, *, s3: None
    )

    assert loads == []


def test_loading_ahead_waits_for_its_thread(loads: list[Any], ca: CA) -> None:
    """The context that a thread has loaded is the one that clients use, and is kept until they exist."""
    connections = _sessions.default_cache.connections
    connections.start_loading(ca.bundle)
    client(verify=ca.bundle)
    connections.load_trust_stores()
    connections.load_trust_stores()

    assert loads == [ca.bundle]


def test_nothing_is_loaded_ahead_if_nothing_is_shared(loads: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """With sharing turned off, a thread would load a trust store that no client uses."""
    monkeypatch.setenv(SWITCH, "0")
    _sessions.default_cache.connections.start_loading(None)
    _sessions.default_cache.connections.load_trust_stores()

    assert loads == []


def test_a_bundle_that_cannot_be_loaded_ahead(loads: list[Any], tmp_path: Path) -> None:
    """If the bundle can't be read, loading ahead does nothing: the first request reports it."""
    connections = _sessions.default_cache.connections
    connections.start_loading(str(tmp_path / "missing.pem"))
    connections.load_trust_stores()

    assert loads == [str(tmp_path / "missing.pem")]


def test_without_a_thread_nothing_is_loaded_ahead(
    loads: list[Any], monkeypatch: pytest.MonkeyPatch, debug_log: Callable[[], list[str]]
) -> None:
    """If no thread is available, the first connection loads the trust store."""

    def no_thread(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", no_thread)
    _sessions.default_cache.connections.start_loading(None)
    _sessions.default_cache.connections.load_trust_stores()

    assert loads == []
    assert debug_log() == ["The first connection loads the trust store: can't start new thread"]


@pytest.mark.parametrize("arguments", [{"endpoint_url": "http://127.0.0.1:1"}, {"verify": False}])
def test_no_trust_store_is_loaded_in_vain(arguments: dict[str, Any], loads: list[Any]) -> None:
    """For clients that don't verify or don't use TLS, the init phase loads nothing."""
    client(**arguments)
    _sessions.default_cache.connections.load_trust_stores()

    assert loads == []


def test_the_first_request_reports_a_missing_bundle(server: HTTPSServer, tmp_path: Path) -> None:
    """If the bundle can't be read, the init phase goes on, and the first request raises what botocore raises."""
    arguments = {"endpoint_url": server.url, "verify": str(tmp_path / "missing.pem")}
    made, plain = client(**arguments), boto3.client("s3", config=Config(retries={"total_max_attempts": 1}), **arguments)
    _sessions.default_cache.connections.load_trust_stores()
    errors = []
    for one in (made, plain):
        with pytest.raises(BotoCoreError) as raised:
            one.list_buckets()
        errors.append((type(raised.value), str(raised.value)))

    assert errors[0] == errors[1]


TRUST = {"own CA": True, "certifi": False, "off": True}


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
@pytest.mark.parametrize("first", TRUST)
@pytest.mark.parametrize("second", TRUST)
def test_trust_is_never_united(first: str, second: str, server: HTTPSServer, ca: CA) -> None:
    """A client trusts its own bundle only, whatever other clients have loaded, in any order."""
    verify = {"own CA": ca.bundle, "certifi": certifi.where(), "off": False}
    for number, name in enumerate((first, second, first)):
        one = client(role(number), endpoint_url=server.url, verify=verify[name])
        # Twice: with the client's own connection, if it got one.
        for _ in range(2):
            if TRUST[name]:
                one.list_buckets()
            else:
                with pytest.raises(SSLError, match="CERTIFICATE_VERIFY_FAILED"):
                    one.list_buckets()


def test_verification_stays_on_in_a_race(server: HTTPSServer, ca: CA, tmp_path: Path) -> None:
    """Clients that don't verify don't share a context with clients that do."""
    off, on = client(verify=False), client(verify=ca.bundle)
    contexts = [one._endpoint.http_session._manager.connection_pool_kw["ssl_context"] for one in (off, on)]

    assert contexts[0] is not contexts[1]


def test_a_replaced_bundle(server: HTTPSServer, ca: CA, tmp_path: Path) -> None:
    """New clients trust what the bundle contains now, and nothing that it contained before."""
    bundle = tmp_path / "bundle.pem"
    bundle.write_bytes(CA(tmp_path, "other").pem)
    before = client(endpoint_url=server.url, verify=str(bundle))
    with pytest.raises(SSLError):
        before.list_buckets()

    bundle.write_bytes(ca.pem)
    # botocore's client sees the file at its next connection, too.
    before.list_buckets()
    after = client(OTHER_ROLE, endpoint_url=server.url, verify=str(bundle))
    after.list_buckets()

    bundle.write_bytes(CA(tmp_path, "third").pem)
    with pytest.raises(SSLError):
        client(role(1), endpoint_url=server.url, verify=str(bundle)).list_buckets()


def test_client_certificates(ca: CA, loads: list[Any]) -> None:
    """A server that requires a client certificate refuses a client without one, before and after one with one."""
    certificate = ca.issue("client")
    with https_server(ca.issue("mtls"), client_ca=ca.bundle) as server:
        loads.clear()
        common = {"endpoint_url": server.url, "verify": ca.bundle}
        certified = Config(client_cert=(certificate.certificate, certificate.key))
        for number in range(2):
            with pytest.raises(BotoCoreError):
                client(role(number), **common).list_buckets()
            client(role(number), config=certified, **common).list_buckets()

        assert server.connections == 1
    assert loads == [ca.bundle] * 2


# Dropped connections.


def test_close_does_not_affect_other_clients(server: HTTPSServer, ca: CA) -> None:
    """``close()`` of one client closes no connection that other clients use."""
    first, other = (client(arn, endpoint_url=server.url, verify=ca.bundle) for arn in (ROLE, OTHER_ROLE))
    first.list_buckets()
    first.close()
    other.list_buckets()
    first.list_buckets()

    assert server.connections == 1


def _drop_all() -> None:
    _sessions.default_cache.connections.drop()


def _use_an_isolated_cache() -> None:
    cache = _sessions.default_cache
    with isolated_cache():
        assert _sessions.default_cache is not cache


@pytest.mark.parametrize(
    "drop", [_drop_all, cache_clear, cache_resize, _sessions._before_snapshot, _use_an_isolated_cache]
)
def test_connections_are_dropped(drop: Callable[[], None], server: HTTPSServer, ca: CA, loads: list[Any]) -> None:
    """After ``cache_clear()``, in isolated tests, and in a snapshot, there are new connections and no new loads."""
    made = client(endpoint_url=server.url, verify=ca.bundle)
    made.list_buckets()
    drop()
    made.list_buckets()

    assert server.connections == 2
    assert loads == [ca.bundle]


def test_recorded_answers_stay_in_their_test(server: HTTPSServer, ca: CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a recorder of HTTP traffic has put back botocore's class of connections, its own are not used any more."""

    class Recorded(botocore.awsrequest.AWSHTTPSConnection):
        pass

    made, other = (client(arn, endpoint_url=server.url, verify=ca.bundle) for arn in (ROLE, OTHER_ROLE))
    monkeypatch.setattr(botocore.awsrequest.AWSHTTPSConnectionPool, "ConnectionCls", Recorded)
    made.list_buckets()
    made.list_buckets()
    monkeypatch.undo()
    other.list_buckets()
    made.list_buckets()

    assert server.order == [0, 0, 1, 1]


def test_connections_of_one_client_are_dropped(server: HTTPSServer, ca: CA) -> None:
    """The connections of STS's client can be dropped without those of other settings."""
    common = {"endpoint_url": server.url, "verify": ca.bundle}
    clients = [client(**common), client(config=Config(read_timeout=1), **common)]
    for one in clients:
        one.list_buckets()
    _sessions.default_cache.connections.drop_for(clients[1])
    for one in clients:
        one.list_buckets()

    assert server.order == [0, 1, 0, 2]


def test_connections_of_a_plain_client_are_dropped(
    server: HTTPSServer, ca: CA, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same works if sharing is turned off."""
    monkeypatch.setenv(SWITCH, "0")
    made = client(endpoint_url=server.url, verify=ca.bundle)
    made.list_buckets()
    _sessions.default_cache.connections.drop_for(made)
    made.list_buckets()

    assert server.connections == 2


@pytest.mark.parametrize("drop", [_drop_all, cache_clear, None])
def test_bodies_in_progress_are_read_to_the_end(drop: Callable[[], None] | None, server: HTTPSServer, ca: CA) -> None:
    """A body that is half read when connections are dropped, or when the client is closed, is read to its end."""
    server.bodies["/b/k"] = bytes(1_000_000)
    made = client(endpoint_url=server.url, verify=ca.bundle)
    bodies = [made.get_object(Bucket="b", Key="k")["Body"] for _ in range(5)]
    read = [len(body.read(10)) for body in bodies]
    (drop or made.close)()

    assert [len(body.read()) for body in bodies] == [999_990] * 5
    assert read == [10] * 5


def test_connections_can_be_dropped_during_requests(server: HTTPSServer, ca: CA) -> None:
    """Requests of eight threads succeed while connections are dropped again and again."""
    clients = [client(role(number), endpoint_url=server.url, verify=ca.bundle) for number in range(8)]
    done = threading.Event()

    def drop() -> None:
        while not done.is_set():
            _sessions.default_cache.connections.drop()

    dropping = threading.Thread(target=drop)
    dropping.start()
    try:
        with ThreadPoolExecutor(8) as threads:
            list(threads.map(lambda one: [one.list_buckets() for _ in range(10)], clients))
    finally:
        done.set()
        dropping.join()

    assert len(server.requests) == 80


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows doesn't fork")
@pytest.mark.parametrize("is_cleared", [True, False])
def test_a_forked_child_has_its_own_connections(
    is_cleared: bool, server: HTTPSServer, ca: CA, loads: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client in a module global reconnects in the child, and the parent keeps its connection."""
    made = client(endpoint_url=server.url, verify=ca.bundle)
    made.list_buckets()
    if not is_cleared:
        # As for a client of a cache that the hook doesn't know.
        monkeypatch.setattr(_sessions, "default_cache", _sessions.new_cache())

    def succeeds() -> bool:
        for _ in range(3):
            made.list_buckets()
        return loads == [ca.bundle]

    assert all(holds_in_a_fork(succeeds) for _ in range(2))
    made.list_buckets()
    assert server.order == [0, 1, 1, 1, 2, 2, 2, 0]


def test_another_process_has_its_own_connections(server: HTTPSServer, ca: CA, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before each request, a client looks which process it is in, in case that no hook ran after a fork."""
    made = client(endpoint_url=server.url, verify=ca.bundle)
    made.list_buckets()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    for _ in range(2):
        made.list_buckets()
    monkeypatch.undo()
    made.list_buckets()

    assert server.order == [0, 1, 1, 2]


def test_a_child_has_its_own_lock() -> None:
    """The hook after a fork replaces the lock, which another thread of the parent may have locked."""
    pools = ConnectionPools()
    pools._lock.acquire()
    thread = threading.Thread(target=pools.after_fork)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows doesn't fork")
def test_a_fork_during_a_handshake(server: HTTPSServer, ca: CA) -> None:
    """If a thread is connecting at the time of a fork, the child uses a new TLS context, and its locks are free."""
    made = client(endpoint_url=server.url, verify=ca.bundle)
    made.list_buckets()
    session = made._endpoint.http_session
    context = session._manager.connection_pool_kw["ssl_context"]
    with socket.create_server(("127.0.0.1", 0)) as silent, socket.create_connection(silent.getsockname()) as client_end:
        # Nobody answers this handshake.
        thread = threading.Thread(target=_handshake, args=(context, client_end))
        thread.start()
        until(lambda: context._users)

        def is_replaced() -> bool:
            made.list_buckets()
            first = session._manager.connection_pool_kw["ssl_context"]
            _drop_all()
            return first is not context and first is session._manager.connection_pool_kw["ssl_context"]

        replaced = holds_in_a_fork(is_replaced)
        _drop_all()
        kept = session._manager.connection_pool_kw["ssl_context"]
        silent.accept()[0].close()
        thread.join()

    assert replaced
    assert kept is context
    assert not context._users


def _handshake(context: ssl.SSLContext, end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        context.wrap_socket(end, server_hostname="localhost")


# Many hosts, threads, and bytes that nobody asked for.


@pytest.fixture
def hosts(plain_server: HTTPSServer, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, int], Any]:
    """Make a request of the role to a host of its own for each bucket."""
    resolve = socket.getaddrinfo

    def to_loopback(host: str, *args: Any, **kwargs: Any) -> Any:
        return resolve("127.0.0.1" if host.endswith(".test") else host, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", to_loopback)
    url = plain_server.url.replace("127.0.0.1", "s3.test")
    virtual = Config(s3={"addressing_style": "virtual"})

    def request(arn: str, number: int) -> Any:
        made = client(arn, endpoint_url=url, config=virtual)
        made.head_bucket(Bucket=f"bucket-{number}")
        return made

    return request


def test_connections_to_many_hosts_are_kept(hosts: Callable[[str, int], Any], plain_server: HTTPSServer) -> None:
    """50 buckets are 50 hosts, and no request opens a connection twice. urllib3 alone keeps those of 10 hosts."""
    for arn in (ROLE, OTHER_ROLE):
        for number in range(50):
            hosts(arn, number)

    assert len({request.host for request in plain_server.requests}) == 50
    assert plain_server.connections == 50


def test_hosts_are_bounded(hosts: Callable[[str, int], Any], plain_server: HTTPSServer) -> None:
    """Connections of 64 hosts are kept, which also bounds them for services with one host per account."""
    for number in range(80):
        made = hosts(role(number), number)

    assert len(made._endpoint.http_session._manager.pools) == 64
    until(lambda: len(plain_server.open) <= 64)


def test_fifty_threads_fit_into_a_pool(server: HTTPSServer, ca: CA, caplog: pytest.LogCaptureFixture) -> None:
    """50 roles in 50 threads keep all their connections, so urllib3 warns of no full pool."""
    clients = [client(role(number), endpoint_url=server.url, verify=ca.bundle) for number in range(50)]
    server.together = threading.Barrier(50)
    try:
        with ThreadPoolExecutor(50) as threads:
            for _ in range(2):
                list(threads.map(lambda one: one.list_buckets(), clients))
    finally:
        server.together = None

    assert server.connections == 50
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_an_unread_answer_is_not_another_roles(ca: CA) -> None:
    """If a server answers twice, the second answer isn't taken for the answer to another role's request."""
    with answering_twice(ca.issue("twice")) as url:
        reader, other = (client(arn, endpoint_url=url, verify=ca.bundle) for arn in (ROLE, OTHER_ROLE))
        # urllib3 reads 8 KiB at a time. Around that size, OpenSSL has already decrypted what urllib3 hasn't read.
        for size in range(8160, 8225):
            for one in (reader, other):
                body = one.get_object(Bucket="b", Key=str(size))["Body"].read()
                assert set(body) == {ord("1")}


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no timers that signal")
def test_signal_handlers_that_raise(tmp_path: Path) -> None:
    """After exceptions in signal handlers in the midst of requests, the clients of all roles still work."""
    script = Path(__file__).with_name("signal_aborts.py")
    environment = os.environ | {"PYTHONPATH": str(script.parent)}
    command = [sys.executable, str(script), str(tmp_path)]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    assert output.stdout == "usable\n", output.stderr


def test_the_stack_is_a_queue() -> None:
    """The stack returns the connection used last, and raises what urllib3 expects of a queue."""
    stack = _urllib3_pools._Stack(2)
    stack.put("older", block=False)
    stack.put("newer", block=False)
    with pytest.raises(queue.Full):
        stack.put("one too many", block=False)
    assert stack.qsize() == 2

    assert [stack.get(block=False, timeout=1), stack.get()] == ["newer", "older"]
    with pytest.raises(queue.Empty):
        stack.get(block=False)


# Proxies.


def test_roles_share_a_tunnel(server: HTTPSServer, ca: CA) -> None:
    """Behind an HTTP proxy, two roles use one tunnel, and the trust store is loaded once for both."""
    with proxy_server() as proxy:
        config = Config(proxies={"https": proxy.url})
        for arn in (ROLE, OTHER_ROLE):
            client(arn, endpoint_url=server.url, verify=ca.bundle, config=config).list_buckets()

        assert len(proxy.tunnels) == 1
    assert server.connections == 1


def test_the_proxys_ca_is_not_trusted_for_targets(server: HTTPSServer, ca: CA) -> None:
    """A CA that you trust for the proxy isn't trusted for the service behind it."""
    with proxy_server() as proxy:
        trusting = Config(proxies={"https": proxy.url}, proxies_config={"proxy_ca_bundle": ca.bundle})
        with pytest.raises(BotoCoreError, match="CERTIFICATE_VERIFY_FAILED"):
            client(endpoint_url=server.url, verify=certifi.where(), config=trusting).list_buckets()
        client(endpoint_url=server.url, verify=ca.bundle, config=trusting).list_buckets()
        for config in (trusting, Config(proxies={"https": proxy.url}), Config()):
            with pytest.raises(BotoCoreError, match="CERTIFICATE_VERIFY_FAILED"):
                client(OTHER_ROLE, endpoint_url=server.url, verify=certifi.where(), config=config).list_buckets()


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_https_proxies_work_as_in_botocore(
    server: HTTPSServer, plain_server: HTTPSServer, ca: CA, tmp_path: Path, debug_log: Callable[[], list[str]]
) -> None:
    """Clients behind an HTTPS proxy have their own connections: for http addresses, they don't verify the proxy."""
    proxy_ca = CA(tmp_path, "proxy-ca")
    with proxy_server(proxy_ca.issue("proxy")) as proxy:
        config = Config(
            proxies={"http": proxy.url, "https": proxy.url}, proxies_config={"proxy_ca_bundle": proxy_ca.bundle}
        )
        client(endpoint_url=plain_server.url, config=config).list_buckets()
        made = client(endpoint_url=server.url, verify=ca.bundle, config=config)
        made.list_buckets()

        assert len(proxy.forwarded) == len(proxy.tunnels) == 1
        assert type(made._endpoint.http_session) is URLLib3Session
    assert debug_log() == ["S3 keeps its own connections: it uses an HTTPS proxy"] * 2
