"""Copies new objects from a bucket in another account into your bucket."""

import logging
import os
from typing import Any

import boto3
from botocore.exceptions import ClientError

from xacct_lambda import assume_role

READER = os.environ["READER_ROLE_ARN"]
SOURCE_ACCOUNT = READER.split(":")[4]
SOURCE_BUCKET = os.environ["SOURCE_BUCKET"]
DESTINATION_BUCKET = os.environ["DESTINATION_BUCKET"]

COPIED_FROM = "copied-from-etag"
HEADERS = ("CacheControl", "ContentDisposition", "ContentEncoding", "ContentLanguage", "ContentType")

logger = logging.getLogger(__name__)
destination = boto3.client("s3")


@assume_role(READER, clients={"source": "s3"})
def lambda_handler(event: Any, context: Any, *, source: Any) -> dict[str, Any]:  # noqa: ARG001 - Lambda's signature
    """Copy the object that an EventBridge event of S3 names, unless you already have its copy.

    Raises:
        ValueError: The event isn't from the bucket that the function is configured for.
    """
    key = created_key(event)
    copies = 0
    # Events arrive twice and out of order, and two invocations may copy one key. Each of them checks the source again
    # after it writes. Therefore the last one that writes has the newest object.
    while (etag := source_etag(source, key)) is not None and etag != copied_etag(key):
        copy(source, key)
        copies += 1
    logger.info("Copied %r %d times", key, copies)
    return {"key": key, "copies": copies}


def created_key(event: Any) -> str:
    """Return the key of an event from the configured bucket. The function uses only the key of an event."""
    match event:
        case {
            "source": "aws.s3",
            "detail-type": "Object Created",
            "account": account,
            "detail": {"bucket": {"name": bucket}, "object": {"key": str(key)}},
        } if key and (account, bucket) == (SOURCE_ACCOUNT, SOURCE_BUCKET):
            return key
    raise ValueError(f"not an 'Object Created' event of {SOURCE_BUCKET} in account {SOURCE_ACCOUNT}")


def copy(source: Any, key: str) -> None:
    """Stream an object from one account to the other, in parts if it is large. Memory doesn't grow with its size."""
    found = source.get_object(Bucket=SOURCE_BUCKET, Key=key, ExpectedBucketOwner=SOURCE_ACCOUNT)
    kept: dict[str, Any] = {name: found[name] for name in HEADERS if name in found}
    kept["Metadata"] = found["Metadata"] | {COPIED_FROM: found["ETag"].strip('"')}
    destination.upload_fileobj(found["Body"], DESTINATION_BUCKET, key, ExtraArgs=kept)


def source_etag(source: Any, key: str) -> str | None:
    """Return the ETag of the current object, or None if somebody has deleted it."""
    found = head(source, Bucket=SOURCE_BUCKET, Key=key, ExpectedBucketOwner=SOURCE_ACCOUNT)
    return None if found is None else found["ETag"].strip('"')


def copied_etag(key: str) -> str | None:
    """Return the ETag of the object that was copied, or None if you have no copy."""
    found = head(destination, Bucket=DESTINATION_BUCKET, Key=key)
    return None if found is None else found["Metadata"].get(COPIED_FROM)


def head(client: Any, **where: str) -> Any:
    """Return the metadata of an object, or None if it doesn't exist."""
    try:
        return client.head_object(**where)
    except ClientError as error:
        if error.response["Error"]["Code"] == "404":
            return None
        raise
