"""Alarms about a score that fell: silent while nothing but images change, one when they get worse.

Nights are simulated: a set of images that are points of classes, of which some are exchanged every
night; the score is the balanced AUC of all pairs, computed here, with its first-order error.
"""

import datetime
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from alike.extract.store.store import Store
from alike.flows.alarm import Alarms, findings_of, situation_of, watch
from alike.flows.drift import Overlap, largest_step, overlap, threshold, variance_bound
from alike.flows.history import FurtherNetwork, History, RunRecord
from alike.flows.log_lines import unsaid
from alike.flows.rules import Rule, finding
from alike.flows.sections import AlarmSettings
from alike.flows.settings import read_pipeline

SEVERAL = """
[images]
source = "set"
[[network]]
name = "first"
[[network]]
name = "second"
[alarm]
when = ["sameness fell", "sameness < 0.5", "bad > 1 %"]
"""
FELL = AlarmSettings(when=("sameness fell",))


class Nights:
    """A set whose images are exchanged; an image is a point, drawn once and kept."""

    def __init__(self, seed, classes=6, each=25, outliers=0.0):
        self.draw = np.random.default_rng(seed)
        self.classes, self.outliers = classes, outliers
        self.centres = self.draw.normal(size=(classes, 5)) * 1.3
        self.points, self.rows, self.n = np.empty((0, 5)), np.empty((0, 2), dtype=int), 0
        for label in np.repeat(np.arange(classes), each):
            self.add(label)

    def add(self, label, noise=1.0):
        wide = 8.0 if self.draw.random() < self.outliers else noise
        point = self.centres[label] + wide * self.draw.normal(size=5)
        self.points = np.vstack([self.points, point])
        self.rows = np.vstack([self.rows, [self.n, label]])
        self.n += 1

    def exchange(self, number, noise=1.0):
        """As many images of a class go as come; all are drawn alike unless the noise grows."""
        for _ in range(number):
            at = self.draw.integers(len(self.rows))
            label = self.rows[at, 1]
            self.rows, self.points = np.delete(self.rows, at, 0), np.delete(self.points, at, 0)
            self.add(label, noise)

    def table(self):
        rows, labels = self.rows.T
        return pd.DataFrame({"row": rows, "label": labels.astype(str), "side": "held_out"})

    def score(self):
        """Sameness and its standard error: weights by class, influence of every image."""
        labels = self.rows[:, 1]
        distance = np.linalg.norm(self.points[:, None] - self.points[None], axis=2)
        one, other = np.triu_indices(len(labels), 1)
        d, same = distance[one, other], labels[one] == labels[other]
        count = np.bincount(labels, minlength=self.classes).astype(float)
        a, b = count[labels[one]], count[labels[other]]
        weight = np.where(same, 2 / (a * (a - 1)) / self.classes, 0)
        weight += np.where(same, 0, 2 / (a * b) / (self.classes * (self.classes - 1)))
        order = np.argsort(d)
        farther = np.empty(len(d))
        farther[order] = 1 - np.cumsum(np.where(same, 0, weight)[order])
        nearer = np.empty(len(d))
        nearer[order] = np.cumsum(np.where(same, weight, 0)[order])
        auc = float((weight * farther)[same].sum())
        pull = weight * (np.where(same, farther, nearer) - auc)
        influence = np.bincount(one, pull, len(labels)) + np.bincount(other, pull, len(labels))
        return 2 * auc - 1, 2 * float(np.sqrt((influence**2).sum()))


def record(number, value, error, each, series="s"):
    time = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC) + datetime.timedelta(days=number)
    return RunRecord(
        id=f"{time:%Y%m%dT%H%M%S%f}-00000{number % 10}", time=time.isoformat(), seconds=1.0,
        state="good", network={"features": "k"}, series=series, measure="m",
        counts={"held_out": each, "evaluated": each, "classes": 6},
        scores={"m": {"sameness": [value, value - 1.96 * error, value + 1.96 * error]}},
        images=f"night{number}",
    )  # fmt: skip


def alarms_of_nights(tmp_path, n_nights, noise):
    """The alarms of nights in a real store; `noise` gives that of a night's new images."""
    store = Store.open(tmp_path / "store", create=True)
    history, alarms = History(store), Alarms(store)
    nights, raised = Nights(seed=3, each=20), []
    for number in range(n_nights):
        if number:
            nights.exchange(3, noise(number))
        value, error = nights.score()
        one = record(number, value, error, len(nights.rows))
        history.write(one, {one.images: nights.table()})
        if number == 0:
            history.accept(one, "me")
        said = finding(Rule.parse("sameness fell"), situation_of(store, history))
        assert said.holds is not None, said
        alarms.update([said], FELL)
        raised.append(len(alarms.all()))
    return raised


def test_no_alarm_in_a_hundred_undisturbed_nights(tmp_path):
    assert alarms_of_nights(tmp_path, 100, lambda night: 1.0)[-1] == 0


def test_one_alarm_for_a_drift_from_the_seventh_night(tmp_path):
    raised = alarms_of_nights(tmp_path, 40, lambda night: 4.0 if night >= 7 else 1.0)
    assert raised[6] == 0
    assert raised[-1] == 1


@pytest.mark.parametrize(("each", "outliers", "exchanged"), [(25, 0.0, 10), (8, 0.1, 1), (5, 0, 2)])
def test_the_bound_holds_where_it_is_attacked(each, outliers, exchanged):
    """Few images, tiny classes, a tenth of the images far out: chance stays below the limit, and
    its variance below the bound."""
    squares, reach = [], []
    for seed in range(30):
        nights = Nights(seed, each=each, outliers=outliers)
        before, (value, error) = nights.table(), nights.score()
        nights.exchange(exchanged)
        after, (now, error_now) = nights.table(), nights.score()
        shared = overlap(before, after)
        variance = variance_bound(error, error_now, shared)
        limit = threshold(variance, largest_step("sameness", shared))
        squares.append((now - value) ** 2 / variance)
        reach.append(abs(now - value) / limit)
    assert max(reach) < 1
    assert np.mean(squares) < 1


@pytest.mark.quick
def test_the_same_images_differ_by_nothing():
    nights = Nights(0)
    shared = overlap(nights.table(), nights.table())
    assert shared.exchanged.sum() == 0
    assert variance_bound(0.1, 0.2, shared) == largest_step("sameness", shared) == 0


@pytest.mark.quick
def test_the_variance_is_that_of_means_of_overlapping_samples():
    """One class, a score that is a mean: the bound is exact, and known from a textbook."""
    a, b, m = 40, 50, 30
    shared = Overlap(np.array([a]), np.array([b]), np.array([m]))
    draw = np.random.default_rng(0).normal(size=(200_000, a + b - m))
    apart = draw[:, :m].sum(1)
    means = (apart + draw[:, m:a].sum(1)) / a, (apart + draw[:, a:].sum(1)) / b
    bound = variance_bound(a**-0.5, b**-0.5, shared)
    assert bound == pytest.approx(np.var(means[1] - means[0]), rel=0.02)


@pytest.mark.quick
def test_one_image_moves_a_score_by_no_more_than_its_step():
    """The worst image: alone in its place, then in the middle of another class."""
    nights = Nights(1, each=6)
    before, (value, _) = nights.table(), nights.score()
    worst = 0.0
    for at in range(len(nights.rows)):
        kept = nights.points[at].copy()
        for target in (nights.centres[(nights.rows[at, 1] + 1) % 6], np.full(5, 1e3)):
            nights.points[at] = target
            worst = max(worst, abs(nights.score()[0] - value))
        nights.points[at] = kept
    after = before.assign(row=before["row"].replace(0, 999))
    assert 0.02 < worst <= largest_step("sameness", overlap(before, after))


def _write(history, one, table):
    history.write(one, {one.images: table})


def further_of(one):
    """What a further network's record says, taken from a record of a first one."""
    return FurtherNetwork(
        one.network, one.counts, one.series, one.measure, one.scores, images=one.images
    )


def test_each_network_has_its_own_series_and_alarm(tmp_path):
    """The second one falls, the first does not; a third that comes later has no reference."""
    store = Store.open(tmp_path / "store", create=True)
    history, nights = History(store), Nights(0)
    table = nights.table()
    first = record(0, 0.9, 0.01, 150)
    _write(history, replace(first, others={"second": further_of(first)}), table)
    history.accept(history.records()[0], "me")
    (tmp_path / "p.toml").write_text(SEVERAL)
    pipeline = read_pipeline(tmp_path / "p.toml")
    later, fallen = record(1, 0.9, 0.01, 150), record(1, 0.1, 0.01, 150)
    _write(
        history,
        replace(later, others={"second": further_of(fallen), "third": further_of(fallen)}),
        table.assign(row=table["row"] + 1000),
    )
    said = {one.rule: one.holds for one in findings_of(pipeline, store)}
    assert said == {
        "sameness fell": False, "sameness fell [second]": True, "sameness fell [third]": None,
        "sameness < 0.5": False, "sameness < 0.5 [second]": True, "sameness < 0.5 [third]": True,
        "bad > 1 %": False,
    }  # fmt: skip
    lines = watch(pipeline, store, unsaid)
    assert sorted(line.partition(":")[0] for line in lines) == [
        "sameness < 0.5 [second]", "sameness < 0.5 [third]", "sameness fell [second]",
    ]  # fmt: skip
    # A network that is gone takes its alarms with it.
    _write(history, replace(record(2, 0.9, 0.01, 150), others={}), table)
    assert watch(pipeline, store, unsaid) == ()


def test_another_meaning_or_other_classes_alarm_nobody(tmp_path):
    store = Store.open(tmp_path / "store", create=True)
    history, table = History(store), Nights(0).table()
    _write(history, record(0, 0.9, 0.01, 150), table)
    history.accept(history.records()[0], "me")

    def said():
        return finding(Rule.parse("sameness fell"), situation_of(store, history))

    _write(history, record(1, 0.1, 0.01, 150), table.assign(row=table["row"] + 1000))
    assert said().holds is True
    _write(history, record(2, 0.1, 0.01, 150, series="other"), table)
    assert said().holds is None
    assert "new series" in said().says
    _write(history, record(3, 0.1, 0.01, 125), table[table["label"] != "0"])
    assert said().holds is None
    assert "classes" in said().says
