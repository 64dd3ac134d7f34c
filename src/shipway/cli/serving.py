"""serve: the store as an OCI registry."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Annotated

from cyclopts import Parameter, validators

from shipway.cli.session import InSession
from shipway.oci import DEFAULT_REPOSITORY

Port = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65535))]


def serve(*, host: str = "127.0.0.1", port: Port = 5000, until_eof: bool = False, session: InSession) -> None:
    """Serve the store over HTTP as an OCI registry, until interrupted.

    Args:
        host: The address to listen on.
        port: The port; 0 takes a free one.
        until_eof: Stop when standard input ends, so that a program that starts a server never leaves one behind.
    """
    from shipway.server.app import serve as serve_http  # noqa: PLC0415  only this command needs the HTTP server
    from shipway.server.store_backend import StoreBackend  # noqa: PLC0415  same

    def ready(url: str) -> None:
        reference = f"oci://{url.partition('://')[2]}/{DEFAULT_REPOSITORY}"
        session.show({"url": url, "reference": reference}, [f"serving {cache.root} at {reference}"])
        sys.stdout.flush()
        if until_eof:  # not before: until now SIGTERM would be no normal end
            threading.Thread(target=_stop_at_eof, daemon=True).start()

    with session.open() as cache, cache.upkeep():
        serve_http(StoreBackend(cache), host, port, ready=ready)


def _stop_at_eof() -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
