"""What a run shows on a Prefect server at its end: artifacts with fixed keys, and events.

Each key is the same in every run of a pipeline, so the server shows its history. Nothing of it is
read again: a server that is gone costs a warning and no run.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import get_run_logger
from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from alike.extract.secrets import masked, masked_all
from alike.flows.finished import Finished
from alike.flows.names import artifact_key, store_resource

if TYPE_CHECKING:
    import pandas as pd

    from alike.flows.history import RunRecord
    from alike.flows.sections import Pipeline

PAIRS = 20
"""Pairs of classes that are shown."""
_CHANGES = ("added", "removed", "relabelled")


@dataclass(frozen=True)
class Ended:
    """A run that came to its end.

    Attributes:
        done: what came of it.
        record: of the last good run.
        served: features of the network that was served before; empty before the first run.
        class_pairs: the nearest pairs of classes, by the headline's measure; None if nothing was
            computed.
    """

    done: Finished
    record: "RunRecord"
    served: str
    class_pairs: "pd.DataFrame | None" = None


def publish(pipeline: "Pipeline", done: Finished) -> None:
    """Show a run that computed something; one that found nothing changed only emits its event.

    Args:
        pipeline: the settings, paths resolved.
        done: what came of the run.
    """
    try:
        ended = _ended(pipeline, done)
        if not done.reused:
            _show(pipeline, ended)
        for name, payload in events_of(ended).items():
            _emit(name, pipeline, payload)
    except Exception as error:
        text = masked(" ".join(f"{type(error).__name__} {error}".split()))
        get_run_logger().warning(f"not all of the run is shown on the server: {text}")


def _ended(pipeline: "Pipeline", done: Finished) -> Ended:
    from alike.analysis.class_pairs import nearest_pairs
    from alike.analysis.stored import Analysis
    from alike.extract.store import Store
    from alike.flows.history import History

    store = Store.open(pipeline.store_place)
    good = [one for one in History(store).records() if one.good]
    before = good[-2].network["features"] if len(good) > 1 else ""
    if done.reused:
        return Ended(done, good[-1], before)
    table = Analysis.load(store, done.key).tables["class_pairs"]
    pairs = nearest_pairs(table, good[-1].measure, PAIRS)
    columns = [name for name in ("class_a", "class_b", "mean", "std") if name in pairs]
    return Ended(done, good[-1], before, pairs[columns])


def _show(pipeline: "Pipeline", ended: Ended) -> None:
    """Write the artifacts; their keys begin with what they show."""

    def key(what: str) -> str:
        return artifact_key(pipeline, what)

    title = masked(pipeline.title or pipeline.images.source)
    create_markdown_artifact(summary(pipeline, ended), key("summary"), f"Last run of {title}")
    scores = _plain(score_rows(ended.record))
    create_table_artifact(scores, key("scores"), f"Scores of {title}, with intervals")
    if ended.class_pairs is not None:
        pairs = _plain(ended.class_pairs.to_dict(orient="records"))
        heading = f"Nearest pairs of classes by {ended.record.measure}"
        create_table_artifact(pairs, key("class-pairs"), heading)
    create_link_artifact(report_link(pipeline, ended.done.report), "Report", key("report"))


def score_rows(record: "RunRecord") -> list[dict[str, Any]]:
    """Scores of a record, a row each, those of the headline's measure first."""
    measures = sorted(record.scores, key=lambda one: (one != record.measure, one))
    return [
        {
            "measure": measure,
            "score": name,
            **dict(zip(("value", "low", "high"), three, strict=True)),
        }
        for measure in measures
        for name, three in record.scores[measure].items()
    ]


def report_link(pipeline: "Pipeline", report: Path) -> str:
    """Address of the report: below `report_url` if that is set, else that of the file."""
    url = pipeline.prefect.report_url
    return f"{url.rstrip('/')}/{report.name}" if url else report.resolve().as_uri()


def summary(pipeline: "Pipeline", ended: Ended) -> str:
    """The run in Markdown: what somebody reads in the morning."""
    done, record = ended.done, ended.record
    value, low, high = record.scores[record.measure].get("sameness", (None, None, None))
    headline = "" if value is None else f"Sameness by {record.measure}: **{value:.4g}**"
    if headline and low is not None and high is not None:
        headline += f" ({low:.4g} to {high:.4g})"
    counts = ", ".join(f"{count} {name}" for name, count in record.counts.items())
    changes = ", ".join(f"{record.changes.get(name, 0)} {name}" for name in _CHANGES)
    parts = [
        headline,
        f"Images: {counts}. Since the last run: {changes}.",
        _list("Alarms", done.alarms),
        _list("What ran, and why", record.reasons),
        _list("Decisions", done.decisions),
        _list("Notes", done.notes),
        _list("Seconds", [f"{name}: {seconds:.1f}" for name, seconds in done.seconds.items()]),
        f"Report: {report_link(pipeline, done.report)}",
    ]
    return masked("\n\n".join(part for part in parts if part))


def _list(heading: str, lines: Sequence[str]) -> str:
    return "\n".join([f"**{heading}**", "", *(f"- {one}" for one in lines)]) if lines else ""


def events_of(ended: Ended) -> dict[str, dict[str, Any]]:
    """Events of a run: name to what it says."""
    done, record = ended.done, ended.record
    facts: dict[str, Any] = {
        "run": record.id,
        "network": record.network,
        "counts": record.counts,
        "report": str(done.report),
    }
    if done.reused:
        return {"alike.run.unchanged": facts}
    scores = {name: value for name, (value, *_) in record.scores[record.measure].items()}
    more = {"measure": record.measure, "scores": scores, "changes": record.changes}
    events = {"alike.run.finished": {**facts, **more, "alarms": list(done.alarms)}}
    if ended.served and ended.served != done.key:
        events["alike.network.replaced"] = {**facts, "before": ended.served}
    return events


def _emit(name: str, pipeline: "Pipeline", payload: dict[str, Any]) -> None:
    """Emit an event about the store; without a lasting server there is nobody to hear it."""
    if not os.environ.get("PREFECT_API_URL"):
        return
    from prefect.events import emit_event

    resource = store_resource(pipeline.store_place)
    emit_event(event=name, resource=resource, payload=_plain(masked_all(payload)))


def _plain(value: Any) -> Any:
    """As JSON has it: NaN is null."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, str | bool | int):
        return value
    return float(value) if float(value) == float(value) else None
