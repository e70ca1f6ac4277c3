"""Which of Flink's metrics are the rate of events in `liveprofile job status`."""

from __future__ import annotations

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
from tests.support.flink_rest import flink_rest

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
        ({"scoring": ScoringReport(100, 0.0, incomplete=0, unscored=0)}, []),
        ({"scoring": ScoringReport(100, 2.0, 5, 0)}, []),  # in flight
        ({"models": ModelReport(0, 0, 0)}, []),
        ({"models": ModelReport(1_003, 1_003, 0)}, []),
        (
            {"scoring": ScoringReport(100, 0.1, incomplete=7, unscored=2)},
            [
                "7 of 100 events lack a part and are not scored",
                "2 events could not be scored",
            ],
        ),
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


# Of both pipelines, as Flink's REST interface names them.
METRICS = {
    name: OverSubtasks(0.0, 0.0, total)
    for name, total in (
        ("OverAggregate[7].numRecordsIn", 900.0),
        ("OverAggregate[8].numRecordsIn", 900.0),
        ("OverAggregate[23].numRecordsIn", 110.0),  # 100 events and 10 labels
        ("OverAggregate[23].numRecordsOut", 110.0),
        ("Calc[24].numRecordsIn", 110.0),
        ("Calc[24].numRecordsOut", 100.0),
        ("Calc[24].numRecordsOutPerSecond", 0.5),
        ("OverAggregate[25].numRecordsIn", 300.0),
        ("OverAggregate[26].numRecordsIn", 400.0),
        ("OverAggregate[27].numRecordsIn", 93.0),
        ("OverAggregate[4].numRecordsIn", 900.0),
        ("PythonCalc[52].liveprofile.events.unscored", 2.0),
        ("PythonCalc[22].liveprofile.rows", 900.0),
    )
}


def test_report_counts_the_events_of_the_scoring_pipeline() -> None:
    assert scoring_report(METRICS) == ScoringReport(100, 0.5, incomplete=7, unscored=2)
    assert (
        scoring_report({k: v for k, v in METRICS.items() if not k.startswith("Calc[24]")}) is None
    )
    # More than can be in flight are lost.
    assert [ScoringReport(9, rate, 7, 0).lost for rate in (0.5, 1.0)] == [7, 0]


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
