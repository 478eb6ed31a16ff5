"""Who may ask: the name of the host, the page that sends the request, the token; and how much."""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response

from alike.extract.faults import passes
from alike.extract.secrets import masked
from alike.serve.budgets import Budgets
from alike.serve.policy import policy

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

LOOPBACK = ("127.0.0.1", "localhost", "::1")
SHEET = "/static/reference.css"
OPEN = ("/api/v1/health", SHEET)
"""Paths that need no token: they say nothing about the store."""
UPLOAD = re.compile(r"/api/v1(/stores/[^/]+)?/images")
PAGES = ("/", "/api/v1/docs")
"""Paths that a link on another page may open."""
RETRY = {"Retry-After": "1"}
LONGEST = 2000
"""Most characters of what a refusal says."""
HEADERS = (
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
)


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        hosts: names in the `Host` header that are answered, without a port; `*`: any.
        token: that a client must present; empty: none.
    """

    hosts: tuple[str, ...] = LOOPBACK
    token: str = ""

    @property
    def cookie(self) -> str:
        """Name of the cookie: servers of one host with different tokens have different ones."""
        return f"alike-{hashlib.sha256(self.token.encode()).hexdigest()[:8]}"

    def matches(self, given: str) -> bool:
        """Whether a client's token is this one, in a time that does not depend on it."""
        return hmac.compare_digest(given.encode(), self.token.encode())


LOCAL = Access()
"""Whoever is on this machine."""


class Guard:
    """Refuses what may not be asked, bounds what arrives, and names what a browser may do."""

    def __init__(self, app: App, access: Access, budgets: Budgets) -> None:
        self.app, self.access, self.budgets = app, access, budgets
        self.open_requests = 0
        self.receiving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin1").lower(): value.decode("latin1")
                   for name, value in scope["headers"]}  # fmt: skip
        sender = _with_headers(send)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, sender)
            return
        body = _Body(self, scope, receive)
        self.open_requests += 1
        try:
            await self.app(scope, body, sender)
        finally:
            self.open_requests -= 1
            self.receiving -= body.size

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> Response | None:
        """The answer to a request that may not be asked; None for one that may."""
        host = name_of_host(headers.get("host", ""))
        if "*" not in self.access.hosts and host not in self.access.hosts:
            names = ", ".join(self.access.hosts)
            return refuse(400, f"host {host[:80]!r}: {names} expected; allow it by --allowed-host")
        if not _same_origin(scope, headers):
            return refuse(403, "a page of another site may not ask: open the page of this server")
        if self.open_requests >= self.budgets.requests:
            return refuse(503, f"{self.open_requests} requests are open: try again", RETRY)
        path = path_of(scope)
        if not self.access.token or path in OPEN:
            return None
        return self._without_token(scope, path, headers)

    def _without_token(
        self, scope: Scope, path: str, headers: Mapping[str, str]
    ) -> Response | None:
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        presented = [bearer.strip()] if kind.lower() == "bearer" else []
        # One by one: cookies of other servers on this host need not be as the standard has them.
        presented.append(cookie_parser(headers.get("cookie", "")).get(self.access.cookie, ""))
        query = parse_qs(scope.get("query_string", b"").decode("latin1"))
        in_address = query.get("token", []) if path == "/" else []
        if any(map(self.access.matches, in_address)):
            # Out of the address at once: addresses are shared, and kept in histories.
            answer = RedirectResponse("./", status_code=303)
            answer.set_cookie(
                self.access.cookie,
                self.access.token,
                path="/" if _is_direct(scope, headers) else scope.get("root_path", "") or "/",
                httponly=True,
                samesite="lax",
                secure=scope.get("scheme") == "https",
            )
            return answer
        if any(map(self.access.matches, presented)):
            return None
        challenge = {"WWW-Authenticate": "Bearer"}
        if path in PAGES and "text/html" in headers.get("accept", ""):
            sheet = ("../../" if path != "/" else "") + SHEET[1:]
            return HTMLResponse(_without_token_page(sheet), 401, challenge)
        where = "open the address that `alike serve` printed, or send Authorization: Bearer TOKEN"
        return refuse(401, f"the token is missing or wrong: {where}", challenge)


def _is_direct(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether a browser of this machine asks the server itself, and not the proxy before it."""
    forwarded = any(name.startswith("x-forwarded-") for name in headers)
    return not forwarded and name_of_host(headers.get("host", "")) in LOOPBACK


def _without_token_page(sheet: str) -> str:
    """What a browser shows to somebody without the token.

    Args:
        sheet: address of the style sheet.
    """
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>Alike: a token is needed</title><link rel="stylesheet" href="{sheet}">'
        "</head><body><main><h1>A token is needed</h1>"
        "<p>This page is shown to those who have its token. <code>alike serve</code> printed an "
        "address that ends in <code>?token=…</code>: open that address once in this browser, or "
        "ask whoever started the server for it.</p>"
        "<p>The token of a server that was started anew is another one, unless it was given by "
        "<code>--token</code> or <code>ALIKE_TOKEN</code>. A program sends it in the header "
        "<code>Authorization: Bearer TOKEN</code>.</p>"
        "</main></body></html>\n"
    )


def answering_head(app: App) -> App:
    """An application that answers HEAD below `/api/` as GET, without the body."""

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["type"] == "http" and scope["method"] == "HEAD"
        if not head or not path_of(scope).startswith("/api/"):
            await app(scope, receive, send)
            return

        async def sender(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # A copy: the server must know that it answers HEAD.
        asked = {**scope, "method": "GET"}
        try:
            await app(asked, receive, sender)
        finally:
            # The metrics count by route.
            if "route" in asked:
                scope["route"] = asked["route"]

    return answering


class _Body:
    """The body of one request as it arrives: bounded in bytes, in time, and with all others."""

    def __init__(self, guard: Guard, scope: Scope, receive: Receive) -> None:
        self.size = 0
        self._guard, self._receive = guard, receive
        upload = scope["method"] == "POST" and bool(UPLOAD.fullmatch(path_of(scope)))
        self._most = guard.budgets.upload_bytes if upload else guard.budgets.body_bytes
        self._due = asyncio.get_running_loop().time() + guard.budgets.body_seconds
        self._complete = False

    async def __call__(self) -> Message:
        """The next message of the client."""
        if self._complete:
            return await self._receive()
        budgets = self._guard.budgets
        try:
            async with asyncio.timeout_at(self._due):
                message = await self._receive()
        except TimeoutError:
            seconds = f"{budgets.body_seconds:g} s"
            raise _closing(408, f"the body did not arrive in {seconds}: send less") from None
        size = len(message.get("body", b""))
        self.size += size
        self._guard.receiving += size
        self._complete = not message.get("more_body", False)
        if self.size > self._most:
            raise _closing(413, f"more than {self._most >> 20} MiB: send a smaller file")
        if self._guard.receiving > budgets.receiving_bytes:
            raise _closing(503, "too much is arriving at once: try again", RETRY)
        return message


def refuse(status: int, line: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The body that every answer without a result has."""
    # In one line that is not long, that is a text of UTF-8, and that shows no password of a URL.
    line = masked(" ".join(line.split()))
    line = line if len(line) <= LONGEST else f"{line[:LONGEST]}…"
    line = line.encode(errors="backslashreplace").decode()
    return JSONResponse({"error": line}, status, dict(headers or {}))


def _closing(status: int, line: str, headers: Mapping[str, str] | None = None) -> HTTPException:
    """An answer before the request is complete: the rest of it is not read."""
    return HTTPException(status, line, {**(headers or {}), "Connection": "close"})


def safe_headers() -> list[tuple[bytes, bytes]]:
    """Headers of every answer: what a browser may do with it."""
    return [*HEADERS, (b"content-security-policy", policy().encode())]


def fault(error: BaseException) -> JSONResponse:
    """The answer to a question that failed; with all headers, for it leaves no guard.

    What a disk or a network did may be over when the question is asked again.
    """
    # The log has the traceback: what is inside is nobody else's.
    name = type(error).__name__
    if passes(error):
        line = f"the storage does not answer ({name}): try again; the server's log says more"
        answer = refuse(503, line, RETRY)
    else:
        answer = refuse(500, f"a fault of the server ({name}): its log says more")
    answer.raw_headers += safe_headers()
    return answer


def outermost(app: App, is_full: Callable[[], bool]) -> App:
    """An application that answers also where there are too many connections, and after a fault.

    Args:
        app: whose answers pass as they are.
        is_full: whether there are too many connections.
    """

    async def answering(scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def sender(message: Message) -> None:
            nonlocal begun
            begun = begun or message["type"] == "http.response.start"
            await send(message)

        if scope["type"] == "http" and is_full():
            busy = refuse(
                503, "too many connections are open: try again", {**RETRY, "Connection": "close"}
            )
            busy.raw_headers += safe_headers()
            await busy(scope, receive, send)
            return
        try:
            await app(scope, receive, sender)
        except Exception as error:
            if not begun:
                await fault(error)(scope, receive, send)
            raise

    return answering


def _with_headers(send: Send) -> Send:
    async def sender(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", []), *safe_headers()]
        await send(message)

    return sender


def path_of(scope: Scope) -> str:
    """The path below the root path that a proxy serves this application at."""
    # Below a mounted part, `root_path` has the path of that too.
    root = scope.get("app_root_path", scope.get("root_path", ""))
    return str(scope["path"]).removeprefix(root) or "/"


def name_of_host(host: str) -> str:
    """The name in a `Host` header, without port and brackets, in lower case."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _same_origin(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Whether no page of another site sends this.

    Browsers say who sends a request: `Sec-Fetch-Site`, and `Origin` with what is not a plain GET.
    Programs send neither. A link on another page may open a page of ours, and nothing else.
    """
    site = headers.get("sec-fetch-site", "none")
    if site not in ("same-origin", "none"):
        opened = headers.get("sec-fetch-mode") == "navigate"
        top = headers.get("sec-fetch-dest") == "document"
        if not (opened and top and scope["method"] == "GET" and path_of(scope) in PAGES):
            return False
    origin = headers.get("origin")
    if origin is None:
        return True
    # Without the scheme: behind a proxy for TLS it is not ours.
    try:
        place = urlsplit(origin).netloc.lower()
    except ValueError:
        return False
    return bool(place) and place == headers.get("host", "").lower()
