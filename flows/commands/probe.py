"""`alike probe …`: what a network goes by, asked by images that were changed on purpose."""

from typing import Annotated

import typer

from alike.flows.options import (
    FeaturesOption,
    JsonOption,
    Split,
    SplitOption,
    StoreOption,
    TrustOption,
    WhereOption,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    commands = typer.Typer(
        help="Ask by changed images what a network goes by.\n\n"
        "Example: alike probe background --store pets.store --masks masks/",
        no_args_is_help=True,
        rich_markup_mode="markdown",
    )
    commands.command("background")(background)
    app.add_typer(commands, name="probe")


def background(
    store: StoreOption,
    masks: Annotated[
        str,
        typer.Option(
            help="Set of masks: one for each image, of its size and path but for the suffix; "
            "bright is object."
        ),
    ],
    features: FeaturesOption = None,
    measure: Annotated[str, typer.Option(help="Measure of distance.")] = "gap_cosine",
    split: SplitOption = Split.HELD_OUT,
    where: WhereOption = None,
    limit: Annotated[
        int, typer.Option(min=4, help="Number of images, spread evenly over the classes.")
    ] = 500,
    seed: Annotated[
        int, typer.Option(min=0, max=2**63 - 1, help="Seed of the grounds to paste on.")
    ] = 0,
    trust: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Measure what the ground behind objects does to sameness, accuracy and likeness.

    Objects are cut out by masks and pasted on the ground of another image of their class, and on
    the ground of any image. The gap between both is what the network takes from grounds.

    `alike probe background --store pets.store --masks masks/`
    """
    from alike.analysis.background import background_probe
    from alike.extract.store import Store
    from alike.flows.console import print_json, print_table, progress_bars
    from alike.flows.trained_images import check_held_out

    chosen = Store.open(store).features(features).only(where)
    if split in (Split.HELD_OUT, Split.VALIDATION):
        for note in check_held_out(chosen, split.value):
            typer.echo(f"note: {note}", err=True)
    with progress_bars() as progress:
        probe = background_probe(
            chosen, masks, measure=measure, split=split.side, limit=limit, seed=seed,
            progress=progress,
        )  # fmt: skip
    if as_json:
        print_json({"key": chosen.key, **probe.record, "scores": probe.table})
        return
    record = probe.record
    shown = probe.table.drop(columns="note")
    print_table(shown, f"{chosen.key}, {measure}, {record['images']} images")
    for row in probe.table.drop_duplicates(["images", "note"]).itertuples():
        typer.echo(f"{row.images if row.score == 'sameness' else row.score}: {row.note}")
    for reason, count in record["left_out"].items():
        typer.echo(f"note: {count} images are left out: {reason}")
    for score, reason in record["scores_left_out"].items():
        typer.echo(f"left out: {score} ({reason})")
