"""What a store holds that is older than the features it was made from."""

from collections.abc import Mapping
from typing import Any

from alike.analysis.explain.file_names import DIGEST
from alike.extract.command import command_of

Settings = Mapping[str, Any]


def changed(store: Any, key: str, digest: object) -> bool:
    """Whether an extraction is gone, or has other features than those of this digest."""
    return key not in store.groups() or store.features(key).changed_since(digest)


def since(store: Any, key: str, settings: Settings, name: str, *options: str) -> str:
    """A sentence to add if a table or a picture is older than the features, else "".

    Args:
        store: that holds it.
        key: of the extraction it is of.
        settings: of the table, or texts of the PNG file.
        name: of the command that makes it again, as `explain`.
        options: of the command.
    """
    if not changed(store, key, settings.get(DIGEST)):
        return ""
    command = command_of(name, store, key, *options, *same_images(settings))
    return f" The features have changed since: run `{command}` again."


def same_images(settings: Settings) -> tuple[str, ...]:
    """Options that name the images of a table, as far as they are not those by default.

    Args:
        settings: of the table; a split of None is that of all images.
    """
    split, where = settings.get("split", "held_out") or "all", settings.get("where")
    words = ("--split", str(split)) if split != "held_out" else ()
    return (*words, "--where", str(where)) if where else words
