"""In-memory stores with the semantics of those in Cassandra, for tests without services."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Self

from liveprofile.attributes.statements import Statement
from liveprofile.drift.store import CassandraDriftStore
from liveprofile.rules.flags import Flag, PastFlags, RowPosition
from liveprofile.segments.membership import ChangeKey, Membership, Memberships
from liveprofile.settings import CassandraSettings
from tests.support.memory.cassandra import MemoryCassandra
from tests.support.memory.memberships import MemoryMemberships
from udfs.cassandra.encoding import write_time_us
from udfs.profile.batch import StoredSums, SumsKey
from udfs.profile.rows import ProfileRow
from udfs.scoring.store import ScoredEvent

FlagKey = tuple[str, int, str, str]  # user, time in ms, rule, event ("" for a window)


class _MemorySink:
    """What both sinks have. Tables are dicts by primary key; `write` stores at once."""

    def __init__(self) -> None:
        self.flags: dict[FlagKey, Flag] = {}
        self.snoozes: dict[str, dict[str, int]] = {}
        self.attributes: dict[str, list[Statement]] = {}
        self.closed = False

    def _active_rules(self, user_id: str) -> dict[RowPosition, list[str]]:
        """Of each stored row of the user."""
        raise NotImplementedError

    def past_flags(self, rows: Sequence[tuple[str, RowPosition]]) -> list[PastFlags]:
        return [self._past_flags(*row) for row in rows]

    def _past_flags(self, user_id: str, before: RowPosition) -> PastFlags:
        active_rules = self._active_rules(user_id)
        latest = max((row for row in active_rules if row < before), default=None)
        raised = frozenset(
            (rule_id, RowPosition(time_ms, event_id))
            for user, time_ms, rule_id, event_id in self.flags
            if user == user_id
        )
        return PastFlags(latest, frozenset(active_rules[latest] if latest else ()), raised)

    def statements(self, user_ids: Iterable[str]) -> dict[str, list[Statement]]:
        return {user_id: self.attributes.get(user_id, []) for user_id in user_ids}

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        return {user_id: self.snoozes.get(user_id, {}) for user_id in user_ids}

    @property
    def users(self) -> Self:
        return self

    @property
    def writer(self) -> Self:
        return self

    def flush(self) -> None:
        """Does nothing."""

    def close(self) -> None:
        self.closed = True


class MemoryProfileSink(_MemorySink):
    """A ProfileStore."""

    def __init__(self) -> None:
        super().__init__()
        self.profiles: dict[str, ProfileRow] = {}
        self.deltas: dict[tuple[str, int], ProfileRow] = {}
        self.segments = MemoryMemberships()
        self._ends_ms: dict[str, set[int]] = {}  # of all deltas that were ever written, by user

    def memberships(self, user_ids: Iterable[str]) -> dict[str, Memberships]:
        return self.segments.memberships(user_ids)

    def stored_changes(self, keys: Iterable[ChangeKey]) -> dict[ChangeKey, Membership]:
        return self.segments.stored_changes(keys)

    def _active_rules(self, user_id: str) -> dict[RowPosition, list[str]]:
        return {RowPosition(end_ms): row.active_rules for end_ms, row in self._rows_of(user_id)}

    def _rows_of(self, user_id: str) -> Iterator[tuple[int, ProfileRow]]:
        """The stored windows of a user, by end, without a look at those of all others."""
        for end_ms in self._ends_ms.get(user_id, ()):
            if (row := self.deltas.get((user_id, end_ms))) is not None:
                yield end_ms, row

    def later_sums(self, keys: Sequence[SumsKey]) -> list[StoredSums | None]:
        return [self._later_sums(key) for key in keys]

    def _later_sums(self, key: SumsKey) -> StoredSums | None:
        found = [
            StoredSums(row.window_end_ms, row.later_sums)
            for end_ms, row in self._rows_of(key.user_id)
            if end_ms < key.window_end_ms and row.later_sums is not None
        ]
        return max(found, default=None)

    def write(self, rows: Sequence[ProfileRow]) -> None:
        for row in rows:
            self._upsert(self.profiles, row.user_id, row)
            self._upsert(self.deltas, (row.user_id, row.window_end_ms), row)
            self._ends_ms.setdefault(row.user_id, set()).add(row.window_end_ms)
            for flag in row.flags:
                self.flags[row.user_id, row.window_end_ms, flag.rule_id, flag.event_id] = flag
            for write in row.memberships:
                self.segments.write(write)

    @staticmethod
    def _upsert(table: dict[Any, ProfileRow], key: Any, row: ProfileRow) -> None:
        if key not in table or write_time_us(table[key]) <= write_time_us(row):
            table[key] = row


class MemoryScoringSink(_MemorySink):
    """As CassandraScoringStore."""

    def __init__(self) -> None:
        super().__init__()
        self.scores: dict[tuple[str, int, str], ScoredEvent] = {}
        self.drift_store = CassandraDriftStore(MemoryCassandra(), CassandraSettings(), 3_600)

    def _active_rules(self, user_id: str) -> dict[RowPosition, list[str]]:
        return {
            RowPosition(row.event_ms, row.event_id): row.active_rules
            for row in self.scores.values()
            if row.user_id == user_id
        }

    def write(self, rows: Sequence[ScoredEvent]) -> None:
        for row in rows:
            self.scores[row.user_id, row.event_ms, row.event_id] = row
            for flag in row.flags:
                self.flags[row.user_id, row.event_ms, flag.rule_id, row.event_id] = flag
