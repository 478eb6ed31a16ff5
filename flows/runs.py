"""What the commands and the report say of past runs: tables, differences, a figure."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from alike.extract.errors import BadInput, NoStore
from alike.flows.history import History, RunRecord
from alike.flows.settings import read_pipeline

if TYPE_CHECKING:
    from alike.extract.store import Store

FIRST = ("sameness", "accuracy")


def store_of(place: str) -> "Store":
    """The store of a settings file (`.toml`), or the store itself.

    Raises:
        BadInput: there is none yet.
    """
    from alike.extract.store import Store

    if not place.endswith(".toml"):
        return Store.open(place)
    store = read_pipeline(Path(place)).store_place
    try:
        return Store.open(store)
    except NoStore:
        raise BadInput(f"{place} has no runs yet: run `alike run {place}` first") from None


def listed(history: History) -> pd.DataFrame:
    """A row for every run, oldest first."""
    accepted, rows = history.accepted(), []
    for one in history.records():
        scores = {name: (one.score(name) or [None])[0] for name in FIRST}
        row = {
            "run": one.id, "time": one.time[:16], "state": one.state,
            "images": one.counts.get("ok"), "bad": one.counts.get("bad"), **scores,
            "seconds": one.seconds, "says": one.error or _changes(one),
        }  # fmt: skip
        if accepted is not None and accepted.run == one.id:
            row["state"] = "reference"
        rows.append(row)
    columns = ["run", "time", "state", "images", "bad", *FIRST, "seconds", "says"]
    return pd.DataFrame(rows, columns=columns)


def _changes(record: RunRecord) -> str:
    parts = [f"{number} {kind}" for kind, number in record.changes.items() if number]
    parts += [f"{name} changed" for name in record.changed]
    return ", ".join(parts)


def difference(before: RunRecord, after: RunRecord) -> dict[str, Any]:
    """What two runs differ in: settings, versions, network, counts, and every score.

    Returns:
        settings, versions, network: name to [first, second]; counts, scores: tables of name,
        first, second, difference; scores of a further network name it.
        Scores of two series are not compared: `series` says so.
    """
    names = [name for name in before.counts if name in after.counts]
    counts = [(name, before.counts[name], after.counts[name]) for name in names]
    same = before.series == after.series
    scores = _changed_scores(before, after, "")
    for label in after.others:
        one, two = before.of(label), after.of(label)
        scores += _changed_scores(one, two, label) if one and two else []
    columns = ["measure", "score", "before", "after", "difference", "network"]
    return {
        "runs": [before.id, after.id],
        "settings": _differing(before.settings, after.settings),
        "versions": _differing(before.versions, after.versions),
        "network": _differing(before.network, after.network),
        "counts": pd.DataFrame(
            [(name, a, b, b - a) for name, a, b in counts if a != b],
            columns=["count", "before", "after", "difference"],
        ),
        "scores": pd.DataFrame([one for one in scores if one[4]], columns=columns),
        "series": "" if same else "the scores of the two runs mean different things",
    }


def _changed_scores(
    before: RunRecord, after: RunRecord, label: str
) -> list[tuple[str, str, float, float, float, str]]:
    """Rows of the scores that differ; none of two series."""
    rows = []
    for measure, of in after.scores.items() if before.series == after.series else ():
        for name, now in of.items():
            then = before.scores.get(measure, {}).get(name)
            if then and then[0] is not None and now[0] is not None:
                rows.append((measure, name, then[0], now[0], now[0] - then[0], label))
    return rows


def _differing(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[Any]]:
    return {
        name: [before.get(name), after.get(name)]
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name)
    }
