"""Endpoint rules of clients: what they share, what each one has for itself, and botocore's own result."""

from __future__ import annotations

import gc
import itertools
import weakref
from typing import Any

import boto3
import pytest
from botocore.endpoint_provider import EndpointProvider, RuleSet
from botocore.exceptions import BotoCoreError
from conftest import OTHER_ROLE, ROLE
from moto import mock_aws

from xacct_lambda import assumed_session
from xacct_lambda._endpoint_rules import _CACHED_METHOD, share_endpoint_rules

SERVICES = ("s3", "sqs", "dynamodb")


def provider_of(client: Any) -> Any:
    return client._ruleset_resolver._provider


def rules_of(client: Any) -> list[Any]:
    return provider_of(client).ruleset.rules


def resolve(client: Any, **parameters: Any) -> Any:
    """Return the endpoint of the parameters, or the text of botocore's exception."""
    try:
        return provider_of(client).resolve_endpoint(**parameters)
    except BotoCoreError as error:
        return str(error)


def all_rules(rules: list[Any]) -> list[Any]:
    return [rule for outer in rules for rule in (outer, *all_rules(getattr(outer, "rules", [])))]


@pytest.mark.parametrize("service", SERVICES)
def test_clients_of_a_service_share_parsed_rules(service: str) -> None:
    """The rules of a second client are those of the first."""
    first, second = (share_endpoint_rules(boto3.client(service)) for _ in range(2))

    assert [id(rule) for rule in all_rules(rules_of(second))] == [id(rule) for rule in all_rules(rules_of(first))]


@pytest.mark.parametrize("service", SERVICES)
def test_each_client_has_its_own_provider_and_rule_set(service: str) -> None:
    """Clients share no provider, no rule set, and none of its lists and parameters."""
    first, second = (share_endpoint_rules(boto3.client(service)) for _ in range(2))

    assert provider_of(first) is not provider_of(second)
    ours, theirs = provider_of(first).ruleset, provider_of(second).ruleset
    assert ours is not theirs
    assert ours.rules is not theirs.rules
    assert ours.parameters is not theirs.parameters
    assert not {id(parameter) for parameter in ours.parameters.values()} & set(map(id, theirs.parameters.values()))


def test_endpoints_are_botocores() -> None:
    """Shared rules resolve to the endpoint, or to the exception, of a client of boto3's own."""
    shared, plain = share_endpoint_rules(share_endpoint_rules(boto3.client("s3"))), boto3.client("s3")
    buckets: list[Any] = [{"Bucket": name} for name in ("orders", "Orders", "a.b", "orders--use1-az4--x-s3")]
    flags: list[Any] = [{"UseFIPS": True}, {"UseDualStack": True}, {"Accelerate": True}, {}]

    for bucket, flag, region in itertools.product([*buckets, {}], flags, ("eu-west-1", "us-gov-west-1", "no region")):
        parameters = {"Region": region, **flag, **bucket}
        assert resolve(shared, **parameters) == resolve(plain, **parameters)


def test_a_change_to_an_endpoint_stays_in_its_client() -> None:
    """A hook that changes the properties of a resolved endpoint doesn't change another client's."""
    first, second = (share_endpoint_rules(boto3.client("s3")) for _ in range(2))
    resolve(first, Region="eu-west-1", Bucket="orders").properties["changed"] = True

    assert "changed" not in resolve(second, Region="eu-west-1", Bucket="orders").properties


def test_a_client_resolves_an_endpoint_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more clients than entries in botocore's cache, a client still evaluates its rules once per endpoint."""
    evaluated: list[Any] = []
    evaluate = RuleSet.evaluate

    def count(self: RuleSet, parameters: dict[str, Any]) -> Any:
        evaluated.append(self)
        return evaluate(self, parameters)

    monkeypatch.setattr(RuleSet, "evaluate", count)
    clients = [share_endpoint_rules(boto3.client("sts")) for _ in range(110)]

    for _ in range(3):
        for client in clients:
            resolve(client, Region="eu-west-1")

    assert len(evaluated) == len(clients)


def test_the_cache_of_a_client_has_a_bound() -> None:
    """A client that addresses many buckets caches the last 16 endpoints."""
    client = share_endpoint_rules(boto3.client("s3"))
    for number in range(40):
        resolve(client, Region="eu-west-1", Bucket=f"orders-{number}")

    cached = getattr(provider_of(client), _CACHED_METHOD).__wrapped__
    assert type(cached).cache_info(cached).currsize == 16


def test_the_cached_method_is_botocores() -> None:
    """The method with the small cache in front is the one whose results botocore caches."""
    assert callable(getattr(EndpointProvider, _CACHED_METHOD).cache_info)


@pytest.mark.parametrize("change", ["an endpoint", "more rules", "errors"])
def test_rules_of_another_document_are_not_shared(change: str) -> None:
    """A client whose rules have the same conditions, but another content, keeps its own."""
    session = boto3.Session()
    first = share_endpoint_rules(session.client("sqs"))
    document = session._loader.load_service_model("sqs", "endpoint-rule-set-1")
    second = session.client("sqs")
    rules = {"an endpoint": other_endpoint, "more rules": more_rules, "errors": errors}[change](document["rules"])
    changed = provider_of(second).ruleset = RuleSet(**document | {"rules": rules}, partitions={})
    expected = content(changed.rules)
    assert expected != content(rules_of(first))

    share_endpoint_rules(second)

    assert content(rules_of(second)) == expected


def content(rules: list[Any]) -> list[Any]:
    """Return what the rules result in, by identity."""
    return [(type(rule), id(getattr(rule, "endpoint", None))) for rule in all_rules(rules)]


def other_endpoint(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a document that differs in the endpoints of its rules."""
    return [
        {**rule, "rules": other_endpoint(rule["rules"])}
        if "rules" in rule
        else {**rule, "endpoint": {**rule["endpoint"], "url": "https://example.com"}}
        if "endpoint" in rule
        else rule
        for rule in rules
    ]


def errors(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a document whose rules are errors, under the same conditions."""
    return [{"conditions": rule["conditions"], "type": "error", "error": "no"} for rule in rules]


def more_rules(rules: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a document with more rules inside its rules."""
    return [{**rule, "rules": [*rule["rules"], *rule["rules"]]} if "rules" in rule else rule for rule in rules]


def test_rules_go_with_their_last_client() -> None:
    """The library doesn't keep parsed rules in memory after the clients that used them."""
    client = share_endpoint_rules(boto3.client("sqs"))
    rule = weakref.ref(rules_of(client)[0])

    del client
    gc.collect()

    assert rule() is None


@pytest.mark.parametrize(
    "break_client",
    [
        lambda client: delattr(client, "_ruleset_resolver"),
        lambda client: setattr(client, "_ruleset_resolver", None),
        lambda client: delattr(client._ruleset_resolver, "_provider"),
        lambda client: setattr(client._ruleset_resolver, "_provider", object()),
    ],
)
def test_a_client_with_another_structure_stays_as_it_is(break_client: Any) -> None:
    """If botocore's attributes are not where they were, the client is returned unchanged."""
    client = boto3.client("sqs")
    break_client(client)
    before = dict(vars(getattr(client, "_ruleset_resolver", None) or client))

    assert share_endpoint_rules(client) is client
    assert vars(getattr(client, "_ruleset_resolver", None) or client) == before


@pytest.mark.parametrize("rules", [None, ("a tuple",), [object]], ids=["none", "a tuple", "no rules"])
def test_rules_of_another_structure_stay_as_they_are(rules: Any) -> None:
    """If botocore keeps its rules in another form, the client keeps its own."""
    client = boto3.client("sqs")
    provider_of(client).ruleset.rules = rules

    share_endpoint_rules(client)

    assert rules_of(client) == rules


def test_this_botocore_has_the_attributes() -> None:
    """The private attributes that lead to a client's rules are where they were; if not, clients share no rules."""
    client = boto3.client("s3")

    assert type(client._ruleset_resolver._provider) is EndpointProvider
    assert type(client._ruleset_resolver._provider.ruleset) is RuleSet
    assert type(client._ruleset_resolver._provider.ruleset.rules) is list


def test_clients_of_two_roles_share_parsed_rules() -> None:
    """Clients of assumed sessions, also those of their resources, share the rules across roles."""
    first = assumed_session(ROLE).client("s3")
    second = assumed_session(OTHER_ROLE).resource("s3").meta.client

    assert [id(rule) for rule in rules_of(first)] == [id(rule) for rule in rules_of(second)]


@mock_aws
def test_a_list_of_tables() -> None:
    """A request whose endpoint depends on a list, such as a DynamoDB batch, resolves as botocore resolves it."""
    client = assumed_session(ROLE).client("dynamodb")
    for table in ("orders", "invoices"):
        client.create_table(
            TableName=table,
            KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
            AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
            BillingMode="PAY_PER_REQUEST",
        )
    orders, invoices = ([{"PutRequest": {"Item": {"id": {"S": number}}}}] for number in ("7", "8"))

    for _ in range(2):
        written = client.batch_write_item(RequestItems={"orders": orders, "invoices": invoices})
        assert written["UnprocessedItems"] == {}
    assert client.scan(TableName="orders")["Count"] == 1


def test_parameters_that_cannot_be_cached_are_botocores(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parameter that can't be a key of the small cache reaches botocore's own method unchanged."""
    client = boto3.client("s3")
    parameters = {"Region": "eu-west-1", "Bucket": {"of": "another type"}}
    received: list[Any] = []
    monkeypatch.setattr(EndpointProvider, _CACHED_METHOD, lambda self, **given: received.append(given))

    share_endpoint_rules(client)._ruleset_resolver._provider.resolve_endpoint(**parameters)

    assert received == [parameters]
