"""Sessions: which are shared, what they share, and what acts as whom."""

from __future__ import annotations

import copy
import gc
import importlib
import os
import pickle
import random
import sys
import threading
import types
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import EndpointConnectionError, NoAuthTokenError
from botocore.loaders import JSONFileLoader
from conftest import OTHER_ROLE, ROLE, Clock, FakeSTS, holds_in_a_fork, outage, until

from xacct_lambda import _sessions, assumed_session, cache_clear, cache_info, cache_resize
from xacct_lambda._credential_cache import CredentialCache
from xacct_lambda._service_models import _FileLoader, setup_default_session
from xacct_lambda._sessions import SessionCache
from xacct_lambda._sts import FrozenCredentials, system_uniform
from xacct_lambda.exceptions import ConfigurationError, STSUnavailableError

pytestmark = pytest.mark.usefixtures("_sts_is_fake")


def token_of(session: boto3.Session) -> str:
    credentials = session.get_credentials()
    assert credentials is not None
    return str(credentials.get_frozen_credentials().token)


# --- The same and not the same ----------------------------------------------------------------------------------------


def test_the_same_arguments_give_the_same_session() -> None:
    """Equal arguments return one session object, in whatever form they are written."""
    session = assumed_session(ROLE, tags={"a": "b", "c": "d"}, duration_seconds=900)

    assert assumed_session(ROLE, tags={"c": "d", "a": "b"}, duration_seconds=timedelta(minutes=15)) is session
    assert isinstance(session, boto3.Session)


@pytest.mark.parametrize(
    "arguments",
    [
        {"external_id": "other"},
        {"role_session_name": "other"},
        {"source_identity": "other"},
        {"duration_seconds": 900},
        {"policy": '{"Statement": []}'},
        {"policy_arns": ["arn:aws:iam::aws:policy/ReadOnlyAccess"]},
        {"tags": {"tenant": "other"}},
        {"tags": {"tenant": "a"}, "transitive_tag_keys": ["tenant"]},
        {"extra": {"Novelty": 1}},
        {"source_session": boto3.Session()},
    ],
    ids=lambda arguments: "+".join(arguments),
)
def test_whatever_changes_authority_is_another_session(sts: FakeSTS, arguments: dict[str, Any]) -> None:
    """No session and no credentials are shared across anything that STS sees, nor across two callers."""
    one, other = (
        assumed_session(ROLE, tags={"tenant": "a"}),
        assumed_session(ROLE, **{"tags": {"tenant": "a"}, **arguments}),
    )

    assert one is not other
    assert token_of(one) != token_of(other)
    assert sts.calls == 2


@pytest.mark.parametrize(
    "arguments",
    [{"region_name": "us-east-1"}, {"min_ttl_seconds": 600}, {"sts_config": Config(read_timeout=1)}],
    ids=lambda arguments: "+".join(arguments),
)
def test_what_does_not_change_authority_shares_credentials(sts: FakeSTS, arguments: dict[str, Any]) -> None:
    """Sessions that differ in Region, needed lifetime or STS options are two, with one AssumeRole call for both."""
    one, other = assumed_session(ROLE), assumed_session(ROLE, **arguments)

    assert one is not other
    assert token_of(one) == token_of(other)
    assert sts.calls == 1


def test_equal_sts_options_give_the_same_session() -> None:
    """A configuration is compared by its options: one made anew for each event costs no session each."""
    assert assumed_session(ROLE, sts_config=Config(read_timeout=1)) is assumed_session(
        ROLE, sts_config=Config(read_timeout=1)
    )


def test_the_default_session_is_boto3s() -> None:
    """Without a source session, boto3's default session calls STS; when it is replaced, the caller is another."""
    first = assumed_session(ROLE)
    assert boto3.DEFAULT_SESSION is not None
    assert assumed_session(ROLE, source_session=boto3.DEFAULT_SESSION) is first

    boto3.setup_default_session()
    assert assumed_session(ROLE) is not first


def test_a_default_session_that_cannot_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """A profile that does not exist is named as the source session's fault, and nothing is kept of it."""
    monkeypatch.setenv("AWS_PROFILE", "not-there")
    problem = r"^source_session: boto3's default session can't be created: .*not-there.*\. Correct AWS_PROFILE, or "
    with pytest.raises(ConfigurationError, match=problem):
        assumed_session(ROLE)

    monkeypatch.delenv("AWS_PROFILE")
    assert assumed_session(ROLE)


def test_a_default_session_that_is_taken_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another thread sets boto3's default session back just when it was made, it is made again."""
    made: list[Any] = []

    def setup() -> None:
        setup_default_session()
        made.append(boto3.DEFAULT_SESSION)
        boto3.DEFAULT_SESSION = made[-1] if len(made) > 1 else None

    monkeypatch.setattr(_sessions, "setup_default_session", setup)

    assert _sessions.default_cache.default_source() is made[1]


def test_one_default_session_however_many_threads() -> None:
    """Threads that arrive together make one default session, and get one session."""
    start = threading.Barrier(8, timeout=60)

    def make(_: int) -> boto3.Session:
        start.wait()
        return assumed_session(ROLE)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(make, range(8)))) == 1


# --- Arguments of the session -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("region_name", "not a region"),
        ("region_name", "eu-west-1\n"),
        ("region_name", 1),
        ("source_session", "default"),
        ("sts_config", {"read_timeout": 1}),
        ("min_ttl_seconds", -1),
        ("min_ttl_seconds", 3541),
        ("min_ttl_seconds", True),
        ("min_ttl_seconds", "600"),
        ("min_ttl_seconds", float("nan")),
        ("min_ttl_seconds", timedelta(hours=1)),
        ("role_arn", "Reader"),
    ],
)
def test_bad_arguments_are_named(argument: str, value: Any) -> None:
    """An argument that breaks a rule is named before anything is made or cached."""
    with pytest.raises(ConfigurationError) as caught:
        assumed_session(**{"role_arn": ROLE, argument: value})

    assert caught.value.argument == argument
    assert cache_info().sessions == 0


def test_role_chaining_lives_an_hour_at_most() -> None:
    """More than 3600 seconds from an assumed session is refused at the call, since STS refuses it always."""
    first = assumed_session(ROLE, duration_seconds=7200)

    assumed_session(OTHER_ROLE, source_session=first, duration_seconds=3600)
    with pytest.raises(ConfigurationError, match="role chaining allows 3600") as caught:
        assumed_session(OTHER_ROLE, source_session=first, duration_seconds=3601)
    assert caught.value.argument == "duration_seconds"


def test_the_last_half_second(sts: FakeSTS, clock: Clock) -> None:
    """Without ``min_ttl_seconds``, a session works through an outage to the very end of its credentials' life."""
    session = assumed_session(ROLE)
    token = token_of(session)
    sts.failure = outage()
    clock.advance(3599.5)

    assert token_of(session) == token


def test_min_ttl_reaches_the_credentials(sts: FakeSTS) -> None:
    """``min_ttl_seconds`` makes a session renew what would live for less, to the limits of the range."""
    assert token_of(assumed_session(ROLE, min_ttl_seconds=timedelta(seconds=3540)))
    sts.lifetime = 50
    cache_clear()

    with pytest.raises(STSUnavailableError, match="less than the 60 s needed"):
        token_of(assumed_session(ROLE, min_ttl_seconds=timedelta(minutes=1)))


def test_the_region_of_a_session() -> None:
    """A session has its source's Region unless it is given one."""
    assert assumed_session(ROLE).region_name == "eu-west-1"
    assert assumed_session(ROLE, source_session=boto3.Session(region_name="us-west-2")).region_name == "us-west-2"
    assert assumed_session(ROLE, region_name="ap-south-1").client("sqs").meta.region_name == "ap-south-1"


def test_nothing_is_sent_before_it_is_needed(sts: FakeSTS, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making a session and a client needs no credentials and calls nobody."""
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    assumed_session(ROLE).client("s3")

    assert sts.calls == 0


def test_the_profile_of_the_source_is_kept() -> None:
    """Settings of the source session's profile hold for its assumed sessions too."""
    with open(os.environ["AWS_CONFIG_FILE"], "w") as config:  # noqa: PTH123 - a fixture's file
        config.write("[profile orders]\nregion = sa-east-1\nmax_attempts = 7\nretry_mode = standard\n")
    session = assumed_session(ROLE, source_session=boto3.Session(profile_name="orders"))

    assert session.profile_name == "orders"
    assert session.client("sqs").meta.config.retries["total_max_attempts"] == 7


# --- Clients and resources --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["client", "resource"])
def test_clients_and_resources_have_one_owner(kind: str) -> None:
    """``client`` and ``resource`` return a new object on each call, and count nothing as cached."""
    create = getattr(assumed_session(ROLE), kind)
    one, other = create("sqs"), create("sqs")

    assert one is not other
    assert one.meta is not other.meta
    assert cache_info().clients == 0


def test_hooks_of_one_owner_stay_with_its_client() -> None:
    """A hook that one owner registers on its client runs for none of the others, however many there have been."""
    session = assumed_session(ROLE)
    calls: list[int] = []
    for number in range(20):
        session.client("sqs").meta.events.register(
            "provide-client-params.sqs", lambda number=number, **_: calls.append(number)
        )

    session.client("sqs").meta.events.emit("provide-client-params.sqs.SendMessage", params={}, model=None, context={})

    assert calls == []


def test_a_hook_on_the_session_reaches_its_later_clients() -> None:
    """A hook on the session's own events is in each client that is created after it."""
    session = assumed_session(ROLE)
    calls: list[int] = []
    session.events.register("provide-client-params.sqs", lambda **_: calls.append(1))

    session.client("sqs").meta.events.emit("provide-client-params.sqs.SendMessage", params={}, model=None, context={})

    assert calls == [1]


def test_an_injected_client_is_created_once() -> None:
    """Equal arguments give the same injected client, also if one of them is spelled out as its default."""
    session = assumed_session(ROLE)
    client = session.injected_client(service_name="sqs", region_name="us-east-1")

    assert session.injected_client(region_name="us-east-1", service_name="sqs", config=None) is client
    assert session.client("sqs", "us-east-1") is not client
    assert cache_info().clients == 1


@pytest.mark.parametrize(
    "arguments",
    [
        {"region_name": "us-east-1"},
        {"endpoint_url": "http://localhost"},
        {"verify": False},
        {"use_ssl": False},
        {"config": Config(read_timeout=1)},
    ],
    ids=lambda arguments: "+".join(arguments),
)
def test_other_arguments_inject_another_client(arguments: dict[str, Any]) -> None:
    """An injected client for another Region, endpoint or configuration is another client; equal ones are the same."""
    session = assumed_session(ROLE)
    client = session.injected_client(service_name="sqs", **arguments)

    assert client is not session.injected_client(service_name="sqs")
    assert client is session.injected_client(service_name="sqs", **copy.deepcopy(arguments))


def test_one_injected_client_however_many_threads() -> None:
    """Threads that ask for one injected client at one time get one client."""
    session = assumed_session(ROLE)
    start = threading.Barrier(8, timeout=60)

    def create(_: int) -> Any:
        start.wait()
        return session.injected_client(service_name="sqs")

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(create, range(8)))) == 1


def test_sessions_neither_print_nor_pickle_secrets() -> None:
    """A session shows its role and Region, and refuses to be pickled."""
    session = assumed_session(ROLE)
    token_of(session)

    assert repr(session) == f"AssumedSession(AssumedRoleCredentials({ROLE!r}), region_name='eu-west-1')"
    with pytest.raises(TypeError) as caught:
        pickle.dumps(session)
    assert str(caught.value) == (
        "sessions do not pickle: send the role's ARN and call assumed_session() on the other side"
    )


def test_a_source_session_lives_as_long_as_its_sessions(sts: FakeSTS) -> None:
    """A source session that the caller keeps no other reference to is there when the role is assumed."""
    session = assumed_session(ROLE, source_session=boto3.Session())
    gc.collect()

    assert token_of(session) == "token-1"
    assert [type(source) for source, _, _ in sts.call_arguments] == [boto3.Session]


def test_a_callers_bearer_token_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bearer token in the environment is the caller's: no client of an assumed session sends it."""
    monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", "callers-bearer-token")
    client = assumed_session(ROLE).client(
        "bedrock", endpoint_url="http://127.0.0.1:9", config=Config(retries={"total_max_attempts": 1})
    )
    sent: list[str] = []
    client.meta.events.register("before-send", lambda request, **_: sent.append(str(request.headers)))

    # The second of a botocore that does not know such tokens, and signs the request.
    with pytest.raises((NoAuthTokenError, EndpointConnectionError)):
        client.list_foundation_models()

    assert "callers-bearer-token" not in "".join(sent)


# --- What sessions share ----------------------------------------------------------------------------------------------


def test_sessions_share_the_loader_of_their_source() -> None:
    """Service models are loaded once for the source session and all its assumed sessions."""
    source = boto3.Session()
    sessions = [assumed_session(role_arn, source_session=source) for role_arn in (ROLE, OTHER_ROLE)]

    assert {id(session._loader) for session in sessions} == {id(source._loader)}


def test_a_further_role_reads_nothing_from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client of a further role is made from the models of the first: not one file of botocore's is read again."""
    read: list[str] = []

    def spy_on(reader: type[JSONFileLoader]) -> None:
        real = reader.load_file
        monkeypatch.setattr(reader, "load_file", lambda self, path: read.append(path) or real(self, path))

    spy_on(JSONFileLoader)
    spy_on(_FileLoader)
    assumed_session(ROLE).client("s3")
    assert any("s3" in path for path in read)
    read.clear()

    for number in range(5):
        assumed_session(f"{ROLE}-{number}").client("s3")

    assert read == []


def test_botocores_own_hooks_are_there_once() -> None:
    """What botocore registers on a session is what an assumed session has of its source, and not once more."""
    source = boto3.Session()
    session = assumed_session(ROLE, source_session=source)

    answers = [events.emit("choose-service-name", service_name="sts") for events in (source.events, session.events)]
    assert [len(each) for each in answers] == [1, 1]


def test_a_shared_loader_does_not_grow() -> None:
    """However many sessions there are, the shared loader searches the same paths."""
    source = boto3.Session()
    paths = list(source._loader.search_paths)

    for number in range(5):
        assumed_session(f"{ROLE}-{number}", source_session=source).resource("s3")

    assert source._loader.search_paths == paths


def test_hooks_of_the_source_session_work_on_assumed_sessions() -> None:
    """A user's own hook on the source session also sees the requests of the sessions assumed from it."""
    source = boto3.Session()
    seen: list[str] = []
    source.events.register("provide-client-params.sqs", lambda event_name, **_: seen.append(event_name))
    client = assumed_session(ROLE, source_session=source).client(
        "sqs", endpoint_url="http://127.0.0.1:9", config=Config(retries={"total_max_attempts": 1})
    )

    with pytest.raises(EndpointConnectionError):
        client.list_queues()

    assert seen == ["provide-client-params.sqs.ListQueues"]


def test_hooks_of_one_assumed_session_are_its_own() -> None:
    """A hook registered on one assumed session does not run for another, nor for the source."""
    source = boto3.Session()
    seen: list[str] = []
    one, other = (assumed_session(role_arn, source_session=source) for role_arn in (ROLE, OTHER_ROLE))
    one.events.register("creating-client-class.sqs", lambda event_name, **_: seen.append(event_name))

    other.client("sqs")
    source.client("sqs")
    assert seen == []
    one.client("sqs")
    assert len(seen) == 1


def test_boto3_still_has_what_sessions_are_built_on() -> None:
    """The private parts of boto3.Session that are overridden or read are where they were."""
    assert callable(boto3.Session._setup_loader)
    assert callable(boto3.Session._register_default_handlers)
    source = boto3.Session()
    assert source._loader is source._session.get_component("data_loader")
    client = assumed_session(ROLE).client("s3")
    assert callable(client.upload_file), "boto3's S3 customisations came with the source's hooks"
    assert callable(assumed_session(ROLE).resource("dynamodb").Table("t").batch_writer)


# --- Bounds and forgetting --------------------------------------------------------------------------------------------


def test_the_numbers_of_sessions_and_clients_are_bounded() -> None:
    """Beyond the bounds, what has gone unused the longest makes room."""
    cache_resize(max_sessions=2, max_clients=1)
    first = assumed_session(ROLE)
    client = first.injected_client(service_name="sqs")
    for number in range(2):
        assumed_session(f"{ROLE}-{number}")

    assert cache_info().sessions == 2
    assert assumed_session(ROLE) is not first
    first.injected_client(service_name="sns")
    assert first.injected_client(service_name="sqs") is not client


@pytest.mark.parametrize("value", [0, -1, True, 1.5, None])
@pytest.mark.parametrize("bound", ["max_roles", "max_sessions", "max_clients"])
def test_bounds_are_whole_numbers(bound: str, value: Any) -> None:
    """A bound below one, or not a whole number, is refused and changes nothing."""
    state = _sessions.default_cache

    with pytest.raises(ConfigurationError) as caught:
        cache_resize(**{bound: value})

    assert caught.value.argument == bound
    assert _sessions.default_cache is state


def test_the_number_of_roles_is_settable() -> None:
    """``max_roles`` reaches the credential cache, which holds a thousand if nothing is said."""
    assert _sessions.new_cache().credentials.max_roles == 1000
    cache_resize(max_roles=3)
    assert _sessions.default_cache.credentials.max_roles == 3
    cache_resize()
    assert _sessions.default_cache.credentials.max_roles == 1000


def test_resizing_leaves_nothing_behind() -> None:
    """Sessions made before ``cache_resize`` stay within the one state: no snapshot is taken with their credentials."""
    session = assumed_session(ROLE)
    first = token_of(session)

    cache_resize(max_roles=7)

    assert token_of(session) != first
    assert cache_info().roles == 1
    _sessions._before_snapshot()
    assert cache_info().roles == 0


def test_clearing_forgets_all() -> None:
    """After ``cache_clear`` the same arguments give another session; a client still in use fetches anew."""
    session = assumed_session(ROLE)
    token_of(session)

    cache_clear()

    assert cache_info()[4:] == (0, 0, 0)
    assert assumed_session(ROLE) is not session
    assert token_of(session) == "token-2"


def test_info_counts_sessions_and_clients() -> None:
    """``cache_info`` tells signatures, calls, failures and what is held."""
    session = assumed_session(ROLE)
    for service in ("sqs", "sns"):
        session.client(service)
        session.injected_client(service_name=service)
    assumed_session(OTHER_ROLE)
    token_of(session)
    token_of(session)

    info = cache_info()

    assert info == (1, 1, 1, 0, 1, 2, 2)
    assert info._fields == ("hits", "misses", "sts_calls", "failures", "roles", "sessions", "clients")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_a_fork_is_noticed_by_itself() -> None:
    """In a forked child sessions and clients are made anew, though a thread of the parent was making some."""
    session = assumed_session(ROLE)
    token_of(session)
    inside, release = threading.Event(), threading.Event()

    def hold() -> None:
        with _sessions.default_cache.build_lock:
            inside.set()
            release.wait(120)

    holder = threading.Thread(target=hold)
    holder.start()
    until(inside.is_set)

    def child_has_its_own() -> bool:
        fresh = assumed_session(ROLE)
        fresh.client("sqs")
        return fresh is not session and token_of(fresh) == "token-1"

    assert holds_in_a_fork(child_has_its_own)
    release.set()
    holder.join()


def test_after_a_fork_clients_are_made_anew(sts: FakeSTS) -> None:
    """The child keeps credentials, and leaves the parent's sessions and connections to the parent."""
    session = assumed_session(ROLE)
    token = token_of(session)

    _sessions._after_fork()

    assert cache_info().sessions == 0
    assert assumed_session(ROLE) is not session
    assert token_of(assumed_session(ROLE)) == token
    assert sts.cleared == 1


# --- SnapStart --------------------------------------------------------------------------------------------------------


@pytest.fixture
def snapshot_hooks(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand in for the runtime's module; the hooks that are registered with it."""
    hooks: list[Any] = []
    module = types.ModuleType("snapshot_restore_py")
    module.register_before_snapshot = lambda hook: hooks.append(hook) or hook
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", module)
    return hooks


@pytest.fixture
def reload_sessions() -> Any:
    """Load the module once more under its own name, and put the first one back afterwards."""
    first = sys.modules["xacct_lambda._sessions"]

    def reload() -> Any:
        del sys.modules["xacct_lambda._sessions"]
        return importlib.import_module("xacct_lambda._sessions")

    yield reload
    sys.modules["xacct_lambda._sessions"] = first
    sys.modules["xacct_lambda"]._sessions = first


def test_credentials_stay_out_of_a_snapshot(snapshot_hooks: list[Any], reload_sessions: Any, sts: FakeSTS) -> None:
    """Before a SnapStart snapshot all credentials are dropped; sessions and clients survive it."""
    module = reload_sessions()
    module.default_cache = SessionCache(CredentialCache(sts))
    session = module.assumed_session(ROLE)
    client = session.injected_client(service_name="sqs")
    token_of(session)

    (hook,) = snapshot_hooks
    hook()

    assert module.cache_info().roles == 0
    assert sts.cleared == 1
    assert module.assumed_session(ROLE).injected_client(service_name="sqs") is client
    assert token_of(session) == "token-2"


def test_nothing_secret_is_left_for_a_snapshot() -> None:
    """Once credentials are dropped, no set of them is alive anywhere in the process."""

    def alive() -> int:
        gc.collect()
        # isinstance() raises for a dead proxy.
        return sum(type(thing) is FrozenCredentials for thing in gc.get_objects())

    others = alive()
    for number in range(3):
        token_of(assumed_session(f"{ROLE}-{number}"))
    assert alive() == others + 3

    _sessions._before_snapshot()

    assert alive() == others


def test_jitter_differs_in_restored_copies() -> None:
    """Two copies of one snapshot draw different jitter, though the state of ``random`` is the same in both."""
    draws = []
    for _ in range(2):
        random.seed(7)
        draws.append([system_uniform(0, 1) for _ in range(3)])

    assert draws[0] != draws[1]


def test_the_snapshot_hook_is_registered_once(snapshot_hooks: list[Any], reload_sessions: Any, sts: FakeSTS) -> None:
    """However often the module is loaded, the runtime has one hook, and it empties the state that is there then."""
    reload_sessions()
    module = reload_sessions()
    module.default_cache = SessionCache(CredentialCache(sts))

    (hook,) = snapshot_hooks
    hook()

    assert sts.cleared == 1


def test_without_the_runtimes_module_there_is_no_hook(monkeypatch: pytest.MonkeyPatch, reload_sessions: Any) -> None:
    """Outside runtimes with SnapStart the library loads as well."""
    monkeypatch.setitem(sys.modules, "snapshot_restore_py", None)

    assert reload_sessions().cache_info().sessions == 0


def test_a_client_of_other_keys() -> None:
    """Who passes keys to ``client()`` gets a client of its own, made with the other arguments too."""
    own: dict[str, Any] = {"region_name": "us-west-2", "aws_access_key_id": "AKIAOWN", "aws_secret_access_key": "own"}
    session = assumed_session(ROLE, region_name="eu-west-1")

    client = session.client("s3", **own)

    assert client.meta.region_name == "us-west-2"
    assert session.client("s3", **own) is not client
