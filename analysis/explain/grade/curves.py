"""Deletion, insertion and occlusion: what becomes of a score if cells of an image are blurred.

Deletion blurs the cells that a map ranks first and follows the score down; insertion starts from
the blurred image and puts these cells back (Petsiuk, Das and Saenko 2018). The fill is the image
itself, blurred: it stays near what the network was trained on.
"""

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

Score = Callable[[Tensor], Tensor]
"""(N, 3, H, W), one input for each of N images, to the score (N,) of each."""
Floats = npt.NDArray[np.float64]

BLUR = 0.1
"""Standard deviation of the blur, as a share of the shorter side."""


def batches(rows: Tensor, size: int) -> list[Tensor]:
    """Rows (N, ...) in parts of at most `size`."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def blurred(images: Tensor) -> Tensor:
    """Images (N, 3, H, W) without detail, edges mirrored."""
    sigma = BLUR * min(images.shape[-2:])
    reach = min(math.ceil(3 * sigma), min(images.shape[-2:]) - 1)
    blur: Tensor = gaussian_blur(images, [2 * reach + 1] * 2, [sigma] * 2)
    return blur


def cell_index(size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """The cell (H, W) of each position, numbered row by row.

    Example:
        >>> cell_index((2, 4), (1, 2)).tolist()
        [[0, 0, 1, 1], [0, 0, 1, 1]]
    """
    down, right = (torch.arange(side) * n // side for side, n in zip(size, grid, strict=True))
    return down[:, None] * grid[1] + right


def in_cells(maps: Tensor, grid: tuple[int, int]) -> Floats:
    """Mean relevance (N, K) of each cell of maps (N, h, w), h and w at least those of the grid."""
    index = cell_index((int(maps.shape[1]), int(maps.shape[2])), grid).flatten()
    count = torch.bincount(index, minlength=grid[0] * grid[1])
    total = torch.zeros(len(maps), len(count), dtype=torch.float64)
    total.index_add_(1, index, maps.flatten(1).double().cpu())
    return np.asarray((total / count).numpy())


def stepped(
    score: Score,
    start: Tensor,
    end: Tensor,
    ranks: Tensor,
    grid: tuple[int, int],
    steps: int,
    ends: tuple[Floats, Floats],
) -> Floats:
    """Scores (N, steps + 1) on the way from one input to another, cell by cell.

    Args:
        score: of each image.
        start: (N, 3, H, W).
        end: of the same shape.
        ranks: (N, K) of each cell, 0 is replaced first.
        grid: of the cells.
        steps: parts of equal size, as far as the number of cells allows.
        ends: scores (N,) of the first input and of the last, which are the same for every order.
    """
    index = cell_index((int(start.shape[-2]), int(start.shape[-1])), grid).to(start.device)
    cells = ranks.shape[1]
    values = [ends[0]]
    for step in range(1, steps):
        replaced = (ranks < round(cells * step / steps)).to(start.device)[:, index]
        values.append(score(torch.where(replaced[:, None], end, start)).double().cpu().numpy())
    return np.stack([*values, ends[1]], axis=1)


def area(values: Floats) -> Floats:
    """Mean score (N,) over a way (N, steps + 1), by the trapezoid rule."""
    return np.asarray((values[:, :-1] + values[:, 1:]).mean(axis=1) / 2)


def occlusion(
    score: Score, images: Tensor, fill: Tensor, grid: tuple[int, int], whole: Floats
) -> Floats:
    """By how much the score, (N,) of the whole images, falls if one cell is blurred: (N, K)."""
    index = cell_index((int(images.shape[-2]), int(images.shape[-1])), grid).to(images.device)
    falls = [
        whole - score(torch.where(index == cell, fill, images)).double().cpu().numpy()
        for cell in range(grid[0] * grid[1])
    ]
    return np.stack(falls, axis=1)


def ranks_of(cells: Floats) -> Tensor:
    """Rank (N, K) of each cell, 0 for the highest; the first of equal ones comes first."""
    order = np.argsort(-cells, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(order.shape[1])[None], axis=1)
    return torch.from_numpy(ranks)


def rank_agreement(one: Floats, other: Floats) -> Floats:
    """Spearman's correlation (N,) of the rows of two arrays (N, K); NaN where a row is constant."""
    from scipy.stats import rankdata

    a, b = (rankdata(rows, axis=1) - (rows.shape[1] + 1) / 2 for rows in (one, other))
    below = np.sqrt((a * a).sum(axis=1) * (b * b).sum(axis=1))
    above = (a * b).sum(axis=1)
    return np.asarray(np.divide(above, below, out=np.full(len(a), np.nan), where=below > 0))
