"""The topic user-attributes, and the table user_attribute that keeps what it says.

A record is a statement (statements.py), its key `source/user_id`; a tombstone withdraws what the
source says. Offsets are committed after the writes are acknowledged, and writing again changes
nothing, so a reader that is killed stores the same rows the next time.

A row is a statement, so two statements never mix, and the reader decides which counts
(statements.py). The writer only removes what cannot count any more. USING TIMESTAMP is the
statement's time in microseconds, and each write also deletes the source's older statements, with a
timestamp just below its own. So a late statement is hidden by what is newer, and a repeated or
replayed one changes nothing, whatever the order of arrival.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, NamedTuple

import orjson
from cassandra.cluster import Session
from cassandra.query import BatchStatement, BatchType

from liveprofile.attributes.catalogue import Catalogue
from liveprofile.attributes.statements import Statement, StatementError, parse_event, to_event
from liveprofile.kafka.offsets import commit_offsets, committed_offsets, partition_ranges
from liveprofile.kafka.records import Record, read_topic, send_all
from liveprofile.kafka.topics import PartitionRange
from liveprofile.rows.users import USER_ATTRIBUTE
from liveprofile.settings import MAX_TTL_S, CassandraSettings, KafkaSettings, Settings
from liveprofile.storage.cql import from_ms, now_ms, prepare, read, read_pages, write_all
from liveprofile.wire.user_records import CONTENT_TYPE

# An expired attribute stays this long: it hides older ones that arrive late.
KEEP_EXPIRED_S = 30 * 86_400

MAX_ROWS = 200  # of a user: sources, and contradicting statements of one time
READ_USERS = 50  # in one SELECT
SELECTED = (
    "user_id, source, to_unix_timestamp(time), kind, purpose, to_unix_timestamp(expires),"
    " attributes"
)


class Withdrawal(NamedTuple):
    """A tombstone of the topic: the source says nothing about the user any more."""

    user_id: str
    source: str
    record_ms: int  # when the broker stored the tombstone

    @property
    def write_time_us(self) -> int:
        """Hides all statements of this time and before."""
        return self.record_ms * 1_000 + 999


def ttl_s(statement: Statement, now_ms: int) -> int:
    """How long the row stays.

    It stays after the expiry to hide older statements that arrive late, and for replays of the
    past, where a statement had not expired yet.
    """
    left_s = max(statement.expires_ms - now_ms, 0) // 1_000 + 1
    return min(left_s + KEEP_EXPIRED_S, MAX_TTL_S)


def by_user(rows: Iterable[Sequence[Any]]) -> dict[str, list[Statement]]:
    """Rows of SELECTED by user, without what is left of a row that is expiring."""
    found: dict[str, list[Statement]] = {}
    names = ("user_id", "source", "time_ms", "kind", "purpose", "expires_ms", "values")
    for row in rows:
        if None not in row:
            fields = dict(zip(names, row, strict=True))
            fields["values"] = orjson.loads(fields["values"])
            # Validated when it was written.
            found.setdefault(row[0], []).append(Statement.model_construct(**fields))
    return found


def select_users_cql(keyspace: str) -> str:
    """SELECTs the statements of the users in a list, the only value."""
    return _select_cql(keyspace, "user_id IN ?")


def _select_cql(keyspace: str, where: str) -> str:
    limit = f"PER PARTITION LIMIT {MAX_ROWS}"
    return f"SELECT {SELECTED} FROM {keyspace}.user_attribute WHERE {where} {limit}"


class AttributeTable:
    """Writes and reads user_attribute. Raises ServiceError, also if the table is missing."""

    def __init__(self, session: Session, settings: CassandraSettings):
        self._session = session
        table = f"{settings.keyspace}.user_attribute"
        self._insert = prepare(session, USER_ATTRIBUTE.insert("?", settings.keyspace))
        self._delete_older = prepare(
            session,
            f"DELETE FROM {table} USING TIMESTAMP ? WHERE user_id = ? AND source = ? AND time < ?",
        )
        self._delete_all = prepare(
            session, f"DELETE FROM {table} USING TIMESTAMP ? WHERE user_id = ? AND source = ?"
        )
        self._select = prepare(session, select_users_cql(settings.keyspace))
        between = "token(user_id) > ? AND token(user_id) <= ?"
        self._select_between = prepare(session, _select_cql(settings.keyspace, between))

    def write(self, changes: Iterable[Statement | Withdrawal]) -> int:
        """Stores changes in any order; returns their number when all are acknowledged."""
        present_ms = now_ms()
        return write_all(self._session, (self._batch(each, present_ms) for each in changes))

    def read(self, user_ids: Sequence[str]) -> dict[str, list[Statement]]:
        """The statements about these users; a user without any has no entry."""
        found: dict[str, list[Statement]] = {}
        for start in range(0, len(user_ids), READ_USERS):
            part = list(user_ids[start : start + READ_USERS])
            found.update(by_user(read(self._session, self._select, (part,))))
        return found

    def read_between(self, after_token: int, until_token: int) -> dict[str, list[Statement]]:
        """The statements about all users with a token in (after, until]."""
        values = (after_token, until_token)
        return by_user(read_pages(self._session, self._select_between, values))

    def _batch(self, change: Statement | Withdrawal, present_ms: int) -> BatchStatement:
        batch = BatchStatement(BatchType.UNLOGGED)
        batch.is_idempotent = True
        if isinstance(change, Withdrawal):
            batch.add(self._delete_all.bind((change.write_time_us, change.user_id, change.source)))
            return batch
        time, written_us = from_ms(change.time_ms), change.time_ms * 1_000
        values = orjson.dumps(dict(change.values), option=orjson.OPT_SORT_KEYS).decode()
        key = (change.user_id, change.source, time)
        said = (change.digest, change.kind, change.purpose, from_ms(change.expires_ms), values)
        batch.add(self._insert.bind((*key, *said, written_us, ttl_s(change, present_ms))))
        batch.add(self._delete_older.bind((written_us - 1, *key)))
        return batch


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
    return progress
