"""Likeness in pixels: which pixels of an image make it like another, for any measure.

With z_a the vector of image a before its last division by the norm and u_b the unit vector of b,
the cosine is `s = u_b . z_a / |z_a|`. With |z_a| held, s is a score of the network like that of a
class, so what explains a score explains likeness. Evidence starts at the taps that the measure
reads, as `tap * ds / dtap`. That is `a_p * u_b / P` of the pooled cosine, and sums to s wherever
the vector grows in proportion to the tap (Euler): for every pool but a softmax, and less what
a centre takes off. LRP shares it among the pixels; what biases take is missing from the sum.

One pass towards u_b is what the outer product of BiLRP (Eberle et al. 2022) gives when it is summed
over the other image, on a network without biases: relevance is linear in where it starts.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from alike.analysis.explain.grade.curves import batches, blurred
from alike.analysis.explain.gradients import DoesNotFit
from alike.analysis.explain.inputs import evaluating, ready_module
from alike.analysis.explain.lrp import lrp_from, pixel_limits
from alike.extract.errors import BadInput
from alike.extract.measures import WEIGHT, Measure, Take, measure_named, ready_measure
from alike.extract.measures.gradients import has_gradient, unit_if_cosine, vectors_before_unit
from alike.extract.networks import forward_taps

if TYPE_CHECKING:
    from alike.extract.networks import Network
    from alike.extract.store import Features

Limits = tuple[Tensor, Tensor] | None
STEPS = 16
"""Of the way from the blurred image."""
USUAL = "gap_cosine"


@dataclass(frozen=True)
class Embedding:
    """How a measure makes a vector of the taps of a pass.

    Attributes:
        measure: fitted, if it needs to be.
        weights: (K, C) of the classifier, for measures that read them.
    """

    measure: Measure
    weights: Tensor | None = None

    def __post_init__(self) -> None:
        if "pixels" in self.measure.taps:
            raise DoesNotFit(
                f"{self.measure.name} does not look at the network: nothing to explain"
            )
        if not has_gradient(self.measure):
            raise DoesNotFit(f"{self.measure.name} is of ranks, which have no gradient")

    @property
    def taps(self) -> tuple[str, ...]:
        """What to capture in a pass."""
        return tuple(
            dict.fromkeys("last_conv" if tap == "gap" else tap for tap in self.measure.taps)
        )

    def ready(self, module: nn.Module, size: tuple[int, int]) -> nn.Module:
        """`ready_module`; the module itself for a layer, whose path might be folded away."""
        plain = set(self.taps) <= {"last_conv", "fc", "logits"}
        return ready_module(module, size) if plain else module

    def before_unit(self, taps: dict[str, Tensor]) -> Tensor:
        """Vectors (N, D) with gradient, before the last division by their norms."""
        known = dict(taps)
        if "gap" in self.measure.taps:
            maps = taps["last_conv"]
            known["gap"] = (maps if maps.dtype == torch.float64 else maps.float()).mean((2, 3))
        device = next(iter(taps.values())).device
        return vectors_before_unit(self.measure, known, lambda: self._classifier().to(device))

    def vectors(self, module: nn.Module, batch: Tensor) -> Tensor:
        """Vectors (N, D) of a batch, of unit length where the measure compares angles."""
        with evaluating(module), torch.no_grad():
            before = self.before_unit(forward_taps(module, batch, self.taps))
            return unit_if_cosine(self.measure, before)

    def similarity(self, before_unit: Tensor, other: Tensor, *, held: bool = False) -> Tensor:
        """Similarity (N,) of vectors (N, D) to others (N, D): cosine, inner product or -distance.

        Args:
            before_unit: of the images.
            other: as `vectors` gives them.
            held: whether the norms of the first have no gradient.
        """
        if self.measure.form == "euclidean":
            apart: Tensor = (before_unit - other).norm(dim=1)
            return -apart
        vectors = before_unit if held else unit_if_cosine(self.measure, before_unit)
        products: Tensor = (vectors * other).sum(1)
        if self.measure.form == "inner" or not held:
            return products
        lengths: Tensor = before_unit.detach().norm(dim=1).clamp_min(1e-12)
        return products / lengths

    def _classifier(self) -> Tensor:
        if self.weights is None:
            raise DoesNotFit(f"{self.measure.name} reads the weights of a linear classifier")
        return self.weights


def embedding_of(features: "Features", name: str = USUAL) -> Embedding:
    """The embedding of a measure, fitted on the stored images where it needs to be.

    Raises:
        BadInput: an unknown measure, or one that cannot be fitted; DoesNotFit: one that the pixels
            have no gradient for.
    """
    measure = measure_named(name)
    if measure.needs_fit:
        measure = ready_measure(features, name, as_fitted=True)
    if WEIGHT not in measure.constants:
        return Embedding(measure)
    if WEIGHT not in features.constants():
        raise DoesNotFit(f"{name} reads the weights of a linear classifier; this network has none")
    return Embedding(measure, torch.from_numpy(np.asarray(features.read_constant(WEIGHT))))


Relevance = Callable[[nn.Module, Tensor, Tensor, Embedding, Limits], Tensor]


@dataclass(frozen=True)
class PairExplainer:
    """One way to say which pixels make an image like another.

    Attributes:
        name: its name on the command line.
        evidence: (module in eval mode, batch (N, 3, H, W), vectors of the other images (N, D),
            embedding, limits of the input) to relevance shaped as the batch.
        about: one line for tables and figures.
        signed: whether values below zero mean "less alike".
    """

    name: str
    evidence: Relevance
    about: str
    signed: bool = True


def by_lrp(
    module: nn.Module, batch: Tensor, other: Tensor, embedding: Embedding, limits: Limits,
    *, composite: str,
) -> Tensor:  # fmt: skip
    """Relevance of the similarity by LRP, from the taps of the measure to the pixels."""

    def forward(pixels: Tensor) -> list[Tensor]:
        return list(forward_taps(module, pixels, embedding.taps).values())

    def start(tensors: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
        slopes = _slopes(tensors, other, embedding)
        return [
            (tensor, tensor.detach() * slope)
            for tensor, slope in zip(tensors, slopes, strict=True)
            if slope is not None
        ]

    return lrp_from(module, batch, forward, start, composite=composite, limits=limits)


def by_gradient(
    module: nn.Module, batch: Tensor, other: Tensor, embedding: Embedding, limits: Limits
) -> Tensor:
    """Gradient of the similarity times input, the norm of the image's own vector held."""
    with torch.enable_grad():
        pixels = batch.detach().clone().requires_grad_()
        vectors = embedding.before_unit(forward_taps(module, pixels, embedding.taps))
        total = embedding.similarity(vectors, other, held=True).sum()
        (gradient,) = torch.autograd.grad(total, pixels)
    return gradient * batch


def by_path(
    module: nn.Module, batch: Tensor, other: Tensor, embedding: Embedding, limits: Limits
) -> Tensor:
    """Integrated gradients from the blurred image; they sum to about what the blur takes away.

    The way is steepest near its start, where few of the steps are: the sum misses some 15 %.
    Sundararajan, Taly and Yan 2017, the middle of each of `STEPS` parts of the straight way.
    """
    start = blurred(batch)
    apart = batch - start
    total = torch.zeros_like(batch)
    for step in range(STEPS):
        with torch.enable_grad():
            pixels = (start + (step + 0.5) / STEPS * apart).requires_grad_()
            vectors = embedding.before_unit(forward_taps(module, pixels, embedding.taps))
            (gradient,) = torch.autograd.grad(embedding.similarity(vectors, other).sum(), pixels)
        total += gradient
    return total * apart / STEPS


def _slopes(
    tensors: Sequence[Tensor], other: Tensor, embedding: Embedding
) -> tuple[Tensor | None, ...]:
    """The slope ds / dtap of each tap, the norm of the vector held; None if it has no influence."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    with torch.enable_grad():
        vectors = embedding.before_unit(dict(zip(embedding.taps, leaves, strict=True)))
        total = embedding.similarity(vectors, other, held=True).sum()
    return torch.autograd.grad(total, leaves, allow_unused=True)


_ROWS = (
    PairExplainer(
        "likeness_lrp", partial(by_lrp, composite="plus_box"),
        "LRP of the similarity: z+, box at the pixels", signed=False,
    ),
    PairExplainer(
        "likeness_lrp_gamma", partial(by_lrp, composite="gamma_box"),
        "LRP of the similarity: gamma, for and against",
    ),
    PairExplainer(
        "likeness_lrp_epsilon", partial(by_lrp, composite="epsilon"),
        "LRP of the similarity: epsilon",
    ),
    PairExplainer("likeness_gradient", by_gradient, "gradient of the similarity times input"),
    PairExplainer(
        "likeness_path", by_path, "gradients of the similarity, from the blurred image on"
    ),
)  # fmt: skip
PAIR_EXPLAINERS: dict[str, PairExplainer] = {row.name: row for row in _ROWS}
"""What explains in pixels why two images are alike; `likeness` is that of the last map."""


def pair_explainer(name: str) -> PairExplainer:
    """Return the row of `PAIR_EXPLAINERS` of this name.

    Raises:
        BadInput: there is none; the message lists them.
    """
    if name not in PAIR_EXPLAINERS:
        names = ", ".join(PAIR_EXPLAINERS)
        raise BadInput(f"no explainer of pairs {name!r}: choose from {names}")
    return PAIR_EXPLAINERS[name]


def relevance_to(
    module: nn.Module,
    batch: Tensor,
    other: Tensor,
    method: str = "likeness_lrp",
    embedding: Embedding | None = None,
    *,
    limits: Limits = None,
) -> Tensor:
    """Relevance of the similarity of each image to a vector, summed over the input's channels.

    Args:
        module: a network that the measure fits; it is run in eval mode.
        batch: network input (N, 3, H, W).
        other: (N, D) vectors of the images to compare with, as `Embedding.vectors` gives them.
        method: a name of `PAIR_EXPLAINERS`.
        embedding: of the measure; None: the cosine of pooled maps.
        limits: the network's input for black and for white, see `lrp`.

    Returns:
        (N, H, W), detached. It is linear in `other`, but for measures of distance.

    Raises:
        BadInput: an unknown method, or a network that the method or the measure does not fit.
    """
    row = pair_explainer(method)
    with evaluating(module):
        found = row.evidence(module, batch, other, embedding or usual_embedding(), limits)
    return found.detach().sum(1)


def map_relevance_to(
    module: nn.Module, batch: Tensor, other: Tensor, embedding: Embedding
) -> Tensor:
    """Relevance (N, h, w) of the similarity at each position of the map that a measure reads.

    Value times slope, summed over channels: `likeness` where the measure is the cosine of pooled
    maps.

    Raises:
        DoesNotFit: the measure reads no map.
    """
    with evaluating(module), torch.no_grad():
        taps = list(forward_taps(module, batch, embedding.taps).values())
    slopes = _slopes(taps, other, embedding)
    maps = [
        (tap * slope).sum(1)
        for tap, slope in zip(taps, slopes, strict=True)
        if slope is not None and tap.ndim == 4
    ]
    if not maps:
        raise DoesNotFit(f"{embedding.measure.name} reads no map, so likeness has no positions")
    return maps[0].detach()


def usual_embedding() -> Embedding:
    """The embedding of the cosine of pooled maps."""
    return Embedding(measure_named(USUAL))


def parts_by_position(module: nn.Module, batch: Tensor, embedding: Embedding) -> Tensor:
    """The vector of one image as a sum over the positions of its last map.

    Args:
        module: the network.
        batch: (1, 3, H, W).
        embedding: of a cosine of pooled maps.

    Returns:
        (Q, D), which sum to the unit vector: what `relevance_to` takes for `other` to say what in
        another image is like position q of this one.

    Raises:
        DoesNotFit: the measure is no cosine of pooled maps.
    """
    measure = embedding.measure
    if measure.form != "cosine" or measure.pool != Take("gap"):
        raise DoesNotFit(f"{measure.name} is no sum over positions: pairs need one, as {USUAL}")
    with evaluating(module), torch.no_grad():
        maps = forward_taps(module, batch, ["last_conv"])["last_conv"]
        columns = maps[0].flatten(1).T[:, :, None, None]
        vectors = embedding.before_unit({"last_conv": columns})
        length: Tensor = vectors.mean(0).norm().clamp_min(1e-12)
        return vectors / (len(vectors) * length)


@dataclass(frozen=True)
class PixelLikeness:
    """Why two images are alike, in pixels.

    Attributes:
        method: name of the row of `PAIR_EXPLAINERS`.
        measure: whose similarity is explained.
        value: the similarity: cosine, inner product, or minus the distance.
        on_a: (H, W) float32, relevance of the pixels of image a.
        on_b: likewise of image b.
        pairs: (h', w', H, W) float32, what on a is like each position of the last map of b, or
            None; sums over positions to `on_a`.
    """

    method: str
    measure: str
    value: float
    on_a: npt.NDArray[np.float32]
    on_b: npt.NDArray[np.float32]
    pairs: npt.NDArray[np.float32] | None = None

    @property
    def conserved(self) -> tuple[float, float]:
        """Sum of each map over the similarity: 1 if biases take no share of it."""
        if not self.value:
            return float("nan"), float("nan")
        first, second = (float(one.sum(dtype=np.float64)) for one in (self.on_a, self.on_b))
        return first / self.value, second / self.value


def pixel_likeness(
    frames: Sequence[Tensor],
    network: "Network",
    method: str = "likeness_lrp",
    embedding: Embedding | None = None,
    *,
    pairs: bool = False,
) -> PixelLikeness:
    """Say which pixels of two images make them alike.

    Args:
        frames: two, uint8 (3, H, W), what the network sees.
        network: from `load_network`.
        method: a name of `PAIR_EXPLAINERS`.
        embedding: of the measure; None: the cosine of pooled maps.
        pairs: also say what on the first is like each position of the second.

    Raises:
        DoesNotFit: the network or the measure does not fit the method.
    """
    embedding = embedding or usual_embedding()
    device = next(network.module.parameters(), torch.empty(0)).device
    inputs = [network.transform.normalise(frame[None]).to(device) for frame in frames]
    size = (int(inputs[0].shape[-2]), int(inputs[0].shape[-1]))
    module = embedding.ready(network.module, size)
    vectors = [embedding.vectors(module, one) for one in inputs]
    if vectors[0].shape != vectors[1].shape:
        lengths = " and ".join(str(one.shape[1]) for one in vectors)
        raise DoesNotFit(
            f"{embedding.measure.name} gives vectors of {lengths} numbers for images of two "
            f"sizes: choose a pooled measure such as {USUAL}"
        )
    transform = network.transform
    limits = [pixel_limits(one, transform.mean, transform.std) for one in inputs]
    maps = [
        relevance_to(module, one, other, method, embedding, limits=ends)[0]
        for one, other, ends in zip(inputs, reversed(vectors), limits, strict=True)
    ]
    value = float(embedding.similarity(vectors[0], vectors[1]))
    of_pairs = _pairs(module, inputs, method, embedding, limits[0]) if pairs else None
    on_a, on_b = (one.float().cpu().numpy() for one in maps)
    return PixelLikeness(method, embedding.measure.name, value, on_a, on_b, of_pairs)


def _pairs(
    module: nn.Module, inputs: Sequence[Tensor], method: str, embedding: Embedding, limits: Limits
) -> npt.NDArray[np.float32]:
    parts = parts_by_position(module, inputs[1], embedding)
    with torch.no_grad():
        grid = forward_taps(module, inputs[1], ["last_conv"])["last_conv"].shape[-2:]
    maps = [
        relevance_to(
            module, inputs[0].expand(len(some), -1, -1, -1), some, method, embedding, limits=limits
        ).cpu()
        for some in batches(parts, 16)
    ]
    whole = torch.cat(maps)
    return np.asarray(whole.reshape(*grid, *whole.shape[1:]).float().numpy())
