"""Runs a network so that its backward pass carries relevance instead of gradients.

A `TorchFunctionMode` sees every call of a torch function in the forward pass, in modules and
outside of them (residual sums, concatenations, DenseNet's ``F.relu``). The tables of `lrp.calls`
say what each function does to relevance; one that is in none is an error that names it, so there is
no wrong map.

In-place calls are replaced by calls that return a new tensor; the name of the old one then stands
for the new one, so networks written in place need no change.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from alike.analysis.explain.lrp.calls import (
    ELEMENTWISE,
    FOLLOWED,
    GATES,
    HANDLERS,
    MOVES,
    SCALINGS,
    SHAPES,
    detached,
)
from alike.analysis.explain.lrp.functions import Pass
from alike.analysis.explain.lrp.signals import Signals, tensors_in
from alike.extract.networks import function_name, in_places

TRANSPOSES = (Tensor.T, Tensor.mT, Tensor.H, Tensor.mH)


class RelevanceMode(TorchFunctionMode):
    """Inside it, a module's forward pass records how relevance goes back.

    Args:
        signals: of the pass, which hold the network's input.
    """

    def __init__(self, signals: Signals) -> None:
        super().__init__()
        self.signals = signals

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        signals = self.signals
        values, options = in_places(signals.current(args), signals.current(kwargs or {}))
        if not values and "tensors" in options:
            values = (options.pop("tensors"),)
        inputs = tensors_in((*values, *options.values()))
        name = _name(func)
        if not any(value in signals for value in inputs):
            with torch.no_grad():
                result = func(*values, **options)
            if any(value in signals.scores for value in inputs) and name not in GATES:
                signals.add_scores(result)
            elif any(value in signals.gates or value in signals.scores for value in inputs):
                signals.add_gates(result)
            return result
        in_place = name.endswith("_") and not name.startswith("_")
        in_place = in_place or options.get("inplace") is True
        if (in_place or name == "__setitem__") and _is_part(values[0]):
            raise signals.no_rule(name, "it writes in place into a part of another tensor")
        result = self._handled(name, func, values, options, inputs)
        if in_place:
            signals.replaced[values[0]] = result
        return result

    def _handled(
        self, name: str, func: Callable[..., Any], args: Any, kwargs: Any, inputs: list[Tensor]
    ) -> Any:
        if name in GATES:
            with torch.no_grad():
                gate = func(args[0].detach().clone(), *args[1:], **kwargs)
            self.signals.add_gates(gate)
            return gate
        if name in HANDLERS:
            result = HANDLERS[name](self.signals, func, *args, **kwargs)
        elif name in ELEMENTWISE:
            self.signals.refuse_gates(name, inputs)
            value = args[0].detach().clone()
            result = Pass.apply(args[0], func(value, *detached(args[1:]), **kwargs))
            self.signals.carry(args[0], result)
        elif name in MOVES:
            self.signals.refuse_gates(name, inputs)
            result = func(*args, **kwargs)
        else:
            return self._unmoved(name, func, args, kwargs)
        self.signals.add(result)
        if name in MOVES or name in SCALINGS:
            self._move_limits(func, args, kwargs, inputs, result)
        if name in FOLLOWED:
            self._move_still(func, args, kwargs, inputs, result)
        return result

    def _unmoved(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Sizes, types and devices are read without a rule, hooks may detach; else none exists."""
        with torch.no_grad():
            result = func(*args, **kwargs)
        if tensors_in((result,)) and name != "detach" and name not in SHAPES:
            raise self.signals.no_rule(name, "it is neither linear, element by element nor a move")
        return result

    def _move_limits(
        self, func: Callable[..., Any], args: Any, kwargs: Any, inputs: list[Tensor], result: Any
    ) -> None:
        limits = self.signals.limits
        if not all(value in limits for value in inputs if value.is_floating_point()):
            return
        ends = [tensors_in((func(*_swapped(args, limits, end), **kwargs),)) for end in range(2)]
        for value, low, high in zip(tensors_in((result,)), *ends, strict=True):
            limits[value] = (torch.minimum(low, high), torch.maximum(low, high))

    def _move_still(
        self, func: Callable[..., Any], args: Any, kwargs: Any, inputs: list[Tensor], result: Any
    ) -> None:
        """A class token that is put beside the tokens of an image is the same for every image."""
        signals, still = self.signals, self.signals.still
        if all(value in signals and value not in still for value in inputs):
            return
        masks = WeakTensorKeyDictionary({
            value: (
                still.get(value, torch.zeros_like(value, dtype=torch.bool))
                if value in signals else torch.ones_like(value, dtype=torch.bool),
            )
            for value in inputs
            # Others are places to read at, which stay as they are.
            if value.is_floating_point()
        })  # fmt: skip
        moved = tensors_in((func(*_swapped(args, masks, 0), **kwargs),))
        for value, mask in zip(tensors_in((result,)), moved, strict=True):
            still[value] = mask


def _is_part(value: Tensor) -> bool:
    """Whether a change in place is one of a larger tensor, which would not see it here."""
    return value._is_view() and value._base is not None and value.numel() < value._base.numel()


def _name(func: Callable[..., Any]) -> str:
    """The name that the tables of `lrp.calls` have; `x.T` and `x.mT` are transposes."""
    name = function_name(func)
    if name == "__get__" and getattr(func, "__self__", None) in TRANSPOSES:
        return "transpose"
    return name


def _swapped(args: Any, limits: Any, end: int) -> Any:
    if isinstance(args, Tensor):
        return limits[args][end] if args in limits else args
    if isinstance(args, list | tuple):
        return type(args)(_swapped(value, limits, end) for value in args)
    return args
