"""Clients of different roles share hooks, rules, and connections, but nothing that is a client's own."""

from __future__ import annotations

import client_isolation
import pytest

KINDS = {
    "account in the host",
    "answered with a failure",
    "directory bucket",
    "discovered host",
    "page after the first",
    "part of an upload",
    "presigned URL",
    "presigned form",
    "redirected",
    "stubbed",
}


@pytest.mark.parametrize("variant", ["plain boto3", "xacct_lambda"])
def test_no_request_has_anything_of_another_client(variant: str) -> None:
    """In a random sequence, each request has its own client's signature, host, settings, and hooks, as with boto3."""
    wire = client_isolation.judge(variant, requests=400, seed=3)

    assert wire.violations == []
    assert set(+wire.kinds) == KINDS


@pytest.mark.parametrize("variant", [name for name in client_isolation.VARIANTS if name.startswith("broken")])
def test_the_property_fails_for_a_broken_library(variant: str) -> None:
    """The same sequence finds each of the faults that sharing between clients can have."""
    assert client_isolation.judge(variant, requests=400, seed=3).violations
