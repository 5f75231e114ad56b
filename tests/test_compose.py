"""The stack of docker-compose.yml, as far as it can be judged without a docker engine."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
import yaml

from pulsar_relay.config import inconsistencies
from pulsar_relay.keys import KEYS, make_settings
from tests.conditions import WAIT_SECONDS
from tests.relays import REPOSITORY
from tests.valkeys import VALKEY_CONF

STACK = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
VARIABLES = {name: key for key in KEYS.values() for name in key.environment}
PORTS = {
    "valkey": ["127.0.0.1:6379:6379"],
    "relay": ["127.0.0.1:8080:8080", "127.0.0.1:9090:9090"],
    "prometheus": ["127.0.0.1:9091:9090"],
    "grafana": ["127.0.0.1:3000:3000"],
}
RELAY = SERVICES["relay"]["environment"]


def test_it_is_valid_by_the_schema_of_compose_files() -> None:
    words = ["--builtin-schema", "vendor.compose-spec", "docker-compose.yml"]
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *words],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_variable_of_the_relay_is_a_setting_with_a_value_that_is_allowed() -> None:
    values = {VARIABLES[name].name: VARIABLES[name].parse(value) for name, value in RELAY.items()}
    settings = make_settings(values)
    assert settings.valkey.host in SERVICES
    assert not list(inconsistencies(settings, dict.fromkeys(KEYS, "")))
    assert settings.server.beyond_loopback and settings.server.allow_open
    assert str(settings.storage.identity_file).startswith("/data/")


def test_ports_are_the_promised_ones_and_open_on_this_machine_only() -> None:
    assert {name: service["ports"] for name, service in SERVICES.items() if "ports" in service} == PORTS


def test_what_is_mounted_exists_and_each_volume_is_declared() -> None:
    used = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source, _, options = volume.partition(":")
            if source.startswith("./"):
                assert (REPOSITORY / source).exists(), source
                assert options.endswith(":ro"), source
            else:
                used.add(source)
    assert used == set(STACK["volumes"])


def test_the_relay_has_time_to_stop_in_order() -> None:
    server = make_settings({}).server
    needed = server.shutdown_notice_seconds + server.shutdown_deadline_seconds
    assert float(SERVICES["relay"]["stop_grace_period"].removesuffix("s")) > needed


def test_prometheus_asks_services_of_the_stack_at_ports_they_listen_on() -> None:
    config = yaml.safe_load((REPOSITORY / "deploy/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job["static_configs"][0]["targets"][0] for job in config["scrape_configs"]}
    assert jobs == {
        "relay": f"relay:{make_settings({}).server.metrics_port}",
        "valkey": "valkey-exporter:9121",
        "prometheus": "localhost:9090",
    }
    assert {target.split(":")[0] for target in jobs.values()} <= {*SERVICES, "localhost"}


def test_the_exporter_asks_the_stacks_valkey() -> None:
    assert SERVICES["valkey-exporter"]["environment"] == {
        "REDIS_ADDR": f"redis://{RELAY['VALKEY_HOST']}:6379",
        "REDIS_PASSWORD": RELAY["VALKEY_PASSWORD"],
    }


def test_grafana_finds_its_source_and_its_dashboards() -> None:
    mounts = dict(volume.split(":")[:2][::-1] for volume in SERVICES["grafana"]["volumes"])
    provisioning = REPOSITORY / mounts["/etc/grafana/provisioning"]
    source = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"][0]
    assert source["url"] == f"http://prometheus:{PORTS['prometheus'][0].split(':')[-1]}"
    provider = yaml.safe_load((provisioning / "dashboards/relay.yml").read_text())["providers"][0]
    dashboards = REPOSITORY / mounts[provider["options"]["path"]]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    first = dashboards / home.removeprefix(f"{provider['options']['path']}/")
    assert json.loads(first.read_text())["title"] == "Message throughput"


@pytest.mark.parametrize("name", [name for name, service in SERVICES.items() if "build" not in service])
def test_each_image_is_of_a_version(name: str) -> None:
    assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?", SERVICES[name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_no_log_grows_for_ever_and_who_dies_is_started_again(name: str) -> None:
    assert SERVICES[name]["logging"]["options"].keys() == {"max-size", "max-file"}
    assert SERVICES[name]["restart"] == "unless-stopped"


def test_valkey_loads_the_file_that_the_tests_run_on_and_keeps_its_data_in_a_volume() -> None:
    valkey = SERVICES["valkey"]
    source, target, options = valkey["volumes"][0].split(":")
    assert (REPOSITORY / source).resolve() == VALKEY_CONF.resolve()
    password = RELAY["VALKEY_PASSWORD"]
    assert (valkey["command"], options) == (["valkey-server", target, "--requirepass", password], "ro")
    assert valkey["environment"] == {"REDISCLI_AUTH": password}
    # The image's working directory, and so where `dir` is when the file does not set it.
    assert "valkey-data:/data" in valkey["volumes"]
    assert not re.search(r"^dir ", VALKEY_CONF.read_text(), re.MULTILINE)
