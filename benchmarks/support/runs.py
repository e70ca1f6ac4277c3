"""One job of a benchmark: from its topics and tables to a warm job, and away again."""

from __future__ import annotations

import shutil
import tempfile
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import typer

from benchmarks.load.load import Load, delete_topics, send_warm_up
from benchmarks.support.journal import JournalReader
from liveprofile.config import Settings, TopicSettings, load
from liveprofile.errors import ServiceError
from liveprofile.flink import rest, submission
from liveprofile.kafka.topics import create_topics
from liveprofile.resources import ROOT
from liveprofile.storage import connection
from liveprofile.storage.schema import create_schema
from models.profile.checkpoint import Card
from stack.local import Stack, to_toml

JOB = Path(__file__).with_name("job.py")
WARM_UP_TIMEOUT_S = 600.0
SETTLE_S = 3.0
PARALLELISM = 2
STORING = ("whole", "lanes")  # the variants that write to Cassandra
POLL_S = 0.02


def say(text: str) -> None:
    """Progress, for a person."""
    typer.echo(f"bench: {text}", err=True)


@contextmanager
def removed(root: Path) -> Iterator[None]:
    """No such folder before and after; what fails leaves it, with its logs."""
    shutil.rmtree(root, ignore_errors=True)
    yield
    shutil.rmtree(root)


@contextmanager
def started(root: Path, commit_log: str, parallelism: int = PARALLELISM) -> Iterator[Stack]:
    """A stack of the benchmark's own in `root`, which is gone at the end."""
    with removed(root):
        # A slot that no job uses keeps its share of RocksDB's memory.
        stack = Stack(root, slots=parallelism, parallelism=parallelism, commit_log=commit_log)
        say(f"starting Kafka, Cassandra and Flink in {root}")
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


def configuration(stack: Stack) -> dict[str, Any]:
    """The settings behind a figure, without addresses."""
    settings = load(**stack.settings())
    return {
        "slots": rest.overview(stack.rest_url)["slots-total"],
        "partitions": settings.topics.partitions,
        "window": settings.window.model_dump(),
        "model": settings.model.model_dump(include={"device", "threads", "batch_rows"}),
        "job": settings.job.model_dump(exclude={"name", "checkpoint_dir", "store"}),
        "cassandra": settings.cassandra.model_dump(
            include={"batch_bytes", "in_flight", "consistency", "replication"}
        ),
    }


class Job(NamedTuple):
    """A running job that has gone through `Load.warm_up`."""

    stack: Stack
    settings: Settings
    job_id: str
    journal: JournalReader

    def check(self) -> None:
        """Raises ServiceError unless the job runs and never restarted."""
        state = rest.job_state(self.stack.rest_url, self.job_id)
        failure = rest.root_exception(self.stack.rest_url, self.job_id)
        if state != "RUNNING" or failure:
            raise ServiceError(f"the job is {state}; it failed with: {failure[:2000] or 'nothing'}")

    def wait_for_rows(self, rows: int, timeout_s: float) -> None:
        """Returns when the operator is through with `rows` rows since the job's start.

        Raises ServiceError if the job fails, or makes more of them, or fewer in `timeout_s`.
        """
        deadline_s = checked_s = time.monotonic() + timeout_s
        while (done := self.journal.update()) < rows:
            now_s = time.monotonic()
            if now_s > deadline_s:
                self.check()
                raise ServiceError(f"{done} of {rows} profiles after {timeout_s:.0f} s")
            if abs(now_s - checked_s) > 2:
                self.check()
                checked_s = now_s
            time.sleep(POLL_S)
        if done > rows:
            raise ServiceError(f"{done} profiles where the load makes {rows}")


@contextmanager
def job(
    stack: Stack,
    variant: str,
    name: str,
    workload: Load | None,
    overrides: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **single: Any,
) -> Iterator[Job]:
    """`benchmarks/support/job.py`, warm; its topics and its keyspace are gone at the end.

    workload: what warms it up; None: nothing does
    overrides, single: settings in sections, and those that are in none
    """
    with (
        place(stack, variant, name, overrides, **single) as settings,
        tempfile.TemporaryDirectory(prefix="liveprofile-bench-") as folder,
    ):
        if workload is not None:
            send_warm_up(settings, workload)
        job_id = _submit(stack, variant, name, Path(folder))
        running = Job(stack, settings, job_id, JournalReader(Path(folder)))
        try:
            if workload is None:
                rest.wait_until_running(stack.rest_url, job_id, WARM_UP_TIMEOUT_S)
            else:
                rows = workload.warm_up().profiles(settings.window, workload.start_ms)
                running.wait_for_rows(rows, WARM_UP_TIMEOUT_S)
                time.sleep(SETTLE_S)
            yield running
        finally:
            rest.cancel(stack.rest_url, job_id)


@contextmanager
def place(
    stack: Stack,
    variant: str,
    name: str,
    overrides: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **single: Any,
) -> Iterator[Settings]:
    """Settings with topics and a keyspace of their own, which are gone at the end.

    overrides, single: as of `job`
    """
    settings = _settings(stack, variant, name, overrides, single)
    create_topics(settings)
    if settings.job.store == "cassandra":
        dim = Card.read(settings.model.checkpoint).shape["embedding"]
        create_schema(settings.cassandra, dim)
    yield settings
    delete_topics(settings)
    if settings.job.store == "cassandra":
        with connection.session_of(settings.cassandra) as session:
            session.execute(f"DROP KEYSPACE {settings.cassandra.keyspace}", timeout=60)


def _settings(
    stack: Stack,
    variant: str,
    name: str,
    overrides: Mapping[str, Mapping[str, Any]],
    single: Mapping[str, Any],
) -> Settings:
    wanted = stack.settings()
    changes = {
        "topics": TopicSettings.prefixed(name),
        "cassandra": {"keyspace": f"bench_{name.replace('-', '_')}"},
        "kafka": {"group_id": f"bench-{name}"},
        "job": {"name": f"bench-{name}", "store": "cassandra" if variant in STORING else "none"},
    }
    for more in (changes, overrides):
        for section, values in more.items():
            wanted[section] = {**wanted.get(section, {}), **values}
    wanted |= dict(single)
    file = config_file(stack, name)
    file.write_text(to_toml(wanted))
    return load(file)


def config_file(stack: Stack, name: str) -> Path:
    """Of `place`."""
    return stack.root / f"{name}.toml"


def _submit(stack: Stack, variant: str, name: str, journal: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="liveprofile-bench-code-") as folder:
        code = submission.code_archive(Path(folder) / "liveprofile.zip")
        with zipfile.ZipFile(code, "a") as archive:
            for source in (ROOT / "benchmarks").rglob("*.py"):
                archive.write(source, source.relative_to(ROOT))
        arguments = ["--config", str(config_file(stack, name)), "--variant", variant]
        return submission.flink_run(
            stack.rest_url, JOB, [*arguments, "--journal", str(journal)], pyfs=[code]
        )


def checkpoints_ms(running: Job, since_s: float) -> list[int]:
    """How long each checkpoint triggered since then (epoch) took, end to end."""
    path = f"/jobs/{running.job_id}/checkpoints"
    return [
        one["end_to_end_duration"]
        for one in reversed(rest.request(running.stack.rest_url, path)["history"])
        if one["status"] == "COMPLETED" and one["trigger_timestamp"] >= since_s * 1000
    ]
