"""OpenTelemetry: the instrumentation of botocore."""

from __future__ import annotations

import pytest
from opentelemetry.instrumentation.botocore import BotocoreInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from xacct_lambda import assume_role, assumed_session

from .conftest import READER


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    BotocoreInstrumentor().instrument(tracer_provider=provider)
    yield exporter
    BotocoreInstrumentor().uninstrument()


def test_spans(aws, spans, lambda_context):
    """Each request has one span, AssumeRole included, and no span has a secret or the external ID."""

    @assume_role(READER, external_id="shared-with-blue", clients=["sts"])
    def lambda_handler(event, context, *, sts):
        return [sts.get_caller_identity()["Account"] for _ in range(2)]

    assert lambda_handler({}, lambda_context) == ["222222222222"] * 2

    finished = spans.get_finished_spans()
    assert sorted(span.name for span in finished) == [
        "STS.AssumeRole",
        "STS.GetCallerIdentity",
        "STS.GetCallerIdentity",
    ]
    frozen = assumed_session(READER, external_id="shared-with-blue").get_credentials().get_frozen_credentials()
    for text in ("shared-with-blue", frozen.secret_key, frozen.token):
        assert text not in "".join(span.to_json() for span in finished)
