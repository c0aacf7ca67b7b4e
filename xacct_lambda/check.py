"""``check``: find out, step by step and with the library's own call, whether a role can be assumed from here.

``lambda_handler`` does the same inside a function, for a test event with the arguments of ``assumed_session``.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple, TypeVar

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, NoCredentialsError
from botocore.parsers import ResponseParserError

from xacct_lambda import assumed_session
from xacct_lambda._errors import SERVER_ERRORS, STS_EXCEPTIONS, translate_error
from xacct_lambda._invocation import start_thread
from xacct_lambda._options import did_you_mean
from xacct_lambda._request import AssumeRoleRequest, assume_role_request
from xacct_lambda._sts import DEFAULT_CONFIG, new_client
from xacct_lambda.exceptions import ConfigurationError, XacctLambdaError

__all__ = ["lambda_handler"]

HELP: Final = "find out whether a role can be assumed from here: who am I, can I reach STS, does the role let me in"

_Answer = TypeVar("_Answer")

_ANSWER_TIMEOUT: Final = 1.25
"""Of each question; the second in which one address is tried, and some for what comes before it."""
_SESSION_ARGUMENTS: Final = frozenset({"region_name", "min_ttl_seconds"})
_TITLES: Final = {
    "credentials": "credentials",
    "reach_sts": "reach STS",
    "caller": "who am I",
    "assume_role": "assume role",
    "assumed": "who am I then",
    "expiration": "until",
    "lifetime": "seconds to live",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: those of ``assumed_session``, each only if given."""
    parser.add_argument("--role-arn", metavar="ARN", required=True, help="role to assume")
    for name, options in _OPTIONS.items():
        parser.add_argument(name, default=argparse.SUPPRESS, **options)
    parser.add_argument("--profile", help="profile of the caller's credentials; default: boto3's default session")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _tag(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"not a JSON document: {error}") from error


_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "--role-session-name": {"metavar": "NAME"},
    "--external-id": {"metavar": "ID"},
    "--source-identity": {"metavar": "NAME"},
    "--duration-seconds": {"metavar": "SECONDS", "type": int},
    "--policy": {"metavar": "JSON", "help": "session policy"},
    "--policy-arn": {"metavar": "ARN", "dest": "policy_arns", "action": "append", "help": "may be repeated"},
    "--tag": {"metavar": "KEY=VALUE", "dest": "tags", "action": "append", "type": _tag, "help": "may be repeated"},
    "--transitive-tag-key": {
        "metavar": "KEY",
        "dest": "transitive_tag_keys",
        "action": "append",
        "help": "may be repeated",
    },
    "--region-name": {"metavar": "REGION", "help": "Region of the assumed session; STS is called in the caller's"},
    "--min-ttl-seconds": {"metavar": "SECONDS", "type": float},
    "--extra": {"metavar": "JSON", "type": _json, "help": "further parameters of AssumeRole"},
}


def run(arguments: argparse.Namespace) -> int:
    """Print each step as it is done; return 1 if one fails."""
    options = {name: value for name, value in vars(arguments).items() if name not in {"json", "profile", "run"}}
    if "tags" in options:
        options["tags"] = dict(options["tags"])
    steps = []
    try:
        for step in check(boto3.Session(profile_name=arguments.profile), **options):
            steps.append(step)
            if not arguments.json:
                print(step.line())
    except (ConfigurationError, BotoCoreError) as error:
        print(f"xacct-lambda check: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        print(json.dumps(_report(steps), indent=2))
    return 0 if steps[-1].error is None else 1


def lambda_handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return the report of ``check --json`` for a test event such as ``{"role_arn": "arn:aws:iam::…"}``.

    Raises:
        ConfigurationError: The event's arguments are not those of ``assumed_session``, or break a rule of STS.
    """
    if not isinstance(event, Mapping):
        raise ConfigurationError("event", 'the arguments of assumed_session are needed, as in {"role_arn": "arn:…"}')
    return _report(list(check(boto3.Session(), **event)))


class Step(NamedTuple):
    """One question, with its answer or the error that came in its place, and how long that took."""

    name: str
    answer: str | int
    seconds: float
    error: XacctLambdaError | None = None

    def line(self) -> str:
        """Return the step for a terminal."""
        answer = self.answer if self.error is None else f"no\n\n{type(self.error).__name__}: {self.error}"
        return f"{_TITLES[self.name]:<16}{self.seconds * 1000:6.0f} ms   {answer}"


def _report(steps: list[Step]) -> dict[str, Any]:
    error = steps[-1].error
    return {
        "ok": error is None,
        "steps": [
            {"step": step.name, "ok": step.error is None, "answer": step.answer, "seconds": round(step.seconds, 4)}
            for step in steps
        ],
        "error": error and {"type": type(error).__name__, "code": getattr(error, "code", None), "message": str(error)},
    }


def check(source: boto3.Session, **arguments: Any) -> Iterator[Step]:
    """Yield each step as it is done, up to the first that fails.

    Args:
        source: A session of its own, since what it calls is listened to.
        arguments: Those of ``assumed_session``, which ``source`` is for.

    Raises:
        ConfigurationError: An argument breaks a rule of STS.
    """
    probe = _Probe(source, arguments)
    questions: dict[str, Callable[[], str | int]] = {name: getattr(probe, name) for name in _TITLES}
    for name, ask in questions.items():
        answer: str | int = ""
        error: XacctLambdaError | None = None
        started = time.perf_counter()
        try:
            answer = ask()
        except XacctLambdaError as refused:
            error = refused
        except STS_EXCEPTIONS as failed:
            error, _ = translate_error(failed, probe.request, source)
        yield Step(name, answer, time.perf_counter() - started, error)
        if error is not None:
            return


class _Probe:
    """What is probe of botocore, of STS and of the library, in the order of the titles."""

    def __init__(self, source: boto3.Session, arguments: dict[str, Any]) -> None:
        of_request = {name: value for name, value in arguments.items() if name not in _SESSION_ARGUMENTS}
        known = inspect.signature(assume_role_request).parameters.keys()
        for name in of_request:
            if name not in known:
                raise ConfigurationError(name, f"no argument of this{did_you_mean(name, known | _SESSION_ARGUMENTS)}")
        if "role_arn" not in arguments:
            raise ConfigurationError("role_arn", "needed: the role to assume")
        self.request: AssumeRoleRequest = assume_role_request(**of_request)
        self._source = source
        self._session = assumed_session(source_session=source, **arguments)
        self._expires_at: Any = None
        source.events.register("after-call.sts.AssumeRole", self._note_expiration)

    def _note_expiration(self, parsed: dict[str, Any], **_: Any) -> None:
        self._expires_at = parsed.get("Credentials", {}).get("Expiration")

    def credentials(self) -> str:
        # With the clients made here, the steps that follow take the time of their round trip.
        self._unsigned = new_client(self._source, DEFAULT_CONFIG.merge(Config(signature_version=UNSIGNED)))
        self._signed = new_client(self._source, DEFAULT_CONFIG)
        credentials = self._source.get_credentials()
        if credentials is None:
            raise NoCredentialsError
        return str(credentials.method)

    def reach_sts(self) -> str:
        try:
            _in_time(self._unsigned, _probe)
        except (ResponseParserError, KeyError, ValueError):
            # moto's server, a local AWS, tells which service is probe by the signature.
            _in_time(self._signed, _probe)
        return str(self._unsigned.meta.endpoint_url)

    def caller(self) -> str:
        return _in_time(self._signed, _identity)

    def assume_role(self) -> str:
        credentials: Any = self._session.get_credentials()
        credentials.get_frozen_credentials()
        return self.request.role_arn

    def assumed(self) -> str:
        return _in_time(self._session.client("sts", config=DEFAULT_CONFIG), _identity)

    def expiration(self) -> str:
        return f"{self._expires_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"

    def lifetime(self) -> int:
        left: timedelta = self._expires_at - datetime.now(UTC)
        return round(left.total_seconds())


def _in_time(client: Any, ask: Callable[[Any], _Answer]) -> _Answer:
    """Return what STS answers, or raise where it takes longer: botocore's time-outs hold for each of its addresses."""
    outcome: Future[_Answer] = Future()

    def answer() -> None:
        try:
            outcome.set_result(ask(client))
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            outcome.set_exception(error)

    start_thread(answer)
    try:
        return outcome.result(_ANSWER_TIMEOUT)
    except TimeoutError as error:
        raise ConnectTimeoutError(endpoint_url=client.meta.endpoint_url) from error


def _probe(client: Any) -> None:
    """Ask STS who the caller is; pass what it refuses, as to what is not signed: so it was reached."""
    try:
        client.get_caller_identity()
    except ClientError as error:
        if "Error" not in error.response:
            raise ResponseParserError from error
        if error.response["ResponseMetadata"]["HTTPStatusCode"] in SERVER_ERRORS:
            raise


def _identity(client: Any) -> str:
    try:
        return str(client.get_caller_identity()["Arn"])
    except ClientError as error:
        # It takes no permission, but the policy of a VPC endpoint for STS may let AssumeRole pass alone.
        if error.response.get("Error", {}).get("Code") != "AccessDenied":
            raise
        return "unknown: GetCallerIdentity is denied"
