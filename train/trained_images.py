"""Which images a network was trained on, as the run that wrote its weights left it beside them.

Every extraction and analysis asks, so nothing here loads what trains.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from alike.extract.documents import TEXT, read_table
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.networks import read_checkpoint

TRAIN_IMAGES = "train_images.parquet"


@dataclass(frozen=True)
class LabelledImage:
    """One image of a training set.

    Attributes:
        path: where `read` finds it.
        label: name of its class.
        image_id: SHA-256 of its bytes, hexadecimal.
    """

    path: str
    label: str
    image_id: str


def snapshot_hash(images: Sequence[LabelledImage]) -> str:
    """SHA-256 of the sorted ids and labels of a set: the same whatever order or names it has."""
    rows = sorted(f"{image.image_id} {image.label}" for image in images)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def trained_images(weights: str | Path) -> pd.DataFrame:
    """All images that a network was trained on, by the run that wrote it and by earlier ones.

    The list lies beside the weights, which hold its hashes: a run's folder proves by itself,
    wherever it is and whatever became of the folders that it goes back to, what its network saw.

    Args:
        weights: a ``weights.safetensors`` of a run, any other weights file, or no file.

    Returns:
        image_id, path, label, train_ids_hash (of the run); empty for weights that no run of ours
        wrote.

    Raises:
        BadInput: it is not known: the weights are gone, or the list is gone or another.
    """
    none = pd.DataFrame(columns=["image_id", "path", "label", "train_ids_hash"], dtype=object)
    at = Path(weights)
    if not at.is_file():
        if not at.is_absolute():
            return none
        raise BadInput(f"{at} is gone: it is not known what it was trained on; bring it back")
    metadata = read_checkpoint(at).metadata if at.suffix == ".safetensors" else {}
    if "train_ids_hash" not in metadata:
        return none
    listing = at.parent / TRAIN_IMAGES
    if not listing.is_file():
        raise BadInput(
            f"{listing} is gone: it is not known what {at} was trained on; bring it back, "
            "or the run's folder as a whole"
        )
    if metadata.get("earlier_ids_hashes") is None:
        raise BadInput(
            f"{at} was trained from weights whose own list of images was gone: it is not known "
            "what they were trained on; retrain from weights whose list is there"
        )
    columns = dict.fromkeys(none.columns, TEXT)
    try:
        table, _ = read_table(listing.read_bytes(), str(listing), "bring it back", columns)
    except StoreDamaged as error:
        raise BadInput(
            f"{error}, or the run's folder as a whole: it is not known what {at} was trained on"
        ) from error
    wanted = {metadata["train_ids_hash"], *metadata["earlier_ids_hashes"]}
    parts = table.groupby("train_ids_hash")
    if {name for name, part in parts if _hash_of(part) == name} != wanted:
        raise BadInput(
            f"{listing} is not the list that {at} was written with: it is not known what it was "
            "trained on; bring the right one back"
        )
    return table


def _hash_of(table: pd.DataFrame) -> str:
    columns = (table[name] for name in ("path", "label", "image_id"))
    return snapshot_hash([LabelledImage(*row) for row in zip(*columns, strict=True)])
