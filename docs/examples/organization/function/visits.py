"""Visits all accounts of an organization, in batches that continue where they ended."""

import json
import os
import time
from typing import Any

import boto3
from accounts import select_accounts
from botocore.config import Config

from xacct_lambda import assumed_session, for_each_account
from xacct_lambda.exceptions import STSUnavailableError

AUDITOR = os.environ["AUDITOR_ROLE_NAME"]
LISTER = os.environ.get("ORGANIZATION_ROLE_ARN")
SELECTION: dict[str, Any] = {
    "parents": os.environ.get("PARENT_IDS", "").split(),
    "tags": json.loads(os.environ.get("TAGS", "{}")),
    "excluded": os.environ.get("EXCLUDED_ACCOUNTS", "").split(),
}
DAYS_TO_KEEP = 30

# AWS Organizations allows few calls per second.
PATIENT = Config(retries={"mode": "adaptive", "total_max_attempts": 10})

dynamodb = boto3.resource("dynamodb")
done = dynamodb.Table(os.environ["DONE_TABLE"])


class AccountsLeftError(Exception):
    """Accounts are left to visit. Step Functions matches this name, and tries again."""


def list_accounts(_event: Any, _context: Any) -> dict[str, list[str]]:
    """Return the accounts to visit."""
    # AWS Organizations answers the management account and delegated administrators.
    caller = assumed_session(LISTER) if LISTER else boto3.Session()
    organizations = caller.client("organizations", config=PATIENT)
    return {"accounts": select_accounts(organizations, **SELECTION)}


def visit_accounts(event: Any, context: Any) -> dict[str, Any]:
    """Visit the accounts of a batch that this run hasn't visited yet.

    Raises:
        AccountsLeftError: The time was too short, or STS didn't answer. The next call
            continues.
    """
    run = event["BatchInput"]["run"]
    items = visited(run, event["Items"])
    left = [account for account in event["Items"] if account not in items]
    roles = {role_arn(account, context): account for account in left}

    def record(role: str, outcome: Any) -> None:
        if isinstance(outcome, STSUnavailableError):
            return  # Not the account's fault: leave it to the next call.
        account = roles[role]
        item = {"run": run, "account": account, "expires": expiry()}
        if isinstance(outcome, Exception):
            item["error"] = f"{type(outcome).__name__}: {outcome}"[:1000]
        else:
            item["result"] = outcome
        done.put_item(Item=item)
        items[account] = item

    for_each_account(
        audit,
        roles,
        context=context,
        progress=record,
        return_exceptions=True,
    )
    if len(items) < len(event["Items"]):
        raise AccountsLeftError(f"{len(items)} of {len(event['Items'])} are done")
    errors = {key: item["error"] for key, item in items.items() if "error" in item}
    return {"visited": len(items), "failed": errors}


def audit(session: boto3.Session, _account_id: str) -> int:
    """Return the number of buckets in an account. Put your own work here."""
    return len(session.client("s3").list_buckets()["Buckets"])


def role_arn(account: str, context: Any) -> str:
    """Return the role to assume in an account, in the partition of this function."""
    partition = context.invoked_function_arn.split(":")[1]
    return f"arn:{partition}:iam::{account}:role/{AUDITOR}"


def visited(run: str, accounts: list[str]) -> dict[str, Any]:
    """Return what this run has recorded, by account."""
    # The resource's types allow more kinds of values than these.
    keys: Any = [{"run": run, "account": account} for account in accounts]
    found: dict[str, Any] = {}
    while keys:
        answer: Any = dynamodb.batch_get_item(RequestItems={done.name: {"Keys": keys}})
        found |= {item["account"]: item for item in answer["Responses"][done.name]}
        keys = answer["UnprocessedKeys"].get(done.name, {}).get("Keys")
    return found


def expiry() -> int:
    """Return the time at which DynamoDB may delete what is recorded now."""
    return int(time.time()) + DAYS_TO_KEEP * 86400
