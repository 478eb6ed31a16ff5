"""What the data allow: bounds on the error, suspected labels, outliers."""

from typing import Any

import pandas as pd

from alike.analysis.data_limits import data_sentences
from alike.analysis.figures import sufficiency_figure
from alike.analysis.report.lookup import listed, table_of
from alike.analysis.report.parts import details, figure, section, table, text
from alike.analysis.report.subject import Subject
from alike.analysis.report.words import DASH, interval_words, number, words
from alike.analysis.sufficiency import sufficiency_sentences

SHOWN = 200
KINDS = {"label": "Labels that the neighbours contradict", "outlier": "Images far from all others"}


def data_section(subject: Subject, store: Any) -> str:
    """The limits, and the first images of each kind; nothing of analyses before 0.2.0."""
    limits = _limits(subject)
    return section("data", "Data", "", limits + _lists(subject, store)) if limits else ""


def limits_section(subject: Subject) -> str:
    """The same without the lists of images."""
    return section("data", "What the data allow", "", _limits(subject))


def _limits(subject: Subject) -> str:
    """The sentences, bounds on the error, and what more images would change."""
    sentences = data_sentences(subject.last.tables)
    if not sentences:
        return ""
    curve = table_of(subject.last, "sufficiency")
    sentences += sufficiency_sentences(curve)
    body = "".join(f"<p>{text(sentence)}</p>" for sentence in sentences)
    bounds = table_of(subject.last, "bayes")
    heads = [("Neighbours that vote", "n"), ("Bayes error, at least", "n"), ("at most", "n")]
    heads += [("95 %, at least", "n"), ("at most", "n")]
    rows = [
        [(str(row.voters), row.voters)]
        + [(number(v, "share"), v) if v == v else (DASH, -1.0)
           for v in (row.lower, row.upper, row.lower_low, row.upper_high)]
        for row in bounds.itertuples()
    ]  # fmt: skip
    return body + table(heads, rows) + _curve(curve)


def _lists(subject: Subject, store: Any) -> str:
    body = ""
    paths = {} if store is None else listed(store)[0]
    suspects = table_of(subject.last, "suspects")
    opinion = subject.last.settings.get("second_opinion")
    for kind, title in KINDS.items():
        part = suspects[suspects["kind"] == kind]
        heads = [("Image", "t"), ("Label", "t")]
        heads += [("Neighbours say", "t"), ("Margin", "n")] if kind == "label" else [("z", "n")]
        second = kind == "label" and "cleanlab" in part
        heads += [("cleanlab suspects it", "t")] if second else []
        lines = [
            [str(paths.get(row.row, row.row)), row.label]
            + ([row.suggested] if kind == "label" else [])
            + [(f"{row.score:.3g}", row.score)]
            + ([row.cleanlab] if second else [])
            for row in part.head(SHOWN).itertuples()
        ]  # fmt: skip
        if lines:
            summary = f"{title}: {len(part)}"
            summary += f", the first {SHOWN}" if len(part) > SHOWN else ""
            summary += f"; second opinion: {opinion}" if second and opinion else ""
            body += details(summary, table(heads, lines, tall=True))
    return body


def _curve(curve: pd.DataFrame) -> str:
    """The figure of what more images would change, and its numbers."""
    if curve.empty:
        return ""
    heads = [("Score", "t"), ("Images", "n"), ("Value", "n"), ("95 % interval", "n"), ("Kind", "t")]
    rows = [
        [words(row.score).label, (f"{row.images:,}", row.images),
         (number(row.value), row.value), interval_words(row.low, row.high), row.kind]
        for row in curve.itertuples()
    ]  # fmt: skip
    caption = (
        "Beyond the images there are, a power law predicts the accuracy of the nearest neighbour. "
        "The expected sameness does not depend on the number of images."
    )
    plot = sufficiency_figure(curve, {name: words(name).label for name in ("one_nn", "sameness")})
    drawn = figure(plot, "sufficiency", title="What more images would change", caption=caption)
    return drawn + details("Numbers of images", table(heads, rows))
