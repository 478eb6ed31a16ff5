"""Alike to the labels, alike to people: the two lines side by side, and the table of the second."""

import math

from alike.analysis.report.lookup import Analysed, score_of, table_of
from alike.analysis.report.parts import section, table
from alike.analysis.report.subject import Subject, titled
from alike.analysis.report.words import change, interval_words, number

PEOPLE = "human_"
"""Before the names of scores against people in a comparison."""
LABELS = {
    "all_pairs": "all pairs of images",
    "same_class": "pairs of one class",
    "different_class": "pairs of different classes",
    "class_pairs": "pairs of classes",
    "rho_a": "all pairs, ties at random",
    "pearson": "all pairs, Pearson",
    "triplets": "triplets",
}


def people_sentences(analysis: Analysed, measure: str) -> list[str]:
    """How alike the features are to the labels, and to people; nothing if nobody was asked."""
    own = table_of(analysis, "human", measure)
    sameness = score_of(analysis, measure, "sameness")
    if own.empty or sameness is None:
        return []
    row = own.iloc[0]
    of = "share of triplets" if row["score"] == "triplets" else "Spearman's correlation"
    span = interval_words(row["low"], row["high"])
    ceiling = interval_words(row["ceiling_low"], row["ceiling_high"])
    labels = interval_words(sameness.low, sameness.high)
    parts = [f"95 % interval {span}"] if span else []
    parts += [f"people among themselves {ceiling}"] if ceiling else []
    beside = f" ({'; '.join(parts)})" if parts else ""
    return [
        f"Alike to the labels: sameness {number(sameness.value)}"
        + (f" (95 % interval {labels})." if labels else "."),
        f"Alike to people: {of} {number(row['value'])} over {LABELS[row['score']]}{beside}.",
    ]


def people_section(subject: Subject) -> str:
    """Every score against people, with ceilings, of each network and measure."""
    heads = [("Measure", "t"), ("Over", "t"), ("Value", "n"), ("95 % interval", "n")]
    heads += [("People: lower", "n"), ("People: upper", "n"), ("Against half", "n"), ("Pairs", "n")]
    rows: list[list[object]] = []
    notes: list[str] = []
    for name, analysis in subject.named:
        people = table_of(analysis, "human")
        for row in people.itertuples():
            ends = [row.ceiling_low, row.ceiling_high, row.against_half]
            rows.append([
                titled(name, row.measure), LABELS[row.score], (number(row.value), row.value),
                interval_words(row.low, row.high), *((number(end), _sorted(end)) for end in ends),
                (str(row.n), row.n),
            ])  # fmt: skip
        notes += (dict(analysis.settings).get("human") or {}).get("notes", [])
        notes += [] if people.empty else [note for note in people["note"] if note]
    if not rows:
        return ""
    lead = (
        "How alike the features and people find the same images. Nothing is fitted to people. The "
        "lower ceiling is what one part of the people reaches against the rest, the upper one what "
        "a model could reach that knows all of them."
    )
    caption = "; ".join(dict.fromkeys(notes))
    body = table(heads, rows, caption=caption) + _changes(subject)
    return section("people", "People", lead, body)


def _changes(subject: Subject) -> str:
    """Paired differences of two analyses, where they were compared by what people said."""
    compared = subject.comparison
    if compared is None or not compared["score"].str.startswith(PEOPLE).any():
        return ""
    heads = [
        ("Over", "t"),
        ("Before", "n"),
        ("After", "n"),
        ("Change", "n"),
        ("95 % interval", "n"),
    ]
    rows = [
        [LABELS[row.score.removeprefix(PEOPLE)], (number(row.a), row.a), (number(row.b), row.b),
         (change(row.difference), row.difference),
         interval_words(row.low, row.high, signed=True)]
        for row in compared.itertuples() if row.score.startswith(PEOPLE)
    ]  # fmt: skip
    caption = f"{subject.measure}; both sides are scored in the same draws of images and raters"
    return table(heads, rows, caption=caption)


def _sorted(value: float) -> float:
    return value if math.isfinite(value) else -2.0
