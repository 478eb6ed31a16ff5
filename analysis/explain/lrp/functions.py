"""Autograd functions whose backward pass carries relevance: pass, linear layer, sum, average."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from alike.analysis.explain.lrp import rules
from alike.extract.errors import BadInput

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


class Sum(torch.autograd.Function):
    """a + b: the relevance is divided between the two terms."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, how: str) -> Tensor:
        """Return a + b."""
        ctx.save_for_backward(a, b)
        ctx.how = how
        return a + b

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:
        """Relevance of a and of b."""
        a, b = ctx.saved_tensors
        if ctx.how == "signed":
            quotient = rules.divide(above, a + b, SIGNED_EPSILON)
            return (a * quotient).sum_to_size(a.shape), (b * quotient).sum_to_size(b.shape), None
        up = a + b >= 0
        first, second = (torch.where(up, v.clamp_min(0), v.clamp_max(0)) for v in (a, b))
        quotient = rules.divide(above, first + second)
        shares = ((first * quotient).sum_to_size(a.shape), (second * quotient).sum_to_size(b.shape))
        return (*shares, None)


class Average(torch.autograd.Function):
    """A linear map with weights of at least zero: mean, average pooling, interpolation."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, func: Callable[[Tensor], Tensor], how: str) -> Tensor:
        """Return func(x)."""
        y = func(x)
        ctx.save_for_backward(x, y)
        ctx.how = (func, how)
        return y

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> Any:
        """Relevance of x: in proportion to the values of the average's own sign."""
        x, y = ctx.saved_tensors
        func, how = ctx.how
        if how == "signed":
            down = torch.func.vjp(func, x)[1]
            return x * down(rules.divide(above, y, SIGNED_EPSILON))[0], None, None
        below = torch.zeros_like(x)
        kinds = [(x.clamp_min(0), y >= 0), (x.clamp_max(0), y < 0)]
        for part, outputs in kinds[: 2 if bool((x < 0).any()) else 1]:
            pulled = torch.func.vjp(func, part)
            below += part * pulled[1](rules.divide(above * outputs, pulled[0]))[0]
        return below, None, None
