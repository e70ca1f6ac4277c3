"""The installed command on what the real job has stored and sent, as a program reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.job_under_test import JobUnderTest, run_cli
from tests.support.shop import HOT_USER, REGULAR_USER

pytestmark = pytest.mark.services

WAYS = ("heartbeats", "used", "duplicate", "late", "rejected")


@pytest.fixture(scope="module")
def job(shop) -> JobUnderTest:
    return shop.job


def lines(job: JobUnderTest, name: str, *arguments: str) -> list[dict[str, Any]]:
    done = run_cli(name, *arguments, "--json", "--config", job.config_file)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_replay_says_what_it_sent(shop) -> None:
    assert shop.replayed["sent"] == 60
    assert shop.replayed["closed"] and shop.replayed["heartbeats"] == 4


def test_audit_accounts_for_every_record(shop) -> None:
    account = shop.job.audit()
    assert account["ok"] and account["unaccounted"] == 0, account
    assert account["in_topic"] == shop.records == sum(account[way] for way in WAYS)
    assert all(account[way] for way in WAYS)


def test_show_and_deltas_tell_the_same(job: JobUnderTest) -> None:
    profile = job.run("show", HOT_USER, "--similar", "3")
    newest, *older = job.run("deltas", HOT_USER, "--limit", "5")
    assert profile["user_id"] == newest["user_id"] == HOT_USER
    assert profile["window_end_ms"] == newest["window_end_ms"] > older[0]["window_end_ms"]
    assert profile["profile"]["features"] == newest["delta"]["after"]
    assert len(newest["digests"]) == 16 * newest["events"]  # hexadecimal
    assert len(older) == 4 and len(profile["similar"]) == 3
    assert profile["similar"][0]["cosine"] >= profile["similar"][2]["cosine"]


def test_flags_and_alerts_tell_the_same(job: JobUnderTest) -> None:
    flags = job.run("flags", "--limit", "1000")
    alerts = lines(job, "alerts", "--limit", "0")
    assert {flag["flag_id"] for flag in flags} == {alert["id"] for alert in alerts}
    of_one = job.run("flags", "--user", REGULAR_USER)
    assert {flag["rule_id"] for flag in of_one} >= {"purchase_frequency", "purchase_amount"}
    assert of_one == [flag for flag in flags if flag["user_id"] == REGULAR_USER]


def test_status(job: JobUnderTest) -> None:
    job.wait_until_committed()
    status = job.run("status")
    assert status["state"] == "RUNNING" and status["restarts"] == 0
    assert status["tasks_running"] == status["tasks"] > 0
    assert status["lag_events"] == 0 and status["checkpoint"]["size_bytes"] > 0
    assert status["model_version"] == job.run("show", HOT_USER)["model_version"]


def test_for_a_person_it_is_text(job: JobUnderTest) -> None:
    for name, *arguments in (
        ("audit",), ("show", HOT_USER), ("deltas", HOT_USER), ("flags",), ("alerts",), ("status",)
    ):  # fmt: skip
        done = run_cli(name, *arguments, "--config", job.config_file)
        assert done.stdout and "{" not in done.stdout and "\x1b" not in done.stdout


def test_an_unknown_user_is_one_clear_line(job: JobUnderTest) -> None:
    for name in "show", "deltas":
        done = run_cli(name, "nobody", "--config", job.config_file, ok=False)
        assert done.returncode == 1 and not done.stdout
        assert done.stderr == "liveprofile: no profile of user 'nobody'\n"
