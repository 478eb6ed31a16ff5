"""Weight files: read without running code in them, fitted to a network, hashed, written."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alike.extract.errors import BadInput

WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "weights")
# DenseNet files of torchvision still carry the names of torch 0.3, where a dot was allowed.
LEGACY_NAMES = ((re.compile(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\."), r"\1\2."),)
SHOWN = 4


def read_weights(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Tensors of a weight file, by name, and what its writer said of them.

    Args:
        path: ``.safetensors``, or anything `torch.load` reads with ``weights_only=True``.

    Returns:
        Tensors on the CPU, and metadata: of safetensors files its header, each value parsed as JSON
        where it is JSON (`write_weights` gives network, args, transform, class_names).

    Raises:
        BadInput: no such file, not readable, holds objects other than tensors, or no tensors.
    """
    if not path.is_file():
        raise BadInput(f"weights file {path} does not exist")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    # A file that is no pickle makes torch raise any type: struct.error, AttributeError…
    except Exception as error:
        reason = (str(error) or type(error).__name__).split("\n")[0][:120]
        raise BadInput(
            f"weights file {path} is not a plain state_dict ({reason}); save "
            "model.state_dict() with torch.save or as .safetensors"
        ) from error
    for name in WRAPPERS:
        if isinstance(stored, Mapping) and isinstance(stored.get(name), Mapping):
            stored = stored[name]
    tensors = {
        str(name): value
        for name, value in (stored.items() if isinstance(stored, Mapping) else ())
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise BadInput(f"weights file {path} holds no tensors by name; expected a state_dict")
    return tensors, {}


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            said = {name: _parsed(text) for name, text in (file.metadata() or {}).items()}
            # The names are asked of the file: it is no mapping and cannot be iterated.
            return {name: file.get_tensor(name) for name in list(file.keys())}, said
    except SafetensorError as error:
        raise BadInput(f"weights file {path} is not valid safetensors: {error}") from error


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def write_weights(
    path: Path, module: nn.Module, metadata: Mapping[str, object] | None = None
) -> None:
    """Write a module's parameters and buffers as safetensors, with metadata that loading reads.

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
    said = {name: json.dumps(value) for name, value in (metadata or {}).items()}
    aside = path.with_name(path.name + ".partial")
    save_file(tensors, aside, metadata=said)
    aside.replace(path)


def hash_weights(module: nn.Module, salt: str = "") -> str:
    """sha256 (hex) of a module's parameters and buffers: names, types, shapes, bytes; and a salt.

    It does not depend on the file format that they came in.
    """
    digest = hashlib.sha256(salt.encode())
    for name, value in sorted(module.state_dict().items()):
        plain = value.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def fit_names(
    tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Tensors renamed to a network's own names: common prefixes and legacy names removed.

    Tensors of auxiliary heads that the network lacks are dropped: they never reach its output.
    """
    named = dict(tensors)
    for pattern, new in LEGACY_NAMES:
        named = {pattern.sub(new, name): value for name, value in named.items()}
    prefix = _common_prefix(list(named), list(wanted))
    named = {name.removeprefix(prefix): value for name, value in named.items()}
    return {
        name: value
        for name, value in named.items()
        if name in wanted or not name.lower().startswith("aux")
    }


def _common_prefix(stored: list[str], wanted: list[str]) -> str:
    known = set(wanted)
    if not wanted or known & set(stored):
        return ""
    for name in stored:
        if name.endswith("." + wanted[0]):
            prefix = name.removesuffix(wanted[0])
            if any(other.removeprefix(prefix) in known for other in stored):
                return prefix
    return ""


def class_count_change(
    tensors: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]
) -> tuple[int, int] | None:
    """(network's, file's) number of classes where only the head's leading size differs."""
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


def load_into(module: nn.Module, tensors: Mapping[str, torch.Tensor], what: str) -> None:
    """Load tensors that must fit exactly.

    Raises:
        BadInput: one line that lists what is missing, unexpected or of another shape.
    """
    wanted = module.state_dict()
    counters = {name for name in wanted if name.endswith("num_batches_tracked")}
    problems = (
        ("missing", sorted(set(wanted) - set(tensors) - counters)),
        ("unexpected", sorted(set(tensors) - set(wanted))),
        (
            "other shape",
            sorted(
                f"{name} {tuple(value.shape)} for {tuple(wanted[name].shape)}"
                for name, value in tensors.items()
                if name in wanted and wanted[name].shape != value.shape
            ),
        ),
    )
    found = [
        f"{kind} {len(names)} ({', '.join(names[:SHOWN])}{'…' if len(names) > SHOWN else ''})"
        for kind, names in problems
        if names
    ]
    if found:
        raise BadInput(f"{what}: {'; '.join(found)}. Check the network's name and arguments")
    module.load_state_dict(dict(tensors), strict=False)
