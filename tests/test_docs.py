"""README, docs and .github: every code block is run, type-checked or parsed, every link to a file finds it."""

from __future__ import annotations

import configparser
import doctest
import functools
import importlib
import inspect
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import hcl2
import pytest
import yaml
from compatibility_page import libraries
from moto import mock_aws

import xacct_lambda
from xacct_lambda import __main__, exceptions

PROJECT = Path(__file__).parent.parent
PAGES = [
    *sorted(PROJECT.glob("*.md")),
    *sorted((PROJECT / ".github").glob("*.md")),
    # Without what tests and builds leave behind in examples/.
    *sorted(page for page in (PROJECT / "docs").rglob("*.md") if "/." not in page.relative_to(PROJECT).as_posix()),
]
EXTRAS = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

# Programs of pages that are not this project's; of these no more is checked than that they are meant.
PROGRAMS = {"aws", "docker", "gh", "git", "mutmut", "npm", "sam", "terraform"}
PROGRAMS |= {"cd", "cp", "curl", "echo", "grep", "ls", "mkdir", "rm", "sha256sum", "unzip", "zip"}
MODULES = {"build", "pip", "pytest", "sphinx", "twine", "xacct_lambda"}


HIDDEN_TEST = "hidden test"


class Block(NamedTuple):
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    title: str | None
    module: str | None
    """Of which file it is, where a line above it names one: another block may import it."""
    text: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(PROJECT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, and its hidden tests: comments that begin with ``<!-- test``."""
    text = page.read_text(encoding="utf-8")
    found = re.finditer(
        r"(?:^`(?P<module>\w+)\.py`\n\n)?"
        r"(?P<start>^)(?:"
        r'(?P<fence>```+)(?P<language>[^\s`]*)(?: title="(?P<title>.*)")?.*\n(?P<text>(?s:.*?))^(?P=fence)$'
        r"|<!-- test\n(?P<test>(?s:.*?))^-->$)",
        text,
        re.MULTILINE,
    )
    return [
        Block(
            page,
            text.count("\n", 0, match.start("start")) + 1,
            HIDDEN_TEST if match["language"] is None else match["language"],
            match["title"],
            match["module"],
            match["text"] if match["test"] is None else match["test"],
        )
        for match in found
    ]


SITE_COLUMNS = 88
BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def loads_json(block: Block) -> None:
    json.loads(block.text)


def loads_hcl(block: Block) -> None:
    assert hcl2.loads(block.text)


def loads_ini(block: Block) -> None:
    parser = configparser.ConfigParser()
    parser.read_string(block.text)
    assert parser.sections()


def loads_toml(block: Block) -> None:
    assert tomllib.loads(block.text)


class _Template(yaml.SafeLoader):
    """YAML with the short forms of CloudFormation's functions."""


_Template.add_multi_constructor("!", lambda loader, suffix, node: suffix)


def loads_yaml(block: Block) -> None:
    assert list(yaml.load_all(block.text, Loader=_Template))


def is_a_dockerfile(block: Block) -> None:
    lines = re.sub(r"\\\n", "", block.text).splitlines()
    first_words = {line.split()[0] for line in lines if line and not line.startswith("#")}
    assert "FROM" in first_words
    assert first_words <= {"ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "FROM", "RUN", "USER", "WORKDIR"}


def calls_what_exists(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = re.sub(r"\\\n", " ", block.text).splitlines()
    # In a console block what is typed has a prompt, and the rest is what is printed.
    typed = [line.removeprefix("$ ") for line in lines if line.startswith("$ ") or block.language != "console"]
    assert typed
    for line in typed:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        for command in functools.reduce(_split_at, lexer, [[]]):
            _check_command(command, monkeypatch)


def _split_at(commands: list[list[str]], word: str) -> list[list[str]]:
    return [*commands, []] if word in {"&&", "||", "|", ";", "(", ")"} else [*commands[:-1], [*commands[-1], word]]


def _check_command(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    while command and re.match(r"[A-Z_]+=", command[0]):
        command = command[1:]
    if not command:
        return
    program = re.sub(r"^python[\d.]*$", "python", command[0].rpartition("/")[2])
    if program == "python" and command[1] == "-m":
        program = command[2]
        path = PROJECT / program.replace(".", "/")
        known = program in MODULES | sys.stdlib_module_names
        assert known or path.with_suffix(".py").exists() or (path / "__main__.py").exists(), command
        command = command[2:]
    elif program == "python" and "-c" in command:
        compile(command[command.index("-c") + 1], "-c", "exec")
    elif program == "python":
        assert (PROJECT / command[1]).exists(), command
    else:
        assert program in PROGRAMS | {"pip", "pytest", "run", "xacct-lambda"}, command
    if program == "pip":
        for extra in re.findall(r"\[([\w,]+)\]", " ".join(command)):
            assert set(extra.split(",")) <= EXTRAS.keys(), command
    if program in {"xacct_lambda", "xacct-lambda"}:
        for module in __main__._COMMANDS.values():
            monkeypatch.setattr(importlib.import_module(module), "run", lambda arguments: 0)
        assert __main__.main(command[1:]) == 0


# What is done with a block, by its language. Those of None are somebody else's, who is named.
CHECKS: dict[str, Callable[..., None] | None] = {
    "bash": calls_what_exists,
    "console": calls_what_exists,
    "dockerfile": is_a_dockerfile,
    "hcl": loads_hcl,
    "ini": loads_ini,
    "json": loads_json,
    "py": None,  # test_code_that_is_not_run_is_typed
    "python": None,  # test_code_of_a_page_runs
    HIDDEN_TEST: None,  # the same
    "sh": calls_what_exists,
    "sql": None,  # test_monitoring.py runs them
    "terraform": loads_hcl,
    "text": None,  # what is printed; test_diagnosis.py reads those of troubleshooting.md
    "toml": loads_toml,
    "yaml": loads_yaml,
    "{eval-rst}": None,  # Sphinx, for which warnings are errors
    "{include}": None,  # the same
    "{toctree}": None,  # the same
}


@pytest.mark.parametrize("block", BLOCKS, ids=str)
def test_a_block_is_what_it_says(block: Block, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every code block has a language, and is what that language takes: it parses, and calls commands that exist."""
    check = CHECKS[block.language]
    if check is calls_what_exists:
        calls_what_exists(block, monkeypatch)
    elif check is not None:
        check(block)


def test_code_is_as_wide_as_the_site() -> None:
    """No line of code is wider than the site shows at once; commands with what they print, and messages, wrap there."""
    wide = [
        f"{block}: {line}"
        for block in BLOCKS
        if block.language not in {"console", "text", HIDDEN_TEST}
        for line in block.text.splitlines()
        if len(line) > SITE_COLUMNS
    ]

    assert wide == []


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.title], ids=str)
def test_a_block_with_a_title_is_a_file(block: Block) -> None:
    """A block that is titled as a file is that file, of a project which the tests run."""
    files = [*(PROJECT / "tests" / "sample_project").rglob("*"), *(PROJECT / "docs" / "examples").rglob("*")]

    assert block.text in [
        path.read_text() for path in files if path.is_file() and path.as_posix().endswith(block.title)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "README.md"], ids=lambda page: page.name)
def test_code_of_a_page_runs(page: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """The Python blocks of a page run in order on moto's AWS, with its hidden tests and the tests that they define."""
    namespaces: dict[str | None, dict[str, Any]] = {None: {}}
    with mock_aws():
        for block in blocks_of(page):
            if block.language not in {"python", HIDDEN_TEST} or block.title:
                continue
            if block.module not in namespaces:
                module = ModuleType(str(block.module))
                monkeypatch.setitem(sys.modules, module.__name__, module)
                namespaces[block.module] = vars(module)
            code = compile("\n" * block.line + block.text, str(page), "exec")
            exec(code, namespaces[block.module])  # noqa: S102 - the point
        for namespace in namespaces.values():
            for name in [name for name in namespace if name.startswith("test_")]:
                fixtures = inspect.signature(namespace[name]).parameters
                namespace[name](**{fixture: request.getfixturevalue(fixture) for fixture in fixtures})


def test_code_that_is_not_run_is_typed(tmp_path: Path) -> None:
    """Python blocks that cannot be run, as they need another library or a fixture, are checked by mypy.

    It reads the packages that the blocks import, and not what those import in turn: of moto no service, and no numpy.
    """
    blocks = [block for block in BLOCKS if block.language == "py"]
    for number, block in enumerate(blocks):
        (tmp_path / f"block_{number}.py").write_text(f"# {block}\n{block.text}")
    imported = {name for block in blocks for name in re.findall(r"^(?:from|import) (\w+)", block.text, re.MULTILINE)}
    read = {f"{name}.*" for name in imported - {"moto"}} | {"_pytest.*", "moto", "moto.core.*"}
    (tmp_path / "mypy.ini").write_text(
        "[mypy]\nignore_missing_imports = true\ncheck_untyped_defs = true\nfollow_imports = skip\n"
        f"[mypy-{','.join(sorted(read))}]\nfollow_imports = normal\n"
        "[mypy-numpy.*]\nfollow_imports_for_stubs = true\n"
    )
    # In a process of its own: in this one, what mypy knows would stay, and slow the garbage collector down.
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", f"--cache-dir={os.devnull}", "."]
    checked = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr


def examples_of_the_reference() -> Iterator[doctest.DocTest]:
    """Yield the docstrings with examples of all public modules, classes, and functions; all docstrings of functions."""
    every_name = {name: getattr(xacct_lambda, name) for name in xacct_lambda.__all__}
    for suffix in ("", ".events", ".exceptions", ".instrumentation", ".policy", ".testing", ".check"):
        module = importlib.import_module(f"xacct_lambda{suffix}")
        globs = vars(module) | every_name
        yield from (test for test in doctest.DocTestFinder(recurse=False).find(module, globs=globs) if test.examples)
        for name in getattr(module, "__all__", ["lambda_handler"]):
            public = getattr(module, name)
            if inspect.isclass(public) or inspect.isroutine(public):
                finder = doctest.DocTestFinder(exclude_empty=False)
                tests = finder.find(public, f"{module.__name__}.{name}", module=False, globs=globs)
                yield from (test for test in tests if test.examples or inspect.isroutine(public))


@pytest.mark.parametrize("example", list(examples_of_the_reference()), ids=lambda example: example.name)
def test_code_in_docstrings_runs(example: doctest.DocTest) -> None:
    """Each public function has an example in its docstring. The examples run as the reference shows them."""
    assert example.examples
    runner = doctest.DocTestRunner()
    with mock_aws():
        runner.run(example)

    assert runner.summarize().failed == 0


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_columns_have_headings(page: Path) -> None:
    """Each column of a table has a heading, which a screen reader says before each cell."""
    headings = re.findall(r"^(\|.*)\n\|(?: *:?-+:? *\|)+$", page.read_text(), re.MULTILINE)

    assert [row for row in headings if re.search(r"\|\s*\|", row)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of this repository finds it."""
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_reference_is_complete() -> None:
    """Every public name is on the pages of the reference."""
    api = (PROJECT / "docs" / "api.md").read_text()
    shown = set(re.findall(r"auto(?:function|class):: xacct_lambda\.(?:testing\.)?(\w+)", api))
    modules = {
        "xacct_lambda.events",
        "xacct_lambda.instrumentation",
        "xacct_lambda.policy",
        "xacct_lambda.testing",
    }

    assert shown >= set(xacct_lambda.__all__) - {"exceptions"}
    assert shown >= set(importlib.import_module("xacct_lambda.testing").__all__)
    assert set(re.findall(r"automodule:: ([\w.]+)", api)) == modules
    page = (PROJECT / "docs" / "exceptions.md").read_text()
    assert set(re.findall(r"autoexception:: xacct_lambda\.exceptions\.(\w+)", page)) == set(exceptions.__all__)


def test_the_list_of_libraries() -> None:
    """The page about compatibility lists the libraries and statements of tests/compatibility."""
    page = (PROJECT / "docs" / "compatibility.md").read_text()

    assert libraries() in page, "python tests/compatibility_page.py prints what belongs there"
