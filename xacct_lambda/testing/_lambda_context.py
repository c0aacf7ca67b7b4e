"""The context object that Lambda passes to a handler, for tests."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

import boto3


@dataclass(kw_only=True)
class LambdaContext:
    """The ``context`` argument of a handler, with the attributes of Lambda's own. Set them as your test needs them.

    See https://docs.aws.amazon.com/lambda/latest/dg/python-context.html

    Example:
        >>> context = LambdaContext(function_name="orders", timeout_seconds=10)
        >>> context.invoked_function_arn
        'arn:aws:lambda:us-east-1:111111111111:function:orders'
        >>> context.get_remaining_time_in_millis() <= 10_000
        True
    """

    function_name: str = "my-function"
    """Name of the function."""
    function_version: str = "$LATEST"
    """Version of the function."""
    account_id: str = "111111111111"
    """The function's account, for :attr:`invoked_function_arn`. Lambda's own context doesn't have this attribute."""
    region_name: str = "us-east-1"
    """The function's Region, for :attr:`invoked_function_arn`."""
    memory_limit_in_mb: str = "128"
    """Memory of the function in MB, as a string like Lambda's."""
    timeout_seconds: float = 3.0
    """Seconds that the invocation has from now on. :meth:`get_remaining_time_in_millis` counts them down."""
    aws_request_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    """ID of the invocation, different for each context."""
    log_stream_name: str = "2026/01/01/[$LATEST]00000000000000000000000000000000"
    """Name of the log stream."""
    tenant_id: str | None = None
    """The tenant, in tenant isolation mode."""
    identity: Any = None
    """The Amazon Cognito identity of the mobile app that calls the function."""
    client_context: Any = None
    """The client context that the mobile app sends."""
    _started: float = field(default_factory=lambda: time.time(), init=False, repr=False)  # noqa: PLW0108 - freezegun

    @property
    def invoked_function_arn(self) -> str:
        """ARN of the function, in its account and Region."""
        partition = boto3.Session().get_partition_for_region(self.region_name)
        return f"arn:{partition}:lambda:{self.region_name}:{self.account_id}:function:{self.function_name}"

    @property
    def log_group_name(self) -> str:
        """Name of the function's log group."""
        return f"/aws/lambda/{self.function_name}"

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds that the invocation has left, at least 0."""
        return max(0, int((self._started + self.timeout_seconds - time.time()) * 1000))
