"""Commands that answers advise: each is run as it is printed, on a store of two networks."""

import io
import re
import shlex

import pytest
from PIL import Image

from alike.analysis.analyse import AnalysisSettings, analyse
from alike.analysis.maps import MapSettings, make_map
from alike.analysis.stored import Analysis
from alike.extract.errors import BadInput
from alike.extract.images.sources import open_source
from alike.extract.networks.network import load_network
from alike.extract.pipeline import extract
from alike.extract.store import verify
from alike.extract.store.store import Store
from alike.flows.cli import app
from alike.flows.commands.serve import _open
from alike.flows.history import History
from alike.index.build import build_index
from alike.serve.app import create_app
from alike.serve.service import NeighbourService

from .conftest import DEEP
from .test_lost_stores import API, Asking

PICTURES = {"ant": 5, "bee": 5, "wasp": 5}


def store_of(folder, names, counts, networks=("deep", "wide"), text=DEEP):
    """A store of images of one colour a class, by two networks, without anything else."""
    for label, count in counts.items():
        (folder / "images" / label).mkdir(parents=True)
        for number in range(count):
            shade = (37 * len(label) + 90 * number + 50 * (label > "b")) % 256
            colour = (number * 40 % 256, 255 - shade, shade)
            Image.new("RGB", (8, 8), colour).save(folder / "images" / label / f"{number}.png")
    (folder / "nets.py").write_text(text)
    store = Store.open(folder / names, create=True)
    source = open_source(str(folder / "images"))
    return store, [
        extract(source, load_network(f"{folder}/nets.py:{one}", "none"), store, device="cpu").key
        for one in networks
    ]


@pytest.fixture
def two(tmp_path):
    """Asks a server of a store of two networks, neither of which has an index; and the second."""
    store, keys = store_of(tmp_path, "a store", PICTURES)
    store.set_split(0.5)
    return Asking(create_app(NeighbourService(store, keys[0]))), keys[1], store


def run_advice(line):
    [command] = re.findall("`(alike [^`]*)`", line)
    app(shlex.split(command)[1:], standalone_mode=False)


@pytest.mark.quick
def test_what_is_advised_can_be_run_and_makes_what_lacks(two, capsys, monkeypatch):
    # However fast a command ends: without an index, every answer has just looked for one.
    monkeypatch.setattr("alike.serve.opened.SOON", 1e9)
    asking, key, store = two
    of = f"features={key}"
    lists = {
        kind: asking.get(f"{API}/lists/{kind}?{of}").json()["needs"]
        for kind in ("labels", "outliers")
    }
    # The other network, beside the one that is shown, is advised with the store and its key.
    facts = asking.get(f"{API}/set?{of}").json()
    for need in ("needs", "map_needs"):
        for one in facts["extractions"]:
            assert f"--features {one['key']}" in one[need]
            if one["key"] != key:
                run_advice(one[need])
                other = one["key"]
    questions = (
        f"scores?{of}",
        f"map?{of}",
        f"map?{of}&measure=map_cosine&split=all",
        f"images/3/neighbours?{of}",
        f"images/3/neighbours?{of}&measure=mahalanobis",
        f"class-matrix?{of}&measure=whitened_cosine",
    )
    for question in questions:
        answer = asking.get(f"{API}/{question}")
        assert answer.status_code == 404, question
        line = answer.json()["error"]
        if question.startswith("scores"):
            assert all(f"`{re.findall('`(.*)`', line)[0]}`" in need for need in lists.values())
        run_advice(line)
        assert asking.get(f"{API}/{question}").status_code == 200, line
    facts = asking.get(f"{API}/set?{of}").json()
    assert {(one["needs"], one["map_needs"]) for one in facts["extractions"]} == {("", "")}
    assert facts["measure_needs"] == ""
    assert asking.get(f"{API}/images/3/neighbours?features={other}").status_code == 200
    run_advice(f"`{facts['compare']}`")
    grades = asking.get(f"{API}/grades?{of}").json()
    assert grades["images"] == []
    run_advice(f"`{grades['command']}`")
    assert asking.get(f"{API}/grades?{of}").json()["images"]
    # Other questions advise the same.
    unknown = f"{of}&measure=gem_cosine"
    answers = [asking.get(f"{API}/{path}?{unknown}") for path in ("classes", "class-matrix")]
    answers.append(asking.get(f"{API}/typical?{unknown}&distance=1"))
    assert {answer.json()["error"] for answer in answers} == {answers[0].json()["error"]}
    [index] = (store.root_path / "index" / key / "gap_cosine").glob("*.faiss")
    index.write_bytes(b"no index")
    answer = Asking(create_app(NeighbourService(store, key, "mahalanobis"))).get(
        f"{API}/images/3/neighbours?measure=gap_cosine"
    )
    run_advice(answer.json()["error"])
    assert asking.get(f"{API}/images/3/neighbours?{of}").status_code == 200


def test_what_the_analysis_lacks_is_advised_for_the_measure_that_is_shown(two, capsys):
    asking, key, store = two
    settings = AnalysisSettings(measures=["gap_cosine"], split="train", bootstrap=0)
    analyse(store.features(key), settings)
    needs = asking.get(f"{API}/set?features={key}&measure=gap_euclid").json()["measure_needs"]
    assert needs in asking.get(f"{API}/classes?features={key}&measure=gap_euclid").json()["error"]
    run_advice(needs)
    facts = asking.get(f"{API}/set?features={key}&measure=gap_euclid").json()
    assert facts["measure_needs"] == ""
    assert Analysis.load(store, key).settings["split"] == "train"


def test_a_map_that_is_listed_is_drawn_and_one_that_is_outdated_says_what_remakes_it(
    two, capsys, tmp_path
):
    asking, key, store = two
    features = store.features(key)
    build_index(features, "gap_euclid")

    def drawn():
        """Measures of the maps that are listed, and the measure of the one that is drawn."""
        facts = asking.get(f"{API}/set?features={key}").json()
        [one] = [one for one in facts["extractions"] if one["key"] == key]
        answer = asking.get(f"{API}/map?features={key}")
        if answer.status_code == 200:
            assert facts["map_needs"] == one["map_needs"] == ""
            return one["maps"], answer.json()["settings"]["measure"]
        assert one["map_needs"] == facts["map_needs"]
        commands = [re.findall("`.*`", line) for line in (one["map_needs"], answer.json()["error"])]
        assert commands[0] == commands[1]
        return one["maps"], one["map_needs"]

    needs = drawn()[1]
    assert needs.startswith("a map by gap_euclid: run")
    # Maps of a part of the images, or like another map, are not those of this view.
    whole = make_map(features, MapSettings(split="train"))
    (store.root_path / "maps" / key / "gap_cosine.train.parquet").unlink()
    make_map(features, MapSettings(split="train"), like=whole)
    make_map(features.only("label=ant"), MapSettings(split="all"))
    assert drawn() == ([], needs)
    make_map(features, MapSettings(split="all"))
    assert drawn() == (["gap_cosine"], "gap_cosine")
    run_advice(needs)
    assert drawn() == (["gap_cosine", "gap_euclid"], "gap_euclid")

    def told():
        """What the set and a table say of an analysis that is of other images."""
        places = (f"set?features={key}", f"examples?features={key}&measure=gap_cosine&limit=1")
        answers = [asking.get(f"{API}/{place}").json() for place in places]
        notes = [[one for one in each["notes"] if "analysis" in one] for each in answers]
        assert notes[0] == notes[1]
        return notes[0]

    analyse(features, AnalysisSettings(measures=["gap_cosine"], split="all", bootstrap=0))
    assert told() == []
    # Images change sides, and change back.
    store.set_split(0.25)
    assert len(told()) == 1
    store.set_split(0.5)
    assert told() == []
    # The set grows, and shrinks to others than those of the map and of the analysis.
    spec, network = str(tmp_path / "images"), load_network(f"{tmp_path}/nets.py:wide", "none")
    for change in (
        lambda folder: Image.new("RGB", (8, 8), (1, 2, 3)).save(folder / "new.png"),
        lambda folder: [(folder / name).unlink() for name in ("new.png", "0.png")],
    ):
        change(tmp_path / "images" / "ant")
        extract(open_source(spec), network, store, device="cpu")
        maps, needs = drawn()
        assert maps == []
        assert needs.startswith("a map by gap_euclid of the images that are there now: run")
        run_advice(needs)
        assert drawn() == (["gap_euclid"], "gap_euclid")
        [line] = told()
        assert "came or changed after its analysis" in line
        run_advice(line)
        assert told() == []


def test_what_verify_says_mends_a_store(tmp_path, capsys):
    store, [key] = store_of(tmp_path, "a store", {"ant": 2, "bee": 2}, ("deep",))
    shard = store.root_path / store.features(key).place("last_conv", 0)
    shard.write_bytes(b"no shard")
    (store.root_path / "twins" / "links.parquet").unlink()
    damage = {one.file: one.repair for one in verify(store).damage}
    assert len(damage) == 2
    for repair in damage.values():
        run_advice(repair)
    assert verify(store).damage == ()


@pytest.mark.parametrize("counts", [{"ant": 5}, {"ant": 1, "bee": 1}])
def test_what_cannot_be_analysed_says_what_it_needs(tmp_path, counts):
    """No command is advised that fails; outliers need no classes."""
    store, [key] = store_of(tmp_path, "store", counts, ("deep",))
    asking = Asking(create_app(NeighbourService(store)))
    for path in ("scores", "classes", "class-matrix", "report", "typical?distance=1"):
        answer = asking.get(f"{API}/{path}")
        assert (answer.status_code, answer.json()["error"]) == (
            404,
            f"{key} cannot be analysed: that needs two classes or more, one of them with two "
            "images or more",
        )
    listed = {kind: asking.get(f"{API}/lists/{kind}").json() for kind in ("labels", "outliers")}
    assert listed["labels"]["needs"] == ("two classes or more, one of them with two images or more")
    assert listed["outliers"]["needs"] == ""
    error = asking.get(f"{API}/images/0/neighbours?measure=mahalanobis").json()["error"]
    assert "--train-share" in error
    assert "`" not in error


def test_refusals_use_the_words_of_http(tmp_path):
    store, [key] = store_of(tmp_path, "store", {"ant": 2}, ("deep",))
    asking = Asking(create_app(NeighbourService(store)))
    build_index(store.features(key), "gap_cosine")
    uploaded = asking.ask("POST", f"{API}/images", content=png_of((8, 8))).json()["image"]
    see = f"{API}/docs lists the questions"
    deep = {"content": "[" * 10**5, "headers": {"Content-Type": "application/json"}}
    answer = asking.ask("PUT", f"{API}/tags/odd", **deep)
    assert (answer.status_code, answer.json()["error"]) == (
        400, f"the body cannot be read as JSON: {see}"
    )  # fmt: skip
    answer = asking.get(f"{API}/images/-1")
    assert answer.json()["error"] == (
        "image: the row of an image, or the SHA-256 of its bytes, is expected, not '-1'"
    )
    answer = asking.ask("DELETE", f"{API}/tags/odd")
    assert (answer.status_code, answer.json()["error"]) == (
        405, f"DELETE is no verb of this address, but PUT: {see}"
    )  # fmt: skip
    answer = asking.get("/static/odd.js")
    assert (answer.status_code, answer.json()["error"]) == (
        404, f"nothing is at '/static/odd.js': {see}"
    )  # fmt: skip
    answer = asking.get(f"{API}/images/{uploaded}/neighbours?relation=same")
    assert answer.status_code == 422
    assert "ask by relation=any" in answer.json()["error"]
    assert "--" not in answer.json()["error"]
    answer = asking.get(f"{API}/class-pair?first=ant&second=ant&measure=gap_cosine")
    assert answer.status_code == 200
    with pytest.raises(BadInput, match="the store has no runs yet"):
        History(store).find("a")
    told = asking.get(f"{API}/lists/outliers?measure=map_cosine").json()
    assert (told["needs"], told["notes"]) == ("", [])
    told = asking.get(f"{API}/lists/bad?measure=map_cosine").json()
    assert told["notes"] == [
        "the list is of no measure: of another are only the outliers of a set that is not analysed"
    ]
    assert asking.get(f"{API}/lists/outliers?measure=gap_cosine@none").status_code == 404


def test_an_image_that_the_network_cannot_take_is_refused_at_once(tmp_path):
    shorter = DEEP.replace("[8, 8]", '256, "crop": 224')
    store_of(tmp_path, "store", {"ant": 2}, ("deep",), shorter)
    service = NeighbourService(tmp_path / "store")
    with pytest.raises(BadInput, match="20000x1 pixels are 5120000x256 when resized"):
        service.upload(png_of((20000, 1)))
    assert service.upload(png_of((20, 10)))["row"] == -1


def png_of(size):
    data = io.BytesIO()
    Image.new("RGB", size, (9, 99, 200)).save(data, "PNG")
    return data.getvalue()


def test_a_store_of_several_networks_is_served_by_the_first_with_an_index(tmp_path, capsys):
    store, keys = store_of(tmp_path, "store", {"ant": 2})
    build_index(store.features(keys[1]), "map_cosine")
    (served,) = _open([str(tmp_path / "store")], None, "gap_cosine", tmp_path / "pictures")
    assert (served.service.key, served.service.measure) == (keys[1], "map_cosine")
    assert f"--features {'|'.join(store.groups())}" in capsys.readouterr().err
