"""`alike extract`: features of a set of images into a store; only what is missing is computed."""

import json
from contextlib import suppress
from enum import StrEnum
from typing import Annotated, Any

import typer

from alike.flows.options import (
    ClassesOption,
    ClusterOption,
    CropOption,
    FirstLabelOption,
    JsonOption,
    LabelColumnOption,
    NetworkArgOption,
    NetworkOutputOption,
    OldWorkersOption,
    RehashOption,
    ResizeOption,
    SourceArgOption,
    WeightsKeyOption,
    WeightsOption,
    WeightsPrefixOption,
    WhereOption,
    names_of,
)


class Twins(StrEnum):
    """What becomes of images that show one picture."""

    TOGETHER = "together"
    IGNORE = "ignore"


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("extract")
    def extract(
        source: Annotated[str, typer.Argument(help="Set of images. See `alike list datasets`.")],
        network: Annotated[
            str, typer.Option(help="Name of torchvision, file.py:factory, or timm:NAME.")
        ],
        store: Annotated[str, typer.Option(help="Folder or URL. Created if it does not exist.")],
        weights: WeightsOption = None,
        taps: Annotated[
            str,
            typer.Option(
                help="Outputs or module paths to store, separated by commas; `layers`: the mean "
                "of every block's output."
            ),
        ] = "last_conv,fc,logits",
        device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1…")] = "auto",
        precision: Annotated[
            str, typer.Option(help="auto, float32, bfloat16, float16 (GPU).")
        ] = "auto",
        batch_size: Annotated[
            int | None, typer.Option(min=1, help="Images in one forward pass. [default: measured]")
        ] = None,
        threads: Annotated[
            int | None, typer.Option(min=1, help="Cores to use. [default: all]")
        ] = None,
        resize: ResizeOption = None,
        crop: CropOption = None,
        network_arg: NetworkArgOption = None,
        source_option: SourceArgOption = None,
        train_share: Annotated[
            float | None, typer.Option(min=0, max=1, help="Share of images for training.")
        ] = None,
        validation_share: Annotated[
            float | None,
            typer.Option(min=0, max=1, help="Share, next to it, by which networks are chosen."),
        ] = None,
        group: Annotated[
            str | None,
            typer.Option(help="Column of what images share that must stand on one side."),
        ] = None,
        twins: Annotated[
            Twins | None,
            typer.Option(help="Whether images that show one picture stand on one side. [together]"),
        ] = None,
        classes: ClassesOption = None,
        network_output: NetworkOutputOption = "",
        weights_key: WeightsKeyOption = "",
        weights_prefix: WeightsPrefixOption = None,
        seed: Annotated[
            int, typer.Option(min=0, max=2**63 - 1, help="Seed of random weights.")
        ] = 0,
        where: WhereOption = None,
        label_column: LabelColumnOption = None,
        first_label: FirstLabelOption = None,
        bad_share: Annotated[
            float, typer.Option(min=0, max=1, help="Share of bad images that ends a run well.")
        ] = 0.2,
        rehash: RehashOption = False,
        cluster: ClusterOption = None,
        workers: OldWorkersOption = None,
        as_json: JsonOption = False,
    ) -> None:
        """Compute and store the features of images that have none yet.

        `alike extract photos/ --network resnet50 --store photos.store`

        `alike extract set.npz --network nets.py:resnet --weights r20.th --store s --resize none`
        """
        from alike.extract.errors import BadInput
        from alike.extract.pipeline import check_bad_share
        from alike.flows.console import print_json, progress_bars
        from alike.flows.extracting import extract_images, network_options, source_options

        with progress_bars() as progress:
            report = extract_images(
                source,
                network,
                store,
                weights=weights,
                taps=names_of(taps) or (),
                settings={
                    "device": device,
                    "precision": precision,
                    "batch_size": batch_size,
                    "threads": threads,
                    "bad_share": bad_share,
                    "rehash": rehash,
                    "progress": progress,
                },
                size=(resize, crop),
                chosen=network_options(
                    pairs(network_arg),
                    class_list(classes),
                    network_output,
                    weights_key,
                    weights_prefix,
                ),
                source_options=source_options(
                    pairs(source_option), where, label_column, first_label
                ),
                split=(train_share, validation_share),
                group=group,
                twins=None if twins is None else twins.value,
                seed=seed,
                cluster=cluster or workers,
            )
        print_json(report.to_dict()) if as_json else _print(report, store)
        if not report.n_rows:
            first = report.bad.iloc[0]
            raise BadInput(
                f"none of {report.n_listed} images has a feature; the first: {first['path']}: "
                f"{first['state']}: {first['reason']}"
            )
        check_bad_share(report, bad_share)


def class_list(given: str | None) -> list[str] | None:
    """Names of classes from a file, one a line, or from a comma-separated list."""
    from pathlib import Path

    from alike.extract.errors import BadInput, not_utf8

    if given is None:
        return None
    if Path(given).is_file():
        data = Path(given).read_bytes()
        try:
            lines = data.decode("utf-8-sig").splitlines()
        except UnicodeDecodeError as error:
            raise not_utf8(f"--classes {given}", data.splitlines()) from error
        return [line.strip() for line in lines if line.strip()]
    if "," not in given:
        raise BadInput(f"--classes {given!r}: no such file, and no list such as cat,dog,owl")
    return [name.strip() for name in given.split(",")]


def pairs(given: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE options as a dict; a value that is JSON is parsed (numbers, true, lists).

    Raises:
        BadInput: no equals sign; a name with two values.
    """
    from alike.extract.errors import BadInput

    values: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"option {text!r}: NAME=VALUE expected")
        read: Any = value
        with suppress(ValueError, RecursionError):
            read = json.loads(value)
        if name in values and values[name] != read:
            raise BadInput(f"{name} is given as {values[name]!r} and as {read!r}: give it once")
        values[name] = read
    return values


def _print(report: Any, store: str) -> None:
    from alike.extract.command import command_at
    from alike.flows.console import print_table

    computed = f"{report.n_computed} computed" if report.n_computed else "no forward pass"
    typer.echo(
        f"{report.key}: {report.n_rows} images with features, {computed}, "
        f"{report.n_reused} reused, {report.n_bad} bad, {report.seconds:.1f} s"
    )
    if report.n_computed:
        busy = ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in report.stages.items())
        typer.echo(f"busy: {busy}")
    if report.top1 is not None:
        typer.echo(f"top-1 where classes match: {report.top1:.4f}")
    for note in report.notes:
        typer.echo(f"note: {note}")
    if report.n_bad:
        counts = report.bad.groupby("state", as_index=False).size()
        command = command_at("store ls", store, "--bad")
        print_table(counts, f"images without a feature (all: `{command}`)")
