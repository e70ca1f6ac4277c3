"""Where Liveprofile stores data about users, how a user's rows are found, and how long they stay.

liveprofile.rows declares the tables, liveprofile.settings the topics. A unit test compares STATES
with the views of the job, so nothing that is kept is without an entry.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Literal, NamedTuple, Self

from cassandra.cluster import Session

from liveprofile import rows
from liveprofile.rows.risk import flag_bucket
from liveprofile.rows.table import FixedLimit, Table
from liveprofile.rows.users import segment_bucket
from liveprofile.settings import MAX_TTL_S, TOPICS, Settings
from liveprofile.storage.cql import prepare, read_pages, to_ms
from liveprofile.units import DAY_MS, HOUR_MS, SECOND_MS
from liveprofile.wire.scored_events import ENTITIES

TABLES: dict[str, Table] = {name: each for name, each in rows.TABLES.items() if each.users}


class UserKeys(NamedTuple):
    """The keys under which a user's rows lie in tables that are not keyed by the user alone."""

    user_id: str
    # The start of each flag's window in ms. 0: the flag is not stored any more.
    flags: Mapping[str, int] = {}
    flag_ends: tuple[datetime, ...] = ()  # window_end of the flags, distinct, ascending
    segments: tuple[str, ...] = ()
    hours: tuple[datetime, ...] = ()  # with scored events, ascending

    def with_hour(self, time: datetime) -> Self:
        """The keys with the hour of a UTC time, whether it has events or not."""
        hour = time.replace(minute=0, second=0, microsecond=0, tzinfo=None)
        return self._replace(hours=tuple(sorted({*self.hours, hour})))


def read_user_keys(session: Session, user_id: str) -> UserKeys:
    """Reads the keys from the tables that list them. Raises ServiceError."""

    def read(table: str, columns: str) -> list[Any]:
        query = prepare(session, f"SELECT {columns} FROM {table} WHERE user_id = ?")
        return list(read_pages(session, query, (user_id,)))

    # Cases first: the flag of an alert is stored before it.
    starts_ms = {each: 0 for row in read("risk_case", "alerts") for each in row.alerts or ()}
    flags = read("risk_flag", "flag_id, window_start, window_end")
    starts_ms |= {row.flag_id: to_ms(row.window_start or row.window_end) for row in flags}
    changes = read("user_segment", "segment") + read("segment_change", "segment")
    return UserKeys(
        user_id,
        starts_ms,
        tuple(sorted({row.window_end for row in flags})),
        tuple(sorted({row.segment for row in changes})),
        tuple(sorted(row.hour for row in read("risk_score_hours", "hour"))),
    )


def conditions(table: Table, keys: UserKeys) -> list[tuple[str, tuple[Any, ...]]]:
    """What selects a user's rows: what follows WHERE, and the values of its marks.

    Empty for a table that is read as a whole: `is_theirs` tells whose its rows are.
    """
    user = keys.user_id
    match table.users.found_by:
        case "user":
            return [("user_id = ?", (user,))]
        case "hours":
            return [("user_id = ? AND hour = ?", (user, hour)) for hour in keys.hours]
        case "flag days":
            where = "day = ? AND bucket = ? AND window_end = ? AND user_id = ?"
            bucket = flag_bucket(user)
            return [(where, (end.date(), bucket, end, user)) for end in keys.flag_ends]
        case "segments":
            where, bucket = "segment = ? AND bucket = ? AND user_id = ?", segment_bucket(user)
            return [(where, (segment, bucket, user)) for segment in keys.segments]
    return [("", ())]


def is_theirs(table: Table, row: Any, keys: UserKeys) -> bool:
    """Whether a row that `conditions` select is the user's."""
    match table.users.found_by:
        case "user_id":
            return row.user_id == keys.user_id
        case "alert_id":
            return row.alert_id in keys.flags
        case "target":  # a flag, or a user and a rule, whose id has no spaces
            target = row.target or ""
            return target in keys.flags or target.rpartition(" ")[0] == keys.user_id
    return True


FIXED_LIMITS_MS = {
    FixedLimit.HALF_DAY: 12 * HOUR_MS,
    FixedLimit.MONTH: 30 * DAY_MS,
    FixedLimit.SNOOZE_END: 365 * DAY_MS,  # a snooze lasts a year at most
}


class StateLimit(NamedTuple):
    """How long a view keeps state: the sum of the settings, and so much longer."""

    settings: tuple[str, ...]
    more_ms: int = 0


_USER_TTL = StateLimit(("state.user_ttl_ms",))
_OPEN_WINDOW = StateLimit(("window.length_ms", "window.out_of_orderness_ms"))
# The limit of each view with state about users or events. docs/data-inventory.md lists the views.
STATES: dict[str, StateLimit] = {
    "clocked": _USER_TTL,
    "deduplicated": StateLimit(("state.dedup_ttl_ms",)),
    "counted": _OPEN_WINDOW._replace(more_ms=HOUR_MS),
    "user_windows": _OPEN_WINDOW,
    "profile_input": _USER_TTL,
    **{f"with_{name}": _USER_TTL for name in ENTITIES},
    "with_user": _USER_TTL,
    "scoring_input": _USER_TTL,
}


class Kept(NamedTuple):
    """A place and its limit."""

    kind: Literal["table", "topic", "state"]
    place: str
    what: str
    setting: str  # settings, or what else limits it
    limit_ms: int | None  # after the write, the record or the last event; None: unlimited
    has_users: bool


def retention(settings: Settings) -> Iterator[Kept]:
    """Each table, topic and state with its limit under these settings."""
    for name, table in rows.TABLES.items():
        limit_ms = limit_of(settings, table.limit)
        if limit_ms is not None:
            limit_ms = min(limit_ms * table.times + table.more_ms, MAX_TTL_S * SECOND_MS)
        yield Kept("table", name, table.holds, table.limit, limit_ms, table.users is not None)
    for field, topic in TOPICS.items():
        name = getattr(settings.topics, field)
        if topic.limit:
            setting = f"topics.{topic.limit}"
            yield Kept("topic", name, topic.holds, setting, limit_of(settings, setting), True)
        else:
            yield Kept("topic", name, topic.holds, "replaced by a newer record", None, False)
    for view, limit in STATES.items():
        limit_ms = limit.more_ms + sum(limit_of(settings, each) or 0 for each in limit.settings)
        shown = " + ".join(limit.settings)
        yield Kept("state", view, "state of the view", shown, limit_ms, True)


def unlimited(settings: Settings) -> list[Kept]:
    """Places with data about users that no setting limits."""
    return [each for each in retention(settings) if each.has_users and each.limit_ms is None]


def limit_of(settings: Settings, limit: str | FixedLimit) -> int | None:
    """Milliseconds of a setting in s or ms, or of a fixed limit; None: unlimited."""
    if isinstance(limit, FixedLimit):
        return FIXED_LIMITS_MS[limit]
    section, key = limit.split(".")
    value = getattr(getattr(settings, section), key)
    return None if value < 0 else value * (1 if key.endswith("_ms") else SECOND_MS)
