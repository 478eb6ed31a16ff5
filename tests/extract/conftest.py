"""A small network, image folder and store; lets tests import the modules that stand beside them."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from images import class_folders, small_file

from alike.extract.networks.network import Network, load_network
from alike.extract.store.store import Store


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return load_network(small_file(tmp_path), seed=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return class_folders(tmp_path / "set", {"cat": 5, "dog": 4})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path / "store", create=True)
