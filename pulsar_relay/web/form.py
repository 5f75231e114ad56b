"""Forms: what OAuth clients, devices and the relay's own pages send instead of JSON."""

from __future__ import annotations

from collections.abc import Mapping

from tornado.httputil import HTTPFile, HTTPInputError, parse_body_arguments

from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.requests import media_type

URL_ENCODED = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
MAX_BYTES = 64 * 1024


def is_form(content_type: str | None) -> bool:
    return media_type(content_type) in (URL_ENCODED, MULTIPART)


def read_form(body: bytes, content_type: str | None) -> Mapping[str, str]:
    """The fields by name. An empty one is absent; of one that is given more than once the last counts.

    RelayError `unsupported_media_type` for what is announced as something else, `body_too_large`, and
    `invalid_request` for what cannot be read: files are part of what cannot.
    """
    if not is_form(content_type):
        wrong = FieldError(("body",), f"must be sent as `Content-Type: {URL_ENCODED}`", "content_type")
        raise RelayError("unsupported_media_type", errors=[wrong])
    if len(body) > MAX_BYTES:
        raise RelayError("body_too_large")
    _, semicolon, parameters = (content_type or "").partition(";")
    fields: dict[str, list[bytes]] = {}
    files: dict[str, list[HTTPFile]] = {}
    try:
        # Types are the same in capitals, which Tornado does not know.
        parse_body_arguments(media_type(content_type) + semicolon + parameters, body, fields, files)
        found = {name: values[-1].decode("utf-8") for name, values in fields.items()}
    except (HTTPInputError, UnicodeDecodeError):
        raise _refused("must be a form, in UTF-8") from None
    if files:
        raise _refused("must be a form without files")
    return {name: value for name, value in found.items() if value}


def _refused(message: str) -> RelayError:
    return RelayError("invalid_request", errors=[FieldError(("body",), message)])
