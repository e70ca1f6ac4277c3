"""Reads the job from Flink, and its lag from Kafka, for all browsers at once."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from liveprofile.flink.jobs import Job, jobs
from liveprofile.settings import Settings
from services.operations import job_status

FRESH_S = 2.0

Value = TypeVar("Value")


class JobReader:
    """Reads Flink and Kafka in a thread: if they do not answer, they occupy no more than that.

    read: blocks; the status of a job.
    """

    def __init__(
        self,
        settings: Settings,
        clock_s: Callable[[], float] = time.monotonic,
        read: Callable[[Job], dict[str, Any]] = job_status,
    ):
        threads = ThreadPoolExecutor(1, thread_name_prefix="job")

        def reading() -> Awaitable[list[dict[str, Any]]]:
            def read_all() -> list[dict[str, Any]]:
                return [read(job) for job in jobs(settings)]

            return asyncio.get_running_loop().run_in_executor(threads, read_all)

        # Raises ServiceError if Flink or Kafka does not answer.
        self.status = Shared(reading, FRESH_S, clock_s).get


class Shared(Generic[Value]):
    """A reading that all callers share while it is fresh, or not complete. clock_s: monotonic."""

    def __init__(
        self,
        read: Callable[[], Awaitable[Value]],
        fresh_s: float,
        clock_s: Callable[[], float],
    ):
        self._read, self._fresh_s, self._clock_s = read, fresh_s, clock_s
        self._read_at_s = float("-inf")
        self._reading: asyncio.Future[Value] | None = None

    async def get(self) -> Value:
        now_s = self._clock_s()
        is_old = now_s - self._read_at_s > self._fresh_s
        if self._reading is None or (self._reading.done() and is_old):
            self._reading = asyncio.ensure_future(self._read())
            # If every browser has gone before the answer, nobody else looks at its error.
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._read_at_s = now_s
        return await asyncio.shield(self._reading)
