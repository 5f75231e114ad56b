"""The browser cookie: by which a browser is known again that began to sign in, while it does.

What is begun in one browser and ended in another is an attack: somebody is to sign in for somebody else, or
to let in a device that is not theirs. No page of another site can send this cookie along with a form.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping

from pulsar_relay.web.visit import Visit

VALUE_BYTES = 32
_NAME = "relay-browser"
_VALUE = re.compile(r"[A-Za-z0-9_-]{43}")


def browser(visit: Visit) -> str | None:
    """The digest of the browser's cookie; None if it has none."""
    value = visit.cookies.get(_name(visit), "")
    return _digest(value) if _VALUE.fullmatch(value) else None


def known_browser(visit: Visit) -> tuple[str, Mapping[str, str]]:
    """The same for a browser that may have none yet: then with the header that gives it one."""
    found = browser(visit)
    if found is not None:
        return found, {}
    value = secrets.token_urlsafe(VALUE_BYTES)
    secure = "; Secure" if _is_secure(visit) else ""
    cookie = f"{_name(visit)}={value}; HttpOnly; Path=/; SameSite=Lax{secure}"
    return _digest(value), {"Set-Cookie": cookie}


def _name(visit: Visit) -> str:
    # With this prefix no other host of the domain can have set it.
    return f"__Host-{_NAME}" if _is_secure(visit) else _NAME


def _is_secure(visit: Visit) -> bool:
    return visit.base.startswith("https://")


def _digest(value: str) -> str:
    return hashlib.sha256(value.encode("ascii")).hexdigest()
