"""A TLS context that loads the trust store once.

urllib3 has a context load the trust store for each new connection: 25 ms of CPU time for certifi's bundle.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple, cast


class File(NamedTuple):
    """A file in the state in which it was read. It doesn't equal the same path with other content."""

    path: str
    state: tuple[int, ...]

    @classmethod
    def at(cls, path: str | None) -> File | None:
        if path is None:
            return None
        path = os.path.expanduser(path)  # noqa: PTH111 - urllib3 does the same, and passes the result on
        try:
            status = os.stat(path)  # noqa: PTH116 - the same
        except OSError:
            return cls(path, ())
        return cls(path, (status.st_mtime_ns, status.st_size, status.st_ino))


class SharedContext(ssl.SSLContext):
    """A TLS context that many clients use, and that loads each file once."""

    _lock: threading.Lock
    _applied: dict[str, Hashable]
    _users: set[int]
    _process: int

    @classmethod
    def convert(cls, context: ssl.SSLContext) -> SharedContext:
        """Turn a context that botocore has configured into a shared one.

        Raises:
            TypeError: Its class is not Python's own, as if ``truststore`` is in use.
        """
        if type(context) is not cls.__base__:
            raise TypeError(f"its TLS context is a {type(context).__name__}")
        context.__class__ = cls
        vars(context).update(_lock=threading.Lock(), _applied={}, _users=set(), _process=os.getpid())
        return cast("SharedContext", context)

    def is_usable(self) -> bool:
        """Say whether this process can use the context.

        If a thread of the parent was using it at the time of a fork, OpenSSL's locks in it stay locked in the child.
        """
        process = os.getpid()
        if not self._users:
            self._process = process
        return self._process == process

    def load_verify_locations(self, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:
        self._apply_once(
            "trust store",
            (File.at(cafile), capath, cadata),
            partial(super().load_verify_locations, cafile, capath, cadata),
        )

    def load_cert_chain(self, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
        self._apply_once(
            "certificate",
            (File.at(certfile), File.at(keyfile), password),
            partial(super().load_cert_chain, certfile, keyfile, password),
        )

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:
        # OpenSSL doesn't lock the protocols, so they mustn't be replaced while another thread connects.
        self._apply_once("protocols", tuple(alpn_protocols), partial(super().set_alpn_protocols, alpn_protocols))

    def wrap_socket(self, *args: Any, **kwargs: Any) -> ssl.SSLSocket:
        with self._in_use():
            return super().wrap_socket(*args, **kwargs)

    def _apply_once(self, name: str, value: Hashable, apply: Callable[[], None]) -> None:
        with self._in_use(), self._lock:
            if self._applied.get(name) != value:
                apply()
                self._applied[name] = value

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        thread = threading.get_ident()
        self._users.add(thread)
        try:
            yield
        finally:
            self._users.discard(thread)
