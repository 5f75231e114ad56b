"""What devices ask: for codes, and whether somebody has let them in (RFC 8628, and the pair of sessions)."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from pulsar_relay.device.device_codes import Outcome
from pulsar_relay.device.device_flow import DeviceFlow
from pulsar_relay.errors import FieldError, RelayError
from pulsar_relay.limits.limiter import Limiter, address
from pulsar_relay.web.endpoint import Answer
from pulsar_relay.web.visit import Visit

PATH = "/auth/device"
GRANT_TYPE = "urn:ietf:params:oauth:grant-type:device_code"
_YES = frozenset({"true", "1", "on", "t", "y", "yes"})
_NO = frozenset({"false", "0", "off", "f", "n", "no"})
_REFUSALS: Mapping[Outcome, tuple[str, str | None]] = MappingProxyType(
    {
        Outcome.UNKNOWN: ("expired_token", "Unknown device_code"),
        Outcome.EXPIRED: ("expired_token", None),
        Outcome.DENIED: ("access_denied", None),
        Outcome.SLOW_DOWN: ("slow_down", None),
        Outcome.PENDING: ("authorization_pending", None),
    }
)


class DeviceEndpoints:
    def __init__(self, flow: DeviceFlow, limiter: Limiter) -> None:
        self._flow = flow
        self._limiter = limiter

    async def code(self, visit: Visit) -> Answer:
        """POST /auth/device/code"""
        verdict = await self._limiter.admit("device_code", address(visit.address))
        hint = visit.form.get("client_hint", visit.user_agent)
        made = await self._flow.begin(hint, is_pair=_flag(visit, "pair"))
        settings, page = self._flow.codes.settings, visit.base + PATH
        told = {
            "device_code": made.device_code,
            "user_code": made.user_code,
            "verification_uri": page,
            "verification_uri_complete": f"{page}?user_code={made.user_code}",
            "expires_in": int(settings.code_ttl_seconds),
            # Whole seconds: a device that waits too short is told to slow down.
            "interval": -int(-settings.poll_interval_seconds // 1),
        }
        return _answer(200, told, {} if verdict is None else verdict.headers)

    async def token(self, visit: Visit) -> Answer:
        """POST /auth/device/token"""
        other = _other_grant(visit)
        if other is not None:
            return other
        try:
            verdict = await self._limiter.admit("device_token", address(visit.address))
        except RelayError as error:
            if error.code != "rate_limited":
                raise
            # A device gives up on anything it does not know, and this word it knows.
            return _refused(*_REFUSALS[Outcome.SLOW_DOWN], error.headers)
        headers = {} if verdict is None else verdict.headers
        found = await self._flow.poll(visit.field("device_code"), visit.address)
        if isinstance(found, Outcome):
            return _refused(*_REFUSALS[found], headers)
        told: dict[str, Any] = {
            "access_token": found.access.text,
            "token_type": "bearer",
            "expires_in": found.access.expires_at - found.access.issued_at,
            "refresh_token": found.refresh,
        }
        if found.secondary is not None:
            told["refresh_token_secondary"] = found.secondary
        return _answer(200, told, headers)

    async def deny(self, visit: Visit) -> Answer:
        """POST /auth/device/deny"""
        user_code = visit.field("user_code")
        visit.refuse_other_sites()
        verdict = await self._limiter.admit("device_page", address(visit.address))
        await self._flow.deny(user_code, visit.address)
        return _answer(200, {"status": "denied"}, {} if verdict is None else verdict.headers)


def _other_grant(visit: Visit) -> Answer | None:
    grant_type = visit.field("grant_type")
    visit.field("device_code")
    if grant_type == GRANT_TYPE:
        return None
    return _refused("unsupported_grant_type", f"This address takes {GRANT_TYPE} only.")


def _flag(visit: Visit, name: str) -> bool:
    word = visit.form.get(name, "false").strip().lower()
    if word not in _YES | _NO:
        raise RelayError("invalid_request", errors=[FieldError(("body", name), "must be true or false")])
    return word in _YES


def _refused(code: str, description: str | None = None, headers: Mapping[str, str] | None = None) -> Answer:
    """In the shape of OAuth, which is all that devices look at."""
    told = {"error": code} if description is None else {"error": code, "error_description": description}
    return _answer(400, told, headers or {})


def _answer(status: int, told: Mapping[str, Any], headers: Mapping[str, str]) -> Answer:
    return Answer(status, msgspec.json.encode(told), {**headers, "Pragma": "no-cache"})
