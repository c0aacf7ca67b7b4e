"""What STS and the services of credential providers say, from public reports and AWS's documentation, by who must act.

Names, accounts, and Regions are replaced. ``docs/messages.md`` has all of these with the library's messages, and
``test_diagnosis.py`` checks that each message blames the right party.
"""

from __future__ import annotations

from typing import NamedTuple

CALLER = "arn:aws:sts::111111111111:assumed-role/orders-fn/orders-fn"
ROLE = "arn:aws:iam::222222222222:role/OrdersReader"
DENIED = f"User: {CALLER} is not authorized to perform: sts:AssumeRole on resource: {ROLE}"
USER_DENIED = DENIED.replace(CALLER, "arn:aws:iam::111111111111:user/staff/jane")
PATTERN = "Member must satisfy regular expression pattern: [\\w+=,.@-]*"


class Text(NamedTuple):
    """An answer of STS."""

    code: str
    text: str
    status: int = 403
    operation: str = "AssumeRole"


def _denied(*endings: str, action: str = "AssumeRole") -> list[Text]:
    return [
        Text("AccessDenied", DENIED.replace("AssumeRole ", f"{action} ") + ending.replace("AssumeRole", action))
        for ending in endings
    ]


def _no(kind: str) -> str:
    return f" because no {kind} allows the sts:AssumeRole action"


def _deny(kind: str) -> str:
    return f" with an explicit deny in {kind}"


def _invalid(text: str, code: str = "ValidationError") -> Text:
    return Text(code, text, 400)


ORGANIZATION_ARN = "arn:aws:organizations::999999999999:policy/o-a1b2c3d4e5"

PARTIES: dict[str, list[Text]] = {
    "The caller's account: its policies": [
        *_denied(
            _no("identity-based policy"),
            _no("permissions boundary"),
            _no("session policy"),
            _deny("an identity-based policy"),
            _deny("an identity-based policy: arn:aws:iam::111111111111:policy/DenyAssumeRole"),
            _deny("a permissions boundary"),
            _deny("a permissions boundary: arn:aws:iam::111111111111:policy/Boundary"),
            _deny("a session policy"),
        ),
        Text("AccessDenied", USER_DENIED + _no("identity-based policy")),
        *_denied(_no("identity-based policy"), action="SetSourceIdentity"),
        Text("AccessDenied", DENIED + _no("identity-based policy") + " (reached max retries: 4)"),
    ],
    "The caller's organization": [
        *_denied(
            _no("service control policy"),
            _deny("a service control policy"),
            _deny(f"a service control policy: {ORGANIZATION_ARN}/service_control_policy/p-12345678."),
            _deny("a VPC endpoint policy transitively through a service control policy"),
        ),
    ],
    "The role's account: its trust policy, or the role's name": [
        *_denied(_no("resource-based policy"), _no("role trust policy"), _deny("a resource-based policy")),
        *_denied(_deny("the role trust policy"), _deny("a role trust policy")),
        Text("AccessDenied", f"User: {CALLER} is not authorized to perform: sts:AssumeRole{_no('role trust policy')}"),
        Text("AccessDenied", USER_DENIED + _no("resource-based policy")),
        *_denied(_no("resource-based policy"), action="TagSession"),
    ],
    "The role's organization": _denied(
        _no("resource control policy"),
        _deny("a resource control policy"),
        _deny(f"a resource control policy: {ORGANIZATION_ARN}/resource_control_policy/p-87654321."),
    ),
    "The owner of the VPC endpoint": _denied(_no("VPC endpoint policy"), _deny("a VPC endpoint policy")),
    "Either side: check in order": [
        *_denied("", _deny("").removesuffix(" in ")),
        Text("AccessDenied", USER_DENIED),
        Text("AccessDenied", "Not authorized to perform sts:AssumeRole"),
        Text("AccessDenied", "Access denied"),
        Text("AccessDenied", "Access Denied"),
        Text("AccessDeniedException", DENIED),
    ],
    "Both sides: tags, source identity, and contexts need their own action": [
        *_denied("", action="TagSession"),
        *_denied("", action="SetSourceIdentity"),
        *_denied("", action="SetContext"),
    ],
    "The call: use other credentials": [Text("AccessDenied", "Roles may not be assumed by root accounts.")],
    "The call: its arguments": [
        _invalid("The requested DurationSeconds exceeds the 1 hour session limit for roles assumed by role chaining."),
        _invalid("The requested DurationSeconds exceeds the MaxSessionDuration set for this role."),
        _invalid(
            "1 validation error detected: Value '43201' at 'durationSeconds' failed to satisfy constraint: Member must "
            "have value less than or equal to 43200"
        ),
        _invalid(
            f"1 validation error detected: Value 'a b' at 'roleSessionName' failed to satisfy constraint: {PATTERN}"
        ),
        _invalid(
            "1 validation error detected: Value 'a' at 'roleSessionName' failed to satisfy constraint: Member must "
            "have length greater than or equal to 2"
        ),
        _invalid(
            "1 validation error detected: Value 'our-id' at 'externalId' failed to satisfy constraint: Member must "
            "have length less than or equal to 1224"
        ),
        _invalid(
            f"2 validation errors detected: Value 'a b' at 'roleSessionName' failed to satisfy constraint: {PATTERN}; "
            "Value 'our-id' at 'externalId' failed to satisfy constraint: Member must satisfy regular expression "
            "pattern: [\\w+=,.@:\\/-]*"
        ),
        _invalid(
            "1 validation error detected: Value null at 'roleArn' failed to satisfy constraint: Member must not be null"
        ),
        _invalid("arn:aws:sts::222222222222:assumed-role/OrdersReader/session is invalid"),
        _invalid("arn:aws:iam::222222222222:user/alice is invalid"),
        _invalid("arn:aws:lambda:eu-west-1:222222222222:function:orders is invalid"),
        _invalid("Request ARN is invalid"),
        _invalid("ARN is invalid"),
        _invalid("Syntax errors in policy.", "MalformedPolicyDocument"),
        _invalid("This policy contains invalid Json", "MalformedPolicyDocument"),
        _invalid("The policy failed legacy parsing", "MalformedPolicyDocument"),
        _invalid(
            "Policy document should not specify a principal.",
            "MalformedPolicyDocument",
        ),
        _invalid(
            "One of the specified transitive tag keys can't be set because it conflicts with a transitive tag key from "
            "the calling session.",
            "InvalidParameterValue",
        ),
        _invalid("The context assertion is invalid", "InvalidContextAssertion"),
    ],
    "The call or the caller's session: the size of the session token": [
        _invalid("Packed policy consumes 113% of allotted space, please use smaller policy.", "PackedPolicyTooLarge"),
        _invalid("Packed size of session tags consumes 112% of allotted space.", "PackedPolicyTooLarge"),
        _invalid(
            "The session token size of 4211 bytes exceeds the maximum allowed size of 4096 bytes.",
            "PackedPolicyTooLarge",
        ),
        _invalid("Packed policy is too large", "PackedPolicyTooLarge"),
    ],
    "The endpoint or the Region of the call": [
        Text("SignatureDoesNotMatch", "Credential should be scoped to a valid region, not 'us-east-2'."),
        Text("SignatureDoesNotMatch", "Credential should be scoped to a valid region."),
        Text("SignatureDoesNotMatch", "Credential should be scoped to correct service: 'sts'."),
    ],
    "The account that is named: it must activate STS in the Region": [
        Text(
            "RegionDisabledException",
            "STS is not activated in this region for account:222222222222. Your account administrator can activate STS "
            "in this region using the IAM Console.",
        ),
        Text("RegionDisabledException", "STS is not activated in this region"),
    ],
    "The caller's own credentials": [
        Text("ExpiredToken", "The security token included in the request is expired"),
        Text("ExpiredTokenException", "The security token included in the request is expired"),
        Text("ExpiredToken", "The provided token has expired."),
        Text("InvalidClientTokenId", "The security token included in the request is invalid."),
        Text("InvalidClientTokenId", "The security token included in the request is invalid"),
        Text("UnrecognizedClientException", "The security token included in the request is invalid."),
        Text("InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist in our records."),
        Text(
            "SignatureDoesNotMatch",
            "The request signature we calculated does not match the signature you provided. Check your AWS Secret "
            "Access Key and signing method. Consult the service documentation for details.",
        ),
        Text(
            "SignatureDoesNotMatch",
            "Signature expired: 20260109T184512Z is now earlier than 20260110T013008Z (20260110T014508Z - 15 min.)",
        ),
        Text(
            "SignatureDoesNotMatch",
            "Signature not yet current: 20260110T014508Z is still later than 20260109T190012Z (20260109T184512Z + "
            "15 min.)",
        ),
        Text(
            "IncompleteSignature",
            "'AWS4-HMAC-SHA256' not a valid key=value pair (missing equal-sign) in Authorization header.",
        ),
        Text("MissingAuthenticationToken", "Request is missing Authentication Token"),
        Text("OptInRequired", "The AWS Access Key Id needs a subscription for the service"),
        Text("RequestExpired", "Request has expired."),
        Text("RequestTimeTooSkewed", "The difference between the request time and the current time is too large."),
        Text("AccessDenied", "MultiFactorAuthentication failed with invalid MFA one time pass code."),
        Text(
            "AccessDenied",
            "MultiFactorAuthentication failed, unable to validate MFA code. Please verify your MFA serial number is "
            "valid and associated with this user.",
        ),
        Text(
            "AccessDenied",
            "MultiFactorAuthentication failed, must provide both MFA serial number and one time pass code.",
        ),
    ],
    "The number of calls": [
        Text("Throttling", "Rate exceeded", 400),
        Text("ThrottlingException", "Rate exceeded", 400),
        Text("RequestLimitExceeded", "Request limit exceeded.", 503),
        Text("ServiceUnavailable", "Rate exceeded", 503),
        Text("SlowDown", "Please reduce your request rate.", 503),
    ],
    "Nobody: STS has a problem, which passes": [
        Text("InternalFailure", "An internal error has occurred", 500),
        Text("ServiceUnavailable", "Service is unable to handle request.", 503),
    ],
}
