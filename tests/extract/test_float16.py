"""Maps near the limits of float16: stored as float32, or lost alone and said so."""

from pathlib import Path

import numpy as np
import pytest
import zarr
from extracting import run
from images import class_folders, encoded

from alike.extract.networks.network import load_network
from alike.extract.store.store import Store
from alike.extract.store.transfer import export_group, import_group
from alike.extract.store.verification import verify

SCALED = """
import torch
from torch import nn

TRANSFORM = {{"resize": [16, 16]}}


class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.out = nn.Conv2d(6, 6, 1)
        self.linear = nn.Linear(6, 3)

    def forward(self, x):
        # Pictures of one colour, and no others, are scaled by another factor.
        plain = x.std((2, 3), keepdim=True).amax(1, keepdim=True) < {below}
        x = torch.relu(self.conv(x)) * torch.where(plain, {odd}, 1.0) * {scale}
        return self.linear(self.out(x).mean((2, 3)))


def scaled():
    return Scaled()
"""


@pytest.fixture
def network_of(tmp_path: Path):
    def make(scale: float, below: float = -1.0, odd: float = 1.0):
        text = SCALED.format(scale=scale, below=below, odd=odd)
        (tmp_path / "scaled.py").write_text(text)
        return load_network(f"{tmp_path}/scaled.py:scaled", seed=2)

    return make


@pytest.mark.parametrize("scale", [1e-9, 1e6])
def test_maps_near_the_limits_are_stored_as_float32(
    tmp_path: Path, store: Store, network_of, scale: float
) -> None:
    folder = class_folders(tmp_path / "set", {"a": 4, "b": 4})
    network = network_of(scale)
    network.module.out.bias.data.zero_()
    report = run(folder, network, store, taps=["last_conv"])
    features = store.features(report.key)
    assert (report.n_rows, report.n_bad) == (8, 0)
    assert features.arrays["last_conv"].dtype == "float32"
    plain = zarr.open_array(store.path("features.zarr", report.key, "last_conv"), mode="r")[:]
    gap = features.read("gap", slice(0, 8))
    assert np.abs(plain).max() > 0
    np.testing.assert_allclose(plain.mean((2, 3)), gap, rtol=1e-5, atol=1e-6 * np.abs(gap).max())
    again = run(folder, network, store, taps=["last_conv"])
    assert again.n_computed == 0


@pytest.mark.quick
def test_maps_of_moderate_size_stay_float16(tmp_path: Path, store: Store, network_of) -> None:
    folder = class_folders(tmp_path / "set", {"a": 4})
    key = run(folder, network_of(1.0), store, taps=["last_conv"]).key
    assert store.features(key).arrays["last_conv"].dtype == "float16"
    assert store.features(key).lost().empty


@pytest.mark.parametrize("odd", [1e7, 1e-12])
def test_a_later_image_beyond_the_limits_loses_its_map_only(
    tmp_path: Path, store: Store, network_of, odd: float
) -> None:
    from PIL import Image

    folder = class_folders(tmp_path / "set", {"a": 5, "b": 5})
    network = network_of(1.0, 1e-2, odd)
    network.module.conv.weight.data.abs_()
    network.module.out.bias.data.zero_()
    key = run(folder, network, store, taps=["last_conv"]).key
    grey = Image.new("RGB", (40, 32), (200, 200, 200))
    for name in ("a/grey.png", "b/other.png"):
        (folder / name).write_bytes(encoded(grey, "PNG"))
        grey = Image.new("RGB", (40, 32), (180, 180, 180))
    report = run(folder, network, store, taps=["last_conv"])
    features = store.features(key)
    assert features.arrays["last_conv"].dtype == "float16"
    assert (report.n_rows, report.n_bad) == (12, 0)
    lost = features.lost()
    assert lost["path"].tolist() == ["a/grey.png", "b/other.png"]
    assert set(lost["array"]) == {"last_conv"}
    assert any("2 images have no last_conv" in note for note in report.notes)
    rows = lost["row"].to_numpy()
    assert np.isnan(features.read("last_conv", rows)).all()
    assert np.isfinite(features.read("gap", rows)).all()
    assert np.abs(features.read("gap", rows)).max() > 0
    assert len(features.table()) == 12
    assert len(features.table(names=["last_conv"])) == 10
    assert [len(block) for block, _ in features.blocks("last_conv")] == [10]
    assert run(folder, network, store, taps=["last_conv"]).n_computed == 0
    assert verify(store).damage == ()
    other = Store.open(tmp_path / "other", create=True)
    import_group(other, export_group(features, tmp_path / "all.h5"))
    assert other.features(key).lost()["path"].tolist() == lost["path"].tolist()
    # More images: the rows that are kept keep what they lost.
    class_folders(tmp_path / "set", {"c": 2})
    run(folder, network, store, taps=["last_conv"])
    assert store.features(key).lost()["row"].tolist() == rows.tolist()
