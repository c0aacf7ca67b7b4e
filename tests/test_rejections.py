"""What a service says to a request that is signed as the role, with the library's advice."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse
from botocore.exceptions import ClientError
from conftest import ROLE
from scripted_sts import ScriptedSTS

from xacct_lambda import _diagnosis, assumed_session
from xacct_lambda._request import assume_role_request

UNKNOWN = "The security token included in the request is invalid."
REVOKED = (
    "User: x is not authorized to perform: ec2:DescribeInstances with an explicit deny in an identity-based policy"
)
LIMITED = "User: x is not authorized to perform: ec2:DescribeInstances because no session policy allows the action"
POLICY = {"Statement": {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}}
PARTITIONS = [ROLE.replace("arn:aws:", "arn:aws-cn:"), ROLE.replace("arn:aws:", "arn:aws-us-gov:")]


def advice(code: str, text: str, region: str | None = "eu-west-1", **options: Any) -> str | None:
    return _diagnosis.rejection_by_service(code, text, assume_role_request(ROLE, **options), region)


@pytest.mark.parametrize("code", ["AuthFailure", "InvalidClientTokenId", "UnrecognizedClientException", "InvalidToken"])
@pytest.mark.parametrize("region", ["eu-south-1", "ap-east-1", "me-central-1", "ap-future-9"])
def test_region_that_is_not_enabled(code: str, region: str) -> None:
    """An opt-in Region that rejects the credentials is named, with the account that has not enabled it."""
    explanation = advice(code, UNKNOWN, region)

    assert explanation is not None
    assert f"Account 222222222222 might not have enabled the Region {region}" in explanation


@pytest.mark.parametrize("region", ["eu-west-1", "us-east-1", "ap-south-1", "aws-global", None])
def test_region_that_every_account_has(region: str | None) -> None:
    """There is no advice about a Region that is enabled in every account, or about none."""
    assert advice("UnrecognizedClientException", UNKNOWN, region) is None


@pytest.mark.parametrize("role_arn", PARTITIONS)
def test_region_of_another_partition(role_arn: str) -> None:
    """Only the partition aws has opt-in Regions."""
    request = assume_role_request(role_arn)

    assert _diagnosis.rejection_by_service("InvalidClientTokenId", UNKNOWN, request, "cn-north-1") is None


def test_session_policy() -> None:
    """A denial by a session policy names the arguments, if the session has such a policy."""
    assert "The session policy (policy, policy_arns) limits" in str(advice("AccessDenied", LIMITED, policy=POLICY))
    arns = ["arn:aws:iam::aws:policy/ReadOnlyAccess"]
    assert "The session policy (policy, policy_arns) limits" in str(advice("AccessDenied", LIMITED, policy_arns=arns))
    assert advice("AccessDenied", LIMITED) is None


def test_revoked_sessions() -> None:
    """An explicit deny in the role's own policy may be that of a revoked session."""
    assert "If somebody revoked the active sessions" in str(advice("AccessDenied", REVOKED))


def test_other_denials() -> None:
    """There is no advice about what only the service can tell."""
    assert advice("AccessDenied", "Access Denied") is None
    assert advice("NoSuchBucket", "The specified bucket does not exist") is None


class _Body(io.BytesIO):
    def stream(self, *_: Any, **__: Any) -> Any:
        yield self.read()


def answer(status: int, **content: str) -> Any:
    body = json.dumps(content).encode()
    return lambda request, **_: AWSResponse(request.url, status, {}, _Body(body))


def test_advice_is_in_the_error(server: ScriptedSTS) -> None:
    """The error of the service's client has the advice after the service's words."""
    client = assumed_session(ROLE).client("cloudtrail", region_name="eu-south-1")
    client.meta.events.register("before-send", answer(400, __type="UnrecognizedClientException", message=UNKNOWN))

    with pytest.raises(ClientError) as caught:
        client.list_trails()

    assert caught.value.response["Error"]["Code"] == "UnrecognizedClientException"
    assert str(caught.value).startswith(
        "An error occurred (UnrecognizedClientException) when calling the ListTrails operation"
    )
    assert f"{UNKNOWN} (Account 222222222222 might not have enabled the Region eu-south-1" in str(caught.value)


def test_other_errors_are_unchanged(server: ScriptedSTS) -> None:
    """The library changes no other answer of a service."""
    client = assumed_session(ROLE).client("cloudtrail")
    client.meta.events.register("before-send", answer(400, __type="TrailNotFoundException", message="no trail"))

    with pytest.raises(ClientError) as caught:
        client.get_trail(Name="orders")

    assert caught.value.response["Error"]["Message"] == "no trail"


def test_good_answers_are_unchanged(server: ScriptedSTS) -> None:
    """The library looks at no answer that is not an error."""
    client = assumed_session(ROLE).client("cloudtrail")
    client.meta.events.register("before-send", answer(200, Error="session policy"))

    assert client.list_trails()["ResponseMetadata"]["HTTPStatusCode"] == 200
