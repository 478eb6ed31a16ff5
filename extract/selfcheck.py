"""Does the network know these images? Top-1 where classes match, and a look at preprocessing."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch

from alike.extract.class_names import match_classes, stored_top1
from alike.extract.errors import BadImage
from alike.extract.images import ImageSource, decode
from alike.extract.networks import Network, Transform, first_tensor

if TYPE_CHECKING:
    from alike.extract.store import Features

GOOD_ENOUGH = 0.6
MOVED = 0.05
SAMPLE = (16, 64)
SIGMAS = 3.0
OTHER_INPUTS: Mapping[str, Callable[[Transform, torch.Tensor], torch.Tensor]] = {
    "channels in the order blue, green, red": lambda t, x: t.normalise(x.flip(1)),
    "values in [0, 1] without mean and std": lambda _, x: x.float() / 255,
    "values in [0, 255] without mean and std": lambda _, x: x.float(),
    "values in [-1, 1]": lambda _, x: x.float() / 127.5 - 1,
    "the mean and std of ImageNet": lambda _, x: Transform().normalise(x),
}
"""Mistakes that were made for months without a word (DESIGN 11.7): another input of the frames."""


def self_check(
    source: ImageSource, network: Network, features: "Features", table: pd.DataFrame, fresh: bool
) -> tuple[float | None, str | None]:
    """Top-1 of all stored images, and a warning where the preprocessing looks wrong.

    The warning is kept in the group's attribute ``self_check``, so that a few new images do not pay
    for it again: it is asked anew when the set has doubled or top-1 moved by `MOVED`.

    Args:
        source: of the images.
        network: that made the features.
        features: of all images.
        table: row, path and label of usable images.
        fresh: whether images were computed; without any, what is known is given.
    """
    top1 = stored_top1(features, network.class_names, table)
    known = {"images": 0, "top1": 0.0, "warning": None, **features.attrs.get("self_check", {})}
    if top1 is None or top1 >= GOOD_ENOUGH:
        if known["warning"]:
            _keep(features, {**known, "warning": None})
        return top1, None
    moved = abs(known["top1"] - top1) > MOVED
    if fresh and (moved or len(table) >= 2 * known["images"]):
        warning = preprocessing_warning(source, network, table, top1)
        known = {"images": len(table), "top1": top1, "warning": warning}
        _keep(features, known)
    return top1, known["warning"]


def _keep(features: "Features", known: Mapping[str, object]) -> None:
    features.store.create_features({**features.attrs, "self_check": known}, features.key, {})


def stored_warning(attrs: Mapping[str, Any]) -> str | None:
    """The warning that `self_check` kept in the attributes of a group."""
    warning: str | None = attrs.get("self_check", {}).get("warning")
    return warning


def tap_notes(attrs: Mapping[str, Any]) -> list[str]:
    """What is unusual about the taps of a group: ``name: note``."""
    return [f"{name}: {note}" for name, note in attrs.get("tap_notes", {}).items()]


def preprocessing_warning(
    source: ImageSource, network: Network, table: pd.DataFrame, top1: float | None
) -> str | None:
    """A line where another preprocessing makes the network right much more often.

    Only asked where classes match and top-1 is below `GOOD_ENOUGH`; puts a tenth of the images,
    at least and at most `SAMPLE`, through the network for each of `OTHER_INPUTS`.

    Args:
        source: of the images.
        network: with class names.
        table: row, path and label of usable images.
        top1: that was found.
    """
    index = match_classes(table["label"], network.class_names)
    if top1 is None or top1 >= GOOD_ENOUGH or index is None or network.weights == "none":
        return None
    labelled = table[table["label"].notna()]
    wanted = min(max(len(labelled) // 10, SAMPLE[0]), SAMPLE[1], len(labelled))
    drawn = labelled.sample(wanted, random_state=0)
    frames, truth = [], []
    for path, label in zip(drawn["path"], drawn["label"], strict=True):
        try:
            frames.append(network.transform.frame(decode(source.read(path))))
            truth.append(index[label])
        except BadImage:
            continue
    if not frames or len({frame.shape for frame in frames}) > 1:
        return None
    answers = torch.tensor(truth)
    batch = torch.stack(frames)
    ours = _right(network, network.transform.normalise(batch), answers)
    found = {
        name: _right(network, other(network.transform, batch), answers)
        for name, other in OTHER_INPUTS.items()
    }
    name = max(found, key=lambda key: found[key])
    # Of the images on which the two disagree, chance would give each half.
    if found[name] - ours <= SIGMAS * max(found[name] + ours, 1) ** 0.5:
        return None
    return (
        f"the preprocessing looks wrong: {ours} of {len(truth)} images right, but {found[name]} "
        f"with {name}"
    )


@torch.inference_mode()
def _right(network: Network, batch: torch.Tensor, truth: torch.Tensor) -> int:
    device = next(network.module.parameters()).device
    parts = [
        first_tensor((network.module(batch[start : start + 16].to(device)),)).cpu()
        for start in range(0, len(batch), 16)
    ]
    return int((torch.cat(parts).argmax(1) == truth).sum())
