"""The table user_attribute in memory: cells with write times, and deletes that hide older cells."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from liveprofile.attributes.statements import Statement
from liveprofile.attributes.table import Withdrawal, ttl_s, write_time_us

Key = tuple[str, str, int, bytes]  # user, source, time, digest


class MemoryAttributeTable:
    """Applies writes as Cassandra does: of row and delete, the later timestamp wins.

    now_ms: the clock of the server, which decides when rows expire.
    """

    def __init__(self, keep_expired_s: int = 30 * 86_400, now_ms: int = 0):
        self._keep_expired_s, self.now_ms = keep_expired_s, now_ms
        self._rows: dict[Key, tuple[Statement, int]] = {}  # with the end of its TTL
        self._deletes: list[tuple[str, str, int, int]] = []  # user, source, before, write time

    def write(self, changes: Iterable[Statement | Withdrawal]) -> int:
        count = 0
        for count, change in enumerate(changes, 1):  # noqa: B007
            if isinstance(change, Withdrawal):
                end_ms = 1 << 62
                self._deletes.append((change.user_id, change.source, end_ms, change.write_time_us))
                continue
            key = (change.user_id, change.source, change.time_ms, change.digest)
            ttl_ms = ttl_s(change, self.now_ms, self._keep_expired_s) * 1_000
            self._rows[key] = (change, self.now_ms + ttl_ms)
            older = (change.user_id, change.source, change.time_ms, write_time_us(change) - 1)
            self._deletes.append(older)
        return count

    def read(self, user_ids: Sequence[str]) -> dict[str, list[Statement]]:
        found: dict[str, list[Statement]] = {}
        for key in sorted(self._rows, key=lambda key: (*key[:2], -key[2], key[3])):
            statement, end_ms = self._rows[key]
            if key[0] in user_ids and self.now_ms < end_ms and not self._is_hidden(statement):
                found.setdefault(key[0], []).append(statement)
        return found

    def _is_hidden(self, statement: Statement) -> bool:
        return any(
            (user, source) == (statement.user_id, statement.source)
            and statement.time_ms < before_ms
            and write_time_us(statement) <= deleted_us
            for user, source, before_ms, deleted_us in self._deletes
        )
