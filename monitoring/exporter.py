"""Reads the sources of figures in threads of their own and answers a scrape from the last readings.

A scrape never waits for a service. Figures of a source that has not answered for a while are left
out: an old lag that looks new is worse than none.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from prometheus_client.core import Metric

from liveprofile.errors import LiveprofileError
from monitoring.catalogue import Readings

log = logging.getLogger(__name__)

STALE_INTERVALS = 3


class Source(NamedTuple):
    name: str
    interval_s: float
    read: Callable[[], Readings]  # may raise LiveprofileError


class _LastReading(NamedTuple):
    readings: Readings
    at_s: float
    took_s: float


class Exporter:
    """A collector of prometheus_client. `clock_s`: monotonic."""

    def __init__(self, sources: Sequence[Source], clock_s: Callable[[], float] = time.monotonic):
        self._sources, self._clock_s = sources, clock_s
        self._last: dict[str, _LastReading] = {}
        self._failing: set[str] = set()

    def collect(self) -> Iterator[Metric]:
        """The families of all sources that are up to date, and whether each source is."""
        own = Readings()
        for source in self._sources:
            last = self._last.get(source.name)
            fresh = last is not None and self._is_fresh(source, last)
            own.add("source_up", float(fresh), source.name)
            if last is not None and fresh:
                own.add("source_read_seconds", last.took_s, source.name)
                yield from last.readings.families()
        yield from own.families()

    def _is_fresh(self, source: Source, last: _LastReading) -> bool:
        return self._clock_s() - last.at_s <= STALE_INTERVALS * source.interval_s

    def read(self, source: Source) -> None:
        """Reads a source once. A service that does not answer leaves the last readings as they are.

        Logs the first failure in a row only.
        """
        started_s = self._clock_s()
        try:
            readings = source.read()
        except LiveprofileError as error:
            if source.name not in self._failing:
                log.warning("source %s: %s", source.name, error)
            self._failing.add(source.name)
            return
        if source.name in self._failing:
            log.warning("source %s answers again", source.name)
            self._failing.discard(source.name)
        now_s = self._clock_s()
        self._last[source.name] = _LastReading(readings, now_s, now_s - started_s)

    def follow(self, source: Source, stopping: threading.Event) -> None:
        """Reads a source at its interval until `stopping` is set."""
        while not stopping.is_set():
            self.read(source)
            stopping.wait(source.interval_s)

    @contextmanager
    def running(
        self, *more: Callable[[threading.Event], None], on_defect: Callable[[], None]
    ) -> Iterator[None]:
        """Follows all sources, and runs `more`, while the block runs.

        Calls `on_defect` if one of them raises, which is a defect of the code. The end of the
        block raises it.
        """
        stopping = threading.Event()

        def ended(task: Future[None]) -> None:
            if task.exception() is not None:
                on_defect()

        with ThreadPoolExecutor(max_workers=len(self._sources) + len(more)) as pool:
            tasks = [pool.submit(self.follow, source, stopping) for source in self._sources]
            tasks += [pool.submit(task, stopping) for task in more]
            for task in tasks:
                task.add_done_callback(ended)
            try:
                yield
            finally:
                stopping.set()
        for task in tasks:
            task.result()
