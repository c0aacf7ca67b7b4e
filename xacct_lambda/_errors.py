"""From botocore's and STS's errors to this library's exceptions. No exception contains a secret."""

from __future__ import annotations

import copy
import traceback
from typing import Any, Final, NamedTuple, TypeGuard, TypeVar

from botocore import exceptions as botocore_exceptions
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from xacct_lambda._redaction import redact_text, without_request, without_values
from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda.exceptions import AssumeRoleError, ConfigurationError, STSUnavailableError, XacctLambdaError

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
STS_EXCEPTIONS: Final = (BotoCoreError, ClientError, ResponseParserError, KeyError, ValueError)
"""What a call of STS can raise. botocore raises the last two for XML that isn't STS's, for example a proxy's."""

_CONNECTION_ERRORS: Final = (
    botocore_exceptions.ConnectionError,
    botocore_exceptions.HTTPClientError,
    botocore_exceptions.CredentialRetrievalError,
    botocore_exceptions.MetadataRetrievalError,
)


class Translated(NamedTuple):
    """This library's exception for an error, and the cause to chain to it."""

    error: XacctLambdaError
    cause: Exception


def translate_error(error: Exception, request: AssumeRoleRequest) -> Translated:
    """Return this library's exception for one of ``STS_EXCEPTIONS``, with its cause, both without secrets.

    Raises:
        Exception: The error itself, if a hook or other code of the caller raised it.
    """
    match error:
        case ClientError() if "Error" in error.response:
            return _answered(error, request)
        case KeyError() | ValueError() if not _is_from_parser(error):
            raise error
        case ClientError() | ResponseParserError() | KeyError() | ValueError():
            return _unparsable(request)
        case botocore_exceptions.HTTPClientError() if "Invalid header value" in str(error):
            return _unsendable_credentials()
        case _ if isinstance(error, _CONNECTION_ERRORS):
            return _no_answer(without_request(error), request)
        case botocore_exceptions.ParamValidationError():
            return _invalid_parameters(error)
        case _:
            return _no_call(error, request)


def _is_from_parser(error: Exception) -> bool:
    frames = traceback.walk_tb(error.__traceback__)
    return any(frame.f_globals.get("__name__") == "botocore.parsers" for frame, _ in frames)


def _answered(error: ClientError, request: AssumeRoleRequest) -> Translated:
    from xacct_lambda import _diagnosis  # noqa: PLC0415 - a cold start without errors doesn't need it

    answer: Any = dict(error.response["Error"])
    # botocore parses an empty element as None.
    text = answer["Message"] = redact_text(answer.get("Message") or "", request)
    code = answer.get("Code") or ""
    response: Any = {**error.response, "Error": answer}
    cause = ClientError(response, "AssumeRole")
    if code in _TRANSIENT_CODES or response.get("ResponseMetadata", {}).get("HTTPStatusCode") in SERVER_ERRORS:
        message = _diagnosis.failure(code, text, request)
        return Translated(STSUnavailableError(message, role_arn=request.role_arn, response=response), cause)
    message = _diagnosis.refusal(code, text, request)
    return Translated(AssumeRoleError(message, role_arn=request.role_arn, response=response), cause)


def _unparsable(request: AssumeRoleRequest) -> Translated:
    # botocore's own message quotes the body, which can be half an answer with the credentials in it.
    return _no_answer(ResponseParserError("the answer is not one of STS (its text is withheld)"), request)


def _no_answer(error: Exception, request: AssumeRoleRequest) -> Translated:
    from xacct_lambda import _diagnosis  # noqa: PLC0415 - a cold start without errors doesn't need it

    code, text = type(error).__name__, str(error)
    message = _diagnosis.no_answer(code, text, request)
    return Translated(unavailable(request.role_arn, code, text, message), error)


def _unsendable_credentials() -> Translated:
    # botocore's message quotes the header, which is the token or the signature.
    problem = "its access key or session token has a line break in it, so that no request can be made of it"
    return Translated(ConfigurationError("source_session", problem), ValueError("Invalid header value"))


def _invalid_parameters(error: botocore_exceptions.ParamValidationError) -> Translated:
    problem = f"botocore does not take these AssumeRole parameters: {without_values(str(error.kwargs['report']))}"
    cause = ValueError("Parameter validation failed (the values are withheld)")
    return Translated(ConfigurationError("extra", problem), cause)


def _no_call(error: Exception, request: AssumeRoleRequest) -> Translated:
    problem = f"cannot call STS for {request.role_arn}: {error}"
    if isinstance(error, botocore_exceptions.NoCredentialsError | botocore_exceptions.PartialCredentialsError):
        problem += (
            ". boto3 looks for the caller's in the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE), in ~/.aws, and in the "
            "metadata of containers and instances"
        )
    return Translated(ConfigurationError("source_session", problem), without_request(error))


def unavailable(role_arn: str, code: str, problem: str, message: str | None = None) -> STSUnavailableError:
    """Return the error for a call that STS did not answer, or that was not made."""
    response = {"Error": {"Code": code, "Message": problem}}
    return STSUnavailableError(message or f"{role_arn}: {problem}", role_arn=role_arn, response=response)


def deadline_error(role_arn: str) -> STSUnavailableError:
    """Return the error for an attempt that could not end before the invocation does."""
    return unavailable(role_arn, "NoTimeLeft", "no attempt was made, as the invocation's time is nearly over")


def is_non_recoverable(error: BaseException) -> TypeGuard[AssumeRoleError]:
    """Tell whether STS refused the role, so that the same call would be refused again."""
    if not isinstance(error, AssumeRoleError):
        return False
    from xacct_lambda._diagnosis import CALLER_ERRORS  # noqa: PLC0415 - a cold start without errors doesn't need it

    return error.code not in CALLER_ERRORS


def copy_for_raising(error: _Error) -> _Error:
    """Return a copy of this library's error without a traceback.

    A traceback grows each time the same object is raised, and keeps the frames of earlier callers in memory.
    """
    if not isinstance(error, XacctLambdaError):
        return error
    fresh = copy.copy(error)
    fresh.__cause__ = error.__cause__
    return fresh
