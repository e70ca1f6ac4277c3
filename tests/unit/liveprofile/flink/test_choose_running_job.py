"""Which job `stop`, `cancel` and `upgrade` mean."""

from __future__ import annotations

import pytest

from liveprofile.errors import InputError, LiveprofileError
from liveprofile.flink.job_report import choose_running_job

RUNNING = {"a1": "liveprofile", "b2": "other", "c3": "other"}
URL = "http://flink:8081"


def test_job_is_found_by_its_name_or_its_id() -> None:
    assert choose_running_job(RUNNING, URL, "liveprofile", None) == "a1"
    assert choose_running_job(RUNNING, URL, "liveprofile", "c3") == "c3"


def test_missing_job_is_a_negative_result_that_lists_the_others() -> None:
    for name, job_id in (("shop", None), ("liveprofile", "d4")):
        with pytest.raises(LiveprofileError, match="which runs liveprofile a1, other b2") as error:
            choose_running_job(RUNNING, URL, name, job_id)
        assert error.value.exit_code == 1
    with pytest.raises(LiveprofileError, match="which runs nothing"):
        choose_running_job({}, URL, "shop", None)


def test_name_of_two_jobs_needs_an_id() -> None:
    with pytest.raises(InputError, match=r"2 jobs named other run .* --job: b2, c3"):
        choose_running_job(RUNNING, URL, "other", None)
