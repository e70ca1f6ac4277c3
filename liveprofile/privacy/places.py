"""Where Liveprofile stores data about users: each table and topic, and what limits its age.

tests/unit/liveprofile/privacy compares TABLES and WITHOUT_USERS with schemas/cassandra.cql, and
TOPICS with the settings: a new table or topic needs an entry here and in docs/privacy.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from liveprofile.privacy.user_keys import UserKeys
from liveprofile.storage.flag_buckets import flag_bucket
from liveprofile.storage.segment_buckets import segment_bucket

Condition = tuple[str, tuple[Any, ...]]  # what follows WHERE, and the values of its marks


class HeldTable(NamedTuple):
    """A table with rows about users."""

    what: str
    limit: str  # the setting, or the constant, that limits the age of a row
    conditions: Callable[[UserKeys], Iterable[Condition]]  # that select a user's rows
    # Tells a user's rows if no key finds them: the whole table is read. None: all rows are theirs.
    belongs: Callable[[Any, UserKeys], bool] | None = None
    shares_partitions: bool = False  # rows of other users are in the same partitions


class HeldTopic(NamedTuple):
    """A topic with records about users."""

    what: str
    limit: str  # the setting that limits the age of a record


def _by_user(keys: UserKeys) -> Iterable[Condition]:
    return [("user_id = ?", (keys.user_id,))]


def _all_rows(keys: UserKeys) -> Iterable[Condition]:
    return [("", ())]


def _hours(keys: UserKeys) -> Iterable[Condition]:
    return [("user_id = ? AND hour = ?", (keys.user_id, hour)) for hour in keys.hours]


def _flag_days(keys: UserKeys) -> Iterable[Condition]:
    bucket = flag_bucket(keys.user_id)
    where = "day = ? AND bucket = ? AND window_end = ? AND user_id = ?"
    return [(where, (end.date(), bucket, end, keys.user_id)) for end in keys.flag_ends]


def _segment_buckets(keys: UserKeys) -> Iterable[Condition]:
    bucket = segment_bucket(keys.user_id)
    where = "segment = ? AND bucket = ? AND user_id = ?"
    return [(where, (segment, bucket, keys.user_id)) for segment in keys.segments]


def _has_user(row: Any, keys: UserKeys) -> bool:
    return row.user_id == keys.user_id


def _has_alert(row: Any, keys: UserKeys) -> bool:
    return row.alert_id in keys.flag_ids


def _has_target(row: Any, keys: UserKeys) -> bool:
    """The target is a flag, or a user and a rule, whose id has no spaces."""
    target = row.target or ""
    return target in keys.flag_ids or target.rpartition(" ")[0] == keys.user_id


TABLES: dict[str, HeldTable] = {
    "user_profile": HeldTable("the profile", "cassandra.profile_ttl_s", _by_user),
    "profile_delta": HeldTable("what each window changed", "cassandra.delta_ttl_s", _by_user),
    "replaced_delta": HeldTable(
        "deltas before their correction", "cassandra.delta_ttl_s", _by_user
    ),
    "user_lookalike": HeldTable(
        "embedding and segments as indexed", "cassandra.profile_ttl_s", _by_user
    ),
    "risk_score_hours": HeldTable("hours with scored events", "scoring.score_ttl_s", _by_user),
    "risk_score_by_hour": HeldTable("fraud scores of events", "scoring.score_ttl_s", _hours),
    "risk_flag": HeldTable("risk flags with evidence", "cassandra.flag_ttl_s", _by_user),
    "risk_flag_by_day": HeldTable("the same flags by day", "cassandra.flag_ttl_s", _flag_days),
    "flag_state": HeldTable(
        "what analysts decided about flags", "cassandra.flag_ttl_s", _all_rows, _has_user
    ),
    "risk_snooze": HeldTable("rules that send no alerts for now", "the snooze's end", _by_user),
    "risk_case": HeldTable("cases of customer service", "cassandra.case_ttl_s", _by_user),
    "alert_handled": HeldTable(
        "which consumers have processed an alert", "30 days", _all_rows, _has_alert
    ),
    "user_segment": HeldTable("segments with reasons", "cassandra.profile_ttl_s", _by_user),
    "segment_member": HeldTable(
        "membership by segment", "cassandra.profile_ttl_s", _segment_buckets
    ),
    "segment_change": HeldTable("changes of segments", "cassandra.profile_ttl_s", _by_user),
    "user_attribute": HeldTable("what other systems state about the user", "30 days", _by_user),
    "campaign_contact": HeldTable("contacts of campaigns", "cassandra.history_ttl_s", _by_user),
    "user_consent": HeldTable("consents by purpose", "topics.decisions_retention_ms", _by_user),
    "erasure": HeldTable(
        "whether an erased user's rows are deleted", "topics.decisions_retention_ms", _by_user
    ),
    "later_sums": HeldTable(
        "sums of windows since an erasure", "cassandra.profile_ttl_s", _by_user
    ),
    "campaign_target": HeldTable(
        "users of plans of campaigns", "cassandra.history_ttl_s", _all_rows, _has_user, True
    ),
    "api_audit": HeldTable(
        "writes through the read API", "cassandra.history_ttl_s", _all_rows, _has_target, True
    ),
}

# Table: why none of its rows is about one user.
WITHOUT_USERS: dict[str, str] = {
    "segment_sweep": "the state of a sweep over all users",
    "segment_size": "numbers of members",
    "risk_histogram": "counts over all users",
    "drift_state": "distances between distributions",
    "campaign_plan": "campaigns with counts of users",
    "api_key": "keys of systems and staff, with their names",
    "audit_result": "counts of records",
    "schema_migration": "changes of the tables, and the host that makes them",
    "rule_proposal": "definitions of rules, with the names of who proposed and approved them",
    "trend": "counts; user_hashes holds 8-byte hashes without ids, to count distinct users",
    "trend_series": "names of series",
    "trend_chunk": "ranges of records",
}

# Setting of the topic's name: what it holds. Every record is removed by its age.
TOPICS: dict[str, HeldTopic] = {
    "events": HeldTopic("events as they were sent", "topics.retention_ms"),
    "encoded": HeldTopic("events in other formats", "topics.retention_ms"),
    "rejected": HeldTopic("rejected events", "topics.retention_ms"),
    "late": HeldTopic("late events", "topics.retention_ms"),
    "alerts": HeldTopic("risk alerts", "topics.retention_ms"),
    "segment_changes": HeldTopic("changes of segments", "topics.retention_ms"),
    "consents": HeldTopic("consents by purpose", "topics.decisions_retention_ms"),
    "erasures": HeldTopic("since when users are erased", "topics.decisions_retention_ms"),
    "merges": HeldTopic("ids that are one person", "topics.decisions_retention_ms"),
    "feedback": HeldTopic("labels by analysts", "topics.labels_retention_ms"),
    "attributes": HeldTopic(
        "what other systems state about the user", "topics.labels_retention_ms"
    ),
}

# Setting of the topic's name: why it holds nothing about users. These are compacted.
TOPICS_WITHOUT_USERS: dict[str, str] = {
    "rules": "definitions of rules",
    "models": "the model in force",
    "segments": "definitions of segments",
}
