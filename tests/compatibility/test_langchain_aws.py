"""langchain-aws: chat models that register hooks on the client that you pass."""

from __future__ import annotations

import pytest
from langchain_aws import ChatBedrockConverse

from xacct_lambda import assumed_session

from .conftest import READER, answer

REPLY = {
    "output": {"message": {"role": "assistant", "content": [{"text": "seven orders"}]}},
    "stopReason": "end_turn",
    "usage": {"inputTokens": 1, "outputTokens": 1, "totalTokens": 2},
    "metrics": {"latencyMs": 1},
}


@pytest.fixture
def requests():
    return []


@pytest.fixture
def chat(server, requests):
    """Return a chat model with headers of its own, on clients of the role's session."""

    def new(**options):
        session = assumed_session(READER)
        client = session.client("bedrock-runtime")
        model = ChatBedrockConverse(
            model="amazon.nova-lite-v1:0", client=client, bedrock_client=session.client("bedrock"), **options
        )
        answer(client, "bedrock-runtime.Converse", REPLY, requests.append)
        return model

    return new


def test_headers_of_one_tenant(chat, requests):
    """No request has the headers that another chat model adds to its own client."""
    blue, red = (chat(default_headers={"X-Tenant": tenant}) for tenant in ("blue", "red"))
    plain = chat()

    for model in (blue, red, plain):
        assert model.invoke("how many?").content == "seven orders"

    assert [request.headers.get("X-Tenant") for request in requests] == ["blue", "red", None]


def test_bearer_token_of_the_caller(chat, requests, monkeypatch):
    """The role's credentials sign each request, also if the function's environment has a Bedrock API key."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "bedrock-key-of-the-caller")

    chat().invoke("how many?")

    [request] = requests
    assert request.headers["Authorization"].startswith(b"AWS4-HMAC-SHA256 Credential=ASIA")
