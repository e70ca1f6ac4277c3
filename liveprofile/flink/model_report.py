"""Which deployment of the user model each worker serves, from Flink's metrics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from liveprofile.flink.rest import request, vertex_metrics

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
