"""How a server of `alike serve` is reached: its address, its token, its store, its refusals."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

from alike.extract.errors import AlikeError, BadInput, StoreBusy, StoreDamaged, StoreFull
from alike.extract.secrets import check_token, masked

API = "/api/v1"
MOST_SECONDS = 1_000_000
"""Of a wait: sockets take no much longer one."""
OF_THE_SERVER = ("health", "stores", "metrics")
"""Questions about no store."""


class Connection:
    """One server, and a store of it.

    Attributes:
        address: of the server, without token and password.
        version: of Alike there.
    """

    def __init__(self, address: str, *, token: str, timeout: float, store: str) -> None:
        """Connect; see `alike.connect`.

        Raises:
            BadInput: nobody answers there, or something else does; a wrong token; no store of this
                name; an address, a token or a time that cannot be.
        """
        import httpx

        # Both hold for the address that the server printed, with its token.
        shown = masked(address.partition("?")[0])
        expected = f"address {shown!r}: one such as http://127.0.0.1:8000 is expected"
        if not 0 < timeout <= MOST_SECONDS:
            span = f"above 0 and up to {MOST_SECONDS:,}"
            raise BadInput(f"timeout {timeout}: a number of seconds {span} is expected")
        try:
            parts = urlsplit(address)
            place = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
            base = httpx.URL(place + API)
        except (ValueError, httpx.InvalidURL) as error:
            raise BadInput(f"{expected} ({error})") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInput(expected)
        self.address = masked(place)
        token = check_token(token or parse_qs(parts.query).get("token", [""])[0])
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout = timeout
        self._http = httpx.Client(base_url=base, headers=headers, timeout=timeout, trust_env=False)
        self._below = ""
        try:
            self.version = self._greet(store)
        except AlikeError:
            self.close()
            raise

    def _greet(self, store: str) -> str:
        """The version of the server, which has the store that is named."""
        health = self.ask("GET", "health")
        if not isinstance(health, dict) or health.get("status") != "ok":
            raise BadInput(f"{self.address} answers, and is no server of `alike serve`")
        # Whether it answers needs no token: a wrong one is told now, not with the first question.
        self.fetch("metrics")
        if store:
            names = [one["name"] for one in self.ask("GET", "stores")]
            if store not in names:
                raise BadInput(f"no store {store!r}: the server has {', '.join(names)}")
            self._below = f"/stores/{quote(store, safe='')}"
        return str(health["version"])

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(
        self,
        verb: str,
        *path: str,
        asked: Mapping[str, Any] | None = None,
        content: bytes | None = None,
        json: Any = None,
    ) -> Any:
        """The document that answers one question.

        Args:
            verb: GET, POST or PUT.
            path: its parts, as they are: none of them can name another question.
            asked: parameters; None: left out.
            content: the body.
            json: the body, as a document.

        Raises:
            BadInput: the server refuses it, or nobody answers.
            StoreBusy: the server has too much to do, or its storage does not answer.
            StoreDamaged: a stored file is damaged or missing.
            StoreFull: the disk of the store is full.
            AlikeError: a fault of the server.
        """
        answer = self._answer(verb, path, asked, content=content, json=json)
        try:
            return answer.json()
        except ValueError:
            raise BadInput(
                f"{self.address} answers, and not by a document: is it a server of `alike serve`?"
            ) from None

    def fetch(self, *path: str, asked: Mapping[str, Any] | None = None) -> bytes:
        """What answers one question that is no document: a picture, a text.

        Args:
            path: as in `ask`.
            asked: parameters.

        Raises:
            BadInput: the server refuses it, or nobody answers.
            StoreBusy: the server has too much to do, or its storage does not answer.
            StoreDamaged: a stored file is damaged or missing.
            StoreFull: the disk of the store is full.
            AlikeError: a fault of the server.
        """
        data: bytes = self._answer("GET", path, asked).content
        return data

    def _answer(
        self, verb: str, path: tuple[str, ...], asked: Mapping[str, Any] | None, **body: Any
    ) -> Any:
        import httpx

        params = {name: value for name, value in (asked or {}).items() if value is not None}
        below = "" if path[0] in OF_THE_SERVER else self._below
        if not all(path):
            raise BadInput("an empty name: the name of a run, a tag or a list is expected")
        if self._http.is_closed:
            raise BadInput(f"the connection to {self.address} is closed: connect once more")
        try:
            answer = self._http.request(
                verb, "/".join([below, *map(_part, path)]), params=params, **body
            )
        except httpx.TimeoutException as error:
            msg = f"{self.address} did not answer within {self._timeout:g} s"
            raise BadInput(f"{msg}: give connect a longer timeout, or ask for less") from error
        except httpx.HTTPError as error:
            msg = f"{self.address} does not answer ({error or type(error).__name__})"
            raise BadInput(f"{msg}: start it by `alike serve`, or give its address") from error
        except (httpx.InvalidURL, ValueError) as error:
            # More than an address can hold, or half a surrogate pair, which no request can.
            raise BadInput(f"the question cannot be sent ({error})") from error
        if answer.is_success:
            return answer
        line = _line(answer) or f"status {answer.status_code}"
        kinds = {409: StoreDamaged, 500: AlikeError, 503: StoreBusy, 507: StoreFull}
        raise kinds.get(answer.status_code, BadInput)(f"{self.address}: {line}")


def _part(text: str) -> str:
    """A part of a path: a slash, a question mark or two dots in it lead nowhere else."""
    quoted = quote(text, safe="", errors="replace")
    return quoted.replace(".", "%2E") if not text.strip(".") else quoted


def _line(answer: Any) -> str:
    """What the server says of its refusal; empty if it says nothing."""
    try:
        document = answer.json()
    except ValueError:
        return ""
    return str(document.get("error", "")) if isinstance(document, dict) else ""
