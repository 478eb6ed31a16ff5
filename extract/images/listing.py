"""The listing of a source: every image with the hash of its bytes, which is its id."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from alike.extract.errors import BadImage, BadInput
from alike.extract.images.source import ImageSource, notes_of
from alike.extract.images.split import image_id
from alike.extract.progress import Progress, silent

CHUNK, PART = 1024, 32
COLUMNS = ("image_id", "path", "label", "subset", "size", "state", "reason")

Read = tuple[str, int, str, str]
"""Image id, bytes, state, reason."""


def list_source(source: ImageSource, threads: int = 4, progress: Progress = silent) -> pd.DataFrame:
    """Read every image once and hash it; nothing is decoded.

    Args:
        source: the images; memory is that of the listing (some 150 bytes an image, kept in
            columns), not of the images.
        threads: that read and hash.
        progress: told how many are done.

    Returns:
        image_id (SHA-256 of the bytes, "" if unread), path, label, subset, size (bytes), state
        (`ok` or why there is no image), reason; one row for each listed path, in the source's
        order. A column group too, if the source names groups.

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
    tables = []
    with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
        # In chunks: a map over all would hold a future for every image of the set.
        for paths, labels, subsets, _ in listed:
            wanted = paths.to_pylist()
            parts = [wanted[start : start + PART] for start in range(0, len(wanted), PART)]
            done = pool.map(lambda part: [_hashed(source, path) for path in part], parts)
            ids, sizes, states, reasons = zip(*(one for part in done for one in part), strict=True)
            columns = [pa.array(ids), paths, labels, subsets, pa.array(sizes), pa.array(states)]
            tables.append(pa.table([*columns, pa.array(reasons)], list(COLUMNS)))
            progress("list", sum(map(len, tables)), total)
    table = pa.concat_tables(tables)
    groups = pa.chunked_array([groups for *_, groups in listed])
    if groups.null_count < len(groups):
        table = table.append_column("group", groups)
    return table.to_pandas()


def _listed(source: ImageSource) -> Iterator[tuple[pa.Array, ...]]:
    """Paths, labels, subsets and groups of a source in columns, chunk by chunk."""
    images = iter(source)
    while chunk := list(islice(images, CHUNK)):
        paths = pa.array([one.path for one in chunk], pa.string())
        labels = pa.array([one.label for one in chunk], pa.string())
        subsets = pa.array([one.subset for one in chunk], pa.string())
        yield paths, labels, subsets, pa.array([one.group for one in chunk], pa.string())


def _hashed(source: ImageSource, path: str) -> Read:
    try:
        data = source.read(path)
    except BadImage as error:
        return "", 0, error.state, error.reason
    return image_id(data), len(data), "ok", ""
