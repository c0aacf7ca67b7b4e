"""The credential cache without valid credentials: one attempt for all, what it costs to wait, and how attempts end."""

from __future__ import annotations

import logging
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import boto3
import pytest
from cache_helpers import HOUR, KEY, SOURCE, Context, in_threads, invalidate, key_for
from conftest import OTHER_ROLE, ROLE, Background, Clock, FakeSTS, outage, refusal, until

from xacct_lambda._attempts import Attempt, Latch, Purpose, wait_for
from xacct_lambda._cache_entry import CredentialKey
from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda._invocation import current_context
from xacct_lambda._processor import IdleTime
from xacct_lambda._sts import FrozenCredentials
from xacct_lambda.exceptions import (
    AssumeRoleError,
    CallerCredentialsError,
    ConfigurationError,
    STSUnavailableError,
    XacctLambdaError,
)

InTime = Callable[[int], None]


@pytest.fixture
def in_time() -> Iterator[InTime]:
    """Say how many milliseconds the invocation has left."""
    token = current_context.set(None)

    def set_remaining(milliseconds: int) -> None:
        current_context.set(Context(milliseconds))

    yield set_remaining
    current_context.reset(token)


def test_cold_threads_share_one_call(cache: CredentialCache, sts: FakeSTS) -> None:
    """64 threads that need a role without cached credentials make one AssumeRole call, and all get its result."""
    sts.during_request = lambda: until(lambda: cache.counts().misses == 64)

    results = in_threads(64, lambda: cache.get(KEY))

    assert sts.calls == 1
    assert len(set(map(id, results))) == 1


@pytest.mark.parametrize("failure", [outage(), refusal()], ids=["outage", "refusal"])
def test_cold_threads_share_one_failure(cache: CredentialCache, sts: FakeSTS, failure: Exception) -> None:
    """64 threads make one failing attempt, and all fail with its cause: no queue of retries."""
    sts.failure = failure
    sts.during_request = lambda: until(lambda: cache.counts().misses == 64)

    results = in_threads(64, lambda: cache.get(KEY))

    assert sts.calls == 1
    assert {type(result) for result in results} == {type(failure)}
    assert {result.__cause__ for result in results} == {failure.__cause__}
    assert len(set(map(id, results))) == 64, "its own exception object for each thread"


def test_different_roles_do_not_wait_for_each_other(cache: CredentialCache, sts: FakeSTS) -> None:
    """Two roles are assumed at the same time."""
    both = threading.Barrier(2)
    sts.during_request = lambda: both.wait() and None

    with ThreadPoolExecutor(2) as pool:
        credentials = list(pool.map(cache.get, [KEY, key_for(role_arn=OTHER_ROLE)]))

    assert credentials[0] is not credentials[1]


def test_an_interrupted_attempt_is_repeated_by_those_who_waited(cache: CredentialCache, sts: FakeSTS) -> None:
    """If the first thread's attempt ends with an interrupt, other threads make their own attempt."""

    def interrupt_once() -> None:
        if sts.calls == 1:
            until(lambda: cache.counts().misses == 2)
            raise KeyboardInterrupt

    sts.during_request = interrupt_once
    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(cache.get, KEY)
        until(lambda: sts.calls == 1)
        follower = pool.submit(cache.get, KEY)

        assert isinstance(follower.result(), FrozenCredentials)
        assert isinstance(leader.exception(), KeyboardInterrupt)


def test_a_refresh_in_the_background_does_not_fail_a_request(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background
) -> None:
    """A request without valid credentials joins a background refresh. If that fails, the request makes two tries."""
    cache.get(KEY)
    clock.advance(HOUR - 100)
    cache.get(KEY)

    def fail_once() -> None:
        sts.failure = outage() if sts.calls == 2 else None

    sts.during_request = fail_once
    clock.advance(100)
    cache._entries[KEY].attempt.start_limit(clock())
    with ThreadPoolExecutor(1) as pool:
        follower = pool.submit(cache.get, KEY)
        until(lambda: cache.counts().misses == 2)
        background.run()

        assert follower.result().access_key == "ASIA3"
    assert sts.max_requests == [2, 1, 2]


def test_waiting_ends_with_the_invocation(cache: CredentialCache, sts: FakeSTS) -> None:
    """A thread that waits for another's attempt gives up when its invocation's time is nearly over."""
    release = threading.Event()
    sts.during_request = lambda: until(release.is_set)

    def follow() -> FrozenCredentials:
        current_context.set(Context(260))
        return cache.get(KEY)

    with ThreadPoolExecutor(2) as pool:
        leader = pool.submit(cache.get, KEY)
        until(lambda: sts.calls == 1)
        with pytest.raises(STSUnavailableError) as caught:
            pool.submit(follow).result()
        assert str(caught.value).startswith(f"No answer from STS for {ROLE}: none in 0.01 s")
        assert caught.value.response["Error"] == {"Code": "NoAnswerInTime", "Message": "none in 0.01 s"}
        assert caught.value.role_arn == ROLE
        release.set()
        assert isinstance(leader.result(), FrozenCredentials)


def test_a_late_answer_is_kept(cache: CredentialCache, sts: FakeSTS) -> None:
    """A request that has waited as long as STS may take gets an error. The late answer serves the next request."""
    release = threading.Event()
    sts.during_request = lambda: until(release.is_set)
    sts.max_wait = 0.01

    with pytest.raises(STSUnavailableError, match=r"none in 0\.01 s") as caught:
        cache.get(KEY)
    assert caught.value.code == "NoAnswerInTime"
    release.set()
    until(lambda: cache.counts().roles == 1)

    assert cache.get(KEY).access_key == "ASIA1"
    assert sts.calls == 1


@pytest.mark.parametrize("milliseconds", [0, 299])
def test_no_attempt_without_time(cache: CredentialCache, sts: FakeSTS, in_time: InTime, milliseconds: int) -> None:
    """If the invocation is nearly over, no call starts, and the error says so."""
    in_time(milliseconds)

    with pytest.raises(STSUnavailableError) as caught:
        cache.get(KEY)

    assert caught.value.code == "NoTimeLeft"
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 0
    assert caught.value.role_arn == ROLE
    assert (sts.calls, cache.counts().failures) == (0, 0)


def test_the_error_comes_within_the_invocation(cache: CredentialCache, sts: FakeSTS, in_time: InTime) -> None:
    """If STS hangs, the error comes a quarter of a second before the invocation ends."""
    release = threading.Event()
    sts.during_request = lambda: until(release.is_set)
    in_time(310)

    with pytest.raises(STSUnavailableError, match=r"none in 0\.06 s"):
        cache.get(KEY)
    release.set()


# --- Attempts that never end ------------------------------------------------------------------------------------------


@pytest.fixture
def hung() -> list[Callable[[], None]]:
    """The attempts that don't end before a test runs them."""
    return []


@pytest.fixture
def stuck_cache(sts: FakeSTS, clock: Clock, background: Background, hung: list[Callable[[], None]]) -> CredentialCache:
    """A cache whose attempts never end, with a wait that passes at once."""
    return CredentialCache(
        sts,
        clock=clock,
        start_thread=hung.append,
        start_background_thread=background,
        wait=lambda latch, limit, _left: clock.advance(0 if latch.is_set else (limit or 0) + 11) or latch.is_set,
    )


def test_an_attempt_past_its_limit_is_overtaken(
    stuck_cache: CredentialCache, sts: FakeSTS, hung: list[Callable[[], None]]
) -> None:
    """After its time limit nobody joins an attempt, and the next request starts another one."""
    with pytest.raises(CallerCredentialsError, match="own credentials did not load"):
        stuck_cache.get(KEY)
    stuck_cache._start_thread = lambda task: task()

    assert stuck_cache.get(KEY).access_key == "ASIA1"
    assert (len(hung), sts.calls, stuck_cache.counts().failures) == (1, 1, 1)


def test_a_late_answer_serves_a_request_whose_own_attempt_fails(
    stuck_cache: CredentialCache, sts: FakeSTS, hung: list[Callable[[], None]]
) -> None:
    """If an overtaken attempt gets credentials while the next attempt fails, the request is served."""
    with pytest.raises(CallerCredentialsError):
        stuck_cache.get(KEY)

    def answer_late() -> None:
        if hung:
            hung.pop()()
            sts.failure = outage()

    sts.during_request = answer_late
    stuck_cache._start_thread = lambda task: task()

    assert stuck_cache.get(KEY).access_key == "ASIA2"


def test_at_most_two_attempts_are_stuck(
    stuck_cache: CredentialCache, sts: FakeSTS, clock: Clock, hung: list[Callable[[], None]]
) -> None:
    """With two attempts that never end, a request gets an error at once; as soon as one ends, another may start."""
    codes = []
    for _ in range(4):
        with pytest.raises(XacctLambdaError) as caught:
            stuck_cache.get(KEY)
        codes.append(getattr(caught.value, "code", None))
        clock.advance(60)
    assert codes[2:] == ["AttemptsStuck"] * 2
    assert len(hung) == 2
    sts.failure = outage()
    hung.pop(0)()
    sts.failure = None
    stuck_cache._start_thread = lambda task: task()

    assert stuck_cache.get(KEY).access_key == "ASIA2"


def test_stuck_refreshes_do_not_pile_up(
    cache: CredentialCache, clock: Clock, background: Background, sts: FakeSTS
) -> None:
    """While valid credentials are cached, at most two attempts of a role are stuck, and all signatures are served."""
    first = cache.get(key_for(43200))
    clock.advance(43200 - 3600)
    for _ in range(3500):
        clock.advance(1)
        assert cache.get(key_for(43200)) is first

    assert len(background.tasks) == 2
    cache.prefetch(key_for(43200), None)
    assert len(background.tasks) == 2


def overtaken_attempt(cache: CredentialCache, clock: Clock, background: Background) -> Callable[[], None]:
    """Return an attempt that passed its time limit, so that a second attempt got the cached credentials."""
    cache.get(KEY)
    clock.advance(HOUR - 800)
    cache.get(KEY)
    attempt = background.tasks.pop()
    clock.advance(100)
    cache.get(KEY)
    clock.advance(10)
    cache.get(KEY)
    background.run()
    return attempt


def test_a_late_answer_replaces_what_expires_earlier(
    cache: CredentialCache, clock: Clock, background: Background
) -> None:
    """An overtaken attempt's answer is cached only if it expires later than the cached set."""
    late = overtaken_attempt(cache, clock, background)
    assert cache.get(KEY).access_key == "ASIA2"
    clock.advance(1)

    late()
    assert cache.get(KEY).access_key == "ASIA3"


def test_a_late_answer_that_expires_earlier_is_not_kept(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background
) -> None:
    """A late answer with less lifetime than the cached set changes nothing, and is no failure."""
    late = overtaken_attempt(cache, clock, background)
    failures = cache.counts().failures
    sts.lifetime = 600

    late()
    assert cache.get(KEY).access_key == "ASIA2"
    assert cache.counts().failures == failures


# --- Freezes ----------------------------------------------------------------------------------------------------------


def test_credentials_that_expire_before_they_are_used(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """If the environment is frozen when an attempt ends, its expired credentials are not used but replaced."""

    class Thaw:
        def __init__(self) -> None:
            self.calls = 0

        def __call__(self, latch: Latch, limit: float | None, left: float | None) -> bool:
            self.calls += 1
            is_set = wait_for(latch, limit, left)
            clock.advance(3 * HOUR if self.calls == 2 else 0)
            return is_set

    cache._wait = Thaw()

    assert cache.get(KEY).access_key == "ASIA2"


def test_a_refusal_after_a_freeze_is_not_believed(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """STS rejects a signature from before a freeze. The request tries again, and the refusal isn't cached."""

    def freeze_once() -> None:
        sts.failure = refusal() if sts.calls == 1 else None
        clock.advance(HOUR if sts.calls == 1 else 0)

    sts.during_request = freeze_once

    assert cache.get(KEY).access_key == "ASIA2"


def test_a_freeze_is_believed_once(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """If the second attempt takes too long as well, its error is raised: a slow machine doesn't try for ever."""
    sts.failure = refusal()
    sts.during_request = lambda: clock.advance(HOUR)

    with pytest.raises(AssumeRoleError):
        cache.get(KEY)
    assert sts.calls == 2


def test_too_little_lifetime_after_a_freeze(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """An answer that expired while the environment was frozen is replaced within the same request."""
    sts.during_request = lambda: clock.advance(2 * HOUR) if sts.calls == 1 else None
    sts.lifetime = 900
    lifetimes = iter([-600, 900])
    during = sts.during_request

    def shorten() -> None:
        during()
        sts.lifetime = next(lifetimes)

    sts.during_request = shorten

    assert cache.get(KEY).access_key == "ASIA2"


# --- Threads ----------------------------------------------------------------------------------------------------------


def no_thread(_task: Callable[[], None]) -> None:
    raise RuntimeError("can't start new thread")


def test_without_threads_the_request_makes_the_call(sts: FakeSTS, clock: Clock) -> None:
    """If no thread is available and nothing valid is cached, the attempt runs in the caller's thread."""
    cache = CredentialCache(sts, clock=clock, start_thread=no_thread, start_background_thread=no_thread)
    callers: list[int] = []
    sts.during_request = lambda: callers.append(threading.get_ident())

    assert cache.get(KEY).access_key == "ASIA1"
    assert callers == [threading.get_ident()]
    sts.failure = refusal()
    with pytest.raises(AssumeRoleError):
        cache.get(key_for(role_arn=OTHER_ROLE))
    assert sts.failure.__context__ is None


@pytest.mark.parametrize("seconds_left", [600, 50])
def test_without_threads_a_refresh_is_skipped(
    sts: FakeSTS, clock: Clock, caplog: pytest.LogCaptureFixture, seconds_left: int
) -> None:
    """If no thread is available, valid cached credentials serve. The next refresh waits for the back-off."""
    cache = CredentialCache(sts, clock=clock, start_thread=no_thread, start_background_thread=no_thread)
    first = cache.get(KEY)
    clock.advance(HOUR - seconds_left)

    assert [cache.get(KEY) for _ in range(10)] == [first] * 10
    assert (sts.calls, cache.counts().failures) == (1, 1)
    assert "no thread could be started" in caplog.text


def test_without_threads_other_roles_are_served(sts: FakeSTS, clock: Clock) -> None:
    """While an attempt runs in the caller's thread, other threads sign as other roles."""
    cache = CredentialCache(sts, clock=clock, start_thread=no_thread)
    warm = key_for(role_arn=OTHER_ROLE)
    cache.get(warm)

    def sign_elsewhere() -> None:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(cache.get, warm).result()

    sts.during_request = sign_elsewhere

    assert cache.get(KEY).access_key == "ASIA2"


def test_a_call_that_waits_for_itself(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """A hook of the call that signs as the same role gets valid cached credentials, or an error at once."""
    within: list[Any] = []

    def sign() -> None:
        try:
            within.append(cache.get(KEY))
        except STSUnavailableError as error:
            within.append(error)

    sts.during_request = sign
    first = cache.get(KEY)
    clock.advance(HOUR - 30)
    cache.get(KEY)

    assert within[0].code == "WaitsForItself"
    assert str(within[0]).startswith(f"{ROLE}: a hook or a log handler needs the role's credentials")
    assert within[1] is first


def test_a_garbage_collected_source_has_no_attempts(cache: CredentialCache) -> None:
    """A key whose source session is gone gets no credentials: nobody could call STS for it."""
    key = CredentialKey(boto3.Session(), KEY.request)

    with pytest.raises(ReferenceError):
        cache.get(key)
    cache.prepare(key, None)


# --- Interrupts and signal handlers -----------------------------------------------------------------------------------


def test_an_interrupt_leaves_the_attempt_alone(cache: CredentialCache, sts: FakeSTS) -> None:
    """A signal handler that raises ends a thread's wait. The attempt goes on and serves the next request."""
    sts.during_request = lambda: os.kill(os.getpid(), signal.SIGUSR1) if sts.calls == 1 else None

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


def test_an_interrupt_before_the_attempt_starts(sts: FakeSTS, clock: Clock) -> None:
    """A signal handler that clears the cache and raises while a thread starts leaves the cache usable."""

    def interrupted(_task: Callable[[], None]) -> None:
        cache.clear()
        raise KeyboardInterrupt

    cache = CredentialCache(sts, clock=clock, start_thread=interrupted)

    with pytest.raises(KeyboardInterrupt):
        cache.get(KEY)
    cache._start_thread = lambda task: task()
    assert cache.get(KEY).access_key == "ASIA1"


def test_an_interrupt_after_the_attempt_started(sts: FakeSTS, clock: Clock) -> None:
    """If the interrupt comes when the thread runs already, its answer serves the next request."""

    def interrupted(task: Callable[[], None]) -> None:
        task()
        raise KeyboardInterrupt

    cache = CredentialCache(sts, clock=clock, start_thread=interrupted)

    with pytest.raises(KeyboardInterrupt):
        cache.get(KEY)
    assert cache.get(KEY).access_key == "ASIA1"


def every_function_entry(call: Callable[[], object]) -> Iterator[Callable[[Callable[[], None]], bool]]:
    """Yield, for each function that a call enters, a runner which delivers a signal there; True while one was hit."""
    import sys  # noqa: PLC0415 - for this helper only

    for number in range(1, 500):

        def run(deliver: Callable[[], None], number: int = number) -> bool:
            left = number

            def trace(frame: Any, event: str, _arg: object) -> None:
                nonlocal left
                if event == "call" and "xacct_lambda" in frame.f_code.co_filename:
                    left -= 1
                    if not left:
                        sys.settrace(None)
                        deliver()

            before = sys.gettrace()
            sys.settrace(trace)
            try:
                call()
            finally:
                sys.settrace(before)
            return left <= 0

        yield run


class Alarm(BaseException):
    """What a signal handler raises."""


def raise_alarm() -> None:
    raise Alarm


SITUATIONS: dict[str, Callable[[CredentialCache, FakeSTS, Clock], None]] = {
    "cold": lambda _cache, _sts, _clock: None,
    "warm": lambda cache, _sts, _clock: cache.get(KEY) and None,
    "advisory": lambda cache, _sts, clock: cache.get(KEY) and clock.advance(HOUR - 600),
    "mandatory": lambda cache, _sts, clock: cache.get(KEY) and clock.advance(HOUR - 30),
    "expired": lambda cache, _sts, clock: cache.get(KEY) and clock.advance(2 * HOUR),
}


@pytest.mark.parametrize("situation", SITUATIONS)
@pytest.mark.parametrize("action", ["get", "invalidate"])
def test_an_exception_of_a_signal_handler_anywhere(situation: str, action: str, clock: Clock) -> None:
    """Wherever a signal handler raises within the cache, every later request is served, now and hours later."""
    number = 0
    while True:
        number += 1
        sts = FakeSTS(clock)
        cache = CredentialCache(
            sts, clock=clock, start_thread=lambda task: task(), start_background_thread=lambda task: task()
        )
        SITUATIONS[situation](cache, sts, clock)
        call = partial(cache.get, KEY) if action == "get" else partial(invalidate, cache, KEY, f"ASIA{sts.calls}")
        run = next(run for place, run in enumerate(every_function_entry(call), 1) if place == number)
        try:
            was_hit = run(raise_alarm)
        except Alarm:
            was_hit = True
        if not was_hit:
            break
        for jump in (0, 20, 901, 4000, 40000):
            clock.advance(jump)
            assert isinstance(cache.get(KEY), FrozenCredentials)
            assert cache.counts().roles == 1

    assert number > 3


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_signal_handler_that_signs_anywhere(situation: str, clock: Clock) -> None:
    """Wherever a signal handler signs as a cold role, it gets credentials, and so does the interrupted request."""
    cold = key_for(role_arn=OTHER_ROLE)
    number = 0
    while True:
        number += 1
        sts = FakeSTS(clock)
        cache = CredentialCache(sts, clock=clock)
        SITUATIONS[situation](cache, sts, clock)
        got: list[FrozenCredentials] = []
        runs = enumerate(every_function_entry(lambda cache=cache: cache.get(KEY)), 1)
        run = next(run for place, run in runs if place == number)
        if not run(lambda cache=cache, got=got: got.append(cache.get(cold)) or got.append(cache.get(KEY))):
            break
        assert [type(credentials) for credentials in got] == [FrozenCredentials] * 2

    assert number > 3


# --- Latches ----------------------------------------------------------------------------------------------------------


def test_a_latch_wakes_all_that_wait() -> None:
    """Waiters go on when the latch is set, and a later wait passes at once."""
    latch = Latch()
    with ThreadPoolExecutor(4) as pool:
        waits = [pool.submit(latch.wait, None) for _ in range(4)]
        until(lambda: len(latch._waiters) == 4)
        latch.set()

    assert [wait.result() for wait in waits] == [True] * 4
    assert latch.wait(0)


def test_a_latch_that_is_set_while_a_waiter_comes() -> None:
    """A waiter that is too late to be woken sees that the latch is set."""
    latch = Latch()
    latch.is_set = True

    assert latch.wait(None)


@pytest.mark.parametrize(("limit", "left"), [(0.01, None), (None, 0.01), (0.01, 60), (60, 0.01)])
def test_a_wait_ends_with_its_limit(limit: float | None, left: float | None) -> None:
    """A wait ends with STS's time limit or with the invocation, whichever is first."""
    assert not wait_for(Latch(), limit, left)


def test_a_wait_does_not_count_time_without_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time in which the process lacked CPU is not STS's silence, so the wait goes on."""
    idle = iter([0.005, 5.0])
    monkeypatch.setattr("xacct_lambda._attempts.IdleTime.seconds", lambda _self: next(idle))
    latch = Latch()

    assert not wait_for(latch, 0.01, None)
    assert len(latch._waiters) == 2


def test_a_wait_that_ends_in_time_looks_up_no_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """The CPU quota is in files, so it is only looked up when a wait was in vain."""

    def look_up(_self: IdleTime) -> float:
        raise AssertionError

    monkeypatch.setattr("xacct_lambda._attempts.IdleTime.seconds", look_up)
    latch = Latch()
    threading.Timer(0.02, latch.set).start()

    assert wait_for(latch, 60, 60)
    assert wait_for(latch, 0, 0)


@pytest.mark.parametrize(("idle_seconds", "is_busy"), [(0.2, True), (2.0, False)])
def test_an_attempt_that_lacked_cpu(monkeypatch: pytest.MonkeyPatch, idle_seconds: float, is_busy: bool) -> None:
    """An attempt lacked CPU if the process was busy for most of the time since the call of STS."""
    attempt = Attempt(0, Purpose.REQUIRED, 0, 0)
    assert not attempt.lacked_cpu(3.0)
    attempt.start_limit(0.0, IdleTime())
    monkeypatch.setattr("xacct_lambda._attempts.IdleTime.seconds", lambda _self: idle_seconds)

    assert attempt.lacked_cpu(3.0) == is_busy


# --- The caller's own credentials -------------------------------------------------------------------------------------


def test_a_slow_log_in_is_not_stss_silence(cache: CredentialCache, sts: FakeSTS) -> None:
    """The time limit starts when the caller's own credentials are loaded: a log-in may take longer than it."""
    release = threading.Event()
    sts.during_login = lambda: until(release.is_set)
    sts.max_wait = 0.01
    waits: list[tuple[float | None, float | None]] = []

    def wait(latch: Latch, limit: float | None, left: float | None) -> bool:
        waits.append((limit, left))
        release.set()
        return wait_for(latch, 60, left)

    cache._wait = wait

    assert cache.get(KEY).access_key == "ASIA1"
    assert waits == [(0.01, None), (0.01, None)]


def test_a_log_in_that_takes_longer_than_the_invocation(cache: CredentialCache, sts: FakeSTS, in_time: InTime) -> None:
    """On Lambda the remaining time is the limit of a log-in. The error blames the caller's credentials."""
    release = threading.Event()
    sts.during_login = lambda: until(release.is_set)
    sts.max_wait = 0.05
    in_time(310)

    with pytest.raises(CallerCredentialsError, match=r"own credentials did not load in 0\.06 s"):
        cache.get(KEY)
    release.set()


def test_a_log_in_at_the_end_of_the_invocation(cache: CredentialCache, sts: FakeSTS, in_time: InTime) -> None:
    """If the invocation has less time left than STS may take, the error blames neither the log-in nor STS."""
    release = threading.Event()
    sts.during_login = lambda: until(release.is_set)
    in_time(310)

    with pytest.raises(STSUnavailableError) as caught:
        cache.get(KEY)
    release.set()
    assert caught.value.code == "NoTimeLeft"


def test_a_log_in_that_hangs_is_not_joined_for_ever(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """A request that comes ten seconds after a log-in began makes its own attempt."""
    release = threading.Event()
    sts.during_login = lambda: until(release.is_set) if not release.is_set() and clock() < started + 10 else None
    started = clock()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(cache.get, KEY)
        until(lambda: KEY in cache._entries and cache._entries[KEY].attempt.thread is not None)
        clock.advance(11)

        assert cache.get(KEY).access_key == "ASIA1"
        release.set()
        assert isinstance(first.result(), FrozenCredentials)


def test_an_error_of_the_log_in_is_shared(cache: CredentialCache, sts: FakeSTS) -> None:
    """If the caller's own credentials can't be loaded, all requests that waited get the error. It isn't cached."""

    def fail() -> None:
        until(lambda: cache.counts().misses == 3)
        raise ConfigurationError("source_session", "no log-in")

    sts.during_login = fail

    results = in_threads(3, lambda: cache.get(KEY))

    assert [type(result) for result in results] == [ConfigurationError] * 3
    sts.during_login = lambda: None
    assert cache.get(KEY).access_key == "ASIA1"


def test_an_error_of_a_hook_is_shared(cache: CredentialCache, sts: FakeSTS) -> None:
    """All requests that wait for a call raise what a hook raises in it."""
    sts.failure = LookupError("a hook's own")
    sts.during_request = lambda: until(lambda: cache.counts().misses == 8)

    results = in_threads(8, lambda: cache.get(KEY))

    assert sts.calls == 1
    assert results == [sts.failure] * 8


def test_an_error_of_a_hook_has_no_frames_of_the_call(cache: CredentialCache, sts: FakeSTS) -> None:
    """An error of a hook says where it came from, but leads to no variable of the call, which contains secrets."""

    def hook(secret: str) -> None:
        try:
            {}[secret]
        except KeyError:
            raise RuntimeError("the tracing backend is down") from OSError("refused")

    sts.during_request = lambda: hook("issued-secret")

    with pytest.raises(RuntimeError, match="tracing backend is down") as caught:
        cache.get(KEY)

    shown = "".join(
        traceback.TracebackException(
            type(caught.value), caught.value, caught.value.__traceback__.tb_next, capture_locals=True
        ).format()
    )
    assert "raised in hook, " in shown
    assert "test_cache_waiting.py" in shown
    assert "issued-secret" not in shown
    assert "secret-" not in shown


def test_source_and_config_reach_sts(cache: CredentialCache, sts: FakeSTS) -> None:
    """STS is called by the key's source session with the configuration of the request."""
    config: Any = object()
    cache.get(KEY, config=config)

    assert sts.call_arguments == [(SOURCE, KEY.request, config)]


def test_log_levels_are_those_of_the_module(cache: CredentialCache, caplog: pytest.LogCaptureFixture) -> None:
    """A successful call logs nothing."""
    caplog.set_level(logging.DEBUG, "xacct_lambda")
    cache.get(KEY)

    assert caplog.messages == []


def test_freezes_are_believed_once_in_all(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """If every attempt fails after a freeze, the second failure is raised."""
    sts.failure = outage()

    def freeze() -> None:
        assert sts.calls < 3
        clock.advance(HOUR)

    sts.during_request = freeze
    with pytest.raises(STSUnavailableError):
        cache.get(KEY)
    assert sts.calls == 2
