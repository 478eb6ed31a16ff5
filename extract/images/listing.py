"""The listing of a source: every image with the hash of its bytes, which is its id."""

import secrets
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from alike.extract.errors import BadImage, BadInput, StoreDamaged
from alike.extract.images.remembered import (
    NO_STAMP,
    STAMPED,
    TEXTS,
    EarlierImages,
    PastListing,
    Remembered,
    stamp_of,
)
from alike.extract.images.source import ImageSource, Stamp, notes_of, read_anew, read_with
from alike.extract.images.split import image_id
from alike.extract.large_tables import ScratchTable, hashes, texts
from alike.extract.progress import Progress, silent

CHUNK, PART = 1024, 32
COLUMNS = ("image_id", "path", "label", "subset", "size", "state", "reason")
NAMED = pa.schema([(name, pa.string()) for name in TEXTS])
"""What is known of an image before it is read."""
SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in COLUMNS[:4]),
        ("size", pa.int64()),
        *((name, pa.string()) for name in COLUMNS[5:]),
        *((name, pa.int64()) for name in STAMPED),
        ("group", pa.string()),
    ]
)
"""Columns of a listing."""

Read = tuple[str, int, str, str]
"""Image id, bytes, state, reason."""


@dataclass(frozen=True)
class Listing:
    """A listing in a file.

    Attributes:
        table: the columns of `SCHEMA`, one row for each listed path, in the source's order.
        read: images that were read.
        silent: of how many the bytes changed under the same stamp.
    """

    table: ScratchTable
    read: int
    silent: int

    def __len__(self) -> int:
        return self.table.num_rows


def list_source(
    source: ImageSource,
    threads: int = 4,
    progress: Progress = silent,
    *,
    past: PastListing | None = None,
) -> pd.DataFrame:
    """Read every image once and hash it; nothing is decoded.

    What an earlier listing has read is not read again while its stamp is the same, but for a share
    of `remembered.TURNS`. If one of these has other bytes under the same stamp, all are read.

    Args:
        source: the images.
        threads: that read and hash.
        progress: told how many are done.
        past: an earlier listing of the same source; None to read every image.

    Returns:
        image_id (SHA-256 of the bytes, "" if unread), path, label, subset, size (bytes), state
        (`ok` or why there is no image), reason; one row for each listed path, in the source's
        order. A column group too, if the source names groups. Columns `remembered.STAMPED`: -1
        where there is no stamp to trust. `attrs` holds how many images were `read`, and of
        how many the bytes changed under the same stamp (`silent`).

    Raises:
        BadInput: the source lists no image, or one path twice.
    """
    with tempfile.TemporaryDirectory(prefix="alike-listing-") as folder:
        listing = list_to(source, Path(folder), threads, progress, past=past)
        table = pa.Table.from_batches(listing.table.to_batches(), SCHEMA)
    if table["group"].null_count == len(table):
        table = table.drop_columns("group")
    frame = table.to_pandas()
    frame.attrs.update(read=listing.read, silent=listing.silent)
    return frame


def list_to(
    source: ImageSource,
    folder: Path,
    threads: int = 4,
    progress: Progress = silent,
    *,
    past: PastListing | None = None,
) -> Listing:
    """`list_source` into a file: memory is at most 24 bytes an image, beside the source's own.

    Args:
        source: as there.
        folder: for the file, and others while it is written: some 300 bytes an image.
        threads: as there.
        progress: as there.
        past: as there.

    Raises:
        BadInput: as there.
    """
    if past is None:
        read_anew(source)
    named = ScratchTable(_scratch(folder, "named"), _listed(source), NAMED)
    if not named.num_rows:
        rest = "".join(f" ({note})" for note in notes_of(source))
        raise BadInput(
            f"no images in {source.spec}: files with an image's suffix are expected{rest}"
        )
    twice = _n_twice(named)
    if twice:
        raise BadInput(f"{source.spec} lists {twice} paths twice; a path names one image")
    with ExitStack() as held:
        earlier = None
        # A table that is damaged costs a reading of all images, and is written anew.
        with suppress(StoreDamaged):
            if past is not None:
                earlier = EarlierImages(past, _scratch(folder, "earlier"), read_with(source))
                held.callback(earlier.close)
        counts = Counter[str]()
        images = _images(source, named, earlier, threads, progress, counts)
        table = ScratchTable(_scratch(folder, "listed"), images, SCHEMA)
    named.remove()
    if counts["silent"]:
        # What decays in one file decays in others, whose stamps say nothing either.
        table.remove()
        again = list_to(source, folder, threads, progress)
        return Listing(again.table, again.read, counts["silent"])
    return Listing(table, counts["read"], 0)


def _scratch(folder: Path, name: str) -> Path:
    return folder / f"{name}.{secrets.token_hex(4)}.partial"


def _n_twice(named: ScratchTable) -> int:
    """How many paths were listed before."""
    key, found, start = secrets.token_hex(8), np.empty(named.num_rows, np.uint64), 0
    for batch in named.to_batches():
        found[start : start + batch.num_rows] = hashes(texts(batch, "path"), key)
        start += batch.num_rows
    found.sort()
    several = np.unique(found[1:][found[1:] == found[:-1]])
    if not len(several):
        return 0
    # Of one hash, or one path: the texts say which.
    counts = Counter[str]()
    for batch in named.to_batches():
        paths = texts(batch, "path")
        counts.update(paths[np.isin(hashes(paths, key), several)].tolist())
    return counts.total() - len(counts)


def _listed(source: ImageSource) -> Iterator[pa.RecordBatch]:
    """Paths, labels, subsets and groups of a source in columns, chunk by chunk."""
    images = iter(source)
    while chunk := list(islice(images, CHUNK)):
        columns = [pa.array([getattr(one, name) for one in chunk], pa.string()) for name in TEXTS]
        yield pa.record_batch(columns, schema=NAMED)


def _images(
    source: ImageSource,
    named: ScratchTable,
    earlier: EarlierImages | None,
    threads: int,
    progress: Progress,
    counts: "Counter[str]",
) -> Iterator[pa.RecordBatch]:
    """The rows of a listing; counts of images that were `read` and that changed in silence."""
    done = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:

        def read(part: list[tuple[str, Remembered | None]]) -> list[_Image]:
            return [_read(source, *one) for one in part]

        # In chunks: a map over all would hold a future for every image of the set.
        for whole in named.to_batches():
            for start in range(0, whole.num_rows, CHUNK):
                batch = whole.slice(start, CHUNK)
                paths = batch["path"].to_pylist()
                before = [None] * len(paths) if earlier is None else earlier.images(paths)
                wanted = list(zip(paths, before, strict=True))
                parts = [wanted[low : low + PART] for low in range(0, len(wanted), PART)]
                images = [one for part in pool.map(read, parts) for one in part]
                counts["read"] += sum(one.read for one in images)
                counts["silent"] += sum(one.silent for one in images)
                yield _as_batch(batch, images)
                done += len(images)
                progress("list", done, named.num_rows)


class _Image(NamedTuple):
    """One image as it was listed."""

    facts: Read
    stamp: Stamp
    read: bool
    silent: bool


def _read(source: ImageSource, path: str, before: Remembered | None) -> _Image:
    """Hash an image, unless it is as remembered and not due."""
    # Before it is read: a file that changes in between has another stamp the next time.
    stamp = stamp_of(source, path)
    # What gave no bytes may give some the next time, without any change.
    earlier = before if before is not None and before.image_id else None
    same = earlier is not None and stamp != NO_STAMP and earlier.stamp == stamp
    if earlier is not None and same and not earlier.due:
        return _Image((earlier.image_id, earlier.size, "ok", ""), stamp, read=False, silent=False)
    facts = _hashed(source, path)
    # One that cannot be read at the moment is no silent change: it is told as bad.
    silent = earlier is not None and same and facts[2] == "ok" and facts[0] != earlier.image_id
    return _Image(facts, stamp, read=True, silent=silent)


def _as_batch(batch: pa.RecordBatch, images: list[_Image]) -> pa.RecordBatch:
    ids, sizes, states, reasons = zip(*(one.facts for one in images), strict=True)
    stamps = zip(*(one.stamp for one in images), strict=True)
    columns = dict(zip(batch.schema.names, batch.columns, strict=True))
    columns |= {"image_id": ids, "size": sizes, "state": states, "reason": reasons}
    columns |= dict(zip(STAMPED, stamps, strict=True))
    return pa.RecordBatch.from_pydict(columns, SCHEMA)


def _hashed(source: ImageSource, path: str) -> Read:
    try:
        data = source.read(path)
    except BadImage as error:
        return "", 0, error.state, error.reason
    return image_id(data), len(data), "ok", ""
