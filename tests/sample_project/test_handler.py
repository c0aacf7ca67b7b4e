from pathlib import Path

import pytest
from handler import lambda_handler

from xacct_lambda.exceptions import STSUnavailableError

PROJECT = Path(__file__).parent
READER = "arn:aws:iam::222222222222:role/role-on-source-account"


@pytest.fixture
def aws(cross_account):
    cross_account.grant((PROJECT / "execution-role-policy.json").read_text())
    cross_account.role(READER, trust=(PROJECT / "trust-policy.json").read_text())
    cross_account.account("222222222222").client("s3").create_bucket(Bucket="orders")
    return cross_account


def test_lists_the_buckets_of_the_other_account(aws, lambda_context):
    assert lambda_handler({}, lambda_context) == ["orders"]


def test_two_events_assume_the_role_once(aws, lambda_context):
    lambda_handler({}, lambda_context)
    lambda_handler({}, lambda_context)
    [call] = aws.assumed
    assert call.role_arn == READER
    assert call.role_session_name == "my-function"
    assert call.has_external_id


def test_works_on_after_an_hour(aws, lambda_context):
    lambda_handler({}, lambda_context)
    aws.sts.advance(3601)
    assert lambda_handler({}, lambda_context) == ["orders"]


def test_says_so_when_sts_is_out_of_reach(aws, lambda_context):
    with aws.sts.unavailable(), pytest.raises(STSUnavailableError):
        lambda_handler({}, lambda_context)
