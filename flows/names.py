"""What a pipeline is called on a Prefect server: by the server a store, a network, a run."""

import re
import socket
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from alike.extract.secrets import masked
from alike.flows.memo import digest
from alike.flows.sections import NetworkSettings, Pipeline

_ID = 16
_SHORT = 8


def store_id(place: str) -> str:
    """Names a store among those of one Prefect server.

    Args:
        place: its URL, or its folder; that on another machine is another store.
    """
    local = "://" not in place or place.startswith("file://")
    return digest(f"{socket.gethostname()}:{place}" if local else masked(place))[:_ID]


def store_resource(place: str) -> dict[str, str]:
    """The store as the resource that an event is about."""
    return {
        "prefect.resource.id": f"alike.store.{store_id(place)}",
        "prefect.resource.name": masked(place),
    }


def network_label(name: str) -> str:
    """A network as a task's name has it: of a file without its folder.

    Example:
        >>> network_label("/home/me/nets/small.py:small"), network_label("resnet18")
        ('small.py:small', 'resnet18')
    """
    file, colon, factory = name.rpartition(":")
    return f"{Path(file).name}:{factory}" if colon and file.endswith(".py") else name


def network_labels(networks: Sequence[NetworkSettings]) -> tuple[str, ...]:
    """Networks as a run names them: with their weights where the network alone is not plain.

    Example:
        >>> one, two = (NetworkSettings(name="a.py:f", weights=w) for w in ("w/1.pth", "none"))
        >>> network_labels([one]), network_labels([one, two])
        (('a.py:f',), ('a.py:f 1.pth', 'a.py:f none'))
    """
    labels = [network_label(one.name) for one in networks]
    weights = [Path(one.weights).name for one in networks]
    for more in (weights, [f"({number})" for number in range(1, len(labels) + 1)]):
        count = Counter(labels)
        labels = [
            f"{label} {word}" if count[label] > 1 else label
            for label, word in zip(labels, more, strict=True)
        ]
    return tuple(labels)


def title_of(pipeline: Pipeline) -> str:
    """The title, or the name of the settings file's folder."""
    place = pipeline.place
    return pipeline.title or (place.name if place else "")


def artifact_key(pipeline: Pipeline, what: str) -> str:
    """Key of an artifact: the same in every run of a pipeline, and of no other pipeline's.

    Args:
        pipeline: the settings.
        what: it shows, such as ``scores``.
    """
    words = f"{what} {title_of(pipeline)} {store_id(pipeline.store_place)[:_SHORT]}"
    # Prefect takes lower-case letters, digits and dashes.
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")


def run_tags(pipeline: Pipeline) -> list[str]:
    """Tags of a run, by which a server finds all of a pipeline, a network or a store."""
    networks = dict.fromkeys(network_label(one.name) for one in pipeline.networks)
    own = ["alike", *(f"network {name}" for name in networks)]
    return [*own, f"store {store_id(pipeline.store_place)[:_SHORT]}", *pipeline.prefect.tags]
