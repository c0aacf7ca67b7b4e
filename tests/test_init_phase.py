"""How long the init phase waits for AssumeRole."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import OTHER_ROLE, ROLE, FakeSTS, until

from xacct_lambda import _decorator, _sessions, assume_role
from xacct_lambda._init_phase import InitPhase

pytestmark = pytest.mark.usefixtures("_sts_is_fake")


@pytest.fixture(autouse=True)
def _on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_LAMBDA_INITIALIZATION_TYPE", "on-demand")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Callable[..., InitPhase]:
    """Return a function that starts the init phase of a new process."""

    def start(**options: Any) -> InitPhase:
        phase = InitPhase(**options)
        monkeypatch.setattr(_decorator, "init_phase", phase)
        return phase

    return start


@pytest.fixture
def released(sts: FakeSTS) -> Iterator[threading.Event]:
    """Let every AssumeRole call wait for an event."""
    event = threading.Event()
    sts.during_request = lambda: event.wait(60)
    yield event
    event.set()


def takes_s3(event: Any, context: Any, *, s3: Any) -> Any:
    return s3


def takes_two(event: Any, context: Any, *, s3: Any, sqs: Any) -> Any:
    return s3, sqs


def test_credentials_are_there_when_init_ends(start: Callable[..., InitPhase], sts: FakeSTS) -> None:
    """If STS answers in time, the first event finds the credentials, and waits for nothing."""
    start(max_wait_seconds=10)
    answered: list[bool] = []
    sts.during_request = lambda: answered.append(True)

    handler = assume_role(ROLE, session="reader")(lambda event, context, *, reader: reader)

    assert answered == [True]
    assert handler({}, None).get_credentials().expires_at is not None


def test_the_calls_of_a_stack_overlap(start: Callable[..., InitPhase], sts: FakeSTS, released: threading.Event) -> None:
    """The init phase waits once for the decorators of a stack, after all of them have called STS."""
    start(max_wait_seconds=10)
    watch = threading.Thread(target=lambda: (until(lambda: sts.calls == 2), released.set()))
    watch.start()

    assume_role(ROLE, clients=["s3"])(assume_role(OTHER_ROLE, clients=["sqs"])(takes_two))
    watch.join()

    assert sts.calls == 2
    assert not any("assume-role" in thread.name for thread in threading.enumerate())


def test_the_wait_is_bounded_for_all_roles_together(
    start: Callable[..., InitPhase], sts: FakeSTS, released: threading.Event
) -> None:
    """If STS doesn't answer, the init phase goes on after a quarter of a second, and waits no more for other roles."""
    readings: list[float] = []

    def clock() -> float:
        readings.append(len(readings) * 0.2)
        return readings[-1]

    start(max_wait_seconds=0.05, clock=clock)
    assume_role(ROLE, clients=["s3"])(takes_s3)
    assume_role(OTHER_ROLE, clients=["s3"])(takes_s3)

    until(lambda: sts.calls == 2)
    assert not released.is_set()


def test_a_decorator_that_is_not_applied_is_not_waited_for(
    start: Callable[..., InitPhase], sts: FakeSTS, released: threading.Event
) -> None:
    """A decorator that a module keeps for later doesn't delay the init phase; one that is gone changes nothing."""
    start(max_wait_seconds=3600)
    kept = assume_role(OTHER_ROLE, clients=["s3"])
    assume_role(ROLE, clients=["s3"])(takes_s3)
    until(lambda: sts.calls == 1)

    assert not released.is_set()
    released.set()
    kept(takes_s3)
    assert sts.calls == 2


def test_a_lazy_decorator_does_not_wait(
    start: Callable[..., InitPhase], sts: FakeSTS, released: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Outside Lambda and without a prefetch there is nothing to wait for."""
    start(max_wait_seconds=3600)
    assume_role(ROLE, clients=["s3"], prefetch=False)(takes_s3)
    monkeypatch.delenv("AWS_LAMBDA_INITIALIZATION_TYPE")
    assume_role(ROLE, clients=["s3"], prefetch=True)(takes_s3)

    assert sts.calls == 0


@pytest.mark.parametrize("is_enabled", [True, False])
def test_garbage_collection_is_paused(
    start: Callable[..., InitPhase], monkeypatch: pytest.MonkeyPatch, is_enabled: bool
) -> None:
    """While init creates clients, Python doesn't look for garbage; afterwards it does, unless it didn't before."""
    start()
    states: list[bool] = []
    create = _sessions.AssumedSession.client

    def client(*args: Any, **kwargs: Any) -> Any:
        states.append(gc.isenabled())
        return create(*args, **kwargs)

    monkeypatch.setattr(_sessions.AssumedSession, "client", client)
    (gc.enable if is_enabled else gc.disable)()
    try:
        assume_role(ROLE, clients=["s3"])(takes_s3)
        states.append(gc.isenabled())
    finally:
        gc.enable()

    assert states == [False, is_enabled]
