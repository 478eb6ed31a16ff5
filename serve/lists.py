"""Lists of images to look at: suspected labels, outliers, twins, bad images, those with tags."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from alike.extract.command import command_of
from alike.extract.store import read_tags
from alike.serve.analysed import StoredAnalyses
from alike.serve.opened import OpenIndex
from alike.serve.outliers import MOST_OTHERS
from alike.serve.pictures import NotThere

KINDS = ("labels", "outliers", "twins", "bad", "tags")
SUSPECTS = {"labels": "label", "outliers": "outlier"}
"""Kinds that the table `suspects` has, by its word for them."""
FAR_FROM_ALL = "far from all other images"
FORMS = {
    "csv": ("csv", "text/csv; charset=utf-8"),
    "latex": ("tex", "application/x-tex"),
    "parquet": ("parquet", "application/vnd.apache.parquet"),
}
"""Suffix and media type of the files of a list."""
SAFE = str.maketrans({
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "[": "{[}", "*": "{*}",  # which belong to the end of the line above where they begin one
    **{one: f"\\{one}" for one in "&%$#_{}"},
})  # fmt: skip
"""Text of LaTeX; as in `shown.js`."""
CLEANLAB = {"yes": "cleanlab suspects it too", "no": "cleanlab does not suspect it"}
COLUMNS = ("image", "row", "path", "label", "subset", "split")


@dataclass(frozen=True)
class ImageList:
    """Lines of one or two images each.

    Attributes:
        lines: `COLUMNS`; the same with `other_` of a second image (twins); `suggested` (class that
            the neighbours say), `score` (margin, z-score or correlation), `why` (of marked images:
            their tags).
        needs: what has to be done before there can be lines; empty if nothing.
        measure: by whose distances the images are listed; empty if no distance plays a part.
        notes: what a reader must know.
    """

    lines: pd.DataFrame
    needs: str = ""
    measure: str = ""
    notes: tuple[str, ...] = ()


def image_list(kind: str, opened: OpenIndex, analyses: StoredAnalyses) -> ImageList:
    """The list of a kind.

    Args:
        kind: one of `KINDS`.
        opened: gives the images of the extraction.
        analyses: of the store.
    """
    if kind == "bad":
        return ImageList(_bad(opened))
    if kind == "twins":
        return _twins(opened)
    if kind == "tags":
        return ImageList(_marked(opened))
    return _suspects(kind, opened, analyses)


def _suspects(kind: str, opened: OpenIndex, analyses: StoredAnalyses) -> ImageList:
    # Here, as below: the page starts without what only few questions need.
    from alike.analysis.stored import TO_ANALYSE, analyse_command

    if not opened.classes and kind == "outliers":
        return _outliers(opened, analyses)
    if not opened.classes:
        return ImageList(_empty(), "labels: the images of this set have none")
    key, features = opened.index.features.key, opened.index.features
    try:
        table = analyses.analysis(key).tables.get("suspects")
    except NotThere:
        table = None
    if table is None:
        command = analyse_command(features)
        if kind == "outliers" and not command:
            return _outliers(opened, analyses)
        # An analysis may be there, of a version that made no such table.
        needs = f"an analysis: run `{command}`" if command else TO_ANALYSE
        return ImageList(_empty(), needs)
    # Of one measure: the first of the analysis.
    measure = str(table["measure"].iloc[0]) if len(table) else ""
    table = table[table["kind"] == SUSPECTS[kind]]
    table = table[opened.places(table["row"].to_numpy(np.int64)) >= 0]
    lines = _images(opened, table["row"])
    why: Any = FAR_FROM_ALL
    if kind == "labels":
        why = "its neighbours are of another class"
        if "cleanlab" in table:
            why = why + "; " + table["cleanlab"].map(CLEANLAB).to_numpy(object)
    return ImageList(
        lines.assign(
            suggested=table["suggested"].to_numpy(), score=table["score"].to_numpy(float), why=why
        ),
        measure=measure,
    )


def _outliers(opened: OpenIndex, analyses: StoredAnalyses) -> ImageList:
    """Of a set without labels, or with so few that it is not analysed."""
    table = analyses.outliers(opened)
    sampled = len(opened.rows) > MOST_OTHERS
    why = f"far from {MOST_OTHERS} images drawn at random" if sampled else FAR_FROM_ALL
    lines = _images(opened, table["row"])
    lines = lines.assign(suggested="", score=table["score"].to_numpy(), why=why)
    return ImageList(lines, measure=opened.index.measure.name)


def _twins(opened: OpenIndex) -> ImageList:
    from alike.extract.twins import twin_table, unsigned_rows

    store = opened.index.features.store
    pairs = twin_table(store)
    ends = [pairs[name].to_numpy(np.int64) for name in ("row_a", "row_b")]
    there = (opened.places(ends[0]) >= 0) & (opened.places(ends[1]) >= 0)
    pairs = pairs[there]
    unsigned = len(unsigned_rows(store, opened.index.features.bad()["row"].to_numpy()))
    counted = "1 image" if unsigned == 1 else f"{unsigned} images"
    needs = f"hashes of {counted}: run `{command_of('twins', store)}`"
    other = _images(opened, pairs["row_b"]).add_prefix("other_")
    lines = pd.concat([_images(opened, pairs["row_a"]), other], axis=1).assign(
        score=pairs["correlation"].to_numpy(float), why=pairs["how"].to_numpy()
    )
    same = _same_bytes(opened)
    lines = pd.concat([same, lines], ignore_index=True) if len(same) else lines
    return ImageList(lines, needs if unsigned else "")


def _same_bytes(opened: OpenIndex) -> pd.DataFrame:
    """Files of one image that have different labels: the image counts with the first of them."""
    view = opened.index.features.store.images()
    view = view[opened.places(view["row"].to_numpy(np.int64)) >= 0]
    labels = view.drop_duplicates("row").set_index("row")["label"]
    rest = view[view.duplicated("row")]
    differ = rest["label"].fillna("").to_numpy() != labels.loc[rest["row"]].fillna("").to_numpy()
    rest = rest[differ].reset_index(drop=True)
    image = _images(opened, rest["row"])
    own = {name: rest[name] for name in ("path", "label", "subset")}
    why = [
        f"same bytes, labels {_label(one)} and {_label(other)}"
        for one, other in zip(image["label"], rest["label"], strict=True)
    ]
    copy = image.assign(**own).add_prefix("other_")
    return pd.concat([image, copy], axis=1).assign(score=1.0, why=why)


def _label(label: Any) -> str:
    return "none" if pd.isna(label) else f"“{label}”"


def _bad(opened: OpenIndex) -> pd.DataFrame:
    """Images without a feature; those that were never read have no hash and the row -1."""
    features = opened.index.features
    bad, view = features.bad(), features.store.images()
    facts = view.drop_duplicates("path").set_index("path").reindex(bad["path"])
    why = [f"{state}: {why}" for state, why in zip(bad["state"], bad["reason"], strict=True)]
    images = facts["image_id"].where(bad["row"].to_numpy() >= 0, "")
    facts = facts.reset_index().assign(row=bad["row"].to_numpy())
    return _listed(images.to_numpy(), facts, why)


def _marked(opened: OpenIndex) -> pd.DataFrame:
    """Images with tags, in the order of the set; those that it has no more have the row -1."""
    tags = read_tags(opened.index.features.store).groupby("image_id")["tag"].agg(", ".join)
    view = opened.index.features.store.images().drop_duplicates("image_id")
    facts = view.set_index("image_id").reindex(tags.index).reset_index()
    order = facts["row"].fillna(np.inf).argsort(kind="stable").to_numpy()
    facts, tags = facts.iloc[order], tags.iloc[order]
    lines = _listed(tags.index.to_numpy(), facts, tags.to_list())
    # Features have sides; other images have none.
    places = opened.places(lines["row"].to_numpy(np.int64))
    lines["split"] = [opened.splits[place] if place >= 0 else None for place in places.tolist()]
    # Neither those that could not be read nor those that the set has no more have a picture.
    unread = opened.index.features.bad()["row"]
    return lines.assign(bad=lines["row"].isin(unread) | (lines["row"] < 0))


def _listed(images: Any, facts: pd.DataFrame, why: list[str]) -> pd.DataFrame:
    """Lines of images of the listing: `facts` has its columns, NaN for those that it lacks."""
    subset = facts["subset"].to_numpy(dtype=object) if "subset" in facts else None
    lines = pd.DataFrame({
        "image": pd.Series(images, dtype=object).fillna("").to_numpy(),
        "row": facts["row"].fillna(-1).to_numpy(np.int64),
        "path": facts["path"].fillna("").to_numpy(dtype=object),
        "label": facts["label"].to_numpy(dtype=object),
        "subset": subset,
        "split": None,
        "why": why,
    })  # fmt: skip
    return lines.astype(object).where(lines.notna(), None)


def _images(opened: OpenIndex, rows: Any) -> pd.DataFrame:
    return pd.DataFrame(opened.about_many(rows), columns=list(COLUMNS))


def _empty() -> pd.DataFrame:
    return pd.DataFrame(columns=[*COLUMNS, "suggested", "score", "why"])


def export(lines: pd.DataFrame, form: str) -> bytes:
    """A list as a file.

    Args:
        lines: of an `ImageList`.
        form: of `FORMS`.
    """
    if form == "latex":
        return _latex(lines).encode()
    # Here, as elsewhere: the page starts without what only this needs.
    from alike.analysis.export import write_lines

    file = io.BytesIO()
    if form == "csv":
        # With the mark by which spreadsheets see that it is UTF-8.
        write_lines(lines, file, encoding="utf-8-sig")
    else:
        lines.to_parquet(file, index=False)
    return file.getvalue()


def _latex(lines: pd.DataFrame) -> str:
    """A `tabular` without the hashes of the images, which no line of paper holds."""

    def cell(value: Any) -> str:
        if pd.isna(value):
            return ""
        plain = f"{value:.6g}" if isinstance(value, float) else " ".join(str(value).split())
        return plain.translate(SAFE)

    shown = lines.drop(columns=["image", "other_image"], errors="ignore")
    head, *rows = (
        " & ".join(map(cell, row)) + r" \\"
        for row in (shown.columns, *shown.itertuples(index=False))
    )
    begin = rf"\begin{{tabular}}{{{'l' * len(shown.columns)}}}"
    return "\n".join([begin, r"\hline", head, r"\hline", *rows, r"\hline", r"\end{tabular}", ""])
