"""What STS refuses, and in which words."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from xacct_lambda.testing._iam_rules import Caller, Policy
from xacct_lambda.testing._sts_rules import (
    AssumeRoleParameters,
    Permissions,
    RefusedError,
    Role,
    SessionAttributes,
    Surroundings,
    check,
    override_tags,
    session_attributes,
)

ROLE = "arn:aws:iam::222222222222:role/Reader"
NEIGHBOUR = "arn:aws:iam::111111111111:role/Reader"
FUNCTION = Caller(
    arn="arn:aws:sts::111111111111:assumed-role/fn-role/fn",
    principal_arn="arn:aws:iam::111111111111:role/fn-role",
    tags={"Team": "orders"},
    function_arn="arn:aws:lambda:eu-west-1:111111111111:function:fn",
)
CHAINED = Caller(
    arn="arn:aws:sts::111111111111:assumed-role/fn-role/fn",
    principal_arn="arn:aws:iam::111111111111:role/fn-role",
    tags={"tenant": "blue"},
    transitive_tags={"tenant": "blue"},
    source_identity="alice",
)
USER = Caller(arn="arn:aws:iam::111111111111:user/me", principal_arn="arn:aws:iam::111111111111:user/me")
DENIED = f"User: {FUNCTION.arn} is not authorized to perform: sts:AssumeRole on resource: {ROLE}"


def identity(effect: str = "Allow", action: Any = "*", **elements: Any) -> str:
    statement = {"Effect": effect, "Action": action, "Resource": "*", **elements}
    return json.dumps({"Version": "2012-10-17", "Statement": statement})


ANYTHING = identity()
NOTHING = identity("Deny")


def trusting(principal: str = "111111111111", action: Any = "sts:AssumeRole", **elements: Any) -> str:
    statement = {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": action, **elements}
    return json.dumps({"Version": "2012-10-17", "Statement": statement})


def refusal(
    *,
    caller: Caller = FUNCTION,
    permissions: str | None = ANYTHING,
    policy_arn: str | None = None,
    limits: dict[str, tuple[Policy, ...] | None] | None = None,
    trust: str | None = trusting(),
    longest: int = 43200,
    organization_id: str | None = None,
    region_name: str = "eu-west-1",
    tags: dict[str, str] | None = None,
    **parameters: Any,
) -> RefusedError | None:
    role = None if trust is None else Role(trust=trust, tags={"stage": "prod"}, max_session_duration=longest)
    pairs = tuple((tags or {}).items())
    try:
        check(
            AssumeRoleParameters(**{"role_arn": ROLE, "role_session_name": "fn", "tag_pairs": pairs, **parameters}),
            caller=caller,
            permissions=Permissions(
                identity=(Policy(permissions, policy_arn),) if permissions else (), limits=limits or {}
            ),
            role_of=lambda _arn: role,
            surroundings=Surroundings(
                organization_id=organization_id, region_name=region_name, time=datetime(2026, 11, 25, tzinfo=UTC)
            ),
        )
    except RefusedError as error:
        return error
    return None


def test_both_policies_allow():
    """What both policies allow is granted."""
    assert refusal() is None


TRUST = f"the trust policy of {ROLE}"
IDENTITY = f"the identity policies of {FUNCTION.principal_arn}"
REFUSING = {
    "no role": ({"trust": None}, "Reader does not exist", "because no resource-based policy allows"),
    "no trust": (
        {"trust": trusting("333333333333")},
        f"{TRUST} doesn't allow sts:AssumeRole on {ROLE}: statement 1: its Principal is ",
        "because no resource-based policy allows",
    ),
    "no permission": (
        {"permissions": None},
        f"{IDENTITY} don't allow sts:AssumeRole on {ROLE}: no statement allows it",
        "because no identity-based policy allows",
    ),
    "trust denies": (
        {"trust": trusting(Effect="Deny")},
        "the trust policy of arn:aws:iam::222222222222:role/Reader: statement 1 denies it",
        "with an explicit deny in the role trust policy",
    ),
    "permissions deny": (
        {"permissions": NOTHING},
        "the identity policies of arn:aws:iam::111111111111:role/fn-role: statement 1 denies it",
        "with an explicit deny in an identity-based policy",
    ),
    "a managed policy denies": (
        {"permissions": NOTHING, "policy_arn": "arn:aws:iam::111111111111:policy/No"},
        "statement 1 denies it",
        "with an explicit deny in an identity-based policy: arn:aws:iam::111111111111:policy/No",
    ),
    "a boundary": (
        {"limits": {"permissions boundary": (Policy(identity(action="s3:*")),)}},
        "the permissions boundary of arn:aws:iam::111111111111:role/fn-role doesn't allow sts:AssumeRole",
        "because no permissions boundary allows",
    ),
    "a boundary denies": (
        {"limits": {"permissions boundary": (Policy(NOTHING, "arn:aws:iam::111111111111:policy/B"),)}},
        "the permissions boundary of arn:aws:iam::111111111111:role/fn-role: statement 1 denies it",
        "with an explicit deny in a permissions boundary: arn:aws:iam::111111111111:policy/B",
    ),
    "an unknown boundary": (
        {"limits": {"permissions boundary": None}},
        "the permissions boundary isn't known here, so it isn't evaluated and counts against the caller",
        "because no permissions boundary allows",
    ),
    "a session policy": (
        {"limits": {"session policy": (Policy(identity(Resource="arn:aws:iam::333333333333:role/*")),)}},
        "the session policy of arn:aws:iam::111111111111:role/fn-role doesn't allow sts:AssumeRole",
        "because no session policy allows",
    ),
}


@pytest.mark.parametrize(("arrangement", "reason", "_"), REFUSING.values(), ids=REFUSING)
def test_across_accounts_aws_keeps_the_reason_to_itself(arrangement, reason, _):
    """Across accounts the message is the same whatever refused the call; the reason is for the test only."""
    refused = refusal(**arrangement)

    assert (refused.code, refused.message, refused.status) == ("AccessDenied", DENIED, 403)
    assert reason in refused.reason


@pytest.mark.parametrize(("arrangement", "_", "words"), REFUSING.values(), ids=REFUSING)
def test_within_an_organization_aws_says_which_policy_it_was(arrangement, _, words):
    """Within an organization the message names the kind of policy, and the ARN of a managed policy that denies."""
    action = " the sts:AssumeRole action" if words.startswith("because") else ""

    assert refusal(organization_id="o-abcdefghij", **arrangement).message == f"{DENIED} {words}{action}"


def test_limits_that_allow():
    """A permissions boundary and a session policy that allow the call refuse nothing."""
    assert refusal(limits={"permissions boundary": (Policy(ANYTHING),), "session policy": (Policy(ANYTHING),)}) is None


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
        ({"StringEquals": {"aws:ResourceOrgID": "o-a"}}, {"organization_id": "o-a"}, {}),
        ({"StringEquals": {"aws:RequestTag/Team": "a"}}, {"tags": {"Team": "a"}}, {"tags": {"Team": "b"}}),
        ({"ForAllValues:StringEquals": {"aws:TagKeys": "Team"}}, {"tags": {"Team": "a"}}, {"tags": {"Other": "a"}}),
        (
            {"ForAnyValue:StringEquals": {"sts:TransitiveTagKeys": "Team"}},
            {"tags": {"Team": "a"}, "transitive_tag_keys": ("Team",)},
            {"tags": {"Team": "a"}},
        ),
        ({"StringEquals": {"aws:PrincipalAccount": "111111111111"}}, {}, None),
        ({"StringEquals": {"aws:PrincipalTag/team": "orders"}}, {}, {"caller": USER}),
        ({"StringEquals": {"aws:ResourceTag/Stage": "prod", "iam:ResourceTag/stage": "prod"}}, {}, None),
        ({"ArnLike": {"aws:PrincipalArn": "arn:aws:iam::111111111111:role/*"}}, {}, {"caller": USER}),
        ({"StringEquals": {"aws:PrincipalType": "AssumedRole"}}, {}, {"caller": USER}),
        ({"StringEquals": {"aws:username": "me"}}, {"caller": USER}, {}),
        ({"StringEquals": {"aws:ResourceAccount": "222222222222"}}, {}, {"role_arn": NEIGHBOUR}),
        ({"Bool": {"aws:SecureTransport": "true"}}, {}, None),
        ({"Bool": {"aws:PrincipalIsAWSService": "false", "aws:ViaAWSService": "false"}}, {}, None),
        ({"BoolIfExists": {"aws:MultiFactorAuthPresent": "true"}}, {}, None),
        ({"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}, {}, {"region_name": "us-east-1"}),
        ({"DateLessThan": {"aws:CurrentTime": "2026-11-26T00:00:00Z"}}, {}, None),
        ({"DateEquals": {"aws:EpochTime": "2026-11-25T00:00:00Z"}}, {}, None),
    ],
)
def test_condition_keys(condition, right, wrong):
    """The keys of a trust policy's conditions have the values of the call."""
    actions = ["sts:TagSession", "sts:SetSourceIdentity"]
    allowing = [
        {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole", "Condition": condition},
        {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": actions},
    ]
    trust = json.dumps({"Version": "2012-10-17", "Statement": allowing})

    assert refusal(trust=trust, **right) is None
    assert wrong is None or refusal(trust=trust, **wrong).code == "AccessDenied"


def test_the_functions_arn_is_a_key_of_identity_policies():
    """An identity policy may bind the call to one function, whose ARN only the function's own credentials have."""
    condition = {"ArnEquals": {"lambda:SourceFunctionArn": "arn:aws:lambda:eu-west-1:111111111111:function:fn"}}
    permissions = identity(Condition=condition)

    assert refusal(permissions=permissions) is None
    assert "has none" in refusal(permissions=permissions, caller=USER).reason


@pytest.mark.parametrize(
    ("key", "value", "parameters", "action"),
    [
        ("sts:ExternalId", "orders-1", {"tags": {"team": "a"}, "external_id": "orders-1"}, "sts:TagSession"),
        ("sts:RoleSessionName", "fn", {"tags": {"team": "a"}}, "sts:TagSession"),
        ("sts:SourceIdentity", "me", {"tags": {"team": "a"}, "source_identity": "me"}, "sts:TagSession"),
        ("sts:ExternalId", "orders-1", {"source_identity": "me", "external_id": "orders-1"}, "sts:SetSourceIdentity"),
        ("sts:RoleSessionName", "fn", {"source_identity": "me"}, "sts:SetSourceIdentity"),
    ],
)
def test_each_action_has_its_own_keys(key, value, parameters, action):
    """A condition on a key that an action doesn't have isn't met for that action, whatever the call sends."""
    every = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
    refused = refusal(trust=trusting(action=every, Condition={"StringEquals": {key: value}}), **parameters)

    assert f"is not authorized to perform: {action} on" in refused.message
    assert "the call" in refused.reason


@pytest.mark.parametrize(
    ("parameters", "action"),
    [({"tags": {"team": "a"}}, "sts:TagSession"), ({"source_identity": "me"}, "sts:SetSourceIdentity")],
)
@pytest.mark.parametrize("side", ["trust", "permissions"])
def test_tags_and_source_identity_take_an_action_of_their_own(parameters, action, side):
    """Session tags and a source identity must be allowed by both policies."""
    without = identity(action="sts:AssumeRole") if side == "permissions" else trusting()
    arrangement = {"trust": trusting(action=["sts:AssumeRole", action]), side: without}

    assert f"is not authorized to perform: {action} on resource: {ROLE}" in refusal(**arrangement, **parameters).message
    assert refusal(trust=trusting(action=["sts:AssumeRole", action]), **parameters) is None


@pytest.mark.parametrize("operator", ["StringEquals", "StringNotEquals"])
def test_request_tags_of_another_action(operator):
    """Whether sts:SetSourceIdentity has the keys of the request's tags isn't documented, so they aren't evaluated."""
    actions = [
        {"Action": ["sts:AssumeRole", "sts:TagSession"]},
        {"Action": "sts:SetSourceIdentity", "Condition": {operator: {"aws:RequestTag/team": "a"}}},
    ]
    statements = [{"Effect": "Allow", "Principal": {"AWS": "*"}, **elements} for elements in actions]
    trust = json.dumps({"Version": "2012-10-17", "Statement": statements})

    refused = refusal(trust=trust, tags={"team": "a"}, source_identity="me")

    assert f"its condition {operator} on aws:RequestTag/team isn't evaluated" in refused.reason


def test_at_home_the_trust_policy_might_have_been_enough():
    """In the role's own account, a refusal for want of permissions also says why the trust policy isn't enough."""
    trust = trusting(FUNCTION.principal_arn, Condition={"StringEquals": {"sts:ExternalId": "secret"}})

    refused = refusal(permissions=None, trust=json.dumps(both_of(trust, trusting())), role_arn=NEIGHBOUR)

    assert "would be enough if it named the caller, but statement 1: its condition StringEquals on" in refused.reason


def both_of(*policies: str) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [json.loads(policy)["Statement"] for policy in policies]}


def test_provided_contexts_take_an_action_of_their_own():
    """A call with ``ProvidedContexts`` needs sts:SetContext."""
    assert "is not authorized to perform: sts:SetContext" in refusal(has_contexts=True).message
    assert refusal(has_contexts=True, trust=trusting(action="sts:*")) is None


def test_what_is_not_evaluated_is_named():
    """If something that isn't evaluated refuses a call, the reason says what it was."""
    trust = trusting(Condition={"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}})

    assert "its condition IpAddress on aws:SourceIp isn't evaluated" in refusal(trust=trust).reason


ALL_ACTIONS = trusting(action=["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"])


class TestChains:
    def test_what_persists(self):
        """The next session keeps the source identity and the transitive tags; of its own tags, those that it names."""
        parameters = AssumeRoleParameters(
            role_arn=ROLE,
            role_session_name="fn",
            tag_pairs=(("Stage", "prod"), ("team", "a")),
            transitive_tag_keys=("stage",),
            policy="{}",
            policy_arns=("arn:aws:iam::222222222222:policy/P",),
        )

        assert session_attributes(parameters, CHAINED) == SessionAttributes(
            tags={"Stage": "prod", "team": "a", "tenant": "blue"},
            transitive_tags={"Stage": "prod", "tenant": "blue"},
            source_identity="alice",
            policy="{}",
            policy_arns=("arn:aws:iam::222222222222:policy/P",),
        )

    def test_the_first_call_sets_the_source_identity(self):
        """Without one on the caller's session, the new session has the source identity that is sent."""
        parameters = AssumeRoleParameters(role_arn=ROLE, role_session_name="fn", source_identity="bob")

        assert session_attributes(parameters, FUNCTION).source_identity == "bob"

    def test_session_tags_override_role_tags(self):
        """A session tag replaces a role's tag with the same key, in any case."""
        assert override_tags({"Team": "a", "stage": "b"}, {"team": "c"}) == {"stage": "b", "team": "c"}

    @pytest.mark.parametrize("action", ["sts:TagSession", "sts:SetSourceIdentity"])
    def test_what_is_inherited_needs_its_action(self, action):
        """Both sides must allow the action for a transitive tag and a source identity that the call doesn't send."""
        actions = {"sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"} - {action}

        assert refusal(caller=CHAINED, trust=ALL_ACTIONS) is None
        refused = refusal(caller=CHAINED, trust=trusting(action=sorted(actions)))
        assert f"is not authorized to perform: {action} on" in refused.message

    def test_a_source_identity_cannot_be_changed(self):
        """A different source identity is refused, the same one is not."""
        refused = refusal(caller=CHAINED, trust=ALL_ACTIONS, source_identity="bob")

        assert (refused.code, refused.status) == ("AccessDenied", 403)
        assert "is not authorized to perform: sts:SetSourceIdentity" in refused.message
        assert refused.reason == "the caller's session has the source identity 'alice', which can't be changed to 'bob'"
        assert refusal(caller=CHAINED, trust=ALL_ACTIONS, source_identity="alice") is None

    def test_a_transitive_tag_cannot_be_sent_again(self):
        """A tag with the key of an inherited one is refused, whatever its value and case."""
        refused = refusal(caller=CHAINED, trust=ALL_ACTIONS, tags={"Tenant": "blue"})

        assert refused.code == "InvalidParameterValue"
        assert "conflicts with a transitive tag key from the calling session" in refused.message

    @pytest.mark.parametrize(
        ("condition", "is_allowed"),
        [
            ({"StringEquals": {"sts:SourceIdentity": "alice", "aws:SourceIdentity": "alice"}}, True),
            ({"StringEquals": {"sts:SourceIdentity": "bob"}}, False),
            ({"StringEquals": {"aws:PrincipalTag/tenant": "blue"}}, True),
            ({"StringEquals": {"aws:RequestTag/tenant": "blue"}}, False),
            ({"StringEquals": {"aws:RequestTag/stage": "prod"}}, True),
            ({"ForAllValues:StringEquals": {"aws:TagKeys": ["stage", "tenant"]}}, True),
            ({"ForAllValues:StringEquals": {"aws:TagKeys": ["stage"]}}, False),
            ({"ForAnyValue:StringEquals": {"sts:TransitiveTagKeys": ["tenant"]}}, False),
        ],
    )
    def test_conditions_on_what_is_inherited(self, condition, is_allowed):
        """A condition fails if it depends on whether an inherited tag is one of the request: AWS leaves that open."""
        allowing = [
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole", "Condition": condition},
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": ["sts:TagSession", "sts:SetSourceIdentity"]},
        ]
        trust = json.dumps({"Version": "2012-10-17", "Statement": allowing})

        assert (refusal(caller=CHAINED, trust=trust, tags={"stage": "prod"}) is None) is is_allowed


def test_an_hour_is_the_most_for_a_role():
    """A caller that is a role itself, as every function is, gets at most an hour. A user has no such limit."""
    refused = refusal(duration_seconds=3601)

    assert refused.code == "ValidationError"
    assert "exceeds the 1 hour session limit for roles assumed by role chaining" in refused.message
    assert refusal(duration_seconds=3601, caller=USER) is None


def test_the_roles_maximum():
    """No session lasts longer than the role allows."""
    refused = refusal(duration_seconds=7200, caller=USER, longest=3600)

    assert "exceeds the MaxSessionDuration set for this role" in refused.message


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"role_session_name": "a b"}, r"'a b' at 'roleSessionName' failed to satisfy constraint: Member must satisfy"),
        ({"role_session_name": "x" * 65}, "at 'roleSessionName' failed to satisfy constraint: Member must have length"),
        ({"external_id": "a b"}, "at 'externalId' failed to satisfy constraint"),
        ({"source_identity": "x"}, "Member must have length greater than or equal to 2"),
        ({"source_identity": "x" * 257}, "Member must have length less than or equal to 256"),
        ({"policy": " " * 2049}, "at 'policy' failed to satisfy constraint"),
        ({"duration_seconds": 43201}, "Value '43201' at 'durationSeconds' failed to satisfy constraint"),
        ({"tags": {str(number): "" for number in range(51)}}, "at 'tags' failed to satisfy constraint"),
        ({"tags": {"k" * 129: ""}}, "at 'tags.1.member.key' failed to satisfy constraint"),
        ({"tags": {"k": "v" * 257}}, "at 'tags.1.member.value' failed to satisfy constraint"),
        ({"tags": {"k!": ""}}, "at 'tags.1.member.key' failed to satisfy constraint: Member must satisfy"),
        ({"tags": {"k": "v!"}}, "at 'tags.1.member.value' failed to satisfy constraint: Member must satisfy"),
        ({"policy_arns": ("arn:aws:iam::aws:policy/P",) * 11}, "at 'policyArns' failed to satisfy constraint"),
        ({"role_arn": FUNCTION.arn}, "Request ARN is invalid"),
    ],
)
def test_parameters_that_break_a_rule(parameters, message):
    """STS validates each parameter before it asks any policy."""
    refused = refusal(**parameters)

    assert (refused.code, refused.status) == ("ValidationError", 400)
    assert message in refused.message


def test_a_source_identity_may_have_256_characters():
    """STS accepts a source identity of 256 characters."""
    assert refusal(source_identity="x" * 256, trust=ALL_ACTIONS) is None


@pytest.mark.parametrize(
    ("parameters", "code", "message"),
    [
        ({"tag_pairs": (("Team", "a"), ("team", "b"))}, "InvalidParameterValue", "Duplicate tag keys found."),
        ({"transitive_tag_keys": ("team",)}, "InvalidParameterValue", "must be included in the requested tags"),
        ({"policy": "{}" * 1000, "policy_arns": ("x" * 49,)}, "PackedPolicyTooLarge", "allotted space"),
    ],
)
def test_parameters_that_do_not_go_together(parameters, code, message):
    """STS refuses tags with the same key, a transitive key without its tag, and policies that are too long together."""
    refused = refusal(trust=ALL_ACTIONS, **parameters)

    assert (refused.code, refused.status) == (code, 400)
    assert message in refused.message


def test_a_session_policy_is_json():
    """A session policy that is not JSON is refused as malformed."""
    assert refusal(policy="{").code == "MalformedPolicyDocument"
