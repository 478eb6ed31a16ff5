"""Sections of the report for the page of a server: the same HTML, one by one."""

from collections.abc import Mapping, Sequence
from typing import Any

from alike.analysis.report.distances import distances
from alike.analysis.report.explanations import explanations_section
from alike.analysis.report.history import over_time
from alike.analysis.report.lookup import Analysed, main_measure
from alike.analysis.report.networks import networks_section
from alike.analysis.report.people import people_section
from alike.analysis.report.report import top
from alike.analysis.report.scores import measures, scores
from alike.analysis.report.subject import Subject


def score_sections(
    analysis: Analysed, store: Any, runs: Sequence[Mapping[str, Any]] = ()
) -> dict[str, str]:
    """What the report says of scores, without what has not been computed.

    Args:
        analysis: to report.
        store: of its features.
        runs: records of good runs, oldest first.

    Returns:
        Name of the section to its HTML: `top` (headline, tiles, scale), `scores`, `distances`,
        `measures`, `people`, `networks`, `over_time`, `explanations` (continuity and grades).
    """
    subject = Subject(analysis, None, None, main_measure(analysis))
    sections = {
        "top": top(subject, {}, store),
        "scores": scores(subject),
        "distances": distances(subject),
        "networks": networks_section(subject, store),
        "over_time": over_time({"history": {"runs": list(runs), "of": len(runs)}}),
        "measures": measures(subject),
        "people": people_section(subject),
        "explanations": explanations_section({"network": analysis.key}, store),
    }
    return {name: html for name, html in sections.items() if html}
