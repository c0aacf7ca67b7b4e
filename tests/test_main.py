"""The command line."""

from __future__ import annotations

import argparse
import importlib
import os
import platform
import re
import subprocess
import sys
from typing import Any

import boto3
import botocore
import pytest

import xacct_lambda
from xacct_lambda import __main__, cache_info
from xacct_lambda.__main__ import main

EXECUTION_ROLE = "arn:aws:iam::111111111111:role/my-lambda-execution-role"
READER = "arn:aws:iam::222222222222:role/Reader"


def test_the_demo_tells_the_whole_story(capsys: pytest.CaptureFixture[str]) -> None:
    """The demo shows who the handler is in each account, what it read, and the calls and times of both handlers."""
    assert main(["demo", "--invocations", "3"]) == 0

    printed = capsys.readouterr().out
    assert "arn:aws:sts::111111111111:assumed-role/my-lambda-execution-role/read-orders" in printed
    assert "arn:aws:sts::222222222222:assumed-role/role-on-source-account/read-orders" in printed
    assert printed.count("2026/orders-1.json, 2026/orders-2.json, 2026/orders-3.json") == 2
    rows = re.findall(r"^ +(\d+) +[\d.]+ ms +(\d+)$", printed, re.MULTILINE)
    assert rows == [("1", "1"), ("2", "1"), ("3", "1"), ("1", "1"), ("2", "2"), ("3", "3")]


def test_the_demo_leaves_nothing_behind() -> None:
    """After the demo nothing of its accounts is remembered."""
    main(["demo", "--invocations", "1"])

    assert cache_info()[4:] == (0, 0, 0)


def test_the_demo_without_its_extra(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without moto the demo says which command installs it, and exits with 2."""
    monkeypatch.delattr("xacct_lambda.testing._moto", raising=False)
    monkeypatch.setitem(sys.modules, "xacct_lambda.testing._moto", None)

    assert main(["demo"]) == 2
    assert "pip install 'xacct-lambda[testing]'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["nonsense"], ["demo", "--invocations", "0"], ["demo", "--invocations", "x"]]
)
def test_wrong_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments exit with 2 and show how it is meant."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert "usage: xacct-lambda" in capsys.readouterr().err


def test_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a command, the error lists the commands."""
    with pytest.raises(SystemExit):
        main([])

    assert "required: {check,demo,layer,policy}" in capsys.readouterr().err


def test_help_lists_the_commands(capsys: pytest.CaptureFixture[Any]) -> None:
    """``--help`` names every command with a line on it."""
    with pytest.raises(SystemExit):
        main(["--help"])

    assert "beside the AWS article's own code" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("command", [["-m", "xacct_lambda"], ["-c", "from xacct_lambda.__main__ import main; main()"]])
def test_the_module_runs(command: list[str]) -> None:
    """``python -m xacct_lambda`` and the console script reach the same commands."""
    result = subprocess.run([sys.executable, *command, "--help"], capture_output=True, text=True, check=True)

    assert "demo" in result.stdout


def test_a_reader_that_has_enough() -> None:
    """Where what is printed is cut short, as by ``| head``, a command ends without a traceback, and with 141."""
    roles = [f"--role-arn=arn:aws:iam::222222222222:role/{'r' * 50}{number}" for number in range(200)]
    command = [sys.executable, "-m", "xacct_lambda", "policy", "--execution-role-arn", EXECUTION_ROLE, *roles]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()

        assert process.stderr.read() == b""
    assert process.returncode == 141


def test_what_is_cut_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left to print when the reader has gone goes nowhere, and not into an error at exit."""
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as output:  # noqa: PTH123 - of a pipe
        monkeypatch.setattr(sys, "stdout", output)

        assert main(["policy", "--role-arn", READER, "--execution-role-arn", EXECUTION_ROLE]) == 141


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """``--version`` prints the versions that a bug report needs."""
    with pytest.raises(SystemExit) as caught:
        main(["--version"])

    assert caught.value.code == 0
    assert capsys.readouterr().out == (
        f"xacct-lambda {xacct_lambda.__version__}, boto3 {boto3.__version__}, botocore {botocore.__version__}, "
        f"Python {platform.python_version()}\n"
    )


@pytest.mark.parametrize("command", ["check", "demo", "layer", "policy"])
def test_every_option_has_help(command: str) -> None:
    """The help of each command explains each of its options."""
    parser = argparse.ArgumentParser()
    importlib.import_module(__main__._COMMANDS[command]).add_arguments(parser)

    assert [action.dest for action in parser._actions if not action.help] == []
