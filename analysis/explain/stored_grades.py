"""The grades that a store holds of its explainers: a number for a line under a map."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from alike.analysis.explain.file_names import DIGEST, GRADE, PAIR_GRADE
from alike.extract.command import command_of

if TYPE_CHECKING:
    from alike.extract.store import Features

VERSION = 5
"""Of what the numbers are: another one is graded anew by the next run."""
NOT_GRADED = "no grade measured"
NOTE = (
    "Grade: deletion less that of plain energy, mean over a sample of images or pairs (95 % "
    "interval). Below zero the network follows the map more than where its last map is large."
)


def grade_command(features: "Features") -> str:
    """The command that grades the explainers of an extraction."""
    # Of a set that was used for training alone, no image is held out.
    enough = len(features.table("held_out")) > 1
    words = () if enough else ("--split", "all")
    return command_of("explain", features.store, features.key, "--grade", *words)


@dataclass(frozen=True)
class StoredGrades:
    """Grades of a network's explainers.

    Attributes:
        images: of explainers of a class, one row each; empty if none were measured.
        pairs: of explainers of likeness, one row each and kind of pair.
        measure: whose similarity `pairs` follows.
        outdated: the tables (`images`, `pairs`) that are older than the features.
    """

    images: pd.DataFrame
    pairs: pd.DataFrame
    measure: str
    outdated: frozenset[str]

    @staticmethod
    def of(features: "Features") -> "StoredGrades":
        """Those of an extraction; without rows if there are none."""
        tables: dict[str, tuple[pd.DataFrame, dict[str, Any]]] = {}
        for name, place in (("images", GRADE), ("pairs", PAIR_GRADE)):
            try:
                tables[name] = features.store.read_table(place.format(key=features.key))
            except FileNotFoundError:
                tables[name] = pd.DataFrame(), {}
        old = [
            name
            for name, (_, settings) in tables.items()
            if features.changed_since(settings.get(DIGEST))
        ]
        measure = str(tables["pairs"][1].get("measure", ""))
        return StoredGrades(tables["images"][0], tables["pairs"][0], measure, frozenset(old))

    def line(self, explainer: str) -> str:
        """The grade of an explainer of a class, for a line under its map."""
        rows = self.images
        at = rows[rows["explainer"] == explainer] if len(rows) else rows
        if not len(at):
            return NOT_GRADED
        return f"grade {_signed(at.iloc[0])}" + self._age("images")

    def pair_line(self, explainer: str, measure: str) -> str:
        """The grade of an explainer of likeness, for both kinds of pairs.

        Args:
            explainer: `likeness`, or a name of `PAIR_EXPLAINERS`.
            measure: whose similarity the map shows.
        """
        rows = self.pairs
        if rows.empty or measure != self.measure:
            return NOT_GRADED
        at = rows[rows["explainer"] == explainer]
        if at.empty:
            return NOT_GRADED
        kinds = [
            f"{row['pairs'].split()[0]} {row['deletion_to_energy']:+.3f}"
            for _, row in at.iterrows()
        ]
        return f"grade {', '.join(kinds)}" + self._age("pairs")

    def _age(self, table: str) -> str:
        return ", of older features" if table in self.outdated else ""


def _signed(row: "pd.Series[Any]") -> str:
    value, low, high = (float(row[f"deletion_to_energy{end}"]) for end in ("", "_low", "_high"))
    span = f" ({low:+.3f} to {high:+.3f})" if low == low and high == high else ""
    return f"{value:+.3f}{span}"
