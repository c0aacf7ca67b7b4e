"""``python -m tests.benchmarks``: measure the library beside its peers, print the tables, write the page of docs."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from rich.console import Console
from rich.markdown import Markdown

from .aws import local_aws
from .measures import Effort, Runner, measure
from .page import DOCS
from .processor import held_processor
from .report import CHART, COMMAND, draw, markdown

_DEFAULT = Effort(repeat=7, repeat_cold=21, repeat_long=3, most_roles=2000, warm_rounds=30)
_QUICK = Effort(repeat=1, repeat_cold=1, repeat_long=1, most_roles=60, warm_rounds=5)


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one run of each and a short sweep, to see that all works")
    parser.add_argument("--output", type=Path, default=DOCS, help="folder for the page and its chart")
    arguments = parser.parse_args()
    effort = _QUICK if arguments.quick else _DEFAULT

    console = Console()
    load = os.getloadavg()[0]
    started = time.monotonic()
    with local_aws() as endpoints, held_processor() as (means, hold), console.status("") as status:
        figures = measure(Runner(endpoints, status.update), effort, hold)
    minutes = (time.monotonic() - started) / 60
    page = markdown(figures, effort, load=load, minutes=minutes, means=means)
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / "benchmarks.md").write_text(page, encoding="utf-8")
    draw(figures, arguments.output / CHART)
    console.print(Markdown(page))


if __name__ == "__main__":
    main()
