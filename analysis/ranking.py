"""Every network of a store on the same images: scores, differences to the best, and accuracy.

Each score is that of `alike analyse`, each difference that of `alike compare`. The question over
networks is whether sameness orders them as accuracy does: a rank correlation, whose interval draws
networks and images again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from alike.analysis.blocks import (
    MEMORY,
    EvaluationSet,
    Jobs,
    Vectors,
    check_seed,
    evaluation_set_of,
    here,
    stored_vectors,
)
from alike.analysis.compare import (
    AT_END,
    PEOPLE,
    Difference,
    Side,
    copies_of,
    differences_of,
    measured_side,
    nc1_by_group,
    nc1_difference,
    no_difference,
    same_logits,
    share_difference,
)
from alike.analysis.neighbours import linked_units
from alike.analysis.pairs import (
    Units,
    auc_movements,
    right_interval,
    share_movements,
    units_of,
)
from alike.analysis.people import HumanAnswers, human_differences
from alike.analysis.probes import NAMES as PROBES
from alike.analysis.probes import probe_rights
from alike.analysis.scores import (
    PENULTIMATE,
    SCORES,
    copy_links,
    evaluate_measure,
    left_out_in_turn,
    named_rightly,
)
from alike.analysis.stored import images_digest
from alike.extract.errors import BadInput
from alike.extract.identity import network_titles
from alike.extract.measures import MEASURES, SET_MEASURES, ready_measure
from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from alike.extract.store import Features, StoreBase

Floats = NDArray[np.float64]

MOST = 16_384
"""Images of a ranking; of more a stratified sample is ranked by."""
DRAWS = 1000
LEAST = 3
"""Networks from which on there is a rank correlation."""
FEWEST = 5
"""Networks from which on a rank correlation has an interval."""
OF_PAIRS = ("sameness", "worst_class_sameness", "map_at_r")
OF_PEOPLE = tuple(f"{PEOPLE}{name}" for name in ("all_pairs", "class_pairs", "triplets"))
"""Scores against people, where they were asked."""
RANKED = (*OF_PAIRS, *PROBES, "accuracy", "nc1", *OF_PEOPLE)
PLACE = "tables/networks.parquet"
VERSION = 5
"""Of what `alike compare --all` stores: another one is computed anew by the next run."""
NO_SPAN = (float("nan"), float("nan"))


@dataclass(frozen=True)
class Ranking:
    """Networks by scores.

    Attributes:
        table: network (the key), score, value, low, high, difference (to the best network),
            difference_low, difference_high, better, note; the network of the highest sameness
            first.
        correlation: of, value, low, high, networks, note: Spearman of sameness with each of
            accuracy and the probes, over networks.
        record: measure, split, where, images, of (before a sample was taken), classes, seed, best,
            left_out (key of a network, a score of it or a correlation, to the reason), digests (of
            the features), images_digest (of images, labels and sides), titles (key to network,
            arguments and weights in words), human (kind, digest and notes of what people said;
            empty if nothing is known).
    """

    table: pd.DataFrame
    correlation: pd.DataFrame
    record: dict[str, Any]

    def wide(self) -> pd.DataFrame:
        """One row a network, one column a score."""
        shown = self.table.pivot_table(index="network", columns="score", values="value", sort=False)
        return shown[[name for name in RANKED if name in shown]].reset_index()

    def with_intervals(self, of: str = "value") -> pd.DataFrame:
        """For a screen: one row a network, by its number in `keys`, one column a score.

        Args:
            of: `value`, or `difference` to the best network, which has no row of its own.
        """
        low, high = ("low", "high") if of == "value" else (f"{of}_low", f"{of}_high")
        cells = [_cell(*numbers) for numbers in self.table[[of, low, high]].to_numpy(float)]
        shown = self.table.assign(cell=cells).pivot(index="network", columns="score", values="cell")
        shown = shown.loc[self.keys, [name for name in RANKED if name in shown]].fillna("–")
        shown.insert(0, "network", [str(number + 1) for number in range(len(shown))])
        return shown if of == "value" else shown.drop(index=self.record["best"])

    @property
    def keys(self) -> list[str]:
        """The networks, that of the highest sameness first."""
        return [str(key) for key in self.table["network"].unique()]

    def other_images(self, store: "StoreBase") -> bool:
        """Whether images, their labels or sides came or changed since; no where it is not known."""
        return self.record.get("images_digest") not in (None, images_digest(store))

    def save(self, store: "StoreBase") -> None:
        """Keep it for the report; the one before is replaced."""
        attrs = {"record": self.record, "correlation": self.correlation.to_dict("records")}
        store.write_table(PLACE, self.table, attrs)

    @staticmethod
    def load(store: "StoreBase") -> "Ranking | None":
        """What `save` kept; None if nothing was."""
        try:
            table, attrs = store.read_table(PLACE)
        except FileNotFoundError:
            return None
        return Ranking(table, pd.DataFrame(attrs["correlation"]), dict(attrs["record"]))


def _cell(value: float, low: float, high: float) -> str:
    """A number and under it its interval."""
    if not np.isfinite(value):
        return "–"
    number, *ends = (f"{x:.3g}" if abs(x) >= 10 else f"{x:.3f}" for x in (value, low, high))
    return f"{number}\n{', '.join(ends)}" if np.isfinite(low) else number


@dataclass(frozen=True)
class Measured:
    """What is measured of one network.

    Attributes:
        features: the extraction.
        side: pairs and neighbours, as `alike compare` takes them.
        scores: score to value, interval and note.
        rights: score to (N,) whether each image is right.
        probed_by: digest of the vectors that the probes are made of; "": there are none.
        unit: (N,) its near copies; None: there are none.
        fc: what enters the classifier; None: not stored.
        nc1: without each group of the jackknife, the first with all; empty: not stored.
        left_out: scores that are not there, to the reason.
    """

    features: "Features"
    side: Side
    scores: dict[str, tuple[float, tuple[float, float], str]]
    rights: dict[str, Floats]
    probed_by: str
    unit: NDArray[np.int64] | None
    fc: Vectors | None
    nc1: Floats
    left_out: dict[str, str]

    @property
    def key(self) -> str:
        """Of the extraction."""
        return self.features.key

    def rightly_the_same(self, other: "Measured", score: str) -> bool:
        """Whether an image is right on both sides or on none by what the score is made of.

        So it is whichever images are drawn; two networks that are right of the same images here
        may differ by chance.
        """
        if score in PROBES:
            return self.probed_by == other.probed_by
        return same_logits(self.features, other.features, self.side.images, other.side.images)


def rank_networks(
    networks: "Sequence[Features]",
    *,
    split: str = "held_out",
    measure: str = "gap_cosine",
    seed: int = 0,
    human: HumanAnswers | None = None,
    jobs: Jobs | None = None,
    progress: Progress = silent,
) -> Ranking:
    """Measure every network on the images that all of them have.

    Args:
        networks: extractions; those that lack what the measure reads are left out, with the reason.
        split: which images: `held_out`, `validation`, `train` or `all`.
        measure: a key of `MEASURES`, of all.
        seed: of what is drawn.
        human: what people said about the images, by rows of the store; None: nothing is known.
        jobs: where blocks run; None: threads of this process.
        progress: told after every few blocks.

    Raises:
        BadInput: fewer than two networks that can be measured, or no images in common.
    """
    check_seed(seed)
    jobs = jobs or here()
    sets, left_out = common_images(networks, split, measure)
    usable = [one for one in networks if one.key in sets]
    first = sets[usable[0].key]
    at = first.sample_at(MOST, seed)
    if at is not None:
        sets = {key: images.take(at) for key, images in sets.items()}
    images = sets[usable[0].key]
    every = [
        _measured(one, sets[one.key], measure, len(usable), seed, jobs, progress)
        for one in usable
    ]  # fmt: skip
    units = units_of(images, copies_of([one.side for one in every]))
    every.sort(key=lambda one: -one.scores["sameness"][0])
    left_out |= {
        f"{one.key} {name}": reason for one in every for name, reason in one.left_out.items()
    }
    rows = []
    for one in every:
        apart = _differences(every[0], one, images, seed, jobs, progress)
        for name in RANKED:
            if name not in one.scores:
                continue
            value, span, note = one.scores[name]
            difference = apart.get(name)
            of_best = (np.nan, *NO_SPAN) if difference is None else (
                difference.b - difference.a, *difference.span
            )  # fmt: skip
            if difference is not None and difference.at_end:
                note = f"{note}; {AT_END}" if note else AT_END
            rows.append((one.key, name, value, *span, *of_best, SCORES[name].better, note))
    of_people = _of_people(human, every, images, seed)
    if human is not None and not of_people:
        left_out["alike to people"] = human.too_few
    rows += of_people
    names = ["network", "score", "value", "low", "high", "difference", "difference_low"]
    table = pd.DataFrame(rows, columns=[*names, "difference_high", "better", "note"])
    record: dict[str, Any] = {
        "measure": measure, "split": split, "images": len(images), "of": len(first), "seed": seed,
        "where": usable[0].where, "best": every[0].key, "left_out": left_out,
        "classes": len(images.classes),
        "digests": {one.key: one.digest for one in usable},
        "images_digest": images_digest(usable[0].store),
        "titles": network_titles({one.key: one.attrs for one in usable}),
        "human": human.record if human else {},
    }  # fmt: skip
    movements = [
        2 * auc_movements(
            one.side.vectors, one.side.counts, one.side.images, units,
            map_blocks=jobs.stage(f"{one.key} movements", progress),
        )
        for one in every
    ]  # fmt: skip
    correlation, short = _correlations(every, movements, units, seed)
    record["left_out"] |= short
    return Ranking(table, correlation, record)


def _of_people(
    human: HumanAnswers | None, every: list[Measured], images: EvaluationSet, seed: int
) -> list[tuple[Any, ...]]:
    """Rows of the table with scores against people; the first network is the best."""
    if human is None:
        return []
    vectors = [one.side.vectors for one in every]
    rows: list[tuple[Any, ...]] = []
    for one, table in zip(every, human_differences(human, vectors, images, seed=seed), strict=True):
        rows += [
            (one.key, f"{PEOPLE}{row.score}", row.value, row.low, row.high, row.difference,
             row.difference_low, row.difference_high, "up", row.note)
            for row in table.itertuples() if f"{PEOPLE}{row.score}" in OF_PEOPLE
        ]  # fmt: skip
    return rows


def common_images(
    networks: "Sequence[Features]", split: str, measure: str
) -> tuple[dict[str, EvaluationSet], dict[str, str]]:
    """The images of a split that all networks have, in one order for all.

    Returns:
        key to its rows of them, and key to the reason why a network is left out.

    Raises:
        BadInput: fewer than two networks that can be measured, or no images in common.
    """
    if measure in SET_MEASURES:
        able = ", ".join(MEASURES)
        raise BadInput(f"{measure} compares maps of few images, not vectors: choose one of {able}")
    tables: dict[str, pd.DataFrame] = {}
    left_out: dict[str, str] = {}
    for one in networks:
        try:
            ready = ready_measure(one, measure)
        except BadInput as error:
            left_out[one.key] = str(error)
            continue
        table = one.table(None if split == "all" else split)
        gone = split == "all" and table.empty
        table = table[one.committed(ready.taps, good=True)[table["row"].to_numpy()]]
        seen = np.isin(table["row"].to_numpy(), ready.fitted_rows)
        if len(table) and seen.any():
            left_out[one.key] = f"{measure} was fitted on images to be compared"
        elif not len(table):
            left_out[one.key] = (
                "none of its images is in the set any more"
                if gone
                else f"it has no images of the split {split} with features for {measure}"
            )
        else:
            tables[one.key] = table
    if len(tables) < 2:
        why = "".join(f"; {key}: {reason}" for key, reason in left_out.items())
        msg = f"networks that {measure} can measure: {len(tables)}, expected two or more: "
        raise BadInput(f"{msg}extract the images with another network{why}")
    (name, whole), *others = tables.items()
    shared = whole[["image_id", "row", "label"]]
    for _, table in others:
        shared = shared[shared["image_id"].isin(table["image_id"])]
    if not len(shared):
        msg = f"no image of the split {split} is in all of {', '.join(tables)}"
        raise BadInput(f"{msg}: extract one source with every network")
    images = evaluation_set_of(
        shared["row"].to_numpy(), shared["label"].tolist(), shared["image_id"].tolist()
    )
    ids = shared.set_index("row")["image_id"].loc[images.rows]
    sets = {name: images}
    for key, table in others:
        rows = table.set_index("image_id")["row"].loc[ids].to_numpy(dtype=np.int64)
        sets[key] = EvaluationSet(
            rows, images.codes, images.classes, images.starts, images.ranks, images.unlabelled
        )
    return sets, left_out


def _measured(
    features: "Features",
    images: EvaluationSet,
    measure: str,
    networks: int,
    seed: int,
    jobs: Jobs,
    progress: Progress,
) -> Measured:
    def stage(name: str) -> Any:
        return jobs.stage(f"{features.key} {name}", progress)

    memory = 0 if jobs.remote else MEMORY // networks
    ready = ready_measure(features, measure)
    vectors = stored_vectors(features, ready, images.rows, memory=memory)
    links = None
    if ready.form == "inner":
        links = copy_links(features, images, memory=memory, map_blocks=stage("near copies"))
    copies = None if links is None else linked_units(images, [links])
    tables = evaluate_measure(
        measure, vectors, images, stage, seed=seed, copies=copies, one_pass=not jobs.remote
    )
    rows = tables["scores"]
    of_score = rows.set_index("score")
    scores = {
        name: (float(row["value"]), (float(row["low"]), float(row["high"])), str(row["note"]))
        for name, row in of_score.loc[of_score.index.intersection(OF_PAIRS)].iterrows()
    }
    side = measured_side(vectors, images, stage, links)
    unit = copies_of([side])
    units = units_of(images, unit)
    rights, notes, left_out = dict[str, Floats](), dict[str, str](), dict[str, str]()
    probed_by = ""
    try:
        probed = probe_rights(features, images, stage)
        if len(probed.images) == len(images):
            rights, notes, probed_by = dict(probed.rights), probed.notes, probed.digest()
        else:
            some = f"{len(images) - len(probed.images)} of {len(images)} images"
            left_out["probes"] = f"{some} are train images, which fitted them, or have no value"
    except BadInput as error:
        left_out["probes"] = str(error)
    right = named_rightly(features, images)
    if right is None:
        left_out["accuracy"] = "the labels are not the network's classes, or logits are not stored"
    else:
        rights["accuracy"] = right.astype(np.float64)
    for name, each in rights.items():
        scores[name] = float(each.mean()), right_interval(each, units), notes.get(name, "")
    fc, nc1 = None, np.empty(0)
    if "fc" not in features.arrays or not features.committed(["fc"], good=True)[images.rows].all():
        left_out["nc1"] = "fc is not stored of all images"
    else:
        fc = stored_vectors(features, PENULTIMATE, images.rows)
        of = left_out_in_turn(fc, images, seed, unit, most=len(images))
        nc1 = of.values[:, 0]
        scores["nc1"] = float(nc1[0]), *of.interval("nc1", nc1[0])
    return Measured(features, side, scores, rights, probed_by, unit, fc, nc1, left_out)


def _differences(
    best: Measured,
    one: Measured,
    images: EvaluationSet,
    seed: int,
    jobs: Jobs,
    progress: Progress,
) -> dict[str, Difference]:
    """What the best network has less or more; nothing for itself."""
    if one is best:
        return {}
    stage = partial(_stage_of, one.key, jobs, progress)
    apart = differences_of(best.side, one.side, seed=seed, stage=stage)
    unit = copies_of([best.side, one.side])
    units = units_of(images, unit)
    for name in one.rights:
        if name in best.rights:
            apart[name] = share_difference(best.rights[name], one.rights[name], units)
            if best.rightly_the_same(one, name):
                apart[name] = no_difference(apart[name])
    if best.fc is not None and one.fc is not None:
        a, b = (
            each.nc1 if unit is None and each.unit is None
            else nc1_by_group(each.fc, images, seed, unit)
            for each in (best, one) if each.fc is not None
        )  # fmt: skip
        apart["nc1"] = nc1_difference(a, b)
    return apart


def _stage_of(key: str, jobs: Jobs, progress: Progress, name: str) -> Any:
    return jobs.stage(f"{key} {name}", progress)


def _correlations(
    every: list[Measured], movements: list[Floats], units: Units, seed: int
) -> tuple[pd.DataFrame, dict[str, str]]:
    """Of sameness with each score, and the reasons of those that too few networks have."""
    rows, left_out = [], {}
    for name in ("accuracy", *PROBES):
        at = [i for i, one in enumerate(every) if name in one.rights]
        if len(at) < LEAST:
            why = f"networks with it: {len(at)}, expected {LEAST} or more"
            left_out[f"rank correlation with {name}"] = why
            continue
        sameness = np.array([every[i].scores["sameness"][0] for i in at])
        shares = np.array([every[i].scores[name][0] for i in at])
        moved = np.array([movements[i] for i in at])
        right = np.array([share_movements(every[i].rights[name], units) for i in at])
        value, span = rank_correlation(sameness, shares, moved, right, units, seed)
        note = "" if np.isfinite(span[0]) else f"no interval: fewer than {FEWEST} networks"
        rows.append((name, value, *span, len(at), note))
    names = ["of", "value", "low", "high", "networks", "note"]
    return pd.DataFrame(rows, columns=names), left_out


def rank_correlation(
    x: Floats, y: Floats, x_moved: Floats, y_moved: Floats, units: Units, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Spearman over networks, and an interval over networks and images.

    The bootstrap draws networks again and, for all of them at once, units within classes. It is
    too narrow if few networks are ordered perfectly, so the interval is the hull of it and of that
    of Bonett and Wright (2000), which knows the number of networks only.

    Args:
        x: (K,) a score of each network.
        y: (K,) another.
        x_moved: (K, U) movement of the first by each unit.
        y_moved: (K, U) of the second.
        units: of the images.
        seed: of the draws.
    """
    value = float(_spearman(x[None], y[None])[0])
    k = len(x)
    if k < FEWEST or not np.isfinite(value):
        return value, NO_SPAN
    draw = np.random.default_rng(seed)
    more = np.zeros((DRAWS, len(units.stratum)))
    for stratum in np.unique(units.stratum):
        at = np.flatnonzero(units.stratum == stratum)
        more[:, at] = draw.multinomial(len(at), np.full(len(at), 1 / len(at)), size=DRAWS) - 1.0
    which = draw.integers(k, size=(DRAWS, k))
    drawn = [
        np.take_along_axis(score + more @ moved.T, which, axis=1)
        for score, moved in ((x, x_moved), (y, y_moved))
    ]
    low, high = np.nanquantile(_spearman(*drawn), [0.025, 0.975])
    # At 1 the scale of Fisher has no end.
    r = float(np.clip(value, 1 / k**2 - 1, 1 - 1 / k**2))
    reach = 1.96 * ((1 + r * r / 2) / (k - 3)) ** 0.5
    wide = np.tanh(np.arctanh(r) + np.array([-reach, reach]))
    return value, (float(min(low, wide[0])), float(max(high, wide[1], value)))


def _spearman(x: Floats, y: Floats) -> Floats:
    """Of each row (B, K) of two; NaN where one does not vary."""
    from scipy.stats import rankdata

    a, b = (rankdata(v, axis=1) - (v.shape[1] + 1) / 2 for v in (x, y))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(axis=1) / np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1)))
