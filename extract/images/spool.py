"""What a listing found, on the disk: as many images as there are take two batches of memory."""

import os
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from itertools import islice

import pyarrow as pa

from alike.extract.images.source import Stamp

AT_ONCE = 1 << 14
"""Images of a batch."""
_STAMP = pa.list_(pa.int64(), 4)
_SCHEMA = pa.schema([("path", pa.string()), ("stamp", _STAMP)])

Found = tuple[str, Stamp | None]
"""Path of an image, and its stamp if there is one."""


class Spool:
    """Images in the order in which they were found, in a file that no name leads to.

    It is gone with this object, and with a process that is killed.

    Args:
        found: the images, each path once.

    Examples:
        >>> spool = Spool([("a/1.png", (5, 0, 0, 9)), ("a/2.png", None)])
        >>> list(spool)
        [('a/1.png', (5, 0, 0, 9)), ('a/2.png', None)]
        >>> spool.stamp("a/1.png"), spool.stamp("a/2.png"), spool.stamp("b.png")
        ((5, 0, 0, 9), None, None)
    """

    def __init__(self, found: Iterable[Found]) -> None:
        file = tempfile.TemporaryFile(prefix="alike-listing-")  # noqa: SIM115 (closed below)
        weakref.finalize(self, file.close)
        self._descriptor = file.fileno()
        self._parts: list[tuple[int, int]] = []
        images, at = iter(found), 0
        while batch := list(islice(images, AT_ONCE)):
            data = _packed(batch)
            file.write(data)
            self._parts.append((at, len(data)))
            at += len(data)
        file.flush()
        self._lock = threading.Lock()
        self._next = 0
        self._near: list[dict[str, Stamp | None]] = []

    def __iter__(self) -> Iterator[Found]:
        """All of them, from the first."""
        for number in range(len(self._parts)):
            yield from self._part(number)

    def stamp(self, path: str) -> Stamp | None:
        """The stamp of an image: quick where images are asked for about in their order.

        Args:
            path: of the image; of one that was not found None is given.
        """
        with self._lock:
            for near in self._near:
                if path in near:
                    return near[path]
            for _ in self._parts:
                near = dict(self._part(self._next))
                self._next = (self._next + 1) % len(self._parts)
                # Threads ask for images of two batches at a time where one ends.
                self._near = [near, *self._near[:1]]
                if path in near:
                    return near[path]
        return None

    def _part(self, number: int) -> list[Found]:
        start, size = self._parts[number]
        with pa.ipc.open_stream(os.pread(self._descriptor, size, start)) as reader:
            (batch,) = reader
        stamps = batch["stamp"].to_pylist()
        paths = batch["path"].to_pylist()
        return [
            (path, None if stamp is None else tuple(stamp))
            for path, stamp in zip(paths, stamps, strict=True)
        ]


def _packed(batch: list[Found]) -> bytes:
    paths, stamps = zip(*batch, strict=True)
    columns = [pa.array(paths, pa.string()), pa.array(stamps, _STAMP)]
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(sink, _SCHEMA, options=options) as writer:
        writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))
    packed: bytes = sink.getvalue().to_pybytes()
    return packed
