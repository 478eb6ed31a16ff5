"""Acceptance tests L1 to L5 of the losses, against PML and naive computations."""

import doctest
import math

import pytest
import torch
from pytorch_metric_learning.losses import SupConLoss
from torch.nn import functional

from alike.extract.errors import BadInput
from alike.extract.measures.gradients import unit
from alike.train import losses
from alike.train.icnn import exact_information_loss, icnn_loss, templates
from alike.train.losses import LOSSES, loss_named
from alike.train.map_losses import (
    StepView,
    cam_chamfer,
    cam_supcon,
    cam_supcon_background,
    map_pair,
    map_pair_raw,
)
from alike.train.masks import cam_mask, grad_cam_mask
from alike.train.similarity import supcon
from alike.train.vector_losses import (
    CentreLoss,
    SimilarClasses,
    gap_supcon,
    triplet_batch_hard,
    triplet_semi_hard,
)

CLASSES, CHANNELS, SIDE, BATCH = 4, 6, 3, 12
WITH_TERM = [name for name, row in LOSSES.items() if row.make]


def seeded(*shape, seed=0, dtype=torch.float64):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def view(maps=None, labels=None, mask=None):
    maps = seeded(BATCH, CHANNELS, SIDE, SIDE) if maps is None else maps
    labels = torch.arange(len(maps)) % CLASSES if labels is None else labels
    weights = seeded(CLASSES, maps.shape[1], seed=9, dtype=maps.dtype) - 0.5
    return StepView(maps, labels, mask or (lambda: cam_mask(maps, weights, labels)))


def uniform(batch=BATCH, side=SIDE):
    return torch.full((batch, side, side), 1.0 / side**2, dtype=torch.float64)


def term(name):
    return LOSSES[name].make(CLASSES, CHANNELS)


def test_l1_supcon_is_that_of_pml():
    features = seeded(BATCH, 8, seed=1) - 0.3
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 0])
    ours = supcon(unit(features) @ unit(features).T, labels)
    torch.testing.assert_close(ours, SupConLoss(temperature=0.1)(features, labels))


def test_l1_supcon_naive():
    similarity = seeded(5, 5)
    labels = torch.tensor([0, 1, 0, 1, 2])
    total = 0.0
    for one in range(4):
        others = [i for i in range(5) if i != one]
        positives = [i for i in others if labels[i] == labels[one]]
        bottom = sum(math.exp(similarity[one, i] / 0.1) for i in others)
        for p in positives:
            share = math.exp(similarity[one, p] / 0.1) / bottom
            total -= math.log(share) / len(positives)
    assert supcon(similarity, labels).item() == pytest.approx(total / 4)


@pytest.mark.parametrize("name", WITH_TERM)
def test_l1_order_of_the_batch_does_not_matter(name):
    maps = seeded(BATCH, CHANNELS, SIDE, SIDE)
    labels = torch.arange(BATCH) % CLASSES
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(
        term(name)(view(maps, labels)), term(name)(view(maps[order], labels[order]))
    )


@pytest.mark.parametrize("loss", [cam_supcon, cam_supcon_background, cam_chamfer])
def test_l1_no_gradient_flows_through_the_mask(loss):
    maps = seeded(BATCH, CHANNELS, SIDE, SIDE).requires_grad_()
    fixed = view(maps.detach()).mask()
    (through,) = torch.autograd.grad(loss(view(maps)), maps)
    (constant,) = torch.autograd.grad(loss(view(maps, mask=lambda: fixed)), maps)
    torch.testing.assert_close(through, constant)
    assert not view(maps).mask().requires_grad


@pytest.mark.parametrize("name", [n for n in WITH_TERM if LOSSES[n].collapsed])
def test_l2_collapsed_batch_gives_the_signature(name):
    maps = torch.ones(BATCH, CHANNELS, SIDE, SIDE, dtype=torch.float64)
    value = term(name)(view(maps, mask=uniform)).item()
    assert value == pytest.approx(LOSSES[name].collapsed(BATCH), abs=1e-6)


def test_l2_signatures_by_number():
    assert LOSSES["gap_supcon"].collapsed(24) == pytest.approx(3.1355, abs=1e-4)
    assert LOSSES["triplet_hard"].collapsed(24) == pytest.approx(math.log(2))
    equal = view(torch.ones(BATCH, CHANNELS, 1, 1, dtype=torch.float64))
    assert triplet_batch_hard(equal, margin=0.3).item() == pytest.approx(0.3)


def test_l3_uniform_mask_makes_cam_supcon_gap_supcon():
    both = view(mask=uniform)
    torch.testing.assert_close(cam_supcon(both), gap_supcon(both))


def test_l3_one_position_makes_every_contrast_the_same():
    one = view(seeded(BATCH, CHANNELS, 1, 1))
    torch.testing.assert_close(cam_chamfer(one), gap_supcon(one))
    torch.testing.assert_close(cam_supcon(one), gap_supcon(one))


def test_l3_map_pair_of_one_position_is_the_cosine_hinge():
    maps = seeded(BATCH, CHANNELS, 1, 1) - 0.5
    labels = torch.arange(BATCH) % CLASSES
    pull, push = [], []
    for i in range(BATCH):
        for j in range(BATCH):
            cosine = functional.cosine_similarity(maps[i].flatten(), maps[j].flatten(), dim=0)
            if i != j and labels[i] == labels[j]:
                pull.append(max(0.0, 2 - 2 * cosine.item()))
            elif labels[i] != labels[j]:
                push.append(max(0.0, 1.0 - (2 - 2 * cosine.item())))
    expected = sum(pull) / len(pull) + sum(push) / len(push)
    assert map_pair(view(maps, labels), 0.0).item() == pytest.approx(expected)


def test_chamfer_naive():
    maps = seeded(4, 3, 2, 2)
    labels = torch.tensor([0, 0, 1, 1])
    masks = torch.softmax(seeded(4, 4, seed=5), 1)
    columns = functional.normalize(maps.flatten(2), dim=1)
    similarity = torch.zeros(4, 4, dtype=torch.float64)
    for i in range(4):
        for j in range(4):
            cosine = columns[i].T @ columns[j]
            there = (masks[i] * cosine.max(1).values).sum()
            back = (masks[j] * cosine.max(0).values).sum()
            similarity[i, j] = (there + back) / 2
    ours = cam_chamfer(StepView(maps, labels, lambda: masks.view(4, 2, 2)))
    torch.testing.assert_close(ours, supcon(similarity, labels))


def test_chamfer_in_parts_is_the_same(monkeypatch):
    results = []
    for products in (2**20, 1, 500):
        monkeypatch.setattr("alike.train.map_losses.PRODUCTS", products)
        maps = seeded(BATCH, CHANNELS, SIDE, SIDE, seed=3).requires_grad_()
        value = cam_chamfer(view(maps))
        results.append((value.detach(), *torch.autograd.grad(value, maps)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_map_pair_raw_naive():
    flat = seeded(4, 8)
    labels = torch.tensor([0, 0, 1, 1])
    squared = torch.cdist(flat, flat).square()
    pull = (squared[0, 1] + squared[2, 3]) / 2
    push = (1 - squared[:2, 2:]).clamp_min(0).mean()
    torch.testing.assert_close(map_pair_raw(view(flat.view(4, 2, 2, 2), labels)), pull + push)


def test_semi_hard_naive():
    features = functional.normalize(seeded(8, 4, seed=2) - 0.4)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    squared = torch.cdist(features, features).square()
    values = [
        (squared[a, p] - squared[a, n] + 0.2).item()
        for a in range(8)
        for p in range(8)
        for n in range(8)
        if a != p and labels[a] == labels[p] and labels[a] != labels[n]
        if squared[a, p] < squared[a, n] < squared[a, p] + 0.2
    ]
    assert values
    ours = triplet_semi_hard(view(features.view(8, 4, 1, 1), labels)).item()
    assert ours == pytest.approx(sum(values) / len(values))


def test_background_asks_for_silence_outside_the_mask():
    mask = torch.zeros(BATCH, SIDE, SIDE, dtype=torch.float64)
    mask[:, 0, 0] = 1.0
    maps = seeded(BATCH, CHANNELS, SIDE, SIDE)
    quiet = maps.clone()
    quiet.flatten(2)[:, :, 1:] = 0.0
    loud, silent = (view(one, mask=lambda: mask) for one in (maps, quiet))
    torch.testing.assert_close(cam_supcon(loud), cam_supcon(silent))
    extra = 1e-3 * quiet.sub(maps).square().mean()
    torch.testing.assert_close(cam_supcon_background(loud) - cam_supcon_background(silent), extra)


def test_centres_follow_the_class_means():
    loss = CentreLoss(2, 2)
    east, north = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
    labels = torch.tensor([0, 0, 1])
    first = loss(StepView(torch.stack((east, east, north)).view(3, 2, 1, 1), labels, uniform))
    assert first.item() == 0.0
    second = loss(StepView(torch.stack((north, north, north)).view(3, 2, 1, 1), labels, uniform))
    torch.testing.assert_close(loss.centres[0], 0.95 * east + 0.05 * north)
    assert second.item() == pytest.approx(0.5 * 2 * (2 * 0.95**2) / 3)


def test_negatives_of_similar_classes_count_less():
    features = unit(seeded(9, 5, seed=2))
    labels = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])
    loss = SimilarClasses(3, 5)
    ours = loss(StepView(features.view(9, 5, 1, 1), labels, uniform))
    means = unit(torch.stack([features[labels == one].mean(0) for one in range(3)]))
    total = 0.0
    for i in range(9):
        apart = {b: 1.0 - float(means[labels[i]] @ means[b]) for b in range(3) if b != labels[i]}
        mean = sum(apart.values()) / 2
        bottom = sum(
            math.exp(float(features[i] @ features[a]) / 0.1)
            * (1.0 if labels[a] == labels[i] else apart[int(labels[a])] / mean)
            for a in range(9) if a != i
        )  # fmt: skip
        mine = [p for p in range(9) if p != i and labels[p] == labels[i]]
        total -= sum(
            math.log(math.exp(float(features[i] @ features[p]) / 0.1) / bottom) for p in mine
        ) / len(mine)
    assert ours.item() == pytest.approx(total / 9, rel=1e-5)
    # Classes that are equally far from each other count alike: that is `gap_supcon`.
    even = torch.eye(3).repeat_interleave(3, 0)[:, :, None, None]
    view = StepView(even, labels, uniform)
    torch.testing.assert_close(SimilarClasses(3, 3)(view), gap_supcon(view))


@pytest.mark.parametrize("name", WITH_TERM)
def test_l4_gradients_in_float64(name):
    maps = (seeded(6, 3, 2, 2, seed=4) + 0.1).requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    masks = torch.softmax(seeded(6, 4, seed=6), 1).view(6, 2, 2)

    def value(at):
        # icnn scales by the batch's peaks without gradient, so its exact part is checked below;
        # a centre that follows the batch is likewise a constant for the gradient.
        return LOSSES[name].make(3, 3)(StepView(at, labels, lambda: masks))

    if name in ("icnn", "centre", "gap_supcon_similar"):
        (gradient,) = torch.autograd.grad(value(maps), maps)
        assert gradient.isfinite().all()
        return
    torch.autograd.gradcheck(value, (maps,))


def test_l4_exact_information_gradcheck():
    maps = (5.0 * seeded(4, 2, 3, 3)).requires_grad_()
    torch.autograd.gradcheck(exact_information_loss, (maps,))


def test_information_of_equal_maps_is_zero():
    same = seeded(1, 3, 4, 4).expand(5, -1, -1, -1)
    torch.testing.assert_close(exact_information_loss(same), torch.zeros(3, dtype=torch.float64))


def test_information_of_perfect_detectors_is_near_its_bound():
    maps = torch.zeros(490, 1, 49, dtype=torch.float64)
    maps[torch.arange(490), 0, torch.arange(490) % 49] = 1e6
    value = exact_information_loss(maps.view(490, 1, 7, 7)).item()
    assert value == pytest.approx(-3.814, abs=1e-3)
    assert value > -math.log(49)


def test_information_naive():
    maps = 40 * seeded(3, 1, 2, 2)
    shapes = templates(2, 2)
    joint = torch.tensor(
        [[math.exp(float(maps[x].flatten() @ t)) for t in shapes] for x in range(3)]
    )
    joint = joint / joint.sum(0) / 5
    image = joint.sum(1, keepdim=True)
    expected = -(joint * (joint / (image / 5)).log()).sum().item()
    assert exact_information_loss(maps).item() == pytest.approx(expected, rel=1e-5)


def test_icnn_loss_sees_activations_of_any_size():
    maps = seeded(BATCH, CHANNELS, 4, 4)
    small, large = (icnn_loss(view(scale * maps)).item() for scale in (1e-2, 1e2))
    assert small == pytest.approx(large)
    assert small < -0.01


@pytest.mark.parametrize("name", WITH_TERM)
@pytest.mark.parametrize(
    "labels",
    [torch.arange(8), torch.zeros(8, dtype=torch.int64), torch.tensor([0, 0, 0, 1, 1, 2, 2, 3])],
    ids=["all alone", "one class", "a class of one"],
)
def test_l5_finite_for_odd_batches(name, labels):
    maps = seeded(8, CHANNELS, SIDE, SIDE).requires_grad_()
    loss = LOSSES[name].make(8, CHANNELS)(
        StepView(maps, labels, lambda: cam_mask(maps, torch.ones(8, CHANNELS), labels))
    )
    (gradient,) = torch.autograd.grad(loss, maps)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", WITH_TERM)
def test_l5_finite_for_dead_maps_and_empty_masks(name):
    maps = torch.zeros(8, CHANNELS, SIDE, SIDE, requires_grad=True)
    labels = torch.arange(8) % 4
    weights = -torch.ones(4, CHANNELS)
    loss = term(name)(StepView(maps, labels, lambda: cam_mask(maps, weights, labels)))
    (gradient,) = torch.autograd.grad(loss, maps)
    assert loss.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", WITH_TERM)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_l5_half_precision_maps(name, dtype):
    maps = (100 * seeded(8, CHANNELS, SIDE, SIDE)).to(dtype).requires_grad_()
    labels = torch.arange(8) % 4
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.autocast("cpu", enabled=False):
        wide = maps.float()
        weights = seeded(4, CHANNELS, dtype=torch.float32)
        loss = term(name)(StepView(wide, labels, lambda: cam_mask(wide, weights, labels)))
    (gradient,) = torch.autograd.grad(loss, maps)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_empty_cam_becomes_uniform():
    maps = seeded(3, CHANNELS, SIDE, SIDE)
    mask = cam_mask(maps, -torch.ones(2, CHANNELS), torch.tensor([0, 1, 0]))
    torch.testing.assert_close(mask, uniform(3))


def test_grad_cam_of_a_pooled_linear_head_is_cam():
    maps = seeded(5, CHANNELS, SIDE, SIDE).requires_grad_()
    weights = seeded(CLASSES, CHANNELS, seed=8) - 0.5
    labels = torch.tensor([0, 1, 2, 3, 0])
    logits = maps.mean((2, 3)) @ weights.T + 1.0
    ours = grad_cam_mask(maps, logits, labels)
    torch.testing.assert_close(ours.double(), cam_mask(maps, weights, labels), atol=1e-6, rtol=1e-5)


def test_unit_gives_dead_rows_no_gradient():
    rows = torch.tensor([[0.0, 0.0], [3.0, 4.0]], requires_grad=True)
    (gradient,) = torch.autograd.grad(unit(rows)[:, 0].sum(), rows)
    assert gradient[0].abs().sum() == 0.0
    torch.testing.assert_close(unit(rows)[1], torch.tensor([0.6, 0.8]))


@pytest.mark.quick
def test_unknown_loss_names_those_there_are():
    with pytest.raises(BadInput, match="gap_supcon, gap_supcon_similar, supcon, map_pair"):
        loss_named("contrast")


def test_examples_of_the_table_run():
    outcome = doctest.testmod(losses)
    assert outcome.attempted >= 8
    assert outcome.failed == 0
