"""The command line: ``python -m xacct_lambda COMMAND``, or ``xacct-lambda COMMAND``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from xacct_lambda import __version__

# Each command with its module, which is imported only if the command runs, because it may need an extra.
_COMMANDS = {
    "check": "xacct_lambda.check",
    "demo": "xacct_lambda.cli.demo",
    "layer": "xacct_lambda.cli.layer",
    "policy": "xacct_lambda.cli.policy",
}

# The status that a shell reports for a program that SIGPIPE ends.
_SIGPIPE_STATUS = 141


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="xacct-lambda", description="Work in another AWS account from a Lambda function."
    )
    # Not for the other commands, because it imports boto3.
    versions = _versions() if arguments[:1] == ["--version"] else ""
    parser.add_argument(
        "--version", action="version", version=versions, help="print the versions of the library, boto3, and Python"
    )
    subparsers = parser.add_subparsers(metavar=f"{{{','.join(_COMMANDS)}}}", required=True)
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
        # The reader of the output (`| head`) has closed it. Python flushes again at exit, and would print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _SIGPIPE_STATUS
    return status


def _versions() -> str:
    import boto3  # noqa: PLC0415 - the other commands import what they need
    import botocore  # noqa: PLC0415

    python = ".".join(map(str, sys.version_info[:3]))
    return f"xacct-lambda {__version__}, boto3 {boto3.__version__}, botocore {botocore.__version__}, Python {python}"


if __name__ == "__main__":
    sys.exit(main())
