"""Two networks, or two weights of one, on the same images: which scores differ, and how surely.

The comparison is paired: images are matched by their content, what each image does to a score is
taken on both sides at once, and the interval is that of the difference, which is far narrower than
the two apart. NC1 is computed again with a tenth of the images left out in turn (see `jackknife`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import (
    MEMORY,
    EvaluationSet,
    Jobs,
    MapBlocks,
    Vectors,
    check,
    check_seed,
    evaluation_set_of,
    here,
    measured_rows,
    same_vectors,
    stored_vectors,
)
from alike.analysis.neighbours import (
    Changes,
    Links,
    Nearest,
    linked_units,
    nearest,
    score_spread,
)
from alike.analysis.outlook import Load, outlook
from alike.analysis.pairs import (
    INFLUENCE_ROWS,
    PairCounts,
    PairSpreads,
    Units,
    at_end,
    difference_interval,
    jackknife_interval,
    mean_difference,
    pair_spreads,
    right_interval,
    share_interval,
    share_movements,
    spread,
    sure_pairs,
    units_of,
)
from alike.analysis.pairs import curves as score
from alike.analysis.people import HumanAnswers, human_differences, human_notes
from alike.analysis.scores import (
    PENULTIMATE,
    SCORES,
    copy_links,
    influence_note,
    left_out_in_turn,
    named_rightly,
    purity_top,
)
from alike.extract.errors import BadInput
from alike.extract.measures import MEASURES, SET_MEASURES, ready_measure
from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from alike.extract.store import Features

MOST = 63_000
"""Images of a comparison; of more a stratified sample is compared: minutes."""
NEIGHBOURS = 10
LOGIT_ROWS = 4096
"""Images whose logits are read at once."""
PEOPLE = "human_"
"""Before the names of scores against people (see `people.KINDS`) where they stand by others."""

AT_END = (
    "one side is at an end of the score's range: the interval of the difference is that of both "
    "sides as if they moved apart from each other, which is wide"
)

Span = tuple[float, float]


@dataclass(frozen=True)
class Difference:
    """A score on both sides, and the interval of the second less the first.

    Attributes:
        a: of the first.
        b: of the second.
        span: NaN where there is no interval.
        at_end: whether a side is at an end of the score's range (see `difference_interval`).
    """

    a: float
    b: float
    span: Span = (float("nan"), float("nan"))
    at_end: bool = False


Differences = dict[str, Difference]


@dataclass(frozen=True)
class Side:
    """What is measured of one network.

    Attributes:
        images: its rows of the images that are compared.
        vectors: of them.
        counts: histograms of all pairs.
        near: neighbours.
        links: what tells near copies (see `copy_links`); None: nothing does.
    """

    images: EvaluationSet
    vectors: Vectors
    counts: PairCounts
    near: Nearest
    links: Links | None = None


def compare(
    a: "Features",
    b: "Features",
    *,
    split: str = "held_out",
    measure: str = "gap_cosine",
    bootstrap: int = 1000,
    seed: int = 0,
    human: HumanAnswers | None = None,
    jobs: Jobs | None = None,
    progress: Progress = silent,
) -> pd.DataFrame:
    """Scores of two extractions side by side.

    Args:
        a: first extraction.
        b: second extraction, of the same store or another; images are matched by content.
        split: which images of both are evaluated: `held_out`, `train` or `all`.
        measure: a key of `MEASURES`, used for both.
        bootstrap: not used since 0.2.0: nothing is resampled.
        seed: of what is drawn: a sample of images, the worst class, and for `human` images and
            raters.
        human: what people said about the images, by rows of the first; None: nothing is known.
        jobs: where blocks run (see `open_jobs`); None: threads of this process.
        progress: told after every few blocks.

    Returns:
        score, a, b, difference (b - a), low, high (95 % interval of the difference), better. NC1
        is there where both sides store `fc`, accuracy where labels are classes of both networks,
        and `human_all_pairs` and its kin (see `human_differences`) with `human`. `attrs` holds how
        many `images` were compared `of` how many: beyond 63,000 a stratified sample is; how many
        were `lost` before: one side has no value of what the measure reads; of how many the
        influence was computed (`influence_of`); and `people`, what to say of the scores against
        them; and `at_end`, the scores of which a side is at an end of the range (see `Difference`).

    Raises:
        BadInput: no images in common, or none that make pairs of both kinds; a negative seed.
    """
    check_seed(seed)
    with a.store.files.snapshot(), b.store.files.snapshot():
        return _compare(a, b, split, measure, seed, human, jobs or here(), progress)


def _compare(
    a: "Features",
    b: "Features",
    split: str,
    measure: str,
    seed: int,
    human: HumanAnswers | None,
    jobs: Jobs,
    progress: Progress,
) -> pd.DataFrame:
    if measure in SET_MEASURES:
        able = ", ".join(MEASURES)
        raise BadInput(f"{measure} compares maps of few images, not vectors: choose one of {able}")
    every = matched(a, b, split)
    both = having_values(a, b, every, measure)
    at = both[0].sample_at(MOST, seed)
    images_a, images_b = both if at is None else (side.take(at) for side in both)
    dim = measured_rows(a, ready_measure(a, measure), images_a.rows).dim
    load = Load(len(images_a), dim, len(both[0]), sides=2)
    announcement = outlook([load], jobs, intervals=True, budget=None)
    if announcement:
        progress("comparison", 0, 0, announcement)
    one, other = (
        _side(name, features, images, measure, jobs, progress)
        for name, features, images in (("a", a, images_a), ("b", b, images_b))
    )
    unit = copies_of([one, other])
    differences = {
        **differences_of(one, other, seed=seed, stage=_stages("", jobs, progress)),
        **_accuracy(a, b, images_a, images_b, unit),
        **_collapse(a, b, images_a, images_b, seed, unit),
    }
    people, notes = _people(human, one, other, seed)
    rows = [
        (name, each.a, each.b, each.b - each.a, *each.span,
         "up" if name in people else SCORES[name].better)
        for name, each in {**differences, **people}.items()
    ]  # fmt: skip
    columns = ["score", "a", "b", "difference", "low", "high", "better"]
    table = pd.DataFrame(rows, columns=columns)
    lost = len(every[0]) - len(both[0])
    table.attrs = {
        "images": len(images_a), "of": len(both[0]), "lost": lost,
        "influence_of": min(len(images_a), INFLUENCE_ROWS), "people": notes,
        "at_end": [name for name, each in differences.items() if each.at_end],
        "unmatched": unmatched(a, b, split),
    }  # fmt: skip
    return table


def _side(
    name: str,
    features: "Features",
    images: EvaluationSet,
    measure: str,
    jobs: Jobs,
    progress: Progress,
) -> Side:
    ready = ready_measure(features, measure)
    if np.isin(images.rows, ready.fitted_rows).any():
        msg = f"{measure} was fitted on images to be compared: use --split held_out"
        raise BadInput(msg)
    memory = 0 if jobs.remote else MEMORY
    vectors = stored_vectors(features, ready, images.rows, memory=memory)
    stage = _stages(name, jobs, progress)
    links = None
    if ready.form == "inner":
        links = copy_links(features, images, memory=memory, map_blocks=stage("near copies"))
    return measured_side(vectors, images, stage, links)


Stage = Callable[[str], MapBlocks]


def _stages(name: str, jobs: Jobs, progress: Progress) -> Stage:
    return lambda stage: jobs.stage(f"{name} {stage}".strip(), progress)


def _here(_stage: str) -> MapBlocks:
    return map


def measured_side(
    vectors: Vectors,
    images: EvaluationSet,
    stage: Stage = _here,
    links: Links | None = None,
) -> Side:
    """Pairs and neighbours of one network.

    Args:
        vectors: of the images.
        images: that are compared.
        stage: name of a stage to the way in which its blocks are mapped.
        links: what tells near copies of inner products, which tell none themselves.
    """
    vectors, counts = sure_pairs(
        vectors, images, map_blocks=stage("pairs"), rounding=stage("rounding"),
        again=stage("pairs in float64"),
    )  # fmt: skip
    near = nearest(
        vectors, images, NEIGHBOURS, units=units_of(images), map_blocks=stage("neighbours")
    )
    return Side(
        images, vectors, counts, near,
        links if vectors.form == "inner" else (near.places, near.keys),
    )  # fmt: skip


def matched(a: "Features", b: "Features", split: str) -> tuple[EvaluationSet, EvaluationSet]:
    """The images that both sides have in this split, in one order on both sides.

    Raises:
        BadInput: none in common, or none that make pairs of both kinds.
    """
    of = None if split == "all" else split
    left, right = a.table(of), b.table(of)
    both = left[["image_id", "row", "label"]].merge(right[["image_id", "row"]], on="image_id")
    if not len(both):
        msg = (
            f"{a.key} and {b.key} have no image in common in the split {split}"
            f"{f' with {a.where}' if a.where else ''}, expected the same "
            "images on both sides: extract one source with both networks"
        )
        raise BadInput(msg)
    first = evaluation_set_of(both["row_x"].to_numpy(), both["label"].tolist(), both["image_id"])
    to_b = both.set_index("row_x")["row_y"]
    rows_b = to_b.loc[first.rows].to_numpy(dtype=np.int64)
    return first, replace(first, rows=rows_b)


def unmatched(a: "Features", b: "Features", split: str) -> list[str]:
    """A line on images that one side alone has, and one on those with another label there.

    Labels are those of `a`.
    """
    of = None if split == "all" else split
    left, right = (side.table(of).set_index("image_id")["label"] for side in (a, b))
    left, right = left.dropna(), right[~right.index.isin(left.index[left.isna()])]
    lines = []
    both = left.index.intersection(right.index)
    alone = [len(left) - len(both), len(right.dropna().index.difference(left.index))]
    if any(alone):
        lines.append(
            f"images of one side alone are left out: {alone[0]} of {a.key} in {a.store.url}, "
            f"{alone[1]} of {b.key} in {b.store.url}"
        )
    other = left.loc[both] != right.loc[both].fillna("")
    if other.any():
        first = str(other.idxmax())
        lines.append(
            f"{int(other.sum())} images have another label in {b.store.url} than in "
            f"{a.store.url}, whose labels count: the first is {first[:12]} "
            f"({left[first]}, {right[first]})"
        )
    return lines


def having_values(
    a: "Features", b: "Features", both: tuple[EvaluationSet, EvaluationSet], measure: str
) -> tuple[EvaluationSet, EvaluationSet]:
    """Of matched images those of which both sides have what the measure reads (see `lost`).

    Raises:
        BadInput: the measure is unknown or not stored; those left make no pairs of both kinds.
    """
    good = np.ones(len(both[0]), dtype=bool)
    for features, images in zip((a, b), both, strict=True):
        taps = ready_measure(features, measure).taps
        good &= features.committed(taps, good=True)[images.rows]
    if good.all():
        return both
    first, second = (images.take(good) for images in both)
    check(first)
    return first, second


def compared_images(table: pd.DataFrame) -> str:
    """How many images a comparison is of, and of how many if a sample was compared."""
    n, of = table.attrs["images"], table.attrs["of"]
    return f"{n:,} images" if n == of else f"a stratified sample of {n:,} of {of:,} images"


def comparison_notes(table: pd.DataFrame, measure: str) -> list[str]:
    """What to say of images that a comparison left out, and of its intervals."""
    if "images" not in table.attrs:
        return []  # pandas drops them in some of its own operations.
    n, lost = table.attrs["images"], table.attrs["lost"]
    looked_up = table.attrs["influence_of"]
    why = f"one of the two has no value of an array that {measure} reads"
    notes = [f"{lost} images are left out: {why}"] if lost else []
    notes += [*table.attrs.get("unmatched", []), *table.attrs.get("people", [])]
    at_ends = table.attrs.get("at_end", [])
    notes += [f"{', '.join(at_ends)}: {AT_END}"] if at_ends else []
    return notes + ([influence_note(looked_up, n)] if looked_up < n else [])


def differences_of(one: Side, other: Side, *, seed: int = 0, stage: Stage = _here) -> Differences:
    """Scores of pairs and of neighbours, with what each unit does to both sides.

    Sides with the same vectors differ in nothing, whichever images are drawn: their intervals are
    0 to 0, at the ends of the range too.

    Args:
        one: the first network.
        other: the second, of the same images in the same order.
        seed: of what is drawn.
        stage: as in `measured_side`.
    """
    images, sides = one.images, (one, other)
    units, changes = units_of(images), [side.near.changes for side in sides]
    unit = copies_of(sides)
    if unit is not None:
        units = units_of(images, unit)
        changes = [
            nearest(
                side.vectors, images, NEIGHBOURS, units=units,
                map_blocks=stage(f"{name} copies"),
            ).changes
            for name, side in zip("ab", sides, strict=True)
        ]  # fmt: skip
    spreads = pair_spreads(
        [(side.vectors, side.counts) for side in sides], images, units, seed=seed,
        map_blocks=stage("influence"),
    )  # fmt: skip
    differences = {**_pairs(sides, spreads), **_neighbours(sides, changes, units)}
    if not same_vectors(one.vectors, other.vectors):
        return differences
    return {name: no_difference(each) for name, each in differences.items()}


def no_difference(of: Difference) -> Difference:
    """Of two sides that are the same; what has no interval still has none."""
    return replace(of, span=(0.0, 0.0) if np.isfinite(of.span).all() else of.span, at_end=False)


def copies_of(sides: Sequence[Side]) -> NDArray[np.int64] | None:
    """The unit of each image (N,), linked on every side; None where there are no near copies."""
    links = [side.links for side in sides if side.links is not None]
    return linked_units(sides[0].images, links) if len(links) == len(sides) else None


def _pairs(sides: tuple[Side, Side], spreads: PairSpreads) -> Differences:
    values: dict[str, list[float]] = {}
    for side in sides:
        curve = score.rates(*side.counts.balanced)
        for name, value in (
            ("auc", side.counts.area().value),
            ("eer", score.eer(*curve)),
            ("tar_at_far_1pct", score.tar_at_far(*curve, 0.01)),
            ("worst_class_auc", (_least_sameness(side.counts) + 1.0) / 2.0),
        ):
            values.setdefault(name, []).append(value)
    differences = {}
    for name, (a, b) in values.items():
        span = (float("nan"), float("nan"))
        if name in spreads.apart and name not in spreads.why_not:
            of_a, of_b = (side[name] for side in spreads.sides)
            span_a, span_b = spreads.interval(name, a, 0), spreads.interval(name, b, 1)
            apart = spreads.apart[name]
            span = difference_interval(a, b, span_a, span_b, of_a, of_b, apart)
        differences[name] = Difference(a, b, span, at_end(a) or at_end(b))
    auc, worst = differences["auc"], differences.pop("worst_class_auc")
    return {"sameness": _doubled(auc), **differences, "worst_class_sameness": _doubled(worst)}


def _doubled(auc: Difference) -> Difference:
    """Sameness from an AUC."""
    span = 2 * auc.span[0], 2 * auc.span[1]
    return Difference(2 * auc.a - 1, 2 * auc.b - 1, span, auc.at_end)


def _least_sameness(counts: PairCounts) -> float:
    each = [score.auc(*pair).sameness for pair in zip(counts.same, counts.different, strict=True)]
    return min((value for value in each if np.isfinite(value)), default=float("nan"))


def _neighbours(
    sides: tuple[Side, Side], changes: list[Changes | None], units: Units
) -> Differences:
    images = sides[0].images
    has_kin = images.counts[images.codes] > 1
    first, second = changes
    assert first is not None
    assert second is not None
    differences = {}
    for name in ("one_nn", "purity_at_10", "r_precision", "map_at_r"):
        a, b = (
            float(_image_scores(side.near, side.images, name)[has_kin].mean()) for side in sides
        )
        of_a, of_b = (score_spread(each.without, name, images, units) for each in (first, second))
        top = purity_top(images) if name == "purity_at_10" else 1.0
        span_a, span_b = (
            share_interval(value, of, len(units.stratum), top)
            for value, of in ((a, of_a), (b, of_b))
        )
        apart = score_spread(second.without - first.without, name, images, units, paired=True)
        span = difference_interval(a, b, span_a, span_b, of_a, of_b, apart, top)
        differences[name] = Difference(a, b, span, at_end(a, top) or at_end(b, top))
    return differences


def _image_scores(near: Nearest, images: EvaluationSet, name: str) -> NDArray[np.float64]:
    hits = near.hits(images)
    if name == "one_nn":
        return hits[:, 0].astype(np.float64)
    if name == "purity_at_10":
        return np.asarray(hits.mean(axis=1))
    return near.r_precision if name == "r_precision" else near.map_at_r


def _people(
    human: HumanAnswers | None, one: Side, other: Side, seed: int
) -> tuple[Differences, list[str]]:
    """Scores against people on both sides, and what to say of them."""
    if human is None:
        return {}, []
    table = human_differences(human, [one.vectors, other.vectors], one.images, seed=seed)[1]
    if table.empty:
        return {}, [f"alike to people: left out: {human.too_few}"]
    differences = {
        f"{PEOPLE}{row.score}": Difference(
            row.value - row.difference, row.value, (row.difference_low, row.difference_high)
        )
        for row in table.itertuples()
    }
    return differences, [f"alike to people: {note}" for note in human_notes(table)]


def _accuracy(
    one: "Features",
    other: "Features",
    images: EvaluationSet,
    of_other: EvaluationSet,
    unit: NDArray[np.int64] | None,
) -> Differences:
    """The networks' own accuracy; nothing where classes of one are not the labels."""
    right = named_rightly(one, images), named_rightly(other, of_other)
    if right[0] is None or right[1] is None:
        return {}
    a, b = (each.astype(np.float64) for each in right if each is not None)
    difference = share_difference(a, b, units_of(images, unit))
    if same_logits(one, other, images, of_other):
        difference = no_difference(difference)
    return {"accuracy": difference}


def same_logits(
    one: "Features", other: "Features", images: EvaluationSet, of_other: EvaluationSet
) -> bool:
    """Whether both networks give every image the same logits."""
    if one.arrays["logits"].tail != other.arrays["logits"].tail:
        return False
    return all(
        np.array_equal(
            one.read("logits", images.rows[low : low + LOGIT_ROWS]),
            other.read("logits", of_other.rows[low : low + LOGIT_ROWS]),
        )
        for low in range(0, len(images), LOGIT_ROWS)
    )


def share_difference(a: NDArray[np.float64], b: NDArray[np.float64], units: Units) -> Difference:
    """Of two networks whose images are right or not, (N,) each, 0 to 1."""
    of_a, of_b = float(a.mean()), float(b.mean())
    span_a, span_b = (right_interval(each, units) for each in (a, b))
    apart, n_units = spread(share_movements(b - a, units), units.stratum), len(units.stratum)
    span = mean_difference(of_a, of_b, span_a, span_b, apart, n_units)
    return Difference(of_a, of_b, span, at_end(of_a) or at_end(of_b))


def _collapse(
    one: "Features",
    other: "Features",
    images: EvaluationSet,
    of_other: EvaluationSet,
    seed: int,
    unit: NDArray[np.int64] | None,
) -> Differences:
    """NC1 of what enters the classifier; nothing where that is not stored on both sides."""
    for side, own in ((one, images), (other, of_other)):
        if "fc" not in side.arrays or not side.committed(["fc"], good=True)[own.rows].all():
            return {}
    a, b = (
        nc1_by_group(stored_vectors(side, PENULTIMATE, own.rows), own, seed, unit)
        for side, own in ((one, images), (other, of_other))
    )
    return {"nc1": nc1_difference(a, b)}


def nc1_by_group(
    vectors: Vectors, images: EvaluationSet, seed: int, unit: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """NC1 of all images, then without a tenth of each class in turn (11,)."""
    of = left_out_in_turn(vectors, images, seed, unit, most=len(images))
    return np.asarray(of.values[:, 0])


def nc1_difference(a: NDArray[np.float64], b: NDArray[np.float64]) -> Difference:
    """Of what `nc1_by_group` gives of two networks on the same images."""
    apart = b - a
    return Difference(float(a[0]), float(b[0]), jackknife_interval(apart[0], apart[1:]))
