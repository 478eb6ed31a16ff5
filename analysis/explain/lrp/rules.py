"""The rules of layer-wise relevance propagation, as data, and the arithmetic that applies them.

A rule says which contributions of the inputs of a linear layer count, and shares the relevance of
each output among them in proportion: `R_j = sum_k c_jk / (sum_j c_jk) R_k`. A contribution is
a part of the input times a part of the weight; `RULES` lists the parts.

Sources: Bach et al. 2015 (epsilon, alpha-beta), Montavon et al. 2017 (z+, zB: deep Taylor),
Montavon et al. 2019 chapter 10 (gamma, composites), Lapuschkin et al. 2019 (flat), Andéol et al.
2021 (gamma for inputs of both signs).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as nnf
from torch.nn import grad as nngrad


@dataclass(frozen=True)
class Term:
    """One kind of contribution: `sign * part(input) * part(weight)`.

    Attributes:
        input: a name of `PARTS`, or `low` / `high`, the limits of the network's input.
        weight: a name of `PARTS`.
        sign: +1 or -1.
    """

    input: str
    weight: str
    sign: float = 1.0


@dataclass(frozen=True)
class Share:
    """Contributions that divide the relevance of an output among them.

    Attributes:
        terms: the kinds that count.
        factor: of the relevance that they divide.
        bias: the part of the bias that takes its share and keeps it, `none` for no part.
        outputs: `all`, or only those `above` (from zero up) or `below` zero.
    """

    terms: tuple[Term, ...]
    factor: float = 1.0
    bias: str = "none"
    outputs: str = "all"


@dataclass(frozen=True)
class Rule:
    """How a linear layer hands relevance down.

    Attributes:
        name: its name in composites.
        formula: the contributions, for the reader.
        shares: what divides the relevance; one for every rule but alpha-beta and gamma.
        epsilon: added to a sum of contributions, with its sign, before dividing by it; a share of
            the root mean square of the layer's sums in the image (of a dense layer at the same
            position), so that scale does not matter.
        spreads: whether outputs that no input explains, only the bias, give their relevance to all
            inputs that they see, in equal parts (as the toolbox of Bach et al. does with biases);
            else it ends there, which leaves 2 % in a trained MobileNetV2.
    """

    name: str
    formula: str
    shares: tuple[Share, ...]
    epsilon: float = 0.0
    spreads: bool = False


@dataclass(frozen=True)
class LinearLayer:
    """A convolution or a fully connected layer, with its BatchNorm folded in.

    Attributes:
        weight: (O, I / groups, kh, kw) of a convolution, (O, I) of a fully connected layer.
        bias: (O,) or None.
        stride: of the convolution; padding, dilation and groups likewise.
    """

    weight: Tensor
    bias: Tensor | None
    stride: tuple[int, ...] = (1, 1)
    padding: tuple[int, ...] = (0, 0)
    dilation: tuple[int, ...] = (1, 1)
    groups: int = 1

    @property
    def dense(self) -> bool:
        """Whether it is a fully connected layer."""
        return self.weight.ndim == 2

    def up(self, values: Tensor, weight: Tensor) -> Tensor:
        """Apply it with another weight, without bias."""
        if self.dense:
            return nnf.linear(values, weight)
        around = (self.stride, self.padding, self.dilation, self.groups)
        return nnf.conv2d(values, weight, None, *around)

    def down(self, values: Tensor, weight: Tensor, shape: torch.Size) -> Tensor:
        """Apply its transpose with another weight; `shape` is that of the layer's input."""
        if self.dense:
            return values @ weight
        around = (self.stride, self.padding, self.dilation, self.groups)
        below: Tensor = nngrad.conv2d_input(shape, weight, values, *around)  # type: ignore[no-untyped-call]
        return below

    def spread(self, above: Tensor, shape: torch.Size) -> Tensor:
        """Give each output's relevance to all inputs that it sees, in equal parts."""
        if self.dense:
            equal = above.sum(-1, keepdim=True) / shape[-1]
            return equal.expand(shape)
        around = (self.stride, self.padding, self.dilation)
        window = self.weight.new_ones(1, 1, *self.weight.shape[2:])
        per_group = above.view(-1, 1, above.shape[1] // self.groups, *above.shape[2:]).sum(2)
        seen = nnf.conv2d(window.new_ones(1, 1, *shape[2:]), window, None, *around)
        size = torch.Size((len(per_group), 1, *shape[2:]))
        below: Tensor = nngrad.conv2d_input(size, window, per_group / seen, *around)  # type: ignore[no-untyped-call]
        width = shape[1] // self.groups
        below = below.view(shape[0], self.groups, 1, *shape[2:]) / width
        return below.expand(-1, -1, width, -1, -1).reshape(shape)

    def scaled(self, scale: Tensor, shift: Tensor) -> "LinearLayer":
        """This layer followed by `scale * y + shift` of each output channel (O,)."""
        weight = self.weight * scale.view(-1, *[1] * (self.weight.ndim - 1))
        bias = shift if self.bias is None else self.bias * scale + shift
        around = (self.stride, self.padding, self.dilation, self.groups)
        return LinearLayer(weight, bias, *around)

    def shaped(self, bias: Tensor) -> Tensor:
        """A bias (O,) as it is added to outputs."""
        return bias if self.dense else bias.view(1, -1, 1, 1)


PARTS: dict[str, Callable[[Tensor], Tensor]] = {
    "all": lambda values: values,
    "positive": lambda values: values.clamp_min(0),
    "negative": lambda values: values.clamp_max(0),
    "ones": torch.ones_like,
    "raised": lambda values: values + GAMMA * values.clamp_min(0),
    "lowered": lambda values: values + GAMMA * values.clamp_max(0),
}
GAMMA = 0.25

_ALL = (Term("all", "all"),)
_HELPS = (Term("positive", "positive"), Term("negative", "negative"))
_HURTS = (Term("positive", "negative"), Term("negative", "positive"))
_UP = (Term("positive", "raised"), Term("negative", "lowered"))
_DOWN = (Term("positive", "lowered"), Term("negative", "raised"))
_BOX = (Term("all", "all"), Term("low", "positive", -1), Term("high", "negative", -1))

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        Rule("epsilon", "x w, bias keeps its share", (Share(_ALL, bias="all"),), epsilon=1e-6),
        Rule(
            "epsilon_quarter",
            "x w, bias keeps its share; sums far below the typical one are damped",
            (Share(_ALL, bias="all"),),
            epsilon=0.25,
        ),
        Rule(
            "zplus",
            "x⁺ w⁺ + x⁻ w⁻ for outputs from zero up, x⁺ w⁻ + x⁻ w⁺ below, no bias",
            (Share(_HELPS, outputs="above"), Share(_HURTS, outputs="below")),
            spreads=True,
        ),
        Rule(
            "gamma",
            "x (w + γ w⁺) for outputs above zero, x (w + γ w⁻) below, γ = 1/4",
            (
                Share(_UP, bias="raised", outputs="above"),
                Share(_DOWN, bias="lowered", outputs="below"),
            ),
            epsilon=1e-6,
        ),
        Rule(
            "alpha2beta1",
            "2 (x⁺ w⁺ + x⁻ w⁻) - (x⁺ w⁻ + x⁻ w⁺), no bias",
            (Share(_HELPS, factor=2.0), Share(_HURTS, factor=-1.0)),
        ),
        Rule("zbox", "x w - low w⁺ - high w⁻", (Share(_BOX),)),
        Rule("flat", "1", (Share((Term("ones", "ones"),)),)),
    )
}


def relevance_below(
    rule: Rule,
    layer: LinearLayer,
    x: Tensor,
    y: Tensor,
    above: Tensor,
    limits: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Share the relevance of a layer's outputs among its inputs.

    Args:
        rule: a row of `RULES`.
        layer: the layer, BatchNorm folded in.
        x: its input.
        y: its output, with bias.
        above: the relevance of y.
        limits: least and greatest possible input, each broadcastable to x, for `zbox`.

    Returns:
        The relevance of x, shaped as x.
    """
    negatives = bool((x < 0).any())
    total = torch.zeros_like(x)
    for share in rule.shares:
        relevance = _owed(share.outputs, y, above)
        if relevance is None:
            continue
        parts = [
            (
                term.sign,
                _input_part(term.input, x, limits, negatives),
                PARTS[term.weight](layer.weight),
            )
            for term in share.terms
            if negatives or term.input != "negative"
        ]
        contributions = _summed(share, layer, y, parts)
        # At each position: images may lie along any axis of what a dense layer sees.
        axes = (-1,) if layer.dense else None
        quotient = share.factor * divide(relevance, contributions, rule.epsilon, axes)
        for sign, part, weight in parts:
            total += sign * part * layer.down(quotient, weight, x.shape)
        unexplained = relevance * (contributions == 0) if rule.spreads else None
        if unexplained is not None and bool(unexplained.any()):
            total += layer.spread(unexplained, x.shape)
    return total


def _summed(
    share: Share, layer: LinearLayer, y: Tensor, parts: list[tuple[float, Tensor, Tensor]]
) -> Tensor:
    """The contributions to each output, summed."""
    if share.terms == _ALL and share.bias == "all":
        return y
    summed = sum((sign * layer.up(part, weight) for sign, part, weight in parts), y.new_zeros(()))
    if layer.bias is None or share.bias == "none":
        return summed
    return summed + layer.shaped(PARTS[share.bias](layer.bias))


def divide(
    above: Tensor, summed: Tensor, epsilon: float = 0.0, axes: tuple[int, ...] | None = None
) -> Tensor:
    """`above / summed`; 0 where there is nothing to share among.

    Args:
        above: (B, ...) relevance.
        summed: (B, ...) or broadcastable; sums of contributions.
        epsilon: moves sums away from zero by this share of their root mean square in the image.
        axes: of that mean square, all but the first if unset.
    """
    if epsilon:
        axes = axes or tuple(range(1, summed.ndim))
        spread = summed.square().mean(axes, keepdim=True).sqrt()
        summed = summed + torch.where(summed >= 0, epsilon, -epsilon).to(summed) * spread
    nothing = summed == 0
    return (above / summed.masked_fill(nothing, 1)).masked_fill(nothing, 0)


def _input_part(name: str, x: Tensor, limits: tuple[Tensor, Tensor] | None, signed: bool) -> Tensor:
    if name in ("low", "high"):
        if limits is None:
            raise ValueError("rule zbox needs the limits of the layer's input")
        return filled(limits[0] if name == "low" else limits[1], x)
    return x if name == "positive" and not signed else PARTS[name](x)


def filled(limit: Tensor, x: Tensor) -> Tensor:
    """A limit that broadcasts to x (B, ...) as (1 or B, ...), for a layer sums over every position.

    A convolution of a limit (1, C, 1, 1) would see one position in a field of padding.
    """
    images = limit.shape[0] if limit.ndim == x.ndim else 1
    return limit.expand(images, *x.shape[1:])


def _owed(outputs: str, y: Tensor, above: Tensor) -> Tensor | None:
    """The relevance of the outputs meant, zero elsewhere; None where there is none at all."""
    if outputs == "all":
        return above
    owed = above * ((y >= 0) if outputs == "above" else (y < 0))
    return owed if outputs == "above" or bool(owed.any()) else None
