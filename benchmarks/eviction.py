"""What becomes of acknowledged messages when Valkey is full, by its `maxmemory-policy`.

    python -m benchmarks.eviction [--megabytes 32] [--messages 60000] [--topics 50]

For each policy: a relay over a Valkey with the shipped `valkey.conf` and a small `maxmemory`, and messages of
1,000 bytes, published to the topics in turn, in requests of 100. Then each id that was acknowledged is looked
for in the streams.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests

from tests.relays import RelayProcess
from tests.valkeys import RealValkey

POLICIES = ("noeviction", "allkeys-lru", "allkeys-lfu", "allkeys-random", "volatile-lru")
TOGETHER = 100
PAYLOAD = "x" * 998
WAIT_SECONDS = 60.0


@dataclass
class Outcome:
    policy: str
    acknowledged: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    refused: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    empty_topics: int = 0

    @property
    def sum_acknowledged(self) -> int:
        return sum(map(len, self.acknowledged.values()))

    def row(self) -> str:
        lost = self.sum_acknowledged - self.kept
        refused = ", ".join(f"{count:,} `{code}`" for code, count in self.refused.items())
        cells = (f"`{self.policy}`", f"{self.sum_acknowledged:,}", refused or "0", f"{lost:,}")
        return f"| {' | '.join(cells)} | {self.empty_topics} |"


def fill(relay: RelayProcess, policy: str, messages: int, topics: int) -> Outcome:
    outcome = Outcome(policy)
    with requests.Session() as session:
        for number in range(messages // TOGETHER):
            topic = f"t{number % topics}"
            draft = {"topic": topic, "payload": PAYLOAD}
            body = {"messages": [draft] * TOGETHER}
            answer = session.post(f"{relay.url}/api/v1/messages/bulk", json=body, timeout=WAIT_SECONDS)
            if answer.status_code == 503:
                outcome.refused[answer.json()["error"]] += TOGETHER
                continue
            results = answer.json()["results"]
            outcome.acknowledged[topic] += [one["message_id"] for one in results if one["message_id"]]
            outcome.refused.update(one["code"] for one in results if one["code"])
    return outcome


def look(server: Any, outcome: Outcome) -> None:
    for topic, ids in outcome.acknowledged.items():
        kept = {entry.decode() for entry, _ in server.xrange(f"topic:{topic}:stream")}
        outcome.kept += len(kept.intersection(ids))
        outcome.empty_topics += not kept


def measure(policy: str, megabytes: int, messages: int, topics: int) -> Outcome:
    with tempfile.TemporaryDirectory() as directory:
        settings = {"maxmemory": f"{megabytes}mb", "maxmemory-policy": policy}
        with RealValkey(Path(directory) / "valkey", settings=settings) as server:
            words = ["--set", f"valkey.unix_socket={server.socket_path}"]
            if policy != "noeviction":
                words += ["--set", f"valkey.allowed_eviction_policy={policy}"]
            relay = RelayProcess(Path(directory) / "relay", *words)
            try:
                relay.start()
                outcome = fill(relay, policy, messages, topics)
                with server.client() as client:
                    look(client, outcome)
                return outcome
            finally:
                relay.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=32, help="Valkey's maxmemory")
    parser.add_argument("--messages", type=int, default=60_000)
    parser.add_argument("--topics", type=int, default=50)
    options = parser.parse_args()
    print("| policy | acknowledged | refused | of the acknowledged, gone | topics without a message |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for policy in POLICIES:
        outcome = measure(policy, options.megabytes, options.messages, options.topics)
        print(outcome.row(), flush=True)


if __name__ == "__main__":
    main()
