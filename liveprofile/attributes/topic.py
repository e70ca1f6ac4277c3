"""The topic user-attributes: sending statements, and storing those that it holds.

A record is a statement (statements.py), its key `source/user_id`; a tombstone withdraws what the
source says. Offsets are committed after the writes are acknowledged, and writing again changes
nothing, so a reader that is killed stores the same rows the next time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from liveprofile.attributes.definitions import Catalogue
from liveprofile.attributes.statements import (
    Statement,
    StatementError,
    parse_event,
    to_event,
)
from liveprofile.attributes.table import Withdrawal
from liveprofile.kafka.offsets import commit_offsets, committed_offsets, partition_ranges
from liveprofile.kafka.records import Record, read_topic, send_all
from liveprofile.kafka.topics import PartitionRange
from liveprofile.settings import KafkaSettings, Settings
from liveprofile.wire.user_records import CONTENT_TYPE

BATCH_RECORDS = 1_000


class RejectedRecord(NamedTuple):
    """A record that is not stored, without its content."""

    partition: int
    offset: int
    reason: str


class ParsedRecords(NamedTuple):
    changes: list[Statement | Withdrawal]
    rejected: list[RejectedRecord]


class Progress(NamedTuple):
    """What a reader has done: `stored` statements and withdrawals, and `rejected` records."""

    stored: int
    rejected: int


def attributes_group(kafka: KafkaSettings) -> str:
    """The consumer group whose offsets say what is stored."""
    return f"{kafka.group_id}-attributes"


def send_statements(settings: Settings, statements: Iterable[Statement]) -> int:
    """Sends statements and returns their number. Raises ServiceError."""
    records = ((one.key, to_event(one), CONTENT_TYPE) for one in statements)
    return send_all(settings, settings.topics.attributes, records)


def send_withdrawal(settings: Settings, user_id: str, source: str) -> None:
    """Withdraws all that the source says of the user. Raises ServiceError."""
    send_all(settings, settings.topics.attributes, [(f"{source}/{user_id}".encode(), None, {})])


def parse_records(
    records: Iterable[Record], catalogue: Catalogue, max_clock_skew_ms: int
) -> ParsedRecords:
    """Validates records. The clock is the broker's, so a replay gives the same result."""
    parsed = ParsedRecords([], [])
    for record in records:
        try:
            parsed.changes.append(_parse(record, catalogue, max_clock_skew_ms))
        except StatementError as error:
            parsed.rejected.append(RejectedRecord(record.partition, record.offset, str(error)))
    return parsed


def _parse(record: Record, catalogue: Catalogue, skew_ms: int) -> Statement | Withdrawal:
    try:
        key = (record.key or b"").decode()
    except UnicodeDecodeError:
        raise StatementError("the key is not UTF-8") from None
    if record.value is None:
        source, slash, user_id = key.partition("/")
        if not slash or not source or not user_id:
            raise StatementError("the key of a tombstone must be source/user_id")
        return Withdrawal(user_id, source, record.timestamp_ms)
    statement = parse_event(record.value)
    if key.encode() != statement.key:
        raise StatementError("the key must be source/user_id of the event")
    if statement.time_ms > record.timestamp_ms + skew_ms:
        ahead_s = (statement.time_ms - record.timestamp_ms) // 1_000
        raise StatementError(f"time: is {ahead_s} s in the future")
    if problems := catalogue.value_problems(statement.values):
        raise StatementError(problems[0])
    return statement


def apply_records(
    settings: Settings,
    catalogue: Catalogue,
    write: Callable[[Sequence[Statement | Withdrawal]], object],
    on_rejected: Callable[[RejectedRecord], None],
    on_batch: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Stores the records after the group's committed offsets, up to the topic's present end.

    write: returns when the changes are acknowledged. Raises ServiceError.
    """
    topic, group = settings.topics.attributes, attributes_group(settings.kafka)
    committed = committed_offsets(settings, topic, group)
    ranges = {
        number: PartitionRange(min(max(span.first, committed.get(number, 0)), span.end), span.end)
        for number, span in partition_ranges(settings, topic).items()
    }
    progress = Progress(0, 0)
    records = read_topic(settings, topic, ranges)
    while batch := list(islice(records, BATCH_RECORDS)):
        parsed = parse_records(batch, catalogue, settings.limits.max_clock_skew_ms)
        write(parsed.changes)
        for rejected in parsed.rejected:
            on_rejected(rejected)
        ends = {record.partition: record.offset + 1 for record in batch}
        commit_offsets(settings, topic, group, ends)
        progress = Progress(
            progress.stored + len(parsed.changes), progress.rejected + len(parsed.rejected)
        )
        on_batch(progress)
    return progress
