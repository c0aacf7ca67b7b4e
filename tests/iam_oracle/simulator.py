"""The simulator: ``@cloud-copilot/iam-simulate`` from npm, run by Node."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


class UnavailableError(Exception):
    """Node or npm is missing, or npm can't install the simulator."""


def install() -> Path:
    """Install the simulator into a folder of the system's temporary directory, once for each version of it.

    Raises:
        UnavailableError: With the reason.
    """
    _command("node")
    npm = _command("npm")
    package = (HERE / "package.json").read_text(encoding="utf-8")
    version = json.loads(package)["dependencies"]["@cloud-copilot/iam-simulate"]
    folder = Path(tempfile.gettempdir()) / f"xacct-lambda-iam-oracle-{os.getuid()}-{version}"
    if folder.is_dir():
        return folder
    new = Path(tempfile.mkdtemp(prefix="xacct-lambda-iam-oracle-"))
    try:
        (new / "package.json").write_text(package, encoding="utf-8")
        command = [npm, "install", "--no-audit", "--no-fund", "--no-package-lock"]
        subprocess.run(command, cwd=new, check=True, capture_output=True, timeout=120)
        with contextlib.suppress(OSError):
            new.rename(folder)  # If another process was faster, its folder stays.
    except (OSError, subprocess.SubprocessError) as error:
        raise UnavailableError(f"npm install failed: {error}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return folder


def simulate(calls: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the simulator says about each call: ``results`` by action, or why it ``rejected`` a policy."""
    folder = install()
    driver = (HERE / "driver.mjs").read_text(encoding="utf-8")
    lines = "".join(f"{json.dumps(call)}\n" for call in calls)
    # Node looks for the packages that the driver imports in the working directory.
    command = [_command("node"), "--input-type=module", "--eval", driver]
    done = subprocess.run(command, cwd=folder, input=lines, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _command(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UnavailableError(f"{name} is needed")
    return path
