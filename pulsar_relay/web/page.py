"""The page at `/`: what stands in `static/`, as documents.

What it shows are texts of strangers: it puts them in as text, and its policy sees to it that nothing else
would come of them. Its scripts use the API as any other client does.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

from pulsar_relay.web.documents import HTML, Document

INDEX = "index.html"
_MEDIA_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "require-trusted-types-for 'script'; trusted-types 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Its own scripts and style, requests to its own relay (`'self'` covers the WebSocket), and an icon that is
empty. Where a browser knows trusted types, no script can make markup of a text, not even by mistake."""


def page() -> Document:
    return Document((_static() / INDEX).read_bytes(), HTML, POLICY)


def page_files() -> Mapping[str, Document]:
    """Scripts and style, by the name they have below `/page/`."""
    found = {}
    for file in sorted(_static().iterdir(), key=lambda file: file.name):
        media_type = _MEDIA_TYPES.get(file.name.rpartition(".")[2])
        if media_type is not None:
            found[file.name] = Document(file.read_bytes(), media_type)
    return found


def _static() -> Traversable:
    return files("pulsar_relay.web") / "static"
