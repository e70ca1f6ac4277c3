"""What `liveprofile events audit` reads to account for the records that `liveprofile events decode`
reads.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

from liveprofile.audit.encoded import (
    DECODED,
    PRESENT,
    REJECTED,
    EncodedAudit,
    EncodedCounts,
    Position,
)
from liveprofile.kafka import offsets
from liveprofile.kafka.records import Record, read_topic
from liveprofile.kafka.topics import NoTopicError, PartitionRange
from liveprofile.settings import Settings


def audit_encoded(settings: Settings, since_ms: int | None) -> EncodedCounts | None:
    """None if there are no encoded records.

    since_ms: record timestamp from which on records are audited; None: from the first one on whose
    outcome has not expired. Raises ServiceError.
    """
    topics = settings.topics
    try:
        present = offsets.partition_ranges(settings, topics.encoded)
    except NoTopicError:  # of a deployment without a decoder
        return None
    if not any(span.end for span in present.values()):
        return None
    committed = offsets.committed_offsets(
        settings, topics.encoded, offsets.decoder_group(settings.kafka)
    )
    # Outcomes are read after the offsets were committed: all of them exist.
    outputs = {
        topic: offsets.partition_ranges(settings, topic)
        for topic in (topics.events, topics.rejected)
    }
    since_ms = max(since_ms or 0, *(_oldest_ms(settings, *each) for each in outputs.items()))
    starts = offsets.offsets_at(settings, topics.encoded, since_ms)
    audited = {}
    for number, span in present.items():
        end = max(span.first, committed.get(number, 0))
        audited[number] = PartitionRange(min(max(span.first, starts[number]), end), end)
    audit = EncodedAudit(audited)
    audit.mark(
        ((r.partition, r.offset) for r in read_topic(settings, topics.encoded, audited)), PRESENT
    )
    for topic, position, outcome in (
        (topics.events, _decoded_position, DECODED),
        (topics.rejected, _rejected_position, REJECTED),
    ):
        ranges = _from(outputs[topic], offsets.offsets_at(settings, topic, since_ms))
        audit.mark(_positions(settings, topic, ranges, position), outcome)
    behind = sum(span.end - audited[number].end for number, span in present.items())
    return audit.counts(behind)


def _oldest_ms(settings: Settings, topic: str, ranges: Mapping[int, PartitionRange]) -> int:
    """From which record timestamp on no record has expired from the topic; 0: none has at all."""
    expired = {number: span for number, span in ranges.items() if span.first > 0}
    firsts = {
        number: PartitionRange(span.first, min(span.end, span.first + 1))
        for number, span in expired.items()
    }
    found = {
        record.partition: record.timestamp_ms for record in read_topic(settings, topic, firsts)
    }
    now_ms = round(time.time() * 1_000)
    return max((found.get(number, now_ms) for number in expired), default=0)


def _from(
    ranges: Mapping[int, PartitionRange], starts: Mapping[int, int]
) -> dict[int, PartitionRange]:
    return {
        number: PartitionRange(min(max(span.first, starts[number]), span.end), span.end)
        for number, span in ranges.items()
    }


def _positions(
    settings: Settings,
    topic: str,
    ranges: dict[int, PartitionRange],
    position: Callable[[Record], tuple[bytes, bytes, bytes]],
) -> Iterator[Position]:
    """The positions of encoded records that records of an output topic name in their headers."""
    encoded = settings.topics.encoded.encode()
    for record in read_topic(settings, topic, ranges):
        source, partition, offset = position(record)
        if source == encoded and partition.isdigit() and offset.isdigit():
            yield int(partition), int(offset)


def _decoded_position(record: Record) -> tuple[bytes, bytes, bytes]:
    names = ("encoded_topic", "encoded_partition", "encoded_offset")
    return tuple(record.headers.get(name, b"") for name in names)


def _rejected_position(record: Record) -> tuple[bytes, bytes, bytes]:
    return tuple(record.headers.get(name, b"") for name in ("topic", "partition", "offset"))
