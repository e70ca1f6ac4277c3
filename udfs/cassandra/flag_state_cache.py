"""What rules did in users' earlier windows, kept where it passes by.

A SELECT costs Cassandra and its client as much as two windows' writes. Flink sends all windows of
a user through one worker, in order of time, so what a worker has written or read of a user holds
until the user's next window. A worker begins with nothing, after a failure too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from liveprofile.rules.flags import Flagged

MOST_USERS = 100_000  # some 300 bytes each


class FlagState(NamedTuple):
    """One user's windows that ended by `until_ms`."""

    until_ms: int
    active: frozenset[str]  # the rules true in the latest of them
    raised_ms: dict[str, int] | None  # by rule, the window end of its newest flag; None: not known


class FlagStateCache:
    """Beyond MOST_USERS it forgets them all and learns anew."""

    def __init__(self) -> None:
        self._users: dict[str, FlagState] = {}

    def before(self, user_id: str, window_end_ms: int) -> FlagState | None:
        """None if not known; so too where a later window of the user was here already."""
        past = self._users.get(user_id)
        return past if past is not None and past.until_ms < window_end_ms else None

    def learn(self, user_id: str, past: FlagState) -> None:
        """What was read; does not replace what is known of later windows."""
        known = self._users.get(user_id)
        if known is None or known.until_ms < past.until_ms:
            self._keep(user_id, past)

    def write(self, rows: Iterable[Flagged]) -> None:
        """Rows as they are stored. One that comes after a later one of its user is a riddle, so
        the user is forgotten."""
        for row in rows:
            earlier = self.before(row.user_id, row.window_end_ms)
            if earlier is None and self._users.pop(row.user_id, None) is not None:
                continue
            raised_ms = earlier.raised_ms if earlier else None
            if raised_ms is not None and row.flags:
                raised_ms = raised_ms | {flag.rule_id: row.window_end_ms for flag in row.flags}
            self._keep(
                row.user_id, FlagState(row.window_end_ms, frozenset(row.active_rules), raised_ms)
            )

    def _keep(self, user_id: str, past: FlagState) -> None:
        if len(self._users) >= MOST_USERS:
            self._users.clear()
        self._users[user_id] = past
