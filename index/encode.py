"""From an image to a query vector, with the network and preprocessing of the store."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.errors import BadInput
from alike.extract.frames import ImageLike, read_image
from alike.extract.measures import Measure, constants_of

if TYPE_CHECKING:
    from alike.extract.networks import Network

BATCH = 32


class Encoder:
    """Opens the network once and turns images into vectors of one measure.

    Attributes:
        network: with the weights that made the stored features.
    """

    def __init__(self, features: Any, measure: Measure, network: "Network | None" = None) -> None:
        """Load the store's network, or check the one given.

        Raises:
            BadInput: a network whose weights or preprocessing are not those of the store, or one
                whose files are gone.
        """
        from alike.extract.networks import Extraction, check_made_by, network_of

        extraction = Extraction.from_dict(features.attrs)
        code = str(features.attrs.get("code_hash", ""))
        self.network = network_of(extraction, code_hash=code) if network is None else network
        check_weights(extraction.weights_hash, self.network.weights_hash, features.key)
        check_made_by(extraction, self.network)
        if self.network.transform.to_dict() != dict(extraction.transform):
            msg = f"the network preprocesses by {self.network.transform.to_dict()}, {features.key}"
            raise BadInput(
                f"{msg} was extracted with {dict(extraction.transform)}: give it that one"
            )
        self._measure = measure
        self._constants = constants_of(features, measure)
        self._types = {tap: np.dtype(of.dtype) for tap, of in features.arrays.items()}

    def __call__(self, images: Sequence[ImageLike]) -> NDArray[np.float32]:
        """Vectors (Q, D) of images.

        Raises:
            BadInput: an image that cannot be read or decoded, named.
        """
        return self._measure.embed(self.taps(images, self._measure.taps), self._constants)

    def taps(self, images: Sequence[ImageLike], wanted: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Tap name to (Q, *shape) of images, in the type that the store keeps."""
        parts = [
            self._forward(images[low : low + BATCH], wanted) for low in range(0, len(images), BATCH)
        ]
        return {tap: np.concatenate([part[tap] for part in parts]) for tap in wanted}

    def _forward(
        self, images: Sequence[ImageLike], wanted: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        import torch

        from alike.extract.networks import forward_taps

        transform = self.network.transform
        inputs = [transform.normalise(read_image(one).frame(transform)) for one in images]
        parameter = next(self.network.module.parameters(), torch.empty(0))
        with torch.inference_mode():
            outputs = [
                forward_taps(self.network.module, batch.to(parameter.device), list(wanted))
                for batch in _same_size(inputs)
            ]
        return {
            tap: np.concatenate([out[tap].float().cpu().numpy() for out in outputs]).astype(
                self._types.get(tap, np.dtype(np.float32))
            )
            for tap in wanted
        }


def _same_size(images: Sequence[Any]) -> list[Any]:
    """Batches of consecutive images of one size."""
    import torch

    batches: list[list[Any]] = []
    for image in images:
        if batches and batches[-1][-1].shape == image.shape:
            batches[-1].append(image)
        else:
            batches.append([image])
    return [torch.stack(batch) for batch in batches]


def check_weights(wanted: str, given: str, key: str) -> None:
    """Refuse vectors of other weights than the index holds.

    Raises:
        BadInput: the hashes differ.
    """
    if wanted != given:
        msg = f"the query's network has weights {given[:12]}, {key} was extracted with"
        raise BadInput(f"{msg} {wanted[:12]}: vectors of two networks cannot be compared")
