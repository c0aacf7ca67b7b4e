"""The options of ``assumed_session`` as values, or as callables over an event or a role."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import timedelta
from inspect import Signature
from typing import Any, Final, TypeAlias, TypedDict, TypeVar

import boto3
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import InvalidRegionError
from botocore.utils import validate_region_name

from xacct_lambda._credential_cache import MANDATORY_WINDOW
from xacct_lambda._request import (
    ANY_ROLE,
    MFA_NAMES,
    MFA_REASON,
    STS_NAMES,
    AssumeRoleRequest,
    assume_role_request,
    sorted_unique,
    truncated_repr,
)
from xacct_lambda.exceptions import ConfigurationError

_Value = TypeVar("_Value")

_NEVER_PER_EVENT: Final = ("source_session", "sts_config")
_A_PROFILE: Final = ". It is a setting of the caller's profile: source_session=boto3.Session(profile_name=…)"
_OTHER_NAMES: Final = {
    "config": ". Write sts_config for the STS client. A client of the role has its own config",
    "credential_source": _A_PROFILE,
    "profile": _A_PROFILE,
    "source_profile": _A_PROFILE,
    "web_identity_token_file": _A_PROFILE,
}
_SESSION_OPTIONS: Final = frozenset({"region_name", "source_session", "min_ttl_seconds", "sts_config"})

# `Callable[..., T]` allows methods (self, event, context). The two-argument form lets type checkers infer lambda
# parameters.
PerEvent: TypeAlias = _Value | Callable[[Any, Any], _Value] | Callable[..., _Value]


class AssumeRoleOptions(TypedDict, total=False):
    """The options of :func:`~xacct_lambda.assumed_session`. Options of the request may be callables over the event."""

    role_session_name: PerEvent[str | None]
    external_id: PerEvent[str | None]
    source_identity: PerEvent[str | None]
    duration_seconds: PerEvent[int | timedelta]
    policy: PerEvent[str | Mapping[str, Any] | None]
    policy_arns: PerEvent[Iterable[str]]
    tags: PerEvent[Mapping[str, str] | None]
    transitive_tag_keys: PerEvent[Iterable[str]]
    extra: PerEvent[Mapping[str, Any] | None]
    region_name: PerEvent[str | None]
    min_ttl_seconds: PerEvent[float | timedelta]
    source_session: boto3.Session | None
    sts_config: Config | None


def validate_options(options: AssumeRoleOptions, *, others: Iterable[str] = ()) -> dict[str, Any]:
    """Return all options: callables unchanged, the values of the others validated and in canonical form.

    Args:
        options: The options as the user passed them.
        others: Names of further arguments of the function, which a misspelled option may mean.

    Raises:
        ConfigurationError: An option is unknown, breaks a rule, or is a callable and must not be one.
    """
    reject_unknown_options(options, AssumeRoleOptions.__annotations__, others)
    _reject_callables(options, _NEVER_PER_EVENT)
    values: dict[str, Any] = {name: value for name, value in options.items() if not callable(value)}
    session_options: dict[str, Any] = {name: values.pop(name) for name in _SESSION_OPTIONS & values.keys()}
    canonical: dict[str, Any] = {}
    # Two rules compare two options. If the other option is a callable, the rule is checked at the event.
    if callable(options.get("duration_seconds")):
        session_options.pop("min_ttl_seconds", None)
    if callable(options.get("tags")) and "transitive_tag_keys" in values:
        canonical["transitive_tag_keys"] = sorted_unique("transitive_tag_keys", values.pop("transitive_tag_keys"))
    request = assume_role_request(ANY_ROLE, **values)
    check_session_options(request, **session_options)
    # Keep copies: a generator can be read only once, and the caller may change a mapping later.
    arguments = request.arguments()
    canonical |= {name: arguments[name] for name, value in values.items() if value is not None}
    return {**options, **canonical}


def reject_unknown_options(options: Iterable[str], known: Iterable[str], others: Iterable[str] = ()) -> None:
    """Reject an option that doesn't exist, and say what to write instead.

    Args:
        options: Names that the user wrote.
        known: Names of the options.
        others: Names of further arguments of the function, which a misspelled option may mean.

    Raises:
        ConfigurationError: An option is not among the known ones.
    """
    unknown = set(options).difference(known)
    if unknown:
        name = min(unknown)
        raise ConfigurationError(name, f"no such option{_advice(name, [*known, *others])}")


def _advice(name: str, names: Iterable[str]) -> str:
    if name in inspect.signature(Session.__init__).parameters:
        return f" of the role. It belongs to the session that calls STS: source_session=boto3.Session({name}=…)"
    if name in MFA_NAMES:
        return f", {MFA_REASON}"
    if name[:1].isupper():
        return f". Write {STS_NAMES[name]}" if name in STS_NAMES else f'. Write extra={{"{name}": …}}'
    return _OTHER_NAMES.get(name) or did_you_mean(name, names)


def _reject_callables(options: Mapping[str, Any], names: Iterable[str]) -> None:
    for name in names:
        if callable(options.get(name)):
            raise ConfigurationError(name, "cannot depend on the event, or on the role")


def call_option(option: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], handler: Signature) -> Any:
    """Call an option that depends on the event, with the arguments of the handler.

    The option gets them in the form in which the caller passed them: by position or by keyword. If it doesn't accept
    that form, it gets them by position as the handler declares them, or the ones that it accepts by keyword.

    Args:
        option: The callable.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.
        handler: Signature of the handler as its callers see it.
    """
    try:
        signature = inspect.signature(option)
    except (TypeError, ValueError):
        # Some callables of C libraries have no signature.
        return option(*args, **kwargs)
    for form_args, form_kwargs in _argument_forms(args, kwargs, handler, signature):
        try:
            signature.bind(*form_args, **form_kwargs)
        except TypeError:
            continue
        return option(*form_args, **form_kwargs)
    return option(*args, **kwargs)


def _argument_forms(
    args: tuple[Any, ...], kwargs: dict[str, Any], handler: Signature, option: Signature
) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    yield args, kwargs
    try:
        bound = handler.bind(*args, **kwargs)
    except TypeError:
        # The call doesn't fit the handler either. Python says so when the option is called.
        return
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in option.parameters.values())
    for _ in range(2):
        yield bound.args, {name: value for name, value in bound.kwargs.items() if name in option.parameters}
        yield (), {name: value for name, value in bound.arguments.items() if takes_any or name in option.parameters}
        bound.apply_defaults()


def check_session_options(
    request: AssumeRoleRequest,
    *,
    region_name: str | None = None,
    source_session: boto3.Session | None = None,
    min_ttl_seconds: float | timedelta = 0,
    sts_config: Config | None = None,
) -> float:
    """Validate the options of the session, which are not in the request. Return ``min_ttl_seconds`` as seconds.

    Raises:
        ConfigurationError: An argument is not of its type, or breaks a rule.
    """
    if region_name is not None:
        check_region("region_name", region_name)
    if source_session is not None and not isinstance(source_session, Session):
        kind = f"{type(source_session).__module__}.{type(source_session).__qualname__}".removeprefix("builtins.")
        raise ConfigurationError("source_session", f"must be a boto3.Session, not {kind}")
    if sts_config is not None and not isinstance(sts_config, Config):
        raise ConfigurationError("sts_config", f"must be a botocore.config.Config, not {type(sts_config).__name__}")
    seconds = min_ttl_seconds.total_seconds() if isinstance(min_ttl_seconds, timedelta) else min_ttl_seconds
    longest = request.duration_seconds - MANDATORY_WINDOW
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ConfigurationError(
            "min_ttl_seconds", f"must be a number or a timedelta, not {type(min_ttl_seconds).__name__}"
        )
    if not 0 <= seconds <= longest:
        raise ConfigurationError(
            "min_ttl_seconds",
            f"{truncated_repr(min_ttl_seconds)} is not within 0 to {longest}, a minute less than duration_seconds",
        )
    return float(seconds)


def check_region(argument: str, region_name: Any) -> None:
    """Reject a value that can't be the name of a Region.

    Raises:
        ConfigurationError: The value isn't a host label.
    """
    with suppress(InvalidRegionError, TypeError):
        validate_region_name(region_name)
        # botocore's pattern ends in $, which lets a line break pass.
        if not region_name.endswith("\n"):
            return
    raise ConfigurationError(argument, f"{truncated_repr(region_name)} is not the name of a Region")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return a question about the most similar name, or an empty string if no name is similar."""
    import difflib  # noqa: PLC0415 - only mistakes need it

    known = list(names)
    # difflib compares letters by case, and finds nothing similar to "S3".
    near = [other for other in known if other.lower() == name.lower()] or difflib.get_close_matches(name, known)
    return f". Did you mean {near[0]!r}?" if near else ""
