"""The taps of any classification network: ``last_conv``, ``fc``, ``logits`` and module paths.

Found by walking back from the output of one traced pass, so no table of layer names is needed: the
Linear calls met first are the head, the first call that takes positions away is the pooling, and
what enters it is ``last_conv``.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import nn

from alike.extract.errors import BadInput
from alike.extract.networks.capture import (
    MEAN_OF,
    Tap,
    TappedNetwork,
    choose_taps,
    computed_taps,
)
from alike.extract.networks.layers import layer_paths
from alike.extract.networks.outputs import take_logits
from alike.extract.networks.trace import Call, Trace, trace_forward

__all__ = ["Tap", "TappedNetwork", "find_taps", "forward_taps", "taps_at"]

POOLS = {
    *(f"{kind}_pool2d" for kind in ("adaptive_avg", "adaptive_max", "avg", "max", "lp")),
    *("mean", "amax", "logsumexp", "std_mean"),
}
REDUCTIONS = {"mean", "sum", "amax", "amin", "max", "logsumexp", "std_mean", "std", "var"}
"""What takes axes of its input, which are its first whole numbers."""
ELEMENTWISE = {"relu", "relu_", "dropout", "gelu", "silu", "hardswish", "identity", "leaky_relu"}
CHANNELS_LAST = {"layer_norm", "linear"}
CHANNELS_FIRST = {"conv2d", "batch_norm", "group_norm", "adaptive_avg_pool2d", "max_pool2d"}
MAX_PREFIX = 16
TOKENS_NOTE = "tokens before the pooling, as a grid; {prefix} prefix token(s) dropped"
CONV_HEAD_NOTE = "convolutional classifier: last_conv is what enters it, fc is its mean"
FLAT_NOTE = "no global pooling: last_conv is the map that is flattened into the first Linear"
POSITIONS_NOTE = "the output is {shape}: its numbers are stored one by one, and none is of a class"
FLATTENED, COMPARED, LAST = "flattened", "compared", "channels_last"
HEADLESS_NOTE = "no Linear after the pooling: fc is the pooled vector"


def find_taps(
    module: nn.Module, example: torch.Tensor, paths: Sequence[str] = (), output: str = ""
) -> dict[str, Tap]:
    """The taps of a network for inputs of one size.

    If the network returns several tensors, it returns the logits alone from here on, by a hook.

    Args:
        module: a classification network; its output is ``logits``.
        example: (1, 3, H, W) on the module's device; ``meta`` works and costs nothing.
        paths: module paths wanted as taps too, ``path#k`` for the k-th run of a shared module;
            ``gap@path`` for the mean over positions.
        output: which of several outputs the logits are, "" to find it: see `logits_path`.

    Returns:
        ``logits`` always; ``last_conv`` if positions are pooled; ``fc``; and, if several
        Linears follow each other, ``fc7``, ``fc6``… counted back from the last (VGG, AlexNet).

    Raises:
        BadInput: a path that is no module, or one that runs several times and has no ``#k``; the
            network does not take such an input; or it returns several tensors that may be logits.
    """
    try:
        trace = trace_forward(module, example)
    # A network is anybody's code: it may raise anything.
    except Exception as error:
        height, width = example.shape[-2:]
        reason = f"{type(error).__name__}: {error}".split("\n")[0]
        channels = re.search(r"to have (\d+) channels, but got 3 channels", str(error))
        if channels:
            raise BadInput(
                f"the network takes images of {channels[1]} channels ({reason}), and images are "
                "given to it as RGB, of 3: wrap it in a network that makes its channels of them"
            ) from error
        side = _wanted_side(str(error))
        advice = f"give the size that it was made for, --resize {side}x{side}"
        if not side:
            # Nothing in its error tells whether the size is the cause.
            advice = (
                "if it was made for another size, give that, for example --resize 224x224; if not, "
                "the fault is in its forward pass, which runs on the CPU first"
            )
        raise BadInput(
            f"the network fails on an image of {height}x{width} ({reason}); {advice}"
        ) from error
    take_logits(module, trace, output)
    return _taps_of(module, trace, example, paths)


def _wanted_side(message: str) -> str:
    """The side that a network's own error asks for, as torchvision's and timm's do; else empty."""
    wanted = re.search(r"[Ee]xpected (\d+) but got|match model \((\d+)", message)
    return next(filter(None, wanted.groups())) if wanted else ""


def _taps_of(
    module: nn.Module, trace: Trace, example: torch.Tensor, paths: Sequence[str]
) -> dict[str, Tap]:
    """The taps that a traced pass of an example shows; errors as of `find_taps`."""
    if trace.output is None or trace.output.ndim < 2:
        raise BadInput("the network's output holds no tensor (N, classes): not a classifier")
    if len(trace.output) != len(example) or not trace.output.numel() or trace.output.is_complex():
        kind = "complex numbers" if trace.output.is_complex() else "numbers"
        raise BadInput(
            f"the network's output for one image is {kind} of shape {tuple(trace.output.shape)}: "
            "real numbers of shape (1, classes) are expected"
        )
    taps = [
        replace(tap, module=_module_before(trace, tap)) if tap.name == "last_conv" else tap
        for tap in _head_taps(trace, example)
    ]
    numel = trace.output[0].numel()
    shape = " x ".join(map(str, trace.output.shape[1:]))
    note = POSITIONS_NOTE.format(shape=shape) if has_positions(trace.output) else ""
    logits = Tap("logits", "", 0, "output", "vector", (numel,), note=note)
    taps_found = _withheld(module, [*taps, logits])
    missing = [path for path in paths if path not in taps_found]
    return taps_found | {path: _path_tap(trace, path, example) for path in missing}


def has_positions(output: torch.Tensor) -> bool:
    """Whether an output (N, ...) has more axes of several numbers than that of classes.

    Example:
        >>> has_positions(torch.zeros(2, 10, 1, 1)), has_positions(torch.zeros(2, 10, 4, 4))
        (False, True)
    """
    return sum(side > 1 for side in output.shape[1:]) > 1


def _head_taps(trace: Trace, example: torch.Tensor) -> list[Tap]:
    linears: list[Call] = []
    pool: Call | None = None
    head = ""
    axes: set[int] | None = None
    pooling: Call | None = None
    for call in trace.back(trace.output):
        if _is_linear(call):
            linears.append(call)
        elif _takes_positions(call):
            steps = _in_two_steps(trace, call)
            if steps is not None and steps[1] in ({1, 2}, {2, 3}):
                (pool, axes), pooling = steps, call
                # Of channels first it has had this mark.
                head = LAST if axes == {1, 2} else COMPARED
                break
            flattening = _flattening(trace, call)
            if flattening is not None:
                pool, head = flattening, FLATTENED
                break
            if call.input.ndim == 4 or _keeps_channels(call):
                pool = call
                break
            head = COMPARED
        elif _flattens_map(call):
            earlier = next(trace.before(call), None)
            adaptive = earlier is not None and earlier.function.startswith("adaptive_")
            pool = earlier if adaptive else call
            break
        elif _flattens_map(call, last=True):
            head = LAST
    if pool is None:
        return _vectors(trace, linears)
    flat = "" if not _flattens_map(pool) else FLAT_NOTE
    last_conv = _map_tap(pool, example, flat, axes)
    last_conv = replace(last_conv, head=head or last_conv.head)
    if linears:
        return [last_conv, *_vectors(trace, linears)]
    convolution = _conv_classifier(trace, pool)
    if convolution is not None:
        tap = _map_tap(convolution, example, CONV_HEAD_NOTE)
        weight, bias = _parameters_of(trace, convolution)
        vector = replace(tap, name="fc", shape=tap.shape[:1], pooled=True)
        return [replace(tap, weight=weight, bias=bias), vector]
    if head == FLATTENED:
        # What the flattening gives still has positions.
        return [last_conv, replace(last_conv, name="fc", shape=last_conv.shape[:1], pooled=True)]
    last = pooling or pool
    place = (last.function, last.occurrence, "output", "vector", (last.result[0].numel(),))
    return [last_conv, Tap("fc", *place, note=HEADLESS_NOTE)]


def _is_linear(call: Call) -> bool:
    """Whether a call is a Linear of one vector, or a 1x1 convolution of a 1x1 map: the same."""
    value = call.input
    if call.function == "linear":
        return value[0].numel() == value.shape[-1]
    if call.function != "conv2d" or value.ndim != 4:
        return False
    # Of groups, a weight sees some of the channels only.
    return value[0].numel() == value.shape[1] and tuple(call.args[1].shape[1:]) == (
        value.shape[1], 1, 1
    )  # fmt: skip


def _takes_positions(call: Call) -> bool:
    value, result = call.input, call.result
    if value.ndim not in (3, 4) or (value.ndim == 3 and value.shape[0] != result.shape[0]):
        return False
    return call.function in POOLS or (result.numel() < value.numel() and _one_vector(result))


def _keeps_channels(call: Call) -> bool:
    """Whether what takes positions from (N, T, C) gives C numbers, as pooling of tokens does.

    A comparison of a vector with prototypes gives one number for each of these instead.
    """
    value, result = call.input, call.result
    if _axes_taken(call) == {2}:
        return False
    return result[0].numel() == value.shape[2] and (value.shape[1] > 1 or call.function in POOLS)


def _flattening(trace: Trace, call: Call) -> Call | None:
    """What made the rows (N, C, P) that a call pools out of a map (N, C, h, w), or None."""
    value = call.input
    if value.ndim != 3 or call.result[0].numel() != value.shape[1]:
        return None
    for earlier in trace.before(call):
        whole = earlier.input
        if whole.ndim == 4 and earlier.result.ndim == 3:
            same = whole.shape[1] == value.shape[1] and whole[0, 0].numel() == value.shape[2]
            return earlier if same else None
        if earlier.function not in ELEMENTWISE:
            return None
    return None


def _one_vector(value: torch.Tensor) -> bool:
    return value[0].numel() in (value.shape[-1], value.shape[1]) and value.ndim >= 2


def _flattens_map(call: Call, *, last: bool = False) -> bool:
    """Whether a call makes a vector of a map, or (`last`) of a pooled map of channels last."""
    value, result = call.input, call.result
    if value.ndim != 4 or result.ndim != 2 or not value.numel() == result.numel() > 0:
        return False
    # A pooled map whose positions stay as axes is a vector already.
    pooled = value.shape[1] == value.shape[2] == 1
    return value.shape[2] * value.shape[3] > 1 and pooled == last


def _conv_classifier(trace: Trace, pool: Call) -> Call | None:
    """The 1x1 convolution to the classes just before the pooling (SqueezeNet), or None."""
    for call in trace.before(pool):
        if call.function == "conv2d" and tuple(call.args[1].shape[2:]) == (1, 1):
            return call
        if call.function not in ELEMENTWISE:
            return None
    return None


def _map_tap(call: Call, example: torch.Tensor, note: str, axes: set[int] | None = None) -> Tap:
    value = call.input
    if value.ndim == 3:
        height, width, prefix = _grid(value.shape[1], example)
        shape = (value.shape[2], height, width)
        tokens_note = TOKENS_NOTE.format(prefix=prefix)
        place = (call.function, call.occurrence, "input", "tokens", shape)
        return Tap("last_conv", *place, prefix=prefix, note=tokens_note)
    by_shape = call.function in POOLS and call.result.shape[1] != value.shape[1]
    axes = axes or _axes_taken(call)
    known = axes in ({1, 2}, {2, 3})
    channels_last = axes == {1, 2} if known else by_shape
    layout = "nhwc" if channels_last else "nchw"
    row = tuple(value.shape[1:])
    channels_first = (row[2], *row[:2]) if channels_last else row
    # The key tells these features from those of an earlier release, which went by the shape alone.
    head = LAST if channels_last and not by_shape else ""
    return Tap(
        "last_conv", call.function, call.occurrence, "input", layout, channels_first, note=note,
        head=head,
    )  # fmt: skip


def _axes_taken(call: Call) -> set[int] | None:
    """The axes that a mean or its kin is over; None if its arguments do not say.

    Shapes do not tell channels from rows where there are as many.
    """
    if call.function not in REDUCTIONS:
        return None
    for value in call.args[1:]:
        axes = value if isinstance(value, list | tuple) else [value]
        if axes and all(type(axis) is int for axis in axes):
            return {axis % call.input.ndim for axis in axes}
    return None


def _in_two_steps(trace: Trace, call: Call) -> tuple[Call, set[int]] | None:
    """What takes the first of two axes of a map (N, ?, ?, ?), and both; None if none does."""
    earlier, then = next(trace.before(call), None), _axes_taken(call)
    if earlier is None or then is None or (earlier.input.ndim, earlier.result.ndim) != (4, 3):
        return None
    first = _axes_taken(earlier)
    if first is None or len(first) != 1 or len(then) != 1:
        return None
    axis, second = *first, *then
    return earlier, {axis, second if second < axis else second + 1}


def _module_before(trace: Trace, tap: Tap) -> str:
    """The module that gave what enters a call, if one did and it ran once."""
    place = (tap.function, tap.occurrence)
    call = next(call for call in trace.calls if (call.function, call.occurrence) == place)
    producer = next(trace.before(call), None)
    if producer is None or producer.result is not call.input:
        return ""
    paths = (
        path for path, runs in trace.modules.items() if [run.call for run in runs] == [producer]
    )
    return next(paths, "")


def _grid(tokens: int, example: torch.Tensor) -> tuple[int, int, int]:
    """(height, width, prefix) of a token sequence: the largest grid of the image's proportions."""
    height, width = example.shape[-2:]
    for prefix in range(min(MAX_PREFIX, tokens)):
        rows = round(((tokens - prefix) * height / width) ** 0.5)
        if rows and (tokens - prefix) % rows == 0:
            columns = (tokens - prefix) // rows
            if rows * width == columns * height:
                return rows, columns, prefix
    raise BadInput(f"{tokens} tokens of an image {height}x{width} form no grid; tap a module path")


def _vectors(trace: Trace, linears: Sequence[Call]) -> list[Tap]:
    """Taps of the vectors entering the Linears; the first of `linears` is the last to run."""
    taps = []
    for steps_back, call in enumerate(linears):
        names = ["fc"] if steps_back == 0 else []
        if steps_back < len(linears) - 1:
            names.append(f"fc{7 - steps_back}")
        weight, bias = _parameters_of(trace, call)
        place = (call.function, call.occurrence, "input", "vector", (call.input[0].numel(),))
        taps += [Tap(name, *place, weight=weight, bias=bias) for name in names]
    return taps


def _parameters_of(trace: Trace, call: Call) -> tuple[str, str]:
    """Names of the weight and the bias of a Linear or a convolution, "" for one that is none."""
    weight, bias = (*call.args[1:3], None, None)[:2]
    return trace.parameters.get(id(weight), ""), trace.parameters.get(id(bias), "")


def _path_tap(trace: Trace, name: str, example: torch.Tensor) -> Tap:
    path, _, run = name.removeprefix(MEAN_OF).partition("#")
    runs = trace.modules.get(path)
    if not runs:
        near = [module for module in trace.modules if module.split(".")[0] == path.split(".")[0]]
        some = ", ".join((near or list(trace.modules))[:8])
        raise BadInput(f"tap {name!r} is no tap or module that runs; modules are {some}…")
    if not run and len(runs) > 1:
        raise BadInput(f"module {path} runs {len(runs)} times: name one of them, {path}#0")
    if run and not (run.isdecimal() and int(run) < len(runs)):
        raise BadInput(f"tap {name!r}: {path} runs {len(runs)} times, counted from 0")
    output = runs[int(run or 0)]
    if output.call is None:
        raise BadInput(f"tap {name!r}: {path} gives no tensor that a torch function made")
    place = (output.call.function, output.call.occurrence, "output")
    if not name.startswith(MEAN_OF):
        return Tap(name, *place, "any", output.shape[1:])
    if len(output.shape) == 4:
        layout = "nhwc" if _is_channels_last(trace, output.call) else "nchw"
        channels = output.shape[3 if layout == "nhwc" else 1]
        return Tap(name, *place, layout, (channels,), pooled=True)
    if len(output.shape) == 3:
        # Tokens that form no grid are all positions.
        prefix = 0
        with suppress(BadInput):
            prefix = _grid(output.shape[1], example)[2]
        return Tap(name, *place, "tokens", output.shape[2:], prefix=prefix, pooled=True)
    raise BadInput(f"tap {name!r}: {path} gives {output.shape}, no map (N, C, H, W) and no tokens")


def _is_channels_last(trace: Trace, call: Call) -> bool:
    """Whether a map (N, ?, ?, ?) has its channels last, by what reads it and by what made it."""
    after = (one for one in trace.calls if one.input is call.result)
    for one in (*after, call, *trace.before(call)):
        if one.function in CHANNELS_LAST | CHANNELS_FIRST:
            return one.function in CHANNELS_LAST
    return False


_NO_LAYERS = (
    "no layers: no blocks follow on each other before a feature map that is pooled (nothing is "
    "pooled, or every way through this network has others beside it); name paths"
)


def layer_taps(module: nn.Module, size: tuple[int, int]) -> tuple[str, ...]:
    """Names of the means of a network's layers, in the order of the pass (see `layer_paths`).

    Args:
        module: a classification network; the size of its input is (height, width).
        size: of an example.

    Raises:
        BadInput: nothing is pooled, or there is no layer before.
    """
    parameter = next(module.parameters(), torch.empty(0))
    example = torch.zeros(1, 3, *size, dtype=parameter.dtype, device=parameter.device)
    last = taps_at(module, size).get("last_conv")
    if last is None:
        raise BadInput(_NO_LAYERS)
    trace = trace_forward(module, example)
    place = (last.function, last.occurrence)
    calls = [(call.function, call.occurrence) for call in trace.calls]
    paths = layer_paths(module, trace, example, calls.index(place))
    if not paths:
        raise BadInput(_NO_LAYERS)
    return tuple(MEAN_OF + path for path in paths)


_LACKING: WeakKeyDictionary[nn.Module, tuple[str, ...]] = WeakKeyDictionary()
"""Parameters of the head for which a network has no weights."""


def withhold_taps(module: nn.Module, lacking: Sequence[str]) -> None:
    """Refuse from here on the taps that need parameters for which there are no weights.

    Args:
        module: with a head of Linears, or of one 1x1 convolution.
        lacking: names of parameters of it.
    """
    _LACKING[module] = tuple(lacking)
    _FOUND.pop(module, None)


def _withheld(module: nn.Module, taps: Sequence[Tap]) -> dict[str, Tap]:
    """The taps by name; those that come after a parameter without weights say so."""
    lacking = _LACKING.get(module, ())
    reason = f"the weights hold no {', '.join(lacking)}, which it is computed with"
    by_name = {}
    without = False
    # In the order of the pass: a vector, then the Linear that it enters, then the next vector.
    for tap in sorted(taps, key=_step_in_head):
        by_name[tap.name] = replace(tap, withheld=reason) if without else tap
        without = without or bool({tap.weight, tap.bias} & set(lacking))
    return {tap.name: by_name[tap.name] for tap in taps}


def _step_in_head(tap: Tap) -> tuple[bool, int]:
    return tap.name == "logits", tap.occurrence if tap.weight else -1


_FOUND: WeakKeyDictionary[nn.Module, dict[tuple[int, int], dict[str, Tap]]] = WeakKeyDictionary()


def taps_at(module: nn.Module, size: tuple[int, int], names: Sequence[str] = ()) -> dict[str, Tap]:
    """`find_taps` for inputs of (height, width), remembered for as long as the module lives."""
    by_size = _FOUND.setdefault(module, {})
    paths = [name for name in names if name not in ("last_conv", "fc", "logits", "gap", "pixels")]
    if size not in by_size or any(path not in by_size[size] for path in paths):
        parameter = next(module.parameters(), torch.empty(0))
        example = torch.zeros(1, 3, *size, dtype=parameter.dtype, device=parameter.device)
        earlier = [path for path in by_size.get(size, {}) if not path.startswith("fc")]
        by_size[size] = find_taps(module, example, [*earlier, *paths])
    return by_size[size]


def remember_taps(module: nn.Module, trace: Trace, example: torch.Tensor) -> None:
    """Keep for `taps_at` what a traced pass of an example shows, so that it makes none of its own.

    Args:
        module: the network; returns its logits alone.
        trace: of a pass of it on the example.
        example: (1, 3, H, W) of zeros.
    """
    height, width = example.shape[-2:]
    # What shows no taps is traced again when they are asked for, and says why there.
    with suppress(BadInput):
        _FOUND.setdefault(module, {})[height, width] = _taps_of(module, trace, example, ())


def forward_taps(
    module: nn.Module, batch: torch.Tensor, names: Sequence[str]
) -> dict[str, torch.Tensor]:
    """Named outputs for a batch, in one forward pass that stops after the last one.

    Args:
        module: a classification network, in eval mode.
        batch: network input (B, 3, H, W) on the module's device.
        names: taps, module paths, `gap` (B, C) or `pixels` (B, 3, h, w).

    Returns:
        name -> tensor (B, *shape); differentiable unless called under ``torch.no_grad``.

    Raises:
        BadInput: a name that the network does not have.
    """
    size = (int(batch.shape[-2]), int(batch.shape[-1]))
    taps = choose_taps(taps_at(module, size, names), names)
    captured = TappedNetwork(module, taps)(batch) if taps else {}
    return computed_taps(batch, captured, names)
