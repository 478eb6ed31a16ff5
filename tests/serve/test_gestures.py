"""What the mouse, the clipboard and a finger bring: files, addresses, points of two linked maps."""

import base64
import re
import shutil
import time
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from alike.analysis.maps import MapSettings, make_map
from alike.extract.images.split import image_id
from alike.extract.store.store import Store
from alike.index.build import build_index

from .browser import missing
from .conftest import server
from .visiting import LATE, READY, assert_quiet, box_of, paint_of, place_of, visit

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")
ASK = "document.querySelectorAll('.some .pic img').length === 20"
DROP = """
const [files, text, kind] = arguments, brought = new DataTransfer();
for (const [name, data] of files) {
  brought.items.add(new File([Uint8Array.from(atob(data), (one) => one.charCodeAt(0))], name));
}
if (text) brought.setData("text/plain", text);
const how = { bubbles: true, cancelable: true };
document.body.dispatchEvent(kind === "drop"
  ? new DragEvent("drop", { ...how, dataTransfer: brought })
  : new ClipboardEvent("paste", { ...how, clipboardData: brought }));
"""


def files_of(*paths):
    return [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in paths]


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_several_files_at_once(page, client, analysed, place, tmp_path, kind):
    """Each is uploaded, the last is asked, a strip leads to all; what is no image is named."""
    paths = []
    for number, turn in enumerate((90, 180)):
        paths.append(tmp_path / f"{kind}-{number}.png")
        picture = Image.open(place / "images" / "cat" / f"{number}.png").rotate(turn)
        picture.putpixel((0, 0), (len(kind), 0, 0))
        picture.save(paths[-1])
    letter = tmp_path / "letter.txt"
    letter.write_text("no image")
    address = f"{client.address}/"
    visit(page, address, ASK)
    page.run(DROP, files_of(paths[0], letter, paths[1]), "", kind)
    page.wait("document.querySelectorAll('.strip a').length >= 2")
    page.wait("document.querySelectorAll('.near .pic').length === 12")
    names = [image_id(path.read_bytes()) for path in paths]
    links = page.run("return [...document.querySelectorAll('.strip a')].map((one) => one.href)")
    assert [re.search("image=([0-9a-f]+)", one)[1] for one in links[-2:]] == names
    assert names[1] in page.run("return location.hash")
    line = page.run("return document.querySelector('.brought .wrongline').innerText")
    assert line.startswith("letter.txt: ")
    assert "cannot be decoded" in line
    page.run("[...document.querySelectorAll('.strip a')].at(-2).click()")
    page.wait(f"{READY} && location.hash.includes('{names[0]}')")
    near = client.json(f"/api/v1/images/{names[0]}/neighbours?k=12")["neighbours"]
    shown = "[...document.querySelectorAll('.near .pic')].map((one) => one.dataset.image).join()"
    page.wait(f"{shown} === arguments[0]", ",".join(one["image"] for one in near))
    # In every view: a browser shows a dropped file in place of a page that does not take it.
    page.run("location.hash = '#data?kind=twins'")
    page.wait(f"document.querySelector('.view.data') && {READY}")
    page.run(DROP, files_of(letter, paths[1]), "", kind)
    page.wait(f"document.querySelector('.view.ask') && location.hash.includes('{names[1]}')")
    assert page.wait(f"{READY} && document.querySelector('.brought .wrongline')?.innerText") == line
    complaints = [one for one in page.complaints() if "status of 422" not in one]
    assert complaints == []


@pytest.mark.parametrize("kind", ["drop", "paste"])
def test_an_address_is_answered_and_not_asked(page, client, analysed, kind):
    address = f"{client.address}/"
    visit(page, address, ASK)
    page.run(DROP, [], "https://elsewhere.example/cat.png", kind)
    line = page.wait("document.querySelector('.brought .wrongline')?.innerText")
    assert "is an address, not" in line
    assert "asks no other server" in line
    assert_quiet(page, address)


def test_pasted_text_is_answered_too_but_not_in_a_field(page, client, analysed):
    visit(page, f"{client.address}/#ask?image=3", "document.querySelector('.query input')")
    line = "document.querySelector('.brought .wrongline')"
    page.run(
        "const brought = new DataTransfer(); brought.setData('text/plain', '7');"
        "document.querySelector('.query input').dispatchEvent("
        "new ClipboardEvent('paste', {bubbles: true, clipboardData: brought}))"
    )
    assert page.run(f"return {line}") is None
    page.run(DROP, [], "a cat", "paste")
    assert "is text, not an image" in page.wait(f"{line}?.innerText")


@pytest.fixture(scope="module")
def mapped(two_networks, tmp_path_factory):
    """A server of two networks with a map each, of a copy of the store, and of its bees; keys."""
    folder, analysis = two_networks
    store = Store.open(folder / "store")
    keys = [analysis.key, next(key for key in store.groups() if key != analysis.key)]
    for key in keys:
        make_map(store.features(key), MapSettings(split="all"))
    copy = tmp_path_factory.mktemp("copies") / "copy.store"
    shutil.copytree(folder / "store", copy)
    bees = copy.with_name("bees.store")
    shutil.copytree(copy, bees)
    part = Store.open(bees)
    table = part.images().drop(columns="row")
    part.list_images(table[table["label"] == "bee"])
    build_index(part.features(keys[0]), "gap_cosine", rebuild=True)
    make_map(part.features(keys[0]), MapSettings(split="all"))
    with server(folder / "store", copy, bees, options=("--features", keys[0])) as answering:
        yield answering, keys


def test_a_late_map_joins_no_newer_one(page, mapped):
    client, (_, second) = mapped
    visit(page, f"{client.address}/#map?split=all", "document.querySelector('.plane canvas')")
    page.run(LATE)
    page.run(
        "window.late = { [`map?features=${arguments[0]}`]: 700 };"
        "location.hash = `map?split=all&beside=${arguments[0]}`", second,
    )  # fmt: skip
    page.wait("document.querySelector('.maps[aria-busy]')")
    page.run("location.hash = 'map?split=all'")
    page.wait(f"{READY} && document.querySelector('.plane canvas')")
    time.sleep(1)
    key = "new KeyboardEvent('keydown', { key: '+', cancelable: true })"
    page.run(f"document.querySelector('.plane canvas').dispatchEvent({key})")
    view = "new URLSearchParams(location.hash.split('?')[1]).get('view')"
    assert len(page.wait(view, seconds=9).split(",")) == 3


@pytest.mark.parametrize("prefix", ["", "copy/"], ids=["one store", "across stores"])
def test_two_maps_are_linked(page, mapped, prefix):
    client, (first, second) = mapped
    address = f"{client.address}/"
    visit(page, f"{address}#map?split=all&beside={prefix}{second}",
          "document.querySelectorAll('.plane').length === 2")  # fmt: skip
    titles = page.run(
        "return [...document.querySelectorAll('.mapfigure h2')].map((one) => one.innerText)"
    )
    assert [re.search(r"nets.py:(\w+), ", one)[1] for one in titles] == ["deep", "wide"]
    assert all("random weights of seed 0" in one for one in titles)
    own = client.json(f"/api/v1/map?split=all&features={first}")
    other = client.json(f"/api/v1/map?split=all&features={second}")
    planes = [f".mapfigure:nth-child({number}) .plane" for number in (1, 2)]
    boxes = [box_of(page, one) for one in planes]
    assert boxes[1][0] > boxes[0][0] + 100
    overs = [f"{one} .over" for one in planes]
    assert [paint_of(page, one) for one in overs] == [0, 0]
    # Point at one: a ring in both.
    page.move(*place_of(own["tsne"], 7, boxes[0]))
    page.wait("document.querySelector('.mapcard').style.display === 'block'")
    page.run(
        "return new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
    )
    assert all(paint_of(page, one) > 20 for one in overs)
    # A lasso around the left half of one: the same images stay bright in the other.
    page.run("document.querySelector('button[data-value=lasso]').click()")
    left, top, right, bottom = boxes[0]
    middle, bottom = (left + right) / 2, min(bottom, 895)
    page.drag([(left + 3, top + 3), (middle, top + 3), (middle, bottom - 3), (left + 3, bottom - 3),
               (left + 3, top + 8)])  # fmt: skip
    page.wait("document.querySelector('.selection h2')")
    within = {
        image
        for number, image in enumerate(own["image"])
        if place_of(own["tsne"], number, boxes[0])[0] < middle
        and place_of(own["tsne"], number, boxes[0])[1] < bottom - 3
    }
    assert 0 < len(within) < len(own["image"])
    title = page.run("return document.querySelector('.selection h2').innerText")
    assert title == f"{len(within)} selected"
    page.run(
        "window.drawn = null; const make = URL.createObjectURL; URL.createObjectURL = (file) => {"
        "file.text().then((one) => { window.drawn = one; }); return make.call(URL, file); };"
        "document.querySelectorAll('.mapfigure .saves button')[1].click()"
    )
    drawing = ElementTree.fromstring(page.wait("window.drawn"))
    opacity = [
        float(one.get("fill-opacity"))
        for one in drawing.iter("{http://www.w3.org/2000/svg}circle")
        if one.get("fill-opacity")
    ]
    bright = {image for image, one in zip(other["image"], opacity, strict=True) if one > 0.5}
    assert bright == within
    assert_quiet(page, address)


def test_a_link_shows_the_lit_class_and_the_view(page, mapped):
    client, _ = mapped
    address = f"{client.address}/#map?split=all"
    visit(page, address, "document.querySelectorAll('.legend button').length === 3")
    page.run("document.querySelectorAll('.legend button')[1].click()")
    assert "lit=ant" in page.run("return location.hash")
    steps = page.run("return history.length")
    page.run(
        "for (const key of ['+', '+', 'ArrowLeft', 'ArrowUp']) document.querySelector("
        "'.plane canvas').dispatchEvent(new KeyboardEvent('keydown', { key }))"
    )
    page.wait("location.hash.includes('view=')")
    shown = page.run("return location.hash")
    assert page.run("return history.length") == steps
    drawn = (
        "window.drawn = null; const make = URL.createObjectURL; URL.createObjectURL = (file) => {"
        "file.text().then((one) => { window.drawn = one; }); return make.call(URL, file); };"
        "document.querySelector('.mapfigure .saves button').click()"
    )
    page.run(drawn)
    before = page.wait("window.drawn")
    visit(page, client.address + "/" + shown, "document.querySelectorAll('.legend button').length")
    assert page.run("return document.querySelectorAll('.legend [aria-pressed=true]').length") == 1
    page.run(drawn)
    after = page.wait("window.drawn")
    places = [
        [[float(one.get(name)) for name in ("cx", "cy", "fill-opacity")]
         for one in ElementTree.fromstring(text).iter("{http://www.w3.org/2000/svg}circle")
         if one.get("fill-opacity")]
        for text in (before, after)
    ]  # fmt: skip
    assert len(places[0]) == len(places[1]) > 0
    np.testing.assert_allclose(places[1], places[0], atol=0.3)
    page.run("[...document.querySelectorAll('.controls button')].find((one) => "
             "one.innerText === 'Show all').click()")  # fmt: skip
    page.wait("!location.hash.includes('view=')")
    # What a link names in vain is said.
    page.run("location.hash = 'map?split=all&lit=nope&view=abc'")
    notes = "document.querySelector('#notes').textContent"
    for line in ("lit=nope in the address: no image has it as its class.",
                 "view=abc in the address: it is the centre and the zoom of each map"):  # fmt: skip
        page.wait(f"{notes}.includes(arguments[0])", line, seconds=20)


def test_all_of_many_names_can_be_lit_and_a_matrix_without_names_is_as_high_as_wide(page, mapped):
    address = f"{mapped[0].address}/"
    visit(page, f"{address}#data?kind=bad", "document.querySelector('.empty, .entry')")
    page.run(
        "const asked = window.fetch; window.fetch = async (where, how) => {"
        "  const answer = await asked(where, how);"
        "  if (!/[/](map|class-matrix)[?]?/.test(where)) return answer;"
        "  const body = await answer.json();"
        "  if (body.label) body.label = body.label.map((_, i) => `name ${i}`);"
        "  else { body.figure.layout.xaxis.ticktext = []; body.figure.layout.height = 900; }"
        "  return new Response(JSON.stringify(body)); }"
    )
    page.run("location.hash = '#map?split=all'")
    page.wait(f"{READY} && document.querySelectorAll('.legend button').length === 60")
    assert page.run("return document.querySelectorAll('.legend option').length") == 121
    page.run("const list = document.querySelector('.legend select'); list.value = 'name 111';"
             "list.dispatchEvent(new Event('change'))")  # fmt: skip
    page.wait("location.hash.includes('lit=name+111') && "
              "document.querySelector('.legend select').value === 'name 111'")  # fmt: skip
    page.run("location.hash = '#classes'")
    page.wait(f"{READY} && document.querySelector('.card .js-plotly-plot')")
    left, top, right, bottom = box_of(page, ".card .js-plotly-plot")
    assert bottom - top <= right - left + 1
    assert_quiet(page, address)


def test_a_lasso_lists_the_images_of_the_map_in_which_it_is(page, mapped):
    """Also those that the other map does not have."""
    client, (first, _) = mapped
    visit(page, f"{client.address}/#map?store=bees&split=all&beside=store/{first}",
          "document.querySelectorAll('.plane').length === 2")  # fmt: skip
    page.run("document.querySelector('button[data-value=lasso]').click()")
    for number, images in ((1, 40), (2, 120)):
        left, top, right, bottom = box_of(page, f".mapfigure:nth-child({number}) .plane")
        bottom = min(bottom, 895)
        page.drag([(left + 3, top + 3), (right - 3, top + 3), (right - 3, bottom - 3),
                   (left + 3, bottom - 3), (left + 3, top + 8)])  # fmt: skip
        page.wait("document.querySelector('.selection h2')?.innerText === arguments[0]",
                  f"{images} selected", seconds=20)  # fmt: skip
        page.run("document.querySelectorAll('.selection button')[1].click(); scrollTo(0, 0)")
