"""``xacct_lambda.testing``: several accounts in one process, an STS that refuses, faults on demand, isolation."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import subprocess
import sys
import unittest
from datetime import UTC, datetime, timedelta
from unittest.mock import patch

import boto3
import freezegun
import pytest
import requests
import time_machine
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError
from moto import mock_aws, settings
from moto.server import ThreadedMotoServer
from moto.utilities.utils import get_partition

from xacct_lambda import _sessions, assume_role, assumed_session, cache_info
from xacct_lambda.exceptions import AssumeRoleError, ConfigurationError, STSUnavailableError
from xacct_lambda.testing import CrossAccountAWS, LambdaContext, isolated_cache

READER = "arn:aws:iam::222222222222:role/teams/Reader"
NEXT = "arn:aws:iam::333333333333:role/Next"
FUNCTION = "arn:aws:sts::111111111111:assumed-role/my-lambda-execution-role/my-function"
LAMBDA = "arn:aws:lambda:us-east-1:111111111111:function"
ONE_TRY = Config(retries={"total_max_attempts": 1})


def permissions(resource: str = READER, action: str | list[str] = "sts:AssumeRole") -> dict[str, object]:
    statement = {"Effect": "Allow", "Action": action, "Resource": resource}
    return {"Version": "2012-10-17", "Statement": statement}


@pytest.fixture
def aws():
    with CrossAccountAWS() as aws:
        aws.role(READER)
        aws.grant(permissions())
        yield aws


def assume(role_arn: str = READER, **parameters: object) -> dict[str, str]:
    """Do as the article's handler does, and return the arguments of a client."""
    credentials = boto3.client("sts", config=ONE_TRY).assume_role(
        RoleArn=role_arn, RoleSessionName="by-hand", **parameters
    )["Credentials"]
    return {
        "aws_access_key_id": credentials["AccessKeyId"],
        "aws_secret_access_key": credentials["SecretAccessKey"],
        "aws_session_token": credentials["SessionToken"],
    }


def buckets(client) -> list[str]:
    return [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]


class TestAccounts:
    def test_the_function_is_in_its_account(self, aws):
        """The environment's credentials are those of the execution role's session named after the function."""
        assert boto3.client("sts").get_caller_identity()["Arn"] == FUNCTION
        assert os.environ["AWS_REGION"] == "us-east-1"

    def test_home_role_name_and_region_are_arguments(self):
        """The function's account, role, name and Region are as told; so is the partition, by the Region."""
        with CrossAccountAWS(
            home_account="444444444444", execution_role="service-role/fn", function_name="f", region_name="cn-north-1"
        ) as aws:
            arn = boto3.client("sts").get_caller_identity()["Arn"]

        assert arn == "arn:aws-cn:sts::444444444444:assumed-role/fn/f"
        assert aws.execution_role_arn == "arn:aws-cn:iam::444444444444:role/service-role/fn"

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("AWS_CREDENTIAL_EXPIRATION", "2020-01-01T00:00:00Z"),
            ("AWS_DEFAULT_PROFILE", "mine"),
            ("AWS_ENDPOINT_URL", "http://127.0.0.1:9"),
            ("AWS_ENDPOINT_URL_STS", "http://127.0.0.1:9"),
            ("AWS_PROFILE", "mine"),
            ("AWS_SECURITY_TOKEN", "my-token"),
        ],
    )
    def test_what_the_developers_shell_has_set(self, monkeypatch, name, value):
        """It leads no request past moto nor to other credentials than the function's, and is there again afterwards."""
        monkeypatch.setenv(name, value)
        with CrossAccountAWS() as aws:
            assert boto3.client("sts").get_caller_identity()["Arn"] == FUNCTION
            assert boto3.Session().get_credentials().token == aws.environment["AWS_SESSION_TOKEN"]
        assert os.environ[name] == value

    def test_each_account_has_things_of_its_own(self, aws):
        """What is made with ``account()`` is in that account, and the role's sessions find it."""
        aws.account("222222222222").client("s3").create_bucket(Bucket="theirs")
        aws.account("111111111111").client("s3").create_bucket(Bucket="ours")

        assert buckets(assumed_session(READER).client("s3")) == ["theirs"]
        assert buckets(boto3.client("s3")) == ["ours"]

    def test_account_returns_one_session_for_each(self, aws):
        """The session inside an account is made once."""
        assert aws.account("222222222222") is aws.account("222222222222")

    @pytest.mark.parametrize("account_id", ["22222222222", 222222222222])
    def test_an_account_has_twelve_digits(self, aws, account_id):
        """An account is named by its 12 digits, as a string."""
        with pytest.raises(ConfigurationError, match="12 digits"):
            aws.account(account_id)

    def test_a_change_holds_at_once(self, aws):
        """A role that was refused is assumed as soon as its policies allow it: no refusal is remembered."""
        with pytest.raises(AssumeRoleError):
            assumed_session(NEXT).client("sts").get_caller_identity()
        aws.role(NEXT)
        with pytest.raises(AssumeRoleError):
            assumed_session(NEXT).client("sts").get_caller_identity()
        aws.grant(permissions(NEXT))

        assert assumed_session(NEXT).client("sts").get_caller_identity()["Account"] == "333333333333"

    @pytest.mark.parametrize("execution_role", ["arn:aws:iam::111111111111:role/fn", "role/fn", "/fn", 7])
    def test_an_execution_role_is_named(self, execution_role):
        """The execution role is given by its name and path, not by its ARN."""
        with pytest.raises(ConfigurationError, match="is not a name, with its path if it has one"):
            CrossAccountAWS(execution_role=execution_role)

    @pytest.mark.parametrize("seconds", [3599, 43201, "3600"])
    def test_a_roles_longest_session(self, aws, seconds):
        """A role's longest session is within what IAM takes."""
        with pytest.raises(ConfigurationError, match=r"^max_session_duration: .* is not within 3600 to 43200"):
            aws.role(NEXT, max_session_duration=seconds)

    @pytest.mark.parametrize("trust", [{}, {"Statement": []}])
    def test_a_trust_policy_has_a_statement(self, aws, trust):
        """A trust policy without a statement is refused, as by IAM."""
        with pytest.raises(ConfigurationError, match="trust: IAM rejects it: Statement must be"):
            aws.role(NEXT, trust=trust)

    @pytest.mark.parametrize(
        "region_name", ["us-east-1", "cn-north-1", "us-gov-west-1", "us-isob-east-1", "eusc-de-east-1"]
    )
    def test_partitions_are_those_of_moto(self, region_name):
        """The partition of the execution role's ARN is the one in which moto has the Region."""
        arn = CrossAccountAWS(region_name=region_name).execution_role_arn

        assert arn.split(":")[1] == get_partition(region_name)

    def test_before_it_is_entered(self):
        """All attributes exist before the block; what needs accounts says that the block has to be entered."""
        aws = CrossAccountAWS()

        assert aws.execution_role_arn == "arn:aws:iam::111111111111:role/my-lambda-execution-role"
        assert (aws.assumed, aws.refused, aws.environment) == ([], [], {})
        for early in (
            lambda: aws.account("222222222222"),
            lambda: aws.role(READER),
            lambda: aws.grant(permissions()),
            aws.sts.expire_now,
            lambda: aws.sts.revoke(READER),
        ):
            with pytest.raises(ConfigurationError, match="enter it first"):
                early()

    def test_it_can_be_entered_again(self):
        """A second block begins anew: with no roles, no calls, and no faults."""
        aws = CrossAccountAWS()
        for _ in range(2):
            with aws:
                aws.role(READER)
                aws.grant(permissions())
                assume()
                aws.sts.unavailable()
                aws.sts.throttle()
                aws.sts.advance(60)
            assert len(aws.assumed) == 1

    def test_roles_chain(self, aws):
        """The session of one role may assume the next, if that one's policies say so too."""
        aws.role(NEXT, trust={"Statement": {**trust(READER)}})
        aws.grant(permissions(NEXT), role_arn=READER)
        chained = assumed_session(NEXT, source_session=assumed_session(READER))

        assert chained.client("sts").get_caller_identity()["Account"] == "333333333333"
        assert [call.role_arn for call in aws.assumed] == [READER, NEXT]

    def test_policies_made_with_boto3_count(self, aws):
        """Roles, users and managed policies that the test makes itself are evaluated like any others."""
        iam = aws.account("111111111111").client("iam")
        aws.role(NEXT, trust={"Statement": trust("111111111111")})
        policy_arn = iam.create_policy(PolicyName="p", PolicyDocument=json.dumps(permissions(NEXT)))["Policy"]["Arn"]
        iam.create_user(UserName="me")
        iam.attach_user_policy(UserName="me", PolicyArn=policy_arn)
        key = iam.create_access_key(UserName="me")["AccessKey"]
        user = boto3.Session(key["AccessKeyId"], key["SecretAccessKey"])

        user.client("sts").assume_role(RoleArn=NEXT, RoleSessionName="me")

        assert aws.assumed[0].caller_arn == "arn:aws:iam::111111111111:user/me"

    def test_presigned_urls_are_of_the_signers_account(self, aws):
        """A presigned URL is answered as the session that signed it."""
        aws.account("222222222222").client("s3").create_bucket(Bucket="theirs")
        client = assumed_session(READER).client("s3", config=Config(signature_version="s3v4"))
        url = client.generate_presigned_url("list_buckets")

        assert "<Name>theirs</Name>" in requests.get(url, timeout=60).text


def trust(principal: str, **elements: object) -> dict[str, object]:
    return {"Effect": "Allow", "Principal": {"AWS": principal}, "Action": "sts:AssumeRole", **elements}


class TestStrict:
    def test_any_client_is_refused(self, aws):
        """A refusal is STS's own, for clients of this library and for handwritten ones."""
        with pytest.raises(ClientError, match="not authorized to perform: sts:AssumeRole on resource"):
            assume(NEXT)
        with pytest.raises(AssumeRoleError, match="not authorized to perform: sts:AssumeRole on resource"):
            assumed_session(NEXT).client("s3").list_buckets()

    def test_the_reason_is_kept_and_logged(self, aws, caplog):
        """Why STS refused stands in ``refused`` and, as a warning, in the log."""
        with pytest.raises(ClientError):
            assume(NEXT)

        [call] = aws.refused
        assert (call.error_code, call.reason) == ("AccessDenied", f"{NEXT} does not exist")
        assert f"STS refused {NEXT} to {FUNCTION}: {NEXT} does not exist" in caplog.messages

    def test_an_administrator_needs_only_the_trust(self, aws):
        """Sessions of ``account()`` may do anything that the other side allows."""
        aws.role(NEXT, trust={"Statement": trust("222222222222")})
        aws.account("222222222222").client("sts").assume_role(RoleArn=NEXT, RoleSessionName="admin")

        assert len(aws.assumed) == 1

    def test_organization(self):
        """``aws:PrincipalOrgID`` is the organization that the accounts were put in."""
        condition = {"StringEquals": {"aws:PrincipalOrgID": "o-abcdefghij"}}
        with CrossAccountAWS(organization_id="o-abcdefghij") as aws:
            aws.grant(permissions())
            aws.role(READER, trust={"Statement": [trust("*", Condition=condition)]})
            assume()

        assert len(aws.assumed) == 1

    def test_a_role_may_allow_longer_sessions(self, aws):
        """The role's maximum applies to callers that are no roles; over an hour, a function is refused all the same."""
        aws.role(READER, max_session_duration=43200)

        with pytest.raises(ClientError, match="1 hour session limit for roles assumed by role chaining"):
            assume(DurationSeconds=7200)

    def test_not_strict(self):
        """With ``strict=False`` STS refuses nothing, as moto."""
        with CrossAccountAWS(strict=False) as aws:
            assume(NEXT)

        assert [call.role_arn for call in aws.assumed] == [NEXT]

    def test_a_changed_trust_policy_counts(self, aws):
        """``role()`` for an existing role replaces its trust policy."""
        other = aws.role("arn:aws:iam::111111111111:role/other")
        aws.role(READER, trust=json.dumps({"Statement": trust(other)}))

        with pytest.raises(ClientError, match="AccessDenied"):
            assume()

    def test_what_iam_stores_through_moto(self, aws):
        """IAM's own API rejects what ``role()`` rejects: a test can't store a trust policy that AWS doesn't have."""
        iam = aws.account("333333333333").client("iam")
        unknown = json.dumps({"Version": "2012-10-17", "Statement": trust("arn:aws:iam::111111111111:role/unknown")})
        right = json.dumps({"Version": "2012-10-17", "Statement": trust("111111111111")})

        with pytest.raises(ClientError, match=r"MalformedPolicyDocument.*Invalid principal in policy"):
            iam.create_role(RoleName="Next", AssumeRolePolicyDocument=unknown)
        iam.create_role(RoleName="Next", AssumeRolePolicyDocument=right)
        with pytest.raises(ClientError, match=r"MalformedPolicyDocument.*Invalid principal in policy"):
            iam.update_assume_role_policy(RoleName="Next", PolicyDocument=unknown)
        iam.update_assume_role_policy(RoleName="Next", PolicyDocument=right)

    def test_not_strict_is_moto(self):
        """With ``strict=False``, IAM's own API and ``role()`` accept an unknown principal, as moto does."""
        document = {"Version": "2012-10-17", "Statement": trust("arn:aws:iam::111111111111:role/unknown")}
        with CrossAccountAWS(strict=False) as aws:
            aws.role(READER, trust=document)
            iam = aws.account("333333333333").client("iam")
            iam.create_role(RoleName="Next", AssumeRolePolicyDocument=json.dumps(document))

    @pytest.mark.parametrize(
        ("principal", "exists"),
        [
            ("arn:aws:iam::333333333333:user/staff/me", True),
            ("arn:aws:iam::333333333333:user/me", False),
            ("arn:aws:iam::111111111111:role/my-lambda-execution-role", True),
            ("arn:aws:iam::111111111111:role/My-Lambda-Execution-Role", False),
            ("arn:aws:iam::222222222222:role/Reader", False),
            (FUNCTION, True),
            ("arn:aws:sts::111111111111:assumed-role/unknown/my-function", False),
            ("arn:aws:sts::111111111111:federated-user/me", True),
            ("arn:aws:iam::444444444444:root", True),
            ("arn:aws-cn:iam::111111111111:root", False),
        ],
    )
    def test_principals_exist(self, aws, principal, exists):
        """A trust policy names roles and users that exist, by path and case, in the role's partition."""
        aws.account("333333333333").client("iam").create_user(UserName="me", Path="/staff/")
        document = {"Version": "2012-10-17", "Statement": trust(principal)}

        if exists:
            aws.role(NEXT, trust=document)
        else:
            with pytest.raises(ConfigurationError, match="doesn't exist in this AWS"):
                aws.role(NEXT, trust=document)

    @pytest.mark.parametrize(
        "policy",
        [
            *("{", "[]", {1, 2}, '{"Statement": 1, "Statement": 2}', permissions()),
            {"Statement": {"Effect": "Allow", "Principal": "*", "Resource": "*"}},
        ],
    )
    def test_what_is_no_trust_policy_is_refused(self, aws, policy):
        """A trust policy is a JSON document whose statements have a principal and no resource."""
        with pytest.raises(ConfigurationError, match="trust: "):
            aws.role(READER, trust=policy)

    def test_what_is_no_identity_policy_is_refused(self, aws):
        """An identity policy is one that IAM saves."""
        with pytest.raises(ConfigurationError, match="policy: IAM rejects it: statement 1 has the prohibited element"):
            aws.grant({"Version": "2012-10-17", "Statement": trust("*")})
        with pytest.raises(ConfigurationError, match="policy: IAM rejects it: IAM resource path must"):
            aws.grant(permissions("arn:aws:iam::222222222222:Reader"))

    def test_a_permissions_boundary_limits(self, aws):
        """A role's permissions boundary must allow the call. One that moto doesn't know counts against the caller."""
        iam = aws.account("111111111111").client("iam")
        arns = [
            iam.create_policy(PolicyName=name, PolicyDocument=json.dumps(permissions(resource)))["Policy"]["Arn"]
            for name, resource in (("this", READER), ("other", NEXT))
        ]
        role_name = "my-lambda-execution-role"

        for arn in [*arns[1:], "arn:aws:iam::aws:policy/PowerUserAccess"]:
            iam.put_role_permissions_boundary(RoleName=role_name, PermissionsBoundary=arn)
            with pytest.raises(ClientError, match="AccessDenied"):
                assume()
        iam.put_role_permissions_boundary(RoleName=role_name, PermissionsBoundary=arns[0])
        assume()

        assert "the permissions boundary of" in aws.refused[0].reason
        assert "isn't known here" in aws.refused[1].reason

    def test_a_session_policy_limits_the_next_role(self, aws):
        """A session policy limits what the session may assume, as an inline document and as managed policies."""
        aws.role(NEXT, trust={"Version": "2012-10-17", "Statement": trust(READER)})
        aws.grant(permissions(NEXT), role_arn=READER)
        document = json.dumps(permissions(NEXT))
        iam = aws.account("222222222222").client("iam")
        arn = iam.create_policy(PolicyName="next", PolicyDocument=document)["Policy"]["Arn"]

        for allowing in ({"Policy": document}, {"PolicyArns": [{"arn": arn}]}):
            boto3.client("sts", **assume(**allowing)).assume_role(RoleArn=NEXT, RoleSessionName="next")
        for limiting in (
            {"Policy": json.dumps(permissions(READER))},
            {"PolicyArns": [{"arn": "arn:aws:iam::aws:policy/ReadOnlyAccess"}]},
        ):
            with pytest.raises(ClientError, match="AccessDenied"):
                boto3.client("sts", **assume(**limiting)).assume_role(RoleArn=NEXT, RoleSessionName="next")

        assert all("session policy" in call.reason for call in aws.refused)

    def test_a_deleted_role_may_do_nothing(self, aws):
        """The sessions of a role that was deleted have no policies."""
        aws.role(NEXT, trust={"Version": "2012-10-17", "Statement": trust(READER)})
        session = boto3.Session(**assume())
        aws.account("222222222222").client("iam").delete_role(RoleName="Reader")

        with pytest.raises(ClientError, match="AccessDenied"):
            session.client("sts").assume_role(RoleArn=NEXT, RoleSessionName="next")

    def test_principal_tags(self, aws):
        """Tags of the execution role, and of a user, are the values of ``aws:PrincipalTag``."""
        condition = {"StringEquals": {"aws:PrincipalTag/team": "orders"}}
        aws.role(NEXT, trust={"Version": "2012-10-17", "Statement": trust("111111111111", Condition=condition)})
        aws.grant(permissions(NEXT))
        iam = aws.account("111111111111").client("iam")
        tags = [{"Key": "Team", "Value": "orders"}]
        iam.create_user(UserName="me", Tags=tags)
        iam.put_user_policy(UserName="me", PolicyName="p", PolicyDocument=json.dumps(permissions(NEXT)))
        key = iam.create_access_key(UserName="me")["AccessKey"]
        user = boto3.client("sts", aws_access_key_id=key["AccessKeyId"], aws_secret_access_key=key["SecretAccessKey"])

        user.assume_role(RoleArn=NEXT, RoleSessionName="me")
        with pytest.raises(ClientError, match="AccessDenied"):
            assume(NEXT)
        iam.tag_role(RoleName="my-lambda-execution-role", Tags=tags)
        assume(NEXT)

    @pytest.mark.parametrize(
        ("condition", "is_allowed"),
        [
            (
                {"ArnEquals": {"lambda:SourceFunctionArn": f"{LAMBDA}:my-function"}},
                True,
            ),
            (
                {"ArnEquals": {"lambda:SourceFunctionArn": f"{LAMBDA}:other"}},
                False,
            ),
            ({"StringEquals": {"aws:RequestedRegion": "us-east-1"}}, True),
            ({"StringEquals": {"aws:RequestedRegion": "eu-west-1"}}, False),
            ({"DateGreaterThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, True),
            ({"DateLessThan": {"aws:CurrentTime": "2020-01-01T00:00:00Z"}}, False),
        ],
    )
    def test_keys_that_a_function_has(self, aws, condition, is_allowed):
        """An identity policy may compare the function's ARN, the Region of the STS endpoint, and STS's time."""
        aws.role(NEXT)
        statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": NEXT, "Condition": condition}
        aws.grant({"Version": "2012-10-17", "Statement": statement})

        if is_allowed:
            assume(NEXT)
        else:
            with pytest.raises(ClientError, match="AccessDenied"):
                assume(NEXT)

    def test_only_a_role_can_be_granted_something(self, aws):
        """A policy is for a role that exists."""
        with pytest.raises(ConfigurationError, match="does not exist: create it first"):
            aws.grant(permissions(), role_arn=NEXT)


class TestChains:
    ACTIONS = ("sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity")

    @pytest.fixture
    def hub(self, aws):
        """Return credentials of READER with a source identity and two tags, one of them transitive."""
        aws.role(READER, trust={"Version": "2012-10-17", "Statement": trust("111111111111", Action=self.ACTIONS)})
        aws.grant(permissions(action=list(self.ACTIONS)))
        aws.grant(permissions(NEXT, action=list(self.ACTIONS)), role_arn=READER)
        return assume(
            SourceIdentity="alice",
            Tags=[{"Key": "tenant", "Value": "blue"}, {"Key": "stage", "Value": "prod"}],
            TransitiveTagKeys=["tenant"],
        )

    def chain(self, hub, **parameters):
        return boto3.client("sts", **hub).assume_role(RoleArn=NEXT, RoleSessionName="next", **parameters)

    def test_both_persist(self, aws, hub):
        """The source identity and the transitive tag are those of the next session as well."""
        condition = {"StringEquals": {"aws:SourceIdentity": "alice", "aws:PrincipalTag/tenant": "blue"}}
        last = "arn:aws:iam::444444444444:role/Last"
        aws.role(NEXT, trust={"Version": "2012-10-17", "Statement": trust(READER, Action=self.ACTIONS)})
        statement = trust(NEXT, Action=self.ACTIONS, Condition=condition)
        aws.role(last, trust={"Version": "2012-10-17", "Statement": statement})
        aws.grant(permissions(last, action=list(self.ACTIONS)), role_arn=NEXT)

        credentials = self.chain(hub)["Credentials"]
        boto3.client(
            "sts",
            aws_access_key_id=credentials["AccessKeyId"],
            aws_secret_access_key=credentials["SecretAccessKey"],
            aws_session_token=credentials["SessionToken"],
        ).assume_role(RoleArn=last, RoleSessionName="last")

    def test_both_need_their_actions(self, aws, hub):
        """Without the actions, a chained call is refused although it sends neither a tag nor a source identity."""
        aws.role(NEXT, trust={"Version": "2012-10-17", "Statement": trust(READER)})

        with pytest.raises(ClientError, match="not authorized to perform: sts:TagSession"):
            self.chain(hub)

    def test_a_source_identity_stays(self, aws, hub):
        """A chained call can't change the source identity."""
        aws.role(NEXT, trust={"Version": "2012-10-17", "Statement": trust(READER, Action=self.ACTIONS)})

        with pytest.raises(ClientError, match="not authorized to perform: sts:SetSourceIdentity"):
            self.chain(hub, SourceIdentity="bob")
        self.chain(hub, SourceIdentity="alice")


class TestRecord:
    def test_what_was_sent(self, aws):
        """A recorded call says who assumed which role, with what, and only that there was an external ID."""
        aws.role(READER, trust={"Statement": trust("111111111111", Action=["sts:AssumeRole", "sts:TagSession"])})
        aws.grant(permissions(action="sts:TagSession"))
        assumed_session(
            READER,
            role_session_name="tenant",
            external_id="orders-7f3a",
            duration_seconds=900,
            tags={"team": "a", "stage": "b"},
            transitive_tag_keys=["team"],
            policy=permissions(),
        ).client("sts").get_caller_identity()

        [call] = aws.assumed
        assert dataclasses.asdict(call) == {
            "role_arn": READER,
            "role_session_name": "tenant",
            "caller_arn": FUNCTION,
            "duration_seconds": 900,
            "tags": {"stage": "b", "team": "a"},
            "transitive_tag_keys": ("team",),
            "source_identity": None,
            "has_external_id": True,
            "has_policy": True,
            "error_code": None,
            "reason": None,
        }
        assert "orders-7f3a" not in repr(call)


class TestFaults:
    def test_unavailable(self, aws):
        """An STS out of reach is no connection, until the block ends."""
        with aws.sts.unavailable():
            with pytest.raises(STSUnavailableError):
                assumed_session(READER).client("s3").list_buckets()
            with pytest.raises(EndpointConnectionError):
                assume()

        assume()

    def test_unavailable_lasts(self, aws):
        """Without a ``with`` block an outage lasts until the accounts go."""
        aws.sts.unavailable()

        with pytest.raises(EndpointConnectionError):
            assume()

    def test_throttle(self, aws):
        """So many requests are throttled, and the next is served."""
        aws.sts.throttle(2)

        for _ in range(2):
            with pytest.raises(ClientError, match=r"\(Throttling\).*Rate exceeded"):
                assume()
        assume()

    @pytest.mark.parametrize(
        ("service", "operation", "parameters", "code", "status"),
        [
            ("s3", "list_buckets", {}, "ExpiredToken", 400),
            ("s3", "head_bucket", {"Bucket": "orders"}, "400", 400),
            ("s3", "head_object", {"Bucket": "orders", "Key": "one"}, "400", 400),
            ("ec2", "describe_instances", {}, "RequestExpired", 400),
            ("iam", "list_roles", {}, "ExpiredToken", 403),
            ("dynamodb", "list_tables", {}, "ExpiredTokenException", 400),
        ],
    )
    def test_expired_credentials(self, aws, service, operation, parameters, code, status):
        """Each service rejects expired credentials in its own way; S3's answer to HEAD is the bare status."""
        self.fill(aws)
        client = boto3.client(service, **assume())
        getattr(client, operation)(**parameters)
        aws.sts.expire_now()

        with pytest.raises(ClientError) as caught:
            getattr(client, operation)(**parameters)
        response = caught.value.response
        assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)

    def fill(self, aws):
        s3 = aws.account("222222222222").client("s3")
        s3.create_bucket(Bucket="orders")
        s3.put_object(Bucket="orders", Key="one", Body=b"1")

    @pytest.mark.parametrize(
        ("service", "operation", "parameters", "code", "status"),
        [
            ("s3", "list_buckets", {}, "InvalidAccessKeyId", 403),
            ("s3", "head_bucket", {"Bucket": "orders"}, "403", 403),
            ("ec2", "describe_instances", {}, "AuthFailure", 401),
            ("iam", "list_roles", {}, "InvalidClientTokenId", 403),
            ("dynamodb", "list_tables", {}, "UnrecognizedClientException", 400),
        ],
    )
    def test_revoked_credentials(self, aws, service, operation, parameters, code, status):
        """Each service rejects the credentials of a revoked role in its own way."""
        self.fill(aws)
        client = boto3.client(service, **assume())
        aws.sts.revoke(READER)

        with pytest.raises(ClientError) as caught:
            getattr(client, operation)(**parameters)
        response = caught.value.response
        assert (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"]) == (code, status)

    def test_revoking_spares_other_roles(self, aws):
        """Only the sessions of the role that is named are revoked."""
        client = boto3.client("s3", **assume())
        aws.sts.revoke(NEXT)

        assert buckets(client) == []

    def test_the_library_recovers(self, aws):
        """A client of this library goes on after its credentials were rejected, for one more call of STS."""
        client = assumed_session(READER).client("s3")
        buckets(client)
        aws.sts.expire_now()
        aws.sts.revoke(READER)

        assert buckets(client) == []
        assert len(aws.assumed) == 2

    @pytest.mark.parametrize("step", [3601, timedelta(hours=2)])
    def test_advance(self, aws, step):
        """Time moves for STS, services and library: cached credentials expire, the library renews its own."""
        by_hand, client = boto3.client("s3", **assume()), assumed_session(READER).client("s3")
        buckets(client)
        aws.sts.advance(step)

        with pytest.raises(ClientError, match="ExpiredToken"):
            buckets(by_hand)
        assert buckets(client) == []
        assert buckets(client) == []
        assert len(aws.assumed) == 3

    def test_advance_does_not_touch_the_functions_own(self, aws):
        """Lambda renews the function's credentials: they stay good, as do those of ``account()``."""
        aws.account("222222222222")
        aws.sts.advance(timedelta(days=2))
        aws.sts.expire_now()

        assert buckets(boto3.client("s3")) == buckets(aws.account("222222222222").client("s3")) == []

    def test_time_goes_forward(self, aws):
        """Time does not go back."""
        with pytest.raises(ConfigurationError, match="must not be negative"):
            aws.sts.advance(-1)

    def test_faults_are_checked(self, aws):
        """A fault that could not come is refused: what is no number of requests, what is no role."""
        for times in (-1, "2", True, 1.5):
            with pytest.raises(ConfigurationError, match="is not a number of requests"):
                aws.sts.throttle(times)
        with pytest.raises(ConfigurationError, match="is not the ARN of a role"):
            aws.sts.revoke("Reader")

    def test_freezegun(self, aws):
        """Under freezegun the library renews when the frozen clock says so."""
        with freezegun.freeze_time("2030-01-01T00:00:00") as frozen:
            client = assumed_session(READER).client("s3")
            buckets(client)
            frozen.tick(3601)
            buckets(client)

        assert len(aws.assumed) == 2

    def test_time_machine(self, aws):
        """Under time-machine the library renews when the travelled clock says so."""
        with time_machine.travel(datetime(2030, 1, 1, tzinfo=UTC), tick=False) as traveller:
            client = assumed_session(READER).client("s3")
            buckets(client)
            traveller.shift(3601)
            buckets(client)

        assert len(aws.assumed) == 2


class TestPlaces:
    def test_a_client_made_before(self):
        """A client that a module made with made-up keys, before anything was mocked, acts as the function."""
        made_before = boto3.client("sts", aws_access_key_id="testing", aws_secret_access_key="testing")
        # As if it had been made before moto was imported, which is when moto hooks into clients.
        for handler in [*made_before.meta.events._emitter._handlers.prefix_search("before-send")]:
            made_before.meta.events.unregister("before-send", handler)

        with CrossAccountAWS():
            assert made_before.get_caller_identity()["Arn"] == FUNCTION

    def test_credentials_of_another_aws(self):
        """Credentials that another test's AWS issued are refused, not answered as some default account."""
        with CrossAccountAWS() as aws:
            aws.role(READER)
            aws.grant(permissions())
            kept = boto3.client("s3", **assume())

        with CrossAccountAWS(strict=False), pytest.raises(ClientError, match="InvalidAccessKeyId"):
            buckets(kept)

    def test_a_default_session_that_is_kept(self):
        """What boto3 has read from the environment in one test is the function in the next as well."""
        with CrossAccountAWS():
            kept = boto3.client("sts")
            kept.get_caller_identity()

        with CrossAccountAWS(home_account="444444444444"):
            assert kept.get_caller_identity()["Account"] == "444444444444"

    def test_motos_decorator(self, aws):
        """moto's own decorator around a handler changes nothing, although it sets made-up keys."""

        @mock_aws
        def test() -> str:
            return boto3.Session().client("sts").get_caller_identity()["Arn"]

        assert test() == FUNCTION

    def test_inside_motos_context_manager(self):
        """Inside moto's context manager the accounts join what is there, and leave its environment as it was."""
        with mock_aws():
            before = dict(os.environ)
            boto3.client("s3", region_name="us-east-1").create_bucket(Bucket="already-there")
            with CrossAccountAWS() as aws:
                assert buckets(aws.account("123456789012").client("s3")) == ["already-there"]
            assert dict(os.environ) == before

    def test_the_environment_is_left_as_it_was(self):
        """At the end the environment and boto3's default session are what they were, profile included."""
        boto3.setup_default_session()
        session = boto3.DEFAULT_SESSION
        with patch.dict(os.environ, AWS_PROFILE="mine"):
            before = dict(os.environ)
            with CrossAccountAWS():
                assert "AWS_PROFILE" not in os.environ
            assert dict(os.environ) == before
        assert boto3.DEFAULT_SESSION is session

    def test_server(self, aws):
        """Through moto's server another process is the function as well, and is refused by the same rules."""
        script = (
            "import boto3; sts = boto3.client('sts'); print(sts.get_caller_identity()['Arn'])\n"
            f"sts.assume_role(RoleArn={READER!r}, RoleSessionName='child')\n"
            f"sts.assume_role(RoleArn={NEXT!r}, RoleSessionName='child')\n"
        )
        server = ThreadedMotoServer(port=0, verbose=False)
        server.start()
        try:
            environment = os.environ | aws.environment | {"AWS_ENDPOINT_URL": endpoint(server)}
            child = subprocess.run(
                [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False
            )
        finally:
            server.stop()

        assert child.stdout.strip() == FUNCTION
        assert "is not authorized to perform: sts:AssumeRole" in child.stderr
        assert [call.role_session_name for call in (*aws.assumed, *aws.refused)] == ["child", "child"]

    def test_unavailable_through_the_server(self, aws):
        """Through moto's server an STS out of reach is a 503."""
        server = ThreadedMotoServer(port=0, verbose=False)
        server.start()
        try:
            aws.sts.unavailable()
            client = boto3.client("sts", endpoint_url=endpoint(server), config=ONE_TRY)
            with pytest.raises(ClientError, match="ServiceUnavailable"):
                client.assume_role(RoleArn=READER, RoleSessionName="served")
        finally:
            server.stop()

    def test_motos_account_must_not_be_set(self):
        """``MOTO_ACCOUNT_ID``, which makes moto one account, is refused."""
        with (
            patch.dict(os.environ, MOTO_ACCOUNT_ID="444444444444"),
            pytest.raises(ConfigurationError, match="MOTO_ACCOUNT_ID"),
            CrossAccountAWS(),
        ):
            pass

    def test_moto_must_be_in_this_process(self):
        """moto in another process, where nothing could be refused, is refused itself."""
        with (
            patch.object(settings, "TEST_SERVER_MODE", new=True),
            pytest.raises(ConfigurationError, match="ThreadedMotoServer"),
            CrossAccountAWS(),
        ):
            pass

    def test_one_at_a_time(self, aws):
        """Accounts do not nest: one AWS has as many as a test needs."""
        with (
            pytest.raises(ConfigurationError, match="one is active already: add accounts and roles"),
            CrossAccountAWS(),
        ):
            pass

    def test_without_moto(self, monkeypatch):
        """Where moto is not installed, the error says what to install."""
        monkeypatch.delattr("xacct_lambda.testing._moto", raising=False)
        monkeypatch.setitem(sys.modules, "xacct_lambda.testing._moto", None)

        with pytest.raises(ImportError, match=r"pip install 'xacct-lambda\[testing\]'"), CrossAccountAWS():
            pass


def endpoint(server: ThreadedMotoServer) -> str:
    return "http://{}:{}".format(*server.get_host_and_port())


class TestIsolatedCache:
    def test_nothing_gets_in_or_out(self, aws):
        """Inside, nothing from outside is remembered; outside, nothing from inside."""
        outside = assumed_session(READER)
        with isolated_cache():
            inside = assumed_session(READER)
            inside.client("sts").get_caller_identity()
            assert inside is not outside
            assert cache_info().roles == 1

        assert assumed_session(READER) is outside
        assert cache_info().roles == 0

    def test_sessions_that_are_held_fetch_anew(self, aws):
        """A session that a module holds keeps no credentials from one test to the next, wherever it was made."""
        with isolated_cache():
            client_before = assumed_session(READER).client("sts")
            client_before.get_caller_identity()
        for _ in range(2):
            with isolated_cache():
                client_before.get_caller_identity()

        assert len(aws.assumed) == 3

    def test_decorated_handlers_look_up_anew(self, aws):
        """A handler decorated outside assumes its role again inside."""

        @assume_role(READER, clients=["sts"])
        def handler(event, context, *, sts):
            return sts.get_caller_identity()["Account"]

        handler({}, None)
        with isolated_cache():
            assert handler({}, None) == "222222222222"

        assert len(aws.assumed) == 2

    def test_decorator(self):
        """It decorates functions, of any arguments and results."""
        states = []

        @isolated_cache()
        def function(number: int) -> int:
            states.append(_sessions.default_cache)
            return number + 1

        assert function(1) == 2
        assert states[0] is not _sessions.default_cache

    def test_decorator_of_coroutine_functions(self):
        """An ``async def`` function is isolated while it runs, not only while its coroutine is made."""
        states = []

        @isolated_cache()
        async def function() -> None:
            await asyncio.sleep(0)
            states.append(_sessions.default_cache)

        asyncio.run(function())

        assert states[0] is not _sessions.default_cache

    def test_classes_are_refused(self):
        """On a class it would isolate the making of an object and not the tests, so it refuses."""
        with pytest.raises(ConfigurationError, match="enterContext"):
            isolated_cache()(unittest.TestCase)

    def test_an_error_ends_it_too(self):
        """The state of before is back after an error."""
        before = _sessions.default_cache
        with pytest.raises(KeyError), isolated_cache():
            raise KeyError

        assert _sessions.default_cache is before


class TestLambdaContext:
    def test_attributes(self):
        """The context has what Python handlers read from Lambda's own."""
        context = LambdaContext(function_name="orders", account_id="444444444444", region_name="cn-north-1")

        assert context.invoked_function_arn == "arn:aws-cn:lambda:cn-north-1:444444444444:function:orders"
        assert context.log_group_name == "/aws/lambda/orders"
        assert (context.function_version, context.memory_limit_in_mb, context.tenant_id) == ("$LATEST", "128", None)
        assert context.aws_request_id != LambdaContext().aws_request_id

    def test_time_counts_down(self):
        """The remaining time counts down to nothing."""
        with freezegun.freeze_time("2030-01-01T00:00:00") as frozen:
            context = LambdaContext(timeout_seconds=10)
            frozen.tick(4)
            assert context.get_remaining_time_in_millis() == 6000
            frozen.tick(10)
            assert context.get_remaining_time_in_millis() == 0

    def test_it_outlasts_an_advance(self, aws):
        """``advance`` is for what happens between events: it takes no time from a context."""
        context = LambdaContext(timeout_seconds=10)
        aws.sts.advance(3601)

        assert context.get_remaining_time_in_millis() > 0


class TestInUnittest(unittest.TestCase):
    def setUp(self):
        self.aws = self.enterContext(CrossAccountAWS())

    def test_enter_context(self):
        """In a ``unittest.TestCase`` the accounts are entered in ``setUp``."""
        self.aws.role(READER)
        self.aws.grant(permissions())

        assert assumed_session(READER).client("sts").get_caller_identity()["Account"] == "222222222222"
