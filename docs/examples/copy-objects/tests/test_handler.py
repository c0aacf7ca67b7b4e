import pytest
from handler import COPIED_FROM, DESTINATION_BUCKET, READER, SOURCE_BUCKET, lambda_handler

from xacct_lambda.exceptions import AssumeRoleError, STSUnavailableError
from xacct_lambda.policy import permissions_policy, trust_policy

MIB = 1024 * 1024


@pytest.fixture
def aws(cross_account):
    cross_account.grant(permissions_policy(READER))
    cross_account.role(READER)
    cross_account.account("222222222222").client("s3").create_bucket(Bucket=SOURCE_BUCKET)
    cross_account.account("111111111111").client("s3").create_bucket(Bucket=DESTINATION_BUCKET)
    return cross_account


@pytest.fixture
def source(aws):
    return aws.account("222222222222").client("s3")


@pytest.fixture
def copies(aws):
    return aws.account("111111111111").client("s3")


def created(key, *, account="222222222222", bucket=SOURCE_BUCKET, detail_type="Object Created"):
    """Return the event of a new object, cut down to what is read of it, and an ETag that is not."""
    detail = {"bucket": {"name": bucket}, "object": {"key": key, "size": 5, "etag": "0" * 32}}
    return {"source": "aws.s3", "detail-type": detail_type, "account": account, "detail": detail}


def content(s3, key):
    return s3.get_object(Bucket=DESTINATION_BUCKET, Key=key)["Body"].read()


@pytest.mark.parametrize("key", ["2026/order 1+1.json", "bestellung-ü", "a//b/../c"])
def test_copies_an_object_with_its_headers(source, copies, lambda_context, key):
    put = source.put_object(
        Bucket=SOURCE_BUCKET, Key=key, Body=b"{}", ContentType="application/json", Metadata={"customer": "7"}
    )

    assert lambda_handler(created(key), lambda_context) == {"key": key, "copies": 1}

    copied = copies.get_object(Bucket=DESTINATION_BUCKET, Key=key)
    assert copied["Body"].read() == b"{}"
    assert copied["ContentType"] == "application/json"
    assert copied["Metadata"] == {"customer": "7", COPIED_FROM: put["ETag"].strip('"')}


def test_streams_a_large_object_in_parts(source, copies, lambda_context):
    lambda_context.timeout_seconds = 900  # as in template.yaml
    body = bytes(range(256)) * (20 * MIB // 256)
    source.put_object(Bucket=SOURCE_BUCKET, Key="large", Body=body)

    lambda_handler(created("large"), lambda_context)

    assert content(copies, "large") == body
    assert copies.head_object(Bucket=DESTINATION_BUCKET, Key="large")["ETag"].endswith('-3"')


def test_copies_once_if_the_event_comes_twice(aws, source, lambda_context):
    source.put_object(Bucket=SOURCE_BUCKET, Key="order", Body=b"1")

    assert [lambda_handler(created("order"), lambda_context)["copies"] for _ in range(2)] == [1, 0]
    assert len(aws.assumed) == 1


def test_copies_what_is_there_now_and_not_what_an_old_event_tells(source, copies, lambda_context):
    source.put_object(Bucket=SOURCE_BUCKET, Key="order", Body=b"old")
    source.put_object(Bucket=SOURCE_BUCKET, Key="order", Body=b"new")

    lambda_handler(created("order"), lambda_context)

    assert content(copies, "order") == b"new"


def test_copies_again_what_was_overwritten_meanwhile(source, copies, lambda_context):
    source.put_object(Bucket=SOURCE_BUCKET, Key="order", Body=b"old")

    class Overwritten:
        head_object = source.head_object

        def get_object(self, **where):
            found = source.get_object(**where)
            source.put_object(Bucket=SOURCE_BUCKET, Key="order", Body=b"new")
            return found

    assert lambda_handler(created("order"), lambda_context, source=Overwritten())["copies"] == 2
    assert content(copies, "order") == b"new"


def test_leaves_it_at_that_if_the_object_is_gone(aws, lambda_context):
    assert lambda_handler(created("gone"), lambda_context) == {"key": "gone", "copies": 0}


@pytest.mark.parametrize(
    "event",
    [
        created("order", bucket="another"),
        created("order", account="333333333333"),
        created("order", detail_type="Object Deleted"),
        created(""),
        created(None),
        {"detail": []},
        None,
    ],
)
def test_refuses_any_other_event_before_it_assumes_the_role(cross_account, lambda_context, event):
    with pytest.raises(ValueError, match="not an 'Object Created' event of orders-source"):
        lambda_handler(event, lambda_context)
    assert cross_account.assumed == []


def test_fails_if_the_role_is_refused_so_that_lambda_tries_again(aws, source, lambda_context):
    source.put_object(Bucket=SOURCE_BUCKET, Key="order", Body=b"1")
    another = aws.role("arn:aws:iam::111111111111:role/another-role")
    aws.role(READER, trust=trust_policy(another))

    with pytest.raises(AssumeRoleError):
        lambda_handler(created("order"), lambda_context)


def test_fails_if_sts_is_out_of_reach_and_copies_when_it_is_back(aws, source, lambda_context):
    source.put_object(Bucket=SOURCE_BUCKET, Key="order", Body=b"1")

    with aws.sts.unavailable(), pytest.raises(STSUnavailableError):
        lambda_handler(created("order"), lambda_context)
    assert lambda_handler(created("order"), lambda_context)["copies"] == 1
