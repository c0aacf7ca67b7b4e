"""The two policies that let a function in one account assume a role in another, as documents.

They are the policies of https://repost.aws/knowledge-center/lambda-function-assume-iam-role, and no wider than the call
needs. Session tags and a source identity need further actions. Each action has its own statement, on both sides.

>>> policy = permissions_policy("arn:aws:iam::222222222222:role/role-on-source-account")
>>> policy["Statement"]["Action"]
'sts:AssumeRole'

This module only computes documents: it sends nothing and needs no credentials.
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from xacct_lambda._request import ANY_ROLE, assume_role_request, role_arn_parts, sorted_unique
from xacct_lambda.exceptions import ConfigurationError

__all__ = ["permissions_policy", "trust_policy"]

TRUST_POLICY_SIZE: Final = 2048
"""Characters of a trust policy by IAM's default quota. IAM doesn't count white space."""
INLINE_POLICIES_SIZE: Final = 10_240
"""Characters of all inline policies of a role together."""

_VERSION: Final = "2012-10-17"
_ANY: Final = "*"
_USER_ARN: Final = re.compile(r"arn:aws(?:-[a-z]+)*:iam::[0-9]{12}:user/(?:[!-~]+/)?[\w+=,.@-]{1,64}", re.ASCII)
_ANY_ACCOUNT: Final = re.compile(r"(arn:[a-z-]+:iam::)\*(:role/[^*?]+)")
_ORGANIZATION_ID: Final = re.compile(r"o-[a-z0-9]{10,32}")

_Condition: TypeAlias = dict[str, dict[str, Any]]


def permissions_policy(  # noqa: PLR0913 - all by keyword, one for each condition
    role_arn: str | Iterable[str],
    *,
    external_id: str | None = None,
    resource_organization_id: str | None = None,
    source_identity: str | None = None,
    tags: Mapping[str, str] | None = None,
    transitive_tag_keys: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the policy that the execution role needs, in the function's own account.

    Args:
        role_arn: The role to assume, or several. With ``resource_organization_id``, the account can be ``*``:
            ``arn:aws:iam::*:role/audit/Auditor`` is the role ``audit/Auditor`` of every account.
        external_id: The external ID that each call must send.
        resource_organization_id: The AWS organization (``o-…``) that the role's account must belong to.
        source_identity: The source identity that the function may send, or ``*`` for any.
        tags: The session tags that the function may send. ``*`` as a value allows any value, and as a key any tags.
        transitive_tag_keys: The only tags that the function may set as transitive. By default, it may set any.

    Raises:
        ConfigurationError: An argument breaks a rule of STS.

    Example:
        >>> policy = permissions_policy("arn:aws:iam::222222222222:role/Reader", external_id="orders-7f3a")
        >>> policy["Statement"]["Condition"]
        {'StringEquals': {'sts:ExternalId': 'orders-7f3a'}}
    """
    arns = [role_arn] if isinstance(role_arn, str) or not isinstance(role_arn, Iterable) else role_arn
    role_arns = list(dict.fromkeys(_role_pattern(arn, resource_organization_id) for arn in arns))
    if not role_arns:
        raise ConfigurationError("role_arn", "at least one role is needed")
    if external_id is not None:
        _check_arguments(external_id=external_id)
    organization_condition = _matches(
        {"aws:ResourceOrgID": _organization_id("resource_organization_id", resource_organization_id)}
    )
    call_conditions = {"sts:AssumeRole": _matches({"sts:ExternalId": external_id})}
    resource = role_arns[0] if len(role_arns) == 1 else role_arns
    statements = [
        _statement(
            {"Action": action, "Resource": resource},
            _all_of(organization_condition, call_conditions.get(action, {}), condition),
        )
        for action, condition in _action_conditions(source_identity, tags, transitive_tag_keys).items()
    ]
    policy = {"Version": _VERSION, "Statement": statements[0] if len(statements) == 1 else statements}
    _warn_if_large("permissions policy", policy, INLINE_POLICIES_SIZE)
    return policy


def trust_policy(  # noqa: PLR0913 - all by keyword, one for each condition
    principal_arn: str,
    *,
    external_id: str | None = None,
    organization_id: str | None = None,
    source_identity: str | None = None,
    tags: Mapping[str, str] | None = None,
    transitive_tag_keys: Iterable[str] = (),
) -> dict[str, Any]:
    """Return the trust policy (``AssumeRolePolicyDocument``) of the role to assume, in that role's account.

    The policy requires each argument that you pass: a call that doesn't send it is refused.

    Args:
        principal_arn: The function's execution role, with its path. For experiments, an IAM user will do.
        external_id: The external ID that each call must send.
        organization_id: The AWS organization (``o-…``) that the caller's account must belong to.
        source_identity: The source identity that each call must send, or ``*`` for any.
        tags: The session tags that each call must send. ``*`` as a value allows any value but an empty one. ``*`` as a
            key allows further tags, without requiring them.
        transitive_tag_keys: The tags that each call must set as transitive, and the only ones. By default, a call may
            set any tags as transitive.

    Raises:
        ConfigurationError: An argument breaks a rule of STS, or of principals.

    Example:
        >>> policy = trust_policy("arn:aws:iam::111111111111:role/orders-fn", external_id="orders-7f3a")
        >>> policy["Statement"][0]["Condition"]
        {'StringEquals': {'sts:ExternalId': 'orders-7f3a'}}
    """
    _check_principal(principal_arn)
    if external_id is not None:
        _check_arguments(external_id=external_id)
    organization_condition = _matches({"aws:PrincipalOrgID": _organization_id("organization_id", organization_id)})
    action_conditions = _action_conditions(source_identity, tags, transitive_tag_keys)
    transitive_keys = sorted_unique("transitive_tag_keys", transitive_tag_keys)
    # A call that sends no tags needs no sts:TagSession, and one without a source identity no sts:SetSourceIdentity. So
    # the statement of sts:AssumeRole has to require them. The external ID is a key of that action only.
    assume_role_condition = _all_of(
        _matches({"sts:ExternalId": external_id}),
        _matches({"sts:SourceIdentity": source_identity}, any_pattern="?*"),
        _matches(_tag_keys(tags), any_pattern="?*"),
        _any_of_transitive(transitive_keys) if len(transitive_keys) == 1 else {},
    )
    principal = {"Principal": {"AWS": principal_arn}}
    statements = [
        _statement(
            principal | {"Action": action},
            _all_of(organization_condition, assume_role_condition if action == "sts:AssumeRole" else {}, condition),
        )
        for action, condition in action_conditions.items()
    ]
    if len(transitive_keys) > 1:
        # A condition of an Allow can require one of several values, not all of them.
        statements += [
            {
                "Effect": "Deny",
                **principal,
                "Action": "sts:AssumeRole",
                "Condition": {"ForAllValues:StringNotEquals": {"sts:TransitiveTagKeys": [key]}},
            }
            for key in transitive_keys
        ]
    policy = {"Version": _VERSION, "Statement": statements}
    _warn_if_large("trust policy", policy, TRUST_POLICY_SIZE)
    return policy


def statements_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the statements of a policy, which may have one without a list around it."""
    statements = document.get("Statement", [])
    return statements if isinstance(statements, list) else [statements]


def policy_size(document: Mapping[str, Any]) -> int:
    """Return how many characters IAM counts for a policy: white space outside of strings is free."""
    return len(json.dumps(document, separators=(",", ":"), ensure_ascii=False))


def _warn_if_large(name: str, policy: Mapping[str, Any], quota: int) -> None:
    size = policy_size(policy)
    if size > quota:
        warnings.warn(
            f"the {name} has {size:,} characters, and IAM's default quota is {quota:,}", UserWarning, stacklevel=3
        )


def _action_conditions(
    source_identity: str | None, tags: Mapping[str, str] | None, transitive_tag_keys: Iterable[str]
) -> dict[str, _Condition]:
    """Return the actions that the call needs, each with the condition that limits it to the arguments."""
    conditions: dict[str, _Condition] = {"sts:AssumeRole": {}}
    if source_identity is not None:
        if source_identity != _ANY:
            _check_arguments(source_identity=source_identity)
        conditions["sts:SetSourceIdentity"] = _matches({"sts:SourceIdentity": source_identity})
    transitive_keys = sorted_unique("transitive_tag_keys", transitive_tag_keys)
    if tags and not isinstance(tags, Mapping):
        _check_arguments(tags=tags)
    literal_tags = {key: "" if value == _ANY else value for key, value in (tags or {}).items() if key != _ANY}
    # With any tags allowed, a transitive one need not be named among them.
    further_tags = dict.fromkeys(transitive_keys, "") if _ANY in (tags or {}) else {}
    _check_arguments(tags=further_tags | literal_tags, transitive_tag_keys=transitive_keys)
    if tags:
        only_these_tag_keys: _Condition = (
            {} if _ANY in tags else {"ForAllValues:StringEquals": {"aws:TagKeys": list(literal_tags)}}
        )
        only_these_transitive: _Condition = (
            {"ForAllValues:StringEquals": {"sts:TransitiveTagKeys": list(transitive_keys)}} if transitive_keys else {}
        )
        conditions["sts:TagSession"] = _all_of(_matches(_tag_keys(tags)), only_these_tag_keys, only_these_transitive)
    return conditions


def _any_of_transitive(keys: Iterable[str]) -> _Condition:
    return {"ForAnyValue:StringEquals": {"sts:TransitiveTagKeys": list(keys)}}


def _tag_keys(tags: Mapping[str, str] | None) -> dict[str, str]:
    """Return the condition keys of tags with their values."""
    return {f"aws:RequestTag/{key}": value for key, value in (tags or {}).items() if key != _ANY}


def _check_arguments(**arguments: Any) -> None:
    """Refuse what STS would refuse in a request."""
    assume_role_request(ANY_ROLE, **arguments)


def _role_pattern(role_arn: str, organization_id: str | None) -> str:
    """Return the ARN of a role, or of a role with this name in any account."""
    pattern = _ANY_ACCOUNT.fullmatch(role_arn) if isinstance(role_arn, str) else None
    if pattern is None:
        return role_arn_parts(role_arn).text
    if organization_id is None:
        raise ConfigurationError(
            "resource_organization_id",
            f"is needed for {role_arn}: without it, the role could be in an account of anybody",
        )
    role_arn_parts(f"{pattern[1]}000000000000{pattern[2]}")
    return pattern[0]


def _organization_id(argument: str, value: str | None) -> str | None:
    if value is not None and not (isinstance(value, str) and _ORGANIZATION_ID.fullmatch(value)):
        raise ConfigurationError(
            argument, f"{value!r} is not the ID of an organization: o- and 10 to 32 letters or digits"
        )
    return value


def _check_principal(principal_arn: str) -> None:
    if isinstance(principal_arn, str) and _USER_ARN.fullmatch(principal_arn):
        return
    try:
        role_arn_parts(principal_arn)
    except ConfigurationError as error:
        hint = (
            ". A function calls STS as its execution role, not as a service"
            if str(principal_arn).endswith((".amazonaws.com", ".amazonaws.com.cn"))
            else ""
        )
        raise ConfigurationError("principal_arn", error.problem + hint) from error


def _matches(values: Mapping[str, str | None], *, any_pattern: str = _ANY) -> _Condition:
    """Return the condition that these keys have these values: no condition for None, a pattern for ``*``."""
    exact = {key: value for key, value in values.items() if value not in {None, _ANY}}
    patterns = {key: any_pattern for key, value in values.items() if value == _ANY}
    return {operator: keys for operator, keys in (("StringEquals", exact), ("StringLike", patterns)) if keys}


def _all_of(*conditions: _Condition) -> _Condition:
    merged: _Condition = {}
    for condition in conditions:
        for operator, keys in condition.items():
            merged[operator] = merged.get(operator, {}) | keys
    return merged


def _statement(body: dict[str, Any], condition: _Condition) -> dict[str, Any]:
    return {"Effect": "Allow", **body, **({"Condition": condition} if condition else {})}
