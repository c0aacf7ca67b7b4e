"""Work in another AWS account from a Lambda function.

>>> from xacct_lambda import assume_role
>>> @assume_role("arn:aws:iam::222222222222:role/role-on-source-account", clients=["s3"])
... def lambda_handler(event, context, *, s3):
...     return [bucket["Name"] for bucket in s3.list_buckets()["Buckets"]]
"""

from xacct_lambda import exceptions
from xacct_lambda._accounts import assumed_sessions, for_each_account
from xacct_lambda._handler import assume_role
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
