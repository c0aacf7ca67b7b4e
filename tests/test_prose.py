"""The project's prose: see :mod:`prose`."""

from __future__ import annotations

import json

import pytest
from prose import CEILINGS, HOW_TO, NEGATIONS, PROJECT, count, files, habits, sentences, share


@pytest.mark.parametrize("path", files(), ids=lambda path: path.relative_to(PROJECT).as_posix())
def test_the_prose_gets_plainer(path) -> None:
    """No file has more sentences that break a rule than before."""
    ceilings = json.loads(CEILINGS.read_text())

    assert count(path) <= ceilings.get(path.relative_to(PROJECT).as_posix(), 0)


@pytest.mark.parametrize(
    ("sentence", "broken"),
    [
        ("If STS doesn't answer, you get an error.", []),
        ("Where STS does not answer, the error comes.", ["where for if"]),
        ("Each imports modules below it alone.", ["alone for only"]),
        ("It is refused, and remembered; another is made.", ["others without a noun", "a semicolon"]),
        ("What is wrong for all roles is an error.", ["a clause as the subject"]),
        ("`a; b` is code.", []),
    ],
)
def test_the_rules(sentence: str, broken: list[str]) -> None:
    """The rules find the habits that they are named after, and none in code."""
    assert habits(sentence) == broken


def test_the_reader_is_addressed() -> None:
    """In README and how-to pages at least every fifth sentence says "you". Semicolons and negations are rare."""
    pages = [path for path in files() if path.relative_to(PROJECT).as_posix() in HOW_TO]
    every = [sentence for path in pages for sentence in sentences(path)]

    assert len(pages) == len(HOW_TO)
    assert share(r"\byou(?:r|rs)?\b", every) >= 20
    assert share(r";\s", every) <= 2
    assert share(NEGATIONS, every) <= 6
