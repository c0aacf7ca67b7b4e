"""Many roles at once: their sessions, and the loop over accounts and Regions."""

from __future__ import annotations

import contextvars
import inspect
import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final, Literal, NamedTuple, TypeAlias, TypeVar, Unpack, overload

import boto3
from botocore.config import Config

from xacct_lambda import _sessions
from xacct_lambda._allowed_roles import AllowedRoles
from xacct_lambda._errors import deadline_error, unavailable
from xacct_lambda._invocation import current_context, in_trace, lambda_context, remaining_seconds
from xacct_lambda._options import AssumeRoleOptions, check_region, validate_options
from xacct_lambda._processor import available_cores
from xacct_lambda._redaction import hide_arguments
from xacct_lambda._request import check_int, role_arn_parts, truncated_repr
from xacct_lambda._sessions import session_from_options
from xacct_lambda._sts import MAX_POOL_CONNECTIONS
from xacct_lambda.exceptions import ConfigurationError, PartialFailureError, XacctLambdaError

_logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

Progress: TypeAlias = Callable[[Any, Any], None]
_Key: TypeAlias = Any
"""The key of a result: a role ARN, or a tuple of a role ARN and a Region."""

_MAX_DEFAULT_WORKERS: Final = 32
_MIN_DEFAULT_WORKERS: Final = 4
_WORKERS_PER_CORE: Final = 80
"""One role takes about 12 ms of CPU. With more workers, the TLS handshakes of a small function take longer than their
limit of one second. More don't help either: with 0.07 of a core, 6 workers use all of it while AWS takes 0.8 s."""

_ENABLED: Final = "enabled"
# One host in a partition answers ListRegions, and a VPC may have no route to it. botocore's own limits would spend
# minutes on that.
_LIST_REGIONS_CONFIG: Final = Config(
    connect_timeout=1, read_timeout=5, retries={"total_max_attempts": 2, "mode": "standard"}
)


class _FanOutOptions(AssumeRoleOptions, total=False):
    """The arguments that both functions share, for their overloads. The docstrings below describe them."""

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
def assumed_sessions(  # noqa: PLR0913 - the arguments of the loop. The options are of each role
    role_arns: Iterable[str],
    *,
    allowed_roles: Iterable[str] | None = None,
    max_workers: int | None = None,
    return_exceptions: bool = False,
    context: object = None,
    progress: Progress | None = None,
    **options: Unpack[AssumeRoleOptions],
) -> dict[str, Any]:
    """Assume many roles at the same time. Return their sessions, with cached credentials, in the order of the ARNs.

    The failure of one role doesn't affect other roles. 50 roles take about as long as two in a row.

    Args:
        role_arns: ARNs of the roles. A role that is in the list twice is assumed once.
        allowed_roles: ARN patterns as in :func:`assume_role`, for roles that come from outside. A role that matches
            none of the patterns fails without a call to STS.
        max_workers: How many roles are assumed at the same time, 1 to 50. The default is 32, or fewer if the function
            has less than 0.4 of a core (710 MB): 6 with 128 MB.
        return_exceptions: Return the exception of a failed role as its result, instead of raising, like
            ``asyncio.gather``.
        context: The Lambda context. No attempt starts that can't end before the invocation does. Inside a handler
            under ``@assume_role`` the library knows the context.
        progress: Called in the calling thread with each ARN and its session or exception, as soon as there is one.
        options: Options of :func:`assumed_session`, for all roles. Each option except ``source_session`` and
            ``sts_config`` may be a callable that takes the role's ARN, for example if each account has its own
            external ID.

    Raises:
        PartialFailureError: At least one role failed. Its message has the diagnosis of each failed role, and its
            ``results`` contains the sessions of the other roles.
        ConfigurationError: An argument that applies to all roles is invalid.

    Example:
        >>> roles = [f"arn:aws:iam::{account}:role/Auditor" for account in ("222222222222", "333333333333")]
        >>> for role_arn, session in assumed_sessions(roles).items():
        ...     print(role_arn, len(session.client("s3").list_buckets()["Buckets"]))
        arn:aws:iam::222222222222:role/Auditor 0
        arn:aws:iam::333333333333:role/Auditor 0
    """
    try:
        loop = _new_loop(lambda session, _account_id: session, role_arns, None, allowed_roles, options)
    finally:
        # No frame of an error may contain an external ID.
        del options
    return loop.run(max_workers, context, progress, return_exceptions=return_exceptions)


@overload
def for_each_account(
    function: Callable[[boto3.Session, str], _Result],
    role_arns: Iterable[str],
    *,
    regions: None = ...,
    return_exceptions: Literal[False] = ...,
    **options: Unpack[_FanOutOptions],
) -> dict[str, _Result]: ...
@overload
def for_each_account(
    function: Callable[[boto3.Session, str], _Result],
    role_arns: Iterable[str],
    *,
    regions: None = ...,
    return_exceptions: bool,
    **options: Unpack[_FanOutOptions],
) -> dict[str, _Result | Exception]: ...
@overload
def for_each_account(
    function: Callable[[boto3.Session, str], _Result],
    role_arns: Iterable[str],
    *,
    regions: Iterable[str],
    return_exceptions: Literal[False] = ...,
    **options: Unpack[_FanOutOptions],
) -> dict[tuple[str, str], _Result]: ...
@overload
def for_each_account(
    function: Callable[[boto3.Session, str], _Result],
    role_arns: Iterable[str],
    *,
    regions: Iterable[str],
    return_exceptions: bool,
    **options: Unpack[_FanOutOptions],
) -> dict[tuple[str, str], _Result | Exception]: ...
def for_each_account(  # noqa: PLR0913 - the arguments of assumed_sessions, the function, and the Regions
    function: Callable[[boto3.Session, str], Any],
    role_arns: Iterable[str],
    *,
    regions: Iterable[str] | None = None,
    allowed_roles: Iterable[str] | None = None,
    max_workers: int | None = None,
    return_exceptions: bool = False,
    context: object = None,
    progress: Progress | None = None,
    **options: Unpack[AssumeRoleOptions],
) -> dict[Any, Any]:
    """Call ``function(session, account_id)`` for each role, in threads. Return its results by role ARN.

    With ``regions`` the function is called for each role in each Region, and the keys of the results are tuples
    ``(role_arn, region)``. STS is called once for each role, however many Regions there are.

    If ``function`` raises, that is a failure of this role (in this Region) and doesn't affect other roles. The same is
    true if Python can't start a thread: roles that couldn't start fail, and finished results are kept.

    Args:
        function: Called in a thread with a session that has cached credentials, and with the 12 digits of the account.
            The session's Region is ``session.region_name``. A call that has begun is not interrupted.
        role_arns: ARNs of the roles. The function is called once for a role that is in the list twice.
        regions: Names of Regions, or ``"enabled"`` for the Regions that each account has enabled. The role then needs
            permission for ``account:ListRegions`` or ``ec2:DescribeRegions``. A role whose Regions are unknown, because
            it can't be assumed or has neither permission, fails under the key ``(role_arn, "enabled")``.
        allowed_roles: As in :func:`assumed_sessions`, as are all arguments that follow.
        max_workers: How many calls run at the same time, 1 to 50. :func:`assumed_sessions` describes the default.
        return_exceptions: Return the exception of a failed call as its result, instead of raising.
        context: The Lambda context. No call starts that can't end before the invocation does.
        progress: Called in the calling thread with each key and its result or exception, as soon as there is one.
        options: Options of :func:`assumed_session`, for all roles. Most may be a callable that takes the role's ARN.

    Raises:
        PartialFailureError: At least one call failed. The exception contains the results of the other calls.
        ConfigurationError: An argument that applies to all roles is invalid.

    Example:
        >>> def count_buckets(session, account_id):
        ...     return len(session.client("s3").list_buckets()["Buckets"])
        >>> roles = [f"arn:aws:iam::{account}:role/Auditor" for account in ("222222222222", "333333333333")]
        >>> list(for_each_account(count_buckets, roles).values())
        [0, 0]
    """
    try:
        loop = _new_loop(function, role_arns, regions, allowed_roles, options)
    finally:
        del options
    return loop.run(max_workers, context, progress, return_exceptions=return_exceptions)


class _Outcome(NamedTuple):
    """The result of a task, or its error, for one key or for all keys of a role."""

    keys: list[_Key]
    result: Any = None
    error: BaseException | None = None


class _Task(NamedTuple):
    """A call for one role, or for one role in one Region."""

    role_arn: str
    region: str | None = None


class _Loop:
    """Threads that run tasks. The first task of a role may add a task for each of its Regions.

    Not a ``concurrent.futures`` executor: if no thread starts for a task, its ``submit`` raises and leaves the task in
    the queue, where another thread may run it. It also can't be imported while the interpreter exits.
    """

    def __init__(
        self,
        function: Callable[[boto3.Session, str], Any],
        role_arns: Iterable[str],
        regions: Iterable[str] | None,
        allowed_roles: Iterable[str] | None,
        options: AssumeRoleOptions,
    ) -> None:
        if not callable(function):
            raise ConfigurationError("function", f"must be a function, not {function!r}")
        if inspect.iscoroutinefunction(function):
            raise ConfigurationError("function", "must not be async, because the library can't await its result")
        roles, names = _unique_role_arns(role_arns), _unique_regions(regions, options)
        self._function = function
        self._allowed = AllowedRoles(allowed_roles)
        self._options = validate_options(options, others=[*_FanOutOptions.__annotations__, "regions"])
        self._has_regions = names is not None
        self._lists_regions = names == [_ENABLED]
        self._keys: dict[str, list[_Key]] = {
            role_arn: [role_arn] if names is None else [(role_arn, name) for name in names] for role_arn in roles
        }
        self._options_of_role: dict[str, dict[str, Any]] = {}
        self._context = contextvars.Context()
        self._outcomes: queue.SimpleQueue[_Outcome | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        # The lock of this condition guards the three attributes that follow.
        self._changed = threading.Condition()
        self._tasks = deque(_Task(role_arn) for role_arn, keys in self._keys.items() if keys)
        self._unfinished = len(self._tasks)
        self._is_stopped = False

    def run(
        self, max_workers: int | None, context: object, progress: Progress | None, *, return_exceptions: bool
    ) -> dict[_Key, Any]:
        """Run all tasks. Return the results by key, in the order of the roles."""
        _check_arguments(max_workers, return_exceptions, context, progress)
        outcomes: dict[_Key, Any] = {}
        failures: dict[_Key, Exception] = {}
        token = current_context.set(current_context.get() if context is None else context)
        try:
            # Each thread sees the invocation, and the context variables of tracing libraries.
            self._context = contextvars.copy_context()
            self._find_caller_credentials()
            self._start(max_workers or default_workers())
            for outcome in iter(self._outcomes.get, None):
                if outcome.error is not None and not isinstance(outcome.error, Exception):
                    raise outcome.error
                for key in outcome.keys:
                    if outcome.error is None:
                        outcomes[key] = outcome.result
                    else:
                        outcomes[key] = failures[key] = outcome.error
                    self._log(key, outcome, len(outcomes))
                    if progress is not None:
                        progress(key, outcomes[key])
        finally:
            # If an interrupt or the callback ends the loop, calls that run end, and no other call starts.
            self._stop()
            current_context.reset(token)
        in_order = [key for keys in self._keys.values() for key in keys]
        if failures and not return_exceptions:
            failed = {key: failures[key] for key in in_order if key in failures}
            results = {key: outcomes[key] for key in in_order if key not in failures}
            raise PartialFailureError(failed, results) from next(iter(failed.values()))
        return {key: outcomes[key] for key in in_order}

    def _log(self, key: _Key, outcome: _Outcome, finished: int) -> None:
        if _logger.isEnabledFor(logging.DEBUG):
            label = key if isinstance(key, str) else " in ".join(key)
            status = "done" if outcome.error is None else "failed"
            _logger.debug("%s %s (%d of %d)", label, status, finished, sum(map(len, self._keys.values())))

    def _find_caller_credentials(self) -> None:
        """Have the source session find its credentials before the threads start.

        boto3 has no lock for this. Each thread would start the ``credential_process`` or ask for an MFA code.
        """
        # If the source session can't find any, each role fails with its own diagnosis.
        with suppress(Exception):
            source = self._options.get("source_session")
            (_sessions.default_cache.default_source() if source is None else source).get_credentials()

    def _start(self, max_workers: int) -> None:
        """Start the threads. If Python can start only some, they do all the work. Without any, all tasks fail."""
        if not self._tasks:
            self._outcomes.put(None)
            return
        # If each account lists its Regions, the number of calls is unknown.
        count = max_workers if self._lists_regions else min(max_workers, sum(map(len, self._keys.values())))
        work = in_trace(self._work)
        for number in range(count):
            thread = threading.Thread(target=work, name=f"xacct_lambda_{number}", daemon=False)
            try:
                thread.start()
            except (RuntimeError, MemoryError) as error:
                if not self._threads:
                    self._fail_all(error)
                break
            self._threads.append(thread)

    def _fail_all(self, cause: Exception) -> None:
        for role_arn in [task.role_arn for task in self._tasks]:
            problem = f"not started, because Python can't start a thread ({str(cause) or type(cause).__name__})"
            error = unavailable(role_arn, "NoThread", problem)
            error.__cause__ = cause
            self._outcomes.put(_Outcome(self._keys[role_arn], error=error))
        self._outcomes.put(None)

    def _stop(self) -> None:
        """Start no further task, and wait for the calls that run."""
        with self._changed:
            self._is_stopped = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (task := self._next()) is not None:
            try:
                # Each call has its own copy, because two threads can't enter one context.
                outcome = self._context.copy().run(self._run_task, task)
            except BaseException as error:  # noqa: BLE001 - the calling thread raises an interrupt
                keys = self._keys[task.role_arn] if task.region is None else [(task.role_arn, task.region)]
                outcome = _Outcome(keys, error=error)
            self._finish(outcome)

    def _next(self) -> _Task | None:
        """Return the next task, or None if no task will follow."""
        with self._changed:
            while not self._tasks and self._unfinished and not self._is_stopped:
                self._changed.wait()
            return self._tasks.popleft() if self._tasks and not self._is_stopped else None

    def _finish(self, outcome: _Outcome) -> None:
        self._outcomes.put(outcome)
        with self._changed:
            self._unfinished -= 1
            if not self._unfinished:
                self._outcomes.put(None)
                self._changed.notify_all()

    def _run_task(self, task: _Task) -> _Outcome:
        if task.region is not None:
            session = self._session(task.role_arn, task.region)
            return _Outcome([(task.role_arn, task.region)], self._call(session, task.role_arn))
        role_arn = self._allowed.check(task.role_arn)
        if not self._has_regions:
            session = session_from_options(role_arn, self._options, role_arn)
            return _Outcome([role_arn], self._call(session, role_arn))
        self._add_tasks(role_arn, self._assume_for_regions(role_arn))
        return _Outcome([])

    def _assume_for_regions(self, role_arn: str) -> list[str]:
        """Assume the role once. Return the Regions in which to call the function."""
        # Callables are called once for each role: if their results changed between Regions, so would the STS request.
        self._options_of_role[role_arn] = _role_options(self._options, role_arn)
        if not self._lists_regions:
            regions = [region for _, region in self._keys[role_arn]]
            _load_credentials(self._session(role_arn, regions[0]))
            return regions
        session = self._session(role_arn, None)
        _load_credentials(session)
        _check_time(role_arn)
        return _enabled_regions(session, role_arn)

    def _add_tasks(self, role_arn: str, regions: list[str]) -> None:
        self._keys[role_arn] = [(role_arn, region) for region in regions]
        with self._changed:
            # At the front, to finish one account after the other: an interrupted loop leaves few accounts half done.
            self._tasks.extendleft(_Task(role_arn, region) for region in reversed(regions))
            self._unfinished += len(regions)
            self._changed.notify_all()

    def _session(self, role_arn: str, region_name: str | None) -> boto3.Session:
        return session_from_options(role_arn, self._options_of_role[role_arn] | {"region_name": region_name})

    def _call(self, session: boto3.Session, role_arn: str) -> Any:
        _load_credentials(session)
        _check_time(role_arn)
        return self._function(session, role_arn_parts(role_arn).account_id)


# No frame of an error may contain an external ID.
_new_loop = hide_arguments(_Loop)


@hide_arguments
def _role_options(options: dict[str, Any], role_arn: str) -> dict[str, Any]:
    """Return the options of one role: callables are called, and their values are validated."""
    values: Any = {name: value(role_arn) if callable(value) else value for name, value in options.items()}
    return validate_options(values)


def _load_credentials(session: boto3.Session) -> None:
    session.get_credentials().get_frozen_credentials()  # type: ignore[union-attr] # an assumed session has some


def _check_time(role_arn: str) -> None:
    if remaining_seconds() == 0:
        raise deadline_error(role_arn)


def _enabled_regions(session: boto3.Session, role_arn: str) -> list[str]:
    """Return the Regions that the session's account has enabled, in alphabetical order."""
    client: Any = session.client("account", config=_LIST_REGIONS_CONFIG)
    try:
        pages = client.get_paginator("list_regions").paginate(RegionOptStatusContains=["ENABLED", "ENABLED_BY_DEFAULT"])
        return sorted(region["RegionName"] for page in pages for region in page["Regions"])
    except XacctLambdaError:
        raise
    except Exception:  # noqa: BLE001 - nothing is lost: see below
        # Most often the role lacks the permission, or the VPC has no route to the one Region that answers. If the other
        # service doesn't answer either, Python raises its error with this one as its context.
        _check_time(role_arn)
        ec2: Any = session.client("ec2", config=_LIST_REGIONS_CONFIG)
        return sorted(region["RegionName"] for region in ec2.describe_regions()["Regions"])


def default_workers() -> int:
    """Return the number of roles to assume at the same time, by the CPU that this process may use."""
    return min(max(round(_WORKERS_PER_CORE * available_cores()), _MIN_DEFAULT_WORKERS), _MAX_DEFAULT_WORKERS)


def _check_arguments(max_workers: object, return_exceptions: object, context: object, progress: object) -> None:
    if max_workers is not None:
        check_int("max_workers", max_workers, range(1, MAX_POOL_CONNECTIONS + 1))
    if not isinstance(return_exceptions, bool):
        raise ConfigurationError("return_exceptions", f"must be True or False, not {return_exceptions!r}")
    if context is not None and not hasattr(lambda_context(context), "get_remaining_time_in_millis"):
        raise ConfigurationError("context", f"must be a Lambda context, not {type(context).__name__}")
    if progress is not None and not callable(progress):
        raise ConfigurationError("progress", f"must be a function, not {progress!r}")


def _unique_role_arns(role_arns: Iterable[str]) -> list[str]:
    arns = None if isinstance(role_arns, str) or not isinstance(role_arns, Iterable) else list(role_arns)
    if arns is None or not all(isinstance(role_arn, str) for role_arn in arns):
        raise ConfigurationError("role_arns", "must be a list of ARNs")
    return list(dict.fromkeys(arns))


def _unique_regions(regions: Iterable[str] | None, options: AssumeRoleOptions) -> list[str] | None:
    """Return the names of the Regions, or ``["enabled"]`` if each account lists its own."""
    if regions is None:
        return None
    if options.get("region_name") is not None:
        raise ConfigurationError("region_name", "can't be combined with regions, which sets the Region of each session")
    if regions == _ENABLED:
        return [_ENABLED]
    names = None if isinstance(regions, str) or not isinstance(regions, Iterable) else list(regions)
    if names is None or not all(isinstance(region, str) for region in names):
        raise ConfigurationError("regions", f"must be a list of Regions or 'enabled', not {truncated_repr(regions)}")
    for region in names:
        check_region("regions", region)
        if region == _ENABLED:
            raise ConfigurationError("regions", "'enabled' in a list is not a Region. Pass regions='enabled'")
    return list(dict.fromkeys(names))
