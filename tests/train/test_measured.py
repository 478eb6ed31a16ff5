"""Losses train the very vectors that a measure compares."""

import numpy as np
import pytest
import torch

from alike.extract.errors import BadInput
from alike.extract.measures.measures import MEASURES
from alike.extract.networks.network import load_network
from alike.extract.networks.transform import Transform
from alike.train.losses import LOSSES, loss_named
from alike.train.map_losses import StepView
from alike.train.measured import trainable, vectors_of
from alike.train.prepare import prepare
from alike.train.similarity import supcon

CLASSES, CHANNELS, SIDE, BATCH = 4, 6, 3, 12
TAKE_A_MEASURE = [name for name, row in LOSSES.items() if row.of]


def seeded(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(channels=CHANNELS, maps=None):
    maps = seeded(BATCH, channels, SIDE, SIDE) - 0.3 if maps is None else maps
    captured = {
        "logits": 3 * seeded(BATCH, CLASSES, seed=1) - 1,
        "fc": seeded(BATCH, 5, seed=2) - 0.2,
    }
    weights = seeded(CLASSES, channels, seed=3) - 0.5
    labels = torch.arange(BATCH) % CLASSES
    return StepView(maps.requires_grad_(), labels, lambda: maps, captured, lambda: weights)


@pytest.mark.parametrize("channels", [CHANNELS, 130])
@pytest.mark.parametrize("name", trainable())
def test_vectors_are_those_of_the_measure(name, channels):
    view = step(channels)
    measure = MEASURES[name]
    taps = {tap: value.detach().numpy() for tap, value in view.taps(measure.taps).items()}
    wanted = measure.embed(taps, {"classifier/weight": view.classifier().numpy()})
    found = vectors_of(name)(view)
    assert found.shape == wanted.shape
    assert found.detach().numpy() == pytest.approx(wanted, abs=2e-6)


@pytest.mark.quick
def test_what_can_be_trained_are_all_that_have_a_gradient_and_a_bound():
    assert set(MEASURES) - set(trainable()) == {
        "gap_cosine_centred", "gap_euclid", "gap_spearman", "lda_cosine", "whitened_cosine",
        "mahalanobis", "pixel_euclid",
    }  # fmt: skip


@pytest.mark.parametrize("name", trainable())
def test_gradients_are_finite_and_right(name):
    captured = step().captured
    weights = step().classifier()

    def of(maps, logits, fc):
        given = {"logits": logits, "fc": fc}
        view = StepView(maps, torch.arange(BATCH) % CLASSES, lambda: maps, given, lambda: weights)
        return vectors_of(name)(view)[:2, :4]

    # away from ties and from 0, where maxima and roots have corners
    maps = (seeded(BATCH, CHANNELS, SIDE, SIDE) + 0.05).requires_grad_()
    inputs = (maps, captured["logits"].requires_grad_(), captured["fc"].requires_grad_())
    assert torch.autograd.gradcheck(of, inputs, atol=1e-5)


@pytest.mark.parametrize("name", trainable())
def test_dead_maps_give_finite_gradients(name):
    maps = torch.zeros(BATCH, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    maps[: BATCH // 2] = seeded(BATCH // 2, CHANNELS, SIDE, SIDE)
    view = step(maps=maps)
    for tap in view.captured.values():
        tap.requires_grad_()
    loss_named(f"supcon:{name}").make(CLASSES, CHANNELS)(view).backward()
    given = [view.maps.grad, *(tap.grad for tap in view.captured.values())]
    assert any(gradient is not None for gradient in given)
    assert all(torch.isfinite(gradient).all() for gradient in given if gradient is not None)


@pytest.mark.parametrize("name", ["gem_cosine", "softmax_dot"])
def test_supcon_of_a_measure_is_contrast_of_its_own_inner_products(name):
    view = step()
    loss = loss_named(f"supcon:{name}").make(CLASSES, CHANNELS)(view)
    taps = view.taps(MEASURES[name].taps)
    z = MEASURES[name].embed({tap: value.detach().numpy() for tap, value in taps.items()}, {})
    wanted = supcon(torch.from_numpy(z.astype(np.float64) @ z.T), view.labels)
    assert loss.item() == pytest.approx(wanted.item(), abs=1e-5)


def test_supcon_alone_is_that_of_the_default_measure():
    view = step()
    values = [
        loss_named(name).make(CLASSES, CHANNELS)(view).item()
        for name in ("supcon", "gap_supcon", "supcon:gap_cosine")
    ]
    assert values[1:] == pytest.approx(values[:-1], abs=1e-12)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("supcon:none", "measure 'none' is not known"),
        ("supcon:lda_cosine", "is fitted on features that training changes"),
        ("supcon:gap_euclid", "has no bound"),
        ("supcon:gap_spearman", "ranks"),
        ("triplet:pixel_euclid", "does not look at the network"),
        ("icnn:gap_cosine", "icnn takes no measure; those that do are supcon, triplet"),
        ("nothing:gap_cosine", "is not known; choose one of ce"),
    ],
)
def test_what_cannot_be_trained_is_said(name, told):
    with pytest.raises(BadInput, match=told):
        loss_named(name)


def test_what_a_network_lacks_is_said():
    network = load_network("squeezenet1_1", transform=Transform(resize=(64, 64)))
    loss = loss_named("supcon:cam_pred_cosine")
    with pytest.raises(BadInput, match="squeezenet1_1 ends otherwise; choose supcon:gap_cosine"):
        prepare(network, ["a", "b"], (64, 64), loss, 0)


def test_every_loss_that_takes_a_measure_takes_all():
    assert TAKE_A_MEASURE == ["supcon", "triplet"]
    for loss in TAKE_A_MEASURE:
        for name in trainable():
            assert torch.isfinite(loss_named(f"{loss}:{name}").make(CLASSES, CHANNELS)(step()))
