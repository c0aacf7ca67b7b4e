"""The layer under AWS's own runtime interface client, run as the managed runtime runs it.

``RUNTIME_SDKS`` names folders, separated by colons, with other boto3s to try beside the installed one, such as those
that Lambda's runtimes ship: ``pip install --target sdk/1.40 'boto3==1.40.*'``.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from conftest import ROLE
from scripted_sts import ScriptedSTS, hang, refuse, scripted_sts

pytest.importorskip("awslambdaric", reason="AWS's client is built for Linux")

from runtime.managed_runtime import (
    INIT_SECONDS,
    Function,
    Image,
    OtherServices,
    make_image,
    other_services,
    running,
)

PROJECT = Path(__file__).parents[2]
README_HANDLER = re.findall(r"^```python\n(.*?)^```$", (PROJECT / "README.md").read_text(), re.DOTALL | re.MULTILINE)[0]
SDKS = [None, *map(Path, filter(None, os.environ.get("RUNTIME_SDKS", "").split(os.pathsep)))]
KEYS = ["2026/orders-1.json"]
ORDERS = {"bucket": "orders"}
DENIED = (
    "User: arn:aws:sts::111111111111:assumed-role/orders-fn/read-orders is not authorized to perform: sts:AssumeRole "
    f"on resource: {ROLE}"
)
ACCESS_DENIED = refuse("AccessDenied", DENIED)
SECRETS = (
    "functions-secret-key",
    "functions-session-token",
    "issued-secret-key",
    "issued-session-token",
    "external-id-of-orders",
)

Start = Callable[..., AbstractContextManager[Function]]


@pytest.fixture(scope="module", params=SDKS, ids=lambda sdk: f"boto3-{sdk.name}" if sdk else "boto3-installed")
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("image"), request.param)


@pytest.fixture
def sts() -> Iterator[ScriptedSTS]:
    with scripted_sts() as server:
        yield server


@pytest.fixture
def services() -> Iterator[OtherServices]:
    with other_services() as server:
        yield server


@pytest.fixture
def start(image: Image, sts: ScriptedSTS, services: OtherServices, tmp_path: Path) -> Start:
    """Return what starts a function of this source, with these variables in its environment."""
    task_root = tmp_path / "task"
    task_root.mkdir()

    def start(source: str, *, handler: str = "lambda_function.lambda_handler", processes: int = 1, **variables: str):
        (task_root / "lambda_function.py").write_text(textwrap.dedent(source))
        environment = {
            "AWS_ENDPOINT_URL_S3": services.url,
            "AWS_ENDPOINT_URL_STS": sts.url,
            **execution_role(),
            **variables,
        }
        set_ones = {name: value for name, value in environment.items() if value}
        return running(image, task_root, set_ones, handler=handler, processes=processes)

    return start


def execution_role() -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": "ASIAFUNCTION",
        "AWS_SECRET_ACCESS_KEY": "functions-secret-key",
        "AWS_SESSION_TOKEN": "functions-session-token",
    }


def test_three_events_and_one_call(start: Start, sts: ScriptedSTS, services: OtherServices) -> None:
    """The README's handler answers three events in one environment with one AssumeRole call."""
    with start(README_HANDLER) as function:
        assert [function.invoke(ORDERS).content for _ in range(3)] == [KEYS] * 3

    assert sts.count() == 1
    assert sts.signers == ["ASIAFUNCTION"]
    assert services.signers == ["ASIA1"] * 3


def test_all_comes_from_the_layer_and_the_runtime(start: Start, image: Image) -> None:
    """The library and cachetools come from the layer, the SDK from the runtime, and nothing else is on the path."""
    source = """
        import sys, awslambdaric, boto3, cachetools, xacct_lambda
        def lambda_handler(event, context):
            modules = awslambdaric, boto3, cachetools, xacct_lambda
            return [module.__file__ for module in modules], sys.path, "site" in sys.modules, sys.base_prefix
        """
    with start(source) as function:
        files, path, has_site, standard_library = function.invoke({}).content

    layer, runtime = str(image.opt / "python"), str(image.runtime)
    assert [str(Path(file).parents[1]) for file in files] == [runtime, runtime, layer, layer]
    assert not has_site
    known = str(function.task_root), layer, runtime, standard_library
    assert not [entry for entry in path if not entry.startswith(known)]


def test_the_layers_bytecode_is_what_runs(start: Start) -> None:
    """A cold start compiles nothing of the layer."""
    source = """
        import py_compile, sys, importlib._bootstrap_external as machinery
        compiled = []
        original = machinery.SourceLoader.source_to_code
        def source_to_code(self, data, path, **options):
            compiled.append(str(path))
            return original(self, data, path, **options)
        machinery.SourceLoader.source_to_code = source_to_code
        import xacct_lambda.check
        from xacct_lambda import assume_role
        def lambda_handler(event, context):
            return [path for path in compiled if "/opt/" in path]
        """
    with start(source) as function:
        assert function.invoke({}).content == []


def test_no_environment_is_poisoned(start: Start, sts: ScriptedSTS) -> None:
    """If STS refuses during init and at the first event, the same environment serves the next event when STS agrees.

    The five seconds for which a refusal is remembered are over at once here.
    """
    sts.script = [ACCESS_DENIED, ACCESS_DENIED]
    forgetful = "from xacct_lambda import _credential_cache\n_credential_cache._ERROR_TTL = 0\n"
    with start(forgetful + README_HANDLER) as function:
        assert function.invoke(ORDERS).is_error
        assert function.invoke(ORDERS).content == KEYS

    assert sts.count() == 3


def test_a_refusal_in_the_init_phase(start: Start, sts: ScriptedSTS) -> None:
    """If STS refuses during init, no event fails: the first one calls STS again."""
    sts.script = [ACCESS_DENIED]
    with start(README_HANDLER) as function:
        assert function.invoke(ORDERS).content == KEYS

    assert sts.count() == 2


def test_a_mistake_fails_the_init_phase(start: Start) -> None:
    """A service that does not exist is reported as an error of init, with its name and the nearest one."""
    with start(README_HANDLER.replace('["s3"]', '["s33"]')) as function:
        error = function.api.init_errors.get(timeout=INIT_SECONDS)

    assert error["errorType"] == "ConfigurationError"
    assert "has no client for 's33'. Did you mean 's3'?" in error["errorMessage"]


def test_a_refusal_as_the_invoker_sees_it(start: Start, sts: ScriptedSTS) -> None:
    """The error has the class for Step Functions to match, and says which side refused and what to print."""
    sts.always = refuse("AccessDenied", f"{DENIED} because no identity-based policy allows the sts:AssumeRole action")
    with start(README_HANDLER) as function:
        answer = function.invoke(ORDERS)

    assert answer.is_error
    assert answer.content["errorType"] == "AssumeRoleError"
    assert answer.content["errorMessage"].startswith("arn:aws:iam::111111111111:role/orders-fn may not assume " + ROLE)
    assert f"python -m xacct_lambda policy --role-arn {ROLE}" in answer.content["errorMessage"]


def test_nothing_that_leaves_the_environment_holds_a_secret(start: Start, sts: ScriptedSTS) -> None:
    """With the root logger at DEBUG neither the log nor an error has a key, a token or an external ID in it."""
    # One for the init phase, one for the first event.
    sts.script = [refuse("AccessDenied", f"{DENIED}: external ID external-id-of-orders does not match")] * 2
    source = f"""
        import logging
        logging.getLogger().setLevel("DEBUG")
        from xacct_lambda import assume_role, cache_clear
        @assume_role({ROLE!r}, clients=["s3"], external_id="external-id-of-orders")
        def lambda_handler(event, context, *, s3):
            cache_clear()
            return [item["Key"] for item in s3.list_objects_v2(Bucket="orders")["Contents"]]
        """
    with start(source) as function:
        refused, served = function.invoke({}), function.invoke({})
        log = function.log()

    assert refused.is_error
    assert served.content == KEYS
    assert "Event request-created" in log
    for secret in SECRETS:
        assert secret not in json.dumps(refused.content) + refused.headers + log


@pytest.mark.parametrize("seconds", [3, 1.5])
def test_an_sts_that_hangs(start: Start, sts: ScriptedSTS, seconds: float) -> None:
    """Where STS does not answer, the error comes before the time-out, be it Lambda's default of 3 s or less."""
    sts.always = hang
    with start(README_HANDLER) as function:
        answer = function.invoke(ORDERS, seconds=seconds)

    assert answer.content["errorType"] == "STSUnavailableError"
    assert answer.seconds < seconds


def test_check_as_a_handler(start: Start) -> None:
    """``xacct_lambda.check.lambda_handler`` works off the layer, for a test event with the role's ARN."""
    with start("", handler="xacct_lambda.check.lambda_handler") as function:
        report = function.invoke({"role_arn": ROLE}).content

    assert report["ok"]


def test_tenant_isolation(start: Start, sts: ScriptedSTS) -> None:
    """In tenant isolation mode the tenant is read off Lambda's context, and an event without one assumes no role."""
    source = """
        from xacct_lambda import assume_role
        from xacct_lambda.events import role_for, tenant_id
        @assume_role(
            role_for("arn:aws:iam::222222222222:role/tenant/{tenant}", tenant=tenant_id()),
            allowed_roles=["arn:aws:iam::222222222222:role/tenant/*"],
            clients=["sts"],
        )
        def lambda_handler(event, context, *, sts):
            return sts.get_caller_identity()["Arn"]
        """
    with start(source) as function:
        served, refused = function.invoke({}, tenant_id="blue"), function.invoke({})

    assert served.content == "arn:aws:sts::222222222222:assumed-role/blue/read-orders"
    assert refused.content["errorType"] == "ConfigurationError"
    assert sts.count() == 1


def test_layers_are_off_the_path_with_pythonpath(start: Start, image: Image, tmp_path: Path) -> None:
    """A function that sets ``PYTHONPATH`` does not find the layer, unless it names the layer's folder itself."""
    with start(README_HANDLER, PYTHONPATH=str(tmp_path)) as function:
        error = function.api.init_errors.get(timeout=INIT_SECONDS)
    assert error["errorType"] == "Runtime.ImportModuleError"
    assert "No module named 'xacct_lambda'" in error["errorMessage"]

    with start(README_HANDLER, PYTHONPATH=f"{tmp_path}:{image.opt / 'python'}") as function:
        assert function.invoke(ORDERS).content == KEYS


def test_managed_instances(start: Start, sts: ScriptedSTS, services: OtherServices) -> None:
    """Each process that a managed instance forks has a cache of its own: two processes, two AssumeRole calls."""
    source = README_HANDLER + "\n\nimport os\n\n\ndef process_id(event, context):\n    lambda_handler(event, context)\n"
    variables = {"AWS_LAMBDA_INITIALIZATION_TYPE": "lambda-managed-instances", "AWS_LAMBDA_MAX_CONCURRENCY": "2"}
    with start(
        source + "    return os.getpid()\n", handler="lambda_function.process_id", processes=2, **variables
    ) as function:
        invocations = [function.api.send(ORDERS) for _ in range(4)]
        processes = [invocation.answer().content for invocation in invocations]

    assert len(set(processes)) == 2
    assert sts.count() == 2
    assert sorted(services.signers) == ["ASIA1", "ASIA1", "ASIA2", "ASIA2"]


def test_snap_start(start: Start, sts: ScriptedSTS, services: OtherServices) -> None:
    """Two copies restored from one snapshot each fetch credentials of their own, and none from before is used again.

    The role is assumed in the init phase, and the caller's credentials are those of the container, as under SnapStart.
    Copies are made by the C library's fork, of which Python is not told: the same memory in two processes, as in two
    restored environments.
    """
    source = f"""
        import ctypes, random
        import snapshot_restore_py
        from xacct_lambda import assume_role, assumed_session, cache_info
        random.seed(1)
        assumed_session({ROLE!r}).client("s3").list_objects_v2(Bucket="orders")
        snapshot_restore_py.register_after_restore(ctypes.PyDLL(None).fork)
        @snapshot_restore_py.register_after_restore
        def note():
            global held
            held = cache_info()
        @assume_role({ROLE!r}, clients=["s3"])
        def lambda_handler(event, context, *, s3):
            s3.list_objects_v2(Bucket="orders")
            return {{"roles": held.roles, "sessions": held.sessions, "clients": held.clients}}
        """
    variables = {
        **dict.fromkeys(execution_role(), ""),
        "AWS_CONTAINER_AUTHORIZATION_TOKEN": "token-for-the-container",
        "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{services.url}/credentials",
        "AWS_LAMBDA_INITIALIZATION_TYPE": "snap-start",
    }
    with start(source, processes=2, **variables) as function:
        assert function.api.snapshot_ready.wait(INIT_SECONDS)
        assert sts.count() == 1
        function.api.restore.set()
        copies = [function.api.send({}) for _ in range(2)]

        for copy in copies:
            assert copy.answer().content == {"roles": 0, "sessions": 1, "clients": 1}

    assert sts.signers == ["ASIACONTAINER"] * 3
    assert services.signers[0] == "ASIA1"
    assert sorted(services.signers[1:]) == ["ASIA2", "ASIA3"]


def test_frozen_for_hours(start: Start, sts: ScriptedSTS, services: OtherServices, tmp_path: Path) -> None:
    """An environment thawed after four hours, in which its monotonic clock stood still, renews before it signs."""
    library = next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)
    if library is None:
        pytest.skip("needs Debian's package faketime")
    clock = tmp_path / "clock"
    clock.write_text("+0")
    # Under faketime, time.sleep() fails in the thread of a prefetch.
    source = README_HANDLER.replace("clients=", "prefetch=False, clients=") + textwrap.dedent("""
        import time

        def clocks(event, context):
            lambda_handler(event, context)
            return time.time(), time.monotonic()
        """)
    variables = {
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "LD_PRELOAD": str(library),
    }
    with start(source, handler="lambda_function.clocks", **variables) as function:
        before = function.invoke(ORDERS).content
        clock.write_text("+4h")
        function.api.ahead_seconds = sts.ahead_seconds = 4 * 3600
        after = function.invoke(ORDERS).content

    assert after[0] - before[0] > 4 * 3600
    assert after[1] - before[1] < 60
    assert services.signers == ["ASIA1", "ASIA2"]
