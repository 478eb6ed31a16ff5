"""Tags: words that people give to images. They belong to an image's bytes, and change no label."""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import pandas as pd

from alike.extract.documents import TEXT
from alike.extract.errors import BadInput
from alike.extract.store.locks import require_writable

if TYPE_CHECKING:
    from alike.extract.store.base import StoreBase

TAGS = "tags/tags.parquet"
_COLUMNS = {"image_id": TEXT, "tag": TEXT}
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,63}")


def read_tags(store: "StoreBase") -> pd.DataFrame:
    """Give image_id, tag of every tag of every image, in this order.

    Raises:
        StoreDamaged: the table is not what was written.
    """
    try:
        return store.read_table(TAGS, _COLUMNS)[0]
    except FileNotFoundError:
        return pd.DataFrame({"image_id": pd.Series(dtype="str"), "tag": pd.Series(dtype="str")})


def change_tags(
    store: "StoreBase", image_ids: Iterable[str], tag: str, *, present: bool
) -> pd.DataFrame:
    """Give images a tag, or take it from them; the tags of others stay.

    Args:
        store: whose images are tagged.
        image_ids: SHA-256 of the images.
        tag: a word of up to 64 letters of ASCII, digits and `_.:-`.
        present: whether the images have it afterwards.

    Returns:
        The table, as `read_tags` gives it.

    Raises:
        BadInput: no such word, or a store that cannot be written.
    """
    if not _TAG.fullmatch(tag):
        raise BadInput(f"tag {tag[:80]!r}: up to 64 of a-z, A-Z, 0-9, _ . : - are expected")
    require_writable(store.files)
    changed = pd.DataFrame({"image_id": sorted(set(image_ids))}, dtype="str").assign(tag=tag)
    with store.brief_lock("tags"):
        before = read_tags(store)
        others = before[(before["tag"] != tag) | ~before["image_id"].isin(changed["image_id"])]
        parts = [others, changed] if present else [others]
        table = pd.concat(parts).sort_values(["image_id", "tag"], kind="stable")
        table = table.astype("str").reset_index(drop=True)
        if not table.equals(before):
            store.write_table(TAGS, table)
    return table


def forget_tags(store: "StoreBase", image_ids: Iterable[str]) -> None:
    """Delete the tags of images."""
    with store.brief_lock("tags"):
        before = read_tags(store)
        gone = before["image_id"].isin(list(image_ids))
        if gone.any():
            store.write_table(TAGS, before[~gone].reset_index(drop=True))
