"""The decorator among those of Powertools for AWS Lambda, the real package."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import boto3
import pytest
from aws_lambda_powertools import Logger, Metrics, Tracer
from aws_lambda_powertools.middleware_factory import lambda_handler_decorator
from aws_lambda_powertools.utilities import parameters
from aws_lambda_powertools.utilities.data_classes import SQSEvent, event_source
from conftest import ROLE
from moto import mock_aws

from xacct_lambda import assume_role, assumed_session

CONTEXT: Any = SimpleNamespace(
    function_name="read-orders",
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

    assert decorated({"Records": []}, CONTEXT) is assumed_session(ROLE).client("sqs")


@pytest.mark.filterwarnings("ignore::UserWarning:aws_lambda_powertools")
@pytest.mark.parametrize("name", FORWARD_KEYWORDS)
def test_over(name: str) -> None:
    """Above the decorators that hand keyword arguments on (logger, tracer, metrics) it works as well."""
    decorator: Any = FORWARD_KEYWORDS[name]
    decorated = assume_role(ROLE, clients=["sqs"])(decorator(handler))

    assert decorated({"Records": []}, CONTEXT) is assumed_session(ROLE).client("sqs")


def test_parameters_of_the_other_account() -> None:
    """Powertools' parameters utility reads from the other account through an assumed session."""
    with mock_aws():
        session = assumed_session(ROLE)
        session.client("ssm").put_parameter(Name="/orders/url", Value="https://orders.example", Type="String")

        provider = parameters.SSMProvider(boto3_session=session)

        assert provider.get("/orders/url") == "https://orders.example"
        with pytest.raises(parameters.exceptions.GetParameterError):
            parameters.SSMProvider(boto3_session=boto3.Session()).get("/orders/url")
