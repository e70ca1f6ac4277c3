"""Where the sources of the job start."""

from __future__ import annotations

import pytest

from jobs.sql import tables
from liveprofile.config import load


def source_options(mode: str, **arguments: object) -> tuple[str, ...]:
    settings = load(kafka={"startup_mode": mode})
    return (
        tables.kafka_source("source", settings, **arguments),
        tables.kafka_scoring_source("scoring", settings, "events", 10, **arguments),
    )


@pytest.mark.parametrize("mode", ["earliest", "latest", "group"])
def test_offsets_after_an_archive_override_the_setting(mode: str) -> None:
    for ddl in source_options(mode, start_offsets={0: 5, 3: 0}):
        assert "'scan.startup.mode' = 'specific-offsets'" in ddl
        assert (
            "'scan.startup.specific-offsets' = 'partition:0,offset:5;partition:3,offset:0'" in ddl
        )


def test_source_starts_by_the_setting_without_offsets() -> None:
    for ddl in source_options("latest"):
        assert "'scan.startup.mode' = 'latest-offset'" in ddl and "specific" not in ddl
