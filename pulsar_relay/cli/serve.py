"""`serve`: runs a relay in this process until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import itertools
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pulsar_relay import logs
from pulsar_relay.cli.listeners import problems
from pulsar_relay.cli.settings import UnusableError, load_settings, settings_options
from pulsar_relay.config import ConfigError
from pulsar_relay.keys import secrets_in
from pulsar_relay.loops import loop_factory
from pulsar_relay.serving import MakeServed, Serving, how_to_serve
from pulsar_relay.settings import Settings
from pulsar_relay.store.data_directory import EmbeddedValkeyError

LEFT_AT_ONCE = 130
"""Exit code after a second SIGINT, as shells count: 128 and the signal's number."""


@click.command(no_args_is_help=False)
@settings_options
def serve(file: Path | None, assignments: Sequence[str], **flags: str | bool | None) -> None:
    """Run a relay until SIGTERM or Ctrl-C, which stop it in order; a second Ctrl-C leaves at once.

    With several workers they share the port, and this process starts again those that end. With no Valkey
    configured, the relay runs one of its own and keeps its data in `embedded.data_dir`.
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
    logs.set_up(settings.log, stream=sys.stderr, secrets=list(secrets_in(settings)))
    make_served = how_to_serve(settings)
    # What is loaded by now lives as long as the process: no garbage collection has to look at it again.
    gc.collect()
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(settings, make_served))
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


async def _serve(settings: Settings, make_served: MakeServed) -> None:
    serving = Serving(settings, make_served)
    interrupts = itertools.count(1)

    def interrupt() -> None:
        if next(interrupts) == 1:
            serving.stop()
        else:
            serving.abandon()
            os._exit(LEFT_AT_ONCE)

    asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupt)
    await serving.run()
