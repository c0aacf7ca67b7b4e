"""An STS on loopback that answers as a test scripts it: AWS's own texts, throttling, faults, silence."""

from __future__ import annotations

import contextlib
import itertools
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

CALLER = "arn:aws:sts::111111111111:assumed-role/orders-fn/orders-fn"

Answer = Callable[[BaseHTTPRequestHandler, dict[str, str]], tuple[int, str] | None]


def refuse(code: str, message: str, status: int = 403) -> Answer:
    """Answer with an error as STS words it."""
    return lambda _handler, _call: (status, _error(code, message))


THROTTLE = refuse("Throttling", "Rate exceeded", 400)
SERVER_FAULT = refuse("InternalFailure", "an internal error occurred", 500)


def garble(body: str) -> Answer:
    """Answer 200 with something that is not XML."""
    return lambda _handler, _call: (200, body)


def drop(handler: BaseHTTPRequestHandler, _call: dict[str, str]) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


def hang(handler: BaseHTTPRequestHandler, _call: dict[str, str]) -> None:
    """Never answer; the connection closes when the server does."""
    handler.server.closing.wait(120)
    handler.close_connection = True


def trickle(seconds: float) -> Answer:
    """Answer without an end, one byte after each pause."""

    def answer(handler: BaseHTTPRequestHandler, _call: dict[str, str]) -> None:
        with contextlib.suppress(OSError):
            handler.wfile.write(b"HTTP/1.1 200 -\r\nContent-Type: text/xml\r\nContent-Length: 100000\r\n\r\n")
            while not handler.server.closing.wait(seconds):
                handler.wfile.write(b"<")
        handler.close_connection = True

    return answer


def slowly(seconds: float) -> Answer:
    """Answer as usual, but late."""

    def answer(handler: BaseHTTPRequestHandler, call: dict[str, str]) -> tuple[int, str]:
        handler.server.closing.wait(seconds)
        return serve(handler, call)

    return answer


def serve(handler: BaseHTTPRequestHandler, call: dict[str, str]) -> tuple[int, str]:
    """Answer as STS does when all is well."""
    return handler.server.sts.serve(_signer(handler), call)


def issue(
    call: dict[str, str], *, assumed_arn: str | None = None, number: int = 0, ahead_seconds: float = 0
) -> tuple[int, str]:
    """Return the answer that issues credentials, for the role asked for unless told otherwise."""
    arn = assumed_arn or _assumed_role_arn(call)
    expiration = datetime.now(UTC) + timedelta(seconds=int(call["DurationSeconds"]) + ahead_seconds)
    return 200, _result(
        "AssumeRole",
        f"<AssumedRoleUser><AssumedRoleId>AROA:x</AssumedRoleId><Arn>{arn}</Arn></AssumedRoleUser><Credentials>"
        f"<AccessKeyId>ASIA{number}</AccessKeyId><SecretAccessKey>issued-secret-key</SecretAccessKey>"
        f"<SessionToken>issued-session-token</SessionToken><Expiration>{expiration:%Y-%m-%dT%H:%M:%SZ}</Expiration>"
        f"</Credentials>",
    )


def _error(code: str, message: str) -> str:
    return (
        f'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        f"<Code>{code}</Code><Message>{escape(message)}</Message></Error><RequestId>r-1</RequestId></ErrorResponse>"
    )


def _assumed_role_arn(call: dict[str, str]) -> str:
    _, partition, _, _, account, resource = call["RoleArn"].split(":", 5)
    name = resource.rpartition("/")[2]
    return f"arn:{partition}:sts::{account}:assumed-role/{name}/{call['RoleSessionName']}"


def _signer(handler: BaseHTTPRequestHandler) -> str:
    return handler.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]


def _result(action: str, content: str) -> str:
    return (
        f'<{action}Response xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><{action}Result>{content}</{action}Result>'
        f"<ResponseMetadata><RequestId>r-1</RequestId></ResponseMetadata></{action}Response>"
    )


class ScriptedSTS:
    """Answers each request with the next of ``script``, and when it is over as STS does when all is well."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.script: list[Answer] = []
        self.always: Answer | None = None
        self.instead: dict[str, Answer] = {}
        """What is answered to one action; to requests that are not signed, under ``unsigned``."""
        self.ahead_seconds = 0.0
        """How far the clock of the callers is ahead of this process's."""
        self.calls: list[dict[str, str]] = []
        self.actions: list[str] = []
        self.signers: list[str] = []
        """The access key of each request, empty where it was not signed."""
        self.user_agents: list[str] = []
        self.connections = 0
        """Connections that clients opened."""
        self._numbers = itertools.count(1)
        self._checked_credentials: dict[str, str] = {}

    def count(self, action: str = "AssumeRole") -> int:
        """Return how many requests of one action have come in."""
        return self.actions.count(action)

    def answer(self, handler: BaseHTTPRequestHandler, call: dict[str, str]) -> tuple[int, str] | None:
        signer = _signer(handler)
        action = call["Action"] if signer else "unsigned"
        self.calls.append(call)
        self.actions.append(action)
        self.signers.append(signer)
        self.user_agents.append(handler.headers.get("User-Agent", ""))
        if self.script:
            return self.script.pop(0)(handler, call)
        return (self.always or self.instead.get(action) or serve)(handler, call)

    def serve(self, signer: str, call: dict[str, str]) -> tuple[int, str]:
        if not signer:
            return 403, _error("MissingAuthenticationToken", "Request is missing Authentication Token")
        if call["Action"] == "GetCallerIdentity":
            arn = self._checked_credentials.get(signer, CALLER)
            return 200, _result("GetCallerIdentity", f"<Arn>{arn}</Arn><Account>{arn.split(':')[4]}</Account>")
        number = next(self._numbers)
        self._checked_credentials[f"ASIA{number}"] = _assumed_role_arn(call)
        return issue(call, number=number, ahead_seconds=self.ahead_seconds)


@contextmanager
def scripted_sts(tls: ssl.SSLContext | None = None) -> Iterator[ScriptedSTS]:
    """Run the server, over TLS if it is given a context; yield what scripts it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            sts.connections += 1

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            answer = sts.answer(self, dict(parse_qsl(body)))
            if answer is None:
                return
            status, text = answer
            head = f"HTTP/1.1 {status} -\r\nContent-Type: text/xml\r\nContent-Length: {len(text.encode())}\r\n\r\n"
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # One write: a second would wait for the client's delayed acknowledgement.
                self.wfile.write((head + text).encode())

        def log_message(self, *_: Any) -> None:
            pass

    with served(Handler, tls) as server:
        server.closing = threading.Event()
        sts = server.sts = ScriptedSTS(f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}")
        try:
            yield sts
        finally:
            server.closing.set()


@contextmanager
def served(handler: type[BaseHTTPRequestHandler], tls: ssl.SSLContext | None = None) -> Iterator[ThreadingHTTPServer]:
    """Run a server on loopback."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def black_hole(stack: contextlib.ExitStack) -> tuple[str, int]:
    """Return an address that drops packets, as all of STS's do for a VPC without a route."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen(0)
    for _ in range(4):  # A full queue of connections drops the next.
        filler = stack.enter_context(socket.socket())
        filler.setblocking(False)
        filler.connect_ex(listener.getsockname())
    return listener.getsockname()
