"""The page in a real browser: every view, both themes, a phone and a desk; what a user does."""

import csv
import io
import re
import shutil
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import alike
from alike.extract.errors import BadInput
from alike.extract.store.store import Store
from alike.extract.store.tags import read_tags
from alike.index.build import build_index

from .browser import missing
from .conftest import server
from .visiting import READY, assert_quiet, box_of, place_of, serious_findings, visit, with_axe

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")
LONG_NAME = "n02085620_a_dog_of_a_long_name"
SHAPES = ((1400, 900), (390, 844))
VIEWS = {
    "": "document.querySelectorAll('.some .pic img').length === 20",
    "#ask?image=3&with=12": "document.querySelectorAll('.both canvas').length === 2",
    "#map?split=all": "document.querySelectorAll('.legend button').length === 3",
    "#classes?first=cat&second=dog": "document.querySelectorAll('.js-plotly-plot').length === 2",
    "#scores": "document.querySelector('.tiles') && document.querySelector('.js-plotly-plot') && "
               "document.querySelector('.beside-runs table')",
    "#data": "document.querySelector('.entry, .empty')",
    "#data?kind=outliers": "document.querySelector('.entry, .empty')",
    "#data?kind=twins": "document.querySelector('.entry, .empty')",
    "#data?kind=bad": "document.querySelector('.empty')",
}  # fmt: skip


TITLES = {
    "#ask?image=3&with=12": r"\S+ \d\.png and \S+ \d\.png · Ask",
    "#map?split=all": "Map",
    "#classes?first=cat&second=dog": "cat and dog · Classes",
    "#scores": "Scores",
    "#data": "Suspected labels · Data",
    "#data?kind=outliers": "Outliers · Data",
    "#data?kind=twins": "Twins · Data",
    "#data?kind=bad": "Bad images · Data",
}
"""What tabs, bookmarks and the history of a browser call the views."""


@pytest.fixture
def address(client, analysed):
    """The server, over a store with an analysis and a map."""
    return f"{client.address}/"


def each_view(page, address):
    """Go through the views by their links, without loading the page anew."""
    page.go(address)
    for view, ready in VIEWS.items():
        page.run("location.hash = arguments[0]", view)
        page.wait(f"document.querySelector('.view.{view[1:].partition('?')[0] or 'ask'}')")
        page.wait(f"{READY} && {ready}")
        yield view


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("shape", SHAPES, ids=["desk", "phone"])
def test_every_view(page, address, shape, dark):
    page.shape(*shape, dark=dark)
    for view in each_view(page, address):
        assert page.run("return document.documentElement.dataset.theme") == ("light", "dark")[dark]
        assert page.run("return document.documentElement.scrollWidth") <= shape[0], view
        assert page.run("return document.querySelectorAll('h1').length") == 1, view
        title = f"{TITLES.get(view, 'Ask')} · Alike"
        assert re.fullmatch(title, page.run("return document.title")), view
        images = "[...document.images].filter((one) => one.complete && !one.naturalWidth).length"
        assert page.run(f"return {images}") == 0, view
        if view.startswith("#data"):
            left, _, right, _ = box_of(page, ".tabs [aria-current]")
            assert 0 <= left < right <= shape[0], view
        if view.startswith("#map"):
            left, top, right, bottom = box_of(page, ".plane")
            assert 0.4 < (bottom - top) / (right - left) < 1.1
    assert_quiet(page, address)


@with_axe
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("shape", SHAPES, ids=["desk", "phone"])
def test_no_serious_finding_of_axe(page, address, shape, dark):
    page.shape(*shape, dark=dark)
    for view in each_view(page, address):
        assert serious_findings(page) == [], view


def test_an_uploaded_image_gets_the_right_neighbours(page, address, client, place, tmp_path):
    file = tmp_path / "turned.png"
    Image.open(place / "images" / "dog" / "5.png").rotate(180).save(file)
    visit(page, address, VIEWS[""])
    page.send("#file", file)
    page.wait("document.querySelectorAll('.near .pic').length === 12")
    image = page.run("return new URLSearchParams(location.hash.split('?')[1]).get('image')")
    near = client.json(f"/api/v1/images/{image}/neighbours?k=12")["neighbours"]
    shown = "[...document.querySelectorAll('.near .pic')].map((one) => one.dataset.image)"
    assert page.run(f"return {shown}") == [one["image"] for one in near]
    prediction = client.json(f"/api/v1/images/{image}/prediction")
    page.wait(f"document.querySelector('.query').innerText.includes('{prediction['classes'][0]}')")
    # The pair: how typical its distance is, and where the two are alike.
    page.run("document.querySelectorAll('.near .pic')[1].click()")
    page.wait(f"{READY} && document.querySelector('.pairplace .both')")
    typical = client.json(f"/api/v1/typical?distance={near[1]['distance']}")
    share = f"{100 * typical['same_farther'][0]:.1f} %"
    assert share in page.run("return document.querySelector('.pairplace').innerText")
    colours = (
        "const c = document.querySelectorAll('.both canvas')[1];"
        "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
        "return new Set(Array.from({length: d.length / 4}, (_, i) => d[4 * i])).size"
    )
    assert page.run(colours) > 20
    assert_quiet(page, address)


def test_likeness_in_pixels_says_what_it_conserves(page, address, client):
    visit(page, f"{address}#ask?image=3&with=12", VIEWS["#ask?image=3&with=12"])
    page.run("document.querySelector('.pairplace button[data-value=pixels]').click()")
    for method in ("likeness_lrp", "likeness_lrp_gamma"):
        page.run(
            "const list = document.querySelector('.pairplace select');"
            "list.value = arguments[0]; list.dispatchEvent(new Event('change'))", method,
        )  # fmt: skip
        pair = client.json(f"/api/v1/images/3/alike/12/pixels?method={method}")
        shares = " and ".join(f"{100 * one:.0f} %" for one in pair["conserved"])
        words = "document.querySelector('.says').textContent"
        page.wait(f"{words}.includes('The colours sum to {shares} of it')")
    # Long names of classes stay under their pictures, on a phone too.
    page.shape(390, 844, dark=False)
    page.run("document.querySelectorAll('.both figcaption b').forEach((one) => {"
             "one.textContent = arguments[0]; })", LONG_NAME)  # fmt: skip
    left, right = (box_of(page, f".both figure:nth-child({number}) b") for number in (1, 2))
    assert left[2] <= right[0]
    assert right[2] <= box_of(page, ".pairplace .card")[2]
    assert_quiet(page, address)


def test_the_grade_of_a_method_stands_under_its_maps(page, address, place):
    from alike.analysis.explain.grade import Grading, grade_of
    from alike.extract.networks.network import load_network

    pair = f"{address}#ask?image=3&with=12"
    button = "document.querySelector('.pairplace button[data-value=gradcam]').click()"
    graded = "document.querySelector('.graded').textContent"
    visit(page, pair, VIEWS["#ask?image=3&with=12"])
    page.run(button)
    page.wait(f"{graded}.includes('--grade')")
    features = Store.open(place / "store").features()
    network = load_network(f"{place}/nets.py:small", "none")
    grading = Grading(steps=4, draws=3)
    table = grade_of(features, network, methods=["gradcam"], split=None, grading=grading)
    visit(page, pair, VIEWS["#ask?image=3&with=12"])
    page.run(button)
    deletion = table.set_index("explainer").at["gradcam", "deletion"]
    page.wait(f"{graded}.includes('deletion {deletion:.3f}')")
    visit(page, f"{address}#scores", "document.querySelector('#explanations')")
    section = page.run("return document.querySelector('#explanations').innerText")
    assert f"{deletion:.3f}" in section
    assert_quiet(page, address)


def test_a_file_that_is_no_image_is_refused_in_one_line(page, address, tmp_path):
    (tmp_path / "letter.png").write_text("no image")
    visit(page, address, VIEWS[""])
    page.send("#file", tmp_path / "letter.png")
    line = page.wait("document.querySelector('.brought .wrongline')?.innerText")
    assert "letter.png" in line
    assert "cannot be decoded" in line


def test_neighbours_by_the_arrow_keys(page, address):
    visit(page, f"{address}#ask?image=3", "document.querySelectorAll('.near .pic').length")
    page.run("document.querySelector('.near .pic').focus()")
    for step, number in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowLeft", 1)):
        key = f"new KeyboardEvent('keydown', {{key: '{step}', bubbles: true}})"
        page.run(f"document.activeElement.dispatchEvent({key})")
        all_of = "[...document.querySelectorAll('.near .pic')]"
        assert page.run(f"return {all_of}.indexOf(document.activeElement)") == number


def test_links_of_older_versions_still_lead_there(page, address):
    visit(page, f"{address}#image=3&with=12&relation=other", VIEWS["#ask?image=3&with=12"])
    assert page.run("return document.querySelectorAll('.near .pic.same').length") == 0


def test_a_view_whose_script_does_not_arrive_can_be_tried_again(page, address):
    alert = "document.querySelector('#view > [role=alert]')"
    visit(page, address, VIEWS[""])
    try:
        page.block("*/static/map.js")
        page.run("location.hash = 'map?split=all'")
        assert "for Map did not arrive" in page.wait(f"{alert} && {alert}.innerText")
        page.run(f"{alert}.querySelector('button').click()")
        page.wait("document.querySelector('#status').textContent === 'Map did not arrive'")
    finally:
        page.block()
    page.run(f"{alert}.querySelector('button').click()")
    page.wait(f"{READY} && document.querySelectorAll('.legend button').length === 3")


def test_a_page_that_does_not_arrive_whole_says_so(page, address):
    try:
        page.cdp("Network.setCacheDisabled", cacheDisabled=True)
        page.block("*/static/parts.js")
        page.go("about:blank")
        page.go(address)
        said = page.wait("document.querySelector('#view > [role=alert]')?.innerText")
        assert said == "The page did not arrive whole. If alike serve still runs, load it again."
    finally:
        page.block()
        page.cdp("Network.setCacheDisabled", cacheDisabled=False)


def test_an_image_that_does_not_arrive_is_small_and_says_why(page, address):
    try:
        page.block("*/thumbnail*", "*/input*")
        visit(
            page,
            f"{address}#ask?image=3&with=12",
            "document.querySelector('.pairplace [role=alert]')",
        )
        left, top, right, bottom = box_of(page, ".query .nopicture")
        assert (right - left, bottom - top) == (150, 150)
        for place in (".query .wrongline", ".pairplace [role=alert]"):
            said = page.wait(f"document.querySelector({place!r}).innerText")
            assert "The server does not answer. Is alike serve still running?" in said
    finally:
        page.block()


STYLES = """
const [which, name] = arguments;
return [...document.querySelectorAll(which)].map((one) => getComputedStyle(one)[name]);
"""


def test_the_system_may_set_the_colours_and_the_motion(page, address):
    """What is chosen is seen, and what a colour means; nothing that waits moves."""
    try:
        media = {"forced-colors": "active", "prefers-reduced-motion": "reduce"}
        features = [{"name": name, "value": value} for name, value in media.items()]
        page.cdp("Emulation.setEmulatedMedia", features=features)
        visit(page, f"{address}#ask?image=3", "document.querySelector('.pic.other')")
        chosen, *others = page.run(STYLES, ".query .choices button", "backgroundColor")
        assert chosen not in others
        assert len(set(page.run(STYLES, ".near .dot", "backgroundColor"))) == 2
        assert len(set(page.run(STYLES, ".pic.same, .pic.other", "borderTopColor"))) == 2
        assert page.run(STYLES, "html", "scrollBehavior") == ["auto"]
        # And another tab may set the theme.
        for theme in ("dark", "light"):
            chosen = "new StorageEvent('storage', { key: 'theme', newValue: arguments[0] })"
            page.run(f"dispatchEvent({chosen})", theme)
            assert page.run("return document.documentElement.dataset.theme") == theme
    finally:
        page.cdp("Emulation.setEmulatedMedia", features=[])


def test_the_map_lists_what_a_lasso_holds_and_asks_what_is_clicked(page, address, client):
    visit(page, f"{address}#map?split=all", VIEWS["#map?split=all"])
    left, top, right, bottom = box = box_of(page, ".plane")
    bottom = min(bottom, 890)
    page.run("document.querySelector('button[data-value=lasso]').click()")
    corners = [(left + 4, top + 4), (right - 4, top + 4), (right - 4, bottom - 4),
               (left + 4, bottom - 4), (left + 4, top + 8)]  # fmt: skip
    page.drag(corners)
    page.wait("document.querySelectorAll('.selection .pic').length === 20")
    page.run("document.querySelector('button[data-value=move]').click(); scrollTo(0, 0)")
    # The first point, where the map of the server has it.
    table = client.json("/api/v1/map?split=all")
    x, y = place_of(table["tsne"], 0, box)
    page.move(x, y)
    shown = page.wait("document.querySelector('.mapcard').style.display === 'block' && "
                      "document.querySelector('.mapcard').innerText")  # fmt: skip
    assert table["path"][0] in shown
    page.move(x, y, click=True)
    page.wait(f"location.hash.includes('{table['image'][0]}')")
    page.wait("document.querySelectorAll('.near .pic').length")
    assert_quiet(page, address)


def test_the_map_is_coloured_by_prediction(page, address, client, analysed):
    predictions = client.json("/api/v1/map?split=all&predictions=true")["prediction"]
    visit(page, f"{address}#map?split=all", VIEWS["#map?split=all"])
    page.run("document.querySelector('button[data-value=prediction]').click()")
    page.wait(f"{READY} && location.hash.includes('colour=prediction')")
    names = "[...document.querySelectorAll('.legend button')].map((one) => one.textContent).sort()"
    page.wait(f"{names}.join() === arguments[0]", ",".join(sorted(set(predictions))))
    assert_quiet(page, address)


def test_a_cell_of_the_matrix_opens_the_two_classes(page, address, client):
    visit(page, f"{address}#classes", VIEWS["#classes?first=cat&second=dog"])
    order = client.json("/api/v1/class-matrix")["order"]
    cell = page.run(
        "const plot = document.querySelector('.js-plotly-plot'), b = plot.getBoundingClientRect();"
        "const {xaxis, yaxis} = plot._fullLayout;"
        "return [b.left + xaxis._offset + xaxis.l2p(2), b.top + yaxis._offset + yaxis.l2p(0)]"
    )
    page.move(*cell)
    # A click counts for the cell that plotly has seen the mouse over.
    page.wait("document.querySelector('.hoverlayer .hovertext')")
    page.move(*cell, click=True)
    pair = client.json(
        f"/api/v1/class-pair?first={order[0]}&second={order[2]}".replace("ä", "%C3%A4")
    )
    title = page.wait(f"{READY} && document.querySelectorAll('.pairitem').length && "
                      "location.hash.includes('second') && "
                      "document.querySelector('.pairofclasses h2').innerText")  # fmt: skip
    assert title == f"“{order[0]}” and “{order[2]}”"
    shown = page.run("return document.querySelectorAll('.pairitem').length")
    assert shown == len(pair["nearest"]) + len(pair["farthest"])


def test_a_network_without_an_index_is_opened_and_says_so_in_ask(page, two_networks, tmp_path):
    """Chosen above the view: each view is there, and no question is refused."""
    from alike.analysis.maps import MapSettings, make_map

    folder, analysis = two_networks
    shutil.copytree(folder, tmp_path / "own")
    store = Store.open(tmp_path / "own" / "store")
    (other,) = set(store.groups()) - {analysis.key}
    shutil.rmtree(tmp_path / "own" / "store" / "index" / other)
    shutil.rmtree(tmp_path / "own" / "store" / "maps", ignore_errors=True)
    with server(store.root_path, options=("--features", analysis.key)) as answering:
        address = f"{answering.address}/"
        visit(page, f"{address}#scores", "document.querySelector('.tiles')")
        page.run(
            "const list = [...document.querySelectorAll('#set select')]"
            ".find((one) => [...one.options].some((each) => each.value === arguments[0]));"
            "list.value = arguments[0]; list.dispatchEvent(new Event('change'))", other,
        )  # fmt: skip
        page.wait(f"location.hash === '#scores?features={other}'")
        for view, ready in (
            ("scores", "document.querySelector('.tiles')"),
            ("classes", "document.querySelectorAll('.pairitem').length"),
            ("map", "document.querySelector('.empty code')"),
            ("data", "document.querySelectorAll('.entry').length"),
            # What was advised is there when a view is opened, without loading the page anew.
            ("map", "document.querySelectorAll('.legend button').length === 3"),
            ("data", "document.querySelectorAll('.entry').length"),
        ):
            page.run("location.hash = arguments[0]", f"#{view}?features={other}")
            page.wait(f"document.querySelector('.view.{view}') && {READY} && {ready}")
            if "code" in ready:
                make_map(store.features(other), MapSettings(split="all", perplexity=3.0))
        page.run("document.querySelector('.entry .pictures a').click()")
        page.wait("document.querySelector('.near .empty') && document.querySelector('.query img')")
        command = f"alike index --store {store.url} --features {other} --measure gap_cosine"
        assert command == page.run("return document.querySelector('.near .empty code').innerText")
        pair = f"#ask?features={other}&image=3&with=50"
        page.run("location.hash = arguments[0]", pair)
        page.wait(f"{READY} && document.querySelectorAll('.both canvas').length === 2")
        page.run("location.hash = arguments[0]", f"#ask?features={other}")
        page.wait(f"{READY} && document.querySelectorAll('.some .pic img').length === 24")
        assert page.run("return document.querySelector('.empty code').innerText") == command
        # Somebody who comes back to the window is told of a change, and chooses when to see it.
        assert page.run("return document.querySelector('#changed').hidden")
        build_index(store.features(other), "gap_cosine")
        page.wait("(dispatchEvent(new Event('focus')), !document.querySelector('#changed').hidden)")
        assert page.run("return document.querySelector('.empty code').innerText") == command
        page.run("document.querySelector('#changed button').click()")
        page.wait("document.querySelector('#changed').hidden && "
                  "!document.querySelector('.lacking').innerText")  # fmt: skip
        assert_quiet(page, address)


@pytest.mark.parametrize(("view", "control", "act"), [
    ("#ask?image=3", ".query button[data-value=other]", "click"),
    ("#ask?image=3", ".query input[type=number]", "change"),
    ("#map?split=all", "button[data-value=pca]", "click"),
    ("#map?split=all", ".legend button:nth-of-type(2)", "click"),
    ("#classes?first=cat&second=dog", ".pairofclasses label:nth-of-type(2) select", "change"),
    ("#data", ".tabs a:nth-child(2)", "click"),
])  # fmt: skip
def test_the_keyboard_stays_at_a_control_that_changes_what_is_shown(
    page, address, view, control, act
):
    """So that a second step of a number or of a list needs no way through the page again."""
    visit(page, f"{address}{view}", f"document.querySelector({control!r})")
    page.run(
        "const [at, act] = arguments, one = document.querySelector(at); one.focus();"
        "if (act === 'click') one.click();"
        "else one.value = one.type === 'number' ? 5 : 'cat';"
        "if (act === 'change') one.dispatchEvent(new Event(act));",
        control, act,
    )  # fmt: skip
    page.wait(f"{READY} && location.hash !== {view!r}")
    page.wait(f"document.activeElement === document.querySelector({control!r})", seconds=10)
    assert_quiet(page, address)


def test_a_network_without_an_index_is_named_and_cannot_be_asked(page, address):
    visit(page, address, VIEWS[""])
    page.run(
        "import('/static/parts.js').then(({ networkOption, select }) => {"
        "  const options = [networkOption('a', 'small', 1), networkOption('b', 'wide', 0)];"
        "  window.list = select('network', options, 'a', () => {}).querySelectorAll('option'); })"
    )
    shown = page.wait("window.list && [...window.list].map((one) => [one.text, one.disabled])")
    assert shown == [["small", False], ["wide: no index", True]]


def test_a_block_of_classes_says_what_to_do(page, address):
    """More classes than pixels are averaged: such a cell is none of two classes."""
    visit(page, f"{address}#classes", VIEWS["#classes?first=cat&second=dog"])
    page.run("document.querySelector('.js-plotly-plot').emit("
             "'plotly_click', {points: [{x: 'cat', y: 'cat … dog'}]})")  # fmt: skip
    says = page.run("return document.querySelector('.card p[role=status]').innerText")
    assert says == "“cat … dog” is a block of classes: choose two classes below."
    assert page.run("return location.hash") == "#classes"
    assert_quiet(page, address)


def test_the_class_of_stored_images_is_in_the_address(page, address, client):
    visit(page, address, VIEWS[""])
    number = client.json("/api/v1/set")["classes"]["dog"]
    page.run("const list = document.querySelector('.some select'); list.value = 'dog';"
             "list.dispatchEvent(new Event('change'))")  # fmt: skip
    dogs = f"document.querySelectorAll('.some .pic').length === {number}"
    page.wait(f"location.hash === '#ask?class=dog' && {dogs}")
    page.run("document.querySelector('.some .pic').click()")
    page.wait(f"{READY} && location.hash.includes('image') && {dogs}")
    visit(page, f"{address}#ask?class=dog", dogs)
    assert page.run("return document.querySelector('.some select').value") == "dog"
    assert_quiet(page, address)


def test_the_list_of_classes_has_intervals(page, address, analysed):
    visit(page, f"{address}#classes", VIEWS["#classes?first=cat&second=dog"])
    table = analysed[0].tables["per_class"].sort_values("sameness", kind="stable")
    shown = page.run(
        "return [...document.querySelectorAll('[aria-label=\"Classes by sameness\"] tbody tr')]"
        ".map((row) => [row.cells[0].innerText, row.querySelector('.sub')?.innerText ?? ''])"
    )
    wanted = [
        [row["class"], "" if row["n"] < 5 else
         f"{row['sameness_low']:.3f} to {row['sameness_high']:.3f}".replace("-", "\u2212")]
        for row in table.to_dict("records")
    ]  # fmt: skip
    assert shown == wanted
    # With long names no column is cut off, and the matrix is as wide as its card lets it be.
    page.run("document.querySelectorAll('.classname a').forEach((one) => {"
             "one.textContent = arguments[0]; })", LONG_NAME)  # fmt: skip
    list_ = "document.querySelector('.tablebox')"
    assert page.run(f"return {list_}.scrollWidth - {list_}.clientWidth") == 0
    # Nor does a long name widen the lists to choose from.
    page.run("document.querySelectorAll('.pairofclasses option').forEach((one) => {"
             "one.textContent = arguments[0]; })", LONG_NAME * 3)  # fmt: skip
    chosen = [box_of(page, f".pairofclasses label:nth-of-type({number})") for number in (1, 2)]
    assert chosen[0][1] == chosen[1][1]
    assert all(right - left < 450 for left, _, right, _ in chosen)
    matrix, box = (box_of(page, f".two > :first-child {one}") for one in (".heatmaplayer", ".plot"))
    assert matrix[2] - matrix[0] > 0.75 * (box[2] - box[0])
    assert_quiet(page, address)


def test_a_mark_is_a_tag_and_changes_no_label(page, address, place):
    store = Store.open(place / "store")
    labels = store.images()["label"].tolist()
    visit(page, f"{address}#data", "document.querySelector('.mark-it')")
    pressed = "document.querySelector('.mark-it').getAttribute('aria-pressed')"
    for number in (1, 0):
        page.run("document.querySelector('.mark-it').focus(); document.activeElement.click()")
        page.wait(f"{pressed} === '{('false', 'true')[number]}'")
        # A browser takes the keyboard away from a button that cannot be pressed for a moment.
        page.wait("document.activeElement === document.querySelector('.mark-it')", seconds=9)
        assert read_tags(store)["tag"].tolist() == ["wrong-label"] * number
    assert store.images()["label"].tolist() == labels


@pytest.fixture
def bare(place, tmp_path, very_many_classes):
    """A store without index, analysis and map, one of two images of two classes, and two less.

    And one with an analysis, with a class of one image; and one whose analysis has the tables of
    5,000 classes.
    """
    from alike.analysis.analyse import AnalysisSettings, analyse
    from alike.extract.images.sources import open_source
    from alike.extract.networks.network import load_network
    from alike.extract.pipeline import extract
    from alike.index.build import build_index

    without = shutil.ignore_patterns("tables", "maps", "index")
    shutil.copytree(place / "store", tmp_path / "bare.store", ignore=without)
    for label in ("cat", "dog"):
        (tmp_path / "images" / label).mkdir(parents=True)
        shutil.copy(place / "images" / label / "0.png", tmp_path / "images" / label)
    store = Store.open(tmp_path / "pair.store", create=True)
    network = load_network(f"{place}/nets.py:small", "none")
    extract(open_source(str(tmp_path / "images")), network, store, taps=("logits",), device="cpu")
    shutil.copytree(tmp_path / "images", tmp_path / "few")
    shutil.copy(place / "images" / "cat" / "1.png", tmp_path / "few" / "cat")
    store = Store.open(tmp_path / "few.store", create=True)
    source = open_source(str(tmp_path / "few"))
    features = extract(source, network, store, taps=("last_conv",), device="cpu").key
    settings = AnalysisSettings(measures=["gap_cosine"], split="all", bootstrap=0)
    analysis = analyse(store.features(features), settings)
    shutil.copytree(store.root_path, tmp_path / "many.store")
    many = replace(analysis, tables={**analysis.tables, **very_many_classes})
    many.save(Store.open(tmp_path / "many.store"))
    # One of a single image, and one of which no image can be read.
    for name, data in (
        ("one", (place / "images" / "cat" / "0.png").read_bytes()),
        ("torn", b"\x89PNG\r\n\x1a\n"),
    ):
        (tmp_path / name / "cat").mkdir(parents=True)
        (tmp_path / name / "cat" / "0.png").write_bytes(data)
        store = Store.open(tmp_path / f"{name}.store", create=True)
        source = open_source(str(tmp_path / name))
        extracted = extract(source, network, store, taps=("last_conv",), device="cpu")
        if name == "one":
            build_index(store.features(extracted.key), "gap_cosine")
    return [tmp_path / f"{name}.store" for name in ("bare", "pair", "one", "torn", "few", "many")]


def test_a_set_without_labels_has_its_page(page, place, tmp_path, bare):
    """And without an analysis: what needs one says what to run, and is not asked for."""
    from alike.index.build import build_index

    shutil.copytree(place, tmp_path / "own", ignore=shutil.ignore_patterns("tables", "maps"))
    store = Store.open(tmp_path / "own" / "store")
    store.list_images(store.images().drop(columns="row").assign(label=None))
    build_index(store.features(), "gap_cosine")
    with server(tmp_path / "own" / "store", *bare) as plain:
        address = f"{plain.address}/"
        for view, words in (
            ("#classes", "This set has no labels"),
            ("#scores", "This set has no labels"),
            ("#data?kind=labels", "the images of this set have none"),
            ("#data?kind=twins", "No two images show one picture"),
            ("#map", "alike map"),
        ):
            visit(page, address + view, "document.querySelector('.empty')")
            assert words in page.run("return document.querySelector('.view').innerText"), view
            if view == "#scores":
                # Runs need neither labels nor an analysis.
                page.wait("document.querySelector(\".beside-runs [aria-label='Settings']\")")
            assert not page.run("return document.querySelector('.limits')?.childElementCount")
        visit(page, f"{address}#ask?image=3", "document.querySelectorAll('.near .plain').length")
        # The set says what is there: nothing is asked that is refused.
        assert_quiet(page, address)
        key = Store.open(bare[0]).features().key
        for view, words in (
            ("#map?store=bare", "alike map --store"),
            ("#classes?store=bare", "alike analyse --store"),
            ("#scores?store=bare", "alike analyse --store"),
            ("#data?store=bare", "alike analyse --store"),
            ("#ask?store=bare&image=3&with=12", "alike index --store"),
            (f"#ask?image=3&beside=bare/{key}", f"--features {key} --measure gap_cosine"),
            ("#ask?store=one&image=0", "No other image is stored."),
            ("#classes?store=one", "“cat” has no two images to compare."),
            ("#ask?store=torn", "Neighbours need images with features: run alike extract"),
            ("#scores?store=torn", "This needs images with features: run alike extract"),
            ("#classes?store=torn", "This needs images with features: run alike extract"),
            ("#classes?store=pair", "Two images are compared: their distance is"),
        ):
            visit(page, address + view, "document.querySelector('.empty')")
            page.wait(f"document.querySelector('.view').innerText.includes('{words}')")
            if view.endswith("=12"):
                page.wait("document.querySelectorAll('.both canvas').length === 2")
            assert_quiet(page, address)
        assert page.run("return document.querySelectorAll('.pairitem').length") == 1
        assert "2 images 2 classes" in page.run(
            "return document.querySelector('#set').innerText.replaceAll(/\\s+/g, ' ')"
        )
        visit(page, f"{address}#classes?store=few", "document.querySelector('.js-plotly-plot')")
        titles = "[...document.querySelectorAll('.chips a')].map((one) => one.title)"
        assert page.run(f"return {titles}") == [""]
        assert_quiet(page, address)
        told = plain.json("/api/v1/stores/many/class-matrix?mean=true")
        assert told["order"] is told["figure"] is told["mean"] is None
        visit(page, f"{address}#classes?store=many", "document.querySelector('.tablebox')")
        text, rows, chips = page.run(
            "return [document.querySelector('.view').innerText,"
            " document.querySelectorAll('tbody tr').length,"
            " [...document.querySelectorAll('.chips a')].map((one) =>"
            " [...one.querySelectorAll('bdi')].map((name) => name.textContent).join(' – '))]"
        )
        assert f"{told['notes'][0]}." in text
        assert "The first 1\u202f000 of 5\u202f000 classes." in text
        assert rows == 1000
        assert chips == [f"{one['class_a']} – {one['class_b']}" for one in told["nearest"]]
        assert_quiet(page, address)
        with (
            alike.connect(plain.address, store="many") as many,
            pytest.raises(BadInput, match=r"no matrix beyond 2,048; .* `class_pairs` has them"),
        ):
            many.class_matrix()


@pytest.fixture(scope="module")
def two(two_networks):
    """The server of two networks, and the analysis of the one that is shown."""
    folder, analysis = two_networks
    with server(folder / "store", options=("--features", analysis.key)) as answering:
        yield f"{answering.address}/", analysis


def test_scores_have_the_profile_over_layers(page, two):
    address, analysis = two
    visit(page, f"{address}#scores", "document.querySelector('#layers')")
    page.run("document.querySelector('#layers').scrollIntoView()")
    page.wait("document.querySelector('#layers .js-plotly-plot')")
    profile = analysis.tables["layers"]
    wanted = profile[profile["score"] == "sameness"].sort_values("place")
    trace = (
        "document.querySelector('#layers .js-plotly-plot').data"
        ".find((one) => one.name === 'Sameness')"
    )
    drawn = page.run(f"const {{x, y}} = {trace}; return [x, y];")
    assert drawn == [wanted["layer"].tolist(), wanted["value"].tolist()]
    assert len(wanted) > 1
    # Its colours are those of the page, in each theme.
    for dark in (True, False):
        page.shape(1400, 900, dark=dark)
        page.wait(f"document.documentElement.dataset.theme === '{('light', 'dark')[dark]}'")
        page.wait(f"{trace}.line.color === Shown.css('--accent')")
    assert_quiet(page, address)


MARKUP = ["<b>x</b>", "a<br>b", "R&D"]


def test_names_of_classes_stand_in_figures_as_they_are(page, address, analysed):
    """At the axes, in the legend, under the pointer; and no style of theirs is refused."""
    from alike.analysis.figures import figures, matrix_figure

    visit(page, f"{address}#classes", VIEWS["#classes?first=cat&second=dog"])
    square = pd.DataFrame(1 - np.eye(3), MARKUP, MARKUP)
    roc = analysed[0].tables["roc"]
    curves = dict.fromkeys(MARKUP, (roc, "gap_cosine"))
    for drawn, hovered, legend in (
        (matrix_figure(square, MARKUP), {"xval": 1, "yval": 0}, False),
        (figures.roc(curves), [{"curveNumber": 1, "pointNumber": 1}], True),
    ):
        page.run(
            "const box = document.createElement('div'); box.id = 'drawn';"
            "document.querySelector('#drawn')?.remove(); document.body.append(box);"
            "const [spec, hovered] = arguments; window.ready = false;"
            "Shown.draw(box, JSON.parse(spec)).then(() => {"
            "Plotly.Fx.hover(box, hovered); window.ready = true; });",
            drawn.to_json(), hovered,
        )  # fmt: skip
        page.wait("window.ready")
        texts = page.run(
            "return [...document.querySelectorAll(arguments[0])].map((one) => one.textContent)",
            "#drawn .legendtext" if legend else "#drawn .ytick text",
        )
        assert texts == MARKUP
        page.wait("document.querySelector('#drawn .hovertext')")
        under = page.run("return document.querySelector('#drawn .hoverlayer').textContent")
        assert "a<br>b" in under
    assert_quiet(page, address)


def test_the_measure_that_is_shown_instead_is_named(page, address):
    for view in ("scores", "data", "classes"):
        visit(page, f"{address}#{view}?measure=gap_euclid", "document.querySelector('.view p')")
        says = page.wait("document.querySelector('.othermeasure')?.innerText")
        assert "by gap_cosine, not by gap_euclid" in says, view
    assert_quiet(page, address)


def test_twins_of_one_file_name_both_labels(page, address, client):
    image = client.json("/api/v1/images/3")
    line = {
        "images": [image, {**image, "path": "dog/copy.png", "label": "dog"}],
        "suggested": None, "score": 1.0, "why": "same bytes, labels “a” and “dog”", "bad": False,
    }  # fmt: skip
    visit(page, address, VIEWS[""])
    page.run(
        "import('/static/data.js').then(({ entry }) => {"
        "  window.card = entry('twins', arguments[0], { images: {} }, {}); })", line,
    )  # fmt: skip
    says, links, pictures = page.wait(
        "window.card && [card.textContent, [...card.querySelectorAll('a')].map((one) => one.hash),"
        "card.querySelectorAll('img').length]"
    )
    assert says.count("“dog”") == 1
    assert "correlation" not in says
    assert (links, pictures) == ([f"#ask?image={image['image']}"], 1)


def test_a_store_without_runs_says_what_records_them(page, two):
    address, _ = two
    visit(page, f"{address}#scores", "document.querySelector('#runs .lead')")
    says = page.run("return document.querySelector('#runs').innerText")
    assert "No run is recorded in this store. alike run pipeline.toml records" in says
    assert not page.run("return document.querySelectorAll('#runs input').length")
    page.run("location.hash = 'scores?runs=a,b'")
    line = "runs=a,b in the address: this store has no runs."
    page.wait("document.querySelector('#notes').textContent === arguments[0]", line)
    assert_quiet(page, address)


def test_what_the_data_allow_stands_above_the_lists(page, two):
    address, analysis = two
    visit(page, f"{address}#data", "document.querySelector('.limits details')")
    page.run("document.querySelector('.limits summary').click()")
    page.wait("document.querySelector('.limits .js-plotly-plot')")
    bounds = page.run(
        "return [...document.querySelectorAll('.limits .two tbody')][0].innerText.split('\\n')"
    )
    wanted = analysis.tables["bayes"].set_index("voters")
    for line, (voters, row) in zip(bounds, wanted.iterrows(), strict=True):
        says = [f"{100 * row[name]:.1f} %" for name in ("lower", "upper")]
        assert re.sub(r"[\s\u00a0\u202f]+", " ", line).startswith(" ".join([str(voters), *says]))
    curve = analysis.tables["sufficiency"]
    drawn = page.run(
        "return document.querySelector('.limits .js-plotly-plot').data.flatMap((one) => one.y)"
    )
    assert set(curve.query("score == 'one_nn'")["value"]) <= set(drawn)
    for width, height in SHAPES:
        page.shape(width, height, dark=True)
        visit(page, f"{address}#data", "document.querySelector('.limits details')")
        assert not page.run("return document.querySelector('.limits details').open")
        top = page.run("return document.querySelector('.tabs').getBoundingClientRect().top")
        assert top < 0.6 * height or (width < 600 and top < height)
    assert_quiet(page, address)


@with_axe
def test_no_serious_finding_of_axe_in_what_the_data_allow(page, two):
    """Its tables are those of the report, whose headings sort."""
    address, _ = two
    visit(page, f"{address}#data", "document.querySelector('.limits details')")
    page.run("document.querySelectorAll('.limits details').forEach((one) => { one.open = true; })")
    page.wait("document.querySelector('.limits .js-plotly-plot')")
    assert serious_findings(page) == []
    heads = page.run("return [...document.querySelectorAll('th')].map((one) => one.innerText)")
    assert "" not in heads


READ = """
const table = document.querySelector("table.sortable");
return [...table.rows].map((row) => [...row.cells].map((cell) => {
  const under = cell.querySelector(".sub");
  const whole = cell.textContent.trim();
  if (!under) return [whole];
  const below = under.textContent.trim();
  return [whole.slice(0, whole.lastIndexOf(below)), below];
}));
"""


def test_figures_and_tables_are_saved_as_files(page, address):
    visit(page, address + "#scores", VIEWS["#scores"] + " && document.querySelector('.sortable')")
    shown = page.run(READ)
    rows = list(
        csv.reader(
            io.StringIO(page.run("return Shown.csv(document.querySelector('table.sortable'))"))
        )
    )
    assert len(rows) == len(shown) > 1
    ascii_only = str.maketrans({"−": "-", "\u00a0": " ", "\u202f": " "})
    for line, cells in zip(rows[1:], shown[1:], strict=True):
        assert len(line) == len(rows[0])
        wanted = [part.strip().translate(ascii_only) for cell in cells for part in cell]
        assert [value for value in line if value] == [value for value in wanted if value]
    safe = page.run(
        "const table = document.createElement('table');"
        "const names = ['class', '=1+1', '-2+3+cmd|x!A0', '@a', '+b', '-0.25', '+3 %',"
        "  '+6.2 points'];"
        "for (const name of names) table.insertRow().insertCell().textContent = name;"
        "return Shown.csv(table);"
    )
    assert safe.splitlines() == [
        "class", "'=1+1", "'-2+3+cmd|x!A0", "'@a", "'+b", "-0.25", "+3 %", "+6.2 points"
    ]  # fmt: skip
    latex = page.run("return Shown.latex(document.querySelector('table.sortable'))")
    assert latex.count("\\\\\n") == len(rows)
    assert not re.search(r"(?<!\\)[%$#_]", latex)
    page.run(
        "window.drawn = null; const plot = document.querySelector('.js-plotly-plot');"
        "Shown.svg(plot).then((one) => { window.drawn = one; });"
    )
    drawing = ElementTree.fromstring(page.wait("window.drawn"))
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(list(drawing.iter("{http://www.w3.org/2000/svg}path"))) > 3
    labels = page.run(
        "window.saved = []; const make = URL.createObjectURL;"
        "URL.createObjectURL = (file) => { window.saved.push(file.type); return make(file); };"
        "const all = [...document.querySelectorAll('.saves button')];"
        "return all.map((one) => { one.click(); return one.textContent; });"
    )
    assert {"SVG", "PNG", "CSV", "LaTeX"} <= set(labels)
    assert labels.count("PNG") == labels.count("SVG")
    kinds = {"SVG": "image/svg+xml", "CSV": "text/csv", "LaTeX": "text/x-tex", "PNG": "image/png"}
    # Plotly draws a PNG of an SVG, for which it makes an address too.
    wanted = [kinds[one] for one in labels] + ["image/svg+xml;charset=utf-8"] * labels.count("PNG")
    page.wait(f"window.saved.length === {len(wanted)}")
    assert sorted(page.run("return window.saved")) == sorted(wanted)
    page.run(
        "window.sides = null; const plot = document.querySelector('.js-plotly-plot');"
        "Shown.png(plot).then((bytes) => createImageBitmap(new Blob([bytes])))"
        ".then((one) => { window.sides = [one.width, one.height, plot.clientWidth]; });"
    )
    width, height, shown = page.wait("window.sides")
    assert width == 2 * shown
    assert height > 100
    assert_quiet(page, address)


SAVE = """
const [place, label] = arguments;
window.saved = null;
window.makeAddress ??= URL.createObjectURL;
URL.createObjectURL = (file) => {
  file.text().then((one) => { window.saved = one; });
  return window.makeAddress.call(URL, file);
};
const buttons = [...document.querySelectorAll(`${place} .saves button`)];
buttons.find((one) => one.textContent === label).click();
"""


def saved(page, place, label):
    """What a button below a figure or a table writes."""
    page.run(SAVE, place, label)
    page.wait("window.saved !== null")
    return page.run("return window.saved")


def test_tables_of_the_page_alone_are_saved_too(page, two):
    address, analysis = two
    visit(page, f"{address}#classes", "document.querySelector('[aria-label*=sameness] .saves')")
    page.wait(f"{READY} && document.querySelectorAll('.js-plotly-plot').length === 2")
    text = saved(page, "[aria-label='Classes by sameness']", "CSV")
    head, *rows = csv.reader(io.StringIO(text))
    assert head == ["Class", "Images", "Sameness", "Sameness, below", "Within", "Between"]
    table = analysis.tables["per_class"].sort_values("sameness", kind="stable")
    assert [row[0].removeprefix("'") for row in rows] == table["class"].tolist()
    assert "'=wasp" in [row[0] for row in rows]
    assert [row[2] for row in rows] == [f"{value:.3f}" for value in table["sameness"]]
    assert [float(row[4]) for row in rows] == pytest.approx(table["intra_mean"].tolist(), rel=1e-3)
    visit(page, f"{address}#scores", "document.querySelector('.tiles')")
    place = "section:has(a[aria-current])"
    head, *rows = csv.reader(io.StringIO(saved(page, place, "CSV")))
    networks = [name.partition(",")[0] for name in head]
    deep, wide = "nets.py:deep", "nets.py:wide"
    assert networks == ["Score", deep, deep, wide, wide]
    scores = analysis.tables["scores"].query("measure == 'gap_cosine'").set_index("score")
    values = {row[0]: row[1:3] for row in rows}
    one = scores.loc["sameness"]
    assert values["Sameness"] == [f"{one['value']:.3f}", f"{one['low']:.3f} to {one['high']:.3f}"]
    # In the words of the report, a share in per cent.
    one = scores.loc["one_nn"]
    assert values["Nearest neighbour of the same class"][0] == f"{100 * one['value']:.1f} %"
    assert not any("_" in row[0] for row in rows)
    assert saved(page, place, "LaTeX").count("\\\\\n") == len(rows) + 1
    assert_quiet(page, address)


def test_the_map_is_saved_as_it_is_seen(page, address, client):
    visit(page, f"{address}#map?split=all", VIEWS["#map?split=all"])
    svg = "{http://www.w3.org/2000/svg}"
    drawing = ElementTree.fromstring(saved(page, ".mapfigure", "SVG"))
    table = client.json("/api/v1/map?split=all")
    circles = [one for one in drawing.iter(f"{svg}circle") if one.get("fill-opacity")]
    assert len(circles) == len(table["row"])
    # Places up to a common scale, seen from above; y goes down in a picture.
    for axis, name, sign in ((0, "cx", 1), (1, "cy", -1)):
        seen = [sign * float(one.get(name)) for one in circles]
        places = [point[axis] for point in table["tsne"]]
        assert np.corrcoef(seen, places)[0, 1] > 0.99999
    names = [one.text for one in drawing.iter(f"{svg}text")]
    assert names == sorted(set(table["label"]), key=str.casefold)
    legend = {one.get("fill") for one in drawing.iter(f"{svg}circle")} - {
        one.get("fill") for one in circles
    }
    assert len(legend) == len(names)
    # One class alone: the others are faint, as on the screen.
    page.run("document.querySelector('.legend button').click()")
    drawing = ElementTree.fromstring(saved(page, ".mapfigure", "SVG"))
    solid = [one for one in drawing.iter(f"{svg}circle") if float(one.get("fill-opacity", 0)) > 0.5]
    assert len(solid) == table["label"].count(names[0])
    assert_quiet(page, address)
