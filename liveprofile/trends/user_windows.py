"""What funnels and retention need of a stored window."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from liveprofile.storage.queries import WindowChange


class UserWindow(NamedTuple):
    """One window of a user."""

    start_ms: int
    counts: dict[str, int]  # by event type
    categories: tuple[str, ...]  # whose share of the user's interest did not fall
    is_first: bool  # the user's first window ever


def user_windows(changes: Iterable[WindowChange]) -> Iterator[tuple[str, list[UserWindow]]]:
    """Yields each user with its windows, oldest first.

    changes: those of a user follow each other (`queries.scan_changes`).
    """
    for user_id, of_user in itertools.groupby(changes, key=lambda change: change.user_id):
        windows = [_window(change.window_start_ms, change.delta) for change in of_user]
        yield user_id, sorted(windows, key=lambda window: window.start_ms)


def _window(start_ms: int, delta: dict[str, Any]) -> UserWindow:
    moved = delta.get("moved_categories") or ()
    return UserWindow(
        start_ms,
        (delta.get("window") or {}).get("counts") or {},
        tuple(name for name, before, after in moved if after >= before and after > 0),
        (delta.get("before") or {}).get("windows") == 0,
    )
