"""The simulator: ``@cloud-copilot/iam-simulate`` from npm, run by Node."""

from __future__ import annotations

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
    """Install the simulator into a folder of the system's temporary directory, once for each version of package.json.

    Returns:
        The folder, with the driver in it.

    Raises:
        UnavailableError: With the reason.
    """
    _command("node")
    npm = _command("npm")
    package = (HERE / "package.json").read_text()
    version = json.loads(package)["dependencies"]["@cloud-copilot/iam-simulate"]
    folder = Path(tempfile.gettempdir()) / f"xacct-lambda-iam-oracle-{os.getuid()}-{version}"
    if not (folder / "node_modules" / "@cloud-copilot" / "iam-simulate").is_dir():
        with tempfile.TemporaryDirectory(dir=tempfile.gettempdir()) as new:
            (Path(new) / "package.json").write_text(package)
            try:
                subprocess.run(
                    [npm, "install", "--no-audit", "--no-fund", "--no-package-lock"],
                    cwd=new,
                    check=True,
                    capture_output=True,
                    timeout=120,
                )
            except (OSError, subprocess.SubprocessError) as error:
                raise UnavailableError(f"npm install failed: {error}") from error
            shutil.copytree(new, folder, dirs_exist_ok=True)
    shutil.copy(HERE / "driver.mjs", folder)
    return folder


def simulate(calls: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return what the simulator says about each call: ``results`` by action, or why it ``rejected`` a policy."""
    folder = install()
    lines = "".join(f"{json.dumps(call)}\n" for call in calls)
    done = subprocess.run(
        [_command("node"), "driver.mjs"], cwd=folder, input=lines, capture_output=True, text=True, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def _command(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        raise UnavailableError(f"{name} is needed")
    return path
