"""What people say against measures: scipy, naive loops, planted answers, measured anchors."""

import importlib.util
import sys
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import pearsonr, rankdata, spearmanr

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.blocks.evaluation_set import evaluation_set_of
from alike.analysis.blocks.vectors import held_vectors
from alike.analysis.networks import centred_ranks
from alike.analysis.people.answers import HumanAnswers, check_answers, read_answers
from alike.analysis.people.correlation import agreement, rho_a
from alike.analysis.people.scores import (
    ONE_RATER,
    ONE_VOTE,
    SHARES,
    human_notes,
    human_scores,
    splits_of,
)
from alike.analysis.people.triplets import ONE_RATER as ONE_RATER_OF_TRIPLETS
from alike.analysis.report.people import people_section, people_sentences
from alike.analysis.report.subject import Subject
from alike.analysis.stored import Analysis
from alike.extract.errors import BadInput
from alike.flows.cli import main
from alike.flows.commands.analyse import _replaced

NONE = np.empty(0, np.int64)


def votes_of(counts):
    counts = np.asarray(counts, float)
    rows = np.arange(len(counts))
    return HumanAnswers("votes", rows, counts, np.empty((0, 3), np.int64), False, "0", ())


@pytest.mark.quick
@pytest.mark.parametrize("form", ["cosine", "euclidean"])
def test_copies_are_equally_alike_whichever_image_they_are_of(form):
    """Ranks would order distances of copies by the rounding of vectors and of products."""
    draw = np.random.default_rng(0)
    which, codes = draw.integers(0, 5, 90), np.repeat(np.arange(3), 30)
    x = draw.standard_normal((5, 64))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    images = evaluation_set_of(np.arange(90), [str(code) for code in codes])
    held = held_vectors(x[which].astype(np.float32), form)
    counts = draw.multinomial(10, [0.2, 0.3, 0.5], 90)
    truth = np.round(x @ x.T, 9)[np.ix_(which, which)]
    people = counts / 10
    wanted = agreement(truth, np.round(people @ people.T, 12), codes)
    found = human_scores(votes_of(counts), held, images, draws=0, splits=0).set_index("score")
    for name in ("all_pairs", "same_class", "different_class", "rho_a"):
        assert found["value"][name] == pytest.approx(wanted[name], abs=1e-9), name
    ranks = rankdata(-truth[np.triu_indices(90, 1)])
    assert np.allclose(centred_ranks(held, np.arange(90)), ranks - ranks.mean())


@pytest.mark.quick
def test_agreement_is_spearmans_over_each_kind_of_pair():
    draw = np.random.default_rng(0)
    codes = np.repeat(np.arange(4), 6)
    one, other = (v + v.T for v in draw.integers(0, 4, (2, 24, 24)).astype(float))
    got = agreement(one, other, codes)
    i, j = np.triu_indices(24, 1)
    same = codes[i] == codes[j]
    for name, kept in (
        ("all_pairs", same | ~same),
        ("same_class", same),
        ("different_class", ~same),
    ):
        wanted = spearmanr(one[i, j][kept], other[i, j][kept]).statistic
        assert got[name] == pytest.approx(wanted)
    means = [
        [v[np.ix_(codes == a, codes == b)].mean() for a in range(4) for b in range(a)]
        for v in (one, other)
    ]
    assert got["class_pairs"] == pytest.approx(spearmanr(*means).statistic)
    drawn = np.array([0, 0, 1, 2, 7, 7, 8, 13, 14, 20])
    pairs = [(a, b) for n, a in enumerate(drawn) for b in drawn[n + 1 :] if a != b]
    wanted = spearmanr([one[p] for p in pairs], [other[p] for p in pairs]).statistic
    assert agreement(one, other, codes, drawn)["all_pairs"] == pytest.approx(wanted)


def test_rho_a_breaks_ties_at_random():
    x, y = np.array([1.0, 1.0, 2.0, 3.0]), np.array([2.0, 1.0, 1.0, 1.0])
    orders = list(permutations(range(4)))
    fitting = [
        [
            o
            for o in orders
            if all((v[a] < v[b]) <= (o[a] < o[b]) for a in range(4) for b in range(4))
        ]
        for v in (x, y)
    ]
    values = [spearmanr(a, b).statistic for a in fitting[0] for b in fitting[1]]
    assert rho_a(x, y) == pytest.approx(np.mean(values))


def test_votes_of_people_who_see_as_the_network_does():
    """Probabilities of classes as features: people who vote by them agree, up to their number."""
    draw = np.random.default_rng(0)
    logits = 2.0 * draw.standard_normal((40, 5))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    images = evaluation_set_of(np.arange(40), [f"{i // 10}" for i in range(40)])
    counts = draw.multinomial(2000, p)
    table = human_scores(votes_of(counts), held_vectors(p.astype(np.float32), "inner"), images,
                         draws=30, splits=3).set_index("score")  # fmt: skip
    row = table.loc["all_pairs"]
    assert row["value"] > 0.98
    assert row["low"] < row["value"] < row["high"]
    assert row["ceiling_low"] < row["ceiling_high"] <= 1
    assert row["against_half"] > 0.98
    assert row["n"] == 40 * 39 / 2
    few = draw.multinomial(4, p)
    less = human_scores(votes_of(few), held_vectors(p.astype(np.float32), "inner"), images,
                        draws=0, splits=3).set_index("score").loc["all_pairs"]  # fmt: skip
    assert less["value"] < row["value"]
    assert less["ceiling_low"] < row["ceiling_low"]


def test_interval_holds_over_images_and_raters():
    """Truth: the mean of the score over many sets of images and raters of the same law."""
    draw = np.random.default_rng(0)
    images = evaluation_set_of(np.arange(24), [f"{i // 6}" for i in range(24)])

    def scored(draws):
        centres = 1.5 * np.eye(4)[images.codes]
        seen = centres + 0.8 * draw.standard_normal((24, 4))
        p = np.exp(2 * seen) / np.exp(2 * seen).sum(axis=1, keepdims=True)
        counts = draw.multinomial(10, p)
        x = (seen + 0.5 * draw.standard_normal((24, 4))).astype(np.float32)
        table = human_scores(votes_of(counts), held_vectors(x, "euclidean"), images, draws=draws,
                             splits=0, seed=int(draw.integers(1 << 30)))  # fmt: skip
        return table.set_index("score").loc["all_pairs", ["value", "low", "high"]].astype(float)

    truth = np.mean([scored(0)["value"] for _ in range(150)])
    held = [row["low"] <= truth <= row["high"] for row in (scored(60) for _ in range(40))]
    assert np.mean(held) >= 0.85


def test_ceilings_of_dissimilarities_are_those_of_each_rater():
    draw = np.random.default_rng(0)
    truth = draw.standard_normal((12, 3))
    rdms = np.stack([
        np.linalg.norm((v := truth + 0.7 * draw.standard_normal(truth.shape))[:, None] - v, axis=2)
        for _ in range(5)
    ])  # fmt: skip
    images = evaluation_set_of(np.arange(12), ["a"] * 6 + ["b"] * 6)
    none = np.empty((0, 3), np.int64)
    said = HumanAnswers("dissimilarities", np.arange(12), rdms, none, False, "0", ())
    vectors = held_vectors(truth.astype(np.float32), "euclidean")
    row = human_scores(said, vectors, images, draws=25).set_index("score").loc["all_pairs"]
    i, j = np.triu_indices(12, 1)
    flat = rdms[:, i, j]
    model = np.linalg.norm(truth[i] - truth[j], axis=1)
    assert row["value"] == pytest.approx(np.mean([spearmanr(model, v).statistic for v in flat]))
    ranked = np.stack([v.argsort().argsort() for v in flat]).astype(float)
    low = [spearmanr(ranked[r], np.delete(ranked, r, 0).mean(0)).statistic for r in range(5)]
    high = [spearmanr(ranked[r], ranked.mean(0)).statistic for r in range(5)]
    assert row["ceiling_low"] == pytest.approx(np.mean(low))
    assert row["ceiling_high"] == pytest.approx(np.mean(high))


def test_ceilings_are_those_of_rsatoolbox():
    rsatoolbox = pytest.importorskip("rsatoolbox")
    draw = np.random.default_rng(0)
    rdms = np.abs(draw.standard_normal((4, 10, 10)))
    rdms = rdms + rdms.transpose(0, 2, 1)
    i, j = np.triu_indices(10, 1)
    theirs = rsatoolbox.rdm.RDMs(rdms[:, i, j])
    x = draw.standard_normal((10, 3))
    model = np.linalg.norm(x[i] - x[j], axis=1)
    images = evaluation_set_of(np.arange(10), ["a"] * 5 + ["b"] * 5)
    none = np.empty((0, 3), np.int64)
    said = HumanAnswers("dissimilarities", np.arange(10), rdms, none, False, "0", ())
    vectors = held_vectors(x.astype(np.float32), "euclidean")
    got = human_scores(said, vectors, images, draws=0).set_index("score")
    for name, method in (("all_pairs", "spearman"), ("rho_a", "rho-a"), ("pearson", "corr")):
        wanted = rsatoolbox.rdm.compare(rsatoolbox.rdm.RDMs(model[None]), theirs, method=method)
        assert got.loc[name, "value"] == pytest.approx(wanted.mean())
    low, high = rsatoolbox.inference.boot_noise_ceiling(theirs, method="spearman")
    assert got.loc["all_pairs", "ceiling_low"] == pytest.approx(low)
    assert got.loc["all_pairs", "ceiling_high"] == pytest.approx(high)


@pytest.mark.parametrize("odd", [True, False])
def test_triplets(odd):
    draw = np.random.default_rng(0)
    x = draw.standard_normal((20, 3)).astype(np.float32)
    images = evaluation_set_of(np.arange(20), [f"{i // 5}" for i in range(20)])
    every = np.array(list(combinations(range(20), 3)))
    three = np.array([draw.permutation(row) for row in every[draw.permutation(1140)[:300]]])
    three = np.concatenate([three, three[:100]])
    none = np.empty((0, 0))
    said = HumanAnswers("triplets", NONE, none, three, odd, "0", ())
    row = human_scores(said, held_vectors(x, "euclidean"), images, draws=100).iloc[0]
    right = []
    for a, b, c in three:
        near, others = np.linalg.norm(x[a] - x[b]), [np.linalg.norm(x[a] - x[c])]
        others += [np.linalg.norm(x[b] - x[c])] if odd else []
        right.append(near < min(others))
    assert row["value"] == pytest.approx(np.mean(right))
    assert row["low"] < row["value"] < row["high"]
    assert row["low"] < (1 / 3 if odd else 1 / 2) < row["high"]
    # All who were asked twice said the same.
    assert row["ceiling_low"] == row["ceiling_high"] == 1


def test_people_of_one_opinion_agree_with_nothing():
    """All pairs are as alike to them: neither 0 nor an interval without width is so."""
    draw = np.random.default_rng(0)
    images = evaluation_set_of(np.arange(12), ["a", "b"] * 6)
    vectors = held_vectors(draw.standard_normal((12, 4)).astype(np.float32), "cosine")
    table = human_scores(votes_of(np.tile([3, 0], (12, 1))), vectors, images, draws=30, splits=3)
    assert table[["value", "low", "high"]].isna().all().all()
    assert all("one similarity" in note for note in table["note"])


@pytest.mark.parametrize("scale", [0.01, 1.0])
def test_shares_of_votes_are_not_rounded(scale):
    """Values are those of the votes; nobody knows how many people the shares are of."""
    draw = np.random.default_rng(0)
    images = evaluation_set_of(np.arange(30), [f"{n % 3}" for n in range(30)])
    vectors = held_vectors(draw.standard_normal((30, 4)).astype(np.float32), "cosine")
    counts = draw.multinomial(7, draw.dirichlet(np.ones(3), 30))
    shares = scale * counts / counts.sum(axis=1, keepdims=True)
    whole, part = (
        human_scores(votes_of(each), vectors, images, draws=30, splits=3)
        for each in (counts, shares)
    )
    assert part["value"].to_numpy() == pytest.approx(whole["value"].to_numpy())
    assert whole.loc[0, ["ceiling_low", "low"]].notna().all()
    assert part[["ceiling_low", "ceiling_high", "against_half"]].isna().all().all()
    assert part.loc[0, "low"] < part.loc[0, "value"] < part.loc[0, "high"]
    assert human_notes(part) == [SHARES]


@pytest.mark.quick
def test_one_vote_an_image_has_no_ceilings():
    draw = np.random.default_rng(0)
    images = evaluation_set_of(np.arange(12), ["a", "b"] * 6)
    vectors = held_vectors(draw.standard_normal((12, 4)).astype(np.float32), "cosine")
    single = np.eye(3)[draw.integers(0, 3, 12)]
    for counts, note in ((single, ONE_VOTE), (single + np.eye(12, 3), "no ceilings: 9 of 12 ")):
        table = human_scores(votes_of(counts), vectors, images, draws=25, splits=3)
        assert table["ceiling_low"].isna().all()
        assert human_notes(table)[0].startswith(note)


@pytest.mark.quick
def test_few_triplets_and_one_rater_are_noted():
    images = evaluation_set_of(np.arange(12), ["a", "b"] * 6)
    vectors = held_vectors(np.random.default_rng(0).random((12, 4), np.float32), "cosine")
    three = np.array([[0, 1, 2], [3, 4, 5], [6, 7, 8]])
    one = HumanAnswers("triplets", NONE, np.empty((0, 0)), three, False, "0", (), np.zeros(3, int))
    table = human_scores(one, vectors, images)
    assert human_notes(table) == ["chance is .5; " + ONE_RATER_OF_TRIPLETS]
    assert table["low"].isna().all()
    two = replace(one, triplets=three[:2])
    assert human_scores(two, vectors, images).empty
    assert two.too_few.startswith("fewer than 3 of the triplets")


def test_images_that_nobody_saw_are_counted():
    draw = np.random.default_rng(0)
    images = evaluation_set_of(np.arange(12), ["a", "b"] * 6)
    vectors = held_vectors(draw.standard_normal((12, 4)).astype(np.float32), "cosine")
    table = human_scores(votes_of(draw.integers(1, 5, (9, 3))), vectors, images, draws=0, splits=0)
    assert set(table["note"]) == {"people saw 9 of the 12 images"}


class TestFiles:
    @pytest.fixture
    def images(self):
        return pd.DataFrame({
            "row": [4, 3, 2, 1, 0], "image_id": list("edcba"),
            "path": [f"{n}.png" for n in (4, 3, 2, 1, 0)],
            "subset": ["test", "test", "test", None, None],
        })  # fmt: skip

    def test_rows_by_name_and_by_place(self, tmp_path, images):
        counts = np.arange(15).reshape(5, 3) + 1
        np.savez(tmp_path / "a.npz", counts=counts)
        said = read_answers(tmp_path / "a.npz", images)
        assert said.rows.tolist() == [0, 1, 2, 3, 4]
        assert "i-th image of the store" in said.notes[0]
        np.savez(tmp_path / "b.npz", counts=counts[:3])
        said = read_answers(tmp_path / "b.npz", images)
        assert said.rows.tolist() == [2, 3, 4]
        assert "the subset test" in said.notes[0]
        table = pd.DataFrame(counts, columns=["cat", "dog", "cow"])
        table.insert(0, "image_id", ["c", "x", "a", "b", "d"])
        table.to_csv(tmp_path / "c.csv", index=False)
        said = read_answers(tmp_path / "c.csv", images)
        assert said.rows.tolist() == [2, 0, 1, 3]
        assert said.values[1].tolist() == [7, 8, 9]
        assert "1 of 5 images are not in the store" in said.notes[0]

    def test_triplets_and_dissimilarities(self, tmp_path, images):
        lines = "anchor,near,far\n0.png,1.png,2.png\n0.png,1.png,9.png\n3.png,3.png,2.png\n"
        (tmp_path / "t.csv").write_text(lines)
        said = read_answers(tmp_path / "t.csv", images)
        assert said.triplets.tolist() == [[0, 1, 2]]
        assert not said.odd
        assert "2 of 3 triplets" in said.notes[0]
        np.savez(tmp_path / "r.npz", rdm=np.arange(9.0).reshape(3, 3), path=["2.png", "?", "0.png"])
        said = read_answers(tmp_path / "r.npz", images)
        assert said.values.tolist() == [[[0, 2], [6, 8]]]
        assert "r.npz is not symmetric: each pair has the mean" in said.notes[0]
        even = np.arange(9.0).reshape(3, 3) + np.arange(9.0).reshape(3, 3).T
        np.savez(tmp_path / "e.npz", rdm=even, path=["2.png", "1.png", "0.png"])
        assert read_answers(tmp_path / "e.npz", images).notes == ()

    @pytest.mark.parametrize(("content", "reason"), [
        ({"counts": np.ones((4, 2))}, "4 rows without names"),
        ({"counts": -np.ones((5, 2))}, "negative"),
        ({"rdm": np.ones((5, 4))}, "expected"),
        ({"counts": np.ones((2, 2)), "path": np.array(["1.png", "1.png"])}, "an image twice"),
        ({"other": np.ones(3)}, "holds other"),
        ({"counts": np.ones((1, 2)), "path": np.array(["no.png"])}, "none of its 1 images is in"),
        ({"counts": np.zeros((5, 2))}, "none of its 5 images in the store has a vote"),
        ({"counts": np.zeros((0, 2))}, r"counts of shape \(0, 2\)"),
        ({"counts": np.array(3)}, r"counts of shape \(\)"),
        ({"rdm": np.full((2, 2), "x")}, "the type <U1"),
        ({"counts": np.ones((2, 2), complex)}, "the type complex128"),
        ({"counts": np.ones((2, 2)), "path": np.array(["1.png"])}, "2 rows, and 1 in `path`"),
        ({"counts": np.ones((1, 2)), "path": np.array([b"\xff"])}, "is not UTF-8"),
    ])  # fmt: skip
    def test_refusals(self, tmp_path, images, content, reason):
        np.savez(tmp_path / "a.npz", **content)
        with pytest.raises(BadInput, match=reason):
            read_answers(tmp_path / "a.npz", images)
        for name, fault in (("none.npz", "no such file"), ("", "a folder")):
            with pytest.raises(BadInput, match=rf"{tmp_path / name}: {fault}; expected an \.npz"):
                read_answers(tmp_path / name, images)

    def test_names_of_images_in_a_table_are_texts(self, tmp_path, images):
        """An image within a Parquet file is named by its row; a file may be named with a #."""
        names = ["00000012", "a#1.png", "1e5", "d", "e"]
        images = images.assign(path=names[: len(images)])
        file = tmp_path / "v.csv"
        file.write_text("# of one rater\npath,cat,dog\n00000012,1,2\na#1.png,3,1\n1e5,2,7\n")
        assert read_answers(file, images).rows.tolist() == images["row"].tolist()[:3]
        file.write_text("path,cat,dog\n00000012,1,2\n")
        assert read_answers(file, images).rows.tolist() == images["row"].tolist()[:1]
        file.write_text("a,b,odd\n00000012,a#1.png,1e5\n")
        assert read_answers(file, images).triplets.tolist() == [images["row"].tolist()[:3]]
        file.write_text("path,cat,dog\nd,1,2,\ne,3,1,\n")
        with pytest.raises(BadInput, match="it names 3 columns, but its lines have 4"):
            read_answers(file, images)

    def test_a_damaged_file_is_one_line(self, tmp_path, images):
        np.savez_compressed(tmp_path / "a.npz", counts=np.arange(900.0).reshape(30, 30))
        whole = (tmp_path / "a.npz").read_bytes()
        np.save(tmp_path / "one.npy", np.ones((5, 2)))
        one = (tmp_path / "one.npy").read_bytes()
        for data in (b"", b"PK", one, whole[:60] + b"\xff" * 8 + whole[68:]):
            (tmp_path / "a.npz").write_bytes(data)
            for read in (check_answers, lambda file: read_answers(file, images)):
                with pytest.raises(BadInput, match="cannot be read"):
                    read(tmp_path / "a.npz")

    @pytest.mark.parametrize(("column", "values", "reason"), [
        ("", [0, 1, 2], "the column Unnamed: 0 has no name"),
        ("number", [3, 4, 5], "the column number numbers the rows"),
        ("total", [3, 7, 9], "the column total is the sum of the others"),
        ("cow", [1, "?", 1], "the column cow says '\\?' for b"),
        ("cow", [1, None, 1], "the column cow is empty for b"),
        ("label", ["cat", "dog", "cat"], "the column label says 'cat' for a"),
    ])  # fmt: skip
    def test_a_column_that_is_no_class_is_refused(self, tmp_path, images, column, values, reason):
        table = pd.DataFrame({"image_id": list("abc"), "cat": [1, 3, 2], "dog": [2, 4, 7]})
        table.insert(0, column, values)
        table.to_csv(tmp_path / "c.csv", index=False)
        for read in (check_answers, lambda file: read_answers(file, images)):
            with pytest.raises(BadInput, match=reason):
                read(tmp_path / "c.csv")
        table.drop(columns=column).to_csv(tmp_path / "c.csv", index=False)
        said = read_answers(tmp_path / "c.csv", images)
        assert said.record["classes"] == ["cat", "dog"]
        assert said.notes == ("classes of the votes: cat, dog",)


def test_analysis_holds_them(tmp_path, made, write_features):
    features = write_features(tmp_path / "store", made)
    p = np.abs(made.arrays["logits"]) + 0.1
    table = features.table("all")
    np.savez(
        tmp_path / "votes.npz", image_id=table["image_id"].to_numpy(str),
        counts=np.random.default_rng(0).multinomial(20, p / p.sum(axis=1, keepdims=True))[
            table["row"]
        ],
    )  # fmt: skip
    said = read_answers(tmp_path / "votes.npz", table)
    settings = AnalysisSettings(measures=["gap_cosine", "pixel_euclid"], bootstrap=0)
    analyse(features, settings, human=said)
    kept = Analysis.load(features.store, features.key)
    human = kept.tables["human"].set_index(["measure", "score"])
    assert kept.settings["human"]["kind"] == "votes"
    assert human.loc[("gap_cosine", "all_pairs"), "ceiling_low"] > 0
    assert np.isfinite(human.loc[("pixel_euclid", "all_pairs"), "value"])
    first, second = people_sentences(kept, "gap_cosine")
    assert "to the labels" in first
    assert "to people" in second


@pytest.mark.parametrize("kind", ["triplets", "rdm"])
def test_notes_are_shown_by_the_command_and_the_report(
    kind, tmp_path, made, write_features, monkeypatch, capsys
):
    features = write_features(tmp_path / "store", made)
    ids = features.table("all")["image_id"].to_numpy(str)
    draw = np.random.default_rng(0)
    if kind == "triplets":
        file = tmp_path / "triplets.csv"
        three = np.array([draw.choice(ids, 3, replace=False) for _ in range(60)])
        pd.DataFrame(three, columns=["a", "b", "odd"]).to_csv(file, index=False)
        wanted = ["chance is .333", "no column names raters"]
    else:
        file = tmp_path / "one.npz"
        rdm = draw.random((len(ids), len(ids)))
        np.savez(file, rdm=rdm + rdm.T, image_id=ids)
        wanted = ["one rater: the interval is over images alone, and there are no ceilings"]
    words = ["alike", "analyse", "--store", features.store.url, "--human", str(file)]
    words += ["--measures", "gap_cosine,pixel_euclid", "--bootstrap", "1"]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    shown = " ".join(capsys.readouterr().out.split())
    kept = Analysis.load(features.store, features.key)
    before = {"measures": ["gap_cosine"], "human": {"kind": kind}}
    assert _replaced(before, kept.settings) == []
    (note,) = _replaced(before, {**kept.settings, "human": {}})
    assert "with what people said" in note
    section = people_section(Subject(kept, None, None, "gap_cosine"))
    for note in wanted:
        assert shown.count(note) == section.count(note) == 1
    if kind == "rdm":
        row = kept.tables["human"].set_index(["measure", "score"]).loc["gap_cosine", "all_pairs"]
        assert row["low"] < row["value"] < row["high"]
        assert np.isnan(row["ceiling_low"])


def test_a_sample_of_the_images_is_noted(monkeypatch):
    monkeypatch.setattr("alike.analysis.people.scores.MOST", 20)
    draw = np.random.default_rng(0)
    images = evaluation_set_of(np.arange(24), [f"{i // 6}" for i in range(24)])
    vectors = held_vectors(draw.standard_normal((24, 3)).astype(np.float32), "euclidean")
    rdms = draw.random((2, 24, 24))
    one, two = (
        HumanAnswers("dissimilarities", np.arange(24), each, np.empty((0, 3), int), False, "0", ())
        for each in (rdms[:1], rdms)
    )
    assert human_notes(human_scores(two, vectors, images, draws=0)) == [
        "a stratified sample of 20 of 24 images"
    ]
    (note,) = human_notes(human_scores(one, vectors, images, draws=0))
    assert note == f"{ONE_RATER}; a stratified sample of 20 of 24 images"


def test_ceilings_of_votes_are_the_mean_over_splits_in_halves():
    """A hundred of them; of many images fewer, and the note says how many."""
    assert [splits_of(n) for n in (2, 1000, 1414, 2000)] == [100, 100, 50, 25]
    draw = np.random.default_rng(0)
    images = evaluation_set_of(np.arange(12), ["a"] * 6 + ["b"] * 6)
    counts = draw.integers(1, 9, (12, 3))
    vectors = held_vectors(draw.standard_normal((12, 3)).astype(np.float32), "euclidean")
    table = human_scores(votes_of(counts), vectors, images, draws=0)
    assert human_notes(table) == []
    again, upper, values = np.random.default_rng(0), np.triu_indices(12, 1), []
    for _ in range(100):
        half = np.array([again.multivariate_hypergeometric(row, row.sum() // 2) for row in counts])
        p, q = (part / part.sum(axis=1, keepdims=True) for part in (half, counts - half))
        alike = ((each @ each.T)[upper].round(12) for each in (p, q))
        values.append(spearmanr(*alike).statistic)
    ceiling = table.set_index("score").loc["all_pairs", "ceiling_low"]
    assert ceiling == pytest.approx(np.mean(values))
    few = human_scores(votes_of(counts), vectors, images, draws=0, splits=3)
    assert human_notes(few) == ["ceilings from 3 splits of the raters"]
    assert human_notes(human_scores(votes_of(counts), vectors, images, draws=0, splits=0)) == []


def test_halves_of_cifar_10h_by_pairs_of_classes(shared_data):
    """One half against the other, by class means written as a product of matrices.

    Spearman's correlation is near .88 and Pearson's near .98; ours is the first.
    """
    labels = np.load(shared_data / "cifar10_lossless_dev.npz")["y_test"].ravel()
    counts = np.load(shared_data / "cifar10h_first500.npz")["counts"].astype(int)
    weights = (labels[:, None] == np.arange(10)) / np.bincount(labels)
    upper = np.triu_indices(10, 1)
    draw = np.random.default_rng(0)
    ranked, plain = [], []
    for _ in range(20):
        half = np.stack([draw.multivariate_hypergeometric(row, row.sum() // 2) for row in counts])
        of_classes = [
            weights.T @ (part / part.sum(axis=1, keepdims=True)) for part in (half, counts - half)
        ]
        sides = [(one @ one.T)[upper] for one in of_classes]
        ranked.append(spearmanr(*sides).statistic)
        plain.append(pearsonr(*sides).statistic)
    assert np.mean(ranked) == pytest.approx(0.880, abs=0.0006)
    assert np.std(ranked) == pytest.approx(0.022, abs=0.0006)
    assert np.mean(plain) == pytest.approx(0.983, abs=0.0006)
    images = evaluation_set_of(np.arange(500), [f"{label}" for label in labels])
    vectors = held_vectors(draw.standard_normal((500, 4)).astype(np.float32), "cosine")
    table = human_scores(votes_of(counts), vectors, images, draws=0, splits=3).set_index("score")
    assert table.loc["class_pairs", "ceiling_low"] == pytest.approx(0.880, abs=3 * 0.022 / 3**0.5)


ANCHORS = {20: (0.553, 0.362, 0.331), 32: (0.531, 0.321, 0.408)}
OF_CLASS_PAIRS = {20: (0.884, 0.856), 32: (0.877, 0.826)}
"""Cosine of class means against agreement of votes; mean cosine against mean confusion."""
WEIGHTS = {20: "resnet20-12fca82f.th", 32: "resnet32-d509ac18.th"}


def of_class_pairs(gap, counts, labels):
    """Spearman over pairs of classes, by two formulas; see `OF_CLASS_PAIRS`."""
    weights = (labels[:, None] == np.arange(10)) / np.bincount(labels)
    upper = np.triu_indices(10, 1)
    confusion = weights.T @ (counts / counts.sum(axis=1, keepdims=True))
    means = weights.T @ gap
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    units = weights.T @ (gap / np.linalg.norm(gap, axis=1, keepdims=True))
    return tuple(
        spearmanr(one[upper], other[upper]).statistic
        for one, other in (
            (means @ means.T, confusion @ confusion.T),
            (units @ units.T, confusion + confusion.T),
        )
    )


def test_anchors_of_cifar_10h(shared_data):
    """Measured by an independent program: all, different-class and same-class pairs."""
    spec = importlib.util.spec_from_file_location("cifar_resnet", shared_data / "cifar_resnet.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    data = np.load(shared_data / "cifar10_lossless_dev.npz")
    votes = votes_of(np.load(shared_data / "cifar10h_first500.npz")["counts"])
    images = evaluation_set_of(np.arange(500), [f"{label}" for label in data["y_test"].ravel()])
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in
                 ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))  # fmt: skip
    x = (torch.from_numpy(data["x_test"]).permute(0, 3, 1, 2).float() / 255 - mean) / std
    for depth, wanted in ANCHORS.items():
        net = module.resnet(depth).eval()
        state = torch.load(shared_data / "weights" / WEIGHTS[depth], weights_only=True,
                           map_location="cpu")  # fmt: skip
        net.load_state_dict({k.removeprefix("module."): v for k, v in state["state_dict"].items()})
        maps = []
        net.layer3.register_forward_hook(lambda m, a, out, maps=maps: maps.append(out.mean((2, 3))))
        with torch.inference_mode():
            for low in range(0, 500, 250):
                net(x[low : low + 250])
        gap = torch.cat(maps).numpy()
        figures = of_class_pairs(gap, votes.values, data["y_test"].ravel())
        assert figures == pytest.approx(OF_CLASS_PAIRS[depth], abs=6e-4)
        gap /= np.linalg.norm(gap, axis=1, keepdims=True)
        vectors = held_vectors(gap[images.rows], "cosine")
        first = depth == 20
        table = human_scores(votes, vectors, images, draws=0, splits=2 if first else 0)
        table = table.set_index("score")
        names = ["all_pairs", "different_class", "same_class"]
        assert table.loc[names, "value"].to_numpy() == pytest.approx(wanted, abs=6e-4)
        if first:
            ceilings = table.loc[names, "ceiling_low"].to_numpy()
            assert ceilings == pytest.approx((0.719, 0.461, 0.663), abs=0.02)
