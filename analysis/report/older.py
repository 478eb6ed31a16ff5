"""What a store holds that is older than the features it was made from."""

from collections.abc import Mapping
from typing import Any

from alike.analysis.explain.file_names import DIGEST


def changed(store: Any, key: str, digest: object) -> bool:
    """Whether an extraction is gone, or has other features than those of this digest."""
    return key not in store.groups() or store.features(key).changed_since(digest)


def since(store: Any, key: str, settings: Mapping[str, Any], command: str) -> str:
    """A sentence to add if a table or a picture is older than the features, else "".

    Args:
        store: that holds it.
        key: of the extraction it is of.
        settings: of the table, or texts of the PNG file.
        command: makes it again.
    """
    if not changed(store, key, settings.get(DIGEST)):
        return ""
    return f" The features have changed since: run {command} again."
