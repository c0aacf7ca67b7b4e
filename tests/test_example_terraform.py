"""docs/examples/copy-objects/terraform: the same two accounts as in the two templates, policy by policy."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

hcl2 = pytest.importorskip("hcl2")
yaml_helper = pytest.importorskip("samtranslator.yaml_helper")

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "copy-objects"
TEMPLATES = [EXAMPLE / "template.yaml", EXAMPLE / "target-account.yaml"]
CONFIGURATION = sorted(EXAMPLE.glob("terraform/*.tf"))

HOME = "111111111111"
OTHER = "222222222222"
REGION = "eu-west-1"
BUCKET = "orders-source"

CONCRETE = {
    "SourceAccount": OTHER,
    "FunctionAccount": HOME,
    "SourceBucketName": BUCKET,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::AccountId": OTHER,
    "DestinationBucket.Arn": "arn:aws:s3:::copies",
    "SourceBucket.Arn": f"arn:aws:s3:::{BUCKET}",
    "EventBus.Arn": f"arn:aws:events:{REGION}:{HOME}:event-bus/copy-objects",
    "FailedEvents.Arn": "arn:aws:sqs:failed",
    "UndeliveredEvents.Arn": "arn:aws:sqs:undelivered",
    "LogGroup.Arn": "arn:aws:logs:copy-objects:*",
    "CopyObjectsObjectCreated.Arn": "arn:aws:events:created",
    "ForwardNewObjects.Arn": "arn:aws:events:forward",
}
TERRAFORM = {
    "var.source_account": "SourceAccount",
    "var.function_account": "FunctionAccount",
    "var.source_bucket_name": "SourceBucketName",
    "data.aws_partition.current.partition": "AWS::Partition",
    "aws_s3_bucket.source.bucket": "SourceBucketName",
    "aws_s3_bucket.destination.arn": "DestinationBucket.Arn",
    "aws_s3_bucket.source.arn": "SourceBucket.Arn",
    "aws_cloudwatch_event_bus.copy_objects.arn": "EventBus.Arn",
    "aws_sqs_queue.failed_events.arn": "FailedEvents.Arn",
    "aws_sqs_queue.undelivered_events.arn": "UndeliveredEvents.Arn",
    "aws_cloudwatch_event_rule.object_created.arn": "CopyObjectsObjectCreated.Arn",
    "aws_cloudwatch_event_rule.forward_new_objects.arn": "ForwardNewObjects.Arn",
}
TERRAFORM_CONCRETE = {expression: CONCRETE[name] for expression, name in TERRAFORM.items()} | {
    "aws_iam_role.reader.arn": f"arn:aws:iam::{OTHER}:role/copy-objects-reader",
    "aws_iam_role.forwarder.arn": f"arn:aws:iam::{OTHER}:role/copy-objects-forwarder",
    "aws_iam_role.execution.arn": f"arn:aws:iam::{HOME}:role/copy-objects-function",
    # CloudFormation's ends in an asterisk already.
    "aws_cloudwatch_log_group.copy_objects.arn": CONCRETE["LogGroup.Arn"].removesuffix(":*"),
}


@pytest.mark.parametrize(
    ("document", "resource", "path"),
    [
        ("execution_trust", "ExecutionRole", ["AssumeRolePolicyDocument"]),
        ("execution", "ExecutionRole", ["Policies", 0, "PolicyDocument"]),
        ("event_bus", "EventBusPolicy", []),
        ("failed_events", "FailedEventsPolicy", ["PolicyDocument"]),
        ("reader_trust", "Reader", ["AssumeRolePolicyDocument"]),
        ("reader", "Reader", ["Policies", 0, "PolicyDocument"]),
        ("forwarder_trust", "Forwarder", ["AssumeRolePolicyDocument"]),
        ("forwarder", "Forwarder", ["Policies", 0, "PolicyDocument"]),
        ("undelivered_events", "UndeliveredEventsPolicy", ["PolicyDocument"]),
    ],
)
def test_terraform_has_the_same_policies(document: str, resource: str, path: list[Any]) -> None:
    """Each policy of the Terraform variant says what the template's says."""
    template: Any = resources()[resource]["Properties"]
    for key in path:
        template = template[key]
    statements = template["Statement"] if isinstance(template["Statement"], list) else [template["Statement"]]
    [block] = terraform("data", "aws_iam_policy_document", document)
    assert [of_terraform(some) for some in block["statement"]] == [of_template(some) for some in statements]


@pytest.mark.parametrize(
    ("rule", "path"),
    [
        ("forward_new_objects", ["ForwardNewObjects", "Properties", "EventPattern"]),
        ("object_created", ["CopyObjects", "Properties", "Events", "ObjectCreated", "Properties", "Pattern"]),
    ],
)
def test_terraform_has_the_same_event_patterns(rule: str, path: list[str]) -> None:
    """Each rule of the Terraform variant takes the events that the template's takes."""
    template: Any = resources()
    for key in path:
        template = template[key]
    [block] = terraform("resource", "aws_cloudwatch_event_rule", rule)
    expression = re.fullmatch(r"\$\{jsonencode\((.*)\)\}", block["event_pattern"])[1]
    for name, value in TERRAFORM_CONCRETE.items():
        expression = expression.replace(name, json.dumps(value))
    assert json.loads(expression.replace(" = ", ": ")) == concrete(template)


def test_terraform_refers_to_what_it_declares() -> None:
    """Every variable, resource and document that the Terraform variant refers to is there."""
    text = re.sub(r"#.*", "", "".join(path.read_text() for path in CONFIGURATION))
    declared = {
        *(f"var.{name}" for name in re.findall(r'^variable "(\w+)"', text, re.MULTILINE)),
        *(f"{kind}.{name}" for kind, name in re.findall(r'^resource "(\w+)" "(\w+)"', text, re.MULTILINE)),
        *(f"data.{kind}.{name}" for kind, name in re.findall(r'^data "(\w+)" "(\w+)"', text, re.MULTILINE)),
    }
    used = set(re.findall(r"\b(?:var|(?<!data\.)aws_\w+|data\.\w+)\.[a-z]\w*", text))
    assert used - declared == set()
    assert {name for name in declared if name.startswith(("var.", "data."))} <= used


def resources() -> dict[str, Any]:
    """Return the resources of both templates."""
    first, second = (yaml_helper.yaml_parse(path.read_text())["Resources"] for path in TEMPLATES)
    return first | second


def concrete(value: Any) -> Any:
    """Return a part of a template with its intrinsic functions evaluated."""
    match value:
        case {"Ref": name} | {"Fn::GetAtt": str(name)}:
            return CONCRETE[name]
        case {"Fn::GetAtt": [*names]}:
            return CONCRETE[".".join(names)]
        case {"Fn::Sub": text}:
            return re.sub(r"\$\{(.*?)\}", lambda match: CONCRETE[match[1]], text)
        case dict():
            return {name: concrete(part) for name, part in value.items()}
        case list():
            return [concrete(part) for part in value]
    return value


def of_template(statement: dict[str, Any]) -> dict[str, Any]:
    """Return a statement in a form that does not depend on the language."""
    statement = concrete(statement)
    conditions = statement.get("Condition", {})
    return {
        "effect": statement["Effect"],
        "actions": listed(statement["Action"]),
        "resources": listed(statement.get("Resource", [])),
        "principals": {kind: listed(names) for kind, names in statement.get("Principal", {}).items()},
        "conditions": {(test, key): listed(values) for test, of in conditions.items() for key, values in of.items()},
    }


def of_terraform(statement: dict[str, Any]) -> dict[str, Any]:
    """Return a statement in a form that does not depend on the language."""

    def evaluated(values: list[str]) -> list[str]:
        return sorted(re.sub(r"\$\{(.*?)\}", lambda match: TERRAFORM_CONCRETE[match[1]], value) for value in values)

    return {
        "effect": statement.get("effect", "Allow"),
        "actions": evaluated(statement["actions"]),
        "resources": evaluated(statement.get("resources", [])),
        "principals": {some["type"]: evaluated(some["identifiers"]) for some in statement.get("principals", [])},
        "conditions": {
            (some["test"], some["variable"]): evaluated(some["values"]) for some in statement.get("condition", [])
        },
    }


def listed(value: str | list[str]) -> list[str]:
    return sorted([value] if isinstance(value, str) else value)


def terraform(kind: str, of: str, name: str) -> list[dict[str, Any]]:
    """Return the blocks of that name."""
    files = [hcl2.loads(path.read_text()) for path in CONFIGURATION]
    blocks = [unquoted(block) for file in files for block in file.get(kind, [])]
    return [block[of][name] for block in blocks if name in block.get(of, {})]


def unquoted(value: Any) -> Any:
    # Newer versions of python-hcl2 keep the quotes of Terraform's strings.
    match value:
        case str():
            return value.removeprefix('"').removesuffix('"')
        case dict():
            return {unquoted(name): unquoted(part) for name, part in value.items()}
        case list():
            return [unquoted(part) for part in value]
    return value
