"""One AssumeRole request: validated against STS's rules, canonical, and part of the cache key.

Two requests are equal if and only if STS would receive the same parameters. Everything that changes what the
credentials may do is a field of the request, so credentials are never shared across such a change. Its strings are
plain ones, because a subclass of ``str`` could define its own equality. This module makes no network call.

For the rules, see https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html. botocore checks only minimum
lengths, so STS would refuse a value that breaks one of the other rules, after a round trip.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple, NoReturn

from xacct_lambda.exceptions import ConfigurationError

_ROLE_ARN: Final = re.compile(
    r"arn:(?P<partition>aws(?:-[a-z]+)*):iam::(?P<account>[0-9]{12}):role/(?P<path>(?:[!-)+->@-~]+/)?)(?P<name>[\w+=,.@-]{1,64})",
    re.ASCII,
)
# Strings, because the re module compiles a pattern on its first use, and most functions use none of them.
_POLICY_ARN: Final = r"arn:aws(?:-[a-z]+)*:iam::(?:[0-9]{12}|aws):policy/(?:[!-~]+/)?[\w+=,.@-]{1,128}"
_EXTERNAL_ID_CHARACTERS: Final = r"[\w+=,.@:/-]*"
_NAME_CHARACTERS: Final = r"[\w+=,.@-]*"
_EXTRA_NAME: Final = r"[A-Z][A-Za-z0-9]*"

# A value from an event may be megabytes, or nested as deep as the stack. A message shows this much of it.
_repr: Final = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 200
truncated_repr: Final = _repr.repr

LIMITS: Final = {
    "RoleArn": range(20, 2049),
    "RoleSessionName": range(2, 65),
    "DurationSeconds": range(900, 43201),
    "ExternalId": range(2, 1225),
    "SourceIdentity": range(2, 257),
    "Tags": range(51),
    "TransitiveTagKeys": range(51),
    "Tags[].Key": range(1, 129),
    "Tags[].Value": range(257),
}
"""The lengths, sizes, and values that STS accepts, by parameter. A test compares them with botocore's newest model."""
_ROLE_NAME_LENGTH: Final = 64
_POLICY_CHARACTERS: Final = 2048
_POLICY_ARNS: Final = 10
_EXTRA_CHARACTERS: Final = 20_480
"""Not a rule of STS, which accepts five contexts of 3072 characters in ``ProvidedContexts``, but a bound on memory."""
_TAG_MARKS: Final = frozenset("_.:/=+-@")
_TAG_CATEGORIES: Final = frozenset("LNZ")
"""Unicode categories: letters, numbers, separators."""

STS_NAMES: Final = {
    "RoleArn": "role_arn",
    "RoleSessionName": "role_session_name",
    "DurationSeconds": "duration_seconds",
    "ExternalId": "external_id",
    "SourceIdentity": "source_identity",
    "Policy": "policy",
    "PolicyArns": "policy_arns",
    "Tags": "tags",
    "TransitiveTagKeys": "transitive_tag_keys",
}
"""The argument of this library for each parameter of AssumeRole."""
_ENCODERS: Final[dict[str, Callable[[Any], Any]]] = {
    "PolicyArns": lambda arns: [{"arn": arn} for arn in arns],
    "Tags": lambda tags: [{"Key": key, "Value": value} for key, value in tags],
    "TransitiveTagKeys": list,
}
_MAX_SHOWN_BOUND: Final = 1_000_000
MFA_NAMES: Final = frozenset({"SerialNumber", "TokenCode", "mfa_serial", "serial_number", "token_code"})
MFA_REASON: Final = "because nobody can type an MFA code into a function"

ANY_ROLE: Final = "arn:aws:iam::000000000000:role/any"
"""For requests that only check the other arguments."""


def default_role_session_name() -> str:
    """Return the function's name in STS's alphabet, 2 to 64 characters, or ``xacct-lambda`` outside Lambda."""
    name = re.sub(r"[^\w+=,.@-]", "-", os.environ.get("AWS_LAMBDA_FUNCTION_NAME", ""), flags=re.ASCII)
    return name[:64].ljust(2, "-") if name else "xacct-lambda"


class AssumeRoleRequest(NamedTuple):
    """The parameters of one AssumeRole call. Build it with :func:`assume_role_request`."""

    role_arn: str
    role_session_name: str
    duration_seconds: int
    external_id: str | None = None
    source_identity: str | None = None
    policy: str | None = None
    policy_arns: tuple[str, ...] = ()
    tags: tuple[tuple[str, str], ...] = ()
    transitive_tag_keys: tuple[str, ...] = ()
    extra: str = "{}"

    def __repr__(self) -> str:
        # The external ID and extra must not reach a log.
        return f"{type(self).__name__}({self.role_arn!r}, role_session_name={self.role_session_name!r})"

    @property
    def account_id(self) -> str:
        """The account that owns the role, 12 digits."""
        return role_arn_parts(self.role_arn).account_id

    @property
    def assumed_role_arn(self) -> str:
        """The ARN that STS gives to the session: without the role's path, with the session's name."""
        role = role_arn_parts(self.role_arn)
        return f"arn:{role.partition}:sts::{role.account_id}:assumed-role/{role.name}/{self.role_session_name}"

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of :func:`assume_role_request` that build this request."""
        return self._asdict() | {"tags": dict(self.tags), "extra": json.loads(self.extra)}

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments of botocore's ``assume_role``, without unset ones."""
        values = {name: getattr(self, argument) for name, argument in STS_NAMES.items()}
        extra: dict[str, Any] = json.loads(self.extra)
        return {name: _ENCODERS.get(name, _identity)(value) for name, value in values.items() if value} | extra


def _identity(value: Any) -> Any:
    return value


def assume_role_request(  # noqa: PLR0913 - one argument for each parameter of the API
    role_arn: str,
    *,
    role_session_name: str | None = None,
    external_id: str | None = None,
    source_identity: str | None = None,
    duration_seconds: int | timedelta = 3600,
    policy: str | Mapping[str, Any] | None = None,
    policy_arns: Iterable[str] = (),
    tags: Mapping[str, str] | None = None,
    transitive_tag_keys: Iterable[str] = (),
    extra: Mapping[str, Any] | None = None,
) -> AssumeRoleRequest:
    """Validate the arguments and return the request in canonical form.

    Raises:
        ConfigurationError: An argument breaks one of STS's rules.
    """
    tag_pairs = _tags({} if tags is None else tags)
    canonical_policy = None if policy is None else _policy(policy)
    arns = _policy_arns(policy_arns)
    if len(canonical_policy or "") + sum(map(len, arns)) > _POLICY_CHARACTERS:
        raise ConfigurationError(
            "policy", f"policy and policy_arns together must not exceed the {_POLICY_CHARACTERS} characters of STS"
        )
    return AssumeRoleRequest(
        role_arn=role_arn_parts(role_arn).text,
        role_session_name=(
            default_role_session_name()
            if role_session_name is None
            else _checked_name("RoleSessionName", role_session_name, _NAME_CHARACTERS)
        ),
        external_id=(
            None
            if external_id is None
            else _checked_name("ExternalId", external_id, _EXTERNAL_ID_CHARACTERS, is_secret=True)
        ),
        source_identity=(
            None if source_identity is None else _checked_name("SourceIdentity", source_identity, _NAME_CHARACTERS)
        ),
        duration_seconds=_duration(duration_seconds),
        policy=canonical_policy,
        policy_arns=arns,
        tags=tag_pairs,
        transitive_tag_keys=_transitive_tag_keys(transitive_tag_keys, dict(tag_pairs)),
        extra=_extra({} if extra is None else extra),
    )


class RoleARN(NamedTuple):
    """The ARN of a role, as a plain string, and its parts."""

    text: str
    partition: str
    account_id: str
    path: str
    """``/``, or with a slash at both ends."""
    name: str


def role_arn_parts(role_arn: str) -> RoleARN:
    """Return a valid role ARN with its parts.

    Raises:
        ConfigurationError: The text is not the ARN of an IAM role.
    """
    match = _ROLE_ARN.fullmatch(role_arn) if isinstance(role_arn, str) else None
    if match is None or len(match[0]) not in LIMITS["RoleArn"]:
        raise ConfigurationError(
            "role_arn", f"{truncated_repr(role_arn)} is not the ARN of a role. {_arn_advice(role_arn)}"
        )
    return RoleARN(match[0], match["partition"], match["account"], f"/{match['path']}", match["name"])


def _arn_advice(role_arn: object) -> str:
    text = role_arn if isinstance(role_arn, str) else ""
    session = re.fullmatch(r"arn:(aws[a-z-]*):sts::([0-9]{12}):assumed-role/([\w+=,.@-]+)/.*", text, re.ASCII)
    if session:
        return (
            f"It is the ARN of a session. Pass the role's: arn:{session[1]}:iam::{session[2]}:role/[PATH/]{session[3]}"
        )
    mistakes = [
        (text != text.strip(), "Remove the leading or trailing white space"),
        ("*" in text or "?" in text, "Name one role: patterns belong in allowed_roles"),
        (re.match(r"arn:aws[a-z-]*:iam:::role/", text), "Put the 12 digits of the account before ':role/'"),
        (
            re.match(r"arn:aws[a-z-]*:(?:iam::[0-9]{12}:(?!role/)|(?!iam:)[a-z0-9-]+:)", text),
            "It is the ARN of something else: pass the ARN of a role",
        ),
        (
            len(text.rpartition("/")[2]) > _ROLE_NAME_LENGTH,
            f"The name of a role has at most {_ROLE_NAME_LENGTH} characters",
        ),
    ]
    form = "Write arn:aws:iam::ACCOUNT:role/NAME, with the 12 digits of the account, and the path if the role has one"
    return next((advice for applies, advice in mistakes if applies), form)


def _checked_name(parameter: str, value: str, characters: str, *, is_secret: bool = False) -> str:
    argument, length = STS_NAMES[parameter], LIMITS[parameter]
    _check_string(argument, value)
    match = re.fullmatch(characters, value, re.ASCII)
    if match is None or len(match[0]) not in length:
        rule = f"{length[0]} to {length[-1]} letters, digits, or _{characters.strip('[]*')[2:]}"
        problem = f"must be {rule}" if is_secret else f"{truncated_repr(value)} is invalid: use {rule}"
        raise ConfigurationError(argument, problem)
    return match[0]


def _check_string(argument: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(argument, f"must be a string, not {type(value).__name__}")


def check_int(argument: str, value: object, allowed: range) -> None:
    """Check that a value is a whole number of a range.

    Raises:
        ConfigurationError: The value is not an ``int``, or it is outside the range.
    """
    # True and False are ints to Python.
    if isinstance(value, bool) or not isinstance(value, int) or value not in allowed:
        bounds = (
            f"of at least {allowed[0]}" if len(allowed) > _MAX_SHOWN_BOUND else f"from {allowed[0]} to {allowed[-1]}"
        )
        raise ConfigurationError(argument, f"must be a whole number {bounds}, not {truncated_repr(value)}")


def _duration(value: int | timedelta) -> int:
    if isinstance(value, timedelta):
        seconds = value.total_seconds()
        return _duration(int(seconds)) if seconds == int(seconds) else _wrong_duration(value)
    is_int = isinstance(value, int) and not isinstance(value, bool)
    if not is_int:
        raise ConfigurationError("duration_seconds", f"must be an int or a timedelta, not {type(value).__name__}")
    return value if value in LIMITS["DurationSeconds"] else _wrong_duration(value)


def _wrong_duration(value: int | timedelta) -> NoReturn:
    allowed = LIMITS["DurationSeconds"]
    raise ConfigurationError(
        "duration_seconds",
        f"must be whole seconds from {allowed[0]} to {allowed[-1]}, not {truncated_repr(value)} (at most 3600 if the "
        "caller is itself an assumed role, as every Lambda function is)",
    )


def _policy(value: str | Mapping[str, Any]) -> str:
    try:
        text = _canonical_json(
            json.loads(value, object_pairs_hook=_without_duplicates) if isinstance(value, str) else value
        )
    except (TypeError, ValueError, RecursionError) as error:
        invalid = ConfigurationError("policy", f"must be a JSON document: {error}")
    else:
        if not text.startswith('{"'):
            raise ConfigurationError("policy", 'must be a JSON object with a "Statement"')
        return text
    # Without a cause: json's error and its frames contain the policy, and tools that report errors would send it.
    raise invalid


def _canonical_json(document: object) -> str:
    text = json.dumps(document, default=_as_dict, sort_keys=True, separators=(",", ":"), allow_nan=False)
    # A mapping can have two keys with the same characters, if their class defines its own equality.
    parsed = json.loads(text, object_pairs_hook=_without_duplicates)
    # JSON can contain half of a surrogate pair, which can't be sent.
    json.dumps(parsed, ensure_ascii=False).encode()
    return text


def _as_dict(value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"JSON has no {type(value).__name__}")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # json silently keeps the last of two equal keys. IAM might keep the first, and the session may do something else.
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("an object has the same key twice")
    return document


def _policy_arns(values: Iterable[str]) -> tuple[str, ...]:
    arns = sorted_unique("policy_arns", values)
    for arn in arns:
        if not re.fullmatch(_POLICY_ARN, arn, re.ASCII):
            raise ConfigurationError(
                "policy_arns",
                f"{truncated_repr(arn)} is not the ARN of a managed policy. Write arn:aws:iam::ACCOUNT:policy/NAME",
            )
    if len(arns) > _POLICY_ARNS:
        raise ConfigurationError("policy_arns", f"must be at most {_POLICY_ARNS} ARNs, not {len(arns)}")
    return arns


def _tags(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    if not isinstance(values, Mapping):
        raise ConfigurationError("tags", f"must be a mapping of tag keys to values, not {type(values).__name__}")
    pairs = [
        (
            _tag_text(f"the key {truncated_repr(key)}", key, LIMITS["Tags[].Key"]),
            _tag_text(f"the value of {truncated_repr(key)}", value, LIMITS["Tags[].Value"]),
        )
        for key, value in values.items()
    ]
    for key, _ in pairs:
        if key.lower().startswith("aws:"):
            raise ConfigurationError("tags", f"the key {truncated_repr(key)} must not start with 'aws:'")
    if len(pairs) not in LIMITS["Tags"]:
        raise ConfigurationError("tags", f"must be at most {LIMITS['Tags'][-1]} tags, not {len(pairs)}")
    if len({key.lower() for key, _ in pairs}) < len(pairs):
        raise ConfigurationError(
            "tags", "two keys differ only in upper and lower case, and STS ignores the case. Remove one"
        )
    return tuple(sorted(pairs))


def _tag_text(what: str, value: str, length: range) -> str:
    text = _plain(value) if isinstance(value, str) else None
    if text is None or len(text) not in length:
        raise ConfigurationError("tags", f"{what} must be a string of {length[0]} to {length[-1]} characters")
    import unicodedata  # noqa: PLC0415 - only tags need it

    if not all(mark in _TAG_MARKS or unicodedata.category(mark)[0] in _TAG_CATEGORIES for mark in text):
        raise ConfigurationError("tags", f"{what} is invalid: use letters, digits, spaces, or _.:/=+-@")
    return text


def _transitive_tag_keys(values: Iterable[str], tags: Mapping[str, str]) -> tuple[str, ...]:
    keys = sorted_unique("transitive_tag_keys", values)
    for key in keys:
        if key not in tags:
            raise ConfigurationError("transitive_tag_keys", f"{truncated_repr(key)} is not a key of tags")
    return keys


def sorted_unique(argument: str, values: Iterable[str]) -> tuple[str, ...]:
    """Return the strings in order, without duplicates, because their order means nothing to STS."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigurationError(argument, f"must be a sequence of strings, not {type(values).__name__}")
    items = list(values)
    for item in items:
        if not isinstance(item, str):
            raise ConfigurationError(argument, f"must be a sequence of strings, and has {truncated_repr(item)}")
    return tuple(sorted(set(map(_plain, items))))


def _plain(text: str) -> str:
    """Return a plain string with the same characters. A subclass could define its own equality, hash, or format."""
    return str.__str__(text)


def _extra(values: Mapping[str, Any]) -> str:
    if not isinstance(values, Mapping):
        raise ConfigurationError(
            "extra", f"must be a mapping of AssumeRole parameters to values, not {type(values).__name__}"
        )
    for name in map(_plain_name, values):
        if name in MFA_NAMES:
            raise ConfigurationError("extra", f"{name} is not supported, {MFA_REASON}")
        if name in STS_NAMES:
            raise ConfigurationError("extra", f"{name} has its own argument: pass {STS_NAMES[name]}")
        if not re.fullmatch(_EXTRA_NAME, name, re.ASCII):
            raise ConfigurationError("extra", f"{truncated_repr(name)} is not the name of an AssumeRole parameter")
    try:
        text = _canonical_json(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            "extra", "the values must be strings, numbers, booleans, lists, and mappings"
        ) from error
    if len(text) > _EXTRA_CHARACTERS:
        raise ConfigurationError("extra", f"must have at most {_EXTRA_CHARACTERS} characters as JSON, not {len(text)}")
    return text


def _plain_name(name: object) -> str:
    _check_string("extra", name)
    return str.__str__(name)
