"""What the tables of both pipelines contain of users: flags, snoozes, statements."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

from cassandra.cluster import Session
from cassandra.query import BoundStatement

from liveprofile.attributes.statements import Statement
from liveprofile.attributes.table import by_user, select_users_cql
from liveprofile.rules.flags import PastFlags, RowPosition
from liveprofile.settings import CassandraSettings
from udfs.cassandra.batch_writer import bound_statement
from udfs.cassandra.executor import StatementExecutor
from udfs.cassandra.memberships import in_statements

Read = tuple[BoundStatement, Callable[[Sequence[Any]], None]]  # a SELECT; takes its rows


class StoredState:
    """What the tables contain about a user, as far as one of the user's rows needs it."""

    def __init__(self) -> None:
        self.latest: RowPosition | None = None  # before the row
        self.active_rules: frozenset[str] = frozenset()  # of that latest row
        self.raised: list[tuple[str, int, str]] = []  # all flags: rule id, time, event id

    def add_rows(self, rows: Iterable[tuple[int, str, Collection[str] | None]]) -> None:
        """Keeps the latest of the rows: time, event id, active rules."""
        for time_ms, event_id, active_rules in rows:
            position = RowPosition(time_ms, event_id)
            if self.latest is None or position > self.latest:
                self.latest, self.active_rules = position, frozenset(active_rules or ())

    def past_flags(self) -> PastFlags:
        raised = ((rule_id, RowPosition(*position)) for rule_id, *position in self.raised)
        return PastFlags(self.latest, self.active_rules, frozenset(raised))


class CassandraUsers(ABC):
    """Reads what is stored of users.

    flush: stores what was handed to the writer, called before flags are read.
    Raises ServiceError or a driver's error if a table is missing.
    """

    def __init__(self, session: Session, settings: CassandraSettings, flush: Callable[[], None]):
        self._session, self._flush = session, flush
        self._reads = StatementExecutor(session, settings, "read")
        keyspace = settings.keyspace
        self._select_flags = session.prepare(
            "SELECT rule_id, to_unix_timestamp(window_end) AS window_end_ms, event_id"
            f" FROM {keyspace}.risk_flag WHERE user_id = ?"
        )
        self._select_snoozes = session.prepare(
            "SELECT rule_id, to_unix_timestamp(until)"
            f" FROM {keyspace}.risk_snooze WHERE user_id = ?"
        )
        self._select_statements = session.prepare(select_users_cql(keyspace))

    @abstractmethod
    def _latest_reads(
        self, user_id: bytes, before: RowPosition, state: StoredState
    ) -> Iterator[list[Read]]:
        """Yields the reads that pass the user's latest row before `before` to state.add_rows.

        The reads of a list are answered before the next list is asked for.
        """

    def past_flags(self, rows: Sequence[tuple[str, RowPosition]]) -> list[PastFlags]:
        """What the tables contain of each user before a row, and all of the user's flags."""
        self._flush()
        found = [StoredState() for _ in rows]
        self._read_in_steps(
            [self._look_up(*row, state) for row, state in zip(rows, found, strict=True)]
        )
        return [state.past_flags() for state in found]

    def _read_in_steps(self, lookups: list[Iterator[list[Read]]]) -> None:
        """Executes the next reads of all look-ups at once, until none has more."""
        while lookups:
            unfinished = []
            for lookup in lookups:
                reads = next(lookup, None)
                if reads is not None:
                    unfinished.append(lookup)
                    for statement, on_rows in reads:
                        self._reads.submit(statement, on_rows)
            self._reads.drain()
            lookups = unfinished

    def _look_up(
        self, user_id: str, position: RowPosition, state: StoredState
    ) -> Iterator[list[Read]]:
        key = user_id.encode()
        latest_reads = self._latest_reads(key, position, state)
        flags_read = (self._bound(self._select_flags, [key]), state.raised.extend)
        yield [flags_read, *next(latest_reads)]
        yield from latest_reads

    def snoozed(self, user_ids: Iterable[str]) -> dict[str, dict[str, int]]:
        snoozes_of: dict[str, dict[str, int]] = {user_id: {} for user_id in user_ids}
        for user_id, snoozes in snoozes_of.items():
            self._reads.submit(
                self._bound(self._select_snoozes, [user_id.encode()]), snoozes.update
            )
        self._reads.drain()
        return snoozes_of

    def statements(self, user_ids: Iterable[str]) -> dict[str, list[Statement]]:
        """What other systems state about each of these users. Raises StoreError."""
        users = list(user_ids)
        found: dict[str, list[Statement]] = {user_id: [] for user_id in users}
        for statement in in_statements(self._select_statements, users):
            self._reads.submit(statement, lambda rows: found.update(by_user(rows)))
        self._reads.drain()
        return found

    _bound = staticmethod(bound_statement)
