"""Policies that ``xacct_lambda.policy`` generates, with calls that they must allow and calls that they must refuse."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator
from typing import Any, NamedTuple

from xacct_lambda.policy import permissions_policy, trust_policy
from xacct_lambda.testing._iam_rules import Caller
from xacct_lambda.testing._sts_rules import AssumeRoleParameters

from .calls import FUNCTION_ROLE, FUNCTION_SESSION, ORGANIZATION, ROLES, USER, Call

_TAGS = {"tenant": "blue", "team": "orders", "stage": "prod"}


class Expectation(NamedTuple):
    """A call, what is wrong with it, and so whether the generated policies must allow it."""

    call: Call
    mistake: str | None


def generated_policies(count: int, seed: int) -> Iterator[list[Expectation]]:
    """Yield, for random options of the two functions, a call that sends what they require, and others that don't."""
    source = random.Random(seed)  # noqa: S311 - no secret
    for _ in range(count):
        yield list(_expectations(source))


def _expectations(source: random.Random) -> Iterator[Expectation]:  # noqa: C901 - a branch for each option
    def chance(probability: float) -> bool:
        return source.random() < probability

    external_id = "orders-1" if chance(0.5) else None
    source_identity = source.choice([None, "alice", "*"])
    tags = {key: value if chance(0.5) else "*" for key, value in _TAGS.items() if chance(0.5)}
    transitive = [key for key in tags if chance(0.4)]
    allows_more_tags = bool(tags) and chance(0.2)
    organization_id = ORGANIZATION if chance(0.4) else None
    resource_organization_id = ORGANIZATION if chance(0.3) else None
    roles = source.sample(ROLES[:2], source.choice([1, 2]))
    resources = ["arn:aws:iam::*:role/Reader"] if resource_organization_id and chance(0.5) else roles
    role_arn = ROLES[0] if resources != roles else source.choice(roles)
    options: dict[str, Any] = {
        "external_id": external_id,
        "source_identity": source_identity,
        "tags": tags | ({"*": "*"} if allows_more_tags else {}),
        "transitive_tag_keys": transitive,
    }
    right = Call(
        caller=Caller(arn=FUNCTION_SESSION, principal_arn=FUNCTION_ROLE),
        parameters=AssumeRoleParameters(
            role_arn=role_arn,
            role_session_name="fn",
            external_id=external_id,
            source_identity="alice" if source_identity else None,
            tag_pairs=tuple((key, _TAGS[key]) for key in tags),
            transitive_tag_keys=tuple(transitive),
        ),
        trust=trust_policy(FUNCTION_ROLE, organization_id=organization_id, **options),
        identity=[permissions_policy(resources, resource_organization_id=resource_organization_id, **options)],
        role_tags={},
        organization_id=ORGANIZATION,
    )
    yield Expectation(right, None)

    def with_mistake(mistake: str, **parameters: Any) -> Expectation:
        return Expectation(
            dataclasses.replace(right, parameters=dataclasses.replace(right.parameters, **parameters)), mistake
        )

    if external_id:
        yield with_mistake("no external ID", external_id=None)
        yield with_mistake("another external ID", external_id="orders-2")
    if source_identity:
        yield with_mistake("no source identity", source_identity=None)
    if source_identity == "alice":
        yield with_mistake("another source identity", source_identity="bob")
    for key, value in tags.items():
        sent = dict(right.parameters.tag_pairs)
        others = tuple(pair for pair in sent.items() if pair[0] != key)
        kept = tuple(name for name in transitive if name != key)
        yield with_mistake(f"no tag {key}", tag_pairs=others, transitive_tag_keys=kept)
        wrong = "" if value == "*" else "other"
        yield with_mistake(f"another value of {key}", tag_pairs=tuple((sent | {key: wrong}).items()))
        if key in transitive:
            yield with_mistake(f"{key} isn't transitive", transitive_tag_keys=kept)
        elif transitive:
            yield with_mistake(f"{key} is transitive", transitive_tag_keys=(*transitive, key))
    if tags and not allows_more_tags:
        yield with_mistake("a further tag", tag_pairs=(*right.parameters.tag_pairs, ("extra", "1")))
    if organization_id or resource_organization_id:
        yield Expectation(dataclasses.replace(right, organization_id="o-zzzzzzzzzz"), "another organization")
    yield with_mistake("another role", role_arn="arn:aws:iam::222222222222:role/Other")
    other = Caller(arn=USER, principal_arn=USER)
    yield Expectation(dataclasses.replace(right, caller=other), "another caller")
