"""Whether a network is retrained, and whether the new one replaces the old: pure decisions.

Every decision is a sentence with its reason. Nothing here reads a clock, a file or a setting.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from alike.extract.errors import BadInput

_CONDITION = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*(<=|>=|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*$")


@dataclass(frozen=True)
class Condition:
    """A score compared with a threshold: ``sameness < 0.80``.

    Attributes:
        score: name as in the table of scores.
        sign: ``<`` or ``<=`` (larger is better), ``>`` or ``>=`` (smaller is better).
        threshold: retraining is asked for beyond it.
    """

    score: str
    sign: str
    threshold: float

    @classmethod
    def parse(cls, text: str) -> "Condition":
        """From text; BadInput if it is no comparison of one score with one number."""
        match = _CONDITION.match(text)
        try:
            score, sign, number = match.groups() if match else ("", "", "")
            threshold = float(number)
            if not math.isfinite(threshold):
                raise ValueError(number)
        except ValueError as error:
            raise BadInput(
                f"when = {text!r}: a score, <, <=, > or >=, and a number are expected, "
                "such as 'sameness < 0.80'"
            ) from error
        return cls(score, sign, threshold)

    def met(self, value: float) -> bool:
        """Whether a value of the score asks for retraining; a missing value (NaN) never does."""
        if self.sign.startswith("<"):
            return value < self.threshold or (self.sign == "<=" and value == self.threshold)
        return value > self.threshold or (self.sign == ">=" and value == self.threshold)

    def gain(self, before: float, after: float) -> float:
        """How much better `after` is than `before`, in units of the score."""
        return after - before if self.sign.startswith("<") else before - after

    def __str__(self) -> str:
        return f"{self.score} {self.sign} {self.threshold:g}"


@dataclass(frozen=True)
class Rules:
    """When to retrain, and the guards against doing it for ever.

    Attributes:
        when: the condition, as text.
        at_most: retrainings in all of one network and its descendants.
        minimum_gain: what the last retraining must have gained for another to be worth it, in units
            of the score.
        cool_down: seconds that must have passed since the last retraining began.
        accuracy_margin: how much accuracy a new network may lose and still replace the old.
    """

    when: str = "sameness < 0.80"
    at_most: int = 3
    minimum_gain: float = 0.01
    cool_down: float = 0.0
    accuracy_margin: float = 0.01

    def __post_init__(self) -> None:
        Condition.parse(self.when)
        for name in ("at_most", "cool_down", "accuracy_margin"):
            if not 0 <= getattr(self, name) < math.inf:
                raise BadInput(f"retrain {name} = {getattr(self, name)}: 0 or more is expected")

    @property
    def condition(self) -> Condition:
        """`when`, parsed."""
        return Condition.parse(self.when)


@dataclass(frozen=True)
class Past:
    """An earlier retraining.

    Attributes:
        at: when it began, seconds since 1970.
        before: score of the network it started from.
        after: score of the network it made; NaN if it failed.
    """

    at: float
    before: float
    after: float


@dataclass(frozen=True)
class Decision:
    """Yes or no, and why.

    Attributes:
        go: whether to do it.
        reason: one sentence.
    """

    go: bool
    reason: str


def decide(rules: Rules, scores: Mapping[str, float], past: Sequence[Past], now: float) -> Decision:
    """Decide whether to retrain.

    Args:
        rules: condition and guards.
        scores: name -> value of the present network, on the images that decide: those for
            validation, or the held-out ones if there are none.
        past: earlier retrainings, oldest first.
        now: seconds since 1970.

    Raises:
        BadInput: the condition names a score that was not computed.
    """
    condition = rules.condition
    if condition.score not in scores:
        raise BadInput(
            f"when = {rules.when!r}: score {condition.score!r} was not computed; "
            f"there are {', '.join(sorted(scores))}"
        )
    value = scores[condition.score]
    if math.isnan(value):
        return Decision(False, f"no retraining: {condition.score} is not defined for these images")
    if not condition.met(value):
        return Decision(
            False, f"no retraining: {condition.score} is {value:.4f}, not {_words(condition)}"
        )
    reason = f"{condition.score} is {value:.4f}, {_words(condition)}"
    guard = _guard(rules, past, now)
    if guard:
        return Decision(False, f"no retraining, though {reason}: {guard}")
    return Decision(True, f"retraining: {reason}")


def _guard(rules: Rules, past: Sequence[Past], now: float) -> str:
    """What forbids another retraining, "" if nothing does."""
    if len(past) >= rules.at_most:
        return f"{len(past)} were done already and at most {rules.at_most} are allowed"
    if not past:
        return ""
    last = past[-1]
    waited = now - last.at
    if waited < rules.cool_down:
        left = timedelta(seconds=round(rules.cool_down - waited))
        return f"the last one began {timedelta(seconds=round(waited))} ago; {left} more to wait"
    if math.isnan(last.after):
        return "the last one failed"
    gain = rules.condition.gain(last.before, last.after)
    if not gain >= rules.minimum_gain:
        return f"the last one gained {gain:.4f}, less than the minimum of {rules.minimum_gain:g}"
    return ""


def replaces(rules: Rules, before: Mapping[str, float], after: Mapping[str, float]) -> Decision:
    """Decide whether a retrained network replaces the one it came from.

    It does when its accuracy is not lower by more than the margin and the score of the condition is
    better, both on the same images, which neither was trained on.

    Args:
        rules: condition and margin.
        before: name -> value; ``accuracy`` may be missing if labels and classes do not match.
        after: the same of the new network.
    """
    condition = rules.condition
    old, new = before[condition.score], after[condition.score]
    change = f"{condition.score} {old:.4f} -> {new:.4f}"
    if not condition.gain(old, new) > 0:
        return Decision(False, f"the old network stays: {change} is no improvement")
    accuracy = _accuracy_change(before.get("accuracy", math.nan), after.get("accuracy", math.nan))
    if accuracy is None:
        return Decision(True, f"the new network replaces the old: {change}; accuracy is not known")
    loss, words = accuracy
    # Counts of images divided by N differ in the last bit; a loss equal to the margin is allowed.
    if loss > rules.accuracy_margin + 1e-9:
        return Decision(
            False,
            f"the old network stays: {words} is a loss of {loss:.4f}, "
            f"more than the margin of {rules.accuracy_margin:g}, although {change}",
        )
    return Decision(
        True,
        f"the new network replaces the old: {change}, {words} (margin {rules.accuracy_margin:g})",
    )


def _accuracy_change(old: float, new: float) -> tuple[float, str] | None:
    """What was lost, and the change in words; None if the old accuracy is not known."""
    if math.isnan(old):
        return None
    return (math.inf if math.isnan(new) else old - new), f"accuracy {old:.4f} -> {new:.4f}"


def _words(condition: Condition) -> str:
    words = {"<": "below", "<=": "at most", ">": "above", ">=": "at least"}
    return f"{words[condition.sign]} {condition.threshold:g}"
