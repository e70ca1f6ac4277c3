"""The rows that the API reads on its event loop, and the statements for them (docs/reading.md).

Within a table, rows with the same time are ordered by the rest of the key. So a page after a row
is read in two steps: the rest of the rows with its time (`..._rest`), then older ones.
"""

from __future__ import annotations

from collections import namedtuple
from typing import NamedTuple

from liveprofile.attributes.table import MAX_ROWS, SELECTED
from liveprofile.rows.operations import API_LISTING, CONSOLE_SESSION
from liveprofile.rows.profiles import MARKS, StoredDelta, UserProfile
from liveprofile.storage.queries import StoredFlag, StoredScore, columns, select
from serve.keys import select_key_cql
from services.alerts.case_store import SELECT_CASES as _CASE

# No stored time is outside these, which Python's datetime and Cassandra can both represent.
START_OF_TIME_MS, END_OF_TIME_MS = -62_000_000_000_000, 253_402_300_799_999


class RawProfile(namedtuple("RawProfile", UserProfile._fields, defaults=[None])):
    """A row of user_profile; `profile` is JSON that most answers pass on unread."""

    __slots__ = ()


_DELTA_FIELDS = [name for name in StoredDelta._fields if name != "digests"]


class RawDelta(namedtuple("RawDelta", _DELTA_FIELDS, defaults=[None] * len(MARKS))):
    """A row of profile_delta without its digests; `delta` is JSON."""

    __slots__ = ()


class BucketMember(NamedTuple):
    """A row of segment_member."""

    bucket: int
    user_id: str
    since_ms: int


class StoredUserSegment(NamedTuple):
    """A row of user_segment; `reason` is JSON."""

    segment: str
    member: bool
    since_ms: int
    version: int | None
    reason: str | None


_EMBEDDING = "embedding"
_PROFILE = columns(RawProfile)
_PROFILE_ONLY = _PROFILE.removesuffix(f", {_EMBEDDING}")


_ERASURE = "SELECT user_id, to_unix_timestamp(before), remaining FROM erasure"
CQL = {
    "check": "SELECT key FROM system.local",
    "key": select_key_cql(),
    "listed": "SELECT server, users FROM api_listing WHERE day = ? AND key_id = ?",
    "put_listed": API_LISTING.insert("?", time=""),
    "session": "SELECT key_id, to_unix_timestamp(opened), to_unix_timestamp(used)"
    " FROM console_session WHERE digest = ?",
    "open_session": CONSOLE_SESSION.insert("?", time=""),
    "use_session": "UPDATE console_session USING TTL ? SET used = ? WHERE digest = ?",
    "end_session": "DELETE FROM console_session WHERE digest = ?",
    "profile": f"SELECT {_PROFILE_ONLY} FROM user_profile WHERE user_id = ?",
    "profile_embedding": f"SELECT {_PROFILE} FROM user_profile WHERE user_id = ?",
    "profiles": f"SELECT {_PROFILE_ONLY} FROM user_profile WHERE user_id IN ?",
    "profiles_embedding": f"SELECT {_PROFILE} FROM user_profile WHERE user_id IN ?",
    "erasure": f"{_ERASURE} WHERE user_id = ?",
    "erasures": f"{_ERASURE} WHERE user_id IN ?",
    "some_profiles": f"SELECT {_PROFILE_ONLY} FROM user_profile LIMIT ?",
    "deltas": select("profile_delta", RawDelta, "user_id = ? AND window_end <= ? LIMIT ?"),
    "score_hours": "SELECT to_unix_timestamp(hour) FROM risk_score_hours"
    " WHERE user_id = ? AND hour <= ? LIMIT ?",
    "scores": select(
        "risk_score_by_hour", StoredScore, "user_id = ? AND hour = ? AND event_time <= ? LIMIT ?"
    ),
    "scores_rest": select(
        "risk_score_by_hour",
        StoredScore,
        "user_id = ? AND hour = ? AND event_time = ? AND event_id > ? LIMIT ?",
    ),
    "flags": select(
        "risk_flag", StoredFlag, "user_id = ? AND window_end <= ? AND window_end >= ? LIMIT ?"
    ),
    "flags_rest": select(
        "risk_flag",
        StoredFlag,
        "user_id = ? AND window_end = ? AND (rule_id, event_id) > (?, ?) LIMIT ?",
    ),
    "flag_days": "SELECT DISTINCT day, bucket FROM risk_flag_by_day",
    "day_flags": select(
        "risk_flag_by_day",
        StoredFlag,
        "day = ? AND bucket = ? AND window_end <= ? AND window_end >= ? LIMIT ?",
    ),
    "day_flags_rest": select(
        "risk_flag_by_day",
        StoredFlag,
        "day = ? AND bucket = ? AND window_end = ? AND (user_id, rule_id, event_id) > (?, ?, ?)"
        " LIMIT ?",
    ),
    "segment_members": select(
        "segment_member", BucketMember, "segment = ? AND bucket = ? AND user_id > ? LIMIT ?"
    ),
    "user_segments": select("user_segment", StoredUserSegment, "user_id = ?"),
    "user_attributes": f"SELECT {SELECTED} FROM user_attribute WHERE user_id = ? LIMIT {MAX_ROWS}",
    "user_cases": f"{_CASE} WHERE user_id = ? LIMIT ?",
    "cases": f"{_CASE} LIMIT ?",
    "cases_after": f"{_CASE} WHERE token(user_id) > token(?) LIMIT ?",
    "cases_rest": f"{_CASE} WHERE user_id = ? AND rule_id > ? LIMIT ?",
    "cases_of_rule_rest": f"{_CASE} WHERE user_id = ? AND rule_id = ? AND number < ? LIMIT ?",
}
