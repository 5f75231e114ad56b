"""`doctor`: what is wrong with the store and the relay, and what to do about it."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pulsar_relay.checkup.examination import examine
from pulsar_relay.checkup.finding import Finding, Severity, unseen
from pulsar_relay.checkup.host import Host
from pulsar_relay.checkup.relay_check import relay_findings
from pulsar_relay.cli.connection import URL_VARIABLE, parse_address
from pulsar_relay.cli.opened_store import StoreFailedError, with_store
from pulsar_relay.cli.settings import load_settings, settings_options
from pulsar_relay.client.address import Address
from pulsar_relay.settings import Settings
from pulsar_relay.store.client import Client
from pulsar_relay.store.embedded import EmbeddedValkey

_STYLES = {Severity.OK: "green", Severity.UNSEEN: "dim", Severity.ADVICE: "yellow", Severity.PROBLEM: "red"}


class CannotLookError(click.ClickException):
    exit_code = 2


@click.command()
@click.option(
    "--url",
    metavar="URL",
    envvar=URL_VARIABLE,
    show_envvar=True,
    callback=lambda context, parameter, value: value and parse_address(value),
    help="Where the relay is.  [default: where the settings let it listen]",
)
@click.option("--json", "as_json", is_flag=True, help="A JSON object a line for each check.")
@click.option("--strict", is_flag=True, help="Let the exit code be 1 for advice too.")
@settings_options
def doctor(
    file: Path | None,
    assignments: Sequence[str],
    url: Address | None,
    *,
    as_json: bool,
    strict: bool,
    **flags: str | bool | None,
) -> None:
    """Look at the store and the relay: what is wrong, or will be, and what to do about it.

    Takes the options of `serve`, and changes nothing. Of each check is told: `ok`; `unseen`, what cannot be
    looked at from here; `advice`; `problem`, where messages or service are at risk. Secrets are not shown.

    \b
    Exit codes: 0 no problem; 1 problems; 2 the store cannot be looked at.

    \b
    Examples:
      pulsar-relay doctor
      pulsar-relay doctor --valkey-host valkey.internal --strict
    """
    settings = load_settings(file, assignments, flags).settings
    try:
        findings = with_store(settings, lambda client: _look(client, settings, url))
    except StoreFailedError as error:
        raise CannotLookError(error.message) from error
    _print(findings, as_json=as_json)
    bad = {Severity.PROBLEM, Severity.ADVICE} if strict else {Severity.PROBLEM}
    if any(finding.severity in bad for finding in findings):
        raise click.exceptions.Exit(1)


async def _look(client: Client, settings: Settings, url: Address | None) -> list[Finding]:
    embedded = EmbeddedValkey.of(settings)
    identity_file = settings.storage.identity_file if embedded is None else embedded.identity_path
    findings = [finding async for finding in examine(client, settings, Host(), identity_file)]
    address = url or _address(settings)
    if address is None:
        text = "by its settings it listens on any free port"
        return [*findings, unseen("relay", text, "name its address with --url")]
    return [*findings, *await relay_findings(address, settings.storage.durability)]


def _address(settings: Settings) -> Address | None:
    """Where the settings let a relay of this machine listen."""
    if settings.server.port == 0:
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.server.host, settings.server.host)
    shown = f"[{host}]" if ":" in host else host
    return Address(f"http://{shown}:{settings.server.port}")


def _print(findings: Sequence[Finding], *, as_json: bool) -> None:
    if as_json:
        for finding in findings:
            fields = {
                "check": finding.about,
                "severity": finding.severity.value,
                "text": finding.text,
                "cure": finding.cure or None,
            }
            click.echo(json.dumps(fields))
    elif sys.stdout.isatty():
        table = Table(box=None, pad_edge=False, show_header=False)
        for finding in findings:
            style = _STYLES[finding.severity]
            table.add_row(
                Text(finding.severity.value, style=style), Text(finding.about, style="bold"), _text(finding)
            )
        Console().print(table)
    else:
        for finding in findings:
            cure = f" -> {finding.cure}" if finding.cure else ""
            click.echo(f"{finding.severity.value:8} {finding.about:15} {finding.text}{cure}")


def _text(finding: Finding) -> Text:
    text = Text(finding.text)
    return text.append(f"\n{finding.cure}", style="italic") if finding.cure else text
