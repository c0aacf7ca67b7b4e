"""Event hooks of an assumed session: the hooks of its source session, in a trie that copies share.

Each botocore client copies all hooks of its session, which takes 90 KB and a third of the time to create a client.
A client adds 5 to 14 hooks to the 140 that it copies. So the copies here share every node of the trie, and a copy that
changes replaces only the nodes on the path to the change. No class or function of botocore is replaced: a session
gets the emitter in the same place as one of botocore's own.
"""

from __future__ import annotations

import copy
import functools
import inspect
import os
import threading
import types
from typing import Any, Final

import boto3
from botocore import hooks as botocore_hooks
from botocore.hooks import BaseEventHooks, EventAliaser, HierarchicalEmitter
from botocore.utils import EVENT_ALIASES

# A private class of botocore. Without it, hooks are copied as botocore copies them.
_PrefixTrie: Final[Any] = getattr(botocore_hooks, "_PrefixTrie", object)
_MIDDLE: Final = 1
_CONVERTED: Final = "_xacct_lambda_converted_hooks"
_PLAIN_CALLABLES: Final = (types.FunctionType, types.MethodType)


def copy_hooks(source: boto3.Session) -> BaseEventHooks:
    """Return a copy of the session's hooks, as a botocore session takes them.

    The copy has the hooks that the source session has now. Hooks that are registered later on either of the two don't
    reach the other.
    """
    events = source.events
    if _is_compatible():
        try:
            return _copy_shared(events)
        except (AttributeError, KeyError, TypeError):
            # botocore's emitter or trie has another structure, or another library has replaced its hooks.
            pass
    return copy.copy(events)


def _copy_shared(events: Any) -> SharedEmitter:
    # EventAliaser has no public attribute for the emitter that it wraps. The session wraps the copy in a new one.
    # With the source's, each event name would be aliased twice.
    emitter, aliases = events._emitter, events._event_aliases  # noqa: SLF001
    classes: tuple[type, ...] = type(events), type(emitter), type(emitter._handlers)  # noqa: SLF001
    if aliases == EVENT_ALIASES and classes == (EventAliaser, SharedEmitter, _SharedTrie):
        shared: SharedEmitter = copy.copy(emitter)
        return shared
    if aliases == EVENT_ALIASES and classes == (EventAliaser, HierarchicalEmitter, _PrefixTrie):
        return _convert(emitter)
    raise TypeError("the source session has hooks of an unknown class")


def _convert(emitter: Any) -> SharedEmitter:
    # A register() or an unregister() that changes the hooks replaces the dict of looked-up names. It is read first: a
    # hook that another thread registers meanwhile is then part of the next conversion at the latest.
    version = emitter._lookup_cache  # noqa: SLF001
    # The conversion is kept on the emitter, so that both have the same lifetime. In a WeakKeyDictionary, a hook that
    # refers to its session would keep both in memory forever.
    converted_version, trie = vars(emitter).get(_CONVERTED, (None, None))
    if converted_version is not version:
        trie = _SharedTrie()
        trie._root = _freeze(emitter._handlers._root)  # noqa: SLF001
        vars(emitter)[_CONVERTED] = version, trie
    shared = SharedEmitter()
    shared._handlers = copy.copy(trie)  # noqa: SLF001
    # Read each time: the count of a unique ID changes without a new version.
    shared._unique_id_handlers = _copy_unique_ids(emitter)  # noqa: SLF001
    return shared


def _freeze(node: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a botocore trie's node that can be shared.

    It is still a dict with its keys in botocore's order, because moto and other stubbers read the nodes. Its lists of
    hooks become tuples, so that no other code can append to a list that several emitters share.
    """
    values = node["values"]
    return {
        **node,
        "values": None if values is None else botocore_hooks.NodeList(*map(tuple, values)),
        # Copied first, because another thread may be registering a hook on the source session.
        "children": {name: _freeze(child) for name, child in {**node["children"]}.items()},
    }


def _copy_unique_ids(emitter: Any) -> dict[Any, dict[str, Any]]:
    # One level deeper than botocore, whose copies share the counts: a client then goes on running a hook that it has
    # unregistered, because another client has registered it once more.
    return {unique_id: {**item} for unique_id, item in {**emitter._unique_id_handlers}.items()}  # noqa: SLF001


class _SharedTrie(_PrefixTrie):  # type: ignore[misc, unused-ignore] # botocore has no type annotations
    """A trie of hooks that shares its nodes with its copies and never changes a node."""

    _root: dict[str, Any]
    # Two threads that change one trie at the same time would both replace the same root, and one hook would be lost.
    # A change takes microseconds, so all tries have one lock.
    lock = threading.RLock()

    def append_item(self, key: str, value: Any, section: int = _MIDDLE) -> None:
        with _SharedTrie.lock:
            root = node = _copy_node(self._root)
            for part in key.split("."):
                child = node["children"].get(part)
                child = {"chunk": part, "values": None, "children": {}} if child is None else _copy_node(child)
                node["children"][part] = node = child
            lists = list(node["values"] or ((), (), ()))
            lists[section] += (value,)
            node["values"] = botocore_hooks.NodeList(*lists)
            self._root = root

    def remove_item(self, key: str, value: Any) -> None:
        with _SharedTrie.lock:
            root = node = _copy_node(self._root)
            for part in key.split("."):
                child = node["children"].get(part)
                if child is None:
                    raise ValueError(f"key is not in trie: {key}")
                child = _copy_node(child)
                node["children"][part] = node = child
            lists = [node["values"].first, node["values"].middle, node["values"].last]
            for section, hooks in enumerate(lists):
                if value in hooks:
                    index = hooks.index(value)
                    lists[section] = hooks[:index] + hooks[index + 1 :]
                    break
            node["values"] = botocore_hooks.NodeList(*lists)
            self._root = root

    def __copy__(self) -> _SharedTrie:
        copied = _SharedTrie()
        copied._root = self._root
        return copied


def _after_fork() -> None:
    _SharedTrie.lock = threading.RLock()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows does not fork
    os.register_at_fork(after_in_child=_after_fork)


def _copy_node(node: dict[str, Any]) -> dict[str, Any]:
    return {**node, "children": {**node["children"]}}


class SharedEmitter(HierarchicalEmitter):  # type: ignore[misc, unused-ignore] # botocore has no type annotations
    """botocore's emitter with a trie that shares its nodes with its copies."""

    _handlers: _SharedTrie
    _lookup_cache: dict[str, Any]
    _unique_id_handlers: dict[Any, dict[str, Any]]

    def __init__(self) -> None:
        super().__init__()
        self._handlers = _SharedTrie()

    def __copy__(self) -> SharedEmitter:
        copied: SharedEmitter = super().__copy__()
        copied._unique_id_handlers = _copy_unique_ids(self)
        # botocore's copies share this dict until one of them registers a hook. At that moment, a thread that emits an
        # event could store the new hook where another role's client looks it up.
        copied._lookup_cache = {}
        return copied

    def _verify_accept_kwargs(self, func: Any) -> Any:
        # botocore builds a signature for each hook of each client, a sixth of the calls that create a client. For a
        # plain function, one flag has the same answer.
        if type(func) in _PLAIN_CALLABLES and not hasattr(func, "__signature__"):
            code = getattr(func, "__code__", None)
            if code is not None and code.co_flags & inspect.CO_VARKEYWORDS:
                return None
        botocores: Any = super()
        return botocores._verify_accept_kwargs(func)  # noqa: SLF001


@functools.cache
def _is_compatible() -> bool:
    """Return whether this version of botocore works with a shared trie.

    Tried once per process: if botocore renames a method that is overridden here, its own method would change nodes that
    several emitters share.
    """

    def first(**_: Any) -> None:
        pass

    def second(**_: Any) -> None:
        pass

    try:
        emitter = HierarchicalEmitter()
        emitter.register("a.b", first)
        left = _convert(emitter)
        right = copy.copy(left)
        left.register("a.b", second, unique_id="second")
        left.unregister("a.b", first)
        calls = [[hook for hook, _ in side.emit("a.b")] for side in (left, right, copy.copy(left), emitter)]
    except Exception:  # noqa: BLE001 - whatever botocore's new structure makes of it, the answer is no
        return False
    return calls == [[second], [first], [second], [first]]
