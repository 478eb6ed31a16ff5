"""What a retraining starts from, as the command line and `alike.retrain` name it."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from alike.extract.networks import Network
    from alike.extract.store import Store

Labelled = list[tuple[str, str | None]]
"""Path and label of images; None for one without a label, which retraining leaves out and says."""
Sides = tuple[Labelled, Labelled, Labelled]
"""Images to train on, held out, and for validation."""


def training_images(
    stored: "tuple[str | Path | Store | None, str | None, float | None]",
    listed: tuple[str | None, str | None, str | None],
) -> tuple["Network", Sides, Any]:
    """The network, its images by side, and how to read one."""
    from alike.extract.errors import BadInput

    store, features, share = stored
    images, network, weights = listed
    if (store is None) == (images is None):
        raise BadInput("give either --store URL, or --images DIR with --network NAME")
    if store is not None:
        return _from_store(store, features, share, (network, weights))
    if network is None or images is None:
        raise BadInput(f"--images {images} needs --network NAME too")
    return _from_images(images, network, weights or "none", 0.5 if share is None else share)


def _from_store(
    store: "str | Path | Store",
    key: str | None,
    share: float | None,
    other: tuple[str | None, str | None],
) -> tuple["Network", Sides, Any]:
    from alike.extract.errors import BadInput
    from alike.extract.images import open_source
    from alike.extract.networks import Extraction, Transform, load_network, network_of
    from alike.extract.store import Store

    opened = store if isinstance(store, Store) else Store.open(store)
    features = opened.features(key)
    spec, options = opened.source()
    _keep_apart(opened, share)
    sides = features.table()
    if not (sides["split"] == "train").any():
        raise BadInput(
            f"store {opened.url} has no images to train on: give --train-share 0.5, "
            "or extract with --train-share"
        )
    listed = _by_side(sides, sides["split"].to_numpy())
    to_train_on = (sides["split"] == "train") & sides["label"].notna()
    opened.mark_trained(sides[to_train_on]["image_id"])
    name, weights = other
    extraction = Extraction.from_dict(features.attrs)
    if name:
        start = load_network(name, weights or "none")
    elif weights:
        start = load_network(
            extraction.network,
            weights,
            args=extraction.args,
            transform=Transform.from_dict(extraction.transform),
            seed=extraction.seed,
        )
    else:
        start = network_of(extraction)
    return start, listed, open_source(spec, **options).read


def _keep_apart(store: "Store", share: float | None) -> None:
    """Make the split the store's own, so that every later judgement is of the held-out images."""
    from alike.extract.errors import BadInput

    present = store.split().train_share
    if share is None or share == present:
        return
    if present > 0:
        raise BadInput(
            f"--train-share {share}: the store keeps {1 - present:g} of its images held out, and "
            f"stays so; leave the option out, or extract into another store"
        )
    store.set_split(share)


def _from_images(
    images: str, network: str, weights: str, share: float
) -> tuple["Network", Sides, Any]:
    import numpy as np

    from alike.extract.images import list_source, open_source, splits_of
    from alike.extract.networks import load_network

    source = open_source(images)
    table = list_source(source)
    there = (table["state"] == "ok").to_numpy()
    # What cannot be read is given to the training, which leaves it out and says so.
    sides = np.full(len(table), "train", dtype=object)
    sides[there] = splits_of(table["image_id"][there], share)
    return load_network(network, weights), _by_side(table, sides), source.read


def _by_side(table: "pd.DataFrame", sides: "np.ndarray") -> Sides:
    train, held_out, validation = (
        [
            (path, None if missing else label)
            for path, label, missing in zip(
                part["path"], part["label"], part["label"].isna(), strict=True
            )
        ]
        for part in (table[sides == side] for side in ("train", "held_out", "validation"))
    )
    return train, held_out, validation
