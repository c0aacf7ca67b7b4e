"""``python -m tests.benchmarks``: measure the library beside its peers, and write docs/benchmarks.md.

With names of sections, measure only these and print their tables.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from .aws import local_aws
from .measures import SECTIONS, Effort, Figures, Runner
from .page import DOCS
from .processor import held_processor
from .report import CHART, COMMAND, body, draw, markdown

_DEFAULT = Effort(repeat=5, repeat_cold=11, repeat_long=3, most_roles=2000, warm_rounds=30)
_QUICK = Effort(repeat=1, repeat_cold=1, repeat_long=1, most_roles=60, warm_rounds=5)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure the library beside its peers.")
    parser.add_argument("section", nargs="*", choices=[[], *SECTIONS], help="measure only these, and write no page")
    parser.add_argument("--quick", action="store_true", help="one run of each and a short sweep, to see that all works")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder for the page and its chart")
    parser.add_argument("--figures", type=Path, help="JSON file that also gets what was measured")
    arguments = parser.parse_args()
    effort = _QUICK if arguments.quick else _DEFAULT

    console = Console()
    load = os.getloadavg()[0]
    started = time.monotonic()
    figures: dict[str, Figures] = {}
    with local_aws() as endpoints, held_processor() as (means, hold), console.status("") as status:
        runner = Runner(endpoints, status.update)
        for name in arguments.section or SECTIONS:
            begun = time.monotonic()
            figures[name] = SECTIONS[name](runner, effort, hold)
            console.log(f"{name}: {time.monotonic() - begun:.0f} s")
    # As if they came from the file, so that both are read the same way.
    text = json.dumps(figures, indent=1)
    figures = json.loads(text)
    if arguments.figures:
        arguments.figures.write_text(text, encoding="utf-8")
    if arguments.section:
        console.print(Markdown(body(figures)))
        return
    minutes = (time.monotonic() - started) / 60
    page = markdown(figures, effort, load=load, minutes=minutes, means=means)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "benchmarks.md").write_text(page, encoding="utf-8")
    draw(figures["growth"], arguments.output / CHART)
    console.print(Markdown(page))


if __name__ == "__main__":
    main()
