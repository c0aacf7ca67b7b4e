"""Hooks that report what the credential cache does: AssumeRole attempts, refusals, rejections, and evictions.

Hooks are configuration. :func:`~xacct_lambda.cache_clear` keeps them, and so do a fork and a SnapStart snapshot.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

from xacct_lambda.exceptions import ConfigurationError

__all__ = ["CredentialEvent", "CredentialEventKind", "Hook", "get_hooks", "set_hooks"]

_logger = logging.getLogger(__name__)

CredentialEventKind: TypeAlias = Literal["assume_role", "refusal", "rejection", "eviction"]
"""The values of :attr:`CredentialEvent.kind`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CredentialEvent:
    """One thing that happened to the credentials of one role. No field contains a secret."""

    kind: CredentialEventKind
    """``"assume_role"``: an AssumeRole attempt ended. ``error_code`` is ``None`` if it succeeded.

    ``"refusal"``: STS refused the role, and no valid credentials are cached. It follows the event of the attempt. It is
    also published, without an attempt, for each request that fails because the cache remembers the refusal.

    ``"rejection"``: a service rejected credentials before they expired, and the cache dropped them.

    ``"eviction"``: the cache was full and dropped the credentials of the role that was unused for the longest time."""
    role_arn: str
    """ARN of the role."""
    duration_seconds: float | None = None
    """Duration of the AssumeRole call in seconds. ``None`` if the event has no call."""
    waited_seconds: float = 0.0
    """Seconds that a request waited for the result. 0 for a refresh in the background."""
    error_code: str | None = None
    """Error code of STS or of the service, or the name of botocore's exception if the service didn't answer. ``None``
    for a success."""
    expires_at: datetime | None = None
    """Time at which the new, rejected, or evicted credentials expire, with a time zone (UTC). ``None`` if the event has
    no credentials."""
    session_token_utilization: int | None = None
    """How much of the size limit the session token uses, in percent (0 to 100). ``None`` if STS doesn't report it, or
    if botocore is older than this field."""


Hook: TypeAlias = Callable[[CredentialEvent], object]
"""The type of a hook. The library ignores what a hook returns."""


class _Thread(threading.local):
    """Whether a hook runs in this thread."""

    in_hook = False


_current_thread = _Thread()
_hooks: tuple[Hook, ...] = ()
# The positions of hooks that have raised. set_hooks() replaces the set, so that the new hooks start without failures.
_failed_positions: set[int] = set()


def set_hooks(hooks: Iterable[Hook]) -> None:
    """Set the hooks, which replace the earlier ones. An empty list removes them.

    The library calls each hook with a :class:`CredentialEvent`, in the order of the list and outside all locks. The
    call happens in the thread that made the AssumeRole call, so the request of that thread waits for the hook: write a
    line or add to a counter, and return. A hook that raises changes nothing, and its first exception is logged at
    DEBUG. Requests that a hook makes publish no events.

    Args:
        hooks: Functions that accept one argument, the event.

    Raises:
        ConfigurationError: ``hooks`` isn't a list of functions, or contains an ``async def`` function.

    Example:
        >>> from xacct_lambda.instrumentation import CredentialEvent, set_hooks
        >>> def print_failures(event: CredentialEvent) -> None:
        ...     if event.error_code:
        ...         print(event.kind, event.role_arn, event.error_code)
        >>> set_hooks([print_failures])
        >>> set_hooks([])
    """
    global _failed_positions, _hooks  # noqa: PLW0603 - the one address of the hooks, which publish() reads at each call
    new_hooks = None if callable(hooks) or not isinstance(hooks, Iterable) else tuple(hooks)
    if new_hooks is None or not all(callable(hook) for hook in new_hooks):
        raise ConfigurationError("hooks", "must be a list of functions that accept a CredentialEvent")
    if any(map(_is_async, new_hooks)):
        raise ConfigurationError("hooks", "must not contain an async function, because the library can't await it")
    _failed_positions = set()
    _hooks = new_hooks


def _is_async(hook: Any) -> bool:
    # The second check finds an instance whose class defines an async __call__.
    return inspect.iscoroutinefunction(hook) or inspect.iscoroutinefunction(type(hook).__call__)


def get_hooks() -> tuple[Hook, ...]:
    """Return the hooks that are set.

    Example:
        >>> from xacct_lambda.instrumentation import get_hooks
        >>> get_hooks()
        ()
    """
    return _hooks


def publish(  # noqa: PLR0913 - one argument for each field of the event
    kind: CredentialEventKind,
    role_arn: str,
    *,
    duration_seconds: float | None = None,
    waited_seconds: float = 0.0,
    error_code: str | None = None,
    expires_at: float | None = None,
    session_token_utilization: int | None = None,
) -> None:
    """Call each hook with an event. Call this outside all locks, and after the cache has recorded the result.

    Args:
        kind: As in :class:`CredentialEvent`, as are the arguments that follow.
        role_arn: ARN of the role.
        duration_seconds: Duration of the AssumeRole call.
        waited_seconds: Time that a request waited.
        error_code: Error code, or the name of botocore's exception.
        expires_at: Seconds since the epoch, as the cache counts them.
        session_token_utilization: As STS reports it.
    """
    hooks, failed = _hooks, _failed_positions
    # A hook may use the role whose event it reports. If that failed again, the hook would call itself without end.
    if not hooks or _current_thread.in_hook:
        return
    event = CredentialEvent(
        kind=kind,
        role_arn=role_arn,
        duration_seconds=duration_seconds,
        waited_seconds=waited_seconds,
        error_code=error_code,
        expires_at=None if expires_at is None else datetime.fromtimestamp(expires_at, UTC),
        session_token_utilization=session_token_utilization,
    )
    _current_thread.in_hook = True
    try:
        for position, hook in enumerate(hooks):
            try:
                hook(event)
            except Exception as error:  # noqa: BLE001 - a hook's error must not become a failure of the role
                if position not in failed:
                    failed.add(position)
                    # The class name only: the message of somebody else's error may contain a secret.
                    _logger.debug("hook %d of set_hooks() raised %s", position, type(error).__name__)
    finally:
        _current_thread.in_hook = False
