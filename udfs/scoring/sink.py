"""The sink of the scoring pipeline: writes scored events and their flags to Cassandra."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from cassandra.cluster import Session
from cassandra.query import UNSET_VALUE, BoundStatement

from liveprofile.config import Settings
from liveprofile.rules.flags import Flag, FlaggedRow, FlagHistory, FlagQuery, RowPosition
from liveprofile.setting_sections import CassandraSettings
from liveprofile.wire.scored_events import ENTITIES
from udfs.cassandra import encoding
from udfs.cassandra.encoding import Values
from udfs.cassandra.flag_state_cache import CachedFlagState, FlagStateCache
from udfs.cassandra.sink import CassandraSink, Partition
from udfs.null_sink import NullSink
from udfs.scoring.drift_store import CassandraDriftStore, DriftStore

SCORE_COLUMNS = (
    "user_id",
    "event_time",
    "event_id",
    "event_type",
    "amount",
    "score",
    "model_version",
    "rules_version",
    "active_rules",
    *ENTITIES,
)


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


class ScoringSink(Protocol):
    """Like udfs.profile.sink.ProfileSink, for scored events."""

    @property
    def drift_store(self) -> DriftStore | None:
        """Stores drift counts and decisions. None turns drift monitoring off."""

    def flag_history(self, queries: Sequence[FlagQuery]) -> list[FlagHistory]: ...

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]: ...

    def write(self, rows: Sequence[ScoredEvent]) -> None: ...

    def flush(self) -> None: ...

    def close(self) -> None: ...


def open_scoring_sink(settings: Settings) -> ScoringSink:
    """Opens the sink that `job.store` names. Raises like CassandraScoringSink."""
    if settings.job.store == "none":
        return NullSink()
    return CassandraScoringSink(settings.cassandra, settings.scoring.score_ttl_s)


class _NoFlagStateCache(FlagStateCache):
    """Caches nothing, so that every flag history is read from the tables.

    The scoring pipeline does not deliver a user's events in time order: a late event may follow
    later ones that are stored. Few events need their history.
    """

    def put(self, user_id: str, state: CachedFlagState) -> None:
        """Does nothing."""

    def update(self, rows: Iterable[FlaggedRow]) -> None:
        """Does nothing."""


class CassandraScoringSink(CassandraSink[ScoredEvent]):
    """Writes the table risk_score and those of flags. CassandraSink describes the rest."""

    def __init__(
        self, settings: CassandraSettings, score_ttl_s: int, session: Session | None = None
    ):
        self._score_ttl_s = score_ttl_s
        super().__init__(settings, session, _NoFlagStateCache())
        self.drift_store = CassandraDriftStore(self._session, settings, score_ttl_s)

    def _select_latest(self, user_id: bytes, before: RowPosition) -> Iterator[BoundStatement]:
        values = [user_id, encoding.bigint(before.time_ms)]
        yield self._bound(self._select_same_time, [*values, before.event_id.encode()])
        yield self._bound(self._select_earlier, values)

    def _prepare(self, settings: CassandraSettings) -> None:
        super()._prepare(settings)
        select = (
            "SELECT to_unix_timestamp(event_time) AS event_ms, event_id, active_rules"
            f" FROM {settings.keyspace}.risk_score WHERE user_id = ?"
        )
        # The table's order is that of liveprofile.rules.flags.RowPosition, read backwards.
        self._select_same_time = self._session.prepare(
            f"{select} AND event_time = ? AND event_id > ? LIMIT 1"
        )
        self._select_earlier = self._session.prepare(f"{select} AND event_time < ? LIMIT 1")
        self._insert_score = self._prepare_insert(
            settings.keyspace, "risk_score", SCORE_COLUMNS, self._score_ttl_s
        )

    def _partitions(self, rows: Sequence[ScoredEvent]) -> tuple[list[bytes], list[Partition]]:
        partitions = []
        for row in rows:
            values = _encode_score(row)
            writes = [(self._insert_score, values), *self._flag_writes(row)]
            partitions.append(Partition(values[0], writes, encoding.mutation_bytes(writes)))
        return [partition.key for partition in partitions], partitions


def _encode_score(row: ScoredEvent) -> Values:
    """Returns the values of SCORE_COLUMNS and the write time.

    An entity that is missing is not set, because a null would be stored as a tombstone.
    """
    return [
        row.user_id.encode(),
        encoding.bigint(row.event_ms),
        row.event_id.encode(),
        row.event_type.encode(),
        encoding.double(row.amount),
        encoding.double(row.score),
        row.model_version.encode(),
        row.rules_version.encode(),
        encoding.text_set(tuple(row.active_rules)),
        *(entity.encode() if entity else UNSET_VALUE for entity in row.entities),
        encoding.bigint(encoding.write_time_us(row)),
    ]
