"""Milliseconds an image of every explainer, beside captum, zennit and grad-cam in the same run.

    python -m benchmarks.explain [--rounds 5] [--batch 8] [--networks resnet18,vgg11_bn]

Needs captum, zennit and grad-cam. Rounds are interleaved, so that a busy machine troubles all
alike; the median is shown. Batches: the same images one by one and in one batch, for ours and,
where the other library takes batches, for it too. "Ours" is what `explain` runs: the network made
ready (`ready_module`), which is done before the clock starts. `--clock cpu` counts processor time
of all threads instead of wall time, for a machine that others use meanwhile.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator

import torch
import torchvision
from captum.attr import LRP, InputXGradient, LayerGradCam, Saliency
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from zennit.composites import EpsilonPlusFlat
from zennit.torchvision import ResNetCanonizer, VGGCanonizer

from alike.analysis.explain import ready_module, relevance
from alike.analysis.explain.lrp import lrp

Run = Callable[[Tensor, Tensor], object]
LAST = {"resnet18": "layer4", "vgg11_bn": "features", "mobilenet_v2": "features"}
CANONIZERS = {"resnet18": ResNetCanonizer, "vgg11_bn": VGGCanonizer}


def zennit_run(net: nn.Module, name: str) -> Run:
    """EpsilonPlusFlat with the network's canonizer, as its documentation has it."""

    def run(images: Tensor, target: Tensor) -> Tensor:
        composite = EpsilonPlusFlat(canonizers=[CANONIZERS[name]()])
        pixels = images.clone().requires_grad_()
        with composite.context(net) as modified:
            scores = modified(pixels)
            start = torch.zeros_like(scores)
            rows = torch.arange(len(target))
            start[rows, target] = scores[rows, target].detach()
            return torch.autograd.grad(scores, pixels, start)[0]

    return run


def ours(net: nn.Module, method: str) -> Run:
    """One of our explainers, on the network as `explain` prepares it."""

    def run(images: Tensor, target: Tensor) -> Tensor:
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return relevance(ready_module(net, size), images, method, target)

    return run


def ours_lrp(net: nn.Module, composite: str) -> Run:
    """One of our composites, on the network as `explain` prepares it."""

    def run(images: Tensor, target: Tensor) -> Tensor:
        size = (int(images.shape[-2]), int(images.shape[-1]))
        return lrp(ready_module(net, size), images, target, composite=composite)

    return run


def contenders(name: str, net: nn.Module) -> Iterator[tuple[str, str, Run]]:
    """(task, library, run) for one network."""
    last, hooked = net.get_submodule(LAST[name]), copy.deepcopy(net)
    cam = GradCAM(model=hooked, target_layers=[hooked.get_submodule(LAST[name])])
    yield "gradcam", "ours", ours(net, "gradcam")
    yield "gradcam", "captum", lambda x, t: LayerGradCam(net, last).attribute(x, target=t)
    yield (
        "gradcam",
        "grad-cam",
        lambda x, t: cam(input_tensor=x, targets=[ClassifierOutputTarget(int(c)) for c in t]),
    )
    yield "sa", "ours", ours(net, "sa")
    yield "sa", "captum", lambda x, t: Saliency(net).attribute(x.requires_grad_(), target=t)
    yield "grad_x_input", "ours", ours(net, "grad_x_input")
    yield (
        "grad_x_input",
        "captum",
        lambda x, t: InputXGradient(net).attribute(x.requires_grad_(), target=t),
    )
    if name in CANONIZERS:
        yield "lrp plus_flat", "ours", ours_lrp(net, "plus_flat")
        yield "lrp plus_flat", "zennit", zennit_run(net, name)
    yield "lrp epsilon", "ours", ours_lrp(net, "epsilon")
    if name == "vgg11_bn":  # captum's LRP is wrong on residual sums
        plain = torchvision.models.vgg11_bn(weights=None).eval()
        for layer in plain.modules():
            if isinstance(layer, nn.ReLU):
                layer.inplace = False
        yield (
            "lrp epsilon",
            "captum",
            lambda x, t: LRP(plain).attribute(x.requires_grad_(), target=t),
        )


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def measure(
    run: Run, images: Tensor, target: Tensor, clock: Callable[[], float]
) -> tuple[float, ...]:
    """Milliseconds an image, one by one and in one batch."""
    start = clock()
    for row in range(len(images)):
        run(images[row : row + 1].clone(), target[row : row + 1])
    between = clock()
    run(images.clone(), target)
    ended = clock()
    return tuple(1000 * span / len(images) for span in (between - start, ended - between))


def main() -> None:
    """Measure and print a table and one JSON line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--networks", default="resnet18,vgg11_bn,mobilenet_v2")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall")
    parser.add_argument("--side", type=int, default=224)
    options = parser.parse_args()
    rows = []
    for name in options.networks.split(","):
        torch.manual_seed(0)
        net = getattr(torchvision.models, name)(weights=None).eval()
        for layer in net.modules():  # captum and zennit hooks refuse in-place activations
            if isinstance(layer, nn.ReLU | nn.ReLU6):
                layer.inplace = False
        images = torch.randn(options.batch, 3, options.side, options.side)
        target = torch.arange(options.batch)
        runs = list(contenders(name, net))
        for _, _, run in runs:
            run(images[:1].clone(), target[:1])
        times: list[list[tuple[float, ...]]] = [[] for _ in runs]
        for _ in range(options.rounds):
            for place, (_, _, run) in enumerate(runs):
                times[place].append(measure(run, images, target, CLOCKS[options.clock]))
        for (task, library, _), found in zip(runs, times, strict=True):
            one, many = (statistics.median(kind) for kind in zip(*found, strict=True))
            rows.append(
                {"network": name, "task": task, "library": library, "one": one, "many": many}
            )
    print(f"{'network':<14}{'task':<16}{'library':<10}{'one by one':>12}{'batch':>10}  ms an image")
    for row in rows:
        line = f"{row['network']:<14}{row['task']:<16}{row['library']:<10}"
        print(f"{line}{row['one']:>12.1f}{row['many']:>10.1f}")
    print(json.dumps({"settings": vars(options), "threads": torch.get_num_threads(), "rows": rows}))


if __name__ == "__main__":
    main()
