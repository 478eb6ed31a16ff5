"""A settings file is checked whole before anything runs: a typing error costs no night."""

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from alike.extract.errors import AlikeError, BadInput, NoStore
from alike.extract.secrets import masked
from alike.flows.settings import Pipeline, read_pipeline
from alike.flows.steps import load_one, source_of, taps_of

if TYPE_CHECKING:
    from alike.extract.networks import Network

REFUSED = 2
"""Status of a process that found a fault of the settings."""


def check(pipeline: Pipeline) -> None:
    """Refuse names that do not exist, and a store or an image set that cannot be opened.

    Raises:
        BadInput: the first fault found.
    """
    from alike.analysis.explain import explainer
    from alike.analysis.people import check_answers
    from alike.extract.measures import measure_named
    from alike.extract.store import Store

    with suppress(NoStore):
        Store.open(pipeline.store_place)
    for name in (pipeline.index.measure, pipeline.trigger_measure, *pipeline.analyse.measures):
        measure_named(name)
    if pipeline.analyse.human is not None:
        check_answers(pipeline.analyse.human)
    for name in pipeline.explain.methods:
        explainer(name)
    _check_retrain(pipeline)
    for number, one in enumerate(pipeline.networks, start=1):
        weights_file = one.weights.endswith((".pth", ".pt", ".th", ".safetensors", ".bin"))
        if weights_file and not Path(one.weights).is_file():
            place = "network" if number == 1 else f"network {number}"
            raise BadInput(f"{place}.weights = {one.weights!r}: no such file")
    source = source_of(pipeline)
    _check_networks(pipeline)
    labels = {item.label for item in source}
    if not labels:
        raise BadInput(f"{pipeline.images.source} holds no images: one folder per class expected")
    classes = len(labels - {None})
    if classes < 2:
        held = "images of 1 class" if classes else "images without a class"
        raise BadInput(
            f"{pipeline.images.source} holds {held}, expected two classes or more, "
            "for same-class pairs are compared with different-class pairs: one folder per class"
        )


def _check_networks(pipeline: Pipeline) -> None:
    """Refuse a tap that a network does not have, and networks that give the same features."""
    from alike.extract.forward import choose_device, choose_precision

    precision = choose_precision(pipeline.extract.precision, choose_device(pipeline.extract.device))
    keys: list[str] = []
    for settings in pipeline.networks:
        network, taps = load_one(settings, settings.weights), taps_of(pipeline, settings)
        _check_taps(network, taps)
        keys.append(network.extraction((), precision).key)
        before = keys.index(keys[-1]) + 1
        if before < len(keys):
            raise BadInput(
                f"network {len(keys)} gives the features of network {before}, {keys[-1]}: leave "
                "it out; further arrays of one network are its taps"
            )


def _check_taps(network: "Network", names: Sequence[str]) -> None:
    """Refuse a tap that the network does not have, by a pass of one empty frame."""
    from alike.extract.networks import choose_taps, taps_at

    side = network.transform.resize
    size = network.transform.size or ((side, side) if isinstance(side, int) else None)
    if size is not None:  # else it depends on the images, and extraction says it
        names = network.tap_names(names)
        choose_taps(taps_at(network.module, size, names), names)


def _check_retrain(pipeline: Pipeline) -> None:
    if pipeline.retrain is None:
        return
    from alike.analysis.scores import SCORES
    from alike.train.augment import augmentation_named
    from alike.train.losses import loss_named

    loss_named(pipeline.retrain.loss)
    augmentation_named(pipeline.retrain.train_settings().augment, (1, 1))
    score = pipeline.retrain.rules.condition.score
    if score not in SCORES:
        raise BadInput(
            f"retrain.when = {pipeline.retrain.when!r}: no score {score!r}; expected one of "
            f"{', '.join(SCORES)}"
        )


def main() -> None:
    """Check the settings file that is named; the fault goes to standard output."""
    try:
        check(read_pipeline(Path(sys.argv[1])))
    except AlikeError as error:
        sys.stdout.write(masked(" ".join(str(error).split())))
        sys.exit(REFUSED if isinstance(error, BadInput) else 1)


if __name__ == "__main__":
    main()
