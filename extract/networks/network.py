"""A network with its weights and the preprocessing that belongs to them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alike.extract.errors import BadInput
from alike.extract.networks.extraction import Extraction, safe_name
from alike.extract.networks.kinds import Kind, kind_of
from alike.extract.networks.taps import taps_at
from alike.extract.networks.transform import Transform
from alike.extract.networks.trust import agree, require_trust
from alike.extract.networks.weights import (
    class_count_change,
    fit_names,
    hash_weights,
    load_into,
    read_weights,
    write_weights,
)

RUN_WEIGHTS = "weights.safetensors"
"""Name of the weights in the folder of a retraining."""


@dataclass(frozen=True, eq=False)
class Network:
    """A classification network, ready to give features.

    Attributes:
        name: torchvision name, ``/path/file.py:factory`` or ``timm:NAME``.
        weights: ``none``, the enum member's name, or the absolute path of the file.
        weights_hash: sha256 (hex) of what was loaded, see `hash_weights`.
        transform: the preprocessing that the weights were trained with.
        class_names: of the logits in order, or None where nobody told.
        module: in eval mode, on the CPU.
        args: arguments that the factory was called with.
        seed: of the random weights where `weights` is ``none``.
    """

    name: str
    weights: str
    weights_hash: str
    transform: Transform
    class_names: tuple[str, ...] | None
    module: nn.Module
    args: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0

    def classifier(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The last Linear, (W (K, D), b (K,)), of the vector ``fc``; None where there is none."""
        size = self.transform.size or self._any_size()
        tap = taps_at(self.module, size).get("fc")
        if tap is None or not tap.weight:
            return None
        weight = self.module.get_parameter(tap.weight).detach()
        if tap.bias:
            return weight, self.module.get_parameter(tap.bias).detach()
        return weight, torch.zeros(len(weight), device=weight.device)

    def _any_size(self) -> tuple[int, int]:
        resize = self.transform.resize
        side = resize if isinstance(resize, int) else 64
        return side, side

    def extraction(self, taps: tuple[str, ...], precision: str) -> Extraction:
        """The description of features made by this network."""
        return Extraction(
            network=self.name,
            weights=self.weights,
            weights_hash=self.weights_hash,
            taps=taps,
            transform=self.transform.to_dict(),
            precision=precision,
            args=dict(self.args),
            seed=self.seed,
        )


def load_network(
    name: str,
    weights: str = "none",
    *,
    args: Mapping[str, object] | None = None,
    transform: Transform | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
) -> Network:
    """Build a network and load its weights.

    Args:
        name: a torchvision name, ``file.py:factory``, or ``timm:NAME`` where timm is installed.
        weights: ``none`` (random, from `seed`), the name of a member of torchvision's weights enum
            (``IMAGENET1K_V1``, ``DEFAULT``), a file (.pth, .th, .pt, .safetensors), or the folder
            of a retraining.
        args: of the factory; a file's own class count is found where these do not give it.
        transform: instead of the one that belongs to the weights.
        class_names: of the logits in order, where the weights' origin does not tell them.
        seed: of random weights.

    Raises:
        BadInput: an unknown network, weights that do not fit, or no way to fetch them.
    """
    kind = kind_of(name)
    # Who names a file to be loaded agrees to run it; a store's is asked about in `network_of`.
    agree(name)
    given = dict(args or {})
    said: dict[str, Any] = {}
    if weights == "none":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            module = kind.build(given)
    elif not Path(weights).is_file() and kind.is_pretrained(weights):
        given = {**kind.trained_args(), **given}
        module, weights = kind.pretrained(weights, given)
    else:
        path = Path(weights).expanduser().resolve()
        path = path / RUN_WEIGHTS if path.is_dir() else path
        module, given, said = _from_file(kind, path, given)
        weights = str(path)
    salt = kind.source + (json.dumps(given, sort_keys=True, default=str) if given else "")
    return Network(
        name=kind.name,
        weights=weights,
        weights_hash=hash_weights(module, salt),
        transform=transform or _stored_transform(said) or kind.transform(weights),
        class_names=_names(
            class_names or said.get("class_names") or kind.class_names(weights, given)
        ),
        module=module.eval(),
        args=given,
        seed=seed,
    )


def _from_file(
    kind: Kind, path: Path, given: dict[str, object]
) -> tuple[nn.Module, dict[str, object], dict[str, Any]]:
    tensors, said = read_weights(path)
    written_for = said.get("network")
    if written_for and safe_name(str(written_for)) != safe_name(kind.name):
        raise BadInput(f"weights {path} were written for network {written_for}, not {kind.name}")
    # A file that names its arguments was trained with them; others are taken for published ones.
    args = {**(said.get("args") or {} if written_for else kind.trained_args()), **given}
    module = kind.build(args)
    tensors = fit_names(tensors, module.state_dict())
    change = class_count_change(tensors, module.state_dict())
    if change is not None:
        parameter = kind.classes_argument()
        if parameter and parameter not in args:
            args[parameter] = change[1]
            module = kind.build(args)
    load_into(module, tensors, f"weights {path} do not fit {kind.name}")
    return module, args, said


def _stored_transform(said: Mapping[str, Any]) -> Transform | None:
    stored = said.get("transform")
    return Transform.from_dict(stored) if isinstance(stored, dict) else None


def _names(names: Any) -> tuple[str, ...] | None:
    return tuple(str(name) for name in names) if names else None


def network_of(extraction: Extraction, *, code_hash: str = "", trusted: bool = False) -> Network:
    """The network that made stored features, loaded again.

    A network's file is code, and a store may come from anywhere: it runs only if it is the one
    that made the features, and if the user agreed to run it (see `alike.extract.networks.trust`).

    Args:
        extraction: as the store describes it.
        code_hash: of the network's file, as the store recorded it; nothing where it did not.
        trusted: the user of this very run named the network, such as on another machine of it.

    Raises:
        BadInput: its files are gone, they changed since, or the user did not agree to run them.
    """
    if not trusted:
        require_trust(extraction.network, code_hash)
    network = load_network(
        extraction.network,
        extraction.weights,
        args=extraction.args,
        transform=Transform.from_dict(extraction.transform),
        seed=extraction.seed,
    )
    if network.weights_hash != extraction.weights_hash:
        raise BadInput(
            f"{extraction.network} with weights {extraction.weights} now has hash "
            f"{network.weights_hash[:8]}, the features were made with "
            f"{extraction.weights_hash[:8]}: extract again or bring the old files back"
        )
    return network


def write_network(path: Path, network: Network, module: nn.Module | None = None) -> None:
    """Write weights that `load_network` reads back with names, transform and arguments.

    Args:
        path: a ``.safetensors`` file.
        network: whose description is written.
        module: the retrained module, or None for the network's own.
    """
    said = {
        "network": network.name,
        "args": dict(network.args),
        "transform": network.transform.to_dict(),
        "class_names": list(network.class_names or ()),
    }
    write_weights(path, network.module if module is None else module, said)
