"""The effective settings: built-in default < file < environment < flags.

Whatever cannot be honoured is refused: an unknown key, a value of the wrong kind or out of bounds, two names
for one key that disagree, a combination that makes no sense. All that is wrong is reported at once, each with
where it was said and what would be allowed. Reading settings opens the configuration file and `.env`, and
nothing else.

File and environment may speak in the names of the relay's predecessor (`predecessor/`); in each of the two
the relay's own names go before those.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pulsar_relay.accounts.user import NewUser, UserPatch
from pulsar_relay.config_file import FILE_VARIABLE, ConfigFile, file_to_read
from pulsar_relay.errors import RelayError
from pulsar_relay.given import ConfigError, Given, nearest
from pulsar_relay.keys import KEYS, Key, make_settings
from pulsar_relay.predecessor.environment import from_dotenv, from_environment
from pulsar_relay.predecessor.translation import Translation, overridden
from pulsar_relay.settings import Settings

__all__ = ["ConfigError", "Configuration", "Given", "Settings", "assignment", "load"]

_PREFIX = "RELAY_"
_DEFAULT_ORIGIN = "default"
# A Compose file says `VALKEY_PASSWORD: ${VALKEY_PASSWORD:-}`, and empty means "none" to everybody. An empty
# host, on the other hand, is somebody's missing variable, and would quietly start an embedded server.
_BLANK_IS_NULL = frozenset(
    {"valkey.username", "valkey.password", "valkey.sentinel_username", "valkey.sentinel_password"}
)


@dataclass(frozen=True, slots=True)
class Configuration:
    """The settings with the origin of each key (`default` where nobody said anything). `notices` is what an
    operator should know about names of the predecessor: what is different here, and what has no effect.
    """

    settings: Settings
    origins: Mapping[str, str]
    notices: tuple[str, ...] = ()

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """(key, value as one would write it, origin) for every key in the table's order, secrets masked."""
        for name, key in KEYS.items():
            yield name, key.masked(key.value_in(self.settings)), self.origins[name]


def load(*, file: Path | None, environment: Mapping[str, str], flags: Iterable[Given] = ()) -> Configuration:
    """Settings from all sources. Without `file`: what RELAY_CONFIG names, or a file where one is looked for.

    ConfigError, with all problems found, when anything is unreadable, unknown, malformed or inconsistent.
    """
    problems: list[str] = []
    notices: list[str] = []
    path = file_to_read(file, environment)
    of_file = None if path is None else ConfigFile(path)
    ours_of_file = of_file.ours if of_file else []
    problems += of_file.problems if of_file else []
    ours_of_environment = _from_environment(environment, problems)
    flags = list(flags)
    ours = [*ours_of_file, *ours_of_environment, *flags]
    translation = Translation(
        of_file.theirs if of_file else [],
        [*from_dotenv(problems, notices), *from_environment(environment, problems, notices)],
        {given.key for given in ours},
    )
    problems += translation.problems
    sources = [
        *(translation.implied, translation.of_file, ours_of_file),
        *(translation.of_environment, ours_of_environment, flags),
    ]
    values, origins = _parsed(sources, problems)
    if problems:
        raise ConfigError(problems)
    settings = make_settings(values)
    problems.extend(inconsistencies(settings, origins))
    if problems:
        raise ConfigError(problems)
    notices += translation.notices
    notices += overridden([*translation.of_file, *translation.of_environment], origins)
    return Configuration(settings, MappingProxyType(origins), tuple(notices))


def _parsed(sources: Iterable[list[Given]], problems: list[str]) -> tuple[dict[str, object], dict[str, str]]:
    """The value of each key that somebody gave, the last one's, and the origin of every key."""
    values: dict[str, object] = {}
    origins: dict[str, str] = dict.fromkeys(KEYS, _DEFAULT_ORIGIN)
    for source in sources:
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
    return values, origins


def assignment(text: str) -> Given:
    """The Given of a `--set section.key=value`."""
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError([f"--set {name!r}: expected section.key=value"])
    return Given(name.strip(), value.strip(), "flag --set")


def _from_environment(environment: Mapping[str, str], problems: list[str]) -> list[Given]:
    keys = {variable: key.name for key in KEYS.values() for variable in key.environment}
    given = []
    for variable, text in environment.items():
        if variable in keys:
            name = keys[variable]
            blank = not text and name in _BLANK_IS_NULL
            given.append(Given(name, "null" if blank else text, f"environment {variable}"))
        elif variable.startswith(_PREFIX) and variable != FILE_VARIABLE:
            hint = _kubernetes_cure(text) or nearest(variable, [*keys, FILE_VARIABLE])
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
    return f"{origin}: no such setting: {name!r}{nearest(name, KEYS)}"


def inconsistencies(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    """Settings that are right alone and wrong together."""
    yield from _unusable_valkey_settings(settings, origins)
    yield from _unusable_durability(settings, origins)
    yield from _wrong_orders(settings, origins)
    yield from _unusable_accounts(settings, origins)
    yield from _unusable_sign_in(settings, origins)
    yield from _open_doors(settings, origins)


def _open_doors(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    """What strangers would get at, unless somebody says that there are none."""
    if settings.is_open_beyond_loopback and not settings.server.allow_open:
        for name in settings.server.beyond_loopback:
            yield (
                f"{name}: {KEYS[name].value_in(settings)!r} ({origins[name]}) can be reached by other "
                "machines, and without accounts whoever reaches the relay can read and write any topic; use "
                "127.0.0.1, have users log in (auth.mode: accounts), or say --allow-open (server.allow_open: "
                "true) if the network keeps strangers out"
            )
    valkey = settings.valkey
    if valkey.beyond_loopback and valkey.password is None and not valkey.allow_open:
        name = "valkey.host" if valkey.mode == "standalone" else "valkey.addresses"
        yield (
            f"{name}: {valkey.beyond_loopback[0]!r} ({origins[name]}) is another machine, and whoever "
            "reaches a Valkey without a password reads and changes everything in it; have Valkey ask for one "
            "(requirepass) and say it in VALKEY_PASSWORD (valkey.password), or say valkey.allow_open: true "
            "if the network keeps strangers out"
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
        names = ["valkey.port", "valkey.tls", "valkey.allow_open"] + (
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


def _unusable_accounts(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    auth = settings.auth
    if auth.mode == "accounts" and auth.jwt_secret is None:
        yield (
            f"auth.mode: accounts ({origins['auth.mode']}) needs auth.jwt_secret, which signs tokens: "
            "RELAY_AUTH_JWT_SECRET=$(openssl rand -base64 48)"
        )
    if (auth.bootstrap_username is None) != (auth.bootstrap_password is None):
        one, other = "auth.bootstrap_username", "auth.bootstrap_password"
        if auth.bootstrap_username is None:
            one, other = other, one
        yield f"{one} ({origins[one]}) has no meaning without {other}"
    elif auth.bootstrap_username is not None and auth.bootstrap_password is not None:
        yield from _unusable_admin(auth.bootstrap_username, auth.bootstrap_email, auth.bootstrap_password)


def _unusable_admin(username: str, email: str | None, password: str) -> Iterator[str]:
    try:
        UserPatch(password=password)
        NewUser(username, email)
    except RelayError as error:
        for wrong in error.errors:
            yield f"auth.bootstrap_{wrong.loc[-1]}: {wrong.message}"


def _unusable_sign_in(settings: Settings, origins: Mapping[str, str]) -> Iterator[str]:
    if not settings.oidc.enabled:
        return
    for name in ("oidc.base_url", "oidc.providers"):
        if not KEYS[name].value_in(settings):
            yield f"oidc.enabled ({origins['oidc.enabled']}) needs {name}"


# Each pair as (must not be above, this one).
_ORDERED = (
    ("subscriber.outbox_low", "subscriber.outbox_high"),
    ("poll.default_timeout", "poll.max_timeout"),
    ("limits.login_backoff_first", "limits.login_backoff_longest"),
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
