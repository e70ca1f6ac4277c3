"""Options that the benchmarks share."""

from __future__ import annotations

import pytest
import typer

from benchmarks.support.command_line import parse_job_settings


def test_settings_are_read_by_section() -> None:
    assert parse_job_settings([]) == {}
    assignments = ["job.bundle_time_ms=100", "job.name = 'a'", "scoring.fetch_wait_ms=200"]
    assert parse_job_settings(assignments) == {
        "job": {"bundle_time_ms": 100, "name": "a"},
        "scoring": {"fetch_wait_ms": 200},
    }


@pytest.mark.parametrize("assignment", ["version=1", "job.name=", "job"])
def test_setting_without_section_or_value_is_refused(assignment: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_job_settings([assignment])
