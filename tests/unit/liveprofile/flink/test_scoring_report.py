"""Events that lack parts or were not scored, from counters of Flink's operators."""

from __future__ import annotations

import pytest

from liveprofile.flink.scoring_report import ScoringReport, count_events

# Of both pipelines, as Flink's REST interface names them.
METRICS = {
    "OverAggregate[17].numRecordsIn": 900.0,
    "OverAggregate[20].numRecordsIn": 900.0,
    "OverAggregate[37].numRecordsIn": 110.0,  # 100 events and 10 labels
    "OverAggregate[37].numRecordsOut": 110.0,
    "Calc[38].numRecordsIn": 110.0,
    "Calc[38].numRecordsOut": 100.0,
    "Calc[38].numRecordsOutPerSecond": 0.5,
    "OverAggregate[43].numRecordsIn": 300.0,
    "OverAggregate[47].numRecordsIn": 400.0,
    "OverAggregate[50].numRecordsIn": 93.0,
    "OverAggregate[57].numRecordsIn": 900.0,
    "PythonCalc[52].liveprofile.events.unscored": 2.0,
    "PythonCalc[22].liveprofile.rows": 900.0,
}


def test_report_counts_the_events_of_the_scoring_pipeline() -> None:
    assert count_events(METRICS) == ScoringReport(100, 0.5, incomplete=7, unscored=2)


@pytest.mark.parametrize("missing", ["Calc[38]", "OverAggregate[50]"])
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
