"""Maps of a set of images: made once, kept in the store, the same for report, page and export.

A map is for the eyes: no score is ever computed on one.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from alike.analysis.maps.projections import SAMPLE, pca, tsne
from alike.extract.embedding import MapBlocks, embed_blocks
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.identity import seal_of
from alike.extract.measures import find_measure, ready_measure
from alike.extract.progress import Progress, silent

BEFORE_TSNE = 50
BLOCK = 8192
BY_ID = 1 << 16
"""Up to so many images are read in the order of their ids, not as they lie in the store."""
HOW = frozenset({"perplexity", "sample", "seed"})
"""Settings of t-SNE that change the picture and not what is pictured."""
MOST_SEEDS = 1 << 32
"""Of openTSNE, which takes seeds of 32 bits."""


@dataclass(frozen=True)
class MapSettings:
    """What a map depends on, besides the features.

    Attributes:
        measure: whose vectors are mapped.
        split: `held_out`, `train` or `all`.
        perplexity: of t-SNE: about how many neighbours count.
        sample: above so many images t-SNE is fitted on a random sample and places the rest.
        seed: of everything random, from 0 to 2^32 - 1.
    """

    measure: str = "gap_cosine"
    split: str = "held_out"
    perplexity: float = 30.0
    sample: int = SAMPLE
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.seed < MOST_SEEDS:
            raise BadInput(f"seed {self.seed}: expected a whole number from 0 to {MOST_SEEDS - 1}")


def find_map(
    features: Any,
    settings: MapSettings = MapSettings(),
    *,
    like: pd.DataFrame | None = None,
    however: bool = False,
) -> pd.DataFrame | None:
    """The stored map of exactly these features, images and settings; None where there is none.

    Args:
        features: the features of one extraction.
        settings: which images and how.
        like: the map that it started from.
        however: whatever its perplexity, sample and seed: as `alike map` was last asked to.
    """
    place, inputs = _asked(features, settings, like)
    if however:
        inputs = {key: value for key, value in inputs.items() if key not in HOW}
    return _stored(features.store, place, inputs)


def make_map(
    features: Any,
    settings: MapSettings = MapSettings(),
    *,
    like: pd.DataFrame | None = None,
    map_blocks: MapBlocks = map,
    progress: Progress = silent,
) -> pd.DataFrame:
    """The map of a set of images, from the store where nothing changed, else made and stored.

    Args:
        features: the features of one extraction.
        settings: which images and how.
        like: another map of the same images; t-SNE starts from it, so that the two look alike
            where the features are.
        map_blocks: embeds blocks of rows: `map`, or the like of it on workers.
        progress: told how far it is.

    Returns:
        row, pca_x, pca_y, tsne_x, tsne_y (float32), fitted (whether t-SNE was fitted on the row);
        its `attrs` hold the settings, the share of variance that PCA shows, and how many images of
        the split are `left_out`: they have no value of an array that the measure reads.

    Raises:
        BadInput: no image in this split, a measure without its array, too many dimensions.
    """
    place, inputs = _asked(features, settings, like)
    stored = _stored(features.store, place, inputs)
    if stored is not None:
        return stored
    features.store.require_writable(place)
    ready = ready_measure(features, settings.measure)
    rows = _rows(features, settings)
    # In the order of ids even the rounding of sums is that of any store of these images; t-SNE
    # makes any difference large. A large set is read as it lies.
    read = rows if len(rows) <= BY_ID else np.sort(rows)

    def blocks() -> Iterator[np.ndarray]:
        done = 0
        for block in embed_blocks(features, ready, read, BLOCK, map_blocks):
            yield block
            done += len(block)
            progress("map: PCA", done, len(read))

    components = pca(blocks(), BEFORE_TSNE)
    short = np.concatenate([components.project(block).astype(np.float32) for block in blocks()])
    if read is not rows:
        short = short[np.searchsorted(read, rows)]
    flat = short[:, :2] if short.shape[1] > 1 else np.column_stack([short, 0 * short])
    places, fitted = tsne(
        short,
        _start(rows, flat, like),
        perplexity=settings.perplexity,
        sample=settings.sample,
        seed=settings.seed,
        progress=progress,
    )
    table = pd.DataFrame(
        {
            "row": rows, "pca_x": flat[:, 0], "pca_y": flat[:, 1],
            "tsne_x": places[:, 0], "tsne_y": places[:, 1], "fitted": fitted,
        }
    )  # fmt: skip
    table = table.sort_values("row", ignore_index=True)
    explained = [round(float(x), 6) for x in components.explained[:2]]
    left_out = len(features.table(settings.split)) - len(rows)
    table.attrs = {**inputs, "explained": explained, "left_out": left_out}
    features.store.write_table(place, table, table.attrs)
    return table


def _rows(features: Any, settings: MapSettings) -> np.ndarray:
    """Rows of the split that have what the measure reads, in the order of their images' ids."""
    split, measure = settings.split, find_measure(settings.measure)
    taps = measure.taps if measure and set(measure.taps) <= set(features.arrays) else None
    table = features.table(split, names=taps)
    if table.empty:
        of = f" and {features.where}" if features.where else ""
        raise BadInput(f"{features.key} has no image in split {split!r}{of}; choose another.")
    return np.asarray(table.sort_values("image_id")["row"], dtype=np.int64)


def _asked(
    features: Any, settings: MapSettings, like: pd.DataFrame | None
) -> tuple[str, dict[str, Any]]:
    """Where a map is stored, and everything that it depends on."""
    inputs = {
        **asdict(settings),
        **({"where": features.where} if features.where else {}),
        "digest": features.digest,
        "rows": hash_of(_rows(features, settings)),
        "like": None if like is None else hash_of(like.to_numpy(np.float32, copy=True)),
    }
    measure = find_measure(settings.measure)
    if measure is not None and measure.needs_fit:
        # Its vectors change with the labels of the images that it is fitted on.
        train = features.table("train", names=measure.taps).sort_values("image_id")
        inputs["fitted_on"] = seal_of(train[["image_id", "label"]].astype(str).to_numpy().tolist())
    # A map of some images stands beside that of all, which the report shows.
    some = f".{hash_of(np.frombuffer(features.where.encode(), np.uint8))[:8]}"
    part = some if features.where else ""
    name = f"{settings.measure}.{settings.split}{part}{'' if like is None else '.like'}"
    return f"maps/{features.key}/{name}.parquet", inputs


def _start(rows: np.ndarray, flat: np.ndarray, like: pd.DataFrame | None) -> np.ndarray:
    if like is None:
        return flat
    other = like.set_index("row")[["tsne_x", "tsne_y"]].reindex(rows).to_numpy(float)
    shared = np.isfinite(other).all(axis=1)
    if not shared.any():
        return flat
    # Rows that the other map lacks begin in its middle.
    start: np.ndarray = np.where(shared[:, None], other, other[shared].mean(axis=0))
    return start


def _stored(store: Any, place: str, inputs: dict[str, Any]) -> pd.DataFrame | None:
    try:
        table, attrs = store.read_table(place)
    # A damaged one is made again, too: nothing is lost with it.
    except (FileNotFoundError, StoreDamaged):
        return None
    if any(attrs.get(key) != value for key, value in inputs.items()):
        return None
    frame = pd.DataFrame(table)
    frame.attrs = attrs
    return frame


def hash_of(values: np.ndarray) -> str:
    """Twelve hexadecimal digits that change with any value."""
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:12]
