"""``python -m tests.benchmarks.dashboard``: draws the dashboard of docs/monitoring.md.

It simulates a day of four environments that use three roles. STS is unreachable for 8 minutes, and later one of the
roles doesn't exist for half an hour. The metrics are those that the hook of the page prints.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import re
import sys
import threading
from collections import defaultdict
from collections.abc import Iterable
from datetime import timedelta
from statistics import quantiles
from typing import Any

from .page import DOCS, new_chart, save

COMMAND = "python -m tests.benchmarks.dashboard"
ROLES = {
    "orders": "arn:aws:iam::222222222222:role/orders",
    "search": "arn:aws:iam::333333333333:role/search",
    "reports": "arn:aws:iam::444444444444:role/reports",
}
ENVIRONMENTS = 4
MINUTES = 24 * 60
STEP = 2
REQUEST_EVERY = 10
OUTAGE = range(9 * 60, 9 * 60 + 8)
DELETED = range(16 * 60, 16 * 60 + 30)
PERIOD = 15
"""Minutes of one point of the charts."""

Documents = list[tuple[int, dict[str, Any]]]


def _hook() -> dict[str, Any]:
    """Run the block of the page that sets the hook."""
    page = (DOCS / "monitoring.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^`cross_account_metrics\.py`\n\n```python\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    namespace: dict[str, Any] = {}
    exec(code, namespace)  # noqa: S102 - the point
    return namespace


def _settle() -> None:
    """Wait for refreshes in the background, which take no simulated time."""
    for thread in threading.enumerate():
        if thread.name.startswith("xacct_lambda"):
            thread.join()


def simulate(minutes: int = MINUTES) -> Documents:
    """Return what the hook of the page prints in a day, with the minute of each line."""
    from xacct_lambda import assumed_session
    from xacct_lambda.exceptions import XacctLambdaError
    from xacct_lambda.policy import permissions_policy
    from xacct_lambda.testing import CrossAccountAWS

    documents: Documents = []
    with CrossAccountAWS() as aws, contextlib.ExitStack() as outage:
        for role_arn in ROLES.values():
            aws.role(role_arn)
        aws.grant(permissions_policy(list(ROLES.values())))
        _hook()
        sessions = [
            assumed_session(role_arn, role_session_name=f"environment-{number}")
            for role_arn in ROLES.values()
            for number in range(ENVIRONMENTS)
        ]
        clients = [session.client("sts") for session in sessions]
        for minute in range(0, minutes, STEP):
            if minute == OUTAGE.start:
                outage.enter_context(aws.sts.unavailable())
            if minute == OUTAGE.stop:
                outage.close()
            if minute == DELETED.start:
                aws.sts.revoke(ROLES["reports"])
                aws.account("444444444444").client("iam").delete_role(RoleName="reports")
            if minute == DELETED.stop:
                aws.role(ROLES["reports"])
            with contextlib.redirect_stdout(io.StringIO()) as printed:
                for number, (session, client) in enumerate(zip(sessions, clients, strict=True)):
                    with contextlib.suppress(XacctLambdaError, client.exceptions.ClientError):
                        session.get_credentials().get_frozen_credentials()
                        if minute % REQUEST_EVERY == 2 * number % REQUEST_EVERY:
                            client.get_caller_identity()
                _settle()
            documents += [(minute, json.loads(line)) for line in printed.getvalue().splitlines()]
            aws.sts.advance(timedelta(minutes=STEP))
    return documents


def _points(documents: Documents, metric: str, role_arn: str | None = None) -> dict[float, list[float]]:
    points: dict[float, list[float]] = defaultdict(list)
    for minute, document in documents:
        if metric in document and role_arn in {None, document["RoleArn"]}:
            points[minute // PERIOD * PERIOD / 60].append(document[metric])
    return points


def _line(axes: Any, label: str, points: dict[float, list[float]], figure: Any = sum, **style: Any) -> None:
    hours = [start / 60 for start in range(0, MINUTES, PERIOD)]
    axes.plot(hours, [figure(points[hour]) if points[hour] else 0 for hour in hours], label=label, **style)


def draw(documents: Documents) -> Any:
    """Draw the four charts of the template's dashboard."""
    chart = new_chart(10, 6)
    calls, roles, lost, times = chart.subplots(2, 2).flat
    _line(calls, "calls", _points(documents, "AssumeRole"))
    _line(calls, "failures", _points(documents, "AssumeRoleFailure"), color="tab:red")
    for name, role_arn in ROLES.items():
        _line(roles, name, _points(documents, "AssumeRoleFailure", role_arn))
    for label, metric in {
        "refusals": "Refusal",
        "rejections by a service": "Rejection",
        "evictions": "Eviction",
    }.items():
        _line(lost, label, _points(documents, metric))
    _line(times, "AssumeRole, median", _points(documents, "AssumeRoleDuration"), _percentile(50))
    _line(times, "AssumeRole, p99", _points(documents, "AssumeRoleDuration"), _percentile(99))
    _line(times, "a request waited, p99", _points(documents, "RequestWait"), _percentile(99))
    for axes, title in {
        calls: "AssumeRole calls",
        roles: "Failures by role",
        lost: "Failed requests and lost credentials",
        times: "Time, ms",
    }.items():
        axes.set(title=title, xlim=(0, 24), ylim=(0, None), xticks=range(0, 25, 4), xlabel="hour")
        axes.legend()
    return chart


def _percentile(percent: int) -> Any:
    def figure(values: Iterable[float]) -> float:
        listed = list(values)
        return listed[0] if len(listed) == 1 else quantiles(listed, n=100, method="inclusive")[percent - 1]

    return figure


def main() -> None:
    """Run the command."""
    # The WARNING records of the outage, which the charts show anyway.
    logging.disable(logging.WARNING)
    documents = simulate()
    totals: dict[str, float] = defaultdict(float)
    for _, document in documents:
        for metric in ("AssumeRole", "AssumeRoleFailure", "Refusal", "Rejection", "Eviction"):
            totals[metric] += document.get(metric, 0)
    print(
        f"{len(documents)} lines;", ", ".join(f"{name} {total:.0f}" for name, total in totals.items()), file=sys.stderr
    )
    save(draw(documents), DOCS / "monitoring.svg")


if __name__ == "__main__":
    main()
