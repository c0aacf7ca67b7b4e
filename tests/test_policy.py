"""The two policies: the article's own where nothing else is asked, and no wider than what is sent."""

from __future__ import annotations

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from iam_oracle.calls import answer
from iam_oracle.generated import generated_policies

from xacct_lambda import assume_role
from xacct_lambda.__main__ import main
from xacct_lambda.cli.policy import _as_expression
from xacct_lambda.exceptions import ConfigurationError
from xacct_lambda.policy import permissions_policy, policy_size, statements_of, trust_policy

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


AUDITOR = [
    *("--role-arn", "arn:aws:iam::*:role/audit/Auditor", "--resource-organization-id", "o-a1b2c3d4e5"),
    *("--external-id", "our-id", "--bind-external-id", "--source-identity", "alice"),
    *("--tag", "team", "--transitive-tag-key", "team"),
]


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
    ("role_arn", "explanation"),
    [
        ([], "at least one role"),
        ("arn:aws:iam::222222222222:role/tenant-*/Reader", "patterns belong in allowed_roles"),
        ([ROLE, "arn:aws:sts::222222222222:assumed-role/Reader/session"], r"role/\[PATH/\]Reader"),
    ],
)
def test_permissions_policy_refuses_what_is_not_a_role(role_arn, explanation):
    """What is not the ARN of one role is refused with the rule it breaks."""
    with pytest.raises(ConfigurationError, match=explanation):
        permissions_policy(role_arn)


def test_external_id_is_demanded_of_assume_role():
    """With an external ID, the trust policy demands it of AssumeRole."""
    assert conditions(trust_policy(EXECUTION_ROLE, external_id="our-id")) == {
        "sts:AssumeRole": {"StringEquals": {"sts:ExternalId": "our-id"}}
    }


def test_external_id_is_not_asked_of_other_actions():
    """The external ID is a condition key of AssumeRole only, so the other statements leave it out."""
    assert conditions(trust_policy(EXECUTION_ROLE, external_id="our-id", source_identity="alice")) == {
        "sts:AssumeRole": {"StringEquals": {"sts:ExternalId": "our-id", "sts:SourceIdentity": "alice"}},
        "sts:SetSourceIdentity": {"StringEquals": {"sts:SourceIdentity": "alice"}},
    }


@pytest.mark.parametrize(
    ("source_identity", "condition"),
    [
        ("alice", {"StringEquals": {"sts:SourceIdentity": "alice"}}),
        ("*", {"StringLike": {"sts:SourceIdentity": "?*"}}),
    ],
)
def test_source_identity_is_required(source_identity, condition):
    """A call without a source identity needs no SetSourceIdentity, so the trust policy requires it of AssumeRole."""
    assert conditions(trust_policy(EXECUTION_ROLE, source_identity=source_identity))["sts:AssumeRole"] == condition
    assert conditions(permissions_policy(ROLE, source_identity=source_identity))["sts:AssumeRole"] is None


def test_the_callers_statement_is_bound_by_the_external_id():
    """With an external ID, the execution role may assume the role only with it, and no other statement is bound."""
    assert conditions(permissions_policy(ROLE, external_id="our-id", tags={"team": "*"})) == {
        "sts:AssumeRole": {"StringEquals": {"sts:ExternalId": "our-id"}},
        "sts:TagSession": {
            "StringLike": {"aws:RequestTag/team": "*"},
            "ForAllValues:StringEquals": {"aws:TagKeys": ["team"]},
        },
    }


def test_a_transitive_tag_key_is_required():
    """A call must set the key as transitive, and may set no other one; the caller's side limits it to that key."""
    options = {"tags": {"team": "orders", "stage": "prod"}, "transitive_tag_keys": ["team"]}
    only = {"aws:TagKeys": ["team", "stage"], "sts:TransitiveTagKeys": ["team"]}
    trust = conditions(trust_policy(EXECUTION_ROLE, **options))

    assert trust["sts:AssumeRole"]["ForAnyValue:StringEquals"] == {"sts:TransitiveTagKeys": ["team"]}
    assert trust["sts:TagSession"]["ForAllValues:StringEquals"] == only
    permissions = conditions(permissions_policy(ROLE, **options))
    assert permissions["sts:AssumeRole"] is None
    assert permissions["sts:TagSession"]["ForAllValues:StringEquals"] == only


def test_several_transitive_tag_keys_are_required():
    """An Allow can't require several values of one key, so there is a Deny for each key that isn't transitive."""
    options = {"tags": {"team": "orders", "stage": "prod"}, "transitive_tag_keys": ["team", "stage"]}

    assert trust_policy(EXECUTION_ROLE, **options)["Statement"][2:] == [
        {
            "Effect": "Deny",
            "Principal": {"AWS": EXECUTION_ROLE},
            "Action": "sts:AssumeRole",
            "Condition": {"ForAllValues:StringNotEquals": {"sts:TransitiveTagKeys": [key]}},
        }
        for key in ("stage", "team")
    ]


def test_a_transitive_tag_key_among_any_tags():
    """If any tags are allowed, a transitive one need not be named among them."""
    policy = trust_policy(EXECUTION_ROLE, tags={"*": "*"}, transitive_tag_keys=["team"])

    assert conditions(policy) == {
        "sts:AssumeRole": {"ForAnyValue:StringEquals": {"sts:TransitiveTagKeys": ["team"]}},
        "sts:TagSession": {"ForAllValues:StringEquals": {"sts:TransitiveTagKeys": ["team"]}},
    }


def test_a_role_of_every_account():
    """The caller's side may name a role in every account of an organization, and only with the organization."""
    pattern = "arn:aws:iam::*:role/audit/Auditor"

    assert permissions_policy(pattern, resource_organization_id="o-a1b2c3d4e5", source_identity="alice")[
        "Statement"
    ] == [
        {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Resource": pattern,
            "Condition": {"StringEquals": {"aws:ResourceOrgID": "o-a1b2c3d4e5"}},
        },
        {
            "Effect": "Allow",
            "Action": "sts:SetSourceIdentity",
            "Resource": pattern,
            "Condition": {"StringEquals": {"aws:ResourceOrgID": "o-a1b2c3d4e5", "sts:SourceIdentity": "alice"}},
        },
    ]
    with pytest.raises(ConfigurationError, match=r"is needed for .*: without it, the role could be in"):
        permissions_policy(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "arn:aws:iam::*:role/audit/*",
        "arn:aws:iam::2*:role/Auditor",
        "arn:*:iam::*:role/Auditor",
        "arn:aws:iam::*:user/me",
        "arn:aws:iam::*:role/",
        "*",
    ],
)
def test_other_patterns_of_roles_are_refused(pattern):
    """The account may be a wildcard; the partition, the path and the name may not."""
    with pytest.raises(ConfigurationError, match="role"):
        permissions_policy(pattern, resource_organization_id="o-a1b2c3d4e5")


def test_an_organization_of_the_role_without_a_pattern():
    """The organization also limits roles whose accounts are named."""
    assert conditions(permissions_policy(ROLE, resource_organization_id="o-a1b2c3d4e5")) == {
        "sts:AssumeRole": {"StringEquals": {"aws:ResourceOrgID": "o-a1b2c3d4e5"}}
    }


def test_large_policies_warn():
    """A policy over IAM's default quota is returned, with a warning that says both sizes."""
    tags = {f"{number:0>20}": "v" * 20 for number in range(20)}
    roles = [f"arn:aws:iam::{number:0>12}:role/Reader" for number in range(300)]

    with pytest.warns(UserWarning, match=r"the trust policy has \d,\d{3} characters, and IAM's default quota is 2,048"):
        trust_policy(EXECUTION_ROLE, tags=tags)
    with pytest.warns(UserWarning, match=r"the permissions policy has 1\d,\d{3} characters, and IAM's .* is 10,240"):
        permissions_policy(roles)
    assert policy_size({"a": ["b c"]}) == len('{"a":["b c"]}')


def test_organization_is_demanded_of_every_action():
    """With an organization, every statement of the trust policy demands that the caller belong to it."""
    policy = trust_policy(EXECUTION_ROLE, organization_id="o-a1b2c3d4e5", tags={"team": "orders"}, external_id="our-id")
    assert conditions(policy) == {
        "sts:AssumeRole": {
            "StringEquals": {
                "aws:PrincipalOrgID": "o-a1b2c3d4e5",
                "sts:ExternalId": "our-id",
                "aws:RequestTag/team": "orders",
            }
        },
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


@pytest.mark.parametrize(
    ("tags", "condition"),
    [
        (
            {"team": "orders", "tenant": "*"},
            {"StringEquals": {"aws:RequestTag/team": "orders"}, "StringLike": {"aws:RequestTag/tenant": "?*"}},
        ),
        ({"tenant": "*", "*": "*"}, {"StringLike": {"aws:RequestTag/tenant": "?*"}}),
        ({"*": "*"}, None),
    ],
)
def test_the_role_demands_its_tags(tags, condition):
    """A call without the tags, or with an empty one where any value will do, gets no session that is nobody's."""
    assert conditions(trust_policy(EXECUTION_ROLE, tags=tags))["sts:AssumeRole"] == condition
    assert conditions(permissions_policy(EXECUTION_ROLE, tags=tags))["sts:AssumeRole"] is None


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
    ("principal_arn", "explanation"),
    [
        ("lambda.amazonaws.com", "as its execution role, not as a service"),
        (
            "arn:aws:sts::111111111111:assumed-role/orders-fn/orders-fn",
            r"arn:aws:iam::111111111111:role/\[PATH/\]orders-fn",
        ),
        ("arn:aws:iam::111111111111:role/tenant-*/Reader", "patterns belong in allowed_roles"),
        ("*", "not the ARN of a role"),
        (None, "not the ARN of a role"),
    ],
)
def test_what_is_no_principal(principal_arn, explanation):
    """A service, a session, a wildcard are refused as principals, and the message says what to write."""
    with pytest.raises(ConfigurationError, match=explanation) as refused:
        trust_policy(principal_arn)
    assert refused.value.argument == "principal_arn"


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("external_id", "not an ID"),
        ("organization_id", "o-SHORT"),
        ("source_identity", "not an identity"),
        ("tags", {"aws:team": "orders"}),
        ("tags", ["team"]),
        ("transitive_tag_keys", ["team"]),
    ],
)
def test_arguments_that_sts_would_refuse(argument, value):
    """What STS would refuse in the request is refused in the policy, under the argument's name."""
    with pytest.raises(ConfigurationError) as refused:
        trust_policy(EXECUTION_ROLE, **{argument: value})
    assert refused.value.argument == argument


@pytest.mark.parametrize(("argument", "value"), [("external_id", "not an ID"), ("resource_organization_id", "o-SHORT")])
def test_arguments_of_the_callers_side(argument, value):
    """The caller's policy refuses the same values, under the argument's name."""
    with pytest.raises(ConfigurationError) as refused:
        permissions_policy(ROLE, **{argument: value})
    assert refused.value.argument == argument


def test_generated_policies_require_what_they_are_meant_to():
    """The test AWS grants the call that sends what is required, and refuses each call with one mistake."""
    expectations = [expectation for group in generated_policies(100, seed=3) for expectation in group]

    wrong = [
        (expectation.mistake, answer(expectation.call).reason)
        for expectation in expectations
        if answer(expectation.call).is_granted != (expectation.mistake is None)
    ]

    assert wrong == []
    assert len(expectations) > 700


def command(*arguments: str) -> int:
    return main(["policy", "--execution-role-arn", EXECUTION_ROLE, *arguments])


@pytest.fixture
def handlers(monkeypatch, tmp_path):
    """A module in the working directory, as under ``xacct-lambda``, which has no working directory on its path."""
    name = f"handlers_of_{tmp_path.name.replace('-', '_')}"

    def write(source: str) -> str:
        (tmp_path / f"{name}.py").write_text("from xacct_lambda import *\n" + source, encoding="utf-8")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry])
        return f"{name}:handler"

    yield write
    sys.modules.pop(name, None)


def test_command_heads_each_document_with_its_account(capsys):
    """By default both documents are printed, each headed by the account and the role it belongs to."""
    assert command("--role-arn", ROLE) == 0
    assert capsys.readouterr().out == (
        "# Account 111111111111: add to the policies of the role my-lambda-execution-role\n"
        f"{json.dumps(json.loads(ARTICLE_PERMISSIONS), indent=2)}\n\n"
        "# Account 222222222222: the trust policy of the role role-on-source-account\n"
        f"{json.dumps(json.loads(ARTICLE_TRUST), indent=2)}\n"
    )


def test_command_prints_one_json_object(capsys):
    """As JSON it is one object with both documents."""
    assert command("--role-arn", ROLE, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "permissions_policy": json.loads(ARTICLE_PERMISSIONS),
        "trust_policy": json.loads(ARTICLE_TRUST),
    }


def test_command_maps_several_roles_to_their_trust_policies(capsys):
    """Of several roles, ``trust_policy`` maps each to its document, and one permissions policy names them all."""
    other_role = "arn:aws:iam::333333333333:role/teams/orders/Reader"
    assert command("--role-arn", ROLE, "--role-arn", other_role, "--format", "json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["permissions_policy"] == permissions_policy([ROLE, other_role])
    assert printed["trust_policy"] == {ROLE: trust_policy(EXECUTION_ROLE), other_role: trust_policy(EXECUTION_ROLE)}


def test_command_takes_every_option(capsys):
    """Every option reaches the document it belongs to."""
    options = ["--external-id", "our-id", "--organization-id", "o-a1b2c3d4e5", "--source-identity", "alice"]
    assert command("--role-arn", ROLE, *options, "--tag", "team=orders", "--tag", "tenant", "--format", "json") == 0
    sent = {"source_identity": "alice", "tags": {"team": "orders", "tenant": "*"}}
    assert json.loads(capsys.readouterr().out) == {
        "permissions_policy": permissions_policy(ROLE, **sent),
        "trust_policy": trust_policy(EXECUTION_ROLE, external_id="our-id", organization_id="o-a1b2c3d4e5", **sent),
    }


def test_command_may_be_run_again(capsys, handlers):
    """Where the working directory is on the path already, as under ``python -m``, the handler is found as well."""
    handler = handlers(f'@assume_role("{ROLE}", clients=["s3"])\ndef handler(event, context, *, s3): ...')
    assert [command("--from-handler", handler) for _ in range(2)] == [0, 0]
    assert sys.path.count("") == 1


def test_command_is_told_the_tags_of_an_event(capsys, handlers):
    """Where a handler's tags depend on the event, ``--tag`` says which they are, and the role demands them."""
    handler = handlers(f"""
@assume_role("{ROLE}", clients=["s3"], tags=lambda event, context: {{"tenant": event["tenant"]}})
def handler(event, context, *, s3): ...
""")
    assert command("--from-handler", handler, "--tag", "tenant", "--format", "json") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["trust_policy"] == trust_policy(EXECUTION_ROLE, tags={"tenant": "*"})
    assert printed["permissions_policy"] == permissions_policy(ROLE, tags={"tenant": "*"})


@pytest.mark.parametrize(
    ("arguments", "explanation"),
    [
        (["--role-arn", "Reader"], "--role-arn: 'Reader' is not the ARN"),
        (["--role-arn", ROLE, "--tag", "a!"], "--tag: the key 'a!' is invalid"),
        (["--role-arn", ROLE, "--external-id", "a b"], "--external-id: must be 2 to 1224"),
        (["--role-arn", ROLE, "--organization-id", "o-abc"], "--organization-id: 'o-abc' is not"),
        (["--role-arn", ROLE, "--execution-role-arn", "me"], "--execution-role-arn: 'me' is not the ARN"),
        (["--from-handler", "lambda_function"], "--from-handler: 'lambda_function' is not MODULE:FUNCTION. Write"),
    ],
)
def test_command_names_its_own_options(capsys, arguments, explanation):
    """What is wrong is said of the option that was given, by its name."""
    assert command(*arguments) == 2
    assert capsys.readouterr().err.startswith(f"xacct-lambda policy: {explanation}")


def test_command_reads_a_handler(capsys, handlers):
    """Roles, tags and source identity are read off a decorated handler; one that depends on the event may be any."""
    handler = handlers(
        f"""
@assume_role("{ROLE}", clients=["s3"], source_identity="alice", tags={{"team": "orders"}})
@assume_role(
    "arn:aws:iam::333333333333:role/Reader",
    clients=["sqs"],
    source_identity=lambda event, context: event["user"],
    tags=lambda event, context: event["tags"],
)
@assume_role("arn:aws:iam::333333333333:role/Reader", session="session", external_id=lambda event, context: "secret")
def handler(event, context, *, s3, sqs, session): ...
"""
    )
    assert command("--from-handler", handler, "--external-id", "our-id", "--format", "json") == 0
    printed = json.loads(capsys.readouterr().out)
    reader = "arn:aws:iam::333333333333:role/Reader"
    assert printed["trust_policy"] == {
        ROLE: trust_policy(EXECUTION_ROLE, source_identity="alice", tags={"team": "orders"}),
        reader: {
            "Version": "2012-10-17",
            "Statement": [
                *trust_policy(EXECUTION_ROLE, source_identity="*", tags={"*": "*"})["Statement"],
                *trust_policy(EXECUTION_ROLE, external_id="our-id")["Statement"],
            ],
        },
    }
    assert printed["permissions_policy"]["Statement"] == [
        *permissions_policy(ROLE, source_identity="alice", tags={"team": "orders"})["Statement"],
        *permissions_policy(reader, source_identity="*", tags={"*": "*"})["Statement"],
    ]


def test_command_takes_the_roles_that_depend_on_the_event(capsys, handlers):
    """Where the handler's role depends on the event, the roles are named beside it."""
    handler = handlers(
        f"""
@assume_role(lambda event, context: event["role"], clients=["s3"], allowed_roles=["{ROLE}"], tags={{"team": "orders"}})
def handler(event, context, *, s3): ...
"""
    )
    assert command("--from-handler", handler, "--role-arn", ROLE, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)["trust_policy"] == trust_policy(EXECUTION_ROLE, tags={"team": "orders"})


HANDLER = "def handler(event, context, *, s3): ..."


@pytest.mark.parametrize(
    ("source", "options", "explanation"),
    [
        (f'@assume_role("{ROLE}", clients=["s3"], external_id="secret")\n{HANDLER}', [], "--external-id: is required"),
        (f'@assume_role("{ROLE}", clients=["s3"])\n{HANDLER}', ["--tag", "team"], "the handler has its own tags"),
        (
            f'@assume_role(lambda event, context: 0, clients=["s3"], allowed_roles=["{ROLE}"])\n{HANDLER}',
            [],
            "--role-arn: is required",
        ),
        (
            f'@assume_role("{ROLE}", clients=["s3"], source_session=assumed_session("{ROLE}"))\n{HANDLER}',
            [],
            "another assumed role assumes",
        ),
        (HANDLER, [], "is not decorated with @assume_role"),
        ("", [], "is not MODULE:FUNCTION of a handler: module .* has no attribute"),
    ],
)
def test_command_says_what_a_handler_does_not(capsys, handlers, source, options, explanation):
    """What cannot be read off the handler is asked for, and a secret that stands in it is never printed."""
    assert command("--from-handler", handlers(source), *options) == 2
    error = capsys.readouterr().err
    assert re.search(explanation, error)
    assert "secret" not in error


def test_plan_shows_no_secret():
    """What tools may read of a handler holds that an external ID is sent, and not which."""

    @assume_role(ROLE, clients=["s3"], external_id="secret")
    def handler(event, context, *, s3): ...

    (plan,) = vars(handler)["__xacct_lambda__"]
    assert plan.role.sends_external_id
    assert "secret" not in repr(plan.role)


@pytest.mark.parametrize(
    ("options", "explanation"),
    [
        ([], "--role-arn: is required, or --from-handler"),
        (["--from-handler", "no_such_module:handler"], "No module named 'no_such_module'"),
        (["--from-handler", "no_such_module"], "is not MODULE:FUNCTION. Write"),
        (["--from-handler", ":handler"], "is not MODULE:FUNCTION. Write"),
        (["--role-arn", "arn:aws-cn:iam::222222222222:role/Reader"], "in another partition"),
        (["--role-arn", ROLE, "--bind-external-id"], "--bind-external-id: needs --external-id"),
        (["--role-arn", ROLE, "--transitive-tag-key", "team"], "--transitive-tag-key: 'team' is not a key of tags"),
        (["--role-arn", "arn:aws:iam::*:role/Auditor"], "--resource-organization-id: is needed for arn:aws:iam::*"),
        (
            [*AUDITOR, "--format", "terraform"],
            "--format: terraform needs the account of each role",
        ),
        (["--role-arn", "Reader"], "is not the ARN of a role"),
    ],
)
def test_command_refuses_with_status_2(capsys, monkeypatch, options, explanation):
    """A mistake on the command line is named on standard error, with status 2 and nothing on standard output."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    assert command(*options) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("xacct-lambda policy: ")
    assert explanation in printed.err


def test_command_passes_its_options_on(capsys):
    """The documents are those of the two functions with the same options; the role's account may be any."""
    assert command(*AUDITOR) == 0

    options = {
        "external_id": "our-id",
        "source_identity": "alice",
        "tags": {"team": "*"},
        "transitive_tag_keys": ["team"],
    }
    permissions = permissions_policy(AUDITOR[1], resource_organization_id="o-a1b2c3d4e5", **options)
    assert capsys.readouterr().out == (
        "# Account 111111111111: add to the policies of the role my-lambda-execution-role\n"
        f"{json.dumps(permissions, indent=2)}\n\n"
        "# Each account with the role: the trust policy of the role Auditor\n"
        f"{json.dumps(trust_policy(EXECUTION_ROLE, **options), indent=2)}\n"
    )


def test_one_template_for_every_account(capsys):
    """If a role's account may be any, each stack but the function's own creates the role."""
    assert command(*AUDITOR, "--format", "cloudformation") == 0

    template = capsys.readouterr().out
    assert "  OtherAccount: !Not [!Condition Account111111111111]\n" in template
    assert (
        '    Condition: OtherAccount\n    Properties:\n      RoleName: "Auditor"\n      Path: "/audit/"\n' in template
    )


def test_the_callers_statement_is_bound_if_asked(capsys):
    """Without ``--bind-external-id``, the external ID is only in the trust policy."""
    assert command("--role-arn", ROLE, "--external-id", "our-id", "--format", "json") == 0

    assert json.loads(capsys.readouterr().out)["permissions_policy"] == permissions_policy(ROLE)


@pytest.mark.parametrize(
    ("options", "warning"),
    [
        (
            [option for n in range(300) for option in ("--role-arn", f"arn:aws:iam::{n:0>12}:role/Reader")],
            "the permissions policy of the role my-lambda-execution-role has 1",
        ),
        (
            ["--role-arn", ROLE, *[option for n in range(20) for option in ("--tag", f"{n:0>20}={'v' * 20}")]],
            f"the trust policy of {ROLE} has ",
        ),
        (
            [
                *("--format", "cloudformation"),
                *(option for n in range(120) for option in ("--role-arn", f"arn:aws:iam::{n:0>12}:role/Reader")),
            ],
            "bytes. CloudFormation accepts 51,200 bytes, so upload it to S3 first",
        ),
    ],
    ids=["permissions", "trust", "template"],
)
def test_command_warns_at_the_limits(capsys, options, warning):
    """Over a limit of IAM or CloudFormation, the documents are printed, with a warning on standard error."""
    assert command(*options) == 0

    printed = capsys.readouterr()
    assert printed.out
    [line] = [line for line in printed.err.splitlines() if warning in line]
    assert line.startswith("xacct-lambda policy: warning: the ")


VARIANTS = [
    pytest.param(["--role-arn", ROLE], id="article"),
    pytest.param(
        [
            *("--role-arn", ROLE, "--role-arn", "arn:aws:iam::333333333333:role/teams/orders/Reader"),
            *("--external-id", "our-id", "--organization-id", "o-a1b2c3d4e5", "--source-identity", "*"),
            *("--tag", "cost center", "--tag", "team=orders"),
        ],
        id="everything",
    ),
    pytest.param(["--role-arn", "arn:aws:iam::111111111111:role/Reader"], id="one account"),
    pytest.param(["--execution-role-arn", "arn:aws:iam::111111111111:user/staff/alice", "--role-arn", ROLE], id="user"),
]


@pytest.mark.parametrize("options", [*VARIANTS, pytest.param(AUDITOR, id="any account")])
def test_cloudformation_passes_cfn_lint(capsys, options):
    """The CloudFormation template passes cfn-lint, warnings included."""
    cfnlint = pytest.importorskip("cfnlint.api")
    assert command(*options, "--format", "cloudformation") == 0
    template = capsys.readouterr().out
    assert [str(match) for match in cfnlint.lint(template)] == []


def test_cloudformation_holds_the_articles_policies(capsys):
    """The template makes each policy in its own account, and the documents are the article's."""
    cfnlint = pytest.importorskip("cfnlint.decode.cfn_yaml")
    assert command("--role-arn", ROLE, "--format", "cloudformation") == 0
    resources = cfnlint.loads(capsys.readouterr().out)["Resources"]
    assert resources["AssumeRolePermission"] == {
        "Type": "AWS::IAM::RolePolicy",
        "Condition": "Account111111111111",
        "Properties": {
            "RoleName": "my-lambda-execution-role",
            "PolicyName": "xacct-lambda",
            "PolicyDocument": json.loads(ARTICLE_PERMISSIONS),
        },
    }
    assert resources["AssumedRole1"] == {
        "Type": "AWS::IAM::Role",
        "Condition": "Account222222222222",
        "Properties": {
            "RoleName": "role-on-source-account",
            "Path": "/",
            "AssumeRolePolicyDocument": json.loads(ARTICLE_TRUST),
        },
    }


@pytest.mark.parametrize("options", VARIANTS)
def test_terraform_parses(capsys, options):
    """The Terraform configuration parses, and each resource has the provider of its own account."""
    hcl2 = pytest.importorskip("hcl2")
    assert command(*options, "--format", "terraform") == 0
    configuration = json.dumps(hcl2.loads(capsys.readouterr().out))
    aliases = set(re.findall(r"account_[0-9]{12}", json.dumps(json.loads(configuration)["provider"])))
    used = set(re.findall(r"aws\.(account_[0-9]{12})", configuration))
    assert used == aliases


def test_terraform_holds_the_articles_policies(capsys):
    """The expressions in the Terraform configuration are the article's documents."""
    pytest.importorskip("hcl2")
    assert command("--role-arn", ROLE, "--format", "terraform") == 0
    expressions = re.findall(r"jsonencode\((\{.*?^  \})\)", capsys.readouterr().out, re.DOTALL | re.MULTILINE)
    assert [json.loads(re.sub('" = ', '": ', expression)) for expression in expressions] == [
        json.loads(ARTICLE_PERMISSIONS),
        json.loads(ARTICLE_TRUST),
    ]


def test_terraform_text_is_no_template():
    """What would begin a template in Terraform's language is escaped."""
    assert _as_expression({"Resource": "role/${a}/%{b}/$c"}) == '{\n    "Resource" = "role/$${a}/%%{b}/$c"\n  }'


def documented():
    """Return the commands of docs/cli.md with their output."""
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    return re.findall(r"```console\n\$ python -m xacct_lambda (policy .*)\n((?:.*\n)*?)```", page)


@pytest.mark.parametrize(("line", "output"), documented())
def test_documented_commands(capsys, line, output):
    """What docs/cli.md shows of the command is what it prints."""
    assert main(shlex.split(line)) == 0
    assert capsys.readouterr().out == output


def test_statements_of_any_policy() -> None:
    """A policy has its statements in a list, or one without a list, or none."""
    one = {"Effect": "Allow"}

    assert statements_of({"Statement": [one]}) == statements_of({"Statement": one}) == [one]
    assert statements_of({}) == []
