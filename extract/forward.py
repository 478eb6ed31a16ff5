"""The forward pass of a run: from uint8 frames to the arrays that are stored."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from alike.extract.errors import AlikeError, BadInput
from alike.extract.networks import (
    COMPUTED,
    Network,
    TappedNetwork,
    choose_taps,
    computed_taps,
    folded,
    random_calls,
    small_pixels,
    taps_at,
)

PRECISIONS: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

REPEATED = 2
"""Frames that are passed twice to see whether the answer is the same."""
ROUNDING, WIDE_ROUNDING = 1e-3, 3e-2
"""Largest difference of two passes, relative to the largest value: float32, and narrower types."""


def choose_device(name: str) -> torch.device:
    """The device: `auto` is the first GPU, else the CPU.

    Raises:
        BadInput: it is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "meta":
            raise RuntimeError("it holds no numbers")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).split("\n")[0]
        raise BadInput(f"device {name!r} cannot be used ({reason}); give cpu or auto") from error
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """The arithmetic: `auto` is float16 on a GPU (10 bits of mantissa), float32 elsewhere.

    Raises:
        BadInput: unknown, or float16 on a CPU.
    """
    if name == "auto":
        return "float16" if device.type == "cuda" else "float32"
    if name not in PRECISIONS:
        raise BadInput(f"precision {name!r}: one of auto, {', '.join(PRECISIONS)} expected")
    if name == "float16" and device.type == "cpu":
        raise BadInput("precision float16 has no kernels on a CPU: use bfloat16 or float32")
    return name


LARGE, SMALL = 2.0**14, 2.0**-10
"""Largest magnitudes of an image's map from which on, and below which, float16 is too near its
limits (65,504, and 2^-14, below which its steps are no longer relative): stored as float32."""
FAINT = 2.0**-14
"""Largest magnitude below which a map in float16 keeps less than 11 bits."""


class Forward:
    """A network on a device that gives the stored arrays of a batch.

    Args:
        network: a copy of its module moves to the device, BatchNorms folded, channels last.
        size: (height, width) of the frames.
        names: arrays to make: taps, module paths, `gap`, `pixels`.
        device: of the forward pass.
        precision: one of `PRECISIONS`; other than float32 is autocast.

    Attributes:
        shapes: name -> (shape of one row, dtype as stored): maps float16 unless `store_as` says
            otherwise, vectors float32.
        limit: largest batch that fits, lowered when memory runs out.
    """

    def __init__(
        self,
        network: Network,
        size: tuple[int, int],
        names: Sequence[str],
        device: torch.device,
        precision: str,
    ) -> None:
        self.network = network
        self.names = tuple(names)
        self.device = device
        self.precision = precision
        self.limit = 2**20
        self.taps = choose_taps(taps_at(network.module, size, self.names), self.names)
        module, found = folded(network.module, self.taps, size)
        module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._tapped = TappedNetwork(module, found)
        self.size = size
        self.shapes = self._shapes(size)

    def _shapes(self, size: tuple[int, int]) -> dict[str, tuple[tuple[int, ...], str]]:
        rows = {tap.name: tap.shape for tap in self.taps}
        example = torch.zeros(1, 3, *size)
        rows["pixels"] = tuple(small_pixels(example).shape[1:])
        if "last_conv" in rows:
            rows["gap"] = rows["last_conv"][:1]
        return {
            name: (rows[name], "float16" if len(rows[name]) > 1 else "float32")
            for name in self.names
        }

    def store_as(self, dtypes: Mapping[str, str]) -> None:
        """Give some arrays in another type from now on."""
        self.shapes |= {name: (self.shapes[name][0], dtype) for name, dtype in dtypes.items()}

    def types_for(self, frames: torch.Tensor) -> dict[str, str]:
        """The maps that need float32, by the values of some images: name to type.

        Args:
            frames: uint8 (B, 3, h, w), a batch of the set.
        """
        maps = [name for name, (tail, _) in self.shapes.items() if len(tail) > 1]
        maps = [name for name in maps if name != "pixels"]
        before = dict(self.shapes)
        self.store_as(dict.fromkeys(maps, "float32"))
        arrays = self(frames) if maps and len(frames) else {}
        self.shapes = before
        wide = {}
        for name in maps if arrays else ():
            largest = np.abs(arrays[name]).reshape(len(arrays[name]), -1).max(axis=1)
            largest = largest[np.isfinite(largest) & (largest > 0)]
            if len(largest) and (largest.max() > LARGE or largest.min() < SMALL):
                wide[name] = "float32"
        return wide

    @property
    def notes(self) -> dict[str, str]:
        """What a reader must know of the taps: name of the unusual ones to a note."""
        return {tap.name: tap.note for tap in self.taps if tap.note}

    @torch.inference_mode()
    def __call__(self, frames: torch.Tensor) -> dict[str, np.ndarray]:
        """Arrays of a batch.

        Args:
            frames: uint8 (B, 3, h, w), channels last in memory; in pinned memory for a GPU.

        Returns:
            name -> (B, *shape) in the stored dtype.

        Raises:
            BadInput: not even one image fits into the device's memory.
        """
        parts = []
        start = 0
        while start < len(frames):
            part = frames[start : start + self.limit]
            try:
                parts.append(self._batch(part))
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                self._halve(len(part), error)
                continue
            start += len(part)
        return {
            name: np.concatenate([part[name] for part in parts])
            if len(parts) > 1
            else parts[0][name]
            for name in self.names
        }

    def check_repeats(self) -> None:
        """Refuse a network that gives other features each time, or beside other images.

        `torch.nn.functional.dropout` without ``training=self.training`` does that: its features
        would not be those that their key promises.

        Raises:
            BadInput: a random frame gives features that differ by more than rounding beside
                another one and beside itself; or the network takes one image at a time only.
        """
        generator = torch.Generator().manual_seed(0)
        frames = torch.randint(
            256, (REPEATED, 3, *self.size), dtype=torch.uint8, generator=generator
        )
        try:
            first, among_others = self(frames), self(frames[[0] * REPEATED])
            rounding = ROUNDING if self.precision == "float32" else WIDE_ROUNDING
            one = {name: np.repeat(values[:1], REPEATED, 0) for name, values in first.items()}
            mixing = _differing(one, among_others, rounding)
            # Only then: a network that draws at random differs too.
            differing = _differing(first, self(frames), rounding) if mixing else []
        except AlikeError:
            raise
        # A network is anybody's code: one made for single images raises anything for two.
        except Exception as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            types = {str(one.dtype)[6:] for one in self.network.module.parameters()} - {"float32"}
            advice = "it must take several images at a time"
            if types:
                advice = (
                    f"its weights are {', '.join(sorted(types))} and images are float32: end its "
                    "factory with .float(); --precision computes in another type"
                )
            raise BadInput(
                f"network {self.network.name} fails on a batch of {REPEATED} images ({reason}): "
                f"{advice}"
            ) from error
        if differing:
            calls = random_calls(self.network.module, self.size)
            cause = f" (it calls {', '.join(calls)})" if calls else ""
            raise BadInput(
                f"network {self.network.name} is random in eval mode: two passes of the same "
                f"images differ in {', '.join(differing)}{cause}; give functional.dropout "
                "training=self.training, or draw random numbers from a generator with a fixed seed"
            )
        if mixing:
            raise BadInput(
                f"network {self.network.name} gives an image other features beside other images: "
                f"{', '.join(mixing)} differ; a BatchNorm with track_running_stats=False, or a "
                "mean over the batch, does that: give it fixed statistics"
            )

    def _batch(self, frames: torch.Tensor) -> dict[str, np.ndarray]:
        batch = self.network.transform.normalise(frames.to(self.device, non_blocking=True))
        with self._autocast():
            captured = self._tapped(batch) if self.taps else {}
        for name, value in captured.items():
            if len(value) != len(batch):
                raise BadInput(
                    f"network {self.network.name} gives {name} of shape {tuple(value.shape)} for "
                    f"{len(batch)} images: expected a row for each, in their order"
                )
        arrays = {
            name: self._on_host(self._stored(name, value).contiguous())
            for name, value in computed_taps(batch, captured, self.names).items()
        }
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return {name: value.numpy() for name, value in arrays.items()}

    def _stored(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """A captured array in its stored type; NaN where float16 would keep next to nothing."""
        tail, dtype = self.shapes[name]
        stored = value.to(getattr(torch, dtype))
        if dtype == "float16" and len(tail) > 1 and name != "pixels":
            largest = value.abs().flatten(1).amax(1)
            faint = (largest > 0) & (largest < FAINT)
            stored = torch.where(faint.reshape(-1, *[1] * len(tail)), torch.nan, stored)
        return stored

    def _on_host(self, value: torch.Tensor) -> torch.Tensor:
        """In host memory once this lane's stream has come so far; pinned, so lanes overlap."""
        if self.device.type != "cuda":
            return value.cpu()
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        return host.copy_(value, non_blocking=True)

    def lane(self) -> AbstractContextManager[object]:
        """What a thread must be in to compute: on a GPU its own stream, so copies overlap."""
        if self.device.type != "cuda":
            return nullcontext()
        # The weights were copied on the default stream, which other streams do not wait for.
        torch.cuda.synchronize(self.device)
        stream: torch.cuda.Stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        return torch.cuda.stream(stream)

    def _autocast(self) -> Any:
        if self.precision == "float32":
            return nullcontext()
        return torch.autocast(self.device.type, PRECISIONS[self.precision])

    def _halve(self, batch: int, error: Exception) -> None:
        text = str(error).lower()
        memory = isinstance(error, torch.OutOfMemoryError | MemoryError) or "alloc" in text
        if not memory:
            raise error
        if batch == 1:
            raise BadInput(
                f"{self.network.name} does not fit into the memory of {self.device} with one "
                "image: use another device or a smaller network"
            ) from error
        self.limit = max(batch // 2, 1)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def array_names(taps: Sequence[str]) -> tuple[str, ...]:
    """The arrays of a run: the wanted taps, and `gap` and `pixels` always."""
    return tuple(dict.fromkeys([*taps, *COMPUTED]))


def _differing(
    first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray], rounding: float
) -> list[str]:
    """Names of arrays that differ by more than rounding."""
    return [
        name
        for name, values in first.items()
        if not np.allclose(
            values.astype(np.float64),
            second[name].astype(np.float64),
            rtol=0,
            atol=rounding * _largest(values),
            equal_nan=True,
        )
    ]


def _largest(values: np.ndarray) -> float:
    """The largest finite magnitude; 0 if there is none."""
    sizes = np.abs(values[np.isfinite(values)])
    return float(sizes.max(initial=0))
