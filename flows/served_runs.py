"""The runs of a store for the page: the documents of `alike runs …`; see `RunHistory`."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from alike.extract.errors import BadInput
from alike.flows.history import History, RunRecord
from alike.flows.recording import over_time
from alike.flows.runs import difference, runs_document

if TYPE_CHECKING:
    from alike.extract.store import Store


class StoredRuns:
    """Reads the history of a store anew for each question.

    Args:
        store: opened.
    """

    def __init__(self, store: "Store") -> None:
        self._store = store

    def good(self) -> Sequence[Mapping[str, Any]]:
        """See `RunHistory`."""
        runs: list[dict[str, Any]] = over_time(History(self._store).records())["runs"]
        return runs

    def listed(self) -> Mapping[str, Any]:
        """See `RunHistory`."""
        # Here: the page starts without what only the analysis needs.
        from alike.serve.analysed import records

        document = runs_document(History(self._store))
        return {**document, "runs": records(document["runs"])}

    def record(self, run: str) -> Mapping[str, Any]:
        """See `RunHistory`."""
        return asdict(self._find([run])[0])

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
