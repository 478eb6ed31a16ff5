"""Lanes commit every unit whole, whether lanes load batches themselves or a pool loads ahead."""

import hashlib
from collections.abc import Mapping
from contextlib import nullcontext
from types import MappingProxyType, SimpleNamespace

import numpy as np
import pytest
import torch
from images import encoded
from PIL import Image as Picture

from alike.extract.errors import BadImage
from alike.extract.lanes import OPEN_UNITS, Lanes, UnitRows
from alike.extract.loading import FrameLoader, Image
from alike.extract.networks.transform import Transform
from alike.extract.stages import STAGES, StageClock

UNITS = [UnitRows(unit, range(unit * 1024 + 3, unit * 1024 + 14)) for unit in range(8)]
MISSING = 1024 + 5


class Colours:
    """A source whose image `i` has the one colour (i % 251, i // 251, 7)."""

    def read(self, path: str) -> bytes:
        if int(path) == MISSING:
            raise BadImage("unreadable", "no such file")
        return png(int(path))


class MeanColour:
    """A forward pass: the mean colour of each frame, on a device of a given type."""

    shapes: Mapping[str, tuple[tuple[int, ...], str]] = MappingProxyType(
        {"mean": ((3,), "float32")}
    )

    def __init__(self, device: str) -> None:
        self.device = SimpleNamespace(type=device)

    def __call__(self, frames: torch.Tensor) -> dict[str, np.ndarray]:
        # Libraries round by the size of a batch, so a set that grew has to see no other size.
        assert len(frames) == 4
        return {"mean": frames.float().mean((2, 3)).numpy()}

    def lane(self) -> nullcontext[None]:
        return nullcontext()


def png(number: int) -> bytes:
    return encoded(Picture.new("RGB", (2, 2), (number % 251, number // 251, 7)), "PNG")


def images_of(todo: UnitRows) -> list[Image]:
    return [Image(row, str(row), hashlib.sha256(png(row)).hexdigest()) for row in todo.rows]


def lanes(device: str, commit, progress=lambda _images, _busy: None) -> Lanes:
    load = FrameLoader(Colours(), Transform(), (2, 2), pinned=False, clock=StageClock())
    return Lanes(load, [MeanColour(device)], images_of, commit, progress, batch_size=4, threads=3)


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_every_unit_is_committed_whole(device: str) -> None:
    committed, counts = {}, []
    running = lanes(
        device,
        lambda unit, parts: committed.update({unit: (parts[0].arrays["mean"], parts[0].bad)}),
        lambda images, busy: counts.append((images, set(busy))),
    )
    assert len(UNITS) > 2 * OPEN_UNITS
    running.run(iter(UNITS))
    assert sorted(committed) == [todo.unit for todo in UNITS]
    for todo in UNITS:
        means, bad = committed[todo.unit]
        assert set(bad) == {MISSING} & set(todo.rows)
        for row, mean in zip(todo.rows, means, strict=True):
            assert row in bad or mean.tolist() == [row % 251, row // 251, 7]
    assert sum(images for images, _ in counts) == 11 * len(UNITS)
    assert max(images for images, _ in counts) <= 4
    assert all(busy == set(STAGES) for _, busy in counts)


@pytest.mark.quick
@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_an_error_of_the_writer_ends_all_lanes(device: str) -> None:
    committed = []

    def commit(unit: int, *_: object) -> None:
        if len(committed) == 2:
            raise OSError("the disk is gone")
        committed.append(unit)

    with pytest.raises(OSError, match="the disk is gone"):
        lanes(device, commit).run(UNITS)
    assert len(committed) == 2
