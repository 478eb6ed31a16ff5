"""`alike compare`: two networks or two weights on the same images."""

from typing import Annotated

import typer

from alike.flows.options import (
    DaskOption,
    JsonOption,
    Split,
    SplitOption,
    StoreOption,
    WhereOption,
    WorkersOption,
)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("compare")
    def compare(
        a: Annotated[str, typer.Argument(help="Key of the first extraction.")],
        b: Annotated[str, typer.Argument(help="Key of the second extraction.")],
        store: StoreOption,
        store_b: Annotated[
            str | None, typer.Option(help="Store of the second one. [default: --store]")
        ] = None,
        measure: Annotated[str, typer.Option(help="Measure of distance, for both.")] = "gap_cosine",
        split: SplitOption = Split.HELD_OUT,
        where: WhereOption = None,
        bootstrap: Annotated[
            int, typer.Option(min=1, help="Not used since 0.2.0: nothing is resampled.")
        ] = 1000,
        seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of the draws.")] = 0,
        dask: DaskOption = None,
        workers: WorkersOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Compare two extractions on the same images. Intervals are of the paired difference.

        `alike compare resnet20-5c1a… resnet32-91bd… --store cifar.store`
        """
        import pandas as pd

        from alike.analysis.blocks import open_jobs
        from alike.analysis.compare import compare as set_side_by_side
        from alike.analysis.compare import compared_images, comparison_notes
        from alike.analysis.networks import SIMILARITY, network_similarity
        from alike.extract.store import Store
        from alike.flows.console import print_json, print_table, progress_bars
        from alike.flows.trained_images import check_held_out

        first = Store.open(store).features(a).only(where)
        second = Store.open(store_b or store).features(b).only(where)
        if split in (Split.HELD_OUT, Split.VALIDATION):
            for side in (first, second):
                for note in check_held_out(side, split.value):
                    typer.echo(f"note: {note}", err=True)
        with open_jobs(dask, workers) as jobs, progress_bars() as progress:
            if jobs.dashboard:
                typer.echo(f"dask dashboard: {jobs.dashboard}", err=True)
            table = set_side_by_side(
                first,
                second,
                split=split.value,
                measure=measure,
                bootstrap=bootstrap,
                seed=seed,
                jobs=jobs,
                progress=progress,
            )
        for note in comparison_notes(table, measure):
            typer.echo(f"note: {note}", err=True)
        if not as_json:
            of_what = compared_images(table) + (f" of {where}" if where else "")
            print_table(table, f"{measure}, {of_what}: a = {a}, b = {b}")
        alike, _ = network_similarity(first, second, split=split.value, measure=measure, seed=seed)
        if as_json:
            print_json({
                "a": a, "b": b, "measure": measure, "split": split.value, "where": where,
                "scores": table, "likeness": alike, "n_images": table.attrs["images"],
                "n_images_before_sampling": table.attrs["of"], "lost": table.attrs["lost"],
                "influence_of": table.attrs["influence_of"],
            })  # fmt: skip
        else:
            rows = [(name, value, SIMILARITY[name]) for name, value in alike.items()]
            print_table(
                pd.DataFrame(rows, columns=["likeness", "value", "meaning"]),
                "how alike the two see these images",
            )
