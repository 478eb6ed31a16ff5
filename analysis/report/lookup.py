"""What the report reads of an analysis: tables, scores with their intervals, rungs of the scale."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import pandas as pd

from alike.extract.measures import find_measure
from alike.extract.secrets import shown_place

HEADLINE = "gap_cosine"
FLOOR, CEILING = "pixel_euclid", "softmax_dot"
NETWORK = "network"
"""Stands for the measure of what belongs to the network: accuracy and neural collapse."""
UNTRAINED = "untrained_gap_cosine"


class Analysed(Protocol):
    """What the report needs of an analysis; `alike.analysis.stored.Analysis` is one."""

    @property
    def key(self) -> str:
        """The extraction that was analysed."""

    @property
    def n_images(self) -> int:
        """How many images were evaluated."""

    @property
    def classes(self) -> Any:
        """Their classes."""

    @property
    def settings(self) -> Any:
        """The settings of the analysis, a mapping."""

    @property
    def tables(self) -> Any:
        """Name -> DataFrame."""

    def outdated(self, features: Any) -> str:
        """What to say if the features are others by now, else ""."""


@dataclass(frozen=True)
class Value:
    """A score with its 95 % interval (NaN where it has none)."""

    value: float
    low: float
    high: float


def table_of(analysis: Analysed, name: str, measure: str | None = None) -> pd.DataFrame:
    """A table of an analysis, of one measure if named; empty where it was not computed."""
    table = analysis.tables.get(name)
    if table is None:
        return pd.DataFrame()
    if measure is not None and "measure" in table.columns:
        table = table[table["measure"] == measure]
    return table


def main_measure(analysis: Analysed) -> str:
    """The measure that the headline rests on: `gap_cosine`, or the first that was computed.

    Never a floor, a ceiling or a control where there is another.
    """
    scores = table_of(analysis, "scores")
    measures = [str(name) for name in dict.fromkeys(scores.get("measure", [])) if name != NETWORK]
    if HEADLINE in measures or not measures:
        return HEADLINE
    rows = {name: find_measure(name) for name in measures}
    plain = [name for name, row in rows.items() if row and row.role == "measure"]
    return (plain or measures)[0]


def score_of(analysis: Analysed | None, measure: str, score: str) -> Value | None:
    """A score of one measure with its interval; None where it was not computed."""
    if analysis is None:
        return None
    scores = table_of(analysis, "scores", measure)
    rows = scores[scores["score"] == score] if len(scores) else scores
    if rows.empty or not math.isfinite(float(rows["value"].iloc[0])):
        return None
    row = rows.iloc[0]
    return Value(float(row["value"]), as_number(row.get("low")), as_number(row.get("high")))


def untrained_score(analysis: Analysed | None, measure: str, score: str) -> Value | None:
    """A score of the untrained network; it is evaluated by the headline measure only."""
    return score_of(analysis, UNTRAINED, score) if measure == HEADLINE else None


def accuracy_of(analysis: Analysed | None) -> Value | None:
    """The network's own top-1 accuracy, under whichever measure name it was stored."""
    if analysis is None:
        return None
    scores = table_of(analysis, "scores")
    rows = scores[scores["score"] == "accuracy"] if len(scores) else scores
    return None if rows.empty else score_of(analysis, str(rows["measure"].iloc[0]), "accuracy")


def worst_class(analysis: Analysed, measure: str) -> tuple[str, float] | None:
    """The class with the lowest sameness and that sameness; None where it is unknown."""
    table = table_of(analysis, "per_class", measure)
    if table.empty or table["sameness"].isna().all():
        return None
    row = table.loc[table["sameness"].idxmin()]
    return str(row["class"]), float(row["sameness"])


def rungs(before: Analysed, after: Analysed | None, measure: str) -> pd.DataFrame:
    """Where the network stands: floor, untrained, before, after, ceiling; known ones only.

    The ceiling is known only if the network's classes are those of the images.
    """
    first, second = ("this network", "only") if after is None else ("before", "before")
    last = after or before
    # A classifier of other classes is no ceiling of these images: features may stand above it.
    ceiling = score_of(last, CEILING, "sameness") if accuracy_of(last) else None
    steps = (
        ("raw pixels", "floor", score_of(before, FLOOR, "sameness")),
        ("untrained network", "untrained", untrained_score(before, measure, "sameness")),
        (first, second, score_of(before, measure, "sameness")),
        ("after", "after", score_of(after, measure, "sameness")),
        ("classifier's own output", "ceiling", ceiling),
    )
    rows = [
        {"name": name, "value": got.value, "low": got.low, "high": got.high, "role": role}
        for name, role, got in steps
        if got is not None
    ]
    return pd.DataFrame(rows, columns=["name", "value", "low", "high", "role"])


def as_number(value: Any) -> float:
    """A number; NaN for what is missing."""
    return float("nan") if value is None else float(value)


def listed(store: Any) -> tuple[dict[int, str], dict[int, str | None]]:
    """Path, as it may be shown, and label of every row of a store's set of images."""
    view = store.images()
    view = view[view["row"] >= 0].drop_duplicates("row").set_index("row")
    return view["path"].map(shown_place).to_dict(), view["label"].to_dict()
