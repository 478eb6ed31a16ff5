"""Explanation continuity: do inputs that are alike get explanations that are alike?

`max |R(x) - R(x')|_1 / |x - x'|_2` over pairs of neighbouring inputs (Montavon, Samek and Müller
2018, section 7.1), smaller is more continuous, for every explainer on the same pairs. A maximum
over more samples only grows, so the numbers of images, directions and pairs are fixed by
`Sampling` and stand in the table.

What is explained: for steps from one image (noise, shifts) the class that the network predicts for
that image, on both ends; for two real images each one's own predicted class.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from analysis import explain_pairs as near
from analysis.explain import explainer, relevance
from analysis.explain_inputs import evaluating
from analysis.explain_methods import DoesNotFit, score
from analysis.explain_pairs import Pairs
from extract.errors import BadInput
from extract.progress import Progress, silent
from extract.taps import taps_at

METHODS = ("cam", "gradcam", "sa", "grad_x_input", "lrp")
COLUMNS = (
    *("network", "explainer", "pairs", "n_images", "n_pairs"),
    *("max", "q99", "median", "mean", "slope", "contrast", "n_zero"),
)


@dataclass(frozen=True)
class Sampling:
    """How many pairs are judged, and how far apart; part of what the numbers mean.

    Attributes:
        radii: lengths of noise steps, root mean square per value of the network's input.
        stepped: images from which noise and shifts start, the first ones; all images make pairs.
        directions: noise steps from each image at each radius.
        pairs: pairs of real images of each kind.
        seed: of every draw.
    """

    radii: tuple[float, ...] = (0.1, 0.01, 0.001)
    stepped: int = 16
    directions: int = 4
    pairs: int = 256
    seed: int = 0


@dataclass(frozen=True)
class Example:
    """The worst pair of one explainer and kind: what the table's maximum looks like.

    Attributes:
        explainer: name of the row of `EXPLAINERS`.
        pairs: kind of pair.
        ratio: its `|R - R'|_1 / |x - x'|_2`.
        inputs: (2, 3, H, W) network input of both ends.
        maps: (2, h, w) relevance of both ends.
    """

    explainer: str
    pairs: str
    ratio: float
    inputs: Tensor
    maps: Tensor


@dataclass(frozen=True)
class Continuity:
    """What `continuity` found.

    Attributes:
        table: one row an explainer and kind of pair, with the columns `COLUMNS`; `max`, `q99`,
            `median` and `mean` are of the ratio, per unit of network input; `slope` is
            d log max / d log (1 / radius) of the noise balls, 0 continuous to 1 a jump; `contrast`
            is the mean over different-class pairs divided by that over same-class pairs: above 1,
            images of one class are explained more alike; `n_zero` counts maps that are all zero,
            `n_images` the images that pairs start from.
        examples: the worst pair of each row.
    """

    table: pd.DataFrame
    examples: tuple[Example, ...]


def continuity(
    module: nn.Module,
    images: Tensor,
    labels: Sequence[str] | None = None,
    *,
    methods: Sequence[str] = METHODS,
    name: str = "",
    sampling: Sampling | None = None,
    limits: tuple[Tensor, Tensor] | None = None,
    batch_size: int = 16,
    progress: Progress = silent,
) -> Continuity:
    """Judge the continuity of explainers on one network.

    Args:
        module: a classification network.
        images: network input (N, 3, H, W), on the module's device.
        labels: (N,) classes; without them there are no pairs of real images.
        methods: names of `EXPLAINERS`; one that the network has no map for is left out.
        name: of the network, for the table.
        sampling: `Sampling()` where None.
        limits: the network's input for black and for white, see `relevance`.
        batch_size: images explained at a time.
        progress: told after each kind of pair.

    Raises:
        BadInput: fewer than two images, labels of another length, an unknown method, or none of
            the methods fits the network.
    """
    sampling = sampling or Sampling()
    if len(images) < 2 or (labels is not None and len(labels) != len(images)):
        raise BadInput(f"{len(images)} images, {len(labels or ())} labels: give 2 or more of each")
    with evaluating(module), torch.no_grad():
        parts = [score(module, part).argmax(1) for part in _parts(images, batch_size)]
    asked = _Asked(module, images, torch.cat(parts), limits, batch_size)
    kinds = _all_pairs(asked, labels, sampling)
    fitting = [method for method in methods if _fits(asked, method)]
    if not fitting:
        raise BadInput(f"none of {', '.join(methods)} fits {name or type(module).__name__}")
    judged = []
    for done, method in enumerate(fitting):
        judged += _judge(asked, method, kinds)
        progress("continuity", done + 1, len(fitting), method)
    table = pd.DataFrame([row for row, _ in judged])
    table.insert(0, "network", name or type(module).__name__)
    return Continuity(table[list(COLUMNS)], tuple(example for _, example in judged))


def continuity_table(
    module: nn.Module, images: Tensor, *args: object, **kwargs: object
) -> pd.DataFrame:
    """Return the table of `continuity` alone; same arguments."""
    return continuity(module, images, *args, **kwargs).table  # type: ignore[arg-type]


@dataclass(frozen=True)
class _Asked:
    module: nn.Module
    images: Tensor
    target: Tensor
    limits: tuple[Tensor, Tensor] | None
    batch_size: int

    def maps(self, method: str, inputs: Tensor, target: Tensor) -> Tensor:
        """Relevance (M, h, w) on the CPU, a batch at a time."""
        parts = zip(_parts(inputs, self.batch_size), _parts(target, self.batch_size), strict=True)
        made = [
            relevance(self.module, part, method, classes, limits=self.limits).cpu()
            for part, classes in parts
        ]
        return torch.cat(made)


def _fits(asked: _Asked, method: str) -> bool:
    explainer(method)
    try:
        asked.maps(method, asked.images[:1], asked.target[:1])
    except DoesNotFit:
        return False
    return True


def _all_pairs(
    asked: _Asked, labels: Sequence[str] | None, sampling: Sampling
) -> list[list[Pairs]]:
    images = asked.images[: sampling.stepped]
    kinds = [near.noise_pairs(images, sampling.radii, sampling.directions, sampling.seed)]
    kinds += [[near.shift_pairs(images, kind)] for kind in ("shift_pixel", "shift_half")]
    if labels is not None:
        names = np.asarray(labels, dtype=object)
        found = near.class_pairs(_pooled(asked), names, sampling.pairs, sampling.seed)
        kinds += [[pairs] for pairs in found if len(pairs.first)]
    return kinds


def _pooled(asked: _Asked) -> npt.NDArray[np.floating]:
    from extract.capture import TappedNetwork

    height, width = asked.images.shape[-2:]
    taps = taps_at(asked.module, (int(height), int(width)))
    tap = taps.get("last_conv") or taps.get("fc") or taps["logits"]
    with evaluating(asked.module), torch.no_grad():
        parts = _parts(asked.images, asked.batch_size)
        maps = [TappedNetwork(asked.module, [tap])(part)[tap.name] for part in parts]
    pooled = torch.cat([found.flatten(2).mean(2) if found.ndim == 4 else found for found in maps])
    return np.asarray(pooled.cpu().numpy())


def _judge(
    asked: _Asked, method: str, kinds: list[list[Pairs]]
) -> list[tuple[dict[str, object], Example]]:
    base = asked.maps(method, asked.images, asked.target)
    rows, means = [], {}
    for pairs in kinds:
        measured = [_measure(asked, method, base, part) for part in pairs]
        ratios = np.concatenate([ratio for ratio, _ in measured])
        worst = int(np.argmax([ratio.max() for ratio, _ in measured]))
        at = int(measured[worst][0].argmax())
        example = _example(asked, method, base, pairs[worst], measured[worst][1], at, ratios.max())
        kind = pairs[0].kind
        means[kind] = ratios.mean()
        zero = sum(int((maps.flatten(1).abs().sum(1) == 0).sum()) for _, maps in measured)
        row = _row(method, kind, ratios, _slope(pairs, measured), zero)
        row["n_images"] = len(np.unique(pairs[0].first))
        rows.append((row, example))
    if "same_class" in means and "different_class" in means:
        for row, _ in rows:
            if row["pairs"] == "same_class":
                row["contrast"] = means["different_class"] / means["same_class"]
    return rows


def _measure(
    asked: _Asked, method: str, base: Tensor, pairs: Pairs
) -> tuple[npt.NDArray[np.floating], Tensor]:
    first = torch.as_tensor(pairs.first)
    if isinstance(pairs.second, Tensor):
        second, maps = pairs.second, asked.maps(method, pairs.second, asked.target[first])
    else:
        rows = torch.as_tensor(pairs.second)
        second, maps = asked.images[rows], base[rows]
    apart = (asked.images[first].double() - second.double()).flatten(1).norm(dim=1).cpu()
    return near.continuity_ratios(base[first], maps, apart), maps


def _row(
    method: str, kind: str, ratios: npt.NDArray[np.floating], slope: float, zero: int
) -> dict[str, object]:
    return {
        "explainer": method,
        "pairs": kind,
        "n_pairs": len(ratios),
        "max": ratios.max(),
        "q99": np.quantile(ratios, 0.99),
        "median": np.median(ratios),
        "mean": ratios.mean(),
        "slope": slope,
        "contrast": float("nan"),
        "n_zero": zero,
    }


def _slope(pairs: list[Pairs], measured: list[tuple[npt.NDArray[np.floating], Tensor]]) -> float:
    if len(pairs) < 2:
        return float("nan")
    radii = [part.radius for part in pairs]
    return log_slope(radii, [float(ratios.max()) for ratios, _ in measured])


def log_slope(radii: Sequence[float], maxima: Sequence[float]) -> float:
    """Return d log max / d log (1 / radius), by least squares: 0 continuous, 1 a jump."""
    if min(maxima) <= 0 or any(one == other for one, other in pairwise(radii)):
        return float("nan")
    return float(np.polyfit(-np.log(radii), np.log(maxima), 1)[0])


def _example(
    asked: _Asked, method: str, base: Tensor, pairs: Pairs, maps: Tensor, at: int, ratio: float
) -> Example:
    first = int(pairs.first[at])
    second = (
        pairs.second[at] if isinstance(pairs.second, Tensor) else asked.images[pairs.second[at]]
    )
    inputs = torch.stack([asked.images[first], second]).cpu()
    return Example(method, pairs.kind, float(ratio), inputs, torch.stack([base[first], maps[at]]))


def _parts(rows: Tensor, size: int) -> list[Tensor]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
