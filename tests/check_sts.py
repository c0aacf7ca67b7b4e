"""An STS on loopback that answers as it is told: the Query protocol's XML for AssumeRole and GetCallerIdentity."""

from __future__ import annotations

import datetime as dt
import re
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl

NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"
CALLER = "arn:aws:sts::111111111111:assumed-role/orders-fn/orders-fn"


class Refusal(Exception):  # noqa: N818 - an answer
    """An answer by which STS refuses."""

    def __init__(self, code: str, message: str, status: int = 403) -> None:
        super().__init__(code, message)
        self.status = status
        self.body = (
            f'<ErrorResponse xmlns="{NAMESPACE}"><Error><Type>Sender</Type><Code>{code}</Code>'
            f"<Message>{message}</Message></Error><RequestId>1</RequestId></ErrorResponse>"
        )


class Dropped(Exception):  # noqa: N818 - the same
    """No answer: the connection is closed."""


class CheckSTS:
    """Answers on ``url``; ``refusals`` holds, by action, what is raised in the place of an answer."""

    def __init__(self) -> None:
        self.refusals: dict[str, Exception] = {}
        self.calls: Counter[str] = Counter()
        self.during: Callable[[], Any] = lambda: None
        self._issued: dict[str, str] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        sts = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                signer = re.search(r"Credential=([^/]+)/", self.headers.get("Authorization", ""))
                try:
                    status, answer = 200, sts.answer(dict(parse_qsl(body)), signer and signer[1])
                except Refusal as refusal:
                    status, answer = refusal.status, refusal.body
                except Dropped:
                    self.close_connection = True
                    return
                payload = answer.encode()
                # One write: of two, the second would wait for the first to be acknowledged.
                head = f"HTTP/1.1 {status} -\r\nContent-Type: text/xml\r\nContent-Length: {len(payload)}\r\n\r\n"
                self.wfile.write(head.encode() + payload)

            def log_message(self, *_: Any) -> None:
                pass

        return Handler

    def answer(self, request: dict[str, str], signer: str | None) -> str:
        action = request["Action"] if signer else "unsigned"
        self.calls[action] += 1
        self.during()
        if action in self.refusals:
            raise self.refusals[action]
        if signer is None:
            raise Refusal("MissingAuthenticationToken", "Request is missing Authentication Token")
        if action == "GetCallerIdentity":
            arn = self._issued.get(signer, CALLER)
            return self._answer(action, f"<Arn>{arn}</Arn><UserId>A:b</UserId><Account>{arn.split(':')[4]}</Account>")
        return self._answer(action, self._assume(request))

    def _assume(self, request: dict[str, str]) -> str:
        _, partition, _, _, account, resource = request["RoleArn"].split(":")
        name = resource.rpartition("/")[2]
        arn = f"arn:{partition}:sts::{account}:assumed-role/{name}/{request['RoleSessionName']}"
        access_key = f"ASIA{len(self._issued)}"
        self._issued[access_key] = arn
        expiration = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=int(request["DurationSeconds"]))
        return (
            f"<Credentials><AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>issued-secret</SecretAccessKey>"
            f"<SessionToken>issued-token</SessionToken><Expiration>{expiration:%Y-%m-%dT%H:%M:%SZ}</Expiration>"
            f"</Credentials><AssumedRoleUser><Arn>{arn}</Arn><AssumedRoleId>A:b</AssumedRoleId></AssumedRoleUser>"
        )

    @staticmethod
    def _answer(action: str, result: str) -> str:
        return f'<{action}Response xmlns="{NAMESPACE}"><{action}Result>{result}</{action}Result></{action}Response>'
