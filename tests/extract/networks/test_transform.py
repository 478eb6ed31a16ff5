import numpy as np
import pytest
import torch
from images import picture
from torchvision.models import get_model_weights

from alike.extract.errors import BadImage, BadInput
from alike.extract.networks.transform import INTERPOLATIONS, Transform


def pixels(seed: int, size: tuple[int, int]) -> torch.Tensor:
    return torch.from_numpy(np.array(picture(seed, size))).permute(2, 0, 1)


@pytest.mark.parametrize("network", ["resnet50", "vit_b_16", "swin_t", "inception_v3"])
def test_agrees_with_torchvisions_own_preset(network: str) -> None:
    preset = next(iter(get_model_weights(network))).transforms()
    image = pixels(1, (400, 300))
    ours = Transform(
        preset.resize_size[0],
        preset.crop_size[0],
        interpolation=preset.interpolation.value,
        antialias=preset.antialias,
    )
    # The preset resizes float images too; one grey level is 1 / 255 / 0.22.
    torch.testing.assert_close(ours(image), preset(image), atol=0.018, rtol=0)


def test_normalise_is_the_formula_and_leaves_its_input() -> None:
    image = pixels(2, (5, 4))
    before = image.clone()
    transform = Transform(mean=(0.1, 0.2, 0.3), std=(0.5, 1.0, 2.0))
    expected = (image.double() / 255 - torch.tensor([0.1, 0.2, 0.3]).view(3, 1, 1)) / torch.tensor(
        [0.5, 1.0, 2.0]
    ).view(3, 1, 1)
    torch.testing.assert_close(transform(image).double(), expected, atol=1e-6, rtol=0)
    assert torch.equal(image, before)


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
def test_goes_to_a_dict_and_back(interpolation: str) -> None:
    transform = Transform((7, 9), None, (0.5, 0.5, 0.5), (1, 2, 3), interpolation, antialias=False)
    assert Transform.from_dict(transform.to_dict()) == transform
    assert transform.size == (7, 9)
    assert transform.frame(pixels(3, (30, 20))).shape == (3, 7, 9)


@pytest.mark.quick
def test_size_is_known_where_it_is_fixed() -> None:
    assert Transform(256, 224).size == (224, 224)
    assert Transform(256).size is None
    assert Transform().size is None


@pytest.mark.parametrize(
    "bad",
    [
        {"std": (1, 1, 0)},
        {"mean": (1, 2)},
        {"resize": 0},
        {"resize": (32, 20), "crop": 24},
        {"interpolation": "cubic"},
        {"side": 3},
    ],
)
def test_bad_settings_cannot_exist(bad: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        Transform.from_dict(bad)


def test_thin_image_that_would_grow_without_bounds_is_a_bad_image() -> None:
    with pytest.raises(BadImage, match="1x20000 pixels are 256x5120000 when resized"):
        Transform(256, 224).frame(torch.zeros(3, 20000, 1, dtype=torch.uint8))
    with pytest.raises(BadImage, match="20000x1 pixels are 5120000x256 when resized"):
        Transform(256, 224).check_size(1, 20000)
