"""The request: what is refused before the network, and when two requests are one."""

from __future__ import annotations

import json
import os
import re
from datetime import timedelta
from typing import Any
from unittest import mock

import pytest
from botocore.session import get_session
from botocore.validate import ParamValidator
from hypothesis import given
from hypothesis import strategies as st

from xacct_lambda._request import LIMITS, assume_role_request, default_role_session_name, role_arn_parts
from xacct_lambda.exceptions import ConfigurationError

ROLE = "arn:aws:iam::222222222222:role/role-on-source-account"
POLICY = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"}]}
STS_MODEL = get_session().get_service_model("sts").operation_model("AssumeRole")

SESSION_NAME = "[A-Za-z0-9_+=,.@-]{2,64}"

names = st.text("abcXYZ019_+=,.@-", min_size=2, max_size=12)
tag_texts = st.text("abc éß漢019_.:/=+-@", min_size=1, max_size=8).filter(
    lambda text: not text.lower().startswith("aws:")
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
options = st.fixed_dictionaries(
    {},
    optional={
        "role_session_name": names,
        "external_id": names,
        "source_identity": names,
        "duration_seconds": st.integers(900, 43200),
        "policy": st.dictionaries(st.text(max_size=5), json_values, min_size=1, max_size=3),
        "policy_arns": st.lists(names.map(lambda name: f"arn:aws:iam::aws:policy/{name}"), max_size=3),
        "tags": st.dictionaries(tag_texts, tag_texts, max_size=3).filter(
            lambda tags: len({key.lower() for key in tags}) == len(tags)
        ),
        "extra": st.dictionaries(st.sampled_from(["ProvidedContexts", "Novelty"]), json_values, max_size=2),
    },
)


def shuffled(draw: Any, value: Any) -> Any:
    """Return the same value in another spelling: mappings and sets of another order, tuples for lists."""
    if isinstance(value, dict):
        return {key: shuffled(draw, value[key]) for key in draw(st.permutations(list(value)))}
    if isinstance(value, list):
        return [shuffled(draw, item) for item in value]
    return value


@given(st.data(), options)
def test_spelling_does_not_matter(data: st.DataObject, arguments: dict[str, Any]) -> None:
    """Tags and policy ARNs in another order, and a policy's JSON in another spelling, are the same request."""
    other = dict(arguments)
    if "policy" in other:
        other["policy"] = json.dumps(shuffled(data.draw, other["policy"]), indent=data.draw(st.sampled_from([None, 2])))
    if "policy_arns" in other:
        other["policy_arns"] = tuple(data.draw(st.permutations(other["policy_arns"])))
    for name in {"tags", "extra"} & other.keys():
        other[name] = shuffled(data.draw, other[name])

    request, same = assume_role_request(ROLE, **arguments), assume_role_request(ROLE, **other)

    assert request == same
    assert hash(request) == hash(same)


@given(options, options)
def test_requests_are_equal_exactly_when_sts_sees_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    """Two requests are one cache entry if and only if the parameters sent to STS are the same."""
    request, another = assume_role_request(ROLE, **one), assume_role_request(ROLE, **other)

    assert (request == another) == (canonical(request.parameters()) == canonical(another.parameters()))


@given(st.data(), options)
def test_any_change_of_authority_is_another_request(data: st.DataObject, arguments: dict[str, Any]) -> None:
    """A change of any one parameter, the role and the session name included, is another request."""
    request = assume_role_request(ROLE, **arguments)
    changes: dict[str, Any] = {
        "role_arn": "arn:aws:iam::333333333333:role/role-on-source-account",
        "role_session_name": "somebody-else",
        "external_id": "another-customer",
        "source_identity": "someone",
        "duration_seconds": 901 if arguments.get("duration_seconds") != 901 else 902,
        "policy": {"Statement": []},
        "policy_arns": ["arn:aws:iam::aws:policy/another-policy"],
        "tags": {"tenant": "another"},
        "extra": {"AnotherParameter": True},
    }
    name = data.draw(st.sampled_from(list(changes)))

    assert assume_role_request(**{"role_arn": ROLE, **arguments, name: changes[name]}) != request


def test_true_is_not_one() -> None:
    """Values that Python takes for equal and JSON does not are different parameters."""
    assert assume_role_request(ROLE, extra={"Novelty": True}) != assume_role_request(ROLE, extra={"Novelty": 1})


@given(options.map(lambda arguments: {name: value for name, value in arguments.items() if name != "extra"}))
def test_botocore_accepts_every_valid_request(arguments: dict[str, Any]) -> None:
    """What this library takes for valid, botocore's own validation of AssumeRole takes too."""
    parameters = assume_role_request(ROLE, **arguments).parameters()

    assert not ParamValidator().validate(parameters, STS_MODEL.input_shape).has_errors()


def test_parameters_of_a_full_request() -> None:
    """Every argument reaches STS under its AWS name."""
    request = assume_role_request(
        ROLE,
        role_session_name="orders",
        external_id="abc:123",
        source_identity="alice",
        duration_seconds=timedelta(minutes=15),
        policy=POLICY,
        policy_arns=["arn:aws:iam::aws:policy/ReadOnlyAccess"],
        tags={"tenant": "a", "cost": "1"},
        transitive_tag_keys=["tenant"],
        extra={"ProvidedContexts": [{"ProviderArn": "arn:aws:iam::aws:contextProvider/IdentityCenter"}]},
    )

    assert request.parameters() == {
        "RoleArn": ROLE,
        "RoleSessionName": "orders",
        "ExternalId": "abc:123",
        "SourceIdentity": "alice",
        "DurationSeconds": 900,
        "Policy": json.dumps(POLICY, sort_keys=True, separators=(",", ":")),
        "PolicyArns": [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}],
        "Tags": [{"Key": "cost", "Value": "1"}, {"Key": "tenant", "Value": "a"}],
        "TransitiveTagKeys": ["tenant"],
        "ProvidedContexts": [{"ProviderArn": "arn:aws:iam::aws:contextProvider/IdentityCenter"}],
    }


def test_what_is_not_set_is_not_sent() -> None:
    """A plain request sends the role, the session's name and the duration, and nothing else."""
    assert assume_role_request(ROLE, role_session_name="orders").parameters() == {
        "RoleArn": ROLE,
        "RoleSessionName": "orders",
        "DurationSeconds": 3600,
    }


def test_assumed_role_arn_has_no_path() -> None:
    """STS names the session by the role's name, without its path, in the role's partition."""
    request = assume_role_request("arn:aws-cn:iam::222222222222:role/a/b/Reader", role_session_name="orders")

    assert request.assumed_role_arn == "arn:aws-cn:sts::222222222222:assumed-role/Reader/orders"
    assert request.account_id == "222222222222"


def test_repr_holds_neither_external_id_nor_extra() -> None:
    """A request prints without its external ID, and without extra parameters, which may be secret."""
    request = assume_role_request(ROLE, external_id="very-secret", extra={"Novelty": "also-secret"})

    assert repr(request) == f"AssumeRoleRequest({ROLE!r}, role_session_name='xacct-lambda')"


@pytest.mark.parametrize(
    ("function_name", "session_name"),
    [
        (None, "xacct-lambda"),
        ("", "xacct-lambda"),
        ("orders-fn", "orders-fn"),
        ("f", "f-"),
        ("a" * 140, "a" * 64),
        ("orders fn:é", "orders-fn--"),
    ],
)
def test_default_session_name(monkeypatch: pytest.MonkeyPatch, function_name: str | None, session_name: str) -> None:
    """The session is named after the Lambda function, in STS's alphabet and length; xacct-lambda elsewhere."""
    if function_name is not None:
        monkeypatch.setenv("AWS_LAMBDA_FUNCTION_NAME", function_name)

    assert default_role_session_name() == session_name
    assert assume_role_request(ROLE).role_session_name == session_name


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200))
def test_whatever_the_function_is_called_sts_takes_the_session_name(function_name: str) -> None:
    """A session name that is derived is one that could be given."""
    with mock.patch.dict(os.environ, {"AWS_LAMBDA_FUNCTION_NAME": function_name}):
        session_name = default_role_session_name()

    assert re.fullmatch(SESSION_NAME, session_name)
    assert assume_role_request(ROLE, role_session_name=session_name).role_session_name == session_name


@pytest.mark.parametrize(
    ("argument", "rule"),
    [
        ("role_session_name", SESSION_NAME),
        ("source_identity", "[A-Za-z0-9_+=,.@-]{2,256}"),
        ("external_id", "[A-Za-z0-9_+=,.@:/-]{2,1224}"),
    ],
)
def test_texts_are_taken_exactly_by_the_rule(argument: str, rule: str) -> None:
    """A text is taken as it is where STS's documented pattern matches it, and refused elsewhere."""

    @given(st.text("aZ09_+=,.@:/- \né２", max_size=70) | st.text(max_size=3))  # noqa: RUF001 - a full-width digit
    def holds(text: str) -> None:
        if re.fullmatch(rule, text):
            assert getattr(assume_role_request(ROLE, **{argument: text}), argument) == text
        else:
            with pytest.raises(ConfigurationError):
                assume_role_request(ROLE, **{argument: text})

    holds()


@given(
    st.sampled_from(["aws", "aws-cn", "aws-us-gov", "aws-iso-b"]),
    st.from_regex("[0-9]{12}", fullmatch=True),
    st.from_regex("([!-)+->@-~]{1,20}/){0,3}", fullmatch=True),
    names,
)
def test_a_role_arn_is_made_of_its_parts(partition: str, account_id: str, path: str, name: str) -> None:
    """Partition, account, path and name are read off an ARN as they stand in it."""
    role_arn = f"arn:{partition}:iam::{account_id}:role/{path}{name}"

    assert role_arn_parts(role_arn) == (role_arn, partition, account_id, f"/{path}", name)
    request = assume_role_request(role_arn, role_session_name="orders")
    assert request.assumed_role_arn == f"arn:{partition}:sts::{account_id}:assumed-role/{name}/orders"


def test_no_role_is_made_up_of_a_name_that_none_has() -> None:
    """What looks like a session of a role, but for a letter that IAM does not know, is not taken for one."""
    with pytest.raises(ConfigurationError, match="It is the ARN of something else"):
        role_arn_parts("arn:aws:sts::222222222222:assumed-role/Réader/me")


@given(st.data(), st.text("a/:*?é\n ", min_size=1, max_size=3) | st.text(min_size=1, max_size=3))
def test_what_is_put_into_an_arn_stays_in_its_part(data: st.DataObject, text: str) -> None:
    """Whatever is put anywhere into an ARN: it is refused, or its parts still make up the whole."""
    place = data.draw(st.integers(0, len(ROLE)))
    role_arn = ROLE[:place] + text + ROLE[place:]
    try:
        parts = role_arn_parts(role_arn)
    except ConfigurationError:
        return
    assert role_arn == f"arn:{parts.partition}:iam::{parts.account_id}:role{parts.path}{parts.name}"
    assert parts.account_id == "222222222222"
    assert role_arn.isascii()
    assert role_arn.isprintable()


@pytest.mark.parametrize(
    "role_arn",
    [
        "arn:aws:iam::222222222222:role/Reader",
        "arn:aws:iam::222222222222:role/teams/orders/Reader",
        "arn:aws-cn:iam::222222222222:role/Reader",
        "arn:aws-us-gov:iam::222222222222:role/R_+=,.@-1",
        "arn:aws-iso-b:iam::222222222222:role/a:b/Reader",
    ],
)
def test_role_arns_of_all_partitions_and_paths(role_arn: str) -> None:
    """Partition and path of the role are kept as they are."""
    assert assume_role_request(role_arn).role_arn == role_arn


@pytest.mark.parametrize(
    "role_arn",
    [
        "",
        "Reader",
        None,
        17,
        "arn:aws:iam::222222222222:role/",
        "arn:aws:iam::22222222222:role/Reader",
        "arn:aws:iam::２２２２２２２２２２２２:role/Reader",  # noqa: RUF001 - full-width digits are the point
        "arn:aws:iam::222222222222:user/Reader",
        "arn:aws:iam::222222222222:role/Reader\n",
        "arn:aws:iam::222222222222:role/Rea der",
        "arn:aws:iam::222222222222:role//Reader",
        "arn:aws:iam::222222222222:role/é/Reader",
        "arn:aws:lambda:eu-west-1:222222222222:function:Reader",
        "arn:evil:iam::222222222222:role/Reader",
        "arn:aws:iam::222222222222:role/" + "a" * 65,
        "arn:aws:iam::222222222222:role/" + "a/" * 1100 + "Reader",
    ],
)
def test_what_is_not_a_role_arn_is_refused(role_arn: Any) -> None:
    """Anything but the ARN of a role is refused, by name."""
    with pytest.raises(ConfigurationError, match="is not the ARN of a role") as caught:
        assume_role_request(role_arn)

    assert caught.value.argument == "role_arn"
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("role_arn", "advice"),
    [
        ("arn:aws:sts::222222222222:assumed-role/Reader/me", "arn:aws:iam::222222222222:role/[PATH/]Reader"),
        ("arn:aws:iam:::role/Reader", "Put the 12 digits of the account before"),
        ("arn:aws:iam::222222222222:role/teams/*", "Name one role"),
        ("arn:aws:iam::222222222222:role/*/Reader", "Name one role"),
        ("arn:aws:iam::222222222222:role/team?/Reader", "Name one role"),
        ("arn:aws:iam::222222222222:role/Reader ", "Remove the leading or trailing white space"),
        ("\narn:aws:iam::222222222222:role/Reader", "Remove the leading or trailing white space"),
        (f"arn:aws:iam::222222222222:role/teams/{'r' * 65}", "The name of a role has at most 64 characters"),
        ("arn:aws:iam::222222222222:user/me", "pass the ARN of a role"),
        ("arn:aws:iam::222222222222:roles/Reader", "pass the ARN of a role"),
        ("arn:aws:lambda:eu-west-1:222222222222:function:orders", "pass the ARN of a role"),
        ("arn:aws:iam::2222:role/Reader", "with the 12 digits of the account"),
    ],
)
def test_usual_mistakes_in_role_arns_are_explained(role_arn: str, advice: str) -> None:
    """The usual slips (a session's ARN, no account, a pattern) are told apart."""
    with pytest.raises(ConfigurationError) as caught:
        role_arn_parts(role_arn)

    assert advice in str(caught.value)


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("role_session_name", "x"),
        ("role_session_name", "x" * 65),
        ("role_session_name", "with space"),
        ("role_session_name", "naïve"),
        ("role_session_name", "line\n"),
        ("role_session_name", 12),
        ("source_identity", "x"),
        ("source_identity", "x" * 257),
        ("source_identity", "aws:someone"),
        ("duration_seconds", 899),
        ("duration_seconds", 43201),
        ("duration_seconds", True),
        ("duration_seconds", 3600.0),
        ("duration_seconds", "3600"),
        ("duration_seconds", timedelta(seconds=900.5)),
        ("duration_seconds", timedelta(days=1)),
        ("policy", "not json"),
        ("policy", "[]"),
        ("policy", "{}"),
        ("policy", {}),
        ("policy", '{"a": NaN}'),
        ("policy", '{"Statement": [], "Statement": []}'),
        ("policy", {1: "a", "1": "b"}),
        ("policy", {"a": object()}),
        ("policy", {"Statement": "x" * 2100}),
        ("policy_arns", "arn:aws:iam::aws:policy/ReadOnlyAccess"),
        ("policy_arns", ["ReadOnlyAccess"]),
        ("policy_arns", [1]),
        ("policy_arns", 1),
        ("policy_arns", [f"arn:aws:iam::aws:policy/P{number}" for number in range(11)]),
        ("tags", ["tenant"]),
        ("tags", {"": "a"}),
        ("tags", {"k" * 129: "a"}),
        ("tags", {"tenant": "v" * 257}),
        ("tags", {"tenant": "a;b"}),
        ("tags", {"tenant": 1}),
        ("tags", {1: "a"}),
        ("tags", {"aws:tenant": "a"}),
        ("tags", {"Tenant": "a", "tenant": "b"}),
        ("tags", {f"key{number}": "" for number in range(51)}),
        ("transitive_tag_keys", ["tenant"]),
        ("extra", [1]),
        ("extra", {"lower": 1}),
        ("extra", {1: 1}),
        ("extra", {"RoleArn": ROLE}),
        ("extra", {"ExternalId": "x"}),
        ("extra", {"Novelty": object()}),
        ("extra", {"Novelty": "\ud800"}),
        ("extra", {"Novelty": "x" * 20_467}),
        ("extra", []),
        ("extra", ""),
        ("tags", []),
        ("tags", ""),
        ("tags", 0),
        ("policy", {"Statement": "\ud800"}),
    ],
)
def test_values_that_sts_would_refuse(argument: str, value: Any) -> None:
    """What breaks a rule of STS is refused before any network call, and the message names the argument."""
    with pytest.raises(ConfigurationError) as caught:
        assume_role_request(ROLE, **{argument: value})

    assert caught.value.argument == argument
    assert str(caught.value).startswith(f"{argument}: ")


@pytest.mark.parametrize("external_id", ["x", "x" * 1225, "hush hush", "hush#", "hush\n"])
def test_a_bad_external_id_is_not_repeated(external_id: Any) -> None:
    """The message on a bad external ID does not hold it."""
    with pytest.raises(ConfigurationError) as caught:
        assume_role_request(ROLE, external_id=external_id)

    assert str(caught.value) == "external_id: must be 2 to 1224 letters, digits, or _+=,.@:/-"


@pytest.mark.parametrize("name", ["SerialNumber", "TokenCode"])
def test_mfa_is_refused_with_the_reason(name: str) -> None:
    """MFA has no place in a function, and the message says so."""
    with pytest.raises(ConfigurationError, match="because nobody can type an MFA code into a function"):
        assume_role_request(ROLE, extra={name: "123456"})


def test_policy_and_policy_arns_share_one_limit() -> None:
    """The session policy and the managed policies' ARNs together may have 2048 characters."""
    arn = "arn:aws:iam::aws:policy/ReadOnlyAccess"
    room = 2048 - len(arn) - len('{"Statement":""}')

    assume_role_request(ROLE, policy={"Statement": "x" * room}, policy_arns=[arn])
    with pytest.raises(ConfigurationError, match="together must not exceed the 2048 characters"):
        assume_role_request(ROLE, policy={"Statement": "x" * (room + 1)}, policy_arns=[arn])


def test_limits_themselves_are_allowed() -> None:
    """The limits of STS are inclusive: 50 tags, 128 and 256 characters, 10 policies, 900 and 43200 seconds."""
    tags = {f"key{number:125}".replace(" ", "x"): "v" * 256 for number in range(50)}
    arns = [f"arn:aws:iam::aws:policy/P{number}" for number in range(10)]

    for seconds in (900, 43200):
        assume_role_request(ROLE, tags=tags, transitive_tag_keys=tags, policy_arns=arns, duration_seconds=seconds)
    assert assume_role_request(ROLE, external_id="x" * 1224, role_session_name="x" * 64).external_id == "x" * 1224


def test_mappings_need_not_be_dictionaries() -> None:
    """A policy and tags may be any mapping, nested ones included."""
    from types import MappingProxyType  # noqa: PLC0415 - of interest here alone

    nested = MappingProxyType({"Statement": [MappingProxyType(POLICY["Statement"][0])], "Version": "2012-10-17"})

    assert assume_role_request(ROLE, policy=nested, tags=MappingProxyType({"a": "b"})) == assume_role_request(
        ROLE, policy=POLICY, tags={"a": "b"}
    )


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("value", ["x" * 6_000_000, ["x" * 6_000_000], {"x" * 6_000_000: 1}, nested(100_000)])
@pytest.mark.parametrize(
    "arguments",
    [
        lambda value: {"role_arn": value},
        lambda value: {"role_session_name": value},
        lambda value: {"source_identity": value},
        lambda value: {"external_id": value},
        lambda value: {"duration_seconds": value},
        lambda value: {"policy_arns": [value] if isinstance(value, str) else value},
        lambda value: {"tags": {value if isinstance(value, str) else "tenant": value}},
        lambda value: {"transitive_tag_keys": [value] if isinstance(value, str) else value},
    ],
)
def test_messages_stay_short_whatever_an_event_holds(arguments: Any, value: Any) -> None:
    """A value of six megabytes, or nested beyond the stack, is refused in a few hundred characters."""
    with pytest.raises(ConfigurationError) as caught:
        assume_role_request(**{"role_arn": ROLE} | arguments(value))

    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("argument", "value", "quoted"),
    [
        ("role_arn", "arn:aws:iam::222222222222:role/a\nblue", True),
        ("role_session_name", "a\nblue", True),
        ("source_identity", "a\nblue", True),
        ("policy_arns", ["a\nblue"], True),
        ("transitive_tag_keys", ["a\nblue"], True),
        ("tags", {"a\nblue": "x"}, True),
        ("tags", {"tenant": "a\nblue"}, False),
        ("external_id", "a\nblue", False),
        ("policy", "a\nblue", False),
    ],
)
def test_what_a_message_quotes(argument: str, value: Any, quoted: bool) -> None:
    """A message quotes names and keys with escapes. It doesn't quote an external ID, a policy, or a tag's value."""
    with pytest.raises(ConfigurationError) as caught:
        assume_role_request(**{"role_arn": ROLE, argument: value})

    assert ("blue" in str(caught.value)) is quoted
    assert "\n" not in str(caught.value)


class Liar(str):
    """A string that claims to be equal to all others, to be short, and to read differently."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash("a")

    def __len__(self) -> int:
        return 20

    def __str__(self) -> str:
        return "a"

    def __format__(self, spec: str) -> str:
        return "a"

    def lower(self) -> str:
        return "a"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"tags": {"tenant": "a"}}, {"tags": {"tenant": Liar("b")}}),
        ({"tags": {"a": "1"}}, {"tags": {Liar("b"): "1"}}),
        ({"external_id": "a-7"}, {"external_id": Liar("b-7")}),
        ({"role_session_name": "a-7"}, {"role_session_name": Liar("b-7")}),
        ({"source_identity": "a-7"}, {"source_identity": Liar("b-7")}),
        ({"policy_arns": ["arn:aws:iam::aws:policy/a"]}, {"policy_arns": [Liar("arn:aws:iam::aws:policy/b")]}),
        ({"policy": {"Statement": "a"}}, {"policy": {"Statement": Liar("b")}}),
        ({"extra": {"Novelty": "a"}}, {"extra": {"Novelty": Liar("b")}}),
    ],
)
def test_equality_is_that_of_the_characters(one: dict[str, Any], other: dict[str, Any]) -> None:
    """A subclass of ``str`` with an equality of its own shares no entry with another value."""
    first, second = assume_role_request(ROLE, **one), assume_role_request(ROLE, **other)

    assert first != second
    assert canonical(first.parameters()) != canonical(second.parameters())


def test_a_role_is_the_characters_of_its_arn() -> None:
    """The same for the ARN: what is validated is what is sent, and what tells two requests apart."""
    request = assume_role_request(Liar(ROLE))

    assert type(request.role_arn) is str
    assert request == assume_role_request(ROLE)
    assert request != assume_role_request(Liar(ROLE + "2"))


def test_several_policy_arns_that_claim_to_be_equal() -> None:
    """None of several managed policies is lost to an equality of its own: each takes authority away."""
    arns = [Liar("arn:aws:iam::aws:policy/a"), Liar("arn:aws:iam::aws:policy/b")]

    assert assume_role_request(ROLE, policy_arns=arns).policy_arns == tuple(map(str.__str__, arns))


def canonical(parameters: dict[str, Any]) -> str:
    return json.dumps(parameters, sort_keys=True)


def test_extra_may_be_as_long_as_five_contexts() -> None:
    """Further parameters may have 20,480 characters of JSON, with which five contexts have their room."""
    assert assume_role_request(ROLE, extra={"Novelty": "x" * 20_466}).extra


class Loner(str):
    """A string that claims to be equal to none."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return 0


def test_names_of_further_parameters_are_taken_by_their_characters() -> None:
    """A string that says it is another name than it holds does not bring in a parameter that has an argument."""
    with pytest.raises(ConfigurationError, match="ExternalId has its own argument"):
        assume_role_request(ROLE, extra={Loner("ExternalId"): "smuggled"})


def test_a_key_that_stands_twice_in_a_mapping() -> None:
    """Two keys of a policy that are one key in JSON are refused, as it is one of the two that would be lost."""
    with pytest.raises(ConfigurationError, match="policy: must be a JSON document: an object has the same key twice"):
        assume_role_request(ROLE, policy={"Statement": [{"Effect": "Deny", Loner("Effect"): "Allow"}]})


NEWEST_PARAMETERS = {
    *("RoleArn", "RoleSessionName", "DurationSeconds", "ExternalId", "SourceIdentity", "Policy", "PolicyArns", "Tags"),
    *("TransitiveTagKeys", "ProvidedContexts", "MinimumSessionTokenSize", "SerialNumber", "TokenCode"),
}
OLDER_LIMITS = {"SourceIdentity": [range(2, 65)]}
"""What older versions of botocore have in their model."""


def model_limits() -> dict[str, dict[str, Any]]:
    """Return what botocore's model says about each parameter of AssumeRole, and about the parts of tags."""
    shapes = dict(STS_MODEL.input_shape.members)
    shapes |= {f"Tags[].{name}": shape for name, shape in shapes["Tags"].member.members.items()}
    return {name: dict(shape.metadata) for name, shape in shapes.items()}


def is_newest_model() -> bool:
    return "MinimumSessionTokenSize" in STS_MODEL.input_shape.members


@pytest.mark.parametrize("name", LIMITS)
def test_limits_are_those_of_the_newest_model(name: str) -> None:
    """Each limit is what botocore's model says, so a limit that AWS changes fails this test."""
    metadata = model_limits()[name]
    of_model = range(metadata.get("min", 0), metadata["max"] + 1)
    expected = [LIMITS[name]] if is_newest_model() else [LIMITS[name], *OLDER_LIMITS.get(name, [])]

    assert of_model in expected


def test_parameters_are_those_of_the_newest_model() -> None:
    """Each parameter of botocore's model has an argument, is sent by way of ``extra``, or is refused with a reason."""
    names = set(STS_MODEL.input_shape.members)

    assert names == NEWEST_PARAMETERS if is_newest_model() else names <= NEWEST_PARAMETERS
    assert STS_MODEL.input_shape.members["PolicyArns"].metadata == {}, "the limit of 10 is only in the documentation"


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("RoleSessionName", r"[\w+=,.@-]*"),
        ("SourceIdentity", r"[\w+=,.@-]*"),
        ("ExternalId", r"[\w+=,.@:\/-]*"),
        ("Tags[].Key", r"[\p{L}\p{Z}\p{N}_.:/=+\-@]+"),
        ("Tags[].Value", r"[\p{L}\p{Z}\p{N}_.:/=+\-@]*"),
    ],
)
def test_patterns_are_those_of_the_newest_model(name: str, pattern: str) -> None:
    """The characters that an argument may have are those of botocore's model."""
    assert model_limits()[name]["pattern"] == pattern


@pytest.mark.parametrize("length", [2, 64, 65, 256])
def test_source_identity_of_256_characters(length: int) -> None:
    """A source identity may have 2 to 256 characters, as since botocore 1.44.7."""
    assert assume_role_request(ROLE, source_identity="x" * length).source_identity == "x" * length
