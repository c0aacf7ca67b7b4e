"""One AssumeRole request: validated against STS's rules, canonical, and itself the cache key.

Two requests are equal if and only if STS would see the same parameters. Whatever changes what the credentials may do is
a field of the request, so no credentials are ever shared across it. Its strings are plain ones: a subclass's own idea
of equality has no say. Nothing here touches the network.

The rules are those of https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html; botocore checks only
minimum lengths, so a value that breaks one would otherwise cost a round trip to be refused.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

from xacct_lambda.exceptions import ConfigurationError

_ROLE_ARN: Final = re.compile(
    r"arn:(?P<partition>aws(?:-[a-z]+)*):iam::(?P<account>[0-9]{12}):role/(?P<path>(?:[!-)+->@-~]+/)?)(?P<name>[\w+=,.@-]{1,64})",
    re.ASCII,
)
_POLICY_ARN: Final = re.compile(
    r"arn:aws(?:-[a-z]+)*:iam::(?:[0-9]{12}|aws):policy/(?:[!-~]+/)?[\w+=,.@-]{1,128}", re.ASCII
)
_SESSION_NAME: Final = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
_EXTERNAL_ID: Final = re.compile(r"[\w+=,.@:/-]{2,1224}", re.ASCII)
_EXTRA_NAME: Final = re.compile(r"[A-Z][A-Za-z0-9]*", re.ASCII)

# What an event holds may be megabytes, or nested as deep as the stack: a message shows so much of it.
_repr: Final = reprlib.Repr()
_repr.maxstring = _repr.maxother = _repr.maxlong = 200
truncated_repr: Final = _repr.repr

_ROLE_ARN_LENGTH: Final = range(20, 2049)
_ROLE_NAME_LENGTH: Final = 64
_DURATION: Final = range(900, 43201)
_POLICY_CHARACTERS: Final = 2048
_EXTRA_CHARACTERS: Final = 20_480
"""No rule of STS, which takes five contexts of 2048 characters in ``ProvidedContexts``: what is held has its bounds."""
_POLICY_ARNS: Final = 10
_TAGS: Final = 50
_TAG_KEY_LENGTH: Final = range(1, 129)
_TAG_VALUE_LENGTH: Final = range(257)
_TAG_MARKS: Final = frozenset("_.:/=+-@")
_TAG_CATEGORIES: Final = frozenset("LNZ")
"""Of Unicode: letters, numbers, separators."""

_STS_NAMES: Final = {
    "RoleArn": "role_arn",
    "RoleSessionName": "role_session_name",
    "ExternalId": "external_id",
    "SourceIdentity": "source_identity",
    "DurationSeconds": "duration_seconds",
    "Policy": "policy",
    "PolicyArns": "policy_arns",
    "Tags": "tags",
    "TransitiveTagKeys": "transitive_tag_keys",
}

ANY_ROLE: Final = "arn:aws:iam::000000000000:role/any"
"""For requests that are made to have their other arguments checked."""


def default_role_session_name() -> str:
    """Return the function's name in STS's alphabet, 2 to 64 characters; ``xacct-lambda`` outside Lambda."""
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
        # Neither the external ID nor what is in extra is to be seen in a log.
        return f"{type(self).__name__}({self.role_arn!r}, role_session_name={self.role_session_name!r})"

    @property
    def account_id(self) -> str:
        """The account that owns the role, 12 digits."""
        return self.role_arn.split(":")[4]

    @property
    def assumed_role_arn(self) -> str:
        """The ARN that STS gives to the session: without the role's path, with the session's name."""
        _, partition, _, _, account_id, resource = self.role_arn.split(":", 5)
        return f"arn:{partition}:sts::{account_id}:assumed-role/{resource.rpartition('/')[2]}/{self.role_session_name}"

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of :func:`assume_role_request` that make this request."""
        return self._asdict() | {"tags": dict(self.tags), "extra": json.loads(self.extra)}

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments of botocore's ``assume_role``; what is not set is not sent."""
        parameters = {
            "RoleArn": self.role_arn,
            "RoleSessionName": self.role_session_name,
            "DurationSeconds": self.duration_seconds,
            "ExternalId": self.external_id,
            "SourceIdentity": self.source_identity,
            "Policy": self.policy,
            "PolicyArns": [{"arn": arn} for arn in self.policy_arns],
            "Tags": [{"Key": key, "Value": value} for key, value in self.tags],
            "TransitiveTagKeys": list(self.transitive_tag_keys),
        }
        extra: dict[str, Any] = json.loads(self.extra)
        return {name: value for name, value in parameters.items() if value} | extra


def assume_role_request(  # noqa: PLR0913 - one argument for each parameter of the API it stands for
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
            "policy", f"policy and policy_arns together exceed the {_POLICY_CHARACTERS} characters that STS allows"
        )
    return AssumeRoleRequest(
        role_arn=role_arn_parts(role_arn).text,
        role_session_name=(
            default_role_session_name()
            if role_session_name is None
            else _matching("role_session_name", role_session_name, _SESSION_NAME, "2 to 64 letters, digits or _+=,.@-")
        ),
        external_id=None if external_id is None else _external_id(external_id),
        source_identity=(
            None
            if source_identity is None
            else _matching("source_identity", source_identity, _SESSION_NAME, "2 to 64 letters, digits or _+=,.@-")
        ),
        duration_seconds=_duration(duration_seconds),
        policy=canonical_policy,
        policy_arns=arns,
        tags=tag_pairs,
        transitive_tag_keys=_transitive_tag_keys(transitive_tag_keys, dict(tag_pairs)),
        extra=_extra({} if extra is None else extra),
    )


class RoleARN(NamedTuple):
    """The ARN of a role, as plain characters, and its parts."""

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
    if match is None or len(match[0]) not in _ROLE_ARN_LENGTH:
        raise ConfigurationError(
            "role_arn", f"{truncated_repr(role_arn)} is not the ARN of a role. {_arn_advice(role_arn)}"
        )
    return RoleARN(match[0], match["partition"], match["account"], f"/{match['path']}", match["name"])


def _arn_advice(role_arn: object) -> str:
    text = role_arn if isinstance(role_arn, str) else ""
    session = re.fullmatch(r"arn:(aws[a-z-]*):sts::([0-9]{12}):assumed-role/([\w+=,.@-]+)/.*", text, re.ASCII)
    if session:
        return (
            f"It is a session of a role; the role's ARN is arn:{session[1]}:iam::{session[2]}:role/[PATH/]{session[3]}"
        )
    mistakes = {
        "White space stands before or after it": text != text.strip(),
        "Name one role; patterns belong in allowed_roles": "*" in text or "?" in text,
        "The account is missing: it stands between the two colons before 'role/'": re.match(
            r"arn:aws[a-z-]*:iam:::role/", text
        ),
        "It is the ARN of something else, and only roles can be assumed": re.match(
            r"arn:aws[a-z-]*:(?:iam::[0-9]{12}:(?!role/)|(?!iam:)[a-z0-9-]+:)", text
        ),
        f"A role's name has {_ROLE_NAME_LENGTH} characters at most": len(text.rpartition("/")[2]) > _ROLE_NAME_LENGTH,
    }
    form = "Write arn:aws:iam::ACCOUNT:role/NAME, with the 12 digits of the account and the path if the role has one"
    return next((advice for advice, applies in mistakes.items() if applies), form)


def _matching(argument: str, value: str, pattern: re.Pattern[str], rule: str) -> str:
    _check_string(argument, value)
    match = pattern.fullmatch(value)
    if match is None:
        raise ConfigurationError(argument, f"{truncated_repr(value)} is refused by STS, which takes {rule}")
    return match[0]


def _check_string(argument: str, value: object) -> None:
    if not isinstance(value, str):
        raise ConfigurationError(argument, f"a string is needed, not {type(value).__name__}")


def _external_id(value: str) -> str:
    _check_string("external_id", value)
    match = _EXTERNAL_ID.fullmatch(value)
    if match is None:
        # The value stays out of the message: an external ID is shared with the other account alone.
        raise ConfigurationError("external_id", "refused by STS, which takes 2 to 1224 letters, digits or _+=,.@:/-")
    return match[0]


def _duration(value: int | timedelta) -> int:
    if isinstance(value, bool) or not isinstance(value, int | timedelta):
        raise ConfigurationError("duration_seconds", f"an int or a timedelta is needed, not {type(value).__name__}")
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if seconds not in _DURATION:
        raise ConfigurationError(
            "duration_seconds",
            f"{truncated_repr(value)} is refused by STS, which takes whole seconds from {_DURATION[0]} to "
            f"{_DURATION[-1]} (at most 3600 where the caller is itself an assumed role, as every Lambda function is)",
        )
    return int(seconds)


def _policy(value: str | Mapping[str, Any]) -> str:
    try:
        text = _canonical_json(
            json.loads(value, object_pairs_hook=_without_duplicates) if isinstance(value, str) else value
        )
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError("policy", f"not a JSON document: {error}") from error
    if not text.startswith('{"'):
        raise ConfigurationError("policy", 'a policy is a JSON object with a "Statement"')
    return text


def _canonical_json(document: object) -> str:
    text = json.dumps(document, default=_as_dict, sort_keys=True, separators=(",", ":"), allow_nan=False)
    # A mapping may have two keys of the same characters, where they are of a class with its own idea of equality.
    parsed = json.loads(text, object_pairs_hook=_without_duplicates)
    # Half a character, which JSON can write, cannot be sent.
    json.dumps(parsed, ensure_ascii=False).encode()
    return text


def _as_dict(value: object) -> dict[str, Any]:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"a {type(value).__name__} has no place in JSON")


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # json keeps the last of two equal keys in silence; which one IAM would keep decides what the session may do.
    document = dict(pairs)
    if len(document) != len(pairs):
        raise ValueError("the same key stands twice in one object")
    return document


def _policy_arns(values: Iterable[str]) -> tuple[str, ...]:
    arns = sorted_unique("policy_arns", values)
    for arn in arns:
        _matching("policy_arns", arn, _POLICY_ARN, "ARNs of managed policies (arn:aws:iam::ACCOUNT:policy/NAME)")
    if len(arns) > _POLICY_ARNS:
        raise ConfigurationError("policy_arns", f"{len(arns)} ARNs; STS takes at most {_POLICY_ARNS}")
    return arns


def _tags(values: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    if not isinstance(values, Mapping):
        raise ConfigurationError("tags", "a mapping of tag keys to values is needed")
    pairs = [
        (_tag_text("key", key, _TAG_KEY_LENGTH), _tag_text(f"value of {truncated_repr(key)}", value, _TAG_VALUE_LENGTH))
        for key, value in values.items()
    ]
    for key, _ in pairs:
        if key.lower().startswith("aws:"):
            raise ConfigurationError("tags", f"{truncated_repr(key)}: keys that start with 'aws:' are AWS's own")
    if len(pairs) > _TAGS:
        raise ConfigurationError("tags", f"{len(pairs)} tags; STS takes at most {_TAGS}")
    if len({key.lower() for key, _ in pairs}) < len(pairs):
        raise ConfigurationError(
            "tags", "two keys differ only in upper and lower case, which STS takes for the same key"
        )
    return tuple(sorted(pairs))


def _tag_text(what: str, value: str, length: range) -> str:
    text = _plain(value) if isinstance(value, str) else None
    if text is None or len(text) not in length:
        raise ConfigurationError("tags", f"the {what} must be a string of {length[0]} to {length[-1]} characters")
    import unicodedata  # noqa: PLC0415 - of use to tags alone

    if not all(mark in _TAG_MARKS or unicodedata.category(mark)[0] in _TAG_CATEGORIES for mark in text):
        raise ConfigurationError("tags", f"the {what} may hold letters, digits, spaces and _.:/=+-@ only")
    return text


def _transitive_tag_keys(values: Iterable[str], tags: Mapping[str, str]) -> tuple[str, ...]:
    keys = sorted_unique("transitive_tag_keys", values)
    for key in keys:
        if key not in tags:
            raise ConfigurationError("transitive_tag_keys", f"{truncated_repr(key)} is not among the tags")
    return keys


def sorted_unique(argument: str, values: Iterable[str]) -> tuple[str, ...]:
    """Return the strings sorted and once each; STS gives their order no meaning."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise ConfigurationError(argument, f"a sequence of strings is needed, not {type(values).__name__}")
    found = list(values)
    if not all(isinstance(value, str) for value in found):
        raise ConfigurationError(argument, "a sequence of strings is needed")
    return tuple(sorted(set(map(_plain, found))))


def _plain(text: str) -> str:
    """Return the characters of a string, without what a subclass may say of its equality, hash, length or format."""
    return str.__str__(text)


def _extra(values: Mapping[str, Any]) -> str:
    if not isinstance(values, Mapping):
        raise ConfigurationError("extra", "a mapping of AssumeRole parameters to values is needed")
    for name in map(_plain_name, values):
        if name in {"SerialNumber", "TokenCode"}:
            raise ConfigurationError("extra", f"{name}: MFA is not supported, as nobody types a code into a function")
        if name in _STS_NAMES:
            raise ConfigurationError("extra", f"{name} has an argument of its own: {_STS_NAMES[name]}")
        if not _EXTRA_NAME.fullmatch(name):
            raise ConfigurationError("extra", f"{truncated_repr(name)} is not the name of an AssumeRole parameter")
    try:
        text = _canonical_json(values)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(
            "extra", "the values must be strings, numbers, booleans, lists and mappings"
        ) from error
    if len(text) > _EXTRA_CHARACTERS:
        raise ConfigurationError("extra", f"{len(text)} characters of JSON; {_EXTRA_CHARACTERS} are taken at most")
    return text


def _plain_name(name: object) -> str:
    _check_string("extra", name)
    return str.__str__(name)
