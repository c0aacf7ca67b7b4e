"""HTTPS servers and proxies on loopback, with certificates of a CA that only the test trusts."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import itertools
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_BUCKETS = b"<ListAllMyBucketsResult><Buckets/></ListAllMyBucketsResult>"


class Certificate(NamedTuple):
    """Paths of a certificate and its key."""

    certificate: str
    key: str


class CA:
    """A certificate authority; ``bundle`` is the file that a client has to trust."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self._folder = folder
        self._name = name
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._certificate = self._sign(self._subject, self._key.public_key(), is_ca=True)
        self.pem = self._certificate.public_bytes(serialization.Encoding.PEM)
        self.bundle = str(folder / f"{name}.pem")
        Path(self.bundle).write_bytes(self.pem)

    def issue(self, name: str) -> Certificate:
        """Return a certificate for 127.0.0.1, ``localhost``, and any host below ``test``."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        certificate = self._sign(subject, key.public_key(), is_ca=False)
        paths = Certificate(str(self._folder / f"{name}.crt"), str(self._folder / f"{name}.key"))
        Path(paths.certificate).write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        Path(paths.key).write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return paths

    def _sign(self, subject: x509.Name, key: Any, *, is_ca: bool) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        names = [
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
            x509.DNSName("localhost"),
            x509.DNSName("*.s3.test"),
            x509.DNSName("s3.test"),
        ]
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        )
        return builder.sign(self._key, hashes.SHA256())


class Request(NamedTuple):
    """A request that the server answered."""

    connection: int
    signer: str
    """The access key, empty if the request isn't signed."""
    host: str
    path: str


class HTTPSServer:
    """Answers each request with an empty list of buckets, or with ``bodies[path]``."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.requests: list[Request] = []
        self.bodies: dict[str, bytes] = {}
        self.open: set[int] = set()
        """Numbers of the connections that are open."""
        self.together: threading.Barrier | None = None
        """Requests wait for one another here before they are answered."""

    @property
    def connections(self) -> int:
        """Return how many connections have carried a request."""
        return len(set(self.order))

    @property
    def order(self) -> list[int]:
        """Return on which connection each request came: the first on connection 0."""
        seen = list(dict.fromkeys(request.connection for request in self.requests))
        return [seen.index(request.connection) for request in self.requests]


@contextmanager
def https_server(certificate: Certificate | None, *, client_ca: str | None = None) -> Iterator[HTTPSServer]:
    """Run a server; without a certificate, a server that speaks HTTP. With ``client_ca``, clients need certificates."""
    numbers = itertools.count(1)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.number = next(numbers)
            server.open.add(self.number)

        def finish(self) -> None:
            server.open.discard(self.number)
            with contextlib.suppress(OSError):
                super().finish()

        def handle(self) -> None:
            # A client that refuses the certificate, or ends.
            with contextlib.suppress(OSError):
                super().handle()

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            signer = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
            server.requests.append(Request(self.number, signer, self.headers["Host"], self.path))
            if server.together:
                server.together.wait(60)
            body = server.bodies.get(self.path, _BUCKETS)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
            with contextlib.suppress(OSError):
                self.wfile.write(head.encode() + (b"" if self.command == "HEAD" else body))

        do_GET = do_PUT = do_POST = do_HEAD = answer  # noqa: N815 - the base class looks for these

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPSServer("")
    with _listening(Handler, certificate, client_ca) as server.url:
        yield server


class Proxy:
    """A proxy that forwards requests to ``http`` addresses and opens tunnels to others."""

    def __init__(self) -> None:
        self.url = ""
        self.tunnels: list[str] = []
        self.forwarded: list[str] = []


@contextmanager
def proxy_server(certificate: Certificate | None = None) -> Iterator[Proxy]:
    """Run a proxy; with a certificate, one that is reached by TLS."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            proxy.tunnels.append(self.path)
            host, _, port = self.path.partition(":")
            with contextlib.suppress(OSError), socket.create_connection((host, int(port))) as target:
                self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
                back = threading.Thread(target=_copy, args=(target, self.connection), daemon=True)
                back.start()
                _copy(self.connection, target)
            self.close_connection = True

        def do_GET(self) -> None:
            proxy.forwarded.append(self.path)
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(_BUCKETS), _BUCKETS))

        def log_message(self, *_: Any) -> None:
            pass

    proxy = Proxy()
    with _listening(Handler, certificate, None) as proxy.url:
        yield proxy


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def answering_twice(certificate: Certificate) -> Iterator[str]:
    """Run an HTTPS server that sends two answers to each request, in one piece.

    The last part of the path is the size of the first answer, head included.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                super().handle()

        def do_GET(self) -> None:
            size = int(self.path.rpartition("/")[2])
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n"
            length = size - len(head % size)
            # Less than 16 KiB, so that all is one TLS record.
            self.wfile.write(head % length + b"1" * length + head % 4000 + b"2" * 4000)

        def log_message(self, *_: Any) -> None:
            pass

    with _listening(Handler, certificate, None) as url:
        yield url


@contextmanager
def _listening(
    handler: type[BaseHTTPRequestHandler], certificate: Certificate | None, client_ca: str | None
) -> Iterator[str]:
    listener = _Listener(("127.0.0.1", 0), handler)
    scheme = "http"
    if certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        if client_ca:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(client_ca)
        # The handshake happens in the connection's own thread, at its first read.
        listener.socket = context.wrap_socket(listener.socket, server_side=True, do_handshake_on_connect=False)
        scheme = "https"
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"{scheme}://127.0.0.1:{listener.server_port}"
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, *_: Any) -> None:
        """Do nothing: clients refuse certificates and close connections."""
