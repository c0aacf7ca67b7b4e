"""From scenarios to figures: which contestants run which scenario, how often, in what order."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from .aws import Endpoints
from .processor import Hold
from .scenarios import SIGNED_HOURS

STS_MILLISECONDS = 80
SESSION_SECONDS = (900, 1800, 3600)
WARM_CALLS = 1000

LIBRARIES = ("xacct", "library", "refresh")
WITH_SESSIONS = (*LIBRARIES, "global")
COLD = ("xacct", "xacct-prefetch", "xacct-lazy", "article", "library", "refresh", "global")
SIGNING = ("xacct", "library", "refresh", "article", "global")

ROOT = Path(__file__).parents[2]

Sample = dict[str, Any]
Samples = dict[str, list[Sample]]
"""One sample of each round for each contestant: the samples of one round stand at the same place of all lists."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    repeat: int
    repeat_cold: int
    """For the cold start, since ratios of it differ by some hundredths from run to run."""
    repeat_long: int
    """For what takes seconds, and varies less."""
    most_roles: int
    warm_rounds: int


@dataclass
class Figures:
    """All that was measured."""

    cold: Samples = field(default_factory=dict)
    held: Samples = field(default_factory=dict)
    steps: Samples = field(default_factory=dict)
    warm: Samples = field(default_factory=dict)
    surviving: Samples = field(default_factory=dict)
    signature: Samples = field(default_factory=dict)
    further: Samples = field(default_factory=dict)
    imported: Samples = field(default_factory=dict)
    modules: list[tuple[str, float, bool]] = field(default_factory=list)
    """What importing the library adds to boto3: name, milliseconds of its own, whether boto3 needs it for a request."""
    many: dict[str, Samples] = field(default_factory=dict)
    life: dict[int, Samples] = field(default_factory=dict)
    grown: Samples = field(default_factory=dict)


def middle(samples: Iterable[Sample], name: str) -> float:
    """Return the median of one figure."""
    return median(sample[name] for sample in samples)


def paired(numerator: Iterable[Sample], denominator: Iterable[Sample], figure: Callable[[Sample], float]) -> float:
    """Return the median of the ratios within each round, so that a machine that drifts does not tell."""
    return median(figure(one) / figure(other) for one, other in zip(numerator, denominator, strict=True))


class Runner:
    """Runs scenarios in fresh processes, in the environment of a Lambda function."""

    def __init__(self, endpoints: Endpoints, say: Callable[[str], None]) -> None:
        self._endpoints = endpoints
        self._say = say
        self._home = tempfile.gettempdir()

    def _environment(self, sts: int) -> dict[str, str]:
        return self._endpoints.environment(sts) | {
            "PATH": os.environ["PATH"],
            "HOME": self._home,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_ACCESS_KEY_ID": "ASIAFUNCTION",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_SESSION_TOKEN": "token",
            "AWS_REGION": "eu-west-1",
            "AWS_DEFAULT_REGION": "eu-west-1",
            "AWS_LAMBDA_FUNCTION_NAME": "orders",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "PYTHONWARNINGS": "ignore",
        }

    def run(self, scenario: str, contestant: str, *arguments: object, sts: int = 0, hold: Hold | None = None) -> Sample:
        """Run a scenario in a process of its own; where it waits for its event, hold its processor first."""
        command = [sys.executable, "-m", "tests.benchmarks.scenarios", scenario, contestant, *map(str, arguments)]
        with subprocess.Popen(
            command, cwd=ROOT, env=self._environment(sts), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            line = process.stdout.readline()
            if line == "initialised\n":
                if hold is not None:
                    hold(process.pid)
                process.stdin.write("event\n")
                process.stdin.flush()
                line = process.stdout.readline()
        if process.returncode:
            raise subprocess.CalledProcessError(process.returncode, command)
        return json.loads(line)

    def rounds(
        self,
        repeat: int,
        scenario: str,
        contestants: Iterable[str],
        *arguments: object,
        sts: int = 0,
        hold: Hold | None = None,
    ) -> Samples:
        """Run a scenario for all contestants in turn, again and again; every other round in reverse."""
        order = list(contestants)
        samples: Samples = {name: [] for name in order}
        for number in range(repeat):
            self._say(f"{scenario.replace('_', ' ')} {' '.join(map(str, arguments))} {number + 1} of {repeat}")
            for name in order[:: -1 if number % 2 else 1]:
                samples[name].append(self.run(scenario, name, *arguments, sts=sts, hold=hold))
        return samples

    def modules(self) -> list[tuple[str, float, bool]]:
        """Return what the library's import adds to boto3's."""
        added = self.run("imported", "xacct")["modules"]
        needed = set(self.run("used_by_boto3", "bare")["modules"])
        # The module by its own name: what the package's front imports at first use goes past the tracing.
        trace = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import boto3, xacct_lambda._decorator"],
            cwd=ROOT,
            env=self._environment(0),
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        ).stderr
        own = {name: int(us) / 1e3 for us, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", trace)}
        return [(name, own[name], name in needed) for name in added]

    def lives(self, seconds: int) -> Samples:
        """Run the life-cycle counts side by side: they are counts, so company does not disturb them."""
        self._say(f"{SIGNED_HOURS} hours of {seconds} s sessions")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            samples = pool.map(lambda name: [self.run("life", name, seconds)], SIGNING)
            return dict(zip(SIGNING, samples, strict=True))


def measure(runner: Runner, effort: Effort, hold: Hold) -> Figures:
    """Measure everything."""
    repeat = effort.repeat
    figures = Figures()
    # Not counted: the first to import a module compiles it and reads it from the disk.
    runner.rounds(1, "cold_start", COLD)
    figures.cold = runner.rounds(effort.repeat_cold, "cold_start", COLD, sts=STS_MILLISECONDS)
    figures.held = runner.rounds(repeat, "cold_start", COLD, sts=STS_MILLISECONDS, hold=hold)
    figures.steps = runner.rounds(repeat, "cold_steps", ("xacct", "article"), sts=STS_MILLISECONDS)
    figures.imported = runner.rounds(repeat, "imported", LIBRARIES)
    figures.modules = runner.modules()
    figures.warm = runner.rounds(repeat, "warm_call", ("xacct", "global"), effort.warm_rounds, WARM_CALLS)
    figures.warm |= runner.rounds(repeat, "warm_call", ("article",), 3, 5)
    figures.surviving = runner.rounds(1, "surviving_blocks", ("xacct", "global"), WARM_CALLS)
    figures.signature = runner.rounds(repeat, "warm_signature", LIBRARIES, effort.warm_rounds, WARM_CALLS)
    figures.further = runner.rounds(effort.repeat_long, "further_roles", LIBRARIES)
    for manner in ("at-once", "in-turn"):
        figures.many[manner] = runner.rounds(
            effort.repeat_long, "many_roles", LIBRARIES[:1], manner, sts=STS_MILLISECONDS
        )
    figures.many["in-turn"] |= runner.rounds(1, "many_roles", LIBRARIES[1:], "in-turn", sts=STS_MILLISECONDS)
    for seconds in SESSION_SECONDS:
        figures.life[seconds] = runner.lives(seconds)
    figures.grown = runner.rounds(1, "grown", WITH_SESSIONS, effort.most_roles)
    return figures
