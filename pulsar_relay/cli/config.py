"""`config show` and `config check`: what a relay started now would run with."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pulsar_relay.cli.settings import load_settings, settings_options
from pulsar_relay.config import Configuration


@click.group()
def config() -> None:
    """Show or check the configuration. Takes the options of `serve`, and starts nothing."""


@config.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object: value and origin by key.")
@settings_options
def show(file: Path | None, assignments: Sequence[str], *, as_json: bool, **flags: str | bool | None) -> None:
    """Print every setting's effective value and where it came from: `default`, a file and line, a variable
    or a flag. Secrets are masked. Standard error has a line for each name of pulsar-relay 0.2 that means
    something else here, or nothing.
    """
    configuration = load_settings(file, assignments, flags)
    if as_json:
        rows = {name: {"value": value, "origin": origin} for name, value, origin in configuration.rows()}
        click.echo(json.dumps(rows, indent=2))
    elif sys.stdout.isatty():
        Console().print(_table(configuration))
    else:
        _print_plain(configuration)
    _print_notices(configuration)


@config.command()
@settings_options
def check(file: Path | None, assignments: Sequence[str], **flags: str | bool | None) -> None:
    """Say what is wrong with the configuration, and exit with 2 if anything is."""
    configuration = load_settings(file, assignments, flags)
    changed = sum(origin != "default" for _, _, origin in configuration.rows())
    _print_notices(configuration)
    click.echo(f"the configuration can be used; settings given: {changed}, all others have their default")


def _table(configuration: Configuration) -> Table:
    table = Table("setting", "value", "origin", box=None, pad_edge=False, header_style="bold")
    for name, value, origin in configuration.rows():
        style = "dim" if origin == "default" else ""
        # Text: a value with brackets in it is no markup.
        table.add_row(Text(name), Text(value), Text(origin), style=style)
    return table


def _print_plain(configuration: Configuration) -> None:
    rows = list(configuration.rows())
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, origin in rows:
        click.echo(f"{name:{widths[0]}}  {value:{widths[1]}}  {origin}")


def _print_notices(configuration: Configuration) -> None:
    for notice in configuration.notices:
        click.echo(f"config: {notice}", err=True)
