"""The two policies that let a function in one account assume a role in another, as documents.

They are those of https://repost.aws/knowledge-center/lambda-function-assume-iam-role, and no wider than the call needs:
session tags and a source identity get the further action they take, in a statement of its own, on both sides.

>>> policy = permissions_policy("arn:aws:iam::222222222222:role/role-on-source-account")
>>> policy["Statement"]["Action"]
'sts:AssumeRole'

Everything here is computed: nothing is sent, and no credentials are needed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from xacct_lambda._request import ANY_ROLE, assume_role_request, role_arn_parts
from xacct_lambda.exceptions import ConfigurationError

__all__ = ["permissions_policy", "trust_policy"]

_VERSION: Final = "2012-10-17"
_ANY: Final = "*"
_USER_ARN: Final = re.compile(r"arn:aws(?:-[a-z]+)*:iam::[0-9]{12}:user/(?:[!-~]+/)?[\w+=,.@-]{1,64}", re.ASCII)
_ORGANIZATION_ID: Final = re.compile(r"o-[a-z0-9]{10,32}")

_Condition: TypeAlias = dict[str, dict[str, Any]]


def permissions_policy(
    role_arn: str | Iterable[str], *, source_identity: str | None = None, tags: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Return the policy that the execution role needs, in the function's own account.

    Args:
        role_arn: The role to assume, or several.
        source_identity: The source identity that is sent; ``*`` for any.
        tags: The session tags that are sent; ``*`` as a value for any, and as a key for any tags at all.

    Raises:
        ConfigurationError: An argument breaks a rule of STS.
    """
    given = [role_arn] if isinstance(role_arn, str) or not isinstance(role_arn, Iterable) else role_arn
    role_arns = list(dict.fromkeys(role_arn_parts(arn).text for arn in given))
    if not role_arns:
        raise ConfigurationError("role_arn", "at least one role is needed")
    resource = role_arns[0] if len(role_arns) == 1 else role_arns
    statements = [
        _statement({"Action": action, "Resource": resource}, condition)
        for action, condition in _actions(source_identity, tags).items()
    ]
    return {"Version": _VERSION, "Statement": statements[0] if len(statements) == 1 else statements}


def trust_policy(
    principal_arn: str,
    *,
    external_id: str | None = None,
    organization_id: str | None = None,
    source_identity: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the trust policy (``AssumeRolePolicyDocument``) of the role to assume, in that role's account.

    Args:
        principal_arn: The function's execution role, with its path; an IAM user will do for trying things out.
        external_id: What the caller must send as ``sts:ExternalId``.
        organization_id: The AWS organization (``o-…``) that the caller's account must belong to.
        source_identity: The source identity that the caller may set; ``*`` for any.
        tags: The session tags that the caller passes, each of which is demanded of every call; ``*`` as a value for
            any but an empty one, and as a key for any tags at all, none included.

    Raises:
        ConfigurationError: An argument breaks a rule of STS, or of principals.
    """
    _check_principal(principal_arn)
    if external_id is not None:
        _check(external_id=external_id)
    if organization_id is not None and not (
        isinstance(organization_id, str) and _ORGANIZATION_ID.fullmatch(organization_id)
    ):
        raise ConfigurationError(
            "organization_id",
            f"{organization_id!r} is not the ID of an organization: o- and 10 to 32 letters or digits",
        )
    of_caller = _equals({"aws:PrincipalOrgID": organization_id})
    actions = _actions(source_identity, tags)
    named = {f"aws:RequestTag/{key}": value for key, value in (tags or {}).items() if key != _ANY}
    # STS documents the external ID as a key of AssumeRole alone. Tags are demanded there too: a call that brings none
    # needs no TagSession, and would get a session that is no tenant's.
    of_action = {"sts:AssumeRole": _all_of(_equals({"sts:ExternalId": external_id}), _equals(named, of_any="?*"))}
    return {
        "Version": _VERSION,
        "Statement": [
            _statement(
                {"Principal": {"AWS": principal_arn}, "Action": action},
                _all_of(of_caller, of_action.get(action, {}), condition),
            )
            for action, condition in actions.items()
        ],
    }


def statements_of(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the statements of a policy, which may have one without a list around it."""
    found = document.get("Statement", [])
    return found if isinstance(found, list) else [found]


def _actions(source_identity: str | None, tags: Mapping[str, str] | None) -> dict[str, _Condition]:
    """Return the actions that the call takes, each with the condition that keeps it to what is sent."""
    actions: dict[str, _Condition] = {"sts:AssumeRole": {}}
    if source_identity is not None:
        if source_identity != _ANY:
            _check(source_identity=source_identity)
        actions["sts:SetSourceIdentity"] = _equals({"sts:SourceIdentity": source_identity})
    if tags:
        if not isinstance(tags, Mapping):
            _check(tags=tags)
        named = {key: value for key, value in tags.items() if key != _ANY}
        _check(tags={key: "" if value == _ANY else value for key, value in named.items()})
        only: _Condition = {} if _ANY in tags else {"ForAllValues:StringEquals": {"aws:TagKeys": list(named)}}
        actions["sts:TagSession"] = _all_of(
            _equals({f"aws:RequestTag/{key}": value for key, value in named.items()}), only
        )
    return actions


def _check(**arguments: Any) -> None:
    """Refuse what STS would refuse in a request."""
    assume_role_request(ANY_ROLE, **arguments)


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


def _equals(values: Mapping[str, str | None], *, of_any: str = _ANY) -> _Condition:
    """Return the condition that these keys have these values: no condition for None, a pattern for ``*``."""
    exact = {key: value for key, value in values.items() if value not in {None, _ANY}}
    present = {key: of_any for key, value in values.items() if value == _ANY}
    return {operator: keys for operator, keys in (("StringEquals", exact), ("StringLike", present)) if keys}


def _all_of(*conditions: _Condition) -> _Condition:
    merged: _Condition = {}
    for condition in conditions:
        for operator, keys in condition.items():
            merged[operator] = merged.get(operator, {}) | keys
    return merged


def _statement(body: dict[str, Any], condition: _Condition) -> dict[str, Any]:
    return {"Effect": "Allow", **body, **({"Condition": condition} if condition else {})}
