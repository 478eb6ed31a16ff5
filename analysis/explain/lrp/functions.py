"""Autograd functions whose backward pass carries relevance: layers, sums, products, means."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alike.analysis.explain.lrp import rules
from alike.extract.errors import BadInput

Still = tuple[Tensor | None, Tensor | None]
Map = Callable[[Tensor], Tensor]
# Terms of both signs may cancel; relevance above them is then small too, so this moves little.
SIGNED_EPSILON = 1e-9


class Pass(torch.autograd.Function):
    """Gives y forward; hands relevance to x unchanged."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor) -> Tensor:
        """Return y, which must be shaped as x."""
        if x.shape != y.shape:
            raise BadInput(f"relevance cannot pass from shape {tuple(y.shape)} to {tuple(x.shape)}")
        return y

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:
        """Relevance of x."""
        return above, None


class Linear(torch.autograd.Function):
    """A linear layer under a rule of `lrp.rules`."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, layer: rules.LinearLayer, rule: rules.Rule, limits: Any
    ) -> Tensor:
        """Return y, the layer's output, already computed."""
        ctx.save_for_backward(x, y)
        ctx.rule = (rule, layer, limits)
        return y

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:
        """Relevance of x."""
        x, y = ctx.saved_tensors
        rule, layer, limits = ctx.rule
        below = rules.relevance_below(rule, layer, x, y, above.contiguous(), limits)
        return below, None, None, None, None


class Scaled(torch.autograd.Function):
    """A normalisation whose scale is held: linear in x, and each y is owed to its terms."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, func: Map) -> Tensor:
        """Return y; func is x to y with the scale held, less its constant."""
        ctx.save_for_backward(x, y)
        ctx.how = func
        return y

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:
        """Relevance of x; the constant keeps its share."""
        x, y = ctx.saved_tensors
        pull = torch.func.vjp(ctx.how, x)[1]
        return x * pull(rules.divide(above, y, SIGNED_EPSILON))[0], None, None


class Sum(torch.autograd.Function):
    """a + b: the relevance is divided between the two terms."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, how: str, still: Still) -> Tensor:
        """Return a + b.

        Args:
            ctx: of autograd.
            a: the first term.
            b: the second.
            how: `signed` (in proportion) or `same_sign` (among terms of the sum's sign).
            still: where each is the same for every image, None for nowhere; there the other takes
                all, as the signal does where a constant is added.
        """
        ctx.save_for_backward(a, b)
        ctx.how = (how, still)
        return a + b

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:
        """Relevance of a and of b."""
        a, b = ctx.saved_tensors
        how, still = ctx.how
        first, second = a, b
        if how == "signed":
            quotient = rules.divide(above, a + b, SIGNED_EPSILON)
        else:
            up = a + b >= 0
            first, second = (torch.where(up, v.clamp_min(0), v.clamp_max(0)) for v in (a, b))
            quotient = rules.divide(above, first + second)
        shares = [first * quotient, second * quotient]
        for place, mask in enumerate(still):
            if mask is not None:
                shares[place] = shares[place].masked_fill(mask, 0)
                shares[1 - place] = torch.where(mask, above, shares[1 - place])
        return shares[0].sum_to_size(a.shape), shares[1].sum_to_size(b.shape), None, None


class Halves(torch.autograd.Function):
    """Gives y, a product of a and b; hands half of the relevance to each."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, y: Tensor) -> Tensor:
        """Return y."""
        ctx.shapes = (a.shape, b.shape)
        return y

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:
        """Relevance of a and of b."""
        first, second = ctx.shapes
        return (above / 2).sum_to_size(first), (above / 2).sum_to_size(second), None


class Mix(torch.autograd.Function):
    """A linear map of values: an average, or attention, whose weights are taken as they are.

    Relevance goes to the values in proportion to what each contributes (`signed`), or to those
    that have the sign of the result (`same_sign`).
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, up: Map, down: Map | None, how: str, still: Tensor | None
    ) -> Tensor:
        """Return up(x) + down(x).

        Args:
            ctx: of autograd.
            x: values.
            up: the map's weights of at least zero.
            down: those below zero; None if there are none.
            how: `signed` or `same_sign`.
            still: values that are the same for every image; of `same_sign` the others share all.
        """
        y = up(x) if down is None else up(x) + down(x)
        ctx.save_for_backward(x, y)
        ctx.how = (up, down, how, still)
        return y

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:
        """Relevance of x."""
        x, y = ctx.saved_tensors
        up, down, how, still = ctx.how
        if how == "signed":
            quotient = rules.divide(above, y, SIGNED_EPSILON)
            maps = [up] if down is None else [up, down]
            below = x * sum(torch.func.vjp(one, x)[1](quotient)[0] for one in maps)
            return below, None, None, None, None
        below = torch.zeros_like(x)
        x = x if still is None else x.masked_fill(still, 0)
        parts = [x.clamp_min(0), x.clamp_max(0) if bool((x < 0).any()) else None]
        for first, second, outputs in ((up, down, y >= 0), (down, up, y < 0)):
            terms = [
                (part, *torch.func.vjp(one, part))
                for one, part in zip((first, second), parts, strict=True)
                if one is not None and part is not None
            ]
            if terms:
                quotient = rules.divide(above * outputs, sum(summed for _, summed, _ in terms))
                below += sum(part * pulled(quotient)[0] for part, _, pulled in terms)
        return below, None, None, None, None
