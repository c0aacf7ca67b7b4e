"""From a refusal by STS to the side that refused, and to the change to make in its account. Pure: text in, text out.

For STS's texts, see https://docs.aws.amazon.com/IAM/latest/UserGuide/troubleshoot_access-denied.html. If STS gives a
reason, the message explains it. If not, the message lists the possible causes in the order in which to check them.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from xacct_lambda import policy
from xacct_lambda._request import AssumeRoleRequest, role_arn_parts
from xacct_lambda.exceptions import ConfigurationError

_NOT_AUTHORIZED: Final = re.compile(
    r"(?:User: (?P<caller>arn:\S+) is )?not authorized to perform:? (?P<action>sts:\w+)", re.ASCII | re.IGNORECASE
)
_REASON: Final = re.compile(
    r"(?P<how>because no|with an explicit deny in (?:an?|the)) (?P<kind>[\w -]*?(?:policy|boundary))\b"
    r"(?: transitively through (?:an?|the) (?P<through>[\w -]*?(?:policy|boundary))\b)?"
    r"(?:: (?P<arn>arn:\S*[\w/-]))?",
    re.ASCII | re.IGNORECASE,
)
_SESSION_ARN: Final = re.compile(r"arn:(aws[a-z-]*):sts::([0-9]{12}):assumed-role/([\w+=,.@-]+)(?:/\S*)?", re.ASCII)
_ANY_ARN: Final = re.compile(r"arn:aws[a-z-]*:[\w-]*:[\w-]*:[0-9]*:[\w+=,.@:/-]+", re.ASCII)
_CONSTRAINT: Final = re.compile(
    r"(?:Value '.*?' )?at '(?P<member>\w+)[\w.]*' failed to satisfy constraint: (?P<rule>[^;]*)", re.DOTALL
)

_VERBS: Final = {
    "sts:AssumeRole": "assume",
    "sts:TagSession": "pass session tags to",
    "sts:SetSourceIdentity": "set a source identity on",
    "sts:SetContext": "pass a context (ProvidedContexts) to",
}
_TRUST: Final = frozenset({"resource-based policy", "role trust policy"})
_COMMAND_PREFIX: Final = "python -m xacct_lambda"
_PATH: Final = " (add the path of the caller's role, as in role/service-role/NAME, because STS doesn't show it)"
# https://docs.aws.amazon.com/singlesignon/latest/userguide/referencingpermissionsets.html
_PATH_OF_IDENTITY_CENTER: Final = (
    " (add the path of the caller's role, because STS doesn't show it: role/aws-reserved/sso.amazonaws.com/REGION/NAME "
    "with the Region of your IAM Identity Center, or without REGION/ if that is us-east-1)"
)
_EVENTUAL_CONSISTENCY: Final = "Policy changes can take a minute to take effect."
_MISSING_ROLE: Final = "The role might not exist: check its ARN, with the path and the case of the name"
_REJECTIONS: Final = frozenset(
    {"AuthFailure", "InvalidAccessKeyId", "InvalidClientTokenId", "InvalidToken", "UnrecognizedClientException"}
)
"""Codes by which a service says that it doesn't know the credentials."""
# https://docs.aws.amazon.com/accounts/latest/reference/manage-acct-regions.html: every Region since 2019 is opt-in.
_DEFAULT_REGIONS: Final = frozenset(
    {
        *("ap-northeast-1", "ap-northeast-2", "ap-northeast-3", "ap-south-1", "ap-southeast-1", "ap-southeast-2"),
        *("aws-global", "ca-central-1", "eu-central-1", "eu-north-1", "eu-west-1", "eu-west-2", "eu-west-3"),
        *("sa-east-1", "us-east-1", "us-east-2", "us-west-1", "us-west-2"),
    }
)
_EXTERNAL_ID: Final = "EXTERNAL_ID"
"""The placeholder for the external ID, which no message contains."""
_MAX_TOKEN_BYTES: Final = 4096
"""STS's limit for the session token since 2026-09-15."""


def refusal(code: str, text: str, request: AssumeRoleRequest) -> str:
    """Return the message for an answer by which STS refuses the request.

    Args:
        code: The answer's error code.
        text: The answer's text, without secrets.
        request: The refused request.
    """
    advice = _BY_CODE.get(code, _diagnose_by_message)(text, request)
    return f"{advice} {_quote(code, text)}"


def rejection_by_service(code: str, text: str, request: AssumeRoleRequest, region_name: str | None) -> str | None:
    """Return advice for a service's answer to a request that is signed as the role, or None.

    Args:
        code: The error code of the service.
        text: The service's text.
        request: The request for the role.
        region_name: The Region of the client.
    """
    is_opt_in = region_name not in {None, *_DEFAULT_REGIONS} and role_arn_parts(request.role_arn).partition == "aws"
    if code in _REJECTIONS and is_opt_in:
        return (
            f"Account {request.account_id} might not have enabled the Region {region_name}: an opt-in Region rejects "
            "the credentials of accounts that have not. Enable it in the account's settings, or use another Region."
        )
    if "session policy" in text and (request.policy or request.policy_arns):
        return (
            f"The session policy (policy, policy_arns) limits {request.role_arn} to what it lists, and grants nothing: "
            "add the action to it."
        )
    if "with an explicit deny in an identity-based policy" in text:
        return (
            f"If somebody revoked the active sessions of {request.role_arn}, sessions from before that time are "
            "denied: cache_clear() gets a new one. Otherwise a policy of the role denies the action."
        )
    return None


def failure(code: str, text: str, request: AssumeRoleRequest) -> str:
    """Return the message for an answer by which STS says that it can't serve the request now."""
    if re.search("(?i)thrott|slowdown|toomany|limitexceeded", code) or "Rate exceeded" in text:
        advice = (
            "there are too many calls in the caller's account, counting all execution environments. Assume fewer roles "
            "at once, use a longer duration_seconds, reuse sessions, or turn prefetch off"
        )
    else:
        advice = "it has an internal problem. Try again later"
    return f"STS did not serve the request for {request.role_arn}: {advice}. {_quote(code, text)}"


def _quote(code: str, text: str) -> str:
    if any(failed["member"] == "externalId" for failed in _CONSTRAINT.finditer(text)):
        text = _CONSTRAINT.sub("at '\\g<member>' failed to satisfy constraint: \\g<rule>", text)
    answer = " ".join(filter(None, [text, code and f"({code})"]))
    return f"STS said: {answer}" if answer else "STS said nothing."


class _Caller(NamedTuple):
    """The principal that called STS, as policies name it."""

    arn: str
    partition: str
    account_id: str
    is_session: bool
    """Whether STS showed the ARN of a session, which leaves out the role's path."""


def _caller(arn: str) -> _Caller | None:
    """Return the principal that called STS, or None if policies can't name it."""
    session = _SESSION_ARN.fullmatch(arn)
    principal_arn = f"arn:{session[1]}:iam::{session[2]}:role/{session[3]}" if session else arn
    try:
        policy.trust_policy(principal_arn)
    except ConfigurationError:
        return None
    _, partition, _, _, account_id, _ = principal_arn.split(":", 5)
    return _Caller(principal_arn, partition, account_id, is_session=session is not None)


class _AccessDenied:
    """One denied action: the caller, the action, the role, and the statements that would allow it."""

    def __init__(self, text: str, request: AssumeRoleRequest) -> None:
        denied_call = _NOT_AUTHORIZED.search(text)
        self.request = request
        self.action = denied_call["action"] if denied_call else "sts:AssumeRole"
        caller_arn = denied_call and denied_call["caller"]
        self.caller = _caller(caller_arn) if caller_arn else None
        self._subject = self.caller.arn if self.caller else caller_arn or "The caller, which STS doesn't name,"
        tag_keys = [key for key, _ in request.tags]
        self._source_identity = "*" if request.source_identity else None
        self._origin = ""
        # If the request has no tags or no source identity, the caller's own session passes them on.
        if self.action == "sts:TagSession" and not tag_keys:
            tag_keys = ["*"]
            self._origin = " (the request has none, but the caller's session has transitive tags)"
        if self.action == "sts:SetSourceIdentity" and not self._source_identity:
            self._source_identity = "*"
            self._origin = " (the request has none, but the caller's session has one)"
        self._tags = dict.fromkeys(tag_keys, "*")

    def message(self, advice: str) -> str:
        """Return the message: who may not do what, and the advice."""
        verb = _VERBS.get(self.action, f"perform {self.action} on")
        return f"{self._subject} may not {verb} {self.request.role_arn}{self._origin}{advice} {_EVENTUAL_CONSISTENCY}"

    @property
    def permission(self) -> str:
        """The statement for the caller's policies."""
        return self._statement(
            policy.permissions_policy(self.request.role_arn, source_identity=self._source_identity, tags=self._tags)
        )

    @property
    def trust(self) -> str:
        """The statement for the role's trust policy, in words if the caller is unknown."""
        if self.caller is None:
            return (
                f"a statement that allows {self.action} to the caller's role (to see which: {_COMMAND_PREFIX} check "
                f"--role-arn {self.request.role_arn})"
            )
        statement = self._statement(
            policy.trust_policy(
                self.caller.arn,
                external_id=_EXTERNAL_ID if self.request.external_id else None,
                source_identity=self._source_identity,
                tags=self._tags,
            )
        )
        # The console creates execution roles with the path service-role/. Without it, the principal is a different one.
        path = _PATH_OF_IDENTITY_CENTER if "role/AWSReservedSSO_" in self.caller.arn else _PATH
        return f"{statement}{path if self.caller.is_session else ''}"

    def _statement(self, document: dict[str, Any]) -> str:
        statements = policy.statements_of(document)
        matching = [statement for statement in statements if statement["Action"] == self.action]
        # The generated policies don't have every action that STS may check.
        return json.dumps(matching[0] if matching else statements[0] | {"Action": self.action})

    @property
    def command(self) -> str:
        """How to print both policies."""
        if self.action not in {"sts:AssumeRole", "sts:SetSourceIdentity", "sts:TagSession"}:
            return ""
        arguments = ["--role-arn", self.request.role_arn]
        arguments += ["--execution-role-arn", self.caller.arn if self.caller else "EXECUTION_ROLE_ARN"]
        arguments += ["--external-id", _EXTERNAL_ID] if self.request.external_id else []
        arguments += ["--source-identity", self._source_identity] if self._source_identity else []
        for key in self._tags:
            arguments += ["--tag", key]
        return f" To print both policies: {_COMMAND_PREFIX} policy {shlex.join(arguments)}."

    @property
    def conditions(self) -> str:
        """The most common conditions of trust policies that the request may not meet."""
        if self.request.external_id:
            return "it might require a different external ID (sts:ExternalId) than the one in the request"
        tags = "" if self.request.tags else " or session tags (aws:RequestTag/…)"
        verb = "has none" if tags == "" else "has neither"
        return f"it might require an external ID (sts:ExternalId){tags}, and the request {verb}"


def _access_denied(text: str, request: AssumeRoleRequest) -> str:
    if "root account" in text:
        return (
            f"The caller uses the keys of an account's root user, which can't assume {request.role_arn} or any other "
            "role. Call STS as a role or as an IAM user."
        )
    denial = _AccessDenied(text, request)
    partition = role_arn_parts(request.role_arn).partition
    if denial.caller and denial.caller.partition != partition:
        return denial.message(
            f": the caller is in the partition {denial.caller.partition} and the role in {partition}, and no policy "
            "can allow that. Correct the role's ARN."
        )
    reason = _REASON.search(text)
    if reason:
        return _with_reason(denial, reason)
    return _denied_by_unknown_policy(denial) if "explicit deny" in text else _without_reason(denial)


def _with_reason(denial: _AccessDenied, reason: re.Match[str]) -> str:
    kind = (reason["through"] or reason["kind"]).lower()
    if "explicit deny" in reason["how"].lower():
        arn = f", {reason['arn']}," if reason["arn"] else ""
        through = f" (by way of a {reason['kind']})" if reason["through"] else ""
        return denial.message(
            f": {_policy_of(denial, kind)}{arn} denies it{through}. An explicit deny overrides every allow: change "
            "that statement, or its conditions."
        )
    if kind == "identity-based policy":
        return denial.message(
            f": no policy of the caller{_account_suffix(denial.caller)} allows it, as far as STS checked, so start "
            f"there. Add {denial.permission}. The role's trust policy (account {denial.request.account_id}) must allow "
            f"it too.{denial.command}"
        )
    if kind in _TRUST:
        return denial.message(
            f": the role's trust policy (account {denial.request.account_id}) does not allow it. {_MISSING_ROLE}. If "
            "it exists, its trust policy might name a different principal, for example the service "
            f"lambda.amazonaws.com. Or {denial.conditions}. Or a different condition might not be met. It should have "
            f"{denial.trust}.{denial.command}"
        )
    return denial.message(
        f": {_policy_of(denial, kind)} does not allow it. Such a policy grants nothing, but denies what it doesn't "
        f"list: add {denial.action} on that role."
    )


def _denied_by_unknown_policy(denial: _AccessDenied) -> str:
    caller = _account_suffix(denial.caller)
    return denial.message(
        f": a policy denies it explicitly, and STS doesn't say which. Check the policies, the permissions boundary, "
        f"and the service control policies of the caller{caller}, and the trust policy and the resource control "
        f"policies of the role (account {denial.request.account_id}), and the policy of a VPC endpoint for STS. An "
        "explicit deny overrides every allow."
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
        f"its conditions are met: {denial.conditions}",
        (
            "its principal is not the service lambda.amazonaws.com, not AROA… (a deleted role: save the ARN again), "
            "and not a session (assumed-role/…) with a different name"
        ),
        "the role exists: STS answers the same for a wrong account, path, name, or case of the name",
        "no service control policy, resource control policy, VPC endpoint policy, or permissions boundary denies it",
    )
    numbered = "; ".join(f"({number}) {check}" for number, check in enumerate(checks, 1))
    return denial.message(f", and STS doesn't say why. Check in this order: {numbered}.{denial.command}")


def _account_suffix(caller: _Caller | None) -> str:
    return f" (account {caller.account_id})" if caller else ""


def _policy_of(denial: _AccessDenied, kind: str) -> str:
    """Return a kind of policy with its owner."""
    caller_owner = f"of the caller{_account_suffix(denial.caller)}"
    owner = f"account {denial.request.account_id}"
    owners = {
        "identity-based policy": f"an identity-based policy {caller_owner}",
        "resource-based policy": f"the role's trust policy ({owner})",
        "role trust policy": f"the role's trust policy ({owner})",
        "service control policy": f"a service control policy of the organization {caller_owner}",
        "resource control policy": f"a resource control policy of the role's organization ({owner})",
        "permissions boundary": f"the permissions boundary {caller_owner}",
        "session policy": f"the session policy that limits the credentials {caller_owner}",
        "vpc endpoint policy": "the policy of the VPC endpoint through which the call reached STS",
    }
    return owners.get(kind, f"a {kind}")


def _diagnose_by_message(text: str, request: AssumeRoleRequest) -> str:
    """Diagnose an answer with a code that has several causes."""
    if "role chaining" in text:
        return (
            f"A caller that is itself an assumed role, as every Lambda function is, can't assume {request.role_arn} "
            f"for {request.duration_seconds} s. Set duration_seconds to 3600 or less, whatever the role allows."
        )
    if "MaxSessionDuration" in text:
        return (
            f"{request.role_arn} does not allow sessions of {request.duration_seconds} s. Lower duration_seconds, or "
            f"raise the role's MaxSessionDuration (account {request.account_id})."
        )
    failed = [
        f"{_argument_of(constraint['member'])} must {constraint['rule'].strip().removeprefix('Member must ')}"
        for constraint in _CONSTRAINT.finditer(text)
    ]
    if failed:
        return f"STS rejected the arguments for {request.role_arn}: {'; '.join(failed)}."
    if re.search("(?i)transitive tag", text):
        return (
            f"STS rejected the tags for {request.role_arn}: the caller's session has a transitive tag with the same "
            "key, and nothing can replace that. Remove the key from tags and transitive_tag_keys."
        )
    if re.search("is (?:invalid|not valid)", text) and "ARN" in text.upper():
        return _invalid_arn(text, request)
    return f"STS refused the request for {request.role_arn}."


def _argument_of(member: str) -> str:
    """Return the argument of this library for a parameter in STS's spelling, such as ``roleSessionName``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", member).lower()


def _invalid_arn(text: str, request: AssumeRoleRequest) -> str:
    quoted_arn = _ANY_ARN.search(text)
    arn = quoted_arn[0] if quoted_arn else request.role_arn
    if session := _SESSION_ARN.fullmatch(arn):
        role_arn = f"arn:{session[1]}:iam::{session[2]}:role/[PATH/]{session[3]}"
        return f"{arn} is the ARN of a session. Pass the role's: {role_arn}."
    _, partition, service, _, account_id, resource = arn.split(":", 5)
    kinds = {"iam role": "not an ARN to STS", "iam user": "an IAM user", "lambda function": "a Lambda function"}
    kind = kinds.get(f"{service} {re.split('[/:]', resource)[0]}", "not a role")
    account = account_id or "ACCOUNT"
    return f"{arn} is {kind}. Pass the ARN of a role: arn:{partition}:iam::{account}:role/[PATH/]NAME."


def _region_disabled(text: str, request: AssumeRoleRequest) -> str:
    match = re.search(r"account:?\s*([0-9]{12})", text)
    account = f"account {match[1]}" if match else "the account that STS names"
    return (
        f"{request.role_arn} can't be assumed in this Region: {account} has not activated STS in it. Activate it (IAM "
        "console, Account settings), or use a source_session in a Region where it is active."
    )


def _token_too_large(text: str, request: AssumeRoleRequest) -> str:
    values = {"policy": request.policy, "policy_arns": request.policy_arns, "tags": request.tags}
    arguments = [name for name, value in values.items() if value]
    return (
        f"The session token for {request.role_arn} is too large{_token_size(text)}. {_token_advice(arguments)} The "
        "size depends on policy, policy_arns, and tags, and on the transitive tags of the caller's session."
    )


def _token_size(text: str) -> str:
    """Return the size that STS reports, in its words before or after 2026-09-15. Empty if STS doesn't report it."""
    if share := re.search(r"([0-9]+)\s?%", text):
        return f": it takes {share[1]} % of the space that STS has"
    sizes = [int(number.replace(",", "")) for number in re.findall(r"[0-9][0-9,]*", text)]
    larger = [size for size in sizes if size > _MAX_TOKEN_BYTES]
    return f": it has {larger[0]} bytes, and STS allows {_MAX_TOKEN_BYTES}" if larger else ""


def _token_advice(arguments: list[str]) -> str:
    if not arguments:
        return (
            "The request has none of the arguments that fill it, so the caller's session does, with its own tags. "
            "Reduce those: EKS Pod Identity, for example, adds six tags unless disableSessionTags is set."
        )
    advice = {
        "policy": "name managed policies in policy_arns instead of a long policy",
        "policy_arns": "name fewer policies in policy_arns",
        "tags": "pass fewer or shorter tags",
    }
    text = ", or ".join(advice[name] for name in arguments)
    return f"{text[0].upper()}{text[1:]}."


def _malformed_policy(_text: str, request: AssumeRoleRequest) -> str:
    return (
        f"The session policy for {request.role_arn} (argument policy, or one of policy_arns) is not a valid IAM "
        "policy. The role's own policies are not the cause."
    )


def _invalid_context(_text: str, request: AssumeRoleRequest) -> str:
    return (
        f"STS rejected the context for {request.role_arn}: ProvidedContexts (argument extra) is malformed, expired, or "
        "from a provider that STS doesn't trust."
    )


def _wrong_signature_scope(_text: str, request: AssumeRoleRequest) -> str:
    # The other texts with this code are about the caller's credentials.
    return (
        f"The request for {request.role_arn} was signed for a Region or a service that this STS endpoint does not "
        "serve. Set the Region of source_session to the one of the endpoint, or remove the endpoint "
        "(AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL, endpoint_url)."
    )


_BY_CODE: Final[dict[str, Callable[[str, AssumeRoleRequest], str]]] = {
    "AccessDenied": _access_denied,
    "AccessDeniedException": _access_denied,
    "InvalidContextAssertion": _invalid_context,
    "MalformedPolicyDocument": _malformed_policy,
    "PackedPolicyTooLarge": _token_too_large,
    "PackedPolicyTooLargeException": _token_too_large,
    "RegionDisabledException": _region_disabled,
    "SignatureDoesNotMatch": _wrong_signature_scope,
}
