"""What a further client costs: ``python -m tests.benchmarks.clients`` prints memory, calls, and CPU time per client.

The contestants are a further client of one plain boto3 session, a client of an assumed session that copies and parses
what botocore copies and parses, and a client of an assumed session. No request is sent.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import gc
import itertools
import os
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import boto3
import botocore

from xacct_lambda import _role_session, _sessions, assumed_session, cache_resize

COMMAND = "python -m tests.benchmarks.clients"
SERVICES = ("s3", "dynamodb", "sqs", "lambda", "ec2", "sts")
CONTESTANTS = ("boto3", "unshared", "shared")
REPEAT = 5

_numbers = itertools.count(1)


def further_session(_: str = "") -> Any:
    """Return the session of a role that has none yet."""
    return assumed_session(f"arn:aws:iam::222222222222:role/{next(_numbers)}")


def further_client(contestant: str, service: str) -> Callable[[], Any]:
    """Return what creates a client; an assumed session exists before its client."""
    if contestant == "boto3":
        return lambda: boto3.client(service)
    sessions = [further_session() for _ in range(REPEAT + 3)]
    return lambda: sessions.pop().client(service)


@contextlib.contextmanager
def sharing(contestant: str) -> Iterator[None]:
    """Without sharing, hooks are copied and endpoint rules parsed for each client. Connections are always shared."""
    if contestant != "unshared":
        yield
        return
    with (
        mock.patch.object(_role_session, "copy_hooks", lambda source: copy.copy(source.events)),
        mock.patch.object(_sessions, "share_endpoint_rules", lambda client: client),
    ):
        yield


def calls_of(create: Callable[[], Any]) -> int:
    """Return the number of function calls, of Python and of C."""
    calls = 0

    def count(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in {"call", "c_call"}

    sys.setprofile(count)
    try:
        create()
    finally:
        sys.setprofile(None)
    return calls


def kilobytes_of(create: Callable[[], Any]) -> float:
    """Return the mean memory of one object, by tracemalloc."""
    gc.collect()
    tracemalloc.start()
    objects = [create() for _ in range(REPEAT)]
    gc.collect()
    kilobytes = tracemalloc.get_traced_memory()[0] / 1024 / len(objects)
    tracemalloc.stop()
    return kilobytes


def measure_roles(contestant: str, roles: int) -> None:
    """Print resident memory and CPU time per role with one S3 client, in a process of its own."""
    cache_resize(max_sessions=roles + 10)
    boto3.client("s3")
    with sharing(contestant):
        create = (lambda: boto3.client("s3")) if contestant == "boto3" else lambda: further_session().client("s3")
        clients = [create() for _ in range(5)]
        gc.collect()
        memory, started = resident(), time.process_time()
        clients += [create() for _ in range(roles)]
        milliseconds = (time.process_time() - started) / roles * 1000
        print(f"{contestant:10}{(resident() - memory) / roles:10.3f} MB{milliseconds:10.2f} ms of CPU time per role")


def resident() -> float:
    """Return the resident memory of this process in MB (Linux)."""
    with open("/proc/self/statm", encoding="ascii") as statistics:  # noqa: PTH123 - no path to work with
        return int(statistics.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--roles", type=int, default=200, help="roles with an S3 client (default 200)")
    parser.add_argument("--contestant", choices=CONTESTANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ.update(
        AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull, AWS_DEFAULT_REGION="eu-west-1"
    )
    os.environ.update(AWS_ACCESS_KEY_ID="AKIACALLER", AWS_SECRET_ACCESS_KEY="secret", AWS_EC2_METADATA_DISABLED="true")
    if arguments.contestant:
        measure_roles(arguments.contestant, arguments.roles)
        return
    print(f"botocore {botocore.__version__}: KB and function calls per client")
    print(f"{'':10}" + "".join(f"{contestant:>20}" for contestant in CONTESTANTS))
    for service in SERVICES:
        boto3.client(service)
        cells = []
        for contestant in CONTESTANTS:
            with sharing(contestant):
                create = further_client(contestant, service)
                first = create()
                cells.append(f"{kilobytes_of(create):.0f} / {calls_of(create):,}")
                del first
        print(f"{service:10}" + "".join(f"{cell:>20}" for cell in cells))
    cells = [f"{'':>20}"]
    for contestant in CONTESTANTS[1:]:
        with sharing(contestant):
            cells.append(f"{f'{kilobytes_of(further_session):.0f} / {calls_of(further_session):,}':>20}")
    print(f"{'a session':10}" + "".join(cells))
    print(
        f"{arguments.roles} roles, each with an S3 client that it keeps, connections shared except by boto3's clients:"
    )
    for contestant in CONTESTANTS:
        options = ["--contestant", contestant, "--roles", str(arguments.roles)]
        subprocess.run([sys.executable, "-m", "tests.benchmarks.clients", *options], check=True)


if __name__ == "__main__":
    main()
