"""Many roles at once: their sessions, and the loop over accounts that everybody writes on top of them."""

from __future__ import annotations

import contextvars
import inspect
import logging
from collections.abc import Callable, Iterable
from typing import Any, Final, Literal, TypeVar, Unpack, overload

import boto3

from xacct_lambda._allowed_roles import AllowedRoles
from xacct_lambda._errors import deadline_error
from xacct_lambda._invocation import current_context, lambda_context, remaining_seconds
from xacct_lambda._options import AssumeRoleOptions, validate_options
from xacct_lambda._processor import available_cores
from xacct_lambda._request import role_arn_parts
from xacct_lambda._sessions import session_from_options
from xacct_lambda._sts import MAX_POOL_CONNECTIONS
from xacct_lambda.exceptions import ConfigurationError, PartialFailureError

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

_MAX_DEFAULT_WORKERS: Final = 32
_MIN_DEFAULT_WORKERS: Final = 4
_WORKERS_PER_CORE: Final = 80
"""One role takes about 12 ms of CPU. With more workers, the TLS handshakes of a small function take longer than their
limit of one second. More don't help either: with 0.07 of a core, 6 workers use all of it while AWS takes 0.8 s."""

Progress = Callable[[str, Any], None]


class _FanOutOptions(AssumeRoleOptions, total=False):
    """What both functions take, for their overloads; what it means is said once, below."""

    allowed_roles: Iterable[str] | None
    max_workers: int | None
    context: object
    progress: Progress | None


@overload
def assumed_sessions(
    role_arns: Iterable[str], *, return_exceptions: Literal[False] = ..., **options: Unpack[_FanOutOptions]
) -> dict[str, boto3.Session]: ...
@overload
def assumed_sessions(
    role_arns: Iterable[str], *, return_exceptions: bool, **options: Unpack[_FanOutOptions]
) -> dict[str, boto3.Session | Exception]: ...
def assumed_sessions(  # noqa: PLR0913 - what holds for the loop; what holds for each role are options
    role_arns: Iterable[str],
    *,
    allowed_roles: Iterable[str] | None = None,
    max_workers: int | None = None,
    return_exceptions: bool = False,
    context: object = None,
    progress: Progress | None = None,
    **options: Unpack[AssumeRoleOptions],
) -> dict[str, Any]:
    """Assume many roles at the same time; return their sessions, credentials at hand, in the order of ``role_arns``.

    One bad role never costs the others. 50 roles take about as long as four after one another.

    Args:
        role_arns: ARNs of the roles; one that stands there twice is assumed once.
        allowed_roles: ARN patterns as in :func:`assume_role`, for roles that come from outside: one that matches none
            of them fails, and is not assumed.
        max_workers: How many roles are assumed at a time, 1 to 50. The default is 32, or fewer if the function has less
            than 0.4 of a core (710 MB): 6 with 128 MB.
        return_exceptions: Put the exception of a role that failed in the place of its session, as ``asyncio.gather``
            does, rather than raise.
        context: The Lambda context: no attempt is begun that cannot end before the invocation does. Inside a handler
            under ``@assume_role`` it is known already.
        progress: Called with each ARN and its session or exception as soon as there is one, in the calling thread.
        options: Those of :func:`assumed_session`, for all roles; each but ``source_session`` and ``sts_config`` may
            be a callable over the role's ARN, as where every account has an external ID of its own.

    Raises:
        PartialFailureError: At least one role failed. It lists each with its diagnosis, and holds the sessions of the
            others in ``results``.
        ConfigurationError: An argument that is the same for all roles breaks a rule.
    """
    return for_each_account(
        lambda session, _account_id: session,
        role_arns,
        allowed_roles=allowed_roles,
        max_workers=max_workers,
        return_exceptions=return_exceptions,
        context=context,
        progress=progress,
        **options,
    )


@overload
def for_each_account(
    function: Callable[[boto3.Session, str], _Result],
    role_arns: Iterable[str],
    *,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[_FanOutOptions],
) -> dict[str, _Result]: ...
@overload
def for_each_account(
    function: Callable[[boto3.Session, str], _Result],
    role_arns: Iterable[str],
    *,
    return_exceptions: bool,
    **options: Unpack[_FanOutOptions],
) -> dict[str, _Result | Exception]: ...
def for_each_account(  # noqa: PLR0913 - those of assumed_sessions, and the function
    function: Callable[[boto3.Session, str], Any],
    role_arns: Iterable[str],
    *,
    allowed_roles: Iterable[str] | None = None,
    max_workers: int | None = None,
    return_exceptions: bool = False,
    context: object = None,
    progress: Progress | None = None,
    **options: Unpack[AssumeRoleOptions],
) -> dict[str, Any]:
    """Call ``function(session, account_id)`` for each role, in threads; return what each returned, by role ARN.

    What ``function`` raises counts as that role's failure and costs no other role.

    Args:
        function: Called in a thread for each role, with its session, credentials at hand, and the 12 digits of its
            account. A call that has begun is not interrupted.
        role_arns: ARNs of the roles; one that stands there twice is worked on once.
        allowed_roles: As in :func:`assumed_sessions`, as are all that follow.
        max_workers: How many roles are worked on at a time, 1 to 50. The default is that of :func:`assumed_sessions`.
        return_exceptions: Put the exception of a role that failed in the place of its result, rather than raise.
        context: The Lambda context: no role is begun that cannot end before the invocation does.
        progress: Called with each ARN and its result or exception as soon as there is one, in the calling thread.
        options: Those of :func:`assumed_session`, for all roles; most may be a callable over the role's ARN.

    Raises:
        PartialFailureError: At least one role failed. It holds the results of the others.
        ConfigurationError: An argument that is the same for all roles breaks a rule.
    """
    _check_arguments(
        function, max_workers=max_workers, return_exceptions=return_exceptions, context=context, progress=progress
    )
    outcomes: dict[str, Any] = dict.fromkeys(_unique_role_arns(role_arns))
    failures: dict[str, Exception] = {}
    allowed = AllowedRoles(allowed_roles)
    checked = validate_options(options, others=_FanOutOptions.__annotations__)
    from concurrent.futures import ThreadPoolExecutor, as_completed  # noqa: PLC0415 - of use to many roles alone

    token = current_context.set(current_context.get() if context is None else context)
    pool = ThreadPoolExecutor(max_workers or _default_workers(), thread_name_prefix="xacct_lambda")
    try:
        # Each thread sees the invocation, and whatever tracing keeps in context variables.
        roles = {
            pool.submit(contextvars.copy_context().run, _call_for_role, function, role_arn, allowed, checked): role_arn
            for role_arn in outcomes
        }
        for done, future in enumerate(as_completed(roles), 1):
            role_arn, error = roles[future], future.exception()
            if error is None:
                outcomes[role_arn] = future.result()
            elif isinstance(error, Exception):
                outcomes[role_arn] = failures[role_arn] = error
            else:
                raise error
            _logger.debug("%s %s (%d of %d)", role_arn, "done" if error is None else "failed", done, len(roles))
            if progress is not None:
                progress(role_arn, outcomes[role_arn])
    finally:
        # What has not begun when an interrupt or the callback ends the loop is not begun any more.
        pool.shutdown(cancel_futures=True)
        current_context.reset(token)
    if failures and not return_exceptions:
        in_order = {role_arn: failures[role_arn] for role_arn in outcomes if role_arn in failures}
        results = {role_arn: outcome for role_arn, outcome in outcomes.items() if role_arn not in failures}
        raise PartialFailureError(in_order, results) from next(iter(in_order.values()))
    return outcomes


def _default_workers() -> int:
    return min(max(round(_WORKERS_PER_CORE * available_cores()), _MIN_DEFAULT_WORKERS), _MAX_DEFAULT_WORKERS)


def _check_arguments(
    function: object, *, max_workers: object, return_exceptions: object, context: object, progress: object
) -> None:
    if (
        isinstance(max_workers, bool)
        or not isinstance(max_workers, int | None)
        or (max_workers is not None and not 1 <= max_workers <= MAX_POOL_CONNECTIONS)
    ):
        raise ConfigurationError(
            "max_workers", f"{max_workers!r} is not a whole number from 1 to {MAX_POOL_CONNECTIONS}"
        )
    if not isinstance(return_exceptions, bool):
        raise ConfigurationError("return_exceptions", f"{return_exceptions!r} is not True or False")
    if not callable(function):
        raise ConfigurationError("function", f"{function!r} cannot be called")
    if inspect.iscoroutinefunction(function):
        raise ConfigurationError("function", "boto3 is not asynchronous, and nobody would await what it returns")
    if context is not None and not hasattr(lambda_context(context), "get_remaining_time_in_millis"):
        raise ConfigurationError("context", f"a Lambda context is needed, not {type(context).__name__}")
    if progress is not None and not callable(progress):
        raise ConfigurationError("progress", f"{progress!r} cannot be called")


def _unique_role_arns(role_arns: Iterable[str]) -> list[str]:
    listed = None if isinstance(role_arns, str) or not isinstance(role_arns, Iterable) else list(role_arns)
    if listed is None or not all(isinstance(role_arn, str) for role_arn in listed):
        raise ConfigurationError("role_arns", "a list of ARNs is needed")
    return listed


def _call_for_role(
    function: Callable[[boto3.Session, str], Any],
    role_arn: str,
    allowed: AllowedRoles,
    options: dict[str, Any],
) -> Any:
    """Do one role's part, in a thread of its own."""
    role_arn = allowed.checked(role_arn)
    session = session_from_options(role_arn, options, role_arn)
    session.get_credentials().get_frozen_credentials()  # type: ignore[union-attr] # an assumed session has some
    if remaining_seconds() == 0:
        raise deadline_error(role_arn)
    return function(session, role_arn_parts(role_arn).account_id)
