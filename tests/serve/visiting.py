"""What the tests of the page in a browser have in common."""

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKED = find_spec("axe_core_python")
"""Of the dev extra; `ALIKE_AXE` names a later axe.min.js."""
AXE = os.environ.get("ALIKE_AXE") or (
    str(Path(str(PACKED.origin)).with_name("axe.min.js")) if PACKED else ""
)
with_axe = pytest.mark.skipif(not AXE, reason="no axe-core: neither the dev extra nor ALIKE_AXE")

READY = "document.querySelector('.view') && !document.querySelector('[aria-busy]')"
"""A view is there, and nothing in it is waited for."""


LATE = """
const real = window.fetch;
window.late = {};
window.fetch = async (url, options) => {
  for (const [part, wait] of Object.entries(window.late)) {
    if (String(url).includes(part)) await new Promise((good) => setTimeout(good, wait));
  }
  return real(url, options);
};
"""
"""Holds back answers whose address has a part, for milliseconds."""


def visit(page, address, ready):
    """Load a view anew, and wait until it is there."""
    page.go("about:blank")
    page.go(address)
    page.wait(f"{READY} && {ready}")


def assert_quiet(page, address):
    """No complaint of the console, no request elsewhere."""
    complaints = [one for one in page.complaints() if "GPU stall due to ReadPixels" not in one]
    assert complaints == []
    inside = (address, "data:", "blob:", "about:")
    assert [one for one in page.requests() if not one.startswith(inside)] == []


def box_of(page, selector):
    """Left, top, right and bottom of an element in the window."""
    return page.run(
        "const b = document.querySelector(arguments[0]).getBoundingClientRect();"
        "return [b.left, b.top, b.right, b.bottom]",
        selector,
    )


def place_of(points, number, box):
    """Where a map draws a point that the server gives, in the window."""
    left, top, right, bottom = box
    spans = [(min(p[i] for p in points), max(p[i] for p in points)) for i in (0, 1)]
    reach = max(high - low for low, high in spans) / 2
    unit = 0.47 * min(right - left, bottom - top)
    x = (left + right) / 2 + (points[number][0] - sum(spans[0]) / 2) / reach * unit
    y = (top + bottom) / 2 - (points[number][1] - sum(spans[1]) / 2) / reach * unit
    return x, y


def paint_of(page, selector):
    """Number of pixels with paint on a canvas."""
    return page.run(
        "const c = document.createElement('canvas'), of = document.querySelector(arguments[0]);"
        "[c.width, c.height] = [of.width, of.height];"
        "const pen = c.getContext('2d', { willReadFrequently: true }); pen.drawImage(of, 0, 0);"
        "const d = pen.getImageData(0, 0, c.width, c.height).data;"
        "let n = 0; for (let i = 3; i < d.length; i += 4) n += d[i] > 0; return n;",
        selector,
    )


def serious_findings(page):
    """What axe-core finds serious in the view that is shown: name and first element."""
    if not page.run("return Boolean(window.axe)"):
        page.run(Path(AXE).read_text(encoding="utf-8"))
    page.run("window.found = null; axe.run().then((all) => { window.found = all.violations; })")
    found = page.wait("window.found")
    serious = [one for one in found if one["impact"] in ("serious", "critical")]
    return [(one["id"], one["nodes"][0]["html"]) for one in serious]
