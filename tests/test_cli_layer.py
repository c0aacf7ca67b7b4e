"""``layer``: what is in it, that it is the same at every build, that it works where Lambda puts it."""

from __future__ import annotations

import ast
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest

import xacct_lambda
from xacct_lambda.__main__ import main
from xacct_lambda.cli import layer as command
from xacct_lambda.cli.layer import build_layer
from xacct_lambda.exceptions import ConfigurationError

PACKAGE = Path(xacct_lambda.__file__).parent
EXCLUDED = {"__main__.py", "cli", "pytest_plugin.py", "testing"}
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
OF_THE_SDK = {"boto3", "botocore", "dateutil", "jmespath", "s3transfer", "six.py", "urllib3"}
# Where boto3 was installed, as the runtime's own SDK lies beside the layer.
SITE_PACKAGES = Path(boto3.__file__).parents[1]


@pytest.fixture(scope="module")
def layer() -> command.Layer:
    return build_layer()


def names_in(content: bytes) -> list[str]:
    return zipfile.ZipFile(io.BytesIO(content)).namelist()


def top_level(names: list[str]) -> set[str]:
    return {name.split("/")[1] for name in names if ".dist-info/" not in name}


def unpacked(content: bytes, folder: Path) -> Path:
    zipfile.ZipFile(io.BytesIO(content)).extractall(folder)
    return folder / "python"


def printed_by(script: str, *path: Path) -> str:
    """Run a script with nothing on the path but these and the standard library."""
    isolated = f"import sys; sys.path[:0] = {list(map(str, path))!r}\n"
    command = [sys.executable, "-I", "-S", "-c", isolated + script]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_all_lies_under_python(layer) -> None:
    """Every name begins with ``python/``, the folder of a layer that runtimes put on the path."""
    assert {name.split("/")[0] for name in names_in(layer.content)} == {"python"}


def test_nothing_shadows_the_runtimes_sdk(layer) -> None:
    """The layer brings the library and cachetools, and no part of the SDK that the runtime brings."""
    assert top_level(names_in(layer.content)) == {"cachetools", "xacct_lambda"}


def test_what_is_of_use_to_a_developer_alone_stays_behind(layer) -> None:
    """Of the library the path of a call is in it, ``check`` and ``events``: no testing tools and no other commands."""
    packed = {name.removeprefix("python/xacct_lambda/") for name in names_in(layer.content) if name.endswith(".py")}

    everything = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")}
    assert {name.partition("/")[0] for name in everything - packed} == EXCLUDED
    assert {"check.py", "events.py", "policy.py", "_decorator.py"} <= packed


def test_what_is_left_out_is_not_missed() -> None:
    """No module in the layer imports one that was left out."""
    for path in PACKAGE.glob("*.py"):
        imported = {
            (node.module or "").rpartition(".")[2]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom)
        }
        assert path.name in EXCLUDED or not {f"{name}.py" for name in imported} & EXCLUDED


def test_licences(layer) -> None:
    """The licence of each package is in its dist-info, beside the METADATA that tells versions."""
    names = names_in(layer.content)

    for package in ("cachetools", "xacct_lambda"):
        notes = {name.rpartition("/")[2] for name in names if name.startswith(f"python/{package}-")}
        assert notes == {"LICENSE", "METADATA"}


def test_the_same_bytes_at_every_build(layer) -> None:
    """A later build has the same bytes, whatever the file times are."""
    for path in PACKAGE.glob("*.py"):
        os.utime(path)

    assert build_layer() == layer


def test_the_same_bytes_of_another_installation(layer, tmp_path) -> None:
    """A checkout and an installed wheel give the same bytes: what the installers noted does not show."""
    site = tmp_path / "site-packages"
    for source, name in command._files_to_ship(metadata.distribution("xacct-lambda")):
        target = site / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target)
    shutil.copytree(PACKAGE, site / "xacct_lambda", dirs_exist_ok=True)
    dist_info = next(site.glob("*.dist-info"))
    (dist_info / "INSTALLER").write_text("another")
    (dist_info / "direct_url.json").write_text("{}")
    listed = [path.relative_to(site).as_posix() for path in site.rglob("*") if path.is_file()]
    (dist_info / "RECORD").write_text("".join(f"{name},,\n" for name in [*listed, "../../bin/xacct-lambda"]))

    output = tmp_path / "layer.zip"
    script = f"from xacct_lambda.__main__ import main; main(['layer', '--output', {str(output)!r}])"
    printed_by(script, site, SITE_PACKAGES)

    assert output.read_bytes() == layer.content


def test_every_file_can_be_read_by_all(layer) -> None:
    """Files are regular ones that all may read and none but the owner write, with the earliest time a zip can tell."""
    for entry in zipfile.ZipFile(io.BytesIO(layer.content)).infolist():
        assert entry.external_attr >> 16 == 0o100644
        assert entry.date_time == (1980, 1, 1, 0, 0, 0)


def test_bytecode_is_used_unchecked(layer, tmp_path) -> None:
    """Python runs the bytecode without a look at the sources: with these emptied, the library works all the same."""
    python = unpacked(layer.content, tmp_path)
    for path in python.rglob("*.py"):
        path.write_text("")

    script = "import xacct_lambda, cachetools; print(xacct_lambda.cache_info.__code__.co_filename)"
    assert printed_by(script, python, SITE_PACKAGES).strip() == str(python / "xacct_lambda" / "_sessions.py")


def test_bytecode_names_the_files_of_the_layer(layer, tmp_path) -> None:
    """No path of the machine that built the layer is in it: the bytecode names the files under /opt."""
    for path in unpacked(layer.content, tmp_path).rglob("*.pyc"):
        content = path.read_bytes()
        assert f"/opt/python/{path.parents[1].name}/".encode() in content
        assert b"/tmp" not in content


def test_no_interpreter_no_layer(monkeypatch, tmp_path, capsys) -> None:
    """If the interpreter for requested bytecode is missing, the command exits with 1, says so, and writes nothing."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    other = "3.13" if RUNNING != "3.13" else "3.12"

    assert main(["layer", "--output", str(tmp_path / "layer.zip"), "--python-version", other, RUNNING]) == 1

    printed = capsys.readouterr()
    assert printed.out == ""
    assert f"nothing was written, because python{other} is neither on the PATH nor in pyenv" in printed.err
    assert not (tmp_path / "layer.zip").exists()
    layer = build_layer([other])
    assert layer.without_bytecode == [other]
    assert not [name for name in names_in(layer.content) if name.endswith(".pyc")]


def test_other_interpreters_are_found(monkeypatch, tmp_path) -> None:
    """Of several Pythons the bytecode is made by pythonX.Y on PATH, or by pyenv's where that is a stub."""
    other = "3.13" if RUNNING != "3.13" else "3.12"
    stub = tmp_path / f"python{other}"
    stub.write_text("#!/bin/sh\nexit 127\n")
    stub.chmod(0o755)
    versions = tmp_path / "versions" / f"{other}.0" / "bin"
    versions.mkdir(parents=True)
    (versions / "python").symlink_to(sys.executable)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))

    assert build_layer([other, RUNNING]).bytecode == sorted([other, RUNNING], key=command._numbers)
    assert command._interpreter(other) == str(versions / "python")


def test_a_python_that_is_not_supported(capsys) -> None:
    """A Python that the library does not support is refused, with those that it does."""
    assert main(["layer", "--python-version", "2.7"]) == 2
    assert "python_version: '2.7' is not one of 3.11, 3.12, 3.13, 3.14" in capsys.readouterr().err


def test_a_file_that_cannot_be_written(tmp_path, capsys) -> None:
    """Where the output cannot be written, the command says why and exits with 2."""
    assert main(["layer", "--output", str(tmp_path / "no" / "layer.zip")]) == 2
    assert "No such file or directory" in capsys.readouterr().err


def test_too_large(monkeypatch) -> None:
    """A layer that Lambda would refuse for its size is refused."""
    monkeypatch.setattr(command, "_MAX_UNZIPPED_BYTES", 1000)

    with pytest.raises(ConfigurationError, match=r"bytes unzipped\. Lambda accepts 1,000"):
        build_layer()


def test_what_is_not_installed() -> None:
    """If a package is missing, or was installed without a list of its files, the command names it."""
    without_files: Any = SimpleNamespace(name="cachetools", files=None)

    with pytest.raises(ConfigurationError, match="nonsense: isn't installed here"):
        command._with_dependencies("nonsense", without=frozenset())
    with pytest.raises(ConfigurationError, match="cachetools: is installed without a list of its files"):
        list(command._files_to_ship(without_files))


def test_with_boto3(tmp_path) -> None:
    """``--with-boto3`` ships the installed SDK with all that it needs: boto3 works with nothing else on the path."""
    python = unpacked(build_layer(with_boto3=True).content, tmp_path)

    packed = {path.name for path in python.iterdir() if path.suffix != ".dist-info"}
    assert packed - {"__pycache__"} == OF_THE_SDK | {"cachetools", "xacct_lambda"}
    script = (
        "import boto3, xacct_lambda; xacct_lambda.assumed_session('arn:aws:iam::222222222222:role/Reader',"
        "region_name='eu-west-1').client('s3'); print(boto3.__version__)"
    )
    assert printed_by(script, python).strip() == boto3.__version__


def test_what_is_printed(layer, tmp_path, capsys) -> None:
    """The command prints what it packed, sizes, the digest, and how to publish and attach the layer."""
    output = tmp_path / "layer.zip"
    assert main(["layer", "--output", str(output)]) == 0

    summary = capsys.readouterr().out
    assert f"{output}: {len(layer.content):,} bytes, {layer.unzipped:,} unzipped" in summary
    assert hashlib.sha256(output.read_bytes()).hexdigest() in summary
    assert f"cachetools {metadata.version('cachetools')}, xacct-lambda {xacct_lambda.__version__}\n" in summary
    assert f"bytecode  Python {RUNNING}\n" in summary


def test_the_documented_command(monkeypatch, tmp_path, capsys) -> None:
    """What docs/cli.md shows of the command is what it prints, but for versions, sizes and the digest."""
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    match = re.search(r"```console\n\$ python -m xacct_lambda (layer.*)\n((?:.*\n)*?)```", page)
    assert match
    monkeypatch.chdir(tmp_path)

    assert main(match[1].split()) == 0

    def without_figures(text: str) -> str:
        return re.sub(r"(?<=bytecode  Python )[\d.]+|[0-9a-f]{64}|[\d,]{6,}|\d+\.\d+\.\d+", "*", text)

    assert without_figures(capsys.readouterr().out) == without_figures(match[2])
