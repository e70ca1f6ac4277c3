"""CassandraScoringStore on a real node, and its flag history beside that in memory."""

import random
from collections.abc import Iterator

import pytest
from cassandra.cluster import Session

from liveprofile.rows.risk import score_hour_ms
from liveprofile.rules.flags import ALL_RULES, PastFlags, RowPosition
from liveprofile.settings import CassandraSettings
from liveprofile.storage import queries
from liveprofile.storage.cql import from_ms, now_ms, to_ms
from liveprofile.units import HOUR_MS, MINUTE_MS
from services.alerts import snooze
from tests.services.conftest import empty
from tests.support.memory.sinks import MemoryScoringSink
from tests.support.rows.scored_events import START_MS, flag, scored_event, write_and_flush
from tests.support.waiting import until
from udfs.scoring.store import CassandraScoringStore

TABLES = ("risk_score_by_hour", "risk_score_hours", "risk_flag", "risk_flag_by_day", "risk_snooze")
SCORE_TTL_S = 86_400


@pytest.fixture
def sink(settings: CassandraSettings, session: Session) -> Iterator[CassandraScoringStore]:
    empty(session, TABLES)
    yield CassandraScoringStore(settings, SCORE_TTL_S, session)


def test_scored_event_is_one_row_also_when_written_again(
    sink: CassandraScoringStore, session: Session
):
    event = scored_event(active_rules=["a", "b"], flags=[flag("a")])
    write_and_flush(sink, event)
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
    before = [session.execute(f"SELECT * FROM {table}").all() for table in TABLES]
    write_and_flush(sink, event)
    assert [session.execute(f"SELECT * FROM {table}").all() for table in TABLES] == before


def test_events_of_each_hour_are_one_partition(sink: CassandraScoringStore, session: Session):
    half_hour = START_MS + HOUR_MS // 2
    events = [
        scored_event(hour=0, active_rules=["b", "a"]),
        scored_event(event_id="same time"),
        scored_event(event_id="same hour", event_ms=half_hour),
        scored_event(hour=30),
        scored_event("other", hour=1),
    ]
    write_and_flush(sink, *events)
    partitions = session.execute("SELECT DISTINCT user_id, hour FROM risk_score_by_hour").all()
    assert sorted(partitions) == sorted(session.execute("SELECT * FROM risk_score_hours"))
    hours = [to_ms(row.hour) - score_hour_ms(START_MS) for row in partitions if row.user_id == "u"]
    assert sorted(hours) == [0, 30 * HOUR_MS]

    stored = queries.scores(session, "u")
    assert [score.event_id for score in stored] == ["e30", "same hour", "e0", "same time"]
    assert stored[2].active_rules == ["a", "b"]
    assert (stored[2].device_id, stored[2].shop_id) == ("d1", None)
    assert queries.scores(session, "u", limit=2) == stored[:2]
    assert queries.score(session, "u", half_hour, "same hour") == stored[1]
    assert queries.score(session, "u", half_hour, "another") is None
    assert queries.scores(session, "nobody") == []


def test_hour_outlives_its_scores_and_a_deletion_up_to_a_time(
    sink: CassandraScoringStore, settings: CassandraSettings, session: Session
):
    later = scored_event(event_id="later", event_ms=START_MS + MINUTE_MS)
    write_and_flush(sink, scored_event(), later)
    for table in ("risk_score_hours", "risk_score_by_hour"):
        hour = "AND hour = %s" if table == "risk_score_by_hour" else ""
        values = ("u", from_ms(score_hour_ms(START_MS))) if hour else ("u",)
        delete = f"DELETE FROM {table} USING TIMESTAMP {START_MS * 1_000} WHERE user_id = %s {hour}"
        session.execute(delete, values)
    assert [score.event_id for score in queries.scores(session, "u")] == ["later"]

    write_and_flush(CassandraScoringStore(settings, 1, session), scored_event("brief"))

    def stored(table: str) -> bool:
        return any(row.user_id == "brief" for row in session.execute(f"SELECT * FROM {table}"))

    until(lambda: not stored("risk_score_by_hour"))
    assert stored("risk_score_hours")


def test_flag_history_orders_the_events_of_a_millisecond(
    sink: CassandraScoringStore, session: Session
):
    first = scored_event(event_id="b", active_rules=["a"], flags=[flag("a", event_id="b")])
    second = scored_event(event_id="a", active_rules=["b"])
    write_and_flush(sink, first, second)
    rows = [RowPosition(START_MS, event_id) for event_id in ("c", "b", "aa", "0")]
    raised = frozenset({("a", RowPosition(START_MS, "b"))})
    assert sink.users.past_flags([("u", row) for row in rows]) == [
        PastFlags(raised=raised),
        PastFlags(raised=raised),
        PastFlags(RowPosition(START_MS, "b"), frozenset("a"), raised),
        PastFlags(RowPosition(START_MS, "a"), frozenset("b"), raised),
    ]
    # Flags of a rule in one millisecond are rows of their own.
    write_and_flush(sink, scored_event(event_id="x", flags=[flag("a", event_id="x", flag_id="x")]))
    for table in ("risk_flag", "risk_flag_by_day"):
        found = session.execute(f"SELECT event_id FROM {table}").all()
        assert sorted(row.event_id for row in found) == ["b", "x"]


def test_stored_and_in_memory_flag_history_agree(
    sink: CassandraScoringStore, settings: CassandraSettings, session: Session
):
    rng, memory = random.Random(3), MemoryScoringSink()
    for _ in range(25):
        hour, user_id = rng.randrange(40), rng.choice("uv")
        at = (START_MS + hour * HOUR_MS, f"e{hour}")
        asked = [(user, RowPosition(*at)) for user in "uv"]
        fresh = CassandraScoringStore(settings, SCORE_TTL_S, session)
        expected = memory.past_flags(asked)
        assert fresh.users.past_flags(asked) == sink.users.past_flags(asked) == expected
        if (user_id, *at) in memory.scores:
            continue
        active = [rule for rule in "ab" if rng.random() < 0.5]
        flags = [flag(rule, hour=hour) for rule in active if rng.random() < 0.5]
        for target in (memory, sink):
            write_and_flush(target, scored_event(user_id, hour, active_rules=active, flags=flags))


def test_snoozes_are_read_from_the_table(sink: CassandraScoringStore, session: Session):
    until_ms = now_ms() + HOUR_MS
    snooze.snooze(session, "u", "a", until_ms, "anna", "why")
    snooze.snooze(session, "u", ALL_RULES, until_ms + 1, "anna")
    expected = {"u": {"a": until_ms, "*": until_ms + 1}, "v": {}}
    assert sink.users.snoozed(["u", "v", "u"]) == expected
