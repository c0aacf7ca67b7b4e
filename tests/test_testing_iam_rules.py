"""Policies: which statements apply to a call, and on which side the evaluation errs."""

from __future__ import annotations

import json
from typing import Any

import pytest

from xacct_lambda.testing._iam_rules import Call, Caller, Policy, Verdict, judge
from xacct_lambda.testing._policy_grammar import PolicyKind

ROLE = "arn:aws:iam::222222222222:role/teams/Reader"
FUNCTION = Caller(
    arn="arn:aws:sts::111111111111:assumed-role/fn-role/fn", principal_arn="arn:aws:iam::111111111111:role/path/fn-role"
)


def judged(
    *statements: dict[str, Any],
    context: dict[str, tuple[str, ...]] | None = None,
    others: tuple[dict[str, tuple[str, ...]], ...] = (),
    caller: Caller = FUNCTION,
    resource: str = ROLE,
    version: str = "2012-10-17",
) -> Verdict:
    """Judge an identity policy, or a trust policy if its statements have a principal."""
    kind: PolicyKind = "trust" if {"Principal", "NotPrincipal"} & statements[0].keys() else "identity"
    contexts = ({} if context is None else context, *others)
    call = Call(action="sts:AssumeRole", resource=resource, caller=caller, contexts=contexts)
    return judge([Policy({"Version": version, "Statement": list(statements)})], call, kind=kind)


def allow(**elements: Any) -> dict[str, Any]:
    """Return a statement of an identity policy, or of a trust policy if a principal is given."""
    where = {} if {"Principal", "NotPrincipal", "NotResource"} & elements.keys() else {"Resource": "*"}
    return {"Effect": "Allow", "Action": "sts:AssumeRole", **where, **elements}


def deny(**elements: Any) -> dict[str, Any]:
    return allow(**elements) | {"Effect": "Deny"}


CALL = Call(action="sts:AssumeRole", resource=ROLE, caller=FUNCTION, contexts=({},))


def test_nothing_is_allowed_unless_a_statement_says_so():
    """Without a policy there is neither an Allow nor a Deny."""
    assert judge([], CALL, kind="identity") == Verdict()


def test_documents_may_be_json_and_statements_single():
    """A policy may be a JSON text, and its only statement need not be in a list."""
    text = json.dumps({"Version": "2012-10-17", "Statement": allow()})

    assert judge([Policy(text)], CALL, kind="identity").allowed


def test_a_policy_that_iam_does_not_save_allows_nothing():
    """A policy that a test stored past IAM's checks allows nothing, nor does another one beside it."""
    bad = {"Version": "2012-10-17", "Statement": allow(Conditions={})}
    good = {"Version": "2012-10-17", "Statement": allow()}

    verdict = judge([Policy(good), Policy(bad)], CALL, kind="identity")

    assert not verdict.allowed
    assert (
        "policy 2, IAM doesn't save this policy: statement 1 has the unknown element 'Conditions'"
        in verdict.failures[0]
    )


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
        ({"Resource": "arn:aws:iam::*:role/teams/Reader"}, True),
        ({"Resource": "arn:aws:iam"}, True),
        ({"Resource": ["arn:aws:iam::333333333333:role/*", "arn:aws:iam::222222222222:role/teams/Writer"]}, False),
    ],
)
def test_actions_and_resources(element, allowed):
    """Actions match in any case; ``*`` and ``?`` are wildcards; IAM fills the parts that a short ARN leaves out."""
    assert judged(allow() | element).allowed is allowed


def test_not_action():
    """``NotAction`` is about all other actions."""
    statement = {"Effect": "Allow", "Resource": "*"}

    assert judged(statement | {"NotAction": "s3:*"}).allowed
    assert not judged(statement | {"NotAction": "sts:*"}).allowed


def test_not_resource():
    """``NotResource`` is about all other resources."""
    assert judged(allow(NotResource="arn:aws:iam::333333333333:*")).allowed
    assert not judged(allow(NotResource=["arn:aws:iam::222222222222:*"])).allowed


@pytest.mark.parametrize("pattern", ["arn:aws:iam::222222222222:role/teams/reader", "arn:aws:iam*role/teams/Reader"])
def test_what_aws_does_not_document_of_resources(pattern):
    """Whether case counts, and whether a wildcard crosses a colon, isn't documented, so it isn't evaluated."""
    assert "isn't evaluated" in judged(allow(Resource=pattern)).failures[0]
    assert judged(allow(), deny(Resource=pattern)).denied
    assert not judged(allow(NotResource=pattern)).allowed


def test_a_short_arn_in_not_resource():
    """Which resources a short ARN leaves out isn't documented, so a ``NotResource`` with one isn't evaluated."""
    assert "a short ARN" in judged(allow(NotResource=["arn:aws:s3", "arn:aws:sqs:*:*:*"])).failures[0]
    assert judged(allow(), deny(NotResource="arn:aws:iam*/Writer")).denied
    assert judged(allow(), deny(NotResource="arn:aws:iam")).allowed


def test_a_deny_beats_any_allow():
    """An explicit Deny wins, wherever it stands."""
    verdict = judged(deny(Principal="*"), allow(Principal="*"))

    assert (verdict.allowed, verdict.denied) == (False, True)
    assert verdict.denials == ("statement 1 denies it",)


CONTEXT = {
    "sts:externalid": ("orders-1",),
    "aws:principalarn": ("arn:aws:iam::111111111111:role/path/fn-role",),
    "aws:tagkeys": ("team", "stage"),
    "aws:securetransport": ("true",),
    "aws:currenttime": ("2026-11-25T12:00:00+00:00",),
    "aws:epochtime": ("1795608000",),
    "aws:principaltag/team": ("admin",),
    "aws:principalaccount": ("111111111111",),
    "aws:username": (),
    "sts:sourceidentity": (),
    "sts:transitivetagkeys": (),
    "aws:multifactorauthpresent": (),
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
        ("ArnNotLike", "aws:PrincipalArn", "arn:aws:iam::333333333333:*", True),
        ("Bool", "aws:SecureTransport", "true", True),
        ("Bool", "aws:SecureTransport", "False", False),
        ("Bool", "aws:SecureTransport", True, True),
        ("StringEquals", "aws:SecureTransport", True, True),
        ("StringEquals", "aws:SecureTransport", [False], False),
        ("Bool", "aws:MultiFactorAuthPresent", "true", False),
        ("BoolIfExists", "aws:MultiFactorAuthPresent", "true", True),
        ("Null", "aws:MultiFactorAuthPresent", True, True),
        ("Null", "sts:ExternalId", ["true", "false"], True),
        ("StringEquals", "sts:ExternalId", [], False),
        ("StringEquals", "aws:PrincipalAccount", 111111111111, True),
        ("StringEquals", "aws:RequestTag/team", "admin", False),
        ("StringNotEquals", "aws:RequestTag/team", "admin", True),
        ("DateGreaterThan", "aws:CurrentTime", "2026-11-25", True),
        ("DateLessThan", "aws:CurrentTime", "2026-11-25T12:00:00Z", False),
        ("DateLessThanEquals", "aws:CurrentTime", "1795608000", True),
        ("DateGreaterThanEquals", "aws:EpochTime", "2026-11-25T12:00:01Z", False),
        ("DateEquals", "aws:EpochTime", "2026-11-25T12:00:00Z", True),
        ("DateNotEquals", "aws:EpochTime", "2026-11-25T12:00:00Z", False),
        ("StringEquals", "sts:ExternalId", "${aws:PrincipalTag/team, 'orders'}-1", False),
        ("StringEquals", "sts:ExternalId", "${aws:RequestTag/team, 'orders'}-1", True),
        ("StringLike", "sts:ExternalId", "orders${*}", False),
        ("StringEquals", "aws:PrincipalTag/team", "${aws:PrincipalTag/team}", True),
        ("ArnLike", "aws:PrincipalArn", "arn:aws:iam::111111111111:role/*/${aws:RequestTag/role, 'fn'}-role", True),
        ("Null", "sts:ExternalId", "false", True),
        ("Null", "sts:SourceIdentity", "true", True),
        ("ForAllValues:StringEquals", "aws:TagKeys", ["team", "stage"], True),
        ("ForAllValues:StringEquals", "aws:TagKeys", ["team"], False),
        ("ForAllValues:StringEquals", "sts:TransitiveTagKeys", ["team"], True),
        ("ForAnyValue:StringEquals", "aws:TagKeys", ["team"], True),
        ("ForAnyValue:StringEquals", "sts:TransitiveTagKeys", ["team"], False),
        ("ForAnyValue:StringNotEquals", "aws:TagKeys", ["team"], True),
        ("ForAllValues:StringNotEquals", "aws:TagKeys", ["team"], False),
        ("ForAnyValue:StringEqualsIfExists", "sts:TransitiveTagKeys", ["team"], False),
        ("ForAllValues:StringEqualsIfExists", "sts:TransitiveTagKeys", ["team"], True),
        ("ForAnyValue:StringEqualsIfExists", "aws:TagKeys", ["team"], True),
        ("ForAnyValue:StringNotEquals", "sts:TransitiveTagKeys", ["team"], False),
        ("StringNotEquals", "sts:TransitiveTagKeys", ["team"], True),
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
    {"StringEquals": {"aws:PrincipalOrgPaths": "o-1/r-1"}},
    {"StringEquals": {"sts:ExternalId": "${aws:userid}"}},
    {"StringEquals": {"sts:ExternalId": "${aws:TagKeys}"}},
    {"StringEquals": {"sts:ExternalId": "${aws:username}"}},
    {"StringNotEquals": {"sts:ExternalId": "${aws:username}"}},
    {"StringEquals": {"aws:TagKeys": "team"}},
    {"StringNotEquals": {"aws:TagKeys": "team"}},
    {"StringNotEquals": {"sts:ExternalId": []}},
    {"StringEquals": {"aws:CurrentTime": "2026-11-25"}},
    {"DateLessThan": {"sts:ExternalId": "2026-11-25"}},
    {"DateLessThan": {"aws:CurrentTime": "tomorrow"}},
    {"ArnNotLike": {"aws:PrincipalArn": "arn:*"}},
    {"ArnLike": {"sts:ExternalId": "arn:aws:iam::*:role/*"}},
    {"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::${aws:PrincipalAccount}:role/*"}},
    {"ArnNotLike": {"aws:PrincipalArn": "arn:aws:iam::*:role/${aws:username}"}},
    {"Bool": {"sts:ExternalId": "yes"}},
    {"ForAnyValue:Null": {"aws:TagKeys": "false"}},
]


@pytest.mark.parametrize("condition", UNEVALUATED, ids=json.dumps)
def test_what_is_not_evaluated_allows_nothing(condition):
    """An Allow whose condition isn't evaluated doesn't apply, and the verdict says which it was."""
    verdict = judged(allow(Condition=condition), context=CONTEXT)

    [(operator, keys)] = condition.items()
    assert not verdict.allowed
    assert verdict.failures[0].startswith(f"statement 1: its condition {operator} on {next(iter(keys))}")
    assert verdict.failures[0].endswith(" isn't evaluated, so it counts against the caller")


def test_a_variable_is_named():
    """A variable that isn't evaluated is named in the reason, without the default value."""
    condition = {"StringEquals": {"sts:ExternalId": "${aws:userid, 'orders-1'}"}}

    [reason] = judged(allow(Condition=condition), context=CONTEXT).failures

    assert "StringEquals on sts:ExternalId (the variable ${aws:userid}) isn't evaluated" in reason


def test_an_older_version_has_no_variables():
    """An older version of the policy language has no variables, so a variable counts against the caller."""
    statement = allow(Principal="*", Condition={"StringLike": {"sts:ExternalId": "${aws:PrincipalTag/team}*"}})

    [reason] = judged(statement, context=CONTEXT, version="2008-10-17").failures

    assert "(variables need Version 2012-10-17) isn't evaluated" in reason


@pytest.mark.parametrize(
    ("element", "allowed"),
    [
        ({"Resource": "arn:aws:iam::*:role/${aws:PrincipalTag/team}/Root"}, True),
        ({"Resource": "arn:aws:iam::*:role/${aws:PrincipalTag/team}/*"}, True),
        ({"Resource": "arn:aws:iam::*:role/${aws:PrincipalTag/stage}/*"}, False),
        ({"Resource": "arn:aws:iam::*:role/${aws:PrincipalTag/stage, 'admin'}/*"}, True),
        ({"NotResource": "arn:aws:iam::*:role/${aws:PrincipalTag/team}/*"}, False),
        ({"NotResource": "arn:aws:iam::*:role/${aws:PrincipalTag/stage}/*"}, False),
        ({"NotResource": "arn:aws:iam::*:role/x${aws:PrincipalTag/team}/*"}, True),
        ({"Resource": "arn:aws:iam::${aws:PrincipalTag/account, '222222222222'}:role/*"}, False),
        ({"NotResource": "arn:aws:iam::${aws:PrincipalTag/account, '333333333333'}:role/*"}, False),
    ],
)
def test_variables_in_resources(element, allowed):
    """A variable in ``Resource`` and ``NotResource`` has the caller's value. Without a value, it never allows."""
    verdict = judged(allow(**element), context=CONTEXT, resource="arn:aws:iam::222222222222:role/admin/Root")

    assert verdict.allowed is allowed


@pytest.mark.parametrize("variable", ["${aws:PrincipalTag/team}", "${aws:PrincipalTag/stage}", "${aws:userid}"])
def test_a_deny_with_a_variable(variable):
    """A Deny with a variable applies if its value matches, and if it isn't known."""
    statement = deny(Resource=f"arn:aws:iam::*:role/{variable}/*")

    assert judged(allow(), statement, context=CONTEXT, resource="arn:aws:iam::222222222222:role/admin/Root").denied


def test_a_wildcard_in_a_value_is_no_wildcard():
    """The characters of a variable's value stand for themselves."""
    statement = allow(Resource="arn:aws:iam::*:role/${aws:PrincipalTag/team}/*")

    assert not judged(statement, context={"aws:principaltag/team": ("*",)}).allowed


def test_a_key_that_aws_leaves_open():
    """If the documentation allows two contexts, a condition counts only if both have the same outcome."""
    other = CONTEXT | {"aws:tagkeys": ("team",)}
    same = allow(Condition={"ForAnyValue:StringEquals": {"aws:TagKeys": "team"}})
    different = allow(Condition={"ForAllValues:StringEquals": {"aws:TagKeys": "team"}})

    assert judged(same, context=CONTEXT, others=(other,)).allowed
    assert "isn't evaluated" in judged(different, context=CONTEXT, others=(other,)).failures[0]


def test_a_key_of_identity_policies():
    """Lambda's key for the function exists in identity policies and not in trust policies."""
    condition = {"ArnLike": {"lambda:SourceFunctionArn": "arn:aws:lambda:*:*:function:fn"}}
    context = {"lambda:sourcefunctionarn": ("arn:aws:lambda:us-east-1:111111111111:function:fn",)}

    assert judged(allow(Condition=condition), context=context).allowed
    assert "isn't evaluated" in judged(allow(Principal="*", Condition=condition), context=context).failures[0]
    variable = {"StringEquals": {"sts:ExternalId": "${lambda:SourceFunctionArn}"}}
    assert "isn't evaluated" in judged(allow(Principal="*", Condition=variable), context=CONTEXT | context).failures[0]


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        (
            allow(Principal={"AWS": "111111111112"}, Sid="Caller"),
            'its Principal is {"AWS": "111111111112"}, the caller is arn:aws:iam::111111111111:role/path/fn-role (arn',
        ),
        (allow(Action=["sts:TagSession"]), 'its Action is ["sts:TagSession"], the call needs sts:AssumeRole'),
        (
            allow(Resource="arn:aws:iam::222222222222:role/X"),
            f'its Resource is "arn:aws:iam::222222222222:role/X", the call is about {ROLE}',
        ),
        (
            allow(Condition={"StringEquals": {"aws:PrincipalTag/team": ["a", "b"]}}),
            "condition StringEquals on aws:PrincipalTag/team isn't met: the policy has 'a', 'b', the call has 'admin'",
        ),
        (
            allow(Condition={"StringEquals": {"aws:RequestTag/team": "a"}}),
            "its condition StringEquals on aws:RequestTag/team isn't met: the policy has 'a', the call has none",
        ),
        (
            allow(Condition={"StringEquals": {"sts:ExternalId": "other-secret"}}),
            "its condition StringEquals on sts:ExternalId isn't met: the call sends another one",
        ),
    ],
)
def test_the_reason(statement, reason):
    """For each statement that doesn't apply, the verdict names the part that failed, and no external ID."""
    [failure] = judged(statement, context=CONTEXT).failures

    assert reason in failure
    assert failure.startswith("statement 1 (Caller): " if "Sid" in statement else "statement 1: ")
    assert "secret" not in failure


def test_a_missing_external_id_is_named():
    """The reason says that no external ID was sent, and not which one is needed."""
    condition = {"StringEquals": {"sts:ExternalId": "secret"}}

    [reason] = judged(allow(Condition=condition), context={"sts:externalid": ()}).failures

    assert reason.endswith("isn't met: the call sends none")


def test_the_managed_policy_that_denies():
    """The verdict has the ARN of the managed policy with the explicit Deny."""
    document = {"Version": "2012-10-17", "Statement": deny()}

    assert judge([Policy(document, "arn:aws:iam::111111111111:policy/No")], CALL, kind="identity").denied_by == (
        "arn:aws:iam::111111111111:policy/No"
    )


@pytest.mark.parametrize("condition", UNEVALUATED, ids=json.dumps)
def test_what_is_not_evaluated_keeps_no_deny_away(condition):
    """A Deny whose condition isn't evaluated applies."""
    assert judged(allow(), deny(Condition=condition), context=CONTEXT).denied


def test_a_condition_that_does_not_hold_settles_the_matter():
    """If another condition of a Deny isn't met, the Deny doesn't apply, whatever isn't evaluated."""
    condition = {"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}, "StringEquals": {"sts:ExternalId": "other"}}

    assert judged(allow(), deny(Condition=condition), context=CONTEXT) == Verdict(allowed=True)


def test_not_principal():
    """``NotPrincipal`` isn't evaluated: a Deny with it applies, and the reason names it."""
    verdict = judged(allow(Principal="*"), deny(NotPrincipal={"AWS": "111111111111"}))

    assert verdict.denials == ("statement 2 denies it: NotPrincipal isn't evaluated, so it counts against the caller",)
