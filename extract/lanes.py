"""The lanes of a run: threads that load, compute and commit units of 1024 rows, overlapping.

On a CPU every core is a lane that loads a batch and computes it with one thread: no barrier
between cores, no core that waits for a stage. On a GPU two lanes with a stream each take turns, so
that one copies while the other computes, and a pool of threads loads batches ahead of them. A
writer commits whole units. What is in memory is bounded by the number of open units and of batches
ahead, not by the number of images.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch

from alike.extract.forward import Forward
from alike.extract.loading import FrameLoader, Frames, Image
from alike.extract.store import UNIT

OPEN_UNITS = 3
"""Units that are being filled or written at once: what bounds the memory of a run."""
GPU_LANES = 2
_WAIT = 0.05
"""Seconds after which a lane that waits for an open unit looks for errors of other threads."""


@dataclass(frozen=True, slots=True)
class UnitRows:
    """The last rows of one unit, which miss the same arrays."""

    unit: int
    rows: range


@dataclass
class UnitArrays:
    """What one forward pass gives of the rows of a unit.

    Attributes:
        arrays: name to (n, *shape).
        bad: row to (state, reason) of images without a feature.
        lost: row to the arrays that have no value of it.
    """

    arrays: dict[str, np.ndarray]
    bad: dict[int, tuple[str, str]] = field(default_factory=dict)
    lost: dict[int, list[str]] = field(default_factory=dict)


@dataclass
class _OpenUnit:
    """A unit being filled; `batches_left` counts the batches that are not in yet."""

    todo: UnitRows
    parts: list[UnitArrays]
    batches_left: int
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class _Batch:
    unit: _OpenUnit
    images: Sequence[Image]


_Loading = tuple[_Batch, Callable[[], Frames]]
"""A batch, and what gives its frames: at once, or when a thread of the pool has loaded them."""

ImagesOf = Callable[[UnitRows], Sequence[Image]]
"""Gives the images of some rows."""
Commit = Callable[[int, Sequence[UnitArrays]], None]
"""Takes a finished unit and what each forward pass gave of it; called from one thread."""
BatchProgress = Callable[[int, Mapping[str, float]], None]
"""Takes the number of images just computed, and the busy seconds of each stage so far."""


class Lanes:
    """Compute and commit units.

    Args:
        load: gives the frames of the images of a batch.
        forwards: each gives its arrays of a batch; all on one device.
        images_of: called when the images are needed, so that memory holds only those.
        commit: of finished units.
        progress: of batches.
        batch_size: images of one forward pass.
        threads: cores to use.
    """

    def __init__(
        self,
        load: FrameLoader,
        forwards: Sequence[Forward],
        images_of: ImagesOf,
        commit: Commit,
        progress: BatchProgress,
        *,
        batch_size: int,
        threads: int,
    ) -> None:
        self.load, self.forwards, self.images_of = load, tuple(forwards), images_of
        self.commit, self.progress = commit, progress
        # No batch is larger than a unit, whatever size was asked for.
        self.batch_size, self.threads = min(batch_size, UNIT), threads
        self.clock = load.clock
        self._batches: Iterator[_Batch | None] = iter(())
        self._ahead: deque[_Loading] = deque()
        self._lock = threading.Lock()
        self._room = threading.Semaphore(OPEN_UNITS)
        self._whole_units: queue.Queue[_OpenUnit | None] = queue.Queue()
        self._errors: list[BaseException] = []
        self._pool: ThreadPoolExecutor | None = None

    def run(self, units: Iterable[UnitRows]) -> None:
        """Compute units; the first error of any thread ends all and is raised.

        Units committed before an error stay committed.
        """
        self._batches = self._cut(units)
        on_cpu = self.forwards[0].device.type == "cpu"
        cores = torch.get_num_threads()
        writer = threading.Thread(target=self._guarded, args=(self._write,), name="write")
        lanes = [
            threading.Thread(target=self._guarded, args=(self._lane,), name=f"lane-{number}")
            for number in range(self.threads if on_cpu else GPU_LANES)
        ]
        with ThreadPoolExecutor(self.threads, thread_name_prefix="decode") as pool:
            self._pool = None if on_cpu else pool
            writer.start()
            for lane in lanes:
                lane.start()
            try:
                for lane in lanes:
                    lane.join()
            except BaseException as error:
                self._errors.insert(0, error)
                raise
            finally:
                for lane in lanes:
                    lane.join()
                self._whole_units.put(None)
                writer.join()
                # Threads started later take this process-wide value, which a lane set to 1.
                torch.set_num_threads(cores)
        if self._errors:
            raise self._errors[0]

    def _guarded(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as error:
            self._errors.append(error)

    def _cut(self, units: Iterable[UnitRows]) -> Iterator[_Batch | None]:
        """Batches in order; None as long as a new unit has to wait until one is written."""
        for todo in units:
            while not self._room.acquire(blocking=False):
                yield None
            images = self.images_of(todo)
            # Batches of equal size: a small one at the end would leave a lane without work.
            count = -(-len(images) // self.batch_size)
            cuts = [len(images) * number // count for number in range(count + 1)]
            unit = _OpenUnit(todo, [_empty(one, len(images)) for one in self.forwards], count)
            for start, stop in pairwise(cuts):
                yield _Batch(unit, images[start:stop])

    def _next(self) -> _Loading | None:
        """Give a lane its next batch; None when there is no more, or another thread failed."""
        while not self._errors:
            # One lane at a time: the iterator of batches and the queue ahead belong to all.
            with self._lock:
                exhausted = self._fill_ahead()
                if self._ahead:
                    return self._ahead.popleft()
                if exhausted:
                    return None
            # All open units have their batches with other lanes. Wait for the writer to close one,
            # outside of the lock, which those lanes need to go on; `_cut` takes the room itself.
            if self._room.acquire(timeout=_WAIT):
                self._room.release()
        return None

    def _fill_ahead(self) -> bool:
        """Take batches up to the number wanted ahead; whether there are no more.

        On a CPU that is the one batch which the lane loads itself. On a GPU it keeps every thread
        of the pool loading, with a batch for each lane beside.
        """
        n_ahead = 1 if self._pool is None else self.threads + GPU_LANES
        for batch in self._batches:
            if batch is None:
                return False
            self._ahead.append((batch, self._frames_of(batch.images)))
            if len(self._ahead) >= n_ahead:
                return False
        return True

    def _frames_of(self, images: Sequence[Image]) -> Callable[[], Frames]:
        if self._pool is None:
            return lambda: self.load(images)
        return self._pool.submit(self.load, images).result

    def _lane(self) -> None:
        if self._pool is None:
            torch.set_num_threads(1)
        with self.forwards[0].lane():
            while (loading := self._next()) is not None:
                batch, frames_of = loading
                self._compute(batch.unit, frames_of())
                with self._lock:
                    self.progress(len(batch.images), self.clock.seconds)

    def _compute(self, unit: _OpenUnit, loaded: Frames) -> None:
        """Compute a batch and put its rows into their unit; the last batch hands the unit on."""
        places = np.asarray(loaded.rows, dtype=np.int64) - unit.todo.rows.start
        for forward, part in zip(self.forwards, unit.parts, strict=True):
            bad = dict(loaded.bad)
            lost: dict[int, list[str]] = {}
            if loaded.rows:
                with self.clock.on("forward"):
                    arrays = self._forward(forward, loaded.frames)
                    broken, lost = non_finite(arrays, loaded.rows)
                    bad |= broken
                for name, rows in arrays.items():
                    part.arrays[name][places] = rows
            with unit.lock:
                part.bad |= bad
                part.lost |= lost
        with unit.lock:
            unit.batches_left -= 1
            whole = unit.batches_left == 0
        if whole:
            self._whole_units.put(unit)

    def _forward(self, forward: Forward, frames: torch.Tensor) -> Mapping[str, np.ndarray]:
        """Arrays of frames (n, 3, h, w), computed in a batch of the full size.

        Libraries choose their way by the size of a batch, and round otherwise. A set that grew
        image by image has to give the features of one that came whole, to the last bit.
        """
        n = len(frames)
        if n < self.batch_size:
            frames = torch.cat([frames, frames[:1].expand(self.batch_size - n, -1, -1, -1)])
            frames = frames.contiguous(memory_format=torch.channels_last)
        return {name: rows[:n] for name, rows in forward(frames).items()}

    def _write(self) -> None:
        while (unit := self._whole_units.get()) is not None:
            if not self._errors:
                with self.clock.on("write"):
                    self.commit(unit.todo.unit, unit.parts)
            self._room.release()


def _empty(forward: Forward, rows: int) -> UnitArrays:
    shapes = forward.shapes.items()
    return UnitArrays({name: np.empty((rows, *tail), dtype) for name, (tail, dtype) in shapes})


def non_finite(
    arrays: Mapping[str, np.ndarray], rows: list[int]
) -> tuple[dict[int, tuple[str, str]], dict[int, list[str]]]:
    """Rows with a NaN or an infinity in any array; such are never stored.

    Returns:
        Rows without a feature, with (state, reason): a vector or a float32 map is not finite.
        Rows that lose float16 maps only, with their names: values beyond the type's range.
    """
    bad: dict[int, tuple[str, str]] = {}
    lost: dict[int, list[str]] = {}
    for name, array in arrays.items():
        narrow = array.dtype == np.float16 and array.ndim > 2
        wide = torch.float64 if array.dtype == np.float32 else torch.float32
        # One pass: a wider sum is finite only if all its terms are.
        sums = torch.from_numpy(array).reshape(len(array), -1).sum(1, dtype=wide)
        for index in np.flatnonzero(~np.isfinite(sums.numpy())):
            if narrow:
                lost.setdefault(rows[index], []).append(name)
            else:
                reason = f"{name} has NaN or infinite values ({array.dtype})"
                bad[rows[index]] = ("non-finite", reason)
    return bad, {row: names for row, names in lost.items() if row not in bad}
