"""Counts the records of a topic by labels, from the start of the exporter on."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterable

import orjson
from confluent_kafka import Consumer, TopicPartition

from liveprofile.errors import ServiceError
from liveprofile.kafka.records import Record, open_consumer, to_record
from liveprofile.kafka.topics import query_ranges
from liveprofile.settings import Settings
from monitoring.catalogue import Readings

log = logging.getLogger(__name__)

Labels = tuple[str, ...]

# Prometheus keeps every label that it has ever seen. Who may write to the topic must not fill it.
MAX_SERIES = 300
OTHER = "other"
FETCH_RECORDS = 5_000
RETRY_S = 5.0


# The reasons of docs/data-contract.md. They are counted from 0 on, so that a rate over the first
# rejected record is seen.
_REASONS = """
    TOO_LARGE BAD_ENCODING NOT_JSON MISSING_FIELD BAD_ID UNKNOWN_TYPE BAD_TIME FUTURE_TIME
    BAD_NUMBER TOO_MANY NO_CONSENT ERASED SCORING_FAILED UNREADABLE BAD_FEEDBACK BAD_MAGIC
    BAD_BODY UNKNOWN_SCHEMA BAD_CLOUDEVENT
"""
REJECTION_REASONS = tuple(_REASONS.split())


class TopicCounter:
    """Follows a topic without a consumer group's offsets and counts its records.

    figure: the name in the catalogue. labels_of: the labels of a record. known: labels that are
    counted from 0 on, so that a rate over their first record is seen.
    """

    def __init__(
        self,
        settings: Settings,
        topic: str,
        figure: str,
        labels_of: Callable[[Record], Labels],
        known: Iterable[Labels] = (),
    ):
        self._settings, self._topic, self._figure = settings, topic, figure
        self._labels_of = labels_of
        self._counts: Counter[Labels] = Counter(dict.fromkeys(known, 0))
        self._next: dict[int, int] = {}  # offset by partition
        self._lock = threading.Lock()

    def count(self, record: Record) -> None:
        """Counts one record. With too many different labels, its labels are OTHER."""
        labels = self._labels_of(record)
        with self._lock:
            if labels not in self._counts and len(self._counts) >= MAX_SERIES:
                labels = (OTHER,) * len(labels)
            self._counts[labels] += 1
        self._next[record.partition] = record.offset + 1

    def add_to(self, readings: Readings) -> None:
        with self._lock:
            counts = dict(self._counts)
        for labels, count in sorted(counts.items()):
            readings.add(self._figure, count, *labels)

    def follow(self, stopping: threading.Event) -> None:
        """Counts new records until `stopping` is set. After an outage of Kafka it goes on."""
        failing = False
        while not stopping.is_set():
            try:
                with open_consumer(self._settings.kafka) as consumer:
                    self._assign(consumer)
                    if failing:
                        log.warning("topic %s can be read again", self._topic)
                    failing = False
                    self._consume(consumer, stopping)
            except ServiceError as error:
                if not failing:
                    log.warning("records of %s are not counted: %s", self._topic, error)
                failing = True
                stopping.wait(RETRY_S)

    def _assign(self, consumer: Consumer) -> None:
        """From the end at first; later from where it was, unless these records have expired."""
        ranges = query_ranges(consumer, self._settings.kafka, self._topic)
        self._next = {
            partition: min(max(self._next.get(partition, span.end), span.first), span.end)
            for partition, span in ranges.items()
        }
        consumer.assign([TopicPartition(self._topic, *start) for start in self._next.items()])

    def _consume(self, consumer: Consumer, stopping: threading.Event) -> None:
        while not stopping.is_set():
            for message in consumer.consume(FETCH_RECORDS, timeout=0.5):
                if message.error() is not None:
                    raise ServiceError(f"reading topic {self._topic}: {message.error()}")
                self.count(to_record(message))


def rejection_labels(record: Record) -> Labels:
    """The reason of a rejected record."""
    return (record.headers.get("reason", b"").decode("ascii", "replace")[:64] or OTHER,)


def alert_labels(record: Record) -> Labels:
    """Rule and severity of an alert; of one without a rule, such as drift, its type."""
    try:
        alert = orjson.loads(record.value or b"")
        data = alert["data"]
        rule, severity = data.get("rule_id") or alert["type"], data.get("severity") or OTHER
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        return (OTHER, OTHER)
    return (str(rule)[:128], str(severity)[:64])
