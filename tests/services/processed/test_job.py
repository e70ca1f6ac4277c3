"""The job on the local stack stores and sends what the reference computes, for any input.

Final state: the job ran without a restart, every window is closed, every record accounted for.
"""

from __future__ import annotations

from collections import Counter

import pytest

from liveprofile.kafka.records import read_topic
from tests.reference.validation import REASONS
from tests.support.compare import compare_with_reference

pytestmark = pytest.mark.services


def test_output_equals_reference(processed) -> None:
    comparison = compare_with_reference(processed.job.settings)
    assert comparison.ok, comparison.as_json()
    assert comparison.job == comparison.reference
    assert comparison.job["records"] == processed.records
    assert (
        comparison.job["late"] > 20
        and comparison.job["windows"] > 500
        and comparison.job["flags"] > 1
    )


def test_job_ran_without_restart(processed) -> None:
    assert (processed.job.state(), processed.job.restarts(), processed.job.failure()) == (
        "RUNNING",
        0,
        "",
    )


def test_every_rejection_reason_occurs(processed) -> None:
    topic = processed.job.settings.topics.rejected
    reasons = Counter(
        record.headers["reason"].decode() for record in read_topic(processed.job.settings, topic)
    )
    assert set(reasons) >= set(REASONS)
    assert not reasons["SCORING_FAILED"] and not reasons["UNREADABLE"], reasons
