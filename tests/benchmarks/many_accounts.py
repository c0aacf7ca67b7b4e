"""``python -m tests.benchmarks.many_accounts``: many accounts at once, many tenants in turn; writes figures into docs.

Each scenario runs in a fresh process; the same module, called with the name of a scenario, is what runs there.

botocove lists an organization's accounts before it works, which needs an AWS that has one. What follows is driven as it
is: its ``CoveRunner`` with its threads, its ``CoveSession`` with a ``boto3.Session`` for each account.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

from .aws import local_aws
from .measures import STS_MILLISECONDS, Runner, Sample
from .page import DOCS, fill, new_chart, save, table

COMMAND = "python -m tests.benchmarks.many_accounts"
ACCOUNTS = (50, 500)
TENANTS = 5000
BOUND = 100
UNBOUNDED_TENANTS = 750
"""As far as the 1,024 open files go that Lambda allows a function."""
TENANT_STEP = 250

_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEGABYTE = 2**20

# --- In the fresh process ---------------------------------------------------------------------------------------------


def _resident_megabytes() -> float:
    gc.collect()
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE / _MEGABYTE


def _role(number: int) -> str:
    return f"arn:aws:iam::{number:012}:role/Auditor"


def _session_itself(session: Any, _account_id: str) -> Any:
    return session


def _buckets(session: Any, _account_id: str) -> list[str]:
    return [bucket["Name"] for bucket in session.client("s3").list_buckets()["Buckets"]]


_FUNCTIONS: dict[str, Callable[[Any, str], Any]] = {"sessions": _session_itself, "buckets": _buckets}


def _in_turn(function: Callable[[Any, str], Any], accounts: int) -> Any:
    """Do the work one account after the other, with this library's sessions."""
    from xacct_lambda import assumed_session

    results = []
    for number in range(accounts):
        session = assumed_session(_role(number))
        session.get_credentials().get_frozen_credentials()
        results.append(function(session, f"{number:012}"))
    return results


def _at_once(function: Callable[[Any, str], Any], accounts: int) -> Any:
    """Do the work with ``for_each_account``, of which ``assumed_sessions`` is the case that returns the session."""
    from xacct_lambda import assumed_sessions, for_each_account

    roles = [_role(number) for number in range(accounts)]
    return assumed_sessions(roles) if function is _session_itself else for_each_account(function, roles)


def _botocove(function: Callable[[Any, str], Any], accounts: int) -> Any:
    """Do the work with botocove's runner and its 20 threads."""
    import boto3
    from botocore.config import Config
    from botocove.cove_runner import CoveRunner

    workers = 20
    common = {"RoleName": "Auditor", "RoleSessionName": "Auditor", "Partition": "aws", "Region": None}
    unset = dict.fromkeys(("Policy", "PolicyArns", "ExternalId", "ExceptionDetails", "Result"))
    host = SimpleNamespace(
        sts_client=boto3.Session().client("sts", config=Config(max_pool_connections=workers)),
        get_cove_sessions=lambda: [{"Id": f"{number:012}", **common, **unset} for number in range(accounts)],
    )
    runner = CoveRunner(
        host_account=host,
        func=lambda session: function(session, session.session_information["Id"]),
        raise_exception=True,
        func_args=(),
        func_kwargs={},
        thread_workers=workers,
    )
    return runner.run_cove_function()["Results"]


def _plain(function: Callable[[Any, str], Any], accounts: int) -> Any:
    """Do the work with boto3 only: 32 threads, one session, one STS client, one client for each role."""
    import threading
    from concurrent.futures import ThreadPoolExecutor

    import boto3
    from botocore.config import Config

    workers = 32
    session = boto3.Session()
    sts = session.client("sts", config=Config(max_pool_connections=workers))
    lock = threading.Lock()

    class _RoleSession:
        def __init__(self, credentials: dict[str, str]) -> None:
            self._credentials = credentials

        def client(self, service: str) -> Any:
            # A session isn't thread-safe.
            with lock:
                return session.client(
                    service,
                    aws_access_key_id=self._credentials["AccessKeyId"],
                    aws_secret_access_key=self._credentials["SecretAccessKey"],
                    aws_session_token=self._credentials["SessionToken"],
                )

    def visit(number: int) -> Any:
        answer = sts.assume_role(RoleArn=_role(number), RoleSessionName="Auditor")
        return function(_RoleSession(answer["Credentials"]), f"{number:012}")

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(visit, range(accounts)))


_MANNERS = {"in-turn": _in_turn, "at-once": _at_once, "botocove": _botocove, "plain": _plain}


def work(manner: str, function: str, accounts: str) -> Sample:
    """Do the work in many accounts; count time and memory from where imports, a session and its clients are there."""
    import boto3

    import_module("botocove.cove_runner" if manner == "botocove" else "xacct_lambda._fan_out")
    boto3.setup_default_session()
    boto3.client("s3").list_buckets()
    boto3.client("sts")
    before = _resident_megabytes()
    cpu, started = time.process_time(), time.perf_counter()
    results = _MANNERS[manner](_FUNCTIONS[function], int(accounts))
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    after = _resident_megabytes()
    # The two counts are the kernel's and differ by a page or two: what is held is never more than the most.
    peak = max(after, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return {
        "results": len(results),
        "s": seconds,
        "cpu_s": cpu_seconds,
        "mb": after - before,
        "peak_mb": peak - before,
    }


def pass_by(bound: str, tenants: str) -> Sample:
    """Let tenants pass, each with an event of its own."""
    from xacct_lambda import assume_role, cache_info, cache_resize

    cache_resize(max_roles=int(bound), max_sessions=int(bound))

    @assume_role(_role(1), clients=["s3"], tags=lambda event, _context: {"tenant": event["tenant"]})
    def handler(event: Any, context: Any, *, s3: Any) -> Any:
        return s3.list_buckets()["Buckets"]

    steps = []
    for number in range(1, int(tenants) + 1):
        handler({"tenant": f"tenant-{number:05}"}, None)
        if number in {1, BOUND} or number % TENANT_STEP == 0:
            info = cache_info()
            steps.append(
                {
                    "tenants": number,
                    "mb": _resident_megabytes(),
                    "files": len(list(Path("/proc/self/fd").iterdir())),
                    "sessions": info.sessions,
                    "roles": info.roles,
                }
            )
    return {"steps": steps}


# --- In the process that compares -------------------------------------------------------------------------------------


class _ManyRunner(Runner):
    def scenario(self, *arguments: object, sts: int) -> Sample:
        """Run a scenario of this module in its own process."""
        self.say(" ".join(map(str, arguments)))
        return self.run(*map(str, arguments), sts=sts, module=__spec__.name)


_TITLES = {
    "in-turn": "one after the other",
    "at-once": {"sessions": "`assumed_sessions`", "buckets": "`for_each_account`"},
    "botocove": "botocove",
}


def accounts_table(runner: _ManyRunner, function: str, counts: Iterable[int], repeat: int) -> str:
    """Compare the three manners, the first two counts of rounds apart: the long ones run once."""
    counts = list(counts)
    head = [part for count in counts for part in (f"{count} roles, s", "MB kept", "MB at most")]
    rows = {}
    for manner, title in _TITLES.items():
        row = [title if isinstance(title, str) else title[function]]
        for count in counts:
            rounds = repeat if count == counts[0] else 1
            samples = [runner.scenario("work", manner, function, count, sts=STS_MILLISECONDS) for _ in range(rounds)]
            if {sample["results"] for sample in samples} != {count}:
                raise ValueError(samples)
            seconds, kept, peak = (median(sample[name] for sample in samples) for name in ("s", "mb", "peak_mb"))
            row += [f"{seconds:.2f}", f"{kept:.0f}", f"{peak:.0f}"]
        rows[manner] = row
    return table(["way", *head], rows.values())


def tenants_table(steps: list[Sample]) -> str:
    """Show what a process holds as tenants pass."""
    shown = [step for step in steps if step["tenants"] in {1, BOUND, 250, 500, 1000, 2000, 3000, 4000, 5000}]
    return table(
        ("tenants so far", "resident MB", "open files", "cached sessions", "cached sets of credentials"),
        (
            [
                f"{step['tenants']:,}",
                f"{step['mb']:.1f}",
                str(step["files"]),
                str(step["sessions"]),
                str(step["roles"]),
            ]
            for step in shown
        ),
    )


def _draw(bounded: list[Sample], unbounded: list[Sample], path: Path) -> None:
    chart = new_chart(10, 3.6)
    for axes, figure, title in zip(
        chart.subplots(1, 2), ("mb", "files"), ("resident memory, MB", "open files"), strict=True
    ):
        for steps, label in ((bounded, f"limit of {BOUND}"), (unbounded, "without a limit")):
            axes.plot([step["tenants"] for step in steps], [step[figure] for step in steps], marker=".", label=label)
        axes.set(title=title, xlabel="tenants so far", ylim=(0, None))
        axes.legend()
    save(chart, path)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure many accounts and many tenants.")
    parser.add_argument("part", nargs="?", choices=["sessions", "buckets", "tenants", "all"], default="all")
    parser.add_argument("--quick", action="store_true", help="small numbers, printed and not written")
    arguments = parser.parse_args()
    counts, repeat, tenants = ((3, 6), 1, TENANT_STEP) if arguments.quick else (ACCOUNTS, 3, TENANTS)
    with local_aws() as endpoints:
        runner = _ManyRunner(endpoints, lambda text: print(text, file=sys.stderr))
        for part in ("sessions", "buckets"):
            if arguments.part in {part, "all"}:
                figures = accounts_table(runner, part, counts, repeat)
                print(figures)
                if not arguments.quick:
                    fill("accounts.md", COMMAND, {part: figures})
        if arguments.part in {"tenants", "all"}:
            bounded = runner.scenario("pass_by", BOUND, tenants, sts=0)["steps"]
            unbounded = runner.scenario("pass_by", TENANTS, min(tenants, UNBOUNDED_TENANTS), sts=0)["steps"]
            print(tenants_table(bounded), tenants_table(unbounded), sep="\n\n")
            if not arguments.quick:
                fill("tenants.md", COMMAND, {"tenants": tenants_table(bounded)})
                _draw(bounded, unbounded, DOCS / "tenants.svg")


if __name__ == "__main__":
    _scenarios = {"work": work, "pass_by": pass_by}
    if sys.argv[1:2] and sys.argv[1] in _scenarios:
        print(json.dumps(_scenarios[sys.argv[1]](*sys.argv[2:])))
    else:
        main()
