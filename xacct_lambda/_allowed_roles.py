"""``allowed_roles``: which roles an event, or a list from outside, may name. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from xacct_lambda._request import role_arn_parts
from xacct_lambda.exceptions import ConfigurationError

# Partition and account stay literal: an event that could choose the account could choose its own.
_PATTERN: Final = re.compile(r"(arn:aws[a-z-]*:iam::[0-9]{12}:role/)((?!.*\*{3})[!->@-~]+)")


class AllowedRoles:
    """ARN patterns, in which ``*`` stands for a part of the path and ``**`` for several; None allows every role.

    Raises:
        ConfigurationError: A pattern is malformed, or the list is empty.
    """

    def __init__(self, patterns: Iterable[str] | None) -> None:
        self._patterns = None if patterns is None else _parsed(patterns)

    def checked(self, role_arn: str) -> str:
        """Return the role's ARN, as plain characters.

        Raises:
            ConfigurationError: It is no role's ARN, or matches no pattern.
        """
        role_arn = role_arn_parts(role_arn).text
        if self._patterns is not None and not any(_matches(role_arn, pattern) for pattern in self._patterns):
            raise ConfigurationError("role_arn", f"{role_arn!r} is not among allowed_roles")
        return role_arn


def _parsed(patterns: Iterable[str]) -> list[tuple[str, ...]]:
    if isinstance(patterns, str) or not isinstance(patterns, Iterable):
        raise ConfigurationError("allowed_roles", "must be a list of ARN patterns")
    parsed = [_parts(pattern) for pattern in patterns]
    if not parsed:
        raise ConfigurationError("allowed_roles", "an empty list allows no role at all")
    return parsed


def _parts(pattern: str) -> tuple[str, ...]:
    """Return the pattern's literal parts and, between them, its wildcards."""
    match = _PATTERN.fullmatch(pattern) if isinstance(pattern, str) else None
    if match is None:
        raise ConfigurationError(
            "allowed_roles",
            f"{pattern!r} is not arn:aws:iam::ACCOUNT:role/PATTERN with a literal account, where * stands for a part "
            "of the path and ** for several",
        )
    return match[1], *filter(None, re.split(r"(\*+)", match[2]))


def _matches(role_arn: str, pattern: tuple[str, ...]) -> bool:
    """Follow the places at which the parts so far may end."""
    # Not by a regular expression, which tries every way to divide the text among several wildcards: four of them kept
    # a crafted ARN of 600 characters busy for half a minute. This takes one pass for each part.
    ends = {0}
    for part in pattern:
        if part not in {"*", "**"}:
            ends = {end + len(part) for end in ends if role_arn.startswith(part, end)}
            continue
        reached: set[int] = set()
        for end in range(len(role_arn) + 1):
            if end in ends or (end - 1 in reached and (part == "**" or role_arn[end - 1] != "/")):
                reached.add(end)
        ends = reached
    return len(role_arn) in ends
