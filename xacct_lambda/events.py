"""Callables for ``@assume_role`` that read the common places of an event and its context.

>>> @assume_role(
...     role_for(
...         "arn:aws:iam::{account}:role/tenant/{tenant}",
...         account=eventbridge_account(),
...         tenant=tenant_id(),
...     ),
...     allowed_roles=["arn:aws:iam::222222222222:role/tenant/*"],
...     clients=["s3"],
... )
... def lambda_handler(event, context, *, s3): ...

An event is input from outside. Each callable returns a string of the characters that IAM allows in a name, or raises
:class:`~xacct_lambda.exceptions.ConfigurationError`. The role must still match ``allowed_roles``.

The callables take the handler's arguments. The last two are the event and the context. A handler of one argument, such
as a record handler, has no context. A field is a key of a mapping, or an attribute of an object (a dataclass or a
pydantic model).
"""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Mapping
from typing import Any, Final

from xacct_lambda._invocation import lambda_context
from xacct_lambda._request import role_arn_parts
from xacct_lambda.exceptions import ConfigurationError

__all__ = ["api_caller_account", "event_field", "eventbridge_account", "role_for", "tenant_id"]

# Without slashes and colons, a value can't add parts to the path or to the ARN.
_NAME: Final = re.compile(r"[\w+=,.@-]{1,128}", re.ASCII)
_ACCOUNT: Final = re.compile(r"[0-9]{12}", re.ASCII)

FromEvent = Callable[..., str]


def event_field(path: str) -> FromEvent:
    """Return a callable that reads a field of the event.

    To read a key with a dot in it, or an item of a list, write your own callable.

    Args:
        path: Keys with dots between them, for example ``detail.tenant``.

    Raises:
        ConfigurationError: Here: the path has no key, or an empty one. At the call: the event doesn't have the field,
            or its value is not 1 to 128 letters, digits, or ``_+=,.@-``.

    Example:
        >>> tenant = event_field("detail.tenant")
        >>> tenant({"detail": {"tenant": "blue"}}, None)
        'blue'
    """
    keys = path.split(".") if isinstance(path, str) else []
    if not keys or "" in keys:
        raise ConfigurationError(
            "path", f"{path!r} is not a path: write keys with dots between them, for example detail.tenant"
        )
    return _reads(lambda event, _: _name(f"event field {path!r}", _nested(event, keys)))


def tenant_id() -> FromEvent:
    """Return a callable that reads ``context.tenant_id``, which Lambda sets in tenant isolation mode.

    See https://docs.aws.amazon.com/lambda/latest/dg/tenant-isolation.html.

    Raises:
        ConfigurationError: At the call: the context has no tenant ID, or one that is not 1 to 128 letters, digits, or
            ``_+=,.@-``.

    Example:
        >>> from xacct_lambda.testing import LambdaContext
        >>> tenant_id()({}, LambdaContext(tenant_id="blue"))
        'blue'
    """
    return _reads(lambda _, context: _name("context.tenant_id", getattr(lambda_context(context), "tenant_id", None)))


def eventbridge_account() -> FromEvent:
    """Return a callable that reads the account of an EventBridge event, which EventBridge itself sets.

    Raises:
        ConfigurationError: At the call: the event's ``account`` is not 12 digits.

    Example:
        >>> eventbridge_account()({"account": "222222222222", "detail": {}}, None)
        '222222222222'
    """
    return _reads(lambda event, _: _account("event field 'account'", _nested(event, ["account"])))


def api_caller_account() -> FromEvent:
    """Return a callable that reads the account of an API's caller, as API Gateway or a function URL has verified it.

    The event has it if IAM authorizes the call: in ``requestContext.identity.accountId`` for REST APIs, and in
    ``requestContext.authorizer.iam.accountId`` for HTTP APIs and function URLs. The field
    ``requestContext.accountId`` is the API's own account, and is not read.

    Raises:
        ConfigurationError: At the call: the event has neither field, or both, or the value is not 12 digits.

    Example:
        >>> event = {"requestContext": {"authorizer": {"iam": {"accountId": "222222222222"}}}}
        >>> api_caller_account()(event, None)
        '222222222222'
    """
    places = (["requestContext", "identity", "accountId"], ["requestContext", "authorizer", "iam", "accountId"])

    def read(event: object, _: object) -> str:
        accounts = [value for keys in places if (value := _nested(event, keys)) is not None]
        return _account(
            "the caller's account in the event's requestContext", accounts[0] if len(accounts) == 1 else None
        )

    return _reads(read)


def role_for(template: str, **values: FromEvent) -> FromEvent:
    """Return a callable that builds a role ARN from values of the event.

    Args:
        template: A role ARN with names in braces, such as ``arn:aws:iam::{account}:role/tenant/{tenant}``.
        values: A callable for each name, from this module or your own. The library checks the value of either.

    Raises:
        ConfigurationError: Here: the template is not a role ARN, or its names differ from the names of ``values``. At
            the call: a value is not 1 to 128 letters, digits, or ``_+=,.@-``, or its callable raises this error.

    Example:
        >>> role_arn = role_for("arn:aws:iam::222222222222:role/{tenant}", tenant=event_field("tenant"))
        >>> role_arn({"tenant": "blue"}, None)
        'arn:aws:iam::222222222222:role/blue'
    """
    try:
        fields = [(name, spec, how) for _, name, spec, how in string.Formatter().parse(template) if name is not None]
    except (TypeError, ValueError) as error:
        raise ConfigurationError("template", f"{template!r} is not a role ARN with names in braces: {error}") from error
    names = {name for name, _, _ in fields}
    if any(spec or how for _, spec, how in fields):
        raise ConfigurationError("template", f"{template!r}: put only names in braces, without ! and :")
    for name, value in values.items():
        if not callable(value):
            raise ConfigurationError(
                name, "must be a callable, for example from xacct_lambda.events. Put text into the template"
            )
        if value in _FACTORIES:
            raise ConfigurationError(name, f"call the function: {value.__name__}(…)")
    if names != values.keys():
        raise ConfigurationError(
            "template", f"{template!r} and the values name different things: {names ^ values.keys()}"
        )
    role_arn_parts(template.format(**dict.fromkeys(names, "000000000000")))

    def role_arn(*arguments: Any) -> str:
        return template.format(
            **{name: _name(f"{name!r} of a role", value(*arguments)) for name, value in values.items()}
        )

    return role_arn


def _reads(read: Callable[[Any, Any], str]) -> FromEvent:
    """Return a callable over a handler's positional arguments: the last two, or the only one without a context."""

    def read_last(*arguments: Any) -> str:
        if not arguments:
            raise ConfigurationError("event", "the handler was called without an event")
        return read(*arguments[-2:]) if len(arguments) > 1 else read(arguments[0], None)

    return read_last


def _nested(value: object, keys: list[str]) -> object:
    """Return a nested value of mappings, or of objects with attributes, such as dataclasses and pydantic models."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else getattr(value, key, None)
    return value


def _name(what: str, value: object) -> str:
    match = _NAME.fullmatch(value) if isinstance(value, str) else None
    if value is None:
        raise ConfigurationError("event", f"{what} is not there")
    if match is None:
        # The sender chose the value. It must not get into logs.
        raise ConfigurationError("event", f"{what} is not a name: 1 to 128 letters, digits or _+=,.@-")
    return match[0]


def _account(what: str, value: object) -> str:
    match = _ACCOUNT.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ConfigurationError("event", f"{what} is not an account's 12 digits")
    return match[0]


_FACTORIES: Final[tuple[object, ...]] = (event_field, tenant_id, eventbridge_account, api_caller_account)
