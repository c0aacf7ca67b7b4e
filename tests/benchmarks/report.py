"""From figures to what people read: a table of targets, the details of each section, a chart."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from .contestants import CONTESTANTS
from .measures import (
    ACCOUNTS,
    COLD,
    FILES_OF_ROLES,
    FURTHER,
    LIBRARIES,
    SESSION_SECONDS,
    SIGNING,
    STS_MILLISECONDS,
    STS_MODES,
    WARM_CALLS,
    WITH_SESSIONS,
    WORKERS_AT_ONCE,
    Effort,
    Figures,
    Sample,
    middle,
    paired,
)
from .page import new_chart, save, table
from .processor import SHARE
from .scenarios import FURTHER_ACCOUNTS, MEMORY_LIMITS, ROLES_AT_ONCE, ROLES_TO_GROW, SIGNED_HOURS, STARVED_ROLES

COMMAND = "python -m tests.benchmarks"
CHART = "benchmarks.svg"

_PEERS = LIBRARIES[1:]
_OURS = LIBRARIES[0]
_FURTHER = "TLS: a further role with an `s3` client and its first request"
_HOST_POOLS = 64
"""Hosts for which the library keeps connections."""
_MODE_TITLES = {
    "slow": f"answers after {STS_MODES['slow']} ms",
    "throttle": "throttles",
    "hang": "never answers",
    "trickle": "sends a byte every 0.3 s",
}


class Target(NamedTuple):
    """One row of the table of targets."""

    measure: str
    target: str
    measured: str
    met: bool


def _number(value: float) -> str:
    """Return a figure with three significant digits."""
    if value == int(value):
        return f"{value:,.0f}"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 3 if abs(value) < 0.1 else 2)}f}"


def _at_most(measure: str, limit: float, value: float, unit: str = "", *, shown: str | None = None) -> Target:
    return Target(measure, f"≤ {shown or f'{limit:g}'}{unit}", f"{_number(value)}{unit}", value <= limit)


def _at_least(measure: str, limit: float, value: float, unit: str) -> Target:
    return Target(measure, f"≥ {limit:,}{unit}", f"{_number(value)}{unit}", value >= limit)


def _title(name: str) -> str:
    return CONTESTANTS[name].title


def _cold(name: str) -> Callable[[Sample], float]:
    """Return what adds up a figure of both phases of a cold start."""
    return lambda sample: sample[f"init_{name}"] + sample[f"event_{name}"]


def _value(name: str) -> Callable[[Sample], float]:
    return lambda sample: sample[name]


# --- Sections: the targets of each, and its text ----------------------------------------------------------------------


def _cold_targets(figures: Figures) -> Iterable[Target]:
    whole, small = figures["whole"], figures["small"]
    first = f"TLS: first event after init, STS {STS_MILLISECONDS} ms away, of the article's"

    def ratio(samples: Any, figure: Callable[[Sample], float]) -> float:
        return paired(samples[_OURS], samples["article"], figure)

    yield _at_most(f"{first}: CPU time", 0.08, ratio(whole, _value("event_cpu_ms")), " ×")
    yield _at_most(f"{first}: time", 0.25, ratio(whole, _value("event_ms")), " ×")
    yield _at_most(
        f"{first}: CPU time, {SHARE:.2f} of a core after init", 0.08, ratio(small, _value("event_cpu_ms")), " ×"
    )
    yield _at_most(
        "TLS: whole cold start on a whole core, of the article's: time", 0.8, ratio(whole, _cold("ms")), " ×"
    )


def _cold_text(figures: Figures) -> str:
    def rows(samples: Any) -> Iterable[list[str]]:
        for name in COLD:
            yield [
                _title(name),
                *(
                    _number(middle(samples[name], figure))
                    for figure in ("init_ms", "init_cpu_ms", "event_ms", "event_cpu_ms")
                ),
                f"{paired(samples[name], samples['article'], _value('event_cpu_ms')):.2f}",
                f"{paired(samples[name], samples['article'], _cold('ms')):.2f}",
            ]

    head = (
        "ms",
        "init",
        "init, CPU",
        "first event",
        "first event, CPU",
        "of the article's CPU",
        "init and event, of the article's",
    )
    ours, by_hand = figures["steps"][_OURS], figures["steps"]["article"]
    steps = (
        [name, _number(middle(by_hand, name)) if name in by_hand[0] else "", _number(middle(ours, name))]
        for name in ours[0]
    )
    return f"""## Cold start

From the first import to the answer to the first event, which lists S3 buckets. STS is {STS_MILLISECONDS} ms away.
CPU time is that of the whole process. What a thread of the init phase uses after init counts as the first event's.

On a whole core, with TLS:

{table(head, rows(figures["whole"]))}

With {SHARE:.2f} of a core from the end of init on, as a function of 128 MB has it, with TLS:

{table(head, rows(figures["small"]))}

On a whole core, without TLS:

{table(head, rows(figures["plaintext"]))}

The same steps one after the other, by hand and as this library takes them, with TLS. In a cold start, AssumeRole runs
while the S3 client is created. The call needs boto3, the session, and the STS client, so these come first.

{table(("ms", "by hand", "xacct_lambda"), steps)}"""


def _warm_targets(figures: Figures) -> Iterable[Target]:
    survivors = {name: middle(samples, "blocks") for name, samples in figures["surviving"].items()}
    plaintext = figures["plaintext"]
    warm = "warm call of a handler with one client, over the bare handler"
    yield _at_most(warm, 2, middle(plaintext[_OURS], "us"), " µs")
    yield _at_most(f"{warm}: called by keyword", 5, middle(figures["keyword"][_OURS], "us"), " µs")
    yield _at_most(
        f"memory blocks that {WARM_CALLS:,} warm calls leave, more than a module global's",
        0,
        survivors[_OURS] - survivors["global"],
    )
    yield _at_least(
        "without TLS: overhead of a warm event, the article's handler over this library",
        1000,
        paired(plaintext["article"], plaintext[_OURS], _value("us")),
        " ×",
    )


def _warm_text(figures: Figures) -> str:
    def row(name: str) -> list[str]:
        keyword, tls = figures["keyword"].get(name), figures["tls"].get(name)
        return [
            _title(name),
            _number(middle(figures["plaintext"][name], "us")),
            _number(middle(keyword, "us")) if keyword else "",
            _number(middle(tls, "us")) if tls else "",
        ]

    signatures = figures["signature"].items()
    return f"""## Warm calls

A warm call of this library sends nothing, so TLS makes no difference. The article's handler calls STS for each event.

{
        table(
            ("µs over the bare handler", "per call", "called by keyword", "with TLS"),
            (row(name) for name in figures["plaintext"]),
        )
    }

{
        table(
            ("µs to look up the credentials that sign a request", "per signature"),
            ([_title(name), _number(middle(samples, "us"))] for name, samples in signatures),
        )
    }"""


def _further_targets(figures: Figures) -> Iterable[Target]:
    tls, clients, loads = figures["tls"], figures["clients"], figures["trust stores"][_OURS][0]
    cpu = _value("cpu_ms")
    yield _at_most(f"{_FURTHER}: CPU time, of the article's", 0.25, paired(tls[_OURS], tls["article"], cpu), " ×")
    for peer in _PEERS:
        yield _at_most(
            f"{_FURTHER}: CPU time, of {_title(peer)}'s",
            1 / 12,
            paired(tls[_OURS], tls[peer], cpu),
            " ×",
            shown="0.083",
        )
    yield _at_most(f"{_FURTHER}: memory", 0.4, middle(tls[_OURS], "mb"), " MB")
    yield _at_most(
        f"file descriptors that {FILES_OF_ROLES} further roles add: S3", 0, middle(figures["s3"][_OURS], "files")
    )
    yield _at_most(
        f"file descriptors that {FILES_OF_ROLES} further roles add: DynamoDB, one host for each account",
        _HOST_POOLS,
        middle(figures["dynamodb"][_OURS], "files"),
    )
    for phase, title, limit in (
        ("init", "init", 1),
        ("event", "first event", 0),
        ("accounts", f"{FURTHER_ACCOUNTS} more accounts", 0),
    ):
        yield _at_most(f"trust store loads: {title}", limit, loads[phase])
    plain = "without TLS: a further role with an `s3` client"
    yield _at_most(f"{plain}: memory", 0.3, middle(clients[_OURS], "mb"), " MB")
    yield _at_most(
        f"{plain}: time, of a second client on one session's", 1, middle(clients[_OURS], "over_client"), " ×"
    )


def _further_text(figures: Figures) -> str:
    def rows() -> Iterable[list[str]]:
        for name in FURTHER:
            tls, plaintext = figures["tls"][name], figures["plaintext"][name]
            yield [
                _title(name),
                *(_number(middle(tls, figure)) for figure in ("cpu_ms", "ms", "mb")),
                _number(middle(tls, "connections") / FURTHER[name]),
                _number(middle(plaintext, "cpu_ms")),
                _number(middle(plaintext, "mb")),
            ]

    def file_rows() -> Iterable[list[str]]:
        for name in figures["s3"]:
            yield [
                _title(name),
                *(
                    str(figures[service][name][0][figure])
                    for service in ("s3", "dynamodb")
                    for figure in ("files", "connections")
                ),
            ]

    loads = figures["trust stores"]
    return f"""## Further roles

Each role has its own account: AssumeRole, a client, and its first request. STS answers at once. All clients are kept.

{
        table(
            (
                "each further role",
                "CPU ms",
                "ms",
                "MB",
                "connections",
                "CPU ms without TLS",
                "MB without TLS",
            ),
            rows(),
        )
    }

How often a trust store is loaded, counted at `SSLContext.load_verify_locations`. One load takes 15 to 45 ms of CPU
time.

{
        table(
            ("loads", "init", "first event", f"{FURTHER_ACCOUNTS} more accounts"),
            (
                [_title(name), *(str(samples[0][phase]) for phase in ("init", "event", "accounts"))]
                for name, samples in loads.items()
            ),
        )
    }

What {FILES_OF_ROLES} further roles add. The hosts of DynamoDB have the account's number in their names, so each account
needs its own connection. The library keeps connections to {_HOST_POOLS} hosts.

{
        table(
            (
                "library",
                "S3: file descriptors",
                "S3: connections",
                "DynamoDB: file descriptors",
                "DynamoDB: connections",
            ),
            file_rows(),
        )
    }

Sessions and clients only, without requests. In turn with each role, one more client is created on one plain session.

{
        table(
            ("each further role", "ms", "its session only, ms", "a client on one session, ms", "MB"),
            (
                [
                    _title(name),
                    *(_number(middle(samples, figure)) for figure in ("role_ms", "session_ms", "client_ms", "mb")),
                ]
                for name, samples in figures["clients"].items()
            ),
        )
    }"""


def _many_targets(figures: Figures) -> Iterable[Target]:
    for workers in WORKERS_AT_ONCE:
        waves = math.ceil(ROLES_AT_ONCE / workers)
        yield _at_most(
            f"{ROLES_AT_ONCE} roles at once with {workers} workers, STS {STS_MILLISECONDS} ms away",
            2 * waves * STS_MILLISECONDS,
            middle(figures["plaintext"][str(workers)], "ms"),
            " ms",
        )
    accounts = {name: middle(samples, "cpu_s") for name, samples in figures["accounts"].items()}
    many = f"TLS: {ACCOUNTS} accounts with one request each: CPU time, of"
    yield _at_most(f"{many} botocove's", 1 / 8, accounts["at-once"] / accounts["botocove"], " ×", shown="0.125")
    yield _at_most(
        f"{many} the same loop's with one plain client per role", 0.45, accounts["at-once"] / accounts["plain"], " ×"
    )
    yield _at_most(
        f"TLS: {SHARE:.2f} of a core, {STARVED_ROLES} roles at once: roles that fail",
        0,
        max(sample["failures"] for sample in figures["starved"]["default"]),
    )


def _many_text(figures: Figures) -> str:
    in_turn = figures["in turn"]
    rows = [
        [f"xacct_lambda, {workers} workers", *(_number(middle(figures[name][str(workers)], "ms")) for name in _TLS)]
        for workers in WORKERS_AT_ONCE
    ]
    rows += [[f"{_title(name)}, one after the other", _number(middle(in_turn[name], "ms")), ""] for name in LIBRARIES]
    titles = {
        "at-once": "`for_each_account`",
        "plain": "32 threads, one plain client per role on one session",
        "botocove": "botocove",
    }
    starved = [
        [
            f"{workers} workers" if workers != "default" else "default workers",
            ", ".join(str(sample["failures"]) for sample in samples),
            _number(middle(samples, "ms") / 1e3),
            _number(middle(samples, "cpu_ms") / 1e3),
        ]
        for workers, samples in figures["starved"].items()
    ]
    return f"""## Many roles at once

Milliseconds until {ROLES_AT_ONCE} roles have credentials, STS {STS_MILLISECONDS} ms away. With TLS, each worker opens a
connection first.

{table(("ms", "TLS", "without TLS"), rows)}

{ACCOUNTS} accounts with one `list_buckets` each, with TLS:

{
        table(
            ("library", "CPU s", "s", "MB kept", "MB at most"),
            (
                [
                    titles[name],
                    *(_number(middle(samples, figure)) for figure in ("cpu_s", "s", "mb", "peak_mb")),
                ]
                for name, samples in figures["accounts"].items()
            ),
        )
    }

{STARVED_ROLES} accounts with one `list_buckets` each and {SHARE:.2f} of a core, with TLS:

{table(("library", "roles that failed in each run", "s", "CPU s"), starved)}"""


_TLS = ("tls", "plaintext")


def _life_targets(figures: Figures) -> Iterable[Target]:
    for mode, samples in figures["waits"].items():
        yield _at_most(
            f"signatures that wait while more than 60 s are left, if STS {_MODE_TITLES[mode]}",
            0,
            max(sample["waits"] for sample in samples),
        )
    yield _at_most(
        "signatures that wait for one set of credentials, if STS never answers and a freeze follows each event",
        1,
        max(sample["waits"] for sample in figures["freezes"]),
    )
    dead = figures["dead connection"]
    yield _at_most(
        "refresh over a silently dead connection, of a call over a new one",
        2,
        median(sample["refresh_ms"] / sample["fresh_ms"] for sample in dead),
        " ×",
    )
    yield _at_most("the same: requests", 1, max(sample["requests"] for sample in dead))


def _life_text(figures: Figures) -> str:
    waits = [[f"STS {_MODE_TITLES[mode]}", *_wait_cells(samples[0])] for mode, samples in figures["waits"].items()]
    waits.append(["STS never answers, a freeze of 60 s after each event", *_wait_cells(figures["freezes"][0])])
    span = SIGNED_HOURS * 3600
    calls = [
        [_title(name), *(_calls(figures["calls"][str(seconds)][name][0]) for seconds in SESSION_SECONDS)]
        for name in SIGNING
    ]
    calls.append(["the fewest possible", *(f"{math.ceil(span / seconds):,}" for seconds in SESSION_SECONDS)])
    dead = figures["dead connection"]
    return f"""## Life cycle

Signatures from the start of the refresh window (15 minutes before expiry) until 65 seconds are left. The clock is set
by hand, and runs about 200 times as fast as STS answers. A signature that takes more than 50 ms has waited.

{table(("library", "signatures", "waits", "longest, ms", "requests"), waits)}

STS is {STS_MILLISECONDS} ms away, and its connection has silently been dead for 58 minutes. A refresh then takes
{_number(middle(dead, "refresh_ms"))} ms, and a call over a new connection {_number(middle(dead, "fresh_ms"))} ms.

AssumeRole calls in {SIGNED_HOURS} hours of one signature a second, by a clock that is set by hand:

{table(("sessions of", *(f"{seconds} s" for seconds in SESSION_SECONDS)), calls)}"""


def _wait_cells(sample: Sample) -> list[str]:
    return [
        str(sample["signatures"]),
        str(sample["waits"]),
        _number(sample["longest_ms"]),
        str(sample["requests"]),
    ]


def _calls(sample: Sample) -> str:
    expired = f" ({sample['expired']:,} signatures expired)" if sample["expired"] else ""
    return f"{sample['calls']:,}{expired}"


def _import_targets(figures: Figures) -> Iterable[Target]:
    yield _at_most(
        "`from xacct_lambda import assume_role` over `import boto3`", 10, middle(figures["ms"][_OURS], "ms"), " ms"
    )


def _import_text(figures: Figures) -> str:
    head = ["module", "its own ms (traced, one run)"]
    rows = [[f"`{name}`", f"{ms:.2f}"] for name, ms, _ in figures["modules"]]
    needed = [needed for _, _, needed in figures["modules"]]
    if any(needed):
        head.append("boto3 needs it for one request anyway")
        rows = [[*row, "yes" if anyway else ""] for row, anyway in zip(rows, needed, strict=True)]
    return f"""## Import

What `from xacct_lambda import assume_role` adds to `import boto3`: {_number(middle(figures["ms"][_OURS], "ms"))} ms.

{table(head, rows)}

{
        table(
            ("import over `import boto3`", "ms"),
            ([_title(name), _number(middle(samples, "ms"))] for name, samples in figures["ms"].items()),
        )
    }"""


def _growth_targets(_figures: Figures) -> Iterable[Target]:
    return ()


def _growth_text(figures: Figures) -> str:
    def grown(figure: str, scale: float) -> Iterable[list[str]]:
        for name in WITH_SESSIONS:
            yield [_session_title(name), *(_number(step[figure] / scale) for step in figures[name][0]["steps"])]

    def fits() -> Iterable[list[str]]:
        for name in WITH_SESSIONS:
            sample = figures[name][0]
            counts = [sample["fits"].get(str(limit)) for limit in MEMORY_LIMITS]
            yield [_session_title(name), *(f"> {sample['most']:,}" if n is None else f"{n:,}" for n in counts)]

    return f"""## Growth

Sessions with an `s3` client, without requests. One run for each contestant; all sessions and clients are kept.

![Memory and time against the number of roles]({CHART})

{table(("resident MB with so many roles", *map(str, ROLES_TO_GROW)), grown("mb", 1))}

{table(("seconds to get there", *map(str, ROLES_TO_GROW)), grown("ms", 1000))}

{table(("roles that fit", *(f"{limit} MB" for limit in MEMORY_LIMITS)), fits())}

Only the process is counted. Lambda's runtime uses a part of a function's memory too."""


def _session_title(name: str) -> str:
    return "more clients on one session" if name == "global" else _title(name)


class _Section(NamedTuple):
    targets: Callable[[Figures], Iterable[Target]]
    text: Callable[[Figures], str]


_SECTIONS = {
    "cold": _Section(_cold_targets, _cold_text),
    "further": _Section(_further_targets, _further_text),
    "many": _Section(_many_targets, _many_text),
    "life": _Section(_life_targets, _life_text),
    "warm": _Section(_warm_targets, _warm_text),
    "import": _Section(_import_targets, _import_text),
    "growth": _Section(_growth_targets, _growth_text),
}


# --- The page ---------------------------------------------------------------------------------------------------------


def targets(figures: Mapping[str, Figures]) -> list[Target]:
    """Return the targets of the sections that were measured."""
    return [row for name, section in _SECTIONS.items() if name in figures for row in section.targets(figures[name])]


def body(figures: Mapping[str, Figures]) -> str:
    """Return the table of targets and the texts of the sections that were measured."""
    rows = targets(figures)
    met = sum(row.met for row in rows)
    texts = [section.text(figures[name]) for name, section in _SECTIONS.items() if name in figures]
    cells = ((*row[:3], "met" if row.met else "**missed**") for row in rows)
    return "\n\n".join(
        [
            "## Targets",
            f"{met} of {len(rows)} are met.",
            table(("measure", "target", "measured", "result"), cells),
            *texts,
        ]
    )


def _machine() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    model = found[1] if found else platform.machine()
    gigabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{os.cpu_count()} × {model}, {gigabytes:.0f} GB of memory, {platform.system()} {platform.release()}"


def _versions() -> str:
    import ssl

    def found(name: str) -> str:
        try:
            return f"{name} {version(name)}"
        except PackageNotFoundError:
            return f"{name} of the source tree"

    peers = [CONTESTANTS[name].distribution for name in _PEERS]
    names = ["xacct-lambda", "boto3", "botocore", "urllib3", "cachetools", "certifi", *peers, "botocove"]
    openssl = " ".join(ssl.OPENSSL_VERSION.split()[:2])
    return ", ".join([f"Python {platform.python_version()}", openssl, *map(found, names)])


def markdown(figures: Mapping[str, Figures], effort: Effort, *, load: float, minutes: float, means: str) -> str:
    """Return the page."""
    return f"""# Benchmarks

One command writes this page. It takes about {minutes:.0f} minutes:

```console
$ pip install -e '.[benchmark]'
$ {COMMAND}
```

A local server takes the part of STS, S3, and DynamoDB. Its certificate is signed by a CA of the benchmark. The trust
store of all contestants is certifi's bundle plus this CA, so that it has a real size. All figures are with TLS, unless
they say "without TLS".

How to read the figures, unless a section says otherwise:

- A figure is the median of {effort.repeat} runs in fresh processes. It is the median of {effort.repeat_cold} for a cold
  start on a whole core, and of {effort.repeat_long} for measures that take seconds.
- Ratios compare contestants of one round, which run one after the other.
- "CPU" is the CPU time of all threads of the process. A small function has little of it.
- If STS is "{STS_MILLISECONDS} ms away", the server waits before it answers.
- A limit of {SHARE:.2f} of a core is set by {means}.

This run:

- Measured {datetime.now(UTC):%Y-%m-%d}; load average at the start {load:.2f}
- {_machine()}
- {_versions()}

{body(figures)}
"""


def draw(figures: Figures, path: Path) -> None:
    """Write the chart of memory and time against the number of roles."""
    chart = new_chart(10, 4.2)
    memory, time = chart.subplots(1, 2)
    for name in WITH_SESSIONS:
        steps = figures[name][0]["steps"]
        roles = [step["roles"] for step in steps]
        style = "--" if name == "global" else "-"
        memory.plot(roles, [step["mb"] for step in steps], style, marker="o", label=_session_title(name))
        time.plot(roles, [step["ms"] / 1000 for step in steps], style, marker="o")
    for limit in MEMORY_LIMITS:
        memory.axhline(limit, color="0.85", linewidth=1, zorder=0)
    for axes, title in ((memory, "resident memory, MB"), (time, "time to create them, s")):
        axes.set(title=title, xlabel="roles, each with an s3 client", xscale="log", yscale="log")
        axes.set_xticks(ROLES_TO_GROW, map(str, ROLES_TO_GROW))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
    memory.set_yticks((*MEMORY_LIMITS, 1024, 2048))
    memory.legend()
    save(chart, path)
