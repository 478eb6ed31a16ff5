"""What a browser may do with the page: scripts and styles of this server alone, none inline."""

import base64
import hashlib
import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

PLOTLY = "plotly.min.js"
RENDERINGS = (
    "optimizeSpeed", "-moz-crisp-edges", "-o-crisp-edges", "-webkit-optimize-contrast",
    "optimize-contrast", "crisp-edges", "pixelated",
)  # fmt: skip
ATTRIBUTES = ("", "".join(f"image-rendering: {one}; " for one in RENDERINGS))
"""Style attributes that plotly writes as text: that of a colour bar, and of a matrix."""
SHEETS = re.compile(r"\.textContent='((?:[^'\\]|\\.)*)',document\.head\.append")
"""Style sheets in plotly's bundle (that of its maps)."""


@cache
def plotly_file() -> Path:
    """The bundle of the installed plotly."""
    found = find_spec("plotly")
    return Path(str(found and found.origin)).parent / "package_data" / PLOTLY


@cache
def policy() -> str:
    """The content security policy.

    Plotly writes one empty style sheet, which it fills by rules, one that is in its bundle, and two
    style attributes. They are allowed by their hashes, and no others.
    """
    sheets = SHEETS.findall(plotly_file().read_text(encoding="utf-8"))
    hashes = " ".join(dict.fromkeys(map(_hash, (*ATTRIBUTES, *sheets))))
    return (
        "default-src 'none'; img-src 'self' blob: data:; "
        f"style-src 'self' 'unsafe-hashes' {hashes}; script-src 'self'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
