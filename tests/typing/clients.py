"""What type checkers make of clients where ``types-boto3`` is installed for their services: they are known exactly."""

# pyright: reportUnknownMemberType=false
# Stubs that are not installed leave the overloads of the other services unknown.

from __future__ import annotations

from typing import Any, assert_type

import boto3
from types_boto3_dynamodb.service_resource import DynamoDBServiceResource
from types_boto3_s3.client import S3Client
from types_boto3_s3.type_defs import ListBucketsOutputTypeDef

from xacct_lambda import assume_role, assumed_session, assumed_sessions, for_each_account

ROLE = "arn:aws:iam::222222222222:role/role-on-source-account"

assert_type(assumed_session(ROLE).client("s3"), S3Client)
assert_type(assumed_session(ROLE).resource("dynamodb"), DynamoDBServiceResource)
assert_type(assumed_sessions([ROLE])[ROLE].client("s3"), S3Client)


def clients(session: boto3.Session, account_id: str) -> S3Client:
    return session.client("s3")


assert_type(for_each_account(clients, [ROLE]), dict[str, S3Client])
assert_type(for_each_account(clients, [ROLE], return_exceptions=True), dict[str, S3Client | Exception])


# An injected client is what the handler says it is.
@assume_role(ROLE, clients=["s3"])
def handler(event: dict[str, Any], context: object, *, s3: S3Client) -> ListBucketsOutputTypeDef:
    s3.list_bucket()  # type: ignore[attr-defined]
    return s3.list_buckets()


assert_type(handler({}, None), ListBucketsOutputTypeDef)
