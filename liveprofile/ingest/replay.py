"""Sending a file of behaviour onto the topic, as fast as Kafka takes it or at a given pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from liveprofile.config import Settings, WindowSettings
from liveprofile.errors import InputError, ServiceError
from liveprofile.events.window_times import end_ms
from liveprofile.ingest import sources
from liveprofile.ingest.mapping import Mapping, check_columns, read_mapping
from liveprofile.ingest.translation import AsWritten, Events, Mapped, Translator
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.topics import partitions

DELIVERY_TIMEOUT_S = 120
# Between our clock and the broker's, by which the check for future events goes.
CLOCK_MARGIN_MS = 5_000
POLL_S = 0.1


class Sent(NamedTuple):
    sent: int  # events, heartbeats not counted
    seconds: float
    last_event_time_ms: int | None  # None if no event had a time
    heartbeats: int
    closed: bool  # heartbeats went out and move event time past the last event's window


def replay(
    source: Path | str,
    mapping: Path | str | None,
    settings: Settings,
    *,
    topic: str | None = None,
    rate: float | None = None,
    speed: float | None = None,
    limit: int | None = None,
    close_windows: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Sent:
    """Sends each row of `source` as one event keyed by its user, and waits for the last receipt.

    `mapping`: a mapping file; None if `source` holds events of the data contract as JSON lines.
    `rate`: events per second; `speed`: so many times as fast as the event times tell.
    `close_windows`: ends with a heartbeat to each partition, which closes the last windows.
    `progress` is told how many were handed to Kafka since its last call.
    Raises InputError for the file or the mapping, ServiceError if Kafka refuses or is away.
    """
    if rate is not None and speed is not None:
        raise InputError("rate and speed exclude each other")
    for name, value in (("rate", rate), ("speed", speed)):
        if value is not None and not value > 0:
            raise InputError(f"{name} = {value}: must be above 0")
    topic = topic or settings.topics.events
    batches, translator = open_source(Path(source), mapping, limit)
    sender = Sender(settings, topic, progress or (lambda count: None))
    pace = Pace(rate, speed)
    last_ms: int | None = None
    started = time.monotonic()
    for batch in batches:
        events = translator.events(batch)
        sender.send(events, pace.due_s(events))
        last_ms = _latest(events, last_ms, settings.limits.max_clock_skew_ms)
    heartbeat_ms = None
    if close_windows and last_ms is not None:
        heartbeat_ms = closing_time_ms(last_ms, settings.window)
        allowed_ms = _now_ms() + settings.limits.max_clock_skew_ms - CLOCK_MARGIN_MS
        heartbeat_ms = min(heartbeat_ms, allowed_ms)
        sender.heartbeats(heartbeat_ms)
    sender.finish()
    return Sent(
        sender.sent,
        time.monotonic() - started,
        last_ms,
        0 if heartbeat_ms is None else len(sender.partitions),
        heartbeat_ms is not None and heartbeat_ms >= _needed_ms(last_ms, settings.window),
    )


def open_source(
    source: Path, mapping: Path | str | None, limit: int | None = None
) -> tuple[Iterator[pa.RecordBatch], Translator]:
    """The rows, in the order they are to be sent, and what makes events of them.

    Raises InputError for a mapping that does not fit the file.
    """
    translator: Translator
    if mapping is None:
        batches, translator = sources.read_lines(source), AsWritten()
    else:
        rules = read_mapping(mapping)
        translator = Mapped(rules, str(mapping), source)
        batches = _rows(source, rules, str(mapping))
        if rules.sort_by_time:
            batches = sources.in_order_of_time(batches, translator.times_ms)
    return (batches if limit is None else sources.limited(batches, limit)), translator


def rows_estimate(source: Path, mapping: Path | str | None) -> int:
    """How many rows a progress bar may expect. Raises InputError."""
    return sources.rows_estimate(source, read_mapping(mapping).format if mapping else "jsonl")


def _rows(source: Path, mapping: Mapping, name: str) -> Iterator[pa.RecordBatch]:
    names = sources.column_names(source, mapping)
    if names is None:
        return sources.read_lines(source)
    needed = mapping.file_columns()
    check_columns(needed, names, name, source)
    return sources.read_table(source, mapping, list(needed))


def _needed_ms(last_event_ms: int, window: WindowSettings) -> int:
    """What closes the window of the last event, whoever's it is."""
    staggered = last_event_ms + window.length_ms
    last_end_ms = staggered if window.stagger_ms else end_ms(last_event_ms, 0, window)
    return last_end_ms + window.out_of_orderness_ms


def closing_time_ms(last_event_ms: int, window: WindowSettings) -> int:
    """The event time of a heartbeat that closes the last event's window, and one window more."""
    return _needed_ms(last_event_ms, window) + window.length_ms


def _latest(events: Events, so_far: int | None, max_clock_skew_ms: int) -> int | None:
    # A time further ahead is rejected by the job and closes nothing.
    allowed_ms = _now_ms() + max_clock_skew_ms
    times = [ms for ms in events.times_ms if ms is not None and ms <= allowed_ms]
    if so_far is not None:
        times.append(so_far)
    return max(times, default=None)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class Pace:
    """When each event is due, in seconds since the first was sent."""

    def __init__(self, rate: float | None, speed: float | None):
        self._rate, self._speed = rate, speed
        self._count = 0
        self._first_ms: int | None = None
        self._due_s = 0.0

    def due_s(self, events: Events) -> np.ndarray | None:
        """(N,) ascending, or None: at once."""
        count = len(events.values)
        if self._rate is not None:
            self._count += count
            return np.arange(self._count - count, self._count) / self._rate
        if self._speed is None:
            return None
        times = np.array([np.nan if ms is None else ms for ms in events.times_ms], float)
        known = times[~np.isnan(times)]
        if self._first_ms is None and known.size:
            self._first_ms = int(known[0])
        # An event out of order, or without a time, goes with the one before it.
        wait_s = (np.nan_to_num(times, nan=-np.inf) - (self._first_ms or 0)) / 1_000 / self._speed
        due_s = np.maximum.accumulate(np.maximum(wait_s, self._due_s))
        self._due_s = float(due_s[-1])
        return due_s


class Sender:
    """A producer whose delivery errors end the replay with one line."""

    def __init__(self, settings: Settings, topic: str, progress: Callable[[int], None]):
        self._topic, self._progress = topic, progress
        self._errors: list[str] = []
        self._failed = 0
        self._started: float | None = None
        self.sent = 0
        self._producer = Producer(
            client_config(settings.kafka)
            | {
                # The Java clients' choice, so that a user stays in one partition whoever writes.
                "partitioner": "murmur2_random",
                "enable.idempotence": True,
                "compression.type": "lz4",
                "linger.ms": 20,
                "batch.size": 512 * 1024,
                "queue.buffering.max.messages": 200_000,
                "queue.buffering.max.kbytes": 131_072,
                "message.timeout.ms": DELIVERY_TIMEOUT_S * 1_000,
                "delivery.report.only.error": True,
            }
        )
        self.partitions = partitions(self._producer, settings.kafka, topic)

    def send(self, events: Events, due_s: np.ndarray | None) -> None:
        """Hands the events to the producer, each not before it is due."""
        if self._started is None:
            self._started = time.monotonic()
        count, at = len(events.values), 0
        while at < count:
            upto = count
            if due_s is not None:
                now_s = time.monotonic() - self._started
                upto = int(np.searchsorted(due_s, now_s, side="right"))
                if upto <= at:
                    self._poll(min(float(due_s[at]) - now_s, POLL_S))
                    continue
            for key, value in zip(events.keys[at:upto], events.values[at:upto], strict=True):
                self._produce(value, key)
            self.sent += upto - at
            self._progress(upto - at)
            self._poll(0)
            at = upto

    def heartbeats(self, time_ms: int) -> None:
        """One to each partition, behind everything sent before."""
        for partition in self.partitions:
            event = {
                "event_id": f"heartbeat-{time_ms}-{partition}",
                "event_type": "heartbeat",
                "event_time": time_ms,
            }
            self._produce(orjson.dumps(event), None, partition)

    def finish(self) -> None:
        """Waits for every receipt."""
        while self._producer.flush(1.0):
            self._check()
        self._check()

    def _produce(self, value: bytes, key: bytes | None, partition: int = -1) -> None:
        while True:
            try:
                self._producer.produce(
                    self._topic, value, key, partition, on_delivery=self._delivered
                )
                return
            except BufferError:  # full: the broker is slower than the file
                self._poll(POLL_S)
            except KafkaException as error:
                raise ServiceError(
                    f"Kafka refused event {self.sent} of {len(value)} bytes for {self._topic}:"
                    f" {error.args[0].str()}"
                ) from None

    def _poll(self, timeout_s: float) -> None:
        self._producer.poll(timeout_s)
        self._check()

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed += 1
            self._errors.append(error.str()) if not self._errors else None

    def _check(self) -> None:
        if self._errors:
            raise ServiceError(
                f"Kafka did not take {self._failed} of {self.sent} events for {self._topic}:"
                f" {self._errors[0]}"
            )
