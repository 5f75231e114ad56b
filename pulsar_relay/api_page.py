"""The API document as one page for people: plain HTML with its style inside, no script, nothing to fetch."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --faint: #8881; --dim: #66666b; --link: #0b62c4; }
@media (prefers-color-scheme: dark) { :root { --dim: #a0a0a6; --link: #7db4ff; } }
body { font: 16px/1.55 system-ui, sans-serif; max-width: 60rem; margin: 0 auto; padding: 1.5rem; }
h1 { margin-bottom: 0; } h3 { margin-bottom: .2rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
a { color: var(--link); text-decoration: none; } a:hover { text-decoration: underline; }
code, pre { font-family: ui-monospace, monospace; font-size: .88em; }
code, pre { background: var(--faint); border-radius: 4px; }
code { padding: .1em .3em; } pre { padding: .7em 1em; overflow-x: auto; }
nav ul { list-style: none; padding: 0; columns: 2; } nav li { break-inside: avoid; padding: .1rem 0; }
article, details { border: 1px solid var(--line); border-radius: 8px; padding: .2rem 1rem; margin: 1rem 0; }
summary { cursor: pointer; padding: .4rem 0; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1rem; }
th, td { text-align: left; vertical-align: top; padding: .35rem .8rem .35rem 0; }
td { border-top: 1px solid var(--line); }
.dim { color: var(--dim); } .method { display: inline-block; min-width: 3.6rem; font-weight: 700; }
@media (max-width: 40rem) { nav ul { columns: 1; } }
"""

PAGE_POLICY = (
    "default-src 'none'; "
    f"style-src 'sha256-{base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""The page's Content-Security-Policy: its own style, and nothing else at all."""

_CODE = re.compile(r"`([^`]*)`")

Json = Mapping[str, Any]


def page(document: Json) -> bytes:
    """The whole page, as UTF-8."""
    info, schemas = document["info"], document["components"]["schemas"]
    body = [
        f"<h1>{escape(info['title'])}</h1>",
        f'<p class="dim">Version {escape(info["version"])} · <a href="/openapi.json">openapi.json</a></p>',
        _paragraph(info["description"]),
        _contents(document),
        *(_tag(document, tag) for tag in document["tags"]),
        '<h2 id="schemas">Schemas</h2>',
        *(_schema(name, schemas) for name in schemas),
        '<h2 id="errors">Errors</h2>',
        _errors(document["components"]["examples"]),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(info['title'])} API</title><style>{_STYLE}</style></head>\n"
        f"<body>{chr(10).join(body)}</body></html>\n"
    ).encode()


def _operations(document: Json, tag: str) -> Iterable[tuple[str, str, Json]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield path, method.upper(), operation


def _contents(document: Json) -> str:
    parts = ["<nav>"]
    for tag in document["tags"]:
        parts.append(f'<h3><a href="#{escape(tag["name"])}">{escape(tag["name"].capitalize())}</a></h3><ul>')
        for path, method, operation in _operations(document, tag["name"]):
            link = f'<a href="#{escape(operation["operationId"])}">{escape(path)}</a>'
            parts.append(f'<li><span class="method">{method}</span> {link}</li>')
        parts.append("</ul>")
    parts.append('<h3><a href="#schemas">Schemas</a></h3><h3><a href="#errors">Errors</a></h3></nav>')
    return "".join(parts)


def _tag(document: Json, tag: Json) -> str:
    heading = f'<h2 id="{escape(tag["name"])}">{escape(tag["name"].capitalize())}</h2>'
    operations = [_operation(*operation) for operation in _operations(document, tag["name"])]
    return "\n".join([heading, _paragraph(tag["description"]), *operations])


def _operation(path: str, method: str, operation: Json) -> str:
    parts = [
        f'<article id="{escape(operation["operationId"])}">',
        f'<h3><span class="method">{method}</span> <code>{escape(path)}</code></h3>',
        f"<p><strong>{escape(operation['summary'])}.</strong> {_text(operation['description'])}</p>",
    ]
    parameters = [
        (place["name"], place["required"], place["schema"], f"In the {place['in']}. {place['description']}")
        for place in operation.get("parameters", ())
    ]
    if parameters:
        parts += ["<h4>Parameters</h4>", _fields(parameters)]
    if "requestBody" in operation:
        media_type, content = next(iter(operation["requestBody"]["content"].items()))
        described = f"{_kind(content['schema'])}, as <code>{escape(media_type)}</code>."
        parts += ["<h4>Body</h4>", f"<p>{described}</p>"]
    parts += ["<h4>Answers</h4>", _answers(operation["responses"])]
    for side, title in (("client", "Frames the client sends"), ("server", "Frames the relay sends")):
        if side in operation.get("x-frames", {}):
            links = ", ".join(_kind(frame) for frame in operation["x-frames"][side])
            parts += [f"<h4>{title}</h4>", f"<p>{links}</p>"]
    return "\n".join([*parts, "</article>"])


def _answers(responses: Json) -> str:
    rows = []
    for status, response in responses.items():
        kinds, codes = [], []
        for media_type, content in response.get("content", {}).items():
            schema = content.get("schema")
            kinds.append(_kind(schema) if schema else f"<code>{escape(media_type)}</code>")
            codes += [_error_link(code) for code in content.get("examples", ())]
        text = " ".join([_text(response["description"]), *([", ".join(codes)] if codes else [])])
        rows.append(
            f"<tr><td><strong>{escape(status)}</strong></td><td>{text}</td><td>{', '.join(kinds)}</td></tr>"
        )
    return _table(("Status", "When", "Body"), rows)


def _error_link(code: str) -> str:
    return f'<a href="#error-{escape(code)}"><code>{escape(code)}</code></a>'


def _schema(name: str, schemas: Json) -> str:
    schema = schemas[name]
    required = schema.get("required", ())
    fields = [
        (field, field in required, described, described.get("description", ""))
        for field, described in schema.get("properties", {}).items()
    ]
    example = json.dumps(_example(schema, schemas), indent=2)
    return "\n".join(
        [
            f'<details id="{escape(name)}" open><summary><strong>{escape(name)}</strong></summary>',
            _paragraph(schema.get("description", "")),
            _fields(fields),
            f"<pre>{escape(example)}</pre></details>",
        ]
    )


def _fields(fields: Iterable[tuple[str, bool, Json, str]]) -> str:
    rows = []
    for name, is_required, schema, description in fields:
        need = "required" if is_required else "optional"
        if schema.get("default") is not None:
            need += f", else <code>{escape(json.dumps(schema['default']))}</code>"
        kind = f'{_kind(schema)}<br><span class="dim">{need}</span>'
        rows.append(
            f"<tr><td><code>{escape(name)}</code></td><td>{kind}</td><td>{_text(description)}</td></tr>"
        )
    return _table(("Name", "Kind", "Meaning"), rows) if rows else ""


def _errors(examples: Json) -> str:
    rows = []
    for code, example in examples.items():
        again = "yes" if example["value"]["retry"] else "no"
        cells = f"<td><code>{escape(code)}</code></td><td>{_text(example['summary'])}</td><td>{again}</td>"
        rows.append(f'<tr id="error-{escape(code)}">{cells}</tr>')
    return _table(("Code", "Meaning", "Try again"), rows)


def _table(headings: Iterable[str], rows: Iterable[str]) -> str:
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'
    )


def _kind(schema: Json) -> str:
    """A schema in a few words, linked if it has a name."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return " or ".join(_kind(one) for one in schema[several])
    types = schema.get("type", "any value")
    names = [types] if isinstance(types, str) else list(types)
    if names[0] == "array":
        names[0] = f"list of {_kind(schema.get('items', {}))}"
    elif names[0] == "object" and "additionalProperties" in schema:
        values = schema["additionalProperties"]
        names[0] = f"object of {_kind(values)}" if isinstance(values, Mapping) else "object"
    if "enum" in schema:
        names[0] = " or ".join(f"<code>{escape(json.dumps(word))}</code>" for word in schema["enum"])
    return " or ".join(names)


def _example(schema: Json, schemas: Json) -> Any:
    """A value as the schema describes it, put together from the examples of its fields."""
    if "$ref" in schema:
        return _example(schemas[schema["$ref"].rpartition("/")[2]], schemas)
    if "example" in schema:
        return schema["example"]
    if "properties" in schema:
        return {name: _example(field, schemas) for name, field in schema["properties"].items()}
    if "items" in schema:
        return [_example(schema["items"], schemas)]
    if "enum" in schema:
        return schema["enum"][0]
    return {"object": {}, "string": "", "boolean": False, "integer": 0, "number": 0}.get(
        str(schema.get("type"))
    )


def _paragraph(text: str) -> str:
    return f"<p>{_text(text)}</p>" if text else ""


def _text(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", escape(text))
