"""The credentials object that botocore signs with, and the retry of requests that a service rejects."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.hooks import BaseEventHooks

from xacct_lambda._attempts import Latch
from xacct_lambda._cache_entry import CredentialKey
from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda._invocation import remaining_seconds
from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda._sts import FrozenCredentials

# Services reject credentials with these codes before they expire: the session was revoked, or the role re-created.
_EXPIRED_CODES: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",  # EC2
        "TokenRefreshRequired",
    }
)
# Services use these codes also for new credentials that they don't know yet.
_UNKNOWN_CODES: Final = frozenset(
    {
        "AuthFailure",  # EC2
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "UnrecognizedClientException",
    }
)
_ACCESS_KEY: Final = r"(?:Credential=|^AWS )([^/:,\s]+)"


class AssumedRoleCredentials(Credentials):
    """The credentials object of a role. It contains no credentials, and gets them from the cache at each signature.

    It has the attributes of :class:`botocore.credentials.Credentials`. ``account_id`` is part of the role's ARN, so
    botocore builds account-based endpoints without a call.
    """

    method = "assume-role"

    def __init__(
        self,
        cache: CredentialCache,
        source: boto3.Session,
        request: AssumeRoleRequest,
        *,
        min_ttl_seconds: float = 0,
        config: Config | None = None,
    ) -> None:
        # Not super().__init__(), which would store a set of credentials that never changes.
        self._cache = cache
        self._source = source
        self._key = CredentialKey(source, request)
        self._min_ttl_seconds = min_ttl_seconds
        self._config = config

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._key.request.role_arn!r})"

    def __copy__(self) -> AssumedRoleCredentials:
        return self

    def __deepcopy__(self, memo: object) -> AssumedRoleCredentials:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("credentials do not pickle: send the role's ARN and assume the role on the other side")

    def get_frozen_credentials(self) -> FrozenCredentials:
        """Return one immutable set of credentials, from the cache or by one AssumeRole call."""
        return self._cache.get(self._key, min_ttl_seconds=self._min_ttl_seconds, config=self._config)

    @property
    def expires_at(self) -> datetime | None:
        """Expiry of the cached credentials, with a time zone. None if no valid credentials are cached."""
        expires_at = self._cache.expires_at(self._key)
        return None if expires_at is None else datetime.fromtimestamp(expires_at, UTC)

    def prepare(self) -> None:
        """Create the STS client ahead of the first call."""
        self._cache.prepare(self._key, self._config)

    def prefetch(self) -> Latch:
        """Start to get credentials in the background. A failure is logged, and no request fails because of it.

        Returns:
            A latch that is set when the attempt is over.
        """
        return self._cache.prefetch(self._key, self._config)

    access_key = property(lambda self: self.get_frozen_credentials().access_key)
    secret_key = property(lambda self: self.get_frozen_credentials().secret_key)
    token = property(lambda self: self.get_frozen_credentials().token)
    account_id = property(lambda self: self._key.request.account_id)

    def watch(self, events: BaseEventHooks) -> None:
        """Register hooks that send a request once more, with new credentials, if a service rejects its credentials."""
        handlers: dict[str, Any] = {
            "before-call": self._record_body_start,
            "request-created": self._record_access_key,
            "needs-retry": self._retry_rejected,
            "after-call": self._explain_rejection,
        }
        for event, handler in handlers.items():
            # If the source session is an assumed one, its hooks were copied, and its own handlers are among them.
            unique_id = f"xacct-lambda-{event}"
            events.unregister(event, unique_id=unique_id)
            events.register_last(event, handler, unique_id=unique_id)

    @staticmethod
    def _record_body_start(params: dict[str, Any], **_: Any) -> None:
        # Before botocore wraps the body, for example to add a checksum at its end.
        params["context"]["xacct_lambda_replayable"] = _can_replay(params.get("body"))

    @staticmethod
    def _record_access_key(request: Any, **_: Any) -> None:
        # This handler is the last one of its event, so botocore has signed. The header says with which set.
        if access_key := re.search(_ACCESS_KEY, str(request.headers.get("Authorization"))):
            request.context["xacct_lambda_access_key"] = access_key[1]

    def _retry_rejected(self, response: Any, request_dict: dict[str, Any], **_: Any) -> float | None:
        """Answer botocore's ``needs-retry`` event: the delay before a retry in seconds, or None for no opinion."""
        context = request_dict["context"]
        access_key = context.pop("xacct_lambda_access_key", None)
        if response is None or access_key is None or context.get("xacct_lambda_replaced"):
            return None
        code = _rejection_code(response, request_dict)
        if code is None or not context.get("xacct_lambda_replayable", True):
            return None
        is_retry = "xacct_lambda_retried" in context
        may_be_unknown = code in _UNKNOWN_CODES and not is_retry
        delay = self._cache.invalidate(self._key, access_key, code, may_be_unknown=may_be_unknown, is_retry=is_retry)
        left = remaining_seconds()
        if delay is None or (delay and left is not None and left <= delay):
            return None
        context["xacct_lambda_retried" if delay else "xacct_lambda_replaced"] = True
        return delay

    def _explain_rejection(
        self, http_response: Any, parsed: dict[str, Any], model: Any, context: dict[str, Any], **_: Any
    ) -> None:
        """Add advice to the text of a service's answer, before botocore raises it as an error."""
        # STS's refusal of a further role has its own diagnosis.
        if http_response.status_code < HTTPStatus.BAD_REQUEST or model.name == "AssumeRole":
            return
        from xacct_lambda import _diagnosis  # noqa: PLC0415 - a cold start without errors doesn't need it

        answer = parsed.get("Error", {})
        code, text = str(answer.get("Code")), str(answer.get("Message") or "")
        advice = _diagnosis.rejection_by_service(code, text, self._key.request, context.get("client_region"))
        if advice is not None:
            answer["Message"] = f"{text} ({advice})"


def _rejection_code(response: tuple[Any, Any], request_dict: dict[str, Any]) -> str | None:
    """Return the code with which a service rejected the credentials, or None if it accepted them."""
    http, parsed = response
    code = parsed.get("Error", {}).get("Code")
    if code in _EXPIRED_CODES or code in _UNKNOWN_CODES:
        return str(code)
    # S3 answers HEAD without a body. botocore then takes the status as the code.
    is_bare = request_dict.get("method") == "HEAD" and code == str(HTTPStatus.BAD_REQUEST.value)
    return "ExpiredToken" if is_bare and http is not None and http.status_code == HTTPStatus.BAD_REQUEST else None


def _can_replay(body: Any) -> bool:
    """Tell whether a retry would send the same bytes. botocore rewinds a file to its beginning before a retry."""
    if body is None or isinstance(body, str | bytes | bytearray | Mapping):
        return True
    try:
        # s3transfer's parts of a file have no seekable(), but can be rewound.
        is_seekable = body.seekable() if hasattr(body, "seekable") else hasattr(body, "seek")
        return bool(is_seekable) and body.tell() == 0
    except Exception:  # noqa: BLE001 - a body is the caller's own object, and may lack or break any method
        return False
