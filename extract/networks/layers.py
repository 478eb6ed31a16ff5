"""The layers of a network: outputs of its blocks through which everything passes.

A layer is found, not listed: in the graph of one traced pass it is a tensor that every way from the
input to the pooling leads through, so that nothing later sees what it lacks. Of those, the outputs
of blocks are taken. A block is a module that stands among others of its kind (ResNet's BasicBlock,
an encoder block), not a part of one. Networks without blocks give the last output before each
convolution.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from alike.extract.networks.trace import Call, Trace

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class Output:
    """What a module gave in the only run of it.

    Attributes:
        path: of the module.
        module: itself.
        at: index of the call that made it.
    """

    path: str
    module: nn.Module
    at: int

    @property
    def is_block(self) -> bool:
        """Whether the module has parts."""
        return next(self.module.children(), None) is not None

    @property
    def opens(self) -> bool:
        """Whether the module is a convolution or a Linear, with which a layer begins."""
        return any(value.ndim > 1 for value in self.module.parameters(recurse=False))


def bottlenecks(trace: Trace, example: torch.Tensor, end: int) -> set[int]:
    """Indices of the calls before `end` that every way from the example to that call leads through.

    In the order of the pass a call is one if no earlier result is read after it; calls that do not
    lie between the two do not count.

    Args:
        trace: of a pass of the example.
        example: what the network was given.
        end: index of a call.
    """
    sources = [list(_makers(trace, call, at, example)) for at, call in enumerate(trace.calls)]
    reached = {-1}
    for at in range(end + 1):
        if reached.intersection(sources[at]):
            reached.add(at)
    wanted = {end}
    last: dict[int, int] = {}
    for at in range(end, -1, -1):
        if at not in wanted or at not in reached:
            continue
        for source in reached.intersection(sources[at]):
            wanted.add(source)
            last[source] = max(last.get(source, at), at)
    found, furthest = set(), last.get(-1, end)
    for at in sorted(wanted & reached - {-1, end}):
        if furthest <= at:
            found.add(at)
        furthest = max(furthest, last[at])
    return found


def _makers(trace: Trace, call: Call, at: int, example: torch.Tensor) -> Iterator[int]:
    """Calls that made what a call reads; -1 for the example."""
    for value in _tensors(call.args):
        before = [maker for maker in trace.made_by.get(id(value), ()) if maker < at]
        if before:
            yield before[-1]
        elif value is example:
            yield -1


def _tensors(values: Any) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)
        elif isinstance(value, Mapping):
            yield from _tensors(value.values())


def layer_paths(module: nn.Module, trace: Trace, example: torch.Tensor, end: int) -> list[str]:
    """Paths of the modules whose outputs are the layers, in the order of the pass.

    Where several modules give one tensor (a stage and its last block), the shortest path names it.

    Args:
        module: that was traced.
        trace: of a pass of the example.
        example: (1, 3, H, W).
        end: index of the call that pools the last map.
    """
    cuts = bottlenecks(trace, example, end)
    index = {id(call): at for at, call in enumerate(trace.calls)}
    outputs: dict[str, Output] = {}
    for path, part in module.named_modules():
        runs = trace.modules.get(path, [])
        if len(runs) == 1 and len(runs[0].shape) in (3, 4) and runs[0].call is not None:
            at = index[id(runs[0].call)]
            if at in cuts:
                outputs[path] = Output(path, part, at)
    stages = {path for path, part in module.named_modules() if _is_stage(path, part, outputs)}
    within = [
        one for path, one in outputs.items()
        if all(parent in stages for parent in _parents(path))
    ]  # fmt: skip
    items = sorted((one for one in within if one.path not in stages), key=lambda one: one.at)
    chosen = {one.at for one in _ends(items)}
    names: dict[int, str] = {}
    for one in within:
        if one.at in chosen:
            shorter = min(names.get(one.at, one.path), one.path, key=lambda path: path.count("."))
            names[one.at] = shorter
    return [names[at] for at in sorted(names)]


def _is_stage(path: str, module: nn.Module, outputs: Mapping[str, Output]) -> bool:
    """Whether a module is a row of blocks, or holds one."""
    if not path or type(module) in CONTAINERS:
        return True
    for name, part in module.named_modules(prefix=path):
        kinds = {type(child) for child in part.children()}
        inside = [outputs.get(f"{name}.{child}") for child, _ in part.named_children()]
        row = isinstance(part, CONTAINERS) and len(inside) > 1 and len(kinds) == 1
        if row and all(one is not None and one.is_block for one in inside):
            return True
    return False


def _parents(path: str) -> Iterator[str]:
    parts = path.split(".")
    return (".".join(parts[:n]) for n in range(1, len(parts)))


def _ends(items: list[Output]) -> Iterator[Output]:
    """Of blocks each, of plain layers the last before the next convolution or block."""
    weighted = False
    for number, one in enumerate(items, start=1):
        following = items[number] if number < len(items) else None
        weighted = weighted or next(one.module.parameters(), None) is not None
        if one.is_block or (weighted and (not following or following.is_block or following.opens)):
            yield one
            weighted = False
