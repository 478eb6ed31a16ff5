"""`import alike`: cheap; names and arguments of the command line; results show themselves."""

import inspect
import json
import os
import subprocess
import sys
import warnings
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import typer.main
from typer.testing import CliRunner

import alike
from alike.extract.display import Summary, with_interval
from alike.extract.errors import BadInput
from alike.extract.images import open_source
from alike.extract.networks import trust
from alike.extract.store import Store
from alike.flows.cli import app

FUNCTIONS = {
    "run_pipeline": "run",
    "extract_images": "extract",
    "build_index": "index",
    "neighbours": "neighbours",
    "analyse": "analyse",
    "compare": "compare",
    "explain": "explain",
    "probe_background": "probe background",
    "retrain": "retrain",
    "write_report": "report",
    "export": "export",
}
"""Function to the command that it is."""

TABLES = ("MEASURES", "SCORES", "LOSSES", "EXPLAINERS")
NAMES = {*FUNCTIONS, *TABLES, "connect", "open_store", "rank_networks", "Store", "__version__"}

HEAVY = ("torch", "torchvision", "prefect", "dask", "distributed", "faiss", "lightning", "plotly")
HEAVY = (*HEAVY, "pandas", "numpy", "zarr", "numba", "scipy", "fastapi", "typer")

FILES_ONLY = {"as_json", "json", "to", "arrays", "every"}
"""Options that write or print what a function returns, and `compare --all`: `rank_networks`."""


def loaded(code, folder):
    """The heavy packages that a fresh Python has loaded after some code, in a folder."""
    tell = f"import json, sys; print(json.dumps([n for n in {HEAVY} if n in sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tell}"],
        capture_output=True,
        text=True,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def command(*words):
    return f"""
import sys
from alike.flows.cli import main
sys.argv = {["alike", *map(str, words)]}
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
"""


@pytest.fixture(scope="session")
def studied(tiny_set, tmp_path_factory):
    """A store made by the API alone, in the order of a study."""
    place = tmp_path_factory.mktemp("studied") / "store"
    arguments = (tiny_set.images, tiny_set.network, place)
    # What tables and arrays give as numbers: numpy's own.
    report = alike.extract_images(
        *arguments, weights="none", train_share=np.float64(0.4), threads=np.int64(1),
    )  # fmt: skip
    store = alike.open_store(place)
    return SimpleNamespace(
        store=store,
        place=place,
        extraction=report,
        index=alike.build_index(store),
        analysis=alike.analyse(
            store, measures="gap_cosine,pixel_euclid", bootstrap=np.int64(20), seed=np.uint8(0)
        ),
    )


# What is loaded


def test_import_takes_no_time(tmp_path):
    code = "import time; t = time.process_time(); import alike; print(time.process_time() - t)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    taken = [
        float(subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path, env=environment))
        for _ in range(3)
    ]
    assert min(taken) < 0.2


@pytest.mark.parametrize(
    ("code", "loads"),
    [
        ("import alike; alike.__version__; dir(alike)", set()),
        (f"import alike; [getattr(alike, name) for name in {sorted(FUNCTIONS)}]", set()),
        ("import alike; alike.SCORES", set()),
        ("import alike; alike.MEASURES", {"numpy"}),
        ("import alike; alike.Store", {"numpy", "pandas"}),
        (
            "import alike; alike.LOSSES; alike.EXPLAINERS",
            {"numpy", "pandas", "torch", "torchvision"},
        ),
        (command("--help"), {"typer"}),
        (command("list", "measures"), {"typer", "numpy"}),
        (command("list", "scores"), {"typer"}),
    ],
)
def test_what_an_entry_point_loads(code, loads, tmp_path):
    assert loaded(code, tmp_path) <= loads


@pytest.mark.parametrize(
    "words",
    [
        ("neighbours", 3, "--store", "{store}", "--json"),
        ("export", "--store", "{store}", "--to", "out.parquet"),
        ("store", "ls", "{store}"),
    ],
)
def test_stored_features_are_read_without_torch(words, studied, tmp_path):
    words = [str(word).format(store=studied.place) for word in words]
    slow = {"torch", "torchvision", "prefect", "dask", "numba"}
    assert not slow & loaded(command(*words), tmp_path)


# Names and arguments


def test_names():
    assert set(alike.__all__) == NAMES
    assert set(dir(alike)) >= NAMES - {"__version__"}
    assert all(getattr(alike, name) is not None for name in NAMES)
    with pytest.raises(AttributeError, match="extrakt"):
        alike.extrakt  # noqa: B018


@pytest.mark.quick
def test_no_public_name_is_a_folder_or_module():
    """Importing `alike.NAME` would put the module in the place of the function."""
    beside = {path.stem for path in Path(alike.__file__).parent.iterdir()}
    assert {"extract", "analysis", "api"} <= beside
    assert not beside & NAMES


def commands_of(group, before=""):
    """Every command below a group, by its words."""
    every = {}
    for name, one in group.commands.items():
        words = f"{before}{name}"
        every |= commands_of(one, f"{words} ") if hasattr(one, "commands") else {words: one}
    return every


COMMANDS = commands_of(typer.main.get_command(app))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_arguments_are_those_of_the_command(name):
    ours = dict(inspect.signature(getattr(alike, name)).parameters)
    # Spellings of before, which are hidden, are no arguments.
    theirs = {one.name: one for one in COMMANDS[FUNCTIONS[name]].params if not one.hidden}
    assert ours.keys() >= theirs.keys() - FILES_ONLY - {"set_"}
    assert ours.keys() - theirs.keys() <= {"progress", "settings"}
    for option in theirs.keys() & ours.keys():
        default = theirs[option].default
        if ours[option].default is inspect.Parameter.empty:
            assert theirs[option].required or option in ("images", "a", "b"), option
            continue
        mine = ours[option].default
        mine = ",".join(mine) if isinstance(mine, tuple) else mine
        assert str(mine) == str(default) or (mine is None and default in (None, [])), option
    doc = inspect.getdoc(getattr(alike, name))
    assert all(f"    {argument}: " in doc for argument in ours)


def ranges():
    """Function, argument, smallest and largest number of every option of a command that has one."""
    for name, words in FUNCTIONS.items():
        function = getattr(alike, name)
        for option in COMMANDS[words].params:
            # Of Click the type has it, of typer's own parameters they themselves.
            of = option if hasattr(option, "min") else getattr(option, "type", None)
            ends = getattr(of, "min", None), getattr(of, "max", None)
            if option.name in inspect.signature(function).parameters and ends != (None, None):
                yield function, option.name, *ends


def test_ranges_are_those_of_the_command():
    """Refused before anything is done: there is no store `x`."""
    every = list(ranges())
    assert len(every) >= 25
    for function, argument, low, high in every:
        ours = inspect.signature(function).parameters
        needed = {one.name: "x" for one in ours.values() if one.default is one.empty}
        beyond = [low - 1, *([] if high is None else [high + 1])]
        beyond += [float("inf")] if "float" in str(ours[argument].annotation) else []
        for value in beyond:
            line = rf"^{argument} {value}: a (whole )?number from {low} "
            with pytest.raises(BadInput, match=line):
                function(**{**needed, argument: value})


# What comes back


def test_store(studied):
    assert repr(studied.store) == f"<store {studied.place}>"
    html = shown(studied.store)
    assert studied.extraction.key in html
    assert alike.open_store(studied.store) is studied.store
    with pytest.raises(BadInput, match="no store at"):
        alike.open_store(studied.place / "absent")
    # An option that is misspelt was passed over.
    with pytest.raises(BadInput, match=r"has no options; given are: creat$"):
        alike.open_store(studied.place / "absent", creat=True)
    for open_empty in (Store.open, open_source):
        with pytest.raises(BadInput, match="an empty name of"):
            open_empty("")


def test_extraction(studied):
    assert studied.extraction.n_rows == 27
    assert "images with features 27" in repr(studied.extraction)
    assert "27" in shown(studied.extraction)


def test_analysis_card(studied):
    scores = studied.analysis.tables["scores"]
    chosen = scores[(scores["measure"] == "gap_cosine") & (scores["score"] == "sameness")].iloc[0]
    interval = f"{chosen['value']:.4g} [{chosen['low']:.4g}, {chosen['high']:.4g}]"
    classes = studied.analysis.tables["per_class"]
    classes = classes[classes["measure"] == "gap_cosine"].set_index("class")["sameness"]
    worst = f"{classes.idxmin()} {classes.min():.4g}"
    line = repr(studied.analysis)
    assert f"sameness {interval}, worst class {worst}, evaluated 14 images" in line
    assert "\n" not in line
    assert len(line) < 300
    html = shown(studied.analysis)
    assert interval in html
    assert "pixel_euclid" in html


def naive(store, row, k):
    """Rows nearest to a row by the cosine of its pooled features."""
    features = store.features()
    rows = features.table()["row"].to_numpy()
    gap = features.read("gap", rows).astype(float)
    gap /= np.linalg.norm(gap, axis=1, keepdims=True)
    distances = 1 - gap @ gap[list(rows).index(row)]
    distances[list(rows).index(row)] = np.inf
    order = np.argsort(distances, kind="stable")[:k]
    return rows[order], distances[order]


def test_neighbours_of_rows_files_bytes_and_vectors(studied, tiny_set):
    table = studied.store.features().table().set_index("row")
    file = tiny_set.images / table.at[5, "path"]
    rows, distances = naive(studied.store, 5, 4)
    vector = studied.store.features().read("gap", [5])[0].astype(np.float32)
    for query in (5, np.int64(5), str(file), file, file.read_bytes()):
        found = alike.neighbours(query, studied.store, 4)
        assert found.rows.tolist() == [rows.tolist()]
        np.testing.assert_allclose(found.distances[0], distances, atol=2e-5)
    found = alike.neighbours(np.array([5, 7]), studied.place, 4)
    assert found.rows[0].tolist() == rows.tolist()
    assert found.rows[1].tolist() == naive(studied.store, 7, 4)[0].tolist()
    # A vector has no row of its own that could be left out; its length plays no part in an angle.
    found = alike.neighbours(3 * vector, studied.store, 5)
    assert found.rows[0].tolist() == [5, *rows]
    both = studied.store.features().read("gap", [5, 7]).astype(np.float32)
    wanted = alike.neighbours(both, studied.store, 5)
    tensor = torch.from_numpy(both).requires_grad_()
    frame = pd.DataFrame(both)
    for given in (tensor, frame, list(both), tuple(tensor), both.tolist(), both.astype(np.float64)):
        found = alike.neighbours(given, studied.store, 5)
        assert found.rows.tolist() == wanted.rows.tolist()
        assert found.distances.tolist() == wanted.distances.tolist()
    assert alike.neighbours(tensor.bfloat16(), studied.store, 5).rows.shape == (2, 5)
    assert alike.neighbours(torch.tensor([5, 7]), studied.store, 2).rows.shape == (2, 2)
    found = alike.neighbours(vector, studied.store, 5, among=["b"])
    assert set(found.table["label"]) == {"b"}
    found = alike.neighbours([5], studied.store, other_class=True)
    assert table.at[5, "label"] not in set(found.table["label"])


def test_neighbours_refuses(studied, tmp_path):
    with pytest.raises(BadInput, match="exclude each other"):
        alike.neighbours(5, studied.store, same_class=True, other_class=True)
    with pytest.raises(BadInput, match="vectors have no images"):
        alike.neighbours(np.ones(6), studied.store, rerank="chamfer")
    for shape in ((2, 5), (1, 1, 6)):
        with pytest.raises(BadInput, match=r"\(Q, 6\) expected"):
            alike.neighbours(np.ones(shape), studied.store)
    with pytest.raises(BadInput, match="vectors of 5 and of 6 numbers: expected one length"):
        alike.neighbours([np.ones(6), np.ones(5)], studied.store)
    with pytest.raises(BadInput, match="type DataFrame"):
        alike.neighbours(pd.DataFrame({"path": ["a.png"]}), studied.store)
    # Without a distance to anything, these had no neighbours in silence.
    for value in (np.nan, np.inf, 1e300):
        with pytest.raises(BadInput, match="vector 1 of 2 holds NaN, or a number beyond"):
            alike.neighbours(np.array([np.ones(6), np.full(6, value)]), studied.store)
    for wrong in (1.0, None, True, [1.0], [None], object(), np.ones((1, 6), int)):
        with pytest.raises(BadInput, match="numbers of stored rows, or an array of vectors"):
            alike.neighbours(wrong, studied.store)
    for k in (0, 2.5, "3", None):
        with pytest.raises(BadInput, match=f"k {k!r}: "):
            alike.neighbours(5, studied.store, k)
    assert alike.neighbours(5, studied.store, np.int64(4)).rows.shape == (1, 4)
    with pytest.warns(UserWarning, match="1 of 1 queries have fewer than 10000 neighbours") as told:
        alike.neighbours(5, studied.store, 10_000)
    assert Path(told[0].filename) == Path(__file__)
    # Before, by the number of its bytes.
    with pytest.raises(BadInput, match=r"image '\S+test_api.py' cannot be decoded"):
        alike.neighbours(__file__, studied.store)
    # And a generator was spent before the contact sheet.
    sheet = tmp_path / "sheet.png"
    found = alike.neighbours((row for row in [5, 7]), studied.store, 2, contact_sheet=sheet)
    assert len(found.queries) == 2
    alike.neighbours([5, 7], studied.store, 2, contact_sheet=tmp_path / "list.png")
    assert sheet.read_bytes() == (tmp_path / "list.png").read_bytes()


def test_a_missing_index_is_built_and_told(studied):
    key = studied.extraction.key
    with pytest.warns(UserWarning, match="no index of gap_euclid yet: building it"):
        found = alike.neighbours(5, studied.store, 4, measure="gap_euclid")
    assert found.rows.shape == (1, 4)
    assert (studied.place / "index" / key / "gap_euclid").is_dir()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = alike.neighbours(5, studied.store, 4, measure="gap_euclid")
    assert again.rows.tolist() == found.rows.tolist()


def test_trust_ends_with_the_call(studied, tiny_set, tmp_path, monkeypatch):
    """Agreement to one store's code is none to the code that another store names."""
    file = next((tiny_set.images / "b").iterdir())
    # Nobody agreed to anything on this machine.
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "first"))
    monkeypatch.setattr(trust, "_ask", trust._nobody)
    with pytest.raises(BadInput, match="you have not agreed"):
        alike.explain([file], studied.place)
    alike.explain([file], studied.place, trust=True)
    alike.explain([file], studied.place)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "second"))
    unknown = tmp_path / "unknown.png"
    unknown.write_bytes(file.read_bytes() + b"0")
    with pytest.raises(BadInput, match="you have not agreed"):
        alike.neighbours(unknown, studied.place)
    words = ["neighbours", str(unknown), "--store", str(studied.place)]
    refused, agreed = (CliRunner().invoke(app, [*words, *more]) for more in ([], ["--trust"]))
    assert "you have not agreed" in str(refused.exception)
    assert agreed.exit_code == 0, agreed.output


def test_neighbours_show_pictures(studied, tiny_set, tmp_path):
    file = next((tiny_set.images / "a<b>&").iterdir())
    found = alike.neighbours([3, file], studied.store, 4)
    html = shown(found)
    assert html.count("<img ") == 2 * 5
    assert "a&lt;b&gt;&amp;" in html
    assert "neighbours by gap_cosine: queries 2, k 4" in repr(found)
    sheet = alike.neighbours(3, studied.store, 4, contact_sheet=tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert shown(sheet).count("<img ") == 5


def test_index_card(studied):
    assert "recall at 10 exact" in repr(studied.index)
    assert "built: 27 rows" in shown(studied.index)


def test_explanations(studied, tiny_set):
    images = sorted(tiny_set.images.rglob("*.png"))[:2]
    one = alike.explain(images[0], studied.store, methods=["gradcam", "lrp"])
    assert one.tables["images"]["method"].tolist() == ["gradcam", "lrp"]
    assert {"0/gradcam", "0/lrp"} == set(one.arrays)
    assert "data:image/png;base64," in shown(one)
    two = alike.explain(images, studied.store)
    assert -1 <= two.cosine <= 1
    assert f"cosine of the pooled maps {two.cosine:.4g}" in repr(two)
    whole = alike.explain([], studied.store, classes=True, confused=2, split="all")
    assert whole.tables["classes"]["class"].tolist() == ["a<b>&", "b", "c"]
    assert len(whole.tables["confused"]) == 2
    assert {"class-a<b>&", "class-b", "class-c", "confused"} == set(whole.pictures)
    assert "a&lt;b&gt;&amp;" in shown(whole)
    like = alike.explain([0], studied.store, like="b")
    assert {"0/to_class", "0/to_others"} == set(like.arrays)
    with pytest.raises(BadInput, match="what to explain"):
        alike.explain([], studied.store)
    with pytest.raises(BadInput, match="unknown measure 'nope'"):
        alike.explain([0, 1], studied.store, measure="nope")
    with pytest.raises(BadInput, match="measure does not apply here: it is for two images given"):
        alike.explain([0], studied.store, measure="gap_cosine")


def test_a_class_that_is_named_like_the_index_of_another_is_told(tiny_set, tmp_path):
    images = tiny_set.images / "b"
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "b").symlink_to(images)
    store = tmp_path / "store"
    alike.extract_images(
        tmp_path / "set",
        tiny_set.network,
        store,
        weights="none",
        threads=1,
        classes=["1", "0", "2"],
    )
    told = "1 is the name of a class, which is explained; index 1 is class 0"
    with pytest.warns(UserWarning, match=told):
        found = alike.explain(0, store, methods="cam", target="1")
    assert found.tables["images"]["target"].tolist() == ["1"]


def test_retrain_extract_compare_report_export(studied, tiny_set, tmp_path):
    with pytest.raises(BadInput, match="is no folder: name another place"):
        alike.retrain(__file__, store=studied.store, device="cpu")
    run = alike.retrain(
        tmp_path / "run", store=studied.store, features=studied.extraction.key, loss="ce",
        epochs=1, device="cpu", balanced=False,
    )  # fmt: skip
    assert run.weights.is_file()
    assert "epochs 1, classes 3" in repr(run)
    shown(run)
    after = alike.extract_images(
        tiny_set.images, tiny_set.network, studied.store, weights=run.weights.parent, threads=1
    )
    key = studied.extraction.key
    compared = alike.compare(key, after.key, studied.store, bootstrap=20)
    assert compared.scores["score"].iloc[0] in repr(compared)
    assert "linear_cka" in shown(compared)
    alike.analyse(studied.store, features=after.key, measures=["gap_cosine"], bootstrap=0)
    written = alike.write_report(
        studied.store, features=key, after=after.key, to=tmp_path / "r.html", maps=False
    )
    assert after.key in written.path.read_text(encoding="utf-8")
    # It is a path to whatever takes one.
    assert Path(written) == written.path == tmp_path / "r.html"
    assert repr(written).startswith(
        f"<report of {key}: file {tmp_path / 'r.html'}, after {after.key}"
    )
    assert f"{written.path.stat().st_size / 1e6:,.2f} MB" in shown(written)
    # What was analysed are the held-out images, so there are no neighbours of all.
    with pytest.warns(UserWarning, match="no column of neighbours is written"):
        files = alike.export(studied.store, tmp_path / "x.parquet", features=key, split="all")
    assert len(pd.read_parquet(files)) == len(pd.read_parquet(files[0])) == 27
    assert {Path(file) for file in files} == set(tmp_path.glob("x.*"))
    assert f"file {tmp_path / 'x.parquet'}, files {len(files)}" in repr(files)
    assert shown(files).count("<tr") == 1 + len(files)
    assert "no column of neighbours is written" in shown(files)


# The card itself


class Balanced(HTMLParser):
    """Fails where a tag is closed that is not open."""

    VOID = ("br", "img", "hr", "meta")

    def __init__(self):
        super().__init__()
        self.open = []

    def handle_starttag(self, tag, attrs):
        assert tag != "b" or not self.open or self.open[-1] == "div"
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            assert name not in ("src", "href") or value.startswith("data:"), "it loads nothing"

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def shown(result):
    """The HTML of a result, which must be whole and load nothing."""
    html = result._repr_html_()
    page = Balanced()
    page.feed(html)
    assert page.open == []
    assert "a<b>&" not in html
    return html


def test_card_escapes_and_shortens():
    rows = pd.DataFrame({"<i>": ["</td>"] * 100, "x": [1 / 3] * 100})
    summary = Summary("<t>", {"n": 12345, "<f>": "</div>", "gone": None}, ["a & b"], {"<c>": rows})
    assert summary.as_text() == "<<t>: n 12,345, <f> </div>>"
    html = summary.as_html()
    for text in ("&lt;t&gt;", "&lt;f&gt;", "&lt;/div&gt;", "a &amp; b", "&lt;c&gt;", "&lt;/td&gt;"):
        assert text in html
    assert "0.3333" in html
    assert html.count("<tr") < 40
    assert "gone" not in html
    assert with_interval(0.5, float("nan"), float("nan")) == "0.5"
