"""The current Lambda invocation: its context, its remaining time, and threads inside and outside of it."""

from __future__ import annotations

import contextvars
import sys
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar
from typing import Any, Final

_DEADLINE_MARGIN: Final = 0.25
"""Seconds at the end of an invocation that are reserved for reporting an error."""

_REMAINING_TIME: Final = "get_remaining_time_in_millis"
_CONTEXT_NAMES: Final = ("context", "lambda_context")
"""Names of the parameter in handlers, and in record handlers of Powertools."""
_BACKGROUND_DELAY: Final = 0.002
_THREAD_NAME: Final = "xacct_lambda-assume-role"

current_context: ContextVar[Any] = ContextVar("xacct_lambda_invocation", default=None)
"""The Lambda context of the event that is being handled. The decorator sets it."""


def lambda_context(context: object) -> object:
    """Return Lambda's own context for a handler's context argument, which may be a DurableContext that contains it."""
    return getattr(context, "lambda_context", context)


def find_context(args: tuple[object, ...], kwargs: Mapping[str, object]) -> object | None:
    """Return the Lambda context among a handler's arguments, by position or by keyword. None if it isn't there.

    A function that a handler calls often gets no context: a route, a record handler, a tool of an agent.
    """
    for value in reversed(args):
        if _is_context(value):
            return value
    return next((kwargs[name] for name in _CONTEXT_NAMES if name in kwargs and _is_context(kwargs[name])), None)


def _is_context(value: object) -> bool:
    try:
        method = getattr(value, _REMAINING_TIME, None) or getattr(lambda_context(value), _REMAINING_TIME, None)
    except Exception:  # noqa: BLE001 - an object that computes its attributes may fail in any way, and is no context
        return False
    return callable(method)


class Invocation(AbstractContextManager[None]):
    """A context manager in which a Lambda context is the current one. It may be entered again after its end."""

    def __init__(self, context: object) -> None:
        self._context = context

    def __enter__(self) -> None:
        self._token = current_context.set(self._context)

    def __exit__(self, *_: object) -> None:
        current_context.reset(self._token)


class InvocationGenerator(Generator[Any, Any, Any]):
    """A generator that sets the current invocation in each of its steps, and resets it after the step."""

    def __init__(self, generator: Generator[Any, Any, Any], invocation: Invocation) -> None:
        self._generator = generator
        self._invocation = invocation

    def send(self, value: Any) -> Any:
        with self._invocation:
            return self._generator.send(value)

    def throw(self, *error: Any) -> Any:
        with self._invocation:
            return self._generator.throw(*error)

    def close(self) -> None:
        with self._invocation:
            self._generator.close()


def async_generator_function(
    start: Callable[..., AsyncGenerator[Any, Any]], invocation: AbstractContextManager[None]
) -> Callable[..., AsyncGenerator[Any, Any]]:
    """Return an asynchronous generator function that runs each step of the started generator in the invocation."""

    async def generate(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        generator = start(*args, **kwargs)
        step: Callable[[Any], Awaitable[Any]] = generator.asend
        value: Any = None
        while True:
            try:
                with invocation:
                    item = await step(value)
            except StopAsyncIteration:
                return
            try:
                value = yield item
                step = generator.asend
            except GeneratorExit:
                with invocation:
                    await generator.aclose()
                raise
            except BaseException as error:  # noqa: BLE001 - the started generator gets it, and decides what to do
                step, value = generator.athrow, error

    return generate


def remaining_seconds() -> float | None:
    """Return the seconds that the invocation has left, less a margin for reporting an error. None if unknown."""
    remaining_time = getattr(lambda_context(current_context.get()), _REMAINING_TIME, None)
    milliseconds = remaining_time() if callable(remaining_time) else None
    # A Mock in a test has every method, but its methods don't return numbers.
    return max(milliseconds / 1000 - _DEADLINE_MARGIN, 0) if isinstance(milliseconds, int | float) else None


def start_thread(task: Callable[[], None]) -> None:
    """Run a task in its own thread, as part of the caller's invocation and trace.

    Raises:
        RuntimeError: No thread is available, as during interpreter shutdown.
    """
    run = contextvars.copy_context().run
    threading.Thread(target=in_trace(lambda: run(task)), name=_THREAD_NAME, daemon=True).start()


def in_trace(task: Callable[[], None]) -> Callable[[], None]:
    """Return the task for another thread, as part of the caller's X-Ray segment."""
    xray = sys.modules.get("aws_xray_sdk.core")
    # The X-Ray SDK keeps its current segment in a thread-local variable, which copy_context() doesn't copy.
    try:
        entity = xray and xray.xray_recorder.get_trace_entity()
    except Exception:  # noqa: BLE001 - it raises without a segment if so configured, which is no reason to fail
        entity = None

    def run_traced() -> None:
        if xray and entity:
            xray.xray_recorder.set_trace_entity(entity)
        task()

    return run_traced


def start_background_thread(task: Callable[[], None]) -> None:
    """Run a task in its own thread that can outlive the invocation, and so belongs to no invocation and no trace.

    With the caller's trace, a task that ends after its event would lose the user's whole handler subsegment. With the
    caller's context, a chained role would fail because the invocation has no time left.

    Raises:
        RuntimeError: No thread is available, as during interpreter shutdown.
    """
    run = contextvars.Context().run

    def run_later() -> None:
        # Without the delay, the new thread would take the interpreter from the caller for 5 ms.
        time.sleep(_BACKGROUND_DELAY)
        run(task)

    threading.Thread(target=run_later, name=_THREAD_NAME, daemon=True).start()
