"""The listing of a source: every image with the hash of its bytes, which is its id."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from alike.extract.errors import BadImage, BadInput
from alike.extract.images.remembered import STAMPED, EarlierImages, PastListing, stamp_of
from alike.extract.images.source import ImageSource, Stamp, notes_of
from alike.extract.images.split import image_id
from alike.extract.progress import Progress, silent

CHUNK, PART = 1024, 32
COLUMNS = ("image_id", "path", "label", "subset", "size", "state", "reason")

Read = tuple[str, int, str, str]
"""Image id, bytes, state, reason."""


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
        source: the images; memory is that of the listing (some 150 bytes an image, kept in
            columns), not of the images.
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
    listed = list(_listed(source))
    total = sum(len(paths) for paths, *_ in listed)
    if not total:
        rest = "".join(f" ({note})" for note in notes_of(source))
        raise BadInput(
            f"no images in {source.spec}: files with an image's suffix are expected{rest}"
        )
    twice = total - pc.count_distinct(pa.chunked_array([paths for paths, *_ in listed])).as_py()
    if twice:
        raise BadInput(f"{source.spec} lists {twice} paths twice; a path names one image")
    earlier = None if past is None else EarlierImages(past)
    tables, n_read, n_silent = [], 0, 0
    with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
        # In chunks: a map over all would hold a future for every image of the set.
        for paths, labels, subsets, _ in listed:
            wanted = paths.to_pylist()
            parts = [wanted[start : start + PART] for start in range(0, len(wanted), PART)]
            done = pool.map(lambda part: [_read(source, path, earlier) for path in part], parts)
            images = [one for part in done for one in part]
            n_read += sum(one.read for one in images)
            n_silent += sum(one.silent for one in images)
            ids, sizes, states, reasons = zip(*(one.facts for one in images), strict=True)
            columns = [pa.array(ids), paths, labels, subsets, pa.array(sizes), pa.array(states)]
            columns += [pa.array(reasons), *_stamps(images)]
            tables.append(pa.table(columns, [*COLUMNS, *STAMPED]))
            progress("list", sum(map(len, tables)), total)
    if n_silent:
        # What decays in one file decays in others, whose stamps say nothing either.
        again = list_source(source, threads, progress)
        again.attrs["silent"] = n_silent
        return again
    table = pa.concat_tables(tables)
    groups = pa.chunked_array([groups for *_, groups in listed])
    if groups.null_count < len(groups):
        table = table.append_column("group", groups)
    listing = table.to_pandas()
    listing.attrs.update(read=n_read, silent=0)
    return listing


def _listed(source: ImageSource) -> Iterator[tuple[pa.Array, ...]]:
    """Paths, labels, subsets and groups of a source in columns, chunk by chunk."""
    images = iter(source)
    while chunk := list(islice(images, CHUNK)):
        paths = pa.array([one.path for one in chunk], pa.string())
        labels = pa.array([one.label for one in chunk], pa.string())
        subsets = pa.array([one.subset for one in chunk], pa.string())
        yield paths, labels, subsets, pa.array([one.group for one in chunk], pa.string())


class _Image(NamedTuple):
    """One image as it was listed."""

    facts: Read
    stamp: Stamp
    read: bool
    silent: bool


def _read(source: ImageSource, path: str, earlier: EarlierImages | None) -> _Image:
    """Hash an image, unless `earlier` has it and it is not due."""
    # Before it is read: a file that changes in between has another stamp the next time.
    stamp = stamp_of(source, path)
    before = None if earlier is None else earlier.image(path, stamp)
    if before is not None and not before[2]:
        return _Image((before[0], before[1], "ok", ""), stamp, read=False, silent=False)
    facts = _hashed(source, path)
    # One that cannot be read at the moment is no silent change: it is told as bad.
    silent = before is not None and facts[2] == "ok" and facts[0] != before[0]
    return _Image(facts, stamp, read=True, silent=silent)


def _stamps(images: list[_Image]) -> list[pa.Array]:
    columns = zip(*(one.stamp for one in images), strict=True)
    return [pa.array(column, pa.int64()) for column in columns]


def _hashed(source: ImageSource, path: str) -> Read:
    try:
        data = source.read(path)
    except BadImage as error:
        return "", 0, error.state, error.reason
    return image_id(data), len(data), "ok", ""
