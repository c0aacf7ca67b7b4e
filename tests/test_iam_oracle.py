"""The test AWS against an independent IAM simulator. Skipped without Node, or if npm can't install the simulator."""

from __future__ import annotations

from pathlib import Path

import pytest
from iam_oracle.__main__ import compare
from iam_oracle.calls import random_calls
from iam_oracle.causes import CAUSES, DANGEROUS, SIMULATOR_ONLY
from iam_oracle.generated import generated_policies
from iam_oracle.simulator import UnavailableError, install, simulate

GUIDE = Path(__file__).parents[1] / "docs" / "testing.md"


@pytest.fixture(scope="module", autouse=True)
def _simulator() -> None:
    try:
        install()
    except UnavailableError as error:
        pytest.skip(str(error))


def test_nothing_is_granted_that_the_simulator_refuses() -> None:
    """The test AWS grants no random call that the simulator refuses, and each disagreement has a documented cause."""
    outcomes, _ = compare(random_calls(1500, seed=20))

    assert [name for name in outcomes if "unexplained" in name] == []
    assert {name.partition(": ")[2] for name in outcomes if name.startswith(DANGEROUS)} <= {SIMULATOR_ONLY}
    assert outcomes["both grant"] > 100


def test_generated_policies_allow_what_they_are_meant_to() -> None:
    """The simulator allows the calls that send what generated policies require, and refuses those with a mistake."""
    expectations = [expectation for group in generated_policies(100, seed=4) for expectation in group]
    answers = simulate(expectation.call.for_simulator() for expectation in expectations)

    wrong = [
        (expectation.mistake, theirs)
        for expectation, theirs in zip(expectations, answers, strict=True)
        if (set(theirs["results"].values()) == {"Allowed"}) != (expectation.mistake is None)
    ]

    assert wrong == []


def test_the_guide_names_every_cause() -> None:
    """The testing guide says for each cause of a disagreement who is right."""
    guide = GUIDE.read_text(encoding="utf-8")

    assert [cause for cause in CAUSES if f"| {cause} |" not in guide] == []
