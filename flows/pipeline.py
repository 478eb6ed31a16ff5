"""The flow: extract, index, analyse, retrain where triggered, extract again, compare, report.

Import it only after `alike.flows.engine.prepare`: Prefect reads its settings as it is imported.
"""

import shutil
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow

from alike.extract.progress import Progress, silent
from alike.flows import steps
from alike.flows.engine import step
from alike.flows.memo import alone_in
from alike.flows.retraining import Rounds, Served
from alike.flows.settings import read_pipeline
from alike.flows.steps import Run

if TYPE_CHECKING:
    from alike.analysis.analyse import Analysis

VERSIONS = ("alike", "torch", "torchvision", "zarr", "dask", "faiss-gpu", "faiss-cpu", "prefect")


@dataclass(frozen=True)
class Finished:
    """What a run leaves behind.

    Attributes:
        report: the HTML file.
        key: group of the network that is served from now on.
        reused: true where nothing had changed and nothing was computed.
        decisions: what was decided, each with its reason.
        seconds: time of each step that ran.
        bad: images that could not be used.
        notes: what the extractions noted.
    """

    report: Path
    key: str
    reused: bool
    decisions: tuple[str, ...]
    seconds: dict[str, float]
    bad: int = 0
    notes: tuple[str, ...] = ()


def run_pipeline(path: Path, progress: Progress = silent) -> Finished:
    """Run the flow of a settings file under Prefect."""
    return _flow(str(path), progress)


@flow(name="alike", persist_result=False, validate_parameters=False)
def scheduled(path: str) -> str:
    """Run the flow of `pipeline.toml`; returns the report's path."""
    return str(_run(Path(path), silent).report)


@flow(name="alike", persist_result=False, validate_parameters=False)
def _flow(path: str, progress: Any) -> Finished:  # Prefect cannot make a schema of a Protocol
    return _run(Path(path), progress)


def _run(path: Path, progress: Progress) -> Finished:
    pipeline = read_pipeline(path)
    with alone_in(pipeline.output.folder):
        return _go(Run(pipeline, progress))


def _go(run: Run) -> Finished:
    network = steps.load(run.pipeline, run.pipeline.network.weights)
    served = Served.read(run, network.weights_hash)
    key = step(steps.extract_images, "extract")(run, served.weights, "network")
    question = {
        "settings": run.pipeline.written,
        "images": steps.view_digest(run.store()),
        "network": network.identity,
    }
    report = run.folder / "report.html"
    known = run.memo.outputs("run", question)
    if known is not None and not run.seconds:
        bad = len(run.store().features(key).bad())
        return Finished(
            report, known["key"], True, tuple(known["decisions"]), {}, bad, tuple(run.notes)
        )
    untrained = None
    if run.pipeline.analyse.untrained and served.weights != "none":
        untrained = step(steps.extract_images, "extract")(run, "none", "untrained", network)
    step(steps.build, "index")(run, key, "network")
    before = step(steps.judge, "analyse")(run, key, "network", untrained)
    step(steps.explain, "explain")(run, key, served.weights, "network")
    rounds = Rounds(run, key, served.weights, before, untrained)
    rounds.go()
    step(_report, "report")(run, before, rounds, report)
    outputs = {"key": rounds.served, "decisions": run.decisions}
    run.memo.record("run", question, outputs, (report,))
    Served(rounds.weights, rounds.served, network.weights_hash).write(run)
    run.store().set_served(rounds.served)
    bad = len(run.store().features(key).bad())
    decisions, notes = tuple(run.decisions), tuple(run.notes)
    return Finished(report, rounds.served, False, decisions, run.seconds, bad, notes)


def _report(run: Run, before: "Analysis", rounds: Rounds, path: Path) -> None:
    from alike.analysis.report import main_measure, write_report

    store = run.store()
    view = store.images()
    bad = store.features(before.key).bad()
    pipeline = run.pipeline
    facts = {
        "title": pipeline.title or Path(pipeline.images.source).name,
        "source": pipeline.images.source,
        "network": pipeline.network.name,
        "weights": pipeline.network.weights,
        "settings": pipeline.model_dump(mode="json"),
        "versions": _versions(),
        "stages": run.seconds,
        "reused": run.reused,
        "images": {"listed": len(view), "ok": len(view) - len(bad), "bad": len(bad)},
        "bad": bad.to_dict(orient="records"),
        "decisions": run.decisions,
        "control": rounds.control,
        "verdict": rounds.verdict,
        "created": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    if rounds.after is not None:
        measure = main_measure(before)
        facts["likeness"] = steps.how_alike(run, before.key, rounds.after.key, measure)
    write_report(
        path,
        before=before,
        after=rounds.after,
        comparison=rounds.comparison,
        store=store,
        run=facts,
    )
    kept = run.folder / "reports" / f"{time.strftime('%Y-%m-%d-%H%M%S')}.html"
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, kept)


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError

    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # faiss is there under one of its two names
            continue
    return found
