"""Commands about a store, for messages that advise them."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alike.extract.errors import BadInput
from alike.extract.secrets import masked

MAX_NAMES = 100
"""Names of classes that a command line may hold."""
UNKNOWN = "alike extract ..."
"""The command if the store does not know all of it."""


def command_of(name: str, store: Any, key: str = "", *options: str) -> str:
    """A command about a store, quoted for a shell, as it can be copied from a message.

    Args:
        name: of the command, as `analyse`.
        store: that it is about.
        key: of the extraction; empty for a command about all of them.
        options: further words of the command line.
    """
    words = ["alike", name, "--store", masked(store.url)]
    return shlex.join([*words, *(["--features", key] if key else []), *options])


def extract_again(features: Any) -> str:
    """The `alike extract` that made a group, without its taps: it finds the same group.

    Args:
        features: a `Features`; others give `UNKNOWN`.

    Returns:
        The command, quoted for a shell; `UNKNOWN` if the store does not know all of it.
    """
    # Messages of measures name this command: they must not load torch before they are needed.
    from alike.extract.networks import Extraction, Transform

    try:
        spec, options = features.store.source()
        extraction = Extraction.from_dict(features.attrs)
        transform = Transform.from_dict(extraction.transform)
    except (AttributeError, BadInput):
        # Features that were imported, or that no store holds.
        return UNKNOWN
    # Weights of a file take the names of their logits from the command; others bring their own.
    names_needed = extraction.weights == "none" or Path(extraction.weights).is_absolute()
    names = [str(name) for name in features.attrs.get("class_names") or () if names_needed]
    if len(names) == 1 or len(names) > MAX_NAMES or any("," in name for name in names):
        return UNKNOWN
    words = ["alike", "extract", spec, "--network", extraction.network]
    words += ["--weights", extraction.weights, "--store", masked(features.store.url)]
    words += [*_size(transform.resize, transform.crop), "--precision", extraction.precision]
    words += ["--seed", str(extraction.seed)] if extraction.weights == "none" else []
    words += ["--network-output", extraction.output] if extraction.output else []
    words += ["--weights-key", extraction.weights_key] if extraction.weights_key else []
    words += ["--weights-prefix", extraction.weights_prefix] if extraction.weights_prefix else []
    words += ["--classes", ",".join(names)] if names else []
    words += [word for pair in extraction.args.items() for word in ("--network-arg", _pair(*pair))]
    words += [word for pair in options.items() for word in ("--source-option", _pair(*pair))]
    return shlex.join(words)


def _size(resize: tuple[int, int] | int | None, crop: int | None) -> Sequence[str]:
    size = "x".join(map(str, resize)) if isinstance(resize, tuple) else str(resize or "none")
    return ["--resize", size, *([] if crop is None else ["--crop", str(crop)])]


def _pair(name: str, value: Any) -> str:
    return f"{name}={json.dumps(value)}"
