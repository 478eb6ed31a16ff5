"""Explanation continuity: do inputs that are alike get explanations that are alike?

`max |R(x) - R(x')|_1 / |x - x'|_2` over pairs of neighbouring inputs (Montavon, Samek and Müller
2018, section 7.1), smaller is more continuous, for every explainer on the same pairs. A maximum
over more samples only grows, so the numbers of images, directions and pairs are fixed by
`Sampling` and stand in the table.

What is explained: for steps from one image (noise, shifts) the class that the network predicts for
that image, on both ends; for two real images each one's own predicted class.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch import Tensor, nn

from alike.analysis.explain.continuity import perturbations as near
from alike.analysis.explain.continuity.perturbations import Pairs
from alike.analysis.explain.explain import explainer, relevances
from alike.analysis.explain.gradients import DoesNotFit, score
from alike.analysis.explain.inputs import evaluating, ready_module
from alike.extract.errors import BadInput
from alike.extract.networks import taps_at
from alike.extract.progress import Progress, silent

METHODS = ("cam", "gradcam", "sa", "grad_x_input", "lrp")
COLUMNS = (
    *("network", "explainer", "pairs", "n_images", "n_pairs"),
    *("max", "q99", "median", "mean", "montavon", "slope", "contrast", "n_zero"),
)


@dataclass(frozen=True)
class Sampling:
    """How many pairs are measured, and how far apart; part of what the numbers mean.

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
            `median` and `mean` are of the ratio, per unit of network input, of maps whose
            magnitudes sum to 1; `montavon` is the maximum of the ratio of the maps as they are, as
            Montavon et al. have it: it grows with the scale of the scores; `slope` is
            d log max / d log (1 / radius) of the noise balls, 0 continuous to 1 a jump; `contrast`
            is the mean over different-class pairs divided by that over same-class pairs: above 1,
            images of one class are explained more alike; `n_zero` counts maps that are all zero,
            `n_images` the images that pairs start from, `n_pairs` the pairs whose inputs differ:
            equal ones (a flat image that is moved, a copy) have no ratio. NaN without pairs.
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
    tell: Callable[[str], object] = lambda _: None,
) -> Continuity:
    """Measure the continuity of explainers on one network.

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
        tell: gets a line for each method that is left out, with the reason, and for each kind of
            pair of which some are of equal inputs.

    Raises:
        BadInput: fewer than two images, labels of another length, an unknown method, or none of
            the methods fits the network.
    """
    sampling = sampling or Sampling()
    if len(images) < 2 or (labels is not None and len(labels) != len(images)):
        raise BadInput(f"{len(images)} images, {len(labels or ())} labels: give 2 or more of each")
    name = name or type(module).__name__
    module = ready_module(module, (int(images.shape[-2]), int(images.shape[-1])))
    with evaluating(module), torch.no_grad():
        parts = [score(module, part).argmax(1) for part in _parts(images, batch_size)]
    network = _Explained(module, images, torch.cat(parts), limits, batch_size)
    groups = _all_pairs(network, labels, sampling)
    fitting = [method for method in methods if _fits(network, method, tell)]
    if not fitting:
        raise BadInput(f"none of {', '.join(methods)} fits {name}")
    base = network.maps(fitting, images, network.target)
    rows: dict[str, list[dict[str, object]]] = {method: [] for method in fitting}
    examples: dict[str, list[Example]] = {method: [] for method in fitting}
    for done, group in enumerate(groups):
        pairs = [_apart(network, part) for part in group]
        lost = sum(len(part.first) for part in group) - sum(len(part.first) for part in pairs)
        if lost:
            of = f"{lost} of {lost + sum(len(part.first) for part in pairs)} pairs"
            tell(f"{pairs[0].kind}: {of} are of equal inputs, which have no ratio")
        for method, (row, example) in _ratios(network, base, pairs).items():
            rows[method].append(row)
            examples[method] += [example] if example else []
        progress("continuity", done + 1, len(groups), pairs[0].kind)
    table = pd.DataFrame([row for of_method in rows.values() for row in _contrasted(of_method)])
    table.insert(0, "network", name)
    worst = (example for of_method in examples.values() for example in of_method)
    return Continuity(table[list(COLUMNS)], tuple(worst))


@dataclass(frozen=True)
class _Explained:
    module: nn.Module
    images: Tensor
    target: Tensor
    limits: tuple[Tensor, Tensor] | None
    batch_size: int

    def maps(self, methods: Sequence[str], inputs: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Relevance (M, h, w) on the CPU by every method, a batch at a time."""
        parts = zip(_parts(inputs, self.batch_size), _parts(target, self.batch_size), strict=True)
        results = [
            relevances(self.module, part, methods, classes, limits=self.limits)
            for part, classes in parts
        ]
        return {method: torch.cat([part[method].cpu() for part in results]) for method in methods}


def _fits(network: _Explained, method: str, tell: Callable[[str], object]) -> bool:
    explainer(method)
    try:
        network.maps([method], network.images[:1], network.target[:1])
    except DoesNotFit as error:
        tell(f"{method}: {error}")
        return False
    return True


def _all_pairs(
    network: _Explained, labels: Sequence[str] | None, sampling: Sampling
) -> list[list[Pairs]]:
    images = network.images[: sampling.stepped]
    kinds = [near.noise_pairs(images, sampling.radii, sampling.directions, sampling.seed)]
    kinds += [[near.shift_pairs(images, kind)] for kind in ("shift_pixel", "shift_half")]
    if labels is not None:
        names = np.asarray(labels, dtype=object)
        by_class = near.class_pairs(_pooled(network), names, sampling.pairs, sampling.seed)
        kinds += [[pairs] for pairs in by_class if len(pairs.first)]
    return kinds


def _pooled(network: _Explained) -> npt.NDArray[np.floating]:
    from alike.extract.networks import TappedNetwork

    height, width = network.images.shape[-2:]
    taps = taps_at(network.module, (int(height), int(width)))
    tap = taps.get("last_conv") or taps.get("fc") or taps["logits"]
    with evaluating(network.module), torch.no_grad():
        parts = _parts(network.images, network.batch_size)
        maps = [TappedNetwork(network.module, [tap])(part)[tap.name] for part in parts]
    pooled = torch.cat([one.flatten(2).mean(2) if one.ndim == 4 else one for one in maps])
    return np.asarray(pooled.cpu().numpy())


def _apart(network: _Explained, pairs: Pairs) -> Pairs:
    """The pairs whose inputs differ: a flat image that is moved, and a copy, have no ratio."""
    keep = (network.images[torch.as_tensor(pairs.first)] != _inputs(network, pairs)).flatten(1)
    at = keep.any(1).cpu().numpy()
    return replace(pairs, first=pairs.first[at], second=pairs.second[at])


def _inputs(network: _Explained, pairs: Pairs) -> Tensor:
    """The second inputs (M, 3, H, W) of pairs."""
    if isinstance(pairs.second, Tensor):
        return pairs.second
    return network.images[torch.as_tensor(pairs.second)]


def _ratios(
    network: _Explained, base: dict[str, Tensor], pairs: list[Pairs]
) -> dict[str, tuple[dict[str, object], Example | None]]:
    """The row and the worst pair of every method, for one kind of pair; None without pairs."""
    ratios: dict[str, list[npt.NDArray[np.floating]]] = {method: [] for method in base}
    start = 0.0 if any(len(part.first) for part in pairs) else np.nan
    n_zero, plain = dict.fromkeys(base, 0), dict.fromkeys(base, start)
    worst: dict[str, Example] = {}
    for part in pairs:
        if not len(part.first):
            continue
        first = torch.as_tensor(part.first)
        second, maps = _second(network, base, part)
        apart = (network.images[first].double() - second.double()).flatten(1).norm(dim=1).cpu()
        for method, maps_of_method in maps.items():
            ratio = near.continuity_ratios(base[method][first], maps_of_method, apart)
            ratios[method].append(ratio)
            raw = near.continuity_ratios(
                base[method][first], maps_of_method, apart, normalised=False
            )
            plain[method] = max(plain[method], float(raw.max()))
            n_zero[method] += int((maps_of_method.flatten(1).abs().sum(1) == 0).sum())
            at = int(ratio.argmax())
            if method not in worst or ratio[at] > worst[method].ratio:
                inputs = torch.stack([network.images[first[at]], second[at]]).cpu()
                both = torch.stack([base[method][first[at]], maps_of_method[at]])
                worst[method] = Example(method, part.kind, float(ratio[at]), inputs, both)
    return {
        method: (
            {**_row(method, pairs, ratios[method], n_zero[method]), "montavon": plain[method]},
            worst.get(method),
        )
        for method in base
    }


def _second(
    network: _Explained, base: dict[str, Tensor], pairs: Pairs
) -> tuple[Tensor, dict[str, Tensor]]:
    """The second inputs (M, 3, H, W) of pairs, and their maps by every method."""
    inputs = _inputs(network, pairs)
    if isinstance(pairs.second, Tensor):
        target = network.target[torch.as_tensor(pairs.first)]
        return inputs, network.maps(list(base), inputs, target)
    rows = torch.as_tensor(pairs.second)
    return inputs, {method: maps[rows] for method, maps in base.items()}


def _contrasted(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Rows of one explainer, with the contrast of different-class to same-class pairs."""
    by_kind = {row["pairs"]: row for row in rows}
    if "same_class" in by_kind and "different_class" in by_kind:
        same, different = (by_kind[kind]["mean"] for kind in ("same_class", "different_class"))
        # Maps that are all alike have no contrast.
        if same > 0:  # type: ignore[operator]
            by_kind["same_class"]["contrast"] = different / same  # type: ignore[operator]
    return rows


def _row(
    method: str, pairs: list[Pairs], by_part: list[npt.NDArray[np.floating]], zero: int
) -> dict[str, object]:
    kind, numbers = pairs[0].kind, dict.fromkeys(("max", "q99", "median", "mean"), np.nan)
    if not by_part:
        images = {"explainer": method, "pairs": kind, "n_images": 0, "n_pairs": 0}
        return {**images, **numbers, "slope": np.nan, "contrast": np.nan, "n_zero": zero}
    ratios = np.concatenate(by_part)
    radii, maxima = [part.radius for part in pairs], [float(part.max()) for part in by_part]
    return {
        "explainer": method,
        "pairs": kind,
        "n_images": len(np.unique(pairs[0].first)),
        "n_pairs": len(ratios),
        "max": ratios.max(),
        "q99": np.quantile(ratios, 0.99),
        "median": np.median(ratios),
        "mean": ratios.mean(),
        "slope": log_slope(radii, maxima) if len(pairs) > 1 else float("nan"),
        "contrast": float("nan"),
        "n_zero": zero,
    }


def log_slope(radii: Sequence[float], maxima: Sequence[float]) -> float:
    """Return d log max / d log (1 / radius), by least squares: 0 continuous, 1 a jump."""
    if min(maxima) <= 0 or any(one == other for one, other in pairwise(radii)):
        return float("nan")
    return float(np.polyfit(-np.log(radii), np.log(maxima), 1)[0])


def _parts(rows: Tensor, size: int) -> list[Tensor]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
