"""What a user reads when an argument is wrong: every message whole, so that none changes unseen."""

from __future__ import annotations

import doctest
from typing import Any

import boto3
import botocore.session
import pytest
from conftest import OTHER_ROLE, ROLE

import xacct_lambda
from xacct_lambda import assume_role, assumed_session, events, policy
from xacct_lambda.exceptions import ConfigurationError


def takes_s3(event, context, *, s3): ...


def takes_s3_first(s3, event, context): ...


def forgets_the_context(event, s3): ...


async def waits(session, account_id): ...


def inject(handler: Any = takes_s3, role_arn: Any = ROLE, **options: Any) -> Any:
    return assume_role(role_arn, **options)(handler)


NAMES = {name: getattr(module, name) for module in (xacct_lambda, events, policy) for name in module.__all__}
NAMES |= {"botocore": botocore, "ROLE": ROLE, "OTHER_ROLE": OTHER_ROLE}
NAMES |= {"inject": inject, "takes_s3": takes_s3, "takes_s3_first": takes_s3_first}
NAMES |= {"forgets_the_context": forgets_the_context, "waits": waits}

SAID = r"""
>>> assumed_session("Reader")
role_arn: 'Reader' is not the ARN of a role. Write arn:aws:iam::ACCOUNT:role/NAME, with the 12 digits of the account
and the path if the role has one
>>> assumed_session(None)
role_arn: None is not the ARN of a role. Write arn:aws:iam::ACCOUNT:role/NAME, with the 12 digits of the account and
the path if the role has one
>>> assumed_session("arn:aws:iam::222222222222:role/Reader ")
role_arn: 'arn:aws:iam::222222222222:role/Reader ' is not the ARN of a role. White space stands before or after it
>>> assumed_session("arn:aws:iam::222222222222:user/Reader")
role_arn: 'arn:aws:iam::222222222222:user/Reader' is not the ARN of a role. It is the ARN of something else, and only
roles can be assumed
>>> assumed_session("arn:aws:iam::222222222222:role/R" + "e" * 64)
role_arn: 'arn:aws:iam::222222222222:role/Reeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee' is not
the ARN of a role. A role's name has 64 characters at most
>>> assumed_session("arn:aws:iam::2222:role/R" + "e" * 63)
role_arn: 'arn:aws:iam::2222:role/Reeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee' is not the ARN of
a role. Write arn:aws:iam::ACCOUNT:role/NAME, with the 12 digits of the account and the path if the role has one
>>> assumed_session("arn:aws:sts::222222222222:assumed-role/Reader/me")
role_arn: 'arn:aws:sts::222222222222:assumed-role/Reader/me' is not the ARN of a role. It is a session of a role; the
role's ARN is arn:aws:iam::222222222222:role/[PATH/]Reader
>>> assumed_session("arn:aws:iam::222222222222:role/tenant/*")
role_arn: 'arn:aws:iam::222222222222:role/tenant/*' is not the ARN of a role. Name one role; patterns belong in
allowed_roles
>>> assumed_session("arn:aws:iam::222222222222:role/Reader?")
role_arn: 'arn:aws:iam::222222222222:role/Reader?' is not the ARN of a role. Name one role; patterns belong in
allowed_roles
>>> assumed_session("arn:aws:iam:::role/Reader")
role_arn: 'arn:aws:iam:::role/Reader' is not the ARN of a role. The account is missing: it stands between the two
colons before 'role/'
>>> assumed_session(ROLE, role_session_name="orders fn")
role_session_name: 'orders fn' is refused by STS, which takes 2 to 64 letters, digits or _+=,.@-
>>> assumed_session(ROLE, source_identity="a")
source_identity: 'a' is refused by STS, which takes 2 to 64 letters, digits or _+=,.@-
>>> assumed_session(ROLE, external_id="a b")
external_id: refused by STS, which takes 2 to 1224 letters, digits or _+=,.@:/-
>>> assumed_session(ROLE, external_id=12345)
external_id: a string is needed, not int
>>> assumed_session(ROLE, role_session_name=12345)
role_session_name: a string is needed, not int
>>> assumed_session(ROLE, duration_seconds=900.0)
duration_seconds: an int or a timedelta is needed, not float
>>> assumed_session(ROLE, duration_seconds=60)
duration_seconds: 60 is refused by STS, which takes whole seconds from 900 to 43200 (at most 3600 where the caller is
itself an assumed role, as every Lambda function is)
>>> assumed_session(ROLE, policy={"Statement": {1, 2}})
policy: not a JSON document: a set has no place in JSON
>>> assumed_session(ROLE, policy='{"Version": "1", "Version": "2"}')
policy: not a JSON document: the same key stands twice in one object
>>> assumed_session(ROLE, policy="[]")
policy: a policy is a JSON object with a "Statement"
>>> assumed_session(ROLE, policy={"Statement": "x" * 2048})
policy: policy and policy_arns together exceed the 2048 characters that STS allows
>>> assumed_session(ROLE, policy_arns="arn:aws:iam::aws:policy/ReadOnlyAccess")
policy_arns: a sequence of strings is needed, not str
>>> assumed_session(ROLE, policy_arns=[7])
policy_arns: a sequence of strings is needed
>>> assumed_session(ROLE, policy_arns=["ReadOnlyAccess"])
policy_arns: 'ReadOnlyAccess' is refused by STS, which takes ARNs of managed policies
(arn:aws:iam::ACCOUNT:policy/NAME)
>>> assumed_session(ROLE, policy_arns=[f"arn:aws:iam::aws:policy/P{number}" for number in range(11)])
policy_arns: 11 ARNs; STS takes at most 10
>>> assumed_session(ROLE, tags=["tenant"])
tags: a mapping of tag keys to values is needed
>>> assumed_session(ROLE, tags={"": "blue"})
tags: the key must be a string of 1 to 128 characters
>>> assumed_session(ROLE, tags={"tenant": 7})
tags: the value of 'tenant' must be a string of 0 to 256 characters
>>> assumed_session(ROLE, tags={"tenant!": "blue"})
tags: the key may hold letters, digits, spaces and _.:/=+-@ only
>>> assumed_session(ROLE, tags={"tenant": "blue!"})
tags: the value of 'tenant' may hold letters, digits, spaces and _.:/=+-@ only
>>> assumed_session(ROLE, tags={"AWS:tenant": "blue"})
tags: 'AWS:tenant': keys that start with 'aws:' are AWS's own
>>> assumed_session(ROLE, tags={str(number): "" for number in range(51)})
tags: 51 tags; STS takes at most 50
>>> assumed_session(ROLE, tags={"tenant": "blue", "Tenant": "red"})
tags: two keys differ only in upper and lower case, which STS takes for the same key
>>> assumed_session(ROLE, transitive_tag_keys=["tenant"])
transitive_tag_keys: 'tenant' is not among the tags
>>> assumed_session(ROLE, transitive_tag_keys=7)
transitive_tag_keys: a sequence of strings is needed, not int
>>> assumed_session(ROLE, extra=["ProvidedContexts"])
extra: a mapping of AssumeRole parameters to values is needed
>>> assumed_session(ROLE, extra={"TokenCode": "123456"})
extra: TokenCode: MFA is not supported, as nobody types a code into a function
>>> assumed_session(ROLE, extra={"Tags": []})
extra: Tags has an argument of its own: tags
>>> assumed_session(ROLE, extra={"tags": []})
extra: 'tags' is not the name of an AssumeRole parameter
>>> assumed_session(ROLE, extra={1: "a"})
extra: a string is needed, not int
>>> assumed_session(ROLE, extra={"Novelty": "x" * 30_000})
extra: 30014 characters of JSON; 20480 are taken at most
>>> assumed_session(ROLE, extra={"Novelty": object()})
extra: the values must be strings, numbers, booleans, lists and mappings

>>> assumed_session(ROLE, region_name="no region")
region_name: 'no region' is not the name of a Region
>>> assumed_session(ROLE, source_session="default")
source_session: a boto3.Session is needed, not str
>>> assumed_session(ROLE, source_session=botocore.session.Session())
source_session: a boto3.Session is needed, not botocore.session.Session
>>> assumed_session(ROLE, source_session=assumed_session(ROLE), duration_seconds=7200)
duration_seconds: role chaining allows 3600 at most, and source_session is an assumed role
>>> assumed_session(ROLE, sts_config={})
sts_config: a botocore.config.Config is needed, not dict
>>> assumed_session(ROLE, min_ttl_seconds="600")
min_ttl_seconds: a number or a timedelta is needed, not str
>>> assumed_session(ROLE, min_ttl_seconds=3541)
min_ttl_seconds: 3541 is not within 0 to 3540, a minute less than duration_seconds
>>> cache_resize(max_roles=0)
max_roles: 0 is not a whole number of at least 1

>>> inject()
clients: nothing to inject: name clients, resources or a session, as in clients=['s3']
>>> inject(clients="s3")
clients: a list of service names or a mapping is needed, as in clients=['s3']
>>> inject(clients=3)
clients: a list of service names or a mapping is needed, as in clients=['s3']
>>> inject(resources="s3")
resources: a list of service names or a mapping is needed, as in resources=['s3']
>>> inject(clients=["s33"])
clients: boto3 X.Y.Z has no client for 's33'; did you mean 's3'?
>>> inject(clients={"s3": "qqqqqqqq"})
clients: boto3 X.Y.Z has no client for 'qqqqqqqq'
>>> inject(resources=["sts"])
resources: boto3 X.Y.Z has no resource for 'sts'; did you mean 'sqs'?
>>> inject(clients=[3])
clients: 3 is not the name of a service
>>> inject(clients={"s3": 3})
clients: 's3' needs the name of a service, or keyword arguments with service_name among them
>>> inject(clients={"s3": {"region_name": "us-east-1"}})
clients: 's3' needs the name of a service, or keyword arguments with service_name among them
>>> inject(clients={"s3": {"service_name": "s3", "region": "us-east-1"}})
clients: Session.client() takes no 'region'; did you mean 'region_name'?
>>> inject(clients={"s3": {"service_name": "s3", "region_name": "no region"}})
clients: 'no region' is not the name of a Region
>>> inject(clients={"s3": {"service_name": "s3", "region_name": 5}})
clients: 5 is not the name of a Region
>>> inject(clients={"s3": {"service_name": "s3", "config": {}}})
clients: config: a botocore.config.Config is needed, not dict
>>> inject(clients={"s3": {"service_name": "s3", "aws_session_token": "x"}})
clients: a client that acts as the role takes no keys of its own
>>> inject(resources={"s3": {"service_name": "s3", "aws_access_key_id": "x"}})
resources: a resource that acts as the role takes no keys of its own
>>> inject(clients={"s3": {"service_name": "s3", "self": 1}})
clients: Session.client() takes no 'self'
>>> inject(clients={"class": "s3"})
clients: 'class' cannot be the name of a parameter
>>> inject(clients={"a b": "s3"})
clients: 'a b' cannot be the name of a parameter
>>> inject(session=3)
session: 3 cannot be the name of a parameter
>>> inject(clients=["s3"], session="s3")
session: 's3' is injected twice: give one of the two another name with a mapping
>>> inject(clients=["s3"], resources=["s3"])
resources: 's3' is injected twice: give one of the two another name with a mapping
>>> inject(clients=["s3", "ec2"])
clients: takes_s3(event, context, *, s3) has no parameter 'ec2': add it, as in (event, context, *, ec2)
>>> inject(takes_s3_first, clients=["s3"])
clients: takes_s3_first(s3, event, context) does not take 's3' by keyword alone: put it after a *, as in
(event, context, *, s3)
>>> inject(forgets_the_context, clients=["s3"])
clients: forgets_the_context(event, s3) does not take 's3' by keyword alone: put it after a *, as in
(event, context, *, s3)
>>> inject(takes_s3, session="event")
session: takes_s3(event, context, *, s3) does not take 'event' by keyword alone: put it after a *, as in
(event, context, *, event)
>>> inject(takes_s3, clients={"context": "s3"})
clients: takes_s3(event, context, *, s3) does not take 'context' by keyword alone: put it after a *, as in
(event, context, *, context)
>>> inject(resources=["ec2"])
resources: takes_s3(event, context, *, s3) has no parameter 'ec2': add it, as in (event, context, *, ec2)
>>> inject(session="reader")
session: takes_s3(event, context, *, s3) has no parameter 'reader': add it, as in (event, context, *, reader)
>>> inject(client=["s3"])
client: no such option; did you mean 'clients'?
>>> inject(inject(clients=["s3"]), clients=["s3"])
clients: 's3' is injected twice into takes_s3(event, context): give one of the two another name
>>> inject(classmethod(takes_s3), clients=["s3"])
handler: a classmethod cannot be called; decorate the function below it
>>> inject(role_arn="Reader", clients=["s3"])
role_arn: 'Reader' is not the ARN of a role. Write arn:aws:iam::ACCOUNT:role/NAME, with the 12 digits of the account
and the path if the role has one
>>> inject(clients=["s3"], prefetch="yes")
prefetch: 'yes' is not True, False or None
>>> inject(clients=["s3"], external="x")
external: no such option; did you mean 'external_id'?
>>> inject(clients=["s3"], qqqqqqqq="x")
qqqqqqqq: no such option
>>> inject(clients=["s3"], external_id="x")
external_id: refused by STS, which takes 2 to 1224 letters, digits or _+=,.@:/-
>>> inject(clients=["s3"], transitive_tag_keys=["a"])
transitive_tag_keys: 'a' is not among the tags
>>> inject(clients=["s3"], tags=lambda event, context: {}, transitive_tag_keys=7)
transitive_tag_keys: a sequence of strings is needed, not int
>>> inject(clients=["s3"], allowed_role=[ROLE])
allowed_role: no such option; did you mean 'allowed_roles'?
>>> inject(clients=["s3"], min_ttl_seconds=3600)
min_ttl_seconds: 3600 is not within 0 to 3540, a minute less than duration_seconds
>>> inject(clients=["s3"], region_name="no region")
region_name: 'no region' is not the name of a Region
>>> inject(clients=["s3"], source_session="default")
source_session: a boto3.Session is needed, not str
>>> inject(clients=["s3"], source_session=lambda event, context: None)
source_session: cannot depend on the event, or on the role
>>> inject(clients=["s3"], sts_config=lambda event, context: None)
sts_config: cannot depend on the event, or on the role
>>> inject(role_arn=lambda event, context: ROLE, clients=["s3"])
allowed_roles: required where role_arn depends on the event: say which roles it may name
>>> inject(clients=["s3"], allowed_roles=[])
allowed_roles: an empty list allows no role at all
>>> inject(clients=["s3"], allowed_roles=ROLE)
allowed_roles: a list of ARN patterns is needed
>>> inject(clients=["s3"], allowed_roles=3)
allowed_roles: a list of ARN patterns is needed
>>> inject(clients=["s3"], allowed_roles=[3])
allowed_roles: 3 is not arn:aws:iam::ACCOUNT:role/PATTERN with a literal account, where * stands for a part of the
path and ** for several
>>> inject(clients=["s3"], allowed_roles=["*"])
allowed_roles: '*' is not arn:aws:iam::ACCOUNT:role/PATTERN with a literal account, where * stands for a part of the
path and ** for several
>>> inject(clients=["s3"], allowed_roles=["arn:aws:iam::*:role/Reader"])
allowed_roles: 'arn:aws:iam::*:role/Reader' is not arn:aws:iam::ACCOUNT:role/PATTERN with a literal account, where *
stands for a part of the path and ** for several
>>> inject(clients=["s3"], allowed_roles=[OTHER_ROLE])
role_arn: 'arn:aws:iam::222222222222:role/role-on-source-account' is not among allowed_roles

>>> assumed_sessions([ROLE], max_workers=51)
max_workers: 51 is not a whole number from 1 to 50
>>> assumed_sessions([ROLE], return_exceptions="no")
return_exceptions: 'no' is not True or False
>>> assumed_sessions(ROLE)
role_arns: a list of ARNs is needed
>>> assumed_sessions([ROLE], max_worker=5)
max_worker: no such option; did you mean 'max_workers'?
>>> for_each_account(waits, [ROLE])
function: boto3 is not asynchronous, and nobody would await what it returns
>>> for_each_account(print, [ROLE], context={"account": "222222222222"})
context: a Lambda context is needed, not dict
>>> for_each_account(print, [7])
role_arns: a list of ARNs is needed

>>> event_field("detail.tenant")({"detail": {"tenant": "../Admin"}}, None)
event: event field 'detail.tenant' is not a name: 1 to 128 letters, digits or _+=,.@-
>>> event_field("detail.tenant")({"detail": {"tennant": "blue"}}, None)
event: event field 'detail.tenant' is not there
>>> tenant_id()({}, None)
event: context.tenant_id is not there
>>> eventbridge_account()({"account": "2222"}, None)
event: event field 'account' is not an account's 12 digits
>>> api_caller_account()({}, None)
event: the caller's account in the event's requestContext is not an account's 12 digits
>>> role_for("arn:aws:iam::{account}:role/{name}", account=eventbridge_account())
template: 'arn:aws:iam::{account}:role/{name}' and the values name different things: {'name'}
>>> role_for("arn:aws:iam::222222222222:role/{name}", name=lambda event, context: 7)({}, None)
event: 'name' of a role is not a name: 1 to 128 letters, digits or _+=,.@-
>>> role_for("arn:aws:iam::222222222222:role/{name", name=tenant_id())
template: 'arn:aws:iam::222222222222:role/{name' is not a role ARN with names in braces: expected '}' before end of
string
>>> role_for("arn:aws:iam::222222222222:role/{name!r}", name=tenant_id())
template: 'arn:aws:iam::222222222222:role/{name!r}': names alone stand in braces, without ! and :
>>> role_for("arn:aws:iam::222222222222:role/{name:>9}", name=tenant_id())
template: 'arn:aws:iam::222222222222:role/{name:>9}': names alone stand in braces, without ! and :
>>> role_for("arn:aws:iam::222222222222:role/{name}", name="blue")
name: a callable is needed, as of xacct_lambda.events; text goes into the template
>>> role_for("arn:aws:iam::222222222222:role/{name}", name=tenant_id)
name: tenant_id has to be called: tenant_id(…)
>>> event_field("detail..tenant")
path: 'detail..tenant' is not a path: keys with dots between them, as in detail.tenant
>>> tenant_id()({})
event: the handler was called without the event and the context by position
>>> role_for("{name}", name=tenant_id())
role_arn: '000000000000' is not the ARN of a role. Write arn:aws:iam::ACCOUNT:role/NAME, with the 12 digits of the
account and the path if the role has one

>>> permissions_policy([])
role_arn: at least one role is needed
>>> permissions_policy("Reader")
role_arn: 'Reader' is not the ARN of a role. Write arn:aws:iam::ACCOUNT:role/NAME, with the 12 digits of the account
and the path if the role has one
>>> permissions_policy(7)
role_arn: 7 is not the ARN of a role. Write arn:aws:iam::ACCOUNT:role/NAME, with the 12 digits of the account and the
path if the role has one
>>> permissions_policy([["Reader"]])
role_arn: ['Reader'] is not the ARN of a role. Write arn:aws:iam::ACCOUNT:role/NAME, with the 12 digits of the account
and the path if the role has one
>>> permissions_policy(ROLE, tags=["tenant"])
tags: a mapping of tag keys to values is needed
>>> permissions_policy(ROLE, source_identity="a")
source_identity: 'a' is refused by STS, which takes 2 to 64 letters, digits or _+=,.@-
>>> permissions_policy(ROLE, tags={"tenant": "blue!"})
tags: the value of 'tenant' may hold letters, digits, spaces and _.:/=+-@ only
>>> trust_policy("lambda.amazonaws.com")
principal_arn: 'lambda.amazonaws.com' is not the ARN of a role. Write arn:aws:iam::ACCOUNT:role/NAME, with the 12
digits of the account and the path if the role has one. A function calls STS as its execution role, not as a service
>>> trust_policy("lambda.amazonaws.com.cn")
principal_arn: 'lambda.amazonaws.com.cn' is not the ARN of a role. Write arn:aws:iam::ACCOUNT:role/NAME, with the 12
digits of the account and the path if the role has one. A function calls STS as its execution role, not as a service
>>> trust_policy("*")
principal_arn: '*' is not the ARN of a role. Name one role; patterns belong in allowed_roles
>>> trust_policy(ROLE, external_id="a b")
external_id: refused by STS, which takes 2 to 1224 letters, digits or _+=,.@:/-
>>> trust_policy(ROLE, organization_id="acme")
organization_id: 'acme' is not the ID of an organization: o- and 10 to 32 letters or digits
>>> trust_policy(ROLE, organization_id=7)
organization_id: 7 is not the ID of an organization: o- and 10 to 32 letters or digits
"""


@pytest.mark.parametrize(
    "example", doctest.DocTestParser().get_examples(SAID), ids=lambda example: example.source.strip()
)
def test_message(example: doctest.Example) -> None:
    """A wrong argument is named, with what is wrong about it and what would be right."""
    with pytest.raises(ConfigurationError) as caught:
        eval(example.source, dict(NAMES))  # noqa: S307 - the calls are those above

    assert str(caught.value).replace(f"boto3 {boto3.__version__}", "boto3 X.Y.Z") == " ".join(example.want.split())
    assert str(caught.value).startswith(f"{caught.value.argument}: ")
    assert caught.value.args == (caught.value.argument, caught.value.problem)
    assert boto3.DEFAULT_SESSION is None or "assumed_session" in example.source, "no session is made to refuse"


@pytest.mark.parametrize(
    "arguments",
    [
        {"role_arn": "x" * 10_000},
        {"region_name": "x" * 10_000},
        {"min_ttl_seconds": 10**1000},
        {"duration_seconds": 10**1000},
        {"extra": {"x" * 10_000: 1}},
        {"tags": {"x" * 10_000: ""}},
        {"role_session_name": "x" * 10_000},
    ],
    ids=lambda arguments: "".join(arguments),
)
def test_messages_are_short(arguments: dict[str, Any]) -> None:
    """What an event holds may be megabytes; a message shows 200 characters of it."""
    with pytest.raises(ConfigurationError) as caught:
        assumed_session(**{"role_arn": ROLE, **arguments})

    assert len(str(caught.value)) < 600
