"""What the data allow: bounds on the error, suspected labels, outliers."""

from typing import Any

from alike.analysis.data_limits import data_sentences
from alike.analysis.report.lookup import table_of
from alike.analysis.report.parts import details, section, table, text
from alike.analysis.report.subject import Subject
from alike.analysis.report.words import DASH, number

SHOWN = 200
KINDS = {"label": "Labels that the neighbours contradict", "outlier": "Images far from all others"}


def data_section(subject: Subject, store: Any) -> str:
    """The sentences, and the first images of each kind; nothing of analyses before 0.2.0."""
    sentences = data_sentences(subject.last.tables)
    if not sentences:
        return ""
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
    body += table(heads, rows)
    paths = {} if store is None else _paths(store)
    suspects = table_of(subject.last, "suspects")
    for kind, title in KINDS.items():
        part = suspects[suspects["kind"] == kind]
        heads = [("Image", "t"), ("Label", "t")]
        heads += [("Neighbours say", "t"), ("Margin", "n")] if kind == "label" else [("z", "n")]
        lines = [
            [str(paths.get(row.row, row.row)), row.label]
            + ([row.suggested] if kind == "label" else [])
            + [(f"{row.score:.3g}", row.score)]
            for row in part.head(SHOWN).itertuples()
        ]  # fmt: skip
        if lines:
            summary = f"{title}: {len(part)}"
            summary += f", the first {SHOWN}" if len(part) > SHOWN else ""
            body += details(summary, table(heads, lines, tall=True))
    return section("data", "Data", "", body)


def _paths(store: Any) -> dict[int, str]:
    view = store.images()
    paths: dict[int, str] = view[view["row"] >= 0].set_index("row")["path"].to_dict()
    return paths
