"""Definitions in force, rules or segments: those of a file, or of a topic once it has a record.

A record of the topic is one definition, keyed by its id. A tombstone removes the definition. The
topic is compacted, so it keeps the newest version of each definition.

With a signing key, only signed records count, and none that was signed before the newest of them:
whoever can write to the topic can neither make a definition nor bring back an old one.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar, Generic, TypeVar

from liveprofile.kafka import records as kafka_records
from liveprofile.kafka.records import Record
from liveprofile.rules.definitions import (
    Definition,
    DefinitionProblem,
    DefinitionsError,
    DefinitionSet,
    RuleSigner,
    SignatureError,
)
from liveprofile.settings import Settings
from udfs.topic_follower import KafkaTopicSource, TopicFollower, TopicSource, read_to_end

log = logging.getLogger(__name__)

Kind = TypeVar("Kind", bound=Definition)
Set = TypeVar("Set", bound=DefinitionSet)
Topic = TypeVar("Topic", bound="TopicDefinitions")

# The key of a record that every `apply` writes. Compaction keeps it when it has dropped the removed
# definitions, so an emptied set stays empty.
APPLIED_KEY = b"*"


class TopicDefinitions(ABC, Generic[Kind, Set]):
    """The definitions that result from the records of a topic.

    signer: verifies the records; None accepts every record.
    """

    def __init__(self, signer: RuleSigner | None = None) -> None:
        self._signer = signer
        self._definitions: dict[str, Kind] = {}
        self.invalid_ids: set[str] = set()  # keys whose newest record is invalid
        self.has_records = False  # refused records do not count
        self.invalid_records = 0
        self.signed_ms = 0  # the newest signing time

    error: ClassVar[type[DefinitionsError]]

    @abstractmethod
    def _read(self, value: bytes, position: str) -> Kind:
        """Reads the definition of a record. Raises `error`."""

    @abstractmethod
    def in_force(self) -> Set:
        """Returns the definitions in order of their ids. The version is a digest of them."""

    def _is_control(self, record: Record) -> bool:
        """Whether the record is no definition; the method keeps what it says. Raises `error`."""
        return False

    @property
    def definitions(self) -> list[Kind]:
        """The definitions in order of their ids."""
        return [self._definitions[name] for name in sorted(self._definitions)]

    def apply(self, records: Iterable[Record]) -> None:
        """Applies records in order. An invalid record is counted, logged and skipped: the
        definition's version before it stays."""
        for record in records:
            name = (record.key or b"").decode("utf-8", "replace")
            try:
                self._apply(record, name)
                self.invalid_ids.discard(name)
            except DefinitionsError as error:
                self.invalid_records += 1
                self.invalid_ids.add(name)
                log.warning("%s; the record is ignored", error)

    def _apply(self, record: Record, name: str) -> None:
        position = f"{record.topic}/{record.partition} offset {record.offset}"
        if self._signer is not None:
            self._verify(record, name, position, self._signer)
        if self._is_control(record):
            return
        self.has_records = True
        if record.key == APPLIED_KEY:
            return
        if record.value is None:
            self._definitions.pop(name, None)
            return
        definition = self._read(record.value, position)
        if definition.id != name:
            problem = DefinitionProblem(definition.id, "id", f"the record's key is {name!r}")
            raise self.error(position, [problem])
        self._definitions[name] = definition

    def _verify(self, record: Record, name: str, position: str, signer: RuleSigner) -> None:
        """Raises `error`.

        The signing time must not go back in the whole topic, not only for the definition:
        compaction drops the record that removed one, and with it the time of the removal.
        """
        try:
            signed_ms = signer.verify(record.key or b"", record.value, record.headers)
            if signed_ms < self.signed_ms:
                raise SignatureError("it was signed before the records in force: an old copy?")
        except SignatureError as error:
            problem = DefinitionProblem(name, "signature", str(error))
            raise self.error(position, [problem]) from None
        self.signed_ms = signed_ms


def open_definition_source(settings: Settings, topic: str) -> TopicSource:
    """Reads the topic from its beginning. Raises like KafkaTopicSource."""
    return KafkaTopicSource(settings, topic, "liveprofile-rules")


def definition_signer(settings: Settings, topic: str) -> RuleSigner | None:
    """Signs and verifies the records of the topic; None without a signing key."""
    key = settings.rules_signing_key
    return None if key is None else RuleSigner(key.get_secret_value(), topic)


def read_definitions(settings: Settings, topic: str, definitions: Topic) -> Topic:
    """Reads the topic once to its end into `definitions` and returns them.

    It stays empty if the topic does not exist. Raises ServiceError.
    """
    read_to_end(topic, lambda: open_definition_source(settings, topic), definitions.apply)
    return definitions


def signed_records(
    settings: Settings,
    topic_name: str,
    topic: TopicDefinitions,
    records: Iterable[tuple[bytes, bytes | None]],
) -> list[tuple[bytes, bytes | None, dict[str, str]]]:
    """(key, value) records with the headers of their signatures, if there is a signing key.

    topic: its present records.
    """
    signer = definition_signer(settings, topic_name)
    # Readers refuse a record that was signed before the newest one; this clock may be behind.
    signed_ms = max(int(time.time() * 1_000), topic.signed_ms + 1)
    return [
        (key, value, {} if signer is None else signer.headers(key, value, signed_ms))
        for key, value in records
    ]


def send_records(
    settings: Settings,
    topic_name: str,
    topic: TopicDefinitions,
    records: Iterable[tuple[bytes, bytes | None]],
) -> None:
    """Writes (key, value) records to the topic, signed if there is a signing key.

    topic: its present records. Raises ServiceError.
    """
    signed = signed_records(settings, topic_name, topic, records)
    kafka_records.send_all(settings, topic_name, signed)


class DefinitionFeed(ABC, Generic[Set]):
    """Keeps the definitions in force up to date in a thread of its own.

    from_file: in force until the topic has a record, and if it does not exist or is not read.
    open_source: called in the feed's thread, again after each failure. None: `from_file` stays in
    force.
    signer: verifies the records; None accepts every record.
    timing: keyword arguments of TopicFollower.

    Failures of the source are logged, never raised: the last definitions stay in force.
    """

    noun: ClassVar[str]  # such as "rules", for messages
    new_topic: ClassVar[Callable[[RuleSigner | None], TopicDefinitions]]

    def __init__(
        self,
        from_file: Set,
        open_source: Callable[[], TopicSource] | None = None,
        *,
        signer: RuleSigner | None = None,
        **timing: float,
    ):
        self._current, self._signer = from_file, signer
        self._invalid_records = 0
        self._signed_ms = 0  # when the definitions in force were signed
        self._follower: TopicFollower | None = None
        if open_source is not None:
            self._follower = TopicFollower(
                self.noun,
                self.noun,
                open_source,
                lambda: _FeedReader(self, type(self).new_topic(signer)),
                lambda: f"{self.noun} {self._current.version} stay",
                **timing,
            )

    def current(self) -> Set:
        """Returns the definitions in force, an immutable value."""
        return self._current

    @property
    def invalid_records(self) -> int:
        """Invalid records of the topic since it was last read from its beginning."""
        return self._invalid_records

    def close(self) -> None:
        """Ends the thread. `current` still works afterwards."""
        if self._follower is not None:
            self._follower.close()

    def _set_current(self, topic: TopicDefinitions) -> str:
        """Returns the reason if the definitions stay as they are, else ""."""
        if topic.signed_ms < self._signed_ms:
            lacking = "the topic lacks the records that were signed last"
            return lacking if topic.has_records else ""
        new, self._signed_ms = self._in_force(topic), topic.signed_ms
        if new != self._current:
            names = [definition.id for definition in topic.definitions]
            log.info("%s %s in force: %s", self.noun, new.version, names)
            self._current = new
        return ""

    def _in_force(self, topic: TopicDefinitions) -> Set:
        """Returns the definitions of the topic, or the present ones while it has none."""
        return topic.in_force() if topic.has_records else self._current


class _FeedReader:
    """Puts the definitions of one pass over the topic in force."""

    def __init__(self, feed: DefinitionFeed, topic: TopicDefinitions):
        self._feed, self._topic = feed, topic

    def take(self, records: list[Record]) -> None:
        self._topic.apply(records)
        self._feed._invalid_records = self._topic.invalid_records

    def publish(self) -> str:
        return self._feed._set_current(self._topic)
