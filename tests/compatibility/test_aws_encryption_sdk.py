"""AWS Encryption SDK: key providers that accept a botocore session."""

from __future__ import annotations

import aws_encryption_sdk
import pytest

from xacct_lambda import assumed_session

from .conftest import READER


@pytest.fixture
def provider(session):
    key = session.client("kms").create_key()["KeyMetadata"]["Arn"]
    return aws_encryption_sdk.StrictAwsKmsMasterKeyProvider(key_ids=[key], botocore_session=session._session)


def test_a_key_of_the_other_account(provider):
    """A key provider on the role's botocore session encrypts and decrypts with a key of the role's account."""
    client = aws_encryption_sdk.EncryptionSDKClient()

    encrypted, header = client.encrypt(source=b"order 7", key_provider=provider)
    decrypted, _ = client.decrypt(source=encrypted, key_provider=provider)

    assert decrypted == b"order 7"
    [data_key] = header.encrypted_data_keys
    assert b":222222222222:key/" in data_key.key_provider.key_info


def test_clients_after_it(provider, session):
    """After a key provider has used the role's botocore session, the role's session still creates every client."""
    aws_encryption_sdk.EncryptionSDKClient().encrypt(source=b"order 7", key_provider=provider)

    assert assumed_session(READER).client("s3").list_buckets()["Buckets"] == []
    assert list(assumed_session(READER).resource("s3").buckets.all()) == []
