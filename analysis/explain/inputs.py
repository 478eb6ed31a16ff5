"""What is explained: an image as the network sees it, a class by name or number, a network."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from alike.extract.class_names import numbered_class, output_names
from alike.extract.errors import BadInput
from alike.extract.frames import ImageLike, read_image
from alike.extract.networks import HEADLESS_NOTE, folded, taps_at

if TYPE_CHECKING:
    import numpy.typing as npt
    import pandas as pd

    from alike.extract.networks import Network
    from alike.extract.store import Features

Source = ImageLike | Tensor
"""An image to explain: as `read_image` takes it, or decoded, uint8 (3, H, W)."""


def framed(source: Source, network: "Network") -> Tensor:
    """Return what the network sees of an image, before normalisation: uint8 (3, h, w).

    Raises:
        BadInput: an image that cannot be read or decoded.
    """
    if isinstance(source, Tensor):
        return network.transform.frame(source)
    return read_image(source).frame(network.transform)


def class_indices(
    network: "Network", target: int | str | Sequence[int] | None, scores: Tensor
) -> Tensor:
    """Return the class (B,) to explain in each image: as given, or the predicted ones."""
    if target is None:
        return scores.argmax(1)
    if isinstance(target, str):
        names = _names(network, scores.shape[1])
        if target not in names and not target.isdecimal():
            raise BadInput(f"no class {target!r} in {network.name}: give an index or a class name")
        if names.count(target) > 1:
            alike = ", ".join(str(index) for index, name in enumerate(names) if name == target)
            raise BadInput(f"{target!r} is the name of classes {alike}: give one by its index")
        target = names.index(target) if target in names else int(target)
    if isinstance(target, Sequence | np.ndarray | Tensor):
        wanted = [int(one) for one in target]
    else:
        wanted = [int(target)] * len(scores)
    # Compared here: a number beyond 64 bits is none to torch.
    if len(wanted) != len(scores) or not all(0 <= one < scores.shape[1] for one in wanted):
        raise BadInput(f"class {target}: {network.name} has classes 0 to {scores.shape[1] - 1}")
    return torch.as_tensor(wanted, dtype=torch.int64, device=scores.device)


def class_name(network: "Network", index: int) -> str:
    """Return the name of a class, or `class 3` where the network has no names."""
    return _names(network, index + 1)[index]


def names_no_class(features: "Features") -> bool:
    """Whether nothing follows the pooling of the network that made the features."""
    return bool(features.attrs.get("tap_notes", {}).get("fc") == HEADLESS_NOTE)


def index_or_name(network: "Network", target: int | str | None) -> str:
    """Say that a class was taken by its name, where the same text is the index of another class.

    Returns:
        a line; empty if nothing has to be said.
    """
    names = network.class_names or ()
    if not isinstance(target, str) or target not in names or not target.isdecimal():
        return ""
    if names.index(target) == int(target) or int(target) >= len(names):
        return ""
    other = names[int(target)]
    return f"{target} is the name of a class, which is explained; index {target} is class {other}"


def _names(network: "Network", outputs: int) -> list[str]:
    """Names of the outputs, or of the first ones."""
    names = list(network.class_names or ())
    return names + [numbered_class(index) for index in range(len(names), outputs)]


def network_for(features: "Features", network: "Network | None" = None) -> "Network":
    """Return the network that made stored features, with the names of its outputs.

    Raises:
        BadInput: its files are gone or changed, or the one given has other weights.
    """
    from alike.extract.networks import Extraction, check_made_by, network_of

    if network is None:
        code = str(features.attrs.get("code_hash", ""))
        network = network_of(Extraction.from_dict(features.attrs), code_hash=code)
    if network.weights_hash != features.attrs["weights_hash"]:
        raise BadInput(
            f"network {network.name} has weights {network.weights_hash[:8]}, the features "
            f"{str(features.attrs['weights_hash'])[:8]}: give the network that made them"
        )
    stored = [features.attrs.get(name, "") for name in ("modules_hash", "head")]
    if [network.modules_hash, network.head] != stored:
        check_made_by(Extraction.from_dict(features.attrs), network)
    names = output_names(features)
    return replace(network, class_names=tuple(names)) if names else network


def worker_network(features: "Features") -> "Network":
    """The same in a worker: whoever gave it the work has agreed to the network's file."""
    from alike.extract.networks import Extraction, network_of

    return network_for(features, network_of(Extraction.from_dict(features.attrs), trusted=True))


def turns_in_classes(table: "pd.DataFrame") -> "npt.NDArray[np.int64]":
    """Place (N,) of each image among those of its class, the smallest id first.

    By content and label alone: files may be renamed, and come in another order.

    Args:
        table: with image_id and label.

    Example:
        >>> import pandas as pd
        >>> table = pd.DataFrame({"image_id": ["b", "c", "a"], "label": ["cat", "dog", "cat"]})
        >>> turns_in_classes(table).tolist()
        [1, 0, 0]
    """
    labels = table["label"].fillna("").to_numpy()
    order = np.lexsort((labels, table["image_id"].to_numpy()))
    turns = np.empty(len(table), dtype=np.int64)
    turns[order] = table.iloc[order].groupby(labels[order]).cumcount()
    return turns


_READY: WeakKeyDictionary[nn.Module, tuple[object, nn.Module]] = WeakKeyDictionary()


def ready_module(module: nn.Module, size: tuple[int, int]) -> nn.Module:
    """A copy of a network that gives the same explanations in less time, kept while both live.

    BatchNorms are folded into the convolutions before them, weights take no gradient (so
    activations need not be kept for one), and on a CPU channels lie last in memory. Made again when
    the weights were changed by torch's own in-place calls or moved to another device.

    Args:
        module: from `load_network`.
        size: (height, width) of its input.
    """
    values = [*module.parameters(), *module.buffers()]
    state = [(value.data_ptr(), value._version) for value in values]
    entry = _READY.get(module)
    if entry is None or entry[0] != state:
        taps = [tap for name, tap in taps_at(module, size).items() if name == "last_conv"]
        copy = folded(module, taps, size)[0].requires_grad_(False)
        if all(value.device.type == "cpu" for value in values):
            copy = copy.to(memory_format=torch.channels_last)
        entry = _READY[module] = (state, copy)
    return entry[1]


class evaluating:
    """Run a module in eval mode and put the modes of its parts back afterwards."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __enter__(self) -> None:
        self.modes = [(part, True) for part in self.module.modules() if part.training]
        if self.modes:
            self.module.eval()

    def __exit__(self, *error: object) -> None:
        for part, training in self.modes:
            part.training = training
