import pytest
import torch
from torch import nn
from torchvision import models

from alike.extract.errors import BadInput
from alike.train.head import find_head, fix_to_simplex, resize_head, simplex


@pytest.mark.parametrize(
    ("build", "path", "classes"),
    [
        (models.mnasnet0_5, "classifier.1", 10),
        (models.mobilenet_v3_small, "classifier.3", 7),
        (models.squeezenet1_1, "classifier.1", 6),
        (models.shufflenet_v2_x0_5, "fc", 5),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_head_is_found_and_replaced(build, path, classes):
    net = build(num_classes=classes).eval()
    example = torch.zeros(1, 3, 64, 64)
    head = find_head(net, example)
    assert (head.path, head.classes) == (path, classes)
    resize_head(net, path, 3, seed=1)
    with torch.no_grad():
        assert net(example).shape == (1, 3)
    again = build(num_classes=3).eval()
    again.load_state_dict(net.state_dict())
    resize_head(again, path, 3, seed=1)
    torch.testing.assert_close(
        again.get_submodule(path).weight, net.get_submodule(path).weight, rtol=0, atol=0
    )


def test_replacing_a_head_leaves_the_global_generator_alone():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    resize_head(net, "1", 3)
    assert torch.rand(1) == expected


@pytest.mark.parametrize("net", [nn.Conv2d(3, 2, 1), nn.Sequential(nn.Flatten(), nn.Softmax(1))])
def test_networks_without_a_classifier_are_refused(net):
    with pytest.raises(BadInput, match=r"classifier|head"):
        find_head(net, torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize(("classes", "width"), [(2, 1), (4, 3), (10, 64), (10, 9)])
def test_simplex_has_unit_rows_at_equal_angles(classes, width):
    rows = simplex(classes, width).double()
    expected = torch.full((classes, classes), -1.0 / (classes - 1), dtype=torch.float64)
    expected.fill_diagonal_(1.0)
    torch.testing.assert_close(rows @ rows.T, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("classes", "width"), [(2, 64), (10, 64), (100, 512), (7, 1280)])
def test_a_feature_without_negative_numbers_can_be_of_each_class(classes, width):
    rows = simplex(classes, width)
    logits = rows.clamp_min(0) @ rows.T
    assert logits.argmax(1).tolist() == list(range(classes))
    other = logits.clone().fill_diagonal_(-torch.inf).max(1).values
    assert (logits.diagonal() - other).min() > 0.2


@pytest.mark.quick
def test_simplex_that_does_not_fit_is_refused():
    with pytest.raises(BadInput, match="at least 9 values for 10 classes"):
        simplex(10, 8)


def test_fixed_head_does_not_learn():
    net = nn.Sequential(nn.Flatten(), nn.Linear(12, 4))
    fix_to_simplex(net, "1")
    assert not any(parameter.requires_grad for parameter in net[1].parameters())
    assert net[1].bias.abs().sum() == 0
