"""The credentials object that botocore signs with, and the retry of requests that a service rejects."""

from __future__ import annotations

import io
import logging
import pickle
from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.config import Config
from cache_helpers import HOUR, KEY, SOURCE, Context
from conftest import ROLE, Background, Clock, FakeSTS, outage, refusal, until

from xacct_lambda._assumed_credentials import AssumedRoleCredentials
from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda._invocation import current_context


def test_credentials_do_not_print_or_pickle(cache: CredentialCache) -> None:
    """Neither the credentials object nor the set it hands out shows or pickles a secret."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    frozen = credentials.get_frozen_credentials()

    for secret in (credentials, frozen):
        assert "secret-1" not in repr(secret)
        assert "token-1" not in repr(secret)
        assert "ASIA1" not in str(secret)
        with pytest.raises(TypeError) as caught:
            pickle.dumps(secret)
        assert str(caught.value) == (
            "credentials do not pickle: send the role's ARN and assume the role on the other side"
        )
    assert repr(frozen) == "FrozenCredentials(***)"


def test_credentials_have_botocores_attributes(cache: CredentialCache, sts: FakeSTS) -> None:
    """The object has what botocore's Credentials has; the account is read off the ARN without a call."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)

    assert credentials.account_id == "222222222222"
    assert credentials.method == "assume-role"
    assert sts.calls == 0
    assert (credentials.access_key, credentials.secret_key, credentials.token) == ("ASIA1", "secret-1", "token-1")
    assert repr(credentials) == f"AssumedRoleCredentials({ROLE!r})"
    assert sts.calls == 1


def test_the_last_half_second(cache: CredentialCache, sts: FakeSTS, clock: Clock) -> None:
    """Where nothing is said of how long credentials must live, they serve through an outage to their very end."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    assert credentials.token == "token-1"
    sts.failure = outage()
    clock.advance(HOUR - 0.5)

    assert credentials.token == "token-1"


def test_what_the_credentials_were_made_with_reaches_sts(
    cache: CredentialCache, sts: FakeSTS, background: Background
) -> None:
    """Source session, request and ``sts_config`` go along, whether the call is made, made ahead or prepared."""
    config = Config(read_timeout=2)
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request, config=config)

    credentials.prepare()
    credentials.prefetch()
    background.run()
    cache.clear()
    credentials.get_frozen_credentials()

    assert sts.prepared == [(SOURCE, config)]
    assert sts.call_arguments == [(SOURCE, KEY.request, config)] * 2


def test_prefetching_fetches(cache: CredentialCache, sts: FakeSTS, background: Background) -> None:
    """After a prefetch the first signature finds credentials; a second prefetch finds them too."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    credentials.prefetch()
    background.run()
    credentials.prefetch()
    assert background.tasks == []

    assert credentials.token == "token-1"
    assert sts.calls == 1
    assert cache.counts() == (1, 0, 1, 0, 1)


@pytest.mark.parametrize(
    ("failure", "explanation"),
    [(outage(), f"no answer for {ROLE}"), (refusal(), f"STS refused {ROLE}"), (LookupError("a hook's"), "LookupError")],
    ids=["outage", "refusal", "hook"],
)
def test_a_failed_prefetch_poisons_nothing(
    cache: CredentialCache,
    sts: FakeSTS,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
    explanation: str,
    background: Background,
) -> None:
    """A failure ahead of time is logged and not remembered: the first event makes an attempt of its own."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    sts.failure = failure
    credentials.prefetch()
    background.run()
    sts.failure = None

    assert credentials.token == "token-2"
    assert caplog.messages == [
        f"Prefetching the credentials of {ROLE} failed. The first event tries again. {explanation}"
    ]


def test_those_who_wait_for_a_failing_prefetch_try_again(sts: FakeSTS, clock: Clock) -> None:
    """A first event that waits for a prefetch which then fails does not fail with it."""
    cache = CredentialCache(sts, clock=clock)
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)

    def fail_once() -> None:
        sts.failure = outage() if sts.calls == 1 else None
        if sts.calls == 1:
            until(lambda: cache.counts().misses == 1)

    sts.during_request = fail_once
    credentials.prefetch()
    credentials.prefetch()

    assert credentials.token == "token-2"
    assert sts.calls == 2


def test_a_prefetch_that_a_freeze_cut_is_overtaken_silently(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, background: Background, caplog: pytest.LogCaptureFixture
) -> None:
    """The first event, hours later, makes its own attempt at once. The prefetch that fails after it logs nothing."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    credentials.prefetch()
    clock.advance(2 * HOUR)

    assert credentials.token == "token-1"
    sts.failure = refusal("SignatureDoesNotMatch")
    background.run()
    assert credentials.token == "token-1"
    assert caplog.messages == []


def test_log_messages_hold_no_secret(
    cache: CredentialCache, sts: FakeSTS, clock: Clock, caplog: pytest.LogCaptureFixture, background: Background
) -> None:
    """The warning on a failed renewal names the role and the error, and no credential."""
    caplog.set_level(logging.DEBUG)
    cache.get(KEY)
    clock.advance(HOUR - 600)
    sts.failure = outage()
    cache.get(KEY)
    background.run()

    assert "secret-1" not in caplog.text
    assert "token-1" not in caplog.text


def test_expires_at(cache: CredentialCache, clock: Clock, sts: FakeSTS) -> None:
    """The expiry is an aware datetime, or None if no credentials are cached. Reading it calls nobody."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    assert credentials.expires_at is None
    assert sts.calls == 0
    credentials.get_frozen_credentials()

    assert credentials.expires_at == datetime.fromtimestamp(clock() + HOUR, UTC)
    assert credentials.expires_at.tzinfo is UTC


# --- Requests that a service rejects ----------------------------------------------------------------------------------


class Answer:
    """A request that was signed and answered, as botocore's ``needs-retry`` event shows it."""

    def __init__(self, credentials: AssumedRoleCredentials, *, method: str = "GET", body: Any = b"") -> None:
        self._credentials = credentials
        self.request: dict[str, Any] = {"context": {}, "method": method, "body": body}
        credentials._record_body_start(self.request)

    def with_code(self, code: str, *, status: int = 400) -> float | None:
        """Return the delay before a retry."""
        self.request["context"]["xacct_lambda_access_key"] = self._credentials.access_key
        http = type("Response", (), {"status_code": status})()
        return self._credentials._retry_rejected((http, {"Error": {"Code": code}}), self.request)


@pytest.fixture
def credentials(cache: CredentialCache, clock: Clock) -> AssumedRoleCredentials:
    """Credentials that have been in use for a minute."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    credentials.get_frozen_credentials()
    clock.advance(60)
    return credentials


@pytest.mark.parametrize(
    "code",
    [
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "InvalidToken",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
        "RequestExpired",
        "AuthFailure",
    ],
)
def test_codes_of_rejections(credentials: AssumedRoleCredentials, code: str) -> None:
    """A request that is rejected with one of these codes is signed and sent again at once, with new credentials."""
    assert Answer(credentials).with_code(code) == 0
    assert credentials.access_key == "ASIA2"


@pytest.mark.parametrize("code", ["AccessDenied", "400", "Throttling"])
def test_other_codes(credentials: AssumedRoleCredentials, code: str) -> None:
    """Other errors are the request's own, and the credentials stay."""
    assert Answer(credentials).with_code(code) is None
    assert credentials.access_key == "ASIA1"


def test_s3_rejects_head_without_a_body(credentials: AssumedRoleCredentials) -> None:
    """S3 answers HEAD with status 400, no body, and no code. botocore then takes the status as the code."""
    assert Answer(credentials, method="HEAD").with_code("403", status=403) is None
    assert Answer(credentials, method="HEAD").with_code("400") == 0


def test_a_request_is_sent_again_once(credentials: AssumedRoleCredentials, clock: Clock) -> None:
    """A request that is rejected again, however much later, fails with the service's error."""
    answer = Answer(credentials)

    assert answer.with_code("ExpiredToken") == 0
    clock.advance(60)
    assert answer.with_code("ExpiredToken") is None


def test_a_request_with_new_credentials_is_sent_again_later(cache: CredentialCache) -> None:
    """If a service doesn't know new credentials, the request is sent again after a second, and then with others."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)

    answer = Answer(credentials)
    assert answer.with_code("InvalidClientTokenId") == 1
    assert credentials.access_key == "ASIA1"
    assert answer.with_code("InvalidClientTokenId") == 0
    assert credentials.access_key == "ASIA2"
    assert answer.with_code("InvalidClientTokenId") is None


def test_a_service_that_rejects_everything_delays_one_request(cache: CredentialCache) -> None:
    """If the last replacement didn't help, one request is sent again later. After that, each fails at once."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    assert Answer(credentials).with_code("ExpiredToken") == 0
    answer = Answer(credentials)
    assert answer.with_code("InvalidClientTokenId") == 1
    assert answer.with_code("InvalidClientTokenId") is None
    assert Answer(credentials).with_code("InvalidClientTokenId") is None
    assert credentials.access_key == "ASIA2"


@pytest.mark.parametrize(("milliseconds", "delay"), [(1200, None), (1300, 1)])
def test_a_retry_needs_time(cache: CredentialCache, milliseconds: int, delay: float | None) -> None:
    """If the invocation ends before the delay does, the service's error is raised at once."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    token = current_context.set(Context(milliseconds))
    try:
        assert Answer(credentials).with_code("InvalidClientTokenId") == delay
    finally:
        current_context.reset(token)


def test_a_request_without_an_answer_or_a_signature(credentials: AssumedRoleCredentials) -> None:
    """A request that got no answer, or that nobody signed, is none of this retry's business."""
    context: dict[str, Any] = {"xacct_lambda_access_key": "ASIA1"}
    assert credentials._retry_rejected(None, {"context": context}) is None
    assert credentials._retry_rejected((None, {"Error": {"Code": "ExpiredToken"}}), {"context": {}}) is None


class Part:
    """A part of a file as s3transfer has it: no ``seekable()``."""

    def tell(self) -> int:
        return 0

    def seek(self, position: int) -> None: ...


def moved(position: int) -> io.BytesIO:
    body = io.BytesIO(b"0123456789")
    body.seek(position)
    return body


class Broken:
    def seekable(self) -> bool:
        raise OSError("closed")


@pytest.mark.parametrize(
    ("body", "delay"),
    [
        (None, 0),
        (b"bytes", 0),
        ("text", 0),
        (bytearray(b"bytes"), 0),
        ({"Action": "Query"}, 0),
        (moved(0), 0),
        (Part(), 0),
        (moved(3), None),
        (iter([b"chunk"]), None),
        (Broken(), None),
    ],
    ids=["none", "bytes", "str", "bytearray", "dict", "file", "part", "moved file", "generator", "broken"],
)
def test_a_body_is_sent_again_from_where_it_started(
    credentials: AssumedRoleCredentials, body: Any, delay: float | None
) -> None:
    """botocore rewinds a body to its beginning. If the body did not start there, the service's error is raised."""
    assert Answer(credentials, body=body).with_code("ExpiredToken") == delay


@pytest.mark.parametrize(("milliseconds", "delay"), [(1250, None), (1300, 1.0)])
def test_a_delay_that_ends_with_the_invocation(cache: CredentialCache, milliseconds: int, delay: float | None) -> None:
    """A request is sent again only if the invocation has time left after the delay."""
    credentials = AssumedRoleCredentials(cache, SOURCE, KEY.request)
    credentials.get_frozen_credentials()
    token = current_context.set(Context(milliseconds))
    try:
        assert Answer(credentials).with_code("InvalidToken") == delay
    finally:
        current_context.reset(token)


def test_a_head_with_another_status(credentials: AssumedRoleCredentials) -> None:
    """Only status 400 of a HEAD means rejected credentials."""
    assert Answer(credentials, method="HEAD").with_code("400", status=403) is None
