"""The policies that IAM doesn't save: each rule of the grammar, with the text that a test shows."""

from __future__ import annotations

from typing import Any

import pytest

from xacct_lambda.policy import permissions_policy, trust_policy
from xacct_lambda.testing._policy_grammar import MalformedPolicyError, check_inline_policies, check_policy

FUNCTION_ROLE = "arn:aws:iam::111111111111:role/fn-role"
READER = "arn:aws:iam::222222222222:role/Reader"
TRUST = {"Effect": "Allow", "Principal": {"AWS": FUNCTION_ROLE}, "Action": "sts:AssumeRole"}
IDENTITY = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": READER}


def document(statement: Any, **elements: Any) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": statement, **elements}


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        (None, "a policy is a JSON object"),
        ([], "a policy is a JSON object"),
        (document(TRUST, Id=7), "Id must be a string"),
        (document(TRUST, Conditions={}), "the policy has the unknown element 'Conditions': known elements are Version"),
        (document(TRUST, Version=None), "the policy: Version must not be null"),
        (document(TRUST, Version=2012), "Version 2012 doesn't exist"),
        (document([]), "Statement must be a statement or a list of statements"),
        (document("Allow"), "Statement must be a statement or a list of statements"),
        ({"Version": "2012-10-17"}, "Statement must be a statement or a list of statements"),
        (document(["Allow"]), "statement 1 must be a JSON object"),
        (document({**TRUST, "Effect": ["Allow"]}), "Effect is ['Allow']"),
        (document({**TRUST, "Sid": 7}), "Sid 7 is invalid"),
        (document({**TRUST, "Action": []}), "Action must be a string or a list of strings, at least one"),
        (document({**TRUST, "Action": ""}), "Action must be a string or a list of strings, at least one"),
        (document({**TRUST, "Action": ["sts:AssumeRole", 7]}), "Action must be a string or a list of strings"),
        (document({**TRUST, "Action": "sts: AssumeRole"}), "the action 'sts: AssumeRole' is invalid"),
        (document({**TRUST, "NotAction": "sts:TagSession"}), "has both Action and NotAction"),
        (document({"Effect": "Allow", "Principal": "*", "NotAction": "s3:*"}), "has NotAction"),
        (document({**TRUST, "NotResource": "*"}), "has the prohibited element NotResource"),
        (document({**TRUST, "NotPrincipal": "*"}), "has both Principal and NotPrincipal"),
        (document({**TRUST, "Principal": {}}), 'Principal must be "*" or an object'),
        (document({**TRUST, "Principal": {"AWS": []}}), "Principal AWS must be a string or a list of strings"),
        (document({**TRUST, "Principal": {"CanonicalUser": "a" * 64}}), "unknown kind 'CanonicalUser'"),
        (document({**TRUST, "Principal": {"Federated": "idp"}}), "'idp' is not an identity provider"),
        (document({**TRUST, "Principal": {"AWS": "arn:aws:iam::111111111111:group/g"}}), "is not the ARN of a role"),
        (document({**TRUST, "Principal": {"AWS": " " + FUNCTION_ROLE}}), "is not the ARN of a role"),
        (document({**TRUST, "Condition": []}), "Condition must be an object of operators"),
        (document({**TRUST, "Condition": {"StringEquals": []}}), "StringEquals must be an object of keys and values"),
        (document({**TRUST, "Condition": {"stringequals": {}}}), "operator 'stringequals' doesn't exist"),
        (document({**TRUST, "Condition": {"NullIfExists": {}}}), "operator 'NullIfExists' doesn't exist"),
        (document({**TRUST, "Condition": {"ForEveryValue:StringEquals": {}}}), "'ForEveryValue:StringEquals' doesn't"),
        (
            document({**TRUST, "Condition": {"StringEquals": {"aws:TagKeys": "a", "aws:tagkeys": "b"}}}),
            "Condition StringEquals has the same key twice",
        ),
        (
            document({**TRUST, "Condition": {"StringEquals": {"sts:ExternalId": {"Ref": "Id"}}}}),
            "'Ref' is an intrinsic function of CloudFormation",
        ),
        (
            document({**TRUST, "Condition": {"StringEquals": {"sts:ExternalId": [None]}}}),
            "Condition StringEquals on sts:ExternalId must have a string, a boolean, a number, or a list of them",
        ),
    ],
)
def test_trust_policies_that_iam_does_not_save(policy: Any, rule: str) -> None:
    """A trust policy that breaks a rule is refused with the statement, the element, and the rule."""
    with pytest.raises(MalformedPolicyError) as refused:
        check_policy(policy, kind="trust")
    assert rule in str(refused.value)


@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        (document({**IDENTITY, "NotPrincipal": "*"}), "has the prohibited element NotPrincipal"),
        (document({**IDENTITY, "Resource": []}), "Resource must be a string or a list of strings"),
        (document({**IDENTITY, "Resource": ["*", "role/Reader"]}), "the resource 'role/Reader' is invalid"),
        (document({**IDENTITY, "NotResource": "*"}), "has both Resource and NotResource"),
        (document({**IDENTITY, "Action": "sts:*:*"}), "the action 'sts:*:*' is invalid"),
        (document({**IDENTITY, "Action": "*:*"}), "the action '*:*' is invalid"),
        (document(IDENTITY, Version="2008-10-17"), "Version must be 2012-10-17 in an identity policy"),
        (document({**IDENTITY, "Resource": "arn:aws:iam::${aws:a}:role/x"}), "only after the fifth colon"),
    ],
)
def test_identity_policies_that_iam_does_not_save(policy: Any, rule: str) -> None:
    """An identity policy that breaks a rule is refused with the statement, the element, and the rule."""
    with pytest.raises(MalformedPolicyError) as refused:
        check_policy(policy, kind="identity")
    assert rule in str(refused.value)


@pytest.mark.parametrize(
    "statement",
    [
        {**TRUST, "Principal": {"Federated": "arn:aws:iam::111111111111:oidc-provider/token.example.com/a"}},
        {**TRUST, "Principal": {"Federated": "cognito-identity.amazonaws.com", "Service": "ec2.amazonaws.com"}},
        {**TRUST, "Principal": {"Service": ["edgelambda.amazonaws.com", "s3.eu-west-1.amazonaws.com"]}},
        {**TRUST, "Principal": {"AWS": "arn:aws:sts::111111111111:federated-user/me"}},
        {**TRUST, "Condition": {}},
        {**TRUST, "Condition": {"StringEquals": {"sts:ExternalId": []}}},
        {**TRUST, "Condition": {"ForAllValues:StringNotEqualsIgnoreCaseIfExists": {"aws:TagKeys": ["a"]}}},
        {**TRUST, "Condition": {"StringLike": {"token.example.com/id/1:sub": "x", "aws:RequestTag/cost center": 7}}},
        {
            **TRUST,
            "Condition": {"NumericLessThan": {"aws:MultiFactorAuthAge": 3600}, "Null": {"sts:ExternalId": False}},
        },
        {**TRUST, "Sid": ""},
        {"Effect": "Deny", "NotPrincipal": {"AWS": FUNCTION_ROLE}, "Action": "sts:*"},
    ],
)
def test_trust_policies_that_iam_saves(statement: dict[str, Any]) -> None:
    """Every form of principal and condition that IAM documents for trust policies passes."""
    check_policy(document([statement]), kind="trust")


@pytest.mark.parametrize(
    "statement",
    [
        {**IDENTITY, "Action": "*", "Resource": "*"},
        {"Effect": "Deny", "NotAction": ["iam:*", "sts:Get*"], "NotResource": ["arn:aws:s3:::b/*", "arn:aws:sqs:*"]},
        {**IDENTITY, "Resource": "arn:aws:iam::*:role/${aws:PrincipalTag/team}/*"},
    ],
)
def test_identity_policies_that_iam_saves(statement: dict[str, Any]) -> None:
    """Wildcards, negated elements, and variables pass."""
    check_policy(document(statement), kind="identity")


def test_what_is_generated_is_saved() -> None:
    """The policies of ``xacct_lambda.policy`` pass."""
    options = {"external_id": "our-id", "source_identity": "*", "tags": {"a": "*", "b": "1", "*": "*"}}
    check_policy(trust_policy(FUNCTION_ROLE, transitive_tag_keys=["a", "b"], **options), kind="trust")
    check_policy(permissions_policy([READER, f"{READER}2"], **options), kind="identity")


def test_white_space_is_free() -> None:
    """IAM counts no white space outside of strings, so a policy that is indented has the same size."""
    statement = {**TRUST, "Condition": {"StringEquals": {"sts:ExternalId": ["x" * 100] * 17}}}

    check_policy(document(statement), kind="trust")
    with pytest.raises(MalformedPolicyError, match="IAM's quota is 2048"):
        check_policy(document([statement, {**TRUST, "Sid": "x" * 100}]), kind="trust")


def test_inline_policies_have_a_size_together() -> None:
    """All inline policies of a role together have 10,240 characters at most."""
    policy = document({**IDENTITY, "Resource": [READER] * 120})

    check_inline_policies([policy, policy])
    with pytest.raises(MalformedPolicyError, match=r"inline policies together would have .* IAM's quota is 10240"):
        check_inline_policies([policy, policy, policy])
