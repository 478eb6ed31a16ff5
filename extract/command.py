"""The command that extracts a group of a store again, for a message that asks for more of it."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alike.extract.errors import BadInput
from alike.extract.networks import Extraction, Transform

LISTED = 100
"""Names of classes that a command line may hold."""
UNKNOWN = "alike extract ..."


def extract_again(features: Any) -> str:
    """The `alike extract` that made a group, without its taps: it finds the same group.

    Args:
        features: a `Features`; others give `UNKNOWN`.

    Returns:
        The command, quoted for a shell; `UNKNOWN` where the store does not know all of it.
    """
    try:
        spec, options = features.store.source()
        made = Extraction.from_dict(features.attrs)
        transform = Transform.from_dict(made.transform)
    except (AttributeError, BadInput):
        # Features that were imported, or that no store holds.
        return UNKNOWN
    # Weights of a file take the names of their logits from the command; others bring their own.
    asks = made.weights == "none" or Path(made.weights).is_absolute()
    names = [str(name) for name in features.attrs.get("class_names") or () if asks]
    if len(names) == 1 or len(names) > LISTED or any("," in name for name in names):
        return UNKNOWN
    words = ["alike", "extract", spec, "--network", made.network, "--weights", made.weights]
    words += ["--store", features.store.url, *_size(transform), "--precision", made.precision]
    words += ["--seed", str(made.seed)] if made.weights == "none" else []
    words += ["--network-output", made.output] if made.output else []
    words += ["--weights-key", made.weights_key] if made.weights_key else []
    words += ["--weights-prefix", made.weights_prefix] if made.weights_prefix else []
    words += ["--classes", ",".join(names)] if names else []
    words += [word for pair in made.args.items() for word in ("--network-arg", _pair(*pair))]
    words += [word for pair in options.items() for word in ("--source-option", _pair(*pair))]
    return shlex.join(words)


def _size(transform: Transform) -> Sequence[str]:
    sides = transform.resize
    given = "x".join(map(str, sides)) if isinstance(sides, tuple) else str(sides or "none")
    crop = [] if transform.crop is None else ["--crop", str(transform.crop)]
    return ["--resize", given, *crop]


def _pair(name: str, value: Any) -> str:
    return f"{name}={json.dumps(value)}"
