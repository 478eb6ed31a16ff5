"""What a retraining starts from, as the command line and `alike.retrain` name it."""

from collections.abc import Mapping
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
    *,
    chosen: Mapping[str, Any] | None = None,
    size: tuple[str | None, int | None] = (None, None),
    where: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> tuple["Network", Sides, Any]:
    """The network, its images by side, and how to read one.

    Args:
        stored: store, key of the extraction, share of images for training.
        listed: images, network, weights.
        chosen: what `network_options` gave, of a network or weights that are named.
        size: resize and crop of them.
        where: only these images.
        options: of the source `images`.

    Raises:
        BadInput: neither or both of store and images, or options that nothing here takes.
    """
    from alike.extract.errors import BadInput
    from alike.flows.extracting import named_network

    store, features, share = stored
    images, network, weights = listed
    if (store is None) == (images is None):
        raise BadInput("give either --store URL, or --images DIR with --network NAME")
    if store is not None:
        if options:
            raise BadInput(f"{', '.join(options)} belong to --images: a store knows its source")
        if (chosen or any(size)) and not (network or weights):
            raise BadInput("options of a network need --network or --weights beside --store")
        return _from_store(store, features, share, (network, weights), (chosen, size), where)
    if network is None or images is None:
        raise BadInput(f"--images {images} needs --network NAME too")
    loaded = named_network(network, "none" if weights is None else weights, chosen, size)
    given = {**(options or {}), **({"where": where} if where else {})}
    return _from_images(images, loaded, given, 0.5 if share is None else share)


def _from_store(
    store: "str | Path | Store",
    key: str | None,
    share: float | None,
    other: tuple[str | None, str | None],
    how: tuple[Mapping[str, Any] | None, tuple[str | None, int | None]],
    where: str | None,
) -> tuple["Network", Sides, Any]:
    from alike.extract.errors import BadInput
    from alike.extract.images import open_source
    from alike.extract.networks import Extraction, Transform, network_of
    from alike.extract.store import Store
    from alike.flows.extracting import named_network

    opened = store if isinstance(store, Store) else Store.open(store)
    features = opened.features(key).only(where)
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
        start = named_network(name, "none" if weights is None else weights, *how)
    elif weights:
        chosen, size = how
        like = {
            "args": extraction.args,
            "transform": Transform.from_dict(extraction.transform),
            "output": extraction.output,
        }
        start = named_network(
            extraction.network, weights, {**like, **(chosen or {})}, size, extraction.seed
        )
    else:
        start = network_of(extraction)
    return start, listed, open_source(spec, **options).read


def _keep_apart(store: "Store", share: float | None) -> None:
    """Make the split the store's own, so that every later evaluation is of the held-out images."""
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
    images: str, network: "Network", options: Mapping[str, Any], share: float
) -> tuple["Network", Sides, Any]:
    import numpy as np

    from alike.extract.images import list_source, open_source, splits_of

    source = open_source(images, **options)
    table = list_source(source)
    there = (table["state"] == "ok").to_numpy()
    # What cannot be read is given to the training, which leaves it out and says so.
    sides = np.full(len(table), "train", dtype=object)
    sides[there] = splits_of(table["image_id"][there], share)
    return network, _by_side(table, sides), source.read


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
