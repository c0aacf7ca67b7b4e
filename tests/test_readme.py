"""README and docs: their code runs, their links lead somewhere, the README's statements are the article's."""

from __future__ import annotations

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest
from moto import mock_aws

from xacct_lambda import _demo, cache_info

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()
PAGES = [PROJECT / "README.md", *sorted((PROJECT / "docs").glob("**/*.md"))]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


def test_the_readme_begins_with_code() -> None:
    """Python stands by line ten of the README, in eight lines."""
    assert "```python" in README.splitlines()[:5]
    assert len(blocks(README, "python")[0].splitlines()) <= 8


def test_the_demo_runs_the_readmes_handler() -> None:
    """The handler of the demo does what the README's does, line by line."""
    shown = handler_in(blocks(README, "python")[0])
    run = handler_in(Path(_demo.__file__).read_text())

    assert shown == run


@pytest.mark.parametrize("number", range(len(blocks(README, "python"))))
def test_the_readmes_code_runs(number: int) -> None:
    """Every Python block of the README runs as it stands, and sends nothing."""
    namespace: dict[str, Any] = {}
    exec(compile(blocks(README, "python")[number], "README.md", "exec"), namespace)  # noqa: S102 - the point

    assert cache_info().sts_calls == 0


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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of this repository finds it."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=lambda page: page.name)
def test_the_code_of_the_docs_runs(page: Path) -> None:
    """The Python blocks of a page run, one after the other, on moto's AWS; so do the tests that they define."""
    namespace: dict[str, Any] = {}
    with mock_aws():
        for number, block in enumerate(blocks(page.read_text(), "python")):
            exec(compile(block, f"{page.name}, block {number + 1}", "exec"), namespace)  # noqa: S102 - the point
        for name in [name for name in namespace if name.startswith("test_")]:
            namespace[name]()


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
