"""The sections that look back: what changed since the last run, and scores over all runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from alike.analysis.figures import over_time as figure_over_time
from alike.analysis.report.parts import details, figure, section, table, text
from alike.analysis.report.words import change, count, number, words

SHOWN = ("sameness", "auc", "balanced_accuracy", "eer", "one_nn", "map_at_r", "accuracy")
DRAWN = ("sameness", "accuracy")
COLUMNS = ["time", "name", "value", "low", "high", "series"]


def since(run: Mapping[str, Any]) -> str:
    """What is new since the run before: images, settings, versions, scores; empty without one."""
    runs = _runs(run)
    if len(runs) < 2:
        return ""
    before, now = runs[-2], runs[-1]
    sentences = [*_images(now), *_settings(now), *_versions(before, now)]
    if before["series"] != now["series"]:
        sentences.append("The scores mean something else than before, so they are not compared.")
    sentences = sentences or ["Images, settings and versions are those of the run before."]
    lines = "".join(f"<p>{text(sentence)}</p>" for sentence in sentences)
    when = before["time"][:16].replace("T", " ")
    lead = (
        f"The run before was {when}. Each run is scored on its own images. Differences have no "
        "interval here."
    )
    reasons = "".join(f"<li>{text(reason)}</li>" for reason in now["reasons"])
    again = details("What ran again, and why", f"<ul>{reasons}</ul>" if reasons else "")
    scores = _scores(before, now)
    for label in now.get("others", {}):
        both = runs_of([before, now], label)
        said = "<p>It was not in the run before.</p>"
        if len(both) == 2:
            said = _scores(*both) or "<p>Its scores mean something else than before.</p>"
        scores += f"<h3>{text(label)}</h3>{said}"
    return section("since", "Since last time", lead, lines + scores + again)


def over_time(run: Mapping[str, Any]) -> str:
    """Scores with intervals, images and bad images over the runs; empty before the second."""
    runs = _runs(run)
    if len(runs) < 2:
        return ""
    plot = figure(
        figure_over_time(series_table(runs)),
        "history",
        caption="Bars are 95 % intervals. A line breaks where a score changed its meaning.",
    )
    for place, label in enumerate(runs[-1].get("others", {}), 1):
        own = runs_of(runs, label)
        if len(own) > 1:
            plot += figure(figure_over_time(series_table(own)), f"history-{place}", title=label)
    whole = int((run.get("history") or {}).get("of", len(runs)))
    cut = f" The last {len(runs)} of {count(whole)} are shown." if whole > len(runs) else ""
    lead = f"Runs that found something changed, oldest first.{cut}"
    return section("over_time", "Over time", lead, plot)


def runs_of(runs: Sequence[Mapping[str, Any]], label: str) -> list[dict[str, Any]]:
    """The records that have a further network, each as if it were the only one.

    Args:
        runs: records of runs.
        label: of the network.
    """
    return [
        {**one, **one["others"][label], "others": {}}
        for one in runs
        if label in one.get("others", {})
    ]


def series_table(runs: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """The table that the figure over time takes, of records of good runs, oldest first."""
    rows = []
    for one in runs:
        for name in DRAWN:
            score = _score(one, name)
            if score is not None:
                value, low, high = (float("nan") if part is None else part for part in score)
                rows.append((one["time"], words(name).label, value, low, high, one["series"]))
        counts, none = one["counts"], float("nan")
        listed = counts.get("listed", 0)
        share = counts.get("bad", 0) / listed if listed else none
        rows.append((one["time"], "images", counts.get("ok", 0), none, none, ""))
        rows.append((one["time"], "bad share", share, none, none, ""))
    return pd.DataFrame(rows, columns=COLUMNS)


def _runs(run: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list((run.get("history") or {}).get("runs", ()))


def _score(record: Mapping[str, Any], name: str) -> list[float | None] | None:
    for measure in (record["measure"], "network"):
        score: list[float | None] | None = record["scores"].get(measure, {}).get(name)
        if score is not None and score[0] is not None:
            return score
    return None


def _images(now: Mapping[str, Any]) -> list[str]:
    changes = now["changes"]
    parts = [f"{count(changes[name])} {name}" for name in changes if changes[name]]
    bad = now["counts"].get("bad", 0)
    sentences = [f"Images: {', '.join(parts)}."] if parts else []
    return sentences + (
        [f"{count(bad)} {'image is' if bad == 1 else 'images are'} left out now."] if bad else []
    )


def _settings(now: Mapping[str, Any]) -> list[str]:
    return [
        f"The setting {name} was {old}, and is {new}."
        for name, (old, new) in now["changed"].items()
    ]


def _versions(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    old, new = before["versions"], now["versions"]
    return [
        f"{name} was {old.get(name, 'absent')}, and is {new.get(name, 'absent')}."
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _scores(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    if before["series"] != now["series"]:
        return ""
    rows = []
    for name in SHOWN:
        then, this = _score(before, name), _score(now, name)
        if then is None or this is None:
            continue
        first, second = (float("nan") if one[0] is None else one[0] for one in (then, this))
        word = words(name)
        cells = [(number(value, word.form), value) for value in (first, second)]
        rows.append([word.label, *cells, (change(second - first, word.form), second - first)])
    heads = [("Score", "t"), ("Before", "n"), ("Now", "n"), ("Change", "n")]
    return table(heads, rows) if rows else ""
