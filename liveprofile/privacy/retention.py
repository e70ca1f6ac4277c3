"""How long each table, topic and Flink state is kept, and by which setting. Pure.

The unit tests compare these places with schemas/cassandra.cql, with the settings of topics and with
docs/data-inventory.md, so nothing that is kept is without an entry.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, NamedTuple

from liveprofile.privacy.places import TABLES, TOPICS, TOPICS_WITHOUT_USERS, WITHOUT_USERS
from liveprofile.settings import Settings
from liveprofile.storage.migrations.records import RECORD_TTL_S
from liveprofile.units import DAY_MS, HOUR_MS, SECOND_MS

# Limits that are no settings.
CONSTANTS_MS = {
    "30 days": 30 * DAY_MS,
    "the snooze's end": 365 * DAY_MS,
    "5 years": RECORD_TTL_S * SECOND_MS,
}
# Rows that are written with another multiple of the setting, or some time more.
TIMES = {"user_segment": 2, "segment_member": 2}
MORE_MS = {"risk_score_hours": HOUR_MS, "user_attribute": 3_660 * DAY_MS}
LONGEST_TTL_MS = 20 * 365 * DAY_MS  # Cassandra's

LIMITS_WITHOUT_USERS: dict[str, str] = {
    "segment_sweep": "cassandra.flag_ttl_s",
    "segment_size": "cassandra.flag_ttl_s",
    "risk_histogram": "scoring.score_ttl_s",
    "drift_state": "cassandra.flag_ttl_s",
    "campaign_plan": "cassandra.history_ttl_s",
    "api_key": "serve.api_key_ttl_s",
    "audit_result": "cassandra.history_ttl_s",
    "schema_migration": "5 years",
    "rule_proposal": "30 days",
    "trend": "cassandra.history_ttl_s",
    "trend_series": "cassandra.history_ttl_s",
    "trend_chunk": "cassandra.history_ttl_s",
}


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
    "with_baselines": StateLimit("state.user_ttl_ms", 1.5),
    "model_input": StateLimit("state.user_ttl_ms", 1.5),
    "memories": StateLimit("state.user_ttl_ms", 1.5),
    "profile_input": StateLimit(_OPEN_WINDOW),
    "earlier_join": StateLimit(_OPEN_WINDOW),
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
        limit_ms = _milliseconds(settings, table.limit) * TIMES.get(name, 1) + MORE_MS.get(name, 0)
        limit = min(limit_ms, LONGEST_TTL_MS)
        yield Kept("table", name, table.what, table.limit, _limited(limit), True)
    for name, what in WITHOUT_USERS.items():
        setting = LIMITS_WITHOUT_USERS[name]
        yield Kept("table", name, what, setting, _milliseconds(settings, setting), False)
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
