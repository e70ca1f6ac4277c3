"""Rejected records: reads them from their topic, and sends corrected ones."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import orjson

from liveprofile.errors import InputError
from liveprofile.kafka.offsets import partition_ranges
from liveprofile.kafka.records import Record, read_topic, send_all
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import Settings

# Of events that have taken their event_id (docs/data-contract.md, section 2).
CLAIMED_REASONS = frozenset({"TOO_MANY", "UNREADABLE", "SCORING_FAILED", "NO_CONSENT", "ERASED"})
# These may be valid later without a correction.
TIME_REASONS = ("FUTURE_TIME",)
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

    @property
    def claimed(self) -> bool:
        """Whether the event_id is taken, so that a corrected event needs a new one."""
        return self.reason in CLAIMED_REASONS or (self.reason == "NOT_JSON" and bool(self.detail))

    def as_dict(self) -> dict[str, Any]:
        """For JSON; bytes that are no UTF-8 are replaced."""
        text = None if self.payload is None else self.payload.decode("utf-8", "replace")
        return self._asdict() | {"payload": text}


class CorrectedRecord(NamedTuple):
    """What is sent: the headers say which record it replaces."""

    topic: str
    key: bytes
    value: bytes
    headers: dict[str, str]


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


def read_corrections(text: str, name: str) -> dict[str, bytes]:
    """The corrected payloads by id.

    text: JSON lines, each an object with the id and the payload (an object or its text), as
    `rejected show --json` prints it. Other keys are ignored. Raises InputError.
    """
    try:
        rows = [orjson.loads(row) for row in text.splitlines() if row]
    except orjson.JSONDecodeError as error:
        raise InputError(f"{name}: not JSON: {error}") from None
    corrections: dict[str, bytes] = {}
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or "payload" not in row:
            raise InputError(f"{name} row {number}: must be an object with id and payload")
        parse_id(row["id"])
        if row["id"] in corrections:
            raise InputError(f"{name} row {number}: {row['id']} occurs twice")
        payload = row["payload"]
        corrections[row["id"]] = (
            payload.encode() if isinstance(payload, str) else orjson.dumps(payload)
        )
    return corrections


def correct(rejected: RejectedRecord, payload: bytes) -> CorrectedRecord:
    """The record to send instead of a rejected one.

    Raises InputError if it would be rejected again, or dropped as a duplicate.
    """
    name = f"rejected record {rejected.id}"
    if payload == rejected.payload and rejected.reason not in TIME_REASONS:
        raise InputError(f"{name}: unchanged, so it is {rejected.reason} again")
    try:
        event = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise InputError(f"{name}: the payload is not JSON: {error}") from None
    user = event.get("user_id") if isinstance(event, dict) else None
    if not isinstance(user, str | int) or isinstance(user, bool) or user == "":
        raise InputError(f"{name}: the payload must be a JSON object with user_id")
    if rejected.claimed and _event_id(rejected.payload) == str(event.get("event_id")):
        raise InputError(
            f"{name}: {rejected.reason} has taken its event_id, so it would be a duplicate: give it"
            " another"
        )
    headers = {f"resent_{each}": str(getattr(rejected, each)) for each in POSITION_HEADERS}
    headers["resent_reason"] = rejected.reason
    return CorrectedRecord(rejected.topic, str(user).encode(), payload, headers)


def _event_id(payload: bytes | None) -> str | None:
    try:
        event = orjson.loads(payload or b"")
    except orjson.JSONDecodeError:
        return None
    return str(event.get("event_id")) if isinstance(event, dict) else None


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
