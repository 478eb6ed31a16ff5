"""Only what is missing is computed: second runs, renames, new images, new taps."""

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from extracting import check_rows, expected, no_forward, run
from images import class_folders

from alike.extract.errors import BadInput
from alike.extract.images.listing import list_source
from alike.extract.images.sources import open_source
from alike.extract.networks.network import Network, load_network
from alike.extract.store.store import Store


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
    # All rows of a lost shard are written again; that of an image that left the set is none.
    (folder / "owl" / "0000.jpg").unlink()
    store.path(store.features().place("gap", 0)).unlink()
    report = run(folder, network, store)
    assert (report.n_computed, report.n_reused, report.n_rows) == (11, 0, 11)


@pytest.mark.quick
def test_same_bytes_twice_are_one_row(folder: Path, network: Network, store: Store) -> None:
    shutil.copy(folder / "cat" / "0000.jpg", folder / "dog" / "copy.jpg")
    report = run(folder, network, store)
    assert (report.n_listed, report.n_computed, report.n_rows) == (10, 9, 9)


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


COUNTING = """
from torch import nn

TRANSFORM = {"resize": [16, 16]}
PASSES = []


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 64, 3), nn.Linear(64, 3)

    def forward(self, x):
        PASSES.append((len(x), bool(x.any())))
        return self.head(self.conv(x).relu().mean((2, 3)))


def make():
    return Counting()
"""


def test_every_pass_of_a_network_counted_from_inside(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    name = f"{tmp_path}/counting.py:make"
    network = load_network(name)
    passes = sys.modules[type(network.module).__module__].PASSES
    run(folder, network, store, batch_size=4, threads=1)
    zeros = [one for one in passes if one == (1, False)]
    assert len(zeros) == 1, "loading and the search for taps share one pass of zeros"
    passes.clear()
    # Nothing is new: one pass of zeros at loading, which says what the network returns.
    assert run(folder, load_network(name), store, batch_size=4, threads=1).n_computed == 0
    assert passes == [(1, False)]
    class_folders(folder, {"owl": 1})
    passes.clear()
    report = run(folder, load_network(name), store, batch_size=4, threads=1)
    assert report.n_computed == 1
    # Zeros; one image for the fold and one to compare; two twice for repeats; one batch, filled up.
    assert passes == [(1, False), (1, True), (1, True), (2, True), (2, True), (4, True)]


def test_network_that_drops_in_eval_mode_is_refused(
    folder: Path, store: Store, tmp_path: Path
) -> None:
    drops = COUNTING.replace("self.head(", "self.head(nn.functional.dropout(").replace(
        "mean((2, 3)))", "mean((2, 3))))"
    )
    (tmp_path / "drops.py").write_text(drops)
    network = load_network(f"{tmp_path}/drops.py:make")
    with pytest.raises(BadInput, match=r"random in eval mode.*it calls dropout"):
        run(folder, network, store)
    assert not list(store.groups())
