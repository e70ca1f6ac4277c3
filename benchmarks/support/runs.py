"""Runs one job for a benchmark: creates topics and tables, warms the job up, removes everything."""

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

from benchmarks.load.workload import Workload, send_warm_up
from benchmarks.support.journal import JournalReader
from cli.submission import create_tables
from liveprofile.errors import ServiceError
from liveprofile.flink import rest, submission
from liveprofile.kafka.topics import create_topics, delete_topics, topic_configs
from liveprofile.resources import ROOT, STACK_FOLDER
from liveprofile.settings import Settings, load
from liveprofile.storage.schema import drop_keyspace
from liveprofile.toml_text import to_toml
from models.profile.model_card import ModelCard
from stack.local import Stack

BENCH_ROOT = STACK_FOLDER / "bench"
JOB = Path(__file__).with_name("job.py")
WARM_UP_TIMEOUT_S = 600.0
SETTLE_S = 3.0
PARALLELISM = 2
VARIANTS = ("both-pipelines", "whole")  # whole: the whole profile pipeline, without scoring
POLL_S = 0.02


def log_progress(text: str) -> None:
    """Prints a progress line on stderr."""
    typer.echo(f"bench: {text}", err=True)


@contextmanager
def temporary_folder(root: Path) -> Iterator[None]:
    """Removes the folder before and after the block; after an error it stays, with its logs."""
    shutil.rmtree(root, ignore_errors=True)
    yield
    shutil.rmtree(root)


@contextmanager
def started_stack() -> Iterator[Stack]:
    """Starts a stack in BENCH_ROOT; stops it and removes the folder at the end."""
    with temporary_folder(BENCH_ROOT):
        # RocksDB reserves memory per slot: an unused slot would take memory from the job.
        stack = Stack(BENCH_ROOT, slots=PARALLELISM, parallelism=PARALLELISM, commit_log="periodic")
        log_progress(f"starting Kafka, Cassandra and Flink in {BENCH_ROOT}")
        try:
            stack.start()
            yield stack
        finally:
            stack.stop()


def configuration(stack: Stack) -> dict[str, Any]:
    """The settings that a benchmark's result depends on, without addresses."""
    settings = load(**stack.settings())
    return {
        "slots": rest.overview(stack.rest_url)["slots-total"],
        "partitions": settings.topics.partitions,
        "window": settings.window.model_dump(),
        "model": settings.model.model_dump(include={"device", "threads", "batch_rows"}),
        "job": settings.job.model_dump(exclude={"name", "checkpoint_dir", "store"}),
        "scoring": settings.scoring.model_dump(include={"history", "fetch_wait_ms"}),
        "cassandra": settings.cassandra.model_dump(include={"consistency", "replication"}),
    }


class RunningJob(NamedTuple):
    """A job that runs and has processed `Workload.warm_up`."""

    stack: Stack
    settings: Settings
    job_id: str
    journal: JournalReader

    def check(self) -> None:
        """Raises ServiceError unless the job runs and never restarted."""
        state = rest.job_state(self.stack.rest_url, self.job_id)
        failure = rest.root_exception(self.stack.rest_url, self.job_id)
        if state != "RUNNING" or failure:
            raise ServiceError(f"the job is {state}; last failure: {failure[:2000] or 'none'}")

    def wait_for_rows(self, rows: int, timeout_s: float) -> None:
        """Waits until the operator has processed `rows` rows since the job's start.

        Raises ServiceError if the job fails, if it processes more rows, or after `timeout_s`.
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
            raise ServiceError(f"the job made {done} profiles, the workload has {rows}")


@contextmanager
def running_job(
    stack: Stack,
    variant: str,
    name: str,
    workload: Workload | None,
    overrides: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **top_level: Any,
) -> Iterator[RunningJob]:
    """Runs `benchmarks/support/job.py`, warmed up; removes its topics and keyspace at the end.

    workload: its warm-up part is sent to the job; None: no warm-up.
    overrides: settings by section. top_level: settings outside of sections.
    """
    with (
        own_topics_and_keyspace(stack, variant, name, overrides, **top_level) as settings,
        tempfile.TemporaryDirectory(prefix="liveprofile-bench-") as folder,
    ):
        if workload is not None:
            send_warm_up(settings, workload)
        job_id = _submit(stack, name, Path(folder))
        running = RunningJob(stack, settings, job_id, JournalReader(Path(folder)))
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
def own_topics_and_keyspace(
    stack: Stack,
    variant: str,
    name: str,
    overrides: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
    **top_level: Any,
) -> Iterator[Settings]:
    """Creates topics and a keyspace, yields settings that name them, and removes them at the end.

    overrides, top_level: as in `running_job`.
    """
    changes = {
        "topics": {"prefix": f"{name}-"},
        "cassandra": {"keyspace": f"bench_{name.replace('-', '_')}"},
        "kafka": {"group_id": f"bench-{name}"},
        "job": {"name": f"bench-{name}"},
        "scoring": {"enabled": variant == "both-pipelines"},
    }
    sections = stack.settings()
    for update in (changes, overrides):
        for section, values in update.items():
            sections[section] = {**sections.get(section, {}), **values}
    file = config_file(stack, name)
    file.write_text(to_toml(sections | top_level), "utf-8")
    settings = load(file)
    create_topics(settings)
    create_tables(settings, ModelCard.read(settings.model.checkpoint))
    yield settings
    delete_topics(settings.kafka, list(topic_configs(settings.topics)))
    drop_keyspace(settings.cassandra)


def config_file(stack: Stack, name: str) -> Path:
    """The settings file that `own_topics_and_keyspace` writes."""
    return stack.root / f"{name}.toml"


def _submit(stack: Stack, name: str, journal: Path) -> str:
    with tempfile.TemporaryDirectory(prefix="liveprofile-bench-code-") as folder:
        code = submission.code_archive(Path(folder) / "liveprofile.zip")
        with zipfile.ZipFile(code, "a") as archive:
            for source in (ROOT / "benchmarks").rglob("*.py"):
                archive.write(source, source.relative_to(ROOT))
        arguments = ["--config", str(config_file(stack, name)), "--journal", str(journal)]
        return submission.flink_run(stack.rest_url, JOB, arguments, pyfs=[code])
