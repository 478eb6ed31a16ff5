"""Extraction as it is asked for by name: the command line and `alike.extract_images`."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from alike.extract.pipeline import ExtractionReport
    from alike.extract.store import Store


def extract_images(
    source: str,
    network: str,
    store: "str | Path | Store",
    *,
    weights: str | None,
    taps: Sequence[str],
    settings: Mapping[str, Any],
    size: tuple[str | None, int | None] = (None, None),
    chosen: Mapping[str, Any] | None = None,
    source_options: Mapping[str, Any] | None = None,
    split: tuple[float | None, float | None] = (None, None),
    group: str | None = None,
    twins: "Literal['together', 'ignore'] | None" = None,
    seed: int = 0,
    cluster: str | int | None = None,
) -> "ExtractionReport":
    """Compute the features of images that have none yet, and store them.

    The arguments are those of `alike.extract_images`. Some hold several of them: `settings` those
    that `extract` takes (device, precision, batch_size, threads, bad_share, progress), `size` its
    resize and crop, `split` its train_share and validation_share, `chosen` those that
    `network_options` gives.

    Returns:
        What was done, with the notes that a reader of the scores must know.
    """
    from alike.extract.images import open_source
    from alike.extract.store import Store
    from alike.flows.trained_images import held_out_notes, keep_trained

    groups = {"group": group} if group else {}
    images = open_source(source, **(source_options or {}), **groups)
    loaded = named_network(
        network, default_weights(network) if weights is None else weights, chosen, size, seed
    )
    opened = store if isinstance(store, Store) else Store.open(store, create=True)
    train_share, validation_share = split
    if train_share is not None or validation_share is not None:
        before = opened.split()
        share = before.train_share if train_share is None else train_share
        opened.set_split(share, before.salt, validation_share)
    if twins is not None:
        opened.set_twins(twins)
    report = _run(images, loaded, opened, {"taps": tuple(taps), **settings}, cluster)
    keep_trained(opened.features(report.key))
    return replace(report, notes=(*report.notes, *held_out_notes(opened.features(report.key))))


def _run(
    images: Any, network: Any, store: Any, settings: dict[str, Any], cluster: str | int | None
) -> "ExtractionReport":
    from alike.flows.cluster import place_of

    workers = place_of(cluster)
    if workers is None:
        from alike.extract.pipeline import extract

        return extract(images, network, store, **settings)
    from alike.extract.distributed import extract_distributed

    return extract_distributed(images, network, store, workers=workers, **settings)


def network_options(
    args: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    output: str = "",
    weights_key: str = "",
    weights_prefix: str | None = None,
) -> dict[str, Any]:
    """Arguments of `load_network`, as the options of every command that names a network give them.

    What is not given is left out.

    Args:
        args: of the factory.
        classes: names of the logits, in order.
        output: that holds the logits.
        weights_key: group of the weights file.
        weights_prefix: of the names to load.
    """
    given = {"args": args, "class_names": classes, "output": output, "weights_key": weights_key}
    chosen = {name: value for name, value in given.items() if value}
    return chosen if weights_prefix is None else {**chosen, "weights_prefix": weights_prefix}


def named_network(
    name: str,
    weights: str,
    chosen: Mapping[str, Any] | None = None,
    size: tuple[str | None, int | None] = (None, None),
    seed: int = 0,
) -> Any:
    """The network that options name.

    Args:
        name: of the network.
        weights: file, name of the origin's weights, or ``none``.
        chosen: what `network_options` gave.
        size: resize and crop.
        seed: of random weights.
    """
    from alike.extract.networks import load_network

    return with_size(load_network(name, weights, seed=seed, **(chosen or {})), *size)


def source_options(
    given: Mapping[str, Any] | None,
    where: str | None = None,
    label_column: str | None = None,
    first_label: bool | None = None,
) -> dict[str, Any]:
    """Options of a source, with those that have an option of the command of their own.

    Args:
        given: by name.
        where: only these images: ``subset=val`` or ``label=cat,dog``.
        label_column: column, array or JSON field of the classes.
        first_label: what to do with several labels of one image, as `LabelRule` takes it.
    """
    own = {"where": where, "label": label_column, "first_label": first_label}
    return {**(given or {}), **{name: value for name, value in own.items() if value is not None}}


def default_weights(network: str) -> str:
    """The origin's own weights; a network of the user's must say what it is loaded with.

    Raises:
        BadInput: there are no weights to fall back on.
    """
    from alike.extract.errors import BadInput

    if ".py:" in network:
        raise BadInput(f"network {network} needs --weights FILE, or --weights none for random ones")
    return "DEFAULT"


def with_size(network: Any, resize: str | None, crop: int | None) -> Any:
    """The network with another resize and crop, where given.

    Args:
        network: a `Network`.
        resize: ``none``, ``256`` (shorter side) or ``224x320`` (height x width); sets the crop too.
        crop: side of the central square, None for no crop.

    Raises:
        BadInput: not of that form, or out of range.
    """
    from alike.extract.errors import BadInput
    from alike.flows.settings import checked_transform

    if resize is None and crop is None:
        return network
    sides = [] if resize in (None, "none") else str(resize).lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise BadInput(f"--resize {resize!r}: expected none, 256 or 224x320")
    numbers = [int(side) for side in sides]
    size = None if not numbers else numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
    checked = checked_transform(resize=size, crop=crop)
    resized = network.transform.resize if resize is None else checked.resize
    return replace(network, transform=replace(network.transform, resize=resized, crop=checked.crop))
