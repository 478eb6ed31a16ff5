"""What the commands and the report say of past runs: tables, differences, a figure."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from alike.extract.errors import BadInput, NoStore
from alike.flows.history import History, RunRecord, Score
from alike.flows.settings import read_pipeline

if TYPE_CHECKING:
    from alike.extract.store import Store

FIRST = ("sameness", "accuracy")
NONE: Score = [None, None, None]


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


def runs_document(history: History) -> dict[str, Any]:
    """The document of `alike runs ls --json`: runs, unchanged, faults."""
    table, unchanged = listed(history), history.unchanged()
    return {
        "runs": table,
        "unchanged": None if unchanged is None else vars(unchanged),
        "faults": history.faults,
    }


def network_titles_of(record: RunRecord, store: "Store") -> dict[str, str]:
    """Label of each network of a run, empty for the first, to its network and weights in words.

    Networks whose features are gone from the store are left out.
    """
    from alike.extract.identity import network_titles

    keys = {"": record.network, **{label: one.network for label, one in record.others.items()}}
    there = set(store.groups())
    return network_titles({
        label: store.features(network["features"]).attrs
        for label, network in keys.items() if network.get("features") in there
    })  # fmt: skip


def run_document(record: RunRecord, store: "Store") -> dict[str, Any]:
    """The document of `alike runs show --json`: the record, and the titles of its networks."""
    return asdict(record) | {"titles": network_titles_of(record, store)}


def difference(records: Sequence[RunRecord], *, everything: bool = False) -> dict[str, Any]:
    """What runs differ in, side by side; the document of `alike runs diff --json`.

    Args:
        records: two runs or more; "before" is the first of them, "after" the last.
        everything: also what is the same in all of them.

    Returns:
        runs, times, states, errors: of each run.
        settings, versions, network: name to its value in each run.
        further: label of a further network to the same of it.
        counts: rows of count, before, after, difference, network, values (one a run).
        scores: rows of measure, score, before, after, difference, network, values, low, high.
        measures: label of a network (empty: the first) to the measure of its headline in each run.
        comparable: label to whether the scores of each run mean the same as those of the last.
        series: says so if they do not.

    Scores that mean different things have no difference, and only `everything` lists them.
    """
    labels = dict.fromkeys(label for one in records for label in one.others)
    networks: dict[str, list[RunRecord | None]] = {"": list(records)}
    networks |= {label: [one.of(label) for one in records] for label in labels}
    comparable = {label: _comparable(of) for label, of in networks.items()}
    counts = [row for label, of in networks.items() for row in _counts(label, of)]
    scores = [row for label, of in networks.items() for row in _scores(label, of)]
    further = {label: _sides([one.network if one else {} for one in networks[label]], everything)
               for label in labels}  # fmt: skip
    return {
        "runs": [one.id for one in records],
        "times": [one.time for one in records],
        "states": [one.state for one in records],
        "errors": [one.error for one in records],
        "settings": _sides([one.settings for one in records], everything),
        "versions": _sides([one.versions for one in records], everything),
        "network": _sides([one.network for one in records], everything),
        "further": {label: sides for label, sides in further.items() if sides},
        "counts": [row for row in counts if everything or _differ(row["values"])],
        "scores": [
            row for row in scores
            if everything or _differ(_only(row["values"], comparable[row["network"]]))
        ],
        "measures": {
            label: [one.measure if one else "" for one in of] for label, of in networks.items()
        },
        "comparable": comparable,
        "series": _series_note(comparable, [one.id for one in records]),
    }  # fmt: skip


def _comparable(records: Sequence[RunRecord | None]) -> list[bool]:
    """Whether the scores of each run mean the same as those of the last that has the network."""
    last = next((one.series for one in reversed(records) if one and one.scores), "")
    return [one is None or not one.scores or one.series == last for one in records]


def _series_note(comparable: dict[str, list[bool]], runs: Sequence[str]) -> str:
    """Says which runs' scores mean something else than those of the last; empty if none do."""
    first = [run for run, same in zip(runs, comparable[""], strict=True) if not same]
    if not first:
        return ""
    if len(runs) == len(first) + 1 == 2:
        return "the scores of the two runs mean different things"
    return f"the scores of {', '.join(first)} mean something else than those of {runs[-1]}"


def _counts(label: str, records: Sequence[RunRecord | None]) -> list[dict[str, Any]]:
    """Rows of the images at each stage."""
    names = dict.fromkeys(name for one in reversed(records) if one for name in one.counts)
    rows = []
    for name in names:
        values = [one.counts.get(name) if one else None for one in records]
        rows.append({"count": name, **_ends(values), "network": label, "values": values})
    return rows


def _scores(label: str, records: Sequence[RunRecord | None]) -> list[dict[str, Any]]:
    """Rows of the scores that one of the runs has."""
    names = dict.fromkeys(
        (measure, name)
        for one in reversed(records) if one
        for measure, of in one.scores.items()
        for name in of
    )  # fmt: skip
    same, rows = _comparable(records), []
    for measure, name in names:
        scores = [(one.scores.get(measure, {}).get(name) if one else None) or NONE
                  for one in records]  # fmt: skip
        values, low, high = ([score[place] for score in scores] for place in range(3))
        if all(value is None for value in values):
            continue
        ends = _ends(values, same[0] and same[-1])
        rows.append({
            "measure": measure, "score": name, **ends, "network": label, "values": values,
            "low": low, "high": high,
        })  # fmt: skip
    return rows


def _ends(values: Sequence[float | None], comparable: bool = True) -> dict[str, float | None]:
    """Value of the first run and the last, and the difference if they can be compared."""
    before, after = values[0], values[-1]
    there = comparable and before is not None and after is not None
    return {
        "before": before, "after": after,
        "difference": after - before if there else None,  # type: ignore[operator]
    }  # fmt: skip


def _differ(values: Sequence[float | None]) -> bool:
    """Whether two values are there that are not the same."""
    return len({value for value in values if value is not None}) > 1


def _only(values: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
    return [value for value, one in zip(values, wanted, strict=True) if one]


def _sides(sides: Sequence[dict[str, Any]], everything: bool) -> dict[str, list[Any]]:
    """Name to its value in each run; only those that are not the same in all, or all.

    A run that recorded nothing of them, as one that failed early, differs in none.
    """
    there = [bool(one) for one in sides]
    names = sorted(set().union(*sides))
    every = {name: [one.get(name) for one in sides] for name in names}
    return {
        name: values
        for name, values in every.items()
        if everything or any(value != of[0] for of in [_only(values, there)] for value in of)
    }
