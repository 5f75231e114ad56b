from __future__ import annotations

import json

import pytest

from pulsar_relay.keys import KEYS
from tests.commands import CommandLine


@pytest.fixture
def shell(command_line: CommandLine) -> CommandLine:
    """Commands in a directory with a configuration file."""
    (command_line.directory / "config.yaml").write_text("server:\n  port: 8081\nlog:\n  level: debug\n")
    return command_line


def test_every_setting_is_shown_with_its_origin(shell: CommandLine) -> None:
    done = shell.run("config", "show", "--host", "localhost", variables={"LOG_LEVEL": "warning"})
    assert done.code == 0
    rows = {line.split()[0]: line.split(maxsplit=1)[1] for line in done.text.splitlines()}
    assert list(rows) == list(KEYS)
    assert rows["server.port"].split() == ["8081", "config.yaml:2"]
    assert rows["server.host"].split() == ["localhost", "flag", "--host"]
    assert rows["log.level"].split() == ["warning", "environment", "LOG_LEVEL"]
    assert rows["server.metrics_port"].split() == ["9090", "default"]


def test_as_json_it_is_one_object(shell: CommandLine) -> None:
    shown = json.loads(shell.run("config", "show", "--json", "--set", "server.port=1").text)
    assert list(shown) == list(KEYS)
    assert shown["server.port"] == {"value": "1", "origin": "flag --set"}


SECRETS = {
    "VALKEY_PASSWORD": "open-sesame-of-valkey",
    "RELAY_VALKEY_SENTINEL_PASSWORD": "open-sesame-of-sentinels",
    "RELAY_AUTH_JWT_SECRET": "open-sesame-that-signs-all-the-tokens",
    "RELAY_AUTH_JWT_FORMER_SECRETS": "open-sesame-that-has-signed-tokens-before",
    "RELAY_AUTH_BOOTSTRAP_PASSWORD": "open-sesame-of-the-admin",
    "RELAY_OIDC_PROVIDERS": json.dumps(
        {
            "login": {
                "display_name": "Login",
                "client_id": "relay",
                "client_secret": "open-sesame-of-the-provider",
                "discovery_url": "https://login.example.org/discovery",
            }
        }
    ),
}
USED_WITH = {
    "RELAY_VALKEY_MODE": "sentinel",
    "RELAY_VALKEY_ADDRESSES": "sentinel.example.org:26379",
    "RELAY_VALKEY_SENTINEL_SERVICE": "relay",
    "RELAY_AUTH_MODE": "accounts",
    "RELAY_AUTH_BOOTSTRAP_USERNAME": "admin",
}


def test_every_secret_there_is_is_among_those_that_are_tried() -> None:
    secret = {name for key in KEYS.values() if key.declaration.secret for name in key.environment}
    assert set(SECRETS) <= secret
    assert len(SECRETS) == sum(key.declaration.secret for key in KEYS.values())


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_no_secret_is_shown(shell: CommandLine, options: tuple[str, ...]) -> None:
    done = shell.run("config", "show", *options, variables=SECRETS | USED_WITH)
    assert done.code == 0, done.errors
    assert done.text.count("********") == len(SECRETS)
    assert "sesame" not in done.text + done.errors


def test_doctor_shows_none_either(shell: CommandLine) -> None:
    variables = {name: value for name, value in SECRETS.items() if "SENTINEL" not in name}
    variables |= {"RELAY_AUTH_MODE": "accounts", "RELAY_AUTH_BOOTSTRAP_USERNAME": "admin"}
    variables |= {"VALKEY_HOST": "127.0.0.1", "VALKEY_PORT": "1"}
    done = shell.run("doctor", variables=variables)
    assert done.code == 2 and "store_unavailable" in done.errors
    assert "sesame" not in done.text + done.errors


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_a_secret_is_not_shown(shell: CommandLine, options: tuple[str, ...]) -> None:
    variables = {"VALKEY_HOST": "valkey", "VALKEY_PASSWORD": "open-sesame"}
    done = shell.run("config", "show", *options, variables=variables)
    assert done.code == 0 and "********" in done.text and "open-sesame" not in done.text + done.errors


def test_on_a_terminal_it_is_a_table(shell: CommandLine) -> None:
    code, shown = shell.run_on_terminal("config", "show")
    assert code == 0 and "setting" in shown.splitlines()[0] and "config.yaml:2" in shown


def test_what_is_shown_can_be_loaded_again(shell: CommandLine) -> None:
    first = json.loads(shell.run("config", "show", "--json").text)
    # Except for this one, which nobody can give without a host.
    del first["valkey.port"]
    words = [word for name, row in first.items() for word in ("--set", f"{name}={row['value']}")]
    second = json.loads(shell.run("config", "show", "--json", *words).text)
    assert all(second[name] == {"value": row["value"], "origin": "flag --set"} for name, row in first.items())


def test_another_file_is_read_when_it_is_named(shell: CommandLine) -> None:
    (shell.directory / "other.yaml").write_text("server: {port: 8082}\n")
    shown = json.loads(shell.run("config", "show", "--json", "--config", "other.yaml").text)
    assert shown["server.port"] == {"value": "8082", "origin": "other.yaml:1"}
    variables = {"RELAY_CONFIG": "other.yaml"}
    assert shell.run("config", "show", "--json", variables=variables).text.count("other.yaml:1") == 1


@pytest.mark.parametrize("command", [("config", "check"), ("config", "show"), ("serve",)], ids=" ".join)
def test_every_problem_is_told_and_nothing_else_is_done(shell: CommandLine, command: tuple[str, ...]) -> None:
    done = shell.run(
        *command,
        *("--set", "server.prot=1", "--port", "80a", "--set", "nothing"),
        variables={"RELAY_NONSENSE": "1"},
    )
    assert done.code == 2 and done.output == b""
    assert done.errors.startswith("config: --set 'nothing'")
    done = shell.run(
        *command,
        *("--set", "server.prot=1", "--port", "80a"),
        variables={"RELAY_NONSENSE": "1", "VALKEY_PASSWORD": "\x01secret"},
    )
    assert done.code == 2 and done.output == b"" and "secret" not in done.errors
    problems = done.errors.splitlines()
    assert all(problem.startswith("config: ") for problem in problems)
    for name in ("server.prot", "server.port", "RELAY_NONSENSE", "valkey.password"):
        assert any(name in problem for problem in problems), name
    assert "did you mean 'server.port'?" in done.errors


def test_a_file_that_is_not_there_is_told(shell: CommandLine) -> None:
    done = shell.run("config", "check", "--config", "gone.yaml")
    assert done.code == 2 and done.errors == "config: gone.yaml: cannot be read: No such file or directory\n"


def test_a_configuration_that_can_be_used_passes(shell: CommandLine) -> None:
    done = shell.run("config", "check", "--allow-open", "--host", "0.0.0.0")
    assert done.code == 0 and "can be used" in done.text


def test_listening_wide_without_accounts_needs_to_be_allowed(shell: CommandLine) -> None:
    done = shell.run("config", "check", "--host", "0.0.0.0")
    assert done.code == 2 and "--allow-open" in done.errors
    assert shell.run("config", "check", "--host", "0.0.0.0", "--no-allow-open").code == 2


def test_a_flag_given_with_another_value_elsewhere_is_refused(shell: CommandLine) -> None:
    done = shell.run("config", "check", "--port", "1", "--set", "server.port=2")
    assert done.code == 2 and "disagree" in done.errors


def test_every_flag_of_the_settings_is_an_option(shell: CommandLine) -> None:
    text = shell.run("serve", "--help").text
    flags = [key.declaration.flag for key in KEYS.values() if key.declaration.flag]
    assert flags and all(f"{flag} " in text for flag in flags)
