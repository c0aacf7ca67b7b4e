"""What the tests of all modules share: an empty cache for each, a clock set by hand, an STS that does as told."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from scripted_sts import ScriptedSTS, scripted_sts

from xacct_lambda import _sessions, _sts
from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda._sessions import SessionCache
from xacct_lambda._sts import Calls, FrozenCredentials, IssuedCredentials
from xacct_lambda.exceptions import AssumeRoleError, STSUnavailableError

ROLE = "arn:aws:iam::222222222222:role/role-on-source-account"
OTHER_ROLE = "arn:aws:iam::333333333333:role/teams/orders/Reader"

RunSuite = Callable[..., pytest.RunResult]

# The environment for other libraries' tests has no hypothesis.
if importlib.util.find_spec("hypothesis"):
    from hypothesis import settings

    # A deadline for each example fails on a busy machine.
    settings.register_profile("project", deadline=None)
    settings.load_profile("project")
RecordMessage = Callable[[Path, str, str], None]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the switch that rewrites the expected messages."""
    parser.addoption(
        "--update-messages",
        action="store_true",
        help="write the library's messages into tests/messages.txt and docs/messages.md instead of comparing",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to rewrite a file from several processes."""
    if config.getoption("--update-messages") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--update-messages: run without -n, because the tests rewrite the same file")


def pytest_collection_finish() -> None:
    """Have the garbage collector pass over what was imported, and come round rarely: it took a fifth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000)


class Clock:
    """A wall clock that moves when it is told to."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class FakeSTS:
    """Stands in for ``_sts.STS``: issues numbered credentials, unless it was told how to fail."""

    def __init__(self, clock: Clock) -> None:
        self.calls = 0
        self.failure: Exception | None = None
        self.lifetime: float | None = None
        self.max_wait: float = 5.0
        """The time limit of an attempt, in seconds."""
        self.during_login: Callable[[], None] = lambda: None
        """Runs while the caller's own credentials are loaded."""
        self.during_request: Callable[[], None] = lambda: None
        """Runs while STS has the request."""
        self.max_requests: list[int] = []
        self.cleared = 0
        self.dropped = 0
        self.prepared: list[tuple[boto3.Session, Any]] = []
        self.call_arguments: list[tuple[boto3.Session, AssumeRoleRequest, Any]] = []
        """The arguments of each call."""
        self._clock = clock

    def load_caller_credentials(self, source: boto3.Session, request: AssumeRoleRequest) -> None:
        self.during_login()

    def assume_role(
        self,
        source: boto3.Session,
        request: AssumeRoleRequest,
        config: Any,
        *,
        max_requests: int,
        calls: Calls,
    ) -> IssuedCredentials:
        self.max_requests.append(max_requests)
        self.call_arguments.append((source, request, config))
        self.calls += 1
        number = self.calls
        self.during_request()
        if self.failure is not None:
            raise self.failure
        fields = {
            "access_key": f"ASIA{number}",
            "secret_key": f"secret-{number}",
            "token": f"token-{number}",
            "account_id": request.account_id,
        }
        frozen = FrozenCredentials(**{name: fields[name] for name in FrozenCredentials._fields})
        return IssuedCredentials(frozen, self._clock() + (self.lifetime or request.duration_seconds))

    def max_wait_seconds(self, config: Any) -> float:
        return self.max_wait

    def prepare(self, source: boto3.Session, config: Any) -> None:
        self.prepared.append((source, config))

    def drop_connections(self, source: boto3.Session, config: Any) -> None:
        self.dropped += 1

    def clear_clients(self) -> None:
        self.cleared += 1


def refusal(code: str = "AccessDenied", role_arn: str = ROLE) -> AssumeRoleError:
    """Return the error of an STS that says no."""
    response: Any = {"Error": {"Code": code, "Message": "no"}}
    error = AssumeRoleError(f"STS refused {role_arn}", role_arn=role_arn, response=response)
    error.__cause__ = ClientError(response, "AssumeRole")
    return error


def outage(role_arn: str = ROLE) -> STSUnavailableError:
    """Return the error of an STS that does not answer."""
    response: Any = {"Error": {"Code": "ConnectTimeoutError", "Message": "no route"}}
    error = STSUnavailableError(f"no answer for {role_arn}", role_arn=role_arn, response=response)
    error.__cause__ = TimeoutError("no route")
    return error


@pytest.fixture
def record_message(pytestconfig: pytest.Config) -> RecordMessage:
    """Compare a passage of a file with what the library says now; with ``--update-messages``, replace the passage."""

    def record(path: Path, expected: str, actual: str) -> None:
        if pytestconfig.getoption("--update-messages"):
            text = path.read_text(encoding="utf-8")
            assert text.count(expected) == 1
            path.write_text(text.replace(expected, actual), encoding="utf-8")
        else:
            assert actual == expected

    return record


class Background:
    """Starts background threads only when a test says so, and in the test's own thread."""

    def __init__(self) -> None:
        self.tasks: list[Callable[[], None]] = []

    def __call__(self, task: Callable[[], None]) -> None:
        self.tasks.append(task)

    def run(self) -> int:
        """Run what was started; return how many tasks that were."""
        tasks, self.tasks = self.tasks, []
        for task in tasks:
            task()
        return len(tasks)


@pytest.fixture
def background() -> Background:
    return Background()


@pytest.fixture
def cache(sts: FakeSTS, clock: Clock, background: Background) -> CredentialCache:
    """A cache whose background refreshes run when a test calls ``background.run()``, without jitter."""
    return CredentialCache(sts, clock=clock, jitter=lambda low, _high: low, start_background_thread=background)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def sts(clock: Clock) -> FakeSTS:
    return FakeSTS(clock)


@pytest.fixture
def _sts_is_fake(sts: FakeSTS, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions fetch credentials of ``sts``, by the clock that is set by hand."""
    monkeypatch.setattr(_sessions, "default_cache", SessionCache(CredentialCache(sts, clock=clock)))


@pytest.fixture
def _real_time_limits() -> None:
    """Leave the library's time limits for STS as they are."""


@pytest.fixture
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedSTS]:
    """An STS on loopback instead of AWS's, with time limits that a busy machine doesn't reach."""
    if "_real_time_limits" not in request.fixturenames:
        patient = _sts.DEFAULT_CONFIG.merge(Config(connect_timeout=60, read_timeout=60))
        monkeypatch.setattr(_sts, "DEFAULT_CONFIG", patient)
    with scripted_sts() as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", running.url)
        yield running


def until(fact: Callable[[], bool]) -> None:
    """Return as soon as other threads have made it so."""
    deadline = time.monotonic() + 60
    while not fact():
        assert time.monotonic() < deadline, "it has not come to be so in a minute"
        time.sleep(0.001)


def holds_in_a_fork(fact: Callable[[], bool]) -> bool:
    """Return what a forked child finds; it fails where it is stuck for a minute."""
    # An attempt's thread that is just ending may hold a lock of coverage's, which the child would wait for.
    for thread in threading.enumerate():
        if thread.name == "xacct_lambda-assume-role":
            thread.join(0.5)
    pid = os.fork()
    if pid == 0:
        signal.alarm(60)
        try:
            os._exit(0 if fact() else 1)
        finally:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@pytest.fixture(scope="session")
def _suite_runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-P", str(Path(__file__).with_name("suite_runner.py"))]
    folder = tmp_path_factory.mktemp("suite_runner")
    with subprocess.Popen(command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process


@pytest.fixture
def run_suite(pytester: pytest.Pytester, request: pytest.FixtureRequest) -> RunSuite:
    """Run pytest on ``pytester.path``, with these arguments, in a process of its own that has moto imported."""
    if not hasattr(os, "fork"):
        return pytester.runpytest_subprocess
    runner = request.getfixturevalue("_suite_runner")

    def run(*arguments: str) -> pytest.RunResult:
        output = pytester.path / "output"
        order = {"folder": str(pytester.path), "arguments": arguments, "environment": dict(os.environ)}
        print(json.dumps(order | {"output": str(output)}), file=runner.stdin, flush=True)
        status = int(runner.stdout.readline())
        lines = output.read_text(encoding="utf-8").splitlines()
        print(*lines, sep="\n")  # noqa: T201 - for the report of a test that fails
        return pytest.RunResult(status, lines, [], 0)

    return run


@pytest.fixture(autouse=True)
def _no_credentials_but_these(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """No test finds the developer's profile, Region or keys."""
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_INITIALIZATION_TYPE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIACALLER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "callers-secret")


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees another's sessions, credentials or default session."""
    monkeypatch.setattr(boto3, "DEFAULT_SESSION", None)
    monkeypatch.setattr(_sessions, "default_cache", _sessions.new_cache())
    yield
    _sessions.default_cache.clear()
