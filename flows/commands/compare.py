"""`alike compare`: two networks or two weights on the same images."""

from typing import Annotated

import typer

from alike.flows.options import (
    DaskOption,
    JsonOption,
    Split,
    SplitOption,
    StoreOption,
    WorkersOption,
)


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("compare")
    def compare(
        a: Annotated[str, typer.Argument(help="First extraction.")],
        b: Annotated[str, typer.Argument(help="Second extraction.")],
        store: StoreOption,
        store_b: Annotated[
            str | None, typer.Option(help="Where the second one is, if elsewhere.")
        ] = None,
        measure: Annotated[str, typer.Option(help="Used for both.")] = "gap_cosine",
        split: SplitOption = Split.HELD_OUT,
        bootstrap: Annotated[int, typer.Option(min=1, help="Not used: nothing is drawn.")] = 1000,
        seed: Annotated[int, typer.Option(min=0, help="Of the draws.")] = 0,
        dask: DaskOption = None,
        workers: WorkersOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Set two extractions side by side; the intervals are of the paired difference.

        `alike compare resnet20-5c1a… resnet32-91bd… --store cifar.store`
        """
        import pandas as pd

        from alike.analysis.blocks import open_jobs
        from alike.analysis.compare import compare as set_side_by_side
        from alike.analysis.networks import SIMILARITY, network_similarity
        from alike.extract.store import Store
        from alike.flows.console import print_json, print_table, progress_bars
        from alike.flows.trained_images import check_unseen

        first = Store.open(store).features(a)
        second = Store.open(store_b or store).features(b)
        if split is Split.HELD_OUT:
            for note in (*check_unseen(first), *check_unseen(second)):
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
        if not as_json:
            n, of = table.attrs["images"], table.attrs["of"]
            images = f"{n} images" if n == of else f"a stratified sample of {n} of {of} images"
            print_table(table, f"{measure}, {images}: a = {a}, b = {b}")
        alike, _ = network_similarity(first, second, split=split.value, measure=measure, seed=seed)
        if as_json:
            print_json({
                "a": a, "b": b, "measure": measure, "split": split.value, "scores": table,
                "likeness": alike,
            })  # fmt: skip
        else:
            told = [(name, value, SIMILARITY[name]) for name, value in alike.items()]
            print_table(
                pd.DataFrame(told, columns=["likeness", "value", "meaning"]),
                "how alike the two see these images",
            )
