"""The current Lambda invocation: its context, the time it has left, and threads that belong to it."""

from __future__ import annotations

import contextvars
import sys
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, Final

_DEADLINE_MARGIN: Final = 0.25
"""Seconds at the end of an invocation that are reserved for reporting an error."""

current_context: ContextVar[Any] = ContextVar("xacct_lambda_invocation", default=None)
"""The Lambda context of the event that is being handled. The decorator sets it."""


def lambda_context(context: object) -> object:
    """Return Lambda's own context for a handler's context argument; a DurableContext contains one."""
    return getattr(context, "lambda_context", context)


def remaining_seconds() -> float | None:
    """Return the seconds that the invocation has left, less a margin for reporting an error; None if unknown."""
    remaining_time = getattr(lambda_context(current_context.get()), "get_remaining_time_in_millis", None)
    milliseconds = remaining_time() if callable(remaining_time) else None
    # A Mock in a test has every method, but its methods don't return numbers.
    return max(milliseconds / 1000 - _DEADLINE_MARGIN, 0) if isinstance(milliseconds, int | float) else None


def start_thread(task: Callable[[], None]) -> None:
    """Run a task in its own thread, as part of the caller's invocation and trace."""
    run = contextvars.copy_context().run
    xray = sys.modules.get("aws_xray_sdk.core")
    # The X-Ray SDK keeps its current segment in a thread-local variable, which copy_context() doesn't copy.
    entity = xray and xray.xray_recorder.get_trace_entity()

    def run_traced() -> None:
        if xray and entity:
            xray.xray_recorder.set_trace_entity(entity)
        run(task)

    try:
        threading.Thread(target=run_traced, name="xacct_lambda-assume-role", daemon=True).start()
    except RuntimeError:
        # Python can't start threads during interpreter shutdown (atexit handlers). Run the task in this thread.
        run_traced()
