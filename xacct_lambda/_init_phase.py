"""The work that the init phase of a Lambda function does before the first event.

In the init phase a small function has a whole core, and a fraction of one afterwards. So the clients and the trust
store should be ready when the phase ends, and if an event is already waiting, the credentials too.
"""

from __future__ import annotations

import gc
import logging
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from xacct_lambda import _sessions
from xacct_lambda._attempts import Latch
from xacct_lambda._redaction import loggable

_logger = logging.getLogger(__name__)

# Lambda sets it for the init phase, nothing else sets it: https://docs.aws.amazon.com/lambda/latest/dg/configuration-envvars.html
_INITIALIZATION_TYPE: Final = "AWS_LAMBDA_INITIALIZATION_TYPE"
_ON_DEMAND: Final = "on-demand"
"""The only type for which an event is already waiting. With all others, credentials may expire before the event."""
_SNAP_START: Final = "snap-start"
_MAX_WAIT: Final = 0.25
"""Seconds for which one init phase waits for AssumeRole, however many roles there are."""


_HEAD_START: Final = 0.01
"""Seconds in which the thread that calls STS sends its request."""


class InitPhase:
    """The init phase of this process, which all decorators share.

    Args:
        max_wait_seconds: Time to wait for AssumeRole, for all roles together.
        clock: Returns seconds. No freeze comes between two readings, because the phase doesn't end meanwhile.
    """

    def __init__(self, *, max_wait_seconds: float = _MAX_WAIT, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds_left = max_wait_seconds
        self._clock = clock
        # Python creates the decorators of a stack before it applies the first one.
        self._unapplied_decorators: weakref.WeakSet[Any] = weakref.WeakSet()
        self._calls: list[Latch] = []

    def expect(self, decorator: object) -> None:
        """Note that this decorator exists and will probably be applied to a handler."""
        self._unapplied_decorators.add(decorator)

    def run(
        self,
        decorator: object,
        *,
        prefetch: bool | None,
        session: Callable[[], _sessions.AssumedSession],
        create_clients: Callable[[], object],
    ) -> None:
        """Do what the first event of a decorated handler would do, as far as its initialization type suggests it.

        Args:
            decorator: The decorator that is applied.
            prefetch: Whether to call AssumeRole. None decides by the initialization type. False skips all work.
            session: Returns the session of the role.
            create_clients: Creates the clients to inject.
        """
        self._unapplied_decorators.discard(decorator)
        kind = os.environ.get(_INITIALIZATION_TYPE)
        if kind is not None and prefetch is not False:
            is_prefetched = kind == _ON_DEMAND or (prefetch is True and kind != _SNAP_START)
            with _garbage_collection_paused():
                self._prepare(session(), is_prefetched=is_prefetched)
                create_clients()
            _sessions.default_cache.connections.load_trust_stores()
        if not self._unapplied_decorators:
            self._wait()

    def _prepare(self, session: Any, *, is_prefetched: bool) -> None:
        credentials = session.get_credentials()
        try:
            if is_prefetched and _sts_has_tls():
                # botocore's session is the only one that knows all places where a bundle is configured.
                bundle = session._session.get_config_variable("ca_bundle")  # noqa: SLF001
                _sessions.default_cache.connections.start_loading(bundle)
            # Create the STS client in this thread. In the attempt's thread, beside the creation of the other clients,
            # botocore would parse the models that both need twice.
            credentials.prepare()
            if is_prefetched:
                call = credentials.prefetch()
                self._calls.append(call)
                # Until the thread has sent the request, both threads would block each other for 5 ms at a time. The
                # clients can wait, because STS takes longer than their creation.
                call.wait(_HEAD_START)
        except Exception as error:  # noqa: BLE001 - the first event makes the same call, and reports what is wrong
            _logger.warning(
                "Could not prepare the AssumeRole call in the init phase. The first event tries again. %s",
                loggable(error),
            )

    def _wait(self) -> None:
        """Wait for the calls to STS. Their answers cost a small function less CPU here, and a freeze can't cut them."""
        started = self._clock()
        for call in self._calls:
            call.wait(self._seconds_left - (self._clock() - started))
        self._calls.clear()
        self._seconds_left -= self._clock() - started


@contextmanager
def _garbage_collection_paused() -> Iterator[None]:
    """Pause garbage collection while botocore reads its models: 18 ms of CPU time for many objects that all stay."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _sts_has_tls() -> bool:
    endpoint = os.environ.get("AWS_ENDPOINT_URL_STS") or os.environ.get("AWS_ENDPOINT_URL") or "https:"
    return not endpoint.startswith("http:")
