"""`serve`: runs a relay in this process until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from pulsar_relay import logs
from pulsar_relay.cli.listeners import problems
from pulsar_relay.cli.settings import UnusableError, load_settings, settings_options, settings_reader
from pulsar_relay.config import ConfigError
from pulsar_relay.keys import secrets_in
from pulsar_relay.loops import loop_factory
from pulsar_relay.reloading import Reloading
from pulsar_relay.serving import MakeServed, Serving, how_to_serve
from pulsar_relay.settings import Settings
from pulsar_relay.store.data_directory import EmbeddedValkeyError

logger = logging.getLogger(__name__)

LEFT_AT_ONCE = 130
"""Exit code after a second SIGINT, as shells count: 128 and the signal's number."""
STANDARD_DESCRIPTORS = (0, 1, 2)


@click.command(no_args_is_help=False)
@settings_options
def serve(file: Path | None, assignments: Sequence[str], **flags: str | bool | None) -> None:
    """Run a relay until SIGTERM or Ctrl-C, or until its terminal is closed, which stop it in order; a second
    Ctrl-C leaves at once. SIGHUP has it read its settings again.

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
    configuration = load_settings(file, assignments, flags)
    settings = configuration.settings
    _refuse_if(list(problems(settings.server)))
    _set_up_logs(settings)
    for notice in configuration.notices:
        logger.warning("config: %s", notice)
    make_served = how_to_serve(settings)
    reloading = Reloading(settings, settings_reader(file, assignments, flags))
    # What is loaded by now lives as long as the process: no garbage collection has to look at it again.
    gc.collect()
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve(settings, make_served, reloading))
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


def _set_up_logs(settings: Settings) -> None:
    logs.set_up(settings.log, stream=sys.stderr, secrets=list(secrets_in(settings)))


async def _serve(settings: Settings, make_served: MakeServed, reloading: Reloading) -> None:
    def reload() -> Settings | None:
        reloaded = reloading.again()
        if reloaded is not None:
            _set_up_logs(reloaded)
        return reloaded

    serving = Serving(settings, make_served, reload)
    # Who had the signal ignored, as `nohup` does, said that the relay is to outlive its terminal.
    is_ignored = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    terminals = [] if is_ignored else [one for one in STANDARD_DESCRIPTORS if os.isatty(one)]
    interrupts = itertools.count(1)

    def interrupt() -> None:
        if next(interrupts) == 1:
            serving.stop()
        else:
            serving.abandon()
            os._exit(LEFT_AT_ONCE)

    def hang_up() -> None:
        # The signal of a terminal that is closed, too: then the relay leaves with it.
        if all(os.isatty(descriptor) for descriptor in terminals):
            serving.reload()
        else:
            serving.stop()

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, interrupt)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    try:
        await serving.run()
    finally:
        # Once the loop gives its handler back, a further Ctrl-C would end an orderly stop with a stack trace.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
