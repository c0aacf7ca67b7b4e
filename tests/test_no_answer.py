"""No answer from STS: the message blames the endpoint, the Region, the network, or the CPU, by the evidence."""

from __future__ import annotations

import socket
from unittest.mock import patch

import boto3
import pytest
from botocore.exceptions import (
    ConnectionClosedError,
    ConnectTimeoutError,
    EndpointConnectionError,
    ProxyConnectionError,
    ReadTimeoutError,
    SSLError,
)
from botocore.parsers import ResponseParserError
from conftest import ROLE

from xacct_lambda import _errors, _no_answer, assumed_session
from xacct_lambda._request import assume_role_request
from xacct_lambda.exceptions import STSUnavailableError

REQUEST = assume_role_request(ROLE)
IRELAND = "https://sts.eu-west-1.amazonaws.com/"
VPC = "A function or container in a VPC needs a route to STS"
NETWORK = "Check the network of this machine"
ON_LAMBDA = {"AWS_LAMBDA_FUNCTION_NAME": "orders-fn", "AWS_REGION": "eu-west-1"}


def message(error, environment=None, region="eu-west-1"):
    with patch.dict("os.environ", environment or {}):
        source = boto3.Session(region_name=region)
        raised, cause = _errors.translate_error(error, REQUEST, source)
    assert isinstance(raised, STSUnavailableError)
    assert type(cause) is type(error)
    assert raised.code == type(error).__name__
    return str(raised)


@pytest.mark.parametrize(
    "error",
    [
        ConnectTimeoutError(endpoint_url=IRELAND),
        EndpointConnectionError(endpoint_url=IRELAND),
        ConnectionClosedError(endpoint_url=IRELAND),
    ],
    ids=["timeout", "no route", "closed"],
)
def test_network(error):
    """Outside AWS the network is to be checked. On Lambda, ECS, and EKS, a VPC may lack a route."""
    assert NETWORK in message(error)
    assert "VPC" not in message(error)
    for name in ("AWS_LAMBDA_FUNCTION_NAME", "ECS_CONTAINER_METADATA_URI_V4", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        assert f"{VPC}: a NAT gateway, or an interface endpoint for STS (com.amazonaws.eu-west-1.sts)" in message(
            error, {name: "x"}
        )


@pytest.mark.parametrize(
    "error",
    [ConnectTimeoutError(endpoint_url=IRELAND), ReadTimeoutError(endpoint_url=IRELAND)],
    ids=["connect", "read"],
)
def test_slow_line(error):
    """Outside AWS, a timeout may mean a slow line, and the message names the option that allows more time."""
    option = "sts_config=Config(connect_timeout=5, read_timeout=10)"
    assert option in message(error)
    assert option in message(error, {"AWS_ENDPOINT_URL": IRELAND})
    assert option not in message(error, ON_LAMBDA)
    assert option not in message(ConnectionClosedError(endpoint_url=IRELAND))
    assert option in str(_errors.no_answer_in_time(REQUEST, boto3.Session(region_name="eu-west-1"), 2.5))


@pytest.mark.parametrize(
    ("host", "service"),
    [
        ("sts.eu-west-1.amazonaws.com", " (com.amazonaws.eu-west-1.sts)"),
        ("sts-fips.us-east-1.amazonaws.com", " (com.amazonaws.us-east-1.sts-fips)"),
        ("sts.us-gov-west-1.amazonaws.com", " (com.amazonaws.us-gov-west-1.sts)"),
        ("sts.cn-north-1.amazonaws.com.cn", " (cn.com.amazonaws.cn-north-1.sts)"),
    ],
)
def test_service_of_the_vpc_endpoint(host, service):
    """The message names the endpoint service for the Region, for FIPS, and for China."""
    error = ConnectTimeoutError(endpoint_url=f"https://{host}/")
    assert f"an interface endpoint for STS{service} with private DNS" in message(error, ON_LAMBDA)


@pytest.mark.parametrize(
    ("region", "environment", "service"),
    [
        ("eu-west-1", {}, " (com.amazonaws.eu-west-1.sts)"),
        ("us-east-1", {"AWS_USE_FIPS_ENDPOINT": "true"}, " (com.amazonaws.us-east-1.sts-fips)"),
        ("cn-north-1", {}, " (cn.com.amazonaws.cn-north-1.sts)"),
        ("us-iso-east-1", {}, ""),
        ("us-isob-east-1", {}, ""),
        (None, {"AWS_DEFAULT_REGION": ""}, ""),
    ],
)
def test_service_of_the_vpc_endpoint_without_an_address(region, environment, service):
    """After a timeout the Region decides, and the message names no service that it doesn't know."""
    with patch.dict("os.environ", {**ON_LAMBDA, **environment}):
        source = boto3.Session(region_name=region)
        error = _errors.no_answer_in_time(REQUEST, source, 2.5)
    assert f"an interface endpoint for STS{service} with private DNS" in str(error)
    assert error.code == "NoAnswerInTime"


@pytest.mark.parametrize("variable", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_STS"])
def test_endpoint_that_is_set(variable):
    """If the endpoint is set, the message names the setting, on Lambda too, whether or not the address is known."""
    environment = {variable: "http://localhost:4566", **ON_LAMBDA}
    explanation = message(EndpointConnectionError(endpoint_url="http://localhost:4566/"), environment)
    assert f"The address of STS is set by {variable}: check that it is right" in explanation
    assert "VPC" not in explanation
    with patch.dict("os.environ", environment):
        assert f"is set by {variable}" in str(_errors.no_answer_in_time(REQUEST, None, 2.5))


def test_endpoint_of_the_config_file():
    """An endpoint that no variable sets is one of the config file."""
    explanation = message(EndpointConnectionError(endpoint_url="http://localhost:4566/"))
    assert "The address of STS is set by endpoint_url" in explanation


@pytest.mark.parametrize(
    ("region", "correction"),
    [("eu-wst-1", ". Did you mean 'eu-west-1'?"), ("us-east", ". Did you mean 'us-east-"), ("moon", ". Check")],
)
def test_region_that_does_not_exist(region, correction):
    """A Region that boto3 doesn't have is named, with the nearest one that exists."""
    error = EndpointConnectionError(endpoint_url=f"https://sts.{region}.amazonaws.com/")
    explanation = message(error, {"AWS_LAMBDA_FUNCTION_NAME": "orders-fn"}, region)
    assert f"boto3 {boto3.__version__} has no Region {region!r}{correction}" in explanation
    assert "VPC" not in explanation
    with patch.dict("os.environ", {}):
        assert f"has no Region {region!r}" in str(
            _errors.no_answer_in_time(REQUEST, boto3.Session(region_name=region), 2.5)
        )


def test_region_of_lambda_is_not_doubted():
    """The Region of the Lambda function exists, even if boto3 is too old to have it."""
    environment = {"AWS_LAMBDA_FUNCTION_NAME": "orders-fn", "AWS_REGION": "eu-new-1"}
    error = EndpointConnectionError(endpoint_url="https://sts.eu-new-1.amazonaws.com/")
    assert VPC in message(error, environment, "eu-new-1")


def test_regions_cannot_be_read():
    """A profile that doesn't exist keeps boto3 from listing Regions, and the message doubts none then."""
    with patch.dict("os.environ", {"AWS_PROFILE": "no-such-profile"}):
        explanation = _no_answer.explain("ConnectTimeoutError", "no", ROLE, region_name="eu-wst-1")
    assert NETWORK in explanation


def test_no_region():
    """Without a Region, boto3 calls the global endpoint, and the message asks for a Region."""
    explanation = message(
        EndpointConnectionError(endpoint_url="https://sts.amazonaws.com/"), {"AWS_DEFAULT_REGION": ""}, None
    )
    assert "No Region is set, so this is the global endpoint" in explanation


@pytest.mark.parametrize(
    "error",
    [
        SSLError(endpoint_url=IRELAND, error="self-signed certificate"),
        ProxyConnectionError(proxy_url="http://proxy:3128"),
    ],
    ids=["TLS", "proxy"],
)
def test_something_in_between(error):
    """An error of TLS or of a proxy blames what is in between."""
    explanation = message(error, ON_LAMBDA)
    assert "Check the proxy that HTTPS_PROXY names, and the certificates that AWS_CA_BUNDLE names" in explanation
    assert "VPC" not in explanation


@pytest.mark.parametrize("environment", [{}, {"AWS_ENDPOINT_URL": "http://localhost:4566"}], ids=["AWS", "local"])
def test_answer_that_is_not_one_of_sts(environment):
    """An answer that can't be parsed isn't quoted, and the message names what may answer instead of STS."""
    explanation = message(ResponseParserError("<html>private</html>"), environment)
    assert explanation.startswith(f"The answer for {ROLE} is not one of STS")
    assert "AWS_ENDPOINT_URL" in explanation
    assert "private" not in explanation


def test_no_cpu_time():
    """If the process had no CPU time left while it waited, the message blames neither STS nor the VPC."""
    with patch.dict("os.environ", ON_LAMBDA):
        explanation = str(_errors.no_answer_in_time(REQUEST, None, 2.5, is_busy=True))
    assert "the process used all its CPU time meanwhile" in explanation
    assert "more memory" in explanation
    assert "VPC" not in explanation


@pytest.mark.parametrize(
    ("environment", "advice"),
    [
        ({"AWS_ENDPOINT_URL": "http://localhost:4566"}, "The address of STS is set by AWS_ENDPOINT_URL"),
        ({"AWS_DEFAULT_REGION": "us-east"}, "has no Region 'us-east'"),
        ({"AWS_DEFAULT_REGION": "cn-north-1", **ON_LAMBDA}, "cn.com.amazonaws.cn-north-1.sts"),
        (
            {"AWS_USE_FIPS_ENDPOINT": "true", "AWS_DEFAULT_REGION": "us-east-1", **ON_LAMBDA},
            "com.amazonaws.us-east-1.sts-fips",
        ),
    ],
    ids=["local", "unknown Region", "China", "FIPS"],
)
def test_name_of_sts_that_is_not_found(environment, advice):
    """The evidence reaches the message from boto3's own error, for each way to configure the endpoint."""
    not_found = patch.object(socket, "getaddrinfo", side_effect=socket.gaierror(-2, "Name or service not known"))
    with patch.dict("os.environ", environment), not_found, pytest.raises(STSUnavailableError) as caught:
        assumed_session(ROLE).get_credentials().get_frozen_credentials()
    assert advice in str(caught.value)
