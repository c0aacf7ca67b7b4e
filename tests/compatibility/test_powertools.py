"""Powertools for AWS Lambda: parameters, idempotency, batch, event handlers, and event models."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws_lambda_powertools.event_handler import APIGatewayRestResolver, AppSyncResolver, BedrockAgentResolver
from aws_lambda_powertools.utilities.batch import (
    AsyncBatchProcessor,
    BatchProcessor,
    EventType,
    async_process_partial_response,
    process_partial_response,
)
from aws_lambda_powertools.utilities.data_classes import SQSEvent, event_source
from aws_lambda_powertools.utilities.idempotency import (
    DynamoDBPersistenceLayer,
    IdempotencyConfig,
    idempotent_function,
)
from aws_lambda_powertools.utilities.parameters import DynamoDBProvider, SecretsProvider, SSMProvider
from aws_lambda_powertools.utilities.parser import BaseModel, event_parser

from xacct_lambda import assume_role, assumed_session
from xacct_lambda._invocation import remaining_seconds
from xacct_lambda.events import event_field, role_for
from xacct_lambda.policy import permissions_policy, trust_policy

from .conftest import READER, TENANT_ROLES, WRITER, hooks_of

ROLE_OF_RECORD: Any = {"allowed_roles": TENANT_ROLES, "clients": ["sts"]}
BATCH = {"Records": [{"messageId": str(number), "body": role} for number, role in enumerate([READER, WRITER, READER])]}


class Order(BaseModel):
    """An event."""

    tenant: str


def test_parameters(session):
    """The providers for SSM, Secrets Manager, and DynamoDB read from the role's account."""
    session.client("ssm").put_parameter(Name="/orders/url", Value="https://orders.example", Type="String")
    session.client("secretsmanager").create_secret(Name="orders", SecretString="made-up")
    table = session.resource("dynamodb").create_table(
        TableName="parameters",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    table.put_item(Item={"id": "limit", "value": "7"})

    assert SSMProvider(boto3_session=session).get("/orders/url") == "https://orders.example"
    assert SecretsProvider(boto3_session=session).get("orders") == "made-up"
    assert DynamoDBProvider(table_name="parameters", boto3_session=session).get("limit") == "7"


def test_a_provider_per_event(aws):
    """If you create a provider per event, a request of the last one runs as many hooks as a request of the first."""
    clients = [SSMProvider(boto3_session=assumed_session(READER)).client for _ in range(50)]

    assert hooks_of(clients[-1], "request-created.ssm.GetParameter") == hooks_of(
        clients[0], "request-created.ssm.GetParameter"
    )
    assert len({id(client) for client in clients}) == 50


def test_user_agent(aws, session):
    """Powertools' part of the user agent is in each request once, also if a chained role sends the request."""
    aws.role(WRITER, trust=trust_policy(READER))
    aws.grant(permissions_policy(WRITER), role_arn=READER)
    agents = []
    for client in (session.client("sts"), assumed_session(WRITER, source_session=session).client("sts")):
        client.meta.events.register_last(
            "before-send", lambda request, **_: agents.append(request.headers["User-Agent"])
        )
        client.get_caller_identity()

    assert [agent.count(b"PTEnv/") for agent in agents] == [1, 1]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_idempotency(session, lambda_context):
    """The idempotency records of a decorated function are in a table of the role's account."""
    session.client("dynamodb").create_table(
        TableName="handled",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    layer = DynamoDBPersistenceLayer(table_name="handled", boto3_session=session)
    config = IdempotencyConfig(lambda_context=lambda_context)
    runs = []

    @idempotent_function(data_keyword_argument="order", config=config, persistence_store=layer)
    @assume_role(WRITER, clients=["sts"])
    def ship(order, *, sts):
        runs.append(order)
        return sts.get_caller_identity()["Account"]

    assert [ship(order={"id": 7}) for _ in range(2)] == ["333333333333"] * 2
    assert len(runs) == 1


def test_batch(aws, lambda_context):
    """A record handler that Powertools calls by keyword assumes the role of its record."""
    processor = BatchProcessor(event_type=EventType.SQS)

    @assume_role(lambda record: record.body, **ROLE_OF_RECORD)
    def handle(record, *, sts):
        return sts.get_caller_identity()["Account"]

    result = process_partial_response(event=BATCH, record_handler=handle, processor=processor, context=lambda_context)

    assert result == {"batchItemFailures": []}
    assert [call.role_arn for call in aws.assumed] == [READER, WRITER]


def test_async_batch(aws, lambda_context):
    """An async record handler assumes the role of its record."""
    processor = AsyncBatchProcessor(event_type=EventType.SQS)

    @assume_role(lambda record: record.body, **ROLE_OF_RECORD)
    async def handle(record, *, sts):
        return sts.get_caller_identity()["Account"]

    result = async_process_partial_response(
        event=BATCH, record_handler=handle, processor=processor, context=lambda_context
    )

    assert result == {"batchItemFailures": []}
    assert sorted(call.role_arn for call in aws.assumed) == [READER, WRITER]


def test_rest_resolver(aws, lambda_context):
    """A route gets its path parameter, its client, and the time that the invocation has left."""
    app = APIGatewayRestResolver()

    @app.get("/orders/<order>")
    @assume_role(READER, clients=["sts"])
    def route(order: str, *, sts: Any) -> dict[str, Any]:
        return {"order": order, "account": sts.get_caller_identity()["Account"], "left": remaining_seconds()}

    @assume_role(WRITER, clients=["sts"])
    def lambda_handler(event, context, *, sts):
        return app.resolve(event, context)

    event = {"httpMethod": "GET", "path": "/orders/7", "requestContext": {"stage": "$default"}}
    body = json.loads(lambda_handler(event, lambda_context)["body"])

    assert (body["order"], body["account"]) == ("7", "222222222222")
    assert 0 < body["left"] <= 3


def test_rest_resolver_with_validation(aws, lambda_context):
    """A route whose parameters Powertools validates has no injected client in its OpenAPI schema."""
    app = APIGatewayRestResolver(enable_validation=True)

    @app.get("/orders/<order>")
    @assume_role(READER, clients=["sts"])
    def route(order: int, *, sts: Any) -> dict[str, Any]:
        return {"order": order, "account": sts.get_caller_identity()["Account"]}

    event = {"httpMethod": "GET", "path": "/orders/7", "requestContext": {"stage": "$default"}}

    assert json.loads(app.resolve(event, lambda_context)["body"]) == {"order": 7, "account": "222222222222"}
    assert "sts" not in app.get_openapi_json_schema(title="orders")


def test_appsync_resolver(aws, lambda_context):
    """An AppSync resolver, which Powertools calls by keyword, assumes the role that its argument names."""
    app = AppSyncResolver()

    @app.resolver(type_name="Query", field_name="order")
    @assume_role(lambda tenant: f"arn:aws:iam::222222222222:role/tenant/{tenant}", **ROLE_OF_RECORD)
    def order(tenant: str, *, sts: Any) -> str:
        return sts.get_caller_identity()["Account"]

    event = {"typeName": "Query", "fieldName": "order", "arguments": {"tenant": "Reader"}, "identity": None}

    assert app.resolve(event, lambda_context) == "222222222222"


def test_bedrock_agent(aws, lambda_context):
    """A tool of a Bedrock agent gets its client, and its description has no injected parameter."""
    app = BedrockAgentResolver()

    @app.get("/account", description="Account of the orders")
    @assume_role(READER, clients=["sts"])
    def account(*, sts: Any) -> str:
        return sts.get_caller_identity()["Account"]

    event = {
        "messageVersion": "1.0",
        "agent": {"name": "orders", "id": "A", "alias": "B", "version": "1"},
        "inputText": "which account?",
        "sessionId": "1",
        "actionGroup": "orders",
        "apiPath": "/account",
        "httpMethod": "GET",
        "sessionAttributes": {},
        "promptSessionAttributes": {},
        "parameters": [],
        "requestBody": {},
    }
    answered = app.resolve(event, lambda_context)["response"]

    assert answered["responseBody"]["application/json"]["body"] == "222222222222"
    assert "sts" not in app.get_openapi_json_schema(title="orders")


def test_event_source(aws, lambda_context):
    """A handler below ``event_source`` reads its role from the data class."""

    @event_source(data_class=SQSEvent)
    @assume_role(lambda event, context: next(event.records).body, **ROLE_OF_RECORD)
    def lambda_handler(event: SQSEvent, context: Any, *, sts: Any) -> str:
        return sts.get_caller_identity()["Account"]

    assert lambda_handler(BATCH, lambda_context) == "222222222222"


def test_event_parser(aws, lambda_context):
    """A handler below ``event_parser`` reads its role from the model that Powertools made of the event."""

    @event_parser(model=Order)
    @assume_role(
        role_for("arn:aws:iam::222222222222:role/tenant/{tenant}", tenant=event_field("tenant")), **ROLE_OF_RECORD
    )
    def lambda_handler(event: Order, context: Any, *, sts: Any) -> str:
        return sts.get_caller_identity()["Account"]

    assert lambda_handler({"tenant": "Reader"}, lambda_context) == "222222222222"
