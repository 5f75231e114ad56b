"""The pages on which people sign in and let devices in: templates, filled and made answers.

They work without a script, so their policy allows none. What devices and providers say of themselves goes in
as text: the templates escape what is put into them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from importlib.resources import files

from tornado.template import DictLoader

from actors.ports import StoreError
from pulsar_relay.device.device_codes import PendingDevice
from pulsar_relay.errors import RelayError
from pulsar_relay.web.documents import HTML
from pulsar_relay.web.endpoint import Answer
from pulsar_relay.web.visit import Visit, VisitEndpoint

POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Type": HTML,
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The user code is in the address.
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


class SignInPages:
    """`providers` are names and what they are called."""

    def __init__(self, providers: Sequence[tuple[str, str]]) -> None:
        folder = files("pulsar_relay.web") / "templates"
        texts = {
            file.name: file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".html")
        }
        self._templates = DictLoader(texts)
        self._providers = providers

    def enter(self, error: str = "", *, status: int = 200) -> Answer:
        """Which device? The code is typed here."""
        return self._page("enter.html", status, title="Let a device in", error=error)

    def sign_in(
        self, device: PendingDevice, error: str = "", *, username: str = "", status: int = 200
    ) -> Answer:
        """Who are you? One of the providers says so, or a password."""
        return self._page(
            "sign_in.html",
            status,
            title="Sign in",
            device=device,
            providers=self._providers,
            error=error,
            username=username,
        )

    def confirm(self, device: PendingDevice, username: str, ticket: str) -> Answer:
        """Shall it be let in?"""
        return self._page(
            "confirm.html", 200, title="Let this device in?", device=device, username=username, ticket=ticket
        )

    def told(self, title: str, text: str, *, status: int = 200) -> Answer:
        """What has come of it."""
        return self._page("told.html", status, title=title, text=text)

    def refused(self, error: RelayError) -> Answer:
        status = error.kind.status or 500
        answer = self.told(HTTPStatus(status).phrase, error.message, status=status)
        headers = dict(error.headers)
        if error.kind.retry_after_seconds is not None:
            headers.setdefault("Retry-After", str(error.kind.retry_after_seconds))
        return with_headers(answer, headers)

    def as_page(
        self, endpoint: VisitEndpoint, applies: Callable[[Visit], bool] = lambda visit: True
    ) -> VisitEndpoint:
        """The endpoint, whose refusals are pages where that applies."""

        async def answered(visit: Visit) -> Answer:
            try:
                return await endpoint(visit)
            except (RelayError, StoreError) as error:
                if not applies(visit):
                    raise
                return self.refused(error if isinstance(error, RelayError) else RelayError(error.code))

        return answered

    def _page(self, name: str, status: int, **values: object) -> Answer:
        return Answer(status, self._templates.load(name).generate(**values), _HEADERS)


def with_headers(answer: Answer, headers: Mapping[str, str]) -> Answer:
    return Answer(answer.status, answer.body, {**answer.headers, **headers})
