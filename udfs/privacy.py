"""Takes what users do not allow, or have had erased, out of the rows of both pipelines.

Flink's SQL cannot delete one user's state, so the state still holds the past of an erased user when
later events arrive. Here it ends: windows before the erasure are rejected, later windows get the
history and the sums of a user without a past and computed attributes without the tiles that began
before, and the lists of the scoring pipeline lose the tokens from before it.

The sums of the SQL have no limit in time. So the sums since the erasure are added up here, and
stored with each window of such a user: a worker that restarts goes on from them.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import compress
from typing import Any, NamedTuple

import numpy as np

from liveprofile.attributes.computed import tiles_since
from liveprofile.consent.changes import ConsentTable
from liveprofile.features.entity import EventLists, TokenLists
from liveprofile.privacy.erasures import (
    ErasureTable,
    erased_rows,
    first_window_ms,
    later_flags,
)
from liveprofile.rules.flag_policy import PastFlagsReader
from liveprofile.rules.flags import PastFlags, RowPosition
from liveprofile.segments.membership import ChangeKey, Membership, MembershipReader, Memberships
from liveprofile.wire import window_events
from liveprofile.wire.histories import history_since, purchases_since
from liveprofile.wire.output_records import Refused

ERASED, NO_CONSENT = "ERASED", "NO_CONSENT"  # reasons to reject an event
PURPOSE = "profiling"
MAX_USERS = 100_000  # about 500 bytes each

Sums = tuple[float, ...]


class UsableWindows(NamedTuple):
    """Windows of a batch without the events that are erased or not allowed."""

    rows: list[int]  # those with an event that is left, ascending
    events: list[str]  # of each of these rows (liveprofile.wire.window_events)
    refused: list[list[Refused]]  # of each row of the batch, without payloads


def usable_windows(
    user_ids: Sequence[str],
    starts_ms: Sequence[int],
    events: Sequence[str],
    consents: ConsentTable,
    erasures: ErasureTable,
) -> UsableWindows:
    """Refuses windows that begin before their user's erasure, and events by their own time that
    their user did not allow.

    user_ids, starts_ms, events: of each row of the batch.
    """
    result = UsableWindows([], [], [[] for _ in user_ids])
    erased = erased_rows(user_ids, starts_ms, erasures)
    for row, (user_id, kept, gone) in enumerate(zip(user_ids, events, erased, strict=True)):
        # At time 0 a user without changes has the default, which holds at any time.
        if gone or user_id in consents or not consents.allowed(user_id, PURPOSE, 0):
            found = list(window_events.parse(kept))
            usable = [
                not gone and consents.allowed(user_id, PURPOSE, event.time_ms) for event in found
            ]
            kept = window_events.join(compress(found, usable))
            why = (ERASED, "window") if gone else (NO_CONSENT, PURPOSE)
            result.refused[row].extend(
                Refused(*why, event.partition, event.offset, "")
                for event, is_usable in zip(found, usable, strict=True)
                if not is_usable
            )
        if kept:
            result.rows.append(row)
            result.events.append(kept)
    return result


class SumsKey(NamedTuple):
    """Asks for a user's sums after the last window that ends before this one."""

    user_id: str
    window_end_ms: int


class StoredSums(NamedTuple):
    window_end_ms: int
    sums: Sums  # in the order of liveprofile.features.baselines.COLUMNS


class LaterWindows:
    """The windows of users after their erasure, which start from nothing.

    store: a sink of profiles, whose `later_sums` returns the StoredSums of each SumsKey, or None.
    on_restart: called with a user before the first window after an erasure, again after a restart
    of the worker.
    """

    def __init__(self, store: Any, length_ms: int, on_restart: Callable[[str], None]):
        self._store, self._length_ms, self._on_restart = store, length_ms, on_restart
        self._sums: dict[str, StoredSums] = {}
        self._restarted_ms: dict[str, int] = {}  # erasures that `on_restart` has been called for

    def without_past(self, batch: Any, table: ErasureTable) -> tuple[Any, frozenset[str]]:
        """Takes the past out of a batch that `usable_windows` has passed. Raises StoreError.

        batch: a udfs.profile.batch.ProfileBatch. Returns it with the users whose rows are changed.
        """
        user_ids, starts_ms = batch.user_id, batch.window_start_ms.tolist()
        firsts_ms = {
            row: first_window_ms(starts_ms[row], before_ms, self._length_ms)
            for row, user_id in enumerate(user_ids)
            if (before_ms := table.before_ms(user_id)) is not None
        }
        if not firsts_ms:
            return batch, frozenset()
        history, purchases, sums = list(batch.history), list(batch.purchases), batch.sums.copy()
        computed = list(batch.computed)
        self._restart((user_ids[row], first_ms) for row, first_ms in firsts_ms.items())
        self._read_sums(user_ids, starts_ms, firsts_ms)
        for row, first_ms in firsts_ms.items():
            history[row] = history_since(history[row], first_ms)
            purchases[row] = purchases_since(purchases[row], first_ms)
            computed[row] = tiles_since(computed[row], first_ms)
            user_id, total = user_ids[row], batch.added[row]
            known = self._sums.get(user_id)
            if known is not None and known.window_end_ms > first_ms:
                total = total + np.array(known.sums)
            sums[row] = total
            end_ms = starts_ms[row] + self._length_ms
            self._sums[user_id] = StoredSums(end_ms, tuple(total.tolist()))
        changed = batch._replace(history=history, purchases=purchases, sums=sums, computed=computed)
        return changed, frozenset(user_ids[row] for row in firsts_ms)

    def _restart(self, erasures: Iterable[tuple[str, int]]) -> None:
        for user_id, first_ms in erasures:
            if self._restarted_ms.get(user_id) != first_ms:
                if len(self._restarted_ms) >= MAX_USERS:
                    self._restarted_ms.clear()
                self._restarted_ms[user_id] = first_ms
                self._on_restart(user_id)

    def _read_sums(
        self, user_ids: Sequence[str], starts_ms: Sequence[int], firsts_ms: dict[int, int]
    ) -> None:
        """Makes the sums known that the first row of each user goes on from."""
        if len(self._sums) + len(firsts_ms) > MAX_USERS:
            self._sums.clear()
        unknown: dict[str, SumsKey] = {}
        for row in reversed(firsts_ms):
            user_id, end_ms = user_ids[row], starts_ms[row] + self._length_ms
            known = self._sums.get(user_id)
            unknown.pop(user_id, None)
            # A window that is replayed comes before the one whose sums are known.
            if known is None or known.window_end_ms >= end_ms:
                unknown[user_id] = SumsKey(user_id, end_ms)
        if unknown:
            keys = list(unknown.values())
            for key, found in zip(keys, self._store.later_sums(keys), strict=True):
                self._sums.pop(key.user_id, None)
                if found is not None:
                    self._sums[key.user_id] = found


class LaterMemberships:
    """Memberships without those of windows that are erased: a MembershipReader.

    Tables are cleared a moment after the erasure. current: the table in force.
    """

    def __init__(
        self, store: MembershipReader, length_ms: int, current: Callable[[], ErasureTable]
    ):
        self._store, self._length_ms, self._current = store, length_ms, current

    def memberships(self, user_ids: Iterable[str]) -> dict[str, Memberships]:
        found, table = self._store.memberships(user_ids), self._current()
        for user_id, by_segment in found.items():
            before_ms = table.before_ms(user_id)
            if before_ms is not None:
                found[user_id] = {
                    segment: each
                    for segment, each in by_segment.items()
                    if each.window_end_ms >= before_ms + self._length_ms
                }
        return found

    def stored_changes(self, keys: Iterable[ChangeKey]) -> dict[ChangeKey, Membership]:
        return self._store.stored_changes(keys)


class LaterFlags:
    """Past flags without what is erased: tables are cleared a moment after the erasure.

    span_ms: the length of a window; 0 for events. current: the table in force.
    """

    def __init__(self, store: PastFlagsReader, span_ms: int, current: Callable[[], ErasureTable]):
        self._store, self._span_ms, self._current = store, span_ms, current

    def past_flags(self, rows: Sequence[tuple[str, RowPosition]]) -> list[PastFlags]:
        found, table = self._store.past_flags(rows), self._current()
        erased_ms = [table.before_ms(user_id) for user_id, _ in rows]
        return [
            past if before_ms is None else later_flags(past, before_ms + self._span_ms)
            for past, before_ms in zip(found, erased_ms, strict=True)
        ]


def later_lists(lists: EventLists, user_ids: Sequence[str], table: ErasureTable) -> EventLists:
    """The lists of n events without erased tokens. The event's own token, its list's last, stays.

    user_ids: of each event.
    """
    if not len(table):
        return lists
    of_user, of_entity = lists.user_lists, lists.entity_lists
    before_ms = np.array([table.before_ms(user_id) or 0 for user_id in user_ids], np.int64)
    if before_ms.any():
        erased_T = of_user.time_ms < np.repeat(before_ms, np.diff(of_user.starts))
        of_user = _without(of_user, erased_T)
    erased_T = table.erased(of_entity.ids[0], of_entity.time_ms)
    if erased_T.any():
        of_entity = _without(of_entity, erased_T)
    return lists._replace(user_lists=of_user, entity_lists=of_entity)


def _without(lists: TokenLists, erased_T: np.ndarray) -> TokenLists:
    last = lists.starts[1:][np.diff(lists.starts) > 0] - 1
    erased_T[last] = False
    return lists.where(~erased_T)
