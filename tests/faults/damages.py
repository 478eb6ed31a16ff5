"""The table of damages: what may happen to the files of a store, drawn by a seed.

A damage changes files under a store's folder and gives the name of the file that it concerns.
"""

import os
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

Draw = np.random.Generator


@dataclass(frozen=True)
class Damage:
    """One kind of damage.

    Attributes:
        name: of the kind.
        files: matches the files, relative to the store, that it may befall.
        change: does it, given the store, the file and a generator.
        told: whether `verify` must name it: it is no longer what was written.
    """

    name: str
    files: str
    change: Callable[[Path, Path, Draw], None]
    told: bool = True


SMALL = (
    r"store\.json|manifest/.*|ledger/.*\.json|log/.*|.*zarr\.json|constants/.*|tables/.*|"
    r"index/.*card\.json|twins/.*"
)
BINARY = (
    r"features\.zarr/.*/c[./].*|index/.*\.faiss|constants/.*|tables/.*|manifest/.*parquet|twins/.*"
)
JSON = r"store\.json|manifest/settings\.json|ledger/.*\.json|log/.*|.*zarr\.json|index/.*card\.json"


def _content(data: bytes) -> Callable[[Path, Path, Draw], None]:
    return lambda _store, file, _draw: file.write_bytes(data) and None


def _torn(_store: Path, file: Path, draw: Draw) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: int(draw.integers(0, len(data)))])


def _flip(_store: Path, file: Path, draw: Draw) -> None:
    data = bytearray(file.read_bytes())
    data[int(draw.integers(len(data)))] ^= 1 << int(draw.integers(8))
    file.write_bytes(data)


def _number(_store: Path, file: Path, draw: Draw) -> None:
    """Change one digit: the document stays a document."""
    text = file.read_text()
    at = [found.start() for found in re.finditer(r"\d", text)]
    if at:
        place = at[int(draw.integers(len(at)))]
        digit = str((int(text[place]) + int(draw.integers(1, 10))) % 10)
        file.write_text(text[:place] + digit + text[place + 1 :])


def _types(_store: Path, file: Path, draw: Draw) -> None:
    """Put a value of another type in the place of one."""
    text = file.read_text()
    values = list(re.finditer(r'(?<=: )("[^"]*"|-?\d[\d.e-]*|null|true|false)', text))
    if values:
        one = values[int(draw.integers(len(values)))]
        others = ['"x"', "null", "[]", "{}", "-1", "1e999", "true"]
        other = others[int(draw.integers(len(others)))]
        file.write_text(text[: one.start()] + other + text[one.end() :])


def _field(_store: Path, file: Path, draw: Draw) -> None:
    """Rename a field, so that it is missing."""
    text = file.read_text()
    names = list(re.finditer(r'"(\w+)":', text))
    one = names[int(draw.integers(len(names)))]
    file.write_text(text[: one.start(1)] + "zz" + text[one.end(1) :])


def _gone(_store: Path, file: Path, _draw: Draw) -> None:
    file.unlink()


def _folder_gone(_store: Path, file: Path, _draw: Draw) -> None:
    shutil.rmtree(file.parent)


def _folder(_store: Path, file: Path, _draw: Draw) -> None:
    file.unlink()
    file.mkdir()


def _loop(_store: Path, file: Path, _draw: Draw) -> None:
    file.unlink()
    file.symlink_to(file)


def _sibling(_store: Path, file: Path, draw: Draw) -> None:
    """Put another file of the same ending in its place."""
    data = file.read_bytes()
    others = [
        one
        for one in sorted(_store.rglob(f"*{file.suffix}"))
        if one.is_file() and one.read_bytes() != data
    ]
    if others:
        shutil.copy(others[int(draw.integers(len(others)))], file)


def _stray(name: str) -> Callable[[Path, Path, Draw], None]:
    def put(_store: Path, file: Path, _draw: Draw) -> None:
        stem, end = file.stem, file.suffix
        place = file.with_name(name.format(name=file.name, stem=stem, end=end))
        place.write_bytes(file.read_bytes() if "(1)" in name else b"\0\5\x16\7Mac OS X")

    return put


def _lock(data: bytes) -> Callable[[Path, Path, Draw], None]:
    def put(store: Path, _file: Path, _draw: Draw) -> None:
        (store / "locks").mkdir(exist_ok=True)
        (store / "locks" / "layout.json").write_bytes(data)
        # Silent for long: its holder counts as dead, wherever it was.
        os.utime(store / "locks" / "layout.json", (1, 1))

    return put


_HOLDER = (
    '{{"host": "elsewhere", "pid": {}, "boot": "", "started": 0.0, "token": "t", "since": 0.0}}'
)

DAMAGES = (
    Damage("empty", SMALL + "|" + BINARY, _content(b"")),
    Damage("torn", SMALL + "|" + BINARY, _torn),
    Damage("list", SMALL, _content(b"[]")),
    Damage("null", SMALL, _content(b"null")),
    Damage("number", SMALL, _content(b"5")),
    Damage("no UTF-8", SMALL, _content(b"\xff\xfe{\xc3\x28}")),
    Damage("object", SMALL, _content(b"{}")),
    Damage("other types", JSON, _types, told=False),
    Damage("field missing", JSON, _field, told=False),
    Damage("digit", JSON, _number, told=False),
    Damage("bit", SMALL + "|" + BINARY, _flip, told=False),
    Damage("gone", SMALL + "|" + BINARY, _gone, told=False),
    # Tables that are all gone are an analysis that was not made.
    Damage("folder gone", f"(?!tables/)({SMALL}|{BINARY})", _folder_gone, told=False),
    Damage("a folder", SMALL, _folder, told=False),
    Damage("a link to itself", SMALL + "|" + BINARY, _loop, told=False),
    Damage("foreign", SMALL + "|" + BINARY, _sibling, told=False),
    Damage("stray ._", SMALL, _stray("._{name}"), told=False),
    Damage("stray (1)", SMALL, _stray("{stem} (1){end}"), told=False),
    Damage("stray .DS_Store", SMALL, _stray(".DS_Store"), told=False),
    Damage("lock of text", r"store\.json", _lock(b"pid 12"), told=False),
    Damage("lock of no number", r"store\.json", _lock(_HOLDER.format('"x"').encode()), told=False),
    Damage("lock of a huge number", r"store\.json", _lock(_HOLDER.format(2**70).encode()), False),
    Damage("lock of a far host", r"store\.json", _lock(_HOLDER.format(7).encode()), told=False),
)


STATE = (
    r"out/(steps\.json|decisions\.jsonl|unchanged\.json)|(out/weights/[^/]*|again)/run\.json|"
    r"out/store/history/.*json"
)
WRITTEN = STATE + (
    r"|(?!.*\.lock)(out/(weights/.*|report\.html|reports/.*|store/(history|listing)/.*)|again/.*)"
)

RUN_DAMAGES = (
    Damage("empty", WRITTEN, _content(b"")),
    Damage("torn", WRITTEN, _torn),
    Damage("bit", WRITTEN, _flip),
    Damage("gone", WRITTEN, _gone),
    Damage("list", STATE, _content(b"[]")),
    Damage("digit", STATE, _number),
    Damage("null", STATE, _content(b"null")),
    Damage("other types", STATE, _types),
    Damage("object", STATE, _content(b"{}")),
    Damage("field missing", STATE, _field),
    Damage("foreign", WRITTEN, _sibling),
    Damage("number", STATE, _content(b"5")),
    Damage("no UTF-8", STATE, _content(b"\xff\xfe{\xc3\x28}")),
    Damage("folder gone", WRITTEN.replace(STATE, "again/.*"), _folder_gone),
    Damage("a folder", WRITTEN, _folder),
    Damage("a link to itself", WRITTEN, _loop),
    Damage("stray ._", WRITTEN, _stray("._{name}")),
    Damage("stray (1)", WRITTEN, _stray("{stem} (1){end}")),
)
"""Of the files that a run keeps beside its store, and of a run of `alike retrain`."""


@dataclass(frozen=True)
class Case:
    """One damage to one file, with the command that is drawn to read the store.

    Attributes:
        seed: of what is drawn on the way.
        damage: its kind.
        at: which of the matching files, counted round.
        command: which of the commands, counted round.
    """

    seed: int
    damage: Damage
    at: int
    command: int

    def __str__(self) -> str:
        return f"{self.seed}-{self.damage.name}-{self.at}"

    def befall(self, store: Path) -> str:
        """Do the damage; gives the name of the file."""
        # An empty file, a mark, says nothing by its content that could be damaged.
        names = sorted(
            str(one.relative_to(store))
            for one in store.rglob("*")
            if one.is_file() and one.stat().st_size
        )
        fit = [name for name in names if re.fullmatch(self.damage.files, name)]
        name = fit[self.at % len(fit)]
        self.damage.change(store, store / name, np.random.default_rng(self.seed))
        if self.damage.name == "folder gone" and name.startswith("log/"):
            return "log: is missing"
        return "locks/layout.json" if self.damage.name.startswith("lock") else name


def cases(count: int, damages: Sequence[Damage] = DAMAGES) -> list[Case]:
    """Give as many cases, every kind of damage in turn."""
    draw = np.random.default_rng(14)
    return [
        Case(
            number,
            damages[number % len(damages)],
            int(draw.integers(10_000)),
            int(draw.integers(10_000)),
        )
        for number in range(count)
    ]
