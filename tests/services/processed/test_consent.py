"""`liveprofile privacy consent` on the tables and the topic of a job, and what campaigns make of
it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from liveprofile.consent.changes import ConsentChange, read_record
from liveprofile.feeds.users import read_consents
from liveprofile.kafka.records import read_topic
from liveprofile.storage.connection import open_session
from liveprofile.storage.queries import scan_profiles
from tests.support.job_under_test import JobUnderTest
from tests.support.streams.shop import START_MS

pytestmark = pytest.mark.services

TIME = "2026-01-05T09:35:00Z"
TIME_MS = 1_767_605_700_000


def test_changes_are_stored_sent_and_shown(job: JobUnderTest, tmp_path: Path) -> None:
    arguments = ("privacy", "consent", "set", "asked", "--withdraw", "training", "--time", TIME)
    assert job.run(*arguments, "--basis", "consent") == {"changes": 1, "users": 1}
    assert job.run(*arguments, "--basis", "consent") == {"changes": 1, "users": 1}  # repeated
    file = tmp_path / "consents.jsonl"
    later = {"purpose": "training", "granted": True, "time": TIME_MS + 60_000}
    # At one time both: the withdrawal counts.
    both = [later | {"purpose": "marketing", "granted": granted} for granted in (False, True)]
    rows = [{"user_id": "asked"} | each for each in (later, *both)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    assert job.run("privacy", "consent", "set", "--file", str(file)) == {"changes": 3, "users": 1}

    shown = job.run("privacy", "consent", "show", "asked")
    assert {purpose: row["allowed"] for purpose, row in shown.items()} == {
        "profiling": True,
        "recommendation": True,
        "marketing": False,
        "risk": True,
        "training": True,
    }
    assert shown["profiling"]["since"] is None
    history = job.run("privacy", "consent", "history", "asked")
    assert [(each["purpose"], each["granted"]) for each in history] == [
        ("marketing", False),
        ("training", True),
        ("training", False),
    ]
    assert history[-1]["basis"] == "consent" and history[-1]["time"] == "2026-01-05T09:35:00.000Z"

    newest = [each for each in read_topic(job.settings, job.settings.topics.consents)][-1]
    user, changes = read_record(newest.key, newest.value or b"")
    assert user == "asked" and len(changes) == 3
    assert ConsentChange(TIME_MS, "training", False, "consent") in changes
    table = read_consents(job.settings)
    assert not table.allowed("asked", "training", TIME_MS)
    assert table.allowed("asked", "training", TIME_MS + 60_000)
    out = tmp_path / "asked.json"
    assert job.run("privacy", "export", "asked", "--out", str(out))["stored"] == {"user_consent": 3}


def test_campaigns_leave_out_users_who_withdraw_marketing(job: JobUnderTest) -> None:
    with open_session(job.settings.cassandra) as session:
        user = max(each.user_id for each in scan_profiles(session) if each.churn < 0.99)
    # From the first event on: the values that are stored.
    start = ("--start", str(START_MS))
    plan = ("campaign", "plan", "consents", *start, "--when", "churn < 0.99", "--control", "0")
    before = job.run(*plan, "--dry-run")
    try:
        job.run("privacy", "consent", "set", user, "--withdraw", "marketing")
        after = job.run(*plan, "--dry-run")
    finally:
        job.run("privacy", "consent", "set", user, "--grant", "marketing")
    assert after["left_out"].pop("no marketing consent") == 1
    left = sum(before["left_out"].values()) + before["treatment"]
    assert sum(after["left_out"].values()) + after["treatment"] == left - 1
    again = job.run(*plan, "--dry-run")
    assert again["treatment"] == before["treatment"]
