"""The options of ``assumed_session`` where they may depend on an event, or on which of many roles it is."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, TypeAlias, TypedDict, TypeVar

import boto3
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import InvalidRegionError
from botocore.utils import validate_region_name

from xacct_lambda._credential_cache import MANDATORY_WINDOW
from xacct_lambda._request import (
    ANY_ROLE,
    AssumeRoleRequest,
    assume_role_request,
    sorted_unique,
    truncated_repr,
)
from xacct_lambda.exceptions import ConfigurationError

_Value = TypeVar("_Value")

_SESSION_OPTIONS: Final = frozenset({"region_name", "source_session", "min_ttl_seconds", "sts_config"})

# Of any arguments, as a method has three; the form with two lets type checkers infer those of a lambda.
PerEvent: TypeAlias = _Value | Callable[[Any, Any], _Value] | Callable[..., _Value]


class AssumeRoleOptions(TypedDict, total=False):
    """The options of :func:`~xacct_lambda.assumed_session`; those of the request may be callables over the event."""

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
    """Validate the options that are no callables; return all options, the validated ones in canonical form.

    Args:
        options: As they were passed.
        others: What else may have been meant by an option that does not exist.

    Raises:
        ConfigurationError: An option is unknown, breaks a rule, or is a callable where none is taken.
    """
    checked: dict[str, Any] = dict(options)
    fixed = {name: value for name, value in checked.items() if not callable(value)}
    unknown = checked.keys() - AssumeRoleOptions.__annotations__.keys()
    if unknown:
        name = min(unknown)
        raise ConfigurationError(
            name, f"no such option{did_you_mean(name, [*AssumeRoleOptions.__annotations__, *others])}"
        )
    for name in ("source_session", "sts_config"):
        if name in checked and name not in fixed:
            raise ConfigurationError(name, "cannot depend on the event, or on the role")
    if callable(checked.get("tags")) and "transitive_tag_keys" in fixed:
        # Whether they are among the tags can be told at the event alone.
        checked["transitive_tag_keys"] = sorted_unique("transitive_tag_keys", fixed.pop("transitive_tag_keys"))
    of_session = {name: fixed.pop(name) for name in _SESSION_OPTIONS & fixed.keys()}
    if callable(checked.get("duration_seconds")):
        of_session.pop("min_ttl_seconds", None)
    request = assume_role_request(ANY_ROLE, **fixed)
    check_session_options(request, **of_session)
    # As they are now: a generator is empty when it is read again, and a mapping is its owner's to change.
    canonical = request.arguments()
    return checked | {name: canonical[name] for name, value in fixed.items() if value is not None}


def check_session_options(
    request: AssumeRoleRequest,
    *,
    region_name: str | None = None,
    source_session: boto3.Session | None = None,
    min_ttl_seconds: float | timedelta = 0,
    sts_config: Config | None = None,
) -> float:
    """Validate what belongs to the session rather than to the request; return ``min_ttl_seconds`` as seconds.

    Raises:
        ConfigurationError: An argument is not of its type, or breaks a rule.
    """
    if region_name is not None:
        check_region("region_name", region_name)
    if source_session is not None and not isinstance(source_session, Session):
        kind = f"{type(source_session).__module__}.{type(source_session).__qualname__}".removeprefix("builtins.")
        raise ConfigurationError("source_session", f"a boto3.Session is needed, not {kind}")
    if sts_config is not None and not isinstance(sts_config, Config):
        raise ConfigurationError("sts_config", f"a botocore.config.Config is needed, not {type(sts_config).__name__}")
    seconds = min_ttl_seconds.total_seconds() if isinstance(min_ttl_seconds, timedelta) else min_ttl_seconds
    longest = request.duration_seconds - MANDATORY_WINDOW
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ConfigurationError(
            "min_ttl_seconds", f"a number or a timedelta is needed, not {type(min_ttl_seconds).__name__}"
        )
    if not 0 <= seconds <= longest:
        raise ConfigurationError(
            "min_ttl_seconds",
            f"{truncated_repr(min_ttl_seconds)} is not within 0 to {longest}, a minute less than duration_seconds",
        )
    return float(seconds)


def check_region(argument: str, region_name: Any) -> None:
    """Refuse what cannot be the name of a Region.

    Raises:
        ConfigurationError: It is no host label.
    """
    with suppress(InvalidRegionError, TypeError):
        validate_region_name(region_name)
        # botocore's pattern ends in $, which lets a line break pass.
        if not region_name.endswith("\n"):
            return
    raise ConfigurationError(argument, f"{truncated_repr(region_name)} is not the name of a Region")


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return the question whether the most similar of the names was meant, or nothing where none is similar."""
    import difflib  # noqa: PLC0415 - of use to mistakes alone

    near = difflib.get_close_matches(name, list(names))
    return f"; did you mean {near[0]!r}?" if near else ""
