"""The addresses of signing in with a browser."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pulsar_relay.sign_in import BrowserSignIn
from pulsar_relay.web.device import DeviceEndpoints
from pulsar_relay.web.device_page import DevicePage
from pulsar_relay.web.oidc import OidcEndpoints
from pulsar_relay.web.sign_in_pages import SignInPages
from pulsar_relay.web.visit import GetVisitHandler, PostVisitHandler, Visit, VisitEndpoint

Endpoints = Mapping[tuple[str, str], VisitEndpoint]
_HANDLERS = {"GET": GetVisitHandler, "POST": PostVisitHandler}


def sign_in_routes(sign_in: BrowserSignIn) -> list[Any]:
    """For Tornado."""
    return [
        (path, _HANDLERS[method], {"endpoint": endpoint, "base_url": sign_in.base_url})
        for (method, path), endpoint in _endpoints(sign_in).items()
    ]


def _endpoints(sign_in: BrowserSignIn) -> Endpoints:
    accounts, flow, limiter = sign_in.accounts, sign_in.flow, sign_in.limiter
    providers = sign_in.relying_party.providers.items()
    pages = SignInPages([(name, provider.settings.display_name) for name, provider in providers])
    device = DeviceEndpoints(flow, limiter)
    page = DevicePage(accounts, flow, pages, limiter)
    oidc = OidcEndpoints(accounts, flow, sign_in.relying_party, sign_in.federated, pages, limiter)

    def wants_html(visit: Visit) -> bool:
        return visit.wants_html

    return {
        ("POST", r"/auth/device/code"): device.code,
        ("POST", r"/auth/device/token"): device.token,
        ("POST", r"/auth/device/deny"): device.deny,
        ("GET", r"/auth/device/?"): pages.as_page(page.show),
        ("POST", r"/auth/device/sign-in"): pages.as_page(page.sign_in),
        ("POST", r"/auth/device/decision"): pages.as_page(page.decide),
        ("GET", r"/auth/oidc/providers"): oidc.providers,
        ("GET", r"/auth/oidc/([^/]+)/login"): pages.as_page(oidc.login, wants_html),
        ("GET", r"/auth/oidc/([^/]+)/callback"): pages.as_page(oidc.callback, wants_html),
    }
