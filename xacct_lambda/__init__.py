"""Work in another AWS account from a Lambda function.

>>> from xacct_lambda import assume_role
>>> @assume_role("arn:aws:iam::222222222222:role/role-on-source-account", clients=["s3"])
... def lambda_handler(event, context, *, s3):
...     return [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xacct_lambda import exceptions
    from xacct_lambda._decorator import assume_role
    from xacct_lambda._fan_out import assumed_sessions, for_each_account
    from xacct_lambda._sessions import CacheInfo, assumed_session, cache_clear, cache_info, cache_resize

__version__ = "0.1.0"

__all__ = [
    "CacheInfo",
    "assume_role",
    "assumed_session",
    "assumed_sessions",
    "cache_clear",
    "cache_info",
    "cache_resize",
    "exceptions",
    "for_each_account",
]

_EXPORTS = {
    "_fan_out": ("assumed_sessions", "for_each_account"),
    "_decorator": ("assume_role",),
    "_sessions": ("CacheInfo", "assumed_session", "cache_clear", "cache_info", "cache_resize"),
}


if not TYPE_CHECKING:  # a type checker would conclude that the module has every attribute

    def __getattr__(name: str) -> Any:
        """Import a public name from its module at its first use. The pytest plugin, in this package, needs no boto3."""
        if name == "exceptions":
            return import_module("xacct_lambda.exceptions")
        for module, names in _EXPORTS.items():
            if name in names:
                value = globals()[name] = getattr(import_module(f"xacct_lambda.{module}"), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
