"""Reads the state of the job from Flink and Kafka, for all browsers at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Protocol

from liveprofile.config import Settings
from liveprofile.flink.job_report import JobReport, report
from liveprofile.flink.job_warnings import checkpoint_warnings, model_warnings, scoring_warnings
from liveprofile.flink.latency_report import LatencyCounts, count_latencies, is_latency
from liveprofile.flink.model_report import ModelReport, model_report
from liveprofile.flink.operator_metrics import operator_metrics
from liveprofile.flink.scoring_report import ScoringReport, scoring_report
from liveprofile.kafka.offsets import lag, scoring_group

FRESH_S = 2.0


class JobFacts(NamedTuple):
    """lag: records behind at the last checkpoint. scoring: None if it is off or has no metrics."""

    job: JobReport
    lag_events: int
    lag_scoring: int | None
    scoring: ScoringReport | None
    models: ModelReport | None
    warnings: list[str]
    latencies: Mapping[str, LatencyCounts]  # since the last start or restart


class JobReader(Protocol):
    async def facts(self) -> JobFacts:
        """Raises ServiceError if Flink or Kafka does not answer."""


def read_facts(settings: Settings) -> JobFacts:
    """Blocks. Raises ServiceError."""
    rest_url = settings.flink.rest_url
    job = report(rest_url, settings.job.name)
    is_scoring = settings.scoring.enabled
    scoring = scoring_report(rest_url, job.job_id) if is_scoring else None
    models = model_report(rest_url, job.job_id)
    latencies = operator_metrics(rest_url, job.job_id, is_latency)
    return JobFacts(
        job,
        lag(settings),
        lag(settings, scoring_group(settings.kafka)) if is_scoring else None,
        scoring,
        models,
        [
            *checkpoint_warnings(job, settings.job.checkpoint_interval_ms),
            *scoring_warnings(scoring),
            *model_warnings(models),
        ],
        count_latencies({name: each.sum for name, each in latencies.items()}),
    )


class FlinkJobReader:
    """Reads in one thread, so a cluster that does not answer occupies no more than that."""

    def __init__(
        self,
        settings: Settings,
        clock_s: Callable[[], float] = time.monotonic,
        read: Callable[[Settings], JobFacts] = read_facts,
    ):
        self._settings, self._clock_s, self._read = settings, clock_s, read
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="job")
        self._read_at_s = float("-inf")
        self._reading: asyncio.Future[JobFacts] | None = None

    async def facts(self) -> JobFacts:
        now_s = self._clock_s()
        is_old = now_s - self._read_at_s > FRESH_S
        if self._reading is None or (self._reading.done() and is_old):
            loop = asyncio.get_running_loop()
            self._reading = loop.run_in_executor(self._thread, self._read, self._settings)
            # If every browser has gone before the answer, nobody else looks at its error.
            self._reading.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._read_at_s = now_s
        return await asyncio.shield(self._reading)
