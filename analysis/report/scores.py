"""The sections of numbers: tiles, the score table with floor and ceiling, every measure."""

import math

import pandas as pd

from alike.analysis.report.lookup import (
    CEILING,
    FLOOR,
    NETWORK,
    Analysed,
    Value,
    accuracy_of,
    score_of,
    table_of,
    untrained_score,
    worst_class,
)
from alike.analysis.report.parts import Html, details, facts, section, table, text, tile
from alike.analysis.report.subject import Subject
from alike.analysis.report.words import (
    FIRST,
    Form,
    change,
    interval_words,
    measure_words,
    number,
    words,
)

ACROSS_MEASURES = ("sameness", "balanced_accuracy", "eer", "one_nn", "purity_at_10", "map_at_r")
RAW, CLASSIFIER = "Raw pixels", "Classifier"
ENDS = {
    RAW: "Raw pixels are the floor.",
    CLASSIFIER: (
        "The classifier's probabilities are the ceiling if its classes are those of the images. "
        "If they are not, features can score higher."
    ),
}
"""What the columns at both ends of the scale are."""
NOTHING = ("", "")
"""A cell of what was not computed."""


def tiles(subject: Subject) -> str:
    """The few numbers that matter."""
    first = ("sameness", "balanced_accuracy", "accuracy", "linear_probe")
    parts = [_tile(subject, score) for score in first]
    worst = worst_class(subject.last, subject.measure)
    if worst is not None:
        parts.append(tile("Worst class", number(worst[1]), f"sameness of “{worst[0]}”"))
    return f'<div class="tiles">{"".join(parts)}</div>' if any(parts) else ""


def _tile(subject: Subject, score: str) -> str:
    word = words(score)
    all_values = [_find(subject, analysis, score) for _, analysis in subject.named]
    values = [value for value in all_values if value is not None]
    if len(values) < len(all_values):
        return ""
    if len(values) == 1:
        span = interval_words(values[0].low, values[0].high, word.form)
        return tile(word.label, number(values[0].value, word.form), f"95 %: {span}" if span else "")
    row = _row(subject.comparison, score)
    tone, note = "", change(values[1].value - values[0].value, word.form)
    if row is not None and math.isfinite(float(row["low"])):
        tone = _tone(row)
        span = interval_words(row["low"], row["high"], word.form, signed=True)
        note = f"{change(row['difference'], word.form)}\n95 %: {span}"
    shown = " → ".join(number(value.value, word.form) for value in values)
    return tile(word.label, shown.replace(" % →", " →"), note, tone)


def scores(subject: Subject) -> str:
    """Every score of the headline measure beside floor, untrained network and ceiling."""
    own = table_of(subject.last, "scores", subject.measure)
    if own.empty:
        return ""
    accuracy = [] if accuracy_of(subject.last) is None else ["accuracy"]
    of_network = table_of(subject.last, "scores", NETWORK)["score"]
    names = list(dict.fromkeys([*own["score"], *accuracy, *of_network]))
    own_heads = ("Value",) if subject.after is None else ("Before", "After", "Change")
    heads = [(name, "n") for name in (*own_heads, RAW, "Untrained", CLASSIFIER)]
    heads = [("Score", "t"), *heads]
    listed = [name for name in FIRST if name in names]
    n_first, listed = len(listed), [*listed, *(str(one) for one in names if one not in FIRST)]
    heads, rows = _filled(heads, [_score_row(subject, name) for name in listed])
    first, rest = rows[:n_first], rows[n_first:]
    there = [name for name, _ in heads]
    lead = f"Measure: {subject.measure} ({measure_words(subject.measure)}). Intervals are 95 %."
    lead += "".join(f" {says}" for name, says in ENDS.items() if name in there)
    more = details(f"{len(rest)} more scores", table(heads, rest)) if rest else ""
    return section("scores", "Scores", lead, table(heads, first) + more)


def _filled(
    heads: list[tuple[str, str]], rows: list[list[object]]
) -> tuple[list[tuple[str, str]], list[list[object]]]:
    """The columns in which some row has something."""
    there = [i for i in range(len(heads)) if any(row[i] != NOTHING for row in rows)]
    return [heads[i] for i in there], [[row[i] for i in there] for row in rows]


def _score_row(subject: Subject, score: str) -> list[object]:
    word = words(score)
    own = table_of(subject.last, "scores")
    better = own.loc[own["score"] == score, "better"]
    good = {"up": "Higher is better.", "down": "Lower is better."}.get(
        str(better.iloc[0]) if len(better) else "", ""
    )
    label = Html(f'{text(word.label)}<span class="sub">{text(word.says)} {good}</span>')
    cells: list[object] = [(label, word.label)]
    for _, analysis in subject.named:
        cells.append(_value_cell(_find(subject, analysis, score), word.form))
    if subject.after is not None:
        cells.append(_change_cell(_row(subject.comparison, score), word.form))
    # A distance of another measure has another unit, and accuracy is not a matter of distance.
    comparable = word.form != "distance" and score != "accuracy"
    floor = score_of(subject.last, FLOOR, score) if comparable else None
    cells.append(_value_cell(floor, word.form))
    cells.append(_value_cell(untrained_score(subject.before, subject.measure, score), word.form))
    ceiling = score_of(subject.last, CEILING, score) if comparable else None
    cells.append(_value_cell(ceiling, word.form))
    return cells


def _find(subject: Subject, analysis: Analysed, score: str) -> Value | None:
    if score == "accuracy":
        return accuracy_of(analysis)
    value = score_of(analysis, subject.measure, score)
    return score_of(analysis, NETWORK, score) if value is None else value


def _row(comparison: pd.DataFrame | None, score: str) -> pd.Series | None:
    if comparison is None or comparison.empty:
        return None
    rows = comparison[comparison["score"] == score]
    return None if rows.empty else rows.iloc[0]


def _tone(row: pd.Series) -> str:
    """`better` or `worse` where the headline's interval leaves out zero, else nothing.

    Other scores have no mark: of a dozen intervals of 95 %, one leaves out zero by chance in every
    second report.
    """
    if row.get("score") != "sameness":
        return ""
    low, high = float(row["low"]), float(row["high"])
    if not (low > 0 or high < 0):
        return ""
    return "better" if (low > 0) == (row.get("better", "up") == "up") else "worse"


def _value_cell(value: Value | None, form: Form) -> object:
    if value is None:
        return NOTHING
    span = interval_words(value.low, value.high, form)
    under = f'<span class="sub">{text(span)}</span>' if span else ""
    return (Html(text(number(value.value, form)) + under), value.value)


def _change_cell(row: pd.Series | None, form: Form) -> object:
    if row is None:
        return NOTHING
    tone = {"better": "up", "worse": "down"}.get(_tone(row), "")
    span = interval_words(row["low"], row["high"], form, signed=True)
    under = f'<span class="sub">{text(span)}</span>' if span else ""
    markup = f'<span class="{tone}">{text(change(row["difference"], form))}</span>{under}'
    return (Html(markup), float(row["difference"]))


def measures(subject: Subject) -> str:
    """The same question asked of every measure that was computed."""
    own = table_of(subject.last, "scores")
    if own.empty or own["measure"].nunique() < 2:
        return ""
    names = [score for score in ACROSS_MEASURES if (own["score"] == score).any()]
    heads = [("Measure", "t")]
    heads += [] if subject.after is None else [("Sameness before", "n")]
    heads += [(words(name).label, "n") for name in names]
    rows = []
    for measure in dict.fromkeys(own["measure"]):
        if score_of(subject.last, measure, "sameness") is None:
            continue
        label = f'{text(measure)}<span class="sub">{text(measure_words(measure))}</span>'
        cells: list[object] = [(Html(label), measure)]
        if subject.after is not None:
            cells.append(_value_cell(score_of(subject.before, measure, "sameness"), "plain"))
        cells += [
            _value_cell(score_of(subject.last, measure, name), words(name).form) for name in names
        ]
        rows.append(cells)
    lead = "The same scores by every measure that was computed. Click a heading to sort."
    left_out = dict(subject.last.settings or {}).get("left_out") or {}
    body = table(heads, rows) + facts("Measures left out, and why", left_out)
    return section("measures", "Measures", lead, body)
