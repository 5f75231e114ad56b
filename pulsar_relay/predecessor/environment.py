"""The predecessor's variables: `PULSAR_*` in the environment, and in a file `.env` that lies here.

Names are taken in any case, `__` stands between the parts of one, lists and mappings are JSON.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from pulsar_relay.given import nearest
from pulsar_relay.predecessor.names import FIELDS_WITH_LISTS, MAPPINGS, NAMES, PREFIX, PROVIDERS
from pulsar_relay.predecessor.told import Told, leaves

DOTENV = Path(".env")


def from_environment(
    environment: Mapping[str, str], problems: list[str], notices: list[str]
) -> Iterator[Told]:
    """What the environment says under its names; adds what is malformed, and what means nothing."""
    return _from_variables(environment, "environment", problems, notices)


def from_dotenv(problems: list[str], notices: list[str]) -> Iterator[Told]:
    """The same of `.env`, if there is one."""
    try:
        if not DOTENV.is_file():
            return iter(())
        values = dotenv_values(DOTENV)
    except (OSError, UnicodeDecodeError) as error:
        problems.append(f"{DOTENV}: cannot be read: {error}")
        return iter(())
    variables = {name: text for name, text in values.items() if text is not None}
    return _from_variables(variables, str(DOTENV), problems, notices)


def _from_variables(
    variables: Mapping[str, str], place: str, problems: list[str], notices: list[str]
) -> Iterator[Told]:
    seen: dict[tuple[str, ...], tuple[str, str]] = {}
    for variable, text in variables.items():
        if not variable.upper().startswith(PREFIX):
            continue
        path = tuple(variable[len(PREFIX) :].lower().split("__"))
        origin = f"{place} {variable}"
        first, other = seen.setdefault(path, (text, variable))
        if first != text:
            problems.append(f"{origin} and {other} disagree")
        elif not is_known(path):
            notices.append(f"{origin}: means nothing to the relay{_nearest(variable)}")
        else:
            yield from _told(path, text, origin, problems)


def is_known(path: tuple[str, ...]) -> bool:
    return ".".join(path) in NAMES or path in MAPPINGS or path[: len(PROVIDERS)] == PROVIDERS


def _told(path: tuple[str, ...], text: str, origin: str, problems: list[str]) -> Iterator[Told]:
    is_mapping = path in MAPPINGS or (path[:2] == PROVIDERS and len(path) == len(PROVIDERS) + 1)
    name = NAMES.get(".".join(path))
    is_list = (name is not None and name.is_list) or path[2:][1:] in FIELDS_WITH_LISTS
    if not is_mapping and not is_list:
        yield Told(path, text, origin)
        return
    wanted = dict if is_mapping else list
    value = _json(text)
    if not isinstance(value, wanted):
        what = "JSON object" if is_mapping else "JSON list"
        problems.append(f"{origin}: is not a {what}")
        return
    for inner, leaf in leaves(path, value):
        yield Told(inner, leaf, origin)


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _nearest(variable: str) -> str:
    names = [PREFIX + name.upper().replace(".", "__") for name in NAMES]
    return nearest(variable.upper(), names)
