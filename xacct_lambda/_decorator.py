"""``@assume_role``: from the decorator's arguments to injected keyword arguments."""

from __future__ import annotations

import functools
import inspect
import threading
import types
from collections.abc import Callable, Coroutine, Iterable, Mapping
from contextlib import nullcontext
from typing import Any, Concatenate, Final, NamedTuple, Protocol, TypeVar, Unpack

import boto3

from xacct_lambda import _sessions
from xacct_lambda._allowed_roles import AllowedRoles
from xacct_lambda._handler_signature import describe, public_signature
from xacct_lambda._init_phase import InitPhase
from xacct_lambda._injections import Injection, parse_injections
from xacct_lambda._invocation import (
    Invocation,
    InvocationGenerator,
    async_generator_function,
    current_context,
    find_context,
)
from xacct_lambda._options import AssumeRoleOptions, PerEvent, call_option, validate_options
from xacct_lambda._redaction import hide_arguments
from xacct_lambda._sessions import check_chained_duration, session_from_options
from xacct_lambda.exceptions import ConfigurationError

_Event = TypeVar("_Event")
_Context = TypeVar("_Context")
_Result = TypeVar("_Result")

init_phase = InitPhase()


class _Decorator(Protocol):
    """Keeps the types of event, context, and result. Injected parameters may have any type."""

    def __call__(
        self, handler: Callable[Concatenate[_Event, _Context, ...], _Result]
    ) -> Callable[Concatenate[_Event, _Context, ...], _Result]: ...


@hide_arguments
def assume_role(  # noqa: PLR0913 - the decorator's own arguments; a session's arguments are options
    role_arn: PerEvent[str],
    *,
    clients: Iterable[str] | Mapping[str, str | Mapping[str, Any]] = (),
    resources: Iterable[str] | Mapping[str, str | Mapping[str, Any]] = (),
    session: str | None = None,
    allowed_roles: Iterable[str] | None = None,
    prefetch: bool | None = None,
    **options: Unpack[AssumeRoleOptions],
) -> _Decorator:
    """Pass clients that act as a role to a handler, as keyword arguments.

    Example:
        >>> @assume_role("arn:aws:iam::222222222222:role/Reader", clients=["s3"], external_id="orders-7f3a")
        ... def lambda_handler(event, context, *, s3):
        ...     return s3.list_buckets()["Buckets"]
        >>> lambda_handler({}, None)
        []

    A warm call adds about a microsecond. Arguments that the caller passes override injected ones. If the caller passes
    all of them, for example ``lambda_handler(event, context, s3=stub)``, no role is assumed. Decorators stack.

    You can decorate functions, methods, partials, callable objects, ``async def``, and generators. The result is a
    plain function of the same kind. The first event of an ``async def`` handler creates its clients in the event loop's
    thread. A decorated function that is called inside another one, without its own Lambda context, uses the remaining
    time of the outer invocation.

    Args:
        role_arn: ARN of the role. Or a callable that takes the handler's arguments and returns the ARN. Then
            ``allowed_roles`` is required.
        clients: Names of services. The parameter has the name of the service: ``cognito-idp`` becomes ``cognito_idp``,
            and ``lambda`` becomes ``lambda_``. Or a mapping *parameter: service*, or *parameter: keyword arguments* of
            ``Session.client`` with ``service_name``. The library keeps one client per role and arguments, and passes it
            to every decorated function. Don't register hooks on it: inject the session and create your own client.
        resources: The same for ``Session.resource``. Each thread gets its own, because resources are not thread-safe.
        session: Name of a parameter that receives the session itself.
        allowed_roles: ARN patterns. A role that matches none of them is rejected before anything else happens. ``*``
            matches within one part of the path, ``**`` across parts. Partition and account are always literal.
        prefetch: The work of the init phase of a Lambda function. By default it creates the clients and loads the trust
            store. If an event is already waiting (``on-demand``), it also calls AssumeRole in a thread, and waits for
            the answer for at most a quarter of a second. ``True`` calls AssumeRole for the other initialization types
            too, except SnapStart, because credentials don't go into a snapshot. ``False`` leaves everything to the
            first event. A failure of the call is logged, and the first event tries again. Outside Lambda, and for
            roles that depend on the event, nothing happens in init.
        options: The options of :func:`assumed_session`. Each of them, except ``source_session`` and ``sts_config``, may
            be a callable that takes the handler's arguments: by position or by keyword, as the caller passes them. For
            what each option means, see :func:`assumed_session`.

    Raises:
        ConfigurationError: At decoration: an argument breaks a rule, a service doesn't exist, the handler doesn't
            accept a parameter, a decorator below drops keyword arguments, or two injections have the same name. At the
            call: the role of the event isn't allowed, or an option of the event breaks a rule.

    The library fetches credentials when the handler's first AWS request is signed. If STS refuses or doesn't answer,
    that request raises :class:`~xacct_lambda.exceptions.AssumeRoleError`,
    :class:`~xacct_lambda.exceptions.CallerCredentialsError`, or
    :class:`~xacct_lambda.exceptions.STSUnavailableError`.
    """
    if callable(role_arn) and not (clients or resources or session or allowed_roles or options):
        name = getattr(role_arn, "__qualname__", type(role_arn).__name__)
        raise ConfigurationError(
            "role_arn", f'{name} is decorated without a role. Write @assume_role("arn:aws:iam::…", clients=["s3"])'
        )
    if not isinstance(prefetch, bool | None):
        raise ConfigurationError("prefetch", f"{prefetch!r} is not True, False or None")
    checked = validate_options(options, others=inspect.signature(assume_role).parameters.keys() - {"options"})
    check_chained_duration(checked.get("duration_seconds", 0), checked.get("source_session"))
    injections = parse_injections(clients, resources, session, options.get("source_session"))
    injector = _Injector(role_arn, injections, allowed_roles, checked)
    init_phase.expect(injector)

    def decorate(handler: Callable[..., Any]) -> Callable[..., Any]:
        wrapper = _wrap(handler, injector)
        injector.initialize(prefetch=prefetch)
        return wrapper

    return decorate


class _InjectionCache:
    """The injected arguments of a role that does not depend on the event.

    They are valid until the session cache is cleared or boto3's default session is replaced.
    """

    def __init__(self, *, per_thread: bool) -> None:
        self._entry: Any = threading.local() if per_thread else types.SimpleNamespace()

    def get(self) -> dict[str, Any] | None:
        """Return the cached arguments, or None if they have to be built."""
        try:
            injected, generation, default_session = self._entry.value
        except AttributeError:
            return None
        is_valid = generation is _sessions.default_cache.generation and default_session is boto3.DEFAULT_SESSION
        return injected if is_valid else None

    def put(self, injected: dict[str, Any], generation: object, default_session: boto3.Session | None) -> None:
        """Cache arguments, with the two objects they were built for."""
        self._entry.value = injected, generation, default_session


class RoleUsage(NamedTuple):
    """The parameters of a decorator's AssumeRole call that policies depend on, without the external ID itself."""

    role_arn: str | None
    """None if it depends on the event."""
    sends_external_id: bool
    source_identity: str | None
    """``*`` if it depends on the event."""
    tags: Mapping[str, str]
    """If the tags depend on the event, ``*`` is the only key and its value."""
    is_chained: bool
    """Whether another assumed role, and not the execution role, calls STS."""


class _Injector:
    """Builds the injected arguments of one decorator."""

    def __init__(
        self,
        role_arn: str | Callable[..., str],
        injections: Mapping[str, Injection],
        allowed_roles: Iterable[str] | None,
        options: Mapping[str, Any],
    ) -> None:
        self.names = injections.keys()
        self._injections = injections
        self._allowed = AllowedRoles(allowed_roles)
        self._depends_on_event = callable(role_arn) or any(map(callable, options.values()))
        # Resources are not thread-safe. Clients are, so that a new thread finds them without waiting for a lock.
        has_resources = any(injection.kind == "resource" for injection in injections.values())
        self._cached = _InjectionCache(per_thread=has_resources)
        if callable(role_arn) and allowed_roles is None:
            raise ConfigurationError(
                "allowed_roles", "required if role_arn depends on the event: say which roles it may name"
            )
        self._role_arn = role_arn if callable(role_arn) else self._allowed.check(role_arn)
        self._options = options

    @property
    def arguments(self) -> dict[str, str]:
        """The decorator's argument that asks for each injection, by the name of the parameter."""
        return {name: injection.argument for name, injection in self._injections.items()}

    @property
    def role(self) -> RoleUsage:
        """The role for tools, which find it on a decorated handler as ``__xacct_lambda__[0].role``."""
        options = {name: "*" if callable(value) else value for name, value in self._options.items()}
        tags: Any = options.get("tags") or {}
        return RoleUsage(
            None if callable(self._role_arn) else self._role_arn,
            options.get("external_id") is not None,
            options.get("source_identity"),
            {"*": "*"} if tags == "*" else dict(tags),
            isinstance(options.get("source_session"), _sessions.AssumedSession),
        )

    def initialize(self, *, prefetch: bool | None) -> None:
        """Do in Lambda's init phase what the first event would do."""
        init_phase.run(
            self,
            prefetch=False if self._depends_on_event else prefetch,
            session=self._session,
            create_clients=self._resolve,
        )

    def inject(self, args: tuple[Any, ...], kwargs: dict[str, Any], signature: inspect.Signature) -> dict[str, Any]:
        """Return the handler's keyword arguments: the caller's, and the injected ones that the caller left out."""
        if not self._depends_on_event:
            injected = self._cached.get()
            if injected is None and self.names.isdisjoint(kwargs):
                injected = self._resolve()
            if injected is not None:
                return {**injected, **kwargs} if kwargs else injected
        missing = self.names - kwargs.keys()
        if not missing:
            return kwargs
        return kwargs | self._build(self._session(args, kwargs, signature), missing)

    def _resolve(self) -> dict[str, Any]:
        # Read both first: if one changes while the clients are created, the next call builds them again.
        generation, default_session = _sessions.default_cache.generation, boto3.DEFAULT_SESSION
        injected = self._build(self._session(), self.names)
        # The first call creates the default session.
        self._cached.put(injected, generation, default_session or boto3.DEFAULT_SESSION)
        return injected

    def _build(self, session: _sessions.AssumedSession, names: Iterable[str]) -> dict[str, Any]:
        return {name: self._injections[name].build(session) for name in names}

    @hide_arguments
    def _session(
        self,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] = types.MappingProxyType({}),
        signature: inspect.Signature = inspect.Signature(),  # noqa: B008 - immutable
    ) -> _sessions.AssumedSession:
        # A client that the caller passes instead of an injected one is not an argument for the options.
        passed = {name: value for name, value in kwargs.items() if name not in self.names}

        def value_of(option: Any) -> Any:
            return call_option(option, args, passed, signature) if callable(option) else option

        role_arn = value_of(self._role_arn)
        if callable(self._role_arn):
            role_arn = self._allowed.check(role_arn)
        return session_from_options(role_arn, {name: value_of(option) for name, option in self._options.items()})


def _wrap(handler: Callable[..., Any], injector: _Injector) -> Callable[..., Any]:
    if not callable(handler):
        raise ConfigurationError(
            "handler", f"a {type(handler).__name__} cannot be called. Decorate the function below it"
        )
    _reject_second_injection(handler, injector)
    signature = public_signature(handler, injector.arguments)
    call = _caller(handler, injector, signature)

    async def await_(*args: Any, **kwargs: Any) -> Any:
        try:
            return await call(*args, **kwargs)
        except TypeError as error:
            _explain(error, injector, handler)
            raise

    def generate(*args: Any, **kwargs: Any) -> Any:
        return (yield from call(*args, **kwargs))

    # Frameworks inspect the kind of a function, so the wrapper has the handler's kind.
    wrapper: Callable[..., Any] = call
    for is_kind, wrapper_of_kind in (
        (inspect.iscoroutinefunction, await_),
        (inspect.isgeneratorfunction, generate),
        (inspect.isasyncgenfunction, async_generator_function(call, nullcontext())),
    ):
        if is_kind(handler) or is_kind(type(handler).__call__):
            wrapper = wrapper_of_kind
    function = handler.func if isinstance(handler, functools.partial) else handler
    functools.update_wrapper(wrapper, function if hasattr(function, "__name__") else type(function), updated=())
    vars(wrapper).update(
        # Other decorators read attributes of the function. The attributes of an object are its state.
        vars(handler) if inspect.isfunction(handler) else {},
        __wrapped__=handler,
        __signature__=signature,
        __xacct_lambda__=(injector, *_injectors_of(handler)),
    )
    annotations = {name: parameter.annotation for name, parameter in signature.parameters.items()}
    annotations["return"] = signature.return_annotation
    wrapper.__annotations__ = {name: value for name, value in annotations.items() if value is not signature.empty}
    return wrapper


def _caller(handler: Callable[..., Any], injector: _Injector, signature: inspect.Signature) -> Callable[..., Any]:
    """Return a function that calls the handler with the injected arguments, in its invocation."""
    inject = injector.inject

    def call(*args: Any, **kwargs: Any) -> Any:
        context = find_context(args, kwargs)
        # A function that gets no context is called inside a handler, and belongs to that handler's invocation.
        token = None if context is None else current_context.set(context)
        try:
            result = handler(*args, **inject(args, kwargs, signature))
        except TypeError as error:
            _explain(error, injector, handler)
            raise
        finally:
            if token is not None:
                current_context.reset(token)
        within = _WITHIN.get(type(result))
        return result if within is None else within(result, Invocation(context or current_context.get()))

    return call


async def _await_within(coroutine: Coroutine[Any, Any, Any], invocation: Invocation) -> Any:
    with invocation:
        return await coroutine


# The types that a handler may return before its body has run.
_WITHIN: Final[dict[type, Callable[[Any, Invocation], Any]]] = {
    types.CoroutineType: _await_within,
    types.GeneratorType: InvocationGenerator,
    types.AsyncGeneratorType: lambda generator, invocation: async_generator_function(lambda: generator, invocation)(),
}


def _explain(error: TypeError, injector: _Injector, handler: Callable[..., Any]) -> None:
    """Add a note to the TypeError of a handler that didn't get, or doesn't accept, an injected argument."""
    text = str(error)
    names = [name for name in injector.names if f"'{name}'" in text]
    if names and ("required keyword" in text or "unexpected keyword" in text or "required positional" in text):
        error.add_note(
            f"@assume_role passes {names[0]!r} as a keyword argument to {describe(handler)}. If a decorator below "
            "@assume_role doesn't pass keyword arguments on, put @assume_role directly above the function"
        )


def _injectors_of(handler: Callable[..., Any]) -> tuple[_Injector, ...]:
    """Return the injectors of this library's decorators below."""
    return getattr(handler, "__xacct_lambda__", ())


def _reject_second_injection(handler: Callable[..., Any], injector: _Injector) -> None:
    names_below = {name for below in _injectors_of(handler) for name in below.names}
    for name, argument in injector.arguments.items():
        if name in names_below:
            raise ConfigurationError(
                argument, f"{name!r} is injected twice into {describe(handler)}: give one of the two another name"
            )
