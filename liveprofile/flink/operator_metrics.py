"""What the job's operators report through Flink's REST interface: metrics, models, latencies."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import quote

from liveprofile.flink.rest import request

# A URL of more names might be longer than Flink's HTTP server accepts (4,096 bytes).
NAMES_PER_REQUEST = 30


class OverSubtasks(NamedTuple):
    """One metric of an operator, aggregated over its subtasks."""

    lowest: float
    highest: float
    sum: float


def operator_metrics(
    rest_url: str, job_id: str, is_selected: Callable[[str], object]
) -> dict[str, OverSubtasks]:
    """Selected metrics by name, without those that have no value yet. Raises ServiceError."""
    found: dict[str, OverSubtasks] = {}
    for vertex in request(rest_url, f"/jobs/{job_id}")["vertices"]:
        found |= vertex_metrics(rest_url, job_id, vertex["id"], is_selected)
    return found


def vertex_metrics(
    rest_url: str, job_id: str, vertex_id: str, is_selected: Callable[[str], object]
) -> dict[str, OverSubtasks]:
    """As `operator_metrics`, of one vertex."""
    found: dict[str, OverSubtasks] = {}
    path = f"/jobs/{job_id}/vertices/{vertex_id}/subtasks/metrics"
    names = [each["id"] for each in request(rest_url, path) if is_selected(each["id"])]
    for start in range(0, len(names), NAMES_PER_REQUEST):
        query = quote(",".join(names[start : start + NAMES_PER_REQUEST]), safe=",")
        for each in request(rest_url, f"{path}?get={query}&agg=min,max,sum"):
            found[each["id"]] = OverSubtasks(each["min"], each["max"], each["sum"])
    return found


_REVISION, _REFUSED = ".liveprofile.model_revision", ".liveprofile.models_refused"


class ModelReport(NamedTuple):
    """Revisions of deployments (models/profile/deployment.py); 0: the model of the settings."""

    lowest_revision: int  # over the workers
    highest_revision: int
    refused: int  # deployments, by the worker that has refused most since its start


def model_report(metrics: Mapping[str, OverSubtasks]) -> ModelReport | None:
    """Makes the report from gauges; None if the operator has no metrics yet."""
    gauges = {name: each for name, each in metrics.items() if is_model_gauge(name)}
    if not gauges:
        return None
    revisions = [each for name, each in gauges.items() if name.endswith(_REVISION)]
    refused = [each.highest for name, each in gauges.items() if name.endswith(_REFUSED)]
    return ModelReport(
        int(max((each.lowest for each in revisions), default=0)),
        int(max((each.highest for each in revisions), default=0)),
        int(max(refused, default=0)),
    )


def is_model_gauge(name: str) -> bool:
    """Whether `model_report` needs this metric."""
    return name.endswith((_REVISION, _REFUSED))


EVENT_TO_SCORE = "event_to_score_ms"
EVENT_TO_ALERT = "event_to_alert_ms"
WINDOW_TO_PROFILE = "window_to_profile_ms"
LATENCIES = (EVENT_TO_SCORE, EVENT_TO_ALERT, WINDOW_TO_PROFILE)

# The targets are 300 ms for alerts and 1 s for profiles; above that, an operator needs magnitudes.
BUCKETS_MS = (25, 50, 100, 150, 200, 300, 500, 800, 1_200, 2_500, 5_000, 10_000, 30_000, 60_000)
# Groups of Flink's metrics: a Prometheus reporter of Flink makes the label `le` from it.
BOUND_LABEL, NO_BOUND = "le", "+Inf"
BUCKET, SUM = "bucket", "sum"

_BUCKET_NAME = re.compile(
    rf"\.({'|'.join(LATENCIES)})\.{BOUND_LABEL}\.({re.escape(NO_BOUND)}|\d+)\.{BUCKET}$"
)
_SUM_NAME = re.compile(rf"\.({'|'.join(LATENCIES)})\.{SUM}$")


class LatencyCounts(NamedTuple):
    """Measurements of all workers since the job's last start or restart."""

    buckets: dict[str, int]  # upper bound in ms, or NO_BOUND, to the number up to it; ascending
    sum_ms: int

    @property
    def count(self) -> int:
        return self.buckets[NO_BOUND]


def is_latency(name: str) -> bool:
    """Whether a metric of an operator is one of these counters."""
    return bool(_BUCKET_NAME.search(name) or _SUM_NAME.search(name))


def count_latencies(metrics: Mapping[str, float]) -> dict[str, LatencyCounts]:
    """The latencies by name, without those that are not measured yet.

    metrics: of all operators, summed over subtasks.
    """
    buckets: dict[str, dict[str, int]] = {}
    sums: dict[str, int] = {}
    for name, value in metrics.items():
        if match := _BUCKET_NAME.search(name):
            of_name = buckets.setdefault(match[1], {})
            of_name[match[2]] = of_name.get(match[2], 0) + int(value)
        elif match := _SUM_NAME.search(name):
            sums[match[1]] = sums.get(match[1], 0) + int(value)
    bounds = [*map(str, BUCKETS_MS), NO_BOUND]
    return {
        name: LatencyCounts({bound: counts[bound] for bound in bounds}, sums[name])
        for name, counts in buckets.items()
        if name in sums and set(counts) == set(bounds)
    }
