"""What tests/consents.py reports of rows that are not as its oracle says."""

from __future__ import annotations

from tests.support.findings import Findings


def test_rows_that_may_be_there_and_may_be_missing_are_no_difference() -> None:
    found = Findings()
    for there in (True, False):
        found.check("rows", 1, there, [True, False])
        found.check("rows", 2, there, [there])
    assert found.ok and found.counts["rows"] == {
        "there": 2,
        "not there": 2,
        "either allowed": 2,
    }


def test_rows_that_are_not_allowed_or_missing_are_differences() -> None:
    found = Findings()
    found.check("rows", "u", True, [False])
    found.check("rows", "v", False, [True])
    found.check("messages", "w", True, [])
    assert not found.ok
    assert found.examples == ["rows u: not allowed", "rows v: missing", "messages w: not allowed"]
    assert found.counts["rows"]["not allowed"] == found.counts["rows"]["missing"] == 1
