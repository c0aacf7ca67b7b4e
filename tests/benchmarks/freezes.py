"""How a refresh gets on in an environment that is frozen after each event: Lambda's runtime client, under SIGSTOP.

    python -m tests.benchmarks.freezes

The function runs under AWS's own runtime client, on a whole core and on a fourteenth, with STS over TLS and a trust
store of real size. It is stopped when it asks for the next event, and goes on with that event. Between two events the
wall clock moves by a second or by a minute.
"""

from __future__ import annotations

import os
import signal
import ssl
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import certifi
from runtime.managed_runtime import Image, make_image, running
from scripted_sts import ScriptedSTS, scripted_sts, slowly
from tls_server import CA

from .processor import held_processor

FUNCTION = """
    import logging, time
    from xacct_lambda import _sessions, assume_role, cache_info

    ahead = 0.0
    cache = _sessions.default_cache.credentials
    cache.clock = lambda: time.time() + ahead
    cache._jitter = lambda low, high: low

    @assume_role("arn:aws:iam::222222222222:role/Reader", session="reader")
    def lambda_handler(event, context, *, reader):
        global ahead
        ahead = event["ahead"]
        misses = cache_info().misses
        started = time.perf_counter()
        access_key = reader.get_credentials().get_frozen_credentials().access_key
        waited = time.perf_counter() - started
        time.sleep(event["work"])
        return {"access_key": access_key, "waits": cache_info().misses - misses, "milliseconds": waited * 1000}
"""
MAX_EVENTS = 40


@contextmanager
def tls_sts(folder: Path) -> Iterator[tuple[ScriptedSTS, str]]:
    """Serve an STS over TLS; yield it and the bundle to trust: certifi's, and the server's CA."""
    ca = CA(folder)
    certificate = ca.issue("sts")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.certificate, certificate.key)
    bundle = folder / "bundle.pem"
    bundle.write_bytes(Path(certifi.where()).read_bytes() + ca.pem)
    with scripted_sts(context) as sts:
        yield sts, str(bundle)


def run(image: Image, folder: Path, *, gap: float, delay: float, work: float, hold: Any) -> dict[str, Any]:
    """Return what the refresh of one set of credentials took."""
    task_root = folder / "task"
    task_root.mkdir()
    (task_root / "lambda_function.py").write_text(textwrap.dedent(FUNCTION))
    with tls_sts(folder) as (sts, bundle):
        sts.always = slowly(delay)
        environment = {
            "AWS_ACCESS_KEY_ID": "AKIAFUNCTION",
            "AWS_SECRET_ACCESS_KEY": "functions-secret-key",
            "AWS_CA_BUNDLE": bundle,
            "AWS_ENDPOINT_URL_STS": sts.url,
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "128" if hold else "1769",
        }
        with running(image, task_root, environment, handler="lambda_function.lambda_handler") as function:
            frozen = threading.Event()

            def freeze() -> None:
                os.kill(function.pid, signal.SIGSTOP)
                frozen.set()

            def invoke(**event: float) -> Any:
                """Thaw the function with an event; return its answer."""
                frozen.wait()
                frozen.clear()
                invocation = function.api.send(event)
                os.kill(function.pid, signal.SIGCONT)
                return invocation.answer().content

            # Freeze the function when it asks for the next event.
            function.api.on_next = freeze
            first = invoke(ahead=0, work=0)["access_key"]
            if hold:
                hold(function.pid)
            ahead = 3600 - 900 + 1.0
            sts.ahead_seconds = ahead
            requests, waits, longest = sts.count(), 0, 0.0
            events = 0
            while events < MAX_EVENTS:
                events += 1
                answer = invoke(ahead=ahead, work=work)
                waits += answer["waits"]
                longest = max(longest, answer["milliseconds"])
                if answer["access_key"] != first:
                    break
                ahead += gap
                sts.ahead_seconds = ahead
            os.kill(function.pid, signal.SIGCONT)
            return {
                "events": events,
                "waits": waits,
                "longest, ms": round(longest),
                "requests": sts.count() - requests,
                "warnings": function.log().count("WARNING"),
            }


def main() -> None:
    """Print the table."""
    with TemporaryDirectory() as folder, held_processor() as (means, hold):
        (Path(folder) / "image").mkdir()
        image = make_image(Path(folder) / "image", None)
        print(f"A fourteenth of a core by {means}.\n")
        print("| core | gap | STS | handler | events | waits | longest, ms | requests | warnings |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
        for share, gap, delay, work in product((1, 14), (1.0, 60.0), (0.02, 0.2), (0.001, 0.05)):
            with TemporaryDirectory() as run_folder:
                counts = run(image, Path(run_folder), gap=gap, delay=delay, work=work, hold=hold if share > 1 else None)
            settings = f"1/{share}" if share > 1 else "1", f"{gap:g} s", f"{delay * 1000:g} ms", f"{work * 1000:g} ms"
            print("|", " | ".join(map(str, (*settings, *counts.values()))), "|", flush=True)


if __name__ == "__main__":
    main()
