"""What a test shows of 50 usual mistakes in policies, and that 22 right ones pass."""

from __future__ import annotations

import json
from typing import Any

import pytest

from xacct_lambda import assumed_session
from xacct_lambda.exceptions import AssumeRoleError, ConfigurationError
from xacct_lambda.policy import permissions_policy, trust_policy
from xacct_lambda.testing import CrossAccountAWS

READER = "arn:aws:iam::222222222222:role/Reader"
FUNCTION_ROLE = "arn:aws:iam::111111111111:role/my-lambda-execution-role"
LAMBDA = "arn:aws:lambda:us-east-1:111111111111:function"
ALL_ACTIONS = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
EXTERNAL_ID = {"StringEquals": {"sts:ExternalId": "orders-7f3a"}}


def trust(*more: dict[str, Any], version: str | None = "2012-10-17", without: str = "", **elements: Any) -> Any:
    """Return a trust policy: the right statement with these elements, and more statements."""
    statement = {"Effect": "Allow", "Principal": {"AWS": FUNCTION_ROLE}, "Action": "sts:AssumeRole", **elements}
    statement.pop(without, None)
    return {**({"Version": version} if version else {}), "Statement": [statement, *more]}


def permissions(*more: dict[str, Any], version: str | None = "2012-10-17", without: str = "", **elements: Any) -> Any:
    """Return an identity policy: the right statement with these elements, and more statements."""
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": READER, **elements}
    statement.pop(without, None)
    return {**({"Version": version} if version else {}), "Statement": [statement, *more]}


def deny(**elements: Any) -> dict[str, Any]:
    return {"Effect": "Deny", "Action": "sts:AssumeRole", **elements}


# Name: the policies and the call, and what the user sees: the error of role() or grant(), or the reason of a refusal.
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    # Trust policies that IAM doesn't save.
    "Effect in lower case": ({"trust": trust(Effect="allow")}, 'Effect is \'allow\'. It must be "Allow" or "Deny"'),
    "no Effect": ({"trust": trust(without="Effect")}, "Effect is missing"),
    "Conditions": ({"trust": trust(Conditions=EXTERNAL_ID)}, "unknown element 'Conditions': did you mean Condition?"),
    "Actions": ({"trust": trust(Actions="sts:TagSession")}, "unknown element 'Actions': did you mean Action?"),
    "principal in lower case": (
        {"trust": trust(principal="*")},
        "unknown element 'principal': did you mean Principal?",
    ),
    "no Principal": ({"trust": trust(without="Principal")}, "has neither Principal nor NotPrincipal"),
    "bare ARN as Principal": ({"trust": trust(Principal=FUNCTION_ROLE)}, 'Principal must be "*" or an object such as'),
    "list as Principal": ({"trust": trust(Principal=[FUNCTION_ROLE])}, 'Principal must be "*" or an object such as'),
    "service under AWS": (
        {"trust": trust(Principal={"AWS": "lambda.amazonaws.com"})},
        "is a service: write it under Service. A function calls STS as its execution role",
    ),
    "ARN under Service": ({"trust": trust(Principal={"Service": FUNCTION_ROLE})}, "is not a service"),
    "kind of principal in lower case": ({"trust": trust(Principal={"aws": FUNCTION_ROLE})}, "unknown kind 'aws'"),
    "wildcard in the role": (
        {"trust": trust(Principal={"AWS": "arn:aws:iam::111111111111:role/*"})},
        "has a wildcard, which a principal can't have",
    ),
    "ARN of the function": (
        {"trust": trust(Principal={"AWS": "arn:aws:lambda:us-east-1:111111111111:function:my-function"})},
        "is not the ARN of a role, user, or session",
    ),
    "11 digits": ({"trust": trust(Principal={"AWS": "11111111111"})}, "is not the ARN of a role, user, or session"),
    "role that does not exist": (
        {"trust": trust(Principal={"AWS": [FUNCTION_ROLE, f"{FUNCTION_ROLE}-old"]})},
        "my-lambda-execution-role-old doesn't exist in this AWS",
    ),
    "role without its path": (
        {"execution_role": "service-role/fn", "trust": trust(Principal={"AWS": "arn:aws:iam::111111111111:role/fn"})},
        "arn:aws:iam::111111111111:role/fn doesn't exist in this AWS",
    ),
    "role of another case": (
        {"trust": trust(Principal={"AWS": FUNCTION_ROLE.replace("my-", "My-")})},
        "role/My-lambda-execution-role doesn't exist in this AWS",
    ),
    "another partition": (
        {"trust": trust(Principal={"AWS": "arn:aws-cn:iam::111111111111:root"})},
        "arn:aws-cn:iam::111111111111:root doesn't exist in this AWS",
    ),
    "ID of a deleted role": (
        {"trust": trust(Principal={"AWS": "AROAEXAMPLEID1234567"})},
        "is the unique ID of a deleted role or user",
    ),
    "any action": ({"trust": trust(Action="*")}, "has the action '*': a trust policy may have actions of STS only"),
    "an action of S3": ({"trust": trust(Action=["sts:AssumeRole", "s3:GetObject"])}, "has the action 's3:GetObject'"),
    "no Action": ({"trust": trust(without="Action")}, "has neither Action nor NotAction"),
    "a Resource": (
        {"trust": trust(Resource="*")},
        "has the prohibited element Resource: a trust policy has a Principal",
    ),
    "today as Version": ({"trust": trust(version="2026-11-25")}, "Version '2026-11-25' doesn't exist"),
    "a Sid with a space": ({"trust": trust(Sid="My function")}, "Sid 'My function' is invalid: use letters and digits"),
    "a Sid used twice": (
        {"trust": trust(deny(Principal="*", Sid="A"), Sid="A")},
        "statement 2 (A): the Sid 'A' is used twice",
    ),
    "Fn::Sub left in": (
        {"trust": trust(Principal={"AWS": {"Fn::Sub": "arn:aws:iam::${Account}:root"}})},
        "'Fn::Sub' is an intrinsic function of CloudFormation",
    ),
    "an operator that does not exist": (
        {"trust": trust(Condition={"StringEqual": {"sts:ExternalId": "x"}})},
        "the condition operator 'StringEqual' doesn't exist",
    ),
    "a key without its service": (
        {"trust": trust(Condition={"StringEquals": {"ExternalId": "x"}})},
        "the condition key 'ExternalId' is invalid: write it with its service, like sts:ExternalId",
    ),
    "too large": (
        {"trust": trust(Condition={"StringEquals": {"sts:ExternalId": [f"orders-{n:020}" for n in range(70)]}})},
        "characters without white space, and IAM's quota is 2048",
    ),
    "NotPrincipal with Allow": (
        {"trust": trust(without="Principal", NotPrincipal={"AWS": "222222222222"})},
        "NotPrincipal needs Deny",
    ),
    # Identity policies that IAM doesn't save.
    "a Principal": (
        {"grant": permissions(Principal={"AWS": FUNCTION_ROLE})},
        "prohibited element Principal: an identity",
    ),
    "no Resource": ({"grant": permissions(without="Resource")}, "has neither Resource nor NotResource"),
    "the role's name as Resource": ({"grant": permissions(Resource="Reader")}, "the resource 'Reader' is invalid"),
    "no Version": ({"grant": permissions(version=None)}, "Version must be 2012-10-17 in an identity policy"),
    "an action without its service": (
        {"grant": permissions(Action="AssumeRole")},
        "the action 'AssumeRole' is invalid",
    ),
    # Policies that IAM saves, and that don't allow the call.
    "the service as principal": (
        {"trust": trust(Principal={"Service": "lambda.amazonaws.com"})},
        'its Principal is {"Service": "lambda.amazonaws.com"}, the caller is arn:aws:iam::111111111111:role/my-lambda-',
    ),
    "another session name": (
        {"trust": trust(Principal={"AWS": "arn:aws:sts::111111111111:assumed-role/my-lambda-execution-role/other"})},
        "(arn:aws:sts::111111111111:assumed-role/my-lambda-execution-role/my-function)",
    ),
    "no external ID sent": (
        {"trust": trust(Condition=EXTERNAL_ID)},
        "its condition StringEquals on sts:ExternalId isn't met: the call sends none",
    ),
    "another external ID sent": (
        {"trust": trust(Condition=EXTERNAL_ID), "call": {"external_id": "orders-0000"}},
        "its condition StringEquals on sts:ExternalId isn't met: the call sends another one",
    ),
    "no sts:TagSession in the trust policy": (
        {"call": {"tags": {"tenant": "blue"}}, "grant": permissions(Action=ALL_ACTIONS)},
        "the trust policy of arn:aws:iam::222222222222:role/Reader doesn't allow sts:TagSession",
    ),
    "no sts:TagSession in the permissions": (
        {"call": {"tags": {"tenant": "blue"}}, "trust": trust(Action=ALL_ACTIONS)},
        't allow sts:TagSession on arn:aws:iam::222222222222:role/Reader: statement 1: its Action is "sts:Assume',
    ),
    "the external ID on sts:TagSession": (
        {
            "call": {"tags": {"tenant": "blue"}, "external_id": "orders-7f3a"},
            "grant": permissions(Action=ALL_ACTIONS),
            "trust": trust(Action=ALL_ACTIONS, Condition=EXTERNAL_ID),
        },
        "allow sts:TagSession on arn:aws:iam::222222222222:role/Reader: statement 1: its condition StringEquals on sts",
    ),
    "a key with several values without ForAllValues": (
        {
            "call": {"tags": {"tenant": "blue", "team": "orders"}},
            "grant": permissions(Action=ALL_ACTIONS),
            "trust": trust(Action=ALL_ACTIONS, Condition={"StringEquals": {"aws:TagKeys": ["tenant", "team"]}}),
        },
        "its condition StringEquals on aws:TagKeys (a key with several values needs ForAllValues or ForAnyValue)",
    ),
    "another organization": (
        {
            "organization_id": "o-a1b2c3d4e5",
            "trust": trust(Principal="*", Condition={"StringEquals": {"aws:PrincipalOrgID": "o-zzzzzzzzzz"}}),
        },
        "aws:PrincipalOrgID isn't met: the policy has 'o-zzzzzzzzzz', the call has 'o-a1b2c3d4e5'",
    ),
    "MFA for a function": (
        {"trust": trust(Condition={"Bool": {"aws:MultiFactorAuthPresent": "true"}})},
        "its condition Bool on aws:MultiFactorAuthPresent isn't met: the policy has 'true', the call has none",
    ),
    "another role as Resource": (
        {"grant": permissions(Resource="arn:aws:iam::222222222222:role/reader/*")},
        'its Resource is "arn:aws:iam::222222222222:role/reader/*", the call is about arn:aws:iam::222222222222:role/R',
    ),
    "the assumed-role ARN as Resource": (
        {"grant": permissions(Resource="arn:aws:sts::222222222222:assumed-role/Reader/*")},
        'its Resource is "arn:aws:sts::222222222222:assumed-role/Reader/*"',
    ),
    "a variable before the fifth colon": (
        {"grant": permissions(Resource="arn:aws:iam::${aws:PrincipalTag/account}:role/Reader")},
        "a variable can be used only after the fifth colon",
    ),
    "a Deny with NotPrincipal": (
        {"trust": trust(deny(NotPrincipal={"AWS": FUNCTION_ROLE}))},
        "statement 2 denies it: NotPrincipal isn't evaluated, so it counts against the caller",
    ),
    "a Deny for everyone else that is a Deny for all": (
        {"grant": permissions(deny(Resource="*", Condition={"StringNotEquals": {"aws:ResourceTag/team": "orders"}}))},
        "statement 2 denies it",
    ),
}


def assume(arrangement: dict[str, Any]) -> str:
    """Deploy the policies, call AssumeRole, and return why it was refused; empty if it wasn't."""
    options = {name: arrangement[name] for name in ("execution_role", "organization_id") if name in arrangement}
    with CrossAccountAWS(**options) as aws:
        iam = aws.account("222222222222").client("iam")
        aws.grant(arrangement.get("grant", permissions()))
        aws.role(READER, trust=arrangement.get("trust"))
        iam.tag_role(RoleName="Reader", Tags=[{"Key": "stage", "Value": "prod"}])
        home = aws.account("111111111111").client("iam")
        home.tag_role(RoleName=aws.execution_role_arn.rpartition("/")[2], Tags=[{"Key": "team", "Value": "orders"}])
        try:
            assumed_session(READER, **arrangement.get("call", {})).client("sts").get_caller_identity()
        except AssumeRoleError:
            return aws.refused[-1].reason
    return ""


def test_there_are_fifty() -> None:
    """The list has at least 50 mistakes, and the other one 22 right policies."""
    assert len(MISTAKES) >= 50
    assert len(RIGHT) == 22


@pytest.mark.parametrize(("arrangement", "seen"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_named(arrangement: dict[str, Any], seen: str, caplog: pytest.LogCaptureFixture) -> None:
    """A mistake is an error with IAM's rule, or a refusal whose reason names the part that failed, in the log too."""
    try:
        message = assume(arrangement)
    except ConfigurationError as error:
        message = str(error)
        assert "IAM rejects it: " in message
    else:
        assert message in caplog.text

    assert seen in message
    assert "orders-7f3a" not in message + caplog.text


RIGHT: dict[str, dict[str, Any]] = {
    "the article's": {},
    "one statement without a list": {"trust": json.dumps(trust()).replace("[", "").replace("]", "")},
    "an older version without variables": {"trust": trust(version="2008-10-17")},
    "no version": {"trust": trust(version=None)},
    "the whole account": {"trust": trust(Principal={"AWS": "111111111111"})},
    "the account's root": {"trust": trust(Principal={"AWS": "arn:aws:iam::111111111111:root"})},
    "the function's session": {
        "trust": trust(Principal={"AWS": "arn:aws:sts::111111111111:assumed-role/my-lambda-execution-role/my-function"})
    },
    "several principals": {
        "trust": trust(Principal={"AWS": [FUNCTION_ROLE, "333333333333"], "Service": "ec2.amazonaws.com"})
    },
    "anybody of an organization": {
        "organization_id": "o-a1b2c3d4e5",
        "trust": trust(Principal="*", Condition={"StringEquals": {"aws:PrincipalOrgID": "o-a1b2c3d4e5"}}),
    },
    "an external ID": {"trust": trust(Condition=EXTERNAL_ID), "call": {"external_id": "orders-7f3a"}},
    "one of several external IDs": {
        "trust": trust(Condition={"StringEquals": {"sts:ExternalId": ["orders-1", "orders-7f3a"]}}),
        "call": {"external_id": "orders-7f3a"},
    },
    "tags of AWS's example": {
        "trust": trust(
            {
                **trust()["Statement"][0],
                "Action": "sts:TagSession",
                "Condition": {
                    "StringLike": {"aws:RequestTag/Project": "*"},
                    "StringEquals": {"aws:RequestTag/Department": ["Engineering", "Marketing"]},
                    "ForAllValues:StringEquals": {"sts:TransitiveTagKeys": ["Project", "Department"]},
                },
            },
            Condition={"StringLike": {"aws:RequestTag/Project": "*", "aws:RequestTag/Department": "*"}, **EXTERNAL_ID},
        ),
        "grant": permissions(Action=["sts:AssumeRole", "sts:TagSession"]),
        "call": {
            "external_id": "orders-7f3a",
            "tags": {"Project": "Automation", "Department": "Engineering"},
            "transitive_tag_keys": ["Project"],
        },
    },
    "a source identity of AWS's example": {
        "trust": trust(
            Action=["sts:AssumeRole", "sts:SetSourceIdentity"],
            Condition={"StringLike": {"sts:SourceIdentity": ["Saanvi", "Diego"]}},
        ),
        "grant": permissions(Action=["sts:AssumeRole", "sts:SetSourceIdentity"]),
        "call": {"source_identity": "Diego"},
    },
    "the function's name as session name": {
        "trust": trust(Condition={"StringLike": {"sts:RoleSessionName": "my-*"}}),
    },
    "a pattern of roles": {"grant": permissions(Resource="arn:aws:iam::*:role/Reader")},
    "every role but some": {"grant": permissions(without="Resource", NotResource="arn:aws:iam::*:role/Admin*")},
    "roles with a tag": {
        "grant": permissions(Resource="*", Condition={"StringEquals": {"aws:ResourceTag/stage": "prod"}})
    },
    "callers with a tag": {"trust": trust(Condition={"StringEquals": {"aws:PrincipalTag/team": "orders"}})},
    "one function only": {
        "grant": permissions(
            Condition={
                "ArnEquals": {"lambda:SourceFunctionArn": "arn:aws:lambda:us-east-1:111111111111:function:my-function"}
            }
        )
    },
    "a Deny without TLS": {
        "trust": trust(deny(Principal="*", Condition={"Bool": {"aws:SecureTransport": "false"}})),
    },
    "a Deny outside of Regions": {
        "grant": permissions(deny(Resource="*", Condition={"StringNotEquals": {"aws:RequestedRegion": ["us-east-1"]}}))
    },
    "everything that is generated": {
        "trust": trust_policy(
            FUNCTION_ROLE,
            external_id="orders-7f3a",
            source_identity="*",
            tags={"tenant": "*"},
            transitive_tag_keys=["tenant"],
        ),
        "grant": permissions_policy(
            READER, external_id="orders-7f3a", source_identity="*", tags={"tenant": "*"}, transitive_tag_keys=["tenant"]
        ),
        "call": {
            "external_id": "orders-7f3a",
            "source_identity": "alice",
            "tags": {"tenant": "blue"},
            "transitive_tag_keys": ["tenant"],
        },
    },
}


@pytest.mark.parametrize("arrangement", RIGHT.values(), ids=RIGHT)
def test_a_right_policy_passes(arrangement: dict[str, Any]) -> None:
    """What AWS saves and grants passes."""
    assert assume(arrangement) == ""
