"""s3transfer: boto3's transfer manager, which uses threads."""

from __future__ import annotations

import io

import pytest
from boto3.s3.transfer import TransferConfig

from xacct_lambda import assumed_session

from .conftest import READER

CONFIG = TransferConfig(multipart_threshold=5 * 1024**2, multipart_chunksize=5 * 1024**2, max_concurrency=8)
BODY = bytes(range(256)) * 65_536  # 16 MiB


@pytest.fixture
def bucket(aws):
    aws.account("222222222222").client("s3").create_bucket(Bucket="orders")
    return "orders"


def test_client(aws, bucket):
    """Threads that transfer the parts of an object assume the role once."""
    client, copy = assumed_session(READER).client("s3"), io.BytesIO()

    client.upload_fileobj(io.BytesIO(BODY), bucket, "all", Config=CONFIG)
    client.download_fileobj(bucket, "all", copy, Config=CONFIG)

    assert copy.getvalue() == BODY
    assert len(aws.assumed) == 1


def test_resource(bucket, tmp_path):
    """A resource uploads, copies, and downloads files."""
    (tmp_path / "body").write_bytes(BODY)
    orders = assumed_session(READER).resource("s3").Bucket(bucket)

    orders.upload_file(str(tmp_path / "body"), "all", Config=CONFIG)
    orders.copy({"Bucket": bucket, "Key": "all"}, "copy", Config=CONFIG)
    orders.download_file("copy", str(tmp_path / "copy"), Config=CONFIG)

    assert (tmp_path / "copy").read_bytes() == BODY


def test_expiry_during_a_transfer(aws, bucket):
    """A transfer whose credentials expire between two parts continues with new credentials."""
    client = assumed_session(READER).client("s3")
    parts = []

    def expire(request, **_):
        parts.append(request)
        if len(parts) == 2:
            aws.sts.advance(3600)

    client.meta.events.register_first("request-created.s3.UploadPart", expire)
    client.upload_fileobj(io.BytesIO(BODY), bucket, "all", Config=CONFIG)

    assert len(aws.assumed) == 2
    assert client.head_object(Bucket=bucket, Key="all")["ContentLength"] == len(BODY)
