"""The runs of a store for the page: the documents of `alike runs …`; see `RunHistory`."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alike.extract.errors import BadInput
from alike.flows.history import FOLDER, History, RunRecord
from alike.flows.recording import over_time
from alike.flows.runs import difference, run_document, runs_document

if TYPE_CHECKING:
    from alike.extract.store import Store


class StoredRuns:
    """Reads the history of a store: all of it once, and again if a file of it has changed.

    Args:
        store: opened.
    """

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._lock = threading.Lock()
        self._read: dict[str, tuple[Any, Any]] = {}

    def good(self) -> Sequence[Mapping[str, Any]]:
        """See `RunHistory`."""
        runs: list[dict[str, Any]] = self._once(
            "good", lambda: over_time(History(self._store).records())["runs"]
        )
        return runs

    def listed(self) -> Mapping[str, Any]:
        """See `RunHistory`."""
        document: Mapping[str, Any] = self._once("listed", self._document)
        return document

    def _once(self, name: str, read: Callable[[], Any]) -> Any:
        with self._lock:
            stamps = self._store.files.listing(FOLDER)
            before = self._read.get(name)
            if before is not None and before[0] == stamps:
                return before[1]
            value = read()
            self._read[name] = (stamps, value)
            return value

    def _document(self) -> Mapping[str, Any]:
        # Here: the page starts without what only the analysis needs.
        from alike.serve.analysed import records

        document = runs_document(History(self._store))
        return {**document, "runs": records(document["runs"])}

    def record(self, run: str) -> Mapping[str, Any]:
        """See `RunHistory`."""
        return run_document(self._find([run])[0], self._store)

    def difference(self, runs: Sequence[str], *, everything: bool) -> Mapping[str, Any]:
        """See `RunHistory`."""
        return difference(self._find(runs), everything=everything)

    def _find(self, names: Sequence[str]) -> list[RunRecord]:
        # Here: the page starts without it.
        from alike.serve.pictures import NotThere

        try:
            return History(self._store).find_all(names)
        except BadInput as error:
            raise NotThere(str(error)) from error
