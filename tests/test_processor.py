"""How much CPU the process may use, and what of a wait is somebody else's silence."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from xacct_lambda._processor import IdleTime, available_cores

Write = Callable[[str, str], None]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Return a function that writes a file of an otherwise empty machine with 4 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {0, 1, 2, 3}, raising=False)

    def write(name: str, text: str) -> None:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    return write


def test_the_cores_of_the_machine(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a limit, the process may use the cores that the system gives it, or those of the machine."""
    assert available_cores(environment={}, root=tmp_path) == 4

    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    assert available_cores(environment={}, root=tmp_path) == 3
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores(environment={}, root=tmp_path) == 1


@pytest.mark.parametrize(
    ("megabytes", "cores"), [("1769", 1), ("128", 128 / 1769), ("10240", 4), ("0", 4), ("", 4), ("much", 4), ("-1", 4)]
)
def test_lambdas_memory_setting(write: Write, tmp_path: Path, megabytes: str, cores: float) -> None:
    """On Lambda, CPU is proportional to memory; a setting that is no number doesn't count."""
    environment = {"AWS_LAMBDA_FUNCTION_MEMORY_SIZE": megabytes}

    assert available_cores(environment=environment, root=tmp_path) == pytest.approx(cores)


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"unified/a": ""}, 4),
        ({"a/b/cpu.max": "1400 20000\n"}, 0.07),
        ({"a/cpu.max": "max 100000\n", "cpu.max": "50000 100000\n"}, 0.5),
        ({"a/b/cpu.max": "200000 100000\n", "a/cpu.max": "100000 100000\n"}, 1),
        ({"a/b/cpu.max": "max 100000\n"}, 4),
        ({"a/b/cpu.max": "garbage"}, 4),
        ({"a/b/cpu.max": "1400 0"}, 4),
        ({"cpu.max": "\xff\xfe"}, 4),
    ],
)
def test_quotas_of_control_groups(write: Write, tmp_path: Path, files: dict[str, str], cores: float) -> None:
    """The least quota of the process's control group and its parents holds, also where a container hides the group."""
    write("proc/self/cgroup", "0::/a/b\n")
    for name, text in files.items():
        write(f"sys/fs/cgroup/{name}", text)

    assert available_cores(environment={}, root=tmp_path) == pytest.approx(cores)


@pytest.mark.parametrize(("quota", "cores"), [("1400", 0.07), ("-1", 4)])
def test_quotas_of_version_1(write: Write, tmp_path: Path, quota: str, cores: float) -> None:
    """Control groups of version 1 are read under the controller ``cpu``."""
    write("proc/self/cgroup", "9:name=systemd:/\n4:memory:/a\n2:cpuacct:/a\n1:cpu:/a\n0::/\n")
    write("sys/fs/cgroup/cpu/a/cpu.cfs_quota_us", quota)
    write("sys/fs/cgroup/cpu/a/cpu.cfs_period_us", "20000")
    write("sys/fs/cgroup/memory/a/cpu.cfs_quota_us", "1")
    write("sys/fs/cgroup/memory/a/cpu.cfs_period_us", "20000")

    assert available_cores(environment={}, root=tmp_path) == pytest.approx(cores)


def test_this_process_may_use_some_cores() -> None:
    """On the machine that runs the tests, the answer is a number above zero."""
    assert 0 < available_cores() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("cores", "used", "elapsed", "idle"),
    [
        (1, 0.02, 2.5, 2.48),
        (0.07, 0.02, 2.5, 2.5 - 0.02 / 0.07),
        (0.07, 0.175, 2.5, 2.5 / 12),
        (0.07, 0.7, 12, 2),
        (2, 2.5, 2.5, 1.25),
        (1, 30, 30, 2.5),
        (1, 0, 0, 0),
    ],
    ids=[
        "silence",
        "silence on a small function",
        "starved",
        "half starved",
        "busy on one core of two",
        "busy for long",
        "at once",
    ],
)
def test_idle_time(cores: float, used: float, elapsed: float, idle: float) -> None:
    """Time in which the process used all the CPU that it may use is not idle, except for a twelfth of it."""
    wall, cpu = iter([1000.0, 1000 + elapsed]), iter([5.0, 5 + used])
    watch = IdleTime(clock=wall.__next__, cpu_time=cpu.__next__, available_cores=lambda: cores)

    assert watch.seconds() == pytest.approx(idle)


def test_a_wait_for_a_silent_server_is_idle() -> None:
    """A process that sleeps is idle nearly all of the time."""
    now = [0.0]
    watch = IdleTime(clock=lambda: now[0])
    now[0] += 3600

    assert watch.seconds() > 1800
