"""``CrossAccountAWS``: an AWS of several accounts in this process, with the function in one of them."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from unittest.mock import patch

import boto3

from xacct_lambda._request import role_arn_parts
from xacct_lambda.exceptions import ConfigurationError
from xacct_lambda.testing._faults import FaultState, STSFaults
from xacct_lambda.testing._isolation import clear_errors, clock, isolated_cache, single
from xacct_lambda.testing._policy_grammar import MalformedPolicyError, PolicyKind, check_policy

if TYPE_CHECKING:
    from xacct_lambda.testing._iam_rules import Caller
    from xacct_lambda.testing._moto import Accounts
    from xacct_lambda.testing._sts_rules import AssumeRoleParameters, Permissions

_SESSION_DURATION: Final = range(3600, 43201)
"""Seconds that IAM accepts as the longest duration of a role's sessions."""
_PARTITIONS: Final = {
    "cn-": "aws-cn",
    "eusc-": "aws-eusc",
    "us-gov-": "aws-us-gov",
    "us-iso-": "aws-iso",
    "us-isob-": "aws-iso-b",
}
"""Partitions by the prefixes of their Regions, like in moto. Any other Region is in ``aws``."""

_CLEARED_ENV_PREFIXES: Final = (
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_DEFAULT_PROFILE",
    "AWS_ENDPOINT_URL",
    "AWS_PROFILE",
    "AWS_SECURITY_TOKEN",
)
"""Prefixes of environment variables to remove: they would bypass moto or override the function's credentials."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumeRoleCall:
    """One AssumeRole call that STS answered. The external ID itself isn't recorded."""

    role_arn: str
    role_session_name: str
    caller_arn: str
    """The caller, in the form of ``get_caller_identity`` (``arn:aws:sts::111111111111:assumed-role/ROLE/FUNCTION``)."""
    duration_seconds: int = 3600
    tags: Mapping[str, str] = field(default_factory=dict)
    transitive_tag_keys: tuple[str, ...] = ()
    source_identity: str | None = None
    has_external_id: bool = False
    has_policy: bool = False
    """Whether a session policy was sent."""
    error_code: str | None = None
    """STS's error code, None if the role was assumed."""
    reason: str | None = None
    """Why STS refused, which AWS mostly keeps to itself. It names the statement and the part of it that failed."""


class CrossAccountAWS:
    """A context manager: an AWS of several accounts in this process, with the function in one of them.

    Example:
        >>> from xacct_lambda import assumed_session
        >>> from xacct_lambda.policy import permissions_policy
        >>> with CrossAccountAWS() as aws:
        ...     reader = aws.role("arn:aws:iam::222222222222:role/Reader")
        ...     aws.grant(permissions_policy(reader))
        ...     identity = assumed_session(reader).client("sts").get_caller_identity()
        >>> identity["Account"]
        '222222222222'

    Inside, the environment is like on Lambda: credentials of the execution role, the function's Region and name. The
    library is isolated (:func:`isolated_cache`), as is boto3's default session. Entering takes about 10 ms once moto is
    imported. Importing moto takes about a second.

    STS refuses AssumeRole as on AWS: if the role doesn't exist, or because of its trust policy, the caller's policies,
    the duration, or a parameter that breaks a rule. The reason is logged as a warning and recorded in :attr:`refused`.
    :doc:`docs/testing.md <testing>` lists what is evaluated and what isn't. Every service rejects credentials that this
    AWS didn't issue, strict or not. Made-up credentials, of clients that were created before, count as the function's.

    Args:
        home_account: The function's account.
        execution_role: Name of the function's execution role, with its path if it has one.
        function_name: Name of the function, which is the session name of its credentials.
        region_name: The function's Region.
        organization_id: The AWS organization of all accounts, for ``aws:PrincipalOrgID``. By default, each account is
            on its own. Within an organization, AWS says which policy refused a call.
        strict: Whether STS may refuse AssumeRole. Without it, AssumeRole is moto's, which refuses nothing.

    Raises:
        ConfigurationError: An argument is invalid. On entering: ``MOTO_ACCOUNT_ID`` is set, moto runs in another
            process, or a ``CrossAccountAWS`` is active already.
        ImportError: On entering: moto isn't installed.
    """

    home_account: str
    """The function's account, 12 digits."""
    function_name: str
    """Name of the function."""
    region_name: str
    """The function's Region."""
    execution_role_arn: str
    """ARN of the function's execution role."""
    sts: STSFaults
    """Faults of STS on demand."""
    assumed: list[AssumeRoleCall]
    """The calls that STS granted, in order."""
    refused: list[AssumeRoleCall]
    """The calls that STS refused, in order, with the reason."""

    def __init__(  # noqa: PLR0913 - all by keyword, all with a default
        self,
        *,
        home_account: str = "111111111111",
        execution_role: str = "my-lambda-execution-role",
        function_name: str = "my-function",
        region_name: str = "us-east-1",
        organization_id: str | None = None,
        strict: bool = True,
    ) -> None:
        self.home_account = _account("home_account", home_account)
        self.function_name = function_name
        self.region_name = region_name
        if not isinstance(execution_role, str) or execution_role.startswith(("arn:", "role/", "/")):
            raise ConfigurationError("execution_role", f"{execution_role!r} is not a name, with its path if it has one")
        self._partition = next((name for prefix, name in _PARTITIONS.items() if region_name.startswith(prefix)), "aws")
        self.execution_role_arn = f"arn:{self._partition}:iam::{self.home_account}:role/{execution_role}"
        role_arn_parts(self.execution_role_arn)
        self._organization_id = organization_id
        self._strict = strict
        self._faults = FaultState()
        self.sts = STSFaults(self._faults, self._entered)
        self.assumed = []
        self.refused = []
        self._sessions: dict[str, boto3.Session] = {}
        self._environment: dict[str, str] = {}
        self._accounts: Accounts | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        if "MOTO_ACCOUNT_ID" in os.environ:
            raise ConfigurationError("MOTO_ACCOUNT_ID", "is set, so moto would answer every request as that account")
        with ExitStack() as stack:
            stack.enter_context(single("CrossAccountAWS", "add accounts and roles to the active one"))
            try:
                from xacct_lambda.testing import _moto, _moto_iam  # noqa: PLC0415 - an extra, and a second
            except ImportError as error:
                raise ImportError("CrossAccountAWS needs moto: pip install 'xacct-lambda[testing]'") from error
            accounts = _moto.Accounts(
                self.region_name, faults=self._faults, decide=self._decide, is_strict=self._strict
            )
            stack.enter_context(accounts.running())
            stack.enter_context(isolated_cache())
            stack.enter_context(patch.object(boto3, "DEFAULT_SESSION", None))
            stack.enter_context(patch.object(clock, "ahead", 0.0))
            stack.callback(self._faults.reset)
            self._accounts = accounts
            self._sessions.clear()
            self.assumed.clear()
            self.refused.clear()
            _moto_iam.put_role(self.execution_role_arn, json.dumps(_trust("Service", "lambda.amazonaws.com")), 3600)
            self._environment = self._function_environment(accounts)
            stack.enter_context(patch.dict(os.environ, self._environment))
            for name in [name for name in os.environ if name.startswith(_CLEARED_ENV_PREFIXES)]:
                del os.environ[name]
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def _function_environment(self, accounts: Accounts) -> dict[str, str]:
        return accounts.issue_to_function(self.execution_role_arn, self.function_name) | {
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_DEFAULT_REGION": self.region_name,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_LAMBDA_FUNCTION_NAME": self.function_name,
            "AWS_REGION": self.region_name,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    def _entered(self) -> Accounts:
        if self._accounts is None:
            raise ConfigurationError("CrossAccountAWS", "enter it first: `with CrossAccountAWS() as aws`")
        return self._accounts

    @property
    def environment(self) -> dict[str, str]:
        """The function's environment variables, for a process that reaches moto through its server."""
        return dict(self._environment)

    def account(self, account_id: str) -> boto3.Session:
        """Return a session that may do anything inside an account, to seed it and to look into it.

        Raises:
            ConfigurationError: Not the 12 digits of an account.
        """
        accounts = self._entered()
        if _account("account_id", account_id) not in self._sessions:
            credentials: Any = accounts.issue_to_administrator(account_id)
            self._sessions[account_id] = boto3.Session(**credentials, region_name=self.region_name)
        return self._sessions[account_id]

    def role(
        self, role_arn: str, *, trust: str | Mapping[str, Any] | None = None, max_session_duration: int = 3600
    ) -> str:
        """Create a role in the account that its ARN names, or replace the trust policy of an existing one.

        Args:
            role_arn: ARN of the role.
            trust: Its trust policy, as JSON text or as a document. By default, one that names the execution role. Like
                IAM, this method rejects a policy that breaks IAM's grammar, and one that names a role or user that
                doesn't exist.
            max_session_duration: The longest duration of its sessions, in seconds.

        Returns:
            The ARN.

        Raises:
            ConfigurationError: Not the ARN of a role, a policy that IAM rejects, or a duration outside 3600 to 43200.
        """
        from xacct_lambda.testing import _moto_iam  # noqa: PLC0415 - see __enter__

        self._entered()
        arn = role_arn_parts(role_arn)
        if max_session_duration not in _SESSION_DURATION:
            raise ConfigurationError("max_session_duration", f"{max_session_duration!r} is not within 3600 to 43200")
        exists = functools.partial(_moto_iam.principal_exists, arn.partition) if self._strict else None
        document = _trust("AWS", self.execution_role_arn) if trust is None else trust
        text = _policy_text("trust", document, "trust", principal_exists=exists)
        _moto_iam.put_role(role_arn, text, max_session_duration)
        clear_errors()
        return role_arn

    def grant(self, policy: str | Mapping[str, Any], *, role_arn: str | None = None) -> None:
        """Give a role one more identity policy, an inline one.

        Args:
            policy: JSON text or a document.
            role_arn: The role. By default, the execution role.

        Raises:
            ConfigurationError: The role doesn't exist, or IAM rejects the policy.
        """
        from xacct_lambda.testing import _moto_iam  # noqa: PLC0415 - see __enter__

        self._entered()
        text = _policy_text("policy", policy, "identity")
        try:
            _moto_iam.put_role_policy(role_arn or self.execution_role_arn, text)
        except MalformedPolicyError as error:
            raise ConfigurationError("policy", f"IAM rejects it: {error}") from error
        clear_errors()

    def _decide(
        self,
        parameters: AssumeRoleParameters,
        caller: Caller,
        permissions: Permissions,
        region_name: str,
        time: datetime,
    ) -> None:
        from xacct_lambda.testing import _moto_iam, _sts_rules  # noqa: PLC0415 - see __enter__

        call = AssumeRoleCall(
            role_arn=parameters.role_arn,
            role_session_name=parameters.role_session_name,
            caller_arn=caller.arn,
            duration_seconds=parameters.duration_seconds,
            tags=parameters.tags,
            transitive_tag_keys=parameters.transitive_tag_keys,
            source_identity=parameters.source_identity,
            has_external_id=parameters.external_id is not None,
            has_policy=parameters.policy is not None,
        )
        try:
            if self._strict:
                _sts_rules.check(
                    parameters,
                    caller=caller,
                    permissions=permissions,
                    role_of=_moto_iam.role,
                    surroundings=_sts_rules.Surroundings(
                        organization_id=self._organization_id, region_name=region_name, time=time
                    ),
                )
        except _sts_rules.RefusedError as error:
            self.refused.append(dataclasses.replace(call, error_code=error.code, reason=error.reason))
            _logger.warning("STS refused %s to %s: %s", call.role_arn, call.caller_arn, error.reason)
            raise
        self.assumed.append(call)


def _account(argument: str, account_id: str) -> str:
    if not isinstance(account_id, str) or not re.fullmatch("[0-9]{12}", account_id, re.ASCII):
        raise ConfigurationError(argument, f"{account_id!r} is not the 12 digits of an account, as a string")
    return account_id


def _trust(kind: str, principal: str) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Principal": {kind: principal}, "Action": "sts:AssumeRole"}
    return {"Version": "2012-10-17", "Statement": [statement]}


def _policy_text(
    argument: str,
    policy: str | Mapping[str, Any],
    kind: PolicyKind,
    *,
    principal_exists: Callable[[str], bool] | None = None,
) -> str:
    """Return a policy that IAM saves, as JSON text."""
    try:
        text = policy if isinstance(policy, str) else json.dumps(policy)
        document = json.loads(text, object_pairs_hook=_without_duplicates)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(argument, f"is not a JSON document: {error}") from error
    try:
        check_policy(document, kind=kind, principal_exists=principal_exists)
    except MalformedPolicyError as error:
        raise ConfigurationError(argument, f"IAM rejects it: {error}") from error
    return text


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    document = dict(pairs)
    if len(document) < len(pairs):
        raise ValueError("the same key is twice in one object")
    return document
