"""Definitions in force, rules or segments: those of a file, or of a topic once it has a record.

A record of the topic is one definition, keyed by its id (schemas/risk-rule.schema.json,
schemas/segment-definition.schema.json). A tombstone removes the definition. The topic is compacted,
so it keeps the newest version of each definition.

With a signing key, only signed records count, and none that was signed before the newest of them:
whoever can write to the topic can neither make a definition nor bring back an old one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from typing import Any, Generic, TypeVar

import orjson

from liveprofile.errors import InputError
from liveprofile.feeds.feed import Feed, TableSpec, TopicTable
from liveprofile.kafka import records as kafka_records
from liveprofile.kafka.records import Record
from liveprofile.rules.definitions import (
    Definition,
    DefinitionKind,
    DefinitionProblem,
    DefinitionSet,
    RuleSigner,
    SignatureError,
)
from liveprofile.segments.definitions import SEGMENTS
from liveprofile.settings import Settings

log = logging.getLogger(__name__)

Set = TypeVar("Set", bound=DefinitionSet)

GROUP = "liveprofile-rules"
# The key of a record that every `apply` writes. Compaction keeps it when it has dropped the removed
# definitions, so an emptied set stays empty.
APPLIED_KEY = b"*"
# A record with this key is no definition: it tells workers that a sweep changes memberships beside
# them (offline/sweep.py).
SWEEP_KEY = b"*sweep"


class TopicDefinitions(TopicTable[Set], Generic[Set]):
    """The definitions that result from the records of a topic, and the sweep that it announces.

    signer: verifies the records; None accepts every record. The version before an invalid record
    stays.
    """

    def __init__(self, kind: DefinitionKind[Any, Set], signer: RuleSigner | None = None) -> None:
        self._kind, self._signer = kind, signer
        self._definitions: dict[str, Definition] = {}
        # Fields of a set of segments.
        self.sweep = {"sweep": "", "sweeping": False} if kind is SEGMENTS else {}
        self.invalid_ids: set[str] = set()  # keys whose newest record is invalid
        self.has_records = False  # refused records do not count
        self.invalid_records = 0
        self.signed_ms = 0  # the newest signing time

    @property
    def definitions(self) -> list[Definition]:
        """The definitions in order of their ids."""
        return [self._definitions[name] for name in sorted(self._definitions)]

    def value(self) -> Set:
        """Definitions that are not valid together, such as circles, are left out."""
        found, faults = self._kind.valid_set(self.definitions)
        for fault in faults:
            name = f"{self._kind.error.kind} {fault.name}"
            log.warning("%s: %s; it is not evaluated", name, fault.reason)
        return found.model_copy(update=self.sweep)

    def put(self, record: Record) -> None:
        name, position = _name(record), f"{record.topic}/{record.partition} offset {record.offset}"
        if self._signer is not None:
            self._verify(record, name, position, self._signer)
        if record.key == SWEEP_KEY and self._kind is SEGMENTS:
            self._put_sweep(record, position)
        else:
            self.has_records = True
            if record.key != APPLIED_KEY:
                self._put_definition(record, name, position)
        self.invalid_ids.discard(name)

    def _put_sweep(self, record: Record, position: str) -> None:
        try:
            value = orjson.loads(record.value or b'{"sweep": "", "sweeping": false}')
            self.sweep = {"sweep": str(value["sweep"]), "sweeping": bool(value["sweeping"])}
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            problem = DefinitionProblem(SWEEP_KEY.decode(), "JSON", str(error))
            raise self._kind.error(position, [problem]) from None

    def _put_definition(self, record: Record, name: str, position: str) -> None:
        if record.value is None:
            self._definitions.pop(name, None)
            return
        definition = self._kind.read_record(record.value, position)
        if definition.id != name:
            problem = DefinitionProblem(definition.id, "id", f"the record's key is {name!r}")
            raise self._kind.error(position, [problem])
        self._definitions[name] = definition

    def refuse(self, record: Record, error: InputError) -> None:
        self.invalid_records += 1
        self.invalid_ids.add(_name(record))
        log.warning("%s; the record is ignored", error)

    def _verify(self, record: Record, name: str, position: str, signer: RuleSigner) -> None:
        """Raises the kind's error.

        The signing time must not go back in the whole topic, not only for the definition:
        compaction drops the record that removed one, and with it the time of the removal.
        """
        try:
            signed_ms = signer.verify(record.key or b"", record.value, record.headers)
            if signed_ms < self.signed_ms:
                raise SignatureError("it was signed before the records in force: an old copy?")
        except SignatureError as error:
            problem = DefinitionProblem(name, "signature", str(error))
            raise self._kind.error(position, [problem]) from None
        self.signed_ms = signed_ms


def _name(record: Record) -> str:
    return (record.key or b"").decode("utf-8", "replace")


def definition_signer(settings: Settings, topic: str) -> RuleSigner | None:
    """Signs and verifies the records of the topic; None without a signing key."""
    key = settings.rules_signing_key
    return None if key is None else RuleSigner(key.get_secret_value(), topic)


def definitions_spec(
    settings: Settings, kind: DefinitionKind[Any, Set], signer: RuleSigner | None = None
) -> TableSpec[Set]:
    """signer: of the records; None: that of the settings."""
    topic = getattr(settings.topics, kind.name)
    signer = signer or definition_signer(settings, topic)
    return TableSpec(
        kind.name,
        topic,
        GROUP,
        lambda: TopicDefinitions(kind, signer),
        lambda found: f"{kind.name} {found.version} stay",
        first_read_timeout_s=20.0,  # then a worker starts with the file
        required=False,
    )


class DefinitionFeed(Feed[Set]):
    """Keeps the definitions in force up to date.

    For the arguments see Feed; initial: the definitions of the file, in force until the topic has a
    record.
    """

    invalid_records = 0  # of the topic since it was last read from its beginning
    _signed_ms = 0  # when the definitions in force were signed

    def _publish(self, table: TopicDefinitions) -> str:
        self.invalid_records = table.invalid_records
        if table.signed_ms < self._signed_ms:
            lacking = "the topic lacks the records that were signed last"
            return lacking if table.has_records else ""
        new = table.value() if table.has_records else self._current
        new = new.model_copy(update=table.sweep)
        self._signed_ms = table.signed_ms
        if new != self._current:
            names = [definition.id for definition in table.definitions]
            log.info("%s %s in force: %s", self._spec.noun, new.version, names)
            self._current = new
        return ""


def follow_definitions(
    settings: Settings, kind: DefinitionKind[Any, Set], from_file: Set
) -> DefinitionFeed[Set]:
    """The feed of a job: the definitions of the file, then those of the topic."""
    spec = definitions_spec(settings, kind)
    return DefinitionFeed(spec, from_file, lambda: spec.open(settings))


def read_definition_topic(
    settings: Settings, kind: DefinitionKind[Any, Set]
) -> TopicDefinitions[Set]:
    """Reads the topic once to its end. It is empty if it does not exist. Raises ServiceError."""
    return definitions_spec(settings, kind).read(settings)


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


def announce_sweep(settings: Settings, sweep: str, sweeping: bool) -> None:
    """Tells workers that a sweep begins or has ended. Raises ServiceError."""
    topic = settings.topics.segments
    record = SWEEP_KEY, orjson.dumps({"sweep": sweep, "sweeping": sweeping})
    signed = signed_records(settings, topic, read_definition_topic(settings, SEGMENTS), [record])
    kafka_records.send_all(settings, topic, signed)
