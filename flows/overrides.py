"""Settings that a run may have otherwise than its file: the schema of a flow's parameters.

Every section of `pipeline.toml` is there with every setting, and none is required. A server shows
them as a form, and refuses what does not fit; what is given is checked again with the whole file.
"""

import ast
import inspect
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from alike.flows import sections
from alike.flows.sections import Pipeline

OTHERS = "others"
"""The field with the second and further networks: a file names all by `[[network]]`."""


def _descriptions() -> dict[str, dict[str, str]]:
    """Class to setting to the text that stands under it in the source."""
    texts: dict[str, dict[str, str]] = {}
    for part in ast.parse(inspect.getsource(sections)).body:
        if isinstance(part, ast.ClassDef):
            pairs = zip(part.body, part.body[1:], strict=False)
            texts[part.name] = {
                ast.unparse(field.target): " ".join(text.value.value.split())
                for field, text in pairs
                if isinstance(field, ast.AnnAssign)
                and isinstance(text, ast.Expr)
                and isinstance(text.value, ast.Constant)
                and isinstance(text.value.value, str)
            }
    return texts


class _Partial(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _without_required(section: type[BaseModel], texts: dict[str, dict[str, str]]) -> Any:
    """A section none of whose settings must be given."""
    fields: dict[str, Any] = {}
    own = texts.get(section.__name__, {})
    for name, field in section.model_fields.items():
        if name == OTHERS:
            continue
        kind = _section_in(field.annotation)
        given = _without_required(kind, texts) if kind else Any
        text = own.get(name, "") if not kind else inspect.getdoc(kind) or ""
        extra = None if kind else _schema_of(section, name)
        fields[name] = (
            _given(section, name, given) if kind else Any,
            Field(default=None, description=text or None, json_schema_extra=extra),
        )
    return create_model(section.__name__, __base__=_Partial, __doc__=section.__doc__, **fields)


def _given(section: type[BaseModel], name: str, one: Any) -> Any:
    """A section, or where a file may have several of it, all of them in a list."""
    several = name == "network" and OTHERS in section.model_fields
    return one | list[one] | None if several else one | None


def _section_in(annotation: Any) -> type[BaseModel] | None:
    """The section that a field holds, also if it may be absent."""
    for kind in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def _schema_of(section: type[BaseModel], name: str) -> dict[str, Any]:
    """JSON schema of one setting, as its section has it.

    Its default is left out: what is not given is what the file says.
    """
    schema = section.model_json_schema()["properties"][name]
    return {key: value for key, value in schema.items() if key not in ("default", "title")}


Overrides: Any = _without_required(Pipeline, _descriptions())
"""Sections and their settings, all of which may be left out."""


def given_settings(overrides: BaseModel) -> dict[str, Any]:
    """What was given, as the tables of a settings file."""
    given: dict[str, Any] = overrides.model_dump(mode="json", exclude_none=True)
    return {name: part for name, part in given.items() if part not in ({}, [])}
