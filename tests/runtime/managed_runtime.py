"""Lambda's managed runtime on this machine: AWS's own runtime interface client, and the Runtime API that it asks.

The client runs as the managed runtime runs it: nothing on the path but the function's folder, the layer in the place of
/opt, AWS's client with the SDK in the place of /var/runtime, and the standard library.

See https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html.
"""

from __future__ import annotations

import contextlib
import io
import json
import queue
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from importlib import metadata
from os import killpg
from pathlib import Path
from typing import Any, NamedTuple

from scripted_sts import served

from xacct_lambda.cli.layer import _with_dependencies, build_layer

PYTHON = f"python{sys.version_info.major}.{sys.version_info.minor}"
_API = "/2018-06-01/runtime"
INIT_SECONDS = 60
"""For all that takes no time of an invocation; Lambda allows 10 seconds for the init phase, and a busy machine more."""


class Image(NamedTuple):
    """The folders of an execution environment that are the same for every function."""

    opt: Path
    runtime: Path


def make_image(folder: Path, sdk: Path | None) -> Image:
    """Unpack the layer; put together what the runtime brings: AWS's client, and the SDK installed here or another."""
    opt, runtime = folder / "opt", folder / "var-runtime"
    zipfile.ZipFile(io.BytesIO(build_layer().content)).extractall(opt)
    for path in (opt, *opt.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    runtime.mkdir()
    for distribution in _with_dependencies("awslambdaric", without=frozenset()):
        _link(distribution, runtime)
    if sdk is not None:
        for path in sdk.iterdir():
            (runtime / path.name).symlink_to(path)
    else:
        for distribution in _with_dependencies("boto3", without=frozenset()):
            _link(distribution, runtime)
    return Image(opt, runtime)


def _link(distribution: metadata.Distribution, folder: Path) -> None:
    for name in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
        (folder / name).symlink_to(str(distribution.locate_file(name)))


class Answer(NamedTuple):
    """What a function answered."""

    content: Any
    is_error: bool
    headers: str
    seconds: float


class Invocation:
    """An event on its way: handed to the function when it asks for the next, answered some time after."""

    def __init__(self, number: int, event: Any, seconds: float, tenant_id: str | None) -> None:
        self.request_id = f"request-{number}"
        self.event = event
        self.seconds = seconds
        self.tenant_id = tenant_id
        self.handed_at = 0.0
        self.handed = threading.Event()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()

    def hand(self) -> None:
        self.handed_at = time.perf_counter()
        self.handed.set()

    def answered(self, content: Any, headers: str, *, is_error: bool) -> None:
        self._answers.put(Answer(content, is_error, headers, time.perf_counter() - self.handed_at))

    def answer(self) -> Answer:
        """Return the answer, or die as an invocation does.

        Raises:
            TimeoutError: "Task timed out".
        """
        if not self.handed.wait(INIT_SECONDS):
            raise TimeoutError(f"init took more than {INIT_SECONDS} seconds")
        try:
            return self._answers.get(timeout=self.seconds)
        except queue.Empty:
            raise TimeoutError(f"Task timed out after {self.seconds:.2f} seconds") from None


class RuntimeAPI:
    """Hands events to the processes of one function, all of which are asked to be there before any event is handed."""

    def __init__(self, processes: int) -> None:
        self.address = ""
        self.ahead_seconds = 0.0
        """How far the function's clock is ahead of this process's."""
        self.init_errors: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.snapshot_ready = threading.Event()
        self.restore = threading.Event()
        self.on_next: Callable[[], None] = lambda: None
        """Called when a process asks for the next event, before it gets one."""
        self._processes = threading.Barrier(processes)
        self._events: queue.SimpleQueue[Invocation | None] = queue.SimpleQueue()
        self._invocations: dict[str, Invocation] = {}

    def send(self, event: Any, *, seconds: float = 60, tenant_id: str | None = None) -> Invocation:
        """Send an event, and wait for nothing; by default with a time-out that a busy machine keeps too."""
        invocation = Invocation(len(self._invocations) + 1, event, seconds, tenant_id)
        self._invocations[invocation.request_id] = invocation
        self._events.put(invocation)
        return invocation

    def invoke(self, event: Any, *, seconds: float = 60, tenant_id: str | None = None) -> Answer:
        """Send an event, and wait for the answer."""
        return self.send(event, seconds=seconds, tenant_id=tenant_id).answer()

    def get(self, path: str) -> tuple[dict[str, str], Any] | None:
        if path == f"{_API}/restore/next":
            self.snapshot_ready.set()
            return ({}, {}) if self.restore.wait(INIT_SECONDS) else None
        with contextlib.suppress(threading.BrokenBarrierError):
            self._processes.wait()
        self.on_next()
        invocation = self._events.get()
        if invocation is None:
            return None
        invocation.hand()
        of_the_tenant = {"Lambda-Runtime-Aws-Tenant-Id": invocation.tenant_id} if invocation.tenant_id else {}
        return of_the_tenant | {
            "Lambda-Runtime-Aws-Request-Id": invocation.request_id,
            "Lambda-Runtime-Deadline-Ms": str(round((time.time() + self.ahead_seconds + invocation.seconds) * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:eu-west-1:111111111111:function:read-orders",
            "Lambda-Runtime-Trace-Id": "Root=1-5759e988-bd862e3fe1be46a994272793;Sampled=0",
        }, invocation.event

    def post(self, path: str, content: Any, headers: str) -> None:
        *_, subject, kind = path.split("/")
        if subject in self._invocations:
            self._invocations[subject].answered(content, headers, is_error=kind == "error")
        else:
            self.init_errors.put(content)

    def close(self) -> None:
        self._processes.abort()
        for _ in range(self._processes.parties):
            self._events.put(None)


@contextmanager
def runtime_api(processes: int) -> Iterator[RuntimeAPI]:
    """Serve the Runtime API on loopback."""
    api = RuntimeAPI(processes)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            found = api.get(self.path)
            if found is None:
                self.close_connection = True
            else:
                self._answer(200, *found)

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            api.post(self.path, json.loads(content), str(self.headers))
            self._answer(202, {}, {"status": "OK"})

        def _answer(self, status: int, headers: dict[str, str], content: Any) -> None:
            body = json.dumps(content)
            headers |= {"Content-Type": "application/json", "Content-Length": str(len(body))}
            head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            # One write: of two, the second would wait for the first to be acknowledged.
            with contextlib.suppress(ConnectionError):
                self.wfile.write(f"HTTP/1.1 {status} -\r\n{head}\r\n{body}".encode())

        def log_message(self, *_: Any) -> None:
            pass

    with served(Handler) as server:
        api.address = f"127.0.0.1:{server.server_port}"
        yield api
        api.close()


class OtherServices:
    """S3, which lists one bucket to anybody, and the credentials that a SnapStart function finds on loopback."""

    def __init__(self) -> None:
        self.url = ""
        self.signers: list[str] = []
        """The access key of each request to S3."""

    def answer(self, path: str, authorization: str) -> tuple[str, str]:
        if path == "/credentials":
            return "application/json", json.dumps(
                {
                    "AccessKeyId": "ASIACONTAINER",
                    "SecretAccessKey": "containers-secret-key",
                    "Token": "containers-session-token",
                    "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 6 * 3600)),
                }
            )
        self.signers.append(authorization.partition("Credential=")[2].partition("/")[0])
        return "application/xml", (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>orders</Name>'
            "<Contents><Key>2026/orders-1.json</Key></Contents></ListBucketResult>"
        )


@contextmanager
def other_services() -> Iterator[OtherServices]:
    """Serve them on loopback."""
    services = OtherServices()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, body = services.answer(self.path, self.headers.get("Authorization", ""))
            # Closed: one that is kept alive, two copies of a process would share, and read each other's answers.
            head = f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
            self.wfile.write(f"HTTP/1.1 200 -\r\n{head}\r\n{body}".encode())

        def log_message(self, *_: Any) -> None:
            pass

    with served(Handler) as server:
        services.url = f"http://127.0.0.1:{server.server_port}"
        yield services


class Function:
    """A function in its execution environment."""

    def __init__(self, api: RuntimeAPI, task_root: Path, log: Path, pid: int) -> None:
        self.api = api
        self.pid = pid
        self.task_root = task_root
        self.invoke = api.invoke
        self._log = log

    def log(self) -> str:
        """Return what it has written to its log."""
        return self._log.read_text(encoding="utf-8")


@contextmanager
def running(
    image: Image, task_root: Path, environment: dict[str, str], *, handler: str, processes: int = 1
) -> Iterator[Function]:
    """Start a function; yield it, and end it with all its processes."""
    log = task_root.parent / "log"
    opt = image.opt / "python"
    settings = {
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EXECUTION_ENV": f"AWS_Lambda_{PYTHON}",
        "AWS_LAMBDA_FUNCTION_NAME": "read-orders",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
        "AWS_REGION": "eu-west-1",
        "LAMBDA_RUNTIME_DIR": str(image.runtime),
        "LAMBDA_TASK_ROOT": str(task_root),
        **environment,
    }
    # Where a function sets PYTHONPATH, the runtime leaves the path of layers out.
    of_layers = () if "PYTHONPATH" in environment else (opt / "lib" / PYTHON / "site-packages", opt)
    of_the_function = filter(None, [environment.get("PYTHONPATH")])
    path = [str(task_root), *map(str, of_layers), *of_the_function, str(image.runtime)]
    with runtime_api(processes) as api, log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-S", "-B", "-m", "awslambdaric", handler],
            cwd=task_root,
            env=settings | {"AWS_LAMBDA_RUNTIME_API": api.address, "PYTHONPATH": ":".join(path)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield Function(api, task_root, log, process.pid)
        finally:
            with contextlib.suppress(ProcessLookupError):
                killpg(process.pid, signal.SIGKILL)
            process.wait()
