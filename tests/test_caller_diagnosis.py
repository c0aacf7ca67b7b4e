"""Errors of the caller's own credentials, from botocore's real providers: who is blamed, and what to change."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import shlex
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import boto3
import botocore.credentials
import botocore.tokens
import botocore.utils
import pytest
from botocore.awsrequest import AWSResponse
from botocore.credentials import SSOProvider
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    ConnectTimeoutError,
    CredentialRetrievalError,
    NoCredentialsError,
    RefreshWithMFAUnsupportedError,
)
from botocore.tokens import SSOTokenProvider
from conftest import ROLE

from xacct_lambda import _caller_diagnosis, assumed_session
from xacct_lambda._errors import caller_credentials_error, translate_error
from xacct_lambda._request import assume_role_request
from xacct_lambda._sts import load_caller_credentials
from xacct_lambda.exceptions import AssumeRoleError, CallerCredentialsError, XacctLambdaError

START_URL = "https://example.awsapps.com/start"
POD = "arn:aws:iam::111111111111:role/Pod"
DEV = "arn:aws:iam::111111111111:role/Dev"
KEYS = "aws_access_key_id = AKIABASE\naws_secret_access_key = base-secret\n"
SSO = f"sso_start_url = {START_URL}\nsso_region = eu-west-1\nsso_account_id = 111111111111\nsso_role_name = Reader\n"
SESSION = (
    "[profile default]\nsso_session = corp\nsso_account_id = 111111111111\nsso_role_name = Reader\n"
    f"[sso-session corp]\nsso_start_url = {START_URL}\nsso_region = eu-west-1\n"
)
MFA = "mfa_serial = arn:aws:iam::111111111111:mfa/jane\n"

Answers = dict[str, Any]


class _Body(io.BytesIO):
    def stream(self, *_: Any, **__: Any) -> Any:
        yield self.read()


def refusal_of_sts(code: str, text: str) -> tuple[int, str]:
    return 403, f"<ErrorResponse><Error><Code>{code}</Code><Message>{text}</Message></Error></ErrorResponse>"


def refusal_of_sso(code: str, text: str) -> tuple[int, str]:
    return 403, json.dumps({"__type": code, "message": text})


class Laptop:
    """A home directory with AWS config files, and services that answer as a test says."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home = home
        self._monkeypatch = monkeypatch
        self.answers: dict[str, tuple[int, str] | Exception] = {}
        """The answer to each operation, such as ``sts.AssumeRole``."""
        self.operations: list[str] = []
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        cache = home / "sso-cache"
        cache.mkdir()
        monkeypatch.setattr(SSOProvider, "_SSO_TOKEN_CACHE_DIR", str(cache))
        monkeypatch.setattr(SSOTokenProvider, "_SSO_TOKEN_CACHE_DIR", str(cache))

    def config(self, text: str) -> None:
        (self.home / "config").write_text(text)

    def credentials_file(self, text: str) -> None:
        (self.home / "credentials").write_text(text)

    def environment(self, **variables: str) -> None:
        for name, value in variables.items():
            self._monkeypatch.setenv(name, value)

    def sso_token(self, name: str, expires_at: str, **more: str) -> None:
        token = {"accessToken": "sso-access-token", "expiresAt": expires_at, "region": "eu-west-1"}
        path = self.home / "sso-cache" / f"{hashlib.sha1(name.encode()).hexdigest()}.json"  # noqa: S324
        path.write_text(json.dumps({**token, "startUrl": START_URL, **more}))

    def error(self, source: boto3.Session | None = None) -> XacctLambdaError:
        """Return what loading the credentials raises."""
        source = source or boto3.Session()
        source.events.register("before-send", self._answer)
        with pytest.raises(XacctLambdaError) as caught:
            load_caller_credentials(source, assume_role_request(ROLE))
        shown = "".join(traceback.format_exception(caught.value))
        for secret in ("base-secret", "hunter2", "sso-access-token"):
            assert secret not in shown
        return caught.value

    def _answer(self, request: Any, event_name: str, **_: Any) -> AWSResponse:
        operation = event_name.removeprefix("before-send.")
        self.operations.append(operation)
        answer = self.answers[operation]
        if isinstance(answer, Exception):
            raise answer
        status, body = answer
        return AWSResponse(request.url, status, {"Content-Type": "text/xml"}, _Body(body.encode()))


@pytest.fixture
def laptop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Laptop:
    return Laptop(tmp_path, monkeypatch)


def web_identity(laptop: Laptop, content: str | None = "eyJhbGciOi.e30.sig") -> None:
    path = laptop.home / "token"
    if content is not None:
        path.write_text(content)
    laptop.environment(AWS_WEB_IDENTITY_TOKEN_FILE=str(path), AWS_ROLE_ARN=POD)


def missing(laptop: Laptop) -> None: ...


def missing_in_a_profile(laptop: Laptop) -> None:
    laptop.config("[profile dev]\nregion = eu-west-1\n")
    laptop.environment(AWS_PROFILE="dev")


def missing_on_lambda(laptop: Laptop) -> None:
    laptop.environment(AWS_LAMBDA_FUNCTION_NAME="orders-fn")


def half_a_key(laptop: Laptop) -> None:
    laptop.environment(AWS_ACCESS_KEY_ID="AKIAHALF")


def half_a_key_in_a_file(laptop: Laptop) -> None:
    laptop.credentials_file("[default]\naws_access_key_id = AKIAHALF\n")


def legacy_sso_expired(laptop: Laptop) -> None:
    laptop.config(f"[profile dev]\n{SSO}")
    laptop.environment(AWS_PROFILE="dev")
    laptop.sso_token(START_URL, "2020-01-01T00:00:00Z")
    # Old versions of botocore don't look at the expiry of the token.
    laptop.answers["sso.GetRoleCredentials"] = refusal_of_sso("UnauthorizedException", "Token expired")


def sso_never_logged_in(laptop: Laptop) -> None:
    laptop.config(f"[default]\n{SSO}")


def sso_session_expired(laptop: Laptop) -> None:
    laptop.config(SESSION)
    laptop.sso_token("corp", "2020-01-01T00:00:00Z")


def sso_session_never_logged_in(laptop: Laptop) -> None:
    laptop.config(SESSION)


def sso_unauthorized(laptop: Laptop) -> None:
    laptop.config(f"[profile 'team one']\n{SSO}")
    laptop.environment(AWS_PROFILE="team one")
    laptop.sso_token(START_URL, "2099-01-01T00:00:00Z")
    laptop.answers["sso.GetRoleCredentials"] = refusal_of_sso(
        "UnauthorizedException", "Session token not found or invalid"
    )


def sso_forbidden(laptop: Laptop) -> None:
    laptop.config(f"[default]\n{SSO}")
    laptop.sso_token(START_URL, "2099-01-01T00:00:00Z")
    laptop.answers["sso.GetRoleCredentials"] = refusal_of_sso("ForbiddenException", "No access")


def sso_throttled(laptop: Laptop) -> None:
    sso_forbidden(laptop)
    laptop.environment(AWS_MAX_ATTEMPTS="1")
    laptop.answers["sso.GetRoleCredentials"] = refusal_of_sso("TooManyRequestsException", "Rate exceeded")


def sso_unreachable(laptop: Laptop) -> None:
    sso_forbidden(laptop)
    laptop.environment(AWS_MAX_ATTEMPTS="1")
    laptop.answers["sso.GetRoleCredentials"] = ConnectTimeoutError(endpoint_url="https://portal.sso.example")


def sso_incomplete(laptop: Laptop) -> None:
    laptop.config("[default]\nsso_account_id = 111111111111\nsso_role_name = Reader\n")


def sso_as_source_profile(laptop: Laptop) -> None:
    laptop.config(f"[default]\nrole_arn = {DEV}\nsource_profile = login\n[profile login]\n{SSO}")
    laptop.sso_token(START_URL, "2020-01-01T00:00:00Z")


def process(code: str) -> Callable[[Laptop], None]:
    """Return what sets up a profile whose credential_process runs this code."""

    def prepare(laptop: Laptop) -> None:
        program = laptop.home / "login.py"
        program.write_text(code)
        command = shlex.join([sys.executable, str(program), "--password", "hunter2"])
        laptop.config(f"[default]\ncredential_process = {command}\n")

    return prepare


def prints(text: str) -> Callable[[Laptop], None]:
    return process(f"print({text!r})")


EXPIRED = '{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "base-secret", "Expiration": "2020-01-01T00:00:00Z"}'

process_fails = process("import sys; sys.exit('no session: SecretAccessKey=base-secret')")
process_prints_no_json = prints("Log in at https://login.example first: base-secret")
process_prints_no_text = process("import sys; sys.stdout.buffer.write(b'base-secret' + bytes([255]))")
process_prints_a_list = prints("[]")
process_prints_another_version = prints('{"Version": 2}')
process_prints_no_secret = prints('{"Version": 1, "AccessKeyId": "AKIA"}')
process_prints_expired_credentials = prints(EXPIRED)


def process_is_not_there(laptop: Laptop) -> None:
    laptop.config("[default]\ncredential_process = no-such-program --password hunter2\n")


def mfa_without_terminal(laptop: Laptop) -> None:
    laptop.config(f"[profile base]\n{KEYS}[profile mfa]\nrole_arn = {DEV}\nsource_profile = base\n{MFA}")
    laptop.environment(AWS_PROFILE="mfa")


def source_role_denied(laptop: Laptop) -> None:
    laptop.config(f"[profile base]\n{KEYS}[profile dev]\nrole_arn = {DEV}\nsource_profile = base\n")
    laptop.environment(AWS_PROFILE="dev")
    laptop.answers["sts.AssumeRole"] = refusal_of_sts(
        "AccessDenied",
        "User: arn:aws:iam::111111111111:user/jane is not authorized to perform: sts:AssumeRole on resource: " + DEV,
    )


def source_keys_rejected(laptop: Laptop) -> None:
    source_role_denied(laptop)
    laptop.answers["sts.AssumeRole"] = refusal_of_sts(
        "InvalidClientTokenId", "The security token included in the request is invalid."
    )


def mfa_code_wrong(laptop: Laptop) -> None:
    source_role_denied(laptop)
    laptop.answers["sts.AssumeRole"] = refusal_of_sts(
        "AccessDenied", "MultiFactorAuthentication failed with invalid MFA one time pass code."
    )


def source_profile_missing(laptop: Laptop) -> None:
    laptop.config(f"[default]\nrole_arn = {DEV}\nsource_profile = base\n")


def source_profile_loops(laptop: Laptop) -> None:
    laptop.config(
        f"[default]\nrole_arn = {DEV}\nsource_profile = b\n[profile b]\nrole_arn = {DEV}\nsource_profile = default\n"
    )


def source_is_environment(laptop: Laptop) -> None:
    laptop.config(f"[default]\nrole_arn = {DEV}\ncredential_source = Environment\n")


def web_identity_denied(laptop: Laptop) -> None:
    web_identity(laptop)
    laptop.answers["sts.AssumeRoleWithWebIdentity"] = refusal_of_sts(
        "AccessDenied", "Not authorized to perform sts:AssumeRoleWithWebIdentity"
    )


def web_identity_unknown_issuer(laptop: Laptop) -> None:
    web_identity(laptop)
    laptop.answers["sts.AssumeRoleWithWebIdentity"] = refusal_of_sts(
        "InvalidIdentityToken", "No OpenIDConnect provider found in your account for https://oidc.example/id/ABC"
    )


def web_identity_expired(laptop: Laptop) -> None:
    web_identity(laptop)
    laptop.answers["sts.AssumeRoleWithWebIdentity"] = refusal_of_sts(
        "ExpiredTokenException", "Token expired: current date/time 1 must be before the expiration date/time 0"
    )


def web_identity_empty(laptop: Laptop) -> None:
    web_identity(laptop, "")


def web_identity_not_there(laptop: Laptop) -> None:
    web_identity(laptop, None)


def web_identity_without_role(laptop: Laptop) -> None:
    web_identity(laptop)
    laptop.environment(AWS_ROLE_ARN="")


def container_does_not_answer(laptop: Laptop) -> None:
    laptop.environment(AWS_CONTAINER_CREDENTIALS_FULL_URI="http://127.0.0.1:9/creds")


def container_token_not_there(laptop: Laptop) -> None:
    laptop.environment(
        AWS_CONTAINER_CREDENTIALS_FULL_URI="http://127.0.0.1:9/creds",
        AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE=str(laptop.home / "no-token"),
    )


BAD_PROCESS = ["did not print the JSON document", "Run the command of profile 'default' in a terminal"]
CASES: list[tuple[str, Callable[[Laptop], None], str | None, str | None, list[str]]] = [
    ("missing", missing, None, None, ["boto3 found none", "AWS_PROFILE", "Unable to locate credentials"]),
    ("missing_in_a_profile", missing_in_a_profile, None, "dev", ["profile 'dev' has no credentials"]),
    ("missing_on_lambda", missing_on_lambda, None, None, ["Lambda sets AWS_ACCESS_KEY_ID"]),
    ("half_a_key", half_a_key, "env", None, ["AWS_SECRET_ACCESS_KEY is missing"]),
    (
        "half_a_key_in_a_file",
        half_a_key_in_a_file,
        "shared-credentials-file",
        "default",
        ["aws_secret_access_key is missing"],
    ),
    (
        "legacy_sso_expired",
        legacy_sso_expired,
        "sso",
        "dev",
        ["IAM Identity Center has expired", "Log in: aws sso login --profile dev."],
    ),
    ("sso_never_logged_in", sso_never_logged_in, "sso", "default", ["Log in: aws sso login --profile default."]),
    ("sso_session_expired", sso_session_expired, "sso", "default", ["Log in: aws sso login --profile default."]),
    (
        "sso_session_never_logged_in",
        sso_session_never_logged_in,
        "sso",
        "default",
        ["Log in: aws sso login --profile default."],
    ),
    ("sso_unauthorized", sso_unauthorized, "sso", "team one", ["Log in: aws sso login --profile 'team one'."]),
    (
        "sso_forbidden",
        sso_forbidden,
        "sso",
        "default",
        [
            "IAM Identity Center refused GetRoleCredentials for the permission set Reader in account 111111111111",
            "GetRoleCredentials returned: No access (ForbiddenException)",
        ],
    ),
    ("sso_throttled", sso_throttled, "sso", "default", ["too many calls. Try again later"]),
    (
        "sso_unreachable",
        sso_unreachable,
        "sso",
        "default",
        ["does not answer", "HTTPS_PROXY", "https://portal.sso.example"],
    ),
    ("sso_incomplete", sso_incomplete, "sso", "default", ["missing required configuration: sso_start_url, sso_region"]),
    ("sso_as_source_profile", sso_as_source_profile, "sso", "login", ["Log in: aws sso login --profile login."]),
    (
        "process_fails",
        process_fails,
        "custom-process",
        "default",
        [f"{sys.executable} failed", "no session: SecretAccessKey=***"],
    ),
    (
        "process_is_not_there",
        process_is_not_there,
        "custom-process",
        "default",
        ["no-such-program can't be started", "use a full path"],
    ),
    ("process_prints_no_json", process_prints_no_json, "custom-process", "default", BAD_PROCESS),
    ("process_prints_no_text", process_prints_no_text, "custom-process", "default", BAD_PROCESS),
    ("process_prints_a_list", process_prints_a_list, "custom-process", "default", BAD_PROCESS),
    (
        "process_prints_another_version",
        process_prints_another_version,
        "custom-process",
        "default",
        ["printed the wrong document"],
    ),
    (
        "process_prints_no_secret",
        process_prints_no_secret,
        "custom-process",
        "default",
        ["printed the wrong document", "'SecretAccessKey'"],
    ),
    (
        "process_prints_expired_credentials",
        process_prints_expired_credentials,
        "custom-process",
        "default",
        ["expired"],
    ),
    (
        "mfa_without_terminal",
        mfa_without_terminal,
        "assume-role",
        "mfa",
        [
            "profile 'mfa' needs an MFA code for arn:aws:iam::111111111111:mfa/jane, and there is no terminal",
            "aws configure export-credentials --format env --profile mfa",
        ],
    ),
    (
        "source_role_denied",
        source_role_denied,
        "assume-role",
        "dev",
        [f"they come from {DEV}, and STS refused AssumeRole for that role", "the identity behind base", "user/jane"],
    ),
    (
        "source_keys_rejected",
        source_keys_rejected,
        "assume-role",
        "dev",
        ["Check the credentials of base", "InvalidClientTokenId"],
    ),
    ("mfa_code_wrong", mfa_code_wrong, "assume-role", "dev", ["Check mfa_serial, and enter the next code"]),
    (
        "source_profile_missing",
        source_profile_missing,
        "assume-role",
        "default",
        ['The source_profile "base" referenced in the profile'],
    ),
    ("source_profile_loops", source_profile_loops, "assume-role", "b", ["Infinite loop in credential configuration"]),
    (
        "source_is_environment",
        source_is_environment,
        "assume-role",
        "default",
        ["No credentials found in credential_source"],
    ),
    (
        "web_identity_denied",
        web_identity_denied,
        "assume-role-with-web-identity",
        None,
        [f"STS refused AssumeRoleWithWebIdentity for that role. The trust policy of {POD} must allow"],
    ),
    (
        "web_identity_unknown_issuer",
        web_identity_unknown_issuer,
        "assume-role-with-web-identity",
        None,
        [f"in the account of {POD}"],
    ),
    (
        "web_identity_expired",
        web_identity_expired,
        "assume-role-with-web-identity",
        None,
        ["The web identity token has expired"],
    ),
    (
        "web_identity_empty",
        web_identity_empty,
        "assume-role-with-web-identity",
        None,
        ["/token is empty or incomplete"],
    ),
    (
        "web_identity_not_there",
        web_identity_not_there,
        "assume-role-with-web-identity",
        None,
        ["can't be read (No such file or directory)"],
    ),
    (
        "web_identity_without_role",
        web_identity_without_role,
        "assume-role-with-web-identity",
        None,
        ["has no role ARN configured"],
    ),
    (
        "container_does_not_answer",
        container_does_not_answer,
        "container-role",
        None,
        ["http://127.0.0.1:9/creds returned none", "Pod Identity"],
    ),
    (
        "container_token_not_there",
        container_token_not_there,
        "container-role",
        None,
        ["http://127.0.0.1:9/creds returned none"],
    ),
]


@pytest.mark.filterwarnings("ignore::getpass.GetPassWarning")
@pytest.mark.parametrize(
    ("prepare", "provider", "profile", "parts"), [pytest.param(*case[1:], id=case[0]) for case in CASES]
)
def test_credentials_that_cannot_be_loaded(
    laptop: Laptop,
    monkeypatch: pytest.MonkeyPatch,
    prepare: Callable[[Laptop], None],
    provider: str | None,
    profile: str | None,
    parts: list[str],
) -> None:
    """The error names the provider and the profile, says what to change there, and blames nothing else."""
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    monkeypatch.setattr("botocore.utils.ContainerMetadataFetcher.RETRY_ATTEMPTS", 1)
    prepare(laptop)

    error = laptop.error()

    assert isinstance(error, CallerCredentialsError)
    message = str(error)
    assert message.startswith("The caller's own credentials")
    assert [part for part in parts if part not in message] == []
    assert (error.provider, error.profile_name) == (provider, profile)
    assert f"AssumeRole was not called for {ROLE}" in message
    assert "trust policy (account" not in message
    assert "VPC" not in message
    assert "None" not in message
    assert type(error).__name__ == "CallerCredentialsError"
    assert traceback.format_exception_only(error)[0].startswith("xacct_lambda.exceptions.CallerCredentialsError: ")


@pytest.mark.parametrize(
    ("prepare", "kind"),
    [
        (missing, NoCredentialsError),
        (sso_forbidden, ClientError),
        (web_identity_denied, ClientError),
        (legacy_sso_expired, BotoCoreError),
        (process_prints_no_json, BotoCoreError),
    ],
    ids=["missing", "Identity Center", "web identity", "expired login", "process"],
)
def test_error_is_one_of_botocore(laptop: Laptop, prepare: Callable[[Laptop], None], kind: type[Exception]) -> None:
    """Code that catches what boto3 raises needs no change; and every one of these errors is a BotoCoreError."""
    prepare(laptop)

    error = laptop.error()

    assert isinstance(error, kind)
    assert isinstance(error, BotoCoreError)
    assert not isinstance(error, AssumeRoleError)


class BareError(BotoCoreError):
    """An error of another library that doesn't call botocore's constructor."""

    def __init__(self, text: str) -> None:
        Exception.__init__(self, text)


class PositionalError(BotoCoreError):
    """An error of another library whose constructor has other arguments than its text."""

    fmt = "{reason}"

    def __init__(self, text: str) -> None:
        super().__init__(reason=text)


class UnrelatedError(Exception):
    """An error with an attribute that has another meaning than botocore's."""

    kwargs = None


@pytest.mark.parametrize("kind", [BareError, PositionalError, UnrelatedError])
def test_provider_raises_its_own_class(laptop: Laptop, kind: Callable[[str], Exception]) -> None:
    """Whatever class a credential provider raises, the error is about the caller, and quotes the text redacted."""

    class Provider:
        METHOD = "own"

        def load(self) -> None:
            raise kind("the vault is sealed, password=hunter2")

    source = boto3.Session()
    source._session.get_component("credential_provider").providers[:] = [Provider()]

    with pytest.raises(CallerCredentialsError, match="the vault is sealed") as caught:
        load_caller_credentials(source, assume_role_request(ROLE))

    assert kind.__name__ in repr(caught.value.__cause__)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("kind", [BareError, PositionalError])
def test_hook_raises_its_own_class(kind: Callable[[str], Exception]) -> None:
    """A botocore error of another library's class becomes a ConfigurationError without the external ID."""
    translated = translate_error(kind("no budget for secret-id"), assume_role_request(ROLE, external_id="secret-id"))

    assert str(translated.error).endswith("no budget for ***")
    assert repr(translated.cause) == f"RuntimeError('{kind.__name__}: no budget for ***')"


@pytest.mark.parametrize("prepare", [missing, sso_forbidden, legacy_sso_expired], ids=lambda value: value.__name__)
def test_error_pickles(laptop: Laptop, prepare: Callable[[Laptop], None]) -> None:
    """A pickle keeps the class, the message, and the evidence."""
    prepare(laptop)
    error = laptop.error()

    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), vars(copy)) == (type(error), str(error), vars(error))


def test_refused_operation_is_named(laptop: Laptop) -> None:
    """The refused operation and the service's answer are attributes, as on botocore's ClientError."""
    sso_forbidden(laptop)

    error: Any = laptop.error()

    assert error.operation_name == "GetRoleCredentials"
    assert (error.code, error.response["Error"]["Message"]) == ("ForbiddenException", "No access")
    assert error.response["ResponseMetadata"]["HTTPStatusCode"] == 403
    assert laptop.operations == ["sso.GetRoleCredentials"]


def test_code_of_an_error_without_an_answer(laptop: Laptop) -> None:
    """If no service answered, the code is the name of botocore's exception."""
    legacy_sso_expired(laptop)

    error: Any = laptop.error()

    assert (error.code, error.operation_name) == ("UnauthorizedSSOTokenError", None)


REQUEST = assume_role_request(ROLE)


def error_of(operation: str, code: str, text: str = "no") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": text}}, operation)


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (RefreshWithMFAUnsupportedError(), "boto3 asks for an MFA code only once in a session. Create a new"),
        (error_of("GetSessionToken", "AccessDenied"), "GetSessionToken was refused. Check the permissions"),
        (error_of("CreateToken", "InvalidGrantException"), "has expired, or there is none. Log in: aws sso login"),
        (error_of("AssumeRole", "AccessDenied"), "they come from the caller's role"),
        (ClientError({}, "AssumeRole"), "AssumeRole returned: An error occurred (Unknown)"),
        (
            CredentialRetrievalError(provider="iam-role", error_msg="response did not contain: access_key"),
            "the instance metadata service returned none. Check that the instance has a role",
        ),
        (CredentialRetrievalError(provider="sso", error_msg="no"), "the cached login can't be read. Log in: aws sso"),
        (CredentialRetrievalError(provider="custom-process", error_msg="no"), "credential_process failed. Run the"),
        (CredentialRetrievalError(provider="assume-role-with-web-identity", error_msg="odd"), "odd. Check what writes"),
        (CredentialRetrievalError(provider="vault", error_msg="sealed"), "sealed. Check the credential provider"),
        (RuntimeError("the refreshed credentials are still expired."), "are still expired. Check the credential"),
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_unusual_errors_of_providers(error: Exception, advice: str) -> None:
    """An error without a traceback, or of a provider that isn't botocore's, has advice too."""
    assert advice in str(caller_credentials_error(error, boto3.Session(), REQUEST))


def test_login_of_the_command_line() -> None:
    """An expired session of ``aws login`` names that command, with each version of botocore."""
    kind = type("LoginRefreshRequired", (BotoCoreError,), {"fmt": "Your session has expired."})

    assert "Log in: aws " in str(caller_credentials_error(kind(), boto3.Session(), REQUEST))


def test_process_with_an_unknown_problem(laptop: Laptop) -> None:
    """An error of a credential_process that the library doesn't know is quoted."""
    process_is_not_there(laptop)
    session = boto3.Session()
    error = caller_credentials_error(
        CredentialRetrievalError(provider="custom-process", error_msg="timed out"), session, REQUEST
    )

    assert "no-such-program failed" in str(error)
    assert "timed out" in str(error)


def test_long_text_of_a_program_is_cut() -> None:
    """A program may print pages, of which the message has 500 characters."""
    error = CredentialRetrievalError(provider="custom-process", error_msg="x " * 5000)

    assert len(str(caller_credentials_error(error, boto3.Session(), REQUEST))) < 1000


@pytest.mark.parametrize(
    "secret",
    [
        '"SecretAccessKey": "hunter2"',
        "aws_secret_access_key = hunter2",
        "AWS_SESSION_TOKEN=hunter2",
        "Authorization: Bearer hunter2",
        "eyJhbGciOi.hunter2.sig",
        "X-Amz-Security-Token: hunter2",
        "password: hunter2",
    ],
)
def test_secrets_that_a_program_prints(secret: str) -> None:
    """What looks like a key or a token isn't in the error, its cause, or their tracebacks."""
    error = CredentialRetrievalError(provider="custom-process", error_msg=f"failed with {secret} at last")

    caller_error = caller_credentials_error(error, boto3.Session(), REQUEST)

    assert "hunter2" not in f"{caller_error} {caller_error.__cause__!r} {caller_error.response}"
    assert "at last" in str(caller_error)


def test_configuration_that_cannot_be_read(laptop: Laptop) -> None:
    """A config file that can't be parsed doesn't keep the message from being made."""
    session = boto3.Session()
    laptop.config("[default\nregion")

    assert "boto3 found none" in str(caller_credentials_error(NoCredentialsError(), session, REQUEST))


def test_session_that_is_no_session_of_boto3() -> None:
    """The message is made for any object that takes the place of a session."""
    fake: Any = object()

    assert "boto3 found none" in str(caller_credentials_error(NoCredentialsError(), fake, REQUEST))
    assert "boto3 found none" in str(caller_credentials_error(NoCredentialsError(), None, REQUEST))


def rejection(session: boto3.Session | None, code: str = "ExpiredToken", text: str = "expired") -> str:
    if session is not None:
        session.get_credentials()
    error, cause = translate_error(error_of("AssumeRole", code, text), REQUEST, session)
    assert isinstance(error, CallerCredentialsError)
    assert isinstance(error, ClientError)
    assert isinstance(cause, ClientError)
    assert error.code == code
    return str(error)


def test_rejected_keys_of_the_environment(laptop: Laptop) -> None:
    """Rejected variables are to be set again; on Lambda, whoever overwrites Lambda's own is to be found."""
    laptop.environment(AWS_ACCESS_KEY_ID="ASIAOLD", AWS_SECRET_ACCESS_KEY="base-secret", AWS_SESSION_TOKEN="old")
    assert "(provider env): they have expired. Get new ones, and set AWS_ACCESS_KEY_ID" in rejection(boto3.Session())
    laptop.environment(AWS_LAMBDA_FUNCTION_NAME="orders-fn")
    assert "(provider env): they have expired. Lambda sets these variables" in rejection(boto3.Session())


def test_rejected_keys_of_a_file(laptop: Laptop) -> None:
    """boto3 reads a file once, so new keys in it need a new session."""
    laptop.credentials_file(f"[default]\n{KEYS}")
    explanation = rejection(boto3.Session())
    assert "(provider shared-credentials-file, profile 'default')" in explanation
    assert "boto3 reads the file once in a session" in explanation


def test_rejected_keys_of_the_code(laptop: Laptop) -> None:
    """Keys that were passed to a session need a new session."""
    explanation = rejection(boto3.Session(aws_access_key_id="AKIA", aws_secret_access_key="base-secret"))
    assert "(provider explicit): they have expired. They were passed to boto3.Session" in explanation


def test_notebook_that_nobody_watches(laptop: Laptop, monkeypatch: pytest.MonkeyPatch) -> None:
    """A notebook without input, as under papermill, fails in the same way as a program without a terminal."""

    class StdinNotImplementedError(NotImplementedError):
        """Jupyter's error, without Jupyter."""

    def ask(_prompt: str) -> str:
        message = "getpass was called, but this frontend does not support input requests."
        raise StdinNotImplementedError(message)

    mfa_without_terminal(laptop)
    monkeypatch.setattr("getpass.getpass", ask)

    assert "needs an MFA code for arn:aws:iam::111111111111:mfa/jane, and there is no terminal" in str(laptop.error())


@pytest.mark.parametrize(
    ("variables", "advice"),
    [
        ({"AWS_ACCESS_KEY_ID": "ASIATEMPORARY"}, "the session token is missing. Set AWS_SESSION_TOKEN too"),
        (
            {"AWS_ACCESS_KEY_ID": "AKIAPERMANENT", "AWS_SESSION_TOKEN": "stale"},
            "with a session token that isn't theirs. Remove AWS_SESSION_TOKEN",
        ),
        ({"AWS_ACCESS_KEY_ID": "AKIAPERMANENT"}, "they are not valid (deactivated"),
        ({"AWS_ACCESS_KEY_ID": "ASIATEMPORARY", "AWS_SESSION_TOKEN": "t"}, "they are not valid (deactivated"),
    ],
    ids=["no token", "stale token", "permanent", "temporary"],
)
def test_keys_and_their_session_token(laptop: Laptop, variables: dict[str, str], advice: str) -> None:
    """The start of the access key tells whether it needs a session token."""
    laptop.environment(AWS_SECRET_ACCESS_KEY="base-secret", **variables)
    assert advice in rejection(boto3.Session(), "InvalidClientTokenId", "The security token is invalid.")


def test_session_token_of_a_file(laptop: Laptop) -> None:
    """In a file the session token has another name."""
    laptop.credentials_file("[default]\naws_access_key_id = ASIA\naws_secret_access_key = base-secret\n")
    assert "Set aws_session_token too" in rejection(boto3.Session(), "InvalidClientTokenId", "invalid")


def test_rejected_login(laptop: Laptop) -> None:
    """Rejected credentials of IAM Identity Center are renewed by a login."""
    sso_forbidden(laptop)
    assert "Log in: aws sso login --profile default" in rejection(boto3.Session())


def test_rejected_session_of_this_library() -> None:
    """The credentials of an assumed source session come from no profile."""
    session = assumed_session(ROLE)
    assert "(provider assume-role): they have expired. Check the source session" in rejection(session)
    assert "STS rejected the caller's own credentials: they have expired" in rejection(None)


def test_clock_that_is_wrong() -> None:
    """A signature of another time is the clock's fault, and not the secret key's."""
    explanation = rejection(None, "SignatureDoesNotMatch", "Signature expired: 20260101T000000Z is now earlier than …")
    assert "the clock of this machine is wrong. Set the clock" in explanation
    assert "secret key" not in explanation


def test_every_provider_of_botocore_is_known() -> None:
    """The classes whose names tell the provider exist in botocore, with the provider's name as METHOD."""
    for name, provider in _caller_diagnosis._PROVIDER_CLASSES.items():
        kind = getattr(botocore.credentials, name, None) or getattr(botocore.tokens, name, None)
        if kind is None and name.startswith("Login"):
            continue  # Newer than the lowest version.
        kind = kind or getattr(botocore.utils, name)
        assert getattr(kind, "METHOD", provider) == provider


def test_botocore_keeps_loaded_credentials_in_its_session() -> None:
    """The private attribute with the loaded credentials is there, so that a message can name their provider."""
    session = boto3.Session()
    assert session._session._credentials is None
    credentials = session.get_credentials()
    assert session._session._credentials is credentials


def test_settings_of_a_profile_are_not_shown(laptop: Laptop) -> None:
    """The keys of a profile don't reach a log by way of the object that describes the caller."""
    laptop.credentials_file(f"[default]\n{KEYS}")
    session = boto3.Session()
    session.get_credentials()

    caller = _caller_diagnosis.identify_caller(session, NoCredentialsError())

    assert caller.settings["aws_secret_access_key"] == "base-secret"
    assert repr(caller) == "Caller(provider='shared-credentials-file', profile_name='default')"
