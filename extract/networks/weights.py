"""Weights: compared with a network, hashed, written and read as safetensors."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alike.extract.errors import BadInput
from alike.extract.identity import seal_of

# DenseNet files of torchvision still carry the names of torch 0.3, where a dot was allowed.
LEGACY_NAMES = ((re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\."), r"\1\2."),)
SHOWN = 4
_SEAL = "alike_seal"


def read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors by name on the CPU, and the header's metadata, each value parsed if it is JSON.

    Raises:
        BadInput: not valid safetensors, or a file that `write_weights` wrote and that changed.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = dict(file.metadata() or {})
            # The names are asked of the file: it is no mapping and cannot be iterated.
            tensors = {name: file.get_tensor(name) for name in list(file.keys())}
    except SafetensorError as error:
        raise BadInput(f"weights file {path} is not valid safetensors: {error}") from error
    seal = header.pop(_SEAL, None)
    if seal is not None and seal != _seal_of(tensors, header):
        raise BadInput(
            f"weights file {path} differs from its own seal, so it is damaged: bring it back from "
            "a copy, or retrain again"
        )
    return tensors, {name: _parsed(text) for name, text in header.items()}


def _seal_of(tensors: Mapping[str, torch.Tensor], header: Mapping[str, str]) -> str:
    return seal_of([hash_tensors(tensors), dict(header)])


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def write_weights(
    path: Path, module: nn.Module, metadata: Mapping[str, object] | None = None
) -> None:
    """Write a module's parameters and buffers as safetensors, with metadata that loading reads.

    A seal over both tells any change of the file when it is read.

    Args:
        path: a ``.safetensors`` file; written aside and renamed.
        module: of any device; shared parameters are written once for each name.
        metadata: for example network, args, transform and class_names; stored as JSON.
    """
    from safetensors.torch import save_file

    # Cloned, because safetensors refuses tensors that share memory.
    tensors = {
        name: value.detach().cpu().clone().contiguous()
        for name, value in module.state_dict().items()
    }
    header = {name: json.dumps(value) for name, value in (metadata or {}).items()}
    header[_SEAL] = _seal_of(tensors, header)
    aside = path.with_name(path.name + ".partial")
    save_file(tensors, aside, metadata=header)
    aside.replace(path)


def hash_weights(module: nn.Module, salt: str = "") -> str:
    """sha256 (hex) of a module's parameters and buffers: names, types, shapes, bytes; and a salt.

    It does not depend on the file format that they came in.
    """
    return hash_tensors(module.state_dict(), salt)


def hash_tensors(tensors: Mapping[str, torch.Tensor], salt: str = "") -> str:
    """As `hash_weights`, of tensors by name."""
    digest = hashlib.sha256(salt.encode())
    for name, value in sorted(tensors.items()):
        if value.is_meta:
            raise BadInput(
                f"the network's {name} is on the device meta, without values: make the network on "
                "a device, or give it weights"
            )
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def class_count_change(
    tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> tuple[int, int] | None:
    """(network's, file's) number of classes if only the head's leading size differs."""
    changes = {
        (wanted[name].shape[:1], value.shape[:1])
        for name, value in tensors.items()
        if name in wanted and wanted[name].shape != value.shape
    }
    rest = all(
        wanted[name].shape[1:] == value.shape[1:]
        for name, value in tensors.items()
        if name in wanted
    )
    if len(changes) != 1 or not rest:
        return None
    ours, theirs = changes.pop()
    return (ours[0], theirs[0]) if ours and theirs else None


def _unusable(name: str, value: torch.Tensor, wanted: torch.Tensor, scaled: bool) -> str:
    """Why a tensor is none that a parameter or buffer can take, "" if it can.

    Integers in the place of weights are codes, which mean nothing without their scale; so are
    numbers of 8 bits if the file has a scale beside them.
    """
    if value.is_quantized or value.layout != torch.strided:
        return "quantised" if value.is_quantized else "sparse"
    if value.is_meta:
        return "without values (device meta)"
    if not wanted.is_floating_point():
        return ""
    if not value.is_floating_point():
        return str(value.dtype).removeprefix("torch.")
    if scaled and value.dtype.itemsize == 1:
        return f"{str(value.dtype).removeprefix('torch.')} with a scale"
    values = value.float()
    if bool(values.isnan().any()):
        return "NaN"
    # A mask that is added, a buffer, holds -inf where nothing may be seen.
    learned = name.endswith((".weight", ".bias"))
    infinite = values.isinf() if learned else values.isposinf()
    return "infinite" if bool(infinite.any()) else ""


def cast_note(
    path: Path, tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> str | None:
    """One line on weights of other numbers than the network's, None if there are none.

    Args:
        path: of the weights file.
        tensors: by the network's names.
        wanted: the network's state_dict.
    """
    pairs = Counter(
        (str(value.dtype).removeprefix("torch."), str(wanted[name].dtype).removeprefix("torch."))
        for name, value in tensors.items()
        if wanted[name].is_floating_point() and value.dtype != wanted[name].dtype
    )
    if not pairs:
        return None
    listed = ", ".join(f"{n} tensors from {a} to {b}" for (a, b), n in sorted(pairs.items()))
    return f"weights {path}: cast {listed}"


def misfits(
    tensors: Mapping[str, torch.Tensor],
    wanted: Mapping[str, torch.Tensor],
    foreign: Sequence[str] = (),
) -> str:
    """What keeps tensors from being a network's state, in one line; "" if they fit.

    Args:
        tensors: by the network's names.
        wanted: the network's state_dict.
        foreign: names in the file that the network does not have. Those inside its own modules
            count: all tensors of a ResNet-18 are in the file of a ResNet-34, too.
    """
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    modules = {name.partition(".")[0] for name in wanted}
    scaled = {name.rpartition(".")[0] for name in foreign if "scale" in name.rpartition(".")[2]}
    problems = (
        ("missing", sorted(set(wanted) - set(tensors) - counters)),
        (
            "unexpected",
            sorted(
                name
                for name in foreign
                if name.endswith((".weight", ".bias")) and name.partition(".")[0] in modules
            ),
        ),
        (
            "no real numbers",
            sorted(
                f"{name} {kind}"
                for name, value in tensors.items()
                if (kind := _unusable(name, value, wanted[name], name.rpartition(".")[0] in scaled))
            ),
        ),
        (
            "other shape",
            sorted(
                f"{name} {tuple(value.shape)} for {tuple(wanted[name].shape)}"
                for name, value in tensors.items()
                if wanted[name].shape != value.shape
            ),
        ),
    )
    return "; ".join(
        f"{kind} {len(names)} ({', '.join(names[:SHOWN])}{'…' if len(names) > SHOWN else ''})"
        for kind, names in problems
        if names
    )
