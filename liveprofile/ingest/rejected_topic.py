"""Reads rejected records from their topic, and sends corrected ones."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Mapping, Sequence

from liveprofile.errors import InputError
from liveprofile.ingest.rejected import (
    CorrectedRecord,
    RejectedRecord,
    correct,
    parse_id,
    parse_record,
)
from liveprofile.kafka.offsets import partition_ranges
from liveprofile.kafka.records import read_topic, send_all
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings


def latest_records(
    settings: Settings,
    ranges: Mapping[int, PartitionRange],
    reason: str | None,
    limit: int,
    on_fault: Callable[[str], None],
    payload_bytes: int | None = None,
) -> list[RejectedRecord]:
    """The newest records of these offsets, newest first, without holding more of them in memory.

    reason: only of this one. on_fault: told of records that the job has not written.
    payload_bytes: payloads are cut to so many; None: they are not. Raises ServiceError.
    """

    def wanted() -> Iterator[RejectedRecord]:
        for record in read_topic(settings, settings.topics.rejected, dict(ranges)):
            try:
                parsed = parse_record(record)
            except InputError as error:
                on_fault(str(error))
                continue
            if reason in (None, parsed.reason):
                start = parsed.payload and parsed.payload[:payload_bytes]
                yield parsed._replace(payload=start)

    return heapq.nlargest(
        limit, wanted(), key=lambda record: (record.rejected_at_ms, record.offset)
    )


def last_ranges(settings: Settings, count: int) -> dict[int, PartitionRange]:
    """The last `count` offsets of each partition. Raises ServiceError."""
    present = partition_ranges(settings, settings.topics.rejected)
    return {
        number: PartitionRange(max(span.first, span.end - count), span.end)
        for number, span in present.items()
    }


def find_records(settings: Settings, ids: Sequence[str]) -> list[RejectedRecord]:
    """The records with these ids.

    Raises InputError for one that does not exist or has expired, ServiceError.
    """
    topic, found = settings.topics.rejected, []
    present = partition_ranges(settings, topic)
    for record_id in ids:
        partition, offset = parse_id(record_id)
        span = present.get(partition, PartitionRange(0, 0))
        if not span.first <= offset < span.end:
            raise InputError(f"no rejected record {record_id}: it does not exist or has expired")
        wanted = {partition: PartitionRange(offset, offset + 1)}
        found += [parse_record(record) for record in read_topic(settings, topic, wanted)]
    return found


def correct_records(settings: Settings, corrections: Mapping[str, bytes]) -> list[CorrectedRecord]:
    """The records to send for corrected payloads by id. Raises InputError, ServiceError."""
    # An encoded record is corrected as JSON, which needs no decoder.
    instead = {settings.topics.encoded: settings.topics.events}
    found = find_records(settings, list(corrections))
    corrected = [correct(record, corrections[record.id]) for record in found]
    records = [each._replace(topic=instead.get(each.topic, each.topic)) for each in corrected]
    allowed = (settings.topics.events, settings.topics.feedback)
    if others := {record.topic for record in records} - set(allowed):
        raise InputError(f"topic {min(others)} is not of this job ({', '.join(allowed)})")
    return records


def send_corrected(settings: Settings, records: Sequence[CorrectedRecord]) -> None:
    """Sends the records of each topic, all or none. Raises ServiceError."""
    for topic in (settings.topics.events, settings.topics.feedback):
        own = [(each.key, each.value, each.headers) for each in records if each.topic == topic]
        if own:
            send_all(settings, topic, own)
