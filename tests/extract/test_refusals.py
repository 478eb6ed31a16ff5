"""What cannot work is refused before anything is computed."""

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from extracting import run

from alike.extract.errors import BadInput, StoreBusy
from alike.extract.forward import choose_device, choose_precision
from alike.extract.networks.network import Network
from alike.extract.run import disk_bytes
from alike.extract.store.store import Store


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


@pytest.mark.quick
def test_disk_estimate_by_hand() -> None:
    shapes = {"last_conv": ((2048, 7, 7), "float16"), "gap": ((2048,), "float32")}
    assert disk_bytes(shapes) == pytest.approx(2048 * 49 * 2 * 0.39 + 2048 * 4)


def test_second_process_is_refused_while_one_extracts(
    folder: Path, network: Network, store: Store, tmp_path: Path
) -> None:
    key = network.extraction(("fc",), "float32").key
    other = Store.open(tmp_path / "store")
    with store.lock(key), pytest.raises(StoreBusy):
        run(folder, network, other)


def test_devices_and_precisions() -> None:
    cpu = choose_device("cpu")
    assert choose_precision("auto", cpu) == "float32"
    assert choose_precision("auto", torch.device("cuda")) == "float16"
    for wanted in ("float16", "int8"):
        with pytest.raises(BadInput, match=wanted):
            choose_precision(wanted, cpu)
    with pytest.raises(BadInput, match="give cpu or auto"):
        choose_device("moon")
