"""Neighbours from the tiles in which pairs are counted, so that no two images are multiplied twice.

A tile of products says what every row is to every column, and so what every column is to every row.
A sample of all images tells a limit for each image within which more than the wanted neighbours
are expected; what a tile has within the limit of a row or of a column is kept as a candidate of
that image. When all tiles of a slab of images were counted, the nearest are chosen from their
candidates. Where an image has fewer than wanted, all others are offered to it: a limit costs time
where it is wrong, and never a neighbour.

Candidates wait for their slab in memory, or in a file without a name where they are many. They
belong to this process: `Lists` says how many images are done, and `nearest` does the others, so a
run that resumes, or has no room on the disk, finds the same.
"""

import logging
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import IO, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import MapBlocks, Statistic, blocks, one_thread_each
from alike.analysis.neighbours.kernels import (
    CHUNK,
    close,
    farthest,
    nearest_of,
    no_candidates,
    offer,
    pick,
    room_for_keys,
    scatter,
)
from alike.analysis.neighbours.lists import (
    LOW,
    MANY,
    Best,
    Floats,
    Listing,
    Lists,
    Places,
    group_part,
    no_lists,
    offered,
    own_ranges,
    with_group,
)
from alike.analysis.pairs import TILE, Counting, PairCounts, Slab, SlabCounts, Tile, Totals, slabs
from alike.extract.machine import usable_cores

LOG = logging.getLogger(__name__)
SLABS = 3
"""Slabs of images from which on it is worth it."""
SHARE, LEAST_SAMPLE, LARGEST_SAMPLE = 32, 256, 8192
"""One image of so many tells the limits, and at least and at most so many do."""
ERRORS, MORE = 4.0, 3
"""Standard errors, and images more, by which the rank in the sample is above the expected one."""
HELD = 16 << 20
"""Bytes of candidates that wait in memory; more of them wait in a file."""
CROWDED = 2
"""Candidates of a slab of images, in units of the expected, from which on it is given up."""
WAITING = 0
"""Groups whose lists may be made while the next slabs are added. While none is added those of the
window are counted still, so no core is idle, and candidates of one slab of images are in memory."""

Singles = NDArray[np.float32]
Part = tuple[Slab, SlabCounts, "Found | None"]
State = tuple[Totals, Lists]


class Entries(NamedTuple):
    """Candidates of the images of a slab: packed as in `kernels`, and whose each is.

    Attributes:
        near: (E,) uint64.
        line: (E,) uint16, the image's place in its slab.
    """

    near: NDArray[np.uint64]
    line: NDArray[np.uint16]


class Found(NamedTuple):
    """What a slab of tiles tells of its rows and of its columns.

    Attributes:
        rows: candidates of the rows.
        cols: candidates of the columns.
        row_kin: (m,) the farthest of the class, its position turned round; empty: none there.
        col_kin: (n,) likewise.
    """

    rows: Entries
    cols: Entries
    row_kin: NDArray[np.uint64]
    col_kin: NDArray[np.uint64]


class _Room:
    """Candidates of one side, in memory that grows."""

    def __init__(self, size: int) -> None:
        self.near, self.line = np.empty(size, np.uint64), np.empty(size, np.uint16)
        self.count = 0

    def grow(self) -> None:
        size = 2 * len(self.near)
        near, line = np.empty(size, np.uint64), np.empty(size, np.uint16)
        near[: self.count], line[: self.count] = self.entries()
        self.near, self.line = near, line

    def entries(self) -> Entries:
        # Copies: what else there was room for goes.
        return Entries(self.near[: self.count].copy(), self.line[: self.count].copy())


def rank_of(width: int, sample: int, n: int) -> int:
    """Rank in a sample whose key is the limit of an image that wants so many of n."""
    expected = width * sample / n
    return int(expected + ERRORS * expected**0.5) + MORE


def sample_size(n: int) -> int:
    """Images that tell the limits."""
    return int(np.clip(n // SHARE, LEAST_SAMPLE, LARGEST_SAMPLE))


def expected_bytes(n: int, rate: float) -> float:
    """Bytes of the file of candidates: of each pair of n images one waits, of a share `rate`."""
    return 0.5 * rate * n**2 * 10


def waiting_bytes(n: int, dim: int, longest: int) -> int:
    """Bytes of the file of candidates of an analysis that is planned; 0 where none is made.

    Args:
        n: images that are evaluated.
        dim: length of a vector.
        longest: images of the longest list.
    """
    if not one_pass_pays(n, dim, longest):
        return 0
    sample = sample_size(n)
    size = int(expected_bytes(n, rank_of(longest, sample, n) / sample))
    return size if size > HELD else 0


def gathers(plan: Listing) -> bool:
    """Whether lists can be made from the tiles of pairs: short ones, of many images.

    Not of inner products, whose near ties are not measured anew: a run that resumes would break
    them otherwise.
    """
    vectors = plan.vectors
    return vectors.form != "inner" and one_pass_pays(vectors.n, vectors.dim, plan.longest())


def one_pass_pays(n: int, dim: int, longest: int) -> bool:
    """Whether lists of at most so many of n images are made from the tiles of pairs."""
    sample = sample_size(n)
    few = len(blocks(n, dim)) < SLABS or n < longest * MANY
    return not few and 2 * rank_of(longest, sample, n) <= sample


def counted_lists(
    counting: Counting, plan: Listing, *, map_blocks: MapBlocks = map, rounding: MapBlocks = map
) -> tuple[PairCounts, Lists]:
    """Count all pairs, and list the neighbours of as many of the first images as can be.

    Args:
        counting: how pairs are counted, in float32.
        plan: what is listed of the same images.
        map_blocks: how slabs are mapped, in this process; `map` does them one after the other.
        rounding: as in `count_pairs`.

    Returns:
        The counts, which are those of `count_pairs`, and lists, with which `nearest` goes on.
    """
    with _gathering(counting, plan) as gathered:
        totals, lists = Statistic(
            items=slabs(counting.vectors),
            chunk=gathered.slab,
            start=gathered.nothing,
            combine=gathered.add,
            finalize=gathered.finish,
        ).compute(map_blocks)
    return counting.finished(totals, rounding), lists


@contextmanager
def _gathering(counting: Counting, plan: Listing) -> Iterator["_Gathered"]:
    gathered = _Gathered(counting, plan)
    try:
        yield gathered
    finally:
        gathered.stop()


class _Gathered:
    """Candidates of all images while pairs are counted, and lists that are made of them."""

    def __init__(self, counting: Counting, plan: Listing) -> None:
        vectors = counting.vectors
        self.counting, self.plan = counting, plan
        self.cuts = blocks(vectors.n, vectors.dim)
        self.number = {cut: at for at, cut in enumerate(self.cuts)}
        self.due = iter(slabs(vectors))
        self.sample = sample_size(vectors.n)
        widths = [plan.width(*panel) for group in plan.groups for panel in group]
        sizes = [high - low for group in plan.groups for low, high in group]
        ranks = [rank_of(width, self.sample, vectors.n) for width in widths]
        self.rate = float(np.average(ranks, weights=sizes)) / self.sample
        # Candidates of an image, on average over those of a slab.
        self.most = CROWDED * max(ranks) / self.sample * vectors.n
        self.found = [0] * len(self.cuts)
        self.limits: list[Singles | None] = [None] * len(self.cuts)
        self.locks = [Lock() for _ in self.cuts]
        self.groups: list[list[list[tuple[int, int]]]] = [[] for _ in self.cuts]
        starts = np.array([low for low, _ in self.cuts])
        for group in plan.groups:
            at = int(np.searchsorted(starts, group[0][0], side="right")) - 1
            self.groups[at].append(group)
        self.pending: list[list[Entries | tuple[int, int]]] = [[] for _ in self.cuts]
        self.kin = [np.zeros(high - low, dtype=np.uint64) for low, high in self.cuts]
        self.making: deque[Future[tuple[Any, ...]]] = deque()
        self.maker = ThreadPoolExecutor(usable_cores(), thread_name_prefix="lists")
        self.held = 0
        self.file: IO[bytes] | None = None
        self.end = 0
        self.open = True

    def nothing(self) -> State:
        return self.counting.nothing(), no_lists(self.plan)

    def slab(self, slab: Slab) -> Part:
        """Count a slab, and keep what is near."""
        if not self.open:
            return slab, self.counting.slab(slab), None
        picked = _Picked(self, slab)
        counts = self.counting.slab(slab, picked.watch)
        return slab, counts, picked.found()

    def add(self, state: State, part: Part) -> State:
        """Add a slab; the lists of images whose slabs all were counted are made meanwhile."""
        totals, lists = state
        slab, counts, found = part
        totals = self.counting.add(totals, counts)
        if self.open:
            self._keep(slab, found)
        while self.making and (self.making[0].done() or len(self.making) > WAITING):
            lists = self._joined(lists)
        return totals, lists

    def finish(self, state: State) -> State:
        totals, lists = state
        with one_thread_each():
            while self.making:
                lists = self._joined(lists)
        return totals, lists

    def stop(self) -> None:
        """Let go of all candidates."""
        self.open = False
        self.maker.shutdown(cancel_futures=True)
        self.pending.clear()
        if self.file is not None:
            self.file.close()

    def _joined(self, lists: Lists) -> Lists:
        return with_group(lists, self.making.popleft().result())

    def _keep(self, slab: Slab, found: Found | None) -> None:
        # A run that resumes begins in the middle.
        if found is None or slab != next(self.due, None):
            self._give_up("too many are near in one slab, or the run goes on from another")
            return
        rows, cols = (self.number[cut] for cut in slab)
        for at, side in ((rows, found.rows), (cols, found.cols)):
            self.found[at] += len(side.near)
            if self.found[at] > self.most * len(self.kin[at]):
                self._give_up("too many images are as near as the nearest")
                return
        self._merge_kin(rows, found.row_kin)
        self._merge_kin(cols, found.col_kin)
        self.pending[rows].append(found.rows)
        if cols == rows:
            self.pending[rows].append(found.cols)
        elif len(found.cols.near):
            try:
                self.pending[cols].append(self._waiting(found.cols))
            except OSError as error:
                self._give_up(f"{error}")
                return
        if cols == len(self.cuts) - 1:
            entries, self.pending[rows] = self.pending[rows], []
            whole = _Whole(self, rows, entries)
            self.making.extend(self.maker.submit(whole.part, one) for one in self.groups[rows])

    def _give_up(self, why: str) -> None:
        """Make no more lists here: those of the slabs that are whole stay."""
        self.open = False
        if why:
            LOG.info("neighbours are found in a pass of their own: %s", why)
        for entries in self.pending:
            entries.clear()

    def _merge_kin(self, at: int, kin: NDArray[np.uint64]) -> None:
        if len(kin):
            np.maximum(self.kin[at], kin, out=self.kin[at])

    def _waiting(self, entries: Entries) -> Entries | tuple[int, int]:
        """The candidates, or where they lie in the file, and how many."""
        size = entries.near.nbytes + entries.line.nbytes
        if self.held + size <= HELD:
            self.held += size
            return entries
        if self.file is None:
            folder = tempfile.gettempdir()
            expected = expected_bytes(self.counting.vectors.n, self.rate)
            if shutil.disk_usage(folder).free < 2 * expected:
                msg = f"{folder} has no room for candidates of {expected / 1e9:.1f} GB"
                raise OSError(msg)
            # Without a buffer: of a full disk it would complain again when it is closed.
            self.file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115
        for part in entries:
            rest = memoryview(part.tobytes())
            while rest:
                rest = rest[self.file.write(rest) :]
        place = self.end, len(entries.near)
        self.end += size
        return place

    def limits_of(self, at: int) -> Singles:
        """The limit of each image of a slab, and -1 of a chunk of columns beyond: (m + CHUNK,)."""
        with self.locks[at]:
            found = self.limits[at]
            if found is None:
                found = self.limits[at] = self._limits(at)
            return found

    def _limits(self, at: int) -> Singles:
        low, high = self.cuts[at]
        vectors = self.counting.vectors
        product = self.counting.product
        z_sample, b_sample = vectors.sample(self.sample)
        others, col_b = product.ready(z_sample), b_sample.astype(np.float32)
        z, b = vectors.block(low, high)
        ready, row_b = product.ready(z), b.astype(np.float32)
        out = np.full(high - low + CHUNK, -1.0, dtype=np.float32)
        room, scratch = room_for_keys(TILE), np.empty(TILE * TILE, dtype=np.float32)
        for first, last in (panel for group in self.groups[at] for panel in group):
            rank = rank_of(self.plan.width(first, last), self.sample, vectors.n)
            for start in range(first - low, last - low, TILE):
                rows = slice(start, min(start + TILE, last - low))
                m = rows.stop - start
                candidates = no_candidates(np.zeros((m, 2), dtype=np.int64), rank)
                nobody = np.full(m, -1)
                for begin in range(0, len(col_b), TILE):
                    cols = slice(begin, begin + TILE)
                    part = others[cols]
                    tile = scratch[: m * len(part)].reshape(m, len(part))
                    out_of = product.multiply(ready[rows], part, tile)
                    offer(out_of, row_b[rows], col_b[cols], nobody, begin, candidates, room)
                close(candidates.near, candidates.counts, rank)
                keys = (candidates.near[:, :rank] >> np.uint64(32)).astype(np.uint32)
                out[rows] = keys.view(np.float32).max(axis=1)
        return out

    def read(self, entries: Entries | tuple[int, int]) -> Entries:
        if isinstance(entries, Entries):
            return entries
        first, count = entries
        assert self.file is not None
        data = os.pread(self.file.fileno(), 10 * count, first)
        near = np.frombuffer(data, np.uint64, count)
        return Entries(near, np.frombuffer(data, np.uint16, count, 8 * count))


class _Whole:
    """All candidates of a slab of images, whose lists are made group by group."""

    def __init__(
        self, gathered: _Gathered, at: int, entries: list[Entries | tuple[int, int]]
    ) -> None:
        self.gathered, self.entries = gathered, entries
        self.low, high = gathered.cuts[at]
        self.m = high - self.low
        # The position was turned round, so that of equal keys the first image is the largest.
        self.kin = gathered.kin[at] ^ LOW
        self.lock = Lock()
        self.near: NDArray[np.uint64] | None = None
        self.starts = np.zeros(self.m + 1, dtype=np.int64)

    def part(self, group: list[tuple[int, int]]) -> tuple[Any, ...]:
        """The part of a group of these images."""
        with self.lock:
            near = self.near = self._sorted() if self.near is None else self.near
        return group_part(self.gathered.plan, group, partial(self._find, near))

    def _sorted(self) -> NDArray[np.uint64]:
        """Candidates image by image."""
        # Twice, one by one: all at once they would lie beside what is made of them.
        for some in self.entries:
            self.starts[1:] += np.bincount(self.gathered.read(some).line, minlength=self.m)
        np.cumsum(self.starts, out=self.starts)
        near, ends = np.empty(self.starts[-1], dtype=np.uint64), self.starts[:-1].copy()
        while self.entries:
            scatter(*self.gathered.read(self.entries.pop()), ends, near)
        return near

    def _find(
        self,
        near: NDArray[np.uint64],
        width: int,
        at: Places,
        block: tuple[Singles, Floats],
    ) -> Best:
        first, last = int(at[0]) - self.low, int(at[-1]) + 1 - self.low
        best = np.empty((len(at), width), dtype=np.uint64)
        left = np.flatnonzero(~nearest_of(near, self.starts[first : last + 1], best))
        if len(left):
            vectors, (z, b) = self.gathered.counting.vectors, block
            own = own_ranges(self.gathered.plan.images, at[left])
            best[left], _ = offered(
                vectors, self.gathered.counting.product, at[left], (z[left], b[left]), own, width,
                (0, vectors.n),
            )  # fmt: skip
        return best, self.kin[first:last]


class _Picked:
    """What is near in the tiles of one slab."""

    def __init__(self, gathered: _Gathered, slab: Slab) -> None:
        self.gathered = gathered
        (self.row_low, row_high), (self.col_low, col_high) = slab
        self.row_limits, self.col_limits = (
            gathered.limits_of(gathered.number[cut]) for cut in slab
        )
        m, n = row_high - self.row_low, col_high - self.col_low
        size = int(1.5 * gathered.rate * m * n) + 4 * TILE
        self.rows, self.cols = _Room(size), _Room(size)
        self.most = (m + n) * gathered.most
        self.room = room_for_keys(TILE)
        images = gathered.plan.images
        self.own = own_ranges(images, np.arange(self.row_low, row_high))
        kin = m if int(images.codes[row_high - 1]) >= int(images.codes[self.col_low]) else 0
        self.row_kin = np.zeros(kin, dtype=np.uint64)
        self.col_kin = np.zeros(n if kin else 0, dtype=np.uint64)
        self.crowded = False

    def watch(self, tile: Tile) -> None:
        """Keep what is near in a tile."""
        if self.crowded:
            return
        row_b, col_b = (b.astype(np.float32) for b in tile.own_b)
        rows, cols = tile.rows.start, tile.cols.start
        m, n = tile.product.shape
        if len(self.row_kin):
            farthest(
                tile.product, row_b, col_b, self.row_low + rows, self.col_low + cols, tile.first,
                self.own[rows : rows + m], self.row_kin[rows : rows + m],
                self.col_kin[cols : cols + n],
            )  # fmt: skip
        begin = 0
        while True:
            begin, self.rows.count, self.cols.count = pick(
                tile.product, row_b, col_b, self.row_low, self.col_low, rows, cols, tile.first,
                self.row_limits[rows : rows + m],
                self.col_limits[cols : cols + -(-n // CHUNK) * CHUNK], begin,
                *self._side(self.rows), *self._side(self.cols), self.room,
            )  # fmt: skip
            if begin >= m:
                return
            if self.rows.count + self.cols.count > self.most:
                self.crowded = True
                return
            for side in (self.rows, self.cols):
                if side.count + n > len(side.near):
                    side.grow()

    def _side(self, room: _Room) -> tuple[NDArray[np.uint64], NDArray[np.uint16], int]:
        return room.near, room.line, room.count

    def found(self) -> Found | None:
        """All that was kept; None where that is too much."""
        if self.crowded:
            return None
        rows, cols = self.rows.entries(), self.cols.entries()
        return Found(rows, cols, self.row_kin, self.col_kin)
