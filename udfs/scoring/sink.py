"""Where scored events and their flags are kept, by the contract of udfs/profile/sink.py."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from cassandra.cluster import Session

from liveprofile.config import CassandraSettings, Settings
from liveprofile.rules.flags import Flag, Flagged, FlagHistory, FlagQuery
from liveprofile.wire.scored_events import ENTITIES
from udfs.cassandra import encoding
from udfs.cassandra.flag_state_cache import FlagState, FlagStateCache
from udfs.cassandra.flagged_sink import FlaggedSink, Partition
from udfs.null_sink import NullSink
from udfs.scoring.drift_store import CassandraDriftStore, DriftStore

SCORE_COLUMNS = (
    "user_id", "event_time", "event_id", "event_type", "amount", "score", "model_version",
    "rules_version", "active_rules", *ENTITIES,
)  # fmt: skip


class ScoredEvent(NamedTuple):
    """What one event leaves behind."""

    user_id: str
    event_id: str
    event_ms: int
    event_type: str
    amount: float
    score: float  # probability of fraud
    model_version: str
    rules_version: str
    active_rules: list[str]
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
        """An event has one score, whichever model a replay brings: see `_score`."""
        return 0


class ScoringSink(Protocol):
    """As udfs.profile.sink.ProfileSink, of scored events."""

    @property
    def drift(self) -> DriftStore | None:
        """Where drift is kept; None: nowhere, so that it isn't watched."""

    def flag_history(self, queries: Sequence[FlagQuery]) -> list[FlagHistory]: ...

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]: ...

    def begin(self, rows: Sequence[ScoredEvent]) -> None: ...

    def wait(self) -> None: ...

    def close(self) -> None: ...


def open_scoring_sink(settings: Settings) -> ScoringSink:
    """The store that `job.store` names. Raises as CassandraEventStore."""
    if settings.job.store == "none":
        return NullSink()
    return CassandraScoringSink(settings.cassandra, settings.scoring.score_ttl_s)


class _NoFlagStateCache(FlagStateCache):
    """A late event may come when later ones of its user are stored, and what passes by in another
    order than that of time tells no past: the tables are asked each time. Few events ask."""

    def learn(self, user_id: str, past: FlagState) -> None:
        """Nothing is kept."""

    def write(self, rows: Iterable[Flagged]) -> None:
        """Nothing is kept."""


class CassandraScoringSink(FlaggedSink[ScoredEvent]):
    """The store of the event lane; for the rest see FlaggedStore."""

    def __init__(
        self, settings: CassandraSettings, score_ttl_s: int, session: Session | None = None
    ):
        self._score_ttl_s = score_ttl_s
        super().__init__(settings, session, _NoFlagStateCache())
        self.drift = CassandraDriftStore(self._session, settings, score_ttl_s)

    @staticmethod
    def _active_before(keyspace: str) -> str:
        return (
            f"SELECT active_rules FROM {keyspace}.risk_score"
            " WHERE user_id = ? AND event_time < ? LIMIT 1"
        )

    def _prepare(self, settings: CassandraSettings) -> None:
        super()._prepare(settings)
        self._insert_score = self._insert(
            settings.keyspace, "risk_score", SCORE_COLUMNS, self._score_ttl_s
        )

    def _partitions(self, rows: Sequence[ScoredEvent]) -> tuple[list[bytes], list[Partition]]:
        partitions = []
        for row in rows:
            values = self._score(row)
            writes = [(self._insert_score, values), *self._flag_writes(row)]
            partitions.append(Partition(values[0], writes, encoding.size(writes)))
        return [partition.key for partition in partitions], partitions

    @staticmethod
    def _score(row: ScoredEvent) -> list[bytes | None]:
        """The values of SCORE_COLUMNS and the write time: the clock's, so that the newest row of an
        event stays whole. Of equal times Cassandra keeps the larger value of each column."""
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
            *(one.encode() if one else None for one in row.entities),
            encoding.bigint(time.time_ns() // 1_000),
        ]
