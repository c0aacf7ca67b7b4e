"""The hooks, and the events that they are called with."""

from __future__ import annotations

import dataclasses
import logging
import pickle
import sys
import threading
from datetime import UTC, datetime
from functools import partial
from types import ModuleType
from typing import Any

import pytest
from cache_helpers import KEY

from xacct_lambda import cache_clear, instrumentation
from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda.exceptions import ConfigurationError
from xacct_lambda.instrumentation import CredentialEvent, get_hooks, publish, set_hooks
from xacct_lambda.testing import isolated_cache

ROLE = "arn:aws:iam::222222222222:role/Reader"
_EXPIRY = 1_800_000_000


@pytest.fixture
def events() -> list[CredentialEvent]:
    """The events that a hook has received."""
    received: list[CredentialEvent] = []
    set_hooks([received.append])
    return received


def test_a_hook_receives_the_event(events: list[CredentialEvent]) -> None:
    """Each hook is called with one event, whose expiry is a time in UTC."""
    publish(
        "assume_role",
        ROLE,
        duration_seconds=0.08,
        waited_seconds=0.09,
        expires_at=_EXPIRY,
        session_token_utilization=17,
    )

    assert events == [
        CredentialEvent(
            kind="assume_role",
            role_arn=ROLE,
            duration_seconds=0.08,
            waited_seconds=0.09,
            error_code=None,
            expires_at=datetime(2027, 1, 15, 8, tzinfo=UTC),
            session_token_utilization=17,
        )
    ]


def test_fields_without_a_value(events: list[CredentialEvent]) -> None:
    """A field that an event doesn't have is None, except that nothing waited for 0 seconds."""
    publish("eviction", ROLE)

    assert dataclasses.asdict(events[0]) == {
        "kind": "eviction",
        "role_arn": ROLE,
        "duration_seconds": None,
        "waited_seconds": 0.0,
        "error_code": None,
        "expires_at": None,
        "session_token_utilization": None,
    }


def test_events_are_frozen_values(events: list[CredentialEvent]) -> None:
    """A hook can't change an event for the next hook, and can send it to another process."""
    publish("rejection", ROLE, error_code="ExpiredToken", expires_at=_EXPIRY)

    with pytest.raises(dataclasses.FrozenInstanceError):
        events[0].role_arn = "other"
    assert pickle.loads(pickle.dumps(events[0])) == events[0]


def test_hooks_are_called_in_order() -> None:
    """Hooks are called in the order of the list."""
    calls: list[int] = []
    set_hooks(partial(lambda number, _event: calls.append(number), number) for number in range(3))

    publish("refusal", ROLE)

    assert calls == [0, 1, 2]


def test_a_new_list_replaces_the_earlier_one(events: list[CredentialEvent]) -> None:
    """``set_hooks`` replaces all hooks, and an empty list removes them."""
    assert len(get_hooks()) == 1

    set_hooks([])
    publish("refusal", ROLE)

    assert get_hooks() == ()
    assert events == []


def test_a_hook_that_raises_changes_nothing(events: list[CredentialEvent], caplog: pytest.LogCaptureFixture) -> None:
    """If a hook raises, the next hook is called, and the log has one record with the class of the exception only."""
    caplog.set_level(logging.DEBUG, logger="xacct_lambda")

    def fail(_event: CredentialEvent) -> None:
        raise LookupError("s3cret")

    set_hooks([fail, events.append, fail])
    for _ in range(3):
        publish("refusal", ROLE)

    assert len(events) == 3
    assert caplog.messages == [
        "hook 0 of set_hooks() raised LookupError",
        "hook 2 of set_hooks() raised LookupError",
    ]
    assert [record.levelname for record in caplog.records] == ["DEBUG", "DEBUG"]
    assert all(record.exc_info is None for record in caplog.records)


def test_the_first_failure_of_each_new_hook_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """Hooks that replace failed hooks are logged at their own first failure."""
    caplog.set_level(logging.DEBUG, logger="xacct_lambda")

    for _ in range(2):
        set_hooks([lambda _event: 1 / 0])
        publish("refusal", ROLE)

    assert caplog.messages == ["hook 0 of set_hooks() raised ZeroDivisionError"] * 2


def test_an_interrupt_within_a_hook_is_not_lost(events: list[CredentialEvent]) -> None:
    """A ``KeyboardInterrupt`` that arrives while a hook runs is raised, and later events are published."""

    def interrupt(_event: CredentialEvent) -> None:
        raise KeyboardInterrupt

    set_hooks([interrupt])
    with pytest.raises(KeyboardInterrupt):
        publish("refusal", ROLE)
    set_hooks([events.append])
    publish("refusal", ROLE)

    assert len(events) == 1


def test_what_a_hook_causes_publishes_no_events() -> None:
    """A hook whose own requests fail isn't called again for them, in the same thread."""
    calls: list[str] = []

    def hook(event: CredentialEvent) -> None:
        calls.append(event.role_arn)
        publish("refusal", "from the hook")

    set_hooks([hook])
    publish("refusal", ROLE)
    publish("refusal", ROLE)

    assert calls == [ROLE, ROLE]


def test_another_thread_publishes_while_a_hook_runs() -> None:
    """A hook that is slow in one thread doesn't hide the events of another thread."""
    calls: list[str] = []

    def hook(event: CredentialEvent) -> None:
        calls.append(event.role_arn)
        if event.role_arn == "first":
            other = threading.Thread(target=publish, args=("refusal", "second"))
            other.start()
            other.join()

    set_hooks([hook])
    publish("refusal", "first")

    assert calls == ["first", "second"]


async def _async_hook(_event: CredentialEvent) -> None: ...


class _AsyncHook:
    async def __call__(self, _event: CredentialEvent) -> None: ...


@pytest.mark.parametrize("hooks", [print, None, 5, [None], ["print"], [print, 5]])
def test_hooks_must_be_a_list_of_functions(hooks: Any, events: list[CredentialEvent]) -> None:
    """Anything but a list of functions is a ``ConfigurationError``, and the hooks stay as they were."""
    with pytest.raises(ConfigurationError, match="hooks: must be a list of functions"):
        set_hooks(hooks)
    assert len(get_hooks()) == 1


@pytest.mark.parametrize("hook", [_async_hook, partial(_async_hook), _AsyncHook()])
def test_hooks_must_not_be_async(hook: Any) -> None:
    """An async hook is a ``ConfigurationError``, because the library would never await it."""
    with pytest.raises(ConfigurationError, match="hooks: must not contain an async function"):
        set_hooks([hook])


def test_a_module_that_is_being_imported(monkeypatch: pytest.MonkeyPatch, cache: CredentialCache) -> None:
    """While another thread imports the module, requests succeed and publish nothing."""
    monkeypatch.setitem(sys.modules, "xacct_lambda.instrumentation", ModuleType("xacct_lambda.instrumentation"))

    assert cache.get(KEY).access_key == "ASIA1"
    cache.invalidate(KEY, "ASIA1", may_be_unknown=False, is_retry=False)
    assert cache.get(KEY).access_key == "ASIA2"


def test_without_hooks_no_event_is_created(monkeypatch: pytest.MonkeyPatch) -> None:
    """If no hook is set, publishing creates no event."""
    monkeypatch.setattr(instrumentation, "CredentialEvent", None)

    publish("refusal", ROLE, expires_at=_EXPIRY)


def test_the_cache_keeps_hooks(events: list[CredentialEvent]) -> None:
    """Hooks are configuration: ``cache_clear`` keeps them."""
    cache_clear()
    publish("refusal", ROLE)

    assert len(events) == 1


def test_isolation_restores_hooks(events: list[CredentialEvent]) -> None:
    """Hooks that a test sets don't reach the next test, and hooks from outside apply inside."""
    with isolated_cache():
        publish("refusal", "inside")
        set_hooks([])
    publish("refusal", "outside")

    assert [event.role_arn for event in events] == ["inside", "outside"]
