"""What an answer of STS means: which side refused, in which account to change what. Pure: text in, text out.

STS's texts are those of https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html. A reason that
STS gives is passed on; where it gives none, the causes are listed in the order to look at them, and none is claimed.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from xacct_lambda import policy
from xacct_lambda._request import AssumeRoleRequest
from xacct_lambda.exceptions import ConfigurationError

_NOT_AUTHORIZED: Final = re.compile(
    r"(?:User: (?P<caller>arn:\S+) is )?not authorized to perform:? (?P<action>sts:\w+)", re.ASCII | re.IGNORECASE
)
_REASON: Final = re.compile(
    r"(?P<how>because no|with an explicit deny in (?:an?|the)) (?P<kind>[\w -]*?(?:policy|boundary))\b"
    r"(?:: (?P<arn>arn:\S*[\w/-]))?",
    re.ASCII | re.IGNORECASE,
)
_SESSION_ARN: Final = re.compile(r"arn:(aws[a-z-]*):sts::([0-9]{12}):assumed-role/([\w+=,.@-]+)(?:/\S*)?", re.ASCII)
_ANY_ARN: Final = re.compile(r"arn:aws[a-z-]*:[\w-]*:[\w-]*:[0-9]*:[\w+=,.@:/-]+", re.ASCII)
_CONSTRAINT: Final = re.compile(
    r"(?:Value '.*?' )?at '(?P<member>\w+)[\w.]*' failed to satisfy constraint: (?P<rule>[^;]*)", re.DOTALL
)
_STS_HOST: Final = re.compile(r"//sts\.(?P<region>[a-z0-9-]+)\.amazonaws\.com/")

_VERBS: Final = {
    "sts:AssumeRole": "assume",
    "sts:TagSession": "pass session tags to",
    "sts:SetSourceIdentity": "set a source identity on",
}
_TRUST: Final = frozenset({"resource-based policy", "role trust policy"})
_COMMAND_PREFIX: Final = "python -m xacct_lambda"
_PATH: Final = " (with the path of the caller's role, as in role/service-role/…, which STS does not show)"
_EVENTUAL_CONSISTENCY: Final = "A change of policy may take a minute to be felt."
_EXTERNAL_ID: Final = "EXTERNAL_ID"
"""Stands in messages for the external ID, which they do not hold."""


def refusal(code: str, text: str, request: AssumeRoleRequest) -> str:
    """Return the message for an answer by which STS refuses the request.

    Args:
        code: The answer's error code.
        text: The answer's text, without secrets.
        request: What was asked for.
    """
    advice = _BY_CODE.get(code, _diagnose_by_message)(text, request)
    return f"{advice} {_quoted(code, text)}"


def failure(code: str, text: str, request: AssumeRoleRequest) -> str:
    """Return the message for an answer by which STS says that it did not get to the request: throttling, a fault."""
    if re.search("(?i)thrott|slowdown|toomany|limitexceeded", code) or "Rate exceeded" in text:
        advice = (
            "too many calls. Those of all execution environments add up: assume fewer roles at once, and less often (a "
            "longer duration_seconds, sessions that are kept, no prefetch)"
        )
    else:
        advice = "a fault on its side, which passes as a rule"
    return f"STS did not serve {request.role_arn}: {advice}. {_quoted(code, text)}"


def no_answer(code: str, text: str, request: AssumeRoleRequest, *, region_name: str | None = None) -> str:
    """Return the message for a call that STS did not answer; ``code`` is the name of botocore's exception.

    The Region is looked for in the text where it is not given.
    """
    if code == "ResponseParserError":
        return (
            f"What answered for {request.role_arn} is not STS: {text}. Look at what stands in its place (endpoint_url, "
            "AWS_ENDPOINT_URL, a proxy)"
        )
    if code in {"SSLError", "ProxyConnectionError"}:
        return (
            f"No answer from STS for {request.role_arn}: {text}. Look at what is between: the proxy "
            "that HTTPS_PROXY names, or the certificates that AWS_CA_BUNDLE names"
        )
    host = _STS_HOST.search(text)
    region = region_name or (host["region"] if host else "REGION")
    return (
        f"No answer from STS for {request.role_arn}: {text.removesuffix('.')}. A function in a VPC needs a route: "
        f"a NAT gateway, or an interface endpoint for STS (com.amazonaws.{region}.sts) "
        "with private DNS; its security group must let it out on port 443, and the endpoint's must let it in"
    )


def _quoted(code: str, text: str) -> str:
    if any(failed["member"] == "externalId" for failed in _CONSTRAINT.finditer(text)):
        text = _CONSTRAINT.sub("at '\\g<member>' failed to satisfy constraint: \\g<rule>", text)
    said = " ".join(filter(None, [text, code and f"({code})"]))
    return f"STS said: {said}" if said else "STS said nothing."


class _Caller(NamedTuple):
    """Who called, as policies name them."""

    arn: str
    partition: str
    account_id: str
    is_session: bool
    """Whether the name was read off a session, whose ARN leaves out the role's path."""


def _caller(arn: str) -> _Caller | None:
    """Return who called, where it is someone whom a policy can name."""
    session = _SESSION_ARN.fullmatch(arn)
    principal_arn = f"arn:{session[1]}:iam::{session[2]}:role/{session[3]}" if session else arn
    try:
        policy.trust_policy(principal_arn)
    except ConfigurationError:
        return None
    _, partition, _, _, account_id, _ = principal_arn.split(":", 5)
    return _Caller(principal_arn, partition, account_id, is_session=session is not None)


class _AccessDenied:
    """One refusal of access: who may not do what to which role, and the statements that would allow it."""

    def __init__(self, text: str, request: AssumeRoleRequest) -> None:
        denied = _NOT_AUTHORIZED.search(text)
        self.request = request
        self.action = denied["action"] if denied else "sts:AssumeRole"
        named = denied and denied["caller"]
        self.caller = _caller(named) if named else None
        self._who = self.caller.arn if self.caller else named or "The caller, whom STS does not name,"
        tag_keys = [key for key, _ in request.tags]
        self._source_identity = "*" if request.source_identity else None
        self._inherited = ""
        # Tags and a source identity that are not the request's are handed on by the caller's own session.
        if self.action == "sts:TagSession" and not tag_keys:
            tag_keys = ["*"]
            self._inherited = " (not of the request, which has none: the caller's session hands on its transitive ones)"
        if self.action == "sts:SetSourceIdentity" and not self._source_identity:
            self._source_identity = "*"
            self._inherited = " (not of the request, which has none: the caller's session keeps its own)"
        self._tags = dict.fromkeys(tag_keys, "*")

    def message(self, advice: str) -> str:
        """Return the message: who may not do what, and the advice."""
        verb = _VERBS.get(self.action, f"perform {self.action} on")
        return f"{self._who} may not {verb} {self.request.role_arn}{self._inherited}{advice} {_EVENTUAL_CONSISTENCY}"

    @property
    def permission(self) -> str:
        """The statement for the caller's policies."""
        return self._statement(
            policy.permissions_policy(self.request.role_arn, source_identity=self._source_identity, tags=self._tags)
        )

    @property
    def trust(self) -> str:
        """The statement for the role's trust policy; in words where the caller is not known."""
        if self.caller is None:
            return f"a statement that allows {self.action} to the caller's role (to see which: {_COMMAND_PREFIX} check)"
        statement = self._statement(
            policy.trust_policy(
                self.caller.arn,
                external_id=_EXTERNAL_ID if self.request.external_id else None,
                source_identity=self._source_identity,
                tags=self._tags,
            )
        )
        # The console makes execution roles with the path service-role/, and without it the principal is another one.
        return f"{statement}{_PATH if self.caller.is_session else ''}"

    def _statement(self, document: dict[str, Any]) -> str:
        statements = policy.statements_of(document)
        of_action = [statement for statement in statements if statement["Action"] == self.action]
        return json.dumps((of_action or statements)[0])

    @property
    def command(self) -> str:
        """How to print both policies."""
        arguments = ["--role-arn", self.request.role_arn]
        arguments += ["--execution-role-arn", self.caller.arn if self.caller else "EXECUTION_ROLE_ARN"]
        arguments += ["--external-id", _EXTERNAL_ID] if self.request.external_id else []
        arguments += ["--source-identity", self._source_identity] if self._source_identity else []
        for key in self._tags:
            arguments += ["--tag", key]
        return f" To print both policies: {_COMMAND_PREFIX} policy {shlex.join(arguments)}."

    @property
    def conditions(self) -> str:
        """What the request says about the commonest conditions of trust policies."""
        if self.request.external_id:
            return "it may demand another external ID (sts:ExternalId) than the one that was sent"
        tags = "" if self.request.tags else ", nor session tags (aws:RequestTag/…)"
        return f"it may demand an external ID (sts:ExternalId), and none was sent{tags}"


def _access_denied(text: str, request: AssumeRoleRequest) -> str:
    if "root account" in text:
        return (
            f"{request.role_arn} cannot be assumed with the keys of an account's root user, nor can any other role. "
            "Call STS as a role or as an IAM user."
        )
    denial = _AccessDenied(text, request)
    partition = request.role_arn.split(":")[1]
    if denial.caller and denial.caller.partition != partition:
        return denial.message(
            f": the caller is in the partition {denial.caller.partition}, the role in {partition}, and no policy "
            "reaches from one into the other. Correct the role's ARN."
        )
    reason = _REASON.search(text)
    return _with_reason(denial, reason) if reason else _without_reason(denial)


def _with_reason(denial: _AccessDenied, reason: re.Match[str]) -> str:
    kind = reason["kind"].lower()
    if "explicit deny" in reason["how"].lower():
        named = f", {reason['arn']}," if reason["arn"] else ""
        return denial.message(
            f": {_policy_of(denial, kind)}{named} denies it. An explicit deny outweighs every allow: that "
            "statement must change, or no longer apply to the call."
        )
    if kind == "identity-based policy":
        return denial.message(
            f": STS found no policy of the caller{_account_suffix(denial.caller)} that allows it, so look there first. "
            f"Add {denial.permission}. The role's trust policy (account {denial.request.account_id}) must allow it too."
            f"{denial.command}"
        )
    if kind in _TRUST:
        return denial.message(
            f": the role's trust policy (account {denial.request.account_id}) does not allow it. It may name another "
            f'principal ("Service": "lambda.amazonaws.com" is another); {denial.conditions}; another condition may be '
            f"unmet. It should have {denial.trust}.{denial.command}"
        )
    return denial.message(
        f": {_policy_of(denial, kind)} does not allow it. Such a policy grants nothing, but what it leaves out is "
        f"refused: add {denial.action} on that role."
    )


def _without_reason(denial: _AccessDenied) -> str:
    if denial.action != "sts:AssumeRole":
        return denial.message(
            f". Both sides must allow {denial.action}: add {denial.permission} to the caller's policies"
            f"{_account_suffix(denial.caller)}, "
            f"and {denial.trust} to the role's trust policy (account {denial.request.account_id}).{denial.command}"
        )
    checks = (
        f"the caller's policies{_account_suffix(denial.caller)} have {denial.permission}",
        f"the role's trust policy (account {denial.request.account_id}) has {denial.trust}",
        f"that statement's conditions are met: {denial.conditions}",
        (
            'its principal is not "Service": "lambda.amazonaws.com", nor AROA… (a role deleted since: save the '
            "ARN again), nor a session (assumed-role/…) of another name"
        ),
        "the role's ARN is right, path and case too: a role that does not exist is refused in the same words",
        "no service control, resource control or VPC endpoint policy and no permissions boundary is in the way",
    )
    numbered = "; ".join(f"({number}) {check}" for number, check in enumerate(checks, 1))
    return denial.message(f", and STS does not say why. Check in this order: {numbered}.{denial.command}")


def _account_suffix(caller: _Caller | None) -> str:
    return f" (account {caller.account_id})" if caller else ""


def _policy_of(denial: _AccessDenied, kind: str) -> str:
    """Return a kind of policy with whose it is."""
    of_caller = f"of the caller{_account_suffix(denial.caller)}"
    owner = f"account {denial.request.account_id}"
    described = {
        "identity-based policy": f"an identity-based policy {of_caller}",
        "resource-based policy": f"the role's trust policy ({owner})",
        "role trust policy": f"the role's trust policy ({owner})",
        "service control policy": f"a service control policy of the organization {of_caller}",
        "resource control policy": f"a resource control policy of the role's organization ({owner})",
        "permissions boundary": f"the permissions boundary {of_caller}",
        "session policy": f"the session policy that limits the credentials {of_caller}",
        "vpc endpoint policy": "the policy of the VPC endpoint through which the call reached STS",
    }
    return described.get(kind, f"a {kind}")


def _diagnose_by_message(text: str, request: AssumeRoleRequest) -> str:
    """Diagnose an answer whose code does not tell one cause from another."""
    if "role chaining" in text:
        return (
            f"{request.role_arn} cannot be assumed for {request.duration_seconds} s by a caller that is an assumed "
            "role itself, as every Lambda function is: duration_seconds may be 3600 at most, whatever the role allows."
        )
    if "MaxSessionDuration" in text:
        return (
            f"{request.role_arn} does not allow sessions of {request.duration_seconds} s: lower duration_seconds, or "
            f"raise the role's MaxSessionDuration (account {request.account_id})."
        )
    failed = [
        f"{_argument_of(found['member'])} must {found['rule'].strip().removeprefix('Member must ')}"
        for found in _CONSTRAINT.finditer(text)
    ]
    if failed:
        return f"STS takes other arguments for {request.role_arn}: {'; '.join(failed)}."
    if re.search("is (?:invalid|not valid)", text) and "ARN" in text.upper():
        return _invalid_arn(text, request)
    return f"STS refused the request for {request.role_arn}."


def _argument_of(member: str) -> str:
    """Return the name of this library's argument for a parameter as STS writes it (``roleSessionName``)."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", member).lower()


def _invalid_arn(text: str, request: AssumeRoleRequest) -> str:
    given = _ANY_ARN.search(text)
    arn = given[0] if given else request.role_arn
    if session := _SESSION_ARN.fullmatch(arn):
        return f"{arn} is a session of a role; the role is arn:{session[1]}:iam::{session[2]}:role/[PATH/]{session[3]}."
    _, partition, service, _, account_id, resource = arn.split(":", 5)
    kinds = {"iam role": "not an ARN to STS", "iam user": "an IAM user", "lambda function": "a Lambda function"}
    kind = kinds.get(f"{service} {re.split('[/:]', resource)[0]}", "not a role")
    account = account_id or "ACCOUNT"
    return f"{arn} is {kind}. What can be assumed has the form arn:{partition}:iam::{account}:role/[PATH/]NAME."


def _region_disabled(text: str, request: AssumeRoleRequest) -> str:
    found = re.search(r"account:?\s*([0-9]{12})", text)
    account = f"Account {found[1]}" if found else "The account that STS names"
    return (
        f"{request.role_arn} cannot be assumed in this Region. {account} must activate STS in it (IAM console, Account "
        "settings), or source_session must be of a Region where that account has it active."
    )


def _packed_policy(text: str, request: AssumeRoleRequest) -> str:
    share = re.search(r"([0-9]+)\s?%", text)
    taken = f"take {share[1]} % of" if share else "exceed"
    return (
        f"policy, policy_arns and tags for {request.role_arn} together {taken} the space that STS has for them: name "
        "managed policies in policy_arns in the place of statements in policy, and pass fewer or shorter tags."
    )


def _malformed_policy(_text: str, request: AssumeRoleRequest) -> str:
    return (
        f"The session policy for {request.role_arn} (argument policy, or one of policy_arns) is not a policy in IAM's "
        "grammar. The policies of the role itself are not at fault."
    )


_BY_CODE: Final[dict[str, Callable[[str, AssumeRoleRequest], str]]] = {
    "AccessDenied": _access_denied,
    "AccessDeniedException": _access_denied,
    "MalformedPolicyDocument": _malformed_policy,
    "PackedPolicyTooLarge": _packed_policy,
    "RegionDisabledException": _region_disabled,
}
