"""moto as several accounts: whose credentials a request bears, which roles there are, who answers for STS.

Nothing else in the library knows moto's insides. The hooks sit where moto reads a request, so that they hold for its
decorator, its context manager and its server, and for clients made anywhere in the process.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
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
from moto.iam.models import Role as MotoRole
from moto.iam.models import iam_backends
from moto.sts import models as sts_models
from moto.sts.models import AssumedRole, sts_backends
from moto.sts.responses import TokenResponse
from moto.utilities.utils import get_partition
from werkzeug.exceptions import HTTPException

from xacct_lambda._request import role_arn_parts
from xacct_lambda.exceptions import ConfigurationError
from xacct_lambda.testing._iam_rules import Caller
from xacct_lambda.testing._sts_rules import AssumeRoleParameters, RefusedError, Role

_ISSUED_PREFIX: Final = "ASIA"
_FUNCTION_KEY: Final = "ASIAXACCTFUNCTION000"
_SIGNED_BY: Final = "X-Amz-Credential"
_ANYTHING: Final = '{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}'
_XML_SERVICES: Final = frozenset({"cloudfront", "route53", "s3", "s3control"})


class Accounts:
    """The accounts, the function's credentials among them, and the hooks that tell whose request it is."""

    def __init__(self, region_name: str, *, decide: Callable[[AssumeRoleParameters, Caller, list[str]], None]) -> None:
        self._region_name = region_name
        self._decide = decide
        self._administrators: set[str] = set()
        self.unavailable: bool = False
        self.throttled: int = 0
        self.ahead: timedelta = timedelta(0)
        """How far STS's clock is ahead."""

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run moto with the hooks in place."""
        if settings.TEST_SERVER_MODE or settings.is_test_proxy_mode():
            raise ConfigurationError(
                "TEST_SERVER_MODE", "moto runs in another process, out of reach: start a ThreadedMotoServer in this one"
            )
        reads_key, assumes_role = BaseResponse.get_access_key, TokenResponse.assume_role
        sends = URLLib3Session.send

        def get_access_key(response: Any) -> str:
            return self._access_key(response, reads_key(response))

        def assume_role(response: Any) -> Any:
            try:
                self._assume_role(response)
            except RefusedError as error:
                raise _Answer(response, error) from error
            return assumes_role(response)

        def send(session: Any, request: Any) -> Any:
            # A client made before moto was imported has no hook of moto's: its requests would leave for AWS.
            return botocore_stubber("before-send", request) or sends(session, request)

        with ExitStack() as stack:
            stack.enter_context(mock_aws())
            stack.enter_context(patch.object(BaseResponse, "get_access_key", get_access_key))
            stack.enter_context(patch.object(TokenResponse, "assume_role", assume_role))
            stack.enter_context(patch.object(URLLib3Session, "send", send))
            stack.enter_context(patch.object(sts_models, "utcnow", self._now))
            yield

    def _now(self) -> datetime:
        return utcnow() + self.ahead

    def _access_key(self, response: Any, access_key: str) -> str:
        """Return the access key that a request counts as signed with; refuse credentials that are not good."""
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
        # Made-up keys, of a client made before this AWS came up: moto would answer as its default account.
        return _FUNCTION_KEY

    def _assume_role(self, response: Any) -> None:
        if self.unavailable:
            raise _no_answer()
        if self.throttled:
            self.throttled -= 1
            raise RefusedError("Throttling", "Rate exceeded", "as told by the test")
        access_key = response.get_access_key()
        session = _session(access_key)
        if session is not None:
            caller = Caller(arn=session.arn, principal_arn=session.role_arn)
            role = _role(session.role_arn)
            permissions = _documents(role) if role else []
        else:
            backend = iam_backends[response.current_account][response.partition]
            user: Any = backend.get_user_from_access_key_id(access_key)
            caller = Caller(arn=user.arn, principal_arn=user.arn)
            groups = backend.get_groups_for_user(user.name)
            permissions = [text for entity in (user, *groups) for text in _documents(entity)]
        if access_key in self._administrators:
            permissions = [_ANYTHING]
        self._decide(_parameters(response.querystring), caller, permissions)

    def issue_to_function(self, role_arn: str, function_name: str) -> dict[str, str]:
        """Return the function's credentials, as environment variables."""
        session = self._issue(role_arn, function_name)
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
        """Let every session that was issued by AssumeRole so far be over."""
        for _, session in self._assumed():
            session.expiration = self._now()

    def revoke(self, role_arn: str) -> None:
        """Forget the sessions of a role."""
        for sessions, session in self._assumed():
            if session.role_arn == role_arn:
                sessions.remove(session)
                del iam_backends[session.account_id][session.partition].access_keys[session.access_key_id]

    def _assumed(self) -> Iterator[tuple[list[AssumedRole], AssumedRole]]:
        own = {_FUNCTION_KEY, *self._administrators}
        for sessions in _sessions():
            yield from ((sessions, session) for session in list(sessions) if session.access_key_id not in own)


def partition(region_name: str) -> str:
    """Return the partition of a Region."""
    return str(get_partition(region_name))


def put_role(role_arn: str, trust: str, max_session_duration: int) -> None:
    """Create a role, or give an existing one this trust policy and this longest session."""
    arn = role_arn_parts(role_arn)
    role = _role(role_arn) or _iam(role_arn).create_role(
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
    """Give a role one more inline policy."""
    role = _role(role_arn)
    if role is None:
        raise ConfigurationError("role_arn", f"{role_arn} does not exist: create it first")
    try:
        _iam(role_arn).put_role_policy(role.name, f"policy-{len(role.policies) + 1}", policy)
    except MalformedPolicyDocument as error:
        raise ConfigurationError("policy", f"IAM does not take it: {error.message}") from error


def role(role_arn: str) -> Role | None:
    """Return what decides about a role, None if there is no such role."""
    found = _role(role_arn)
    if found is None:
        return None
    longest = int(found.max_session_duration or 3600)
    return Role(trust=found.assume_role_policy_document, max_session_duration=longest)


def _iam(arn: str) -> Any:
    _, partition, _, _, account_id, _ = arn.split(":", 5)
    return iam_backends[account_id][partition]


def _role(role_arn: str) -> MotoRole | None:
    return next((role for role in _iam(role_arn).get_roles() if role.arn == role_arn), None)


def _documents(entity: Any) -> list[str]:
    """Return the identity policies of a role, a user or a group."""
    managed = [
        version.document
        for policy in entity.managed_policies.values()
        for version in policy.versions
        if version.is_default
    ]
    return [*entity.policies.values(), *managed]


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
    sent = {name: values[0] for name, values in query.items()}

    def members(name: str) -> Iterator[str]:
        number = 1
        while any(key.startswith(f"{name}.member.{number}") for key in sent):
            yield f"{name}.member.{number}"
            number += 1

    return AssumeRoleParameters(
        role_arn=sent["RoleArn"],
        role_session_name=sent["RoleSessionName"],
        duration_seconds=int(sent.get("DurationSeconds", 3600)),
        external_id=sent.get("ExternalId"),
        source_identity=sent.get("SourceIdentity"),
        policy=sent.get("Policy"),
        tags={sent[f"{member}.Key"]: sent.get(f"{member}.Value", "") for member in members("Tags")},
        transitive_tag_keys=tuple(sent[member] for member in members("TransitiveTagKeys")),
    )


def _no_answer() -> Exception:
    """Return what a caller sees of a service that it cannot reach: no connection, or over moto's server a 503."""
    flask = sys.modules.get("flask")
    if flask is not None and flask.has_request_context():
        return RefusedError("ServiceUnavailable", "Service Unavailable", "STS is unavailable", status=503)
    return EndpointConnectionError(endpoint_url="https://sts.amazonaws.com")


class _Answer(HTTPException):
    """An error in the format of the service that was asked; moto passes it on as it is."""

    def __init__(self, response: Any, error: RefusedError) -> None:
        fields = f"<Error><Code>{error.code}</Code><Message>{escape(error.message)}</Message></Error>"
        content_type = "text/xml"
        if response.service_name == "s3":
            body = fields
        elif response.service_name in _XML_SERVICES or "Action" in response.querystring:
            body = f"<ErrorResponse>{fields}</ErrorResponse>"
        else:
            body = json.dumps({"__type": error.code, "message": error.message})
            content_type = "application/json"
        super().__init__(body)
        self.code = error.status
        self._body = body
        self._headers = [("Content-Type", content_type), ("X-Amzn-ErrorType", error.code)]

    def get_body(self, *_: Any) -> str:
        return self._body

    def get_headers(self, *_: Any) -> list[tuple[str, str]]:
        return self._headers


def _expired(response: Any) -> RefusedError:
    reason = "the session is over"
    if response.service_name == "s3":
        return RefusedError("ExpiredToken", "The provided token has expired.", reason)
    message = "The security token included in the request is expired"
    if "Action" in response.querystring:
        return RefusedError("ExpiredToken", message, reason, status=403)
    return RefusedError("ExpiredTokenException", message, reason)


def _unknown(response: Any) -> RefusedError:
    reason = "not issued by this AWS: of an earlier test, revoked, or your own"
    if response.service_name == "s3":
        message = "The AWS Access Key Id you provided does not exist in our records."
        return RefusedError("InvalidAccessKeyId", message, reason, status=403)
    message = "The security token included in the request is invalid."
    if "Action" in response.querystring:
        return RefusedError("InvalidClientTokenId", message, reason, status=403)
    return RefusedError("UnrecognizedClientException", message, reason)
