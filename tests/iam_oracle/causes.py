"""Why the test AWS and the simulator may disagree. docs/testing.md says for each cause who is right."""

from __future__ import annotations

import json
import re
from typing import Final

from .calls import Answer, Call

DANGEROUS: Final = "granted here, refused by the simulator"
SIMULATOR_ONLY: Final = "lambda:SourceFunctionArn, which the simulator doesn't have"
SAFE: Final = "refused here, granted by the simulator"

# Ordered: a refusal may have several reasons.
_REASONS: Final = {
    "a principal that doesn't exist": "doesn't exist in this AWS",
    "a wildcard in a principal": "has a wildcard, which a principal can't have",
    "a bare ARN as Principal": r'Principal must be "\*" or an object',
    "NotPrincipal with Allow": "NotPrincipal needs Deny",
    "an action outside STS in a trust policy": "may have actions of STS only",
    "NotPrincipal": "NotPrincipal isn't evaluated",
    "a variable": r"a variable can be used only|\(the variable .*isn't evaluated|\(variables need Version",
    "case, a short ARN, or a wildcard over a colon": "upper and lower case, a short ARN",
    "a key with several values without ForAllValues or ForAnyValue": "a key with several values needs",
    "a tag that may or may not be one of the request": (
        r"(aws:RequestTag/\w+|aws:TagKeys|sts:TransitiveTagKeys) isn't evaluated"
    ),
    "a key that isn't evaluated": r"(aws:SourceIp|aws:userid|aws:PrincipalOrgPaths) isn't evaluated",
    "an operator that doesn't fit its key or value": r"its condition \S+ on [^;]* isn't evaluated",
}

CAUSES: Final = (*_REASONS, SIMULATOR_ONLY)


def cause(call: Call, ours: Answer) -> str:
    """Return the cause of a disagreement, ``unexplained`` if none is known."""
    if ours.is_granted and "lambda:SourceFunctionArn" in json.dumps(call.identity):
        return SIMULATOR_ONLY
    return next((name for name, pattern in _REASONS.items() if re.search(pattern, ours.reason)), "unexplained")
