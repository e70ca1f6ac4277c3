"""Debian's Prometheus scrapes `liveprofile serve metrics` of a job that runs."""

from collections.abc import Iterator

import pytest

from liveprofile.kafka.records import send_all
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import now_ms
from services.chores import ChoreRun, ChoreStore
from services.event_audit.results import AuditResult, store_result
from tests.support.api_server import api_server
from tests.support.job_under_test import JobUnderTest
from tests.support.paths import PROMETHEUS
from tests.support.prometheus import Prometheus, exported_names, prometheus
from tests.support.waiting import until

pytestmark = pytest.mark.skipif(
    not PROMETHEUS.is_file(), reason=f"{PROMETHEUS} is missing: `make test`"
)

# These exist once an hour or a day has had enough events to compare.
DRIFT_DECISION = {
    "liveprofile_drift_distance_ratio",
    "liveprofile_drift_evaluated_timestamp_seconds",
}
# It exists once `liveprofile identity link-logins` has committed:
# tests/services/operations/test_identify.py.
LOGINS = {"liveprofile_logins_total"}
LATENCIES = ("event_to_score_seconds", "event_to_alert_seconds", "window_to_profile_seconds")


@pytest.fixture(scope="module")
def server(processed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Scrapes an exporter of the job, with a clean audit by a chore, once it knows all sources."""
    job: JobUnderTest = processed.job
    folder = tmp_path_factory.mktemp("metrics")
    with open_session(job.settings.cassandra) as session:
        audited = AuditResult(now_ms(), True, {}, {0: 1})
        store_result(session, job.settings.topics.events, audited, ttl_s=600)
        ChoreStore(session, job.settings).note(ChoreRun("audit", now_ms(), now_ms(), ""))
    with (
        api_server(job.config_file, "metrics") as url,
        prometheus(folder, url.split("/")[2]) as server,
    ):
        sources = {("cassandra",), ("flink",), ("kafka",)}
        until(lambda: server.values("liveprofile_source_up == 1").keys() == sources)
        yield server


def test_every_metric_of_the_catalogue_is_scraped(server: Prometheus) -> None:
    for name in sorted(exported_names() - DRIFT_DECISION - LOGINS):
        server.wait_for(name)


def test_latencies_are_bucket_counters(server: Prometheus) -> None:
    for name in LATENCIES:
        buckets = server.wait_for(f"liveprofile_{name}_bucket")
        counts = [count for _, count in sorted(buckets.items(), key=lambda each: float(*each[0]))]
        assert len(counts) == 15 and counts == sorted(counts), name
        assert counts[-1] == server.wait_for(f"liveprofile_{name}_count")[()] > 0
    scored, stored = (
        server.wait_for(f"liveprofile_{name}_total")[()]
        for name in ("events_scored", "windows_stored")
    )
    scores, alerts, windows = (
        server.wait_for(f'liveprofile_{name}_bucket{{le="+Inf"}}')[("+Inf",)] for name in LATENCIES
    )
    assert alerts < scores <= scored
    assert windows == stored > 500
    # The windows of this stream closed years ago.
    assert server.wait_for('liveprofile_window_to_profile_seconds_bucket{le="60.0"}') == {
        ("60.0",): 0.0
    }


def test_lag_checkpoints_late_records_and_the_audit(processed, server: Prometheus) -> None:
    job: JobUnderTest = processed.job
    job.wait_until_committed()
    until(lambda: server.values("liveprofile_lag_records") == {("profile",): 0, ("scoring",): 0})
    assert server.wait_for("liveprofile_job_running") == {("both",): 1.0}
    interval_s = job.settings.job.checkpoint_interval_ms / 1_000
    assert server.wait_for("liveprofile_checkpoint_interval_seconds") == {("both",): interval_s}
    # As the alert LiveprofileCheckpointOverdue compares them.
    until(
        lambda: (
            0
            <= server.wait_for("liveprofile_checkpoint_age_seconds")[("both",)]
            < 3 * interval_s + 5
        )
    )
    assert server.wait_for("liveprofile_checkpoint_size_bytes")[("both",)] > 0
    assert server.wait_for("liveprofile_records_late_total")[()] > 20
    # Records of topics are counted from the start of the exporter.
    assert server.wait_for("liveprofile_records_rejected_total")[("BAD_ID",)] == 0.0
    rejected = {"reason": "BAD_ID", "topic": job.settings.topics.events}
    send_all(job.settings, job.settings.topics.rejected, [(b"u", b"x", rejected)] * 3)
    until(lambda: server.values("liveprofile_records_rejected_total")[("BAD_ID",)] == 3.0)
    assert server.wait_for("liveprofile_audit_pending_records") == {(): processed.records - 1.0}
