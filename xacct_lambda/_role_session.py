"""The botocore session of a role: the settings of the source session, with the role's credentials.

The reference is a profile with ``role_arn``. There boto3 uses one session for the call to STS and for everything else,
so a setting applies to both, whether it was made in code, in a profile, or in the environment.
"""

from __future__ import annotations

import copy
from typing import Any, Final

import botocore
import botocore.session
from boto3.session import Session
from botocore import handlers as botocore_handlers
from botocore.credentials import Credentials
from botocore.hooks import EventAliaser, HierarchicalEmitter

from xacct_lambda._event_hooks import copy_hooks
from xacct_lambda.exceptions import XacctLambdaError

_BEARER: Final = "bearer"
_BEARER_AUTH: Final = "smithy.api#httpBearerAuth"
_SIGV4: Final = "v4"
_SIGV4_AUTH: Final = "aws.auth#sigv4"

# A private function of botocore. It chooses "bearer" if the environment has AWS_BEARER_TOKEN_BEDROCK. Versions without
# the function ignore that variable.
_BOTOCORES_CHOICE: Final = "_set_auth_scheme_preference_signer"
_botocores_choice: Final[Any] = getattr(botocore_handlers, _BOTOCORES_CHOICE, lambda **_: None)


def effective_region(source: Session, region_name: str | None) -> str | None:
    """Return the Region of a role's session: ``region_name``, or the Region that the source's clients use now."""
    # A Region in the source's default client configuration is stronger than the source's own.
    config: Any = source._session.get_default_client_config()  # noqa: SLF001 - see RoleSession
    return region_name or getattr(config, "region_name", None) or source.region_name


class RoleSession(botocore.session.Session):
    """A botocore session with the hooks and settings of a source session, and the credentials of a role."""

    def __init__(self, source: Session, credentials: Any, region_name: str | None) -> None:
        # boto3 has no public name for the botocore session of a session. Its own documentation uses this one.
        self._source = source._session  # noqa: SLF001
        # Initializers (botocore.register_initializer) run for each new session. Here their hooks go to an emitter that
        # is dropped: the source's hooks contain them already, and each hook has to run once per request.
        super().__init__(event_hooks=HierarchicalEmitter(), include_builtin_handlers=False)
        hooks = copy_hooks(source)
        credentials.watch(hooks)
        choose_signer: Any = _choose_signer  # The annotation of register_first() leaves out what hooks return.
        hooks.register_first("choose-signer", choose_signer, unique_id="xacct-lambda-choose-signer")
        # As event_hooks, the emitter would be there for the initializers. test_role_session.py fails if botocore
        # renames the attribute.
        self._events = EventAliaser(hooks)
        provider = _StaticProvider(credentials)
        components = {
            "event_emitter": self._events,
            "credential_provider": provider,
            "token_provider": provider,
            # The loader has the parsed service models, which are most of what a session costs (12 MB and 100 ms), and
            # the source's own data path. boto3 has no public name for it.
            "data_loader": source._loader,  # noqa: SLF001
            "response_parser_factory": self._source.get_component("response_parser_factory"),
            # Its values come from the source session, whatever set them there: code, the profile, the environment.
            "config_store": copy.copy(self._source.get_component("config_store")),
        }
        for name, component in components.items():
            self.register_component(name, component)
        self.user_agent_name = self._source.user_agent_name
        self.user_agent_version = self._source.user_agent_version
        self.user_agent_extra = self._source.user_agent_extra
        self.set_default_client_config(self._source.get_default_client_config())
        if region_name is not None:
            self.set_config_variable("region", region_name)
        # If botocore renames a component, the clients would act as the caller, in the wrong account.
        if self.get_credentials() is not credentials or self.get_auth_token() is not None:
            raise XacctLambdaError(
                f"botocore {botocore.__version__} doesn't use the role's credentials: another library has set "
                "credentials on new botocore sessions (botocore.register_initializer), or this version needs a newer "
                "xacct-lambda"
            )

    def register(self, event_name: str, handler: Any, *args: Any, **kwargs: Any) -> None:
        """Register a hook, except boto3's own class hooks, which came with the source's.

        ``boto3.Session(botocore_session=…)`` registers them once more: some libraries create such a session of the
        botocore session that they get. The next client would fail with "Cannot inject class attribute".
        """
        if not (event_name.startswith("creating-") and _is_boto3s(handler)):
            super().register(event_name, handler, *args, **kwargs)

    def set_config_variable(self, logical_name: str, value: Any) -> None:
        """Set a variable for this session only."""
        super().set_config_variable(logical_name, value)
        self.get_component("config_store").set_config_variable(logical_name, value)

    @property
    def full_config(self) -> dict[str, Any]:
        """The configuration files, as the source session has read them."""
        config: dict[str, Any] = self._source.full_config
        return config


class _StaticProvider:
    """Replaces botocore's chains of credentials and of bearer tokens, which would find the caller's."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    def load_credentials(self) -> Credentials:
        return self._credentials

    def load_token(self, **_: Any) -> None:
        return None


def _is_boto3s(hook: Any) -> bool:
    """Tell whether boto3 registers this hook. boto3 wraps its hooks in a closure over the name of a function."""
    closure = [cell.cell_contents for cell in getattr(hook, "__closure__", None) or ()]
    return getattr(hook, "__module__", None) == "boto3.utils" and any(
        str(name).startswith("boto3.") for name in closure
    )


def _choose_signer(context: dict[str, Any], **event: Any) -> str | None:
    """Answer botocore's ``choose-signer`` event as botocore does for a caller without a bearer token."""
    if not {_BEARER_AUTH, _SIGV4_AUTH} <= set(context.get("auth_options") or ()):
        return None
    auth_type: str | None = _botocores_choice(context=context, **event)
    # The token in AWS_BEARER_TOKEN_<SERVICE> belongs to the caller. The role has only SigV4 credentials.
    return _SIGV4 if auth_type == _BEARER else auth_type
