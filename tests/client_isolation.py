"""``python -m tests.client_isolation``: do the clients of three roles ever use what belongs to another client?

Random sequences of what programs do with clients run against a wire that never leaves the process. The wire is the last
step before the network, ``urlopen`` of urllib3's connection pools, so every request is judged as it would be sent:

- the signature and the session token are the role's, and the host is that of the client's service, Region, and account
- the user agent, time-outs, and number of attempts are those of the client's own configuration
- the request ran the hooks of its client, its session, and the source session, each once, and no other hook

A request shows its client twice, in its user agent and in its parameters. Requests of threads are judged, too.

The control is one plain boto3 session per role. The broken variants are the library with one fault each.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import io
import itertools
import json
import os
import random
import re
import threading
import types
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final
from unittest import mock
from urllib.parse import parse_qsl, urlsplit

import boto3
import botocore
import botocore.endpoint
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.stub import Stubber
from urllib3.connectionpool import HTTPConnectionPool
from urllib3.response import HTTPResponse

from xacct_lambda import _event_hooks, _sessions, assumed_session

ACCOUNTS: Final = ("222222222222", "333333333333", "444444444444")
REGIONS: Final = ("eu-west-1", "us-west-2", "eu-central-1")
HOSTS: Final = {
    "dynamodb": r"(\d{12}\.ddb|dynamodb)\.",
    "ec2": r"ec2\.",
    "kinesis": r"(\d{12}\.\w+-kinesis|kinesis)\.",
    "lambda": r"lambda\.",
    "s3": r"([\w-]+\.s3|s3|[\w-]+\.s3express-use1-az4|s3express-control|s3express-use1-az4)\.",
    "s3control": r"\d{12}\.s3-control\.",
    "sqs": r"(\d{12}\.)?sqs\.",
    "sts": r"sts\.",
    "timestream-write": r"(ingest|cell-[\w-]+)\.timestream\.",
}
_TAG: Final = re.compile(r"r(\d)c(\d+)k")
_FAR: Final = re.compile(r"[\w-]+?-(301|307|400|blind)-in-([\w-]+)\.s3\.")
_UPLOAD: Final = bytes(10_600_000)
_MARKS: Final = "X-Marks"


@dataclasses.dataclass
class Owner:
    """One client, and everything that only its requests may show."""

    role: int
    number: int
    service: str
    region: str
    attempts: int
    read_timeout: int
    mode: str
    is_resource: bool
    client: Any = None
    marks: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The hooks of the client: event, handler, and count of registrations by mark."""

    @property
    def tag(self) -> str:
        return f"r{self.role}c{self.number}k"

    @property
    def config(self) -> Config:
        return Config(
            user_agent_extra=f"isolation/{self.tag}",
            retries={"mode": self.mode, "total_max_attempts": self.attempts},
            read_timeout=self.read_timeout,
            parameter_validation=True,
        )


class Wire:
    """Judges and answers the requests of all clients."""

    def __init__(self) -> None:
        self.owners: dict[str, Owner] = {}
        self.requests = 0
        self.violations: list[str] = []
        self.sent: collections.Counter[str] = collections.Counter()
        self.failures: dict[str, list[int]] = {}
        """Statuses to answer the next requests of a client with, by its tag."""
        self.session_marks: list[str] = []
        """The marks that each request has, in addition to its role's and its client's."""
        self.kinds: collections.Counter[str] = collections.Counter()
        """How many requests of each kind were judged."""
        self._lock = threading.Lock()

    def report(self, tag: str, problem: str) -> None:
        self.violations.append(f"{tag}: {problem}")

    def urlopen(self, pool: Any, method: str, url: str, body: Any, headers: Any) -> HTTPResponse:
        """Stand in for ``HTTPConnectionPool.urlopen``."""
        headers = {name.lower(): _text(value) for name, value in headers.items()}
        content = body if isinstance(body, bytes) else body.encode() if isinstance(body, str) else b""
        if (call := dict(parse_qsl(content.decode("latin-1")))).get("Action") == "AssumeRole":
            return _response(200, _assume_role(call["RoleArn"]))
        with self._lock:
            self.requests += 1
            status, text, extra = self._judge_and_answer(pool, method, url, content, headers)
        return _response(status, text, extra, headers)

    def _judge_and_answer(
        self, pool: Any, method: str, url: str, content: bytes, headers: dict[str, str]
    ) -> tuple[int, Any, dict[str, str]]:
        agent = re.search(r"isolation/(r\dc\d+k)", headers.get("user-agent", ""))
        owner = self.owners.get(agent[1]) if agent else None
        if owner is None:
            self.report("?", f"a request of an unknown client: {headers.get('user-agent')}")
            return 200, "", {}
        self.sent[owner.tag] += 1
        tags = {match[0] for match in _TAG.finditer(f"{pool.host}{url}{content.decode('latin-1')}")}
        if tags - {owner.tag}:
            self.report(owner.tag, f"its request has the parameters of {tags}")
        self._judge_signature(owner, headers)
        self._judge_host(owner, pool.host, headers)
        if pool.timeout.read_timeout != owner.read_timeout:
            self.report(owner.tag, f"a time-out of {pool.timeout.read_timeout} instead of {owner.read_timeout}")
        marks = [mark for mark in headers.get(_MARKS.lower(), "").split(",") if mark]
        expected = [*self.session_marks, f"role-{owner.role}", *owner.marks]
        if sorted(marks) != sorted(expected):
            self.report(owner.tag, f"ran the hooks {sorted(marks)} instead of {sorted(expected)}")
        self._count(pool.host, url, headers)
        if self.failures.get(owner.tag):
            self.kinds["answered with a failure"] += 1
            return self.failures[owner.tag].pop(0), "", {}
        return _answer(owner, method, pool.host, url, headers, dict(parse_qsl(content.decode("latin-1"))).get("Action"))

    def _count(self, host: str, url: str, headers: dict[str, str]) -> None:
        query = urlsplit(url).query
        self.kinds["account in the host"] += bool(re.search(r"\d{12}", host))
        self.kinds["directory bucket"] += "x-amz-s3session-token" in headers
        self.kinds["discovered host"] += host.startswith("cell-")
        self.kinds["page after the first"] += "continuation-token" in query
        self.kinds["part of an upload"] += "partNumber" in query
        self.kinds["redirected"] += bool((far := _FAR.match(host)) and f".{far[2]}." in host)

    def _judge_signature(self, owner: Owner, headers: dict[str, str]) -> None:
        key, _, scope = headers.get("authorization", "").partition("Credential=")[2].partition("/")
        token = headers.get("x-amz-s3session-token") or headers.get("x-amz-security-token")
        issued = owner.tag if "x-amz-s3session-token" in headers else str(owner.role)
        if (key, token) != (f"ASIA{issued}", f"token-{issued}"):
            self.report(owner.tag, f"signed as {key} with {token}")
        region = scope.split("/")[1] if scope else None
        if region not in REGIONS:
            self.report(owner.tag, f"signed for the Region {region}")
        elif region != owner.region and owner.service != "s3":
            self.report(owner.tag, f"signed for {region} instead of {owner.region}")

    def _judge_host(self, owner: Owner, host: str, headers: dict[str, str]) -> None:
        far = re.search(r"-in-([\w-]+)\.s3", host)
        region = next((region for region in REGIONS if f".{region}." in host), None)
        if not re.match(HOSTS[owner.service], host) or region not in {owner.region, far and far[1]}:
            self.report(owner.tag, f"sent to {host}")
        if (account := re.search(r"\d{12}", host)) and account[0] != ACCOUNTS[owner.role]:
            self.report(owner.tag, f"sent to the account of another role: {host}")
        if region and f"/{region}/" not in headers.get("authorization", ""):
            self.report(owner.tag, f"signed for another Region than that of {host}")

    def judge_endpoint(self, role: int) -> Callable[..., None]:
        """Return a hook that judges whose endpoint the requests of a role use."""

        def judge_owner(context: Any, **_: Any) -> None:
            owner = context.get("endpoint_properties", {}).get("owner", f"r{role}")
            if not owner.startswith(f"r{role}"):
                self.report(f"r{role}", f"its endpoint belongs to {owner}")

        return judge_owner

    def judge_presigned(self, owner: Owner, url: str, fields: dict[str, str]) -> None:
        """Judge a URL or form that is never sent in this process."""
        self.requests += 1
        self.kinds["presigned form" if fields else "presigned URL"] += 1
        parts = urlsplit(url)
        fields = {name.lower(): value for name, value in {**fields, **dict(parse_qsl(parts.query))}.items()}
        key = fields.get("x-amz-credential", fields.get("awsaccesskeyid", "")).partition("/")[0]
        token = fields.get("x-amz-security-token")
        if (key, token) != (f"ASIA{owner.role}", f"token-{owner.role}"):
            self.report(owner.tag, f"presigned as {key} with {token}")
        if not re.match(HOSTS[owner.service], parts.netloc) or owner.tag not in url:
            self.report(owner.tag, f"presigned for {url}")


def _text(value: Any) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else str(value)


def _response(
    status: int, content: Any, headers: dict[str, str] | None = None, request: dict[str, str] | None = None
) -> HTTPResponse:
    headers = {"x-amzn-requestid": "r", **(headers or {})}
    body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    if "smithy-protocol" in (request or {}):
        headers["smithy-protocol"], body = "rpc-v2-cbor", b"\xa0"
    headers["content-length"] = str(len(body))
    return HTTPResponse(io.BytesIO(body), headers=headers, status=status, preload_content=False)


def _assume_role(arn: str) -> str:
    role = ACCOUNTS.index(arn.split(":")[4])
    return (
        '<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult>'
        f"<AssumedRoleUser><Arn>arn:aws:sts::{ACCOUNTS[role]}:assumed-role/Reader/xacct-lambda</Arn>"
        f"<AssumedRoleId>AROA:x</AssumedRoleId></AssumedRoleUser><Credentials><AccessKeyId>ASIA{role}</AccessKeyId>"
        f"<SecretAccessKey>secret</SecretAccessKey><SessionToken>token-{role}</SessionToken>"
        "<Expiration>2099-01-01T00:00:00Z</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>"
    )


def _answer(  # noqa: PLR0911 - one return per kind of answer
    owner: Owner, method: str, host: str, url: str, headers: dict[str, str], action: str | None
) -> tuple[int, Any, dict[str, str]]:
    target = headers.get("x-amz-target", "").rpartition(".")[2]
    if owner.service == "s3":
        return _answer_s3(owner, method, host, url)
    if target == "DescribeEndpoints":
        address = f"cell-{owner.tag}.timestream.{owner.region}.amazonaws.com"
        return 200, {"Endpoints": [{"Address": address, "CachePeriodInMinutes": 1440}]}, {}
    if owner.service == "timestream-write" and not host.startswith(f"cell-{owner.tag}."):
        return 400, {"__type": "InvalidEndpointException"}, {}
    if target == "DescribeTable":
        return 200, {"Table": {"TableStatus": "ACTIVE"}}, {}
    if target == "ListTables" and "ExclusiveStartTableName" not in url:
        return 200, {"TableNames": ["one"]}, {}
    if action:
        return 200, f"<{action}Response><{action}Result></{action}Result></{action}Response>", {}
    if owner.client.meta.service_model.protocol == "rest-xml":
        return 200, "<Response></Response>", {}
    return 200, {}, {}


def _answer_s3(owner: Owner, method: str, host: str, url: str) -> tuple[int, Any, dict[str, str]]:
    query = dict(parse_qsl(urlsplit(url).query, keep_blank_values=True))
    if "session" in query:
        fields = f"<AccessKeyId>ASIA{owner.tag}</AccessKeyId><SessionToken>token-{owner.tag}</SessionToken>"
        fields += "<SecretAccessKey>secret</SecretAccessKey><Expiration>2099-01-01T00:00:00Z</Expiration>"
        return 200, f"<CreateSessionResult><Credentials>{fields}</Credentials></CreateSessionResult>", {}
    if (far := _FAR.match(host)) and f".{far[2]}." not in host:
        return _redirect(far[1], far[2], method)
    if "uploads" in query:
        return 200, "<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>", {}
    if "uploadId" in query and method == "POST":
        return 200, "<CompleteMultipartUploadResult><ETag>e</ETag></CompleteMultipartUploadResult>", {}
    if "list-type" in query:
        more = "continuation-token" not in query
        key = "<Contents><Key>k</Key><Size>1</Size></Contents>"
        rest = "<IsTruncated>true</IsTruncated><NextContinuationToken>t</NextContinuationToken>" if more else ""
        return 200, f"<ListBucketResult>{key}{rest}</ListBucketResult>", {}
    return 200, "", {"etag": '"e"'}


def _redirect(kind: str, region: str, method: str) -> tuple[int, Any, dict[str, str]]:
    header = {"x-amz-bucket-region": region}
    if method == "HEAD":
        return 301, "", header
    code = {"301": "PermanentRedirect", "307": "TemporaryRedirect", "400": "AuthorizationHeaderMalformed"}
    detail = f"<Region>{region}</Region>" if kind == "400" else ""
    error = f"<Error><Code>{code.get(kind, 'PermanentRedirect')}</Code><Message>m</Message>{detail}</Error>"
    return (int(kind) if kind != "blind" else 301), error, ({} if kind in {"blind", "400"} else header)


class Program:
    """A random sequence of what programs do with the clients of three roles."""

    def __init__(self, sessions: list[boto3.Session], wire: Wire, choice: random.Random) -> None:
        self.sessions = sessions
        self.wire = wire
        self.choice = choice
        self.owners: list[Owner] = []
        self.marks: list[dict[str, Any]] = [{} for _ in sessions]
        """The hooks of the sessions, which a client has from its creation on."""
        self.numbers = itertools.count(1)
        self.steps: dict[Callable[[], None], int] = {
            self.create_client: 10,
            self.request: 40,
            self.register: 12,
            self.register_on_session: 3,
            self.unregister: 8,
            self.fail: 6,
            self.redirect: 8,
            self.paginate: 5,
            self.wait: 4,
            self.presign: 6,
            self.presign_form: 4,
            self.stub: 5,
            self.express: 6,
            self.configure: 8,
            self.close: 4,
            self.create_in_threads: 3,
            self.upload: 1,
        }

    def run(self, requests: int) -> None:
        """Take steps until the wire has seen so many requests."""
        for service in ("s3", "s3", "dynamodb", "timestream-write"):
            for role in range(len(ACCOUNTS)):
                self.add_owner(role, service)
        steps, weights = list(self.steps), list(self.steps.values())
        # Each kind of step at least twice, so that a short sequence has them all.
        planned = self.choice.sample(steps * 2, len(steps) * 2)
        while planned or self.wire.requests < requests:
            step = planned.pop() if planned else self.choice.choices(steps, weights)[0]
            try:
                step()
            except Exception as error:  # noqa: BLE001 - a broken variant raises all kinds
                self.wire.report(step.__name__, f"raised {type(error).__name__}: {error}")
                self.wire.requests += 1

    # --- Clients ------------------------------------------------------------------------------------------------------

    def add_owner(self, role: int, service: str) -> Owner:
        owner = self.draw_owner(role, service)
        self.connect(owner)
        return owner

    def draw_owner(self, role: int, service: str) -> Owner:
        owner = Owner(
            role,
            next(self.numbers),
            service,
            self.choice.choice(REGIONS),
            attempts=self.choice.randint(2, 4),
            read_timeout=self.choice.choice((31, 32)),
            mode=self.choice.choice(("legacy", "standard")),
            is_resource=service == "s3" and self.choice.random() < 0.2,
            marks={mark: {**entry} for mark, entry in self.marks[role].items()},
        )
        self.wire.owners[owner.tag] = owner
        self.owners.append(owner)
        return owner

    def connect(self, owner: Owner) -> None:
        """Create the client, in whatever thread."""
        session, arguments = self.sessions[owner.role], {"region_name": owner.region, "config": owner.config}
        if owner.is_resource:
            owner.client = session.resource(owner.service, **arguments).meta.client
        else:
            owner.client = session.client(owner.service, **arguments)

    def pick(self, *services: str) -> Owner:
        return self.choice.choice([owner for owner in self.owners if owner.service in (services or HOSTS)])

    def create_client(self) -> None:
        owner = self.add_owner(self.choice.randrange(len(ACCOUNTS)), self.choice.choice(list(HOSTS)))
        self.send(owner)
        if len(self.owners) > 40:
            # The oldest clients are collected, except for those that guarantee one client for each kind of step.
            del self.owners[self.choice.randrange(12, 30)]

    def create_in_threads(self) -> None:
        """Create a client of each role at the same time."""
        owners = [self.draw_owner(role, self.choice.choice(list(HOSTS))) for role in range(len(ACCOUNTS))]
        with ThreadPoolExecutor(len(owners)) as executor:
            list(executor.map(self.connect, owners))
        for owner in owners:
            self.send(owner)

    def close(self) -> None:
        """Close a client. The others, and the closed one, can still send requests, as with boto3."""
        owner = self.pick()
        owner.client.close()
        self.send(owner)

    def configure(self) -> None:
        """Change what belongs to a client: its class, its method names, and the endpoints of its requests."""
        owner = self.pick()
        for other in self.owners:
            if other is not owner and getattr(type(other.client), "owner", other.tag) != other.tag:
                self.wire.report(other.tag, f"its class belongs to {type(other.client).owner}")
            foreign = other.client.meta.method_to_api_mapping.get("owner", other.tag)
            if foreign != other.tag:
                self.wire.report(other.tag, f"its method names belong to {foreign}")
        type(owner.client).owner = owner.tag
        owner.client.meta.method_to_api_mapping["owner"] = owner.tag

        def change_endpoint(context: Any, **_: Any) -> None:
            properties = context.get("endpoint_properties", {})
            if properties.setdefault("owner", owner.tag) != owner.tag:
                self.wire.report(owner.tag, f"its endpoint belongs to {properties['owner']}")

        owner.client.meta.events.register("before-call", change_endpoint, unique_id="isolation-endpoint")
        near = self.draw_owner((owner.role + 1) % len(ACCOUNTS), owner.service)
        near.region = owner.region
        self.connect(near)
        for client in (owner, near, owner):
            self.send(client, last=True)

    # --- Hooks --------------------------------------------------------------------------------------------------------

    def register(self) -> None:
        owner = self.pick()
        service = owner.client.meta.service_model.service_id.hyphenize()
        event = self.choice.choice(("before-call", f"before-call.{service}"))
        mark = f"{owner.tag}-{next(self.numbers)}"
        identifier: dict[str, Any] = {}
        if self.choice.random() < 0.5:
            identifier = {"unique_id": "isolation", "unique_id_uses_count": True}
        elif self.choice.random() < 0.3:
            identifier = {"unique_id": "isolation-once"}
        method = self.choice.choice(("register", "register_first", "register_last"))
        handler = mark_with(mark)
        getattr(owner.client.meta.events, method)(event, handler, **identifier)
        same = [entry for entry in owner.marks.values() if identifier and entry["identifier"] == identifier]
        if same:
            same[0]["count"] += 1
        else:
            owner.marks[mark] = {"event": event, "handler": handler, "identifier": identifier, "count": 1}
        self.send(owner)
        self.send(self.pick(owner.service))

    def register_on_session(self) -> None:
        """Register a hook on a session. Clients that are created later have it, and can remove it for themselves."""
        role = self.choice.randrange(len(ACCOUNTS))
        mark, event = f"session-{role}-{next(self.numbers)}", self.choice.choice(("before-call", "before-call.s3"))
        handler = mark_with(mark)
        self.sessions[role].events.register(event, handler)
        if event == "before-call":
            self.marks[role][mark] = {"event": event, "handler": handler, "identifier": {}, "count": 1}
        else:
            self.sessions[role].events.unregister(event, handler)
        if len(self.marks[role]) > 5:
            mark, entry = self.marks[role].popitem()
            self.sessions[role].events.unregister(entry["event"], entry["handler"])
        self.send(self.add_owner(role, self.choice.choice(list(HOSTS))))
        self.send(self.pick())

    def unregister(self) -> None:
        owners = [owner for owner in self.owners if owner.marks]
        if not owners:
            return
        owner = self.choice.choice(owners)
        mark, entry = self.choice.choice(list(owner.marks.items()))
        if entry["identifier"]:
            owner.client.meta.events.unregister(entry["event"], **entry["identifier"])
        else:
            owner.client.meta.events.unregister(entry["event"], entry["handler"])
        entry["count"] -= 1
        if not entry["identifier"].get("unique_id_uses_count") or entry["count"] == 0:
            del owner.marks[mark]
        self.send(owner)
        self.send(self.pick(owner.service))

    # --- Requests -----------------------------------------------------------------------------------------------------

    def request(self) -> None:
        self.send(self.pick())

    def send(self, owner: Owner, *, last: bool = False) -> None:
        """Send one request to the client's service. The last of its operations has the same endpoint for all roles."""
        account, client, name = ACCOUNTS[owner.role], owner.client, f"{owner.tag}-data"
        queue = f"https://sqs.{owner.region}.amazonaws.com/{account}/{name}"
        item = {"id": {"S": owner.tag}}
        records: list[Any] = [{"MeasureName": "m", "MeasureValue": "1", "Time": "1"}]
        requests: dict[str, list[Callable[[], Any]]] = {
            "s3": [
                lambda: client.get_object(Bucket=name, Key="k")["Body"].read(),
                lambda: client.put_object(Bucket=name, Key="k", Body=b"content"),
                lambda: client.head_object(Bucket="common", Key="k"),
            ],
            "dynamodb": [
                lambda: client.get_item(TableName=name, Key=item),
                lambda: client.batch_get_item(RequestItems={name: {"Keys": [item]}, f"{name}-2": {"Keys": [item]}}),
                lambda: client.put_item(TableName=name, Item=item),
            ],
            "sqs": [lambda: client.get_queue_attributes(QueueUrl=queue), lambda: client.purge_queue(QueueUrl=queue)],
            "lambda": [lambda: client.get_function_configuration(FunctionName=name)],
            "ec2": [lambda: client.describe_instances(Filters=[{"Name": "tag:a", "Values": [name]}])],
            "sts": [lambda: client.get_caller_identity()],
            "kinesis": [lambda: client.describe_stream_summary(StreamName=name)],
            "s3control": [lambda: client.get_public_access_block(AccountId=account)],
            "timestream-write": [
                lambda: client.write_records(DatabaseName=name, TableName="t", Records=records),
                lambda: client.describe_database(DatabaseName=name),
            ],
        }
        (requests[owner.service][-1] if last else self.choice.choice(requests[owner.service]))()

    def fail(self) -> None:
        """Let a service fail more often than the client tries: the client's own number of attempts is sent."""
        owner = self.pick("s3", "dynamodb", "sqs", "lambda", "sts")
        before = self.wire.sent[owner.tag]
        self.wire.failures[owner.tag] = [self.choice.choice((500, 503))] * 9
        with contextlib.suppress(ClientError):
            self.send(owner)
        self.wire.failures.clear()
        if self.wire.sent[owner.tag] - before != owner.attempts:
            self.wire.report(owner.tag, f"{self.wire.sent[owner.tag] - before} attempts instead of {owner.attempts}")

    def redirect(self) -> None:
        """Ask for a bucket in another Region, with and without a header that names it."""
        owner = self.pick("s3")
        kind = self.choice.choice(("301", "307", "400", "blind"))
        bucket = f"{owner.tag}-{kind}-in-{self.choice.choice(REGIONS)}"
        with contextlib.suppress(ClientError):
            owner.client.get_object(Bucket=bucket, Key="k")
        owner.client.list_objects_v2(Bucket=bucket) if kind == "301" else None

    def paginate(self) -> None:
        owner = self.pick("s3", "dynamodb")
        if owner.service == "s3":
            list(owner.client.get_paginator("list_objects_v2").paginate(Bucket=f"{owner.tag}-data"))
        else:
            list(owner.client.get_paginator("list_tables").paginate(ExclusiveStartTableName=owner.tag))

    def wait(self) -> None:
        owner = self.pick("s3", "dynamodb")
        self.wire.failures[owner.tag] = [404] if owner.service == "s3" else []
        name, arguments = {
            "s3": ("bucket_exists", {"Bucket": f"{owner.tag}-data"}),
            "dynamodb": ("table_exists", {"TableName": f"{owner.tag}-data"}),
        }[owner.service]
        owner.client.get_waiter(name).wait(**arguments, WaiterConfig={"Delay": 0, "MaxAttempts": 3})
        self.wire.failures.clear()

    def presign(self) -> None:
        owner = self.pick("s3", "dynamodb", "sqs")
        name = f"{owner.tag}-data"
        operation, arguments = {
            "s3": ("get_object", {"Bucket": name, "Key": "k"}),
            "dynamodb": ("describe_table", {"TableName": name}),
            "sqs": ("get_queue_url", {"QueueName": name}),
        }[owner.service]
        url = owner.client.generate_presigned_url(operation, arguments)
        self.wire.judge_presigned(owner, url if owner.service == "s3" else f"{url}#{owner.tag}", {})

    def presign_form(self) -> None:
        owner = self.pick("s3")
        form = owner.client.generate_presigned_post(f"{owner.tag}-data", "k")
        self.wire.judge_presigned(owner, form["url"], form["fields"])

    def stub(self) -> None:
        """Stub one client. It sends nothing, and another client of its service is not stubbed."""
        owner, other = self.pick("sqs", "dynamodb", "sts"), self.pick()
        self.add_owner(other.role, owner.service)
        operation, response, arguments = {
            "sqs": ("get_queue_url", {"QueueUrl": owner.tag}, {"QueueName": "q"}),
            "dynamodb": ("list_tables", {"TableNames": [owner.tag]}, {}),
            "sts": ("get_caller_identity", {"Account": owner.tag}, {}),
        }[owner.service]
        before = self.wire.sent[owner.tag]
        with Stubber(owner.client) as stubber:
            stubber.add_response(operation, response, arguments)
            if not response.items() <= getattr(owner.client, operation)(**arguments).items():
                self.wire.report(owner.tag, "another answer than its stub's")
            self.wire.kinds["stubbed"] += 1
            if self.wire.sent[owner.tag] != before:
                self.wire.report(owner.tag, "sent a request although it was stubbed")
            another = self.pick()
            if another is not owner:
                count = self.wire.sent[another.tag]
                self.send(another)
                if self.wire.sent[another.tag] == count:
                    self.wire.report(another.tag, "its request was answered by the stub of another client")
        self.send(owner)

    def express(self) -> None:
        """Write to a directory bucket, whose requests are signed with the keys of an S3 session."""
        owner = self.pick("s3")
        owner.client.put_object(Bucket=f"{owner.tag}--use1-az4--x-s3", Key="k", Body=b"content")

    def upload(self) -> None:
        """Upload three parts in threads."""
        owner = self.pick("s3")
        config = TransferConfig(multipart_threshold=5_300_000, multipart_chunksize=5_300_000, max_concurrency=4)
        owner.client.upload_fileobj(io.BytesIO(_UPLOAD), f"{owner.tag}-data", "k", Config=config)


def mark_with(mark: str) -> Callable[..., None]:
    """Return a hook that leaves its mark on each request."""

    def add_mark(params: dict[str, Any], **_: Any) -> None:
        marks = params["headers"].get(_MARKS)
        params["headers"][_MARKS] = f"{marks},{mark}" if marks else mark

    return add_mark


# --- Variants ---------------------------------------------------------------------------------------------------------


def plain_sessions() -> list[boto3.Session]:
    """Return one plain session per role, with its own credentials."""
    sessions = []
    for role, account in enumerate(ACCOUNTS):
        session = boto3.Session(f"ASIA{role}", "secret", f"token-{role}", region_name=REGIONS[0])
        with contextlib.suppress(AttributeError):
            session.get_credentials().account_id = account
        session.events.register("before-call", mark_with("source"))
        sessions.append(session)
    return sessions


def library_sessions() -> list[boto3.Session]:
    """Return one assumed session per role, from one source session."""
    source = boto3.Session("AKIASOURCE", "secret", region_name=REGIONS[0])
    source.events.register("before-call", mark_with("source"))
    return [assumed_session(f"arn:aws:iam::{account}:role/Reader", source_session=source) for account in ACCOUNTS]


def shared_emitter() -> Any:
    """Break the copies of the hooks: all clients have one emitter."""
    return mock.patch.object(_event_hooks.SharedEmitter, "__copy__", lambda self: self)


def changed_nodes() -> Any:
    """Break the trie: a change is made in the nodes that clients share."""
    return mock.patch.object(_event_hooks, "_copy_node", lambda node: node)


def shared_provider() -> Any:
    """Break the endpoint rules: all clients of a service have one endpoint provider."""
    providers: dict[str, Any] = {}

    def share(client: Any) -> Any:
        resolver = client._ruleset_resolver
        resolver._provider = providers.setdefault(client.meta.service_model.service_name, resolver._provider)
        return client

    return mock.patch.object(_sessions, "share_endpoint_rules", share)


VARIANTS: Final[dict[str, tuple[Callable[[], list[boto3.Session]], Callable[[], Any]]]] = {
    "plain boto3": (plain_sessions, contextlib.nullcontext),
    "xacct_lambda": (library_sessions, contextlib.nullcontext),
    "broken: one emitter": (library_sessions, shared_emitter),
    "broken: changed trie nodes": (library_sessions, changed_nodes),
    "broken: one endpoint provider": (library_sessions, shared_provider),
}


@contextlib.contextmanager
def wired(wire: Wire) -> Iterator[None]:
    """Let the wire answer all requests of this process, and nothing sleep between attempts."""

    def urlopen(pool: Any, method: str, url: str, body: Any = None, headers: Any = None, **_: Any) -> HTTPResponse:
        return wire.urlopen(pool, method, url, body, headers)

    # Older versions of botocore would call STS at its global endpoint.
    environment = {"AWS_STS_REGIONAL_ENDPOINTS": "regional"}
    clock = types.SimpleNamespace(**{**vars(botocore.endpoint.time), "sleep": lambda _: None})
    with (
        mock.patch.dict(os.environ, environment),
        mock.patch.object(HTTPConnectionPool, "urlopen", urlopen),
        mock.patch.object(botocore.endpoint, "time", clock),
        mock.patch.object(_sessions, "default_cache", _sessions.new_cache()),
    ):
        yield


def judge(variant: str, requests: int, seed: int) -> Wire:
    """Run one variant; return the wire with the number of its requests and its violations."""
    create_sessions, broken = VARIANTS[variant]
    wire = Wire()
    # The check of botocore's structure would find the faults of the broken variants.
    assert _event_hooks._is_compatible()
    with wired(wire), broken():
        sessions = create_sessions()
        for role, session in enumerate(sessions):
            session.events.register("before-call", mark_with(f"role-{role}"))
            session.events.register("before-call", wire.judge_endpoint(role))
        wire.session_marks = ["source"]
        Program(sessions, wire, random.Random(seed)).run(requests)  # noqa: S311 - sequences are repeatable
    return wire


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="python -m tests.client_isolation", description=__doc__)
    parser.add_argument("--requests", type=int, default=4000, help="requests of each variant (default 4000)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the random sequence (default 1)")
    parser.add_argument("--variant", choices=VARIANTS, action="append", help="one variant instead of all")
    parser.add_argument("--show", type=int, default=0, help="print the kinds of requests, and so many violations")
    arguments = parser.parse_args()
    os.environ.update(AWS_EC2_METADATA_DISABLED="true", AWS_CONFIG_FILE=os.devnull)
    os.environ.update(AWS_SHARED_CREDENTIALS_FILE=os.devnull)
    warnings.simplefilter("ignore")
    print(f"botocore {botocore.__version__}, seed {arguments.seed}")
    for variant in arguments.variant or VARIANTS:
        wire = judge(variant, arguments.requests, arguments.seed)
        print(f"{variant:32}{wire.requests:8} requests{len(wire.violations):8} violations")
        if arguments.show:
            print("   ", ", ".join(f"{kind}: {count}" for kind, count in sorted(wire.kinds.items())))
        for violation in wire.violations[: arguments.show]:
            print(f"    {violation}")


if __name__ == "__main__":
    main()
