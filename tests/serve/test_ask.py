"""The view Ask in a browser: two networks beside each other, and what a shared link shows again."""

import re
import shutil
import time
from collections import Counter

import pytest

from alike.analysis.report.parts import prose

from .browser import missing
from .conftest import server
from .visiting import LATE, READY, assert_quiet, box_of, serious_findings, visit, with_axe

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")
COLUMNS = """
return [...document.querySelectorAll(".near")].filter((one) => !one.hidden).map((one) => ({
  title: one.querySelector("h2").textContent,
  says: one.querySelector(".predicted").textContent,
  votes: [...one.querySelectorAll(".votes")].map((votes) => votes.getAttribute("aria-label"))[0],
  images: [...one.querySelectorAll(".pic")].map((tile) => tile.dataset.image),
  alone: [...one.querySelectorAll(".pic.alone")].map((tile) => tile.dataset.image),
  left: one.getBoundingClientRect().left,
  top: one.querySelector(".grid").getBoundingClientRect().top,
}));
"""
"""The lists of neighbours that are seen."""
PICTURES = """
return [...document.querySelectorAll(".both canvas")].map((canvas) => canvas.toDataURL());
"""


@pytest.fixture(scope="module")
def two_stores(two_networks):
    """A server of a store of two networks, and of a copy of it; both networks' keys."""
    folder, analysis = two_networks
    copy = folder.parent / "after.store"
    shutil.copytree(folder / "store", copy)
    with server(folder / "store", copy, options=("--features", analysis.key)) as answering:
        keys = [one["key"] for one in answering.json("/api/v1/set")["extractions"]]
        yield answering, analysis.key, next(key for key in keys if key != analysis.key)


def assert_column(column, client, image, below, key):
    """A column has the neighbours, the votes and the prediction of its network."""
    path = f"/api/v1{below}/images/{image}"
    near = client.json(f"{path}/neighbours?k=12&features={key}")["neighbours"]
    assert column["images"] == [one["image"] for one in near]
    votes = Counter(one["label"] for one in near)
    counts = sorted(f"{label} {n}" for label, n in votes.items())
    assert sorted(column["votes"].partition(": ")[2].split(", ")) == counts
    told = client.json(f"{path}/prediction?features={key}")
    assert f"{told['classes'][0]} {100 * told['shares'][0]:.1f} %" in column["says"]


def test_votes_sum_to_all_neighbours(page, two_stores):
    visit(page, f"{two_stores[0].address}/", "document.querySelector('.some .pic')")
    page.run(
        "const near = [...'aabbcdeef'].map((label) => ({ label }));"
        "import('/static/answers.js').then(({ votes }) => {"
        "  window.votes = votes({ query: { label: 'a' }, neighbours: near }, 'any'); })"
    )
    label = page.wait("window.votes?.getAttribute('aria-label')")
    assert label == "Votes of 9 neighbours: a 2, b 2, e 2, 3 more classes 3"


@pytest.mark.parametrize("store", ["", "after"], ids=["one store", "across stores"])
def test_two_networks_in_two_columns(page, two_stores, store):
    client, first, second = two_stores
    below = f"/stores/{store}" if store else ""
    image = client.json("/api/v1/images/3")["image"]
    other = f"{store}/{second}" if store else second
    address = f"{client.address}/"
    visit(page, f"{address}#ask?image=3&beside={other}", "document.querySelector('.pic.alone')")
    said = "[...document.querySelectorAll('.predicted')].every((one) => one.textContent)"
    page.wait(said)
    own, beside = page.run(COLUMNS)
    assert_column(own, client, image, "", first)
    assert_column(beside, client, image, below, second)
    assert beside["title"].startswith(f"{store}: nets.py:wide" if store else "nets.py:wide")
    assert beside["left"] > own["left"] + 100
    assert beside["top"] == own["top"]
    shared = set(own["images"]) & set(beside["images"])
    assert 0 < len(shared) < 12
    assert set(own["alone"]) == set(own["images"]) - shared
    assert set(beside["alone"]) == set(beside["images"]) - shared
    words = page.run("return document.querySelector('.shared').textContent")
    assert words.startswith(f"{len(shared)} of 12 neighbours are in both lists.")
    # A neighbour of the other network: the pair is its own, and by the first one on request.
    page.run("document.querySelectorAll('.near.beside .pic')[1].click()")
    page.wait(f"{READY} && document.querySelector('.pairplace .both')")
    for choice, path, key in ((1, below, second), (0, "", first)):
        page.run(f"document.querySelectorAll('.pairplace .choices')[0].children[{choice}].click()")
        pair = f"/api/v1{path}/images/{image}/alike/{beside['images'][1]}?features={key}"
        distance = client.json(pair)["distance"]
        shown = "document.querySelector('.pairplace .card > p b')?.textContent"
        page.wait(f"{READY} && Number({shown}) === Number(arguments[0])", f"{distance:.4g}")
    assert "by=" not in page.run("return location.hash")
    page.shape(390, 844, dark=True)
    own, beside = page.run(COLUMNS)
    assert beside["left"] > own["left"] + 100
    # Distances that are cut off would look the same.
    cut = "one.scrollWidth - one.clientWidth"
    distances = f"[...document.querySelectorAll('.near .whole')].map((one) => {cut})"
    assert max(page.run(f"return {distances}")) <= 0
    # A phone's window grows with what is too wide, so its inner width says nothing.
    over = "const all = document.documentElement; return all.scrollWidth - all.clientWidth"
    assert page.run(over) <= 0
    # At 400 % a window of 1,280 pixels has 320: nothing scrolls sideways.
    page.shape(320, 640, dark=True)
    assert page.run(over) <= 0
    page.run("document.querySelector('.near').append(document.createElement('hr'));"
             "document.querySelector('.near hr').style.width = '3000px'")  # fmt: skip
    assert page.run(over) > 0
    assert_quiet(page, address)


@with_axe
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_no_serious_finding_of_axe_in_two_columns(page, two_stores, dark):
    client, _, second = two_stores
    page.shape(1400, 900, dark=dark)
    address = f"{client.address}/#ask?image=3&with=12&at=0.3&beside=after/{second}"
    visit(page, address, "document.querySelector('.pic.alone') && document.querySelector('.both')")
    page.wait("location.hash && document.querySelector('.says').textContent.startsWith('Row 1')")
    assert serious_findings(page) == []


def test_a_network_that_is_gone_is_named(page, two_stores):
    client, *_ = two_stores
    visit(
        page, f"{client.address}/#ask?image=3&beside=after/none", "document.querySelector('.empty')"
    )
    assert "no network “after/none”" in page.run(
        "return document.querySelector('.near.beside').innerText"
    )


def press(page, key):
    """Press a key where the focus is."""
    event = f"new KeyboardEvent('keydown', {{key: '{key}', bubbles: true, cancelable: true}})"
    page.run(f"document.activeElement.dispatchEvent({event})")


PRESS = "const one = document.querySelector(arguments[0]); one.focus(); one.click()"


def test_another_question_takes_the_keyboard_to_it(page, client, analysed):
    """What asked it is gone, or far below: the next Tab is in the new question."""
    ready = "document.querySelector('.pairplace .button')"
    visit(page, f"{client.address}/#ask?image=3&with=12", ready)
    at_query = "document.activeElement === document.querySelector('.query')"
    for control in (".pairplace .button", ".some .pic"):
        before = page.run("return location.hash")
        page.run(PRESS, control)
        page.wait(f"{READY} && location.hash !== arguments[0]", before, seconds=9)
        page.wait(at_query, seconds=9)
        assert page.run("return document.querySelector('.query h2').textContent")
    # A picture of another view: the keyboard is in the view that it leads to.
    page.run("location.hash = 'classes?first=cat&second=dog'")
    page.wait(f"{READY} && document.querySelector('.pairitem .pic')")
    page.run(PRESS, ".pairitem .pic")
    page.wait(f"{READY} && document.querySelector('.view.ask .pic')")
    assert page.run("return document.activeElement.id") == "view"


def test_a_late_answer_takes_the_place_of_no_newer_one(page, two_stores):
    client, first, second = two_stores
    visit(page, f"{client.address}/#ask?image=3", "document.querySelector('.near .pic')")
    page.run(LATE)
    page.run("window.late = { 'images/7/neighbours': 1500 }; location.hash = 'ask?image=7&with=8'")
    page.wait("document.querySelector('.near[aria-busy]')")
    page.run("location.hash = 'ask?image=9&with=30'")
    shown = "return ['.query p', '.both'].map((one) => document.querySelector(one)?.innerText)"
    names = [client.json(f"/api/v1/images/{row}")["path"].split("/")[1] for row in (9, 30)]
    both = "document.querySelector('.both')?.innerText.match(/\\d+\\.png/g)?.join()"
    page.wait(f"{both} === arguments[0]", ",".join(names))
    time.sleep(2)
    query, pair = page.run(shown)
    assert "row 9" in query
    assert re.findall(r"\d+\.png", pair) == names
    # The same of the set: another network is asked for, and left before its answer.
    page.run(
        "window.late = { 'set?features': 900 };"
        "location.hash = `scores?features=${arguments[0]}`", second,
    )  # fmt: skip
    page.wait("document.querySelector('#view > .waiting')")
    assert "Loading" in page.run("return document.querySelector('#view').innerText")
    page.run("location.hash = 'classes'")
    page.wait(f"{READY} && document.querySelector('.view.classes')")
    time.sleep(1)
    assert page.run("return document.querySelector('.view').className") == "view classes"
    chosen = "return [...document.querySelectorAll('#set select')].map((one) => one.value)"
    assert first in page.run(chosen)


def test_every_view_says_that_it_waits_and_can_be_left(page, two_stores):
    client, *_ = two_stores
    visit(page, f"{client.address}/", "document.querySelector('.some .pic')")
    # No answer comes.
    page.run(LATE + "window.late = { 'api/v1': 1e6 };")
    lines = "[...document.querySelectorAll('#view .waiting')].map((one) => one.innerText.trim())"
    for link, line in (
        ("classes", "Loading the classes …"), ("scores", "Loading the scores …"),
        ("data", "Loading the list …"), ("ask?image=3&with=5", "Looking for neighbours …"),
    ):  # fmt: skip
        page.run("location.hash = arguments[0]", link)
        page.wait(f"{lines}.includes(arguments[0])", line, seconds=20)


MIXED = "The worst class was “חתול!” with 0.1 and is now “כלב 3” with 0.2."
ORDER = """
const range = document.createRange(), marks = [], of = document.querySelector(arguments[0]);
const walker = document.createTreeWalker(of, NodeFilter.SHOW_TEXT);
for (let node = walker.nextNode(); node; node = walker.nextNode()) {
  [...node.textContent].forEach((mark, i) => {
    range.setStart(node, i);
    range.setEnd(node, i + 1);
    if (mark.trim()) marks.push([range.getBoundingClientRect().left, mark]);
  });
}
return marks.sort(([a], [b]) => a - b).map(([, mark]) => mark).join("");
"""
"""The characters of an element as they are seen, from left to right."""


def test_names_from_right_to_left_turn_nothing_around(page, client):
    """In sentences of the report and of the page a name runs to the left, and all else as ever."""
    seen = "Theworstclasswas“!לותח”with0.1andisnow“3בלכ”with0.2."
    page.go("about:blank")
    page.run("document.body.innerHTML = `<p style='white-space: nowrap'>${arguments[0]}</p>`",
             prose(MIXED))  # fmt: skip
    assert page.run(ORDER, "p") == seen
    visit(page, f"{client.address}/", "document.querySelector('.some .pic')")
    page.run(
        "const [text] = arguments; import('/static/parts.js').then(({ h, prose }) => {"
        "  const line = h('p', { id: 'mixed' }, prose(text));"
        "  line.style.whiteSpace = 'nowrap';"
        "  document.querySelector('#view').replaceChildren(line); })", MIXED,
    )  # fmt: skip
    page.wait("document.querySelector('#mixed')")
    assert page.run(ORDER, "#mixed") == seen


SHOWN = ("likeness", "difference", "pixels", "gradcam", "cam", "lrp", "sa", "none")


def test_the_keys_1_to_8_redraw_the_pair_and_a_link_shows_the_same(page, client, analysed):
    address = f"{client.address}/"
    ready = "document.querySelectorAll('.both canvas').length === 2"
    visit(page, f"{address}#ask?image=3&with=12", ready)
    pressed = "document.querySelector('.pairplace [aria-pressed=true]').dataset.value"
    drawn, seen = {}, set()
    for number, name in list(enumerate(SHOWN, 1))[::-1]:
        press(page, str(number))
        page.wait(f"{pressed} === '{name}' && !document.querySelector('.says').textContent"
                  ".includes('asked …')")  # fmt: skip
        drawn[name] = (
            page.run(PICTURES),
            page.run("return document.querySelector('.says').textContent"),
        )
        seen.add(tuple(drawn[name][0]))
    # CAM fits this network, and Grad-CAM of a last linear layer is the same up to its scale.
    assert len(seen) >= len(SHOWN) - 1
    for name in ("gradcam", "pixels", "none"):
        visit(page, f"{address}#ask?image=3&with=12&show={name}", ready)
        page.wait("document.querySelector('.says').textContent === arguments[0]", drawn[name][1])
        assert page.run(PICTURES) == drawn[name][0], name
    page.run("document.querySelector('.pairplace button[data-value=pixels]').click()")
    page.run(
        "const list = document.querySelector('.pairplace .controls select');"
        "list.value = 'likeness_gradient'; list.dispatchEvent(new Event('change'))"
    )
    page.wait(
        "location.hash.includes('show=pixels') && location.hash.includes('likeness_gradient')"
    )
    assert_quiet(page, address)


def test_a_place_is_chosen_by_the_keys_and_stays_in_the_address(page, client, analysed):
    address = f"{client.address}/"
    pair = client.json("/api/v1/images/3/alike/12")
    high, wide = len(pair["likeness"][1]), len(pair["likeness"][1][0])
    ready = "document.querySelectorAll('.both canvas').length === 2"
    says = "document.querySelector('.says').textContent"
    visit(page, f"{address}#ask?image=3&with=12", ready)
    page.wait(says)
    plain = page.run(PICTURES)
    page.run("document.querySelectorAll('.both canvas')[1].focus()")
    assert page.run("return getComputedStyle(document.activeElement).outlineStyle") != "none"
    assert "arrow keys" in page.run("return document.activeElement.getAttribute('aria-label')")
    for key in ("ArrowDown", "ArrowDown", "ArrowRight", "ArrowUp"):
        press(page, key)
    # The first arrow takes the middle.
    y, x = high // 2, wide // 2 + 1
    share = pair["likeness"][1][y][x] / pair["value"]
    goes_with = [row[y * wide + x] for row in pair["pairs"]]
    best = max(range(len(goes_with)), key=goes_with.__getitem__)
    columns = len(pair["likeness"][0][0])
    line = (
        f"Row {y + 1}, column {x + 1} of the right image: {100 * share:.1f} % of the similarity. "
        f"In the other image most of it goes with row {best // columns + 1}, "
        f"column {best % columns + 1}."
    )
    assert page.run(f"return {says}") == line
    press(page, "Enter")
    page.wait(f"location.hash.includes('at=1.{y * wide + x}')")
    page.run("document.activeElement.blur()")
    held = page.run(PICTURES)
    assert held != plain
    link = page.run("return location.hash")
    visit(page, address + link, ready)
    page.wait(f"{says} === arguments[0]", line)
    assert page.run(PICTURES) == held
    page.run("document.querySelectorAll('.both canvas')[1].focus()")
    press(page, "Escape")
    page.wait("!location.hash.includes('at=')")
    page.run("document.activeElement.blur()")
    assert page.run(PICTURES) == plain
    # The mouse shows the same while it passes; a click holds it.
    left, top, right, bottom = box_of(page, ".both figure:nth-child(2) canvas")
    at = left + (x + 0.5) * (right - left) / wide, top + (y + 0.5) * (bottom - top) / high
    page.move(*at)
    page.wait(f"({PICTURES.replace('return', '').strip().rstrip(';')}).join() !== arguments[0]",
              ",".join(plain))  # fmt: skip
    assert page.run(PICTURES) == held
    page.move(5, 5)
    assert page.run(PICTURES) == plain
    page.move(*at, click=True)
    page.wait(f"location.hash.includes('at=1.{y * wide + x}')")
    page.move(5, 5)
    assert page.run(PICTURES) == held
    assert_quiet(page, address)


def test_a_number_beyond_the_limits_is_the_nearest_within(page, two_stores):
    client, *_ = two_stores
    for asked, number, here in ((999, 119, 200), (-3, 1, 1), ("many", 12, 12)):
        visit(page, f"{client.address}/#ask?image=3&k={asked}",
              f"document.querySelectorAll('.near .pic').length === {number}")  # fmt: skip
        said = page.run("return document.querySelector('#notes').textContent")
        assert said == (
            f"k={asked} in the address: from 1 to 200 neighbours are answered, {here} here."
        )
        query = page.run("return document.querySelector('.query').innerText")
        assert ("200 were asked for: only 119 images may answer." in query) == (asked == 999)
    assert page.run("return document.querySelector('.query input').value") == "12"


def test_what_an_address_says_in_vain_is_named(page, two_stores):
    client, *_ = two_stores
    notes = "document.querySelector('#notes')"
    near = "document.querySelectorAll('.near .pic').length"
    visit(page, f"{client.address}/#ask?image=3&show=heat&nearest=5", near)
    said = page.run(f"return {notes}.textContent")
    assert "show=heat in the address: known are likeness, difference," in said
    assert "“nearest” in the address says nothing to this view, which knows: store, " in said
    visit(page, f"{client.address}/#ask?image=3&show=lrp&k=5&class=ant&relation=any", near)
    assert page.run(f"return {notes}.hidden")
    page.run("location.hash = 'data?kind=suspects'")
    page.wait(f"{READY} && document.querySelector('.view.data') && !{notes}.hidden")
    said = page.run(f"return {notes}.textContent")
    assert said == "kind=suspects in the address: known are labels, outliers, twins, bad, tags."
    classes, place = "known are =wasp, ant, bee", "a place is 0 or 1, the image, and a number below"
    for link, ready, lines in (
        ("classes?first=nope", "'.pairofclasses .empty'",
         [f"first=nope in the address: {classes}."]),
        ("ask?image=3&with=12&at=9999", "'.both canvas'", [f"at=9999 in the address: {place}"]),
    ):  # fmt: skip
        page.run("location.hash = arguments[0]", link)
        view = f"document.querySelector('.view.{link.partition('?')[0]}')"
        page.wait(f"{READY} && {view} && document.querySelector({ready}) && !{notes}.hidden")
        for line in lines:
            page.wait(f"{notes}.textContent.includes(arguments[0])", line, seconds=9)
        if link.startswith("classes"):
            chosen = (
                "[...document.querySelectorAll('.pairofclasses select')].map((one) => one.value)"
            )
            assert page.run(f"return {chosen}") == ["nope", "nope"]
    # What becomes known is doubted no more.
    page.run("location.hash = 'ask?image=3&with=12&at=0.0'")
    page.wait(f"{READY} && {notes}.hidden")


def test_an_answer_that_failed_has_no_place_for_a_pair(page, two_stores):
    client, *_ = two_stores
    visit(page, f"{client.address}/#ask?image=4711", "document.querySelector('.near [role=alert]')")
    assert page.run("return document.querySelector('.pairplace').hidden")
    page.requests()
    # What no image is called reaches no other path of the API.
    for name in ("3/../4", "../set", "..", "a?b#c"):
        page.run("location.hash = `ask?image=${encodeURIComponent(arguments[0])}`", name)
        page.wait("document.querySelector('.near [role=alert]')?.innerText.includes("
                  "`No image is named “${arguments[0]}”`)", name)  # fmt: skip
    # Pictures that were shown before may still come.
    asked = [
        one for one in page.requests() if not re.search(r"/images/[0-9a-f]{64}/thumbnail", one)
    ]
    assert [one for one in asked if "/images/" in one or one.endswith("/set")] == []
    page.run("location.hash = 'ask?image=3'")
    page.wait(f"{READY} && document.querySelectorAll('.near .pic').length === 12")
    assert not page.run("return document.querySelector('.pairplace').hidden")


def test_a_network_that_is_gone_moves_no_picture(page, two_stores):
    client, *_ = two_stores
    top = "return document.querySelector('.near .grid').getBoundingClientRect().top"
    tops = []
    for key in (two_stores[2], "after/none"):
        visit(page, f"{client.address}/#ask?image=3&beside={key}",
              "document.querySelector('.near.beside .pic, .near.beside .empty')")  # fmt: skip
        # The line of the prediction comes for itself.
        page.wait("document.querySelector('.near .predicted').textContent")
        tops.append(page.run(top))
    assert tops[1] <= tops[0] + 1


@pytest.mark.parametrize("wrong", ["store=gone", "features=none", "measure=none"])
def test_an_address_that_leads_nowhere_has_a_way_out(page, two_stores, wrong):
    client, *_ = two_stores
    page.shape(390, 844, dark=False)
    page.go("about:blank")
    page.go(f"{client.address}/#scores?{wrong}")
    page.wait("document.querySelector('.empty a.button')?.innerText === 'Open the first store'")
    links = page.run("return [...document.querySelectorAll('nav a[data-view]')].map((a) => a.hash)")
    assert links == ["#ask", "#map", "#classes", "#scores", "#data"]
    page.run("document.querySelector('.empty a.button').click()")
    page.wait(f"{READY} && document.querySelectorAll('.some .pic').length")
    assert page.run("return location.hash") == "#ask"
    assert "120 images" in page.run("return document.querySelector('#set').innerText")


def test_scores_of_all_stores_stand_side_by_side(page, two_stores):
    client, first, second = two_stores
    visit(page, f"{client.address}/#scores", "document.querySelector('.tiles')")
    heads = page.run(
        "const section = [...document.querySelectorAll('section')].find((one) => "
        "one.querySelector('h2')?.innerText === 'Networks side by side');"
        "return [...section.querySelectorAll('th a')].map((a) => [a.innerText, a.hash])"
    )
    keys = [first, second, f"after/{first}", f"after/{second}"]
    wanted = {
        (f"{'after: ' * one.startswith('after/')}nets.py:{name}, random weights of seed 0", one)
        for one, name in zip(keys, ["deep", "wide"] * 2, strict=True)
    }
    shown = {
        (title, f"{'after/' * ('store=after' in link)}{key}")
        for title, link in heads
        for key in (first, second)
        if f"features={key}" in link
    }
    assert shown == wanted
    title = page.run("return document.title")
    assert re.fullmatch(r"Scores · nets.py:deep, random weights of seed 0 · \S+ · Alike", title)
    page.run("[...document.querySelectorAll('th a')].at(-1).click()")
    page.wait(
        f"{READY} && document.querySelector('.tiles') && location.hash.includes('store=after')"
    )
