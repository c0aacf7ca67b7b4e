"""The injections of a handler's parameters: the decorator's arguments, checked against boto3's services."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import boto3
from boto3.session import Session
from botocore.config import Config
from botocore.exceptions import DataNotFoundError
from botocore.loaders import Loader

from xacct_lambda._handler_signature import accepts_keyword
from xacct_lambda._options import check_region, did_you_mean
from xacct_lambda._service_models import default_loader
from xacct_lambda._sessions import AssumedSession
from xacct_lambda.exceptions import ConfigurationError


class Injection(NamedTuple):
    """The object that a handler gets for one parameter: a client, a resource, or the session."""

    kind: str
    """``client`` or ``resource``, which are methods of the session, or ``session``, the session itself."""
    arguments: Mapping[str, Any]

    @property
    def argument(self) -> str:
        """The decorator's argument that asks for this injection."""
        return {"client": "clients", "resource": "resources"}.get(self.kind, "session")

    def build(self, session: AssumedSession) -> Any:
        """Return the object to inject: a client is the same for every decorated function, a resource is a new one."""
        match self.kind:
            case "client":
                return session.injected_client(**self.arguments)
            case "resource":
                return session.resource(**self.arguments)
            case _:
                return session


def parse_injections(
    clients: Iterable[str] | Mapping[str, Any],
    resources: Iterable[str] | Mapping[str, Any],
    session: str | None,
    source_session: boto3.Session | None,
) -> dict[str, Injection]:
    """Return the injection of each parameter, checked against the services of boto3."""
    injections: dict[str, Injection] = {}
    # Why a private attribute: see RoleSession. Another type of source_session is rejected with the other options.
    loader = source_session._loader if isinstance(source_session, Session) else default_loader()  # noqa: SLF001
    for argument, kind, services in (("clients", "client", clients), ("resources", "resource", resources)):
        for name, arguments in _by_parameter(argument, services):
            _check_arguments(argument, kind, arguments, loader)
            _register(injections, argument, name, Injection(kind, arguments))
    if session is not None:
        _register(injections, "session", session, Injection("session", {}))
    if not injections:
        raise ConfigurationError(
            "clients",
            "nothing to inject: pass clients, resources, or session, for example clients=['s3'] or session='session'",
        )
    return injections


def _by_parameter(argument: str, services: Iterable[str] | Mapping[str, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    if isinstance(services, str) or not isinstance(services, Iterable):
        raise ConfigurationError(
            argument, f"must be a list of service names or a mapping, for example {argument}=['s3']"
        )
    if not isinstance(services, Mapping):
        return [(_parameter_name(argument, service), {"service_name": service}) for service in services]
    return [
        (name, {"service_name": value} if isinstance(value, str) else _keyword_arguments(argument, name, value))
        for name, value in services.items()
    ]


def _parameter_name(argument: str, service: str) -> str:
    if not isinstance(service, str):
        raise ConfigurationError(argument, f"{service!r} is not the name of a service")
    name = service.replace("-", "_")
    return f"{name}_" if keyword.iskeyword(name) else name


def _keyword_arguments(argument: str, name: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not isinstance(value.get("service_name"), str):
        raise ConfigurationError(
            argument, f"{name!r} needs the name of a service, or keyword arguments with service_name among them"
        )
    return dict(value)


def _check_arguments(argument: str, kind: str, arguments: dict[str, Any], loader: Loader) -> None:
    service = arguments["service_name"]
    model = {"client": "service-2", "resource": "resources-1"}[kind]
    try:
        loader.list_api_versions(service, model)
    except DataNotFoundError as error:
        suggestion = did_you_mean(service, loader.list_available_services(model))
        raise ConfigurationError(
            argument, f"boto3 {boto3.__version__} has no {kind} for {service!r}{suggestion}"
        ) from error
    create = getattr(Session, kind)
    known = inspect.signature(create).parameters.keys() - {"self"}
    for name in arguments.keys() - known:
        # langchain-aws replaces Session.client with a function that accepts any argument and passes it on.
        if name == "self" or not accepts_keyword(create, name):
            raise ConfigurationError(argument, f"Session.{kind}() has no argument {name!r}{did_you_mean(name, known)}")
    if any(name.startswith("aws_") and value is not None for name, value in arguments.items()):
        # With its own keys, the client would not act as the role. The message doesn't repeat them.
        raise ConfigurationError(argument, f"a {kind} that acts as the role can't have its own keys")
    if arguments.get("region_name") is not None:
        check_region(argument, arguments["region_name"])
    config = arguments.get("config")
    if config is not None and not isinstance(config, Config):
        raise ConfigurationError(argument, f"config must be a botocore.config.Config, not {type(config).__name__}")


def _register(injections: dict[str, Injection], argument: str, name: str, injection: Injection) -> None:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise ConfigurationError(argument, f"{name!r} can't be the name of a parameter")
    if name in injections:
        raise ConfigurationError(
            argument, f"{name!r} is injected twice: give one of the two another name with a mapping"
        )
    injections[name] = injection
