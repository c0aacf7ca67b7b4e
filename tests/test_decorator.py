"""The decorator: what it injects, what it refuses, and what is left of the handler."""

from __future__ import annotations

import asyncio
import functools
import inspect
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import pytest
from conftest import OTHER_ROLE, ROLE, FakeSTS, outage, refusal, until

from xacct_lambda import _sessions, assume_role, assumed_session, cache_clear, cache_info
from xacct_lambda._assumed_credentials import AssumedRoleCredentials
from xacct_lambda._invocation import current_context
from xacct_lambda._options import AssumeRoleOptions
from xacct_lambda.exceptions import ConfigurationError

EVENT: dict[str, Any] = {"role": ROLE, "tenant": "a"}
CONTEXT = object()


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
    assert inspect.signature(decorated).return_annotation == "str"


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
    with pytest.raises(ConfigurationError, match="a classmethod cannot be called; decorate the function below it"):
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
            thread.join(5)
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
    sts.during = lambda: holds_up_the_end.append(not threading.current_thread().daemon)

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
    assert [(record.levelname, record.name) for record in caplog.records] == [("WARNING", "xacct_lambda._decorator")]
    assert caplog.messages[0].startswith(
        "Could not prepare the AssumeRole call in the init phase; the first event tries again. "
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
    assert caplog.messages == [f"Credentials could not be fetched ahead; the first event tries again. {failure}"]


def test_assume_role_overlaps_the_making_of_clients(
    in_lambda: Any, sts: FakeSTS, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ``prefetch=True`` the call to STS is under way while clients are made."""
    in_lambda("on-demand")
    under_way, clients_made = threading.Event(), threading.Event()
    overlapped: list[bool] = []

    def during() -> None:
        under_way.set()
        overlapped.append(clients_made.wait(5))

    sts.during = during
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
        held = tracemalloc.get_traced_memory()[0]
        for _ in range(1000):
            handler(EVENT, CONTEXT)
        growth = tracemalloc.get_traced_memory()[0] - held
    finally:
        tracemalloc.stop()

    assert growth < 500, "bytes; a single leaked object a call would be 16,000 and more"
    assert cache_info() == before


def test_no_lock_is_held_while_the_handler_runs() -> None:
    """Two threads are inside one handler at one time, and each may use the library."""
    both = threading.Barrier(2, timeout=5)

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
