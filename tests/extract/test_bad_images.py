"""Images without a feature: each has a state and a reason, and none is stored."""

from pathlib import Path

import numpy as np
import pytest
from extracting import Flaky, check_rows, run
from images import class_folders, encoded, picture

from alike.extract.errors import BadInput
from alike.extract.images.sources import open_source
from alike.extract.lanes import non_finite
from alike.extract.networks.network import Network, load_network
from alike.extract.networks.transform import Transform
from alike.extract.pipeline import check_bad_share, extract
from alike.extract.store.store import Store


def test_bad_images_are_recorded_and_never_stored(
    folder: Path, network: Network, store: Store
) -> None:
    (folder / "cat" / "text.jpg").write_text("no image")
    (folder / "dog" / "half.jpg").write_bytes((folder / "dog" / "0000.jpg").read_bytes()[:600])
    report = run(folder, network, store)
    assert (report.n_listed, report.n_rows, report.n_bad) == (11, 9, 2)
    states = report.bad.set_index("path")["state"].to_dict()
    assert states == {"cat/text.jpg": "unreadable", "dog/half.jpg": "truncated"}
    features = store.features()
    check_rows(features, network, folder)
    rows = features.bad()["row"].to_numpy()
    assert np.isnan(features.read("gap", rows)).all()
    again = run(folder, network, store)
    assert (again.n_computed, again.n_bad) == (0, 2)


def test_files_that_change_after_the_listing_are_tried_again(
    folder: Path, network: Network, store: Store
) -> None:
    other = encoded(picture(99))
    flaky = Flaky(open_source(str(folder)), {"cat/0001.jpg": other, "dog/0002.jpg": None})
    report = extract(flaky, network, store)
    states = report.bad.set_index("path")["state"].to_dict()
    assert states == {"cat/0001.jpg": "changed", "dog/0002.jpg": "missing"}
    assert report.n_rows == 7
    again = run(folder, network, store)
    assert (again.n_rows, again.n_bad) == (9, 0)
    check_rows(store.features(), network, folder)


NOT_FINITE = """
import torch
from torch import nn

TRANSFORM = {"resize": [8, 8], "mean": [0, 0, 0], "std": [1, 1, 1]}


class Fragile(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.linear = nn.Linear(4, 2)

    def forward(self, x):
        x = x / x.amax((1, 2, 3), keepdim=True)
        return self.linear(self.conv(x).mean((2, 3)))


def fragile():
    return Fragile()
"""


def test_feature_that_is_not_finite_is_a_bad_image(tmp_path: Path, store: Store) -> None:
    (tmp_path / "fragile.py").write_text(NOT_FINITE)
    folder = class_folders(tmp_path / "set", {"a": 3})
    black = encoded(picture(0).point(lambda _: 0), "PNG")
    (folder / "a" / "black.png").write_bytes(black)
    report = run(folder, load_network(f"{tmp_path}/fragile.py:fragile"), store)
    (bad,) = report.bad.to_dict("records")
    assert (bad["path"], bad["state"]) == ("a/black.png", "non-finite")
    assert "NaN or infinite" in bad["reason"]


@pytest.mark.quick
def test_overflow_of_float16_is_seen() -> None:
    maps = np.array([[1.0, 60000, 60000], [np.inf, -np.inf, 0], [np.nan, 0, 0]], np.float16)
    gap = np.array([[1.0], [2.0], [np.nan]], np.float32)
    bad, lost = non_finite({"last_conv": maps[:, :, None], "gap": gap}, [10, 11, 12])
    # A map beyond the type is lost alone; a vector that is no number makes the image bad.
    assert set(bad) == {12}
    assert "gap" in bad[12][1]
    assert lost == {11: ["last_conv"]}


def test_other_size_is_a_bad_image_where_nothing_resizes(
    tmp_path: Path, network: Network, store: Store
) -> None:
    folder = class_folders(tmp_path / "set", {"a": 5}, (20, 24))
    (folder / "a" / "wide.jpg").write_bytes(encoded(picture(7, (30, 24))))
    plain = load_network(network.name, transform=Transform())
    report = run(folder, plain, store)
    (bad,) = report.bad.to_dict("records")
    assert bad["state"] == "wrong size"
    assert bad["reason"].startswith("24x30 where the set is 24x20")
    assert store.features().read("last_conv", slice(0, 1)).shape == (1, 6, 24, 20)


def test_mixed_shapes_are_refused_before_the_run(
    tmp_path: Path, network: Network, store: Store
) -> None:
    folder = class_folders(tmp_path / "set", {"a": 3}, (20, 24))
    (folder / "a" / "wide.jpg").write_bytes(encoded(picture(7, (30, 24))))
    advice = "--resize 16x16 .*--resize 16 --crop 16"
    with pytest.raises(BadInput, match=f"1 of 4 images .*after --resize 16, .*{advice}"):
        run(folder, load_network(network.name, transform=Transform(resize=16)), store)
    with pytest.raises(BadInput, match="and nothing resizes"):
        run(folder, load_network(network.name, transform=Transform()), store)
    assert not store.groups()
    allowed = load_network(network.name, transform=Transform(resize=16))
    assert run(folder, allowed, store, bad_share=0.3).n_bad == 1


def test_too_many_bad_images_end_a_run_and_keep_the_good(
    folder: Path, network: Network, store: Store
) -> None:
    for number in range(3):
        (folder / "cat" / f"text{number}.jpg").write_text("no image")
    report = run(folder, network, store)
    assert (report.n_listed, report.n_bad) == (12, 3)
    with pytest.raises(BadInput, match=r"3 of 12 images .*unreadable 3.*cat/text0.jpg.*other 9"):
        check_bad_share(report)
    check_bad_share(report, 0.25)
    assert len(store.features().table()) == 9
