"""Beside the packages that functions use: Powertools for AWS Lambda, the X-Ray SDK, the durable-execution SDK."""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
import textwrap
import threading
from functools import partial
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.middleware_factory import lambda_handler_decorator
from aws_lambda_powertools.utilities import parameters
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes import SQSEvent, event_source
from aws_lambda_powertools.utilities.idempotency import DynamoDBPersistenceLayer, IdempotencyConfig, idempotent
from conftest import OTHER_ROLE, ROLE
from moto import mock_aws
from scripted_sts import ScriptedSTS, refuse, serve

from xacct_lambda import assume_role, assumed_session, cache_info
from xacct_lambda._invocation import remaining_seconds

CONTEXT: Any = SimpleNamespace(
    function_name="read-orders",
    get_remaining_time_in_millis=lambda: 3000,
    memory_limit_in_mb=128,
    invoked_function_arn="arn:aws:lambda:eu-west-1:111111111111:function:read-orders",
    aws_request_id="52fdfc07-2182-154f-163f-5f0f9a621d72",
)
logger = Logger(service="orders")
tracer = Tracer(service="orders", disabled=True)
metrics = Metrics(namespace="orders", service="orders")


@lambda_handler_decorator
def middleware(handler, event, context):
    return handler(event, context)


FORWARD_KEYWORDS = {
    "logger": logger.inject_lambda_context,
    "tracer": tracer.capture_lambda_handler,
    "metrics": metrics.log_metrics,
}
DO_NOT_FORWARD_KEYWORDS = {"middleware": middleware, "event_source": event_source(data_class=SQSEvent)}


def handler(event, context, *, sqs):
    return sqs


@pytest.mark.filterwarnings("ignore::UserWarning:aws_lambda_powertools")
@pytest.mark.parametrize("name", FORWARD_KEYWORDS | DO_NOT_FORWARD_KEYWORDS)
def test_under(name: str) -> None:
    """Directly on the handler, below any decorator of Powertools, the decorator works."""
    decorator: Any = (FORWARD_KEYWORDS | DO_NOT_FORWARD_KEYWORDS)[name]
    decorated = decorator(assume_role(ROLE, clients=["sqs"])(handler))

    assert decorated({"Records": []}, CONTEXT) is assumed_session(ROLE).injected_client(service_name="sqs")


@pytest.mark.filterwarnings("ignore::UserWarning:aws_lambda_powertools")
@pytest.mark.parametrize("name", FORWARD_KEYWORDS)
def test_over(name: str) -> None:
    """Above the decorators that hand keyword arguments on (logger, tracer, metrics) it works as well."""
    decorator: Any = FORWARD_KEYWORDS[name]
    decorated = assume_role(ROLE, clients=["sqs"])(decorator(handler))

    assert decorated({"Records": []}, CONTEXT) is assumed_session(ROLE).injected_client(service_name="sqs")


def test_parameters_of_the_other_account() -> None:
    """Powertools' parameters utility reads from the other account through an assumed session."""
    with mock_aws():
        session = assumed_session(ROLE)
        session.client("ssm").put_parameter(Name="/orders/url", Value="https://orders.example", Type="String")

        provider = parameters.SSMProvider(boto3_session=session)

        assert provider.get("/orders/url") == "https://orders.example"
        with pytest.raises(parameters.exceptions.GetParameterError):
            parameters.SSMProvider(boto3_session=boto3.Session()).get("/orders/url")


def test_many_providers_on_one_session() -> None:
    """The client of the hundredth Powertools provider runs as many hooks per request as that of the first."""
    session = assumed_session(ROLE)
    clients: list[Any] = [parameters.SSMProvider(boto3_session=session).client for _ in range(100)]

    # No public name leads to the hooks of an event without calling them.
    hooks = [list(client.meta.events._emitter._handlers.prefix_search("request-created.ssm.X")) for client in clients]

    assert len({id(client) for client in clients}) == 100
    assert {len(each) for each in hooks} == {len(hooks[0])}


def test_the_logger_and_an_error(server: ScriptedSTS) -> None:
    """A record that a function logs about an error of the library has its class and its advice."""
    written = io.StringIO()
    logger = Logger(service="refused-orders", stream=written)

    @logger.inject_lambda_context
    @assume_role(ROLE, clients=["sts"])
    def lambda_handler(event, context, *, sts):
        try:
            sts.get_caller_identity()
        except Exception:
            logger.exception("no orders")

    server.always = refuse("AccessDenied", "no")
    lambda_handler({}, CONTEXT)

    record = json.loads(written.getvalue())
    assert record["function_request_id"] == CONTEXT.aws_request_id
    assert record["exception_name"] == "AssumeRoleError"
    assert "python -m xacct_lambda policy" in record["exception"]


def test_a_batch_of_tenants(server: ScriptedSTS) -> None:
    """Of a batch only the record whose role refuses is handed back to the queue."""
    processor = BatchProcessor(event_type=EventType.SQS)

    def read(record):
        assumed_session(record.body).client("sts").get_caller_identity()

    def lambda_handler(event, context):
        return process_partial_response(event=event, record_handler=read, processor=processor, context=context)

    def answer(handler, call):
        is_refused = call.get("RoleArn") == OTHER_ROLE
        return refuse("AccessDenied", "no")(handler, call) if is_refused else serve(handler, call)

    bodies = [ROLE, OTHER_ROLE, ROLE]
    records = [{"messageId": str(number), "body": body} for number, body in enumerate(bodies)]
    server.always = answer

    assert lambda_handler({"Records": records}, CONTEXT) == {"batchItemFailures": [{"itemIdentifier": "1"}]}
    assert server.count() == 2


def test_a_batch_with_an_injected_client() -> None:
    """A record handler gets a client that was injected into the handler."""
    processor = BatchProcessor(event_type=EventType.SQS)

    def read(record, sts):
        return sts.get_caller_identity()["Account"]

    @assume_role(ROLE, clients=["sts"])
    def lambda_handler(event, context, *, sts):
        with processor(event["Records"], partial(read, sts=sts)):
            return [answer for _, answer, _ in processor.process()]

    with mock_aws():
        assert lambda_handler({"Records": [{"messageId": "1", "body": ""}]}, CONTEXT) == ["222222222222"]


@pytest.mark.filterwarnings("ignore::UserWarning:aws_lambda_powertools")
def test_idempotency_in_the_other_account() -> None:
    """Records of idempotency live in a table of the other account, and a second event is answered from there."""
    with mock_aws():
        session = assumed_session(ROLE)
        session.client("dynamodb").create_table(
            TableName="handled",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
        calls = []

        @idempotent(
            persistence_store=DynamoDBPersistenceLayer(table_name="handled", boto3_session=session),
            config=IdempotencyConfig(),
        )
        @assume_role(ROLE, clients=["sts"])
        def lambda_handler(event, context, *, sts):
            calls.append(event)
            return sts.get_caller_identity()["Account"]

        assert [lambda_handler({"order": 7}, CONTEXT) for _ in range(2)] == ["222222222222"] * 2
        assert len(calls) == 1
        assert session.client("dynamodb").scan(TableName="handled")["Count"] == 1


TRACE = """
    from aws_xray_sdk.core import patch, xray_recorder
    sent = []
    xray_recorder.emitter.send_entity = sent.append
    patch(["botocore"])
    """
USE = f"""
    from moto import mock_aws
    mock_aws().start()
    from xacct_lambda import assume_role, cache_info

    @assume_role({ROLE!r}, prefetch=False, clients=["sts"])
    def lambda_handler(event, context, *, sts):
        return sts.get_caller_identity()["Account"]
    """
REPORT = """
    def operation(entity):
        return getattr(entity, "aws", {}).get("operation", "handler")

    lambda_handler({}, None)
    names = {entity.id: operation(entity) for entity in sent}
    print(*sorted(f"{names.get(entity.parent_id)}>{operation(entity)}" for entity in sent), cache_info().sts_calls)
    assert "ecret" not in "".join(entity.serialize() for entity in sent)
    """


def traced(*parts: str) -> str:
    """Run a script in Lambda's environment, in a process of its own as X-Ray patches botocore for good."""
    environment = {
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "LAMBDA_TASK_ROOT": "/var/task",
        "_X_AMZN_TRACE_ID": "Root=1-5759e988-bd862e3fe1be46a994272793;Parent=557abcec3ee5a047;Sampled=1",
    }
    script = "\n".join(map(textwrap.dedent, parts))
    command = [sys.executable, "-W", "ignore", "-c", script]
    return subprocess.run(
        command, env=os.environ | environment, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.mark.parametrize("order", [(TRACE, USE), (USE, TRACE)], ids=["X-Ray first", "library first"])
def test_x_ray_sees_every_call(order: tuple[str, str]) -> None:
    """X-Ray shows AssumeRole as a part of the call that waited for it, whichever is imported first; and no secret."""
    assert traced(*order, REPORT) == "GetCallerIdentity>AssumeRole None>GetCallerIdentity 1"


def test_x_ray_and_prefetch() -> None:
    """In the init phase AssumeRole runs in a thread before any segment is open, and X-Ray doesn't stop it."""
    wait = "import threading; [thread.join() for thread in threading.enumerate() if 'assume-role' in thread.name]"
    use = USE.replace("prefetch=False, ", "")

    assert traced(TRACE, use, wait, REPORT).endswith("None>GetCallerIdentity 1")


def test_the_tracer_of_powertools() -> None:
    """Under Powertools' tracer both calls are parts of the handler's own subsegment."""
    tracer = (
        "from aws_lambda_powertools import Tracer\nlambda_handler = Tracer().capture_lambda_handler(lambda_handler)"
    )

    assert traced(TRACE, USE, tracer, REPORT) == "GetCallerIdentity>AssumeRole None>handler handler>GetCallerIdentity 1"


class TestDurableExecution:
    """Under ``@durable_execution``: its context, its threads, its replays."""

    @pytest.fixture
    def execution(self) -> Any:
        return pytest.importorskip(
            "aws_durable_execution_sdk_python", reason="it needs a newer boto3"
        ).durable_execution

    @staticmethod
    def run(handler: Any) -> Any:
        from aws_durable_execution_sdk_python_testing import DurableFunctionTestRunner  # noqa: PLC0415 - if it is here

        loops: list[asyncio.AbstractEventLoop] = []
        new_event_loop = asyncio.new_event_loop
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncio, "new_event_loop", lambda: loops.append(new_event_loop()) or loops[-1])
            try:
                with DurableFunctionTestRunner(handler=handler, poll_interval=0.01, execution_timeout=60) as runner:
                    return json.loads(runner.run(input="{}").result)
            finally:
                for loop in loops:  # the runner leaves its own open
                    loop.close()

    def test_branches_in_threads(self, execution: Any) -> None:
        """Branches that run in threads share the injected client and one AssumeRole call."""

        @execution
        @assume_role(ROLE, clients=["sts"])
        def lambda_handler(event, context, *, sts):
            def branch(context, item, index, items):
                return context.step(lambda _: [sts.get_caller_identity()["Account"], threading.current_thread().name])

            return context.map([1, 2, 3], branch).get_results()

        with mock_aws():
            accounts, threads = zip(*self.run(lambda_handler), strict=True)

        assert set(accounts) == {"222222222222"}
        assert threading.current_thread().name not in threads
        assert cache_info().sts_calls == 1

    def test_time_left(self, execution: Any) -> None:
        """What is left of the invocation is read off the durable context; the threads of branches are told nothing.

        There an attempt takes its usual time, under three seconds.
        """

        @execution
        @assume_role(ROLE, clients=["sts"])
        def lambda_handler(event, context, *, sts):
            def branch(context, item, index, items):
                return remaining_seconds()

            return [remaining_seconds(), *context.map([1], branch).get_results()]

        assert self.run(lambda_handler) == [900 - 0.25, None]

    def test_replays(self, execution: Any) -> None:
        """A handler that is replayed after a wait asks STS no second time."""
        from aws_durable_execution_sdk_python.config import Duration  # noqa: PLC0415 - if it is here

        runs = []

        @execution
        @assume_role(ROLE, clients=["sts"])
        def lambda_handler(event, context, *, sts):
            runs.append(context.step(lambda _: sts.get_caller_identity()["Account"], name="before"))
            context.wait(Duration.from_seconds(1))
            return context.step(lambda _: sts.get_caller_identity()["Account"], name="after")

        with mock_aws():
            assert self.run(lambda_handler) == "222222222222"

        assert len(runs) == 2
        assert cache_info().sts_calls == 1
