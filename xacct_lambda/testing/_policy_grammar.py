"""The policies that IAM rejects when you save them: grammar, principals, and sizes (pure).

The references are https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_policies_grammar.html and
https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_iam-quotas.html

moto checks less. It accepts a trust policy
of any form if a test creates the role, an Effect in lower case, and a principal that doesn't exist.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, Literal

PolicyKind = Literal["trust", "identity"]

TRUST_CHARACTERS: Final = 2048
"""IAM's default quota for a trust policy."""
INLINE_CHARACTERS: Final = 10_240
"""IAM's quota for all inline policies of a role together."""

_TOP_ELEMENTS: Final = ("Version", "Id", "Statement")
_STATEMENT_ELEMENTS: Final = (
    *("Sid", "Effect", "Principal", "NotPrincipal", "Action", "NotAction", "Resource", "NotResource", "Condition"),
)
_VERSIONS: Final = ("2012-10-17", "2008-10-17")
_INTRINSICS: Final = re.compile(r"Ref|Fn::\w+|!\w+")
_ACTION: Final = re.compile(r"[A-Za-z0-9-]+:[A-Za-z0-9*?]+")
_CONDITION_OPERATOR: Final = re.compile(
    r"(?:(?:ForAllValues|ForAnyValue):)?"
    r"(?:String(?:Not)?(?:Equals|EqualsIgnoreCase|Like)"
    r"|(?:Numeric|Date)(?:(?:Not)?Equals|(?:Less|Greater)Than(?:Equals)?)"
    r"|Arn(?:Not)?(?:Equals|Like)|Bool|BinaryEquals|(?:Not)?IpAddress)(?:IfExists)?"
    r"|(?:(?:ForAllValues|ForAnyValue):)?Null"
)
_CONDITION_KEY: Final = re.compile(r"[A-Za-z0-9.-]+(?:/[^:\s]+)?:[^\s].*")
_PRINCIPAL_KINDS: Final = ("AWS", "Service", "Federated")
_ACCOUNT: Final = re.compile(r"[0-9]{12}")
_PRINCIPAL_ARN: Final = re.compile(
    r"arn:(?P<partition>aws[a-z-]*):(?:iam::[0-9]{12}:(?:root|(?:role|user)/[!-)+->@-~]+)"
    r"|sts::[0-9]{12}:(?:assumed-role/[\w+=,.@-]+/[\w+=,.@-]+|federated-user/[\w+=,.@-]+))",
    re.ASCII,
)
_UNIQUE_ID: Final = re.compile(r"A[A-Z]{3}[A-Z0-9]{12,}")
_SERVICE: Final = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)*\.(?:amazonaws\.com(?:\.cn)?|amazon\.com|aws\.internal)")
_FEDERATED: Final = re.compile(
    r"arn:aws[a-z-]*:iam::[0-9]{12}:(?:saml|oidc)-provider/\S+"
    r"|cognito-identity\.amazonaws\.com|www\.amazon\.com|graph\.facebook\.com|accounts\.google\.com"
)
_RESOURCE: Final = re.compile(r"\*|arn:[^:]*:[^:]*(?::.*)?", re.DOTALL)


class MalformedPolicyError(ValueError):
    """IAM doesn't save this policy."""


def check_policy(document: object, *, kind: PolicyKind, principal_exists: Callable[[str], bool] | None = None) -> None:
    """Pass a policy that IAM saves.

    Args:
        document: The policy, parsed.
        kind: A role's trust policy, or an identity policy.
        principal_exists: Tells whether a role or a user with an ARN exists. By default, every ARN passes.

    Raises:
        MalformedPolicyError: With the element and the rule.
    """
    if not isinstance(document, Mapping):
        raise MalformedPolicyError('a policy is a JSON object with a "Statement"')
    _check_intrinsics(document)
    _check_elements(document, _TOP_ELEMENTS, "the policy")
    _check_version(document, kind)
    if "Id" in document and not isinstance(document["Id"], str):
        raise MalformedPolicyError("Id must be a string")
    statements = statements_of(document)
    sids = set()
    for number, statement in enumerate(statements, 1):
        where = describe_statement(number, statement)
        _check_statement(statement, kind, where)
        sid = statement.get("Sid")
        if sid and sid in sids:
            raise MalformedPolicyError(f"{where}: the Sid {sid!r} is used twice, but must be unique in its policy")
        sids.add(sid)
    if kind == "trust":
        _check_size("the trust policy", policy_size(document), TRUST_CHARACTERS)
        for arn in _principals(statements):
            if principal_exists is not None and not principal_exists(arn):
                raise MalformedPolicyError(
                    f"Invalid principal in policy: {arn} doesn't exist in this AWS. IAM saves a trust policy only if "
                    "every role and user in it exists, so create that one first"
                )


def check_inline_policies(documents: list[Mapping[str, Any]]) -> None:
    """Pass inline policies that fit into one role together.

    Raises:
        MalformedPolicyError: They are too large.
    """
    _check_size("the role's inline policies together", sum(map(policy_size, documents)), INLINE_CHARACTERS)


def policy_size(document: Mapping[str, Any]) -> int:
    """Return how many characters IAM counts for a policy: white space outside strings is free."""
    return len(json.dumps(document, separators=(",", ":"), ensure_ascii=False))


def statements_of(document: Mapping[str, Any]) -> list[Any]:
    """Return the statements of a policy.

    Raises:
        MalformedPolicyError: The policy has no statement.
    """
    statements = document.get("Statement")
    if isinstance(statements, Mapping):
        return [statements]
    if not isinstance(statements, list | tuple) or not statements:
        raise MalformedPolicyError("Statement must be a statement or a list of statements, at least one")
    return list(statements)


def describe_statement(number: int, statement: object) -> str:
    """Return how messages name a statement: by its number and, if it has one, its Sid."""
    sid = statement.get("Sid") if isinstance(statement, Mapping) else None
    return f"statement {number} ({sid})" if isinstance(sid, str) and sid else f"statement {number}"


def as_list(value: Any) -> list[Any]:
    """Return an element's values, which may be one without a list around it."""
    return list(value) if isinstance(value, list | tuple) else [value]


def _check_intrinsics(value: object) -> None:
    """Refuse what CloudFormation or the CDK should have resolved before IAM sees it."""
    if isinstance(value, Mapping):
        for key, nested in value.items():
            if isinstance(key, str) and _INTRINSICS.fullmatch(key):
                raise MalformedPolicyError(
                    f"{key!r} is an intrinsic function of CloudFormation, which IAM doesn't know: pass the policy as "
                    "it is deployed, with all values resolved"
                )
            _check_intrinsics(nested)
    elif isinstance(value, list | tuple):
        for nested in value:
            _check_intrinsics(nested)


def _check_elements(value: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for element in value:
        if element not in known:
            alike = [name for name in known if name.lower().rstrip("s") == str(element).lower().rstrip("s")]
            hint = f"did you mean {alike[0]}?" if alike else f"known elements are {', '.join(known)}"
            raise MalformedPolicyError(f"{where} has the unknown element {element!r}: {hint}")
        if value[element] is None:
            raise MalformedPolicyError(f"{where}: {element} must not be null")


def _check_version(document: Mapping[str, Any], kind: PolicyKind) -> None:
    version = document.get("Version", "2008-10-17")
    if version not in _VERSIONS:
        raise MalformedPolicyError(
            f"Version {version!r} doesn't exist. It is the version of the policy language, not a date of yours: write "
            "2012-10-17"
        )
    if kind == "identity" and version != _VERSIONS[0]:
        raise MalformedPolicyError("Version must be 2012-10-17 in an identity policy")


def _check_statement(statement: object, kind: PolicyKind, where: str) -> None:
    if not isinstance(statement, Mapping):
        raise MalformedPolicyError(f"{where} must be a JSON object")
    _check_elements(statement, _STATEMENT_ELEMENTS, where)
    effect = statement.get("Effect")
    if effect not in {"Allow", "Deny"} if isinstance(effect, str) else True:
        problem = f"Effect is {effect!r}" if "Effect" in statement else "Effect is missing"
        raise MalformedPolicyError(f'{where}: {problem}. It must be "Allow" or "Deny", with a capital')
    sid = statement.get("Sid", "")
    if not isinstance(sid, str) or not re.fullmatch("[A-Za-z0-9]*", sid):
        raise MalformedPolicyError(f"{where}: Sid {sid!r} is invalid: use letters and digits only")
    _check_action(statement, kind, where)
    if kind == "trust":
        reason = "a trust policy has a Principal and no Resource, because it is about the role that it belongs to"
        _prohibit(("Resource", "NotResource"), statement, where, reason)
        _check_principal(statement, where)
    else:
        reason = "an identity policy is about the role or user that it belongs to"
        _prohibit(("Principal", "NotPrincipal"), statement, where, reason)
        _check_resource(statement, where)
    _check_conditions(statement.get("Condition", {}), where)


def _prohibit(elements: Iterable[str], statement: Mapping[str, Any], where: str, reason: str) -> None:
    for element in elements:
        if element in statement:
            raise MalformedPolicyError(f"{where} has the prohibited element {element}: {reason}")


def _one_of(statement: Mapping[str, Any], where: str, element: str) -> str:
    """Return which of an element and its negation a statement has."""
    names = [name for name in (element, f"Not{element}") if name in statement]
    if len(names) != 1:
        problem = f"has both {element} and" if names else f"has neither {element} nor"
        raise MalformedPolicyError(f"{where} {problem} Not{element}, but needs one of them")
    return names[0]


def _strings(value: object, what: str) -> list[str]:
    values = as_list(value)
    if not values or not all(isinstance(item, str) and item for item in values):
        raise MalformedPolicyError(f"{what} must be a string or a list of strings, at least one and none empty")
    return values


def _check_action(statement: Mapping[str, Any], kind: PolicyKind, where: str) -> None:
    element = _one_of(statement, where, "Action")
    for action in _strings(statement[element], f"{where}: {element}"):
        if kind == "trust" and (element == "NotAction" or not action.lower().startswith("sts:")):
            subject = "NotAction" if element == "NotAction" else f"the action {action!r}"
            raise MalformedPolicyError(
                f"{where} has {subject}: a trust policy may have actions of STS only, such as sts:AssumeRole"
            )
        if action != "*" and not _ACTION.fullmatch(action):
            raise MalformedPolicyError(
                f"{where}: the action {action!r} is invalid: an action has the form service:Action, such as "
                "sts:AssumeRole"
            )


def _check_resource(statement: Mapping[str, Any], where: str) -> None:
    element = _one_of(statement, where, "Resource")
    for resource in _strings(statement[element], f"{where}: {element}"):
        if not _RESOURCE.fullmatch(resource):
            raise MalformedPolicyError(
                f'{where}: the resource {resource!r} is invalid: it must be an ARN, with a service, or "*"'
            )
        if "${" in ":".join(_without_variable_colons(resource).split(":")[:5]):
            raise MalformedPolicyError(
                f"{where}: the resource {resource!r} is invalid: a variable can be used only after the fifth colon"
            )


def _without_variable_colons(resource: str) -> str:
    return re.sub(r"\$\{[^}]*\}", "${}", resource)


def _check_principal(statement: Mapping[str, Any], where: str) -> None:
    element = _one_of(statement, where, "Principal")
    if element == "NotPrincipal" and statement["Effect"] == "Allow":
        raise MalformedPolicyError(f"{where}: NotPrincipal needs Deny: to allow somebody, name them in Principal")
    principal = statement[element]
    if principal == "*":
        return
    if not isinstance(principal, Mapping) or not principal:
        raise MalformedPolicyError(
            f'{where}: {element} must be "*" or an object such as {{"AWS": "arn:aws:iam::111111111111:role/NAME"}}, '
            f"not {principal!r}"
        )
    for kind, values in principal.items():
        if kind not in _PRINCIPAL_KINDS:
            raise MalformedPolicyError(
                f"{where}: {element} has the unknown kind {kind!r}: use AWS, Service, or Federated"
            )
        for value in _strings(values, f"{where}: {element} {kind}"):
            problem = _principal_problem(kind, value)
            if problem:
                raise MalformedPolicyError(f"{where}: Invalid principal in policy: {value!r} {problem}")


def _principal_problem(kind: str, value: str) -> str | None:
    if kind != "AWS":
        pattern, name = {"Service": (_SERVICE, "a service"), "Federated": (_FEDERATED, "an identity provider")}[kind]
        return None if pattern.fullmatch(value) else f"is not {name}"
    if value == "*" or _ACCOUNT.fullmatch(value) or _PRINCIPAL_ARN.fullmatch(value):
        return None
    problems = {
        "is the unique ID of a deleted role or user: write the ARN of one that exists": _UNIQUE_ID.fullmatch(value),
        "is a service: write it under Service. A function calls STS as its execution role, not as a service": (
            _SERVICE.fullmatch(value)
        ),
        "has a wildcard, which a principal can't have: name the role, or its account with a condition": (
            re.search("[*?]", value)
        ),
    }
    return next((text for text, applies in problems.items() if applies), "is not the ARN of a role, user, or session")


def _principals(statements: list[Any]) -> Iterator[str]:
    """Yield the ARNs that a trust policy names."""
    for statement in statements:
        for element in ("Principal", "NotPrincipal"):
            principal = statement.get(element)
            if isinstance(principal, Mapping):
                yield from (value for value in as_list(principal.get("AWS", ())) if value.startswith("arn:"))


def _check_conditions(condition: object, where: str) -> None:
    if not isinstance(condition, Mapping):
        raise MalformedPolicyError(f"{where}: Condition must be an object of operators")
    for operator, keys in condition.items():
        if not _CONDITION_OPERATOR.fullmatch(operator):
            raise MalformedPolicyError(f"{where}: the condition operator {operator!r} doesn't exist")
        if not isinstance(keys, Mapping):
            raise MalformedPolicyError(f"{where}: Condition {operator} must be an object of keys and values")
        names = [key.lower() for key in keys]
        if len(set(names)) < len(names):
            raise MalformedPolicyError(f"{where}: Condition {operator} has the same key twice")
        for key, values in keys.items():
            if not _CONDITION_KEY.fullmatch(key):
                raise MalformedPolicyError(
                    f"{where}: the condition key {key!r} is invalid: write it with its service, like sts:ExternalId"
                )
            if not all(isinstance(value, str | bool | int | float) for value in as_list(values)):
                raise MalformedPolicyError(
                    f"{where}: Condition {operator} on {key} must have a string, a boolean, a number, or a list of them"
                )


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise MalformedPolicyError(
            f"{what} would have {size} characters without white space, and IAM's quota is {limit}"
        )
