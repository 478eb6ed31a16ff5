"""Layer-wise relevance propagation by our own small rules.

`lrp` takes any network whose calls have a rule in `lrp.calls`: AlexNet, VGG, SqueezeNet, ResNet,
DenseNet, GoogLeNet, MobileNet, EfficientNet, ConvNeXt, ViT, Swin, MaxViT, and what is built of the
same parts. A layer without a rule is an error that names it.

What is stated, because other choices exist: BatchNorm is folded into the linear layer before it,
and passes relevance where there is none; activations and LayerNorm pass relevance unchanged (where
terms of both signs count, LayerNorm is linear with its deviation held); a product with a gate gives
all to the gated signal, and the weights of attention are a gate; max pooling gives all to the
winner; sums and averages divide relevance among the terms that have the sign of the result, and so
does z+ for outputs below zero, which exist where no ReLU follows (linear bottlenecks, SiLU, GELU).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from alike.analysis.explain.gradients import DoesNotFit, Target, chosen, score
from alike.analysis.explain.lrp.composite import Composite
from alike.analysis.explain.lrp.rules import filled
from alike.analysis.explain.lrp.signals import Signals
from alike.analysis.explain.lrp.trace import RelevanceMode
from alike.extract.errors import BadInput
from alike.extract.networks import IMAGENET_MEAN, IMAGENET_STD

Shared = tuple[Tensor, Tensor]
"""A tensor of a pass, and its relevance."""
COMPOSITES: dict[str, Composite] = {
    row.name: row
    for row in (
        Composite(
            "plus_box", "zbox", "zplus", "epsilon", "same_sign",
            "z+ in convolutions, epsilon in the head, box at the pixels: the default",
        ),
        Composite(
            "plus_flat", "flat", "zplus", "epsilon", "same_sign",
            "as plus_box, but flat at the pixels",
        ),
        Composite(
            "deep_taylor", "zbox", "zplus", "zplus", "same_sign",
            "Montavon et al. 2017: nothing is lost to biases, everything is at least zero",
        ),
        Composite(
            "gamma_box", "zbox", "gamma", "epsilon", "same_sign",
            "gamma in convolutions: some of what speaks against is kept",
        ),
        Composite(
            "epsilon", "epsilon_quarter", "epsilon_quarter", "epsilon", "signed",
            "for and against; with a small epsilon it would be gradient times input",
        ),
    )
}  # fmt: skip


def lrp(
    module: nn.Module,
    batch: Tensor,
    target: Target,
    *,
    composite: str | Composite = "plus_box",
    limits: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Share each image's class score among its pixels.

    Args:
        module: a network in eval mode.
        batch: its input, (B, 3, H, W) or (B, D).
        target: (B,) int64, the class whose score is shared; or a function that chooses it.
        composite: a name of `COMPOSITES`, or a Composite.
        limits: least and greatest input, broadcastable to the batch, for the box rule; by default
            black and white under ImageNet's normalisation.

    Returns:
        Relevance shaped as the batch, same dtype. Its sum over an image is the score less what the
        biases of `epsilon` and `gamma` layers keep.

    Raises:
        DoesNotFit: a layer without a rule; the message names it and its place.
    """

    def score_of_class(scores: Sequence[Tensor]) -> list[Shared]:
        one = scores[0].gather(1, chosen(target, scores[0])[:, None])
        return [(one, one.detach())]

    def forward(pixels: Tensor) -> list[Tensor]:
        return [score(module, pixels)]

    return lrp_from(module, batch, forward, score_of_class, composite=composite, limits=limits)


def lrp_from(
    module: nn.Module,
    batch: Tensor,
    forward: Callable[[Tensor], Sequence[Tensor]],
    start: Callable[[Sequence[Tensor]], Sequence[Shared]],
    *,
    composite: str | Composite = "plus_box",
    limits: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Share the relevance of any tensors of a pass among the pixels.

    Args:
        module: a network in eval mode.
        batch: as `lrp`.
        forward: network input to tensors of its pass.
        start: these tensors to tensors made of them, each with its relevance, shaped as it.
        composite: as `lrp`.
        limits: as `lrp`.

    Returns:
        Relevance shaped as the batch.

    Raises:
        DoesNotFit: a layer without a rule; the message names it and its place.
    """
    rules = composite if isinstance(composite, Composite) else _composite(composite)
    low, high = (
        filled(limit.to(batch), batch)
        for limit in (pixel_limits(batch) if limits is None else limits)
    )
    with torch.enable_grad():
        pixels = batch.detach().clone().requires_grad_()
        signals = Signals(module, rules, pixels, (low, high))
        with RelevanceMode(signals):
            reached = [signals.current(tensor) for tensor in forward(pixels)]
        if any(tensor in signals.gates for tensor in reached):
            raise DoesNotFit(
                f"no relevance for {type(module).__name__}: what is explained is the result of a "
                "sigmoid or softmax, which only scale; explain the logits before it (network "
                "output), or take gradcam or sa"
            )
        if not all(tensor.requires_grad for tensor in reached):
            raise DoesNotFit(f"no relevance reaches the pixels of {type(module).__name__}")
        tensors, relevances = zip(*start(reached), strict=True)
        (relevance,) = torch.autograd.grad(tensors, pixels, grad_outputs=relevances)
    return relevance


def pixel_limits(
    batch: Tensor,
    mean: tuple[float, ...] = IMAGENET_MEAN,
    std: tuple[float, ...] = IMAGENET_STD,
) -> tuple[Tensor, Tensor]:
    """Black and white after normalisation, each (1, 3, 1, 1), or scalars for other inputs."""
    if batch.ndim != 4 or batch.shape[1] != len(mean):
        return batch.new_tensor(0.0), batch.new_tensor(1.0)
    centre, spread = (batch.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    low, high = -centre / spread, (1 - centre) / spread
    whole = (1, *batch.shape[1:])
    return low.expand(whole), high.expand(whole)


def _composite(name: str) -> Composite:
    if name not in COMPOSITES:
        raise BadInput(f"no LRP composite {name!r}: choose from {', '.join(COMPOSITES)}")
    return COMPOSITES[name]
