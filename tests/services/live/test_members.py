"""Segments on a running job: definitions apply while it runs, each change is sent exactly once, and
users leave by the passage of time."""

import time
from collections import Counter
from pathlib import Path

import orjson
import pytest
from cassandra.cluster import Session

from liveprofile.kafka.records import read_topic
from liveprofile.segments.evaluation import evaluate
from liveprofile.segments.segments import read_segments
from liveprofile.segments.stored_profiles import scan_profiles
from liveprofile.units import DAY_MS, HOUR_MS
from services.segments import members
from tests.support.job_under_test import JobUnderTest
from tests.support.streams.seeded import Message
from tests.support.streams.shop import event_of, to_message
from tests.support.waiting import until

START_MS = 1_700_000_000_000 // HOUR_MS * HOUR_MS
USERS = 300
BUYERS = """

[[segments]]
id = "buyer"
when = "purchases >= 2 and recency_days <= 20"
owner = "marketing"
description = "Bought twice, the last time within 20 days"
"""


def window_events(number: int) -> list[Message]:
    """The events of one window: every user, each third one buys."""
    time_ms = START_MS + number * HOUR_MS + 60_000
    events = []
    for user in range(USERS):
        buys = user % 3 == 0
        event = event_of(
            f"user {user}",
            time_ms + user,
            f"e{number}-{user}",
            "purchase" if buys else "view",
            item_id="i",
            category_id="CHEESE" if user % 2 else "BREAD",
        )
        if buys:
            event |= {"price": 150 if user % 2 else 5, "quantity": 1}
        events.append(to_message(event))
    return events


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, job: JobUnderTest) -> Path:
    path = tmp_path_factory.mktemp("segments") / "segments.toml"
    path.write_text(job.settings.segments.read_text("utf-8") + BUYERS, encoding="utf-8")
    return path


def close_window(job: JobUnderTest, number: int) -> None:
    job.send(window_events(number))
    job.send_heartbeats(START_MS + number * HOUR_MS + 120_000)
    job.wait_until_caught_up()


def changes(job: JobUnderTest) -> dict[tuple[str, str], list[str]]:
    """(user, segment) -> changes by number, which must be 1, 2, ..., each with one id."""
    found: dict[tuple[str, str], dict[int, tuple[str, str]]] = {}
    for record in read_topic(job.settings, job.settings.topics.segment_changes):
        event = orjson.loads(record.value)
        data = event["data"]
        of_user = found.setdefault((data["user_id"], data["segment_id"]), {})
        copy = of_user.setdefault(data["number"], (data["change"], event["id"]))
        assert copy == (data["change"], event["id"])
    for of_user in found.values():
        assert sorted(of_user) == list(range(1, len(of_user) + 1))
    return {
        key: [of_user[number][0] for number in sorted(of_user)] for key, of_user in found.items()
    }


def assert_stored_equals_events(job: JobUnderTest, session: Session) -> None:
    by_segment: dict[str, set[str]] = {}
    for (user, segment_id), of_user in changes(job).items():
        assert of_user == [("entered", "left")[number % 2] for number in range(len(of_user))]
        if len(of_user) % 2:
            by_segment.setdefault(segment_id, set()).add(user)
    for segment_id, users in by_segment.items():
        assert {member.user_id for member in members(session, segment_id)} == users


def swept(job: JobUnderTest, at_ms: int) -> Counter[tuple[str, str]]:
    """The number of users by segment and kind that a sweep moves, without those of churn_risk.

    Churn follows the model's curves as time passes.
    """
    before = changes(job)
    result = job.run("segments", "sweep", "--at", str(at_ms))
    moved = Counter(
        (segment, kind)
        for (user, segment), of_user in changes(job).items()
        for kind in of_user[len(before.get((user, segment), ())) :]
    )
    for kind in "entered", "left":
        assert result[kind] == sum(n for (_, each), n in moved.items() if each == kind)
        del moved["churn_risk", kind]
    return moved


def assert_members_equal_profiles(
    job: JobUnderTest, session: Session, file: Path, time_ms: int
) -> None:
    """Evaluates all stored profiles and compares with the stored members."""
    expected: dict[str, set[str]] = {}
    for page in scan_profiles(session):
        inputs = page.inputs_at(time_ms, job.settings.state.decay_days)
        names = evaluate(read_segments(file), inputs).names()
        for user, of_user in zip(page.user_ids, names, strict=True):
            for name in of_user:
                expected.setdefault(name, set()).add(user)
    for segment in read_segments(file).segments:
        found = {member.user_id for member in members(session, segment.id)}
        assert found == expected.get(segment.id, set()), segment.id


def test_users_enter_the_segments_of_the_file(job: JobUnderTest, session: Session) -> None:
    for number in range(4):
        close_window(job, number)
    found = changes(job)
    assert found["user 0", "new"] == ["entered", "left"]  # left with the fourth window
    assert found["user 3", "big_spender"] == ["entered"]
    assert ("user 6", "big_spender") not in found
    assert_stored_equals_events(job, session)
    assert_members_equal_profiles(job, session, job.settings.segments, START_MS)


def test_applied_definition_takes_effect_at_the_next_window_and_by_a_sweep(
    job: JobUnderTest, session: Session, file: Path
) -> None:
    at = ["--at", str(START_MS + 4 * HOUR_MS)]
    previewed = job.run("segments", "preview", str(file), *at)
    buyer = next(one for one in previewed["segments"] if one["segment_id"] == "buyer")
    assert (previewed["users"], buyer["users_now"], buyer["users_then"]) == (USERS, 0, 100)
    applied = job.run("segments", "apply", str(file))
    assert [c["what"] for c in applied["changes"]].count("added") == 8
    time.sleep(5)
    # A window of some users only: the others get the definition from the sweep.
    job.send(window_events(4)[: USERS // 2])
    job.send_heartbeats(START_MS + 4 * HOUR_MS + 120_000)
    job.wait_until_caught_up()
    entered = {user for (user, segment), _ in changes(job).items() if segment == "buyer"}
    assert entered == {f"user {n}" for n in range(0, USERS // 2, 3)}
    assert swept(job, START_MS + 5 * HOUR_MS) == {("buyer", "entered"): 50}
    assert_stored_equals_events(job, session)
    assert_members_equal_profiles(job, session, file, START_MS + 5 * HOUR_MS)


def test_users_leave_by_time_and_enter_again_with_a_window(
    job: JobUnderTest, session: Session, file: Path
) -> None:
    later_ms = START_MS + 31 * DAY_MS
    assert swept(job, later_ms) == {("buyer", "left"): 100, ("lapsing", "entered"): 100}
    assert_members_equal_profiles(job, session, file, later_ms)
    number = 31 * 24
    close_window(job, number)
    found = changes(job)
    assert found["user 0", "buyer"] == ["entered", "left", "entered"]
    assert found["user 0", "lapsing"] == ["entered", "left"]
    assert_stored_equals_events(job, session)
    end_ms = START_MS + number * HOUR_MS  # at least the end of each window counts
    assert_members_equal_profiles(job, session, file, end_ms)


def test_killed_sweep_goes_on(job: JobUnderTest, session: Session, file: Path) -> None:
    """Kills the process of a sweep after its announcement, with its lease in force."""
    later_ms = START_MS + 70 * DAY_MS
    select = "SELECT finished FROM segment_sweep WHERE name = 'last'"
    with job.start("segments", "sweep", "--at", str(later_ms)) as process:
        until(lambda: not session.execute(select).one().finished)
        process.kill()
    refused = job.cli("segments", "sweep", ok=False)
    assert refused.returncode == 3 and "another process sweeps" in refused.stderr
    session.execute("UPDATE segment_sweep SET lease_until = 0 WHERE name = 'last' IF EXISTS")
    result = job.run("segments", "sweep")  # at the time of the killed one
    assert result["at_ms"] == later_ms
    assert_stored_equals_events(job, session)
    assert_members_equal_profiles(job, session, file, later_ms)


def test_commands_show_members(job: JobUnderTest) -> None:
    assert sum(map(len, changes(job).values())) > 1_000
    assert len(job.run("segments", "members", "lapsing", "--limit", "7")) == 7
    sizes = job.run("segments", "sizes")["lapsing"]
    assert [size["members"] for size in sizes] == [100, 100, 0]
    assert "of users" in job.cli("segments", "sizes").stdout
