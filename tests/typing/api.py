"""What type checkers make of the public names: one line for each promise, what must be rejected included."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Literal, assert_type

import boto3

import xacct_lambda
from xacct_lambda import (
    CacheInfo,
    assume_role,
    assumed_session,
    assumed_sessions,
    cache_info,
    events,
    for_each_account,
    instrumentation,
    policy,
    testing,
)
from xacct_lambda.exceptions import AssumeRoleError, ConfigurationError, STSUnavailableError, XacctLambdaError

ROLE = "arn:aws:iam::222222222222:role/role-on-source-account"


class Event(dict[str, str]): ...


class Context: ...


# assumed_session
assert_type(assumed_session(ROLE), boto3.Session)
assumed_session(
    ROLE, duration_seconds=timedelta(minutes=15), min_ttl_seconds=60, tags={"a": "b"}, policy={"Statement": []}
)
assumed_session(ROLE, "orders")  # type: ignore[call-arg] # options are keywords
assumed_session(ROLE, duration_seconds="900")  # type: ignore[arg-type]
assumed_session(ROLE, tags=["a"])  # type: ignore[arg-type]
assumed_session(ROLE, mfa_serial="x")  # type: ignore[call-arg]


# The handler's own types survive.
@assume_role(ROLE, clients=["s3"])
def handler(event: Event, context: Context, *, s3: Any) -> list[str]:
    return [event["bucket"]]


assert_type(handler(Event(), Context()), list[str])
handler(Event(), Context(), s3=object())
handler("event", Context())  # type: ignore[arg-type]
handler(Event(), "context")  # type: ignore[arg-type]
handler(Event())  # type: ignore[call-arg]


# An async handler stays awaitable.
@assume_role(ROLE, clients=["s3"])
async def async_handler(event: Event, context: Context, *, s3: Any) -> int:
    return 1


async def await_it() -> None:
    assert_type(await async_handler(Event(), Context()), int)


# A method is still bound.
class Handlers:
    @assume_role(ROLE, clients=["s3"])
    def handle(self, event: Event, context: Context, *, s3: Any) -> int:
        return 1


assert_type(Handlers().handle(Event(), Context()), int)
Handlers().handle("event", Context())  # type: ignore[arg-type]


# Decorators stack.
@assume_role(ROLE, clients={"source": "s3"})
@assume_role(ROLE, clients={"target": {"service_name": "s3", "region_name": "us-east-1"}}, session="session")
def stacked(event: Event, context: Context, *, source: Any, target: Any, session: boto3.Session) -> bytes:
    return b""


assert_type(stacked(Event(), Context()), bytes)


# Lambda calls a handler with two arguments: one that takes a single one is a mistake.
@assume_role(ROLE, clients=["s3"])  # type: ignore[arg-type]
def small(event: Event, *, s3: Any) -> None: ...


# Roles and options may be callables over the event; the caller and the STS client's options may not.
assume_role(lambda event, context: ROLE, allowed_roles=[ROLE], clients=["s3"])
assume_role(ROLE, clients=["s3"], tags=lambda event, context: {"tenant": "a"}, external_id=lambda event, context: None)
assume_role(ROLE, clients=["s3"], prefetch=True, duration_seconds=900)
assume_role(ROLE, clients=["s3"], source_session=lambda event, context: None)  # type: ignore[arg-type]
assume_role(ROLE, clients=["s3"], external=1)  # type: ignore[call-arg]
assume_role(ROLE, clients=3)  # type: ignore[arg-type]
assume_role(ROLE, prefetch="yes")  # type: ignore[arg-type]

# Roles and options that are read off an event.
assume_role(
    events.role_for(
        "arn:aws:iam::{account}:role/{tenant}", account=events.eventbridge_account(), tenant=events.tenant_id()
    ),
    allowed_roles=["arn:aws:iam::222222222222:role/*"],
    external_id=events.event_field("detail.id"),
    clients=["s3"],
)
events.role_for("arn:aws:iam::222222222222:role/{tenant}", tenant="blue")  # type: ignore[arg-type]

# Many roles: what failed is told apart only where it is asked for.
assert_type(assumed_sessions([ROLE], max_workers=4, external_id="orders-7"), dict[str, boto3.Session])
assert_type(assumed_sessions([ROLE], return_exceptions=True), dict[str, boto3.Session | Exception])
assert_type(for_each_account(lambda session, account_id: account_id, [ROLE], context=None), dict[str, str])
assert_type(
    for_each_account(lambda session, account_id: account_id, [ROLE], regions=["eu-west-1"]), dict[tuple[str, str], str]
)
assert_type(
    for_each_account(lambda session, account_id: 1, [ROLE], regions="enabled", return_exceptions=True),
    dict[tuple[str, str], int | Exception],
)
assert_type(
    for_each_account(lambda session, account_id: 1, [ROLE], regions=None, return_exceptions=True),
    dict[str, int | Exception],
)
for_each_account(lambda session, account_id: account_id, [ROLE], regions=1)  # type: ignore[call-overload]
assumed_sessions([ROLE], regions=["eu-west-1"])  # type: ignore[call-overload]
assumed_sessions([ROLE], workers=4)  # type: ignore[call-overload]
assumed_sessions([ROLE], max_workers="4")  # type: ignore[call-overload]
for_each_account(len, [ROLE])  # type: ignore[arg-type] # takes one argument


# Hooks.
def hook(event: instrumentation.CredentialEvent) -> None:
    assert_type(event.kind, Literal["assume_role", "refusal", "rejection", "eviction"])
    assert_type(event.role_arn, str)
    assert_type(event.duration_seconds, float | None)
    assert_type(event.waited_seconds, float)
    assert_type(event.error_code, str | None)
    assert_type(event.expires_at, datetime | None)
    assert_type(event.session_token_utilization, int | None)
    event.role_arn = ROLE  # type: ignore[misc] # frozen


instrumentation.set_hooks([hook])
instrumentation.set_hooks([lambda event: event.role_arn])
instrumentation.set_hooks(hook)  # type: ignore[arg-type] # a list of hooks
instrumentation.set_hooks([handler])  # type: ignore[list-item] # takes two arguments

# Policies, as documents and not as texts.
assert_type(policy.permissions_policy([ROLE], tags={"tenant": "*"}), dict[str, Any])
assert_type(policy.trust_policy(ROLE, external_id="orders-7"), dict[str, Any])
policy.trust_policy(ROLE, "orders-7")  # type: ignore[call-arg] # conditions are keywords

# Accounts for tests.
with testing.CrossAccountAWS(home_account="111111111111") as aws:
    assert_type(aws.role(ROLE), str)
    assert_type(aws.account("222222222222"), boto3.Session)
    assert_type(aws.assumed, list[testing.AssumeRoleCall])
    aws.sts.advance(timedelta(hours=1))
testing.CrossAccountAWS("111111111111")  # type: ignore[call-arg] # arguments are keywords


@testing.isolated_cache()
def isolated(number: int) -> str:
    return str(number)


assert_type(isolated(1), str)
isolated("1")  # type: ignore[arg-type]

# The rest.
xacct_lambda.assumed_sesion(ROLE)  # type: ignore[attr-defined] # a name that does not exist
assert_type(cache_info(), CacheInfo)
assert_type(cache_info().sts_calls, int)


def errors(error: AssumeRoleError | STSUnavailableError, configuration: ConfigurationError) -> XacctLambdaError:
    assert_type(error.code, str)
    assert_type(error.role_arn, str)
    assert_type(configuration.argument, str)
    return error


awaitable: Callable[[Event, Context], Awaitable[int]] = async_handler
plain: Callable[[Event, Context], list[str]] = handler
