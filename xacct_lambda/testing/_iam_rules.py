"""IAM's rules for a call, as far as calls across accounts need them, for tests (pure).

They err on one side only. An element that isn't evaluated never lets an Allow apply and never keeps a Deny from
applying. So AWS grants each call that these rules grant, as far as these policies decide. The verdict names what wasn't
evaluated.

The reference is https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_elements.html

moto's own evaluation isn't usable here. It takes an explicit Deny in a trust policy for an Allow, knows only the
operator ``StringEquals``, knows no account as a principal, and finds a role's ARN in any longer one.
"""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, NamedTuple

from xacct_lambda.testing._policy_grammar import (
    MalformedPolicyError,
    PolicyKind,
    as_list,
    check_policy,
    describe_statement,
    statements_of,
)

Context = Mapping[str, tuple[str, ...]]
"""Condition keys in lower case with their values. An empty tuple is a key that the request doesn't have."""

_MULTIVALUED: Final = frozenset({"aws:tagkeys", "sts:transitivetagkeys"})
_DATE_KEYS: Final = frozenset({"aws:currenttime", "aws:epochtime"})
_TAG_PREFIXES: Final = ("aws:principaltag/", "aws:requesttag/", "aws:resourcetag/", "iam:resourcetag/")
"""If one of these keys isn't in the context, the tag doesn't exist. Any other key might exist on AWS."""
_IDENTITY_KEYS: Final = frozenset({"lambda:sourcefunctionarn"})
"""Keys that AWS offers in identity policies and not in trust policies."""
_SECRET_KEYS: Final = frozenset({"sts:externalid"})
_VARIABLES_VERSION: Final = "2012-10-17"
_BOOLEANS: Final = frozenset({"true", "false"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """The caller. STS reports its ``arn``, and policies name its ``principal_arn``, a role or a user."""

    arn: str
    principal_arn: str
    tags: Mapping[str, str] = field(default_factory=dict)
    """Tags of the role or user, overridden by the session's."""
    transitive_tags: Mapping[str, str] = field(default_factory=dict)
    """Session tags that the next session in the chain inherits."""
    source_identity: str | None = None
    """Set when the role was assumed, or earlier in the chain."""
    function_arn: str | None = None
    """The Lambda function whose environment the credentials come from."""

    @property
    def account_id(self) -> str:
        return self.principal_arn.split(":")[4]

    @property
    def user_name(self) -> str | None:
        kind, _, path = self.principal_arn.split(":", 5)[5].partition("/")
        return path.rpartition("/")[2] if kind == "user" else None

    @property
    def is_role(self) -> bool:
        return self.user_name is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """An action of the caller on a role.

    There are several possible contexts if AWS's documentation leaves the value of a key open.
    """

    action: str
    resource: str
    caller: Caller
    contexts: tuple[Context, ...] = field(repr=False)


class Policy(NamedTuple):
    """An attached policy: its document, and its ARN if it is a managed one."""

    document: str | Mapping[str, Any]
    arn: str | None = None


class Verdict(NamedTuple):
    """The joint result of some policies."""

    allowed: bool = False
    denied: bool = False
    """An explicit Deny applies, which overrides any Allow."""
    by_name: bool = False
    """A statement allows the caller itself, not only its account."""
    denials: tuple[str, ...] = ()
    """The Deny statements that apply."""
    failures: tuple[str, ...] = ()
    """The Allow statements that don't apply, each with the part that failed."""
    denied_by: str | None = None
    """ARN of the managed policy with the explicit Deny."""


def judge(policies: Iterable[Policy], call: Call, *, kind: PolicyKind) -> Verdict:
    """Return the verdict of identity policies, or of one trust policy, on a call."""
    allowed = by_name = False
    denials: list[str] = []
    failures: list[str] = []
    denied_by = None
    attached = list(policies)
    for index, policy in enumerate(attached, 1):
        prefix = f"policy {index}, " if len(attached) > 1 else ""
        document = json.loads(policy.document) if isinstance(policy.document, str) else policy.document
        try:
            check_policy(document, kind=kind)
        except MalformedPolicyError as error:
            # A test stored it through moto. AWS doesn't have it, so the role's other policies don't count either.
            return Verdict(failures=(f"{prefix}IAM doesn't save this policy: {error}",))
        supports_variables = document.get("Version") == _VARIABLES_VERSION
        for number, statement in enumerate(statements_of(document), 1):
            name = f"{prefix}{describe_statement(number, statement)}"
            outcome = _apply(statement, call, kind, supports_variables=supports_variables)
            if statement["Effect"] == "Deny":
                if outcome.applies is not False:
                    denials.append(f"{name} denies it{f': {outcome.reason}' if outcome.reason else ''}")
                    denied_by = denied_by or policy.arn
            elif outcome.applies:
                allowed = True
                by_name = by_name or outcome.by_name
            else:
                failures.append(f"{name}: {outcome.reason}")
    return Verdict(allowed and not denials, bool(denials), by_name, tuple(denials), tuple(failures), denied_by)


class _Outcome(NamedTuple):
    """Whether a statement applies to a call, or None if that isn't evaluated."""

    applies: bool | None
    reason: str = ""
    """The part that failed, or that isn't evaluated."""
    by_name: bool = False


def _apply(statement: Mapping[str, Any], call: Call, kind: PolicyKind, *, supports_variables: bool) -> _Outcome:
    """Compare a statement with a call, part by part: principal, action, resource, conditions."""
    evaluation = _Evaluation(call, kind, supports_variables=supports_variables)
    principal = _principal(statement, call.caller) if kind == "trust" else _Outcome(applies=True)
    open_questions = []
    for outcome in (
        principal,
        _action(statement, call),
        evaluation.resource(statement),
        *evaluation.conditions(statement),
    ):
        if outcome.applies is False:
            return outcome
        if outcome.applies is None:
            open_questions.append(outcome.reason)
    if open_questions:
        return _Outcome(applies=None, reason="; ".join(open_questions))
    return _Outcome(applies=True, by_name=principal.by_name)


def _not_evaluated(what: str) -> _Outcome:
    return _Outcome(applies=None, reason=f"{what} isn't evaluated, so it counts against the caller")


def _principal(statement: Mapping[str, Any], caller: Caller) -> _Outcome:
    if "NotPrincipal" in statement:
        return _not_evaluated("NotPrincipal")
    principal = statement["Principal"]
    names = as_list(principal.get("AWS", ()) if isinstance(principal, Mapping) else principal)
    if {"*", caller.arn, caller.principal_arn} & set(names):
        return _Outcome(applies=True, by_name=True)
    root = ":".join([*caller.principal_arn.split(":")[:5], "root"])
    if {caller.account_id, root} & set(names):
        return _Outcome(applies=True)
    return _Outcome(
        applies=False,
        reason=f"its Principal is {json.dumps(principal)}, the caller is {caller.principal_arn} ({caller.arn})",
    )


def _action(statement: Mapping[str, Any], call: Call) -> _Outcome:
    element = "Action" if "Action" in statement else "NotAction"
    is_listed = any(
        re.fullmatch(_glob(pattern.lower()), call.action.lower(), re.DOTALL) for pattern in as_list(statement[element])
    )
    if is_listed == (element == "Action"):
        return _Outcome(applies=True)
    value_text = json.dumps(statement[element])
    return _Outcome(applies=False, reason=f"its {element} is {value_text}, the call needs {call.action}")


_VARIABLE: Final = re.compile(r"\$\{\s*([^},]*?)\s*(?:,\s*'([^']*)'\s*)?\}")
_TOKEN: Final = re.compile(r"(\$\{[^}]*\}|[*?])")
_WILDCARDS: Final = {"*": ".*", "?": "."}
_ARN_PARTS: Final = 6


class _Token(NamedTuple):
    """A piece of a pattern: its text, and whether the text is a wildcard or a variable's value."""

    text: str
    is_wildcard: bool = False
    is_variable: bool = False


def _expression(tokens: Iterable[_Token]) -> str:
    return "".join(_WILDCARDS[token.text] if token.is_wildcard else re.escape(token.text) for token in tokens)


def _glob(pattern: str) -> str:
    return _expression(_Token(part, is_wildcard=part in _WILDCARDS) for part in re.split(r"([*?])", pattern))


def _arn_parts(tokens: Iterable[_Token]) -> list[list[_Token]]:
    """Split the pattern of an ARN at its first five colons."""
    parts: list[list[_Token]] = [[]]
    for token in tokens:
        is_literal = not (token.is_wildcard or token.is_variable)
        pieces = token.text.split(":", _ARN_PARTS - len(parts)) if is_literal else [token.text]
        parts[-1].append(token._replace(text=pieces[0]))
        parts += [[token._replace(text=piece)] for piece in pieces[1:]]
    return parts


def _has_early_variable(parts: list[list[_Token]]) -> bool:
    """Return whether an ARN has a variable before its fifth colon, where IAM doesn't replace it in a resource."""
    return any(token.is_variable for part in parts[: _ARN_PARTS - 1] for token in part)


def _matches_parts(parts: list[list[_Token]], arn: str, flags: int = 0) -> bool:
    """Return whether each part of an ARN matches the same part of a pattern."""
    values = arn.split(":", _ARN_PARTS - 1)
    return len(parts) == len(values) and all(
        re.fullmatch(_expression(part), value, re.DOTALL | flags) for part, value in zip(parts, values, strict=True)
    )


def _values(key: str, context: Context) -> tuple[str, ...] | None:
    """Return the values of a key, none if the request doesn't have it, None if that isn't known."""
    if key in context or not key.startswith(_TAG_PREFIXES):
        return context.get(key)
    return ()


def _any(outcomes: Iterable[bool | None]) -> bool | None:
    """Return True if one outcome is, None if one is unknown, otherwise False."""
    known = set(outcomes)
    return True if True in known else None if None in known else False


def _not(outcome: bool | None) -> bool | None:  # noqa: FBT001 - negates it
    return None if outcome is None else not outcome


class _Evaluation:
    """Compares the texts of a statement with the values of a call."""

    def __init__(self, call: Call, kind: PolicyKind, *, supports_variables: bool) -> None:
        self._call = call
        self._kind = kind
        self._supports_variables = supports_variables

    def resource(self, statement: Mapping[str, Any]) -> _Outcome:
        if self._kind == "trust":
            return _Outcome(applies=True)
        element = "Resource" if "Resource" in statement else "NotResource"
        value_text = json.dumps(statement[element])
        matches = self._same_in_all_contexts(
            lambda context: _any(self._resource_matches(pattern, context) for pattern in as_list(statement[element]))
        )
        is_short = any(
            pattern != "*" and pattern.count(":") < _ARN_PARTS - 1 for pattern in as_list(statement[element])
        )
        if matches is None or (matches is False and element == "NotResource" and is_short):
            hint = (
                self._variables_hint(value_text)
                or " (upper and lower case, a short ARN, or a wildcard that stands for a colon)"
            )
            return _not_evaluated(f"its {element} {value_text}{hint}")
        if matches == (element == "Resource"):
            return _Outcome(applies=True)
        return _Outcome(applies=False, reason=f"its {element} is {value_text}, the call is about {self._call.resource}")

    def conditions(self, statement: Mapping[str, Any]) -> Iterator[_Outcome]:
        for name, keys in statement.get("Condition", {}).items():
            for key, expected in keys.items():
                patterns = [value if isinstance(value, str) else json.dumps(value) for value in as_list(expected)]
                holds = self._same_in_all_contexts(functools.partial(self._condition, name, key.lower(), patterns))
                if holds is None:
                    hint = self._variables_hint(" ".join(patterns))
                    if key.lower() in _MULTIVALUED and ":" not in name:
                        hint = " (a key with several values needs ForAllValues or ForAnyValue)"
                    yield _not_evaluated(f"its condition {name} on {key}{hint}")
                else:
                    yield _Outcome(holds, "" if holds else self._unmet(name, key, patterns))

    def _same_in_all_contexts(self, compare: Callable[[Context], bool | None]) -> bool | None:
        outcomes = {compare(context) for context in self._call.contexts}
        return outcomes.pop() if len(outcomes) == 1 else None

    def _variables_hint(self, text: str) -> str:
        variables = " ".join(f"${{{match[1]}}}" for match in _VARIABLE.finditer(text))
        if not variables:
            return ""
        return f" (the variable {variables})" if self._supports_variables else " (variables need Version 2012-10-17)"

    def _unmet(self, name: str, key: str, patterns: list[str]) -> str:
        values = _values(key.lower(), self._call.contexts[0]) or ()
        problem = f"its condition {name} on {key} isn't met"
        if key.lower() in _SECRET_KEYS:
            return f"{problem}: the call sends {'another one' if values else 'none'}"
        value_text = f"has {', '.join(map(repr, values))}" if values else "has none"
        return f"{problem}: the policy has {', '.join(map(repr, patterns))}, the call {value_text}"

    def _condition(self, operator_name: str, key: str, patterns: list[str], context: Context) -> bool | None:
        """Return whether a condition holds, or None if it isn't evaluated."""
        quantifier, name, if_exists = _split_operator(operator_name)
        values = _values(key, context)
        if values is None or (key in _IDENTITY_KEYS and self._kind == "trust"):
            return None
        if name == "Null":
            return None if quantifier else any(pattern.lower() == str(not values).lower() for pattern in patterns)
        is_negated = "Not" in name
        # IAM: ForAllValues, and a negated operator without a quantifier, must hold for every value (and so for none).
        for_all = quantifier == "ForAllValues" or (is_negated and quantifier is None)
        if not values:
            return for_all or (if_exists and quantifier is None)
        compare = _COMPARISONS.get(name.replace("Not", "", 1))
        if (
            compare is None
            or (quantifier is None and key in _MULTIVALUED)
            or (is_negated and not patterns)
            or name.startswith("Date") != (key in _DATE_KEYS)
        ):
            return None
        outcomes = []
        for value in values:
            matches = _any(compare(self, pattern, value, context) for pattern in patterns)
            outcomes.append(_not(matches) if is_negated else matches)
        return _not(_any(map(_not, outcomes))) if for_all else _any(outcomes)

    def _resource_matches(self, pattern: str, context: Context) -> bool | None:
        """Compare strictly and leniently: AWS doesn't say whether case counts and whether ``*`` crosses a colon."""
        tokens = self._tokens(pattern, context)
        if tokens is None:
            return None
        parts = _arn_parts(tokens)
        # IAM fills the parts that a short ARN leaves out.
        parts += [[_Token("*", is_wildcard=True)]] * (_ARN_PARTS - len(parts))
        resource = self._call.resource
        strict = pattern == "*" or _matches_parts(parts, resource)
        lenient = strict or any(
            (
                _matches_parts(parts, resource, re.IGNORECASE),
                re.fullmatch(_expression(tokens), resource, re.DOTALL | re.IGNORECASE),
            )
        )
        return strict if strict == lenient else None

    def _tokens(self, text: str, context: Context, *, has_wildcards: bool = True) -> list[_Token] | None:
        """Return the pieces of a text with its variables replaced, or None if a variable has no known value."""
        tokens = []
        for part in filter(None, _TOKEN.split(text)):
            if part.startswith("${"):
                value = self._variable(part, context)
                if value is None:
                    return None
                tokens.append(_Token(value, is_variable=True))
            else:
                tokens.append(_Token(part, is_wildcard=has_wildcards and part in _WILDCARDS))
        return tokens

    def _variable(self, text: str, context: Context) -> str | None:
        # An older version of the policy language takes a variable for plain text. Nobody means that.
        variable = _VARIABLE.fullmatch(text) if self._supports_variables else None
        if variable is None:
            return None
        if variable[1] in {"*", "?", "$"}:
            return variable[1]
        key = variable[1].lower()
        values = _values(key, context)
        if values is None or key in _MULTIVALUED or (key in _IDENTITY_KEYS and self._kind == "trust"):
            return None
        return values[0] if values else variable[2]

    def text(
        self, pattern: str, value: str, context: Context, *, has_wildcards: bool = False, flags: int = 0
    ) -> bool | None:
        tokens = self._tokens(pattern, context, has_wildcards=has_wildcards)
        return None if tokens is None else re.fullmatch(_expression(tokens), value, re.DOTALL | flags) is not None

    def arn(self, pattern: str, value: str, context: Context) -> bool | None:
        tokens = self._tokens(pattern, context)
        parts = [] if tokens is None else _arn_parts(tokens)
        if _has_early_variable(parts):
            return None
        # AWS doesn't document what a text matches that isn't an ARN.
        is_arn = len(parts) == _ARN_PARTS <= value.count(":") + 1
        return _matches_parts(parts, value) if is_arn else None

    def boolean(self, pattern: str, value: str, context: Context) -> bool | None:
        return (
            self.text(pattern, value, context, flags=re.IGNORECASE) if {pattern.lower(), value} <= _BOOLEANS else None
        )


def _split_operator(text: str) -> tuple[str | None, str, bool]:
    """Return an operator's quantifier, its name, and whether ``IfExists`` follows."""
    quantifier, _, name = text.rpartition(":")
    return quantifier or None, name.removesuffix("IfExists"), name.endswith("IfExists")


def _seconds(text: str) -> float | None:
    """Return a date of a policy as seconds of the epoch, or None if it isn't a date."""
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        date = datetime.fromisoformat(text)
    except ValueError:
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _compare_dates(compare: Callable[[float, float], bool]) -> _Comparison:
    def compare_texts(_: _Evaluation, pattern: str, value: str, __: Context) -> bool | None:
        seconds, limit = _seconds(value), _seconds(pattern)
        return None if seconds is None or limit is None else compare(seconds, limit)

    return compare_texts


_Comparison = Callable[[_Evaluation, str, str, Context], bool | None]
_COMPARISONS: Final[Mapping[str, _Comparison]] = {
    "StringEquals": _Evaluation.text,
    "StringEqualsIgnoreCase": functools.partial(_Evaluation.text, flags=re.IGNORECASE),
    "StringLike": functools.partial(_Evaluation.text, has_wildcards=True),
    "ArnEquals": _Evaluation.arn,
    "ArnLike": _Evaluation.arn,
    "Bool": _Evaluation.boolean,
    "DateEquals": _compare_dates(operator.eq),
    "DateLessThan": _compare_dates(operator.lt),
    "DateLessThanEquals": _compare_dates(operator.le),
    "DateGreaterThan": _compare_dates(operator.gt),
    "DateGreaterThanEquals": _compare_dates(operator.ge),
}
