"""The small parts of a page: escaped text, tables, tiles, figures, definition lists."""

import base64
import html
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from alike.extract.display import isolated

if TYPE_CHECKING:
    import plotly.graph_objects as go


def text(value: object) -> str:
    """Text that is safe inside an element or an attribute."""
    return html.escape(str(value), quote=True)


def prose(value: object) -> str:
    """Text in which `backticks` mark what is typed, and “quotes” a name.

    A name that is written from right to left turns nothing beside it around.

    Example:
        >>> prose("Run `ls`: the worst class is “<b>”.")
        'Run <code>ls</code>: the worst class is “<bdi>&lt;b&gt;</bdi>”.'
    """
    typed = re.sub("`([^`]+)`", r"<code>\1</code>", text(value))
    return re.sub("“([^”]+)”", r"“<bdi>\1</bdi>”", typed)


def table(
    columns: Sequence[tuple[str, str]],
    rows: Iterable[Sequence[Any]],
    *,
    caption: str = "",
    tall: bool = False,
) -> str:
    """A table whose columns sort on a click.

    Args:
        columns: (heading, kind); kind `n` is a number and stands right, `t` is text.
        rows: cells; a cell is text, HTML (`Html`) or a pair (what is shown, what it sorts by).
        caption: a sentence under the table.
        tall: scroll inside a box and offer a filter, for hundreds of rows.
    """
    head = "".join(
        f'<th class="{kind}" scope="col"><button type="button">{text(name)}</button></th>'
        for name, kind in columns
    )
    body = "".join(
        "<tr>"
        + "".join(_cell(cell, kind) for cell, (_, kind) in zip(row, columns, strict=True))
        + "</tr>"
        for row in rows
    )
    box = "tablebox tall" if tall else "tablebox"
    search = (
        '<input class="filter" type="search" placeholder="Filter rows" aria-label="Filter rows">'
    )
    note = f'<p class="caption">{prose(caption)}</p>' if caption else ""
    return (
        f'{search if tall else ""}<div class="{box}"><table class="sortable">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{note}"
    )


class Html(str):
    """Markup that is already safe."""

    __slots__ = ()


def _cell(cell: Any, kind: str) -> str:
    shown, key = cell if isinstance(cell, tuple) else (cell, None)
    attribute = "" if key is None else f' data-key="{text(key)}"'
    return f'<td class="{kind}"{attribute}>{shown if isinstance(shown, Html) else text(shown)}</td>'


def tile(label: str, value: str, note: str = "", tone: str = "") -> str:
    """One number that matters, with its name above and its uncertainty below."""
    lines = prose(note).replace("\n", "<br>")
    return (
        f'<div class="tile {text(tone)}"><div class="label">{text(label)}</div>'
        f'<div class="value">{text(value)}</div><div class="note">{lines}</div></div>'
    )


def figure(drawn_figure: "go.Figure", name: str, *, title: str = "", caption: str = "") -> str:
    """A figure: its data as JSON beside an empty box, drawn when it scrolls into view."""
    data = drawn_figure.to_json().replace("</", "<\\/")
    height = int(drawn_figure.layout.height or 360)
    heading = f"<h3>{text(title)}</h3>" if title else ""
    note = f"<figcaption>{prose(caption)}</figcaption>" if caption else ""
    label = text(title or name)
    return (
        f'<figure>{heading}<div class="plot" id="{text(name)}" role="img" aria-label="{label}" '
        f'data-height="{height}"></div>'
        f'<script type="application/json" data-for="{text(name)}">{data}</script>{note}</figure>'
    )


def section(name: str, title: str, lead: str, body: str) -> str:
    """A section of the page with an anchor; nothing where it has no body."""
    if not body:
        return ""
    first = f'<p class="lead">{prose(lead)}</p>' if lead else ""
    return f'<section id="{text(name)}"><h2>{text(title)}</h2>{first}{body}</section>'


def columns(*parts: str) -> str:
    """Parts side by side, one under the other on a narrow screen."""
    filled = [part for part in parts if part]
    return f'<div class="columns n{len(filled)}">{"".join(filled)}</div>' if filled else ""


def definitions(items: Mapping[str, Any]) -> str:
    """Names and values, for settings and versions."""
    rows = "".join(f"<dt>{text(key)}</dt><dd>{_shown(item)}</dd>" for key, item in items.items())
    return f"<dl>{rows}</dl>" if rows else ""


def _shown(item: Any) -> str:
    """A setting as `plain` says it; names in a list stay in its order, whatever way they run."""
    if isinstance(item, list | tuple) and item and all(isinstance(one, str) for one in item):
        safe = (f"<bdi>{text(one)}</bdi>" if isolated(one) != one else text(one) for one in item)
        return ", ".join(safe)
    return prose(plain(item))


def facts(title: str, items: Mapping[str, Any]) -> str:
    """Definitions under a small heading; nothing where there are none."""
    return f"<h3>{text(title)}</h3>{definitions(items)}" if items else ""


def plain(value: Any) -> str:
    """A setting as one line of text."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "not set"}[value]
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple) and all(
        isinstance(item, str | int | float) for item in value
    ):
        return ", ".join(plain(item) for item in value)
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)


def details(summary: str, body: str) -> str:
    """A part that opens on a click."""
    return f"<details><summary>{text(summary)}</summary>{body}</details>" if body else ""


def data_uri(data: bytes, kind: str) -> str:
    """Bytes of an image, `png` or `jpeg`, as an address that holds them."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
