"""The options that stand for settings; the same for every command that reads the configuration."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import click

from pulsar_relay.config import ConfigError, Configuration, Given, assignment, load
from pulsar_relay.keys import KEYS, Key
from pulsar_relay.kinds import Switch

_Decorated = TypeVar("_Decorated", bound=Callable[..., object])


class UnusableError(click.ClickException):
    """The settings cannot be used: a line for each reason, exit code 2."""

    exit_code = 2

    def __init__(self, problems: Iterable[str]) -> None:
        super().__init__("\n".join(problems))

    def show(self, file: object = None) -> None:
        for problem in self.message.split("\n"):
            click.echo(f"config: {problem}", err=True)


def settings_options(function: _Decorated) -> _Decorated:
    """Add --config, --set and a flag for each setting that has one."""
    options = [
        click.option(
            "--config",
            "file",
            type=click.Path(path_type=Path, dir_okay=False),
            metavar="FILE",
            help="Configuration file. Without it, what RELAY_CONFIG names, or config.yaml here if it exists.",
        ),
        click.option(
            "--set",
            "assignments",
            multiple=True,
            metavar="SECTION.KEY=VALUE",
            help="Any setting, under its name in config.yaml. May be repeated.",
        ),
        *map(_flag, _flagged()),
    ]
    for option in reversed(options):
        function = option(function)
    return function


def settings_reader(
    file: Path | None, assignments: Sequence[str], flags: Mapping[str, str | bool | None]
) -> Callable[[], Configuration]:
    """Reads, each time it is called, the settings that the options, the environment and the file make then.
    It raises ConfigError.
    """

    def read() -> Configuration:
        given = [*_given(flags), *map(assignment, assignments)]
        return load(file=file, environment=os.environ, flags=given)

    return read


def load_settings(
    file: Path | None, assignments: Sequence[str], flags: Mapping[str, str | bool | None]
) -> Configuration:
    """The settings that the options, the environment and the file make. Raises UnusableError."""
    try:
        return settings_reader(file, assignments, flags)()
    except ConfigError as error:
        raise UnusableError(error.problems) from error


def _flagged() -> list[Key]:
    return [key for key in KEYS.values() if key.declaration.flag]


def _parameter(key: Key) -> str:
    return key.name.replace(".", "_")


def _flag(key: Key) -> Callable[[_Decorated], _Decorated]:
    flag = key.declaration.flag
    assert flag is not None
    first_sentence = key.declaration.text.partition(". ")[0].rstrip(".") + "."
    default = key.show(key.default) if key.default is not None else key.declaration.null
    text = f"{first_sentence}  [{key.name}; default: {default}]"
    if isinstance(key.declaration.kind, Switch):
        return click.option(
            f"{flag}/--no-{flag.removeprefix('--')}", _parameter(key), default=None, help=text
        )
    return click.option(flag, _parameter(key), metavar=flag.rpartition("-")[2].upper(), help=text)


def _given(flags: Mapping[str, str | bool | None]) -> Iterator[Given]:
    for key in _flagged():
        value = flags[_parameter(key)]
        if value is not None:
            text = str(value).lower() if isinstance(value, bool) else value
            yield Given(key.name, text, f"flag {key.declaration.flag}")
