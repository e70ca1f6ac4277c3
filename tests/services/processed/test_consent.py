"""`liveprofile privacy consent` on the tables and the topic of a job."""

import json
from pathlib import Path

from liveprofile.consent.changes import ConsentChange, read_record
from liveprofile.feeds.users import read_consents
from liveprofile.kafka.records import read_topic
from tests.support.job_under_test import JobUnderTest

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
    assert shown["profiling"]["since_ms"] is None
    history = job.run("privacy", "consent", "history", "asked")
    assert [(each["purpose"], each["granted"]) for each in history] == [
        ("marketing", False),
        ("training", True),
        ("training", False),
    ]
    assert history[-1]["basis"] == "consent" and history[-1]["time"] == "2026-01-05T09:35:00.000Z"

    records = read_topic(job.settings, job.settings.topics.consents)
    newest = [each for each in records if each.key == b"asked"][-1]
    user, changes = read_record(newest.key, newest.value or b"")
    assert user == "asked" and len(changes) == 3
    assert ConsentChange(TIME_MS, "training", False, "consent") in changes
    table = read_consents(job.settings)
    assert not table.allowed("asked", "training", TIME_MS)
    assert table.allowed("asked", "training", TIME_MS + 60_000)
    out = tmp_path / "asked.json"
    assert job.run("privacy", "export", "asked", "--out", str(out))["stored"] == {"user_consent": 3}
