"""The life of credentials, by an injected clock and an injected STS."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import boto3
import pytest
from botocore.config import Config
from conftest import OTHER_ROLE, ROLE, Clock, FakeSTS, holds_in_a_fork, outage, refusal, until

from xacct_lambda._assumed_credentials import AssumedRoleCredentials
from xacct_lambda._credential_cache import CredentialCache, CredentialKey, advisory_window
from xacct_lambda._invocation import current_context
from xacct_lambda._request import assume_role_request
from xacct_lambda._sts import FrozenCredentials
from xacct_lambda.exceptions import (
    AssumeRoleError,
    CallerCredentialsError,
    ConfigurationError,
    STSUnavailableError,
)

SOURCE = boto3.Session()
HOUR = 3600


def no_jitter(low: float, _high: float) -> float:
    return low


def key_for(duration_seconds: int = HOUR, role_arn: str = ROLE) -> CredentialKey:
    return CredentialKey(SOURCE, assume_role_request(role_arn, duration_seconds=duration_seconds))


KEY = key_for()

InTime = Callable[[int], None]


@pytest.fixture
def in_time() -> Iterator[InTime]:
    """Say how many milliseconds the invocation has left."""
    token = current_context.set(None)

    def set_remaining(milliseconds: int) -> None:
        current_context.set(type("Context", (), {"get_remaining_time_in_millis": lambda _self: milliseconds})())

    yield set_remaining
    current_context.reset(token)


@pytest.fixture
def cache(sts: FakeSTS, clock: Clock) -> CredentialCache:
    return CredentialCache(sts, clock=clock, jitter=no_jitter)


def in_threads(count: int, call: Callable[[], Any]) -> list[Any]:
    """Return what each of so many threads got, started at one instant; exceptions as values."""
    start = threading.Barrier(count, timeout=5)

    def run(_: int) -> Any:
        start.wait()
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - it is the result
            return error

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


# --- Renewal windows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lifetime", "window"),
    [(900, 300), (1200, 300), (1201, 900), (3600, 900), (5399, 900), (5400, 3600), (43200, 3600)],
)
def test_advisory_window(lifetime: int, window: int) -> None:
    """Renewal may start 5, 15 or 60 minutes before expiry: up to 20 minutes of life, under 90, and longer."""
    assert advisory_window(lifetime) == window


def test_warm_signatures_call_nobody(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Until the advisory window opens, every signature is served from memory."""
    first = cache.get(KEY)
    clock.advance(HOUR - 900 - 1)

    assert cache.get(KEY) is first
    assert sts.calls == 1


def test_renewal_starts_with_the_advisory_window(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """The first signature in the advisory window renews, and gets the new credentials."""
    first = cache.get(KEY)
    clock.advance(HOUR - 900)

    assert cache.get(KEY) is not first
    assert sts.calls == 2


@pytest.mark.parametrize(("jitter", "seconds_before_expiry"), [(0.0, 900), (1 / 3, 600)])
def test_jitter_delays_renewal(sts: FakeSTS, clock: Clock, jitter: float, seconds_before_expiry: int) -> None:
    """A fleet's renewals spread over the first third of the advisory window, never before it."""
    cache = CredentialCache(sts, clock=clock, jitter=lambda _low, high: min(jitter, high))
    cache.get(KEY)

    clock.advance(HOUR - seconds_before_expiry - 1)
    cache.get(KEY)
    assert sts.calls == 1
    clock.advance(1)
    cache.get(KEY)
    assert sts.calls == 2


def test_twenty_signatures_of_a_short_session_cost_one_call(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """A 900-second session does not renew on every signature."""
    for _ in range(20):
        cache.get(key_for(900))
        clock.advance(1)

    assert sts.calls == 1


@pytest.mark.parametrize(("duration", "calls"), [(900, 72), (1800, 48), (3600, 16)])
def test_calls_over_twelve_hours(cache: CredentialCache, sts: FakeSTS, clock: Clock, duration: int, calls: int) -> None:
    """Over 12 hours of one signature a second, a session renews once per life less its advisory window."""
    key = key_for(duration)
    for _ in range(12 * HOUR):
        cache.get(key)
        clock.advance(1)

    assert sts.calls == calls


def test_a_frozen_environment_renews_first(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """After two hours in which the environment was frozen, the next signature bears new credentials."""
    first = cache.get(KEY)
    clock.advance(2 * HOUR)

    assert cache.get(KEY) is not first
    assert sts.calls == 2


def test_a_clock_set_back_does_not_extend_a_life(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """When the wall clock steps back by an hour, credentials from before the step are not used again."""
    first = cache.get(KEY)
    clock.advance(HOUR / 2)
    cache.get(KEY)
    clock.advance(-HOUR)

    assert cache.get(KEY) is not first
    assert sts.calls == 2


def test_a_clock_that_trembles_costs_nothing(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """A step back of a second at most, as a clock's discipline makes them, drops nothing."""
    first = cache.get(KEY)
    clock.advance(-1)

    assert cache.get(KEY) is first
    assert sts.calls == 1


def test_a_clock_ahead_of_sts_does_not_renew_on_every_signature(
    cache: CredentialCache, sts: FakeSTS, clock: Clock
) -> None:
    """Where this machine's clock runs 50 minutes ahead, an hour's credentials still serve for half of what is left."""
    sts.lifetime = 600
    cache.get(KEY)
    clock.advance(299)

    cache.get(KEY)
    assert sts.calls == 1


def test_credentials_that_are_expired_on_arrival(cache: CredentialCache, sts: FakeSTS) -> None:
    """Credentials that have expired by this machine's clock are not handed out; the error asks about the clock."""
    sts.lifetime = -10

    with pytest.raises(STSUnavailableError, match="is the clock right"):
        cache.get(KEY)


# --- One attempt at a time --------------------------------------------------------------------------------------------


def test_cold_threads_share_one_call(cache: CredentialCache, sts: FakeSTS) -> None:
    """64 threads that need a role nobody has make one AssumeRole call, and all get its result."""
    sts.during = lambda: until(lambda: cache.counts().misses == 64)

    results = in_threads(64, lambda: cache.get(KEY))

    assert sts.calls == 1
    assert len(set(map(id, results))) == 1


@pytest.mark.parametrize("failure", [outage(), refusal()], ids=["outage", "refusal"])
def test_cold_threads_share_one_failure(cache: CredentialCache, sts: FakeSTS, failure: Exception) -> None:
    """64 threads make one failing attempt, and all fail with its cause: no queue of retries."""
    sts.failure = failure
    sts.during = lambda: until(lambda: cache.counts().misses == 64)

    results = in_threads(64, lambda: cache.get(KEY))

    assert sts.calls == 1
    assert {type(result) for result in results} == {type(failure)}
    assert {result.__cause__ for result in results} == {failure.__cause__}
    assert len(set(map(id, results))) == 64, "an exception object of its own for each thread"


def test_only_the_renewer_waits_in_the_advisory_window(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """While one signature renews ahead of time, all others are served at once with what is held."""
    first = cache.get(KEY)
    clock.advance(HOUR - 600)
    others: list[FrozenCredentials] = []
    sts.during = lambda: others.extend(in_threads(63, lambda: cache.get(KEY)))

    renewed = cache.get(KEY)

    assert sts.calls == 2
    assert renewed is not first
    assert all(other is first for other in others)


def test_all_wait_in_the_last_minute(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """In the last 60 seconds every signature waits for the renewal, so that none is signed with dying credentials."""
    first = cache.get(KEY)
    clock.advance(HOUR - 60)
    sts.during = lambda: until(lambda: cache.counts().misses == 1 + 8)

    results = in_threads(8, lambda: cache.get(KEY))

    assert sts.calls == 2
    assert first not in results


def test_different_roles_do_not_wait_for_each_other(cache: CredentialCache, sts: FakeSTS) -> None:
    """No lock is held during AssumeRole: two roles are assumed at the same time."""
    both = threading.Barrier(2, timeout=5)
    sts.during = lambda: both.wait() and None

    with ThreadPoolExecutor(2) as pool:
        credentials = list(pool.map(cache.get, [KEY, key_for(role_arn=OTHER_ROLE)]))

    assert credentials[0] is not credentials[1]


def test_an_interrupted_attempt_is_repeated_by_those_who_waited(cache: CredentialCache, sts: FakeSTS) -> None:
    """Where the leading thread dies of something else than STS, those who waited make an attempt of their own."""
    waiting = threading.Event()

    def interrupt_once() -> None:
        if sts.calls == 1:
            until(waiting.is_set)
            raise KeyboardInterrupt

    sts.during = interrupt_once
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(cache.get, KEY)
        until(lambda: sts.calls == 1)
        follower = pool.submit(cache.get, KEY)
        until(lambda: cache.counts().misses == 2)
        waiting.set()

        assert isinstance(follower.result(5), FrozenCredentials)
        assert isinstance(leader.exception(5), KeyboardInterrupt)


def test_waiting_ends_with_the_invocation(cache: CredentialCache, sts: FakeSTS) -> None:
    """A thread that waits for another's attempt gives up when its invocation's time is nearly over."""
    release = threading.Event()
    sts.during = lambda: until(release.is_set)

    class Context:
        def get_remaining_time_in_millis(self) -> int:
            return 260

    def follow() -> FrozenCredentials:
        current_context.set(Context())
        return cache.get(KEY)

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(cache.get, KEY)
        until(lambda: sts.calls == 1)
        with pytest.raises(STSUnavailableError) as caught:
            pool.submit(follow).result(5)
        assert str(caught.value).startswith(f"No answer from STS for {ROLE}: none in 0.01 s. Check the network")
        assert caught.value.response["Error"] == {"Code": "NoAnswerInTime", "Message": "none in 0.01 s"}
        assert caught.value.role_arn == ROLE
        release.set()
        assert isinstance(leader.result(5), FrozenCredentials)


def test_an_attempt_outlives_those_who_wait(cache: CredentialCache, sts: FakeSTS) -> None:
    """Who has waited as long as STS may take gets an error; what STS answers later is kept, and serves the next."""
    release = threading.Event()
    sts.during = lambda: until(release.is_set)
    sts.longest = 0.01

    for _ in range(2):
        with pytest.raises(STSUnavailableError, match=r"none in 0\.01 s\. Check the network") as caught:
            cache.get(KEY)
        assert caught.value.code == "NoAnswerInTime"
    release.set()
    sts.longest = 5

    assert cache.get(KEY).access_key == "ASIA1"
    assert sts.calls == 1


def test_an_answer_may_be_waited_for_without_end(cache: CredentialCache, sts: FakeSTS) -> None:
    """Where botocore makes the tries and no context tells the time, the wait ends with the attempt."""
    sts.longest = None

    assert cache.get(KEY).access_key == "ASIA1"


def test_a_slow_renewal_is_not_waited_for_to_the_end(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Where a renewal takes longer than STS may, what is held serves meanwhile."""
    first = cache.get(KEY)
    clock.advance(HOUR - 30)
    release = threading.Event()
    sts.during = lambda: until(release.is_set)
    sts.longest = 0.01

    assert cache.get(KEY) is first
    release.set()


@pytest.mark.parametrize("milliseconds", [0, 299])
def test_no_attempt_without_time(cache: CredentialCache, sts: FakeSTS, in_time: InTime, milliseconds: int) -> None:
    """Where the invocation is nearly over, no call is begun, and the error says so."""
    in_time(milliseconds)

    with pytest.raises(STSUnavailableError) as caught:
        cache.get(KEY)

    said = "the invocation has too little time left for a call of STS. Give the function a longer timeout"
    assert str(caught.value) == f"{ROLE}: {said}"
    assert caught.value.response == {
        "Error": {"Code": "NoTimeLeft", "Message": said},
        "ResponseMetadata": {"RequestId": "", "HTTPStatusCode": 0, "HTTPHeaders": {}, "RetryAttempts": 0},
    }
    assert caught.value.role_arn == ROLE
    assert (sts.calls, cache.counts().failures) == (0, 0)


def test_no_renewal_without_time(cache: CredentialCache, clock: Clock, in_time: InTime) -> None:
    """Where the invocation is nearly over, what is held serves, and the next invocation renews it."""
    first = cache.get(KEY)
    clock.advance(HOUR - 600)
    in_time(299)
    assert cache.get(KEY) is first

    in_time(310)
    assert cache.get(KEY) is not first


def test_the_error_comes_within_the_invocation(cache: CredentialCache, sts: FakeSTS, in_time: InTime) -> None:
    """The error of an STS that hangs comes a quarter of a second before the invocation ends."""
    release = threading.Event()
    sts.during = lambda: until(release.is_set)
    in_time(310)

    with pytest.raises(STSUnavailableError, match=r"none in 0\.06 s"):
        cache.get(KEY)
    release.set()


def test_an_interrupt_leaves_the_attempt_alone(cache: CredentialCache, sts: FakeSTS) -> None:
    """A signal's handler that raises in a thread which waits ends its wait; the attempt goes on and serves the next."""
    sts.during = lambda: os.kill(os.getpid(), signal.SIGUSR1) if sts.calls == 1 else None

    def interrupt(_signal: int, _frame: object) -> None:
        raise TimeoutError

    def get_interrupted() -> None:
        cache.get(KEY)
        until(lambda: False)

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        with pytest.raises(TimeoutError):
            get_interrupted()
    finally:
        signal.signal(signal.SIGUSR1, before)

    assert cache.get(KEY).access_key == "ASIA1"


def test_an_attempt_that_cannot_begin_is_forgotten(sts: FakeSTS, clock: Clock) -> None:
    """Where no thread is to be had, the error says so, and the next signature makes an attempt."""
    spawned: list[Callable[[], None]] = []

    def spawn(task: Callable[[], None]) -> None:
        spawned.append(task)
        if len(spawned) == 1:
            raise RuntimeError("can't start new thread")
        task()

    cache = CredentialCache(sts, clock=clock, spawn=spawn)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        cache.get(KEY)

    assert cache.get(KEY).access_key == "ASIA1"


def test_an_interrupt_that_forgets_before_the_attempt_begins(sts: FakeSTS, clock: Clock) -> None:
    """A signal handler that clears the cache and raises, as a time-out's may, is not followed by another error."""

    def spawn(_task: Callable[[], None]) -> None:
        cache.clear()
        raise KeyboardInterrupt

    cache = CredentialCache(sts, clock=clock, spawn=spawn)

    with pytest.raises(KeyboardInterrupt):
        cache.get(KEY)


def test_a_call_that_waits_for_itself(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """A hook of the call that signs as the same role gets an error rather than wait for ever, or what is held."""
    within: list[Any] = []

    def sign() -> None:
        try:
            within.append(cache.get(KEY))
        except STSUnavailableError as error:
            within.append(error)

    sts.during = sign
    first = cache.get(KEY)
    clock.advance(HOUR - 30)
    cache.get(KEY)

    said = "a hook or a log handler asks for its credentials within the very call that fetches them"
    assert str(within[0]) == f"{ROLE}: {said}"
    assert within[0].code == "WaitsForItself"
    assert within[1] is first


def test_a_signal_handler_may_sign(cache: CredentialCache) -> None:
    """Code that comes between, in the thread that is looking something up, may look something up itself."""
    first = cache.get(KEY)
    with cache._lock:
        assert cache.get(KEY) is first


def test_an_error_of_a_hook_is_shared(cache: CredentialCache, sts: FakeSTS) -> None:
    """What a hook raises in the one call is raised by all who wait for it, held credentials or not."""
    sts.failure = LookupError("a hook's own")
    sts.during = lambda: until(lambda: cache.counts().misses == 8)

    results = in_threads(8, lambda: cache.get(KEY))

    assert sts.calls == 1
    assert results == [sts.failure] * 8


def test_credentials_that_expire_before_they_are_taken(sts: FakeSTS, clock: Clock) -> None:
    """Where the environment is frozen just when an attempt has ended, what it brought is not served but replaced."""

    def spawn(task: Callable[[], None]) -> None:
        task()
        cache.clear()
        clock.advance(3 * HOUR if sts.calls == 1 else 0)

    cache = CredentialCache(sts, clock=clock, spawn=spawn)

    assert cache.get(KEY).access_key == "ASIA2"


# --- Failures ---------------------------------------------------------------------------------------------------------


def test_an_outage_is_served_from_what_is_held(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """With STS down from 14 minutes before expiry, every signature until expiry succeeds, with few attempts."""
    first = cache.get(KEY)
    clock.advance(HOUR - 14 * 60)
    sts.failure = outage()

    for _ in range(14 * 60):
        assert cache.get(KEY) is first
        clock.advance(1)

    assert sts.calls - 1 <= 14 * 60 / 30 + 4
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert caplog.messages == [
        f"Renewing the credentials of {ROLE} failed; those at hand serve for another 840 s. no answer for {ROLE}"
    ]


@pytest.mark.parametrize(
    ("jitter", "pauses"),
    [(min, [2.5, 5, 10, 20, 30, 30]), (max, [5, 10, 20, 40, 60, 60])],
    ids=["least", "most"],
)
def test_the_back_off_doubles(
    sts: FakeSTS, clock: Clock, jitter: Callable[[float, float], float], pauses: list[float]
) -> None:
    """Between failed renewals the pause doubles from 5 to 60 seconds, and jitter takes off up to half."""
    cache = CredentialCache(sts, clock=clock, jitter=jitter)
    cache.get(KEY)
    clock.advance(HOUR - 600)
    sts.failure = outage()
    attempts: list[float] = []
    sts.during = lambda: attempts.append(clock())

    while len(attempts) <= len(pauses):
        cache.get(KEY)
        clock.advance(0.5)

    assert [later - earlier for earlier, later in pairwise(attempts)] == pauses


def test_a_failure_is_logged_before_anybody_goes_on(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record is out before the event can be answered, after which Lambda may freeze the environment."""
    cache.get(KEY)
    clock.advance(HOUR - 900)
    sts.failure = outage()
    went_on = threading.Event()
    seen: list[bool] = []
    handler = logging.Handler()
    handler.emit = lambda _record: seen.append(went_on.wait(0.2))  # type: ignore[method-assign]
    monkeypatch.setattr(logging.getLogger("xacct_lambda._credential_cache"), "handlers", [handler])

    cache.get(KEY)
    went_on.set()

    assert seen == [False]


def test_a_failure_that_is_raised_is_not_logged(
    cache: CredentialCache, sts: FakeSTS, caplog: pytest.LogCaptureFixture
) -> None:
    """Where nothing is held, the error tells it all: no record beside it."""
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


def test_a_refusal_is_raised_at_once(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """A renewal that is refused for good is raised, even with minutes left on the credentials at hand."""
    cache.get(KEY)
    clock.advance(HOUR - 14 * 60)
    sts.failure = refusal()

    with pytest.raises(AssumeRoleError):
        cache.get(KEY)


@pytest.mark.parametrize("held", [False, True], ids=["cold", "while credentials are held"])
def test_a_refusal_is_remembered_for_seconds(cache: CredentialCache, sts: FakeSTS, clock: Clock, held: bool) -> None:
    """A hot loop over a refused role asks STS once in five seconds; then the refusal may heal."""
    if held:
        cache.get(KEY)
        clock.advance(HOUR - 600)
    sts.failure = refusal()
    calls = sts.calls
    for _ in range(100):
        with pytest.raises(AssumeRoleError):
            cache.get(KEY)
    assert sts.calls == calls + 1

    clock.advance(5)
    sts.failure = None
    assert isinstance(cache.get(KEY), FrozenCredentials)


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


def test_a_log_handler_may_sign_requests_itself(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """The warning is logged while no lock is held: a handler that ships logs as the role gets credentials."""
    first = cache.get(KEY)
    signed: list[FrozenCredentials] = []

    class ShippingHandler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            signed.append(cache.get(KEY))

    handler = ShippingHandler()
    logging.getLogger("xacct_lambda").addHandler(handler)
    clock.advance(HOUR - 600)
    sts.failure = outage()
    try:
        cache.get(KEY)
    finally:
        logging.getLogger("xacct_lambda").removeHandler(handler)

    assert signed == [first]


# --- A life of at least so long ---------------------------------------------------------------------------------------


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

    said = "STS issued credentials for less than the 2700 s needed: is the clock right?"
    assert str(caught.value) == f"{ROLE}: {said}"
    assert caught.value.response["Error"] == {"Code": "CredentialsTooShort", "Message": said}
    assert caught.value.role_arn == ROLE


# --- Credentials that a service rejects -------------------------------------------------------------------------------


def test_a_rejected_set_is_dropped(cache: CredentialCache, sts: FakeSTS) -> None:
    """Credentials that a service rejects are fetched anew."""
    rejected = cache.get(KEY)

    assert cache.invalidate(KEY, rejected.access_key)
    assert cache.get(KEY).access_key == "ASIA2"
    assert sts.calls == 2


def test_a_fresh_set_survives_the_rejection_of_an_old_one(cache: CredentialCache, sts: FakeSTS) -> None:
    """64 requests that were signed with a rejected set cost one further AssumeRole call, whatever their order."""
    old = cache.get(KEY)

    def reject_and_sign_again() -> FrozenCredentials:
        assert cache.invalidate(KEY, old.access_key)
        return cache.get(KEY)

    fresh = in_threads(64, reject_and_sign_again)

    assert sts.calls == 2
    assert {credentials.access_key for credentials in fresh} == {"ASIA2"}


def test_a_service_that_accepts_nothing_costs_few_calls(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Where the replacement is rejected too, it is replaced once in five seconds and not for each request."""
    for _ in range(100):
        cache.invalidate(KEY, cache.get(KEY).access_key)
    assert sts.calls == 2
    assert not cache.invalidate(KEY, cache.get(KEY).access_key)

    clock.advance(5)
    assert cache.invalidate(KEY, cache.get(KEY).access_key)


def test_a_set_dropped_meanwhile_is_signed_anew(cache: CredentialCache) -> None:
    """Where nothing is held any more, a rejected request is worth signing again."""
    assert cache.invalidate(KEY, "ASIA0")


# --- Who asks ---------------------------------------------------------------------------------------------------------


class EqualSession(boto3.Session):
    """Of a class for which all sessions are equal, as for one that compares Regions."""

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


def test_no_frame_of_an_error_holds_credentials(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Tools that report errors with the local variables of each frame get no credentials to see."""
    cache.get(KEY)
    clock.advance(HOUR - 600)
    sts.failure = refusal()
    with pytest.raises(AssumeRoleError) as caught:
        cache.get(KEY)

    frames = [frame for frame, _ in traceback.walk_tb(caught.value.__traceback__)]
    seen = [value for frame in frames[1:] for value in frame.f_locals.values()]
    assert len(frames) > 1
    assert not any(isinstance(value, tuple) and "secret-1" in str(tuple(value)) for value in seen)


# --- Bounds, forgetting, forks, snapshots -----------------------------------------------------------------------------


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
    sts.during = lambda: cache.clear() if sts.calls == 1 else None

    assert cache.get(KEY).access_key == "ASIA1"
    assert cache.get(KEY).access_key == "ASIA2"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_forked_child_can_assume_roles(cache: CredentialCache, sts: FakeSTS) -> None:
    """A child forked while another thread holds the lock, with an attempt under way, can assume roles."""
    release, inside = threading.Event(), threading.Event()
    held = cache.get(key_for(role_arn=OTHER_ROLE))

    def hold() -> None:
        with cache._lock:
            inside.set()
            release.wait(10)

    sts.during = lambda: release.wait(10) and None
    leader = threading.Thread(target=cache.get, args=(KEY,))
    leader.start()
    until(lambda: sts.calls == 2)
    holder = threading.Thread(target=hold)
    holder.start()
    until(inside.is_set)

    def child_assumes_roles() -> bool:
        sts.during = lambda: None
        cache.after_fork()
        return bool(cache.get(KEY)) and cache.get(key_for(role_arn=OTHER_ROLE)).token != held.token

    assert holds_in_a_fork(child_assumes_roles)
    release.set()
    holder.join()
    leader.join()


def test_a_fork_keeps_the_parents_credentials(cache: CredentialCache, sts: FakeSTS) -> None:
    """What the parent had fetched serves the child too, over connections of its own."""
    held = cache.get(KEY)

    cache.after_fork()

    assert cache.get(KEY) is held
    assert sts.cleared == 1


def test_a_fork_in_the_midst_of_a_change_starts_empty(cache: CredentialCache) -> None:
    """Where another thread was changing the entries as the process forked, the child trusts none of them."""
    held = cache.get(KEY)
    with ThreadPoolExecutor(1) as pool:
        pool.submit(cache._lock.acquire).result()

        cache.after_fork()

    assert cache.get(KEY) is not held


# --- Secrets ----------------------------------------------------------------------------------------------------------


def test_credentials_do_not_print_or_pickle(cache: CredentialCache) -> None:
    """Neither the credentials object nor the set it hands out shows or pickles a secret."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    frozen = credentials.get_frozen_credentials()

    for secret in (credentials, frozen):
        assert "secret-1" not in repr(secret)
        assert "token-1" not in repr(secret)
        assert "ASIA1" not in str(secret)
        with pytest.raises(TypeError) as caught:
            pickle.dumps(secret)
        assert str(caught.value) == (
            "credentials do not pickle: send the role's ARN and assume the role on the other side"
        )
    assert repr(frozen) == "FrozenCredentials(***)"


def test_credentials_have_botocores_attributes(cache: CredentialCache, sts: FakeSTS) -> None:
    """The object has what botocore's Credentials has; the account is read off the ARN without a call."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)

    assert credentials.account_id == "222222222222"
    assert credentials.method == "assume-role"
    assert sts.calls == 0
    assert (credentials.access_key, credentials.secret_key, credentials.token) == ("ASIA1", "secret-1", "token-1")
    assert repr(credentials) == f"AssumedRoleCredentials({ROLE!r})"
    assert sts.calls == 1


def test_the_last_half_second(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Where nothing is said of how long credentials must live, they serve through an outage to their very end."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    assert credentials.token == "token-1"
    sts.failure = outage()
    clock.advance(HOUR - 0.5)

    assert credentials.token == "token-1"


def test_a_key_is_found_among_many() -> None:
    """Neither the keys of many roles nor those of many sources fall into one bucket of a dictionary."""
    sources = [boto3.Session() for _ in range(3)]
    requests = [assume_role_request(f"{ROLE}-{number}") for number in range(3)]

    assert len({hash(CredentialKey(source, request)) for source in sources for request in requests}) == 9


def test_what_the_credentials_were_made_with_reaches_sts(cache: CredentialCache, sts: FakeSTS) -> None:
    """Source session, request and ``sts_config`` go along, whether the call is made, made ahead or prepared."""
    config = Config(read_timeout=2)
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request, config=config)

    credentials.prepare()
    credentials.prefetch()
    until(lambda: cache.counts().roles == 1)
    cache.clear()
    credentials.get_frozen_credentials()

    assert sts.prepared == [(SOURCE, config)]
    assert sts.asked == [(SOURCE, KEY.request, config)] * 2


def test_a_request_is_sent_again_once(cache: CredentialCache, clock: Clock) -> None:
    """A rejected request is sent again without delay, and however long that takes, not a second time."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    response: Any = (None, {"Error": {"Code": "ExpiredToken"}})
    context: dict[str, Any] = {"xacct_lambda_signer": credentials.access_key}

    assert credentials._retry_rejected(response, {"context": context}) == 0
    clock.advance(60)
    context["xacct_lambda_signer"] = credentials.access_key
    assert credentials._retry_rejected(response, {"context": context}) is None


def test_prefetching_fetches(cache: CredentialCache, sts: FakeSTS) -> None:
    """After a prefetch the first signature finds credentials; a second prefetch finds them too."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    credentials.prefetch()
    until(lambda: cache.counts().roles == 1)
    credentials.prefetch()

    assert credentials.token == "token-1"
    assert sts.calls == 1
    assert cache.counts() == (1, 0, 1, 0, 1)


@pytest.mark.parametrize(
    ("failure", "said"),
    [(outage(), f"no answer for {ROLE}"), (refusal(), f"STS refused {ROLE}"), (LookupError("a hook's"), "LookupError")],
    ids=["outage", "refusal", "hook"],
)
def test_a_failed_prefetch_poisons_nothing(
    cache: CredentialCache, sts: FakeSTS, caplog: pytest.LogCaptureFixture, failure: Exception, said: str
) -> None:
    """A failure ahead of time is logged and not remembered: the first event makes an attempt of its own."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    sts.failure = failure
    credentials.prefetch()
    until(lambda: len(caplog.messages) == 1)
    sts.failure = None

    assert credentials.token == "token-2"
    assert caplog.messages == [f"Credentials could not be fetched ahead; the first event tries again. {said}"]


def test_those_who_wait_for_a_failing_prefetch_try_again(cache: CredentialCache, sts: FakeSTS) -> None:
    """A first event that waits for a prefetch which then fails does not fail with it."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)

    def fail_once() -> None:
        sts.failure = outage() if sts.calls == 1 else None
        if sts.calls == 1:
            until(lambda: cache.counts().misses == 1)

    sts.during = fail_once
    credentials.prefetch()
    credentials.prefetch()

    assert credentials.token == "token-2"
    assert sts.calls == 2


def test_log_messages_hold_no_secret(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning on a failed renewal names the role and the error, and no credential."""
    caplog.set_level(logging.DEBUG)
    cache.get(KEY)
    clock.advance(HOUR - 600)
    sts.failure = outage()
    cache.get(KEY)

    assert "secret-1" not in caplog.text
    assert "token-1" not in caplog.text
