"""A check after extraction: is the network right on these images, and would it be otherwise?"""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pandas as pd
import torch

from alike.extract.class_names import match_classes, stored_top1
from alike.extract.errors import BadImage
from alike.extract.images import ImageSource, decode
from alike.extract.networks import Network, Transform, first_tensor
from alike.extract.notes import SelfCheck
from alike.extract.store import Features

GOOD_ENOUGH = 0.6
"""Top-1 from which on the preprocessing is not questioned."""
MOVED = 0.05
"""Change of top-1 after which it is questioned again."""
SAMPLE = (16, 64)
"""Fewest and most images that the other preprocessings are tried on."""
SIGMAS = 3.0
"""Standard deviations of chance by which another preprocessing must be better."""
OTHER_INPUTS: Mapping[str, Callable[[Transform, torch.Tensor], torch.Tensor]] = {
    "channels in the order blue, green, red": lambda t, x: t.normalise(x.flip(1)),
    "values in [0, 1] without mean and std": lambda _, x: x.float() / 255,
    "values in [0, 255] without mean and std": lambda _, x: x.float(),
    "values in [-1, 1]": lambda _, x: x.float() / 127.5 - 1,
    "the mean and std of ImageNet": lambda _, x: Transform().normalise(x),
}
"""Usual mistakes of preprocessing: what the network would get from the same uint8 frames."""


def self_check(
    source: ImageSource, network: Network, features: Features, table: pd.DataFrame, fresh: bool
) -> tuple[float | None, SelfCheck]:
    """Top-1 of all stored images, and whether the preprocessing looks wrong.

    A few new images do not pay for another check: it is repeated if the set has doubled since the
    last one, or top-1 moved by `MOVED`.

    Args:
        source: of the images.
        network: that made the features.
        features: of all images, their attributes with the last check.
        table: row, path and label of usable images.
        fresh: whether images were computed; if not, the last check counts.

    Returns:
        Top-1, None if labels and classes do not match; and the check that counts now.
    """
    top1 = stored_top1(features, network.class_names, table)
    last = SelfCheck.stored(features.attrs)
    if top1 is None or top1 >= GOOD_ENOUGH:
        return top1, replace(last, warning=None)
    moved = abs(last.top1 - top1) > MOVED
    if fresh and (moved or len(table) >= 2 * last.images):
        warning = preprocessing_warning(source, network, table, top1)
        return top1, SelfCheck(len(table), top1, warning)
    return top1, last


def preprocessing_warning(
    source: ImageSource, network: Network, table: pd.DataFrame, top1: float | None
) -> str | None:
    """A line if another preprocessing makes the network right much more often.

    Only tried if classes match and top-1 is below `GOOD_ENOUGH`. A tenth of the images, between
    the two numbers of `SAMPLE`, goes through the network for each of `OTHER_INPUTS`.

    Args:
        source: of the images.
        network: with class names.
        table: row, path and label of usable images.
        top1: of the stored logits.
    """
    index = match_classes(table["label"], network.class_names)
    if top1 is None or top1 >= GOOD_ENOUGH or index is None or network.weights == "none":
        return None
    labelled = table[table["label"].notna()]
    n_sample = min(max(len(labelled) // 10, SAMPLE[0]), SAMPLE[1], len(labelled))
    sample = labelled.sample(n_sample, random_state=0)
    frames, truth = [], []
    for path, label in zip(sample["path"], sample["label"], strict=True):
        try:
            frames.append(network.transform.frame(decode(source.read(path))))
            truth.append(index[label])
        except BadImage:
            continue
    if not frames or len({frame.shape for frame in frames}) > 1:
        return None
    batch, targets = torch.stack(frames), torch.tensor(truth)
    ours = _n_right(network, network.transform.normalise(batch), targets)
    others = {
        name: _n_right(network, other(network.transform, batch), targets)
        for name, other in OTHER_INPUTS.items()
    }
    name = max(others, key=lambda key: others[key])
    # Of the images on which the two disagree, chance would give each half.
    if others[name] - ours <= SIGMAS * max(others[name] + ours, 1) ** 0.5:
        return None
    return (
        f"the preprocessing looks wrong: {ours} of {len(truth)} images right, but {others[name]} "
        f"with {name}"
    )


@torch.inference_mode()
def _n_right(network: Network, batch: torch.Tensor, targets: torch.Tensor) -> int:
    device = next(network.module.parameters()).device
    parts = [
        first_tensor((network.module(batch[start : start + 16].to(device)),)).cpu()
        for start in range(0, len(batch), 16)
    ]
    return int((torch.cat(parts).argmax(1) == targets).sum())
