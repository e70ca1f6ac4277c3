"""Changes of the definitions in force, rules or segments: what commands and the read API share.

Two editors cannot overwrite each other: a writer is a transactional producer, and opening one
fences those that were opened before. So what a writer reads after it was opened stays as it is
until it writes, or its write fails with `DefinitionsChangedError`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple

import orjson

from liveprofile.errors import LiveprofileError
from liveprofile.feeds import definitions as feeds
from liveprofile.feeds.definitions import APPLIED_KEY, TopicDefinitions, signed_records
from liveprofile.kafka import records as kafka_records
from liveprofile.kafka import topics
from liveprofile.resources import product_path
from liveprofile.rules.definitions import Definition, DefinitionKind
from liveprofile.settings import Settings


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
    topic = feeds.read_definition_topic(settings, kind)
    if topic.has_records:
        name = getattr(settings.topics, kind.name)
        return InForce(f"topic {name}", topic.value(), tag_of(topic))
    path = product_path(getattr(settings, kind.name))
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
    topic_name = getattr(settings.topics, kind.name)
    changed = DefinitionsChangedError(
        f"the definitions of {topic_name} have changed since they were read: read them again"
    )
    topic = feeds.read_definition_topic(settings, kind)
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
                topic = feeds.read_definition_topic(settings, kind)
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
    applied_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    applied = {"applied_by": by, "applied_at": applied_at}
    written = (change for change in changes if change.kind != "unchanged")
    return [
        (APPLIED_KEY, orjson.dumps(applied)),
        *((change.name.encode(), change.record(applied)) for change in written),
    ]
