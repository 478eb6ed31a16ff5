"""`alike extract`: features of a set of images into a store; only what is missing is computed."""

import json
from dataclasses import replace
from typing import Annotated, Any

import typer

from alike.flows.options import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("extract")
    def extract(
        source: Annotated[str, typer.Argument(help="Images: see `alike list datasets`.")],
        network: Annotated[
            str, typer.Option(help="torchvision name, file.py:factory, or timm:NAME.")
        ],
        store: Annotated[str, typer.Option(help="Folder or URL; made where there is none.")],
        weights: Annotated[
            str | None,
            typer.Option(help="File, enum member, or none (random). [default: torchvision's own]"),
        ] = None,
        taps: Annotated[
            str, typer.Option(help="Outputs to store, comma-separated; module paths too.")
        ] = "last_conv,fc,logits",
        device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1…")] = "auto",
        precision: Annotated[
            str, typer.Option(help="auto, float32, bfloat16, float16 (GPU).")
        ] = "auto",
        batch_size: Annotated[
            int | None, typer.Option(min=1, help="Images of one forward pass. [default: found]")
        ] = None,
        threads: Annotated[
            int | None, typer.Option(min=1, help="Cores to use. [default: all]")
        ] = None,
        resize: Annotated[
            str | None, typer.Option(help="Shorter side, or HEIGHTxWIDTH, instead of the weights'.")
        ] = None,
        crop: Annotated[
            int | None, typer.Option(min=1, help="Side of the central square, with --resize.")
        ] = None,
        network_arg: Annotated[
            list[str] | None, typer.Option(help="NAME=VALUE for the factory; may be repeated.")
        ] = None,
        source_option: Annotated[
            list[str] | None, typer.Option(help="NAME=VALUE for the source; may be repeated.")
        ] = None,
        train_share: Annotated[
            float | None, typer.Option(min=0, max=1, help="Share that may be trained on.")
        ] = None,
        classes: Annotated[
            str | None, typer.Option(help="Names of the logits: a file, one a line, or a,b,c.")
        ] = None,
        seed: Annotated[int, typer.Option(help="Of random weights.")] = 0,
        where: Annotated[
            str | None, typer.Option(help="Only these images: subset=val or label=cat,dog.")
        ] = None,
        label_column: Annotated[
            str | None, typer.Option(help="Column, array or JSON field of the classes.")
        ] = None,
        first_label: Annotated[
            bool | None,
            typer.Option(
                "--first-label/--whole-label",
                help="Of several labels take the first; or keep a text such as a|b as one name.",
            ),
        ] = None,
        bad_share: Annotated[
            float, typer.Option(min=0, max=1, help="Share of bad images that ends a run well.")
        ] = 0.2,
        workers: Annotated[
            str | None, typer.Option(help="Dask workers: a number, or tcp://scheduler:port.")
        ] = None,
        as_json: JsonOption = False,
    ) -> None:
        """Compute the features of images that have none yet, and store them.

        `alike extract photos/ --network resnet50 --store photos.store`

        `alike extract set.npz --network nets.py:resnet --weights r20.th --store s --resize none`
        """
        from alike.extract.errors import BadInput
        from alike.extract.images import open_source
        from alike.extract.networks import load_network
        from alike.extract.pipeline import check_bad_share
        from alike.extract.store import Store
        from alike.flows.console import print_json, progress_bars
        from alike.flows.trained_images import doubts, keep_trained

        images = open_source(
            source, **source_options(source_option, where, label_column, first_label)
        )
        loaded = load_network(
            network,
            weights or default_weights(network),
            args=pairs(network_arg),
            class_names=class_list(classes),
            seed=seed,
        )
        loaded = with_size(loaded, resize, crop)
        opened = Store.open(store, create=True)
        if train_share is not None:
            opened.set_split(train_share)
        settings: dict[str, Any] = {
            "taps": tuple(name.strip() for name in taps.split(",") if name.strip()),
            "device": device,
            "precision": precision,
            "batch_size": batch_size,
            "threads": threads,
            "bad_share": bad_share,
        }
        with progress_bars() as progress:
            report = _run(images, loaded, opened, {**settings, "progress": progress}, workers)
        keep_trained(opened.features(report.key))
        notes = (*report.notes, *doubts(opened.features(report.key)))
        report = replace(report, notes=notes)
        print_json(report.to_dict()) if as_json else _print(report)
        if not report.n_rows:
            first = report.bad.iloc[0]
            raise BadInput(
                f"none of {report.n_listed} images has a feature; the first: {first['path']}: "
                f"{first['state']}: {first['reason']}"
            )
        check_bad_share(report, bad_share)


def _run(
    images: Any, network: Any, store: Any, settings: dict[str, Any], workers: str | None
) -> Any:
    if workers is None:
        from alike.extract.pipeline import extract

        return extract(images, network, store, **settings)
    from alike.extract.distributed import extract_distributed

    return extract_distributed(images, network, store, workers=workers, **settings)


def default_weights(network: str) -> str:
    """The origin's own weights; a network of the user's must say what it is loaded with.

    Raises:
        BadInput: there are no weights to fall back on.
    """
    from alike.extract.errors import BadInput

    if ".py:" in network:
        raise BadInput(f"network {network} needs --weights FILE, or --weights none for random ones")
    return "DEFAULT"


def class_list(given: str | None) -> list[str] | None:
    """Names of classes from a file, one a line, or from a comma-separated list."""
    from pathlib import Path

    from alike.extract.errors import BadInput

    if given is None:
        return None
    if Path(given).is_file():
        return [line.strip() for line in Path(given).read_text().splitlines() if line.strip()]
    if "," not in given:
        raise BadInput(f"--classes {given!r}: no such file, and no list such as cat,dog,owl")
    return [name.strip() for name in given.split(",")]


def with_size(network: Any, resize: str | None, crop: int | None) -> Any:
    """The network with another resize and crop, where given.

    Args:
        network: a `Network`.
        resize: ``none``, ``256`` (shorter side) or ``224x320`` (height x width); sets the crop too.
        crop: side of the central square, None for no crop.

    Raises:
        BadInput: not of that form.
    """
    from alike.extract.errors import BadInput

    if resize is None and crop is None:
        return network
    sides = [] if resize in (None, "none") else str(resize).lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() for side in sides):
        raise BadInput(f"--resize {resize!r}: expected none, 256 or 224x320")
    numbers = [int(side) for side in sides]
    size = None if not numbers else numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])
    kept = network.transform.resize if resize is None else size
    return replace(network, transform=replace(network.transform, resize=kept, crop=crop))


def source_options(
    given: list[str] | None,
    where: str | None = None,
    label_column: str | None = None,
    first_label: bool | None = None,
) -> dict[str, Any]:
    """Options of a source from the command line: NAME=VALUE pairs, and those with a name.

    Raises:
        BadInput: a pair without an equals sign.
    """
    own = {"where": where, "label": label_column, "first_label": first_label}
    return {**pairs(given), **{name: value for name, value in own.items() if value is not None}}


def pairs(given: list[str] | None) -> dict[str, Any]:
    """NAME=VALUE options as a dict; a value that is JSON is parsed (numbers, true, lists).

    Raises:
        BadInput: no equals sign.
    """
    from alike.extract.errors import BadInput

    found: dict[str, Any] = {}
    for text in given or []:
        name, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"option {text!r}: NAME=VALUE expected")
        try:
            found[name] = json.loads(value)
        except ValueError:
            found[name] = value
    return found


def _print(report: Any) -> None:
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
        print_table(counts, "images without a feature (all: alike store ls --bad)")
