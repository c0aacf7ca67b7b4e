"""Everything that keeps secrets out of messages, exceptions, and botocore's debug log.

A secret is an access key's secret part, a session token, or an external ID. Objects that contain one redact their own
``repr`` (:class:`~xacct_lambda._sts.FrozenCredentials`, :class:`~xacct_lambda._request.AssumeRoleRequest`).
"""

from __future__ import annotations

import functools
import logging
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final, TypeVar, cast

from botocore.exceptions import BotoCoreError

from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda.exceptions import ConfigurationError, XacctLambdaError

_Function = TypeVar("_Function", bound=Callable[..., Any])

# Strings, which the re module compiles when they are first used: a cold start without DEBUG logs never uses them.
_SESSION_HEADER: Final = (
    r"""(?i)((?:x-amz-(?:security|s3session)-token|\bSecurityToken)['"]?\s*[:=]\s*b?['"]?)[^'",\s&]+"""
)

_CREDENTIAL: Final = r"""(?ix)
    ((?:secret|session)_?(?:access_?)?(?:key|token)|access_?token|refresh_?token|client_?secret|password|authorization)
    (['"]?\s*[:=]\s*['"]?)
    (?:bearer\s+)?[^'",\s&}]+
    """
_JWT: Final = r"(?a)\beyJ[\w-]{5,}(?:\.[\w-]*){1,2}"
_MAX_TEXT: Final = 500
"""Maximum number of characters that a message quotes of a program's output, which may be pages long."""

_is_in_assume_role: ContextVar[bool] = ContextVar("xacct_lambda_assuming_role", default=False)


def redact_text(text: str, request: AssumeRoleRequest) -> str:
    """Return STS's text without the external ID and the caller's session token, which STS may quote."""
    if request.external_id is not None:
        whole_word = re.compile(rf"(?<![\w-]){re.escape(request.external_id)}(?![\w-])", re.ASCII)
        # Odd items are ARNs. An external ID inside an ARN is there for another reason.
        parts = re.split(r"(arn:\S+)", text)
        parts[::2] = [whole_word.sub("***", part) for part in parts[::2]]
        text = "".join(parts)
    return re.sub(_SESSION_HEADER, r"\1***", text)


def redact_credentials(text: str) -> str:
    """Return the text of a credential provider, which may quote what a program printed, without keys and tokens."""
    redacted = re.sub(_JWT, "***", re.sub(_CREDENTIAL, r"\1\2***", re.sub(_SESSION_HEADER, r"\1***", text)))
    line = " ".join(redacted.split())
    return line if len(line) <= _MAX_TEXT else f"{line[:_MAX_TEXT]}…"


def without_request(error: BotoCoreError, text: str, redact: Callable[[str], str] = str) -> Exception:
    """Return a copy of a botocore error without the request, which contains the caller's token and the external ID.

    The copy has no traceback and no cause either, because their frames contain the request too.

    Args:
        error: The error.
        text: Its text without secrets, for a class of another library that can't be copied as botocore's classes can.
        redact: Returns a text that is an argument of the error without secrets.
    """
    try:
        return type(error)(**{name: redact(str(value)) for name, value in error.kwargs.items()})
    except Exception:  # noqa: BLE001 - a class may have any constructor
        return RuntimeError(f"{type(error).__name__}: {text}")


def without_values(report: str) -> str:
    """Return botocore's report on invalid parameters without the values that it quotes."""
    lines = [line.partition(", value: ")[0] for line in report.splitlines()]
    return "; ".join(line for line in lines if line.startswith(("Invalid ", "Missing ", "Unknown ")))


def loggable(outcome: object) -> object:
    """Return an outcome for the log: this library's errors as they are, and only the class of any other error."""
    return outcome if isinstance(outcome, XacctLambdaError) else type(outcome).__name__


def hide_arguments(function: _Function) -> _Function:
    """Return the function with ConfigurationErrors whose frames contain no argument, and so no external ID.

    Sentry, cgitb, rich, and ``pytest -l`` send or print the local variables of each frame that an error passes through.
    """

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except ConfigurationError as error:
            without_frames = error.with_traceback(None)
            del args, kwargs
        raise without_frames

    return cast("_Function", call)


@contextmanager
def assume_role_unlogged() -> Iterator[None]:
    """Suppress botocore's debug log of an AssumeRole call, which contains the request and the new credentials."""
    token = _is_in_assume_role.set(True)
    try:
        yield
    finally:
        _is_in_assume_role.reset(token)


def _redact_log_record(record: logging.LogRecord) -> bool:
    if _is_in_assume_role.get():
        return False
    try:
        message = record.getMessage()
    except (TypeError, ValueError):
        # The arguments don't fit the text. logging reports that itself, without raising.
        return True
    redacted = re.sub(_SESSION_HEADER, r"\1***", message)
    if redacted != message:
        record.msg, record.args = redacted, ()
    return True


# A filter applies only to its logger's own records. These four log headers, bodies, and exceptions that quote them.
for _name in ("botocore.auth", "botocore.endpoint", "botocore.httpsession", "botocore.parsers"):
    logging.getLogger(_name).addFilter(_redact_log_record)
