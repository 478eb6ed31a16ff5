"""Which tensor of a network's output the logits are, if there are several.

Training code returns ``(features, logits)``, ``{"features": …, "logits": …}``, ``(map, logits)`` or
a dataclass. The first tensor would be a guess that is often wrong and never noticed: it has a row
an image, too.
"""

from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn

from alike.extract.errors import BadInput
from alike.extract.networks.trace import Call, Trace

LOGITS = ("logits", "logit", "class_logits", "cls_logits", "pred_logits", "prediction_logits")
"""Names of an output that say that it is the logits, the surest first."""
USUAL = ("prediction", "predictions", "pred", "preds", "scores", "cls", "out", "output", "y_hat")
"""Names that logits often have, and other outputs too: ``cls`` may be a class token."""

WEIGHTED = {
    *("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "addmm", "einsum", "bilinear"),
    *("conv1d", "conv2d", "conv3d", "batch_norm", "layer_norm", "group_norm"),
    *("scaled_dot_product_attention", "multi_head_attention_forward"),
}
"""Functions at which the way back from an output ends: what comes before is another layer."""


def tensors_of(output: Any, path: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a network's output with its dotted path: ``logits``, ``1``, ``heads.0``.

    Looks into mappings, dataclasses, named tuples, lists and tuples.
    """
    if isinstance(output, torch.Tensor):
        yield path, output
        return
    for name, value in _parts(output):
        yield from tensors_of(value, f"{path}.{name}" if path else name)


def _parts(output: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(output, Mapping):
        yield from ((str(name), value) for name, value in output.items())
    elif is_dataclass(output) and not isinstance(output, type):
        yield from ((field.name, getattr(output, field.name)) for field in fields(output))
    elif isinstance(output, tuple) and hasattr(output, "_fields"):
        yield from zip(output._fields, output, strict=True)
    elif isinstance(output, list | tuple):
        yield from ((str(number), value) for number, value in enumerate(output))


class TakeOutput:
    """A forward hook that leaves of a network's output the logits alone.

    So whoever runs the network (extraction, training, explanations) meets a plain classifier.

    Attributes:
        path: of the logits, as `tensors_of` names it.
    """

    def __init__(self, path: str) -> None:
        self.path = path

    def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
        """The tensor at the path; what is a tensor already stays as it is."""
        if isinstance(output, torch.Tensor):
            return output
        tensors = dict(tensors_of(output))
        if self.path not in tensors:
            raise BadInput(
                f"the network's output has no {self.path!r} now, it has {_shown(tensors)}"
            )
        return tensors[self.path]


def take_logits(module: nn.Module, trace: Trace, wanted: str = "") -> str:
    """Make a network that returns several tensors return its logits, from here on.

    Args:
        module: gets a forward hook, unless it returns a tensor already.
        trace: of a pass of it; its output becomes the logits.
        wanted: as for `logits_path`.

    Returns:
        One line on which output was taken, "" if there is one only or the user named it.

    Raises:
        BadInput: no such output, or several that may be the logits.
    """
    taken = any(isinstance(hook, TakeOutput) for hook in module._forward_hooks.values())
    if isinstance(trace.returned, torch.Tensor) and wanted and not taken:
        raise BadInput(f"output {wanted!r} is not there: the network returns one tensor")
    tensors = dict(tensors_of(trace.returned))
    if isinstance(trace.returned, torch.Tensor) or not tensors:
        return ""
    take = TakeOutput(logits_path(trace, wanted))
    module.register_forward_hook(take)
    trace.output = take(module, (), trace.returned)
    if wanted or len(tensors) == 1:
        return ""
    return (
        f"the network returns {_shown(tensors)}: {take.path} is taken for the logits "
        "(--network-output names another)"
    )


def logits_path(trace: Trace, wanted: str = "") -> str:
    """Path of the logits in the output of a traced pass.

    Args:
        trace: of one image.
        wanted: path that the user gave, "" to find it: by name (`LOGITS`), then as the only output
            that comes from a Linear, or from the last of several in a row, then by a name of
            `USUAL`. One that is named so does not count against another from the last Linear.

    Raises:
        BadInput: no such output, or several that may be the logits.
    """
    tensors = {path: value for path, value in tensors_of(trace.returned) if value.ndim >= 1}
    if wanted:
        if wanted not in tensors:
            raise BadInput(f"output {wanted!r} is not there: the network returns {_shown(tensors)}")
        return wanted
    if len(tensors) == 1:
        return next(iter(tensors))
    vectors = {path: value for path, value in tensors.items() if value.ndim == 2}
    named = {path.rpartition(".")[2].lower(): path for path in reversed(vectors)}
    by_name = next((named[name] for name in LOGITS if name in named), None)
    usual = next((named[name] for name in USUAL if name in named), None)
    last = by_name or _of_last_linear(trace, vectors)
    path = last or usual or (len(vectors) == 1 and next(iter(vectors)))
    if not path or (usual and not by_name and path != usual):
        raise BadInput(
            f"the network returns {_shown(tensors) or 'no tensor'}: which of them are the logits? "
            "Give --network-output NAME, or the place in a tuple, such as 1"
        )
    return path


def _of_last_linear(trace: Trace, vectors: Mapping[str, torch.Tensor]) -> str | None:
    """The output that the last Linear gives, None if outputs come from several that end apart."""
    ways = {path: _way_to_linear(trace, value) for path, value in vectors.items()}
    ending = {path: way for path, way in ways.items() if way}
    linears = {id(way[-1]): way[-1] for way in ending.values()}
    last = [
        call
        for call in linears.values()
        if all(other is call or other in _all_before(trace, call) for other in linears.values())
    ]
    if len(last) != 1:
        return None
    # Of logits and their softmax the one that is nearer to the Linear.
    own = {path: len(way) for path, way in ending.items() if way[-1] is last[0]}
    return min(own, key=lambda path: own[path])


def _all_before(trace: Trace, call: Call) -> list[Call]:
    return list(trace.before(call))


def _way_to_linear(trace: Trace, value: torch.Tensor) -> list[Call]:
    """Calls back from an output to the Linear that it comes from, [] if it comes from none."""
    way = []
    for call in trace.back(value):
        way.append(call)
        if call.function in WEIGHTED:
            one_vector = call.function == "linear" and call.result.ndim == 2
            return way if one_vector else []
    return []


def _shown(tensors: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(
        f"{path} ({' x '.join(map(str, ('N', *value.shape[1:])))})"
        for path, value in tensors.items()
    )
