"""The lanes of a run: units of 1024 rows are read, decoded, computed and committed, overlapping.

On a CPU every core is a lane that decodes a batch and computes it with one thread: no barrier
between cores, no core that waits for a stage. On a GPU two lanes with a stream each take turns, so
that one copies while the other computes, and a pool of threads decodes ahead of them. A writer
commits whole units. What is in memory is bounded by the number of open units and of batches ahead,
not by the number of images.
"""

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise

import numpy as np
import torch

from alike.extract.errors import BadImage
from alike.extract.forward import Forward
from alike.extract.images import ImageSource, decode, image_id
from alike.extract.store import ABSENT

OPEN_UNITS = 3
GPU_LANES = 2
STAGES = ("read", "decode", "forward", "write")
RETRIED = (ABSENT, "changed", "missing")
"""States that say nothing about the image's content: the next run tries again."""


@dataclass(frozen=True, slots=True)
class Image:
    """One row to compute; `path` is None for an image that left the set before it was computed."""

    row: int
    path: str | None
    image_id: str


@dataclass(frozen=True, slots=True)
class Work:
    """The last rows of one unit, which miss the same arrays."""

    unit: int
    rows: range


@dataclass
class _Open:
    """A unit being filled; `left` counts the batches that are not in yet."""

    work: Work
    arrays: dict[str, np.ndarray]
    left: int
    bad: dict[int, tuple[str, str]] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class _Batch:
    unit: _Open
    images: Sequence[Image]


@dataclass(frozen=True)
class _Loaded:
    batch: _Batch
    frames: torch.Tensor
    good: list[int]
    bad: dict[int, tuple[str, str]]


class Busy:
    """Seconds that each stage was busy, summed over its threads."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._lock = threading.Lock()

    @contextmanager
    def on(self, stage: str) -> Iterator[None]:
        """Count the time inside."""
        start = time.perf_counter()
        try:
            yield
        finally:
            with self._lock:
                self.seconds[stage] += time.perf_counter() - start


Commit = Callable[[int, Mapping[str, np.ndarray], Mapping[int, tuple[str, str]]], None]
Images = Callable[[Work], Sequence[Image]]


class Lanes:
    """Compute and commit units.

    Args:
        source: of the images' bytes.
        images: gives the images of the rows of one work, when they are wanted.
        forward: gives the arrays of a batch.
        size: (height, width) of every frame; another is a bad image.
        batch_size: images of one forward pass.
        threads: cores to use.
        commit: takes (unit, arrays, bad) of a finished unit, called from one thread.
        done: told the number of images just computed, and the busy seconds of each stage.
    """

    def __init__(
        self,
        source: ImageSource,
        images: Images,
        forward: Forward,
        size: tuple[int, int],
        batch_size: int,
        threads: int,
        commit: Commit,
        done: Callable[[int, Mapping[str, float]], None],
    ) -> None:
        self.source, self.images, self.forward, self.size = source, images, forward, size
        self.batch_size, self.threads = batch_size, threads
        self.commit, self.done = commit, done
        self.busy = Busy()
        self._ahead: deque[Callable[[], _Loaded]] = deque()
        self._batches: Iterator[_Batch | None] = iter(())
        self._lock = threading.Lock()
        self._room = threading.Semaphore(OPEN_UNITS)
        self._finished: queue.Queue[_Open | None] = queue.Queue()
        self._failed: list[BaseException] = []
        self._pool: ThreadPoolExecutor | None = None

    def run(self, works: Iterable[Work]) -> None:
        """Compute all work; the first error of any thread ends all and is raised.

        Units committed before an error stay committed.
        """
        self._batches = self._cut(works)
        on_cpu = self.forward.device.type == "cpu"
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
                self._failed.insert(0, error)
                raise
            finally:
                for lane in lanes:
                    lane.join()
                self._finished.put(None)
                writer.join()
                # Threads started later take this process-wide value, which a lane set to 1.
                torch.set_num_threads(cores)
        if self._failed:
            raise self._failed[0]

    def _guarded(self, stage: Callable[[], None]) -> None:
        try:
            stage()
        except BaseException as error:
            self._failed.append(error)

    def _cut(self, works: Iterable[Work]) -> Iterator[_Batch | None]:
        """Batches in order; None where a new unit has to wait until one is written."""
        for work in works:
            while not self._room.acquire(blocking=False):
                yield None
            images = self.images(work)
            # Batches of equal size: a small one at the end would leave a lane without work.
            count = -(-len(images) // self.batch_size)
            cuts = [len(images) * number // count for number in range(count + 1)]
            arrays = {
                name: np.empty((len(images), *tail), dtype)
                for name, (tail, dtype) in self.forward.shapes.items()
            }
            unit = _Open(work, arrays, count)
            for start, stop in pairwise(cuts):
                yield _Batch(unit, images[start:stop])

    def _next(self) -> Callable[[], _Loaded] | None:
        ahead = 1 if self._pool is None else self.threads + 2
        while not self._failed:
            with self._lock:
                for batch in self._batches:
                    if batch is None:
                        break
                    load = partial(self._load, batch)
                    self._ahead.append(
                        load if self._pool is None else self._pool.submit(load).result
                    )
                    if len(self._ahead) >= ahead:
                        break
                else:
                    return self._ahead.popleft() if self._ahead else None
                if self._ahead:
                    return self._ahead.popleft()
            # Every open unit is in other hands: wait for the writer to close one.
            if self._room.acquire(timeout=0.05):
                self._room.release()
        return None

    def _lane(self) -> None:
        if self._pool is None:
            torch.set_num_threads(1)
        with self.forward.lane():
            while (load := self._next()) is not None:
                loaded = load()
                self._store(loaded)
                with self._lock:
                    self.done(len(loaded.batch.images), self.busy.seconds)

    def _load(self, batch: _Batch) -> _Loaded:
        """Read, check, decode and frame the images of a batch; runs in any thread."""
        pinned = self.forward.device.type == "cuda"
        stored = torch.empty(
            (len(batch.images), *self.size, 3), dtype=torch.uint8, pin_memory=pinned
        )
        frames = stored.permute(0, 3, 1, 2)
        good: list[int] = []
        bad: dict[int, tuple[str, str]] = {}
        for image in batch.images:
            try:
                with self.busy.on("read"):
                    data = read_checked(self.source, image)
                with self.busy.on("decode"):
                    frames[len(good)] = self._frame(data)
                good.append(image.row)
            except BadImage as error:
                bad[image.row] = (error.state, error.reason)
        return _Loaded(batch, frames[: len(good)], good, bad)

    def _frame(self, data: bytes) -> torch.Tensor:
        frame = self.forward.network.transform.frame(decode(data))
        if tuple(frame.shape[1:]) != self.size:
            (height, width), (rows, columns) = frame.shape[1:], self.size
            raise BadImage(
                "wrong size",
                f"{height}x{width} where the set is {rows}x{columns} and nothing resizes",
            )
        return frame

    def _store(self, loaded: _Loaded) -> None:
        """Compute a batch and put its rows into their unit; the last batch hands the unit on."""
        unit = loaded.batch.unit
        bad = dict(loaded.bad)
        if loaded.good:
            with self.busy.on("forward"):
                arrays = self.forward(loaded.frames)
                bad |= non_finite(arrays, loaded.good)
            places = np.asarray(loaded.good) - unit.work.rows.start
            for name, rows in arrays.items():
                unit.arrays[name][places] = rows
        with unit.lock:
            unit.bad |= bad
            unit.left -= 1
            whole = unit.left == 0
        if whole:
            self._finished.put(unit)

    def _write(self) -> None:
        while (unit := self._finished.get()) is not None:
            if not self._failed:
                with self.busy.on("write"):
                    self.commit(unit.work.unit, unit.arrays, unit.bad)
            self._room.release()


def read_checked(source: ImageSource, image: Image) -> bytes:
    """An image's bytes, if they still are the bytes that were listed.

    Raises:
        BadImage: `absent`, `missing` or `changed`; these states are tried again by the next run.
    """
    if image.path is None:
        raise BadImage(ABSENT, "left the set before it was computed")
    try:
        data = source.read(image.path)
    except BadImage as error:
        raise BadImage("missing", f"{error.state} after it was listed: {error.reason}") from error
    if image_id(data) != image.image_id:
        raise BadImage("changed", "its bytes are not those that were listed")
    return data


def non_finite(arrays: Mapping[str, np.ndarray], rows: list[int]) -> dict[int, tuple[str, str]]:
    """Rows with a NaN or an infinity in any array, with the array's name; such are never stored."""
    bad = {}
    for name, array in arrays.items():
        wide = torch.float64 if array.dtype == np.float32 else torch.float32
        # One pass: a wider sum is finite only where all its terms are.
        sums = torch.from_numpy(array).reshape(len(array), -1).sum(1, dtype=wide)
        for index in np.flatnonzero(~np.isfinite(sums.numpy())):
            bad[rows[index]] = ("non-finite", f"{name} has NaN or infinite values ({array.dtype})")
    return bad
