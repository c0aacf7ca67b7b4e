"""The message for each wrong argument, as messages.txt has it, so that no message changes unnoticed.

If you change the wording of messages, rewrite the expected ones and read the difference:

    pytest tests/test_messages.py tests/test_diagnosis.py --update-messages; git diff

To add a call, write its line ``>>> call`` with an empty line below it into messages.txt first.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import boto3
import botocore.session
import pytest
from conftest import OTHER_ROLE, ROLE, RecordMessage

import xacct_lambda
from xacct_lambda import assume_role, assumed_session, events, policy
from xacct_lambda.exceptions import ConfigurationError


def takes_s3(event, context, *, s3): ...


def takes_s3_first(s3, event, context): ...


def forgets_the_context(event, s3): ...


async def waits(session, account_id): ...


def inject(handler: Any = takes_s3, role_arn: Any = ROLE, **options: Any) -> Any:
    return assume_role(role_arn, **options)(handler)


NAMES = {name: getattr(module, name) for module in (xacct_lambda, events, policy) for name in module.__all__}
NAMES |= {"botocore": botocore, "ROLE": ROLE, "OTHER_ROLE": OTHER_ROLE}
NAMES |= {"inject": inject, "takes_s3": takes_s3, "takes_s3_first": takes_s3_first}
NAMES |= {"forgets_the_context": forgets_the_context, "waits": waits}

MESSAGES = Path(__file__).with_name("messages.txt")
"""One line for each call and one for its message. Change it with --update-messages."""


def examples() -> list[Any]:
    """Return the calls of messages.txt with their messages."""
    pairs = re.findall(r"^>>> (.*)\n(?!>>> )(.*)$", MESSAGES.read_text(encoding="utf-8"), re.MULTILINE)
    return [pytest.param(*pair, id=pair[0]) for pair in pairs]


@pytest.mark.parametrize(("call", "expected"), examples())
def test_message(call: str, expected: str, record_message: RecordMessage) -> None:
    """A wrong argument is named, with what is wrong about it and what would be right."""
    with pytest.raises(ConfigurationError) as caught:
        eval(call, dict(NAMES))  # noqa: S307 - the calls are those of messages.txt

    message = str(caught.value).replace(f"boto3 {boto3.__version__}", "boto3 X.Y.Z")
    record_message(MESSAGES, f">>> {call}\n{expected}\n", f">>> {call}\n{message}\n")
    assert str(caught.value).startswith(f"{caught.value.argument}: ")
    assert caught.value.args == (caught.value.argument, caught.value.problem)
    assert boto3.DEFAULT_SESSION is None or "assumed_session" in call, "no session is made to refuse"


def test_each_call_has_its_message() -> None:
    """Each line of messages.txt belongs to a call: a new call has an empty line, which --update-messages fills."""
    lines = [line for line in MESSAGES.read_text(encoding="utf-8").splitlines() if line]

    pairs = [example.values for example in examples()]
    assert lines == [line for call, message in pairs for line in (f">>> {call}", message) if line]
    assert len({call for call, _ in pairs}) == len(pairs)


@pytest.mark.parametrize(
    "arguments",
    [
        {"role_arn": "x" * 10_000},
        {"region_name": "x" * 10_000},
        {"min_ttl_seconds": 10**1000},
        {"duration_seconds": 10**1000},
        {"extra": {"x" * 10_000: 1}},
        {"tags": {"x" * 10_000: ""}},
        {"role_session_name": "x" * 10_000},
    ],
    ids=lambda arguments: "".join(arguments),
)
def test_messages_are_short(arguments: dict[str, Any]) -> None:
    """What an event holds may be megabytes; a message shows 200 characters of it."""
    with pytest.raises(ConfigurationError) as caught:
        assumed_session(**{"role_arn": ROLE, **arguments})

    assert len(str(caught.value)) < 600
