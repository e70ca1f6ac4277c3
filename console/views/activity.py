"""When a user is active, by hour and weekday."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

from console.charts.heat_map import DAYS, HOURS, HeatMap, heat_map
from liveprofile.units import HOUR_MS
from serve.store.statements import RawDelta


class Activity(NamedTuple):
    chart: HeatMap | None
    source: str  # what the chart is made of


def activity(deltas: Sequence[RawDelta], profile: Mapping[str, Any]) -> Activity:
    """From the windows if none is longer than an hour, else from the profile's hours and weekdays.

    profile: the values of a profile; {} for the past.
    """
    if deltas and all(each.window_end_ms - each.window_start_ms <= HOUR_MS for each in deltas):
        return Activity(heat_map(_of_windows(deltas)), f"events of {len(deltas)} stored windows")
    hours, days = profile.get("activity_hour") or [], profile.get("activity_weekday") or []
    if len(hours) == HOURS and len(days) == DAYS:
        shares = [[day * hour for hour in hours] for day in days]
        return Activity(
            heat_map(shares), "the profile's hours and weekdays, as if they were independent"
        )
    return Activity(None, "")


def _of_windows(deltas: Sequence[RawDelta]) -> list[list[float]]:
    counts = [[0.0] * HOURS for _ in range(DAYS)]
    for delta in deltas:
        start = datetime.fromtimestamp(delta.window_start_ms / 1_000, UTC)
        counts[start.weekday()][start.hour] += delta.events
    total = sum(map(sum, counts)) or 1.0
    return [[count / total for count in row] for row in counts]
