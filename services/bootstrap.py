"""Builds the job's state from an archive: runs the job over a temporary topic, then stops it.

The topic has as many partitions as the input topic, and a user has the same partition in both. So
the state that is kept by partition continues in the input topic.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from intake.files.mapping import ROW_NUMBER, read_mapping, template_columns
from intake.files.replay import check_sources, replay
from liveprofile.errors import InputError, ServiceError
from liveprofile.flink import rest
from liveprofile.flink.job_report import running_jobs
from liveprofile.flink.jobs import Job, jobs, only_job
from liveprofile.kafka import offsets, topics
from liveprofile.kafka.records import read_topic
from liveprofile.settings import ENV_PREFIX, Settings
from liveprofile.storage.cql import from_ms
from services.event_audit.archive_overlap import offsets_after_archive, read_archived_events
from services.event_audit.rows import NO_TIME

START_TIMEOUT_S = 180.0
POLL_INTERVAL_S = 1.0

OnStep = Callable[[str], None]


class BootstrapResult(NamedTuple):
    """Summary of a bootstrap; `liveprofile events bootstrap` prints it as JSON."""

    events: int  # sent from the files
    savepoint: str
    start_offsets: dict[int, int]  # by partition of the input topic: where the archive ends
    no_overlap: list[int]  # partitions whose first event is not in the archive: a gap is possible


def archive_variables(settings: Settings) -> dict[str, str]:
    """Environment variables that turn the settings of a job into those of its job over an archive.

    Rejected and late records go to the usual topics, alerts and segment changes of the past to
    topics of their own.
    """
    changed = {
        "topics.bootstrap": "true",
        "job.name": f"{settings.job.name}-bootstrap",
        # Each job goes on from its part of this one's savepoint.
        "job.pipelines": "together",
        "kafka.group_id": offsets.bootstrap_group(settings.kafka),
        "kafka.startup_mode": "earliest",
        "scoring.replay": "true",
    }
    return {ENV_PREFIX + name.upper().replace(".", "__"): value for name, value in changed.items()}


def run(
    live: Settings,
    archive: Settings,
    settings_file: Path | None,
    files: Sequence[Path],
    mapping: Path | None,
    savepoint_dir: str | None,
    submit: Callable[[Job, Path | None, Sequence[str]], str],
    on_step: OnStep,
) -> BootstrapResult:
    """Runs the job over the files, and commits for `live` where the input topic goes on.

    `archive`: the settings with `archive_variables`. `submit`: submits the job with these variables
    and arguments of jobs/profile_job.py, and returns its id.
    Raises LiveprofileError. In any case it removes the topics and the job of the bootstrap.
    """
    for _, own in jobs(live):
        if running := running_jobs(own.flink.rest_url, own.job.name):
            raise ServiceError(
                f"job {own.job.name} is running ({running[0]}): stop it, and use a new job.name,"
                " kafka.group_id and cassandra.keyspace"
            )
    topics.create_topics(live)
    with _nothing_left_over(archive, on_step):
        partitions = offsets.partition_ranges(live, live.topics.events)
        topics.create_unlimited_topic(archive, archive.topics.events, len(partitions))
        _reset_offsets(archive)
        events = sum(replay(file, mapping, archive).sent for file in files)
        on_step(f"{events} events sent to {archive.topics.events}")
        starts, no_overlap = _find_starts(live, archive, on_step)
        job_id = submit(only_job(archive), settings_file, ["--bootstrap"])
        on_step(f"job {job_id} reads them")
        rest.wait_until_running(archive.flink.rest_url, job_id, START_TIMEOUT_S)
        _wait_until_read(archive, job_id)
        on_step("stopping the job with a savepoint")
        savepoint = rest.savepoint(archive.flink.rest_url, job_id, savepoint_dir, stop=True)
        offsets.commit_offsets(live, live.topics.events, archive.kafka.group_id, starts)
        return BootstrapResult(events, savepoint, starts, no_overlap)


def check_files(files: Sequence[Path], mapping: Path | None) -> None:
    """Raises InputError if a file is not readable with the mapping, or needs one.

    Events of different files must not have the same event_id, so a mapping must not number rows.
    """
    if mapping is not None and len(files) > 1:
        template = read_mapping(mapping).fields.get("event_id", "")
        if ROW_NUMBER in template_columns(template):
            raise InputError(
                f"mapping {mapping}: event_id = {template!r} repeats in each file: pass one file"
            )
    check_sources(files, mapping)


@contextmanager
def _nothing_left_over(archive: Settings, on_step: OnStep) -> Iterator[None]:
    """Removes topics and job of the bootstrap before the block and, whatever happens, after it."""
    _remove_leftovers(archive)
    try:
        yield
    except BaseException:
        on_step(
            "not finished: rows that are stored remain, and another bootstrap writes them again"
        )
        raise
    finally:
        try:
            _remove_leftovers(archive)
        except ServiceError as error:
            on_step(
                f"topics {', '.join(_own_topics(archive))} or job {archive.job.name} remain;"
                f" the next bootstrap removes them ({error})"
            )


def _remove_leftovers(archive: Settings) -> None:
    """Removes what this bootstrap, or an earlier one that was killed, has left."""
    for job_id in running_jobs(archive.flink.rest_url, archive.job.name):
        rest.cancel(archive.flink.rest_url, job_id)
    topics.delete_topics(archive.kafka, _own_topics(archive))


def _own_topics(archive: Settings) -> tuple[str, ...]:
    return (archive.topics.events, archive.topics.alerts, archive.topics.segment_changes)


def _reset_offsets(archive: Settings) -> None:
    """Takes back what the groups of an earlier bootstrap have committed."""
    profile, scoring = archive.kafka.group_id, offsets.scoring_group(archive.kafka)
    events, labels = archive.topics.events, archive.topics.feedback
    for topic, group in ((events, profile), (events, scoring), (labels, scoring)):
        numbers = offsets.partition_ranges(archive, topic)
        offsets.commit_offsets(archive, topic, group, dict.fromkeys(numbers, 0))


def _find_starts(
    live: Settings, archive: Settings, on_step: OnStep
) -> tuple[dict[int, int], list[int]]:
    """Where the input topic goes on, and its partitions that the archive may not reach."""
    ranges = offsets.partition_ranges(live, live.topics.events)
    archived = read_archived_events(read_topic(archive, archive.topics.events), live.window)
    records = read_topic(live, live.topics.events, ranges)
    starts = offsets_after_archive(records, archived, ranges, live.window)
    no_overlap = [
        number for number, span in ranges.items() if starts[number] == span.first < span.end
    ]
    if no_overlap:
        known = archived.latest_ms != NO_TIME
        latest = f"{from_ms(archived.latest_ms):%Y-%m-%d %H:%M:%S}" if known else "unknown"
        on_step(
            f"warning: events may be missing between the archive, whose latest time is {latest},"
            f" and {live.topics.events}: the first event of its partitions"
            f" {', '.join(map(str, no_overlap))} is not in the archive"
        )
    return starts, no_overlap


def _wait_until_read(archive: Settings, job_id: str) -> None:
    """Returns when a checkpoint covers all events of the archive and all labels."""
    while _behind(archive):
        state = rest.job_state(archive.flink.rest_url, job_id)
        if state in rest.TERMINAL_STATES:
            exception = rest.root_exception(archive.flink.rest_url, job_id)
            raise ServiceError(f"job {job_id} is {state}: {rest.failure_reason(exception)}")
        time.sleep(POLL_INTERVAL_S)


def _behind(archive: Settings) -> int:
    scoring = offsets.scoring_lag(archive) if archive.scoring.enabled else 0
    return offsets.lag(archive) + scoring
