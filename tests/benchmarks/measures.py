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
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from .aws import REGION, Endpoints
from .processor import Hold
from .scenarios import SIGNED_HOURS

STS_MILLISECONDS = 80
SESSION_SECONDS = (900, 1800, 3600)
WARM_CALLS = 1000
CALLS_BY_ARTICLE = 5
STS_MODES = {"slow": 500, "throttle": 0, "hang": 0, "trickle": 0}
"""What STS does while signatures are counted, and after how many milliseconds."""
WORKERS_AT_ONCE = (32, 50)

LIBRARIES = ("xacct", "library", "refresh")
WITH_SESSIONS = (*LIBRARIES, "global")
COLD = ("xacct", "xacct-lazy", "article", "library", "refresh", "global")
FURTHER = {"xacct": 40, "plain": 40, "article": 15, "library": 8, "refresh": 8}
"""Roles after the first that each contestant works for, so that each takes a few seconds."""
FILES_OF_ROLES = 100
SIGNING = ("xacct", "library", "refresh", "article", "global")
ACCOUNTS = 200
ACCOUNT_MANNERS = ("at-once", "plain", "botocove")

ROOT = Path(__file__).parents[2]

Sample = dict[str, Any]
Samples = dict[str, list[Sample]]
"""One sample of each round for each contestant: the samples of one round stand at the same place of all lists."""
Figures = dict[str, Any]
"""What the sections measured, as JSON can keep it, by the names of the sections."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    repeat: int
    repeat_cold: int
    """For the cold start, because its ratios differ by some hundredths from run to run."""
    repeat_long: int
    """For what takes seconds, and varies less."""
    most_roles: int
    warm_rounds: int


def middle(samples: Iterable[Sample], name: str) -> float:
    """Return the median of one figure."""
    return median(sample[name] for sample in samples)


def paired(numerator: Iterable[Sample], denominator: Iterable[Sample], figure: Callable[[Sample], float]) -> float:
    """Return the median of the ratios within each round, so that a machine whose speed changes affects both."""
    return median(figure(one) / figure(other) for one, other in zip(numerator, denominator, strict=True))


class Runner:
    """Runs scenarios in fresh processes, in the environment of a Lambda function."""

    def __init__(self, endpoints: Endpoints, say: Callable[[str], None]) -> None:
        self._endpoints = endpoints
        self.say = say
        self._home = tempfile.gettempdir()

    def _environment(self, sts: int, *, tls: bool = True) -> dict[str, str]:
        return self._endpoints.environment(sts, tls=tls) | {
            "PATH": os.environ["PATH"],
            "HOME": self._home,
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_ACCESS_KEY_ID": "ASIAFUNCTION",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_SESSION_TOKEN": "token",
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_LAMBDA_FUNCTION_NAME": "orders",
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "PYTHONWARNINGS": "ignore",
            "TQDM_DISABLE": "1",
        }

    def run(
        self,
        scenario: str,
        *arguments: object,
        sts: int = 0,
        tls: bool = True,
        hold: Hold | None = None,
        module: str = "tests.benchmarks.scenarios",
    ) -> Sample:
        """Run a scenario in its own process. If it waits for its event, limit its processor first."""
        command = [sys.executable, "-m", module, scenario, *map(str, arguments)]
        environment = self._environment(sts, tls=tls)
        with subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
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
        tls: bool = True,
        hold: Hold | None = None,
    ) -> Samples:
        """Run a scenario for all contestants in turn, again and again; every other round in reverse."""
        order = list(contestants)
        samples: Samples = {name: [] for name in order}
        for number in range(repeat):
            self.say(f"{scenario.replace('_', ' ')} {' '.join(map(str, arguments))} {number + 1} of {repeat}")
            for name in order[:: -1 if number % 2 else 1]:
                samples[name].append(self.run(scenario, name, *arguments, sts=sts, tls=tls, hold=hold))
        return samples

    def modules(self) -> list[tuple[str, float, bool]]:
        """Return what importing the library adds to boto3: name, its own milliseconds, whether boto3 needs it too."""
        added = self.run("imported", "xacct")["modules"]
        needed = set(self.run("used_by_boto3", "bare")["modules"])
        # The module by its own name: what the package imports at first use is not traced.
        trace = subprocess.run(
            [sys.executable, "-X", "importtime", "-c", "import boto3, xacct_lambda._decorator"],
            cwd=ROOT,
            env=self._environment(0),
            stderr=subprocess.PIPE,
            text=True,
            check=True,
        ).stderr
        own = {name: int(us) / 1e3 for us, name in re.findall(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)", trace)}
        return [(name, own[name], name in needed) for name in added if name in own]

    def lives(self, seconds: int) -> Samples:
        """Run the life-cycle counts side by side. They are counts, so they don't disturb one another."""
        self.say(f"{SIGNED_HOURS} hours of {seconds} s sessions")
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            samples = pool.map(lambda name: [self.run("life", name, seconds)], SIGNING)
            return dict(zip(SIGNING, samples, strict=True))


def _cold(runner: Runner, effort: Effort, hold: Hold) -> Figures:
    # Not counted: the first to import a module compiles it and reads it from the disk.
    runner.rounds(1, "cold_start", COLD)
    return {
        "whole": runner.rounds(effort.repeat_cold, "cold_start", COLD, sts=STS_MILLISECONDS),
        "plaintext": runner.rounds(effort.repeat, "cold_start", COLD, sts=STS_MILLISECONDS, tls=False),
        "small": runner.rounds(effort.repeat_long, "cold_start", COLD, sts=STS_MILLISECONDS, hold=hold),
        "steps": runner.rounds(effort.repeat, "cold_steps", ("xacct", "article"), sts=STS_MILLISECONDS),
    }


def _warm(runner: Runner, effort: Effort, _hold: Hold) -> Figures:
    ours, by_hand = ("xacct", "global"), ("article",)
    calls = effort.warm_rounds, WARM_CALLS
    plaintext = runner.rounds(effort.repeat, "warm_call", ours, *calls, tls=False)
    plaintext |= runner.rounds(effort.repeat, "warm_call", by_hand, 3, CALLS_BY_ARTICLE, tls=False)
    return {
        "plaintext": plaintext,
        "tls": runner.rounds(effort.repeat_long, "warm_call", by_hand, 3, CALLS_BY_ARTICLE),
        "keyword": runner.rounds(effort.repeat, "warm_call", ours, *calls, "keyword"),
        "surviving": runner.rounds(1, "surviving_blocks", ours, WARM_CALLS),
        "signature": runner.rounds(effort.repeat, "warm_signature", LIBRARIES, *calls),
    }


def _further(runner: Runner, effort: Effort, _hold: Hold) -> Figures:
    figures: Figures = {}
    for name, is_tls in {"tls": True, "plaintext": False}.items():
        rounds = [
            {
                contestant: runner.rounds(1, "further_roles", (contestant,), roles, tls=is_tls)[contestant][0]
                for contestant, roles in FURTHER.items()
            }
            for _ in range(effort.repeat_long)
        ]
        figures[name] = {contestant: [each[contestant] for each in rounds] for contestant in FURTHER}
    for service in ("s3", "dynamodb"):
        few = dict.fromkeys(("xacct", "plain"), FILES_OF_ROLES)
        figures[service] = {name: [runner.run("further_roles", name, roles, service)] for name, roles in few.items()}
    figures["clients"] = runner.rounds(effort.repeat_long, "further_clients", LIBRARIES)
    figures["trust stores"] = runner.rounds(1, "trust_stores", ("xacct", "plain", "article"))
    return figures


def _many(runner: Runner, effort: Effort, hold: Hold) -> Figures:
    far = {"sts": STS_MILLISECONDS}
    figures: Figures = {}
    for name, is_tls in {"tls": True, "plaintext": False}.items():
        figures[name] = {
            str(workers): runner.rounds(effort.repeat, "many_roles", ("xacct",), workers, tls=is_tls, **far)["xacct"]
            for workers in WORKERS_AT_ONCE
        }
    figures["in turn"] = runner.rounds(1, "many_roles", LIBRARIES, "in-turn", **far)
    figures["accounts"] = {}
    for manner in ACCOUNT_MANNERS:
        runner.say(f"{ACCOUNTS} accounts, {manner}")
        repeat = 1 if manner == "botocove" else effort.repeat_long
        figures["accounts"][manner] = [
            runner.run("work", manner, "buckets", ACCOUNTS, module="tests.benchmarks.many_accounts")
            for _ in range(repeat)
        ]
    figures["starved"] = {
        str(workers): runner.rounds(rounds, "starved", ("xacct",), workers, hold=hold)["xacct"]
        for workers, rounds in (("default", 2), (50, 1))
    }
    return figures


def _life(runner: Runner, effort: Effort, _hold: Hold) -> Figures:
    return {
        "waits": {
            mode: runner.rounds(1, "waits", ("xacct",), mode, sts=milliseconds)["xacct"]
            for mode, milliseconds in STS_MODES.items()
        },
        "freezes": runner.rounds(1, "freezes", ("xacct",))["xacct"],
        "dead connection": runner.rounds(effort.repeat, "dead_connection", ("xacct",), sts=STS_MILLISECONDS)["xacct"],
        "calls": {str(seconds): runner.lives(seconds) for seconds in SESSION_SECONDS},
    }


def _imports(runner: Runner, effort: Effort, _hold: Hold) -> Figures:
    return {"ms": runner.rounds(effort.repeat, "imported", LIBRARIES), "modules": runner.modules()}


def _growth(runner: Runner, effort: Effort, _hold: Hold) -> Figures:
    return runner.rounds(1, "grown", WITH_SESSIONS, effort.most_roles)


SECTIONS: dict[str, Callable[[Runner, Effort, Hold], Figures]] = {
    "cold": _cold,
    "warm": _warm,
    "further": _further,
    "many": _many,
    "life": _life,
    "import": _imports,
    "growth": _growth,
}
