"""How a server of `alike serve` is reached: its address, its token, its store, its refusals."""

from typing import Any
from urllib.parse import parse_qs, urlsplit, urlunsplit

from alike.extract.errors import AlikeError, BadInput, StoreBusy, StoreDamaged, StoreFull

API = "/api/v1"
OF_THE_SERVER = ("/health", "/stores", "/metrics")
"""Paths that belong to no store."""


class Connection:
    """One server, and a store of it.

    Attributes:
        address: of the server, without the token.
        version: of Alike there.
    """

    def __init__(self, address: str, *, token: str, timeout: float, store: str) -> None:
        """Connect; see `alike.connect`.

        Raises:
            BadInput: nobody answers there, or something else does; no store of this name.
        """
        import httpx

        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise BadInput(f"address {address!r}: one such as http://127.0.0.1:8000 is expected")
        self.address = urlunsplit((parts.scheme, parts.netloc, parts.path.rstrip("/"), "", ""))
        token = token or parse_qs(parts.query).get("token", [""])[0]
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=self.address + API, headers=headers, timeout=timeout, trust_env=False
        )
        self._below = ""
        try:
            self.version = self._greet(store)
        except AlikeError:
            self.close()
            raise

    def _greet(self, store: str) -> str:
        """The version of the server, which has the store that is named."""
        health = self.ask("GET", "/health")
        if not isinstance(health, dict) or health.get("status") != "ok":
            raise BadInput(f"{self.address} answers, and is no server of `alike serve`")
        if store:
            names = [one["name"] for one in self.ask("GET", "/stores")]
            if store not in names:
                raise BadInput(f"no store {store!r}: the server has {', '.join(names)}")
            self._below = f"/stores/{store}"
        return str(health["version"])

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def ask(
        self,
        verb: str,
        path: str,
        /,
        *,
        content: bytes | None = None,
        json: Any = None,
        **asked: Any,
    ) -> Any:
        """The document that answers one question.

        Raises:
            BadInput: the server refuses it, or nobody answers.
            StoreBusy: the server has too much to do.
            StoreDamaged: a stored file is damaged or missing.
            StoreFull: the disk of the store is full.
            AlikeError: a fault of the server.
        """
        return _document(self._answer(verb, path, content, json, asked))

    def fetch(self, path: str, /, **asked: Any) -> bytes:
        """What answers one question that is no document: a picture, a text.

        Raises:
            BadInput: the server refuses it, or nobody answers.
            StoreBusy: the server has too much to do.
            StoreDamaged: a stored file is damaged or missing.
            StoreFull: the disk of the store is full.
            AlikeError: a fault of the server.
        """
        data: bytes = self._answer("GET", path, None, None, asked).content
        return data

    def _answer(
        self, verb: str, path: str, content: bytes | None, json: Any, asked: dict[str, Any]
    ) -> Any:
        import httpx

        params = {name: value for name, value in asked.items() if value is not None}
        try:
            below = "" if path in OF_THE_SERVER else self._below
            answer = self._http.request(
                verb, below + path, params=params, content=content, json=json
            )
        except httpx.HTTPError as error:
            msg = f"{self.address} does not answer ({error or type(error).__name__})"
            raise BadInput(f"{msg}: start it by `alike serve`, or give its address") from error
        if answer.is_success:
            return answer
        document = _document(answer)
        line = document.get("error") if isinstance(document, dict) else None
        line = f"{self.address}: {line or f'status {answer.status_code}'}"
        kinds = {409: StoreDamaged, 500: AlikeError, 503: StoreBusy, 507: StoreFull}
        raise kinds.get(answer.status_code, BadInput)(line)


def _document(answer: Any) -> Any:
    try:
        return answer.json()
    except ValueError:
        return {}
