"""``allowed_roles``: the roles that an event, or a list from outside, may name. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from xacct_lambda._request import role_arn_parts
from xacct_lambda.exceptions import ConfigurationError

# Partition and account must be literal. Otherwise the sender of an event could choose his own account.
_PATTERN: Final = r"(arn:aws[a-z-]*:iam::[0-9]{12}:role/)((?!.*\*{3})[!->@-~]+)"


class AllowedRoles:
    """ARN patterns: ``*`` matches within one part of the path, ``**`` across parts. None allows every role.

    Raises:
        ConfigurationError: A pattern is malformed, or the list is empty.
    """

    def __init__(self, patterns: Iterable[str] | None) -> None:
        self._patterns = None if patterns is None else _parse_patterns(patterns)

    def check(self, role_arn: str) -> str:
        """Return the role's ARN as a plain string.

        Raises:
            ConfigurationError: The text isn't the ARN of a role, or doesn't match any pattern.
        """
        role_arn = role_arn_parts(role_arn).text
        if self._patterns is not None and not any(_matches(role_arn, pattern) for pattern in self._patterns):
            raise ConfigurationError("role_arn", f"{role_arn!r} is not among allowed_roles")
        return role_arn


def _parse_patterns(patterns: Iterable[str]) -> list[tuple[str, ...]]:
    if isinstance(patterns, str) or not isinstance(patterns, Iterable):
        raise ConfigurationError("allowed_roles", "must be a list of ARN patterns")
    parsed = [_parts(pattern) for pattern in patterns]
    if not parsed:
        raise ConfigurationError("allowed_roles", "must contain at least one pattern")
    return parsed


def _parts(pattern: str) -> tuple[str, ...]:
    """Return the pattern's literal parts and, between them, its wildcards."""
    match = re.fullmatch(_PATTERN, pattern) if isinstance(pattern, str) else None
    if match is None:
        raise ConfigurationError(
            "allowed_roles",
            f"{pattern!r} is invalid. Write arn:aws:iam::ACCOUNT:role/PATTERN with a literal account. In PATTERN, * "
            "matches within one part of the path, and ** across parts",
        )
    return match[1], *filter(None, re.split(r"(\*+)", match[2]))


def _matches(role_arn: str, pattern: tuple[str, ...]) -> bool:
    """Tell whether an ARN matches a pattern, by the positions at which each part of the pattern may end."""
    # A regular expression would try every way to divide the text among the wildcards: with four of them, a crafted ARN
    # of 600 characters took half a minute. This function makes one pass for each part.
    ends = {0}
    for part in pattern:
        if part not in {"*", "**"}:
            ends = {end + len(part) for end in ends if role_arn.startswith(part, end)}
            continue
        wildcard_ends: set[int] = set()
        for end in range(len(role_arn) + 1):
            if end in ends or (end - 1 in wildcard_ends and (part == "**" or role_arn[end - 1] != "/")):
                wildcard_ends.add(end)
        ends = wildcard_ends
    return len(role_arn) in ends
