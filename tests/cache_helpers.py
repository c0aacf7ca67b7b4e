"""What the tests of the credential cache share: keys, contexts of invocations, and threads that start together."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
from conftest import ROLE

from xacct_lambda._cache_entry import CredentialKey
from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda._request import assume_role_request

SOURCE = boto3.Session()
HOUR = 3600


def key_for(duration_seconds: int = HOUR, role_arn: str = ROLE) -> CredentialKey:
    return CredentialKey(SOURCE, assume_role_request(role_arn, duration_seconds=duration_seconds))


KEY = key_for()


class Context:
    """A Lambda context with so many milliseconds left."""

    def __init__(self, milliseconds: int = 60_000) -> None:
        self.milliseconds = milliseconds

    def get_remaining_time_in_millis(self) -> int:
        return self.milliseconds


def in_threads(number: int, call: Callable[[], Any]) -> list[Any]:
    """Return what each of so many threads got, started at one instant; exceptions as values."""
    start = threading.Barrier(number)

    def run(_: int) -> Any:
        start.wait()
        try:
            return call()
        except Exception as error:  # noqa: BLE001 - it is the result
            return error

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(run, range(number)))


def invalidate(
    cache: CredentialCache,
    key: CredentialKey,
    access_key: str,
    error_code: str = "",
    *,
    may_be_unknown: bool = False,
    is_retry: bool = False,
) -> float | None:
    """Tell the cache that a service rejected credentials."""
    return cache.invalidate(key, access_key, error_code, may_be_unknown=may_be_unknown, is_retry=is_retry)
