"""One reader for all small files: what is damaged is told in one line, and no module goes past."""

import ast
import errno
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alike.extract.documents import (
    INTEGER,
    TEXT,
    parquet_bytes,
    read_json,
    read_npz,
    read_table,
)
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.identity import check_path, is_name, key_fault, settings_hash
from alike.extract.networks.extraction import Extraction
from alike.extract.replacing import aside

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("extract", "index", "analysis", "train", "flows", "serve")

PARSERS = {
    "json.loads", "json.load", "pq.read_table", "pq.ParquetFile", "pd.read_parquet", "np.load",
    "pd.read_json", "pq.read_metadata",
}  # fmt: skip

NO_STORED_FILE = {
    "extract/documents.py": "the reader itself",
    "extract/large_tables.py": "the same for tables that are read in batches",
    "extract/images": "images that the user brings",
    "extract/networks/weights.py": "weights that the user brings; a value that is no JSON is text",
    "extract/store/formats": "files that the user brings to an import",
    "extract/store/layout.py": "a round trip in memory",
    "extract/distributed.py": "a message between processes",
    "flows/train_processes.py": "messages between processes",
    "analysis/export/fiftyone.py": "a round trip in memory",
    "analysis/people/answers.py": "answers of people that the user brings",
    "flows/commands/extract.py": "an option's value",
    "serve/questions.py": "the body of a request",
}
"""Modules that parse something else than a stored file."""


@dataclass(frozen=True)
class Known:
    number: float
    names: tuple[str, ...] = ()
    more: dict[str, tuple[str, str]] = field(default_factory=dict)


BROKEN = [
    b"", b"[]", b"null", b"5", b"{", b"\xff\xfe", b'"text"', b'{"number": "1"}',
    b'{"number": null}', b'{"number": 1, "names": "ab"}', b'{"number": 1, "more": {"a": ["b"]}}',
    b'{"number": 1', b'{"number": 1, "names": ["\\ud800"]}', b"[" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("data", BROKEN, ids=[str(one[:30]) for one in BROKEN])
def test_json_of_another_kind(data):
    with pytest.raises(StoreDamaged, match=r"^a/b\.json is damaged \(.*\); make it again$") as told:
        read_json(data, Known, "a/b.json", "make it again")
    assert "\n" not in str(told.value)
    assert told.value.file == "a/b.json"
    with pytest.raises(BadInput, match="cannot be read"):
        read_json(data, Known, "a/b.json", "make it again", brought=True)


def test_json_of_the_kind():
    data = b'{"number": 1, "names": ["a"], "more": {"3": ["b", "c"]}, "later": true}'
    assert read_json(data, Known, "a", "") == Known(1.0, ("a",), {"3": ("b", "c")})
    assert np.isnan(read_json(b'{"number": NaN}', Known, "a", "").number)


def table() -> pd.DataFrame:
    return pd.DataFrame({"row": [0, 1], "label": ["cat", None]})


def test_a_table_knows_its_place_and_attributes():
    data = parquet_bytes(table(), "tables/k/scores.parquet", {"n_images": 100})
    columns = {"row": INTEGER, "label": TEXT}
    read, attrs = read_table(data, "tables/k/scores.parquet", "again", columns)
    pd.testing.assert_frame_equal(read, table(), check_dtype=False)
    assert attrs == {"n_images": 100}
    with pytest.raises(StoreDamaged, match="not what was written here"):
        read_table(data, "tables/other/scores.parquet", "again")
    with pytest.raises(StoreDamaged, match="no column size"):
        read_table(data, "tables/k/scores.parquet", "again", {"size": INTEGER})
    with pytest.raises(StoreDamaged, match="column label holds"):
        read_table(data, "tables/k/scores.parquet", "again", {"label": INTEGER})


def test_tables_of_all_types_come_back():
    columns = {
        "category": pd.Categorical(["a", "b"], ["b", "a"]),
        "small": np.array([1, 2], dtype=np.int8),
        "time": pd.to_datetime(["2026-01-01", "2026-01-02"]),
        "text": pd.Series(["x", "y"], dtype="str"),
        "object": pd.Series(["x", "y"], dtype=object),
        "list": [[1, 2], [3]],
        "flag": [True, False],
    }
    for wanted in (pd.DataFrame(columns), pd.DataFrame(columns).iloc[:0]):
        read, _ = read_table(parquet_bytes(wanted, "t"), "t", "again")
        pd.testing.assert_frame_equal(read, wanted, check_dtype=False, check_categorical=False)
        assert list(read.columns) == list(wanted.columns)


def test_every_flipped_bit_of_a_table():
    """What is read is what was written, or an error in one line."""
    place = "tables/k/scores.parquet"
    whole = parquet_bytes(table(), place, {"n_images": 100})
    seen = 0
    for at, bit in zip(range(0, len(whole), 3), itertools.cycle(range(8)), strict=False):
        data = bytearray(whole)
        data[at] ^= 1 << bit
        try:
            read, attrs = read_table(bytes(data), place, "again")
        except StoreDamaged:
            seen += 1
            continue
        assert (read["row"].tolist(), read["label"].tolist()[0]) == ([0, 1], "cat")
        assert attrs == {"n_images": 100}
    assert seen > len(whole) / 10


def _write(place, data):
    with aside(place) as part:
        part.write_bytes(data)


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    """A full disk leaves no picture of 0 bytes behind, and keeps the one before."""
    place = tmp_path / "a.png"
    _write(place, b"first")

    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OSError, match="No space"):
            _write(place, b"second")
    assert place.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [place]
    _write(place, b"second")
    assert place.read_bytes() == b"second"


@pytest.mark.parametrize("data", [b"", b"PK", b"PK\x03\x04" + bytes(40), b"\x93NUMPY", b"[]"])
def test_what_is_no_npz(data):
    with pytest.raises(StoreDamaged, match=r"^x\.npz is damaged"):
        read_npz(data, "x.npz", "again")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "a/b", "a b", ".hidden", "a\\b", "a\0", "-x", "é"]
)
def test_what_is_no_name(name):
    assert not is_name(name)


def test_names():
    assert is_name("resnet18-1f2e3d4c-9a8b7c6d")
    assert is_name("layer4.1.conv2")
    assert check_path("classifier/weight", "constant") == "classifier/weight"
    for wrong in ("classifier/../x", "/x", "a//b", "a/"):
        with pytest.raises(BadInput, match="constant"):
            check_path(wrong, "constant")


def test_a_key_contradicts_other_preprocessing():
    transform = {"resize": 8, "mean": [0.5]}
    attrs = {"weights_hash": "ab" * 32, "transform": transform, "precision": "float32"}
    key = f"net-abababab-{settings_hash(transform, 'float32')}"
    assert key_fault(key, attrs) == ""
    assert "preprocessing" in key_fault(key, {**attrs, "transform": {"resize": 8, "mean": [0.1]}})
    assert "weights" in key_fault(key, {**attrs, "weights_hash": "cd" * 32})
    assert key_fault("mine", attrs) == ""


@pytest.mark.parametrize("modules_hash", ["", "12" * 32])
@pytest.mark.parametrize("output", ["", "heads.0"])
def test_the_key_of_an_extraction_is_the_one_that_is_checked(modules_hash, output):
    made = Extraction(
        "net", "none", "ab" * 32, ("gap",), {"resize": 8}, "float32",
        modules_hash=modules_hash, output=output,
    )  # fmt: skip
    assert key_fault(made.key, made.to_dict()) == ""
    assert key_fault(made.key, {**made.to_dict(), "modules_hash": "34" * 32}) != ""


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _past_the_reader(text: str) -> list[str]:
    return sorted({_dotted(one) for one in ast.walk(ast.parse(text))} & PARSERS)


def test_no_module_parses_a_stored_file_by_itself():
    past = {
        str(path.relative_to(ROOT)): found
        for folder in FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if (found := _past_the_reader(path.read_text(encoding="utf-8")))
    }
    assert past, "the search finds nothing at all"
    wrong = {
        name: found
        for name, found in past.items()
        if not any(name.startswith(allowed) for allowed in NO_STORED_FILE)
    }
    assert not wrong


@pytest.mark.quick
def test_the_search_sees_a_breach():
    assert _past_the_reader("import json\nx = map(json.loads, lines)") == ["json.loads"]
