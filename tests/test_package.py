"""The package as a whole: its surface, its layers, what it costs to import, and what stands in one place only."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml

import xacct_lambda
from xacct_lambda import exceptions

PACKAGE = Path(xacct_lambda.__file__).parent
PROJECT = Path(__file__).parent.parent
# The path of a call, from the top. The page is the one list of modules; everything else reads it there.
PATH = [
    "__init__",
    *re.findall(r"^\| `(\w+)` \|", (PROJECT / "docs" / "how-a-call-travels.md").read_text(), re.MULTILINE),
]
# Modules that may import any of the others.
TOOLS = {"__main__", "check", "pytest_plugin"}


def imported_by(module: str) -> set[str]:
    """Return the modules of the package that a module imports at any place."""
    found = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "xacct_lambda":
            below = node.module.partition(".")[2]
            found |= (
                {below} if below else {alias.name for alias in node.names if (PACKAGE / f"{alias.name}.py").exists()}
            )
    return found


@pytest.mark.parametrize("module", PATH)
def test_calls_travel_downwards(module: str) -> None:
    """Each module of the path of a call imports only modules below it."""
    assert imported_by(module) <= set(PATH[PATH.index(module) + 1 :])


def test_every_module_is_in_the_list() -> None:
    """A module of the package is on the path of a call, or is a tool for the command line or for tests."""
    modules = {path.stem for path in PACKAGE.glob("*.py")}

    assert modules == {*PATH, *TOOLS}
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        "cli",
        "testing",
    }


def test_events_talks_to_nobody() -> None:
    """``events`` reads events, so it imports nothing that talks to AWS."""
    reached: set[str] = set()
    found = {"events"}
    while found - reached:
        module = (found - reached).pop()
        reached.add(module)
        found |= imported_by(module)

    assert reached == {"events", "_invocation", "_request", "exceptions"}


def test_only_one_module_talks_to_aws() -> None:
    """``assume_role`` of STS is called in ``_sts`` and nowhere else on the path."""
    callers = [name for name in PATH if ".assume_role(**" in (PACKAGE / f"{name}.py").read_text()]

    assert callers == ["_sts"]


def test_names_have_one_home() -> None:
    """What type checkers see of the package's front is what it looks up when a name is first used."""
    seen: dict[str, tuple[str, ...]] = {}
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("xacct_lambda."):
            seen[str(node.module).partition(".")[2]] = tuple(alias.name for alias in node.names)

    assert seen == xacct_lambda._EXPORTS
    assert xacct_lambda.exceptions is exceptions
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = xacct_lambda.nonsense


def test_public_names() -> None:
    """Every public name is importable, documented and sorted; the front has no other, and every error is public."""
    homes = [name for names in xacct_lambda._EXPORTS.values() for name in names]
    assert sorted([*homes, "exceptions"]) == xacct_lambda.__all__
    for name in xacct_lambda.__all__:
        assert getattr(xacct_lambda, name).__doc__

    errors = [
        name
        for name, value in vars(exceptions).items()
        if isinstance(value, type) and value.__module__ == exceptions.__name__ and not name.startswith("_")
    ]
    assert sorted(errors) == exceptions.__all__
    for name in errors:
        assert issubclass(getattr(exceptions, name), exceptions.XacctLambdaError)
        assert getattr(exceptions, name).__doc__


def test_public_names_are_listed_before_they_are_used() -> None:
    """Completion in a shell offers every public name, those too that have not been imported yet."""
    script = "import xacct_lambda; print(*dir(xacct_lambda))"
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout

    assert set(xacct_lambda.__all__) <= set(printed.split())


def test_one_version() -> None:
    """The installed version is the package's own."""
    assert metadata.version("xacct-lambda") == xacct_lambda.__version__


def test_three_dependencies() -> None:
    """At run time the library needs boto3, botocore and cachetools, and nothing else."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]

    assert sorted(requirement.partition(">")[0] for requirement in project["dependencies"]) == [
        "boto3",
        "botocore",
        "cachetools",
    ]


def test_the_workflow_tests_every_python() -> None:
    """CI's matrix is that of the classifiers, as is the bytecode of the layer that is released."""
    classifiers = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]["classifiers"]
    supported = re.findall(r"Python :: (3\.\d+)$", "\n".join(classifiers), re.MULTILINE)
    workflows = PROJECT / ".github" / "workflows"

    assert (
        yaml.safe_load((workflows / "ci.yml").read_text())["jobs"]["gate"]["strategy"]["matrix"]["python"] == supported
    )
    assert f"--python-version {' '.join(supported)}\n" in (workflows / "release.yml").read_text()


@pytest.mark.parametrize(
    ("tag", "notes"), [("v0.2.0", "- Two."), ("v0.1.0", "- One."), ("v0.2", None), ("v0.3.0", None)]
)
def test_a_release_has_the_changelogs_notes(tag: str, notes: str | None, tmp_path: Path) -> None:
    """A release has the changelog's notes on it, and the command that verifies a file. Without notes, it fails."""
    script = release_step("notes.md")
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changelog\n\n## [Unreleased]\n\n- Three.\n\n## [0.3.0] - 2027-02-01\n\n## [0.2.0] - 2027-01-01\n\n"
        "### Added\n\n- Two.\n\n## [0.1.0] - 2026-12-01\n\n### Added\n\n- One.\n"
    )
    environment = {**os.environ, "GITHUB_REF_NAME": tag, "GITHUB_REPOSITORY": "octo/accounts"}
    result = subprocess.run(["/bin/bash", "-ec", script], cwd=tmp_path, env=environment, check=False)

    assert result.returncode == (0 if notes else 1)
    if notes:
        written, _, how_to_check = (tmp_path / "notes.md").read_text().partition("### Check a file")
        assert written.split() == ["###", "Added", *notes.split()]
        assert "$ gh attestation verify FILE --repo octo/accounts\n" in how_to_check


def release_step(text: str) -> str:
    """Return the script of the build job that contains a text."""
    workflow = yaml.safe_load((PROJECT / ".github" / "workflows" / "release.yml").read_text())
    [script] = [step["run"] for step in workflow["jobs"]["build"]["steps"] if text in step.get("run", "")]
    return script


def address(folder: Path, readme: str) -> tuple[str, dict[str, str]]:
    """Return README and URLs of a package that the repository octo/Accounts releases."""
    (folder / "README.md").write_text(readme, encoding="utf-8")
    (folder / "pyproject.toml").write_bytes((PROJECT / "pyproject.toml").read_bytes())
    environment = {
        **os.environ,
        "GITHUB_REF_NAME": "v0.2.0",
        "GITHUB_REPOSITORY": "Octo/Accounts",
        "GITHUB_SERVER_URL": "https://github.com",
    }
    command = [sys.executable, "-c", release_step("[project.urls]")]
    subprocess.run(command, cwd=folder, env=environment, check=True)
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return (folder / "README.md").read_text(encoding="utf-8"), project["urls"]


def test_a_package_names_the_repository_that_released_it(tmp_path: Path) -> None:
    """The URLs of a package are the addresses of the repository that runs the release workflow."""
    _, urls = address(tmp_path, "")

    assert urls == {
        "Documentation": "https://octo.github.io/Accounts/",
        "Source": "https://github.com/Octo/Accounts",
        "Changelog": "https://github.com/Octo/Accounts/blob/v0.2.0/CHANGELOG.md",
        "Issues": "https://github.com/Octo/Accounts/issues",
        "Releases": "https://github.com/Octo/Accounts/releases",
    }


@pytest.mark.parametrize(
    ("link", "absolute"),
    [
        ("[a page](docs/a.md#part)", "[a page](https://github.com/Octo/Accounts/blob/v0.2.0/docs/a.md#part)"),
        ("[two\nlines](LICENSE)", "[two\nlines](https://github.com/Octo/Accounts/blob/v0.2.0/LICENSE)"),
        ("![chart](docs/a.svg)", "![chart](https://github.com/Octo/Accounts/raw/v0.2.0/docs/a.svg)"),
        ("[elsewhere](https://example.com/a)", "[elsewhere](https://example.com/a)"),
        ("[mail](mailto:a@example.com)", "[mail](mailto:a@example.com)"),
        ("[below](#part)", "[below](#part)"),
        ("```python\nhandlers[name](event)\n```", "```python\nhandlers[name](event)\n```"),
    ],
)
def test_links_of_the_package_page_are_absolute(link: str, absolute: str, tmp_path: Path) -> None:
    """On the package page, a link to a file leads to the file in the repository, as it was at the tag."""
    readme, _ = address(tmp_path, f"Before {link}\n\n{link}\n\nafter\n" if "```" not in link else f"{link}\n")

    assert readme.count(absolute) == (1 if "```" in link else 2)
    assert link == absolute or link not in readme


def test_the_package_page_has_no_relative_link(tmp_path: Path) -> None:
    """Each link of the README is absolute on the package page, and names a file that exists."""
    readme, _ = address(tmp_path, (PROJECT / "README.md").read_text(encoding="utf-8"))
    links = re.findall(r"\]\(([^)]+)\)", re.sub(r"(?s:^```.*?^```$)", "", readme, flags=re.MULTILINE))
    files = [link.partition("/v0.2.0/")[2].partition("#")[0] for link in links if "/Octo/Accounts/" in link]

    assert all(link.startswith("https://") for link in links)
    assert files
    assert all((PROJECT / file).exists() for file in files)


@pytest.mark.parametrize("form", ["bug", "feature"])
def test_an_issue_form_is_complete(form: str) -> None:
    """A form for issues has what GitHub requires: a name, a description, and a label for each field."""
    content = yaml.safe_load((PROJECT / ".github" / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())
    fields = [field for field in content["body"] if field["type"] != "markdown"]

    assert content["name"]
    assert content["description"]
    assert all(field["attributes"]["label"] for field in fields)
    assert len({field["id"] for field in fields}) == len(fields)


def test_the_whole_path_is_mutated() -> None:
    """Mutation testing changes every module of the path of a call, and runs the tests of each module."""
    mutmut = tomllib.loads((PROJECT / "pyproject.toml").read_text())["tool"]["mutmut"]
    mutated = {path.stem for pattern in mutmut["only_mutate"] for path in PACKAGE.parent.glob(pattern)}

    assert mutated == set(PATH[1:])
    tests = set(mutmut["pytest_add_cli_args_test_selection"])
    tests_of_modules = {f"tests/test_{module.lstrip('_')}.py" for module in PATH}
    assert {name for name in tests_of_modules if (PROJECT / name).exists()} <= tests
    assert {name for name in tests if not (PROJECT / name).exists()} == set()


def test_the_package_is_typed() -> None:
    """The marker file for type checkers is shipped."""
    assert (PACKAGE / "py.typed").exists()


def test_importing_pulls_in_nothing_that_a_handler_does_not_use() -> None:
    """Over ``import boto3``, the library imports itself, cachetools, and what newer botocores import anyway."""
    script = (
        "import sys, boto3, botocore.session, botocore.parsers, botocore.loaders; before = set(sys.modules);"
        "from xacct_lambda import assume_role, assumed_session;"
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    printed = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout

    # gc is a part of the interpreter.
    own = {"cachetools", "gc", "heapq", "snapshot_restore_py", "xacct_lambda"}
    assert set(printed.split()) <= own | {"_contextvars", "contextvars", "dataclasses"}


def test_no_argument_check_is_an_assert() -> None:
    """Under ``python -O`` no check disappears: the path has no assert statement."""
    for module in PATH:
        tree = ast.parse((PACKAGE / f"{module}.py").read_text())
        assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree)), module
