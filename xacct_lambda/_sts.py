"""The one AssumeRole call: which client makes it, how long it may take, what its answer means.

Nothing else in the library talks to AWS. The figures are chosen for Lambda's default time-out of 3 seconds: two tries
of a second each, where botocore's own defaults (60 s to connect, 60 s to read) die as "Task timed out".
"""

from __future__ import annotations

import contextvars
import logging
import random
import re
import sys
import threading
import time
import traceback
from collections.abc import Callable, Hashable, Mapping
from contextvars import ContextVar
from typing import Any, Final, NamedTuple

import boto3
from botocore import exceptions as botocore_exceptions
from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError
from cachetools import LRUCache

from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda.exceptions import AssumeRoleError, ConfigurationError, STSUnavailableError, XacctLambdaError

_TRY_SECONDS: Final = 1.0
_TRIES: Final = 2
_PAUSE_SECONDS: Final = (0.05, 0.25)
_RESERVE_SECONDS: Final = 0.25
_SOURCES: Final = 16
CONNECTIONS: Final = 50
"""Roles that one client can assume at a time."""

uniform: Final = random.SystemRandom().uniform
"""Jitter. Not the random module's own, whose state is the same in every restored copy of a SnapStart snapshot."""

_ONE_TRY: Final[Any] = {"total_max_attempts": 1, "mode": "standard"}

# The pauses between tries are bounded here, botocore's are not.
STS_CONFIG: Final = Config(
    connect_timeout=_TRY_SECONDS,
    read_timeout=_TRY_SECONDS,
    retries=_ONE_TRY,
    max_pool_connections=CONNECTIONS,
)

# https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html, and what botocore retries.
_PASSING_CODES: Final = frozenset(
    {
        "InternalFailure",
        "PriorRequestNotComplete",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottledException",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)
SERVER_FAULTS: Final = range(500, 600)
FAILURES: Final = (BotoCoreError, ClientError, ResponseParserError, KeyError, ValueError)
"""What a call of STS may raise; the latter two for XML that is not STS's, as of a proxy."""

_NO_ANSWER: Final = (
    botocore_exceptions.ConnectionError,
    botocore_exceptions.HTTPClientError,
    botocore_exceptions.CredentialRetrievalError,
    botocore_exceptions.MetadataRetrievalError,
    ResponseParserError,
)

invocation: ContextVar[Any] = ContextVar("xacct_lambda_invocation", default=None)
"""The Lambda context of the event that is being handled, as far as the decorator has seen one."""


def lambda_context(context: object) -> object:
    """Return Lambda's context, given what a handler got: that, or a durable execution's, which has it inside."""
    return getattr(context, "lambda_context", context)


def seconds_left() -> float | None:
    """Return what the invocation has left, less a reserve for reporting an error; None where no context tells."""
    remaining_time = getattr(lambda_context(invocation.get()), "get_remaining_time_in_millis", None)
    milliseconds = remaining_time() if callable(remaining_time) else None
    # A test's Mock has every method, and they return no numbers.
    return max(milliseconds / 1000 - _RESERVE_SECONDS, 0) if isinstance(milliseconds, int | float) else None


def no_time_left(role_arn: str) -> STSUnavailableError:
    """Return what is raised where an attempt could not end before the invocation does."""
    problem = "no attempt was made, as the invocation's time is nearly over"
    response = {"Error": {"Code": "NoTimeLeft", "Message": problem}}
    return STSUnavailableError(f"{role_arn}: {problem}", role_arn=role_arn, response=response)


def in_thread(task: Callable[[], None]) -> None:
    """Run a task in a thread of its own, as part of the caller's invocation and trace."""
    run = contextvars.copy_context().run
    xray = sys.modules.get("aws_xray_sdk.core")
    # The X-Ray SDK keeps the place in a trace for each thread, and in no context variable.
    entity = xray and xray.xray_recorder.get_trace_entity()

    def run_traced() -> None:
        if xray and entity:
            xray.xray_recorder.set_trace_entity(entity)
        run(task)

    try:
        threading.Thread(target=run_traced, name="xacct_lambda-assume-role", daemon=True).start()
    except RuntimeError:
        # None is to be had when the interpreter ends, as for what is registered with atexit.
        run_traced()


class FrozenCredentials(ReadOnlyCredentials):
    """botocore's immutable set of credentials, except that it neither prints nor pickles them."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("credentials do not pickle: send the role's ARN and assume the role on the other side")


class IssuedCredentials(NamedTuple):
    """What one AssumeRole call yielded; ``expires_at`` is STS's instant, in seconds since the epoch."""

    frozen: FrozenCredentials
    expires_at: float


class _Client(NamedTuple):
    client: Any
    source: boto3.Session
    """Kept, so that no other session can come to have its identity."""


class STS:
    """Calls AssumeRole for source sessions, with one client for each."""

    def __init__(
        self,
        *,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[float, float], float] = uniform,
    ) -> None:
        self._sleep = sleep
        self._jitter = jitter
        self._lock = threading.RLock()
        self._clients: LRUCache[Hashable, _Client] = LRUCache(_SOURCES)
        self.calls = 0

    def assume_role(
        self, source: boto3.Session, request: AssumeRoleRequest, config: Config | None
    ) -> IssuedCredentials:
        """Assume the role; where the first try fails for a passing reason, try once more.

        Raises:
            AssumeRoleError: STS refused, or assumed another role than the one asked for.
            ConfigurationError: The call cannot be made: no credentials, no such parameter.
            STSUnavailableError: STS gave no usable answer.
        """
        client = self._client(source, _merged(config))
        for _ in range(0 if _has_retries(config) else _TRIES - 1):
            try:
                return self._call(client, request)
            except STSUnavailableError:
                self._sleep(self._jitter(*_PAUSE_SECONDS))
        return self._call(client, request)

    def patience(self, config: Config | None) -> float | None:
        """Return how many seconds the tries take at the most, for an STS at one address; None where botocore tries."""
        merged: Any = _merged(config)
        if _has_retries(config) or None in (merged.connect_timeout, merged.read_timeout):
            return None
        return float(_TRIES * max(merged.connect_timeout, merged.read_timeout) + 2 * _PAUSE_SECONDS[1])

    def prepare(self, source: boto3.Session, config: Config | None) -> None:
        """Make the client that calls of this source session will use."""
        self._client(source, _merged(config))

    def forget_clients(self) -> None:
        """Drop the clients with their connections, which survive neither a fork nor a snapshot."""
        self._lock = threading.RLock()
        self._clients = LRUCache(_SOURCES)

    def _client(self, source: boto3.Session, config: Config) -> Any:
        # By identity, as sessions may be of a class with its own idea of equality.
        key = id(source), frozen_config(config)
        with self._lock:
            if key not in self._clients:
                client = new_client(source, config)
                if source.get_credentials() is None:
                    # botocore gives a client its credentials for good: kept, this one would never find any.
                    return client
                self._clients[key] = _Client(client, source)
            return self._clients[key].client

    def _call(self, client: Any, request: AssumeRoleRequest) -> IssuedCredentials:
        with self._lock:
            self.calls += 1
        token = _assuming.set(True)
        try:
            return _issued(client.assume_role(**request.parameters()), request)
        except XacctLambdaError:
            # The source session is an assumed one, and its own role could not be assumed; or STS assumed another role.
            raise
        except FAILURES as error:
            failure, cause = failure_of(error, request)
        finally:
            _assuming.reset(token)
        # Out of the except block, or the error as botocore raised it would stay reachable as __context__.
        raise failure from cause


def _merged(config: Config | None) -> Config:
    return STS_CONFIG if config is None else STS_CONFIG.merge(config)


def _has_retries(config: Config | None) -> bool:
    """Say whether the caller has retries of its own, which are botocore's to make."""
    return getattr(config, "retries", None) is not None


def new_client(source: boto3.Session, config: Config) -> Any:
    """Return an STS client of the source session for its own Region.

    Raises:
        ConfigurationError: The session's settings allow none.
    """
    try:
        client: Any = source.client("sts", config=config)
        if client.meta.endpoint_url == "https://sts.amazonaws.com" and source.region_name:
            # botocore before 1.40 goes to the global endpoint; no VPC endpoint answers it, no opt-in Region trusts it.
            client = source.client("sts", config=config, endpoint_url=f"https://sts.{source.region_name}.amazonaws.com")
    except (BotoCoreError, ValueError) as error:
        raise ConfigurationError("source_session", f"no STS client can be made of it: {error}") from error
    return client


def frozen_config(config: Config) -> Hashable:
    """Return the options of a client configuration as a value: equal for equal options, hashable."""

    def frozen(value: Any) -> Hashable:
        if isinstance(value, Mapping):
            return frozenset((key, frozen(item)) for key, item in value.items())
        if isinstance(value, list | tuple):
            return tuple(map(frozen, value))
        return type(value), value

    return frozen(vars(config))


def _issued(response: dict[str, Any], request: AssumeRoleRequest) -> IssuedCredentials:
    # pop: no frame that an error passes through may hold the secrets, for tools that print local variables.
    issued = _parsed(response.pop("Credentials", {}), request.account_id)
    assumed = response.get("AssumedRoleUser", {}).get("Arn")
    if assumed != request.assumed_role_arn:
        raise AssumeRoleError(
            f"STS answered for {assumed}, and {request.assumed_role_arn} was asked for. Its credentials are not used: "
            "look at what answers in the place of STS (endpoint_url, AWS_ENDPOINT_URL, a proxy)",
            role_arn=request.role_arn,
            response=response | {"Error": {"Code": "AssumedRoleMismatch", "Message": f"assumed {assumed}"}},
        )
    return issued


def _parsed(credentials: Mapping[str, Any], account_id: str) -> IssuedCredentials:
    if not all(map(credentials.get, ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"))):
        raise ResponseParserError
    fields = {
        "access_key": credentials["AccessKeyId"],
        "secret_key": credentials["SecretAccessKey"],
        "token": credentials["SessionToken"],
        "account_id": account_id,
    }
    # botocore's set has an account_id from 1.35 on.
    frozen = FrozenCredentials(**{name: fields[name] for name in ReadOnlyCredentials._fields})
    return IssuedCredentials(frozen, credentials["Expiration"].timestamp())


def _is_the_parsers(error: Exception) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "botocore.parsers" for frame, _ in frames)


def failure_of(error: Exception, request: AssumeRoleRequest) -> tuple[XacctLambdaError, Exception]:
    """Return what to raise in the place of one of ``FAILURES``, and the cause to chain to it, both without secrets.

    Raises:
        Exception: The error itself, where it is that of a hook or of other code of the caller's.
    """
    if isinstance(error, KeyError | ValueError):
        if not _is_the_parsers(error):
            raise error
        error = ResponseParserError()
    # Imported here, as a cold start without errors does not need it.
    from xacct_lambda import _diagnosis  # noqa: PLC0415

    role_arn = request.role_arn
    if isinstance(error, ResponseParserError) or (isinstance(error, ClientError) and "Error" not in error.response):
        # Its message quotes the body, which may be half an answer with the secrets in it.
        error = ResponseParserError("the answer is not one of STS (its text is withheld)")
    if isinstance(error, botocore_exceptions.HTTPClientError) and "Invalid header value" in str(error):
        # Its message quotes the header, which is the token or the signature.
        problem = "its access key or session token has a line break in it, so that no request can be made of it"
        return ConfigurationError("source_session", problem), ValueError("Invalid header value")
    if isinstance(error, ClientError):
        answer: Any = dict(error.response["Error"])
        # botocore makes None of an empty element.
        answer["Message"] = _scrubbed(answer.get("Message") or "", request)
        code = answer.get("Code") or ""
        response: Any = {**error.response, "Error": answer}
        cause = ClientError(response, "AssumeRole")
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        if code in _PASSING_CODES or status in SERVER_FAULTS:
            message = _diagnosis.failure(code, answer["Message"], request)
            return STSUnavailableError(message, role_arn=role_arn, response=response), cause
        message = _diagnosis.refusal(code, answer["Message"], request)
        return AssumeRoleError(message, role_arn=role_arn, response=response), cause
    if isinstance(error, _NO_ANSWER):
        code, text = type(error).__name__, str(error)
        message = _diagnosis.no_answer(code, text, request)
        response = {"Error": {"Code": code, "Message": text}}
        return STSUnavailableError(message, role_arn=role_arn, response=response), _without_request(error)
    if isinstance(error, botocore_exceptions.ParamValidationError):
        problem = f"botocore does not take these AssumeRole parameters: {_without_values(str(error.kwargs['report']))}"
        return ConfigurationError("extra", problem), ValueError("Parameter validation failed (the values are withheld)")
    problem = f"cannot call STS for {role_arn}: {error}"
    if isinstance(error, botocore_exceptions.NoCredentialsError | botocore_exceptions.PartialCredentialsError):
        problem += (
            ". boto3 looks for the caller's in the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE), in ~/.aws, and in the "
            "metadata of containers and instances"
        )
    return ConfigurationError("source_session", problem), _without_request(error)


def _without_request(error: Exception) -> Exception:
    """Return the error as botocore makes it, but without the request, which bears the caller's token and external ID.

    Its traceback and what it was raised from are left behind as well: their frames hold the request too.
    """
    if not isinstance(error, BotoCoreError):
        return error
    return type(error)(**{name: str(value) for name, value in error.kwargs.items()})


def _without_values(report: str) -> str:
    """Return botocore's report on parameters without the values that it quotes."""
    told = [line.partition(", value: ")[0] for line in report.splitlines()]
    return "; ".join(line for line in told if line.startswith(("Invalid ", "Missing ", "Unknown ")))


_TOKEN: Final = re.compile(
    r"""(?i)((?:x-amz-(?:security|s3session)-token|\bSecurityToken)['"]?\s*[:=]\s*b?['"]?)[^'",\s&]+"""
)


def _scrubbed(text: str, request: AssumeRoleRequest) -> str:
    """Return STS's text without what it quotes of the request: the external ID, and the caller's session token."""
    if request.external_id is not None:
        # Where it is part of an ARN or of a longer word, it is there for another reason.
        alone = re.compile(rf"arn:\S+|(?<![\w-]){re.escape(request.external_id)}(?![\w-])", re.ASCII)
        text = alone.sub(lambda match: match[0] if match[0].startswith("arn:") else "***", text)
    return _TOKEN.sub(r"\1***", text)


_assuming: ContextVar[bool] = ContextVar("xacct_lambda_assuming", default=False)


def _without_credentials(record: logging.LogRecord) -> bool:
    """Keep AssumeRole's request and response, and every session token, out of botocore's DEBUG records."""
    if _assuming.get():
        return False
    try:
        message = record.getMessage()
    except (TypeError, ValueError):
        # The arguments do not fit the text, which logging itself reports without raising.
        return True
    redacted = _TOKEN.sub(r"\1***", message)
    if redacted != message:
        record.msg, record.args = redacted, ()
    return True


# A filter acts on the records of its own logger only; these write headers and bodies, and exceptions that quote them.
for _name in ("botocore.auth", "botocore.endpoint", "botocore.httpsession", "botocore.parsers"):
    logging.getLogger(_name).addFilter(_without_credentials)
