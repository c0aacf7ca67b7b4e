"""smart_open: files in S3, read and written with a client that you pass."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import smart_open

SIX_MEGABYTES = b"order\n" * 1_000_000


@pytest.fixture
def transport_params(session):
    session.client("s3").create_bucket(Bucket="orders")
    return {"client": session.client("s3"), "min_part_size": 5 * 1024**2}


def test_write_and_read(aws, transport_params):
    """A file of several parts is written to and read from a bucket of the role's account."""
    with smart_open.open("s3://orders/all", "wb", transport_params=transport_params) as file:
        file.write(SIX_MEGABYTES)
    with smart_open.open("s3://orders/all", "rb", transport_params=transport_params) as file:
        file.seek(6)
        line = file.readline()

    assert line == b"order\n"
    assert aws.account("222222222222").client("s3").head_object(Bucket="orders", Key="all")["ContentLength"] == len(
        SIX_MEGABYTES
    )


def test_threads(aws, transport_params):
    """Threads that write with one client share its credentials."""

    def write(number):
        with smart_open.open(f"s3://orders/{number}", "w", transport_params=transport_params) as file:
            file.write("order")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, range(16)))

    assert aws.account("222222222222").client("s3").list_objects_v2(Bucket="orders")["KeyCount"] == 16
    assert len(aws.assumed) == 1
