"""Sections of the report for the page of a server: the same HTML, one by one."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from alike.analysis.report.data import limits_section
from alike.analysis.report.distances import distances
from alike.analysis.report.explanations import explanations_section
from alike.analysis.report.history import over_time, since
from alike.analysis.report.layers import layers_section
from alike.analysis.report.lookup import Analysed, main_measure
from alike.analysis.report.networks import networks_section
from alike.analysis.report.people import people_section
from alike.analysis.report.report import top
from alike.analysis.report.scores import measures, scores
from alike.analysis.report.subject import Subject


def score_sections(
    analysis: Analysed,
    store: Any,
    runs: Sequence[Mapping[str, Any]] = (),
    names: Collection[str] = (),
    measure: str | None = None,
) -> dict[str, str]:
    """What the report says of scores, without what has not been computed.

    Args:
        analysis: to report.
        store: of its features.
        runs: records of good runs, oldest first.
        names: sections that are written; none: all.
        measure: of the scores; None: `main_measure`.

    Returns:
        Name of the section to its HTML: `top` (headline, tiles, scale), `scores`, `distances`,
        `measures`, `layers`, `data` (bounds on the error, what more images would change),
        `people`, `networks`, `since` (what changed since the run before), `over_time`,
        `explanations` (continuity and grades).
    """
    subject = Subject(analysis, None, None, measure or main_measure(analysis))
    record = {"history": {"runs": list(runs), "of": len(runs)}}
    sections: dict[str, Callable[[], str]] = {
        "top": lambda: top(subject, {}, store),
        "scores": lambda: scores(subject),
        "distances": lambda: distances(subject),
        "networks": lambda: networks_section(subject, store),
        "since": lambda: since(record),
        "over_time": lambda: over_time(record),
        "measures": lambda: measures(subject),
        "layers": lambda: layers_section(subject),
        "data": lambda: limits_section(subject),
        "people": lambda: people_section(subject),
        "explanations": lambda: explanations_section({"network": analysis.key}, store),
    }
    written = {name: write() for name, write in sections.items() if not names or name in names}
    return {name: html for name, html in written.items() if html}
