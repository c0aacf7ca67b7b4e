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


if not TYPE_CHECKING:  # to a type checker it would say that whatever is asked for exists

    def __getattr__(name: str) -> Any:
        """Import a public name from its home at its first use: the pytest plugin lives here too, and needs no boto3."""
        if name == "exceptions":
            return import_module("xacct_lambda.exceptions")
        for home, names in _EXPORTS.items():
            if name in names:
                found = globals()[name] = getattr(import_module(f"xacct_lambda.{home}"), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
