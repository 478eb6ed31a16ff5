"""What `benchmarks.ranking` and `benchmarks.grounded` do to networks is what they say."""

import numpy as np
import pandas as pd
import pytest
import torch


@pytest.mark.quick
@torch.no_grad()
@pytest.mark.parametrize("family", ["resnet20", "resnet32"])
def test_rescaled_channels_change_maps_and_no_logit(family, shared_data, benchmark):
    ranking, grounded = benchmark("ranking"), benchmark("grounded")
    module = grounded.shared_resnet(shared_data, family, grounded.SHARED[family])
    images = torch.from_numpy(np.random.default_rng(0).standard_normal((4, 3, 32, 32))).float()
    before, logits = grounded.pooled(module, images)
    state, draw = module.state_dict(), np.random.default_rng(0)
    module.load_state_dict(ranking.rescaled({**state}, 1.0, draw))
    after, same = grounded.pooled(module, images)
    assert same == pytest.approx(logits, rel=1e-3, abs=1e-3)
    means = [maps[-1].mean(0) for maps in (before, after)]
    active = means[0] > 0
    assert np.abs(np.log(means[1][active] / means[0][active])).mean() > 0.3


@pytest.mark.quick
def test_degraded_weights(benchmark):
    ranking, draw = benchmark("ranking"), np.random.default_rng(0)
    state = {"a.weight": torch.randn(40, 30), "a.bias": torch.randn(40)}
    state["linear.weight"] = torch.randn(10, 40)
    pruned = ranking.pruned({**state}, 0.6, draw)
    assert (pruned["a.weight"] == 0).float().mean() == pytest.approx(0.6, abs=0.01)
    stays = pruned["a.weight"] != 0
    assert (pruned["a.weight"][stays] == state["a.weight"][stays]).all()
    assert state["a.weight"][stays].abs().min() > state["a.weight"][~stays].abs().max()
    assert len(ranking.quantised({**state}, 3, draw)["a.weight"].unique()) <= 7
    noise = ranking.noisy({**state}, 0.5, draw)["a.weight"] - state["a.weight"]
    assert float(noise.std() / state["a.weight"].std()) == pytest.approx(0.5, rel=0.1)
    headless = ranking.headless({**state}, 1.0, draw)
    assert (headless["a.weight"] == state["a.weight"]).all()
    assert not torch.equal(headless["linear.weight"], state["linear.weight"])
    for changed in (pruned, headless):
        assert (changed["a.bias"] == state["a.bias"]).all()


@pytest.mark.quick
def test_groups_differ_in_what_they_say(benchmark):
    grounded, draw = benchmark("grounded"), np.random.default_rng(0)
    pixels = draw.integers(0, 256, (2000, 32, 32, 3)).astype(np.uint8)
    labels = draw.integers(0, 10, 2000)
    for level in (0.0, 0.5, 1.0):
        same, permuted = grounded.training_set("labels", level, pixels, labels, 3)
        assert same is pixels
        assert np.bincount(permuted).tolist() == np.bincount(labels).tolist()
        assert (permuted == labels).mean() == pytest.approx(1 - 0.9 * level, abs=0.03)
        patched, own = grounded.training_set("shortcut", level, pixels, labels, 3)
        assert (own == labels).all()
        assert (patched[:, 3:] == pixels[:, 3:]).all()
        colours = patched[:, 0, 0]
        of_class = grounded.patched(pixels, labels)[:, 0, 0]
        tell = (colours == of_class).all(axis=1).mean()
        assert tell == pytest.approx(level + 0.1 * (1 - level), abs=0.03)


@pytest.mark.quick
def test_order_of_layers_and_of_groups(benchmark):
    grounded = benchmark("grounded")
    rows = [(i, j, -abs(i - j)) for i in range(5) for j in range(i + 1, 5)]
    part = pd.DataFrame(rows, columns=["a", "b", "value"])
    assert grounded.in_order(part) == 1
    assert grounded.in_order(part.assign(value=-part["value"])) == 0
    levels = np.repeat([0.0, 0.5, 1.0], 3)
    rows = [
        (i, j, levels[i], levels[j], -abs(levels[i] - levels[j]))
        for i in range(9) for j in range(i + 1, 9)
    ]  # fmt: skip
    part = pd.DataFrame(rows, columns=["a", "b", "level_a", "level_b", "value"])
    every = np.arange(9)
    apart = grounded.told_apart(part, grounded.average_precision_score)
    order = grounded.dose(part, (0.0, 0.5, 1.0))
    assert apart(every) == 1
    assert order(every) == pytest.approx(1)
    assert grounded.left_out(order, 9) == "1.00 (1.00 to 1.00)"
    assert grounded.left_out(lambda at: at.sum() / 10, 4) == "0.60 (0.30 to 0.60)"
