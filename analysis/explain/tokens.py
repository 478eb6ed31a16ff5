"""Transformers: the tokens that still reach the logits, and the share of the class token.

A network with a class token takes its logits from that token alone. What enters the pooling are
then tokens of patches that nothing reads any more: their gradient is zero, and so is Grad-CAM. The
last tokens that matter are those that the last attention reads. These are what the output of the
normalisation before it holds (in pytorch-grad-cam: ``target_layers=[model.blocks[-1].norm1]``).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from alike.extract.networks import Tap, TappedNetwork, taps_at

if TYPE_CHECKING:
    from alike.extract.networks import Network

Size = tuple[int, int]
_PATHS: WeakKeyDictionary[nn.Module, dict[Size, str]] = WeakKeyDictionary()


def last_read_tokens(
    module: nn.Module, batch: Tensor, tap: Tap, score: Callable[[nn.Module, Tensor], Tensor]
) -> str:
    """Path of the last module whose output holds tokens of patches that the scores depend on.

    Found by one pass of one image, and remembered for as long as the module lives. That there is
    none is not: scores of a classifier whose weights are still zero depend on no token.

    Args:
        module: in eval mode.
        batch: network input (B, 3, H, W).
        tap: ``last_conv`` of the module, of the layout `tokens`.
        score: (module, batch) -> (B, K).

    Returns:
        The path; "" if there is none.
    """
    size = (int(batch.shape[-2]), int(batch.shape[-1]))
    paths = _PATHS.setdefault(module, {})
    if not paths.get(size):
        paths[size] = _search(module, batch[:1], tap, score)
    return paths[size]


def _search(
    module: nn.Module, image: Tensor, tap: Tap, score: Callable[[nn.Module, Tensor], Tensor]
) -> str:
    channels, height, width = tap.shape
    shape = (1, tap.prefix + height * width, channels)
    outputs: dict[str, list[Tensor]] = {}

    def watch(path: str) -> Callable[..., None]:
        def keep(_part: nn.Module, _args: object, output: object) -> None:
            if isinstance(output, Tensor) and tuple(output.shape) == shape and output.requires_grad:
                # Moved to the end: a module that runs again counts where it ran last.
                outputs[path] = [*outputs.pop(path, []), output]

        return keep

    handles = [part.register_forward_hook(watch(path)) for path, part in module.named_modules()]
    try:
        with torch.enable_grad():
            scores = score(module, image.detach().clone().requires_grad_())
            # Weighted: the plain sum of centred scores may be constant.
            weights = torch.linspace(-1, 1, scores.shape[1], device=scores.device) + 0.1
            total = (scores * weights).sum()
    finally:
        for handle in handles:
            handle.remove()
    # A module that runs twice has two outputs, of which a hook could not tell the last.
    once = {path: runs[0] for path, runs in outputs.items() if len(runs) == 1 and path}
    if not once:
        return ""
    gradients = torch.autograd.grad(total, list(once.values()), allow_unused=True)
    paths = [
        path
        for path, gradient in zip(once, gradients, strict=True)
        if gradient is not None and bool(gradient[:, tap.prefix :].any())
    ]
    return paths[-1] if paths else ""


@dataclass(frozen=True)
class ClassTokenShare:
    """How much of the similarity of two images lies in tokens that stand for no position.

    Attributes:
        cosine: of the means over all tokens.
        on_a: part of it from the class token (and registers) of image a.
        on_b: likewise of image b.
        between: cosine of the class tokens themselves.
    """

    cosine: float
    on_a: float
    on_b: float
    between: float

    def __str__(self) -> str:
        return (
            "the maps of likeness show patch tokens; the class token, which stands for no "
            f"position, has {self.on_a:.3f} and {self.on_b:.3f} of the cosine {self.cosine:.3f} "
            f"of all tokens, and the two class tokens have the cosine {self.between:.3f}"
        )


def class_token_share(network: "Network", frames: Sequence[Tensor]) -> ClassTokenShare | None:
    """The share of the class token in the likeness of two images; None if there is none.

    With g the mean over all T tokens, `cos(g_a, g_b) = sum_t a_t . g_b / (T |g_a| |g_b|)`: the part
    of the prefix tokens is what the maps over patches leave out.

    Args:
        network: from `load_network`.
        frames: two, uint8 (3, H, W).
    """
    size = (int(frames[0].shape[-2]), int(frames[0].shape[-1]))
    tap = taps_at(network.module, size).get("last_conv")
    if tap is None or tap.layout != "tokens" or not tap.prefix:
        return None
    whole = replace(tap, layout="any")
    device = next(network.module.parameters(), torch.empty(0)).device
    tokens = []
    for frame in frames:
        batch = network.transform.normalise(frame[None]).to(device)
        with torch.no_grad():
            tokens.append(TappedNetwork(network.module, [whole])(batch)["last_conv"][0].double())
    a, b = tokens
    mean_a, mean_b = a.mean(0), b.mean(0)
    scale = float(mean_a.norm() * mean_b.norm()) or 1.0
    first_a, first_b = a[: tap.prefix], b[: tap.prefix]
    return ClassTokenShare(
        cosine=float(mean_a @ mean_b) / scale,
        on_a=float(first_a.sum(0) @ mean_b) / (len(a) * scale),
        on_b=float(first_b.sum(0) @ mean_a) / (len(b) * scale),
        between=float(torch.cosine_similarity(first_a[0], first_b[0], dim=0)),
    )
