"""An erasure on a real node: all tables, no other user, and no return by a replay.

And rows that a late withdrawal forbids: they are found and deleted, and no others.
"""

from collections.abc import Callable
from typing import Any

from cassandra.cluster import Session

from liveprofile.consent.changes import PURPOSES, ConsentChange, ConsentTable
from liveprofile.privacy.places import TABLES
from liveprofile.settings import WindowSettings
from liveprofile.units import HOUR_MS, MINUTE_MS
from offline.erasure.erase import KEPT, WINDOW_TABLES, Cut, Erasure, erase_users
from offline.erasure.withdrawals import delete_rows, find_rows, read_digests
from services.privacy.erasure_log import ErasureRun, read_runs, scan_runs, write_runs
from tests.support.rows.user_rows import TIME_US, user_row

WINDOW_MS = 5 * MINUTE_MS
ERASED_US = TIME_US + 24 * HOUR_MS * 1_000


def insert_all(session: Session, user: str, at_us: int = TIME_US) -> None:
    """A row of the user in every table."""
    about_us = at_us if at_us == TIME_US else at_us - WINDOW_MS * 1_000
    for table in TABLES:
        insert(session, table, user_row(table, user, about_us), at_us)


def insert(session: Session, table: str, row: dict[str, Any], at_us: int) -> None:
    query = f"INSERT INTO {table} ({', '.join(row)}) VALUES ({', '.join('?' * len(row))})"
    statement = session.prepare(f"{query} USING TIMESTAMP {at_us} AND TTL 3600")
    session.execute(statement, list(row.values()))


def erase(session: Session, user: str, now_us: Callable[[], int]) -> Erasure:
    cut = Cut.of(user, TIME_US // 1_000 + 1, WindowSettings(length_ms=WINDOW_MS))
    return dict(erase_users(session, {user: cut}, now_us))[user]


def rows_of(session: Session, user: str) -> dict[str, int]:
    """By a scan of all tables."""
    found = {}
    for table in TABLES:
        rows = list(session.execute(f"SELECT * FROM {table}"))
        count = sum(user in repr(row) for row in rows)
        if count:
            found[table] = count
    return found


def test_all_rows_of_one_user_are_deleted_and_a_replay_does_not_bring_them_back(
    session: Session,
) -> None:
    insert_all(session, "gone-user")
    insert_all(session, "kept-user")
    assert rows_of(session, "gone-user").keys() == TABLES.keys()
    for table in (name for name, each in TABLES.items() if each.users.about):
        flag = {"target": "flag-gone-user"} if table == "api_audit" else {}
        insert(session, table, user_row(table, "gone-user") | flag, ERASED_US - 1)
    done = erase(session, "gone-user", lambda: ERASED_US)
    assert done.rows.keys() == TABLES.keys() - KEPT.keys() and not done.pending
    assert rows_of(session, "gone-user").keys() == KEPT.keys()
    others = rows_of(session, "kept-user")
    assert others.keys() == TABLES.keys()

    insert_all(session, "gone-user")  # a replay
    assert rows_of(session, "gone-user").keys() == KEPT.keys()
    again = erase(session, "gone-user", lambda: ERASED_US + 1)
    assert not again.rows and not again.pending
    insert_all(session, "gone-user", ERASED_US + 2)  # later events start from nothing
    assert rows_of(session, "gone-user").keys() == TABLES.keys()


def test_deletions_are_noted_and_read(session: Session) -> None:
    first, second = ErasureRun(7, 1_000, {"risk_score_hours": 1}), ErasureRun(9, 2_000, {})
    write_runs(session, {"noted-user": second}, 3_600)
    write_runs(session, {"noted-user": first}, 3_600)  # an older run does not replace it
    assert read_runs(session, ["noted-user", "nobody"]) == {"noted-user": second}
    assert scan_runs(session)["noted-user"] == second


# --- late withdrawals ---------------------------------------------------------------------------

TIME_MS = TIME_US // 1_000
FLAGS = {"risk_flag", "risk_flag_by_day"}  # of an event


def find(session: Session, user: str, *changes: ConsentChange, since_ms: int = 0):
    consents = ConsentTable(dict.fromkeys(PURPOSES, True))
    consents.put(user, changes)
    return find_rows(
        session,
        user,
        lambda *span: consents.allowed_during(user, *span),
        WindowSettings(length_ms=WINDOW_MS),
        since_ms,
    )


def test_rows_of_windows_and_of_events_follow_their_purposes(session: Session) -> None:
    for user in ("late-user", "other-user"):
        insert_all(session, user)
    others, own = rows_of(session, "other-user"), rows_of(session, "late-user")
    too_late = ConsentChange(TIME_MS - WINDOW_MS + 1, "profiling", False)
    assert find(session, "late-user", too_late) == []  # the window has an allowed moment
    withdrawal = ConsentChange(TIME_MS - WINDOW_MS, "profiling", False)
    assert find(session, "late-user", withdrawal, since_ms=TIME_MS + 1) == []

    rows = find(session, "late-user", withdrawal)
    windows = WINDOW_TABLES - FLAGS - {"later_sums"}
    assert {row.table for row in rows} == windows
    assert read_digests(session, "late-user", [TIME_MS]) == {b"x"}
    assert delete_rows(session, rows) == len(rows)
    assert rows_of(session, "late-user").keys() == own.keys() - windows
    assert find(session, "late-user", withdrawal) == []

    rows = find(session, "late-user", ConsentChange(TIME_MS, "risk", False))
    assert {row.table for row in rows} == FLAGS | {"risk_score_by_hour"}
    delete_rows(session, rows)
    assert rows_of(session, "late-user").keys() == (
        own.keys() - windows - FLAGS - {"risk_score_by_hour"}
    )
    assert rows_of(session, "other-user") == others

    insert_all(session, "late-user", TIME_US + 1)  # what is written later is not hidden
    assert rows_of(session, "late-user") == own
