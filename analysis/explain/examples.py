"""Where a network finds its evidence in a few held-out images: the same images for every network.

Set beside each other in a report, they show what retraining did to where a network looks.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import pandas as pd
import torch

from alike.analysis.explain.explain import explain_batch
from alike.analysis.explain.file_names import DIGEST, EXAMPLES, EXPLAINER
from alike.analysis.explain.inputs import network_for, turns_in_classes
from alike.analysis.explain.overlay import heat_image
from alike.analysis.explain.pair import stored_frames
from alike.extract.errors import BadInput
from alike.extract.networks import Transform
from alike.extract.panels import PanelImage, panel, png

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alike.analysis.explain.explain import Explanation
    from alike.extract.networks import Network
    from alike.extract.store import Features

METHODS = ("cam", "gradcam")


def keep_examples(
    features: "Features",
    network: "Network | None" = None,
    count: int = 6,
    *,
    split: str | None = "held_out",
) -> str:
    """Draw the class activation maps of a few images; keep the picture in the store.

    The class explained is the predicted one: that of the label would tell the network the answer.
    The picture is `explanations/<key>/examples.png`.

    Args:
        features: whose images, and whose network where none is given.
        network: from `load_network`.
        count: images, of as many classes as there are.
        split: `train`, `held_out` or None for both.

    Returns:
        The method: `cam`, `gradcam` where the head is not pooling and one linear layer, or "" where
        no image has a label, or the network has no map that could be explained.
    """
    network = network_for(features, network)
    images = example_images(features.table(split), count)
    if images.empty:
        return ""
    frames = stored_frames(features, [int(row) for row in images["row"]])
    inputs = [torch.from_numpy(frame.transpose(2, 0, 1).copy()) for frame in frames]
    for method in METHODS:
        try:
            explanations = _explained(inputs, network, method)
        except BadInput:
            continue
        pairs = [
            _panel_images(one, str(label))
            for one, label in zip(explanations, images["label"], strict=True)
        ]
        rows = [list(row) for row in zip(*pairs, strict=True)]
        picture = png(panel(rows, side=150), {EXPLAINER: method, DIGEST: features.digest})
        features.store.write_file(EXAMPLES.format(key=features.key), picture)
        return method
    return ""


def example_images(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Choose images by their content and label alone, one a class in turn, smallest id first.

    Args:
        table: with `image_id` and `label`.
        count: at most so many.
    """
    labelled = table[table["label"].notna()].sort_values("image_id")
    turn = turns_in_classes(labelled)
    return labelled.assign(turn=turn).sort_values(["turn", "label"]).head(count)


def _explained(
    inputs: "Sequence[torch.Tensor]", network: "Network", method: str
) -> "list[Explanation]":
    # The frames were resized and cropped already.
    transform = network.transform
    framed_network = replace(network, transform=Transform(mean=transform.mean, std=transform.std))
    return list(explain_batch(inputs, framed_network, method))


def _panel_images(explanation: "Explanation", label: str) -> tuple[PanelImage, PanelImage]:
    caption = f"{explanation.target_name} {explanation.probability:.2f}"
    return PanelImage(explanation.image, (label,)), heat_image(
        explanation.image, explanation.relevance, (caption,), side=150
    )
