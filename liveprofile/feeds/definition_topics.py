"""Definitions in force, rules or segments: those of a file, or of a topic once it has a record.

A record of the topic is one definition, keyed by its id (schemas/risk-rule.schema.json,
schemas/segment-definition.schema.json). A tombstone removes the definition. The topic is compacted,
so it keeps the newest version of each definition.

With a signing key, only signed records count, and none that was signed before the newest of them:
whoever can write to the topic can neither make a definition nor bring back an old one.

Two editors cannot overwrite each other: a writer is a transactional producer, and opening one
fences those that were opened before. So what a writer reads after it was opened stays as it is
until it writes, or its write fails with `DefinitionsChangedError`.
"""

import hashlib
import logging
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import orjson

from liveprofile.errors import InputError, LiveprofileError
from liveprofile.feeds.feed import Feed, TableSpec, TopicTable
from liveprofile.kafka import records as kafka_records
from liveprofile.kafka import topics
from liveprofile.kafka.records import Record
from liveprofile.resources import product_path
from liveprofile.rules.definition_kinds import (
    Definition,
    DefinitionKind,
    DefinitionProblem,
    DefinitionSet,
)
from liveprofile.rules.signing import DefinitionSigner, SignatureError
from liveprofile.segments.segments import SEGMENTS
from liveprofile.settings import Settings
from liveprofile.wire.user_records import to_rfc3339

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

    def __init__(
        self, kind: DefinitionKind[Any, Set], signer: DefinitionSigner | None = None
    ) -> None:
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

    def _verify(self, record: Record, name: str, position: str, signer: DefinitionSigner) -> None:
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


def definition_signer(settings: Settings, topic: str) -> DefinitionSigner | None:
    """Signs and verifies the records of the topic; None without a signing key."""
    key = settings.rules_signing_key
    return None if key is None else DefinitionSigner(key.get_secret_value(), topic)


def topic_of(settings: Settings, kind: DefinitionKind[Any, Any]) -> str:
    """The topic with the definitions in force. Raises KeyError for a kind without a topic."""
    return {"rules": settings.topics.rules, "segments": settings.topics.segments}[kind.name]


def file_of(settings: Settings, kind: DefinitionKind[Any, Any]) -> Path:
    """The file that counts while the topic has no records."""
    return {"rules": settings.rules, "segments": settings.segments}[kind.name]


def definitions_spec(
    settings: Settings, kind: DefinitionKind[Any, Set], signer: DefinitionSigner | None = None
) -> TableSpec[Set]:
    """signer: of the records; None: that of the settings."""
    topic = topic_of(settings, kind)
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
        new = table.value() if table.has_records else self._current.model_copy(update=table.sweep)
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


class DefinitionsChangedError(LiveprofileError):
    """Somebody else changed the definitions first. Exit code 1."""


class DefinitionChange(NamedTuple):
    """The change of one definition in its topic."""

    kind: Literal["added", "changed", "unchanged", "removed"]
    name: str
    definition: Definition | None  # the new one; None if it is removed

    def record(self, applied: dict[str, str]) -> bytes | None:
        """The value of the definition's record; None (a tombstone) removes the definition."""
        if self.definition is None:
            return None
        return orjson.dumps(self.definition.model_dump(mode="json") | applied)

    def as_json(self, kind_name: str) -> dict[str, object]:
        return {
            f"{kind_name}_id": self.name,
            "what": self.kind,
            "version": None if self.definition is None else self.definition.version,
        }


def plan_changes(topic: TopicDefinitions, file: Sequence[Definition]) -> list[DefinitionChange]:
    """Compares the file with the topic. A changed definition gets at least the next version.

    A definition whose newest record is invalid is written again: after compaction the topic may
    hold no other record of it.
    """
    in_topic = {known.id: known for known in topic.definitions}
    changes = []
    for definition in file:
        known = in_topic.pop(definition.id, None)
        if known is None:
            changes.append(DefinitionChange("added", definition.id, definition))
        elif (
            definition.model_copy(update={"version": known.version}) == known
            and definition.id not in topic.invalid_ids
        ):
            changes.append(DefinitionChange("unchanged", definition.id, known))
        else:
            version = max(known.version + 1, definition.version)
            new = definition.model_copy(update={"version": version})
            changes.append(DefinitionChange("changed", definition.id, new))
    kept = {APPLIED_KEY.decode(), *(definition.id for definition in file)}
    removed = in_topic.keys() | (topic.invalid_ids - kept)
    return changes + [DefinitionChange("removed", name, None) for name in sorted(removed)]


class InForce(NamedTuple):
    """The definitions that jobs use."""

    source: str  # "topic ..." or "file ..."
    definitions: Any  # a RuleSet or a SegmentSet
    tag: str  # changes with every change of the definitions or of their source


def read_in_force(settings: Settings, kind: DefinitionKind) -> InForce:
    """Reads the definitions that jobs use: those of the topic, or of the file while it has none.

    Raises ServiceError, and DefinitionsError for the file.
    """
    topic = read_definition_topic(settings, kind)
    if topic.has_records:
        name = topic_of(settings, kind)
        return InForce(f"topic {name}", topic.value(), tag_of(topic))
    path = product_path(file_of(settings, kind))
    return InForce(f"file {path}", kind.read_file(path), tag_of(topic))


def tag_of(topic: TopicDefinitions) -> str:
    """A digest of the topic's definitions. A file counts as long as the topic has no records."""
    if not topic.has_records:
        return "file"
    return _digest(topic.definitions, topic.invalid_ids)


def _digest(definitions: Iterable[Definition], invalid_ids: Iterable[str] = ()) -> str:
    """definitions: in order of their ids."""
    lines = [definition.model_dump_json() for definition in definitions]
    text = "\n".join([*lines, *sorted(invalid_ids)])
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


class Applied(NamedTuple):
    changes: list[DefinitionChange]
    tag: str  # of the definitions after the changes; before them in a dry run
    before: dict[str, Definition]  # the definitions before the changes, by id

    def audit(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """The changed definitions before and after, by id."""
        changed = [change for change in self.changes if change.kind != "unchanged"]
        before = {change.name: self.before.get(change.name) for change in changed}
        after = {change.name: change.definition for change in changed}
        return tuple(
            {name: each and each.model_dump(mode="json") for name, each in found.items()}
            for found in (before, after)
        )


def apply_definitions(
    settings: Settings,
    kind: DefinitionKind,
    definitions: Sequence[Definition],
    *,
    by: str,
    dry_run: bool = False,
    expected_tag: str | None = None,
) -> Applied:
    """Makes the topic equal to these valid definitions, all at once, or writes nothing.

    expected_tag: of the definitions that the editor has seen; None: any. It is not compared if
    nothing is to change, so that an apply may be repeated.
    Raises ServiceError, DefinitionsChangedError if the tag is another one or if another writer was
    faster.
    """
    topic_name = topic_of(settings, kind)
    changed = DefinitionsChangedError(
        f"the definitions of {topic_name} have changed since they were read: read them again"
    )
    topic = read_definition_topic(settings, kind)
    changes, tag = plan_changes(topic, definitions), tag_of(topic)
    is_equal = (
        topic.has_records
        and APPLIED_KEY.decode() not in topic.invalid_ids
        and all(change.kind == "unchanged" for change in changes)
    )
    if not (is_equal or dry_run):
        topics.create_topics(settings)
        try:
            with kafka_records.exclusive_writer(settings, topic_name) as send:
                topic = read_definition_topic(settings, kind)
                if expected_tag not in (None, tag_of(topic)):
                    raise changed
                changes = plan_changes(topic, definitions)
                send(signed_records(settings, topic_name, topic, _records(changes, by)))
        except kafka_records.WriterFencedError:
            raise changed from None
        new = [change.definition for change in changes if change.definition is not None]
        tag = _digest(sorted(new, key=lambda each: each.id))
    elif not is_equal and expected_tag not in (None, tag):
        raise changed
    return Applied(changes, tag, {definition.id: definition for definition in topic.definitions})


def _records(changes: Sequence[DefinitionChange], by: str) -> list[tuple[bytes, bytes | None]]:
    applied = {"applied_by": by, "applied_at": to_rfc3339(round(time.time() * 1_000))}
    written = (change for change in changes if change.kind != "unchanged")
    return [
        (APPLIED_KEY, orjson.dumps(applied)),
        *((change.name.encode(), change.record(applied)) for change in written),
    ]
