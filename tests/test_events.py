"""Roles and options that an event decides, hostile events above all."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import re
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator
from conftest import ROLE, Clock, FakeSTS, holds_in_a_fork, until
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted_sts import ScriptedSTS

from xacct_lambda import _sessions, assume_role, assumed_session, cache_clear, cache_info, cache_resize
from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda._decorator import AssumeRoleOptions
from xacct_lambda._sessions import SessionCache
from xacct_lambda.events import api_caller_account, event_field, eventbridge_account, role_for, tenant_id
from xacct_lambda.exceptions import ConfigurationError

CONTEXT = SimpleNamespace(tenant_id="blue")
PATTERN = "arn:aws:iam::222222222222:role/tenant/*"
REST = {"requestContext": {"accountId": "111111111111", "identity": {"accountId": "333333333333"}}}
STS_MODEL = get_session().get_service_model("sts").operation_model("AssumeRole").input_shape
HTTP = {"requestContext": {"accountId": "111111111111", "authorizer": {"iam": {"accountId": "444444444444"}}}}


@pytest.mark.parametrize(
    ("reader", "event", "expected"),
    [
        (lambda: event_field("tenant"), {"tenant": "blue"}, "blue"),
        (lambda: event_field("detail.tenant.id"), {"detail": {"tenant": {"id": "blue-7"}}}, "blue-7"),
        (lambda: tenant_id(), {}, "blue"),
        (lambda: eventbridge_account(), {"account": "222222222222"}, "222222222222"),
        (lambda: api_caller_account(), REST, "333333333333"),
        (lambda: api_caller_account(), HTTP, "444444444444"),
    ],
)
def test_the_common_places(reader: Any, event: Any, expected: str) -> None:
    """Each helper reads its place, for functions and for methods, whose first argument is the object."""
    read = reader()

    assert read(event, CONTEXT) == expected
    assert read("self", event, CONTEXT) == expected


def test_the_tenant_of_a_durable_function() -> None:
    """A durable context holds the usual one."""
    context = SimpleNamespace(lambda_context=CONTEXT)

    assert tenant_id()({}, context) == "blue"
    assert tenant_id()("self", {}, context) == "blue"


@pytest.mark.parametrize(
    ("reader", "event", "context"),
    [
        (lambda: event_field("tenant"), {}, None),
        (lambda: event_field("tenant"), None, None),
        (lambda: event_field("tenant"), {"tenant": 7}, None),
        (lambda: event_field("tenant"), {"tenant": ""}, None),
        (lambda: event_field("tenant"), {"tenant": "a/b"}, None),
        (lambda: event_field("tenant"), {"tenant": "../Admin"}, None),
        (lambda: event_field("tenant"), {"tenant": "a:b"}, None),
        (lambda: event_field("tenant"), {"tenant": "*"}, None),
        (lambda: event_field("tenant"), {"tenant": "blue\n"}, None),
        (lambda: event_field("tenant"), {"tenant": "２２２"}, None),  # noqa: RUF001 - full-width digits are the point
        (lambda: event_field("detail.tenant"), {"detail": ["tenant"]}, None),
        (lambda: tenant_id(), {}, SimpleNamespace()),
        (lambda: tenant_id(), {}, None),
        (lambda: eventbridge_account(), {"account": "2222"}, None),
        (lambda: eventbridge_account(), {"account": 222222222222}, None),
        (lambda: eventbridge_account(), {"account": "２２２２２２２２２２２２"}, None),  # noqa: RUF001 - the same
        (lambda: api_caller_account(), {"requestContext": {"accountId": "111111111111"}}, None),
        (lambda: api_caller_account(), {"requestContext": REST["requestContext"] | HTTP["requestContext"]}, None),
    ],
)
def test_what_is_not_there_or_not_a_name(reader: Any, event: Any, context: Any) -> None:
    """A place that is empty, ambiguous or holds anything but a name is refused, and its value not repeated."""
    with pytest.raises(ConfigurationError) as caught:
        reader()(event, context)

    assert caught.value.argument == "event"
    assert "Admin" not in str(caught.value)


def test_a_role_of_several_values() -> None:
    """A template takes values from several places."""
    role = role_for("arn:aws:iam::{account}:role/tenant/{tenant}", account=eventbridge_account(), tenant=tenant_id())

    assert role({"account": "222222222222"}, CONTEXT) == "arn:aws:iam::222222222222:role/tenant/blue"


def test_values_of_ones_own_are_checked_too() -> None:
    """What a callable of the user's own returns cannot leave its place in the ARN."""
    role = role_for("arn:aws:iam::222222222222:role/tenant/{tenant}", tenant=lambda event, context: event["path"])

    with pytest.raises(ConfigurationError):
        role({"path": "blue/../../Admin"}, CONTEXT)


def test_a_string_that_formats_itself_is_taken_by_its_characters() -> None:
    """A subclass of ``str`` reaches the ARN by its checked characters, not by its own ``__format__``."""

    class Shifty(str):
        __slots__ = ()

        def __format__(self, spec: str) -> str:
            return "blue/../../Admin"

    role = role_for("arn:aws:iam::222222222222:role/tenant/{tenant}", tenant=event_field("tenant"))

    assert role({"tenant": Shifty("blue")}, CONTEXT) == "arn:aws:iam::222222222222:role/tenant/blue"


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("arn:aws:iam::{account}:role/Reader", {}),
        ("arn:aws:iam::222222222222:role/Reader", {"tenant": tenant_id()}),
        ("arn:aws:s3:::{bucket}", {"bucket": tenant_id()}),
        ("arn:aws:iam::222222222222:role/{tenant", {"tenant": tenant_id()}),
        ("arn:aws:iam::222222222222:role/{tenant!r}", {"tenant": tenant_id()}),
        ("arn:aws:iam::222222222222:role/{tenant:>9}", {"tenant": tenant_id()}),
        ("arn:aws:iam::222222222222:role/{tenant}", {"tenant": "blue"}),
        (7, {}),
    ],
)
def test_templates_are_checked_at_decoration(template: str, values: Any) -> None:
    """A template that yields no role ARN, or whose names have no callables, fails the init phase."""
    with pytest.raises(ConfigurationError):
        role_for(template, **values)


def test_events_need_not_be_dictionaries() -> None:
    """A field is read off any mapping, such as the data classes of Powertools, as off a dictionary."""
    event = MappingProxyType({"detail": MappingProxyType({"tenant": "blue"})})

    assert event_field("detail.tenant")(event, None) == "blue"


@pytest.mark.parametrize("path", ["", "detail..tenant", "detail.", 7, None])
def test_paths_are_checked_at_decoration(path: Any) -> None:
    """A path with an empty key, or that is no string, fails the init phase."""
    with pytest.raises(ConfigurationError, match="with dots between them") as caught:
        event_field(path)
    assert caught.value.argument == "path"


# --- Fuzzing ----------------------------------------------------------------------------------------------------------

hostile_texts = st.text() | st.sampled_from(
    [
        "arn:aws:iam::333333333333:role/tenant/a",
        "../../Admin",
        "a/../../Admin",
        "*",
        "**",
        "a\n",
        "a\x00",
        "２",  # noqa: RUF001 - a full-width digit is the point
        "a:role/tenant/b",
        "{tenant}",
        "%2e%2e%2f",
        " ",
    ]
)
hostile_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | hostile_texts | st.binary(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(hostile_texts | st.just("tenant"), inner, max_size=3),
    max_leaves=5,
)
places = st.fixed_dictionaries(
    {
        "tenant": hostile_values,
        "account": hostile_values,
        "requestContext": hostile_values
        | st.fixed_dictionaries({"identity": st.fixed_dictionaries({"accountId": hostile_values})})
        | st.fixed_dictionaries(
            {"authorizer": st.fixed_dictionaries({"iam": st.fixed_dictionaries({"accountId": hostile_values})})}
        ),
    }
)
hostile_events = hostile_values | places
hostile_contexts = hostile_values | st.builds(SimpleNamespace, tenant_id=hostile_values)
fuzzing = settings(max_examples=int(os.environ.get("FUZZ_EXAMPLES", "100")), deadline=None)

ALLOWED = re.compile(r"arn:aws:iam::222222222222:role/tenant/[^/]+")
NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{1,128}")
READERS: dict[str, Callable[[], Any]] = {
    "event_field": lambda: event_field("tenant"),
    "tenant_id": tenant_id,
    "eventbridge_account": eventbridge_account,
    "api_caller_account": api_caller_account,
}
ROLES: dict[str, Callable[[], Any]] = {
    "the event": lambda: lambda event, context: event,
    "a field": lambda: lambda event, context: event["tenant"],
    "into the name": lambda: lambda event, context: f"arn:aws:iam::222222222222:role/tenant/{event['tenant']}",
    "into the account": lambda: lambda event, context: f"arn:aws:iam::{event['tenant']}:role/tenant/a",
    **{
        f"role_for, {place} of {name}": partial(lambda template, read: role_for(template, x=read()), template, read)
        for name, read in READERS.items()
        for place, template in {
            "name": "arn:aws:iam::222222222222:role/tenant/{x}",
            "account": "arn:aws:iam::{x}:role/tenant/a",
        }.items()
    },
}


class Recorder:
    """A state that records which requests reach it and makes nothing."""

    epoch = object()

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def default_source(self) -> None: ...

    def session(self, _source: Any, request: Any, **_: Any) -> None:
        self.requests.append(request)


@contextmanager
def recorded() -> Iterator[list[Any]]:
    """Yield the requests for which sessions are asked meanwhile."""
    recorder = Recorder()
    original, _sessions.default_cache = _sessions.default_cache, recorder
    try:
        yield recorder.requests
    finally:
        _sessions.default_cache = original


@pytest.mark.parametrize("reader", READERS.values(), ids=list(READERS))
def test_a_reader_gives_a_name_or_refuses(reader: Any) -> None:
    """Whatever event and context hold, what a helper returns is a name of IAM's letters; anything else it refuses."""
    read = reader()

    @fuzzing
    @given(hostile_events, hostile_contexts)
    def attack(event: Any, context: Any) -> None:
        with suppress(ConfigurationError):
            assert NAME.fullmatch(read(event, context))

    attack()


@pytest.mark.parametrize("role", ROLES.values(), ids=list(ROLES))
def test_no_event_leads_out_of_the_allowed_roles(role: Any) -> None:
    """Whatever an event holds, the only role that is ever assumed is one that matches; anything else raises."""

    @assume_role(role(), session="session", allowed_roles=[PATTERN])
    def handler(event, context, *, session):
        return True

    @fuzzing
    @given(hostile_events, hostile_contexts)
    def attack(event: Any, context: Any) -> None:
        with recorded() as requests:
            try:
                handler(event, context)
            except (ConfigurationError, KeyError, TypeError, IndexError, AttributeError):
                # The last four are the user's own lambdas, at events without the field.
                assert requests == []
        assert all(ALLOWED.fullmatch(request.role_arn) for request in requests)

    attack()


@pytest.mark.parametrize("option", sorted(AssumeRoleOptions.__annotations__.keys() - {"source_session", "sts_config"}))
def test_no_event_makes_an_option_that_sts_would_misread(option: str) -> None:
    """Whatever an option is made of by an event, it is refused as that option, or botocore takes the request."""

    @assume_role(ROLE, session="session", **{option: lambda event, context: event})
    def handler(event, context, *, session):
        return True

    @fuzzing
    @given(hostile_values | st.dictionaries(hostile_texts, hostile_texts) | st.lists(hostile_texts))
    def attack(value: Any) -> None:
        with recorded() as requests:
            try:
                handler(value, None)
            except ConfigurationError as error:
                assert error.argument in {option, "policy"}  # noqa: PT017 - no error is as good
        for request in requests:
            parameters = {name: value for name, value in request.parameters().items() if name in STS_MODEL.members}
            assert not ParamValidator().validate(parameters, STS_MODEL).has_errors()
            assert request.role_arn == ROLE

    attack()


# --- Tenants ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def sts(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> FakeSTS:
    sts = FakeSTS(clock)
    cache = SessionCache(CredentialCache(sts, clock=clock, max_roles=5), max_sessions=5)
    monkeypatch.setattr(_sessions, "default_cache", cache)
    return sts


@assume_role(ROLE, session="session", tags=lambda event, context: {"tenant": event["tenant"]})
def of_tenant(event, context, *, session):
    return session


def tenant_of(session: Any) -> str:
    return dict(session._credentials._key.request.tags)["tenant"]


def test_no_tenant_gets_anothers_session_under_threads(sts: FakeSTS) -> None:
    """20 tenants in 16 threads through room for 5: each event gets a session with its own tenant's tags."""
    tenants = [str(number * 7 % 20) for number in range(500)]

    with ThreadPoolExecutor(16) as pool:
        sessions = pool.map(lambda tenant: of_tenant({"tenant": tenant}, None), tenants)
        assert [tenant_of(session) for session in sessions] == tenants


def test_no_tenant_gets_anothers_session_among_tasks(sts: FakeSTS) -> None:
    """Interleaved tasks of one event loop keep each its own tenant."""

    @assume_role(ROLE, session="session", tags=lambda event, context: {"tenant": event["tenant"]})
    async def handler(event, context, *, session):
        await asyncio.sleep(0)
        return tenant_of(session)

    async def all_tenants() -> list[str]:
        return await asyncio.gather(*(handler({"tenant": str(number)}, None) for number in range(50)))

    assert asyncio.run(all_tenants()) == [str(number) for number in range(50)]


@pytest.fixture
def tenant_of_token(sts: FakeSTS, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """For whom each session token was issued, as the STS that issued it knows."""
    issue = sts.assume_role
    issued: dict[str, str] = {}
    numbering = threading.Lock()

    def assume(source: Any, request: Any, config: Any, **options: Any) -> Any:
        with numbering:
            credentials = issue(source, request, config, **options)
        issued[credentials.frozen.token] = dict(request.tags)["tenant"]
        return credentials

    monkeypatch.setattr(sts, "assume_role", assume)
    return issued


@assume_role(ROLE, clients=["s3"], tags=lambda event, context: {"tenant": event["tenant"]})
def client_of_tenant(event, context, *, s3):
    return s3


def token_signed_with(client: Any) -> str:
    url = client.generate_presigned_url("get_object", {"Bucket": "orders", "Key": "1"})
    query = parse_qs(urlsplit(url).query)
    return query[next(name for name in query if name.lower() == "x-amz-security-token")][0]


def test_each_client_signs_as_its_own_tenant_under_threads(tenant_of_token: dict[str, str]) -> None:
    """12 tenants in 16 threads through room for 5: whatever is evicted, a request bears its tenant's token."""
    tenants = [str(number * 5 % 12) for number in range(120)]

    with ThreadPoolExecutor(16) as pool:
        tokens = pool.map(lambda tenant: token_signed_with(client_of_tenant({"tenant": tenant}, None)), tenants)
        assert [tenant_of_token[token] for token in tokens] == tenants


def test_each_client_signs_as_its_own_tenant_among_tasks(tenant_of_token: dict[str, str]) -> None:
    """A task that waits between two requests, while clients are evicted and made, signs both as its own tenant."""

    @assume_role(ROLE, clients=["s3"], tags=lambda event, context: {"tenant": event["tenant"]})
    async def handler(event, context, *, s3):
        first = token_signed_with(s3)
        await asyncio.sleep(0)
        second = await asyncio.to_thread(token_signed_with, s3)
        return {tenant_of_token[first], tenant_of_token[second]}

    async def all_tenants() -> list[set[str]]:
        return await asyncio.gather(*(handler({"tenant": str(number)}, None) for number in range(30)))

    assert asyncio.run(all_tenants()) == [{str(number)} for number in range(30)]


def test_each_client_signs_as_its_own_tenant_after_it_was_evicted(
    tenant_of_token: dict[str, str], clock: Clock
) -> None:
    """Clients that are kept while their sessions make room sign as their own tenant, renewals included."""
    clients = {str(number): client_of_tenant({"tenant": str(number)}, None) for number in range(12)}

    for _ in range(3):
        assert all(tenant_of_token[token_signed_with(client)] == tenant for tenant, client in clients.items())
        clock.advance(3000)


def test_each_client_signs_as_its_own_tenant_while_the_cache_is_cleared(tenant_of_token: dict[str, str]) -> None:
    """Clearing and resizing in the middle of events costs calls, and gives no tenant another's client."""
    tenants = [str(number * 5 % 12) for number in range(120)]

    def event(number: int) -> str:
        if number % 10 == 0:
            cache_clear()
        if number % 25 == 0:
            cache_resize(max_roles=3, max_sessions=3)
        return token_signed_with(client_of_tenant({"tenant": tenants[number]}, None))

    with ThreadPoolExecutor(16) as pool:
        assert [tenant_of_token[token] for token in pool.map(event, range(120))] == tenants


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Windows does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # of forking with threads, which is the point
def test_each_client_signs_as_its_own_tenant_after_a_fork(tenant_of_token: dict[str, str]) -> None:
    """A child that is forked in the middle of other threads' events is not stuck, and signs as the tenant it is for."""
    stop = threading.Event()
    at_work: set[int] = set()

    def busy(number: int) -> None:
        while not stop.is_set():
            client_of_tenant({"tenant": str(number)}, None)
            at_work.add(number)

    with ThreadPoolExecutor(4) as pool:
        threads = [pool.submit(busy, number) for number in range(4)]
        try:
            until(lambda: len(at_work) == 4)
            found = [
                holds_in_a_fork(
                    lambda: tenant_of_token[token_signed_with(client_of_tenant({"tenant": "9"}, None))] == "9"
                )
                for _ in range(5)
            ]
        finally:
            stop.set()

    assert all(found)
    assert [thread.result() for thread in threads] == [None] * 4


def test_evicted_sessions_are_freed_at_once() -> None:
    """A session that makes room is freed with its clients by reference counting, without waiting for the collector."""
    cache_resize(max_sessions=5)
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    gc.collect()
    gc.disable()
    try:
        for number in range(30):
            session = assumed_session(ROLE, tags={"tenant": str(number)})
            alive.add(session)
            session.client("s3")
            del session
        assert len(alive) == cache_info().sessions == 5
    finally:
        gc.enable()


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="counts open files as Linux shows them")
def test_evicted_sessions_release_their_connections(server: ScriptedSTS) -> None:
    """However many tenants pass, there are no more open connections than sessions in the bound."""
    cache_resize(max_sessions=5, max_roles=5)

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    counts = []
    for number in range(60):
        assumed_session(ROLE, tags={"tenant": str(number)}).client("sts").get_caller_identity()
        counts.append(open_files())

    assert max(counts[10:]) <= counts[10] + 2, "both ends of a connection are in this process"


def test_a_client_in_use_after_eviction_keeps_working(server: ScriptedSTS) -> None:
    """A client that somebody holds goes on working after its session made room, credentials included."""
    cache_resize(max_sessions=1, max_roles=1)
    client = assumed_session(ROLE, tags={"tenant": "first"}).client("sts")
    client.get_caller_identity()
    assumed_session(ROLE, tags={"tenant": "second"}).client("sts").get_caller_identity()

    assert client.get_caller_identity()["Arn"]
    assert server.count("AssumeRole") == 3


@pytest.mark.parametrize("read", [event_field("tenant"), tenant_id(), eventbridge_account(), api_caller_account()])
def test_a_handler_called_without_an_event(read: Any) -> None:
    """A handler that is called without any argument is told that there is no event to read."""
    with pytest.raises(ConfigurationError, match="called without an event"):
        read()


def test_a_handler_of_the_event_only() -> None:
    """A handler of one argument, such as a record handler, has an event and no context."""
    assert event_field("tenant")({"tenant": "a"}) == "a"
    with pytest.raises(ConfigurationError, match="tenant_id is not there"):
        tenant_id()({"tenant": "a"})


class _Detail:
    tenant = "blue"


@dataclasses.dataclass
class _Order:
    detail: Any
    account: str = "222222222222"


@pytest.mark.parametrize(
    "event",
    [
        _Order(_Detail()),
        _Order({"tenant": "blue"}),
        {"detail": _Detail(), "account": "222222222222"},
        SimpleNamespace(detail=SimpleNamespace(tenant="blue"), account="222222222222"),
    ],
)
def test_events_that_are_objects(event: Any) -> None:
    """A field of a dataclass or of a model is an attribute, at any level."""
    assert event_field("detail.tenant")(event, None) == "blue"
    assert eventbridge_account()(event, None) == "222222222222"
    with pytest.raises(ConfigurationError, match=r"'detail\.region' is not there"):
        event_field("detail.region")(event, None)


def test_events_that_are_models_of_pydantic() -> None:
    """A field of a pydantic model is read below Powertools' ``event_parser``."""
    pydantic = pytest.importorskip("pydantic")
    model = pydantic.create_model("Order", tenant=(str, ...))

    assert event_field("tenant")(model(tenant="blue"), None) == "blue"


def test_a_method_is_no_field() -> None:
    """An attribute that is no text, such as a method of a string, is no name."""
    with pytest.raises(ConfigurationError, match="is not a name"):
        event_field("tenant.upper")({"tenant": "blue"}, None)
