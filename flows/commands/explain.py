"""`alike explain`: where in an image the evidence lies, and where two images are alike."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from alike.flows.options import (
    PATH,
    ClusterOption,
    FeaturesOption,
    JsonOption,
    Split,
    SplitOption,
    StoreOption,
    TrustOption,
    WhereOption,
    names_of,
)

SHOWN = 20
"""Lines of what is left out; there may be one for every image."""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("explain")
    def explain(
        store: StoreOption,
        images: Annotated[
            list[str] | None,
            typer.Argument(help="Image files, URLs, or numbers of stored rows. Two are compared."),
        ] = None,
        features: FeaturesOption = None,
        methods: Annotated[
            str | None,
            typer.Option(
                help="Names of `alike list explainers`; of two images likeness and names of "
                "`alike list pair-explainers`. Separated by commas. "
                "[default: likeness,likeness_lrp for two images, all for --grade, else "
                "cam,gradcam,lrp,sa]"
            ),
        ] = None,
        target: Annotated[
            str | None, typer.Option(help="Class name or index. [default: the predicted class]")
        ] = None,
        measure: Annotated[
            str | None,
            typer.Option(
                help="Measure whose similarity likeness_lrp and its kin explain. "
                "[default: gap_cosine]"
            ),
        ] = None,
        pairs: Annotated[
            bool,
            typer.Option(
                "--pairs", help="Show what on the first image is like each place of the second."
            ),
        ] = False,
        like: Annotated[
            str | None,
            typer.Option(help="Class label: show what makes the images like this class."),
        ] = None,
        to: Annotated[
            Path | None,
            typer.Option(**PATH, help="Folder of the pictures. [default: in the store]"),
        ] = None,
        arrays: Annotated[
            Path | None, typer.Option(**PATH, help="Write the maps to an .npz file.")
        ] = None,
        every: Annotated[
            bool,
            typer.Option("--all", help="Explain every image of the split, and store the maps."),
        ] = False,
        classes: Annotated[
            bool, typer.Option("--classes", help="Show what makes the images of each class alike.")
        ] = False,
        confused: Annotated[
            int,
            typer.Option(min=0, help="Show this number of most alike pairs of different classes."),
        ] = 0,
        continuity: Annotated[
            bool, typer.Option("--continuity", help="Measure whether explanations are continuous.")
        ] = False,
        grade: Annotated[
            bool,
            typer.Option(
                "--grade",
                help="Measure whether the network follows its explanations, and whether the "
                "similarity of pairs follows theirs: deletion, insertion, occlusion, random "
                "weights. Graded are what --methods names, or by default all explainers that fit "
                "the network. What it takes is estimated first.",
            ),
        ] = False,
        limit: Annotated[
            int | None,
            typer.Option(
                min=1,
                help="Number of images, of --grade also of pairs of each kind. "
                "[default: --continuity 64, --grade 32, --all every image]",
            ),
        ] = None,
        split: SplitOption = Split.HELD_OUT,
        where: WhereOption = None,
        trust: TrustOption = False,
        cluster: ClusterOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Show what speaks for a class in an image, or where two images are alike.

        `alike explain cat.jpg --store pets.store --methods gradcam,lrp`

        `alike explain cat.jpg dog.jpg --store pets.store --methods likeness --to pictures/`

        `alike explain cat.jpg dog.jpg --store pets.store --methods likeness_lrp --pairs`

        `alike explain cat.jpg --store pets.store --like dog`

        `alike explain --store pets.store --all --methods gradcam`

        `alike explain --store pets.store --continuity --json`

        `alike explain --store pets.store --grade --methods gradcam,lrp`
        """
        from alike.extract.errors import BadInput
        from alike.extract.replacing import check_target
        from alike.extract.store import Store
        from alike.flows.console import print_json
        from alike.flows.explaining import by_reason, check_options, questions_of

        if like is not None and not images:
            raise BadInput("--like compares images with a class: give images, or --classes for all")
        if not (images or every or classes or confused or continuity or grade):
            raise BadInput("what to explain? give images, or --all, --classes, --confused N, …")
        names = None if methods is None else list(dict.fromkeys(names_of(methods) or ()))
        asked = questions_of(
            len(images or ()), names, like, all=every, classes=classes, confused=confused,
            continuity=continuity, grade=grade,
        )  # fmt: skip
        options = {
            "methods": methods, "target": target, "measure": measure, "pairs": pairs,
            "limit": limit, "cluster": cluster, "where": where or None, "to": to, "arrays": arrays,
            "split": None if split is Split.HELD_OUT else split,
        }  # fmt: skip
        check_options(options, asked, "--{}".format)
        if to is not None:
            check_target(to, folder=True)
        if arrays is not None:
            check_target(arrays, endings=[".npz"])
        chosen = Store.open(store).features(features).only(where)
        side = split.side
        if to is None:
            chosen.store.require_writable()
        answers: dict[str, Any] = {}
        maps: list[Mapping[str, Any]] = []
        left_out: list[str] = []
        if like is not None and images:
            answers["like"] = _like(chosen, images, like, to, maps, as_json)
        if images and (like is None or names):
            how = (names, target, measure, pairs)
            answers["images"] = _images(chosen, images, how, to, maps, as_json)
        if every:
            answers["all"] = _all(chosen, names, side, limit, cluster, as_json)
        if classes:
            answers["classes"] = _classes(chosen, side, to, maps, as_json)
        if confused:
            answers["confused"] = _confused(chosen, confused, side, to, as_json)
        if continuity:
            answers["continuity"] = _continuity(
                chosen, names, side, limit, cluster, left_out, as_json
            )
        if grade:
            answers |= _grade(chosen, names, measure, side, limit, cluster, left_out, as_json)
        if continuity or grade:
            answers["left_out"] = left_out
            for line in () if as_json else by_reason(left_out):
                typer.echo(f"left out: {line}")
        if arrays is not None:
            answers["arrays"] = _keep(arrays, maps, as_json)
        if as_json:
            print_json(answers)


def _images(
    chosen: Any,
    images: list[str],
    how: tuple[list[str] | None, str | None, str | None, bool],
    to: Path | None,
    maps: list[Mapping[str, Any]],
    quiet: bool,
) -> dict[str, Any]:
    """Explain given images; `how` are methods, target, measure and whether pairs are shown."""
    from alike.analysis.explain.file_names import picture_stem
    from alike.extract.errors import BadInput
    from alike.flows.console import print_table
    from alike.flows.explaining import given_images
    from alike.flows.log_lines import say

    given = numbered(images)
    result = given_images(chosen, given, *how)
    if not (result.pictures or result.arrays):
        raise BadInput(f"nothing was explained: {'; '.join(result.notes)}")
    if result.target_note:
        say(f"note: {result.target_note}")
    stem = picture_stem(given)
    files = [
        _write(chosen, to, f"{stem}-{what}", picture) for what, picture in result.pictures.items()
    ]
    maps.append(result.arrays)
    if not quiet:
        if len(result.table):
            print_table(result.table)
        if result.cosine is not None:
            typer.echo(f"cosine of the pooled maps: {result.cosine:.4f}")
        _left_out(result.notes)
        _say(files)
    return {
        "maps": result.table, "cosine": result.cosine, "left_out": result.notes, "files": files
    }  # fmt: skip


def numbered(images: list[str]) -> list[str | int]:
    """Names of image files as they are, numbers of stored rows as numbers."""
    # Longer ones are no rows, and may be too long for a number.
    return [int(name) if name.isdecimal() and len(name) < 20 else name for name in images]


def _like(
    chosen: Any,
    images: list[str],
    label: str,
    to: Path | None,
    maps: list[Mapping[str, Any]],
    quiet: bool,
) -> dict[str, Any]:
    from alike.analysis.explain.file_names import picture_stem
    from alike.flows.console import print_table
    from alike.flows.explaining import like_class

    given = numbered(images)
    result = like_class(chosen, given, label)
    stem = picture_stem(given)
    files = [
        _write(chosen, to, f"{stem}-{what}", picture) for what, picture in result.pictures.items()
    ]
    maps.append(result.arrays)
    if not quiet:
        print_table(result.table, f"mean cosine to the images of {label}, and to all others")
        _left_out(result.notes)
        _say(files)
    return {
        "label": label, "images": result.table, "left_out": result.notes, "files": files
    }  # fmt: skip


def _all(
    chosen: Any,
    methods: list[str] | None,
    split: str | None,
    limit: int | None,
    cluster: str | None,
    quiet: bool,
) -> dict[str, Any]:
    from alike.analysis.explain import explain_set
    from alike.flows.cluster import cluster_jobs
    from alike.flows.console import progress_bars

    with cluster_jobs(cluster) as jobs, progress_bars() as progress:
        report = explain_set(
            chosen,
            methods=methods or ("gradcam",),
            split=split,
            limit=limit,
            map_parts=jobs.stage("explain") if jobs.remote else map,
            progress=progress,
        )
    if not quiet:
        typer.echo(
            f"{report.n_computed} maps computed, {report.n_reused} were there: {report.folder}"
        )
        _left_out(report.left_out)
    counts = {"n_computed": report.n_computed, "n_reused": report.n_reused, "folder": report.folder}
    return {**counts, "images": report.table, "left_out": report.left_out}


def _classes(
    chosen: Any, split: str | None, to: Path | None, maps: list[Mapping[str, Any]], quiet: bool
) -> dict[str, Any]:
    from alike.flows.console import print_table
    from alike.flows.explaining import every_class

    files: list[str] = []
    result = every_class(
        chosen, split, lambda what, picture: files.append(_write(chosen, to, what, picture))
    )
    maps.append(result.arrays)
    if not quiet:
        print_table(result.table, "mean cosine to the other images of the class")
        _left_out(result.notes)
        _say(files)
    return {"classes": result.table, "left_out": result.notes, "files": files}


def _confused(
    chosen: Any, count: int, split: str | None, to: Path | None, quiet: bool
) -> dict[str, Any]:
    from alike.analysis.explain import StoredGrades, confused_panel
    from alike.flows.console import print_table

    notes: list[str] = []
    grades = StoredGrades.of(chosen)
    table, picture = confused_panel(chosen, count, split=split, grades=grades, tell=notes.append)
    notes = list(dict.fromkeys(notes))
    files = [_write(chosen, to, "confused", picture)]
    if not quiet:
        print_table(table, "most alike images of different classes")
        _left_out(notes)
        _say(files)
    return {"pairs": table, "left_out": notes, "files": files}


def _continuity(
    chosen: Any,
    methods: list[str] | None,
    split: str | None,
    limit: int | None,
    cluster: str | None,
    left_out: list[str],
    quiet: bool,
) -> Any:
    from alike.analysis.explain.continuity import METHODS, continuity_of
    from alike.flows.cluster import cluster_jobs
    from alike.flows.console import print_table, progress_bars

    with cluster_jobs(cluster) as jobs, progress_bars() as progress:
        continuity = continuity_of(
            chosen, methods=methods or METHODS, n_images=limit or 64, split=split,
            map_methods=jobs.stage("continuity") if jobs.remote else None,
            progress=progress, tell=left_out.append,
        )  # fmt: skip
    if not quiet:
        print_table(continuity.table.drop(columns=["network"]), f"continuity of {chosen.key}")
    return continuity.table


def _grade(
    chosen: Any,
    methods: list[str] | None,
    measure: str | None,
    split: str | None,
    limit: int | None,
    cluster: str | None,
    left_out: list[str],
    quiet: bool,
) -> dict[str, Any]:
    from alike.flows.cluster import cluster_jobs
    from alike.flows.console import print_table, progress_bars
    from alike.flows.explaining import cost_line, graded, grades_shown

    costs: dict[str, Any] = {}

    def announce(found: dict[str, Any]) -> None:
        costs.update({name: vars(cost) for name, cost in found.items()})
        if found:
            typer.echo(cost_line(found), err=quiet)

    with cluster_jobs(cluster) as jobs, progress_bars() as progress:
        tables = graded(
            chosen, methods, measure=measure, limit=limit, split=split,
            map_methods=jobs.stage("grade") if jobs.remote else None,
            progress=progress, tell=left_out.append, announce=announce,
        )  # fmt: skip
    titles = {"grade": "grades of", "pair_grade": "grades of likeness of"}
    for name, table in () if quiet else tables.items():
        for kind, part in grades_shown(table).items():
            print_table(part, f"{titles[name]} {chosen.key}{kind}")
    if not quiet:
        typer.echo(
            "less …: deletion less that of this control; over …: insertion over that of it. "
            "*: the 95 % interval is without zero. All intervals: --json"
        )
    return {**tables, "cost": costs}


def _keep(file: Path, parts: list[Mapping[str, Any]], quiet: bool) -> str:
    import numpy as np

    from alike.extract.replacing import aside
    from alike.flows.explaining import joined_arrays

    maps = joined_arrays(parts)
    with aside(file) as part, part.open("wb") as sink:
        np.savez_compressed(sink, **maps)
    if not quiet:
        _say([str(file)])
    return str(file)


def _write(chosen: Any, to: Path | None, name: str, picture: Any) -> str:
    from alike.analysis.explain.file_names import DIGEST, file_name
    from alike.extract.panels import png
    from alike.extract.replacing import aside

    file = file_name(name)
    if to is None:
        place = f"explanations/{chosen.key}/{file}.png"
        chosen.store.write_file(place, png(picture, {DIGEST: chosen.digest}))
        return f"{chosen.store.url}/{place}"
    with aside(to / f"{file}.png") as part:
        part.write_bytes(png(picture))
    return str(to / f"{file}.png")


def _left_out(notes: Sequence[str]) -> None:
    for note in notes[:SHOWN]:
        typer.echo(f"left out: {note}")
    if len(notes) > SHOWN:
        typer.echo(f"left out: {len(notes) - SHOWN:,} lines more, which --json has")


def _say(files: list[str]) -> None:
    for file in files:
        typer.echo(f"written: {file}")
