"""CAM, Grad-CAM, sensitivity and gradient times input against what they must equal."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from analysis.explain import EXPLAINERS, relevance
from analysis.explain_methods import cam, gradcam_raw, gradient_times_input, score, sensitivity
from extract.errors import BadInput


def network(name, seed=0):
    torch.manual_seed(seed)
    extra = {"init_weights": False} if name == "googlenet" else {}
    return getattr(torchvision.models, name)(weights=None, **extra).eval()


def batch(n=2, side=64, seed=1):
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


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


def test_sensitivity_is_the_square_of_captums_saliency():
    captum = pytest.importorskip("captum.attr")
    net, images, target = network("resnet18"), batch(), torch.tensor([3, 5])
    expected = captum.Saliency(net).attribute(images.clone().requires_grad_(), target=target) ** 2
    torch.testing.assert_close(sensitivity(net, images, target), expected)


def test_gradient_times_input_is_captums():
    captum = pytest.importorskip("captum.attr")
    net, images, target = network("resnet18"), batch(), torch.tensor([3, 5])
    inputs = images.clone().requires_grad_()
    expected = captum.InputXGradient(net).attribute(inputs, target=target)
    torch.testing.assert_close(gradient_times_input(net, images, target), expected)


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


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small networks: threads that wait for each other cost more than they bring."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
