"""The report answers first, holds everything it shows, and fetches nothing."""

import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from alike.analysis.blocks import evaluation_set
from alike.analysis.figures import map as figures_map
from alike.analysis.report import map as report_map
from alike.analysis.report.answer import answer
from alike.analysis.report.classes import classes
from alike.analysis.report.lookup import rungs
from alike.analysis.report.report import write_dated, write_report
from alike.analysis.report.subject import Subject
from alike.extract.errors import BadInput


class Loads(HTMLParser):
    """Collects whatever a browser would fetch: src, href of links, srcset, data, poster."""

    def __init__(self):
        super().__init__()
        self.addresses = []
        self.text = []

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in {"src", "srcset", "data", "poster", "action", "background"} or (
                name == "href" and tag == "link"
            ):
                self.addresses.append(value)


def loads(page):
    parser = Loads()
    parser.feed(page)
    return [address for address in parser.addresses if not address.startswith("data:")]


def first_lines(page):
    header = page[page.index("<header") : page.index("</header>")]
    header = re.sub(r"<script.*?</script>", " ", header, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", header).split())


@pytest.fixture(scope="module")
def two(analysed, compared, run_record, tmp_path_factory):
    before, after = analysed(spread=0.45), analysed(spread=0.3, key="net-1")
    path = tmp_path_factory.mktemp("réport dir") / "report.html"
    write_report(
        path, before=before, after=after, comparison=compared(before, after), run=run_record,
    )  # fmt: skip
    return path.read_text(encoding="utf-8"), before, after


def test_first_lines_answer(two):
    page, before, after = two
    said = first_lines(page)
    assert "Yes: same-class features came closer" in said
    old, new = (
        m.tables["scores"].query("measure == 'gap_cosine' and score == 'sameness'").value.iloc[0]
        for m in (before, after)
    )
    assert f"{old:.3f} to {new:.3f}" in said
    assert f"{new - old:+.3f}" in said
    assert "95 % interval" in said
    assert "Accuracy went from 91.0 % to 94.0 %" in said
    assert page.index("Yes: same-class") < page.index("plotly.js v")


def test_nothing_is_fetched(two):
    page = two[0]
    assert loads(page) == []
    assert "default-src 'none'" in page
    own = page[: page.index("/**\n* plotly.js")]
    assert not re.search(r"@import|url\((?!data:)", own)
    assert "http" not in re.sub(r'<meta http-equiv="Content', "", own)


def test_states_everything_of_the_run(two, run_record):
    page = two[0]
    for said in (
        "2.14.1",
        "MAP@R</dt><dd>R-precision in which early ranks count more",
        "extract.taps",
        "ends early",
        "unreadable",
        "λ halved",
        "net-1",
        "3.2 s",
    ):
        assert said in page
    assert "a/&lt;b&gt;.jpg" in page
    assert "a/<b>.jpg" not in page


@pytest.mark.parametrize(
    ("low", "high", "tone"),
    [(0.01, 0.05, "better"), (-0.01, 0.05, "unclear"), (-0.05, -0.01, "worse")],
)
def test_verdict_follows_the_interval(analysed, low, high, tone):
    before, after = analysed(n_classes=3, each=5), analysed(n_classes=3, each=5, spread=0.3)
    row = ("sameness", 0.5, 0.53, 0.03, low, high, "up")
    columns = ["score", "a", "b", "difference", "low", "high", "better"]
    comparison = pd.DataFrame([row], columns=columns)
    assert answer(before, after, comparison, "gap_cosine").tone == tone


def test_without_interval_no_verdict_is_claimed(analysed):
    before, after = analysed(n_classes=3, each=5), analysed(n_classes=3, each=5, spread=0.3)
    assert answer(before, after, None, "gap_cosine").tone == "unclear"


@pytest.mark.parametrize("n_classes", [2, 10, 70])
def test_one_analysis_of_any_number_of_classes(analysed, tmp_path, n_classes):
    one = analysed(n_classes=n_classes, each=4)
    # As of a class of one image.
    alone = one.tables["class_pairs"].eval("class_a == class_b")
    one.tables["class_pairs"].loc[alone, "mean"] = float("nan")
    page = write_report(tmp_path / "one.html", before=one).read_text(encoding="utf-8")
    said = first_lines(page)
    assert "of 100 comparisons" in said
    assert f"{n_classes} classes" in said
    assert "The worst class is" in said
    assert "raw pixels" in page
    assert ">nan<" not in page


def test_thousand_classes_stay_small(tmp_path, analysed):
    one = analysed(n_classes=3, each=4)
    names = [f"n{i:05d}" for i in range(1000)]
    rng = np.random.default_rng(0)
    a, b = np.meshgrid(names, names, indexing="ij")
    pairs = pd.DataFrame(
        {"measure": "gap_cosine", "class_a": a.ravel(), "class_b": b.ravel(),
         "mean": rng.random(1_000_000), "std": 0.1, "n_pairs": 10}
    )  # fmt: skip
    one.tables["class_pairs"] = pairs
    path = write_report(tmp_path / "many.html", before=one)
    assert path.stat().st_size < 8_000_000
    assert "averaged into 240 blocks" in path.read_text(encoding="utf-8")


def test_very_many_classes_are_listed_in_part(analysed, very_many_classes):
    one = analysed(n_classes=3, each=4)
    one.tables.update(very_many_classes)
    began = time.perf_counter()
    page = classes(Subject(one, None, None, "gap_cosine"))
    assert time.perf_counter() - began < 2
    assert len(page) < 1_000_000
    assert "5,000 classes: no matrix beyond 2,048" in page
    assert 'id="matrix' not in page
    table = very_many_classes["per_class"].sort_values("sameness")
    listed = re.findall(r'<tr><td class="t">(n\d{8})</td><td class="n"', page)
    assert listed == table["class"].head(1000).tolist()
    assert "The 1\u202f000 worst of 5\u202f000 classes as a table" in page
    assert "<code>alike export</code> writes the table of all classes" in page
    pairs = very_many_classes["class_pairs"].query("class_a != class_b").sort_values("mean")
    nearest = pairs.iloc[::2].head(8)
    wanted = [sorted(pair) for pair in zip(nearest["class_a"], nearest["class_b"], strict=True)]
    shown = re.findall(r'<td class="t">(n\d{8})</td><td class="t">(n\d{8})</td>', page)
    assert [list(pair) for pair in shown] == wanted


def test_a_report_without_a_matrix(real, digits, tmp_path, monkeypatch, nearest_alone):
    """Of a store: the map and its images are there, and neighbours that cross classes."""
    monkeypatch.setattr(evaluation_set, "MANY", 9)
    monkeypatch.setattr(figures_map, "MOST_TRACES", 9)
    monkeypatch.setattr(report_map, "MOST_TRACES", 9)
    few = nearest_alone(real[0].tables["class_pairs"], 3)
    before = replace(real[0], tables={**real[0].tables, "class_pairs": few})
    path = write_report(tmp_path / "few.html", before=before, store=digits.store)
    page = path.read_text(encoding="utf-8")
    assert "10 classes: no matrix beyond 9" in page
    assert 'id="matrix' not in page
    for said in ("Classes that are most often confused", "Classes that lie nearest to each other",
                 '<input class="mapclass"'):  # fmt: skip
        assert said in page


def test_neural_collapse_stands_among_the_scores(analysed, compared, tmp_path):
    before, after = analysed(n_classes=3, each=5), analysed(n_classes=3, each=5, spread=0.3)
    for one, value in ((before, 1.234), (after, 0.987)):
        rows = one.tables["scores"]
        rows.loc[len(rows)] = ["network", "nc1", value, np.nan, np.nan, "down", ""]
    comparison = compared(before, after)
    more = [
        ("nc1", 1.234, 0.987, -0.247, -0.3, -0.2, "down"),
        ("worst_class_sameness", 0.1, 0.2, 0.1, 0.05, 0.15, "up"),
    ]
    comparison = pd.concat(
        [comparison, pd.DataFrame(more, columns=comparison.columns)], ignore_index=True
    )
    path = write_report(tmp_path / "nc.html", before=before, after=after, comparison=comparison)
    page = path.read_text(encoding="utf-8")
    row = page[page.index("NC1<span") :].partition("</tr>")[0]
    assert "1.234" in row
    assert "0.987" in row
    # A change with its interval, and no mark: that is the headline's alone.
    assert '<span class="">−0.247</span>' in row.replace("\N{MINUS SIGN}", "−")
    assert "95 % interval +0.050 to +0.150" in first_lines(page)


def test_missing_tables_leave_their_sections_out(analysed, tmp_path):
    one = analysed(n_classes=3, each=5)
    for name in ("histograms", "roc", "per_class", "neighbours", "pairs_examples"):
        one.tables.pop(name)
    page = write_report(tmp_path / "thin.html", before=one, run={"network": None}).read_text(
        "utf-8"
    )
    assert '<section id="distances"' not in page
    assert ">Raw pixels</button>" in page
    assert ">Classifier</button>" in page
    # Columns of what was not computed are left out, and so is what says what they are.
    scores = one.tables["scores"]
    one.tables["scores"] = scores[scores["measure"].isin(["gap_cosine", "softmax_dot"])]
    page = write_report(tmp_path / "thin.html", before=one).read_text("utf-8")
    assert '<section id="scores"' in page
    assert "Raw pixels" not in page[page.index('<section id="scores"') :].partition("</section>")[0]
    assert ">Classifier</button>" in page


@pytest.mark.quick
def test_rungs_are_in_order(analysed):
    one = analysed(n_classes=4, each=6)
    steps = rungs(one, None, "gap_cosine")
    assert list(steps["role"]) == ["floor", "untrained", "only", "ceiling"]
    scores = one.tables["scores"]
    one.tables["scores"] = scores[scores["score"] != "accuracy"]
    # A classifier of other classes gives no accuracy, and is no ceiling.
    assert list(rungs(one, None, "gap_cosine")["role"]) == ["floor", "untrained", "only"]


@pytest.fixture(scope="module")
def real(digits):
    from alike.analysis.analyse import AnalysisSettings, analyse
    from alike.analysis.compare import compare

    wanted = ["gap_cosine", "softmax_dot", "pixel_euclid"]
    sides = [
        analyse(features, AnalysisSettings(measures=wanted, bootstrap=20))
        for features in (digits.before, digits.after)
    ]
    return (*sides, compare(digits.before, digits.after, bootstrap=20))


def test_real_images_are_inside(real, digits, tmp_path):
    before, after, comparison = real
    path = write_report(
        tmp_path / "real.html",
        before=before,
        after=after,
        comparison=comparison,
        store=digits.store,
    )
    page = path.read_text(encoding="utf-8")
    assert "Yes: same-class features came closer" in first_lines(page)
    for name in ("scores", "distances", "classes", "images", "map", "measures", "making"):
        assert f'<section id="{name}">' in page
    for said in ("Where it helped most", "Worst", "Classes that are most often confused"):
        assert said in page
    assert page.count("data:image/png;base64") > 50
    assert 'id="atlas"' in page
    assert loads(page) == []
    assert path.stat().st_size < 8_000_000
    assert page.count('class="thumb') > 100


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, to draw what the report holds")
@pytest.mark.parametrize("flag", ["--enable-unsafe-swiftshader", "--disable-3d-apis"])
def test_a_browser_draws_the_map_of_many_images(real, digits, tmp_path, monkeypatch, flag):
    without = flag == "--disable-3d-apis"
    monkeypatch.setattr(figures_map, "SVG_POINTS", 10)
    # Without WebGL as one trace, as of very many classes.
    monkeypatch.setattr(figures_map, "MOST_TRACES", 5 if without else 10)
    path = write_report(tmp_path / "r.html", before=real[0], store=digits.store)
    page = path.read_text(encoding="utf-8")
    assert '"scattergl"' in page
    # Figures are drawn when they are looked at, or printed; nobody looks here.
    draw = '<script>window.dispatchEvent(new Event("beforeprint"))</script></body>'
    path.write_text(page.replace("</body>\n</html>", f"{draw}</html>"), encoding="utf-8")
    command = [
        CHROMIUM, "--headless=new", "--no-sandbox", f"--user-data-dir={tmp_path / 'profile'}", flag,
        "--virtual-time-budget=10000", "--dump-dom", path.as_uri(),
    ]  # fmt: skip
    drawn = subprocess.run(command, capture_output=True, timeout=300, check=True).stdout.decode()
    body = drawn[: drawn.index("plotly.js v")]
    assert body.count('data-drawn="yes"') >= 5
    assert "WebGL is not supported" not in body
    drawn_map = body[body.index('id="map-network"') :].partition("application/json")[0]
    points = len(digits.before.table("held_out"))
    assert (drawn_map.count("<path") >= points) == without
    assert ("canvas" in drawn_map) != without


def test_one_real_network_without_maps_and_images(real, digits, tmp_path):
    path = write_report(
        tmp_path / "plain.html", before=real[0], store=digits.store, maps=False, thumbnails=False
    )
    page = path.read_text(encoding="utf-8")
    assert "Beware" not in page
    assert '<section id="images"' not in page
    assert "data:image" not in page.replace("img-src data:", "")[: page.index("plotly.js v")]


WITHOUT_TORCH = """
import sys
from pathlib import Path
from types import SimpleNamespace

import pandas as pd

from alike.analysis.report import write_report
from alike.extract.store import Store

url, key, folder, to = sys.argv[1:]
tables = {path.stem: pd.read_parquet(path) for path in Path(folder).glob("*.parquet")}
analysis = SimpleNamespace(
    key=key, n_images=9, classes=("a", "b"), settings={}, tables=tables, outdated=lambda _: ""
)
write_report(to, before=analysis, store=Store.open(url), maps=False, thumbnails=False)
print(*sorted({"torch", "torchvision", "plotly"} & set(sys.modules)))
"""


def test_a_report_without_explanations_loads_no_torch(real, digits, tmp_path):
    for name, table in real[0].tables.items():
        table.to_parquet(tmp_path / f"{name}.parquet")
    to = tmp_path / "r.html"
    words = [digits.store.url, digits.before.key, str(tmp_path), str(to)]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, *words], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["plotly"]
    assert '<section id="classes">' in to.read_text(encoding="utf-8")


def test_what_the_extraction_noted_is_shown(real, digits, tmp_path):
    before = digits.before.attrs
    warning = {"images": 9, "top1": 0.1, "warning": "the preprocessing looks wrong: 2 of 16"}
    said = {**before, "self_check": warning, "tap_notes": {"fc": "the mean of last_conv"}}
    digits.store.create_features(said, digits.before.key, {})
    try:
        path = write_report(
            tmp_path / "noted.html",
            before=real[0],
            store=digits.store,
            maps=False,
            thumbnails=False,
        )
    finally:
        empty = {"self_check": {}, "tap_notes": {}}
        digits.store.create_features({**before, **empty}, digits.before.key, {})
    page = path.read_text(encoding="utf-8")
    assert "Beware: the preprocessing looks wrong: 2 of 16" in first_lines(page)
    assert "fc: the mean of last_conv" in page


def test_a_map_that_takes_long_or_cannot_be_made_is_explained(real, digits):
    from alike.analysis.maps.maps import MapSettings, make_map
    from alike.analysis.report.map import make_maps
    from alike.analysis.report.subject import Subject
    from alike.extract.progress import silent

    subject = Subject(real[0], None, None, "gap_cosine")
    assert make_maps(subject, digits.store, most=10**6, progress=silent)[1] == ""
    digits.store.files.remove("maps/plain-0001/gap_cosine.held_out.parquet")
    asked = MapSettings(perplexity=11, sample=100, seed=5)
    own = make_map(digits.before, asked)
    for most in (10, 10**6):
        maps, why = make_maps(subject, digits.store, most=most, progress=silent)
        assert why == ""
        pd.testing.assert_frame_equal(maps[0][1], own)
        assert (maps[0][1].attrs["perplexity"], maps[0][1].attrs["seed"]) == (11, 5)
    digits.store.files.remove("maps/plain-0001/gap_cosine.held_out.parquet")
    maps, why = make_maps(subject, digits.store, most=10, progress=silent)
    assert maps == []
    assert "alike map --store" in why
    maps, why = make_maps(Subject(real[0], None, None, "map_cosine"), digits.store, progress=silent)
    assert maps == []
    assert "last_conv" in why


def test_images_that_went_away_leave_the_numbers(real, digits, tmp_path):
    moved = digits.images.with_name("moved")
    digits.images.rename(moved)
    try:
        path = write_report(tmp_path / "moved.html", before=real[0], store=digits.store)
    finally:
        moved.rename(digits.images)
    page = path.read_text(encoding="utf-8")
    assert "No images are shown" in page
    assert 'id="map-network"' in page
    assert '<section id="scores"' in page


def test_one_image_that_went_away_leaves_a_gap(real, digits, tmp_path):
    table = digits.before.table("held_out")
    gone = digits.images / table["path"][0]
    kept = gone.read_bytes()
    gone.unlink()
    try:
        write_report(tmp_path / "gap.html", before=real[0], store=digits.store)
    finally:
        gone.write_bytes(kept)
    assert (tmp_path / "gap.html").exists()


def test_control_and_reuse_are_told(analysed, compared, tmp_path):
    before, after = analysed(n_classes=3, each=6), analysed(n_classes=3, each=6, spread=0.3)
    comparison = compared(before, after)
    run = {"control": comparison, "reused": ["extract network", "index network"]}
    path = write_report(
        tmp_path / "c.html", before=before, after=after, comparison=comparison, run=run
    )
    page = path.read_text(encoding="utf-8")
    assert "without the consistency loss reaches" in first_lines(page)
    assert "extract network, index network" in page


def test_analyses_of_two_score_versions_are_not_set_side_by_side(tmp_path, two):
    _, before, after = two
    old = replace(before, settings={**before.settings, "scores_version": 1})
    new = replace(after, settings={**after.settings, "scores_version": 2})
    with pytest.raises(BadInput, match="scores of versions 1 and 2, which mean different things"):
        write_report(tmp_path / "r.html", before=old, after=new)


def test_dated_reports_share_one_script(tmp_path, analysed):
    """A run keeps a report for every day: the 5 MB of plotly are there once."""
    report = write_report(tmp_path / "report.html", before=analysed())
    for day in (1, 2):
        write_dated(report, tmp_path / "reports" / f"2026-01-0{day}.html")
        if day == 1:
            (damaged,) = (tmp_path / "reports").glob("*.js")
            damaged.write_text("")
    pages = sorted((tmp_path / "reports").glob("*.html"))
    (script,) = (tmp_path / "reports").glob("*.js")
    assert len(pages) == 2
    assert len(list((tmp_path / "reports").iterdir())) == 3
    whole, dated = report.read_text(), pages[0].read_text()
    assert f'<script src="{script.name}"></script>' in dated
    assert script.read_text() in whole
    assert script.read_text() not in dated
    assert len(whole) - len(dated) == pytest.approx(len(script.read_text()), abs=500)
    # All figures and tables are still inside.
    assert (
        whole.split("<body>")[1].split("<footer>")[0]
        == (dated.split("<body>")[1].split("<footer>")[0])
    )
