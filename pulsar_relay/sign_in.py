"""Signing in with a browser, put together for one worker: devices, and people whom OpenID providers know."""

from __future__ import annotations

from pulsar_relay.accounts.accounts import Accounts
from pulsar_relay.accounts.tickets import Tickets
from pulsar_relay.device.device_codes import DeviceCodes
from pulsar_relay.device.device_flow import DeviceFlow, Question
from pulsar_relay.limits.limiter import Limiter
from pulsar_relay.oidc.federated_users import FederatedUsers
from pulsar_relay.oidc.provider import Provider
from pulsar_relay.oidc.provider_calls import ProviderCalls
from pulsar_relay.oidc.relying_party import RelyingParty, SignIn
from pulsar_relay.settings import Settings
from pulsar_relay.store.client import Client


class BrowserSignIn:
    """To be made in a running loop, and closed."""

    def __init__(self, client: Client, accounts: Accounts, limiter: Limiter, settings: Settings) -> None:
        oidc = settings.oidc
        self.accounts = accounts
        self.limiter = limiter
        self.base_url = oidc.base_url
        self._calls = ProviderCalls()
        questions = Tickets(client, "approval", Question, settings.device.code_ttl_seconds)
        self.flow = DeviceFlow(accounts, DeviceCodes(client, settings.device), questions)
        providers = (oidc.providers or ()) if oidc.enabled else ()
        self.relying_party = RelyingParty(
            [Provider(one, self._calls) for one in providers],
            Tickets(client, "sign-in", SignIn, oidc.state_ttl_seconds),
        )
        self.federated = FederatedUsers(accounts.users, oidc.default_permissions or ())

    def close(self) -> None:
        self._calls.close()
