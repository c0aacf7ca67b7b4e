"""Sessions that act in another account, their cache, and the one address of all state."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Hashable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple, TypeVar, cast

import boto3
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import BotoCoreError
from cachetools import LRUCache

from xacct_lambda._assumed_credentials import AssumedRoleCredentials
from xacct_lambda._cache_entry import CredentialKey
from xacct_lambda._connections import ConnectionPools
from xacct_lambda._credential_cache import MAX_ROLES, CredentialCache
from xacct_lambda._endpoint_rules import share_endpoint_rules
from xacct_lambda._options import check_session_options, reject_unknown_options
from xacct_lambda._redaction import hide_arguments
from xacct_lambda._request import AssumeRoleRequest, assume_role_request, check_int
from xacct_lambda._role_session import RoleSession, effective_region
from xacct_lambda._service_models import setup_default_session
from xacct_lambda._sts import STS, config_key
from xacct_lambda.exceptions import ConfigurationError

_Function = TypeVar("_Function", bound=Callable[..., Any])

_MAX_SESSIONS: Final = 100
_MAX_CLIENTS: Final = 20
_MAX_CHAINED_DURATION: Final = 3600
_LAMBDA_VARIABLES: Final = frozenset({"AWS_LAMBDA_FUNCTION_NAME", "AWS_LAMBDA_INITIALIZATION_TYPE"})


class AssumedSession(Session):
    """A :class:`boto3.Session` that acts as the assumed role. :func:`assumed_session` creates it.

    ``client()`` and ``resource()`` return a new object on each call, like any other session's. A client has one owner,
    who may register event hooks on it. The clients that ``@assume_role`` injects are cached beside them, one for each
    set of arguments, and belong to the library.
    """

    def __init__(
        self, cache: SessionCache, source: Session, credentials: AssumedRoleCredentials, region_name: str | None
    ) -> None:
        self._cache = cache
        self._credentials = credentials
        self._injected_clients: LRUCache[Hashable, Any] = LRUCache(cache.max_clients)
        self._region_name = region_name
        super().__init__(botocore_session=RoleSession(source, credentials, region_name))

    def _setup_loader(self) -> None:
        # boto3's own would append its path to the shared loader's search paths once for each session.
        self._loader = self._session.get_component("data_loader")

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._credentials!r}, region_name={self.region_name!r})"

    def __copy__(self) -> AssumedSession:
        return self

    def __deepcopy__(self, memo: object) -> AssumedSession:
        # dataclasses.asdict() and libraries copy the settings in which they keep a session. A copy would have other
        # credentials than the cache, and could not outlive it.
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        raise TypeError("sessions do not pickle: send the role's ARN and call assumed_session() on the other side")

    @property
    def region_name(self) -> str:
        """The Region of the session."""
        return self._region_name or super().region_name

    def client(self, service_name: str, region_name: str | None = None, *args: Any, **kwargs: Any) -> Any:
        """Return a new client, as ``boto3.Session.client`` does."""
        if region_name is None and getattr(kwargs.get("config"), "region_name", None) is None:
            # A library that gets the botocore session, such as aws-encryption-sdk, sets its own Region on it.
            region_name = self._region_name
        # boto3's sessions are not thread-safe: two threads would parse a service model twice, or meet half of one.
        with self._cache.build_lock:
            client: Any = super().client(service_name, region_name, *args, **kwargs)  # type: ignore[call-overload]
            return self._cache.connections.share(share_endpoint_rules(client))

    def resource(self, *args: Any, **kwargs: Any) -> Any:
        """Return a new resource with its own client, as ``boto3.Session.resource`` does."""
        with self._cache.build_lock:
            return super().resource(*args, **kwargs)

    def injected_client(self, **arguments: Any) -> Any:
        """Return the cached client that ``@assume_role`` injects for these arguments, or create it."""
        key = frozenset(
            (name, config_key(value) if isinstance(value, Config) else value)
            for name, value in arguments.items()
            if value is not None  # None is the default of all arguments that may be None
        )
        with self._cache.build_lock:
            client = self._injected_clients.get(key)
            if client is None:
                client = self._injected_clients[key] = self.client(**arguments)
            return client

    @property
    def injected_client_count(self) -> int:
        return len(self._injected_clients)


class CacheInfo(NamedTuple):
    """Counters of this process, and the size of the cache."""

    hits: int
    """Signatures with cached credentials."""
    misses: int
    """Signatures that waited for an AssumeRole call, of this thread or of another one."""
    sts_calls: int
    """AssumeRole requests that the library sent, including second attempts."""
    failures: int
    """AssumeRole attempts that failed."""
    roles: int
    """Cached sets of credentials."""
    sessions: int
    """Cached sessions."""
    clients: int
    """Cached clients that ``@assume_role`` injects. Clients that you create yourself don't count."""


class _SessionKey(NamedTuple):
    credentials: CredentialKey
    region_name: str | None
    min_ttl_seconds: float
    sts_config: Hashable


class SessionCache:
    """All state of the library: the sessions, and the cache of credentials that it gets."""

    def __init__(
        self,
        credentials: CredentialCache,
        *,
        connections: ConnectionPools | None = None,
        max_sessions: int = _MAX_SESSIONS,
        max_clients: int = _MAX_CLIENTS,
    ) -> None:
        self.credentials = credentials
        self.connections = connections or ConnectionPools()
        self.max_sessions = max_sessions
        self.max_clients = max_clients
        # A thread has the lock while it creates a session or client, not while it uses one. It is reentrant, because
        # hooks may create clients.
        self.build_lock = threading.RLock()
        self._reset_sessions()

    def _reset_sessions(self) -> None:
        self._sessions: LRUCache[_SessionKey, AssumedSession] = LRUCache(self.max_sessions)
        # _InjectionCache compares it: entries of another generation are invalid.
        self.generation = object()

    def session(
        self,
        source: boto3.Session,
        request: AssumeRoleRequest,
        *,
        region_name: str | None,
        min_ttl_seconds: float,
        sts_config: Config | None,
    ) -> AssumedSession:
        """Return the session for these arguments, which is the same one while it is cached."""
        region_name = effective_region(source, region_name)
        key = _SessionKey(
            CredentialKey(source, request), region_name, min_ttl_seconds, sts_config and config_key(sts_config)
        )
        with self.build_lock:
            session = self._sessions.get(key)
            if session is None:
                credentials = AssumedRoleCredentials(
                    self.credentials, source, request, min_ttl_seconds=min_ttl_seconds, config=sts_config
                )
                session = self._sessions[key] = AssumedSession(self, source, credentials, region_name)
            return session

    def default_source(self) -> boto3.Session:
        """Return boto3's default session, and create it if necessary.

        Raises:
            ConfigurationError: It can't be created (the profile doesn't exist), or a test has replaced its class.
        """
        # A loop: another thread may set it back to None at any time, as tests do.
        while (default := boto3.DEFAULT_SESSION) is None:
            with self.build_lock:
                if boto3.DEFAULT_SESSION is None:
                    try:
                        setup_default_session()
                    except BotoCoreError as error:
                        advice = "Correct AWS_PROFILE, or pass source_session=boto3.Session(profile_name=…)"
                        problem = f"boto3's default session can't be created: {error}. {advice}"
                        raise ConfigurationError("source_session", problem) from error
        if not isinstance(default, Session):
            # unittest.mock.patch("boto3.Session") leaves its mock behind as everybody's default session.
            boto3.DEFAULT_SESSION = None
            raise ConfigurationError(
                "source_session",
                f"boto3's default session is a {type(default).__name__}, because a test has replaced boto3.Session. "
                "Pass the handler's clients in the test, or see xacct_lambda.testing",
            )
        return default

    def resize(self, *, max_roles: int, max_sessions: int, max_clients: int) -> None:
        """Set the bounds and clear the cache."""
        with self.build_lock:
            self.max_sessions = max_sessions
            self.max_clients = max_clients
            self.credentials.max_roles = max_roles
            self.clear()

    def clear(self) -> None:
        """Remove every session and all credentials. A client that is still in use fetches new credentials."""
        with self.build_lock:
            self._reset_sessions()
            self.drop_secrets_and_connections()

    def drop_secrets_and_connections(self) -> None:
        """Remove everything that a snapshot must not contain. Sessions, clients, and models stay."""
        self.credentials.clear()
        self.connections.drop()

    def after_fork(self) -> None:
        """Make the copy in a forked child usable. It keeps the credentials, and drops the parent's connections."""
        self.build_lock = threading.RLock()
        self._reset_sessions()
        self.credentials.after_fork()
        self.connections.after_fork()

    def info(self) -> CacheInfo:
        """Return the figures of ``cache_info()``."""
        counts = self.credentials.counts()
        with self.build_lock:
            clients = sum(session.injected_client_count for session in self._sessions.values())
            return CacheInfo(
                counts.hits,
                counts.misses,
                counts.sts_calls,
                counts.failures,
                counts.roles,
                len(self._sessions),
                clients,
            )


def new_cache() -> SessionCache:
    """Return a cache that is empty."""
    connections = ConnectionPools()
    # freezegun replaces time.time(). The lambda looks it up at each call.
    credentials = CredentialCache(STS(connections=connections), clock=lambda: time.time())  # noqa: PLW0108
    return SessionCache(credentials, connections=connections)


default_cache = new_cache()
"""The one address of all state. Each call looks it up, so that tests can replace it."""


def _public(function: _Function) -> _Function:
    """Return the function with an explanation of unknown arguments, and without arguments in the frames of errors."""
    known = inspect.signature(function).parameters

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        reject_unknown_options(kwargs, known)
        return function(*args, **kwargs)

    return cast("_Function", hide_arguments(call))


@_public
def assumed_session(  # noqa: PLR0913 - one argument for each parameter of AssumeRole
    role_arn: str,
    *,
    role_session_name: str | None = None,
    external_id: str | None = None,
    source_identity: str | None = None,
    duration_seconds: int | timedelta = 3600,
    policy: str | Mapping[str, Any] | None = None,
    policy_arns: Iterable[str] = (),
    tags: Mapping[str, str] | None = None,
    transitive_tag_keys: Iterable[str] = (),
    region_name: str | None = None,
    source_session: boto3.Session | None = None,
    min_ttl_seconds: float | timedelta = 0,
    sts_config: Config | None = None,
    extra: Mapping[str, Any] | None = None,
) -> boto3.Session:
    """Return a session that acts as the role and refreshes its own credentials.

    Example:
        >>> session = assumed_session("arn:aws:iam::222222222222:role/Reader", external_id="orders-7f3a")
        >>> s3 = session.client("s3")

    The same arguments return the same session while it is cached. The effective Region is one of the arguments.
    Sessions that differ only in ``region_name``, ``min_ttl_seconds``, or ``sts_config`` share one set of credentials.
    The first signed request calls STS. Before that, the library needs no network and no credentials.

    The session behaves like any ``boto3.Session``. ``client()`` and ``resource()`` return a new object on each call, so
    create your clients once, at module level. All settings and event hooks of the source session apply to them. Change
    the source session before you call this function: a cached session doesn't get what you change later.

    Args:
        role_arn: ARN of the role to assume.
        role_session_name: Name of the role session, as CloudTrail shows it, 2 to 64 characters. The default is the
            name of the Lambda function, or ``xacct-lambda`` elsewhere.
        external_id: The value that the role's trust policy requires as ``sts:ExternalId``, 2 to 1224 characters.
        source_identity: Identity that persists through role chaining, 2 to 256 characters. The caller's policies and
            the role's trust policy must both allow ``sts:SetSourceIdentity``.
        duration_seconds: Lifetime of the credentials, 900 to 43200 seconds. At most 3600 if the caller is itself an
            assumed role (role chaining), which is always the case for the default session of a Lambda function.
        policy: Session policy, as JSON text or as a mapping. The session may do only what both the policy and the role
            allow.
        policy_arns: ARNs of up to 10 managed policies that act as session policies.
        tags: Up to 50 session tags. The caller's policies and the role's trust policy must both allow
            ``sts:TagSession``.
        transitive_tag_keys: Keys among ``tags`` that persist through role chaining.
        region_name: Region of the session. The default is the source session's Region at the time of the call. The
            library always calls STS in the source session's Region.
        source_session: Session that calls STS. The default is boto3's default session. For role chaining, pass an
            assumed session. Create it once and not for each event: the cache keeps it, and it may take 12 MB.
        min_ttl_seconds: Minimum remaining lifetime of the credentials in seconds, for presigned URLs and for
            credentials that you pass to another system. At most ``duration_seconds`` less 60.
        sts_config: Options for the STS client, merged over the library's defaults (1 s to connect, 1 s to read, two
            attempts).
        extra: Further AssumeRole parameters by their AWS names (``ProvidedContexts``).

    Raises:
        ConfigurationError: An argument breaks a rule of STS. The check makes no network call.

    A request of the session's clients may raise :class:`~xacct_lambda.exceptions.AssumeRoleError`,
    :class:`~xacct_lambda.exceptions.CallerCredentialsError`, or
    :class:`~xacct_lambda.exceptions.STSUnavailableError`.

    See https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html for the rules.
    """
    request = assume_role_request(
        role_arn,
        role_session_name=role_session_name,
        external_id=external_id,
        source_identity=source_identity,
        duration_seconds=duration_seconds,
        policy=policy,
        policy_arns=policy_arns,
        tags=tags,
        transitive_tag_keys=transitive_tag_keys,
        extra=extra,
    )
    min_ttl = check_session_options(
        request,
        region_name=region_name,
        source_session=source_session,
        min_ttl_seconds=min_ttl_seconds,
        sts_config=sts_config,
    )
    check_chained_duration(request.duration_seconds, source_session)
    source = default_cache.default_source() if source_session is None else source_session
    return default_cache.session(
        source, request, region_name=region_name, min_ttl_seconds=min_ttl, sts_config=sts_config
    )


def check_chained_duration(duration_seconds: object, source_session: object) -> None:
    """Reject a duration that STS refuses because the caller is itself an assumed role.

    Args:
        duration_seconds: A valid duration. A callable is checked at the event.
        source_session: The session that calls STS, or None for boto3's default session.

    Raises:
        ConfigurationError: The duration is over an hour, and the source is an assumed session, or the default session
            of a Lambda function.
    """
    if not isinstance(duration_seconds, int) or duration_seconds <= _MAX_CHAINED_DURATION:
        return
    if isinstance(source_session, AssumedSession):
        caller = "source_session is an assumed role"
    elif source_session is None and not _LAMBDA_VARIABLES.isdisjoint(os.environ):
        caller = "the role of a Lambda function is an assumed role"
    else:
        return
    raise ConfigurationError(
        "duration_seconds",
        f"role chaining allows {_MAX_CHAINED_DURATION} at most, and {caller}. Pass {_MAX_CHAINED_DURATION} or less: "
        "the library refreshes the credentials before they expire",
    )


@hide_arguments
def session_from_options(role_arn: str, options: Mapping[str, Any], *arguments: Any) -> AssumedSession:
    """Return the session that the options describe. Options that are callables are called with the arguments.

    Raises:
        ConfigurationError: A value that a callable returned breaks a rule.
    """
    own = {name: value(*arguments) if callable(value) else value for name, value in options.items()}
    session: Any = assumed_session(role_arn, **own)
    return session  # type: ignore[no-any-return] # the public function's type is the public class


def cache_info() -> CacheInfo:
    """Return counters of this process, and the size of the cache.

    Example:
        >>> cache_clear()
        >>> assumed_session("arn:aws:iam::222222222222:role/Reader").client("s3").list_buckets()["Buckets"]
        []
        >>> info = cache_info()
        >>> info.roles, info.sessions
        (1, 1)
    """
    return default_cache.info()


def cache_clear() -> None:
    """Clear the cache: remove every session, injected client, and set of credentials, and drop all connections.

    A client that is still in use continues to work. It fetches new credentials and opens new connections. The counters
    of :func:`cache_info` continue.

    Example:
        >>> session = assumed_session("arn:aws:iam::222222222222:role/Reader")
        >>> cache_clear()
        >>> cache_info().sessions
        0
    """
    default_cache.clear()


def cache_resize(
    *, max_roles: int = MAX_ROLES, max_sessions: int = _MAX_SESSIONS, max_clients: int = _MAX_CLIENTS
) -> None:
    """Set the bounds of the cache, and clear it.

    A full cache evicts its least recently used entry. A client continues to work after its session is evicted. A role
    whose credentials are evicted costs an AssumeRole call at its next use.

    Args:
        max_roles: Number of cached sets of credentials, 2 KB each.
        max_sessions: Number of cached sessions, 0.25 MB each with an ``s3`` client.
        max_clients: Number of cached clients of each session. Only ``@assume_role`` caches clients, to inject them.

    Raises:
        ConfigurationError: A bound is not a whole number of at least 1. All bounds stay as they were.

    Example:
        >>> cache_resize(max_roles=5000, max_sessions=500)
    """
    for name, bound in {"max_roles": max_roles, "max_sessions": max_sessions, "max_clients": max_clients}.items():
        check_int(name, bound, range(1, sys.maxsize))
    # In place: clients in use would keep a state that is replaced, which the hooks of fork and snapshot never reach.
    default_cache.resize(max_roles=max_roles, max_sessions=max_sessions, max_clients=max_clients)


def _after_fork() -> None:
    default_cache.after_fork()


def _before_snapshot() -> None:
    # By name: if this module was reloaded, the state to empty is the new module's.
    sys.modules[__name__].default_cache.drop_secrets_and_connections()


if hasattr(os, "register_at_fork"):  # pragma: no branch - Windows does not fork
    os.register_at_fork(after_in_child=_after_fork)

try:
    import snapshot_restore_py  # type: ignore[import-untyped, import-not-found, unused-ignore] # the runtime's
except ImportError:
    pass
else:
    # The mark is on the runtime's module, which stays when this one is loaded again.
    if not hasattr(snapshot_restore_py, "xacct_lambda_hook"):
        snapshot_restore_py.xacct_lambda_hook = snapshot_restore_py.register_before_snapshot(_before_snapshot)
