"""Roles and policies as moto's IAM stores them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from moto.iam.exceptions import MalformedPolicyDocument
from moto.iam.models import Role as MotoRole
from moto.iam.models import iam_backends

from xacct_lambda._request import role_arn_parts
from xacct_lambda.exceptions import ConfigurationError
from xacct_lambda.testing._iam_rules import Policy
from xacct_lambda.testing._policy_grammar import MalformedPolicyError, check_inline_policies
from xacct_lambda.testing._sts_rules import Role


def put_role(role_arn: str, trust: str, max_session_duration: int) -> None:
    """Create a role, or give an existing one this trust policy and this longest session."""
    arn = role_arn_parts(role_arn)
    role = find_role(role_arn) or _iam(role_arn).create_role(
        role_name=arn.name,
        assume_role_policy_document=trust,
        path=arn.path,
        permissions_boundary=None,
        description="",
        tags=[],
        max_session_duration=None,
    )
    role.assume_role_policy_document = trust
    role.max_session_duration = str(max_session_duration)


def put_role_policy(role_arn: str, policy: str) -> None:
    """Give a role one more inline policy.

    Raises:
        MalformedPolicyError: IAM doesn't save it.
    """
    role = find_role(role_arn)
    if role is None:
        raise ConfigurationError("role_arn", f"{role_arn} does not exist: create it first")
    check_inline_policies([json.loads(document) for document in (*role.policies.values(), policy)])
    try:
        _iam(role_arn).put_role_policy(role.name, f"policy-{len(role.policies) + 1}", policy)
    except MalformedPolicyDocument as error:
        raise MalformedPolicyError(error.message) from error


def role(role_arn: str) -> Role | None:
    """Return a role with its trust policy, or None if it doesn't exist."""
    moto_role = find_role(role_arn)
    if moto_role is None:
        return None
    return Role(
        trust=moto_role.assume_role_policy_document,
        tags=role_tags(moto_role),
        max_session_duration=int(moto_role.max_session_duration or 3600),
    )


def principal_exists(partition: str, principal_arn: str) -> bool:
    """Return whether a trust policy may name a principal: one that exists, in the role's partition."""
    _, its_partition, _, _, account_id, resource = principal_arn.split(":", 5)
    if its_partition != partition:
        return False
    kind, _, path = resource.partition("/")
    if kind == "user":
        return any(user.arn == principal_arn for user in _iam(principal_arn).users.values())
    if kind == "role":
        return find_role(principal_arn) is not None
    if kind == "assumed-role":
        backend = iam_backends[account_id][partition]
        return any(role.name == path.partition("/")[0] for role in backend.get_roles())
    return True  # The account itself, or a federated user, whom IAM doesn't look up.


def _iam(arn: str) -> Any:
    _, partition, _, _, account_id, _ = arn.split(":", 5)
    return iam_backends[account_id][partition]


def find_role(role_arn: str) -> MotoRole | None:
    """Return moto's role, or None if it doesn't exist."""
    return next((role for role in _iam(role_arn).get_roles() if role.arn == role_arn), None)


def role_tags(role: MotoRole) -> dict[str, str]:
    """Return the tags of a role."""
    # moto has had a list of tags since 5.1, and a dict of them before.
    tags: Any = role.tags
    return {tag["Key"]: tag["Value"] for tag in (tags.values() if isinstance(tags, dict) else tags)}


def identity_policies(entity: Any) -> tuple[Policy, ...]:
    """Return the identity policies of a role, a user, or a group."""
    inline = [Policy(document) for document in entity.policies.values()]
    return (*inline, *(_default_version(policy) for policy in entity.managed_policies.values()))


def _default_version(policy: Any) -> Policy:
    document = next(version.document for version in policy.versions if version.is_default)
    return Policy(document, policy.arn)


def managed_policies_by_arn(owner_arn: str, arns: Iterable[str]) -> tuple[Policy, ...] | None:
    """Return managed policies, or None if moto doesn't have one. By default, it has none of AWS's own."""
    policies = _iam(owner_arn).managed_policies
    arns = list(arns)
    return tuple(_default_version(policies[arn]) for arn in arns) if all(arn in policies for arn in arns) else None
