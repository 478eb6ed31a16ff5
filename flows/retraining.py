"""Retraining within a run: decide, retrain, extract again, evaluate, compare, accept or not."""

import math
import time
from typing import TYPE_CHECKING

from alike.flows import steps
from alike.flows.decisions import Accepted, DecisionLog
from alike.flows.orchestration import step
from alike.flows.sections import Retrain
from alike.flows.steps import PipelineRun
from alike.train.trigger import Past, decide, replaces

if TYPE_CHECKING:
    import pandas as pd

    from alike.analysis.stored import Analysis


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
        self,
        run: PipelineRun,
        log: DecisionLog,
        network: Accepted,
        before: "Analysis",
        untrained: str | None,
    ) -> None:
        """Start from an analysed network.

        Args:
            run: whose settings and steps.
            log: decisions before, and those to come.
            network: that is served until another one is accepted.
            before: its analysis.
            untrained: key of the same architecture with random weights.
        """
        self.run, self.log, self.untrained = run, log, untrained
        self.served, self.weights = network.key, network.weights
        self.current = before
        self.first = network.key
        self.after: Analysis | None = None
        self.comparison: pd.DataFrame | None = None
        self.control: pd.DataFrame | None = None
        self.verdict = ""
        # Keys of all networks that are looked at.
        self.compared = {network.key, *([untrained] if untrained else [])}
        self.side = "held_out"

    def go(self) -> None:
        """Retrain, extract, evaluate and compare until a guard or the condition says stop."""
        settings = self.run.pipeline.retrain
        if settings is None:
            return
        for _ in range(settings.at_most):
            scores = self._scores(self.served, self.current)
            decision = decide(settings.rules, scores, self.log.past(), time.time())
            reason = self._on_which(decision.reason)
            self.run.decisions.append(reason)
            self.log.add("retrain", decision.go, reason, scores)
            if not decision.go or not self._one_round(settings, scores):
                return

    def _one_round(self, settings: Retrain, scores: dict[str, float]) -> bool:
        """One retraining; false where its network is not accepted."""
        from alike.analysis.report import main_measure
        from alike.train.retrain import Diverged

        run, began, name = self.run, time.time(), settings.rules.condition.score
        try:
            weights = step(steps.retrain_network, f"retrain {settings.loss}")(
                run, self.weights, self.served, settings.loss
            )
        except Diverged as error:
            self.verdict = f"the old network stays: {error}"
            run.decisions.append(self.verdict)
            past = Past(began, scores[name], math.nan)
            self.log.add("replace", False, self.verdict, scores, past=past)
            return False
        key = step(steps.extract_images, "extract retrained")(run, weights, "retrained")
        self.compared.add(key)
        self.after = after = step(steps.evaluate_group, "analyse retrained")(
            run, key, "retrained", self.untrained
        )
        step(steps.explain, "explain retrained")(run, key, weights, "retrained")
        self.comparison = step(steps.set_side_by_side, "compare retrained")(
            run, self.first, key, main_measure(after)
        )
        if settings.control and settings.loss != "ce":
            self._compare_with_control(key, main_measure(after))
        new = self._scores(key, after)
        verdict = replaces(settings.rules, scores, new)
        self.verdict = self._on_which(verdict.reason)
        run.decisions.append(self.verdict)
        if verdict.go:
            step(steps.build, "index retrained")(run, key, "retrained")
        self.log.add(
            "replace", verdict.go, self.verdict, new,
            past=Past(began, scores[name], new[name]),
            network=Accepted(weights, key) if verdict.go else None,
        )  # fmt: skip
        if verdict.go:
            self.served, self.weights, self.current = key, weights, after
        return verdict.go

    def _compare_with_control(self, key: str, measure: str) -> None:
        retrain = step(steps.retrain_network, "retrain control")
        plain = retrain(self.run, self.weights, self.served, "ce")
        beside = step(steps.extract_images, "extract control")(self.run, plain, "control")
        self.compared.add(beside)
        compare = step(steps.set_side_by_side, "compare control")
        self.control = compare(self.run, beside, key, measure)

    def _scores(self, key: str, analysis: "Analysis") -> dict[str, float]:
        """What decides, on the validation images if the store has some; counted in the store."""
        self.side, scores = steps.decision_scores(self.run, key, key, analysis)
        self.run.store().count_decision(self.side)
        return scores

    def _on_which(self, reason: str) -> str:
        """A decision with the images that it follows from, since a report shows those of others."""
        return f"{reason}, on the {self.side.replace('_', '-')} images"
