"""docs/organization.md and docs/examples/organization: accounts, batches, what is left, templates, state machine.

``ORGANIZATION_BUILD`` names the folder of ``sam build``, which ``.ci/sam`` tests in place of the sources.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
import pytest

from xacct_lambda.testing import CrossAccountAWS, LambdaContext

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "organization"
BUILD = os.environ.get("ORGANIZATION_BUILD")
FUNCTION = Path(BUILD, "VisitAccounts") if BUILD else EXAMPLE / "function"
STATE_MACHINE = EXAMPLE / "audit.asl.json"
HOME = "111111111111"
ORGANIZATION_ROLE = "organization-reader"
AUDITOR = "audit-organization-auditor"


class Organization:
    """An organization in moto: the management account is one that moto names, and the others are in nested units.

    root: security (with nested), suspended; root / workloads: orders; root / workloads / production: payments, search
    """

    def __init__(self, aws: CrossAccountAWS) -> None:
        self.aws = aws
        # moto's organization belongs to whoever creates it, as AWS's does.
        self.management = "999999999999"
        self.client: Any = aws.account(self.management).client("organizations", region_name="us-east-1")
        self.client.create_organization(FeatureSet="ALL")
        [self.root] = [root["Id"] for root in self.client.list_roots()["Roots"]]
        self.workloads = self._unit(self.root, "workloads")
        self.production = self._unit(self.workloads, "production")
        self.security = self._account("security", self.root)
        self.orders = self._account("orders", self.workloads)
        self.payments = self._account("payments", self.production, audit="yes", team="payments")
        self.search = self._account("search", self.production, audit="no")
        self.suspended = self._account("suspended", self.production, audit="yes")
        self.client.close_account(AccountId=self.suspended)

    def _unit(self, parent: str, name: str) -> str:
        unit: str = self.client.create_organizational_unit(ParentId=parent, Name=name)["OrganizationalUnit"]["Id"]
        return unit

    def _account(self, name: str, parent: str, **tags: str) -> str:
        status = self.client.create_account(AccountName=name, Email=f"{name}@example.com")["CreateAccountStatus"]
        account: str = status["AccountId"]
        self.client.move_account(AccountId=account, SourceParentId=self.root, DestinationParentId=parent)
        if tags:
            pairs = [{"Key": key, "Value": value} for key, value in tags.items()]
            self.client.tag_resource(ResourceId=account, Tags=pairs)
        return account


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[CrossAccountAWS]:
    with CrossAccountAWS(strict=False, home_account=HOME, function_name="audit-organization") as running:
        yield running


@pytest.fixture
def organization(aws: CrossAccountAWS) -> Organization:
    return Organization(aws)


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return load("accounts", monkeypatch)


@pytest.fixture
def visits(aws: CrossAccountAWS, accounts: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The function's module, in an account with the table of the template."""
    monkeypatch.setenv("AUDITOR_ROLE_NAME", AUDITOR)
    monkeypatch.setenv("DONE_TABLE", "done")
    table = resources("template.yaml")["DoneTable"]["Properties"]
    aws.account(HOME).client("dynamodb").create_table(
        TableName="done",
        **{name: table[name] for name in ("BillingMode", "AttributeDefinitions", "KeySchema")},
    )
    module = load("visits", monkeypatch)
    # On a busy machine, fewer threads leave each of them time enough for STS's answer.
    monkeypatch.setattr(module, "for_each_account", partial(module.for_each_account, max_workers=8))
    return module


def load(name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FUNCTION / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def parsed(name: str) -> dict[str, Any]:
    template: dict[str, Any] = pytest.importorskip("samtranslator.yaml_helper").yaml_parse((EXAMPLE / name).read_text())
    return template


def resources(name: str) -> dict[str, Any]:
    found: dict[str, Any] = parsed(name)["Resources"]
    return found


# Which accounts.


def test_the_whole_organization(organization: Organization, accounts: ModuleType) -> None:
    """All active accounts of nested units are found, without the management account and suspended accounts."""
    assert accounts.select_accounts(organization.client) == sorted(
        [organization.security, organization.orders, organization.payments, organization.search]
    )


def test_a_unit_with_nested_units(organization: Organization, accounts: ModuleType) -> None:
    """The accounts of a unit are its own and those of the units below it."""
    found = accounts.select_accounts(organization.client, parents=[organization.workloads])
    assert found == sorted([organization.orders, organization.payments, organization.search])
    found = accounts.select_accounts(organization.client, parents=[organization.production])
    assert found == sorted([organization.payments, organization.search])


def test_tags_and_exclusions(organization: Organization, accounts: ModuleType) -> None:
    """An account is found if it has all of the tags and isn't excluded."""
    found = accounts.select_accounts(organization.client, tags={"audit": "yes"})
    assert found == [organization.payments]
    found = accounts.select_accounts(organization.client, tags={"audit": "yes", "team": "orders"})
    assert found == []
    found = accounts.select_accounts(organization.client, excluded=[organization.payments, organization.search])
    assert found == sorted([organization.security, organization.orders])


@pytest.mark.parametrize(
    ("account", "expected"),
    [
        ({"State": "ACTIVE"}, True),
        ({"Status": "ACTIVE"}, True),
        ({"State": "CLOSED", "Status": "ACTIVE"}, False),
        ({}, False),
    ],
)
def test_active_accounts_in_old_and_new_sdks(accounts: ModuleType, account: Any, expected: bool) -> None:
    """``State`` decides if the SDK knows it, and ``Status`` in older SDKs."""
    assert accounts.is_active(account) is expected


@pytest.mark.parametrize("how", ["delegated administrator", "role in the management account"])
def test_the_function_lists_accounts(
    organization: Organization, visits: ModuleType, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """The function lists accounts with its own credentials, or with a role of the management account."""
    if how == "role in the management account":
        monkeypatch.setattr(visits, "LISTER", f"arn:aws:iam::{organization.management}:role/{ORGANIZATION_ROLE}")
    else:
        # moto's organization answers the account that created it, as AWS's answers delegated administrators.
        delegated = organization.aws.account(organization.management)
        monkeypatch.setattr(visits.boto3, "Session", lambda: delegated)
    selection = {"parents": [organization.workloads], "tags": {}, "excluded": [organization.search]}
    monkeypatch.setattr(visits, "SELECTION", selection)

    assert visits.list_accounts({}, None) == {"accounts": sorted([organization.orders, organization.payments])}


# Batches.


def visit(visits: ModuleType, event: dict[str, Any]) -> Any:
    """Call the function until it is done, as its callers do: a busy machine may leave accounts to the next call."""
    for _ in range(20):
        with suppress(visits.AccountsLeftError):
            return visits.visit_accounts(event, LambdaContext(timeout_seconds=900))
    pytest.fail("accounts are left")


ACCOUNTS = [f"{number:012}" for number in range(222222222221, 222222222231)]


def batch(*accounts: str, run: str = "monday") -> dict[str, Any]:
    return {"BatchInput": {"run": run}, "Items": list(accounts)}


def test_a_batch_is_visited(aws: CrossAccountAWS, visits: ModuleType) -> None:
    """Each account of a batch is visited with its own role, and its result is recorded."""
    aws.account(ACCOUNTS[1]).client("s3", region_name="us-east-1").create_bucket(Bucket="found")

    assert visit(visits, batch(*ACCOUNTS)) == {"visited": 10, "failed": {}}

    items = visits.done.scan()["Items"]
    assert {item["account"]: item["result"] for item in items} == {
        account: int(account == ACCOUNTS[1]) for account in ACCOUNTS
    }
    assert {call.role_arn for call in aws.assumed} == {f"arn:aws:iam::{account}:role/{AUDITOR}" for account in ACCOUNTS}


def test_what_a_run_has_visited_is_not_visited_again(aws: CrossAccountAWS, visits: ModuleType) -> None:
    """A batch that comes again visits only what is left, and another run visits all."""
    visit(visits, batch(*ACCOUNTS[:6]))
    visited: list[str] = []
    visits.audit = lambda session, account_id: visited.append(account_id)

    assert visit(visits, batch(*ACCOUNTS)) == {"visited": 10, "failed": {}}
    assert sorted(visited) == ACCOUNTS[6:]
    assert visit(visits, batch(*ACCOUNTS, run="tuesday"))["visited"] == 10
    assert len(visited) == 14


def test_the_deadline_leaves_accounts_to_the_next_call(aws: CrossAccountAWS, visits: ModuleType) -> None:
    """If the time is too short, the call fails with an error that the state machine retries, and the next continues."""
    context = LambdaContext(timeout_seconds=900)
    remaining = iter([60_000, 60_000, 60_000])
    context.get_remaining_time_in_millis = lambda: next(remaining, 200)

    with pytest.raises(visits.AccountsLeftError, match="of 10 are done"):
        visits.visit_accounts(batch(*ACCOUNTS), context)
    assert len(visits.done.scan()["Items"]) < 10

    assert visit(visits, batch(*ACCOUNTS)) == {"visited": 10, "failed": {}}
    assert len(visits.done.scan()["Items"]) == 10


def test_an_unreachable_sts_is_not_an_accounts_failure(aws: CrossAccountAWS, visits: ModuleType) -> None:
    """Accounts that STS didn't answer for are left to the next call."""
    with aws.sts.unavailable(), pytest.raises(visits.AccountsLeftError, match="0 of 2 are done"):
        visits.visit_accounts(batch(*ACCOUNTS[:2]), LambdaContext(timeout_seconds=900))

    assert visit(visits, batch(*ACCOUNTS[:2]))["visited"] == 2


def test_a_failed_account_is_recorded(visits: ModuleType) -> None:
    """An account that fails is in the result of the batch and isn't tried again, and the others are visited."""

    def audit(session: boto3.Session, account_id: str) -> str:
        if account_id == ACCOUNTS[1]:
            raise LookupError("no trail")
        return "fine"

    visits.audit = audit
    expected = {"visited": 3, "failed": {ACCOUNTS[1]: "LookupError: no trail"}}
    assert visit(visits, batch(*ACCOUNTS[:3])) == expected
    visits.audit = lambda session, account_id: pytest.fail("visited again")
    assert visit(visits, batch(*ACCOUNTS[:3])) == expected


def test_keys_that_dynamodb_did_not_process(visits: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that DynamoDB returns as unprocessed are read again."""
    visit(visits, batch(*ACCOUNTS[:3]))
    read = visits.dynamodb.batch_get_item
    batch_sizes: list[int] = []

    def one_key(RequestItems: Any) -> Any:  # noqa: N803 - the API's name
        keys = RequestItems["done"]["Keys"]
        batch_sizes.append(len(keys))
        answer = read(RequestItems={"done": {"Keys": keys[:1]}})
        return answer | {"UnprocessedKeys": {"done": {"Keys": keys[1:]}} if keys[1:] else {}}

    monkeypatch.setattr(visits.dynamodb, "batch_get_item", one_key)
    assert sorted(visits.visited("monday", ACCOUNTS[:3])) == ACCOUNTS[:3]
    assert batch_sizes == [3, 2, 1]


# The templates and the state machine.


@pytest.mark.parametrize("template", ["template.yaml", "target-account.yaml"])
def test_templates_pass_cfn_lint(template: str) -> None:
    """Both templates pass cfn-lint, warnings included."""
    cfnlint = pytest.importorskip("cfnlint.api")
    assert [str(match) for match in cfnlint.lint((EXAMPLE / template).read_text())] == []


def linted(definition: Any) -> list[str]:
    """Return what cfn-lint finds in a state machine, after the substitutions of a deployment."""
    cfnlint = pytest.importorskip("cfnlint.api")
    deployed = {"Partition": "aws", "ResultsBucket": "results"} | {
        f"{name}Arn": f"arn:aws:lambda:eu-west-1:111111111111:function:{name}"
        for name in ("ListAccounts", "VisitAccounts")
    }
    machine = {
        "Type": "AWS::StepFunctions::StateMachine",
        "Properties": {
            "RoleArn": "arn:aws:iam::111111111111:role/states",
            "DefinitionString": re.sub(r"\$\{(\w+)\}", lambda name: deployed[name[1]], json.dumps(definition)),
        },
    }
    return [str(match) for match in cfnlint.lint(json.dumps({"Resources": {"Audit": machine}}))]


def test_the_state_machine_is_valid() -> None:
    """The state machine passes the schema of the Amazon States Language, and a broken one doesn't."""
    definition = json.loads(STATE_MACHINE.read_text())
    assert linted(definition) == []

    del definition["States"]["ListAccounts"]["Next"]
    assert linted(definition)


def test_the_state_machine_has_the_substitutions_of_the_template() -> None:
    """Each name in braces in the state machine is a substitution of the template, and the reverse."""
    substitutions = resources("template.yaml")["Audit"]["Properties"]["DefinitionSubstitutions"]
    assert set(re.findall(r"\$\{(\w+)\}", STATE_MACHINE.read_text())) == set(substitutions)


class Machine:
    """What Step Functions does with this state machine: lists, batches, calls, and tries again."""

    def __init__(self, visits: ModuleType) -> None:
        self._states = json.loads(STATE_MACHINE.read_text())["States"]
        self._visits = visits
        self.tries = 0

    def run(self, name: str) -> list[Any]:
        listed = self._visits.list_accounts(
            self._states["ListAccounts"]["Parameters"]["Payload"], LambdaContext(timeout_seconds=900)
        )
        visits = self._states["VisitAccounts"]
        assert visits["ItemsPath"] == "$.accounts"
        assert visits["ItemBatcher"]["BatchInput"] == {"run.$": "$$.Execution.Name"}
        items, size = listed["accounts"], visits["ItemBatcher"]["MaxItemsPerBatch"]
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        return [self._visit(batch(*accounts, run=name)) for accounts in batches]

    def _visit(self, event: Any) -> Any:
        [retry, _] = self._states["VisitAccounts"]["ItemProcessor"]["States"]["VisitBatch"]["Retry"]
        for _ in range(1 + retry["MaxAttempts"]):
            context = LambdaContext(timeout_seconds=900)
            if self.tries == 0:
                # As much time as it takes for some of the first batch.
                remaining = iter([60_000] * 20)
                context.get_remaining_time_in_millis = lambda: next(remaining, 200)  # noqa: B023 - called at once
            self.tries += 1
            try:
                return self._visits.visit_accounts(event, context)
            except Exception as error:
                if type(error).__name__ not in retry["ErrorEquals"]:
                    raise
        pytest.fail("no attempts are left")


def test_an_organization_of_many_batches(visits: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of the state machine visit each account once, also if a call runs out of time."""
    many = [f"{number:012}" for number in range(300000000000, 300000000120)]
    monkeypatch.setattr(visits, "list_accounts", lambda event, context: {"accounts": many})
    visited: list[str] = []
    visits.audit = lambda session, account_id: visited.append(account_id)

    machine = Machine(visits)
    results = machine.run("tuesday")

    assert [result["visited"] for result in results] == [50, 50, 20]
    assert machine.tries >= 4
    assert sorted(visited) == many


def test_the_auditor_trusts_the_function_alone() -> None:
    """The role in each account trusts the role of the function, which may assume roles of this name only."""
    [trust] = resources("target-account.yaml")["Auditor"]["Properties"]["AssumeRolePolicyDocument"]["Statement"]
    visitor = resources("template.yaml")["VisitorRole"]["Properties"]
    assert trust["Principal"]["AWS"]["Fn::Sub"].endswith(f":role/{visitor['RoleName']}")
    [policy] = visitor["Policies"]
    [assume] = [
        statement for statement in policy["PolicyDocument"]["Statement"] if statement["Action"] == "sts:AssumeRole"
    ]
    auditor = resources("target-account.yaml")["Auditor"]["Properties"]["RoleName"]
    assert assume["Resource"]["Fn::Sub"] == f"arn:${{AWS::Partition}}:iam::*:role/{auditor}"
    assert assume["Condition"] == {"StringEquals": {"aws:ResourceOrgID": {"Ref": "OrganizationId"}}}
    assert (
        auditor
        == AUDITOR
        == parsed("template.yaml")["Globals"]["Function"]["Environment"]["Variables"]["AUDITOR_ROLE_NAME"]
    )


def test_the_template_translates() -> None:
    """SAM translates the template into functions, a state machine, and their roles."""
    parser = pytest.importorskip("samtranslator.parser.parser")
    translator = pytest.importorskip("samtranslator.translator.translator")
    template = parsed("template.yaml")
    for resource in template["Resources"].values():
        properties = resource["Properties"]
        if "DefinitionUri" in properties:
            properties["DefinitionUri"] = "s3://artefacts/definition"
        if "ContentUri" in properties:
            properties["ContentUri"] = "s3://artefacts/layer"
    template["Globals"]["Function"]["CodeUri"] = "s3://artefacts/function"
    translated = translator.Translator({"x": "y"}, parser.Parser()).translate(template, {})

    kinds = [resource["Type"] for resource in translated["Resources"].values()]
    assert kinds.count("AWS::Lambda::Function") == 2
    assert kinds.count("AWS::StepFunctions::StateMachine") == 1
