"""The STS client and the one AssumeRole call. No other module of the library calls STS.

The time limits are chosen for Lambda's default timeout of 3 seconds: two attempts of one second each. With botocore's
own defaults (60 s to connect, 60 s to read), the function ends with "Task timed out" before it sees an error.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, NamedTuple

import boto3
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, NoCredentialsError
from botocore.parsers import ResponseParserError
from cachetools import LRUCache

from xacct_lambda._connections import ConnectionPools
from xacct_lambda._errors import STS_EXCEPTIONS, caller_credentials_error, translate_error
from xacct_lambda._redaction import assume_role_unlogged
from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda.exceptions import AssumeRoleError, ConfigurationError, STSUnavailableError, XacctLambdaError

_ATTEMPT_TIMEOUT: Final = 1.0
_MAX_ATTEMPTS: Final = 2
_RETRY_DELAY: Final = (0.05, 0.25)
_MAX_STS_CLIENTS: Final = 16
MAX_POOL_CONNECTIONS: Final = 50
"""Number of roles that one STS client can assume at the same time."""

system_uniform: Final = random.SystemRandom().uniform
"""Jitter. The random module's own state is the same in every restored copy of a SnapStart snapshot."""

_SINGLE_ATTEMPT: Final[Any] = {"total_max_attempts": 1, "mode": "standard"}

# The library retries by itself, because its delay between two attempts has a bound and botocore's has none.
DEFAULT_CONFIG: Final = Config(
    connect_timeout=_ATTEMPT_TIMEOUT,
    read_timeout=_ATTEMPT_TIMEOUT,
    retries=_SINGLE_ATTEMPT,
    max_pool_connections=MAX_POOL_CONNECTIONS,
)


class FrozenCredentials(ReadOnlyCredentials):
    """botocore's immutable set of credentials, except that its ``repr`` is redacted and that it can't be pickled."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("credentials do not pickle: send the role's ARN and assume the role on the other side")


class IssuedCredentials(NamedTuple):
    """The result of one AssumeRole call; ``expires_at`` is STS's instant, in seconds since the epoch."""

    frozen: FrozenCredentials
    expires_at: float


class _Client(NamedTuple):
    client: Any
    source: boto3.Session
    """Referenced here, so that no other session can get the same id()."""


class STS:
    """Calls AssumeRole for source sessions, with one client for each."""

    def __init__(
        self,
        *,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[float, float], float] = system_uniform,
        connections: ConnectionPools | None = None,
    ) -> None:
        self._connections = connections or ConnectionPools()
        self._sleep = sleep
        self._jitter = jitter
        self._lock = threading.RLock()
        self._clients: LRUCache[Hashable, _Client] = LRUCache(_MAX_STS_CLIENTS)
        self.calls = 0

    def assume_role(
        self, source: boto3.Session, request: AssumeRoleRequest, config: Config | None
    ) -> IssuedCredentials:
        """Assume the role. If the first attempt fails for a transient reason, try once more.

        Raises:
            AssumeRoleError: STS refused, or assumed a different role.
            CallerCredentialsError: The source session's own credentials are missing, can't be loaded, or were rejected.
            ConfigurationError: The call cannot be made, for example because of an unknown parameter.
            STSUnavailableError: STS gave no usable answer.
        """
        load_caller_credentials(source, request)
        client = self._client(source, _merge_config(config))
        for _ in range(0 if _has_retries(config) else _MAX_ATTEMPTS - 1):
            try:
                return self._call(client, source, request)
            except STSUnavailableError:
                self._sleep(self._jitter(*_RETRY_DELAY))
        return self._call(client, source, request)

    def max_wait_seconds(self, config: Config | None) -> float | None:
        """Return the longest time that the attempts take if STS has one address; None if botocore retries."""
        merged: Any = _merge_config(config)
        if _has_retries(config) or None in (merged.connect_timeout, merged.read_timeout):
            return None
        return float(_MAX_ATTEMPTS * max(merged.connect_timeout, merged.read_timeout) + 2 * _RETRY_DELAY[1])

    def prepare(self, source: boto3.Session, config: Config | None) -> None:
        """Create the client for this source session ahead of the first call."""
        self._client(source, _merge_config(config))

    def clear_clients(self) -> None:
        """Drop the clients with their connections, which can't be used after a fork or in a restored snapshot."""
        self._lock = threading.RLock()
        self._clients = LRUCache(_MAX_STS_CLIENTS)

    def _client(self, source: boto3.Session, config: Config) -> Any:
        # By identity, because a Session subclass may define its own equality.
        key = id(source), config_key(config)
        with self._lock:
            if key not in self._clients:
                client = self._connections.share(new_client(source, config))
                if source.get_credentials() is None:
                    # botocore binds a client to its credentials once. A cached client without any would never get some.
                    return client
                self._clients[key] = _Client(client, source)
            return self._clients[key].client

    def _call(self, client: Any, source: boto3.Session, request: AssumeRoleRequest) -> IssuedCredentials:
        with self._lock:
            self.calls += 1
        with assume_role_unlogged():
            try:
                return _checked_credentials(client.assume_role(**request.parameters()), request)
            except XacctLambdaError:
                # The source session is an assumed one and its own role can't be assumed, or STS assumed another role.
                raise
            except STS_EXCEPTIONS as error:
                translated = translate_error(error, request, source)
        # Raise outside the except block. Otherwise __context__ would reference botocore's error with its secrets.
        raise translated.error from translated.cause


def load_caller_credentials(source: boto3.Session, request: AssumeRoleRequest) -> None:
    """Have the source session load or refresh its own credentials, so that a later signature doesn't wait for them.

    Raises:
        CallerCredentialsError: It has none, or can't load them.
    """
    try:
        credentials = source.get_credentials()
        if credentials is None:
            raise NoCredentialsError  # noqa: TRY301 - handled like the errors of botocore's providers
        credentials.get_frozen_credentials()
    except XacctLambdaError:
        # The source session is an assumed one, and its own role can't be assumed.
        raise
    except Exception as error:  # noqa: BLE001 - a credential provider may raise anything
        caller_error = caller_credentials_error(error, source, request)
    else:
        return
    # Raise outside the except block. Otherwise __context__ would reference an error whose frames contain secrets.
    raise caller_error


def _merge_config(config: Config | None) -> Config:
    return DEFAULT_CONFIG if config is None else DEFAULT_CONFIG.merge(config)


def _has_retries(config: Config | None) -> bool:
    """Tell whether the caller configured retries, which botocore then makes."""
    return getattr(config, "retries", None) is not None


def new_client(source: boto3.Session, config: Config) -> Any:
    """Return an STS client of the source session for the session's own Region.

    Raises:
        ConfigurationError: The session's settings allow none.
    """
    try:
        client: Any = source.client("sts", config=config)
        if client.meta.endpoint_url == "https://sts.amazonaws.com" and source.region_name not in {None, "aws-global"}:
            # botocore before 1.40 uses the global endpoint. VPC endpoints don't answer it, and opt-in Regions reject
            # its tokens. It is the endpoint of the pseudo Region aws-global only.
            client = source.client("sts", config=config, endpoint_url=f"https://sts.{source.region_name}.amazonaws.com")
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError("source_session", f"no STS client can be made of it: {error}") from error
    return client


def config_key(config: Config) -> Hashable:
    """Return the options of a client configuration as a hashable value that is equal for equal options."""

    def frozen(value: Any) -> Hashable:
        if isinstance(value, Mapping):
            return frozenset((key, frozen(item)) for key, item in value.items())
        if isinstance(value, list | tuple):
            return tuple(map(frozen, value))
        return type(value), value

    return frozen(vars(config))


def _checked_credentials(response: dict[str, Any], request: AssumeRoleRequest) -> IssuedCredentials:
    # pop: tools that print local variables must not find the secrets in a frame that an error passes through.
    issued = _parse_credentials(response.pop("Credentials", {}), request.account_id)
    assumed = response.get("AssumedRoleUser", {}).get("Arn")
    if assumed != request.assumed_role_arn:
        raise AssumeRoleError(
            f"STS answered for {assumed}, and {request.assumed_role_arn} was asked for. Its credentials are not used: "
            "look at what answers in the place of STS (endpoint_url, AWS_ENDPOINT_URL, a proxy)",
            role_arn=request.role_arn,
            response=response | {"Error": {"Code": "AssumedRoleMismatch", "Message": f"assumed {assumed}"}},
        )
    return issued


def _parse_credentials(credentials: Mapping[str, Any], account_id: str) -> IssuedCredentials:
    if not all(map(credentials.get, ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"))):
        raise ResponseParserError
    fields = {
        "access_key": credentials["AccessKeyId"],
        "secret_key": credentials["SecretAccessKey"],
        "token": credentials["SessionToken"],
        "account_id": account_id,
    }
    # botocore's class has an account_id since 1.35.
    frozen = FrozenCredentials(**{name: fields[name] for name in ReadOnlyCredentials._fields})
    return IssuedCredentials(frozen, credentials["Expiration"].timestamp())
