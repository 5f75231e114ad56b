"""The effective settings: built-in default < config.yaml < environment < flags.

Whatever cannot be honoured is refused: an unknown key, a value of the wrong kind or out of bounds, two names
for one key that disagree, a combination that makes no sense. All that is wrong is reported at once, each with
where it was said and what would be allowed. Reading settings opens the configuration file and nothing else.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import yaml

from pulsar_relay.keys import KEYS, SECTIONS, Key, make_settings
from pulsar_relay.settings import Settings

__all__ = ["ConfigError", "Configuration", "Given", "Settings", "assignment", "load"]

_FILE_VARIABLE = "RELAY_CONFIG"
_PREFIX = "RELAY_"
_DEFAULT_FILE = Path("config.yaml")
_DEFAULT_ORIGIN = "default"
# A Compose file says `VALKEY_PASSWORD: ${VALKEY_PASSWORD:-}`, and empty means "none" to everybody. An empty
# host, on the other hand, is somebody's missing variable, and would quietly start an embedded server.
_BLANK_IS_NULL = frozenset(
    {"valkey.username", "valkey.password", "valkey.sentinel_username", "valkey.sentinel_password"}
)


class ConfigError(Exception):
    """The settings cannot be used; `problems` holds a line for each reason, none with a secret in it."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class Given:
    """A value as somebody wrote it, and where.

    `origin` is `flag --port`, `environment VALKEY_PORT` or `config.yaml:12`.
    """

    key: str
    text: str = dataclasses.field(repr=False)
    origin: str


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings with the origin of each key (`default` where nobody said anything)."""

    settings: Settings
    origins: Mapping[str, str]

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(key, value as one would write it, origin) for every key in the table's order, secrets masked."""
        for name, key in KEYS.items():
            value = key.value_in(self.settings)
            masked = key.declaration.secret and value is not None
            yield name, "********" if masked else key.show(value), self.origins[name]


def load(*, file: Path | None, environment: Mapping[str, str], flags: Iterable[Given] = ()) -> Configuration:
    """Settings from all sources. Without `file`: what RELAY_CONFIG names, or `config.yaml` here if it exists.

    ConfigError, with all problems found, when anything is unreadable, unknown, malformed or inconsistent.
    """
    problems: list[str] = []
    values: dict[str, object] = {}
    origins: dict[str, str] = dict.fromkeys(KEYS, _DEFAULT_ORIGIN)
    for source in (
        _from_file(_file_to_read(file, environment), problems),
        _from_environment(environment, problems),
        list(flags),
    ):
        for given in _without_contradictions(source, problems):
            key = KEYS.get(given.key)
            if key is None:
                problems.append(_unknown_key(given.key, given.origin))
                continue
            try:
                values[key.name] = key.parse(given.text)
            except ValueError as error:
                problems.append(_refusal(key, given, str(error)))
            origins[key.name] = given.origin
    if problems:
        raise ConfigError(problems)
    settings = make_settings(values)
    problems.extend(inconsistencies(settings, origins))
    if problems:
        raise ConfigError(problems)
    return Configuration(settings, MappingProxyType(origins))


def assignment(text: str) -> Given:
    """The Given of a `--set section.key=value`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError([f"--set {name!r}: expected section.key=value"])
    return Given(name.strip(), value.strip(), "flag --set")


def _file_to_read(file: Path | None, environment: Mapping[str, str]) -> Path | None:
    if file is not None:
        return file
    named = environment.get(_FILE_VARIABLE)
    if named is not None:
        if not named:
            raise ConfigError([f"{_FILE_VARIABLE} is empty; name a file or unset it"])
        return Path(named)
    return _DEFAULT_FILE if _DEFAULT_FILE.exists() else None


def _from_file(path: Path | None, problems: list[str]) -> list[Given]:
    if path is None:
        return []
    try:
        root = yaml.compose(path.read_bytes(), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        raise ConfigError([f"{path}:{mark.line + 1 if mark else 1}: is not YAML: {error.problem}"]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: is not YAML: {error}"]) from error
    reader = _FileReader(path, problems)
    return [] if root is None or _is_null(root) else list(reader.sections(root))


class _FileReader:
    """Walks YAML nodes, not Python values: these know their line, and no `off` has become False."""

    def __init__(self, path: Path, problems: list[str]) -> None:
        self._path = path
        self._problems = problems

    def sections(self, root: yaml.Node) -> Iterator[Given]:
        for section, node in self._entries(root, "the file"):
            if section not in SECTIONS:
                self._problem(node, f"unknown section {section!r}{_nearest(section, SECTIONS)}")
            elif not _is_null(node):
                for key, value in self._entries(node, f"section {section!r}"):
                    yield from self._given(f"{section}.{key}", value)

    def _entries(self, node: yaml.Node, what: str) -> Iterator[tuple[str, yaml.Node]]:
        if not isinstance(node, yaml.MappingNode):
            self._problem(node, f"{what} must be a mapping of names to values")
            return
        lines: dict[str, int] = {}
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                self._problem(name, f"a name in {what} must be a word")
            elif name.value in lines:
                self._problem(
                    name, f"{name.value!r} stands twice in {what}, first on line {lines[name.value]}"
                )
            else:
                lines[name.value] = name.start_mark.line + 1
                yield name.value, value

    def _given(self, key: str, node: yaml.Node) -> Iterator[Given]:
        if not isinstance(node, yaml.ScalarNode):
            self._problem(node, f"{key} must be a single value")
        elif not node.tag.startswith("tag:yaml.org,2002:"):
            self._problem(node, f"{key} has a tag ({node.tag}) that means nothing here")
        else:
            yield Given(key, "null" if _is_null(node) else node.value, self._origin(node))

    def _problem(self, node: yaml.Node, text: str) -> None:
        self._problems.append(f"{self._origin(node)}: {text}")

    def _origin(self, node: yaml.Node) -> str:
        return f"{self._path}:{node.start_mark.line + 1}"


def _is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def _from_environment(environment: Mapping[str, str], problems: list[str]) -> list[Given]:
    keys = {variable: key.name for key in KEYS.values() for variable in key.environment}
    given = []
    for variable, text in environment.items():
        if variable in keys:
            name = keys[variable]
            blank = not text and name in _BLANK_IS_NULL
            given.append(Given(name, "null" if blank else text, f"environment {variable}"))
        elif variable.startswith(_PREFIX) and variable != _FILE_VARIABLE:
            hint = _kubernetes_cure(text) or _nearest(variable, [*keys, _FILE_VARIABLE])
            problems.append(f"environment {variable}: no such setting{hint}")
    return given


def _without_contradictions(source: list[Given], problems: list[str]) -> Iterator[Given]:
    """The source's values, each key once. Two that disagree are an error: neither has the better right."""
    seen: dict[str, Given] = {}
    for given in source:
        first = seen.setdefault(given.key, given)
        if first.text != given.text:
            problems.append(f"{given.key}: {first.origin} and {given.origin} disagree")
    yield from seen.values()


def _refusal(key: Key, given: Given, reason: str) -> str:
    value = "the value" if key.declaration.secret else repr(given.text)
    return (
        f"{key.name}: {value} {reason} ({given.origin}); allowed: {key.allowed}{_kubernetes_cure(given.text)}"
    )


def _kubernetes_cure(text: str) -> str:
    if not text.startswith("tcp://"):
        return ""
    return "; Kubernetes sets this for a Service of that name: set enableServiceLinks: false in the pod"


def _unknown_key(name: str, origin: str) -> str:
    return f"{origin}: no such setting: {name!r}{_nearest(name, KEYS)}"


def _nearest(name: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def inconsistencies(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    """Settings that are right alone and wrong together."""
    yield from _unusable_valkey_settings(settings, origins)
    yield from _unusable_durability(settings, origins)
    yield from _wrong_orders(settings, origins)
    if not settings.server.allow_open:
        for name in settings.server.beyond_loopback:
            yield (
                f"{name}: {KEYS[name].value_in(settings)!r} ({origins[name]}) can be reached by other "
                "machines, and without accounts whoever reaches the relay can read and write any topic; use "
                "127.0.0.1, or say --allow-open (server.allow_open: true) if the network keeps strangers out"
            )


def _unusable_valkey_settings(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    valkey = settings.valkey
    if valkey.host is not None and valkey.unix_socket is not None:
        yield (
            f"valkey.host ({origins['valkey.host']}) and valkey.unix_socket "
            f"({origins['valkey.unix_socket']}) name two servers; set one of them to null"
        )
    if settings.uses_embedded_server and valkey.allowed_eviction_policy is not None:
        name = "valkey.allowed_eviction_policy"
        yield f"{name} ({origins[name]}) has no meaning for the embedded server, which never evicts"
    if valkey.tls_ca is not None and not valkey.tls:
        yield f"valkey.tls_ca ({origins['valkey.tls_ca']}) has no meaning without valkey.tls"
    if valkey.mode != "standalone":
        yield from _unusable_group(settings, origins)
        return
    yield from _without_meaning(
        settings, origins, ("valkey.addresses", *_OF_SENTINELS), "valkey.mode: standalone"
    )
    if valkey.host is None:
        is_embedded = valkey.unix_socket is None
        names = ["valkey.port", "valkey.tls"] + (
            ["valkey.username", "valkey.password"] if is_embedded else []
        )
        for name in names:
            # A file may list `port: 6379` beside `host: null`; who sets VALKEY_PORT forgot VALKEY_HOST.
            is_forgetful = name == "valkey.port" and origins[name].startswith(("environment", "flag"))
            if is_forgetful or KEYS[name].value_in(settings) != KEYS[name].default:
                server = "the embedded server" if is_embedded else "a unix socket"
                yield f"{name} ({origins[name]}) has no meaning for {server}; did you forget valkey.host?"


_OF_SENTINELS = ("valkey.sentinel_service", "valkey.sentinel_username", "valkey.sentinel_password")
_OF_ONE_SERVER = ("valkey.host", "valkey.port", "valkey.unix_socket")


def _unusable_group(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    """Of a Sentinel group, or a cluster."""
    valkey = settings.valkey
    mode = f"valkey.mode: {valkey.mode}"
    if valkey.addresses is None:
        whose = "sentinels" if valkey.mode == "sentinel" else "nodes of the cluster"
        yield f"{mode} ({origins['valkey.mode']}) needs valkey.addresses: those of some {whose}"
    if valkey.mode == "sentinel":
        if valkey.sentinel_service is None:
            yield f"{mode} ({origins['valkey.mode']}) needs valkey.sentinel_service, the primary's name"
        yield from _without_meaning(settings, origins, _OF_ONE_SERVER, mode)
    else:
        yield from _without_meaning(settings, origins, (*_OF_ONE_SERVER, *_OF_SENTINELS, "valkey.db"), mode)


def _without_meaning(
    settings: Settings, origins: Mapping[str, str], names: Iterable[str], where: str
) -> Iterator[str]:
    for name in names:
        if KEYS[name].value_in(settings) != KEYS[name].default:
            yield f"{name} ({origins[name]}) has no meaning with {where}"


def _unusable_durability(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    level = settings.storage.durability
    if settings.uses_embedded_server and settings.storage.identity_file is not None:
        name = "storage.identity_file"
        yield f"{name} ({origins[name]}) has no meaning for the embedded server, which has one of its own"
    if level == "replica" and settings.uses_embedded_server:
        yield (
            f"storage.durability: 'replica' ({origins['storage.durability']}) needs replicas, and the "
            "embedded server has none; say disk, or set valkey.host to a Valkey that has"
        )
    if level != "replica" and settings.storage.replicas != KEYS["storage.replicas"].default:
        yield (
            f"storage.replicas ({origins['storage.replicas']}) has no meaning at storage.durability: {level}"
        )


# Each pair as (must not be above, this one).
_ORDERED = (
    ("subscriber.outbox_low", "subscriber.outbox_high"),
    ("poll.default_timeout", "poll.max_timeout"),
    ("poll.default_limit", "poll.max_limit"),
    ("hot_buffer.max_bytes", "hot_buffer.total_bytes"),
    ("topic.batch_max_messages", "topic.pending_max_messages"),
    ("publish.bulk_max_messages", "topic.pending_max_messages"),
    ("topic.batch_max_bytes", "topic.pending_max_bytes"),
    # Otherwise a request within the limit would be answered 503 for ever.
    ("server.max_body", "topic.pending_max_bytes"),
    ("subscriber.max_frame", "topic.pending_max_bytes"),
)


def _wrong_orders(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    for low, high in _ORDERED:
        low_value, high_value = (KEYS[name].value_in(settings) for name in (low, high))
        assert isinstance(low_value, int | float)
        assert isinstance(high_value, int | float)
        if low_value > high_value:
            yield (
                f"{low}: {KEYS[low].show(low_value)} ({origins[low]}) must not be above {high}, which is "
                f"{KEYS[high].show(high_value)} ({origins[high]})"
            )
