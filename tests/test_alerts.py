"""The alert rules: each fires where it should, and all are quiet over a relay that is well."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pulsar_relay.server import RESERVED_FILES
from tests.programs import run
from tests.relays import REPOSITORY

DIRECTORY = REPOSITORY / "deploy" / "prometheus"
RULES = [
    rule
    for group in yaml.safe_load((DIRECTORY / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
MINUTES = 60
BUCKETS = ("0.1", "0.25", "1.0", "2.5", "+Inf")


def histogram(name: str, slow_a_minute: int) -> dict[str, str]:
    """Of 100 observations a minute so many take between 1 and 2.5 s, the others less than 0.1 s."""
    counts = (100 - slow_a_minute, 100 - slow_a_minute, 100 - slow_a_minute, 100, 100)
    return {
        f'{name}_bucket{{instance="r",job="relay",le="{bound}"}}': f"0+{count}x{MINUTES}"
        for bound, count in zip(BUCKETS, counts, strict=True)
    }


def steady(value: float) -> str:
    return f"{value}+0x{MINUTES}"


def growing(a_minute: float) -> str:
    return f"0+{a_minute}x{MINUTES}"


RELAY = '{instance="r",job="relay"}'
VALKEY = '{instance="v",job="valkey"}'
WELL: dict[str, str] = {
    f"up{RELAY}": steady(1),
    f"up{VALKEY}": steady(1),
    'relay_ready{instance="r",job="relay",leg="valkey_write"}': steady(1),
    'relay_shard_ready{instance="r",job="relay",shard="a:1"}': steady(1),
    'relay_valkey_errors_total{instance="r",job="relay",code="store_full"}': steady(3),
    f"relay_publishes_refused_total{RELAY}": steady(7),
    **histogram("relay_publish_latency_seconds", 0),
    **histogram("relay_delivery_latency_seconds", 0),
    f"relay_canary_seconds{RELAY}": steady(0.002),
    f"relay_lagging_subscribers{RELAY}": steady(5),
    'relay_connections{instance="r",job="relay",transport="websocket"}': steady(40),
    'relay_connections{instance="r",job="relay",transport="sse"}': steady(10),
    f"relay_gaps_total{RELAY}": steady(2),
    f"relay_resets_total{RELAY}": steady(1),
    f"relay_order_inversions_total{RELAY}": steady(0),
    f"relay_duplicates_total{RELAY}": steady(0),
    f"relay_unannounced_gaps_total{RELAY}": steady(0),
    f"relay_topics_failed_total{RELAY}": steady(0),
    f"relay_consumers{RELAY}": steady(4),
    f"relay_consumers_near_loss{RELAY}": steady(0),
    f"relay_consumers_with_losses{RELAY}": steady(0),
    f"relay_takeovers_total{RELAY}": growing(1),
    'relay_account_deeds_refused_total{instance="r",job="relay",deed="sign_in"}': growing(5),
    'relay_account_deeds_refused_total{instance="r",job="relay",deed="refresh"}': growing(5),
    'relay_account_deeds_refused_total{instance="r",job="relay",deed="grant"}': growing(60),
    f"relay_workers{RELAY}": steady(2),
    'relay_worker_up{instance="r",job="relay",worker="1"}': steady(1),
    f"relay_worker_restarts_total{RELAY}": "0+0x20 2+0x40",
    f"process_open_fds{RELAY}": steady(640),
    f"process_max_fds{RELAY}": steady(1024),
    f"process_cpu_seconds_total{RELAY}": growing(48),
    f"redis_up{VALKEY}": steady(1),
    f"redis_memory_used_bytes{VALKEY}": steady(80),
    f"redis_memory_max_bytes{VALKEY}": steady(100),
    f"redis_evicted_keys_total{VALKEY}": steady(0),
    f"redis_aof_enabled{VALKEY}": steady(1),
    f"redis_aof_last_write_status{VALKEY}": steady(1),
    f"redis_aof_last_bgrewrite_status{VALKEY}": steady(1),
    f"redis_rdb_last_bgsave_status{VALKEY}": steady(1),
    f"redis_aof_delayed_fsync{VALKEY}": steady(1),
    f"redis_rejected_connections_total{VALKEY}": steady(0),
}
"""Near to the limits on the right side of them, with counters that have counted before."""
ABSENT = ""

ILL: dict[str, list[dict[str, str]]] = {
    "RelayDown": [{f"up{RELAY}": steady(0)}],
    "RelayNotReady": [{'relay_ready{instance="r",job="relay",leg="valkey_write"}': steady(0)}],
    "RelayShardNotReady": [{'relay_shard_ready{instance="r",job="relay",shard="a:1"}': steady(0)}],
    "RelayValkeyErrors": [
        {'relay_valkey_errors_total{instance="r",job="relay",code="store_full"}': growing(1)}
    ],
    "RelayPublishesRefused": [{f"relay_publishes_refused_total{RELAY}": growing(1)}],
    "RelayPublishSlow": [histogram("relay_publish_latency_seconds", 5)],
    "RelayDeliverySlow": [histogram("relay_delivery_latency_seconds", 5)],
    "RelayCanarySlow": [{f"relay_canary_seconds{RELAY}": steady(1.5)}],
    "RelaySubscribersLag": [{f"relay_lagging_subscribers{RELAY}": steady(6)}],
    "RelayGaps": [{f"relay_gaps_total{RELAY}": growing(1)}],
    "RelayResets": [{f"relay_resets_total{RELAY}": growing(1)}],
    "RelayBroken": [
        {f"relay_order_inversions_total{RELAY}": growing(1)},
        {f"relay_duplicates_total{RELAY}": growing(1)},
        {f"relay_unannounced_gaps_total{RELAY}": growing(1)},
        {f"relay_topics_failed_total{RELAY}": growing(1)},
    ],
    "RelayConsumersNearLoss": [{f"relay_consumers_near_loss{RELAY}": steady(1)}],
    "RelayConsumersLoseMessages": [{f"relay_consumers_with_losses{RELAY}": steady(1)}],
    "RelayConsumersUnwatched": [{f"relay_consumers{RELAY}": ABSENT}],
    "RelayTakeovers": [{f"relay_takeovers_total{RELAY}": growing(12)}],
    "RelayLoginsRefused": [
        {'relay_account_deeds_refused_total{instance="r",job="relay",deed="sign_in"}': growing(9)},
        {'relay_account_deeds_refused_total{instance="r",job="relay",deed="refresh"}': growing(9)},
    ],
    "RelayFilesRunOut": [{f"process_open_fds{RELAY}": steady(660)}],
    "RelayProcessorFull": [{f"process_cpu_seconds_total{RELAY}": growing(58)}],
    "RelayWorkerSilent": [{'relay_worker_up{instance="r",job="relay",worker="1"}': steady(0)}],
    "RelayWorkersEnd": [{f"relay_worker_restarts_total{RELAY}": growing(0.5)}],
    "ValkeyDown": [{f"redis_up{VALKEY}": steady(0)}, {f"redis_up{VALKEY}": ABSENT, f"up{VALKEY}": steady(0)}],
    "ValkeyMemoryNearLimit": [{f"redis_memory_used_bytes{VALKEY}": steady(90)}],
    "ValkeyWithoutMemoryLimit": [{f"redis_memory_max_bytes{VALKEY}": steady(0)}],
    "ValkeyEvicts": [{f"redis_evicted_keys_total{VALKEY}": growing(1)}],
    "ValkeyAppendOnlyFileFails": [{f"redis_aof_last_write_status{VALKEY}": steady(0)}],
    "ValkeyAppendOnlyFileOff": [{f"redis_aof_enabled{VALKEY}": steady(0)}],
    "ValkeyRewriteFails": [{f"redis_aof_last_bgrewrite_status{VALKEY}": steady(0)}],
    "ValkeySnapshotFails": [{f"redis_rdb_last_bgsave_status{VALKEY}": steady(0)}],
    "ValkeyDiskSlow": [{f"redis_aof_delayed_fsync{VALKEY}": growing(1)}],
    "ValkeyRejectsConnections": [{f"redis_rejected_connections_total{VALKEY}": growing(1)}],
}
"""What is otherwise than well, each of it enough for the alert, and for no other one."""


@dataclass(frozen=True, slots=True)
class Case:
    series: dict[str, str]
    firing: frozenset[str]
    interval: str = "1m"
    looks: Sequence[str] = ("40m",)
    """When it is looked for what fires; after half an hour every rule has waited long enough."""

    def as_json(self) -> dict[str, Any]:
        """For promtool."""
        series = [{"series": name, "values": values} for name, values in self.series.items() if values]
        samples = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in sorted(self.firing)]
        query = 'count by (alertname) (count by (alertname, severity) (ALERTS{alertstate="firing"}))'
        return {
            "interval": self.interval,
            "input_series": series,
            "promql_expr_test": [
                {"expr": query, "eval_time": look, "exp_samples": samples} for look in self.looks
            ],
        }


def check(directory: Path, case: Case) -> None:
    content = {
        "rule_files": [str(DIRECTORY / "alerts.yml")],
        "evaluation_interval": "15s",
        "tests": [case.as_json()],
    }
    file = directory / "case.yml"
    file.write_text(json.dumps(content))
    run("promtool", "test", "rules", file)


@pytest.mark.system
def test_promtool_takes_configuration_and_rules() -> None:
    assert f"{len(RULES)} rules found" in run("promtool", "check", "config", DIRECTORY / "prometheus.yml")


@pytest.mark.system
def test_no_alert_fires_while_all_is_well(tmp_path: Path) -> None:
    check(tmp_path, Case(WELL, frozenset()))


@pytest.mark.system
@pytest.mark.parametrize(
    ("alert", "changes"),
    [
        pytest.param(alert, changes, id=f"{alert}-{number}")
        for alert, ways in ILL.items()
        for number, changes in enumerate(ways)
    ],
)
def test_an_alert_fires_and_no_other(tmp_path: Path, alert: str, changes: dict[str, str]) -> None:
    assert changes.keys() <= WELL.keys()
    check(tmp_path, Case({**WELL, **changes}, frozenset({alert})))


@pytest.mark.system
@pytest.mark.parametrize(
    "name",
    [
        'relay_valkey_errors_total{instance="r",job="relay",code="store_unavailable"}',
        f"relay_publishes_refused_total{RELAY}",
    ],
)
def test_what_is_over_within_a_minute_wakes_nobody(tmp_path: Path, name: str) -> None:
    looks = [f"{minutes}m" for minutes in range(20, 40)]
    # Quiet, then four scrapes that find more, then quiet again.
    check(tmp_path, Case({name: "7+0x80 10+10x3 40+0x160"}, frozenset(), "15s", looks))


def test_each_alert_has_a_case_above() -> None:
    assert [rule["alert"] for rule in RULES] == list(ILL)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_each_alert_says_how_bad_it_is_and_what_to_do(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("page", "ticket")
    assert rule["annotations"].keys() == {"summary", "cure", "runbook"}


def test_each_alert_leads_to_its_entry_of_the_runbook_and_each_entry_is_of_an_alert() -> None:
    entries = re.findall(
        r"^### (\w+)$", (REPOSITORY / "docs" / "runbook.md").read_text("utf-8"), re.MULTILINE
    )
    assert entries == [rule["alert"] for rule in RULES]
    for rule in RULES:
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{rule['alert'].lower()}"


def test_the_alert_on_files_counts_those_that_a_relay_keeps_for_itself() -> None:
    [expression] = [rule["expr"] for rule in RULES if rule["alert"] == "RelayFilesRunOut"]
    assert expression.endswith(f"- {RESERVED_FILES})")
