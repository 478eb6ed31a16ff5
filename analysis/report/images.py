"""The section of images: contact sheets of neighbours, and pairs that show what went wrong."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd

from alike.analysis.figures import classes as figures_classes
from alike.analysis.report import queries
from alike.analysis.report.lookup import Analysed, table_of
from alike.analysis.report.parts import section, text
from alike.analysis.report.subject import Subject
from alike.analysis.report.words import number

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
    crossing = queries.confused(
        figures_classes.class_matrix(table_of(subject.last, "class_pairs", subject.measure)
                                     , subject.measure),
        tables[-1], labels,
    ) if not table_of(subject.last, "class_pairs").empty else []  # fmt: skip
    examples = _examples(subject.last, subject.measure)
    near = [_nearest(table, [row for block in blocks for row in block.rows]) for table in tables]
    wanted = {row for block in blocks for row in block.rows}
    wanted |= {other for found in near for line in found.values() for other, _ in line}
    wanted |= {row for _, _, _, pairs in crossing for a, b, _ in pairs for row in (a, b)}
    wanted |= {row for _, pairs in examples for a, b, _ in pairs for row in (a, b)}
    sheet = Sheet(pictures, pictures.thumbnails(sorted(wanted)))
    names = [name for name, _ in subject.named]
    body = (
        _turnover(tables, labels)
        + KEY
        + "".join(_block(block, names, near, sheet) for block in blocks)
    )
    body += _confused(crossing, sheet) + "".join(_pairs(*one, sheet) for one in examples)
    lead = "Each line is an image and its nearest others, nearest first, among the images judged."
    return section("images", "Images", lead, body)


def _turnover(tables: list[pd.DataFrame], labels: dict[int, str | None]) -> str:
    """What became of the neighbours of an image, where two networks saw the same images."""
    if len(tables) != 2 or set(tables[0]["row"]) != set(tables[1]["row"]):
        return ""
    found = queries.turnover(tables[0], tables[1], labels)
    return (
        f"<p>Of the {found['k']:.0f} nearest neighbours of an image, {found['kept']:.1f} stayed. "
        f"Of the {found['gained']:.1f} that came, {found['gained_right']:.1f} have the image's "
        f"class; of as many that went, {found['lost_right']:.1f} had it.</p>"
    )


def _blocks(pure: list[pd.DataFrame]) -> list[Block]:
    found = []
    if len(pure) == 2:
        helped, hurt = queries.most_changed(pure[0], pure[1], 3)
        more, fewer = (f"{word} neighbours of the own class than before." for word in WORDS)
        found = [
            Block("Where it helped most", more, helped, both=True),
            Block("Where it hurt most", fewer, hurt, both=True),
        ]
    taken = {row for block in found for row in block.rows}
    last = pure[-1][~pure[-1]["row"].isin(taken)]
    low = queries.worst(last[last["purity"] <= 0.5], 4)
    high = queries.best(last[~last["row"].isin(low)], 2)
    found += [
        Block("Worst", "Images whose nearest others belong to other classes.", low),
        Block("Best", "Images whose nearest others are of their class, and near.", high),
    ]
    return [block for block in found if block.rows]


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
        title = text(f"{label}: {path}")
        found = self.thumbnails.get(row)
        lines = "".join(f'<span class="cap">{text(line)}</span>' for line in caption.split("\n"))
        if found is None:
            shown = '<span class="none" title="not readable">?</span>'
        else:
            pixelated = ' class="pixelated"' if found.tiny else ""
            shown = f'<img src="{found.uri}" alt="{title}"{pixelated} loading="lazy">'
        return f'<figure class="thumb {kind}" title="{title}">{shown}{lines}</figure>'

    def line(self, row: int, name: str, near: list[tuple[int, float]]) -> str:
        """A query and its neighbours."""
        own = self.labels.get(row)
        hits = sum(self.labels.get(other) == own for other, _ in near)
        who = f'<div class="who"><b>{text(own)}</b>{text(name)}{hits} of {len(near)} right</div>'
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
    sides = list(zip(names, near, strict=True))[0 if block.both else -1 :]
    groups = []
    for row in block.rows:
        lines = [
            sheet.line(row, f"{name}: " if block.both else "", found.get(row, []))
            for name, found in sides
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
        "most alike different": "Most alike, though of different classes",
        "least alike same": "Least alike, though of the same class",
    }.get(kind, kind)
    return _pair_card(title, "", pairs, sheet)


def _confused(
    crossing: list[tuple[str, str, float, list[tuple[int, int, float]]]], sheet: Sheet
) -> str:
    cards = [
        _pair_card(
            f"“{low}” and “{high}”",
            f"{number(share, 'share')} of the nearest neighbours of the two classes cross over.",
            pairs,
            sheet,
        )
        for low, high, share, pairs in crossing
        if pairs
    ]
    if not cards:
        return ""
    return f"<h3>Classes taken for each other most often</h3>{''.join(cards)}"


def _pair_card(title: str, says: str, pairs: list[tuple[int, int, float]], sheet: Sheet) -> str:
    inside = "".join(
        f'<div class="pair">{sheet.cell(a, str(sheet.labels.get(a)))}'
        f"{sheet.cell(b, str(sheet.labels.get(b)))}"
        f'<span class="gap">{text(f"{distance:.3g}")}</span></div>'
        for a, b, distance in pairs
    )
    note = f'<p class="caption">{text(says)}</p>' if says else ""
    return (
        f'<div class="card sheetcard"><h3>{text(title)}</h3>{note}'
        f'<div class="pairs">{inside}</div></div>'
    )
