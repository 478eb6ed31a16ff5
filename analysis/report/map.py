"""The section with the map: every image a point, its picture under the pointer."""

from typing import Any

import pandas as pd

from alike.analysis.class_pairs import why_no_matrix
from alike.analysis.figures import (
    MOST_POINTS,
    MOST_TRACES,
    class_matrix,
    map_figure,
    shown_rows,
    similarity_order,
)
from alike.analysis.maps import MapSettings, find_map, make_map
from alike.analysis.report.lookup import listed, table_of
from alike.analysis.report.parts import columns, figure, section, text
from alike.analysis.report.subject import Subject, titled
from alike.analysis.report.thumbnails import Atlas, Pictures
from alike.analysis.report.words import count, number
from alike.extract.command import command_of
from alike.extract.errors import BadInput
from alike.extract.progress import Progress

MOST_PICTURES = 1500
MOST_AT_ONCE = 10_000


def make_maps(
    subject: Subject, store: Any, *, most: int = MOST_AT_ONCE, progress: Progress
) -> tuple[list[tuple[str, pd.DataFrame]], str]:
    """The maps of a report, from the store or made now; the second starts from the first.

    What `alike map` has stored is shown, whatever its perplexity, sample and seed. Above `most`
    images t-SNE takes minutes, so nothing is made here.

    Returns:
        name and map of each network, and why there is none, in a sentence, where there is none.
    """
    maps: list[tuple[str, pd.DataFrame]] = []
    for name, analysis in subject.named:
        split = str(dict(analysis.settings).get("split", "held_out"))
        like = maps[0][1] if maps else None
        settings = MapSettings(subject.measure, split)
        try:
            features = store.features(analysis.key).only(analysis.settings.get("where"))
            few = analysis.n_images <= most
            table = find_map(features, settings, like=like, however=True)
            if table is None and few:
                table = make_map(features, settings, like=like, progress=progress)
            elif table is None:
                table = find_map(features, settings, however=True)
        except BadInput as error:
            return [], f"No map is shown: {error}"
        if table is None:
            words = ("--measure", subject.measure, "--split", split)
            words += ("--where", features.where) if features.where else ()
            return [], (
                f"No map is shown: above {count(most)} images it takes minutes. Make it with "
                f"`{command_of('map', store, analysis.key, *words)}`, and write the report again."
            )
        maps.append((name, table))
    return maps, ""


def map_section(subject: Subject, store: Any, pictures: Pictures | None, progress: Progress) -> str:
    """The map, or the two side by side, with a list to make one class stand out."""
    maps, why_not = make_maps(subject, store, progress=progress)
    if not maps:
        return section("map", "Map", why_not, " ")
    paths, named = listed(store)
    labels = {row: str(label) for row, label in named.items()}
    order = _order(subject, sorted({labels[int(row)] for row in maps[-1][1]["row"]}))
    atlas = _atlas(maps[-1][1], labels, pictures) if pictures else None
    parts = []
    for name, table in maps:
        scatter = map_figure(
            table,
            [labels[int(row)] for row in table["row"]],
            order=order,
            paths=[paths[int(row)] for row in table["row"]],
            cells=atlas.cells if atlas else None,
        )
        parts.append(
            figure(scatter, f"map-{name}", title=titled(name, "Map"), caption=_note(table))
        )
    lead = (
        "Each point is an image and each colour a class. The map is made by t-SNE: near points are "
        "similar images. Distances across the map and the sizes of groups mean little. No score "
        "is computed on the map."
    )
    return section("map", "Map", lead, _controls(order) + columns(*parts) + _sheet(atlas))


def _order(subject: Subject, labels: list[str]) -> list[str]:
    pairs = table_of(subject.last, "class_pairs", subject.measure)
    if pairs.empty or why_no_matrix(pairs):
        return labels
    ordered = [str(name) for name in similarity_order(class_matrix(pairs, subject.measure))]
    return ordered + [name for name in labels if name not in set(ordered)]


def _atlas(table: pd.DataFrame, labels: dict[int, str], pictures: Pictures) -> Atlas | None:
    rows = table["row"].to_numpy()
    names = [labels[int(row)] for row in rows]
    points = shown_rows(rows, names)
    pictured = shown_rows(rows[points], [names[i] for i in points], MOST_PICTURES, seed=1)
    return pictures.atlas(int(row) for row in rows[points][pictured])


def _note(table: pd.DataFrame) -> str:
    parts = []
    if len(table) > MOST_POINTS:
        parts.append(f"{count(MOST_POINTS)} of {count(len(table))} images drawn")
    if not table["fitted"].all():
        parts.append(f"t-SNE fitted on {count(int(table['fitted'].sum()))}, the rest placed by it")
    left_out = int(table.attrs.get("left_out", 0))
    if left_out:
        parts.append(f"{count(left_out)} images left out, which lack what the measure reads")
    explained = table.attrs.get("explained")
    if explained:
        share = number(sum(explained), "share")
        parts.append(f"two principal components would show {share} of the variance")
    parts.append(f"perplexity {table.attrs.get('perplexity', 30):g}")
    parts.append(f"seed {table.attrs.get('seed', 0)}")
    return "; ".join(parts).capitalize() + "."


def _controls(order: list[str]) -> str:
    if len(order) > MOST_TRACES:
        return (
            '<div class="mapcontrols"><label>Show one class <input class="mapclass" type="search" '
            'placeholder="its whole name"></label></div>'
        )
    options = "".join(f'<option value="{text(name)}">{text(name)}</option>' for name in order)
    return (
        '<div class="mapcontrols"><label>Show one class <select class="mapclass">'
        f'<option value="">all</option>{options}</select></label></div>'
    )


def _sheet(atlas: Atlas | None) -> str:
    if atlas is None:
        return ""
    tiny = ' data-pixelated="yes"' if atlas.tiny else ""
    return (
        f'<img id="atlas" hidden alt="" src="{atlas.uri}" data-cell="{atlas.cell}" '
        f'data-across="{atlas.across}"{tiny}>'
    )
