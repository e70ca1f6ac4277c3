"""What reads all users: one at a time, in a thread of its own, with a limit of rows and time.

Beyond the limit a caller has the commands of the shell, which have none.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import TypeVar

from cassandra.cluster import Session

from liveprofile.settings import CassandraSettings, Settings
from serve.problems import ApiError, UnavailableError

Row = TypeVar("Row")
Result = TypeVar("Result")
SCAN_S = 30.0  # that one scan may take
# A second scan must get its answer while the first runs.
THREADS = 4


class ScanTooLargeError(ApiError):
    """The scan has more rows, or takes longer, than the settings allow."""

    def __init__(self, detail: str):
        super().__init__(422, "too-many-rows", f"{detail}: use the command of the shell")


class ScanLimit:
    """Counts the rows of one scan, in the thread that runs it. `clock_s`: monotonic."""

    def __init__(self, rows: int, seconds: float, clock_s: Callable[[], float] = time.monotonic):
        self._left, self._rows, self._seconds = rows, rows, seconds
        self._clock_s, self._end_s = clock_s, clock_s() + seconds
        self.stopped = False  # set by another thread

    def watch(
        self, rows: Iterable[Row], size: Callable[[Row], int] = lambda row: 1
    ) -> Iterator[Row]:
        """Passes rows, or pages of `size` rows, on. Raises ScanTooLargeError."""
        for row in rows:
            self._left -= size(row)
            if self._left < 0:
                raise ScanTooLargeError(f"more than {self._rows} rows (serve.max_scan_rows)")
            if self.stopped or self._clock_s() > self._end_s:
                raise ScanTooLargeError(f"not done within {self._seconds:g} s")
            yield row


class Scans:
    """Runs one scan at a time. connect: opens a session for it."""

    def __init__(
        self,
        settings: Settings,
        connect: Callable[[CassandraSettings], AbstractContextManager[Session]],
    ):
        self._connect, self._settings = connect, settings
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="scan")
        self._lock = threading.Lock()
        self._limit: ScanLimit | None = None

    async def run(self, work: Callable[[Session, ScanLimit], Result]) -> Result:
        """Runs work that blocks, on a connection of its own.

        Raises UnavailableError while another scan runs, ScanTooLargeError.
        """
        serve = self._settings.serve

        def run() -> Result:
            if not self._lock.acquire(blocking=False):
                raise UnavailableError("another analysis runs in this server: try again")
            try:
                self._limit = ScanLimit(serve.max_scan_rows, SCAN_S)
                with self._connect(self._settings.cassandra) as session:
                    return work(session, self._limit)
            finally:
                self._lock.release()

        return await asyncio.get_running_loop().run_in_executor(self._threads, run)

    def stop(self) -> None:
        """Ends a scan at its next row."""
        if self._limit is not None:
            self._limit.stopped = True
        self._threads.shutdown(wait=False, cancel_futures=True)
