"""LRP through attention: which networks of timm it passes, and whether it finds what is planted.

    python -m benchmarks.transformers families        (needs timm)
    python -m benchmarks.transformers planted [--steps 1500]

`families` takes the smallest network of every module of timm with at most 100 million parameters,
random weights and one image of noise, and prints the sum of `deep_taylor` over the score: 1 where
nothing is lost. What LRP has no rule for is named; larger ones are left out and counted.

`planted` trains a small vision transformer to tell four patterns of 8 x 8 pixels apart that lie
anywhere in 32 x 32 pixels of noise, and prints for each explainer how often its highest pixel is
one of the pattern (by chance .06), and the mean area under the ROC curve of its map against the
pattern (by chance .5).
"""

import argparse
import warnings
from collections import defaultdict

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional as nnf
from torchvision.models.vision_transformer import VisionTransformer

from alike.analysis.explain import EXPLAINERS, DoesNotFit, relevance
from alike.analysis.explain.lrp import lrp

LARGEST, HELD_OUT = 100_000_000, 300
SIDE, PATTERN, CLASSES = 32, 8, 4


def families() -> None:
    """The smallest network of every module of timm."""
    import timm
    from timm.models._registry import _model_to_module

    warnings.simplefilter("ignore")
    members: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models():
        members[_model_to_module[name]].append(name)
    passed, said, left_out = 0, 0, 0
    for names in map(members.get, sorted(members)):
        name = min(names or (), key=size)
        if size(name) > LARGEST:
            left_out += 1
            continue
        torch.manual_seed(0)
        module = timm.create_model(name, num_classes=10).eval()
        # A head of zeros, as some have, shares nothing.
        for path, value in module.named_parameters():
            if value.ndim > 1 and ("head" in path or "classifier" in path):
                nn.init.normal_(value, 0, 0.05)
        side = (module.pretrained_cfg or {}).get("input_size", (3, 224, 224))[1]
        image = torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
        try:
            with torch.no_grad():
                score = module(image)[0, 0]
            shared = lrp(module, image, torch.tensor([0]), composite="deep_taylor").sum()
        except DoesNotFit as error:
            said += 1
            print(f"{name}: {str(error).partition(';')[0]}", flush=True)
            continue
        passed += 1
        print(f"{name}: {float(shared / score):.4f}", flush=True)
    print(
        f"{passed} are passed, {said} are not, {left_out} were left out (timm {timm.__version__})"
    )


def size(name: str) -> int:
    """The parameters of a network of timm, without memory for them."""
    import timm

    try:
        with torch.device("meta"):
            return sum(value.numel() for value in timm.create_model(name).parameters())
    except (RuntimeError, NotImplementedError, ValueError, TypeError):
        return LARGEST + 1


def images(count: int, draw: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Noise (N, 3, 32, 32) with a pattern in it, its class (N,), and its place (N, 32, 32)."""
    patterns = torch.randn(CLASSES, 3, PATTERN, PATTERN, generator=torch.Generator().manual_seed(1))
    pixels = 0.7 * torch.randn(count, 3, SIDE, SIDE, generator=draw)
    targets = torch.randint(CLASSES, (count,), generator=draw)
    corners = torch.randint(SIDE - PATTERN + 1, (count, 2), generator=draw)
    where = torch.zeros(count, SIDE, SIDE, dtype=torch.bool)
    for number, (top, left) in enumerate(corners.tolist()):
        box = (slice(top, top + PATTERN), slice(left, left + PATTERN))
        pixels[number][:, *box] += 0.9 * patterns[targets[number]].sign()
        where[number][box] = True
    return pixels, targets, where


def planted(steps: int) -> None:
    """Train, explain, print."""
    torch.manual_seed(0)
    net = VisionTransformer(SIDE, 4, 3, 4, 48, 96, num_classes=CLASSES)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, steps)
    draw = torch.Generator().manual_seed(2)
    for _ in range(steps):
        pixels, targets, _ = images(64, draw)
        optimizer.zero_grad()
        nnf.cross_entropy(net(pixels), targets).backward()
        optimizer.step()
        schedule.step()
    net.eval().requires_grad_(False)
    pixels, targets, where = images(HELD_OUT, torch.Generator().manual_seed(3))
    print(f"accuracy on new images: {float((net(pixels).argmax(1) == targets).float().mean()):.2f}")
    for name in EXPLAINERS:
        try:
            maps = torch.cat([
                relevance(net, pixels[at : at + 50], name, targets[at : at + 50])
                for at in range(0, HELD_OUT, 50)
            ])  # fmt: skip
        except DoesNotFit as error:
            print(f"{name}: {error}")
            continue
        if maps.shape[-1] != SIDE:
            maps = nnf.interpolate(maps[:, None], (SIDE, SIDE), mode="bilinear")[:, 0]
        highest = maps.flatten(1).argmax(1)
        hits = where.flatten(1).gather(1, highest[:, None]).float().mean()
        areas = [
            roc_auc_score(mask.flatten(), one.flatten())
            for mask, one in zip(where, maps, strict=True)
        ]
        print(f"{name}: highest pixel {float(hits):.2f}, area {sum(areas) / len(areas):.2f}")


def main() -> None:
    """Run one of the two."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else "")
    parser.add_argument("what", choices=["families", "planted"])
    parser.add_argument("--steps", type=int, default=1500)
    options = parser.parse_args()
    if options.what == "families":
        families()
    else:
        planted(options.steps)


if __name__ == "__main__":
    main()
