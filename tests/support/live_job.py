"""A job on the real stack, with topics and a keyspace of its own: sends, waits, looks."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, Producer

from liveprofile.config import Settings, TopicSettings, load
from liveprofile.flink import rest
from liveprofile.flink.rest import vertex_metrics
from liveprofile.ingest.replay import ReplayProducer
from liveprofile.kafka import offsets
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.topics import create_topics
from liveprofile.storage.schema import create_schema
from models.profile.checkpoint import ModelCard
from stack.local import Stack, to_toml
from tests.support.seeded_streams import Message

COMMAND = Path(sys.executable).with_name("liveprofile")
COMMAND_TIMEOUT_S = 300
POSITION = re.compile(r"KafkaSourceReader\.topic\.(.+)\.partition\.(\d+)\.currentOffset$")


def command(*arguments: str | Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs the installed `liveprofile`; with `ok`, anything but success fails the test."""
    done = subprocess.run(
        [str(COMMAND), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=COMMAND_TIMEOUT_S,
        check=False,
    )
    assert not ok or done.returncode == 0, f"liveprofile {arguments}: {done.stdout}{done.stderr}"
    return done


class Job:
    """`sections`: settings that differ from those of the stack, as liveprofile.config has them."""

    def __init__(
        self, stack: Stack, folder: Path, name: str, sections: Mapping[str, Mapping[str, Any]]
    ):
        self.stack = stack
        self.config_file = folder / "liveprofile.toml"
        own: dict[str, Any] = {
            "topics": TopicSettings.prefixed(name),
            "kafka": {"group_id": name},
            "cassandra": {"keyspace": name},
            # Short, since a test waits for the checkpoint that covers what it sent.
            "job": {"name": name, "checkpoint_interval_ms": 1_000},
        }
        merged: dict[str, Any] = dict(stack.settings())
        for part in (own, sections):
            for section, values in part.items():
                merged[section] = {**merged.get(section, {}), **values}
        self.config_file.write_text(to_toml(merged), encoding="utf-8")
        self.settings: Settings = load(self.config_file)
        self.id: str | None = None

    def prepare(self) -> None:
        """Creates the topics, the keyspace and its tables."""
        create_topics(self.settings)
        card = ModelCard.read(self.settings.model.checkpoint)
        create_schema(self.settings.cassandra, card.shape["embedding"])

    # --- the job's life -----------------------------------------------------------------------

    def submit(self, *arguments: str) -> str:
        """Starts it with `liveprofile submit` and waits until every task runs."""
        done = command("submit", "--wait", "--json", "--config", self.config_file, *arguments)
        self.id = json.loads(done.stdout)["job_id"]
        return self.id

    @property
    def rest_url(self) -> str:
        return self.settings.flink.rest_url

    def state(self) -> str:
        return rest.job_state(self.rest_url, self.id)

    def restarts(self) -> int:
        """By the tasks' attempts: the metric numRestarts is as old as the question before."""
        vertices = rest.request(self.rest_url, f"/jobs/{self.id}")["vertices"]
        details = [
            rest.request(self.rest_url, f"/jobs/{self.id}/vertices/{vertex['id']}")
            for vertex in vertices
        ]
        return max(task["attempt"] for detail in details for task in detail["subtasks"])

    def wait_for_checkpoint(self, timeout_s: float) -> None:
        """Returns when one that began after the call is complete."""
        called_ms, deadline_s = time.time() * 1_000, time.monotonic() + timeout_s
        while self._last_checkpoint_ms() <= called_ms:
            if time.monotonic() > deadline_s:
                raise AssertionError(f"no checkpoint after {timeout_s:.0f} s, job {self.state()}")
            time.sleep(0.2)

    def _last_checkpoint_ms(self) -> int:
        """When the last complete one began; 0: there is none."""
        latest = rest.request(self.rest_url, f"/jobs/{self.id}/checkpoints")["latest"]
        return latest["completed"]["trigger_timestamp"] if latest["completed"] else 0

    def failure(self) -> str:
        """The stack trace of the latest one; "" if there was none."""
        return rest.root_exception(self.rest_url, self.id)

    def cancel(self) -> None:
        """Does nothing if it doesn't run."""
        if self.id is not None and self.state() not in rest.TERMINAL_STATES:
            rest.cancel(self.rest_url, self.id)

    # --- records ------------------------------------------------------------------------------

    def producer(self) -> Producer:
        """One that keeps the order, and waits for a broker that is away."""
        return Producer(
            client_config(self.settings.kafka)
            | {
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": 120_000,
                "reconnect.backoff.max.ms": 1_000,
            }
        )

    def send(self, messages: Iterable[Message]) -> int:
        """Sends them in order and waits for the receipts; returns how many."""
        producer, errors, count = self.producer(), [], 0

        def delivered(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                errors.append(error)

        for message in messages:
            producer.produce(
                self.settings.topics.events, message.value, message.key, on_delivery=delivered
            )
            count += 1
            if count % 1_000 == 0:
                producer.flush()
        producer.flush()
        assert not errors, errors[0]
        return count

    def send_heartbeats(self, time_ms: int) -> None:
        """Moves every partition's event time there."""
        sender = ReplayProducer(self.settings, self.settings.topics.events, lambda count: None)
        sender.send_heartbeats(time_ms)
        sender.flush()

    def wait_until_caught_up(self, timeout_s: float = 90.0) -> None:
        """Returns when a checkpoint covers all that is in the topics the job reads.

        If the last record of every partition closed all windows, they are stored by then: a
        checkpoint follows what the records before it have set going, the writes included.

        By the sources' positions, which start anew with the job. What they have committed trails by
        up to 10 s on a quiet topic (docs/operations.md).
        """
        self._wait_while(self._unread, timeout_s)
        self.wait_for_checkpoint(timeout_s)

    def wait_until_committed(self, timeout_s: float = 90.0) -> None:
        """Returns when the profile lane's group has committed all that is in its topic."""
        self._wait_while(lambda: offsets.lag(self.settings), timeout_s)

    def _unread(self) -> int:
        """Records that the job's sources have yet to read, each source for itself."""
        topics = self.settings.topics
        ends = {
            (topic, partition): held.end
            for topic in (topics.events, topics.feedback)
            for partition, held in offsets.partition_ranges(self.settings, topic).items()
            if held.end > held.first
        }
        vertices = rest.request(self.rest_url, f"/jobs/{self.id}")["vertices"]
        sources = [vertex["id"] for vertex in vertices if vertex["name"].startswith("Source: ")]
        found = [self._positions(source) for source in sources]
        if not all(found):
            return sum(ends.values())  # one has yet to tell
        return sum(
            max(0, end - 1 - positions.get((topic, partition), -1))
            for positions in found
            for (topic, partition), end in ends.items()
            if topic in {read for read, _ in positions}
        )

    def _positions(self, source: str) -> dict[tuple[str, int], int]:
        """By topic and partition the offset of the last record read; -1: none."""
        found = vertex_metrics(self.rest_url, self.id, source, POSITION.search, "max")
        return {
            (match[1], int(match[2])): int(offset)
            for name, offset in found.items()
            if (match := POSITION.search(name))
        }

    def _wait_while(self, behind: Callable[[], int], timeout_s: float) -> None:
        deadline_s = time.monotonic() + timeout_s
        while records := behind():
            if time.monotonic() > deadline_s:
                raise AssertionError(
                    f"{records} records behind after {timeout_s:.0f} s, job {self.state()}:"
                    f" {self.failure()[-2_000:]}"
                )
            time.sleep(0.2)

    # --- what came of them --------------------------------------------------------------------

    def run(self, name: str, *arguments: str, ok: bool = True) -> Any:
        """A subcommand's --json answer."""
        done = command(name, *arguments, "--json", "--config", self.config_file, ok=ok)
        return json.loads(done.stdout)

    def audit(self, *arguments: str) -> dict[str, Any]:
        return self.run("audit", *arguments, ok=False)
