"""The command line: ``python -m xacct_lambda COMMAND``, or ``xacct-lambda COMMAND``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

# Command and the module that runs it, imported when asked for: what one command needs, another does without.
_COMMANDS = {
    "check": "xacct_lambda.check",
    "demo": "xacct_lambda.cli.demo",
    "layer": "xacct_lambda.cli.layer",
    "policy": "xacct_lambda.cli.policy",
}

# What a shell reports of a program that the signal SIGPIPE ends.
_SIGPIPE_STATUS = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="xacct-lambda", description="Work in another AWS account from a Lambda function."
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for name, module_name in _COMMANDS.items():
        if arguments[:1] in ([name], ["-h"], ["--help"], []):
            module = importlib.import_module(module_name)
            command = subparsers.add_parser(name, help=module.HELP, description=module.HELP)
            module.add_arguments(command)
            command.set_defaults(run=module.run)
        else:
            subparsers.add_parser(name)
    parsed = parser.parse_args(arguments)
    try:
        status = int(parsed.run(parsed))
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read what was printed (`| head`) has enough. Python flushes once more at exit, and would say so.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _SIGPIPE_STATUS
    return status


if __name__ == "__main__":
    sys.exit(main())
