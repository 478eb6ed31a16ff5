"""The server process."""

import contextlib
import socket
from collections.abc import Callable
from typing import Any

import uvicorn

from alike.extract.errors import BadInput
from alike.serve.app import create_app
from alike.serve.service import NeighbourService

LOOPBACK = ("127.0.0.1", "localhost", "::1")


def serve(
    service: NeighbourService,
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], Any] = print,
) -> None:
    """Answer until interrupted.

    Args:
        service: answers the questions.
        host: address to listen at; one that others reach shows them the stored images.
        port: 0 for any free one.
        ready: told the page's address once it can be asked for.

    Raises:
        BadInput: the address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    with contextlib.closing(listener):
        try:
            listener.bind((host, port))
        except OSError as error:
            reason = error.strerror or error
            raise BadInput(f"{host}:{port}: {reason}; choose another by --host, --port") from error
        listener.listen(128)
        hosts = (*LOOPBACK, "[::1]") if host in LOOPBACK else ("*",)
        app = create_app(service, hosts)
        shown = f"[{host}]" if ":" in host else host
        ready(f"http://{shown}:{listener.getsockname()[1]}/")
        config = uvicorn.Config(app, log_level="warning", lifespan="off")
        # Ctrl-C is how one ends it: uvicorn closes, then raises it again
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run([listener])
