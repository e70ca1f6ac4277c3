"""A job on the local stack with topics and a keyspace of its own, which tests send events to."""

import io
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any
from unittest import mock

from confluent_kafka import KafkaError, Producer

import liveprofile_app
from cli.submission import create_tables
from intake.files.replay import ReplayProducer
from liveprofile.errors import ServiceError
from liveprofile.flink import rest
from liveprofile.flink.operator_metrics import operator_metrics, vertex_metrics
from liveprofile.kafka import offsets
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.records import send_all
from liveprofile.kafka.topics import create_topics
from liveprofile.settings import Settings, load
from liveprofile.toml_text import to_toml
from liveprofile.wire.user_records import WHOLE_KEY
from models.profile.model_card import ModelCard
from stack.local import Stack
from tests.support.local_stack import LocalStack
from tests.support.streams.seeded import Message
from tests.support.summary import say

CLI = Path(sys.executable).with_name("liveprofile")
# While a test does something else, its job idles. With the defaults, two tasks of each step and a
# checkpoint every second, that takes half a core; with these, a sixth.
QUIET = {
    "job": {"parallelism": 1, "buffer_timeout_ms": 50, "checkpoint_interval_ms": 10_000},
    "scoring": {"fetch_wait_ms": 200},
}
# For what several tasks might do differently, and for tests of faults.
TWO_TASKS = {"parallelism": 2}
BUSY_JOB = TWO_TASKS | {"checkpoint_interval_ms": 5_000}
POLL_S = 0.4
CHECKPOINT_AGAIN_S = 5.0  # after a trigger that a restart may have cancelled
SOURCE_OFFSET = re.compile(r"KafkaSourceReader\.topic\.(.+)\.partition\.(\d+)\.currentOffset$")


def run_cli(*arguments: str | Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs `liveprofile` in this process: a process of its own would import everything again.

    With `ok`, a non-zero exit code fails the test.
    """
    command, code = ["liveprofile", *map(str, arguments)], 0
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    with (
        mock.patch.object(sys, "argv", command),
        mock.patch.dict(os.environ),
        redirect_stdout(streams[0]),
        redirect_stderr(streams[1]),
    ):
        try:
            liveprofile_app.main()
        except SystemExit as end:
            code = end.code or 0
    out, err = (stream.buffer.getvalue().decode() for stream in streams)
    assert not ok or code == 0, f"{command}: {out}{err}"
    return subprocess.CompletedProcess(command, code, out, err)


def task_restarts(rest_url: str, job_id: str) -> int:
    """Counts restarts of the tasks of a job."""
    vertices = rest.request(rest_url, f"/jobs/{job_id}")["vertices"]
    details = [
        rest.request(rest_url, f"/jobs/{job_id}/vertices/{vertex['id']}") for vertex in vertices
    ]
    return sum(task["attempt"] for detail in details for task in detail["subtasks"])


class JobUnderTest:
    """The profile job with its configuration, topics, keyspace and producer.

    name: prefix of the topics, and name of the job, its consumer group and its keyspace.
    sections: settings that override those of the stack, the last ones first.
    """

    def __init__(
        self, stack: Stack, folder: Path, name: str, *sections: Mapping[str, Mapping[str, Any]]
    ):
        self.stack = stack
        self.config_file = folder / "liveprofile.toml"
        own: dict[str, Any] = {
            "topics": {"prefix": f"{name}-"},
            "kafka": {"group_id": name},
            "cassandra": {"keyspace": name},
            "job": {"name": name, "checkpoint_interval_ms": 1_000},
        }
        merged: dict[str, Any] = dict(stack.settings())
        for part in (own, *sections):
            for section, values in part.items():
                merged[section] = {**merged.get(section, {}), **values}
        self.config_file.write_text(to_toml(merged), encoding="utf-8")
        self.settings: Settings = load(self.config_file)
        self.id: str | None = None

    def prepare(self, tables: bool = True) -> None:
        """Creates the topics, and the keyspace with its tables."""
        create_topics(self.settings)
        if tables:
            create_tables(self.settings, ModelCard.read(self.settings.model.checkpoint))
            return
        topics = self.settings.topics
        for topic in (topics.consents, topics.erasures, topics.merges):
            send_all(self.settings, topic, [(WHOLE_KEY, b"{}", {})])

    # --- life cycle ---------------------------------------------------------------------------

    def submit(self, *arguments: str) -> str:
        """Starts the job with `liveprofile job submit`, waits until every task runs, returns its
        id.
        """
        try:
            done = run_cli(
                "job", "submit", "--wait", "--json", "--config", self.config_file, *arguments
            )
        except BaseException:
            # It may run all the same, and would take the slots of later tests.
            run_cli("job", "cancel", "--config", self.config_file, ok=False)
            raise
        self.id = json.loads(done.stdout)["job_id"]
        return self.id

    @property
    def rest_url(self) -> str:
        return self.settings.flink.rest_url

    def state(self) -> str:
        return rest.job_state(self.rest_url, self.id)

    def restarts(self) -> int:
        """Counts restarts of tasks. A restart of one pipeline leaves the other's tasks alone.

        The metric numRestarts has the value of the previous query.
        """
        return task_restarts(self.rest_url, str(self.id))

    def late_records_dropped(self) -> int:
        """Counts the events that windows have dropped since the last restart of the job."""
        found = operator_metrics(
            self.rest_url, str(self.id), lambda name: name.endswith("numLateRecordsDropped")
        )
        return sum(int(each.sum) for each in found.values())

    def wait_for_checkpoint(self, timeout_s: float) -> None:
        """Returns when a checkpoint that began after the call is complete."""
        called_ms = time.time() * 1_000
        self._wait_while(
            lambda: int(self.last_checkpoint_ms() <= called_ms),
            timeout_s,
            "checkpoint missing",
            triggers=True,
        )

    def last_checkpoint_ms(self) -> int:
        """Returns when the last complete checkpoint began, 0 if there is none."""
        latest = rest.request(self.rest_url, f"/jobs/{self.id}/checkpoints")["latest"]
        return latest["completed"]["trigger_timestamp"] if latest["completed"] else 0

    def failure(self) -> str:
        """Returns the stack trace of the latest failure, "" if there was none."""
        return rest.root_exception(self.rest_url, self.id)

    def cancel(self) -> None:
        """Cancels the job if it runs. Later calls do nothing: its cluster may have ended."""
        if self.id is not None and self.state() not in rest.TERMINAL_STATES:
            rest.cancel(self.rest_url, self.id)
        self.id = None

    # --- records ------------------------------------------------------------------------------

    def producer(self) -> Producer:
        """Returns a producer that keeps the order and waits for a broker that is down."""
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

    def send(self, messages: Iterable[Message], per_s: float = math.inf) -> int:
        """Sends messages in order and waits for the acknowledgements; returns their number."""
        producer, errors, count = self.producer(), [], 0
        started_s = time.monotonic()

        def on_delivery(error: KafkaError | None, _message: Any) -> None:
            if error is not None:
                errors.append(error)

        for message in messages:
            producer.produce(
                self.settings.topics.events, message.value, message.key, on_delivery=on_delivery
            )
            count += 1
            producer.poll(0)
            # `poll` returns at each acknowledgement.
            while (wait_s := started_s + count / per_s - time.monotonic()) > 0:
                producer.poll(wait_s)
            if count % 1_000 == 0:
                producer.flush()
        producer.flush()
        assert not errors, errors[0]
        return count

    def send_heartbeats(self, time_ms: int) -> None:
        """Sends a heartbeat to every partition, which advances its event time to `time_ms`."""
        sender = ReplayProducer(self.settings, self.settings.topics.events)
        sender.send_heartbeats(time_ms)
        sender.flush()

    def wait_until_caught_up(self, timeout_s: float = 300.0) -> None:
        """Returns when a checkpoint covers all records in the topics that the job reads.

        If the last record of every partition closed all windows, they are stored by then, because a
        checkpoint also covers the writes that earlier records caused.

        Uses the sources' current offsets, which start anew with the job. Offsets are committed
        with a checkpoint.
        """
        self._wait_while(self.unread, timeout_s)
        self.wait_for_checkpoint(timeout_s)

    def wait_until_committed(self, timeout_s: float = 300.0) -> None:
        """Returns when the profile pipeline's consumer group has committed all records."""
        self.wait_until_caught_up(timeout_s)
        self._wait_while(lambda: offsets.lag(self.settings), timeout_s, triggers=True)

    def unread(self) -> int:
        """Counts the records that the job's sources have not read, per source."""
        topics = self.settings.topics
        ends = {
            (topic, partition): offset_range.end
            for topic in (topics.events, topics.feedback)
            for partition, offset_range in offsets.partition_ranges(self.settings, topic).items()
            if offset_range.end > offset_range.first
        }
        vertices = rest.request(self.rest_url, f"/jobs/{self.id}")["vertices"]
        sources = [vertex["id"] for vertex in vertices if vertex["name"].startswith("Source: ")]
        offsets_read = [self._last_read(source) for source in sources]
        if not all(offsets_read):
            return sum(ends.values())  # a source has not reported yet
        return sum(
            max(0, end - 1 - of_source.get((topic, partition), -1))
            for of_source in offsets_read
            for (topic, partition), end in ends.items()
            if topic in {read_topic for read_topic, _ in of_source}
        )

    def _last_read(self, source: str) -> dict[tuple[str, int], int]:
        """Returns by topic and partition the offset of the last record read, -1 if none."""
        metrics = vertex_metrics(self.rest_url, str(self.id), source, SOURCE_OFFSET.search)
        return {
            (match[1], int(match[2])): int(offset.highest)
            for name, offset in metrics.items()
            if (match := SOURCE_OFFSET.search(name))
        }

    def _wait_while(
        self,
        count: Callable[[], int],
        timeout_s: float,
        what: str = "records behind",
        triggers: bool = False,
    ) -> None:
        """Waits for the count to be 0. triggers: of checkpoints; a job that restarts takes none."""
        started_s = trigger_s = time.monotonic()
        while number := count():
            now_s = time.monotonic()
            if now_s > started_s + timeout_s:
                raise AssertionError(
                    f"{number} {what} after {timeout_s:.0f} s, job {self.state()}:"
                    f" {self.failure()[-2_000:]}"
                )
            if triggers and now_s >= trigger_s:
                path, kind = f"/jobs/{self.id}/checkpoints", {"checkpointType": "CONFIGURED"}
                with suppress(ServiceError):
                    rest.request(self.rest_url, path, "POST", kind)
                trigger_s = now_s + CHECKPOINT_AGAIN_S
            time.sleep(POLL_S)

    def other_settings(self, name: str, /, **sections: Mapping[str, Any]) -> Path:
        """A settings file like the job's, with other values."""
        content = load(self.config_file).model_dump(mode="json", exclude_unset=True)
        for section, values in sections.items():
            content[section] = content.get(section, {}) | values
        file = self.config_file.with_name(name)
        file.write_text(to_toml(content), "utf-8")
        return file

    # --- results ------------------------------------------------------------------------------

    def cli(self, *arguments: str | Path, ok: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a command of `liveprofile` with the settings of the job."""
        return run_cli(*arguments, "--config", self.config_file, ok=ok)

    def run(self, *arguments: str | Path, ok: bool = True) -> Any:
        """Runs a command of `liveprofile` with --json; returns its parsed output."""
        return json.loads(self.cli(*arguments, "--json", ok=ok).stdout)

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Starts a command of `liveprofile` in a process of its own, with the job's settings."""
        command = [str(each) for each in (CLI, *arguments, "--config", self.config_file)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def audit(self, *arguments: str) -> dict[str, Any]:
        return self.run("events", "audit", *arguments, ok=False)


@contextmanager
def sending(job: JobUnderTest, messages: Iterable[Message], per_s: float) -> Iterator[Future[int]]:
    """Sends messages at a constant rate in a thread while the block runs.

    Yields the number of those that are sent. Raises AssertionError if Kafka has not accepted one.
    """
    stop = threading.Event()
    with ThreadPoolExecutor(1) as thread:
        until_stop = itertools.takewhile(lambda _: not stop.is_set(), messages)
        sent = thread.submit(job.send, until_stop, per_s)
        try:
            yield sent
        finally:
            stop.set()
    sent.result()


@contextmanager
def job_on_own_stack(
    name: str,
    sections: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    flink_options: Mapping[str, Any] = MappingProxyType({}),
) -> Iterator[JobUnderTest]:
    """Yields a running job on a stack that is started for it, and removed at the end."""
    with tempfile.TemporaryDirectory(prefix=f"liveprofile-{name}-") as folder:
        root = Path(folder)
        say("starting Kafka, Cassandra and Flink")
        with LocalStack(root / "stack", flink_options) as stack:
            job = JobUnderTest(stack, root, name, sections)
            job.prepare()
            say("submitting the job")
            job.submit()
            yield job
