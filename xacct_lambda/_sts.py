"""The STS client and the one AssumeRole call. No other module of the library calls STS.

The time limits are chosen for Lambda's default timeout of 3 seconds: two attempts of one second each. With botocore's
own defaults (60 s to connect, 60 s to read), the function ends with "Task timed out" before it sees an error.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from itertools import count
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
from xacct_lambda._urllib3_pools import abort_connection, connections_used
from xacct_lambda.exceptions import AssumeRoleError, ConfigurationError, STSUnavailableError, XacctLambdaError

_ATTEMPT_TIMEOUT: Final = 1.0
_MAX_REQUESTS: Final = 2
_RETRY_DELAY: Final = (0.05, 0.25)
_MAX_STS_CLIENTS: Final = 16
_LOGIN_LIMIT: Final = 10
"""Seconds for which an attempt waits for the log-in that another attempt has started."""
_MAX_BOTOCORE_DELAY: Final = 20
"""Longest delay between two requests, in seconds, if botocore retries."""
_MAX_TIMEOUT: Final = 600
"""Time limit for an attempt, in seconds, if the caller turned botocore's timeouts off."""
MAX_POOL_CONNECTIONS: Final = 50
"""Number of roles that one STS client can assume at the same time."""

system_uniform: Final = random.SystemRandom().uniform
"""Jitter. The random module's own state is the same in every restored copy of a SnapStart snapshot."""

_SINGLE_ATTEMPT: Final[Any] = {"total_max_attempts": 1, "mode": "standard"}

# The library retries by itself. Its delay between two requests has an upper bound, unlike botocore's.
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
    """The result of one AssumeRole call."""

    frozen: FrozenCredentials
    expires_at: float
    """Expiry that STS reports, in seconds since the epoch."""
    session_token_utilization: int | None = None
    """Part of the size limit that the session token uses, in percent, if STS reports it."""


class CallReport(NamedTuple):
    """Duration and result of one AssumeRole request, for instrumentation."""

    duration_seconds: float
    error_code: str | None
    expires_at: float | None = None
    session_token_utilization: int | None = None


class Calls:
    """The AssumeRole requests of one attempt: their results, and the connections that they use."""

    def __init__(self) -> None:
        self.reports: list[CallReport] = []
        self.connections: list[Any] = []
        self.is_aborted = False

    def abort(self) -> None:
        """End a request that is in flight. An answer that arrives byte by byte would otherwise never end it."""
        self.is_aborted = True
        for connection in self.connections:
            abort_connection(connection)


class Counter:
    """A counter that threads and signal handlers can increase at the same time, without a lock."""

    def __init__(self) -> None:
        self._draws = count()
        self._reads = count()

    def increase(self) -> None:
        next(self._draws)

    @property
    def value(self) -> int:
        return next(self._draws) - next(self._reads)


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
        self._logins: LRUCache[int, threading.Lock] = LRUCache(_MAX_STS_CLIENTS)
        self._calls = Counter()

    @property
    def calls(self) -> int:
        """Number of requests that were sent, including second ones."""
        return self._calls.value

    def load_caller_credentials(self, source: boto3.Session, request: AssumeRoleRequest) -> None:
        """Load or refresh the caller's own credentials, which may take as long as a log-in in a browser.

        One thread at a time does it for one source session. boto3 has no lock for this, so many roles at once would run
        ``credential_process`` many times, or ask for the MFA code many times.

        Raises:
            CallerCredentialsError: The source session has none, or can't load them.
            XacctLambdaError: The source session is an assumed one, and its own role can't be assumed.
        """
        with self._lock:
            login = self._logins.setdefault(id(source), threading.Lock())
        # A log-in that hangs must not block the other roles of its source session.
        is_first = login.acquire(timeout=_LOGIN_LIMIT)
        try:
            load_caller_credentials(source, request)
        finally:
            if is_first:
                login.release()

    def assume_role(
        self,
        source: boto3.Session,
        request: AssumeRoleRequest,
        config: Config | None,
        *,
        max_requests: int = _MAX_REQUESTS,
        calls: Calls | None = None,
    ) -> IssuedCredentials:
        """Assume the role. If the first request fails for a transient reason, try once more.

        Args:
            source: The session that calls STS.
            request: The parameters.
            config: Options for the STS client.
            max_requests: How often to try. If ``config`` has retries, botocore tries as often as they say.
            calls: Collects a report and the connection of each request.

        Raises:
            AssumeRoleError: STS refused, or assumed a different role.
            CallerCredentialsError: STS rejected the source session's own credentials.
            ConfigurationError: The call cannot be made, for example because of an unknown parameter.
            STSUnavailableError: STS gave no usable answer.
        """
        calls = calls or Calls()
        client = self._client(source, _merge_config(config))
        for _ in range(0 if _has_retries(config) else max_requests - 1):
            try:
                return self._call(client, source, request, calls)
            except STSUnavailableError:
                if calls.is_aborted:
                    raise
                self._sleep(self._jitter(*_RETRY_DELAY))
        return self._call(client, source, request, calls)

    def max_wait_seconds(self, config: Config | None) -> float:
        """Return the longest time, in seconds, that the requests of one attempt take if STS has one address."""
        merged: Any = _merge_config(config)
        if None in (merged.connect_timeout, merged.read_timeout):
            return float(_MAX_TIMEOUT)
        if not _has_retries(config):
            return float(_MAX_REQUESTS * max(merged.connect_timeout, merged.read_timeout) + 2 * _RETRY_DELAY[1])
        retries: Mapping[str, Any] = merged.retries
        requests = retries.get("total_max_attempts") or retries.get("max_attempts", 4) + 1
        return float(requests * (merged.connect_timeout + merged.read_timeout) + (requests - 1) * _MAX_BOTOCORE_DELAY)

    def prepare(self, source: boto3.Session, config: Config | None) -> None:
        """Create the client for this source session ahead of the first call."""
        # Before the lock, because a provider may run a program or ask a service. botocore keeps what it loads.
        source.get_credentials()
        self._client(source, _merge_config(config))

    def drop_connections(self, source: boto3.Session, config: Config | None) -> None:
        """Use a new connection for the next call of this source session."""
        self._connections.drop_for(self._client(source, _merge_config(config)))

    def clear_clients(self) -> None:
        """Drop the clients with their connections, which can't be used after a fork or in a restored snapshot."""
        self._lock = threading.RLock()
        self._clients = LRUCache(_MAX_STS_CLIENTS)
        self._logins = LRUCache(_MAX_STS_CLIENTS)

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

    def _call(self, client: Any, source: boto3.Session, request: AssumeRoleRequest, calls: Calls) -> IssuedCredentials:
        self._calls.increase()
        started = time.perf_counter()
        report = CallReport(0, "Interrupted")
        try:
            with connections_used(calls.connections):
                issued = self._request(client, source, request)
        except XacctLambdaError as error:
            report = CallReport(0, getattr(error, "code", type(error).__name__))
            raise
        except Exception as error:
            report = CallReport(0, type(error).__name__)
            raise
        else:
            report = CallReport(0, None, issued.expires_at, issued.session_token_utilization)
            return issued
        finally:
            calls.reports.append(report._replace(duration_seconds=time.perf_counter() - started))

    def _request(self, client: Any, source: boto3.Session, request: AssumeRoleRequest) -> IssuedCredentials:
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
        ConfigurationError: The session's settings don't allow an STS client.
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
    issued = issued._replace(session_token_utilization=response.get("SessionTokenUtilization"))
    assumed = response.get("AssumedRoleUser", {}).get("Arn")
    if assumed != request.assumed_role_arn:
        raise AssumeRoleError(
            f"STS answered for {assumed}, and {request.assumed_role_arn} was asked for. Its credentials are not used: "
            "check what answers instead of STS (endpoint_url, AWS_ENDPOINT_URL, a proxy)",
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
