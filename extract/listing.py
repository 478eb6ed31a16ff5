"""The listing of a source: every image with the hash of its bytes, which is its id."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice

import pandas as pd

from extract.errors import BadImage, BadInput
from extract.progress import Progress, silent
from extract.source import ImageSource, Listed
from extract.split import image_id

CHUNK, PART = 1024, 32
COLUMNS = ("image_id", "path", "label", "size", "state", "reason")


def list_source(source: ImageSource, threads: int = 4, progress: Progress = silent) -> pd.DataFrame:
    """Read every image once and hash it; nothing is decoded.

    Args:
        source: the images; memory is that of the listing, not of the images.
        threads: that read and hash.
        progress: told how many are done.

    Returns:
        image_id (SHA-256 of the bytes, "" where unread), path, label, size (bytes), state (`ok` or
        why there is no image), reason; one row for each listed path, in the source's order.

    Raises:
        BadInput: the source lists no image, or one path twice.
    """
    listed = list(source)
    if not listed:
        raise BadInput(f"no images in {source.spec}: files with an image's suffix are expected")
    twice = len(listed) - len({one.path for one in listed})
    if twice:
        raise BadInput(f"{source.spec} lists {twice} paths twice; a path names one image")
    rows = []
    with ThreadPoolExecutor(threads, thread_name_prefix="hash") as pool:
        # In chunks: a map over all would hold a future for every image of the set.
        for chunk in _chunks(iter(listed)):
            parts = [chunk[start : start + PART] for start in range(0, len(chunk), PART)]
            for part in pool.map(lambda part: [_hashed(source, one) for one in part], parts):
                rows += part
            progress("list", len(rows), len(listed))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _chunks(items: Iterator[Listed]) -> Iterator[list[Listed]]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def _hashed(source: ImageSource, one: Listed) -> tuple[str, str, str | None, int, str, str]:
    try:
        data = source.read(one.path)
    except BadImage as error:
        return "", one.path, one.label, 0, error.state, error.reason
    return image_id(data), one.path, one.label, len(data), "ok", ""
