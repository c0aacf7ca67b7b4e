"""What AWS's STS refuses of an AssumeRole call, and in which words; for tests, where moto's refuses nothing (pure)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from xacct_lambda.testing._iam_rules import Call, Caller, Verdict, judge

_MAX_CHAINED_DURATION: Final = 3600
_DEFAULT_SECONDS: Final = 3600
_NOTHING_SAID: Final = Verdict()


class RefusedError(Exception):
    """STS says no: its code and message, and the reason, which AWS mostly keeps to itself."""

    def __init__(self, code: str, message: str, reason: str, *, status: int = 400) -> None:
        super().__init__(code, message, reason)
        self.code = code
        self.message = message
        self.reason = reason
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumeRoleParameters:
    """The parameters of an AssumeRole call as they came over the wire."""

    role_arn: str
    role_session_name: str
    duration_seconds: int = _DEFAULT_SECONDS
    external_id: str | None = field(default=None, repr=False)
    source_identity: str | None = None
    policy: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    transitive_tag_keys: tuple[str, ...] = ()

    def context(self, caller: Caller, organization_id: str | None) -> dict[str, tuple[str, ...]]:
        """Return the values of the condition keys that the call gives rise to."""
        values: dict[str, tuple[str | None, ...]] = {
            "aws:principalaccount": (caller.account_id,),
            "aws:principalarn": (caller.principal_arn,),
            "aws:principalorgid": (organization_id,),
            "aws:principaltype": ("AssumedRole" if caller.is_role else "User",),
            "aws:resourceaccount": (self.role_arn.split(":")[4],),
            "aws:securetransport": ("true",),
            "aws:tagkeys": tuple(self.tags),
            "sts:externalid": (self.external_id,),
            "sts:rolesessionname": (self.role_session_name,),
            "sts:sourceidentity": (self.source_identity,),
            "sts:transitivetagkeys": self.transitive_tag_keys,
            **{f"aws:requesttag/{key.lower()}": (value,) for key, value in self.tags.items()},
        }
        present = {key: tuple(value for value in some if value is not None) for key, some in values.items()}
        return {key: some for key, some in present.items() if some}

    def actions(self) -> Iterator[str]:
        """Yield what both policies must allow."""
        yield "sts:AssumeRole"
        if self.tags:
            yield "sts:TagSession"
        if self.source_identity is not None:
            yield "sts:SetSourceIdentity"


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """What decides about a role: its trust policy, as JSON text, and how long its sessions may live."""

    trust: str
    max_session_duration: int = _DEFAULT_SECONDS


def check(
    parameters: AssumeRoleParameters,
    *,
    caller: Caller,
    permissions: list[str],
    role_of: Callable[[str], Role | None],
    organization_id: str | None,
) -> None:
    """Pass what STS grants.

    Args:
        parameters: What is asked.
        caller: Who asks.
        permissions: The caller's identity policies, as JSON texts.
        role_of: Returns the role with an ARN, None where there is none.
        organization_id: The organization that all accounts belong to, None where they belong to different ones. Only
            within an organization, or an account, does AWS say which policy it was.

    Raises:
        RefusedError: In AWS's words.
    """
    _check_rules(parameters)
    role = role_of(parameters.role_arn)
    context = parameters.context(caller, organization_id)
    owner = parameters.role_arn.split(":")[4]
    tells_why = caller.account_id == owner or organization_id is not None
    for action in parameters.actions():
        call = Call(action=action, resource=parameters.role_arn, caller=caller, context=context)
        identity = judge(permissions, call)
        trust = _NOTHING_SAID if role is None else judge([role.trust], call)
        # Within one account a trust policy that names the caller itself is enough.
        named_at_home = trust.by_name and caller.account_id == owner
        if trust.allowed and not identity.denied and (identity.allowed or named_at_home):
            continue
        why, reason = _why(call, identity, trust, role)
        message = f"User: {caller.arn} is not authorized to perform: {action} on resource: {parameters.role_arn}"
        raise RefusedError("AccessDenied", f"{message} {why}" if tells_why else message, reason, status=403)
    _check_duration(parameters, caller, role)


def _why(call: Call, identity: Verdict, trust: Verdict, role: Role | None) -> tuple[str, str]:
    """Return AWS's words for what refused a call, and what to look at."""
    theirs = f"the trust policy of {call.resource}"
    ours = f"the identity policies of {call.caller.principal_arn}"
    if identity.denied:
        return "with an explicit deny in an identity-based policy", f"{ours} deny {call.action}{_open(identity)}"
    if trust.denied:
        return "with an explicit deny in a role trust policy", f"{theirs} denies {call.action}{_open(trust)}"
    if role is None:
        return f"because no resource-based policy allows the {call.action} action", f"{call.resource} does not exist"
    if not trust.allowed:
        reason = f"no statement of {theirs} allows {call.action} to {call.caller.principal_arn} on its conditions"
        return f"because no resource-based policy allows the {call.action} action", reason + _open(trust)
    reason = f"{ours} do not allow {call.action} on {call.resource}"
    return f"because no identity-based policy allows the {call.action} action", reason + _open(identity)


def _open(verdict: Verdict) -> str:
    conditions = ", ".join(verdict.unevaluated)
    return f" (not evaluated, so held against the caller: {conditions})" if conditions else ""


def _check_duration(parameters: AssumeRoleParameters, caller: Caller, role: Role | None) -> None:
    asked = f"{parameters.duration_seconds} s were asked for"
    if caller.is_role and parameters.duration_seconds > _MAX_CHAINED_DURATION:
        raise RefusedError(
            "ValidationError",
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
            asked,
        )
    if role is not None and parameters.duration_seconds > role.max_session_duration:
        raise RefusedError(
            "ValidationError",
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
            f"{asked}, the role allows {role.max_session_duration}",
        )


_SESSION_NAME: Final = r"[\w+=,.@-]*"
_EXTERNAL_ID: Final = r"[\w+=,.@:\/-]*"


def _check_rules(parameters: AssumeRoleParameters) -> None:
    """Refuse what breaks the rules of https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html."""
    _check_text("roleArn", parameters.role_arn, range(20, 2049))
    _check_text("roleSessionName", parameters.role_session_name, range(2, 65), _SESSION_NAME)
    if parameters.external_id is not None:
        _check_text("externalId", parameters.external_id, range(2, 1225), _EXTERNAL_ID)
    if parameters.source_identity is not None:
        _check_text("sourceIdentity", parameters.source_identity, range(2, 65), _SESSION_NAME)
    if parameters.policy is not None:
        _check_text("policy", parameters.policy, range(1, 2049))
    seconds = parameters.duration_seconds
    _check_size("durationSeconds", seconds, "value", seconds, range(900, 43201))
    _check_size("tags", list(parameters.tags), "length", len(parameters.tags), range(51))
    for number, (key, value) in enumerate(parameters.tags.items(), start=1):
        _check_text(f"tags.{number}.member.key", key, range(1, 129))
        _check_text(f"tags.{number}.member.value", value, range(257))
    if not re.fullmatch(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]+", parameters.role_arn):
        raise RefusedError("ValidationError", "Request ARN is invalid", "roleArn is not the ARN of a role")
    try:
        json.loads(parameters.policy or "{}")
    except ValueError as error:
        raise RefusedError(
            "MalformedPolicyDocument", "This policy contains invalid Json", "the session policy is not JSON"
        ) from error


def _check_text(name: str, value: str, length: range, pattern: str | None = None) -> None:
    _check_size(name, value, "length", len(value), length)
    if pattern is not None and not re.fullmatch(pattern, value, re.ASCII):
        _break_rule(name, value, f"Member must satisfy regular expression pattern: {pattern}")


def _check_size(name: str, value: object, what: str, size: int, allowed: range) -> None:
    if size < allowed[0]:
        _break_rule(name, value, f"Member must have {what} greater than or equal to {allowed[0]}")
    if size > allowed[-1]:
        _break_rule(name, value, f"Member must have {what} less than or equal to {allowed[-1]}")


def _break_rule(name: str, value: object, rule: str) -> None:
    raise RefusedError(
        "ValidationError",
        f"1 validation error detected: Value '{value}' at '{name}' failed to satisfy constraint: {rule}",
        f"{name} breaks a rule of STS",
    )
