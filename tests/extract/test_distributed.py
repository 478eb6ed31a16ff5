from pathlib import Path

import numpy as np
import pytest
from images import small_file

from alike.extract.distributed import extract_distributed, map_on_workers
from alike.extract.distributed_client import dask_client
from alike.extract.errors import BadInput
from alike.extract.images.sources import open_source
from alike.extract.networks.network import load_network
from alike.extract.networks.transform import Transform
from alike.extract.pipeline import extract
from alike.extract.store.store import Store


def test_two_processes_give_the_store_of_one(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (2600, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "set.npz", images=images, labels=np.arange(2600) % 3)
    small_file(tmp_path)
    # The workers must find the module beside the network's file, too.
    (tmp_path / "nets.py").write_text(
        "def make():\n    from small import Small\n    return Small(3)\n"
    )
    network = load_network(f"{tmp_path / 'nets.py'}:make", transform=Transform())
    assert network.modules == ("small",)
    source = open_source(str(tmp_path / "set.npz"))
    one, two = (Store.open(tmp_path / name, create=True) for name in ("one", "two"))
    alone = extract(source, network, one, device="cpu", batch_size=64)
    both = extract_distributed(
        source, network, two, workers=2, device="cpu", batch_size=64, threads=2
    )
    assert (both.n_rows, both.n_computed, both.key) == (2600, 2600, alone.key)
    assert sum(both.stages.values()) > 0
    assert two.features().digest == one.features().digest
    again = extract_distributed(source, network, two, workers=2, device="cpu")
    assert again.n_computed == 0


def test_no_scheduler_is_one_clear_line(tmp_path: Path) -> None:
    np.savez(tmp_path / "set.npz", images=np.zeros((3, 8, 8, 3), np.uint8))
    network = load_network(small_file(tmp_path), transform=Transform())
    source = open_source(str(tmp_path / "set.npz"))
    store = Store.open(tmp_path / "store", create=True)
    with pytest.raises(BadInput, match="no Dask scheduler at tcp://127"):
        extract_distributed(source, network, store, workers="tcp://127.0.0.1:9", timeout=1)


@pytest.mark.parametrize("workers", [0, "0", -1, "99999999999999999999", 1025])
def test_impossible_numbers_of_workers_are_refused(workers: int | str) -> None:
    with pytest.raises(BadInput, match="expected 1 to 1024, or tcp://"):
        list(map_on_workers(str, [1], workers=workers))


@pytest.mark.quick
@pytest.mark.parametrize("dashboard", [False, True])
def test_workers_started_here_need_no_fixed_port(dashboard: bool) -> None:
    with dask_client(0, dashboard=dashboard) as client:
        assert client.scheduler_info()["services"]["dashboard"] not in (0, 8787)
