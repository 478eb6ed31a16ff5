"""Pairs of neighbouring inputs, on which the continuity of explanations is measured."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as nnf

Floats = npt.NDArray[np.floating]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Pairs:
    """Row `first[k]` of the images against `second[k]`, an input near it or another image.

    Attributes:
        kind: `noise`, `shift_pixel`, `shift_half`, `nearest_same`, `same_class`, `different_class`.
        first: (M,) int64, rows of the images.
        second: (M, C, H, W) inputs near them, or (M,) int64 rows of other images.
        radius: length of the step for noise, in root mean square per input value; else NaN.
    """

    kind: str
    first: Ints
    second: Tensor | Ints
    radius: float = float("nan")


def noise_pairs(
    images: Tensor, radii: tuple[float, ...], directions: int, seed: int
) -> list[Pairs]:
    """Balls around each image: the same random directions at every radius.

    Args:
        images: (N, ...) network input.
        radii: lengths of the steps, in root mean square per input value.
        directions: steps from each image.
        seed: of the directions, which do not depend on how many images there are.
    """
    steps = []
    for row in range(len(images)):
        generator = torch.Generator().manual_seed(seed * 1_000_003 + row)
        noise = torch.randn(directions, *images.shape[1:], generator=generator, dtype=torch.float64)
        size = noise.square().mean(tuple(range(1, noise.ndim)), keepdim=True).sqrt()
        steps.append((noise / size).to(images))
    first = np.repeat(np.arange(len(images)), directions)
    step, start = torch.cat(steps), images.repeat_interleave(directions, 0)
    return [Pairs("noise", first, start + radius * step, radius) for radius in radii]


def shift_pairs(images: Tensor, kind: str) -> Pairs:
    """Each image moved by a pixel (`shift_pixel`) or half of one (`shift_half`), four ways."""
    steps = ((0, 1), (0, -1), (1, 0), (-1, 0))
    moved = [shift(images, down, right, half=kind == "shift_half") for down, right in steps]
    first = np.tile(np.arange(len(images)), len(steps))
    return Pairs(kind, first, torch.cat(moved))


def shift(images: Tensor, down: int, right: int, *, half: bool = False) -> Tensor:
    """Move images (N, C, H, W) by whole pixels, edges repeated; by half of that with `half`.

    Half a pixel is the mean of the image and the image moved by one: bilinear interpolation.
    """
    height, width = images.shape[-2:]
    reach = max(abs(down), abs(right))
    wide = nnf.pad(images, (reach,) * 4, mode="replicate")
    moved = wide[..., reach - down :, reach - right :][..., :height, :width]
    return (images + moved) / 2 if half else moved


def class_pairs(
    pooled: Floats, labels: npt.NDArray[np.object_], count: int, seed: int
) -> list[Pairs]:
    """Pairs of real images: nearest of the same class, any of the same, any of different classes.

    Args:
        pooled: (N, C) pooled features; nearness is their cosine.
        labels: (N,) class of each image.
        count: pairs of each kind, drawn with `seed`; fewer where there are fewer.
        seed: of the draw.
    """
    lengths = np.linalg.norm(pooled.astype(np.float64), axis=1, keepdims=True)
    # A vector of zeros, as of an image that no unit answers to, has cosine 0 with every other.
    units = np.divide(pooled, lengths, out=np.zeros(pooled.shape), where=lengths > 0)
    cosines = units @ units.T
    same = labels[:, None] == labels[None, :]
    np.fill_diagonal(same, False)
    generator = np.random.default_rng(seed)
    nearest = np.where(same, cosines, -np.inf).argmax(axis=1)
    rows = np.flatnonzero(same.any(axis=1))
    return [
        Pairs("nearest_same", *_drawn(np.stack([rows, nearest[rows]]), count, generator)),
        Pairs("same_class", *_drawn(np.stack(np.nonzero(np.triu(same))), count, generator)),
        Pairs("different_class", *_drawn(_different(labels), count, generator)),
    ]


def _different(labels: npt.NDArray[np.object_]) -> Ints:
    return np.stack(np.nonzero(np.triu(labels[:, None] != labels[None, :])))


def _drawn(pairs: Ints, count: int, generator: np.random.Generator) -> tuple[Ints, Ints]:
    columns = generator.permutation(pairs.shape[1])[:count]
    return pairs[0, columns], pairs[1, columns]


Relevance = Callable[[Tensor], Tensor]


def continuity_ratios(
    relevance_a: Tensor, relevance_b: Tensor, distance: Tensor, *, normalised: bool = True
) -> Floats:
    """Return (M,) `|R - R'|_1 / |x - x'|_2` of Montavon et al. 2018, section 7.1.

    Args:
        relevance_a: (M, ...) relevance of the first inputs; relevance_b likewise of the second.
        relevance_b: (M, ...).
        distance: (M,) Euclidean length between the inputs.
        normalised: scale every map to a sum of magnitudes of 1 first, else the result measures the
            scale of the network's output; a map of zeros stays one.
    """
    a, b = (unit_maps(maps, normalised) for maps in (relevance_a, relevance_b))
    return np.asarray(((a - b).abs().sum(1) / distance.double()).numpy(), np.float64)


def unit_maps(maps: Tensor, normalised: bool = True) -> Tensor:
    """Return maps (M, D) in float64, their magnitudes summing to 1 (zeros stay zeros)."""
    flat = maps.flatten(1).double().cpu()
    total = flat.abs().sum(1, keepdim=True)
    return flat / total.where(total > 0, torch.ones(())) if normalised else flat
