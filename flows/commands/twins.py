"""`alike twins`: images of a store that show one picture, and the sides on which they stand."""

from typing import Annotated

import typer

from alike.flows.options import ClusterOption, JsonOption, StoreOption

SHOWN = 50
"""Pairs that the table prints; --json prints all."""


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("twins")
    def twins(
        store: StoreOption,
        search: Annotated[
            bool, typer.Option(help="Look for twins of new images; without, list what is known.")
        ] = True,
        threads: Annotated[int | None, typer.Option(min=1, help="Cores to use; all.")] = None,
        cluster: ClusterOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """List images that show one picture: re-encoded, resized, turned, cropped, brightened.

        Images that an earlier version extracted are read again. Twins stand on one side of the
        split, unless the store ignores them (`alike extract --twins ignore`). With `--cluster`,
        workers read the images and sign them; this process compares the signatures.

        `alike twins --store pets.store`
        """
        import numpy as np

        from alike.extract.errors import BadInput
        from alike.extract.machine import usable_cores
        from alike.extract.store import Store
        from alike.extract.twins import (
            SMALLEST,
            mended_twins,
            search_twins,
            sign_images,
            twin_table,
            unsigned_rows,
            within_and_across,
        )
        from alike.flows.cluster import cluster_jobs
        from alike.flows.console import print_json, print_table, progress_bars

        for option, value in (("--cluster", cluster), ("--threads", threads)):
            if value is not None and not search:
                raise BadInput(
                    f"{option} {value} is for the search of twins: leave it or --no-search out"
                )
        opened = Store.open(store)
        cores = threads or usable_cores()
        if search:
            try:
                opened.require_writable()
            except BadInput as error:
                raise BadInput(f"{error}; --no-search lists what is known") from None
        faults = opened.remove_damaged_twins() if search else []
        bad = sorted({row for key in opened.groups() for row in opened.features(key).bad()["row"]})
        if search:
            with progress_bars() as progress:
                # Workers sign images: without one to sign, none starts.
                if cluster is None or not len(unsigned_rows(opened, bad)):
                    sign_images(opened, threads=cores, progress=progress)
                else:
                    with cluster_jobs(cluster) as jobs:
                        signing = jobs.stage("sign") if jobs.remote else map
                        sign_images(opened, threads=cores, progress=progress, map_blocks=signing)
                search_twins(opened, bad=bad, threads=cores, progress=progress)
        pairs = twin_table(opened)
        counts = within_and_across(pairs)
        unsigned = len(unsigned_rows(opened, bad))
        rows = opened.images()["row"].unique()
        plain_rows = opened.plain_rows()
        plain = None if plain_rows is None else int(np.isin(rows[rows >= 0], plain_rows).sum())
        if as_json:
            print_json({
                "twins": opened.twins(), "pairs": pairs, "sides": counts, "unsigned": unsigned,
                "plain": plain,
            })  # fmt: skip
            return
        shown = pairs[["path_a", "path_b", "side_a", "side_b", "correlation", "how"]]
        if len(pairs):
            more = f", the first {SHOWN}" if len(pairs) > SHOWN else ""
            print_table(shown.head(SHOWN), f"{len(pairs)} pairs of twins{more}")
        else:
            typer.echo("no twins")
        if faults:
            typer.echo(f"note: {mended_twins(faults)}")
        for name, count in counts.items():
            typer.echo(f"{count} pairs {'across' if '/' in name else 'within'} {name}")
        if plain:
            why = f"are smaller than {SMALLEST} pixels or flat: they are taken to have no twins"
            typer.echo(f"note: {plain} of {int((rows >= 0).sum())} images {why}")
        if unsigned:
            typer.echo(f"note: {unsigned} images could not be read: their twins are not known")
