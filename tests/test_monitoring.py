"""docs/monitoring.md and docs/examples/monitoring: the hooks, the metrics, the alarms, and the queries of the page."""

from __future__ import annotations

import fnmatch
import json
import logging
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import boto3
import jsonschema
import pytest
import yaml
from benchmarks import dashboard
from conftest import ROLE, Clock, FakeSTS, outage, until
from test_docs import PROJECT, Block, blocks_of

from xacct_lambda import assumed_session
from xacct_lambda.instrumentation import CredentialEvent, get_hooks

PAGE = PROJECT / "docs" / "monitoring.md"
TEMPLATE = PROJECT / "docs" / "examples" / "monitoring" / "template.yaml"
NAMESPACE = "CrossAccount"

_EXPIRY = datetime(2027, 1, 15, 8, tzinfo=UTC)
_ERROR = {"role_arn": ROLE, "error_code": "AccessDenied"}
EVENTS = [
    CredentialEvent(kind="assume_role", role_arn=ROLE, duration_seconds=0.25, waited_seconds=0.5, expires_at=_EXPIRY),
    CredentialEvent(
        kind="assume_role", role_arn=ROLE, duration_seconds=0.25, expires_at=_EXPIRY, session_token_utilization=17
    ),
    CredentialEvent(kind="assume_role", duration_seconds=1.0, **_ERROR),
    CredentialEvent(kind="refusal", **_ERROR),
    CredentialEvent(kind="rejection", role_arn=ROLE, error_code="ExpiredToken", expires_at=_EXPIRY),
    CredentialEvent(kind="eviction", role_arn=ROLE, expires_at=_EXPIRY),
]


def block(language: str, text: str) -> Block:
    """Return the one block of the page that contains the text."""
    [found] = [block for block in blocks_of(PAGE) if block.language == language and text in block.text]
    return found


def run(found: Block) -> dict[str, Any]:
    module = ModuleType("page")
    exec(compile(found.text, str(found), "exec"), vars(module))  # noqa: S102 - the point
    return vars(module)


def publish_all() -> None:
    [hook] = get_hooks()
    for event in EVENTS:
        hook(event)


# The published schema of the format, and the rules of its text that a schema can't express:
# https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
_NAME = {"type": "string", "minLength": 1, "maxLength": 255}


def _emf_schema() -> dict[str, Any]:
    model = boto3.Session()._session.get_service_model("cloudwatch")
    metric = {
        "type": "object",
        "required": ["Name"],
        "properties": {"Name": _NAME, "Unit": {"enum": model.shape_for("StandardUnit").enum}},
    }
    directive = {
        "type": "object",
        "required": ["Namespace", "Dimensions", "Metrics"],
        "additionalProperties": False,
        "properties": {
            "Namespace": _NAME,
            "Dimensions": {"type": "array", "minItems": 1, "items": {"type": "array", "maxItems": 9, "items": _NAME}},
            "Metrics": {"type": "array", "maxItems": 100, "items": metric},
        },
    }
    metadata = {
        "type": "object",
        "required": ["Timestamp", "CloudWatchMetrics"],
        "properties": {
            "Timestamp": {"type": "integer"},
            "CloudWatchMetrics": {"type": "array", "items": directive},
        },
    }
    return {"type": "object", "required": ["_aws"], "properties": {"_aws": metadata}}


def metrics_of(line: str) -> dict[tuple[str, tuple[str, ...]], float]:
    """Check a line in the embedded metric format; return its values by metric and dimensions."""
    document = json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    jsonschema.validate(document, _emf_schema())
    found = {}
    for directive in document["_aws"]["CloudWatchMetrics"]:
        assert directive["Namespace"] == NAMESPACE
        for dimensions in directive["Dimensions"]:
            assert all(isinstance(document[name], str) for name in dimensions)
            for metric in directive["Metrics"]:
                value = document[metric["Name"]]
                [value] = value if isinstance(value, list) else [value]
                assert isinstance(value, int | float)
                found[metric["Name"], tuple(dimensions)] = value
    return found


def summed(lines: list[str], *dimensions: str) -> dict[str, float]:
    total: dict[str, float] = {}
    for line in lines:
        for (name, of), value in metrics_of(line).items():
            if of == dimensions:
                total[name] = total.get(name, 0) + value
    return total


TOTALS = {
    "AssumeRole": 3,
    "AssumeRoleFailure": 1,
    "AssumeRoleDuration": 1500,
    "RequestWait": 500,
    "Refusal": 1,
    "Rejection": 1,
    "Eviction": 1,
}


def test_the_standard_library_writes_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    """The hook of the page prints one line for each event, in CloudWatch's embedded metric format."""
    run(block("python", "def print_metrics"))
    publish_all()

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(EVENTS)
    assert summed(lines) == summed(lines, "RoleArn") == {**TOTALS, "SessionTokenUtilization": 17}
    failure = json.loads(lines[2])
    assert (failure["RoleArn"], failure["ErrorCode"], failure["ExpiresAt"]) == (ROLE, "AccessDenied", None)
    assert json.loads(lines[0])["ExpiresAt"] == "2027-01-15T08:00:00+00:00"


def test_powertools_writes_metrics(capsys: pytest.CaptureFixture[str]) -> None:
    """With Powertools, the hook of the page prints the same metrics for each role."""
    pytest.importorskip("aws_lambda_powertools")
    run(block("py", "EphemeralMetrics"))
    publish_all()

    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(EVENTS)
    assert summed(lines, "RoleArn") == TOTALS
    assert json.loads(lines[2])["ErrorCode"] == "AccessDenied"


def test_opentelemetry_counts_events() -> None:
    """With OpenTelemetry, the hook of the page counts events, and measures calls and waits in seconds."""
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry import metrics  # noqa: PLC0415 - may be absent
    from opentelemetry.sdk.metrics import MeterProvider  # noqa: PLC0415 - the same
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: PLC0415 - the same

    reader = InMemoryMetricReader()
    page = block("py", "create_counter")
    with pytest.MonkeyPatch.context() as patch:
        # A process has one provider, which can't be replaced.
        patch.setattr(metrics, "get_meter", MeterProvider([reader]).get_meter)
        run(page)
    publish_all()

    [of_resource] = reader.get_metrics_data().resource_metrics
    [of_scope] = of_resource.scope_metrics
    points = {metric.name: metric.data.data_points for metric in of_scope.metrics}
    counted = {
        (point.attributes["cross_account.event"], point.attributes.get("error.type")): point.value
        for point in points["cross_account.credential.events"]
    }
    assert counted == {
        ("assume_role", None): 2,
        ("assume_role", "AccessDenied"): 1,
        ("refusal", "AccessDenied"): 1,
        ("rejection", "ExpiredToken"): 1,
        ("eviction", None): 1,
    }
    assert sum(point.sum for point in points["cross_account.assume_role.duration"]) == 1.5
    assert sum(point.sum for point in points["cross_account.request.wait"]) == 0.5
    assert {point.attributes["aws.iam.role.arn"] for found in points.values() for point in found} == {ROLE}


def test_the_first_hook_of_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    """The shortest hook of the page prints failures and nothing else."""
    run(block("python", "def print_failures"))
    publish_all()

    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["assume_role", "refusal", "rejection"]


# The template.


class _Loader(yaml.SafeLoader):
    """YAML with the short forms of CloudFormation's functions."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: node.value)


def resources(text: str) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(text, _Loader)  # noqa: S506 - a safe loader with more tags
    return loaded.get("Resources", loaded)


def test_the_template_passes_cfn_lint() -> None:
    """The template passes cfn-lint, warnings included."""
    cfnlint = pytest.importorskip("cfnlint.api")
    assert [str(match) for match in cfnlint.lint(TEMPLATE.read_text())] == []


def test_the_page_shows_the_filter_of_the_template() -> None:
    """The metric filter of the page is that of the template."""
    shown = resources(block("yaml", "MetricFilter").text)
    assert shown == {"WarningFilter": resources(TEMPLATE.read_text())["WarningFilter"]}


def test_alarms_and_charts_are_of_metrics_that_exist(capsys: pytest.CaptureFixture[str]) -> None:
    """Each alarm and each chart uses a metric that the hook of the page prints, with the dimensions that it has."""
    run(block("python", "def print_metrics"))
    publish_all()
    printed = summed(capsys.readouterr().out.splitlines()).keys() | {"Warning"}

    found = resources(TEMPLATE.read_text())
    alarms = [resource["Properties"] for resource in found.values() if resource["Type"] == "AWS::CloudWatch::Alarm"]
    assert {alarm["MetricName"] for alarm in alarms} <= printed
    assert {alarm["Namespace"] for alarm in alarms} == {NAMESPACE}
    assert all("Dimensions" not in alarm for alarm in alarms)
    dashboard = json.loads(found["Dashboard"]["Properties"]["DashboardBody"])
    charted = [metric for widget in dashboard["widgets"] for metric in widget["properties"]["metrics"]]
    names = {metric[1] for metric in charted if isinstance(metric[0], str)}
    names |= {re.search('MetricName="(.*?)"', metric[0]["expression"])[1] for metric in charted if len(metric) == 1}
    assert names <= printed
    table = PAGE.read_text().partition("## Hooks")[0]
    assert {alarm["MetricName"] for alarm in alarms} - {"Warning"} == set(re.findall(r"`(\w+)`(?: ≥| >)", table))


def test_a_simulated_outage_is_in_the_metrics() -> None:
    """In the simulation that the dashboard shows, an outage fails refreshes, and no request of valid credentials."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dashboard, "OUTAGE", range(40, 54))
        documents = dashboard.simulate(minutes=64)

    metrics = [metrics_of(json.dumps(document)) for _, document in documents]
    failed = {minute for (minute, _), found in zip(documents, metrics, strict=True) if found["AssumeRoleFailure", ()]}
    assert failed
    assert failed <= set(range(40, 54))
    assert sum(found["AssumeRole", ()] for found in metrics) >= 24
    assert all(("Refusal", ()) not in found for found in metrics)


# The log.


@pytest.fixture
def warning(sts: FakeSTS, clock: Clock, _sts_is_fake: None, caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    """The record of an outage."""
    credentials = assumed_session(ROLE).get_credentials()
    credentials.get_frozen_credentials()
    clock.advance(3600 - 600)
    sts.failure = outage()
    credentials.get_frozen_credentials()
    until(lambda: bool(caplog.records))
    return caplog.records[0]


def json_pattern(pattern: str) -> Callable[[dict[str, Any]], bool]:
    """Return CloudWatch's filter pattern as a function: fields that equal texts with wildcards, joined by &&."""
    inner = re.fullmatch(r"\{ (.*) \}", pattern)
    conditions = [re.fullmatch(r'\$\.(\w+) = "(.*)"', part).groups() for part in inner[1].split(" && ")]
    return lambda record: all(fnmatch.fnmatchcase(record.get(field, ""), value) for field, value in conditions)


def test_the_filter_finds_the_warning_of_an_outage(warning: logging.LogRecord) -> None:
    """The metric filter matches the WARNING of an outage in Lambda's JSON log, and no record of another kind."""
    log_utils = pytest.importorskip("awslambdaric.lambda_runtime_log_utils")
    matches = json_pattern(resources(TEMPLATE.read_text())["WarningFilter"]["Properties"]["FilterPattern"])

    record = json.loads(log_utils.JsonFormatter().format(warning))
    assert matches(record)
    assert ROLE in record["message"]
    assert not matches(record | {"level": "DEBUG"})
    assert not matches(record | {"logger": "handler"})


def test_the_pattern_for_plain_text_finds_the_same_warning(warning: logging.LogRecord) -> None:
    """In Lambda's text log, the WARNING of an outage contains all terms of the page's pattern."""
    terms = re.findall('"(.*?)"', block("text", "[WARNING]").text)
    line = f"[{warning.levelname}]\t2026-11-25T12:00:00.000Z\tREQUEST\t{warning.getMessage()}"
    assert len(terms) == 2
    assert all(term in line for term in terms)


# CloudTrail.


def trail_event(session: str, action: str, **identity: Any) -> dict[str, Any]:
    return {
        "eventTime": "2026-11-25 12:00:00",
        "eventSource": "s3.amazonaws.com",
        "eventName": action,
        "awsRegion": "eu-west-1",
        "errorCode": None,
        "userIdentity": {
            "type": "AssumedRole",
            "arn": f"arn:aws:sts::222222222222:assumed-role/{session}",
            "accessKeyId": "ASIAONE",
            **identity,
        },
    }


@pytest.mark.parametrize(
    ("text", "expected"), [("assumed-role", ["GetObject"]), ("sourceIdentity", ["PutObject"])], ids=["role", "person"]
)
def test_the_queries_find_a_sessions_calls(text: str, expected: list[str]) -> None:
    """Each query of the page returns the calls of one role session, or of one person, in the order of time."""
    events = [
        trail_event("Reader/copy-objects", "GetObject"),
        trail_event("Reader/copy-objects", "ListBuckets") | {"eventTime": "2026-11-24 12:00:00"},
        trail_event("Reader/other-function", "DeleteObject"),
        trail_event("Writer/other-function", "PutObject", sessionContext={"sourceIdentity": "alice"}),
        trail_event("Writer/other-function", "DeleteObject", sessionContext={"sourceIdentity": "bob"}),
    ]
    # CloudTrail Lake reads fields of a structure with dots, and SQLite reads those of JSON with an arrow.
    query = re.sub(r"userIdentity\.([\w.]+)", r"userIdentity ->> '$.\1'", block("sql", text).text)
    columns = list(events[0])
    with closing(sqlite3.connect(":memory:")) as trail:
        trail.execute(f"CREATE TABLE EVENT_DATA_STORE_ID ({', '.join(columns)})")
        for event in events:
            values = [json.dumps(value) if isinstance(value, dict) else value for value in event.values()]
            trail.execute(f"INSERT INTO EVENT_DATA_STORE_ID VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608
        trail.row_factory = sqlite3.Row
        assert [row["eventName"] for row in trail.execute(query)] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("assumed-role", ["GetObject"]), ('filter eventSource = "sts.amazonaws.com"', ["AssumeRole"])],
    ids=["session", "role"],
)
def test_the_filters_of_logs_insights_find_a_roles_calls(text: str, expected: list[str]) -> None:
    """Each query for CloudWatch Logs Insights filters by fields that CloudTrail's records have."""
    call = {
        "requestParameters": {"roleArn": "arn:aws:iam::222222222222:role/Reader", "roleSessionName": "copy-objects"}
    }
    records = [
        trail_event("Reader/copy-objects", "GetObject"),
        trail_event("Reader/other-function", "DeleteObject"),
        trail_event("Writer/other-function", "AssumeRole") | call | {"eventSource": "sts.amazonaws.com"},
        trail_event("Writer/other-function", "GetCallerIdentity") | {"eventSource": "sts.amazonaws.com"},
    ]
    conditions = re.findall(r'([\w.]+) = "(.*?)"', block("text", text).text)

    def has(record: dict[str, Any], path: str, value: str) -> bool:
        found: Any = record
        for name in path.split("."):
            found = found.get(name, {})
        return bool(found == value)

    matching = [record for record in records if all(has(record, *condition) for condition in conditions)]
    assert [record["eventName"] for record in matching] == expected
