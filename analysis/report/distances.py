"""The section of distances: histograms of the two kinds of pair, and the ROC curve."""

import pandas as pd

from alike.analysis.figures import figures
from alike.analysis.report.lookup import CEILING, FLOOR, HEADLINE, UNTRAINED, table_of
from alike.analysis.report.parts import columns, figure, section
from alike.analysis.report.subject import Subject, titled


def distances(subject: Subject) -> str:
    """Histograms of same and different pairs, and the trade between finding and false alarms."""
    tables = [(name, table_of(a, "histograms", subject.measure), a) for name, a in subject.named]
    tables = [item for item in tables if not item[1].empty]
    parts = []
    if tables:
        span = (
            min(float(t["bin_low"].min()) for _, t, _ in tables),
            max(float(t["bin_high"].max()) for _, t, _ in tables),
        )
        histograms = []
        for name, histogram, analysis in tables:
            roc = table_of(analysis, "roc", subject.measure)
            threshold = None if roc.empty else figures.best_threshold(roc, subject.measure)
            chart = figures.histogram(
                histogram, measure=subject.measure, threshold=threshold, span=span
            )
            histograms.append(
                figure(chart, f"histogram-{name}", title=titled(name, "Distances of pairs"))
            )
        parts.append(columns(*histograms))
    curves = _curves(subject)
    if curves:
        parts.append(
            figure(
                figures.roc(curves),
                "roc",
                title="Same pairs found, different pairs let in",
                caption="Each point is a distance threshold. A curve along the left and the upper "
                "edge is perfect. The diagonal is chance.",
            )
        )
    lead = (
        "The less the two histograms overlap, the better the distance separates pairs of one class "
        "from pairs of two classes. The dotted line is the threshold with the greatest balanced "
        "accuracy on these pairs."
    )
    return section("distances", "Distances", lead, "".join(parts))


def _curves(subject: Subject) -> dict[str, tuple[pd.DataFrame, str]]:
    curves = {name: (table_of(a, "roc"), subject.measure) for name, a in subject.named}
    last = table_of(subject.last, "roc")
    first = table_of(subject.before, "roc")
    curves |= {"raw pixels": (last, FLOOR), "classifier": (last, CEILING)}
    if subject.measure == HEADLINE:
        curves |= {"untrained": (first, UNTRAINED)}
    return {
        name: (rows, measure)
        for name, (rows, measure) in curves.items()
        if len(rows) and (rows["measure"] == measure).any()
    }
