"""CAM, Grad-CAM, sensitivity and gradient times input against what they must equal."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from alike.analysis.explain.explain import EXPLAINERS, relevance, relevances
from alike.analysis.explain.gradients import DoesNotFit, cam, gradcam_raw, score
from alike.analysis.explain.inputs import (
    class_indices,
    class_name,
    index_or_name,
    ready_module,
)
from alike.extract.errors import BadInput
from alike.extract.networks.taps import _FOUND, taps_at


def network(name, seed=0):
    torch.manual_seed(seed)
    extra = {"init_weights": False} if name == "googlenet" else {}
    return getattr(torchvision.models, name)(weights=None, **extra).eval()


def batch(n=2, side=64, seed=1):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def trained(name):
    """With BatchNorm statistics as after training, not zeros and ones."""
    net = network(name)
    with torch.no_grad():
        for layer in net.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0, 0.1)
                layer.running_var.uniform_(0.2, 1.0)
                layer.bias.normal_(0, 0.1)
    return net


GAP_LINEAR = ("resnet18", "googlenet", "mobilenet_v2", "shufflenet_v2_x0_5")


@pytest.mark.parametrize("name", GAP_LINEAR)
def test_t1_positions_times_gradcam_is_cam(name):
    net, images, target = network(name), batch(), torch.tensor([3, 5])
    expected = cam(net, images, target)
    found = gradcam_raw(net, images, target) * expected[0].numel()
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


@pytest.mark.parametrize("name", GAP_LINEAR)
def test_t2_gradcam_is_complete(name):
    net, images, target = network(name), batch(), torch.tensor([3, 5])
    scores = score(net, images)
    bias = [layer for layer in net.modules() if isinstance(layer, nn.Linear)][-1].bias
    total = gradcam_raw(net, images, target).sum((1, 2)) + bias[target]
    torch.testing.assert_close(total, scores[[0, 1], target], rtol=1e-5, atol=1e-6)


def test_cam_of_a_convolutional_head_is_complete():
    net, images, target = network("squeezenet1_1"), batch(), torch.tensor([3, 5])
    scores = score(net, images)
    total = cam(net, images, target).mean((1, 2))
    torch.testing.assert_close(total, scores[[0, 1], target], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v3_small"])
def test_no_cam_where_none_exists(name):
    with pytest.raises(BadInput, match=r"no CAM for .* use gradcam"):
        cam(network(name), batch(), torch.tensor([0, 0]))


def test_t3_gradcam_is_that_of_pytorch_grad_cam():
    grad_cam = pytest.importorskip("pytorch_grad_cam")
    targets = pytest.importorskip("pytorch_grad_cam.utils.model_targets")
    net, images = network("resnet18"), batch(1, side=224)
    theirs = grad_cam.GradCAM(model=net, target_layers=[net.layer4[-1]])
    expected = theirs(input_tensor=images, targets=[targets.ClassifierOutputTarget(7)])
    ours = relevance(net, images, "gradcam", torch.tensor([7]))
    large = nn.functional.interpolate(ours[None], (224, 224), mode="bilinear")[0]
    large = (large - large.min()) / (large.max() - large.min())
    assert float((large - torch.from_numpy(expected)).abs().max()) < 0.01


def test_t3_constants_of_pytorch_grad_cam():
    """What grad-cam 1.5.7 gives for this network, so that nothing need be installed for it."""
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.ReLU(),
        nn.Conv2d(4, 6, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    ).eval()  # fmt: skip
    with torch.no_grad():
        for number, values in enumerate(net.parameters()):
            values.copy_(torch.sin(torch.arange(values.numel()) * 0.7 + number).view_as(values))
    images = torch.sin(torch.arange(3 * 12 * 12) * 0.13).view(1, 3, 12, 12)
    ours = relevance(net, images, "gradcam", torch.tensor([2]))
    large = nn.functional.interpolate(ours[None], (12, 12), mode="bilinear")[0, 0]
    large = (large - large.min()) / (large.max() - large.min())
    expected = [0.9026, 0.6936, 0.2423, 0.3246, 0.9842, 0.9519, 0.2922, 0.273, 0.7212, 0.6021]
    torch.testing.assert_close(
        large.diagonal(), torch.tensor([*expected, 0.1539, 0.0]), atol=2e-3, rtol=0
    )


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("resnet18", "layer4"),
        ("mobilenet_v2", "features"),
        ("squeezenet1_1", "classifier.0"),
        ("alexnet", "features"),
        ("densenet121", None),  # its last ReLU is no module
    ],
)
def test_the_map_is_the_same_reached_by_a_hook_or_by_watching_every_call(name, place):
    net, images, target = network(name), batch(), torch.tensor([3, 5])
    tap = taps_at(net, (64, 64))["last_conv"]
    if place is None:
        assert tap.module == ""
    else:
        assert tap.module.startswith(place)
    found = gradcam_raw(net, images, target)
    _FOUND[net][64, 64]["last_conv"] = replace(tap, module="")
    torch.testing.assert_close(gradcam_raw(net, images, target), found)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "densenet121", "convnext_tiny"])
def test_a_network_made_ready_gives_the_same_explanations(name):
    net, images, target = trained(name), batch(2, 64), torch.tensor([3, 5])
    ready = ready_module(net, (64, 64))
    assert ready is not net
    methods = ["gradcam_raw", "sa", "grad_x_input", "deep_taylor", "lrp_gamma"]
    expected, found = (relevances(module, images, methods, target) for module in (net, ready))
    for method in methods:
        off = (found[method] - expected[method]).abs().sum() / expected[method].abs().sum()
        assert float(off) < 1e-3, method


def test_a_network_made_ready_follows_its_weights():
    net, images = network("resnet18"), batch()
    first = ready_module(net, (64, 64))
    assert ready_module(net, (64, 64)) is first
    with torch.no_grad():
        net.fc.bias[7] += 100
    changed = ready_module(net, (64, 64))
    assert changed is not first
    torch.testing.assert_close(score(changed, images), score(net, images))
    assert net.fc.bias.requires_grad


def test_methods_of_the_same_evidence_share_its_passes():
    net, images = network("mobilenet_v2"), batch()
    passes = 0

    def count(*_):
        nonlocal passes
        passes += 1

    net.register_forward_hook(count)
    names = ["gradcam", "gradcam_raw", "sa", "grad_x_input"]
    together = relevances(net, images, names, torch.tensor([3, 5]))
    assert passes == 2 + 1  # one of the three finds the taps
    for name in names:
        assert torch.equal(together[name], relevance(net, images, name, torch.tensor([3, 5])))


def test_sensitivity_is_the_square_of_captums_saliency():
    captum = pytest.importorskip("captum.attr")
    net, images, target = network("resnet18"), batch(), torch.tensor([3, 5])
    expected = captum.Saliency(net).attribute(images.clone().requires_grad_(), target=target) ** 2
    torch.testing.assert_close(EXPLAINERS["sa"].maps(net, images, target), expected)


def test_gradient_times_input_is_captums():
    captum = pytest.importorskip("captum.attr")
    net, images, target = network("resnet18"), batch(), torch.tensor([3, 5])
    inputs = images.clone().requires_grad_()
    expected = captum.InputXGradient(net).attribute(inputs, target=target)
    torch.testing.assert_close(EXPLAINERS["grad_x_input"].maps(net, images, target), expected)


@pytest.mark.parametrize("method", EXPLAINERS)
def test_a_batch_gives_what_each_image_gives_alone(method):
    net, images = network("mobilenet_v2"), batch(4)
    together = relevance(net, images, method)
    for row in range(4):
        alone = relevance(net, images[row : row + 1], method)[0]
        limit = 1e-4 * float(alone.abs().max())
        assert float((together[row] - alone).abs().max()) <= limit


@pytest.mark.parametrize("method", EXPLAINERS)
def test_t9_other_weights_change_the_map(method):
    images, target = batch(), torch.tensor([3, 3])
    found = [relevance(network("mobilenet_v2", seed), images, method, target) for seed in (0, 1)]
    unit = [(maps / maps.abs().sum((1, 2), keepdim=True)).flatten(1).numpy() for maps in found]
    for one, other in zip(*unit, strict=True):
        assert np.corrcoef(one, other)[0, 1] < 0.9


def test_the_networks_modes_and_gradients_stay_as_they_were():
    net = network("resnet18").train()
    net.layer1.eval()
    for method in EXPLAINERS:
        relevance(net, batch(), method)
    assert net.training
    assert not net.layer1.training
    assert all(parameter.grad is None for parameter in net.parameters())
    assert torch.is_grad_enabled()


def test_an_unknown_explainer_is_named_with_those_that_exist():
    with pytest.raises(BadInput, match="no explainer 'shap': choose from cam"):
        relevance(network("alexnet"), batch(), "shap")


@pytest.mark.parametrize("target", [3, -1, 2**70, "3", str(2**70), "²", [0, 2**70], [0], "dog"])
def test_an_impossible_class_is_refused(target):
    few = SimpleNamespace(name="n", class_names=("cat", "cow", "emu"))
    with pytest.raises(BadInput, match=r"has classes 0 to 2|give an index or a class name"):
        class_indices(few, target, torch.zeros(2, 3))


@pytest.mark.parametrize("target", [1, "1", "cow", [1, 1], np.int64(1), torch.tensor([1, 1])])
def test_a_class_by_number_or_name(target):
    few = SimpleNamespace(name="n", class_names=("cat", "cow", "emu"))
    assert class_indices(few, target, torch.zeros(2, 3)).tolist() == [1, 1]


def test_a_name_of_two_classes_names_neither():
    twins = SimpleNamespace(class_names=("crane", "tench", "crane"), name="birds")
    with pytest.raises(BadInput, match="'crane' is the name of classes 0, 2: give one by its"):
        class_indices(twins, "crane", torch.zeros(1, 3))
    assert class_indices(twins, "2", torch.zeros(1, 3)).tolist() == [2]


def test_the_name_of_a_class_goes_before_the_index_of_another():
    few = SimpleNamespace(name="n", class_names=("5", "7", "0"))
    assert class_indices(few, "0", torch.zeros(1, 3)).tolist() == [2]
    assert index_or_name(few, "0") == (
        "0 is the name of a class, which is explained; index 0 is class 5"
    )
    assert [index_or_name(few, target) for target in ("7", "1", 0, None)] == [""] * 4
    unnamed = SimpleNamespace(name="n", class_names=None)
    assert class_indices(unnamed, "class 2", torch.zeros(1, 3)).tolist() == [2]
    assert class_name(unnamed, 2) == "class 2"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks: threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Head(nn.Module):
    """Two convolutions, the mean over positions, and one linear layer to three classes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU())
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        return self.fc(self.body(x).mean((2, 3)))


class Cosine(Head):
    def forward(self, x):
        vector = nn.functional.normalize(self.body(x).mean((2, 3)))
        return 16 * nn.functional.linear(vector, nn.functional.normalize(self.fc.weight))


class ClassMaps(Head):
    """A 1x1 convolution to the classes, pooled by `mean`; another map is pooled before it."""

    def __init__(self):
        super().__init__()
        self.classes = nn.Conv2d(8, 3, 1)

    def forward(self, x):
        maps = self.body(x)
        gate = maps.mean((2, 3), keepdim=True).sigmoid()
        return self.classes(maps * gate).mean((2, 3))


def normed(change):
    net = Head()
    change(net.fc)
    return net


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


HEADS = {
    "weight_norm": lambda: normed(nn.utils.parametrizations.weight_norm),
    "parametrised": lambda: normed(
        lambda fc: nn.utils.parametrize.register_parametrization(fc, "weight", Doubled())
    ),
}


@pytest.mark.parametrize("name", HEADS)
def test_cam_uses_the_weight_of_the_call(name):
    """A weight that is computed, not stored, has a map all the same: it sums to the score."""
    net, images, target = HEADS[name]().eval(), batch(side=12), torch.tensor([2, 0])
    found = cam(net, images, target)
    weight = net.fc.weight.detach()
    maps = net.body(images).detach()
    expected = (weight[target][:, :, None, None] * maps).sum(1)
    assert torch.allclose(found, expected, atol=1e-6)
    scores = score(net, images).detach()[torch.arange(2), target]
    total = found.mean((1, 2)) + net.fc.bias.detach()[target]
    assert torch.allclose(total, scores, atol=1e-6)


class Flattened(Head):
    """The same head, its mean written as that of flattened positions."""

    def forward(self, x):
        return self.fc(self.body(x).flatten(2).mean(-1))


@pytest.mark.parametrize("method", ["cam", "gradcam_raw"])
def test_a_map_that_is_flattened_before_it_is_pooled_is_explained_alike(method):
    images, target = batch(side=12), torch.tensor([2, 0])
    found = relevance(Flattened().eval(), images, method, target)
    torch.testing.assert_close(found, relevance(Head().eval(), images, method, target))


def test_cam_of_a_map_that_is_pooled_in_another_type():
    class Double(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.out = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.conv(x).double().mean((2, 3)).float())

    module, images = Double().eval(), batch()
    total = relevance(module, images, "cam", torch.tensor([0, 1])).mean((1, 2)) + module.out.bias
    torch.testing.assert_close(total, module(images)[[0, 1], [0, 1]])


def test_cam_of_class_maps_pooled_by_mean():
    net, images, target = ClassMaps().eval(), batch(side=12), torch.tensor([1, 2])
    found = cam(net, images, target)
    scores = score(net, images).detach()[torch.arange(2), target]
    assert torch.allclose(found.mean((1, 2)), scores, atol=1e-6)


def test_cam_of_a_cosine_head_does_not_apply_and_gradcam_does():
    net, images = Cosine().eval(), batch(side=12)
    with pytest.raises(DoesNotFit, match=r"no CAM for Cosine.*use gradcam"):
        relevance(net, images, "cam")
    assert relevance(net, images, "gradcam").shape == (2, 8, 8)


@pytest.mark.quick
def test_an_output_with_positions_is_no_score_of_classes():
    net, images = nn.Conv2d(3, 4, 3).eval(), batch(side=6)
    with pytest.raises(DoesNotFit, match="gives 4 x 4 x 4 numbers for an image, expected one a"):
        relevance(net, images, "sa")
    assert taps_at(net, (6, 6))["logits"].note.startswith("the output is 4 x 4 x 4: its numbers")
    assert relevance(nn.Conv2d(3, 4, 6).eval(), images, "sa").shape == (2, 6, 6)


@pytest.mark.quick
def test_cam_of_a_network_that_pools_nothing_does_not_apply():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(200, 3)).eval()
    with pytest.raises(DoesNotFit, match="no CAM"):
        relevance(net, batch(side=12), "cam")


@pytest.mark.parametrize("method", ["cam", "deep_taylor", "lrp_gamma"])
def test_what_is_conserved_is_the_sum_over_the_score(method):
    from alike.analysis.explain.explain import Explanation

    relevance = np.array([[1.0, 2.0], [3.0, -2.0]], dtype=np.float32)
    image = np.zeros((2, 2, 3), dtype=np.uint8)
    found = Explanation(method, 0, "0", 8.0, 0.5, relevance, image)
    assert found.conserved == pytest.approx((1.0 if method == "cam" else 4.0) / 8.0)
    assert np.isnan(Explanation(method, 0, "0", 0.0, 0.5, relevance, image).conserved)
