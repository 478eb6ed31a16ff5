"""Continuity of the explanations of a store's network: a table and pictures in the store."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch

from alike.analysis.explain.continuity.continuity import (
    METHODS,
    Continuity,
    Example,
    Sampling,
    continuity,
)
from alike.analysis.explain.file_names import DIGEST, PICTURE, TABLE
from alike.analysis.explain.inputs import network_for, turns_in_classes, worker_network
from alike.analysis.explain.lrp import pixel_limits
from alike.analysis.explain.overlay import full_colour, heat_image
from alike.analysis.explain.pair import stored_frames
from alike.extract.embedding import MapBlocks
from alike.extract.errors import BadInput
from alike.extract.panels import PanelImage, Pixels, panel, png
from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alike.extract.networks import Network, Transform
    from alike.extract.store import Features, Store

WORDS = {
    "noise": ("an image", "the same with noise"),
    "shift_pixel": ("an image", "moved by a pixel"),
    "shift_half": ("an image", "moved by half a pixel"),
    "nearest_same": ("an image", "nearest of its class"),
    "same_class": ("an image", "another of its class"),
    "different_class": ("an image", "one of another class"),
}
NOTE = (
    "Orange speaks for the class, blue against it. The magnitudes of each map sum to 1. The two "
    "maps of a pair share a scale. The ratio is |R - R'| / |x - x'| of the worst pair."
)


def continuity_of(
    features: "Features",
    network: "Network | None" = None,
    *,
    methods: "Sequence[str]" = METHODS,
    n_images: int = 64,
    split: str | None = "held_out",
    sampling: Sampling | None = None,
    map_methods: MapBlocks | None = None,
    progress: Progress = silent,
    tell: "Callable[[str], object]" = lambda _: None,
) -> Continuity:
    """Measure the continuity of a store's network on its images, and keep the result in the store.

    The table goes to `tables/<key>/continuity.parquet`, the worst pairs of the noise balls and of
    the nearest same-class images to `explanations/<key>/continuity.png`.

    Args:
        features: whose images, and whose network where none is given.
        network: from `load_network`.
        methods: names of `EXPLAINERS`; those that do not fit the network are left out.
        n_images: images measured, spread evenly over the classes; the first `sampling.stepped` of
            them are also stepped from.
        split: `train`, `held_out` or None for both.
        sampling: how many pairs, see `Sampling`.
        map_methods: measures methods one by one, such as on workers, which load the network that
            made the features; None: all at once, here.
        progress: told after every kind of pair, or after every method.
        tell: gets a line for each method that is left out, with the reason.

    Raises:
        BadInput: fewer than two images, an unknown method, or none of them fits the network.
    """
    features.store.require_writable()
    network = network_for(features, network)
    sampling = sampling or Sampling()
    table = _spread(features.table(split), n_images)
    labels = [str(label) for label in table["label"]] if table["label"].notna().all() else None
    rows = [int(row) for row in table["row"]]
    work = _Measurement(features, network, rows, labels, sampling)
    if map_methods is None:
        result = work.of(methods, progress, tell)
    else:
        result = _joined(work, methods, map_methods, progress, tell)
    settings: dict[str, Any] = {**vars(sampling), "split": split, "n_images": len(table)}
    settings[DIGEST] = features.digest
    if features.where:
        settings["where"] = features.where
    place = {"key": features.key}
    features.store.write_table(TABLE.format(**place), result.table, settings)
    picture = continuity_panel(result.examples, network.transform)
    features.store.write_file(PICTURE.format(**place), png(picture, {DIGEST: features.digest}))
    return result


@dataclass(frozen=True)
class _Measurement:
    """Measures methods on stored images; it travels to a worker by the place of the store."""

    features: "Features"
    network: "Network"
    rows: list[int]
    labels: list[str] | None
    sampling: Sampling

    def of(
        self, methods: "Sequence[str]", progress: Progress, tell: "Callable[[str], object]"
    ) -> Continuity:
        network = self.network
        frames = stored_frames(self.features, self.rows)
        inputs = network.transform.normalise(
            torch.stack([torch.from_numpy(frame.transpose(2, 0, 1).copy()) for frame in frames])
        )
        device = next(network.module.parameters(), torch.empty(0)).device
        return continuity(
            network.module,
            inputs.to(device),
            self.labels,
            methods=methods,
            name=network.name,
            sampling=self.sampling,
            limits=pixel_limits(inputs, network.transform.mean, network.transform.std),
            progress=progress,
            tell=tell,
        )

    def __call__(self, method: str) -> tuple[Continuity | None, list[str]]:
        """The continuity of one method, or why it does not fit."""
        left_out: list[str] = []
        try:
            return self.of([method], silent, left_out.append), left_out
        except BadInput:
            if not left_out:
                raise
            return None, left_out

    def __reduce__(self) -> tuple[Any, ...]:
        """Travel without weights and open files."""
        place = self.features.store.place, self.features.key
        return _reopened, (*place, self.rows, self.labels, self.sampling)


def _reopened(
    place: str, key: str, rows: list[int], labels: list[str] | None, sampling: Sampling
) -> _Measurement:
    from alike.extract.store import Store

    features = Store.open(place).features(key)
    return _Measurement(features, worker_network(features), rows, labels, sampling)


def _joined(
    work: _Measurement,
    methods: "Sequence[str]",
    map_methods: MapBlocks,
    progress: Progress,
    tell: "Callable[[str], object]",
) -> Continuity:
    """What methods give one by one, in their order.

    Raises:
        BadInput: none fits the network.
    """
    parts = []
    for done, (part, left_out) in enumerate(map_methods(work, list(methods)), start=1):
        for line in left_out:
            tell(line)
        if part is not None:
            parts.append(part)
        progress("continuity", done, len(methods))
    if not parts:
        raise BadInput(f"none of {', '.join(methods)} fits {work.network.name}")
    table = pd.concat([part.table for part in parts], ignore_index=True)
    return Continuity(table, tuple(example for part in parts for example in part.examples))


def read_continuity(store: "Store", key: str) -> tuple[pd.DataFrame, bytes] | None:
    """Return the stored table and picture (PNG) of an extraction, None where there are none."""
    try:
        table, _ = store.read_table(TABLE.format(key=key))
        return table, store.read_file(PICTURE.format(key=key))
    except FileNotFoundError:
        return None


def continuity_panel(
    examples: "Sequence[Example]",
    transform: "Transform",
    *,
    kinds: "Sequence[str]" = ("noise", "nearest_same"),
) -> Pixels:
    """Show the worst pairs: one row an explainer, for each kind both inputs with their maps."""
    rows: dict[str, list[PanelImage]] = {}
    for example in examples:
        if example.pairs in kinds:
            rows.setdefault(example.explainer, []).extend(_panel_images(example, transform))
    return panel(list(rows.values()), title="The least continuous pairs", note=NOTE)


def _panel_images(example: Example, transform: "Transform") -> list[PanelImage]:
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (transform.mean, transform.std))
    pixels = (example.inputs.float() * std + mean).clamp(0, 1).mul(255).round().to(torch.uint8)
    heats = [(heat / heat.abs().sum().clamp_min(1e-30)).numpy() for heat in example.maps]
    apart = float((example.inputs[0] - example.inputs[1]).norm())
    captions = (
        (example.explainer, WORDS[example.pairs][0]),
        (WORDS[example.pairs][1], f"|x - x'| {apart:.3g}, ratio {example.ratio:.3g}"),
    )
    return [
        heat_image(image.permute(1, 2, 0).numpy(), heat, lines, top=full_colour(*heats))
        for image, heat, lines in zip(pixels, heats, captions, strict=True)
    ]


def _spread(table: pd.DataFrame, count: int) -> pd.DataFrame:
    if count < 2:
        raise BadInput(
            f"continuity is of images and their nearest: a limit of {count}, expected 2 or more"
        )
    if len(table) < 2:
        raise BadInput(f"{len(table)} images in this split: continuity needs two or more")
    place = turns_in_classes(table)
    order = np.lexsort((table["image_id"], place))[:count]
    return table.iloc[order]
