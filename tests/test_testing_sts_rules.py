"""What STS refuses, and in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from xacct_lambda.testing._iam_rules import Caller
from xacct_lambda.testing._sts_rules import AssumeRoleParameters, RefusedError, Role, check

ROLE = "arn:aws:iam::222222222222:role/Reader"
NEIGHBOUR = "arn:aws:iam::111111111111:role/Reader"
FUNCTION = Caller(
    arn="arn:aws:sts::111111111111:assumed-role/fn-role/fn", principal_arn="arn:aws:iam::111111111111:role/fn-role"
)
USER = Caller(arn="arn:aws:iam::111111111111:user/me", principal_arn="arn:aws:iam::111111111111:user/me")
ANYTHING = json.dumps({"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}})
DENIED = f"User: {FUNCTION.arn} is not authorized to perform: sts:AssumeRole on resource: {ROLE}"


def trusting(principal: str = "111111111111", action: Any = "sts:AssumeRole", **elements: Any) -> str:
    statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": action, **elements}
    return json.dumps({"Statement": statement})


def refusal(
    *,
    caller: Caller = FUNCTION,
    permissions: str | None = ANYTHING,
    trust: str | None = trusting(),
    longest: int = 43200,
    organization_id: str | None = None,
    **parameters: Any,
) -> RefusedError | None:
    role = None if trust is None else Role(trust=trust, max_session_duration=longest)
    try:
        check(
            AssumeRoleParameters(**{"role_arn": ROLE, "role_session_name": "fn", **parameters}),
            caller=caller,
            permissions=[permissions] if permissions else [],
            role_of=lambda _arn: role,
            organization_id=organization_id,
        )
    except RefusedError as error:
        return error
    return None


def test_both_policies_allow():
    """What both policies allow is granted."""
    assert refusal() is None


@pytest.mark.parametrize(
    ("arrangement", "reason"),
    [
        ({"trust": None}, "Reader does not exist"),
        ({"trust": trusting("333333333333")}, "no statement of the trust policy of"),
        ({"permissions": None}, "the identity policies of arn:aws:iam::111111111111:role/fn-role do not allow"),
        ({"trust": trusting(Effect="Deny")}, "the trust policy of arn:aws:iam::222222222222:role/Reader denies"),
        ({"permissions": ANYTHING.replace("Allow", "Deny")}, "role/fn-role deny sts:AssumeRole"),
    ],
)
def test_across_accounts_aws_keeps_the_reason_to_itself(arrangement, reason):
    """Across accounts the message is the same whatever refused the call; the reason is for the test alone."""
    refused = refusal(**arrangement)

    assert (refused.code, refused.message, refused.status) == ("AccessDenied", DENIED, 403)
    assert reason in refused.reason


@pytest.mark.parametrize(
    ("arrangement", "why"),
    [
        ({"trust": None}, "because no resource-based policy allows the sts:AssumeRole action"),
        ({"trust": trusting("333333333333")}, "because no resource-based policy allows the sts:AssumeRole action"),
        ({"permissions": None}, "because no identity-based policy allows the sts:AssumeRole action"),
        ({"trust": trusting(Effect="Deny")}, "with an explicit deny in a role trust policy"),
        ({"permissions": ANYTHING.replace("Allow", "Deny")}, "with an explicit deny in an identity-based policy"),
    ],
)
def test_within_an_organization_aws_says_which_policy_it_was(arrangement, why):
    """Within an organization the message names the kind of policy that refused the call."""
    assert refusal(organization_id="o-abcdefghij", **arrangement).message == f"{DENIED} {why}"


def test_within_an_account_a_trust_policy_that_names_the_caller_is_enough():
    """In one account, trust in the caller by name needs no identity policy; trust in the account does."""
    arrangement = {"permissions": None, "role_arn": NEIGHBOUR}

    assert refusal(trust=trusting(FUNCTION.principal_arn), **arrangement) is None
    assert "because no identity-based policy allows" in refusal(**arrangement).message


def test_the_external_id_counts():
    """A trust policy may demand an external ID, and the refusal does not tell it."""
    trust = trusting(Condition={"StringEquals": {"sts:ExternalId": "orders-7f3a"}})

    assert refusal(trust=trust, external_id="orders-7f3a") is None
    assert "orders" not in str(refusal(trust=trust, external_id="orders-0000"))


@pytest.mark.parametrize(
    ("condition", "right", "wrong"),
    [
        ({"StringEquals": {"sts:RoleSessionName": "fn"}}, {}, {"role_session_name": "other"}),
        ({"StringEquals": {"sts:SourceIdentity": "me"}}, {"source_identity": "me"}, {"source_identity": "you"}),
        ({"StringEquals": {"aws:PrincipalOrgID": "o-a"}}, {"organization_id": "o-a"}, {"organization_id": "o-b"}),
        ({"StringEquals": {"aws:RequestTag/Team": "a"}}, {"tags": {"Team": "a"}}, {"tags": {"Team": "b"}}),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": "Team"}}, {"tags": {"Team": "a"}}, {"tags": {"Other": "a"}}),
        (
            {"ForAnyValue:StringEquals": {"sts:TransitiveTagKeys": "Team"}},
            {"tags": {"Team": "a"}, "transitive_tag_keys": ("Team",)},
            {"tags": {"Team": "a"}},
        ),
        ({"StringEquals": {"aws:PrincipalAccount": "111111111111"}}, {}, None),
        ({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::111111111111:role/*"}}, {}, {"caller": USER}),
        ({"StringEquals": {"aws:PrincipalType": "AssumedRole"}}, {}, {"caller": USER}),
        ({"StringEquals": {"aws:ResourceAccount": "222222222222"}}, {}, {"role_arn": NEIGHBOUR}),
        ({"Bool": {"aws:SecureTransport": "true"}}, {}, None),
    ],
)
def test_condition_keys(condition, right, wrong):
    """The keys of a trust policy's conditions have the values of the call."""
    trust = trusting("*", action="sts:*", Condition=condition)

    assert refusal(trust=trust, **right) is None
    assert wrong is None or refusal(trust=trust, **wrong).code == "AccessDenied"


@pytest.mark.parametrize(
    ("parameters", "action"),
    [({"tags": {"team": "a"}}, "sts:TagSession"), ({"source_identity": "me"}, "sts:SetSourceIdentity")],
)
@pytest.mark.parametrize("side", ["trust", "permissions"])
def test_tags_and_source_identity_take_an_action_of_their_own(parameters, action, side):
    """Session tags and a source identity must be allowed by both policies."""
    without = ANYTHING.replace('"*"', '"sts:AssumeRole"', 1) if side == "permissions" else trusting()
    arrangement = {"trust": trusting(action=["sts:AssumeRole", action]), side: without}

    assert f"is not authorized to perform: {action} on resource: {ROLE}" in refusal(**arrangement, **parameters).message
    assert refusal(trust=trusting(action=["sts:AssumeRole", action]), **parameters) is None


def test_what_is_not_evaluated_is_named():
    """A refusal for want of evaluation says which condition it was."""
    trust = trusting(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})

    assert "(not evaluated, so held against the caller: IpAddress on aws:SourceIp)" in refusal(trust=trust).reason


def test_an_hour_is_the_most_for_a_role():
    """A caller that is a role itself, as every function is, gets an hour at most; a user does not share that limit."""
    refused = refusal(duration_seconds=3601)

    assert refused.code == "ValidationError"
    assert "exceeds the 1 hour session limit for roles assumed by role chaining" in refused.message
    assert refusal(duration_seconds=3601, caller=USER) is None


def test_the_roles_maximum():
    """No session lives longer than the role allows."""
    refused = refusal(duration_seconds=7200, caller=USER, longest=3600)

    assert "exceeds the MaxSessionDuration set for this role" in refused.message


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"role_session_name": "a b"}, r"'a b' at 'roleSessionName' failed to satisfy constraint: Member must satisfy"),
        ({"role_session_name": "x" * 65}, "at 'roleSessionName' failed to satisfy constraint: Member must have length"),
        ({"external_id": "a b"}, "at 'externalId' failed to satisfy constraint"),
        ({"source_identity": "x"}, "Member must have length greater than or equal to 2"),
        ({"policy": " " * 2049}, "at 'policy' failed to satisfy constraint"),
        ({"duration_seconds": 43201}, "Value '43201' at 'durationSeconds' failed to satisfy constraint"),
        ({"tags": {str(number): "" for number in range(51)}}, "at 'tags' failed to satisfy constraint"),
        ({"tags": {"k" * 129: ""}}, "at 'tags.1.member.key' failed to satisfy constraint"),
        ({"tags": {"k": "v" * 257}}, "at 'tags.1.member.value' failed to satisfy constraint"),
        ({"role_arn": FUNCTION.arn}, "Request ARN is invalid"),
    ],
)
def test_parameters_that_break_a_rule(parameters, message):
    """STS validates each parameter before it asks any policy."""
    refused = refusal(**parameters)

    assert (refused.code, refused.status) == ("ValidationError", 400)
    assert message in refused.message


def test_a_session_policy_is_json():
    """A session policy that is not JSON is refused as malformed."""
    assert refusal(policy="{").code == "MalformedPolicyDocument"
