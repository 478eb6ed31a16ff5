"""What a thing is, in a few hexadecimal digits: seals of stored facts, and the names of groups."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from alike.extract.errors import BadInput

PLAIN = {"weights", "model", "checkpoint", "pytorch_model", "best", "last", "final"}
"""Files of weights of these names are told apart by their folders."""
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+@-]*")


def seal_of(value: object) -> str:
    """Hash a value of JSON, independent of the order of its keys: BLAKE2b, 32 digits.

    Example:
        >>> seal_of({"a": 1, "b": 2}) == seal_of({"b": 2, "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def file_hash(path: Path) -> str:
    """Hash a file's bytes: BLAKE2b, 32 digits; empty if there is no such file."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "blake2b").hexdigest()[:32]
    except OSError:
        return ""


def bytes_hash(data: bytes) -> str:
    """Hash bytes as `file_hash` hashes those of a file."""
    return hashlib.blake2b(data).hexdigest()[:32]


def settings_hash(
    transform: Mapping[str, object],
    precision: object,
    modules_hash: object = "",
    output: object = "",
    head: object = "",
) -> str:
    """Hash what decides features beside the weights: the last 8 digits of an extraction's key.

    Args:
        transform: the preprocessing.
        precision: of the forward pass.
        modules_hash: of the user's modules beside the network's file; empty if it has none.
        output: which of several outputs the logits are, if that was chosen.
        head: what the classifier is if it is no Linear, see `Extraction.head`.
    """
    # Only if there are any, so that other networks keep the keys that they had.
    further: list[object] = [value for value in (modules_hash, output) if value]
    further += [{"head": head}] if head else []
    resolved = json.dumps([dict(transform), precision, *further], sort_keys=True)
    return hashlib.sha256(resolved.encode()).hexdigest()[:8]


def key_fault(key: str, attrs: Mapping[str, Any]) -> str:
    """Say what of a group's attributes its key contradicts, or nothing.

    A key that is not made of hashes, such as one given by hand, contradicts nothing.
    """
    hashes = re.search(r"-([0-9a-f]{8})-(?:[0-9a-f]{8}-)*([0-9a-f]{8})$", key)
    if hashes is None or "transform" not in attrs or "precision" not in attrs:
        return ""
    weights = str(attrs.get("weights_hash"))[:8]
    if weights != hashes[1]:
        return f"its weights have hash {weights}, its key says {hashes[1]}"
    further = [attrs.get(name, "") for name in ("modules_hash", "output", "head")]
    wanted = settings_hash(attrs["transform"], attrs["precision"], *further)
    if wanted != hashes[2]:
        return f"its preprocessing has hash {wanted}, its key says {hashes[2]}"
    return ""


def network_title(attrs: Mapping[str, Any]) -> str:
    """Network, arguments and weights of an extraction, in words: a key has only their hashes.

    Args:
        attrs: of the extraction; files are named without their folders, weights by `weights_name`.

    Example:
        >>> network_title({"network": "/nets/a.py:f", "args": {"depth": 20}, "weights": "/w/x.pth"})
        'a.py:f depth=20, x.pth'
        >>> network_title({"network": "resnet18", "weights": "none", "seed": 3})
        'resnet18, random weights of seed 3'
    """
    name = str(attrs.get("network", "")).rpartition("/")[2]
    given = "".join(f" {name}={value}" for name, value in (attrs.get("args") or {}).items())
    return f"{name}{given}, {weights_name(attrs)}"


def network_titles(networks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Titles that tell networks apart: with the hash of the weights or the key if need be.

    Args:
        networks: key of each extraction to its attributes.

    Example:
        >>> one = {"network": "f", "weights": "a/x.pth", "weights_hash": "1a2b3c4d5e"}
        >>> network_titles({"f-1": one, "f-2": {**one, "weights_hash": "99887766ff"}})
        {'f-1': 'f, x.pth · 1a2b3c4d', 'f-2': 'f, x.pth · 99887766'}
    """
    titles = {key: network_title(attrs) for key, attrs in networks.items()}
    count = Counter(titles.values())
    hashed = {
        key: f"{titles[key]} · {str(attrs.get('weights_hash', ''))[:8]}"
        for key, attrs in networks.items()
    }
    count_hashed = Counter(hashed.values())
    return {
        key: title if count[title] == 1
        else hashed[key] if count_hashed[hashed[key]] == 1
        else f"{title} · {key}"
        for key, title in titles.items()
    }  # fmt: skip


def weights_name(attrs: Mapping[str, Any]) -> str:
    """The weights of an extraction in words: their file, or its folder where all are called so.

    Args:
        attrs: of the extraction.

    Example:
        >>> weights_name({"weights": "/w/x.pth"}), weights_name({"weights": "DEFAULT"})
        ('x.pth', 'DEFAULT')
        >>> weights_name({"weights": "runs/first/weights.safetensors"})
        'first'
        >>> weights_name({"weights": "none", "seed": 3})
        'random weights of seed 3'
    """
    weights = str(attrs.get("weights", ""))
    if weights == "none":
        return f"random weights of seed {attrs.get('seed', 0)}"
    *_, folder, file = ("", *weights.split("/"))
    return folder if folder and file.partition(".")[0] in PLAIN else file


def is_name(name: str) -> bool:
    """Say whether a name may be that of a folder of ours: no separator, no leading dot, no space.

    Example:
        >>> is_name("resnet18-1f2e3d4c-9a8b7c6d"), is_name("../x"), is_name("resnet18 (1)")
        (True, False, False)
    """
    return _NAME.fullmatch(name) is not None


def check_name(name: str, what: str) -> str:
    """Give a name back if it may be that of a folder of ours.

    Args:
        name: of a group, an array, or one part of a constant's name.
        what: it names, for the message.

    Raises:
        BadInput: it could lie outside of its folder.
    """
    if not is_name(name):
        raise BadInput(
            f"{what} {name!r}: a name of letters, digits and . _ + @ - is expected, which does not "
            "begin with a dot"
        )
    return name


def check_path(name: str, what: str) -> str:
    """As `check_name`, for a name of several parts with `/` between, such as a constant's."""
    for part in name.split("/"):
        check_name(part, f"{what} {name!r}: its part")
    return name
