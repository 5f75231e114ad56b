"""A real Prometheus asks a real relay at work, and Valkey's exporter, all that alerts and dashboards ask."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import pytest
import requests
import yaml
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.account_relays import ADMIN, PASSWORD
from tests.accounts import SECRET
from tests.clusters import ValkeyCluster
from tests.conditions import WAIT_SECONDS, until
from tests.programs import program, running
from tests.relays import RelayProcess
from tests.reverse_proxies import free_port
from tests.test_alerts import DIRECTORY, RULES
from tests.test_consumers_api import acknowledge
from tests.test_sse import publish
from tests.valkeys import RealValkey
from tools.dashboards import dashboards

RANGE = "5s"
ACCOUNTS = {
    "RELAY_AUTH_MODE": "accounts",
    "RELAY_AUTH_JWT_SECRET": SECRET,
    "RELAY_AUTH_BOOTSTRAP_USERNAME": ADMIN,
    "RELAY_AUTH_BOOTSTRAP_PASSWORD": PASSWORD,
}
COMPARISON = re.compile(r" (==|>|<) ")


def rule_queries() -> Iterator[tuple[str, str]]:
    """What the alerts look at. A comparison is empty where all is well, so it is asked for its outcome."""
    for rule in RULES:
        for number, part in enumerate(re.split(r" (?:unless on \(job\)|or) ", rule["expr"])):
            yield f"{rule['alert']}-{number}", COMPARISON.sub(r" \1 bool ", part)


def panel_queries() -> Iterator[tuple[str, str]]:
    for path, text in dashboards().items():
        for panel in json.loads(text)["panels"]:
            for target in panel["targets"]:
                yield f"{path.stem}-{panel['title']}-{target['legendFormat']}", target["expr"]


QUERIES = dict([*rule_queries(), *panel_queries()])


def with_range(query: str) -> str:
    """Over a time that passes in a test."""
    return re.sub(r"\[(?:\d+[mh]|\$__rate_interval)\]", f"[{RANGE}]", query)


@dataclass(frozen=True, slots=True)
class Prometheus:
    url: str

    def ask(self, query: str) -> list[dict[str, Any]]:
        answer = requests.get(f"{self.url}/api/v1/query", {"query": query}, timeout=WAIT_SECONDS).json()
        assert answer["status"] == "success", answer
        result: list[dict[str, Any]] = answer["data"]["result"]
        return result

    def rules(self) -> list[dict[str, Any]]:
        answer = requests.get(f"{self.url}/api/v1/rules", timeout=WAIT_SECONDS).json()
        groups: list[dict[str, Any]] = answer["data"]["groups"]
        return groups


class Load:
    """Somebody who publishes, reads and acknowledges until told to stop."""

    def __init__(self, relay: RelayProcess) -> None:
        self._relay = relay
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _work(self) -> None:
        with connect(self._relay.ws_url) as reader:
            reader.send(json.dumps({"type": "subscribe", "topics": ["load"]}))
            reader.recv(timeout=WAIT_SECONDS)
            while not self._is_over.wait(0.02):
                [message_id] = publish(self._relay, "load", 1)
                reader.recv(timeout=WAIT_SECONDS)
                acknowledge(self._relay, "reader", topic="load", message_id=message_id)


def be_turned_away(relay: RelayProcess) -> None:
    """A wrong password, and a connection that a logout ends."""
    until(lambda: requests.get(f"{relay.url}/ready", timeout=WAIT_SECONDS).ok, "there is an admin")

    def login(password: str) -> requests.Response:
        form = {"username": ADMIN, "password": password}
        return requests.post(f"{relay.url}/auth/login", data=form, timeout=WAIT_SECONDS)

    assert login("not the password").status_code == 401
    bearer = {"Authorization": f"Bearer {login(PASSWORD).json()['access_token']}"}
    with connect(relay.ws_url, additional_headers=bearer) as reader:
        requests.post(f"{relay.url}/auth/logout", headers=bearer, timeout=WAIT_SECONDS).raise_for_status()
        with suppress(ConnectionClosed):
            while True:
                reader.recv(timeout=WAIT_SECONDS)


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, cluster_servers: ValkeyCluster
) -> Iterator[Prometheus]:
    """Scrapes twice a second, with the shipped configuration in all else, until each target was seen: a relay
    at work, one on a cluster, which tells of its shards too, and one with accounts.
    """
    directory = tmp_path_factory.mktemp("prometheus")
    server, exporter = program("prometheus"), program("prometheus-redis-exporter")
    with ExitStack() as stack:
        valkey = RealValkey(directory / "valkey", tcp=True)
        stack.callback(valkey.close)
        valkey.start()
        relay = RelayProcess(
            directory / "relay",
            *("--valkey-host", valkey.host, "--valkey-port", str(valkey.port)),
            *("--set", "storage.trim_interval=200ms", "--workers", "2"),
        )
        stack.callback(relay.close)
        relay.start()
        guarded = RelayProcess(directory / "guarded", variables=ACCOUNTS)
        stack.callback(guarded.close)
        guarded.start()
        addresses = ",".join(f"{host}:{port}" for host, port in cluster_servers.addresses)
        sharded = RelayProcess(
            directory / "sharded",
            *("--set", "valkey.mode=cluster", "--set", f"valkey.addresses={addresses}"),
        )
        stack.callback(sharded.close)
        sharded.start()
        port, exporter_port = free_port(), free_port()
        address = f"127.0.0.1:{exporter_port}"
        words = [exporter, "-redis.addr", f"redis://{valkey.host}:{valkey.port}"]
        stack.enter_context(running([*words, "-web.listen-address", address], directory))
        targets = {
            "relay:9090": [one.metrics_url.split("/")[2] for one in (relay, sharded, guarded)],
            "valkey-exporter:9121": [address],
            "localhost:9090": [f"127.0.0.1:{port}"],
        }
        config = configuration(targets)
        (directory / "prometheus.yml").write_text(json.dumps(config))
        (directory / "alerts.yml").write_text((DIRECTORY / "alerts.yml").read_text())
        words = [server, "--config.file=prometheus.yml", "--storage.tsdb.path=data"]
        stack.enter_context(running([*words, f"--web.listen-address=127.0.0.1:{port}"], directory))
        stack.enter_context(Load(relay))
        be_turned_away(guarded)
        found = Prometheus(f"http://127.0.0.1:{port}")
        until(lambda: answers(found), "Prometheus listens")
        seen = "sum(up) == 5 and sum(increase(relay_messages_delivered_total[5s])) > 0"
        until(lambda: found.ask(seen), "Prometheus sees all at work")
        yield found


def configuration(targets: dict[str, list[str]]) -> dict[str, Any]:
    """The shipped one with these targets in place of its own, which must be just them."""
    text = (DIRECTORY / "prometheus.yml").read_text()
    read: dict[str, Any] = yaml.safe_load(text)
    read["global"] = {"scrape_interval": "500ms", "evaluation_interval": "500ms"}
    named = {}
    for job in read["scrape_configs"]:
        for group in job["static_configs"]:
            named[job["job_name"]] = list(group["targets"])
            group["targets"] = [one for target in group["targets"] for one in targets[target]]
    assert named == {name: [target] for name, target in zip(named, targets, strict=True)}
    return read


def answers(prometheus: Prometheus) -> bool:
    try:
        return requests.get(f"{prometheus.url}/-/ready", timeout=WAIT_SECONDS).status_code == 200
    except requests.ConnectionError:
        return False


@pytest.mark.system
@pytest.mark.parametrize("query", QUERIES.values(), ids=QUERIES)
def test_a_query_finds_something(prometheus: Prometheus, query: str) -> None:
    def finds() -> bool:
        return any(found["value"][1] != "NaN" for found in prometheus.ask(with_range(query)))

    until(finds, query)


@pytest.mark.system
def test_each_rule_is_evaluated_and_none_holds_while_a_relay_is_well(prometheus: Prometheus) -> None:
    until(lambda: prometheus.ask("count(relay_consumers)"), "the survey was told")
    # What a busy machine may bring about by itself.
    slow = {"RelayProcessorFull", "ValkeyDiskSlow"}
    slow |= {"RelayPublishSlow", "RelayDeliverySlow", "RelayCanarySlow"}

    def holds_none() -> bool:
        rules = {rule["name"]: rule for group in prometheus.rules() for rule in group["rules"]}
        assert list(rules) == [rule["alert"] for rule in RULES]
        active = {name for name, rule in rules.items() if rule["alerts"]}
        return all(rule["health"] == "ok" for rule in rules.values()) and active <= slow

    until(holds_none, "all rules are evaluated, and quiet")
