"""Which of Flink's metrics are the rate of events in `liveprofile job status`."""

from __future__ import annotations

import pytest

from liveprofile.flink.job_report import EVENT_SOURCE_RATE


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("Source__source[1].numRecordsInPerSecond", True),
        ("Source__source[1].numRecordsOutPerSecond", False),
        ("Source__scoring_source[30].numRecordsInPerSecond", False),
        ("Source__label_source[27].numRecordsInPerSecond", False),
        ("numRecordsInPerSecond", False),
    ],
)
def test_only_the_source_of_the_profile_pipeline_counts(name: str, counts: bool) -> None:
    assert bool(EVENT_SOURCE_RATE.match(name)) is counts
