"""What makes images one of their class, and which images of different classes are most alike."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from alike.analysis.explain.file_names import CONFUSED, DIGEST
from alike.analysis.explain.inputs import Source, framed
from alike.analysis.explain.likeness_maps import directed, leave_one_out, likeness_to, unit
from alike.analysis.explain.overlay import PICTURED, full_colour, heat_image, pictured_note
from alike.analysis.explain.pair import alike_panel, centre_of, last_map, shown_frames, stored_pair
from alike.analysis.explain.stored_grades import NOT_GRADED, StoredGrades
from alike.extract.command import extract_again
from alike.extract.errors import BadInput
from alike.extract.frames import read_image
from alike.extract.panels import SIDE, PanelImage, Pixels, panel, png

if TYPE_CHECKING:
    from alike.extract.networks import Network
    from alike.extract.store import Features

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]
Tell = Callable[[str], object]
BLOCK = 1024
SHOWN = 20
"""Classes or images that a line names."""
COLUMNS = ("likeness to its class", "less likeness to the others")
NOTE = (
    "Each position shows its share of the mean cosine to the other images of the class. Orange "
    "makes an image more similar to its class, blue less similar. Images share the scale of a "
    "column."
)


@dataclass(frozen=True)
class ClassLikeness:
    """What the images of a class have in common, by position.

    Attributes:
        label: the class.
        rows: (n,) its images.
        to_class: (n, h, w) share of every position in the mean cosine to the class's other images.
        to_others: (n, h, w) likewise to the images of all other classes: the complement.
    """

    label: str
    rows: Ints
    to_class: Floats
    to_others: Floats

    @property
    def mean_map(self) -> Floats:
        """(h, w): where the images of the class are alike, on average over them."""
        return np.asarray(self.to_class.mean(axis=0))

    @property
    def telling_map(self) -> Floats:
        """(h, w): likeness to the class less likeness to the others, on average."""
        return np.asarray((self.to_class - self.to_others).mean(axis=0))


def class_likeness(
    features: "Features",
    *,
    split: str | None = None,
    labels: Sequence[str] | None = None,
    tell: Tell = lambda _: None,
) -> Iterator[ClassLikeness]:
    """Decompose, for every class of two or more images, what makes them of their class.

    Args:
        features: of a store with `gap` and `last_conv`.
        split: `train`, `held_out` or None for both.
        labels: classes wanted; None gives all.
        tell: gets a line that names the images whose pooled map is zero, which are left out.

    Raises:
        BadInput: the full maps were not stored, or a class is not there.
    """
    _require_maps(features)
    table = labelled(features, split)
    counts = table["label"].value_counts()
    missing = sorted(set(labels or ()) - set(counts.index))
    if missing:
        there = _some(counts.index)
        raise BadInput(f"no images of class {', '.join(missing)}: classes are {there}")
    table, units = _comparable(features, table, tell)
    total = units.sum(axis=0)
    for label in labels or sorted(counts.index):
        own = (table["label"] == label).to_numpy()
        if own.sum() < 2 or own.all():
            continue
        rows = table["row"].to_numpy()[own]
        others = (total - units[own].sum(axis=0)) / (~own).sum()
        directions = leave_one_out(units[own])
        maps = [
            (likeness_to(block, directions[lo : lo + BLOCK]), likeness_to(block, others))
            for lo, block in _map_blocks(features, rows)
        ]
        both = [np.concatenate(blocks) for blocks in zip(*maps, strict=True)]
        yield ClassLikeness(str(label), rows, both[0], both[1])


def _require_maps(features: "Features") -> None:
    if "last_conv" not in features.arrays:
        taps = [*features.attrs.get("taps", ()), "last_conv"]
        raise BadInput(f"{features.key} has no maps: run `{extract_again(features, taps)}`")


def labelled(
    features: "Features", split: str | None = None, names: Sequence[str] = ("gap", "last_conv")
) -> pd.DataFrame:
    """The images with a label that have these arrays."""
    table = features.table(split, names=names)
    return table[table["label"].notna()].reset_index(drop=True)


def _comparable(
    features: "Features", table: pd.DataFrame, tell: Tell
) -> tuple[pd.DataFrame, Floats]:
    """The images of a table whose pooled maps have a direction, and their unit vectors (N, C).

    The others are like no image, whatever it shows. `tell` gets a line that names them.
    """
    pooled = features.read("gap", table["row"].to_numpy())
    compared = directed(pooled)
    if not compared.all():
        without = table[~compared]
        names = [
            f"{path} (row {row})" for path, row in zip(without["path"], without["row"], strict=True)
        ]
        tell(f"images whose pooled map is zero, which is like nothing: {_some(names)}")
    return table[compared].reset_index(drop=True), unit(pooled[compared])


def classes_left_out(features: "Features", split: str | None, shown: Iterable[str]) -> list[str]:
    """Say which classes `class_likeness` has no answer for.

    Args:
        features: of a store with `last_conv`.
        split: as it was asked for.
        shown: classes that it gave.

    Returns:
        One line, or none.

    Raises:
        BadInput: no class was given.
    """
    left = set(labelled(features, split)["label"]) - set(shown)
    if not set(shown):
        raise BadInput(
            "classes are compared with each other: expected two or more, one of them with two "
            f"images in this split; there are {_some(left) or 'none'}"
        )
    return [f"classes without two images to compare: {_some(left)}"] if left else []


def _some(names: Iterable[str]) -> str:
    ordered = sorted(names)
    more = len(ordered) - SHOWN
    return ", ".join(ordered[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def _map_blocks(features: "Features", rows: Ints) -> Iterator[tuple[int, Floats]]:
    for lo in range(0, len(rows), BLOCK):
        yield lo, features.read("last_conv", rows[lo : lo + BLOCK])


def confused_pairs(
    features: "Features", count: int = 8, *, split: str | None = None, tell: Tell = lambda _: None
) -> pd.DataFrame:
    """Find the pairs of different classes with the most alike pooled features.

    Every image enters with its nearest image of another class only, so that one odd image does
    not fill the list.

    Args:
        features: of a store with `gap`.
        count: pairs.
        split: `train`, `held_out` or None for both.
        tell: gets a line that names the images whose pooled map is zero, which are left out.

    Returns:
        row_a, row_b, label_a, label_b, path_a, path_b, cosine; most alike first.

    Raises:
        BadInput: images of fewer than two classes.
    """
    table, exact = _comparable(features, labelled(features, split, ["gap"]), tell)
    units = exact.astype(np.float32)
    codes, names = pd.factorize(table["label"])
    if len(names) < 2:
        raise BadInput(
            f"{len(names)} class(es) to compare in {features.key}: confusion needs two or more"
        )
    cosine_of: dict[tuple[int, int], float] = {}
    for lo in range(0, len(units), BLOCK):
        cosines = units[lo : lo + BLOCK] @ units.T
        cosines[codes[lo : lo + BLOCK, None] == codes[None, :]] = -np.inf
        for one, other in enumerate(cosines.argmax(axis=1)):
            pair = (min(lo + one, int(other)), max(lo + one, int(other)))
            cosine_of[pair] = float(cosines[one, other])
    best = sorted(cosine_of, key=lambda pair: -cosine_of[pair])[:count]
    columns = {
        f"{name}_{letter}": table[name].to_numpy()[[pair[side] for pair in best]]
        for name in ("row", "label", "path")
        for side, letter in enumerate("ab")
    }
    return pd.DataFrame({**columns, "cosine": [cosine_of[pair] for pair in best]})


def images_to_class(
    images: Sequence[Source],
    network: "Network",
    features: "Features",
    label: str,
    *,
    tell: Tell = lambda _: None,
) -> tuple[list[Pixels], ClassLikeness]:
    """Say what makes given images like a class, and what makes them like all others.

    An image that is itself stored is compared with the other images of its class, be it this one
    or another.

    Args:
        images: paths, encoded bytes, or uint8 tensors (3, H, W).
        network: that made the features.
        features: whose stored images make the classes.
        label: the class.
        tell: gets a line that names the stored images whose pooled map is zero: they are left out.

    Returns:
        What the network saw of each image, and their shares, which are zero for an image whose
        pooled map is; `rows` are -1 for images that are not stored under the class.

    Raises:
        BadInput: no such class, one class only, a class of which the image is all there is, or
            images whose maps are of several sizes.
    """
    table = labelled(features, names=["gap"])
    there = set(table["label"])
    if label not in there or len(there) < 2:
        raise BadInput(
            f"likeness to class {label!r} needs it and another one; stored are {_some(there)}"
        )
    table, units = _comparable(features, table, tell)
    own = (table["label"] == label).to_numpy()
    place = {name: at for at, name in enumerate(table["image_id"])}
    frames, rows, shares = [], [], []
    for image in images:
        # Read once: the bytes of a URL are asked for by both lines below.
        source = image if isinstance(image, Tensor) else read_image(image)
        frame = framed(source, network)
        at = -1 if isinstance(source, Tensor) else place.get(source.image_id, -1)
        members, others = own.copy(), ~own
        if at >= 0:
            # Its cosine with itself, 1, tells nothing of either.
            members[at] = others[at] = False
        for some, of in ((members, f"class {label!r} has"), (others, "the other classes have")):
            if not some.any():
                raise BadInput(f"{of} no other image to compare than the one given: add some")
        directions = (units[members].mean(axis=0), units[others].mean(axis=0))
        feature_map = last_map(network, frame)[None]
        shares.append([likeness_to(feature_map, direction)[0] for direction in directions])
        if shares[-1][0].shape != shares[0][0].shape:
            sizes = " and ".join("x".join(map(str, s[0].shape)) for s in (shares[0], shares[-1]))
            raise BadInput(
                f"images of several sizes have maps of several ({sizes}): ask for them one by one"
            )
        rows.append(int(table["row"][at]) if at >= 0 and own[at] else -1)
        frames.append(frame.permute(1, 2, 0).numpy())
    both = [np.stack(maps) for maps in zip(*shares, strict=True)]
    return frames, ClassLikeness(label, np.array(rows), both[0], both[1])


def class_panel(
    features: "Features", likeness: ClassLikeness, *, examples: int = 5, tell: Tell = lambda _: None
) -> Pixels:
    """Show a class: its mean maps, and its most and least typical images with theirs.

    Args:
        features: whose images are shown.
        likeness: of the class.
        examples: images, at most.
        tell: gets a line for each image that is gone or has changed: its place stays empty.
    """
    order = np.argsort(-likeness.to_class.sum(axis=(1, 2)))
    positions = [int(at) for at in (*order[: examples - 1], *order[-1:])]
    frames = shown_frames(features, [int(likeness.rows[at]) for at in positions], tell)
    paper = np.full((SIDE, SIDE, 3), 255, np.uint8)
    means = zip(COLUMNS, (likeness.mean_map, likeness.telling_map), strict=True)
    blank = PanelImage(paper, (f"mean over {len(likeness.rows)} images",))
    head = [
        blank,
        *(heat_image(paper, heat, (what, _sum(heat), NOT_GRADED)) for what, heat in means),
    ]
    typicality = ["among the most typical"] * (len(positions) - 1) + ["the least typical"]
    names = [
        (f"row {likeness.rows[at]}", what) for at, what in zip(positions, typicality, strict=True)
    ]
    rows = [
        head,
        *_member_rows(frames, names, likeness.to_class[positions], likeness.to_others[positions]),
    ]
    return panel(rows, title=f"What makes an image one of class {likeness.label}", note=NOTE)


def to_class_panel(
    frames: Sequence[Pixels], names: Sequence[str], likeness: ClassLikeness
) -> Pixels:
    """Show what `images_to_class` found: one row an image, of the first `PICTURED`."""
    lines = [(name, f"beside class {likeness.label}") for name in names[:PICTURED]]
    maps = (likeness.to_class[:PICTURED], likeness.to_others[:PICTURED])
    rows = _member_rows(frames[:PICTURED], lines, *maps)
    return panel(rows, title=f"What makes an image one of class {likeness.label}", note=NOTE)


def _member_rows(
    frames: Sequence[Pixels], names: Sequence[tuple[str, ...]], to_class: Floats, to_others: Floats
) -> list[list[PanelImage]]:
    """Images with their likeness to the class and the same less that to others."""
    columns = (to_class, to_class - to_others)
    tops = [full_colour(*maps) for maps in columns]
    rows = []
    for at, (frame, lines) in enumerate(zip(frames, names, strict=True)):
        maps_of_image = [
            heat_image(frame, maps[at], (what, _sum(maps[at]), NOT_GRADED), top=top)
            for what, maps, top in zip(COLUMNS, columns, tops, strict=True)
        ]
        rows.append([PanelImage(frame, lines), *maps_of_image])
    return rows


def _sum(heat: Floats) -> str:
    return f"sums to {heat.sum(dtype=np.float64):.3f}"


def keep_confused(
    features: "Features", count: int = 4, *, split: str | None = None, tell: Tell = lambda _: None
) -> pd.DataFrame:
    """Find the most alike pairs of different classes; keep their likeness maps in the store.

    The picture is `explanations/<key>/confused.png`; the table is that of `confused_pairs`.
    """
    pairs, picture = confused_panel(features, count, split=split, tell=tell)
    features.store.write_file(
        CONFUSED.format(key=features.key), png(picture, {DIGEST: features.digest})
    )
    return pairs


def confused_panel(
    features: "Features",
    count: int = 4,
    *,
    split: str | None = None,
    grades: StoredGrades | None = None,
    tell: Tell = lambda _: None,
) -> tuple[pd.DataFrame, Pixels]:
    """Return the most alike pairs of different classes, and their maps side by side.

    Args:
        features: of a store with `last_conv`.
        count: pairs.
        split: `train`, `held_out` or None for both.
        grades: written under the maps; None: none are.
        tell: gets a line that names the images whose pooled map is zero, which are left out, and
            one for each image that is gone or has changed, whose place stays empty.
    """
    _require_maps(features)
    table = confused_pairs(features, count, split=split, tell=tell)
    centre = centre_of(features)
    shown = table[:PICTURED]
    for line in pictured_note(len(table), "pairs"):
        tell(line)
    rows = [(int(row.row_a), int(row.row_b)) for row in shown.itertuples()]
    likenesses = [
        stored_pair(features, one, other, centre=centre, tell=tell) for one, other in rows
    ]
    names = [
        (f"{row.label_a}, row {row.row_a}", f"{row.label_b}, row {row.row_b}")
        for row in shown.itertuples()
    ]
    return table, alike_panel(likenesses, names, grades=grades)
