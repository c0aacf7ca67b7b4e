"""The credential cache's refresh windows: when a refresh starts, and which signatures wait for it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
from cache_helpers import HOUR, KEY, Context, key_for
from conftest import ROLE, Background, Clock, FakeSTS, outage, refusal

from xacct_lambda._credential_cache import CredentialCache, advisory_window
from xacct_lambda._invocation import current_context
from xacct_lambda.exceptions import STSUnavailableError


@pytest.fixture
def invoke() -> Iterator[Callable[[Context], None]]:
    """Begin an invocation with this context."""
    token = current_context.set(None)
    yield current_context.set
    current_context.reset(token)


Invoke = Callable[[Context], None]


@pytest.mark.parametrize(
    ("lifetime", "window"),
    [(900, 300), (1200, 300), (1201, 900), (3600, 900), (5399, 900), (5400, 3600), (43200, 3600)],
)
def test_advisory_window(lifetime: int, window: int) -> None:
    """A refresh may start 5, 15, or 60 minutes before expiry: up to 20 minutes of lifetime, under 90, and longer."""
    assert advisory_window(lifetime) == window


def test_warm_signatures_call_nobody(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background
) -> None:
    """Until the advisory window starts, every signature is served from the cache."""
    first = cache.get(KEY)
    clock.advance(HOUR - 900 - 1)

    assert cache.get(KEY) is first
    assert (sts.calls, background.tasks) == (1, [])


def test_a_signature_in_the_advisory_window_does_not_wait(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background
) -> None:
    """In the advisory window a signature gets the cached set at once, and starts one refresh in the background."""
    first = cache.get(KEY)
    clock.advance(HOUR - 900)

    assert cache.get(KEY) is cache.get(KEY) is first
    assert sts.calls == 1
    assert background.run() == 1
    assert cache.get(KEY) is not first
    assert (sts.calls, cache.counts().misses) == (2, 1)


def test_a_background_refresh_makes_one_request(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background
) -> None:
    """A refresh in the background makes one request to STS, an attempt that a request needs up to two."""
    cache.get(KEY)
    clock.advance(HOUR - 900)
    cache.get(KEY)
    background.run()

    assert sts.max_requests == [2, 1]


@pytest.mark.parametrize(("jitter", "seconds_before_expiry"), [(0.0, 900), (1 / 3, 600)])
def test_jitter_delays_refresh(
    sts: FakeSTS, clock: Clock, background: Background, jitter: float, seconds_before_expiry: int
) -> None:
    """A fleet's refreshes spread over the first third of the advisory window, and none starts before it."""
    cache = CredentialCache(
        sts, clock=clock, start_background_thread=background, jitter=lambda _low, high: min(jitter, high)
    )
    cache.get(KEY)

    clock.advance(HOUR - seconds_before_expiry - 1)
    cache.get(KEY)
    assert background.run() == 0
    clock.advance(1)
    cache.get(KEY)
    assert background.run() == 1


def test_twenty_signatures_of_a_short_session_cost_one_call(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """A 900-second session does not refresh on every signature."""
    for _ in range(20):
        cache.get(key_for(900))
        clock.advance(1)

    assert sts.calls == 1


@pytest.mark.parametrize(("duration", "calls"), [(900, 72), (1800, 48), (3600, 16)])
def test_calls_over_twelve_hours(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, duration: int, calls: int
) -> None:
    """Over 12 hours of one signature a second, a session refreshes once per lifetime less its advisory window."""
    key = key_for(duration)
    for _ in range(12 * HOUR):
        cache.get(key)
        background.run()
        clock.advance(1)

    assert sts.calls == calls


def test_a_frozen_environment_refreshes_first(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """After two hours in which the environment was frozen, the next signature has new credentials."""
    first = cache.get(KEY)
    clock.advance(2 * HOUR)

    assert cache.get(KEY) is not first
    assert sts.calls == 2


def test_a_clock_set_back_does_not_extend_a_lifetime(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """When the wall clock steps back by an hour, credentials from before the step are not used again."""
    first = cache.get(KEY)
    clock.advance(HOUR / 2)
    cache.get(KEY)
    clock.advance(-HOUR)

    assert cache.get(KEY) is not first
    assert sts.calls == 2


def test_a_small_step_of_the_clock_costs_nothing(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """A step back of a second at most, as NTP makes them, drops nothing."""
    first = cache.get(KEY)
    clock.advance(-1)

    assert cache.get(KEY) is first
    assert sts.calls == 1


def test_a_clock_ahead_of_sts_does_not_refresh_on_every_signature(
    cache: CredentialCache, clock: Clock, sts: FakeSTS, background: Background
) -> None:
    """If this machine's clock runs 50 minutes ahead, an hour's credentials still serve for half of what is left."""
    sts.lifetime = 600
    cache.get(KEY)
    clock.advance(299)

    cache.get(KEY)
    assert background.tasks == []


def test_credentials_that_are_expired_on_arrival(cache: CredentialCache, sts: FakeSTS) -> None:
    """Credentials that have expired by this machine's clock are not used; the error names the clock."""
    sts.lifetime = -10

    with pytest.raises(STSUnavailableError, match="Check the clock of this machine"):
        cache.get(KEY)


# --- The mandatory window ---------------------------------------------------------------------------------------------


def test_the_first_signature_of_the_last_minute_waits(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background
) -> None:
    """With 60 seconds left, a signature waits for the refresh, and has the new credentials."""
    first = cache.get(KEY)
    clock.advance(HOUR - 60)

    assert cache.get(KEY) is not first
    assert (sts.calls, sts.max_requests, background.tasks) == (2, [2, 1], [])


def test_one_wait_for_each_attempt(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """While one signature waits in the last minute, all others are served at once from the cache."""
    first = cache.get(KEY)
    clock.advance(HOUR - 50)
    others: list[object] = []
    sts.during_request = lambda: others.extend(cache.get(KEY) for _ in range(5))

    assert cache.get(KEY) is not first
    assert [other is first for other in others] == [True] * 5
    assert cache.counts().misses == 2


def test_in_the_last_minute_a_failure_is_waited_for_once(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background
) -> None:
    """After a failed attempt in the last minute, signatures are served from the cache until the back-off ends."""
    first = cache.get(KEY)
    clock.advance(HOUR - 50)
    sts.failure = outage()

    assert [cache.get(KEY) for _ in range(6)] == [first] * 6
    assert (sts.calls, cache.counts().misses) == (2, 2)
    clock.advance(5)
    assert cache.get(KEY) is first
    assert (sts.calls, cache.counts().misses, background.tasks) == (3, 3, [])


def test_in_the_last_minute_an_attempt_that_never_ends_is_waited_for_once(
    sts: FakeSTS, clock: Clock, background: Background
) -> None:
    """An attempt past its time limit counts as failed. The back-off holds for it too."""
    hung: list[Callable[[], None]] = []
    cache = CredentialCache(
        sts,
        clock=clock,
        jitter=lambda low, _high: low,
        start_background_thread=background,
        start_thread=lambda task: hung.append(task) if sts.calls else task(),
        wait=lambda latch, limit, _left: clock.advance(0 if latch.is_set else (limit or 0) + 10) or latch.is_set,
    )
    first = cache.get(KEY)
    clock.advance(HOUR - 55)

    assert cache.get(KEY) is first
    waited_until = clock()
    assert [cache.get(KEY) for _ in range(5)] == [first] * 5
    assert (clock(), len(hung), cache.counts().failures) == (waited_until, 1, 1)


def test_no_refresh_without_time(
    cache: CredentialCache, clock: Clock, background: Background, invoke: Invoke, sts: FakeSTS
) -> None:
    """If the invocation is nearly over, the cached set serves, and the next invocation refreshes it."""
    first = cache.get(KEY)
    for seconds_left in (600, 50):
        clock.advance(HOUR - seconds_left - (clock() - 1_800_000_000))
        invoke(Context(299))
        assert cache.get(KEY) is first
        assert (background.tasks, sts.calls) == ([], 1)

    invoke(Context(310))
    assert cache.get(KEY) is not first


def test_two_seconds_left_are_left_to_the_handler(
    cache: CredentialCache, clock: Clock, background: Background, invoke: Invoke
) -> None:
    """In the advisory window a refresh takes nothing of the invocation's remaining time."""
    invoke(Context(2000))
    first = cache.get(KEY)
    clock.advance(HOUR - 600)

    assert cache.get(KEY) is first
    assert len(background.tasks) == 1


# --- Attempts that a freeze cuts --------------------------------------------------------------------------------------


def cut(cache: CredentialCache, clock: Clock, invoke: Invoke) -> None:
    """Start a refresh in one invocation, and freeze the environment before its thread runs."""
    invoke(Context())
    cache.get(KEY)
    clock.advance(HOUR - 800)
    cache.get(KEY)
    clock.advance(60)
    invoke(Context())


def cut_in_request(cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, invoke: Invoke) -> None:
    """Let a refresh fail whose environment was frozen while STS had the request."""
    invoke(Context())
    cache.get(KEY)
    clock.advance(HOUR - 800)
    cache.get(KEY)
    sts.failure = refusal("SignatureDoesNotMatch")
    sts.during_request = lambda: clock.advance(60)
    background.run()
    sts.during_request = lambda: None
    invoke(Context())


def test_a_cut_refresh_is_waited_for_once(
    sts: FakeSTS, clock: Clock, background: Background, invoke: Invoke, caplog: pytest.LogCaptureFixture
) -> None:
    """The first signature that finds a refresh which a freeze has cut joins it. That is no failure."""
    waits: list[float | None] = []

    def thawed(latch: object, limit: float | None, _left: float | None) -> bool:
        waits.append(limit)
        background.run()
        return True

    cache = CredentialCache(
        sts,
        clock=clock,
        jitter=lambda low, _high: low,
        start_thread=lambda task: task(),
        start_background_thread=background,
        wait=thawed,
    )
    cut(cache, clock, invoke)
    waits.clear()

    assert cache.get(KEY).access_key == "ASIA2"
    assert (len(waits), sts.calls, cache.counts().failures, caplog.messages) == (1, 2, 0, [])


def test_a_cut_refresh_that_fails_is_repeated_within_one_limit(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, invoke: Invoke,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """If the cut attempt fails after the thaw, the signature that waits makes one more attempt."""
    cut_in_request(cache, sts, clock, background, invoke)
    sts.failure = None

    assert cache.get(KEY).access_key == "ASIA3"
    assert (sts.calls, cache.counts().failures, caplog.messages) == (3, 0, [])


def test_half_of_the_invocation_is_left_to_the_handler(
    sts: FakeSTS, clock: Clock, background: Background, invoke: Invoke
) -> None:
    """A signature that waits for a cut refresh waits for half of the remaining time at most."""
    lefts: list[float | None] = []
    cache = CredentialCache(
        sts,
        clock=clock,
        jitter=lambda low, _high: low,
        start_background_thread=background,
        start_thread=lambda task: task(),
        wait=lambda latch, _limit, left: lefts.append(left) or latch.is_set,
    )
    cut_in_request(cache, sts, clock, background, invoke)
    lefts.clear()
    invoke(Context(2250))
    cache.get(KEY)

    assert lefts == [1.0, 1.0]


@pytest.mark.parametrize("starts_in_thread", [True, False])
def test_threads_without_an_invocation_do_not_wait(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, starts_in_thread: bool
) -> None:
    """If a handler signs in threads of its own, a refresh that hangs in the same event delays no signature."""
    first = cache.get(KEY)
    clock.advance(HOUR - 800)

    def sign_in_invocation() -> None:
        token = current_context.set(Context())
        assert cache.get(KEY) is first
        current_context.reset(token)

    def sign_in_thread() -> None:
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(cache.get, KEY).result() is first

    calls = [sign_in_thread, sign_in_invocation] if starts_in_thread else [sign_in_invocation, sign_in_thread]
    for call in calls:
        call()
        clock.advance(60)

    assert (cache.counts().misses, cache.counts().failures, sts.calls) == (1, 1, 1)
    assert len(background.tasks) == 1


def test_a_second_failure_after_a_cut_counts(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, invoke: Invoke,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """If that attempt fails too, the cached set serves, and the failure is logged."""
    cut_in_request(cache, sts, clock, background, invoke)
    sts.failure = outage()

    assert cache.get(KEY).access_key == "ASIA1"
    assert (cache.counts().failures, len(caplog.messages)) == (1, 1)
    assert cache.get(KEY).access_key == "ASIA1"
    assert background.tasks == []


def test_only_one_signature_waits_for_each_set_of_credentials(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, invoke: Invoke
) -> None:
    """Further freezes cut the next refreshes of the same set: all signatures are served at once."""
    cut_in_request(cache, sts, clock, background, invoke)
    sts.failure = outage()
    cache.get(KEY)
    misses = cache.counts().misses

    for _ in range(4):
        clock.advance(61)
        cache.get(KEY)
        clock.advance(61)
        invoke(Context())
        assert cache.get(KEY).access_key == "ASIA1"
        background.run()

    assert (cache.counts().misses, misses) == (2, 2)


def test_a_cut_refresh_gets_its_time_limit_again(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, invoke: Invoke
) -> None:
    """A refresh that goes on after a second freeze is not overtaken in the event after the freeze."""
    invoke(Context())
    cache.get(KEY)
    entry = cache._entries[KEY]
    assert entry.cached is not None
    assert entry.cached.claim_wait()
    clock.advance(HOUR - 800)
    cache.get(KEY)
    attempt = entry.attempt
    clock.advance(60)
    invoke(Context())
    cache.get(KEY)
    clock.advance(sts.max_wait)
    cache.get(KEY)

    assert entry.attempt is attempt
    assert (len(background.tasks), cache.counts().failures) == (1, 0)
    clock.advance(0.1)
    cache.get(KEY)
    assert cache.counts().failures == 1


def test_a_cut_refresh_that_failed_unawaited_is_started_again(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, invoke: Invoke,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    """If no signature may wait any more, a failure after a freeze means nothing: the next refresh starts at once."""
    cut_in_request(cache, sts, clock, background, invoke)
    entry = cache._entries[KEY]
    assert entry.cached is not None
    assert entry.cached.claim_wait()
    sts.failure = None

    assert cache.get(KEY).access_key == "ASIA1"
    assert background.run() == 1
    assert cache.get(KEY).access_key == "ASIA3"
    assert (cache.counts().failures, caplog.messages) == (0, [])


def test_outside_lambda_a_slow_failure_counts(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    """Without invocations there are no freezes, so a refresh that fails after its time limit is a failure."""
    caplog.set_level(logging.DEBUG)
    cache.get(KEY)
    clock.advance(HOUR - 800)
    cache.get(KEY)
    sts.failure = outage()
    sts.during_request = lambda: clock.advance(sts.max_wait + 1)
    background.run()
    assert cache.counts().failures == 0

    assert cache.get(KEY).access_key == "ASIA1"
    assert cache.counts().failures == 1
    assert f"Could not refresh the credentials of {ROLE}" in caplog.text
