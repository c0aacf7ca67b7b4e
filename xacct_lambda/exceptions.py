"""Everything this library raises on purpose.

The class names are part of the API: Lambda reports them as ``errorType``, and Step Functions matches them in
``ErrorEquals``. Messages name accounts, roles and policies; never a key, a token or an external ID.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import ClientError

__all__ = [
    "AssumeRoleError",
    "ConfigurationError",
    "PartialFailureError",
    "STSUnavailableError",
    "XacctLambdaError",
]


class XacctLambdaError(Exception):
    """The class that the others share: ``except XacctLambdaError`` catches whatever this library raises."""


class ConfigurationError(XacctLambdaError, ValueError):
    """An argument breaks a rule that can be checked without asking AWS.

    Raised at decoration or at the call, before any network call; nothing is cached from the arguments.
    """

    argument: str
    """Name of the argument at fault."""
    problem: str
    """What is wrong with it, and what would be right; never the value of a secret."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(argument, problem)
        self.argument = argument
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.argument}: {self.problem}"


class _STSError(XacctLambdaError, ClientError):
    """AssumeRole gave no credentials; in the shape of a botocore ``ClientError``, so that code written for it works."""

    response: Any
    """STS's answer as botocore parsed it (``response["Error"]["Code"]``), external ID taken out. Where there is none,
    ``response["ResponseMetadata"]["HTTPStatusCode"]`` is 0."""
    operation_name: str
    """Always ``"AssumeRole"``."""
    role_arn: str
    """The role that was asked for."""

    def __init__(self, message: str, *, role_arn: str, response: Mapping[str, Any]) -> None:
        # Not super().__init__(): ClientError would put its own template in the place of the message, and the message is
        # all that Lambda shows of an exception.
        Exception.__init__(self, message)
        # botocore's errors always have metadata, as a service has answered; code that reads the status needs some here.
        no_answer = {"RequestId": "", "HTTPStatusCode": 0, "HTTPHeaders": {}, "RetryAttempts": 0}
        self.response = {"ResponseMetadata": no_answer, **response}
        self.operation_name = "AssumeRole"
        self.role_arn = role_arn

    @property
    def code(self) -> str:
        """STS's error code, or the name of botocore's exception where STS did not answer."""
        return str(self.response.get("Error", {}).get("Code", "Unknown"))

    def __reduce__(self) -> tuple[Any, ...]:
        # ClientError pickles as (response, operation_name), which is not how these are made.
        return _rebuild, (type(self), str(self), self.role_arn, self.response)


def _rebuild(kind: type[_STSError], message: str, role_arn: str, response: Mapping[str, Any]) -> _STSError:
    return kind(message, role_arn=role_arn, response=response)


class AssumeRoleError(_STSError):
    """STS answered, and the answer is no (or not the role that was asked for).

    Also a ``botocore.exceptions.ClientError``: code that catches that, and reads ``response["Error"]["Code"]``,
    needs no change.
    """


class STSUnavailableError(_STSError):
    """STS gave no usable answer: no route, a time-out, throttling, a server-side failure. Trying again may succeed.

    Raised only when there are no valid credentials left to serve. It is a
    ``botocore.exceptions.ClientError`` too, since throttling and 5xx answers were one before; where STS did not
    answer at all, ``code`` is the name of botocore's exception (``ConnectTimeoutError``), ``__cause__`` holds it, and
    ``response["ResponseMetadata"]["HTTPStatusCode"]`` is 0.
    """


class PartialFailureError(XacctLambdaError):
    """Some of many roles failed. The message lists each with its diagnosis; the first failure is the cause."""

    failures: Mapping[str, Exception]
    """The exception of each role that failed, by role ARN."""
    results: Mapping[str, Any]
    """What the other roles yielded (sessions, or what the function returned), by role ARN. Left behind when the error
    is pickled, since sessions do not pickle."""

    def __init__(self, failures: Mapping[str, Exception], results: Mapping[str, Any]) -> None:
        super().__init__(failures, results)
        self.failures = failures
        self.results = results

    def __str__(self) -> str:
        listed = "".join(f"\n- {role_arn}: {_describe(error)}" for role_arn, error in self.failures.items())
        return f"{len(self.failures)} of {len(self.failures) + len(self.results)} roles failed:{listed}"

    __repr__ = __str__

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.failures, {})


def _describe(error: Exception) -> str:
    """Return an error's message; with its class where that is not the library's, as in ``KeyError: 'Buckets'``."""
    is_own = isinstance(error, XacctLambdaError)
    return str(error) if is_own else f"{type(error).__name__}: {error}".removesuffix(": ")
