"""One run of a settings file, step by step; `alike.flows.pipeline` hands it to Prefect."""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alike.extract.display import Displayed, Summary
from alike.extract.progress import Progress
from alike.flows import steps
from alike.flows.decisions import Accepted, DecisionLog
from alike.flows.memo import alone_in
from alike.flows.orchestration import step
from alike.flows.retraining import Rounds
from alike.flows.settings import read_pipeline
from alike.flows.steps import PipelineRun

if TYPE_CHECKING:
    from alike.analysis.analyse import Analysis
    from alike.extract.networks import Network

VERSIONS = ("alike", "torch", "torchvision", "zarr", "dask", "faiss-gpu", "faiss-cpu", "prefect")


@dataclass(frozen=True, repr=False)
class Finished(Displayed):
    """What a run leaves behind.

    Attributes:
        report: the HTML file.
        key: group of the network that is served from now on.
        reused: true if nothing had changed and nothing was computed.
        decisions: what was decided, each with its reason.
        seconds: time of each step that ran.
        bad: images that could not be used.
        notes: what a reader must know, as `PipelineRun` has it.
    """

    report: Path
    key: str
    reused: bool
    decisions: tuple[str, ...]
    seconds: dict[str, float]
    bad: int = 0
    notes: tuple[str, ...] = ()

    def _summary(self) -> Summary:
        facts = {
            "report": str(self.report), "bad images": self.bad,
            "seconds": "nothing was computed" if self.reused else float(sum(self.seconds.values())),
        }  # fmt: skip
        return Summary(f"run of {self.key}", facts, (*self.notes, *self.decisions))


def run_settings_file(path: Path, progress: Progress) -> Finished:
    """Run the steps of a settings file that must run.

    Raises:
        BadInput: settings that cannot work, or another run that works in the same folder.
    """
    pipeline = read_pipeline(path)
    with alone_in(pipeline.output.folder):
        return run_steps(PipelineRun(pipeline, progress))


def run_steps(run: PipelineRun) -> Finished:
    """Extract, index, analyse, retrain if triggered, and report; the caller holds the folder."""
    own = steps.load(run.pipeline, run.pipeline.network.weights)
    log = DecisionLog(run.memo, run.folder, run.pipeline, own.weights_hash)
    accepted = log.accepted()
    run.notes.extend(log.lost())
    weights = accepted.weights if accepted else run.pipeline.network.weights
    key = step(steps.extract_images, "extract")(run, weights, "network")
    report = run.folder / "report.html"
    earlier = None if run.seconds else run.memo.outputs("report", _question(run, own, key))
    if earlier is not None:
        return _finished(run, key, report, earlier["decisions"], reused=True)
    untrained = None
    if run.pipeline.analyse.untrained:
        # Of a network without weights it is the network itself, with which those that are
        # retrained from it are compared.
        random = weights == "none"
        untrained = (
            key if random else step(steps.extract_images, "extract")(run, "none", "untrained", own)
        )
    step(steps.build, "index")(run, key, "network")
    beside = None if untrained == key else untrained
    before = step(steps.judge, "analyse")(run, key, "network", beside)
    step(steps.explain, "explain")(run, key, weights, "network")
    rounds = Rounds(run, log, Accepted(weights, key), before, untrained)
    rounds.go()
    run.memo.forget("report")
    step(_report, "report")(run, before, rounds, report)
    question, files = _question(run, own, rounds.served), (report, *run.files)
    run.memo.record("report", question, {"decisions": run.decisions}, files)
    return _finished(run, rounds.served, report, run.decisions)


def _question(run: PipelineRun, own: "Network", key: str) -> dict[str, Any]:
    """All that the report of a run depends on, for the network that it serves at its end."""
    from alike.analysis.analyse import VERSION

    store = run.store()
    return {
        "settings": run.pipeline.written,
        "images": steps.view_digest(store),
        "share": steps.sides_of(store),
        "version": VERSION,
        "network": own.identity,
        "served": key,
        "features": store.features(key).digest,
    }


def _finished(
    run: PipelineRun, key: str, report: Path, decisions: Sequence[str], *, reused: bool = False
) -> Finished:
    store = run.store()
    store.set_served(key)
    bad = len(store.features(key).bad())
    seconds = {} if reused else run.seconds
    return Finished(report, key, reused, tuple(decisions), seconds, bad, tuple(run.notes))


def _report(run: PipelineRun, before: "Analysis", rounds: Rounds, path: Path) -> None:
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
    dated = run.folder / "reports" / f"{time.strftime('%Y-%m-%d-%H%M%S')}.html"
    dated.parent.mkdir(exist_ok=True)
    shutil.copyfile(path, dated)


def _versions() -> dict[str, str]:
    versions = {}
    for name in VERSIONS:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # faiss is there under one of its two names
            continue
    return versions
