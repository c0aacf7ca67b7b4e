"""Policies: which statements apply to a call, and on which side the evaluation errs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from xacct_lambda.testing._iam_rules import Call, Caller, Verdict, judge

ROLE = "arn:aws:iam::222222222222:role/teams/Reader"
FUNCTION = Caller(
    arn="arn:aws:sts::111111111111:assumed-role/fn-role/fn", principal_arn="arn:aws:iam::111111111111:role/path/fn-role"
)


def judged(*statements: dict[str, Any], context: dict[str, tuple[str, ...]] | None = None) -> Verdict:
    call = Call(action="sts:AssumeRole", resource=ROLE, caller=FUNCTION, context=context or {})
    return judge([{"Version": "2012-10-17", "Statement": list(statements)}], call)


def allow(**elements: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "sts:AssumeRole", **elements}


def deny(**elements: Any) -> dict[str, Any]:
    return allow(**elements) | {"Effect": "Deny"}


def test_nothing_is_allowed_unless_a_statement_says_so():
    """Without a statement there is neither an Allow nor a Deny."""
    assert judged() == Verdict()


def test_documents_may_be_json_and_statements_single():
    """A policy may be a JSON text, and its only statement need not be in a list."""
    call = Call(action="sts:AssumeRole", resource=ROLE, caller=FUNCTION, context={})

    assert judge([json.dumps({"Statement": allow(Resource="*")})], call).allowed


@pytest.mark.parametrize(
    ("principal", "allowed", "by_name"),
    [
        ("*", True, True),
        ({"AWS": "*"}, True, True),
        ({"AWS": "111111111111"}, True, False),
        ({"AWS": "arn:aws:iam::111111111111:root"}, True, False),
        ({"AWS": ["333333333333", "arn:aws:iam::111111111111:role/path/fn-role"]}, True, True),
        ({"AWS": "arn:aws:sts::111111111111:assumed-role/fn-role/fn"}, True, True),
        ({"AWS": "arn:aws:iam::111111111111:role/fn-role"}, False, False),
        ({"AWS": "arn:aws:iam::111111111111:role/path/*"}, False, False),
        ({"AWS": "arn:aws-cn:iam::111111111111:root"}, False, False),
        ({"AWS": "arn:aws:sts::111111111111:assumed-role/fn-role/other"}, False, False),
        ({"Service": "lambda.amazonaws.com"}, False, False),
    ],
)
def test_principals(principal, allowed, by_name):
    """A caller is named by a wildcard, its account, its role with the path, or its session."""
    verdict = judged(allow(Principal=principal))

    assert (verdict.allowed, verdict.by_name) == (allowed, by_name)


@pytest.mark.parametrize(
    ("element", "allowed"),
    [
        ({"Action": ["sts:TagSession", "STS:assumerole"]}, True),
        ({"Action": "sts:Assume*"}, True),
        ({"Action": "*"}, True),
        ({"Action": "sts:AssumeRole?"}, False),
        ({"Resource": "arn:aws:iam::222222222222:role/*"}, True),
        ({"Resource": "arn:aws:iam::222222222222:role/teams/?eader"}, True),
        ({"Resource": "arn:aws:iam::222222222222:role/teams/reader"}, False),
        ({"NotResource": "arn:aws:iam::333333333333:*"}, True),
        ({"NotResource": ["arn:aws:iam::222222222222:*"]}, False),
    ],
)
def test_actions_and_resources(element, allowed):
    """Actions match in any case, resources in theirs; ``*`` and ``?`` are wildcards."""
    assert judged(allow() | element).allowed is allowed


def test_not_action():
    """``NotAction`` is about all other actions."""
    statement = {"Effect": "Allow", "Resource": "*"}

    assert judged(statement | {"NotAction": "s3:*"}).allowed
    assert not judged(statement | {"NotAction": "sts:*"}).allowed


def test_a_deny_beats_any_allow():
    """An explicit Deny wins, wherever it stands."""
    verdict = judged(deny(Principal="*"), allow(Principal="*"))

    assert (verdict.allowed, verdict.denied) == (False, True)


CONTEXT = {
    "sts:externalid": ("orders-1",),
    "aws:principalarn": ("arn:aws:iam::111111111111:role/path/fn-role",),
    "aws:tagkeys": ("team", "stage"),
}


@pytest.mark.parametrize(
    ("operator", "key", "expected", "holds"),
    [
        ("StringEquals", "sts:ExternalId", "orders-1", True),
        ("StringEquals", "STS:externalid", ["x", "orders-1"], True),
        ("StringEquals", "sts:ExternalId", "Orders-1", False),
        ("StringEquals", "sts:SourceIdentity", "me", False),
        ("StringEqualsIfExists", "sts:SourceIdentity", "me", True),
        ("StringEqualsIgnoreCase", "sts:ExternalId", "Orders-1", True),
        ("StringNotEquals", "sts:ExternalId", "orders-1", False),
        ("StringNotEquals", "sts:ExternalId", "other", True),
        ("StringNotEquals", "sts:SourceIdentity", "me", True),
        ("StringLike", "sts:ExternalId", "orders-?", True),
        ("StringLike", "sts:ExternalId", "invoices-*", False),
        ("StringNotLike", "sts:ExternalId", "orders-*", False),
        ("ArnLike", "aws:PrincipalArn", "arn:aws:iam::111111111111:role/*", True),
        ("ArnEquals", "aws:PrincipalArn", "arn:aws:iam::*:role/path/fn-role", True),
        ("ArnLike", "aws:PrincipalArn", "arn:*", False),
        ("ArnNotLike", "aws:PrincipalArn", "arn:aws:iam::333333333333:*", True),
        ("Bool", "aws:SecureTransport", "true", False),
        ("Null", "sts:ExternalId", "false", True),
        ("Null", "sts:SourceIdentity", "true", True),
        ("ForAllValues:StringEquals", "aws:TagKeys", ["team", "stage"], True),
        ("ForAllValues:StringEquals", "aws:TagKeys", ["team"], False),
        ("ForAllValues:StringEquals", "sts:TransitiveTagKeys", ["team"], True),
        ("ForAnyValue:StringEquals", "aws:TagKeys", ["team"], True),
        ("ForAnyValue:StringEquals", "sts:TransitiveTagKeys", ["team"], False),
        ("ForAnyValue:StringNotEquals", "aws:TagKeys", ["team"], True),
        ("ForAllValues:StringNotEquals", "aws:TagKeys", ["team"], False),
    ],
)
def test_conditions(operator, key, expected, holds):
    """Conditions hold as IAM's operators have it, for values that were sent and for those that were not."""
    assert judged(allow(Condition={operator: {key: expected}}), context=CONTEXT).allowed is holds


def test_all_conditions_must_hold():
    """One condition that does not hold is enough for a statement not to apply."""
    condition = {"StringEquals": {"sts:ExternalId": "orders-1", "sts:SourceIdentity": "me"}}

    assert not judged(allow(Condition=condition), context=CONTEXT).allowed


UNEVALUATED = [
    {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}},
    {"NumericLessThan": {"sts:ExternalId": "7"}},
    {"StringEquals": {"aws:PrincipalTag/team": "orders"}},
    {"StringEquals": {"sts:ExternalId": "${aws:PrincipalTag/id}"}},
    {"Not An Operator": {"sts:ExternalId": "orders-1"}},
]


@pytest.mark.parametrize("condition", UNEVALUATED)
def test_what_is_not_evaluated_allows_nothing(condition):
    """An Allow whose condition is not evaluated does not apply, and the verdict says which it was."""
    verdict = judged(allow(Condition=condition), context=CONTEXT)

    [(operator, keys)] = condition.items()
    assert verdict == Verdict(unevaluated=tuple(f"{operator} on {key}" for key in keys))


@pytest.mark.parametrize("condition", UNEVALUATED)
def test_what_is_not_evaluated_keeps_no_deny_away(condition):
    """A Deny whose condition is not evaluated applies."""
    assert judged(allow(), deny(Condition=condition), context=CONTEXT).denied


def test_a_condition_that_does_not_hold_settles_the_matter():
    """Where another condition of a Deny does not hold, what is not evaluated is of no account."""
    condition = {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}, "StringEquals": {"sts:ExternalId": "other"}}

    assert judged(allow(), deny(Condition=condition), context=CONTEXT) == Verdict(allowed=True, by_name=True)


def test_not_principal():
    """``NotPrincipal`` is not evaluated: a Deny with it applies, an Allow does not."""
    assert judged(allow(Principal="*"), deny(NotPrincipal={"AWS": "111111111111"})).denied
    assert not judged(allow(NotPrincipal={"AWS": "333333333333"})).allowed
