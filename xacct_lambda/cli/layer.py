"""``layer``: pack the library into a Lambda layer, the same bytes at every build of the same versions."""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final, NamedTuple

from xacct_lambda.exceptions import ConfigurationError

HELP: Final = "pack the library and cachetools into a Lambda layer, and print how to publish it"

_OWN: Final = "xacct-lambda"
_RUNTIME_PACKAGES: Final = frozenset({"boto3", "botocore"})
_RUNNING: Final = f"{sys.version_info.major}.{sys.version_info.minor}"

# What works on a developer's machine alone: commands, and the tools for tests, which need moto or pytest.
_EXCLUDED: Final = frozenset({"__main__.py", "cli", "pytest_plugin.py", "testing"})
_LICENCE: Final = re.compile(r"(?i)licen[cs]e|copying|notice|authors")

# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
_MAX_UNZIPPED_BYTES: Final = 250 * 1024 * 1024
# The earliest that a zip can tell.
_TIMESTAMP: Final = (1980, 1, 1, 0, 0, 0)
_REGULAR_FILE_FOR_ALL: Final = 0o100644 << 16
_MADE_ON_UNIX: Final = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--output",
        metavar="FILE",
        type=Path,
        default=Path("xacct-lambda-layer.zip"),
        help="file to write; default: %(default)s",
    )
    parser.add_argument(
        "--python-version",
        metavar="VERSION",
        nargs="+",
        dest="python_versions",
        default=[_RUNNING],
        help="Python versions to ship bytecode for, as in 3.12 3.13; default: %(default)s",
    )
    parser.add_argument(
        "--with-boto3",
        action="store_true",
        help="ship the installed boto3 with its dependencies, instead of using the runtime's",
    )


def run(arguments: argparse.Namespace) -> int:
    """Write the layer, and print its content and how to publish it. Return 1 if it can't be built as requested."""
    try:
        layer = build_layer(arguments.python_versions, with_boto3=arguments.with_boto3)
        if layer.without_bytecode:
            print(f"xacct-lambda layer: {_missing_interpreters(layer)}", file=sys.stderr)
            return 1
        arguments.output.write_bytes(layer.content)
    except (ConfigurationError, OSError) as error:
        print(f"xacct-lambda layer: {error}", file=sys.stderr)
        return 2
    print(_summary(layer, arguments.output))
    return 0


class Layer(NamedTuple):
    """A layer's zip, and what is in it."""

    content: bytes
    unzipped: int
    """Bytes that it takes on Lambda."""
    packages: list[str]
    bytecode: list[str]
    """Python versions with bytecode in the layer."""
    without_bytecode: list[str]
    """Requested Python versions without an interpreter here."""
    runtimes: list[str]


def build_layer(python_versions: Iterable[str] = (_RUNNING,), *, with_boto3: bool = False) -> Layer:
    """Return the layer, made of what is installed here.

    Args:
        python_versions: Pythons to ship bytecode for, where their interpreters are found.
        with_boto3: Ship the installed boto3, and all that it needs.

    Raises:
        ConfigurationError: A Python that the library does not support, a package that is not installed, too large.
    """
    versions = sorted(set(python_versions), key=_numbers)
    supported = _supported()
    for version in versions:
        if version not in supported:
            raise ConfigurationError("python_version", f"{version!r} is not one of {', '.join(supported)}")
    distributions = _needed(_OWN, without=frozenset() if with_boto3 else _RUNTIME_PACKAGES)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for distribution in distributions:
            for source, name in _shipped(distribution):
                target = root / "python" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        compiled = [version for version in versions if _compile(root, version)]
        content, unzipped = _zipped(root)
    if unzipped > _MAX_UNZIPPED_BYTES:
        raise ConfigurationError("layer", f"{unzipped:,} bytes unzipped, and Lambda takes {_MAX_UNZIPPED_BYTES:,}")
    return Layer(
        content,
        unzipped,
        [f"{distribution.name} {distribution.version}" for distribution in distributions],
        compiled,
        [version for version in versions if version not in compiled],
        [f"python{version}" for version in supported],
    )


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


def _supported() -> list[str]:
    classifiers = _distribution(_OWN).metadata.get_all("Classifier") or []
    matches = (re.fullmatch(r"Programming Language :: Python :: (3\.\d+)", classifier) for classifier in classifiers)
    return [match[1] for match in matches if match]


def _distribution(name: str) -> metadata.Distribution:
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError as error:
        raise ConfigurationError(
            name, "not installed here, and the layer is made of what is; pip install it"
        ) from error


def _needed(name: str, *, without: frozenset[str]) -> list[metadata.Distribution]:
    """Return a distribution and, without their extras, all that it needs, by name."""
    found: dict[str, metadata.Distribution] = {}
    names = [name]
    while names:
        name = names.pop()
        if name in found or name in without:
            continue
        found[name] = _distribution(name)
        for requirement in found[name].requires or []:
            specifier, _, marker = requirement.partition(";")
            if "extra" not in marker:
                names += re.findall(r"^[\w.-]+", specifier)
    return [found[name] for name in sorted(found)]


def _shipped(distribution: metadata.Distribution) -> Iterator[tuple[Path, str]]:
    """Yield a distribution's files and their names in the layer: its code, its METADATA and its licences.

    What installers note differs from one installation to the next; entry points lead to commands, which are left out.
    """
    is_own = distribution.name == _OWN
    if distribution.files is None:
        raise ConfigurationError(distribution.name, "installed without a list of its files; install it with pip")
    for file in distribution.files:
        if file.parts[0].endswith(".dist-info"):
            if file.name == "METADATA" or _LICENCE.match(file.parts[1]):
                yield Path(str(file.locate())), file.as_posix()
        elif not is_own and file.parts[0] != ".." and file.suffix != ".pyc":
            yield Path(str(file.locate())), file.as_posix()
    if is_own:
        # Not off the list: in a checkout (pip install -e) that has no code.
        package = Path(__file__).parent.parent
        for path in package.iterdir():
            if path.is_file() and path.name not in _EXCLUDED:
                yield path, f"{package.name}/{path.name}"


def _compile(root: Path, version: str) -> bool:
    """Put the bytecode of a Python beside the sources; say whether there is an interpreter to make it."""
    interpreter = _interpreter(version)
    if interpreter is None:
        return False
    subprocess.run(  # noqa: S603 - an interpreter of this machine
        [
            interpreter,
            "-S",
            *("-m", "compileall", "-q"),
            # Unchecked: Lambda's /opt is read-only and changes with the layer alone.
            *("--invalidation-mode", "unchecked-hash"),
            *("-s", str(root), "-p", "/opt", str(root / "python")),
        ],
        check=True,
        # What is set for this Python is not for that one. A random order of hashes might show in the bytecode.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        | {"PYTHONHASHSEED": "0"},
    )
    return True


def _interpreter(version: str) -> str | None:
    if version == _RUNNING:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [Path(found)] if (found := shutil.which(f"python{version}")) else []
    for candidate in (*candidates, *pyenv.glob(f"versions/{version}.*/bin/python")):
        # Under pyenv the name on PATH may be a stub that leads nowhere.
        if subprocess.run([candidate, "-S", "-c", ""], capture_output=True, check=False).returncode == 0:  # noqa: S603
            return str(candidate)
    return None


def _zipped(root: Path) -> tuple[bytes, int]:
    """Return the zip of a folder and its size unzipped; the order, the times and the rights are always the same."""
    buffer = io.BytesIO()
    unzipped = 0
    files = {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, path in sorted(files.items()):
            entry = zipfile.ZipInfo(name, _TIMESTAMP)
            entry.external_attr = _REGULAR_FILE_FOR_ALL
            entry.create_system = _MADE_ON_UNIX
            content = path.read_bytes()
            unzipped += len(content)
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, compresslevel=9)
    return buffer.getvalue(), unzipped


def _missing_interpreters(layer: Layer) -> str:
    names = ", ".join(f"python{version}" for version in layer.without_bytecode)
    return (
        f"nothing was written, because {names} is neither on the PATH nor in pyenv, and the bytecode needs it. Install "
        "it, or leave its version out of --python-version: the layer works there too, but compiles at every cold start"
    )


def _summary(layer: Layer, output: Path) -> str:
    publish = (
        f"aws lambda publish-layer-version --layer-name {_OWN} --zip-file fileb://{output}"
        f" --compatible-runtimes {' '.join(layer.runtimes)} --compatible-architectures x86_64 arm64"
    )
    lines = [
        f"{output}: {len(layer.content):,} bytes, {layer.unzipped:,} unzipped",
        f"  sha256    {hashlib.sha256(layer.content).hexdigest()}",
        f"  packages  {', '.join(layer.packages)}",
        f"  bytecode  {', '.join(f'Python {version}' for version in layer.bytecode)}",
        "",
        "To publish it, and to attach what that prints as LayerVersionArn (--layers names all layers of the function):",
        publish,
        "aws lambda update-function-configuration --function-name FUNCTION --layers LAYER_VERSION_ARN",
    ]
    return "\n".join(lines)
