"""Runs the suites of other projects, each in a fork of this process, which has pytest, boto3 and moto imported.

A process of its own is what a suite gets from its user. The imports, most of what a small suite costs, are made once.
What to run comes in on standard input, a line of JSON each, and pytest's exit status goes out for it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path

import pytest

_WARM_UP = Path("test_all_is_imported.py")
_USES_ALL = """
def test_all_is_imported(cross_account, lambda_context):
    cross_account.account("222222222222").client("s3").list_buckets()
"""


def main() -> int:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _WARM_UP.write_text(_USES_ALL)
    if status := pytest.main(["-p", "no:cacheprovider", str(_WARM_UP)]):
        return status
    # Each suite ends with a garbage collection, which now passes over all that is here.
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = 70
            try:
                status = run(**json.loads(line))
            finally:
                os._exit(status)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)
    return 0


def run(folder: str, arguments: list[str], environment: dict[str, str], output: str) -> int:
    with open(output, "w") as written:  # noqa: PTH123 - the path comes as a string
        os.dup2(written.fileno(), 1)
        os.dup2(written.fileno(), 2)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.path.insert(0, folder)
    status = pytest.main(arguments)
    sys.stdout.flush()
    sys.stderr.flush()
    return int(status)


if __name__ == "__main__":
    sys.exit(main())
