"""Loading: a marshmallow schema applied to JSON texts or to a query, with every refusal a RelayError that
names the fields.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from marshmallow import Schema, ValidationError, fields

from pulsar_relay import json_text
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.fields import takes_text
from pulsar_relay.json_text import Fields, JsonError, NotThisError

Query = Mapping[str, Sequence[bytes]]
"""A query as Tornado has parsed it (`request.query_arguments`)."""

Location = tuple[str | int, ...]
"""Where something stands in a request: `body` or `query`, then names and indexes."""

BODY: Location = ("body",)

_ABSENT = fields.Field.default_error_messages["required"]
_NULL = fields.Field.default_error_messages["null"]
_WORDS = {_ABSENT: ("is missing", "missing"), _NULL: ("must not be null", "null")}


def split_object(known: Fields, text: bytes, loc: Location) -> dict[str, bytes]:
    """The texts of the fields of the object `text`, which stands at `loc`."""
    try:
        return known.split(text)
    except JsonError as error:
        raise refused_text(error, loc) from None
    except NotThisError:
        raise RelayError("invalid_request", errors=[FieldError(loc, "must be an object")]) from None


def load_texts(schema: Schema, texts: Mapping[str, bytes], loc: Location) -> dict[str, Any]:
    """What `schema` makes of fields given as JSON texts, which stand at `loc`."""
    values: dict[str, Any] = {}
    wrong: list[FieldError] = []
    for name, text in texts.items():
        if takes_text(schema.fields[name]):
            values[name] = text
            continue
        try:
            values[name] = json_text.value(text)
        except ValueError as error:
            wrong.append(FieldError((*loc, name), str(error)))
    if wrong:
        raise RelayError("invalid_request", errors=wrong)
    return _load(schema, values, loc)


def load_query(schema: Schema, query: Query) -> dict[str, Any]:
    """What `schema` makes of a query. Of a parameter given more than once the last counts, except that lists
    are joined.
    """
    values: dict[str, str] = {}
    for name, field in schema.fields.items():
        given = query.get(name)
        if not given:
            continue
        raw = b",".join(given) if isinstance(field, fields.List) else given[-1]
        try:
            values[name] = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise RelayError(
                "invalid_request", errors=[FieldError(("query", name), "must be UTF-8")]
            ) from None
    return _load(schema, values, ("query",))


def load_form(schema: Schema, form: Mapping[str, str]) -> dict[str, Any]:
    """What `schema` makes of a form; other fields are left out."""
    return _load(schema, {name: text for name, text in form.items() if name in schema.fields}, BODY)


def refused_text(error: JsonError, loc: Location) -> RelayError:
    return RelayError(error.code, errors=[FieldError(loc, str(error), error.code)])


def _load(schema: Schema, values: Mapping[str, Any], loc: Location) -> dict[str, Any]:
    try:
        found: dict[str, Any] = schema.load(values)
    except ValidationError as error:
        raise RelayError("invalid_request", errors=_field_errors(error.messages, loc)) from None
    return found


def _field_errors(messages: Any, loc: Location) -> Iterator[FieldError]:
    """marshmallow's nested messages as a flat list."""
    if isinstance(messages, Mapping):
        for name, inner in messages.items():
            yield from _field_errors(inner, (*loc, name))
    else:
        for text in messages:
            yield FieldError(loc, *_WORDS.get(text, (text, "value_error")))
