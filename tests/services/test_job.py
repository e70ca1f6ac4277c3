"""The real job on the real stack: whatever comes, what it stores and sends equals the reference.

State left: one job that ran without a restart, every window closed, every record accounted for.
"""

from __future__ import annotations

from collections import Counter

import pytest

from liveprofile.kafka.records import read_topic
from tests.reference.validation import REASONS
from tests.support.compare import compare_with_reference

pytestmark = pytest.mark.services


def test_everything_equals_the_reference(shop) -> None:
    found = compare_with_reference(shop.job.settings)
    assert found.ok, found.as_json()
    assert found.job == found.reference
    assert found.job["records"] == shop.records
    assert found.job["late"] > 20 and found.job["windows"] > 500 and found.job["flags"] > 1


def test_the_job_never_stopped(shop) -> None:
    assert (shop.job.state(), shop.job.restarts(), shop.job.failure()) == ("RUNNING", 0, "")


def test_every_reason_was_given(shop) -> None:
    topic = shop.job.settings.topics.rejected
    reasons = Counter(
        record.headers["reason"].decode() for record in read_topic(shop.job.settings, topic)
    )
    assert set(reasons) >= set(REASONS)
    assert not reasons["SCORING_FAILED"] and not reasons["UNREADABLE"], reasons
