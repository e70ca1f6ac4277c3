"""Caches the flag state of users: which rules were true last and when each raised its last flag.

A SELECT costs Cassandra and its client as much as the writes of two windows. Flink sends all
windows of a user to one worker in time order, so what a worker wrote or read about a user stays
true until the user's next window. A worker starts with an empty cache, after a failure too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from liveprofile.rules.flags import FlaggedRow, RowPosition

MAX_USERS = 100_000  # about 300 bytes each


class CachedFlagState(NamedTuple):
    """A user's flag state after all windows that ended by `until_ms`."""

    until_ms: int
    latest: RowPosition | None  # the latest of these windows
    active_rules: frozenset[str]  # true in it
    last_raised_ms: dict[str, int] | None  # rule id -> window end of its last flag; None: unknown


class FlagStateCache:
    """Flag states by user. A full cache (MAX_USERS) is cleared."""

    def __init__(self) -> None:
        self._users: dict[str, CachedFlagState] = {}

    def get(self, user_id: str, window_end_ms: int) -> CachedFlagState | None:
        """Returns the state before a window, or None if it is unknown.

        It is unknown too if the cache has seen this window or a later one of the user.
        """
        state = self._users.get(user_id)
        return state if state is not None and state.until_ms < window_end_ms else None

    def put(self, user_id: str, state: CachedFlagState) -> None:
        """Caches a state that was read, unless a later one is cached."""
        cached = self._users.get(user_id)
        if cached is None or cached.until_ms < state.until_ms:
            self._store(user_id, state)

    def update(self, rows: Iterable[FlaggedRow]) -> None:
        """Applies rows that are being written. An out-of-order row evicts its user's state."""
        for row in rows:
            earlier = self.get(row.user_id, row.window_end_ms)
            if earlier is None and self._users.pop(row.user_id, None) is not None:
                continue
            last_raised_ms = earlier.last_raised_ms if earlier else None
            if last_raised_ms is not None and row.flags:
                last_raised_ms = last_raised_ms | {
                    flag.rule_id: row.window_end_ms for flag in row.flags
                }
            state = CachedFlagState(
                row.window_end_ms,
                RowPosition(row.window_end_ms),
                frozenset(row.active_rules),
                last_raised_ms,
            )
            self._store(row.user_id, state)

    def _store(self, user_id: str, state: CachedFlagState) -> None:
        if len(self._users) >= MAX_USERS:
            self._users.clear()
        self._users[user_id] = state
