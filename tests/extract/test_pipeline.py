import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from images import class_folders, encoded, naive_taps, picture, small_file

from alike.extract import selfcheck
from alike.extract.errors import BadImage, BadInput, StoreBusy
from alike.extract.forward import Forward, choose_device, choose_precision
from alike.extract.images.decoding import decode
from alike.extract.images.listing import list_source
from alike.extract.images.source import ImageSource, Listed
from alike.extract.images.sources import open_source
from alike.extract.lanes import non_finite
from alike.extract.networks import taps
from alike.extract.networks.network import Network, load_network
from alike.extract.networks.transform import Transform
from alike.extract.pipeline import ExtractionReport, bound_by, extract
from alike.extract.run import disk_bytes
from alike.extract.store.store import Features, Store


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return load_network(small_file(tmp_path), seed=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "set", {"cat": 5, "dog": 4})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)


def run(folder: Path, network: Network, store: Store, **settings: Any) -> ExtractionReport:
    return extract(open_source(str(folder)), network, store, device="cpu", **settings)


def no_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a forward pass was made")

    monkeypatch.setattr(Forward, "__init__", fail)
    monkeypatch.setattr(taps, "trace_forward", fail)
    monkeypatch.setattr(selfcheck, "preprocessing_warning", fail)


def expected(network: Network, folder: Path, path: str) -> dict[str, np.ndarray]:
    batch = network.transform(decode((folder / path).read_bytes()))[None]
    with torch.no_grad():
        return {name: value[0].numpy() for name, value in naive_taps(network.module, batch).items()}


def check_rows(features: Features, network: Network, folder: Path) -> None:
    """Every usable row is the naive result for the image that the table names."""
    table = features.table()
    for row, path in zip(table["row"], table["path"], strict=True):
        truth = expected(network, folder, path)
        maps = features.read("last_conv", np.array([row]))[0]
        assert maps.dtype == np.float16
        np.testing.assert_allclose(maps, truth["last_conv"], atol=2e-3, rtol=2e-3)
        for name in ("gap", "fc"):
            vector = features.read(name, np.array([row]))[0]
            np.testing.assert_allclose(vector, truth["fc"], atol=1e-5)
        logits = features.read("logits", np.array([row]))[0]
        np.testing.assert_allclose(logits, truth["logits"], atol=1e-5)


def test_stored_features_are_those_of_a_naive_loop(
    folder: Path, network: Network, store: Store
) -> None:
    report = run(folder, network, store)
    assert (report.n_listed, report.n_rows, report.n_computed, report.n_bad) == (9, 9, 9, 0)
    features = store.features()
    assert features.key == report.key
    check_rows(features, network, folder)
    assert features.attrs["class_names"] == ["cat", "dog", "owl"]
    assert features.attrs["weights_hash"] == network.weights_hash
    weight = features.read_constant("classifier/weight")
    logits = features.read("fc", slice(None)) @ weight.T + features.read_constant("classifier/bias")
    np.testing.assert_allclose(logits, features.read("logits", slice(None)), atol=1e-5)
    assert features.read("pixels", slice(0, 1)).shape == (1, 3, 16, 16)
    spec, options = store.source()
    assert open_source(spec, **options).read("cat/0000.jpg")


def test_second_run_makes_no_forward_pass(
    folder: Path, network: Network, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, network, store)
    digest = store.features().digest
    no_forward(monkeypatch)
    told = []
    report = run(folder, network, store, progress=lambda *what: told.append(what))
    assert (report.n_computed, report.n_reused) == (0, 9)
    assert ("extract", 9, 9, "nothing new: no forward pass") in told
    assert store.features().digest == digest


HEADLESS = """
from torch import nn

TRANSFORM = {"resize": [8, 8]}


def headless():
    return nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


def test_second_run_of_a_network_without_a_linear_looks_for_no_classifier(
    folder: Path, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "headless.py").write_text(HEADLESS)
    network = f"{tmp_path}/headless.py:headless"
    run(folder, load_network(network), store)
    assert store.features().constants() == []
    no_forward(monkeypatch)
    assert run(folder, load_network(network), store).n_computed == 0


def test_classifier_that_was_lost_is_stored_again(
    folder: Path, network: Network, store: Store
) -> None:
    run(folder, network, store)
    kept = store.features().read_constant("classifier/bias")
    store.path("constants", store.features().key, "classifier", "bias.npz").unlink()
    run(folder, network, store)
    np.testing.assert_array_equal(store.features().read_constant("classifier/bias"), kept)


def test_rename_relabel_and_removal_cost_nothing(
    folder: Path, network: Network, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(folder, network, store)
    (folder / "cat" / "0000.jpg").rename(folder / "dog" / "was-cat.jpg")
    (folder / "cat" / "0001.jpg").unlink()
    no_forward(monkeypatch)
    report = run(folder, network, store)
    assert (report.n_computed, report.n_rows) == (0, 8)
    table = store.features().table().set_index("path")
    assert table["label"]["dog/was-cat.jpg"] == "dog"
    check_rows(store.features(), network, folder)


def test_only_new_images_are_computed(folder: Path, network: Network, store: Store) -> None:
    run(folder, network, store)
    class_folders(folder, {"owl": 3})
    report = run(folder, network, store)
    assert (report.n_computed, report.n_reused, report.n_rows) == (3, 9, 12)
    check_rows(store.features(), network, folder)


def test_same_bytes_twice_are_one_row(folder: Path, network: Network, store: Store) -> None:
    shutil.copy(folder / "cat" / "0000.jpg", folder / "dog" / "copy.jpg")
    report = run(folder, network, store)
    assert (report.n_listed, report.n_computed, report.n_rows) == (10, 9, 9)


def test_batch_threads_and_lack_of_memory_change_no_feature(
    folder: Path, network: Network, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays = []
    whole = Forward._batch
    sizes = Counter[int]()

    def narrow(self: Forward, frames: torch.Tensor) -> dict[str, np.ndarray]:
        if len(frames) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes[len(frames)] += 1
        return whole(self, frames)

    for number, settings in enumerate(
        ({"batch_size": 1, "threads": 1}, {"batch_size": 64, "threads": 3}, {"batch_size": 9})
    ):
        if number == 2:
            monkeypatch.setattr(Forward, "_batch", narrow)
        store = Store.open(tmp_path / f"store-{number}", create=True)
        run(folder, network, store, **settings)
        features = store.features()
        arrays.append({name: features.read(name, slice(None)) for name in features.arrays})
    # Nine images, and two passes of two frames that show whether the network repeats itself.
    assert sizes == {2: 4 + 2, 1: 1}
    for other in arrays[1:]:
        for name, first in arrays[0].items():
            np.testing.assert_allclose(other[name], first, atol=1e-3, err_msg=name)


def test_one_image_too_many_for_the_memory_says_so(
    folder: Path, network: Network, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_self: Forward, _frames: torch.Tensor) -> None:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(Forward, "_batch", full)
    with pytest.raises(BadInput, match="does not fit into the memory of cpu"):
        run(folder, network, store)


def test_tap_added_later_computes_that_alone(folder: Path, network: Network, store: Store) -> None:
    run(folder, network, store, taps=("fc",))
    assert set(store.features().arrays) == {"fc", "gap", "pixels"}
    before = store.features().read("fc", slice(None))
    report = run(folder, network, store, taps=("fc", "bn"))
    features = store.features()
    assert report.n_computed == 9
    assert set(features.arrays) == {"fc", "gap", "pixels", "bn"}
    np.testing.assert_array_equal(features.read("fc", slice(None)), before)
    table = features.table()
    truth = expected(network, folder, table["path"][0])["bn"]
    row = table["row"].to_numpy()[:1]
    np.testing.assert_allclose(features.read("bn", row)[0], truth, atol=5e-3)


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


def test_class_names_must_be_as_many_as_logits(
    folder: Path, network: Network, store: Store
) -> None:
    named = replace(network, class_names=("cat", "dog"))
    with pytest.raises(BadInput, match=r"2 class names .* for the 3 logits"):
        run(folder, named, store)
    assert store.groups() == []


def test_set_without_a_good_image_is_refused(
    tmp_path: Path, network: Network, store: Store
) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "a.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(BadInput, match=r"none of 1 images .* is readable: No such file"):
        run(tmp_path / "set", network, store)


class Flaky:
    """A source whose chosen paths give other bytes, or none, once they were listed."""

    def __init__(self, source: ImageSource, instead: dict[str, bytes | None]) -> None:
        self.spec, self.options = source.spec, source.options
        self._source, self._instead = source, instead
        self._reads = Counter[str]()

    def __iter__(self) -> Iterator[Listed]:
        return iter(self._source)

    def read(self, path: str) -> bytes:
        self._reads[path] += 1
        if path in self._instead and self._reads[path] > 1:
            other = self._instead[path]
            if other is None:
                raise BadImage("unreadable", "no such file")
            return other
        return self._source.read(path)


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


def test_image_that_left_before_it_was_computed_can_come_back(
    folder: Path, network: Network, store: Store
) -> None:
    store.list_images(list_source(open_source(str(folder))))
    kept = (folder / "cat" / "0002.jpg").read_bytes()
    (folder / "cat" / "0002.jpg").unlink()
    report = run(folder, network, store)
    assert (report.n_listed, report.n_rows, report.n_bad) == (8, 8, 0)
    (folder / "cat" / "back.jpg").write_bytes(kept)
    assert run(folder, network, store).n_rows == 9
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


def test_overflow_of_float16_is_seen() -> None:
    maps = np.array([[1.0, 60000, 60000], [np.inf, -np.inf, 0], [np.nan, 0, 0]], np.float16)
    bad = non_finite({"last_conv": maps}, [10, 11, 12])
    assert set(bad) == {11, 12}
    assert "last_conv" in bad[11][1]


def test_other_size_is_a_bad_image_where_nothing_resizes(
    tmp_path: Path, network: Network, store: Store
) -> None:
    folder = class_folders(tmp_path / "set", {"a": 3}, (20, 24))
    (folder / "a" / "wide.jpg").write_bytes(encoded(picture(7, (30, 24))))
    plain = load_network(network.name, transform=Transform())
    report = run(folder, plain, store)
    (bad,) = report.bad.to_dict("records")
    assert bad["state"] == "wrong size"
    assert bad["reason"].startswith("24x30 where the set is 24x20")
    assert store.features().read("last_conv", slice(0, 1)).shape == (1, 6, 24, 20)


def test_too_small_a_disk_is_refused_before_the_run(
    folder: Path, network: Network, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    no_compute = pytest.raises(
        BadInput, match=r"features of 9 images take at least .* leave out last_conv"
    )
    with no_compute:
        run(folder, network, store)
    assert store.groups() == []


def test_disk_estimate_by_hand() -> None:
    shapes = {"last_conv": ((2048, 7, 7), "float16"), "gap": ((2048,), "float32")}
    assert disk_bytes(shapes) == pytest.approx(2048 * 49 * 2 * 0.39 + 2048 * 4)


def test_several_units_are_committed_and_an_error_loses_only_open_ones(
    tmp_path: Path, network: Network, store: Store
) -> None:
    images = np.random.default_rng(0).integers(0, 255, (2100, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "many.npz", images=images, labels=np.arange(2100) % 3)
    small = load_network(network.name, transform=Transform())
    source = open_source(str(tmp_path / "many.npz"))

    class Broken(Flaky):
        def read(self, path: str) -> bytes:
            self._reads[path] += 1
            if path.endswith("2050") and self._reads[path] > 1:
                raise RuntimeError("the cable was pulled")
            return self._source.read(path)

    with pytest.raises(RuntimeError, match="the cable was pulled"):
        extract(Broken(source, {}), small, store, taps=("logits",))
    assert store.features().pending(["logits"])[-1] == 2
    report = extract(source, small, store, taps=("logits",))
    assert report.n_rows == 2100
    features = store.features()
    batch = small.transform.normalise(torch.from_numpy(images).permute(0, 3, 1, 2))
    with torch.no_grad():
        truth = naive_taps(small.module, batch)["logits"].numpy()
    np.testing.assert_allclose(features.read("logits", slice(None)), truth, atol=1e-4)


def test_second_process_is_refused_while_one_extracts(
    folder: Path, network: Network, store: Store, tmp_path: Path
) -> None:
    key = network.extraction(("fc",), "float32").key
    other = Store.open(tmp_path / "store")
    with store.lock(key), pytest.raises(StoreBusy):
        run(folder, network, other)


def test_top1_and_a_warning_where_channels_are_swapped(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A network that knows red from blue, with a preprocessing that swaps mean and std."""
    (tmp_path / "colours.py").write_text(COLOURS)
    folder = tmp_path / "set"
    for label, colour in (("red", (220, 30, 60)), ("blue", (60, 30, 220))):
        (folder / label).mkdir(parents=True)
        for number in range(20):
            shade = tuple(value + number for value in colour)
            image = picture(0).point(lambda _: 0)
            image.paste(shade, (0, 0, *image.size))
            (folder / label / f"{number}.png").write_bytes(encoded(image, "PNG"))
    torch.save(load_network(f"{tmp_path}/colours.py:right").module.state_dict(), tmp_path / "w.pth")
    right = load_network(f"{tmp_path}/colours.py:right", str(tmp_path / "w.pth"))
    report = run(folder, right, store)
    assert (report.top1, report.notes) == (1.0, ())
    wrong = load_network(f"{tmp_path}/colours.py:swapped", str(tmp_path / "w.pth"))
    report = run(folder, wrong, store)
    assert report.top1 == 0
    assert "16 with channels in the order blue, green, red" in report.notes[-1]
    # Remembered: neither an unchanged set nor a few new images pay for it again.
    (folder / "red" / "new.png").write_bytes(encoded(picture(5), "PNG"))
    monkeypatch.setattr(selfcheck, "preprocessing_warning", None)
    for computed in (1, 0):
        again = run(folder, wrong, store)
        assert (again.n_computed, again.notes) == (computed, report.notes)


COLOURS = """
import torch
from torch import nn

TRANSFORM = {"resize": [8, 8]}
CLASS_NAMES = ("red", "blue")


class Colours(nn.Module):
    def __init__(self, order):
        super().__init__()
        self.order = order
        self.conv = nn.Conv2d(3, 3, 1, bias=False)
        self.linear = nn.Linear(3, 2, bias=False)
        self.conv.weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.linear.weight.data = torch.tensor([[1.0, 0, -1], [-1, 0, 1]])

    def forward(self, x):
        return self.linear(self.conv(x[:, self.order]).mean((2, 3)))


def right():
    return Colours([0, 1, 2])


def swapped():
    return Colours([2, 1, 0])
"""


def test_bound_by_names_the_busiest_stage() -> None:
    assert bound_by({"read": 0.2, "decode": 3.1, "forward": 0.4}) == "decode bound: 3.1 of 3.7 s"


def test_devices_and_precisions() -> None:
    cpu = choose_device("cpu")
    assert choose_precision("auto", cpu) == "float32"
    assert choose_precision("auto", torch.device("cuda")) == "float16"
    for wanted in ("float16", "int8"):
        with pytest.raises(BadInput, match=wanted):
            choose_precision(wanted, cpu)
    with pytest.raises(BadInput, match="give cpu or auto"):
        choose_device("moon")


def test_bfloat16_is_near_float32(folder: Path, network: Network, store: Store) -> None:
    run(folder, network, store)
    run(folder, network, store, precision="bfloat16")
    full, half = (
        store.features(key)
        for key in sorted(
            store.groups(), key=lambda k: store.features(k).attrs["precision"] != "float32"
        )
    )
    assert half.attrs["precision"] == "bfloat16"
    a, b = (group.read("last_conv", slice(None)).astype(np.float32) for group in (full, half))
    assert 0 < np.abs(a - b).max() < 0.05
