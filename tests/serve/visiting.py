"""What the tests of the page in a browser have in common."""

READY = "document.querySelector('.view') && !document.querySelector('[aria-busy]')"
"""A view is there, and nothing in it is waited for."""


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
