"""Warnings of `liveprofile status` about events that were not scored."""

from __future__ import annotations

import pytest

from cli.pipeline.status import scoring_warnings
from liveprofile.flink.scoring_report import ScoringReport


@pytest.mark.parametrize(
    "scoring",
    [None, ScoringReport(100, 0.0, incomplete=0, unscored=0), ScoringReport(100, 2.0, 5, 0)],
)
def test_no_warning_if_events_are_scored_or_in_flight(scoring: ScoringReport | None) -> None:
    assert list(scoring_warnings(scoring)) == []


def test_warning_for_each_kind_of_event_without_a_score() -> None:
    incomplete, unscored = scoring_warnings(ScoringReport(100, 0.1, incomplete=7, unscored=2))
    assert incomplete.startswith("7 of 100 events lack a part and are not scored")
    assert unscored.startswith("2 events could not be scored")
