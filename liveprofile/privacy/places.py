"""Where Liveprofile stores data about users: each table and topic, and what limits its age.

liveprofile.rows declares the tables. A new topic needs an entry here and in docs/privacy.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from liveprofile import rows
from liveprofile.privacy.user_keys import UserKeys
from liveprofile.rows.risk import flag_bucket
from liveprofile.rows.users import segment_bucket

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


# By Users.found_by. The last three read a table as a whole, and tell which rows are the user's.
_CONDITIONS: dict[str, Callable[[UserKeys], Iterable[Condition]]] = {
    "user": _by_user,
    "hours": _hours,
    "flag days": _flag_days,
    "segments": _segment_buckets,
}
_BELONGS = {"user_id": _has_user, "alert_id": _has_alert, "target": _has_target}

TABLES: dict[str, HeldTable] = {
    name: HeldTable(
        table.holds,
        table.limit,
        _CONDITIONS.get(table.users.found_by, _all_rows),
        _BELONGS.get(table.users.found_by),
        table.users.shares_partitions,
    )
    for name, table in rows.TABLES.items()
    if table.users is not None
}
# Table: why none of its rows is about one user.
WITHOUT_USERS = {name: each.holds for name, each in rows.TABLES.items() if each.users is None}

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
