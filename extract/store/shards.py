"""Reading shards: only the inner chunks that are wanted, each checked, decoded in place.

zarr-python 3.1 takes seconds for a thousand scattered rows; this reads the same files by the Zarr
v3 sharding specification (index at the end: offset and length of every chunk, then a CRC-32C), and
raises where zarr would give the fill value for a shard that is gone.
"""

import base64
import errno
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import google_crc32c
import numcodecs.zstd  # type: ignore[import-untyped]
import numpy as np

from alike.extract.documents import damaged
from alike.extract.errors import StoreDamaged
from alike.extract.store.arrays import UNIT, ArraySpec
from alike.extract.store.files import ADVICE, Files

_ABSENT = 2**64 - 1
_LEFT_OUT = 2**32 - 1
"""In place of the checksum of a chunk that Zarr left out."""
_OF_FILE = {
    errno.ELOOP, errno.EISDIR, errno.ENOTDIR, errno.ENXIO, errno.EINVAL, errno.EOVERFLOW,
}  # fmt: skip
"""Errors of the system that say what the file is. Others (no permission, too many open files, a
mount or a server that does not answer) say nothing of its content."""
_PAUSE = 0.02
_JOIN = 64 * 1024
"""Chunks nearer than this in a local file are fetched by one read."""
_JOIN_REMOTE = 2 << 20
"""The same of an object, where a request takes as long as some megabytes."""


class _Ranges(Protocol):
    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read byte ranges of a file."""


@dataclass(frozen=True)
class Expected:
    """What a shard's chunks must be to be the ones that were committed.

    Attributes:
        chunks: the last four bytes of every chunk, (n,) as little-endian uint32.
        rows: committed rows; those of a last chunk that is not full may have company by now.
        tail: `hash_rows` of the rows in that last chunk, or nothing.
        hash_rows: hashes decoded rows.
    """

    chunks: np.ndarray
    rows: int
    tail: str
    hash_rows: Callable[[np.ndarray], str]

    @staticmethod
    def of(
        chunks: str, rows: int, tail: str, hash_rows: Callable[[np.ndarray], str]
    ) -> "Expected | None":
        """Read what `chunk_checksums` gave; None for nothing, in records of earlier versions."""
        if not chunks:
            return None
        return Expected(np.frombuffer(base64.b64decode(chunks), "<u4"), rows, tail, hash_rows)


def read_shard_rows(
    files: Files, name: str, spec: ArraySpec, at: np.ndarray, expected: Expected | None = None
) -> np.ndarray:
    """Read rows of one shard.

    Args:
        files: the store's files.
        name: the shard's file.
        spec: the array.
        at: (n,) int64 row numbers inside the shard, 0 to 1023, any order.
        expected: what was committed; None to take any chunk that is whole.

    Returns:
        (n, *tail) in the array's type.

    Raises:
        StoreDamaged: the file is missing, short, a checksum does not hold, or a chunk is not the
            one that was committed.
        OSError: the file could not be read, which is no damage: nothing may be taken back for it.
    """
    for again in (True, True, False):
        try:
            return _read(files, name, spec, at, expected)
        except FileNotFoundError:
            if not again:
                raise StoreDamaged(
                    f"{name} is missing; {ADVICE}", file=name, fault="is missing"
                ) from None
        except OSError as error:
            if not again:
                if error.errno in _OF_FILE:
                    raise damaged(name, error, ADVICE) from error
                if error.errno and error.filename is None:
                    error.filename = f"{files.url}/{name}"
                raise
        # Of a damaged index, places may be anything: OverflowError.
        except (ValueError, RuntimeError, OverflowError) as error:
            if not again:
                raise damaged(name, error, ADVICE) from error
        # A writer may have replaced the shard between the reads of its index and its chunks.
        time.sleep(_PAUSE)
    raise AssertionError("unreachable")


def _read(
    files: Files, name: str, spec: ArraySpec, at: np.ndarray, expected: Expected | None
) -> np.ndarray:
    chunks, inside = np.divmod(at, spec.chunk_rows)
    needed, position = np.unique(chunks, return_inverse=True)
    decoded = spec.empty(len(needed) * spec.chunk_rows).reshape(
        len(needed), spec.chunk_rows, *spec.tail
    )
    checksums = np.full(len(needed), _LEFT_OUT, "<u4")
    raw = spec.chunk_rows * spec.row_bytes
    # Zstandard's bound is 1/256 and 64 bytes more than what it packs.
    longest = raw + raw // 128 + 1024
    for i, data in _fetch(files, name, _index(files, name, spec)[needed], longest):
        _decode(data, spec, decoded[i])
        checksums[i] = int.from_bytes(data[-4:], "little")
    if expected is not None:
        _compare(expected, spec, needed, checksums, decoded)
    flat = decoded.reshape(-1, *spec.tail)
    if len(at) <= len(flat) and at[0] % spec.chunk_rows == 0 and (np.diff(at) == 1).all():
        return flat[: len(at)]
    return decoded[position, inside]


def _compare(
    expected: Expected,
    spec: ArraySpec,
    needed: np.ndarray,
    checksums: np.ndarray,
    decoded: np.ndarray,
) -> None:
    if needed[-1] >= len(expected.chunks):
        raise ValueError("its record knows fewer chunks")
    for i in np.flatnonzero(expected.chunks[needed] != checksums):
        rest = expected.rows - int(needed[i]) * spec.chunk_rows
        # Rows that came to the last chunk changed its checksum; those before must be the same.
        if not (rest < spec.chunk_rows and expected.hash_rows(decoded[i][:rest]) == expected.tail):
            raise ValueError("a chunk that is whole, but not the one that was recorded")


class HeldFile:
    """A file in memory, read as `Files` reads one."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read_ranges(self, name: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """Read byte ranges; see `Files`."""
        return [self._data[start : stop or None] for start, stop in ranges]


def chunk_checksums(files: _Ranges, name: str, spec: ArraySpec, rows: int) -> str:
    """Give the last four bytes of the chunks that hold a shard's first rows, as base64.

    They are the checksum that every chunk carries: CRC-32C, or Zstandard's of the content.
    """
    entries = _index(files, name, spec)[: -(-rows // spec.chunk_rows)]
    present = np.flatnonzero(entries[:, 0] != _ABSENT)
    ends = [int(entries[i].sum()) for i in present]
    sums = np.full(len(entries), _LEFT_OUT, "<u4")
    for i, data in zip(present, files.read_ranges(name, [(e - 4, e) for e in ends]), strict=True):
        sums[i] = int.from_bytes(data, "little")
    return base64.b64encode(sums.tobytes()).decode()


def grouped_by_unit(rows: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Give (unit, positions in `rows` of its rows) for every unit that `rows` touch."""
    units = rows // UNIT
    order = np.argsort(units, kind="stable")
    cuts = np.flatnonzero(np.diff(units[order])) + 1
    return [(int(units[part[0]]), part) for part in np.split(order, cuts) if len(part)]


def _index(files: _Ranges, name: str, spec: ArraySpec) -> np.ndarray:
    """Read offset and length of every inner chunk, (chunks, 2) uint64."""
    length = UNIT // spec.chunk_rows * 16
    data = files.read_ranges(name, [(-length - 4, 0)])[0]
    if len(data) != length + 4:
        raise ValueError("shorter than its index")
    _check_crc(data, "its index")
    return np.frombuffer(data[:-4], dtype="<u8").reshape(-1, 2)


def _fetch(
    files: Files, name: str, entries: np.ndarray, longest: int
) -> Iterator[tuple[int, memoryview]]:
    """Give (position in `entries`, stored bytes) of every chunk; near ones are read together.

    Args:
        files: the store's files.
        name: the shard's file.
        entries: (n, 2) uint64, offset and length of each chunk, from the index.
        longest: most bytes of a chunk; so none that cannot be is asked for, and memory that runs
            out is no damage.
    """
    # Zarr leaves out chunks of nothing but the fill value, here chunks of bad images alone; that
    # a chunk was left out is guarded by the index's checksum.
    present = np.flatnonzero(entries[:, 0] != _ABSENT)
    if len(present) and int(entries[present, 1].max()) > longest:
        raise ValueError("its index names a chunk that is longer than any")
    spans = {int(i): (int(entries[i, 0]), int(entries[i].sum())) for i in present}
    order = sorted(spans, key=lambda i: spans[i])
    runs: list[tuple[int, int, list[int]]] = []
    near = _JOIN_REMOTE if files.root is None else _JOIN
    for i in order:
        start, stop = spans[i]
        if runs and start - runs[-1][1] <= near:
            runs[-1] = (runs[-1][0], max(stop, runs[-1][1]), [*runs[-1][2], i])
        else:
            runs.append((start, stop, [i]))
    parts: Sequence[bytes] = files.read_ranges(name, [(start, stop) for start, stop, _ in runs])
    for (start, stop, members), data in zip(runs, parts, strict=True):
        if len(data) != stop - start:
            raise ValueError("shorter than its index says")
        view = memoryview(data)
        for i in members:
            yield i, view[spans[i][0] - start : spans[i][1] - start]


def _decode(data: memoryview, spec: ArraySpec, out: np.ndarray) -> None:
    flat = out.reshape(-1).view(np.uint8)
    if spec.compressed:
        numcodecs.zstd.decompress(data, flat)
        return
    _check_crc(data, "a chunk")
    if len(data) - 4 != len(flat):
        raise ValueError(f"a chunk of {len(data) - 4} bytes instead of {len(flat)}")
    flat[:] = np.frombuffer(data[:-4], dtype=np.uint8)


def _check_crc(data: bytes | memoryview, what: str) -> None:
    if google_crc32c.value(bytes(data[:-4])) != struct.unpack("<I", data[-4:])[0]:
        raise ValueError(f"checksum of {what}")
