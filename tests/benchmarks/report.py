"""From figures to what people read: a table of targets against measured, the details, a chart."""

from __future__ import annotations

import math
import os
import platform
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from .contestants import CONTESTANTS
from .measures import (
    COLD,
    LIBRARIES,
    SESSION_SECONDS,
    SIGNING,
    STS_MILLISECONDS,
    WARM_CALLS,
    WITH_SESSIONS,
    Effort,
    Figures,
    Sample,
    middle,
    paired,
)
from .page import new_chart, save, table
from .processor import SHARE
from .scenarios import MEMORY_LIMITS, ROLES_AT_ONCE, ROLES_TO_GROW, SIGNED_HOURS

COMMAND = "python -m tests.benchmarks"
CHART = "benchmarks.svg"

_PEERS = LIBRARIES[1:]
_OURS = LIBRARIES[0]
_LAMBDA_CORE_MEGABYTES = 1769


class Target(NamedTuple):
    """One row of the table of targets."""

    measure: str
    target: str
    measured: str
    met: bool


def _number(value: float) -> str:
    """Return a figure with three digits that count."""
    if value == 0:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 2)}f}"


def _at_most(measure: str, limit: float, value: float, unit: str) -> Target:
    return Target(measure, f"≤ {limit:g}{unit}", f"{_number(value)}{unit}", value <= limit)


def _at_least(measure: str, limit: float, value: float, unit: str) -> Target:
    return Target(measure, f"≥ {limit:,}{unit}", f"{_number(value)}{unit}", value >= limit)


def _title(name: str) -> str:
    return CONTESTANTS[name].title


def _cold_ms(sample: Sample) -> float:
    return sample["init_ms"] + sample["event_ms"]


def _megabytes_each(grown: Sample) -> float:
    """Return what each role after the first holds, over the steps that all contestants take in memory to spare."""
    first, *_, last = [step for step in grown["steps"] if step["roles"] < ROLES_TO_GROW[-1]]
    return (last["mb"] - first["mb"]) / (last["roles"] - first["roles"])


def targets(figures: Figures) -> list[Target]:
    """Compare with the targets."""
    megabytes = {name: _megabytes_each(samples[0]) for name, samples in figures.grown.items()}
    survivors = {name: middle(samples, "blocks") for name, samples in figures.surviving.items()}
    further = "each further role with an `s3` client"
    seventh = f"the same, the processor held to {SHARE:.2f} of a core after init"
    cold = f"cold start, STS {STS_MILLISECONDS} ms away, `prefetch=True`, of the article's handler"
    return [
        _at_most(
            "warm call of a handler with one client, over the bare handler", 2, middle(figures.warm[_OURS], "us"), " µs"
        ),
        _at_most(
            f"blocks of memory that {WARM_CALLS:,} warm calls leave, beyond those of a module global",
            0,
            survivors[_OURS] - survivors["global"],
            "",
        ),
        _at_least(
            "overhead of a warm call, the article's handler's over this library's",
            1000,
            paired(figures.warm["article"], figures.warm[_OURS], lambda sample: sample["us"]),
            " ×",
        ),
        _at_most(f"{further}: memory", 0.5, megabytes[_OURS], " MB"),
        _at_most(
            f"{further}: time, over that of a second client on one session",
            2,
            middle(figures.further[_OURS], "over_client"),
            " ×",
        ),
        *(
            _at_least(
                f"{further}: memory of {_title(peer)} over this library's", 20, megabytes[peer] / megabytes[_OURS], " ×"
            )
            for peer in _PEERS
        ),
        *(
            _at_least(
                f"{further}: time of {_title(peer)} over this library's",
                6,
                paired(figures.further[peer], figures.further[_OURS], lambda sample: sample["role_ms"]),
                " ×",
            )
            for peer in _PEERS
        ),
        _at_most(
            "`from xacct_lambda import assume_role` over `import boto3`",
            10,
            middle(figures.imported[_OURS], "ms"),
            " ms",
        ),
        _at_most(cold, 0.85, paired(figures.cold["xacct-prefetch"], figures.cold["article"], _cold_ms), " ×"),
        _at_most(seventh, 0.85, paired(figures.held["xacct-prefetch"], figures.held["article"], _cold_ms), " ×"),
        _at_least(
            f"{ROLES_AT_ONCE} roles at once, STS {STS_MILLISECONDS} ms away, against one after the other",
            8,
            paired(figures.many["in-turn"][_OURS], figures.many["at-once"][_OURS], lambda sample: sample["ms"]),
            " ×",
        ),
    ]


def _cold_rows(figures: Figures) -> Iterable[list[str]]:
    for name in COLD:
        row = [_title(name)]
        for samples in (figures.cold, figures.held):
            row += [
                _number(middle(samples[name], "init_ms")),
                _number(middle(samples[name], "event_ms")),
                f"{paired(samples[name], samples['article'], _cold_ms):.2f}",
            ]
        yield row


def _step_rows(figures: Figures) -> Iterable[list[str]]:
    ours, by_hand = figures.steps[_OURS], figures.steps["article"]
    for name in ours[0]:
        yield [name, _number(middle(by_hand, name)) if name in by_hand[0] else "", _number(middle(ours, name))]


def _life_rows(figures: Figures) -> Iterable[list[str]]:
    for name in SIGNING:
        yield [_title(name), *(_life(figures.life[seconds][name][0]) for seconds in SESSION_SECONDS)]
    span = SIGNED_HOURS * 3600
    yield ["the least possible", *(f"{math.ceil(span / seconds):,}" for seconds in SESSION_SECONDS)]


def _life(sample: Sample) -> str:
    expired = f" ({sample['expired']:,} signatures expired)" if sample["expired"] else ""
    return f"{sample['calls']:,}{expired}"


def _grown_rows(figures: Figures, figure: str, scale: float) -> Iterable[list[str]]:
    for name in WITH_SESSIONS:
        steps = figures.grown[name][0]["steps"]
        yield [_session_title(name), *(_number(step[figure] / scale) for step in steps)]


def _fits_rows(figures: Figures) -> Iterable[list[str]]:
    for name in WITH_SESSIONS:
        grown = figures.grown[name][0]
        fits = [grown["fits"].get(str(limit)) for limit in MEMORY_LIMITS]
        yield [_session_title(name), *(f"> {grown['most']:,}" if count is None else f"{count:,}" for count in fits)]


def _session_title(name: str) -> str:
    return "more clients on one session" if name == "global" else _title(name)


def _many_rows(figures: Figures) -> Iterable[list[str]]:
    for name in LIBRARIES:
        at_once = figures.many["at-once"].get(name)
        yield [
            _title(name),
            _number(middle(figures.many["in-turn"][name], "ms")),
            _number(middle(at_once, "ms")) if at_once else "",
        ]


def _modules(figures: Figures) -> str:
    """Return what the import brings in; what of it boto3 needs anyway is told where there is any."""
    head = ["module", "ms of its own (traced, one run)"]
    rows = [[f"`{name}`", f"{ms:.2f}"] for name, ms, _ in figures.modules]
    needed = [needed for _, _, needed in figures.modules]
    if any(needed):
        head.append("boto3 needs it for one request anyway")
        rows = [[*row, "yes" if anyway else ""] for row, anyway in zip(rows, needed, strict=True)]
    return table(head, rows)


def _machine() -> str:
    found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    model = found[1] if found else platform.machine()
    gigabytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    return f"{os.cpu_count()} × {model}, {gigabytes:.0f} GB of memory, {platform.system()} {platform.release()}"


def _versions() -> str:
    ours = ["xacct-lambda", "boto3", "botocore", "cachetools"]
    peers = [CONTESTANTS[name].distribution for name in _PEERS]
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in [*ours, *peers])])


def markdown(figures: Figures, effort: Effort, *, load: float, minutes: float, means: str) -> str:
    """Return the page."""
    rows = targets(figures)
    missed = [row.measure for row in rows if not row.met]
    cold_head = (
        "ms",
        "init",
        "first event",
        "of the article's",
        f"init, then {SHARE:.2f} of a core",
        "first event",
        "of the article's",
    )
    figure_rows: dict[str, Any] = {name: figures.further[name] for name in LIBRARIES}
    return f"""# Benchmarks

This page is written by one command, about {minutes:.0f} minutes long:

```console
$ pip install -e '.[benchmark]'
$ {COMMAND}
```

Every figure is the median of {effort.repeat} runs in fresh processes ({effort.repeat_cold} for a cold start whose
processor is not held, {effort.repeat_long} for further roles and for many at once), unless said otherwise; ratios are
taken within a round, the contestants of which run one after the other.
STS and S3 are a local server without TLS, so that neither side's time contains the network; where STS is
"{STS_MILLISECONDS} ms away", that server sleeps for so long.

- Measured {datetime.now(UTC):%Y-%m-%d}; load average at the start {load:.2f}
- {_machine()}
- {_versions()}

## Targets

{len(rows) - len(missed)} of {len(rows)} are met.

{table(("measure", "target", "measured", ""), ((*row[:3], "met" if row.met else "**missed**") for row in rows))}

## Cold start

From the first import to the answer to the first event, which asks S3 for a list of buckets; STS {STS_MILLISECONDS} ms
away. The second half of the table holds the processor to a seventh of a core once the handler is imported, as a
function of {_LAMBDA_CORE_MEGABYTES * SHARE:.0f} MB has it; here by {means}.

{table(cold_head, _cold_rows(figures))}

Where it goes: the same steps one after the other, by hand and as this library takes them. With `prefetch=True`
AssumeRole runs beside the making of the S3 client. Nothing else can run beside it, since the call needs the session and
the STS client, and these need `import boto3`; so they are made with a loader that reads botocore's models in less time.

{table(("ms", "by hand", "xacct_lambda"), _step_rows(figures))}

## Warm calls

{
        table(
            ("µs over the bare handler", "per call"),
            ([_title(name), _number(middle(samples, "us"))] for name, samples in figures.warm.items()),
        )
    }

{
        table(
            ("µs to look up the credentials that a request is signed with", "per signature"),
            ([_title(name), _number(middle(samples, "us"))] for name, samples in figures.signature.items()),
        )
    }

## Further roles

Each a session with an `s3` client; in turn with each, one more client is made on one plain session.

{
        table(
            ("each further role", "ms", "its session alone, ms", "a client on one session, ms", "MB"),
            (
                [
                    _title(name),
                    *(_number(middle(samples, figure)) for figure in ("role_ms", "session_ms", "client_ms")),
                    _number(_megabytes_each(figures.grown[name][0])),
                ]
                for name, samples in figure_rows.items()
            ),
        )
    }

![Memory and time against the number of roles]({CHART})

The sweep is one run for each contestant; all sessions and clients are kept.

{table(("resident MB with so many roles", *map(str, ROLES_TO_GROW)), _grown_rows(figures, "mb", 1))}

{table(("seconds to get there", *map(str, ROLES_TO_GROW)), _grown_rows(figures, "ms", 1000))}

{table(("roles that fit", *(f"{limit} MB" for limit in MEMORY_LIMITS)), _fits_rows(figures))}

The process alone is counted; Lambda's runtime takes its part of a function's memory too.

## Many roles at once

Milliseconds until {ROLES_AT_ONCE} roles have credentials, STS {STS_MILLISECONDS} ms away; the peers one run each.

{table(("ms", "one after the other", "at once"), _many_rows(figures))}

## Life cycle

AssumeRole calls in {SIGNED_HOURS} hours of one signature a second, by a clock that is set by hand.

{table(("sessions of", *(f"{seconds} s" for seconds in SESSION_SECONDS)), _life_rows(figures))}

## Import

What `from xacct_lambda import assume_role` adds to `import boto3`: {_number(middle(figures.imported[_OURS], "ms"))} ms.

{_modules(figures)}

{
        table(
            ("import over `import boto3`", "ms"),
            ([_title(name), _number(middle(samples, "ms"))] for name, samples in figures.imported.items()),
        )
    }
"""


def draw(figures: Figures, path: Path) -> None:
    """Write the chart of memory and time against the number of roles."""
    chart = new_chart(10, 4.2)
    memory, time = chart.subplots(1, 2)
    for name in WITH_SESSIONS:
        steps = figures.grown[name][0]["steps"]
        roles = [step["roles"] for step in steps]
        style = "--" if name == "global" else "-"
        memory.plot(roles, [step["mb"] for step in steps], style, marker="o", label=_session_title(name))
        time.plot(roles, [step["ms"] / 1000 for step in steps], style, marker="o")
    for limit in MEMORY_LIMITS:
        memory.axhline(limit, color="0.85", linewidth=1, zorder=0)
    for axes, title in ((memory, "resident memory, MB"), (time, "time to make them, s")):
        axes.set(title=title, xlabel="roles, each with an s3 client", xscale="log", yscale="log")
        axes.set_xticks(ROLES_TO_GROW, map(str, ROLES_TO_GROW))
        axes.minorticks_off()
        axes.yaxis.set_major_formatter("{x:g}")
    memory.set_yticks((*MEMORY_LIMITS, 1024, 2048))
    memory.legend()
    save(chart, path)
