"""Replay: sends the rows of a file to the events topic, and heartbeats."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import orjson

from intake.files import sources
from intake.files.mapping import check_columns, read_mapping
from intake.files.translation import EventRecords, Translator, events_of_lines
from liveprofile.errors import InputError
from liveprofile.events.window_times import end_ms
from liveprofile.kafka.records import RecordSender
from liveprofile.kafka.topics import partitions
from liveprofile.settings import Settings, WindowSettings

# Allowed difference to the broker's clock, which decides whether an event lies in the future.
CLOCK_MARGIN_MS = 5_000


class ReplayResult(NamedTuple):
    """Summary of a replay; `liveprofile events replay` prints it as JSON."""

    sent: int  # events, without heartbeats
    seconds: float
    last_event_time_ms: int | None  # None if no event has a time
    heartbeats: int
    closed: bool  # True if heartbeats moved the watermark past the last event's window


def replay(
    source: Path | str,
    mapping: Path | str | None,
    settings: Settings,
    *,
    limit: int | None = None,
    close_windows: bool = False,
    progress: Callable[[int], None] = lambda count: None,
) -> ReplayResult:
    """Sends each row of `source` as one event keyed by its user; waits for all acknowledgements.

    `mapping`: a mapping file; None if `source` contains events of the data contract as JSON lines.
    `close_windows`: sends a final heartbeat to each partition, which closes the last windows.
    `progress`: receives the number of events sent since its last call.
    Raises InputError for the file or the mapping, ServiceError if Kafka refuses an event or does
    not answer.
    """
    batches = open_source(Path(source), mapping, limit)
    producer = ReplayProducer(settings, settings.topics.events, progress)
    last_ms: int | None = None
    started = time.monotonic()
    for events in batches:
        producer.send(events)
        last_ms = _latest_ms(events, last_ms, settings.limits.max_clock_skew_ms)
    heartbeat_ms = None
    if close_windows and last_ms is not None:
        heartbeat_ms = closing_time_ms(last_ms, settings.window)
        # The broker's clock bounds the watermark: a later heartbeat would close no more windows.
        heartbeat_ms = min(heartbeat_ms, _now_ms() - CLOCK_MARGIN_MS)
        producer.send_heartbeats(heartbeat_ms)
    producer.flush()
    return ReplayResult(
        producer.sent,
        time.monotonic() - started,
        last_ms,
        0 if heartbeat_ms is None else len(producer.partitions),
        heartbeat_ms is not None and heartbeat_ms >= _last_close_ms(last_ms, settings.window),
    )


def open_source(
    source: Path, mapping: Path | str | None, limit: int | None = None
) -> Iterator[EventRecords]:
    """The file's rows as events, in sending order.

    Raises InputError for a mapping that does not fit the file, or a file that needs a mapping; for
    a bad row when it is read.
    """
    if mapping is None:
        sources.require_json_lines(
            source,
            "give a mapping of its columns (--mapping), which `liveprofile events mapping infer`"
            " drafts, or unpack it",
        )
        return events_of_lines(sources.read_lines(source, limit))
    file_mapping = read_mapping(mapping)
    translator = Translator(file_mapping, str(mapping), source)
    needed = file_mapping.file_columns()
    check_columns(needed, sources.column_names(source, file_mapping), str(mapping), source)
    batches = sources.read_table(source, file_mapping, list(needed))
    if file_mapping.sort_by_time:
        batches = sources.sort_by_time((batch, translator.times_ms(batch)) for batch in batches)
    return map(translator.translate, sources.limit_rows(batches, limit))


def check_sources(files: Sequence[Path], mapping: Path | None) -> None:
    """Raises InputError for a file that cannot be read, and for a mapping without a file."""
    if mapping is not None and not files:
        raise InputError(f"--mapping {mapping} needs FILE: the topic holds events")
    for file in files:
        open_source(file, mapping)


def rows_estimate(source: Path, mapping: Path | str | None) -> int:
    """Approximate number of rows, for a progress bar. Raises InputError."""
    is_parquet = mapping is not None and read_mapping(mapping).format == "parquet"
    return sources.rows_estimate(source, is_parquet)


def _last_close_ms(last_event_ms: int, window: WindowSettings) -> int:
    """Event time that closes the window of the last event for every user."""
    staggered = last_event_ms + window.length_ms
    last_end_ms = staggered if window.stagger_ms else end_ms(last_event_ms, 0, window)
    return last_end_ms + window.out_of_orderness_ms


def closing_time_ms(last_event_ms: int, window: WindowSettings) -> int:
    """Event time of a heartbeat that closes the last event's window, plus one window length."""
    return _last_close_ms(last_event_ms, window) + window.length_ms


def _latest_ms(events: EventRecords, before_ms: int | None, max_clock_skew_ms: int) -> int | None:
    # The job rejects events with later times, so they close no window.
    allowed_ms = _now_ms() + max_clock_skew_ms
    times_ms = [ms for ms in events.times_ms if ms is not None and ms <= allowed_ms]
    if before_ms is not None:
        times_ms.append(before_ms)
    return max(times_ms, default=None)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class ReplayProducer(RecordSender):
    """Sends events and heartbeats."""

    def __init__(
        self,
        settings: Settings,
        topic: str,
        progress: Callable[[int], None] = lambda count: None,
        options: Mapping[str, Any] = MappingProxyType({}),
    ):
        super().__init__(settings, topic, options)
        self._kafka, self._progress = settings.kafka, progress
        self.sent = 0  # events
        self.find_partitions()

    def find_partitions(self) -> None:
        """Reads the topic's partitions, of which new ones may have been added."""
        self.partitions = partitions(self._producer, self._kafka, self._topic)

    def send(self, events: EventRecords) -> None:
        """Produces the events."""
        for key, value in zip(events.keys, events.values, strict=True):
            self.produce(value, key)
        self.sent += len(events.values)
        self.poll()
        self._progress(len(events.values))

    def send_heartbeats(self, time_ms: int) -> None:
        """Produces one heartbeat to each partition, after all events sent before."""
        for partition in self.partitions:
            event = {
                "event_id": f"heartbeat-{time_ms}-{partition}",
                "event_type": "heartbeat",
                "event_time": time_ms,
            }
            self.produce(orjson.dumps(event), None, partition=partition)


class Heartbeats:
    """Sends the present time to every partition of the input topic.

    Partitions are read each time, because a new one without a heartbeat would stop all windows.
    """

    def __init__(self, open_producer: Callable[[], ReplayProducer]):
        self._open_producer = open_producer
        self._producer: ReplayProducer | None = None

    def send(self) -> None:
        """Raises ServiceError; the next call then connects anew."""
        producer, self._producer = self._producer, None
        producer = producer or self._open_producer()
        producer.find_partitions()
        producer.send_heartbeats(_now_ms())
        producer.flush()
        self._producer = producer
