"""How a result shows itself: a short text, and a card in a notebook."""

import math
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

RIGHT_TO_LEFT = {"R", "AL"}
"""Directions of characters, as Unicode has them."""
ROWS = 30
"""Rows of a table that a card shows; beyond, the first and the last ones."""

BOX = (
    "border:1px solid rgba(128,128,128,.45);border-radius:6px;padding:.6em 1em;margin:.3em 0;"
    "max-width:64em;overflow-x:auto"
)
FACT = "display:inline-block;margin:.2em 1.6em .2em 0;vertical-align:top"


def isolated(name: str) -> str:
    r"""A name for a text without markup: one that runs from right to left turns nothing around it.

    Example:
        >>> isolated("cat"), isolated("חתול")
        ('cat', '\u2068חתול\u2069')
    """
    turned = any(unicodedata.bidirectional(one) in RIGHT_TO_LEFT for one in name)
    return f"\u2068{name}\u2069" if turned else name


@dataclass(frozen=True)
class Summary:
    """What a result says of itself.

    Attributes:
        title: the result's kind and name.
        facts: name to value, in order; None is left out.
        notes: sentences.
        tables: caption to table.
        html: what else the card shows, as HTML whose text is escaped already.
    """

    title: str
    facts: Mapping[str, object] = field(default_factory=dict)
    notes: Sequence[str] = ()
    tables: Mapping[str, "pd.DataFrame"] = field(default_factory=dict)
    html: str = ""

    def as_text(self) -> str:
        """One line: the title and the facts."""
        facts = ", ".join(f"{name} {text_of(value)}" for name, value in self._known())
        return f"<{self.title}: {facts}>" if facts else f"<{self.title}>"

    def as_html(self) -> str:
        """A box that loads nothing and fits a light and a dark page."""
        parts = [f"<b>{escape(self.title)}</b>"]
        facts = [
            f'<span style="{FACT}"><small style="opacity:.7">{escape(name)}</small><br>'
            f"{escape(text_of(value))}</span>"
            for name, value in self._known()
        ]
        parts += [f"<div>{''.join(facts)}</div>"] if facts else []
        parts += [f"<div><small>{escape(note)}</small></div>" for note in self.notes]
        parts += [
            f'<div style="margin-top:.5em"><small style="opacity:.7">{escape(caption)}</small>'
            f"{_table(table)}</div>"
            for caption, table in self.tables.items()
        ]
        return f'<div style="{BOX}">{"".join(parts)}{self.html}</div>'

    def _known(self) -> list[tuple[str, object]]:
        return [(name, value) for name, value in self.facts.items() if value is not None]


class Displayed:
    """A result that shows itself; a dataclass of this kind is declared with ``repr=False``."""

    def _summary(self) -> Summary:
        """What the result says of itself."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return self._summary().as_text()

    def _repr_html_(self) -> str:
        return self._summary().as_html()


def text_of(value: object) -> str:
    """A value for people: numbers to four digits, thousands set apart."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def with_interval(value: float, low: float, high: float) -> str:
    """A value and its interval, such as ``0.83 [0.80, 0.86]``; the value alone without one."""
    if math.isnan(low) or math.isnan(high):
        return f"{value:.4g}"
    return f"{value:.4g} [{low:.4g}, {high:.4g}]"


def _table(table: "pd.DataFrame") -> str:
    html: str = table.to_html(
        index=False, border=0, max_rows=ROWS, na_rep="", float_format="{:.4g}".format
    )
    return html
