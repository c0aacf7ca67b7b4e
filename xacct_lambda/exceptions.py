"""The exceptions of this library.

The class names are part of the API: Lambda reports them as ``errorType``, and Step Functions matches them in
``ErrorEquals``. Messages contain accounts, roles, and policies, but no key, token, or external ID.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

__all__ = [
    "AssumeRoleError",
    "CallerCredentialsError",
    "ConfigurationError",
    "PartialFailureError",
    "STSUnavailableError",
    "XacctLambdaError",
]


class XacctLambdaError(Exception):
    """The base class of this library's exceptions.

    Example:
        >>> from xacct_lambda import assumed_session
        >>> try:
        ...     session = assumed_session("arn:aws:iam::222222222222:role/Reader", duration_seconds=60)
        ... except XacctLambdaError as error:
        ...     print(type(error).__name__, error.argument)
        ConfigurationError duration_seconds
    """


class ConfigurationError(XacctLambdaError, ValueError):
    """An argument breaks a rule that the library checks by itself.

    Raised at decoration or at the call, before any network call. The library caches nothing of the arguments.
    """

    argument: str
    """The name of the argument."""
    problem: str
    """The problem, and how to correct it. Contains no secret."""

    def __init__(self, argument: str, problem: str) -> None:
        super().__init__(argument, problem)
        self.argument = argument
        self.problem = problem

    def __str__(self) -> str:
        return f"{self.argument}: {self.problem}"


class _ResponseError(XacctLambdaError):
    """An error with an answer in the shape of botocore's, whether or not a service answered."""

    response: Any
    """The answer as botocore parsed it (``response["Error"]["Code"]``), without the external ID. If no service
    answered, ``response["ResponseMetadata"]["HTTPStatusCode"]`` is 0."""
    role_arn: str
    """The role to assume."""

    def __init__(self, message: str, *, role_arn: str, response: Mapping[str, Any]) -> None:
        # Not super().__init__(): botocore's classes would build their own message, and Lambda shows only the message.
        Exception.__init__(self, message)
        # An answer always has metadata, and code that reads the status needs some.
        no_answer = {"RequestId": "", "HTTPStatusCode": 0, "HTTPHeaders": {}, "RetryAttempts": 0}
        self.response = {"ResponseMetadata": no_answer, **response}
        self.role_arn = role_arn

    @property
    def code(self) -> str:
        """The error code of the answer. If no service answered, the name of botocore's exception."""
        return str(self.response.get("Error", {}).get("Code", "Unknown"))

    def __reduce__(self) -> tuple[Any, ...]:
        # botocore's errors pickle as the arguments of botocore's constructors.
        return _rebuild, (type(self), str(self), {"role_arn": self.role_arn, "response": self.response})


def _rebuild(kind: type[_ResponseError], message: str, attributes: Mapping[str, Any]) -> _ResponseError:
    return kind(message, **attributes)


class _STSError(_ResponseError, ClientError):
    """AssumeRole returned no credentials. Also a botocore ``ClientError``, so that code written for it works."""

    operation_name: str
    """Always ``"AssumeRole"``."""

    def __init__(self, message: str, *, role_arn: str, response: Mapping[str, Any]) -> None:
        super().__init__(message, role_arn=role_arn, response=response)
        self.operation_name = "AssumeRole"


class AssumeRoleError(_STSError):
    """STS refused the request for the role, or answered for a different role.

    Also a ``botocore.exceptions.ClientError``: code that catches that, and reads ``response["Error"]["Code"]``,
    needs no change.
    """


class STSUnavailableError(_STSError):
    """STS gave no usable answer: no route, a timeout, throttling, or a server-side failure. A retry may succeed.

    Raised only if no valid credentials are cached. It is a ``botocore.exceptions.ClientError`` too, as throttling and
    5xx answers are with boto3. If STS didn't answer at all, ``code`` is the name of botocore's exception
    (``ConnectTimeoutError``), ``__cause__`` is a copy of that exception, and
    ``response["ResponseMetadata"]["HTTPStatusCode"]`` is 0.
    """


class CallerCredentialsError(_ResponseError, BotoCoreError):
    """The caller's own credentials are missing, can't be loaded, or were rejected by STS.

    The target role is not the cause, so the message has no advice about its policies. The error is also what boto3
    raises in the same situation: always a ``botocore.exceptions.BotoCoreError``, a ``NoCredentialsError`` without
    credentials, and a ``ClientError`` if a service refused.
    """

    provider: str | None
    """botocore's name for the credential provider, such as ``"sso"``. None if unknown."""
    profile_name: str | None
    """The profile that configures the provider. None if the credentials don't come from a profile."""
    operation_name: Any
    """The refused operation, such as ``"GetRoleCredentials"``. None if no service refused."""
    kwargs: Any
    """The arguments of the message, as every ``BotoCoreError`` has them."""

    def __init__(  # noqa: PLR0913 - the evidence
        self,
        message: str,
        *,
        role_arn: str,
        response: Mapping[str, Any],
        provider: str | None = None,
        profile_name: str | None = None,
        operation_name: str | None = None,
    ) -> None:
        super().__init__(message, role_arn=role_arn, response=response)
        self.kwargs = {"error_msg": message}
        self.provider = provider
        self.profile_name = profile_name
        self.operation_name = operation_name

    def __reduce__(self) -> tuple[Any, ...]:
        names = "role_arn", "response", "provider", "profile_name", "operation_name"
        return _rebuild, (type(self), str(self), {name: getattr(self, name) for name in names})


class _NoCallerCredentialsError(CallerCredentialsError, NoCredentialsError):
    """The error that is raised if boto3 finds no credentials."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_by_name, ("_NoCallerCredentialsError", *super().__reduce__()[1][1:])


class _RejectedCallerCredentialsError(CallerCredentialsError, ClientError):
    """The error that is raised if a service refused the credentials, or refused to issue them."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild_by_name, ("_RejectedCallerCredentialsError", *super().__reduce__()[1][1:])


def _rebuild_by_name(name: str, message: str, attributes: Mapping[str, Any]) -> _ResponseError:
    return _rebuild(globals()[name], message, attributes)


# Step Functions matches errors by the name of their class, and these two are one error to it. A traceback shows the
# qualified name, and the documentation has only the public one. Pickle would look for that one too.
for _kind in (_NoCallerCredentialsError, _RejectedCallerCredentialsError):
    _kind.__name__ = _kind.__qualname__ = CallerCredentialsError.__name__


class PartialFailureError(XacctLambdaError):
    """Some of many roles failed. The message has the diagnosis of each failure, and the first failure is the cause.

    The keys of both mappings are role ARNs. If :func:`~xacct_lambda.for_each_account` was called with ``regions``, they
    are tuples ``(role_arn, region)``.
    """

    failures: Mapping[Any, Exception]
    """The exception of each role that failed."""
    results: Mapping[Any, Any]
    """The sessions of the other roles, or the function's return values for them. A pickled error doesn't
    contain them, because sessions can't be pickled."""

    def __init__(self, failures: Mapping[Any, Exception], results: Mapping[Any, Any]) -> None:
        super().__init__(failures, results)
        self.failures = failures
        self.results = results

    def __str__(self) -> str:
        subject = "roles"
        # A role that can't be assumed has one error for all of its Regions.
        names: dict[tuple[str, int], list[str]] = {}
        for key, error in self.failures.items():
            role_arn, *regions = [key] if isinstance(key, str) else key
            names.setdefault((role_arn, id(error)), []).extend(regions)
            subject = "calls" if regions else subject
        errors = {id(error): error for error in self.failures.values()}
        lines = "".join(
            f"\n- {role_arn}{' in ' if regions else ''}{', '.join(regions)}: {_describe(errors[identity])}"
            for (role_arn, identity), regions in names.items()
        )
        return f"{len(self.failures)} of {len(self.failures) + len(self.results)} {subject} failed:{lines}"

    __repr__ = __str__

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.failures, {})


def _describe(error: Exception) -> str:
    """Return an error's message. If the error isn't the library's, add its class: ``KeyError: 'Buckets'``."""
    is_own = isinstance(error, XacctLambdaError)
    return str(error) if is_own else f"{type(error).__name__}: {error}".removesuffix(": ")
