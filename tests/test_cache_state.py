"""What the credential cache keeps, for whom, how much of it, and what a fork leaves of it."""

from __future__ import annotations

import gc
import os
import threading
import traceback

import boto3
import pytest
from cache_helpers import HOUR, KEY, SOURCE, invalidate, key_for
from conftest import OTHER_ROLE, ROLE, Clock, FakeSTS, holds_in_a_fork, refusal, until

from xacct_lambda._cache_entry import CredentialKey
from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda._request import assume_role_request
from xacct_lambda.exceptions import AssumeRoleError
from xacct_lambda.instrumentation import CredentialEvent, set_hooks


class EqualSession(boto3.Session):
    """All sessions of this class are equal, as those of a class that compares Regions."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1


class UnhashableSession(boto3.Session):  # noqa: PLW1641 - the point
    def __eq__(self, other: object) -> bool:
        return self is other


@pytest.mark.parametrize("kind", [EqualSession, UnhashableSession])
def test_callers_are_told_apart_by_identity(cache: CredentialCache, kind: type[boto3.Session]) -> None:
    """Whatever sessions think of each other's equality, each has credentials of its own."""
    alice, bob = kind(), kind()
    keys = [CredentialKey(source, KEY.request) for source in (alice, bob, alice)]

    assert [cache.get(key).access_key for key in keys] == ["ASIA1", "ASIA2", "ASIA1"]
    assert keys[0] != KEY.request


def test_callers_that_are_gone_are_nobody() -> None:
    """What is held keeps no source session alive, and what sessions that are gone had is nobody else's."""
    one, other = (CredentialKey(boto3.Session(), KEY.request) for _ in range(2))
    gc.collect()

    assert one.source is other.source is None
    assert one != other
    assert one != CredentialKey(SOURCE, KEY.request)


def test_keys_print_no_external_id() -> None:
    """The repr of a key is that of its request, which shows neither external ID nor further parameters."""
    key = CredentialKey(SOURCE, assume_role_request(ROLE, external_id="hush-hush"))

    assert repr(key) == f"CredentialKey({key.request!r})"
    assert "hush" not in repr(key)


def test_a_key_is_found_among_many() -> None:
    """Neither the keys of many roles nor those of many sources fall into one bucket of a dictionary."""
    sources = [boto3.Session() for _ in range(3)]
    requests = [assume_role_request(f"{ROLE}-{number}") for number in range(3)]

    assert len({hash(CredentialKey(source, request)) for source in sources for request in requests}) == 9


def test_no_frame_of_an_error_holds_credentials(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Tools that report errors with the local variables of each frame get no credentials to see."""
    cache.get(KEY)
    clock.advance(HOUR)
    sts.failure = refusal()
    with pytest.raises(AssumeRoleError) as caught:
        cache.get(KEY)

    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    seen = [value for frame in frames[1:] for value in frame.f_locals.values()]
    assert len(frames) > 1
    assert not any(isinstance(value, tuple) and "secret-1" in str(tuple(value)) for value in seen)


def test_the_number_of_roles_is_bounded(sts: FakeSTS, clock: Clock) -> None:
    """Beyond ``max_roles``, the credentials that have gone unused the longest make room."""
    cache = CredentialCache(sts, clock=clock, max_roles=2)
    keys = [key_for(role_arn=f"{ROLE}-{number}") for number in range(3)]
    for key in (keys[0], keys[1], keys[0], keys[2]):
        cache.get(key)
    assert cache.counts().roles == 2

    cache.get(keys[0])
    assert sts.calls == 3
    cache.get(keys[1])
    assert sts.calls == 4


def test_counts(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Hits, misses, STS calls, failures and sets held are counted; an expired set is not held."""
    for _ in range(4):
        cache.get(KEY)
    sts.failure = refusal()
    for number in range(2):
        with pytest.raises(AssumeRoleError):
            cache.get(key_for(role_arn=f"{OTHER_ROLE}-{number}"))

    assert cache.counts() == (3, 3, 3, 2, 1)
    clock.advance(HOUR)
    assert cache.counts().roles == 0


def test_forgetting_drops_credentials_and_connections(cache: CredentialCache, sts: FakeSTS) -> None:
    """After ``forget`` nothing is held, no refusal is remembered, and STS is reached over new connections."""
    cache.get(KEY)
    sts.failure = refusal()
    with pytest.raises(AssumeRoleError):
        cache.get(key_for(role_arn=OTHER_ROLE))
    sts.failure = None

    cache.clear()

    assert sts.cleared == 1
    assert cache.counts().roles == 0
    assert cache.get(key_for(role_arn=OTHER_ROLE)).access_key == "ASIA3"


def test_an_attempt_from_before_forgetting_is_not_kept(cache: CredentialCache, sts: FakeSTS) -> None:
    """Credentials that arrive after ``forget`` serve those who waited for them, and are not remembered."""
    sts.during_request = lambda: cache.clear() if sts.calls == 1 else None

    assert cache.get(KEY).access_key == "ASIA1"
    assert cache.get(KEY).access_key == "ASIA2"


def test_a_fork_keeps_the_parents_credentials(cache: CredentialCache, sts: FakeSTS) -> None:
    """What the parent had fetched serves the child too, over connections of its own."""
    credentials = cache.get(KEY)

    cache.after_fork()

    assert cache.get(KEY) is credentials
    assert sts.cleared == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_assume_roles(cache: CredentialCache, sts: FakeSTS) -> None:
    """A child forked while an attempt is in flight makes its own attempt, and keeps the cached credentials."""
    release = threading.Event()
    other = cache.get(key_for(role_arn=OTHER_ROLE))
    sts.during_request = lambda: release.wait(60) and None
    leader = threading.Thread(target=cache.get, args=(KEY,))
    leader.start()
    until(lambda: sts.calls == 2)

    def child_assumes_roles() -> bool:
        sts.during_request = lambda: None
        cache.after_fork()
        return bool(cache.get(KEY)) and cache.get(key_for(role_arn=OTHER_ROLE)) is other

    assert holds_in_a_fork(child_assumes_roles)
    release.set()
    leader.join()


def test_roles_without_credentials_make_room_first(sts: FakeSTS, clock: Clock) -> None:
    """Roles that STS refused don't evict credentials that are valid."""
    cache = CredentialCache(sts, clock=clock, max_roles=3)
    good = cache.get(KEY)
    sts.failure = refusal()
    for number in range(10):
        with pytest.raises(AssumeRoleError):
            cache.get(key_for(role_arn=f"{OTHER_ROLE}-{number}"))

    assert cache.get(KEY) is good


def test_entries_of_a_source_that_is_gone(sts: FakeSTS, clock: Clock) -> None:
    """Credentials of a garbage-collected source session expire and are evicted like all others."""
    cache = CredentialCache(sts, clock=clock, max_roles=2)
    source = boto3.Session()
    cache.get(CredentialKey(source, KEY.request))
    del source
    gc.collect()
    for hours in (0, 2, 20):
        clock.advance(hours * HOUR)
        for number in range(3):
            cache.get(key_for(role_arn=f"{OTHER_ROLE}-{number}"))
        assert cache.counts().roles == 2


def test_expires_at(cache: CredentialCache, clock: Clock) -> None:
    """The expiry of the cached set is known without a call, until it is over."""
    assert cache.expires_at(KEY) is None
    cache.get(KEY)
    assert cache.expires_at(KEY) == clock() + HOUR
    clock.advance(HOUR)
    assert cache.expires_at(KEY) is None


def test_clearing_errors(cache: CredentialCache, sts: FakeSTS) -> None:
    """After ``clear_errors`` the next request of a refused role calls STS."""
    sts.failure = refusal()
    with pytest.raises(AssumeRoleError):
        cache.get(KEY)
    cache.clear_errors()
    sts.failure = None

    assert cache.get(KEY).access_key == "ASIA2"


def test_events(sts: FakeSTS, clock: Clock) -> None:
    """Hooks learn of refusals, rejections, and evictions, with the role and the code."""
    events: list[CredentialEvent] = []
    set_hooks([events.append])
    cache = CredentialCache(sts, clock=clock, max_roles=1)
    sts.failure = refusal()
    for _ in range(2):
        with pytest.raises(AssumeRoleError):
            cache.get(KEY)
    sts.failure = None
    other = key_for(role_arn=OTHER_ROLE)
    rejected = cache.get(other)
    clock.advance(60)
    invalidate(cache, other, rejected.access_key, "ExpiredToken")
    cache.get(other)
    cache.get(KEY)
    set_hooks([])

    assert [(event.kind, event.role_arn, event.error_code) for event in events if event.kind != "assume_role"] == [
        ("refusal", ROLE, "AccessDenied"),
        ("refusal", ROLE, "AccessDenied"),
        ("rejection", OTHER_ROLE, "ExpiredToken"),
        ("eviction", OTHER_ROLE, None),
    ]


def test_connections_are_dropped_once_for_each_idle_minute(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Each call of STS counts as use of the connections, so that a second call soon after it keeps them."""
    clock.advance(61)
    cache.get(KEY)
    clock.advance(30)
    cache.get(key_for(role_arn=OTHER_ROLE))

    assert sts.dropped == 1


def test_claims_of_earlier_attempts_are_forgotten(cache: CredentialCache, clock: Clock) -> None:
    """An entry references no attempt but the latest one, whose result contains credentials."""
    for _ in range(5):
        cache.get(KEY)
        clock.advance(HOUR)

    assert list(cache._entries[KEY]._claims) == [5]


def test_an_entry_before_its_first_attempt_keeps_its_place(sts: FakeSTS, clock: Clock) -> None:
    """A role whose first attempt is about to start is not evicted before others that were used earlier."""
    cache = CredentialCache(sts, clock=clock, max_roles=2)
    cache.get(KEY)
    entry = cache._entry(key_for(role_arn=OTHER_ROLE))
    cache.get(key_for(role_arn=f"{OTHER_ROLE}-2"))

    assert cache._entries[key_for(role_arn=OTHER_ROLE)] is entry
    assert KEY not in cache._entries
