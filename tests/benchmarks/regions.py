"""``python -m tests.benchmarks.regions``: one request in each of 17 Regions of 50 accounts; writes figures into docs.

Each manner runs in its own process, over TLS, with an STS that is 80 ms away. S3 of all Regions is the same server.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable
from importlib import import_module
from types import SimpleNamespace
from typing import Any

from .aws import local_aws
from .many_accounts import _resident_megabytes, _role
from .measures import STS_MILLISECONDS, Runner, Sample
from .page import fill, table
from .scenarios import _control

COMMAND = "python -m tests.benchmarks.regions"
ACCOUNTS = 50
REGIONS = (
    "ap-northeast-1",
    "ap-northeast-2",
    "ap-northeast-3",
    "ap-south-1",
    "ap-southeast-1",
    "ap-southeast-2",
    "ca-central-1",
    "eu-central-1",
    "eu-north-1",
    "eu-west-1",
    "eu-west-2",
    "eu-west-3",
    "sa-east-1",
    "us-east-1",
    "us-east-2",
    "us-west-1",
    "us-west-2",
)
"""The Regions that every account has."""


def _visit(session: Any, _account_id: str) -> int:
    return len(session.client("s3").list_buckets()["Buckets"])


def _for_each_account(accounts: int) -> int:
    from xacct_lambda import for_each_account

    return len(for_each_account(_visit, [_role(number) for number in range(accounts)], regions=REGIONS))


def _botocove(accounts: int) -> int:
    """Run botocove's runner with its 20 threads, on the sessions that its ``regions=`` makes."""
    import boto3
    from botocore.config import Config
    from botocove.cove_runner import CoveRunner

    workers = 20
    common = {"RoleName": "Auditor", "RoleSessionName": "Auditor", "Partition": "aws"}
    unset = dict.fromkeys(("Policy", "PolicyArns", "ExternalId", "ExceptionDetails", "Result"))
    # As CoveHostAccount._generate_account_sessions does, which needs an organization.
    sessions = [
        {"Id": f"{number:012}", "Region": region, **common, **unset} for region in REGIONS for number in range(accounts)
    ]
    host = SimpleNamespace(
        sts_client=boto3.Session().client("sts", config=Config(max_pool_connections=workers)),
        get_cove_sessions=lambda: sessions,
    )
    runner = CoveRunner(
        host_account=host,
        func=lambda session: _visit(session, session.session_information["Id"]),
        raise_exception=True,
        func_args=(),
        func_kwargs={},
        thread_workers=workers,
    )
    return len(runner.run_cove_function()["Results"])


_MANNERS: dict[str, Callable[[int], int]] = {"for_each_account": _for_each_account, "botocove": _botocove}


def visit(manner: str, accounts: str) -> Sample:
    """Visit all Regions of the accounts; count from where imports, a session and its clients exist."""
    import boto3

    import_module("botocove.cove_runner" if manner == "botocove" else "xacct_lambda._fan_out")
    boto3.setup_default_session()
    boto3.client("s3").list_buckets()
    boto3.client("sts")
    calls = _control()["sts_requests"]
    before = _resident_megabytes()
    cpu, started = time.process_time(), time.perf_counter()
    results = _MANNERS[manner](int(accounts))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    kept = _resident_megabytes()
    return {
        "results": results,
        "calls": _control()["sts_requests"] - calls,
        "s": seconds,
        "cpu_s": cpu_seconds,
        "mb": kept - before,
        "peak_mb": max(kept, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024) - before,
    }


_TITLES = {"for_each_account": "`for_each_account(regions=…)`", "botocove": "botocove `regions=`"}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure many accounts in many Regions.")
    parser.add_argument("--quick", action="store_true", help="3 accounts, printed and not written")
    arguments = parser.parse_args()
    accounts = 3 if arguments.quick else ACCOUNTS
    rows = []
    with local_aws() as endpoints:
        runner = Runner(endpoints, lambda text: print(text, file=sys.stderr))
        for manner, title in _TITLES.items():
            runner.say(manner)
            sample = runner.run("visit", manner, accounts, sts=STS_MILLISECONDS, module=__spec__.name)
            if sample["results"] != accounts * len(REGIONS):
                raise ValueError(sample)
            figures = (f"{sample[name]:.1f}" for name in ("s", "cpu_s"))
            memory = (f"{sample[name]:.0f}" for name in ("mb", "peak_mb"))
            rows.append([title, str(sample["calls"]), *figures, *memory])
    found = table(["way", "AssumeRole calls", "s", "CPU s", "MB kept", "MB at most"], rows)
    print(found)
    if not arguments.quick:
        fill("accounts.md", COMMAND, {"regions": found})


if __name__ == "__main__":
    if sys.argv[1:2] == ["visit"]:
        print(json.dumps(visit(*sys.argv[2:])))
    else:
        main()
