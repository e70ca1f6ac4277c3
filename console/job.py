"""Reads the job from Flink, and its lag from Kafka, for all browsers at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from liveprofile.flink.job_report import (
    JobReport,
    ScoringReport,
    is_reported,
    job_warnings,
    report,
    scoring_report,
)
from liveprofile.flink.operator_metrics import (
    ModelReport,
    model_report,
    operator_metrics,
)
from liveprofile.kafka.offsets import lag, scoring_group
from liveprofile.settings import Settings

FRESH_S = 2.0

Value = TypeVar("Value")


class JobFacts(NamedTuple):
    """lag: records behind at the last checkpoint. scoring: None if it is off or has no metrics."""

    job: JobReport
    lag_events: int
    lag_scoring: int | None
    scoring: ScoringReport | None
    models: ModelReport | None
    warnings: list[str]


def read_facts(settings: Settings) -> JobFacts:
    """Blocks. Raises ServiceError."""
    rest_url = settings.flink.rest_url
    job = report(rest_url, settings.job.name)
    is_scoring = settings.scoring.enabled
    metrics = operator_metrics(rest_url, job.job_id, is_reported)
    scoring = scoring_report(metrics) if is_scoring else None
    models = model_report(metrics)
    return JobFacts(
        job,
        lag(settings),
        lag(settings, scoring_group(settings.kafka)) if is_scoring else None,
        scoring,
        models,
        list(job_warnings(job, settings.job.checkpoint_interval_ms, scoring, models)),
    )


class JobReader:
    """Reads Flink and Kafka in a thread: if they do not answer, they occupy no more than that.

    read: blocks; the facts of the job.
    """

    def __init__(
        self,
        settings: Settings,
        clock_s: Callable[[], float] = time.monotonic,
        read: Callable[[Settings], JobFacts] = read_facts,
    ):
        threads = ThreadPoolExecutor(1, thread_name_prefix="job")

        def reading() -> Awaitable[JobFacts]:
            return asyncio.get_running_loop().run_in_executor(threads, read, settings)

        # Raises ServiceError if Flink or Kafka does not answer.
        self.facts = Shared(reading, FRESH_S, clock_s).get


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
