"""Whether a started job works, as Flink's REST interface tells it."""

from __future__ import annotations

from typing import Any

import pytest

from liveprofile.errors import LiveprofileError, ServiceError
from liveprofile.flink.job_report import last_checkpoint_path, require_running_job
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
    assert str(failed.value) == f"job j is {status} without a checkpoint: Caused by: no model"


def test_ended_jobs_do_not_run() -> None:
    jobs = [
        {"jid": "old", "name": "liveprofile", "state": "FINISHED"},
        {"jid": "new", "name": "liveprofile", "state": "RESTARTING"},
    ]
    with flink_rest({"/jobs/overview": [{"jobs": jobs}, {"jobs": jobs[:1]}]}) as url:
        assert require_running_job(url, "liveprofile") == "new"
        with pytest.raises(LiveprofileError, match="no job named liveprofile runs"):
            require_running_job(url, "liveprofile")


def test_cancelled_job_has_its_last_checkpoint() -> None:
    completed = {"latest": {"completed": {"external_path": "file:/checkpoints/chk-3"}}}
    with flink_rest({"/jobs/j/checkpoints": [completed, {"latest": {"completed": None}}]}) as url:
        assert last_checkpoint_path(url, "j") == "file:/checkpoints/chk-3"
        assert last_checkpoint_path(url, "j") is None
