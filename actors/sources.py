"""Sources: actor code loaded at run time from zip files, as Thespian's `loadActorSource` offers it.

The relay does not use it; a Thespian system base has it. Sources are validated by an actor (the source
authority): without one, nothing loaded can be used.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import sys
from collections.abc import Callable
from typing import Any

from thespian.actors import LoadedSource, UnloadedSource, ValidateSource
from thespian.system.sourceLoader import SourceHashFinder, loadModuleFromHashSource

logger = logging.getLogger(__name__)


class Sources:
    """`send(receiver, message)` sends in the system's name."""

    def __init__(self, send: Callable[[Any, Any], None]) -> None:
        self._send = send
        self._zips: dict[str, Any] = {}
        self._listeners: list[Any] = []
        self.authority: Any = None

    def load(self, source: Any) -> str:
        """Read a path or an open binary file and have the authority validate it. Returns its hash."""
        if hasattr(source, "read"):
            data = source.read()
            source.close()
        else:
            with open(source, "rb") as file:
                data = file.read()
        # An identity that Thespian users may have stored, not a proof of anything.
        source_hash = hashlib.md5(data, usedforsecurity=False).hexdigest()
        logger.info("source %s: loaded from %s", source_hash, source)
        if self.authority is not None:
            self._send(self.authority, ValidateSource(source_hash, data))
        return source_hash

    def validated(self, source_hash: str, data: Any) -> None:
        """The authority's word: `data` is the zip in the clear, or None where it refuses the source."""
        if data is None:
            logger.info("source %s: refused by the source authority", source_hash)
            return
        try:
            names = SourceHashFinder(source_hash, lambda content: content, data).getZipNames()
        except Exception:  # bytes that are no zip file can break a reader in any way
            logger.exception("source %s: corrupt", source_hash)
            return
        logger.info("source %s: validated, %d modules", source_hash, len(names))
        self._zips[source_hash] = data
        for listener in self._listeners:
            self._send(listener, LoadedSource(source_hash, ""))

    def loader(self, source_hash: str | None) -> Callable[[str, str], type] | None:
        """What finds a class by module and name in a loaded source."""
        if not source_hash:
            return None
        return functools.partial(loadModuleFromHashSource, source_hash, self._zips)

    def unload(self, source_hash: str) -> None:
        if self._zips.pop(source_hash, None) is not None:
            for listener in self._listeners:
                self._send(listener, UnloadedSource(source_hash, ""))
        for finder in sys.meta_path:
            if getattr(finder, "srcHash", None) == source_hash:
                root = finder.hashRoot()  # type: ignore[attr-defined]  # only Thespian's finders have a srcHash
                for name in [name for name in sys.modules if name.startswith(root)]:
                    del sys.modules[name]
                sys.meta_path.remove(finder)
                break

    def unload_all(self) -> None:
        for source_hash in list(self._zips):
            self.unload(source_hash)

    def notify(self, listener: Any, enable: bool) -> None:
        """Tell `listener` of every source loaded or unloaded, and at once of those already here."""
        self.forget(listener)
        if enable:
            self._listeners.append(listener)
            for source_hash in self._zips:
                self._send(listener, LoadedSource(source_hash, ""))

    def forget(self, listener: Any) -> None:
        self._listeners = [other for other in self._listeners if other is not listener]

    def hashes(self) -> list[str]:
        return list(self._zips)
