"""`/metrics` over HTTP, from the last readings of sources that threads of their own read.

A scrape never waits for a service. Figures of a source that has not answered for a while are left
out: an old lag that looks new is worse than none.
"""

import hmac
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from liveprofile.errors import ConfigError, LiveprofileError
from liveprofile.loopback import is_loopback
from liveprofile.resources import product_path
from liveprofile.rules.rules import read_rules
from liveprofile.settings import Settings
from monitoring.catalogue import Readings
from monitoring.sources import CassandraSource, read_flink, read_kafka
from monitoring.topic_counts import REJECTION_REASONS, TopicCounter, alert_labels, rejection_labels
from serve.server import listen, server_of, url_of

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

    def describe(self) -> list[Metric]:
        """Nothing: else the registry would scrape when the exporter is registered."""
        return []

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


INTERVAL_S = 5.0  # between two readings of a service

PATH = "/metrics"


def metrics_app(registry: CollectorRegistry, token: str | None) -> Starlette:
    """Answers PATH, to callers with the token if there is one."""

    def answer(request: Request) -> Response:
        given = request.headers.get("authorization", "")
        if token is not None and not hmac.compare_digest(
            given.encode(), f"Bearer {token}".encode()
        ):
            headers = {"WWW-Authenticate": "Bearer"}
            return PlainTextResponse("token missing or wrong\n", 401, headers)
        return Response(generate_latest(registry), headers={"content-type": CONTENT_TYPE_LATEST})

    return Starlette(routes=[Route(PATH, answer)])


def read_token(file: str) -> str | None:
    """The token in the file without white space around it; None without a file.

    Raises ConfigError if it cannot be read or is short.
    """
    if not file:
        return None
    try:
        token = Path(file).read_text("ascii").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"settings metrics.token_file = {file!r}: {error}") from None
    if len(token) < 16:
        raise ConfigError(f"settings metrics.token_file = {file!r}: it needs 16 characters or more")
    return token


def serve_metrics(settings: Settings, started: Callable[[str], None]) -> None:
    """Serves until SIGTERM or Ctrl-C. `started` gets the URL when the server listens.

    Raises ConfigError for a bad certificate or token, ServiceError if the address is taken.
    """
    limits = settings.serve.model_copy(update={"port": settings.metrics.port})
    token = read_token(settings.metrics.token_file)
    if not token and not is_loopback(limits.host):
        raise ConfigError(
            f"settings serve.host = {limits.host!r} is not loopback: it needs metrics.token_file"
        )
    topics, rules = settings.topics, read_rules(product_path(settings.rules)).rules
    # Rules and reasons are counted from 0 on.
    known = [(rule.id, rule.severity) for rule in rules]
    reasons = [(reason,) for reason in REJECTION_REASONS]
    counters = [
        TopicCounter(settings, topics.rejected, "records_rejected", rejection_labels, reasons),
        TopicCounter(settings, topics.alerts, "alerts", alert_labels, known),
    ]
    cassandra = CassandraSource(settings)
    reads = {
        "flink": partial(read_flink, settings),
        "kafka": partial(read_kafka, settings, counters),
        "cassandra": cassandra.read,
    }
    exporter = Exporter([Source(name, INTERVAL_S, read) for name, read in reads.items()])
    registry = CollectorRegistry()
    registry.register(exporter)
    server = server_of(metrics_app(registry, token), limits, "metrics")

    def stop() -> None:
        server.should_exit = True

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with closing(cassandra), listen(limits, "metrics") as listening:
        started(url_of(limits, listening) + PATH)
        with exporter.running(*(counter.follow for counter in counters), on_defect=stop):
            server.run(sockets=[listening])
