"""Options that several commands share: one name, one meaning, one default."""

from enum import StrEnum
from typing import Annotated

import typer


class Split(StrEnum):
    """Which images: those that no training saw are judged, unless others are asked for."""

    HELD_OUT = "held_out"
    TRAIN = "train"
    ALL = "all"

    @property
    def side(self) -> str | None:
        """As `Features.table` takes it: None for all images."""
        return None if self is Split.ALL else self.value


StoreOption = Annotated[str, typer.Option("--store", help="Where the features are.")]
FeaturesOption = Annotated[
    str | None,
    typer.Option(
        "--features", help="Extraction. [default: the only one, or the one that a run serves]"
    ),
]
SplitOption = Annotated[
    Split,
    typer.Option("--split", help="Which images; held_out are those that no training sees."),
]
DaskOption = Annotated[
    str | None, typer.Option("--dask", help="Dask scheduler, such as tcp://10.0.0.1:8786.")
]
WorkersOption = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Processes of a Dask cluster of this machine."),
]


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
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def names_of(text: str | None) -> list[str] | None:
    """The names of a list with commas between; None where none was given."""
    if text is None:
        return None
    return [name.strip() for name in text.split(",") if name.strip()]
