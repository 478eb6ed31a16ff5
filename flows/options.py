"""Options that several commands share: one name, one meaning, one default."""

import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer


class Split(StrEnum):
    """Which images: by default those that no training saw."""

    HELD_OUT = "held_out"
    VALIDATION = "validation"
    TRAIN = "train"
    ALL = "all"

    @property
    def side(self) -> str | None:
        """As `Features.table` takes it: None for all images."""
        return None if self is Split.ALL else self.value


def path_of(text: str | Path) -> Path:
    """A path as it is given; an empty one, as of a variable that is not set, would be this folder.

    Raises:
        typer.BadParameter: it is empty, or names a user who is not there.
    """
    from alike.extract.errors import BadInput
    from alike.extract.places import expanded

    # A default is a path already, and Typer parses it too.
    text = str(text)
    if not text.strip():
        raise typer.BadParameter("an empty name: name a file or folder; `.` is the folder here")
    try:
        return expanded(text)
    except BadInput as error:
        raise typer.BadParameter(str(error)) from None


PATH: dict[str, Any] = {"parser": path_of, "metavar": "<path>"}
"""What every option and argument takes that is a path."""

StoreOption = Annotated[
    str, typer.Option("--store", help="Store of the features: a folder or a URL.")
]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features", help="Key of the extraction. [default: the only one, or that served]"
    ),
]
SplitOption = Annotated[
    Split,
    typer.Option("--split", help="Images to use. held_out: those that no training sees."),
]


def _a_cluster(cluster: str | None) -> str | None:
    from alike.extract.errors import BadInput
    from alike.flows.cluster import place_of

    try:
        place_of(cluster)
    except BadInput as error:
        raise typer.BadParameter(str(error)) from None
    return cluster


ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        callback=_a_cluster,
        help="Dask workers: a number of processes, local (one a core), or tcp://scheduler:port.",
    ),
]


def _said(option: typer.CallbackParam, cluster: str | None) -> str | None:
    if _a_cluster(cluster) is not None:
        typer.echo(f"note: {option.opts[0]} {cluster} is now --cluster {cluster}", err=True)
    return cluster


OldDaskOption = Annotated[str | None, typer.Option("--dask", callback=_said, hidden=True)]
OldWorkersOption = Annotated[str | None, typer.Option("--workers", callback=_said, hidden=True)]
OldShardsOption = Annotated[str | None, typer.Option("--shards", callback=_said, hidden=True)]


def _accept_any(trust: bool) -> bool:
    if trust:
        from alike.extract.networks import accept_any

        accept_any()
    return trust


TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust",
        callback=_accept_any,
        help="Agree to run the network file that the store names, from now on.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]

# What `extract` and `check` take alike: the images and the network.
WeightsOption = Annotated[
    str | None,
    typer.Option(help="File, name of torchvision's weights, or none. [default: torchvision's]"),
]
ResizeOption = Annotated[
    str | None,
    typer.Option(help="Shorter side or HEIGHTxWIDTH. [default: that of the weights]"),
]
CropOption = Annotated[
    int | None, typer.Option(min=1, help="Side of the central square, with --resize.")
]
NetworkArgOption = Annotated[
    list[str] | None, typer.Option(help="NAME=VALUE for the factory. Repeatable.")
]
SourceArgOption = Annotated[
    list[str] | None, typer.Option(help="NAME=VALUE for the source. Repeatable.")
]
ClassesOption = Annotated[
    str | None,
    typer.Option(help="Names of the logits: a,b,c, or a file with one name a line."),
]
NetworkOutputOption = Annotated[
    str,
    typer.Option(help="Output that holds the logits, if there are several: name or position."),
]
WeightsKeyOption = Annotated[
    str, typer.Option(help="Group of the weights file to load, such as model_ema.")
]
WeightsPrefixOption = Annotated[
    str | None,
    typer.Option(help="Prefix of the names to load, such as encoder_q. (with the dot)."),
]
HumanOption = Annotated[
    Path | None,
    typer.Option(**PATH, help="File of what people said: votes, triplets or dissimilarities."),
]
WhereOption = Annotated[
    str | None, typer.Option("--where", help="Only these images: subset=val or label=cat,dog.")
]
RehashOption = Annotated[
    bool,
    typer.Option("--rehash", help="Read every image, also those of the same size and times."),
]
LabelColumnOption = Annotated[
    str | None, typer.Option(help="Column, array or JSON field of the classes.")
]
FirstLabelOption = Annotated[
    bool | None,
    typer.Option(
        "--first-label/--whole-label",
        help="Of several labels take the first; or keep a text such as a|b as one name.",
    ),
]


def finite(value: float | None) -> float | None:
    """Refuse inf and nan, which lie within the bounds of an option.

    Raises:
        typer.BadParameter: the value is one of them.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


def names_of(text: str | None) -> list[str] | None:
    """The names of a list with commas between; None if none was given."""
    if text is None:
        return None
    return [name.strip() for name in text.split(",") if name.strip()]
