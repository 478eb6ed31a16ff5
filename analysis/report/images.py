"""The section of images: contact sheets of neighbours, and pairs that show what went wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from alike.analysis.report import queries
from alike.analysis.report.lookup import Analysed, table_of
from alike.analysis.report.parts import prose, section, text
from alike.analysis.report.subject import Subject
from alike.analysis.report.words import number
from alike.extract.display import isolated

if TYPE_CHECKING:
    from alike.analysis.report.thumbnails import Pictures, Thumbnail

SHOWN = 10
WORDS = ("More", "Fewer")
KEY = (
    '<p class="key">Frame:<i style="background:var(--good)"></i>class of the query'
    '<i style="background:var(--bad)"></i>another class. The number is the distance.</p>'
)


@dataclass(frozen=True)
class Block:
    """A titled group of lines of a contact sheet.

    Attributes:
        title: its heading.
        says: what the reader sees there.
        rows: the queries.
        both: show what was near before and what is near after, not only the latter.
    """

    title: str
    says: str
    rows: Sequence[int]
    both: bool = False


def images(subject: Subject, pictures: "Pictures | None", why_not: str) -> str:
    """Contact sheets; a sentence that says why where no image can be shown."""
    tables = [table_of(a, "neighbours", subject.measure) for _, a in subject.named]
    if any(table.empty for table in tables):
        return ""
    if pictures is None:
        return section("images", "Images", why_not, " ") if why_not else ""
    labels = pictures.labels
    pure = [queries.purity(table, labels) for table in tables]
    blocks = _blocks(pure)
    class_pairs = table_of(subject.last, "class_pairs")
    crossing = [] if class_pairs.empty else queries.confused(
        class_pairs, subject.measure, tables[-1], labels
    )  # fmt: skip
    examples = _examples(subject.last, subject.measure)
    near = [_nearest(table, [row for block in blocks for row in block.rows]) for table in tables]
    rows = {row for block in blocks for row in block.rows}
    rows |= {other for lists in near for line in lists.values() for other, _ in line}
    rows |= {row for _, _, _, pairs in crossing for a, b, _ in pairs for row in (a, b)}
    rows |= {row for _, pairs in examples for a, b, _ in pairs for row in (a, b)}
    sheet = Sheet(pictures, pictures.thumbnails(sorted(rows)))
    names = [name for name, _ in subject.named]
    body = (
        _turnover(tables, labels)
        + KEY
        + "".join(_block(block, names, near, sheet) for block in blocks)
    )
    body += _confused(crossing, sheet) + "".join(_pairs(*one, sheet) for one in examples)
    lead = "Each line shows an image and its neighbours among the evaluated images, nearest first."
    return section("images", "Images", lead, body)


def _turnover(tables: list[pd.DataFrame], labels: dict[int, str | None]) -> str:
    """What became of the neighbours of an image, where two networks saw the same images."""
    if len(tables) != 2 or set(tables[0]["row"]) != set(tables[1]["row"]):
        return ""
    means = queries.turnover(tables[0], tables[1], labels)
    return (
        f"<p>Of the {means['k']:.0f} nearest neighbours of an image, {means['kept']:.1f} stayed on "
        f"average. Of the {means['gained']:.1f} new ones, {means['gained_right']:.1f} have the "
        f"image's class. Of the {means['gained']:.1f} lost ones, {means['lost_right']:.1f} had "
        "it.</p>"
    )


def _blocks(pure: list[pd.DataFrame]) -> list[Block]:
    blocks = []
    if len(pure) == 2:
        helped, hurt = queries.most_changed(pure[0], pure[1], 3)
        more, fewer = (f"{word} neighbours of the query's class than before." for word in WORDS)
        blocks = [
            Block("Where it helped most", more, helped, both=True),
            Block("Where it hurt most", fewer, hurt, both=True),
        ]
    shown_above = {row for block in blocks for row in block.rows}
    last = pure[-1][~pure[-1]["row"].isin(shown_above)]
    low = queries.worst(last[last["purity"] <= 0.5], 4)
    high = queries.best(last[~last["row"].isin(low)], 2)
    blocks += [
        Block("Worst", "Images whose nearest neighbours belong to other classes.", low),
        Block("Best", "Images whose nearest neighbours belong to their class and are near.", high),
    ]
    return [block for block in blocks if block.rows]


def _nearest(table: pd.DataFrame, rows: list[int]) -> dict[int, list[tuple[int, float]]]:
    part = table[table["row"].isin(rows) & (table["rank"] <= SHOWN)].sort_values(["row", "rank"])
    return {
        int(row): list(zip(group["neighbour"].astype(int), group["distance"], strict=True))
        for row, group in part.groupby("row")
    }


class Sheet:
    """Draws thumbnails with their class and frame."""

    def __init__(self, pictures: "Pictures", thumbnails: "dict[int, Thumbnail]") -> None:
        self.labels, self.paths, self.thumbnails = pictures.labels, pictures.paths, thumbnails

    def cell(self, row: int, caption: str, kind: str = "") -> str:
        """One picture; lines of the caption are parted by newlines, its path is the tooltip."""
        label, path = str(self.labels.get(row)), self.paths.get(row, f"row {row}")
        title = text(f"{isolated(label)}: {isolated(path)}")
        thumbnail = self.thumbnails.get(row)
        lines = "".join(f'<span class="cap">{text(line)}</span>' for line in caption.split("\n"))
        if thumbnail is None:
            image = '<span class="none" title="not readable">?</span>'
        else:
            pixelated = ' class="pixelated"' if thumbnail.tiny else ""
            image = f'<img src="{thumbnail.uri}" alt="{title}"{pixelated} decoding="async">'
        return f'<figure class="thumb {kind}" title="{title}">{image}{lines}</figure>'

    def line(self, row: int, name: str, near: list[tuple[int, float]]) -> str:
        """A query and its neighbours."""
        own = self.labels.get(row)
        hits = sum(self.labels.get(other) == own for other, _ in near)
        hit_words = f"{hits} of {len(near)} of its class"
        who = f'<div class="who"><b>{text(own)}</b>{text(name)}{hit_words}</div>'
        cells = "".join(
            self.cell(
                other,
                f"{self.labels.get(other)}\n{distance:.3g}",
                "same" if self.labels.get(other) == own else "other",
            )
            for other, distance in near
        )
        return f'<div class="sheetrow">{who}{self.cell(row, "query", "query")}{cells}</div>'


def _block(
    block: Block, names: list[str], near: list[dict[int, list[tuple[int, float]]]], sheet: Sheet
) -> str:
    networks = list(zip(names, near, strict=True))[0 if block.both else -1 :]
    groups = []
    for row in block.rows:
        lines = [
            sheet.line(row, f"{name}: " if block.both else "", lists.get(row, []))
            for name, lists in networks
        ]
        groups.append(f'<div class="group">{"".join(lines)}</div>')
    inside = "".join(groups)
    return (
        f'<div class="card sheetcard"><h3>{text(block.title)}</h3>'
        f'<p class="caption">{text(block.says)}</p><div class="sheet">{inside}</div></div>'
    )


def _examples(analysis: Analysed, measure: str) -> list[tuple[str, list[tuple[int, int, float]]]]:
    table = table_of(analysis, "pairs_examples", measure)
    if table.empty:
        return []
    return [
        (str(kind), [(int(r.row_a), int(r.row_b), float(r.distance)) for r in group.itertuples()])
        for kind, group in table.groupby("kind", sort=False)
        if kind != "most alike same"
    ]


def _pairs(kind: str, pairs: list[tuple[int, int, float]], sheet: Sheet) -> str:
    title = {
        "most alike different": "Most similar pairs of different classes",
        "least alike same": "Least similar pairs of one class",
    }.get(kind, kind)
    return _pair_card(title, "", pairs, sheet)


def _confused(
    crossing: list[tuple[str, str, float, list[tuple[int, int, float]]]], sheet: Sheet
) -> str:
    cards = [
        _pair_card(
            f"“{low}” and “{high}”",
            f"{number(share, 'share')} of the nearest neighbours belong to the other class.",
            pairs,
            sheet,
        )
        for low, high, share, pairs in crossing
        if pairs
    ]
    if not cards:
        return ""
    return f"<h3>Classes that are most often confused</h3>{''.join(cards)}"


def _pair_card(title: str, says: str, pairs: list[tuple[int, int, float]], sheet: Sheet) -> str:
    inside = "".join(
        f'<div class="pair">{sheet.cell(a, str(sheet.labels.get(a)))}'
        f"{sheet.cell(b, str(sheet.labels.get(b)))}"
        f'<span class="gap">{text(f"{distance:.3g}")}</span></div>'
        for a, b, distance in pairs
    )
    note = f'<p class="caption">{text(says)}</p>' if says else ""
    return (
        f'<div class="card sheetcard"><h3>{prose(title)}</h3>{note}'
        f'<div class="pairs">{inside}</div></div>'
    )
