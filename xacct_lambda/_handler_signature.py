"""A handler's signature: the keyword arguments that it accepts, and the parameters that its callers see."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

from xacct_lambda.exceptions import ConfigurationError


def public_signature(handler: Callable[..., Any], injected: Mapping[str, str]) -> inspect.Signature:
    """Return the handler's signature as its callers see it. Reject a handler that can't accept what is injected.

    Args:
        handler: The handler.
        injected: The decorator's argument that asks for each injected parameter, by the name of the parameter.
    """
    signature = inspect.signature(handler)
    described = describe(handler)
    parameters = signature.parameters
    takes_any = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values())
    for name, argument in injected.items():
        if name not in parameters and not takes_any:
            raise ConfigurationError(
                argument,
                f"{described} has no parameter {name!r}: add it, for example (event, context, *, {name})",
            )
        if name in parameters and not _accepts_by_keyword(name, signature, injected):
            form = f"(event, context, *, {name})"
            raise ConfigurationError(
                argument, f"{described} can't accept {name!r} by keyword: put it after a *, for example {form}"
            )
        _reject_dropped_keyword(name, argument, handler)
    public = [parameter for name, parameter in parameters.items() if name not in injected]
    return _evaluate_annotations(signature.replace(parameters=public), handler)


def describe(handler: Callable[..., Any]) -> str:
    """Return the name of a handler with its signature, for a message."""
    function = handler.func if isinstance(handler, functools.partial) else handler
    return f"{getattr(function, '__qualname__', type(function).__name__)}{inspect.signature(handler)}"


def _accepts_by_keyword(name: str, signature: inspect.Signature, injected: Iterable[str]) -> bool:
    """Return whether a parameter can be passed by keyword if all that aren't injected are passed by position."""
    parameters = signature.parameters
    if parameters[name].kind is inspect.Parameter.KEYWORD_ONLY:
        return True
    by_position = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    others = [other for other in parameters if parameters[other].kind in by_position and other not in set(injected)]
    has_more = any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters.values())
    # Lambda passes two arguments also to a handler that declares only the event.
    arguments = [None] * (len(others) + (len(others) == 1) + has_more)
    try:
        signature.bind_partial(*arguments, **{name: None})
    except TypeError:
        return False
    return True


def _reject_dropped_keyword(name: str, argument: str, handler: Callable[..., Any]) -> None:
    """Reject a decorator below that shows the handler's signature (functools.wraps) and accepts fewer keywords."""
    level: Any = handler
    while level is not None:
        function = level if inspect.isroutine(level) or isinstance(level, functools.partial) else type(level).__call__
        if not accepts_keyword(function, name):
            code = getattr(function, "__code__", None)
            place = f" ({code.co_qualname}, line {code.co_firstlineno} of its file)" if code else ""
            raise ConfigurationError(
                argument,
                f"{describe(handler)} has a decorator{place} that doesn't pass {name!r} on: let it accept and pass on "
                "**kwargs, or put @assume_role below it, directly above the function",
            )
        wrapped = getattr(level, "__wrapped__", None)
        level = level.func if wrapped is None and isinstance(level, functools.partial) else wrapped


def accepts_keyword(function: Callable[..., Any], name: str) -> bool:
    """Return whether a function has a parameter of this name, or accepts any keyword."""
    try:
        parameters = inspect.signature(function, follow_wrapped=False).parameters
    except (TypeError, ValueError):
        # A callable of a C library may have no signature.
        return True
    return name in parameters or any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _evaluate_annotations(signature: inspect.Signature, handler: Callable[..., Any]) -> inspect.Signature:
    """Return the signature with types for the strings of ``from __future__ import annotations``.

    FastAPI and Powertools look the names up in the globals of the function that they get, which is the wrapper.
    """
    function = inspect.unwrap(handler.func if isinstance(handler, functools.partial) else handler)
    names = getattr(function, "__globals__", None) or getattr(type(function).__call__, "__globals__", {})

    def evaluate(annotation: Any) -> Any:
        if isinstance(annotation, str):
            # A name that is imported for type checkers only, or defined later, stays a string.
            with suppress(Exception):
                return eval(annotation, names)  # noqa: S307 - text of the handler's own module
        return annotation

    return signature.replace(
        parameters=[
            parameter.replace(annotation=evaluate(parameter.annotation)) for parameter in signature.parameters.values()
        ],
        return_annotation=evaluate(signature.return_annotation),
    )
