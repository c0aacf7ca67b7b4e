"""The account that the tests of other libraries work in, and the answers of services that moto doesn't have."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.hooks import HierarchicalEmitter

from xacct_lambda import assumed_session
from xacct_lambda.policy import permissions_policy
from xacct_lambda.testing import CrossAccountAWS

READER = "arn:aws:iam::222222222222:role/tenant/Reader"
WRITER = "arn:aws:iam::333333333333:role/tenant/Writer"
TENANT_ROLES = [f"arn:aws:iam::{account}:role/tenant/*" for account in ("222222222222", "333333333333")]


@pytest.fixture
def aws(cross_account: CrossAccountAWS) -> CrossAccountAWS:
    """An AWS in which the function may assume the two roles."""
    for role in (READER, WRITER):
        cross_account.grant(permissions_policy(cross_account.role(role)))
    return cross_account


@pytest.fixture
def session(aws: CrossAccountAWS) -> boto3.Session:
    """The session of ``READER``."""
    return assumed_session(READER)


def answer(client: Any, event: str, body: dict[str, Any], seen: Callable[[Any], None]) -> None:
    """Answer the requests of a client after every other hook of the event has run, and report each request."""
    raw = json.dumps(body).encode()

    def respond(request: Any, **_: Any) -> AWSResponse:
        seen(request)
        return AWSResponse(request.url, 200, {"Content-Type": "application/json"}, _Body(raw))

    client.meta.events.register_last(f"before-send.{event}", respond)


class _Body:
    """The part of a urllib3 response that botocore reads."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def stream(self, **_: Any) -> list[bytes]:
        return [self._raw]


def hooks_of(client: Any, event: str) -> int:
    """Return how many hooks a client runs for an event. botocore has no public way to count them."""
    emitter = client.meta.events
    while not isinstance(emitter, HierarchicalEmitter):
        emitter = emitter._emitter
    return len(emitter._handlers.prefix_search(event))
