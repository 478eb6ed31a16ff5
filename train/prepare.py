"""From a network and labelled images to the start of a run: classes, head, taps."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from alike.extract.errors import BadInput
from alike.extract.networks import Network, Tap, TappedNetwork, find_taps, kind_of
from alike.train.head import find_head, fix_to_simplex, resize_head
from alike.train.losses import Loss
from alike.train.start import Start


def class_order(network: Network, labels: Sequence[str], outputs: int) -> tuple[list[str], str]:
    """Names of the classes in the order of the logits, and the decision in words.

    The network's own names if they hold every label; else the labels in alphabetical order,
    which is how folders of classes are numbered everywhere.

    Raises:
        BadInput: fewer than two classes.
    """
    present = sorted(set(labels))
    if len(present) < 2:
        raise BadInput(f"images of {len(present)} class ({', '.join(present)}): two are needed")
    own = network.class_names
    if own and len(own) == outputs and set(present) <= set(own):
        return list(own), f"classes: the network's own {len(own)}, {len(present)} of them seen"
    if len(present) == outputs:
        return present, f"classes: the {outputs} labels in alphabetical order are the logits' order"
    return present, f"classes: the {len(present)} labels, in alphabetical order"


@dataclass(frozen=True)
class Prepared:
    """A network that is ready to train.

    Attributes:
        module: a copy, with the head that the images ask for.
        start: what the run starts from.
        names: of the classes, in the order of the logits.
        decisions: what was decided on the way, each a sentence.
    """

    module: nn.Module
    start: Start
    names: list[str]
    decisions: list[str]


def prepare(
    network: Network, labels: Sequence[str], size: tuple[int, int], loss: Loss, seed: int
) -> Prepared:
    """A copy of a network with the head and the taps that a loss needs.

    Args:
        network: stays as it is.
        labels: of all training images.
        size: (height, width) of the network's input.
        loss: decides whether the head is fixed, and whether a map is needed.
        seed: of a new head.

    Raises:
        BadInput: no classifier at the end, no feature map for a loss that needs one.
    """
    module = copy.deepcopy(network.module).eval()
    _leave_auxiliary_heads(module)
    example = torch.zeros(1, 3, *size)
    head = find_head(module, example)
    names, decision = class_order(network, labels, head.classes)
    decisions = [decision]
    fresh = len(names) != head.classes
    if fresh:
        if kind_of(network.name).classes_argument() is None:
            raise BadInput(
                f"network {network.name} has {head.classes} outputs, the images {len(names)} "
                "classes, and its factory takes no number of classes: add an argument to it, "
                "num_classes=K"
            )
        decisions.append(
            f"head {head.path}: {head.classes} outputs replaced by {len(names)} with new weights"
        )
        resize_head(module, head.path, len(names), seed)
    if loss.head == "etf":
        fix_to_simplex(module, head.path)
        decisions.append(f"head {head.path}: fixed to a simplex, it does not learn")
    head = find_head(module, example)
    taps = _taps_for(loss, find_taps(module, example), network.name)
    linear = "last_conv" in taps and _is_linear(module, head.path, taps, size)
    if loss.linear and not linear:
        msg = f"loss {loss.name} reads the weights of a linear layer after global pooling"
        raise BadInput(f"{msg}, {network.name} ends otherwise; choose supcon:gap_cosine")
    start = Start(head, taps, linear, network.weights != "none", fresh, loss.head == "etf")
    if loss.masked:
        decisions.append(_mask_decision(module, start, size, loss.name))
    return Prepared(module, start, names, decisions)


def _taps_for(loss: Loss, taps: Mapping[str, Tap], network: str) -> dict[str, Tap]:
    """The taps that a loss reads, and the logits."""
    names = {"last_conv", "logits", *loss.taps}
    if loss.make and "last_conv" not in taps:
        raise BadInput(f"loss {loss.name} needs a feature map, {network} has none; use ce")
    if "fc" in loss.taps and "fc" not in taps:
        raise BadInput(f"loss {loss.name} needs a last linear layer, {network} has none")
    return {name: tap for name, tap in taps.items() if name in names}


def _leave_auxiliary_heads(module: nn.Module) -> None:
    if getattr(module, "aux_logits", False) is True:
        # GoogLeNet and Inception give a tuple in training mode; their side heads stay untrained.
        setattr(module, "aux_logits", False)  # noqa: B010


def _captured(
    module: nn.Module, taps: dict[str, Tap], size: tuple[int, int], batch: int = 2
) -> dict[str, torch.Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = torch.randn(batch, 3, *size)
    return TappedNetwork(module, list(taps.values()))(inputs)


def _is_linear(module: nn.Module, path: str, taps: dict[str, Tap], size: tuple[int, int]) -> bool:
    """Whether logits = W · mean of ``last_conv`` + b, tried on a random input."""
    layer = module.get_submodule(path)
    assert isinstance(layer, nn.Linear | nn.Conv2d)
    with torch.no_grad():
        captured = _captured(module, taps, size)
        pooled, logits = captured["last_conv"].mean((2, 3)), captured["logits"]
        weight = layer.weight.flatten(1)
        if weight.shape[1] != pooled.shape[1]:
            return False
        linear = pooled @ weight.T
        if layer.bias is not None:
            linear = linear + layer.bias
    return torch.allclose(linear, logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))


def _mask_decision(module: nn.Module, start: Start, size: tuple[int, int], loss: str) -> str:
    if start.linear:
        return "mask: class activation map (pooling and a linear head)"
    captured = _captured(module, start.taps, size)
    (gradient,) = torch.autograd.grad(
        captured["logits"].sum(), captured["last_conv"], allow_unused=True
    )
    if gradient is None:
        raise BadInput(
            f"loss {loss} needs class activation, but the map of this network is rearranged on its "
            "way to the logits; choose gap_supcon"
        )
    return "mask: Grad-CAM, since the head is not pooling and one linear layer"
