"""CAM, Grad-CAM and the gradient of one class score, for batches.

Every function takes a module in eval mode, a batch (B, 3, H, W) of network input and the class
(B,) int64 to explain in each image, and treats the images of the batch on their own. In place of
the classes a function of the scores (B, K) may choose them, so that explaining what the network
predicts costs no forward pass of its own.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from alike.analysis.explain.tokens import last_read_tokens
from alike.extract.errors import BadInput
from alike.extract.networks import (
    Tap,
    TappedNetwork,
    first_tensor,
    function_name,
    has_positions,
    in_places,
    taps_at,
)

Target = Tensor | Callable[[Tensor], Tensor]

# Rounding of a float32 head; a head that is not mean-then-linear is wrong by far more.
HEAD_TOLERANCE = 1e-3
POOLINGS = ("adaptive_avg_pool2d", "avg_pool2d", "mean")


class DoesNotFit(BadInput):
    """A method has no map for this network; another method has."""


ZERO_HEAD = "the weights of its last linear layer are all zero: scores do not depend on the image"


def cam(module: nn.Module, batch: Tensor, target: Target) -> Tensor:
    """Class activation map: the part of the score that each position of the last map adds.

    `CAM_c(p) = w_c . a_p` for a head that averages positions and has one linear layer; the mean
    over positions plus the bias is the score (Zhou et al. 2016, section 2). Where a 1x1 convolution
    to the classes comes before the pooling (SqueezeNet), that convolution's map of the class after
    its activation is the same thing, and its mean is the score.

    Returns:
        (B, h, w) float32, signed.

    Raises:
        DoesNotFit: the head is another one, so that no such map exists; use `gradcam`.
    """
    size = (int(batch.shape[-2]), int(batch.shape[-1]))
    taps = taps_at(module, size)
    head = taps.get("fc")
    with torch.no_grad():
        if "last_conv" in taps and head is not None and head.function == "linear":
            return _linear_cam(module, batch, target, taps["last_conv"], head)
        return _convolution_cam(module, batch, target)


def _linear_cam(
    module: nn.Module, batch: Tensor, target: Target, last_conv: Tap, head: Tap
) -> Tensor:
    logits_tap = Tap("logits", "", 0, "output", "vector", ())
    with _Calls("linear") as calls:
        outputs = TappedNetwork(module, [last_conv, logits_tap])(batch)
    maps, logits = outputs["last_conv"], outputs["logits"]
    # The weight of the call, not a parameter: weight norm and parametrisations compute it anew.
    weight, bias = calls.arguments[head.occurrence][1:3]
    if weight.ndim != 2 or maps.shape[1] != weight.shape[1] or len(weight) != logits.shape[1]:
        sizes = f"{maps.shape[1]} channels, {tuple(weight.shape)} the weight of Linear"
        raise DoesNotFit(_no_cam(module, sizes))
    if not weight.any():
        # Any map would pass the check below: its mean is 0, and so is the score less the bias.
        raise DoesNotFit(f"no CAM for {type(module).__name__}: {ZERO_HEAD}")
    # A network may pool in another type than its classifier computes in.
    maps = maps.to(weight.dtype)
    _check_head(module, nn.functional.linear(maps.mean((2, 3)), weight, bias), logits)
    return torch.einsum("bc,bchw->bhw", weight[chosen(target, logits)], maps)


def _convolution_cam(module: nn.Module, batch: Tensor, target: Target) -> Tensor:
    with _Calls(*POOLINGS) as calls:
        logits = score(module, batch)
    pooled = [arguments[0] for arguments in calls.arguments]
    class_maps: list[Tensor] = [one for one in pooled if _is_class_map(one, logits)]
    if not class_maps:
        raise DoesNotFit(_no_cam(module, "it has no linear layer and no map for each class"))
    maps = class_maps[-1]
    _check_head(module, maps.mean((2, 3)), logits)
    return maps[torch.arange(len(maps), device=maps.device), chosen(target, logits)]


def _is_class_map(value: object, logits: Tensor) -> bool:
    return isinstance(value, Tensor) and value.ndim == 4 and value.shape[:2] == logits.shape


def _check_head(module: nn.Module, expected: Tensor, logits: Tensor) -> None:
    off = float((expected - logits).abs().max() / logits.abs().max().clamp_min(1e-12))
    if not off < HEAD_TOLERANCE:
        raise DoesNotFit(_no_cam(module, f"averaging then one linear layer misses by {off:.1%}"))


def _no_cam(module: nn.Module, why: str) -> str:
    name = type(module).__name__
    return (
        f"no CAM for {name}: its head is not mean over positions, then linear ({why}); use gradcam"
    )


def gradcam_raw(module: nn.Module, batch: Tensor, target: Target) -> Tensor:
    """Grad-CAM without its ReLU: `sum_k alpha_k A_k(p)`, `alpha_k = mean_p d score / d A_k(p)`.

    Selvaraju et al. 2017, equations 1 and 2. Times P it is CAM where CAM exists, so the sum over
    positions plus the bias is the score. Of a transformer with a class token the maps are the last
    tokens of patches that reach the scores (`alike.analysis.explain.tokens`).

    Returns:
        (B, h, w) float32, signed.
    """
    maps, gradient = _map_and_gradient(module, batch, target)
    return torch.einsum("bc,bchw->bhw", gradient.mean((2, 3)), maps)


def input_gradient(module: nn.Module, batch: Tensor, target: Target) -> Tensor:
    """Gradient of the score with respect to the input, shaped as the batch, signed."""
    with torch.enable_grad():
        pixels = batch.detach().clone().requires_grad_()
        scores = score(module, pixels)
        explained = scores.gather(1, chosen(target, scores)[:, None]).sum()
        (gradient,) = torch.autograd.grad(explained, pixels)
    return gradient


def unchanged(evidence: Tensor, batch: Tensor) -> Tensor:
    """The evidence itself."""
    return evidence


def positive(evidence: Tensor, batch: Tensor) -> Tensor:
    """What speaks for the class alone: the ReLU of Grad-CAM."""
    return evidence.clamp_min(0)


def squared(evidence: Tensor, batch: Tensor) -> Tensor:
    """Sensitivity of a gradient, Montavon et al. 2018, section 3.1; captum's Saliency squared."""
    return evidence.square()


def times_input(evidence: Tensor, batch: Tensor) -> Tensor:
    """Gradient times input."""
    return evidence * batch


def score(module: nn.Module, batch: Tensor) -> Tensor:
    """The class scores (B, K) of a batch: the first tensor of the network's output.

    Raises:
        DoesNotFit: the output is no number a class, but has positions too.
    """
    output: Tensor = first_tensor((module(batch),))
    if has_positions(output):
        shape = " x ".join(map(str, output.shape[1:]))
        raise DoesNotFit(
            f"{type(module).__name__} gives {shape} numbers for an image, expected one a class: "
            "wrap it in a network that averages over the positions, or explain likeness"
        )
    return output.flatten(1)


def chosen(target: Target, scores: Tensor) -> Tensor:
    """The classes (B,) to explain, chosen by the scores where a function was given."""
    return target(scores.detach()) if callable(target) else target


def _map_and_gradient(module: nn.Module, batch: Tensor, target: Target) -> tuple[Tensor, Tensor]:
    size = (int(batch.shape[-2]), int(batch.shape[-1]))
    tap = taps_at(module, size).get("last_conv")
    if tap is None:
        raise DoesNotFit(f"no Grad-CAM for {type(module).__name__}: it pools no feature map")
    cuts: list[_Output | _Argument] = [_Argument(tap)]
    if tap.module:
        cuts = [_Output(module.get_submodule(tap.module)), *cuts]
    for cut in cuts:
        pair = _gradient_at(cut, module, batch, target)
        if pair is None:
            continue
        maps, gradient = (tap.arrange(value) for value in pair)
        # A class token: nothing reads the tokens of patches any more by then.
        if tap.layout != "tokens" or bool(gradient.any()):
            return maps, gradient
        path = last_read_tokens(module, batch, tap, score)
        pair = (
            _gradient_at(_Output(module.get_submodule(path)), module, batch, target)
            if path
            else None
        )
        if pair is None and _head_is_zero(module, batch):
            raise DoesNotFit(f"no Grad-CAM for {type(module).__name__}: {ZERO_HEAD}")
        if pair is None:
            raise DoesNotFit(
                f"no Grad-CAM for {type(module).__name__}: no module gives tokens of patches that "
                "the scores depend on; use sa"
            )
        maps, gradient = (tap.arrange(value) for value in pair)
        return maps, gradient
    raise DoesNotFit(
        f"no Grad-CAM for {type(module).__name__}: the forward pass never reached {tap.function} "
        f"number {tap.occurrence}"
    )


def _head_is_zero(module: nn.Module, batch: Tensor) -> bool:
    """Whether the weights of the last linear layer are all zero."""
    with torch.no_grad(), _Calls("linear") as calls:
        score(module, batch)
    return bool(calls.arguments) and not bool(calls.arguments[-1][1].any())


def _gradient_at(
    cut: "_Output | _Argument", module: nn.Module, batch: Tensor, target: Target
) -> tuple[Tensor, Tensor] | None:
    """A tensor of the forward pass and the gradient of the scores there; None if never reached."""
    with torch.no_grad(), cut:
        scores = score(module, batch)
        explained = scores.gather(1, chosen(target, scores)[:, None]).sum()
    if cut.leaf is None:
        return None
    (gradient,) = torch.autograd.grad(explained, cut.leaf)
    return cut.leaf.detach(), gradient


class _Calls(TorchFunctionMode):
    """Keeps the arguments of every call of the named functions: tensor, weight and bias first."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.names = names
        self.arguments: list[tuple[Any, ...]] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        named = dict(kwargs or {})
        if function_name(func) in self.names:
            later = [named.get(name) for name in ("input", "weight", "bias")[len(args) :]]
            self.arguments.append((*args, *later))
        return func(*args, **named)


class _Output:
    """Makes the output of a module a leaf and records gradients only from there on.

    The layers before the map then keep nothing for a backward pass, which is most of the memory and
    of the time of Grad-CAM. To be used inside ``torch.no_grad``, which restores the mode.
    """

    def __init__(self, part: nn.Module) -> None:
        self.part, self.thread = part, threading.get_ident()
        self.leaf: Tensor | None = None

    def __enter__(self) -> None:
        self.handle = self.part.register_forward_hook(self._cut)

    def __exit__(self, *error: object) -> None:
        self.handle.remove()

    def _cut(self, _part: nn.Module, _args: Any, output: Any) -> Tensor | None:
        if not isinstance(output, Tensor) or threading.get_ident() != self.thread:
            return None
        self.leaf = output.detach().requires_grad_()
        torch.set_grad_enabled(True)
        return self.leaf


class _Argument(TorchFunctionMode):
    """As `_Output`, where no module gives the map (DenseNet's ``F.relu``): watches every call.

    That costs a MobileNetV2 some 10 % of its forward pass.
    """

    def __init__(self, tap: Tap) -> None:
        super().__init__()
        self.tap, self.calls = tap, 0
        self.leaf: Tensor | None = None

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        reached = False
        if self.leaf is None and function_name(func) == self.tap.function:
            reached = self.calls == self.tap.occurrence
            self.calls += 1
        if reached:
            args, kwargs = in_places(args, kwargs)
        if reached and args and isinstance(args[0], Tensor):
            self.leaf = args[0].detach().requires_grad_()
            torch.set_grad_enabled(True)
            args = (self.leaf, *args[1:])
        return func(*args, **(kwargs or {}))
