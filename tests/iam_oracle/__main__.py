"""Print a table of the calls about which the test AWS and the simulator disagree, by cause."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict

from .calls import Call, answer, random_calls
from .causes import DANGEROUS, SAFE, cause
from .simulator import UnavailableError, simulate


def main() -> int:
    """Compare random calls. The status is 1 if a disagreement has no documented cause, 2 without the simulator."""
    parser = argparse.ArgumentParser(prog="python -m tests.iam_oracle", description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="number of calls (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of the random policies (default: %(default)s)")
    parser.add_argument("--show", metavar="CAUSE", help="print examples of a cause, such as 'unexplained'")
    arguments = parser.parse_args()
    try:
        outcomes, examples = compare(random_calls(arguments.requests, arguments.seed))
    except UnavailableError as error:
        print(f"iam_oracle: {error}", file=sys.stderr)  # noqa: T201 - a command
        return 2
    if arguments.show:
        for call, ours, theirs in examples[arguments.show][:5]:
            print(json.dumps(call.for_simulator(), indent=1), ours, theirs, sep="\n", end="\n\n")  # noqa: T201
    print(table(outcomes, arguments.seed))  # noqa: T201
    return int(any("unexplained" in name for name in outcomes))


Example = tuple[Call, str, str]


def compare(calls: list[Call]) -> tuple[Counter[str], dict[str, list[Example]]]:
    """Return how often each outcome occurs, and examples of it."""
    outcomes: Counter[str] = Counter()
    examples: dict[str, list[Example]] = defaultdict(list)
    for call, theirs in zip(calls, simulate(call.for_simulator() for call in calls), strict=True):
        ours = answer(call)
        if "failed" in theirs:
            raise RuntimeError(theirs["failed"])
        is_granted = "results" in theirs and set(theirs["results"].values()) == {"Allowed"}
        if ours.is_granted == is_granted:
            name = "both grant" if is_granted else "both refuse"
        else:
            direction = DANGEROUS if ours.is_granted else SAFE
            found = cause(call, ours)
            name = f"{direction}: {found}"
            examples[found].append((call, ours.reason, json.dumps(theirs)))
        outcomes[name] += 1
    return outcomes, examples


def table(outcomes: Counter[str], seed: int) -> str:
    """Return the outcomes as a table."""
    lines = [f"{outcomes.total():,} random calls, seed {seed}", ""]
    lines += [
        f"{count:>7,}  {name}" for name, count in sorted(outcomes.items(), key=lambda item: (item[0][:7], -item[1]))
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
