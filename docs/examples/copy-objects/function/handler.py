"""Copies new objects of a bucket in another account into a bucket of this one."""

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
    """Copy the object that an EventBridge event of S3 names, unless its copy is there already.

    Raises:
        ValueError: The event is not of the bucket that the function is configured for.
    """
    key = created_key(event)
    copies = 0
    # Events come twice and out of order, and two may be at work on one key. So an event only says where to look, and
    # whoever has written last has looked at the source afterwards: the copy ends up as the newest object, always.
    while (etag := source_etag(source, key)) is not None and etag != copied_etag(key):
        copy(source, key)
        copies += 1
    logger.info("Copied %r %d times", key, copies)
    return {"key": key, "copies": copies}


def created_key(event: Any) -> str:
    """Return the key that an event of the configured bucket names; nothing else of it is used."""
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
    """Stream an object from one account to the other, in parts if it is large; it is never held whole."""
    found = source.get_object(Bucket=SOURCE_BUCKET, Key=key, ExpectedBucketOwner=SOURCE_ACCOUNT)
    kept: dict[str, Any] = {name: found[name] for name in HEADERS if name in found}
    kept["Metadata"] = found["Metadata"] | {COPIED_FROM: found["ETag"].strip('"')}
    destination.upload_fileobj(found["Body"], DESTINATION_BUCKET, key, ExtraArgs=kept)


def source_etag(source: Any, key: str) -> str | None:
    """Return the ETag of the object that is there now, None if it is gone."""
    found = head(source, Bucket=SOURCE_BUCKET, Key=key, ExpectedBucketOwner=SOURCE_ACCOUNT)
    return None if found is None else found["ETag"].strip('"')


def copied_etag(key: str) -> str | None:
    """Return the ETag of the object that the copy was made of, None if there is no copy."""
    found = head(destination, Bucket=DESTINATION_BUCKET, Key=key)
    return None if found is None else found["Metadata"].get(COPIED_FROM)


def head(client: Any, **where: str) -> Any:
    """Return what S3 knows of an object, None if there is none."""
    try:
        return client.head_object(**where)
    except ClientError as error:
        if error.response["Error"]["Code"] == "404":
            return None
        raise
