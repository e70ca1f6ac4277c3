"""How long each table, topic and Flink state is kept, and by which setting. Pure.

The unit tests compare these places with the settings of topics and with the views of the job, so
nothing that is kept is without an entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from liveprofile.privacy.places import TOPICS, TOPICS_WITHOUT_USERS
from liveprofile.rows import TABLES
from liveprofile.settings import Settings
from liveprofile.storage.migrations.records import RECORD_TTL_S
from liveprofile.units import DAY_MS, HOUR_MS, SECOND_MS

# Limits that are no settings.
CONSTANTS_MS = {
    "30 days": 30 * DAY_MS,
    "the snooze's end": 365 * DAY_MS,
    "5 years": RECORD_TTL_S * SECOND_MS,
}
LONGEST_TTL_MS = 20 * 365 * DAY_MS  # Cassandra's


class StateLimit(NamedTuple):
    """When the state of a view expires."""

    setting: str  # settings, joined by " + "
    times: float = 1.0
    more_ms: int = 0


_OPEN_WINDOW = "window.length_ms + window.out_of_orderness_ms"
# Of each view with state about users or events: docs/data-inventory.md lists them.
STATES: dict[str, StateLimit] = {
    "clocked": StateLimit("state.user_ttl_ms"),
    "deduplicated": StateLimit("state.dedup_ttl_ms"),
    "counted": StateLimit(_OPEN_WINDOW, more_ms=HOUR_MS),
    "user_windows": StateLimit(_OPEN_WINDOW),
    "profile_input": StateLimit("state.user_ttl_ms"),
    "with_user_history": StateLimit("state.user_ttl_ms", 1.5),
    "event_parts": StateLimit("state.user_ttl_ms", 1.5),
    "rejoined": StateLimit("scoring.rejoin_ttl_ms"),
    "scoring_input": StateLimit("state.user_ttl_ms"),
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
    for name, table in TABLES.items():
        limit_ms = _milliseconds(settings, table.limit) * table.times + table.more_ms
        limit = _limited(min(limit_ms, LONGEST_TTL_MS))
        yield Kept("table", name, table.holds, table.limit, limit, table.users is not None)
    for field, topic in TOPICS.items():
        limit = _milliseconds(settings, topic.limit)
        name = getattr(settings.topics, field)
        yield Kept("topic", name, topic.what, topic.limit, _limited(limit), True)
    for field, what in TOPICS_WITHOUT_USERS.items():
        name = getattr(settings.topics, field)
        yield Kept("topic", name, what, "replaced by a newer record", None, False)
    for view, state in STATES.items():
        parts = sum(_milliseconds(settings, each) for each in state.setting.split(" + "))
        limit = round(parts * state.times) + state.more_ms
        yield Kept("state", view, "state of the view", state.setting, limit, True)


def unlimited(settings: Settings) -> list[Kept]:
    """Places with data about users that no setting limits."""
    return [each for each in retention(settings) if each.has_users and each.limit_ms is None]


def _limited(limit_ms: int) -> int | None:
    return None if limit_ms < 0 else limit_ms


def _milliseconds(settings: Settings, setting: str) -> int:
    """Of a setting in s or ms, or of one of CONSTANTS_MS. Below 0: unlimited."""
    if setting in CONSTANTS_MS:
        return CONSTANTS_MS[setting]
    section, key = setting.split(".")
    value = getattr(getattr(settings, section), key)
    return value if value < 0 or key.endswith("_ms") else value * SECOND_MS
