"""Extraction of small image folders, and what it must give."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from images import naive_taps

from alike.extract import selfcheck
from alike.extract.errors import BadImage
from alike.extract.forward import Forward
from alike.extract.images.decoding import decode
from alike.extract.images.source import ImageSource, Listed
from alike.extract.images.sources import open_source
from alike.extract.networks import taps
from alike.extract.networks.network import Network
from alike.extract.pipeline import ExtractionReport, extract
from alike.extract.store.features import Features
from alike.extract.store.store import Store


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
