"""Metrics of all operators of a job from Flink's REST interface, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
