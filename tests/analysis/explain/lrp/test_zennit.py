"""Our rules against zennit's on the same network; skipped where zennit is not installed.

zennit (LGPL) is no dependency: `pip install zennit==0.5.1` to run these.
"""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from alike.analysis.explain.lrp.composite import Composite
from alike.analysis.explain.lrp.relevance import lrp, pixel_limits
from alike.analysis.explain.lrp.rules import RULES, Rule, Share

zennit_rules = pytest.importorskip("zennit.rules")
zennit_composites = pytest.importorskip("zennit.composites")
zennit_types = pytest.importorskip("zennit.types")
zennit_torchvision = pytest.importorskip("zennit.torchvision")

# As zennit has it: positive contributions whatever the sign of the output, nothing for biases.
PLUS = Rule("plus", "x⁺ w⁺ + x⁻ w⁻", (Share(RULES["zplus"].shares[0].terms),))
CANONIZERS = {
    "alexnet": None,
    "vgg11_bn": "VGGCanonizer",
    "squeezenet1_1": None,
    "resnet18": "ResNetCanonizer",
}


def network(name):
    torch.manual_seed(0)
    net = getattr(torchvision.models, name)(weights=None).eval()
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.2, 1.0)
                layer.bias.normal_(0, 0.1)
    return net


def batch(side=64):
    noise = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    low, high = pixel_limits(noise)
    return low + (high - low) * noise


def theirs(name, images, target, convolution, first, tiny):
    kinds = zennit_types
    layers = [
        (kinds.AvgPool, zennit_rules.Norm(stabilizer=tiny)),
        (zennit_torchvision.Sum, zennit_rules.Norm(stabilizer=tiny)),
        (kinds.Activation, zennit_rules.Pass()),
        (kinds.BatchNorm, zennit_rules.Pass()),
        (kinds.Convolution, convolution),
        (nn.Linear, zennit_rules.Epsilon(epsilon=tiny)),
    ]
    canonizer = CANONIZERS[name]
    canonizers = [] if canonizer is None else [getattr(zennit_torchvision, canonizer)()]
    composite = zennit_composites.SpecialFirstLayerMapComposite(
        layer_map=layers, first_map=[(kinds.Convolution, first)], canonizers=canonizers
    )
    net = network(name)
    pixels = images.clone().requires_grad_()
    with composite.context(net) as modified:
        scores = modified(pixels)
        start = torch.zeros_like(scores)
        rows = torch.arange(len(target))
        start[rows, target] = scores[rows, target].detach()
        (relevance,) = torch.autograd.grad(scores, pixels, start)
    return relevance


@pytest.mark.parametrize("name", CANONIZERS)
@pytest.mark.parametrize("rule", ["plus_box", "plus_flat", "gamma", "alpha2beta1", "epsilon"])
def test_our_relevance_is_zennits(name, rule):
    images, target, tiny = batch(), torch.tensor([3, 5]), 1e-9
    low, high = pixel_limits(images)
    first = {
        "plus_box": ("zbox", zennit_rules.ZBox(low, high, stabilizer=tiny, zero_params="bias")),
        "plus_flat": ("flat", zennit_rules.Flat(stabilizer=tiny)),
    }.get(rule, ("epsilon", zennit_rules.Epsilon(epsilon=tiny)))
    ours, convolution = {
        "gamma": ("gamma", zennit_rules.Gamma(gamma=0.25, stabilizer=tiny)),
        "alpha2beta1": (
            "alpha2beta1",
            zennit_rules.AlphaBeta(alpha=2, beta=1, stabilizer=tiny, zero_params="bias"),
        ),
        "epsilon": ("epsilon", zennit_rules.Epsilon(epsilon=tiny)),
    }.get(rule, (PLUS, zennit_rules.ZPlus(stabilizer=tiny, zero_params="bias")))
    expected = theirs(name, images, target, convolution, first[1], tiny)
    exact = [_exact(one) for one in (first[0], ours, "epsilon")]
    found = lrp(network(name), images, target, composite=Composite("z", *exact, "signed", ""))
    off = float((found - expected).abs().sum() / expected.abs().sum())
    assert off < 1e-3


def _exact(rule):
    rule = RULES[rule] if isinstance(rule, str) else rule
    return replace(rule, epsilon=1e-9 if rule.epsilon else 0.0)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks: threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
