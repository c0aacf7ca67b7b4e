"""``python -m tests.runtime.bytecode``: measure what the layer's bytecode saves at a cold start."""

from __future__ import annotations

import io
import statistics
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import boto3

from xacct_lambda.cli.layer import build_layer

_PAIRS = 31
# After boto3, of which the runtime has bytecode: so what is timed is the library and cachetools alone.
_TIMED = """
import sys, time
sys.path[:0] = sys.argv[1:]
import boto3, botocore.session
started = time.perf_counter()
from xacct_lambda import assume_role, assumed_session
print(time.perf_counter() - started)
"""


def main() -> None:
    """Import the library in fresh processes, by turns with bytecode and without, and print the medians."""
    content = io.BytesIO(build_layer().content)
    with tempfile.TemporaryDirectory() as folder:
        layers = Path(folder, "with"), Path(folder, "without")
        for layer in layers:
            zipfile.ZipFile(content).extractall(layer)
        for path in layers[1].rglob("*.pyc"):
            path.unlink()
        pairs = [[_milliseconds(layer / "python") for layer in layers] for _ in range(_PAIRS)]
    print(f"import of the library after boto3, Python {sys.version.split()[0]}, medians of {_PAIRS} pairs of processes")
    for title, times in zip(("with bytecode", "without"), zip(*pairs, strict=True), strict=True):
        print(f"  {title:<14}{statistics.median(times):6.1f} ms")
    print(f"  {'saved':<14}{statistics.median(without - with_ for with_, without in pairs):6.1f} ms")


def _milliseconds(layer: Path) -> float:
    # -B: Lambda's /opt is read-only, so nothing that is compiled there is kept.
    command = [sys.executable, "-I", "-S", "-B", "-c", _TIMED, str(layer), str(Path(boto3.__file__).parents[1])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1000


if __name__ == "__main__":
    main()
