"""What was extracted: the description whose hash names the place of the features in the store."""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePath

from alike.extract.errors import BadInput
from alike.extract.identity import settings_hash

_LATER = ("modules_hash", "output", "weights_key", "weights_prefix", "head")
"""Fields that came after the first stores: described only if they are set."""


@dataclass(frozen=True)
class Extraction:
    """Everything that features depend on, besides the images.

    Attributes:
        network: torchvision name, ``file.py:factory`` or ``timm:NAME``.
        weights: ``none``, the name of a torchvision enum member, or the file they came from.
        weights_hash: sha256 (hex) of the loaded parameters and buffers, see `network_weights`.
        taps: names of the stored outputs; not part of the key, a group may gain arrays.
        transform: `Transform.to_dict()`, resolved, so nothing depends on a library's default.
        precision: ``float32``, ``float16`` or ``bfloat16``: the arithmetic of the forward pass.
        args: arguments of the network's factory.
        seed: of the random weights if `weights` is ``none``.
        modules_hash: of the user's modules that the network's file loads, "" if there are none.
        output: which of several tensors that the network returns the logits are, "" if it was left
            to be found.
        weights_key: group of tensors in the weights file, "" if it was left to be found; not part
            of the key, for the weights' hash is.
        weights_prefix: of their names, likewise.
        head: ``convolution`` if the pooled vector is classified by a 1x1 convolution, ``flattened``
            if the map is pooled after it was flattened, ``compared`` if the pooled vector is
            compared with others position by position or pooled in two steps, ``channels_last`` if
            channels that come last are known by the axes that are pooled alone, else "". Features
            of before 0.2 lack it: their ``last_conv`` and ``fc`` are other arrays.
    """

    network: str
    weights: str
    weights_hash: str
    taps: tuple[str, ...]
    transform: Mapping[str, object]
    precision: str
    args: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    modules_hash: str = ""
    output: str = ""
    weights_key: str = ""
    weights_prefix: str | None = None
    head: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[0-9a-f]{16,}", self.weights_hash):
            raise BadInput(f"weights_hash {self.weights_hash!r} is no hexadecimal hash")
        object.__setattr__(self, "taps", tuple(self.taps))

    @property
    def key(self) -> str:
        """Name of the group: network, weights, and preprocessing with precision and modules."""
        settings = settings_hash(
            self.transform, self.precision, self.modules_hash, self.output, self.head
        )
        return f"{safe_name(self.network)}-{self.weights_hash[:8]}-{settings}"

    def to_dict(self) -> dict[str, object]:
        """As plain JSON values; the group's attributes."""
        values = {**asdict(self), "taps": list(self.taps)}
        unset = {name: self.__dataclass_fields__[name].default for name in _LATER}
        return {k: v for k, v in values.items() if k not in unset or v != unset[k]}

    @classmethod
    def from_dict(cls, stored: Mapping[str, object]) -> "Extraction":
        """From the group's attributes; keys that are not ours are left alone."""
        missing = sorted({"network", "weights", "weights_hash", "transform"} - set(stored))
        if missing:
            raise BadInput(f"not an extraction: {', '.join(missing)} missing from {sorted(stored)}")
        values = {name: stored[name] for name in cls.__dataclass_fields__ if name in stored}
        return cls(**values)  # type: ignore[arg-type]


def safe_name(network: str) -> str:
    """A network's name as part of a folder name: ``nets/my.py:small`` becomes ``my-small``."""
    file, colon, factory = network.rpartition(":")
    short = f"{PurePath(file).stem}-{factory}" if colon else network
    return re.sub(r"[^A-Za-z0-9_.]+", "-", short).strip("-.")
