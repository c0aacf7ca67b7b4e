"""The two policies: the article's own where nothing else is asked, and no wider than what is sent."""

from __future__ import annotations

import json
from typing import Any

import pytest

from xacct_lambda.exceptions import ConfigurationError
from xacct_lambda.policy import permissions_policy, trust_policy

ROLE = "arn:aws:iam::222222222222:role/role-on-source-account"
OTHER_ROLE = "arn:aws-us-gov:iam::333333333333:role/teams/orders/Reader"
EXECUTION_ROLE = "arn:aws:iam::111111111111:role/my-lambda-execution-role"

ARTICLE_PERMISSIONS = """
{
"Version": "2012-10-17",
"Statement": {
"Effect": "Allow",
"Action": "sts:AssumeRole",
"Resource": "arn:aws:iam::222222222222:role/role-on-source-account"
}
}
"""
ARTICLE_TRUST = """
{
"Version": "2012-10-17",
"Statement": [
{
"Effect": "Allow",
"Principal": {
"AWS": "arn:aws:iam::111111111111:role/my-lambda-execution-role"
},
"Action": "sts:AssumeRole"
}
]
}
"""


def conditions(policy: dict[str, Any]) -> dict[str, Any]:
    """Return the condition of each action."""
    statements = policy["Statement"] if isinstance(policy["Statement"], list) else [policy["Statement"]]
    return {statement["Action"]: statement.get("Condition") for statement in statements}


def test_permissions_policy_is_the_articles():
    """For one role the permissions policy is the AWS article's, key for key and in its order."""
    assert json.dumps(permissions_policy(ROLE)) == json.dumps(json.loads(ARTICLE_PERMISSIONS))


def test_trust_policy_is_the_articles():
    """For an execution role alone the trust policy is the AWS article's, key for key and in its order."""
    assert json.dumps(trust_policy(EXECUTION_ROLE)) == json.dumps(json.loads(ARTICLE_TRUST))


def test_one_statement_names_several_roles():
    """Several roles take one statement, each named once, whatever their partition and path."""
    assert permissions_policy([ROLE, OTHER_ROLE, ROLE])["Statement"]["Resource"] == [ROLE, OTHER_ROLE]


def test_one_role_in_a_list_is_one_role():
    """A list of one role gives the same document as the role."""
    assert permissions_policy([ROLE]) == permissions_policy(ROLE)


@pytest.mark.parametrize(
    ("role_arn", "said"),
    [
        ([], "at least one role"),
        ("arn:aws:iam::222222222222:role/tenant-*/Reader", "wildcard"),
        ([ROLE, "arn:aws:sts::222222222222:assumed-role/Reader/session"], r"role/\[PATH/\]Reader"),
    ],
)
def test_permissions_policy_refuses_what_is_not_a_role(role_arn, said):
    """What is not the ARN of one role is refused with the rule it breaks."""
    with pytest.raises(ConfigurationError, match=said):
        permissions_policy(role_arn)


def test_external_id_is_demanded_of_assume_role():
    """With an external ID, the trust policy demands it of AssumeRole."""
    assert conditions(trust_policy(EXECUTION_ROLE, external_id="our-id")) == {
        "sts:AssumeRole": {"StringEquals": {"sts:ExternalId": "our-id"}}
    }


def test_external_id_is_not_asked_of_other_actions():
    """The external ID is a condition key of AssumeRole alone, so the statements beside it leave it out."""
    assert conditions(trust_policy(EXECUTION_ROLE, external_id="our-id", source_identity="alice")) == {
        "sts:AssumeRole": {"StringEquals": {"sts:ExternalId": "our-id"}},
        "sts:SetSourceIdentity": {"StringEquals": {"sts:SourceIdentity": "alice"}},
    }


def test_organization_is_demanded_of_every_action():
    """With an organization, every statement of the trust policy demands that the caller belong to it."""
    policy = trust_policy(EXECUTION_ROLE, organization_id="o-a1b2c3d4e5", tags={"team": "orders"}, external_id="our-id")
    assert conditions(policy) == {
        "sts:AssumeRole": {"StringEquals": {"aws:PrincipalOrgID": "o-a1b2c3d4e5", "sts:ExternalId": "our-id"}},
        "sts:TagSession": {
            "StringEquals": {"aws:PrincipalOrgID": "o-a1b2c3d4e5", "aws:RequestTag/team": "orders"},
            "ForAllValues:StringEquals": {"aws:TagKeys": ["team"]},
        },
    }


@pytest.mark.parametrize("policy", [permissions_policy, trust_policy])
def test_neither_tags_nor_source_identity_unless_sent(policy):
    """Without tags and without a source identity, AssumeRole is the only action on either side."""
    assert conditions(policy(EXECUTION_ROLE, tags={}, source_identity=None)) == {"sts:AssumeRole": None}


@pytest.mark.parametrize("policy", [permissions_policy, trust_policy])
@pytest.mark.parametrize(
    ("tags", "condition"),
    [
        (
            {"team": "orders"},
            {
                "StringEquals": {"aws:RequestTag/team": "orders"},
                "ForAllValues:StringEquals": {"aws:TagKeys": ["team"]},
            },
        ),
        (
            {"team": "orders", "tenant": "*"},
            {
                "StringEquals": {"aws:RequestTag/team": "orders"},
                "StringLike": {"aws:RequestTag/tenant": "*"},
                "ForAllValues:StringEquals": {"aws:TagKeys": ["team", "tenant"]},
            },
        ),
        ({"team": "orders", "*": "*"}, {"StringEquals": {"aws:RequestTag/team": "orders"}}),
        ({"*": "*"}, None),
    ],
    ids=["one value", "any value", "further tags", "any tags"],
)
def test_tags_need_tag_session_on_both_sides(policy, tags, condition):
    """Session tags take sts:TagSession on both sides, kept to their keys and, unless these are ``*``, their values."""
    assert conditions(policy(EXECUTION_ROLE, tags=tags))["sts:TagSession"] == condition


@pytest.mark.parametrize("policy", [permissions_policy, trust_policy])
@pytest.mark.parametrize(
    ("source_identity", "condition"),
    [
        ("alice", {"StringEquals": {"sts:SourceIdentity": "alice"}}),
        ("*", {"StringLike": {"sts:SourceIdentity": "*"}}),
    ],
)
def test_source_identity_needs_its_action_on_both_sides(policy, source_identity, condition):
    """A source identity takes sts:SetSourceIdentity on both sides, kept to its value unless that is ``*``."""
    assert conditions(policy(EXECUTION_ROLE, source_identity=source_identity))["sts:SetSourceIdentity"] == condition


@pytest.mark.parametrize(
    "principal_arn",
    [
        "arn:aws:iam::111111111111:role/service-role/orders-fn-role-x1y2z3",
        "arn:aws-cn:iam::111111111111:role/orders-fn",
        "arn:aws:iam::111111111111:user/staff/alice",
    ],
)
def test_principals(principal_arn):
    """A role or a user may be the principal, with a path and in any partition."""
    assert trust_policy(principal_arn)["Statement"][0]["Principal"] == {"AWS": principal_arn}


@pytest.mark.parametrize(
    ("principal_arn", "said"),
    [
        ("lambda.amazonaws.com", "as its execution role, not as a service"),
        (
            "arn:aws:sts::111111111111:assumed-role/orders-fn/orders-fn",
            r"arn:aws:iam::111111111111:role/\[PATH/\]orders-fn",
        ),
        ("arn:aws:iam::111111111111:role/tenant-*/Reader", "wildcard"),
        ("*", "not the ARN of a role"),
        (None, "not the ARN of a role"),
    ],
)
def test_what_is_no_principal(principal_arn, said):
    """A service, a session, a wildcard are refused as principals, and the message says what to write."""
    with pytest.raises(ConfigurationError, match=said) as refused:
        trust_policy(principal_arn)
    assert refused.value.argument == "principal_arn"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("external_id", "not an ID"),
        ("organization_id", "o-SHORT"),
        ("source_identity", "not an identity"),
        ("tags", {"aws:team": "orders"}),
    ],
)
def test_arguments_that_sts_would_refuse(argument, value):
    """What STS would refuse in the request is refused in the policy, under the argument's name."""
    with pytest.raises(ConfigurationError) as refused:
        trust_policy(EXECUTION_ROLE, **{argument: value})
    assert refused.value.argument == argument
