"""Where scored events and their flags are kept, by the contract of udfs/store.py."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from cassandra.cluster import Session

from liveprofile.config import Cassandra, Settings
from udfs import store_encode as encode
from udfs.drift.store import CassandraDriftStore, DriftStore, MemoryDriftStore
from udfs.event_rows import ENTITIES
from udfs.flags import Flag, Flagged, FlagPast, FlagQuery
from udfs.store_flagged import FlaggedStore, Partition
from udfs.store_past import Past, Pasts

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


class EventStore(Protocol):
    """As udfs.store.ProfileStore, of scored events."""

    @property
    def drift(self) -> DriftStore | None:
        """Where drift is kept; None: nowhere, so that it isn't watched."""

    def flag_past(self, queries: Sequence[FlagQuery]) -> list[FlagPast]: ...

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]: ...

    def begin(self, rows: Sequence[ScoredEvent]) -> None: ...

    def wait(self) -> None: ...

    def close(self) -> None: ...


def open_event_store(settings: Settings) -> EventStore:
    """The store that `job.store` names. Raises as CassandraEventStore."""
    if settings.job.store == "none":
        return NoEventStore()
    return CassandraEventStore(settings.cassandra, settings.risk.score_ttl_s)


class _NoPasts(Pasts):
    """A late event may come when later ones of its user are stored, and what passes by in another
    order than that of time tells no past: the tables are asked each time. Few events ask."""

    def learn(self, user_id: str, past: Past) -> None:
        """Nothing is kept."""

    def write(self, rows: Iterable[Flagged]) -> None:
        """Nothing is kept."""


class CassandraEventStore(FlaggedStore[ScoredEvent]):
    """The store of the event lane; for the rest see FlaggedStore."""

    def __init__(self, settings: Cassandra, score_ttl_s: int, session: Session | None = None):
        self._score_ttl_s = score_ttl_s
        super().__init__(settings, session, _NoPasts())
        self.drift = CassandraDriftStore(self._session, settings, score_ttl_s)

    @staticmethod
    def _active_before(keyspace: str) -> str:
        return (
            f"SELECT active_rules FROM {keyspace}.risk_score"
            " WHERE user_id = ? AND event_time < ? LIMIT 1"
        )

    def _prepare(self, settings: Cassandra) -> None:
        super()._prepare(settings)
        self._insert_score = self._insert(
            settings.keyspace, "risk_score", SCORE_COLUMNS, self._score_ttl_s
        )

    def _partitions(self, rows: Sequence[ScoredEvent]) -> tuple[list[bytes], list[Partition]]:
        partitions = []
        for row in rows:
            values = self._score(row)
            writes = [(self._insert_score, values), *self._flag_writes(row)]
            partitions.append(Partition(values[0], writes, encode.size(writes)))
        return [partition.key for partition in partitions], partitions

    @staticmethod
    def _score(row: ScoredEvent) -> list[bytes | None]:
        """The values of SCORE_COLUMNS and the write time: the clock's, so that the newest row of an
        event stays whole. Of equal times Cassandra keeps the larger value of each column."""
        return [
            row.user_id.encode(),
            encode.bigint(row.event_ms),
            row.event_id.encode(),
            row.event_type.encode(),
            encode.double(row.amount),
            encode.double(row.score),
            row.model_version.encode(),
            row.rules_version.encode(),
            encode.text_set(tuple(row.active_rules)),
            *(one.encode() if one else None for one in row.entities),
            encode.bigint(time.time_ns() // 1_000),
        ]


class MemoryEventStore:
    """A dict-backed store with the same semantics, for tests below the services' level."""

    def __init__(self) -> None:
        self.scores: dict[tuple[str, int, str], ScoredEvent] = {}
        self.flags: dict[tuple[str, int, str], Flag] = {}
        self.snoozes: dict[str, dict[str, int]] = {}
        self.drift = MemoryDriftStore()

    def flag_past(self, queries: Sequence[FlagQuery]) -> list[FlagPast]:
        return [self._flag_past(*query) for query in queries]

    def _flag_past(self, user_id: str, rule_id: str, before_ms: int) -> FlagPast:
        earlier = [
            row
            for row in self.scores.values()
            if row.user_id == user_id and row.event_ms < before_ms
        ]
        latest = max(earlier, key=lambda row: row.event_ms, default=None)
        raised = [
            at_ms
            for user, at_ms, rule in self.flags
            if (user, rule) == (user_id, rule_id) and at_ms < before_ms
        ]
        return FlagPast(
            latest is not None and rule_id in latest.active_rules, max(raised, default=None)
        )

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        return {user_id: self.snoozes.get(user_id, {}) for user_id in user_ids}

    def begin(self, rows: Sequence[ScoredEvent]) -> None:
        for row in rows:
            self.scores[row.user_id, row.event_ms, row.event_id] = row
            for flag in row.flags:
                self.flags[row.user_id, row.event_ms, flag.rule_id] = flag

    def wait(self) -> None:
        """Nothing is ever on its way."""

    def close(self) -> None:
        """Nothing to close."""


class NoEventStore:
    """Keeps nothing and remembers nothing: every rule that is true raises a flag."""

    drift = None

    def flag_past(self, queries: Sequence[FlagQuery]) -> list[FlagPast]:
        return [FlagPast(was_true=False, last_raised_ms=None)] * len(queries)

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        return {user_id: {} for user_id in user_ids}

    def begin(self, rows: Sequence[ScoredEvent]) -> None:
        """Nothing to do."""

    def wait(self) -> None:
        """Nothing to wait for."""

    def close(self) -> None:
        """Nothing to close."""
