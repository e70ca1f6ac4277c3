"""Reads flags together with their alert states."""

from collections.abc import Sequence
from typing import NamedTuple

from cassandra.cluster import Session

from liveprofile.errors import LiveprofileError
from liveprofile.storage import queries
from liveprofile.storage.cql import read, to_ms
from liveprofile.storage.erasures import without_erased
from liveprofile.storage.queries import StoredFlag
from services.alerts.states import AlertState, StoredAlertState, read_states

# Cool-downs keep a user's flags few.
MAX_FLAGS_PER_USER = 10_000
# A filtered query reads at most this many flags. Callers can narrow the time range instead.
MAX_FLAGS_SCANNED = 20_000


class UnknownFlagError(LiveprofileError):
    """No flag has this id. Exit code 1."""


class FlagWithState(NamedTuple):
    flag: StoredFlag
    state: StoredAlertState


def with_states(session: Session, flags: Sequence[StoredFlag]) -> list[FlagWithState]:
    states = read_states(session, [flag.flag_id for flag in flags])
    return [FlagWithState(flag, states[flag.flag_id]) for flag in flags]


def find_flag(session: Session, flag_id: str) -> StoredFlag:
    """Returns the flag with this id, which is also its alert's id. Raises UnknownFlagError, also if
    the flag is erased and not deleted yet."""
    query = "SELECT user_id, window_end FROM risk_flag WHERE flag_id = %s"
    for row in read(session, query, (flag_id,)):
        for flag in queries.flags(session, row.user_id, to_ms(row.window_end), MAX_FLAGS_PER_USER):
            if flag.flag_id == flag_id and without_erased(session, [flag], "window_start_ms"):
                return flag
    raise UnknownFlagError(
        f"no flag {flag_id!r}; `liveprofile risk alerts list` lists the stored flags"
    )


def list_flags(
    session: Session,
    *,
    user_id: str | None = None,
    state: AlertState | None = None,
    since_ms: int | None = None,
    rule_id: str | None = None,
    limit: int = 20,
) -> list[FlagWithState]:
    """Returns the newest flags that match, with their states.

    Searches only the newest MAX_FLAGS_SCANNED flags.
    """
    count = limit
    while True:
        flags = queries.flags(session, user_id, since_ms, count)
        shown = without_erased(session, flags, "window_start_ms")
        candidates = [flag for flag in shown if rule_id is None or flag.rule_id == rule_id]
        matches = [
            each
            for each in with_states(session, candidates)
            if state is None or each.state.state is state
        ]
        if len(matches) >= limit or len(flags) < count or count >= MAX_FLAGS_SCANNED:
            return matches[:limit]
        count = min(4 * count, MAX_FLAGS_SCANNED)
