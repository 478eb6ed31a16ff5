"""BatchNorm folded into the convolution before it: the same function in fewer passes over memory.

In eval mode BatchNorm is y = (x - mean) / sqrt(var + eps) * weight + bias, channel by channel, so
its factor can go into the convolution's kernels and the rest into its bias (Jacob et al. 2018,
section 3.2). On CPUs this doubles the speed of networks of thin convolutions.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from alike.extract.networks.capture import Tap, first_tensor
from alike.extract.networks.trace import Call, Trace, trace_forward

CLOSE = 1e-4
"""Largest change of the output, relative to its largest value, that counts as rounding."""


def folded(
    module: nn.Module, taps: Sequence[Tap], size: tuple[int, int]
) -> tuple[nn.Module, list[Tap]]:
    """A copy of a network in eval mode with BatchNorms folded, if that changes nothing else.

    A pair is folded when the convolution runs once, its result goes to the BatchNorm alone, and
    both are torch's own layers. Convolutions that are tapped are left as they are. The output for
    one random image is compared: if it differs by more than rounding, the copy is not folded.

    Args:
        module: on the CPU; not changed.
        taps: that will be captured.
        size: (height, width) of the input.

    Returns:
        The copy, and the taps as they are found in it: BatchNorms that are folded run no more.
    """
    own = copy.deepcopy(module).eval()
    parameter = next(own.parameters(), torch.empty(0))
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(1, 3, *size, generator=generator).to(parameter)
    trace = trace_forward(own, example)
    names = {part: name for name, part in own.named_modules()}
    tapped = {(tap.function, tap.occurrence) for tap in taps if tap.side == "output"}
    read = {tap.occurrence for tap in taps if (tap.function, tap.side) == ("batch_norm", "input")}
    pairs = [
        pair for pair in _pairs(trace, own)
        if (pair[0].function, pair[0].occurrence) not in tapped and pair[1].occurrence not in read
    ]  # fmt: skip
    for _, _, convolution, norm in pairs:
        _fold(convolution, norm)
        own.set_submodule(names[norm], nn.Identity())
    with torch.no_grad():
        before, after = trace.output, first_tensor((own(example),))
    if before is None or not (after - before).abs().max() <= CLOSE * before.abs().max():
        return copy.deepcopy(module).eval(), list(taps)
    gone = {after.occurrence: producer.occurrence for producer, after, _, _ in pairs}
    return own, [_moved(tap, gone) for tap in taps]


def _moved(tap: Tap, gone: Mapping[int, int]) -> Tap:
    """Find a tap of a BatchNorm again, by its number or as the convolution that it went into.

    Args:
        tap: of the network as it was.
        gone: occurrence of a folded BatchNorm to that of its convolution.
    """
    if tap.function != "batch_norm":
        return tap
    if tap.occurrence in gone and tap.side == "output":
        return replace(tap, function="conv2d", occurrence=gone[tap.occurrence])
    return replace(tap, occurrence=tap.occurrence - sum(n < tap.occurrence for n in gone))


def _pairs(
    trace: Trace, module: nn.Module
) -> Iterator[tuple[Call, Call, nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions whose only consumer is a BatchNorm, each running once: calls, then modules."""
    uses = Counter(id(value) for call in trace.calls for value in _tensors(call.args))
    owner = {
        id(value): part
        for part in module.modules()
        for value in (*part.parameters(recurse=False), *part.buffers(recurse=False))
    }
    for call in trace.calls:
        if call.function != "batch_norm" or len(call.args) < 2:
            continue
        producer = next(trace.before(call), None)
        norm = owner.get(id(call.args[1]))
        if producer is None or producer.function != "conv2d" or type(norm) is not nn.BatchNorm2d:
            continue
        convolution = owner.get(id(producer.args[1]))
        alone = uses[id(producer.result)] == 1 and producer.result is not trace.output
        once = uses[id(producer.args[1])] == 1 and uses[id(call.args[1])] == 1
        if type(convolution) is nn.Conv2d and alone and once:
            yield producer, call, convolution, norm


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


@torch.no_grad()
def _fold(convolution: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Put a BatchNorm's factor and shift into a convolution, in float64."""
    if norm.running_mean is None or norm.running_var is None:
        return
    factor = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        factor = factor * norm.weight.double()
    bias = torch.zeros_like(factor) if convolution.bias is None else convolution.bias.double()
    shifted = (bias - norm.running_mean.double()) * factor
    if norm.bias is not None:
        shifted = shifted + norm.bias.double()
    kernels = convolution.weight
    kernels.copy_((kernels.double() * factor.view(-1, 1, 1, 1)).to(kernels.dtype))
    convolution.bias = nn.Parameter(shifted.to(kernels.dtype), requires_grad=False)
