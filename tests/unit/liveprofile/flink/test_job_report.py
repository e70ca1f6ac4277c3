"""Waits for checkpoints, warnings, and reports of jobs."""

from typing import Any

import pytest

from liveprofile.errors import InputError, LiveprofileError, ServiceError
from liveprofile.flink.job_report import (
    CheckpointReport,
    JobReport,
    ScoringReport,
    job_warnings,
    last_checkpoint_path,
    require_running_job,
    scoring_report,
)
from liveprofile.flink.operator_metrics import ModelReport, OverSubtasks
from liveprofile.flink.rest import wait_for_first_checkpoint
from tests.support.http_server import flink_rest

FAILURE = {
    "exceptionHistory": {"entries": [{"stacktrace": "x.Exception: a\n\tat b\nCaused by: no model"}]}
}


def counts(completed: int) -> dict[str, Any]:
    return {"counts": {"completed": completed}}


def test_first_checkpoint_ends_the_wait() -> None:
    answers = {
        "/jobs/j/checkpoints": [counts(0), counts(0), counts(1)],
        "/jobs/j/status": [{"status": "RESTARTING"}],
    }
    with flink_rest(answers) as url:
        wait_for_first_checkpoint(url, "j", 10)


@pytest.mark.parametrize(("status", "timeout_s"), [("FAILED", 10), ("RESTARTING", 0.1)])
def test_job_without_a_checkpoint_names_its_failure(status: str, timeout_s: float) -> None:
    answers = {
        "/jobs/j/checkpoints": [counts(0)],
        "/jobs/j/status": [{"status": status}],
        "/jobs/j/exceptions": [FAILURE],
    }
    with flink_rest(answers) as url, pytest.raises(ServiceError) as failed:
        wait_for_first_checkpoint(url, "j", timeout_s)
    assert str(failed.value) == f"job j is {status} without a checkpoint: no model"


def test_cancelled_job_has_its_last_checkpoint() -> None:
    completed = {"latest": {"completed": {"external_path": "file:/checkpoints/chk-3"}}}
    with flink_rest({"/jobs/j/checkpoints": [completed, {"latest": {"completed": None}}]}) as url:
        assert last_checkpoint_path(url, "j") == "file:/checkpoints/chk-3"
        assert last_checkpoint_path(url, "j") is None


FINE = JobReport("j", "RUNNING", 600.0, 0, 1, 1, 0.0, CheckpointReport(34.0, 100, 1), 2)


def warnings(
    job: JobReport = FINE, scoring: ScoringReport | None = None, models: ModelReport | None = None
) -> list[str]:
    return list(job_warnings(job, 10_000, scoring, models))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, []),
        ({"scoring": ScoringReport(100, unscored=0), "models": ModelReport(1_003, 1_003, 0)}, []),
        ({"scoring": ScoringReport(100, unscored=2)}, ["2 events could not be scored"]),
        (
            {"models": ModelReport(1_002, 1_003, refused=1)},
            [
                "a worker has refused 1 deployments of the user model",
                "workers serve user models of revision 1002 to 1003",
            ],
        ),
        (
            {"job": FINE._replace(checkpoint=None)},
            ["no checkpoint has completed for 600 s, 2 have failed"],
        ),
        (
            {"job": FINE._replace(checkpoint=CheckpointReport(36.0, 100, 1))},
            ["no checkpoint has completed for 36 s"],
        ),
    ],
)
def test_warnings_name_what_an_operator_should_look_at(
    facts: dict[str, Any], expected: list[str]
) -> None:
    for warning, start in zip(warnings(**facts), expected, strict=True):
        assert warning.startswith(start)


def test_report_counts_the_events_of_the_scoring_pipeline() -> None:
    counts = {"events.rows": 90.0, "events.duplicates": 8.0, "events.unscored": 2.0, "rows": 900.0}
    metrics = {
        f"PythonCalc[52].liveprofile.{name}": OverSubtasks(0.0, 0.0, total)
        for name, total in counts.items()
    }
    assert scoring_report(metrics) == ScoringReport(98, unscored=2)
    del metrics["PythonCalc[52].liveprofile.events.rows"]
    assert scoring_report(metrics) is None


RUNNING = [
    {"jid": "a1", "name": "liveprofile", "state": "RUNNING"},
    {"jid": "b2", "name": "other", "state": "RUNNING"},
    {"jid": "c3", "name": "other", "state": "RESTARTING"},
    {"jid": "e5", "name": "shop", "state": "FINISHED"},
]


def test_job_is_found_by_name_or_id_and_a_missing_one_is_a_negative_result() -> None:
    with flink_rest({"/jobs/overview": [{"jobs": RUNNING}]}) as url:
        assert require_running_job(url, "liveprofile") == "a1"
        assert require_running_job(url, "liveprofile", "c3") == "c3"
        for name, job_id in (("shop", None), ("liveprofile", "d4")):
            with pytest.raises(
                LiveprofileError, match="which runs liveprofile a1, other b2"
            ) as error:
                require_running_job(url, name, job_id)
            assert error.value.exit_code == 1
        with pytest.raises(InputError, match=r"2 jobs named other run .* --job: b2, c3"):
            require_running_job(url, "other")
    with (
        flink_rest({"/jobs/overview": [{"jobs": []}]}) as url,
        pytest.raises(LiveprofileError, match="which runs nothing"),
    ):
        require_running_job(url, "shop")
