"""Outputs of a network, found by tracing one forward pass and captured in later ones.

Every call of a torch function is seen by a `TorchFunctionMode`. A tap is "the first tensor argument
(or the result) of the k-th call of function f"; this reaches functional calls, which no module hook
sees (DenseNet's ``F.relu``, ``x.mean((2, 3))``). Calls are counted for each function on its own,
because training adds calls elsewhere (BatchNorm counts its batches), not to the function tapped.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from alike.extract.errors import AlikeError, BadInput

COMPUTED = ("gap", "pixels")
MEAN_OF = "gap@"
"""Before the path of a module: the mean over positions of its output."""
PIXELS_SIDE = 32


@dataclass(frozen=True)
class Tap:
    """One output of a network.

    Attributes:
        name: ``last_conv``, ``fc``, ``fc6``, ``logits``, a module path, or ``gap@`` and one.
        function: name of the torch function called, or "" for the network's output.
        occurrence: which call of it, from 0.
        side: ``input`` (first tensor argument) or ``output``.
        layout: ``nchw``; ``nhwc``; ``tokens`` (N, T, C); ``vector`` (flattened); ``any``, for the
            output of a module, copied because a later in-place activation would change it.
        shape: of one row as stored, after the layout became channels first.
        prefix: tokens before the grid (class token, registers) that are dropped.
        pooled: whether the mean over positions is taken.
        note: what a reader must know, "" if all is ordinary.
        weight: name of the parameter of the Linear that this vector enters, or of the 1x1
            convolution to the classes that this map enters; "" if none.
        bias: of the same layer.
        module: path of a module whose only output is this input, "" if there is none: a hook
            on it reaches the tap without watching every call.
        withheld: why this tap cannot be had, "" if it can.
        head: mark of an unusual head in the key of the features, see `Extraction.head`.
    """

    name: str
    function: str
    occurrence: int
    side: str
    layout: str
    shape: tuple[int, ...]
    prefix: int = 0
    pooled: bool = False
    note: str = ""
    weight: str = ""
    bias: str = ""
    module: str = ""
    withheld: str = ""
    head: str = ""

    def arrange(self, value: torch.Tensor) -> torch.Tensor:
        """A captured tensor as (N, *shape)."""
        if self.layout == "nhwc":
            value = value.permute(0, 3, 1, 2)
        elif self.layout == "tokens":
            height, width = self.shape[-2:] if not self.pooled else (-1, 1)
            grid = value[:, self.prefix :].transpose(1, 2)
            value = grid.reshape(*grid.shape[:2], height, width)
        elif self.layout == "vector":
            value = value.flatten(1)
        elif self.layout == "any":
            value = value.clone()
        return value.float().mean((2, 3)) if self.pooled else value


class _Stop(BaseException):
    """The last wanted tap was captured; a BaseException, so no network's own handler takes it."""


class _Capture(TorchFunctionMode):
    """Counts calls; `take` gets the arguments and result of those wanted."""

    def __init__(self, wanted: Iterable[Tap], captured: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.captured = captured
        self.wanted: dict[tuple[str, int], list[Tap]] = {}
        for tap in wanted:
            self.wanted.setdefault((tap.function, tap.occurrence), []).append(tap)
        self.functions = {function for function, _ in self.wanted}
        self.missing = sum(len(taps) for taps in self.wanted.values())

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = function_name(func)
        if name not in self.functions:
            return func(*args, **(kwargs or {}))
        taps = self.wanted.get((name, self.calls[name]), ())
        self.calls[name] += 1
        for tap in taps:
            if tap.side == "input":
                self.take(tap, first_tensor(args, kwargs))
        result = func(*args, **(kwargs or {}))
        for tap in taps:
            if tap.side == "output":
                self.take(tap, first_tensor((result,)))
        return result

    def take(self, tap: Tap, value: torch.Tensor | None) -> None:
        if value is None:
            raise AlikeError(f"tap {tap.name}: {tap.function} no longer takes a tensor first")
        self.captured[tap.name] = tap.arrange(value)
        self.missing -= 1
        if not self.missing:
            raise _Stop


class TappedNetwork:
    """A module whose forward pass gives the wanted taps and stops after the last one.

    Args:
        module: the network; its mode and device stay as they are.
        taps: the taps found in it.
    """

    def __init__(self, module: nn.Module, taps: Sequence[Tap]) -> None:
        self.module = module
        self.taps = tuple(taps)

    def __call__(self, batch: torch.Tensor) -> dict[str, torch.Tensor]:
        """Taps of a batch (B, 3, H, W), by name, each (B, *tap.shape); gradients as set outside.

        Raises:
            AlikeError: the forward pass ended before every tap was met.
        """
        captured: dict[str, torch.Tensor] = {}
        output = None
        with (
            suppress(_Stop),
            _Capture([tap for tap in self.taps if tap.function], captured) as mode,
        ):
            mode.missing = len(self.taps)
            output = self.module(batch)
        if output is not None:
            captured |= {
                tap.name: tap.arrange(first_tensor((output,)))
                for tap in self.taps
                if not tap.function
            }
        unreached = [tap.name for tap in self.taps if tap.name not in captured]
        if unreached:
            raise AlikeError(f"the forward pass never reached {', '.join(unreached)}")
        return captured


def function_name(func: Callable[..., Any]) -> str:
    """The name that calls are counted by; property reads share the name ``__get__``."""
    return getattr(func, "__name__", type(func).__name__)


def in_places(
    args: tuple[Any, ...], kwargs: Mapping[str, Any] | None
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of a torch function, `input` and `other` in their places if they were named.

    Example:
        >>> in_places((), {"input": 1, "other": 2, "alpha": 3})
        ((1, 2), {'alpha': 3})
    """
    named = dict(kwargs or {})
    for place, name in enumerate(("input", "other")):
        # Of `where`, the condition comes before both.
        if len(args) == place and name in named and (not place or "input" not in named):
            args = (*args, named.pop(name))
    return args, named


def first_tensor(args: Sequence[Any], kwargs: Mapping[str, Any] | None = None) -> Any:
    """The first tensor among arguments, looking into lists, tuples and dicts; None if none."""
    for value in (*args, *(kwargs or {}).values()):
        if isinstance(value, torch.Tensor):
            return value
        if isinstance(value, list | tuple | dict):
            inner = first_tensor(tuple(value.values() if isinstance(value, dict) else value))
            if inner is not None:
                return inner
    return None


def choose_taps(taps: Mapping[str, Tap], names: Sequence[str]) -> list[Tap]:
    """The taps that give the wanted names; `gap` comes from ``last_conv``.

    Raises:
        BadInput: a name that the network does not have.
    """
    wanted = dict.fromkeys("last_conv" if name == "gap" else name for name in names)
    wanted.pop("pixels", None)
    unknown = [name for name in wanted if name not in taps]
    if unknown:
        raise BadInput(
            f"no tap {', '.join(unknown)}: this network has {', '.join(taps)}, or any module path"
        )
    for name in wanted:
        if taps[name].withheld:
            raise BadInput(f"no tap {name}: {taps[name].withheld}")
    return [taps[name] for name in wanted]


def computed_taps(
    batch: torch.Tensor, captured: dict[str, torch.Tensor], names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Add `gap` and `pixels` if wanted and keep only the wanted names, in their order.

    Args:
        batch: network input (B, 3, H, W), float32.
        captured: what `TappedNetwork` gave.
        names: wanted; `gap` is the float32 mean over positions of ``last_conv``, `pixels` the
            input average-pooled to at most 32x32, float16.
    """
    arrays = dict(captured)
    if "gap" in names:
        arrays["gap"] = captured["last_conv"].float().mean((2, 3))
    if "pixels" in names:
        arrays["pixels"] = small_pixels(batch)
    return {name: arrays[name] for name in names}


def small_pixels(batch: torch.Tensor) -> torch.Tensor:
    """Network input (B, 3, H, W) averaged to at most 32x32, float16 (B, 3, h, w)."""
    height, width = (min(side, PIXELS_SIDE) for side in batch.shape[-2:])
    return nn.functional.adaptive_avg_pool2d(batch.float(), (height, width)).half()
