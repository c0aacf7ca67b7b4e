"""``demo``: run the README's handler and the AWS article's handler in the two accounts of an embedded AWS."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any, Final

import boto3

from xacct_lambda import assume_role, assumed_session, cache_clear
from xacct_lambda.policy import permissions_policy
from xacct_lambda.testing import CrossAccountAWS

HELP: Final = "run the README's handler in two accounts of an embedded AWS, beside the AWS article's own code"

_TARGET_ACCOUNT: Final = "222222222222"
_TARGET_ROLE: Final = f"arn:aws:iam::{_TARGET_ACCOUNT}:role/role-on-source-account"
_BUCKET: Final = f"orders-of-{_TARGET_ACCOUNT}"
_OBJECTS: Final = ("2026/orders-1.json", "2026/orders-2.json", "2026/orders-3.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--invocations", type=_positive, default=5, help="events for each handler (default: %(default)s)"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and print what happens."""
    aws = CrossAccountAWS(function_name="read-orders")
    try:
        with aws:
            _set_up(aws)
            _compare(arguments.invocations, aws)
    except ImportError as error:
        print(f"xacct-lambda demo: {error}", file=sys.stderr)
        return 2
    return 0


@assume_role(_TARGET_ROLE, clients=["s3"])
def lambda_handler(event: dict[str, str], context: object, *, s3: Any) -> list[str]:
    """List the bucket, like the README's handler."""
    listing = s3.list_objects_v2(Bucket=event["bucket"])
    return [item["Key"] for item in listing.get("Contents", [])]


def article_handler(event: dict[str, str], _context: object) -> list[str]:
    """Do the same with the AWS article's code: call STS and create a client for each event."""
    credentials = boto3.client("sts").assume_role(RoleArn=_TARGET_ROLE, RoleSessionName="cross_acct_lambda")[
        "Credentials"
    ]
    s3 = boto3.client(
        "s3",
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )
    listing = s3.list_objects_v2(Bucket=event["bucket"])
    return [item["Key"] for item in listing.get("Contents", [])]


def _set_up(aws: CrossAccountAWS) -> None:
    """Write the two policies, and put the objects into the other account."""
    aws.role(_TARGET_ROLE)
    aws.grant(permissions_policy(_TARGET_ROLE))
    s3 = aws.account(_TARGET_ACCOUNT).client("s3")
    s3.create_bucket(Bucket=_BUCKET)
    for key in _OBJECTS:
        s3.put_object(Bucket=_BUCKET, Key=key, Body=b"{}")


def _compare(invocations: int, aws: CrossAccountAWS) -> None:
    function = boto3.client("sts").get_caller_identity()["Arn"]
    handler_as = assumed_session(_TARGET_ROLE).client("sts").get_caller_identity()["Arn"]
    print(f"In {aws.home_account} the function is {function}")
    print(f"In {_TARGET_ACCOUNT} its handler is   {handler_as}")

    cache_clear()
    for title, handler in (
        ("xacct_lambda, the README's handler", lambda_handler),
        ("the AWS article's handler", article_handler),
    ):
        calls_before = len(aws.assumed)
        print(f"\n{title}\n  event      time  AssumeRole calls so far")
        for number in range(1, invocations + 1):
            started = time.perf_counter()
            keys = handler({"bucket": _BUCKET}, None)
            print(
                f"  {number:5}  {(time.perf_counter() - started) * 1000:5.1f} ms  {len(aws.assumed) - calls_before:23}"
            )
        print(f"  read from {_BUCKET}: {', '.join(keys)}")
    print("\nThe embedded AWS answers at once. A real STS adds its round trip to every call of AssumeRole.")
