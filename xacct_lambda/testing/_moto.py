"""The accounts of the test AWS: moto, with hooks that find out whose credentials a request has and answer for STS.

Only this module and ``_moto_iam`` know moto's insides. The hooks sit where moto reads a request, so that they hold for
its decorator, its context manager and its server, and for clients made anywhere in the process.
"""

from __future__ import annotations

import functools
import json
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any, Final
from unittest.mock import patch
from xml.sax.saxutils import escape

from botocore.exceptions import EndpointConnectionError
from botocore.httpsession import URLLib3Session
from moto import mock_aws, settings
from moto.core.models import botocore_stubber
from moto.core.responses import BaseResponse
from moto.core.utils import utcnow
from moto.iam.exceptions import MalformedPolicyDocument
from moto.iam.models import IAMBackend, iam_backends
from moto.iam.models import Role as MotoRole
from moto.sts import models as sts_models
from moto.sts.models import AssumedRole, STSBackend, sts_backends
from moto.sts.responses import TokenResponse
from moto.utilities.utils import get_partition
from werkzeug.exceptions import HTTPException

from xacct_lambda.exceptions import ConfigurationError
from xacct_lambda.testing._faults import FaultState
from xacct_lambda.testing._iam_rules import Caller, Policy
from xacct_lambda.testing._moto_iam import (
    find_role,
    identity_policies,
    managed_policies_by_arn,
    principal_exists,
    role_tags,
)
from xacct_lambda.testing._policy_grammar import check_policy
from xacct_lambda.testing._sts_rules import (
    AssumeRoleParameters,
    Permissions,
    RefusedError,
    SessionAttributes,
    override_tags,
    session_attributes,
)

_ISSUED_PREFIX: Final = "ASIA"
_FUNCTION_KEY: Final = "ASIAXACCTFUNCTION000"
_SIGNED_BY: Final = "X-Amz-Credential"
_ANYTHING: Final = Policy('{"Version": "2012-10-17", "Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}')
_XML_SERVICES: Final = frozenset({"cloudfront", "route53", "s3", "s3control"})


Decide = Callable[[AssumeRoleParameters, Caller, Permissions, str, datetime], None]
"""Passes what STS grants: parameters, caller, the caller's policies, the Region of the endpoint, and STS's time."""


class Accounts:
    """The accounts, the function's credentials among them, and the hooks that find out whose request it is."""

    def __init__(self, region_name: str, *, faults: FaultState, decide: Decide, is_strict: bool) -> None:
        self._region_name = region_name
        self._faults = faults
        self._decide = decide
        self._is_strict = is_strict
        self._administrators: set[str] = set()
        self._function_arn: str | None = None
        self._attributes: dict[str, SessionAttributes] = {}
        """Of sessions, by access key."""
        self._new_session: ContextVar[SessionAttributes | None] = ContextVar("new session", default=None)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run moto with the hooks in place."""
        if settings.TEST_SERVER_MODE or settings.is_test_proxy_mode():
            raise ConfigurationError(
                "TEST_SERVER_MODE", "moto runs in another process, out of reach: start a ThreadedMotoServer in this one"
            )
        reads_key, assumes_role = BaseResponse.get_access_key, TokenResponse.assume_role
        sends, issues = URLLib3Session.send, STSBackend.assume_role
        creates_role, updates_trust = IAMBackend.create_role, IAMBackend.update_assume_role_policy

        def get_access_key(response: Any) -> str:
            return self._access_key(response, reads_key(response))

        def assume_role(response: Any) -> Any:
            try:
                attributes = self._assume_role(response)
            except RefusedError as error:
                raise _Answer(response, error) from error
            token = self._new_session.set(attributes)
            try:
                return assumes_role(response)
            finally:
                self._new_session.reset(token)

        def issue(backend: Any, *args: Any, **kwargs: Any) -> AssumedRole:
            session = issues(backend, *args, **kwargs)
            attributes = self._new_session.get()
            if attributes is not None:
                self._attributes[session.access_key_id] = attributes
            return session

        def create_role(
            backend: Any, role_name: str, assume_role_policy_document: str, *args: Any, **kwargs: Any
        ) -> MotoRole:
            self._check_trust(backend.partition, assume_role_policy_document)
            return creates_role(backend, role_name, assume_role_policy_document, *args, **kwargs)

        def update_assume_role_policy(backend: Any, role_name: str, policy_document: str) -> None:
            self._check_trust(backend.partition, policy_document)
            updates_trust(backend, role_name, policy_document)

        def send(session: Any, request: Any) -> Any:
            # A client from before moto's import doesn't have moto's hook: its requests would go to AWS.
            return botocore_stubber("before-send", request) or sends(session, request)

        with ExitStack() as stack:
            stack.enter_context(mock_aws())
            stack.enter_context(patch.object(BaseResponse, "get_access_key", get_access_key))
            stack.enter_context(patch.object(TokenResponse, "assume_role", assume_role))
            stack.enter_context(patch.object(STSBackend, "assume_role", issue))
            stack.enter_context(patch.object(IAMBackend, "create_role", create_role))
            stack.enter_context(patch.object(IAMBackend, "update_assume_role_policy", update_assume_role_policy))
            stack.enter_context(patch.object(URLLib3Session, "send", send))
            stack.enter_context(patch.object(sts_models, "utcnow", self._now))
            yield

    def _check_trust(self, partition: str, trust: str | Mapping[str, Any]) -> None:
        """Refuse a trust policy that IAM refuses, however a test stores it."""
        if not self._is_strict:
            return
        try:
            document = json.loads(trust) if isinstance(trust, str) else trust
            check_policy(document, kind="trust", principal_exists=functools.partial(principal_exists, partition))
        except ValueError as error:
            raise MalformedPolicyDocument(str(error)) from error

    def _now(self) -> datetime:
        return utcnow() + self._faults.ahead

    def _access_key(self, response: Any, access_key: str) -> str:
        """Return the access key that signed a request, and refuse credentials that aren't valid."""
        presigned = response.querystring.get(_SIGNED_BY)
        if presigned:
            access_key = presigned[0].partition("/")[0]
        if access_key == _FUNCTION_KEY:
            return access_key
        if any(access_key in backend.access_keys for account in _values(iam_backends) for backend in _values(account)):
            session = _session(access_key)
            if session and access_key not in self._administrators and session.expiration <= self._now():
                raise _Answer(response, _expired(response))
            return access_key
        if access_key.startswith(_ISSUED_PREFIX):
            raise _Answer(response, _unknown(response))
        # Made-up keys of a client from before this AWS: moto would answer as its default account.
        return _FUNCTION_KEY

    def _assume_role(self, response: Any) -> SessionAttributes:
        """Decide about a call, and return the tags and the source identity of the new session."""
        if self._faults.is_unavailable:
            raise _no_answer()
        if self._faults.throttled:
            self._faults.throttled -= 1
            raise RefusedError("Throttling", "Rate exceeded", "the test asked for it")
        access_key = response.get_access_key()
        session = _session(access_key)
        if session is None:
            caller, permissions = _user(response, access_key)
        else:
            caller, permissions = self._session_caller(session)
        if access_key in self._administrators:
            permissions = Permissions(identity=(_ANYTHING,))
        parameters = _parameters(response.querystring)
        # moto's clock has no time zone and means UTC.
        self._decide(parameters, caller, permissions, response.region, self._now().replace(tzinfo=UTC))
        return session_attributes(parameters, caller)

    def _session_caller(self, session: AssumedRole) -> tuple[Caller, Permissions]:
        attributes = self._attributes.get(session.access_key_id, SessionAttributes())
        role = find_role(session.role_arn)
        caller = Caller(
            arn=session.arn,
            principal_arn=session.role_arn,
            tags=override_tags(role_tags(role), attributes.tags) if role else attributes.tags,
            transitive_tags=attributes.transitive_tags,
            source_identity=attributes.source_identity,
            function_arn=self._function_arn if session.access_key_id == _FUNCTION_KEY else None,
        )
        if role is None:
            return caller, Permissions()
        limits: dict[str, tuple[Policy, ...] | None] = {}
        if role.permissions_boundary_arn:
            limits["permissions boundary"] = managed_policies_by_arn(session.role_arn, [role.permissions_boundary_arn])
        if attributes.policy is not None or attributes.policy_arns:
            managed = managed_policies_by_arn(session.role_arn, attributes.policy_arns)
            inline = () if attributes.policy is None else (Policy(attributes.policy),)
            limits["session policy"] = None if managed is None else (*inline, *managed)
        return caller, Permissions(identity=identity_policies(role), limits=limits)

    def issue_to_function(self, role_arn: str, function_name: str) -> dict[str, str]:
        """Return the function's credentials, as environment variables."""
        session = self._issue(role_arn, function_name)
        self._function_arn = (
            f"arn:{session.partition}:lambda:{self._region_name}:{session.account_id}:function:{function_name}"
        )
        # The same in every test: what boto3 has read from the environment and kept is good in the next one.
        keys = iam_backends[session.account_id][session.partition].access_keys
        keys[_FUNCTION_KEY] = keys.pop(session.access_key_id)
        session.access_key_id = session.access_key.access_key_id = _FUNCTION_KEY
        return {
            "AWS_ACCESS_KEY_ID": _FUNCTION_KEY,
            "AWS_SECRET_ACCESS_KEY": session.secret_access_key,
            "AWS_SESSION_TOKEN": session.session_token,
        }

    def issue_to_administrator(self, account_id: str) -> dict[str, str]:
        """Return credentials that may do anything in an account, as arguments of a session."""
        session = self._issue(f"arn:{get_partition(self._region_name)}:iam::{account_id}:role/Administrator", "test")
        self._administrators.add(session.access_key_id)
        return {
            "aws_access_key_id": session.access_key_id,
            "aws_secret_access_key": session.secret_access_key,
            "aws_session_token": session.session_token,
        }

    def _issue(self, role_arn: str, session_name: str) -> AssumedRole:
        account_id = role_arn.split(":")[4]
        return sts_backends[account_id][get_partition(self._region_name)].assume_role(
            region_name=self._region_name,
            role_session_name=session_name,
            role_arn=role_arn,
            policy="",
            duration=43200,
            external_id="",
        )

    def expire(self) -> None:
        """End every session that AssumeRole issued so far."""
        for _, session in self._assumed():
            session.expiration = self._now()

    def revoke(self, role_arn: str) -> None:
        """Remove the sessions of a role."""
        for sessions, session in self._assumed():
            if session.role_arn == role_arn:
                sessions.remove(session)
                del iam_backends[session.account_id][session.partition].access_keys[session.access_key_id]

    def _assumed(self) -> Iterator[tuple[list[AssumedRole], AssumedRole]]:
        own = {_FUNCTION_KEY, *self._administrators}
        for sessions in _sessions():
            yield from ((sessions, session) for session in list(sessions) if session.access_key_id not in own)


def _user(response: Any, access_key: str) -> tuple[Caller, Permissions]:
    backend = iam_backends[response.current_account][response.partition]
    user: Any = backend.get_user_from_access_key_id(access_key)
    groups = backend.get_groups_for_user(user.name)
    tags = {tag["Key"]: tag["Value"] for tag in backend.list_user_tags(user.name)}
    caller = Caller(arn=user.arn, principal_arn=user.arn, tags=tags)
    return caller, Permissions(
        identity=tuple(policy for entity in (user, *groups) for policy in identity_policies(entity))
    )


def _values(backends: Any) -> list[Any]:
    # A copy: threads of a server make backends meanwhile.
    return list(backends.values())


def _sessions() -> Iterator[list[AssumedRole]]:
    for account in _values(sts_backends):
        for backend in _values(account):
            yield backend.assumed_roles


def _session(access_key: str) -> AssumedRole | None:
    return next(
        (session for sessions in _sessions() for session in sessions if session.access_key_id == access_key), None
    )


def _parameters(query: dict[str, list[str]]) -> AssumeRoleParameters:
    values = {name: texts[0] for name, texts in query.items()}

    def members(name: str) -> Iterator[str]:
        number = 1
        while any(key.startswith(f"{name}.member.{number}") for key in values):
            yield f"{name}.member.{number}"
            number += 1

    return AssumeRoleParameters(
        role_arn=values["RoleArn"],
        role_session_name=values["RoleSessionName"],
        duration_seconds=int(values.get("DurationSeconds", 3600)),
        external_id=values.get("ExternalId"),
        source_identity=values.get("SourceIdentity"),
        policy=values.get("Policy"),
        policy_arns=tuple(values[f"{member}.arn"] for member in members("PolicyArns")),
        tag_pairs=tuple((values[f"{member}.Key"], values.get(f"{member}.Value", "")) for member in members("Tags")),
        transitive_tag_keys=tuple(values[member] for member in members("TransitiveTagKeys")),
        has_contexts=any(True for _ in members("ProvidedContexts")),
    )


def _no_answer() -> Exception:
    """Return the error of an unreachable service: no connection, or status 503 over moto's server."""
    flask = sys.modules.get("flask")
    if flask is not None and flask.has_request_context():
        return RefusedError("ServiceUnavailable", "Service Unavailable", "STS is unavailable", status=503)
    return EndpointConnectionError(endpoint_url="https://sts.amazonaws.com")


class _Answer(HTTPException):
    """An error in the format of the service that was called. moto returns it unchanged."""

    def __init__(self, response: Any, error: RefusedError) -> None:
        fields = f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>"
        headers = [("Content-Type", "text/xml")]
        if response.method == "HEAD":
            # An answer to HEAD has no body, so S3 can't say more than the status.
            body = ""
        elif response.service_name == "ec2":
            body = f"<Response><Errors>{fields}</Errors><RequestID>{uuid.uuid4()}</RequestID></Response>"
        elif response.service_name == "s3":
            body = fields
        elif response.service_name in _XML_SERVICES or "Action" in response.querystring:
            body = f"<ErrorResponse>{fields}</ErrorResponse>"
        else:
            body = json.dumps({"__type": error.code, "message": error.message})
            headers = [("Content-Type", "application/json"), ("X-Amzn-ErrorType", error.code)]
        super().__init__(body)
        self.code = error.status
        self._body = body
        self._headers = headers

    def get_body(self, *_: Any) -> str:
        return self._body

    def get_headers(self, *_: Any) -> list[tuple[str, str]]:
        return self._headers


def _expired(response: Any) -> RefusedError:
    reason = "the session has expired"
    if response.service_name == "s3":
        return RefusedError("ExpiredToken", "The provided token has expired.", reason)
    if response.service_name == "ec2":
        return RefusedError("RequestExpired", "Request has expired.", reason)
    message = "The security token included in the request is expired"
    if "Action" in response.querystring:
        return RefusedError("ExpiredToken", message, reason, status=403)
    return RefusedError("ExpiredTokenException", message, reason)


def _unknown(response: Any) -> RefusedError:
    reason = "this AWS didn't issue these credentials: they are revoked, of an earlier test, or your own"
    if response.service_name == "s3":
        message = "The AWS Access Key Id you provided does not exist in our records."
        return RefusedError("InvalidAccessKeyId", message, reason, status=403)
    if response.service_name == "ec2":
        message = "AWS was not able to validate the provided access credentials"
        return RefusedError("AuthFailure", message, reason, status=401)
    message = "The security token included in the request is invalid."
    if "Action" in response.querystring:
        return RefusedError("InvalidClientTokenId", message, reason, status=403)
    return RefusedError("UnrecognizedClientException", message, reason)
