"""urllib3's connection pools of one host, in a form that many roles can share."""

from __future__ import annotations

import contextlib
import socket
from collections import deque
from collections.abc import Iterator
from contextvars import ContextVar
from queue import Empty, Full
from typing import Any, Final

from botocore.awsrequest import AWSHTTPConnectionPool, AWSHTTPSConnectionPool


class _Stack:
    """The idle connections of one host, in place of :class:`queue.LifoQueue`.

    An exception in a signal handler can leave the queue's lock locked, and then every later request would wait for it.
    A deque needs no lock.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._items: deque[Any] = deque()

    def get(self, block: bool = True, timeout: float | None = None) -> Any:  # noqa: ARG002, FBT001, FBT002 - the queue's
        try:
            return self._items.pop()
        except IndexError:
            raise Empty from None

    def put(self, item: Any, block: bool = True, timeout: float | None = None) -> None:  # noqa: ARG002, FBT001, FBT002
        # Threads that race here keep a few more connections than the size.
        if len(self._items) >= self._maxsize:
            raise Full
        self._items.append(item)

    def qsize(self) -> int:
        return len(self._items)


_used_connections: ContextVar[list[Any] | None] = ContextVar("xacct_lambda_used_connections", default=None)


@contextlib.contextmanager
def connections_used(connections: list[Any]) -> Iterator[None]:
    """Collect the connections on which requests are sent in this context."""
    token = _used_connections.set(connections)
    try:
        yield
    finally:
        _used_connections.reset(token)
        connections.clear()


def abort_connection(connection: Any) -> None:
    """End whatever is in flight on a connection of urllib3, from another thread. Its read fails at once."""
    # A connection that waits for DNS or for the server has no socket yet, which causes the TypeError.
    with contextlib.suppress(AttributeError, OSError, TypeError, ValueError):
        # Not the TLS socket's own shutdown(), which would wait for the thread that reads.
        socket.socket.shutdown(connection.sock, socket.SHUT_RDWR)


class _PoolMixin:
    """Reuses a connection only if its next bytes are the answer to the next request, perhaps of another role."""

    QueueCls: Any = _Stack
    ConnectionCls: Any

    def _get_conn(self, timeout: float | None = None) -> Any:
        connection = super()._get_conn(timeout)  # type: ignore[misc]
        if type(connection) is not self.ConnectionCls:
            # Tools such as vcrpy replace the class for a while. These connections answer from a recording.
            connection.close()
            return self._new_conn()  # type: ignore[attr-defined]
        # urllib3 looks for unread bytes on the socket, but OpenSSL may have read and decrypted them already.
        pending = getattr(connection.sock, "pending", None)
        if pending and pending():
            connection.close()
        used = _used_connections.get()
        if used is not None:
            used.append(connection)
        return connection

    def _put_conn(self, conn: Any) -> None:
        # Remove it before another role can use it. An abort of this attempt must not end a request of that role.
        used = _used_connections.get()
        if used is not None and conn in used:
            used.remove(conn)
        super()._put_conn(conn)  # type: ignore[misc]


class _HTTPPool(_PoolMixin, AWSHTTPConnectionPool):
    pass


class _HTTPSPool(_PoolMixin, AWSHTTPSConnectionPool):
    pass


POOL_CLASSES: Final = {"http": _HTTPPool, "https": _HTTPSPool}
