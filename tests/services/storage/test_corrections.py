"""CassandraCorrectionTables on a real node. Each test has a user of its own."""

import itertools
import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from cassandra.cluster import ResponseFuture, Session

from liveprofile.rows.risk import flag_bucket
from liveprofile.rules.flags import Flag
from liveprofile.settings import CassandraSettings, WindowSettings
from liveprofile.storage import queries
from liveprofile.storage.cql import from_ms
from offline.late_windows.chains import (
    FIRST_REVISION,
    WITHDRAWN,
    Correction,
    StoredRuleFlag,
    StoredWindow,
)
from offline.late_windows.tables import CassandraCorrectionTables
from tests.support.rows.profile_rows import DIM, flag, profile_row, write_and_flush
from udfs.profile.rows import ProfileRow

NOW_MS = 1_790_000_000_000
OF_IDS = ("user_id", "bucket")  # they differ between users with the same windows


@pytest.fixture
def tables(settings: CassandraSettings, session: Session) -> Iterator[CassandraCorrectionTables]:
    yield CassandraCorrectionTables(settings, DIM, session)


@pytest.fixture
def user() -> str:
    return uuid.uuid4().hex


def totals(events: int) -> bytes:
    return b'{"after":{"events":%d.0}}' % events


def job_row(user: str, window: int, flags: tuple[Flag, ...] = ()) -> ProfileRow:
    return profile_row(
        user,
        window,
        delta=totals(7 + window),
        events_total=7 + window,
        active_rules=["rule"],
        flags=list(flags),
        recency_days=1.0,
    )


def correction(
    user: str,
    window: int,
    revision: int = 1,
    flags: tuple[Flag, ...] = (),
    marks: dict[str, str] | None = None,
) -> Correction:
    row = profile_row(
        user,
        window,
        revision=FIRST_REVISION + revision,
        delta=totals(7 + window + revision),
        events_total=7 + window + revision,
        churn=0.75,
        flags=list(flags),
        events=3,
        digests=bytes(24),
    )
    return Correction(row, revision, marks or {}, NOW_MS)


def flag_rows(session: Session, user: str) -> dict[str, list[Any]]:
    """The user's rows in both tables of flags."""
    by_day = "SELECT * FROM risk_flag_by_day WHERE day = %s AND bucket = %s"
    key = (from_ms(profile_row().window_end_ms).date(), flag_bucket(user))
    return {
        "risk_flag": session.execute("SELECT * FROM risk_flag WHERE user_id = %s", (user,)).all(),
        "risk_flag_by_day": [row for row in session.execute(by_day, key) if row.user_id == user],
    }


def test_correction_replaces_the_delta(
    tables: CassandraCorrectionTables, session: Session, user: str
):
    first, second = job_row(user, 0), job_row(user, 1)
    write_and_flush(tables, first, second)
    stored = tables.stored(user, second.window_end_ms)
    assert stored.windows == {
        second.window_end_ms: StoredWindow(second.window_end_ms, 0, 8, frozenset({"rule"}))
    }
    assert stored.profile == (second.window_end_ms, 8)

    tables.correct([correction(user, 0), correction(user, 1)])
    tables.correct([correction(user, 0), correction(user, 1)])  # again: nothing changes
    windows = tables.stored(user, 0).windows
    assert [(each.revision, each.events_total) for each in windows.values()] == [(1, 9), (1, 8)]
    assert queries.profile(session, user).churn == 0.75
    for delta in queries.deltas(session, user):
        assert (delta.revision, delta.correction) == (1, "LATE_EVENTS")
        assert delta.corrected_at_ms == NOW_MS
    assert {each.revision for each in queries.scan_digests(session) if each.user_id == user} == {1}


def test_job_does_not_undo_a_correction_and_a_correction_no_newer_window(
    tables: CassandraCorrectionTables, session: Session, user: str
):
    tables.correct([correction(user, 0)])
    write_and_flush(tables, job_row(user, 0))  # a replay
    assert queries.profile(session, user).churn == 0.75
    [window] = tables.stored(user, 0).windows.values()
    assert (window.revision, window.events_total) == (1, 8)
    newer = job_row(user, 2)
    write_and_flush(tables, newer)
    tables.correct([correction(user, 1)])
    profile = queries.profile(session, user)
    assert (profile.window_end_ms, profile.churn) == (newer.window_end_ms, 0.25)


def test_flags_are_marked_in_both_tables(
    tables: CassandraCorrectionTables, session: Session, user: str
):
    write_and_flush(tables, job_row(user, 0, (flag("gone"), flag("stays"))))
    end_ms = profile_row(user).window_end_ms
    assert tables.stored(user, 0).flags == [
        StoredRuleFlag(rule_id, end_ms, 1, "") for rule_id in ("gone", "stays")
    ]
    tables.correct([correction(user, 0, flags=(flag("new"),), marks={"gone": WITHDRAWN})])
    now = from_ms(NOW_MS).replace(tzinfo=None)
    for table, rows in flag_rows(session, user).items():
        marks = {row.rule_id: (row.corrected_at, row.correction) for row in rows}
        expected = {"gone": (now, WITHDRAWN), "new": (now, "ADDED"), "stays": (None, None)}
        assert marks == expected, table
    assert {each.correction for each in tables.stored(user, 0).flags} == {"", WITHDRAWN, "ADDED"}
    found = {each.rule_id: each.correction for each in queries.flags(session, user)}
    assert found == {"gone": WITHDRAWN, "new": "ADDED", "stays": None}


def test_windows_of_an_alias_are_deleted_and_no_later_ones(
    tables: CassandraCorrectionTables, session: Session, user: str
):
    other = f"{user}-other"
    rows = [job_row(user, 0, (flag("rule"),)), job_row(user, 1), job_row(other, 0)]
    write_and_flush(tables, *rows)
    until_ms = rows[0].window_end_ms
    assert tables.remove_windows(user, until_ms, WindowSettings()) > 0
    assert list(tables.stored(user, 0).windows) == [rows[1].window_end_ms]
    assert tables.stored(user, 0).profile == (rows[1].window_end_ms, 8)
    assert len(tables.stored(user, 0).flags) == 1  # with what analysts decided about it

    write_and_flush(tables, rows[0])  # a replay of the job
    assert list(tables.stored(user, 0).windows) == [rows[1].window_end_ms]
    assert tables.remove_windows(user, rows[1].window_end_ms, WindowSettings()) > 0
    assert tables.stored(user, 0)[::2] == ({}, None)
    assert tables.stored(other, 0).windows and tables.stored(other, 0).profile


class KilledError(BaseException):
    """No handler of the product catches it, as none runs after SIGKILL."""


class EndingSession:
    """A session that sends so many statements and no more."""

    def __init__(self, session: Session, statements: int):
        self._session, self._left = session, statements

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def execute_async(self, *arguments: Any, **options: Any) -> ResponseFuture:
        if not self._left:
            raise KilledError
        self._left -= 1
        return self._session.execute_async(*arguments, **options)


def store_windows(tables: CassandraCorrectionTables, user: str) -> list[Correction]:
    """Stores two windows as the job does; returns their corrections."""
    flags = (flag("gone"), flag("stays"))
    write_and_flush(tables, job_row(user, 0, flags), job_row(user, 1))
    return [
        correction(user, 0, flags=(flag("new"),), marks={"gone": WITHDRAWN}),
        correction(user, 1, flags=(flag("new"),)),
    ]


def correct_the_rest(tables: CassandraCorrectionTables, corrections: list[Correction]) -> None:
    """Corrects the windows that are not corrected yet, as the command does."""
    stored = tables.stored(corrections[0].row.user_id, 0).windows
    tables.correct(
        [each for each in corrections if stored[each.row.window_end_ms].revision < each.revision]
    )


def rows_of(session: Session, user: str) -> list[tuple[str, dict[str, Any]]]:
    """The user's rows in all tables that corrections write, without what follows from the id."""
    by_table = flag_rows(session, user) | {
        table: session.execute(f"SELECT * FROM {table} WHERE user_id = %s", (user,)).all()
        for table in ("profile_delta", "user_profile")
    }
    return [
        (table, {name: value for name, value in row._asdict().items() if name not in OF_IDS})
        for table, rows in by_table.items()
        for row in rows
    ]


def test_run_after_a_kill_before_any_write_ends_with_the_same_tables(
    tables: CassandraCorrectionTables, settings: CassandraSettings, session: Session, user: str
):
    correct_the_rest(tables, store_windows(tables, user))
    expected = rows_of(session, user)
    assert len(expected) > 10
    for statements in itertools.count():
        other = uuid.uuid4().hex
        corrections = store_windows(tables, other)
        killed = CassandraCorrectionTables(settings, DIM, EndingSession(session, statements))
        try:
            correct_the_rest(killed, corrections)
        except KilledError:
            correct_the_rest(tables, corrections)
            assert rows_of(session, other) == expected, f"killed after {statements} statements"
        else:
            break
    assert statements > 5
