"""Events that the scoring pipeline has read but not scored, from Flink's metrics.

The view `rejoined` (jobs/sql/scoring_views.py) emits an event when its last part has arrived. If a
part is missing for `scoring.rejoin_ttl_ms`, the event is lost without a trace. It shows only as the
difference of two counters: events that entered the pipeline, and events that left `rejoined`. The
parts of an event arrive before the checkpoint barrier that follows it, so no event is between the
two counters at a checkpoint, and both start at 0 after a restart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from liveprofile.flink.rest import request, vertex_metrics

# Parts meet within milliseconds; a backlog in Flink's network buffers can take seconds.
IN_FLIGHT_S = 10.0
_RECORDS = re.compile(
    r"(OverAggregate|Calc)\[(\d+)\]\.(numRecordsIn|numRecordsOut|numRecordsOutPerSecond)$"
)
_UNSCORED = ".liveprofile.events.unscored"
# Ids of nodes of the plan (jobs/savepoint.py): the first part of each event, and its row after
# `rejoined`.
FIRST_PARTS, SCORING_INPUT = 24, 27


class ScoringReport(NamedTuple):
    """Events since the last start or restart of the job."""

    events: int  # valid ones of a scored type
    events_per_second: float  # over the last minute
    incomplete: int  # of `events`: lack a part, because they are in flight or lost
    unscored: int  # of `events`: could not be read or scored; the log has the reason

    @property
    def lost(self) -> int:
        """The incomplete events, or 0 if all of them may be in flight."""
        may_be_in_flight = self.incomplete <= IN_FLIGHT_S * self.events_per_second
        return 0 if may_be_in_flight else self.incomplete


def scoring_report(rest_url: str, job_id: str) -> ScoringReport | None:
    """Reads the counters; None if the operators have no metrics yet. Raises ServiceError."""
    metrics: dict[str, float] = {}
    for vertex in request(rest_url, f"/jobs/{job_id}")["vertices"]:
        metrics |= vertex_metrics(rest_url, job_id, vertex["id"], is_scoring_counter, "sum")
    return count_events(metrics)


def is_scoring_counter(name: str) -> bool:
    """Whether `count_events` needs this metric."""
    return _RECORDS.match(name) is not None or name.endswith(_UNSCORED)


def count_events(metrics: Mapping[str, float]) -> ScoringReport | None:
    """Makes the report from the metrics of all operators, which are summed over subtasks.

    Returns None if operators are missing.
    """
    records: dict[tuple[str, int], dict[str, float]] = {}
    for name, value in metrics.items():
        if match := _RECORDS.match(name):
            operator, node, metric = match.groups()
            records.setdefault((operator, int(node)), {})[metric] = value
    entered = records.get(("Calc", FIRST_PARTS))
    rejoined = records.get(("OverAggregate", SCORING_INPUT))
    if entered is None or rejoined is None:
        return None
    return ScoringReport(
        events=int(entered["numRecordsOut"]),
        events_per_second=entered["numRecordsOutPerSecond"],
        incomplete=max(0, int(entered["numRecordsOut"] - rejoined["numRecordsIn"])),
        unscored=int(sum(value for name, value in metrics.items() if name.endswith(_UNSCORED))),
    )
