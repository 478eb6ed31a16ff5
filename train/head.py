"""The classifier at the end of a network: found, replaced, or fixed to a simplex."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from alike.extract.errors import BadInput
from alike.extract.networks import first_tensor


@dataclass(frozen=True)
class Head:
    """The last layer with weights.

    Attributes:
        path: dotted name in the network.
        layer: a Linear, or a Conv2d of 1x1.
        classes: its outputs.
    """

    path: str
    layer: nn.Linear | nn.Conv2d
    classes: int


def find_head(module: nn.Module, example: Tensor) -> Head:
    """Find the last Linear or Conv2d that runs and has as many outputs as there are logits.

    Args:
        module: in eval mode.
        example: (1, 3, H, W) network input.

    Raises:
        BadInput: the network ends in another way, so it cannot be retrained for classes.
    """
    ran: list[tuple[str, nn.Linear | nn.Conv2d]] = []
    handles = []
    for path, layer in module.named_modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):

            def note(_layer: nn.Module, _args: object, _out: object, at: str = path) -> None:
                ran.append((at, module.get_submodule(at)))  # type: ignore[arg-type]

            handles.append(layer.register_forward_hook(note))
    try:
        with torch.no_grad():
            output = first_tensor((module(example),))
    finally:
        for handle in handles:
            handle.remove()
    if output is None or output.ndim != 2:
        raise BadInput("the network gives no logits (B, classes); retraining needs a classifier")
    for path, layer in reversed(ran):
        if layer.weight.shape[0] == output.shape[1]:
            return Head(path, layer, output.shape[1])
    raise BadInput("the network does not end in a Linear or 1x1 Conv2d; its head cannot be found")


def resize_head(module: nn.Module, path: str, classes: int, seed: int = 0) -> None:
    """Put a new layer with `classes` outputs and fresh weights in the place of the head."""
    old = module.get_submodule(path)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new: nn.Module
        if isinstance(old, nn.Linear):
            new = nn.Linear(old.in_features, classes, bias=old.bias is not None)
        elif isinstance(old, nn.Conv2d):
            new = nn.Conv2d(old.in_channels, classes, 1, bias=old.bias is not None)
        else:
            raise BadInput(f"head {path} is a {type(old).__name__}; a Linear or Conv2d is expected")
    new.to(next(old.parameters()).device)
    parent, _, name = path.rpartition(".")
    setattr(module.get_submodule(parent), name, new)


def simplex(classes: int, width: int) -> Tensor:
    """Unit rows (classes, width) with equal angles, cosine -1/(K-1): a simplex ETF.

    They are turned in all directions of the feature at once, by a rotation that is always the same
    (Yang et al. 2022, "Inducing neural collapse in imbalanced learning"). A feature after a ReLU
    has no negative numbers: on the first K - 1 channels alone it could never be of some classes.

    Raises:
        BadInput: `width` < `classes` - 1, in which no such rows exist.
    """
    if classes < 2 or width < classes - 1:
        raise BadInput(
            f"etf_head needs a feature of at least {max(classes, 2) - 1} values for {classes} "
            f"classes, but the head takes {width}; choose another loss"
        )
    centred = torch.eye(classes, dtype=torch.float64) - 1.0 / classes
    # The K centred unit vectors span K-1 dimensions; its basis makes them fit into width = K-1.
    basis = torch.linalg.qr(centred[:, : classes - 1]).Q
    rows = math.sqrt(classes / (classes - 1)) * centred @ basis
    draw = np.random.default_rng(0).standard_normal((width, classes - 1))
    turned, triangle = torch.linalg.qr(torch.from_numpy(draw))
    # The signs of a decomposition are the library's; those of its diagonal make it one of a kind.
    turned = turned * triangle.diagonal().sign()
    wide: Tensor = rows @ turned.T
    return wide.float()


def fix_to_simplex(module: nn.Module, path: str) -> None:
    """Set the head's weights to `simplex`, its bias to 0, and take both out of training."""
    layer = module.get_submodule(path)
    if not isinstance(layer, nn.Linear):
        raise BadInput(f"etf_head needs a Linear classifier; head {path} is no Linear")
    with torch.no_grad():
        layer.weight.copy_(simplex(layer.out_features, layer.in_features))
        if layer.bias is not None:
            layer.bias.zero_()
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
