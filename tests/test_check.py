"""``check``, against an STS on loopback that answers as it is told."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import re
import shlex
import socket
import sys
import threading
from pathlib import Path

import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer
from scripted_sts import CALLER, black_hole, drop, hang, refuse, scripted_sts, serve

from xacct_lambda import _sts, check
from xacct_lambda.__main__ import main
from xacct_lambda.exceptions import ConfigurationError

ROLE = "arn:aws:iam::222222222222:role/teams/orders/OrdersReader"
DENIED = f"User: {CALLER} is not authorized to perform: sts:AssumeRole on resource: {ROLE}"
PROVIDER = "arn:aws:iam::aws:contextProvider/IdentityCenter"
SECRETS = (
    "callers-secret",
    "callers-token",
    "AKIACALLER",
    "issued-secret-key",
    "issued-session-token",
    "our-id",
    "ASIA",
)


@pytest.fixture
def sts(monkeypatch):
    with scripted_sts() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        monkeypatch.setenv("AWS_SESSION_TOKEN", "callers-token")
        yield server


def titles(printed: str) -> dict[str, str]:
    """Return the answer beside each title."""
    rows = [line.partition(" ms   ") for line in printed.splitlines() if " ms   " in line]
    return {title.rstrip("0123456789 "): answer for title, _, answer in rows}


def test_success(sts, capsys):
    """A role that lets the caller in: who one is, before and after, where STS is, how long it lasts."""
    assert main(["check", "--role-arn", ROLE, "--duration-seconds", "900"]) == 0
    answers = titles(capsys.readouterr().out)
    assert 890 < int(answers.pop("seconds left")) <= 900
    assert answers.pop("until").endswith("Z")
    assert answers == {
        "credentials": "env",
        "reach STS": sts.url,
        "who am I": CALLER,
        "assume role": ROLE,
        "who am I then": "arn:aws:sts::222222222222:assumed-role/OrdersReader/xacct-lambda",
    }


def test_report(sts, capsys):
    """With ``--json`` the same is one object: the caller's steps, and the steps of each role, with times in seconds."""
    assert main(["check", "--role-arn", ROLE, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["ok"], report["error"]) == (True, None)
    (role,) = report["roles"]
    assert (role["role_arn"], role["ok"], role["error"]) == (ROLE, True, None)
    assert [step["step"] for step in report["steps"]] == ["credentials", "reach STS", "who am I"]
    assert [step["step"] for step in role["steps"]] == ["assume role", "who am I then", "until", "seconds left"]
    assert all(step["ok"] and step["seconds"] >= 0 for step in report["steps"] + role["steps"])
    assert report["steps"][2]["answer"] == CALLER


def test_one_assume_role_call(sts):
    """The check takes one AssumeRole call."""
    main(["check", "--role-arn", ROLE])
    assert sorted(sts.actions) == ["AssumeRole", "GetCallerIdentity", "GetCallerIdentity", "unsigned"]


def test_options_reach_sts(sts):
    """Every option of assumed_session has a flag, and what the flags say is what STS is asked."""
    arguments = {
        "--role-session-name": "try",
        "--external-id": "our-id",
        "--source-identity": "alice",
        "--duration-seconds": "901",
        "--policy": '{"Statement": []}',
        "--policy-arn": "arn:aws:iam::aws:policy/ReadOnlyAccess",
        "--tag": "team=orders",
        "--transitive-tag-key": "team",
        "--region-name": "eu-north-1",
        "--min-ttl-seconds": "60",
        "--extra": json.dumps({"ProvidedContexts": [{"ProviderArn": PROVIDER, "ContextAssertion": "abcd"}]}),
    }
    flat = [text for pair in arguments.items() for text in pair]
    assert arguments.keys() == check._OPTIONS.keys()
    assert main(["check", "--role-arn", ROLE, *flat]) == 0
    (request,) = (request for request in sts.calls if request["Action"] == "AssumeRole")
    assert {name: value for name, value in request.items() if name not in {"Action", "Version"}} == {
        "RoleArn": ROLE,
        "RoleSessionName": "try",
        "ExternalId": "our-id",
        "SourceIdentity": "alice",
        "DurationSeconds": "901",
        "Policy": '{"Statement":[]}',
        "PolicyArns.member.1.arn": "arn:aws:iam::aws:policy/ReadOnlyAccess",
        "Tags.member.1.Key": "team",
        "Tags.member.1.Value": "orders",
        "TransitiveTagKeys.member.1": "team",
        "ProvidedContexts.member.1.ProviderArn": PROVIDER,
        "ProvidedContexts.member.1.ContextAssertion": "abcd",
    }


def test_profile(sts, capsys, tmp_path):
    """``--profile`` names the caller's credentials."""
    (tmp_path / "credentials").write_text(
        "[other]\naws_access_key_id = AKIAOTHER\naws_secret_access_key = other-secret\n"
    )
    assert main(["check", "--role-arn", ROLE, "--profile", "other"]) == 0
    assert titles(capsys.readouterr().out)["credentials"] == "shared-credentials-file"


REFUSALS = {
    "no identity-based policy": (
        refuse("AccessDenied", f"{DENIED} because no identity-based policy allows the sts:AssumeRole action"),
        "no policy of the caller (account 111111111111) allows it",
    ),
    "trust policy": (
        refuse("AccessDenied", f"{DENIED} because no resource-based policy allows the sts:AssumeRole action"),
        "the role's trust policy (account 222222222222) does not allow it",
    ),
    "no reason": (refuse("AccessDenied", DENIED), "and STS doesn't say why"),
    "session tags": (
        refuse("AccessDenied", DENIED.replace("sts:AssumeRole", "sts:TagSession")),
        "Both sides must allow sts:TagSession",
    ),
    "Region": (
        refuse("RegionDisabledException", "STS is not activated in this region for account:222222222222."),
        "account 222222222222 has not activated STS in it",
    ),
    "duration": (
        refuse(
            "ValidationError",
            "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
            status=400,
        ),
        "Set duration_seconds to 3600 or less",
    ),
    "throttling": (refuse("Throttling", "Rate exceeded", status=400), "too many calls"),
    "5xx": (refuse("InternalFailure", "", status=500), "it has an internal problem"),
    "dropped": (drop, "The address of STS is set by AWS_ENDPOINT_URL"),
}


@pytest.mark.parametrize(("refusal", "explanation"), REFUSALS.values(), ids=REFUSALS)
def test_refusal(sts, capsys, refusal, explanation):
    """A refusal ends the check with the diagnosis and status 1, below what went well."""
    sts.instead["AssumeRole"] = refusal
    assert main(["check", "--role-arn", ROLE]) == 1
    printed = capsys.readouterr().out
    assert list(titles(printed)) == ["credentials", "reach STS", "who am I", "assume role"]
    assert titles(printed)["assume role"] == "no"
    assert explanation in printed


def test_hint_at_another_caller(sts, capsys):
    """If STS refuses a role, the command says whose rights it checked. If STS fails, the caller doesn't matter."""
    sts.instead["AssumeRole"] = refuse("AccessDenied", DENIED)
    main(["check", "--role-arn", ROLE])
    assert capsys.readouterr().out.endswith(f"\n\n{check._OTHER_CALLER}\n")
    sts.instead["AssumeRole"] = refuse("InternalFailure", "", status=500)
    main(["check", "--role-arn", ROLE])
    main(["check", "--role-arn", ROLE, "--role-arn", f"{ROLE}2"])
    assert check._OTHER_CALLER not in capsys.readouterr().out


def test_refusal_in_the_report(sts, capsys):
    """With ``--json`` the diagnosis is there with the error's class and code."""
    sts.instead["AssumeRole"] = refuse("AccessDenied", DENIED)
    assert main(["check", "--role-arn", ROLE, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    (role,) = report["roles"]
    assert (report["ok"], role["ok"], role["steps"][-1]["ok"]) == (False, False, False)
    assert (report["error"]["type"], report["error"]["code"]) == ("AssumeRoleError", "AccessDenied")
    assert role["error"] == report["error"]
    assert "and STS doesn't say why" in report["error"]["message"]


ROLES = [f"arn:aws:iam::222222222222:role/Reader{number}" for number in range(50)]


def flags(role_arns):
    return [text for role_arn in role_arns for text in ("--role-arn", role_arn)]


@pytest.fixture
def patient(monkeypatch):
    """The time limits are so long that a busy machine doesn't reach them."""
    config = _sts.DEFAULT_CONFIG.merge(Config(connect_timeout=60, read_timeout=60))
    for module in (_sts, check):
        monkeypatch.setattr(module, "DEFAULT_CONFIG", config)
    monkeypatch.setattr(check, "_ANSWER_SECONDS", 60)


@pytest.mark.usefixtures("patient")
def test_many_roles_at_once(sts, capsys, monkeypatch):
    """50 roles take two round trips instead of one: 32 AssumeRole calls wait for STS at the same time."""
    monkeypatch.setattr(check, "default_workers", lambda: 32)
    first_wave = threading.Barrier(32)
    waiting = itertools.count()

    def answer_together(handler, call):
        if next(waiting) < 32:
            first_wave.wait(60)
        return serve(handler, call)

    sts.instead["AssumeRole"] = answer_together
    assert main(["check", *flags(ROLES)]) == 0
    printed = capsys.readouterr().out
    assert [role_arn for role_arn in ROLES if f"   {role_arn}   2" not in printed] == []
    assert "50 of 50 roles can be assumed." in printed
    assert (sts.count(), sts.count("unsigned")) == (50, 1)


def test_some_of_many_roles(sts, capsys):
    """The roles that can't be assumed are named with their diagnosis, after all roles were tried; the status is 1."""

    def refuse_one(handler, call):
        answer = serve if call["RoleArn"] != ROLES[1] else refuse("AccessDenied", f"{DENIED} with an explicit deny")
        return answer(handler, call)

    sts.instead["AssumeRole"] = refuse_one
    assert main(["check", *flags(ROLES[:3]), "--role-arn", ROLES[0]]) == 1
    printed = capsys.readouterr().out
    assert re.findall(r"(Reader\d)   (no|2)", printed) == [("Reader0", "2"), ("Reader1", "no"), ("Reader2", "2")]
    assert "2 of 3 roles can be assumed." in printed
    assert printed.count("AssumeRoleError: ") == 1
    assert printed.count("If your function runs as another role") == 1
    assert main(["check", "--json", *flags(ROLES[:3])]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [role["ok"] for role in report["roles"]] == [True, False, True]
    assert report["error"] == report["roles"][1]["error"]


def test_many_roles_in_a_test_event(sts):
    """A test event may name a list of roles."""
    report = check.lambda_handler({"role_arn": ROLES[:2], "duration_seconds": 900}, None)
    assert [(role["role_arn"], role["ok"]) for role in report["roles"]] == [(ROLES[0], True), (ROLES[1], True)]


HANDLER = """
from xacct_lambda import assume_role, assumed_session

@assume_role("arn:aws:iam::222222222222:role/Reader", clients=["s3"], tags={"team": "orders"}, source_identity="fn")
@assume_role("arn:aws:iam::333333333333:role/Writer", clients=["sqs"])
def two(event, context, *, s3, sqs): ...

@assume_role("arn:aws:iam::222222222222:role/Reader", clients=["s3"], external_id="our-id")
def with_external_id(event, context, *, s3): ...

@assume_role(lambda event, context: event["role"], clients=["s3"], allowed_roles=["arn:aws:iam::222222222222:role/*"],
             tags=lambda event, context: event["tags"])
def of_event(event, context, *, s3): ...
"""


@pytest.fixture
def handlers(tmp_path, monkeypatch):
    (tmp_path / "checked_handlers.py").write_text(HANDLER)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "checked_handlers"
    sys.modules.pop("checked_handlers", None)


def test_roles_of_a_handler(sts, capsys, handlers):
    """``--from-handler`` checks all roles of a handler, with the tags and the source identity that it sends."""
    assert main(["check", "--from-handler", f"{handlers}:two"]) == 0
    assert "2 of 2 roles can be assumed." in capsys.readouterr().out
    calls = {call["RoleArn"]: call for call in sts.calls if call["Action"] == "AssumeRole"}
    assert sorted(calls) == ["arn:aws:iam::222222222222:role/Reader", "arn:aws:iam::333333333333:role/Writer"]
    reader, writer = calls["arn:aws:iam::222222222222:role/Reader"], calls["arn:aws:iam::333333333333:role/Writer"]
    assert (reader["Tags.member.1.Value"], reader["SourceIdentity"]) == ("orders", "fn")
    assert "SourceIdentity" not in writer


def test_handler_with_an_external_id(sts, capsys, handlers):
    """A handler's external ID can't be read, so the command asks for it."""
    assert main(["check", "--from-handler", f"{handlers}:with_external_id"]) == 2
    assert "--external-id: is required: the handler sends one" in capsys.readouterr().err
    assert main(["check", "--from-handler", f"{handlers}:with_external_id", "--external-id", "our-id"]) == 0


def test_handler_with_roles_of_the_event(sts, capsys, handlers):
    """For a handler whose role and tags depend on the event, the command asks for both."""
    command = ["check", "--from-handler", f"{handlers}:of_event"]
    assert main(command) == 2
    assert "--role-arn: is required: the handler's role depends on the event" in capsys.readouterr().err
    assert main([*command, "--role-arn", ROLE]) == 2
    assert "depend on the event: pass --tag or --source-identity" in capsys.readouterr().err
    assert main([*command, "--role-arn", ROLE, "--tag", "team=orders"]) == 0


def test_no_role(capsys):
    """The command asks for a role if it has none."""
    assert main(["check"]) == 2
    assert "--role-arn: is required, or --from-handler" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["--role-arn", ROLE, "--profile", "nowhere"], ["--role-arn", "Reader"], []],
    ids=["profile", "role", "nothing"],
)
def test_mistakes_in_json(sts, capsys, arguments):
    """With ``--json`` a mistake in the arguments is JSON too, with the same keys, and the status is 2."""
    assert main(["check", "--json", *arguments]) == 2
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert (report["ok"], report["steps"], report["roles"], printed.err) == (False, [], [], "")
    assert report["error"].keys() == {"type", "code", "message"}


@pytest.mark.filterwarnings("ignore::getpass.GetPassWarning")
def test_mfa_without_a_terminal(sts, capsys, tmp_path, monkeypatch):
    """A profile that needs an MFA code fails as the caller's credentials if there is no terminal, in JSON too."""
    (tmp_path / "config").write_text(
        "[profile base]\naws_access_key_id = AKIABASE\naws_secret_access_key = base-secret\n"
        "[profile mfa]\nrole_arn = arn:aws:iam::111111111111:role/Dev\nsource_profile = base\n"
        "mfa_serial = arn:aws:iam::111111111111:mfa/jane\n"
    )
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert main(["check", "--json", "--profile", "mfa", "--role-arn", ROLE]) == 1
    report = json.loads(capsys.readouterr().out)
    assert [(step["step"], step["ok"]) for step in report["steps"]] == [("credentials", False)]
    assert report["error"]["type"] == "CallerCredentialsError"
    assert "there is no terminal" in report["error"]["message"]


def test_slow_credentials_of_the_caller(sts, capsys, monkeypatch):
    """Credentials that take longer than a function has are waited for, and the report says so."""
    clock = itertools.count(0, 4)
    monkeypatch.setattr(check.time, "perf_counter", lambda: float(next(clock)))
    assert main(["check", "--role-arn", ROLE]) == 0
    assert "This is longer than a Lambda function has by default (3 s)" in capsys.readouterr().out


def test_quick_credentials_of_the_caller(sts, capsys):
    """There is no note about credentials that take no time."""
    assert main(["check", "--role-arn", ROLE, "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["steps"][1]["note"] is None


def test_callers_credentials_have_expired(sts, capsys):
    """STS is reached with any credentials; who the caller is takes valid ones."""
    sts.instead["GetCallerIdentity"] = refuse("ExpiredToken", "The security token included in the request is expired")
    assert main(["check", "--role-arn", ROLE]) == 1
    printed = capsys.readouterr().out
    assert titles(printed)["who am I"] == "no"
    assert "STS rejected the caller's own credentials (provider env): they have expired" in printed


def test_caller_may_not_ask(sts, capsys):
    """A VPC endpoint that lets AssumeRole pass alone is no reason to stop; nor does one then know who one is."""
    sts.instead["GetCallerIdentity"] = refuse("AccessDenied", "no")
    assert main(["check", "--role-arn", ROLE]) == 0
    answers = titles(capsys.readouterr().out)
    assert answers["who am I"] == answers["who am I then"] == "unknown: GetCallerIdentity is denied"


@pytest.mark.parametrize("failure", [drop, refuse("ServiceUnavailable", "", status=503)], ids=["dropped", "5xx"])
def test_sts_is_out_of_reach(sts, capsys, failure):
    """An STS that does not answer what is not signed is out of reach, and nobody asks further."""
    sts.instead["unsigned"] = failure
    assert main(["check", "--role-arn", ROLE]) == 1
    assert titles(capsys.readouterr().out)["reach STS"] == "no"
    assert sts.actions == ["unsigned"]


@pytest.mark.parametrize(
    ("status", "body"),
    [(200, "<"), (200, "<html/>"), (403, "<html>Sign in to the network</html>"), (407, "proxy")],
    ids=["garbage", "page", "refusal", "proxy"],
)
def test_something_else_answers(sts, capsys, status, body):
    """A proxy or a page in the place of STS is no STS that was reached, and the advice says where to look."""
    sts.always = lambda _handler, _call: (status, body)
    assert main(["check", "--role-arn", ROLE]) == 1
    printed = capsys.readouterr().out
    assert titles(printed)["reach STS"] == "no"
    assert "is not one of STS" in printed
    assert sts.actions == ["unsigned", "GetCallerIdentity"]


@pytest.mark.usefixtures("patient")
def test_motos_server(monkeypatch, capsys):
    """A local AWS that tells services apart by the signature alone is reached as well."""
    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*server.get_host_and_port()))
        assert main(["check", "--role-arn", ROLE]) == 0
    finally:
        server.stop()
    assert titles(capsys.readouterr().out)["assume role"] == ROLE


def test_sts_hangs(sts, capsys):
    """A network that swallows packets costs a second, not Lambda's whole time-out."""
    sts.always = hang
    assert main(["check", "--role-arn", ROLE, "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["error"]["code"] == "ReadTimeoutError"


def test_no_credentials(sts, capsys, monkeypatch):
    """Without credentials the first step fails, and nothing is sent."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name)
    assert main(["check", "--role-arn", ROLE]) == 1
    assert "Unable to locate credentials" in capsys.readouterr().out
    assert sts.actions == []


@pytest.mark.parametrize(
    ("arguments", "explanation"),
    [
        (["--role-arn", "OrdersReader"], "is not the ARN of a role"),
        (["--role-arn", ROLE, "--external-id", "our id"], "external_id: must be 2 to 1224"),
        (["--role-arn", ROLE, "--profile", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_on_the_command_line(sts, capsys, arguments, explanation):
    """A mistake on the command line is named on standard error with status 2, and nothing is sent."""
    assert main(["check", *arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("xacct-lambda check: ")
    assert explanation in printed.err
    assert sts.actions == []


def test_tag_without_value(capsys):
    """A tag on the command line has a value."""
    with pytest.raises(SystemExit):
        main(["check", "--role-arn", ROLE, "--tag", "team"])
    assert "'team' is not KEY=VALUE" in capsys.readouterr().err


def test_extra_that_is_no_json(capsys):
    """Where further parameters are no JSON, the message says so, and at which character."""
    with pytest.raises(SystemExit):
        main(["check", "--role-arn", ROLE, "--extra", '{"a'])
    assert "argument --extra: not a JSON document: Unterminated string" in capsys.readouterr().err


@pytest.mark.parametrize("form", [[], ["--json"]], ids=["text", "json"])
@pytest.mark.parametrize("refusal", [None, *(refusal for refusal, _ in REFUSALS.values())], ids=["success", *REFUSALS])
def test_no_secret_is_printed(sts, capsys, caplog, form, refusal):
    """Keys, tokens and the external ID are in neither the output nor the library's log, not even at DEBUG."""
    caplog.set_level("DEBUG", logger="xacct_lambda")
    if refusal is not None:
        sts.instead["AssumeRole"] = refusal
    main(["check", "--role-arn", ROLE, "--external-id", "our-id", *form])
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("xacct_lambda")]
    printed = "".join([*capsys.readouterr(), *logged])
    assert [secret for secret in SECRETS if secret in printed] == []


def test_external_id_that_sts_quotes(sts, capsys):
    """An external ID that STS quotes is not printed either."""
    sts.instead["AssumeRole"] = refuse(
        "ValidationError", "Value 'our-id' at 'externalId' failed to satisfy constraint: x"
    )
    assert main(["check", "--role-arn", ROLE, "--external-id", "our-id"]) == 1
    assert "our-id" not in capsys.readouterr().out


def test_test_event(sts):
    """As a function's handler, the check takes the arguments of assumed_session as a test event."""
    report = check.lambda_handler({"role_arn": ROLE, "tags": {"team": "orders"}, "external_id": "our-id"}, None)
    assert report["ok"]
    assert json.loads(json.dumps(report)) == report


@pytest.mark.parametrize(
    ("event", "explanation"),
    [
        (None, 'event: must have the arguments of assumed_session, such as {"role_arn": "arn:…"}'),
        ({}, "role_arn: is required: the role to assume"),
        ({"key1": "value1"}, "key1: is not an argument"),
        ({"role_arn": ROLE, "source_session": "other"}, "source_session: is not an argument. Did you mean"),
        ({"role_arn": ROLE, "region_nam": 1}, "region_nam: is not an argument. Did you mean 'region_name'?"),
    ],
)
def test_test_event_that_is_none(event, explanation):
    """An event without a role, or with what a test event cannot hold, is refused by its name."""
    with pytest.raises(ConfigurationError) as caught:
        check.lambda_handler(event, None)
    assert str(caught.value).startswith(explanation)


def documented():
    """Return the commands of docs/cli.md with their output."""
    page = (Path(__file__).parents[1] / "docs" / "cli.md").read_text(encoding="utf-8")
    return re.findall(r"```console\n\$ python -m xacct_lambda (check .*)\n((?:.*\n)*?)```", page)


@pytest.mark.parametrize(("line", "output"), documented(), ids=["success", "refusal"])
def test_documented_runs(sts, capsys, line, output):
    """What docs/cli.md shows of the command is what it prints, but for the times."""

    def timeless(text):
        return re.sub(r" +\d+ ms|\d+$|[\d:T-]+Z", "", text, flags=re.MULTILINE)

    if "AssumeRoleError" in output:
        refused = re.search(r"STS said: (.*) \(AccessDenied\)", output)
        sts.instead["AssumeRole"] = refuse("AccessDenied", refused[1])
    main(shlex.split(line))
    printed = capsys.readouterr().out.replace(sts.url, "https://sts.eu-west-1.amazonaws.com")
    assert timeless(printed) == timeless(output)


@pytest.mark.parametrize("addresses", [3, None], ids=["three that drop packets", "none that is found in time"])
def test_sts_cannot_be_found(monkeypatch, capsys, addresses):
    """However many addresses STS has, and however long the search for its name takes, the check ends before that."""
    release = threading.Event()
    with contextlib.ExitStack() as stack:
        found = addresses and [(socket.AF_INET, socket.SOCK_STREAM, 6, "", black_hole(stack))] * addresses
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_options: found or release.wait(60) or [])
        assert main(["check", "--role-arn", ROLE]) == 1
        was_cut_short = not release.is_set()
        release.set()
    assert titles(capsys.readouterr().out)["reach STS"] == "no"
    assert was_cut_short
