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

from alike.analysis.explain.lrp.calls import (
    ELEMENTWISE,
    GATES,
    HANDLERS,
    MOVES,
    SCALINGS,
    detached,
)
from alike.analysis.explain.lrp.functions import Pass
from alike.analysis.explain.lrp.signals import Signals, tensors_in
from alike.extract.networks import function_name, in_places


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
        inputs = tensors_in((*values, *options.values()))
        if not any(value in signals for value in inputs):
            with torch.no_grad():
                result = func(*values, **options)
            if any(value in signals.gates for value in inputs):
                signals.add_gates(result)
            return result
        name = function_name(func)
        result = self._handled(name, func, values, options, inputs)
        in_place = name.endswith("_") and not name.startswith("_")
        if in_place or options.get("inplace") is True:
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
        elif name in MOVES:
            self.signals.refuse_gates(name, inputs)
            result = func(*args, **kwargs)
        else:
            return self._unmoved(name, func, args, kwargs)
        self.signals.add(result)
        if name in MOVES or name in SCALINGS:
            self._move_limits(func, args, kwargs, inputs, result)
        return result

    def _unmoved(self, name: str, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """Sizes, types and devices are read without a rule, hooks may detach; else none exists."""
        with torch.no_grad():
            result = func(*args, **kwargs)
        if tensors_in((result,)) and name != "detach":
            raise self.signals.no_rule(name, "it is neither linear, element by element nor a move")
        return result

    def _move_limits(
        self, func: Callable[..., Any], args: Any, kwargs: Any, inputs: list[Tensor], result: Any
    ) -> None:
        limits = self.signals.limits
        if not all(value in limits for value in inputs):
            return
        ends = [tensors_in((func(*_swapped(args, limits, end), **kwargs),)) for end in range(2)]
        for value, low, high in zip(tensors_in((result,)), *ends, strict=True):
            limits[value] = (torch.minimum(low, high), torch.maximum(low, high))


def _swapped(args: Any, limits: Any, end: int) -> Any:
    if isinstance(args, Tensor):
        return limits[args][end] if args in limits else args
    if isinstance(args, list | tuple):
        return type(args)(_swapped(value, limits, end) for value in args)
    return args
