"""Which deployment of the user model each worker serves, from Flink's metrics."""

from __future__ import annotations

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
            vertex_metrics(
                rest_url,
                job_id,
                vertex["id"],
                lambda name: name.endswith((_REVISION, _REFUSED)),
                of,
            )
            for of in ("min", "max")
        )
        if highest:
            return ModelReport(
                _named(lowest, _REVISION), _named(highest, _REVISION), _named(highest, _REFUSED)
            )
    return None


def _is_selected(name: str) -> bool:
    return name.endswith((_REVISION, _REFUSED))


def _named(metrics: dict[str, float], ending: str) -> int:
    return int(max((value for name, value in metrics.items() if name.endswith(ending)), default=0))
