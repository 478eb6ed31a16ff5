"""What in an image speaks for a class, or makes it like another: one contract for every explainer.

`EXPLAINERS` is the table; a row is a function of (module, batch, target) to relevance, at the
resolution of the last feature map or of the input. `explain` does one image, `explain_batch` many.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from analysis import explain_methods as methods
from analysis.explain_inputs import Source, class_indices, class_name, evaluating, framed
from analysis.lrp import lrp, pixel_limits
from extract.errors import BadInput

if TYPE_CHECKING:
    from extract.network import Network

Relevance = Callable[..., Tensor]


@dataclass(frozen=True)
class Explainer:
    """One way to say what in an image speaks for a class.

    Attributes:
        name: its name on the command line.
        relevance: (module, batch (B, 3, H, W), target (B,)) -> (B, h, w) or (B, 3, H, W).
        resolution: `map` (positions of the last feature map) or `pixels` (of the network input).
        signed: whether values below zero mean "speaks against".
        about: one line for tables and figures.
        boxed: whether it takes `limits`, the network's input for black and for white.
    """

    name: str
    relevance: Relevance
    resolution: str
    signed: bool
    about: str
    boxed: bool = False


@dataclass(frozen=True)
class Explanation:
    """The relevance of one image for one class.

    Attributes:
        method: name of the row of `EXPLAINERS`.
        target: index of the class explained.
        target_name: its name, or the index as text.
        score: the network's output for the class, before any softmax.
        probability: its softmax.
        relevance: (h, w) float32, at the method's resolution; over channels it is summed.
        image: (H, W, 3) uint8, what the network saw.
    """

    method: str
    target: int
    target_name: str
    score: float
    probability: float
    relevance: npt.NDArray[np.float32]
    image: npt.NDArray[np.uint8]


def _lrp(composite: str) -> Relevance:
    return partial(lrp, composite=composite)


EXPLAINERS: dict[str, Explainer] = {
    row.name: row
    for row in (
        Explainer("cam", methods.cam, "map", True, "what each position adds to the score"),
        Explainer("gradcam", methods.gradcam, "map", False, "Grad-CAM: what speaks for the class"),
        Explainer(
            "gradcam_raw",
            methods.gradcam_raw,
            "map",
            True,
            "Grad-CAM without its ReLU",
        ),
        Explainer("sa", methods.sensitivity, "pixels", False, "squared gradient of the score"),
        Explainer(
            "grad_x_input", methods.gradient_times_input, "pixels", True, "gradient times input"
        ),
        Explainer("lrp", _lrp("plus_box"), "pixels", False, "LRP: z+, box at the pixels", True),
        Explainer(
            "lrp_gamma", _lrp("gamma_box"), "pixels", True, "LRP: gamma, for and against", True
        ),
        Explainer("lrp_epsilon", _lrp("epsilon"), "pixels", True, "LRP: epsilon", True),
        Explainer(
            "deep_taylor",
            _lrp("deep_taylor"),
            "pixels",
            False,
            "LRP: z+ throughout, nothing lost",
            True,
        ),
    )
}


def explainer(name: str) -> Explainer:
    """Return the row of `EXPLAINERS` of this name.

    Raises:
        BadInput: there is none; the message lists them.
    """
    if name not in EXPLAINERS:
        raise BadInput(f"no explainer {name!r}: choose from {', '.join(EXPLAINERS)}")
    return EXPLAINERS[name]


def relevance(
    module: nn.Module,
    batch: Tensor,
    method: str = "gradcam",
    target: methods.Target | None = None,
    *,
    limits: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Relevance of a batch for one class an image, summed over the input's channels.

    Args:
        module: a classification network; it is run in eval mode, its modes are put back.
        batch: network input (B, 3, H, W) on the module's device.
        method: a name of `EXPLAINERS`.
        target: (B,) int64 classes, or a function that chooses them by the scores (B, K); None
            explains what the network predicts.
        limits: the network's input for black and for white, for `boxed` methods; by default those
            of ImageNet's normalisation.

    Returns:
        (B, h, w) float32, detached.

    Raises:
        BadInput: unknown method, a class the network does not have, a network the method does not
            fit; the message says which.
    """
    row = explainer(method)
    with evaluating(module):
        extra = {"limits": limits} if row.boxed else {}
        asked = _predicted if target is None else target
        found = row.relevance(module, batch, asked, **extra).detach()
    return found.sum(1) if found.ndim == 4 else found


def explain(
    image: Source, network: "Network", method: str = "gradcam", target: int | str | None = None
) -> Explanation:
    """Explain one image.

    Args:
        image: a path, encoded bytes, or a uint8 tensor (3, H, W).
        network: from `load_network`; its own transform is applied.
        method: a name of `EXPLAINERS`.
        target: class index or name; None explains the predicted class.
    """
    return next(explain_batch([image], network, method, target))


def explain_batch(
    images: Sequence[Source],
    network: "Network",
    method: str = "gradcam",
    target: int | str | Sequence[int] | None = None,
    *,
    batch_size: int = 16,
) -> Iterator[Explanation]:
    """Explain images in batches; every image gets what it would get alone.

    Args as `explain`; `target` may also give one class index for each image.
    """
    explainer(method)
    device = next(network.module.parameters(), torch.empty(0)).device
    for start in range(0, len(images), batch_size):
        frames = [framed(source, network) for source in images[start : start + batch_size]]
        batch = network.transform.normalise(torch.stack(frames)).to(device)
        yield from _explain_frames(frames, batch, network, method, _part(target, start, batch_size))


def _explain_frames(
    frames: list[Tensor],
    batch: Tensor,
    network: "Network",
    method: str,
    target: int | str | Sequence[int] | None,
) -> Iterator[Explanation]:
    seen: list[Tensor] = []

    def choose(scores: Tensor) -> Tensor:
        seen[:] = [scores, class_indices(network, target, scores)]
        return seen[1]

    limits = pixel_limits(batch, network.transform.mean, network.transform.std)
    maps = relevance(network.module, batch, method, choose, limits=limits)
    found = maps.float().cpu().numpy()
    scores, classes = seen
    chances = scores.softmax(1)
    for row, index in enumerate(classes.tolist()):
        yield Explanation(
            method=method,
            target=index,
            target_name=class_name(network, index),
            score=float(scores[row, index]),
            probability=float(chances[row, index]),
            relevance=found[row],
            image=frames[row].permute(1, 2, 0).numpy(),
        )


def _part(
    target: int | str | Sequence[int] | None, start: int, length: int
) -> int | str | Sequence[int] | None:
    return target if target is None or isinstance(target, int | str) else target[start:][:length]


def _predicted(scores: Tensor) -> Tensor:
    return scores.argmax(1)
