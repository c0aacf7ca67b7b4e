"""Test handlers that cross accounts, against an AWS that refuses what AWS refuses.

>>> from xacct_lambda.policy import permissions_policy
>>> with CrossAccountAWS() as aws:
...     reader = aws.role("arn:aws:iam::222222222222:role/Reader")
...     aws.grant(permissions_policy(reader))
...     assumed_session(reader).client("sts").get_caller_identity()["Account"]
'222222222222'

With pytest, the plugin that comes with the library keeps tests apart and offers the fixtures ``cross_account`` and
``lambda_context``. ``CrossAccountAWS`` needs moto: ``pip install 'xacct-lambda[testing]'``.
"""

from xacct_lambda.testing._cross_account import AssumeRoleCall, CrossAccountAWS
from xacct_lambda.testing._faults import STSFaults
from xacct_lambda.testing._isolation import isolated_cache
from xacct_lambda.testing._lambda_context import LambdaContext

__all__ = ["AssumeRoleCall", "CrossAccountAWS", "LambdaContext", "STSFaults", "isolated_cache"]
