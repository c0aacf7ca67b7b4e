"""The decorator: what it injects, what it refuses, and what is left of the handler."""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import logging
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from types import SimpleNamespace
from typing import Any
from unittest import mock

import boto3
import pytest
from conftest import OTHER_ROLE, ROLE, FakeSTS, outage, refusal, until

from xacct_lambda import _sessions, assume_role, assumed_session, cache_clear, cache_info
from xacct_lambda._assumed_credentials import AssumedRoleCredentials
from xacct_lambda._invocation import current_context, remaining_seconds
from xacct_lambda._options import AssumeRoleOptions
from xacct_lambda.events import event_field, role_for
from xacct_lambda.exceptions import ConfigurationError

EVENT: dict[str, Any] = {"role": ROLE, "tenant": "a"}
CONTEXT = SimpleNamespace(get_remaining_time_in_millis=lambda: 3000)


pytestmark = pytest.mark.usefixtures("_sts_is_fake")

# --- What is injected -------------------------------------------------------------------------------------------------


def test_clients_are_injected_by_the_names_of_their_services() -> None:
    """A list of services becomes keyword parameters; dashes and Python's keywords are written as Python can."""

    @assume_role(ROLE, clients=["s3", "cognito-idp", "lambda"])
    def handler(event, context, *, s3, cognito_idp, lambda_):
        return [client.meta.service_model.service_name for client in (s3, cognito_idp, lambda_)]

    assert handler(EVENT, CONTEXT) == ["s3", "cognito-idp", "lambda"]


def test_clients_under_other_names_and_with_arguments() -> None:
    """A mapping names the parameters, and may give each client arguments of its own."""

    @assume_role(ROLE, clients={"source": "s3", "archive": {"service_name": "s3", "region_name": "us-east-1"}})
    def handler(event, context, *, source, archive):
        return source.meta.region_name, archive.meta.region_name

    assert handler(EVENT, CONTEXT) == ("eu-west-1", "us-east-1")


def test_a_library_that_replaces_the_method_of_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients are injected also if a library has replaced ``Session.client`` by a function of any arguments."""
    create = boto3.Session.client
    monkeypatch.setattr(boto3.Session, "client", lambda self, *args, **kwargs: create(self, *args, **kwargs))

    @assume_role(ROLE, clients={"queues": {"service_name": "sqs", "region_name": "eu-west-3"}})
    def handler(event, context, *, queues):
        return queues.meta.region_name

    assert handler({}, None) == "eu-west-3"


def test_resources_and_the_session_are_injected() -> None:
    """Resources come like clients, and ``session`` names the parameter for the session itself."""

    @assume_role(ROLE, resources={"bucket_api": "s3"}, session="reader")
    def handler(event, context, *, bucket_api, reader):
        return bucket_api, reader

    resource, session = handler(EVENT, CONTEXT)
    assert resource.meta.service_name == "s3"
    assert session is assumed_session(ROLE)


def test_injected_clients_are_those_of_the_session() -> None:
    """Decorated functions that assume the same role share its session, and one client for each set of arguments."""

    @assume_role(ROLE, clients=["sqs"], tags={"a": "b"}, region_name="us-west-2")
    def handler(event, context, *, sqs):
        return sqs

    assert handler(EVENT, CONTEXT) is assumed_session(ROLE, tags={"a": "b"}, region_name="us-west-2").injected_client(
        service_name="sqs"
    )


def test_resources_are_reused_by_their_thread_alone() -> None:
    """A thread's events share a resource, which costs 10 ms; another thread gets its own."""

    @assume_role(ROLE, resources=["s3"])
    def handler(event, context, *, s3):
        return s3

    mine = handler(EVENT, CONTEXT)
    with ThreadPoolExecutor(1) as pool:
        theirs = pool.submit(handler, EVENT, CONTEXT).result()

    assert handler(EVENT, CONTEXT) is mine
    assert theirs is not mine


def test_event_context_and_result_pass_unchanged() -> None:
    """The handler gets the very event and context, further arguments too, and its result is returned as it is."""

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, more, *, sqs, option=None):
        return event, context, more, option

    result = handler(EVENT, CONTEXT, 3, option=4)

    assert result[0] is EVENT
    assert result[1] is CONTEXT
    assert result[2:] == (3, 4)


def test_exceptions_pass_unchanged() -> None:
    """What the handler raises reaches its caller as it is."""
    error = RuntimeError("the handler's own")

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, *, sqs):
        raise error

    with pytest.raises(RuntimeError) as caught:
        handler(EVENT, CONTEXT)
    assert caught.value is error
    assert current_context.get() is None


def test_decorators_stack() -> None:
    """Two decorators give one handler the clients of two roles."""

    @assume_role(ROLE, session="source")
    @assume_role(OTHER_ROLE, session="target")
    def handler(event, context, *, source, target):
        return source, target

    assert handler(EVENT, CONTEXT) == (assumed_session(ROLE), assumed_session(OTHER_ROLE))
    assert str(inspect.signature(handler)) == "(event, context)"


def test_a_warm_call_looks_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the second event on, a role that does not depend on the event is neither validated nor looked up."""

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, *, sqs):
        return sqs

    client = handler(EVENT, CONTEXT)
    monkeypatch.setattr(_sessions, "assumed_session", None)

    assert handler(EVENT, CONTEXT) is client


def test_a_cleared_cache_is_noticed() -> None:
    """After ``cache_clear`` the next event gets a new client."""

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, *, sqs):
        return sqs

    client = handler(EVENT, CONTEXT)
    cache_clear()

    assert handler(EVENT, CONTEXT) is not client


def test_another_default_session_is_noticed() -> None:
    """When boto3's default session is replaced, as moto does, the next event acts on behalf of the new one."""

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, *, sqs):
        return sqs

    client = handler(EVENT, CONTEXT)
    boto3.setup_default_session(region_name="us-east-1")

    assert handler(EVENT, CONTEXT).meta.region_name == "us-east-1"
    assert client.meta.region_name == "eu-west-1"


def test_a_default_session_that_is_replaced_meanwhile_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where boto3's default session is replaced just while clients are made, the next event looks up once more."""
    boto3.setup_default_session()
    real = _sessions.AssumedSession.client

    def client(self, *args, **kwargs):
        if self.region_name == "eu-west-1":
            boto3.setup_default_session(region_name="us-east-1")
        return real(self, *args, **kwargs)

    monkeypatch.setattr(_sessions.AssumedSession, "client", client)

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, *, sqs):
        return sqs.meta.region_name

    assert [handler(EVENT, CONTEXT) for _ in range(2)] == ["eu-west-1", "us-east-1"]


# --- What the caller passes -------------------------------------------------------------------------------------------


def test_a_caller_that_passes_all_assumes_no_role() -> None:
    """Where every injected keyword is passed, as a test does, no session is made and no role assumed."""

    @assume_role(ROLE, clients=["s3"], session="reader")
    def handler(event, context, *, s3, reader):
        return s3, reader

    assert handler(EVENT, CONTEXT, s3="stub", reader=None) == ("stub", None)
    assert cache_info() == (0, 0, 0, 0, 0, 0, 0)
    assert boto3.DEFAULT_SESSION is None


def test_a_caller_that_passes_some_gets_the_rest() -> None:
    """What the caller passes wins, what it leaves is injected."""

    @assume_role(ROLE, clients=["s3", "sqs"])
    def handler(event, context, *, s3, sqs):
        return s3, sqs

    s3, sqs = handler(EVENT, CONTEXT, s3="stub")

    assert s3 == "stub"
    assert sqs is assumed_session(ROLE).injected_client(service_name="sqs")


def test_the_context_may_be_passed_by_name() -> None:
    """Event and context may be keywords, as tests like to write them."""

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, *, sqs):
        return event, context

    assert handler(event=EVENT, context=CONTEXT) == (EVENT, CONTEXT)


# --- Kinds of handlers ------------------------------------------------------------------------------------------------


def test_methods() -> None:
    """A method is decorated in its class and called on its object."""

    class Handlers:
        name = "orders"

        @assume_role(ROLE, clients=["sqs"])
        def handle(self, event, context, *, sqs):
            return self.name, event

    assert Handlers().handle(EVENT, CONTEXT) == ("orders", EVENT)


def test_static_and_class_methods() -> None:
    """Below ``@classmethod`` and on either side of ``@staticmethod`` the decorator works."""

    class Handlers:
        @classmethod
        @assume_role(ROLE, clients=["sqs"])
        def of_class(cls, event, context, *, sqs):
            return cls

        @staticmethod
        @assume_role(ROLE, clients=["sqs"])
        def static(event, context, *, sqs):
            return event

    assert Handlers.of_class(EVENT, CONTEXT) is Handlers
    assert Handlers().static(EVENT, CONTEXT) is EVENT


def test_partials() -> None:
    """A partial is taken, and the result is named after its function."""

    def read(prefix, event, context, *, sqs):
        return prefix, event

    handler = assume_role(ROLE, clients=["sqs"])(functools.partial(read, "p"))

    assert handler(EVENT, CONTEXT) == ("p", EVENT)
    assert inspect.isfunction(handler)
    assert handler.__name__ == "read"


def test_callable_objects() -> None:
    """An object with ``__call__`` becomes a plain function, as other middleware wants one; its state stays its own."""

    class Handler:
        def __init__(self):
            self.state = "orders"

        kind = "orders"

        def __call__(self, event, context, *, sqs):
            return self.state, event

    handler = assume_role(ROLE, clients=["sqs"])(Handler())

    assert handler(EVENT, CONTEXT) == ("orders", EVENT)
    assert inspect.isfunction(handler)
    assert handler.__name__ == "Handler"
    assert not hasattr(handler, "state")
    assert not hasattr(handler, "kind")


def test_what_is_decorated_is_at_hand() -> None:
    """``__wrapped__`` is what was decorated, a partial as it is."""
    handler = functools.partial(takes_s3)

    assert assume_role(ROLE, clients=["s3"])(handler).__wrapped__ is handler


def test_a_callable_object_without_the_parameter() -> None:
    """An object that does not take what is injected is called by the name of its class."""

    class Handler:
        def __call__(self, event, context): ...

    with pytest.raises(ConfigurationError, match=r"^clients: Handler\(event, context\) has no parameter 's3'"):
        assume_role(ROLE, clients=["s3"])(Handler())


def test_the_context_of_a_method() -> None:
    """The context is the last of the positional arguments, a method's as a function's."""

    class Handlers:
        @assume_role(ROLE, session="session")
        def handle(self, event, context, *, session):
            return current_context.get()

        @assume_role(ROLE, session="session")
        async def handle_later(self, event, context, *, session):
            return current_context.get()

    assert Handlers().handle(EVENT, CONTEXT) is CONTEXT
    assert asyncio.run(Handlers().handle_later(EVENT, CONTEXT)) is CONTEXT


def test_further_parameters() -> None:
    """Parameters of ``extra`` are those of the session that is injected."""

    @assume_role(ROLE, session="session", extra={"Future": ["x"]})
    def handler(event, context, *, session):
        return session

    assert handler(EVENT, CONTEXT) is assumed_session(ROLE, extra={"Future": ["x"]})


@pytest.mark.parametrize("kind", ["function", "object", "partial"])
def test_async_handlers(kind: str) -> None:
    """An ``async def`` handler stays one, and sees its invocation while it runs."""

    async def function(event, context, *, sqs):
        await asyncio.sleep(0)
        return event, current_context.get()

    class Handler:
        async def __call__(self, event, context, *, sqs):
            return await function(event, context, sqs=sqs)

    original: Any = {"function": function, "object": Handler(), "partial": functools.partial(function)}[kind]
    handler = assume_role(ROLE, clients=["sqs"])(original)

    assert inspect.iscoroutinefunction(handler)
    assert asyncio.run(handler(EVENT, CONTEXT)) == (EVENT, CONTEXT)
    assert current_context.get() is None


def test_a_plain_function_is_returned_with_its_name_and_notes() -> None:
    """Name, docstring, module and attributes of the handler stay; its signature loses what is injected."""

    def handler(event: dict[str, str], context: object, *, sqs: Any, option: int = 1) -> str:
        """Read orders."""
        return ""

    handler.note = "kept"
    decorated: Any = assume_role(ROLE, clients=["sqs"])(handler)

    assert inspect.isfunction(decorated)
    assert (decorated.__name__, decorated.__doc__, decorated.__module__) == ("handler", "Read orders.", __name__)
    assert decorated.note == "kept"
    assert decorated.__wrapped__ is handler
    assert list(inspect.signature(decorated).parameters) == ["event", "context", "option"]
    assert inspect.signature(decorated).return_annotation is str


def test_the_invocation_is_known_while_the_handler_runs() -> None:
    """The Lambda context is at hand for as long as the handler runs, for the time that is left; not afterwards."""

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, *, sqs):
        return current_context.get()

    assert handler(EVENT, CONTEXT) is CONTEXT
    assert current_context.get() is None


# --- Mistakes ---------------------------------------------------------------------------------------------------------


def takes_s3(event, context, *, s3):
    return s3


def test_a_name_injected_by_two_decorators() -> None:
    """Two decorators that inject one name are told so, even where the handler takes any keyword."""

    @assume_role(ROLE, clients=["s3"])
    def handler(event, context, **clients):
        return clients

    with pytest.raises(ConfigurationError, match=r"'s3' is injected twice into .*handler"):
        assume_role(OTHER_ROLE, clients=["s3"])(handler)
    with pytest.raises(ConfigurationError, match="'s3' is injected twice"):
        assume_role(OTHER_ROLE, clients=["s3"])(assume_role(ROLE, clients=["s3"])(takes_s3))


def test_handlers_that_take_any_keyword() -> None:
    """A handler with ``**keywords`` takes whatever is injected."""

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, **clients):
        return list(clients)

    assert handler(EVENT, CONTEXT) == ["sqs"]


def positional_only(s3, event, context, /):
    return s3


def before_the_event(s3, event, context):
    return s3


def before_more(event, context, s3, *more):
    return s3


@pytest.mark.parametrize("handler", [positional_only, before_the_event, before_more])
def test_a_parameter_that_cannot_be_passed_by_name(handler: Any) -> None:
    """A parameter that the event would fill by position, or that takes no keyword, is refused at decoration."""
    with pytest.raises(ConfigurationError, match=r"put it after a \*"):
        assume_role(ROLE, clients=["s3"])(handler)


def test_a_parameter_after_the_context_needs_no_star() -> None:
    """``(event, context, s3)`` works as well as ``(event, context, *, s3)``."""

    @assume_role(ROLE, clients=["s3", "sqs"])
    def handler(event, context, s3, sqs=None):
        return s3, sqs

    assert handler(EVENT, CONTEXT) == tuple(
        assumed_session(ROLE).injected_client(service_name=name) for name in ("s3", "sqs")
    )


def test_what_is_decorated_can_be_called() -> None:
    """Decorating a ``classmethod`` object, or no function at all, says what to do."""
    with pytest.raises(ConfigurationError, match=r"a classmethod cannot be called\. Decorate the function below it"):
        assume_role(ROLE, clients=["s3"])(classmethod(takes_s3))


def test_decorating_needs_no_credentials_and_no_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing a decorated handler makes no session: no profile is looked for, no default session left behind."""
    monkeypatch.setenv("AWS_PROFILE", "not-there")

    assume_role(ROLE, clients=["s3"])(takes_s3)

    assert boto3.DEFAULT_SESSION is None


def test_services_of_the_source_sessions_own_data_path(tmp_path: Any) -> None:
    """A service model that only the source session's loader knows may be injected."""
    source = boto3.Session()
    model = tmp_path / "novelty" / "2026-01-01"
    model.mkdir(parents=True)
    (model / "service-2.json").write_text("{}")
    source._loader.search_paths.append(str(tmp_path))

    def handler(event, context, *, novelty):
        return novelty

    assert assume_role(ROLE, clients=["novelty"], source_session=source)(handler)


def test_the_options_are_those_of_assumed_session() -> None:
    """The decorator's options are the arguments of ``assumed_session``, no more and no fewer."""
    assert set(AssumeRoleOptions.__annotations__) == set(inspect.signature(assumed_session).parameters) - {"role_arn"}


# --- Roles and options of the event -----------------------------------------------------------------------------------


def test_a_role_of_the_event() -> None:
    """A callable role is asked with the handler's positional arguments, at every event."""

    @assume_role(lambda event, context: event["role"], session="session", allowed_roles=[ROLE, OTHER_ROLE])
    def handler(event, context, *, session):
        return session

    assert handler({"role": ROLE}, CONTEXT) is assumed_session(ROLE)
    assert handler({"role": OTHER_ROLE}, CONTEXT) is assumed_session(OTHER_ROLE)


def test_options_of_the_event() -> None:
    """Any option of the request may be a callable too: here each tenant has its tags and its external ID."""

    @assume_role(
        ROLE,
        session="session",
        external_id=lambda event, context: f"id-of-{event['tenant']}",
        tags=lambda event, context: {"tenant": event["tenant"]},
        transitive_tag_keys=["tenant"],
        duration_seconds=lambda event, context: 900,
        min_ttl_seconds=600,
    )
    def handler(event, context, *, session):
        return session

    expected = {"duration_seconds": 900, "transitive_tag_keys": ["tenant"], "min_ttl_seconds": 600}
    for tenant in ("a", "b"):
        assert handler({"tenant": tenant}, CONTEXT) is assumed_session(
            ROLE, external_id=f"id-of-{tenant}", tags={"tenant": tenant}, **expected
        )


def test_a_callable_of_a_method_gets_its_object() -> None:
    """On a method the positional arguments begin with ``self``."""

    class Handlers:
        role = ROLE

        @assume_role(lambda self, event, context: self.role, session="session", allowed_roles=[ROLE])
        def handle(self, event, context, *, session):
            return session

    assert Handlers().handle(EVENT, CONTEXT) is assumed_session(ROLE)


def test_a_duration_of_the_event_leaves_the_least_life_to_the_event() -> None:
    """How long credentials have to live is checked against the duration, which may depend on the event."""

    @assume_role(ROLE, session="session", duration_seconds=lambda event, context: event["s"], min_ttl_seconds=5000)
    def handler(event, context, *, session):
        return session

    assert handler({"s": 7200}, CONTEXT) is assumed_session(ROLE, duration_seconds=7200, min_ttl_seconds=5000)
    with pytest.raises(ConfigurationError, match="5000 is not within 0 to 3540"):
        handler({"s": 3600}, CONTEXT)


def test_options_stay_as_they_were_checked() -> None:
    """A generator is not empty at the second event, nor does a policy change with the mapping it was taken from."""
    policy = {"Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}

    @assume_role(
        ROLE,
        session="session",
        tags=lambda event, context: {"tenant": event["tenant"]},
        policy=policy,
        policy_arns=(arn for arn in ["arn:aws:iam::aws:policy/ReadOnlyAccess"]),
        transitive_tag_keys=(key for key in ["tenant"]),
    )
    def handler(event, context, *, session):
        return session._credentials._key.request

    policy["Statement"].clear()

    for tenant in "ab":
        request = handler({"tenant": tenant}, CONTEXT)
        assert request.policy == '{"Statement":[{"Action":"*","Effect":"Deny","Resource":"*"}]}'
        assert request.policy_arns == ("arn:aws:iam::aws:policy/ReadOnlyAccess",)
        assert request.transitive_tag_keys == ("tenant",)


def test_a_role_that_is_not_allowed_is_not_assumed(sts: FakeSTS) -> None:
    """A role outside ``allowed_roles`` raises before anything is cached or called."""

    @assume_role(lambda event, context: event["role"], clients=["s3"], allowed_roles=[ROLE])
    def handler(event, context, *, s3):
        return s3

    with pytest.raises(ConfigurationError, match="not among allowed_roles"):
        handler({"role": OTHER_ROLE}, CONTEXT)

    assert cache_info().sessions == sts.calls == 0
    assert boto3.DEFAULT_SESSION is None


def test_an_option_of_the_event_is_validated() -> None:
    """An external ID from an event goes through validation like any other."""

    @assume_role(ROLE, clients=["s3"], external_id=lambda event, context: event["id"])
    def handler(event, context, *, s3):
        return s3

    with pytest.raises(ConfigurationError, match="external_id"):
        handler({"id": "two words"}, CONTEXT)
    assert cache_info().sessions == 0


@pytest.mark.parametrize("role_arn", [None, 3, {"role": ROLE}, [ROLE], b"arn:aws:iam::222222222222:role/tenant/a"])
def test_events_that_name_no_role(role_arn: Any) -> None:
    """An event that yields something else than a string is refused like a wrong ARN."""

    @assume_role(lambda event, context: event, session="session", allowed_roles=["arn:aws:iam::222222222222:role/**"])
    def handler(event, context, *, session):
        return True

    with pytest.raises(ConfigurationError, match="is not the ARN of a role"):
        handler(role_arn, CONTEXT)


# --- The init phase ---------------------------------------------------------------------------------------------------


@pytest.fixture
def in_lambda(monkeypatch: pytest.MonkeyPatch) -> Any:
    def initialise_as(kind: str) -> None:
        monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", kind)

    return initialise_as


def finish_prefetching() -> None:
    for thread in threading.enumerate():
        if thread.name == "xacct_lambda-assume-role":
            thread.join(60)
            assert not thread.is_alive()


@pytest.mark.parametrize(
    ("kind", "prefetch", "prepared", "calls"),
    [
        ("on-demand", None, 1, 1),
        ("on-demand", False, 0, 0),
        ("on-demand", True, 1, 1),
        ("provisioned-concurrency", None, 1, 0),
        ("provisioned-concurrency", False, 0, 0),
        ("provisioned-concurrency", True, 1, 1),
        ("lambda-managed-instances", None, 1, 0),
        ("lambda-managed-instances", True, 1, 1),
        ("a type of next year", None, 1, 0),
        ("a type of next year", True, 1, 1),
        ("snap-start", None, 1, 0),
        ("snap-start", False, 0, 0),
        ("snap-start", True, 1, 0),
    ],
)
def test_the_init_phase(
    in_lambda: Any, sts: FakeSTS, kind: str, prefetch: bool | None, prepared: int, calls: int
) -> None:
    """Inside Lambda, decoration creates all clients. AssumeRole is called if an event waits, or on request."""
    in_lambda(kind)
    holds_up_the_end: list[bool] = []
    sts.during_request = lambda: holds_up_the_end.append(not threading.current_thread().daemon)

    assume_role(ROLE, clients=["s3"], prefetch=prefetch)(takes_s3)
    finish_prefetching()

    assert (cache_info().clients, len(sts.prepared), sts.calls) == (prepared, prepared, calls)
    assert not any(holds_up_the_end), "a process that ends does not wait for STS"


@pytest.mark.parametrize("step", ["prepare", "prefetch"])
def test_a_failure_to_call_sts_in_init_is_logged(
    in_lambda: Any, sts: FakeSTS, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """If init can't create the STS client or start the call, it creates the other clients and logs one WARNING."""
    in_lambda("on-demand")

    def fail(*_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(AssumedRoleCredentials, step, fail)
    handler = assume_role(ROLE, clients=["s3"])(takes_s3)

    assert cache_info().clients == 1
    assert [(record.levelname, record.name) for record in caplog.records] == [("WARNING", "xacct_lambda._init_phase")]
    assert caplog.messages[0].startswith(
        "Could not prepare the AssumeRole call in the init phase. The first event tries again. "
    )
    assert handler(EVENT, CONTEXT) is assumed_session(ROLE).injected_client(service_name="s3")


def test_an_interrupt_of_the_init_phase_is_raised(in_lambda: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Init logs errors only. An exception that ends the process passes."""
    in_lambda("on-demand")

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AssumedRoleCredentials, "prepare", interrupt)

    with pytest.raises(KeyboardInterrupt):
        assume_role(ROLE, clients=["s3"])(takes_s3)


@pytest.mark.parametrize("prefetch", [None, True, False])
def test_outside_lambda_all_is_lazy(sts: FakeSTS, prefetch: bool | None) -> None:
    """Outside Lambda, decorating makes nothing, whatever ``prefetch`` says."""
    assume_role(ROLE, clients=["s3"], prefetch=prefetch)(takes_s3)

    assert cache_info().sessions == sts.calls == 0


def test_a_role_of_the_event_is_not_prefetched(in_lambda: Any, sts: FakeSTS) -> None:
    """What depends on the event waits for the event."""
    in_lambda("on-demand")

    assume_role(ROLE, clients=["s3"], tags=lambda event, context: {}, prefetch=True)(takes_s3)

    assert cache_info().sessions == sts.calls == 0


def test_the_first_event_uses_what_was_prefetched(in_lambda: Any, sts: FakeSTS) -> None:
    """The first event finds the clients of the init phase, and their credentials."""
    in_lambda("on-demand")
    handler = assume_role(ROLE, clients=["s3"], prefetch=True)(takes_s3)
    finish_prefetching()
    made = cache_info().clients

    client = handler(EVENT, CONTEXT)

    assert client is assumed_session(ROLE).injected_client(service_name="s3")
    assert cache_info().clients == made == 1
    assert sts.calls == 1


@pytest.mark.parametrize("failure", [outage(), refusal()], ids=["outage", "refusal"])
def test_a_failed_prefetch_is_logged_and_tried_again(
    in_lambda: Any, sts: FakeSTS, caplog: pytest.LogCaptureFixture, failure: Exception
) -> None:
    """A failure during init neither kills the init phase nor the first event, which tries again."""
    in_lambda("on-demand")
    sts.failure = failure
    handler = assume_role(ROLE, session="reader", prefetch=True)(lambda event, context, *, reader: reader)
    finish_prefetching()
    sts.failure = None

    assert handler(EVENT, CONTEXT).get_credentials().token == "token-2"
    assert cache_info().failures == 1
    assert [(record.levelno, record.name) for record in caplog.records] == [
        (logging.WARNING, "xacct_lambda._credential_cache")
    ]
    assert caplog.messages == [f"Prefetching the credentials of {ROLE} failed. The first event tries again. {failure}"]


def test_assume_role_overlaps_the_making_of_clients(
    in_lambda: Any, sts: FakeSTS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``prefetch=True`` the call to STS is under way while clients are made."""
    in_lambda("on-demand")
    under_way, clients_made = threading.Event(), threading.Event()
    overlapped: list[bool] = []

    def during() -> None:
        under_way.set()
        overlapped.append(clients_made.wait(60))

    sts.during_request = during
    real = _sessions.AssumedSession.client

    def client(self, *args, **kwargs):
        until(under_way.is_set)
        made = real(self, *args, **kwargs)
        clients_made.set()
        return made

    monkeypatch.setattr(_sessions.AssumedSession, "client", client)
    assume_role(ROLE, clients=["s3"], prefetch=True)(takes_s3)
    finish_prefetching()

    assert overlapped == [True]


def test_a_thousand_warm_calls_leave_nothing_behind() -> None:
    """A warm call allocates nothing that stays, and makes no session, client or AssumeRole call."""
    import tracemalloc  # noqa: PLC0415 - of interest here alone

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, *, sqs):
        return None

    for _ in range(100):
        handler(EVENT, CONTEXT)
    before = cache_info()
    tracemalloc.start()
    try:
        for _ in range(100):
            handler(EVENT, CONTEXT)
        bytes_before = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            handler(EVENT, CONTEXT)
        growth = tracemalloc.get_traced_memory()[0] - bytes_before
    finally:
        tracemalloc.stop()

    assert growth < 500, "bytes; a single leaked object a call would be 16,000 and more"
    assert cache_info() == before


def test_no_lock_is_held_while_the_handler_runs() -> None:
    """Two threads are inside one handler at one time, and each may use the library."""
    both = threading.Barrier(2, timeout=60)

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, *, sqs):
        both.wait()
        assumed_session(OTHER_ROLE).client("sqs")
        both.wait()
        return True

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(lambda _: handler(EVENT, CONTEXT), range(2))) == [True, True]


def test_a_warm_call_does_not_wait_for_sessions() -> None:
    """A warm call does not wait for a session that another thread is making."""

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, *, sqs):
        return sqs

    client = handler(EVENT, CONTEXT)
    # The lock is left first: a pool is left when its threads have ended.
    with ThreadPoolExecutor(1) as pool, _sessions.default_cache.build_lock:
        assert pool.submit(handler, EVENT, CONTEXT).result(5) is client


# --- Callers ----------------------------------------------------------------------------------------------------------


ROUTER = {"allowed_roles": [ROLE, OTHER_ROLE], "session": "session"}


@pytest.mark.parametrize(
    "role_arn",
    [
        lambda event, context: event["role"],
        lambda e, c: e["role"],
        lambda event, context=None: event["role"],
        lambda event, **others: event["role"],
        lambda *arguments: arguments[0]["role"],
        role_for("arn:aws:iam::222222222222:role/{name}", name=event_field("name")),
    ],
    ids=["same names", "other names", "default", "keywords", "positions", "event_field"],
)
@pytest.mark.parametrize(
    "call",
    [
        lambda handler, event: handler(event, CONTEXT),
        lambda handler, event: handler(event, context=CONTEXT),
        lambda handler, event: handler(context=CONTEXT, event=event),
    ],
    ids=["positions", "mixed", "keywords"],
)
def test_an_option_gets_the_arguments_however_the_caller_passes_them(role_arn: Any, call: Any) -> None:
    """A callable reads the event, whether the caller passes it by position or by keyword, and whatever it calls it."""

    @assume_role(role_arn, **ROUTER)
    def handler(event, context, *, session):
        return session

    assert call(handler, {"role": ROLE, "name": "role-on-source-account"}) is assumed_session(ROLE)


def test_a_record_handler() -> None:
    """A record handler is called with ``record=…``, as Powertools' batch processors do, with or without a context."""

    @assume_role(lambda record: record["role"], **ROUTER)
    def handle(record, *, session):
        return session

    @assume_role(lambda record, lambda_context=None: record["role"], **ROUTER)
    def handle_with_context(record, lambda_context=None, *, session):
        return session, current_context.get()

    assert handle(record={"role": ROLE}) is handle({"role": ROLE}) is assumed_session(ROLE)
    assert handle_with_context(record={"role": ROLE}) == (assumed_session(ROLE), None)
    assert handle_with_context(record={"role": ROLE}, lambda_context=CONTEXT) == (assumed_session(ROLE), CONTEXT)


def test_a_record_handlers_event_field() -> None:
    """``xacct_lambda.events`` reads the record of a record handler, which has no context."""

    @assume_role(role_for("arn:aws:iam::222222222222:role/{name}", name=event_field("name")), **ROUTER)
    def handle(record, *, session):
        return session

    assert handle(record={"name": "role-on-source-account"}) is assumed_session(ROLE)


def test_powertools_batches() -> None:
    """Powertools' batch utility runs a decorated record handler, whose role depends on the record."""
    batch = pytest.importorskip("aws_lambda_powertools.utilities.batch")
    processor = batch.BatchProcessor(event_type=batch.EventType.SQS)
    sessions = []

    @assume_role(lambda record: record.body, **ROUTER)
    def handle(record, *, session):
        sessions.append((session, current_context.get()))

    @assume_role(ROLE, session="own")
    def handler(event, context, *, own):
        return batch.process_partial_response(event, handle, processor, context=context)

    records = [{"messageId": str(number), "body": body} for number, body in enumerate((ROLE, OTHER_ROLE))]

    assert handler({"Records": records}, CONTEXT) == {"batchItemFailures": []}
    assert sessions == [(assumed_session(ROLE), CONTEXT), (assumed_session(OTHER_ROLE), CONTEXT)]


def test_powertools_routes_with_validation() -> None:
    """Powertools evaluates the annotations of a decorated route, which are strings in the route's own module."""
    event_handler = pytest.importorskip("aws_lambda_powertools.event_handler")
    pytest.importorskip("pydantic")
    app = event_handler.APIGatewayRestResolver(enable_validation=True)

    @app.get("/orders/<order>")
    @assume_role(ROLE, session="session")
    def route(order: int, *, session: Any) -> dict[str, bool]:
        return {"is_int": isinstance(order, int), "has_session": session is assumed_session(ROLE)}

    event = {
        "path": "/orders/7",
        "httpMethod": "GET",
        "requestContext": {"stage": "$default", "requestId": "r"},
        "headers": {},
        "multiValueHeaders": {},
        "queryStringParameters": {},
        "multiValueQueryStringParameters": {},
        "body": None,
        "isBase64Encoded": False,
    }
    answer = app.resolve(event, CONTEXT)

    assert (answer["statusCode"], json.loads(answer["body"])) == (200, {"is_int": True, "has_session": True})


class Order:
    """A class of the handler's module, which annotations name."""


def test_annotations_are_types_of_the_handlers_module() -> None:
    """The public signature has types where ``from __future__ import annotations`` leaves text, and no injected ones."""

    def handler(event: Order, context: Missing, *, sqs: Any) -> list[Order]:  # type: ignore[name-defined]  # noqa: F821
        return []

    class Handler:
        def __call__(self, event: Order, context: object, *, sqs: Any) -> list[Order]:
            return []

    for original in (handler, functools.partial(handler), Handler()):
        decorated = assume_role(ROLE, clients=["sqs"])(original)
        signature = inspect.signature(decorated)

        assert signature.parameters["event"].annotation is Order
        assert signature.return_annotation == list[Order]
        assert decorated.__annotations__.keys() == {"event", "context", "return"}
    assert inspect.signature(assume_role(ROLE, clients=["sqs"])(handler)).parameters["context"].annotation == "Missing"


def test_an_option_without_a_signature() -> None:
    """A callable of a C library, which has no signature, gets the arguments as the caller passes them."""

    class NoSignature:
        @property
        def __signature__(self) -> Any:
            raise ValueError("no signature")

        def __call__(self, event, context):
            return event["role"]

    @assume_role(NoSignature(), **ROUTER)
    def handler(event, context, *, session):
        return session

    assert handler({"role": ROLE}, CONTEXT) is assumed_session(ROLE)


def test_an_option_that_cannot_take_the_arguments() -> None:
    """A callable that fits no form of the arguments raises Python's own TypeError, as does a call of too many."""

    @assume_role(lambda one, two, three: ROLE, **ROUTER)
    def handler(event, context=None, *, session):
        return session

    with pytest.raises(TypeError, match="'two' and 'three'"):
        handler({"role": ROLE})
    with pytest.raises(TypeError, match="nothing"):
        handler(nothing=1)


def test_a_call_by_keyword_looks_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a static role, a warm call by keyword is served from the same cache as one by position."""

    @assume_role(ROLE, clients=["sqs"])
    def route(order, *, sqs):
        return sqs

    client = route(order=7)
    monkeypatch.setattr(_sessions, "assumed_session", None)

    assert route(order=8) is route(9) is client


def test_stubs_override_what_is_cached() -> None:
    """A stub that the caller passes replaces the injected client, also when the client is cached."""

    @assume_role(ROLE, clients=["sqs", "sns"])
    def handler(event, context, *, sqs, sns):
        return sqs, sns

    sqs, sns = handler(EVENT, CONTEXT)

    assert handler(EVENT, CONTEXT, sqs="stub") == ("stub", sns)
    assert handler(EVENT, CONTEXT) == (sqs, sns)


def test_an_option_does_not_get_the_stubs() -> None:
    """A client that a test passes in the place of an injected one is not passed to callable options."""

    @assume_role(lambda event, context: event["role"], allowed_roles=[ROLE], clients=["sqs"], session="session")
    def handler(event, context, *, sqs, session):
        return sqs, session

    assert handler({"role": ROLE}, CONTEXT, sqs="stub") == ("stub", assumed_session(ROLE))


def test_roles_of_the_event_stack() -> None:
    """Below another decorator of the library, an option does not get what that one injects."""

    @assume_role(ROLE, session="source")
    @assume_role(lambda event, context: event["role"], allowed_roles=[OTHER_ROLE], session="target")
    def handler(event, context, *, source, target):
        return source, target

    assert handler({"role": OTHER_ROLE}, CONTEXT) == (assumed_session(ROLE), assumed_session(OTHER_ROLE))


@pytest.mark.parametrize("spec", [True, False], ids=["autospec", "spec_set"])
def test_autospec_of_a_decorated_handler(spec: bool) -> None:
    """``create_autospec`` of a handler has its public signature."""

    @assume_role(ROLE, clients=["sqs"])
    def handler(event, context, *, sqs):
        return None

    double = mock.create_autospec(handler, spec_set=not spec, return_value="done")

    assert double(EVENT, CONTEXT) == "done"
    with pytest.raises(TypeError, match="context"):
        double(EVENT)


def test_autospec_of_a_session() -> None:
    """``create_autospec`` of a session gives a double with boto3's methods."""
    double = mock.create_autospec(assumed_session(ROLE), instance=True)

    double.client("s3")
    double.client.assert_called_once_with("s3")
    with pytest.raises(AttributeError):
        double.no_such_method()


# --- The invocation ---------------------------------------------------------------------------------------------------


def test_a_nested_function_belongs_to_the_outer_invocation() -> None:
    """A decorated function that gets no context of its own knows how long the outer invocation has left."""

    @assume_role(OTHER_ROLE, session="session")
    def route(order, *extra, session, **options):
        return current_context.get()

    @assume_role(ROLE, session="session")
    def handler(event, context, *, session):
        return [route(7), route(order=7), route({"order": 7}, None), route(event, context=None), route(order=Order())]

    assert handler(EVENT, CONTEXT) == [CONTEXT] * 5
    assert current_context.get() is None


def test_a_nested_function_with_a_context_of_its_own() -> None:
    """A context that is passed on is the current one while the nested function runs, and the outer one afterwards."""
    inner = SimpleNamespace(get_remaining_time_in_millis=lambda: 1000)

    @assume_role(OTHER_ROLE, session="session")
    def route(event, context, *, session):
        return current_context.get()

    @assume_role(ROLE, session="session")
    def handler(event, context, *, session):
        return route(event, inner), route(event=event, context=inner), current_context.get()

    assert handler(EVENT, CONTEXT) == (inner, inner, CONTEXT)


def test_a_durable_context() -> None:
    """The context of a durable function, which contains Lambda's, is recognized."""
    context = SimpleNamespace(lambda_context=CONTEXT)

    @assume_role(ROLE, session="session")
    def handler(event, context, more=None, *, session):
        return current_context.get(), remaining_seconds()

    assert handler(EVENT, context, 3) == (context, 2.75)


def test_an_argument_that_fails_to_be_read() -> None:
    """An argument whose attributes raise, as a proxy without its request does, is no context."""

    class Proxy:
        def __getattr__(self, name):
            raise RuntimeError("outside of a request")

    @assume_role(ROLE, session="session")
    def handler(event, *, session):
        return current_context.get()

    assert handler(Proxy()) is None


STEPS = ["first", "sent", "thrown", "end"]


def test_generators() -> None:
    """A generator handler stays one. Its invocation is current in each step, and not between the steps."""

    @assume_role(ROLE, session="session")
    def handler(event, context, *, session):
        assert current_context.get() is CONTEXT
        sent = yield "first"
        assert (sent, current_context.get()) == ("sent", CONTEXT)
        try:
            yield "second"
        except KeyError:
            assert current_context.get() is CONTEXT
            yield "third"
        return "end"

    assert inspect.isgeneratorfunction(handler)
    generator = handler(EVENT, CONTEXT)
    assert next(generator) == "first"
    assert current_context.get() is None
    assert generator.send("sent") == "second"
    assert generator.throw(KeyError("thrown")) == "third"
    with pytest.raises(StopIteration) as stopped:
        next(generator)
    assert stopped.value.value == "end"
    assert current_context.get() is None


def test_a_generator_that_is_closed() -> None:
    """Closing a generator runs its clean-up within the invocation."""
    seen = []

    @assume_role(ROLE, session="session")
    def handler(event, context, *, session):
        try:
            yield 1
        finally:
            seen.append(current_context.get())

    generator = handler(EVENT, CONTEXT)
    next(generator)
    generator.close()

    assert seen == [CONTEXT]


def test_a_generator_in_another_thread() -> None:
    """A framework may run each step of a generator in a thread of its own."""

    @assume_role(ROLE, session="session")
    def handler(event, context, *, session):
        for _ in range(3):
            yield current_context.get()

    generator = handler(EVENT, CONTEXT)
    steps = []
    for _ in range(3):
        with ThreadPoolExecutor(1) as pool:
            steps.append(pool.submit(next, generator).result())

    assert steps == [CONTEXT] * 3


def test_a_nested_generator() -> None:
    """A generator without a context of its own keeps the invocation in which its first step ran."""

    @assume_role(OTHER_ROLE, session="session")
    def records(*, session):
        yield current_context.get()
        yield current_context.get()

    @assume_role(ROLE, session="session")
    def handler(event, context, *, session):
        generator = records()
        return next(generator), generator

    first, generator = handler(EVENT, CONTEXT)
    assert [first, next(generator)] == [CONTEXT] * 2


def test_async_generators() -> None:
    """An asynchronous generator handler stays one, and its invocation is current in each step."""
    closed = []

    @assume_role(ROLE, session="session")
    async def handler(event, context, *, session):
        assert current_context.get() is CONTEXT
        sent = yield "first"
        await asyncio.sleep(0)
        assert (sent, current_context.get()) == ("sent", CONTEXT)
        try:
            yield "second"
        except KeyError:
            yield "third"
        try:
            yield "fourth"
        finally:
            await asyncio.sleep(0)
            closed.append(current_context.get())

    async def consume() -> list[Any]:
        generator = handler(EVENT, CONTEXT)
        steps = [await anext(generator), current_context.get(), await generator.asend("sent")]
        steps += [await generator.athrow(KeyError("thrown")), await anext(generator), current_context.get()]
        await generator.aclose()
        return [*steps, [step async for step in counted(EVENT, CONTEXT)]]

    @assume_role(ROLE, session="session")
    async def counted(event, context, *, session):
        yield 1
        yield 2

    assert inspect.isasyncgenfunction(handler)
    assert asyncio.run(consume()) == ["first", None, "second", "third", "fourth", None, [1, 2]]
    assert closed == [CONTEXT]


@pytest.mark.parametrize("kind", ["generator", "coroutine", "async generator"])
def test_functions_that_return_a_generator_or_a_coroutine(kind: str) -> None:
    """A decorator that hides which kind of function it wraps does not end the invocation before the body has run."""

    def generator(event, context, *, session):
        yield current_context.get()

    async def coroutine(event, context, *, session):
        return current_context.get()

    async def async_generator(event, context, *, session):
        yield current_context.get()

    original = {"generator": generator, "coroutine": coroutine, "async generator": async_generator}[kind]

    @assume_role(ROLE, session="session")
    def handler(event, context, **clients):
        return original(event, context, **clients)

    async def run(result: Any) -> Any:
        if kind == "coroutine":
            return await result
        return next(result) if kind == "generator" else await anext(result)

    assert asyncio.run(run(handler(EVENT, CONTEXT))) is CONTEXT


def test_generator_objects() -> None:
    """An object whose ``__call__`` is a generator becomes a generator function."""

    class Handler:
        def __call__(self, event, context, *, session):
            yield session

    handler = assume_role(ROLE, session="session")(Handler())

    assert inspect.isgeneratorfunction(handler)
    assert list(handler(EVENT, CONTEXT)) == [assumed_session(ROLE)]


# --- Decorators that drop keywords ------------------------------------------------------------------------------------


def wraps_only_event_and_context(handler):
    @functools.wraps(handler)
    def wrapper(event, context):
        return handler(event, context)

    return wrapper


class WrapsInAnObject:
    def __init__(self, handler):
        functools.update_wrapper(self, handler)
        self.handler = handler

    def __call__(self, event, context):
        return self.handler(event, context)


def passes_all(handler):
    @functools.wraps(handler)
    def wrapper(*args, **kwargs):
        return handler(*args, **kwargs)

    return wrapper


def shows_a_narrow_signature(handler):
    wrapper = passes_all(handler)
    wrapper.__signature__ = inspect.Signature(inspect.signature(lambda event, context, *, s3: None).parameters.values())
    return wrapper


@pytest.mark.parametrize(
    "decorators",
    [
        (wraps_only_event_and_context,),
        (WrapsInAnObject,),
        (passes_all, wraps_only_event_and_context),
        (wraps_only_event_and_context, passes_all),
        (functools.partial, wraps_only_event_and_context),
        (wraps_only_event_and_context, functools.partial),
    ],
    ids=lambda decorators: " over ".join(decorator.__name__ for decorator in decorators),
)
def test_a_decorator_below_that_drops_keywords(decorators: Any) -> None:
    """A decorator below that takes event and context only is found at decoration, at whatever depth."""
    handler: Any = takes_s3
    for decorator in reversed(decorators):
        handler = decorator(handler)

    with pytest.raises(
        ConfigurationError, match=r"\(event, context, \*, s3\) has a decorator .*that doesn't pass 's3' on"
    ) as caught:
        assume_role(ROLE, clients=["s3"])(handler)
    assert caught.value.argument == "clients"


@pytest.mark.parametrize("decorator", [passes_all, shows_a_narrow_signature, functools.partial, functools.lru_cache])
def test_a_decorator_below_that_passes_keywords(decorator: Any) -> None:
    """A decorator below that passes keywords on, or shows in its signature that it does, is accepted."""
    handler = assume_role(ROLE, session="s3")(decorator(takes_s3))

    assert handler("event", "context") is assumed_session(ROLE)


def test_a_dropped_keyword_that_no_signature_shows() -> None:
    """If a decorator accepts the keyword and drops it, a note on the TypeError says what to do."""

    def drops(handler):
        @functools.wraps(handler)
        def wrapper(event, context, **kwargs):
            return handler(event, context)

        return wrapper

    def drops_async(handler):
        @functools.wraps(handler)
        async def wrapper(event, context, **kwargs):
            return await handler(event, context)

        return wrapper

    async def takes_s3_async(event, context, *, s3):
        return s3

    decorate = assume_role(ROLE, session="s3")
    with pytest.raises(TypeError, match="'s3'") as caught:
        decorate(drops(takes_s3))(EVENT, CONTEXT)
    with pytest.raises(TypeError, match="'s3'") as caught_async:
        asyncio.run(decorate(drops_async(takes_s3_async))(EVENT, CONTEXT))
    for error in (caught.value, caught_async.value):
        assert error.__notes__[0].startswith("@assume_role passes 's3' as a keyword argument to ")
        assert error.__notes__[0].endswith("put @assume_role directly above the function")


def test_other_type_errors_have_no_note() -> None:
    """A TypeError of the handler's own is left as it is."""

    @assume_role(ROLE, session="s3")
    def handler(event, context, *, s3):
        raise TypeError(event)

    for text in ("unsupported operand", "'s3' is a bad argument", "missing 1 required keyword-only argument: 'other'"):
        with pytest.raises(TypeError) as caught:
            handler(text, CONTEXT)
        assert not hasattr(caught.value, "__notes__")


# --- Options that exist elsewhere -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("ExternalId", r"^ExternalId: no such option\. Write external_id$"),
        ("DurationSeconds", r"Write duration_seconds$"),
        ("RoleSessionName", r"Write role_session_name$"),
        ("ProvidedContexts", r'Write extra=\{"ProvidedContexts": …\}$'),
        ("SerialNumber", r"no such option, because nobody can type an MFA code into a function$"),
        ("mfa_serial", r"nobody can type an MFA code"),
        ("profile_name", r"source_session=boto3\.Session\(profile_name=…\)$"),
        ("aws_access_key_id", r"source_session=boto3\.Session\(aws_access_key_id=…\)$"),
        ("botocore_session", r"source_session=boto3\.Session\(botocore_session=…\)$"),
        ("source_profile", r"source_session=boto3\.Session\(profile_name=…\)$"),
        ("config", r"Write sts_config"),
        ("external_ids", r"Did you mean 'external_id'\?$"),
        ("regoin_name", r"Did you mean 'region_name'\?$"),
        ("zzz", r"^zzz: no such option$"),
    ],
)
def test_an_option_that_does_not_exist(option: str, message: str) -> None:
    """An option by boto3's, the profile's, or a misspelled name is answered with the right one, in both functions."""
    secret = "value-" + "of-the-option"
    for function in (
        lambda: assume_role(ROLE, clients=["s3"], **{option: secret}),
        lambda: assumed_session(ROLE, **{option: secret}),
    ):
        with pytest.raises(ConfigurationError, match=message) as caught:
            function()
        assert caught.value.argument == option
        assert secret not in str(caught.value)


def test_without_parentheses() -> None:
    """``@assume_role`` without a role says how to write it."""
    with pytest.raises(
        ConfigurationError, match=r"^role_arn: takes_s3 is decorated without a role\. Write @assume_role"
    ):
        assume_role(takes_s3)


@pytest.mark.parametrize("variable", ["AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_INITIALIZATION_TYPE"])
@pytest.mark.parametrize("duration", [3601, 7200, timedelta(hours=2)])
def test_more_than_an_hour_on_lambda(monkeypatch: pytest.MonkeyPatch, variable: str, duration: Any) -> None:
    """On Lambda, more than an hour is rejected at decoration and at the call: a function is itself an assumed role."""
    monkeypatch.setenv(variable, "on-demand")
    for function in (
        lambda: assume_role(ROLE, clients=["s3"], duration_seconds=duration),
        lambda: assumed_session(ROLE, duration_seconds=duration),
        lambda: assume_role(ROLE, session="s3", duration_seconds=lambda *_: duration)(takes_s3)(EVENT, CONTEXT),
    ):
        with pytest.raises(
            ConfigurationError, match=r"role chaining allows 3600 at most, and the role of a Lambda"
        ) as caught:
            function()
        assert caught.value.argument == "duration_seconds"
    assert cache_info().sessions == 0
    assert assumed_session(ROLE, duration_seconds=duration, source_session=boto3.Session())
    assert assume_role(ROLE, clients=["s3"], duration_seconds=3600)


def test_more_than_an_hour_of_an_assumed_source() -> None:
    """An assumed source session is rejected with more than an hour at decoration, wherever the code runs."""
    source = assumed_session(ROLE)

    with pytest.raises(ConfigurationError, match="source_session is an assumed role"):
        assume_role(OTHER_ROLE, clients=["s3"], source_session=source, duration_seconds=7200)


# --- Frames -----------------------------------------------------------------------------------------------------------


EXTERNAL_ID = "shared-with-" + "tenant-blue"


@pytest.mark.parametrize(
    "fail",
    [
        lambda: assumed_session(ROLE, external_id=EXTERNAL_ID, tags={"tenant": "not*a*tag"}),
        lambda: assumed_session(ROLE, external_id=EXTERNAL_ID, region_name="no region"),
        lambda: assumed_session(ROLE, external_id=EXTERNAL_ID, zzz=1),
        lambda: assume_role(ROLE, external_id=EXTERNAL_ID, duration_seconds=1, clients=["s3"]),
        lambda: assume_role(ROLE, external_id=EXTERNAL_ID, clients=["no-service"]),
        lambda: assume_role(ROLE, external_id=EXTERNAL_ID, tags=lambda *_: {"t": "*"}, session="s3")(takes_s3)(1, None),
        lambda: assume_role(ROLE, external_id=lambda *_: EXTERNAL_ID, tags=lambda *_: {"t": "*"}, session="s3")(
            takes_s3
        )(1, None),
        lambda: assume_role(lambda *_: OTHER_ROLE, allowed_roles=[ROLE], external_id=EXTERNAL_ID, session="s3")(
            takes_s3
        )(1, None),
    ],
)
def test_an_external_id_is_in_no_frame(fail: Any) -> None:
    """No frame of the library that a ConfigurationError passes through has the external ID in a local variable."""
    with pytest.raises(ConfigurationError) as caught:
        fail()

    error: BaseException | None = caught.value
    while error is not None:
        for frame, _ in traceback.walk_tb(error.__traceback__):
            if frame.f_globals["__name__"].startswith("xacct_lambda"):
                assert EXTERNAL_ID not in repr(dict(frame.f_locals))
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize("policy", ['{"Sid": "tenant-blue"', {"Sid": "tenant-blue", "Statement": {1, 2}}])
def test_a_policy_is_in_no_frame(policy: Any) -> None:
    """If a session policy isn't JSON, neither the error nor its causes or their frames contain it."""
    with pytest.raises(ConfigurationError, match="policy: must be a JSON document") as caught:
        assumed_session(ROLE, policy=policy)

    report = traceback.TracebackException.from_exception(caught.value, capture_locals=True)
    assert caught.value.__cause__ is caught.value.__context__ is None
    assert not any("tenant-blue" in line for frame in report.stack[1:] for line in (frame.locals or {}).values())
