"""The segment definitions in force: those of the file, or of the topic segment-definitions once it
has a definition.

udfs/definition_feed.py describes topic and feed; schemas/segment-definition.schema.json a record. A
record with the key SWEEP_KEY is no definition: it tells workers that a sweep changes memberships
beside them (offline/sweep.py).
"""

from __future__ import annotations

import logging
from typing import Any

import orjson

from liveprofile.kafka.records import Record
from liveprofile.rules.definitions import DefinitionProblem, RuleSigner
from liveprofile.segments.definitions import (
    Segment,
    SegmentsError,
    SegmentSet,
    read_segment,
    segment_set,
)
from liveprofile.settings import Settings
from udfs.definition_feed import (
    DefinitionFeed,
    TopicDefinitions,
    definition_signer,
    open_definition_source,
    read_definitions,
)

SWEEP_KEY = b"*sweep"
NO_SWEEP = {"sweep": "", "sweeping": False}

log = logging.getLogger(__name__)


class TopicSegments(TopicDefinitions[Segment, SegmentSet]):
    """The definitions that result from the records of the topic."""

    error = SegmentsError

    def __init__(self, signer: RuleSigner | None = None) -> None:
        super().__init__(signer)
        self.sweep: dict[str, Any] = dict(NO_SWEEP)

    def _read(self, value: bytes, position: str) -> Segment:
        return read_segment(value, position)

    def _is_control(self, record: Record) -> bool:
        if record.key != SWEEP_KEY:
            return False
        if record.value is None:
            self.sweep = dict(NO_SWEEP)
            return True
        try:
            value = orjson.loads(record.value)
            sweep, sweeping = value["sweep"], value["sweeping"]
        except (orjson.JSONDecodeError, KeyError, TypeError) as error:
            problem = DefinitionProblem(SWEEP_KEY.decode(), "JSON", str(error))
            position = f"{record.topic}/{record.partition} offset {record.offset}"
            raise SegmentsError(position, [problem]) from None
        self.sweep = {"sweep": str(sweep), "sweeping": bool(sweeping)}
        return True

    def in_force(self) -> SegmentSet:
        """Definitions that read unknown or paused segments, or themselves, are left out."""
        found, faults = segment_set(self.definitions)
        for fault in faults:
            log.warning("segment %s: %s; it is not evaluated", fault.name, fault.reason)
        return found.model_copy(update=self.sweep)


class SegmentsFeed(DefinitionFeed[SegmentSet]):
    """Keeps the definitions in force up to date."""

    noun = "segments"
    new_topic = TopicSegments

    def _in_force(self, topic: TopicSegments) -> SegmentSet:
        return super()._in_force(topic).model_copy(update=topic.sweep)


def segment_signer(settings: Settings) -> RuleSigner | None:
    """Signs and verifies the records of the topic; None without a signing key."""
    return definition_signer(settings, settings.topics.segments)


def read_topic_segments(settings: Settings) -> TopicSegments:
    """Reads the topic once to its end. Returns no definitions if it does not exist.

    Raises ServiceError.
    """
    topic = TopicSegments(segment_signer(settings))
    return read_definitions(settings, settings.topics.segments, topic)


def open_segments_feed(settings: Settings, from_file: SegmentSet) -> SegmentsFeed:
    """Opens the feed of a job: the definitions of the file, then those of the topic."""
    topic = settings.topics.segments
    return SegmentsFeed(
        from_file, lambda: open_definition_source(settings, topic), signer=segment_signer(settings)
    )


def open_fixed_segments_feed(settings: Settings, from_file: SegmentSet) -> SegmentsFeed:
    """Replaces `open_segments_feed` where there is no Kafka: the definitions of the file only."""
    return SegmentsFeed(from_file)
