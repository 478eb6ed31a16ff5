"""Retraining within a run: decide, retrain, extract again, judge, compare, accept or not."""

import json
import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alike.extract.documents import read_json, read_json_file
from alike.flows import steps
from alike.flows.engine import step
from alike.flows.memo import digest
from alike.flows.settings import Pipeline, Retrain
from alike.flows.steps import Run
from alike.train.trigger import Past, decide, replaces

if TYPE_CHECKING:
    import pandas as pd

    from alike.analysis.analyse import Analysis


def origin(pipeline: Pipeline) -> str:
    """Changes with the settings of the network or of retraining; then all starts anew."""
    return digest([pipeline.written.get(section) for section in ("network", "retrain")])


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
    def read(cls, run: Run, own_hash: str) -> "Served":
        """What is served; the settings' own weights where they changed or nothing is served.

        Args:
            run: whose folder and settings.
            own_hash: of the settings' own weights now; a file may be replaced under its name.
        """
        file = run.folder / "served.json"
        own = run.pipeline.network.weights
        if file.is_file():
            advice = "delete it: the run then starts from the settings' own weights"
            kept = dict(vars(read_json_file(file, _Kept, advice)))
            inside = run.memo.there(kept["weights"])
            kept["weights"] = str(inside) if inside.exists() else kept["weights"]
            there = kept["weights"] == own or inside.exists()
            same = kept.pop("origin") == origin(run.pipeline) and kept["parent"] == own_hash
            if same and there:
                return cls(**kept)
        return cls(own)

    def write(self, run: Run) -> None:
        """Keep it, beside what it came from."""
        place = run.memo.kept(self.weights)
        kept = {**vars(self), "weights": place, "origin": origin(run.pipeline)}
        aside = run.folder / "served.part"
        aside.write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")
        aside.replace(run.folder / "served.json")


@dataclass(frozen=True)
class _Kept:
    """What `served.json` must hold."""

    weights: str
    key: str
    parent: str
    origin: str


@dataclass(frozen=True)
class _Line:
    """What a line of `decisions.jsonl` must hold."""

    origin: str
    past: dict[str, float | None] | None


class Rounds:
    """Retraining as often as the settings allow and the scores ask for.

    Attributes:
        served: key of the group that is used from now on.
        weights: its weights.
        after: analysis of the last retrained network, accepted or not.
        comparison: before against after on the held-out images.
        control: continued cross-entropy against after, where the settings ask for it.
        verdict: whether the last retrained network replaced the one before, and why.
    """

    def __init__(
        self, run: Run, key: str, weights: str, before: "Analysis", untrained: str | None
    ) -> None:
        """Start from an analysed network."""
        self.run, self.served, self.weights, self.untrained = run, key, weights, untrained
        self.current = before
        self.first = key
        self.after: Analysis | None = None
        self.comparison: pd.DataFrame | None = None
        self.control: pd.DataFrame | None = None
        self.verdict = ""

    def go(self) -> None:
        """Retrain, extract, judge and compare until a guard or the condition says stop."""
        settings = self.run.pipeline.retrain
        if settings is None:
            return
        for _ in range(settings.at_most):
            scores = self._scores(self.current)
            decision = decide(settings.rules, scores, self._past(), time.time())
            self.run.decisions.append(decision.reason)
            self._write_down("retrain", decision.go, decision.reason, scores)
            if not decision.go or not self._one_round(settings, scores):
                return

    def _one_round(self, settings: Retrain, scores: dict[str, float]) -> bool:
        """One retraining; false where its network is not accepted."""
        from alike.analysis.report import main_measure
        from alike.train.retrain import Diverged

        run, began, name = self.run, time.time(), settings.rules.condition.score
        try:
            weights = step(steps.retrain_network, "retrain")(
                run, self.weights, self.served, settings.loss
            )
        except Diverged as error:
            self.verdict = f"the old network stays: {error}"
            run.decisions.append(self.verdict)
            past = {"at": began, "before": scores[name], "after": math.nan}
            self._write_down("replace", False, self.verdict, scores, past=past)
            return False
        key = step(steps.extract_images, "extract")(run, weights, "retrained")
        self.after = after = step(steps.judge, "analyse")(run, key, "retrained", self.untrained)
        step(steps.explain, "explain")(run, key, weights, "retrained")
        self.comparison = step(steps.set_side_by_side, "compare")(
            run, self.first, key, main_measure(after)
        )
        if settings.control and settings.loss != "ce":
            self._compare_with_control(key, main_measure(after))
        new = self._scores(after)
        verdict = replaces(settings.rules, scores, new)
        run.decisions.append(verdict.reason)
        self.verdict = verdict.reason
        self._write_down(
            "replace", verdict.go, verdict.reason, new,
            past={"at": began, "before": scores[name], "after": new[name]},
        )  # fmt: skip
        if verdict.go:
            step(steps.build, "index")(run, key, "retrained")
            self.served, self.weights, self.current = key, weights, after
        return verdict.go

    def _compare_with_control(self, key: str, measure: str) -> None:
        plain = step(steps.retrain_network, "retrain")(self.run, self.weights, self.served, "ce")
        beside = step(steps.extract_images, "extract")(self.run, plain, "control")
        self.control = step(steps.set_side_by_side, "compare")(self.run, beside, key, measure)

    def _scores(self, analysis: "Analysis") -> dict[str, float]:
        return steps.named_scores(analysis.tables["scores"], self.run.pipeline.index.measure)

    @property
    def _log(self) -> Path:
        return self.run.folder / "decisions.jsonl"

    def _past(self) -> list[Past]:
        """Earlier retrainings under the same settings, oldest first."""
        if not self._log.is_file():
            return []
        advice = "take that line out: it says when the network was retrained last"
        entries = [
            read_json(line, _Line, f"{self._log}, line {number}", advice)
            for number, line in enumerate(self._log.read_bytes().splitlines(), 1)
        ]
        same = origin(self.run.pipeline)
        done = (entry.past for entry in entries if entry.origin == same)
        return [Past(**{k: math.nan if v is None else v for k, v in p.items()}) for p in done if p]

    def _write_down(
        self,
        about: str,
        yes: bool,
        reason: str,
        scores: dict[str, float],
        past: dict[str, float] | None = None,
    ) -> None:
        entry: dict[str, Any] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "about": about, "decision": yes,
            "reason": reason, "scores": _as_json(scores), "past": past and _as_json(past),
            "origin": origin(self.run.pipeline),
        }  # fmt: skip
        # written anew and renamed: a run that is killed here leaves no half line to the next one
        before = self._log.read_text(encoding="utf-8") if self._log.is_file() else ""
        aside = self._log.with_suffix(".part")
        line = json.dumps(entry, ensure_ascii=False, allow_nan=False)
        aside.write_text(f"{before}{line}\n", encoding="utf-8")
        aside.replace(self._log)


def _as_json(numbers: dict[str, float]) -> dict[str, float | None]:
    """JSON has no NaN: a number that is not defined becomes null."""
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}
