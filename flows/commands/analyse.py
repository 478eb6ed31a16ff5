"""`alike analyse`: scores, distances and neighbours of the images in a store."""

from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alike.flows.log_lines import say
from alike.flows.options import (
    ClusterOption,
    FeaturesOption,
    HumanOption,
    JsonOption,
    OldDaskOption,
    OldWorkersOption,
    Split,
    SplitOption,
    StoreOption,
    WhereOption,
    finite,
    names_of,
)

if TYPE_CHECKING:
    from alike.extract.store import Store


class Precision(StrEnum):
    """What products may be rounded to."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("analyse")
    def analyse(
        store: StoreOption,
        features: FeaturesOption = None,
        measures: Annotated[
            str | None,
            typer.Option(
                help="Names of `alike list measures`, separated by commas. "
                "[default: the default set of measures]"
            ),
        ] = None,
        split: SplitOption = Split.HELD_OUT,
        where: WhereOption = None,
        bootstrap: Annotated[
            int, typer.Option(min=0, help="0: no intervals. Nothing is resampled.")
        ] = 200,
        seed: Annotated[
            int, typer.Option(min=0, max=2**63 - 1, help="Seed of draws and folds.")
        ] = 0,
        untrained: Annotated[
            str | None, typer.Option(help="Key of the same network with random weights.")
        ] = None,
        human: HumanOption = None,
        cluster: ClusterOption = None,
        dask: OldDaskOption = None,
        workers: OldWorkersOption = None,
        budget: Annotated[
            float,
            typer.Option(
                min=1,
                callback=finite,
                help="Multiplications a measure; beyond it a sample is evaluated.",
            ),
        ] = 1e14,
        bins: Annotated[
            int, typer.Option(help="Number of histogram bins, a power of two.")
        ] = 16384,
        precision: Annotated[
            Precision, typer.Option(help="Precision of products; bfloat16 is faster and coarser.")
        ] = Precision.FLOAT32,
        as_json: JsonOption = False,
    ) -> None:
        """Measure how much nearer images of one class are than images of different classes.

        `alike analyse --store pets.store`

        `alike analyse --store pets.store --measures gap_cosine,map_cosine --split all --json`

        `alike analyse --store pets.store --human votes.csv`
        """
        from alike.analysis.analyse import AnalysisSettings
        from alike.analysis.analyse import analyse as evaluate
        from alike.analysis.data_limits import data_sentences
        from alike.analysis.layers import wide_layers
        from alike.analysis.people import human_notes, read_answers
        from alike.analysis.sufficiency import sufficiency_sentences
        from alike.analysis.twins import twin_sentences
        from alike.extract.store import Store
        from alike.flows.cluster import cluster_jobs
        from alike.flows.console import print_json, print_table, progress_bars
        from alike.flows.trained_images import check_held_out

        opened = Store.open(store)
        chosen = opened.features(features).only(where)
        if split in (Split.HELD_OUT, Split.VALIDATION):
            for note in check_held_out(chosen, split.value):
                say(f"note: {note}")
        before = _settings_before(opened, chosen.key)
        answers = None if human is None else read_answers(human, chosen.whole.table("all"))
        for note in answers.notes if answers else ():
            say(f"note: {note}")
        with cluster_jobs(cluster or dask or workers) as jobs, progress_bars() as progress:
            if jobs.dashboard:
                say(f"dask dashboard: {jobs.dashboard}")
            settings = AnalysisSettings(
                measures=names_of(measures),
                split=split.value,
                bootstrap=bootstrap,
                seed=seed,
                budget=budget,
                bins=bins,
                precision=precision.value,
            )
            analysis = evaluate(
                chosen,
                settings,
                untrained=opened.features(untrained) if untrained else None,
                human=answers,
                jobs=jobs,
                progress=progress,
            )
        # Only now: an analysis that fails leaves the one before as it was.
        for note in _replaced(before, analysis.settings):
            say(f"note: {note}")
        if as_json:
            print_json(analysis.document)
            return
        sampled = analysis.n_images < analysis.settings["n_images_before_sampling"]
        more = " (--budget takes more)" if sampled else ""
        print_table(
            analysis.overview(),
            f"{analysis.evaluated}{more} of {len(analysis.classes):,} classes, {split.value}"
            f"{f', {where}' if where else ''}",
        )
        if "layers" in analysis.tables:
            print_table(wide_layers(analysis.tables["layers"]), "layer by layer")
        if len(analysis.tables.get("human", ())):
            shown = analysis.tables["human"].drop(columns="note")
            print_table(shown, "alike to people (see docs/analysis.md)")
            for note in human_notes(analysis.tables["human"]):
                typer.echo(f"note: alike to people: {note}")
        for name, reason in analysis.settings["left_out"].items():
            typer.echo(f"left out: {name} ({reason})")
        settings_used = analysis.settings
        twins = twin_sentences(settings_used["twins"], opened)
        data = [
            *data_sentences(analysis.tables),
            *sufficiency_sentences(analysis.tables.get("sufficiency")),
        ]
        for sentence in (*settings_used["warnings"], *twins, *data):
            typer.echo(f"note: {sentence}")


def _settings_before(store: "Store", key: str) -> Mapping[str, Any]:
    """Of the analysis that there is; empty if none is, or one that a new analysis repairs."""
    from alike.analysis.stored import Analysis
    from alike.extract.errors import BadInput, StoreDamaged

    try:
        return Analysis.load(store, key).settings
    except (BadInput, StoreDamaged):
        return {}


def _replaced(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Sentences on what an analysis had that the one in its place has not."""
    lost = [str(name) for name in before.get("measures", ()) if name not in now["measures"]]
    reason = "the measures asked for are the whole analysis"
    notes = [f"{reason}; this replaces that of {', '.join(lost)}"] if lost else []
    if before.get("human") and not now["human"]:
        notes.append(
            "this replaces an analysis with what people said: give --human to have it again"
        )
    return notes
