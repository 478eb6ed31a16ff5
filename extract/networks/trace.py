"""One traced forward pass: every call of a torch function, and which call made which tensor."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from alike.extract.networks.capture import first_tensor, function_name

RANDOM = {
    *("dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"),
    *("rand_like", "randn_like", "randint_like", "bernoulli", "multinomial", "normal", "uniform"),
    *("random", "gumbel_softmax", "rrelu", "poisson", "exponential"),
}


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a torch function.

    Attributes:
        function: its name.
        occurrence: how many calls of this function came before.
        args: positional arguments, then keyword arguments.
        input: the first tensor among them.
        result: the first tensor of what it returned.
    """

    function: str
    occurrence: int
    args: tuple[Any, ...]
    input: torch.Tensor
    result: torch.Tensor


@dataclass(frozen=True)
class ModuleRun:
    """What one run of a module gave.

    Attributes:
        shape: of the first tensor in it, () if there is none.
        call: the last call that made or changed that tensor, None if no call did.
    """

    shape: tuple[int, ...]
    call: Call | None


@dataclass
class Trace:
    """What one forward pass did.

    Attributes:
        calls: in order; those that take and give tensors.
        returned: what the network returned.
        output: the first tensor of that.
        modules: path of a module -> what it gave each time that it ran.
        parameters: id of a parameter -> its name.
    """

    calls: list[Call] = field(default_factory=list)
    returned: Any = None
    output: torch.Tensor | None = None
    modules: dict[str, list[ModuleRun]] = field(default_factory=dict)
    parameters: dict[int, str] = field(default_factory=dict)
    made_by: dict[int, list[int]] = field(default_factory=dict)

    def back(self, value: torch.Tensor | None, before: int | None = None) -> Iterator[Call]:
        """Calls that led to a tensor, from the last, each time through the first tensor argument.

        Args:
            value: the tensor to start from.
            before: only calls with a smaller index, so that in-place calls are met one by one.
        """
        limit = len(self.calls) if before is None else before
        while value is not None:
            makers = [index for index in self.made_by.get(id(value), []) if index < limit]
            if not makers:
                return
            limit = makers[-1]
            yield self.calls[limit]
            value = self.calls[limit].input

    def before(self, call: Call) -> Iterator[Call]:
        """Calls that led to a call's first tensor argument, from the last."""
        return self.back(call.input, self.calls.index(call))


class _Recorder(TorchFunctionMode):
    def __init__(self, trace: Trace) -> None:
        super().__init__()
        self.trace = trace
        self.counts: Counter[str] = Counter()

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        name = function_name(func)
        first, outcome = first_tensor(args, kwargs), first_tensor((result,))
        if first is not None and outcome is not None:
            every = (*args, *(kwargs or {}).values())
            call = Call(name, self.counts[name], every, first, outcome)
            for value in result if isinstance(result, list | tuple) else (result,):
                self.trace.made_by.setdefault(id(value), []).append(len(self.trace.calls))
            self.trace.calls.append(call)
        self.counts[name] += 1
        return result


def trace_forward(module: nn.Module, example: torch.Tensor) -> Trace:
    """Run a module once on an example (1, 3, H, W), in eval mode and without gradients.

    The modes of its parts are put back afterwards. All activations of the pass live as long as the
    trace: tens of megabytes for one image, nothing on the device ``meta``.
    """
    trace = Trace(parameters={id(value): name for name, value in module.named_parameters()})
    training = {part: part.training for part in module.modules()}
    handles = [
        part.register_forward_hook(_recorder(trace, path))
        for path, part in module.named_modules()
        if path
    ]
    try:
        module.eval()
        with torch.no_grad(), _Recorder(trace):
            output = module(example)
    finally:
        for handle in handles:
            handle.remove()
        for part, mode in training.items():
            part.training = mode
    trace.returned = output
    trace.output = first_tensor((output,))
    return trace


def _recorder(trace: Trace, path: str) -> Callable[[nn.Module, Any, Any], None]:
    def record(_module: nn.Module, _args: Any, output: Any) -> None:
        value = first_tensor((output,))
        call = next(trace.back(value), None)
        run = ModuleRun(() if value is None else tuple(value.shape), call)
        trace.modules.setdefault(path, []).append(run)

    return record


def random_calls(module: nn.Module, size: tuple[int, int]) -> list[str]:
    """Functions called in a pass in eval mode that draw random numbers if they are asked to.

    Args:
        module: a network.
        size: (height, width) of its input.
    """
    parameter = next(module.parameters(), torch.empty(0))
    example = torch.zeros(1, 3, *size, dtype=parameter.dtype, device=parameter.device)
    names = [call.function for call in trace_forward(module, example).calls]
    return sorted({name.strip("_") for name in names} & RANDOM)
