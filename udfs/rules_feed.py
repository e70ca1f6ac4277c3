"""The rules in force: those of the file, or of the topic risk-rules once it has a record.

A record of the topic is one rule (key: its id; value: schemas/risk-rule.schema.json), a tombstone
removes it. The topic is compacted, so it holds the newest version of each.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any, Protocol

from confluent_kafka import (
    OFFSET_BEGINNING,
    Consumer,
    KafkaError,
    KafkaException,
    TopicPartition,
)

from liveprofile.config import Settings
from liveprofile.errors import ServiceError
from liveprofile.kafka.connection import client_config
from liveprofile.kafka.records import Record
from liveprofile.kafka.topics import NoTopicError, partitions
from liveprofile.rules.rules import Problem, Rule, Rules, RulesError, read_rule

log = logging.getLogger(__name__)

POLL_S = 0.5
RETRY_S = 5.0
FIRST_READ_S = 20.0  # how long a worker waits for the topic before it goes on with the file's rules
CLOSE_S = 10.0  # a thread that hangs in Kafka's client is left to end with the process
FETCH_RECORDS = 1_000


class TopicRules:
    """The rules that a topic's records add up to."""

    def __init__(self) -> None:
        self._rules: dict[str, Rule] = {}
        self.unreadable: set[str] = set()  # ids whose newest record is no rule
        self.any_record = False
        self.broken = 0

    def take(self, records: Iterable[Record]) -> None:
        """A record that is no rule is counted and logged; the rule before it stays."""
        for record in records:
            self.any_record = True
            rule_id = (record.key or b"").decode("utf-8", "replace")
            try:
                self._take(record, rule_id)
                self.unreadable.discard(rule_id)
            except RulesError as error:
                self.broken += 1
                self.unreadable.add(rule_id)
                log.warning("%s; the record is ignored", error)

    def _take(self, record: Record, rule_id: str) -> None:
        if record.value is None:
            self._rules.pop(rule_id, None)
            return
        place = f"{record.topic}/{record.partition} offset {record.offset}"
        rule = read_rule(record.value, place)
        if rule.id != rule_id:
            raise RulesError(place, [Problem(rule.id, "id", f"the record's key is {rule_id!r}")])
        self._rules[rule_id] = rule

    def rules(self) -> Rules:
        """In order of id; their version is a digest, the same wherever they are read."""
        rules = tuple(self._rules[rule_id] for rule_id in sorted(self._rules))
        text = "\n".join(rule.model_dump_json() for rule in rules)
        return Rules(version=hashlib.sha256(text.encode()).hexdigest()[:12], rules=rules)


class RuleRecords(Protocol):
    """Where the records come from. Belongs to one thread."""

    caught_up: bool  # everything has been handed out that was there when it was opened

    def poll(self, timeout_s: float) -> list[Record]:
        """New records, after at most this long. Raises ServiceError or KafkaException."""

    def close(self) -> None: ...


class TopicRecords:
    """The topic from its beginning, then as it grows. Joins no group, commits nothing.

    Raises ServiceError if Kafka doesn't answer, NoTopicError if it has no such topic.
    """

    def __init__(self, settings: Settings):
        topic = settings.topics.rules
        self._topic = topic
        self._consumer = Consumer(
            client_config(settings.kafka)
            | {
                "group.id": "liveprofile-rules",
                "enable.auto.commit": False,
                "auto.offset.reset": "earliest",
                "enable.partition.eof": True,
            }
        )
        try:
            numbers = partitions(self._consumer, settings.kafka, topic)
            self._consumer.assign(
                [TopicPartition(topic, number, OFFSET_BEGINNING) for number in numbers]
            )
        except BaseException:
            self._consumer.close()
            raise
        self._behind = set(numbers)

    @property
    def caught_up(self) -> bool:
        return not self._behind

    def poll(self, timeout_s: float) -> list[Record]:
        records = []
        for message in self._consumer.consume(FETCH_RECORDS, timeout=timeout_s):
            error = message.error()
            if error is None:
                records.append(_record(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                self._behind.discard(message.partition())
            else:
                raise ServiceError(f"reading topic {self._topic}: {error.str()}")
        return records

    def close(self) -> None:
        self._consumer.close()


def _record(message: Any) -> Record:
    place = (message.topic(), message.partition(), message.offset())
    return Record(*place, message.timestamp()[1], message.key(), message.value(), {})


def read_topic_rules(settings: Settings) -> TopicRules:
    """What the topic says now; nothing if there is no such topic. Raises ServiceError."""
    found = TopicRules()
    try:
        with closing(TopicRecords(settings)) as source:
            while not source.caught_up:
                found.take(source.poll(POLL_S))
    except NoTopicError:
        pass
    except KafkaException as error:
        raise ServiceError(f"reading topic {settings.topics.rules}: {error}") from None
    return found


class RulesFeed:
    """The rules in force, as an immutable value that is asked for before each batch.

    file_rules: hold until the topic has a record, and where there is no topic or no source.
    open_source: called in a thread of its own, again after each failure; None: the file's rules
    hold for good. With a source the constructor returns once the topic has been read to its end, or
    after `first_read_s`. No failure of the source reaches the caller: it is logged, and the last
    rules stay in force.
    """

    def __init__(
        self,
        file_rules: Rules,
        open_source: Callable[[], RuleRecords] | None = None,
        *,
        poll_s: float = POLL_S,
        retry_s: float = RETRY_S,
        first_read_s: float = FIRST_READ_S,
    ):
        self._current = file_rules
        self._open_source = open_source
        self._poll_s, self._retry_s = poll_s, retry_s
        self._broken = 0
        self._complaint = ""
        self._first_read, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        if open_source is not None:
            self._thread = threading.Thread(target=self._run, name="risk-rules", daemon=True)
            self._thread.start()
            if not self._first_read.wait(first_read_s):
                log.warning("the rules' topic is not read yet: going on with the file's rules")

    def current(self) -> Rules:
        return self._current

    @property
    def broken(self) -> int:
        """Records of the topic that are no rules, since it was last read from its beginning."""
        return self._broken

    def close(self) -> None:
        """Ends the thread; `current` goes on answering."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(CLOSE_S)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    with closing(self._open_source()) as source:
                        self._follow(source)
                except (ServiceError, KafkaException) as error:
                    self._complain(str(error))
                self._first_read.set()
                self._stop.wait(self._retry_s)
        finally:
            self._first_read.set()
            if not self._stop.is_set():
                log.error("rules %s stay in force: nobody reads their topic", self._current.version)

    def _follow(self, source: RuleRecords) -> None:
        found, changed = TopicRules(), True
        while not self._stop.is_set():
            records = source.poll(self._poll_s)
            found.take(records)
            self._broken = found.broken
            changed |= bool(records)
            if changed and source.caught_up:
                if found.any_record:
                    self._put_in_force(found.rules())
                self._complaint, changed = "", False
                self._first_read.set()

    def _put_in_force(self, rules: Rules) -> None:
        if rules.version != self._current.version:
            log.info("rules %s in force: %s", rules.version, [rule.id for rule in rules.rules])
            self._current = rules

    def _complain(self, text: str) -> None:
        if text != self._complaint:  # once, not again at each try
            log.warning("%s; rules %s stay in force", text, self._current.version)
            self._complaint = text


def open_feed(settings: Settings, file_rules: Rules) -> RulesFeed:
    """The feed of a job: the file's rules, then the topic's."""
    return RulesFeed(file_rules, lambda: TopicRecords(settings))


def fixed_rules(settings: Settings, file_rules: Rules) -> RulesFeed:
    """In the place of `open_feed` where there is no Kafka."""
    return RulesFeed(file_rules)
