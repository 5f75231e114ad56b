"""The configuration file: where it is looked for, and what stands in it.

YAML, or TOML where its name ends so. It speaks of the relay's own settings in sections, or in the flat names
of the relay's predecessor (`predecessor/names.py`), or both. One file is read; nothing is judged here but
whether it can be read in one way only.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from pulsar_relay.given import ConfigError, Given, nearest
from pulsar_relay.keys import KEYS, SECTIONS
from pulsar_relay.kinds import Structured
from pulsar_relay.predecessor.names import FLAT_NAMES
from pulsar_relay.predecessor.told import Leaf, Told, leaves

FILE_VARIABLE = "RELAY_CONFIG"
PREDECESSOR_VARIABLE = "PULSAR_CONFIG_FILE"
_HERE = (Path("config.yaml"), Path("config.toml"), Path("config.yml"))
SYSTEM_FILES = (Path("/etc/pulsar-relay/config.toml"), Path("/etc/pulsar-relay/config.yaml"))
_SCALAR_TAGS = "tag:yaml.org,2002:"
# Both have it: a file in the predecessor's names means its own by it.
_SHARED = frozenset({"oidc"})
_DEEPEST = 8


def file_to_read(named: Path | None, environment: Mapping[str, str]) -> Path | None:
    """`named`, else what the environment names, else the one that lies where it is looked for; None if none
    does. ConfigError where a name is empty or two files lie in one place.
    """
    if named is not None:
        return named
    predecessors = [name for name in environment if name.upper() == PREDECESSOR_VARIABLE]
    for variable in (FILE_VARIABLE, *predecessors):
        text = environment.get(variable)
        if text is not None:
            if not text:
                raise ConfigError([f"{variable} is empty; name a file or unset it"])
            return Path(text)
    for places in (_HERE, SYSTEM_FILES):
        found = [path for path in places if path.exists()]
        if len(found) > 1:
            names = " and ".join(map(str, found))
            raise ConfigError([f"{names} are both there; say with --config which is meant"])
        if found:
            return found[0]
    return None


class ConfigFile:
    """What one file says: `ours` under the relay's own names, `theirs` under its predecessor's; `problems`
    names what can be meant in no way. Raises ConfigError if it cannot be read at all.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.ours: list[Given] = []
        self.theirs: list[Told] = []
        self.problems: list[str] = []
        root = _read(path)
        if root is not None and not _is_null(root):
            self._sort(dict(self._entries(root, "the file")))

    def _sort(self, entries: Mapping[str, yaml.Node]) -> None:
        is_predecessors = _is_predecessors(entries)
        for name, node in entries.items():
            is_flat = name.lower() in FLAT_NAMES and (is_predecessors or name not in _SHARED)
            if is_flat or is_predecessors:
                # Of its own files it has never refused anything: what means nothing is told, not refused.
                self._tell(name, node)
            elif name not in SECTIONS:
                self._problem(node, f"unknown section {name!r}{nearest(name, [*SECTIONS, *FLAT_NAMES])}")
            elif not _is_null(node):
                for key, value in self._entries(node, f"section {name!r}"):
                    self._give(f"{name}.{key}", value)

    def _tell(self, name: str, node: yaml.Node) -> None:
        origin = self._origin(node, name)
        for path, leaf in leaves((name.lower(),), self._plain(node, name)):
            self.theirs.append(Told(path, leaf, f"{origin} {'.'.join(path)}"))

    def _entries(self, node: yaml.Node, what: str) -> Iterator[tuple[str, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            self._problem(node, f"{what} must be a mapping of names to values")
            return
        lines: dict[str, int] = {}
        # YAML nodes, not Python values: these know their line, and no `off` has become False.
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                self._problem(name, f"a name in {what} must be a word")
            elif name.value in lines:
                self._problem(
                    name, f"{name.value!r} stands twice in {what}, first on line {lines[name.value]}"
                )
            else:
                lines[name.value] = name.start_mark.line + 1 if name.start_mark else 0
                yield name.value, value

    def _give(self, key: str, node: yaml.Node) -> None:
        origin = self._origin(node, key)
        if not isinstance(node, yaml.ScalarNode):
            known = KEYS.get(key)
            if known is None or not isinstance(known.declaration.kind, Structured):
                self._problem(node, f"{key} must be a single value")
            else:
                self.ours.append(Given(key, json.dumps(self._plain(node, key)), origin))
        elif not node.tag.startswith(_SCALAR_TAGS):
            self._problem(node, f"{key} has a tag ({node.tag}) that means nothing here")
        else:
            self.ours.append(Given(key, "null" if _is_null(node) else node.value, origin))

    def _plain(self, node: yaml.Node, name: str, depth: int = 0) -> Leaf | dict[str, Any]:
        """The node with every scalar in it as the text that stands there."""
        if depth == _DEEPEST and not isinstance(node, yaml.ScalarNode):
            # An alias may stand within what it stands for.
            self._problem(node, f"{name} is nested too deeply")
            return None
        if isinstance(node, yaml.MappingNode):
            return {key: self._plain(value, name, depth + 1) for key, value in self._entries(node, name)}
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(value, name, depth + 1) for value in node.value]
        if not node.tag.startswith(_SCALAR_TAGS):
            self._problem(node, f"{name} has a tag ({node.tag}) that means nothing here")
        return None if _is_null(node) else str(node.value)

    def _problem(self, node: yaml.Node, text: str) -> None:
        self.problems.append(f"{self._origin(node)}: {text}")

    def _origin(self, node: yaml.Node, name: str | None = None) -> str:
        if node.start_mark is not None:
            return f"{self._path}:{node.start_mark.line + 1}"
        # TOML's reader does not tell lines.
        return f"{self._path} {name}" if name and "." in name else str(self._path)


def _is_predecessors(names: Mapping[str, yaml.Node]) -> bool:
    """Whether a file with these names at its top is written in the predecessor's: it has some of them, and
    no section that only the relay has.
    """
    ours = SECTIONS.keys() - _SHARED
    return ours.isdisjoint(names) and any(name.lower() in FLAT_NAMES - _SHARED for name in names)


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _read(path: Path) -> yaml.Node | None:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    return _toml(path, content) if path.suffix == ".toml" else _yaml(path, content)


def _yaml(path: Path, content: bytes) -> yaml.Node | None:
    try:
        return yaml.compose(content, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ConfigError([f"{path}:{mark.line + 1 if mark else 1}: is not YAML: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: is not YAML: {error}"]) from error


def _toml(path: Path, content: bytes) -> yaml.Node:
    """As YAML would have it, so that one reader does for both."""
    try:
        values = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not TOML: is not UTF-8"]) from error
    except tomllib.TOMLDecodeError as error:
        # Where, not what: it might be a secret.
        _, _, where = str(error).rpartition("(")
        raise ConfigError([f"{path}: is not TOML ({where.rstrip(')')})"]) from error
    return _Representer(sort_keys=False).represent_data(values)


class _Representer(yaml.representer.SafeRepresenter):
    def ignore_aliases(self, data: object) -> bool:
        """Whatever stands twice stands twice."""
        return True
