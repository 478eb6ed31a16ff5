"""The server process."""

import asyncio
import contextlib
import logging
import secrets
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import quote

import h11
import psutil
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from alike.extract.errors import BadInput
from alike.serve.app import create_app
from alike.serve.budgets import Budgets
from alike.serve.guard import (
    LOOPBACK,
    Access,
    name_of_host,
    outermost,
    refuse,
    safe_headers,
)
from alike.serve.memory import bound_arenas
from alike.serve.service import NeighbourService
from alike.serve.stores import ServedStore

MAX_PORT = 2**16 - 1
ANYWHERE = ("0.0.0.0", "::", "")
HEADER_SECONDS = 10
"""Seconds until the headers of a request are there, from the first connection on."""
SEND_SECONDS = 30
"""Seconds in which a client has to take something of an answer that waits for it."""
SEND_BUFFER = 256 * 2**10
"""Bytes of an answer that the kernel holds for a client: not as many as it thinks fit."""
BACKLOG = 256
CLOSING = {"Connection": "close"}


class Protocol(H11Protocol):
    """HTTP that hangs up on a client that is stuck, and refuses in our own words.

    A client is stuck if its headers do not arrive, or if it does not read its answer. uvicorn
    bounds the time between two requests, and neither that before the first one nor that of an
    answer. What it refuses itself is plain text without the headers of other answers.
    """

    _due: asyncio.TimerHandle | None = None
    _reads: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, **named: Any) -> None:
        """See uvicorn; its own limit of connections becomes ours."""
        super().__init__(*args, **named)
        most, self.limit_concurrency = self.limit_concurrency, None
        self.app = outermost(
            self.app,
            lambda: most is not None and len(self.connections) > most,
        )

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no request.

        Args:
            msg: of uvicorn, which says no more than that.
        """
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = refuse(400, f"{msg} Send HTTP/1.1, its head within 64 KiB.", CLOSING)
            for event in (
                h11.Response(status_code=400, headers=[*answer.raw_headers, *safe_headers()]),
                h11.Data(data=bytes(answer.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See asyncio."""
        super().connection_made(transport)
        # Whatever the kernel does not take at once is waited for, and timed.
        transport.set_write_buffer_limits(high=0)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        super().data_received(data)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        super().connection_lost(exc)
        for timer in (self._due, self._reads):
            if timer is not None:
                timer.cancel()

    def pause_writing(self) -> None:
        """See asyncio."""
        super().pause_writing()
        self._watch_reading()

    def resume_writing(self) -> None:
        """See asyncio."""
        super().resume_writing()
        if self._reads is not None:
            self._reads.cancel()
            self._reads = None

    def _watch_reading(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._reads = self.loop.call_later(SEND_SECONDS, self._check_reading, unsent)

    def _check_reading(self, unsent: int) -> None:
        """Go on if the client has taken some of the bytes that were unsent; else hang up."""
        if self.transport.get_write_buffer_size() < unsent:
            self._watch_reading()
        else:
            # Closing would wait for the client.
            self.transport.abort()

    def _watch(self) -> None:
        incomplete = self.conn.their_state is h11.IDLE
        if incomplete and self._due is None:
            self._due = self.loop.call_later(HEADER_SECONDS, self._hang_up)
        elif not incomplete and self._due is not None:
            self._due.cancel()
            self._due = None

    def _hang_up(self) -> None:
        self._due = None
        if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
            self.transport.close()


def serve(
    stores: NeighbourService | Sequence[ServedStore],
    host: str = "127.0.0.1",
    port: int = 8000,
    ready: Callable[[str], Any] = print,
    *,
    token: str = "",
    hosts: tuple[str, ...] = (),
    root_path: str = "",
) -> None:
    """Answer until interrupted.

    Args:
        stores: that are served, the first where none is named; or the service of the only one.
        host: address to listen at; one that others reach shows them the stored images.
        port: 0 for any free one.
        ready: called with the page's address once it can be asked for.
        token: that clients must present; empty: none.
        hosts: further names under which the page may be asked for.
        root_path: path at which a proxy serves the page.

    Raises:
        BadInput: the address is taken, or not this machine's; no port.
    """
    if not 0 <= port <= MAX_PORT:
        raise BadInput(f"port {port}: from 0 (any free one) to {MAX_PORT} is expected")
    if root_path and (not root_path.startswith("/") or root_path.endswith("/")):
        raise BadInput(f"root path {root_path!r}: begin it with / and end it without")
    bound_arenas()
    with contextlib.closing(listener_at(host, port)) as listener:
        hosts = tuple(map(allowed_name, hosts))
        access = Access((*allowed_hosts(host), *hosts), token)
        page = page_address(host, listener.getsockname()[1], hosts, root_path)
        ready(f"{page}?token={quote(token, safe='')}" if token else page)
        if isinstance(stores, NeighbourService):
            stores = [ServedStore("store", stores)]
        _run(create_app(stores, access), stores[0].service.budgets, root_path, listener)


def listener_at(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        BadInput: the address is taken, or not this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP: else asyncio leaves Nagle's algorithm on, and answers wait 40 ms for an ACK.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections have it from the listener.
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
    try:
        listener.bind((host, port))
    except (OSError, UnicodeError) as error:
        listener.close()
        reason = getattr(error, "strerror", None) or error
        raise BadInput(f"{host}:{port}: {reason}; choose another by --host, --port") from error
    listener.listen(BACKLOG)
    return listener


def _run(app: FastAPI, budgets: Budgets, root_path: str, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app,
        http=Protocol,
        ws="none",
        log_level="warning",
        lifespan="off",
        root_path=root_path,
        server_header=False,
        limit_concurrency=budgets.connections,
        backlog=BACKLOG,
    )
    # One line for each refused connection would fill a disk.
    logging.getLogger("uvicorn.error").addFilter(_first_of_each)
    # Ctrl-C is how one ends it: uvicorn closes, then raises it again
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run([listener])


def allowed_hosts(host: str) -> tuple[str, ...]:
    """Names under which a server at this address may be asked for."""
    if host in LOOPBACK:
        return LOOPBACK
    if host not in ANYWHERE:
        return (*LOOPBACK, host.lower())
    names = {socket.gethostname().lower(), *map(str, machine_addresses())}
    return (*LOOPBACK, *sorted(names - set(LOOPBACK)))


def machine_addresses() -> list[IPv4Address | IPv6Address]:
    """Addresses of this machine: those of IPv4 first, and those that others reach before others."""
    families = (socket.AF_INET, socket.AF_INET6)
    found = {
        ip_address(one.address.partition("%")[0])
        for each in psutil.net_if_addrs().values()
        for one in each
        if one.family in families
    }
    return sorted(found, key=lambda one: (_only_here(one), one.version, int(one)))


def _only_here(address: IPv4Address | IPv6Address) -> bool:
    return address.is_loopback or address.is_link_local


def allowed_name(text: str) -> str:
    """The name of a further host as `Host` headers are compared with it: without a port.

    Raises:
        BadInput: a URL, or no name.

    Examples:
        >>> allowed_name("Pets.example.org:8443"), allowed_name("::1"), allowed_name("*")
        ('pets.example.org', '::1', '*')
    """
    name = text.lower() if text.count(":") > 1 and "[" not in text else name_of_host(text)
    if not name or set(text) & set("/?#@ "):
        raise BadInput(f"allowed host {text[:80]!r}: give a name alone, as pets.example.org")
    return name


def page_address(host: str, port: int, hosts: Sequence[str], root_path: str) -> str:
    """Where the page can be opened.

    Args:
        host: address that is listened at; for all addresses, the first further name is shown that
            is not this machine's, or an address of it that others reach.
        port: that is listened at.
        hosts: further names under which the page may be asked for.
        root_path: path at which a proxy serves the page; with it the first further name that is not
            this machine's is that of the proxy, which is asked by TLS.
    """
    beyond = [name for name in hosts if name not in (*LOOPBACK, "*")]
    if root_path and beyond:
        return f"https://{_in_address(beyond[0])}{root_path}/"
    if host in ANYWHERE:
        # Nobody can be asked for all addresses.
        own = [str(one) for one in machine_addresses() if not _only_here(one)]
        host = [*beyond, *own, "localhost"][0]
    return f"http://{_in_address(host)}:{port}/"


def _in_address(name: str) -> str:
    return f"[{name}]" if ":" in name else name


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(32)


def is_private(host: str, hosts: tuple[str, ...]) -> bool:
    """Whether only this machine can ask: the address and all allowed names are its loopback."""
    return host in LOOPBACK and all(name in LOOPBACK for name in hosts)


_SEEN: set[str] = set()


def _first_of_each(record: logging.LogRecord) -> bool:
    """Whether a warning is the first of its kind; faults are all logged."""
    if record.levelno > logging.WARNING:
        return True
    new = str(record.msg) not in _SEEN
    _SEEN.add(str(record.msg))
    return new
