"""The flow: extract, index, analyse, retrain where triggered, extract again, compare, report.

Import it only after `flows.engine.prepare`, for Prefect reads its settings when it is imported.
"""

import json
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefect import flow

from extract.progress import Progress, silent
from flows import steps
from flows.engine import step
from flows.settings import Pipeline, read_pipeline
from flows.steps import Run

if TYPE_CHECKING:
    import pandas as pd

    from analysis.analyse import Analysis
    from train.trigger import Decision

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
    """

    report: Path
    key: str
    reused: bool
    decisions: tuple[str, ...]
    seconds: dict[str, float]


def run_pipeline(path: Path, progress: Progress = silent) -> Finished:
    """Run the flow of a settings file under Prefect."""
    return _flow(str(path), progress)


@flow(name="alike", persist_result=False, validate_parameters=False)
def scheduled(path: str) -> str:
    """Run the flow of `pipeline.toml`; returns the report's path."""
    return str(_run(Path(path), silent).report)


@flow(name="alike", persist_result=False, validate_parameters=False)
def _flow(path: str, progress: Progress) -> Finished:
    return _run(Path(path), progress)


def _run(path: Path, progress: Progress) -> Finished:
    run = Run(read_pipeline(path), progress)
    served = Served.read(run)
    network = steps.load(run, served.weights)
    key = step(steps.extract_images, "extract")(run, served.weights, "network")
    parent = served.parent or network.weights_hash
    question = {
        "settings": run.pipeline.model_dump(mode="json"),
        "images": steps.view_digest(run.store()),
        "network": parent,
    }
    report = run.folder / "report.html"
    known = run.memo.outputs("run", question)
    if known is not None and not run.seconds:
        return Finished(report, known["key"], True, tuple(known["decisions"]), {})
    untrained = None
    if run.pipeline.analyse.untrained and served.weights != "none":
        untrained = step(steps.extract_images, "extract")(run, "none", "untrained", network)
    step(steps.build, "index")(run, key, "network")
    before = step(steps.judge, "analyse")(run, key, "network", untrained)
    rounds = _Rounds(run, key, served.weights, before, untrained)
    rounds.go()
    step(_report, "report")(run, before, rounds, report)
    outputs = {"key": rounds.served, "decisions": run.decisions}
    run.memo.record("run", question, outputs, (report,))
    Served(rounds.weights, rounds.served, parent).write(run)
    run.store().set_served(rounds.served)
    return Finished(report, rounds.served, False, tuple(run.decisions), run.seconds)


@dataclass(frozen=True)
class Served:
    """The weights that this folder's runs use now, kept in `served.json`.

    Attributes:
        weights: file or name, as the settings or the last accepted retraining gave it.
        key: its group in the store; empty before the first run.
        parent: weights hash that the settings' own weights had; empty before the first run.
    """

    weights: str
    key: str = ""
    parent: str = ""

    @classmethod
    def read(cls, run: Run) -> "Served":
        """What is served; the settings' own weights where they changed or nothing is served."""
        file = run.folder / "served.json"
        own = run.pipeline.network.weights
        if file.is_file():
            kept = json.loads(file.read_text(encoding="utf-8"))
            if kept.pop("settings") == _origin(run.pipeline) and Path(kept["weights"]).exists():
                return cls(**kept)
        return cls(own)

    def write(self, run: Run) -> None:
        """Keep it, beside what it came from."""
        kept = {**vars(self), "settings": _origin(run.pipeline)}
        aside = run.folder / "served.part"
        aside.write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")
        aside.replace(run.folder / "served.json")


def _origin(pipeline: Pipeline) -> dict[str, Any]:
    return pipeline.network.model_dump(mode="json")


class _Rounds:
    """Retraining as often as the settings allow and the scores ask for.

    Attributes:
        served: key of the group that is used from now on.
        weights: its weights.
        after: analysis of the last retrained network, accepted or not.
        comparison: before against after on the held-out images.
        control: continued cross-entropy against after, where the settings ask for it.
    """

    def __init__(
        self, run: Run, key: str, weights: str, before: "Analysis", untrained: str | None
    ) -> None:
        self.run, self.served, self.weights, self.untrained = run, key, weights, untrained
        self.current = before
        self.first = key
        self.after: Analysis | None = None
        self.comparison: pd.DataFrame | None = None
        self.control: pd.DataFrame | None = None

    def go(self) -> None:
        """Retrain, extract, judge and compare until a guard or the condition says stop."""
        settings = self.run.pipeline.retrain
        if settings is None:
            return
        measure = self.run.pipeline.index.measure
        history = self._history()
        for _ in range(settings.at_most):
            scores = steps.named_scores(self.current.tables["scores"], measure)
            decision = self._decide(scores, history)
            self._write_down(decision.reason, decision.retrain, scores)
            if not decision.retrain:
                return
            if not self._one_round(settings.loss, scores, measure):
                return
            history = self._history()

    def _decide(self, scores: dict[str, float], history: list[dict[str, Any]]) -> "Decision":
        from train.trigger import decide

        settings = self.run.pipeline.retrain
        assert settings is not None
        return decide(
            settings.when,
            scores,
            history=history,
            at_most=settings.at_most,
            minimum_improvement=settings.minimum_improvement,
            cool_down_hours=settings.cool_down_hours,
        )

    def _one_round(self, loss: str, scores: dict[str, float], measure: str) -> bool:
        """One retraining; false where its network is not accepted."""
        from train.trigger import accept

        run, settings = self.run, self.run.pipeline.retrain
        assert settings is not None
        weights = step(steps.retrain_network, "retrain")(run, self.weights, self.served, loss)
        key = step(steps.extract_images, "extract")(run, weights, "retrained")
        self.after = step(steps.judge, "analyse")(run, key, "retrained", self.untrained)
        self.comparison = step(steps.set_side_by_side, "compare")(run, self.first, key)
        if settings.control and loss != "ce":
            plain = step(steps.retrain_network, "retrain")(run, self.weights, self.served, "ce")
            beside = step(steps.extract_images, "extract")(run, plain, "control")
            self.control = step(steps.set_side_by_side, "compare")(run, beside, key)
        new = steps.named_scores(self.after.tables["scores"], measure)
        verdict = accept(scores, new, accuracy_margin=settings.accuracy_margin)
        self._write_down(verdict.reason, verdict.accepted, new)
        if verdict.accepted:
            step(steps.build, "index")(run, key, "retrained")
            self.served, self.weights, self.current = key, weights, self.after
        return bool(verdict.accepted)

    @property
    def _file(self) -> Path:
        return self.run.folder / "decisions.jsonl"

    def _history(self) -> list[dict[str, Any]]:
        if not self._file.is_file():
            return []
        lines = self._file.read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def _write_down(self, reason: str, yes: bool, scores: dict[str, float]) -> None:
        self.run.decisions.append(reason)
        entry = {"time": time.time(), "decision": yes, "reason": reason, "scores": scores}
        with self._file.open("a", encoding="utf-8") as log:
            log.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _report(run: Run, before: "Analysis", rounds: _Rounds, path: Path) -> None:
    from analysis.report import write_report

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
        "created": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    write_report(
        path,
        before=before,
        after=rounds.after,
        comparison=rounds.comparison,
        store=store,
        run=facts,
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError

    found = {}
    for name in VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # faiss is there under one of its two names
            continue
    return found
