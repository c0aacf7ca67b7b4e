"""opensearch-py: signers that keep a session's credentials."""

from __future__ import annotations

import pytest
from opensearchpy import AWSV4SignerAuth, RequestsAWSV4SignerAuth, Urllib3AWSV4SignerAuth
from requests import Request

URL = "https://search.example/orders/_search"


def sign(signer):
    if isinstance(signer, Urllib3AWSV4SignerAuth):
        return signer("GET", URL, b"{}", {})
    return signer(Request("GET", URL, data=b"{}").prepare()).headers


@pytest.mark.parametrize("signer_class", [AWSV4SignerAuth, RequestsAWSV4SignerAuth, Urllib3AWSV4SignerAuth])
def test_signer(aws, session, signer_class):
    """A signer that you create once signs with the role's credentials, and with new ones when those have expired."""
    signer = signer_class(session.get_credentials(), "us-east-1", "es")

    tokens = [sign(signer)["X-Amz-Security-Token"]]
    tokens.append(sign(signer)["X-Amz-Security-Token"])
    aws.sts.advance(3600)
    tokens.append(sign(signer)["X-Amz-Security-Token"])

    assert tokens[0] == tokens[1] != tokens[2]
    assert tokens[2] == session.get_credentials().get_frozen_credentials().token
    assert len(aws.assumed) == 2
