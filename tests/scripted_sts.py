"""An STS on loopback that answers as a test scripts it: AWS's own texts, throttling, faults, silence."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qsl
from xml.sax.saxutils import escape

Answer = Callable[[BaseHTTPRequestHandler, dict[str, str]], tuple[int, str] | None]


def refuse(code: str, message: str, status: int = 403) -> Answer:
    """Answer with an error as STS words it."""
    body = (
        f'<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>'
        f"<Code>{code}</Code><Message>{escape(message)}</Message></Error><RequestId>r-1</RequestId></ErrorResponse>"
    )
    return lambda _handler, _call: (status, body)


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
    handler.server.closing.wait(30)  # type: ignore[attr-defined]
    handler.close_connection = True


def slowly(seconds: float) -> Answer:
    """Answer as usual, but late."""

    def answer(handler: BaseHTTPRequestHandler, call: dict[str, str]) -> tuple[int, str]:
        handler.server.closing.wait(seconds)  # type: ignore[attr-defined]
        return serve(handler, call)

    return answer


def serve(handler: BaseHTTPRequestHandler, call: dict[str, str]) -> tuple[int, str]:
    """Answer as STS does when all is well."""
    if call["Action"] == "GetCallerIdentity":
        return 200, _result("GetCallerIdentity", "<Arn>arn:aws:sts::222222222222:assumed-role/a/b</Arn>")
    return issue(call)


def issue(
    call: dict[str, str], *, assumed_arn: str | None = None, number: int = 0, ahead_seconds: float = 0
) -> tuple[int, str]:
    """Return the answer that issues credentials, for the role asked for unless told otherwise."""
    _, partition, _, _, account, resource = call["RoleArn"].split(":", 5)
    name = resource.rpartition("/")[2]
    arn = assumed_arn or f"arn:{partition}:sts::{account}:assumed-role/{name}/{call['RoleSessionName']}"
    expiration = datetime.now(UTC) + timedelta(seconds=int(call["DurationSeconds"]) + ahead_seconds)
    return 200, _result(
        "AssumeRole",
        f"<AssumedRoleUser><AssumedRoleId>AROA:x</AssumedRoleId><Arn>{arn}</Arn></AssumedRoleUser><Credentials>"
        f"<AccessKeyId>ASIA{number}</AccessKeyId><SecretAccessKey>issued-secret-key</SecretAccessKey>"
        f"<SessionToken>issued-session-token</SessionToken><Expiration>{expiration:%Y-%m-%dT%H:%M:%SZ}</Expiration>"
        f"</Credentials>",
    )


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
        self.calls: list[dict[str, str]] = []
        self.user_agents: list[str] = []
        self.signers: list[str] = []
        """The access key of each request, empty where it was not signed."""
        self.ahead_seconds = 0.0
        """How far the clock of the callers is ahead of this process's."""
        self.always: Answer | None = None

    def count(self, action: str = "AssumeRole") -> int:
        """Return how many requests of one action have come in."""
        return sum(call["Action"] == action for call in self.calls)

    def answer(self, handler: BaseHTTPRequestHandler, call: dict[str, str]) -> tuple[int, str] | None:
        self.calls.append(call)
        self.user_agents.append(handler.headers.get("User-Agent", ""))
        self.signers.append(handler.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0])
        if self.script:
            return self.script.pop(0)(handler, call)
        if self.always is not None:
            return self.always(handler, call)
        if call["Action"] == "AssumeRole":
            return issue(call, number=self.count(), ahead_seconds=self.ahead_seconds)
        return serve(handler, call)


@contextmanager
def scripted_sts() -> Iterator[ScriptedSTS]:
    """Run the server; yield what scripts it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

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

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.closing = threading.Event()  # type: ignore[attr-defined]
    sts = ScriptedSTS(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield sts
    finally:
        server.closing.set()  # type: ignore[attr-defined]
        server.shutdown()
        thread.join()
        server.server_close()


class Stopwatch:
    """How long a block took, in seconds."""

    def __enter__(self) -> Self:
        self.started = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self.started
