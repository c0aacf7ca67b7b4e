"""The README: how it begins, that its code sends nothing, whose statements it shows; test_docs.py reads all pages."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from xacct_lambda import cache_info
from xacct_lambda.cli import demo

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_readme_begins_with_code() -> None:
    """The README has 120 lines at most, and Python by line ten, in eight lines."""
    assert "```python" in README.splitlines()[:5]
    assert len(README.splitlines()) <= 120
    assert len(blocks(README, "python")[0].splitlines()) <= 8


def test_the_demo_runs_the_readmes_handler() -> None:
    """The handler of the demo does what the README's does, line by line."""
    shown = handler_in(blocks(README, "python")[0])
    run = handler_in(Path(demo.__file__).read_text())

    assert shown == run


@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_the_readmes_code_runs(number: int) -> None:
    """Every Python block of the README runs as it stands, and sends nothing."""
    namespace: dict[str, Any] = {}
    exec(compile(blocks(README, "python")[number], "README.md", "exec"), namespace)  # noqa: S102 - the point

    assert cache_info().sts_calls == 0


def test_the_readmes_handler_takes_an_empty_bucket() -> None:
    """Of a bucket without objects the README's handler returns an empty list: S3's answer has no ``Contents`` then."""
    namespace: dict[str, Any] = {}
    exec(compile(blocks(README, "python")[0], "README.md", "exec"), namespace)  # noqa: S102 - the point
    s3 = Mock()
    s3.list_objects_v2.return_value = {"KeyCount": 0}

    assert namespace["lambda_handler"]({"bucket": "empty"}, None, s3=s3) == []


def test_the_readmes_statements_are_the_articles() -> None:
    """The two policies are the AWS article's own."""
    permissions, trust = map(json.loads, blocks(README, "json"))

    assert permissions == {
        "Version": "2012-10-17",
        "Statement": {
            "Effect": "Allow",
            "Action": "sts:AssumeRole",
            "Resource": "arn:aws:iam::222222222222:role/role-on-source-account",
        },
    }
    assert trust == {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": {"AWS": "arn:aws:iam::111111111111:role/my-lambda-execution-role"},
                "Action": "sts:AssumeRole",
            }
        ],
    }


def handler_in(source: str) -> list[str]:
    function = next(
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef) and node.name == "lambda_handler"
    )
    statements = [
        node for node in function.body if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ]
    return [ast.unparse(statement) for statement in statements]
