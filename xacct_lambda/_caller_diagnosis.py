"""From an error of the caller's own credentials to the provider and profile that failed, and to the change to make.

The texts are from botocore, and from the services that its credential providers call. This module reads the
configuration of the source session, and makes no network call. The messages don't contain advice about the role to
assume, because the role isn't the cause.
"""

from __future__ import annotations

import json
import os
import shlex
import traceback
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import boto3
from botocore import exceptions as botocore_exceptions
from botocore.credentials import Credentials, RefreshableCredentials
from botocore.exceptions import BotoCoreError, ClientError

_CREDENTIAL_MODULES: Final = frozenset({"botocore.credentials", "botocore.tokens"})

# The classes of botocore that load credentials, and the provider that they belong to as botocore names it (METHOD).
# A traceback through one of them tells which link of a chain of providers failed.
_PROVIDER_CLASSES: Final = {
    "AssumeRoleCredentialFetcher": "assume-role",
    "AssumeRoleProvider": "assume-role",
    "AssumeRoleWithWebIdentityCredentialFetcher": "assume-role-with-web-identity",
    "AssumeRoleWithWebIdentityProvider": "assume-role-with-web-identity",
    "ConfigProvider": "config-file",
    "ContainerProvider": "container-role",
    "EnvProvider": "env",
    "InstanceMetadataFetcher": "iam-role",
    "InstanceMetadataProvider": "iam-role",
    "LoginCredentialFetcher": "login",
    "LoginProvider": "login",
    "ProcessProvider": "custom-process",
    "SSOCredentialFetcher": "sso",
    "SSOProvider": "sso",
    "SSOTokenProvider": "sso",
    "SharedCredentialProvider": "shared-credentials-file",
}
_MFA: Final = "MultiFactorAuthentication failed"
_MFA_ADVICE: Final = "Check mfa_serial, and enter the next code: each code is valid once"
_SETTINGS: Final = {
    # The setting that makes a profile use a provider.
    "assume-role": "role_arn",
    "assume-role-with-web-identity": "web_identity_token_file",
    "config-file": "aws_access_key_id",
    "custom-process": "credential_process",
    "login": "login_session",
    "shared-credentials-file": "aws_access_key_id",
    "sso": "sso_role_name",
}
_IDENTITY_CENTER: Final = "IAM Identity Center"
_ON_LAMBDA: Final = "AWS_LAMBDA_FUNCTION_NAME"
_FAULTS: Final = {
    "ExpiredToken": "have expired",
    "ExpiredTokenException": "have expired",
    "IncompleteSignature": "are incomplete",
    "InvalidAccessKeyId": "are not valid (deactivated or deleted)",
    "InvalidClientTokenId": "are not valid (deactivated, deleted, of another partition, or of a Region not enabled)",
    "MissingAuthenticationToken": "are missing from the request",
    "OptInRequired": "belong to an account that is not activated",
    "RequestExpired": "were used too late, or the clock of this machine is wrong",
    "RequestTimeTooSkewed": "were used, but the clock of this machine is wrong",
    "SignatureDoesNotMatch": "do not match (the secret key is wrong, or the clock of this machine)",
    "UnrecognizedClientException": "are not valid (deactivated or deleted)",
}
"""Codes by which STS rejects the caller's own credentials. It has not looked at the role, and a retry may succeed."""
_FILE_ADVICE: Final = (
    "boto3 reads the file once in a session. If the file has new keys since, create a new boto3.Session and pass it as "
    "source_session, or restart the process"
)
_RENEWAL_ADVICE: Final = {
    "config-file": _FILE_ADVICE,
    "custom-process": "Check the Expiration that the command of credential_process prints",
    "env": "Get new ones, and set AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN",
    "explicit": "They were passed to boto3.Session: create a new one, and pass it as source_session",
    "lambda": (
        "Lambda sets these variables. Check whether the configuration or the code of the function sets "
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, or AWS_SESSION_TOKEN too"
    ),
    "shared-credentials-file": _FILE_ADVICE,
}


class Caller(NamedTuple):
    """The source of the caller's credentials."""

    provider: str | None = None
    """botocore's name for the credential provider."""
    profile_name: str | None = None
    """The profile that configures the provider."""
    settings: Mapping[str, Any] = {}
    """The settings of that profile, which may contain keys. A message quotes only settings that aren't secret."""
    access_key: str = ""
    """The access key, if it can be read without loading anything."""
    has_token: bool = False

    def __repr__(self) -> str:
        # The settings of a profile may contain keys.
        return f"{type(self).__name__}(provider={self.provider!r}, profile_name={self.profile_name!r})"

    def __str__(self) -> str:
        parts = [f"provider {self.provider}" if self.provider else "", self.profile]
        return f" ({', '.join(filter(None, parts))})" if any(parts) else ""

    @property
    def profile(self) -> str:
        """The profile in words, or an empty string without a profile."""
        return f"profile {self.profile_name!r}" if self.profile_name else ""

    @property
    def login_command(self) -> str:
        """The command that logs in to this profile again."""
        command = "aws login" if self.provider == "login" else "aws sso login"
        return f"{command} --profile {shlex.quote(self.profile_name)}" if self.profile_name else command


def is_of_credentials(error: BaseException) -> bool:
    """Tell whether botocore raised the error while it loaded or refreshed credentials."""
    return any(module in _CREDENTIAL_MODULES for module, _ in _frames(error))


def _frames(error: BaseException) -> list[tuple[str, str]]:
    """Return the module and the class of each frame of the error's traceback, outermost first."""
    return [
        (str(frame.f_globals.get("__name__")), frame.f_code.co_qualname.partition(".")[0])
        for frame, _ in traceback.walk_tb(error.__traceback__)
    ]


def identify_caller(source: boto3.Session | None, error: BaseException) -> Caller:
    """Return the source of the caller's credentials, according to the error and the configuration."""
    if source is None:
        return Caller(_provider_of(error))
    credentials = _loaded_credentials(source)
    provider = _provider_of(error) or getattr(credentials, "method", None)
    profiles = _profile_chain(source)
    if provider is None:
        # The profile that was chosen, unless the error is of the environment.
        return Caller(None, *next(iter(profiles.items()), (None, {})))
    if provider == "assume-role" and not isinstance(credentials, RefreshableCredentials | None):
        # The source session is an assumed one of this library, so its credentials don't come from its profile.
        return Caller(provider)
    setting = _SETTINGS.get(provider)
    matching = [(name, settings) for name, settings in profiles.items() if setting in settings]
    # The innermost profile of a chain that has the setting.
    profile_name, settings = matching[-1] if matching else (None, {})
    if type(credentials) is not Credentials:
        # Any other class may load credentials if an attribute is read.
        return Caller(provider, profile_name, settings)
    return Caller(provider, profile_name, settings, str(credentials.access_key), bool(credentials.token))


def _provider_of(error: BaseException) -> str | None:
    providers = [
        _PROVIDER_CLASSES[name]
        for module, name in _frames(error)
        if module in _CREDENTIAL_MODULES and name in _PROVIDER_CLASSES
    ]
    if providers:
        return providers[-1]
    # Errors of other libraries may have an attribute of that name with another meaning.
    arguments = getattr(error, "kwargs", None)
    return arguments.get("provider") if isinstance(error, BotoCoreError) and isinstance(arguments, Mapping) else None


def _loaded_credentials(source: boto3.Session) -> Any:
    # Not source.get_credentials(): if loading failed, that would load once more, and may take as long again. Private
    # attributes: without them, the message doesn't name the provider of credentials that were loaded.
    return getattr(getattr(source, "_session", None), "_credentials", None)


def _profile_chain(source: boto3.Session) -> dict[str, Mapping[str, Any]]:
    """Return the source session's profile and its chain of source profiles, each with its settings."""
    try:
        # boto3 has no public way to the settings of a profile.
        profiles = source._session.full_config.get("profiles", {})  # noqa: SLF001
        name: Any = source.profile_name
    except (AttributeError, BotoCoreError):
        return {}
    chain: dict[str, Mapping[str, Any]] = {}
    while name in profiles and name not in chain:
        chain[name] = profiles[name]
        name = profiles[name].get("source_profile")
    return chain


def load_failure(error: Exception, text: str, caller: Caller, role_arn: str) -> str:
    """Return the message for credentials that couldn't be loaded.

    Args:
        error: The exception of the provider.
        text: The error's text, without secrets.
        caller: The source of the credentials.
        role_arn: The role to assume.
    """
    problem, advice = _load_problem(error, text, caller)
    message = (
        f"The caller's own credentials{caller} can't be loaded: {problem.rstrip('.')}. {advice}. AssumeRole was not "
        f"called for {role_arn}."
    )
    if isinstance(error, ClientError):
        code = error.response.get("Error", {}).get("Code")
        return f"{message} {error.operation_name} returned: {text}{f' ({code})' if code else ''}"
    return message if text in problem else f"{message} botocore raised {type(error).__name__}: {text}"


def is_rejection(code: str, text: str) -> bool:
    """Tell whether an answer of STS rejects the caller's own credentials."""
    # The secret key is right if only the Region or the service of the signature is wrong.
    is_fault = code in _FAULTS and "Credential should be scoped to" not in text
    # This library sends no MFA codes, so a rejected one is from the login of the caller.
    return is_fault or _MFA in text


def rejection(code: str, text: str, caller: Caller, role_arn: str) -> str:
    """Return the message for credentials that STS did not accept.

    Args:
        code: STS's error code.
        text: STS's text, without secrets.
        caller: The source of the credentials.
        role_arn: The role to assume.
    """
    problem, advice = _rejection_problem(code, text, caller)
    return (
        f"STS rejected the caller's own credentials{caller}: {problem}. {advice}. STS did not check whether the caller "
        f"may assume {role_arn}. STS said: {text} ({code})"
    )


class _Problem(NamedTuple):
    problem: str
    advice: str


def _load_problem(error: Exception, text: str, caller: Caller) -> _Problem:
    if isinstance(error, ClientError):
        return _refused_operation(error, caller)
    # Jupyter replaces getpass. Its error means that nobody sees the prompt, as under papermill or nbconvert.
    is_unseen_prompt = type(error).__name__ == "StdinNotImplementedError"
    if is_unseen_prompt or any(module == "getpass" for module, _ in _frames(error)):
        serial = caller.settings.get("mfa_serial")
        return _Problem(
            f"{caller.profile} needs an MFA code for {serial}, and there is no terminal to ask in",
            # boto3 ignores the variables if the code passes profile_name.
            "Run it in a terminal, or don't pass profile_name, and set the variables that this command prints in a "
            "terminal: aws configure export-credentials --format env --profile "
            f"{shlex.quote(str(caller.profile_name))}",
        )
    is_of_login = type(error).__name__.startswith("Login")  # Classes that botocore has since 1.41.
    if is_of_login or isinstance(error, botocore_exceptions.SSOError | botocore_exceptions.TokenRetrievalError):
        return _login(caller)
    if isinstance(error, botocore_exceptions.HTTPClientError | botocore_exceptions.ConnectionError):
        return _Problem(
            "the provider's service does not answer", "Check the network, a VPN, and the proxy that HTTPS_PROXY names"
        )
    return _configuration_problem(error, text, caller)


def _configuration_problem(error: Exception, text: str, caller: Caller) -> _Problem:
    match error:
        case botocore_exceptions.NoCredentialsError():
            return _missing_credentials(caller)
        case botocore_exceptions.PartialCredentialsError():
            variable = error.kwargs.get("cred_var")
            return _Problem(f"{variable} is missing", f"Set {variable} where the other settings are")
        case botocore_exceptions.InvalidConfigError():
            return _Problem(text.rstrip("."), "Correct the profile in the AWS config file")
        case botocore_exceptions.RefreshWithMFAUnsupportedError():
            return _Problem(
                "they have expired, and boto3 asks for an MFA code only once in a session",
                "Create a new source session with boto3.Session(), or start the program again",
            )
    return _provider_problem(error, text, caller)


def _missing_credentials(caller: Caller) -> _Problem:
    problem = f"{caller.profile} has no credentials" if caller.settings else "boto3 found none"
    if _ON_LAMBDA in os.environ:
        return _Problem(
            problem,
            "Lambda sets AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, and AWS_SESSION_TOKEN. Check what removes them, and "
            "whether AWS_PROFILE is set",
        )
    return _Problem(
        problem,
        "boto3 searches the environment (AWS_ACCESS_KEY_ID, AWS_PROFILE), the files in ~/.aws, and the metadata of "
        "containers and instances. Log in, or set AWS_PROFILE (in a test, use the fixture cross_account)",
    )


def _login(caller: Caller) -> _Problem:
    of = "aws login" if caller.provider == "login" else _IDENTITY_CENTER
    return _Problem(f"the session of {of} has expired, or there is none", f"Log in: {caller.login_command}")


def _refused_operation(error: ClientError, caller: Caller) -> _Problem:
    answer = error.response.get("Error", {})
    code, text = str(answer.get("Code", "")), str(answer.get("Message") or "")
    operation = error.operation_name
    if operation in {"GetRoleCredentials", "CreateToken"}:
        return _refused_by_identity_center(operation, code, caller)
    if operation not in {"AssumeRole", "AssumeRoleWithWebIdentity"}:
        return _Problem(f"{operation} was refused", "Check the permissions that the credential provider needs")
    role_arn = _own_role(operation, caller)
    problem = f"they come from {role_arn}, and STS refused {operation} for that role"
    if operation == "AssumeRoleWithWebIdentity":
        return _Problem(problem, _web_identity_advice(code, role_arn))
    if _MFA in text:
        return _Problem(problem, _MFA_ADVICE)
    source = caller.settings.get("source_profile") or caller.settings.get("credential_source")
    if code in {"AccessDenied", "AccessDeniedException"}:
        return _Problem(
            problem,
            f"The policies of the identity behind {source} and the trust policy of {role_arn} must both allow it",
        )
    return _Problem(problem, f"Check the credentials of {source}")


def _own_role(operation: str, caller: Caller) -> str:
    """Return the role that the credential provider assumes to get the caller's credentials."""
    by_environment = os.environ.get("AWS_ROLE_ARN") if operation == "AssumeRoleWithWebIdentity" else None
    return str(caller.settings.get("role_arn") or by_environment or "the caller's role")


def _web_identity_advice(code: str, role_arn: str) -> str:
    if code in {"ExpiredToken", "ExpiredTokenException"}:
        return "The web identity token has expired. Check what renews the file that AWS_WEB_IDENTITY_TOKEN_FILE names"
    if code in {"InvalidIdentityToken", "InvalidIdentityTokenException", "IDPRejectedClaim", "IDPCommunicationError"}:
        return (
            "IAM does not accept the token: create the OIDC provider of the token's issuer in the account of "
            f"{role_arn}, and compare its audience with the token's"
        )
    return (
        f"The trust policy of {role_arn} must allow sts:AssumeRoleWithWebIdentity to the token's OIDC provider, with "
        "conditions on aud and sub that the token meets (on EKS, sub is the namespace and the service account)"
    )


def _refused_by_identity_center(operation: str, code: str, caller: Caller) -> _Problem:
    if operation == "CreateToken" or code == "UnauthorizedException":
        return _login(caller)
    if code == "TooManyRequestsException":
        return _Problem(f"{_IDENTITY_CENTER} refused {operation}: too many calls", "Try again later")
    role, account = (caller.settings.get(name) for name in ("sso_role_name", "sso_account_id"))
    return _Problem(
        f"{_IDENTITY_CENTER} refused {operation} for the permission set {role} in account {account}",
        "Check sso_role_name and sso_account_id, and whether that permission set is assigned to you in that account",
    )


def _provider_problem(error: Exception, text: str, caller: Caller) -> _Problem:
    match caller.provider:
        case "custom-process":
            return _process_problem(error, text, caller)
        case "assume-role-with-web-identity":
            return _web_token_problem(error, text, caller)
        case "iam-role":
            return _Problem(
                "the instance metadata service returned none",
                "Check that the instance has a role. In a container on EC2, raise the hop limit of the metadata "
                "service to 2",
            )
        case "container-role":
            uri = os.environ.get("AWS_CONTAINER_CREDENTIALS_FULL_URI") or "the container's endpoint"
            return _Problem(
                f"{uri} returned none",
                "Check the task role or the EKS Pod Identity agent, and that NO_PROXY names the endpoint's address",
            )
        case "login" | "sso":
            return _Problem("the cached login can't be read", f"Log in: {caller.login_command}")
    return _Problem(text or type(error).__name__, "Check the credential provider of the source session")


def _process_problem(error: Exception, text: str, caller: Caller) -> _Problem:
    # Not the arguments, which may be secrets.
    program = str(caller.settings.get("credential_process", "credential_process")).partition(" ")[0]
    advice = f"Run the command of {caller.profile or 'the profile'} in a terminal and correct it"
    if isinstance(error, botocore_exceptions.CredentialRetrievalError):
        reason = str(error.kwargs.get("error_msg", ""))
        is_of_format = reason.startswith(("Unsupported version", "Missing required key", "Credential refresh failed"))
        return _Problem(f"{program} {'printed the wrong document' if is_of_format else 'failed'}", advice)
    if isinstance(error, OSError):
        return _Problem(f"{program} can't be started ({error.strerror})", "Correct credential_process: use a full path")
    if isinstance(error, json.JSONDecodeError | UnicodeDecodeError | ValueError | TypeError | AttributeError):
        return _Problem(f"{program} did not print the JSON document that boto3 expects", advice)
    return _Problem(text, advice)


def _web_token_problem(error: Exception, text: str, caller: Caller) -> _Problem:
    path = os.environ.get("AWS_WEB_IDENTITY_TOKEN_FILE") or caller.settings.get("web_identity_token_file")
    advice = f"Check what writes {path}"
    if isinstance(error, OSError):
        return _Problem(f"the web identity token {path} can't be read ({error.strerror})", advice)
    if isinstance(error, botocore_exceptions.ParamValidationError):
        return _Problem(f"the web identity token in {path} is empty or incomplete", advice)
    return _Problem(text, advice)


def _rejection_problem(code: str, text: str, caller: Caller) -> _Problem:
    if code in {"InvalidAccessKeyId", "InvalidClientTokenId", "UnrecognizedClientException"}:
        if caller.access_key.startswith("ASIA") and not caller.has_token:
            return _Problem(
                "they are temporary (the access key starts with ASIA), and the session token is missing",
                f"Set {_token_setting(caller)} too",
            )
        if caller.access_key.startswith("AKIA") and caller.has_token:
            return _Problem(
                "they are long-term keys (the access key starts with AKIA) with a session token that isn't theirs",
                f"Remove {_token_setting(caller)}",
            )
    if _MFA in text:
        return _Problem("the MFA code of the caller's login was not accepted", _MFA_ADVICE)
    if "Signature expired" in text or "not yet current" in text:
        return _Problem("the clock of this machine is wrong", "Set the clock")
    return _Problem(f"they {_FAULTS[code]}", _renewal_advice(caller))


def _token_setting(caller: Caller) -> str:
    return {"env": "AWS_SESSION_TOKEN"}.get(caller.provider or "", "aws_session_token")


def _renewal_advice(caller: Caller) -> str:
    if caller.provider in {"login", "sso"}:
        return f"Log in: {caller.login_command}"
    provider = "lambda" if caller.provider == "env" and _ON_LAMBDA in os.environ else caller.provider
    return _RENEWAL_ADVICE.get(
        provider or "", "Check the source session: environment variables, the profile, and keys passed to boto3.Session"
    )
