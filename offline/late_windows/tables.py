"""Reads what is stored of users, and stores corrections, in Cassandra.

A correction is written in steps. First stored flags are marked. Then new flags are written by day.
The delta comes last, with profile, look-alike row and new flags, in one mutation. Its revision thus
says that everything of its window is stored: a run that is killed is repeated from there. Write
times are those of the job's rows with a higher revision, so the row of a newer window that the job
stores in the meantime wins, and a replay of the job does not undo a correction.
"""

from collections.abc import Sequence

import orjson
from cassandra.cluster import Session

from liveprofile.rows.profiles import MARKS, PROFILE_DELTA
from liveprofile.settings import CassandraSettings, WindowSettings
from liveprofile.storage.cql import from_ms, read_pages
from offline.erasure.withdrawals import delete_windows
from offline.late_windows.chains import ADDED, Correction, StoredRuleFlag, StoredUser, StoredWindow
from udfs.cassandra import encoding
from udfs.cassandra.batch_writer import Partition, Write, bound_statement
from udfs.cassandra.executor import StatementExecutor
from udfs.profile.store import CassandraProfileStore

_MARK_KEY = ("user_id", "window_end", "rule_id", "event_id")
WINDOW_FLAG = b""  # the event_id of a window's flag


class CassandraCorrectionTables(CassandraProfileStore):
    """What a correction reads and stores. For arguments and errors see CassandraProfileStore."""

    def __init__(
        self, settings: CassandraSettings, embedding_dim: int, session: Session | None = None
    ):
        super().__init__(settings, embedding_dim, session)
        self._first_writes = StatementExecutor(self.session, settings, "write")
        self._opened(lambda: self._prepare(settings))

    def _prepare(self, settings: CassandraSettings) -> None:
        keyspace, prepare = settings.keyspace, self.session.prepare
        self._select_deltas = prepare(
            "SELECT to_unix_timestamp(window_end) AS end_ms, revision, active_rules, delta"
            f" FROM {keyspace}.profile_delta WHERE user_id = ? AND window_end >= ?"
        )
        self._select_end = prepare(
            "SELECT to_unix_timestamp(window_end) AS end_ms, events_total"
            f" FROM {keyspace}.user_profile WHERE user_id = ?"
        )
        self._select_rule_flags = prepare(
            "SELECT rule_id, to_unix_timestamp(window_end) AS end_ms, event_id, rule_version,"
            f" correction FROM {keyspace}.risk_flag WHERE user_id = ?"
        )
        written = set(PROFILE_DELTA.columns) - {"user_id", "window_end", *MARKS}
        self._insert_corrected = self.writer.prepare_insert(
            PROFILE_DELTA, settings.delta_ttl_s, without=written
        )
        # An INSERT would leave a row without a flag if the flag has expired meanwhile.
        ttl_s, where = settings.flag_ttl_s, " AND ".join(f"{name} = ?" for name in _MARK_KEY)
        self._mark_flag = prepare(
            f"UPDATE {keyspace}.risk_flag USING TIMESTAMP ? AND TTL {ttl_s}"
            f" SET corrected_at = ?, correction = ? WHERE {where}"
        )
        self._mark_flag_by_day = prepare(
            f"UPDATE {keyspace}.risk_flag_by_day USING TIMESTAMP ? AND TTL {ttl_s}"
            f" SET corrected_at = ?, correction = ? WHERE {where} AND day = ? AND bucket = ?"
        )
        self._mark_flag.is_idempotent = self._mark_flag_by_day.is_idempotent = True

    def stored(self, user_id: str, since_ms: int) -> StoredUser:
        """What is stored of a user, of windows that end at `since_ms` or later."""
        read = self.session
        windows = {
            row.end_ms: StoredWindow(
                row.end_ms,
                row.revision or 0,
                int(orjson.loads(row.delta)["after"]["events"]),
                frozenset(row.active_rules or ()),
            )
            for row in read_pages(read, self._select_deltas, (user_id, from_ms(since_ms)))
        }
        flags = [
            StoredRuleFlag(row.rule_id, row.end_ms, row.rule_version, row.correction or "")
            for row in read_pages(read, self._select_rule_flags, (user_id,))
            if not row.event_id
        ]
        profiles = list(read_pages(read, self._select_end, (user_id,)))
        profile = (profiles[0].end_ms, profiles[0].events_total) if profiles else None
        return StoredUser(windows, flags, profile)

    def remove_windows(self, user_id: str, until_ms: int, window: WindowSettings) -> int:
        """Deletes the profile of a user and the windows that end by `until_ms`, but no flags.

        Returns the number of rows.
        """
        return delete_windows(self.session, user_id, until_ms, window)

    def correct(self, corrections: Sequence[Correction]) -> None:
        """Stores corrections and waits for them. Raises StoreError."""
        if not corrections:
            return
        for correction in corrections:
            for rule_id, mark in correction.marks.items():
                for write in (
                    self._mark(correction, rule_id, mark),
                    self._mark_by_day(correction, rule_id, mark),
                ):
                    self._first_writes.submit(bound_statement(*write))
        self._first_writes.drain()
        rows = [correction.row for correction in corrections]
        self.writer.send(self.writer.flags_by_day(rows))
        self.writer.flush()
        for correction in corrections:
            for flag in correction.row.flags:
                write = self._mark_by_day(correction, flag.rule_id, ADDED)
                self._first_writes.submit(bound_statement(*write))
        self._first_writes.drain()
        self.writer.send(
            [
                self._with_revision(partition, correction)
                for partition, correction in zip(
                    self.writer.partitions(rows), corrections, strict=True
                )
            ]
        )
        self.writer.flush()

    def _mark(self, correction: Correction, rule_id: str, mark: str) -> Write:
        row = correction.row
        values = [
            encoding.bigint(encoding.write_time_us(row)),
            encoding.bigint(correction.corrected_at_ms),
            mark.encode(),
            row.user_id.encode(),
            encoding.bigint(row.window_end_ms),
            rule_id.encode(),
            WINDOW_FLAG,
        ]
        return self._mark_flag, values

    def _mark_by_day(self, correction: Correction, rule_id: str, mark: str) -> Write:
        row = correction.row
        _, values = self._mark(correction, rule_id, mark)
        day = encoding.day_and_bucket(row.user_id, row.window_end_ms)
        return self._mark_flag_by_day, [*values, *day]

    def _with_revision(self, partition: Partition, correction: Correction) -> Partition:
        row = correction.row
        values = [
            row.user_id.encode(),
            encoding.bigint(row.window_end_ms),
            encoding.integer(correction.revision),
            encoding.bigint(correction.corrected_at_ms),
            correction.reason.encode(),
            encoding.bigint(encoding.write_time_us(row)),
        ]
        marks = [self._mark(correction, flag.rule_id, ADDED) for flag in row.flags]
        writes = [*partition.writes, (self._insert_corrected, values), *marks]
        return Partition(partition.key, writes)
