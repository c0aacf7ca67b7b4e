"""``demo``: the article's two accounts on an embedded AWS, the README's handler in them, beside the article's own."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from unittest.mock import patch

import boto3

from xacct_lambda import assume_role, assumed_session, cache_clear

HELP: Final = "run the README's handler in two accounts of an embedded AWS, beside the AWS article's own code"

FUNCTION_ACCOUNT: Final = "111111111111"
TARGET_ACCOUNT: Final = "222222222222"
EXECUTION_ROLE: Final = f"arn:aws:iam::{FUNCTION_ACCOUNT}:role/my-lambda-execution-role"
TARGET_ROLE: Final = f"arn:aws:iam::{TARGET_ACCOUNT}:role/role-on-source-account"
_BUCKET: Final = "orders-of-222222222222"
_OBJECTS: Final = ("2026/orders-1.json", "2026/orders-2.json", "2026/orders-3.json")
_REGION: Final = "us-east-1"
_FUNCTION: Final = "read-orders"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--invocations", type=_positive, default=5, help="events for each handler (default: %(default)s)"
    )


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("at least one")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and print what happens."""
    try:
        import moto  # noqa: PLC0415 - an extra
    except ImportError:
        print("The demo needs moto. To install it: pip install 'xacct-lambda[testing]'", file=sys.stderr)
        return 2
    with moto.mock_aws(), _two_accounts() as count_of_calls:
        _tell(arguments.invocations, count_of_calls)
    cache_clear()
    return 0


@assume_role(TARGET_ROLE, clients=["s3"])
def lambda_handler(event: dict[str, str], context: object, *, s3: Any) -> list[str]:
    """Do what the README's handler does."""
    listing = s3.list_objects_v2(Bucket=event["bucket"])
    return [item["Key"] for item in listing["Contents"]]


def article_handler(event: dict[str, str], _context: object) -> list[str]:
    """Do the same as the AWS article has it: call STS and make a client for each event."""
    credentials = boto3.client("sts").assume_role(RoleArn=TARGET_ROLE, RoleSessionName="cross_acct_lambda")[
        "Credentials"
    ]
    s3 = boto3.client(
        "s3",
        aws_access_key_id=credentials["AccessKeyId"],
        aws_secret_access_key=credentials["SecretAccessKey"],
        aws_session_token=credentials["SessionToken"],
    )
    listing = s3.list_objects_v2(Bucket=event["bucket"])
    return [item["Key"] for item in listing["Contents"]]


@contextmanager
def _two_accounts() -> Iterator[Callable[[], int]]:
    """Make the two accounts, be the function in the first; yield a function that counts the AssumeRole calls so far."""
    setup = _inside(f"arn:aws:iam::{TARGET_ACCOUNT}:role/Setup").client("s3")
    setup.create_bucket(Bucket=_BUCKET)
    for key in _OBJECTS:
        setup.put_object(Bucket=_BUCKET, Key=key, Body=b"{}")

    function = _inside(EXECUTION_ROLE).get_credentials()
    assert function is not None  # noqa: S101 - for the type checker: the session was made with them
    environment = {
        "AWS_ACCESS_KEY_ID": function.access_key,
        "AWS_SECRET_ACCESS_KEY": function.secret_key,
        "AWS_SESSION_TOKEN": str(function.token),
        "AWS_DEFAULT_REGION": _REGION,
        "AWS_LAMBDA_FUNCTION_NAME": _FUNCTION,
    }
    with patch.dict(os.environ, environment):
        calls: list[str] = []
        session = boto3.Session()
        session.events.register("before-call.sts.AssumeRole", lambda event_name, **_: calls.append(event_name))
        with patch.object(boto3, "DEFAULT_SESSION", session):
            yield lambda: len(calls)


def _inside(role_arn: str) -> boto3.Session:
    """Return a session inside an account of moto, which takes the account from the ARN of an assumed role."""
    issued = boto3.client("sts", region_name=_REGION).assume_role(RoleArn=role_arn, RoleSessionName=_FUNCTION)
    return boto3.Session(
        aws_access_key_id=issued["Credentials"]["AccessKeyId"],
        aws_secret_access_key=issued["Credentials"]["SecretAccessKey"],
        aws_session_token=issued["Credentials"]["SessionToken"],
        region_name=_REGION,
    )


def _tell(invocations: int, count_of_calls: Callable[[], int]) -> None:
    function = boto3.client("sts").get_caller_identity()["Arn"]
    handler_as = assumed_session(TARGET_ROLE).client("sts").get_caller_identity()["Arn"]
    print(f"In {FUNCTION_ACCOUNT} the function is {function}")
    print(f"In {TARGET_ACCOUNT} its handler is   {handler_as}")

    cache_clear()
    for title, handler in (
        ("xacct_lambda, the README's handler", lambda_handler),
        ("the AWS article's handler", article_handler),
    ):
        calls_before = count_of_calls()
        print(f"\n{title}\n  event      time  AssumeRole calls so far")
        for number in range(1, invocations + 1):
            started = time.perf_counter()
            keys = handler({"bucket": _BUCKET}, None)
            print(
                f"  {number:5}  {(time.perf_counter() - started) * 1000:5.1f} ms  {count_of_calls() - calls_before:23}"
            )
        print(f"  read from {_BUCKET}: {', '.join(keys)}")
    print("\nThe embedded AWS answers at once; a real STS adds its round trip to every call of AssumeRole.")
