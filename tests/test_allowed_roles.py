"""``allowed_roles``: what a pattern matches, and what it costs to find out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from xacct_lambda._allowed_roles import AllowedRoles, _matches, _parts
from xacct_lambda.exceptions import ConfigurationError

PATTERN = "arn:aws:iam::222222222222:role/tenant/*"


@pytest.mark.parametrize(
    ("pattern", "role_arn", "allowed"),
    [
        (PATTERN, "arn:aws:iam::222222222222:role/tenant/a", True),
        (PATTERN, "arn:aws:iam::222222222222:role/tenant/a/b", False),
        (PATTERN, "arn:aws:iam::222222222222:role/tenant/../Admin", False),
        (PATTERN, "arn:aws:iam::222222222222:role/tenants/a", False),
        (PATTERN, "arn:aws:iam::222222222222:role/Tenant/a", False),
        (PATTERN, "arn:aws:iam::333333333333:role/tenant/a", False),
        (PATTERN, "arn:aws-cn:iam::222222222222:role/tenant/a", False),
        (PATTERN, "x" + "arn:aws:iam::222222222222:role/tenant/a", False),
        (PATTERN, "arn:aws:iam::222222222222:role/tenant/a\n", False),
        (PATTERN, "arn:aws:iam::222222222222:role/tenant/*", False),
        (PATTERN, "arn:aws:iam::222222222222:role/tenant/arn:aws:iam::222222222222:role/tenant/a", False),
        ("arn:aws:iam::222222222222:role/tenant/**", "arn:aws:iam::222222222222:role/tenant/a/b", True),
        ("arn:aws:iam::222222222222:role/tenant/**", "arn:aws:iam::222222222222:role/Admin", False),
        ("arn:aws:iam::222222222222:role/*/Reader", "arn:aws:iam::222222222222:role/a/Reader", True),
        ("arn:aws:iam::222222222222:role/*/Reader", "arn:aws:iam::222222222222:role/a/b/Reader", False),
        ("arn:aws:iam::222222222222:role/a.c", "arn:aws:iam::222222222222:role/abc", False),
        ("arn:aws:iam::222222222222:role/tenant-*-ro", "arn:aws:iam::222222222222:role/tenant-7-ro", True),
        ("arn:aws:iam::222222222222:role/tenant-*-ro", "arn:aws:iam::222222222222:role/tenant-7-rw", False),
        ("arn:aws:iam::222222222222:role/**/a*-ro", "arn:aws:iam::222222222222:role/x/ab/y/a-rw-ro", True),
        ("arn:aws:iam::222222222222:role/**/a*-ro", "arn:aws:iam::222222222222:role/x/ab-ro/y", False),
    ],
)
def test_patterns(pattern: str, role_arn: str, allowed: bool) -> None:
    """``*`` stops at a slash and ``**`` does not; all else, partition and account above all, is literal."""
    roles = AllowedRoles([pattern])

    if allowed:
        assert roles.check(role_arn) == role_arn
    else:
        with pytest.raises(ConfigurationError):
            roles.check(role_arn)


def test_one_pattern_is_enough() -> None:
    """A role is allowed if any of the patterns matches it; without patterns every role is."""
    role_arn = "arn:aws:iam::222222222222:role/tenant/a"

    assert AllowedRoles(["arn:aws:iam::333333333333:role/*", PATTERN]).check(role_arn) == role_arn
    assert AllowedRoles(None).check(role_arn) == role_arn


@given(st.lists(st.sampled_from(["*", "**", "a", "b", "/", "."]), min_size=1, max_size=8), st.text("ab/.", max_size=9))
def test_patterns_match_as_a_regular_expression_would(parts: list[str], text: str) -> None:
    """The matcher of patterns agrees with the regular expression that is their definition."""
    pattern = "".join(parts)
    assume("***" not in pattern)
    expression = re.escape(pattern).replace(r"\*\*", ".*").replace(r"\*", "[^/]*")

    prefix, *parsed = _parts(f"arn:aws:iam::222222222222:role/{pattern}")

    assert _matches(prefix + text, (prefix, *parsed)) == bool(re.fullmatch(expression, text))


class _CountedText(str):
    """Text that counts how often a part of it is read."""

    __slots__ = ("reads",)

    def __init__(self, _text: str) -> None:
        self.reads = 0

    def __getitem__(self, index: Any) -> str:
        self.reads += 1
        return super().__getitem__(index)

    def startswith(self, *args: Any) -> bool:
        self.reads += 1
        return super().startswith(*args)


def test_a_crafted_arn_does_not_keep_the_matcher_busy() -> None:
    """An ARN made to be divided among many wildcards is read about once for each part of the pattern."""
    pattern = _parts("arn:aws:iam::222222222222:role/**-**-**-**-**-reader")
    role_arn = _CountedText("arn:aws:iam::222222222222:role/" + "-" * 1900 + "/x")

    assert not _matches(role_arn, pattern)
    assert role_arn.reads <= len(pattern) * (len(role_arn) + 1)


def test_a_role_that_no_pattern_matches_is_rejected_with_its_name() -> None:
    """The error names the ARN that isn't allowed."""
    roles = AllowedRoles(["arn:aws:iam::222222222222:role/**-reader"])

    with pytest.raises(ConfigurationError, match="role/a/x' is not among allowed_roles"):
        roles.check("arn:aws:iam::222222222222:role/a/x")


def test_the_table_of_patterns() -> None:
    """Each pattern in the table of ``docs/tenants.md`` matches the roles in its second column, and not the third's."""
    page = (Path(__file__).parents[1] / "docs" / "tenants.md").read_text(encoding="utf-8")
    table = page.partition("| pattern in account 222222222222 |")[2].partition("\n\n")[0]
    rows = [[re.findall(r"`(role/.*?)`", cell) for cell in row.split("|")[1:4]] for row in table.splitlines()[2:]]

    assert len(rows) >= 5
    for (pattern,), matching, others in rows:
        roles = AllowedRoles([f"arn:aws:iam::222222222222:{pattern}"])
        assert matching
        assert others
        for role in matching:
            assert roles.check(f"arn:aws:iam::222222222222:{role}")
        for role in others:
            with pytest.raises(ConfigurationError, match="is not among allowed_roles"):
                roles.check(f"arn:aws:iam::222222222222:{role}")


def test_a_wildcard_matches_nothing_too() -> None:
    """``*`` and ``**`` match an empty text."""
    for pattern in ("role/tenant*", "role/tenant**"):
        role_arn = "arn:aws:iam::222222222222:role/tenant"
        assert AllowedRoles([f"arn:aws:iam::222222222222:{pattern}"]).check(role_arn) == role_arn
