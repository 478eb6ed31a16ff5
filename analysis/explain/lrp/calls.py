"""What each torch function does to relevance: the tables, and a handler for each that mixes values.

A handler takes the signals, the function and the call's own arguments. It returns the call's result
from an autograd function of `lrp.functions`, whose backward pass carries relevance.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from alike.analysis.explain.lrp import rules
from alike.analysis.explain.lrp.functions import Average, Linear, Pass, Sum
from alike.analysis.explain.lrp.signals import Signals, tensors_in


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The relevance of a value goes to the place that the value came from: autograd's own rule.
MOVES = _names(
    """flatten unflatten view view_as reshape permute transpose swapaxes movedim contiguous roll pad
    unsqueeze squeeze expand expand_as cat concat stack split chunk unbind narrow select __getitem__
    pixel_shuffle pixel_unshuffle channel_shuffle clone to cpu cuda float double identity max_pool2d
    adaptive_max_pool2d amax"""
)
# One number in, one number out, nothing mixed: relevance passes unchanged.
ELEMENTWISE = _names(
    """relu relu_ relu6 hardtanh hardtanh_ leaky_relu leaky_relu_ elu elu_ selu celu gelu silu mish
    hardswish softplus prelu rrelu tanh neg clamp clamp_min dropout dropout_ dropout2d
    feature_dropout alpha_dropout"""
)
GATES = _names("sigmoid sigmoid_ hardsigmoid hardsigmoid_")
AVERAGES = _names("mean sum avg_pool2d adaptive_avg_pool2d interpolate")
# Changes of scale keep track of the least and greatest input for the box rule.
SCALINGS = _names("mul mul_ add add_ sub sub_ div div_")


def _linear_layer(
    signals: Signals, name: str, x: Tensor, y: Tensor, layer: rules.LinearLayer
) -> Tensor:
    composite, limits = signals.composite, signals.limits.get(x)
    kind = "pixels" if limits is not None else "convolution"
    if limits is None and layer.dense and x.ndim == 2:
        kind = "dense"
    named = getattr(composite, kind)
    rule = named if isinstance(named, rules.Rule) else rules.RULES[named]
    if x in signals.gates or x not in signals:
        raise signals.no_rule(name, "its weight, not its input, comes from the image")
    result: Tensor = Linear.apply(x, y, layer, rule, limits)
    return result


def _conv2d(
    signals: Signals,
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    if isinstance(padding, str):
        raise signals.no_rule("conv2d", f"padding {padding!r} is given by name")
    x, weight = input, weight.detach()
    bias = None if bias is None else bias.detach()
    with torch.no_grad():
        y = func(x.detach(), weight, bias, stride, padding, dilation, groups)
    around = (_two(stride), _two(padding), _two(dilation), groups)
    layer = rules.LinearLayer(weight, bias, *around)
    result = _linear_layer(signals, "conv2d", x, y, layer)
    signals.layers[result] = (x, layer)
    return result


def _dense(
    signals: Signals,
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    x, weight = input, weight.detach()
    bias = None if bias is None else bias.detach()
    with torch.no_grad():
        y = func(x.detach(), weight, bias)
    layer = rules.LinearLayer(weight, bias)
    result = _linear_layer(signals, "linear", x, y, layer)
    signals.layers[result] = (x, layer)
    return result


def _batch_norm(
    signals: Signals,
    func: Callable[..., Tensor],
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Folded into the linear layer before it; alone, a map of each channel: relevance passes."""
    if training or running_mean is None or running_var is None:
        raise signals.no_rule("batch_norm", "it uses the statistics of the batch")
    x = input
    with torch.no_grad():
        y = func(x.detach(), running_mean, running_var, weight, bias, False, momentum, eps)
        scale = (running_var + eps).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - running_mean * scale
    if x not in signals.layers:
        alone: Tensor = Pass.apply(x, y)
        return alone
    source, layer = signals.layers[x]
    return _linear_layer(signals, "batch_norm", source, y, layer.scaled(scale, shift))


def _pass(
    signals: Signals, func: Callable[..., Tensor], x: Tensor, *args: Any, **kw: Any
) -> Tensor:
    """LayerNorm and its kin, the identity rule of Achtibat et al. 2024 (AttnLRP), section 3.3."""
    with torch.no_grad():
        y = func(x.detach().clone(), *detached(args), **kw)
    result: Tensor = Pass.apply(x, y)
    return result


def _add(
    signals: Signals, func: Callable[..., Tensor], a: Any, b: Any, *, alpha: float = 1
) -> Tensor:
    signals.refuse_gates("add", tensors_in((a, b)))
    if a in signals and b in signals:
        # A factor hands relevance on unchanged; its gradient would multiply it.
        term = b if alpha == 1 else Pass.apply(b, b.detach() * alpha)
        result: Tensor = Sum.apply(a, term, signals.composite.sums)
        return result
    with torch.no_grad():
        y = _plain(a) + alpha * _plain(b)
    constant: Tensor = Pass.apply(a if a in signals else b, y)
    return constant


def _subtract(
    signals: Signals, func: Callable[..., Tensor], a: Any, b: Any, *, alpha: float = 1
) -> Tensor:
    if b in signals:
        raise signals.no_rule("sub", "a signal is subtracted")
    return _add(signals, func, a, -b, alpha=alpha)


def _multiply(signals: Signals, func: Callable[..., Tensor], a: Any, b: Any) -> Tensor:
    """A gate or a constant scales: all relevance goes to the signal (Arras et al. 2017)."""
    if a in signals and b in signals:
        raise signals.no_rule("mul", "two signals are multiplied, and neither comes from a sigmoid")
    with torch.no_grad():
        y = _plain(a) * _plain(b)
    result: Tensor = Pass.apply(a if a in signals else b, y)
    return result


def _divide(signals: Signals, func: Callable[..., Tensor], a: Any, b: Any, **kwargs: Any) -> Tensor:
    if b in signals:
        raise signals.no_rule("div", "a signal is divided by")
    return _pass(signals, func, a, b, **kwargs)


def _average(
    signals: Signals, func: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    def average(values: Tensor) -> Tensor:
        return func(values, *args, **kwargs)

    result: Tensor = Average.apply(x, average, signals.composite.sums)
    return result


HANDLERS: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "linear": _dense,
    "batch_norm": _batch_norm,
    **dict.fromkeys(("layer_norm", "group_norm", "rms_norm"), _pass),
    **dict.fromkeys(("add", "add_"), _add),
    **dict.fromkeys(("sub", "sub_"), _subtract),
    **dict.fromkeys(("mul", "mul_"), _multiply),
    **dict.fromkeys(("div", "div_"), _divide),
    **dict.fromkeys(AVERAGES, _average),
}


def _plain(value: Any) -> Any:
    return value.detach() if isinstance(value, Tensor) else value


def detached(args: Sequence[Any]) -> list[Any]:
    """Arguments without their gradients."""
    return [_plain(value) for value in args]


def _two(value: Any) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    return (pair[0], pair[-1])
