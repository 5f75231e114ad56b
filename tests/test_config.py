from __future__ import annotations

import re
from pathlib import Path

import pytest

from pulsar_relay.config import ConfigError, Configuration, Given, assignment, load
from pulsar_relay.keys import KEYS, Key, secrets_in
from pulsar_relay.settings import Settings

SHIPPED = Path(__file__).resolve().parent.parent / "config.yaml"


@pytest.fixture(autouse=True)
def _empty_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def load_text(text: str, environment: dict[str, str] | None = None, *flags: Given) -> Configuration:
    path = Path("relay.yaml")
    path.write_text(text)
    return load(file=path, environment=environment or {}, flags=flags)


def problems_of(text: str = "", environment: dict[str, str] | None = None, *flags: Given) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        load_text(text, environment, *flags)
    return refused.value.problems


def test_without_any_source_every_key_has_its_default() -> None:
    configuration = load(file=None, environment={})
    assert configuration.settings == Settings()
    assert set(configuration.origins.values()) == {"default"}
    assert list(configuration.origins) == list(KEYS)


def test_a_file_goes_before_defaults_the_environment_before_it_and_flags_before_all() -> None:
    text = "server: {host: 127.0.0.2, port: 1, max_header: 8KiB}"
    environment = {"RELAY_SERVER_PORT": "2", "RELAY_SERVER_MAX_HEADER": "16KiB"}
    flag = Given("server.max_header", "32KiB", "flag --set")
    configuration = load_text(text, environment, flag)
    server = configuration.settings.server
    assert (server.host, server.port, server.max_header_bytes) == ("127.0.0.2", 2, 32768)
    assert configuration.origins["server.host"] == "relay.yaml:1"
    assert configuration.origins["server.port"] == "environment RELAY_SERVER_PORT"
    assert configuration.origins["server.max_header"] == "flag --set"
    assert configuration.origins["server.metrics_port"] == "default"


def test_the_shipped_file_names_every_key_and_changes_none() -> None:
    configuration = load(file=SHIPPED, environment={})
    assert configuration.settings == Settings()
    assert all(origin.startswith(f"{SHIPPED}:") for origin in configuration.origins.values())


def test_the_seed_documents_configuration_is_understood() -> None:
    text = """
        storage:
          persistent_tier_retention: 24h  # How long to keep in Valkey
          max_messages_per_topic: 1000000 # Max messages per topic stream
        valkey:
          pool_size: 100  # Increase for high concurrency
    """
    environment = {
        "VALKEY_HOST": "localhost",
        "VALKEY_PORT": "6380",
        "VALKEY_PASSWORD": "s3",
        "LOG_LEVEL": "DEBUG",
    }
    settings = load_text(text, environment).settings
    assert settings.storage.persistent_tier_retention_seconds == 86400.0
    assert (settings.valkey.host, settings.valkey.port, settings.valkey.password) == ("localhost", 6380, "s3")
    assert settings.log.level == "debug"
    assert not settings.uses_embedded_server


# Where the file is looked for


def test_a_file_named_config_yaml_in_the_working_directory_is_read() -> None:
    Path("config.yaml").write_text("server: {port: 7}")
    assert load(file=None, environment={}).settings.server.port == 7


def test_the_file_that_the_environment_names_is_read_instead() -> None:
    Path("config.yaml").write_text("server: {port: 7}")
    Path("other.yaml").write_text("server: {port: 8}")
    assert load(file=None, environment={"RELAY_CONFIG": "other.yaml"}).settings.server.port == 8


def test_a_file_named_by_flag_goes_before_the_one_the_environment_names() -> None:
    assert load_text("server: {port: 9}", {"RELAY_CONFIG": "missing.yaml"}).settings.server.port == 9


@pytest.mark.parametrize("name", ["missing.yaml", "directory"])
def test_a_named_file_that_cannot_be_read_is_an_error_not_a_default(name: str) -> None:
    Path("directory").mkdir()
    with pytest.raises(ConfigError, match=rf"{name}: cannot be read: "):
        load(file=None, environment={"RELAY_CONFIG": name})


def test_an_empty_name_of_a_file_is_an_error() -> None:
    with pytest.raises(ConfigError, match="RELAY_CONFIG is empty"):
        load(file=None, environment={"RELAY_CONFIG": ""})


# What a file may hold


@pytest.mark.parametrize("text", ["", "# nothing\n", "server:\n", "---\n"])
def test_an_empty_file_or_section_changes_nothing(text: str) -> None:
    assert load_text(text).settings == Settings()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sever: {port: 1}", "relay.yaml:1: unknown section 'sever'; did you mean 'server'?"),
        ("server:\n  prot: 1", "relay.yaml:2: no such setting: 'server.prot'; did you mean 'server.port'?"),
        (
            "server: {port: 1}\nserver: {port: 1}",
            "relay.yaml:2: 'server' stands twice in the file, first on line 1",
        ),
        (
            "server:\n  port: 1\n  port: 1",
            "relay.yaml:3: 'port' stands twice in section 'server', first on line 2",
        ),
        ("server: 5", "relay.yaml:1: section 'server' must be a mapping of names to values"),
        ("- server", "relay.yaml:1: the file must be a mapping of names to values"),
        ("server: {port: [1]}", "relay.yaml:1: server.port must be a single value"),
        ("server: {port: {a: 1}}", "relay.yaml:1: server.port must be a single value"),
        ("server: {[1]: 2}", "relay.yaml:1: a name in section 'server' must be a word"),
        ("server: {port: !ENV PORT}", "relay.yaml:1: server.port has a tag (!ENV) that means nothing here"),
        (
            "server: {port: ''}",
            "server.port: '' is empty (relay.yaml:1); allowed: a whole number from 0 to 65535",
        ),
    ],
)
def test_what_a_file_cannot_mean_is_refused_with_its_line(text: str, problem: str) -> None:
    assert problems_of(text) == (problem,)


@pytest.mark.parametrize("text", ["server: [", "a: b: c", "\t- x", "--- 1\n--- 2", "*nobody", "\x01"])
def test_what_is_not_one_yaml_document_is_refused(text: str) -> None:
    (problem,) = problems_of(text)
    assert problem.startswith("relay.yaml")
    assert "is not YAML" in problem


def test_bytes_that_are_not_text_are_refused() -> None:
    Path("relay.yaml").write_bytes(b"server: {host: \xff\xfe}")
    with pytest.raises(ConfigError, match=r"relay.yaml: is not YAML"):
        load(file=Path("relay.yaml"), environment={})


@pytest.mark.parametrize("word", ["off", "null", "~", "none", ""])
def test_the_metrics_port_can_be_turned_off_in_a_file_by_any_of_these_words(word: str) -> None:
    assert load_text(f"server:\n  metrics_port: {word}\n").settings.server.metrics_port is None


def test_words_that_yaml_takes_for_something_else_keep_their_meaning() -> None:
    settings = load_text("valkey: {host: on, password: 0123, tls: yes}\nserver: {port: 010}").settings
    assert (settings.valkey.host, settings.valkey.password, settings.valkey.tls) == ("on", "0123", True)
    assert settings.server.port == 10


# The environment


@pytest.mark.parametrize("key", list(KEYS.values()), ids=list(KEYS))
def test_every_key_can_be_set_by_its_systematic_variable(key: Key) -> None:
    variable = "RELAY_" + key.name.upper().replace(".", "_")
    environment = {variable: key.show(key.default)}
    if key.name == "valkey.port":
        environment["VALKEY_HOST"] = "localhost"
    configuration = load(file=None, environment=environment)
    assert configuration.origins[key.name] == f"environment {variable}"
    assert key.value_in(configuration.settings) == key.default


def test_an_unknown_variable_with_our_prefix_is_refused_and_the_nearest_is_named() -> None:
    assert problems_of("", {"RELAY_SERVER_PROT": "1"}) == (
        "environment RELAY_SERVER_PROT: no such setting; did you mean 'RELAY_SERVER_PORT'?",
    )


def test_variables_of_others_are_left_alone() -> None:
    environment = {"PULSAR_API_KEY": "x", "VALKEY_EXTRA": "x", "PATH": "/bin", "RELAYED": "x", "relay_x": "y"}
    assert load(file=None, environment=environment).settings == Settings()


def test_two_variables_for_one_key_may_agree_but_not_disagree() -> None:
    both = {"VALKEY_HOST": "::1", "RELAY_VALKEY_HOST": "::1"}
    assert load(file=None, environment=both).settings.valkey.host == "::1"
    assert problems_of("", {**both, "VALKEY_HOST": "b"}) == (
        "valkey.host: environment VALKEY_HOST and environment RELAY_VALKEY_HOST disagree",
    )


def test_an_empty_host_does_not_quietly_mean_the_embedded_server() -> None:
    (problem,) = problems_of("", {"VALKEY_HOST": ""})
    assert problem.startswith("valkey.host: '' is empty (environment VALKEY_HOST); allowed: ")


def test_an_empty_password_means_none() -> None:
    environment = {"VALKEY_HOST": "localhost", "VALKEY_PASSWORD": "", "VALKEY_USERNAME": ""}
    assert load(file=None, environment=environment).settings.valkey.password is None


@pytest.mark.parametrize(
    "environment", [{"VALKEY_PORT": "tcp://10.0.0.1:6379"}, {"RELAY_PORT": "tcp://10.0.0.1:80"}]
)
def test_variables_that_kubernetes_makes_up_are_explained(environment: dict[str, str]) -> None:
    (problem,) = problems_of("", environment)
    assert "enableServiceLinks: false" in problem


# Flags


def test_an_assignment_names_key_and_value() -> None:
    given = assignment("valkey.password = a=b ")
    assert (given.key, given.text, given.origin) == ("valkey.password", "a=b", "flag --set")


def test_an_assignment_without_a_value_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--set 'server.port': expected section.key=value"):
        assignment("server.port")


def test_an_unknown_key_in_a_flag_is_refused_and_the_nearest_is_named() -> None:
    assert problems_of("", {}, assignment("server.prot=1")) == (
        "flag --set: no such setting: 'server.prot'; did you mean 'server.port'?",
    )


def test_two_flags_that_disagree_are_refused() -> None:
    flags = (assignment("server.port=1"), Given("server.port", "2", "flag --port"))
    assert problems_of("", {}, *flags) == ("server.port: flag --set and flag --port disagree",)


# What is said about a bad value


def test_a_bad_value_is_reported_with_key_place_and_what_is_allowed() -> None:
    assert problems_of("server:\n  port: 80a") == (
        "server.port: '80a' is not a whole number (relay.yaml:2); allowed: a whole number from 0 to 65535",
    )


def test_all_problems_of_all_sources_are_reported_at_once() -> None:
    problems = problems_of("server: {port: x}", {"LOG_LEVEL": "loud"}, assignment("hot_buffer.max_age=1y"))
    assert [problem.split(":")[0] for problem in problems] == [
        "server.port",
        "log.level",
        "hot_buffer.max_age",
    ]


def test_a_bad_value_is_refused_even_if_a_later_source_gives_a_good_one() -> None:
    assert len(problems_of("server: {port: x}", {"RELAY_SERVER_PORT": "1"})) == 1


@pytest.mark.parametrize(
    "text",
    [
        "valkey: {host: h, password: hunter2\x01}",
        'valkey: {host: h, password: "hunter2\\n"}',
        "valkey: {host: h, password: hunter2, password: hunter3}",
        "valkey: {password: hunter2}",
        "valkey: {host: h, password: [hunter2]}",
        "valkey: {host: h, password: hunter2: }",
    ],
)
def test_no_complaint_repeats_a_password(text: str) -> None:
    assert "hunter" not in "\n".join(problems_of(text))


def test_a_password_is_masked_where_settings_are_shown_and_absence_is_not() -> None:
    shown = {name: value for name, value, _ in load_text("valkey: {host: h, password: hunter2}").rows()}
    assert shown["valkey.password"] == "********"
    assert {name: value for name, value, _ in load(file=None, environment={}).rows()}[
        "valkey.password"
    ] == "null"
    assert "hunter2" not in repr(Given("valkey.password", "hunter2", "flag --set"))


def test_what_is_shown_can_be_given_back() -> None:
    # A flag for the port would be somebody who has forgotten the host.
    configuration = load_text("server: {idle_timeout: 90}\nvalkey: {unix_socket: /run/v.sock}")
    flags = [Given(name, text, "flag --set") for name, text, _ in configuration.rows()]
    flags = [flag for flag in flags if flag.key != "valkey.port"]
    assert load(file=None, environment={}, flags=flags).settings == configuration.settings


# Settings that are right alone and wrong together


@pytest.mark.parametrize(
    ("text", "first_words"),
    [
        ("valkey: {host: localhost, unix_socket: /s}", "valkey.host (relay.yaml:1) and valkey.unix_socket"),
        (
            "valkey: {host: localhost, tls_ca: /ca}",
            "valkey.tls_ca (relay.yaml:1) has no meaning without valkey.tls",
        ),
        ("valkey: {port: 1}", "valkey.port (relay.yaml:1) has no meaning for the embedded server"),
        ("valkey: {password: x}", "valkey.password (relay.yaml:1) has no meaning for the embedded server"),
        ("valkey: {username: x}", "valkey.username (relay.yaml:1) has no meaning for the embedded server"),
        ("valkey: {tls: true}", "valkey.tls (relay.yaml:1) has no meaning for the embedded server"),
        ("valkey: {unix_socket: /s, port: 1}", "valkey.port (relay.yaml:1) has no meaning for a unix socket"),
        (
            "valkey: {allowed_eviction_policy: allkeys-lru}",
            "valkey.allowed_eviction_policy (relay.yaml:1) has no meaning for the embedded server",
        ),
        ("storage: {durability: replica}", "storage.durability: 'replica' (relay.yaml:1) needs replicas"),
        ("storage: {replicas: 2}", "storage.replicas (relay.yaml:1) has no meaning at storage.durability"),
        ("subscriber: {outbox_low: 1MiB}", "subscriber.outbox_low: 1MiB (relay.yaml:1) must not be above"),
        ("poll: {default_timeout: 2m}", "poll.default_timeout: 2m (relay.yaml:1) must not be above"),
        ("poll: {default_limit: 1001}", "poll.default_limit: 1001 (relay.yaml:1) must not be above"),
        ("hot_buffer: {max_bytes: 1GiB}", "hot_buffer.max_bytes: 1GiB (relay.yaml:1) must not be above"),
        ("topic: {pending_max_messages: 600}", "publish.bulk_max_messages: 1000 (default) must not be above"),
        ("server: {max_body: 65MiB}", "server.max_body: 65MiB (relay.yaml:1) must not be above"),
        ("subscriber: {max_frame: 65MiB}", "subscriber.max_frame: 65MiB (relay.yaml:1) must not be above"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(text: str, first_words: str) -> None:
    (problem,) = problems_of(text)
    assert problem.startswith(first_words)


def test_a_port_in_the_environment_without_a_host_is_somebodys_mistake() -> None:
    (problem,) = problems_of("", {"VALKEY_PORT": "6379"})
    assert problem.startswith("valkey.port (environment VALKEY_PORT) has no meaning for the embedded server")


def test_a_unix_socket_may_need_a_password() -> None:
    assert load_text("valkey: {unix_socket: /s, password: x}").settings.valkey.password == "x"


@pytest.mark.parametrize("key", ["host", "metrics_host"])
def test_listening_beyond_loopback_needs_to_be_allowed_by_name(key: str) -> None:
    (problem,) = problems_of(f"server: {{{key}: 0.0.0.0}}")
    assert re.match(rf"server\.{key}: '0\.0\.0\.0' \(relay\.yaml:1\) .*--allow-open", problem)
    allowed = load_text(f"server: {{{key}: 0.0.0.0, allow_open: true}}").settings.server
    assert allowed.beyond_loopback == (f"server.{key}",)


def test_with_accounts_the_relay_may_listen_anywhere() -> None:
    settings = load_text(
        f"server: {{host: 0.0.0.0}}\nauth: {{mode: accounts, jwt_secret: {SECRET}}}"
    ).settings
    assert settings.server.beyond_loopback and not settings.is_open_beyond_loopback


@pytest.mark.parametrize(
    "text",
    ["host: valkey", "host: 10.0.0.1, tls: true", "mode: cluster, addresses: 'localhost:1, node:1'"],
)
def test_a_valkey_on_another_machine_needs_a_password_or_to_be_allowed_without(text: str) -> None:
    (problem,) = problems_of(f"valkey: {{{text}}}")
    assert re.match(r"valkey\.(host|addresses): '\S+' \(relay\.yaml:1\) is another machine", problem)
    assert "requirepass" in problem and "VALKEY_PASSWORD" in problem and "valkey.allow_open: true" in problem
    assert load_text(f"valkey: {{{text}, password: x}}").settings.valkey.beyond_loopback
    assert load_text(f"valkey: {{{text}, allow_open: true}}").settings.valkey.allow_open


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "'::1'"])
def test_one_on_this_machine_does_not(host: str) -> None:
    assert not load_text(f"valkey: {{host: {host}}}").settings.valkey.beyond_loopback


# Sentinel and Cluster


def test_the_addresses_of_a_group_are_read_and_shown_alike() -> None:
    text = "valkey: {mode: cluster, addresses: 'a:1, [::1]:2,10.0.0.1:6379', password: x}"
    settings = load_text(text).settings
    assert settings.valkey.addresses == (("a", 1), ("::1", 2), ("10.0.0.1", 6379))
    assert KEYS["valkey.addresses"].show(settings.valkey.addresses) == "a:1, [::1]:2, 10.0.0.1:6379"
    assert not settings.uses_embedded_server


@pytest.mark.parametrize("text", ["a", "a:", ":1", "a:0", "a:65536", "a:1,", "a:1 b:2", "::1:2", "[::1]"])
def test_what_is_no_address_is_refused(text: str) -> None:
    assert "valkey.addresses" in problems_of(environment={"VALKEY_ADDRESSES": text})[0]


def test_sentinels_need_addresses_and_a_name_and_no_host() -> None:
    problems = problems_of("valkey: {mode: sentinel, host: a}")
    assert len(problems) == 3
    assert "needs valkey.addresses" in problems[0]
    assert "needs valkey.sentinel_service" in problems[1]
    assert "valkey.host (relay.yaml:1) has no meaning with valkey.mode: sentinel" in problems[2]


def test_a_cluster_has_one_database_and_no_sentinels() -> None:
    problems = problems_of(
        "valkey: {mode: cluster, addresses: '[::1]:1', db: 1, sentinel_service: s, port: 1}"
    )
    assert [problem.split(" ")[0] for problem in problems] == [
        "valkey.port",
        "valkey.sentinel_service",
        "valkey.db",
    ]


def test_addresses_of_a_group_need_its_mode() -> None:
    problems = problems_of("valkey: {host: localhost, addresses: 'a:1', sentinel_service: s}")
    assert [problem.split(" ")[0] for problem in problems] == ["valkey.addresses", "valkey.sentinel_service"]


# TOML, and lists


def test_sections_may_stand_in_toml() -> None:
    path = Path("relay.toml")
    path.write_text('[server]\nport = 7\nallowed_hosts = ["a", "b"]\n[log]\nlevel = "error"\n')
    configuration = load(file=path, environment={})
    assert configuration.settings.server.port == 7 and configuration.settings.log.level == "error"
    assert configuration.settings.server.allowed_hosts == ("a", "b")
    assert configuration.origins["server.port"] == "relay.toml server.port"


@pytest.mark.parametrize("text", ["password = hunter2", "[a", "a = 1\na = 2", "\xff"])
def test_what_is_not_toml_is_refused_without_repeating_it(text: str) -> None:
    path = Path("relay.toml")
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=r"relay.toml: is not TOML") as refused:
        load(file=path, environment={})
    assert "hunter2" not in str(refused.value)


def test_a_list_is_written_as_a_list_or_with_commas() -> None:
    for text in ("[a, b]", "'a, b'", "\n  - a\n  - b"):
        assert load_text(f"server:\n allowed_hosts: {text}").settings.server.allowed_hosts == ("a", "b")


def test_an_alias_within_itself_is_refused() -> None:
    assert "nested too deeply" in problems_of("oidc: {providers: &x {a: *x}}")[0]


def test_accounts_need_a_secret_and_an_admin_a_password() -> None:
    assert "needs auth.jwt_secret" in problems_of("auth: {mode: accounts}")[0]
    assert "has no meaning without auth.bootstrap_password" in problems_of("auth: {bootstrap_username: a}")[0]


SECRET = "0123456789abcdef0123456789abcdef"


@pytest.mark.parametrize("former", ["tiny", f"{SECRET},tiny", f"{SECRET},", ",".join([SECRET] * 9)])
def test_former_secrets_are_long_enough_and_are_repeated_to_nobody(former: str) -> None:
    (problem,) = problems_of(f"auth: {{jwt_former_secrets: '{former}'}}")
    assert problem.startswith("auth.jwt_former_secrets: the value ")
    assert "tiny" not in problem
    assert SECRET not in problem


def test_of_several_secrets_each_is_masked() -> None:
    other = SECRET[::-1]
    configuration = load_text(f"auth: {{jwt_former_secrets: '{SECRET}, {other}'}}")
    assert configuration.settings.auth.jwt_former_secrets == (SECRET, other)
    assert {SECRET, other} <= set(secrets_in(configuration.settings))
    assert SECRET not in repr(configuration.settings)
    assert not [row for row in configuration.rows() if SECRET in row[1]]


@pytest.mark.parametrize(
    ("name", "password", "wrong"),
    [("ab", "long enough", "username"), ("admin", "2short", "password")],
)
def test_an_admin_that_cannot_be_made_is_refused_before_the_start(
    name: str, password: str, wrong: str
) -> None:
    text = f"auth: {{bootstrap_username: {name}, bootstrap_password: {password}}}"
    (problem,) = problems_of(text)
    assert problem.startswith(f"auth.bootstrap_{wrong}: must be a text of")
    assert password not in problem
