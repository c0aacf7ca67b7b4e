"""FastAPI with Mangum: endpoints that FastAPI calls by keyword, in its event loop or in its threads."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import FastAPI
from mangum import Mangum

from xacct_lambda import assume_role
from xacct_lambda._invocation import remaining_seconds

from .conftest import READER, TENANT_ROLES, WRITER

pytestmark = pytest.mark.filterwarnings("ignore:There is no current event loop:DeprecationWarning")  # Mangum's

app = FastAPI()


@app.get("/orders/{order}")
@assume_role(READER, clients=["sts"])
def in_a_thread(order: int, *, sts: Any) -> dict[str, Any]:
    """Answer from a thread of FastAPI's pool."""
    return {"order": order, "account": sts.get_caller_identity()["Account"], "left": remaining_seconds()}


@app.get("/async/{order}")
@assume_role(READER, clients=["sts"])
async def in_the_loop(order: int, *, sts: Any) -> dict[str, Any]:
    """Answer from the event loop."""
    return {"order": order, "account": sts.get_caller_identity()["Account"], "left": remaining_seconds()}


@app.get("/tenants/{tenant}")
@assume_role(
    lambda tenant: f"arn:aws:iam::222222222222:role/tenant/{tenant}", allowed_roles=TENANT_ROLES, clients=["sts"]
)
def of_a_tenant(tenant: str, *, sts: Any) -> dict[str, Any]:
    """Answer with the tenant's account."""
    return {"account": sts.get_caller_identity()["Account"]}


@assume_role(WRITER, clients=["sts"])
def lambda_handler(event, context, *, sts):
    return Mangum(app, lifespan="off")(event, context)


def get(path, context):
    event = {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": path,
        "rawQueryString": "",
        "headers": {"host": "api.example"},
        "requestContext": {
            "http": {"method": "GET", "path": path, "protocol": "HTTP/1.1", "sourceIp": "127.0.0.1", "userAgent": "a"},
            "stage": "$default",
        },
        "isBase64Encoded": False,
    }
    return json.loads(lambda_handler(event, context)["body"])


@pytest.mark.parametrize("path", ["/orders/7", "/async/7"])
def test_endpoint(aws, lambda_context, path):
    """An endpoint, sync or async, gets its path parameter, its client, and the time that the invocation has left."""
    body = get(path, lambda_context)

    assert (body["order"], body["account"]) == (7, "222222222222")
    assert 0 < body["left"] <= 3


def test_tenant(aws, lambda_context):
    """An endpoint assumes the role that its path parameter names."""
    assert get("/tenants/Reader", lambda_context) == {"account": "222222222222"}


def test_schema():
    """The OpenAPI schema has the path parameters of an endpoint and no injected client."""
    parameters = app.openapi()["paths"]["/orders/{order}"]["get"]["parameters"]

    assert [parameter["name"] for parameter in parameters] == ["order"]
