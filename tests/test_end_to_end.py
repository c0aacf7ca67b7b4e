"""Whole journeys on moto's AWS: two accounts, real botocore requests, other people's hooks and patches."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from conftest import OTHER_ROLE, ROLE
from moto import mock_aws

from xacct_lambda import assume_role, assumed_session, cache_info


@pytest.fixture
def _aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Be a function in 111111111111, as Lambda makes one: the credentials of its execution role in the environment."""
    with mock_aws():
        issued = boto3.client("sts").assume_role(
            RoleArn="arn:aws:iam::111111111111:role/my-lambda-execution-role", RoleSessionName="read-orders"
        )["Credentials"]
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", issued["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", issued["SecretAccessKey"])
        monkeypatch.setenv("AWS_SESSION_TOKEN", issued["SessionToken"])
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", "read-orders")
        boto3.DEFAULT_SESSION = None
        yield


def whoami(session: boto3.Session | Any = boto3) -> str:
    return str(session.client("sts").get_caller_identity()["Arn"])


@pytest.mark.usefixtures("_aws")
def test_a_handler_works_in_the_other_account() -> None:
    """The article's scenario: a function in 111111111111 reads a bucket in 222222222222, with one AssumeRole call."""
    session = assumed_session(ROLE)
    session.client("s3", region_name="us-east-1").create_bucket(Bucket="orders")
    session.client("s3").put_object(Bucket="orders", Key="1.json", Body=b"{}")

    @assume_role(ROLE, clients=["s3", "sts"])
    def lambda_handler(event, context, *, s3, sts):
        keys = [item["Key"] for item in s3.list_objects_v2(Bucket=event["bucket"])["Contents"]]
        return sts.get_caller_identity()["Arn"], keys

    for _ in range(3):
        assert lambda_handler({"bucket": "orders"}, None) == (
            "arn:aws:sts::222222222222:assumed-role/role-on-source-account/read-orders",
            ["1.json"],
        )
    assert whoami() == "arn:aws:sts::111111111111:assumed-role/my-lambda-execution-role/read-orders"
    assert cache_info().sts_calls == 1


@pytest.mark.usefixtures("_aws")
def test_roles_are_chained_through_a_source_session() -> None:
    """``source_session=assumed_session(FIRST)`` assumes the second role as the first."""
    first = assumed_session(ROLE)

    assert whoami(assumed_session(OTHER_ROLE, source_session=first)).startswith(
        "arn:aws:sts::333333333333:assumed-role/Reader/"
    )
    assert cache_info().sts_calls == 2


@pytest.mark.usefixtures("_aws")
def test_sessions_of_two_regions_share_one_call() -> None:
    """One role in two Regions is two sessions and one AssumeRole call."""
    regions = [whoami(assumed_session(ROLE, region_name=region)) for region in ("eu-west-1", "us-east-1")]

    assert regions[0] == regions[1]
    assert cache_info().sts_calls == 1


@pytest.mark.usefixtures("_aws")
def test_a_presigned_url_is_the_roles() -> None:
    """A presigned URL bears the assumed role's session token."""
    url = (
        assumed_session(ROLE, min_ttl_seconds=900)
        .client("s3")
        .generate_presigned_url("get_object", Params={"Bucket": "orders", "Key": "1.json"}, ExpiresIn=900)
    )
    frozen = assumed_session(ROLE).get_credentials().get_frozen_credentials()

    assert frozen.access_key in url


@pytest.mark.usefixtures("_aws")
def test_resources_act_as_the_role() -> None:
    """A resource and what it makes act in the other account."""
    table = (
        assumed_session(ROLE)
        .resource("dynamodb")
        .create_table(
            TableName="orders",
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
    )
    table.put_item(Item={"id": "1", "total": 3})

    assert ":222222222222:" in table.table_arn
    assert table.get_item(Key={"id": "1"})["Item"]["total"] == 3


@pytest.mark.parametrize("order", ["library first", "moto first"])
@pytest.mark.parametrize("import_style", ["used before", "imported before"])
def test_moto_works_whichever_comes_first(order: str, import_style: str) -> None:
    """moto mocks assumed sessions whether it is imported before the library or after a session was made."""
    use = f'xacct_lambda.assumed_session("{ROLE}").client("sts")' if import_style == "used before" else ""
    ours = f"import xacct_lambda\n{use}"
    lines = [ours, "from moto import mock_aws"] if order == "library first" else ["from moto import mock_aws", ours]
    script = "\n".join(
        [
            *lines,
            "with mock_aws():",
            f'    session = xacct_lambda.assumed_session("{ROLE}")',
            '    print(session.client("sts").get_caller_identity()["Arn"])',
        ]
    )

    assert _python(script) == "arn:aws:sts::222222222222:assumed-role/role-on-source-account/xacct-lambda"


@pytest.mark.parametrize("order", ["library first", "patch first"])
def test_instrumentation_that_patches_botocore(order: str) -> None:
    """A tool that wraps ``BaseClient._make_api_call``, as X-Ray and OpenTelemetry do, sees every call of ours."""
    patch = """
        import botocore.client
        seen = []
        original = botocore.client.BaseClient._make_api_call
        def traced(self, operation_name, parameters):
            seen.append(operation_name)
            return original(self, operation_name, parameters)
        botocore.client.BaseClient._make_api_call = traced
    """
    use = f"""
        import xacct_lambda
        from moto import mock_aws
        mock = mock_aws()
        mock.start()
        client = xacct_lambda.assumed_session("{ROLE}").client("sts")
    """
    parts = [use, patch] if order == "library first" else [patch, use]
    script = "\n".join(map(textwrap.dedent, [*parts, "client.get_caller_identity()\nprint(*seen)"]))

    assert _python(script) == "GetCallerIdentity AssumeRole"


@pytest.mark.usefixtures("_aws")
def test_hooks_for_sts_are_those_of_the_source() -> None:
    """A hook on the source session sees the AssumeRole call itself, and its parameters."""
    source = boto3.Session()
    seen: list[str] = []
    source.events.register("provide-client-params.sts.AssumeRole", lambda params, **_: seen.append(params["RoleArn"]))

    whoami(assumed_session(ROLE, source_session=source))

    assert seen == [ROLE]


def _python(script: str) -> str:
    """Run a script in an interpreter of its own; return what it prints."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_at_the_end_of_the_interpreter() -> None:
    """What is registered with ``atexit``, when threads can no longer be started, may assume a role too."""
    script = f"""
        import atexit
        from moto import mock_aws
        mock_aws().start()
        from xacct_lambda import assumed_session
        client = assumed_session({ROLE!r}).client("sts")
        atexit.register(lambda: print(client.get_caller_identity()["Account"]))
        """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "222222222222\n"
