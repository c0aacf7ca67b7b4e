"""Sentry: reports of errors with the local variables of every frame."""

from __future__ import annotations

import json
from typing import Any

import pytest
import sentry_sdk
from sentry_sdk.integrations.boto3 import Boto3Integration

from xacct_lambda import assume_role, assumed_session
from xacct_lambda.exceptions import AssumeRoleError, ConfigurationError

from .conftest import READER

EXTERNAL_ID = "shared-with-" + "blue-only"  # as one literal, it would be in the source lines that Sentry reports


@pytest.fixture
def reports():
    sent: list[Any] = []

    class Transport(sentry_sdk.Transport):
        def capture_envelope(self, envelope: Any) -> None:
            sent.extend(item.payload.json for item in envelope.items)

    sentry_sdk.init(
        dsn="https://key@sentry.example/1",
        transport=Transport,
        traces_sample_rate=1.0,
        default_integrations=False,
        integrations=[Boto3Integration()],
    )
    yield sent
    sentry_sdk.init()


def report(handler, event, context, expected):
    with pytest.raises(expected) as raised:
        handler(event, context)
    sentry_sdk.capture_exception(raised.value)


def test_a_refusal(aws, reports, lambda_context):
    """The report of a refusal has neither the caller's secret key nor the external ID."""

    @assume_role(READER.replace("Reader", "Missing"), external_id=lambda event, context: EXTERNAL_ID, clients=["sts"])
    def lambda_handler(event, context, *, sts):
        return sts.get_caller_identity()

    report(lambda_handler, {}, lambda_context, AssumeRoleError)

    [sent] = reports
    assert sent["exception"]["values"][-1]["type"] == "AssumeRoleError"
    assert EXTERNAL_ID not in json.dumps(sent)
    assert aws.environment["AWS_SECRET_ACCESS_KEY"] not in json.dumps(sent)


def test_an_invalid_event(aws, reports, lambda_context):
    """The report of an invalid event doesn't have the external ID."""

    @assume_role(
        READER,
        external_id=lambda event, context: EXTERNAL_ID,
        tags=lambda event, context: {"tenant": event["tenant"]},
        clients=["sts"],
    )
    def lambda_handler(event, context, *, sts):
        return sts.get_caller_identity()

    report(lambda_handler, {"tenant": "not*a*tag"}, lambda_context, ConfigurationError)

    assert EXTERNAL_ID not in json.dumps(reports)


def test_spans(aws, reports):
    """Each request has one span, AssumeRole included, and no span has a secret."""
    session = assumed_session(READER)
    with sentry_sdk.start_transaction(name="orders"):
        session.client("sts").get_caller_identity()
        session.client("sts").get_caller_identity()

    [transaction] = reports
    operations = [span["description"] for span in transaction["spans"]]
    assert operations.count("aws.sts.GetCallerIdentity") == 2
    assert operations.count("aws.sts.AssumeRole") == 1
    frozen = session.get_credentials().get_frozen_credentials()
    assert frozen.token not in json.dumps(transaction)
    assert frozen.secret_key not in json.dumps(transaction)
