"""The credential cache when STS fails: what serves, what is logged, how often STS is called, what services reject."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from itertools import pairwise

import pytest
from cache_helpers import HOUR, KEY, in_threads, invalidate
from conftest import ROLE, Background, Clock, FakeSTS, outage, refusal

from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda._sts import FrozenCredentials
from xacct_lambda.exceptions import AssumeRoleError, CallerCredentialsError, ConfigurationError, STSUnavailableError


def test_an_outage_is_served_from_the_cache(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    """With STS down from 14 minutes before expiry, every signature until expiry succeeds. One WARNING is logged."""
    first = cache.get(KEY)
    clock.advance(HOUR - 14 * 60)
    sts.failure = outage()

    for _ in range(14 * 60):
        assert cache.get(KEY) is first
        background.run()
        clock.advance(1)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    [message] = caplog.messages
    assert message.startswith(f"Could not refresh the credentials of {ROLE} (started at ")
    assert message.endswith(f"The cached credentials are valid for another 840 s. no answer for {ROLE}")


@pytest.mark.parametrize("jitter", [min, max], ids=["shortest", "longest"])
@pytest.mark.parametrize("start", [14 * 60, 15 * 60])
def test_an_outage_of_fourteen_minutes_costs_twenty_requests(
    sts: FakeSTS, clock: Clock, background: Background, jitter: Callable[[float, float], float], start: int
) -> None:
    """At most 20 requests reach STS in an outage of 14 minutes, whatever the jitter draws."""
    cache = CredentialCache(sts, clock=clock, jitter=jitter, start_background_thread=background)
    cache.get(KEY)
    clock.advance(HOUR - start)
    sts.failure = outage()
    requests = len(sts.max_requests)

    for _ in range(14 * 60 * 4):
        cache.get(KEY)
        background.run()
        clock.advance(0.25)

    assert sum(sts.max_requests[requests:]) <= 20


@pytest.mark.parametrize(
    ("jitter", "delays"),
    [(min, [5, 10, 20, 40, 60, 60]), (max, [7.5, 15, 30, 60, 90, 90])],
    ids=["shortest", "longest"],
)
def test_the_back_off_doubles(
    sts: FakeSTS, clock: Clock, background: Background, jitter: Callable[[float, float], float], delays: list[float]
) -> None:
    """The delay between failed refreshes doubles from 5 to 60 seconds, and jitter adds up to half."""
    cache = CredentialCache(sts, clock=clock, jitter=jitter, start_background_thread=background)
    cache.get(KEY)
    clock.advance(HOUR - 600)
    sts.failure = outage()
    attempts: list[float] = []
    sts.during_request = lambda: attempts.append(clock())

    while len(attempts) <= len(delays):
        cache.get(KEY)
        background.run()
        clock.advance(0.5)

    assert [later - earlier for earlier, later in pairwise(attempts)] == delays


def test_an_outage_ends_with_a_success(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    """The next outage has its own WARNING and starts with the shortest back-off again."""
    cache.get(KEY)
    for _ in range(2):
        clock.advance(HOUR - 600)
        sts.failure = outage()
        for _ in range(3):
            cache.get(KEY)
            background.run()
            clock.advance(20)
        sts.failure = None
        clock.advance(60)
        cache.get(KEY)
        background.run()

    assert [record.levelname for record in caplog.records] == ["WARNING"] * 2


def test_a_refusal_does_not_end_valid_credentials(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    """A refused refresh is logged at once. The cached set serves until it expires, and then the error is raised."""
    first = cache.get(KEY)
    clock.advance(HOUR - 14 * 60)
    sts.failure = refusal()
    for _ in range(14 * 60):
        assert cache.get(KEY) is first
        background.run()
        clock.advance(1)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages[0].startswith(f"STS refused to refresh the credentials of {ROLE}")
    with pytest.raises(AssumeRoleError):
        cache.get(KEY)


def test_a_refusal_is_cached_for_seconds(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """A hot loop over a refused role calls STS once in five seconds. Then the next request asks again."""
    sts.failure = refusal()
    for _ in range(100):
        with pytest.raises(AssumeRoleError):
            cache.get(KEY)
    assert sts.calls == 1

    clock.advance(5)
    sts.failure = None
    assert isinstance(cache.get(KEY), FrozenCredentials)


def test_an_answer_with_a_shorter_lifetime_is_a_failure(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    """A refresh that yields less lifetime than the cached set has changes nothing. It is logged, and backs off."""
    first = cache.get(KEY)
    clock.advance(HOUR - 600)
    sts.lifetime = -1
    for _ in range(10):
        assert cache.get(KEY) is first
        background.run()

    assert sts.calls == 2
    assert "Check the clock of this machine" in caplog.text


def test_a_log_handler_may_sign_requests_itself(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background
) -> None:
    """A log handler that ships the WARNING as the role gets credentials, in both windows."""
    first = cache.get(KEY)
    signed: list[FrozenCredentials] = []

    class ShippingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            signed.append(cache.get(KEY))

    handler = ShippingHandler()
    logging.getLogger("xacct_lambda").addHandler(handler)
    sts.failure = outage()
    try:
        clock.advance(HOUR - 600)
        cache.get(KEY)
        background.run()
        sts.failure = None
        clock.advance(60)
        cache.get(KEY)
        background.run()
        sts.failure = outage()
        clock.advance(HOUR - 30)
        second = cache.get(KEY)
    finally:
        logging.getLogger("xacct_lambda").removeHandler(handler)

    assert signed == [first, second]


def test_a_failure_that_is_raised_is_not_logged(
    cache: CredentialCache, sts: FakeSTS, caplog: pytest.LogCaptureFixture
) -> None:
    """If nothing valid is cached, the error says everything, and nothing is logged."""
    sts.failure = outage()
    with pytest.raises(STSUnavailableError):
        cache.get(KEY)

    assert caplog.messages == []


def test_after_an_outage_that_outlasts_the_credentials(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Expired credentials are never served: the first signature after expiry raises, with the last cause."""
    cache.get(KEY)
    sts.failure = outage()
    clock.advance(HOUR - 1)
    cache.get(KEY)
    clock.advance(1)

    with pytest.raises(STSUnavailableError) as caught:
        cache.get(KEY)

    assert caught.value.__cause__ is sts.failure.__cause__


def test_the_next_attempt_heals(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """When STS is back, the next attempt succeeds, though the one before it failed at the same instant."""
    cache.get(KEY)
    clock.advance(HOUR)
    sts.failure = outage()
    with pytest.raises(STSUnavailableError):
        cache.get(KEY)
    sts.failure = None

    assert cache.get(KEY).access_key == "ASIA3"


def test_a_remembered_refusal_does_not_grow(cache: CredentialCache, sts: FakeSTS) -> None:
    """Each time a remembered refusal is raised it is another object, so that no traceback grows in a hot loop."""
    sts.failure = refusal()
    errors = []
    for _ in range(3):
        with pytest.raises(AssumeRoleError) as caught:
            cache.get(KEY)
        errors.append(caught.value)

    assert len({id(error) for error in errors}) == 3
    assert len(traceback.extract_tb(errors[2].__traceback__)) <= len(traceback.extract_tb(errors[1].__traceback__))


@pytest.mark.parametrize("code", ["ExpiredToken", "InvalidClientTokenId", "SignatureDoesNotMatch"])
def test_trouble_with_the_callers_credentials_is_no_refusal(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, code: str
) -> None:
    """Where STS rejects the caller's own credentials, what is held for the role goes on serving."""
    first = cache.get(KEY)
    clock.advance(HOUR - 600)
    response = {"Error": {"Code": code, "Message": "no"}}
    sts.failure = CallerCredentialsError("rejected", role_arn=ROLE, response=response)

    assert cache.get(KEY) is first


def test_a_configuration_error_is_not_cached(cache: CredentialCache, sts: FakeSTS) -> None:
    """Nothing is remembered of a call that could not be made: once it can, it is."""
    sts.failure = ConfigurationError("source_session", "no credentials")
    with pytest.raises(ConfigurationError):
        cache.get(KEY)
    sts.failure = None

    assert cache.get(KEY).access_key == "ASIA2"


def test_min_ttl_renews_early(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Credentials that live 30 more minutes are renewed for a caller who needs 45, and serve one who needs 15."""
    first = cache.get(KEY)
    clock.advance(HOUR / 2)

    assert cache.get(KEY, min_ttl_seconds=900) is first
    assert cache.get(KEY, min_ttl_seconds=2700) is not first
    assert sts.calls == 2


def test_min_ttl_that_cannot_be_reached(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Where renewal fails, a caller who needs 45 minutes gets an error, not credentials for 30."""
    cache.get(KEY)
    clock.advance(HOUR / 2)
    sts.failure = outage()

    with pytest.raises(STSUnavailableError):
        cache.get(KEY, min_ttl_seconds=2700)


def test_a_failure_for_min_ttl_does_not_hasten_renewal(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """A failed attempt for a caller who needs a longer life leaves everybody else's renewal when it was due."""
    first = cache.get(KEY)
    sts.failure = outage()
    with pytest.raises(STSUnavailableError):
        cache.get(KEY, min_ttl_seconds=3600)
    sts.failure = None
    clock.advance(HOUR - 900 - 1)

    assert cache.get(KEY) is first


def test_min_ttl_is_outlived(cache: CredentialCache, sts: FakeSTS) -> None:
    """Credentials that live just as long as is needed, and no longer, are not enough."""
    sts.lifetime = 900

    with pytest.raises(STSUnavailableError, match="less than the 900 s needed"):
        cache.get(KEY, min_ttl_seconds=900)


def test_min_ttl_longer_than_what_sts_issues(cache: CredentialCache, sts: FakeSTS) -> None:
    """Where STS issues less than is needed, the error says how much was needed."""
    sts.lifetime = 900

    with pytest.raises(STSUnavailableError) as caught:
        cache.get(KEY, min_ttl_seconds=2700)

    explanation = "STS issued credentials for less than the 2700 s needed. Check the clock of this machine"
    assert str(caught.value) == f"{ROLE}: {explanation}"
    assert caught.value.response["Error"] == {"Code": "CredentialsTooShort", "Message": explanation}
    assert caught.value.role_arn == ROLE


# --- Credentials that a service rejects -------------------------------------------------------------------------------


def test_a_rejected_set_is_dropped(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Credentials that a service rejects are replaced, and the request is signed again at once."""
    rejected = cache.get(KEY)
    clock.advance(60)

    assert invalidate(cache, KEY, rejected.access_key) == 0
    assert cache.counts().roles == 0
    assert cache.get(KEY).access_key == "ASIA2"
    assert sts.calls == 2


def test_a_new_set_is_kept_for_seconds(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """A service may not know a set that is seconds old. The request is sent again later with the same set."""
    first = cache.get(KEY)
    clock.advance(4.9)

    assert invalidate(cache, KEY, first.access_key, may_be_unknown=True) == 1
    assert cache.get(KEY) is first
    clock.advance(0.1)
    assert invalidate(cache, KEY, first.access_key, may_be_unknown=True) == 0
    assert sts.calls == 1


def test_a_new_set_that_has_expired_is_dropped(cache: CredentialCache) -> None:
    """A service that says "expired" knows the set. It is replaced at once, but its new replacement is not."""
    assert invalidate(cache, KEY, cache.get(KEY).access_key) == 0
    assert invalidate(cache, KEY, cache.get(KEY).access_key) == 1


def test_a_new_set_survives_the_rejection_of_an_old_one(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """64 requests that were signed with a rejected set cost one further AssumeRole call, whatever their order."""
    old = cache.get(KEY)
    clock.advance(60)

    def reject_and_sign_again() -> FrozenCredentials:
        assert invalidate(cache, KEY, old.access_key) == 0
        return cache.get(KEY)

    new = in_threads(64, reject_and_sign_again)

    assert sts.calls == 2
    assert {credentials.access_key for credentials in new} == {"ASIA2"}


def test_a_service_that_accepts_nothing_costs_few_calls(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Each replacement that doesn't help doubles the age from which on the next set is replaced."""
    replaced: list[float] = []
    started = clock()
    for _ in range(3000):
        access_key = cache.get(KEY).access_key
        if invalidate(cache, KEY, access_key, may_be_unknown=True) == 0:
            replaced.append(clock() - started)
        clock.advance(1)

    assert [later - earlier for earlier, later in pairwise(replaced)] == [6, 11, 21, 41, 81, 161, 321, 641, 901]
    assert sts.calls == len(replaced) + 1


def test_a_set_that_lasted_starts_over(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background
) -> None:
    """After a set that no service rejected, the next rejection counts as the first one."""
    for _ in range(4):
        clock.advance(1000)
        invalidate(cache, KEY, cache.get(KEY).access_key)
    cache.get(KEY)
    clock.advance(HOUR - 600)
    cache.get(KEY)
    background.run()
    clock.advance(5)

    assert invalidate(cache, KEY, cache.get(KEY).access_key) == 0


def test_a_set_that_is_no_longer_cached_is_signed_again(cache: CredentialCache) -> None:
    """If the cache has no credentials, or other ones, a rejected request is signed again at once."""
    assert invalidate(cache, KEY, "ASIA0") == 0
    cache.get(KEY)
    assert invalidate(cache, KEY, "ASIA0") == 0


def test_a_rejected_set_gives_way_to_any_other(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """The set that replaces a rejected one may expire earlier."""
    first = cache.get(KEY)
    clock.advance(60)
    invalidate(cache, KEY, first.access_key)
    sts.lifetime = 900

    assert cache.get(KEY).access_key == "ASIA2"
    assert cache.get(KEY).access_key == "ASIA2"


def test_an_answer_that_is_shorter_before_the_window_is_no_failure(
    cache: CredentialCache, sts: FakeSTS, caplog: pytest.LogCaptureFixture
) -> None:
    """If a caller needs a longer lifetime and STS issues a shorter one, the cached set needs no refresh."""
    cache.get(KEY)
    sts.lifetime = 1800
    with pytest.raises(STSUnavailableError):
        cache.get(KEY, min_ttl_seconds=HOUR)

    assert (cache.counts().failures, caplog.messages) == (0, [])
