"""The plugin that runs the test suites of other projects with assumed sessions: ``tests/assumed_session_plugin.py``."""

from __future__ import annotations

from pathlib import Path

import pytest

SUITE = """
import boto3
import pytest
from xacct_lambda._sessions import AssumedSession

@pytest.mark.parametrize("session", [boto3.Session(), boto3.session.Session("AKIAOTHER", "other")])
def test_session(session):
    assert isinstance(session, boto3.Session)
    assert type(session) is AssumedSession
    assert session.get_credentials().get_frozen_credentials().token == "token-of-the-assumed-role"

def test_client():
    seen = []
    client = boto3.client("s3")
    client.meta.events.register("before-send", lambda request, **_: seen.append(request) or pytest.skip("not sent"))
    with pytest.raises(pytest.skip.Exception):
        client.list_buckets()
    assert seen[0].headers["X-Amz-Security-Token"] == b"token-of-the-assumed-role"
    assert b"Credential=AKIACALLER/" in seen[0].headers["Authorization"]

def test_subclass():
    class Own(boto3.Session):
        pass
    assert type(Own()) is Own
"""
BOTOCORE_SUITE = """
import botocore.session

def test_session():
    for session in (botocore.session.get_session(), botocore.session.Session()):
        assert session.get_credentials().get_frozen_credentials().token == "token-of-the-assumed-role"
        assert isinstance(session, botocore.session.Session)
"""


@pytest.mark.parametrize(
    ("suite", "arguments", "passed", "summary"),
    [
        pytest.param(SUITE, [], 4, "in place of plain sessions: 3 AssumeRole calls, 3 sessions", id="boto3"),
        pytest.param(BOTOCORE_SUITE, ["--assumed-sessions=botocore"], 1, "* 2 sessions", id="botocore"),
    ],
)
def test_suite(
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
    suite: str,
    arguments: list[str],
    passed: int,
    summary: str,
) -> None:
    """Under the plugin, a suite's sessions and clients sign with the credentials of a role."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    pytester.makepyfile(suite)

    result = pytester.runpytest_subprocess("-p", "assumed_session_plugin", "-p", "no:randomly", *arguments)

    result.assert_outcomes(passed=passed)
    result.stdout.fnmatch_lines([summary])
