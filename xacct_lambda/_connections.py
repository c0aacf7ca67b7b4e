"""HTTP connections and trust stores, which the clients of all roles share.

botocore gives each client its own connections and its own TLS context, and urllib3 loads the whole trust store into the
context again for every new connection (https://github.com/boto/botocore/issues/3171). Requests are signed one by one,
so a connection doesn't belong to a role. ``docs/security.md`` states what is shared, and between which clients.

The code that sends requests is botocore's. This module only decides which connection pools and which TLS context it
uses. If anything in botocore differs from what this module expects, the client keeps what botocore created for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import ssl
import threading
import weakref
from collections.abc import Hashable, Mapping
from typing import Any, Final, NamedTuple

from botocore.awsrequest import AWSHTTPConnectionPool, AWSHTTPSConnectionPool
from botocore.httpsession import ProxyConfiguration, URLLib3Session, get_cert_path
from cachetools import LRUCache
from urllib3 import PoolManager, ProxyManager, Timeout

from xacct_lambda._tls_context import File, SharedContext
from xacct_lambda._urllib3_pools import POOL_CLASSES
from xacct_lambda.exceptions import ConfigurationError

_SWITCH: Final = "XACCT_LAMBDA_SHARE_CONNECTIONS"
_SWITCH_VALUES: Final = {"": True, "1": True, "true": True, "0": False, "false": False}

_MAX_SETTINGS: Final = 16
_MAX_HOSTS: Final = 64
"""Hosts whose connections are kept. urllib3's default of 10 reconnects for every request if you use 11 buckets."""
_MIN_POOL_SIZE: Final = 50
"""Idle connections that are kept for each host. botocore's default of 10 is for the threads of one client."""

_logger = logging.getLogger(__name__)


class ConnectionPools:
    """The connections and trust stores of one process.

    Clients share connections if everything is equal that shapes a connection: verification, CA bundle, client
    certificate, proxies, timeouts, socket options, and pool size.
    """

    def __init__(self, *, max_settings: int = _MAX_SETTINGS) -> None:
        self._lock = threading.RLock()
        self._recent: LRUCache[Hashable, _SharedPools] = LRUCache(max_settings)
        # Clients keep using pools that the bounded cache has evicted, and drop() must reach these too.
        self._all: weakref.WeakSet[_SharedPools] = weakref.WeakSet()
        self._contexts: weakref.WeakValueDictionary[Hashable, SharedContext] = weakref.WeakValueDictionary()
        self._trust_store_load: _TrustStoreLoad | None = None

    def share(self, client: Any) -> Any:
        """Let a new client share connections, and return it.

        Raises:
            ConfigurationError: The environment variable that turns sharing off has an unknown value.
        """
        if not _is_enabled():
            return client
        try:
            # No public name leads to a client's HTTP session, and no option or component chooses its class.
            endpoint = client._endpoint  # noqa: SLF001
            if not isinstance(endpoint.http_session, _SharedSession):
                endpoint.http_session = self._shared_session(endpoint.http_session, client.meta.endpoint_url)
        except (AttributeError, KeyError, TypeError) as error:
            _logger.debug("%s keeps its own connections: %s", type(client).__name__, error)
        return client

    def drop(self) -> None:
        """Use new connections from now on. Requests and response bodies in progress keep theirs until they end."""
        with self._lock:
            for pools in list(self._all):
                pools.drop()

    def drop_for(self, client: Any) -> None:
        """Do the same for the connections that this client uses, and for all clients that share them."""
        session = getattr(getattr(client, "_endpoint", None), "http_session", None)
        if isinstance(session, _SharedSession):
            session.pools.drop()
        else:
            client.close()

    def start_loading(self, ca_bundle: str | None) -> None:
        """Start to load a trust store in a thread, for clients that will be created with this bundle.

        OpenSSL loads it without Python's lock, so the caller can create the clients at the same time.
        :meth:`load_trust_stores` waits for the thread.
        """
        if not _is_enabled():
            return
        # As botocore chooses it for a client.
        verify: Any = ca_bundle or os.environ.get("REQUESTS_CA_BUNDLE") or True
        try:
            session = URLLib3Session(verify=verify)
            new = session._get_ssl_context()  # type: ignore[attr-defined] # noqa: SLF001 - no stub has it, nor a public name
            context = self.context(_connection_settings(session).tls, new)
            thread = threading.Thread(target=_load, args=(context, get_cert_path(verify)), daemon=True)
            thread.start()
        except (AttributeError, KeyError, TypeError, RuntimeError) as error:
            # RuntimeError: no thread is available.
            _logger.debug("The first connection loads the trust store: %s", error)
            return
        self._trust_store_load = _TrustStoreLoad(context, thread)

    def load_trust_stores(self) -> None:
        """Load what the clients created so far need for their first TLS connection."""
        load = self._trust_store_load
        if load:
            load.thread.join()
            self._trust_store_load = None
        with self._lock:
            every = list(self._all)
        for pools in every:
            # The first request reports a bundle that can't be read, as it does with botocore's own connections.
            with contextlib.suppress(OSError):
                pools.load_trust_store()

    def after_fork(self) -> None:
        """Make the copy in a forked child usable. The child doesn't share connections with its parent."""
        self._lock = threading.RLock()
        self._trust_store_load = None
        self.drop()

    def context(self, key: Hashable, new: ssl.SSLContext) -> SharedContext:
        """Return the context that is shared under this key, or else make ``new`` the shared one."""
        context = self._contexts.get(key)
        if context is None or not context.is_usable():
            context = self._contexts[key] = SharedContext.convert(new)
        return context

    def _shared_session(self, session: Any, endpoint_url: str) -> _SharedSession:
        """Return a session that does what botocore's does, but with shared connections.

        Raises:
            AttributeError, KeyError, TypeError: The session isn't what botocore creates.
        """
        if type(session) is not URLLib3Session:
            raise TypeError(f"its HTTP session is a {type(session).__name__}")
        settings = _connection_settings(session)
        with self._lock:
            pools = self._recent.get(settings)
            if pools is None:
                pools = _SharedPools(self, settings.tls)
            shared = _SharedSession(session, pools)
            # Now, while botocore's own session is there to use if this fails.
            pools.current(shared)
            pools.needs_trust_store |= endpoint_url.startswith("https:")
            self._recent[settings] = pools
            self._all.add(pools)
        return shared


class _TrustStoreLoad(NamedTuple):
    """A trust store that a thread loads."""

    context: SharedContext
    """Referenced here, because no client does so yet."""
    thread: threading.Thread


def _load(context: SharedContext, path: str) -> None:
    with contextlib.suppress(OSError):
        context.load_verify_locations(path)


def _is_enabled() -> bool:
    value = os.environ.get(_SWITCH, "")
    is_enabled = _SWITCH_VALUES.get(value.lower())
    if is_enabled is None:
        raise ConfigurationError(_SWITCH, f"{value!r} is not 1, true, 0, or false")
    return is_enabled


class _TLSSettings(NamedTuple):
    """The settings of a TLS context: the trust store, and the client certificate."""

    is_verified: bool
    bundle: File | None
    certificate: File | None
    key: File | None


class _ConnectionSettings(NamedTuple):
    """The settings of a connection. Clients with equal settings share connections."""

    tls: _TLSSettings
    attributes: Hashable


_BOTOCORE_POOL_CLASSES: Final = {"http": AWSHTTPConnectionPool, "https": AWSHTTPSConnectionPool}


def _connection_settings(session: Any) -> _ConnectionSettings:
    """Return everything that botocore's session was created with, including options that botocore may add later.

    Raises:
        AttributeError, KeyError, TypeError: The session has an attribute of an unknown kind, or an HTTPS proxy.
    """
    attributes = dict(vars(session))
    del attributes["_manager"], attributes["_proxy_managers"]
    if attributes.pop("_pool_classes_by_scheme") != _BOTOCORE_POOL_CLASSES:
        raise TypeError("its pool classes are not botocore's")
    attributes["_max_pool_connections"] = max(attributes["_max_pool_connections"], _MIN_POOL_SIZE)
    # For a request to an http:// address through an HTTPS proxy, urllib3 turns verification off in the TLS context that
    # it uses for https:// addresses too. With one context for many clients, that would affect other clients.
    if any(str(url).lower().startswith("https:") for url in session._proxy_config._proxies.values()):  # noqa: SLF001
        raise TypeError("it uses an HTTPS proxy")
    if os.environ.get("BOTO_EXPERIMENTAL__ADD_PROXY_HOST_HEADER"):
        raise TypeError("botocore writes the name of the host to the headers of all connections")
    verify = attributes["_verify"]
    tls = _TLSSettings(
        bool(verify),
        File.at(get_cert_path(verify)) if verify else None,
        File.at(attributes["_cert_file"]),
        File.at(attributes["_key_file"]),
    )
    return _ConnectionSettings(tls, _hashable(attributes))


def _hashable(value: Any) -> Hashable:
    """Return a value that is equal for equal settings of equal types."""
    if isinstance(value, Mapping):
        return frozenset((key, _hashable(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return tuple(map(_hashable, value))
    if isinstance(value, ProxyConfiguration | Timeout):
        return _hashable(vars(value))
    if value is None or isinstance(value, str | bytes | int | float):
        return type(value), value
    # An unknown object might be equal to another one and mean something else.
    raise TypeError(f"a {type(value).__name__} is among its connection settings")


class _Managers(NamedTuple):
    """urllib3's pools of all hosts."""

    direct: PoolManager
    by_proxy: dict[str, ProxyManager]


class _SharedPools:
    """The connections of clients with equal connection settings."""

    def __init__(self, owner: ConnectionPools, tls: _TLSSettings) -> None:
        self.needs_trust_store = False
        self._owner = owner
        self._tls = tls
        self._context: SharedContext | None = None
        # By process ID: a child would read the answers to its parent's requests.
        self._current: dict[int, _Managers] = {}

    def current(self, session: _SharedSession) -> _Managers:
        """Return the managers to use now, and create them from a session's settings if necessary."""
        process = os.getpid()
        managers = self._current.get(process)
        if managers is None:
            # No lock, because a fork would leave it locked in the child. If threads race, the first one's are used.
            managers = self._current.setdefault(process, session.new_managers())
            for other in list(self._current):
                if other != process:
                    self._current.pop(other, None)
        return managers

    def drop(self) -> None:
        # Not manager.clear(), which closes the pools of requests in progress in urllib3 1.26.
        self._current.clear()

    def context(self, new: ssl.SSLContext) -> SharedContext:
        """Return the TLS context of these clients, which is ``new`` at the first call."""
        if self._context is None or not self._context.is_usable():
            self._context = self._owner.context(self._tls, new)
        return self._context

    def load_trust_store(self) -> None:
        if self.needs_trust_store and self._context and self._tls.bundle:
            self._context.load_verify_locations(self._tls.bundle.path)


class _SharedSession(URLLib3Session):
    """botocore's HTTP session of one client, with connections and a TLS context that other clients use too.

    Each client has its own session object, so a tool that patches one client's session doesn't affect other clients.
    """

    def __init__(self, session: URLLib3Session, pools: _SharedPools) -> None:
        # Not super().__init__(), which would create one more TLS context. It has the settings of botocore's session.
        vars(self).update(vars(session))
        del vars(self)["_manager"], vars(self)["_proxy_managers"]
        self._pool_classes_by_scheme = POOL_CLASSES
        self.pools = pools

    @property
    def _manager(self) -> PoolManager:
        return self.pools.current(self).direct

    @property
    def _proxy_managers(self) -> dict[str, ProxyManager]:
        return self.pools.current(self).by_proxy

    def new_managers(self) -> _Managers:
        manager = PoolManager(**self._get_pool_manager_kwargs())
        manager.pool_classes_by_scheme = self._pool_classes_by_scheme
        # urllib3 1.26 closes the pool of the host that was used the longest time ago, even if a request is in progress.
        manager.pools.dispose_func = None
        return _Managers(manager, {})

    def _get_pool_manager_kwargs(self, **extra: Any) -> dict[str, Any]:
        # botocore calls this for its own manager and for each proxy's. The context for a connection to the proxy itself
        # comes from elsewhere and isn't shared: it trusts other certificates.
        arguments: dict[str, Any] = super()._get_pool_manager_kwargs(**extra)  # type: ignore[misc] # no stub has it
        return arguments | {
            "ssl_context": self.pools.context(arguments["ssl_context"]),
            "maxsize": max(arguments["maxsize"], _MIN_POOL_SIZE),
            "num_pools": _MAX_HOSTS,
        }

    def close(self) -> None:
        """Do nothing: other clients use the connections, and unused ones take part in the bounds."""
