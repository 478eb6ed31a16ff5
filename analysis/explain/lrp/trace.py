"""Runs a network so that its backward pass carries relevance instead of gradients.

A `TorchFunctionMode` sees every call of a torch function in the forward pass, in modules and
outside of them (residual sums, concatenations, DenseNet's ``F.relu``). The tables of `lrp_calls`
say what each function does to relevance; one that is in none is an error that names it, so there is
no wrong map.

In-place calls are replaced by calls that return a new tensor; the name of the old one then stands
for the new one, so networks written in place need no change.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from alike.analysis.explain.gradients import DoesNotFit
from alike.analysis.explain.lrp.calls import (
    ELEMENTWISE,
    GATES,
    HANDLERS,
    MOVES,
    SCALINGS,
    detached,
    tensors_in,
)
from alike.analysis.explain.lrp.composite import Composite, Limits
from alike.analysis.explain.lrp.functions import Pass
from alike.extract.networks import function_name


class RelevanceMode(TorchFunctionMode):
    """Inside it, a module's forward pass records how relevance goes back.

    Args:
        module: names the layer in errors.
        composite: the rules.
        pixels: the network's input, requiring gradients.
        limits: least and greatest value of the input, broadcastable to it.
    """

    def __init__(
        self, module: nn.Module, composite: Composite, pixels: Tensor, limits: Limits
    ) -> None:
        super().__init__()
        self.module, self.composite = module, composite
        self.signals: Any = WeakTensorKeyDictionary({pixels: True})
        self.gates: Any = WeakTensorKeyDictionary()
        self.limits: Any = WeakTensorKeyDictionary({pixels: limits})
        self.layers: Any = WeakTensorKeyDictionary()
        self.replaced: Any = WeakTensorKeyDictionary()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given, named = self._current(args), self._current(kwargs or {})
        inputs = tensors_in((*given, *named.values()))
        if not any(value in self.signals for value in inputs):
            with torch.no_grad():
                result = func(*given, **named)
            if any(value in self.gates for value in inputs):
                self._mark(self.gates, result)
            return result
        name = function_name(func)
        result = self._handled(name, func, given, named, inputs)
        in_place = name.endswith("_") and not name.startswith("_")
        if in_place or named.get("inplace") is True:
            self.replaced[given[0]] = result
        return result

    def _handled(
        self, name: str, func: Callable[..., Any], args: Any, kwargs: Any, inputs: list[Tensor]
    ) -> Any:
        if name in GATES:
            with torch.no_grad():
                gate = func(args[0].detach().clone(), *args[1:], **kwargs)
            self.gates[gate] = True
            return gate
        if name in HANDLERS:
            result = HANDLERS[name](self, func, *args, **kwargs)
        elif name in ELEMENTWISE:
            self.refuse_gates(name, inputs)
            value = args[0].detach().clone()
            result = Pass.apply(args[0], func(value, *detached(args[1:]), **kwargs))
        elif name in MOVES:
            self.refuse_gates(name, inputs)
            result = func(*args, **kwargs)
        else:
            return self._unmoved(name, func, args, kwargs)
        self._mark(self.signals, result)
        if name in MOVES or name in SCALINGS:
            self._move_limits(func, args, kwargs, inputs, result)
        return result

    def _unmoved(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Sizes, types and devices are read without a rule, hooks may detach; else none exists."""
        with torch.no_grad():
            result = func(*args, **kwargs)
        if tensors_in((result,)) and name != "detach":
            raise self.no_rule(name, "it is neither linear, element by element nor a move")
        return result

    def _move_limits(
        self, func: Callable[..., Any], args: Any, kwargs: Any, inputs: list[Tensor], result: Any
    ) -> None:
        if not all(value in self.limits for value in inputs):
            return
        ends = [
            tensors_in((func(*_swapped(args, self.limits, end), **kwargs),)) for end in range(2)
        ]
        for value, low, high in zip(tensors_in((result,)), *ends, strict=True):
            self.limits[value] = (torch.minimum(low, high), torch.maximum(low, high))

    def _current(self, values: Any) -> Any:
        if isinstance(values, Tensor):
            while values in self.replaced:
                values = self.replaced[values]
            return values
        if isinstance(values, list | tuple) and type(values) in (list, tuple):
            return type(values)(self._current(value) for value in values)
        if isinstance(values, Mapping):
            return {key: self._current(value) for key, value in values.items()}
        return values

    def _mark(self, marks: Any, result: Any) -> None:
        for value in tensors_in((result,)):
            marks[value] = True

    def refuse_gates(self, name: str, inputs: list[Tensor]) -> None:
        """Raise where a gate meets a signal other than in a product."""
        if any(value in self.gates for value in inputs):
            raise self.no_rule(name, "it mixes a gate (sigmoid) with a signal; only products may")

    def no_rule(self, function: str, why: str) -> DoesNotFit:
        """The error that names a layer without a rule, to be raised."""
        return DoesNotFit(
            f"no relevance rule for {function} in {_place(self.module)}: {why}; "
            "explain this network with gradcam or sa, or give it a rule in "
            "analysis/explain/lrp/calls.py"
        )


def _swapped(args: Any, limits: Any, end: int) -> Any:
    if isinstance(args, Tensor):
        return limits[args][end] if args in limits else args
    if isinstance(args, list | tuple):
        return type(args)(_swapped(value, limits, end) for value in args)
    return args


def _place(module: nn.Module) -> str:
    """The path of the module that is running, found among the callers."""
    paths = {id(part): path for path, part in module.named_modules()}
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        running = frame.f_locals.get("self")
        if isinstance(running, nn.Module) and id(running) in paths:
            path = paths[id(running)]
            return f"{path} ({type(running).__name__})" if path else type(running).__name__
        frame = frame.f_back
    return type(module).__name__
