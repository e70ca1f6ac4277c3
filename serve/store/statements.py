"""The prepared statements of the API. docs/reading.md documents the tables.

Within a table, rows with the same time are ordered by the rest of the key. So a page after a row
is read in two steps: the rest of the rows with its time (`..._rest`), then older ones.
"""

from __future__ import annotations

from typing import NamedTuple

from cassandra import ConsistencyLevel
from cassandra.cluster import Session
from cassandra.query import PreparedStatement

from liveprofile.attributes.table import MAX_ROWS, SELECTED
from liveprofile.storage.queries import StoredFlag, StoredScore, columns, select
from serve.keys import select_key_cql
from serve.store.protocol import BucketMember, RawDelta, RawProfile, StoredUserSegment

_EMBEDDING = "embedding"
_PROFILE = columns(RawProfile)
_PROFILE_ONLY = _PROFILE.removesuffix(f", {_EMBEDDING}")


class Statements(NamedTuple):
    """One prepared statement each; `of` prepares them."""

    check: PreparedStatement
    key: PreparedStatement
    profile: PreparedStatement
    profile_embedding: PreparedStatement
    profiles: PreparedStatement
    profiles_embedding: PreparedStatement
    some_profiles: PreparedStatement
    embedding: PreparedStatement
    similar: PreparedStatement
    similar_in_segment: PreparedStatement
    deltas: PreparedStatement
    score_hours: PreparedStatement
    scores: PreparedStatement
    scores_rest: PreparedStatement
    flags: PreparedStatement
    flags_rest: PreparedStatement
    flag_days: PreparedStatement
    day_flags: PreparedStatement
    day_flags_rest: PreparedStatement
    state: PreparedStatement
    segment_members: PreparedStatement
    segment_sizes: PreparedStatement
    user_segments: PreparedStatement
    user_attributes: PreparedStatement
    user_cases: PreparedStatement
    cases: PreparedStatement
    cases_after: PreparedStatement
    cases_rest: PreparedStatement
    cases_of_rule_rest: PreparedStatement

    @classmethod
    def of(cls, session: Session) -> Statements:
        """Prepares all statements. The driver's errors pass: a table may be missing."""
        prepared = cls(**{name: session.prepare(cql) for name, cql in CQL.items()})
        for statement in (prepared.similar, prepared.similar_in_segment):
            # Cassandra answers ANN queries at no other level.
            statement.consistency_level = ConsistencyLevel.LOCAL_ONE
        return prepared


_SIMILAR = (
    "SELECT user_id, similarity_cosine(embedding, ?) AS cosine, segments,"
    " to_unix_timestamp(window_end) AS window_end_ms FROM user_lookalike"
)
_CASE = (
    "SELECT user_id, rule_id, number, state, to_unix_timestamp(opened_at), severity, action,"
    " message, alerts FROM risk_case"
)
CQL = {
    "check": "SELECT key FROM system.local",
    "key": select_key_cql(),
    "profile": f"SELECT {_PROFILE_ONLY} FROM user_profile WHERE user_id = ?",
    "profile_embedding": f"SELECT {_PROFILE} FROM user_profile WHERE user_id = ?",
    "profiles": f"SELECT {_PROFILE_ONLY} FROM user_profile WHERE user_id IN ?",
    "profiles_embedding": f"SELECT {_PROFILE} FROM user_profile WHERE user_id IN ?",
    "some_profiles": f"SELECT {_PROFILE_ONLY} FROM user_profile LIMIT ?",
    "embedding": "SELECT embedding FROM user_profile WHERE user_id = ?",
    "similar": f"{_SIMILAR} ORDER BY embedding ANN OF ? LIMIT ?",
    "similar_in_segment": f"{_SIMILAR} WHERE segments CONTAINS ? ORDER BY embedding ANN OF ?"
    " LIMIT ?",
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
    "state": "SELECT state, analyst, to_unix_timestamp(updated_at), note FROM flag_state"
    " WHERE flag_id = ? LIMIT 1",
    "segment_members": select(
        "segment_member", BucketMember, "segment = ? AND bucket = ? AND user_id > ? LIMIT ?"
    ),
    "segment_sizes": "SELECT to_unix_timestamp(time), members, users, overlaps FROM segment_size"
    " WHERE segment = ? LIMIT ?",
    "user_segments": select("user_segment", StoredUserSegment, "user_id = ?"),
    "user_attributes": f"SELECT {SELECTED} FROM user_attribute WHERE user_id = ? LIMIT {MAX_ROWS}",
    "user_cases": f"{_CASE} WHERE user_id = ? LIMIT ?",
    "cases": f"{_CASE} LIMIT ?",
    "cases_after": f"{_CASE} WHERE token(user_id) > token(?) LIMIT ?",
    "cases_rest": f"{_CASE} WHERE user_id = ? AND rule_id > ? LIMIT ?",
    "cases_of_rule_rest": f"{_CASE} WHERE user_id = ? AND rule_id = ? AND number < ? LIMIT ?",
}
