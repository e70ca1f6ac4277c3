"""Every metric that `liveprofile serve metrics` exports, with its type, labels and meaning.

Alert rules and dashboards name these; tests/unit/monitoring compares them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

PREFIX = "liveprofile_"
FAMILIES = {
    "gauge": GaugeMetricFamily,
    "counter": CounterMetricFamily,
    "histogram": HistogramMetricFamily,
}


class Figure(NamedTuple):
    kind: Literal["gauge", "counter", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


OF_JOB = ("pipeline",)  # profile, scoring or both
# Names without PREFIX, in base units. A counter's name ends with _total when it is scraped.
FIGURES: dict[str, Figure] = {
    # Flink
    "job_running": Figure(
        "gauge", "1: every task of the job runs; 0: the job or a task does not.", OF_JOB
    ),
    "job_uptime_seconds": Figure("gauge", "Since the job was submitted.", OF_JOB),
    "job_restarts": Figure("counter", "Restarts of the job since it was submitted.", OF_JOB),
    "job_tasks_running": Figure("gauge", "Running tasks.", OF_JOB),
    "job_tasks": Figure("gauge", "Tasks of the job.", OF_JOB),
    "job_events_per_second": Figure("gauge", "Records that the profile pipeline reads.", OF_JOB),
    "checkpoint_age_seconds": Figure(
        "gauge", "Since the last completed checkpoint; of a job without one, its uptime.", OF_JOB
    ),
    "checkpoint_interval_seconds": Figure("gauge", "Setting job.checkpoint_interval_ms.", OF_JOB),
    "checkpoint_duration_seconds": Figure("gauge", "Of the last completed checkpoint.", OF_JOB),
    "checkpoint_size_bytes": Figure(
        "gauge", "Full state in the last completed checkpoint.", OF_JOB
    ),
    "checkpoints_failed": Figure("counter", "Failed checkpoints.", OF_JOB),
    "windows_stored": Figure("counter", "Windows whose profile is stored."),
    "events_scored": Figure("counter", "Events that are scored and stored."),
    "events_unscored": Figure("counter", "Events that could not be read or scored."),
    "model_revision": Figure("gauge", "User model in force, over the workers.", ("of",)),
    "models_refused": Figure("gauge", "Deployments that the worker with most has refused."),
    "event_to_score_seconds": Figure(
        "histogram", "From an event's arrival in Kafka until its score is stored."
    ),
    "event_to_alert_seconds": Figure(
        "histogram", "From an event's arrival in Kafka until its alert is handed to Flink's sink."
    ),
    "window_to_profile_seconds": Figure(
        "histogram",
        "From a window's end plus window.out_of_orderness_ms until its profile can be read.",
    ),
    # Kafka
    "lag_records": Figure("gauge", "Records after the last checkpoint.", ("pipeline",)),
    "records_rejected": Figure("counter", "Rejected records and labels.", ("reason",)),
    "logins": Figure("counter", "Events with an anonymous id, by what they became.", ("outcome",)),
    "records_late": Figure("counter", "Records of the late topic."),
    "alerts": Figure("counter", "Alerts sent.", ("rule", "severity")),
    # Cassandra
    "cassandra_nodes": Figure("gauge", "Nodes that the exporter knows.", ("state",)),
    "drift": Figure("gauge", "1: the fraud model's inputs have drifted."),
    "drift_evaluated_timestamp_seconds": Figure(
        "gauge", "End of the last evaluated hour, in event time."
    ),
    "drift_distance_ratio": Figure(
        "gauge", "Distance of a distribution divided by its limit.", ("series",)
    ),
    "cases": Figure("gauge", "Cases of customer service.", ("state",)),
    # Audit
    "audit_clean_timestamp_seconds": Figure("gauge", "When the last clean audit with --new ended."),
    "audit_pending_records": Figure("gauge", "Records after it, up to 5 minutes ago."),
    # Chores
    "chore_age_seconds": Figure(
        "gauge", "Since the last success; since 1970 if there is none.", ("chore",)
    ),
    "chore_interval_seconds": Figure("gauge", "Its setting.", ("chore",)),
    "erasures_pending": Figure("gauge", "Erasures with rows that are left, 5 minutes ago."),
    "erasure_age_seconds": Figure("gauge", "Of the oldest of them; 0: none."),
    # The exporter itself
    "source_up": Figure("gauge", "1: the figures of this source are up to date.", ("source",)),
    "source_read_seconds": Figure("gauge", "How long the last reading took.", ("source",)),
}


class Readings:
    """Values of figures. Adding one that the catalogue lacks raises KeyError."""

    def __init__(self, **values: float) -> None:
        self._families: dict[str, Metric] = {}
        for name, value in values.items():
            self.add(name, value)

    def add(self, name: str, value: float, *labels: str) -> None:
        """A value of a gauge or counter; labels: in the order of the catalogue."""
        self._family(name).add_metric(list(labels), value)

    def add_histogram(self, name: str, buckets: Mapping[str, int], sum_of: float) -> None:
        """buckets: upper bounds as texts, ascending, the last "+Inf", to cumulative counts."""
        self._family(name).add_metric([], list(buckets.items()), sum_of)

    def with_those_of(self, other: Readings) -> Readings:
        """Both together; they must not have a figure in common."""
        both = Readings()
        both._families = self._families | other._families
        return both

    def families(self) -> list[Metric]:
        return list(self._families.values())

    def _family(self, name: str) -> Metric:
        if name not in self._families:
            figure = FIGURES[name]
            make = FAMILIES[figure.kind]
            self._families[name] = make(PREFIX + name, figure.help, labels=figure.labels)
        return self._families[name]
