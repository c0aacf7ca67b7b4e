"""``check``: check step by step, with the library's own calls, whether the caller can assume roles.

``lambda_handler`` does the same inside a function, for a test event with the arguments of ``assumed_session``.
"""

from __future__ import annotations

import argparse
import inspect
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Final, NamedTuple, TypeAlias, TypeVar

import boto3
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError
from botocore.parsers import ResponseParserError

from xacct_lambda import assumed_session
from xacct_lambda._errors import SERVER_ERRORS, STS_EXCEPTIONS, translate_error
from xacct_lambda._fan_out import default_workers
from xacct_lambda._invocation import start_thread
from xacct_lambda._options import did_you_mean
from xacct_lambda._request import AssumeRoleRequest, assume_role_request
from xacct_lambda._sts import DEFAULT_CONFIG, STS, load_caller_credentials, new_client
from xacct_lambda.exceptions import AssumeRoleError, ConfigurationError, XacctLambdaError

__all__ = ["lambda_handler"]

HELP: Final = "check whether you can assume roles from here, and print what to change if you can't"

_Answer = TypeVar("_Answer")
_Question: TypeAlias = tuple[str, Callable[[], str | int]]
"""A title, and the call that answers."""

_ANSWER_SECONDS: Final = STS().max_wait_seconds(None) or 0
"""The time limit of each question, which is the library's limit for a call of STS."""
_FUNCTION_SECONDS: Final = 3
"""Lambda's default timeout."""
_OTHER_CALLER: Final = (
    "The command checked the caller above. If your function runs as another role, run the check with that role's "
    "credentials (--profile), or inside the function (handler: xacct_lambda.check.lambda_handler)."
)
"""The hint after a refusal: on a laptop, the caller is rarely the execution role that the trust policy names."""
_SESSION_ARGUMENTS: Final = frozenset({"region_name", "min_ttl_seconds"})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments. An argument of ``assumed_session`` is absent if the user doesn't pass it."""
    parser.add_argument("--role-arn", metavar="ARN", action="append", help="role to assume (may be repeated)")
    parser.add_argument(
        "--from-handler",
        metavar="MODULE:FUNCTION",
        help="check the roles of a handler that is decorated with @assume_role, with its tags and its source identity",
    )
    for name, options in _OPTIONS.items():
        parser.add_argument(name, default=argparse.SUPPRESS, **options)
    parser.add_argument("--profile", help="profile with the caller's credentials (default: boto3's default session)")
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object, also for a mistake in the arguments"
    )
    parser.epilog = "Exit status: 0 if all roles can be assumed, 1 if not, 2 for a mistake in the arguments."


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
    "--role-session-name": {"metavar": "NAME", "help": "name of the sessions (default: xacct-lambda)"},
    "--external-id": {"metavar": "ID", "help": "external ID that the trust policies require (never printed)"},
    "--source-identity": {"metavar": "NAME", "help": "source identity to set"},
    "--duration-seconds": {"metavar": "SECONDS", "type": int, "help": "duration of the sessions (default: 3600)"},
    "--policy": {"metavar": "JSON", "help": "session policy"},
    "--policy-arn": {
        "metavar": "ARN",
        "dest": "policy_arns",
        "action": "append",
        "help": "managed policy that limits the sessions (may be repeated)",
    },
    "--tag": {
        "metavar": "KEY=VALUE",
        "dest": "tags",
        "action": "append",
        "type": _tag,
        "help": "session tag (may be repeated)",
    },
    "--transitive-tag-key": {
        "metavar": "KEY",
        "dest": "transitive_tag_keys",
        "action": "append",
        "help": "key of a tag that the sessions pass on (may be repeated)",
    },
    "--region-name": {"metavar": "REGION", "help": "Region of the assumed sessions, not of the call to STS"},
    "--min-ttl-seconds": {
        "metavar": "SECONDS",
        "type": float,
        "help": "remaining lifetime that the credentials must have (default: 0)",
    },
    "--extra": {"metavar": "JSON", "type": _json, "help": "other parameters of AssumeRole, such as ProvidedContexts"},
}


def run(arguments: argparse.Namespace) -> int:
    """Print each step as it ends. Return 1 if one fails, and 2 for a mistake in the arguments."""
    try:
        source = boto3.Session(profile_name=arguments.profile)
        probe = _Probe(source, _roles(arguments))
    except (ConfigurationError, BotoCoreError) as error:
        if arguments.json:
            print(json.dumps({"ok": False, "steps": [], "roles": [], "error": _describe(error)}, indent=2))
        else:
            print(f"xacct-lambda check: {error}", file=sys.stderr)
        return 2
    if arguments.json:
        report = probe.report()
        print(json.dumps(report, indent=2))
        return 0 if report["ok"] else 1
    return 0 if _print_steps(probe) else 1


def _roles(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the arguments of ``assumed_session`` for each role on the command line."""
    command = {"json", "profile", "run", "role_arn", "from_handler"}
    options = {name: value for name, value in vars(arguments).items() if name not in command}
    if "tags" in options:
        options["tags"] = dict(options["tags"])
    if arguments.from_handler is None:
        if not arguments.role_arn:
            raise ConfigurationError("--role-arn", "is required, or --from-handler")
        return [{"role_arn": role_arn, **options} for role_arn in dict.fromkeys(arguments.role_arn)]
    from xacct_lambda.cli.policy import roles_of_handler  # noqa: PLC0415 - a Lambda layer has no cli

    roles: dict[str, dict[str, Any]] = {}
    for role in roles_of_handler(arguments.from_handler, arguments.role_arn or []):
        parameters = {"tags": dict(role.tags), "source_identity": role.source_identity} | options
        if role.sends_external_id and "external_id" not in options:
            raise ConfigurationError("--external-id", f"is required: the handler sends one for {role.role_arn}")
        if "*" in {parameters["source_identity"], *parameters["tags"], *parameters["tags"].values()}:
            raise ConfigurationError(
                "--from-handler", "the tags or the source identity depend on the event: pass --tag or --source-identity"
            )
        roles[str(role.role_arn)] = {
            "role_arn": role.role_arn,
            **{name: value for name, value in parameters.items() if value},
        }
    return list(roles.values())


def _print_steps(probe: _Probe) -> bool:
    """Print the steps for a terminal. Return whether all roles can be assumed."""
    for step in probe.caller_steps():
        print(step.line())
        if step.error is not None:
            return False
    if len(probe.roles) == 1:
        for step in probe.roles[0].steps():
            print(step.line())
        if isinstance(step.error, AssumeRoleError):
            print(f"\n{_OTHER_CALLER}")
        return step.error is None
    failures = []
    for role, steps in probe.role_steps():
        seconds = sum(step.seconds for step in steps)
        failures += [step for step in steps if step.error is not None]
        answer = "no" if steps[-1].error is not None else steps[-2].answer
        print(f"{'assume role':<16}{seconds * 1000:6.0f} ms   {role.request.role_arn}   {answer}")
    print(f"\n{len(probe.roles) - len(failures)} of {len(probe.roles)} roles can be assumed.")
    for step in failures:
        print(f"\n{type(step.error).__name__}: {step.error}")
    if any(isinstance(step.error, AssumeRoleError) for step in failures):
        print(f"\n{_OTHER_CALLER}")
    return not failures


def lambda_handler(event: dict[str, Any], _context: object) -> dict[str, Any]:
    """Return the report of ``check --json`` for a test event such as ``{"role_arn": "arn:aws:iam::…"}``.

    Args:
        event: Arguments of :func:`~xacct_lambda.assumed_session`. ``role_arn`` may be a list of ARNs.

    Raises:
        ConfigurationError: The event has other arguments than ``assumed_session``, or an argument breaks a rule of STS.

    Example:
        >>> report = lambda_handler({"role_arn": "arn:aws:iam::222222222222:role/Reader"}, None)
        >>> report["ok"], [role["role_arn"] for role in report["roles"]]
        (True, ['arn:aws:iam::222222222222:role/Reader'])
    """
    if not isinstance(event, Mapping):
        raise ConfigurationError("event", 'must have the arguments of assumed_session, such as {"role_arn": "arn:…"}')
    role_arns = event.get("role_arn", [])
    if not isinstance(role_arns, list):
        role_arns = [role_arns]
    roles = [{**event, "role_arn": role_arn} for role_arn in role_arns]
    return _Probe(boto3.Session(), roles or [dict(event)]).report()


class Step(NamedTuple):
    """One question with its answer or error, and its duration."""

    title: str
    answer: str | int
    seconds: float
    error: XacctLambdaError | None = None
    note: str | None = None

    def line(self) -> str:
        """Return the step for a terminal."""
        answer = self.answer if self.error is None else f"no\n\n{type(self.error).__name__}: {self.error}"
        note = f"\n{'':<28}{self.note}" if self.note else ""
        return f"{self.title:<16}{self.seconds * 1000:6.0f} ms   {answer}{note}"

    def report(self) -> dict[str, Any]:
        """Return the step for JSON."""
        return {
            "step": self.title,
            "ok": self.error is None,
            "answer": self.answer,
            "seconds": round(self.seconds, 4),
            "note": self.note,
        }


def _describe(error: Exception | None) -> dict[str, Any] | None:
    if error is None:
        return None
    return {"type": type(error).__name__, "code": getattr(error, "code", None), "message": str(error)}


class _Probe:
    """The questions about the caller, and the questions about each role."""

    def __init__(self, source: boto3.Session, roles: list[dict[str, Any]]) -> None:
        self._caller = _Caller(source)
        # Check all arguments before the first call.
        self.roles = [_Role(self._caller, arguments) for arguments in roles]

    def caller_steps(self) -> Iterator[Step]:
        """Yield each step of the caller as it ends, up to the first that fails."""
        return self._caller.steps(self.roles[0].request)

    def role_steps(self) -> Iterator[tuple[_Role, list[Step]]]:
        """Yield each role with its steps. As many roles are assumed at the same time as by ``assumed_sessions``."""
        with ThreadPoolExecutor(default_workers()) as executor:
            yield from zip(self.roles, executor.map(lambda role: list(role.steps()), self.roles), strict=True)

    def report(self) -> dict[str, Any]:
        """Return the answers as one object for JSON."""
        caller_steps = list(self.caller_steps())
        error = caller_steps[-1].error
        roles = []
        for role, steps in self.role_steps() if error is None else ():
            roles.append(
                {
                    "role_arn": role.request.role_arn,
                    "ok": steps[-1].error is None,
                    "steps": [step.report() for step in steps],
                    "error": _describe(steps[-1].error),
                }
            )
            error = error or steps[-1].error
        reports = [step.report() for step in caller_steps]
        return {"ok": error is None, "steps": reports, "roles": roles, "error": _describe(error)}


class _Caller:
    """The questions about the caller: its credentials, its identity, and whether STS is reachable."""

    def __init__(self, source: boto3.Session) -> None:
        """Prepare the questions, without a call.

        Args:
            source: A new session, because this method registers a hook on it.
        """
        self.source = source
        self.expirations: dict[str, datetime] = {}
        """The expiry of each role session, by its ARN."""
        source.events.register("after-call.sts.AssumeRole", self._record_expiration)

    def _record_expiration(self, parsed: dict[str, Any], **_: Any) -> None:
        if "Credentials" in parsed:
            self.expirations[parsed["AssumedRoleUser"]["Arn"]] = parsed["Credentials"]["Expiration"]

    @cached_property
    def _unsigned_client(self) -> Any:
        return new_client(self.source, DEFAULT_CONFIG.merge(Config(signature_version=UNSIGNED)))

    @cached_property
    def _signed_client(self) -> Any:
        return new_client(self.source, DEFAULT_CONFIG)

    def steps(self, request: AssumeRoleRequest) -> Iterator[Step]:
        """Yield each step as it ends, up to the first that fails."""
        questions: list[_Question] = [
            ("credentials", lambda: self._load_credentials(request)),
            ("reach STS", self._reach_sts),
            ("who am I", lambda: _answer_in_time(self._signed_client, _identity)),
        ]
        for step in _ask(questions, request, self.source):
            note = None
            if step.title == "credentials" and step.seconds > _FUNCTION_SECONDS:
                note = (
                    f"This is longer than a Lambda function has by default ({_FUNCTION_SECONDS} s). The library waits "
                    "for it, because it is not a call of STS."
                )
            yield step._replace(note=note)

    def _load_credentials(self, request: AssumeRoleRequest) -> str:
        load_caller_credentials(self.source, request)
        # With the clients created here, the next steps take the time of their calls.
        _ = self._unsigned_client, self._signed_client
        return str(getattr(self.source.get_credentials(), "method", "unknown"))

    def _reach_sts(self) -> str:
        try:
            _answer_in_time(self._unsigned_client, _probe_sts)
        except (ResponseParserError, KeyError, ValueError):
            # moto's server, a local AWS, finds the service by the signature.
            _answer_in_time(self._signed_client, _probe_sts)
        return str(self._unsigned_client.meta.endpoint_url)


class _Role:
    """The questions about one role."""

    def __init__(self, caller: _Caller, arguments: dict[str, Any]) -> None:
        known = inspect.signature(assume_role_request).parameters.keys()
        request_arguments = {name: value for name, value in arguments.items() if name not in _SESSION_ARGUMENTS}
        for name in request_arguments:
            if name not in known:
                raise ConfigurationError(name, f"is not an argument{did_you_mean(name, known | _SESSION_ARGUMENTS)}")
        if "role_arn" not in arguments:
            raise ConfigurationError("role_arn", "is required: the role to assume")
        self.request: AssumeRoleRequest = assume_role_request(**request_arguments)
        self._caller = caller
        self._session = assumed_session(source_session=caller.source, **arguments)

    def steps(self) -> Iterator[Step]:
        """Yield each step as it ends, up to the first that fails."""
        questions: list[_Question] = [
            ("assume role", self._assume_role),
            ("who am I then", lambda: _answer_in_time(self._session.client("sts", config=DEFAULT_CONFIG), _identity)),
            ("until", lambda: f"{self._expires_at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}"),
            ("seconds left", lambda: round((self._expires_at - datetime.now(UTC)).total_seconds())),
        ]
        return _ask(questions, self.request, self._caller.source)

    def _assume_role(self) -> str:
        credentials: Any = self._session.get_credentials()
        credentials.get_frozen_credentials()
        return self.request.role_arn

    @property
    def _expires_at(self) -> datetime:
        return self._caller.expirations[self.request.assumed_role_arn]


def _ask(questions: list[_Question], request: AssumeRoleRequest, source: boto3.Session) -> Iterator[Step]:
    """Yield a step for each question, up to the first that fails."""
    for title, ask in questions:
        answer: str | int = ""
        error: XacctLambdaError | None = None
        started = time.perf_counter()
        try:
            answer = ask()
        except XacctLambdaError as failure:
            error = failure
        except STS_EXCEPTIONS as failure:
            error, _ = translate_error(failure, request, source)
        yield Step(title, answer, time.perf_counter() - started, error)
        if error is not None:
            return


def _answer_in_time(client: Any, ask: Callable[[Any], _Answer]) -> _Answer:
    """Return STS's answer, or raise after the time limit. botocore's timeouts are for each address of STS."""
    outcome: Future[_Answer] = Future()

    def answer() -> None:
        try:
            outcome.set_result(ask(client))
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits
            outcome.set_exception(error)

    start_thread(answer)
    try:
        return outcome.result(_ANSWER_SECONDS)
    except TimeoutError as error:
        raise ConnectTimeoutError(endpoint_url=client.meta.endpoint_url) from error


def _probe_sts(client: Any) -> None:
    """Ask STS who the caller is. A refusal of the unsigned request is enough: STS was reached."""
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
        # It takes no permission, but the policy of a VPC endpoint for STS may allow only AssumeRole.
        if error.response.get("Error", {}).get("Code") != "AccessDenied":
            raise
        return "unknown: GetCallerIdentity is denied"
