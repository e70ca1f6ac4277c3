"""Events that lack parts or were not scored, from counters of Flink's operators."""

from __future__ import annotations

import pytest

from liveprofile.flink.scoring_report import ScoringReport, count_events

# Of both pipelines, as Flink's REST interface names them.
METRICS = {
    "OverAggregate[7].numRecordsIn": 900.0,
    "OverAggregate[8].numRecordsIn": 900.0,
    "OverAggregate[23].numRecordsIn": 110.0,  # 100 events and 10 labels
    "OverAggregate[23].numRecordsOut": 110.0,
    "Calc[24].numRecordsIn": 110.0,
    "Calc[24].numRecordsOut": 100.0,
    "Calc[24].numRecordsOutPerSecond": 0.5,
    "OverAggregate[25].numRecordsIn": 300.0,
    "OverAggregate[26].numRecordsIn": 400.0,
    "OverAggregate[27].numRecordsIn": 93.0,
    "OverAggregate[4].numRecordsIn": 900.0,
    "PythonCalc[1052].liveprofile.events.unscored": 2.0,
    "PythonCalc[1022].liveprofile.rows": 900.0,
}


def test_report_counts_the_events_of_the_scoring_pipeline() -> None:
    assert count_events(METRICS) == ScoringReport(100, 0.5, incomplete=7, unscored=2)


@pytest.mark.parametrize("missing", ["Calc[24]", "OverAggregate[27]"])
def test_no_report_without_the_operators(missing: str) -> None:
    assert count_events({k: v for k, v in METRICS.items() if not k.startswith(missing)}) is None


@pytest.mark.parametrize(
    ("incomplete", "events_per_second", "lost"),
    [(0, 0.0, 0), (1, 0.0, 1), (7, 0.5, 7), (7, 1.0, 0), (5_001, 500.0, 5_001)],
)
def test_incomplete_events_are_lost_if_more_than_can_be_in_flight(
    incomplete: int, events_per_second: float, lost: int
) -> None:
    assert ScoringReport(10_000, events_per_second, incomplete, 0).lost == lost
