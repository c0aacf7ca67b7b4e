"""An HTTPS server on loopback, with certificates of a CA that only the test trusts."""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import itertools
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
def https_server(
    certificate: Certificate | None, *, client_ca: str | None = None, address: str = "127.0.0.1"
) -> Iterator[HTTPSServer]:
    """Run a server; without a certificate, a server that speaks HTTP. With ``client_ca``, clients need certificates."""
    numbers = itertools.count(1)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            super().setup()
            self.number = next(numbers)

        def handle(self) -> None:
            # A client that refuses the certificate, or ends.
            with contextlib.suppress(OSError):
                super().handle()

        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            signer = self.headers.get("Authorization", "").partition("Credential=")[2].partition("/")[0]
            server.requests.append(Request(self.number, signer, self.headers["Host"], self.path))
            body = server.bodies.get(self.path, _BUCKETS)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
            with contextlib.suppress(OSError):
                self.wfile.write(head.encode() + (b"" if self.command == "HEAD" else body))

        do_GET = do_PUT = do_POST = do_HEAD = answer  # noqa: N815 - the base class looks for these

        def log_message(self, *_: Any) -> None:
            pass

    listener = ThreadingHTTPServer((address, 0), Handler)
    listener.daemon_threads = True
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
    server = HTTPSServer(f"{scheme}://127.0.0.1:{listener.server_port}")
    thread = threading.Thread(target=listener.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()
