"""Stored features are those of a naive loop, whatever batches, threads and units."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from extracting import Flaky, check_rows, run
from images import naive_taps

from alike.extract.errors import BadInput
from alike.extract.forward import Forward
from alike.extract.images.sources import open_source
from alike.extract.networks.network import Network, load_network
from alike.extract.networks.transform import Transform
from alike.extract.pipeline import bound_by, extract
from alike.extract.store.store import Store


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
    # Nine images twice, since the types of the maps are tried on them first; and two passes of
    # two frames that show whether the network repeats itself, and keeps images apart.
    assert sizes == {2: 2 * 4 + 2, 1: 2}
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


@pytest.mark.quick
def test_bound_by_names_the_busiest_stage() -> None:
    assert bound_by({"read": 0.2, "decode": 3.1, "forward": 0.4}) == "decode bound: 3.1 of 3.7 s"


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
