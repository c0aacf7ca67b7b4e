"""The AWS of the benchmarks: a local server for AssumeRole, S3, and DynamoDB, with TLS and without.

Its certificate is of its own CA. The trust store of all contestants is certifi's bundle plus this CA, so that loading
it costs what it costs in production.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import re
import socket
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

_ASSUMED = """<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>
<AssumedRoleUser><AssumedRoleId>AROAEXAMPLE:{name}</AssumedRoleId>
<Arn>arn:aws:sts::{account}:assumed-role/{role}/{name}</Arn></AssumedRoleUser>
<Credentials><AccessKeyId>ASIA{role}</AccessKeyId><SecretAccessKey>secret</SecretAccessKey>
<SessionToken>token</SessionToken><Expiration>{expiration}</Expiration></Credentials>
</AssumeRoleResult><ResponseMetadata><RequestId>0</RequestId></ResponseMetadata></AssumeRoleResponse>"""

_THROTTLED = """<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type>
<Code>Throttling</Code><Message>Rate exceeded</Message></Error><RequestId>0</RequestId></ErrorResponse>"""

_BUCKETS = """<ListAllMyBucketsResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Owner><ID>0</ID></Owner>
<Buckets><Bucket><Name>orders</Name><CreationDate>2026-01-01T00:00:00Z</CreationDate></Bucket></Buckets>
</ListAllMyBucketsResult>"""

_STS_ADDRESS = "127.0.0.1"
_SERVICES_ADDRESS = "127.0.0.2"
"""Another host than STS's, as in production: connections are kept for each host."""
_BACKLOG = 256


# --- The server, in its own process -----------------------------------------------------------------------------------


@dataclass
class _Server:
    """Answers requests. ``mode`` says what STS does; the scenario sets it with a request to ``/control``."""

    mode: str = "serve"
    """``serve``, ``throttle``, ``hang``, ``trickle`` or ``deaf`` (connections that exist now get no further answer)."""
    ahead: float = 0
    """Seconds by which the callers' clock is ahead."""
    sts_requests: int = 0
    connections: int = 0
    deaf: set[int] = field(default_factory=set)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of one connection."""
        self.connections += 1
        number = self.connections
        # asyncio does it for sockets of a known protocol only. Without it, an answer may wait 40 ms for a delayed ACK.
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                method, path, _ = head.split(" ", 2)
                length = re.search(r"content-length: *(\d+)", head, re.IGNORECASE)
                body = await reader.readexactly(int(length[1])) if length else b""
                if path.startswith("/control"):
                    self._write(writer, 200, self._control(path))
                elif number in self.deaf:
                    self.sts_requests += 1
                elif "x-amz-target:" in head.lower():
                    self._write(writer, 200, '{"TableNames": []}', kind="application/x-amz-json-1.0")
                elif method == "POST":
                    await self._assume_role(path, body.decode(), writer)
                else:
                    self._write(writer, 200, _BUCKETS)
        writer.close()

    def _control(self, path: str) -> str:
        wanted = {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}
        self.mode = wanted.get("mode", self.mode)
        self.ahead = float(wanted.get("ahead", self.ahead))
        if self.mode == "deaf":
            self.deaf = set(range(1, self.connections + 1))
            self.mode = "serve"
        return json.dumps({"sts_requests": self.sts_requests, "connections": self.connections})

    async def _assume_role(self, path: str, body: str, writer: asyncio.StreamWriter) -> None:
        self.sts_requests += 1
        asked = parse_qs(body)
        await asyncio.sleep(int(path.strip("/").rpartition("/")[2]) / 1000)
        if self.mode == "throttle":
            self._write(writer, 400, _THROTTLED)
            return
        if self.mode == "hang":
            await asyncio.sleep(3600)
        arn, name = asked["RoleArn"][0], asked["RoleSessionName"][0]
        lifetime = timedelta(seconds=int(asked.get("DurationSeconds", ["3600"])[0]) + self.ahead)
        answer = _ASSUMED.format(
            name=name,
            account=arn.split(":")[4],
            role=arn.rpartition("/")[2],
            expiration=(datetime.now(UTC) + lifetime).strftime("%Y-%m-%dT%H:%M:%SZ"),
        )
        if self.mode == "trickle":
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {len(answer)}\r\n\r\n".encode())
            for letter in answer:
                writer.write(letter.encode())
                await asyncio.sleep(0.3)
            return
        self._write(writer, 200, answer)

    @staticmethod
    def _write(writer: asyncio.StreamWriter, status: int, body: str, kind: str = "text/xml") -> None:
        # One write: headers and body in two cost 44 ms for each answer (Nagle's algorithm against delayed ACKs).
        head = f"HTTP/1.1 {status} OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write((head + body).encode())


def _serve(listeners: dict[socket.socket, ssl.SSLContext | None]) -> None:
    # asyncio warns about answers to clients that have gone.
    logging.disable()

    async def serve_all() -> None:
        server = _Server()
        running = [
            await asyncio.start_server(server.serve, sock=listener, ssl=context, backlog=_BACKLOG)
            for listener, context in listeners.items()
        ]
        await asyncio.gather(*(each.serve_forever() for each in running))

    asyncio.run(serve_all())


# --- Certificates -----------------------------------------------------------------------------------------------------


def _make_certificates(folder: Path) -> None:
    """Write ``server.pem`` (key and certificate) and ``bundle.pem`` (certifi's certificates and the CA's)."""
    import ipaddress

    import certifi
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    now = datetime.now(UTC)

    def certificate(name: str, key: Any, issuer: str, issuer_key: Any, *extensions: tuple[Any, bool]) -> Any:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=7))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        for extension, is_critical in extensions:
            builder = builder.add_extension(extension, critical=is_critical)
        return builder.sign(issuer_key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    usage = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    authority = certificate(
        "xacct_lambda benchmarks",
        authority_key,
        "xacct_lambda benchmarks",
        authority_key,
        (x509.BasicConstraints(ca=True, path_length=0), True),
        (x509.KeyUsage(**usage, key_cert_sign=True, crl_sign=True), True),
    )
    names = [x509.DNSName(f"*.{name}") for name in (f"{REGION}.amazonaws.com", f"ddb.{REGION}.amazonaws.com")]
    addresses = [x509.IPAddress(ipaddress.ip_address(each)) for each in (_STS_ADDRESS, _SERVICES_ADDRESS)]
    leaf = certificate(
        "aws",
        key,
        "xacct_lambda benchmarks",
        authority_key,
        (x509.SubjectAlternativeName([*names, *addresses]), False),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(private + leaf)
    (folder / "bundle.pem").write_bytes(Path(certifi.where()).read_bytes() + b"\n" + authority)


# --- What contestants see ---------------------------------------------------------------------------------------------

REGION = "eu-west-1"


class Endpoints:
    """The environment variables that lead boto3 to the server."""

    def __init__(self, bundle: Path, ports: dict[tuple[str, bool], int]) -> None:
        self.bundle = bundle
        self._ports = ports

    def environment(self, sts_milliseconds: int, *, tls: bool) -> dict[str, str]:
        """Return them for an STS that takes so long to answer."""
        scheme = "https" if tls else "http"
        sts, services = (
            f"{scheme}://{address}:{self._ports[address, tls]}" for address in (_STS_ADDRESS, _SERVICES_ADDRESS)
        )
        plain = f"http://{_STS_ADDRESS}:{self._ports[_STS_ADDRESS, False]}"
        return {
            "AWS_ENDPOINT_URL_STS": f"{sts}/after/{sts_milliseconds}",
            "AWS_ENDPOINT_URL_S3": services,
            "AWS_CA_BUNDLE": str(self.bundle),
            "BENCHMARK_CONTROL": f"{plain}/control",
            "BENCHMARK_SERVICES": str(self._ports[_SERVICES_ADDRESS, True]),
        }


def lead_all_hosts_here(port: int) -> None:
    """Lead every host of AWS to the server, in this process: services whose hosts have the account in their name."""
    real = socket.getaddrinfo

    def getaddrinfo(host: Any, *arguments: Any, **options: Any) -> Any:
        if str(host).endswith(".amazonaws.com"):
            return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (_SERVICES_ADDRESS, port))]
        return real(host, *arguments, **options)

    socket.getaddrinfo = getaddrinfo


@contextmanager
def local_aws() -> Iterator[Endpoints]:
    """Run the server in its own process."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        _make_certificates(Path(folder))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(Path(folder) / "server.pem")
        listeners = {
            (address, tls): stack.enter_context(socket.create_server((address, 0), backlog=_BACKLOG))
            for address in (_STS_ADDRESS, _SERVICES_ADDRESS)
            for tls in (True, False)
        }
        contexts = {listener: context if tls else None for (_, tls), listener in listeners.items()}
        server = multiprocessing.get_context("fork").Process(target=_serve, args=(contexts,), daemon=True)
        server.start()
        try:
            yield Endpoints(
                Path(folder) / "bundle.pem",
                {place: listener.getsockname()[1] for place, listener in listeners.items()},
            )
        finally:
            server.terminate()
            server.join()
