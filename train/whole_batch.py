"""A batch that several processes share: each has a part, every loss is that of the whole batch.

Features are gathered with their gradients. All processes compute the same loss L of the gathered
batch, so the gradient that comes back to a part is the sum over processes, W · dL/dpart. The mean
over W processes that DistributedDataParallel takes of the gradients of weights makes it dL/dweight.
The same holds for the sums of BatchNorm.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor, distributed, nn


def part_of(size: int, rank: int, world: int) -> slice:
    """Which images of a batch a process has.

    Args:
        size: images of the batch.
        rank: of the process.
        world: number of processes.

    Example:
        >>> [part_of(33, rank, 2) for rank in range(2)]
        [slice(0, 16, None), slice(16, 33, None)]
    """
    return slice(rank * size // world, (rank + 1) * size // world)


def world_size() -> int:
    """Number of processes that train together; 1 outside of a training by several."""
    there = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if there else 1


def gathered(part: Tensor, size: int) -> Tensor:
    """The values of the whole batch, with gradients to the parts.

    Args:
        part: (b, ...) values of `part_of` this process.
        size: B, images of the whole batch.

    Returns:
        (B, ...) the same on all processes; `part` itself if there is only one.
    """
    if world_size() == 1:
        return part
    whole: Tensor = _Gathered.apply(part, size)
    return whole


def summed(values: Tensor) -> Tensor:
    """The sum over processes, with its gradient; the values themselves if there is only one."""
    if world_size() == 1:
        return values
    total: Tensor = _Summed.apply(values)
    return total


class _Gathered(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, part: Tensor, size: int) -> Tensor:
        world, rank = distributed.get_world_size(), distributed.get_rank()
        slices = [part_of(size, one, world) for one in range(world)]
        lengths = [one.stop - one.start for one in slices]
        ctx.mine = slices[rank]
        # All have the same length while they travel.
        sent = part.new_zeros((max(lengths), *part.shape[1:]))
        sent[: len(part)] = part
        parts = [torch.empty_like(sent) for _ in slices]
        distributed.all_gather(parts, sent)
        return torch.cat([one[:length] for one, length in zip(parts, lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total[ctx.mine], None


class _Summed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(total)
        return total


def batch_norms(net: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """The BatchNorm layers of a network."""
    return [one for one in net.modules() if isinstance(one, nn.modules.batchnorm._BatchNorm)]


def share_statistics(net: nn.Module) -> None:
    """Let the BatchNorms of a network take mean and variance of the whole batch.

    torch's own SyncBatchNorm does not run on a CPU.
    """
    for layer in batch_norms(net):
        layer.forward = partial(_whole_norm, layer)  # type: ignore[method-assign]


def own_statistics(net: nn.Module) -> None:
    """Undo `share_statistics`."""
    for layer in batch_norms(net):
        vars(layer).pop("forward", None)


def _whole_norm(layer: nn.modules.batchnorm._BatchNorm, values: Tensor) -> Tensor:
    """BatchNorm in training by the statistics of all processes (Ioffe & Szegedy 2015, alg. 1).

    Args:
        layer: with its weights and running statistics.
        values: (b, C, ...) of this process.
    """
    if not (layer.training or layer.running_mean is None):
        return type(layer).forward(layer, values)
    wide = values if values.dtype == torch.float64 else values.float()
    others = [axis for axis in range(wide.dim()) if axis != 1]
    shape = [1, -1, *(1 for _ in others[1:])]
    count = summed(wide.new_tensor([wide.numel() / wide.shape[1]]))
    mean = summed(wide.sum(others)) / count
    centred = wide - mean.view(shape)
    variance = summed(centred.square().sum(others)) / count
    _follow(layer, mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
    scaled = centred * torch.rsqrt(variance + layer.eps).view(shape)
    if layer.affine:
        scaled = scaled * layer.weight.view(shape) + layer.bias.view(shape)
    return scaled.to(values.dtype)


@torch.no_grad()
def _follow(layer: nn.modules.batchnorm._BatchNorm, mean: Tensor, variance: Tensor) -> None:
    """Move the running statistics, as torch's BatchNorm does."""
    if not layer.training or layer.running_mean is None or layer.running_var is None:
        return
    share = layer.momentum
    if layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        share = 1.0 / float(layer.num_batches_tracked) if share is None else share
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share or 0.0)
    layer.running_var.lerp_(variance.to(layer.running_var.dtype), share or 0.0)
