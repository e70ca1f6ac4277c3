"""A store of the read API in memory (serve.store.protocol.Store)."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence

import numpy as np

from liveprofile.alerts.cases.case_store import AlertCase
from liveprofile.alerts.cases.flags import FlagWithState, UnknownFlag
from liveprofile.alerts.cases.snooze import Snooze
from liveprofile.alerts.cases.states import (
    TRANSITIONS,
    AlertState,
    StateChange,
    StoredAlertState,
    TransitionError,
)
from liveprofile.attributes.statements import Statement
from liveprofile.errors import ServiceUnavailableError
from liveprofile.labels.feedback import STATE_OF_LABEL
from liveprofile.segments.members import SegmentSize
from liveprofile.storage.queries import SimilarUser, StoredFlag, StoredScore
from liveprofile.trends.counts import Series
from liveprofile.trends.forecast import forecast_next_day
from liveprofile.trends.funnel import Cohort, FunnelStep
from liveprofile.trends.points import Metric, Point
from liveprofile.trends.stored import StoredForecast, StoredFunnel
from serve.keys import NewKey, Role, StoredKey, new_key
from serve.store.protocol import (
    AuditEntry,
    BucketMember,
    FlagFile,
    LabelName,
    RawDelta,
    RawProfile,
    ScorePage,
    StoredUserSegment,
    TrendPoints,
)
from tests.support.memory.api_campaigns import MemoryCampaigns
from tests.support.memory.api_definitions import MemoryDefinitions
from tests.support.memory.api_operations import MemoryOperations
from tests.support.memory.api_privacy import MemoryPrivacy

NOW_MS = 1_511_658_300_000  # 2017-11-26 01:05:00 UTC
MINUTE_MS = 60_000
DAY_S = 86_400


class MemoryApiStore(MemoryDefinitions, MemoryCampaigns, MemoryPrivacy, MemoryOperations):
    """Holds what a test puts into its attributes. `fail`: raised by every method if set.

    `delay_s`: how long every read takes.
    """

    def __init__(self) -> None:
        MemoryDefinitions.__init__(self)
        MemoryCampaigns.__init__(self)
        MemoryPrivacy.__init__(self)
        MemoryOperations.__init__(self)
        self.keys: dict[str, StoredKey] = {}
        self.profile_rows: dict[str, RawProfile] = {}
        self.delta_rows: list[RawDelta] = []
        self.score_rows: list[StoredScore] = []
        self.flag_rows: list[StoredFlag] = []
        self.case_rows: list[AlertCase] = []
        self.trend_points: dict[tuple[Series, str, Metric], list[Point]] = {}
        self.hourly_values: dict[Series, np.ndarray] = {}  # (days, 24)
        self.member_rows: dict[str, list[BucketMember]] = {}
        self.statement_rows: dict[str, list[Statement]] = {}
        self.states: dict[str, list[StoredAlertState]] = {}
        self.snoozed: dict[tuple[str, str], Snooze] = {}
        self.key_reads = 0
        self.fail: Exception | None = None
        self.delay_s = 0.0

    def add_key(self, role: Role, name: str = "anna") -> NewKey:
        made = new_key(name, role, "test", NOW_MS, DAY_S)
        self.keys[made.stored.key_id] = made.stored
        return made

    async def _answer(self) -> None:
        if self.delay_s:
            await asyncio.sleep(self.delay_s)
        if self.fail is not None:
            raise self.fail

    def stop_answering(self) -> None:
        self.fail = ServiceUnavailableError("Cassandra: no node answers")

    async def check(self) -> None:
        await self._answer()

    async def key(self, key_id: str) -> StoredKey | None:
        self.key_reads += 1
        await self._answer()
        return self.keys.get(key_id)

    async def profiles(self, user_ids: Sequence[str], embedding: bool) -> list[RawProfile]:
        await self._answer()
        rows = [self.profile_rows[each] for each in user_ids if each in self.profile_rows]
        return rows if embedding else [row._replace(embedding=None) for row in rows]

    async def some_profiles(self, limit: int) -> list[RawProfile]:
        await self._answer()
        return [row._replace(embedding=None) for row in self.profile_rows.values()][:limit]

    async def deltas(self, user_id: str, until_ms: int, limit: int) -> list[RawDelta]:
        await self._answer()
        rows = [
            row
            for row in self.delta_rows
            if row.user_id == user_id and row.window_end_ms <= until_ms
        ]
        return sorted(rows, key=lambda row: -row.window_end_ms)[:limit]

    async def scores(self, user_id: str, after: tuple[int, str] | None, limit: int) -> ScorePage:
        await self._answer()
        rows = sorted(
            (row for row in self.score_rows if row.user_id == user_id),
            key=lambda row: (-row.event_time_ms, row.event_id),
        )
        if after is not None:
            place = (-after[0], after[1])
            rows = [row for row in rows if (-row.event_time_ms, row.event_id) > place]
        page = rows[:limit]
        full = len(page) >= limit
        return ScorePage(page, (page[-1].event_time_ms, page[-1].event_id) if full else None)

    async def flags(
        self, user_id: str, since_ms: int, after: tuple[int, str, str] | None, limit: int
    ) -> list[StoredFlag]:
        position = None if after is None else (after[0], user_id, *after[1:])
        rows = await self.all_flags(since_ms, position, len(self.flag_rows) or 1)
        return [row for row in rows if row.user_id == user_id][:limit]

    async def all_flags(
        self, since_ms: int, after: tuple[int, str, str, str] | None, limit: int
    ) -> list[StoredFlag]:
        await self._answer()

        def place(row: StoredFlag) -> tuple[int, str, str, str]:
            return (-row.window_end_ms, row.user_id, row.rule_id, row.event_id)

        rows = sorted((row for row in self.flag_rows if row.window_end_ms >= since_ms), key=place)
        if after is not None:
            rows = [row for row in rows if place(row) > (-after[0], *after[1:])]
        return rows[:limit]

    async def with_states(self, flags: Sequence[StoredFlag]) -> list[FlagWithState]:
        await self._answer()
        return [FlagWithState(flag, self._state(flag.flag_id)) for flag in flags]

    def _state(self, flag_id: str) -> StoredAlertState:
        states = self.states.get(flag_id)
        return states[-1] if states else StoredAlertState(AlertState.OPEN)

    async def similar(self, user_id: str, k: int, segment: str | None) -> list[SimilarUser] | None:
        await self._answer()
        if user_id not in self.profile_rows:
            return None
        users = [
            SimilarUser(row.user_id, 0.5, sorted(row.segments or ()), row.window_end_ms)
            for row in self.profile_rows.values()
            if row.user_id != user_id and (segment is None or segment in (row.segments or ()))
        ]
        return users[:k]

    def _flag(self, flag_id: str) -> StoredFlag:
        for flag in self.flag_rows:
            if flag.flag_id == flag_id:
                return flag
        raise UnknownFlag(f"no flag {flag_id!r}")

    async def flag_file(self, flag_id: str) -> FlagFile:
        await self._answer()
        flag = self._flag(flag_id)
        states = [StoredAlertState(AlertState.OPEN), *self.states.get(flag_id, [])]
        history = [
            StateChange(after.updated_at_ms or 0, after.by, before.state, after.state, after.note)
            for before, after in itertools.pairwise(states)
        ]
        cases = [case for case in self.case_rows if flag_id in case.alerts]
        return FlagFile(
            flag, states[-1], history[::-1], list(await self.snoozes(flag.user_id)), cases
        )

    async def segment_members(
        self, segment: str, after: tuple[int, str] | None, limit: int
    ) -> list[BucketMember]:
        await self._answer()
        rows = sorted(self.member_rows.get(segment, []))
        return [row for row in rows if after is None or row[:2] > after][:limit]

    async def segment_sizes(self, segment: str, limit: int) -> list[SegmentSize]:
        await self._answer()
        size = len(self.member_rows.get(segment, []))
        return [SegmentSize(NOW_MS, size, len(self.profile_rows), {"new": 1})][:limit]

    async def user_segments(self, user_id: str) -> list[StoredUserSegment]:
        await self._answer()
        return [
            StoredUserSegment(segment, True, row.since_ms, 1, '{"cause":"window"}')
            for segment, rows in self.member_rows.items()
            for row in rows
            if row.user_id == user_id
        ]

    async def attributes(self, user_id: str) -> list[Statement]:
        await self._answer()
        return self.statement_rows.get(user_id, [])

    async def trend(
        self, series: Series, span: str, metric: Metric, count: int
    ) -> TrendPoints | None:
        await self._answer()
        points = self.trend_points.get((series, span, metric))
        return None if points is None else TrendPoints(NOW_MS, points[-count:])

    async def forecast(self, series: Series, metric: Metric) -> StoredForecast | None:
        await self._answer()
        values = self.hourly_values.get(series)
        if values is None:
            return None
        return StoredForecast(NOW_MS, len(values), forecast_next_day(values))

    async def funnel(
        self, steps: Sequence[str], within_ms: int, last_ms: int, by: str
    ) -> StoredFunnel:
        await self._answer()
        group = [FunnelStep(name, 4 - n, None, None, None) for n, name in enumerate(steps)]
        since_ms = NOW_MS - last_ms
        return StoredFunnel(
            since_ms, NOW_MS - within_ms, within_ms, {"all": group, f"{by} x": group}
        )

    async def retention(self, event_type: str | None) -> list[Cohort]:
        await self._answer()
        return [Cohort(NOW_MS, 5, [5, 3])] if event_type is None else []

    async def cases(
        self, user_id: str | None, after: tuple[str, str, int] | None, limit: int
    ) -> list[AlertCase]:
        await self._answer()

        def place(case: AlertCase) -> tuple[str, str, int]:
            return (case.user_id, case.rule_id, -case.number)

        rows = sorted(
            (case for case in self.case_rows if user_id in (None, case.user_id)), key=place
        )
        if after is not None:
            rows = [case for case in rows if place(case) > (after[0], after[1], -after[2])]
        return rows[:limit]

    async def snoozes(self, user_id: str) -> list[Snooze]:
        await self._answer()
        return [snooze for (user, _), snooze in self.snoozed.items() if user == user_id]

    async def set_state(
        self, flag_id: str, state: AlertState, by: str, note: str, audit: AuditEntry
    ) -> StoredAlertState:
        await self._answer()
        self._flag(flag_id)
        before = self._state(flag_id)
        if before.state is state and before.by == by:
            return before
        if state not in TRANSITIONS[before.state]:
            self.audit.append(audit._replace(outcome="refused"))
            raise TransitionError(f"flag {flag_id} is {before.state}: it cannot become {state}")
        after = StoredAlertState(state, by, NOW_MS, note)
        self.states.setdefault(flag_id, []).append(after)
        self.audit.append(
            audit._replace(before=before._asdict(), after=after._asdict(), outcome="done")
        )
        return after

    async def label(
        self, flag_id: str, label: LabelName, by: str, note: str, audit: AuditEntry
    ) -> tuple[StoredAlertState, int]:
        stored = await self.set_state(flag_id, STATE_OF_LABEL[label], by, note, audit)
        return stored, 1 if self._flag(flag_id).event_id else 0

    async def snooze(
        self, user_id: str, rule_id: str, until_ms: int, by: str, note: str, audit: AuditEntry
    ) -> Snooze:
        await self._answer()
        stored = self.snoozed[user_id, rule_id] = Snooze(rule_id, until_ms, by, note)
        self.audit.append(audit._replace(after=stored._asdict(), outcome="done"))
        return stored

    async def end_snooze(self, user_id: str, rule_id: str, audit: AuditEntry) -> None:
        await self._answer()
        self.snoozed.pop((user_id, rule_id), None)
        self.audit.append(audit._replace(outcome="done"))

    async def audit_trail(self, day_ms: int, limit: int) -> list[AuditEntry]:
        await self._answer()
        return self.audit[::-1][:limit]
