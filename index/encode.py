"""From an image to a query vector, with the network and preprocessing of the store."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from alike.extract.errors import BadImage, BadInput
from alike.extract.images import MAX_BYTES, check_bytes, read_local
from alike.extract.measures import Measure, constants_of

if TYPE_CHECKING:
    from alike.extract.networks import Network

BATCH = 32


def read_image(image: str | Path | bytes) -> bytes:
    """Bytes of an image: given as they are, from a file, or from a URL of any fsspec filesystem.

    Raises:
        BadInput: there is nothing to read.
    """
    if isinstance(image, bytes):
        return image
    try:
        if isinstance(image, str) and "://" in image:
            return _read_url(image)
        return read_local(Path(image).expanduser())
    except BadImage as error:
        raise BadInput(f"image {image} cannot be read, {error}: give a file or a URL") from error


def _read_url(url: str) -> bytes:
    import fsspec

    try:
        with fsspec.open(url, "rb") as file:
            data = bytes(file.read(MAX_BYTES + 1))
    except Exception as error:
        # every filesystem raises errors of its own
        reason = f"{type(error).__name__}: {error}".split("\n")[0][:160]
        raise BadImage("unreadable", reason) from error
    check_bytes(len(data))
    return data


class Encoder:
    """Opens the network once and turns images into vectors of one measure.

    Attributes:
        network: with the weights that made the stored features.
    """

    def __init__(self, features: Any, measure: Measure, network: "Network | None" = None) -> None:
        """Load the store's network, or check the one given.

        Raises:
            BadInput: a network whose weights or preprocessing are not those of the store.
        """
        from alike.extract.networks import Extraction, check_made_by

        wanted = Extraction.from_dict(features.attrs)
        self.network = load_stored(wanted) if network is None else network
        check_weights(wanted.weights_hash, self.network.weights_hash, features.key)
        check_made_by(wanted, self.network)
        if self.network.transform.to_dict() != dict(wanted.transform):
            msg = f"the network preprocesses by {self.network.transform.to_dict()}, {features.key}"
            raise BadInput(f"{msg} was extracted with {dict(wanted.transform)}: give it that one")
        self._measure = measure
        self._constants = constants_of(features, measure)
        self._types = {tap: np.dtype(features.arrays[tap].dtype) for tap in measure.taps}
        self._key = features.key

    def __call__(self, images: Sequence[bytes], names: Sequence[str] = ()) -> NDArray[np.float32]:
        """Vectors (Q, D) of encoded images.

        Args:
            images: file contents.
            names: how messages call them.

        Raises:
            BadInput: an image that cannot be decoded, named.
        """
        taps = self.taps(images, self._measure.taps, names)
        return self._measure.embed(taps, self._constants)

    def taps(
        self, images: Sequence[bytes], wanted: Sequence[str], names: Sequence[str] = ()
    ) -> dict[str, NDArray[Any]]:
        """Tap name to (Q, *shape) of encoded images, in the type that the store keeps."""
        parts = [
            self._forward(images[low : low + BATCH], wanted, names[low : low + BATCH])
            for low in range(0, len(images), BATCH)
        ]
        return {tap: np.concatenate([part[tap] for part in parts]) for tap in wanted}

    def _forward(
        self, images: Sequence[bytes], wanted: Sequence[str], names: Sequence[str]
    ) -> dict[str, NDArray[Any]]:
        import torch

        from alike.extract.images import decode
        from alike.extract.networks import forward_taps

        ready = []
        for place, data in enumerate(images):
            try:
                ready.append(self.network.transform(decode(data)))
            except BadImage as error:
                name = names[place] if place < len(names) else f"number {place}"
                raise BadInput(f"image {name} cannot be used, {error}") from error
        parameter = next(self.network.module.parameters(), torch.empty(0))
        with torch.inference_mode():
            outputs = [
                forward_taps(self.network.module, batch.to(parameter.device), list(wanted))
                for batch in _same_size(ready)
            ]
        return {
            tap: np.concatenate([out[tap].float().cpu().numpy() for out in outputs]).astype(
                self._types.get(tap, np.dtype(np.float32))
            )
            for tap in wanted
        }


def _same_size(images: Sequence[Any]) -> list[Any]:
    """Runs of consecutive images of one size, stacked."""
    import torch

    runs: list[list[Any]] = []
    for image in images:
        if runs and runs[-1][-1].shape == image.shape:
            runs[-1].append(image)
        else:
            runs.append([image])
    return [torch.stack(run) for run in runs]


def check_weights(wanted: str, given: str, key: str) -> None:
    """Refuse vectors of other weights than the index holds.

    Raises:
        BadInput: the hashes differ.
    """
    if wanted != given:
        msg = f"the query's network has weights {given[:12]}, {key} was extracted with"
        raise BadInput(f"{msg} {wanted[:12]}: vectors of two networks cannot be compared")


def load_stored(wanted: Any) -> "Network":
    """The network that an `Extraction` names."""
    from alike.extract.networks import Transform, load_network

    return load_network(
        wanted.network,
        wanted.weights,
        args=dict(wanted.args),
        transform=Transform.from_dict(dict(wanted.transform)),
        seed=wanted.seed,
        output=wanted.output,
        weights_key=wanted.weights_key,
        weights_prefix=wanted.weights_prefix,
    )
