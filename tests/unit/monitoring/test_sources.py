"""Reports of Flink, records of Kafka and rows of Cassandra as figures."""

import json
from types import SimpleNamespace
from typing import Any

import pytest
from cassandra.cluster import NoHostAvailable, Session

from intake.files.rejected import CLAIMED_REASONS
from liveprofile.drift.store import DriftDecision, DriftState
from liveprofile.errors import ServiceError
from liveprofile.flink.job_report import CheckpointReport, JobReport
from liveprofile.flink.operator_metrics import BUCKETS_MS, OverSubtasks
from liveprofile.kafka.records import Record
from liveprofile.settings import Settings, load
from monitoring.catalogue import Readings
from monitoring.sources import PROBE, CassandraSource, add_drift, flink_readings, is_needed
from monitoring.topic_counts import (
    MAX_SERIES,
    OTHER,
    REJECTION_REASONS,
    TopicCounter,
    alert_labels,
    rejection_labels,
)
from tests.reference.validation import REASONS
from tests.support.paths import ROOT

SETTINGS = load(job={"checkpoint_interval_ms": 20_000})
JOB = JobReport(
    job_id="1",
    state="RUNNING",
    uptime_s=60.0,
    restarts=2,
    tasks_running=8,
    tasks=8,
    events_per_second=120.0,
    checkpoint=CheckpointReport(age_s=4.0, duration_ms=250, size_bytes=1_000_000),
    checkpoints_failed=1,
)


def values(readings: Readings) -> dict[str, float]:
    """{name/label/...: value}"""
    return {
        "/".join((sample.name.removeprefix("liveprofile_"), *sample.labels.values())): sample.value
        for family in readings.families()
        for sample in family.samples
    }


def test_job_and_checkpoint() -> None:
    found = values(flink_readings(SETTINGS, {"both": JOB}, {}))
    assert found == {
        "job_running/both": 1.0,
        "job_uptime_seconds/both": 60.0,
        "job_restarts_total/both": 2,
        "job_tasks_running/both": 8,
        "job_tasks/both": 8,
        "job_events_per_second/both": 120.0,
        "checkpoint_interval_seconds/both": 20.0,
        "checkpoint_age_seconds/both": 4.0,
        "checkpoint_duration_seconds/both": 0.25,
        "checkpoint_size_bytes/both": 1_000_000,
        "checkpoints_failed_total/both": 1,
    }


def test_job_without_a_checkpoint_has_the_age_of_the_job() -> None:
    found = values(flink_readings(SETTINGS, {"both": JOB._replace(checkpoint=None)}, {}))
    assert found["checkpoint_age_seconds/both"] == 60.0
    assert "checkpoint_size_bytes/both" not in found


@pytest.mark.parametrize(
    "changed", [{"state": "RESTARTING"}, {"tasks_running": 7}, {"tasks": 0, "tasks_running": 0}]
)
def test_job_with_a_task_that_does_not_run_is_not_running(changed: dict[str, Any]) -> None:
    found = values(
        flink_readings(SETTINGS, {"profile": None, "scoring": JOB._replace(**changed)}, {})
    )
    assert found["job_running/profile"] == found["job_running/scoring"] == 0.0


def over(total: float, lowest: float = 0.0, highest: float = 0.0) -> OverSubtasks:
    return OverSubtasks(lowest, highest, total)


METRICS = {
    "PythonCalc[52].liveprofile.events.unscored": over(2),
    "PythonCalc[52].liveprofile.events.rows": over(90),
    "PythonCalc[22].liveprofile.rows": over(40),
    "PythonCalc[22].liveprofile.model_revision": over(4_005, lowest=1_002, highest=1_003),
    "PythonCalc[22].liveprofile.models_refused": over(1, highest=1),
}


def test_operators_of_both_pipelines() -> None:
    assert all(map(is_needed, METRICS)) and not is_needed("Calc[24].numBytesOut")
    found = values(flink_readings(SETTINGS, {"both": JOB}, METRICS))
    expected = {
        "events_unscored_total": 2,
        "events_scored_total": 90,
        "windows_stored_total": 40,
        "model_revision/lowest": 1_002,
        "model_revision/highest": 1_003,
        "models_refused": 1,
    }
    assert {name: found.get(name) for name in expected} == expected


def test_latency_is_a_histogram_in_seconds() -> None:
    name = "PythonCalc[22].liveprofile.window_to_profile_ms"
    metrics = {f"{name}.le.{bound}.bucket": over(3) for bound in BUCKETS_MS}
    metrics[f"{name}.le.+Inf.bucket"] = over(4)
    metrics[f"{name}.sum"] = over(91_500)
    found = values(flink_readings(SETTINGS, {"both": JOB}, metrics))
    assert found["window_to_profile_seconds_bucket/0.025"] == 3
    assert found["window_to_profile_seconds_bucket/60.0"] == 3
    assert found["window_to_profile_seconds_bucket/+Inf"] == 4
    assert found["window_to_profile_seconds_count"] == 4
    assert found["window_to_profile_seconds_sum"] == 91.5


def record(value: bytes | None = None, offset: int = 0, **headers: bytes) -> Record:
    return Record("t", 0, offset, 0, None, value, headers)


def alert(**data: str) -> Record:
    return record(json.dumps({"type": "drift", "data": data}).encode())


@pytest.mark.parametrize(
    ("sent", "labels"),
    [
        (alert(rule_id="ring", severity="high"), ("ring", "high")),
        (alert(), ("drift", OTHER)),
        (record(b"{"), (OTHER, OTHER)),
        (record(b"[]"), (OTHER, OTHER)),
        (record(b'{"data": 1}'), (OTHER, OTHER)),
        (record(None), (OTHER, OTHER)),
    ],
)
def test_alert_counts_for_its_rule(sent: Record, labels: tuple[str, str]) -> None:
    assert alert_labels(sent) == labels


def test_different_labels_are_bounded() -> None:
    counter = TopicCounter(SETTINGS, "t", "records_rejected", rejection_labels)
    for number in range(MAX_SERIES + 50):
        counter.count(record(reason=b"r%d" % number))
    readings = Readings()
    counter.add_to(readings)
    found = values(readings)
    assert len(found) == MAX_SERIES + 1
    assert found[f"records_rejected_total/{OTHER}"] == 50


def test_reasons_are_those_of_the_data_contract() -> None:
    contract = (ROOT / "docs" / "data-contract.md").read_text("utf-8")
    assert {*REASONS, *CLAIMED_REASONS} < set(REJECTION_REASONS)
    assert all(f"- {reason}: " in contract for reason in REJECTION_REASONS)


def test_drift_of_the_newest_decision() -> None:
    readings = Readings()
    distances = json.dumps({"score": [0.3, 0.2], "amount": [0.1, 0.4], "new": [0.5, None]})
    newest = DriftDecision(0, 500, True, distances)
    state = DriftState(decided_until_ms=7_200_000, since_ms=3_600_000)
    add_drift(readings, state, [newest])
    assert values(readings) == {
        "drift": 1.0,
        "drift_evaluated_timestamp_seconds": 7_200.0,
        "drift_distance_ratio/score": pytest.approx(1.5),
        "drift_distance_ratio/amount": pytest.approx(0.25),
    }


class Node:
    """A session with three nodes."""

    keyspace = "liveprofile"

    def __init__(self) -> None:
        self.hosts = [SimpleNamespace(is_up=True) for _ in range(3)]
        self.error: Exception | None = None
        self.is_closed = False
        self.cluster = SimpleNamespace(
            metadata=SimpleNamespace(all_hosts=lambda: self.hosts), shutdown=self._shutdown
        )

    def _shutdown(self) -> None:
        self.is_closed = True

    def execute(self, statement: str, values: Any) -> list[Any]:
        assert statement == PROBE or " FROM chore " in statement
        if self.error is not None:
            raise self.error
        return []


class Cassandra:
    def __init__(self) -> None:
        self.sessions: list[Node] = []
        self.scans = 0
        self.now_s = 0.0
        self.source = CassandraSource(
            SETTINGS, connect=self._connect, scan=self._scan, clock_s=lambda: self.now_s
        )

    def _connect(self, settings: Any) -> Any:
        assert settings == SETTINGS.cassandra
        self.sessions.append(Node())
        return self.sessions[-1]

    def _scan(self, settings: Settings, session: Session) -> Readings:
        self.scans += 1
        readings = Readings()
        readings.add("cases", self.scans, "open")
        return readings

    def read(self) -> dict[str, float]:
        return values(self.source.read())


@pytest.fixture
def cassandra() -> Cassandra:
    return Cassandra()


def test_tables_are_scanned_at_their_interval_over_one_connection(cassandra: Cassandra) -> None:
    expected = {"cassandra_nodes/up": 3, "cassandra_nodes/down": 0, "cases/open": 1}
    assert cassandra.read() == cassandra.read() == expected
    cassandra.now_s = 300.0
    assert cassandra.read() == expected | {"cases/open": 2}
    assert len(cassandra.sessions) == 1


def test_node_that_is_down_is_counted_and_one_of_unknown_state_is_not(cassandra: Cassandra) -> None:
    cassandra.read()
    one, two, _ = cassandra.sessions[0].hosts
    one.is_up, two.is_up = False, None
    found = cassandra.read()
    assert (found["cassandra_nodes/up"], found["cassandra_nodes/down"]) == (2, 1)


def test_outage_between_two_scans_is_an_error_and_ends_with_a_new_connection(
    cassandra: Cassandra,
) -> None:
    cassandra.read()
    cassandra.sessions[0].error = NoHostAvailable("all are down", {})
    with pytest.raises(ServiceError, match="keyspace liveprofile: no node answers"):
        cassandra.read()
    assert cassandra.sessions[0].is_closed
    assert cassandra.read()["cases/open"] == 1
    assert len(cassandra.sessions) == 2
    cassandra.source.close()
    assert cassandra.sessions[1].is_closed
