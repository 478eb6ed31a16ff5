"""What in an image speaks for a class, or makes it like another: one contract for every explainer.

`EXPLAINERS` is the table; a row is the evidence that passes through the network give, and what is
made of it without another pass, at the resolution of the last feature map or of the input.
`explain` does one image, `explain_batch` many; `relevances` does several methods at once.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from alike.analysis.explain import gradients as methods
from alike.analysis.explain.inputs import (
    Source,
    class_indices,
    class_name,
    evaluating,
    framed,
    ready_module,
)
from alike.analysis.explain.lrp import lrp, pixel_limits
from alike.extract.errors import BadInput

if TYPE_CHECKING:
    from alike.extract.networks import Network

Evidence = Callable[..., Tensor]


@dataclass(frozen=True)
class Explainer:
    """One way to say what in an image speaks for a class.

    Attributes:
        name: its name on the command line.
        evidence: (module, batch (B, 3, H, W), target (B,)) -> (B, h, w) or (B, 3, H, W); rows with
            the same evidence share its passes.
        resolution: `map` (positions of the last feature map) or `pixels` (of the network input).
        signed: whether values below zero mean "speaks against".
        about: one line for tables and figures.
        finish: (evidence, batch) -> relevance, shaped as the evidence.
        boxed: whether `evidence` takes `limits`, the network's input for black and for white.
    """

    name: str
    evidence: Evidence
    resolution: str
    signed: bool
    about: str
    finish: Callable[[Tensor, Tensor], Tensor] = methods.unchanged
    boxed: bool = False

    def maps(self, module: nn.Module, batch: Tensor, target: methods.Target) -> Tensor:
        """Relevance before any sum over channels, of a module in eval mode."""
        return self.finish(self.evidence(module, batch, target), batch)


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

    @property
    def empty(self) -> bool:
        """Whether the map is zero everywhere, so that it explains nothing."""
        return not self.relevance.any()

    @property
    def conserved(self) -> float:
        """Sum of the map over the score: 1 if all of the score is handed on to the image.

        Of a class activation map its mean, which with the head's bias makes the score. NaN for a
        score of 0; a squared gradient conserves nothing and its number means nothing.
        """
        is_cam = self.method == "cam"
        total = float(self.relevance.mean() if is_cam else self.relevance.sum())
        return total / self.score if self.score else float("nan")


def _lrp(composite: str) -> Evidence:
    return partial(lrp, composite=composite)


_ROWS = (
    Explainer("cam", methods.cam, "map", True, "contribution of each position to the score"),
    Explainer(
        *("gradcam", methods.gradcam_raw, "map", False),
        *("Grad-CAM: evidence for the class", methods.positive),
    ),
    Explainer("gradcam_raw", methods.gradcam_raw, "map", True, "Grad-CAM without its ReLU"),
    Explainer(
        *("sa", methods.input_gradient, "pixels", False),
        *("squared gradient of the score", methods.squared),
    ),
    Explainer(
        *("grad_x_input", methods.input_gradient, "pixels", True),
        *("gradient times input", methods.times_input),
    ),
    Explainer(
        "lrp", _lrp("plus_box"), "pixels", False, "LRP: z+, box at the pixels", boxed=True
    ),
    Explainer(
        *("lrp_gamma", _lrp("gamma_box"), "pixels", True),
        "LRP: gamma, for and against", boxed=True,
    ),
    Explainer("lrp_epsilon", _lrp("epsilon"), "pixels", True, "LRP: epsilon", boxed=True),
    Explainer(
        *("deep_taylor", _lrp("deep_taylor"), "pixels", False),
        "LRP: z+ throughout, nothing lost", boxed=True,
    ),
)  # fmt: skip
EXPLAINERS: dict[str, Explainer] = {row.name: row for row in _ROWS}


def explainer(name: str) -> Explainer:
    """Return the row of `EXPLAINERS` of this name.

    Raises:
        BadInput: there is none; the message lists them.

    Example:
        >>> explainer("gradcam").resolution
        'map'
        >>> [name for name, row in EXPLAINERS.items() if row.resolution == "map"]
        ['cam', 'gradcam', 'gradcam_raw']
    """
    if name not in EXPLAINERS:
        of_two = "for likeness `likeness` or one of `alike list pair-explainers`"
        if name.startswith("likeness"):
            raise BadInput(f"{name} is of two images: choose of {', '.join(EXPLAINERS)}")
        raise BadInput(f"no explainer {name!r}: choose from {', '.join(EXPLAINERS)}; {of_two}")
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

    Example:
        The class activation map adds up to the score of the class less its bias.

        >>> network = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        ... ).eval()
        >>> image = torch.rand(1, 3, 10, 10)
        >>> heat = relevance(network, image, "cam", torch.tensor([1]))
        >>> heat.shape
        torch.Size([1, 8, 8])
        >>> total = heat.mean() + network[-1].bias[1]
        >>> torch.allclose(total, network(image)[0, 1], atol=1e-5)
        True
    """
    return relevances(module, batch, [method], target, limits=limits)[method]


def relevances(
    module: nn.Module,
    batch: Tensor,
    names: Sequence[str],
    target: methods.Target | None = None,
    *,
    limits: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """`relevance` by several methods; those of the same evidence share its passes.

    Args and errors as `relevance`, with several `names` of `EXPLAINERS`.

    Returns:
        name -> (B, h, w) float32, detached.

    Example:
        >>> network = nn.Sequential(
        ...     nn.Conv2d(3, 8, 3), nn.ReLU(),
        ...     nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2),
        ... ).eval()
        >>> maps = relevances(network, torch.rand(2, 3, 10, 10), ["gradcam", "sa"])
        >>> {name: tuple(heat.shape) for name, heat in maps.items()}
        {'gradcam': (2, 8, 8), 'sa': (2, 10, 10)}
    """
    rows = [explainer(name) for name in names]
    target_of = _predicted if target is None else target
    evidence: dict[Evidence, Tensor] = {}
    maps = {}
    with evaluating(module):
        for row in rows:
            if row.evidence not in evidence:
                extra = {"limits": limits} if row.boxed else {}
                evidence[row.evidence] = row.evidence(module, batch, target_of, **extra).detach()
            result = row.finish(evidence[row.evidence], batch)
            maps[row.name] = result.sum(1) if result.ndim == 4 else result
    return maps


def explain(
    image: Source, network: "Network", method: str = "gradcam", target: int | str | None = None
) -> Explanation:
    """Explain one image.

    Args:
        image: a path, encoded bytes, or a uint8 tensor (3, H, W).
        network: from `load_network`; its own transform is applied.
        method: a name of `EXPLAINERS`.
        target: class index or name; None explains the predicted class.

    Example:
        >>> from alike.extract.networks import load_network
        >>> network = load_network("squeezenet1_1", "none")
        >>> image = torch.zeros(3, 300, 400, dtype=torch.uint8)
        >>> explanation = explain(image, network, "gradcam", target=7)
        >>> explanation.target, explanation.image.shape
        (7, (224, 224, 3))
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
        part = _part(target, start, batch_size)
        # Without --resize a network sees images in their own sizes; a pass is of one size.
        sizes: dict[torch.Size, list[int]] = {}
        for at, frame in enumerate(frames):
            sizes.setdefault(frame.shape, []).append(at)
        explained: dict[int, Explanation] = {}
        for places in sizes.values():
            some = [frames[at] for at in places]
            batch = network.transform.normalise(torch.stack(some)).to(device)
            wanted = part if part is None or isinstance(part, int | str) else _at(part, places)
            found = _explain_frames(some, batch, network, method, wanted)
            explained |= dict(zip(places, found, strict=True))
        yield from (explained[at] for at in range(len(frames)))


def _explain_frames(
    frames: list[Tensor],
    batch: Tensor,
    network: "Network",
    method: str,
    target: int | str | Sequence[int] | None,
) -> Iterator[Explanation]:
    choice: list[Tensor] = []

    def choose(scores: Tensor) -> Tensor:
        choice[:] = [scores, class_indices(network, target, scores)]
        return choice[1]

    limits = pixel_limits(batch, network.transform.mean, network.transform.std)
    module = ready_module(network.module, (int(batch.shape[-2]), int(batch.shape[-1])))
    maps = relevance(module, batch, method, choose, limits=limits)
    heats = maps.float().cpu().numpy()
    scores, classes = choice
    probabilities = scores.softmax(1)
    for row, index in enumerate(classes.tolist()):
        yield Explanation(
            method=method,
            target=index,
            target_name=class_name(network, index),
            score=float(scores[row, index]),
            probability=float(probabilities[row, index]),
            relevance=heats[row],
            image=frames[row].permute(1, 2, 0).numpy(),
        )


def _part(
    target: int | str | Sequence[int] | None, start: int, length: int
) -> int | str | Sequence[int] | None:
    return target if target is None or isinstance(target, int | str) else target[start:][:length]


def _at(targets: Sequence[int], places: Sequence[int]) -> Sequence[int]:
    """The classes of some images; all that there are if the number of classes is another."""
    return [targets[at] for at in places] if places[-1] < len(targets) else targets


def _predicted(scores: Tensor) -> Tensor:
    return scores.argmax(1)
