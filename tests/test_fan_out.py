"""Many roles at once."""

from __future__ import annotations

import concurrent.futures
import logging
import pickle
import threading
from functools import partial
from typing import Any

import boto3
import pytest
from conftest import ROLE, Clock, FakeSTS, refusal

from xacct_lambda import _fan_out, assume_role, assumed_session, assumed_sessions, cache_clear, for_each_account
from xacct_lambda._invocation import current_context
from xacct_lambda.exceptions import AssumeRoleError, ConfigurationError, PartialFailureError, STSUnavailableError

pytestmark = pytest.mark.usefixtures("_sts_is_fake")

ROLES = [f"arn:aws:iam::{number:012}:role/Auditor" for number in range(20, 0, -1)]


class PickySTS(FakeSTS):
    """Refuses the roles it is told to."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.refused: set[str] = set()

    def assume_role(self, source: boto3.Session, request: Any, config: Any) -> Any:
        if request.role_arn in self.refused:
            self.calls += 1
            raise refusal(role_arn=request.role_arn)
        return super().assume_role(source, request, config)


@pytest.fixture
def sts(clock: Clock) -> PickySTS:
    return PickySTS(clock)


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
    all_at_once = threading.Barrier(20, timeout=5)
    sts.during = lambda: all_at_once.wait() and None

    assert len(assumed_sessions(ROLES, max_workers=20)) == 20


def test_the_number_of_threads_is_bounded() -> None:
    """No more than ``max_workers`` threads work, and their names say whose they are."""
    names = for_each_account(lambda _session, _account_id: threading.current_thread().name, ROLES, max_workers=3)

    assert 1 <= len(set(names.values())) <= 3
    assert all(name.startswith("xacct_lambda_") for name in names.values())


@pytest.mark.parametrize("loop", [assumed_sessions, partial(for_each_account, lambda session, _account_id: session)])
def test_32_roles_are_assumed_at_a_time(sts: PickySTS, loop: Any) -> None:
    """By default 32 roles are assumed at the same time, and no 33rd."""
    roles = [f"{ROLE}-{number}" for number in range(33)]

    all_of_32 = threading.Barrier(32, timeout=5)
    sts.during = lambda: all_of_32.wait() and None
    assert list(loop(roles[:32])) == roles[:32]

    cache_clear()
    all_of_33 = threading.Barrier(33, timeout=0.5)
    sts.during = lambda: all_of_33.wait() and None
    outcomes = loop(roles, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes.values()} == {threading.BrokenBarrierError}


@pytest.mark.parametrize(("cores", "workers"), [(8, 32), (1, 32), (0.4, 32), (0.14, 11), (0.0724, 6), (0.01, 4)])
def test_the_number_of_workers_follows_the_cores(monkeypatch: pytest.MonkeyPatch, cores: float, workers: int) -> None:
    """By default there are as many workers as the function's part of a core can serve."""
    monkeypatch.setattr(_fan_out, "available_cores", lambda: cores)
    used: list[int] = []
    real = concurrent.futures.ThreadPoolExecutor

    def pool(max_workers: int, **options: Any) -> Any:
        used.append(max_workers)
        return real(max_workers, **options)

    monkeypatch.setattr(concurrent.futures, "ThreadPoolExecutor", pool)
    assumed_sessions(ROLES)
    assumed_sessions(ROLES, max_workers=3)

    assert used == [workers, 3]


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
    sts.during = lambda: sts.calls > 1 and stopped.wait(5) and None

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
    with pytest.raises(ConfigurationError, match="function: 5 cannot be called"):
        for_each_account(5, ROLES)
    with pytest.raises(ConfigurationError, match="progress: 5 cannot be called"):
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
