"""One reader of compacted topics: the table of a topic, read once or followed in a thread.

A table is what the newest record of each key says. Consents, erasures, merges, rules, segments and
user models are each a `TopicTable`, and a `TableSpec` says which topic it is of.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import closing, suppress
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from confluent_kafka import KafkaException

from liveprofile.errors import InputError, ServiceError
from liveprofile.kafka.records import Record
from liveprofile.kafka.tail import TopicTail
from liveprofile.kafka.topics import NoTopicError
from liveprofile.settings import Settings

log = logging.getLogger(__name__)

POLL_TIMEOUT_S = 0.5
RETRY_S = 5.0
LONG_READ = 10  # times the spec's time, if nothing fails: the topic is large
JOIN_TIMEOUT_S = 10.0  # a thread that hangs in the Kafka client ends with the process
PARTITIONS_CHECK_S = 10.0  # partitions may be added while the topic is followed

Value = TypeVar("Value")
ValueOut = TypeVar("ValueOut", covariant=True)


class TopicTable(ABC, Generic[Value]):
    """What the records of a topic amount to, read from its beginning. Used by one thread only."""

    def apply(self, records: list[Record]) -> None:
        """Applies records in order. One that is invalid is refused."""
        for record in records:
            try:
                self.put(record)
            except InputError as error:
                self.refuse(record, error)

    @abstractmethod
    def put(self, record: Record) -> None:
        """Applies a record. Raises InputError if it is invalid; then it has changed nothing."""

    @abstractmethod
    def refuse(self, record: Record, error: InputError) -> None:
        """Notes an invalid record."""

    @abstractmethod
    def value(self) -> Value:
        """What readers get: a value that later records do not make inconsistent."""

    def check_whole(self) -> None:
        """Raises ServiceError if the topic is known to have lost records."""


OpenSource = Callable[[], TopicTail]


class TableSpec(NamedTuple, Generic[Value]):
    """A topic, and the table that its records make."""

    noun: str  # such as "consents", for messages
    topic: str
    group: str  # of Kafka
    new: Callable[[], TopicTable[Value]]
    stays: Callable[[Value], str]  # what stays in force when the topic fails, for messages
    first_read_timeout_s: float = 60.0
    required: bool = True  # to start without the table would ignore what users have decided

    def open(self, settings: Settings) -> TopicTail:
        """Reads the topic from its beginning. Raises ServiceError, NoTopicError."""
        check_s = PARTITIONS_CHECK_S
        return TopicTail(settings, self.topic, self.group, partitions_check_s=check_s)

    def read(self, settings: Settings) -> TopicTable[Value]:
        """Reads the topic once to its end. Raises ServiceError."""
        with closing(TableTail(settings, self)) as tail:
            return tail.read()


class TableTail(Generic[Value]):
    """A table that its owner reads on. Raises ServiceError.

    Without the topic it is as empty as a topic without records.
    """

    def __init__(self, settings: Settings, spec: TableSpec[Value]):
        self._table, self._topic = spec.new(), spec.topic
        self._tail: TopicTail | None = None
        with suppress(NoTopicError):
            self._tail = spec.open(settings)

    def read(self) -> TopicTable[Value]:
        """The table up to the present end of the topic. Raises ServiceError."""
        try:
            if self._tail is not None:
                self._table.apply(self._tail.read_on())
        except KafkaException as error:
            raise ServiceError(f"reading topic {self._topic}: {error}") from None
        self._table.check_whole()
        return self._table

    def close(self) -> None:
        if self._tail is not None:
            self._tail.close()


class Current(Protocol[ValueOut]):
    """A value that may change at any time."""

    def current(self) -> ValueOut:
        """The value in force."""

    def close(self) -> None: ...


class Fixed(Generic[Value]):
    """A value that stays, where there is no Kafka."""

    def __init__(self, value: Value):
        self._value = value

    def current(self) -> Value:
        return self._value

    def close(self) -> None:
        """Does nothing."""


class Feed(Generic[Value]):
    """Keeps the value of a topic's table up to date in a thread of its own.

    The value is as new as the topic was a moment ago: a window is scored at least
    `window.out_of_orderness_ms` after its events, which is longer than a record needs to get here.

    initial: in force until the topic has been read, and if it does not exist.
    open_source: called in the thread, again after each failure.

    The constructor returns when the topic has been read to its end. If this fails within the spec's
    time, or takes LONG_READ times as long, it raises ServiceError where the table is required; else
    `initial` is in force, and a source that fails is not waited for. The last value stays in force
    while a source fails later, which is logged.
    """

    def __init__(
        self,
        spec: TableSpec[Value],
        initial: Value,
        open_source: OpenSource,
        *,
        poll_timeout_s: float = POLL_TIMEOUT_S,
        retry_s: float = RETRY_S,
        first_read_timeout_s: float | None = None,
    ):
        self._spec, self._current = spec, initial
        self._poll_timeout_s, self._retry_s = poll_timeout_s, retry_s
        self._last_warning, self._has_failed = "", False
        self._is_read, self._is_tried = threading.Event(), threading.Event()
        self._stop = threading.Event()
        self._open_source = open_source
        self._thread = threading.Thread(target=self._run, name=spec.noun, daemon=True)
        self._thread.start()
        timeout_s = first_read_timeout_s or spec.first_read_timeout_s
        # A broker that restarts is back soon; a task that fails at once would only restart as well.
        is_read = spec.required and self._is_read.wait(timeout_s)
        if spec.required and not is_read and not self._last_warning:
            is_read = self._is_read.wait((LONG_READ - 1) * timeout_s)
        if spec.required and not is_read:
            self.close()
            raise ServiceError(
                f"topic {spec.topic} cannot be read: the job does not start without the"
                f" {spec.noun} of users. {self._last_warning}"
            )
        if not spec.required and not self._is_tried.wait(timeout_s):
            log.warning("topic %s is not read yet: %s", spec.topic, spec.stays(initial))

    def current(self) -> Value:
        """The value in force.

        Raises ServiceError if a required table is no longer followed: the task restarts, and reads
        what users have decided since.
        """
        if self._has_failed and self._spec.required:
            raise ServiceError(f"the thread that reads the {self._spec.noun} topic has failed")
        return self._current

    def close(self) -> None:
        """Ends the thread. `current` still works afterwards."""
        self._stop.set()
        self._thread.join(JOIN_TIMEOUT_S)

    def _publish(self, table: TopicTable[Any]) -> str:
        """Puts what has been read in force: when all records have been applied, and after later
        ones. Returns a problem to warn of, "" if there is none."""
        self._current = table.value()
        return ""

    def _warn_once(self, text: str) -> None:
        """Logs a failure, but not again at each retry."""
        if text != self._last_warning:
            log.warning("%s; %s in force", text, self._spec.stays(self._current))
            self._last_warning = text

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    with closing(self._open_source()) as source:
                        self._follow(source)
                except (ServiceError, KafkaException) as error:
                    self._warn_once(str(error))
                self._is_tried.set()
                self._stop.wait(self._retry_s)
        finally:
            self._is_tried.set()
            if not self._stop.is_set():
                self._has_failed = True
                log.error(
                    "the thread that reads the %s topic has failed; %s in force",
                    self._spec.noun,
                    self._spec.stays(self._current),
                )

    def _follow(self, source: TopicTail) -> None:
        table, changed = self._spec.new(), True
        while not self._stop.is_set():
            records = source.poll(self._poll_timeout_s)
            table.apply(records)
            changed |= bool(records)
            if changed and source.caught_up:
                table.check_whole()
                self._last_warning, changed = "", False
                if problem := self._publish(table):
                    self._warn_once(problem)
                self._is_read.set()
                self._is_tried.set()
