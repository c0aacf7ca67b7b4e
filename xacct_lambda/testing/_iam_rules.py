"""What IAM policies say about a call: the part of IAM's logic that crossing accounts takes, for tests (pure).

It errs on one side only. A condition that is not evaluated here never makes an Allow apply and never keeps a Deny from
applying, so a call that is allowed here is one that IAM allows as far as these policies go.

The logic is that of https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html. moto's own
evaluation does not do: it takes an explicit Deny in a trust policy for an Allow, knows no operator but
``StringEquals`` and no account as a principal, and finds a role's ARN in any longer one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

_KEYS: Final = frozenset(
    {
        "aws:principalaccount",
        "aws:principalarn",
        "aws:principalorgid",
        "aws:principaltype",
        "aws:resourceaccount",
        "aws:securetransport",
        "aws:tagkeys",
        "sts:externalid",
        "sts:rolesessionname",
        "sts:sourceidentity",
        "sts:transitivetagkeys",
    }
)
_KEY_PREFIX: Final = "aws:requesttag/"


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks: ``arn`` as STS reports it; ``principal_arn`` as policies name it, a role or a user."""

    arn: str
    principal_arn: str

    @property
    def account_id(self) -> str:
        return self.principal_arn.split(":")[4]

    @property
    def is_role(self) -> bool:
        return self.principal_arn.split(":", 5)[5].startswith("role/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """What is asked; ``context`` holds the condition keys that have a value, in lower case."""

    action: str
    resource: str
    caller: Caller
    context: Mapping[str, tuple[str, ...]] = field(repr=False)


class Verdict(NamedTuple):
    """What some policies say together."""

    allowed: bool = False
    denied: bool = False
    """By a statement that says so, which beats any Allow."""
    by_name: bool = False
    """Allowed to the caller itself, not to its account."""
    unevaluated: tuple[str, ...] = ()
    """What made a statement count against the caller for want of evaluation."""


def judge(documents: Iterable[str | Mapping[str, Any]], call: Call) -> Verdict:
    """Return what the statements of these policies, identity policies or a trust policy, say about a call."""
    allowed = denied = by_name = False
    unevaluated: list[str] = []
    for statement in _statements(documents):
        denies = statement.get("Effect") == "Deny"
        named = _names_caller(statement, call.caller)
        if not (named and _names_action(statement, call.action) and _names_resource(statement, call.resource)):
            continue
        holds = dict(_conditions(statement, call.context))
        open_questions = [what for what, outcome in holds.items() if outcome is None]
        if False in holds.values():
            continue
        unevaluated += open_questions
        denied = denied or denies
        if not denies and not open_questions:
            allowed = True
            by_name = by_name or named == "itself"
    return Verdict(allowed and not denied, denied, by_name, tuple(dict.fromkeys(unevaluated)))


def _statements(documents: Iterable[str | Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for document in documents:
        policy = json.loads(document) if isinstance(document, str) else document
        yield from _listed(policy.get("Statement", ()))


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else [value]


def _names_caller(statement: Mapping[str, Any], caller: Caller) -> str | None:
    """Return whether the statement is about the caller ``itself``, about its ``account``, or about others (None)."""
    if "NotPrincipal" in statement:
        return "itself" if statement.get("Effect") == "Deny" else None
    # An identity policy has no principal: it is about whoever it is attached to.
    principal = statement.get("Principal", "*")
    principals = _listed(principal.get("AWS", ()) if isinstance(principal, Mapping) else principal)
    if {"*", caller.arn, caller.principal_arn} & set(principals):
        return "itself"
    root = ":".join([*caller.principal_arn.split(":")[:5], "root"])
    return "account" if {caller.account_id, root} & set(principals) else None


def _names_action(statement: Mapping[str, Any], action: str) -> bool:
    def named(element: str) -> bool:
        return any(_like(pattern.lower(), action.lower()) for pattern in _listed(statement[element]))

    return named("Action") if "Action" in statement else not named("NotAction")


def _names_resource(statement: Mapping[str, Any], resource: str) -> bool:
    if "NotResource" in statement:
        return not any(_like(pattern, resource) for pattern in _listed(statement["NotResource"]))
    # A trust policy has no resource: it is about the role it is attached to.
    return any(_like(pattern, resource) for pattern in _listed(statement.get("Resource", "*")))


def _like(pattern: str, value: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(part) or re.escape(part) for part in re.split(r"([*?])", pattern))
    return re.fullmatch(expression, value, re.DOTALL) is not None


def _arn_like(pattern: str, value: str) -> bool:
    patterns, parts = pattern.split(":", 5), value.split(":", 5)
    return len(patterns) == len(parts) and all(map(_like, patterns, parts))


_OPERATORS: Final[Mapping[str, Callable[[str, str], bool]]] = {
    "stringequals": str.__eq__,
    "stringequalsignorecase": lambda pattern, value: pattern.lower() == value.lower(),
    "stringlike": _like,
    "arnequals": _arn_like,
    "arnlike": _arn_like,
    "bool": lambda pattern, value: pattern.lower() == value.lower(),
}
_OPERATOR: Final = re.compile(
    r"(?:(?P<quantifier>forallvalues|foranyvalue):)?(?P<name>\w+?)(?P<if_exists>ifexists)?", re.ASCII
)


def _conditions(
    statement: Mapping[str, Any], context: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, bool | None]]:
    """Yield each condition with its outcome: None where it is not evaluated."""
    for operator, keys in statement.get("Condition", {}).items():
        for key, expected in keys.items():
            patterns = [str(pattern) for pattern in _listed(expected)]
            yield f"{operator} on {key}", _condition(operator.lower(), key.lower(), patterns, context)


def _condition(operator: str, key: str, patterns: list[str], context: Mapping[str, tuple[str, ...]]) -> bool | None:
    parsed = _OPERATOR.fullmatch(operator)
    if (key not in _KEYS and not key.startswith(_KEY_PREFIX)) or parsed is None or "${" in "".join(patterns):
        return None
    quantifier, name, if_exists = parsed.groups()
    values = context.get(key, ())
    if name == "null":
        return (not values) == (patterns[0].lower() == "true")
    negated = name.startswith(("stringnot", "arnnot"))
    matches = _OPERATORS.get(name.replace("not", "", 1) if negated else name)
    if matches is None:
        return None
    if not values:
        return bool(if_exists) or quantifier == "forallvalues" or (negated and quantifier is None)
    outcomes = [any(matches(pattern, value) for pattern in patterns) != negated for value in values]
    each_counts = quantifier == "forallvalues" or (negated and quantifier is None)
    return all(outcomes) if each_counts else any(outcomes)
