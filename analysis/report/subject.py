"""What a report is about: one analysis, or two side by side."""

from dataclasses import dataclass

import pandas as pd

from alike.analysis.report.lookup import Analysed


@dataclass(frozen=True)
class Subject:
    """What a report is about.

    Attributes:
        before: the first analysis, or the only one.
        after: the second, or None.
        comparison: the paired differences, or None.
        measure: the measure of the headline.
    """

    before: Analysed
    after: Analysed | None
    comparison: pd.DataFrame | None
    measure: str

    @property
    def last(self) -> Analysed:
        """The analysis that the reader cares about: after, or the only one."""
        return self.after or self.before

    @property
    def named(self) -> list[tuple[str, Analysed]]:
        """The analyses with the names that the report calls them by."""
        if self.after is None:
            return [("network", self.before)]
        return [("before", self.before), ("after", self.after)]


def titled(name: str, title: str) -> str:
    """A title that says which of two analyses is shown; the plain title where there is one."""
    return title if name == "network" else f"{title}, {name}"
