"""The runs of a store as the server sees them: what the commands `alike runs …` print."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from alike.serve.pictures import NotThere


class RunHistory(Protocol):
    """Past runs of a store; `flows/` has the one that reads its history."""

    def good(self) -> Sequence[Mapping[str, Any]]:
        """Records of good runs, oldest first, as the report takes them."""

    def listed(self) -> Mapping[str, Any]:
        """The document of `alike runs ls --json`."""

    def record(self, run: str) -> Mapping[str, Any]:
        """The document of `alike runs show --json`.

        Raises:
            NotThere: no run of this name, or several.
        """

    def difference(self, runs: Sequence[str], *, everything: bool) -> Mapping[str, Any]:
        """The document of `alike runs diff --json`.

        Raises:
            NotThere: as `record`.
        """


class NoRuns:
    """The history of a store whose runs are not known."""

    def good(self) -> Sequence[Mapping[str, Any]]:
        """See `RunHistory`."""
        return ()

    def listed(self) -> Mapping[str, Any]:
        """See `RunHistory`."""
        return {"runs": [], "unchanged": None, "faults": []}

    def record(self, run: str) -> Mapping[str, Any]:
        """See `RunHistory`."""
        raise NotThere(f"run {run!r}: this server knows no runs")

    def difference(self, runs: Sequence[str], *, everything: bool) -> Mapping[str, Any]:
        """See `RunHistory`."""
        del everything
        return self.record(runs[0])
