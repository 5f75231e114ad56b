"""The page at `/`: what stands in `static/`, as documents.

What it shows are texts of strangers: it puts them in as text, and its policy sees to it that nothing else
would come of them. Its scripts use the API as any other client does. Whether there are accounts it is told in
the document: asked without a token, the API answers with errors, of which a browser complains.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable

from pulsar_relay.web.documents import HTML, Document

INDEX = "index.html"
_WITHOUT_ACCOUNTS = b'<meta name="accounts" content="off">'
_WITH_ACCOUNTS = b'<meta name="accounts" content="on">'
_MEDIA_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8"}

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    "require-trusted-types-for 'script'; trusted-types 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
"""Its own scripts and style, requests to its own relay (`'self'` covers the WebSocket), and an icon that is
empty. Where a browser knows trusted types, no script can make markup of a text, not even by mistake."""


def page(*, has_accounts: bool) -> Document:
    text = (_static() / INDEX).read_bytes()
    if has_accounts:
        text = text.replace(_WITHOUT_ACCOUNTS, _WITH_ACCOUNTS)
    return Document(text, HTML, POLICY)


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
