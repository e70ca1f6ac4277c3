"""The newest flags with their states, read once for all browsers that ask at the same time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from liveprofile.alerts.cases.flags import FlagWithState
from serve.store.store import Store

# A page reads the state of each flag, so it is short.
PAGE_FLAGS = 100
FRESH_S = 0.25
MAX_PAGES = 100

Position = tuple[int, str, str, str]


class AlertQueue:
    """Pages of flags, each at most FRESH_S old. clock_s: monotonic."""

    def __init__(self, store: Store, clock_s: Callable[[], float] = time.monotonic):
        self._store, self._clock_s = store, clock_s
        self._pages: dict[
            tuple[str, Position | None], tuple[float, asyncio.Task[list[FlagWithState]]]
        ] = {}

    async def page(self, user_id: str, after: Position | None) -> list[FlagWithState]:
        """Up to PAGE_FLAGS flags of a user, or of all if it is "", newest first.

        Raises ServiceError. A write of this process is seen after `forget`.
        """
        now_s = self._clock_s()
        started_s, task = self._pages.get((user_id, after), (0.0, None))
        if task is None or now_s - started_s > FRESH_S:
            if len(self._pages) >= MAX_PAGES:
                self.forget()
            task = asyncio.create_task(self._read(user_id, after))
            # If every browser has gone before the answer, nobody else looks at its error.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._pages[user_id, after] = (now_s, task)
        # Another browser may wait for the same answer.
        return await asyncio.shield(task)

    def forget(self) -> None:
        """The next page is read again."""
        self._pages.clear()

    async def _read(self, user_id: str, after: Position | None) -> list[FlagWithState]:
        if user_id:
            own = None if after is None else (after[0], *after[2:])
            flags = await self._store.flags(user_id, 0, own, PAGE_FLAGS)
        else:
            flags = await self._store.all_flags(0, after, PAGE_FLAGS)
        return await self._store.with_states(flags)
