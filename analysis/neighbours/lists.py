"""Exact neighbours of every evaluated image among all others, and the scores that follow.

Leave-one-out: an image is excluded from its own list by its position, never as "the first hit",
so duplicates count as what they are. The scores equal pytorch-metric-learning's.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import (
    EvaluationSet,
    MapBlocks,
    Product,
    Statistic,
    Vectors,
    best_product,
    blocks,
    coarse_pays,
)
from alike.analysis.neighbours.coarse import coarse_helps, coarse_nearest
from alike.analysis.neighbours.influence import (
    Changes,
    UnitLists,
    add_panel,
    no_changes,
    unit_lists,
)
from alike.analysis.neighbours.kernels import (
    bring_in_order,
    close,
    keys_between,
    no_candidates,
    offer,
    room_for_keys,
    take_nearest,
    unsure_keys,
    write_keys,
)
from alike.analysis.neighbours.ties import MARGIN, expected_scores
from alike.analysis.pairs import TILE, Units

PANEL_BYTES = 64 << 20
CLOSE = 2.0**-10
"""Share of the squared length below which a key is measured anew: float32 has 3 digits left."""
TIE = 2.0**-19
"""Share of the squared length within which two keys may be one: the error of float32 products of
2,048 numbers. Which of them it hides depends on the processor's kernels."""
DIFFERENCES = 1 << 22
MANY = 16
"""Lists of more than one image of so many are selected from all keys at once: 128 MB at most, since
a panel has the fewer rows the longer the lists are."""
SELECTED_ROWS = 64
"""Of which keys are selected at once."""
LOW = np.uint64(0xFFFFFFFF)
SAME = 1e-5
"""By how much more one key must be than another to be of another distance: float32 products."""

Floats = NDArray[np.float64]
Places = NDArray[np.int64]


@dataclass(frozen=True)
class Nearest:
    """What the distances from each image say, images by position.

    Attributes:
        places: (N, k) positions of the nearest others, nearest first.
        keys: (N, k) their keys (see `vectors`).
        r_precision: (N,) share of the R nearest that are of the image's class, R = n_c - 1; NaN in
            a class of one.
        map_at_r: (N,) mean over r <= R of precision at r where the r-th is of the class, over R.
        alien: (N,) position of the nearest image of another class (-1: none); `alien_key` its key.
        kin: (N,) position of the farthest image of the same class (-1: none); `kin_key` its key.
        hit_chance: (N, k) chance that the neighbour of each rank is of the image's class, over the
            order of equal distances; 0 or 1 where none are equal. The scores are expected likewise.
        recall: (N,) chance that one of the k is.
        changes: what each unit does to the scores; None: not asked for.
    """

    places: Places
    keys: Floats
    r_precision: Floats
    map_at_r: Floats
    alien: Places
    alien_key: Floats
    kin: Places
    kin_key: Floats
    hit_chance: Floats
    recall: Floats
    changes: Changes | None = None

    def hits(self, images: EvaluationSet) -> Floats:
        """Chance that each neighbour is of the image's class: (N, k); see `hit_chance`."""
        return self.hit_chance


@dataclass(frozen=True)
class Listing:
    """Which lists are made of which images, panel by panel; see `listing`.

    Attributes:
        vectors: of the images.
        images: the evaluation set.
        k: neighbours to list.
        units: what `Nearest.changes` leaves out; None: nothing.
        groups: panels, ranges of positions within one slab; the panels of a group make one part.
    """

    vectors: Vectors
    images: EvaluationSet
    k: int
    units: UnitLists | None
    groups: list[list[tuple[int, int]]]

    def width(self, low: int, high: int) -> int:
        """Neighbours that are kept of each image of a panel."""
        largest = int(self.images.counts[np.unique(self.images.codes[low:high])].max())
        return min(_width(self.k, largest, self.units), self.vectors.n - 1)

    def longest(self) -> int:
        """The most that are kept of any image."""
        return _width(self.k, int(self.images.counts.max()), self.units)


@dataclass(frozen=True)
class Lists:
    """The lists of the first groups.

    Attributes:
        panels: columns of `Nearest` of each panel.
        changes: of these images; None: not asked for.
        done: groups.
    """

    panels: list[Any]
    changes: Changes | None
    done: int


def listing(
    vectors: Vectors, images: EvaluationSet, k: int = 10, *, units: Units | None = None
) -> Listing:
    """What is listed of these images; the arguments are those of `nearest`."""
    k = min(k, vectors.n - 1)
    out = None if units is None else unit_lists(images, units)
    plan = Listing(vectors, images, k, out, [])
    size = int(np.clip(PANEL_BYTES // (32 * plan.longest()), 16, _most_rows(vectors.n)))
    # What units do is one array a part: some panels share it.
    group = 1 if out is None else max(1, TILE // size)
    for start, stop in blocks(vectors.n, vectors.dim):
        # Evenly: a short panel reads all others as a long one does.
        step = -(-(stop - start) // -(-(stop - start) // size))
        panels = [(low, min(low + step, stop)) for low in range(start, stop, step)]
        plan.groups.extend(panels[at : at + group] for at in range(0, len(panels), group))
    return plan


def nearest(
    vectors: Vectors,
    images: EvaluationSet,
    k: int = 10,
    *,
    units: Units | None = None,
    map_blocks: MapBlocks = map,
    begun: Lists | None = None,
) -> Nearest:
    """Neighbours and R-precision of every image, exactly: O(N^2 D) time, O(N k) memory.

    Among equal distances the image earlier in the evaluation set comes first in the list.
    Scores do not depend on it: they are expected over the order of equal distances (see `ties`).

    Args:
        vectors: of the images.
        images: the evaluation set.
        k: neighbours to list.
        units: what `Nearest.changes` leaves out; None: nothing.
        map_blocks: how panels of images are mapped.
        begun: lists of the first of these images, as `counted_lists` made them.
    """
    plan = listing(vectors, images, k, units=units)
    done = begun.done if begun is not None else 0
    if begun is not None and done == len(plan.groups):
        return joined(begun)
    lists: Nearest = Statistic(
        # Also those that are done: what a run that was killed kept says how many of all it had.
        items=list(enumerate(plan.groups)),
        chunk=partial(_group, plan, _means(vectors, plan.longest()), done),
        start=partial(_begun, plan, begun),
        combine=_append,
        finalize=joined,
    ).compute(map_blocks)
    return lists


def no_lists(plan: Listing) -> Lists:
    """Of no image yet."""
    return Lists([], None if plan.units is None else no_changes(plan.units), 0)


def _begun(plan: Listing, begun: Lists | None) -> Lists:
    return no_lists(plan) if begun is None else begun


def _group(
    plan: Listing, means: tuple[Product, bool], done: int, item: tuple[int, list[tuple[int, int]]]
) -> tuple[int, Any] | None:
    number, panels = item
    if number < done:
        return None
    return number, group_part(plan, panels, partial(_best, plan.vectors, plan.images, means))


def _append(lists: Lists, part: tuple[int, Any] | None) -> Lists:
    if part is None or part[0] < lists.done:
        return lists
    return with_group(lists, part[1])


def with_group(lists: Lists, part: tuple[Any, ...]) -> Lists:
    """With the next group, in place."""
    columns, *more = part
    lists.panels.extend(columns)
    if lists.changes is not None:
        lists.changes.plus(*more)
    return replace(lists, done=lists.done + 1)


def joined(lists: Lists) -> Nearest:
    """The lists of all groups as one; their parts go."""
    columns = [list(column) for column in zip(*lists.panels, strict=True)]
    # Parts go as they are joined: there are hundreds of bytes an image.
    lists.panels.clear()
    whole: Any = [np.concatenate(columns.pop(0)) for _ in range(len(columns))]
    return Nearest(*[*whole, lists.changes])


def _width(k: int, largest: int, units: UnitLists | None) -> int:
    """Neighbours that are kept of each image whose class has at most `largest` images.

    One more than the others of the class at least, so that one of another class is among them.
    """
    return max(k, largest - 1, 1) + max(MARGIN, 1) + (units.largest if units else 0)


def _most_rows(n: int) -> int:
    """Rows of a panel: all others are read once for each, but many panels keep threads busy."""
    return TILE * int(np.clip(n // (24 * TILE), 1, 4))


def _means(vectors: Vectors, longest: int) -> tuple[Product, bool]:
    """The product to use, and whether one of bfloat16 is to tell first who can be near."""
    work = float(vectors.n) ** 2 * vectors.dim
    coarse = coarse_pays(vectors.dim, work) and coarse_helps(vectors, longest)
    return best_product(vectors.dim, work), coarse


Best = tuple[NDArray[np.uint64], NDArray[np.uint64]]
"""The `width` nearest (m, width) of some images, ascending, and their farthest kin (m,)."""
Find = Callable[[int, Places, tuple[NDArray[np.float32], Floats]], Best]
"""(width, positions (m,), their z and b) to `Best`."""


def group_part(plan: Listing, panels: list[tuple[int, int]], find: Find) -> tuple[Any, ...]:
    """The part of a group: columns of `Nearest` of its panels, and what units do there."""
    changes = None if plan.units is None else no_changes(plan.units)
    lists = tuple(part for panel in panels for part in _panel(plan, find, changes, panel))
    return (lists,) if changes is None else (lists, changes.total, changes.change, changes.gone)


def _panel(
    plan: Listing, find: Find, changes: Changes | None, panel: tuple[int, int]
) -> Iterator[tuple[Any, ...]]:
    low, high = panel
    z, b = plan.vectors.block(low, high)
    best, kin = find(plan.width(low, high), np.arange(low, high), (z, b))
    # In parts, for some arrays as large as the lists are made of each.
    for first in range(0, high - low, TILE):
        rows = slice(first, first + TILE)
        yield _scored(
            plan.vectors, plan.images, plan.k, plan.units, changes, low + first,
            (z[rows], b[rows]), best[rows], kin[rows],
        )  # fmt: skip


def _scored(
    vectors: Vectors,
    images: EvaluationSet,
    k: int,
    units: UnitLists | None,
    changes: Changes | None,
    low: int,
    block: tuple[NDArray[np.float32], Floats],
    best: NDArray[np.uint64],
    kin: NDArray[np.uint64],
) -> tuple[Any, ...]:
    """Columns of `Nearest` of the images from `low` on, whose nearest are the `best`."""
    line = np.arange(len(best))
    codes = images.codes[low : low + len(best)]
    lists = _remeasured(vectors, block, *_unpack(best), k)
    scores = expected_scores(vectors, images, k, low, block, lists)
    # Copies: a view would keep the lists of all the images of a class in memory.
    places, near_keys = (listed[:, :k].copy() for listed in lists)
    if units is not None and changes is not None:
        add_panel(
            lists[0], images.codes, units.named, low + line,
            images.counts, units.in_class, units.of_class, units.first, k, units.largest,
            changes.total, changes.change, changes.gone,
        )  # fmt: skip
    of_others = images.codes[lists[0]] != codes[:, None]
    alien_at, alien_key = (listed[line, of_others.argmax(axis=1)] for listed in lists)
    kin_at, kin_key = _unpack(kin)
    if vectors.form != "inner":
        alien_key, kin_key = (_keys_anew(vectors, block, line, at) for at in (alien_at, kin_at))
    none, alone = ~of_others.any(axis=1), images.counts[codes] == 1
    alien_at[none], alien_key[none] = -1, np.nan
    kin_at[alone], kin_key[alone] = -1, np.nan
    return (
        places, near_keys, scores.r_precision, scores.map_at_r, alien_at, alien_key,
        kin_at, kin_key, scores.hits, scores.recall,
    )  # fmt: skip


def _best(
    vectors: Vectors,
    images: EvaluationSet,
    means: tuple[Product, bool],
    width: int,
    at: Places,
    block: tuple[NDArray[np.float32], Floats],
) -> Best:
    """The nearest of the images at `at`."""
    product, coarse = means
    (z, b), own = block, own_ranges(images, at)
    if not coarse:
        return offered(vectors, product, at, block, own, width, (0, vectors.n))
    best, done = coarse_nearest(vectors, at, z, b, width)
    # Of its own class only, an image has the farthest one.
    kin = offered(vectors, product, at, block, own, 0, (int(own.min()), int(own.max())))[1]
    left = np.flatnonzero(~done)
    if len(left):
        block, among = (z[left], b[left]), (0, vectors.n)
        best[left], _ = offered(vectors, product, at[left], block, own[left], width, among)
    return best, kin


def own_ranges(images: EvaluationSet, at: Places) -> Places:
    """First and last + 1 position of the class of each image: (m, 2)."""
    codes = images.codes[at]
    return np.stack([images.starts[codes], images.starts[codes + 1]], axis=1)


def offered(
    vectors: Vectors,
    product: Product,
    at: Places,
    block: tuple[NDArray[np.float32], Floats],
    own: Places,
    width: int,
    among: tuple[int, int],
) -> Best:
    """`_best` by float32 products with the images from and up to some position."""
    if vectors.n < width * MANY and among == (0, vectors.n):
        return _selected(vectors, product, at, block, own, width)
    (z, b), m = block, len(at)
    candidates, room = no_candidates(own, width), room_for_keys(TILE)
    row_b, scratch = b.astype(np.float32), np.empty(TILE * TILE, dtype=np.float32)
    ready = product.ready(z)
    for start, stop in blocks(vectors.n, vectors.dim):
        if stop <= among[0] or start >= among[1]:
            continue
        z_others, b_others = vectors.block(start, stop)
        others, col_b = product.ready(z_others), b_others.astype(np.float32)
        for first in range(0, stop - start, TILE):
            cols = slice(first, min(first + TILE, stop - start))
            if start + cols.stop <= among[0] or start + first >= among[1]:
                continue
            for low in range(0, m, TILE):
                rows = slice(low, min(low + TILE, m))
                shape = rows.stop - rows.start, cols.stop - cols.start
                out = product.multiply(
                    ready[rows], others[cols], scratch[: shape[0] * shape[1]].reshape(shape)
                )
                part = candidates.part(rows)
                offer(out, row_b[rows], col_b[cols], at[rows], start + first, part, room)
    close(candidates.near, candidates.counts, width)
    return np.sort(candidates.near[:, :width], axis=1), candidates.kin


def _selected(
    vectors: Vectors,
    product: Product,
    at: Places,
    block: tuple[NDArray[np.float32], Floats],
    own: Places,
    width: int,
) -> Best:
    """`offered` for lists of many of all images: the keys of all at once, and a selection."""
    (z, b), m = block, len(at)
    keys, kin = np.empty((m, vectors.n), dtype=np.float32), np.zeros(m, dtype=np.uint64)
    row_b, scratch = b.astype(np.float32), np.empty(TILE * TILE, dtype=np.float32)
    ready = product.ready(z)
    for start, stop in blocks(vectors.n, vectors.dim):
        z_others, b_others = vectors.block(start, stop)
        others, col_b = product.ready(z_others), b_others.astype(np.float32)
        for first in range(0, stop - start, TILE):
            cols = slice(first, min(first + TILE, stop - start))
            for low in range(0, m, TILE):
                rows = slice(low, min(low + TILE, m))
                shape = rows.stop - low, cols.stop - first
                out = product.multiply(
                    ready[rows], others[cols], scratch[: shape[0] * shape[1]].reshape(shape)
                )
                write_keys(
                    out, row_b[rows], col_b[cols], at[rows], start + first, own[rows], keys[rows],
                    kin[rows],
                )  # fmt: skip
    near = np.empty((m, width + 1), dtype=np.uint64)
    for low in range(0, m, SELECTED_ROWS):
        some = keys[low : low + SELECTED_ROWS]
        ordered = np.partition(some, width - 1, axis=1)
        take_nearest(some, ordered[:, width - 1].copy(), near[low : low + SELECTED_ROWS])
    return np.sort(near[:, :width], axis=1), kin


def _unpack(packed: NDArray[np.uint64]) -> tuple[Places, Floats]:
    keys = (packed >> np.uint64(32)).astype(np.uint32).view(np.float32)
    return (packed & np.uint64(0xFFFFFFFF)).astype(np.int64), keys.astype(np.float64)


def _remeasured(
    vectors: Vectors,
    block: tuple[NDArray[np.float32], Floats],
    places: Places,
    keys: Floats,
    listed: int = 0,
) -> tuple[Places, Floats]:
    """Keys near 0 or near the next key anew from differences of vectors, and all in order again.

    A product rounds small keys as it rounds large ones. So copies of an image are at distance 0 of
    it, and at equal distances of any other image, by which `two_nn` knows them. The first keys,
    which are told, are measured anew in any case: they do not depend on how products were made.

    Args:
        vectors: all.
        block: z (m, D) and b (m,) of the images that ask.
        places: (m, k) positions of others.
        keys: (m, k) as products gave them, ascending. Both are changed.
        listed: how many of each row are the first.
    """
    if vectors.form == "inner":
        return places, keys
    z, b = block
    size = np.einsum("nd,nd->n", z, z, dtype=np.float64)
    zero = vectors.zeros(size, b)
    keys[zero] = 1.0
    unsure = unsure_keys(keys, size, zero, CLOSE, TIE)
    unsure[:, :listed] = True
    line, slot = np.nonzero(unsure)
    keys[line, slot] = _keys_anew(vectors, block, line, places[line, slot])
    moved = np.flatnonzero(bring_in_order(keys, places))
    order = np.lexsort((places[moved], keys[moved]), axis=-1)
    places[moved] = np.take_along_axis(places[moved], order, axis=1)
    keys[moved] = np.take_along_axis(keys[moved], order, axis=1)
    return places, keys


def _keys_anew(
    vectors: Vectors,
    block: tuple[NDArray[np.float32], Floats],
    line: NDArray[np.int64],
    places: NDArray[np.int64],
) -> Floats:
    """Keys (n,) of images of the block, by their lines (n,), and others (n,), from differences."""
    z, b = block
    zero = vectors.zeros(np.einsum("nd,nd->n", z, z, dtype=np.float64), b)
    keys = np.empty(len(line))
    step = max(1, DIFFERENCES // vectors.dim)
    for low in range(0, len(line), step):
        asking, asked = line[low : low + step], places[low : low + step]
        at, which = np.unique(asked, return_inverse=True)
        others, b_others = vectors.rows(at)
        anew = keys_between(z, asking, others, which)
        sizes = np.einsum("nd,nd->n", others, others, dtype=np.float64)
        anew[vectors.zeros(sizes, b_others)[which] | zero[asking]] = 1.0
        keys[low : low + step] = anew
    return keys


def hub_skew(places: Places, n: int) -> float:
    """Skewness of how often an image is among the k nearest of others; 0: no hubs."""
    listed = np.bincount(places.ravel(), minlength=n).astype(np.float64)
    spread = listed.std()
    return float(((listed - listed.mean()) ** 3).mean() / spread**3) if spread > 0 else 0.0


def two_nn(keys: Floats, share: float = 0.9) -> float:
    """Intrinsic dimension by the ratio of the two nearest distances (Facco 2017).

    -log(1 - F(mu)) = d log mu is fitted through the origin on the smallest 90 % of mu = r2 / r1.
    Copies are one point: r1 and r2 are the two smallest distances above 0 that differ. Images that
    have no two among their k are left out; NaN where fewer than 10 remain.

    Args:
        keys: (N, k >= 2) keys of the nearest, half the squared distance.
        share: of the ratios, the smallest, that is fitted.
    """
    if keys.shape[1] < 2:
        return float("nan")
    first = np.where(keys > 0, keys, np.inf).min(axis=1)
    second = np.where(keys > first[:, None] * (1.0 + SAME), keys, np.inf).min(axis=1)
    usable = np.isfinite(second)
    if usable.sum() < 10:
        return float("nan")
    log_mu = np.sort(0.5 * np.log(second[usable] / first[usable]))
    n = int(len(log_mu) * share)
    grown = -np.log(1.0 - np.arange(n) / len(log_mu))
    return float(log_mu[:n] @ grown / (log_mu[:n] @ log_mu[:n]))
