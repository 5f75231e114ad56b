"""Visits: requests of browsers and devices about signing in, as their endpoints see them, and the handlers
between Tornado and those. There are few of them, so none needs the short way that messages have.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence

import msgspec

from actors.ports import StoreError
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.web.endpoint import Answer
from pulsar_relay.web.form import is_form, read_form
from pulsar_relay.web.handler import ApiHandler


class Visit(msgspec.Struct, frozen=True):
    """`argument` is what the path leaves open. Of a parameter that comes several times the last counts. An
    empty field is none, and so not in `form`; forms come as `x-www-form-urlencoded` or `form-data`.

    `address` is the client's, `base` the relay's as the client calls it: a scheme and a host. `fetch_site` is
    where a browser says that the request was made: `same-origin`, or anything else.
    """

    argument: str
    query: Mapping[str, str]
    form: Mapping[str, str]
    address: str
    base: str
    cookies: Mapping[str, str] = {}
    fetch_site: str | None = None
    user_agent: str = ""
    wants_html: bool = False

    def field(self, name: str) -> str:
        """RelayError `invalid_request` if the form has none of this name."""
        if name not in self.form:
            raise RelayError("invalid_request", errors=[FieldError(("body", name), "is missing", "missing")])
        return self.form[name]

    def refuse_other_sites(self) -> None:
        """RelayError `cross_site` for a form that a page of another site has sent."""
        if self.fetch_site not in (None, "same-origin", "none"):
            raise RelayError("cross_site")


VisitEndpoint = Callable[[Visit], Awaitable[Answer]]
"""May raise RelayError and StoreError."""


def _last(arguments: Mapping[str, Sequence[bytes]]) -> Mapping[str, str]:
    return {name: values[-1].decode("utf-8", "replace") for name, values in arguments.items() if values}


def _cookies(header: str) -> Mapping[str, str]:
    found: dict[str, str] = {}
    for part in header.split(";"):
        name, equals, value = part.strip().partition("=")
        if equals:
            found.setdefault(name, value)
    return found


class VisitHandler(ApiHandler):
    """`base_url` is the relay's address, if it is known; else it is what the request says, by its `Host`."""

    is_public = True

    def initialize(self, endpoint: VisitEndpoint, base_url: str | None) -> None:
        self.endpoint = endpoint
        self.base_url = base_url

    async def _respond(self, argument: str) -> None:
        try:
            answer = await self.endpoint(self._visit(argument))
        except StoreError as error:
            raise RelayError(error.code) from error
        for name, value in answer.headers.items():
            self.set_header(name, value)
        self.answer(answer.body, answer.status)

    def _visit(self, argument: str) -> Visit:
        asked, headers, client = self.request, self.request.headers, self.client_address
        scheme = asked.protocol
        if client != asked.remote_ip:
            # Whom a trusted proxy speaks for, it also tells how that came.
            forwarded = headers.get("X-Forwarded-Proto", scheme).strip().lower()
            scheme = forwarded if forwarded in ("http", "https") else scheme
        return Visit(
            argument,
            _last(asked.query_arguments),
            self._form(),
            client,
            self.base_url or f"{scheme}://{asked.host}",
            _cookies(headers.get("Cookie", "")),
            headers.get("Sec-Fetch-Site"),
            headers.get("User-Agent", ""),
            "text/html" in headers.get("Accept", ""),
        )

    def _form(self) -> Mapping[str, str]:
        content_type = self.request.headers.get("Content-Type")
        # Today's devices may leave the form out, and what else they then send is not looked at.
        return read_form(self.body(), content_type) if is_form(content_type) else {}


class GetVisitHandler(VisitHandler):
    async def get(self, argument: str = "") -> None:
        await self._respond(argument)


class PostVisitHandler(VisitHandler):
    async def post(self, argument: str = "") -> None:
        await self._respond(argument)
