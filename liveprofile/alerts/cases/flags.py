"""Flags with their states: one by its id, or the newest that fit."""

from __future__ import annotations

from typing import NamedTuple

from cassandra.cluster import Session

from liveprofile.alerts.cases.states import FlagState, State, states_of
from liveprofile.errors import LiveprofileError
from liveprofile.storage import queries
from liveprofile.storage.cql import execute, to_ms
from liveprofile.storage.queries import StoredFlag

# A user's flags are few, because of cool-downs.
FLAGS_OF_A_USER = 10_000
# A filter looks at so many flags at most: beyond, a person should narrow the time.
MOST_SCANNED = 20_000


class UnknownFlag(LiveprofileError):
    """No flag of this id. Exit code 1."""


class Found(NamedTuple):
    flag: StoredFlag
    state: FlagState


def find(session: Session, flag_id: str) -> StoredFlag:
    """The flag of this id, which is its alert's id too. Raises UnknownFlag."""
    query = "SELECT user_id, window_end FROM risk_flag WHERE flag_id = %s"
    for row in execute(session, query, (flag_id,)):
        for flag in queries.flags(session, row.user_id, to_ms(row.window_end), FLAGS_OF_A_USER):
            if flag.flag_id == flag_id:
                return flag
    raise UnknownFlag(f"no flag {flag_id!r}; `liveprofile alerts list` shows those there are")


def listed(
    session: Session,
    *,
    user_id: str | None = None,
    state: State | None = None,
    since_ms: int | None = None,
    rule_id: str | None = None,
    limit: int = 20,
) -> list[Found]:
    """The newest flags that fit, with their states; of the newest MOST_SCANNED flags."""
    count = limit
    while True:
        flags = queries.flags(session, user_id, since_ms, count)
        of_rule = [flag for flag in flags if rule_id is None or flag.rule_id == rule_id]
        states = states_of(session, [flag.flag_id for flag in of_rule])
        found = [
            Found(flag, states[flag.flag_id])
            for flag in of_rule
            if state is None or states[flag.flag_id].state is state
        ]
        if len(found) >= limit or len(flags) < count or count >= MOST_SCANNED:
            return found[:limit]
        count = min(4 * count, MOST_SCANNED)
