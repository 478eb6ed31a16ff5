"""`pipeline.toml`: the settings of a run, checked whole before anything starts.

Configuration is read here and nowhere else; everything below `flows/` takes plain arguments.
"""

import os
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from alike.extract.errors import BadInput
from alike.extract.places import expanded
from alike.extract.secrets import filled, hide, masked
from alike.flows.mirror import FOLDERS as MIRRORED
from alike.flows.sections import (
    SEVERAL,
    NetworkSettings,
    Pipeline,
    TransformSettings,
    parse_bytes,
)

__all__ = ["Pipeline", "checked_transform", "parse_bytes", "read_pipeline"]


def read_pipeline(path: Path, overrides: Mapping[str, Any] | None = None) -> Pipeline:
    """Read and check `pipeline.toml`; paths in it are relative to the file's own folder.

    Args:
        path: of the file.
        overrides: sections with the settings that replace those of the file.

    Raises:
        BadInput: the file is missing, is no TOML, or holds a wrong name or value: all of them
            are listed in one line; a variable of the environment is not set.
    """
    if not path.is_file():
        fault = "no file to read settings from" if os.path.lexists(path) else "no such file"
        raise BadInput(f"{path}: {fault}; expected a pipeline.toml (see `alike run --help`)")
    text = ""
    try:
        # Some editors begin a file with a mark of its encoding.
        text = path.read_text(encoding="utf-8-sig")
        raw = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        if {"[network]", "[[network]]"} <= {line.strip() for line in text.splitlines()}:
            raise BadInput(
                f"{path} holds [network] and [[network]]: write [[network]] before each of several"
            ) from error
        raise BadInput(f"{path} is not a TOML file: {error}") from error
    except RecursionError as error:
        raise BadInput(f"{path} nests its values too deep: settings are two levels deep") from error
    raw = _overridden(raw, overrides or {})
    given = filled(raw)
    try:
        pipeline = Pipeline.model_validate(_first_and_others(given, path))
    except ValidationError as error:
        raise BadInput(f"{path}: {'; '.join(map(_fault, error.errors()))}") from error
    pipeline.remember_as_written(given, raw)
    pipeline.remember_place(path.parent.resolve())
    if pipeline.alarm.webhook:
        hide(pipeline.alarm.webhook, pipeline.shown["alarm"]["webhook"])
    return _resolved(pipeline, path.parent.resolve())


def _overridden(raw: dict[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a file with other settings; those of `network` go to the first network."""
    tables = dict(raw)
    for name, value in overrides.items():
        before = tables.get(name, {})
        if isinstance(value, dict) and isinstance(before, list):
            tables[name] = [{**one, **value} if not at else one for at, one in enumerate(before)]
        else:
            tables[name] = {**before, **value} if isinstance(value, dict) else value
    return tables


def _first_and_others(tables: dict[str, Any], path: Path) -> dict[str, Any]:
    """Tables with the first `[[network]]` as the network, and the others beside it.

    Raises:
        BadInput: a list without a network.
    """
    networks = tables.get("network")
    if SEVERAL in tables:
        raise BadInput(f"{path}: {SEVERAL}: no such setting")
    if not isinstance(networks, list):
        return tables
    if not networks:
        raise BadInput(f"{path}: network = []: one [network] or more [[network]] must be given")
    return {**tables, "network": networks[0], SEVERAL: networks[1:]}


def checked_transform(**values: Any) -> TransformSettings:
    """A transform of the command line's values, checked as that of a settings file is.

    Raises:
        BadInput: a value out of its range, or values that do not go together.
    """
    try:
        return TransformSettings(**values)
    except ValidationError as error:
        raise BadInput("; ".join(map(_fault, error.errors()))) from error


def _fault(error: Any) -> str:
    if error["loc"] == (SEVERAL,):
        # The message names the networks.
        return masked(str(error["msg"]).removeprefix("Value error, "))
    place = ".".join(_place_in_file(error["loc"]))
    if error["type"] == "extra_forbidden":
        close = get_close_matches(str(error["loc"][-1]), _names_beside(error["loc"]), 1)
        return f"{place}: no such setting{f'; did you mean {close[0]}?' if close else ''}"
    if error["type"] == "missing":
        if isinstance(error["loc"][-1], int):
            place = ".".join(_place_in_file(error["loc"][:-1]))
            return f"{place} = {error['input']!r}: must have more values"
        return f"{place}: must be given"
    reason = error["msg"].removeprefix("Value error, ").replace("Input should", "must")
    reason = _IN_WORDS.get(error["type"], reason)
    given = error["input"]
    # A whole section is not repeated: its message names the value.
    if not place:
        # Of options of the command line: the message names them.
        return masked(reason)
    fault = f"{place}: {reason}" if isinstance(given, dict) else f"{place} = {given!r}: {reason}"
    return masked(fault)


_IN_WORDS = {
    "model_type": "must be a table of settings",
    "dict_type": "must be a table of settings",
    "tuple_type": "must be a list",
}
"""What pydantic says in its own words."""


def _names_beside(loc: tuple[Any, ...]) -> list[str]:
    """Names of the settings that stand where one that does not exist was given."""
    model: Any = Pipeline
    for part in loc[:-1]:
        if isinstance(part, int) or part == SEVERAL:
            model = NetworkSettings
            continue
        field = model.model_fields.get(part)
        kinds = [] if field is None else [field.annotation, *get_args(field.annotation)]
        inner = [kind for kind in kinds if hasattr(kind, "model_fields")]
        if not inner:
            return []
        model = inner[0]
    return list(model.model_fields)


def _place_in_file(loc: tuple[Any, ...]) -> list[str]:
    """Names down to a setting; of several networks their number, from 1."""
    if len(loc) > 1 and loc[0] == SEVERAL:
        return [f"network {loc[1] + 2}", *map(str, loc[2:])]
    return [str(part) for part in loc]


def _resolved(pipeline: Pipeline, base: Path) -> Pipeline:
    images = pipeline.images.model_copy(update={"source": _near(pipeline.images.source, base)})
    network, *others = (_beside(one, base) for one in pipeline.networks)
    store = pipeline.output.store
    if store is not None and "://" not in store:
        store = str(base / expanded(store))
    mirror = pipeline.output.mirror
    if mirror is not None and "://" not in mirror:
        mirror = str(base / expanded(mirror))
        own, copy = (base / expanded(pipeline.output.folder)).resolve(), Path(mirror).resolve()
        parts = [own / name for name in MIRRORED]
        parts += [Path(store).resolve() if store and "://" not in store else own / "store"]
        if copy == own or any(copy.is_relative_to(part) for part in parts):
            raise BadInput(
                f"output.mirror = {pipeline.output.mirror!r}: this is the store, or what is copied "
                "there: name another place"
            )
    place = {"folder": base / expanded(pipeline.output.folder), "store": store, "mirror": mirror}
    for name in ("folder", "store"):
        if place[name] is not None and _is_source(str(place[name]), images.source, base):
            raise BadInput(
                f"output.{name} = {str(getattr(pipeline.output, name))!r} is images.source = "
                f"{pipeline.images.source!r}, so pictures of a run would be images of the next "
                "one: name a place beside it, or a folder in it"
            )
    output = pipeline.output.model_copy(update=place)
    human = pipeline.analyse.human
    analyse = pipeline.analyse.model_copy(
        update={} if human is None else {"human": str(base / expanded(human))}
    )
    resolved = {
        "images": images, "network": network, "others": tuple(others), "analyse": analyse,
        "output": output,
    }  # fmt: skip
    return pipeline.model_copy(update=resolved)


def _beside(network: NetworkSettings, base: Path) -> NetworkSettings:
    file, colon, factory = network.name.rpartition(":")
    name = _near(file, base) + colon + factory if file.endswith(".py") else network.name
    return network.model_copy(update={"name": name, "weights": _near(network.weights, base)})


def _is_source(place: str, source: str, base: Path) -> bool:
    """Whether a folder or URL is that of the images; what lies in it is told from images."""
    if "://" in place or "://" in source:
        return place.rstrip("/") == source.rstrip("/")
    return (base / expanded(place)).resolve() == (base / expanded(source)).resolve()


def _near(name: str, base: Path) -> str:
    """A path beside the settings file if there is one of that name; else the name itself."""
    if not name or "://" in name:
        return name
    beside = base / expanded(name)
    return str(beside) if beside.exists() else name
