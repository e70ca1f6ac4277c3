"""The installed command reads what the job has stored and sent."""

import json
from typing import Any

import pytest

from tests.support.compare_scoring import sent_events
from tests.support.job_under_test import JobUnderTest
from tests.support.streams.shop import HOT_USER, REGULAR_USER

RECORD_CLASSES = ("heartbeats", "used", "duplicate", "late", "rejected")


def json_lines(job: JobUnderTest, name: str, *arguments: str) -> list[dict[str, Any]]:
    done = job.cli(name, *arguments, "--json")
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_audit_accounts_for_every_record(processed) -> None:
    replayed = processed.replay_report
    assert (replayed["sent"], replayed["closed"], replayed["heartbeats"]) == (60, True, 4)
    report = processed.job.audit()
    assert report["ok"] and report["unaccounted"] == 0, report
    assert report["in_topic"] == processed.records == sum(report[name] for name in RECORD_CLASSES)
    assert all(report[name] for name in RECORD_CLASSES)


def test_show_and_deltas_agree(job: JobUnderTest) -> None:
    profile = job.run("profile", "show", HOT_USER, "--similar", "3")
    newest, *older = job.run("profile", "deltas", HOT_USER, "--limit", "5")
    assert profile["user_id"] == newest["user_id"] == HOT_USER
    assert profile["window_end_ms"] == newest["window_end_ms"] > older[0]["window_end_ms"]
    assert profile["profile"]["features"] == newest["delta"]["after"]
    assert len(newest["digests"]) == 16 * newest["events"]  # hexadecimal
    assert len(older) == 4 and len(profile["similar"]) == 3
    assert profile["similar"][0]["cosine"] >= profile["similar"][2]["cosine"]


def test_why_finds_the_events_of_a_stored_window(job: JobUnderTest) -> None:
    newest, *_ = job.run("profile", "deltas", REGULAR_USER, "--limit", "1")
    found = job.run("profile", "explain", REGULAR_USER)
    assert found["window_end_ms"] == newest["window_end_ms"]
    assert len(found["effects"]) == found["events"] == newest["events"]
    for name in ("churn", "expected_spend"):
        stored = newest["delta"]["after"][name]
        assert found["stored"][name] == pytest.approx(stored, rel=1e-3, abs=1e-3)
    assert any(effect["interests"] for effect in found["effects"])


def test_flags_and_alerts_agree(job: JobUnderTest) -> None:
    flags = job.run("risk", "alerts", "list", "--limit", "1000")
    alerts = json_lines(job, "risk", "alerts", "--limit", "0")
    assert {flag["flag_id"] for flag in flags} == {alert["id"] for alert in alerts}
    of_user = job.run("risk", "alerts", "list", "--user", REGULAR_USER)
    assert {flag["rule_id"] for flag in of_user} >= {"purchase_frequency", "purchase_amount"}
    assert of_user == [flag for flag in flags if flag["user_id"] == REGULAR_USER]


def test_scores_are_those_of_the_users_scored_events(job: JobUnderTest) -> None:
    sent = [event for event in sent_events(job.settings) if event.user == HOT_USER]
    scores = job.run("profile", "scores", HOT_USER, "--limit", "10000")
    times_ms = [score["event_time_ms"] for score in scores]
    assert times_ms == sorted(times_ms, reverse=True)
    assert {score["event_id"] for score in scores} == {event.id for event in sent}
    assert job.run("profile", "scores", HOT_USER, "--limit", "3") == scores[:3]


def test_status_of_running_job(job: JobUnderTest) -> None:
    job.wait_until_committed()
    job.wait_for_checkpoint(180)  # `status` exits with 1 while one is overdue
    status = job.run("job", "status")
    assert status["state"] == "RUNNING" and status["restarts"] == 0
    assert status["tasks_running"] == status["tasks"] > 0
    assert status["lag_events"] == 0 and status["checkpoint"]["size_bytes"] > 0
    assert status["model_version"] == job.run("profile", "show", HOT_USER)["model_version"]


def test_output_without_json_option_is_plain_text(job: JobUnderTest) -> None:
    job.wait_for_checkpoint(180)  # `status` exits with 1 while one is overdue
    for arguments in (
        ("events", "audit"),
        ("profile", "show", HOT_USER),
        ("profile", "deltas", HOT_USER),
        ("profile", "scores", HOT_USER),
        ("risk", "alerts", "list"),
        ("risk", "alerts"),
        ("job", "status"),
    ):
        done = job.cli(*arguments)
        assert done.stdout and "{" not in done.stdout and "\x1b" not in done.stdout
