"""docs/examples/copy-objects: its suite passes, its templates deploy, and what they deploy copies objects.

``SAM_BUILD`` names the folder that ``sam build`` has made, to test that in the place of the sources: see ``.ci/sam``.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from botocore.exceptions import ClientError
from conftest import RunSuite

from xacct_lambda.cli.layer import build_layer
from xacct_lambda.testing import CrossAccountAWS

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "copy-objects"
TARGET_TEMPLATE = EXAMPLE / "target-account.yaml"
FUNCTION_TEMPLATE = Path(os.environ.get("SAM_BUILD", EXAMPLE)) / "template.yaml"

HOME = "111111111111"
OTHER = "222222222222"
REGION = "eu-west-1"
BUCKET = "orders-source"
READER = f"arn:aws:iam::{OTHER}:role/copy-objects-reader"
EXECUTION_ROLE = "copy-objects-function"

pytestmark = [
    # Those of queues and buses, and the alarm.
    pytest.mark.filterwarnings("ignore:Tried to parse AWS.*not supported by moto:UserWarning"),
]


def test_suite_passes(pytester: pytest.Pytester, run_suite: RunSuite) -> None:
    """The example's own tests pass, on a copy of it."""
    shutil.copytree(EXAMPLE, pytester.path, dirs_exist_ok=True)
    result = run_suite("-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    assert result.parseoutcomes().keys() == {"passed"}


@pytest.mark.parametrize("template", [EXAMPLE / "template.yaml", TARGET_TEMPLATE], ids=lambda path: path.name)
def test_templates_pass_cfn_lint(template: Path) -> None:
    """Both templates pass cfn-lint, warnings included."""
    cfnlint = pytest.importorskip("cfnlint.api")
    assert [str(match) for match in cfnlint.lint(template.read_text())] == []


def test_readme_deploys_with_the_parameters_of_the_templates() -> None:
    """The commands of the README give each template all its parameters, and no others."""
    lines = re.sub(r"\\\n +", "", (EXAMPLE / "README.md").read_text())
    commands = re.findall(r"--parameter-overrides ((?:\w+=\S+ ?)+)", lines)
    overrides = [{assignment.partition("=")[0] for assignment in command.split()} for command in commands]
    assert overrides == [set(parsed(path)["Parameters"]) for path in (EXAMPLE / "template.yaml", TARGET_TEMPLATE)]


class Deployed(NamedTuple):
    aws: CrossAccountAWS
    environment: dict[str, str]
    """What the function's template sets."""
    task_root: Path
    opt: Path


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Deploy both templates as the README does."""
    folder = tmp_path_factory.mktemp("deployed")
    with CrossAccountAWS(execution_role=EXECUTION_ROLE, function_name="copy-objects", region_name=REGION) as aws:
        home, other = aws.account(HOME), aws.account(OTHER)
        # The one that is trusted is the template's.
        home.client("iam").delete_role(RoleName=EXECUTION_ROLE)
        template = packaged(FUNCTION_TEMPLATE, home, folder)
        create_stack(home, translated(template), SourceAccount=OTHER, SourceBucketName=BUCKET)
        create_stack(other, parsed(TARGET_TEMPLATE), FunctionAccount=HOME, SourceBucketName=BUCKET)
        # moto's CloudFormation leaves it out.
        properties = parsed(TARGET_TEMPLATE)["Resources"]["SourceBucket"]["Properties"]
        assert properties["NotificationConfiguration"] == {"EventBridgeConfiguration": {"EventBridgeEnabled": True}}
        other.client("s3").put_bucket_notification_configuration(
            Bucket=BUCKET, NotificationConfiguration={"EventBridgeConfiguration": {}}
        )
        configuration = home.client("lambda").get_function_configuration(FunctionName="copy-objects")
        assert configuration["Role"] == aws.execution_role_arn
        yield Deployed(aws, configuration["Environment"]["Variables"], folder / "CopyObjects", folder / "Library")


def test_an_object_reaches_the_function(deployed: Deployed) -> None:
    """A new object's event gets from the source bucket to the function's bus, and the function's rule takes it."""
    event = event_of(deployed.aws, "orders/1", b"1")
    assert matches_rule(deployed.aws, event)


@pytest.mark.parametrize(
    ("field", "value"),
    [("source", "aws.ec2"), ("account", "333333333333"), ("detail-type", "Object Deleted"), ("detail", {})],
)
def test_other_events_do_not(deployed: Deployed, field: str, value: object) -> None:
    """The function's rule leaves alone what is not a new object of that bucket in that account."""
    event = event_of(deployed.aws, "orders/1", b"1")
    assert not matches_rule(deployed.aws, event | {field: value})


def test_the_function_copies_objects(deployed: Deployed, tmp_path: Path) -> None:
    """On AWS's runtime client, the artefact copies an object as the role that the other template made, assumed once."""
    pytest.importorskip("awslambdaric", reason="AWS's client is built for Linux")
    from moto.server import ThreadedMotoServer  # noqa: PLC0415 - where it is needed
    from runtime.managed_runtime import make_image, running  # noqa: PLC0415 - needs AWS's client

    aws = deployed.aws
    image = make_image(tmp_path, None)._replace(opt=deployed.opt)
    large = bytes(range(256)) * (20 * 1024 * 1024 // 256)
    events = [event_of(aws, key, body) for key, body in (("orders/1 +ü", b"1"), ("large", large))]
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        addresses = {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
        settings = deployed.environment | aws.environment | addresses
        with running(image, deployed.task_root, settings, handler="handler.lambda_handler") as function:
            answers = [function.invoke(event, seconds=30).content for event in [*events, *events]]
    finally:
        server.stop()

    assert answers == [{"key": key, "copies": copies} for copies in (1, 0) for key in ("orders/1 +ü", "large")]
    copies = aws.account(HOME).client("s3")
    bucket = deployed.environment["DESTINATION_BUCKET"]
    assert [copies.get_object(Bucket=bucket, Key=key)["Body"].read() for key in ("orders/1 +ü", "large")] == [
        b"1",
        large,
    ]
    [call] = aws.assumed
    assert (call.role_arn, call.role_session_name) == (READER, "copy-objects")
    assert call.caller_arn == f"arn:aws:sts::{HOME}:assumed-role/{EXECUTION_ROLE}/copy-objects"


@pytest.mark.parametrize("account", [HOME, "333333333333"])
def test_the_role_trusts_the_function_alone(deployed: Deployed, account: str) -> None:
    """Another role of the function's account is refused as one of any other account is, whatever it is allowed."""
    administrator = deployed.aws.account(account).client("sts")
    with pytest.raises(ClientError, match="AccessDenied"):
        administrator.assume_role(RoleArn=READER, RoleSessionName="someone")


def parsed(path: Path) -> dict[str, Any]:
    """Return a template, with its intrinsic functions in their long form."""
    return pytest.importorskip("samtranslator.yaml_helper").yaml_parse(path.read_text())


def packaged(path: Path, account: Any, folder: Path) -> dict[str, Any]:
    """Do what ``sam deploy`` does with a template's artefacts, and unpack them as Lambda does."""
    template = parsed(path)
    s3 = account.client("s3")
    s3.create_bucket(Bucket="artefacts", CreateBucketConfiguration={"LocationConstraint": REGION})
    for name, kind in (("CopyObjects", "CodeUri"), ("Library", "ContentUri")):
        properties = template["Resources"][name]["Properties"]
        content = zip_of(path.parent / properties[kind])
        s3.put_object(Bucket="artefacts", Key=name, Body=content)
        zipfile.ZipFile(io.BytesIO(content)).extractall(folder / name)
        properties[kind] = f"s3://artefacts/{name}"
    return template


def zip_of(artefact: Path) -> bytes:
    if artefact.is_file():
        return artefact.read_bytes()
    if artefact.name == "xacct-lambda-layer.zip":
        return build_layer().content
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for file in artefact.glob("*.*"):
            archive.write(file, file.name)
    return buffer.getvalue()


def translated(template: dict[str, Any]) -> dict[str, Any]:
    """Do what CloudFormation does with a template that names the transform."""
    parser = pytest.importorskip("samtranslator.parser.parser")
    translator = pytest.importorskip("samtranslator.translator.translator")
    return translator.Translator({}, parser.Parser()).translate(template, {})


def create_stack(account: Any, template: dict[str, Any], **parameters: str) -> None:
    account.client("cloudformation").create_stack(
        StackName="copy-objects",
        TemplateBody=json.dumps(template),
        Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )


def event_of(aws: CrossAccountAWS, key: str, body: bytes) -> Any:
    """Put an object into the source bucket, and return what arrives at the function's bus."""
    events, queues = aws.account(HOME).client("events"), aws.account(HOME).client("sqs")
    queue = queues.create_queue(QueueName="all-events")["QueueUrl"]
    arn = queues.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    events.put_rule(Name="all", EventBusName="copy-objects", EventPattern='{"source": ["aws.s3"]}')
    events.put_targets(Rule="all", EventBusName="copy-objects", Targets=[{"Id": "queue", "Arn": arn}])
    aws.account(OTHER).client("s3").put_object(Bucket=BUCKET, Key=key, Body=body)
    [message] = queues.receive_message(QueueUrl=queue)["Messages"]
    queues.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
    # moto enters the account of the bus, EventBridge that of the bucket.
    return json.loads(message["Body"]) | {"account": OTHER}


def matches_rule(aws: CrossAccountAWS, event: dict[str, Any]) -> bool:
    """Return whether the function's rule lets an event through."""
    from moto.events.models import EventPattern  # noqa: PLC0415 - imports much of moto

    events = aws.account(HOME).client("events")
    [rule] = [rule for rule in events.list_rules(EventBusName="copy-objects")["Rules"] if rule["Name"] != "all"]
    [target] = events.list_targets_by_rule(Rule=rule["Name"], EventBusName="copy-objects")["Targets"]
    assert target["Arn"].endswith(":function:copy-objects")
    return EventPattern.load(rule["EventPattern"]).matches_event(event)
