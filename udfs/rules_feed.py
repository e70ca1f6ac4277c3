"""The rules in force: those of the rules file, or of the topic risk-rules once it has a record.

A record of the topic is one rule (key: its id; value: schemas/risk-rule.schema.json). A tombstone
removes the rule. The topic is compacted, so it keeps the newest version of each rule.

With a signing key, only signed records count, and none that was signed before the newest of them:
whoever can write to the topic can neither make a rule nor bring back an old one.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Protocol

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
from liveprofile.kafka.records import Record, to_record
from liveprofile.kafka.topics import NoTopicError, partitions
from liveprofile.rules.rules import Rule, RuleProblem, RulesError, RuleSet, read_rule
from liveprofile.rules.signature import RuleSigner, SignatureError

log = logging.getLogger(__name__)

POLL_TIMEOUT_S = 0.5
RETRY_S = 5.0
FIRST_READ_TIMEOUT_S = 20.0  # then a worker starts with the rules of the file
JOIN_TIMEOUT_S = 10.0  # a thread that hangs in the Kafka client ends with the process
FETCH_RECORDS = 1_000


# The key of a record that every `rules apply` writes. Compaction keeps it when it has dropped the
# removed rules, so an emptied rule set stays empty.
APPLIED_KEY = b"*"


class TopicRules:
    """The rules that result from the records of the topic.

    signer: verifies the records; None accepts every record.
    """

    def __init__(self, signer: RuleSigner | None = None) -> None:
        self._signer = signer
        self._rules: dict[str, Rule] = {}
        self.invalid_ids: set[str] = set()  # keys whose newest record is invalid
        self.has_records = False  # refused records do not count
        self.invalid_records = 0
        self.signed_ms = 0  # the newest signing time

    def apply(self, records: Iterable[Record]) -> None:
        """Applies records in order. An invalid record is counted, logged and skipped: the rule's
        version before it stays."""
        for record in records:
            rule_id = (record.key or b"").decode("utf-8", "replace")
            try:
                self._apply(record, rule_id)
                self.invalid_ids.discard(rule_id)
            except RulesError as error:
                self.invalid_records += 1
                self.invalid_ids.add(rule_id)
                log.warning("%s; the record is ignored", error)

    def _apply(self, record: Record, rule_id: str) -> None:
        position = f"{record.topic}/{record.partition} offset {record.offset}"
        if self._signer is not None:
            self._verify(record, rule_id, position, self._signer)
        self.has_records = True
        if record.key == APPLIED_KEY:
            return
        if record.value is None:
            self._rules.pop(rule_id, None)
            return
        rule = read_rule(record.value, position)
        if rule.id != rule_id:
            problem = RuleProblem(rule.id, "id", f"the record's key is {rule_id!r}")
            raise RulesError(position, [problem])
        self._rules[rule_id] = rule

    def _verify(self, record: Record, rule_id: str, position: str, signer: RuleSigner) -> None:
        """Raises RulesError.

        The signing time must not go back in the whole topic, not only for the rule: compaction
        drops the record that removed a rule, and with it the time of the removal.
        """
        try:
            signed_ms = signer.verify(record.key or b"", record.value, record.headers)
            if signed_ms < self.signed_ms:
                raise SignatureError("it was signed before the records in force: an old copy?")
        except SignatureError as error:
            problem = RuleProblem(rule_id, "signature", str(error))
            raise RulesError(position, [problem]) from None
        self.signed_ms = signed_ms

    def rules(self) -> RuleSet:
        """Returns the rules in order of their ids. The version is a digest of the rules."""
        rules = tuple(self._rules[rule_id] for rule_id in sorted(self._rules))
        text = "\n".join(rule.model_dump_json() for rule in rules)
        return RuleSet(version=hashlib.sha256(text.encode()).hexdigest()[:12], rules=rules)


class RulesSource(Protocol):
    """Where the records come from. Used by one thread only."""

    caught_up: bool  # all records that existed when the source was opened have been returned

    def poll(self, timeout_s: float) -> list[Record]:
        """Returns new records, waiting at most `timeout_s`.

        Raises ServiceError or KafkaException.
        """

    def close(self) -> None: ...


class RulesTopicSource:
    """Reads the topic from its beginning and follows it, without a consumer group or commits.

    Raises ServiceError if Kafka does not answer, NoTopicError if the topic does not exist.
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
                records.append(to_record(message))
            elif error.code() == KafkaError._PARTITION_EOF:
                self._behind.discard(message.partition())
            else:
                raise ServiceError(f"reading topic {self._topic}: {error.str()}")
        return records

    def close(self) -> None:
        self._consumer.close()


def rule_signer(settings: Settings) -> RuleSigner | None:
    """Signs and verifies the records of the topic; None without a signing key."""
    key = settings.rules_signing_key
    return None if key is None else RuleSigner(key.get_secret_value(), settings.topics.rules)


def read_topic_rules(settings: Settings) -> TopicRules:
    """Reads the topic once to its end. Returns no rules if it does not exist.

    Raises ServiceError.
    """
    topic_rules = TopicRules(rule_signer(settings))
    try:
        with closing(RulesTopicSource(settings)) as source:
            while not source.caught_up:
                topic_rules.apply(source.poll(POLL_TIMEOUT_S))
    except NoTopicError:
        pass
    except KafkaException as error:
        raise ServiceError(f"reading topic {settings.topics.rules}: {error}") from None
    return topic_rules


class RulesFeed:
    """Keeps the rules in force up to date in a thread of its own.

    file_rules: in force until the topic has a record, and if it does not exist or is not read.
    open_source: called in the feed's thread, again after each failure. None: `file_rules` stay in
    force.
    signer: verifies the records; None accepts every record.

    With a source, the constructor returns when the topic has been read to its end, or after
    `first_read_timeout_s`. Failures of the source are logged, never raised: the last rules stay in
    force.
    """

    def __init__(
        self,
        file_rules: RuleSet,
        open_source: Callable[[], RulesSource] | None = None,
        *,
        signer: RuleSigner | None = None,
        poll_timeout_s: float = POLL_TIMEOUT_S,
        retry_s: float = RETRY_S,
        first_read_timeout_s: float = FIRST_READ_TIMEOUT_S,
    ):
        self._current = file_rules
        self._open_source, self._signer = open_source, signer
        self._poll_timeout_s, self._retry_s = poll_timeout_s, retry_s
        self._invalid_records = 0
        self._signed_ms = 0  # when the rules in force were signed
        self._last_warning = ""
        self._first_read, self._stop = threading.Event(), threading.Event()
        self._thread: threading.Thread | None = None
        if open_source is not None:
            self._thread = threading.Thread(target=self._run, name="risk-rules", daemon=True)
            self._thread.start()
            if not self._first_read.wait(first_read_timeout_s):
                log.warning("the rules topic is not read yet: starting with the rules of the file")

    def current(self) -> RuleSet:
        """Returns the rules in force, an immutable value."""
        return self._current

    @property
    def invalid_records(self) -> int:
        """Invalid records of the topic since it was last read from its beginning."""
        return self._invalid_records

    def close(self) -> None:
        """Ends the thread. `current` still works afterwards."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(JOIN_TIMEOUT_S)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    with closing(self._open_source()) as source:
                        self._follow(source)
                except (ServiceError, KafkaException) as error:
                    self._warn_once(str(error))
                self._first_read.set()
                self._stop.wait(self._retry_s)
        finally:
            self._first_read.set()
            if not self._stop.is_set():
                log.error(
                    "the thread that reads the rules topic has failed; rules %s stay in force",
                    self._current.version,
                )

    def _follow(self, source: RulesSource) -> None:
        topic_rules, changed = TopicRules(self._signer), True
        while not self._stop.is_set():
            records = source.poll(self._poll_timeout_s)
            topic_rules.apply(records)
            self._invalid_records = topic_rules.invalid_records
            changed |= bool(records)
            if changed and source.caught_up:
                if topic_rules.has_records:
                    self._set_current(topic_rules)
                self._last_warning, changed = "", False
                self._first_read.set()

    def _set_current(self, topic_rules: TopicRules) -> None:
        if topic_rules.signed_ms < self._signed_ms:
            self._warn_once("the topic lacks the records that were signed last")
            return
        rules, self._signed_ms = topic_rules.rules(), topic_rules.signed_ms
        if rules.version != self._current.version:
            log.info("rules %s in force: %s", rules.version, [rule.id for rule in rules.rules])
            self._current = rules

    def _warn_once(self, text: str) -> None:
        """Logs a failure, but not again at each retry."""
        if text != self._last_warning:
            log.warning("%s; rules %s stay in force", text, self._current.version)
            self._last_warning = text


def open_rules_feed(settings: Settings, file_rules: RuleSet) -> RulesFeed:
    """Opens the feed of a job: the rules of the file, then those of the topic."""
    return RulesFeed(file_rules, lambda: RulesTopicSource(settings), signer=rule_signer(settings))


def open_fixed_rules_feed(settings: Settings, file_rules: RuleSet) -> RulesFeed:
    """Replaces `open_rules_feed` where there is no Kafka: the rules of the file only."""
    return RulesFeed(file_rules)
