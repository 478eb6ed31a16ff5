"""Twins of the images of a store: signatures are made, links found, sides follow."""

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from alike.extract.command import command_of
from alike.extract.errors import BadImage, StoreDamaged
from alike.extract.images import SIDES, ImageSource, decode, image_id, open_source
from alike.extract.progress import Progress, silent
from alike.extract.store import LINKS, SIDES_TABLE, UNIT, Store, StoreBase
from alike.extract.twins.hashes import NAMES
from alike.extract.twins.links import Links, find_links, flat, part_hashes
from alike.extract.twins.thumbnails import SMALLEST, thumbnail

AUTOMATIC = 50_000
"""Images of a set up to which extraction looks for twins by itself."""
_AT_ONCE = 256
Rows = Sequence[int] | np.ndarray
Signatures = list[tuple[int, np.ndarray | None]]
"""Rows and thumbnails; None of an image that is too small for one."""
MapBlocks = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""As `alike.extract.embedding.MapBlocks`."""
_TEXTS = ("path_a", "path_b", "side_a", "side_b", "how")
COLUMNS = ["row_a", "row_b", "path_a", "path_b", "side_a", "side_b", "correlation", "how"]


@dataclass(frozen=True)
class TwinSearch:
    """What a search did.

    Attributes:
        searched: images that have a signature.
        unsigned: images of the set that have none: they were extracted by an earlier version, or
            their signatures are damaged.
        links: pairs of twins among all images.
        plain: images of the set for which no twin can be seen: too small, or flat.
        images: of the set.
        left: whether the set is so large that the search is left to `alike twins`.
        command: that searches the store.
    """

    searched: int
    unsigned: int
    links: int
    plain: int = 0
    images: int = 0
    left: bool = False
    command: str = "alike twins"

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader must know."""
        if self.left:
            return (f"twins were not searched: more than {AUTOMATIC} images; run `{self.command}`",)
        notes = []
        if self.unsigned:
            notes.append(
                f"{self.unsigned} images have no signature, so their twins are not known: "
                f"`{self.command}` reads them again and computes it"
            )
        if self.plain:
            notes.append(
                f"{self.plain} of {self.images} images are smaller than {SMALLEST} pixels or flat: "
                "they are taken to have no twins"
            )
        return tuple(notes)


def search_twins(
    store: StoreBase,
    *,
    bad: Rows = (),
    threads: int = 1,
    at_most: int | None = None,
    progress: Progress = silent,
) -> TwinSearch:
    """Find the twins of images that were not searched yet, and give every component its side.

    Args:
        store: whose images.
        bad: rows of images that cannot be decoded.
        threads: to use.
        at_most: images above which nothing is searched; None for no limit.
        progress: told how far.
    """
    links, searched_rows = store.links_there()
    if at_most is not None and store.n_rows > at_most:
        store.assign_sides()
        return TwinSearch(
            len(searched_rows), len(unsigned_rows(store, bad)), len(links), left=True,
            command=command_of("twins", store),
        )  # fmt: skip
    already_plain = store.plain_rows()
    if len(np.setdiff1d(_signed_rows(store), searched_rows)) or (
        already_plain is None and len(searched_rows)
    ):
        every, rows, thumbnails, hashes = store.signatures.read()
        # What was searched and cannot be read any more is signed and searched anew.
        searched_rows = np.intersect1d(searched_rows, every)
        new = np.flatnonzero(~np.isin(rows, searched_rows))
        fresh = new if already_plain is not None else np.arange(len(rows))
        featureless = np.union1d(rows[fresh[flat(thumbnails[fresh])]], np.setdiff1d(every, rows))
        if already_plain is not None:
            featureless = np.union1d(featureless, already_plain)
        pairs = find_links(
            thumbnails, hashes, new, threads=threads,
            progress=lambda done, of: progress("twins", done, of),
        )  # fmt: skip
        links = pd.concat([links, _table(pairs, rows)], ignore_index=True)
        links = links.drop_duplicates(["row_a", "row_b"], ignore_index=True)
        # Small images too: they were looked at, and have no thumbnail to compare.
        searched_rows = np.unique(np.concatenate([searched_rows, every]))
        store.keep_links(links, searched_rows, featureless)
    store.assign_sides()
    rows, plain_rows = _set_rows(store), store.plain_rows()
    plain = 0 if plain_rows is None else int(np.isin(rows, plain_rows).sum())
    return TwinSearch(
        len(searched_rows), len(unsigned_rows(store, bad)), len(links), plain, len(rows),
        command=command_of("twins", store),
    )  # fmt: skip


def mend_twins(
    store: StoreBase, error: StoreDamaged, *, threads: int = 1, progress: Progress = silent
) -> str:
    """Make links and sides again that cannot be read, from signatures and hashes of images.

    On which side images stood first is known no more: a component stands where its first image
    stands by its hash, and on `train` if one of its images was trained on.

    Args:
        store: that can be written.
        error: what was damaged.
        threads: to use.
        progress: told how far.

    Returns:
        A line that says what was damaged; empty if it is something else, or if the set is so large
        that `alike twins` must search it.
    """
    if error.file not in (LINKS, SIDES_TABLE) or (error.file == LINKS and store.n_rows > AUTOMATIC):
        return ""
    faults = store.remove_damaged_twins()
    search_twins(store, threads=threads, at_most=AUTOMATIC, progress=progress)
    return mended_twins(faults) if faults else ""


def mended_twins(faults: Sequence[str]) -> str:
    """The line on files of twins that were damaged and made again."""
    sides = any(fault.startswith(SIDES_TABLE) for fault in faults)
    moved = "; images with twins may stand on another side than before" if sides else ""
    return f"twins were damaged: {', '.join(faults)}; they were computed again{moved}"


def _table(links: Links, rows: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "row_a": rows[links.first],
            "row_b": rows[links.second],
            "correlation": links.correlation,
            "symmetry": links.symmetry,
        }
    )


def unsigned_rows(store: StoreBase, bad: Rows = ()) -> np.ndarray:
    """Rows of the set whose images have no signature, ascending.

    Args:
        store: whose images.
        bad: rows of images that cannot be decoded, and so have none.
    """
    unsigned = np.setdiff1d(_set_rows(store), _signed_rows(store))
    return np.setdiff1d(unsigned, np.asarray(bad, dtype=np.int64))


def _set_rows(store: StoreBase) -> np.ndarray:
    rows = np.unique(store.images()["row"].to_numpy())
    return rows[rows >= 0]


def _signed_rows(store: StoreBase) -> np.ndarray:
    """Rows that have a signature; of units that were searched whole, no file is read."""
    searched_rows = store.links_there()[1]
    units = set(np.unique(np.setdiff1d(_set_rows(store), searched_rows) // UNIT).tolist())
    there = store.signatures.units()
    lost = searched_rows[~np.isin(searched_rows // UNIT, there)]
    read = [store.signatures.rows(unit) for unit in there if unit in units]
    return np.setdiff1d(np.concatenate([searched_rows, *read]), lost)


@dataclass(frozen=True)
class Signing:
    """Thumbnails of images; it travels to a worker by the description of their source.

    Attributes:
        source: where they are read.
        threads: that read and decode.
    """

    source: ImageSource
    threads: int = 1

    def __call__(self, images: Sequence[tuple[int, str, str]]) -> Signatures:
        """Rows and their thumbnails, of (row, path, image id); what cannot be read is left out."""
        with ThreadPoolExecutor(max(self.threads, 1)) as pool:
            return [one for one in pool.map(self._sign, images) if one is not None]

    def _sign(self, image: tuple[int, str, str]) -> tuple[int, np.ndarray | None] | None:
        row, path, wanted = image
        try:
            data = self.source.read(path)
            return (row, thumbnail(decode(data))) if image_id(data) == wanted else None
        except (BadImage, OSError):
            return None

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without the source's open files."""
        return _opened_again, (self.source.spec, self.source.options)


def _opened_again(spec: str, options: dict[str, Any]) -> Signing:
    return Signing(open_source(spec, **options))


def sign_images(
    store: Store,
    *,
    threads: int = 1,
    progress: Progress = silent,
    map_blocks: MapBlocks = map,
) -> int:
    """Read the images that have no signature and compute it; gives how many.

    An image that cannot be read, or has changed, stays without.

    Args:
        store: whose images.
        threads: that read and decode, if nothing else maps.
        progress: told how far.
        map_blocks: computes blocks of images, here or on workers.

    Raises:
        BadInput: the store does not know its source, or the source is gone.
    """
    missing = unsigned_rows(store)
    if not len(missing):
        return 0
    spec, options = store.source()
    signing = Signing(open_source(spec, **options), threads)
    view = store.images().drop_duplicates("row").set_index("row").loc[missing]
    images = list(zip(missing.tolist(), view["path"], view["image_id"], strict=True))
    blocks = [images[low : low + _AT_ONCE] for low in range(0, len(images), _AT_ONCE)]
    n_done = n_seen = 0
    for block, signed in zip(blocks, map_blocks(signing, blocks), strict=True):
        keep_signatures(store, dict(signed))
        n_done += len(signed)
        n_seen += len(block)
        progress("sign", n_seen, len(missing))
    return n_done


def keep_signatures(store: StoreBase, thumbnails: dict[int, np.ndarray | None]) -> None:
    """Store thumbnails of rows (None: the image is too small for one) with their hashes."""
    if not thumbnails:
        return
    blank = np.zeros((64, 64), dtype=np.uint8)
    stack = np.stack([blank if one is None else one for one in thumbnails.values()])
    store.sign(thumbnails, part_hashes(stack))


def twin_table(store: StoreBase) -> pd.DataFrame:
    """The pairs of twins among the images of the set, with the sides on which they stand.

    Returns:
        row_a, row_b, path_a, path_b, side_a, side_b, correlation (NaN for a pair of one group),
        how (of `NAMES`, or `group`). A group is a chain of pairs, not all of its pairs.
    """
    links, groups = store.links()[0], store.image_groups()
    groups = groups.sort_values(["group", "row"])
    follows = groups["group"].to_numpy()[1:] == groups["group"].to_numpy()[:-1]
    chains = pd.DataFrame(
        {
            "row_a": groups["row"].to_numpy()[:-1][follows],
            "row_b": groups["row"].to_numpy()[1:][follows],
        }
    )
    pairs = pd.concat([links, chains], ignore_index=True)
    pairs["how"] = [
        "group" if np.isnan(one) else NAMES[int(one)] for one in pairs["symmetry"].astype(float)
    ]
    view = store.images()
    view = view[view["row"] >= 0].drop_duplicates("row").set_index("row")
    pairs = pairs[pairs["row_a"].isin(view.index) & pairs["row_b"].isin(view.index)]
    pairs = pairs.sort_values(["row_a", "row_b"]).reset_index(drop=True)
    for end in ("a", "b"):
        rows = pairs[f"row_{end}"].to_numpy(dtype=np.int64)
        pairs[f"path_{end}"] = view["path"].reindex(rows).to_numpy()
        ids = view["image_id"].reindex(rows).to_numpy()
        pairs[f"side_{end}"] = store.sides(rows, ids)
    # Of no pairs too: an empty column of texts has no type of its own.
    return pairs[COLUMNS].astype(dict.fromkeys(_TEXTS, "str"))


def within_and_across(pairs: pd.DataFrame, sides: Sequence[str] = SIDES) -> dict[str, int]:
    """Count pairs of `twin_table` within each side, and across two sides: `train/held_out`."""
    counts: dict[str, int] = {}
    for a, b in zip(pairs["side_a"], pairs["side_b"], strict=True):
        first, second = sorted((a, b), key=list(sides).index)
        name = first if first == second else f"{first}/{second}"
        counts[name] = counts.get(name, 0) + 1
    return counts
