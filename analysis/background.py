"""What the ground behind objects does: sameness with objects cut out and pasted on other grounds.

Xiao, Engstrom, Ilyas and Madry 2021, "Noise or signal: the role of image backgrounds in object
recognition": an object on the ground of another image of its class (`mixed_same`) and on the ground
of any image (`mixed_random`). The gap between both is what a network takes from grounds that go
with a class; there it is of accuracy, here of sameness too. The ground of an image is the image
with the bounding box of its object covered by tiles of the largest strip beside the box.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from alike.analysis.blocks import (
    EvaluationSet,
    check,
    check_seed,
    evaluation_set_of,
    held_vectors,
)
from alike.analysis.compare import (
    AT_END,
    Difference,
    Side,
    copies_of,
    differences_of,
    measured_side,
    no_difference,
    share_difference,
)
from alike.analysis.explain import evaluating, network_for, turns_in_classes
from alike.analysis.explain.file_names import BACKGROUND
from alike.analysis.explain.grade import mean_interval
from alike.analysis.explain.likeness_maps import directed, leave_one_out, likeness_to
from alike.analysis.neighbours import linked_units
from alike.analysis.pairs import right_interval, units_of
from alike.analysis.scores import copy_links, evaluate_measure, logit_places
from alike.extract.errors import BadImage, BadInput
from alike.extract.frames import StoredImages, transform_of
from alike.extract.images import decode, open_source
from alike.extract.measures import MEASURES, SET_MEASURES, constants_of, ready_measure
from alike.extract.networks import forward_taps
from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from alike.extract.images import ImageSource
    from alike.extract.networks import Network, Transform
    from alike.extract.store import Features

Pixels = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Places = NDArray[np.int64]
Floats = NDArray[np.float64]
Row = tuple[str, str, float, float, float, str]
"""One of the table: images, score, value, low, high, note."""

BATCH = 32
MOST = 500
"""Images that are probed unless told otherwise."""
VARIANTS = {
    "original": "images as they are",
    "mixed_same": "objects on the ground of another image of their class",
    "mixed_random": "objects on the ground of any other image",
    "only_object": "objects on the mean colour of all grounds",
    "only_ground": "grounds without their objects",
}
"""What the network is shown, in words."""
GAP = "mixed_same - mixed_random"
NO_LOGITS = "the store has no logits: extract them too"
NO_CLASSES = "labels are not classes of the network"


@dataclass(frozen=True)
class BackgroundProbe:
    """What grounds do to the features of a network.

    Attributes:
        table: images (a key of `VARIANTS`, or `GAP`), score, value, low, high, note.
        record: measure, split, masks, images, left_out (reason to count of images),
            scores_left_out (score to reason), seed, digest.
    """

    table: pd.DataFrame
    record: dict[str, Any]


class Unusable(BadInput):
    """A mask that cannot be read, or whose size is not that of its image.

    Attributes:
        kind: of the two, in words.
    """

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Cutouts:
    """Images with their objects.

    Attributes:
        frames: (N, 3, h, w), what the network sees of each image.
        objects: (N, h, w), where its object is.
        images: rows and classes, in the same order.
    """

    frames: Pixels
    objects: Mask
    images: EvaluationSet


def background_probe(
    features: "Features",
    masks: str,
    network: "Network | None" = None,
    *,
    measure: str = "gap_cosine",
    split: str | None = "held_out",
    limit: int = MOST,
    seed: int = 0,
    progress: Progress = silent,
) -> BackgroundProbe:
    """Measure what the ground behind objects does to sameness, accuracy and likeness.

    The table goes to `tables/<key>/background.parquet`.

    Args:
        features: whose images, and whose network where none is given.
        masks: set of images, as `open_source` takes it: a mask for each image, of its size and
            path but for the suffix; brighter than half of its largest value is object.
        network: from `load_network`.
        measure: a key of `MEASURES`.
        split: `train`, `validation`, `held_out` or None for all.
        limit: images, spread evenly over the classes.
        seed: of the grounds that objects are pasted on.
        progress: told after every batch.

    Raises:
        BadInput: masks that fit no image, too few images that have an object and a
            ground, frames of several sizes, or a measure that compares no vectors.
    """
    check_seed(seed)
    features.store.require_writable()
    if measure in SET_MEASURES:
        able = ", ".join(MEASURES)
        raise BadInput(f"{measure} compares maps of few images, not vectors: choose one of {able}")
    ready = ready_measure(features, measure)
    network = network_for(features, network)
    cutouts, left_out = cutouts_of(features, masks, split, limit, ready.fitted_rows, progress)
    passes = Passes(features, network, measure, progress)
    rows: list[Row] = []
    sides: dict[str, Side] = {}
    rights: dict[str, Floats] = {}
    answers: dict[str, Floats] = {}
    # A frame holds the object of its image: what is a copy by the stored features is one here.
    links = copy_links(features, cutouts.images) if ready.form == "inner" else None
    copies = None if links is None else linked_units(cutouts.images, [links])
    for variant, frames in variants_of(cutouts, seed):
        vectors, logits = passes.vectors(frames, variant)
        _check_numbers(variant, vectors, logits, cutouts.images.rows)
        held = held_vectors(vectors, ready.form)
        sides[variant] = measured_side(held, cutouts.images, links=links)
        tables = evaluate_measure(
            measure, held, cutouts.images, lambda _: map, seed=seed, copies=copies
        )
        row = tables["scores"].set_index("score").loc["sameness"]
        value, low, high = (float(row[name]) for name in ("value", "low", "high"))
        about = VARIANTS[variant]
        if variant == "mixed_same":
            about += _own_grounds(cutouts.images)
        rows.append((variant, "sameness", value, low, high, about))
        right = _right(features, cutouts.images, logits)
        if right is not None:
            rights[variant], answers[variant] = right, logits
            rows.append((variant, "accuracy", *_share(right, sides[variant]), about))
    rows += _gaps(sides, rights, answers, cutouts.images, seed)
    missing = {}
    if not rights:
        missing["accuracy"] = NO_CLASSES if "logits" in features.arrays else NO_LOGITS
    try:
        rows += _off_object(passes, cutouts)
    except BadInput as error:
        # A network without a last map has no likeness by positions.
        missing["likeness_off_object"] = str(error)
    table = pd.DataFrame(rows, columns=["images", "score", "value", "low", "high", "note"])
    record = {
        "measure": measure, "split": split or "all", "masks": masks, "seed": seed,
        "images": len(cutouts.images), "left_out": left_out, "scores_left_out": missing,
        "digest": features.digest,
        **({"where": features.where} if features.where else {}),
    }  # fmt: skip
    features.store.write_table(BACKGROUND.format(key=features.key), table, record)
    return BackgroundProbe(table, record)


def cutouts_of(
    features: "Features",
    masks: str,
    split: str | None,
    limit: int,
    unusable: Places,
    progress: Progress = silent,
) -> tuple[Cutouts, dict[str, int]]:
    """Read images of a split with their masks; those without object or ground are left out.

    Args:
        features: of the images.
        masks: set of the masks.
        split: of the images.
        limit: images, spread evenly over the classes.
        unusable: rows that must not be evaluated.
        progress: told now and then.

    Returns:
        The images, and the reasons why others are left out, with their number.

    Raises:
        BadInput: as `background_probe`.
    """
    source = open_source(masks)
    paths: dict[str, str] = {}
    for listed in source:
        other = paths.setdefault(_stem(listed.path), listed.path)
        if other != listed.path:
            raise BadInput(
                f"masks {masks}: {other!r} and {listed.path!r} are masks of one image: keep one"
            )
    table = features.table(split)
    table = table[table["label"].fillna("").ne("") & ~table["row"].isin(unusable)]
    masked = table["path"].map(_stem).isin(paths)
    if not masked.any():
        ours, theirs = next(iter(table["path"]), "none"), next(iter(paths.values()), "none")
        raise BadInput(
            f"masks {masks}: none has the path of an image of this split (such as {ours!r}; the "
            f"first mask is {theirs!r}), expected the same path but for the suffix"
        )
    left_out = {"no mask": int((~masked).sum())}
    table = table[masked]
    turn = turns_in_classes(table)
    several, classes = int((turn == 1).sum()), int((turn == 0).sum())
    table = table.iloc[np.lexsort((table["image_id"], turn))[:limit]]
    if several > 1 and (table["label"].value_counts() > 1).sum() < 2:
        raise BadInput(
            f"--limit {limit} leaves fewer than two classes with two images, of {classes} "
            f"classes: give {2 * classes} or more"
        )
    transform, stored = transform_of(features), StoredImages.of(features.store)
    unusable_masks: dict[str, list[str]] = {}
    frames: list[Pixels] = []
    objects: list[Mask] = []
    usable: list[bool] = []
    for done, (row, path) in enumerate(zip(table["row"], table["path"], strict=True), start=1):
        mask = paths[_stem(path)]
        try:
            frame, covered = _frame_and_object(stored, int(row), source, mask, transform)
        except Unusable as error:
            unusable_masks.setdefault(error.kind, []).append(str(error))
            usable.append(False)
            continue
        whole = tiled_ground(frame, covered) if covered.any() else None
        reason = "" if whole is not None else "no object" if not covered.any() else "no ground"
        usable.append(not reason)
        if reason:
            left_out[reason] = left_out.get(reason, 0) + 1
            continue
        frames.append(frame)
        objects.append(covered)
        progress("masks", done, len(table))
    for kind, examples in unusable_masks.items():
        left_out[f"{kind} ({min(examples)})"] = len(examples)
    if not frames:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in left_out.items() if count)
        raise BadInput(
            f"masks {masks}: no image has an object and a strip of ground beside it ({reasons})"
        )
    if len({frame.shape for frame in frames}) > 1:
        raise BadInput(
            "the network sees images of several sizes, and objects are pasted on grounds of one: "
            "extract with --resize and --crop"
        )
    table = table[usable]
    try:
        images = evaluation_set_of(
            table["row"].to_numpy(), table["label"].tolist(), table["image_id"].tolist()
        )
        check(images.take(images.counts[images.codes] > 1))
    except BadInput as error:
        whose = "of the images with an object and a ground"
        raise BadInput(f"masks {masks}: {whose}: {error}") from error
    order = pd.Index(table["row"]).get_indexer(images.rows)
    cutouts = Cutouts(np.stack(frames)[order], np.stack(objects)[order], images)
    return cutouts, {reason: count for reason, count in left_out.items() if count}


def _stem(path: str) -> str:
    return str(PurePosixPath(path).with_suffix(""))


def _frame_and_object(
    stored: StoredImages, row: int, source: "ImageSource", mask_path: str, transform: "Transform"
) -> tuple[Pixels, Mask]:
    image = stored.read(row)
    pixels = image.pixels()
    try:
        mask = decode(source.read(mask_path))
    except (BadImage, OSError) as error:
        raise Unusable("mask that cannot be read", f"{mask_path!r}: {error}") from error
    if mask.shape[1:] != pixels.shape[1:]:
        sides = [f"{one.shape[1]}x{one.shape[2]}" for one in (mask, pixels)]
        raise Unusable("mask of another size", f"{mask_path!r} is {sides[0]}, its image {sides[1]}")
    bright = mask.amax(dim=0, keepdim=True).float()
    covered = ((bright > bright.max() / 2) * 255).to(torch.uint8).expand(3, -1, -1)
    frame = image.frame(transform).numpy()
    return frame, np.asarray(transform.frame(covered.contiguous())[0].numpy() > 127)


def tiled_ground(frame: Pixels, covered: Mask) -> Pixels | None:
    """The ground alone: the bounding box of the object under tiles of the largest strip beside it.

    Args:
        frame: (3, h, w).
        covered: (h, w), where the object is, somewhere.

    Returns:
        (3, h, w); None if the box leaves no strip.
    """
    down, right = (np.flatnonzero(covered.any(axis=axis)) for axis in (1, 0))
    box = slice(down[0], down[-1] + 1), slice(right[0], right[-1] + 1)
    strips = (
        frame[:, : box[0].start], frame[:, box[0].stop :],
        frame[:, :, : box[1].start], frame[:, :, box[1].stop :],
    )  # fmt: skip
    strip = max(strips, key=lambda one: one.shape[1] * one.shape[2])
    if not strip.size:
        return None
    high, wide = (side.stop - side.start for side in box)
    times = (1, math.ceil(high / strip.shape[1]), math.ceil(wide / strip.shape[2]))
    ground = frame.copy()
    ground[:, box[0], box[1]] = np.tile(strip, times)[:, :high, :wide]
    return ground


def other_grounds(images: EvaluationSet, seed: int) -> dict[str, Places]:
    """Whose ground each object is pasted on, (N,) positions; never its own.

    Every ground of a class is used once, so no two objects share one. A class of one image, which
    has no other of its class, keeps its own.
    """
    draw = np.random.default_rng(seed)
    same = np.empty(len(images), dtype=np.int64)
    for low, high in zip(images.starts[:-1], images.starts[1:], strict=True):
        order = draw.permutation(images.by_id[low:high])
        same[order] = np.roll(order, 1)
    every = draw.permutation(images.by_id)
    anyone = np.empty(len(images), dtype=np.int64)
    anyone[every] = np.roll(every, 1)
    return {"mixed_same": same, "mixed_random": anyone}


def _own_grounds(images: EvaluationSet) -> str:
    """How many keep their own ground in `mixed_same`, to follow a note; empty if none does."""
    alone = int((images.counts == 1).sum())
    return f"; {alone} alone in a class, on their own ground" if alone else ""


def variants_of(cutouts: Cutouts, seed: int) -> Iterator[tuple[str, Pixels]]:
    """Every variant of the images with its frames (N, 3, h, w)."""
    frames, objects = cutouts.frames, cutouts.objects[:, None]
    yield "original", frames
    grounds = np.stack([
        ground
        for ground in map(tiled_ground, frames, cutouts.objects)
        if ground is not None
    ])  # fmt: skip
    for variant, places in other_grounds(cutouts.images, seed).items():
        yield variant, np.where(objects, frames, grounds[places])
    mean = grounds.mean(axis=(0, 2, 3)).round().astype(np.uint8)
    yield "only_object", np.where(objects, frames, mean[:, None, None])
    yield "only_ground", grounds


@dataclass(frozen=True)
class Passes:
    """Forward passes of frames.

    Attributes:
        features: whose measure, and whose types of stored numbers.
        network: that made them.
        measure: its name.
        progress: told after every batch.
    """

    features: "Features"
    network: "Network"
    measure: str
    progress: Progress

    def vectors(self, frames: Pixels, name: str) -> tuple[NDArray[np.float32], Floats]:
        """Vectors of the measure (N, D), and logits (N, K) if the network stores any."""
        measure = ready_measure(self.features, self.measure)
        constants = constants_of(self.features, measure)
        more = ["logits"] if "logits" in self.features.arrays else []
        vectors, logits = [], []
        for taps in self.taps(frames, list(dict.fromkeys([*measure.taps, *more])), name):
            vectors.append(measure.embed(taps, constants))
            logits.append(taps["logits"] if more else np.empty((len(vectors[-1]), 0)))
        return np.concatenate(vectors), np.concatenate(logits)

    def taps(
        self, frames: Pixels, names: list[str], what: str
    ) -> Iterator[dict[str, NDArray[Any]]]:
        """Taps of batches of frames, in the types that the store keeps."""
        module, arrays = self.network.module, self.features.arrays
        device = next(module.parameters(), torch.empty(0)).device
        for low in range(0, len(frames), BATCH):
            inputs = self.network.transform.normalise(torch.from_numpy(frames[low : low + BATCH]))
            with evaluating(module), torch.inference_mode():
                taps = forward_taps(module, inputs.to(device), names)
            yield {name: _stored(tap, arrays.get(name)) for name, tap in taps.items()}
            self.progress(what, min(low + BATCH, len(frames)), len(frames))


def _stored(tap: Tensor, array: Any) -> NDArray[Any]:
    values = tap.float().cpu().numpy()
    return values if array is None else np.asarray(values.astype(array.dtype))


def _check_numbers(
    variant: str, vectors: NDArray[np.float32], logits: Floats, rows: Places
) -> None:
    finite = np.isfinite(vectors).all(axis=1) & np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise BadInput(
            f"the network gives NaN or infinite numbers for {int((~finite).sum())} of {len(rows)} "
            f"images of {variant} ({VARIANTS[variant]}), such as that of row {rows[~finite][0]}, "
            "expected numbers: leave the masks of these images out"
        )


def _right(features: "Features", images: EvaluationSet, logits: Floats) -> Floats | None:
    """Whether each image's first choice is its class; None where that cannot be said."""
    places = logit_places(features)
    if places is None or not logits.shape[1]:
        return None
    of_network = np.array([places[name] for name in images.classes])
    right: Floats = (logits.argmax(axis=1) == of_network[images.codes]).astype(np.float64)
    return right


def _share(right: Floats, side: Side) -> tuple[float, float, float]:
    units = units_of(side.images, copies_of([side]))
    return float(right.mean()), *right_interval(right, units)


def _gaps(
    sides: dict[str, Side],
    rights: dict[str, Floats],
    answers: dict[str, Floats],
    images: EvaluationSet,
    seed: int,
) -> list[Row]:
    """Mixed-same less mixed-random, paired by object; `answers` are the logits."""
    note = "what the network takes from grounds that go with a class" + _own_grounds(images)
    pair = sides["mixed_random"], sides["mixed_same"]
    apart = differences_of(*pair, seed=seed)["sameness"]
    rows = [_gap("sameness", apart, note)]
    if rights:
        units = units_of(images, copies_of(pair))
        apart = share_difference(rights["mixed_random"], rights["mixed_same"], units)
        if np.array_equal(answers["mixed_random"], answers["mixed_same"]):
            apart = no_difference(apart)
        rows.append(_gap("accuracy", apart, note))
    return rows


def _gap(score: str, apart: Difference, note: str) -> Row:
    about = f"{note}; {AT_END}" if apart.at_end else note
    return GAP, score, apart.b - apart.a, *apart.span, about


def _off_object(passes: Passes, cutouts: Cutouts) -> list[Row]:
    """The share of an image's likeness to its class that lies off its object, and that of area.

    The map of likeness is `likeness_to` the mean unit vector of the other images of the class.

    Raises:
        BadInput: the network has no last map.
    """
    images = cutouts.images
    parts = list(passes.taps(cutouts.frames, ["gap"], "pooled maps"))
    gap = np.concatenate([part["gap"] for part in parts])
    kin = images.counts[images.codes] > 1
    directions = np.zeros(gap.shape)
    comparable = directed(gap)
    for low, high in zip(images.starts[:-1], images.starts[1:], strict=True):
        members = low + np.flatnonzero(comparable[low:high])
        if len(members) > 1:
            directions[members] = leave_one_out(gap[members])
    shares, areas = np.full(len(images), np.nan), np.full(len(images), np.nan)
    low = 0
    for part in passes.taps(cutouts.frames, ["last_conv"], "maps of likeness"):
        at = np.arange(low, low + len(part["last_conv"]))
        low += len(at)
        maps = likeness_to(part["last_conv"], directions[at]).astype(np.float64)
        off = _off(cutouts.objects[at], (maps.shape[1], maps.shape[2]))
        total = maps.sum(axis=(1, 2))
        valid = kin[at] & (total > 0)
        shares[at[valid]] = ((maps * off).sum(axis=(1, 2)) / np.where(valid, total, 1))[valid]
        areas[at[valid]] = off.mean(axis=(1, 2))[valid]
    what = "share of the likeness to the class that lies off the object, by cells of the last map"
    even, paired = "the same if likeness were even", "paired by image"
    counted, alone = int(np.isfinite(shares).sum()), int((~kin).sum())
    if counted < len(images):
        empty = len(images) - counted - alone
        without = f"{alone} alone in a class, {empty} without likeness to theirs (a sum above 0)"
        of = f"; of {counted} of {len(images)} images: {without} are left out"
        what, even, paired = what + of, even + of, paired + of
    return [
        ("original", "likeness_off_object", *mean_interval(shares), what),
        ("original", "area_off_object", *mean_interval(areas), even),
        ("original", "likeness_less_area", *mean_interval(shares - areas), paired),
    ]


def _off(objects: Mask, grid: tuple[int, int]) -> Floats:
    """Share of each cell (N, h, w) of a map that is not object."""
    covered = torch.from_numpy(objects[:, None].astype(np.float64))
    pooled = torch.nn.functional.adaptive_avg_pool2d(covered, grid)
    return np.asarray(1 - pooled[:, 0].numpy())
