"""The inner loops of the search for twins: hashes that are near, then pixels that agree."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

_Function = TypeVar("_Function", bound=Callable[..., Any])

GRID, COARSE = 48, 24
"""Cells along a side in which pixels are compared, and in which a candidate is tried first."""
HOPELESS = 0.45
"""Correlation on the coarse grid below which a candidate is dropped."""
FAINT_HOPE = 0.65
"""The same after the first search on the fine grid. Of planted twins 99 in 100 have .77 there."""
TRIED = 3
"""Proposals of a pair that are tried in pixels, the nearest hashes first."""
WIDTH, RADIUS = 4.0, 12
"""Standard deviation and reach, in cells, of the Gaussian that is taken away."""
FAINT = 1.0
"""Grey levels of detail below which an image is flat: nothing can be confirmed."""
NEW, READY, FLAT = 0, 1, 2
HASHES = 1024
"""Candidates whose hashes are compared at once."""
Room = tuple[NDArray[np.float32], NDArray[np.float32]]
"""Of a search: for `_across`, and for a part."""


def _compiled(function: _Function) -> _Function:
    compiled: _Function = njit(nogil=True, fastmath=True, cache=True, error_model="numpy")(function)
    return compiled


@_compiled
def differing_bits(a: np.uint64, b: np.uint64) -> np.int64:
    """Number of bits in which two hashes differ."""
    x = a ^ b
    x = x - ((x >> np.uint64(1)) & np.uint64(0x5555555555555555))
    x = (x & np.uint64(0x3333333333333333)) + ((x >> np.uint64(2)) & np.uint64(0x3333333333333333))
    x = (x + (x >> np.uint64(4))) & np.uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((x * np.uint64(0x0101010101010101)) >> np.uint64(56))


@_compiled
def high_pass(image: NDArray[np.uint8], out: NDArray[np.int8]) -> int:
    """Take a Gaussian away, scale what is left to 8 bits; READY, or FLAT if little is left."""
    side = image.shape[0]
    taps = np.empty(2 * RADIUS + 1, dtype=np.float32)
    for at in range(len(taps)):
        taps[at] = np.exp(-0.5 * ((at - RADIUS) / WIDTH) ** 2)
    taps /= taps.sum()
    half = np.zeros((side, side), dtype=np.float32)
    for row in range(side):
        for at in range(len(taps)):
            beside = min(max(row + at - RADIUS, 0), side - 1)
            for column in range(side):
                half[row, column] += taps[at] * np.float32(image[beside, column])
    rest = np.empty((side, side), dtype=np.float32)
    padded = np.empty(side + 2 * RADIUS, dtype=np.float32)
    smooth = np.empty(side, dtype=np.float32)
    total, squares, largest = 0.0, 0.0, 0.0
    for row in range(side):
        for column in range(len(padded)):
            padded[column] = half[row, min(max(column - RADIUS, 0), side - 1)]
        smooth[:] = 0.0
        for at in range(len(taps)):
            for column in range(side):
                smooth[column] += taps[at] * padded[column + at]
        for column in range(side):
            value = float(image[row, column]) - float(smooth[column])
            rest[row, column] = value
            total += value
            squares += value * value
            largest = max(largest, abs(value))
    mean = total / (side * side)
    if squares / (side * side) - mean * mean < FAINT * FAINT:
        return FLAT
    for row in range(side):
        for column in range(side):
            out[row, column] = np.int8(np.rint(rest[row, column] * (127.0 / largest)))
    return READY


@_compiled
def _sample(
    image: NDArray[np.int8], x0: float, y0: float, scale: float, out: NDArray[np.float32]
) -> None:
    """Write a part of an image, interpolated linearly, mean 0 and length 1, into `out`."""
    side, cells = image.shape[0], out.shape[0]
    lefts = np.empty(cells, dtype=np.int64)
    rights = np.empty(cells, dtype=np.float32)
    for column in range(cells):
        x = min(max((column + 0.5) / cells * scale * side + x0 * side - 0.5, 0.0), side - 1.001)
        lefts[column] = int(x)
        rights[column] = x - int(x)
    total, squares = np.float32(0.0), np.float32(0.0)
    for row in range(cells):
        y = min(max((row + 0.5) / cells * scale * side + y0 * side - 0.5, 0.0), side - 1.001)
        top = int(y)
        down = np.float32(y - top)
        for column in range(cells):
            left, right = lefts[column], rights[column]
            a, b = np.float32(image[top, left]), np.float32(image[top, left + 1])
            c, d = np.float32(image[top + 1, left]), np.float32(image[top + 1, left + 1])
            upper, lower = a + right * (b - a), c + right * (d - c)
            value = upper + down * (lower - upper)
            out[row, column] = value
            total += value
            squares += value * value
    n = np.float32(cells * cells)
    mean = total / n
    length = np.sqrt(max(squares - total * mean, np.float32(1e-6)))
    for row in range(cells):
        for column in range(cells):
            out[row, column] = (out[row, column] - mean) / length


@_compiled
def _across(image: NDArray[np.float32], x0: float, scale: float, out: NDArray[np.float32]) -> None:
    """Interpolate every row of an image at the columns of a part: (64, cells) into `out`."""
    side, cells = out.shape
    lefts = np.empty(cells, dtype=np.int64)
    rights = np.empty(cells, dtype=np.float32)
    for column in range(cells):
        x = min(max((column + 0.5) / cells * scale * side + x0 * side - 0.5, 0.0), side - 1.001)
        lefts[column] = int(x)
        rights[column] = x - int(x)
    for row in range(side):
        for column in range(cells):
            left = lefts[column]
            a, b = image[row, left], image[row, left + 1]
            out[row, column] = a + rights[column] * (b - a)


@_compiled
def _correlation(
    across: NDArray[np.float32],
    target: NDArray[np.float32],
    y0: float,
    scale: float,
    part: NDArray[np.float32],
) -> float:
    """Correlation of a part of an image with `target`, which has mean 0 and length 1.

    Args:
        across: (64, cells) of the image, by `_across`.
        target: (cells, cells).
        y0: top of the part, as a share of the side.
        scale: side of the part, likewise.
        part: scratch, (cells, cells).
    """
    side, cells = across.shape
    for row in range(cells):
        y = min(max((row + 0.5) / cells * scale * side + y0 * side - 0.5, 0.0), side - 1.001)
        top = int(y)
        down = np.float32(y - top)
        for column in range(cells):
            upper, lower = across[top, column], across[top + 1, column]
            part[row, column] = upper + down * (lower - upper)
    values, wanted = part.reshape(-1), target.reshape(-1)
    total, squares, product = np.float32(0.0), np.float32(0.0), np.float32(0.0)
    for at in range(len(values)):
        total += values[at]
        squares += values[at] * values[at]
        product += values[at] * wanted[at]
    mean = total / np.float32(len(values))
    return float(product / np.sqrt(max(squares - total * mean, np.float32(1e-6))))


@_compiled
def _search(
    image: NDArray[np.float32],
    target: NDArray[np.float32],
    box: NDArray[np.float64],
    scale_step: float,
    place_step: float,
    room: Room,
    best: float,
) -> float:
    """Move `box` to the best of its 27 neighbours; the correlation there."""
    across, part = room
    x0, y0, scale = box[0], box[1], box[2]
    for ds in range(-1, 2):
        side = scale + ds * scale_step
        # A change of the side is about the middle of the part.
        shift = 0.5 * (scale - side)
        for dx in range(-1, 2):
            x = x0 + shift + dx * place_step
            _across(image, x, side, across)
            for dy in range(-1, 2):
                y = y0 + shift + dy * place_step
                value = _correlation(across, target, y, side, part)
                if value > best:
                    best = value
                    box[0], box[1], box[2] = x, y, side
    return best


@_compiled
def _room(side: int, cells: int) -> Room:
    return np.empty((side, cells), dtype=np.float32), np.empty((cells, cells), dtype=np.float32)


@_compiled
def agreement(image: NDArray[np.int8], other: NDArray[np.int8], box: NDArray[np.float64]) -> float:
    """How well a part of an image agrees with the whole of another.

    Args:
        image: (64, 64), high-passed.
        other: (64, 64), high-passed.
        box: left, top, side of the part to begin with; moved to where they agree best.

    Returns:
        Normalised correlation at the best box near the given one, at most 1.
    """
    coarse = np.empty((COARSE, COARSE), dtype=np.float32)
    _sample(other, 0.0, 0.0, 1.0, coarse)
    start, wide = box.copy(), image.astype(np.float32)
    rough = _search(wide, coarse, box, 0.04, 0.03, _room(len(image), COARSE), -1.0)
    if rough < HOPELESS:
        return rough
    fine, room = np.empty((GRID, GRID), dtype=np.float32), _room(len(image), GRID)
    _sample(other, 0.0, 0.0, 1.0, fine)
    across, part = room
    _across(wide, start[0], start[2], across)
    exact = _correlation(across, fine, start[1], start[2], part)
    _across(wide, box[0], box[2], across)
    best = _correlation(across, fine, box[1], box[2], part)
    if exact > best:
        best = exact
        box[:] = start
    for step in (0.02, 0.01, 0.004):
        for _ in range(3):
            before = best
            best = _search(wide, fine, box, step, step, room, best)
            if best <= before:
                break
        if best < FAINT_HOPE:
            break
    return best


@_compiled
def best_proposals(
    first: NDArray[np.uint64],
    second: NDArray[np.uint64],
    turned: NDArray[np.uint64],
    most: int,
    proposals: NDArray[np.int64],
) -> int:
    """Write the nearest ways in which two images could be twins; how many there are.

    Args:
        first: (10,) hashes of the parts `BOXES` of one image.
        second: (2, 10) the same of the other, as it is and mirrored.
        turned: (8,) hashes of the whole of the other under every symmetry.
        most: bits in which two hashes may differ.
        proposals: (TRIED, 4): bits, symmetry, part of the first, part of the other.
    """
    n = 0
    for symmetry in range(8):
        parts = first.shape[0] if symmetry < second.shape[0] else 1
        for mine in range(parts):
            bits = differing_bits(first[mine], turned[symmetry])
            if bits <= most:
                n = _keep(proposals, n, bits, symmetry, mine, 0)
        for theirs in range(1, parts):
            bits = differing_bits(first[0], second[symmetry, theirs])
            if bits <= most:
                n = _keep(proposals, n, bits, symmetry, 0, theirs)
    return n


@_compiled
def _keep(
    proposals: NDArray[np.int64], n: int, bits: np.int64, symmetry: int, mine: int, theirs: int
) -> int:
    """Insert a proposal in order of its bits; the number that is kept."""
    at = min(n, TRIED)
    while at > 0 and proposals[at - 1, 0] > bits:
        if at < TRIED:
            proposals[at] = proposals[at - 1]
        at -= 1
    if at < TRIED:
        proposals[at, 0], proposals[at, 1] = bits, symmetry
        proposals[at, 2], proposals[at, 3] = mine, theirs
    return min(n + 1, TRIED)


@_compiled
def _least_bits(
    columns: NDArray[np.uint64],
    places: NDArray[np.int64],
    second: NDArray[np.uint64],
    turned: NDArray[np.uint64],
    hashed: NDArray[np.uint64],
    least: NDArray[np.int64],
) -> None:
    """Write the bits in which the nearest hashes of an image and each of some others differ.

    The same pairs of hashes as those of `best_proposals`, one after another for all the others,
    which a processor counts several at once.

    Args:
        columns: (10, N) hashes of the parts of every image.
        places: (m,) the others.
        second: (2, 10) of the image; see `best_proposals`.
        turned: (8,) likewise.
        hashed: scratch, (m,) or more.
        least: (m,) or more, written.
    """
    m = len(places)
    for at in range(m):
        least[at] = 64
    for part in range(columns.shape[0]):
        for at in range(m):
            hashed[at] = columns[part, places[at]]
        for symmetry in range(8 if part == 0 else second.shape[0]):
            of_whole = turned[symmetry]
            for at in range(m):
                least[at] = min(least[at], differing_bits(hashed[at], of_whole))
        if part > 0:
            continue
        for symmetry in range(second.shape[0]):
            for theirs in range(1, second.shape[1]):
                of_part = second[symmetry, theirs]
                for at in range(m):
                    least[at] = min(least[at], differing_bits(hashed[at], of_part))


@_compiled
def twins_of(
    at: int,
    candidates: NDArray[np.int64],
    parts: NDArray[np.uint64],
    columns: NDArray[np.uint64],
    second: NDArray[np.uint64],
    turned: NDArray[np.uint64],
    turned_images: NDArray[np.uint8],
    thumbnails: NDArray[np.uint8],
    details: NDArray[np.int8],
    states: NDArray[np.int8],
    boxes: NDArray[np.float64],
    most: int,
    least: float,
) -> tuple[NDArray[np.float64], int]:
    """The twins of one image among others.

    Args:
        at: place of the image.
        candidates: places to look at.
        parts: (N, 10) hashes of the parts of every image.
        columns: (10, N) the same.
        second: (2, 10) hashes of the parts of this one, as it is and mirrored.
        turned: (8,) hashes of this one under every symmetry.
        turned_images: (8, 64, 64) this one under every symmetry.
        thumbnails: (N, 64, 64).
        details: (N, 64, 64), high-passed where `states` says READY; filled as needed.
        states: (N,).
        boxes: (10, 3).
        most: bits in which two hashes may differ.
        least: correlation of twins.

    Returns:
        (n, 3): place of the other, correlation, symmetry; and how many pairs were looked at in
        pixels.
    """
    links = np.empty((16, 3), dtype=np.float64)
    n, n_tried = 0, 0
    proposals = np.empty((TRIED, 4), dtype=np.int64)
    own = np.empty(turned_images.shape, dtype=np.int8)
    own_states = np.zeros(8, dtype=np.int8)
    box = np.empty(3, dtype=np.float64)
    hashed = np.empty(HASHES, dtype=np.uint64)
    bits = np.empty(HASHES, dtype=np.int64)
    for turn, other in enumerate(candidates):
        if turn % HASHES == 0:
            some = candidates[turn : turn + HASHES]
            _least_bits(columns, some, second, turned, hashed, bits)
        if bits[turn % HASHES] > most or other == at:
            continue
        count = best_proposals(parts[other], second, turned, most, proposals)
        if count == 0:
            continue
        n_tried += 1
        if states[other] == NEW:
            states[other] = high_pass(thumbnails[other], details[other])
        if states[other] == FLAT:
            continue
        best, symmetry_of_best = -1.0, 0
        for one in range(count):
            symmetry, mine, theirs = proposals[one, 1], proposals[one, 2], proposals[one, 3]
            if own_states[symmetry] == NEW:
                own_states[symmetry] = high_pass(turned_images[symmetry], own[symmetry])
            if own_states[symmetry] == FLAT:
                break
            if theirs == 0:
                box[:] = boxes[mine]
                value = agreement(details[other], own[symmetry], box)
            else:
                box[:] = boxes[theirs]
                value = agreement(own[symmetry], details[other], box)
            if value > best:
                best, symmetry_of_best = value, symmetry
            if best >= least:
                break
        if best >= least:
            if n == len(links):
                more = np.empty((2 * n, 3), dtype=np.float64)
                more[:n] = links
                links = more
            links[n, 0], links[n, 1], links[n, 2] = other, best, symmetry_of_best
            n += 1
    return links[:n], n_tried
