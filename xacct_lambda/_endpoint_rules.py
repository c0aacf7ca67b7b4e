"""Endpoint rules of clients: parsed rules that clients of all roles share, and resolved endpoints that they don't.

Each botocore client parses the endpoint rules of its service, which takes 50 KB for S3 and 55 KB for Kinesis. An
evaluation doesn't change a rule, so clients share the rules. Each client keeps its own provider, rule set, and
endpoints.
"""

from __future__ import annotations

import functools
from typing import Any, Final
from weakref import WeakValueDictionary

from botocore.endpoint_provider import EndpointProvider

_MAX_ENDPOINTS: Final = 16
# botocore 1.44 caches what this private method returns, and 1.34 what the public method returns.
_CACHED_METHOD: Final = "_resolve_endpoint" if hasattr(EndpointProvider, "_resolve_endpoint") else "resolve_endpoint"

# The rules in use, by the identity of their list of conditions. That list is a part of the service's JSON data, which
# the loader reads once. A rule keeps it in memory, so its identity is unique while the rule is in this dict.
_rules: WeakValueDictionary[int, Any] = WeakValueDictionary()


def share_endpoint_rules(client: Any) -> Any:
    """Return the client, with endpoint rules that it shares with the other clients of its service.

    If botocore's attributes or classes are not the expected ones, the client stays as botocore created it.
    """
    # No public name leads to the provider. A client of a service without endpoint rules has no resolver.
    resolver = getattr(client, "_ruleset_resolver", None)
    provider = getattr(resolver, "_provider", None)
    if type(provider) is EndpointProvider:
        rules = getattr(getattr(provider, "ruleset", None), "rules", None)
        if isinstance(rules, list):
            rules[:] = map(_shared_rule, rules)
        resolver._provider = _CachingProvider(provider)  # type: ignore[union-attr] # noqa: SLF001
    return client


def _shared_rule(rule: Any) -> Any:
    shared = _rules.setdefault(id(getattr(rule, "conditions", None)), rule)
    return shared if _is_same(rule, shared) else rule


def _is_same(rule: Any, other: Any) -> bool:
    """Return whether both rules were parsed from the same JSON data, so that one can replace the other."""
    pairs = [(rule, other)]
    for one, two in pairs:  # S3 has 300 rules, so this is a loop without calls for most of them.
        ones, twos = one.__dict__, two.__dict__
        if one.__class__ is not two.__class__:
            return False
        # Usually all attributes are the same objects, except the rules inside a rule. Rules have no equality.
        if ones != twos:
            inner, other_inner = ones.get("rules", ()), twos.get("rules", ())
            if len(inner) != len(other_inner) or {**ones, "rules": None} != {**twos, "rules": None}:
                return False
            pairs += zip(inner, other_inner, strict=True)
    return True


class _CachingProvider(EndpointProvider):  # type: ignore[misc, unused-ignore] # botocore has no type annotations
    """A client's endpoint provider with a small cache in front of botocore's.

    botocore caches 100 endpoints per process. With more clients than that, each request would evaluate the rules again,
    which takes 0.8 ms for S3.
    """

    def __init__(self, provider: EndpointProvider) -> None:
        vars(self).update(vars(provider))
        botocores = getattr(provider, _CACHED_METHOD)
        # Of the client's own: a hook that changes the properties of an endpoint must not change another role's.
        cached = functools.lru_cache(_MAX_ENDPOINTS)(botocores)

        @functools.wraps(cached)
        def resolve(**parameters: Any) -> Any:
            # A list can't be a key of a cache. DynamoDB's batch requests have a list of tables.
            keys = {name: tuple(item) if isinstance(item, list) else item for name, item in parameters.items()}
            try:
                return cached(**keys)
            except TypeError:
                # Another type that can't be a key: what to do with it is for botocore to decide.
                return botocores(**parameters)

        setattr(self, _CACHED_METHOD, resolve)
