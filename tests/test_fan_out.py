"""Many roles at once."""

from __future__ import annotations

import io
import json
import logging
import os
import pickle
import re
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import boto3
import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.credentials import CredentialProvider, CredentialResolver, Credentials
from botocore.exceptions import ClientError, CredentialRetrievalError, EndpointConnectionError
from conftest import ROLE, Clock, FakeSTS, outage, refusal
from scripted_sts import ScriptedSTS

from xacct_lambda import (
    _fan_out,
    _sessions,
    assume_role,
    assumed_session,
    assumed_sessions,
    cache_clear,
    for_each_account,
)
from xacct_lambda._invocation import current_context
from xacct_lambda.exceptions import (
    AssumeRoleError,
    CallerCredentialsError,
    ConfigurationError,
    PartialFailureError,
    STSUnavailableError,
)

pytestmark = pytest.mark.usefixtures("_sts_is_fake")

ROLES = [f"arn:aws:iam::{number:012}:role/Auditor" for number in range(20, 0, -1)]


class PickySTS(FakeSTS):
    """Refuses the roles it is told to."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.refused: set[str] = set()

    def assume_role(self, source: boto3.Session, request: Any, config: Any, **options: Any) -> Any:
        if request.role_arn in self.refused:
            self.calls += 1
            raise refusal(role_arn=request.role_arn)
        return super().assume_role(source, request, config, **options)


@pytest.fixture
def sts(clock: Clock) -> PickySTS:
    return PickySTS(clock)


class CountedThreads:
    """The threads of the loop: how many were started, and how many Python can start."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, available: float = float("inf")) -> None:
        self.count = 0
        self._available = available
        self._start = threading.Thread.start
        monkeypatch.setattr(threading.Thread, "start", self._start_counted())

    def _start_counted(self) -> Callable[[threading.Thread], None]:
        def start(thread: threading.Thread) -> None:
            if thread.name.startswith("xacct_lambda_"):
                if self.count == self._available:
                    raise RuntimeError("can't start new thread")
                self.count += 1
            self._start(thread)

        return start


def test_sessions_come_in_order_with_credentials_at_hand(sts: PickySTS) -> None:
    """The sessions are those of ``assumed_session``, in the order of the ARNs, and their first signature is warm."""
    sessions = assumed_sessions(ROLES)

    assert list(sessions) == ROLES
    assert sts.calls == len(ROLES)
    for role_arn, session in sessions.items():
        assert session is assumed_session(role_arn)
        assert session.get_credentials().get_frozen_credentials()
    assert sts.calls == len(ROLES)


def test_roles_are_assumed_at_the_same_time(sts: PickySTS) -> None:
    """As many calls are under way at one time as there are workers."""
    all_at_once = threading.Barrier(20, timeout=60)
    sts.during_request = lambda: all_at_once.wait() and None

    assert len(assumed_sessions(ROLES, max_workers=20)) == 20


class CountingProvider(CredentialProvider):  # type: ignore[misc]
    """Counts how often botocore loads its credentials."""

    METHOD = "counting"

    def __init__(self) -> None:
        super().__init__()
        self.loads = 0

    def load(self) -> Credentials:
        self.loads += 1
        loads = self.loads
        # Let the other threads of the loop come here too.
        time.sleep(0.05)
        return Credentials(f"AKIA{loads}", "secret", method=self.METHOD)


def source_with(provider: CredentialProvider) -> boto3.Session:
    botocore_session = botocore.session.Session()
    botocore_session.register_component("credential_provider", CredentialResolver([provider]))
    return boto3.Session(botocore_session=botocore_session, region_name="eu-west-1")


@pytest.mark.parametrize("is_default", [True, False])
def test_source_session_loads_its_credentials_once(
    server: ScriptedSTS, monkeypatch: pytest.MonkeyPatch, is_default: bool
) -> None:
    """A ``credential_process`` runs once for all roles, also if the roles are assumed at the same time."""
    monkeypatch.setattr(_sessions, "default_cache", _sessions.new_cache())
    provider = CountingProvider()
    source = source_with(provider)
    if is_default:
        monkeypatch.setattr(boto3, "DEFAULT_SESSION", source)
    options: dict[str, Any] = {} if is_default else {"source_session": source}

    assert list(assumed_sessions(ROLES[:8], **options)) == ROLES[:8]
    assert provider.loads == 1
    assert len(server.calls) == 8


def test_each_role_reports_a_source_session_without_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """If the source session can't load its credentials, the error of each role tells you so."""

    class BrokenProvider(CountingProvider):
        def load(self) -> Credentials:
            raise CredentialRetrievalError(provider="custom-process", error_msg="no")

    monkeypatch.setattr(_sessions, "default_cache", _sessions.new_cache())
    source = source_with(BrokenProvider())
    outcomes = assumed_sessions(ROLES[:2], source_session=source, return_exceptions=True)

    assert [type(outcome) for outcome in outcomes.values()] == [CallerCredentialsError] * 2


def test_the_number_of_threads_is_bounded() -> None:
    """No more than ``max_workers`` threads work, and their names say whose they are."""
    names = for_each_account(lambda _session, _account_id: threading.current_thread().name, ROLES, max_workers=3)

    assert 1 <= len(set(names.values())) <= 3
    assert all(name.startswith("xacct_lambda_") for name in names.values())


@pytest.mark.parametrize("loop", [assumed_sessions, partial(for_each_account, lambda session, _account_id: session)])
def test_32_roles_are_assumed_at_a_time(sts: PickySTS, loop: Any) -> None:
    """By default 32 roles are assumed at the same time, and no 33rd."""
    roles = [f"{ROLE}-{number}" for number in range(33)]

    all_of_32 = threading.Barrier(32, timeout=60)
    sts.during_request = lambda: all_of_32.wait() and None
    assert list(loop(roles[:32])) == roles[:32]

    cache_clear()
    all_of_33 = threading.Barrier(33, timeout=0.5)
    sts.during_request = lambda: all_of_33.wait() and None
    outcomes = loop(roles, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes.values()} == {threading.BrokenBarrierError}


@pytest.mark.parametrize(("cores", "workers"), [(8, 32), (1, 32), (0.4, 32), (0.14, 11), (0.0724, 6), (0.01, 4)])
def test_the_number_of_workers_follows_the_cores(monkeypatch: pytest.MonkeyPatch, cores: float, workers: int) -> None:
    """By default there are as many workers as the function's part of a core can serve."""
    monkeypatch.setattr(_fan_out, "available_cores", lambda: cores)
    roles = [f"{ROLE}-{number}" for number in range(40)]
    started = CountedThreads(monkeypatch)

    assumed_sessions(roles)
    assert started.count == workers
    assumed_sessions(roles, max_workers=3)
    assert started.count == workers + 3


@pytest.mark.parametrize("max_workers", [1, 50])
def test_the_limits_themselves_are_allowed(max_workers: int) -> None:
    """One role at a time is possible, and 50 are."""
    assert list(assumed_sessions(ROLES, max_workers=max_workers)) == ROLES


def test_a_role_given_twice_is_assumed_once(sts: PickySTS) -> None:
    """An ARN that stands in the list twice costs one call."""
    assert list(assumed_sessions([ROLE, ROLE])) == [ROLE]
    assert sts.calls == 1


def test_one_bad_role_costs_no_other(sts: PickySTS) -> None:
    """One error lists every role that failed with its diagnosis, and holds the sessions of the others."""
    sts.refused = {ROLES[3]}

    with pytest.raises(PartialFailureError) as caught:
        assumed_sessions([*ROLES, "not an ARN"])

    error = caught.value
    assert list(error.failures) == [ROLES[3], "not an ARN"]
    assert isinstance(error.failures[ROLES[3]], AssumeRoleError)
    assert isinstance(error.failures["not an ARN"], ConfigurationError)
    assert list(error.results) == [role_arn for role_arn in ROLES if role_arn != ROLES[3]]
    assert str(error) == (
        f"2 of 21 roles failed:\n- {ROLES[3]}: STS refused {ROLES[3]}\n- not an ARN: {error.failures['not an ARN']}"
    )
    assert PartialFailureError(error.failures, error.results).args == (error.failures, error.results)


def test_partial_failures_pickle_without_their_sessions(sts: PickySTS) -> None:
    """The error crosses a process boundary; the sessions stay behind."""
    sts.refused = {ROLES[0]}
    with pytest.raises(PartialFailureError) as caught:
        assumed_sessions(ROLES[:2])

    copy = pickle.loads(pickle.dumps(caught.value))

    assert copy.results == {}
    assert copy.failures[ROLES[0]].code == "AccessDenied"
    assert repr(copy).startswith("1 of 1 roles failed:")


def test_exceptions_may_be_returned(sts: PickySTS) -> None:
    """With ``return_exceptions`` a failure takes the place of its session, as in ``asyncio.gather``."""
    sts.refused = {ROLES[1]}

    outcomes = assumed_sessions(ROLES[:3], return_exceptions=True)

    assert list(outcomes) == ROLES[:3]
    assert [type(outcome).__name__ for outcome in outcomes.values()] == [
        "AssumedSession",
        "AssumeRoleError",
        "AssumedSession",
    ]


def test_options_hold_for_all_roles_and_may_depend_on_the_role() -> None:
    """An option goes to every role; a callable is asked with the role's ARN, as for an external ID of each account."""
    sessions = assumed_sessions(ROLES[:2], duration_seconds=900, external_id=lambda role_arn: f"id-{role_arn[13:25]}")

    for role_arn, session in sessions.items():
        assert session is assumed_session(role_arn, duration_seconds=900, external_id=f"id-{role_arn[13:25]}")


def test_roles_from_outside_are_held_to_the_allowed_ones(sts: PickySTS) -> None:
    """With ``allowed_roles`` a role that matches no pattern fails without a call, and costs no other."""
    foreign = "arn:aws:iam::999999999999:role/Auditor"

    with pytest.raises(PartialFailureError, match="not among allowed_roles") as caught:
        assumed_sessions([*ROLES[:2], foreign], allowed_roles=ROLES[:2])

    assert list(caught.value.failures) == [foreign]
    assert sts.calls == 2
    with pytest.raises(ConfigurationError, match="literal account"):
        for_each_account(lambda _session, account_id: account_id, ROLES, allowed_roles=["*"])


def test_options_of_a_generator_hold_for_every_role() -> None:
    """Managed policies out of a generator restrict the second role too, and not the first alone."""
    arn = "arn:aws:iam::aws:policy/ReadOnlyAccess"

    sessions = assumed_sessions(ROLES, policy_arns=(arn for _ in range(1)))

    assert {session._credentials._key.request.policy_arns for session in sessions.values()} == {(arn,)}


@pytest.mark.parametrize(
    "option",
    [
        {"duration_seconds": 60},
        {"external_ids": "x"},
        {"region_name": "no region"},
        {"source_session": lambda role_arn: None},
    ],
)
def test_an_option_that_is_wrong_for_all_is_raised_once(sts: PickySTS, option: Any) -> None:
    """An option that is the same for all roles is checked before any is assumed."""
    with pytest.raises(ConfigurationError) as caught:
        assumed_sessions(ROLES, return_exceptions=True, **option)

    assert caught.value.argument in option
    assert sts.calls == 0


def test_progress_is_reported_as_it_comes(sts: PickySTS, caplog: pytest.LogCaptureFixture) -> None:
    """The callback gets each ARN with its session or exception, in the calling thread; the log has a record of each."""
    caplog.set_level(logging.DEBUG, logger="xacct_lambda")
    sts.refused = {ROLES[1]}
    reported: dict[str, Any] = {}
    threads = set()

    def progress(role_arn: str, outcome: Any) -> None:
        reported[role_arn] = outcome
        threads.add(threading.current_thread())

    outcomes = assumed_sessions(ROLES, return_exceptions=True, progress=progress)

    assert reported == outcomes
    assert threads == {threading.current_thread()}
    assert f"{ROLES[1]} failed" in caplog.text
    assert caplog.text.count(" done (") == 19
    assert caplog.messages[0].endswith(" (1 of 20)")
    assert caplog.messages[-1].endswith(" (20 of 20)")


class Context:
    def __init__(self, milliseconds: int) -> None:
        self.milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


def test_nothing_is_begun_that_cannot_end() -> None:
    """With the invocation nearly over, the loop's function is not called; what had been done before is returned."""
    context = Context(60_000)

    def visit(_session: boto3.Session, _account_id: str) -> str:
        context.milliseconds = 200
        return "done"

    with pytest.raises(PartialFailureError) as caught:
        for_each_account(visit, ROLES[:5], max_workers=1, context=context)

    assert list(caught.value.results.values()) == ["done"]
    assert {type(error) for error in caught.value.failures.values()} == {STSUnavailableError}
    assert [error.role_arn for error in caught.value.failures.values()] == ROLES[1:5]
    assert current_context.get() is None


def test_no_role_is_assumed_without_time() -> None:
    """``assumed_sessions`` keeps to the context as ``for_each_account`` does."""
    outcomes = assumed_sessions(ROLES[:2], context=Context(200), return_exceptions=True)

    assert {type(outcome) for outcome in outcomes.values()} == {STSUnavailableError}


def test_no_account_is_visited_without_time() -> None:
    """Nor is the function called for roles whose credentials are at hand, and the error names the role."""
    assumed_sessions(ROLES[:2])
    outcomes = for_each_account(
        lambda _session, _account_id: "visited", ROLES[:2], context=Context(200), return_exceptions=True
    )

    assert [getattr(outcome, "code", outcome) for outcome in outcomes.values()] == ["NoTimeLeft"] * 2
    assert [getattr(outcome, "role_arn", None) for outcome in outcomes.values()] == ROLES[:2]


def test_inside_a_handler_the_deadline_is_known() -> None:
    """Under ``@assume_role`` the invocation's deadline needs no argument."""

    @assume_role(ROLE, session="session")
    def handler(event, context, *, session):
        return for_each_account(lambda _session, account_id: account_id, ROLES[:2], return_exceptions=True)

    assert list(handler({}, Context(60_000)).values()) == ["000000000020", "000000000019"]
    assert {type(outcome) for outcome in handler({}, Context(100)).values()} == {STSUnavailableError}


def test_the_loop_over_accounts() -> None:
    """``for_each_account`` calls the function with each session and account, and returns what it returned."""
    reported: dict[str, Any] = {}

    results = for_each_account(
        lambda session, account_id: (session, account_id), ROLES[:2], progress=reported.__setitem__
    )

    assert reported == results
    assert results == {role_arn: (assumed_session(role_arn), role_arn[13:25]) for role_arn in ROLES[:2]}


def test_what_the_function_raises_is_its_roles_failure() -> None:
    """An exception of the function costs no other account."""

    def visit(_session: boto3.Session, account_id: str) -> str:
        if account_id == "000000000020":
            raise LookupError("no such table")
        return account_id

    with pytest.raises(PartialFailureError, match="no such table") as caught:
        for_each_account(visit, ROLES[:3])
    assert len(caught.value.results) == 2
    outcomes = for_each_account(visit, ROLES[:3], return_exceptions=True)
    assert isinstance(outcomes[ROLES[0]], LookupError)


def test_exceptions_as_results_are_results() -> None:
    """A function that returns an exception has not failed."""
    error = LookupError("found out")

    assert for_each_account(lambda _session, _account_id: error, ROLES[:1]) == {ROLES[0]: error}


def test_an_interrupt_is_not_a_partial_failure() -> None:
    """A ``KeyboardInterrupt`` in a thread ends the loop."""

    def interrupt(_session: boto3.Session, _account_id: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        for_each_account(interrupt, ROLES[:1], return_exceptions=True)


def test_an_interrupt_begins_no_more(sts: PickySTS) -> None:
    """When the progress callback raises, what is under way ends and no further role is begun."""
    stopped = threading.Event()
    sts.during_request = lambda: sts.calls > 1 and stopped.wait(60) and None

    def stop(_role_arn: str, _outcome: Any) -> None:
        stopped.set()
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        assumed_sessions(ROLES, max_workers=1, progress=stop)

    assert sts.calls < len(ROLES)


def test_an_exception_that_is_false_is_a_failure() -> None:
    """An exception that is false, as an empty collection of errors is, counts as a failure like any other."""

    class Nothing(Exception):  # noqa: N818 - the name of a collection
        def __len__(self) -> int:
            return 0

    def visit(_session: boto3.Session, _account_id: str) -> None:
        raise Nothing

    with pytest.raises(PartialFailureError) as caught:
        for_each_account(visit, ROLES[:2])
    assert list(caught.value.failures) == ROLES[:2]


@pytest.mark.parametrize("max_workers", [0, 51, True, "8"])
def test_the_number_of_workers_has_limits(max_workers: Any) -> None:
    """As many as 50 roles at a time, since the STS client has as many connections."""
    with pytest.raises(ConfigurationError) as caught:
        assumed_sessions(ROLES, max_workers=max_workers)
    assert caught.value.argument == "max_workers"


@pytest.mark.parametrize("role_arns", [ROLE, None, 7, [ROLE, None], [[ROLE]], [{}]])
def test_what_is_no_list_of_arns(sts: PickySTS, role_arns: Any) -> None:
    """A string in the place of a list is refused, rather than taken letter by letter; so is what an event may hold."""
    with pytest.raises(ConfigurationError, match="a list of ARNs"):
        assumed_sessions(role_arns, return_exceptions=True)
    assert sts.calls == 0


def test_what_cannot_be_called(sts: PickySTS) -> None:
    """A function or a callback that cannot be called is refused before any role is assumed."""

    async def visit(_session: boto3.Session, _account_id: str) -> None: ...

    with pytest.raises(ConfigurationError, match="return_exceptions: must be True or False, not 1"):
        assumed_sessions(ROLES, return_exceptions=1)
    with pytest.raises(ConfigurationError, match="context: must be a Lambda context, not dict"):
        assumed_sessions(ROLES, context={})
    with pytest.raises(ConfigurationError, match="function: must not be async"):
        for_each_account(visit, ROLES)
    with pytest.raises(ConfigurationError, match="function: must be a function, not 5"):
        for_each_account(5, ROLES)
    with pytest.raises(ConfigurationError, match="progress: must be a function, not 5"):
        assumed_sessions(ROLES, progress=5)
    assert sts.calls == 0


def test_no_roles_at_all() -> None:
    """An empty list is an empty result."""
    assert assumed_sessions([]) == {}


def test_what_a_function_raised_is_named() -> None:
    """The message on failures has the class of what the function raised, and the first is the cause."""

    def fail(_session: boto3.Session, account_id: str) -> None:
        raise {"000000000001": KeyError("Buckets"), "000000000002": AssertionError()}[account_id]

    roles = [f"arn:aws:iam::{number:012}:role/Auditor" for number in (2, 1)]
    with pytest.raises(PartialFailureError) as caught:
        for_each_account(fail, roles)

    assert str(caught.value) == (
        f"2 of 2 roles failed:\n- {roles[0]}: AssertionError\n- {roles[1]}: KeyError: 'Buckets'"
    )
    assert isinstance(caught.value.__cause__, AssertionError)


def test_with_few_threads_all_roles_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    """If Python can't start all threads, those that run do the work of the others."""
    threads = CountedThreads(monkeypatch, available=2)

    results = for_each_account(lambda _session, account_id: account_id, ROLES)

    assert results == {role_arn: role_arn[13:25] for role_arn in ROLES}
    assert threads.count == 2


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), MemoryError()])
def test_without_a_thread_each_role_fails(monkeypatch: pytest.MonkeyPatch, sts: PickySTS, error: Exception) -> None:
    """If Python can't start any thread, that is the failure of each role, with the reason."""
    monkeypatch.setattr(threading.Thread, "start", lambda _thread: exec("raise error", {"error": error}))  # noqa: S102

    with pytest.raises(PartialFailureError) as caught:
        assumed_sessions(ROLES[:3])
    outcomes = assumed_sessions(ROLES[:3], return_exceptions=True)

    assert list(caught.value.failures) == list(outcomes) == ROLES[:3]
    assert caught.value.results == {}
    for role_arn, failure in outcomes.items():
        assert isinstance(failure, STSUnavailableError)
        assert (failure.code, failure.role_arn, failure.__cause__) == ("NoThread", role_arn, error)
        assert (str(error) or "MemoryError") in str(failure)
    assert sts.calls == 0


def test_without_a_thread_progress_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Roles that couldn't start are reported to the callback as every other failure."""
    CountedThreads(monkeypatch, available=0)
    reported: dict[Any, Any] = {}

    outcomes = for_each_account(
        lambda _session, account_id: account_id,
        ROLES[:2],
        regions=["eu-west-1", "us-east-1"],
        progress=reported.__setitem__,
        return_exceptions=True,
    )

    assert len(reported) == 4
    assert reported == outcomes


_AT_EXIT = """
    import atexit, threading, time
    from xacct_lambda import assumed_session, assumed_sessions, for_each_account
    from xacct_lambda.testing import CrossAccountAWS

    MAIN = threading.current_thread()
    ROLE = "arn:aws:iam::222222222222:role/R"
    CrossAccountAWS(strict=False).__enter__()
    assumed_session(ROLE).client("sts").get_caller_identity()

    def loop():
        outcomes = for_each_account(lambda session, account: account, [ROLE], return_exceptions=True)
        print({role: getattr(outcome, "code", outcome) for role, outcome in outcomes.items()})
"""


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        # Some versions of Python start no thread after the main thread's end.
        ("atexit.register(loop)", {"222222222222", "NoThread"}),
        (
            "threading.Thread(target=lambda: (MAIN.join(), time.sleep(0.1), loop())).start()",
            {"222222222222", "NoThread"},
        ),
    ],
    ids=["atexit", "a thread that outlives main"],
)
def test_the_loop_at_interpreter_exit(script: str, expected: set[str]) -> None:
    """While the interpreter exits, roles are done if Python starts threads, and fail one by one if it doesn't."""
    source = "\n".join([*(line[4:] for line in _AT_EXIT.splitlines()), script])

    ended = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True, check=False, env=dict(os.environ)
    )

    assert ended.returncode == 0
    assert ended.stderr == ""
    assert ended.stdout.strip() in {str({"arn:aws:iam::222222222222:role/R": outcome}) for outcome in expected}


def test_calls_are_in_the_callers_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the X-Ray SDK, each call is part of the segment that is current in the calling thread."""
    thread = threading.local()
    thread.entity = "segment of the event"
    recorder = SimpleNamespace(
        get_trace_entity=lambda: thread.entity,
        set_trace_entity=lambda entity: setattr(thread, "entity", entity),
    )
    monkeypatch.setitem(sys.modules, "aws_xray_sdk.core", SimpleNamespace(xray_recorder=recorder))

    entities = for_each_account(lambda _session, _account_id: thread.entity, ROLES[:3])

    assert set(entities.values()) == {"segment of the event"}


def own_locals(error: BaseException) -> str:
    """Return the local variables of all frames of this library that an error passed through, and its causes."""
    found = ""
    while error is not None:
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        found += str([frame.f_locals for frame in frames if frame.f_globals["__name__"].startswith("xacct_lambda")])
        error = error.__cause__
    return found


@pytest.mark.parametrize("regions", [None, ["eu-west-1"]])
@pytest.mark.parametrize("is_callable", [False, True])
@pytest.mark.parametrize(
    "option", [{}, {"tags": lambda role_arn: {"tenant": "no*tag"}}, {"tags": {"tenant": "no*tag"}}]
)
def test_no_frame_of_an_error_leads_to_an_external_id(
    sts: PickySTS, regions: Any, is_callable: bool, option: dict[str, Any]
) -> None:
    """The frames of the loop's errors, and of the errors of roles, contain no external ID."""
    secret = "shared-" + "secret"
    sts.refused = {ROLES[0]}
    with pytest.raises((PartialFailureError, ConfigurationError)) as caught:
        for_each_account(
            lambda _session, account_id: account_id,
            ROLES[:1],
            regions=regions,
            external_id=(lambda role_arn: secret) if is_callable else secret,
            **option,
        )

    assert secret not in own_locals(caught.value)
    for failure in getattr(caught.value, "failures", {}).values():
        assert secret not in own_locals(failure)


# Regions.

REGIONS = ["eu-west-1", "us-east-1", "ap-southeast-2"]


def region_of(session: boto3.Session, account_id: str) -> tuple[str, str]:
    return account_id, session.region_name


def test_the_function_is_called_for_each_role_in_each_region(sts: PickySTS) -> None:
    """With a list of Regions, results have the keys ``(role_arn, region)``, in the order of both lists."""
    results = for_each_account(region_of, ROLES[:3], regions=REGIONS)

    assert list(results) == [(role_arn, region) for role_arn in ROLES[:3] for region in REGIONS]
    assert results == {(role_arn, region): (role_arn[13:25], region) for role_arn, region in results}
    assert sts.calls == 3


def test_sessions_of_regions_are_those_of_assumed_session() -> None:
    """The session of a role in a Region is the one that ``assumed_session`` returns for that Region."""
    results = for_each_account(lambda session, _account_id: session, ROLES[:1], regions=REGIONS)

    assert list(results.values()) == [assumed_session(ROLES[0], region_name=region) for region in REGIONS]


def test_a_region_given_twice_is_called_once() -> None:
    """A Region or a role that is in its list twice costs one call."""
    results = for_each_account(region_of, [ROLE, ROLE], regions=iter(["eu-west-1", "eu-west-1"]))

    assert list(results) == [(ROLE, "eu-west-1")]


def test_no_regions_are_no_calls(sts: PickySTS) -> None:
    """Without a Region there is no call, and no role is assumed."""
    assert for_each_account(region_of, ROLES, regions=[]) == {}
    assert sts.calls == 0


def test_regions_are_worked_on_at_the_same_time() -> None:
    """The Regions of one role use all workers."""
    all_at_once = threading.Barrier(3, timeout=60)

    def wait(_session: boto3.Session, _account_id: str) -> bool:
        return all_at_once.wait() >= 0

    assert list(for_each_account(wait, [ROLE], regions=REGIONS, max_workers=3).values()) == [True] * 3


def test_accounts_are_finished_one_after_the_other(sts: PickySTS) -> None:
    """A loop that ends early leaves few accounts half done: the Regions of a role come before the next role."""
    calls: list[tuple[str, str]] = []

    for_each_account(
        lambda session, account_id: calls.append((account_id, session.region_name)),
        ROLES[:3],
        regions=REGIONS,
        max_workers=1,
    )

    assert calls == [(role_arn[13:25], region) for role_arn in ROLES[:3] for region in REGIONS]


def test_a_refused_role_is_asked_for_once(sts: PickySTS) -> None:
    """A role that STS refuses costs one call, and fails in all of its Regions with one line in the message."""
    sts.refused = {ROLES[1]}

    with pytest.raises(PartialFailureError) as caught:
        for_each_account(region_of, ROLES[:2], regions=REGIONS)

    assert sts.calls == 2
    assert list(caught.value.failures) == [(ROLES[1], region) for region in REGIONS]
    assert list(caught.value.results) == [(ROLES[0], region) for region in REGIONS]
    assert str(caught.value) == (
        f"3 of 6 calls failed:\n- {ROLES[1]} in eu-west-1, us-east-1, ap-southeast-2: STS refused {ROLES[1]}"
    )
    assert str(pickle.loads(pickle.dumps(caught.value))).splitlines()[1:] == str(caught.value).splitlines()[1:]


def test_a_role_without_an_answer_is_asked_for_once(sts: PickySTS) -> None:
    """If STS doesn't answer, a role's Regions don't each try again."""
    sts.failure = outage(ROLE)

    outcomes = for_each_account(region_of, [ROLE], regions=REGIONS, return_exceptions=True)

    assert sts.calls == 1
    assert {type(outcome) for outcome in outcomes.values()} == {STSUnavailableError}


def test_what_the_function_raises_is_the_failure_of_that_region() -> None:
    """An exception of the function in one Region doesn't affect the other Regions of the account."""

    def fail_abroad(session: boto3.Session, account_id: str) -> str:
        if session.region_name == "us-east-1":
            raise LookupError("no such table")
        return account_id

    with pytest.raises(PartialFailureError) as caught:
        for_each_account(fail_abroad, [ROLE], regions=REGIONS)

    assert list(caught.value.failures) == [(ROLE, "us-east-1")]
    assert str(caught.value) == f"1 of 3 calls failed:\n- {ROLE} in us-east-1: LookupError: no such table"


def test_callables_are_called_once_for_each_role(sts: PickySTS) -> None:
    """A callable option has one result for all Regions of a role, even if it would return another one each time."""
    asked: list[str] = []

    def name(role_arn: str) -> str:
        asked.append(role_arn)
        return f"audit-{len(asked)}"

    arn = "arn:aws:iam::aws:policy/ReadOnlyAccess"
    for_each_account(
        region_of,
        ROLES[:2],
        regions=REGIONS,
        role_session_name=name,
        policy_arns=lambda _role_arn: (one for one in [arn]),
    )

    assert sorted(asked) == sorted(ROLES[:2])
    assert sts.calls == 2
    assert {request.policy_arns for _, request, _ in sts.call_arguments} == {(arn,)}


def test_regions_of_roles_from_outside(sts: PickySTS) -> None:
    """A role that ``allowed_roles`` doesn't match fails in each Region, without a call to STS."""
    outcomes = for_each_account(region_of, ROLES[:2], regions=REGIONS, allowed_roles=ROLES[:1], return_exceptions=True)

    assert [type(outcome) for outcome in outcomes.values()] == [tuple] * 3 + [ConfigurationError] * 3
    assert sts.calls == 1


def test_progress_of_regions(caplog: pytest.LogCaptureFixture) -> None:
    """The callback and the log report each call with its Region."""
    caplog.set_level(logging.DEBUG, logger="xacct_lambda")
    reported: dict[Any, Any] = {}

    results = for_each_account(region_of, ROLES[:2], regions=REGIONS, max_workers=1, progress=reported.__setitem__)

    assert reported == results
    assert caplog.messages[0] == f"{ROLES[0]} in eu-west-1 done (1 of 6)"


def test_no_region_is_begun_that_cannot_end() -> None:
    """With the invocation nearly over, the function isn't called in further Regions; finished results are kept."""
    context = Context(60_000)

    def visit(session: boto3.Session, _account_id: str) -> str:
        context.milliseconds = 200 if session.region_name == "us-east-1" else 60_000
        return "done"

    with pytest.raises(PartialFailureError) as caught:
        for_each_account(visit, ROLES[:2], regions=REGIONS, max_workers=1, context=context)

    assert list(caught.value.results) == [(ROLES[0], "eu-west-1"), (ROLES[0], "us-east-1")]
    assert {error.code for error in caught.value.failures.values()} == {"NoTimeLeft"}
    assert len(caught.value.failures) == 4


def test_an_interrupt_between_assuming_and_calling_begins_no_region(sts: PickySTS) -> None:
    """If the loop ends while a role is assumed, the function isn't called in the Regions of that role."""
    assumed = threading.Event()
    ended = threading.Event()

    def assume() -> None:
        if sts.calls == 2:
            assumed.set()
            ended.wait(60)

    sts.during_request = assume
    called: list[str] = []

    def stop(_key: Any, _outcome: Any) -> None:
        assumed.wait(60)
        threading.Timer(0.05, ended.set).start()
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        for_each_account(
            lambda _session, account_id: called.append(account_id),
            ROLES[:2],
            regions=["eu-west-1"],
            max_workers=2,
            progress=stop,
        )

    assert len(called) == 1


@pytest.mark.parametrize(
    ("regions", "problem"),
    [
        ("eu-west-1", "must be a list of Regions or 'enabled', not 'eu-west-1'"),
        (5, "must be a list of Regions or 'enabled', not 5"),
        (["eu west 1"], "is not the name of a Region"),
        ([None], r"not \[None\]"),
        (["enabled"], "Pass regions='enabled'"),
    ],
)
def test_what_is_no_list_of_regions(sts: PickySTS, regions: Any, problem: str) -> None:
    """Anything but a list of Regions or ``"enabled"`` is a ``ConfigurationError`` before any role is assumed."""
    with pytest.raises(ConfigurationError, match=problem) as caught:
        for_each_account(region_of, ROLES, regions=regions, return_exceptions=True)
    assert caught.value.argument == "regions"
    assert sts.calls == 0


@pytest.mark.parametrize("region_name", ["eu-west-1", lambda _role_arn: "eu-west-1"])
def test_one_region_or_several(region_name: Any) -> None:
    """``region_name`` can't be combined with ``regions``."""
    with pytest.raises(ConfigurationError, match="can't be combined with regions"):
        for_each_account(region_of, ROLES, regions=REGIONS, region_name=region_name)
    assert list(for_each_account(region_of, [ROLE], regions=REGIONS, region_name=None)) == [(ROLE, r) for r in REGIONS]


def test_sessions_have_no_regions() -> None:
    """``assumed_sessions`` has no ``regions``, because a session with credentials is the same in every Region."""
    with pytest.raises(ConfigurationError, match="regions: no such option"):
        assumed_sessions([ROLE], regions=REGIONS)


class Answers:
    """A source session whose hooks answer ListRegions and DescribeRegions in place of AWS."""

    def __init__(self, account: Any, ec2: Any = None, region_name: str = "eu-west-1") -> None:
        self.session = boto3.Session(region_name=region_name)
        self.requests: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self._account, self._ec2 = account, ec2
        self.session.events.register("before-send.account.ListRegions", self._list)
        self.session.events.register("before-send.ec2.DescribeRegions", self._describe)

    def _list(self, request: Any, **_: Any) -> AWSResponse:
        self.requests.append(request.url)
        body = json.loads(request.body)
        self.bodies.append(body)
        return self._answer(request, self._account, self._account(body) if callable(self._account) else self._account)

    def _describe(self, request: Any, **_: Any) -> AWSResponse:
        self.requests.append(request.url)
        names = "".join(f"<item><regionName>{name}</regionName></item>" for name in self._ec2 or [])
        body = f"<DescribeRegionsResponse><regionInfo>{names}</regionInfo></DescribeRegionsResponse>"
        error = "<Response><Errors><Error><Code>UnauthorizedOperation</Code></Error></Errors></Response>"
        return self._answer(request, self._ec2, body if self._ec2 else error)

    @staticmethod
    def _answer(request: Any, outcome: Any, body: Any) -> AWSResponse:
        if isinstance(outcome, Exception):
            raise outcome

        class Raw(io.BytesIO):
            def stream(self, **_: Any) -> Any:
                yield self.read()

        status = 200 if outcome else 403
        headers = {"x-amzn-ErrorType": "AccessDeniedException"} if status == 403 else {}
        text = body if isinstance(body, str) else json.dumps(body or {})
        return AWSResponse(request.url, status, headers, Raw(text.encode()))


def listed(*names: str, **fields: Any) -> dict[str, Any]:
    return {"Regions": [{"RegionName": name, "RegionOptStatus": "ENABLED"} for name in names], **fields}


def test_each_account_is_asked_for_its_enabled_regions(sts: PickySTS) -> None:
    """With ``"enabled"`` the function is called in the Regions that account:ListRegions returns, on all its pages."""
    pages = {None: listed("us-east-1", NextToken="more"), "more": listed("af-south-1")}
    answers = Answers(lambda body: pages[body.get("NextToken")])

    results = for_each_account(region_of, ROLES[:2], regions="enabled", source_session=answers.session)

    assert list(results) == [(role_arn, region) for role_arn in ROLES[:2] for region in ("af-south-1", "us-east-1")]
    assert sts.calls == 2
    assert answers.requests == ["https://account.us-east-1.amazonaws.com/listRegions"] * 4
    assert {tuple(body["RegionOptStatusContains"]) for body in answers.bodies} == {("ENABLED", "ENABLED_BY_DEFAULT")}


@pytest.mark.parametrize(
    ("partition", "region_name", "host"),
    [
        ("aws", "ap-south-1", r"account\.us-east-1\.amazonaws\.com"),
        ("aws-cn", "cn-north-1", r"account\.cn-northwest-1\.amazonaws\.com\.cn"),
        # botocore knows since 1.40 that one Region answers for this partition.
        ("aws-us-gov", "us-gov-east-1", r"account\.us-gov-(east|west)-1\.amazonaws\.com"),
    ],
)
def test_the_account_api_of_the_partition_is_called(partition: str, region_name: str, host: str) -> None:
    """ListRegions goes to the host that answers it in the partition of the session's Region."""
    answers = Answers(listed(region_name), region_name=region_name)
    role_arn = f"arn:{partition}:iam::222222222222:role/Auditor"

    assert list(for_each_account(region_of, [role_arn], regions="enabled", source_session=answers.session)) == [
        (role_arn, region_name)
    ]
    assert len(answers.requests) == 1
    assert re.fullmatch(f"https://{host}/listRegions", answers.requests[0])


@pytest.mark.parametrize(
    "failure", [None, EndpointConnectionError(endpoint_url="https://x"), NotImplementedError("a fake without it")]
)
def test_without_list_regions_ec2_is_asked(failure: Any) -> None:
    """If account:ListRegions is denied, or nobody answers it, ec2:DescribeRegions tells the Regions."""
    answers = Answers(failure, ec2=["us-west-2", "eu-west-1"])

    results = for_each_account(region_of, [ROLE], regions="enabled", source_session=answers.session)

    assert list(results) == [(ROLE, "eu-west-1"), (ROLE, "us-west-2")]
    assert answers.requests[-1] == "https://ec2.eu-west-1.amazonaws.com/"


def test_a_role_whose_regions_are_unknown_fails(sts: PickySTS) -> None:
    """A role that can't be assumed, or may list no Regions, fails under ``"enabled"``."""
    answers = Answers(None)
    sts.refused = {ROLES[1]}

    with pytest.raises(PartialFailureError) as caught:
        for_each_account(region_of, ROLES[:2], regions="enabled", source_session=answers.session)

    denied, refused = caught.value.failures.values()
    assert list(caught.value.failures) == [(ROLES[0], "enabled"), (ROLES[1], "enabled")]
    assert isinstance(denied, ClientError)
    assert denied.operation_name == "DescribeRegions"
    assert denied.__context__.operation_name == "ListRegions"
    assert isinstance(refused, AssumeRoleError)
    assert str(caught.value).splitlines()[0] == "2 of 2 calls failed:"


def test_an_account_without_regions_has_no_results() -> None:
    """An account that has no Region enabled is no failure."""
    answers = Answers({"Regions": []})

    assert for_each_account(region_of, [ROLE], regions="enabled", source_session=answers.session) == {}


def test_regions_are_not_listed_without_time(sts: PickySTS) -> None:
    """With the invocation nearly over, an account isn't asked for its Regions, nor is EC2 after the account API."""
    answers = Answers(listed("eu-west-1"))
    assumed_session(ROLE, source_session=answers.session).get_credentials().get_frozen_credentials()

    outcomes = for_each_account(
        region_of,
        [ROLE],
        regions="enabled",
        source_session=answers.session,
        context=Context(200),
        return_exceptions=True,
    )
    assert outcomes[ROLE, "enabled"].code == "NoTimeLeft"
    assert answers.requests == []

    context = Context(60_000)
    slow = Answers(lambda _body: setattr(context, "milliseconds", 200))
    outcomes = for_each_account(
        region_of, [ROLE], regions="enabled", source_session=slow.session, context=context, return_exceptions=True
    )
    assert outcomes[ROLE, "enabled"].code == "NoTimeLeft"
    assert len(slow.requests) == 1


def test_an_error_of_the_role_itself_asks_no_other_service(sts: PickySTS) -> None:
    """If the role's credentials can't be refreshed while Regions are listed, that is the failure."""
    answers = Answers(refusal(role_arn=ROLE), ec2=["eu-west-1"])

    outcomes = for_each_account(
        region_of, [ROLE], regions="enabled", source_session=answers.session, return_exceptions=True
    )

    assert isinstance(outcomes[ROLE, "enabled"], AssumeRoleError)
    assert len(answers.requests) == 1
