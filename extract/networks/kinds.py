"""Where networks come from: torchvision, the user's own file, timm."""

import hashlib
import importlib.util
import inspect
import os
import re
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import torch
from torch import nn

from alike.extract.errors import BadInput
from alike.extract.networks.transform import Transform
from alike.extract.networks.user_code import UserCode, Uses, load_user_file, plain_names
from alike.extract.places import expanded

INCEPTIONS = {"googlenet", "inception_v3"}
NO_AUXILIARY: Mapping[str, object] = {"aux_logits": False, "init_weights": False}
CLASS_ARGUMENTS = ("num_classes", "classes", "n_classes")


@dataclass(frozen=True)
class Kind:
    """One network's origin; the base serves a factory that nothing more is known of.

    Attributes:
        name: as stored and as given to `load_network` again.
        factory: builds the module from keyword arguments, with random weights.
        source: hash of the code if it is the user's, else "".
        module: the user's file, which may define TRANSFORM (dict) and CLASS_NAMES.
    """

    name: str
    factory: Callable[..., nn.Module]
    source: str = ""
    module: ModuleType | None = field(default=None, repr=False)

    def build(self, args: Mapping[str, object]) -> nn.Module:
        """The module with random weights.

        Raises:
            BadInput: the factory does not take these arguments or gives no module.
        """
        try:
            with _kept_alive():
                module = self.factory(**args)
        # A factory is anybody's code: it may raise anything, and end the process.
        except (Exception, SystemExit) as error:
            raise BadInput(
                f"network {self.name} with arguments {dict(args)}: {_reason(error)}"
                f"{_advice(error)}{self.hint()}"
            ) from error
        if not isinstance(module, nn.Module):
            raise BadInput(f"{self.name} gave {type(module).__name__}, a torch nn.Module expected")
        return module

    def classes_argument(self) -> str | None:
        """Name of the factory's argument for the number of classes, None if it has none."""
        parameters = inspect.signature(self.factory).parameters
        argument = next((name for name in CLASS_ARGUMENTS if name in parameters), None)
        keywords = any(value.kind is value.VAR_KEYWORD for value in parameters.values())
        return argument or ("num_classes" if keywords else None)

    def hint(self) -> str:
        """What else may be wrong if the factory fails, to be added to its error."""
        return ""

    def modules(self) -> tuple[tuple[str, ...], str, dict[str, str]]:
        """Of the user's own code that the factory reached besides `source`.

        Returns:
            Names of modules, their hash ("" if there are none), and versions by package.
        """
        return (), "", {}

    def trained_args(self) -> dict[str, object]:
        """Arguments that the origin's own weights ask for."""
        return {}

    def is_pretrained(self, weights: str) -> bool:
        """Whether the origin itself offers weights by this name."""
        return False

    def pretrained(self, weights: str, args: Mapping[str, object]) -> tuple[nn.Module, str]:
        """The module with the origin's own weights, and their full name."""
        raise BadInput(f"{self.name} offers no weights {weights!r}: give a file or 'none'")

    def transform(self, weights: str) -> Transform:
        """The preprocessing that belongs to the weights."""
        settings = getattr(self.module, "TRANSFORM", None)
        return Transform.from_dict(settings) if isinstance(settings, dict) else Transform()

    def class_names(self, weights: str, args: Mapping[str, object]) -> Sequence[str] | None:
        """Names of the logits, None if unknown."""
        return getattr(self.module, "CLASS_NAMES", None)


@dataclass(frozen=True)
class UserKind(Kind):
    """A factory of the user's file.

    Attributes:
        code: the file with the modules that it loads.
        uses: what the factory imported and read when it was called.
    """

    code: UserCode | None = field(default=None, repr=False)
    uses: Uses = field(default_factory=Uses, repr=False)

    def build(self, args: Mapping[str, object]) -> nn.Module:
        """The module; modules that the factory imports are remembered."""
        assert self.code is not None
        with self.code.using() as uses:
            module = super().build(args)
        self.uses.imported.update(uses.imported)
        self.uses.read.update(uses.read)
        return module

    def hint(self) -> str:
        """That a sibling hides an installed module."""
        assert self.code is not None
        return self.code.shadows()

    def modules(self) -> tuple[tuple[str, ...], str, dict[str, str]]:
        """Names and hash of the user's modules, and versions of installed packages."""
        assert self.code is not None
        return self.code.modules(self.code.uses | self.uses)


class TorchvisionKind(Kind):
    """A name of `torchvision.models`."""

    def build(self, args: Mapping[str, object]) -> nn.Module:
        """Without auxiliary heads: they train, and never reach the output."""
        plain = NO_AUXILIARY if self.name in INCEPTIONS else {}
        return super().build({**plain, **args})

    def trained_args(self) -> dict[str, object]:
        """Inception's published weights were trained with another normalisation of the input."""
        return {"transform_input": True} if self.name in INCEPTIONS else {}

    def _enum(self, weights: str) -> Any:
        import torchvision

        members = torchvision.models.get_model_weights(self.name)
        file = Path(weights).name
        return next(
            (
                member
                for member in members
                if weights.split(".")[-1] == member.name or Path(member.url).name == file
            ),
            members.DEFAULT if weights.split(".")[-1] == "DEFAULT" else None,
        )

    def is_pretrained(self, weights: str) -> bool:
        """Whether it is a member of the network's enum; another bare name is refused here."""
        if self._enum(weights) is None and not Path(weights).suffix:
            import torchvision

            names = ", ".join(w.name for w in torchvision.models.get_model_weights(self.name))
            raise BadInput(f"weights {weights!r}: {self.name} has {names}, none, or give a file")
        return self._enum(weights) is not None

    def pretrained(self, weights: str, args: Mapping[str, object]) -> tuple[nn.Module, str]:
        """Weights from torchvision's cache, or downloaded."""
        member = self._enum(weights)
        file = Path(member.url).name
        try:
            module = self.factory(weights=member, **args)
        except (urllib.error.URLError, OSError) as error:
            cache = Path(torch.hub.get_dir()) / "checkpoints"
            raise BadInput(
                f"weights {member} cannot be fetched ({error}): bring {file} from {member.url} and "
                f"give it as --weights {file}, or put it into {cache}"
            ) from error
        return module, str(member)

    def transform(self, weights: str) -> Transform:
        """Of the enum member, or of the network's first if the file is not one of its own."""
        import torchvision

        members = list(torchvision.models.get_model_weights(self.name))
        preset = (self._enum(weights) or members[0]).transforms()
        (resize,), (crop,) = preset.resize_size, preset.crop_size
        return Transform(
            resize,
            crop,
            tuple(preset.mean),
            tuple(preset.std),
            interpolation=preset.interpolation.value,
            antialias=bool(preset.antialias),
        )

    def class_names(self, weights: str, args: Mapping[str, object]) -> Sequence[str] | None:
        """ImageNet's, of any trained network with 1000 classes."""
        import torchvision

        if weights == "none" or args.get("num_classes", 1000) != 1000:
            return None
        members = list(torchvision.models.get_model_weights(self.name))
        return (self._enum(weights) or members[0]).meta["categories"]  # type: ignore[no-any-return]


class TimmKind(Kind):
    """A name of timm, written ``timm:NAME``."""

    def is_pretrained(self, weights: str) -> bool:
        """Timm offers one set of weights a name: ``DEFAULT``."""
        return weights == "DEFAULT"

    def pretrained(self, weights: str, args: Mapping[str, object]) -> tuple[nn.Module, str]:
        """Timm's own weights, from its cache or downloaded."""
        try:
            return self.factory(pretrained=True, **args), weights
        except (OSError, RuntimeError) as error:
            reason = str(error).split("\n")[0]
            raise BadInput(
                f"weights of {self.name} cannot be fetched ({reason}): bring the file and give it "
                "as --weights FILE.safetensors"
            ) from error

    def transform(self, weights: str) -> Transform:
        """From timm's data configuration of the network."""
        import timm

        config = timm.data.resolve_data_config(
            pretrained_cfg=timm.get_pretrained_cfg(self.name.removeprefix("timm:")).to_dict()
        )
        side = config["input_size"][-1]
        resize = int(side / config["crop_pct"])
        mean, std = tuple(config["mean"]), tuple(config["std"])
        return Transform(resize, side, mean, std, interpolation=config["interpolation"])


@contextmanager
def _kept_alive() -> Iterator[None]:
    """Inside, `os._exit` raises `SystemExit`: a network's file ends no process without a word.

    A process that the file forks ends as it wants.
    """
    leave, own = os._exit, os.getpid()

    def end(status: int) -> NoReturn:
        if os.getpid() != own:
            leave(status)
        raise SystemExit(f"os._exit({status})")

    os._exit = end
    try:
        yield
    finally:
        os._exit = leave


def kind_of(name: str) -> Kind:
    """The origin of a network's name.

    Raises:
        BadInput: no such network; near names are given.
    """
    if name.startswith("timm:"):
        return _timm(name)
    if ".py:" in name:
        return _own_file(name)
    return _torchvision(name)


def _torchvision(name: str) -> Kind:
    import difflib

    import torchvision

    names = torchvision.models.list_models(module=torchvision.models)
    if name not in names:
        near = ", ".join(difflib.get_close_matches(name, names, 4)) or f"{names[0]} … {names[-1]}"
        raise BadInput(f"network {name!r} unknown: torchvision has {near}; or file.py:factory")
    return TorchvisionKind(name, torchvision.models.get_model_builder(name))


def _timm(name: str) -> Kind:
    if importlib.util.find_spec("timm") is None:
        raise BadInput(f"network {name!r} needs timm: pip install timm")
    import functools

    import timm

    short = name.removeprefix("timm:")
    if not timm.is_model(short):
        near = ", ".join(timm.list_models(f"*{short[:6]}*")[:6])
        raise BadInput(f"network {name!r} unknown to timm; near: {near}")
    return TimmKind(name, functools.partial(timm.create_model, short))


def _own_file(name: str) -> Kind:
    file, _, factory = name.rpartition(":")
    path = expanded(file).resolve()
    if not path.is_file():
        raise BadInput(f"network file {file} does not exist (of --network {name})")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    try:
        with _kept_alive():
            code = load_user_file(path)
    # A script that parses its arguments when it is imported ends by SystemExit.
    except (Exception, SystemExit) as error:
        raise BadInput(f"network file {file} fails: {_reason(error)}") from error
    build = getattr(code.module, factory, None)
    if not callable(build):
        offers = [key for key, value in vars(code.module).items() if inspect.isfunction(value)]
        raise BadInput(f"{file} has no factory {factory!r}; it has {', '.join(offers) or 'none'}")
    return UserKind(f"{path}:{factory}", build, digest, code.module, code)


def _advice(error: BaseException) -> str:
    """What to do about a factory that was called with the wrong arguments."""
    text = str(error)
    missing = re.search(r"missing \d+ required .*argument.*?: '(\w+)'", text)
    unknown = re.search(r"unexpected keyword argument '(\w+)'", text)
    if isinstance(error, TypeError) and missing:
        return f"; give --network-arg {missing[1]}=VALUE, or a default in the factory"
    if isinstance(error, TypeError) and unknown:
        return f"; add {unknown[1]} to the factory's arguments, or leave it out"
    return ""


def _reason(error: BaseException) -> str:
    """One line: what the user's code raised, in the user's names."""
    first = plain_names(f"{type(error).__name__}: {error}").split("\n")[0]
    if isinstance(error, SystemExit):
        first += "; it must not end the process"
    return "".join([first, *getattr(error, "__notes__", ())])
