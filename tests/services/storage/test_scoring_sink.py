"""CassandraScoringSink on a real node, and the flag history of both scoring sinks."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from cassandra.cluster import Session

from liveprofile.alerts.cases import snooze
from liveprofile.rows.risk import score_hour_ms
from liveprofile.rules.flags import FlagHistory, FlagQuery, RowPosition
from liveprofile.settings import CassandraSettings
from liveprofile.storage import queries
from liveprofile.storage.cql import from_ms, now_ms, to_ms
from liveprofile.units import HOUR_MS, MINUTE_MS
from tests.support.memory.sinks import MemoryScoringSink
from tests.support.rows.scored_events import START_MS, flag, scored_event, write_and_flush
from tests.support.waiting import until
from udfs.scoring.sink import CassandraScoringSink, ScoringSink

pytestmark = pytest.mark.services

TABLES = ("risk_score_by_hour", "risk_score_hours", "risk_flag", "risk_flag_by_day", "risk_snooze")
SCORE_TTL_S = 86_400


@pytest.fixture
def cassandra(settings: CassandraSettings, session: Session) -> Iterator[CassandraScoringSink]:
    for table in TABLES:
        session.execute(f"TRUNCATE {table}", timeout=60)
    yield CassandraScoringSink(settings, SCORE_TTL_S, session)


@pytest.fixture(params=["memory", "cassandra"])
def sink(request: pytest.FixtureRequest) -> ScoringSink:
    if request.param == "memory":
        return MemoryScoringSink()
    return request.getfixturevalue("cassandra")


def history(sink: ScoringSink, rule_id: str, at_ms: int) -> FlagHistory:
    event_id = f"e{(at_ms - START_MS) // HOUR_MS}"
    (found,) = sink.flag_history([FlagQuery("u", rule_id, at_ms, event_id)])
    return found


def past(sink: ScoringSink, rule_id: str, at_ms: int) -> tuple[bool, int | None]:
    found = history(sink, rule_id, at_ms)
    return found.was_true, found.last_raised_ms


def test_scored_event_is_one_row(cassandra: CassandraScoringSink, session: Session):
    event = scored_event(active_rules=["a", "b"], flags=[flag("a")])
    write_and_flush(cassandra, event)
    [row] = session.execute(
        "SELECT user_id, event_id, to_unix_timestamp(event_time) AS event_ms, event_type, amount,"
        " score, model_version, rules_version, active_rules, TTL(score) AS ttl, device_id, place,"
        " shop_id, coupon_id, address_id FROM risk_score_by_hour"
    ).all()
    assert row[:8] == event[:8]
    assert set(row.active_rules) == {"a", "b"}
    assert SCORE_TTL_S - 60 <= row.ttl <= SCORE_TTL_S
    assert row[10:] == ("d1", "4813:1157", None, None, "a1")
    for table in ("risk_flag", "risk_flag_by_day"):
        [found] = session.execute(
            "SELECT event_id, to_unix_timestamp(window_start) AS start,"
            f" to_unix_timestamp(window_end) AS end FROM {table}"
        ).all()
        assert found == ("e0", START_MS, START_MS)


def test_writing_an_event_again_changes_nothing(cassandra: CassandraScoringSink, session: Session):
    event = scored_event(active_rules=["a"], flags=[flag("a")])
    write_and_flush(cassandra, event)
    before = [session.execute(f"SELECT * FROM {table}").all() for table in TABLES]
    write_and_flush(cassandra, event)
    assert [session.execute(f"SELECT * FROM {table}").all() for table in TABLES] == before
    assert [len(found) for found in before] == [1, 1, 1, 1, 0]


def test_events_at_the_same_time_are_separate_rows(
    cassandra: CassandraScoringSink, session: Session
):
    write_and_flush(cassandra, scored_event(), scored_event(event_id="other"))
    rows = session.execute("SELECT event_id FROM risk_score_by_hour").all()
    assert sorted(row.event_id for row in rows) == ["e0", "other"]


def test_events_of_each_hour_are_one_partition(cassandra: CassandraScoringSink, session: Session):
    half_hour = START_MS + HOUR_MS // 2
    events = [
        scored_event(hour=0, active_rules=["b", "a"]),
        scored_event(event_id="same hour", event_ms=half_hour),
        scored_event(hour=30),
        scored_event("other", hour=1),
    ]
    write_and_flush(cassandra, *events)
    partitions = session.execute("SELECT DISTINCT user_id, hour FROM risk_score_by_hour").all()
    assert sorted(partitions) == sorted(session.execute("SELECT * FROM risk_score_hours"))
    hours = [to_ms(row.hour) - score_hour_ms(START_MS) for row in partitions if row.user_id == "u"]
    assert sorted(hours) == [0, 30 * HOUR_MS]

    stored = queries.scores(session, "u")
    assert [score.event_id for score in stored] == ["e30", "same hour", "e0"]
    assert stored[2].active_rules == ["a", "b"]
    assert (stored[2].device_id, stored[2].shop_id) == ("d1", None)
    assert queries.scores(session, "u", limit=2) == stored[:2]
    assert queries.score(session, "u", half_hour, "same hour") == stored[1]
    assert queries.score(session, "u", half_hour, "another") is None
    assert queries.scores(session, "nobody") == []


def test_hour_is_kept_when_events_up_to_a_time_are_deleted(
    cassandra: CassandraScoringSink, session: Session
):
    later = scored_event(event_id="later", event_ms=START_MS + MINUTE_MS)
    write_and_flush(cassandra, scored_event(), later)
    for table in ("risk_score_hours", "risk_score_by_hour"):
        hour = "AND hour = %s" if table == "risk_score_by_hour" else ""
        values = ("u", from_ms(score_hour_ms(START_MS))) if hour else ("u",)
        delete = f"DELETE FROM {table} USING TIMESTAMP {START_MS * 1_000} WHERE user_id = %s {hour}"
        session.execute(delete, values)
    assert [score.event_id for score in queries.scores(session, "u")] == ["later"]


def test_hour_outlives_its_scores(settings: CassandraSettings, session: Session):
    write_and_flush(CassandraScoringSink(settings, 1, session), scored_event("brief"))

    def stored(table: str) -> bool:
        return any(row.user_id == "brief" for row in session.execute(f"SELECT * FROM {table}"))

    until(lambda: not stored("risk_score_by_hour"))
    assert stored("risk_score_hours")


def test_flag_history_before_each_event(sink: ScoringSink):
    write_and_flush(sink, scored_event(hour=0, active_rules=["a"], flags=[flag("a")]))
    write_and_flush(sink, scored_event(hour=1, active_rules=["a", "b"], flags=[flag("b", hour=1)]))
    write_and_flush(sink, scored_event(hour=2, active_rules=["b"]))
    write_and_flush(
        sink, scored_event("other", hour=2, active_rules=["a"], flags=[flag("a", hour=2)])
    )
    times_ms = [START_MS + hour * HOUR_MS for hour in range(4)]

    assert past(sink, "a", times_ms[0]) == (False, None)
    assert past(sink, "a", times_ms[1]) == (True, times_ms[0])
    assert past(sink, "a", times_ms[3]) == (False, times_ms[0])
    assert past(sink, "b", times_ms[1]) == (False, None)
    assert past(sink, "b", times_ms[2]) == (True, times_ms[1])
    assert past(sink, "b", times_ms[3]) == (True, times_ms[1])
    several = [FlagQuery(user_id, "b", times_ms[3], "e3") for user_id in ("u", "nobody")]
    assert sink.flag_history(several) == [history(sink, "b", times_ms[3]), FlagHistory()]


def test_flag_history_of_late_event_ends_at_its_own_time(sink: ScoringSink):
    write_and_flush(
        sink,
        scored_event(hour=0),
        scored_event(hour=5, active_rules=["a"], flags=[flag("a", hour=5)]),
    )
    late_ms = START_MS + 3 * HOUR_MS
    assert past(sink, "a", late_ms) == (False, None)
    assert history(sink, "a", late_ms).next_raised_ms == START_MS + 5 * HOUR_MS
    write_and_flush(sink, scored_event(hour=3, active_rules=["b"], flags=[flag("b", hour=3)]))
    newest_ms = START_MS + 6 * HOUR_MS
    assert past(sink, "a", newest_ms) == (True, newest_ms - HOUR_MS)
    assert past(sink, "b", newest_ms) == (False, late_ms)


def test_flag_history_orders_the_events_of_a_millisecond(sink: ScoringSink):
    first = scored_event(event_id="b", active_rules=["a"], flags=[flag("a", event_id="b")])
    second = scored_event(event_id="a", active_rules=["b"])
    write_and_flush(sink, first, second)

    def of(event_id: str) -> FlagHistory:
        (found,) = sink.flag_history([FlagQuery("u", "a", START_MS, event_id)])
        return found

    assert of("c") == FlagHistory(next_raised_ms=START_MS)
    assert of("b") == FlagHistory(is_raised=True)
    assert of("aa") == FlagHistory(RowPosition(START_MS, "b"), True, START_MS)
    assert of("0") == FlagHistory(RowPosition(START_MS, "a"), False, START_MS)


def test_flags_of_a_rule_in_one_millisecond_are_separate_rows(
    cassandra: CassandraScoringSink, session: Session
):
    for event_id in "xy":
        of_event = flag("a", event_id=event_id, flag_id=event_id)
        write_and_flush(cassandra, scored_event(event_id=event_id, flags=[of_event]))
    for table in ("risk_flag", "risk_flag_by_day"):
        found = session.execute(f"SELECT flag_id, event_id FROM {table}").all()
        assert sorted(found) == [("x", "x"), ("y", "y")]


def test_stored_and_in_memory_flag_history_agree(
    cassandra: CassandraScoringSink, settings: CassandraSettings, session: Session
):
    rng, memory = random.Random(3), MemoryScoringSink()
    for _ in range(25):
        hour, user_id = rng.randrange(40), rng.choice("uv")
        queries = [
            FlagQuery(user, rule, START_MS + hour * HOUR_MS, f"e{hour}")
            for user in "uv"
            for rule in "ab"
        ]
        fresh = CassandraScoringSink(settings, SCORE_TTL_S, session)
        expected = memory.flag_history(queries)
        assert fresh.flag_history(queries) == expected
        assert cassandra.flag_history(queries) == expected
        if (user_id, START_MS + hour * HOUR_MS, f"e{hour}") in memory.scores:
            continue
        active = [rule for rule in "ab" if rng.random() < 0.5]
        flags = [flag(rule, hour=hour) for rule in active if rng.random() < 0.5]
        for target in (memory, cassandra):
            write_and_flush(target, scored_event(user_id, hour, active_rules=active, flags=flags))


def test_snoozes_are_read_from_the_table(cassandra: CassandraScoringSink, session: Session):
    until_ms = now_ms() + HOUR_MS
    snooze.snooze(session, "u", "a", until_ms, "anna", "why")
    snooze.snooze(session, "u", snooze.ALL_RULES, until_ms + 1, "anna")
    expected = {"u": {"a": until_ms, "*": until_ms + 1}, "v": {}}
    assert cassandra.snoozed(["u", "v", "u"]) == expected
