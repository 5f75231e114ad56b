"""A deployment of pulsar-relay 0.2.1 starts with the settings it has; what differs is told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from pulsar_relay import config_file
from pulsar_relay.config import ConfigError, Configuration, load
from pulsar_relay.keys import KEYS, secrets_in
from pulsar_relay.predecessor.names import NAMES
from tests.commands import CommandLine
from tests.relays import RelayProcess

MIGRATING = Path(__file__).resolve().parent.parent / "docs" / "migrating.md"
SECRET = "w3BzqD0tZtU7o5oC1mYb2V5e6s8Xf9Hk"

# As roles that install it write its environment file: every setting, also those with their default.
DEPLOYMENT = {
    "PULSAR_APP_NAME": "Pulsar Relay",
    "PULSAR_STORAGE_BACKEND": "valkey",
    "PULSAR_VALKEY_HOST": "valkey.example.org",
    "PULSAR_VALKEY_PORT": "6380",
    "PULSAR_VALKEY_USE_TLS": "true",
    "PULSAR_VALKEY_USERNAME": "",
    "PULSAR_VALKEY_PASSWORD": "valkey-hunter2",
    "PULSAR_VALKEY_CA_PATH": "/etc/ssl/valkey-ca.pem",
    "PULSAR_PERSISTENT_TIER_RETENTION": "172800",
    "PULSAR_MAX_MESSAGES_PER_TOPIC": "500000",
    "PULSAR_LOG_LEVEL": "WARNING",
    "PULSAR_JWT_SECRET_KEY": SECRET,
    "PULSAR_ALLOW_INSECURE_DEFAULTS": "false",
    "PULSAR_ALLOWED_ORIGINS": '["https://galaxy.example.org", "https://relay.example.org:443/"]',
    "PULSAR_TRUSTED_HOSTS": '["relay.example.org", "*.internal"]',
    "PULSAR_WS_MAX_PER_USER": "10",
    "PULSAR_WS_IDLE_SECONDS": "60",
    "PULSAR_MAX_BODY_BYTES": "1048576",
    "PULSAR_ACCESS_TOKEN_EXPIRE_MINUTES": "10",
    "PULSAR_REFRESH_TOKEN_TTL_DAYS": "90",
    "PULSAR_DEVICE_CODE_TTL_SECONDS": "900",
    "PULSAR_DEVICE_CODE_POLL_INTERVAL": "7",
    "PULSAR_OIDC__ENABLED": "true",
    "PULSAR_OIDC__BASE_URL": "https://relay.example.org",
    "PULSAR_OIDC__DEFAULT_PERMISSIONS": '["read", "write"]',
    "PULSAR_OIDC__STATE_TTL_SECONDS": "300",
    "PULSAR_OIDC__PROVIDERS__KEYCLOAK__DISPLAY_NAME": "Example login",
    "PULSAR_OIDC__PROVIDERS__KEYCLOAK__CLIENT_ID": "relay",
    "PULSAR_OIDC__PROVIDERS__KEYCLOAK__CLIENT_SECRET": "oidc-hunter2",
    "PULSAR_OIDC__PROVIDERS__KEYCLOAK__SCOPES": '["openid", "email"]',
    "PULSAR_OIDC__PROVIDERS__KEYCLOAK__DISCOVERY_URL": "https://login.example.org/discovery",
    "PULSAR_OIDC__PROVIDERS__KEYCLOAK__CLAIM_USERNAME": "preferred_username",
    "PULSAR_BOOTSTRAP_ADMIN_USERNAME": "admin",
    "PULSAR_BOOTSTRAP_ADMIN_PASSWORD": "admin-hunter2",
    "PULSAR_BOOTSTRAP_ADMIN_EMAIL": "admin@example.org",
    "PULSAR_RATE_LIMIT_STORAGE_URI": "redis://:valkey-hunter2@valkey.example.org:6380/1",
}
MEANT = {
    "valkey.host": "valkey.example.org",
    "valkey.port": "6380",
    "valkey.tls": "true",
    "valkey.username": "null",
    "valkey.password": "valkey-hunter2",
    "valkey.tls_ca": "/etc/ssl/valkey-ca.pem",
    "storage.persistent_tier_retention": "48h",
    "storage.max_messages_per_topic": "500000",
    "log.level": "warning",
    "auth.mode": "accounts",
    "auth.jwt_secret": SECRET,
    "auth.access_token_ttl": "10m",
    "auth.refresh_token_ttl": "90d",
    "auth.bootstrap_username": "admin",
    "auth.bootstrap_password": "admin-hunter2",
    "auth.bootstrap_email": "admin@example.org",
    "server.allowed_origins": "https://galaxy.example.org, https://relay.example.org",
    "server.allowed_hosts": "relay.example.org, *.internal",
    "server.max_body": "1MiB",
    "limits.connections_per_user": "10",
    "device.code_ttl": "15m",
    "device.poll_interval": "7s",
    "oidc.enabled": "true",
    "oidc.base_url": "https://relay.example.org",
    "oidc.default_permissions": "read, write",
    "oidc.state_ttl": "5m",
}
PLAIN = {"PULSAR_STORAGE_BACKEND": "valkey", "PULSAR_JWT_SECRET_KEY": SECRET}


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(config_file, "SYSTEM_FILES", (tmp_path / "etc.toml", tmp_path / "etc.yaml"))


def loaded(environment: dict[str, str] | None = None, file: Path | None = None) -> Configuration:
    return load(file=file, environment=environment or {})


def problems_of(environment: dict[str, str] | None = None, file: Path | None = None) -> str:
    with pytest.raises(ConfigError) as refused:
        loaded(environment, file)
    return "\n".join(refused.value.problems)


def given_in(configuration: Configuration) -> dict[str, str]:
    settings = configuration.settings
    return {
        name: key.show(key.value_in(settings))
        for name, key in KEYS.items()
        if configuration.origins[name] != "default"
    }


def test_a_whole_deployment_means_the_same_here_key_by_key() -> None:
    configuration = loaded(DEPLOYMENT)
    given = given_in(configuration)
    (provider,) = json.loads(given.pop("oidc.providers")).items()
    assert given == MEANT
    name, fields = provider
    assert name == "keycloak" and fields["client_secret"] == "oidc-hunter2"
    assert fields["scopes"] == ["openid", "email"] and fields["claim_username"] == "preferred_username"
    assert configuration.origins["valkey.port"] == "environment PULSAR_VALKEY_PORT"


def test_of_a_whole_deployment_is_told_what_differs_and_nothing_else() -> None:
    told = {notice.partition(":")[0].split()[-1] for notice in loaded(DEPLOYMENT).notices}
    assert told == {
        "PULSAR_APP_NAME",
        "PULSAR_VALKEY_CA_PATH",
        "PULSAR_PERSISTENT_TIER_RETENTION",
        "PULSAR_LOG_LEVEL",
        "PULSAR_ALLOW_INSECURE_DEFAULTS",
        "PULSAR_WS_MAX_PER_USER",
        "PULSAR_WS_IDLE_SECONDS",
        "PULSAR_MAX_BODY_BYTES",
        "PULSAR_RATE_LIMIT_STORAGE_URI",
    }


def test_every_name_becomes_a_setting_or_says_why_not() -> None:
    silent = {"storage_backend", "config_file"}
    for name, row in NAMES.items():
        assert row.key in KEYS or (row.key is None and (row.note or name in silent)), name


def test_no_secret_is_in_what_is_shown_or_told() -> None:
    configuration = loaded(DEPLOYMENT)
    shown = "\n".join([*configuration.notices, *(" ".join(row) for row in configuration.rows())])
    assert "hunter2" not in shown and SECRET not in shown and "Example login" in shown
    assert {"oidc-hunter2", "valkey-hunter2", "admin-hunter2", SECRET} <= set(
        secrets_in(configuration.settings)
    )


def test_the_guide_has_a_row_for_every_name() -> None:
    rows = set(re.findall(r"^\| `([a-z_.]+)` \|", MIGRATING.read_text(), re.MULTILINE))
    assert rows == set(NAMES) | {"oidc.providers"}


# Where it may stand


def test_variables_are_taken_in_any_case() -> None:
    configuration = loaded({"pulsar_storage_backend": "valkey", "Pulsar_Jwt_Secret_Key": SECRET})
    assert configuration.settings.valkey.host == "localhost"


def test_two_spellings_that_disagree_are_refused() -> None:
    assert "disagree" in problems_of({**PLAIN, "pulsar_valkey_port": "1", "PULSAR_VALKEY_PORT": "2"})


def test_a_file_of_variables_goes_before_the_configuration_file_and_the_environment_before_both() -> None:
    Path("config.yaml").write_text(
        f"jwt_secret_key: {SECRET}\nvalkey_port: 1\nmax_body_bytes: 40000000\nws_max_per_user: 5\n"
        "storage_backend: valkey\n"
    )
    Path(".env").write_text("PULSAR_VALKEY_PORT=2\nPULSAR_WS_MAX_PER_USER='6'\nOTHER=1\n")
    configuration = loaded({"PULSAR_VALKEY_PORT": "3"})
    settings = configuration.settings
    assert (settings.valkey.port, settings.limits.connections_per_user) == (3, 6)
    assert settings.server.max_body_bytes == 40_000_000
    assert configuration.origins["limits.connections_per_user"] == ".env PULSAR_WS_MAX_PER_USER"
    assert configuration.origins["server.max_body"] == "config.yaml:3 max_body_bytes"


@pytest.mark.parametrize("name", ["config.toml", "config.yaml", "config.yml", "etc.toml", "etc.yaml"])
def test_its_file_is_found_where_it_was_found_before(name: str) -> None:
    if name.endswith("toml"):
        text = f'jwt_secret_key = "{SECRET}"\nallowed_origins = ["https://a"]\nvalkey_port = 7\n'
        text += 'storage_backend = "valkey"\n[oidc]\nstate_ttl_seconds = 120\n'
        text += "[oidc.providers.x]\ndisplay_name = 'X'\nclient_id = '1'\nclient_secret = 's'\n"
        text += "discovery_url = 'https://x'\n"
    else:
        text = f"jwt_secret_key: {SECRET}\nallowed_origins: [https://a]\nvalkey_port: 7\n"
        text += "storage_backend: valkey\noidc:\n  state_ttl_seconds: 120\n"
        text += (
            "  providers: {X: {display_name: X, client_id: 1, client_secret: s, discovery_url: 'https://x'}}"
        )
    Path(name).write_text(text)
    settings = loaded().settings
    assert settings.valkey.port == 7 and settings.server.allowed_origins == ("https://a",)
    assert settings.oidc.state_ttl_seconds == 120.0
    assert settings.oidc.providers and settings.oidc.providers[0].name == "x"


def test_the_file_its_variable_names_is_read_and_must_be_there() -> None:
    Path("relay.toml").write_text(f'jwt_secret_key = "{SECRET}"\nlog_level = "ERROR"\n')
    assert loaded({"PULSAR_CONFIG_FILE": "relay.toml"}).settings.log.level == "error"
    assert "gone.toml: cannot be read" in problems_of({"PULSAR_CONFIG_FILE": "gone.toml"})


def test_two_files_in_one_place_are_refused() -> None:
    Path("config.toml").write_text("")
    Path("config.yaml").write_text("")
    assert "are both there; say with --config which is meant" in problems_of()


def test_the_relays_own_names_go_before_its_predecessors_in_each_place() -> None:
    Path("config.yaml").write_text(f"jwt_secret_key: {SECRET}\nlog_level: ERROR\nlog: {{level: debug}}\n")
    configuration = loaded()
    assert configuration.settings.log.level == "debug"
    assert (
        "config.yaml:2 log_level: has no effect: log.level is set by config.yaml:3" in configuration.notices
    )
    variables = {"PULSAR_LOG_LEVEL": "INFO", "RELAY_LOG_LEVEL": "critical"}
    assert loaded(variables).settings.log.level == "critical"
    assert loaded({"PULSAR_LOG_LEVEL": "INFO"}).settings.log.level == "info"


def test_what_it_only_implied_gives_way_to_what_is_said() -> None:
    Path("config.yaml").write_text("valkey: {unix_socket: /run/valkey.sock}\nauth: {mode: none}")
    settings = loaded({"PULSAR_STORAGE_BACKEND": "valkey"}).settings
    assert settings.valkey.host is None and settings.auth.mode == "none"


# What is refused, and what is only told


@pytest.mark.parametrize(
    ("variable", "value", "reason"),
    [
        ("PULSAR_VALKEY_PORT", "63x", "is not a whole number"),
        ("PULSAR_VALKEY_PORT", "", "is empty"),
        ("PULSAR_VALKEY_HOST", "", "is empty"),
        ("PULSAR_VALKEY_USE_TLS", "maybe", "is neither true nor false"),
        ("PULSAR_STORAGE_BACKEND", "postgres", "is neither memory nor valkey"),
        ("PULSAR_LOG_LEVEL", "LOUD", "is not one of the words allowed"),
        ("PULSAR_JWT_SECRET_KEY", "hunter2", "is too short"),
        ("PULSAR_JWT_SECRET_KEY", "your-secret-key-here-change-in-production", "everybody knows"),
        ("PULSAR_ACCESS_TOKEN_EXPIRE_MINUTES", "10m", "is not a whole number (of minutes)"),
        ("PULSAR_ACCESS_TOKEN_EXPIRE_MINUTES", "121", "is too large"),
        ("PULSAR_ALLOWED_ORIGINS", "https://a", "is not a JSON list"),
        ("PULSAR_ALLOWED_ORIGINS", '["galaxy"]', "that is no origin"),
        ("PULSAR_TRUSTED_HOSTS", '["https://a"]', "that is no host name"),
        ("PULSAR_OIDC__BASE_URL", "http://relay.example.org", "is no https address"),
        ("PULSAR_OIDC__PROVIDERS", "google", "is not a JSON object"),
        ("PULSAR_OIDC__PROVIDERS__X__CLIENT_ID", "1", "lacks display_name, client_secret, issuer"),
        ("PULSAR_OIDC__ENABLED", "true", "needs oidc.base_url"),
    ],
)
def test_a_wrong_value_is_refused_with_its_name_and_never_becomes_a_default(
    variable: str, value: str, reason: str
) -> None:
    problems = problems_of({**PLAIN, variable: value})
    assert variable in problems and reason in problems and "hunter2" not in problems


def test_one_wrong_value_in_its_file_does_not_discard_the_others_in_silence() -> None:
    Path("config.yaml").write_text(f"jwt_secret_key: {SECRET}\nvalkey_port: 99999\nmax_body_bytes: 5\n")
    problems = problems_of({"PULSAR_STORAGE_BACKEND": "valkey"})
    assert "config.yaml:2 valkey_port" in problems and "config.yaml:3 max_body_bytes" in problems


def test_an_unknown_name_is_told_with_the_one_that_is_meant() -> None:
    notices = loaded({**PLAIN, "PULSAR_VALKY_HOST": "x", "PULSAR_API_KEY": "y"}).notices
    assert (
        "environment PULSAR_VALKY_HOST: means nothing to the relay; did you mean 'PULSAR_VALKEY_HOST'?"
        in notices
    )
    assert any(notice.startswith("environment PULSAR_API_KEY: means nothing") for notice in notices)


def test_a_stranger_with_the_same_prefix_does_not_turn_accounts_on() -> None:
    configuration = loaded({"PULSAR_RELAY_ALLOW_INSECURE": "1"})
    assert configuration.settings.auth.mode == "none" and len(configuration.notices) == 1


def test_an_unknown_name_in_its_file_is_told_and_one_beside_our_sections_is_refused() -> None:
    Path("config.yaml").write_text(f"jwt_secret_key: {SECRET}\nhttp_port: 9000\n")
    assert any("http_port: means nothing" in notice for notice in loaded().notices)
    Path("config.yaml").write_text(f"jwt_secret_key: {SECRET}\nhttp_port: 9000\nserver: {{port: 1}}\n")
    assert "unknown section 'http_port'" in problems_of()


def test_with_its_memory_backend_the_embedded_server_is_used_and_valkey_is_not() -> None:
    variables = {"PULSAR_JWT_SECRET_KEY": SECRET, "PULSAR_VALKEY_HOST": "valkey.example.org"}
    for backend in ({}, {"PULSAR_STORAGE_BACKEND": "memory"}):
        configuration = loaded({**variables, **backend})
        assert configuration.settings.uses_embedded_server
        assert any("PULSAR_VALKEY_HOST: has no effect" in notice for notice in configuration.notices)


@pytest.mark.parametrize(
    "variables",
    [
        {"PULSAR_VALKEY_CA_PATH": "/ca", "PULSAR_VALKEY_USE_TLS": "false"},
        {"PULSAR_VALKEY_CA_PATH": "/ca"},
        {"PULSAR_BOOTSTRAP_ADMIN_USERNAME": "admin", "PULSAR_BOOTSTRAP_ADMIN_PASSWORD": ""},
        {"PULSAR_BOOTSTRAP_ADMIN_PASSWORD": "a password"},
    ],
)
def test_what_meant_nothing_without_another_means_nothing_here_and_is_told(variables: dict[str, str]) -> None:
    configuration = loaded({**PLAIN, **variables})
    given = [variable for variable, value in variables.items() if value not in ("", "false")]
    assert [notice.partition(":")[0] for notice in configuration.notices] == [
        f"environment {variable}" for variable in given
    ]
    assert configuration.settings.valkey.tls_ca is None
    assert configuration.settings.auth.bootstrap_password is None


def test_larger_bodies_than_ours_usually_are_have_room_to_wait_in() -> None:
    settings = loaded({**PLAIN, "PULSAR_MAX_BODY_BYTES": str(200 * 1024 * 1024)}).settings
    assert settings.topic.pending_max_bytes == settings.server.max_body_bytes == 200 * 1024 * 1024
    Path("config.yaml").write_text("topic: {pending_max_bytes: 1GiB}")
    settings = loaded({**PLAIN, "PULSAR_MAX_BODY_BYTES": str(200 * 1024 * 1024)}).settings
    assert settings.topic.pending_max_bytes == 1 << 30


def test_its_log_level_has_effect() -> None:
    assert loaded({**PLAIN, "PULSAR_LOG_LEVEL": "error"}).settings.log.level == "error"


@pytest.mark.parametrize("command", [("config", "show"), ("config", "check")], ids=" ".join)
def test_the_command_line_tells_what_differs(command_line: CommandLine, command: tuple[str, ...]) -> None:
    done = command_line.run(*command, variables={**PLAIN, "PULSAR_WS_IDLE_SECONDS": "60"})
    assert done.code == 0 and "PULSAR_WS_IDLE_SECONDS: has no effect: " in done.errors


def test_a_relay_that_starts_tells_what_differs_a_line_each(
    make_relay_process: Callable[..., RelayProcess],
) -> None:
    variables = {
        "RELAY_AUTH_MODE": "none",
        "PULSAR_JWT_SECRET_KEY": SECRET,
        "PULSAR_WS_IDLE_SECONDS": "60",
        "PULSAR_VALKY_HOST": "x",
    }
    relay = make_relay_process(variables=variables).start()
    told = [text for text in relay.messages if "PULSAR_" in text]
    assert len(told) == 2 and SECRET not in relay.log
    relay.stop()
