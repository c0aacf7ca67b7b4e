"""Random AssumeRole calls with random policies, and what the test AWS says about them."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from xacct_lambda.testing._iam_rules import Caller, Policy
from xacct_lambda.testing._policy_grammar import MalformedPolicyError, check_policy
from xacct_lambda.testing._sts_rules import (
    AssumeRoleParameters,
    Permissions,
    RefusedError,
    Role,
    Surroundings,
    check,
)

HOME, OTHER = "111111111111", "222222222222"
FUNCTION_ROLE = f"arn:aws:iam::{HOME}:role/service-role/fn-role"
FUNCTION_SESSION = f"arn:aws:sts::{HOME}:assumed-role/fn-role/fn"
USER = f"arn:aws:iam::{HOME}:user/staff/me"
ROLES = [
    f"arn:aws:iam::{OTHER}:role/Reader",
    f"arn:aws:iam::{OTHER}:role/admin/Root",
    f"arn:aws:iam::{HOME}:role/teams/orders/Reader",
]
PRINCIPALS = {FUNCTION_ROLE, USER, *ROLES}
NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)
REGION = "eu-west-1"
ORGANIZATION = "o-a1b2c3d4e5"


def principal_exists(arn: str) -> bool:
    """Return whether a trust policy may name a principal in these accounts."""
    is_account = arn.startswith("arn:aws:") and arn.endswith(":root")
    return arn in {*PRINCIPALS, FUNCTION_SESSION} or is_account


@dataclass(frozen=True)
class Call:
    """One call with the policies that decide about it."""

    caller: Caller
    parameters: AssumeRoleParameters
    trust: dict[str, Any]
    identity: list[dict[str, Any]]
    role_tags: dict[str, str]
    organization_id: str | None

    def actions(self) -> list[str]:
        """Return the actions that both sides must allow."""
        return list(self.parameters.actions(self.caller))

    def context(self) -> dict[str, Any]:
        """Return the values of all keys. The simulator leaves out the keys that an action doesn't have."""
        parameters, caller = self.parameters, self.caller
        values: dict[str, Any] = {
            "aws:PrincipalAccount": caller.account_id,
            "aws:PrincipalArn": caller.principal_arn,
            "aws:PrincipalIsAWSService": "false",
            "aws:PrincipalOrgID": self.organization_id,
            "aws:PrincipalType": "AssumedRole" if caller.is_role else "User",
            "aws:RequestedRegion": REGION,
            "aws:ResourceAccount": parameters.role_arn.split(":")[4],
            "aws:ResourceOrgID": self.organization_id,
            "aws:SecureTransport": "true",
            "aws:SourceIdentity": caller.source_identity,
            "aws:ViaAWSService": "false",
            "aws:CurrentTime": NOW.isoformat().replace("+00:00", "Z"),
            "aws:EpochTime": str(int(NOW.timestamp())),
            "aws:username": caller.user_name,
            "aws:TagKeys": list(parameters.tags) or None,
            "lambda:SourceFunctionArn": caller.function_arn,
            "sts:ExternalId": parameters.external_id,
            "sts:RoleSessionName": parameters.role_session_name,
            "sts:SourceIdentity": caller.source_identity or parameters.source_identity,
            "sts:TransitiveTagKeys": list(parameters.transitive_tag_keys) or None,
            **{f"aws:PrincipalTag/{key}": value for key, value in caller.tags.items()},
            **{f"aws:RequestTag/{key}": value for key, value in parameters.tags.items()},
            **{f"aws:ResourceTag/{key}": value for key, value in self.role_tags.items()},
            **{f"iam:ResourceTag/{key}": value for key, value in self.role_tags.items()},
        }
        return {key: value for key, value in values.items() if value is not None}

    def for_simulator(self) -> dict[str, Any]:
        """Return the call in the form of the driver."""
        return {
            "principal": self.caller.arn,
            "resource": self.parameters.role_arn,
            "actions": self.actions(),
            "trust": self.trust,
            "identity": self.identity,
            "context": self.context(),
        }


@dataclass(frozen=True)
class Answer:
    """What one side says: whether the call is granted, and otherwise why not."""

    is_granted: bool
    reason: str = ""


def answer(call: Call) -> Answer:
    """Return what the test AWS says: IAM's checks when policies are saved, then STS's."""
    try:
        check_policy(call.trust, kind="trust", principal_exists=principal_exists)
        for policy in call.identity:
            check_policy(policy, kind="identity")
    except MalformedPolicyError as error:
        return Answer(is_granted=False, reason=f"IAM rejects it: {error}")
    try:
        check(
            call.parameters,
            caller=call.caller,
            permissions=Permissions(identity=tuple(map(Policy, call.identity))),
            role_of=partial(_role, call),
            surroundings=Surroundings(organization_id=call.organization_id, region_name=REGION, time=NOW),
        )
    except RefusedError as error:
        return Answer(is_granted=False, reason=error.reason)
    return Answer(is_granted=True)


def _role(call: Call, _arn: str) -> Role:
    return Role(trust=json.dumps(call.trust), tags=call.role_tags, max_session_duration=43200)


def random_calls(count: int, seed: int) -> list[Call]:
    """Return random calls, the same ones for the same seed."""
    generator = _Generator(random.Random(seed))  # noqa: S311 - no secret
    return [generator.call() for _ in range(count)]


class _Generator:
    def __init__(self, source: random.Random) -> None:
        self._random = source
        self._call: dict[str, Any] = {}

    def call(self) -> Call:
        is_user, is_chained = self._chance(0.15), self._chance(0.15)
        caller = Caller(
            arn=USER if is_user else FUNCTION_SESSION,
            principal_arn=USER if is_user else FUNCTION_ROLE,
            tags=self._some({"team": "admin", "stage": "prod", "Cost Center": "7"}, 0.5),
            source_identity="alice" if is_chained and not is_user and self._chance(0.5) else None,
            transitive_tags={"tenant": "blue"} if is_chained and not is_user and self._chance(0.3) else {},
            function_arn=None if is_user or is_chained else f"arn:aws:lambda:{REGION}:{HOME}:function:fn",
        )
        tags = self._some({"team": "admin", "stage": "prod", "project": "x+y"}, 0.4) if self._chance(0.5) else {}
        parameters = AssumeRoleParameters(
            role_arn=self._one(ROLES),
            role_session_name=self._one(["fn", "orders", "true"]),
            external_id=self._one(["orders-1", "orders-2"]) if self._chance(0.5) else None,
            source_identity="alice" if self._chance(0.25) else None,
            tag_pairs=tuple(tags.items()),
            transitive_tag_keys=tuple(key for key in tags if self._chance(0.4)),
        )
        return Call(
            caller=caller,
            parameters=parameters,
            trust=self._policy(partial(self._trust_statement, parameters), 0.8),
            identity=[
                self._policy(partial(self._identity_statement, parameters), 1.0) for _ in range(self._one([1, 1, 2]))
            ],
            role_tags=self._some({"stage": "prod", "Team": "admin"}, 0.5),
            organization_id=ORGANIZATION if self._chance(0.5) else None,
        )

    def _chance(self, probability: float) -> bool:
        return self._random.random() < probability

    def _one(self, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)

    def _some(self, choices: dict[str, str], probability: float) -> dict[str, str]:
        return {key: value for key, value in choices.items() if self._chance(probability)}

    def _list(self, choices: Sequence[Any]) -> Any:
        return (
            self._one(choices)
            if self._chance(0.6)
            else self._random.sample(choices, min(len(choices), self._one([1, 2, 2, 3])))
        )

    def _policy(self, statement: Any, new_version: float) -> dict[str, Any]:
        # The statements after the first one matter only if the first one is likely to allow.
        statements = [statement(is_plain=self._chance(0.55)), *(statement() for _ in range(self._one([0, 0, 1, 1, 2])))]
        version = "2012-10-17" if self._chance(new_version) else self._one(["2008-10-17", None, "2026-11-25"])
        return {
            **({"Version": version} if version else {}),
            "Statement": statements[0] if len(statements) == 1 and self._chance(0.5) else statements,
        }

    def _effect(self, *, is_plain: bool) -> str:
        return "Allow" if is_plain or self._chance(0.6) else self._one(["Deny"] * 20 + ["deny"])

    def _actions(self, *, is_plain: bool) -> dict[str, Any]:
        every = ["sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"]
        if is_plain:
            return {"Action": every}
        actions = [*every, "sts:*", "sts:Assume*", "STS:assumerole", "sts:?agSession", "sts:AssumeRole"]
        others = ["*", "s3:GetObject", "sts", "iam:PassRole"]
        return {"Action": self._list(actions if self._chance(0.95) else actions + others)}

    def _trust_statement(self, parameters: AssumeRoleParameters, *, is_plain: bool = False) -> dict[str, Any]:
        usual = [FUNCTION_ROLE, f"arn:aws:iam::{HOME}:root", HOME, "*", FUNCTION_SESSION, USER]
        unusual = [
            *(ROLES[1], f"arn:aws:iam::{OTHER}:root", f"arn:aws:sts::{HOME}:assumed-role/fn-role/other"),
            *(f"arn:aws:iam::{HOME}:role/fn-role", f"arn:aws:iam::{HOME}:role/*", "arn:aws-cn:iam::111111111111:root"),
        ]
        choices = usual if is_plain or self._chance(0.85) else unusual
        principal: Any = {"AWS": self._list(choices)}
        if self._chance(0.05):
            principal = self._one(["*", {"Service": "lambda.amazonaws.com"}, FUNCTION_ROLE])
        element = "NotPrincipal" if not is_plain and self._chance(0.04) else "Principal"
        statement = {
            "Effect": self._effect(is_plain=is_plain),
            element: principal,
            **self._actions(is_plain=is_plain),
            **self._conditions(is_plain=is_plain),
        }
        if self._chance(0.01):
            statement["Resource"] = parameters.role_arn
        return statement

    def _identity_statement(self, parameters: AssumeRoleParameters, *, is_plain: bool = False) -> dict[str, Any]:
        role = parameters.role_arn
        account = role.split(":")[4]
        patterns = [
            *("*", role, f"arn:aws:iam::{account}:role/*", "arn:aws:iam::*:role/*", f"{role[:-1]}?"),
            *(f"arn:aws:iam::{account}:*", "arn:aws:iam::*", "arn:*:iam::*:role/Reader", "arn:aws:iam*Reader"),
            *(role.lower(), "arn:aws:iam::333333333333:role/*", "arn:aws:iam::*:role/${aws:PrincipalTag/team}/*"),
            "arn:aws:iam::*:role/${aws:RequestTag/team, 'admin'}/Root",
            *("arn:aws:iam::*:role/${aws:userid}", "arn:aws:s3:::orders/*", "arn:aws:iam::*:user/*"),
        ]
        element = "NotResource" if not is_plain and self._chance(0.15) else "Resource"
        actions = self._actions(is_plain=is_plain)
        if not is_plain and self._chance(0.08):
            actions = {"NotAction": self._list(["s3:*", "sts:TagSession", "iam:*", "sts:Get*"])}
        return {
            "Effect": self._effect(is_plain=is_plain),
            **actions,
            element: "*" if is_plain and self._chance(0.5) else self._list(patterns),
            **self._conditions(is_plain=is_plain),
        }

    def _conditions(self, *, is_plain: bool) -> dict[str, Any]:
        conditions: dict[str, dict[str, Any]] = {}
        for _ in range(0 if is_plain and self._chance(0.7) else self._one([0, 1, 1, 2])):
            key, values = self._one(list(_VALUES.items()))
            operators = _operators(key, is_typed=self._chance(0.9))
            operator = self._one(operators)
            if self._chance(0.25 if key not in {"aws:TagKeys", "sts:TransitiveTagKeys"} else 0.85):
                operator = self._one(["ForAllValues:", "ForAnyValue:"]) + operator
            if operator != "Null" and not operator.endswith(":Null") and self._chance(0.25):
                operator += "IfExists"
            chosen = self._list(["true", "false", True]) if operator.endswith("Null") else self._list(values)
            conditions.setdefault(operator, {})[key] = [] if self._chance(0.01) else chosen
        return {"Condition": conditions} if conditions else {}


def _operators(key: str, *, is_typed: bool) -> list[str]:
    strings = ["StringEquals", "StringNotEquals", "StringLike", "StringNotLike", "StringEqualsIgnoreCase", "Null"]
    arns = ["ArnEquals", "ArnLike", "ArnNotEquals", "ArnNotLike"]
    dates = ["DateLessThan", "DateGreaterThan", "DateEquals", "DateNotEquals", "DateLessThanEquals"]
    if not is_typed:
        return [*strings, *arns, *dates, "Bool", "NumericLessThan", "IpAddress", "StringNotEqualsIgnoreCase"]
    if key in {"aws:CurrentTime", "aws:EpochTime"}:
        return dates
    if key.endswith("Arn"):
        return [*arns, *strings]
    return ["Bool", *strings] if key in {"aws:SecureTransport", "aws:MultiFactorAuthPresent"} else strings


_VALUES: dict[str, list[Any]] = {
    "sts:ExternalId": ["orders-1", "orders-2", "orders-*", "orders-?", "${aws:PrincipalTag/team}", "Orders-1"],
    "sts:RoleSessionName": ["fn", "orders", "${aws:username}", "f*", "${aws:PrincipalTag/nothing, 'fn'}", "true"],
    "sts:SourceIdentity": ["alice", "bob", "*", "${aws:SourceIdentity}"],
    "sts:TransitiveTagKeys": ["team", "stage", "project", "t*"],
    "aws:TagKeys": ["team", "stage", "project", "Team", "*"],
    "aws:RequestTag/team": ["admin", "?*", "${aws:PrincipalTag/team}", "Admin"],
    "aws:RequestTag/project": ["x+y", "x${*}y", "x?y", "x*"],
    "aws:PrincipalTag/team": ["admin", "${aws:RequestTag/team}", "a*", "${aws:ResourceTag/Team}"],
    "aws:PrincipalTag/Cost Center": ["7", 7, "8"],
    "aws:ResourceTag/Stage": ["prod", "test", "${aws:PrincipalTag/stage}"],
    "iam:ResourceTag/Team": ["admin", "x"],
    "aws:PrincipalArn": [
        *(FUNCTION_ROLE, USER, f"arn:aws:iam::{HOME}:role/*", "arn:aws:iam::*:*", "arn:*", "*", "fn"),
        *("arn:aws:iam::${aws:PrincipalAccount}:role/service-role/fn-role", f"arn:aws:iam::{HOME}:role/fn-role"),
    ],
    "aws:PrincipalAccount": [HOME, OTHER, "1*", int(HOME)],
    "aws:PrincipalOrgID": [ORGANIZATION, "o-zzzzzzzzzz", "o-*"],
    "aws:ResourceOrgID": [ORGANIZATION, "${aws:PrincipalOrgID}"],
    "aws:ResourceAccount": [HOME, OTHER, "${aws:PrincipalAccount}"],
    "aws:PrincipalType": ["AssumedRole", "User"],
    "aws:SecureTransport": ["true", "false", True, "True", "yes"],
    "aws:MultiFactorAuthPresent": ["true", "false", False],
    "aws:RequestedRegion": [REGION, "us-east-1", "eu-*"],
    "aws:CurrentTime": ["2026-11-25T12:00:00Z", "2026-11-24", "2027-01-01T00:00:00Z", "soon"],
    "aws:EpochTime": [str(int(NOW.timestamp())), "0", "1900000000"],
    "aws:SourceIdentity": ["alice", "bob"],
    "aws:username": ["me", "*"],
    "aws:ViaAWSService": ["false", "true"],
    "aws:SourceIp": ["10.0.0.0/8"],
    "aws:SourceArn": [f"arn:aws:lambda:{REGION}:{HOME}:function:fn"],
    "lambda:SourceFunctionArn": [f"arn:aws:lambda:{REGION}:{HOME}:function:fn", "arn:aws:lambda:*:*:function:other"],
    "aws:userid": ["AROA*"],
    "aws:PrincipalOrgPaths": ["o-a1b2c3d4e5/*"],
}
