"""What the commands of this folder write into docs: tables, their places in pages, charts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[2] / "docs"


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table: the first column of words, the others of figures."""
    lines = [list(head), *map(list, rows)]
    lines.insert(1, ["---", *["---:"] * (len(lines[0]) - 1)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def filled(page: str, command: str, places: Mapping[str, str]) -> str:
    """Return a page with these texts in the places of a command, which comments mark."""
    for place, text in places.items():
        begin, end = f"<!-- {command} {place} -->\n", "<!-- end -->"
        if begin not in page:
            raise ValueError(f"the page has no place {place!r} of {command}")
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{text}\n\n{end}{rest.partition(end)[2]}"
    return page


def fill(name: str, command: str, places: Mapping[str, str]) -> None:
    """Write texts into the places of a command in a page of docs."""
    path = DOCS / name
    path.write_text(filled(path.read_text(encoding="utf-8"), command, places), encoding="utf-8")


def new_chart(width: float, height: float) -> Any:
    """Return an empty chart, in the style of all."""
    import matplotlib as mpl  # of the extra `benchmark`, which tables do without
    from matplotlib.figure import Figure

    mpl.rcParams.update(
        {
            "axes.spines.right": False,
            "axes.spines.top": False,
            "font.size": 10,
            "legend.frameon": False,
            "svg.fonttype": "none",
            "svg.hashsalt": "xacct_lambda",
        }
    )
    return Figure(figsize=(width, height), layout="constrained")


def save(chart: Any, path: Path) -> None:
    """Write a chart, the same bytes for the same figures."""
    chart.savefig(path, format="svg", metadata={"Date": None})
