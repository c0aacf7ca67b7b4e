"""The credential cache if requests interleave: threads between two steps of a look-up, interrupts at any bytecode."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
from cache_helpers import HOUR, KEY, Context, in_threads, key_for
from conftest import ROLE, Background, Clock, FakeSTS, outage, until

from xacct_lambda._attempts import Latch
from xacct_lambda._cache_entry import Entry
from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda._invocation import current_context
from xacct_lambda._sts import FrozenCredentials
from xacct_lambda.exceptions import STSUnavailableError


class Between(Context):
    """A Lambda context that does something when the cache asks for the remaining time, just before an attempt."""

    def __init__(self, action: Callable[[], object]) -> None:
        super().__init__()
        self._actions = [action]

    def get_remaining_time_in_millis(self) -> int:
        if self._actions:
            self._actions.pop()()
        return super().get_remaining_time_in_millis()


@pytest.fixture
def between() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Do something between a request's look at the latest attempt and the start of an attempt."""
    token = current_context.set(None)
    yield lambda action: current_context.set(Between(action)) and None
    current_context.reset(token)


class Alarm(BaseException):
    """A signal handler raises it."""


# --- Threads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("age", [None, 2 * HOUR], ids=["cold", "expired"])
def test_an_attempt_that_starts_meanwhile_is_joined(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, between: Any, age: int | None
) -> None:
    """If another thread starts an attempt just before a request would, the request joins it."""
    if age is not None:
        cache.get(KEY)
        clock.advance(age)
    calls = sts.calls
    release = threading.Event()
    sts.during_request = lambda: until(release.is_set)
    with ThreadPoolExecutor(1) as pool:

        def start_in_other_thread() -> None:
            pool.submit(cache.get, KEY)
            until(lambda: sts.calls > calls)
            threading.Timer(0.01, release.set).start()

        between(start_in_other_thread)
        assert cache.get(KEY).access_key == f"ASIA{calls + 1}"

    assert sts.calls == calls + 1


def test_a_refresh_that_starts_meanwhile_is_not_repeated(
    cache: CredentialCache, clock: Clock, background: Background, between: Any
) -> None:
    """If another request starts the refresh just before this one would, there is one refresh."""
    first = cache.get(KEY)
    clock.advance(HOUR - 600)
    between(lambda: cache.get(KEY))

    assert cache.get(KEY) is first
    assert len(background.tasks) == 1


def test_credentials_that_arrive_meanwhile_are_used(cache: CredentialCache, sts: FakeSTS) -> None:
    """If another thread's attempt ends just after a request found nothing, the request uses its credentials."""
    entry = cache._entry(KEY)
    cache.get(KEY)

    assert cache._assume_role(KEY, entry, 0, None).access_key == "ASIA1"
    assert sts.calls == 1


def test_credentials_that_are_refreshed_meanwhile(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background
) -> None:
    """If a refresh ends just after a request looked, the request starts no further one."""
    cache.get(KEY)
    entry = cache._entries[KEY]
    cached = entry.cached
    assert cached is not None
    clock.advance(HOUR - 600)
    cache.get(KEY)
    background.run()

    assert not cache._must_wait(KEY, entry, cached, clock(), None)
    assert (sts.calls, background.tasks) == (2, [])


def test_another_threads_interrupt_is_not_raised(cache: CredentialCache, sts: FakeSTS, between: Any) -> None:
    """A request that would have started an attempt doesn't raise the interrupt that ended it in another thread."""
    sts.failure = KeyboardInterrupt()  # type: ignore[assignment]

    def fail_in_other_thread() -> None:
        with ThreadPoolExecutor(1) as pool:
            assert isinstance(pool.submit(cache.get, KEY).exception(), KeyboardInterrupt)
        sts.failure = None

    between(fail_in_other_thread)

    assert cache.get(KEY).access_key == "ASIA2"


def test_a_request_that_was_overtaken_twice(cache: CredentialCache, sts: FakeSTS, between: Any) -> None:
    """A request that sleeps while others make two attempts joins the latest one and doesn't repeat an earlier one."""

    def two_attempts() -> None:
        sts.failure = outage()
        with ThreadPoolExecutor(1) as pool:
            assert isinstance(pool.submit(cache.get, KEY).exception(), STSUnavailableError)
            sts.failure = None
            pool.submit(cache.get, KEY).result()

    between(two_attempts)

    assert cache.get(KEY).access_key == "ASIA2"
    assert (sts.calls, cache._entries[KEY].attempt.number) == (2, 2)


def stuck_attempt(cache: CredentialCache, clock: Clock) -> tuple[Entry, list[Callable[[], None]]]:
    """Return the entry of a role whose attempt has passed its time limit, and the task that would end it."""
    hung: list[Callable[[], None]] = []
    cache._start_thread, start_thread = hung.append, cache._start_thread
    cache._wait, wait = (lambda latch, _limit, _left: latch is not cache._entries[KEY].attempt.done), cache._wait
    with pytest.raises(STSUnavailableError):
        cache.get(KEY)
    clock.advance(60)
    cache._start_thread, cache._wait = start_thread, wait
    return cache._entries[KEY], hung


def test_one_stuck_attempt_is_counted_once(cache: CredentialCache, clock: Clock) -> None:
    """However many threads give up one stuck attempt at the same time, the role may start another one."""
    entry, _ = stuck_attempt(cache, clock)
    for _ in range(3):
        cache._give_up(KEY, entry, entry.attempt, clock())

    assert cache.get(KEY).access_key == "ASIA1"
    assert cache.counts().failures == 1


def test_a_stuck_attempt_is_aborted_again(cache: CredentialCache, clock: Clock) -> None:
    """An attempt that had no connection when it was given up is ended by a later request."""
    entry, hung = stuck_attempt(cache, clock)
    cache.get(KEY)
    [stuck] = entry.stuck
    stuck.calls.is_aborted = False
    clock.advance(HOUR)
    cache.get(KEY)
    assert stuck.calls.is_aborted

    hung.pop()()
    clock.advance(HOUR)
    cache.get(KEY)
    assert not entry.stuck


def test_two_threads_set_a_latch() -> None:
    """Threads that set a latch at the same time wake each waiter once, and none of them fails."""

    class LastWaiter(list[Any]):
        def pop(self, index: Any = -1) -> Any:
            # Another thread takes the last waiter between the test for one and this call.
            latch._waiters = []
            while self:
                super().pop(index).release()
            return super().pop(index)

    latch = Latch()
    latch._waiters = LastWaiter()
    with ThreadPoolExecutor(1) as pool:
        wait = pool.submit(latch.wait, None)
        until(lambda: len(latch._waiters) == 1)
        latch.set()
        assert wait.result()


def test_only_one_request_waits_for_an_attempt(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Of 64 threads in the last minute, one waits for the refresh, and the others use the cached credentials."""
    first = cache.get(KEY)
    clock.advance(HOUR - 30)
    release = threading.Event()
    sts.during_request = lambda: until(release.is_set)
    waits = []
    wait = cache._wait
    cache._wait = lambda *arguments: waits.append(1) or wait(*arguments)
    finished = []

    def sign() -> FrozenCredentials:
        credentials = cache.get(KEY)
        finished.append(1)
        if len(finished) == 63:
            release.set()
        return credentials

    results = in_threads(64, sign)

    assert (results.count(first), len(waits), sts.calls) == (63, 1, 2)


def test_the_rejection_of_one_set_counts_once(cache: CredentialCache, clock: Clock) -> None:
    """If many threads report one rejected set at the same time, the next set is judged as after one rejection."""
    cache.get(KEY)
    clock.advance(60)
    entry = cache._entries[KEY]
    cached = entry.cached
    assert cached is not None
    for _ in range(10):
        assert entry.reject(cached, clock(), may_be_unknown=False)

    second = cache.get(KEY)
    clock.advance(5)
    assert cache.invalidate(KEY, second.access_key, may_be_unknown=False, is_retry=False) == 0


def test_roles_that_are_assumed_at_the_same_time_keep_their_place(sts: FakeSTS, clock: Clock) -> None:
    """In a full cache, new roles in flight evict what was unused the longest, and not each other."""
    cache = CredentialCache(sts, clock=clock, max_roles=8)
    old, new = ([key_for(role_arn=f"{ROLE}-{kind}-{number}") for number in range(8)] for kind in ("old", "new"))
    for key in old:
        cache.get(key)
    sts.during_request = lambda: until(lambda: sts.calls == 16)
    with ThreadPoolExecutor(8) as pool:
        credentials = list(pool.map(cache.get, new))

    assert [cache.get(key) for key in new] == credentials
    assert sts.calls == 16


# --- Interrupts -------------------------------------------------------------------------------------------------------


def interrupted_at_opcode(number: int, call: Callable[[], object]) -> bool:
    """Raise at the given bytecode of the library that a call runs. Tell whether the call had so many."""
    left = number

    def trace(frame: Any, event: str, _arg: object) -> Any:
        nonlocal left
        if "xacct_lambda" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if not left:
                sys.settrace(None)
                raise Alarm
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    except (Alarm, STSUnavailableError):
        pass
    finally:
        sys.settrace(before)
    return left <= 0


def run(task: Callable[[], None]) -> None:
    task()


def no_thread(_task: Callable[[], None]) -> None:
    raise RuntimeError("can't start new thread")


def interrupts_at_each_bytecode(start: Callable[[Any], None], age: float | None) -> int:
    """Interrupt two requests at the first, second, ... bytecode. Return the number of bytecodes."""
    clock = Clock()
    number = 0
    was_interrupted = True
    while was_interrupted:
        number += 1
        sts = FakeSTS(clock)
        cache = CredentialCache(
            sts,
            clock=clock,
            start_thread=run,
            start_background_thread=run,
            wait=lambda latch, _limit, _left: latch.is_set,
        )
        if age is not None:
            cache.get(KEY)
            clock.advance(age)
        cache._start_thread = cache._start_background_thread = start
        for _ in range(2):
            was_interrupted = interrupted_at_opcode(number, partial(cache.get, KEY))
            clock.advance(15)
        cache._start_thread = cache._start_background_thread = run
        for jump in (0, 901, 4000):
            clock.advance(jump)
            assert isinstance(cache.get(KEY), FrozenCredentials)
        assert not any(not attempt.done.is_set for attempt in cache._entries[KEY].stuck)

    return number


@pytest.mark.parametrize("start", [run, no_thread])
@pytest.mark.parametrize("age", [None, HOUR - 600], ids=["cold", "advisory"])
def test_interrupts_at_each_bytecode(start: Callable[[Any], None], age: float | None) -> None:
    """Wherever interrupts end two requests in a row, the role recovers, and no attempt counts as stuck."""
    # In another thread. An exception at the bytecode that ends an except block leaves the thread with the exception
    # of that block, which would become the context of each later exception.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(interrupts_at_each_bytecode, start, age).result() > 300


def test_an_attempt_that_was_not_launched(
    cache: CredentialCache, clock: Clock, background: Background, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If an interrupt comes just before the refresh is launched, the next signature launches it."""
    cache.get(KEY)
    clock.advance(HOUR - 600)

    def interrupt(*_: object) -> None:
        raise Alarm

    with monkeypatch.context() as patch:
        patch.setattr(cache, "_launch", interrupt)
        with pytest.raises(Alarm):
            cache.get(KEY)
    cache.get(KEY)

    assert background.run() == 1
    assert cache.get(KEY).access_key == "ASIA2"


def test_a_thread_that_starts_after_the_interrupt(sts: FakeSTS, clock: Clock) -> None:
    """If an interrupt comes before the attempt's thread runs, the thread makes no call, and the next request does."""
    tasks: list[Callable[[], None]] = []

    def interrupted(task: Callable[[], None]) -> None:
        tasks.append(task)
        raise Alarm

    cache = CredentialCache(sts, clock=clock, start_thread=interrupted)
    with pytest.raises(Alarm):
        cache.get(KEY)
    tasks.pop()()
    assert sts.calls == 0
    cache._start_thread = run

    assert cache.get(KEY).access_key == "ASIA1"


def test_credentials_that_expire_while_a_request_waits(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """If the cached credentials expire while a request waits for a refresh that fails, the request makes an attempt."""
    cache.get(KEY)
    clock.advance(HOUR - 30)

    def expire() -> None:
        clock.advance(31)
        sts.failure, sts.during_request = outage(), lambda: None

    sts.during_request = expire

    with pytest.raises(STSUnavailableError):
        cache.get(KEY)
    assert sts.calls == 3


def test_credentials_that_arrive_before_a_failure_are_used(cache: CredentialCache) -> None:
    """If another attempt's credentials are cached when a request's own attempt fails, the request uses them."""
    cache.get(KEY)

    assert cache._cached_or_raise(outage(), cache._entries[KEY], 0).access_key == "ASIA1"
