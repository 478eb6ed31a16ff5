"""The rules of `[alarm] when`, and what they say of the runs of a store."""

import datetime
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from alike.extract.errors import BadInput
from alike.flows.drift import (
    RANGES,
    Overlap,
    largest_step,
    overlap,
    standard_error,
    threshold,
    variance_bound,
)

if TYPE_CHECKING:
    import pandas as pd

    from alike.flows.history import RunRecord, Score

_CHANGE = re.compile(r"\s*(\w+)\s+(fell|rose)\s*")
_COMPARED = re.compile(r"\s*(\w+)\s*(<=|>=|<|>)\s*([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s*(%?)\s*")
_FRESH = re.compile(r"\s*no good run for\s+([\d.]+)\s*(h|d)\s*")
COUNTED = ("bad", "images", "classes", "recall")
"""What a rule may name beside scores: share of bad images, usable images, classes, recall."""


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        text: as it was written.
        kind: `fell`, `rose`, `compared`, `stale`.
        name: score or quantity; empty for `stale`.
        sign: of a comparison.
        number: that it is compared with; hours for `stale`.
    """

    text: str
    kind: str
    name: str = ""
    sign: str = ""
    number: float = math.nan

    @staticmethod
    def parse(text: str) -> "Rule":
        """From text.

        Raises:
            BadInput: no rule, or a score that it cannot be asked of.

        Example:
            >>> Rule.parse("bad > 1 %").number
            0.01
        """
        from alike.analysis.scores import SCORES

        plain = " ".join(text.split())
        if match := _CHANGE.fullmatch(text):
            name, kind = match.groups()
            if name not in RANGES:
                raise BadInput(
                    f"{text!r}: a change is told of {', '.join(RANGES)}; compare another score "
                    "with a number, such as 'one_nn < 0.9'"
                )
            return Rule(plain, kind, name)
        try:
            if match := _FRESH.fullmatch(text):
                number = float(match[1]) * (24.0 if match[2] == "d" else 1.0)
                return Rule(plain, "stale", number=number)
            if match := _COMPARED.fullmatch(text):
                name, sign, digits, percent = match.groups()
                if name not in SCORES and name not in COUNTED:
                    names = ", ".join((*COUNTED, *SCORES))
                    raise BadInput(f"{text!r}: no score {name!r}; expected one of {names}")
                number = float(digits) / (100.0 if percent else 1.0)
                return Rule(plain, "compared", name, sign, number)
        except ValueError:
            pass
        raise BadInput(
            f"{text!r}: a rule is expected, such as 'sameness fell', 'bad > 1 %', 'recall < 0.93', "
            "'no good run for 26 h'"
        )

    @property
    def of_scores(self) -> bool:
        """Whether it asks about the scores of a network, and so about those of each."""
        return self.kind != "stale" and self.name not in COUNTED


@dataclass(frozen=True)
class Finding:
    """What a rule says.

    Attributes:
        rule: as it was written; the label of a further network stands behind it in brackets.
        holds: whether somebody must look; None if it cannot be said.
        says: one line: the numbers, or why nothing can be said.
        run: id of the run that it is about; empty before the first.
    """

    rule: str
    holds: bool | None
    says: str
    run: str = ""


@dataclass(frozen=True)
class Situation:
    """What rules look at.

    Attributes:
        last: the last good run that left a record; None before the first.
        fresh: when a run last came to its end well.
        now: the time.
        reference: the accepted run.
        images: gives the table of images of a run, or None.
        paired: gives the differences, reference to run, of another network's scores; raises
            `BadInput` if they cannot be computed.
        why_none: why there is no accepted run, if there is none.
    """

    last: "RunRecord | None"
    fresh: datetime.datetime | None
    now: datetime.datetime
    reference: "RunRecord | None"
    images: Callable[["RunRecord"], "pd.DataFrame | None"]
    paired: Callable[["RunRecord", "RunRecord"], "Mapping[str, Score]"]
    why_none: str = "no reference"

    def of(self, label: str) -> "Situation":
        """The situation of a further network."""
        last, reference = (one and one.of(label) for one in (self.last, self.reference))
        return replace(self, last=last, reference=reference)


def findings(rule: Rule, situation: Situation) -> list[Finding]:
    """What one rule says of the first network, and of every further one that the last run had."""
    labels = situation.last.others if situation.last and rule.of_scores else {}
    others = {label: finding(rule, situation.of(label)) for label in labels}
    return [
        finding(rule, situation),
        *(replace(one, rule=f"{one.rule} [{label}]") for label, one in others.items()),
    ]


def finding(rule: Rule, situation: Situation) -> Finding:
    """What one rule says of a situation."""
    last = situation.last
    if rule.kind == "stale":
        return _stale(rule, situation)
    if last is None:
        return Finding(rule.text, None, "no run yet")
    if rule.kind == "compared":
        return _compared(rule, last)
    try:
        return _changed(rule, situation, last)
    except BadInput as error:
        return Finding(rule.text, None, str(error), last.id)


def _stale(rule: Rule, situation: Situation) -> Finding:
    run = situation.last.id if situation.last else ""
    if situation.fresh is None:
        return Finding(rule.text, True, "no run has come to its end yet", run)
    hours = (situation.now - situation.fresh).total_seconds() / 3600.0
    if hours < -1.0:
        says = f"the last good run is dated {-hours:.1f} h from now: a clock was or is wrong"
        return Finding(rule.text, None, says, run)
    says = f"the last good run was {hours:.1f} h ago"
    return Finding(rule.text, hours > rule.number, says, run)


def _quantity(name: str, run: "RunRecord") -> float | None:
    if name == "bad":
        return run.bad_share
    if name in ("images", "classes"):
        return float(run.counts.get({"images": "ok"}.get(name, name), 0))
    score = (run.recall or None) if name == "recall" else run.score(name)
    return None if score is None else score[0]


def _compared(rule: Rule, run: "RunRecord") -> Finding:
    value = _quantity(rule.name, run)
    if value is None:
        return Finding(rule.text, None, f"the run has no {rule.name}", run.id)
    holds = {
        "<": value < rule.number, "<=": value <= rule.number,
        ">": value > rule.number, ">=": value >= rule.number,
    }[rule.sign]  # fmt: skip
    return Finding(rule.text, holds, f"{rule.name} is {value:.6g}", run.id)


def _changed(rule: Rule, situation: Situation, run: "RunRecord") -> Finding:
    reference = situation.reference
    if reference is None:
        return _unsaid(rule, run, f"{situation.why_none}: accept a run by `alike runs accept`")
    if reference.id == run.id:
        return Finding(rule.text, False, "this run is the reference", run.id)
    if reference.series != run.series:
        why = "its scores mean something else than the reference's: a new series, accept a new one"
        return _unsaid(rule, run, why)
    images = _evaluated(situation, reference), _evaluated(situation, run)
    shared = None
    if images[0] is not None and images[1] is not None:
        shared = overlap(images[0], images[1])
        if shared is None:
            return _unsaid(rule, run, "its classes are not the reference's: accept a new one")
    if reference.network.get("features") != run.network.get("features"):
        return _of_another_network(rule, situation, reference, run, shared)
    before, now = reference.score(rule.name), run.score(rule.name)
    errors = [_error(score) for score in (before, now)]
    if before is None or now is None or not all(map(math.isfinite, errors)):
        return _unsaid(rule, run, f"one of the two runs has no interval of {rule.name}")
    if shared is None:
        return _unsaid(rule, run, "the images of one run are not kept any more: accept a newer one")
    difference = _number(now[0]) - _number(before[0])
    variance = variance_bound(errors[0], errors[1], shared)
    limit = threshold(variance, largest_step(rule.name, shared))
    return _verdict(rule, reference, run, difference, limit)


def _of_another_network(
    rule: Rule,
    situation: Situation,
    reference: "RunRecord",
    run: "RunRecord",
    shared: Overlap | None,
) -> Finding:
    """On the images of both, each by its own network: what the images themselves do is left out."""
    paired = situation.paired(reference, run).get(rule.name)
    error = _error(paired)
    if paired is None or not math.isfinite(error) or shared is None:
        return _unsaid(rule, run, f"no paired interval of {rule.name} with the reference's network")
    own = Overlap(shared.common, shared.common, 0 * shared.common)
    if not shared.common.all():
        return _unsaid(rule, run, "a class has no image in common with the reference")
    limit = threshold(error**2, largest_step(rule.name, own))
    return _verdict(rule, reference, run, _number(paired[0]), limit, "on the images of both, ")


def _verdict(
    rule: Rule,
    reference: "RunRecord",
    run: "RunRecord",
    difference: float,
    limit: float,
    how: str = "",
) -> Finding:
    holds = difference < -limit if rule.kind == "fell" else difference > limit
    says = (
        f"{how}{rule.name} changed by {difference:+.4f} since run {reference.id}; chance reaches "
        f"{limit:.4f} once in ten years of nights"
    )
    return Finding(rule.text, holds, says, run.id)


def _evaluated(situation: Situation, run: "RunRecord") -> "pd.DataFrame | None":
    """The images that a run's scores are of; None if they are not known."""
    images = situation.images(run)
    if images is None or run.counts.get("evaluated") != run.counts.get("held_out"):
        return None
    return images[(images["side"] == "held_out") & images["label"].notna()]


def _error(score: "Score | None") -> float:
    if score is None or any(part is None for part in score):
        return math.nan
    value, low, high = (_number(part) for part in score)
    return standard_error(value, low, high)


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _unsaid(rule: Rule, run: "RunRecord", why: str) -> Finding:
    return Finding(rule.text, None, why, run.id)
