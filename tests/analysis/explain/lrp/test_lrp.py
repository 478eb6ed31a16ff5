"""LRP against closed forms, against conservation, and on every family of networks it claims."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import nn

from alike.analysis.explain.explain import relevance
from alike.analysis.explain.lrp.composite import Composite
from alike.analysis.explain.lrp.relevance import COMPOSITES, lrp, pixel_limits
from alike.analysis.explain.lrp.rules import RULES
from alike.extract.errors import BadInput

ALL_PLUS = Composite(
    "all_plus", "zplus", "zplus", "zplus", "same_sign", "deep Taylor without a box"
)
FAMILIES = [
    *("alexnet", "vgg11_bn", "squeezenet1_1", "resnet18", "densenet121", "googlenet"),
    *("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "convnext_tiny"),
    *("shufflenet_v2_x0_5", "regnet_y_400mf"),
]
EXACT = Composite("exact", *[replace(RULES["epsilon"], epsilon=1e-9)] * 3, "signed", "LRP-0")


def network(name, seed=0):
    """A network with BatchNorm statistics and biases as after training, not zeros and ones."""
    torch.manual_seed(seed)
    extra = {"init_weights": False} if name == "googlenet" else {}
    net = getattr(torchvision.models, name)(weights=None, **extra).eval()
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.2, 1.0)
                layer.bias.normal_(0, 0.1)
    return net


def batch(n=2, side=64, seed=1):
    noise = torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))
    low, high = pixel_limits(noise)
    return low + (high - low) * noise


class Maximum(nn.Module):
    """The network of Montavon et al. 2018, section 7.1: max(x1, x2) for positive inputs."""

    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(2, 3, bias=False)
        self.out = nn.Linear(3, 1, bias=False)
        with torch.no_grad():
            self.hidden.weight.copy_(torch.tensor([[1.0, -1], [-1, 1], [1, 1]]))
            self.out.weight.fill_(0.5)
        self.double()

    def forward(self, x):
        return torch.relu(self.out(torch.relu(self.hidden(x))))


def small_relu_net(bias):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=bias),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, groups=2, bias=bias),
        nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 5, bias=bias),
    ).double()


def zeroth(n=2):
    return torch.zeros(n, dtype=torch.int64)


def test_t4_epsilon_of_a_relu_net_is_gradient_times_input():
    for bias in (False, True):
        net, images = small_relu_net(bias), batch(side=32).double().requires_grad_()
        scores = net(images)[:, 2]
        (gradient,) = torch.autograd.grad(scores.sum(), images)
        found = lrp(net, images, torch.tensor([2, 2]), composite=EXACT)
        expected = gradient * images.detach()
        assert float((found - expected).abs().max()) <= 1e-6 * float(expected.abs().max())
        if not bias:
            torch.testing.assert_close(found.sum((1, 2, 3)), scores.detach(), rtol=1e-6, atol=0)


def test_t5_captums_constants():
    net = nn.Sequential(
        nn.Linear(3, 3, bias=False), nn.ReLU(), nn.Linear(3, 1, bias=False)
    ).requires_grad_(False)
    net[0].weight.fill_(2)
    net[2].weight.fill_(3)
    found = lrp(net, torch.tensor([[1.0, 2, 3]]), zeroth(1), composite=EXACT)
    torch.testing.assert_close(found, torch.tensor([[18.0, 36, 54]]), rtol=1e-4, atol=0)


@pytest.mark.quick
def test_t6_deep_taylor_of_the_maximum():
    points = torch.tensor([[3.0, 1], [2, 2]]).double()
    found = lrp(Maximum(), points, zeroth(), composite=ALL_PLUS)
    torch.testing.assert_close(found, torch.tensor([[2.5, 0.5], [1, 1]]).double())


@pytest.mark.parametrize("name", FAMILIES)
def test_t7_relevance_is_conserved(name):
    net, images, target = network(name), batch(2, side=64 if name == "alexnet" else 48), zeroth()
    with torch.no_grad():
        scores = net(images)[:, 0]
    found = lrp(net, images, target, composite="deep_taylor")
    torch.testing.assert_close(found.sum((1, 2, 3)), scores, rtol=1e-3, atol=1e-12)
    assert bool((found * scores.sign().view(-1, 1, 1, 1) >= 0).all())


@pytest.mark.parametrize("composite", ["plus_box", "plus_flat", "gamma_box"])
def test_what_is_missing_is_the_bias_of_the_last_layer(composite):
    net, images, target = network("resnet18"), batch(side=48), torch.tensor([3, 5])
    with torch.no_grad():
        scores = net(images)[[0, 1], target]
        kept = net.fc.bias[target]
    found = lrp(net, images, target, composite=composite).sum((1, 2, 3))
    # gamma lets positive biases keep a share of each layer.
    limit = 0.3 if composite == "gamma_box" else 1e-4
    torch.testing.assert_close(found, scores - kept, rtol=limit, atol=1e-6)


def test_the_pixels_of_a_googlenet_that_normalises_itself_keep_their_box():
    net, images = network("googlenet"), batch(side=48)
    net.transform_input = True
    with torch.no_grad():
        scores = net(images)[:, 0]
    found = lrp(net, images, zeroth(), composite="deep_taylor")
    torch.testing.assert_close(found.sum((1, 2, 3)), scores, rtol=1e-3, atol=1e-9)
    assert bool((found * scores.sign().view(-1, 1, 1, 1) >= -1e-9).all())


def test_t8_bias_free_relevance_is_positively_homogeneous_and_not_negative():
    net, images = small_relu_net(bias=False), batch(side=32).double().abs()
    once, thrice = (lrp(net, t * images, zeroth(), composite=ALL_PLUS) for t in (1, 3))
    torch.testing.assert_close(thrice, 3 * once)
    sign = net(images)[:, 0].detach().sign().view(-1, 1, 1, 1)
    assert bool((once * sign >= 0).all())


@pytest.mark.parametrize("composite", COMPOSITES)
def test_t9_other_weights_give_another_map(composite):
    images, target = batch(side=48), torch.tensor([3, 3])
    maps = [lrp(network("resnet18", s), images, target, composite=composite) for s in (0, 1)]
    one, other = (found.sum(1).flatten(1) for found in maps)
    one, other = (rows / rows.abs().sum(1, keepdim=True) for rows in (one, other))
    assert bool(((one - other).abs().sum(1) > 0.05).all())


def test_a_batch_gives_what_each_image_gives_alone():
    net, images, target = network("mobilenet_v2"), batch(3, side=48), torch.tensor([1, 2, 3])
    together = lrp(net, images, target)
    for row in range(3):
        alone = lrp(net, images[row : row + 1], target[row : row + 1])[0]
        assert float((together[row] - alone).abs().max()) <= 1e-4 * float(alone.abs().max())


def test_the_forward_pass_is_the_networks_own():
    """In-place calls and folding must not change what is explained: the start is the score."""
    net, images = network("efficientnet_b0"), batch(side=48)
    before = [value.clone() for value in net.state_dict().values()]
    with torch.no_grad():
        scores = net(images)
    found = lrp(net, images, torch.tensor([7, 8]), composite="deep_taylor")
    torch.testing.assert_close(found.sum((1, 2, 3)), scores[[0, 1], [7, 8]], rtol=1e-3, atol=0)
    after = net.state_dict().values()
    assert all(torch.equal(x, y) for x, y in zip(before, after, strict=True))


class Attends(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 4, 3), how

    def forward(self, x):
        return self.how(self.conv(x)).mean((2, 3))


@pytest.mark.parametrize(
    ("how", "named"),
    [
        (lambda a: (a @ a) * a, "mul in Attends: two signals are multiplied"),
        (lambda a: a.softmax(1), "the result of a sigmoid or softmax, which only scale"),
        (lambda a: a + a.sigmoid(), "add in Attends: it mixes a gate"),
        (lambda a: a / a.mean(), "div in Attends"),
        (lambda a: a.cumsum(2), "cumsum in Attends"),
    ],
)
def test_a_function_without_a_rule_is_named(how, named):
    with pytest.raises(BadInput, match=named):
        lrp(Attends(how), batch(), zeroth())


def test_in_place_calls_on_a_value_that_is_used_again():
    class Reuses(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            kept = self.first(x)
            self_made = self.second(nn.functional.relu_(kept))
            self_made += kept
            return self_made.mean((2, 3))

    torch.manual_seed(0)
    net, images = Reuses(), batch()
    with torch.no_grad():
        scores = net(images)[:, 0]
    found = lrp(net, images, zeroth(), composite="deep_taylor")
    torch.testing.assert_close(found.sum((1, 2, 3)), scores, rtol=1e-3, atol=1e-6)


def test_a_network_without_a_rule_says_where():
    net = network("resnet18")
    net.layer2[1].relu.forward = lambda x: x.cumsum(2)
    with pytest.raises(BadInput, match=r"no relevance rule for cumsum in layer2\.1"):
        lrp(net, batch(side=32), zeroth())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("composite", COMPOSITES)
def test_gpu_equals_cpu(composite):
    net, images, target = network("resnet18"), batch(side=48), torch.tensor([3, 5])
    expected = lrp(net, images, target, composite=composite)
    found = lrp(net.cuda(), images.cuda(), target.cuda(), composite=composite).cpu()
    assert float((found - expected).abs().sum() / expected.abs().sum()) < 1e-2


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks: threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", ["image", "channel", "scalar"])
@pytest.mark.parametrize("composite", ["plus_box", "deep_taylor"])
def test_limits_that_only_broadcast_give_what_full_ones_give(shape, composite):
    """A limit of one position must not be taken for an image with padding around it."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    net = nn.Sequential(*layers, nn.Flatten(), nn.Linear(6, 4, bias=False)).eval()
    images, target = batch(side=16), torch.tensor([1, 3])
    short = {
        "image": [torch.full((1, 3, 1, 1), end) for end in (-2.5, 2.5)],
        "channel": [torch.full((3, 1, 1), end) for end in (-2.5, 2.5)],
        "scalar": [torch.tensor(end) for end in (-2.5, 2.5)],
    }[shape]
    full = [limit.expand(images.shape).contiguous() for limit in short]
    images = images.clamp(-2.5, 2.5)
    expected = lrp(net, images, target, composite=composite, limits=tuple(full))
    found = lrp(net, images, target, composite=composite, limits=tuple(short))
    torch.testing.assert_close(found, expected)
    score = net(images).detach()[torch.arange(2), target]
    torch.testing.assert_close(found.sum((1, 2, 3)), score, rtol=1e-3, atol=1e-4)


class Written(nn.Module):
    """One function, written in several ways."""

    def __init__(self, way):
        super().__init__()
        torch.manual_seed(0)
        self.one = nn.Conv2d(3, 4, 3, padding=1)
        self.two = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.out = nn.Linear(4, 2, bias=False)
        self.way = way

    def forward(self, x):
        a = self.one(x).relu()
        b = self.two(a).relu()
        total = {
            "plain": lambda: a + 3 * b - 0.5,
            "alpha": lambda: torch.sub(torch.add(a, b, alpha=3), 1.0, alpha=0.5),
            "in place": lambda: a.clone().add_(b, alpha=3).sub_(0.5),
            "named": lambda: torch.add(input=a, other=b, alpha=3) - 0.5,
        }[self.way]()
        if self.way == "named":
            gate = torch.sigmoid(input=total)
            return self.out(torch.mean(input=torch.mul(input=total, other=gate), dim=(2, 3)))
        return self.out((total * total.sigmoid()).mean((2, 3)))


@pytest.mark.parametrize("method", ["lrp", "deep_taylor", "lrp_gamma", "gradcam_raw"])
@pytest.mark.parametrize("way", ["alpha", "in place", "named"])
def test_how_a_sum_is_written_changes_nothing(way, method):
    inputs = batch(side=12)
    wanted = relevance(Written("plain").eval(), inputs, method)
    torch.testing.assert_close(relevance(Written(way).eval(), inputs, method), wanted)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
@pytest.mark.parametrize("composite", ["deep_taylor", "gamma_box"])
@pytest.mark.parametrize("kernel", [3, 4])
def test_padding_by_name_is_padding_in_numbers(kernel, composite):
    """Where both sides cannot have the same, the one below and to the right has one more."""

    class Pads(nn.Module):
        def __init__(self, named):
            super().__init__()
            torch.manual_seed(0)
            self.named = named
            self.one = nn.Conv2d(3, 4, kernel, padding="same" if named else 0)
            self.two = nn.Conv2d(4, 4, kernel, padding="same" if named else 0, dilation=2)

        def forward(self, x):
            for layer in (self.one, self.two):
                whole = layer.dilation[0] * (kernel - 1)
                sides = [whole // 2, whole - whole // 2] * 2
                x = layer(x if self.named else nn.functional.pad(x, sides)).relu()
            return x.mean((2, 3))

    images, target = batch(side=9), torch.tensor([1, 2])
    named, plain = (Pads(how).eval() for how in (True, False))
    torch.testing.assert_close(named(images), plain(images))
    found = lrp(named, images, target, composite=composite)
    wanted = lrp(plain, images, target, composite=composite)
    if kernel == 4:
        torch.testing.assert_close(found, wanted)
    # A convolution that pads by itself sees no box in its padding, one of padded images does.
    score = named(images).detach()[torch.arange(2), target]
    if composite == "deep_taylor":
        torch.testing.assert_close(found.sum((1, 2, 3)), score, rtol=1e-3, atol=1e-6)
