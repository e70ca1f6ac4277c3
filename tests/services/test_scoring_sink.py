"""What the event lane stores in a real node, and what the stores remember."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
from cassandra.cluster import Session

from liveprofile.alerts.cases import snooze
from liveprofile.config import CassandraSettings
from liveprofile.rules.flags import FlagHistory, FlagQuery
from liveprofile.storage.cql import now_ms
from liveprofile.units import HOUR_MS
from tests.support.memory_sinks import MemoryScoringSink
from tests.support.scored_events import START_MS, flag, scored_event, write_and_flush
from udfs.scoring.sink import CassandraScoringSink, ScoringSink

pytestmark = pytest.mark.services

TABLES = ("risk_score", "risk_flag", "risk_flag_by_day", "risk_snooze")
SCORE_TTL_S = 86_400


@pytest.fixture
def cassandra(settings: CassandraSettings, session: Session) -> Iterator[CassandraScoringSink]:
    for table in TABLES:
        session.execute(f"TRUNCATE {table}", timeout=60)
    yield CassandraScoringSink(settings, SCORE_TTL_S, session)


@pytest.fixture(params=["memory", "cassandra"])
def store(request: pytest.FixtureRequest) -> ScoringSink:
    if request.param == "memory":
        return MemoryScoringSink()
    return request.getfixturevalue("cassandra")


def past(store: ScoringSink, rule_id: str, at_ms: int, user_id: str = "u") -> FlagHistory:
    (found,) = store.flag_history([FlagQuery(user_id, rule_id, at_ms)])
    return found


def test_a_scored_event_is_one_row(cassandra: CassandraScoringSink, session: Session):
    event = scored_event(active_rules=["a", "b"], flags=[flag("a")])
    write_and_flush(cassandra, event)
    [row] = session.execute(
        "SELECT user_id, event_id, to_unix_timestamp(event_time) AS event_ms, event_type, amount,"
        " score, model_version, rules_version, active_rules, TTL(score) AS ttl, device_id, place,"
        " shop_id, coupon_id, address_id FROM risk_score"
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


def test_the_same_event_again_changes_nothing(cassandra: CassandraScoringSink, session: Session):
    event = scored_event(active_rules=["a"], flags=[flag("a")])
    write_and_flush(cassandra, event)
    before = [session.execute(f"SELECT * FROM {table}").all() for table in TABLES]
    write_and_flush(cassandra, event)
    assert [session.execute(f"SELECT * FROM {table}").all() for table in TABLES] == before
    assert [len(found) for found in before] == [1, 1, 1, 0]


def test_events_of_one_moment_are_rows_of_their_own(
    cassandra: CassandraScoringSink, session: Session
):
    write_and_flush(cassandra, scored_event(), scored_event(event_id="other"))
    rows = session.execute("SELECT event_id FROM risk_score").all()
    assert sorted(row.event_id for row in rows) == ["e0", "other"]


@pytest.mark.parametrize("order", [("a", "b"), ("b", "a")])
def test_of_one_event_the_newest_row_stays_whole(
    order: tuple[str, str], cassandra: CassandraScoringSink, session: Session
):
    """A replay may find other events before it, and judge it otherwise."""
    scores = {"a": 0.25, "b": 0.75}
    for rule in order:
        write_and_flush(
            cassandra, scored_event(score=scores[rule], active_rules=[rule], rules_version=rule)
        )
    [row] = session.execute("SELECT score, active_rules, rules_version FROM risk_score").all()
    newest = order[1]
    assert (row.score, set(row.active_rules), row.rules_version) == (
        scores[newest], {newest}, newest,
    )  # fmt: skip


def test_flag_past(store: ScoringSink):
    write_and_flush(store, scored_event(hour=0, active_rules=["a"], flags=[flag("a")]))
    write_and_flush(store, scored_event(hour=1, active_rules=["a", "b"], flags=[flag("b")]))
    write_and_flush(store, scored_event(hour=2, active_rules=["b"]))
    write_and_flush(store, scored_event("other", hour=2, active_rules=["a"], flags=[flag("a")]))
    times_ms = [START_MS + hour * HOUR_MS for hour in range(4)]

    assert past(store, "a", times_ms[0]) == FlagHistory(False, None)
    assert past(store, "a", times_ms[1]) == FlagHistory(True, times_ms[0])
    assert past(store, "a", times_ms[3]) == FlagHistory(False, times_ms[0])
    assert past(store, "b", times_ms[1]) == FlagHistory(False, None)
    assert past(store, "b", times_ms[2]) == FlagHistory(True, times_ms[1])
    assert past(store, "b", times_ms[3]) == FlagHistory(True, times_ms[1])
    several = [FlagQuery("u", "b", times_ms[3]), FlagQuery("nobody", "b", times_ms[3])]
    assert store.flag_history(several) == [past(store, "b", times_ms[3]), FlagHistory(False, None)]


def test_an_event_that_comes_late_is_asked_for_its_own_time(store: ScoringSink):
    write_and_flush(
        store, scored_event(hour=0), scored_event(hour=5, active_rules=["a"], flags=[flag("a")])
    )
    late_ms = START_MS + 3 * HOUR_MS
    assert past(store, "a", late_ms) == FlagHistory(False, None)
    write_and_flush(store, scored_event(hour=3, active_rules=["b"], flags=[flag("b")]))
    newest_ms = START_MS + 6 * HOUR_MS
    assert past(store, "a", newest_ms) == FlagHistory(True, newest_ms - HOUR_MS)
    assert past(store, "b", newest_ms) == FlagHistory(False, late_ms)


def test_the_stores_remember_the_same(
    cassandra: CassandraScoringSink, settings: CassandraSettings, session: Session
):
    """And the tables alone say the same to a worker that begins anew."""
    rng, memory = random.Random(3), MemoryScoringSink()
    for _ in range(25):
        hour, user_id = rng.randrange(40), rng.choice("uv")
        queries = [
            FlagQuery(user, rule, START_MS + hour * HOUR_MS) for user in "uv" for rule in "ab"
        ]
        fresh = CassandraScoringSink(settings, SCORE_TTL_S, session)
        expected = memory.flag_history(queries)
        assert fresh.flag_history(queries) == expected
        assert cassandra.flag_history(queries) == expected
        if (user_id, START_MS + hour * HOUR_MS, f"e{hour}") in memory.scores:
            continue
        active = [rule for rule in "ab" if rng.random() < 0.5]
        flags = [flag(rule) for rule in active if rng.random() < 0.5]
        for each in (memory, cassandra):
            write_and_flush(each, scored_event(user_id, hour, active_rules=active, flags=flags))


def test_snoozes_are_those_of_the_table(cassandra: CassandraScoringSink, session: Session):
    until_ms = now_ms() + HOUR_MS
    snooze.snooze(session, "u", "a", until_ms, "anna", "why")
    snooze.snooze(session, "u", snooze.ALL_RULES, until_ms + 1, "anna")
    expected = {"u": {"a": until_ms, "*": until_ms + 1}, "v": {}}
    assert cassandra.snoozed(["u", "v", "u"]) == expected
