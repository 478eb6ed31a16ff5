"""A network with its weights and the preprocessing that belongs to them."""

import hashlib
import json
import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alike.extract.documents import read_json_file, unseal
from alike.extract.errors import BadInput, StoreDamaged
from alike.extract.identity import file_hash
from alike.extract.networks.checkpoints import (
    Choice,
    checksum_note,
    choose_tensors,
    read_checkpoint,
)
from alike.extract.networks.extraction import Extraction, safe_name
from alike.extract.networks.kinds import Kind, kind_of
from alike.extract.networks.outputs import TakeOutput, take_logits
from alike.extract.networks.taps import (
    COMPARED,
    FLATTENED,
    LAST,
    layer_taps,
    remember_taps,
    taps_at,
    withhold_taps,
)
from alike.extract.networks.trace import trace_forward
from alike.extract.networks.transform import Transform
from alike.extract.networks.trust import agree, named_by_a_store, require_trust
from alike.extract.networks.weights import (
    cast_note,
    class_count_change,
    hash_weights,
    misfits,
    write_weights,
)
from alike.extract.places import expanded

LOG = logging.getLogger(__name__)

FORMER_HEADS: Mapping[str, str] = {
    "convolution": "a 1x1 convolution after the pooling was not taken for the classifier",
    FLATTENED: "a map that is flattened before it is pooled was taken for tokens",
    COMPARED: "a comparison of the pooled vector was taken for the pooling",
    LAST: "channels that come last were taken for positions",
}
"""What was assumed of a head before its mark was part of the key; see `Extraction.head`."""
LAYERS = "layers"
"""Stands for the taps of all layers."""
RUN_WEIGHTS = "weights.safetensors"
RUN_RECORD = "run.json"
"""Files of a retraining's folder: its weights, and what it was made from and wrote."""
"""Name of the weights in the folder of a retraining."""


@dataclass(frozen=True, eq=False)
class Network:
    """A classification network, ready to give features.

    Attributes:
        name: torchvision name, ``/path/file.py:factory`` or ``timm:NAME``.
        weights: ``none``, the enum member's name, or the absolute path of the file.
        weights_hash: sha256 (hex) of what was loaded, see `hash_weights`.
        transform: the preprocessing that the weights were trained with.
        class_names: of the logits in order, or None if nobody told.
        module: in eval mode, on the CPU.
        args: arguments that the factory was called with.
        seed: of the random weights if `weights` is ``none``.
        modules: names of the user's modules that the network's file loads.
        modules_hash: of their text, "" if there are none.
        packages: version of each installed package that the user's code imports.
        notes: what a reader must know of how it was loaded, each one line.
        output: which of several tensors of its output the logits are, as the user said.
        weights_key: group of tensors in the weights file, as the user said.
        weights_prefix: of their names, as the user said.
        headless: whether the weights hold no classifier.
    """

    name: str
    weights: str
    weights_hash: str
    transform: Transform
    class_names: tuple[str, ...] | None
    module: nn.Module
    args: Mapping[str, object] = field(default_factory=dict)
    seed: int = 0
    modules: tuple[str, ...] = ()
    modules_hash: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    output: str = ""
    weights_key: str = ""
    weights_prefix: str | None = None
    headless: bool = False

    @property
    def identity(self) -> str:
        """Hash of weights and code: `weights_hash`, and the user's modules if there are any."""
        if not self.modules_hash:
            return self.weights_hash
        return hashlib.sha256(f"{self.weights_hash} {self.modules_hash}".encode()).hexdigest()

    def classifier(self) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The last Linear, (W (K, D), b (K,)), of the vector ``fc``; None if there is none."""
        taps = taps_at(self.module, _any_size(self.transform))
        tap = taps.get("fc")
        if tap is None or not tap.weight or taps["logits"].withheld:
            return None
        # Of a 1x1 convolution (K, D, 1, 1), which is a Linear too.
        weight = self.module.get_parameter(tap.weight).detach().flatten(1)
        if tap.bias:
            return weight, self.module.get_parameter(tap.bias).detach()
        return weight, torch.zeros(len(weight), device=weight.device)

    @property
    def head(self) -> str:
        """What is unusual about the classifier or the pooling before it; see `Extraction.head`."""
        # A network that fails at this size says so at the images' own.
        with suppress(BadInput):
            taps = taps_at(self.module, _any_size(self.transform))
            fc = taps.get("fc")
            enters = fc is not None and (fc.function, fc.side) == ("conv2d", "input")
            # One before the pooling (SqueezeNet) has a vector that is pooled by us.
            if fc is not None and enters and not fc.pooled:
                return "convolution"
            return taps["last_conv"].head if "last_conv" in taps else ""
        return ""

    @property
    def lacking(self) -> tuple[str, ...]:
        """Names of taps for which there are no weights: `logits` of a file without a head."""
        taps = taps_at(self.module, _any_size(self.transform)) if self.headless else {}
        return tuple(name for name, tap in taps.items() if tap.withheld)

    def tap_names(self, names: Sequence[str]) -> tuple[str, ...]:
        """Names of taps with ``layers`` written out: the mean of every block's output.

        Raises:
            BadInput: ``layers`` of a network that has none.
        """
        return tuple(
            dict.fromkeys(
                tap for name in names for tap in (self.layers if name == LAYERS else (name,))
            )
        )

    @property
    def layers(self) -> tuple[str, ...]:
        """Taps of the layers, in the order of the pass."""
        return layer_taps(self.module, _any_size(self.transform))

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
            modules_hash=self.modules_hash,
            output=self.output,
            weights_key=self.weights_key,
            weights_prefix=self.weights_prefix,
            head=self.head,
        )


def load_network(
    name: str,
    weights: str = "none",
    *,
    args: Mapping[str, object] | None = None,
    transform: Transform | None = None,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
    output: str = "",
    weights_key: str = "",
    weights_prefix: str | None = None,
) -> Network:
    """Build a network and load its weights.

    Args:
        name: a torchvision name, ``file.py:factory``, or ``timm:NAME`` if timm is installed.
        weights: ``none`` (random, from `seed`), the name of a member of torchvision's weights enum
            (``IMAGENET1K_V1``, ``DEFAULT``), a file (.pth, .th, .pt, .safetensors), or the folder
            of a retraining.
        args: of the factory; a file's own class count is found if these do not give it.
        transform: instead of the one that belongs to the weights.
        class_names: of the logits in order, if the weights' origin does not tell them.
        seed: of random weights.
        output: which of several tensors that the network returns the logits are: a name, or the
            place in a tuple (``1``, ``heads.0``). Unset, it is found by name, or as the output of
            the last Linear.
        weights_key: which of several groups of tensors in the weights file to take, as
            ``model_ema`` or ``ema.module``. Unset, that which fits best, and of several the
            averaged one.
        weights_prefix: that the names of the tensors to take have, such as ``encoder_q.``.

    Raises:
        BadInput: an unknown network, weights that do not fit, no way to fetch them, or several
            outputs that may be the logits.
    """
    kind = kind_of(name)
    # Who names a file to be loaded agrees to run it; a store's is asked about in `network_of`.
    agree(name)
    factory_args = dict(args or {})
    if weights == "none":
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            loaded = _Loaded(kind.build(factory_args), factory_args)
    elif not _is_place(weights) and kind.is_pretrained(weights):
        args = {**kind.trained_args(), **factory_args}
        module, weights = kind.pretrained(weights, args)
        loaded = _Loaded(module, args)
    else:
        path = _weights_file(kind, weights)
        loaded = _from_file(kind, path, factory_args, weights_key, weights_prefix, output)
        weights = str(path)
    module, factory_args, metadata = loaded.module.eval(), loaded.args, loaded.metadata
    salt = kind.source + (
        json.dumps(factory_args, sort_keys=True, default=str) if factory_args else ""
    )
    transform = transform or _stored_transform(metadata) or kind.transform(weights)
    notes = loaded.notes
    if kind.source or output:
        notes = (*notes, *filter(None, [_settle_output(module, transform, output)]))
    if loaded.lacking:
        withhold_taps(module, loaded.lacking)
    modules, code_hash, packages = kind.modules()
    return Network(
        name=kind.name,
        weights=weights,
        weights_hash=hash_weights(module, salt),
        transform=transform,
        class_names=_names(
            class_names or metadata.get("class_names") or kind.class_names(weights, factory_args)
        )
        if not loaded.lacking
        else None,
        module=module,
        args=factory_args,
        seed=seed,
        modules=modules,
        modules_hash=code_hash,
        packages=packages,
        output=output,
        weights_key=weights_key,
        weights_prefix=weights_prefix,
        notes=notes,
        headless=bool(loaded.lacking),
    )


def _is_place(weights: str) -> bool:
    """Whether a file or a folder has this name, which comes before a word for weights."""
    return not weights.strip() or expanded(weights).exists()


def _weights_file(kind: Kind, weights: str) -> Path:
    """The file of weights that are none of the origin's own.

    Raises:
        BadInput: a name without a file.
    """
    ways = "give a weights file, the folder of a retraining, or none for random weights"
    if not weights.strip():
        raise BadInput(f"weights {weights!r} of {kind.name}: an empty name; {ways}")
    path = expanded(weights).resolve()
    if path.is_dir():
        if not (path / RUN_WEIGHTS).is_file():
            raise BadInput(
                f"weights {weights} is a folder without {RUN_WEIGHTS}, so no retraining's: {ways}"
            )
        return path / RUN_WEIGHTS
    word = weights.rpartition(".")[2]
    if not path.exists() and (word == "DEFAULT" or re.fullmatch(r"[A-Z0-9]+(_[A-Z0-9]+)+", word)):
        raise BadInput(
            f"weights {weights!r}: a word for torchvision's and timm's networks, which does not go "
            f"with {kind.name}: {ways}"
        )
    return path


def _settle_output(module: nn.Module, transform: Transform, output: str) -> str:
    """Let a network of several outputs return its logits alone; others are left as they are.

    Returns:
        One line on the output that was found, see `take_logits`.

    Raises:
        BadInput: no such output, or several that may be the logits.
    """
    parameter = next(module.parameters(), torch.empty(0))
    example = torch.zeros(1, 3, *_any_size(transform), dtype=parameter.dtype)
    try:
        with torch.random.fork_rng(devices=[]):
            trace = trace_forward(module, example)
    # A network is anybody's code. What fails here fails again, and says so, at the images' size. If
    # only this size fails, the user's choice must hold there: no other output may be found instead.
    except Exception:
        if output:
            module.register_forward_hook(TakeOutput(output))
        return ""
    line = take_logits(module, trace, output)
    remember_taps(module, trace, example)
    return line


def _any_size(transform: Transform) -> tuple[int, int]:
    """(height, width) of the network's input, or one that is as good if images decide."""
    side = transform.resize if isinstance(transform.resize, int) else 64
    return transform.size or (side, side)


@dataclass(frozen=True)
class _Loaded:
    """A module with the weights of a file.

    Attributes:
        module: with them.
        args: that its factory was called with.
        metadata: what the writer of the file said.
        notes: what of the file was taken, and what it lacks.
        lacking: names of parameters of the head that the file does not have; they are zero.
    """

    module: nn.Module
    args: dict[str, object]
    metadata: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lacking: tuple[str, ...] = ()


def _check_record(path: Path) -> None:
    """Refuse weights of a retraining that are not those which it wrote."""
    if path.name != RUN_WEIGHTS:
        return
    place, way_out = path.with_name(RUN_RECORD), "the weights are read unchecked"
    try:
        written = read_json_file(place, dict[str, Any], way_out)
        files = unseal(written, str(place), way_out).get("files")
    # No retraining's folder, one of version 0.1, or one whose record is damaged.
    except (OSError, StoreDamaged):
        return
    held = files.get(path.name) if isinstance(files, dict) else None
    if held is not None and held != file_hash(path):
        raise BadInput(
            f"{path} is not the file that the retraining in its folder wrote ({place.name}): bring "
            "that file back, or give other weights a folder of their own"
        )


def _from_file(
    kind: Kind,
    path: Path,
    factory_args: dict[str, object],
    key: str,
    prefix: str | None,
    output: str,
) -> _Loaded:
    checkpoint = read_checkpoint(path)
    _check_record(path)
    metadata = checkpoint.metadata
    written_for = metadata.get("network")
    if written_for and safe_name(str(written_for)) != safe_name(kind.name):
        raise BadInput(f"weights {path} were written for network {written_for}, not {kind.name}")
    # A file that names its arguments was trained with them; others are taken for published ones.
    args = {**(metadata.get("args") or {} if written_for else kind.trained_args()), **factory_args}
    module = kind.build(args)
    buffers = {name for name, _ in module.named_buffers()}
    choice = choose_tensors(checkpoint, module.state_dict(), key, prefix, buffers)
    change = class_count_change(choice.tensors, module.state_dict())
    if change is not None:
        parameter = kind.classes_argument()
        if parameter is None:
            raise BadInput(
                f"weights {path} have {change[1]} classes, {kind.name} makes {change[0]} and takes "
                f"no number of classes: add the argument num_classes={change[0]} to the factory"
            )
        if parameter not in args:
            args[parameter] = change[1]
            module = kind.build(args)
    state = module.state_dict()
    lacking = _lacking_head(module, choice, kind.transform(str(path)), output)
    zeros = {name: torch.zeros_like(state[name]) for name in lacking}
    heads = tuple(name.rpartition(".")[0] + "." for name in lacking)
    foreign = [name for name in choice.foreign if not (heads and name.startswith(heads))]
    problem = misfits({**choice.tensors, **zeros}, state, foreign)
    if problem:
        raise BadInput(
            f"weights {path} do not fit {kind.name}: {problem}. Check the network's name and "
            f"arguments; the file holds {checkpoint.describe()}"
        )
    module.load_state_dict({**choice.tensors, **zeros}, strict=False)
    notes = [choice.note(path), cast_note(path, choice.tensors, state), checksum_note(path)]
    if lacking:
        notes.append(f"weights {path} hold no classifier ({', '.join(lacking)}): no logits")
    return _Loaded(module, args, metadata, tuple(filter(None, notes)), lacking)


def _lacking_head(
    module: nn.Module, choice: Choice, transform: Transform, output: str
) -> tuple[str, ...]:
    """Parameters of the head that a file lacks, () if it lacks none, or others too."""
    counters = {name for name in module.state_dict() if name.endswith("num_batches_tracked")}
    missing = set(module.state_dict()) - set(choice.tensors) - counters
    if not missing or not choice.tensors:
        return ()
    if output:
        # Before the search for taps, which settles on an output by itself.
        _settle_output(module, transform, output)
    try:
        taps = taps_at(module, _any_size(transform))
    except BadInput:
        return ()
    head = {name for tap in taps.values() for name in (tap.weight, tap.bias) if name}
    return tuple(sorted(missing)) if missing <= head else ()


def _stored_transform(metadata: Mapping[str, Any]) -> Transform | None:
    stored = metadata.get("transform")
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
    with nullcontext() if trusted else named_by_a_store(extraction.network):
        network = load_network(
            extraction.network,
            extraction.weights,
            args=extraction.args,
            transform=Transform.from_dict(extraction.transform),
            seed=extraction.seed,
            output=extraction.output,
            weights_key=extraction.weights_key,
            weights_prefix=extraction.weights_prefix,
        )
    check_made_by(extraction, network)
    return network


def check_made_by(extraction: Extraction, network: Network) -> None:
    """Refuse a network that did not make some features.

    Features of before 0.2 do not know the user's modules: only the weights are compared, and a line
    on stderr says so.

    Raises:
        BadInput: other weights, another network file, other modules that it loads, or another
            meaning of its taps.
    """
    if network.weights_hash != extraction.weights_hash:
        raise BadInput(
            f"{extraction.network} with weights {extraction.weights} now has hash "
            f"{network.weights_hash[:8]}, the features were made with "
            f"{extraction.weights_hash[:8]}: extract again or bring the old files back"
        )
    if network.head != extraction.head:
        raise BadInput(
            f"the features of {extraction.network} were made when "
            f"{FORMER_HEADS.get(network.head, 'its head was taken for another')}: their last_conv "
            "and fc are other arrays; extract again"
        )
    if network.modules_hash == extraction.modules_hash:
        return
    names = ", ".join(network.modules) or "none now"
    if extraction.modules_hash:
        raise BadInput(
            f"the modules or files that {extraction.network} loads ({names}) are not those that "
            f"the features were made with: extract again or bring the old files back"
        )
    LOG.warning(
        "features of %s do not record the modules that its file loads (%s): if one changed since, "
        "extract again",
        extraction.network,
        names,
    )


def write_network(path: Path, network: Network, module: nn.Module | None = None) -> None:
    """Write weights that `load_network` reads back with names, transform and arguments.

    Args:
        path: a ``.safetensors`` file.
        network: whose description is written.
        module: the retrained module, or None for the network's own.
    """
    description = {
        "network": network.name,
        "args": dict(network.args),
        "transform": network.transform.to_dict(),
        "class_names": list(network.class_names or ()),
    }
    write_weights(path, network.module if module is None else module, description)
