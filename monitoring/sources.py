"""What Flink, Kafka and Cassandra know, as readings of figures."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

import orjson
from cassandra.cluster import Session

from liveprofile.drift.store import DriftDecision, DriftState
from liveprofile.errors import ServiceError
from liveprofile.flink.job_report import (
    JobReport,
    is_reported,
    report,
    running_jobs,
    scoring_report,
)
from liveprofile.flink.jobs import jobs
from liveprofile.flink.operator_metrics import (
    NO_BOUND,
    OverSubtasks,
    count_latencies,
    is_latency,
    model_report,
    operator_metrics,
)
from liveprofile.kafka.offsets import (
    committed_progress,
    decoder_group,
    lag,
    login_group,
    partition_ranges,
    scoring_group,
)
from liveprofile.kafka.topics import NoTopicError
from liveprofile.settings import CassandraSettings, Settings
from liveprofile.storage import connection
from liveprofile.storage.cql import execute, now_ms
from liveprofile.storage.queries import scan_ring
from liveprofile.units import SECOND_MS
from monitoring.catalogue import Readings
from monitoring.topic_counts import TopicCounter
from services import operations
from services.chores import ChoreRun, ChoreStore, intervals_s
from services.event_audit.results import last_noted
from services.logins import Outcome, read_counts
from services.privacy.erasure_log import scan_runs

ROWS = re.compile(r"\.liveprofile\.(events\.)?rows$")


def read_flink(settings: Settings) -> Readings:
    """Readings of the jobs of the settings. Raises ServiceError if Flink does not answer."""
    reports, metrics = {}, {}
    for job in jobs(settings):
        rest_url, name = job.settings.flink.rest_url, job.settings.job.name
        running = report(rest_url, name) if running_jobs(rest_url, name) else None
        reports[job.pipeline or "both"] = running
        if running:
            metrics |= operator_metrics(rest_url, running.job_id, is_needed)
    return flink_readings(settings, reports, metrics)


def is_needed(name: str) -> bool:
    """Whether `flink_readings` uses a metric of an operator."""
    return is_reported(name) or is_latency(name) or ROWS.search(name) is not None


def job_figures(settings: Settings, job: JobReport | None) -> dict[str, float]:
    """job: None if it does not run."""
    if job is None:
        return {"job_running": 0.0}
    figures = {
        "job_running": float(job.state == "RUNNING" and job.tasks_running == job.tasks > 0),
        "job_uptime_seconds": job.uptime_s,
        "job_restarts": job.restarts,
        "job_tasks_running": job.tasks_running,
        "job_tasks": job.tasks,
        "job_events_per_second": job.events_per_second,
        "checkpoint_interval_seconds": settings.job.checkpoint_interval_ms / SECOND_MS,
        "checkpoints_failed": job.checkpoints_failed,
        "checkpoint_age_seconds": job.checkpoint.age_s if job.checkpoint else job.uptime_s,
    }
    if job.checkpoint:
        figures["checkpoint_duration_seconds"] = job.checkpoint.duration_ms / SECOND_MS
        figures["checkpoint_size_bytes"] = job.checkpoint.size_bytes
    return figures


def flink_readings(
    settings: Settings,
    reports: Mapping[str, JobReport | None],
    metrics: Mapping[str, OverSubtasks],
) -> Readings:
    """reports: by pipeline. metrics: of all operators that `is_needed` selects."""
    readings = Readings()
    for pipeline, job in reports.items():
        for name, value in job_figures(settings, job).items():
            readings.add(name, value, pipeline)
    sums = {name: value.sum for name, value in metrics.items()}
    for name, value in sums.items():
        if match := ROWS.search(name):
            readings.add("events_scored" if match[1] else "windows_stored", value)
    if settings.scoring.enabled and (scoring := scoring_report(metrics)):
        readings.add("events_unscored", scoring.unscored)
    if models := model_report(metrics):
        readings.add("model_revision", models.lowest_revision, "lowest")
        readings.add("model_revision", models.highest_revision, "highest")
        readings.add("models_refused", models.refused)
    for name, latency in count_latencies(sums).items():
        in_seconds = {
            bound if bound == NO_BOUND else str(int(bound) / SECOND_MS): count
            for bound, count in latency.buckets.items()
        }
        figure = name.removesuffix("_ms") + "_seconds"
        readings.add_histogram(figure, in_seconds, latency.sum_ms / SECOND_MS)
    return readings


def read_kafka(settings: Settings, counters: list[TopicCounter]) -> Readings:
    """Lag, late records, logins, and what the counters have counted. Raises ServiceError."""
    topics, kafka, readings = settings.topics, settings.kafka, Readings()
    readings.add("lag_records", lag(settings), "profile")
    if settings.scoring.enabled:
        readings.add("lag_records", lag(settings, scoring_group(kafka)), "scoring")
    if has_records(settings, topics.encoded):  # else `events decode` is not used
        behind = lag(settings, decoder_group(kafka), topics.encoded)
        readings.add("lag_records", behind, "decoder")
    group = login_group(kafka)
    if progress := committed_progress(settings, topics.events, group):  # else it has never run
        readings.add("lag_records", lag(settings, group, topics.events), "logins")
        counts: Counter[str] = Counter()
        for partition_counts in read_counts(progress).values():
            counts.update(partition_counts)
        for outcome in Outcome:
            readings.add("logins", counts[outcome.value], outcome.value)
    late = partition_ranges(settings, topics.late)
    readings.add("records_late", sum(span.end for span in late.values()))
    for counter in counters:
        counter.add_to(readings)
    return readings


def has_records(settings: Settings, topic: str) -> bool:
    """Whether anything has ever been sent to a topic, which need not exist."""
    try:
        return any(span.end for span in partition_ranges(settings, topic).values())
    except NoTopicError:
        return False


SCAN_INTERVAL_S = 300.0  # between two scans of drift, cases and audits
CASE_STATES = ("open", "closed")
PROBE = "SELECT key FROM system.local"


class CassandraSource:
    """Keeps a connection, so that an outage or a lost node is seen between two scans.

    clock_s: monotonic.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        connect: Callable[[CassandraSettings], Session] = connection.connect,
        scan: Callable[[Settings, Session], Readings] | None = None,
        clock_s: Callable[[], float] = time.monotonic,
    ):
        self._settings, self._connect, self._clock_s = settings, connect, clock_s
        self._scan = scan or scan_tables
        self._session: Session | None = None
        self._scanned, self._scan_due_s = Readings(), clock_s()

    def read(self) -> Readings:
        """The nodes, with the tables as of the last scan. Raises ServiceError."""
        if self._session is None:
            self._session = self._connect(self._settings.cassandra)
        try:
            execute(self._session, PROBE)
            if self._clock_s() >= self._scan_due_s:
                self._scanned = self._scan(self._settings, self._session)
                self._scan_due_s = self._clock_s() + SCAN_INTERVAL_S
        except ServiceError:
            self.close()
            raise
        readings = Readings()
        add_chores(readings, self._settings, ChoreStore(self._session, self._settings).runs())
        hosts = self._session.cluster.metadata.all_hosts()
        down = sum(host.is_up is False for host in hosts)  # None: not known
        readings.add("cassandra_nodes", len(hosts) - down, "up")
        readings.add("cassandra_nodes", down, "down")
        return readings.with_those_of(self._scanned)

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            connection.close(session)


def scan_tables(settings: Settings, session: Session) -> Readings:
    """Drift, cases, and how far audits with `--new` have come. Raises ServiceError."""
    readings = Readings()
    history = operations.drift(session, settings, 1) if settings.scoring.enabled else None
    if history:
        add_drift(readings, history.state, history.hours)
    rows = scan_ring(session, "SELECT state FROM risk_case")
    counts = Counter(row.state for row in rows)
    for state in CASE_STATES:
        readings.add("cases", counts[state], state)
    left_ms = [run.before_ms for run in scan_runs(session).values() if run.remaining]
    readings.add("erasures_pending", len(left_ms))
    readings.add("erasure_age_seconds", (now_ms() - min(left_ms, default=now_ms())) / SECOND_MS)
    topic = settings.topics.events
    if audited := last_noted(session, topic):
        readings.add("audit_clean_timestamp_seconds", audited.ended_ms / SECOND_MS)
        with suppress(ServiceError):  # without Kafka the rest still counts
            ranges, starts = partition_ranges(settings, topic), audited.next_offsets
            pending = sum(span.end - starts.get(number, 0) for number, span in ranges.items())
            readings.add("audit_pending_records", pending)
    return readings


def add_chores(readings: Readings, settings: Settings, runs: Mapping[str, ChoreRun]) -> None:
    """The chores that have run, as far as the settings have them."""
    for name, every_s in intervals_s(settings).items():
        if run := runs.get(name):
            readings.add("chore_age_seconds", run.age_s(now_ms()), name)
            readings.add("chore_interval_seconds", every_s, name)


def add_drift(readings: Readings, state: DriftState, decisions: Sequence[DriftDecision]) -> None:
    """decisions: the newest first."""
    readings.add("drift", float(state.since_ms is not None))
    if state.decided_until_ms is not None:
        readings.add("drift_evaluated_timestamp_seconds", state.decided_until_ms / SECOND_MS)
    if decisions:
        for series, (distance, limit) in orjson.loads(decisions[0].distances).items():
            if limit:
                readings.add("drift_distance_ratio", distance / limit, series)
