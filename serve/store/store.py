"""What routes and pages read and do: rows on the event loop, services in threads.

Every method raises ServiceError if Cassandra does not answer. Rows are newest first. `limit`: at
most so many rows. `after`: the position of the last row of the page before.
"""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from datetime import date
from functools import wraps
from operator import attrgetter
from typing import Any, Concatenate, NamedTuple, ParamSpec, TypeVar

from cassandra.cluster import Session

from liveprofile.attributes.statements import Statement
from liveprofile.attributes.table import by_user
from liveprofile.rows.risk import FLAG_BUCKETS, score_hour_ms
from liveprofile.rows.users import SEGMENT_BUCKETS
from liveprofile.settings import CassandraSettings, Settings
from liveprofile.storage.connection import open_session
from liveprofile.storage.cql import from_ms
from liveprofile.storage.erasures import hides, without_erased
from liveprofile.storage.queries import StoredFlag, StoredScore, stored_flag, stored_score
from serve.keys import StoredKey, key_of_row
from serve.problems import unknown_user
from serve.store.link import Link
from serve.store.merged_reads import MergedReads
from serve.store.scans import Scans
from serve.store.statements import (
    END_OF_TIME_MS,
    BucketMember,
    RawDelta,
    RawProfile,
    StoredUserSegment,
)
from services.alerts.case_store import AlertCase, case_of
from services.alerts.flags import FlagWithState, with_states
from services.alerts.snooze import Snooze, read_snoozes

Result = TypeVar("Result")
Row = TypeVar("Row")
More = ParamSpec("More")  # the arguments of a read after the user's id
UserRead = Callable[Concatenate["Store", str, More], Awaitable[list[Row]]]
PageRead = Callable[..., Awaitable[list[Row]]]

# One request reads so many partitions: the coordinator of a large IN has much work.
USERS_PER_READ = 25
# So many reads of one profile run before others wait for them, at most for so long.
PROFILE_READS_AT_ONCE, LONGEST_WAIT_S = 4, 0.02
# A user has a partition of scores for each hour. So many are read for one page, and concurrently.
HOURS_PER_PAGE = 96
HOURS_AT_ONCE = 8
BUCKETS_AT_ONCE = 8
# A request makes a few connections to Kafka in turn; the first transaction of a cluster takes
# seconds. So it notices in time that Kafka does not answer.
KAFKA_TIMEOUT_MS = 4_000


class ScorePage(NamedTuple):
    rows: list[StoredScore]
    position: tuple[int, str] | None  # after the page; None: there is no more


def of_user(time: str) -> Callable[[UserRead[More, Row]], UserRead[More, Row]]:
    """A read of a user's rows, without those that are erased and not deleted yet.

    time: the field of a row that tells of which time it is; "": none is of a later time. Raises
    ApiError (404) if the user is erased and has not come back.
    """

    def guarded(read: UserRead[More, Row]) -> UserRead[More, Row]:
        @wraps(read)
        async def answer(
            self: Store, user_id: str, *args: More.args, **options: More.kwargs
        ) -> list[Row]:
            rows, erased = await asyncio.gather(
                read(self, user_id, *args, **options), self.erased([user_id])
            )
            if not erased:
                return rows
            kept = [row for row in rows if time and getattr(row, time) >= erased[user_id]]
            if not kept and not await self.profiles([user_id], False):
                raise unknown_user()
            return kept

        return answer

    return guarded


def of_all(
    time: str, position: Callable[[Row], tuple[Any, ...]]
) -> Callable[[PageRead[Row]], PageRead[Row]]:
    """A read of a page of rows of many users, as `of_user`; it reads on for rows that it leaves
    out.

    position: of a row, as the read's argument `after`, which comes before `limit`, its last one.
    """

    def guarded(read: PageRead[Row]) -> PageRead[Row]:
        @wraps(read)
        async def answer(self: Store, *args: Any) -> list[Row]:
            *about, after, limit = args
            kept: list[Row] = []
            while True:
                rows = await read(self, *about, after, limit)
                kept += await self.read(without_erased, rows, time)
                if len(rows) < limit or len(kept) >= limit:
                    return kept[:limit]
                after = position(rows[-1])

        return answer

    return guarded


class Store:
    """connect: opens a session for a scan."""

    def __init__(
        self,
        settings: Settings,
        connect: Callable[[CassandraSettings], AbstractContextManager[Session]] = open_session,
    ):
        kafka = settings.kafka.model_copy(update={"request_timeout_ms": KAFKA_TIMEOUT_MS})
        self.settings = settings.model_copy(update={"kafka": kafka})
        self._link = Link(settings.cassandra, settings.serve.deadline_ms)
        self.rows = self._link.rows  # of a statement of statements.py
        self._scans = Scans(settings, connect)
        # It reads the keys of all partitions of a table: one such read serves all who wait.
        self._flag_days = MergedReads(self._read_flag_days, 1, 1, settings.serve.deadline_s)
        self._single_profiles = MergedReads(
            self._profile_rows, PROFILE_READS_AT_ONCE, USERS_PER_READ, LONGEST_WAIT_S
        )

    @classmethod
    def on(cls, session: Session, settings: Settings) -> Store:
        """A store on a session that is there."""
        store = cls(settings, lambda _: nullcontext(session))
        store._link.use(session)
        return store

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Connects in the background for as long as it is open."""
        async with self._link.running():
            try:
                yield
            finally:
                self._scans.stop()

    async def read(self, read: Callable[..., Result], *values: Any) -> Result:
        """Runs a function of liveprofile/ on a session in a thread. Raises what it raises."""
        return await self._link.in_thread(lambda session: read(session, *values))

    async def run(
        self, act: Callable[..., Result], *args: Any, is_write: bool = False, **options: Any
    ) -> Result:
        """Runs a function of services/ in a thread. Raises what it raises.

        A write that takes longer than the deadline of its request may still be done.
        """
        return await self._link.in_thread(
            lambda session: act(session, self.settings, *args, **options), is_write
        )

    async def scan(self, act: Callable[..., Result], *args: Any, **options: Any) -> Result:
        """As `run` for a function that reads all users: one at a time, with a limit.

        It has the argument `watch`. Raises UnavailableError, ScanTooLargeError.
        """
        return await self._scans.run(
            lambda session, limit: act(session, self.settings, *args, watch=limit.watch, **options)
        )

    async def check(self) -> None:
        """Returns if Cassandra answers."""
        await self._link.rows("check")

    async def key(self, key_id: str) -> StoredKey | None:
        rows = await self._link.rows("key", (key_id,))
        # A row without a hash is left of a key that has expired.
        return key_of_row(rows[0]) if rows and rows[0][3] else None

    async def profiles(self, user_ids: Sequence[str], embedding: bool) -> list[RawProfile]:
        """The profiles of those users who have one, in any order."""
        if len(user_ids) == 1 and not embedding:
            row = await self._single_profiles.row(user_ids[0])
            return [] if row is None else [row]
        reads = [
            self._profile_rows(user_ids[start : start + USERS_PER_READ], embedding)
            for start in range(0, len(user_ids), USERS_PER_READ)
        ]
        return [row for rows in await asyncio.gather(*reads) for row in rows.values()]

    async def _profile_rows(
        self, user_ids: Sequence[str], embedding: bool = False
    ) -> dict[str, RawProfile]:
        suffix = "_embedding" if embedding else ""
        if len(user_ids) == 1:
            reads = self._link.rows(f"profile{suffix}", (user_ids[0],))
        else:
            reads = self._link.rows(f"profiles{suffix}", (user_ids,))
        rows, erased = await asyncio.gather(reads, self.erased(user_ids))
        found = (RawProfile(*row) for row in rows)
        return {
            row.user_id: row
            for row in found
            if row.user_id not in erased or row.window_start_ms >= erased[row.user_id]
        }

    async def erased(self, user_ids: Sequence[str]) -> dict[str, int]:
        """The times of erasures that are accepted, and whose rows are not deleted yet, by user."""
        if len(user_ids) == 1:
            rows = await self._link.rows("erasure", (user_ids[0],))
        else:
            rows = await self._link.rows("erasures", (user_ids,))
        return {user_id: before_ms for user_id, before_ms, left in rows if hides(left)}

    async def some_profiles(self, limit: int) -> list[RawProfile]:
        """Of users chosen by the hash of their id: as good as at random, always the same."""
        rows = [RawProfile(*row) for row in await self._link.rows("some_profiles", (limit,))]
        return await self.read(without_erased, rows, "window_start_ms")

    @of_user("window_start_ms")
    async def deltas(self, user_id: str, until_ms: int, limit: int) -> list[RawDelta]:
        """Of windows that end at `until_ms` or earlier."""
        rows = await self._link.rows("deltas", (user_id, until_ms, limit))
        return [RawDelta(*row) for row in rows]

    async def scores(self, user_id: str, after: tuple[int, str] | None, limit: int) -> ScorePage:
        """after: event_time_ms, event_id. There may be fewer than `limit` with more to follow."""
        rows: list[tuple] = []
        until_ms = END_OF_TIME_MS
        if after is not None:
            until_ms = after[0] - 1
            key = (user_id, score_hour_ms(after[0]))
            rows += await self._link.rows("scores_rest", (*key, *after, limit))
        listed = await self._link.rows("score_hours", (user_id, until_ms, HOURS_PER_PAGE))
        hours = [hour_ms for (hour_ms,) in listed]
        for start in range(0, len(hours), HOURS_AT_ONCE):
            if len(rows) >= limit:
                break
            reads = (
                self._link.rows("scores", (user_id, hour_ms, until_ms, limit))
                for hour_ms in hours[start : start + HOURS_AT_ONCE]
            )
            rows += itertools.chain.from_iterable(await asyncio.gather(*reads))
        scores = await self._kept_scores(user_id, [stored_score(row) for row in rows[:limit]])
        if len(scores) >= limit:
            return ScorePage(scores, (scores[-1].event_time_ms, scores[-1].event_id))
        # Every id is greater than the empty one: the next page begins before the last hour.
        more = len(hours) == HOURS_PER_PAGE
        return ScorePage(scores, (hours[-1] - 1, "") if more else None)

    @of_user("event_time_ms")
    async def _kept_scores(self, user_id: str, scores: list[StoredScore]) -> list[StoredScore]:
        return scores

    @of_user("window_start_ms")
    async def flags(
        self, user_id: str, since_ms: int, after: tuple[int, str, str] | None, limit: int
    ) -> list[StoredFlag]:
        """after: window_end_ms, rule_id, event_id."""
        rows: list[tuple] = []
        until_ms = END_OF_TIME_MS
        if after is not None:
            until_ms = after[0] - 1
            rows += await self._link.rows("flags_rest", (user_id, *after, limit))
        if len(rows) < limit:
            rest = (user_id, until_ms, since_ms, limit - len(rows))
            rows += await self._link.rows("flags", rest)
        return [stored_flag(row) for row in rows]

    async def alerts(
        self,
        user_id: str | None,
        since_ms: int,
        after: tuple[int, str, str, str] | None,
        limit: int,
    ) -> list[FlagWithState]:
        """The flags of a user, or of all, with their states. after: as of `all_flags`."""
        if user_id is None:
            flags = await self.all_flags(since_ms, after, limit)
        else:
            own = None if after is None else (after[0], *after[2:])
            flags = await self.flags(user_id, since_ms, own, limit)
        return await self.read(with_states, flags)

    @of_all("window_start_ms", attrgetter("window_end_ms", "user_id", "rule_id", "event_id"))
    async def all_flags(
        self, since_ms: int, after: tuple[int, str, str, str] | None, limit: int
    ) -> list[StoredFlag]:
        """after: window_end_ms, user_id, rule_id, event_id."""
        flags: list[StoredFlag] = []
        until_ms = END_OF_TIME_MS
        if after is not None:
            until_ms = after[0] - 1
            day = from_ms(after[0]).date()
            flags = await self._merged("day_flags_rest", day, after, limit)
        for day in await self._days(from_ms(since_ms).date(), from_ms(until_ms).date()):
            if len(flags) >= limit:
                break
            flags += await self._merged("day_flags", day, (until_ms, since_ms), limit - len(flags))
        return flags

    async def _merged(
        self, statement: str, day: date, values: tuple[int | str, ...], limit: int
    ) -> list[StoredFlag]:
        """The first flags of a day's buckets, in the order of their tables."""
        buckets = await asyncio.gather(
            *(
                self._link.rows(statement, (day, bucket, *values, limit))
                for bucket in range(FLAG_BUCKETS)
            )
        )
        merged = heapq.merge(*(map(stored_flag, rows) for rows in buckets), key=_place)
        return list(itertools.islice(merged, limit))

    async def _days(self, first: date, last: date) -> list[date]:
        """The days that have flags, newest first. They may lie far in the past, and are few."""
        days = await self._flag_days.row("") or ()
        return sorted((day for day in days if first <= day <= last), reverse=True)

    async def _read_flag_days(self, _: Sequence[str]) -> dict[str, set[date]]:
        return {"": {row[0].date() for row in await self.rows("flag_days")}}

    @of_all("since_ms", attrgetter("bucket", "user_id"))
    async def segment_members(
        self, segment: str, after: tuple[int, str] | None, limit: int
    ) -> list[BucketMember]:
        """By bucket and user. after: bucket, user_id."""
        first, after_user = (0, "") if after is None else after
        members: list[BucketMember] = []
        for start in range(first, SEGMENT_BUCKETS, BUCKETS_AT_ONCE):
            if len(members) >= limit:
                break
            buckets = range(start, min(start + BUCKETS_AT_ONCE, SEGMENT_BUCKETS))
            reads = (
                self._link.rows(
                    "segment_members",
                    (segment, bucket, after_user if bucket == first else "", limit),
                )
                for bucket in buckets
            )
            for rows in await asyncio.gather(*reads):
                members += [BucketMember(*row) for row in rows]
        return members[:limit]

    @of_user("")  # none is set while rows of the user are deleted
    async def snoozes(self, user_id: str) -> list[Snooze]:
        return await self.read(read_snoozes, user_id)

    @of_user("since_ms")
    async def user_segments(self, user_id: str) -> list[StoredUserSegment]:
        rows = await self._link.rows("user_segments", (user_id,))
        return [StoredUserSegment(*row) for row in rows]

    @of_user("time_ms")
    async def attributes(self, user_id: str) -> list[Statement]:
        """What other systems state about the user, expired statements included."""
        return by_user(await self._link.rows("user_attributes", (user_id,))).get(user_id, [])

    async def cases(
        self, user_id: str | None, after: tuple[str, str, int] | None, limit: int
    ) -> list[AlertCase]:
        """after: user_id, rule_id, number. Of all users they have no order that means anything."""
        if user_id is None:
            return await self._cases(None, after, limit)
        return await self._cases_of(user_id, after, limit)

    @of_user("first_ms")
    async def _cases_of(self, user_id: str, *page: Any) -> list[AlertCase]:
        return await self._cases(user_id, *page)

    @of_all("first_ms", attrgetter("user_id", "rule_id", "number"))
    async def _cases(
        self, user_id: str | None, after: tuple[str, str, int] | None, limit: int
    ) -> list[AlertCase]:
        if after is None:
            if user_id is None:
                rows = await self._link.rows("cases", (limit,))
            else:
                rows = await self._link.rows("user_cases", (user_id, limit))
            return list(map(case_of, rows))
        of_user, rule_id, _ = after
        found = list(await self._link.rows("cases_of_rule_rest", (*after, limit)))
        if len(found) < limit:
            rest = (of_user, rule_id, limit - len(found))
            found += await self._link.rows("cases_rest", rest)
        if len(found) < limit and user_id is None:
            found += await self._link.rows("cases_after", (of_user, limit - len(found)))
        return list(map(case_of, found))


def _place(flag: StoredFlag) -> tuple[int, str, str, str]:
    return (-flag.window_end_ms, flag.user_id, flag.rule_id, flag.event_id)
