"""STS's answers, and what the library makes of them. docs/messages.md shows the same."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from sts_texts import CALLER, DENIED, PARTIES, ROLE

from xacct_lambda import _diagnosis, _errors
from xacct_lambda._request import assume_role_request
from xacct_lambda.exceptions import AssumeRoleError, CallerCredentialsError, STSUnavailableError

MESSAGES = Path(__file__).parents[1] / "docs" / "messages.md"

CALLER_ROLE = "arn:aws:iam::111111111111:role/orders-fn"
TAGS_DENIED = DENIED.replace("AssumeRole ", "TagSession ")
IDENTITY_DENIED = DENIED.replace("AssumeRole ", "SetSourceIdentity ")

PERMISSION = json.dumps({"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": ROLE})
TRUST = json.dumps({"Effect": "Allow", "Principal": {"AWS": CALLER_ROLE}, "Action": "sts:AssumeRole"})
COMMAND = f"python -m xacct_lambda policy --role-arn {ROLE} --execution-role-arn {CALLER_ROLE}"

# One line for each text of STS: its name, the code, the text, and what the message must say.
ACCESS = [
    (
        "no identity-based policy",
        f"{DENIED} because no identity-based policy allows the sts:AssumeRole action",
        [f"{CALLER_ROLE} may not assume {ROLE}", "the caller (account 111111111111)", PERMISSION, COMMAND],
    ),
    (
        "no resource-based policy",
        f"{DENIED} because no resource-based policy allows the sts:AssumeRole action",
        [f"{CALLER_ROLE} may not assume {ROLE}", "trust policy (account 222222222222)", TRUST, COMMAND],
    ),
    (
        "no role trust policy",
        (
            f"User: {CALLER} is not authorized to perform: sts:AssumeRole "
            "because no role trust policy allows the sts:AssumeRole action"
        ),
        [
            "trust policy (account 222222222222) does not allow it",
            TRUST,
            "the request has neither",
            "lambda.amazonaws.com",
            "The role might not exist",
        ],
    ),
    (
        "no service control policy",
        f"{DENIED} because no service control policy allows the sts:AssumeRole action",
        ["a service control policy of the organization of the caller (account 111111111111) does not allow it"],
    ),
    (
        "no permissions boundary",
        f"{DENIED} because no permissions boundary allows the sts:AssumeRole action",
        ["the permissions boundary of the caller (account 111111111111) does not allow it"],
    ),
    (
        "no session policy",
        f"{DENIED} because no session policy allows the sts:AssumeRole action",
        ["the session policy that limits the credentials of the caller (account 111111111111) does not allow it"],
    ),
    (
        "no VPC endpoint policy",
        f"{DENIED} because no VPC endpoint policy allows the sts:AssumeRole action",
        ["the policy of the VPC endpoint through which the call reached STS does not allow it"],
    ),
    (
        "denied by identity-based policy",
        f"{DENIED} with an explicit deny in an identity-based policy",
        ["an identity-based policy of the caller (account 111111111111) denies it"],
    ),
    (
        "denied by trust policy",
        f"{DENIED} with an explicit deny in the role trust policy",
        ["the role's trust policy (account 222222222222) denies it"],
    ),
    (
        "denied by resource-based policy",
        f"{DENIED} with an explicit deny in a resource-based policy",
        ["the role's trust policy (account 222222222222) denies it"],
    ),
    (
        "denied by service control policy",
        f"{DENIED} with an explicit deny in a service control policy",
        ["a service control policy of the organization of the caller (account 111111111111) denies it"],
    ),
    (
        "denied by resource control policy",
        f"{DENIED} with an explicit deny in a resource control policy",
        ["a resource control policy of the role's organization (account 222222222222) denies it"],
    ),
    (
        "denied by permissions boundary",
        f"{DENIED} with an explicit deny in a permissions boundary",
        ["the permissions boundary of the caller (account 111111111111) denies it"],
    ),
    (
        "denied by session policy",
        f"{DENIED} with an explicit deny in a session policy",
        ["the session policy that limits the credentials of the caller (account 111111111111) denies it"],
    ),
    (
        "denied by VPC endpoint policy",
        f"{DENIED} with an explicit deny in a VPC endpoint policy",
        ["the policy of the VPC endpoint through which the call reached STS denies it"],
    ),
    (
        "denied by a policy that STS names",
        (
            f"{DENIED} with an explicit deny in a service control policy: "
            "arn:aws:organizations::999999999999:policy/o-a1b2c3d4e5/service_control_policy/p-12345678."
        ),
        ["arn:aws:organizations::999999999999:policy/o-a1b2c3d4e5/service_control_policy/p-12345678, denies it"],
    ),
    (
        "no reason",
        DENIED,
        [
            f"{CALLER_ROLE} may not assume {ROLE}, and STS doesn't say why",
            f"(1) the caller's policies (account 111111111111) have {PERMISSION}",
            f"(2) the role's trust policy (account 222222222222) has {TRUST}",
            "(3) its conditions are met",
            "(5) the role exists: STS answers the same for a wrong account, path, name, or case",
            COMMAND,
        ],
    ),
    (
        "session tags",
        TAGS_DENIED,
        [
            f"{CALLER_ROLE} may not pass session tags to {ROLE}",
            '"Action": "sts:TagSession", "Resource"',
            '{"AWS": "arn:aws:iam::111111111111:role/orders-fn"}, "Action": "sts:TagSession"',
            f"{COMMAND} --tag",
        ],
    ),
    (
        "source identity",
        IDENTITY_DENIED,
        [
            f"{CALLER_ROLE} may not set a source identity on {ROLE}",
            '"Action": "sts:SetSourceIdentity", "Resource"',
            f"{COMMAND} --source-identity '*'",
        ],
    ),
]
OTHER = [
    (
        "root",
        "AccessDenied",
        "Roles may not be assumed by root accounts.",
        ["The caller uses the keys of an account's root user", ROLE],
    ),
    (
        "role chaining",
        "ValidationError",
        "The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining.",
        ["A caller that is itself an assumed role", "for 7200 s", "Set duration_seconds to 3600 or less"],
    ),
    (
        "maximum session duration",
        "ValidationError",
        "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.",
        [f"{ROLE} does not allow sessions of 7200 s", "MaxSessionDuration (account 222222222222)"],
    ),
    (
        "session name",
        "ValidationError",
        (
            "1 validation error detected: Value 'a b' at 'roleSessionName' failed to satisfy constraint: "
            "Member must satisfy regular expression pattern: [\\w+=,.@-]*"
        ),
        ["role_session_name must satisfy regular expression pattern: [\\w+=,.@-]*"],
    ),
    (
        "external ID",
        "ValidationError",
        (
            "1 validation error detected: Value 'our-id' at 'externalId' failed to satisfy constraint: "
            "Member must have length less than or equal to 1224"
        ),
        ["external_id must have length less than or equal to 1224"],
    ),
    (
        "ARN of a session",
        "ValidationError",
        "arn:aws:sts::222222222222:assumed-role/OrdersReader/session is invalid",
        ["is the ARN of a session. Pass the role's: arn:aws:iam::222222222222:role/[PATH/]OrdersReader"],
    ),
    (
        "ARN of a user",
        "ValidationError",
        "arn:aws:iam::222222222222:user/alice is invalid",
        ["arn:aws:iam::222222222222:user/alice is an IAM user", "arn:aws:iam::222222222222:role/[PATH/]NAME"],
    ),
    (
        "ARN of a function",
        "ValidationError",
        "arn:aws:lambda:eu-west-1:222222222222:function:orders is invalid",
        ["is a Lambda function", "arn:aws:iam::222222222222:role/[PATH/]NAME"],
    ),
    ("ARN", "ValidationError", "ARN is invalid", [f"{ROLE} is not an ARN to STS"]),
    (
        "Region",
        "RegionDisabledException",
        (
            "STS is not activated in this region for account:222222222222. Your account administrator can activate STS "
            "in this region using the IAM Console."
        ),
        ["account 222222222222 has not activated STS in it"],
    ),
    (
        "packed policy",
        "PackedPolicyTooLarge",
        "Packed policy consumes 113% of allotted space, please use smaller policy.",
        ["it takes 113 % of the space", "the caller's session does, with its own tags"],
    ),
    (
        "malformed policy",
        "MalformedPolicyDocument",
        "Syntax errors in policy.",
        ["The session policy", "argument policy"],
    ),
]
CALLERS = [
    (
        "expired",
        "ExpiredToken",
        "The security token included in the request is expired",
        ["STS rejected the caller's own credentials: they have expired", "source session"],
    ),
    (
        "invalid token",
        "InvalidClientTokenId",
        "The security token included in the request is invalid.",
        ["STS rejected the caller's own credentials: they are not valid", "source session"],
    ),
]
# Texts of the same kinds, less usual.
UNUSUAL = [
    (
        "two arguments",
        "ValidationError",
        (
            "2 validation errors detected: Value 'a b' at 'roleSessionName' failed to satisfy constraint: Member must "
            "satisfy regular expression pattern: [\\w+=,.@-]*; Value 'our-id' at 'externalId' failed to satisfy "
            "constraint: Member must satisfy regular expression pattern: [\\w+=,.@:\\/-]*"
        ),
        ["role_session_name must satisfy", "; external_id must satisfy regular expression pattern: [\\w+=,.@:\\/-]*"],
    ),
    (
        "ARN of a bucket",
        "ValidationError",
        "arn:aws:s3:::orders is invalid",
        ["arn:aws:s3:::orders is not a role", "arn:aws:iam::ACCOUNT:role/[PATH/]NAME"],
    ),
    (
        "Region of an account unnamed",
        "RegionDisabledException",
        "STS is not activated in this region",
        ["the account that STS names has not activated STS in it"],
    ),
    (
        "packed policy without figures",
        "PackedPolicyTooLarge",
        "Packed policy is too large",
        ["is too large. The request has none"],
    ),
    ("something new", "SomethingNew", "Says who?", [f"STS refused the request for {ROLE}"]),
    ("nothing said", "SomethingNew", "", [f"STS refused the request for {ROLE}", "STS said: (SomethingNew)"]),
]


def request(**options):
    return assume_role_request(ROLE, duration_seconds=7200, **options)


def with_ids(rows):
    return [pytest.param(*row[1:], id=row[0]) for row in rows]


@pytest.mark.parametrize(("text", "explanation"), with_ids(ACCESS))
@pytest.mark.parametrize("suffix", ["", " (reached max retries: 4)"], ids=["", "retried"])
def test_refused_access(text, explanation, suffix):
    """A refusal of access says who, which role, which account has to change, and what to add."""
    message = _diagnosis.refusal("AccessDenied", text + suffix, request())
    assert [part for part in explanation if part not in message] == []


@pytest.mark.parametrize(("text", "explanation"), with_ids(ACCESS))
@pytest.mark.parametrize("partition", ["aws-cn", "aws-us-gov"])
def test_refused_access_in_other_partitions(text, explanation, partition):
    """In every partition the advice holds, with ARNs of that partition."""

    def there(value):
        return value.replace("arn:aws:", f"arn:{partition}:")

    message = _diagnosis.refusal("AccessDenied", there(text), assume_role_request(there(ROLE)))
    assert [part for part in map(there, explanation) if part not in message] == []


@pytest.mark.parametrize(("text", "explanation"), with_ids(ACCESS))
def test_refused_access_to_a_role_with_a_path(text, explanation):
    """The path of the role stands in the advice."""

    def below(value):
        return value.replace(":role/OrdersReader", ":role/teams/orders/OrdersReader")

    message = _diagnosis.refusal("AccessDenied", below(text), assume_role_request(below(ROLE)))
    assert [part for part in map(below, explanation) if part not in message] == []


@pytest.mark.parametrize(("code", "text", "explanation"), with_ids(OTHER + UNUSUAL))
@pytest.mark.parametrize("suffix", ["", " (reached max retries: 4)"], ids=["", "retried"])
def test_refused_otherwise(code, text, explanation, suffix):
    """Every other answer is told apart by its code, or by its text where codes are shared."""
    message = _diagnosis.refusal(code, text + suffix if text else text, request(external_id="our-id"))
    assert [part for part in explanation if part not in message] == []


@pytest.mark.parametrize(("text", "explanation"), with_ids(ACCESS))
def test_text_of_sts_is_kept(text, explanation):
    """STS's own words end the message, for those who search the web for them."""
    assert _diagnosis.refusal("AccessDenied", text, request()).endswith(f"STS said: {text} (AccessDenied)")


@pytest.mark.parametrize(("code", "text", "explanation"), with_ids(OTHER + UNUSUAL))
def test_external_id_is_not_in_the_message(code, text, explanation):
    """An external ID that STS quotes does not come through, even where nobody has scrubbed the text."""
    assert "our-id" not in _diagnosis.refusal(code, text, request(external_id="our-id"))


def test_external_id_that_was_sent():
    """Where an external ID was sent, it is said that another one may be demanded; the statement holds a placeholder."""
    message = _diagnosis.refusal("AccessDenied", DENIED, request(external_id="our-id"))
    assert "it might require a different external ID (sts:ExternalId) than the one in the request" in message
    assert '"Condition": {"StringEquals": {"sts:ExternalId": "EXTERNAL_ID"}}' in message
    assert f"{COMMAND} --external-id EXTERNAL_ID." in message
    assert "our-id" not in message


def test_tags_that_were_sent():
    """Tags are named by key, never by value, and quoted for the shell."""
    message = _diagnosis.refusal("AccessDenied", TAGS_DENIED, request(tags={"cost center": "k-7741"}))
    assert "--tag 'cost center'." in message
    assert '"StringLike": {"aws:RequestTag/cost center": "*"}' in message
    assert "k-7741" not in message


def test_tags_of_the_callers_session():
    """Where the request sends no tags, those that need the permission are the caller's transitive ones."""
    message = _diagnosis.refusal("AccessDenied", TAGS_DENIED, request())
    assert "the caller's session has transitive tags" in message


def test_source_identity_that_was_sent():
    """A source identity may be a person's name: its value stays out of the message."""
    message = _diagnosis.refusal("AccessDenied", IDENTITY_DENIED, request(source_identity="alice"))
    assert "the caller's session" not in message
    assert "alice" not in message


def test_source_identity_of_the_callers_session():
    """Where the request sends no source identity, it is the one that the caller's session keeps."""
    message = _diagnosis.refusal("AccessDenied", IDENTITY_DENIED, request())
    assert "the caller's session has one" in message


def test_action_of_a_context():
    """The statements that are missing have the action that STS names, and a command that can't print it is left out."""
    text = DENIED.replace("sts:AssumeRole", "sts:SetContext")
    message = _diagnosis.refusal("AccessDenied", text, request())
    assert f"{CALLER_ROLE} may not pass a context (ProvidedContexts) to {ROLE}" in message
    assert message.count('"Action": "sts:SetContext"') == 2
    assert '"Action": "sts:AssumeRole"' not in message
    assert "To print both policies" not in message


def test_action_that_is_new():
    """An action that this library does not know is named as STS names it."""
    text = DENIED.replace("sts:AssumeRole", "sts:SomethingNew")
    assert f"{CALLER_ROLE} may not perform sts:SomethingNew on {ROLE}" in _diagnosis.refusal(
        "AccessDenied", text, request()
    )


def test_deny_of_an_unnamed_policy():
    """If STS doesn't say which policy denies, the message lists the policies that can, and no statement to add."""
    message = _diagnosis.refusal("AccessDenied", f"{DENIED} with an explicit deny", request())
    assert "a policy denies it explicitly, and STS doesn't say which" in message
    assert "(account 111111111111)" in message
    assert "(account 222222222222)" in message
    assert '"Effect": "Allow"' not in message


def test_deny_by_way_of_another_policy():
    """If a policy denies by way of another, the message blames the owner of the other."""
    text = f"{DENIED} with an explicit deny in a VPC endpoint policy transitively through a service control policy"
    assert (
        ": a service control policy of the organization of the caller (account 111111111111) denies it (by way of a "
        "VPC endpoint policy)."
    ) in _diagnosis.refusal("AccessDenied", text, request())


@pytest.mark.parametrize(
    ("arguments", "advice"),
    [
        ({}, "The request has none of the arguments that fill it, so the caller's session does"),
        ({"tags": {"tenant": "blue"}}, ". Pass fewer or shorter tags."),
        ({"policy": {"Statement": []}}, ". Name managed policies in policy_arns instead of a long policy."),
        (
            {"policy_arns": ["arn:aws:iam::aws:policy/ReadOnlyAccess"], "tags": {"tenant": "blue"}},
            ". Name fewer policies in policy_arns, or pass fewer or shorter tags.",
        ),
    ],
    ids=["nothing", "tags", "policy", "two"],
)
def test_arguments_that_fill_the_session_token(arguments, advice):
    """The advice names the arguments that the request has; without any, it names the caller's session."""
    text = "Packed size of session tags consumes 112% of allotted space."
    assert advice in _diagnosis.refusal("PackedPolicyTooLarge", text, request(**arguments))


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("Packed policy consumes 113% of allotted space", "it takes 113 % of the space that STS has"),
        ("Session token size 5,120 bytes exceeds 4,096 bytes", "it has 5120 bytes, and STS allows 4096"),
        ("Session token size 5120 bytes, maximum allowed size 4096", "it has 5120 bytes, and STS allows 4096"),
    ],
)
def test_size_of_the_session_token(text, size):
    """The size is in the message, in percent as until September 2026 or in bytes as since then."""
    assert f"is too large: {size}. " in _diagnosis.refusal("PackedPolicyTooLarge", text, request())


def test_transitive_tags_of_the_callers_session():
    """A tag that the caller's session has as a transitive one can't be passed again."""
    text = "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key"
    assert "Remove the key from tags and transitive_tag_keys" in _diagnosis.refusal(
        "InvalidParameterValue", text, request(tags={"tenant": "blue"})
    )


def test_policy_that_is_new():
    """A kind of policy that this library does not know is named as STS names it."""
    text = f"{DENIED} with an explicit deny in a tenant isolation policy"
    assert ": a tenant isolation policy denies it" in _diagnosis.refusal("AccessDenied", text, request())


def test_path_of_the_callers_role():
    """STS shows the session, without the path of its role, and the advice says so."""
    assert "role/service-role/NAME, because STS doesn't show it" in _diagnosis.refusal(
        "AccessDenied", DENIED, request()
    )


@pytest.mark.parametrize("partition", ["aws", "aws-us-gov"])
def test_path_of_a_role_of_identity_center(partition):
    """The role of a permission set has the path of IAM Identity Center, not that of a function's role."""
    role = f"arn:{partition}:iam::222222222222:role/Reader"
    session = f"arn:{partition}:sts::111111111111:assumed-role/AWSReservedSSO_DataEng_0123456789abcdef/jane"
    text = f"User: {session} is not authorized to perform: sts:AssumeRole on resource: {role}"
    message = _diagnosis.refusal("AccessDenied", text, assume_role_request(role))
    assert "role/aws-reserved/sso.amazonaws.com/REGION/NAME" in message
    assert "service-role" not in message


def test_caller_that_is_a_user():
    """A user is a principal as STS shows it."""
    text = DENIED.replace(CALLER, "arn:aws:iam::111111111111:user/staff/alice")
    message = _diagnosis.refusal("AccessDenied", text, request())
    assert "--execution-role-arn arn:aws:iam::111111111111:user/staff/alice." in message
    assert "STS doesn't show" not in message


def test_caller_with_a_colon_in_its_path():
    """IAM allows colons in a path."""
    user = "arn:aws:iam::111111111111:user/staff:a/alice"
    assert f"--execution-role-arn {user}." in _diagnosis.refusal(
        "AccessDenied", DENIED.replace(CALLER, user), request()
    )


def test_caller_that_no_policy_can_name():
    """Whom STS names is named, even where that is no principal for the role's trust policy."""
    text = DENIED.replace(CALLER, "arn:aws:sts::111111111111:federated-user/bob")
    message = _diagnosis.refusal("AccessDenied", text, request())
    assert message.startswith(f"arn:aws:sts::111111111111:federated-user/bob may not assume {ROLE}")
    assert "--execution-role-arn EXECUTION_ROLE_ARN." in message


@pytest.mark.parametrize("text", ["Access denied", "Not authorized to perform sts:AssumeRole"])
def test_caller_that_is_not_named(text):
    """Where STS does not say who called, the message says how to find out, and names no one."""
    message = _diagnosis.refusal("AccessDenied", text, request())
    assert message.startswith(f"The caller, which STS doesn't name, may not assume {ROLE}, and STS doesn't say why")
    assert "the caller's policies have {" in message
    assert "to the caller's role (to see which: python -m xacct_lambda check --role-arn" in message
    assert "--execution-role-arn EXECUTION_ROLE_ARN." in message


def test_no_text_is_too_strange():
    """Whatever STS says, the diagnosis does not fail: cut off anywhere, each text still has a message."""
    long_name = DENIED.replace("assumed-role/orders-fn", f"assumed-role/{'x' * 65}")
    texts = [long_name] + [text for _, text, _ in ACCESS] + [text for _, _, text, _ in OTHER + UNUSUAL]
    cut = {text[:end] for text in texts for end in range(len(text))}
    assert all(ROLE in _diagnosis.refusal(code, text, request()) for text in cut for code in ("AccessDenied", "Other"))


@pytest.mark.parametrize(("code", "text", "explanation"), with_ids(CALLERS))
def test_rejected_caller(code, text, explanation):
    """An answer about the caller's own credentials is a CallerCredentialsError, and leaves out the role's policies."""
    raised, _ = _errors.translate_error(client_error(code, text), request())
    assert isinstance(raised, CallerCredentialsError)
    assert [part for part in explanation if part not in str(raised)] == []
    assert "trust policy" not in str(raised)


def test_caller_of_another_partition():
    """No policy reaches across partitions, so there the ARN is what is wrong."""
    text = DENIED.replace(CALLER, CALLER.replace("arn:aws:", "arn:aws-cn:"))
    message = _diagnosis.refusal("AccessDenied", text, request())
    assert (
        ": the caller is in the partition aws-cn and the role in aws, and no policy can allow that. Correct the role's "
        "ARN. Policy changes"
    ) in message


@pytest.mark.parametrize(
    ("code", "text", "explanation"),
    [
        ("Throttling", "Rate exceeded", "there are too many calls"),
        ("ThrottlingException", "Rate exceeded (reached max retries: 4)", "there are too many calls"),
        ("RequestThrottled", "", "there are too many calls"),
        ("SlowDown", "Please reduce your request rate", "there are too many calls"),
        ("TooManyRequestsException", "", "there are too many calls"),
        ("RequestLimitExceeded", "", "there are too many calls"),
        ("ServiceUnavailable", "Rate exceeded", "there are too many calls"),
        ("InternalFailure", "", "it has an internal problem"),
        ("ServiceUnavailable", "Try again", "it has an internal problem"),
    ],
)
def test_failures(code, text, explanation):
    """Throttling is told from a fault of STS, and the message says what lowers the rate."""
    message = _diagnosis.failure(code, text, request())
    assert message.startswith(f"STS did not serve the request for {ROLE}: {explanation}")


def client_error(code, text, status=403):
    response = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "AssumeRole")


def test_error_is_a_client_error():
    """Code that catches ClientError and reads the code and the operation needs no change."""
    raised, cause = _errors.translate_error(client_error("AccessDenied", DENIED), request())
    assert isinstance(raised, AssumeRoleError)
    assert isinstance(raised, ClientError)
    assert (raised.code, raised.response["Error"]["Message"], raised.operation_name, raised.role_arn) == (
        "AccessDenied",
        DENIED,
        "AssumeRole",
        ROLE,
    )
    assert isinstance(cause, ClientError)


def test_error_pickles_with_its_message():
    """The advice survives a pickle, as between processes."""
    raised, _ = _errors.translate_error(client_error("AccessDenied", DENIED), request())
    copy = pickle.loads(pickle.dumps(raised))
    assert (type(copy), str(copy), copy.response) == (type(raised), str(raised), raised.response)


def test_error_without_code_and_text():
    """An answer without a code and a text is an answer of which nothing is known."""
    raised, _ = _errors.translate_error(ClientError({"Error": {}}, "AssumeRole"), request())
    assert str(raised) == f"STS refused the request for {ROLE}. STS said nothing."


def test_answer_of_5xx_is_no_refusal():
    """An answer of 5xx is a failure of STS, whatever its code."""
    raised, _ = _errors.translate_error(client_error("Strange", "", status=503), request())
    assert isinstance(raised, STSUnavailableError)
    assert "it has an internal problem" in str(raised)


# What the message says before STS's own words, by the party that has to act.
BLAMED = {
    "The caller's account: its policies": r"(?:polic(?:y|ies)|boundary|credentials) of the caller \(account 1{12}\)",
    "The caller's organization": r": a service control policy of the organization of the caller \(account 1{12}\)",
    "The role's account: its trust policy, or the role's name": r": the role's trust policy \(account 2{12}\) d",
    "The role's organization": r": a resource control policy of the role's organization \(account 2{12}\)",
    "The owner of the VPC endpoint": r": the policy of the VPC endpoint through which the call reached STS d",
    "Either side: check in order": r"STS doesn't say (?:why\. Check in this order: \(1\) the|which\.)",
    "Both sides: tags, source identity, and contexts need their own action": r"Both sides must allow sts:(?:T|Set)",
    "The call: use other credentials": r"keys of an account's root user.*Call STS as a role or as an IAM user",
    "The call: its arguments": (
        r"duration_seconds|STS rejected the (?:arguments|tags|context)|Pass the|session policy .* is not a valid"
    ),
    "The call or the caller's session: the size of the session token": r"token .* is too large.*the caller's session",
    "The endpoint or the Region of the call": r"Set the Region of source_session",
    "The account that is named: it must activate STS in the Region": r"has not activated STS in it",
    "The caller's own credentials": r"^STS rejected the caller's own credentials",
    "The number of calls": r"too many calls in the caller's account",
    "Nobody: STS has a problem, which passes": r"it has an internal problem\. Try again later",
}
KINDS = {
    "The caller's own credentials": CallerCredentialsError,
    "The number of calls": STSUnavailableError,
    "Nobody: STS has a problem, which passes": STSUnavailableError,
}
TEXTS = [pytest.param(party, text, id=text.text) for party, texts in PARTIES.items() for text in texts]


def message_of(text):
    raised, _ = _errors.translate_error(client_error(text.code, text.text, text.status), request())
    return f"{type(raised).__name__}: {raised}"


@pytest.mark.parametrize(("party", "text"), TEXTS)
def test_party_that_is_blamed(party, text):
    """Each message tells the party that has to act, and no other."""
    raised, _ = _errors.translate_error(client_error(text.code, text.text, text.status), request())
    advice = str(raised).partition("STS said")[0]
    assert type(raised) is KINDS.get(party, AssumeRoleError) or isinstance(raised, KINDS.get(party, AssumeRoleError))
    assert re.search(BLAMED[party], advice)
    exclusive = {name: BLAMED[name] for name in list(BLAMED)[1:6] + list(BLAMED)[9:]}
    others = [name for name, pattern in exclusive.items() if name != party and re.search(pattern, advice)]
    assert others == []


def test_every_party_is_blamed():
    """The table has at least 70 texts, each once, and a party for each."""
    texts = [text for texts in PARTIES.values() for text in texts]
    assert len(set(texts)) == len(texts) >= 70
    assert BLAMED.keys() == PARTIES.keys()


def messages_page():
    """Return docs/messages.md: each text of STS with what the library makes of it."""
    introduction = """# Messages

Search this page for the error that you see. It shows each answer of STS to AssumeRole, and below it the library's
message. The answers are grouped by who has to change something. In all examples, the function `orders-fn` in account
111111111111 has the execution role `orders-fn`, and assumes `OrdersReader` in account 222222222222 for 7200 seconds.
For what to do, see [troubleshooting](troubleshooting.md).

| who has to change something | answers |
| --- | --- |
"""
    rows = [f"| [{party}](#{anchor(party)}) | {len(texts)} |\n" for party, texts in PARTIES.items()]
    sections = [
        f"\n## {party}\n"
        + "".join(
            f"\n```text\n{client_error(text.code, text.text)}\n```\n\n```text\n{message_of(text)}\n```\n"
            for text in texts
        )
        for party, texts in PARTIES.items()
    ]
    return introduction + "".join(rows + sections)


def anchor(heading):
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def test_page_of_messages(record_message):
    """docs/messages.md shows what the library says, word for word."""
    record_message(MESSAGES, MESSAGES.read_text(encoding="utf-8"), messages_page())


@pytest.mark.parametrize(
    ("sent", "explanation"),
    [
        ({}, "an external ID (sts:ExternalId) or session tags (aws:RequestTag/…), and the request has neither; "),
        ({"tags": {"tenant": "blue"}}, "an external ID (sts:ExternalId), and the request has none; "),
        ({"external_id": "our-id"}, "a different external ID (sts:ExternalId) than the one in the request; "),
    ],
    ids=["nothing", "tags", "external ID"],
)
def test_conditions_that_the_request_may_not_meet(sent, explanation):
    """Of the conditions that trust policies have, those are named that the request may not meet."""
    assert explanation in _diagnosis.refusal("AccessDenied", DENIED, assume_role_request(ROLE, **sent))


def test_codes_of_the_library_are_documented():
    """Each error code that the library adds is explained in docs/exceptions.md and docs/troubleshooting.md."""
    package = Path(_errors.__file__).parent
    sources = "".join(path.read_text(encoding="utf-8") for path in package.glob("_*.py"))
    codes = set(re.findall(r'unavailable\(\s*[\w.]+,\s*"(\w+)"', sources)) | set(
        re.findall(r'"Code": "(\w+)"', sources)
    )
    codes |= set(re.findall(r'code, text = "(\w+)"', sources))
    assert len(codes) >= 6
    for page in ("exceptions.md", "troubleshooting.md"):
        text = (MESSAGES.parent / page).read_text(encoding="utf-8")
        assert [code for code in codes if f"| `{code}` |" not in text] == []


def test_an_error_without_frames_gets_no_note():
    """An error that was never raised keeps its text as it is."""
    error = _errors.without_frames(LookupError("a hook's own"))

    assert not hasattr(error, "__notes__")
