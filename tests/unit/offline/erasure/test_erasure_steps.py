"""An erasure that is killed at any step and repeated leaves nothing of the user, and all others."""

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any

import pytest

from liveprofile.events.window_times import stagger_offset_ms
from liveprofile.privacy.places import TABLES
from liveprofile.settings import WindowSettings
from liveprofile.units import HOUR_MS, MINUTE_MS
from offline.erasure.erase import (
    AT_ONCE,
    KEPT,
    MAX_READS,
    WHOLE,
    WINDOW_TABLES,
    Cut,
    Erasure,
    erase_users,
)
from tests.support.memory.cassandra import MemoryCassandra
from tests.support.rows.user_rows import TIME_US, user_row

ERASED_US = TIME_US + 24 * HOUR_MS * 1_000  # a day after the request, as `--pending` may run
WINDOW = WindowSettings(length_ms=5 * MINUTE_MS)
WINDOW_MS = WINDOW.length_ms
CUT = Cut.of("gone", TIME_US // 1_000 + 1, WINDOW)


class KilledError(Exception):
    """The process has ended."""


def filled(*users: str) -> MemoryCassandra:
    session = MemoryCassandra()
    for user in users:
        fill(session, user)
    return session


def fill(session: MemoryCassandra, user: str, time_us: int = TIME_US, but: str = "") -> None:
    """A row in every table but one, and a flag whose row has expired, known from the case."""
    about_us = time_us if time_us == TIME_US else time_us - WINDOW_MS * 1_000
    for table in TABLES:
        if table != but:
            session.put(table, user_row(table, user, about_us), time_us=time_us)
    if time_us == TIME_US:
        expired = user_row("alert_handled", user) | {"alert_id": f"expired-{user}"}
        session.put("alert_handled", expired, time_us=time_us)
    # Members of segments that one table alone lists.
    for segment, listed in (("now", "user_segment"), ("once", "segment_change")):
        for table in {"segment_member", listed} - {but}:
            session.put(table, user_row(table, user) | {"segment": segment}, time_us=time_us)


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """In memory, threads wait for each other's turn."""
    monkeypatch.setattr("offline.erasure.erase.AT_ONCE", 1)


def tables_of(session: MemoryCassandra, user: str) -> set[str]:
    return {name for name in TABLES if any(user in repr(row) for row in session.rows(name))}


def rows_of(session: MemoryCassandra, user: str) -> list[str]:
    return [repr(row) for name in TABLES for row in session.rows(name) if user in repr(row)]


def erase_all(
    session: MemoryCassandra,
    cuts: dict[str, Cut],
    at_us: int = ERASED_US,
    before_delete: Callable[[str], None] = lambda query: None,
) -> dict[str, Erasure]:
    def write(_: Any, statements: Iterable[Any]) -> int:
        for statement in statements:
            before_delete(statement.query_string)
            session.execute(statement)
        return 0

    return dict(erase_users(session, cuts, lambda: at_us, write))


def erase(session: MemoryCassandra, user: str, at_us: int = ERASED_US, cut: Cut = CUT) -> Erasure:
    return erase_all(session, {user: cut}, at_us)[user]


@pytest.mark.parametrize("kill", range(-1, 22))
def test_nothing_is_left_after_a_kill_at_any_step(kill: int) -> None:
    """kill: the number of deletions before the process ends; -1: it does not."""
    keyspace, deletions = filled("gone", "kept"), iter(range(100))
    assert tables_of(keyspace, "gone") == TABLES.keys()
    before = rows_of(keyspace, "kept")

    def end(_: str) -> None:
        if next(deletions) == kill:
            raise KilledError

    with pytest.raises(KilledError) if kill >= 0 else nullcontext():
        erase_all(keyspace, {"gone": CUT}, ERASED_US, end)
    done = erase(keyspace, "gone")
    assert not done.pending and tables_of(keyspace, "gone") == KEPT.keys()
    assert rows_of(keyspace, "kept") == before
    fill(keyspace, "gone")  # a replay
    assert tables_of(keyspace, "gone") - {"alert_handled"} == KEPT.keys()
    fill(keyspace, "gone", ERASED_US + 1)  # later events
    assert tables_of(keyspace, "gone") == TABLES.keys()


def test_rows_of_a_user_whose_id_begins_with_an_erased_one_stay() -> None:
    keyspace = filled("gone", "gone on")
    before = rows_of(keyspace, "gone on")
    erase(keyspace, "gone")
    assert rows_of(keyspace, "gone on") == before


def test_a_window_under_way_stores_nothing_after_the_erasure() -> None:
    keyspace = MemoryCassandra()
    assert erase(keyspace, "gone") == ({}, {})
    fill(keyspace, "gone")
    by_user = {"user_profile", "profile_delta", "risk_flag", "user_lookalike", "user_segment"}
    assert not by_user & tables_of(keyspace, "gone")


def test_a_cell_from_a_clock_that_is_ahead_is_deleted_too() -> None:
    keyspace = MemoryCassandra()
    fill(keyspace, "gone", TIME_US + 2 * WINDOW_MS * 1_000)
    done = erase(keyspace, "gone", TIME_US + MINUTE_MS * 1_000)
    assert tables_of(keyspace, "gone") - {"risk_score_hours"} == KEPT.keys()
    assert done.pending.keys() == {"risk_score_hours"}  # keys tell no time


def test_the_present_hour_stays_in_the_list_of_hours() -> None:
    keyspace = filled("gone")
    done = erase(keyspace, "gone", TIME_US + MINUTE_MS * 1_000)
    assert done.pending == {"risk_score_hours": 1} and done.rows["risk_score_by_hour"] == 1
    assert erase(keyspace, "gone") == ({"risk_score_hours": 1}, {})


def test_rows_after_the_cut_stay() -> None:
    keyspace = MemoryCassandra()
    fill(keyspace, "back", TIME_US + 2 * WINDOW_MS * 1_000)
    assert erase(keyspace, "back").pending == {}
    assert tables_of(keyspace, "back") == TABLES.keys()


@pytest.mark.parametrize("table", sorted(name for name, each in TABLES.items() if each.users.about))
def test_a_row_about_the_past_is_deleted_whenever_it_was_written(table: str) -> None:
    keyspace, late_us = filled("gone", "kept"), ERASED_US - MINUTE_MS * 1_000
    flag = {"target": "flag-gone"} if table == "api_audit" else {}
    keyspace.put(table, user_row(table, "gone") | flag, time_us=late_us)
    assert erase(keyspace, "gone").pending == {}
    assert tables_of(keyspace, "gone") == KEPT.keys()
    assert tables_of(keyspace, "kept") == TABLES.keys()


def test_the_list_of_hours_keeps_an_hour_with_later_events() -> None:
    keyspace = filled("back")
    later = user_row("risk_score_by_hour", "back") | {"event_id": "later"}
    keyspace.put("risk_score_by_hour", later, time_us=TIME_US + MINUTE_MS * 1_000)
    assert erase(keyspace, "back").pending == {}
    assert tables_of(keyspace, "back") == KEPT.keys() | {"risk_score_by_hour", "risk_score_hours"}


@pytest.mark.parametrize("stagger_ms", [0, 1_000])
@pytest.mark.parametrize("revision", [0, 999, 999_999])
@pytest.mark.parametrize("begun_ms", [1, 2, 500, 999, 1_000, 1_001])
def test_a_corrected_window_that_began_just_before_the_cut_is_deleted(
    begun_ms: int, revision: int, stagger_ms: int
) -> None:
    keyspace, window = MemoryCassandra(), WINDOW.model_copy(update={"stagger_ms": stagger_ms})
    start_ms = TIME_US // 1_000 + stagger_offset_ms("gone", window)
    cut = Cut.of("gone", start_ms + begun_ms, window)
    end_us = (start_ms + WINDOW_MS) * 1_000
    fill(keyspace, "gone", end_us + revision)
    assert erase(keyspace, "gone", cut=cut).pending == {}
    assert not WINDOW_TABLES & tables_of(keyspace, "gone")
    fill(keyspace, "gone", end_us + 999_999)  # a correction by who does not know of the erasure
    assert not WINDOW_TABLES & tables_of(keyspace, "gone")
    fill(keyspace, "gone", end_us + WINDOW_MS * 1_000)  # the first window after it
    erase(keyspace, "gone", cut=cut)
    assert tables_of(keyspace, "gone") == TABLES.keys()


USERS = [f"gone-{number}" for number in range(20)]
CUTS = {user: Cut.of(user, CUT.before_ms, WINDOW) for user in USERS}


def test_many_users_are_erased_with_two_reads_of_each_whole_table() -> None:
    keyspace = filled(*USERS, "kept")
    before = rows_of(keyspace, "kept")
    done = erase_all(keyspace, CUTS)
    assert list(done) == USERS
    for user in USERS:
        assert done[user].rows.keys() == TABLES.keys() - KEPT.keys() and not done[user].pending
        assert tables_of(keyspace, user) == KEPT.keys()
    assert rows_of(keyspace, "kept") == before
    assert len(WHOLE) == 4
    assert Counter(table for table in keyspace.reads if table in WHOLE) == dict.fromkeys(WHOLE, 2)
    assert max(Counter(keyspace.prepared).values()) <= AT_ONCE  # not once for each user


@pytest.mark.parametrize("table", sorted(WHOLE))
@pytest.mark.parametrize("during", ["profile_delta", "alert_handled", "campaign_target"])
def test_a_row_that_is_written_while_users_are_erased_is_deleted(table: str, during: str) -> None:
    keyspace, written, users = MemoryCassandra(), [], USERS[:4]
    for user in users:
        fill(keyspace, user, but=table if user == "gone-2" else "")

    def write_row(query: str) -> None:
        if f"FROM {during} " in query and not written:
            written.append(table)
            keyspace.put(table, user_row(table, "gone-2"), time_us=TIME_US)

    done = erase_all(keyspace, {user: CUTS[user] for user in users}, before_delete=write_row)
    assert written and not any(each.pending for each in done.values())
    assert not {name for user in users for name in tables_of(keyspace, user)} - KEPT.keys()


def test_rows_that_are_written_again_and_again_are_pending() -> None:
    keyspace, notes = filled("gone-1"), []

    def write_row(query: str) -> None:
        if "FROM flag_state " in query:
            notes.append(user_row("flag_state", "gone-1") | {"flag_id": f"flag-{len(notes)}"})
            keyspace.put("flag_state", notes[-1], time_us=TIME_US)

    done = erase_all(keyspace, {"gone-1": CUTS["gone-1"]}, before_delete=write_row)
    assert done["gone-1"].pending == {"flag_state": 1} and len(notes) == MAX_READS
