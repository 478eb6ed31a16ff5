"""The report at 400 pixels: nothing runs out of its card, and nothing scrolls sideways."""

import pytest

from alike.analysis.report import write_dated, write_report
from alike.extract.store.store import Store

from .browser import missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there is a browser")
OUTSIDE = """
const found = [], wide = document.documentElement.clientWidth;
for (const card of document.querySelectorAll(".card, figure, .tile")) {
  const edge = card.getBoundingClientRect();
  if (!edge.width) continue;
  if (edge.left < -0.5 || edge.right > wide + 0.5) found.push(`${card.className} ${edge.right}`);
  for (const inner of card.querySelectorAll("*")) {
    const box = inner.getBoundingClientRect();
    if (!box.width || inner.closest(".tablebox, .sheetrow")) continue;
    // A plot cuts off what it draws beyond its own edge; texts have to be within all the same.
    const drawn = inner.parentElement.closest("svg");
    if (drawn && inner.tagName !== "text") continue;
    if (box.right > edge.right + 0.5 || box.left < edge.left - 0.5) {
      const text = inner.textContent.slice(0, 40);
      found.push(`${inner.tagName} ${text}: ${box.left} to ${box.right} of ${edge.right}`);
    }
  }
}
return found;
"""


@pytest.fixture(scope="module")
def report(two_networks, tmp_path_factory):
    """A report with images, maps, layers, the section on the data, and steps of long names."""
    folder, analysis = two_networks
    path = tmp_path_factory.mktemp("phone") / "report.html"
    run = {"stages": {f"validate {'small_network-8eccd5de-' * 3}": 3.0, "index": 1.0}}
    return write_report(path, before=analysis, store=Store.open(folder / "store"), run=run)


@pytest.fixture(scope="module")
def dated(report):
    """The copy that a run keeps, which shares plotly's script with others in its folder."""
    path = report.parent / "reports" / "2026-11-29-180000.html"
    write_dated(report, path)
    return path


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("which", ["report", "dated"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_nothing_runs_out_of_its_card(page, request, which, width, dark):
    if which == "dated" and (dark or width == 400):
        pytest.skip("its figures are those of the report")
    page.shape(width, 844, dark=dark)
    page.go(f"file://{request.getfixturevalue(which)}")
    # Figures are drawn when they come into view.
    number = page.run("return document.querySelectorAll('.plot').length")
    assert number > 5
    page.run("for (const one of document.querySelectorAll('details')) one.open = true;")
    for at in range(number):
        page.run("document.querySelectorAll('.plot')[arguments[0]].scrollIntoView()", at)
        page.wait(
            "document.querySelectorAll('.plot')[arguments[0]].querySelector('svg, canvas')", at
        )
    assert page.run(OUTSIDE) == []
    # A phone's window grows with what is too wide: its inner width says nothing.
    assert page.run("return document.documentElement.scrollWidth") <= width
    # The first figure shows its value.
    values = page.run(
        "return [...document.querySelectorAll('#ladder text')].map((one) => one.textContent)"
    )
    assert any(one.startswith("0.") for one in values)
    assert page.complaints() == []
    # Nor does the name of a class in a heading, however long.
    page.run("document.querySelectorAll('h2, h3').forEach((one) => one.append('L'.repeat(200)));")
    assert page.run("return document.documentElement.scrollWidth") <= width
    # Paper is white, and narrower; nothing of it stays on the screen.
    width_of = "Math.round(document.querySelector('#ladder svg').getBoundingClientRect().width)"
    theme, wide = "document.documentElement.dataset.theme", page.run(f"return {width_of}")
    page.run("dispatchEvent(new Event('beforeprint'))")
    assert page.run(f"return [{theme}, {width_of}]") == ["light", min(wide, 640)]
    page.run("dispatchEvent(new Event('afterprint'))")
    page.wait(f"{width_of} === {wide}", seconds=9)
    assert page.run(f"return {theme}") == ("light", "dark")[dark]
    # A picture that was not seen yet is printed too.
    assert page.run("return document.querySelectorAll('img[loading=lazy]').length") == 0
    # What is too wide would be found.
    page.run("document.querySelector('#ladder svg').style.width = '3000px'")
    assert page.run(OUTSIDE) != []
