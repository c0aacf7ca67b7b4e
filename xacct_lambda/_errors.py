"""From botocore's and STS's errors to this library's exceptions. No exception contains a secret."""

from __future__ import annotations

import copy
import traceback
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeGuard, TypeVar

import boto3
from botocore import exceptions as botocore_exceptions
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from xacct_lambda._redaction import redact_credentials, redact_text, without_request, without_values
from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda.exceptions import (
    AssumeRoleError,
    CallerCredentialsError,
    ConfigurationError,
    STSUnavailableError,
    XacctLambdaError,
    _NoCallerCredentialsError,
    _RejectedCallerCredentialsError,
)

if TYPE_CHECKING:
    from xacct_lambda._caller_diagnosis import Caller

_Error = TypeVar("_Error", bound=BaseException)

# https://docs.aws.amazon.com/STS/latest/APIReference/CommonErrors.html, and the codes that botocore retries.
_TRANSIENT_CODES: Final = frozenset(
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
SERVER_ERRORS: Final = range(500, 600)
STS_EXCEPTIONS: Final = (
    *(BotoCoreError, ClientError, ResponseParserError),
    *(EOFError, KeyError, OSError, RuntimeError, TypeError, ValueError),
)
"""Exceptions that a call of STS can raise. Credential providers raise the last six. botocore's parser raises KeyError
and ValueError for XML that isn't STS's, for example a proxy's."""

_CONNECTION_ERRORS: Final = (
    botocore_exceptions.ConnectionError,
    botocore_exceptions.HTTPClientError,
)


class Translation(NamedTuple):
    """This library's exception for an error, and the cause to chain to it."""

    error: XacctLambdaError
    cause: BaseException | None


def translate_error(error: Exception, request: AssumeRoleRequest, source: boto3.Session | None = None) -> Translation:
    """Return this library's exception for one of ``STS_EXCEPTIONS``, with its cause, both without secrets.

    Args:
        error: The exception of the call.
        request: The request of the call.
        source: The session that called STS. Without it, a message about the caller doesn't name the profile.

    Raises:
        Exception: The error itself, if a hook or other code of the caller raised it.
    """
    from xacct_lambda import _caller_diagnosis  # noqa: PLC0415 - a cold start without errors doesn't need it

    if isinstance(error, botocore_exceptions.NoCredentialsError) or _caller_diagnosis.is_of_credentials(error):
        # botocore loads and refreshes the caller's credentials when it signs the request.
        caller_error = caller_credentials_error(error, source, request)
        return Translation(caller_error, caller_error.__cause__)
    if isinstance(error, ClientError) and "Error" in error.response:
        return _translate_client_error(error, request, source)
    if isinstance(error, ClientError | ResponseParserError) or _is_from_parser(error):
        return _unparsable(request, source)
    if isinstance(error, BotoCoreError):
        return _translate_botocore_error(error, request, source)
    raise error


def _translate_botocore_error(
    error: BotoCoreError, request: AssumeRoleRequest, source: boto3.Session | None
) -> Translation:
    if isinstance(error, botocore_exceptions.HTTPClientError) and "Invalid header value" in str(error):
        return _unsendable_credentials(request, source)
    if isinstance(error, _CONNECTION_ERRORS):
        return _translate_no_answer(error, request, source)
    if isinstance(error, botocore_exceptions.ParamValidationError):
        return _invalid_parameters(error)
    return _no_call(error, request)


def caller_credentials_error(
    error: Exception, source: boto3.Session | None, request: AssumeRoleRequest
) -> CallerCredentialsError:
    """Return the exception for an error of the source session's own credentials, with its cause, without secrets.

    Raise it outside the ``except`` block. Otherwise its context references the error, whose frames contain secrets.

    Args:
        error: The exception of the load. ``NoCredentialsError()`` if the source session has no credentials.
        source: The session whose credentials couldn't be loaded.
        request: The request that was to be signed with them.
    """
    from xacct_lambda import _caller_diagnosis  # noqa: PLC0415 - a cold start without errors doesn't need it

    caller = _caller_diagnosis.identify_caller(source, error)
    if isinstance(error, ClientError) and "Error" in error.response:
        response = _redacted_response(error, request)
        message = _caller_diagnosis.load_failure(error, response["Error"]["Message"], caller, request.role_arn)
        return _refused_credentials(error, message, caller, request, response)
    report = error.kwargs["report"] if isinstance(error, botocore_exceptions.ParamValidationError) else None
    text = redact_credentials(redact_text(str(error) if report is None else without_values(report), request))
    is_missing = isinstance(error, botocore_exceptions.NoCredentialsError)
    caller_error = (_NoCallerCredentialsError if is_missing else CallerCredentialsError)(
        _caller_diagnosis.load_failure(error, text, caller, request.role_arn),
        role_arn=request.role_arn,
        response={"Error": {"Code": type(error).__name__, "Message": text}},
        provider=caller.provider,
        profile_name=caller.profile_name,
    )
    caller_error.__cause__ = _copy_without_secrets(error, text)
    return caller_error


def _refused_credentials(
    error: ClientError, message: str, caller: Caller, request: AssumeRoleRequest, response: Any
) -> CallerCredentialsError:
    caller_error = _RejectedCallerCredentialsError(
        message,
        role_arn=request.role_arn,
        response=response,
        provider=caller.provider,
        profile_name=caller.profile_name,
        operation_name=error.operation_name,
    )
    caller_error.__cause__ = ClientError(response, error.operation_name)
    return caller_error


def _copy_without_secrets(error: Exception, text: str) -> Exception:
    if isinstance(error, BotoCoreError) and not isinstance(error, botocore_exceptions.ParamValidationError):
        return without_request(error, text, redact_credentials)
    # A ValueError of a parser quotes its whole input in an attribute.
    return RuntimeError(f"{type(error).__name__}: {text}")


def _is_from_parser(error: Exception) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "botocore.parsers" for frame, _ in frames)


def _translate_client_error(
    error: ClientError, request: AssumeRoleRequest, source: boto3.Session | None
) -> Translation:
    from xacct_lambda import _caller_diagnosis, _diagnosis  # noqa: PLC0415 - a cold start without errors doesn't need it

    response = _redacted_response(error, request)
    code, text = response["Error"].get("Code") or "", response["Error"]["Message"]
    cause = ClientError(response, error.operation_name)
    if code in _TRANSIENT_CODES or response.get("ResponseMetadata", {}).get("HTTPStatusCode") in SERVER_ERRORS:
        message = _diagnosis.failure(code, text, request)
        return Translation(STSUnavailableError(message, role_arn=request.role_arn, response=response), cause)
    if _caller_diagnosis.is_rejection(code, text):
        caller = _caller_diagnosis.identify_caller(source, error)
        message = _caller_diagnosis.rejection(code, text, caller, request.role_arn)
        return Translation(_refused_credentials(error, message, caller, request, response), cause)
    message = _diagnosis.refusal(code, text, request)
    return Translation(AssumeRoleError(message, role_arn=request.role_arn, response=response), cause)


def _redacted_response(error: ClientError, request: AssumeRoleRequest) -> Any:
    answer: Any = error.response["Error"]
    # botocore parses an empty element as None.
    return {**error.response, "Error": {**answer, "Message": redact_text(answer.get("Message") or "", request)}}


def _unparsable(request: AssumeRoleRequest, source: boto3.Session | None) -> Translation:
    # botocore's own message quotes the body, which can be half an answer with the credentials in it.
    return _translate_no_answer(
        ResponseParserError("its text is not shown, because it may contain secrets"), request, source
    )


def _translate_no_answer(error: Exception, request: AssumeRoleRequest, source: boto3.Session | None) -> Translation:
    from xacct_lambda import _no_answer  # noqa: PLC0415 - a cold start without errors doesn't need it

    code, text = type(error).__name__, str(error)
    cause = without_request(error, text) if isinstance(error, BotoCoreError) else error
    message = _no_answer.explain(
        code,
        text,
        request.role_arn,
        endpoint_url=getattr(cause, "kwargs", {}).get("endpoint_url"),
        region_name=getattr(source, "region_name", None),
    )
    return Translation(unavailable(request.role_arn, code, text, message), cause)


def no_answer_in_time(
    request: AssumeRoleRequest, source: boto3.Session | None, seconds: float, *, is_busy: bool = False
) -> STSUnavailableError:
    """Return the error for an attempt that took longer than its time limit.

    Args:
        request: The request of the attempt.
        source: The session that called STS.
        seconds: The time limit.
        is_busy: Whether the process had no CPU time left while it waited.
    """
    from xacct_lambda import _no_answer  # noqa: PLC0415 - a cold start without errors doesn't need it

    code, text = "NoAnswerInTime", f"none in {seconds:.3g} s"
    message = _no_answer.explain(
        code, text, request.role_arn, region_name=getattr(source, "region_name", None), is_busy=is_busy
    )
    return unavailable(request.role_arn, code, text, message)


def _unsendable_credentials(request: AssumeRoleRequest, source: boto3.Session | None) -> Translation:
    # botocore's message quotes the header, which is the token or the signature.
    cause = ValueError("an access key or a session token contains a line break")
    return Translation(caller_credentials_error(cause, source, request), cause)


def _invalid_parameters(error: botocore_exceptions.ParamValidationError) -> Translation:
    problem = f"botocore rejects these AssumeRole parameters: {without_values(str(error.kwargs['report']))}"
    cause = ValueError("Parameter validation failed (the values are not shown)")
    return Translation(ConfigurationError("extra", problem), cause)


def _no_call(error: BotoCoreError, request: AssumeRoleRequest) -> Translation:
    text = redact_text(str(error), request)
    problem = f"STS can't be called for {request.role_arn}: {text}"
    if isinstance(error, botocore_exceptions.NoRegionError):
        problem += " Set AWS_DEFAULT_REGION, or the Region of source_session."
    return Translation(ConfigurationError("source_session", problem), without_request(error, text))


def unavailable(role_arn: str, code: str, problem: str, message: str | None = None) -> STSUnavailableError:
    """Return the error for a call that STS didn't answer, or that the library couldn't make."""
    response = {"Error": {"Code": code, "Message": problem}}
    return STSUnavailableError(message or f"{role_arn}: {problem}", role_arn=role_arn, response=response)


def deadline_error(role_arn: str) -> STSUnavailableError:
    """Return the error for an attempt that could not end before the invocation does."""
    return unavailable(
        role_arn,
        "NoTimeLeft",
        "the invocation has too little time left for a call of STS. Give the function a longer timeout",
    )


def is_non_recoverable(error: BaseException) -> TypeGuard[AssumeRoleError]:
    """Tell whether STS refused the role, so that the same call would be refused again."""
    return isinstance(error, AssumeRoleError)


def copy_for_raising(error: _Error) -> _Error:
    """Return a copy of this library's error without a traceback.

    A traceback grows each time the same object is raised, and keeps the frames of earlier callers in memory.
    """
    if not isinstance(error, XacctLambdaError):
        return error
    fresh = copy.copy(error)
    fresh.__cause__ = error.__cause__
    return fresh


def without_frames(error: BaseException) -> BaseException:
    """Return an error of an attempt without the frames of the attempt, whose variables contain secrets.

    An error of a hook or of other code of the caller keeps its message, and gets a note that says where it came from.
    """
    if isinstance(error, XacctLambdaError):
        return copy_for_raising(error)
    frames = traceback.extract_tb(error.__traceback__)
    if frames:
        error.add_note(f"raised in {frames[-1].name}, {frames[-1].filename}:{frames[-1].lineno}, during AssumeRole")
    visited_ids: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is not None and id(link) not in visited_ids:
            visited_ids.add(id(link))
            link.__traceback__ = None
            chain += [link.__cause__, link.__context__]
    return error


def caller_timeout_error(source: boto3.Session | None, request: AssumeRoleRequest, seconds: float) -> XacctLambdaError:
    """Return the error for a log-in of the caller that takes longer than a request can wait."""
    from xacct_lambda import _caller_diagnosis  # noqa: PLC0415 - a cold start without errors doesn't need it

    caller = _caller_diagnosis.identify_caller(source, TimeoutError())
    problem = f"the caller's own credentials did not load in {seconds:.3g} s"
    return CallerCredentialsError(
        f"Can't call STS for {request.role_arn}: {problem}. Use credentials that load faster, or a longer timeout.",
        role_arn=request.role_arn,
        response={"Error": {"Code": "CallerCredentialsTimeout", "Message": problem}},
        provider=caller.provider,
        profile_name=caller.profile_name,
    )
