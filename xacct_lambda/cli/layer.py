"""``layer``: pack the library into a Lambda layer. Each build of the same versions gives the same bytes."""

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

# A function doesn't need the commands and the tools for tests.
_EXCLUDED: Final = frozenset({"__main__.py", "cli", "pytest_plugin.py", "testing"})
_LICENCE: Final = re.compile(r"(?i)licen[cs]e|copying|notice|authors")

# https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html
_MAX_UNZIPPED_BYTES: Final = 250 * 1024 * 1024
# The earliest time that a zip file can contain.
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
        help="file to write (default: %(default)s)",
    )
    parser.add_argument(
        "--python-version",
        metavar="VERSION",
        nargs="+",
        dest="python_versions",
        default=[_RUNNING],
        help="Python versions to ship bytecode for, such as 3.12 3.13 (default: %(default)s)",
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
    """A layer's zip file, and its content."""

    content: bytes
    unzipped: int
    """Size on Lambda in bytes."""
    packages: list[str]
    bytecode: list[str]
    """Python versions with bytecode in the layer."""
    without_bytecode: list[str]
    """Requested Python versions without an interpreter here."""
    runtimes: list[str]


def build_layer(python_versions: Iterable[str] = (_RUNNING,), *, with_boto3: bool = False) -> Layer:
    """Return a layer of the installed packages.

    Args:
        python_versions: Python versions to ship bytecode for, if their interpreters are installed here.
        with_boto3: Ship the installed boto3 with its dependencies.

    Raises:
        ConfigurationError: The library doesn't support a Python version, a package isn't installed, or the layer is
            too large for Lambda.
    """
    versions = sorted(set(python_versions), key=_numbers)
    supported = _supported()
    for version in versions:
        if version not in supported:
            raise ConfigurationError("python_version", f"{version!r} is not one of {', '.join(supported)}")
    distributions = _with_dependencies(_OWN, without=frozenset() if with_boto3 else _RUNTIME_PACKAGES)
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for distribution in distributions:
            for source, name in _files_to_ship(distribution):
                target = root / "python" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
        compiled = [version for version in versions if _compile(root, version)]
        content, unzipped = _zipped(root)
    if unzipped > _MAX_UNZIPPED_BYTES:
        raise ConfigurationError("layer", f"{unzipped:,} bytes unzipped. Lambda accepts {_MAX_UNZIPPED_BYTES:,}")
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
            name, "isn't installed here. The layer contains the installed packages, so pip install it"
        ) from error


def _with_dependencies(name: str, *, without: frozenset[str]) -> list[metadata.Distribution]:
    """Return a distribution and its dependencies, sorted by name. Dependencies of extras are left out."""
    distributions: dict[str, metadata.Distribution] = {}
    names = [name]
    while names:
        name = names.pop()
        if name in distributions or name in without:
            continue
        distributions[name] = _distribution(name)
        for requirement in distributions[name].requires or []:
            specifier, _, marker = requirement.partition(";")
            if "extra" not in marker:
                names += re.findall(r"^[\w.-]+", specifier)
    return [distributions[name] for name in sorted(distributions)]


def _files_to_ship(distribution: metadata.Distribution) -> Iterator[tuple[Path, str]]:
    """Yield a distribution's files and their names in the layer: its code, its METADATA, and its licenses.

    Other metadata differs between installations. Entry points lead to commands, which the layer doesn't contain.
    """
    is_own = distribution.name == _OWN
    if distribution.files is None:
        raise ConfigurationError(distribution.name, "is installed without a list of its files. Reinstall it with pip")
    for file in distribution.files:
        if file.parts[0].endswith(".dist-info"):
            if file.name == "METADATA" or _LICENCE.match(file.parts[1]):
                yield Path(str(file.locate())), file.as_posix()
        elif not is_own and file.parts[0] != ".." and file.suffix != ".pyc":
            yield Path(str(file.locate())), file.as_posix()
    if is_own:
        # Not from the list of files: in a checkout (pip install -e), the list doesn't contain the code.
        package = Path(__file__).parent.parent
        for path in package.iterdir():
            if path.is_file() and path.name not in _EXCLUDED:
                yield path, f"{package.name}/{path.name}"


def _compile(root: Path, version: str) -> bool:
    """Compile the sources for a Python version. Return whether its interpreter is installed here."""
    interpreter = _interpreter(version)
    if interpreter is None:
        return False
    subprocess.run(  # noqa: S603 - an interpreter of this machine
        [
            interpreter,
            "-S",
            *("-m", "compileall", "-q"),
            # Unchecked, because Lambda's /opt is read-only: its files change only with the layer.
            *("--invalidation-mode", "unchecked-hash"),
            *("-s", str(root), "-p", "/opt", str(root / "python")),
        ],
        check=True,
        # PYTHON… variables are for the running Python, and may not suit the other one. A random order of hashes could
        # change the bytecode.
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        | {"PYTHONHASHSEED": "0"},
    )
    return True


def _interpreter(version: str) -> str | None:
    if version == _RUNNING:
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    candidates = [Path(path)] if (path := shutil.which(f"python{version}")) else []
    for candidate in (*candidates, *pyenv.glob(f"versions/{version}.*/bin/python")):
        # With pyenv, the program on PATH may be a stub without an interpreter.
        if subprocess.run([candidate, "-S", "-c", ""], capture_output=True, check=False).returncode == 0:  # noqa: S603
            return str(candidate)
    return None


def _zipped(root: Path) -> tuple[bytes, int]:
    """Return a zip file of a folder, and its unzipped size. Order, times, and permissions are always the same."""
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
