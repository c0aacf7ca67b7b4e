"""Isolation of tests: an empty cache for each test, and the clock that tests can move."""

from __future__ import annotations

import functools
import inspect
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, ParamSpec, TypeVar, cast

from xacct_lambda import _sessions, instrumentation
from xacct_lambda._connections import ConnectionPools
from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda.exceptions import ConfigurationError

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")


class _Clock:
    """The wall clock, moved by ``advance``. It looks up ``time.time`` at each call, because freezegun replaces it."""

    ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


clock: Final = _Clock()

# All caches that sessions of modules and of fixtures may still use. Each test clears them.
_credential_caches: Final[weakref.WeakSet[CredentialCache]] = weakref.WeakSet()
# The same for connections: a recorder of HTTP traffic may leave connections that answer from its recording.
_connection_pools: Final[weakref.WeakSet[ConnectionPools]] = weakref.WeakSet()


def track_cache(cache: _sessions.SessionCache) -> None:
    cache.credentials.clock = clock
    _credential_caches.add(cache.credentials)
    _connection_pools.add(cache.connections)


def _clear_caches() -> None:
    for pools in list(_connection_pools):
        pools.drop()
    for cache in list(_credential_caches):
        # An unused cache has nothing to clear. There are many of them, until the garbage collector runs.
        if cache.counts().misses:
            cache.clear()


def clear_errors() -> None:
    for cache in list(_credential_caches):
        cache.clear_errors()


_active: Final[set[str]] = set()


@contextmanager
def single(name: str, instead: str) -> Iterator[None]:
    """Refuse a second block of the same name inside a first one."""
    if name in _active:
        raise ConfigurationError(name, f"one is active already: {instead}")
    _active.add(name)
    try:
        yield
    finally:
        _active.remove(name)


class IsolatedCache:
    """See :func:`isolated_cache`."""

    def __init__(self) -> None:
        self._outer: list[tuple[_sessions.SessionCache, tuple[instrumentation.Hook, ...]]] = []

    def __enter__(self) -> None:
        self._outer.append((_sessions.default_cache, instrumentation.get_hooks()))
        track_cache(_sessions.default_cache)
        _sessions.default_cache = _sessions.new_cache()
        track_cache(_sessions.default_cache)
        _clear_caches()

    def __exit__(self, *_: object) -> None:
        _sessions.default_cache, hooks = self._outer.pop()
        instrumentation.set_hooks(hooks)
        _clear_caches()

    def __call__(self, function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
        if isinstance(function, type):
            raise ConfigurationError(
                "isolated_cache", "decorates functions only. In a TestCase, call enterContext() in setUp"
            )

        @functools.wraps(function)
        def call(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
            with isolated_cache():
                return function(*args, **kwargs)

        @functools.wraps(function)
        async def await_(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> Any:
            with isolated_cache():
                return await cast("Any", function(*args, **kwargs))

        return cast("Any", await_) if inspect.iscoroutinefunction(function) else call


def isolated_cache() -> IsolatedCache:
    """Return a context manager, which also decorates functions. Inside it, the library has its own, empty cache.

    The pytest plugin isolates each test in this way, which takes less than a millisecond. At the end, the library uses
    the outer cache and the outer hooks again. If your code keeps a session, for example at module level, it works
    inside and outside, and fetches new credentials in each.

    Example:
        >>> from xacct_lambda import assumed_session, cache_info
        >>> with isolated_cache():
        ...     session = assumed_session("arn:aws:iam::222222222222:role/Reader")
        ...     print(cache_info().sessions)
        1
        >>> print(cache_info().sessions)
        0
    """
    return IsolatedCache()
