"""`alike check`: what a run would take images and network for, before hours are spent."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from alike.flows.commands.extract import class_list, pairs
from alike.flows.options import (
    ClassesOption,
    CropOption,
    FirstLabelOption,
    JsonOption,
    LabelColumnOption,
    NetworkArgOption,
    NetworkOutputOption,
    ResizeOption,
    SourceArgOption,
    WeightsKeyOption,
    WeightsOption,
    WeightsPrefixOption,
    WhereOption,
)

if TYPE_CHECKING:
    from alike.extract.images import ImageSource
    from alike.extract.networks import Network


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("check")
    def check(
        source: Annotated[str, typer.Argument(help="Images: see `alike list datasets`.")],
        network: Annotated[
            str | None, typer.Option(help="torchvision name, file.py:factory, or timm:NAME.")
        ] = None,
        weights: WeightsOption = None,
        classes: ClassesOption = None,
        resize: ResizeOption = None,
        crop: CropOption = None,
        network_arg: NetworkArgOption = None,
        source_option: SourceArgOption = None,
        network_output: NetworkOutputOption = "",
        weights_key: WeightsKeyOption = "",
        weights_prefix: WeightsPrefixOption = None,
        where: WhereOption = None,
        label_column: LabelColumnOption = None,
        first_label: FirstLabelOption = None,
        images: Annotated[int, typer.Option(min=1, help="Images that are looked at.")] = 32,
        as_json: JsonOption = False,
    ) -> None:
        """Say what a run would take images and network for. Nothing is stored.

        Example: `alike check photos/ --network resnet50 --weights none`
        """
        from alike.extract.errors import BadInput
        from alike.extract.images import open_source
        from alike.extract.preview import preview, preview_network
        from alike.flows.console import print_json
        from alike.flows.extracting import (
            default_weights,
            named_network,
            network_options,
            source_options,
        )

        of_network = {
            "--weights": weights, "--classes": classes, "--resize": resize, "--crop": crop,
            "--network-arg": network_arg, "--network-output": network_output,
            "--weights-key": weights_key, "--weights-prefix": weights_prefix,
        }  # fmt: skip
        given = [name for name, value in of_network.items() if value]
        if network is None and given:
            raise BadInput(f"{', '.join(given)}: of which network? give --network too")
        options = source_options(pairs(source_option), where, label_column, first_label)
        opened: ImageSource = open_source(source, **options)
        facts: dict[str, Any] = preview(opened, images).to_dict()
        if network is not None:
            chosen = network_options(
                pairs(network_arg),
                class_list(classes),
                network_output,
                weights_key,
                weights_prefix,
            )
            loaded: Network = named_network(
                network,
                default_weights(network) if weights is None else weights,
                chosen,
                (resize, crop),
            )
            facts["network"] = preview_network(opened, loaded, images).to_dict()
        print_json(facts) if as_json else _print(facts)


def _print(facts: dict[str, Any]) -> None:
    for note in (*facts["notes"], *facts.get("network", {}).get("notes", ())):
        typer.echo(f"note: {note}")
    classes = facts["classes"]
    some = ", ".join(f"{name} {count}" for name, count in list(classes.items())[:8])
    typer.echo(
        f"{facts['images']} images in {len(classes)} classes ({some or 'no labels'}"
        f"{', …' if len(classes) > 8 else ''}), {facts['unlabelled']} without a class"
    )
    if facts["subsets"]:
        parts = ", ".join(f"{name} {count}" for name, count in facts["subsets"].items())
        typer.echo(f"subsets: {parts}")
    typer.echo(
        f"looked at {facts['looked_at']}: {_counts(facts['formats'])}; height x width "
        f"{_counts(facts['sizes'])}; {facts['turned']} turned by EXIF or XMP"
    )
    for bad in facts["bad"]:
        typer.echo(f"bad: {bad['path']}: {bad['state']}: {bad['reason']}")
    if "network" in facts:
        _print_network(facts["network"])


def _print_network(network: dict[str, Any]) -> None:
    height, width = network["input"]
    typer.echo(f"network {network['name']}, weights {network['weights']}, input {height}x{width}")
    for name, shape in network["taps"].items():
        typer.echo(f"  {name:<10} {'x'.join(map(str, shape))}")
    if network["top1"] is not None:
        typer.echo(
            f"top-1 of {network['classified']} images whose classes match: {network['top1']:.4f}"
        )
    elif network["outputs"] is None:
        typer.echo("top-1: the weights hold no classifier")
    else:
        typer.echo("top-1: the classes of images and network do not match")
    if network["seconds"]:
        typer.echo(f"one batch took {network['seconds']:.2f} s")


def _counts(counts: dict[str, int]) -> str:
    listed = ", ".join(f"{name} {count}" for name, count in list(counts.items())[:5])
    return listed + (f", {len(counts) - 5} others" if len(counts) > 5 else "")
