"""Rows that a user's consents do not allow, because a withdrawal came after they were stored.

A row of a window is not allowed if no moment of the window is: of the window in which a withdrawal
falls, the events before it may have been used. Rows of events have the time of the event.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from cassandra.cluster import Session

from liveprofile.events.window_times import end_ms, stagger_offset_ms
from liveprofile.privacy import places
from liveprofile.privacy.places import UserKeys, read_user_keys
from liveprofile.settings import WindowSettings
from liveprofile.storage.cql import prepare, read_pages, to_ms, write_all
from liveprofile.wire.window_events import split_digests
from offline.erasure.erase import WINDOW_TABLES, Cell, delete_statement, read_rows

DELTAS = "profile_delta"
# `later_sums` only adds up what the SQL keeps anyway.
TABLES = (WINDOW_TABLES - {"later_sums"}) | {"risk_score_by_hour"}
# What the job stores of a user's windows. Flags stay, with what analysts decided about them.
OF_WINDOWS = TABLES - {"risk_score_by_hour", "risk_flag", "risk_flag_by_day"}
_FLAGS = ("risk_flag", "risk_flag_by_day")

# Whether a user allows a purpose at any time from a start to an end (exclusive), in ms.
AllowedDuring = Callable[[str, int, int], bool]


class StoredRow(NamedTuple):
    """A row, as far as it is decided by consents."""

    table: str
    time_ms: int  # window end, or the time of the event
    is_event: bool  # of the scoring pipeline
    cell: Cell  # what its deletion needs


def not_allowed(row: StoredRow, allowed: AllowedDuring, window_ms: int) -> bool:
    """Whether the user's consents forbid the row."""
    if row.is_event:
        return not allowed("risk", row.time_ms, row.time_ms + 1)
    if not allowed("profiling", row.time_ms - window_ms, row.time_ms):
        return True
    return row.table in _FLAGS and not allowed("risk", row.time_ms, row.time_ms + 1)


def find_rows(
    session: Session, user_id: str, allowed: AllowedDuring, window: WindowSettings, since_ms: int
) -> list[StoredRow]:
    """The user's rows that are not allowed and not older than `since_ms`. Raises ServiceError."""
    keys = read_user_keys(session, user_id)
    return [
        row
        for row in _stored_rows(session, keys, window)
        if row.time_ms >= since_ms and not_allowed(row, allowed, window.length_ms)
    ]


def delete_rows(session: Session, rows: Iterable[StoredRow]) -> int:
    """Deletes each row with its own write time, so nothing later is hidden. Raises ServiceError."""
    return write_all(
        session,
        (
            delete_statement(
                session, each.table, each.cell.where, each.cell.time_us, each.cell.values
            )
            for each in rows
        ),
    )


def delete_windows(session: Session, user_id: str, until_ms: int, window: WindowSettings) -> int:
    """Deletes the user's rows of windows that end by `until_ms`, but no flags; returns the number.

    Each deletion has the write time of its row, so a replay does not bring the row back, and
    nothing later is hidden. The profile goes last: without one, all is deleted. Raises
    ServiceError.
    """
    keys = read_user_keys(session, user_id)
    rows = [
        row
        for row in _stored_rows(session, keys, window)
        if row.table in OF_WINDOWS and row.time_ms <= until_ms
    ]
    profile = [row for row in rows if row.table == "user_profile"]
    count = delete_rows(session, (row for row in rows if row not in profile))
    return count + delete_rows(session, profile)


def read_digests(session: Session, user_id: str, ends_ms: Iterable[int]) -> set[bytes]:
    """The digests of the events that these windows of the user used. Raises ServiceError."""
    wanted, found = frozenset(ends_ms), set()
    select = prepare(session, f"SELECT window_end, digests FROM {DELTAS} WHERE user_id = ?")
    for row in read_pages(session, select, (user_id,)):
        if to_ms(row.window_end) in wanted:
            digests = bytes(row.digests or b"")
            found |= split_digests(digests)
    return found


def _stored_rows(session: Session, keys: UserKeys, window: WindowSettings) -> Iterator[StoredRow]:
    offset_ms = stagger_offset_ms(keys.user_id, window)
    for name in sorted(TABLES):
        table = places.TABLES[name]
        for where, values in places.conditions(table, keys):
            for row, cell in read_rows(session, table, where, values, single=True):
                time = getattr(row, "event_time", None) or getattr(row, "window_end", None)
                if time is None:  # the row was written less than a window after its window's end
                    written_ms = cell.time_us // 1_000
                    time_ms = end_ms(written_ms, offset_ms, window) - window.length_ms
                else:
                    time_ms = to_ms(time)
                is_event = name not in WINDOW_TABLES or bool(getattr(row, "event_id", ""))
                yield StoredRow(name, time_ms, is_event, cell)
