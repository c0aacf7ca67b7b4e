"""The pytest plugin: tests kept apart, fixtures, the marker, and what it costs where the library is not used."""

from __future__ import annotations

import runpy
import subprocess
import sys

import boto3
import pytest
from conftest import RunSuite

from xacct_lambda import instrumentation, pytest_plugin

_CONFTEST = """
    import pytest
    from xacct_lambda import assume_role, assumed_session, cache_info

    READER = "arn:aws:iam::222222222222:role/Reader"

    @pytest.fixture
    def aws(cross_account):
        open_up(cross_account)
        return cross_account

    def open_up(aws):
        aws.role(READER)
        aws.grant({
            "Version": "2012-10-17",
            "Statement": {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": READER},
        })
"""


@pytest.fixture
def suite(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeini("[pytest]\naddopts = --strict-markers -p no:cacheprovider -p no:hypothesispytest")
    pytester.makeconftest(_CONFTEST)
    return pytester


def test_loading_it_imports_nothing():
    """In a test run that never uses the library the plugin loads itself and the package's front, and no boto3."""
    script = (
        "import sys, typing, collections.abc, pytest; before = set(sys.modules);"
        "import xacct_lambda.pytest_plugin; print(*sorted(set(sys.modules) - before))"
    )
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout

    assert printed.split() == ["xacct_lambda", "xacct_lambda.pytest_plugin"]


def test_its_fixtures_are_documented():
    """``pytest --fixtures`` has something to say about each fixture."""
    plugin = runpy.run_path(pytest_plugin.__file__)

    assert plugin["cross_account"].__doc__
    assert plugin["lambda_context"].__doc__


def test_without_the_library_it_lets_a_test_pass(monkeypatch: pytest.MonkeyPatch):
    """Where the library is not loaded, the hook around a test does nothing."""
    monkeypatch.delitem(sys.modules, "xacct_lambda._sessions")
    around = pytest_plugin.pytest_runtest_protocol()
    next(around)

    with pytest.raises(StopIteration) as stopped:
        around.send("outcome")
    assert stopped.value.value == "outcome"


def test_hooks_are_removed_without_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """A test that imports only ``instrumentation`` and sets hooks leaves none to the next test."""
    monkeypatch.delitem(sys.modules, "xacct_lambda._sessions")
    around = pytest_plugin.pytest_runtest_protocol()
    next(around)
    instrumentation.set_hooks([print])

    with pytest.raises(StopIteration):
        around.send("outcome")
    assert instrumentation.get_hooks() == ()


def test_a_test_that_imports_the_library_removes_its_hooks(suite: pytest.Pytester) -> None:
    """The first test that imports the library leaves no hook to the next one; hooks from outside of tests stay."""
    suite.makeconftest("")
    suite.makepyfile("""
        from xacct_lambda.instrumentation import get_hooks, set_hooks

        set_hooks([print])

        def test_sets_a_hook():
            set_hooks([repr])

        def test_has_the_hook_of_the_module():
            import xacct_lambda._sessions
            assert get_hooks() == (print,)
            set_hooks([repr])

        def test_has_the_hook_of_the_module_again():
            assert get_hooks() == (print,)
    """)

    result = suite.runpytest_subprocess("-p", "no:randomly")

    result.assert_outcomes(passed=3)


def test_a_run_without_the_library(suite: pytest.Pytester):
    """A test that has nothing to do with the library runs without it."""
    suite.makeconftest("")
    suite.makepyfile("""
        import sys

        def test_no_library():
            assert not {"xacct_lambda._sessions", "boto3", "moto"} & set(sys.modules)
    """)
    suite.runpytest_subprocess().assert_outcomes(passed=1)


_FOUR_TIMES_THE_SAME = """
    import pytest
    from conftest import READER
    from xacct_lambda import assume_role, assumed_session, cache_info

    held = assumed_session(READER)

    @assume_role(READER, clients=["sts"])
    def handler(event, context, *, sts):
        return sts.get_caller_identity()["Account"]

    @pytest.mark.parametrize("number", range(4))
    def test_starts_from_nothing(aws, lambda_context, number):
        assert cache_info() == (0,) * 7
        assert handler({}, lambda_context) == "222222222222"
        assert held.client("s3").list_buckets()["Buckets"] == []
        assert len(aws.assumed) == 2  # the handler's and that of the session made at import
"""


@pytest.mark.parametrize("arguments", [["-p", "no:randomly"], ["-p", "no:xdist"], ["-n", "2"]], ids=" ".join)
def test_each_test_starts_from_nothing(suite: pytest.Pytester, run_suite: RunSuite, arguments: list[str]):
    """No test sees another's sessions, clients, credentials or figures: in order, in random order, under xdist."""
    suite.makepyfile(_FOUR_TIMES_THE_SAME)
    run_suite(*arguments).assert_outcomes(passed=4)


def test_isolation_without_moto(suite: pytest.Pytester, run_suite: RunSuite):
    """Sessions are new in each test, with or without the fixtures."""
    suite.makepyfile("""
        from conftest import READER
        from xacct_lambda import assumed_session, cache_info

        def test_first():
            assumed_session(READER)

        def test_second():
            assert cache_info().sessions == 0
    """)
    run_suite("-p", "no:randomly").assert_outcomes(passed=2)


def test_session_scoped_accounts(suite: pytest.Pytester, run_suite: RunSuite):
    """Accounts may last for a session of tests: each test assumes its roles anew, in the same accounts."""
    suite.makepyfile("""
        import pytest
        from conftest import READER, open_up
        from xacct_lambda import assumed_session
        from xacct_lambda.testing import CrossAccountAWS

        @pytest.fixture(scope="session")
        def shared():
            with CrossAccountAWS() as aws:
                open_up(aws)
                aws.account("222222222222").client("s3").create_bucket(Bucket="shared")
                yield aws, assumed_session(READER)

        @pytest.mark.parametrize("number", [1, 2])
        def test_both_see_it(shared, number):
            aws, session = shared
            assert [bucket["Name"] for bucket in session.client("s3").list_buckets()["Buckets"]] == ["shared"]
            assert len(aws.assumed) == number
    """)
    run_suite("-p", "no:randomly").assert_outcomes(passed=2)


def test_unittest_test_cases(suite: pytest.Pytester, run_suite: RunSuite):
    """Tests of a ``unittest.TestCase`` are kept apart as well."""
    suite.makepyfile("""
        import unittest
        from conftest import READER
        from xacct_lambda import assumed_session, cache_info

        class TestCase(unittest.TestCase):
            def test_first(self):
                self.check()

            def test_second(self):
                self.check()

            def check(self):
                self.assertEqual(cache_info().sessions, 0)
                assumed_session(READER)
    """)
    run_suite().assert_outcomes(passed=2)


def test_the_marker_sets_arguments(suite: pytest.Pytester, run_suite: RunSuite):
    """The marker's arguments are those of ``CrossAccountAWS``; the nearest marker has the last word."""
    suite.makepyfile("""
        import pytest

        pytestmark = pytest.mark.cross_account(home_account="444444444444", region_name="eu-west-1")

        @pytest.mark.cross_account(home_account="555555555555", function_name="orders")
        def test_marked(cross_account, lambda_context):
            assert lambda_context.invoked_function_arn == "arn:aws:lambda:eu-west-1:555555555555:function:orders"
            assert cross_account.execution_role_arn.startswith("arn:aws:iam::555555555555:role/")
    """)
    run_suite().assert_outcomes(passed=1)


def test_the_context_alone(suite: pytest.Pytester):
    """``lambda_context`` needs neither accounts nor moto."""
    suite.makepyfile("""
        import sys

        def test_context(lambda_context):
            assert lambda_context.function_name == "my-function"
            assert lambda_context.get_remaining_time_in_millis() <= 3000
            assert "moto" not in sys.modules
    """)
    suite.runpytest_subprocess().assert_outcomes(passed=1)


def test_the_marker_is_declared(suite: pytest.Pytester):
    """``pytest --markers`` explains the marker."""
    suite.runpytest_inprocess("--markers").stdout.fnmatch_lines(["@pytest.mark.cross_account(*"])


@pytest.mark.cross_account(home_account="444444444444")
class TestFixtures:
    @pytest.mark.cross_account(function_name="orders")
    def test_cross_account(self, cross_account):
        """``cross_account`` is a running AWS, with the arguments of all markers."""
        arn = boto3.client("sts").get_caller_identity()["Arn"]

        assert arn == "arn:aws:sts::444444444444:assumed-role/my-lambda-execution-role/orders"

    def test_lambda_context_with_accounts(self, cross_account, lambda_context):
        """Beside ``cross_account``, the context is that of its function."""
        assert lambda_context.account_id == cross_account.home_account

    def test_lambda_context_alone(self, lambda_context):
        """Alone, the context is that of a function in account 111111111111."""
        assert lambda_context.account_id == "111111111111"


def test_hooks_of_a_test_that_imports_the_library_are_removed() -> None:
    """A test that imports the library and sets hooks leaves no hook to the next one."""
    from xacct_lambda import instrumentation, pytest_plugin  # noqa: PLC0415 - the plugin must not need the library

    instrumentation.set_hooks([print])
    pytest_plugin._restore_hooks(())
    assert instrumentation.get_hooks() == ()
    pytest_plugin._restore_hooks(())
    assert instrumentation.get_hooks() == ()
