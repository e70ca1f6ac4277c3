"""Takes what users have had erased out of what both pipelines read of their past.

Tables and Flink's state are cleared a moment after an erasure, or never: so stored flags and
memberships of before it do not count, and the lists of the scoring pipeline lose the tokens from
before it. udfs/profile/batch.py does the same for windows.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from liveprofile.features.entity import EventLists, TokenLists
from liveprofile.privacy.erasures import ErasureTable, later_flags
from liveprofile.rules.flag_policy import PastFlagsReader
from liveprofile.rules.flags import PastFlags, RowPosition
from liveprofile.segments.membership import ChangeKey, Membership, MembershipReader, Memberships


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
