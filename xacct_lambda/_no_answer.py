"""From a connection error to the thing to check: the endpoint, the Region, the network, or the CPU."""

from __future__ import annotations

import difflib
import os
import re
from typing import Final

import boto3
import botocore.session
from botocore.exceptions import BotoCoreError

_STS_HOST: Final = re.compile(
    r"//sts(?P<fips>-fips)?\.(?P<region>[a-z0-9-]+)\.(?P<suffix>amazonaws\.com(?:\.cn)?)(?:[:/]|$)"
)
_ENDPOINT_VARIABLES: Final = ("AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL")
_GLOBAL_ENDPOINT: Final = "//sts.amazonaws.com"
# Any of these is set on Lambda, ECS, EKS Pod Identity, or CodeBuild, whose network may be a VPC without a route.
_AWS_VARIABLES: Final = (
    "AWS_LAMBDA_FUNCTION_NAME",
    "AWS_EXECUTION_ENV",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "ECS_CONTAINER_METADATA_URI_V4",
)
_NOT_STS: Final = "ResponseParserError"
_TIMEOUTS: Final = frozenset({"ConnectTimeoutError", "NoAnswerInTime", "ReadTimeoutError"})
_INTERMEDIATE_ERRORS: Final = frozenset({"ProxyConnectionError", "SSLError"})


def explain(  # noqa: PLR0913 - the evidence
    code: str,
    text: str,
    role_arn: str,
    *,
    endpoint_url: str | None = None,
    region_name: str | None = None,
    is_busy: bool = False,
) -> str:
    """Return the message for a call of STS without an answer.

    Args:
        code: The name of botocore's exception, or a code of this library.
        text: The text of the exception, without secrets.
        role_arn: The role to assume.
        endpoint_url: The address that was called, if it is known.
        region_name: The Region of the source session.
        is_busy: Whether the process had no CPU time left while it waited.
    """
    problem = f"No answer from STS for {role_arn}: {text.rstrip('.')}"
    if code == _NOT_STS:
        return (
            f"The answer for {role_arn} is not one of STS: {text}. Check what answers at "
            f"{endpoint_url or 'its address'} ({_endpoint_variable() or 'endpoint_url, AWS_ENDPOINT_URL'}, or a proxy)."
        )
    if code in _INTERMEDIATE_ERRORS:
        return f"{problem}. Check the proxy that HTTPS_PROXY names, and the certificates that AWS_CA_BUNDLE names."
    if is_busy:
        return (
            f"{problem}, but the process used all its CPU time meanwhile, so the answer may be there. Give the "
            "function more memory, which adds CPU, or assume fewer roles at once."
        )
    advice = _advice(endpoint_url, region_name)
    # On AWS, STS answers within milliseconds, so longer timeouts only delay the error.
    if code in _TIMEOUTS and not _is_on_aws():
        advice += " On a slow line, allow more time: sts_config=Config(connect_timeout=5, read_timeout=10)."
    return f"{problem}. {advice}"


def _advice(endpoint_url: str | None, region_name: str | None) -> str:
    host = _STS_HOST.search(endpoint_url or "")
    is_global = _GLOBAL_ENDPOINT in (endpoint_url or "")
    variable = _endpoint_variable()
    if (endpoint_url is None and variable) or (endpoint_url and not host and not is_global):
        return (
            f"The address of STS is set by {variable or 'endpoint_url'}: check that it is right, and that something "
            "listens there."
        )
    if is_global and not region_name:
        return (
            "No Region is set, so this is the global endpoint, which VPC endpoints don't serve. Set "
            "AWS_DEFAULT_REGION, or the Region of source_session."
        )
    region = host["region"] if host else region_name
    if region and (correction := _correct_region(region)):
        return f"{correction} Check AWS_DEFAULT_REGION and the Region of source_session."
    if not _is_on_aws():
        return "Check the network of this machine: the connection, a VPN, and the proxy (HTTPS_PROXY, NO_PROXY)."
    return (
        "A function or container in a VPC needs a route to STS: a NAT gateway, or an interface endpoint for STS"
        f"{_endpoint_service(host, region)} with private DNS. The security group of the function must allow outbound "
        "traffic on port 443, and that of the endpoint inbound traffic."
    )


def _is_on_aws() -> bool:
    return any(map(os.environ.get, _AWS_VARIABLES))


def _endpoint_variable() -> str | None:
    return next(filter(os.environ.get, _ENDPOINT_VARIABLES), None)


def _endpoint_service(host: re.Match[str] | None, region: str | None) -> str:
    """Return the name of the VPC endpoint service for STS, if it is known."""
    # https://docs.aws.amazon.com/vpc/latest/privatelink/aws-services-privatelink-support.html
    if not region or not re.match("(?:af|ap|ca|cn|eu|il|me|mx|sa|us)-(?!iso)", region):
        return ""
    is_fips = host["fips"] if host else os.environ.get("AWS_USE_FIPS_ENDPOINT", "").lower() == "true"
    prefix = "cn." if region.startswith("cn-") else ""
    return f" ({prefix}com.amazonaws.{region}.sts{'-fips' if is_fips else ''})"


def _correct_region(region: str) -> str:
    """Return the problem with the name of a Region, or an empty string."""
    # Lambda's own Region exists, even if boto3 is too old to know it. Reading the list takes long on a small function.
    regions = [] if region == os.environ.get("AWS_REGION") else _known_regions()
    if not regions or region in regions:
        return ""
    matches = difflib.get_close_matches(region, regions, n=1)
    suggestion = f" Did you mean {matches[0]!r}?" if matches else ""
    return f"boto3 {boto3.__version__} has no Region {region!r}.{suggestion}"


def _known_regions() -> list[str]:
    session = botocore.session.Session()
    try:
        partitions = session.get_available_partitions()
        return [region for name in partitions for region in session.get_available_regions("sts", name)]
    except BotoCoreError:
        # The configuration names a profile that doesn't exist, for example.
        return []
