"""``CrossAccountAWS``: an AWS of several accounts in this process, with the function in one of them."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import re
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self
from unittest.mock import patch

import boto3

from xacct_lambda._request import role_arn_parts
from xacct_lambda.exceptions import ConfigurationError
from xacct_lambda.policy import statements_of
from xacct_lambda.testing._faults import STSFaults
from xacct_lambda.testing._isolation import clear_errors, clock, isolated_cache

if TYPE_CHECKING:
    from xacct_lambda.testing._iam_rules import Caller
    from xacct_lambda.testing._sts_rules import AssumeRoleParameters

_SESSION_DURATION: Final = range(3600, 43201)
"""Seconds that IAM takes for a role's longest session."""

_CLEARED_ENV_PREFIXES: Final = (
    "AWS_CREDENTIAL_EXPIRATION",
    "AWS_DEFAULT_PROFILE",
    "AWS_ENDPOINT_URL",
    "AWS_PROFILE",
    "AWS_SECURITY_TOKEN",
)
"""How variables of a shell begin that would lead past moto, or to others than the function's credentials."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AssumeRoleCall:
    """One AssumeRole call that STS answered; the value of an external ID is not kept."""

    role_arn: str
    role_session_name: str
    caller_arn: str
    """Who called, in the form of ``get_caller_identity`` (``arn:aws:sts::111111111111:assumed-role/ROLE/FUNCTION``)."""
    duration_seconds: int = 3600
    tags: Mapping[str, str] = field(default_factory=dict)
    transitive_tag_keys: tuple[str, ...] = ()
    source_identity: str | None = None
    has_external_id: bool = False
    has_policy: bool = False
    """Whether a session policy was sent."""
    error_code: str | None = None
    """STS's error code, None where the role was assumed."""
    reason: str | None = None
    """Why STS refused, which AWS mostly keeps to itself."""


class CrossAccountAWS:
    """An AWS of several accounts in this process, by moto, with the function in one; a context manager.

    Inside, the environment is that of a Lambda function: credentials of its execution role, its Region, its name. The
    library is isolated (:func:`isolated_cache`), as is boto3's default session. Entering takes about 10 ms once moto is
    imported; importing it takes about a second.

    AssumeRole is refused as on AWS: for a role that does not exist, by its trust policy, by the caller's identity
    policies, for too long a duration, for parameters that break a rule. The reason is logged as a warning and kept in
    :attr:`refused`. :doc:`docs/testing.md <testing>` says what is evaluated and what is not. Credentials that this AWS
    did not issue are refused by every service, strict or not; made-up ones, of clients made before, count as the
    function's.

    Args:
        home_account: The function's account.
        execution_role: Name of the function's execution role, with its path if it has one.
        function_name: Name of the function, which is the session name of its credentials.
        region_name: The function's Region.
        organization_id: The AWS organization that all accounts belong to, for ``aws:PrincipalOrgID``; by default each
            is on its own. Within an organization AWS says which policy refused a call.
        strict: Whether AssumeRole may be refused; without, it is moto's, which refuses nothing.

    Raises:
        ConfigurationError: An argument is not of its form; on entering, ``MOTO_ACCOUNT_ID`` is set, moto runs in
            another process, or a ``CrossAccountAWS`` is active already.
        ImportError: On entering: moto is not installed.
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
    """How STS goes wrong on demand."""
    assumed: list[AssumeRoleCall]
    """The calls that STS granted, in order."""
    refused: list[AssumeRoleCall]
    """The calls that STS refused, in order, with the reason."""
    _active: CrossAccountAWS | None = None

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
        self.home_account = _checked_account("home_account", home_account)
        self.function_name = function_name
        self.region_name = region_name
        if not isinstance(execution_role, str) or execution_role.startswith(("arn:", "role/", "/")):
            raise ConfigurationError("execution_role", f"{execution_role!r} is not a name, with its path if it has one")
        self._execution_role = execution_role
        self._organization_id = organization_id
        self._strict = strict

    def __enter__(self) -> Self:
        if CrossAccountAWS._active is not None:
            raise ConfigurationError("CrossAccountAWS", "one is active already: add accounts and roles to that one")
        if "MOTO_ACCOUNT_ID" in os.environ:
            raise ConfigurationError("MOTO_ACCOUNT_ID", "set, so that moto would take every request for that account's")
        try:
            from xacct_lambda.testing import _moto  # noqa: PLC0415 - an extra, and a second
        except ImportError as error:
            raise ImportError("CrossAccountAWS needs moto: pip install 'xacct-lambda[testing]'") from error
        partition = _moto.partition(self.region_name)
        self.execution_role_arn = f"arn:{partition}:iam::{self.home_account}:role/{self._execution_role}"
        role_arn_parts(self.execution_role_arn)
        self._accounts = _moto.Accounts(self.region_name, decide=self._decide)
        self._sessions: dict[str, boto3.Session] = {}
        self.sts = STSFaults(self._accounts)
        self.assumed = []
        self.refused = []
        with ExitStack() as stack:
            stack.enter_context(self._accounts.running())
            stack.enter_context(isolated_cache())
            stack.enter_context(patch.object(boto3, "DEFAULT_SESSION", None))
            stack.enter_context(patch.object(clock, "ahead", 0.0))
            stack.enter_context(patch.object(CrossAccountAWS, "_active", self))
            _moto.put_role(self.execution_role_arn, json.dumps(_trust("Service", "lambda.amazonaws.com")), 3600)
            self._environment = self._accounts.issue_to_function(self.execution_role_arn, self.function_name) | {
                "AWS_CONFIG_FILE": os.devnull,
                "AWS_DEFAULT_REGION": self.region_name,
                "AWS_EC2_METADATA_DISABLED": "true",
                "AWS_LAMBDA_FUNCTION_NAME": self.function_name,
                "AWS_REGION": self.region_name,
                "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            }
            stack.enter_context(patch.dict(os.environ, self._environment))
            for name in [name for name in os.environ if name.startswith(_CLEARED_ENV_PREFIXES)]:
                del os.environ[name]
            self._exit = stack.pop_all().__exit__
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._exit(kind, error, traceback)

    @property
    def environment(self) -> dict[str, str]:
        """The function's environment variables, for a process that reaches moto through its server."""
        return dict(self._environment)

    def account(self, account_id: str) -> boto3.Session:
        """Return a session that may do anything inside an account, to seed it and to look into it.

        Raises:
            ConfigurationError: Not the 12 digits of an account.
        """
        if _checked_account("account_id", account_id) not in self._sessions:
            credentials: Any = self._accounts.issue_to_administrator(account_id)
            self._sessions[account_id] = boto3.Session(**credentials, region_name=self.region_name)
        return self._sessions[account_id]

    def role(
        self, role_arn: str, *, trust: str | Mapping[str, Any] | None = None, max_session_duration: int = 3600
    ) -> str:
        """Create a role in the account that its ARN names, or replace the trust policy of an existing one.

        Args:
            role_arn: ARN of the role.
            trust: Its trust policy, a JSON text or the document itself; by default one that names the execution role.
            max_session_duration: How long its sessions may live, in seconds.

        Returns:
            The ARN.

        Raises:
            ConfigurationError: Not the ARN of a role, a policy that IAM does not take, or a duration outside 3600 to
                43200.
        """
        from xacct_lambda.testing import _moto  # noqa: PLC0415 - see __enter__

        role_arn_parts(role_arn)
        if max_session_duration not in _SESSION_DURATION:
            raise ConfigurationError("max_session_duration", f"{max_session_duration!r} is not within 3600 to 43200")
        document = _trust("AWS", self.execution_role_arn) if trust is None else _document("trust", trust)
        if not statements_of(document):
            raise ConfigurationError("trust", "a trust policy has a statement")
        for statement in statements_of(document):
            if not statement.keys() & {"Principal", "NotPrincipal"} or "Resource" in statement:
                raise ConfigurationError("trust", "each statement of a trust policy has a Principal and no Resource")
        _moto.put_role(role_arn, json.dumps(document), max_session_duration)
        clear_errors()
        return role_arn

    def grant(self, policy: str | Mapping[str, Any], *, role_arn: str | None = None) -> None:
        """Give a role one more identity policy, an inline one.

        Args:
            policy: A JSON text or the document itself.
            role_arn: The role; by default the execution role.

        Raises:
            ConfigurationError: The role does not exist, or IAM does not take the policy.
        """
        from xacct_lambda.testing import _moto  # noqa: PLC0415 - see __enter__

        _moto.put_role_policy(role_arn or self.execution_role_arn, json.dumps(_document("policy", policy)))
        clear_errors()

    def _decide(self, parameters: AssumeRoleParameters, caller: Caller, permissions: list[str]) -> None:
        from xacct_lambda.testing import _moto, _sts_rules  # noqa: PLC0415 - see __enter__

        call = AssumeRoleCall(
            role_arn=parameters.role_arn,
            role_session_name=parameters.role_session_name,
            caller_arn=caller.arn,
            duration_seconds=parameters.duration_seconds,
            tags=dict(parameters.tags),
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
                    role_of=_moto.role,
                    organization_id=self._organization_id,
                )
        except _sts_rules.RefusedError as error:
            self.refused.append(dataclasses.replace(call, error_code=error.code, reason=error.reason))
            _logger.warning("STS refused %s to %s: %s", call.role_arn, call.caller_arn, error.reason)
            raise
        self.assumed.append(call)


def _checked_account(argument: str, account_id: str) -> str:
    if not isinstance(account_id, str) or not re.fullmatch("[0-9]{12}", account_id, re.ASCII):
        raise ConfigurationError(argument, f"{account_id!r} is not the 12 digits of an account, as a string")
    return account_id


def _trust(kind: str, principal: str) -> dict[str, Any]:
    statement = {"Effect": "Allow", "Principal": {kind: principal}, "Action": "sts:AssumeRole"}
    return {"Version": "2012-10-17", "Statement": [statement]}


def _document(argument: str, policy: str | Mapping[str, Any]) -> dict[str, Any]:
    try:
        document = json.loads(policy if isinstance(policy, str) else json.dumps(policy))
    except (TypeError, ValueError) as error:
        raise ConfigurationError(argument, f"not a JSON document: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(argument, 'a policy is a JSON object with a "Statement"')
    return document
