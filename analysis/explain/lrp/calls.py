"""What each torch function does to relevance: the tables, and a handler for each that mixes values.

A handler takes the signals, the function and the call's own arguments. It returns the call's result
from an autograd function of `lrp.functions`, whose backward pass carries relevance.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as nnf

from alike.analysis.explain.lrp import rules
from alike.analysis.explain.lrp.functions import Halves, Linear, Mix, Pass, Scaled, Sum
from alike.analysis.explain.lrp.signals import Signals, tensors_in


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# The relevance of a value goes to the place that the value came from: autograd's own rule.
MOVES = _names(
    """flatten unflatten view view_as reshape reshape_as ravel permute transpose swapaxes swapdims
    movedim contiguous roll flip pad unsqueeze squeeze expand expand_as repeat repeat_interleave
    tile cat concat stack split chunk unbind narrow select index_select gather where masked_fill
    __getitem__ unfold pixel_shuffle pixel_unshuffle channel_shuffle clone to type_as cpu cuda float
    double identity max_pool1d max_pool2d adaptive_max_pool2d amax"""
)
# Of these it is followed which values are the same for every image.
FOLLOWED = _names(
    """flatten unflatten view view_as reshape permute transpose swapaxes movedim contiguous roll
    unsqueeze squeeze expand cat concat stack split chunk unbind narrow select __getitem__ clone"""
)
# One number in, one number out, nothing mixed: relevance passes unchanged.
ELEMENTWISE = _names(
    """relu relu_ relu6 hardtanh hardtanh_ leaky_relu leaky_relu_ elu elu_ selu celu gelu silu mish
    hardswish softplus prelu rrelu tanh neg clamp clamp_min dropout dropout_ dropout2d
    feature_dropout alpha_dropout"""
)
# The result only scales: a gate, the weights of an attention, a length.
GATES = _names(
    "sigmoid sigmoid_ hardsigmoid hardsigmoid_ softmax norm linalg_norm linalg_vector_norm"
)
AVERAGES = _names(
    "mean sum avg_pool1d avg_pool2d adaptive_avg_pool1d adaptive_avg_pool2d interpolate"
)
# New tensors of the shape of a signal: no value of it is read.
SHAPES = _names("new_zeros new_ones new_full zeros_like ones_like full_like")
TWO_SIGNALS = "two signals are multiplied, and neither comes from a sigmoid or softmax"
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
    x, weight = input, weight.detach()
    if isinstance(padding, str):
        x, padding = _padded(signals, x, weight, padding, _two(dilation))
    bias = None if bias is None else bias.detach()
    with torch.no_grad():
        y = func(x.detach(), weight, bias, stride, padding, dilation, groups)
    around = (_two(stride), _two(padding), _two(dilation), groups)
    layer = rules.LinearLayer(weight, bias, *around)
    result = _linear_layer(signals, "conv2d", x, y, layer)
    signals.layers[result] = (x, layer)
    return result


def _padded(
    signals: Signals, x: Tensor, weight: Tensor, padding: str, dilation: tuple[int, int]
) -> tuple[Tensor, tuple[int, int]]:
    """Padding by name as numbers; where sides differ, the input with zeros around it."""
    if padding == "valid":
        return x, (0, 0)
    whole = [d * (side - 1) for d, side in zip(dilation, weight.shape[2:], strict=True)]
    if not any(total % 2 for total in whole):
        return x, (whole[0] // 2, whole[1] // 2)
    sides = [part for total in whole[::-1] for part in (total // 2, total - total // 2)]
    padded = nnf.pad(x, sides)
    signals.add(padded)
    if x in signals.limits:
        low, high = (nnf.pad(limit, sides) for limit in signals.limits[x])
        signals.limits[padded] = (low, high)
    return padded, (0, 0)


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
    signals.carry(x, result, mixed=True)
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
    """What only scales, such as RMSNorm: with its scale held, each value keeps its relevance."""
    with torch.no_grad():
        y = func(x.detach().clone(), *detached(args), **kw)
    result: Tensor = Pass.apply(x, y)
    return result


def _layer_norm(
    signals: Signals,
    func: Callable[..., Tensor],
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    axes = tuple(range(-len(normalized_shape), 0))

    def average(values: Tensor) -> Tensor:
        return values.mean(axes, keepdim=True)

    given = (normalized_shape, weight, bias, eps)
    result = _centred(signals, func, input, given, average, _plain(weight))
    if len(axes) == 1:
        # Else other tokens, which are of the image, are in each value.
        signals.carry(input, result, mixed=True)
    return result


def _group_norm(
    signals: Signals,
    func: Callable[..., Tensor],
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    def average(values: Tensor) -> Tensor:
        groups = values.reshape(len(values), num_groups, -1)
        return groups.mean(-1, keepdim=True).expand_as(groups).reshape(values.shape)

    channels = None if weight is None else weight.detach().view(1, -1, *[1] * (input.ndim - 2))
    return _centred(signals, func, input, (num_groups, weight, bias, eps), average, channels)


def _centred(
    signals: Signals,
    func: Callable[..., Tensor],
    x: Tensor,
    given: tuple[Any, ...],
    average: Callable[[Tensor], Tensor],
    weight: Tensor | None,
) -> Tensor:
    """LayerNorm and GroupNorm.

    Signed: linear with the deviation held, which is exact for gradient times input (Ali et al.
    2022). Else each value keeps its relevance (AttnLRP, Achtibat et al. 2024, section 3.3), which
    keeps signs and sums, but would divide by values near zero where terms of both signs count.
    """
    if signals.composite.sums != "signed":
        return _pass(signals, func, x, *given)
    with torch.no_grad():
        y = func(x.detach(), *detached(given))
        held = (average((x - average(x)).square()) + given[-1]).rsqrt()
        held = held if weight is None else held * weight
    result: Tensor = Scaled.apply(x, y, lambda values: (values - average(values)) * held)
    return result


def _add(
    signals: Signals, func: Callable[..., Tensor], a: Any, b: Any, *, alpha: float = 1
) -> Tensor:
    """A signal that is added to the scores of an attention is one of them."""
    if a in signals.scores or b in signals.scores:
        with torch.no_grad():
            scores: Tensor = _plain(a) + alpha * _plain(b)
        signals.add_scores(scores)
        return scores
    signals.refuse_gates("add", tensors_in((a, b)))
    if a in signals and b in signals:
        # A factor hands relevance on unchanged; its gradient would multiply it.
        term = b if alpha == 1 else Pass.apply(b, b.detach() * alpha)
        still = (signals.still.get(a), signals.still.get(b))
        result: Tensor = Sum.apply(a, term, signals.composite.sums, still)
        if still[0] is not None and still[1] is not None:
            signals.still[result] = still[0] & still[1]
        return result
    with torch.no_grad():
        y = _plain(a) + alpha * _plain(b)
    return _passed(signals, a if a in signals else b, y)


def _passed(signals: Signals, signal: Tensor, y: Tensor) -> Tensor:
    """y, made of the signal alone; where it was repeated to the shape of y, its relevance adds."""
    if signal.shape == y.shape:
        result: Tensor = Pass.apply(signal, y)
        signals.carry(signal, result)
        return result
    wide: Tensor = Pass.apply(signal.expand(y.shape), y)
    return wide


def _subtract(
    signals: Signals, func: Callable[..., Tensor], a: Any, b: Any, *, alpha: float = 1
) -> Tensor:
    signals.refuse_gates("sub", tensors_in((a, b)))
    minus = Pass.apply(b, -b.detach()) if b in signals else -b
    if b in signals:
        signals.add(minus)
        signals.carry(b, minus)
    return _add(signals, func, a, minus, alpha=alpha)


def _multiply(signals: Signals, func: Callable[..., Tensor], a: Any, b: Any) -> Tensor:
    """A gate or a constant scales: all relevance goes to the signal (Arras et al. 2017).

    Two signals have half of it each (Achtibat et al. 2024, the uniform rule of a product).
    """
    if any(value in signals.scores for value in tensors_in((a, b))):
        raise signals.no_rule("mul", TWO_SIGNALS)
    with torch.no_grad():
        y = _plain(a) * _plain(b)
    if a in signals and b in signals:
        halves: Tensor = Halves.apply(a, b, y)
        return halves
    return _passed(signals, a if a in signals else b, y)


def _glu(signals: Signals, func: Callable[..., Tensor], x: Tensor, dim: int = -1) -> Tensor:
    """The second half is the gate of the first."""
    with torch.no_grad():
        y = func(x.detach(), dim)
    result: Tensor = Pass.apply(x.chunk(2, dim)[0], y)
    return result


def _set_item(
    signals: Signals, func: Callable[..., None], target: Tensor, at: Any, value: Any
) -> None:
    """A new tensor with the values at their place; the name of the old one stands for it."""
    signals.refuse_gates("__setitem__", tensors_in((target, at, value)))
    written = target.clone()
    func(written, at, value)
    signals.add(written)
    mask = _still_mask(signals, target).clone()
    func(mask, at, _still_mask(signals, value))
    signals.still[written] = mask
    signals.replaced[target] = written


def _still_mask(signals: Signals, value: Any) -> Tensor:
    if value in signals:
        found = signals.still.get(value)
        return torch.zeros_like(value, dtype=torch.bool) if found is None else found
    return torch.ones_like(torch.as_tensor(value), dtype=torch.bool)


def _divide(signals: Signals, func: Callable[..., Tensor], a: Any, b: Any, **kwargs: Any) -> Tensor:
    if b in signals or b in signals.scores:
        raise signals.no_rule("div", "a signal is divided by")
    return _pass(signals, func, a, b, **kwargs)


def _average(
    signals: Signals, func: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    def average(values: Tensor) -> Tensor:
        return func(values, *args, **kwargs)

    if "bicubic" in (*args, kwargs.get("mode")):
        raise signals.no_rule(func.__name__, "bicubic interpolation has weights below zero")
    still = signals.still.get(x)
    result: Tensor = Mix.apply(x, average, None, signals.composite.sums, still)
    return result


def _mix(
    signals: Signals,
    name: str,
    values: Tensor,
    weights: Tensor,
    product: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Values weighed by what comes from the image too: all relevance goes to the values.

    Ali et al. 2022 (conservative propagation): the weights of an attention are a gate.
    """
    if values not in signals:
        raise signals.no_rule(name, "what is weighed does not come from the image, but the weights")
    up, down = weights.detach().clamp_min(0), weights.detach().clamp_max(0)
    signed = bool((down < 0).any())
    result: Tensor = Mix.apply(
        values,
        lambda part: product(part, up),
        (lambda part: product(part, down)) if signed else None,
        signals.composite.sums,
        signals.still.get(values),
    )
    return result


def _product(signals: Signals, func: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """Of two signals: the scores of an attention. Else: what a gate or a matrix makes of one."""
    name = func.__name__.strip("_")
    factors = tensors_in(args)
    if len(factors) != 2 or kwargs or (name == "einsum" and not isinstance(args[0], str)):
        raise signals.no_rule(name, "a product of two is expected")
    words = [one for one in args if isinstance(one, str)]
    first, second = factors
    if first in signals and second in signals:
        with torch.no_grad():
            scores: Tensor = func(*words, first.detach(), second.detach())
        signals.add_scores(scores)
        return scores
    values, weights = (first, second) if first in signals else (second, first)
    if weights in signals.scores:
        raise signals.no_rule(name, TWO_SIGNALS)
    if values is first and weights.ndim == 2 and not words and weights not in signals.gates:
        return _dense(signals, nnf.linear, values, weights.mT)
    if values is first:
        return _mix(signals, name, values, weights, lambda x, w: func(*words, x, w))
    return _mix(signals, name, values, weights, lambda x, w: func(*words, w, x))


def _attention(
    signals: Signals,
    func: Callable[..., Tensor],
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """A mean of the values, by weights that are those of the same call for the unit matrix."""
    if enable_gqa:
        raise signals.no_rule("scaled_dot_product_attention", "heads share their keys")
    with torch.no_grad():
        each = torch.eye(key.shape[-2], dtype=key.dtype, device=key.device)
        each = each.expand(*key.shape[:-1], key.shape[-2])
        mask = _plain(attn_mask)
        weights = func(_plain(query), _plain(key), each, mask, 0.0, is_causal, scale=scale)
    return _mix(signals, func.__name__, value, weights, lambda x, w: w @ x)


def _multi_head(signals: Signals, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """`nn.MultiheadAttention`: values and output are linear layers, weights are its own."""
    given = inspect.signature(func).bind(*args, **kwargs)
    given.apply_defaults()
    call = given.arguments
    value, heads = call["value"], call["num_heads"]
    odd = ("bias_k", "bias_v", "static_k", "static_v")
    if value.ndim != 3:
        raise signals.no_rule(func.__name__, "its values have no axis of images")
    if call["add_zero_attn"] or any(call[name] is not None for name in odd):
        raise signals.no_rule(func.__name__, "it adds keys or values of its own")
    with torch.no_grad():
        plain = {name: _plain(one) for name, one in call.items()}
        _, weights = func(**plain | {"need_weights": True, "average_attn_weights": False})
    width = call["embed_dim_to_check"]
    matrix = call["v_proj_weight"]
    if not call["use_separate_proj_weight"]:
        matrix = call["in_proj_weight"][2 * width :]
    bias = call["in_proj_bias"]
    bias = None if bias is None else bias[2 * width :]
    values = _dense(signals, nnf.linear, value, matrix, bias)
    signals.add(values)

    def heads_first(rows: Tensor) -> Tensor:
        return rows.view(*rows.shape[:2], heads, -1).permute(1, 2, 0, 3)

    by_head = heads_first(values)
    signals.add(by_head)
    if values in signals.still:
        signals.still[by_head] = heads_first(signals.still[values].contiguous())
    attended = _mix(signals, func.__name__, by_head, weights, lambda x, w: w @ x)
    joined = attended.permute(2, 0, 1, 3).flatten(2)
    signals.add(joined)
    result = _dense(signals, nnf.linear, joined, call["out_proj_weight"], call["out_proj_bias"])
    if not call["need_weights"]:
        return result, None
    told = weights.mean(1) if call["average_attn_weights"] else weights
    signals.add_gates(told)
    return result, told


HANDLERS: dict[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "linear": _dense,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    **dict.fromkeys(("rms_norm", "normalize"), _pass),
    **dict.fromkeys(("matmul", "__matmul__", "bmm", "einsum"), _product),
    "glu": _glu,
    "__setitem__": _set_item,
    "scaled_dot_product_attention": _attention,
    "multi_head_attention_forward": _multi_head,
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
