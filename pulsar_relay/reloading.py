"""Reloading: the settings of a relay that runs, read again.

All or nothing: what is wrong is told and changes nothing. What cannot change in a running relay is named and
stays as it was.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pulsar_relay.config import ConfigError, Configuration, inconsistencies
from pulsar_relay.keys import KEYS, Key
from pulsar_relay.settings import Settings

logger = logging.getLogger(__name__)


class Reloading:
    """`settings` are those in force; `read` reads all sources. It raises ConfigError."""

    def __init__(self, settings: Settings, read: Callable[[], Configuration]) -> None:
        self._settings = settings
        self._read = read

    def again(self) -> Settings | None:
        """The settings in force from now on; None if they are what they were. Says what it did."""
        try:
            found = self._read()
            changed = [
                key for key in KEYS.values() if key.value_in(found.settings) != key.value_in(self._settings)
            ]
            taken = [key for key in changed if key.declaration.reloads]
            settings = _with(self._settings, found.settings, taken)
            _refuse_contradictions(settings, found.origins)
        except ConfigError as error:
            for problem in error.problems:
                logger.error("reload: %s", problem)  # noqa: TRY400 - it is the operator's, and says where
            logger.error("reload: nothing has changed")  # noqa: TRY400
            return None
        left = [key for key in changed if not key.declaration.reloads]
        if left:
            logger.warning("reload: needs a restart: %s", _names(left))
        if not taken:
            logger.info("reload: nothing has changed")
            return None
        logger.info("reload: changed: %s", _names(taken))
        self._settings = settings
        return settings


def _with(settings: Settings, others: Settings, keys: Sequence[Key]) -> Settings:
    """`settings`, with those `keys` as `others` have them."""
    values: dict[str, dict[str, Any]] = {}
    for key in keys:
        values.setdefault(key.section, {})[key.attribute] = key.value_in(others)
    sections = {
        section: dataclasses.replace(getattr(settings, section), **attributes)
        for section, attributes in values.items()
    }
    return dataclasses.replace(settings, **sections)


def _refuse_contradictions(settings: Settings, origins: Mapping[str, str]) -> None:
    """Each source may be sound and the mixture not: a mark that changed above one that cannot."""
    problems = [f"{problem}; restart the relay" for problem in inconsistencies(settings, origins)]
    if problems:
        raise ConfigError(problems)


def _names(keys: Sequence[Key]) -> str:
    return ", ".join(key.name for key in keys)
