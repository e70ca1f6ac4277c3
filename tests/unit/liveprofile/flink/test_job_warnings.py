"""Warnings of a job: overdue checkpoints, events that were not scored, models that were refused."""

from __future__ import annotations

import pytest

from liveprofile.flink.job_report import CheckpointReport, JobReport
from liveprofile.flink.job_warnings import checkpoint_warnings, model_warnings, scoring_warnings
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


def test_overdue_checkpoint_is_a_warning() -> None:
    job = JobReport("j", "RUNNING", 600.0, 0, 1, 1, 0.0, None, 2)
    [warning] = checkpoint_warnings(job, 10_000)
    assert warning.startswith("no checkpoint has completed for 600 s, 2 have failed")
    fresh = job._replace(checkpoint=CheckpointReport(34.0, 100, 1))
    assert list(checkpoint_warnings(fresh, 10_000)) == []
    overdue = job._replace(checkpoint=CheckpointReport(36.0, 100, 1))
    assert len(list(checkpoint_warnings(overdue, 10_000))) == 1
