"""Rows: what a list of things looks like. A table on a terminal, elsewhere a JSON object a line."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

import click
import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

Row = Mapping[str, object]


def show_rows(rows: Sequence[Row], columns: Sequence[str], nothing: str) -> None:
    """All fields of all rows, or of a table these columns; `nothing` is said where there is no row."""
    if not sys.stdout.isatty():
        for row in rows:
            click.echo(msgspec.json.encode(row))
        return
    if not rows:
        click.echo(nothing, err=True)
        return
    table = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(Text(_shown(row.get(column))) for column in columns))
    Console().print(table)


def show_row(row: Row) -> None:
    if not sys.stdout.isatty():
        click.echo(msgspec.json.encode(row))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    for field, value in row.items():
        table.add_row(Text(field, style="bold"), Text(_shown(value)))
    Console().print(table)


def _shown(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "-"
    return str(value)
