"""The answer in plain words: did same-class features come closer, and what did accuracy do.

The verdict follows `sameness`, not the same-class distance alone: a network that pulls all
images together has small same-class distances and separates no classes.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from alike.analysis.report.lookup import (
    Analysed,
    accuracy_of,
    as_number,
    rungs,
    score_of,
    worst_class,
)
from alike.analysis.report.words import change, count, interval_words, number

Tone = Literal["better", "worse", "unclear", "single"]

VERDICTS: dict[Tone, str] = {
    "better": "Yes: same-class features came closer, measured against other classes.",
    "worse": "No: same-class features moved apart, measured against other classes.",
    "unclear": "No clear change in how close same-class features lie.",
}


@dataclass(frozen=True)
class Answer:
    """The first lines of a report.

    Attributes:
        tone: decides the colour: `better`, `worse`, `unclear` (before and after) or `single`.
        headline: the verdict, one short sentence.
        sentences: by how much, how sure, what accuracy did, which class is worst.
    """

    tone: Tone
    headline: str
    sentences: tuple[str, ...]


def answer(
    before: Analysed,
    after: Analysed | None,
    comparison: pd.DataFrame | None,
    measure: str,
    control: pd.DataFrame | None = None,
) -> Answer:
    """The verdict of a report; of two analyses where there are two.

    Args:
        before: the first analysis, or the only one.
        after: the second.
        comparison: paired differences, after less before.
        measure: the measure of the verdict.
        control: paired differences, after less the same training without the consistency loss.
    """
    if after is None:
        return _of_one(before, measure)
    return _of_two(before, after, comparison, measure, control)


def _of_two(
    before: Analysed,
    after: Analysed,
    comparison: pd.DataFrame | None,
    measure: str,
    control: pd.DataFrame | None,
) -> Answer:
    row = _compared(before, after, comparison, measure, "sameness")
    if row is None:
        return Answer("unclear", "No sameness score was computed for both networks.", ())
    low, high = row["low"], row["high"]
    # NaN compares as false, so that nothing is claimed without an interval.
    tone: Tone = "better" if low > 0 else "worse" if high < 0 else "unclear"
    sentences = [
        f"Sameness went from {number(row['a'])} to {number(row['b'])}, "
        f"{change(row['difference'])} ({_sure(low, high)}), "
        f"on {_compared_words(before, comparison)} of {count(len(before.classes))} classes.",
        f"In {_per_hundred(row['b'])} instead of {_per_hundred(row['a'])} of 100 comparisons, two "
        "images of one class lie nearer to each other than two images of different classes.",
        *_accuracy_change(before, after, comparison),
        *_against_control(control),
        *_distances(before, after, measure),
        *_worst_change(before, after, comparison, measure),
        *_scale(before, after, measure),
    ]
    return Answer(tone, VERDICTS[tone], tuple(sentences))


def _of_one(analysis: Analysed, measure: str) -> Answer:
    sameness = score_of(analysis, measure, "sameness")
    if sameness is None:
        return Answer("single", "No sameness score was computed.", ())
    headline = (
        f"In {_per_hundred(sameness.value)} of 100 comparisons, two images of one class lie nearer "
        "to each other than two images of different classes."
    )
    sentences = [
        f"Sameness is {number(sameness.value)} "
        f"({_sure(sameness.low, sameness.high, signed=False)}) on {images_words(analysis)} "
        f"of {count(len(analysis.classes))} classes. 0 is chance, 1 is perfect."
    ]
    accuracy = accuracy_of(analysis)
    if accuracy is not None:
        sentences.append(
            f"The network classifies {number(accuracy.value, 'share')} of the same images "
            "correctly."
        )
    worst = worst_class(analysis, measure)
    if worst is not None:
        sentences.append(f"The worst class is “{worst[0]}”, with {number(worst[1])}.")
    return Answer("single", headline, (*sentences, *_scale(analysis, None, measure)))


def images_words(analysis: Analysed) -> str:
    """How many images were evaluated, and of how many if the budget allowed a sample only."""
    of = int(dict(analysis.settings).get("n_images_before_sampling", analysis.n_images))
    if of == analysis.n_images:
        return f"{count(of)} images"
    return f"a sample of {count(analysis.n_images)} of {count(of)} images"


def _compared_words(before: Analysed, comparison: pd.DataFrame | None) -> str:
    """How many images were compared, and of how many if a sample was."""
    attrs = {} if comparison is None else comparison.attrs
    if "images" not in attrs or attrs["images"] == attrs["of"]:
        return images_words(before)
    return f"a sample of {count(attrs['images'])} of {count(attrs['of'])} images"


def _compared(
    before: Analysed,
    after: Analysed,
    comparison: pd.DataFrame | None,
    measure: str,
    score: str,
) -> dict[str, float] | None:
    """A row of the comparison; without one the two values, and no interval."""
    if comparison is not None and len(comparison):
        rows = comparison[comparison["score"] == score]
        if len(rows):
            keys = ("a", "b", "difference", "low", "high")
            return {key: as_number(rows.iloc[0][key]) for key in keys}
    find = accuracy_of if score == "accuracy" else (lambda x: score_of(x, measure, score))
    old, new = find(before), find(after)
    if old is None or new is None:
        return None
    unknown = dict.fromkeys(("low", "high"), float("nan"))
    return {"a": old.value, "b": new.value, "difference": new.value - old.value, **unknown}


def _distances(before: Analysed, after: Analysed, measure: str) -> list[str]:
    values = [
        score_of(analysis, measure, score)
        for score in ("intra_mean", "inter_mean")
        for analysis in (before, after)
    ]
    if any(value is None for value in values):
        return []
    near, nearer, far, farther = (value.value for value in values if value is not None)
    return [
        f"The mean distance within a class {_moved(near, nearer)}.",
        f"The mean distance between classes {_moved(far, farther)}.",
        f"The distance within a class was {number(near / far, 'share')} of that between classes "
        f"before and is {number(nearer / farther, 'share')} after.",
    ]


def _moved(old: float, new: float) -> str:
    verb = "grew" if new > old else "fell" if new < old else "stayed"
    return f"{verb} from {old:.3g} to {new:.3g}"


def _accuracy_change(
    before: Analysed, after: Analysed, comparison: pd.DataFrame | None
) -> list[str]:
    row = _compared(before, after, comparison, "", "accuracy")
    only = accuracy_of(after)
    if row is None and only is not None:
        share = number(only.value, "share")
        return [
            f"The new network classifies {share} of the images correctly.",
            "The old network has other classes, so that accuracy cannot be compared.",
        ]
    if row is None:
        return []
    sentence = f"Accuracy went from {number(row['a'], 'share')} to {number(row['b'], 'share')}"
    if not (math.isfinite(row["low"]) and math.isfinite(row["high"])):
        return [f"{sentence} ({change(row['difference'], 'share')})."]
    sure = _sure(row["low"], row["high"], "share")
    return [f"{sentence}, {change(row['difference'], 'share')} ({sure})."]


def _against_control(control: pd.DataFrame | None) -> list[str]:
    if control is None or control.empty or not (control["score"] == "sameness").any():
        return []
    row = control[control["score"] == "sameness"].iloc[0]
    low, high = as_number(row["low"]), as_number(row["high"])
    sure = "more than chance" if low > 0 or high < 0 else "within chance"
    return [
        "The same further training without the consistency loss reaches a sameness of "
        f"{number(row['a'])}.",
        f"The loss itself makes a difference of {change(row['difference'])} "
        f"({_sure(low, high)}), which is {sure}.",
    ]


def _worst_change(
    before: Analysed, after: Analysed, comparison: pd.DataFrame | None, measure: str
) -> list[str]:
    old, new = worst_class(before, measure), worst_class(after, measure)
    if old is None or new is None:
        return []
    row = _compared(before, after, comparison, measure, "worst_class_sameness")
    span = "" if row is None else interval_words(row["low"], row["high"], signed=True)
    sure = f" (change {change(new[1] - old[1])}, 95 % interval {span})" if span else ""
    if old[0] == new[0]:
        return [
            f"The worst class is “{new[0]}” before and after: {number(old[1])}, then "
            f"{number(new[1])}{sure}."
        ]
    return [
        f"The worst class was “{old[0]}” with {number(old[1])} and is now “{new[0]}” "
        f"with {number(new[1])}{sure}."
    ]


def _scale(before: Analysed, after: Analysed | None, measure: str) -> list[str]:
    """Floor, untrained network and ceiling in a sentence."""
    steps = rungs(before, after, measure)
    names = {
        "floor": "raw pixels",
        "untrained": "an untrained network",
        "ceiling": "the classifier",
    }
    values = [
        f"{names[step.role]} {number(step.value)}"
        for step in steps.itertuples()
        if step.role in names
    ]
    return [f"For scale: {', '.join(values)}."] if values else []


def _sure(low: float, high: float, form: Any = "plain", *, signed: bool = True) -> str:
    span = interval_words(low, high, form, signed=signed)
    return f"95 % interval {span}" if span else "no interval"


def _per_hundred(sameness: float) -> str:
    """Sameness as comparisons won in 100; a decimal where it would otherwise round to 100."""
    share = 100 * (1 + sameness) / 2
    return f"{share:.1f}" if share > 95 else f"{share:.0f}"
