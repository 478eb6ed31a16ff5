"""Checkpoints as people bring them: read without running code in them, and the right copy chosen.

A training script saves more than a state_dict: two copies of the weights, the optimiser, the
criterion, paths and settings. Every group of tensors by name that the file holds is compared with
the network, under every prefix that the names suggest; the one that gives most of the network's
tensors is taken, and of several the averaged one.
"""

import re
import textwrap
import warnings
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from alike.extract.errors import BadInput
from alike.extract.networks.weights import LEGACY_NAMES, read_safetensors

DEPTH = 4
"""Mappings inside mappings that are looked into."""
SHOWN = 6
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
_LEGACY = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""How a file begins that torch wrote before 1.6."""
BLOCKED = re.compile(r"GLOBAL ([\w.]+) (?:was not an allowed|whose module)")

AVERAGED = re.compile(
    r"(?<![a-z])(ema|averaged|averaging|average|avg|swa|shadow|teacher|polyak)(?![a-z])"
)
SECOND = re.compile(r"(?<![a-z])(student|encoder_k|momentum_encoder|key_encoder|target)(?![a-z])")
WRAPPERS = (
    *("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights"),
    *("params", "module", "backbone"),
)
"""Usual names of the group of weights; an earlier one is preferred if two fit alike."""


@dataclass(frozen=True)
class Checkpoint:
    """What a weights file holds.

    Attributes:
        path: the file.
        groups: tensors by name, by the dotted key of their group; the file's own level is "".
        metadata: of safetensors files the header, each value parsed if it is JSON
            (`write_weights` gives network, args, transform, class_names).
        lists: dotted keys of lists of tensors, which have no names and cannot be placed.
    """

    path: Path
    groups: Mapping[str, Mapping[str, torch.Tensor]]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    lists: tuple[str, ...] = ()

    def describe(self) -> str:
        """Keys of the file, in one line."""
        return "; ".join(
            f"{_plain(key) or 'its own level'}: {len(group)} tensors ({_some(list(group))})"
            for key, group in self.groups.items()
        )


@dataclass(frozen=True)
class Choice:
    """Tensors for a network out of a checkpoint.

    Attributes:
        key: of their group.
        prefix: that their names had.
        tensors: by the network's own names.
        others: keys or names in the file that are left, for one line.
        foreign: names under the same prefix that the network does not have.
        buffers: key of the group that gave the buffers, "" if the same group did.
    """

    key: str
    prefix: str
    tensors: Mapping[str, torch.Tensor]
    others: tuple[str, ...]
    foreign: tuple[str, ...]
    buffers: str = ""

    @property
    def averaged(self) -> str:
        """The word of the key or prefix that says that these are averaged weights, or ""."""
        word = AVERAGED.search(f"{self.key}.{self.prefix}".lower())
        return word[0] if word else ""

    def note(self, path: Path) -> str | None:
        """One line on what was taken and what was left, None if nothing was left."""
        if not self.others and not self.buffers:
            return None
        place = _plain(".".join(filter(None, (self.key, self.prefix.rstrip(".")))))
        kind = f" ({self.averaged}: the averaged weights)" if self.averaged else ""
        rest = [f"took {place or 'the tensors'}{kind}"]
        rest += [f"its buffers from {_plain(self.buffers)}"] if self.buffers else []
        rest += [f"ignored {_some(self.others)}"] if self.others else []
        return f"weights {path}: {', '.join(rest)}"


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a weights file.

    Args:
        path: ``.safetensors``, or anything `torch.load` reads with ``weights_only=True``; beside
            tensors it may hold plain values, `argparse.Namespace`, paths and numpy values.

    Raises:
        BadInput: no such file, not readable, holds other objects, or no tensors by name.
    """
    if not path.is_file():
        raise BadInput(f"weights file {path} does not exist")
    _refuse_other_files(path)
    if path.suffix == ".safetensors":
        tensors, metadata = read_safetensors(path)
        return Checkpoint(path, {"": tensors}, metadata)
    with torch.serialization.safe_globals(_plain_types()), warnings.catch_warnings():
        # Of other ways of pickling torch warns, beside the error or the tensors that it gives.
        warnings.simplefilter("ignore")
        try:
            stored = torch.load(path, map_location="cpu", weights_only=True)
        # A file that is no pickle makes torch raise any type: struct.error, AttributeError…
        except Exception as error:
            raise BadInput(_refusal(path, error)) from error
    groups = dict(_groups(stored))
    if not groups:
        keys = f"; its keys are {_some([str(key) for key in stored])}" if _is_map(stored) else ""
        raise BadInput(
            f"weights file {path} holds no tensors by name, a state_dict was expected{keys}"
        )
    return Checkpoint(path, groups, lists=tuple(_lists(stored)))


def checksum_note(path: Path) -> str:
    """One line if a part of a file that torch wrote differs from its checksum; else empty.

    Torch reads past it, so that one flipped bit is another weight.
    """
    if path.suffix == ".safetensors" or not zipfile.is_zipfile(path):
        return ""
    try:
        with zipfile.ZipFile(path) as file:
            broken = file.testzip()
    # What is damaged makes the reader raise errors of any type.
    except Exception as error:
        broken = str(error) or type(error).__name__
    if broken is None:
        return ""
    return (
        f"weights file {path} differs from its own checksum ({broken}): it is damaged, or was "
        "written without checksums; compare it with its source"
    )


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value)


def _groups(value: Any, key: str = "") -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    if not isinstance(value, Mapping) or key.count(".") >= DEPTH:
        return
    named = {name: one for name, one in value.items() if isinstance(name, str)}
    tensors = {name: one for name, one in named.items() if isinstance(one, torch.Tensor)}
    if tensors:
        yield key, tensors
    for name, inner in named.items():
        yield from _groups(inner, f"{key}.{name}" if key else name)


def _lists(value: Any, key: str = "") -> Iterator[str]:
    """Dotted keys of lists of tensors: weights by their order, as some averages are stored."""
    if isinstance(value, Mapping) and key.count(".") < DEPTH and not key.startswith("optim"):
        for name, inner in value.items():
            yield from _lists(inner, f"{key}.{name}" if key else str(name))
    is_list = isinstance(value, list | tuple) and len(value) > 1
    if is_list and all(isinstance(one, torch.Tensor) for one in value):
        yield from [key] if any(one.is_floating_point() for one in value) else []


def _plain_types() -> list[Any]:
    """Classes that hold values and run nothing, beside those that torch allows."""
    import argparse
    import collections
    import datetime
    import pathlib
    import types

    import numpy as np

    plain: list[Any] = [argparse.Namespace, np.dtype, np.ndarray]
    plain += [types.SimpleNamespace, collections.defaultdict]
    plain += [datetime.datetime, datetime.date, datetime.time, datetime.timedelta]
    # What a defaultdict is filled with.
    plain += [(kind, f"builtins.{kind.__name__}") for kind in (list, dict, int, float, str)]
    plain += [
        value
        for value in vars(np.dtypes).values()
        # Not objects: their arrays hold anything.
        if isinstance(value, type) and value is not np.dtypes.ObjectDType
    ]
    # The functions by which numpy pickles a scalar and an array, under their old name and the new.
    for value in (np.float64(0), np.zeros(0)):
        function: Any = value.__reduce__()[0]
        plain += [
            (function, f"numpy.{core}.multiarray.{function.__name__}") for core in ("core", "_core")
        ]
    for place in ("pathlib", "pathlib._local"):
        # As pure ones, since a path of the other system cannot be made here.
        for pure in (pathlib.PurePosixPath, pathlib.PureWindowsPath):
            names = (pure.__name__, pure.__name__.removeprefix("Pure"))
            plain += [(pure, f"{place}.{name}") for name in names]
    return plain


def _refuse_other_files(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(64)
    if not start:
        raise BadInput(f"weights file {path} is empty: copy or download it again")
    if path.suffix == ".json":
        raise BadInput(
            f"weights file {path} lists in which files the weights are, and holds none: load the "
            "parts it names, and save their tensors as one file"
        )
    if start.startswith(b"version https://git-lfs"):
        raise BadInput(
            f"weights file {path} is a Git LFS pointer, not the weights: run `git lfs pull` in its "
            "repository, or download the file itself"
        )
    if start.lstrip()[:9].lower().startswith((b"<!doctype", b"<html")):
        raise BadInput(f"weights file {path} is an HTML page: download the file itself")
    if start.startswith(b"PK\x03\x04") and not zipfile.is_zipfile(path):
        raise BadInput(f"weights file {path} was cut short: copy or download it again")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
        if any("/code/" in name for name in names):
            raise BadInput(
                f"weights file {path} is a TorchScript archive: load it by torch.jit.load and save "
                "its state_dict() by torch.save"
            )
        if any("/data/weights/" in name for name in names):
            raise BadInput(
                f"weights file {path} is an archive of torch.export: load it by torch.export.load "
                "and save its state_dict by torch.save"
            )


def _refusal(path: Path, error: Exception) -> str:
    text = ESCAPES.sub("", str(error))
    blocked = BLOCKED.search(text)
    root = _root_class(path)
    if blocked is None and _is_other_pickle(path):
        of = f" of an object of class {root}" if root else ""
        return (
            f"weights file {path} is a pickle{of} that torch.save did not write, and reading it "
            "would run code: load it where it was written, and save the network's state_dict() by "
            "torch.save"
        )
    if blocked is None:
        message = text.partition("WeightsUnpickler error: ")[2] or text
        first = next((line for line in message.split("\n") if line.strip()), type(error).__name__)
        reason = textwrap.shorten(first, 160, placeholder=" …")
        return (
            f"weights file {path} is not a plain state_dict ({reason}); save "
            "model.state_dict() with torch.save or as .safetensors"
        )
    if root == blocked[1]:
        return (
            f"weights file {path} is a whole pickled nn.Module (class {blocked[1]}), and reading "
            "it would run code: save its state_dict()"
        )
    return (
        f"weights file {path} holds an object of class {blocked[1]} beside its tensors, and "
        "reading it would run code: save model.state_dict() alone"
    )


def _root_class(path: Path) -> str | None:
    """The class of the object that a file of torch or a pickle holds; None of a plain container."""
    import io
    import pickletools

    texts: list[str] = []
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                name = next(name for name in archive.namelist() if name.endswith("/data.pkl"))
                data = archive.read(name)
        else:
            data = path.read_bytes()
        file = io.BytesIO(data)
        # Before torch 1.6 its number, its version and the machine stood before the object.
        for _ in range(3 if data.startswith(_LEGACY) else 0):
            list(pickletools.genops(file))
        for operation, argument, _ in pickletools.genops(file):
            if operation.name == "GLOBAL":
                return str(argument).replace(" ", ".")
            if operation.name == "STACK_GLOBAL":
                return ".".join(texts[-2:])
            if operation.name.endswith("BINUNICODE"):
                texts.append(str(argument))
            elif operation.name not in ("PROTO", "FRAME", "BINPUT", "MEMOIZE", "MARK"):
                return None
    # A file that is no pickle makes its reader raise any of these.
    except (OSError, zipfile.BadZipFile, StopIteration, ValueError, IndexError):
        return None
    return None


def _is_other_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(len(_LEGACY))
    return start[:1] == b"\x80" and start != _LEGACY


def choose_tensors(
    checkpoint: Checkpoint,
    wanted: Mapping[str, torch.Tensor],
    key: str = "",
    prefix: str | None = None,
    buffers: Collection[str] = (),
) -> Choice:
    """The tensors of a checkpoint that are a network's.

    Args:
        checkpoint: with any number of groups.
        wanted: the network's state_dict.
        key: the group to take, "" to find it.
        prefix: of the names to take, None to find it.
        buffers: names in `wanted` that are no parameters. Averages are often of parameters alone:
            then these come from the weights beside them.

    Raises:
        BadInput: no group of this key, or no name of this prefix.
    """
    groups = checkpoint.groups
    if key and key not in groups:
        raise BadInput(
            f"weights {checkpoint.path} have no {key!r}; there are {checkpoint.describe()}"
        )
    choices = [
        choice
        for name, group in groups.items()
        if not key or name == key
        for choice in _choices(name, group, wanted, prefix)
    ]
    if not choices:
        raise BadInput(
            f"weights {checkpoint.path} have no name that begins with {prefix!r}; there are "
            f"{checkpoint.describe()}"
        )
    best = max(choices, key=lambda choice: _merit(choice, wanted))
    if not best.averaged and not key and prefix is None:
        best = _average_of_parameters(choices, best, wanted, buffers) or best
    others = tuple(one for one in _others(best, groups) if one != best.buffers)
    return replace(best, others=(*others, *checkpoint.lists))


def _average_of_parameters(
    choices: Sequence[Choice],
    best: Choice,
    wanted: Mapping[str, torch.Tensor],
    buffers: Collection[str],
) -> Choice | None:
    """Averaged parameters with the buffers of the weights beside them, None if there are none."""
    parameters = set(wanted) - set(buffers)
    for choice in choices:
        fits = all(value.shape == wanted[name].shape for name, value in choice.tensors.items())
        if choice.averaged and parameters and fits and parameters <= set(choice.tensors):
            place = ".".join(filter(None, (best.key, best.prefix.rstrip("."))))
            return replace(
                choice, tensors={**best.tensors, **choice.tensors}, buffers=place or "the others"
            )
    return None


def _choices(
    key: str,
    group: Mapping[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    prefix: str | None,
) -> Iterator[Choice]:
    named = dict(group)
    for pattern, new in LEGACY_NAMES:
        named = {pattern.sub(new, name): value for name, value in named.items()}
    prefixes = _prefixes(named, wanted) if prefix is None else {prefix}
    for one in sorted(prefixes):
        inside = {n.removeprefix(one): v for n, v in named.items() if n.startswith(one)}
        if inside:
            tensors = {name: value for name, value in inside.items() if name in wanted}
            foreign = tuple(name for name in inside if name not in wanted)
            yield Choice(key, one, tensors, (), foreign)


def _prefixes(named: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> set[str]:
    """The empty prefix, and what stands before a wanted name in the file's names."""
    ends: dict[str, list[str]] = {}
    for name in wanted:
        ends.setdefault(name.rpartition(".")[2], []).append(name)
    prefixes = {""}
    for name in named:
        for end in ends.get(name.rpartition(".")[2], ()):
            if name.endswith(f".{end}"):
                prefixes.add(name.removesuffix(end))
    return prefixes


def _merit(choice: Choice, wanted: Mapping[str, torch.Tensor]) -> tuple[int, int, int, int]:
    place = f"{choice.key}.{choice.prefix}".lower()
    fitting = sum(
        value.shape[1:] == wanted[name].shape[1:] for name, value in choice.tensors.items()
    )
    average = bool(AVERAGED.search(place)) - bool(SECOND.search(place))
    last = choice.key.rpartition(".")[2]
    usual = -WRAPPERS.index(last) if last in WRAPPERS else -len(WRAPPERS)
    return fitting, average, usual if choice.key else 1, -len(choice.prefix)


def _others(best: Choice, groups: Mapping[str, Mapping[str, torch.Tensor]]) -> tuple[str, ...]:
    """What of the file was left: other groups by key, other tensors by prefix or name."""
    own = [name for name in groups[best.key] if not name.startswith(best.prefix)]
    heads = dict.fromkeys(f"{name.partition('.')[0]}.*" if "." in name else name for name in own)
    keys = [key for key in groups if key != best.key and not key.startswith("optim")]
    return (*(key or "tensors beside it" for key in keys), *heads, *best.foreign)


def _plain(name: str) -> str:
    """A name of a file without what a terminal would obey."""
    return name if name.isprintable() else name.encode("unicode_escape").decode()


def _some(names: Any) -> str:
    names = [_plain(str(name)) for name in names]
    return f"{', '.join(names[:SHOWN])}{f' and {len(names) - SHOWN} more' if names[SHOWN:] else ''}"
