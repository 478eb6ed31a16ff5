"""The reference of the API as one page of this server: no other host is asked for anything."""

from collections.abc import Iterator, Mapping
from html import escape
from typing import Any


def reference_page(description: Mapping[str, Any]) -> str:
    """A page of HTML.

    Args:
        description: of the API, in OpenAPI.
    """
    parts = [
        _operation(path, method, operation)
        for path, methods in description["paths"].items()
        for method, operation in methods.items()
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<title>Alike: the API</title><link rel="stylesheet" href="../../static/reference.css">'
        "</head><body><main><h1>The API of this server</h1>"
        '<p>Every answer is JSON, an image, or for an error <code>{"error": "…"}</code>. '
        'The same in <a href="openapi.json">OpenAPI</a>. '
        '<a href="../../">The page</a>.</p>'
        + "".join(parts)
        + _schemas(description)
        + "</main></body></html>"
    )


def _operation(path: str, method: str, operation: Mapping[str, Any]) -> str:
    title = f"<code>{method.upper()} {escape(path)}</code>"
    lines = "".join(_parameters(operation.get("parameters", [])))
    table = f"<table><tr><th>name</th><th>in</th><th>type</th></tr>{lines}</table>" if lines else ""
    answer = operation["responses"].get("200", {}).get("content", {})
    kinds = ", ".join(f"{kind}: {_type(one.get('schema', {}))}" for kind, one in answer.items())
    body = operation.get("requestBody", {}).get("content", {})
    sent = ", ".join(f"{kind}: {_type(one.get('schema', {}))}" for kind, one in body.items())
    return (
        f"<section><h2>{title}</h2><p>{escape(operation.get('description', ''))}</p>{table}"
        + (f"<p>Body: {sent}</p>" if sent else "")
        + (f"<p>Answer: {kinds}</p>" if kinds else "")
        + "</section>"
    )


def _parameters(parameters: list[Mapping[str, Any]]) -> Iterator[str]:
    for one in parameters:
        schema = one["schema"]
        yield (
            f"<tr><td><code>{escape(one['name'])}</code></td><td>{escape(one['in'])}</td>"
            f"<td>{_type(schema)}</td></tr>"
        )


def _schemas(description: Mapping[str, Any]) -> str:
    parts = []
    for name, schema in description.get("components", {}).get("schemas", {}).items():
        about = escape(schema.get("description", ""))
        parts.append(
            f'<section id="{escape(name)}"><h2>{escape(name)}</h2><pre>{about}</pre></section>'
        )
    return "<h1>Types</h1>" + "".join(parts)


def _type(schema: Mapping[str, Any]) -> str:
    """A type in words, with its bounds and its default."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        words = " or ".join(_type(one) for one in schema["anyOf"])
    elif "enum" in schema:
        words = " or ".join(f"<code>{escape(str(one))}</code>" for one in schema["enum"])
    elif schema.get("type") == "array":
        words = f"list of {_type(schema.get('items', {}))}"
    else:
        words = escape(str(schema.get("type", "anything")))
    bounds = [
        f"{word} {escape(str(schema[name]))}"
        for name, word in (("minimum", "from"), ("maximum", "to"), ("pattern", "like"))
        if name in schema
    ]
    default = [f"default {escape(str(schema['default']))}"] if schema.get("default") else []
    return ", ".join([words, *bounds, *default])
