"""The project of docs/testing.md: its suite passes as it is, and fails on each mistake a cross-account call invites."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from conftest import RunSuite

PROJECT = Path(__file__).parent / "sample_project"
GUIDE = Path(__file__).parent.parent / "docs" / "testing.md"

_CACHED_BY_HAND = """
import functools
import boto3

@functools.cache
def client():
    credentials = boto3.client("sts").assume_role(
        RoleArn="arn:aws:iam::222222222222:role/role-on-source-account",
        RoleSessionName="my-function",
        ExternalId="orders-7f3a",
    )["Credentials"]
    return boto3.client(
        "s3",
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )

def lambda_handler(event, context):
    return [bucket["Name"] for bucket in client().list_buckets()["Buckets"]]
"""


@pytest.fixture
def project(pytester: pytest.Pytester) -> Path:
    pytester.makeini("[pytest]\naddopts = -p no:randomly -p no:cacheprovider -p no:hypothesispytest")
    pytester.syspathinsert()
    return Path(shutil.copytree(PROJECT, pytester.path, dirs_exist_ok=True))


def test_suite_passes(project: Path, run_suite: RunSuite) -> None:
    """The sample suite passes when both policies are right."""
    run_suite().assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("file", "right", "wrong", "explanation"),
    [
        pytest.param(
            "trust-policy.json",
            "111111111111:role/my-lambda-execution-role",
            "333333333333:root",
            "*the trust policy of*doesn't allow sts:AssumeRole*its Principal is*333333333333:root*the caller is*",
            id="missing trust",
        ),
        pytest.param(
            "handler.py",
            "orders-7f3a",
            "orders-0000",
            "*the trust policy of*its condition StringEquals on sts:ExternalId isn't met: the call sends another one*",
            id="wrong external ID",
        ),
        pytest.param(
            "execution-role-policy.json",
            "sts:AssumeRole",
            "sts:GetCallerIdentity",
            "*the identity policies of*don't allow sts:AssumeRole*its Action is*the call needs sts:AssumeRole*",
            id="missing permission",
        ),
        pytest.param(
            "handler.py",
            "role/role-on-source-account",
            "role/Role-On-Source-Account",
            "*role/Role-On-Source-Account does not exist*",
            id="non-existent role",
        ),
    ],
)
def test_suite_fails(project: Path, run_suite: RunSuite, file: str, right: str, wrong: str, explanation: str) -> None:
    """The sample suite fails on a mistake in the handler or in a policy, and says which it was."""
    text = (project / file).read_text()
    (project / file).write_text(text.replace(right, wrong))
    result = run_suite()
    result.assert_outcomes(passed=1, failed=3)
    result.stdout.fnmatch_lines([explanation])


def test_suite_fails_on_a_duration_over_the_hour(project: Path, run_suite: RunSuite) -> None:
    """A duration that a function can't have fails every test of the handler, before any call to STS."""
    text = (project / "handler.py").read_text()
    (project / "handler.py").write_text(text.replace("duration_seconds=3600", "duration_seconds=7200"))
    result = run_suite()
    result.assert_outcomes(failed=4)
    result.stdout.fnmatch_lines(["*role chaining allows 3600 at most*"])


def test_suite_fails_on_a_policy_that_iam_does_not_save(project: Path, run_suite: RunSuite) -> None:
    """A trust policy that names a role that doesn't exist is an error of the fixture, because AWS doesn't save it."""
    text = (project / "trust-policy.json").read_text()
    (project / "trust-policy.json").write_text(text.replace(":role/my-lambda-execution-role", ":role/another-role"))
    result = run_suite()
    result.assert_outcomes(errors=4)
    result.stdout.fnmatch_lines(
        ["*Invalid principal in policy: arn:aws:iam::111111111111:role/another-role doesn't exist*"]
    )


def test_suite_fails_on_a_leak(project: Path, run_suite: RunSuite) -> None:
    """Credentials that a handler cached by itself in one test are refused in the next, not taken for another's."""
    (project / "handler.py").write_text(_CACHED_BY_HAND)
    result = run_suite("-k", "lists or twice or once")
    result.assert_outcomes(passed=1, failed=1, deselected=2)
    result.stdout.fnmatch_lines(["*InvalidAccessKeyId*"])


def test_guide_shows_the_sample_project() -> None:
    """The files in the testing guide are those of the sample project, which the other tests run."""
    shown = dict(re.findall(r'^```\w+ title="([\w.-]+)"\n(.*?)^```$', GUIDE.read_text(), re.MULTILINE | re.DOTALL))
    assert shown == {path.name: path.read_text() for path in PROJECT.iterdir() if path.is_file()}
