"""What reads all users: one at a time, in a thread of its own, with a limit of rows and time.

Beyond the limit a caller has the commands of the shell, which have none.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Literal, TypeVar

from cassandra.cluster import Session

from liveprofile.segments.definitions import Segment, SegmentSet, segment_set
from liveprofile.segments.preview import SegmentPreview, preview
from liveprofile.segments.stored_profiles import scan_profiles
from liveprofile.settings import CassandraSettings, Settings
from liveprofile.storage.connection import open_session
from liveprofile.trends.funnel import Cohort
from liveprofile.trends.stored import StoredFunnel, stored_funnel, stored_retention
from serve.store.definitions import read_kind_in_force
from serve.store.protocol import ScanBusy, ScanTooLarge

Row = TypeVar("Row")
Result = TypeVar("Result")
# A second scan must get its answer while the first runs.
THREADS = 4
PREVIEW_PAGE_ROWS = 1_000


class ScanLimit:
    """Counts the rows of one scan, in the thread that runs it. `clock_s`: monotonic."""

    def __init__(self, rows: int, seconds: float, clock_s: Callable[[], float] = time.monotonic):
        self._left, self._rows, self._seconds = rows, rows, seconds
        self._clock_s, self._end_s = clock_s, clock_s() + seconds
        self.stopped = False  # set by another thread

    def watch(
        self, rows: Iterable[Row], size: Callable[[Row], int] = lambda row: 1
    ) -> Iterator[Row]:
        """Passes rows, or pages of `size` rows, on. Raises ScanTooLarge."""
        for row in rows:
            self.take(size(row))
            yield row

    def take(self, rows: int) -> None:
        """Counts rows. Raises ScanTooLarge."""
        self._left -= rows
        if self._left < 0:
            raise ScanTooLarge(
                f"more than {self._rows} rows (serve.scan_rows): use the command of the shell"
            )
        if self.stopped or self._clock_s() > self._end_s:
            raise ScanTooLarge(
                f"not done within {self._seconds:g} s (serve.scan_timeout_ms): use the command of"
                " the shell"
            )


class CassandraScans:
    """The methods of serve.store.protocol.Store that read all users.

    connect: opens a session for a scan.
    """

    def __init__(
        self,
        settings: Settings,
        connect: Callable[[CassandraSettings], AbstractContextManager[Session]] = open_session,
    ):
        self._scan_connect = connect
        self._scan_settings = settings
        self._scan_threads = ThreadPoolExecutor(THREADS, thread_name_prefix="scan")
        self._scan_lock = threading.Lock()
        self._scan_limit: ScanLimit | None = None

    async def funnel(
        self,
        steps: Sequence[str],
        within_ms: int,
        last_ms: int,
        by: Literal["segment", "category"],
    ) -> StoredFunnel:
        return await self.scan(
            lambda session, limit: stored_funnel(
                session, steps, within_ms, last_ms, by, limit.watch
            )
        )

    async def retention(self, event_type: str | None) -> list[Cohort]:
        return await self.scan(
            lambda session, limit: stored_retention(session, event_type, limit.watch)
        )

    async def preview_segments(
        self, segments: Sequence[Segment], at_ms: int
    ) -> tuple[int, list[SegmentPreview]]:
        settings = self._scan_settings
        then, _ = segment_set(segments)

        def read(session: Session, limit: ScanLimit) -> tuple[int, list[SegmentPreview]]:
            now: SegmentSet = read_kind_in_force(settings, "segments").definitions
            pages = limit.watch(
                scan_profiles(session, page_rows=PREVIEW_PAGE_ROWS),
                lambda page: len(page.user_ids),
            )
            return preview(pages, now, then, at_ms, settings.state.decay_days)

        return await self.scan(read)

    async def scan(self, work: Callable[[Session, ScanLimit], Result]) -> Result:
        """Runs work that blocks, on a connection of its own. Raises ScanBusy, ScanTooLarge."""
        serve = self._scan_settings.serve

        def run() -> Result:
            if not self._scan_lock.acquire(blocking=False):
                raise ScanBusy("another analysis runs in this server: try again")
            try:
                self._scan_limit = ScanLimit(serve.scan_rows, serve.scan_timeout_s)
                with self._scan_connect(self._scan_settings.cassandra) as session:
                    return work(session, self._scan_limit)
            finally:
                self._scan_lock.release()

        return await asyncio.get_running_loop().run_in_executor(self._scan_threads, run)

    def stop_scans(self) -> None:
        """Ends a scan at its next row."""
        if self._scan_limit is not None:
            self._scan_limit.stopped = True
        self._scan_threads.shutdown(wait=False, cancel_futures=True)
