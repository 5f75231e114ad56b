"""The device page: somebody with a browser types a user code, signs in, and decides about the device."""

from __future__ import annotations

from collections.abc import Mapping

from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.device.device_flow import DeviceFlow
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.limits.limiter import Limiter, address
from pulsar_relay.web.browser_cookie import browser, known_browser
from pulsar_relay.web.endpoint import Answer
from pulsar_relay.web.password_login import PasswordLogin
from pulsar_relay.web.sign_in_pages import SignInPages, with_headers
from pulsar_relay.web.visit import Visit

_UNKNOWN = "No device waits with this code. It may have been mistyped, or have expired."


class DevicePage:
    def __init__(self, accounts: Accounts, flow: DeviceFlow, pages: SignInPages, limiter: Limiter) -> None:
        self._passwords = PasswordLogin(accounts, limiter)
        self._flow = flow
        self._pages = pages
        self._limiter = limiter

    async def show(self, visit: Visit) -> Answer:
        """GET /auth/device"""
        headers = await self._admit(visit)
        typed = visit.query.get("user_code", "")
        if not typed:
            return with_headers(self._pages.enter(), headers)
        device = await self._flow.codes.find(typed)
        if device is None:
            return with_headers(self._pages.enter(_UNKNOWN, status=404), headers)
        _, cookie = known_browser(visit)
        return with_headers(self._pages.sign_in(device), {**headers, **cookie})

    async def sign_in(self, visit: Visit) -> Answer:
        """POST /auth/device/sign-in: with a password, as at `/auth/login`."""
        visit.refuse_other_sites()
        known = browser(visit)
        if known is None:
            raise RelayError("cross_site")
        headers = await self._admit(visit)
        device = await self._flow.codes.find(visit.field("user_code"))
        if device is None:
            return with_headers(self._pages.enter(_UNKNOWN, status=404), headers)
        username, password = visit.form.get("username", ""), visit.form.get("password", "")
        if not username or not password:
            text = "Type a name and a password, or choose one of the providers."
            return self._pages.sign_in(device, text, username=username, status=422)
        try:
            user, _ = await self._passwords.check(username, password, visit.address)
        except RelayError as error:
            status = error.kind.status or 500
            page = self._pages.sign_in(device, error.message, username=username, status=status)
            return with_headers(page, error.headers)
        ticket = await self._flow.ask(user, device, known)
        return with_headers(self._pages.confirm(device, user.username, ticket), headers)

    async def decide(self, visit: Visit) -> Answer:
        """POST /auth/device/decision"""
        visit.refuse_other_sites()
        ticket, decision = visit.field("ticket"), visit.field("decision")
        if decision not in ("approve", "deny"):
            wrong = FieldError(("body", "decision"), "must be approve or deny")
            raise RelayError("invalid_request", errors=[wrong])
        headers = await self._admit(visit)
        approves = decision == "approve"
        await self._flow.decide(ticket, browser(visit), visit.address, approves=approves)
        if approves:
            page = self._pages.told("The device is let in", "It goes on by itself. You can close this page.")
        else:
            page = self._pages.told("The device is refused", "It is told so. You can close this page.")
        return with_headers(page, headers)

    async def _admit(self, visit: Visit) -> Mapping[str, str]:
        """Whoever guesses at user codes has to come by here."""
        verdict = await self._limiter.admit("device_page", address(visit.address))
        return {} if verdict is None else verdict.headers
