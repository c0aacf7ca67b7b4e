"""Event hooks of assumed sessions: the same hooks in the same order as botocore's own, with shared nodes."""

from __future__ import annotations

import copy
import functools
import gc
import inspect
import random
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import boto3
import botocore.session
import pytest
from botocore import hooks as botocore_hooks
from botocore.hooks import BaseEventHooks, EventAliaser, HierarchicalEmitter
from conftest import OTHER_ROLE, ROLE, holds_in_a_fork

from xacct_lambda import _event_hooks, assumed_session, cache_clear
from xacct_lambda._event_hooks import SharedEmitter, copy_hooks

EVENTS = ("a", "a.b", "a.b.c", "a.*", "a.*.c", "*.b", "x", "x.y.z.w", "")
EMITTED = ("a", "a.b", "a.b.c", "a.q", "a.q.c", "z.b", "x", "x.y", "x.y.z.w", "x.y.z.w.v", "", "nothing")


def session_with(emitter: Any) -> boto3.Session:
    """Return a session whose hooks are the emitter's, without botocore's own."""
    session = botocore.session.Session(event_hooks=emitter, include_builtin_handlers=False)
    return boto3.Session(botocore_session=session)


def convert(emitter: HierarchicalEmitter) -> SharedEmitter:
    converted = copy_hooks(session_with(emitter))
    assert type(converted) is SharedEmitter
    return converted


def handler(name: str) -> Callable[..., str | None]:
    """Return a hook that answers with its name, or with None if the name is even."""

    def hook(**_: Any) -> str | None:
        return name if int(name) % 2 else None

    return hook


# --- The same hooks in the same order as botocore's emitter -----------------------------------------------------------


def outcome(act: Callable[[], Any]) -> Any:
    """Return the result, or the class and text of the exception."""
    try:
        return act()
    except (ValueError, AttributeError) as error:
        return type(error), str(error)


def change(choice: random.Random, handlers: list[Any]) -> Callable[[Any], Any]:
    """Return one random change of an emitter."""
    name = choice.choice(("register", "register_first", "register_last", "unregister", "unregister"))
    arguments: dict[str, Any] = {"event_name": choice.choice(EVENTS), "handler": choice.choice(handlers)}
    if choice.random() < 0.4:
        arguments["unique_id"] = choice.choice(("one", "two"))
        arguments["unique_id_uses_count"] = choice.random() < 0.7
    return lambda emitter: getattr(emitter, name)(**arguments)


def emissions(emitter: Any) -> list[Any]:
    """Return what each event calls, in which order, with which answers."""
    return [emitter.emit(event) for event in EMITTED] + [emitter.emit_until_response(event) for event in EMITTED]


def deep_copy(emitter: Any) -> Any:
    """Copy as botocore does, without sharing the counts of unique IDs between the copies."""
    copied = copy.copy(emitter)
    copied._unique_id_handlers = {key: dict(item) for key, item in emitter._unique_id_handlers.items()}
    return copied


@pytest.mark.parametrize("seed", range(60))
def test_hooks_run_as_on_botocores_emitter(seed: int) -> None:
    """After random registrations, removals, and copies, each event calls the same hooks as botocore's own emitter."""
    choice = random.Random(seed)  # noqa: S311 - the sequence is repeatable
    handlers = [handler(str(number)) for number in range(6)]
    source = HierarchicalEmitter()
    for _ in range(choice.randrange(12)):
        act = change(choice, handlers)
        outcome(lambda act=act: act(source))
    session = session_with(source)
    pairs = [(deep_copy(source), copy_hooks(session)), (source, source)]
    for _ in range(60):
        botocores, shared = pairs[choice.randrange(len(pairs))]
        if choice.random() < 0.15:
            shared_copy = copy_hooks(session) if shared is source else copy.copy(shared)
            pairs.append((deep_copy(botocores), shared_copy))
        else:
            act = change(choice, handlers)
            expected = outcome(lambda act=act, emitter=botocores: act(emitter))
            if shared is not botocores:
                assert outcome(lambda act=act, emitter=shared: act(emitter)) == expected
        for plain, ours in pairs:
            assert emissions(ours) == emissions(plain)


def test_a_change_replaces_only_the_nodes_on_its_path() -> None:
    """A copy that registers a hook shares all other nodes with the original."""
    source = HierarchicalEmitter()
    source.register("a.b", handler("1"))
    source.register("x.y", handler("2"))
    original = convert(source)

    changed = copy.copy(original)
    changed.register("a.c", handler("3"))

    ours, theirs = (emitter._handlers._root["children"] for emitter in (original, changed))
    assert ours["x"] is theirs["x"]
    assert ours["a"]["children"]["b"] is theirs["a"]["children"]["b"]
    assert list(ours["a"]["children"]) == ["b"]


def test_other_code_reads_the_nodes_as_botocores() -> None:
    """Nodes are dicts with botocore's keys in botocore's order, as moto reads them, and their lists are immutable."""
    hook = handler("1")
    plain = HierarchicalEmitter()
    plain.register("before-send", hook)
    converted = convert(plain)
    changed = copy.copy(converted)
    changed.register("before-send.s3", hook)

    for emitter in (converted, changed):
        nodes = emitter._handlers._root["children"]
        assert list(nodes["before-send"]) == list(plain._handlers._root["children"]["before-send"])
        values = list(nodes["before-send"].values())[1]
        assert type(values) is botocore_hooks.NodeList
        assert values == ((), (hook,), ())
        assert list(emitter._handlers.prefix_search("before-send.s3"))[-1] is hook


# --- Whose hooks, and when --------------------------------------------------------------------------------------------


def test_hooks_are_converted_once_per_source_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A second assumed session of one source session shares the converted trie."""
    source = boto3.Session()
    first = copy_hooks(source)
    monkeypatch.setattr(_event_hooks, "_freeze", None)

    assert copy_hooks(source)._handlers._root is first._handlers._root


@pytest.mark.parametrize("method", ["register", "register_first", "register_last"])
def test_an_assumed_session_has_the_hooks_registered_before_it(method: str) -> None:
    """A hook that is registered on the source session between two assumed sessions runs for the second."""
    source = boto3.Session()
    assumed_session(ROLE, source_session=source)
    ran: list[str] = []
    getattr(source.events, method)("my-event.s3", lambda event_name, **_: ran.append(event_name))

    assumed_session(OTHER_ROLE, source_session=source).events.emit("my-event.s3.ListBuckets")

    assert ran == ["my-event.s3.ListBuckets"]


def test_an_assumed_session_lacks_the_hooks_removed_before_it() -> None:
    """A hook that the source session no longer has doesn't run for an assumed session created afterwards."""
    source = boto3.Session()
    hook = handler("1")
    source.events.register("my-event.s3", hook, unique_id="counted", unique_id_uses_count=True)
    assert assumed_session(ROLE, source_session=source).events.emit("my-event.s3") == [(hook, "1")]

    source.events.unregister("my-event.s3", unique_id="counted", unique_id_uses_count=True)

    assert assumed_session(OTHER_ROLE, source_session=source).events.emit("my-event.s3") == []


def test_counts_of_unique_ids_are_read_for_each_session() -> None:
    """A second registration under a counted unique ID is known to sessions created after it."""
    source = boto3.Session()
    hook = handler("1")
    counted: dict[str, Any] = {"unique_id": "counted", "unique_id_uses_count": True}
    source.events.register("my-event.s3", hook, **counted)
    copy_hooks(source)
    source.events.register("my-event.s3", hook, **counted)

    later = copy_hooks(source)
    later.unregister("my-event.s3", **counted)

    assert later.emit("my-event.s3") == [(hook, "1")]
    later.unregister("my-event.s3", **counted)
    assert later.emit("my-event.s3") == []


def test_two_clients_count_their_unique_ids_apart() -> None:
    """A client that unregisters a counted hook no longer runs it, even if another client registered it once more."""
    session = assumed_session(ROLE)
    hook = handler("1")
    counted: dict[str, Any] = {"unique_id": "counted", "unique_id_uses_count": True}
    session.events.register("my-event.sqs", hook, **counted)
    left, right = (copy.copy(session.events) for _ in range(2))

    left.register("my-event.sqs", hook, **counted)
    right.unregister("my-event.sqs", **counted)

    assert right.emit("my-event.sqs") == []
    assert left.emit("my-event.sqs") == [(hook, "1")]


def test_a_chained_session_copies_the_shared_trie() -> None:
    """A session assumed from an assumed session has its hooks, in the same trie."""
    first = assumed_session(ROLE)
    hook = handler("1")
    first.events.register("my-event.s3", hook)

    second = copy_hooks(first)

    assert second._handlers._root is first.events._emitter._handlers._root
    assert second.emit("my-event.s3") == [(hook, "1")]


def test_event_names_are_aliased_once() -> None:
    """The emitter of an assumed session's client is directly below botocore's aliaser."""
    events = assumed_session(ROLE).client("sqs").meta.events

    assert type(events) is EventAliaser
    assert type(events._emitter) is SharedEmitter


def test_copies_look_up_events_apart() -> None:
    """A copy doesn't share its original's looked-up hooks, in which another thread may be storing its own."""
    original = convert(HierarchicalEmitter())

    assert copy.copy(original)._lookup_cache is not original._lookup_cache


def test_hooks_go_with_their_owner() -> None:
    """Nothing of a role stays in memory because clients of another role share nodes with it."""
    source = boto3.Session()
    first, second = (assumed_session(role, source_session=source) for role in (ROLE, OTHER_ROLE))
    clients = [session.client("s3") for session in (first, second)]
    hook = Methods()
    clients[0].meta.events.register("before-call.s3", hook)
    gone = [weakref.ref(part) for part in (first, first.get_credentials(), hook, clients[0], clients[0].meta.events)]

    clients = [clients[1]]
    del first, hook
    cache_clear()
    gc.collect()

    assert [reference() for reference in gone] == [None] * len(gone)
    assert clients[0].meta.events.emit("my-event") == []


# --- Threads and forks ------------------------------------------------------------------------------------------------


def test_no_hook_is_lost_between_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads that register hooks on one session at the same time all succeed, as on a plain session."""
    emitter = convert(HierarchicalEmitter())
    entered = threading.Event()
    copy_node = _event_hooks._copy_node
    registering: list[threading.Thread] = []

    def pause(node: dict[str, Any]) -> dict[str, Any]:
        if not entered.is_set():
            entered.set()
            registering.append(threading.Thread(target=emitter.register, args=("a", handler("3"))))
            registering[0].start()
            registering[0].join(0.05)
        return copy_node(node)

    monkeypatch.setattr(_event_hooks, "_copy_node", pause)
    emitter.register("a", handler("1"))
    registering[0].join()

    assert [answer for _, answer in emitter.emit("a")] == ["1", "3"]


def test_a_forked_child_registers_hooks_while_the_parent_does() -> None:
    """A fork at the moment when another thread registers a hook doesn't block the child."""
    emitter = convert(HierarchicalEmitter())
    locked, release = threading.Event(), threading.Event()

    def hold() -> None:
        with _event_hooks._SharedTrie.lock:
            locked.set()
            release.wait(120)

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait()
    try:
        assert holds_in_a_fork(lambda: emitter.register("a", handler("1")) is None and len(emitter.emit("a")) == 1)
    finally:
        release.set()
        thread.join()


def test_a_child_has_its_own_lock(monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in the child after a fork replaces the lock that another thread of the parent may hold."""
    lock = _event_hooks._SharedTrie.lock
    monkeypatch.setattr(_event_hooks._SharedTrie, "lock", lock)

    _event_hooks._after_fork()

    assert _event_hooks._SharedTrie.lock is not lock


# --- Hooks must accept keyword arguments ------------------------------------------------------------------------------


class Methods:
    def accepts(self, **_: Any) -> None: ...

    def refuses(self, name: str) -> None: ...

    __call__ = accepts


def signed(function: Any, signature: Any) -> Any:
    function.__signature__ = signature
    return function


CALLABLES = {
    "a function": (lambda **_: None),
    "a function without keyword arguments": (lambda event_name: None),
    "a method": Methods().accepts,
    "a method without keyword arguments": Methods().refuses,
    "an object": Methods(),
    "a partial": functools.partial(Methods.accepts, Methods()),
    "a class": Methods,
    "a built-in function": len,
    "a method of an object": types.MethodType(Methods(), Methods()),
    "a function whose signature accepts less": signed(lambda **_: None, inspect.signature(lambda event_name: None)),
    "a function whose signature accepts more": signed(lambda event_name: None, inspect.signature(lambda **_: None)),
    "no callable": "text",
}


@pytest.mark.parametrize("hook", CALLABLES.values(), ids=CALLABLES)
def test_hooks_are_checked_as_botocore_checks_them(hook: Any) -> None:
    """A hook is accepted or rejected exactly if botocore's own emitter does so."""
    assert outcome(lambda: SharedEmitter().register("a", hook)) == outcome(
        lambda: HierarchicalEmitter().register("a", hook)
    )


def test_plain_functions_need_no_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function or method with keyword arguments is accepted without a look at its signature."""
    inspected: list[Any] = []
    monkeypatch.setattr(botocore_hooks, "accepts_kwargs", lambda hook: inspected.append(hook) or True)
    emitter = SharedEmitter()
    partial = functools.partial(Methods.accepts, Methods())

    for hook in (handler("1"), Methods().accepts, partial):
        emitter.register("a", hook)

    assert inspected == [partial]


# --- If botocore's private structure is another -----------------------------------------------------------------------


@pytest.fixture
def _fresh_check() -> Iterator[None]:
    _event_hooks._is_compatible.cache_clear()
    yield
    _event_hooks._is_compatible.cache_clear()


def test_this_botocore_is_compatible() -> None:
    """The attributes that the conversion reads are where they were; otherwise hooks are copied as botocore does."""
    assert _event_hooks._is_compatible()
    assert issubclass(_event_hooks._SharedTrie, botocore_hooks._PrefixTrie)
    assert type(copy_hooks(boto3.Session())) is SharedEmitter


@pytest.mark.usefixtures("_fresh_check")
@pytest.mark.parametrize("name", ["append_item", "remove_item"])
def test_a_trie_with_other_methods_is_not_shared(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If botocore calls its trie's methods by other names, an assumed session copies the hooks as botocore does."""
    monkeypatch.delattr(_event_hooks._SharedTrie, name)
    source = boto3.Session()
    hook = handler("1")
    source.events.register("my-event.s3", hook)

    copied = copy_hooks(source)

    assert type(copied) is EventAliaser
    assert copied.emit("my-event.s3") == [(hook, "1")]


class OtherEmitter(HierarchicalEmitter):
    pass


class OtherTrie(botocore_hooks._PrefixTrie):
    pass


def replaced_trie() -> HierarchicalEmitter:
    emitter = HierarchicalEmitter()
    emitter._handlers = OtherTrie()
    return emitter


@pytest.mark.parametrize(
    "events",
    [
        OtherEmitter(),
        EventAliaser(OtherEmitter()),
        EventAliaser(replaced_trie()),
        EventAliaser(HierarchicalEmitter(), {"old": "new"}),
    ],
    ids=["no aliaser", "another emitter", "another trie", "other aliases"],
)
def test_hooks_of_another_class_are_copied_by_their_own_copy(events: BaseEventHooks) -> None:
    """If other code has replaced the emitter of the source session, its copy has the emitter's own class."""
    source = boto3.Session()
    hook = handler("1")
    events.register("my-event.s3", hook)
    source._session.register_component("event_emitter", events)

    copied = copy_hooks(source)

    assert type(copied) is type(events)
    assert copied is not events
    assert copied.emit("my-event.s3") == [(hook, "1")]
