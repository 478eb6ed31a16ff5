"""What is known of the tensors of one forward pass: which come from the image, and how.

`Signals` is the state that the tracing mode and the handlers of `lrp.calls` share. Tensors are held
weakly, so that the pass frees what it no longer needs.
"""

import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from alike.analysis.explain.gradients import DoesNotFit
from alike.analysis.explain.lrp.composite import Composite, Limits


class Signals:
    """The tensors of one forward pass; `x in signals` tells whether x comes from the image.

    Args:
        module: names the layer in errors.
        composite: which rule serves which layer.
        pixels: the network's input, requiring gradients.
        limits: least and greatest value of the input, broadcastable to it.

    Attributes:
        gates: results of a sigmoid or softmax of a signal; they only scale.
        scores: products of two signals; a softmax makes them the gate of an attention.
        still: tensor -> where it is the same for every image (a class token), a bool mask.
        limits: tensor -> least and greatest value, for the input and what is moved from it.
        layers: output of a linear layer -> (its input, the layer), so that BatchNorm folds into it.
        replaced: argument of an in-place call -> the new tensor that its name now stands for.
    """

    def __init__(
        self, module: nn.Module, composite: Composite, pixels: Tensor, limits: Limits
    ) -> None:
        self.module, self.composite = module, composite
        self._signals: Any = WeakTensorKeyDictionary({pixels: True})
        self.gates: Any = WeakTensorKeyDictionary()
        self.scores: Any = WeakTensorKeyDictionary()
        self.still: Any = WeakTensorKeyDictionary()
        self.limits: Any = WeakTensorKeyDictionary({pixels: limits})
        self.layers: Any = WeakTensorKeyDictionary()
        self.replaced: Any = WeakTensorKeyDictionary()

    def __contains__(self, value: object) -> bool:
        return isinstance(value, Tensor) and value in self._signals

    def add(self, result: Any) -> None:
        """Mark the tensors of a result as coming from the image, but for gates and scores."""
        for value in tensors_in((result,)):
            if value not in self.gates and value not in self.scores:
                self._signals[value] = True

    def add_gates(self, result: Any) -> None:
        """Mark the tensors of a result as gates."""
        for value in tensors_in((result,)):
            self.gates[value] = True

    def add_scores(self, result: Any) -> None:
        """Mark the tensors of a result as scores of an attention."""
        for value in tensors_in((result,)):
            self.scores[value] = True

    def carry(self, x: Any, result: Tensor, *, mixed: bool = False) -> None:
        """Keep what is known to be still.

        Args:
            x: where it was known.
            result: shaped as x, or (mixed) but for its last axis.
            mixed: each value was made of all values along the last axis.
        """
        mask = self.still.get(x)
        if mask is not None:
            mask = mask.all(-1, keepdim=True) if mixed else mask
            self.still[result] = mask.expand(result.shape)

    def current(self, values: Any) -> Any:
        """Arguments of a call, each tensor that an in-place call changed as its new one."""
        if isinstance(values, Tensor):
            while values in self.replaced:
                values = self.replaced[values]
            return values
        if isinstance(values, list | tuple) and type(values) in (list, tuple):
            return type(values)(self.current(value) for value in values)
        if isinstance(values, Mapping):
            return {key: self.current(value) for key, value in values.items()}
        return values

    def refuse_gates(self, name: str, inputs: list[Tensor]) -> None:
        """Raise if a gate meets a signal other than in a product."""
        if any(value in self.gates for value in inputs):
            raise self.no_rule(
                name, "it mixes a gate (sigmoid, softmax) with a signal; only products may"
            )
        if any(value in self.scores for value in inputs):
            raise self.no_rule(name, "it mixes a product of two signals with a signal")

    def no_rule(self, function: str, why: str) -> DoesNotFit:
        """The error that names a layer without a rule, to be raised."""
        return DoesNotFit(
            f"no relevance rule for {function} in {_place(self.module)}: {why}; "
            "explain this network with gradcam or sa, or give it a rule in "
            "analysis/explain/lrp/calls.py"
        )


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors among arguments, also in lists and tuples, in order."""
    tensors: list[Tensor] = []
    for value in values:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif isinstance(value, list | tuple):
            tensors += tensors_in(value)
    return tensors


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
