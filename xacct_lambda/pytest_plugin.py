"""The pytest plugin: isolation of tests, and the fixtures ``cross_account`` and ``lambda_context``.

pytest loads it in every environment that has the library, so it imports only modules that pytest has imported. The
package imports boto3 when one of its names is first used.
"""

from __future__ import annotations

import sys
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from xacct_lambda.testing import CrossAccountAWS, LambdaContext


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker."""
    config.addinivalue_line(
        "markers", "cross_account(**arguments): arguments of xacct_lambda.testing.CrossAccountAWS for the fixture"
    )


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol() -> Generator[None, Any, Any]:
    """Run a test, its fixtures included, with an empty cache, if the library is in use at all."""
    if "xacct_lambda._sessions" not in sys.modules:
        hooks = _hooks()
        try:
            return (yield)
        finally:
            _restore_hooks(hooks)
    from xacct_lambda.testing import isolated_cache  # noqa: PLC0415 - costs what the library costs

    with isolated_cache():
        return (yield)


def _restore_hooks(hooks: Any) -> None:
    # The test may have imported the library, and set hooks.
    if _hooks() != hooks:
        sys.modules["xacct_lambda.instrumentation"].set_hooks(hooks)


def _hooks() -> tuple[Any, ...]:
    instrumentation = sys.modules.get("xacct_lambda.instrumentation")
    return () if instrumentation is None else instrumentation.get_hooks()


@pytest.fixture
def cross_account(request: pytest.FixtureRequest) -> Iterator[CrossAccountAWS]:
    """An AWS of several accounts, with the function in one of them: ``xacct_lambda.testing.CrossAccountAWS``."""
    from xacct_lambda.testing import CrossAccountAWS  # noqa: PLC0415 - costs what the library costs

    # The nearest marker comes first. In the reversed order, its arguments replace the arguments of outer markers.
    markers = reversed(list(request.node.iter_markers("cross_account")))
    arguments = {name: value for marker in markers for name, value in marker.kwargs.items()}
    with CrossAccountAWS(**arguments) as aws:
        yield aws


@pytest.fixture
def lambda_context(request: pytest.FixtureRequest) -> LambdaContext:
    """A Lambda context. If the test also uses ``cross_account``, it is the context of that function."""
    from xacct_lambda.testing import LambdaContext  # noqa: PLC0415 - costs what the library costs

    if "cross_account" not in request.fixturenames:
        return LambdaContext()
    aws = request.getfixturevalue("cross_account")
    return LambdaContext(function_name=aws.function_name, account_id=aws.home_account, region_name=aws.region_name)
