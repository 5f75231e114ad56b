"""`serve`: runs a relay in this process until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import importlib
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import click

from pulsar_relay import logs, server
from pulsar_relay.cli.listeners import problems
from pulsar_relay.cli.settings import UnusableError, load_settings, settings_options
from pulsar_relay.config import ConfigError
from pulsar_relay.keys import KEYS
from pulsar_relay.settings import Settings
from pulsar_relay.store.data_directory import EmbeddedValkeyError

LEFT_AT_ONCE = 130
"""Exit code after a second SIGINT, as shells count: 128 and the signal's number."""


@click.command(no_args_is_help=False)
@settings_options
def serve(file: Path | None, assignments: Sequence[str], **flags: str | bool | None) -> None:
    """Run a relay until SIGTERM or Ctrl-C, or until its terminal is closed, which stop it in order; a second
    Ctrl-C leaves at once.

    With no Valkey configured, the relay runs one of its own and keeps its data in `embedded.data_dir`.
    Settings come from the configuration file, then the environment, then flags; `pulsar-relay config show`
    tells the outcome, config.yaml explains each.

    \b
    Examples:
      pulsar-relay serve
      pulsar-relay serve --port 8081 --data-dir /var/lib/relay
      pulsar-relay serve --valkey-host valkey.internal --set storage.persistent_tier_retention=7d
    """
    settings = load_settings(file, assignments, flags).settings
    _refuse_if(list(problems(settings.server)))
    logs.set_up(settings.log, stream=sys.stderr, secrets=list(_secrets(settings)))
    # What is loaded by now lives as long as the process: no garbage collection has to look at it again.
    gc.collect()
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_serve(settings))
    except EmbeddedValkeyError as error:
        raise click.ClickException(str(error)) from error
    except ConfigError as error:
        raise UnusableError(error.problems) from error
    except OSError as error:
        # Somebody may have taken the port meanwhile.
        _refuse_if(list(problems(settings.server)) or [f"the relay cannot run: {error}"])


def _refuse_if(reasons: Sequence[str]) -> None:
    if reasons:
        raise click.ClickException("\n".join(reasons))


async def _serve(settings: Settings) -> None:
    serving = asyncio.ensure_future(server.serve(settings))
    # The server sets its signal handlers as it begins; SIGINT then becomes ours, to count.
    await asyncio.sleep(0)
    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, _interrupt, iter((True, False)))
    await serving


def _interrupt(is_first: Iterator[bool]) -> None:
    if next(is_first, False):
        os.kill(os.getpid(), signal.SIGTERM)
    else:
        os._exit(LEFT_AT_ONCE)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's, or asyncio's own where uvloop does not exist."""
    try:
        uvloop = importlib.import_module("uvloop")
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def _secrets(settings: Settings) -> Iterator[str]:
    for key in KEYS.values():
        value = key.value_in(settings)
        if key.declaration.secret and value is not None:
            yield key.show(value)
