"""The prose of the project: documentation, docstrings, comments, and messages, held to plain technical English.

    python -m tests.prose               print what is measured
    python -m tests.prose --habits FILE print the sentences of a file that break a rule
    python -m tests.prose --lower       lower the ceilings in tests/prose_ceilings.json to what is measured

A ceiling is the number of sentences of a file that break a rule. It only falls: see tests/test_prose.py.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PROJECT = Path(__file__).parents[1]
CEILINGS = PROJECT / "tests" / "prose_ceilings.json"

HABITS = {
    "alone for only": r"\b(?!leave|let|stand|is|all)\w+ alone\b",
    "in the place of": r"\bin (?:the|its|their|your) place(?: of)?\b",
    "where for if": r"^Where\b|; where\b|, where (?:there|the|it|STS|that|no|one|a|an|what|who)\b",
    "a clause as the subject": r"^(?:What|Whoever|Who|Whatever|Whichever) (?!is (?:the|a)\b)(?![^?]*\?)",
    "those or that without a noun": r"\b[Tt]hose (?:of|that|who|which|here|are|it|a)\b"
    r"|\b(?:those|these|such)[.,:](?:\s|$)|(?:is|are|as|than|not|from|with|to) that of\b",
    "others without a noun": r"\b(?:others|another|none)"
    r"(?= (?:is|are|was|were|has|have|does|do|did|will|can|may|must)\b)|\b(?:others|another|none)\.(?:\s|$)",
    "as of, as where": r", as (?:of|where|without|in|from|for|with)\b",
    "a thing that stands or lives": r"\b(?:stands?|stood|dies|lives? (?!for|longer|no)|goes along)\b",
    "is told, is waited for": r"\b(?:is|are|be) (?:told|waited for|looked (?:for|into)|asked(?! for))\b",
    "of its own": r"\bof (?:its|their|your|our|a) own\b",
    "literary words": r"\bfor (?:want|the sake) of\b|\bsees to it\b|\bas ever\b|\bis to be had\b"
    r"|\bthereby\b|\bwhoever\b",
    "is no": r"\b(?:is|are|was) no (?!longer|t\b|more\b)\w+",
    "a semicolon": r";\s",
    "over 35 words": r"^(?:\S+\s+){35,}",
}
NEGATIONS = r"\b(?:no|nothing|nobody|none)\b"
HOW_TO = ("README.md", "docs/accounts.md", "docs/deploy.md", "docs/monitoring.md", "docs/organization.md",
          "docs/outside-lambda.md", "docs/quickstart.md", "docs/recipes.md", "docs/testing.md", "docs/tutorial.md",
          "docs/tenants.md", "docs/presigned-urls.md", "docs/role-chaining.md", "docs/migrating.md")  # fmt: skip


class Sentence(NamedTuple):
    """One sentence, and where it is."""

    file: str
    line: int
    text: str


def files() -> list[Path]:
    """Return the files with prose."""
    pages = [*PROJECT.glob("*.md"), *(PROJECT / ".github").glob("*.md"), *(PROJECT / "docs").rglob("*.md")]
    pages = [page for page in pages if not {"node_modules", "inventories"} & set(page.parts)]
    return sorted([*pages, *(PROJECT / "xacct_lambda").rglob("*.py")])


def sentences(path: Path) -> Iterator[Sentence]:
    """Yield the sentences of a file."""
    name = path.relative_to(PROJECT).as_posix()
    source = path.read_text(encoding="utf-8")
    for line, text in _page(source) if path.suffix == ".md" else _module(source):
        for sentence in re.split(r"(?<=[.!?:])\s+(?=[A-Z`*\[])", re.sub(r"\s+", " ", text).strip()):
            if sentence:
                yield Sentence(name, line, sentence)


def _page(source: str) -> Iterator[tuple[int, str]]:
    """Yield the paragraphs, list items, and table cells of a page, without its code and hidden tests."""
    source = re.sub(r"(?ms)^<!-- test\n.*?^-->$", lambda test: "\n" * test[0].count("\n"), source)
    in_code = False
    lines: list[str] = []
    started = 0
    for number, line in enumerate([*source.splitlines(), ""], 1):
        is_fence = re.match(r"\s*(```|~~~|:::)", line)
        in_code = in_code != bool(is_fence and not line.strip().startswith(":::"))
        is_break = in_code or is_fence or not line.strip() or re.match(r"\s*(<!--|\[\^|!\[|#|%)", line)
        if (is_break or re.match(r"\s*(?:[-*]|\d+\.|>|\|)\s", line)) and lines:
            yield started, " ".join(lines)
            lines = []
        if line.startswith("|"):
            yield from ((number, cell) for cell in line.strip("| ").split("|") if len(cell.split()) > 3)
        elif not is_break:
            started = started if lines else number
            lines.append(re.sub(r"^\s*(?:[-*]|\d+\.|>)\s", "", line.strip()))


def _module(source: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings, comments, and messages of a module."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            text = re.sub(r"(?m)^\s*(?:>>>|\.\.\.) .*$", "", node.value.value)
            yield from ((node.lineno, paragraph) for paragraph in re.split(r"\n\s*\n", text))
        if isinstance(node, ast.Call) and str(getattr(node.func, "id", "")).endswith("Error"):
            for argument in node.args:
                text = _text(argument)
                if len(text.split()) > 2:
                    yield node.lineno, text
    comment: list[str] = []
    started = 0
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT and not re.match(r"#\s*(?:noqa|type:|pragma|fmt)", token.string):
            if comment and token.start[0] != started + len(comment):
                yield started, " ".join(comment)
                comment = []
            started = started if comment else token.start[0]
            comment.append(token.string.lstrip("# "))
    if comment:
        yield started, " ".join(comment)


def _text(node: ast.expr) -> str:
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else ""
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(part) if isinstance(part, ast.Constant) else "x" for part in node.values)
    return ""


def habits(text: str) -> list[str]:
    """Return the names of the rules that a sentence breaks."""
    plain = re.sub(r"`[^`]*`", "code", text)
    return [name for name, pattern in HABITS.items() if re.search(pattern, plain)]


def count(path: Path) -> int:
    """Return how many sentences of a file break a rule."""
    return sum(bool(habits(sentence.text)) for sentence in sentences(path))


def share(pattern: str, of: list[Sentence]) -> float:
    """Return the percentage of sentences that match."""
    return 100 * sum(bool(re.search(pattern, sentence.text, re.IGNORECASE)) for sentence in of) / max(len(of), 1)


def main() -> None:
    """Print what is measured, or lower the ceilings."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--habits", metavar="FILE", help="print the sentences of a file that break a rule")
    parser.add_argument("--lower", action="store_true", help="lower the ceilings to what is measured")
    options = parser.parse_args()
    if options.habits:
        for sentence in sentences(PROJECT / options.habits):
            if broken := habits(sentence.text):
                print(f"{sentence.file}:{sentence.line}: {', '.join(broken)}: {sentence.text}")
        return
    counts = {path.relative_to(PROJECT).as_posix(): count(path) for path in files()}
    if options.lower:
        before = json.loads(CEILINGS.read_text()) if CEILINGS.exists() else {}
        ceilings = {name: min(number, before.get(name, number)) for name, number in counts.items()}
        CEILINGS.write_text(json.dumps({name: number for name, number in ceilings.items() if number}, indent=2) + "\n")
    every = [sentence for path in files() for sentence in sentences(path)]
    groups = {
        "README and how-to pages": [sentence for sentence in every if sentence.file in HOW_TO],
        "all pages": [sentence for sentence in every if sentence.file.endswith(".md")],
        "code": [sentence for sentence in every if sentence.file.endswith(".py")],
    }
    for title, group in groups.items():
        figures = share(r"\byou(?:r|rs)?\b", group), share(r";\s", group), share(NEGATIONS, group)
        print(f"{title}: {len(group)} sentences, you {figures[0]:.1f} %, semicolon {figures[1]:.1f} %, "
              f"negation {figures[2]:.1f} %")  # fmt: skip
    totals = Counter(name for sentence in every for name in habits(sentence.text))
    for name, number in totals.most_common():
        print(f"{number:5} {name}")
    for name, number in sorted(counts.items(), key=lambda item: -item[1])[:15]:
        print(f"{number:5} {name}")


if __name__ == "__main__":
    main()
