"""What a running relay says of itself, if one answers where the settings say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from pulsar_relay import __version__
from pulsar_relay.checkup.finding import Finding, advice, ok, problem, unseen
from pulsar_relay.client.address import Address
from pulsar_relay.client.errors import ClientError
from pulsar_relay.client.http import HttpClient

ANSWER_SECONDS = 5.0


class _Health(msgspec.Struct):
    version: str


class _Check(msgspec.Struct):
    ok: bool
    code: str | None = None


class _Ready(msgspec.Struct):
    ready: bool
    durability: str
    checks: Mapping[str, _Check]


async def relay_findings(address: Address, durability: str) -> list[Finding]:
    """`durability` is the level that the settings name."""
    http = HttpClient(address)
    try:
        health = await http.request("GET", address.url("/health"), timeout_seconds=ANSWER_SECONDS)
        found = list(_version(address, health.read(_Health).version))
        return [*found, *await _readiness(http, durability)]
    except ClientError as error:
        cure = "start one with `pulsar-relay serve`, or name its address with --url"
        return [unseen("relay", f"none answers at {address.shown} ({error.code})", cure)]
    finally:
        http.close()


def _version(address: Address, version: str) -> Iterator[Finding]:
    if version != __version__:
        text = f"the relay at {address.shown} is version {version}, this command {__version__}"
        yield advice("relay", text, "restart the relay, if it was upgraded")
    else:
        yield ok("relay", f"version {version} at {address.shown}")


async def _readiness(http: HttpClient, durability: str) -> list[Finding]:
    url = http.address.url("/ready")
    answer = await http.request("GET", url, timeout_seconds=ANSWER_SECONDS, also=(503,))
    ready = answer.read(_Ready)
    findings = [
        problem("readiness", f"the relay is not ready: {name} {check.code or ''}".rstrip(), "look at its log")
        for name, check in ready.checks.items()
        if not check.ok
    ] or [ok("readiness", "the relay is ready")]
    if ready.durability != durability:
        text = f"the relay runs with durability {ready.durability}, these settings say {durability}"
        findings.append(advice("readiness", text, "restart the relay, or use its configuration here"))
    return findings
