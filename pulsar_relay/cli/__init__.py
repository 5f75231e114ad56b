"""The command line: one module for each command, imported when it is called for.

Exit codes: 0 done; 1 it failed, and standard error says why; 2 it was asked for in a way that cannot be done.
Standard output carries results only.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

import click

from pulsar_relay import __version__

_SUMMARIES: Mapping[str, str] = MappingProxyType(
    {
        "serve": "Run a relay.",
        "login": "Log in at a relay, for all commands.",
        "logout": "Log out again.",
        "publish": "Publish a message, or many from standard input.",
        "subscribe": "Print messages as they come, or those that are there.",
        "topics": "List topics, look at one, or delete one.",
        "tail": "Print a topic's newest messages.",
        "trim": "Remove messages from a topic, once.",
        "consumers": "List clients with a name, look at one, or delete one.",
        "users": "List, make, change and delete users; the way back in.",
        "keys": "List, make and revoke API keys.",
        "grants": "Let others read or write your topics.",
        "sessions": "List and end logins.",
        "stats": "Show what a relay and its topics do.",
        "valkey": "Run a command of Valkey's own on the store.",
        "store": "Look at the store, or go on with another one.",
        "doctor": "Look at the store and the relay: what is wrong, and what to do.",
        "backup": "Write all topics and places to a file.",
        "restore": "Put them back.",
        "migrate": "Copy what a server of pulsar-relay 0.2 keeps.",
        "config": "Show or check the configuration.",
    }
)


class Commands(click.Group):
    """Knows what each command does without importing it: a relay's parts take longer to load than to
    explain.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_SUMMARIES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _SUMMARIES:
            return None
        command = getattr(importlib.import_module(f"pulsar_relay.cli.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_SUMMARIES.items()))


@click.group(
    cls=Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="`pulsar-relay COMMAND --help` explains a command, with examples.",
)
@click.version_option(__version__, message="%(prog)s %(version)s")
def commands() -> None:
    """A durable message relay: publish JSON to topics over HTTP, receive it over WebSocket, Server-Sent
    Events or long-poll. Messages are kept in Valkey.

    \b
    Try it, in three terminals:
      pulsar-relay serve
      pulsar-relay subscribe jobs
      pulsar-relay publish jobs '{"job": 7, "state": "running"}'
    """
