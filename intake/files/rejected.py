"""Rejected records, as their topic has them."""

import heapq
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from liveprofile.errors import InputError
from liveprofile.kafka.offsets import partition_ranges
from liveprofile.kafka.records import Record, read_topic
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings

# Of events that have taken their event_id (docs/data-contract.md, section 2).
CLAIMED_REASONS = frozenset({"TOO_MANY", "UNREADABLE", "SCORING_FAILED", "NO_CONSENT", "ERASED"})
POSITION_HEADERS = ("topic", "partition", "offset")


class RejectedRecord(NamedTuple):
    """A record of the rejected topic. `topic`, `partition`, `offset`: of the original record."""

    id: str  # partition:offset in the rejected topic
    rejected_at_ms: int
    reason: str
    detail: str
    topic: str
    partition: int
    offset: int
    truncated: bool
    payload: bytes | None

    def as_dict(self) -> dict[str, Any]:
        """For JSON; bytes that are no UTF-8 are replaced."""
        text = None if self.payload is None else self.payload.decode("utf-8", "replace")
        return self._asdict() | {"payload": text}


def parse_id(text: str) -> tuple[int, int]:
    """Partition and offset in the rejected topic, as `rejected list` prints them: 0:17.

    Raises InputError.
    """
    match = re.fullmatch(r"(\d{1,9}):(\d{1,18})", text)
    if not match:
        raise InputError(f"{text!r} is no id of a rejected record: `rejected list` prints them")
    return int(match[1]), int(match[2])


def parse_record(record: Record) -> RejectedRecord:
    """Raises InputError if the record lacks the headers that the job writes."""
    headers = {name: value.decode("utf-8", "replace") for name, value in record.headers.items()}
    try:
        topic, partition, offset = (headers[name] for name in POSITION_HEADERS)
        return RejectedRecord(
            f"{record.partition}:{record.offset}",
            record.timestamp_ms,
            headers["reason"],
            headers.get("detail", ""),
            topic,
            int(partition),
            int(offset),
            headers.get("truncated") == "true",
            record.value,
        )
    except (KeyError, ValueError):
        raise InputError(
            f"{record.topic}/{record.partition} offset {record.offset} is no rejected record: it"
            f" has the headers {', '.join(sorted(headers)) or 'none'}"
        ) from None


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


def find_record(settings: Settings, record_id: str) -> RejectedRecord:
    """The record with this id.

    Raises InputError if it does not exist or has expired, ServiceError.
    """
    topic, (partition, offset) = settings.topics.rejected, parse_id(record_id)
    span = partition_ranges(settings, topic).get(partition, PartitionRange(0, 0))
    wanted = {partition: PartitionRange(offset, offset + 1)}
    if span.first <= offset < span.end:
        for record in read_topic(settings, topic, wanted):
            return parse_record(record)
    raise InputError(f"no rejected record {record_id}: it does not exist or has expired")
