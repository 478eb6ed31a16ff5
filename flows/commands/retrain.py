"""`alike retrain`: train a network further so that images of one class get alike features."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from alike.flows.options import FeaturesOption, JsonOption, TrustOption

if TYPE_CHECKING:
    from alike.extract.networks import Network
    from alike.extract.store import Store
    from alike.train.run_files import TrainRun

Labelled = list[tuple[str, str]]


def register(app: typer.Typer) -> None:
    """Add the command."""

    @app.command("retrain")
    def retrain_(
        to: Annotated[Path, typer.Option(help="Folder of the run: weights, log, decisions.")],
        store: Annotated[
            str | None, typer.Option(help="A store: its network, its images, its train split.")
        ] = None,
        features: FeaturesOption = None,
        images: Annotated[
            str | None, typer.Option(help="Or images, as for `alike extract`, with --network.")
        ] = None,
        network: Annotated[
            str | None, typer.Option(help="torchvision name, file.py:factory, or timm:NAME.")
        ] = None,
        weights: Annotated[
            str, typer.Option(help="File, run folder, enum member, or none: from scratch.")
        ] = "none",
        train_share: Annotated[
            float | None,
            typer.Option(min=0, max=1, help="Share to train on; with --images 0.5 unless given."),
        ] = None,
        loss: Annotated[str, typer.Option(help="A row of `alike list losses`.")] = "gap_supcon",
        epochs: Annotated[int, typer.Option(min=1)] = 20,
        seed: Annotated[int, typer.Option(min=0)] = 0,
        lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
        weight: Annotated[float | None, typer.Option(help="Of the loss; else its own.")] = None,
        batch_size: Annotated[int | None, typer.Option(min=1)] = None,
        augment: Annotated[
            str, typer.Option(help="none, shift, shift_flip, zoom_flip or trivial.")
        ] = "shift",
        set_: Annotated[
            list[str] | None,
            typer.Option("--set", help="NAME=VALUE of any other training setting; repeatable."),
        ] = None,
        device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
        devices: Annotated[int, typer.Option(min=1, help="GPUs, or processes on the CPU.")] = 1,
        trust: TrustOption = False,
        as_json: JsonOption = False,
    ) -> None:
        """Train a network further so that images of one class get alike features.

        Only images of the train split are trained on; which side an image is on follows from its
        content, so `alike analyse` judges the result on images that no training saw.

        `alike retrain --store digits.store --loss gap_supcon --to runs/supcon`

        `alike retrain --images photos/ --network mobilenet_v2 --weights m.pth --to runs/a`

        then `alike extract photos/ --network mobilenet_v2 --weights runs/a --store a.store
        --train-share 0.5`
        """
        from alike.flows.commands.extract import pairs
        from alike.flows.console import progress_bars
        from alike.train.retrain import retrain

        loaded, training, held_out, read = _inputs(
            (store, features, train_share), (images, network, weights)
        )
        named = {"loss": loss, "epochs": epochs, "seed": seed, "augment": augment}
        optional = {"lr": lr, "weight": weight, "batch_size": batch_size}
        given = {name: value for name, value in optional.items() if value is not None}
        with progress_bars() as progress:
            run = retrain(
                loaded,
                training,
                read,
                out=to.expanduser().resolve(),
                held_out=held_out,
                device=device,
                devices=devices,
                progress=progress,
                **{**named, **given, **pairs(set_)},
            )
        _tell(run, len(training), len(held_out), as_json)


def _inputs(
    stored: tuple[str | None, str | None, float | None],
    listed: tuple[str | None, str | None, str],
) -> tuple["Network", Labelled, Labelled, Any]:
    """The network, images to train on, images held out, and how to read one."""
    from alike.extract.errors import BadInput

    store, features, share = stored
    images, network, weights = listed
    if (store is None) == (images is None):
        raise BadInput("give either --store URL, or --images DIR with --network NAME")
    if store is not None:
        return _from_store(store, features, share, (network, weights))
    if network is None or images is None:
        raise BadInput(f"--images {images} needs --network NAME too")
    return _from_images(images, network, weights, 0.5 if share is None else share)


def _from_store(
    url: str, key: str | None, share: float | None, other: tuple[str | None, str]
) -> tuple["Network", Labelled, Labelled, Any]:
    from alike.extract.errors import BadInput
    from alike.extract.images import open_source
    from alike.extract.networks import Extraction, load_network, network_of
    from alike.extract.store import Store

    opened = Store.open(url)
    features = opened.features(key)
    spec, options = opened.source()
    _keep_apart(opened, share)
    sides = features.table()
    if not (sides["split"] == "train").any():
        raise BadInput(
            f"store {url} has no images to train on: give --train-share 0.5, "
            "or extract with --train-share"
        )
    table = sides[sides["label"].notna()]
    training, held_out = (
        list(zip(part["path"], part["label"], strict=True))
        for part in (table[table["split"] == side] for side in ("train", "held_out"))
    )
    name, weights = other
    extraction = Extraction.from_dict(features.attrs)
    made_by = (
        load_network(name, weights)
        if name
        else network_of(extraction, code_hash=str(features.attrs.get("code_hash", "")))
    )
    return made_by, training, held_out, open_source(spec, **options).read


def _keep_apart(store: "Store", share: float | None) -> None:
    """Make the split the store's own, so that every later judgement is of the held-out images."""
    from alike.extract.errors import BadInput

    present, _ = store.split()
    if share is None or share == present:
        return
    if present > 0:
        raise BadInput(
            f"--train-share {share}: the store keeps {1 - present:g} of its images held out, and "
            f"stays so; leave the option out, or extract into another store"
        )
    store.set_split(share)


def _from_images(
    images: str, network: str, weights: str, share: float
) -> tuple["Network", Labelled, Labelled, Any]:
    from alike.extract.images import list_source, open_source, splits_of
    from alike.extract.networks import load_network

    source = open_source(images)
    table = list_source(source)
    table = table[(table["state"] == "ok") & table["label"].notna()]
    sides = splits_of(table["image_id"], share)
    training, held_out = (
        list(zip(part["path"], part["label"], strict=True))
        for part in (table[sides == side] for side in ("train", "held_out"))
    )
    return load_network(network, weights), training, held_out, source.read


def _tell(run: "TrainRun", trained: int, held_out: int, as_json: bool) -> None:
    from alike.flows.console import print_json, print_table

    last = run.log.iloc[-1].to_dict()
    if as_json:
        said = {name: value for name, value in vars(run).items() if name not in ("log", "steps")}
        print_json({**said, "trained_on": trained, "held_out": held_out, "last_epoch": last})
        return
    for decision in run.decisions:
        typer.echo(decision)
    shown = ["epoch", "loss", "cross_entropy", "consistency", "accuracy"]
    shown += [name for name in ("probe_accuracy", "probe_sameness") if name in run.log]
    print_table(run.log[shown].tail(5), f"trained on {trained} images, {held_out} held out")
    typer.echo(f"weights: {run.weights}")
