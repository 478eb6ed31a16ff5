"""Commands about a store, for messages that advise them."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from alike.extract.errors import AlikeError
from alike.extract.secrets import masked

MAX_NAMES = 100
"""Names of classes that a command line may hold."""
UNKNOWN = "alike extract ..."
"""The command if the store does not know all of it."""


def command_of(name: str, store: Any, key: str = "", *options: str) -> str:
    """A command about a store, quoted for a shell, as it can be copied from a message.

    Args:
        name: of the command, as `analyse` or `probe background`.
        store: that it is about.
        key: of the extraction; empty for a command about all of them.
        options: further words of the command line.
    """
    words = ["alike", *name.split(), "--store", masked(store.url)]
    return shlex.join([*words, *(["--features", key] if key else []), *options])


def command_at(name: str, store: Any, *options: str) -> str:
    """A command about a store that takes the store as its argument, not as an option.

    Args:
        name: of the command, as `store verify`.
        store: that it is about, or its place.
        options: further words of the command line.
    """
    return shlex.join(["alike", *name.split(), masked(getattr(store, "url", store)), *options])


def analyse_again(
    features: Any, settings: Mapping[str, Any], more: Sequence[str] = (), *options: str
) -> str:
    """The command that makes an analysis again, of the same images and by the same measures.

    Args:
        features: the extraction.
        settings: of the analysis.
        more: measures that are added.
        options: further words of the command line.
    """
    names = [*map(str, settings.get("measures") or ()), *more]
    split, where = str(settings.get("split") or "held_out"), settings.get("where")
    words = ["--measures", ",".join(names)] if names else []
    words += ["--split", split, *(["--where", str(where)] if where else [])]
    untrained = settings.get("untrained")
    if untrained and "--untrained" not in options:
        words += ["--untrained", str(untrained)]
    return command_of("analyse", features.store, features.key, *words, *options)


def taps_again(features: Any) -> str:
    """The `alike extract` that computes what a group lacks, of all the taps that it was made of."""
    return extract_again(features, features.attrs.get("taps"))


def extract_again(
    features: Any, taps: Sequence[str] | None = None, *, untrained: bool = False
) -> str:
    """The `alike extract` that made a group: it finds the same group.

    Args:
        features: a `Features`; others give `UNKNOWN`.
        taps: that are extracted; None leaves the choice to the command's default.
        untrained: rather the command of the same network with random weights.

    Returns:
        The command, quoted for a shell; with `UNKNOWN` if the store does not know all of it.
    """
    named = [] if taps is None else ["--taps", ",".join(taps)]
    known = _again(features, untrained)
    return shlex.join([*known, *named]) if known else " ".join([UNKNOWN, shlex.join(named)]).strip()


def _again(features: Any, untrained: bool) -> list[str]:
    """Words of the command without taps; none if the store does not know all of it."""
    # Messages of measures name this command: they must not load torch before they are needed.
    from alike.extract.networks import Extraction, Transform

    try:
        spec, options = features.store.source()
        extraction = Extraction.from_dict(features.attrs)
        transform = Transform.from_dict(extraction.transform)
    except (AttributeError, AlikeError):
        # Features that were imported, that no store holds, or of a store that is damaged.
        return []
    weights = "none" if untrained else extraction.weights
    # Weights of a file take the names of their logits from the command; others bring their own.
    names_needed = not untrained and (weights == "none" or Path(weights).is_absolute())
    names = [str(name) for name in features.attrs.get("class_names") or () if names_needed]
    names = [] if names == _usual_names(extraction) else names
    if len(names) == 1 or len(names) > MAX_NAMES or any("," in name for name in names):
        return []
    words = ["alike", "extract", spec, "--network", extraction.network]
    words += ["--weights", weights, "--store", masked(features.store.url)]
    words += [*_size(transform.resize, transform.crop), "--precision", extraction.precision]
    words += ["--seed", str(extraction.seed)] if weights == "none" else []
    words += ["--network-output", extraction.output] if extraction.output else []
    parts = {"--weights-key": extraction.weights_key, "--weights-prefix": extraction.weights_prefix}
    for option, value in ({} if untrained else parts).items():
        words += [option, value] if value else []
    words += ["--classes", ",".join(names)] if names else []
    words += [word for pair in extraction.args.items() for word in ("--network-arg", _pair(*pair))]
    words += [word for pair in options.items() for word in ("--source-option", _pair(*pair))]
    return words


def _usual_names(extraction: Any) -> list[str] | None:
    """Names of the logits that a network of torchvision has if no others are given."""
    from alike.extract.networks.kinds import kind_of

    # Own code and timm say theirs only when the network is built.
    if ":" in extraction.network:
        return None
    try:
        names = kind_of(extraction.network).class_names(extraction.weights, extraction.args)
        return list(names or ())
    except AlikeError:
        return None


def _size(resize: tuple[int, int] | int | None, crop: int | None) -> Sequence[str]:
    size = "x".join(map(str, resize)) if isinstance(resize, tuple) else str(resize or "none")
    return ["--resize", size, *([] if crop is None else ["--crop", str(crop)])]


def _pair(name: str, value: Any) -> str:
    return f"{name}={json.dumps(value)}"
