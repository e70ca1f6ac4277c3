"""What the job's operators report through Flink's REST interface: metrics, models, latencies."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple
from urllib.parse import quote

from liveprofile.flink.rest import request, vertex_metrics

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
        path = f"/jobs/{job_id}/vertices/{vertex['id']}/subtasks/metrics"
        names = [each["id"] for each in request(rest_url, path) if is_selected(each["id"])]
        for part in _parts(names):
            query = quote(",".join(part), safe=",")
            for each in request(rest_url, f"{path}?get={query}&agg=min,max,sum"):
                found[each["id"]] = OverSubtasks(each["min"], each["max"], each["sum"])
    return found


def _parts(names: list[str]) -> Iterable[list[str]]:
    for start in range(0, len(names), NAMES_PER_REQUEST):
        yield names[start : start + NAMES_PER_REQUEST]


_REVISION, _REFUSED = ".liveprofile.model_revision", ".liveprofile.models_refused"


class ModelReport(NamedTuple):
    """Revisions of deployments (udfs/profile/deployment.py); 0: the model of the settings."""

    lowest_revision: int  # over the workers
    highest_revision: int
    refused: int  # deployments, by the worker that has refused most since its start


def model_report(rest_url: str, job_id: str) -> ModelReport | None:
    """Reads the gauges; None if the operator has no metrics yet. Raises ServiceError."""
    for vertex in request(rest_url, f"/jobs/{job_id}")["vertices"]:
        lowest, highest = (
            vertex_metrics(rest_url, job_id, vertex["id"], is_model_gauge, of)
            for of in ("min", "max")
        )
        if found := models_of(lowest, highest):
            return found
    return None


def models_of(lowest: Mapping[str, float], highest: Mapping[str, float]) -> ModelReport | None:
    """Makes the report from gauges, the lowest and the highest over subtasks; None without any."""
    if not any(map(is_model_gauge, highest)):
        return None
    return ModelReport(
        _named(lowest, _REVISION), _named(highest, _REVISION), _named(highest, _REFUSED)
    )


def is_model_gauge(name: str) -> bool:
    """Whether `models_of` needs this metric."""
    return name.endswith((_REVISION, _REFUSED))


def _named(metrics: Mapping[str, float], ending: str) -> int:
    return int(max((value for name, value in metrics.items() if name.endswith(ending)), default=0))


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

    def bound_ms(self, share: float) -> int | None:
        """The smallest bound within which this share of the latencies is; None: there is none."""
        wanted = share * self.count
        return next((b for b in BUCKETS_MS if self.count and self.buckets[str(b)] >= wanted), None)


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
