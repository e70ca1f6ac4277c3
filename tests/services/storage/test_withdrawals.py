"""Rows that a late withdrawal forbids are found and deleted on a real node, and no others."""

from __future__ import annotations

import pytest
from cassandra.cluster import Session

from liveprofile.consent.changes import PURPOSES, ConsentChange, ConsentTable
from liveprofile.privacy.erase import WINDOW_TABLES
from liveprofile.privacy.withdrawals import delete_rows, find_rows, read_digests
from liveprofile.settings import WindowSettings
from tests.services.storage.test_erasure import WINDOW_MS, insert_all, rows_of
from tests.support.rows.user_rows import TIME_US

pytestmark = pytest.mark.services

TIME_MS = TIME_US // 1_000
FLAGS = {"risk_flag", "risk_flag_by_day"}  # of an event


def find(session: Session, user: str, *changes: ConsentChange, since_ms: int = 0):
    book = ConsentTable(dict.fromkeys(PURPOSES, True))
    book.put(user, changes)
    return find_rows(
        session,
        user,
        lambda *span: book.allowed_during(user, *span),
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
