"""A processor like that of a small Lambda function: a process held to a share of one core."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SHARE = 128 / 1769
"""Of a core: what Lambda gives a function of 128 MB (1769 MB are one core)."""

_PERIOD_SECONDS = 0.02
_CGROUPS = Path("/sys/fs/cgroup")

Hold = Callable[[int], None]


@contextmanager
def held_processor() -> Iterator[tuple[str, Hold]]:
    """Yield by what means processes are held here, and the function that holds the process with a given id."""
    group = None
    with suppress(OSError):
        group = _quota_group()
    if group is None:
        yield "SIGSTOP and SIGCONT in turn", _hold_by_signals
        return
    try:
        yield f"a cgroup quota ({group.parent.name})", lambda pid: _write(group / "cgroup.procs", pid)
    finally:
        group.rmdir()


def _quota_group() -> Path:
    """Make a control group with the quota; OSError where this process may not."""
    period = int(_PERIOD_SECONDS * 1e6)
    quota = int(period * SHARE)
    unified = (_CGROUPS / "cgroup.controllers").exists()
    group = (_CGROUPS if unified else _CGROUPS / "cpu") / f"xacct-lambda-benchmarks-{os.getpid()}"
    group.mkdir()
    try:
        if unified:
            _write(group / "cpu.max", f"{quota} {period}")
        else:
            _write(group / "cpu.cfs_period_us", period)
            _write(group / "cpu.cfs_quota_us", quota)
    except OSError:
        group.rmdir()
        raise
    return group


def _write(path: Path, value: object) -> None:
    path.write_text(str(value))


def _hold_by_signals(pid: int) -> None:
    threading.Thread(target=_stop_and_go, args=(pid,), daemon=True).start()


def _stop_and_go(pid: int) -> None:
    with suppress(ProcessLookupError):
        while True:
            time.sleep(_PERIOD_SECONDS * SHARE)
            os.kill(pid, signal.SIGSTOP)
            time.sleep(_PERIOD_SECONDS * (1 - SHARE))
            os.kill(pid, signal.SIGCONT)
