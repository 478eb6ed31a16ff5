"""An export of a store, as the command line and `alike.export` ask for it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alike.extract.progress import Progress, silent

if TYPE_CHECKING:
    from alike.extract.store import Store


@dataclass(frozen=True)
class Exported:
    """An export that was written.

    Attributes:
        files: paths.
        key: of the extraction.
        notes: what a reader must know: features that changed after the analysis, a sample, pairs of
            classes that are no array, neighbours that were not written.
    """

    files: list[Path]
    key: str
    notes: tuple[str, ...]


def export(
    store: "str | Path | Store",
    to: Path,
    features: str | None = None,
    *,
    arrays: Sequence[str] = ("gap",),
    split: str = "held_out",
    where: str | None = None,
    measure: str = "gap_cosine",
    maps: bool = False,
    images: bool = False,
    progress: Progress = silent,
) -> Exported:
    """Write features, and what was analysed of them if anything was.

    The arguments are those of `alike.export`. The 2-D map is made if it is missing.

    Raises:
        BadInput: an ending, a measure or an array that is not there.
    """
    import pandas as pd

    from alike.analysis.class_pairs import why_no_matrix
    from alike.analysis.export import WITH_NEIGHBOURS, ending_of, lists_among
    from alike.analysis.export import export as write
    from alike.analysis.stored import Analysis
    from alike.extract.errors import BadInput
    from alike.extract.measures import MEASURES, SET_MEASURES
    from alike.extract.replacing import check_target
    from alike.extract.store import Store

    measures = [*MEASURES, *SET_MEASURES]
    if measure not in measures:
        raise BadInput(f"unknown measure {measure!r}, expected one of {', '.join(measures)}")
    if ending_of(to) != ".zarr":
        check_target(to)
    opened = store if isinstance(store, Store) else Store.open(store)
    chosen = opened.features(features).only(where)
    try:
        analysis = Analysis.load(opened, chosen.key)
    except BadInput:
        # Features can be studied before anything was analysed.
        analysis = None
    notes = [analysis.outdated(chosen), *analysis.sample_notes] if analysis else []
    ending = ending_of(to)
    if images and ending != ".parquet":
        notes.append(f"no thumbnails are written: {ending} does not hold them, .parquet does")
    if maps and ending == ".npz":
        notes.append("no places of the map are written: the graph does not hold them")
    if ending == ".fiftyone.json":
        other = [n for n in arrays if n in chosen.arrays and len(chosen.arrays[n].tail) != 1]
        whose = ", ".join(other)
        notes.append(f"{whose} is not written: FiftyOne takes vectors alone" if other else "")
    if analysis and ending in (".nc", ".zarr"):
        why = why_no_matrix(analysis.tables.get("class_pairs", pd.DataFrame()))
        notes.append(f"class_pairs is written as rows, not as an array ({why})" if why else "")
    held = [name for name in arrays if name in chosen.arrays]
    lacking = len(chosen.table(split)) - len(chosen.table(split, names=held)) if held else 0
    if lacking:
        notes.append(f"{lacking} images that have no {' or '.join(held)} are not exported")
    places = None
    if maps:
        from alike.analysis.maps import MapSettings, find_map, make_map

        asked = MapSettings(measure, split)
        places = find_map(chosen, asked, however=True)
        if places is None:
            places = make_map(chosen, asked, progress=progress)
    with opened.files.snapshot():
        files = write(
            chosen,
            to,
            arrays=arrays,
            tables=analysis.tables if analysis else None,
            analysed=analysis.settings if analysis else None,
            split=None if split == "all" else split,
            measure=measure,
            places=places,
            images=images,
            progress=progress,
        )
    if analysis and ending in WITH_NEIGHBOURS:
        rows = chosen.table(split)["row"].to_numpy()
        if lists_among(analysis.tables.get("neighbours"), rows, measure) is None:
            others = f"those analysed by {measure} are of other images, or not of all of these"
            notes.append(f"no column of neighbours is written: {others}")
    return Exported(files, chosen.key, tuple(note for note in notes if note))
