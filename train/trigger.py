"""Whether a network is retrained, and whether the new one replaces the old: pure decisions.

Every decision is a sentence with its reason. Nothing here reads a file or a setting.
"""

import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from extract.errors import BadInput

ALWAYS = "always"
_CONDITION = re.compile(r"^\s*([A-Za-z_][\w.]*)\s*(<=|>=|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*$")


@dataclass(frozen=True)
class Condition:
    """A score compared with a threshold: ``sameness < 0.80``; or ``always``.

    Attributes:
        score: name as in the table of scores; "" for ``always``.
        sign: ``<`` or ``<=`` (larger is better), ``>`` or ``>=`` (smaller is better), ``always``.
        threshold: retraining is asked for beyond it.
    """

    score: str
    sign: str
    threshold: float

    def met(self, value: float) -> bool:
        """Whether a value of the score asks for retraining; a missing value (NaN) never does."""
        if self.sign == ALWAYS:
            return True
        if self.sign.startswith("<"):
            return value < self.threshold or (self.sign == "<=" and value == self.threshold)
        return value > self.threshold or (self.sign == ">=" and value == self.threshold)

    def gain(self, before: float, after: float) -> float:
        """How much better `after` is than `before`, in units of the score."""
        return after - before if self.sign.startswith("<") else before - after

    def __str__(self) -> str:
        words = {"<": "below", "<=": "at most", ">": "above", ">=": "at least"}
        return f"{words[self.sign]} {self.threshold:g}"


@dataclass(frozen=True)
class Decision:
    """Whether to retrain.

    Attributes:
        retrain: yes or no.
        reason: one sentence.
    """

    retrain: bool
    reason: str


@dataclass(frozen=True)
class Verdict:
    """Whether a retrained network takes the place of the one it came from.

    Attributes:
        accepted: yes or no.
        reason: one sentence.
    """

    accepted: bool
    reason: str


@dataclass(frozen=True)
class _Guards:
    at_most: int
    minimum_improvement: float
    cool_down: float


def parse_condition(text: str) -> Condition:
    """A condition from text: one score, a comparison, a number; or ``always``.

    Raises:
        BadInput: anything else.
    """
    if text.strip() == ALWAYS:
        return Condition("", ALWAYS, math.nan)
    match = _CONDITION.match(text)
    try:
        score, sign, number = match.groups() if match else ("", "", "")
        threshold = float(number)
    except ValueError as error:
        raise BadInput(
            f"when = {text!r}: a score, <, <=, > or >=, and a number are expected, "
            "such as 'sameness < 0.80', or 'always'"
        ) from error
    return Condition(score, sign, threshold)


def decide(
    when: str,
    scores: Mapping[str, float],
    *,
    history: Sequence[Mapping[str, Any]] = (),
    at_most: int = 1,
    minimum_improvement: float = 0.0,
    cool_down_hours: float = 0.0,
    since: float | None = None,
    now: float | None = None,
) -> Decision:
    """Decide whether to retrain.

    Args:
        when: the condition, as text.
        scores: name -> value of the present network, on held-out images.
        history: what was decided before, oldest first: ``kind`` (``trigger`` or ``replace``),
            ``time`` (seconds since 1970), ``decision`` (bool) and ``scores`` at that time, which
            for ``replace`` are those of the new network.
        at_most: retrainings since `since`.
        minimum_improvement: what the last retraining must have gained for another to be worth it,
            in units of the score; not looked at for ``always``.
        cool_down_hours: time that must have passed since a retraining before `since` began.
        since: seconds since 1970, when the present run began; None counts the whole history.
        now: seconds since 1970; None asks the clock.

    Raises:
        BadInput: no condition, or one on a score that was not computed.
    """
    condition = parse_condition(when)
    value = _value(condition, scores)
    if math.isnan(value):
        return Decision(False, f"no retraining: {condition.score} is not defined for these images")
    if not condition.met(value):
        return Decision(False, f"no retraining: {condition.score} is {value:.4f}, not {condition}")
    asked = "it was asked for always"
    if condition.sign != ALWAYS:
        asked = f"{condition.score} is {value:.4f}, {condition}"
    guards = _Guards(at_most, minimum_improvement, 3600.0 * cool_down_hours)
    forbidden = _forbidden(guards, condition, history, (since, time.time() if now is None else now))
    if forbidden:
        return Decision(False, f"no retraining, though {asked}: {forbidden}")
    return Decision(True, f"retraining: {asked}")


def _value(condition: Condition, scores: Mapping[str, float]) -> float:
    if condition.sign == ALWAYS:
        return 0.0
    if condition.score not in scores:
        raise BadInput(
            f"when: score {condition.score!r} was not computed; there are "
            f"{', '.join(sorted(scores))}"
        )
    return scores[condition.score]


def _forbidden(
    guards: _Guards,
    condition: Condition,
    history: Sequence[Mapping[str, Any]],
    clock: tuple[float | None, float],
) -> str:
    """What forbids another retraining, "" where nothing does."""
    since, now = clock
    began = [at for at, one in enumerate(history) if _is(one, "trigger") and one["decision"]]
    if not began:
        return "" if guards.at_most > 0 else "none is allowed"
    present = [at for at in began if since is None or history[at]["time"] >= since]
    if len(present) >= guards.at_most:
        return f"{len(present)} were done already and at most {guards.at_most} are allowed"
    last = history[began[-1]]
    waited = now - last["time"]
    if not present and waited < guards.cool_down:
        ago, left = (timedelta(seconds=round(span)) for span in (waited, guards.cool_down - waited))
        return f"the last one began {ago} ago; {left} more to wait"
    results = [one for one in history[began[-1] :] if _is(one, "replace")]
    if condition.sign == ALWAYS or not results:
        return ""
    before, after = last["scores"], results[0]["scores"]
    gain = condition.gain(before.get(condition.score, 0.0), after.get(condition.score, math.nan))
    if not gain >= guards.minimum_improvement:
        least = guards.minimum_improvement
        return f"the last one gained {gain:.4f}, less than the minimum of {least:g}"
    return ""


def _is(entry: Mapping[str, Any], kind: str) -> bool:
    return entry.get("kind") == kind


def accept(
    before: Mapping[str, float],
    after: Mapping[str, float],
    *,
    accuracy_margin: float = 0.01,
    when: str = "sameness < 1",
) -> Verdict:
    """Decide whether a retrained network replaces the one it came from.

    It does when its accuracy is not lower by more than the margin and the score of the condition is
    better, both on the same held-out images.

    Args:
        before: name -> value; ``accuracy`` may be missing where labels and classes do not match.
        after: the same of the new network.
        accuracy_margin: how much accuracy may be lost.
        when: the condition that asked for it; for ``always``, sameness counts.
    """
    condition = parse_condition(when)
    if condition.sign == ALWAYS:
        condition = Condition("sameness", "<", 1.0)
    old, new = before[condition.score], after[condition.score]
    change = f"{condition.score} {old:.4f} -> {new:.4f}"
    if not condition.gain(old, new) > 0:
        return Verdict(False, f"the old network stays: {change} is no improvement")
    accuracy = before.get("accuracy", math.nan), after.get("accuracy", math.nan)
    if math.isnan(accuracy[0]):
        return Verdict(True, f"the new network replaces the old: {change}; accuracy is not known")
    told = f"accuracy {accuracy[0]:.4f} -> {accuracy[1]:.4f}"
    lost = accuracy[0] - accuracy[1]
    # Counts of images divided by N differ in the last bit; a loss equal to the margin is allowed.
    if not lost <= accuracy_margin + 1e-9:
        return Verdict(
            False,
            f"the old network stays: {told} is a loss of {lost:.4f}, more than the margin of "
            f"{accuracy_margin:g}, although {change}",
        )
    return Verdict(
        True,
        f"the new network replaces the old: {change}, {told} (margin {accuracy_margin:g})",
    )
