"""The rules by which STS refuses AssumeRole calls, and its words, for tests (pure). moto's STS refuses nothing."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from xacct_lambda.testing._iam_rules import Call, Caller, Context, Policy, Verdict, judge

_MAX_CHAINED_DURATION: Final = 3600
_DEFAULT_SECONDS: Final = 3600
_NO_POLICY: Final = Verdict()

# Which keys AWS offers for which action, besides the global ones:
# https://docs.aws.amazon.com/service-authorization/latest/reference/list_awssecuritytokenservice.html
_KEYS_OF_ACTIONS: Final = {
    "sts:AssumeRole": (
        "aws:tagkeys",
        "sts:externalid",
        "sts:rolesessionname",
        "sts:sourceidentity",
        "sts:transitivetagkeys",
    ),
    "sts:TagSession": ("aws:tagkeys", "sts:transitivetagkeys"),
    "sts:SetSourceIdentity": ("sts:sourceidentity",),
    "sts:SetContext": (),
}
_ABSENT_KEYS: Final = (
    *("aws:calledvia", "aws:calledviafirst", "aws:calledvialast", "aws:federatedprovider"),
    *("aws:multifactorauthage", "aws:multifactorauthpresent"),
    *("aws:principalservicename", "aws:principalservicenameslist"),
    *("aws:sourceaccount", "aws:sourcearn", "aws:sourceorgid"),
    *("sts:awsservicename", "sts:durationseconds"),
)
"""Keys that a direct AssumeRole call without MFA doesn't have."""


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
    policy_arns: tuple[str, ...] = ()
    tag_pairs: tuple[tuple[str, str], ...] = ()
    transitive_tag_keys: tuple[str, ...] = ()
    has_contexts: bool = False
    """Whether ``ProvidedContexts`` is sent."""

    @property
    def tags(self) -> dict[str, str]:
        return dict(self.tag_pairs)

    def actions(self, caller: Caller) -> Iterator[str]:
        """Yield the actions that both policies must allow."""
        yield "sts:AssumeRole"
        if self.tag_pairs or caller.transitive_tags:
            yield "sts:TagSession"
        if self.source_identity is not None or caller.source_identity is not None:
            yield "sts:SetSourceIdentity"
        if self.has_contexts:
            yield "sts:SetContext"


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """The values of condition keys that aren't parameters of the call."""

    organization_id: str | None = None
    """The organization of all accounts, or None if each is on its own."""
    region_name: str = "us-east-1"
    """The Region of the STS endpoint."""
    time: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True, slots=True, kw_only=True)
class Role:
    """A role: its trust policy, as JSON text, its tags, and the longest duration of its sessions."""

    trust: str
    tags: Mapping[str, str] = field(default_factory=dict)
    max_session_duration: int = _DEFAULT_SECONDS


@dataclass(frozen=True, slots=True, kw_only=True)
class Permissions:
    """The policies that decide what a caller may do."""

    identity: tuple[Policy, ...] = ()
    limits: Mapping[str, tuple[Policy, ...] | None] = field(default_factory=dict)
    """Policies that only limit, by kind (permissions boundary, session policy). None means that they aren't known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionAttributes:
    """The attributes that a session keeps from the calls that created it."""

    tags: Mapping[str, str] = field(default_factory=dict)
    transitive_tags: Mapping[str, str] = field(default_factory=dict)
    source_identity: str | None = None
    policy: str | None = None
    policy_arns: tuple[str, ...] = ()


def session_attributes(parameters: AssumeRoleParameters, caller: Caller) -> SessionAttributes:
    """Return what the new session gets: the caller's transitive tags and source identity persist along a chain."""
    tags = parameters.tags | dict(caller.transitive_tags)
    transitive_keys = {key.lower() for key in parameters.transitive_tag_keys}
    transitive = {key: value for key, value in tags.items() if key.lower() in transitive_keys}
    return SessionAttributes(
        tags=tags,
        transitive_tags=transitive | dict(caller.transitive_tags),
        source_identity=caller.source_identity or parameters.source_identity,
        policy=parameters.policy,
        policy_arns=parameters.policy_arns,
    )


def override_tags(tags: Mapping[str, str], overriding: Mapping[str, str]) -> dict[str, str]:
    """Return tags in which a session's tag replaces a role's tag with the same key, in any case."""
    replaced = {key.lower() for key in overriding}
    return {key: value for key, value in tags.items() if key.lower() not in replaced} | dict(overriding)


def contexts(
    action: str, parameters: AssumeRoleParameters, caller: Caller, role: Role | None, surroundings: Surroundings
) -> tuple[Context, ...]:
    """Return the condition keys of one action, with their values.

    There may be several possibilities, because AWS leaves two questions open: whether transitive tags of the caller's
    session count as tags of the request, and whether sts:SetSourceIdentity has the keys of the request's tags.
    """
    organization = _some(surroundings.organization_id)
    owner = parameters.role_arn.split(":")[4]
    general: dict[str, tuple[str, ...]] = {
        **dict.fromkeys(_ABSENT_KEYS, ()),
        **dict.fromkeys((key for keys in _KEYS_OF_ACTIONS.values() for key in keys), ()),
        "aws:currenttime": (surroundings.time.isoformat(),),
        "aws:epochtime": (str(int(surroundings.time.timestamp())),),
        "aws:principalaccount": (caller.account_id,),
        "aws:principalarn": (caller.principal_arn,),
        "aws:principalisawsservice": ("false",),
        "aws:principalorgid": organization,
        "aws:principaltype": ("AssumedRole" if caller.is_role else "User",),
        "aws:requestedregion": (surroundings.region_name,),
        "aws:resourceaccount": (owner,),
        "aws:resourceorgid": organization,
        "aws:securetransport": ("true",),
        "aws:sourceidentity": _some(caller.source_identity),
        "aws:username": _some(caller.user_name),
        "aws:viaawsservice": ("false",),
        "lambda:sourcefunctionarn": _some(caller.function_arn),
        **_tag_keys("aws:principaltag", caller.tags),
        **_tag_keys("aws:resourcetag", role.tags if role else {}),
        **_tag_keys("iam:resourcetag", role.tags if role else {}),
    }

    own_keys = _KEYS_OF_ACTIONS[action]
    values = {
        "sts:externalid": _some(parameters.external_id),
        "sts:rolesessionname": (parameters.role_session_name,),
        "sts:sourceidentity": _some(caller.source_identity or parameters.source_identity),
    }
    possible_tags = [(parameters.tags, parameters.transitive_tag_keys)]
    if caller.transitive_tags:
        possible_tags.append(
            (
                parameters.tags | dict(caller.transitive_tags),
                tuple(dict.fromkeys((*parameters.transitive_tag_keys, *caller.transitive_tags))),
            )
        )
    if "aws:tagkeys" not in own_keys:
        possible_tags.insert(0, ({}, ()))
    return tuple(
        general
        | {key: values[key] for key in own_keys if key in values}
        | {"aws:tagkeys": tuple(tags), **_tag_keys("aws:requesttag", tags)}
        | {"sts:transitivetagkeys": transitive_tag_keys if "sts:transitivetagkeys" in own_keys else ()}
        for tags, transitive_tag_keys in possible_tags
    )


def _some(value: str | None) -> tuple[str, ...]:
    return () if value is None else (value,)


def _tag_keys(prefix: str, tags: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    return {f"{prefix}/{key.lower()}": (value,) for key, value in tags.items()}


def check(
    parameters: AssumeRoleParameters,
    *,
    caller: Caller,
    permissions: Permissions,
    role_of: Callable[[str], Role | None],
    surroundings: Surroundings,
) -> None:
    """Pass what STS grants.

    Args:
        parameters: The call.
        caller: The caller.
        permissions: The caller's policies.
        role_of: Returns the role with an ARN, or None if it doesn't exist.
        surroundings: Organization, Region, and time. AWS says which policy refused a call only within an organization
            or an account.

    Raises:
        RefusedError: In AWS's words.
    """
    _check_rules(parameters)
    _check_chain(parameters, caller)
    role = role_of(parameters.role_arn)
    owner = parameters.role_arn.split(":")[4]
    tells_why = caller.account_id == owner or surroundings.organization_id is not None
    for action in parameters.actions(caller):
        call = Call(
            action=action,
            resource=parameters.role_arn,
            caller=caller,
            contexts=contexts(action, parameters, caller, role, surroundings),
        )
        refusal = _refusal(call, permissions, role)
        if refusal is not None:
            why, reason = refusal
            message = _not_authorized(caller, action, parameters.role_arn)
            raise RefusedError("AccessDenied", f"{message} {why}" if tells_why else message, reason, status=403)
    _check_duration(parameters, caller, role)


def _not_authorized(caller: Caller, action: str, role_arn: str) -> str:
    return f"User: {caller.arn} is not authorized to perform: {action} on resource: {role_arn}"


def _check_chain(parameters: AssumeRoleParameters, caller: Caller) -> None:
    """Refuse what contradicts the caller's own session."""
    current, requested = caller.source_identity, parameters.source_identity
    if current is not None and requested not in {None, current}:
        raise RefusedError(
            "AccessDenied",
            _not_authorized(caller, "sts:SetSourceIdentity", parameters.role_arn),
            f"the caller's session has the source identity {current!r}, which can't be changed to {requested!r}",
            status=403,
        )
    inherited = {key.lower() for key in caller.transitive_tags}
    conflicts = [key for key in parameters.tags if key.lower() in inherited]
    if conflicts:
        raise RefusedError(
            "InvalidParameterValue",
            "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from "
            "the calling session.",
            f"the caller's session hands on the tag {conflicts[0]!r}, so the call must not send it",
        )


def _refusal(call: Call, permissions: Permissions, role: Role | None) -> tuple[str, str] | None:
    """Return AWS's words for the policy that refuses a call, and the reason. Return None if every policy allows it."""
    identity = judge(permissions.identity, call, kind="identity")
    trust = _NO_POLICY if role is None else judge([Policy(role.trust)], call, kind="trust")
    limits = {
        kind: _unknown_policy(kind) if policies is None else judge(policies, call, kind="identity")
        for kind, policies in permissions.limits.items()
    }
    theirs = f"the trust policy of {call.resource}"
    ours = f"the identity policies of {call.caller.principal_arn}"
    restricting = {f"the {kind} of {call.caller.principal_arn}": (kind, verdict) for kind, verdict in limits.items()}
    explicit = (
        ("an identity-based policy", ours, identity),
        *((f"a {kind}", name, verdict) for name, (kind, verdict) in restricting.items()),
        ("the role trust policy", theirs, trust),
    )
    for words, name, verdict in explicit:
        if verdict.denied:
            arn = f": {verdict.denied_by}" if verdict.denied_by else ""
            return f"with an explicit deny in {words}{arn}", f"{name}: {'; '.join(verdict.denials)}"
    # Within one account, a trust policy that names the caller itself is enough.
    is_home = call.caller.account_id == call.resource.split(":")[4]
    implicit = (
        ("resource-based policy", theirs, trust.allowed, trust),
        ("identity-based policy", ours, identity.allowed or (is_home and trust.by_name), identity),
        *((kind, name, verdict.allowed, verdict) for name, (kind, verdict) in restricting.items()),
    )
    if role is None:
        return f"because no resource-based policy allows the {call.action} action", f"{call.resource} does not exist"
    for kind, name, is_allowed, verdict in implicit:
        if not is_allowed:
            verb = "don't" if name == ours else "doesn't"
            problem = "; ".join(verdict.failures) or "no statement allows it"
            if is_home and verdict is identity and trust.failures:
                # It may be the trust policy that should have been enough.
                problem += f". In its own account, {theirs} would be enough if it named the caller, but "
                problem += "; ".join(trust.failures)
            return (
                f"because no {kind} allows the {call.action} action",
                f"{name} {verb} allow {call.action} on {call.resource}: {problem}",
            )
    return None


def _unknown_policy(kind: str) -> Verdict:
    return Verdict(failures=(f"the {kind} isn't known here, so it isn't evaluated and counts against the caller",))


def _check_duration(parameters: AssumeRoleParameters, caller: Caller, role: Role | None) -> None:
    requested = f"{parameters.duration_seconds} s were asked for"
    if caller.is_role and parameters.duration_seconds > _MAX_CHAINED_DURATION:
        raise RefusedError(
            "ValidationError",
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
            requested,
        )
    if role is not None and parameters.duration_seconds > role.max_session_duration:
        raise RefusedError(
            "ValidationError",
            "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
            f"{requested}, the role allows {role.max_session_duration}",
        )


_SESSION_NAME: Final = r"[\w+=,.@-]*"
_EXTERNAL_ID: Final = r"[\w+=,.@:\/-]*"
_TAG_PATTERN: Final = r"[\p{L}\p{Z}\p{N}_.:/=+\-@]"
_POLICY_CHARACTERS: Final = range(2049)


def _check_rules(parameters: AssumeRoleParameters) -> None:
    """Refuse what breaks the rules of https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html."""
    _check_text("roleArn", parameters.role_arn, range(20, 2049))
    _check_text("roleSessionName", parameters.role_session_name, range(2, 65), _SESSION_NAME)
    if parameters.external_id is not None:
        _check_text("externalId", parameters.external_id, range(2, 1225), _EXTERNAL_ID)
    if parameters.source_identity is not None:
        _check_text("sourceIdentity", parameters.source_identity, range(2, 257), _SESSION_NAME)
    if parameters.policy is not None:
        _check_text("policy", parameters.policy, range(1, 2049))
    seconds = parameters.duration_seconds
    _check_size("durationSeconds", seconds, "value", seconds, range(900, 43201))
    _check_size("policyArns", list(parameters.policy_arns), "length", len(parameters.policy_arns), range(11))
    _check_tags(parameters)
    if not re.fullmatch(r"arn:aws[a-z-]*:iam::[0-9]{12}:role/[!-~]+", parameters.role_arn):
        raise RefusedError("ValidationError", "Request ARN is invalid", "roleArn is not the ARN of a role")
    if len(parameters.policy or "") + sum(map(len, parameters.policy_arns)) not in _POLICY_CHARACTERS:
        raise RefusedError(
            "PackedPolicyTooLarge",
            "Packed policy consumes more than 100% of allotted space, please use smaller policy.",
            "policy and policyArns together may have 2048 characters",
        )
    try:
        json.loads(parameters.policy or "{}")
    except ValueError as error:
        raise RefusedError(
            "MalformedPolicyDocument", "This policy contains invalid Json", "the session policy is not JSON"
        ) from error


def _check_tags(parameters: AssumeRoleParameters) -> None:
    pairs = parameters.tag_pairs
    _check_size("tags", [key for key, _ in pairs], "length", len(pairs), range(51))
    for number, (key, value) in enumerate(pairs, start=1):
        _check_text(f"tags.{number}.member.key", key, range(1, 129))
        _check_text(f"tags.{number}.member.value", value, range(257))
        for what, text in (("key", key), ("value", value)):
            if not all(mark in "_.:/=+-@" or unicodedata.category(mark)[0] in "LNZ" for mark in text):
                _break_rule(
                    f"tags.{number}.member.{what}",
                    text,
                    f"Member must satisfy regular expression pattern: {_TAG_PATTERN}*",
                )
    keys = [key.lower() for key, _ in pairs]
    if len(set(keys)) < len(keys):
        raise RefusedError(
            "InvalidParameterValue",
            "Duplicate tag keys found. Please note that Tag keys are case insensitive.",
            "two tags have the same key, in upper or lower case",
        )
    if not {key.lower() for key in parameters.transitive_tag_keys} <= set(keys):
        raise RefusedError(
            "InvalidParameterValue",
            "The specified transitive tag key must be included in the requested tags.",
            "a transitive tag key is not among the tags",
        )


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
