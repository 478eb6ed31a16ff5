"""Grades of explainers: against loops over cells, and on networks whose truth is known."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.ndimage import gaussian_filter
from scipy.optimize import brentq
from scipy.stats import skew, spearmanr, t
from torch import nn

from alike.analysis.explain.explain import relevance
from alike.analysis.explain.grade import grade as grades
from alike.analysis.explain.grade import pairs as pair_grades
from alike.analysis.explain.grade.cost import forward_passes, timed_cost
from alike.analysis.explain.grade.curves import blurred, in_cells, ranks_of
from alike.analysis.explain.grade.grade import (
    Grading,
    grade,
    numbers_of,
    table_of,
    with_permuted_weights,
)
from alike.analysis.explain.grade.intervals import mean_interval
from alike.analysis.explain.grade.pairs import grade_pairs, pairs_of
from alike.analysis.explain.gradients import DoesNotFit
from alike.analysis.explain.likeness_maps import likeness
from alike.analysis.explain.likeness_pixels import Embedding
from alike.extract.errors import BadInput
from alike.flows.explaining import graded

ROOT = Path(__file__).parents[3]
spec = importlib.util.spec_from_file_location(
    "grade_coverage_of_alike", ROOT / "benchmarks" / "grade_coverage.py"
)
grade_coverage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(grade_coverage)
MADE, coverage = grade_coverage.MADE, grade_coverage.coverage

FEW = Grading(steps=4, draws=6, batch_size=3)


class Corner(nn.Module):
    """Sees colour by position; its map of 4x4 is the image in blocks of 4x4."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 4, stride=4, bias=False)
        self.relu = nn.ReLU()
        self.pool, self.flat = nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(3, 2)
        with torch.no_grad():
            self.conv.weight.zero_()
            for channel in range(3):
                self.conv.weight[channel, channel] = 1 / 16
            # The first colour speaks for the first class; the second is bright and says nothing.
            self.fc.weight.copy_(torch.tensor([[24.0, 0.0, 0.0], [0.0, 0.0, 24.0]]))
            self.fc.bias.zero_()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.flat(self.pool(self.relu(self.conv(x)))))


def planted(n: int = 6) -> torch.Tensor:
    """Images 16x16: one block of the colour of class 0, three brighter ones without meaning."""
    draw = np.random.default_rng(0)
    images = torch.from_numpy(draw.random((n, 3, 16, 16)).astype(np.float32)) * 0.05
    for number in range(n):
        one, *others = draw.choice(16, 4, replace=False)
        for cell, channel, value in ((one, 0, 3.0), *((other, 1, 9.0) for other in others)):
            down, right = divmod(int(cell), 4)
            images[number, channel, 4 * down : 4 * down + 4, 4 * right : 4 * right + 4] = value
    return images


def naive(score, image, cells, steps):
    """Deletion, insertion and single-cell falls of the score of one image, by loops."""
    fill = np.stack(
        [gaussian_filter(channel, 1.6, mode="mirror", radius=5) for channel in image.numpy()]
    )
    fill = torch.from_numpy(fill)

    def patched(start, end, which):
        x = start.clone()
        for cell in which:
            down, right = divmod(int(cell), 4)
            box = slice(4 * down, 4 * down + 4), slice(4 * right, 4 * right + 4)
            x[:, *box] = end[:, *box]
        return x

    order = np.argsort(-cells, kind="stable")
    curves = []
    for start, end in ((image, fill), (fill, image)):
        values = [
            score(patched(start, end, order[: 16 * step // steps])) for step in range(steps + 1)
        ]
        curves.append(np.trapezoid(values, dx=1 / steps))
    whole = score(image)
    falls = [whole - score(patched(image, fill, [cell])) for cell in range(16)]
    return *curves, falls


def interval(values):
    """Mean, and at each end the wider of Student's t and Hall's (1992), by root finding."""
    n, mean, spread = len(values), values.mean(), values.std(ddof=1)
    reach = t.ppf(0.975, n - 1) / n**0.5
    a = skew(values) / 3
    ends = [
        brentq(lambda w, z=z: w + a * w**2 + a**2 * w**3 / 3 + a / (2 * n) - z, -50, 50)
        for z in (reach, -reach)
    ]
    return [mean, mean - spread * max(reach, ends[0]), mean + spread * max(reach, -ends[1])]


def test_intervals_are_those_of_the_formula_or_absent():
    draw = np.random.default_rng(0)
    for values in (draw.standard_normal(8), draw.exponential(size=30), -draw.exponential(size=30)):
        assert mean_interval(values) == pytest.approx(interval(values), abs=1e-9)
        assert mean_interval(np.append(values, np.nan)) == mean_interval(values)
    mean, low, high = mean_interval(np.arange(7.0))
    assert (mean, np.isnan(low), np.isnan(high)) == (3, True, True)
    mostly = np.append(np.zeros(90), draw.exponential(size=6))
    assert np.isnan(mean_interval(mostly)[1:]).all()
    assert np.isfinite(mean_interval(np.append(mostly, 1.0))).all()
    assert np.isnan(mean_interval(np.array([]))).all()


@pytest.mark.parametrize(
    ("name", "n", "least"),
    [
        ("normal", 8, 0.93), ("probability, near 0", 16, 0.93), ("difference, 70 % zero", 32, 0.93),
        ("difference, heavy tails", 32, 0.92), ("probability, both ends", 8, 0.93),
        ("difference, 90 % zero", 64, 0.9),
    ],
)  # fmt: skip
def test_intervals_hold_the_mean_of_made_populations(name, n, least):
    """1,000 sets: the error of a coverage of .95 is .007."""
    draw_of = MADE[name]
    truth = float(draw_of(np.random.default_rng(1), 1_000_000).mean())
    held, _, _ = coverage(draw_of, truth, n, 1000)
    assert held >= least


@pytest.mark.quick
@torch.no_grad()
def test_numbers_are_those_of_loops():
    network, images = Corner().eval(), planted(10)
    table = grade(network, images, ["cam", "grad_x_input"], grading=FEW).set_index("explainer")
    target = network(images).argmax(1)
    for method in ("cam", "grad_x_input"):
        with torch.enable_grad():
            maps = relevance(network, images, method, target)
        cells = in_cells(maps, (4, 4))
        every = [
            naive(lambda x, c=c: float(network(x[None]).softmax(1)[0, c]), image, row, 4)
            for image, row, c in zip(images, cells, target.tolist(), strict=True)
        ]
        for at, name in enumerate(("deletion", "insertion")):
            values = np.array([one[at] for one in every])
            wanted = interval(values)
            got = table.loc[method, [name, f"{name}_low", f"{name}_high"]].to_numpy(float)
            assert got == pytest.approx(wanted, abs=2e-5)
        agreed = [spearmanr(row, one[2]).statistic for row, one in zip(cells, every, strict=True)]
        assert table.loc[method, "agreement"] == pytest.approx(np.nanmean(agreed), abs=2e-3)
    assert table.loc["cam", ["cells", "n_images", "n_counted"]].tolist() == [16, 10, 10]
    apart = table.loc["cam", "deletion"] - table.loc["energy", "deletion"]
    assert table.loc["cam", "deletion_to_energy"] == pytest.approx(apart)


@torch.no_grad()
def test_a_faithful_map_beats_energy_and_random_orders():
    """The class activation map is all that the score is; energy looks at what is bright."""
    fine = Grading(steps=16, draws=6)
    table = grade(Corner().eval(), planted(12), ["cam"], grading=fine).set_index("explainer")
    cam = table.loc["cam"]
    assert cam["deletion_to_energy_high"] < 0
    assert cam["deletion_to_random_high"] < 0
    assert cam["insertion_to_random_low"] > 0
    assert cam["agreement"] > table.loc["energy", "agreement"]
    assert np.isnan(table.loc["energy", "deletion_to_energy"])
    assert np.isnan(table.loc["random", "agreement"])


def test_a_method_that_does_not_fit_is_left_out_and_said():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 8), nn.Linear(8, 2)
    ).eval()
    lines = []
    few = Grading(steps=2, draws=1)
    table = grade(network, planted(2), ["cam", "sa"], grading=few, tell=lines.append)
    assert list(table["explainer"]) == ["sa", "energy", "random"]
    (line,) = lines
    assert line.startswith("cam: no CAM for ")


def test_blur_cells_and_permuted_weights():
    image = torch.rand(1, 3, 40, 30)
    wanted = [gaussian_filter(c, 3.0, mode="mirror", radius=9) for c in image[0].numpy()]
    np.testing.assert_allclose(blurred(image)[0].numpy(), wanted, atol=1e-5)
    assert ranks_of(np.array([[0.1, 3.0, 0.1]])).tolist() == [[1, 0, 2]]
    network = nn.Sequential(*(nn.Linear(5, 5) for _ in range(8)))
    other = with_permuted_weights(network, 0, torch.rand(1, 5))
    for number, (one, two) in enumerate(zip(network, other, strict=True)):
        assert torch.equal(one.weight, two.weight) == (number < 6)
        assert torch.equal(one.weight.flatten().sort()[0], two.weight.flatten().sort()[0])

    class HeadFirst(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.unread = nn.Linear(5, 5), nn.Linear(5, 5)
            self.body = nn.Sequential(*(nn.Linear(5, 5) for _ in range(6)))

        def forward(self, x):
            return self.head(self.body(x))

    network = HeadFirst()
    other = with_permuted_weights(network, 0, torch.rand(1, 5))
    changed = [
        name
        for (name, one), two in zip(network.named_parameters(), other.parameters(), strict=True)
        if not torch.equal(one, two)
    ]
    assert changed == ["head.weight", "body.5.weight"]
    # Likeness is graded though the output has positions.
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    changed = with_permuted_weights(network, 0, planted(1), lambda other: other[:2](planted(1)))
    assert not torch.equal(changed[0].weight, network[0].weight)
    with pytest.raises(BadInput, match="two or more"):
        grade(Corner().eval(), planted(1), ["cam"])
    with pytest.raises(BadInput, match="no explainer 'mirror'"):
        grade(Corner().eval(), planted(2), ["mirror"])


def blocks(n):
    """Images (n, 3, 16, 16) of 4x4 blocks, each of its own colour."""
    colours = np.random.default_rng(3).random((n, 3, 4, 4)) ** 4
    return torch.from_numpy(colours.repeat(4, axis=2).repeat(4, axis=3))


def cosine(network, x, other):
    a, b = (network.relu(network.conv(one[None])).mean((2, 3))[0].double() for one in (x, other))
    return float(a @ b / (a.norm() * b.norm()))


@torch.no_grad()
def test_numbers_of_pairs_are_those_of_loops():
    network, images = Corner().eval().double(), blocks(34)
    images, partners = images[:17], images[17:]
    table = grade_pairs(network, images, partners, ["likeness", "likeness_lrp"], grading=FEW)
    table = table.set_index("explainer")
    maps = own_maps = [network.relu(network.conv(one)).numpy() for one in (images, partners)]
    deletions = {}
    # The first pair and the second lend each other their partners, and so on; the last has none.
    lenders = [1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14, 16]
    for shift, order in enumerate((range(17), lenders)):
        others = maps[1][list(order)]
        cells = [likeness(a, b).on_a.flatten() for a, b in zip(maps[0], others, strict=True)]
        every = [
            naive(lambda x, b=b: cosine(network, x, b), a, row, 4)
            for a, b, row in zip(images, partners, cells, strict=True)
        ]
        deletions[shift] = np.array([one[0] for one in every])
        if shift:
            continue
        assert table.loc["likeness", "deletion"] == pytest.approx(deletions[0].mean(), abs=1e-5)
        inserted = np.mean([one[1] for one in every])
        assert table.loc["likeness", "insertion"] == pytest.approx(inserted, abs=1e-5)
        agreed = [spearmanr(row, one[2]).statistic for row, one in zip(cells, every, strict=True)]
        assert table.loc["likeness", "agreement"] == pytest.approx(np.mean(agreed), abs=1e-9)
    # The classifier is the last quarter of the weights, and the similarity does not read it.
    changed = with_permuted_weights(network, 0, images[:1], lambda other: other.conv(images))
    assert torch.equal(changed.fc.weight, network.fc.weight)
    maps = [changed.relu(changed.conv(one)).numpy() for one in (images, partners)]
    agreed = [
        spearmanr(likeness(*pair).on_a.flatten(), likeness(*own).on_a.flatten()).statistic
        for pair, own in zip(zip(*maps, strict=True), zip(*own_maps, strict=True), strict=True)
    ]
    assert table.loc["likeness", "randomised"] == pytest.approx(np.mean(agreed), abs=1e-9)
    assert abs(np.mean(agreed)) < 0.99
    apart = (deletions[0] - deletions[1])[:16].reshape(8, 2).mean(1)
    columns = [f"deletion_to_another{end}" for end in ("", "_low", "_high")]
    wanted = interval(apart)
    assert table.loc["likeness", columns].to_numpy(float) == pytest.approx(wanted, abs=2e-5)
    assert list(table.index) == ["likeness", "likeness_lrp", "energy", "random"]
    with pytest.raises(BadInput, match="two or more"):
        grade_pairs(network, images[:1], partners[:1])
    with pytest.raises(BadInput, match="no explainer of pairs 'mirror'"):
        grade_pairs(network, images, partners, ["mirror"])


@torch.no_grad()
def test_what_two_images_share_beats_energy_and_the_map_of_another_pair():
    """Block of one colour in both images, and a brighter one of a colour that the partner lacks."""
    draw = np.random.default_rng(1)
    images = torch.from_numpy(0.01 * draw.random((2, 30, 3, 16, 16)).astype(np.float32))
    for pair in range(30):
        shared = 2 * pair % 3
        for side, other in ((0, (shared + 1) % 3), (1, (shared + 2) % 3)):
            for cell, channel, value in zip(
                draw.choice(16, 2, replace=False), (shared, other), (3.0, 5.0), strict=True
            ):
                down, right = 4 * (int(cell) // 4), 4 * (int(cell) % 4)
                images[side, pair, channel, down : down + 4, right : right + 4] = value
    fine = Grading(steps=16, draws=4)
    methods = ["likeness", "likeness_lrp", "likeness_path"]
    table = grade_pairs(Corner().eval(), *images, methods, grading=fine).set_index("explainer")
    for method in methods:
        assert table.loc[method, "deletion_to_energy_high"] < 0
        assert table.loc[method, "deletion_to_another_high"] < 0
        assert table.loc[method, "insertion_to_energy_low"] > 0


@torch.no_grad()
def test_a_map_that_ranks_nothing_is_in_no_mean_and_said():
    network, images = Corner().eval(), planted(4)
    cells = network.relu(network.conv(images))[:, 0].flatten(1).double().numpy()
    cells[1] = 7.0

    def score(x):
        return network(x).softmax(1)[:, 0]

    numbers = numbers_of(score, images, {"flat": cells, "energy": cells + 0}, {}, (4, 4), FEW)
    assert np.isfinite(numbers["flat"]["deletion"]).tolist() == [True, False, True, True]
    table = table_of(numbers, 4, (4, 4)).set_index("explainer")
    assert table.loc["flat", ["n_images", "n_counted"]].tolist() == [4, 3]
    assert table.loc["random", ["n_images", "n_counted"]].tolist() == [4, 4]
    wanted = np.mean(
        [naive(lambda x: float(score(x[None])), images[at], cells[at], 4)[0] for at in (0, 2, 3)]
    )
    assert table.loc["flat", "deletion"] == pytest.approx(wanted, abs=2e-5)


def test_pairs_use_no_image_twice():
    labels = ["a"] * 5 + ["b"] * 4 + [None] * 2 + ["c"]
    ids = [f"{at * 7 % 12:02d}" for at in range(12)]
    table = pd.DataFrame({"image_id": ids, "label": labels})
    for order in (table, table.sample(frac=1.0, random_state=0)):
        kinds = pairs_of(order, 3)
        rows = order.reset_index(drop=True)
        for kind, pairs in kinds.items():
            used = [at for pair in pairs for at in pair]
            assert len(set(used)) == len(used)
            same = [rows["label"][one] == rows["label"][other] for one, other in pairs]
            assert all(same) if kind == "same class" else not any(same)
            assert rows["label"][used].notna().all()
        named = {
            kind: [(rows["image_id"][one], rows["image_id"][other]) for one, other in pairs]
            for kind, pairs in kinds.items()
        }
        if order is table:
            first = named
    assert named == first
    assert len(kinds["same class"]) == 3
    assert pairs_of(table.assign(label=None), 3) == {}
    # An image without a label takes the place of no other.
    labelled = table[table["label"].notna()].reset_index(drop=True)
    of_these = pairs_of(labelled, 3)
    assert {
        kind: [(labelled["image_id"][one], labelled["image_id"][other]) for one, other in pairs]
        for kind, pairs in of_these.items()
    } == first
    assert set(pairs_of(labelled[labelled["label"] == "a"], 3)) == {"same class"}


@torch.no_grad()
def test_random_orders_are_those_of_loops():
    network, images = Corner().eval(), planted(3)
    of = {"energy": np.zeros((3, 16)), "one": np.random.default_rng(2).random((3, 16))}
    few = Grading(steps=4, draws=5, seed=3)

    def score(x):
        return network(x).softmax(1)[:, 0]

    numbers = numbers_of(score, images, of, {}, (4, 4), few)["random"]
    draw, deleted, inserted = np.random.default_rng(3), [], []
    for _ in range(5):
        order = draw.random((3, 16))
        both = [(naive(lambda x: float(score(x[None])), image, row, 4)[0],
                 naive(lambda x: float(score(x[None])), image, -row, 4)[1])
                for image, row in zip(images, order, strict=True)]  # fmt: skip
        deleted.append([one for one, _ in both])
        inserted.append([one for _, one in both])
    assert numbers["deletion"] == pytest.approx(np.mean(deleted, 0), abs=2e-5)
    # The reverse of an order puts back first what the order blurs last.
    assert numbers["insertion"] == pytest.approx(np.mean(inserted, 0), abs=2e-5)


@pytest.mark.parametrize("pairs", [False, True])
def test_forward_passes_are_counted_before(pairs, monkeypatch):
    """All that runs through the network but maps: counted by its last layer."""
    network, images, rows = Corner().eval(), planted(6), []

    def no_maps(module, batch, *rest, **kwargs):
        return torch.rand(len(batch), 16, 16, generator=torch.Generator().manual_seed(len(rows)))

    monkeypatch.setattr(
        grades, "relevances", lambda m, x, names, *_, **__: {names[0]: no_maps(m, x)}
    )
    monkeypatch.setattr(pair_grades, "relevance_to", no_maps)
    # The network itself, and none folded: its passes are those of its convolution.
    monkeypatch.setattr(grades, "ready_module", lambda module, size: module)
    monkeypatch.setattr(Embedding, "ready", lambda self, module, size: module)
    whole = nn.Conv2d.forward

    def counted(self, x):
        rows.append(len(x))
        return whole(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", counted)
    few = Grading(steps=5, draws=3, batch_size=4)
    if pairs:
        grade_pairs(network, images, images.flip(0), ["likeness_lrp", "likeness_path"], grading=few)
    else:
        grade(network, images, ["sa", "lrp"], grading=few)
    # A pass of one image finds the taps of a network, once; batches are of 4 and 2.
    assert sum(n for n in rows if n > 1) == 6 * forward_passes(16, 5, 3, 2, pairs)


@pytest.mark.quick
def test_costs_leave_out_what_does_not_fit():
    def maps(method, batch):
        if method == "b":
            raise DoesNotFit("no rule")
        return batch

    batch = torch.zeros(2, 3, 4, 4)
    cost = timed_cost(["a", "b"], batch, 10, lambda x: x, maps, maps_each=2, passes=lambda n: 7 * n)
    assert (cost.explainers, cost.asked, cost.images, cost.passes) == (1, 2, 10, 70)
    assert cost.seconds > 0


@pytest.mark.quick
def test_all_explainers_are_graded_by_default():
    from alike.analysis.explain import EXPLAINERS, LIKENESS, PAIR_EXPLAINERS
    from alike.analysis.explain.grade import METHODS, PAIR_METHODS

    assert list(EXPLAINERS) == list(METHODS)
    assert [LIKENESS, *PAIR_EXPLAINERS] == list(PAIR_METHODS)


@pytest.mark.quick
def test_one_image_is_refused_before_its_cost_is_told():
    costs = []
    with pytest.raises(BadInput, match="2 or more"):
        graded(None, ["cam"], limit=1, announce=costs.append)
    assert not costs
