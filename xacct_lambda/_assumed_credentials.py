"""The credentials object that botocore signs with, and the retry of requests that a service rejects."""

from __future__ import annotations

import re
from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.hooks import BaseEventHooks

from xacct_lambda._credential_cache import CredentialCache, CredentialKey
from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda._sts import FrozenCredentials

# Services reject credentials with these codes before they expire: the session was revoked, or the role re-created.
_REJECTION_CODES: Final = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
_ACCESS_KEY: Final = re.compile(r"(?:Credential=|^AWS )([^/:,\s]+)")


class AssumedRoleCredentials(Credentials):
    """What botocore signs with: it holds no credentials itself and asks the cache at every signature.

    The attributes are those of :class:`botocore.credentials.Credentials`. ``account_id`` is read off the role's ARN, so
    that botocore can build account-based endpoints without a call.
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
        """Return one immutable set of credentials, fetched or renewed if need be."""
        return self._cache.get(self._key, min_ttl_seconds=self._min_ttl_seconds, config=self._config)

    def prepare(self) -> None:
        """Make the STS client ahead of time."""
        self._cache.prepare(self._key, self._config)

    def prefetch(self) -> None:
        """Begin to fetch credentials for later, in a thread; a failure is logged, and costs nobody anything."""
        self._cache.prefetch(self._key, self._config)

    access_key = property(lambda self: self.get_frozen_credentials().access_key)
    secret_key = property(lambda self: self.get_frozen_credentials().secret_key)
    token = property(lambda self: self.get_frozen_credentials().token)
    account_id = property(lambda self: self._key.request.account_id)

    def watch(self, events: BaseEventHooks) -> None:
        """Have requests that a service rejects for their credentials signed and sent once more, with new ones."""
        handlers: dict[str, Any] = {"request-created": self._record_access_key, "needs-retry": self._retry_rejected}
        for event, handler in handlers.items():
            # Where the source session is an assumed one, its hooks were copied with its own watch among them.
            unique_id = f"xacct-lambda-{event}"
            events.unregister(event, unique_id=unique_id)
            events.register_last(event, handler, unique_id=unique_id)

    @staticmethod
    def _record_access_key(request: Any, **_: Any) -> None:
        # Last of its event, so after botocore has signed. The header tells which of several sets this request bears.
        if signer := _ACCESS_KEY.search(str(request.headers.get("Authorization"))):
            request.context["xacct_lambda_signer"] = signer[1]

    def _retry_rejected(self, response: Any, request_dict: dict[str, Any], **_: Any) -> int | None:
        """Answer botocore's ``needs-retry`` event: 0 for a retry without delay, None for no opinion."""
        context = request_dict["context"]
        signer = context.pop("xacct_lambda_signer", None)
        if response is None or signer is None or context.get("xacct_lambda_renewed"):
            return None
        if response[1].get("Error", {}).get("Code") not in _REJECTION_CODES or not self._cache.invalidate(
            self._key, signer
        ):
            return None
        context["xacct_lambda_renewed"] = True
        return 0
