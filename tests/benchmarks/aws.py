"""The AWS of the benchmarks: a local server that answers AssumeRole, as late as it is told, and S3's ListBuckets."""

from __future__ import annotations

import multiprocessing
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs

_ASSUMED = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<AssumedRoleUser><AssumedRoleId>AROAEXAMPLE:{name}</AssumedRoleId>
<Arn>arn:aws:sts::{account}:assumed-role/{role}/{name}</Arn></AssumedRoleUser>
<Credentials><AccessKeyId>ASIA{role}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>
<SessionToken>token</SessionToken><Expiration>{expiration}</Expiration></Credentials>
</AssumeRoleResult><ResponseMetadata><RequestId>0</RequestId></ResponseMetadata></AssumeRoleResponse>"""

_BUCKETS = """<ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>0</ID></Owner>
<Buckets><Bucket><Name>orders</Name><CreationDate>2026-01-01T00:00:00Z</CreationDate></Bucket></Buckets>
</ListAllMyBucketsResult>"""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answer AssumeRole, after the milliseconds that the path names."""
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        delay = re.fullmatch(r"/after/(\d+)/?", self.path)
        time.sleep(int(delay[1]) / 1000)
        arn, name = asked["RoleArn"][0], asked["RoleSessionName"][0]
        lifetime = timedelta(seconds=int(asked.get("DurationSeconds", ["3600"])[0]))
        self._answer(
            _ASSUMED.format(
                name=name,
                account=arn.split(":")[4],
                role=arn.rpartition("/")[2],
                expiration=(datetime.now(UTC) + lifetime).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
        )

    def do_GET(self) -> None:
        """Answer ListBuckets."""
        self._answer(_BUCKETS)

    def _answer(self, body: str) -> None:
        # One write: headers and body in two cost 44 ms for each answer (Nagle's algorithm against delayed ACKs).
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write((head + body).encode())

    def log_message(self, *_: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


def _serve(listener: socket.socket) -> None:
    server = _Server(listener.getsockname(), _Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = listener
    server.serve_forever()


class Endpoints:
    """The environment variables that lead boto3 to the server."""

    def __init__(self, port: int) -> None:
        self._address = f"http://127.0.0.1:{port}"

    def environment(self, sts_milliseconds: int) -> dict[str, str]:
        """Return them for an STS that takes so long to answer."""
        return {
            "AWS_ENDPOINT_URL_STS": f"{self._address}/after/{sts_milliseconds}",
            "AWS_ENDPOINT_URL_S3": self._address,
        }


@contextmanager
def local_aws() -> Iterator[Endpoints]:
    """Run the server in a process of its own."""
    with socket.create_server(("127.0.0.1", 0), backlog=_Server.request_queue_size) as listener:
        server = multiprocessing.get_context("fork").Process(target=_serve, args=(listener,), daemon=True)
        server.start()
        try:
            yield Endpoints(listener.getsockname()[1])
        finally:
            server.terminate()
            server.join()
