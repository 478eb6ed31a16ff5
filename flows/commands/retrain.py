"""`alike retrain`: train a network further so that images of one class get alike features."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alike.extract.errors import BadInput
from alike.flows.options import (
    PATH,
    ClassesOption,
    CropOption,
    FeaturesOption,
    FirstLabelOption,
    JsonOption,
    LabelColumnOption,
    NetworkArgOption,
    NetworkOutputOption,
    ResizeOption,
    SourceArgOption,
    TrustOption,
    WeightsKeyOption,
    WeightsPrefixOption,
    WhereOption,
)

if TYPE_CHECKING:
    from alike.train.run_files import TrainRun

MOST_SEED = 2**63 - 1


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("retrain")
    def retrain_(
        ctx: typer.Context,
        to: Annotated[
            Path, typer.Option(**PATH, help="Output folder of weights, log and decisions.")
        ],
        store: Annotated[
            str | None, typer.Option(help="Store whose network, images and train split are used.")
        ] = None,
        features: FeaturesOption = None,
        images: Annotated[
            str | None, typer.Option(help="Set of images instead of a store. Requires --network.")
        ] = None,
        network: Annotated[
            str | None, typer.Option(help="Name of torchvision, file.py:factory, or timm:NAME.")
        ] = None,
        weights: Annotated[
            str | None,
            typer.Option(
                help="File, run folder, name of torchvision's weights, or none. "
                "[default: those of the store; with --images: none]"
            ),
        ] = None,
        network_arg: NetworkArgOption = None,
        classes: ClassesOption = None,
        network_output: NetworkOutputOption = "",
        weights_key: WeightsKeyOption = "",
        weights_prefix: WeightsPrefixOption = None,
        resize: ResizeOption = None,
        crop: CropOption = None,
        where: WhereOption = None,
        source_option: SourceArgOption = None,
        label_column: LabelColumnOption = None,
        first_label: FirstLabelOption = None,
        train_share: Annotated[
            float | None,
            typer.Option(
                min=0, max=1, help="Share of images for training. [default with --images: 0.5]"
            ),
        ] = None,
        loss: Annotated[str, typer.Option(help="Name of `alike list losses`.")] = "gap_supcon",
        epochs: Annotated[int, typer.Option(min=1, help="Passes over the images.")] = 20,
        seed: Annotated[int, typer.Option(min=0, max=MOST_SEED, help="Seed of training.")] = 0,
        lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
        weight: Annotated[
            float | None, typer.Option(help="Weight of the loss. [default: its own]")
        ] = None,
        batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step.")] = None,
        augment: Annotated[
            str, typer.Option(help="Augmentation: none, shift, shift_flip, zoom_flip or trivial.")
        ] = "shift",
        set_: Annotated[
            list[str] | None,
            typer.Option("--set", help="NAME=VALUE of any other training setting. Repeatable."),
        ] = None,
        device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
        devices: Annotated[
            int,
            typer.Option(min=1, help="GPUs, or CPU processes, of a machine; they share a batch."),
        ] = 1,
        nodes: Annotated[
            int, typer.Option(min=1, help="Machines: start the command on each by torchrun.")
        ] = 1,
        trust: TrustOption = False,
        as_json: JsonOption = False,
    ) -> None:
        """Train a network further so that images of one class get alike features.

        Only images of the train split are trained on. The split follows from the content of each
        image, so `alike analyse` evaluates the result on images that no training saw.

        `alike retrain --store digits.store --loss gap_supcon --to runs/supcon`

        `alike retrain --images photos/ --network mobilenet_v2 --weights m.pth --to runs/a`

        then `alike extract photos/ --network mobilenet_v2 --weights runs/a --store a.store
        --train-share 0.5`
        """
        from alike.extract.places import expanded
        from alike.flows.commands.extract import class_list, pairs
        from alike.flows.console import progress_bars
        from alike.flows.extracting import network_options, source_options
        from alike.flows.training_images import training_images
        from alike.train.retrain import retrain
        from alike.train.settings import TrainSettings

        named = {"loss": loss, "epochs": epochs, "seed": seed, "augment": augment}
        optional = {"lr": lr, "weight": weight, "batch_size": batch_size}
        given = {name: value for name, value in optional.items() if value is not None}
        settings = TrainSettings(**{**named, **given, **_further(ctx, pairs(set_), named | given)})
        loaded, listed, read = training_images(
            (store, features, train_share),
            (images, network, weights),
            chosen=network_options(
                pairs(network_arg),
                class_list(classes),
                network_output,
                weights_key,
                weights_prefix,
            ),
            size=(resize, crop),
            where=where,
            options=source_options(pairs(source_option), None, label_column, first_label),
        )
        training, held_out, validation = listed
        out = expanded(to).resolve()
        with _alone(out), progress_bars() as progress:
            run = retrain(
                loaded,
                training,
                read,
                settings=settings,
                out=out,
                held_out=held_out,
                validation=validation,
                device=device,
                devices=devices,
                nodes=nodes,
                progress=progress,
            )
        _tell(run, sum(label is not None for _, label in held_out), as_json)


def _further(
    ctx: typer.Context, further: dict[str, Any], of_options: Mapping[str, object]
) -> dict[str, Any]:
    """Settings of --set.

    Raises:
        BadInput: one that its own option gives otherwise.
    """
    for name, value in further.items():
        source = ctx.get_parameter_source(name) if name in of_options else None
        if source is None or source.name == "DEFAULT" or value == of_options[name]:
            continue
        option = f"--{name.replace('_', '-')}"
        raise BadInput(
            f"--set {name}={value} and {option} {of_options[name]} are two values of one setting: "
            "give one of them"
        )
    return further


def _alone(out: Path) -> AbstractContextManager[None]:
    """Hold the folder of the run; Lightning's further processes are of the one that holds it."""
    from alike.flows.memo import alone_in
    from alike.train.retrain import is_first_process

    if not is_first_process():
        return nullcontext()
    return alone_in(out, "retrain", "another folder by --to", named="--to")


def _tell(run: "TrainRun", held_out: int, as_json: bool) -> None:
    from alike.flows.console import print_json, print_table
    from alike.train.trained_images import trained_images

    trained = int((trained_images(run.weights)["train_ids_hash"] == run.train_ids_hash).sum())
    last = run.log.iloc[-1].to_dict()
    if as_json:
        facts = {name: value for name, value in vars(run).items() if name not in ("log", "steps")}
        print_json({**facts, "trained_on": trained, "held_out": held_out, "last_epoch": last})
        return
    for decision in run.decisions:
        typer.echo(decision)
    shown = ["epoch", "loss", "cross_entropy", "consistency", "accuracy"]
    shown += [name for name in ("probe_accuracy", "probe_sameness") if name in run.log]
    print_table(run.log[shown].tail(5), f"trained on {trained} images, {held_out} held out")
    typer.echo(f"weights: {run.weights}")
