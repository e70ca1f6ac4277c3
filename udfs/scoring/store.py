"""The tables of the scoring pipeline: scored events and their flags in Cassandra."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from cassandra.cluster import Session
from cassandra.query import UNSET_VALUE

from liveprofile.drift.store import CassandraDriftStore
from liveprofile.rows.risk import RISK_SCORE_BY_HOUR, RISK_SCORE_HOURS, score_hour_ms
from liveprofile.rules.flags import Flag, RowPosition
from liveprofile.settings import MAX_TTL_S, CassandraSettings, Settings
from liveprofile.units import HOUR_MS
from liveprofile.wire.scored_events import ENTITIES
from udfs.cassandra import encoding
from udfs.cassandra.batch_writer import Partition
from udfs.cassandra.encoding import Values
from udfs.cassandra.store import CassandraStore
from udfs.cassandra.users import CassandraUsers, Read, StoredState
from udfs.cassandra.writer import CassandraWriter

# How often the row of a user's hour is written again, and how long it outlives the hour's scores.
HOUR_REFRESH_S = 3_600
MAX_HOURS = 100_000  # of users, about 200 bytes each


class ScoredEvent(NamedTuple):
    """One event with its fraud score, the rules that are true of it and the flags they raised."""

    user_id: str
    event_id: str
    event_ms: int
    event_type: str
    amount: float
    score: float  # probability of fraud
    model_version: str
    rules_version: str
    active_rules: list[str]  # ids
    entities: tuple[str, ...]  # ids in the order of ENTITIES; "" if missing
    flags: list[Flag]

    @property
    def window_start_ms(self) -> int:
        return self.event_ms

    @property
    def window_end_ms(self) -> int:
        return self.event_ms

    @property
    def revision(self) -> int:
        """Always 0: models of events have no revision, so the newest score of an event counts."""
        return 0


class WrittenHours:
    """The hours of users that were written lately. When full (MAX_HOURS), it is cleared.

    clock: seconds since any time.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._written_s: dict[tuple[str, int], float] = {}

    def add(self, user_id: str, hour_ms: int) -> bool:
        """Adds an hour. Returns whether it must be written."""
        now_s = self._clock()
        if self._written_s.get((user_id, hour_ms), -HOUR_REFRESH_S) > now_s - HOUR_REFRESH_S:
            return False
        if len(self._written_s) >= MAX_HOURS:
            self._written_s.clear()
        self._written_s[user_id, hour_ms] = now_s
        return True


class CassandraScoringUsers(CassandraUsers):
    """What is stored of the users of events. For the arguments and errors see CassandraUsers."""

    def __init__(self, session: Session, settings: CassandraSettings, flush: Callable[[], None]):
        super().__init__(session, settings, flush)
        keyspace = settings.keyspace
        columns = "to_unix_timestamp(event_time) AS event_ms, event_id, active_rules"
        select = f"SELECT {columns} FROM {keyspace}.risk_score_by_hour WHERE user_id = ?"
        # The table's order is that of liveprofile.rules.flags.RowPosition, read backwards.
        self._select_same_time = session.prepare(
            f"{select} AND hour = ? AND event_time = ? AND event_id > ? LIMIT 1"
        )
        self._select_earlier = session.prepare(f"{select} AND hour = ? AND event_time < ? LIMIT 1")
        self._select_earlier_hour = session.prepare(
            f"SELECT to_unix_timestamp(hour) FROM {keyspace}.risk_score_hours"
            " WHERE user_id = ? AND hour < ? LIMIT 1"
        )

    def _latest_reads(
        self, user_id: bytes, before: RowPosition, state: StoredState
    ) -> Iterator[list[Read]]:
        """Reads the event's own hour, then the user's last hour before it."""
        hour, at = (encoding.bigint(ms) for ms in (score_hour_ms(before.time_ms), before.time_ms))
        event_id = before.event_id.encode()
        earlier_hours: list[tuple[int]] = []
        yield [
            (self._bound(self._select_same_time, [user_id, hour, at, event_id]), state.add_rows),
            (self._bound(self._select_earlier, [user_id, hour, at]), state.add_rows),
            (self._bound(self._select_earlier_hour, [user_id, hour]), earlier_hours.extend),
        ]
        if state.latest is not None:  # in the own hour
            return
        for (hour_ms,) in earlier_hours:
            next_hour = encoding.bigint(hour_ms + HOUR_MS)
            values = [user_id, encoding.bigint(hour_ms), next_hour]
            yield [(self._bound(self._select_earlier, values), state.add_rows)]


class CassandraScoringWriter(CassandraWriter[ScoredEvent]):
    """Writes risk_score_by_hour, risk_score_hours and the tables of flags."""

    def __init__(self, session: Session, settings: CassandraSettings, score_ttl_s: int):
        super().__init__(session, settings)
        self._written_hours = WrittenHours()
        self._insert_score = self.prepare_insert(RISK_SCORE_BY_HOUR, score_ttl_s)
        hours_ttl_s = min(score_ttl_s + HOUR_REFRESH_S, MAX_TTL_S)
        self._insert_hour = self.prepare_insert(RISK_SCORE_HOURS, hours_ttl_s)

    def partitions(self, rows: Sequence[ScoredEvent]) -> list[Partition]:
        partitions = []
        for row in rows:
            user_id, hour_ms = row.user_id.encode(), score_hour_ms(row.event_ms)
            hour = encoding.bigint(hour_ms)
            score_writes = [(self._insert_score, _encode_score(row))]
            partitions.append(Partition(encoding.partition_key(user_id, hour), score_writes))
            of_user = self.flag_writes(row)
            if self._written_hours.add(row.user_id, hour_ms):
                # Of the hour's end, so that a delete of the events up to a time keeps the hour.
                written_us = (hour_ms + HOUR_MS) * 1_000 - 1
                of_user.append((self._insert_hour, [user_id, hour, encoding.bigint(written_us)]))
            if of_user:
                partitions.append(Partition(user_id, of_user))
        return partitions


class CassandraScoringStore(CassandraStore):
    """Where events are read and written. For `session` and errors see CassandraStore."""

    def __init__(
        self, settings: CassandraSettings, score_ttl_s: int, session: Session | None = None
    ):
        super().__init__(settings, session)

        def prepare() -> tuple[CassandraScoringUsers, CassandraScoringWriter, CassandraDriftStore]:
            writer = CassandraScoringWriter(self.session, settings, score_ttl_s)
            users = CassandraScoringUsers(self.session, settings, writer.flush)
            return users, writer, CassandraDriftStore(self.session, settings, score_ttl_s)

        self.users, self.writer, self.drift_store = self._opened(prepare)


def open_scoring_store(settings: Settings) -> CassandraScoringStore:
    """Opens the store of a worker. Raises like CassandraStore."""
    return CassandraScoringStore(settings.cassandra, settings.scoring.score_ttl_s)


def _encode_score(row: ScoredEvent) -> Values:
    """Returns the values of risk_score_by_hour and the write time.

    An entity that is missing is not set, because a null would be stored as a tombstone.
    """
    fields = row._asdict() | dict(zip(ENTITIES, row.entities, strict=True))
    fields |= {"hour": score_hour_ms(row.event_ms), "event_time_ms": row.event_ms}
    columns = RISK_SCORE_BY_HOUR.columns.values()
    values = encoding.encode_row(
        columns, [fields[column.field] for column in columns], encoding.write_time_us(row)
    )
    missing = [column.nullable and not fields[column.field] for column in columns]
    return [
        UNSET_VALUE if unset else value
        for value, unset in zip(values, (*missing, False), strict=True)
    ]
