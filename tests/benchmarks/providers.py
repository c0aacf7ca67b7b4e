"""``python -m tests.benchmarks.providers [NUMBER]``: a request's cost after many Powertools providers on one session.

Prints the CPU time of a request with the last of NUMBER providers (10,000 by default), relative to the first. A
provider registers a hook on its client. If two providers had the same client, the cost would grow with each.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

os.environ |= {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "eu-west-1"}

from aws_lambda_powertools.utilities.parameters import SSMProvider
from moto import mock_aws

from xacct_lambda import assumed_session

_REQUESTS = 200


def cpu_seconds(provider: Any) -> float:
    """Return the CPU time of the fastest of many requests."""
    times = []
    for _ in range(_REQUESTS):
        start = time.process_time()
        provider.get("/orders/url", force_fetch=True)
        times.append(time.process_time() - start)
    return min(times)


def cost_ratio(number: int) -> float:
    """Return the cost of a request after a number of providers, relative to the first."""
    with mock_aws():
        session = assumed_session("arn:aws:iam::222222222222:role/Reader")
        session.client("ssm").put_parameter(Name="/orders/url", Value="https://orders.example", Type="String")
        providers = (SSMProvider(boto3_session=session) for _ in range(number))
        last = first = next(providers)
        first.get("/orders/url")
        before = cpu_seconds(first)
        for last in providers:  # noqa: B007 - the last one is used
            pass
        return cpu_seconds(last) / before


if __name__ == "__main__":
    print(f"{cost_ratio(int(sys.argv[1]) if sys.argv[1:] else 10_000):.2f}")
