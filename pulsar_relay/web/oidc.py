"""Signing in at an OpenID provider: what there is to choose from, the way there, and the way back."""

from __future__ import annotations

import msgspec

from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.audit import Actor, AuditRecord, Deed, Kind
from pulsar_relay.accounts.user import User
from pulsar_relay.device.device_codes import PendingDevice
from pulsar_relay.device.device_flow import DeviceFlow
from pulsar_relay.errors import RelayError
from pulsar_relay.limits.limiter import Limiter, address
from pulsar_relay.oidc.federated_users import FederatedUsers
from pulsar_relay.oidc.relying_party import RelyingParty, SignIn
from pulsar_relay.web.browser_cookie import browser, known_browser
from pulsar_relay.web.endpoint import Answer
from pulsar_relay.web.sign_in_pages import SignInPages
from pulsar_relay.web.visit import Visit

PATH = "/auth/oidc"
SHOWN = 200
"""Characters shown of what a provider says of an error."""


class OidcEndpoints:
    def __init__(
        self,
        accounts: Accounts,
        flow: DeviceFlow,
        relying_party: RelyingParty,
        federated: FederatedUsers,
        pages: SignInPages,
        limiter: Limiter,
    ) -> None:
        self._accounts = accounts
        self._flow = flow
        self._relying_party = relying_party
        self._federated = federated
        self._pages = pages
        self._limiter = limiter

    async def providers(self, visit: Visit) -> Answer:
        """GET /auth/oidc/providers"""
        told = [
            {
                "name": name,
                "display_name": provider.settings.display_name,
                "login_url": f"{visit.base}{PATH}/{name}/login",
            }
            for name, provider in self._relying_party.providers.items()
        ]
        return Answer(200, msgspec.json.encode(told))

    async def login(self, visit: Visit) -> Answer:
        """GET /auth/oidc/{provider}/login"""
        name = visit.argument
        self._relying_party.provider(name)
        await self._limiter.admit("device_page", address(visit.address))
        known, cookie = known_browser(visit)
        redirect_uri = f"{visit.base}{PATH}/{name}/callback"
        user_code = visit.query.get("device_user_code") or None
        url = await self._relying_party.begin(name, redirect_uri, known, user_code)
        return Answer(302, b"", {"Location": url, "Referrer-Policy": "no-referrer", **cookie})

    async def callback(self, visit: Visit) -> Answer:
        """GET /auth/oidc/{provider}/callback"""
        name, query = visit.argument, visit.query
        self._relying_party.provider(name)
        state, code = query.get("state", ""), query.get("code", "")
        if "error" in query:
            await self._relying_party.give_up(state)
            raise _provider_error(visit)
        if not (state and code):
            raise RelayError("bad_request", "A provider sends `code` and `state`.")
        sign_in = await self._relying_party.come_back(name, state, browser(visit))
        device = await self._device(sign_in)
        try:
            person = await self._relying_party.finish(sign_in, code, query.get("iss"))
            user = await self._federated.user_of(person)
        except RelayError as error:
            self._write(None, visit.address, error.code)
            raise
        self._write(user, visit.address)
        if device is not None:
            ticket = await self._flow.ask(user, device, sign_in.browser)
            return self._pages.confirm(device, user.username, ticket)
        access = self._accounts.tokens.issue(user)
        told = {
            "access_token": access.text,
            "token_type": "bearer",
            "expires_in": access.expires_at - access.issued_at,
            "refresh_token": None,
            "refresh_token_secondary": None,
        }
        return Answer(200, msgspec.json.encode(told))

    async def _device(self, sign_in: SignIn) -> PendingDevice | None:
        if sign_in.user_code is None:
            return None
        device = await self._flow.codes.find(sign_in.user_code)
        if device is None:
            raise RelayError("device_gone")
        return device

    def _write(self, user: User | None, client: str, error: str | None = None) -> None:
        user_id = None if user is None else user.user_id
        actor, kind = Actor(user_id=user_id, address=client), None if user is None else Kind.USER
        record = AuditRecord(deed=Deed.SIGN_IN, actor=actor, kind=kind, target=user_id, error=error)
        self._accounts.audit.write(record)


def _provider_error(visit: Visit) -> RelayError:
    told = [visit.query.get("error", ""), visit.query.get("error_description", "")]
    shown = ["".join(one if one.isprintable() else "?" for one in text[:SHOWN]) for text in told if text]
    return RelayError("provider_refused", f"OIDC error: {': '.join(shown)}")
