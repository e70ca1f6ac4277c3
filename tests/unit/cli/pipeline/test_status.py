"""Warnings of `liveprofile status`: events that were not scored, models that were refused."""

from __future__ import annotations

import pytest

from cli.pipeline.status import model_warnings, scoring_warnings
from liveprofile.flink.model_report import ModelReport
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


@pytest.mark.parametrize("models", [None, ModelReport(0, 0, 0), ModelReport(1_003, 1_003, 0)])
def test_no_warning_if_all_workers_serve_the_same_deployment(models: ModelReport | None) -> None:
    assert list(model_warnings(models)) == []


def test_warning_for_refused_models_and_for_workers_that_differ() -> None:
    refused, differ = model_warnings(ModelReport(1_002, 1_003, refused=1))
    assert refused.startswith("a worker has refused 1 deployments of the user model")
    assert differ.startswith("workers serve user models of revision 1002 to 1003")
