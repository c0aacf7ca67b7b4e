"""``policy``: print the two policies with the accounts that they belong to, as JSON or as infrastructure code."""

from __future__ import annotations

import argparse
import importlib
import json
import operator
import re
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from xacct_lambda._decorator import RoleUsage
from xacct_lambda._request import RoleARN, role_arn_parts
from xacct_lambda.exceptions import ConfigurationError
from xacct_lambda.policy import (
    INLINE_POLICIES_SIZE,
    TRUST_POLICY_SIZE,
    permissions_policy,
    policy_size,
    statements_of,
    trust_policy,
)

HELP: Final = "print the permissions policy of the execution role and the trust policy of the role it assumes"

_NAME: Final = "xacct-lambda"
_ANY_ACCOUNT: Final = "*"
_USER_POLICIES_SIZE: Final = 2048
"""Characters of all inline policies of an IAM user together."""
_TEMPLATE_SIZE: Final = 51_200
"""Bytes of a CloudFormation template that isn't uploaded to S3 first."""
_ANY_TAG: Final = "*"
"""The key of a handler's tags that depend on the event."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--role-arn", metavar="ARN", action="append", help="role to assume (may be repeated)")
    parser.add_argument(
        "--from-handler",
        metavar="MODULE:FUNCTION",
        help="read the roles, tags, and source identity of a handler that is decorated with @assume_role",
    )
    parser.add_argument(
        "--execution-role-arn", metavar="ARN", required=True, help="the function's execution role, with its path"
    )
    parser.add_argument("--external-id", metavar="ID", help="external ID to require")
    parser.add_argument(
        "--bind-external-id",
        action="store_true",
        help="let the execution role, too, assume the role only with the external ID",
    )
    parser.add_argument("--organization-id", metavar="ID", help="AWS organization of the function's account to require")
    parser.add_argument(
        "--resource-organization-id",
        metavar="ID",
        help="AWS organization of the role's account. With it, the account of a role may be *",
    )
    parser.add_argument("--source-identity", metavar="NAME", help="source identity to require, or * for any")
    parser.add_argument(
        "--tag",
        metavar="KEY[=VALUE]",
        action="append",
        default=[],
        help="session tag to require, with any value if none is given, or * for any tags (may be repeated)",
    )
    parser.add_argument(
        "--transitive-tag-key",
        metavar="KEY",
        action="append",
        default=[],
        help="session tag to require as transitive (may be repeated)",
    )
    parser.add_argument(
        "--format", choices=sorted(_FORMATS), default="text", help="output format (default: %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the policies."""
    try:
        with warnings.catch_warnings():
            # Only the sizes of the joined policies matter.
            warnings.simplefilter("ignore", UserWarning)
            policies = _policies(arguments)
        output = _FORMATS[arguments.format](policies)
    except ConfigurationError as error:
        option = _OPTION_NAMES.get(error.argument, f"--{error.argument.strip('-').replace('_', '-')}")
        print(f"xacct-lambda policy: {option}: {error.problem}", file=sys.stderr)
        return 2
    print(output)
    for warning in _size_warnings(policies, output if arguments.format == "cloudformation" else ""):
        print(f"xacct-lambda policy: warning: {warning}", file=sys.stderr)
    return 0


def _size_warnings(policies: _Policies, template: str) -> Iterator[str]:
    kind, name = _principal(policies)
    sizes = [
        (f"the permissions policy of the {kind} {name}", policies.permissions, _INLINE_SIZES[kind]),
        *((f"the trust policy of {arn}", document, TRUST_POLICY_SIZE) for arn, document in policies.trust.items()),
    ]
    for what, document, quota in sizes:
        if policy_size(document) > quota:
            yield f"{what} has {policy_size(document):,} characters, and IAM's default quota is {quota:,}"
    if len(template.encode()) > _TEMPLATE_SIZE:
        yield (
            f"the template has {len(template.encode()):,} bytes. CloudFormation accepts {_TEMPLATE_SIZE:,} bytes, so "
            "upload it to S3 first (aws cloudformation deploy --s3-bucket)"
        )


class _Policies(NamedTuple):
    principal_arn: str
    permissions: dict[str, Any]
    trust: dict[str, dict[str, Any]]
    """The trust policy of each role."""


def _policies(arguments: argparse.Namespace) -> _Policies:
    principal_arn = arguments.execution_role_arn
    is_bound = arguments.bind_external_id
    if is_bound and arguments.external_id is None:
        raise ConfigurationError("--bind-external-id", "needs --external-id")
    roles = _roles_from_arguments(arguments) if arguments.from_handler is None else _roles_from_handler(arguments)
    trust: dict[str, list[Any]] = {}
    roles_by_session_attributes: dict[tuple[str | None, frozenset[tuple[str, str]], bool], list[RoleUsage]] = {}
    for role in roles:
        if role.sends_external_id and arguments.external_id is None:
            raise ConfigurationError(
                "--external-id", f"is required: the handler sends one for {role.role_arn}, and tools can't read it"
            )
        session_attributes = (
            role.source_identity,
            frozenset(role.tags.items()),
            is_bound and role.sends_external_id,
        )
        roles_by_session_attributes.setdefault(session_attributes, []).append(role)
        trust.setdefault(str(role.role_arn), []).append(
            trust_policy(
                principal_arn,
                external_id=arguments.external_id if role.sends_external_id else None,
                organization_id=arguments.organization_id,
                source_identity=role.source_identity,
                tags=role.tags,
                transitive_tag_keys=arguments.transitive_tag_key,
            )
        )
    permissions = [
        permissions_policy(
            [str(role.role_arn) for role in alike],
            external_id=arguments.external_id if is_bound and alike[0].sends_external_id else None,
            resource_organization_id=arguments.resource_organization_id,
            source_identity=alike[0].source_identity,
            tags=alike[0].tags,
            transitive_tag_keys=arguments.transitive_tag_key,
        )
        for alike in roles_by_session_attributes.values()
    ]
    for role_arn in trust:
        if _role_parts(role_arn).partition != principal_arn.split(":")[1]:
            raise ConfigurationError(
                "--execution-role-arn", f"is in another partition than {role_arn}, and no policy can allow that"
            )
    return _Policies(principal_arn, _joined(permissions), {arn: _joined(each) for arn, each in trust.items()})


def _joined(policies: list[dict[str, Any]]) -> dict[str, Any]:
    """Return one policy that allows everything that these policies allow."""
    if all(policy == policies[0] for policy in policies):
        return policies[0]
    statements: list[Any] = []
    for policy in policies:
        statements += [statement for statement in statements_of(policy) if statement not in statements]
    return {**policies[0], "Statement": statements}


def _roles_from_arguments(arguments: argparse.Namespace) -> list[RoleUsage]:
    """Return the roles that ``--role-arn`` names."""
    if not arguments.role_arn:
        raise ConfigurationError("--role-arn", "is required, or --from-handler")
    tags = dict(_tag(text) for text in arguments.tag)
    sends_external_id = arguments.external_id is not None
    return [
        RoleUsage(arn, sends_external_id, arguments.source_identity, tags, is_chained=False)
        for arn in arguments.role_arn
    ]


def _roles_from_handler(arguments: argparse.Namespace) -> list[RoleUsage]:
    """Return the roles of ``--from-handler``. The command line has the tags if they depend on the event."""
    roles = roles_of_handler(arguments.from_handler, arguments.role_arn or [])
    tags_depend_on_event = any(_ANY_TAG in role.tags for role in roles)
    if arguments.source_identity or (arguments.tag and not tags_depend_on_event):
        raise ConfigurationError("--from-handler", "the handler has its own tags and source identity: pass none")
    if not arguments.tag:
        return roles
    tags = dict(_tag(text) for text in arguments.tag)
    return [role._replace(tags=tags) if _ANY_TAG in role.tags else role for role in roles]


def roles_of_handler(name: str, role_arns: Iterable[str]) -> list[RoleUsage]:
    """Return the roles that a handler assumes.

    Args:
        name: ``MODULE:FUNCTION`` of a handler that is decorated with ``@assume_role``.
        role_arns: The roles that the handler's role can be, if it depends on the event.

    Raises:
        ConfigurationError: The handler doesn't exist, or its roles are unknown.
    """
    role_arns = list(role_arns)
    roles = []
    for role in _handler_roles(name):
        if role.is_chained:
            raise ConfigurationError(
                "--from-handler",
                f"another assumed role assumes {role.role_arn}: name it with --role-arn, and that role with "
                "--execution-role-arn",
            )
        if role.role_arn is None and not role_arns:
            raise ConfigurationError("--role-arn", "is required: the handler's role depends on the event")
        roles += [role._replace(role_arn=arn) for arn in role_arns] if role.role_arn is None else [role]
    return roles


_OPTION_NAMES: Final = {
    "principal_arn": "--execution-role-arn",
    "tags": "--tag",
    "transitive_tag_keys": "--transitive-tag-key",
}
_INLINE_SIZES: Final = {"role": INLINE_POLICIES_SIZE, "user": _USER_POLICIES_SIZE}


def _tag(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    return key, value if separator else "*"


def _handler_roles(name: str) -> list[RoleUsage]:
    module_name, _, function_name = name.partition(":")
    if "" in {module_name, function_name}:
        raise ConfigurationError(
            "--from-handler", f"{name!r} is not MODULE:FUNCTION. Write, for example, lambda_function:lambda_handler"
        )
    if "" not in sys.path:
        # Search the working directory for the handler's module, like "python -m".
        sys.path.insert(0, "")
    try:
        handler = operator.attrgetter(function_name)(importlib.import_module(module_name))
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigurationError("--from-handler", f"{name!r} is not MODULE:FUNCTION of a handler: {error}") from error
    injectors = getattr(handler, "__xacct_lambda__", ())
    if not injectors:
        raise ConfigurationError("--from-handler", f"{name!r} is not decorated with @assume_role")
    return [injector.role for injector in injectors]


def _account(arn: str) -> str:
    return arn.split(":")[4]


def _role_parts(role_arn: str) -> RoleARN:
    """Return the parts of a role's ARN, whose account may be ``*``."""
    return role_arn_parts(role_arn.replace(f":{_ANY_ACCOUNT}:", ":000000000000:"))


def _principal(policies: _Policies) -> tuple[str, str]:
    """Return whether the principal is a role or a user, and its name."""
    kind, _, path = policies.principal_arn.split(":")[5].partition("/")
    return kind, path.rpartition("/")[2]


def _heading_of_permissions(policies: _Policies) -> str:
    return f"Account {_account(policies.principal_arn)}: add to the policies of the {' '.join(_principal(policies))}"


def _heading_of_trust(role_arn: str) -> str:
    account = _account(role_arn)
    subject = "Each account with the role" if account == _ANY_ACCOUNT else f"Account {account}"
    return f"{subject}: the trust policy of the role {_role_parts(role_arn).name}"


def _as_text(policies: _Policies) -> str:
    parts = [f"# {_heading_of_permissions(policies)}\n{_as_document(policies.permissions)}"]
    parts += [f"# {_heading_of_trust(arn)}\n{_as_document(document)}" for arn, document in policies.trust.items()]
    return "\n\n".join(parts)


def _as_json(policies: _Policies) -> str:
    """Return one object. For several roles, ``trust_policy`` maps each role's ARN to its document."""
    documents = list(policies.trust.values())
    trust = documents[0] if len(documents) == 1 else policies.trust
    return _as_document({"permissions_policy": policies.permissions, "trust_policy": trust})


def _as_document(document: Any, indent: int = 0) -> str:
    return textwrap.indent(json.dumps(document, indent=2), " " * indent).lstrip()


def _as_cloudformation(policies: _Policies) -> str:
    kind, name = _principal(policies)
    home = _account(policies.principal_arn)
    accounts = dict.fromkeys(map(_account, [policies.principal_arn, *policies.trust]))
    conditions = {
        f"Account{account}": f'!Equals [!Ref AWS::AccountId, "{account}"]'
        for account in accounts
        if account != _ANY_ACCOUNT
    }
    if _ANY_ACCOUNT in accounts:
        conditions["OtherAccount"] = f"!Not [!Condition Account{home}]"
    lines = [
        "# One template for all accounts. Each stack creates the part of its own account. Needs CAPABILITY_NAMED_IAM.",
        'AWSTemplateFormatVersion: "2010-09-09"',
        "Conditions:",
        *(f"  {name}: {expression}" for name, expression in conditions.items()),
        "Resources:",
        f"  # {_heading_of_permissions(policies)}",
        "  AssumeRolePermission:",
        f"    Type: AWS::IAM::{kind.title()}Policy",
        f"    Condition: Account{home}",
        "    Properties:",
        f"      {kind.title()}Name: {json.dumps(name)}",
        f"      PolicyName: {_NAME}",
        f"      PolicyDocument: {_as_document(policies.permissions, 6)}",
    ]
    for number, (role_arn, document) in enumerate(policies.trust.items(), 1):
        role = _role_parts(role_arn)
        account = _account(role_arn)
        lines += [
            f"  # {_heading_of_trust(role_arn)}",
            f"  AssumedRole{number}:",
            "    Type: AWS::IAM::Role",
            f"    Condition: {'OtherAccount' if account == _ANY_ACCOUNT else f'Account{account}'}",
            "    Properties:",
            f"      RoleName: {json.dumps(role.name)}",
            f"      Path: {json.dumps(role.path)}",
            f"      AssumeRolePolicyDocument: {_as_document(document, 6)}",
        ]
    return "\n".join(lines)


def _as_terraform(policies: _Policies) -> str:
    kind, name = _principal(policies)
    accounts = dict.fromkeys(map(_account, [policies.principal_arn, *policies.trust]))
    if _ANY_ACCOUNT in accounts:
        raise ConfigurationError(
            "--format", "terraform needs the account of each role: use cloudformation, which a stack set deploys to all"
        )
    blocks = [
        f"""provider "aws" {{
  alias               = "account_{account}"
  allowed_account_ids = ["{account}"]
}}"""
        for account in accounts
    ]
    blocks.append(
        f"""# {_heading_of_permissions(policies)}
resource "aws_iam_{kind}_policy" "assume_role" {{
  provider = aws.account_{_account(policies.principal_arn)}
  name     = "{_NAME}"
  {kind}     = {_as_expression(name)}
  policy   = jsonencode({_as_expression(policies.permissions)})
}}"""
    )
    for number, (role_arn, document) in enumerate(policies.trust.items(), 1):
        role = role_arn_parts(role_arn)
        blocks.append(
            f"""# {_heading_of_trust(role_arn)}
resource "aws_iam_role" "assumed_{number}" {{
  provider           = aws.account_{_account(role_arn)}
  name               = {_as_expression(role.name)}
  path               = {_as_expression(role.path)}
  assume_role_policy = jsonencode({_as_expression(document)})
}}"""
        )
    return "\n\n".join(blocks)


def _as_expression(value: Any) -> str:
    """Return a value in Terraform's language. In its strings, ``${`` and ``%{`` would begin a template."""
    text = re.sub(r"([$%])(?={)", r"\1\1", _as_document(value, 2))
    return re.sub(r'(?m)^( *"(?:[^"\\]|\\.)*"): ', r"\1 = ", text)


_FORMATS: Final[dict[str, Callable[[_Policies], str]]] = {
    "text": _as_text,
    "json": _as_json,
    "cloudformation": _as_cloudformation,
    "terraform": _as_terraform,
}
