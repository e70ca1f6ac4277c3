"""`liveprofile campaign` on the profiles and deltas of a job."""

import json
from pathlib import Path
from typing import Any

import pytest

from liveprofile.kafka.records import read_topic
from liveprofile.kafka.topics import create_unlimited_topic
from liveprofile.storage import queries
from liveprofile.storage.connection import open_session
from liveprofile.storage.queries import scan_profiles
from liveprofile.units import DAY_MS
from services.alerts.case_store import NewAlert, add_alert
from services.campaigns.plan import Campaign, Cap, Target
from services.campaigns.store import find_plan, read_targets, store_plan
from tests.support.job_under_test import JobUnderTest
from tests.support.streams.shop import START_MS

DAYS = 2


def plan(job: JobUnderTest, name: str, *options: str) -> dict[str, Any]:
    return job.run("campaign", "plan", name, "--start", str(START_MS), *options)


def test_plan_send_and_report(job: JobUnderTest, tmp_path: Path) -> None:
    file, topic = tmp_path / "spring.csv", f"{job.settings.topics.events}-campaign"
    with open_session(job.settings.cassandra) as session:
        profiles = {each.user_id: each for each in scan_profiles(session)}
        fits = {user for user, each in profiles.items() if each.churn < 0.99}
        suspect = min(fits)
        alert = NewAlert("alert", START_MS, suspect, "rule", "high", "limit_trading", "message")
        add_alert(session, alert, ttl_s=600)
    chosen = ("--when", "churn < 0.99", "--control", "0.4")
    assert plan(job, "spring", *chosen, "--dry-run")["treatment"] > 0  # and stores nothing
    summary = plan(job, "spring", *chosen, "--csv", str(file))
    with open_session(job.settings.cassandra) as session:
        targets = read_targets(session, find_plan(session, "spring"))
    groups = {target.user_id: target.group for target in targets}
    assert len(file.read_text().splitlines()) == len(groups) + 1
    assert summary["left_out"].pop("open fraud case") == 1
    assert set(groups) <= fits - {suspect}
    assert len(groups) == len(fits) - 1 - summary["left_out"].get("no expected gain", 0)
    treated = {user for user, group in groups.items() if group == "treatment"}
    assert 0 < len(treated) == summary["treatment"] < len(groups)

    create_unlimited_topic(job.settings, topic, 1)
    for _ in range(2):  # again, as after a failure
        assert job.run("campaign", "send", "spring", "--topic", topic)["sent"] == len(treated)
    events = [json.loads(record.value) for record in read_topic(job.settings, topic)]
    assert len(events) == 2 * len(treated)
    assert {event["id"] for event in events} == {f"spring/{user}" for user in treated}

    capped = plan(job, "summer", "--cap", "1/30d", "--dry-run")
    assert capped["left_out"]["frequency cap"] == len(treated)
    own = plan(job, "spring", "--cap", "1/30d", "--dry-run")
    assert own["left_out"].get("frequency cap", 0) == 0

    report = job.run("campaign", "report", "spring", "--days", str(DAYS))
    result = report["groups"]["all"]
    assert report["has_control"] and result["rate_difference"] is not None
    with open_session(job.settings.cassandra) as session:
        for group in "treatment", "control":
            users = [user for user, of in groups.items() if of == group]
            bought = [spend for user in users if (spend := spend_of(session, user)) is not None]
            assert result["users"][group] == len(users)
            assert result["purchase_rate"][group] == pytest.approx(len(bought) / len(users))
            assert result["spend_per_user"][group] == pytest.approx(sum(bought) / len(users))


def spend_of(session: Any, user: str) -> float | None:
    """The purchases of the first days; None without one."""
    spent = [
        delta.amount
        for delta in queries.deltas(session, user, 10_000)
        if START_MS <= delta.window_start_ms < START_MS + DAYS * DAY_MS
        and delta.delta["window"]["counts"].get("purchase")
    ]
    return sum(spent) if spent else None


def test_stored_plan_is_listed_sent_reported_and_counted(job: JobUnderTest) -> None:
    topic = f"{job.settings.topics.events}-campaign-listed"
    groups = ("treatment", "treatment", "control")
    rest = ((), 0.5, 9.0, 4.0, START_MS)
    targets = [Target(f"api-{n}", group, *rest) for n, group in enumerate(groups)]
    cap = Cap(contacts=1, days=30)
    about = Campaign(name="autumn", start_ms=START_MS, control_share=0.3, cost=0.1, cap=cap)
    summary = {"treatment": 2, "control": 1, "expected_gain": 8.0}
    with open_session(job.settings.cassandra) as session:
        requested = {"cap": {"contacts": 1, "days": 30}}
        store = (session, job.settings)
        stored = store_plan(*store, about, targets, "anna", requested, summary)
        assert find_plan(session, "autumn") == stored
        later = about._replace(name="later", start_ms=START_MS + DAY_MS)
        store_plan(*store, later, targets, "anna", requested, summary)
    [listed] = [each for each in job.run("campaign", "list") if each["name"] == "autumn"]
    assert (listed["planned_by"], listed["summary"]["treatment"]) == ("anna", 2)

    create_unlimited_topic(job.settings, topic, 1)
    send = ("campaign", "send", "--topic", topic)
    counts = {"sent": 0, "erased": 0, "no_consent": 0, "frequency_cap": 2}
    assert job.run(*send, "later") == counts
    for _ in range(2):  # again, as after a failure
        assert job.run(*send, "autumn") == counts | {"sent": 2, "frequency_cap": 0}
    report = job.run("campaign", "report", "autumn")
    assert report["groups"]["all"]["users"] == {"treatment": 2, "control": 1}
    done = job.cli("campaign", "report", "unknown", ok=False)
    assert done.returncode == 1 and "no campaign 'unknown' is stored" in done.stderr


def test_plan_without_control_group_says_so(job: JobUnderTest) -> None:
    assert plan(job, "all", "--control", "0")["control"] == 0
    assert "The plan has no control group" in job.cli("campaign", "report", "all").stderr
    done = job.cli("campaign", "send", "all", "--topic", "no-such-topic", ok=False)
    assert done.returncode == 3 and "no-such-topic" in done.stderr
