"""How much CPU this process may use, and how much of a span of time it was idle.

A function with 128 MB has a fourteenth of a core. If it assumes many roles at once, answers of STS wait in the kernel
until the process reads them. Only time in which the process could have run, and had nothing to do, is STS's silence.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

# https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html: "at 1,769 MB, a function has … one vCPU"
_MEGABYTES_PER_CORE: Final = 1769
_MIN_IDLE_PART: Final = 1 / 12
"""Of any span. Otherwise a wait would never end if another thread used the CPU all the time."""


def available_cores(*, environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> float:
    """Return the number of cores that this process may use, such as 0.07 for a function with 128 MB.

    The least of Lambda's memory setting, the quotas of the process's control groups, and the machine's cores.
    """
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    megabytes = environment.get("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "")
    if megabytes.isdecimal() and int(megabytes):
        cores = min(cores, int(megabytes) / _MEGABYTES_PER_CORE)
    return min(cores, *_quotas(root), cores)


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota of each control group that contains this process, in cores."""
    controllers = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, names, path = line.split(":", 2)
        if names and "cpu" not in names.split(","):
            continue
        folder = controllers / "cpu" if names else controllers
        # In a container the path may be the host's. The container's own group is then the folder itself.
        group = folder / path.lstrip("/")
        for place in (group, *group.parents[: len(group.parents) - len(folder.parents)]):
            if names:
                quota, period = _text(place / "cpu.cfs_quota_us"), _text(place / "cpu.cfs_period_us")
            else:
                quota, _, period = _text(place / "cpu.max").partition(" ")
            # No quota is "max" in version 2 and -1 in version 1.
            if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
                yield int(quota) / int(period)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        # Not Linux, or a file that this process may not read.
        return ""


class IdleTime:
    """The time since its creation, less the time in which the process used all the CPU that it may use.

    Example:
        >>> idle = IdleTime()
        >>> idle.seconds() >= 0
        True
    """

    __slots__ = ("_available_cores", "_clock", "_cpu_time", "_started", "_used")

    def __init__(
        self,
        *,
        clock: Callable[[], float] = time.time,
        cpu_time: Callable[[], float] = time.process_time,
        available_cores: Callable[[], float] = available_cores,
    ) -> None:
        self._clock = clock
        self._cpu_time = cpu_time
        self._available_cores = available_cores
        self._started = clock()
        self._used = cpu_time()

    def seconds(self) -> float:
        """Return the idle seconds, at least a twelfth of the time since the creation."""
        elapsed = self._clock() - self._started
        # The share is read now, not at the creation: after Lambda's init phase it is smaller.
        busy = (self._cpu_time() - self._used) / self._available_cores()
        return max(elapsed - busy, elapsed * _MIN_IDLE_PART)
