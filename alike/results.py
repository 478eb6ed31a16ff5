"""What the public functions return, if it is made for them alone; each shows itself."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from alike.extract.display import Displayed, Summary, with_interval

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from alike.analysis.report import Thumbnail
    from alike.extract.panels import Pixels
    from alike.extract.store import Store

QUERIES = 10
"""Queries whose neighbours are shown as pictures."""

ACROSS = 12
"""Neighbours of a query that are shown as pictures."""

CELL = "display:inline-block;width:104px;margin:2px;text-align:center;vertical-align:top"


@dataclass(frozen=True, repr=False)
class Answers(Displayed):
    """The stored images nearest to each query.

    Attributes:
        measure: that they are nearest by.
        table: number (of the query, from 0), query, query_row (-1: not stored), rank (from 1), row,
            distance, path, label; nearest first.
        rows: (Q, k) int64 rows of the store; -1 where there is no more.
        distances: (Q, k) float32, the measure's own; `inf` where there is no more.
        exact: (Q,) bool; whether the answer is certainly the true one.
        store: that answered; its images are shown, if they can still be read.
        queries: (name, content) of each query; no content for a row and for a vector.
    """

    measure: str
    table: "pd.DataFrame"
    rows: "NDArray[np.int64]"
    distances: "NDArray[np.float32]"
    exact: "NDArray[np.bool_]"
    store: "Store"
    queries: Sequence[tuple[str, bytes | None]]

    def _summary(self) -> Summary:
        facts = {"queries": len(self.queries), "k": int(self.rows.shape[1])}
        return Summary(f"neighbours by {self.measure}", facts)

    def _repr_html_(self) -> str:
        from dataclasses import replace

        summary = self._summary()
        more = len(self.queries) - QUERIES
        notes = [f"{more} more queries are in `table`"] if more > 0 else []
        return replace(summary, notes=notes, html=self._strips()).as_html()

    def _strips(self) -> str:
        from alike.analysis.report import thumbnail

        shown = self.table[(self.table["number"] < QUERIES) & (self.table["rank"] <= ACROSS)]
        pictures = self._pictures({*shown["row"], *shown["query_row"]})
        lines = []
        for number, (name, content) in enumerate(self.queries[:QUERIES]):
            near = shown[shown["number"] == number]
            own = int(near["query_row"].iloc[0]) if len(near) else -1
            query = pictures.get(own) if content is None else thumbnail(content)
            cells = [_cell(query, name.rpartition("/")[2], "query")]
            cells += [
                _cell(pictures.get(one.row), str(one.label or ""), f"{one.distance:.4f}", one.path)
                for one in near.itertuples(index=False)
            ]
            lines.append(f'<div style="white-space:nowrap">{"".join(cells)}</div>')
        return "".join(lines)

    def _pictures(self, rows: Iterable[int]) -> "Mapping[int, Thumbnail]":
        from alike.analysis.report import Pictures
        from alike.extract.errors import AlikeError

        try:
            return Pictures(self.store).thumbnails(rows)
        except (AlikeError, OSError):
            # The images lie elsewhere by now: their names and distances are shown all the same.
            return {}


@dataclass(frozen=True, repr=False)
class Comparison(Displayed):
    """Two extractions side by side.

    Attributes:
        a: key of the first.
        b: key of the second.
        measure: used for both.
        scores: score, a, b, difference (b - a), low, high (its 95 % interval), better.
        likeness: how alike the two see the images: linear CKA, RSA.
    """

    a: str
    b: str
    measure: str
    scores: "pd.DataFrame"
    likeness: Mapping[str, float]

    def _summary(self) -> Summary:
        from alike.analysis.compare import compared_images, comparison_notes

        facts: dict[str, object] = {}
        for row in self.scores[self.scores["score"] == "sameness"].itertuples(index=False):
            facts["sameness of a"], facts["sameness of b"] = float(row.a), float(row.b)
            facts["difference"] = with_interval(row.difference, row.low, row.high)
        known = "images" in self.scores.attrs
        images = {"compared": compared_images(self.scores)} if known else {}
        title = f"comparison by {self.measure}: a = {self.a}, b = {self.b}"
        notes = comparison_notes(self.scores, self.measure)
        return Summary(title, {**facts, **self.likeness, **images}, notes, {"scores": self.scores})


@dataclass(frozen=True, repr=False)
class Explanations(Displayed):
    """What `alike.explain` was asked for.

    Attributes:
        key: of the extraction whose network is explained.
        tables: by what was asked: `images`, `like`, `all`, `classes`, `confused`, `continuity`,
            `grade`, `pair_grade`.
        pictures: name to (H, W, 3) uint8.
        arrays: name to map (h, w).
        cosine: of the pooled maps of two images, where they were compared.
        notes: what was left out, and why.
    """

    key: str
    tables: "Mapping[str, pd.DataFrame]" = field(default_factory=dict)
    pictures: "Mapping[str, Pixels]" = field(default_factory=dict)
    arrays: Mapping[str, Any] = field(default_factory=dict)
    cosine: float | None = None
    notes: Sequence[str] = ()

    def _summary(self) -> Summary:
        facts = {
            "cosine of the pooled maps": self.cosine,
            "tables": ", ".join(self.tables),
            "pictures": ", ".join(self.pictures) or None,
        }
        return Summary(f"explanations by {self.key}", facts, self.notes, self.tables)

    def _repr_html_(self) -> str:
        from dataclasses import replace

        from alike.analysis.report import data_uri
        from alike.extract.panels import png

        images = "".join(
            f'<div><img alt="{escape(name)}" style="max-width:100%" '
            f'src="{data_uri(png(picture), "png")}"></div>'
            for name, picture in self.pictures.items()
        )
        return replace(self._summary(), html=images).as_html()


@dataclass(frozen=True, repr=False)
class ReportFile(Displayed, os.PathLike[str]):
    """A report that was written. It is a path: `open`, `Path` and `shutil.copy` take it.

    Attributes:
        path: the HTML file.
        key: of the extraction that it is about.
        after: key of the extraction that is set beside it; None: the report is about one.
        notes: what a reader must know: features that changed after the analysis.
    """

    path: Path
    key: str
    after: str | None = None
    notes: Sequence[str] = ()

    def __fspath__(self) -> str:
        return str(self.path)

    def _summary(self) -> Summary:
        facts = {"file": self.path, "after": self.after, "size": _size(self.path)}
        return Summary(f"report of {self.key}", facts, self.notes)


@dataclass(frozen=True, repr=False)
class ExportedFiles(Displayed, Sequence[Path], os.PathLike[str]):
    """An export that was written: a sequence of its files. As a path it is the first of them.

    Attributes:
        files: the file that was asked for, then those that hold its tables, if it holds none.
        key: of the extraction.
        notes: what a reader must know: features that changed after the analysis, neighbours that
            were not written.
    """

    files: Sequence[Path]
    key: str
    notes: Sequence[str] = ()

    def __fspath__(self) -> str:
        return str(self.files[0])

    @overload
    def __getitem__(self, at: int) -> Path: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Path]: ...
    def __getitem__(self, at: int | slice) -> Path | Sequence[Path]:
        return self.files[at]

    def __len__(self) -> int:
        return len(self.files)

    def _summary(self) -> Summary:
        facts = {"file": self.files[0], "files": len(self.files)}
        return Summary(f"export of {self.key}", facts, self.notes)

    def _repr_html_(self) -> str:
        from dataclasses import replace

        import pandas as pd

        rows = [{"file": str(file), "size": _size(file)} for file in self.files]
        return replace(self._summary(), tables={"files": pd.DataFrame(rows)}).as_html()


def _size(path: Path) -> str | None:
    """Size of a file or of a folder with all that is in it; None if it is gone by now."""
    if not path.exists():
        return None
    files = path.rglob("*") if path.is_dir() else [path]
    return f"{sum(file.stat().st_size for file in files if file.is_file()) / 1e6:,.2f} MB"


def _cell(picture: "Thumbnail | None", *lines: str) -> str:
    """A picture with its lines below; an empty place where there is none."""
    shown = '<div style="height:96px"></div>'
    if picture is not None:
        edges = "image-rendering:pixelated;" if picture.tiny else ""
        shown = (
            f'<img alt="" src="{picture.uri}" style="{edges}height:96px;max-width:96px;'
            'object-fit:contain">'
        )
    words = "".join(
        f'<div style="overflow:hidden;text-overflow:ellipsis"><small>{escape(line)}</small></div>'
        for line in lines
    )
    return f'<div style="{CELL}">{shown}{words}</div>'
