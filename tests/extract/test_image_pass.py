"""Several networks in one pass store what each stores alone, and read and decode an image once."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from images import class_folders, small_file

from alike.extract import loading
from alike.extract.distributed import executor_on
from alike.extract.image_pass import ImagePass
from alike.extract.images import open_source
from alike.extract.networks import load_network
from alike.extract.pipeline import TAPS, extract, extract_networks
from alike.extract.run import TRIAL, ExtractionRun
from alike.extract.store.store import Store

IMAGES = 20

DIM = """
import torch
from torch import nn

TRANSFORM = {"resize": [16, 16], "mean": [0.5] * 3, "std": [0.25] * 3}


class Dim(nn.Module):
    '''Gives nothing finite for images whose mean is above 0.'''

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.linear = nn.Linear(4, 3)

    def forward(self, x):
        bright = x.mean((1, 2, 3)) > 0
        x = torch.relu(self.conv(x))
        x = torch.where(bright[:, None, None, None], torch.inf, x)
        return self.linear(x.mean((2, 3)))


def dim():
    return Dim()
"""


@pytest.fixture
def networks(tmp_path):
    """Two that share their frames but not their mean, one of which fails for some images."""
    (tmp_path / "dim.py").write_text(DIM)
    return [load_network(small_file(tmp_path)), load_network(f"{tmp_path / 'dim.py'}:dim")]


@pytest.fixture
def folder(tmp_path) -> Path:
    made = class_folders(tmp_path / "set", {"cat": 11, "dog": 9})
    (made / "cat" / "0001.jpg").write_bytes(b"no image")
    return made


@pytest.fixture
def decoded(monkeypatch):
    """Counts how often the bytes of an image are read to be computed, and decoded."""
    counts = Counter()

    def counted(name):
        original = getattr(loading, name)

        def count(*arguments):
            counts[name] += 1
            return original(*arguments)

        monkeypatch.setattr(loading, name, count)

    counted("read_checked")
    counted("decode_turned")
    return counts


def alone(folder, networks, place):
    """The digests of the features of each network, extracted by itself."""
    stores = [Store.open(place / str(number), create=True) for number in range(len(networks))]
    for network, store in zip(networks, stores, strict=True):
        extract(open_source(str(folder)), network, store, device="cpu")
    return {store.features().key: store.features() for store in stores}


def together(folder, networks, store, taps=TAPS, **settings):
    asked = [(network, taps) for network in networks]
    return extract_networks(open_source(str(folder)), asked, store, device="cpu", **settings)


def same(one, other):
    assert one.digest == other.digest
    assert one.bad().equals(other.bad())
    for name in one.arrays:
        rows = one.table()["row"].to_numpy()
        np.testing.assert_array_equal(one.read(name, rows), other.read(name, rows))


def test_each_is_stored_as_alone_and_images_are_decoded_once(tmp_path, folder, networks, decoded):
    single = alone(folder, networks, tmp_path)
    decoded.clear()
    store = Store.open(tmp_path / "both", create=True)
    reports = together(folder, networks, store)
    # Beside the pass each network looks at some images to choose the types of its arrays.
    assert decoded == dict.fromkeys(decoded, IMAGES + 2 * TRIAL)
    assert [report.key for report in reports] == list(single)
    for report in reports:
        same(store.features(report.key), single[report.key])
    small, dim = reports
    # An image that is bad for one network is none for the other.
    assert (small.n_rows, small.n_bad, small.n_computed) == (IMAGES - 1, 1, IMAGES)
    assert 0 < dim.n_rows < IMAGES - 1
    assert dim.n_computed == IMAGES
    assert sum(small.stages.values()) > 0
    again = together(folder, networks, store)
    assert [report.n_computed for report in again] == [0, 0]


def test_frames_that_differ_are_decoded_apart(tmp_path, folder, networks, decoded):
    first, second = networks
    other = replace(second, transform=replace(second.transform, resize=(12, 12)))
    single = alone(folder, [first, other], tmp_path)
    decoded.clear()
    store = Store.open(tmp_path / "both", create=True)
    reports = together(folder, [first, other], store)
    assert decoded["decode_turned"] == 2 * IMAGES + 2 * TRIAL
    for report in reports:
        same(store.features(report.key), single[report.key])


def test_a_network_that_comes_later_is_computed_alone(tmp_path, folder, networks, decoded):
    single = alone(folder, networks, tmp_path)
    store = Store.open(tmp_path / "both", create=True)
    together(folder, networks[:1], store)
    decoded.clear()
    first, second = together(folder, networks, store)
    assert (first.n_computed, second.n_computed) == (0, IMAGES)
    assert decoded["decode_turned"] == IMAGES + TRIAL
    # New images are decoded once for both again.
    class_folders(folder, {"dog": 12})
    decoded.clear()
    first, second = together(folder, networks, store)
    assert (first.n_computed, second.n_computed) == (3, 3)
    assert decoded["decode_turned"] == 3
    single = alone(folder, networks, tmp_path / "grown")
    for report in (first, second):
        fresh, grown = single[report.key], store.features(report.key)
        same_by_image(fresh, grown)


def same_by_image(one, other):
    for name in one.arrays:
        arrays = []
        for features in (one, other):
            rows = features.table().sort_values("image_id")["row"].to_numpy()
            arrays.append(features.read(name, rows))
        np.testing.assert_array_equal(*arrays)


@pytest.mark.quick
def test_networks_of_one_key_are_one_with_the_taps_of_all(tmp_path, folder, networks):
    store = Store.open(tmp_path / "one", create=True)
    asked = [(networks[0], ("fc",)), (networks[0], ("logits", "fc"))]
    reports = extract_networks(open_source(str(folder)), asked, store, device="cpu")
    assert reports[0] is not reports[1] or reports[0].key == reports[1].key
    assert store.groups() == [reports[0].key]
    assert set(store.features().arrays) == {"fc", "logits", "gap", "pixels"}


def test_what_was_cut_off_between_two_networks_is_completed(
    tmp_path, folder, networks, monkeypatch
):
    single = alone(folder, networks, tmp_path)
    store = Store.open(tmp_path / "both", create=True)
    commit = ExtractionRun.commit

    def killed(run, unit, part):
        if run.network.name == networks[1].name:
            raise KeyboardInterrupt
        commit(run, unit, part)

    monkeypatch.setattr(ExtractionRun, "commit", killed)
    with pytest.raises(KeyboardInterrupt):
        together(folder, networks, store)
    monkeypatch.undo()
    reports = together(folder, networks, store)
    assert [report.n_computed for report in reports] == [0, IMAGES]
    for report in reports:
        same(store.features(report.key), single[report.key])


def test_workers_store_the_same(tmp_path, folder, networks, monkeypatch):
    single = alone(folder, networks, tmp_path)
    store = Store.open(tmp_path / "both", create=True)
    passes = []
    missing = ImagePass.missing

    def seen(images):
        passes.append(missing(images))
        return passes[-1]

    monkeypatch.setattr(ImagePass, "missing", seen)
    reports = together(folder, networks, store, executor=executor_on(lambda: 1))
    # One task for both networks.
    assert [len(wanted) for wanted in passes[0]] == [2]
    for report in reports:
        same(store.features(report.key), single[report.key])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_stores_what_it_stores_alone(tmp_path, folder, networks):
    source = open_source(str(folder))
    stores = [Store.open(tmp_path / name, create=True) for name in ("one", "two", "both")]
    keys = [
        extract(source, network, store, device="cuda").key
        for network, store in zip(networks, stores[:2], strict=True)
    ]
    extract_networks(source, [(one, TAPS) for one in networks], stores[2], device="cuda")
    for key, store in zip(keys, stores[:2], strict=True):
        assert stores[2].features(key).digest == store.features(key).digest
