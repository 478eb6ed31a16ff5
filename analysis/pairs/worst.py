"""The worst class: how every image moves the AUC of every class, and the spread of the least."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from alike.analysis.blocks import compiled
from alike.analysis.pairs.intervals import WHOLE, Spread, spread

Floats = NDArray[np.float64]
DRAWS = 2000
PAIRED = 0.85
"""Share of the drawn variance of a difference of two least classes that is variance (measured):
networks agree on the worst class more often than draws about shrunken centres do."""


@compiled
def add_class_rows(
    bins: Any, places: Any, codes: Any, starts: Any, same: Any, different: Any, moved: Any,
    total: Any, squares: Any, own_rows: Any, rows: Any, columns: Any,
) -> None:  # fmt: skip
    """Influence of some images on the AUC of every class (each other class weighs the same).

    Args:
        bins: (m, N) bin of each pair.
        places: (m,) position of each row.
        codes: (N,) ascending.
        starts: (C + 1,).
        same: (C, B) share of the class's different pairs beyond a bin: influence of a same pair.
        different: (C, B) share of the class's same pairs before a bin.
        moved: (m, C) written: derivative of each class's AUC by the weight of the image, times n.
        total: (C, C) [a, b]: sum over pairs of a's table; added to.
        squares: (C, C) of squares.
        own_rows: (C,) sum over a's images of the squared mean of same pairs.
        rows: (C, C) [a, b]: sum over a's images of the squared mean of a's table with b.
        columns: (C, C) [a, b]: sum over b's images of the squared mean of a's table with a.
    """
    m = bins.shape[0]
    n_classes = len(starts) - 1
    others = 0.0
    for b in range(n_classes):
        others += starts[b + 1] > starts[b]
    others -= 1.0
    for i in range(m):
        a = codes[places[i]]
        row = bins[i]
        across, q = 0.0, 0.0
        for b in range(n_classes):
            low, high = starts[b], starts[b + 1]
            n = high - low
            if n == 0:
                moved[i, b] = 0.0
            elif b == a:
                s1, s2 = 0.0, 0.0
                for j in range(low, high):
                    v = same[a, row[j]]
                    s1 += v
                    s2 += v * v
                v = same[a, row[places[i]]]
                s1, s2 = s1 - v, s2 - v * v
                total[a, a] += s1
                squares[a, a] += s2
                if n > 1:
                    q = s1 / (n - 1)
                own_rows[a] += q * q
            else:
                s1, s2, s3 = 0.0, 0.0, 0.0
                for j in range(low, high):
                    v = different[a, row[j]]
                    s1 += v
                    s2 += v * v
                    s3 += different[b, row[j]]
                total[a, b] += s1
                squares[a, b] += s2
                rows[a, b] += (s1 / n) ** 2
                columns[b, a] += (s3 / n) ** 2
                across += s1 / n / others
                moved[i, b] = s3 / n / others
        n = starts[a + 1] - starts[a]
        grown = (n - 1.0) / (n - 2.0) if n > 3 else 1.6
        moved[i, a] = 2 * q * grown + across


def class_twice(
    counts: NDArray[np.int64], total: Floats, squares: Floats, own_rows: Floats, rows: Floats,
    columns: Floats,
) -> Floats:  # fmt: skip
    """Variance of each class's AUC that influences hold once too often: (C,)."""
    n = counts.astype(np.float64)
    size = np.outer(n, n)
    mean = total / np.maximum(size, 1)
    residual = (
        squares - size * mean**2 - n[None, :] * (rows - n[:, None] * mean**2)
        - n[:, None] * (columns - n[None, :] * mean**2)
    )  # fmt: skip
    free = np.outer(n - 1, n - 1)
    each = np.maximum(residual, 0) / np.maximum(free, 1) / np.maximum(size, 1) * (free > 0)
    np.fill_diagonal(each, 0.0)
    out = each.sum(axis=1) / max((n > 0).sum() - 1, 1) ** 2
    k = np.where(n > 3, n, 4.0)
    u = np.diag(total) / (k * (k - 1))
    effects = ((k - 1) / (k - 2)) ** 2 * (own_rows - k * u**2)
    left = np.diag(squares) / 2 - k * (k - 1) / 2 * u**2 - (k - 2) * effects
    more = np.maximum(left, 0) / (k * (k - 3) / 2) * (4 / (k * (k - 2)) - 2 / (k * (k - 1)))
    return np.asarray(out + np.where(n > 3, more, 0.0))


def class_covariance(
    moved: Floats, codes: NDArray[np.int64], named: NDArray[np.int64],
    stratum: NDArray[np.int64], twice: Floats,
) -> tuple[Floats, Floats]:  # fmt: skip
    """Covariance (C, C) of the classes' AUCs, and (U, C) movements by unit."""
    classes = moved.shape[1]
    n = np.bincount(codes, minlength=classes).astype(np.float64)
    mean = np.stack([np.bincount(codes, moved[:, c], classes) for c in range(classes)], axis=1)
    off = (moved - (mean / np.maximum(n, 1)[:, None])[codes]) / n[codes][:, None]
    units = np.zeros((len(stratum), classes))
    np.add.at(units, named, off)
    size = np.bincount(stratum, minlength=classes + 1).astype(np.float64)
    more = (size / np.maximum(size - 1, 1))[stratum]
    covariance = (units * more[:, None]).T @ units
    variance = np.diag(covariance).copy()
    alone = size[:classes] >= WHOLE * n
    reduced = np.maximum(variance - twice * alone, variance / 4)
    scale = np.sqrt(reduced / np.maximum(variance, 1e-300))
    return covariance * np.outer(scale, scale), units


def least_spread(
    values: Floats, covariance: Floats, units: Floats, stratum: NDArray[np.int64], seed: int = 0
) -> Spread:
    """Spread of the least of the classes' values, which was chosen as the least.

    Draws of all classes about centres that are shrunk towards their mean by as much as their
    differences are noise: classes that differ by chance take turns at being the worst.
    """
    draws, _ = least_draws(values, covariance, seed)
    return Spread(float(draws.std()) ** 2, spread(units.sum(axis=1), stratum).df)


def class_spreads(
    covariance: Floats, units: Floats, stratum: NDArray[np.int64], counts: NDArray[np.int64]
) -> list[Spread]:
    """Spread of the AUC of each class.

    A class of one or two units says nothing of its own spread, and moves the AUC of every other
    class: its units count there as varying as those of the larger classes do.

    Args:
        covariance: (C, C) of `class_covariance`.
        units: (U, C) movements of it.
        stratum: (U,) class of each unit, C for units that are a class.
        counts: (C,) images of each class.

    Returns:
        of each class; without a variance (NaN) where more than half of the others are so small.
    """
    classes = units.shape[1]
    size = np.bincount(stratum, minlength=classes + 1).astype(np.float64)
    by_class = np.stack(
        [np.bincount(stratum, of**2, classes + 1)[:classes] for of in units.T], axis=1
    )
    each = by_class * (size / np.maximum(size - 1, 1) * size)[:classes, None]
    np.fill_diagonal(each, 0.0)
    large = (size[:classes] > 1).astype(np.float64)
    others = large.sum() - large
    weight = (1 / np.minimum(counts, 2))[size[:classes] == 0].sum()
    small = weight * (each.sum(axis=0) / np.maximum(others, 1))
    small[2 * others < classes - 1] = np.nan
    out = []
    for c in range(classes):
        of = spread(units[:, c], stratum)
        variance = float(covariance[c, c] + small[c])
        share = min(1.0, covariance[c, c] / of.variance) if of.variance > 0 else 1.0
        out.append(Spread(variance, max(2.0, of.df * share)))
    return out


def centres(values: Floats, covariance: Floats) -> Floats:
    """Values shrunk towards their mean by the noise in their differences, from 5 classes on."""
    n = len(values)
    if n < 5:
        return values
    noise = (n * np.trace(covariance) - covariance.sum()) / (n * (n - 1))
    between = float(values.var(ddof=1))
    shrinkage = max(between - float(noise), 0.0) / max(between, 1e-300)
    return np.asarray(values.mean() + (values - values.mean()) * shrinkage**0.5)


def least_draws(values: Floats, covariance: Floats, seed: int = 0) -> tuple[Floats, Floats]:
    """(R,) least values and (C,) how often each class has it."""
    drawn = centres(values, covariance) + _normals(covariance, seed)
    return drawn.min(axis=1), np.bincount(drawn.argmin(axis=1), minlength=len(values)) / DRAWS


def least_difference(
    values: tuple[Floats, Floats], covariances: tuple[Floats, Floats],
    units: tuple[Floats, Floats], stratum: NDArray[np.int64], seed: int = 0,
) -> Spread:  # fmt: skip
    """Spread of the difference of two networks' least classes, on the same images."""
    classes = len(values[0])
    size = np.bincount(stratum, minlength=classes + 1).astype(np.float64)
    more = (size / np.maximum(size - 1, 1))[stratum][:, None]
    scaled = [
        part * np.sqrt(np.diag(of) / np.maximum((part**2 * more).sum(axis=0), 1e-300))
        for part, of in zip(units, covariances, strict=True)
    ]
    both = np.hstack(scaled)
    noise = _normals((both * more).T @ both, seed)
    first, second = (centres(*side) for side in zip(values, covariances, strict=True))
    apart = (second + noise[:, classes:]).min(axis=1) - (first + noise[:, :classes]).min(axis=1)
    df = spread((units[1] - units[0]).sum(axis=1), stratum).df
    return Spread(PAIRED * float(apart.var()), df)


def _normals(covariance: Floats, seed: int) -> Floats:
    roots, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(np.maximum(roots, 0.0))
    draw = np.random.default_rng(seed)
    return np.asarray(draw.standard_normal((DRAWS, len(covariance))) @ root.T)
